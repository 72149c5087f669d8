//! Recovery: from a directory to a log that can be written. One operation is in flight at a time.
//!
//! 1. *Look*: the header and the index head of each segment.
//! 2. *Find the end*: the newest segments, back to the first that holds a block; this gives D.
//! 3. *Replay*: all blocks in order, judged by the recovery table. Each segment is synced and gets
//!    its index if it lacks one.
//! 4. *Start*: a new segment whose header names the last block kept.

use palisade_netio::{
    Completion, Errno, FileFacts, Handle, Op, OpenHow, Payload, Pool, Purpose, Run, SlotId,
};

use crate::block::parse;
use crate::config::{Config, WalError};
use crate::found::{Found, gone, is_index, kept_limit, log_start, next_seq, says_nothing_alone};
use crate::history::History;
use crate::identity::IDENTITY_NAME;
use crate::index::IndexBuilder;
use crate::limits::{
    BLOCK_ALIGN, BLOCK_BYTES_MAX, REPORT_RANGES_MAX, RETRIES_MAX, SEGMENTS_MAX, data_end,
    reserve_min,
};
use crate::prepare::{OpenSegment, Preparer, Progress};
use crate::recycle::LogStart;
use crate::replay::{Replay, Report, Tail};
use crate::retire::Retired;
use crate::scan::{Met, Page, Scanner};
use crate::segment::{
    BadSegment, Kept, Place, SEGMENT_SEQ_FOUND_MAX, SEGMENT_SEQ_MAX, SegmentHeader,
    parse_segment_name, segment_name,
};
use crate::writer::{SegmentFacts, Start};

#[derive(Debug)]
enum Step {
    OpenDir,
    List,
    Open(Stage),
    Facts,
    Header,
    IndexHead,
    Close(Stage),
    Scan(Stage, Scanner),
    /// What was read becomes durable; then the index that says so may be written.
    Sync(Handle, Option<Box<Retired>>),
    Seal(Box<Retired>),
    Start(Box<Preparer>),
    Done(Box<Preparer>),
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Look,
    FindEnd,
    Replay,
}

/// The state machine.
#[derive(Debug)]
pub(crate) struct Recovery {
    config: Config,
    dir: Option<Handle>,
    found: Vec<Found>,
    strangers: Vec<String>,
    at: usize,
    handle: Option<Handle>,
    window: Option<SlotId>,
    step: Step,
    in_flight: Option<u32>,
    next_local: u32,
    retries: u32,
    /// The highest number that any block, index or header calls durable.
    durable_upto: u64,
    unreadable: u64,
    /// Where the log begins, once every header was looked at.
    log_start: LogStart,
    history: Option<History>,
    index: Option<IndexBuilder>,
    /// Blocks of the segment being scanned above this were discarded by an earlier recovery.
    limit: u64,
    /// Files that hold nothing, by size, each with its sequence.
    spares: Vec<(u64, u64)>,
    /// The file that became the new segment, by its old sequence.
    taken_again: Option<u64>,
    start: Option<(Kept, Report)>,
    error: Option<WalError>,
}

impl Recovery {
    pub(crate) fn new(config: Config) -> Recovery {
        assert!(config.validate().is_ok(), "the settings were checked");
        let recovery = Recovery {
            config,
            dir: None,
            found: Vec::new(),
            strangers: Vec::new(),
            at: 0,
            handle: None,
            window: None,
            step: Step::OpenDir,
            in_flight: None,
            next_local: 0,
            retries: 0,
            durable_upto: 0,
            unreadable: 0,
            log_start: LogStart::default(),
            history: None,
            index: None,
            limit: u64::MAX,
            spares: Vec::new(),
            taken_again: None,
            start: None,
            error: None,
        };
        recovery.assert_invariants();
        recovery
    }

