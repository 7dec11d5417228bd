//! Records that go along with frames, and messages between them.

use std::sync::atomic::Ordering;

use super::{Error, Lack, Reservation, Result, Shared, State, Wait, Writer};
use crate::protocol::extension;
use crate::protocol::extension::records::Records;
use crate::protocol::layout::FRAME_HEADER_SIZE;
use crate::protocol::ring::{self, BLOCK, MESSAGE};
use crate::protocol::slots::Lead;

/// Bytes in front of a place that is lent ahead, at least: time and layout fit, and what little an
/// application may add.
const LEAST_ROOM: u64 = ring::RECORD_ROOM;
/// Frames whose records are larger than this are copied; so much ahead would be wasted.
const MOST_ROOM: u64 = 16 * 1024;
/// Room is in whole lines of the cache.
const ROOM_STEP: u64 = 64;
/// After how many blocks a larger one is forgotten.
const MEMORY: u32 = 256;

/// How much room for records is left in front of places that are lent before anybody knows what
/// records they will have: as much as the largest block lately took.
#[derive(Debug)]
pub(super) struct Room {
    now: u64,
    largest: u64,
    blocks: u32,
}

impl Default for Room {
    fn default() -> Self {
        Room {
            now: LEAST_ROOM,
            largest: 0,
            blocks: 0,
        }
    }
}

impl Room {
    /// A block of so many bytes was needed in front of a frame.
    fn note(&mut self, bytes: u64) {
        let steps = |bytes: u64| {
            let room = bytes.clamp(LEAST_ROOM, MOST_ROOM);
            room.next_multiple_of(ROOM_STEP)
        };
        self.largest = self.largest.max(bytes);
        self.blocks += 1;
        self.now = self.now.max(steps(bytes));
        if self.blocks >= MEMORY {
            self.now = steps(self.largest);
            (self.largest, self.blocks) = (0, 0);
        }
    }
}

impl Writer {
    /// Whether the reader understands records. If not, frames are sent without them and no message
    /// is: to a reader of another implementation nothing is different.
    pub fn carries_records(&self) -> bool {
        self.shared.abilities.reads_records()
    }

    /// Whether the reader makes the buffer anew when [`Writer::request_size`] asks for it.
    pub fn can_request_size(&self) -> bool {
        self.shared.abilities.resizes()
    }

