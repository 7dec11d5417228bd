//! Waiting for the next frame or message, and taking it.

use std::sync::atomic::Ordering;

use super::{Broken, Frame, Item, Position, Reader, Shared, WriterState};
use crate::protocol::error::{Error, Result};
use crate::protocol::handoff;
use crate::protocol::layout::{self, FIRST_SEQUENCE, FRAME_HEADER_SIZE, offset};
use crate::protocol::ring::{self, Found, NoFrame};
use crate::protocol::wait::Waiting;

impl Reader {
    /// With `newest` frames before the newest are skipped.
    pub(super) fn next(&self, waiting: &Waiting, newest: bool) -> Result<Item> {
        let shared = &self.shared;
        let mut waited = false;
        let mut slices = 0;
        loop {
            if waiting.is_interrupted() {
                return Err(Error::Interrupted);
            }
            shared.usable()?;
            if shared.has_post()?
                && let Some(item) = self.take_announced(newest)?
            {
                return Ok(item);
            }
            let slice = waiting.slice();
            // Acquire in both: if the writer is gone, all its posts have been made, so a semaphore
            // that is empty after this look says that all its frames have been read. Whether a
            // writer lives is only asked when a slice of time has passed without a post.
            let state = if waited || slice.is_none() || !shared.has_writer() {
                shared.writer_state()
            } else {
                WriterState::Connected { pid: 0 }
            };
            let gone = matches!(state, WriterState::Closed | WriterState::Dead { .. });
            let sleep = if gone { None } else { slice };
            if sleep.is_some() && !std::mem::replace(&mut waited, true) {
                shared.waits.fetch_add(1, Ordering::Relaxed);
            }
            if shared.evacuates.load(Ordering::Relaxed) {
                shared.make_room(waiting, slices);
                slices += 1;
            }
            if shared.wait_write(sleep.unwrap_or_default())? {
                if let Some(item) = self.take_announced(newest)? {
                    return Ok(item);
                }
                if sleep.is_some() {
                    continue;
                }
            }
            match state {
                WriterState::Dead { pid } => shared.mend(pid),
                // One before it may have died.
                WriterState::Closed => shared.mend(0),
                _ => {}
            }
            if (gone || shared.is_writer_ours())
                && let Some(item) = self.take(false, newest)?
            {
                return Ok(item);
            }
            shared.recover();
            // Who is gone may be an end that has taken the memory away.
            shared.there()?;
            let name = || shared.names.name.clone();
            match state {
                WriterState::Closed => return Err(Error::WriterClosed { name: name() }),
                WriterState::Dead { pid } => return Err(Error::WriterDead { name: name(), pid }),
                _ if slice.is_none() => {
                    return Err(Error::Timeout {
                        name: name(),
                        waited: waiting.waited(),
                    });
                }
                _ => {}
            }
        }
    }

    /// With a post that was taken: the next frame or message, if there is one. If not, all posts that
    /// there are announce nothing. There may be thousands of millions, which would take minutes one
    /// by one.
    pub(super) fn take_announced(&self, newest: bool) -> Result<Option<Item>> {
        let item = self.take(true, newest)?;
        if item.is_some() {
            return Ok(item);
        }
        let sem = &self.shared.sem_write;
        let sem_error = |err| {
            self.shared
                .names
                .os("looking at the writer's semaphore", err)
        };
        // Before the second look: what these announce is there then, since it was before they were.
        let posts = sem.value().map_err(sem_error)?;
        let item = self.take(true, newest)?;
        if item.is_none() && posts > 0 {
            sem.forget(posts).map_err(sem_error)?;
        }
        Ok(item)
    }

    /// Takes the next frame or message; `None` if there is none after all.
    ///
    /// One that is not `announced` by a post is what a writer left that died before its post. It is
    /// taken if it is whole; if it is not, nobody said that it would be.
    pub(super) fn take(&self, announced: bool, newest: bool) -> Result<Option<Item>> {
        let shared = &self.shared;
        let mut position = shared.position();
        if let Some(broken) = &position.broken {
            return Err(shared.broken(broken));
        }
        let unread = shared.unread(position.at);
        // A semaphore posted more often than there are frames is no reason to stop, nor to take again
        // what was read before.
        if unread == 0 && (!announced || shared.is_empty(position.at)) {
            return Ok(None);
        }
        let found = ring::find(shared.sizes.payload, position.at, |at| shared.header(at));
        let found = match found {
            // A post too many, or none at all, before the writer says that the frame is whole.
            Ok(found) if unread != 0 && found.cost() > unread => return Ok(None),
            // Messages have no number.
            Ok(found) if found.message => found,
            Ok(found) if found.sequence == position.next => found,
            // A new writer starts again at 1.
            Ok(found)
                if found.sequence == FIRST_SEQUENCE
                    && position.new_writer_came(shared.attachments()) =>
            {
                found
            }
            _ if !announced => return Ok(None),
            Ok(found) => {
                let broken = Broken::Sequence {
                    expected: position.next,
                    found: found.sequence,
                };
                return Err(shared.break_off(&mut position, broken));
            }
            Err(why) => {
                let what = match why {
                    NoFrame::Empty => "a frame without content".into(),
                    NoFrame::Overlong(len) => format!("a frame of {len} bytes"),
                    NoFrame::Block(len) => format!("a block of records of {len} bytes"),
                };
                let broken = Broken::Header(format!("{what} at position {}", position.at));
                return Err(shared.break_off(&mut position, broken));
            }
        };
        let records = shared.records(&mut position, &found)?;
        if found.message {
            return Ok(Some(shared.take_message(position, &found, records)));
        }
        if newest && shared.is_newer_there(found.end(), found.sequence) {
            return Ok(Some(shared.skip(position, &found, records)));
        }
        let start = shared.sizes.payload_start() + found.end() - found.len;
        let (start, len) = (start as usize, found.len as usize);
        let place = shared.place(start, len)?;
        shared.pass(&mut position, &found);
        shared.frames.fetch_add(1, Ordering::Relaxed);
        shared.bytes.fetch_add(found.len, Ordering::Relaxed);
        let ticket = shared.hand_out(&found, &place);
        drop(position);
        let bytes = shared.settle(place, start, ticket)?;
        // A copy would have been made of what is not there.
        shared.there()?;
        if found.sequence == FIRST_SEQUENCE {
            // While it lives: a writer that was never looked at is not known to be dead for long.
            shared.writer_state();
        }
        Ok(Some(Item::Frame(Frame {
            bytes,
            sequence: found.sequence,
            records,
            ticket,
            shared: shared.clone(),
        })))
    }
}