    /// What holds between two calls, as long as nothing failed.
    fn assert_invariants(&self) {
        assert!(self.error.is_none(), "a failed recovery holds nothing to be true");
        assert!(self.at <= self.found.len() && self.found.len() <= SEGMENTS_MAX);
        assert!(self.retries <= RETRIES_MAX, "retries are bounded");
        assert!(self.in_flight.is_none() || self.queue_is_empty(), "items are taken first");
        let opening = matches!(self.step, Step::OpenDir);
        assert!(opening == self.dir.is_none(), "the directory is open");
        let reading = match &self.step {
            Step::Facts | Step::Header | Step::IndexHead => Some(Stage::Look),
            Step::Close(stage) | Step::Scan(stage, _) => Some(*stage),
            Step::Sync(..) | Step::Seal(_) => Some(Stage::Replay),
            _ => None,
        };
        assert!(reading.is_none() || self.at < self.found.len(), "a segment is being read");
        let closing = matches!(self.step, Step::Start(_) | Step::Done(_));
        assert!(reading.is_some() == self.handle.is_some(), "files are open while they are read");
        let stage = if let Step::Open(stage) = &self.step { Some(*stage) } else { reading };
        let replays = closing || stage == Some(Stage::Replay);
        assert!(replays == self.history.is_some(), "a replay has a history, and nothing else has");
        let scans = matches!(self.step, Step::Scan(..));
        let indexes = scans && stage == Some(Stage::Replay);
        assert!(indexes == self.index.is_some(), "an index is made while blocks are replayed");
        assert!(!scans || self.window.is_some(), "a scan has a window");
        assert!(!closing || self.window.is_none(), "the window was given back");
        assert!(closing == self.start.is_some(), "what was kept is known at the end");
        assert!(closing || self.spares.is_empty(), "nothing is taken again before all is read");
        assert!(self.taken_again.is_none_or(|seq| !self.is_spare(seq)), "taken once");
    }

    pub(crate) fn poisoned(&self) -> Option<&WalError> {
        self.error.as_ref()
    }

    /// The next item. Items come from completions and from taking items, never from
    /// [`poll_ops`](Recovery::poll_ops): an owner that takes all items before it polls and waits
    /// never waits in vain.
    pub(crate) fn poll_replay(&mut self, pool: &mut Pool) -> Option<Replay> {
        if self.error.is_some() {
            return None;
        }
        if self.queue_is_empty() && self.in_flight.is_none() {
            self.advance(pool);
        }
        let item = self.history.as_mut().and_then(|history| history.queue.pop_front());
        if self.queue_is_empty() && self.in_flight.is_none() {
            // So that the next poll has an operation to give, and not only more items.
            self.advance(pool);
        }
        if let Some(item) = item {
            return Some(item);
        }
        if !matches!(self.step, Step::Done(_)) {
            return None;
        }
        assert!(self.window.is_none() && pool.quota(Purpose::Read) > 0);
        self.assert_invariants();
        let report = self.start.as_ref().map(|(_, report)| report.clone());
        Some(Replay::Done { report: report.expect("a started log has a report") })
    }

    /// Hands over to the writer, once, after [`Replay::Done`].
    pub(crate) fn take_start(&mut self) -> Start {
        let Step::Done(preparer) = std::mem::replace(&mut self.step, Step::Over) else {
            panic!("recovery is not done")
        };
        assert!(self.in_flight.is_none() && self.error.is_none(), "nothing is under way");
        assert!(self.queue_is_empty(), "everything was replayed");
        let (kept, report) = self.start.take().expect("a started log knows what it kept");
        assert!(report.segment == preparer.seq(), "the report names the segment");
        assert!(kept.block_seq >= report.durable_upto, "what was promised is kept");
        let history = self.history.take().expect("a started log has a history");
        let in_use = self.found.iter().filter(|one| !one.renamed && !self.is_spare(one.seq));
        let sealed = in_use
            .filter(|one| Some(one.seq) != self.taken_again)
            .map(|one| SegmentFacts { seq: one.seq, end: one.end, sealed: true })
            .collect::<Vec<_>>();
        assert!(sealed.iter().all(|facts| facts.seq < preparer.seq()), "the new segment is last");
        assert!(history.hard_state_block <= kept.block_seq, "hard state is in what was kept");
        let least = reserve_min(self.config.segment_bytes);
        let spares = std::mem::take(&mut self.spares);
        let (reserve, spares): (Vec<_>, Vec<_>) =
            spares.into_iter().partition(|&(size, _)| size >= least);
        let names = |files: Vec<(u64, u64)>| files.into_iter().map(|(_, seq)| seq).collect();
        Start {
            log_start: self.log_start,
            config: self.config.clone(),
            dir: self.dir.expect("the directory is open"),
            next_seq: preparer.seq() + 1,
            preparer: *preparer,
            sealed,
            spares: names(spares),
            reserve: names(reserve),
            last_block: kept.block_seq,
            last_crc: kept.header_crc,
            hard_state_block: history.hard_state_block,
            next_local: self.next_local,
        }
    }

