//! Who may attach to a buffer: another user exactly when mode and group let him; and a lock folder
//! in which somebody has set traps.

mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use gst::prelude::*;
use gstreamer as gst;
use gstzerobuffer::{BufferConfig, Error, Reader, Wait, Writer};
use support::{LONG, Name, Nobody, Running, again, is_root, listen, role, say, unshare, within};
use support_gst::Pipeline;

/// A group that root is not in by itself, and that of [`Nobody`].
const GROUP: u32 = Nobody::UID;

fn config(mode: u32, group: Option<&str>) -> BufferConfig {
    let config = BufferConfig::new(1024, 4096).with_permissions(mode);
    group
        .map_or(Ok(config), |group| config.with_group(group))
        .unwrap()
}

#[test]
fn another_user_attaches_exactly_when_mode_and_group_let_him() {
    const TEST: &str = "another_user_attaches_exactly_when_mode_and_group_let_him";
    if let Some(name) = role() {
        match Writer::attach(&name) {
            Ok(writer) => {
                writer.set_metadata(b"from another").unwrap();
                writer.write_frame(b"user").unwrap();
                say("attached");
            }
            Err(err @ Error::Permission { .. }) => say(&format!("refused: {err}")),
            Err(err) => panic!("{err}"),
        }
        return;
    }
    assert!(is_root(), "only root can be two users");
    let nobody = Nobody::new();
    let own = nix::unistd::getegid().as_raw();
    let group = GROUP.to_string();
    for (mode, as_group, lets_in) in [
        (0o600, None, false),
        (0o660, None, false),
        (0o606, None, true),
        (0o666, None, true),
        (0o600, Some(&*group), false),
        (0o640, Some(&*group), false),
        (0o660, Some(&*group), true),
        (0o664, None, false),
    ] {
        let name = Name::new("perms");
        let reader = Reader::create(&name, &config(mode, as_group)).unwrap();
        let due = (mode, as_group.map_or(own, |_| GROUP));
        let objects = name.objects();
        assert_eq!(objects.len(), 4, "{objects:?}");
        for path in objects {
            let meta = fs::metadata(&path).unwrap();
            assert_eq!(
                (meta.mode() & 0o7777, meta.gid()),
                due,
                "{}",
                path.display()
            );
        }
        let mut child = Running::start(&mut nobody.again(TEST, &name));
        let said = child.hear();
        child.wait().expect_success();
        if lets_in {
            assert_eq!(said, "attached", "{mode:o} {as_group:?}");
            assert_eq!(*reader.read_frame(LONG).unwrap(), *b"user");
            assert_eq!(reader.metadata().unwrap().unwrap(), b"from another");
        } else {
            let says = [
                "refused",
                "uid 0",
                "perms=0660 and a group",
                &format!("mode {mode:04o}"),
            ];
            for part in says {
                assert!(said.contains(part), "'{part}' is not in: {said}");
            }
            // One that may read only has not disturbed it.
            assert!(!reader.is_writer_connected());
        }
    }
}

#[test]
fn a_group_that_is_not_there_or_not_ours_is_refused_and_leaves_nothing() {
    const TEST: &str = "a_group_that_is_not_there_or_not_ours_is_refused_and_leaves_nothing";
    if let Some(name) = role() {
        let other = Reader::create(&name, &config(0o660, Some("0")))
            .unwrap_err()
            .to_string();
        say(&other);
        return;
    }
    let unknown = BufferConfig::default().with_group("no-such-group-here");
    let text = unknown.unwrap_err().to_string();
    assert!(
        text.contains("there is no group 'no-such-group-here'"),
        "{text}"
    );

    let name = Name::new("perms-group");
    let nobody = Nobody::new();
    let mut child = Running::start(&mut nobody.again(TEST, &name));
    let text = child.hear();
    assert!(text.contains("may not give files to the group 0"), "{text}");
    child.wait().expect_success();
    name.assert_nothing_left();
}

#[test]
fn the_element_has_them_as_properties() {
    assert!(is_root(), "only root can give files to any group");
    let name = Name::new("perms-element");
    let source = |group: &str| {
        format!(
            "zerobuffersrc buffer-name={} perms=0660 group={group} ! fakesink",
            &*name
        )
    };
    let pipeline = Pipeline::new(&source(&GROUP.to_string()));
    pipeline.set_state(gst::State::Paused);
    for path in name.objects() {
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.gid()), (0o660, GROUP));
    }
    drop(pipeline);
    let pipeline = Pipeline::new(&source("no-such-group-here"));
    let _ = pipeline.pipeline.set_state(gst::State::Paused);
    let text = pipeline.error();
    assert!(
        text.contains("there is no group 'no-such-group-here'"),
        "{text}"
    );
}

