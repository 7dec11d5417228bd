//! How the sink, and the filter with its requests, get a buffer to the reader: finding it, telling
//! it the caps, asking for a ring of the right size, publishing in place or copying.

mod bytes;
mod sizes;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gst::prelude::*;
use gst::subclass::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;

use self::bytes::{copy, length, repack};
use self::sizes::{suits, wanted_size};
use crate::element::{self, Connection, Counters};
use crate::events;
use crate::frame_info;
use crate::frame_prefix::{Behind, FramePrefix};
use crate::memory::{self, Link, RingPool};
use crate::metas;
use crate::protocol::{Error, Interrupt, Records, Reservation, Wait, Writer};
use crate::requests;
use crate::segments;
use crate::stream_info;

/// How long the stream waits for a ring of another size where the one there is would do, too.
const RESIZE_PATIENCE: Duration = Duration::from_millis(500);
const RESIZE_INTERVAL: Duration = Duration::from_millis(1);
/// Bytes of events that wait for a frame; later ones are lost.
const MOST_PENDING: usize = 64 << 10;

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

    /// An event comes in: it may be the segment of what comes behind.
    fn follow_segment(&self, event: &gst::EventRef) {
        let segment = match event.view() {
            gst::EventView::Segment(event) => segments::Value::of(event.segment()),
            // The pad forgets it, too.
            gst::EventView::FlushStop(_) => segments::Value::default(),
            _ => return,
        };
        self.state().segment = segment;
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

    /// What a reader of ours is told about a buffer.
    fn describe(
        &self,
        buffer: &gst::BufferRef,
        video: Option<&gst_video::VideoInfo>,
        segment: segments::Value,
        records: &mut Records,
    ) {
        let monotonic = (buffer.pts().or(buffer.dts())).and_then(|time| self.monotonic(time));
        records.push_time(&frame_info::to_time(buffer, monotonic));
        if let Some(layout) = video.and_then(|video| frame_info::other_layout(buffer, video)) {
            records.push_layout(&layout);
        }
        metas::to_records(buffer, records);
        match self.request(buffer) {
            Some((request, requests::NOT_TOLD)) => records.push_answer(request),
            Some((request, connection)) => records.push_answer_for(request, connection),
            None => {}
        }
        if let Some(connection) = self.connection() {
            records.push_request(connection);
        }
        let state = self.state();
        if let Some(caps) = state.caps.as_ref().filter(|_| state.told != state.caps) {
            records.push_caps(&caps.to_string());
        }
        if state.told_segment != segment {
            segment.push(records);
        }
        append(&state.pending, records);
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

    /// The writer, attached if need be; `None` if there is no reader and no wait for one.
    fn connect(&self, policy: Policy) -> Result<Option<Arc<Writer>>, Stop> {
        let Sending {
            link, interrupt, ..
        } = self.sending();
        let writer = link.get();
        let caps = {
            let state = self.state();
            if state.announced && writer.is_some() {
                return Ok(writer);
            }
            state.caps.clone()
        };
        let caps = caps.as_deref();
        if let Some(writer) = writer {
            if self.announce(&writer, caps)? {
                self.announced();
                return Ok(Some(writer));
            }
            self.disconnect("it has the metadata of another stream");
        }
        let name = self.buffer_name();
        let waiting = if policy.wait_for_connection {
            gst::debug!(
                Self::category(),
                imp = self,
                "Waiting for the reader of {name}"
            );
            policy.wait(interrupt)
        } else {
            Wait::no()
        };
        let attach = Writer::attach_wait_if(&name, waiting, |writer| self.announce(writer, caps));
        let writer = match attach {
            Ok(writer) => self.attached(writer),
            Err(err) if !is_missing(&err) => return Err(err.into()),
            Err(_) if !policy.wait_for_connection => return Ok(None),
            Err(err) => {
                return Err(Stop::Element(gst::error_msg!(
                    gst::ResourceError::NotFound,
                    (
                        "No reader came within the timeout of {}: {err}",
                        policy.timeout
                    )
                )));
            }
        };
        self.announced();
        Ok(Some(writer))
    }

    fn attached(&self, writer: Writer) -> Arc<Writer> {
        let writer = Arc::new(writer);
        gst::info!(
            Self::category(),
            imp = self,
            "Attached to {}, a ring of {} bytes, reader's pid {}",
            writer.name(),
            writer.payload_size(),
            writer.reader_pid()
        );
        self.state().gone = None;
        self.sending().link.replace(Some(writer.clone()));
        let mut state = self.state();
        if writer.answered_size() != Some(state.asked) {
            // It answers a request before that one, which it may not have read at all.
            state.asked = 0;
        }
        let before = state.leaving.take();
        drop(state);
        if let Some(before) = before {
            before.close();
        }
        writer
    }

    /// The events that are still true.
    fn sticky(&self) -> Records {
        let mut records = Records::new();
        self.input().sticky_events_foreach(|event| {
            events::to_record(event, |_| None, &mut records);
            std::ops::ControlFlow::Continue(gst::EventForeachAction::Keep)
        });
        records
    }

    /// The reader knows the caps; it also needs the events that are still true.
    fn announced(&self) {
        let mut sticky = self.sticky();
        let mut state = self.state();
        state.announced = true;
        state.told = state.caps.clone();
        // A ring that was made anew for us has the same reader, which has heard them.
        if !std::mem::take(&mut state.moved) {
            state.told_segment = segments::Value::default();
            let passing = events::without_sticky(&state.pending);
            append(&passing, &mut sticky);
            state.pending = sticky;
            drop(state);
            self.reader_came();
        }
    }

    /// Writes the caps as metadata. False if the buffer has other metadata already, from a writer
    /// before us: then only the reader's next buffer will do.
    fn announce(&self, writer: &Writer, caps: Option<&gst::CapsRef>) -> Result<bool, Error> {
        let Some(caps) = caps else { return Ok(true) };
        let prefix = self.policy().frame_prefix;
        if let Some(there) = writer.metadata() {
            let same = stream_info::to_caps(&there).is_ok_and(|there| *there == *caps)
                && stream_info::to_prefix(&there) == prefix;
            if !same {
                gst::debug!(
                    Self::category(),
                    imp = self,
                    "The buffer has the metadata of another stream; waiting for a new one"
                );
            }
            return Ok(same);
        }
        writer.set_metadata(&stream_info::to_metadata(caps, &self.obj().name(), prefix))?;
        Ok(true)
    }

    /// Asks a reader that makes rings to measure for one that suits frames of `len` bytes, and
    /// changes to it. True if the writer is another one now.
    fn fit_ring(&self, len: u64) -> Result<bool, Error> {
        let Sending {
            link, interrupt, ..
        } = self.sending();
        let Some(writer) = link.get() else {
            return Ok(false);
        };
        let (frames, fixed) = (self.policy().frames, self.state().video.is_some());
        if suits(&writer, len, frames, fixed) {
            return Ok(false);
        }
        let wanted = wanted_size(len, frames, fixed);
        {
            let mut state = self.state();
            if state.asked == wanted {
                // It knows, and has made what it could.
                return Ok(false);
            }
            state.asked = wanted;
        }
        let interrupts = interrupt.times();
        self.settle()?;
        let now = Wait::no().interrupted_by(interrupt);
        match writer.request_size(wanted, now) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(Error::BufferFull { .. }) => {
                // The next frame asks again.
                self.state().asked = 0;
                return Ok(false);
            }
            Err(err) => return Err(err),
        }
        gst::debug!(
            Self::category(),
            imp = self,
            "Asked for a ring of {wanted} bytes"
        );
        let began = Instant::now();
        // `render` sees an interrupt while it lasts; a query holds no lock, and may miss it.
        while began.elapsed() < RESIZE_PATIENCE
            && !interrupt.is_set()
            && interrupt.times() == interrupts
        {
            let answered = self.is_answered(&writer);
            match writer.look_at_reader() {
                Ok(()) if answered => break,
                Err(Error::ReaderReplaced { .. }) => {
                    self.move_on();
                    let wait = Wait::from(RESIZE_PATIENCE).interrupted_since(interrupt, interrupts);
                    match Writer::attach_wait(writer.name(), wait) {
                        Ok(writer) => {
                            self.attached(writer);
                        }
                        // It is gone with its new ring: as if there had been none yet.
                        Err(err) if is_missing(&err) => self.lose_reader(&err),
                        Err(err) => return Err(err),
                    }
                    return Ok(true);
                }
                other => other?,
            }
            interrupt.sleep(RESIZE_INTERVAL);
        }
        gst::debug!(Self::category(), imp = self, "The ring stays as it is");
        Ok(false)
    }

    /// Whether the reader has said what becomes of the request for another ring.
    fn is_answered(&self, writer: &Writer) -> bool {
        let asked = self.state().asked;
        // Where it cannot say so, it cannot say either that it has made one.
        (writer.answered_size()).is_none_or(|answered| asked != 0 && answered == asked)
    }

    /// Waits until the reader has answered the request for another ring; if it made one, the next
    /// look at it tells. Back as well when there was no room for the request, and now there is.
    fn wait_for_ring(&self, writer: &Writer, len: u64, policy: Policy) -> Result<(), Stop> {
        let interrupt = &self.sending().interrupt;
        let timeout = element::limit(policy.timeout);
        let began = Instant::now();
        loop {
            if interrupt.sleep(RESIZE_INTERVAL) {
                return Err(Error::Interrupted.into());
            }
            let asked = self.state().asked;
            let answered = match asked {
                0 => writer.is_all_read(),
                _ => self.is_answered(writer),
            };
            writer.look_at_reader()?;
            if answered {
                return Ok(());
            }
            if timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
                return Err(Stop::Element(gst::error_msg!(
                    gst::ResourceError::Write,
                    (
                        "The reader made no ring for frames of {len} bytes within the timeout of {}",
                        policy.timeout
                    )
                )));
            }
        }
    }

    /// An event has gone through the sink: tells the reader, if it is one that travels.
    fn forward(&self, event: &gst::EventRef) {
        if event.type_() == gst::EventType::FlushStop {
            let waiting = std::mem::take(&mut self.state().pending);
            if !waiting.is_empty() {
                // What is sticky outlives a flush, and may not have been told yet.
                let sticky = self.sticky();
                self.state().pending = sticky;
            }
            return;
        }
        let writer = self.sending().link.get();
        if writer
            .as_ref()
            .is_some_and(|writer| !writer.carries_records())
        {
            return;
        }
        let mut records = Records::new();
        if !events::to_record(event, |time| self.monotonic(time), &mut records) {
            return;
        }
        let state = &mut *self.state();
        let segment = state.segment;
        // What is sticky is told with the caps.
        if !state.announced && event.type_().is_sticky() {
            return;
        }
        let kept = state.pending.as_bytes().len();
        if kept + records.as_bytes().len() > MOST_PENDING {
            gst::warning!(
                Self::category(),
                imp = self,
                "Too many events without a frame, not sending {event:?}"
            );
            return;
        }
        append(&records, &mut state.pending);
        // Not in front of caps or a segment that wait for their frame, and never waiting here.
        let follows = state.announced && state.told == state.caps && state.told_segment == segment;
        if let Some(writer) = writer.filter(|_| follows)
            && (writer.write_message(&state.pending, Wait::no())).is_ok_and(|sent| sent)
        {
            state.pending.clear();
        }
    }

    /// Sends events for which there is no frame any more.
    fn finish(&self) {
        let (writer, policy) = (self.sending().link.get(), self.policy());
        let pending = {
            let mut state = self.state();
            let pending = std::mem::take(&mut state.pending);
            let follow = state.announced && state.told == state.caps;
            Some(pending).filter(|pending| follow && !pending.is_empty())
        };
        let (Some(writer), Some(pending)) = (writer, pending) else {
            return;
        };
        let wait = match policy.wait_for_room {
            true => policy.wait(&self.sending().interrupt),
            false => Wait::no(),
        };
        if let Err(err) = writer.write_message(&pending, wait) {
            gst::warning!(
                Self::category(),
                imp = self,
                "The last events did not get through: {err}"
            );
        }
    }

    /// The reader has gone by itself; or it has only made the ring anew.
    fn lose_reader(&self, why: &Error) {
        if let Error::ReaderReplaced { .. } = why {
            return self.move_on();
        }
        gst::info!(Self::category(), imp = self, "{why}");
        self.disconnect("the reader has gone");
        self.state().gone = Some(why.to_string());
        self.lost_reader(why);
    }

    /// The reader has made the ring anew: the stream goes on there.
    fn move_on(&self) {
        let Sending { link, counters, .. } = self.sending();
        let mut state = self.state();
        let before = state.leaving.take();
        let writer = link.replace(None);
        if let Some(writer) = &writer {
            gst::info!(
                Self::category(),
                imp = self,
                "The ring of {} was made anew",
                writer.name()
            );
            counters.end(Connection::writing(writer));
            // The reader is the same, and knows what it was told.
            state.moved = state.announced;
        }
        state.announced = false;
        state.leaving = writer.or(before);
    }

    fn disconnect(&self, why: &str) {
        let Sending { link, counters, .. } = self.sending();
        let mut state = self.state();
        state.announced = false;
        state.moved = false;
        state.asked = 0;
        if let Some(before) = state.leaving.take() {
            before.end();
        }
        if let Some(writer) = link.replace(None) {
            gst::info!(
                Self::category(),
                imp = self,
                "Detaching from {}: {why}",
                writer.name()
            );
            writer.end();
            counters.end(Connection::writing(&writer));
        }
    }

    /// Attaches already now if the reader is there, and proposes a pool to upstream.
    fn propose_pool(&self, query: &mut gst::query::Allocation) -> Result<(), gst::LoggableError> {
        // Any strides will do: a frame that has others than the default is copied, with its rows
        // where they belong.
        query.add_allocation_meta::<gst_video::VideoMeta>(None);
        let (caps, need_pool) = query.get_owned();
        if let Some(caps) = caps.filter(|_| need_pool)
            && let Some(video) = stream_info::raw_video(&caps)
        {
            let link = &self.sending().link;
            // If the reader is there, upstream renders its first frame into the ring already. The
            // caps are told with that frame; until then they may change.
            // One that has gone is missed by the next frame first.
            let gone = self.state().gone.is_some();
            if link.get().is_none()
                && !gone
                && let Ok(writer) = Writer::attach(&self.buffer_name())
            {
                self.attached(writer);
            }
            let prefix = self.policy().frame_prefix;
            let (head, wire) = (prefix.len(), prefix.layout(&video));
            if let Err(err) = self.fit_ring((head + wire.size()) as u64) {
                gst::debug!(Self::category(), imp = self, "Ring not fitted yet: {err}");
            }
            if wire.stride() != video.stride() {
                // Not all elements that take a pool look at the layout of its buffers.
                return Ok(());
            }
            let pool = RingPool::new(link.clone(), &caps, &video, head).map_err(|err| {
                gst::loggable_error!(Self::category(), "No pool for {caps}: {err}")
            })?;
            let size = u32::try_from(video.size()).unwrap_or(u32::MAX);
            // One at least, no matter how many: videorate of GStreamer 1.22 takes a pool away from
            // its upstream whose least and most are the same, also if both are 0.
            query.add_allocation_pool(Some(&pool), size, 1, 0);
        }
        Ok(())
    }

    /// What of its caps can be sent, for a caps query with this filter.
    fn sendable_caps(&self, filter: Option<&gst::Caps>) -> gst::Caps {
        // "Anything in system memory" cannot be said as caps, so ANY stands for it until somebody
        // asks about caps in particular.
        let taken = self.policy().frame_prefix.caps();
        match filter.filter(|filter| !filter.is_any()) {
            Some(filter) => stream_info::in_plain_memory(filter)
                .intersect_with_mode(&taken, gst::CapsIntersectMode::First),
            None => taken,
        }
    }

    /// Whether these caps can be sent.
    fn is_sendable(&self, caps: &gst::CapsRef) -> bool {
        caps.iter_with_features()
            .all(|(_, features)| stream_info::is_plain_memory(Some(features)))
            && caps.is_subset(&self.policy().frame_prefix.caps())
    }
}

fn append(from: &Records, to: &mut Records) {
    for record in from.iter() {
        to.push(record.kind, record.value);
    }
}

/// Whether there is no reader that this stream could go to.
fn is_missing(err: &Error) -> bool {
    err.is_no_reader() || matches!(err, Error::MetadataAlreadyWritten { .. })
}