    fn is_spare(&self, seq: u64) -> bool {
        self.spares.iter().any(|&(_, spare)| spare == seq)
    }

    pub(crate) fn poll_ops(&mut self, pool: &mut Pool, out: &mut Vec<(u32, Op)>) {
        if self.error.is_some() || self.in_flight.is_some() || !self.queue_is_empty() {
            return;
        }
        self.assert_invariants();
        match self.next_op(pool) {
            Err(error) => self.fail(pool, error),
            Ok(None) => {}
            Ok(Some(op)) => {
                let local = self.next_local;
                self.next_local = self.next_local.wrapping_add(1);
                self.in_flight = Some(local);
                out.push((local, op));
                self.assert_invariants();
            }
        }
    }

    fn fail(&mut self, pool: &mut Pool, error: WalError) {
        assert!(self.in_flight.is_none(), "one operation at a time");
        assert!(self.error.is_none(), "a recovery fails once");
        self.error = Some(error);
        if let Some(window) = self.window.take() {
            pool.release(window);
        }
        match &mut self.step {
            Step::Seal(retired) => retired.give_back(pool),
            Step::Start(preparer) => preparer.give_back(pool),
            _ => {}
        }
        assert!(self.window.is_none(), "a failed recovery holds no window");
    }

    /// Takes the steps that need no operation, until one does or the owner must take replayed
    /// items.
    fn advance(&mut self, pool: &mut Pool) {
        assert!(self.in_flight.is_none() && self.error.is_none());
        while self.queue_is_empty() {
            match &mut self.step {
                Step::Open(stage) if self.at == self.found.len() => {
                    let stage = *stage;
                    self.end_stage(pool, stage);
                }
                Step::Scan(stage, scanner) => {
                    let stage = *stage;
                    match scanner.step(pool) {
                        Met::Read => return,
                        met => self.on_met(pool, stage, met),
                    }
                }
                _ => return,
            }
        }
    }

    fn queue_is_empty(&self) -> bool {
        self.history.as_ref().is_none_or(|history| history.queue.is_empty())
    }

    /// The operation of this step; none when all is done.
    fn next_op(&mut self, pool: &mut Pool) -> Result<Option<Op>, WalError> {
        let dir = &self.config.dir;
        let op = match &mut self.step {
            Step::OpenDir => Op::Open { path: dir.clone(), how: OpenHow::Directory },
            Step::List => Op::List { path: dir.clone() },
            Step::Open(_) => {
                assert!(self.handle.is_none(), "one file is open at a time");
                let path = dir.join(segment_name(self.found[self.at].seq));
                Op::Open { path, how: OpenHow::ReadWrite }
            }
            Step::Facts => Op::Facts { handle: self.open_handle() },
            Step::Header => self.read_page(pool, 0)?,
            Step::IndexHead => self.read_page(pool, data_end(self.found[self.at].bytes))?,
            Step::Close(_) => Op::Close { handle: self.open_handle() },
            Step::Sync(handle, _) => Op::Sync { handle: *handle, metadata: true },
            Step::Scan(_, scanner) => scanner.read(pool),
            Step::Seal(retired) => retired
                .poll_op(pool, &self.config, u64::MAX)
                .ok_or(WalError::NoMemory("a segment index"))?,
            Step::Start(preparer) => {
                preparer.poll_op(pool).ok_or(WalError::NoMemory("a new segment"))?
            }
            Step::Done(_) | Step::Over => return Ok(None),
        };
        Ok(Some(op))
    }

    fn open_handle(&self) -> Handle {
        self.handle.expect("a segment is open")
    }

    fn window(&mut self, pool: &mut Pool) -> Result<SlotId, WalError> {
        assert!(self.start.is_none(), "nothing is read after the end");
        if self.window.is_none() {
            self.window = pool.take(Purpose::Read, BLOCK_BYTES_MAX);
        }
        let large = |slot: SlotId| pool.capacity(slot) >= BLOCK_BYTES_MAX;
        assert!(self.window.is_none_or(large), "the largest block fits the window");
        self.window.ok_or(WalError::NoMemory("reading the log"))
    }

