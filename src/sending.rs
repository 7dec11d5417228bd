//! How the sink, and the filter with its requests, get a buffer to the reader: published in place
//! where it lies, or copied.

mod bytes;
mod connecting;
mod fitting;
mod proposing;
mod sizes;
mod telling;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gst::subclass::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;

use self::bytes::{copy, length, repack};
use self::sizes::suits;
use crate::element::{self, Counters};
use crate::frame_info;
use crate::frame_prefix::{Behind, FramePrefix};
use crate::memory::{self, Link};
use crate::protocol::{Error, Interrupt, Records, Reservation, Wait, Writer};
use crate::segments;

pub use self::connecting::Connecting;
pub use self::fitting::Fitting;
pub use self::proposing::Proposing;
pub use self::telling::Telling;

/// Why a frame was not sent.
pub enum Stop {
    Protocol(Error),
    Element(gst::ErrorMessage),
}

impl Stop {
    pub fn message(&self) -> gst::ErrorMessage {
        match self {
            Stop::Protocol(err) => element::message(err),
            Stop::Element(message) => message.clone(),
        }
    }
}

impl From<Error> for Stop {
    fn from(err: Error) -> Self {
        Stop::Protocol(err)
    }
}

/// What to do when there is no reader or no room.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Hold the stream while there is no reader (otherwise: drop).
    pub wait_for_connection: bool,
    /// Hold the stream while there is no room (otherwise: drop).
    pub wait_for_room: bool,
    /// Of each wait; 0: without end.
    pub timeout: gst::ClockTime,
    /// Frames that the ring should have room for.
    pub frames: u32,
    pub frame_prefix: FramePrefix,
}

impl Policy {
    pub fn wait<'a>(&self, interrupt: &'a Interrupt) -> Wait<'a> {
        Wait::from(element::limit(self.timeout)).interrupted_by(interrupt)
    }
}

/// The stream between start and stop.
#[derive(Debug, Default)]
pub struct State {
    pub caps: Option<gst::Caps>,
    /// How raw video of these caps lies in memory by default.
    pub video: Option<Arc<gst_video::VideoInfo>>,
    /// The number of the next frame, from 0, also of those that are dropped.
    number: u64,
    /// The reader has been told caps, and those that events tell.
    pub announced: bool,
    /// The caps that it was told last.
    pub told: Option<gst::Caps>,
    /// In which the times of frames are that come in.
    segment: segments::Value,
    /// The segment that it knows; the one of its own until another is told.
    told_segment: segments::Value,
    /// How the reader went that there was, while there is no other.
    pub gone: Option<String>,
    /// The size of the ring that the reader was last asked for.
    asked: u64,
    /// The writer of the ring that was made anew, until there is one to the new ring: if it went
    /// before, nobody would tell the reader that the stream ends here.
    leaving: Option<Arc<Writer>>,
    /// The reader has only made another ring, and knows what it was told in the one before.
    moved: bool,
    /// Events that go with the next frame.
    pending: Records,
}

/// What an element that sends has for it.
#[derive(Debug)]
pub struct Sending {
    state: Mutex<State>,
    /// The writer, while there is a reader; the pools that we propose look there too.
    pub link: Link,
    /// Ends waits. It needs none of the locks, so that who sets it never waits for them.
    pub interrupt: Interrupt,
    pub counters: Counters,
}

impl Default for Sending {
    fn default() -> Self {
        Self::new(Interrupt::new())
    }
}

