//! The log of one shard: recovery first, then the writer, behind one face.

use palisade_netio::{Completion, Handle, Nanos, Op, Pool};

use crate::config::{BadConfig, Config, WalError};
use crate::recover::Recovery;
use crate::recycle::LogStart;
use crate::replay::Replay;
use crate::room::{NewBlock, NoRoom, Space};
use crate::segment::{Place, Started};
use crate::writer::{SegmentFacts, Writer};

/// The log of one shard.
///
/// A state machine: it asks for operations by [`poll_ops`](Wal::poll_ops), and is told how they
/// ended by [`on_completion`](Wal::on_completion). It starts with recovery; when
/// [`poll_replay`](Wal::poll_replay) has given [`Replay::Done`], blocks can be appended.
#[derive(Debug)]
pub struct Wal {
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Recovering(Box<Recovery>),
    Ready(Box<Writer>),
}

impl Wal {
    /// Starts the recovery of the log in `config.dir`. A directory without segments is a new log.
    ///
    /// # Errors
    /// A setting that cannot be.
    pub fn open(config: Config) -> Result<Wal, BadConfig> {
        config.validate()?;
        assert!(config.segments_max() >= 2, "the settings were checked");
        Ok(Wal { phase: Phase::Recovering(Box::new(Recovery::new(config))) })
    }

    /// Appends to `out` the operations that can start now, each with a token that is unique
    /// within this log while the operation is in flight. The caller submits them in this order,
    /// at once.
    pub fn poll_ops(&mut self, pool: &mut Pool, out: &mut Vec<(u32, Op)>) {
        let before = (out.len(), self.poisoned().is_some());
        let durable = self.durable();
        match &mut self.phase {
            Phase::Recovering(recovery) => recovery.poll_ops(pool, out),
            Phase::Ready(writer) => writer.poll_ops(pool, out),
        }
        assert!(out.len() >= before.0, "operations are appended");
        assert!(!before.1 || out.len() == before.0, "a poisoned log asks for nothing");
        assert!(self.durable() == durable, "what is asked for is not durable yet");
    }

    /// Takes the completion of the operation `local`.
    ///
    /// # Panics
    /// When `local` is not in flight.
    pub fn on_completion(&mut self, pool: &mut Pool, local: u32, done: Completion) {
        let before = (self.durable(), self.poisoned().is_some());
        match &mut self.phase {
            Phase::Recovering(recovery) => recovery.on_completion(pool, local, &done),
            Phase::Ready(writer) => writer.on_completion(pool, local, &done),
        }
        assert!(self.durable() >= before.0, "what is durable stays durable");
        assert!(self.durable() <= self.appended(), "only what has a place is durable");
        assert!(!before.1 || self.poisoned().is_some(), "a poisoned log stays poisoned");
        assert!(self.poisoned().is_none() || self.durable() == before.0, "and promises no more");
    }

    /// The next thing that recovery found, in the order of the log. Recovery reads on only when
    /// all was taken. The last one is [`Replay::Done`]; from then on the log can be written.
    pub fn poll_replay(&mut self, pool: &mut Pool) -> Option<Replay> {
        let Phase::Recovering(recovery) = &mut self.phase else { return None };
        let item = recovery.poll_replay(pool)?;
        if let Replay::Done { .. } = item {
            assert!(recovery.poisoned().is_none(), "a failed recovery starts no log");
            let start = recovery.take_start();
            self.phase = Phase::Ready(Box::new(Writer::new(start)));
            assert!(self.durable() == self.appended(), "what was kept is durable");
        }
        Some(item)
    }