    fn read_page(&mut self, pool: &mut Pool, offset: u64) -> Result<Op, WalError> {
        let end = offset + BLOCK_ALIGN as u64;
        assert!(offset.is_multiple_of(BLOCK_ALIGN as u64), "pages are aligned");
        assert!(end <= self.found[self.at].size, "a page is read inside its file");
        let slot = self.window(pool)?;
        let run = Run { slot, at: 0, len: BLOCK_ALIGN as u32 };
        Ok(Op::Read { handle: self.open_handle(), offset, run })
    }

    pub(crate) fn on_completion(&mut self, pool: &mut Pool, local: u32, done: &Completion) {
        assert!(self.in_flight == Some(local), "the operation is one of this log");
        assert!(self.queue_is_empty(), "the log is read on when all was taken");
        self.in_flight = None;
        match self.on_done(pool, done) {
            Ok(()) => {
                self.advance(pool);
                self.assert_invariants();
            }
            Err(error) => self.fail(pool, error),
        }
    }

    fn on_done(&mut self, pool: &mut Pool, done: &Completion) -> Result<(), WalError> {
        match &mut self.step {
            Step::Scan(_, scanner) => return scanner.on_read(pool, done),
            Step::Seal(_) => return self.on_sealed(pool, done),
            Step::Start(_) => return self.on_started(pool, done),
            _ => {}
        }
        let what = self.what();
        assert!(!matches!(self.step, Step::Done(_) | Step::Over), "a started log asks nothing");
        let count = match done.result {
            Ok(count) => count,
            Err(errno) => {
                let reading = matches!(self.step, Step::Header | Step::IndexHead);
                let barrier = matches!(self.step, Step::Sync(..));
                let again = (errno.is_transient() && !barrier) || (reading && self.retries == 0);
                self.retries += 1;
                if again && self.retries <= RETRIES_MAX {
                    return Ok(());
                }
                if matches!(self.step, Step::Close(_)) || (reading && !errno.is_transient()) {
                    // A failed close has closed. An unreadable page is as good as a damaged one.
                    0
                } else {
                    return Err(WalError::Io { what, errno });
                }
            }
        };
        self.retries = 0;
        self.take_answer(pool, what, count, &done.payload)
    }

    fn take_answer(
        &mut self,
        pool: &mut Pool,
        what: &'static str,
        count: u32,
        payload: &Payload,
    ) -> Result<(), WalError> {
        let bad = WalError::BadAnswer { what };
        match &mut self.step {
            Step::OpenDir => {
                let Payload::Handle(handle) = payload else { return Err(bad) };
                self.dir = Some(*handle);
                self.step = Step::List;
            }
            Step::List => {
                let Payload::Names(names) = payload else { return Err(bad) };
                assert!(self.found.is_empty() && self.at == 0, "the directory is read once");
                self.on_names(names)?;
                self.step = Step::Open(Stage::Look);
            }
            Step::Open(stage) => {
                let Payload::Handle(handle) = payload else { return Err(bad) };
                let stage = *stage;
                assert!(self.handle.is_none(), "one file is open at a time");
                self.handle = Some(*handle);
                self.step = Step::Facts;
                if stage != Stage::Look {
                    assert!(!self.found[self.at].renamed, "nothing counts in a spare file");
                    let scanner = self.scanner(pool, *handle)?;
                    self.limit = kept_limit(&self.found, self.at);
                    let bytes = self.found[self.at].bytes;
                    self.index = (stage == Stage::Replay).then(|| IndexBuilder::new(bytes));
                    self.step = Step::Scan(stage, scanner);
                }
            }
            Step::Facts => {
                let Payload::Facts(facts) = payload else { return Err(bad) };
                check_alignment(facts)?;
                self.found[self.at].size = facts.size;
                let page = BLOCK_ALIGN as u64;
                let whole = facts.size >= page;
                self.step = if whole { Step::Header } else { Step::Close(Stage::Look) };
            }
            Step::Header => self.on_header(pool, count)?,
            Step::IndexHead => self.on_index_head(pool, count),
            Step::Close(stage) => {
                let stage = *stage;
                self.step = self.after_close(stage);
            }
            Step::Sync(_, retired) => {
                assert!(self.index.is_none(), "the segment was read to its end");
                self.step = match retired.take() {
                    Some(retired) => Step::Seal(retired),
                    None => Step::Close(Stage::Replay),
                };
            }
            _ => return Err(bad),
        }
        Ok(())
    }

