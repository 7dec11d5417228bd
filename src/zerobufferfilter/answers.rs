//! The ring that the worker answers through: we make it, made to measure, and read it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gstreamer as gst;

use crate::element::Connection;
use crate::frame_prefix::FramePrefix;
use crate::protocol::{BufferConfig, Error, Frame, Item, Reader, Records, Wait, WriterState};
use crate::stream_info;

/// Most bytes that the ring may grow to when the worker asks for it.
const MOST: u64 = 1 << 30;

/// An answer, and what its worker has said that answers are.
#[derive(Debug)]
pub struct Answer {
    pub frame: Frame,
    pub caps: Option<gst::Caps>,
    /// What is in front of its pixels.
    pub prefix: FramePrefix,
}

/// What a look into the ring found.
#[derive(Debug)]
pub enum Came {
    Answer(Answer),
    /// What was there was no answer; there may be more.
    Other,
    /// Nothing came in time.
    Nothing,
    Interrupted,
    /// The worker has left, and this is how.
    Gone(String),
    /// It breaks the protocol.
    Broken(String),
    /// It asks for a larger ring, which cannot be made.
    NoRoom {
        bytes: u64,
        err: Error,
    },
}

#[derive(Debug, Default)]
pub struct Answers(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    reader: Option<Arc<Reader>>,
    config: Option<BufferConfig>,
    /// The reader of the ring that was made anew while the first was read: its turn comes after.
    next: Option<Reader>,
    /// What this worker has said that its answers are.
    caps: Option<gst::Caps>,
    /// What is in front of the answers in the ring that is read.
    prefix: FramePrefix,
    /// The metadata of the ring that is read has been looked at.
    current: bool,
}

impl Answers {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the ring, unless it is there.
    pub fn open(&self, name: &str, config: BufferConfig) -> Result<(), Error> {
        let mut ring = self.ring();
        if ring.reader.is_none() {
            let reader = Reader::create(name, &config)?;
            // Whatever downstream holds on to, the worker never waits for it.
            reader.set_evacuation(true);
            *ring = Ring {
                reader: Some(Arc::new(reader)),
                config: Some(config),
                ..Ring::default()
            };
        }
        Ok(())
    }

    fn reader(&self) -> Option<Arc<Reader>> {
        self.ring().reader.clone()
    }

    /// Bytes of the ring, while there is one.
    pub fn size(&self) -> Option<u64> {
        self.reader().map(|reader| reader.payload_size())
    }

    /// What comes next. Only one thread may ask at a time.
    pub fn next(&self, wait: Wait) -> Came {
        let Some(reader) = self.reader() else {
            return Came::Gone("its ring is closed".into());
        };
        match reader.read(wait) {
            Ok(Item::Frame(frame)) => match self.caps(&reader, frame.records()) {
                Ok(caps) => Came::Answer(Answer {
                    frame,
                    caps,
                    prefix: self.ring().prefix,
                }),
                Err(what) => Came::Broken(format!("it announced {what}")),
            },
            Ok(Item::Message(records)) => match self.caps(&reader, &records) {
                Ok(_) => Came::Other,
                Err(what) => Came::Broken(format!("it announced {what}")),
            },
            Ok(Item::Resize(bytes)) => self.resize(&reader, bytes),
            // Only for who reads nothing but the newest.
            Ok(Item::Skipped { .. }) => Came::Other,
            Err(Error::Timeout { .. }) => Came::Nothing,
            Err(Error::Interrupted) => Came::Interrupted,
            Err(err @ (Error::WriterClosed { .. } | Error::WriterDead { .. })) => {
                let died = matches!(err, Error::WriterDead { .. });
                if self.read_next(&reader, died) {
                    Came::Other
                } else {
                    Came::Gone(err.to_string())
                }
            }
            Err(err) => Came::Broken(err.to_string()),
        }
    }

    /// What the worker says that answers are from here on; `None` if it has said nothing.
    fn caps(&self, reader: &Reader, records: &Records) -> Result<Option<gst::Caps>, String> {
        let mut ring = self.ring();
        if !std::mem::replace(&mut ring.current, true)
            && let Ok(Some(metadata)) = reader.metadata()
        {
            ring.prefix = stream_info::to_prefix(&metadata);
            // Other workers may say there whatever they like.
            if let Ok(caps) = stream_info::to_caps(&metadata) {
                ring.caps = Some(caps);
            }
        }
        if let Some(text) = records.caps() {
            ring.caps = Some(stream_info::parse_caps(text)?);
        }
        Ok(ring.caps.clone())
    }

    /// The worker asks for a ring of so many bytes.
    fn resize(&self, reader: &Reader, bytes: u64) -> Came {
        let mut ring = self.ring();
        let Some(config) = ring.config.filter(|_| ring.next.is_none()) else {
            // It asked before it knew of that one, which answers another request: it asks again
            // there.
            return Came::Other;
        };
        let size = bytes.clamp(1, MOST);
        if size.next_multiple_of(64) == reader.payload_size() {
            reader.keep_size();
            return Came::Other;
        }
        let config = BufferConfig {
            payload_size: size,
            ..config
        };
        match reader.replace(&config) {
            Ok(next) => {
                ring.next = Some(next);
                Came::Other
            }
            Err(err) => {
                reader.keep_size();
                Came::NoRoom { bytes, err }
            }
        }
    }

    /// The worker is done with this ring: reads the one that was made in its place, if it goes on
    /// there.
    fn read_next(&self, reader: &Reader, died: bool) -> bool {
        let mut ring = self.ring();
        // One that died on its way to the next ring is known by not having come there.
        let came = |next: &mut Reader| !died || next.writer() != WriterState::None;
        if reader.is_stream_ended() {
            return false;
        }
        let Some(next) = ring.next.take_if(came) else {
            return false;
        };
        ring.reader = Some(Arc::new(next));
        ring.current = false;
        true
    }

    /// The worker is left, and answers of its must not be taken for those of the next one. If it has
    /// `gone` there will be none, and the next one may have come already.
    pub fn leave(&self, gone: bool) -> Connection {
        let (reader, next) = {
            let mut ring = self.ring();
            ring.caps = None;
            ring.prefix = FramePrefix::None;
            ring.current = false;
            (ring.reader.clone(), ring.next.take())
        };
        let Some(reader) = reader else {
            return Connection::default();
        };
        let replaced = next.is_some();
        drop(next);
        if replaced || !gone || !reader.forget_writer() {
            reader.close();
            *self.ring() = Ring::default();
        }
        Connection::reading(&reader)
    }

    /// Closes the ring.
    pub fn close(&self) -> Connection {
        let ring = std::mem::take(&mut *self.ring());
        drop(ring.next);
        ring.reader.map_or(Connection::default(), |reader| {
            reader.close();
            Connection::reading(&reader)
        })
    }

    /// What is known of it now.
    pub fn connection(&self) -> Connection {
        (self.reader()).map_or(Connection::default(), |reader| Connection::reading(&reader))
    }
}
