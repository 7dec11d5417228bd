//! Requests and answers between two processes: a duplex channel NAME is the buffer `NAME_request`,
//! which the server makes and reads, and the buffer `NAME_response`, which the client makes and
//! reads. Binary compatible with the duplex channels of the implementations in C++, C# and Python.
//!
//! ```
//! use gstzerobuffer::duplex::{DuplexClient, DuplexClientConfig, DuplexServer, DuplexServerConfig};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), gstzerobuffer::Error> {
//! # let name = &gstzerobuffer::testing::unique_name("doc-duplex");
//! // Usually in another process:
//! let server = DuplexServer::builder(name, DuplexServerConfig::default())
//!     .on_error(|err| eprintln!("{err}"))
//!     .start(|request, reply| {
//!         // Room in the ring of answers, to be filled in place.
//!         let mut answer = reply.reserve(request.len() as u64)?;
//!         for (out, byte) in answer.iter_mut().zip(&request[..]) {
//!             *out = byte.to_ascii_uppercase();
//!         }
//!         Ok(answer)
//!     })?;
//!
//! let client = DuplexClient::create(name, DuplexClientConfig::new(4096, 1 << 20))?;
//! client.connect(Duration::from_secs(5))?;
//! let first = client.send(b"copied in")?;
//! let mut request = client.reserve(9, Duration::from_secs(1))?;
//! request.copy_from_slice(b"or filled");
//! let second = request.commit()?;
//! for (number, text) in [(first, "COPIED IN"), (second, "OR FILLED")] {
//!     let answer = client.receive(Duration::from_secs(5))?;
//!     assert_eq!(answer.request(), number);
//!     assert_eq!(&answer[..], text.as_bytes());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! **Nothing on the wire ties an answer to its request**: the n-th answer is taken for that of the
//! n-th request. Our server answers in the order of the requests, whatever the number of its
//! threads; a request whose handler fails stays without an answer. Our client notices when requests
//! and answers do not match, and says so ([`Error::OutOfStep`](super::Error::OutOfStep)) before it
//! goes on; see [`DuplexClient`].

use std::hash::{BuildHasher, Hasher, RandomState};

mod client;
mod server;
mod session;
mod step;

pub use client::{DuplexClient, DuplexClientConfig, Request, Response};
pub use server::{
    DuplexServer, DuplexServerBuilder, DuplexServerConfig, DuplexServerStats, Processing,
};
pub use session::{Answer, HandlerError, Reply};

/// The buffers of a channel: that of the requests, that of the answers.
pub(crate) fn buffer_names(channel: &str) -> [String; 2] {
    ["request", "response"].map(|end| format!("{channel}_{end}"))
}

/// A number that no other connection has. A server may answer the requests of a client that has gone
/// when the next one is there already; by this the next one knows that they are not its own.
pub(crate) fn new_connection() -> u64 {
    // Different with each call, and in each process.
    RandomState::new().build_hasher().finish()
}