    /// Segments have no higher number than this, but for those that this node started from there.
    fn found_max(&self) -> u64 {
        let started = self.config.started.unwrap_or_default().newest;
        assert!(started <= SEGMENT_SEQ_MAX, "the settings were checked");
        SEGMENT_SEQ_FOUND_MAX.max(started)
    }

    fn on_names(&mut self, names: &[String]) -> Result<(), WalError> {
        let found_max = self.found_max();
        assert!(found_max <= SEGMENT_SEQ_MAX, "segments are numbered up to there");
        for name in names {
            match parse_segment_name(name) {
                Some(seq) if seq > found_max => {
                    return Err(WalError::Refused("the number of a segment is too high"));
                }
                Some(seq) if self.found.len() < SEGMENTS_MAX => {
                    self.found.push(Found::new(seq));
                }
                Some(_) => return Err(WalError::Refused("too many segments")),
                None if name == IDENTITY_NAME || self.strangers.len() >= REPORT_RANGES_MAX => {}
                None => self.strangers.push(name.clone()),
            }
        }
        self.found.sort_by_key(|found| found.seq);
        assert!(self.strangers.len() <= REPORT_RANGES_MAX, "a report is bounded");
        assert!(self.found.len() + self.strangers.len() <= names.len(), "a name is one file");
        Ok(())
    }

    fn on_header(&mut self, pool: &mut Pool, count: u32) -> Result<(), WalError> {
        let (slot, found_max) = (self.window(pool)?, self.found_max());
        let found = &mut self.found[self.at];
        assert!(found.header.is_none() && !found.unreadable, "a header is read once");
        let expect = self.config.expect(found.seq, 0);
        let page = match count as usize >= BLOCK_ALIGN {
            true => SegmentHeader::parse(&pool.bytes(slot)[..BLOCK_ALIGN], &expect),
            false => Err(BadSegment::Unreadable),
        };
        self.step = Step::Close(Stage::Look);
        match page {
            Err(BadSegment::Zero) => {}
            Err(BadSegment::Unreadable) => found.unreadable = true,
            Err(BadSegment::Foreign) => return Err(WalError::Foreign { segment: found.seq }),
            Ok(header) if header.seq.get() < found.seq => {
                return Err(WalError::Foreign { segment: found.seq });
            }
            Ok(header) if header.seq.get() > found_max => {
                return Err(WalError::Refused("the number of a segment is too high"));
            }
            Ok(header) => {
                found.renamed = header.seq.get() > found.seq;
                found.bytes = header.bytes.get();
                found.header = Some(header);
                let kept = header.kept().map_or(0, |kept| kept.block_seq);
                self.durable_upto = self.durable_upto.max(kept);
            }
        }
        found.assert_invariants();
        if !found.renamed && found.size >= data_end(found.bytes) + BLOCK_ALIGN as u64 {
            self.step = Step::IndexHead;
        }
        Ok(())
    }

    fn on_index_head(&mut self, pool: &mut Pool, count: u32) {
        self.step = Step::Close(Stage::Look);
        let Some(slot) = self.window.filter(|_| count as usize >= BLOCK_ALIGN) else { return };
        let found = &mut self.found[self.at];
        assert!(!found.renamed, "nothing counts in a file that is taken again");
        let expect = self.config.expect(found.seq, data_end(found.bytes));
        assert!(found.index.is_none() && !found.kept, "an index is looked at once, and first");
        found.index = parse(&pool.bytes(slot)[..BLOCK_ALIGN], &expect).ok();
        let upto = found.index.map_or(0, |head| head.durable_upto.get());
        self.durable_upto = self.durable_upto.max(upto);
    }

    fn after_close(&mut self, stage: Stage) -> Step {
        assert!(self.handle.is_some(), "a file was open");
        self.handle = None;
        self.found[self.at].assert_invariants();
        match stage {
            Stage::Look => self.at += 1,
            Stage::FindEnd => self.at = self.next_to_find(),
            Stage::Replay => self.at = self.next_to_replay(self.at + 1),
        }
        Step::Open(stage)
    }