impl Shared {
    /// Takes one post of the writer that is there, or comes as soon as those before did.
    pub(super) fn has_post(&self) -> Result<bool> {
        (self.sem_write.try_wait_briefly())
            .map_err(|err| self.names.os("looking at the writer's semaphore", err))
    }

    /// Takes one post of the writer. The semaphore orders: what the writer stored before its post
    /// is seen after this (Release in sem_post, Acquire in sem_wait).
    pub(super) fn wait_write(&self, time: std::time::Duration) -> Result<bool> {
        if time.is_zero() {
            self.sem_write.try_wait()
        } else {
            self.sem_write.wait_timeout(time)
        }
        .map_err(|err| self.names.os("waiting for the writer's semaphore", err))
    }

    pub(super) fn header(&self, at: u64) -> (u64, u64) {
        let mut bytes = [0; FRAME_HEADER_SIZE as usize];
        let start = self.sizes.payload_start() + at;
        // Outside of the ring it reads as 0: no frame.
        let _ = self.segment.load(start as usize, &mut bytes);
        layout::header(&bytes)
    }

    /// Whether the ring holds nothing that has not been handed out.
    pub(super) fn is_empty(&self, at: u64) -> bool {
        let Some(oieb) = self.oieb() else { return true };
        let write = handoff::look(oieb.word(offset::PAYLOAD_WRITE_POS));
        // Equal positions are an empty ring or a full one; the free bytes tell which.
        let size = self.sizes.payload;
        let held = self.held().credits.bytes();
        write % size == at % size && self.free_bytes().wrapping_add(held) == size
    }

    /// Bytes from `at` to where the writer says that it is. Where that is the same place the ring is
    /// empty or full, and this is 0.
    pub(super) fn unread(&self, at: u64) -> u64 {
        let size = self.sizes.payload;
        let write = self.oieb().map_or(at, |oieb| {
            handoff::look(oieb.word(offset::PAYLOAD_WRITE_POS))
        });
        if write > size || write % size == at % size {
            0
        } else if write > at {
            write - at
        } else {
            size - at + write
        }
    }

    /// Goes on behind a frame.
    pub(super) fn pass(&self, position: &mut Position, found: &Found) {
        position.at = found.end();
        position.next = found.sequence.wrapping_add(1);
        position.writers += u64::from(found.sequence == FIRST_SEQUENCE);
        position.writer_came = true;
        self.note_read(found);
    }

    /// For others to see; we go by our own copies.
    pub(super) fn note_read(&self, found: &Found) {
        if let Some(oieb) = self.oieb() {
            // After an exact fit this is the size itself until the next frame: Python's writer
            // takes 0 for a reader that has not begun.
            // Release, with the Acquire in `Writer::is_all_read`.
            oieb.word(offset::PAYLOAD_READ_POS)
                .store(found.end(), Ordering::Release);
            oieb.word(offset::PAYLOAD_READ_COUNT)
                .fetch_add(1 + u64::from(found.marker), Ordering::Release);
        }
    }

    pub(super) fn break_off(&self, position: &mut Position, broken: Broken) -> Error {
        if let Err(gone) = self.there() {
            return gone;
        }
        let error = self.broken(&broken);
        position.broken = Some(broken);
        error
    }

    pub(super) fn broken(&self, broken: &Broken) -> Error {
        match broken {
            Broken::Sequence { expected, found } => Error::Sequence {
                name: self.names.name.clone(),
                expected: *expected,
                found: *found,
            },
            Broken::Header(what) => self.names.corrupt(what.clone()),
            Broken::Record(kind) => Error::UnknownRecord {
                name: self.names.name.clone(),
                kind: *kind,
            },
        }
    }
}
