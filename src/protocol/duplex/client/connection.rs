//! A client and one server: to which request an answer belongs, as far as can be known.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::DuplexClientConfig;
use crate::protocol::duplex::step::{Doubt, Odd, Step};
use crate::protocol::error::{Error, Result};
use crate::protocol::reader::{Frame, Reader};
use crate::protocol::wait::Wait;
use crate::protocol::writer::Writer;

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) writer: Arc<Writer>,
    pub(super) reader: Arc<Reader>,
    pub(super) step: Step,
    /// Answers are thrown away until the server has done with all requests.
    pub(super) lost: bool,
    /// Nothing puts this connection in step again.
    pub(super) over: Option<Doubt>,
    /// Its server is gone, or breaks the protocol.
    pub(super) ended: bool,
    /// What was last said to be in doubt.
    pub(super) told: Option<Doubt>,
    /// The server names the request that it answers.
    pub(super) named: bool,
    /// The number of the connection: a server may have requests of a client that has gone.
    pub(super) number: u64,
}

/// What an answer is.
pub(super) enum Taken {
    /// That to this request.
    Answer(u64),
    /// The same, and those that it passed over will get none.
    AnswerBehind(Doubt, u64),
    Nobodys,
}

impl Connection {
    /// Bytes of the requests that the server has not given back. What it answered before it gave a
    /// request back is to be read after this.
    pub(super) fn used(&self) -> u64 {
        let used = self.writer.used_bytes();
        // Acquire, with the Release in `handoff::give_back`: the post of that answer came before.
        fence(Ordering::Acquire);
        used
    }

    /// To which request an answer belongs.
    pub(super) fn take(&mut self, frame: &Frame, config: &DuplexClientConfig) -> Taken {
        let sequence = frame.sequence();
        let connection = frame.records().answer_connection();
        if connection.is_some_and(|connection| connection != self.number) {
            // It was left by a client before us.
            self.step.discard(sequence);
            return Taken::Nobodys;
        }
        if let Some(request) = frame.records().answer() {
            self.named = true;
            self.lost = false;
            match self.step.answer_to(sequence, request) {
                Ok(None) => return Taken::Answer(request),
                Ok(Some(without)) => {
                    self.told = Some(without);
                    return Taken::AnswerBehind(without, request);
                }
                // The answer to this one was there, or was given up: no other can be meant.
                Err(Odd::Surplus) => return Taken::Nobodys,
                Err(Odd::Stranger) => {}
            }
        } else {
            // A server of ours leaves the name out if the ring has no room for both.
            self.named = false;
            if self.lost {
                self.step.discard(sequence);
                return Taken::Nobodys;
            }
            match self.step.answer(sequence) {
                Ok(request) => return Taken::Answer(request),
                Err(Odd::Surplus) if !config.answers_after_release => {
                    self.lost = true;
                    return Taken::Nobodys;
                }
                Err(_) => {}
            }
        }
        self.over = Some(self.step.doubt());
        Taken::Nobodys
    }

    /// Before a request when none is under way: an answer that is there is one too many.
    pub(super) fn look_for_surplus(
        &mut self,
        alone: bool,
        config: &DuplexClientConfig,
    ) -> Result<()> {
        let used = self.used();
        // Nothing unread, and nothing held either.
        let mut empty = self.reader.used_bytes() == 0;
        if !empty && alone {
            match self.reader.read_frame(Wait::no()) {
                Ok(frame) => drop(self.take(&frame, config)),
                Err(Error::Timeout { .. }) => empty = true,
                Err(err) => return Err(err),
            }
        }
        if empty && used == 0 {
            self.step.settle();
        }
        Ok(())
    }
}
