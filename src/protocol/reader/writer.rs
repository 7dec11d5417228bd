//! The writer, as its reader sees it.

use std::sync::atomic::Ordering;

use super::{Error, Position, Reader, Result, Shared, Wait};
#[cfg(feature = "plugin")]
use crate::protocol::buffer::changes;
use crate::protocol::extension;
use crate::protocol::handoff;
use crate::protocol::layout::offset;
use crate::protocol::liveness::Hints;
#[cfg(feature = "plugin")]
use crate::sys::changes::Changes;

/// The writer of a buffer, as its reader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterState {
    /// None has come yet.
    None,
    /// It is there.
    Connected {
        /// Its process id, in its own pid namespace.
        pid: u64,
    },
    /// It closed the stream; frames may still be there to be read.
    Closed,
    /// It ended without closing; frames may still be there to be read.
    Dead {
        /// The process id that it had.
        pid: u64,
    },
}

impl Reader {
    /// What is known of the writer now.
    pub fn writer(&self) -> WriterState {
        self.shared.writer_state()
    }

    /// What tells that a writer of ours may be going, as that is not to be looked for all the time; none
    /// for those of other implementations.
    #[cfg(feature = "plugin")]
    pub(crate) fn writer_changes(&self) -> Option<Changes> {
        let shared = &self.shared;
        let pid = shared.oieb()?.get(offset::WRITER_PID);
        if !extension::is_noted_writer(&shared.segment, &shared.sizes, pid) {
            return None;
        }
        changes(&shared.names, &shared.segment)
    }

    /// Whether there is a writer, and alive.
    pub fn is_writer_connected(&self) -> bool {
        matches!(self.writer(), WriterState::Connected { .. })
    }

    /// Waits until a writer attaches.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Interrupted`], [`Error::Closed`].
    pub fn wait_for_writer<'a>(&self, wait: impl Into<Wait<'a>>) -> Result<()> {
        let waiting = wait.into().start();
        while !self.is_writer_connected() {
            self.shared.usable()?;
            if waiting.is_interrupted() {
                return Err(Error::Interrupted);
            }
            let Some(slice) = waiting.slice() else {
                return Err(Error::Timeout {
                    name: self.name().into(),
                    waited: waiting.waited(),
                });
            };
            waiting.sleep(slice);
        }
        Ok(())
    }
}

impl Position {
    /// Whether there may be a writer whose first frame has not been taken. It can have come and the
    /// one before it gone without our looking, and as the same process; the kernel counts for us.
    /// Where it does not, the number 1 is believed.
    /// Writers of ours count themselves, too: `attachments`.
    pub(super) fn new_writer_came(&self, attachments: u64) -> bool {
        attachments > self.writers
            || self
                .opens
                .as_ref()
                .is_none_or(|opens| opens.count() > self.writers)
    }
}

impl Shared {
    /// How many writers of ours have attached, as far as is known.
    pub(super) fn attachments(&self) -> u64 {
        extension::attachments(&self.segment, &self.sizes)
    }

    pub(super) fn has_writer(&self) -> bool {
        // Acquire, with the SeqCst in `attach::claim_writer`.
        self.oieb()
            .is_some_and(|oieb| oieb.word(offset::WRITER_PID).load(Ordering::Acquire) != 0)
    }

    /// Whether the writer of now is one of ours. It stores its position after all that is before
    /// that, so a frame need not be posted to be whole; one before it may have died before its post.
    pub(super) fn is_writer_ours(&self) -> bool {
        self.oieb().is_some_and(|oieb| {
            // Acquire, with the SeqCst in `attach::claim_writer`: what it noted before is seen.
            let pid = oieb.word(offset::WRITER_PID).load(Ordering::Acquire);
            extension::is_noted_writer(&self.segment, &self.sizes, pid)
        })
    }

    pub(super) fn writer_state(&self) -> WriterState {
        let Some(oieb) = self.oieb() else {
            return WriterState::None;
        };
        let word = oieb.word(offset::WRITER_PID);
        let mut pid = handoff::look_at_writer(word);
        if pid != 0 {
            let hints = Hints {
                holds_lock: extension::is_noted_writer(&self.segment, &self.sizes, pid),
                progress: oieb.get(offset::PAYLOAD_WRITTEN_COUNT),
                lock_file: None,
            };
            let dead = self.writer.is_dead(&self.segment, pid, hints);
            // Acquire: as in `look_at_writer`.
            let now = word.load(Ordering::Acquire);
            // Once more: it may have closed, and another of its process have come, between the two.
            let dead = dead && now == pid && self.writer.is_dead(&self.segment, pid, hints);
            let mut position = self.position();
            position.writer_came = true;
            if now == pid {
                return if dead {
                    WriterState::Dead { pid }
                } else {
                    WriterState::Connected { pid }
                };
            }
            pid = now;
        }
        let mut position = self.position();
        if pid != 0 {
            return WriterState::Connected { pid };
        }
        // One that came and went between two looks leaves frames, metadata or its trace.
        if !position.writer_came {
            let metadata = oieb.word(offset::METADATA_WRITTEN_BYTES);
            // Acquire, with the Release in `handoff::announce`.
            position.writer_came = metadata.load(Ordering::Acquire) != 0
                || extension::attachments(&self.segment, &self.sizes) != 0;
            // The trace may be that of one who came after the look above: it stores its pid before
            // these (Release in `handoff::announce` and `extension::count_attachment`).
            pid = handoff::look_at_writer(word);
            if pid != 0 {
                return WriterState::Connected { pid };
            }
        }
        // Acquire, with the Release in `Reader::replace`.
        if position.writer_came || self.replaced.load(Ordering::Acquire) {
            WriterState::Closed
        } else {
            WriterState::None
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "plugin")]
    #[test]
    fn who_leaves_is_noticed_also_when_something_of_it_is_still_held() {
        use std::time::Duration;

        use crate::protocol::{BufferConfig, Reader, Wait, Writer};
        use crate::sys::changes::Bell;
        use crate::testing::unique_name;

        const LONG: Duration = Duration::from_secs(120);

        let bell = Bell::new().unwrap();
        let name = unique_name("changes");
        let reader = Reader::create(&name, &BufferConfig::new(1024, 65536)).unwrap();
        assert!(reader.writer_changes().is_none());
        let writer = Writer::attach(&name).unwrap();
        writer.write_frame(b"frame").unwrap();
        let of_writer = reader.writer_changes().unwrap();
        let held = writer.reserve(10, Wait::no()).unwrap();
        assert!(!bell.wait(Some(&of_writer), Duration::ZERO));
        writer.close();
        assert!(bell.wait(Some(&of_writer), LONG));
        drop(held);

        let next = Writer::attach(&name).unwrap();
        let of_reader = next.reader_changes().unwrap();
        let held = reader.read_frame(LONG).unwrap();
        assert!(!bell.wait(Some(&of_reader), Duration::ZERO));
        reader.close();
        assert!(bell.wait(Some(&of_reader), LONG));
        assert_eq!(&*held, b"frame");
        // It has no name any more by which it could be watched.
        assert!(next.reader_changes().is_none());
    }
}
