//! One reader's place in one stream, and what it needs next.

use std::ops::Range;

use palisade_netio::{Nanos, SlotView};
use palisade_wal::Lsn;

use super::compress::Compressed;
use super::cut::{Cut, NoCut, Want, cut};
use super::limits::LEASE_NS_MAX;
use super::memory::{ExtentCount, Extents};
use super::queue::{Depth, Recent, SealedExtent};
use super::tail::Tail;
use super::wire::{EndReason, Fetch};

/// How often in a row a source may turn out not to hold what it should.
const MISSES_MAX: u32 = 3;

/// Where the records of a chunk are.
#[derive(Clone, Debug)]
pub enum Source {
    /// In memory of a shard.
    View {
        /// The bytes.
        view: SlotView,
        /// The part that is the chunk's body.
        range: Range<usize>,
    },
    /// In a sealed segment, to be mapped.
    Mapped {
        /// The segment, by way of a block in it.
        extent: SealedExtent,
        /// The part of the segment that is the chunk's body.
        range: Range<usize>,
    },
    /// Compressed, in memory that all who get it share.
    Compressed(Compressed),
}

/// What a cursor waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its turn.
    Ready,
    /// More to be committed.
    Tail,
    /// At least so much credit.
    Credit(u64),
    /// An answer with this ticket.
    Waiting(u64),
    /// Some time to pass.
    Later,
}

/// What a cursor does in its turn.
#[derive(Debug)]
pub(crate) enum Step {
    Chunk(Cut, Source),
    Read(SealedExtent, Want),
    Locate,
    Park(Phase),
    End(EndReason),
}

/// Bytes of records that a chunk should not exceed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Targets {
    /// From memory.
    pub(crate) memory: u32,
    /// From a segment.
    pub(crate) segment: u32,
    /// A chunk ends before the first group that starts at or behind a multiple of this: readers
    /// that began elsewhere get the same chunks.
    pub(crate) grid: Option<u64>,
}

/// What the next bytes come behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    /// What was asked for is the first.
    Nothing,
    /// The same; a log with this chain there takes a base in the place of what is let go.
    Log(u64),
    /// What was sent, with this chain.
    Sent(u64),
}

#[derive(Debug)]
pub(crate) struct Cursor {
    pub(crate) phase: Phase,
    /// Whether it is in its reader's list of ready cursors.
    pub(crate) listed: bool,
    /// Whether the reader was told where this side stands.
    pub(crate) told: bool,
    pub(crate) position: Lsn,
    pub(crate) credit: u64,
    behind: Behind,
    /// It is of no standby.
    shown: bool,
    to: Lsn,
    follow: bool,
    /// Where a reader that does not follow ends.
    bound: Option<Lsn>,
    misses: u32,
    /// Committed end at the last step.
    looked: Option<Lsn>,
    /// With their leases; a segment that nobody leases may be recycled.
    extents: Extents,
    /// When the first beat after they were named was.
    leased: Option<Nanos>,
    recent: Option<Box<Recent>>,
    /// Where it stood at the last beat.
    rested: Option<Lsn>,
    /// Bytes that its read counts until it ends.
    pub(crate) charged: u64,
    /// It is to end, once there is room to say so.
    pub(crate) over: Option<EndReason>,
}

impl Cursor {
    /// Of a reader of another cluster (0: of none).
    pub(crate) fn new(fetch: &Fetch, cluster: u32, extents: ExtentCount) -> Cursor {
        let shown = cluster == 0;
        let behind = fetch.base.filter(|_| !shown).map_or(Behind::Nothing, Behind::Log);
        Cursor {
            phase: Phase::Ready,
            listed: false,
            told: false,
            position: fetch.from,
            credit: fetch.credit_bytes,
            behind,
            shown,
            to: fetch.to,
            follow: fetch.follow,
            bound: None,
            misses: 0,
            looked: None,
            extents: Extents::new(extents),
            leased: None,
            recent: None,
            rested: None,
            charged: 0,
            over: None,
        }
    }

    /// How far down the log is wanted, and the chain of the log that a base is for. That comes
    /// first or never: what was sent goes on.
    pub(crate) fn depth(&self) -> (Depth, u64) {
        match self.behind {
            _ if self.shown => (Depth::Shown, 0),
            Behind::Log(chain) => (Depth::Based, chain),
            Behind::Nothing | Behind::Sent(_) => (Depth::Kept, 0),
        }
    }

    fn chain(&self) -> Option<u64> {
        match self.behind {
            Behind::Sent(chain) => Some(chain),
            Behind::Nothing | Behind::Log(_) => None,
        }
    }