    /// Going back from `at`: the next segment that may hold the end of the log, or whose header
    /// cannot say what was discarded before it.
    fn next_to_find(&self) -> usize {
        let ended = self.found.iter().any(|one| one.first_block.is_some());
        let part = |one: &Found| !one.renamed && !one.is_let_go(self.log_start);
        let wanted = |one: &Found| part(one) && (!ended || one.header.is_none());
        let before = self.found[..self.at].iter().rposition(wanted);
        assert!(before.is_none_or(|before| before < self.at), "the end is looked for backwards");
        before.unwrap_or(self.found.len())
    }

    fn next_to_replay(&mut self, from: usize) -> usize {
        assert!(from <= self.found.len(), "segments are replayed in order");
        for at in from..self.found.len() {
            let one = &self.found[at];
            assert!(!one.kept, "a segment is replayed once");
            let let_go = one.is_let_go(self.log_start);
            if !one.renamed && !one.empty && !let_go {
                return at;
            }
            let history = self.history.as_mut().expect("a replay has a history");
            if one.junk {
                history.on_page(Page::Torn);
            }
            if one.stale {
                history.on_page(Page::Stale);
            }
        }
        self.found.len()
    }

    fn scanner(&mut self, pool: &mut Pool, handle: Handle) -> Result<Scanner, WalError> {
        let slot = self.window(pool)?;
        let found = &self.found[self.at];
        assert!(!found.kept && !found.empty, "a segment is read again only for its replay");
        let end = data_end(found.bytes).min(found.size);
        Ok(Scanner::new(handle, self.config.expect(found.seq, 0), slot, end))
    }

    fn end_stage(&mut self, pool: &mut Pool, stage: Stage) {
        assert!(self.at == self.found.len(), "every segment was seen to");
        assert!(self.handle.is_none(), "every segment was closed");
        match stage {
            Stage::Look => {
                let named = self.config.started.unwrap_or_default().start;
                self.log_start = log_start(&self.found, named);
                // A log begins at a durable block.
                self.durable_upto = self.durable_upto.max(self.log_start.block);
                self.at = self.found.len();
                self.at = self.next_to_find();
                self.step = Step::Open(Stage::FindEnd);
            }
            Stage::FindEnd => {
                let report = self.report();
                assert!(self.unreadable == 0, "pages are counted in the replay");
                assert!(self.history.is_none(), "the log is replayed once");
                self.history = Some(History::new(self.durable_upto, report));
                self.at = self.next_to_replay(0);
                self.step = Step::Open(Stage::Replay);
            }
            Stage::Replay => self.begin_segment(pool),
        }
    }

    fn report(&mut self) -> Report {
        assert!(self.durable_upto >= self.log_start.block, "a log begins at a durable block");
        Report {
            tail: Tail::Fresh,
            durable_upto: self.durable_upto,
            start: self.log_start,
            kept: Place::default(),
            segments: 0,
            blocks: 0,
            records: 0,
            dropped: 0,
            corrupt: Vec::new(),
            gone: None,
            headless: 0,
            damaged: 0,
            unreadable_pages: 0,
            strangers: std::mem::take(&mut self.strangers),
            segment: 0,
        }
    }

    fn on_met(&mut self, pool: &mut Pool, stage: Stage, met: Met) {
        assert!(stage != Stage::Look, "a first look reads no blocks");
        assert!((stage == Stage::Replay) == self.history.is_some(), "a replay has a history");
        let limit = self.limit;
        let found = &mut self.found[self.at];
        match met {
            Met::Read => unreachable!("a read is an operation"),
            Met::Page(page) => {
                found.junk |= page == Page::Torn;
                found.stale |= page == Page::Stale;
                if let Some(history) = self.history.as_mut().filter(|_| stage == Stage::Replay) {
                    history.on_page(page);
                }
            }
            Met::End => self.on_scanned(stage),
            Met::Block { offset, head } => {
                let void = head.seq() > limit;
                let Step::Scan(_, scanner) = &self.step else { unreachable!("a scan goes on") };
                let block = scanner.block(pool, offset, &head);
                // Where it stands is not known without the header.
                let index = found.header.is_none() && is_index(&head, block);
                let (segment, len) = (found.seq, head.total_len.get());
                let place = Place { segment, offset, block: head.seq(), len };
                if stage == Stage::FindEnd {
                    found.junk |= void;
                    if !void {
                        self.durable_upto = self.durable_upto.max(head.durable_upto.get());
                        match index {
                            true => found.index = Some(head),
                            false => found.first_block = found.first_block.or(Some(place)),
                        }
                    }
                    return;
                }
                if index {
                    return;
                }
                let history = self.history.as_mut().expect("a replay has a history");
                let taken = history.on_block(place, &head, block, void);
                found.junk |= !taken.kept;
                assert!(!(void && taken.kept), "what was discarded never comes back");
                if taken.kept {
                    assert!(place.offset >= found.end, "blocks are kept in order");
                    found.kept = true;
                    found.end = place.end();
                    let index = self.index.as_mut().expect("a scan has an index");
                    index.note(&place, &taken.metas);
                    assert!(index.end() == found.end, "the index has every block kept");
                }
            }
        }
    }