impl Sending {
    pub fn new(interrupt: Interrupt) -> Self {
        Sending {
            state: Mutex::default(),
            link: Link::new(interrupt.clone()),
            interrupt,
            counters: Counters::default(),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An element that sends.
pub trait Sends: ElementImpl {
    fn category() -> gst::DebugCategory;
    fn sending(&self) -> &Sending;
    /// The buffer that it writes to.
    fn buffer_name(&self) -> String;
    fn policy(&self) -> Policy;
    /// The pad at which its stream comes in.
    fn input(&self) -> gst::Pad;
    /// When a time of its stream is due, by CLOCK_MONOTONIC.
    fn monotonic(&self, time: gst::ClockTime) -> Option<u64>;

    /// What its frames are requests of, if they are any.
    fn connection(&self) -> Option<u64> {
        None
    }

    /// Whether this buffer's reader will do.
    ///
    /// # Errors
    /// Why it is none for us; its next buffer is waited for.
    fn suits(&self, _writer: &Writer) -> Result<(), Error> {
        Ok(())
    }

    /// The request that this buffer answers, if it answers one: its number and its connection.
    fn request(&self, _buffer: &gst::BufferRef) -> Option<(u64, u64)> {
        None
    }

    /// Publishes a frame: returns its number.
    fn publish(&self, publish: &mut dyn FnMut() -> Result<u64, Error>) -> Result<u64, Error> {
        publish()
    }

    /// Before the stream goes on in another ring, where frames are numbered from 1 again.
    ///
    /// # Errors
    /// [`Error::Interrupted`]
    fn settle(&self) -> Result<(), Error> {
        Ok(())
    }

    /// The reader has gone.
    fn lost_reader(&self, _why: &Error) {}

    /// Another reader has been told of the stream.
    fn reader_came(&self) {}

    fn state(&self) -> MutexGuard<'_, State> {
        self.sending().state()
    }

    /// The number of the frame that comes next in the stream.
    fn next_number(&self) -> u64 {
        let number = &mut self.state().number;
        *number += 1;
        *number - 1
    }

    /// Sends a buffer as the frame with this number; false if the policy says to drop it.
    fn send(&self, buffer: &gst::Buffer, number: u64) -> Result<bool, Stop> {
        loop {
            if let Some(sent) = self.try_send(buffer, number)? {
                return Ok(sent);
            }
        }
    }

    /// The same; `None` if the ring is another one now, or will be.
    fn try_send(&self, buffer: &gst::Buffer, number: u64) -> Result<Option<bool>, Stop> {
        let policy = self.policy();
        let Sending {
            link,
            interrupt,
            counters,
            ..
        } = self.sending();
        link.rendering(policy.wait_for_room);
        let Some(writer) = self.connect(policy)? else {
            // Events go where their frames go.
            self.state().pending.clear();
            return Ok(Some(false));
        };
        writer.look_at_reader()?;
        let video = self.state().video.clone();
        let video = video.as_deref();
        let prefix = policy.frame_prefix;
        let (head, carries) = (prefix.of(buffer, number), writer.carries_records());
        // Where the rows have to be, if they are not there.
        let repacks = match (video, prefix) {
            (Some(video), FramePrefix::None) if !carries => {
                frame_info::other_layout(buffer, video).map(|_| video.clone())
            }
            (_, FramePrefix::None) | (None, _) => None,
            (Some(video), prefix) => Some(prefix.layout(video))
                .filter(|layout| !frame_info::has_layout(buffer, video, layout)),
        };
        let len = match &repacks {
            Some(layout) => layout.size() as u64,
            None => length(buffer, video, prefix)?,
        };
        let len = head.len() as u64 + len;
        if !suits(&writer, len, policy.frames, video.is_some()) && self.fit_ring(len)? {
            return Ok(None);
        }
        let mut records = Records::new();
        let segment = self.state().segment;
        if carries {
            let told = video.filter(|_| prefix == FramePrefix::None);
            self.describe(buffer, told, segment, &mut records);
        }
        // Only readers of ours are rendered for, and they are told any layout.
        if carries
            && video.is_some()
            && repacks.is_none()
            && self.send_in_place(buffer, &head, &records, &writer)
        {
            gst::log!(
                Self::category(),
                imp = self,
                "Frame of {len} bytes, in place"
            );
            self.sent(len, &counters.in_place);
            self.state().told_segment = segment;
            return Ok(Some(true));
        }
        let dropped = writer.records_dropped();
        let wait = match policy.wait_for_room {
            true => policy.wait(interrupt),
            false => Wait::no(),
        };
        let mut place = match writer.reserve_with(len, &records, wait) {
            Err(Error::BufferFull { .. }) if !policy.wait_for_room => return Ok(Some(false)),
            // The ring is too small, and the reader may not know it yet.
            Err(Error::FrameTooLarge { .. } | Error::FrameCannotPass { .. })
                if !suits(&writer, len, policy.frames, video.is_some())
                    && !self.is_answered(&writer) =>
            {
                if !policy.wait_for_room {
                    return Ok(Some(false));
                }
                self.wait_for_ring(&writer, len, policy)?;
                return Ok(None);
            }
            other => other?,
        };
        place[..head.len()].copy_from_slice(&head);
        let place = Behind(place, head.len());
        let Behind(place, _) = match video.zip(repacks) {
            Some((video, layout)) => repack(buffer, video, &layout, place).map_err(|err| {
                Stop::Element(gst::error_msg!(
                    gst::StreamError::Format,
                    ("A frame does not have the layout that its GstVideoMeta tells: {err}")
                ))
            })?,
            None => copy(buffer, place)?,
        };
        let mut place = Some(place);
        self.publish(&mut || {
            place
                .take()
                .map_or(Err(Error::OutOfOrder), Reservation::commit)
        })?;
        gst::log!(Self::category(), imp = self, "Frame of {len} bytes, copied");
        self.sent(len, &counters.copied);
        if writer.records_dropped() == dropped {
            self.state().told_segment = segment;
        }
        Ok(Some(true))
    }

    /// A frame with these records has gone out.
    fn sent(&self, len: u64, how: &std::sync::atomic::AtomicU64) {
        Counters::add(how, 1);
        Counters::add(&self.sending().counters.bytes, len);
        let state = &mut *self.state();
        state.pending.clear();
        if state.told != state.caps {
            state.told = state.caps.clone();
        }
    }

    /// Publishes a buffer that upstream has rendered straight into the ring. False if it is no such
    /// buffer and has to be copied.
    fn send_in_place(
        &self,
        buffer: &gst::BufferRef,
        head: &[u8],
        records: &Records,
        writer: &Writer,
    ) -> bool {
        if buffer.n_memory() != 1 {
            return false;
        }
        let mut not_ours = false;
        let published = self.publish(&mut || {
            memory::publish(buffer.peek_memory(0), head, records, writer).unwrap_or_else(|| {
                not_ours = true;
                Err(Error::OutOfOrder)
            })
        });
        if let Err(err) = &published
            && !not_ours
        {
            gst::debug!(Self::category(), imp = self, "Copying: {err}");
        }
        published.is_ok()
    }
}
