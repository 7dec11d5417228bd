//! Free bytes that a writer did not set any more: it died between two steps of publishing.

use std::sync::atomic::Ordering;

use super::Shared;
use crate::protocol::extension;
use crate::protocol::layout::offset;

impl Shared {
    /// Sets the free bytes right after a writer that died while it published a frame, when all that
    /// it announced has been read: it had changed one of position and free bytes, not yet both.
    /// `pid` is its own, or 0 if the next one has closed already.
    pub(super) fn mend(&self, pid: u64) {
        let Some(oieb) = self.oieb() else { return };
        // Acquire, with the Release in `handoff::publish` and the SeqCst in `attach::claim_writer`.
        let writer = || {
            let count = oieb.word(offset::PAYLOAD_WRITTEN_COUNT);
            let pid = oieb.word(offset::WRITER_PID).load(Ordering::Acquire);
            (pid, count.load(Ordering::Acquire))
        };
        let before = writer();
        let position = self.position();
        // Locked: nothing is given back meanwhile.
        let held = self.held();
        let free = oieb.word(offset::PAYLOAD_FREE_BYTES);
        // Acquire, with the Release in `handoff::publish`: if the next writer has changed it, the look
        // below finds that writer.
        let now = free.load(Ordering::Acquire);
        let used = self
            .unread(position.at)
            .saturating_add(held.credits.bytes());
        let Some(due) = self.sizes.payload.checked_sub(used) else {
            return;
        };
        // A ring may also be full of what another thread of ours is about to take.
        if pid == 0 && used == 0 && now == 0 {
            return;
        }
        // If the next writer has not come until here, all of this is of the one that died. Should it
        // come now: a difference is right whatever it takes off meanwhile.
        if before.0 == pid && before == writer() {
            // Release, with the Acquire in `handoff::look_at_room`: what is free has been read.
            free.fetch_add(due.wrapping_sub(now), Ordering::Release);
        }
    }

    /// Sets the free bytes right after a writer that died like that and whose place the next one took
    /// before anybody looked. While that one lives it may at any moment be between two of its steps,
    /// but not when it says that it waits for room.
    pub(super) fn recover(&self) {
        let Some(oieb) = self.oieb() else { return };
        let count = || {
            oieb.word(offset::PAYLOAD_WRITTEN_COUNT)
                .load(Ordering::Acquire)
        };
        let wanted = || extension::wanted(&self.segment, &self.sizes);
        // Acquire in the first: all that it published is seen, its posts too.
        let before = (wanted(), count());
        if before.0 == 0 || self.sem_write.value().is_ok_and(|posts| posts > 0) {
            return;
        }
        let position = self.position();
        // Locked: nothing is given back meanwhile.
        let held = self.held();
        let free = oieb.word(offset::PAYLOAD_FREE_BYTES);
        let now = free.load(Ordering::Acquire);
        let held = held.credits.bytes();
        // Where the positions are equal the ring may also be full of what another thread of ours is
        // about to take.
        let is_read = self.unread(position.at) == 0 && now.saturating_add(held) > 0;
        let due = self.sizes.payload.checked_sub(held);
        let lost = due.and_then(|due| due.checked_sub(now)).unwrap_or(0);
        // Had it published something meanwhile and seen none of its changes undone, we would see by
        // the Acquire above that it does not wait, or if it waits again, that it counts more.
        if is_read && lost > 0 && before == (wanted(), count()) {
            // A difference is right whatever it takes off meanwhile. Release: as in `mend`.
            free.fetch_add(lost, Ordering::Release);
        }
    }
}
