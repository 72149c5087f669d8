//! The segments that the log goes on in: prepared ahead, and the files that they are made of.

use palisade_netio::{Completion, Nanos, Op, Pool};

use super::{Task, Writer};
use crate::config::WalError;
use crate::limits::{PREPARE_PACE_NS, PREPARE_RETRY_NS, RESERVE_AFTER_NS, RESERVE_FILES};
use crate::prepare::{Preparer, Progress};
use crate::retire::Retired;
use crate::segment::SegmentHeader;

impl Writer {
    pub(super) fn poll_preparer(&mut self, pool: &mut Pool, out: &mut Vec<(u32, Op)>) {
        if let Some(handle) = self.ready.take() {
            self.issue(Task::Close, Op::Close { handle }, out);
        }
        if self.reserve_due().is_some_and(|due| due <= self.now) {
            self.reserving = true;
            let preparer = self.new_preparer().only_reserve();
            self.preparer = Some(preparer);
        } else if self.preparer.is_none() && self.at >= self.active.bytes / 2 && self.may_prepare()
        {
            self.preparer = Some(self.new_preparer());
        }
        let Some(preparer) = &mut self.preparer else { return };
        // Zeros compete with durable writes, so they go slowly while there is room to write.
        let hungry = self.at >= self.active.usable / 4 * 3;
        let calm = self.waiting.is_empty() && self.now >= self.prepare_at;
        let zeroing = preparer.is_zeroing();
        if (self.disk_full && self.now < self.prepare_at) || (zeroing && !hungry && !calm) {
            return;
        }
        if let Some(op) = preparer.poll_op(pool) {
            assert!(!preparer.is_waiting(), "the preparation asks for one operation at a time");
            if zeroing {
                self.prepare_at = self.now.after(PREPARE_PACE_NS);
            }
            self.issue(Task::Prepare, op, out);
        }
    }

    /// When a file of the reserve is to be prepared.
    pub(super) fn reserve_due(&self) -> Option<Nanos> {
        let idle = self.preparer.is_none() && self.error.is_none();
        self.started
            .filter(|_| idle && self.reserve.len() < RESERVE_FILES)
            .map(|at| at.after(RESERVE_AFTER_NS))
    }

    fn new_preparer(&mut self) -> Preparer {
        assert!(self.preparer.is_none(), "one preparation at a time");
        assert!(self.next_seq > self.active.seq, "sequences only grow");
        let place = self.config.expect(self.next_seq, 0);
        let header = SegmentHeader::new(&place, self.config.segment_bytes, None);
        let header = header.with_start(self.gone.start());
        let free = (!self.reserving && self.free() > 0).then(|| self.gone.take(&mut self.sealed));
        let spare = match free.or_else(|| self.spares.pop()) {
            None if self.reserve.len() > RESERVE_FILES => self.reserve.pop(),
            spare => spare,
        };
        self.next_seq += 1;
        Preparer::new(&self.config.dir, self.dir, header, spare)
    }

    pub(super) fn may_prepare(&self) -> bool {
        self.next.is_none() && self.segments() - self.free() < self.config.segments_max()
    }

    /// Segments that take space, the one being prepared included.
    fn segments(&self) -> usize {
        let preparing =
            self.preparer.as_ref().is_some_and(|preparer| preparer.seq() != self.active.seq)
                && !self.reserving;
        let unsealed = self.retired.iter().filter(|retired| !retired.is_sealed()).count();
        assert!(unsealed <= self.retired.len(), "a retired segment counts once");
        self.sealed.len() + unsealed + 1 + usize::from(self.next.is_some() || preparing)
    }

    pub(super) fn on_prepared(
        &mut self,
        pool: &mut Pool,
        done: &Completion,
    ) -> Result<(), WalError> {
        let preparer = self.preparer.as_mut().expect("a preparation is under way");
        match preparer.on_completion(pool, done)? {
            Progress::Going => {}
            Progress::NoSpace => {
                assert!(!preparer.is_done(), "a finished segment needs no space");
                self.disk_full = true;
                self.prepare_at = self.now.after(PREPARE_RETRY_NS);
            }
            Progress::Usable => {
                let segment = preparer.segment().expect("a usable segment is open");
                self.disk_full = false;
                if self.reserving {
                    assert!(self.ready.is_none(), "the one before is closed");
                    self.reserve.push(segment.seq);
                    (self.ready, self.reserving) = (Some(segment.handle), false);
                    preparer.give_back(pool);
                    self.preparer = None;
                    return Ok(());
                }
                if segment.seq == self.active.seq {
                    assert!(segment.usable > self.active.usable, "a step brings more");
                    assert!(segment.handle == self.active.handle, "it is the same file");
                    self.active = segment;
                } else {
                    assert!(self.next.is_none_or(|next| next.seq == segment.seq), "one is next");
                    let before = self.next.map_or(0, |next| next.usable);
                    assert!(segment.usable > before, "a step brings more");
                    self.next = Some(segment);
                }
                if preparer.is_done() {
                    self.preparer = None;
                }
            }
        }
        Ok(())
    }

    /// How many of the oldest segments are free. A file that is still open is not.
    pub(super) fn free(&self) -> usize {
        let free = self.gone.free(&self.sealed, self.retired.first().map(Retired::seq));
        assert!(free <= self.sealed.len(), "only what is sealed is free");
        free
    }
}