    /// As [`Writer::reserve`], with room for these records in front of the frame. They are sent with
    /// it, unless [`Reservation::set_records`] puts others in their place.
    ///
    /// In a ring that has room for the frame but never for both, the frame is sent without
    /// ([`Writer::records_dropped`] counts that).
    ///
    /// # Errors
    /// As [`Writer::reserve`]; [`Error::RecordsTooLarge`]; where a record is
    /// [required](super::super::Record::required) also [`Error::RecordsNotCarried`], and
    /// [`Error::FrameTooLarge`] or [`Error::FrameCannotPass`] if it is both that do not pass.
    pub fn reserve_with<'a>(
        &self,
        len: u64,
        records: &Records,
        wait: impl Into<Wait<'a>>,
    ) -> Result<Reservation> {
        if len == 0 {
            return Err(Error::InvalidFrameSize);
        }
        let block = self.shared.block_for(records)?;
        let total = ring::frame_total(len).map_or(u64::MAX, |total| total.saturating_add(block));
        let mut reservation = self.when_unreserved(wait.into(), total, |shared, state| {
            let found = shared.try_reserve(state, len, block);
            let hopeless = match &found {
                Ok(Ok(_)) => false,
                // All that the reader can give back is free, and the rest is lent here: who has it
                // may be waiting for us.
                Ok(Err(lack)) => lack.free >= shared.sizes.payload,
                Err(err) => matches!(
                    err,
                    Error::FrameTooLarge { .. } | Error::FrameCannotPass { .. }
                ),
            };
            if block == 0 || !hopeless || records.has_required() {
                return found;
            }
            match shared.try_reserve(state, len, 0)? {
                Ok(lent) => {
                    shared.records_dropped.fetch_add(1, Ordering::Relaxed);
                    Ok(Ok(lent))
                }
                Err(_) => found,
            }
        })?;
        if block > 0 && reservation.room() > 0 {
            reservation.set_records(records)?;
        }
        Ok(reservation)
    }

    /// Writes a frame with these records, copying it in, and returns its sequence number.
    ///
    /// # Errors
    /// As [`Writer::reserve_with`].
    pub fn write_frame_with<'a>(
        &self,
        frame: &[u8],
        records: &Records,
        wait: impl Into<Wait<'a>>,
    ) -> Result<u64> {
        let mut place = self.reserve_with(frame.len() as u64, records, wait)?;
        place.copy_from_slice(frame);
        place.commit()
    }

    /// Sends records that belong to no frame: the reader gets them between the frames before and
    /// behind, and at once. False if the reader does not understand records, or there are none: then
    /// nothing was sent.
    ///
    /// Where places are lent ahead and the message does not fit before the first of them, they are
    /// passed by: their frames have to be copied ([`Error::OutOfOrder`]).
    ///
    /// # Errors
    /// [`Error::BufferFull`] when there was no room in time; [`Error::RecordsTooLarge`];
    /// [`Error::RecordsNotCarried`] if one is [required](super::super::Record::required) and the
    /// reader does not understand them; [`Error::ReaderClosed`], [`Error::ReaderReplaced`],
    /// [`Error::ReaderDead`]; [`Error::Interrupted`]; [`Error::ReservationPending`];
    /// [`Error::Closed`].
    pub fn write_message<'a>(&self, records: &Records, wait: impl Into<Wait<'a>>) -> Result<bool> {
        let total = self.shared.block_for(records)?;
        if total == 0 {
            return Ok(false);
        }
        self.when_unreserved(wait.into(), total, |shared, state| {
            let lead = match shared.place_message(state, total)? {
                Ok(lead) => lead,
                Err(lack) => return Ok(Err(lack)),
            };
            let at = lead.placement.at;
            shared.store_records(at, total, records)?;
            shared.store_header(at, 0, BLOCK | MESSAGE | total)?;
            shared.hand_over(state, &lead)?;
            shared.messages.fetch_add(1, Ordering::Relaxed);
            Ok(Ok(true))
        })
    }

    /// Asks the reader to make the buffer anew with a ring of so many bytes. If it does, this writer
    /// gets [`Error::ReaderReplaced`], and can attach to the new buffer. False if the reader does
    /// not do such things.
    ///
    /// What is written behind this call goes into the old ring. It is not lost, if the reader reads
    /// that to its end.
    ///
    /// # Errors
    /// As [`Writer::write_message`].
    pub fn request_size<'a>(&self, bytes: u64, wait: impl Into<Wait<'a>>) -> Result<bool> {
        if !self.can_request_size() {
            return Ok(false);
        }
        extension::note_answer(&self.shared.segment, &self.shared.sizes, 0);
        let mut records = Records::new();
        records.push_resize(bytes);
        self.write_message(&records, wait)
    }

    /// The size that was asked for and that the reader has answered last: in a buffer that it made
    /// anew because of that, or else it leaves this one as it is. 0: none, or another was asked for
    /// since. `None` if metadata lies where it would be told.
    pub fn answered_size(&self) -> Option<u64> {
        extension::answer(&self.shared.segment, &self.shared.sizes)
    }

    /// Messages sent so far.
    pub fn messages_written(&self) -> u64 {
        self.shared.messages.load(Ordering::Relaxed)
    }

    /// Frames sent without the records that they were to have, for lack of room in the ring.
    pub fn records_dropped(&self) -> u64 {
        self.shared.records_dropped.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// Bytes in front of a place that is lent ahead.
    pub(super) fn room(&self, state: &State) -> u64 {
        if self.abilities.reads_records() {
            // A small ring is there for frames.
            state.room.now.min(ring::most_block(self.sizes.payload))
        } else {
            0
        }
    }

    /// Bytes of the block that these records make; 0 if they are not sent.
    fn block_for(&self, records: &Records) -> Result<u64> {
        if records.is_empty() {
            return Ok(0);
        }
        if !self.abilities.reads_records() {
            return match records.has_required() {
                true => Err(Error::RecordsNotCarried { name: self.name() }),
                false => Ok(0),
            };
        }
        let size = records.as_bytes().len() as u64 + FRAME_HEADER_SIZE;
        let most = ring::most_block(self.sizes.payload);
        if size > most {
            return Err(Error::RecordsTooLarge {
                name: self.name(),
                size,
                most,
            });
        }
        Ok(size)
    }

    /// A place for a message, or what is lacking for it.
    fn place_message(
        &self,
        state: &mut State,
        total: u64,
    ) -> Result<std::result::Result<Lead, Lack>> {
        self.has_reader()?;
        let size = self.sizes.payload;
        if let Some(lead) = state.slots.carve(size, total, &self.taken()) {
            return Ok(Ok(lead));
        }
        let site = match self.find_place(state, total, 0, total)? {
            Ok(site) => site,
            Err(lack) => return Ok(Err(lack)),
        };
        let slot = state.slots.insert(site, total);
        let lead = state.slots.publish(size, slot);
        // It is new, so nothing behind it has been published; and nobody else is first at the moment.
        lead.map(Ok).ok_or(Error::OutOfOrder)
    }

    /// Puts records behind the header of a block at `at`, and zeros to its end.
    fn store_records(&self, at: u64, block: u64, records: &Records) -> Result<()> {
        let bytes = records.as_bytes();
        let start = self.sizes.payload_start() + at + FRAME_HEADER_SIZE;
        let rest = (block - FRAME_HEADER_SIZE).saturating_sub(bytes.len() as u64);
        let zeros = [0; FRAME_HEADER_SIZE as usize];
        let zeros = &zeros[..(rest as usize).min(zeros.len())];
        let end = start as usize + bytes.len();
        if self.segment.store(start as usize, bytes) && self.segment.store(end, zeros) {
            Ok(())
        } else {
            Err(self.names.corrupt("records outside of the ring"))
        }
    }
}

