//! Whether a block finds a place: the rest of the active segment, and the space of the log.

use super::Writer;
use crate::index::IndexBuilder;
use crate::limits::{
    BLOCK_ALIGN, BLOCKS_WAITING_MAX, FULL_RESERVE_BYTES, RESERVE_FILES, SEGMENT_HEADER_BYTES,
    SPACE_REFUSE_PERCENT, SPACE_THROTTLE_PERCENT, data_end,
};
use crate::prepare::OpenSegment;
use crate::retire::Retired;
use crate::room::{NoRoom, Space};

impl Writer {
    /// Makes sure that the active segment takes `len` bytes.
    pub(super) fn make_room(&mut self, len: u64, hard_state: bool) -> Result<(), NoRoom> {
        if self.error.is_some() {
            return Err(NoRoom::Poisoned);
        }
        if SEGMENT_HEADER_BYTES as u64 + len > data_end(self.config.segment_bytes) {
            return Err(NoRoom::TooLarge);
        }
        if self.waiting.len() >= BLOCKS_WAITING_MAX {
            return Err(NoRoom::Busy);
        }
        let space = self.space();
        let refused = (space.used + len) * 100 > space.limit * SPACE_REFUSE_PERCENT;
        if refused && !hard_state {
            return Err(NoRoom::Full);
        }
        if self.active.seq > self.allowed {
            return Err(NoRoom::Preparing);
        }
        if self.at + len > data_end(self.active.bytes) {
            let (whole, allowed) = (self.active.usable == self.active.bytes, self.allowed);
            let fits = |next: &mut OpenSegment| {
                SEGMENT_HEADER_BYTES as u64 + len <= next.usable && next.seq <= allowed
            };
            let Some(next) = self.next.take_if(|next| whole && fits(next)) else {
                let making = self.preparer.is_some() && !self.reserving;
                let more = self.next.is_some() || making || self.may_prepare();
                let more = more && (hard_state || !self.disk_full);
                return Err(if more { NoRoom::Preparing } else { NoRoom::Full });
            };
            self.switch(next);
        }
        if !hard_state && self.is_short_of(len) {
            return Err(NoRoom::Full);
        }
        if self.at + len > self.active.usable {
            return Err(NoRoom::Preparing);
        }
        assert!(self.error.is_none(), "a poisoned log has no room");
        assert!(self.at + len <= data_end(self.active.bytes), "the index keeps its room");
        Ok(())
    }

    /// Whether the file system is full, and a block of groups of `len` bytes would take what a
    /// node needs to vote, or to start once more.
    pub(super) fn is_short_of(&self, len: u64) -> bool {
        let end = self.active.usable.min(data_end(self.active.bytes));
        let reserve = FULL_RESERVE_BYTES.min(self.active.bytes / 4);
        let short = self.next.is_none() && self.at + len + reserve > end;
        self.disk_full && (short || self.reserve.len() < RESERVE_FILES)
    }

    fn switch(&mut self, next: OpenSegment) {
        assert!(next.seq > self.active.seq, "sequences only grow");
        assert!(next.handle != self.active.handle, "segments are different files");
        assert!(self.next.is_none(), "the next segment was taken");
        let index = std::mem::replace(&mut self.index, IndexBuilder::new(next.bytes));
        self.retired.push(Retired::new(self.active, index, self.hard_state_block));
        self.active = next;
        self.at = SEGMENT_HEADER_BYTES as u64;
        self.assert_segments();
    }

    pub(crate) fn space(&self) -> Space {
        let unsealed = self.retired.iter().filter(|retired| !retired.is_sealed()).count();
        let full = (self.sealed.len() - self.free() + unsealed) as u64;
        let used = full * self.config.segment_bytes + self.at;
        let limit = self.config.segments_max() as u64 * self.config.segment_bytes;
        assert!(used >= self.at, "the active segment takes space");
        assert!(limit > self.config.segment_bytes, "there is room for a next segment");
        let short = self.is_short_of(BLOCK_ALIGN as u64);
        Space {
            used,
            limit,
            refuse_appends: short || used * 100 >= limit * SPACE_REFUSE_PERCENT,
            throttle: self.disk_full || used * 100 >= limit * SPACE_THROTTLE_PERCENT,
        }
    }
}