    fn on_scanned(&mut self, stage: Stage) {
        let found = &mut self.found[self.at];
        if stage == Stage::FindEnd {
            assert!(!found.kept, "the end is looked for before the replay");
            found.empty = found.first_block.is_none();
            self.step = Step::Close(stage);
            return;
        }
        let old = std::mem::replace(&mut self.step, Step::Over);
        let Step::Scan(_, scanner) = old else { unreachable!("a scan ended") };
        self.unreadable += scanner.unreadable;
        let handle = scanner.handle();
        assert!(self.handle == Some(handle), "the segment that was read is synced");
        let index = self.index.take().expect("a scan has an index");
        assert!(found.kept == (index.last_block() > 0), "the index has every block kept");
        let complete = found.index.is_some_and(|head| head.seq() == index.last_block());
        // Without its header nobody knows where its index should stand.
        let retired = (found.kept && !complete && found.header.is_some()).then(|| {
            let (seq, bytes) = (found.seq, found.bytes);
            let segment = OpenSegment { seq, handle, bytes, usable: bytes };
            let history = self.history.as_ref().expect("a replay has a history");
            let hard_state = history.hard_state_block.min(index.last_block());
            Box::new(Retired::new(segment, index, hard_state))
        });
        self.step = Step::Sync(handle, retired);
    }

    fn on_sealed(&mut self, pool: &mut Pool, done: &Completion) -> Result<(), WalError> {
        assert!(self.found[self.at].kept, "only a segment that holds blocks is sealed");
        let Step::Seal(retired) = &mut self.step else { unreachable!("a segment is sealed") };
        let writing = retired.is_writing();
        match retired.on_completion(pool, done) {
            // An index can be made again, and a full disk must not keep the node from voting. What
            // its barrier says counts.
            Err(WalError::Io { errno: Errno::NOSPC, .. }) if writing => {
                retired.give_back(pool);
                self.step = Step::Close(Stage::Replay);
            }
            Err(error) => return Err(error),
            Ok(()) if retired.is_closed() => self.step = self.after_close(Stage::Replay),
            Ok(()) => {}
        }
        Ok(())
    }

    /// All was replayed: starts the segment that names the last block kept.
    fn begin_segment(&mut self, pool: &mut Pool) {
        if let Some(window) = self.window.take() {
            pool.release(window);
        }
        assert!(self.start.is_none() && self.spares.is_empty(), "one segment is started");
        let fresh = self.found.is_empty();
        let history = self.history.as_mut().expect("a replay has a history");
        let started = self.config.started.unwrap_or_default();
        // Where nothing at all is kept, the whole log is lost, which its owner knows by itself.
        let some = history.report.blocks > 0;
        let (kept, lost) =
            history.finish(gone(&self.found, started, self.log_start).filter(|_| some));
        let seq = next_seq(&self.found).max(started.newest + 1);
        let mut report = history.report.clone();
        report.segment = seq;
        report.segments = self.found.iter().filter(|one| one.kept).count();
        let headless = |one: &&Found| one.kept && one.header.is_none();
        report.headless = self.found.iter().filter(headless).count() as u64;
        assert!(report.segments as u64 <= report.blocks, "a segment that is kept holds a block");
        assert!(report.blocks <= kept.block_seq, "every kept block has its number");
        report.unreadable_pages = self.unreadable;
        if fresh {
            report.tail = Tail::Fresh;
        }
        // What holds nothing is taken again, so that a crash loop does not eat the disk. Where
        // promised blocks are missing at the end, only what is surely empty.
        let last = self.found.iter().rposition(|one| one.kept).map_or(0, |at| at + 1);
        let usable = |&(at, one): &(usize, &Found)| {
            // What was let go is reused in its turn: it may say what an older one discarded.
            let keeps = one.kept || one.unreadable || one.is_let_go(self.log_start);
            let keeps = keeps || (lost || at < last) && one.junk;
            one.renamed || !keeps && (at >= last || says_nothing_alone(&self.found, one))
        };
        let usable = self.found.iter().enumerate().filter(usable);
        let mut spares: Vec<(u64, u64)> = usable.map(|(_, one)| (one.size, one.seq)).collect();
        spares.sort_unstable();
        self.spares = spares;
        let let_go = self.found.iter().find(|one| one.is_let_go(self.log_start));
        let spare = let_go.map(|one| one.seq).or_else(|| self.spares.pop().map(|(_, seq)| seq));
        self.taken_again = spare;
        let kept_too = |one: &Found| one.kept && Some(one.seq) == spare;
        assert!(!self.found.iter().any(kept_too), "what was kept is not overwritten");
        assert!(kept.segment_seq < seq, "the new segment stands behind what was kept");
        let place = self.config.expect(seq, 0);
        let header =
            SegmentHeader::new(&place, self.config.segment_bytes, (!fresh).then_some(kept))
                .with_start(self.log_start);
        let dir = self.dir.expect("the directory is open");
        self.step = Step::Start(Box::new(Preparer::new(&self.config.dir, dir, header, spare)));
        self.start = Some((kept, report));
    }

