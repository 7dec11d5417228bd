//! Coming to a buffer that a reader made.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::reader::Looked;
use super::records::Room;
use super::{Error, Names, Result, Shared, State, Wait, Writer};
use crate::protocol::buffer::{self, Attached};
use crate::protocol::handoff;
use crate::protocol::layout::{FIRST_SEQUENCE, offset};
use crate::protocol::liveness::Patience;
use crate::protocol::slots::Slots;

/// How often [`Writer::attach_wait`] looks for a buffer that is not there yet.
const ATTACH_INTERVAL: Duration = Duration::from_millis(5);

impl Writer {
    /// Attaches to the buffer `name`, which its reader has made.
    ///
    /// # Errors
    /// [`Error::InvalidName`]; [`Error::BufferNotFound`], [`Error::ReaderClosed`] and
    /// [`Error::ReaderDead`] when there is no reader (yet); [`Error::WriterAlreadyConnected`];
    /// [`Error::Permission`]; [`Error::Version`] and [`Error::Corrupt`] when it is something else.
    pub fn attach(name: &str) -> Result<Self> {
        Self::try_attach(name, &mut Patience::default())
    }

    fn try_attach(name: &str, patience: &mut Patience) -> Result<Self> {
        let names = Names::new(name)?;
        let Attached {
            segment,
            sizes,
            abilities,
            sem_write,
            sem_read,
            reader,
        } = buffer::attach(&names, patience)?;
        let writer = Writer {
            shared: Arc::new(Shared {
                names,
                sizes,
                abilities,
                sem_write,
                sem_read,
                reader,
                state: Mutex::new(State {
                    slots: Slots::default(),
                    sequence: FIRST_SEQUENCE,
                    metadata_written: false,
                    follows: false,
                    reserved: None,
                    waiting: 0,
                    sleeping: 0,
                    wished: false,
                    looked: Looked::now(0),
                    room: Room::default(),
                    closed: false,
                }),
                unreserved: Condvar::new(),
                leaving: AtomicBool::new(false),
                dead_reader: AtomicU64::new(0),
                frames: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
                waits: AtomicU64::new(0),
                messages: AtomicU64::new(0),
                records_dropped: AtomicU64::new(0),
                segment,
            }),
        };
        // From here on dropping the writer takes our pid out again.
        let shared = &writer.shared;
        if let Some(oieb) = shared.oieb() {
            let mut state = shared.state();
            let at = handoff::look(oieb.word(offset::PAYLOAD_WRITE_POS));
            state.slots = Slots::new(at);
            // What was read of a writer before us shows no life.
            state.looked = Looked::now(oieb.get(offset::PAYLOAD_READ_COUNT));
            state.metadata_written = oieb.get(offset::METADATA_WRITTEN_BYTES) > 0;
            state.follows = oieb.get(offset::PAYLOAD_WRITTEN_COUNT) > 0;
            if at > shared.sizes.payload {
                let what = format!("the writer's position {at} is outside of the ring");
                drop(state);
                return Err(shared.names.corrupt(what));
            }
        }
        Ok(writer)
    }

    /// Whether the reader can go on with us: one of another implementation cannot when a writer before
    /// us has written frames, since ours are numbered from 1 again.
    ///
    /// # Errors
    /// [`Error::ReaderTaken`] when it cannot.
    pub fn check_first(&self) -> Result<()> {
        if self.shared.state().follows && !self.carries_records() {
            let name = self.name().into();
            return Err(Error::ReaderTaken { name });
        }
        Ok(())
    }

    /// The process id of the reader of buffer `name`, if there is one and it is alive; in its own pid
    /// namespace. Only looks: nothing is attached to, and the buffer may have a writer.
    ///
    /// # Errors
    /// As [`Writer::attach`], but for [`Error::WriterAlreadyConnected`].
    pub fn find_reader(name: &str) -> Result<u64> {
        buffer::find_reader(&Names::new(name)?)
    }

    /// Attaches as soon as there is a reader.
    ///
    /// # Errors
    /// As [`Writer::attach`], but while there is no reader it waits, and also while the buffer has a
    /// writer of another implementation whose process cannot be seen from here: that one counts as
    /// dead when it has done nothing for 5 seconds. [`Error::Interrupted`]; when the time is over,
    /// the reason why it could not attach.
    pub fn attach_wait<'a>(name: &str, wait: impl Into<Wait<'a>>) -> Result<Self> {
        Self::attach_wait_if(name, wait, |_| Ok(true))
    }

    /// Attaches as soon as there is a reader whose buffer `suits` takes; one that it does not take
    /// is left again, and the reader's next one is waited for, as it is when `suits` says why there is
    /// no reader.
    ///
    /// # Errors
    /// As [`Writer::attach_wait`], and those of `suits`.
    pub fn attach_wait_if<'a>(
        name: &str,
        wait: impl Into<Wait<'a>>,
        suits: impl Fn(&Writer) -> Result<bool>,
    ) -> Result<Self> {
        let waiting = wait.into().start();
        let mut patience = Patience::default();
        loop {
            let attached = Self::try_attach(name, &mut patience);
            let err = match attached.and_then(|writer| Ok((suits(&writer)?, writer))) {
                Ok((true, writer)) => return Ok(writer),
                Ok((false, writer)) => writer.shared.metadata_written(),
                Err(err) if err.is_no_reader() => err,
                Err(err @ Error::WriterAlreadyConnected { .. }) if patience.is_needed() => err,
                Err(err) => return Err(err),
            };
            if waiting.is_interrupted() {
                return Err(Error::Interrupted);
            }
            if waiting.slice().is_none() {
                return Err(err);
            }
            waiting.sleep(ATTACH_INTERVAL);
        }
    }
}
