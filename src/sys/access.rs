//! Who may use a file.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, fchown};

use nix::unistd::Group;

/// Mode and group of a file that is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Permissions, whatever the umask.
    pub mode: u32,
    /// Its group, if not that of the process (or of the folder).
    pub group: Option<u32>,
}

impl Access {
    /// The group of the process.
    pub fn mode(mode: u32) -> Self {
        Access { mode, group: None }
    }

    /// Gives it to a file that nobody else can open yet.
    ///
    /// # Errors
    /// `EPERM` if this user may not give files to the group: only a member may, or root.
    pub fn give(self, file: &File) -> io::Result<()> {
        // Before the mode, which is for this group.
        if let Some(group) = self.group {
            fchown(file, None, Some(group))?;
        }
        file.set_permissions(Permissions::from_mode(self.mode))
    }
}

/// The number of a group, by its name or as it is; `None` if there is none of this name.
pub fn group_id(group: &str) -> Option<u32> {
    // -1 would leave the group as it is.
    match group.parse() {
        Ok(number) => (number != u32::MAX).then_some(number),
        Err(_) => Some(Group::from_name(group).ok()??.gid.as_raw()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_group_is_known_by_name_or_number() {
        assert_eq!(group_id("root"), Some(0));
        assert_eq!(group_id("65534"), Some(65534));
        for bad in [
            "",
            "no-such-group-here",
            "-1",
            "4294967295",
            "4294967296",
            "ro\0ot",
        ] {
            assert_eq!(group_id(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn mode_and_group_are_those_asked_for() {
        let file = tempfile::tempfile().unwrap();
        let group = file.metadata().unwrap().gid();
        let access = Access {
            mode: 0o640,
            group: Some(group),
        };
        access.give(&file).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.gid()), (0o640, group));
    }
}