    /// Whether recovery is done.
    pub fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready(_))
    }

    /// Segments that are ready, and into which no block goes before the identity file names them:
    /// write this there, then call [`start_segment`](Wal::start_segment). None when there is
    /// nothing to write, or the log was opened without
    /// [`Config::started`](crate::Config::started).
    pub fn wants_segment(&self) -> Option<Started> {
        let started = self.writer().and_then(Writer::wants_segment)?;
        assert!(started.newest > started.before, "sequences only grow");
        assert!(self.poisoned().is_none(), "a poisoned log wants nothing");
        Some(started)
    }

    /// The identity file names segment `newest`, durably.
    ///
    /// # Panics
    /// When the log never asked for it.
    pub fn start_segment(&mut self, newest: u64) {
        if let Phase::Ready(writer) = &mut self.phase {
            writer.start_segment(newest);
        }
        assert!(self.wants_segment().is_none_or(|wants| wants.newest > newest));
    }

    /// Gives a block its number and place at once, and takes over one reference of its slot until
    /// the block is durable or the log is poisoned. The head is written when the write starts.
    ///
    /// # Errors
    /// [`NoRoom`]: nothing changed and the slot stays the caller's.
    pub fn append(&mut self, pool: &mut Pool, block: NewBlock) -> Result<Place, NoRoom> {
        let (before, poisoned) = (self.appended(), self.poisoned().is_some());
        let durable = self.durable();
        let place = match &mut self.phase {
            Phase::Recovering(_) => Err(NoRoom::NotReady),
            Phase::Ready(writer) => writer.append(pool, block),
        };
        assert!(self.durable() == durable, "what has a place is not durable yet");
        let news = u64::from(place.is_ok());
        assert!(self.appended() == before + news, "blocks are numbered without gaps");
        assert!(place.is_err() || !poisoned, "a poisoned log takes nothing");
        place
    }

    /// The block that a body of `len` bytes may [join](Wal::join): the last one, while it waits for
    /// the device and has a pad of that size. Only a small body (below
    /// [`SMALL_BODY_BYTES`](crate::limits::SMALL_BODY_BYTES)) joins a small one.
    pub fn open_block(&self, len: usize) -> Option<Place> {
        let place = self.writer().and_then(|writer| writer.open_block(len));
        assert!(place.is_none_or(|at| at.block == self.appended()), "only the last one is open");
        assert!(place.is_none_or(|at| at.block > self.durable()), "what is durable is closed");
        place
    }

    /// Adds the records of a body without hard state to the [open block](Wal::open_block), and
    /// takes over one reference of its slot.
    ///
    /// # Panics
    /// Where no block is open for it.
    pub fn join(&mut self, pool: &mut Pool, block: NewBlock) -> Place {
        let (before, durable) = (self.appended(), self.durable());
        let Phase::Ready(writer) = &mut self.phase else { panic!("no block is open") };
        let place = writer.join(pool, block);
        assert!(self.appended() == before && place.block == before, "no block is new");
        assert!(self.durable() == durable, "what has a place is not durable yet");
        place
    }

    /// Every block up to this number is durable. 0 during recovery.
    pub fn durable(&self) -> u64 {
        self.writer().map_or(0, Writer::durable)
    }

    /// The number of the last block that has a place. 0 during recovery.
    pub fn appended(&self) -> u64 {
        self.writer().map_or(0, Writer::appended)
    }

    /// Whether a block of `bytes` should be made now: nothing is in flight, or it is full and one
    /// more write may start. From 90 % of the space on there is no second write.
    pub fn wants_block(&self, bytes: usize) -> bool {
        let wants = self.writer().is_some_and(|writer| writer.wants_block(bytes));
        assert!(!wants || self.poisoned().is_none(), "a poisoned log wants nothing");
        wants
    }

    /// Where a block of `len` bytes, a multiple of 4096, would stand if it was appended next. A
    /// smaller block appended next stands there too.
    ///
    /// # Errors
    /// Why it finds no place now.
    pub fn peek(&mut self, len: usize, hard_state: bool) -> Result<Place, NoRoom> {
        let place = match &mut self.phase {
            Phase::Recovering(_) => Err(NoRoom::NotReady),
            Phase::Ready(writer) => writer.peek(len, hard_state),
        };
        let next = self.appended() + 1;
        assert!(place.is_err() || self.poisoned().is_none(), "a poisoned log takes nothing");
        assert!(place.is_ok_and(|at| at.block == next) || place.is_err(), "the place is the next");
        place
    }

    /// The log begins at `start` from now on: [`Recycler::poll_start`] gave it, or it was the start
    /// before. Files of segments below `free_below`, at most those below the start, are read by
    /// nobody and are reused when segments are needed.
    ///
    /// # Panics
    /// During recovery, or when the log would get longer again.
    ///
    /// [`Recycler::poll_start`]: crate::Recycler::poll_start
    pub fn let_go(&mut self, start: LogStart, free_below: u64) {
        let Phase::Ready(writer) = &mut self.phase else { panic!("nothing is let go unread") };
        let before = writer.space().used;
        writer.let_go(start, free_below);
        assert!(writer.space().used <= before, "what is let go takes no space");
        assert!(free_below <= start.segment, "a file of the log is not free");
    }

    /// The segment that blocks go into, and its first free byte. Zeros during recovery.
    pub fn active(&self) -> (u64, u64) {
        let active = self.writer().map(Writer::active).unwrap_or_default();
        assert!(self.is_ready() == (active.0 > 0), "an open log goes on in a segment");
        active
    }

    /// Whether a segment is complete and readable through the page cache.
    pub fn is_sealed(&self, segment: u64) -> bool {
        self.writer().is_some_and(|writer| writer.is_sealed(segment))
    }

    /// Why the log stopped for good, if it did. Nothing is written or reported durable any more.
    pub fn poisoned(&self) -> Option<&WalError> {
        match &self.phase {
            Phase::Recovering(recovery) => recovery.poisoned(),
            Phase::Ready(writer) => writer.poisoned(),
        }
    }

    /// How full the log is. All zero during recovery.
    pub fn space(&self) -> Space {
        let none = Space { used: 0, limit: 0, refuse_appends: true, throttle: true };
        let space = self.writer().map_or(none, Writer::space);
        assert!(space.throttle || !space.refuse_appends, "appends slow down before they end");
        assert!(self.is_ready() == (space.limit > 0), "an open log has a limit");
        space
    }

    /// Tells the time, every turn: it drives the closing block and paces the preparation.
    pub fn on_time(&mut self, now: Nanos) {
        let before = (self.appended(), self.durable());
        let poisoned = self.poisoned().is_some();
        if let Phase::Ready(writer) = &mut self.phase {
            writer.on_time(now);
        }
        assert!(self.poisoned().is_some() == poisoned, "time alone breaks nothing");
        assert!((self.appended(), self.durable()) == before, "time alone writes nothing");
    }

    /// When [`on_time`](Wal::on_time) and [`poll_ops`](Wal::poll_ops) should be called next at
    /// the latest, if nothing else happens.
    pub fn next_timer(&self) -> Option<Nanos> {
        let next = self.writer().and_then(Writer::next_timer);
        assert!(next.is_none() || self.poisoned().is_none(), "a poisoned log waits for nothing");
        next
    }

    /// The segments, oldest first; the last one is the active one. Empty during recovery.
    pub fn segments(&self) -> Vec<SegmentFacts> {
        let segments = self.writer().map_or_else(Vec::new, Writer::segment_facts);
        assert!(segments.last().is_none_or(|active| !active.sealed), "blocks go into the last one");
        assert!(segments.is_sorted_by(|one, next| one.seq < next.seq), "oldest first");
        segments
    }

    /// Ends the log and gives back the files that it has open, for the owner to close. Nothing of
    /// it may be in flight.
    pub fn into_handles(self) -> Vec<Handle> {
        let handles = match &self.phase {
            Phase::Recovering(recovery) => recovery.open_handles(),
            Phase::Ready(writer) => writer.open_handles(),
        };
        let twice = |at: usize| handles[..at].contains(&handles[at]);
        assert!(!(0..handles.len()).any(twice), "a file is closed once");
        let least = if matches!(self.phase, Phase::Ready(_)) { 2 } else { 0 };
        assert!(handles.len() >= least, "an open log has its directory and a segment open");
        handles
    }

    fn writer(&self) -> Option<&Writer> {
        match &self.phase {
            Phase::Recovering(_) => None,
            Phase::Ready(writer) => Some(writer),
        }
    }
}
