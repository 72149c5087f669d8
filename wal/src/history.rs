//! The memory of a recovery while it goes through the blocks in order: what is due next, what was
//! kept, what is lost, what stands behind the end.

use std::collections::VecDeque;

use crate::block::BlockHead;
use crate::body::RecordMeta;

use crate::limits::REPORT_RANGES_MAX;
use crate::parse::{BadBody, check_headers_only, check_record};
use crate::record::Kind;
use crate::replay::{CorruptRange, Replay, Report, Tail};
use crate::scan::Page;
use crate::segment::{Kept, Place};
use crate::table::{Seen, Verdict, decide};

/// See the module.
#[derive(Debug)]
pub(crate) struct History {
    durable_upto: u64,
    /// The block that is due.
    next: u64,
    cut: bool,
    /// The last block kept that is readable, and its checksum.
    last: Place,
    last_crc: u32,
    pub(crate) hard_state_block: u64,
    torn: u64,
    stale: u64,
    pub(crate) queue: VecDeque<Replay>,
    pub(crate) report: Report,
}

/// What became of a block.
#[derive(Debug)]
pub(crate) struct Taken {
    /// Whether it was kept, in part at least.
    pub(crate) kept: bool,
    /// Its records, for the index.
    pub(crate) metas: Vec<RecordMeta>,
}

impl History {
    pub(crate) fn new(durable_upto: u64, report: Report) -> History {
        assert!(report.durable_upto == durable_upto, "the report says the D that is judged by");
        assert!(report.blocks == 0 && report.corrupt.is_empty(), "nothing was met yet");
        History {
            durable_upto,
            // What cannot be read before the first block met is lost, but for what was let go.
            next: report.start.first_due(),
            cut: false,
            last: Place::default(),
            last_crc: 0,
            hard_state_block: 0,
            torn: 0,
            stale: 0,
            queue: VecDeque::new(),
            report,
        }
    }

    fn assert_invariants(&self) {
        let next = self.next;
        assert!(next > 0, "blocks are numbered from 1");
        assert!(next >= self.report.start.first_due(), "what was let go is not due");
        assert!(self.last.block < next, "what was kept is not due again");
        assert!(self.hard_state_block < next, "hard state is in what was kept or lost");
        assert!(self.last.block > 0 || self.last_crc == 0, "the checksum is that of a block");
        assert!(!self.cut || next > self.durable_upto, "the log ends after what was promised");
        assert!(self.report.corrupt.len() <= REPORT_RANGES_MAX, "a report is bounded");
        assert!((self.report.blocks == 0) == (self.last.block == 0), "kept blocks are counted");
        assert!(self.cut || self.report.dropped == 0, "blocks are dropped behind the end only");
    }

    pub(crate) fn on_page(&mut self, page: Page) {
        match page {
            Page::Zero => {}
            Page::Stale => self.stale += 1,
            Page::Torn => self.torn += 1,
        }
    }

    /// A valid block head with the bytes of its block. `void`: an earlier recovery discarded it.
    pub(crate) fn on_block(
        &mut self,
        place: Place,
        head: &BlockHead,
        block: &[u8],
        void: bool,
    ) -> Taken {
        assert!(place.block == head.seq(), "the place is that of the block");
        assert!(place.len as usize == head.bytes(), "the place is that of the block");
        assert!(block.len() == head.bytes(), "the block is there whole");
        let nothing = Taken { kept: false, metas: Vec::new() };
        if self.cut && !void {
            self.report.dropped += 1;
            return nothing;
        }
        let body = head.body(block).expect("a valid head fits its block");
        let records = read_records(body, head.headers_crc.get());
        let seen = if void { Seen::Void } else { self.seen(&records, head) };
        let decision = decide(seen, self.next, self.durable_upto);
        if let Some(lost) = decision.lost {
            self.lose(lost, Some(head.hard_state_block.get()));
        }
        match decision.verdict {
            Verdict::Skip => self.torn += u64::from(!void),
            Verdict::Cut => {
                self.cut = true;
                // A whole block behind a hole is no torn block.
                let whole = matches!(seen, Seen::Whole { .. });
                self.report.dropped += u64::from(whole);
                self.torn += u64::from(!whole);
                assert!(place.block > self.durable_upto, "what was promised is never cut");
            }
            Verdict::Corrupt => {
                let hard_state = head.hard_state_block.get();
                self.lose((place.block, place.block), Some(hard_state));
                self.keep(place, head);
                return Taken { kept: true, metas: Vec::new() };
            }
            Verdict::Keep | Verdict::KeepGood => {
                let metas = self.replay(place, body, records.unwrap_or_default());
                self.keep(place, head);
                return Taken { kept: true, metas };
            }
        }
        self.assert_invariants();
        nothing
    }

    fn seen(&self, records: &Records, head: &BlockHead) -> Seen {
        assert!(!self.cut, "nothing is judged behind the end");
        let seq = head.seq();
        match records {
            Err(_) => Seen::BadHeaders { seq },
            Ok(records) if records.iter().any(|(_, good)| !good) => Seen::BadRecords { seq },
            Ok(_) => {
                let known = seq == self.next && self.last_crc != 0 && self.last.block + 1 == seq;
                let before = head.previous_header_crc.get();
                Seen::Whole { seq, linked: !known || before == 0 || before == self.last_crc }
            }
        }
    }