impl Reservation {
    /// Bytes in front of it for a block of records.
    fn room(&self) -> u64 {
        let Some(slot) = self.slot else { return 0 };
        self.shared.state().slots.room(slot).unwrap_or(0)
    }

    /// Sends these records with the frame, in place of those before. An ordinary
    /// [`Writer::reserve`] leaves no room for any; [`Writer::reserve_with`] leaves what its records
    /// take, and [`Writer::reserve_ahead`] what was lately needed. A reader that does not understand
    /// records gets none.
    ///
    /// # Errors
    /// [`Error::NoRoomForRecords`], [`Error::OutOfOrder`]: the frame has to be copied to a new place
    /// ([`Writer::reserve_with`]); [`Error::RecordsTooLarge`]; [`Error::RecordsNotCarried`] if one
    /// is [required](super::super::Record::required). The reservation is as it was.
    pub fn set_records(&mut self, records: &Records) -> Result<()> {
        let shared = &self.shared;
        let block = shared.block_for(records)?;
        let slot = self.slot.ok_or(Error::OutOfOrder)?;
        let mut state = shared.state();
        shared.open(&state)?;
        if !self.exclusive && block > 0 {
            state.room.note(block);
        }
        match state
            .slots
            .set_block(slot, block)
            .ok_or(Error::OutOfOrder)?
        {
            Ok((_, 0)) => Ok(()),
            Ok((at, block)) => shared.store_records(at, block, records),
            Err(room) => Err(Error::NoRoomForRecords {
                needed: block,
                room,
            }),
        }
    }

    /// [`Reservation::set_records`], then [`Reservation::commit`].
    ///
    /// # Errors
    /// Those of both.
    pub fn commit_with(mut self, records: &Records) -> Result<u64> {
        self.set_records(records)?;
        self.commit()
    }

    /// [`Reservation::set_records`], then [`Reservation::publish`].
    ///
    /// # Errors
    /// Those of both. After one of [`Reservation::set_records`] it is not published.
    pub fn publish_with(&mut self, records: &Records) -> Result<u64> {
        self.set_records(records)?;
        self.publish()
    }
}