    fn on_started(&mut self, pool: &mut Pool, done: &Completion) -> Result<(), WalError> {
        let Step::Start(preparer) = &mut self.step else { unreachable!("a segment is started") };
        match preparer.on_completion(pool, done)? {
            Progress::Going => return Ok(()),
            // What was kept ready is used as far as it goes: a full disk must not keep the node
            // from voting.
            Progress::NoSpace if preparer.settle() => return Ok(()),
            Progress::NoSpace => {
                return Err(WalError::Io { what: "starting a segment", errno: Errno::NOSPC });
            }
            Progress::Usable => {}
        }
        let Step::Start(preparer) = std::mem::replace(&mut self.step, Step::Over) else {
            unreachable!("a segment is started")
        };
        assert!(preparer.segment().is_some(), "the new segment is usable");
        assert!(self.window.is_none(), "the window was given back");
        self.step = Step::Done(preparer);
        Ok(())
    }

    /// The files that are open, the directory among them.
    pub(crate) fn open_handles(&self) -> Vec<Handle> {
        let started = match &self.step {
            Step::Start(preparer) | Step::Done(preparer) => preparer.open_handle(),
            _ => None,
        };
        assert!(started.is_none() || self.handle.is_none(), "what was read was closed before");
        self.dir.into_iter().chain(self.handle).chain(started).collect()
    }

    fn what(&self) -> &'static str {
        match self.step {
            Step::OpenDir => "opening the directory of the log",
            Step::List => "listing the directory of the log",
            Step::Open(_) => "opening a segment",
            Step::Facts => "looking at a segment",
            Step::Header => "reading a segment header",
            Step::IndexHead => "reading a segment index",
            Step::Close(_) => "closing a segment",
            Step::Scan(..) => "reading a segment",
            Step::Sync(..) | Step::Seal(_) => "syncing a segment",
            Step::Start(_) | Step::Done(_) | Step::Over => "starting a segment",
        }
    }
}

/// Refuses file systems that cannot take blocks of 4096 bytes directly, or on which a torn write
/// of one block could reach into another one.
pub(crate) fn check_alignment(facts: &FileFacts) -> Result<(), WalError> {
    if facts.offset_align == 0 || facts.memory_align == 0 {
        return Err(WalError::Refused(
            "it reports no direct-I/O alignment; use a directory on ext4 or XFS on a disk",
        ));
    }
    if facts.offset_align as usize > BLOCK_ALIGN || facts.memory_align as usize > BLOCK_ALIGN {
        return Err(WalError::Refused(
            "its direct-I/O alignment is above 4096; use a device with blocks of 512 or 4096 bytes",
        ));
    }
    if facts.block as usize > BLOCK_ALIGN {
        return Err(WalError::Refused(
            "its blocks are above 4096 bytes; make the file system with blocks of 4096 bytes",
        ));
    }
    if facts.sector as usize > BLOCK_ALIGN {
        return Err(WalError::Refused(
            "its device writes sectors above 4096 bytes; use one of 512 or 4096 bytes",
        ));
    }
    Ok(())
}
