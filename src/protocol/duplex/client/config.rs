//! How a client is made.

use crate::protocol::reader::BufferConfig;

/// How a client is made. The default has 4096 bytes for metadata and 32 MiB for answers. (The
/// other implementations take 256 MiB; all of it is reserved in `/dev/shm` here, which has 64 MB
/// in Docker.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DuplexClientConfig {
    /// The buffer of the answers.
    pub response: BufferConfig,
    /// How many requests may be without an answer at once (default: 1024).
    pub in_flight: usize,
    /// Whether the server may give a request back before it has answered it, as a pipeline does
    /// that works for others (default: no). The duplex servers of all implementations keep the
    /// request until then, so that one that is given back without an answer will never have any.
    pub answers_after_release: bool,
}

impl Default for DuplexClientConfig {
    fn default() -> Self {
        Self::new(4096, 32 << 20)
    }
}

impl DuplexClientConfig {
    /// These sizes of the buffer of the answers, in bytes.
    pub fn new(metadata_size: u64, payload_size: u64) -> Self {
        DuplexClientConfig {
            response: BufferConfig::new(metadata_size, payload_size),
            in_flight: 1024,
            answers_after_release: false,
        }
    }

    /// Other permissions, such as 0o666 for servers of any user.
    pub fn with_permissions(self, permissions: u32) -> Self {
        DuplexClientConfig {
            response: self.response.with_permissions(permissions),
            ..self
        }
    }

    /// Another number of requests that may be without an answer at once; at least 1.
    pub fn with_in_flight(self, in_flight: usize) -> Self {
        DuplexClientConfig { in_flight, ..self }
    }

    /// The server may give a request back before it has answered it.
    pub fn with_answers_after_release(self) -> Self {
        DuplexClientConfig {
            answers_after_release: true,
            ..self
        }
    }
}
