//! How a buffer is made.

use crate::protocol::error::{Error, Result};
use crate::protocol::layout::Sizes;
use crate::sys::access::{Access, group_id};

/// How a buffer is made. The default is that of the other implementations: 1024 bytes for
/// metadata, 1 MiB for frames; permissions 0600.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferConfig {
    /// Bytes for metadata, 8 of them for its length; rounded up to a multiple of 64.
    pub metadata_size: u64,
    /// Bytes for frames, 16 a frame for its header; rounded up to a multiple of 64.
    pub payload_size: u64,
    /// Permissions of the shared objects, applied whatever the umask.
    pub permissions: u32,
    /// Group of the shared objects, by its number; `None` for that of the process.
    pub group: Option<u32>,
    /// Whether the writer may ask for another size: then the reader answers
    /// [`Item::Resize`](super::Item::Resize) with [`Reader::replace`](super::Reader::replace) or
    /// [`Reader::keep_size`](super::Reader::keep_size).
    pub resizes: bool,
}

impl Default for BufferConfig {
    fn default() -> Self {
        Self::new(1024, 1024 * 1024)
    }
}

impl BufferConfig {
    /// These sizes, in bytes, and permissions 0600.
    pub fn new(metadata_size: u64, payload_size: u64) -> Self {
        BufferConfig {
            metadata_size,
            payload_size,
            permissions: 0o600,
            group: None,
            resizes: false,
        }
    }

    /// With a promise to the writer that the buffer is made anew when it asks for another size.
    pub fn with_resizing(self) -> Self {
        BufferConfig {
            resizes: true,
            ..self
        }
    }

    /// Other permissions, such as 0o666 for writers of any user.
    pub fn with_permissions(self, permissions: u32) -> Self {
        BufferConfig {
            permissions,
            ..self
        }
    }

    /// Another group, by its name or number: with permissions 0o660, for writers of that group.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if there is no such group. That this user may not give files to it
    /// is known when the buffer is made.
    pub fn with_group(self, group: &str) -> Result<Self> {
        let id = group_id(group).ok_or_else(|| Error::InvalidConfig {
            why: format!("there is no group '{group}'"),
        })?;
        Ok(BufferConfig {
            group: Some(id),
            ..self
        })
    }

    pub(in crate::protocol) fn access(&self) -> Access {
        Access {
            mode: self.permissions,
            group: self.group,
        }
    }

    pub(super) fn sizes(&self) -> Result<Sizes> {
        let invalid = |why: &str| Error::InvalidConfig { why: why.into() };
        if self.metadata_size == 0 {
            return Err(invalid("the metadata size must be at least 1"));
        }
        if self.payload_size == 0 {
            return Err(invalid("the payload size must be at least 1"));
        }
        if self.permissions & !0o777 != 0 || self.permissions & 0o600 != 0o600 {
            return Err(invalid(
                "the permissions must be 0600 to 0777 with reading and writing for the owner",
            ));
        }
        Sizes::rounded(self.metadata_size, self.payload_size)
            .ok_or_else(|| invalid("the sizes are larger than any address space"))
    }
}