#[test]
fn a_lock_file_that_another_user_left_is_taken_over_in_the_sticky_folder() {
    const TEST: &str = "a_lock_file_that_another_user_left_is_taken_over_in_the_sticky_folder";
    if let Some(name) = role() {
        let _reader = Reader::create(&name, &config(0o666, None)).unwrap();
        say("made");
        listen();
        return;
    }
    // With fs.protected_regular=1 or 2 nobody, not even root, may open it with O_CREAT.
    let name = Name::new("perms-sticky");
    let nobody = Nobody::new();
    let mut child = Running::start(&mut nobody.again(TEST, &name));
    assert_eq!(child.hear(), "made");
    child.kill();
    let left = fs::metadata(name.lock_file()).unwrap();
    assert_eq!(left.uid(), Nobody::UID);
    let folder = fs::metadata(name.lock_file().parent().unwrap()).unwrap();
    assert_eq!(folder.mode() & 0o7777, 0o1777);
    let reader = Reader::create(&name, &config(0o600, None)).unwrap();
    assert!(reader.lock_problem().is_none());
}

#[test]
fn traps_in_the_lock_folder_catch_nobody() {
    const TEST: &str = "traps_in_the_lock_folder_catch_nobody";
    if let Some(role) = role() {
        let (trap, name) = role.split_once(' ').unwrap();
        // In a mount namespace of its own.
        let folder = Path::new("/tmp/zerobuffer");
        let precious = Path::new("/tmp/precious");
        fs::create_dir(precious).unwrap();
        fs::write(precious.join("file"), "precious").unwrap();
        let lock = folder.join(format!("{name}.lock"));
        match trap {
            "folder" => symlink(precious, folder).unwrap(),
            "file" => {
                fs::create_dir(folder).unwrap();
                symlink(precious.join("file"), lock).unwrap();
            }
            "nowhere" => {
                fs::create_dir(folder).unwrap();
                symlink(precious.join("new"), lock).unwrap();
            }
            "pipe" => {
                fs::create_dir(folder).unwrap();
                nix::unistd::mkfifo(&lock, nix::sys::stat::Mode::S_IRWXU).unwrap();
            }
            "directory" => fs::create_dir_all(lock).unwrap(),
            _ => fs::write(folder, "no folder").unwrap(),
        }
        // It works all the same, and says so.
        let reader = Reader::create(name, &config(0o666, None)).unwrap();
        // (A pipe can be locked like a file.)
        assert_eq!(reader.lock_problem().is_some(), trap != "pipe", "{trap}");
        let writer = Writer::attach(name).unwrap();
        writer.write_frame(b"a frame").unwrap();
        assert_eq!(*reader.read_frame(Wait::no()).unwrap(), *b"a frame");
        let second = Reader::create(name, &config(0o666, None));
        assert!(
            matches!(second, Err(Error::ReaderAlreadyConnected { .. })),
            "{second:?}"
        );
        drop((writer, reader));
        let files: Vec<_> = fs::read_dir(precious)
            .unwrap()
            .map(|it| it.unwrap().path())
            .collect();
        assert_eq!(files, [precious.join("file")]);
        assert_eq!(fs::read(precious.join("file")).unwrap(), b"precious");
        let mode = fs::metadata(precious).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "nor is its mode another");
        return;
    }
    for trap in [
        "folder",
        "file",
        "nowhere",
        "pipe",
        "directory",
        "no-folder",
    ] {
        let name = Name::new("perms-trap");
        // The test program may be in the folder that is covered: it is opened before.
        const COVERED: &str = "umask 022; exec 9<\"$1\"; shift; mount -t tmpfs none /tmp && \
                               exec /proc/self/fd/9 \"$@\"";
        let command = again(TEST, &format!("{trap} {}", &*name));
        let inner = within(&["sh", "-c", COVERED, "sh"], &command);
        let child = Running::start(&mut within(&unshare(&["--mount"]), &inner));
        child.wait().expect_success();
    }
}
