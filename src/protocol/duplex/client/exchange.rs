//! What a client sends and gets: requests and answers.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::Shared;
use crate::protocol::error::Result;
use crate::protocol::reader::Frame;
use crate::protocol::writer::Reservation;

/// Room for one request, lent by [`DuplexClient::reserve`](super::DuplexClient::reserve) or
/// [`DuplexClient::reserve_ahead`](super::DuplexClient::reserve_ahead). Dropping it leaves no trace.
#[derive(Debug)]
#[must_use = "a request that is not committed is not sent"]
pub struct Request {
    pub(super) reservation: Reservation,
    pub(super) shared: Arc<Shared>,
}

impl Request {
    /// Sends the request and returns its number.
    ///
    /// # Errors
    /// As [`Reservation::commit`]; [`Error::Closed`](crate::Error::Closed) also when the client has
    /// connected to another server meanwhile; [`Error::OutOfStep`](crate::Error::OutOfStep) when an
    /// answer is there that nobody asked for.
    pub fn commit(mut self) -> Result<u64> {
        self.publish()
    }

    /// As [`Request::commit`]; if it was lent ahead it keeps the room ([`Reservation::publish`]).
    ///
    /// # Errors
    /// As [`Request::commit`].
    pub fn publish(&mut self) -> Result<u64> {
        self.shared.publish(&mut self.reservation)
    }
}

impl Deref for Request {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.reservation
    }
}

impl DerefMut for Request {
    /// Nothing once it is sent: the server looks at the bytes.
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.reservation
    }
}

impl AsMut<[u8]> for Request {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// An answer in the ring, lent until it is dropped, like any [`Frame`].
#[derive(Debug)]
pub struct Response {
    pub(super) frame: Frame,
    pub(super) request: u64,
}

impl Response {
    /// The number of the request that it belongs to.
    pub fn request(&self) -> u64 {
        self.request
    }

    /// The frame of the ring that it is.
    pub fn into_frame(self) -> Frame {
        self.frame
    }
}

impl Deref for Response {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.frame
    }
}

impl AsRef<[u8]> for Response {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