    fn keep(&mut self, place: Place, head: &BlockHead) {
        assert!(place.block > self.last.block, "blocks are kept in order");
        assert!(place.block + 1 >= self.next, "no lost block is kept");
        assert!(place.segment >= self.last.segment, "segments are read in order");
        let behind = place.segment > self.last.segment || place.offset >= self.last.end();
        assert!(behind, "a block stands behind those before it");
        assert!(!self.cut, "nothing is kept behind the end");
        self.last = place;
        self.last_crc = head.crc.get();
        self.hard_state_block = head.hard_state_block.get();
        self.next = place.block + 1;
        self.report.blocks += 1;
        (self.torn, self.stale) = (0, 0);
        assert!(self.report.blocks <= place.block, "a block is kept once");
        self.assert_invariants();
    }

    fn replay(
        &mut self,
        place: Place,
        body: &[u8],
        records: Vec<(RecordMeta, bool)>,
    ) -> Vec<RecordMeta> {
        assert!(place.block == self.next, "what is replayed is the block that was due");
        let damaged = |&(meta, good): &(RecordMeta, bool)| !good && meta.kind.is_hard_state();
        if records.iter().any(damaged) {
            let (after, blocks) = (self.last, (place.block, place.block));
            self.queue.push_back(Replay::Corrupt { after, blocks, hard_state_maybe_lost: true });
        }
        let mut metas = Vec::with_capacity(records.len());
        let before = self.report.records + self.report.damaged;
        for (meta, good) in records {
            metas.push(meta);
            if !good {
                self.report.damaged += 1;
                self.queue.push_back(Replay::Damaged { meta, place });
                continue;
            }
            if matches!(meta.kind, Kind::Closing | Kind::SegmentIndex) {
                continue;
            }
            self.report.records += 1;
            let bytes = body[meta.range()].to_vec();
            self.queue.push_back(Replay::Record { meta, place, bytes });
        }
        let counted = self.report.records + self.report.damaged - before;
        assert!(counted <= metas.len() as u64, "a record is replayed or damaged, not both");
        metas
    }

    fn lose(&mut self, (first, last): (u64, u64), hard_state_block: Option<u64>) {
        assert!(first <= last, "lost blocks {first} to {last}");
        assert!(last <= self.durable_upto, "only promised blocks are lost");
        assert!(self.next == first, "what is lost is what was due");
        assert!(self.last.block < first, "what was kept is not lost");
        // A later block names the last one with hard state. If that is before the lost ones,
        // none of them held any; if it is among or after them, one of them may have.
        let hard_state_maybe_lost = hard_state_block.is_none_or(|block| block >= first);
        if hard_state_maybe_lost {
            self.hard_state_block = last;
        }
        let after = self.last;
        if self.report.corrupt.len() < REPORT_RANGES_MAX {
            self.report.corrupt.push(CorruptRange { after, first, last });
        }
        let blocks = (first, last);
        self.queue.push_back(Replay::Corrupt { after, blocks, hard_state_maybe_lost });
        self.next = last + 1;
        self.last_crc = 0;
        self.assert_invariants();
    }

    /// The end of the log. Returns the last block that counts, and whether promised blocks are
    /// missing at the end. With `gone`, the segment behind that end is: at least one was there.
    pub(crate) fn finish(&mut self, gone: Option<u64>) -> (Kept, bool) {
        if gone.is_some() {
            self.durable_upto = self.durable_upto.max(self.next);
        }
        (self.report.durable_upto, self.report.gone) = (self.durable_upto, gone);
        let lost = self.next <= self.durable_upto;
        if lost {
            self.lose((self.next, self.durable_upto), None);
        }
        let block_seq = self.next - 1;
        let readable = self.last.block == block_seq && block_seq > 0;
        let header_crc = if readable { self.last_crc } else { 0 };
        self.report.kept =
            if readable { self.last } else { Place { block: block_seq, ..Place::default() } };
        self.report.tail = match (self.report.dropped, self.torn, self.stale) {
            (0, 0, 0) => Tail::Zero,
            (0, 0, _) => Tail::Stale,
            (0, _, _) => Tail::Torn,
            _ => Tail::Hole,
        };
        assert!(block_seq >= self.durable_upto, "what was promised is never cut");
        assert!(self.report.kept.block == block_seq, "the report says what is kept");
        assert!(header_crc == 0 || readable, "the checksum is that of the last block kept");
        self.assert_invariants();
        (Kept { segment_seq: self.last.segment, block_seq, header_crc }, lost)
    }
}

type Records = Result<Vec<(RecordMeta, bool)>, BadBody>;

/// The records of a body, each with whether its bytes are whole.
fn read_records(body: &[u8], headers_crc: u32) -> Records {
    let metas = check_headers_only(body, headers_crc)?;
    assert!(!metas.is_empty(), "an empty body is not readable");
    let check = |meta: RecordMeta| match check_record(body, &meta) {
        Ok(full) => (full, true),
        Err(_) => (meta, false),
    };
    Ok(metas.into_iter().map(check).collect())
}
