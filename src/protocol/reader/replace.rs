//! A buffer made anew, with other sizes, under the same name.

use std::sync::atomic::Ordering;

use super::{BufferConfig, Error, Reader, Result};
use crate::protocol::buffer;
use crate::protocol::extension;
use crate::protocol::wait::{Interrupt, Wait};

/// How often the ring is emptied of what the writer before left, when a new one may just have come.
const DRAINS: u32 = 100;

impl Reader {
    /// Makes the buffer anew, with other sizes, under the same name: nobody else can take the name
    /// meanwhile. The writer learns of it ([`Error::ReaderReplaced`]), and attaches to the new one.
    ///
    /// Of this Reader remains what has been written: frames that are held stay valid, and those
    /// that the writer published before it learned of the change can still be read, until
    /// [`Error::WriterClosed`] (or [`Error::WriterDead`]) says that there are no more. Who wants
    /// none of them drops it.
    ///
    /// There is room in `/dev/shm` for both as long as frames of the old one are held or the writer
    /// is attached to it.
    ///
    /// # Errors
    /// As [`Reader::create`]; then everything is as it was. [`Error::Closed`], also if it was
    /// replaced before.
    pub fn replace(&self, config: &BufferConfig) -> Result<Reader> {
        self.replace_while(config, &|| true)
    }

    /// As [`Reader::replace`]; a large ring takes its time, since the kernel clears all of it.
    ///
    /// # Errors
    /// As [`Reader::replace`]; [`Error::Interrupted`] when `interrupt` is set. What has room in
    /// `/dev/shm` by then keeps it, until this is called again, which goes on there, or
    /// [`Reader::keep_size`], or the end.
    pub fn replace_interrupted_by(
        &self,
        config: &BufferConfig,
        interrupt: &Interrupt,
    ) -> Result<Reader> {
        self.replace_while(config, &|| !interrupt.is_set())
    }

    fn replace_while(&self, config: &BufferConfig, go_on: &dyn Fn() -> bool) -> Result<Reader> {
        let shared = &self.shared;
        let sizes = config.sizes()?;
        let mut owned = shared.owned();
        let Some(old) = owned.as_mut() else {
            return Err(Error::Closed {
                name: self.name().into(),
            });
        };
        let asked = shared.asked.load(Ordering::Relaxed);
        let mut created = buffer::replace(old, &shared.sizes, sizes, config, asked, go_on)?;
        created.lock_problem = shared.lock_problem.clone();
        // Release, with the Acquire in `writer_state` and `close_if_unused`.
        shared.replaced.store(true, Ordering::Release);
        drop(owned.take());
        drop(owned);
        let reader = Self::new(shared.names.clone(), sizes, created);
        reader.set_evacuation(shared.evacuates.load(Ordering::Relaxed));
        Ok(reader)
    }

    /// For a reader that must not take what a writer left that is gone for frames of the next one:
    /// throws that away, if the next one is here already. False if it is not, or has the metadata of
    /// the one before: then this is closed, and a new buffer will do.
    pub fn forget_writer(&self) -> bool {
        for _ in 0..DRAINS {
            loop {
                match self.read_frame(Wait::no()) {
                    // The next one has not been told to write anything yet.
                    Ok(_) => {}
                    Err(Error::Timeout { .. }) => break,
                    Err(Error::WriterClosed { .. } | Error::WriterDead { .. }) => break,
                    Err(_) => {
                        self.close();
                        return false;
                    }
                }
            }
            // Metadata is written once.
            if !matches!(self.metadata(), Ok(None)) {
                break;
            }
            if self.close_if_unused() {
                return false;
            }
            if self.is_writer_connected() && self.used_bytes() == 0 {
                return true;
            }
        }
        self.close();
        false
    }

    /// Answers the last [`Item::Resize`](super::Item::Resize): the buffer stays as it is. (To make it
    /// anew is the other answer.)
    pub fn keep_size(&self) {
        let asked = self.shared.asked.load(Ordering::Relaxed);
        extension::note_answer(&self.shared.segment, &self.shared.sizes, asked);
        if let Some(owned) = self.shared.owned().as_mut() {
            owned.stay();
        }
    }

    /// When the writer has closed: whether that was the end of its stream. One that leaves a buffer
    /// that was [replaced](Reader::replace) goes on in the new one. False for a writer of another
    /// implementation, which does not tell.
    pub fn is_stream_ended(&self) -> bool {
        extension::is_ended(&self.shared.segment, &self.shared.sizes)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::protocol::Writer;
    use crate::testing::unique_name;

    /// Interrupted after so many steps of the reservation.
    fn replace(reader: &Reader, size: u64, steps: u32) -> Result<Reader> {
        let left = Cell::new(steps);
        let config = BufferConfig::new(64, size);
        reader.replace_while(&config, &|| left.replace(left.get().saturating_sub(1)) > 0)
    }

    /// Bytes of what is to take the place of the buffer.
    fn begun(reader: &Reader) -> Option<u64> {
        let path = format!("/dev/shm/sem.sem-n-{}", reader.name());
        fs::metadata(path).ok().map(|file| file.blocks() * 512)
    }

    const STEP: u64 = 16 << 20;

    #[test]
    fn to_make_it_anew_goes_on_where_it_was_interrupted() {
        let name = unique_name("interrupted");
        let reader = Reader::create(&name, &BufferConfig::new(64, 1024)).unwrap();
        let writer = Writer::attach(&name).unwrap();
        let size = 2 * STEP + 4096;
        for steps in [0, 1, 0, 1] {
            let before = begun(&reader).unwrap_or(0);
            let made = replace(&reader, size, steps);
            assert!(matches!(made, Err(Error::Interrupted)), "{made:?}");
            let reserved = begun(&reader).unwrap_or(0);
            assert_eq!(reserved, before + u64::from(steps) * STEP);
            writer.write_frame(b"meanwhile").unwrap();
            assert_eq!(&*reader.read_frame(Wait::no()).unwrap(), b"meanwhile");
        }
        let new = replace(&reader, size, 1).unwrap();
        assert_eq!((new.payload_size(), begun(&reader)), (size, None));
        let writer = Writer::attach(&name).unwrap();
        writer.write_frame(b"frame").unwrap();
        assert_eq!(&*new.read_frame(Wait::no()).unwrap(), b"frame");
    }

    #[test]
    fn what_was_begun_and_is_not_wanted_goes() {
        let name = unique_name("not-wanted");
        let reader = Reader::create(&name, &BufferConfig::new(64, 1024)).unwrap();
        let begin = || {
            assert!(replace(&reader, 3 * STEP, 2).is_err());
            assert_eq!(begun(&reader), Some(2 * STEP));
        };
        begin();
        reader.keep_size();
        assert_eq!(begun(&reader), None);
        begin();
        // Somebody removed it by hand.
        fs::remove_file(format!("/dev/shm/sem.sem-n-{name}")).unwrap();
        begin();
        // A smaller one is begun anew.
        assert!(replace(&reader, STEP + 4096, 1).is_err());
        assert_eq!(begun(&reader), Some(STEP));
        reader.close();
        assert_eq!(begun(&reader), None);
    }
}