    /// Decides what comes next. Source of bytes: recent records, then what was located, then a
    /// new question.
    pub(crate) fn step(
        &mut self,
        stream: u64,
        committed: Option<Lsn>,
        tail: &mut Tail,
        targets: Targets,
    ) -> Step {
        if let Some(reason) = self.over {
            return Step::End(reason);
        }
        self.looked = committed;
        let Some(committed) = committed else { return Step::Locate };
        if !self.follow && self.bound.is_none() {
            self.bound = Some(self.to.min(committed));
        }
        let to = self.bound.unwrap_or(self.to);
        if self.position >= to {
            return Step::End(EndReason::ReachedTo);
        }
        if self.position >= committed {
            return self.park(Phase::Tail);
        }
        if self.credit == 0 {
            return self.park(Phase::Credit(1));
        }
        let want = Want {
            stream,
            from: self.position,
            chain: self.chain(),
            committed,
            to: targets.grid.map_or(to, |grid| to.min(next_multiple(self.position, grid))),
            bytes_max: self.credit,
            bytes_target: targets.memory,
            ballot: None,
        };
        if let Some(step) = self.use_tail(tail, &want).or_else(|| self.use_recent(&want)) {
            return step;
        }
        match self.extents.front() {
            Some(extent) => {
                // Behind the extent the block may hold void groups, or damaged ones, that follow.
                let (ballot, to) = (Some(extent.ballot), want.to.min(extent.end));
                let want = Want { ballot, to, bytes_target: targets.segment, ..want };
                Step::Read(extent.clone(), want)
            }
            None if self.misses > MISSES_MAX => Step::End(EndReason::Damaged),
            None => Step::Locate,
        }
    }

    fn use_tail(&mut self, tail: &mut Tail, want: &Want) -> Option<Step> {
        let recent = tail.find(want.stream, self.position)?;
        let (found, start) = (self.try_recent(recent, want), recent.start);
        match found {
            Ok(step) => Some(step),
            Err(NoCut::Credit(need)) => Some(self.park(Phase::Credit(need))),
            Err(NoCut::NotCommitted) => Some(self.park(Phase::Tail)),
            Err(_) => {
                // Not what it says it is; what the shard names when asked is checked again.
                tail.remove(want.stream, start);
                None
            }
        }
    }

    fn use_recent(&mut self, want: &Want) -> Option<Step> {
        let recent = self.recent.take().filter(|recent| recent.end > self.position)?;
        match self.try_recent(&recent, want) {
            Ok(step) => {
                self.recent = Some(recent);
                Some(step)
            }
            Err(NoCut::Credit(need)) => Some(self.park(Phase::Credit(need))),
            Err(NoCut::NotCommitted) => Some(self.park(Phase::Tail)),
            Err(_) => {
                self.misses += 1;
                None
            }
        }
    }

    fn try_recent(&self, recent: &Recent, want: &Want) -> Result<Step, NoCut> {
        let found = cut(&recent.records, want)?;
        let source = Source::View { view: recent.records.clone(), range: found.range.clone() };
        Ok(Step::Chunk(found, source))
    }

    /// Memory of a shard is not held by who cannot go on at once.
    pub(crate) fn park(&mut self, phase: Phase) -> Step {
        self.recent = None;
        if phase == Phase::Tail {
            // What comes next stands elsewhere.
            self.extents.clear();
        }
        Step::Park(phase)
    }

    /// Gives up memory of a shard, to be asked for again.
    pub(crate) fn let_go(&mut self) {
        self.recent = None;
    }

    /// A beat passed. Who did not move since the last one gives its leases back, and asks again;
    /// so does who moves too slowly: its segments are not to wait for ever.
    pub(crate) fn on_beat(&mut self, now: Nanos) {
        let reads = matches!(self.phase, Phase::Waiting(_));
        let rests = self.rested.replace(self.position) == Some(self.position);
        let since = *self.leased.get_or_insert(now);
        if (rests || now.since(since) >= LEASE_NS_MAX) && !reads {
            self.extents.clear();
        }
        if self.extents.is_empty() {
            self.leased = None;
        }
    }

    /// Takes an answer that names bytes.
    pub(crate) fn on_sealed(&mut self, extents: &[SealedExtent]) {
        self.extents.set(extents.iter().filter(|extent| extent.end > self.position));
        self.leased = None;
        self.misses += u32::from(self.extents.is_empty());
    }

    /// Takes an answer that holds bytes.
    pub(crate) fn on_recent(&mut self, recent: &Recent) {
        let useful = recent.end > self.position && recent.start <= self.position;
        self.misses += u32::from(!useful);
        self.recent = useful.then(|| Box::new(recent.clone()));
    }

    /// What was to be read is not there.
    pub(crate) fn on_miss(&mut self) {
        self.extents.clear();
        self.misses += 1;
    }

    /// Whether something was not where it should be, since the last chunk.
    pub(crate) fn has_missed(&self) -> bool {
        self.misses > 0
    }

    /// The committed end that the last step saw.
    pub(crate) fn looked_upto(&self) -> Option<Lsn> {
        self.looked
    }

    /// The extent that is being read.
    pub(crate) fn reading(&self) -> Option<&SealedExtent> {
        self.extents.front()
    }

    /// Moves behind a chunk that is on its way.
    pub(crate) fn advance(&mut self, sent: &Cut) {
        let len = sent.range.len() as u64;
        assert!(len <= self.credit, "a chunk of {len} bytes with credit {}", self.credit);
        assert!(sent.end > self.position && sent.start <= self.position);
        assert!(self.chain().is_none() || sent.start == self.position, "a gap or a repeat");
        self.credit -= len;
        self.position = sent.end;
        self.behind = Behind::Sent(sent.chain);
        self.misses = 0;
        while self.extents.front().is_some_and(|extent| extent.end <= self.position) {
            self.extents.pop_front();
        }
    }
}

fn next_multiple(position: Lsn, grid: u64) -> Lsn {
    Lsn((position.0 / grid + 1).saturating_mul(grid))
}
