//! A primary and its SYNC standby, as far as the level goes: the machine, the leases and the gates
//! of production, over logs that are lists. What is logged is committed at once.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use palisade_netio::Nanos;
use palisade_wal::{Ballot, Lsn};

use crate::control::limits::{LEVEL_LEASE_NS, RISE_BEHIND_MAX, TIME_MS_MIN};
use crate::control::{
    Act, Change, Cluster, Leading, Level, LevelEffect, LevelLease, LevelTold, Mode, Next, Own,
    Place, Proof, Refusal, Registry, Request, RoleStep, Standing, Step, What, decide,
};
use crate::status::{Protection, Transfer};
use crate::stream::mark::{Gate, Mark, Marked, Marks};

/// Two of them are a lease, and one is a net timeout and a health check.
pub(super) const TICK_NS: u64 = LEVEL_LEASE_NS / 2;
/// The SYNC standby.
pub(super) const STANDBY: u32 = 2;
/// The streams: the catalogue, and another one.
pub(super) const STREAMS: [u64; 2] = [1, 2];
const ITEM: u64 = 8;
/// More rounds than any exchange without time passing takes.
const FLOW_MAX: usize = 32;

const _: () = assert!(TICK_NS == TIME_MS_MIN as u64 * 1_000_000);

/// Who is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) nodes: u32,
    pub(super) shards: u16,
    /// Index of the place that leads each stream at first, and may lead the second one later.
    pub(super) leaders: [usize; 2],
    pub(super) heir: usize,
}

/// One node; each stream has a shard of its own.
pub(super) const ONE_NODE: Shape = Shape { nodes: 1, shards: 2, leaders: [1, 0], heir: 1 };
/// Three nodes: the first leads the catalogue, the last the other stream.
pub(super) const THREE_NODES: Shape = Shape { nodes: 3, shards: 1, leaders: [0, 2], heir: 1 };

/// What stands in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Item {
    /// A record that may be the effect of all that was acked so far of the other stream.
    Data {
        cause: u64,
    },
    Mark(Mark),
    /// An entry of the catalogue, and what the mode is after it.
    Entry(Mode),
}

/// One stream at the primary, and what the standby has of it.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub(super) leader: usize,
    pub(super) items: Vec<Item>,
    pub(super) marks: Marks,
    pub(super) gate: Gate,
    /// Committed at the standby.
    pub(super) held: u64,
    /// As far as the primary knows.
    known: u64,
    pub(super) link: Link,
}

/// What goes between the sites for one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Link {
    /// Everything.
    #[default]
    Up,
    /// Groups, and no replies.
    Deaf,
    /// Nothing.
    Down,
}

/// Everything.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) shape: Shape,
    pub(super) now: Nanos,
    pub(super) registry: Arc<Registry>,
    /// By node; more than one when one has not heard of the others.
    pub(super) levels: Vec<Option<Level>>,
    pub(super) leads: usize,
    pub(super) promised: Vec<Ballot>,
    /// The step that the leader of the catalogue proposed last.
    pub(super) proposed: Option<(u64, Step)>,
    pub(super) leases: Vec<LevelLease>,
    /// The node that each shard takes for the leader of the catalogue and can talk to.
    pub(super) talks: Vec<Option<usize>>,
    /// Answers that are still on their way.
    pub(super) late: Vec<Option<LevelTold>>,
    pub(super) logs: [Log; 2],
    /// What must not happen, if it did.
    pub(super) broken: Option<&'static str>,
    /// What may still happen, where that is bounded.
    pub(super) budget: Budget,
    /// What is proposed is committed at once.
    pub(super) eager: bool,
}

/// What may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    pub(super) ticks: u8,
    /// Changes of what goes between the sites, and of who talks to whom.
    pub(super) turns: u8,
    pub(super) appends: [u8; 2],
    pub(super) elections: u8,
    pub(super) heirs: u8,
    pub(super) requests: u8,
    pub(super) forces: u8,
    pub(super) late: u8,
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    Tick,
    /// The leader of a stream does what is next.
    Act(usize),
    /// From now on this is what goes to the standby and back.
    Link(usize, Link),
    /// From now on a shard talks to this node alone, or to nobody.
    Talk(usize, Option<usize>),
    /// A shard that talks to nobody asks this node; the answer is late.
    AskLate(usize, usize),
    Late(usize),
    /// The step that was proposed is committed.
    Commit,
    /// Another leader of the catalogue, or the same node again.
    Elect,
    /// Another leader of the second stream.
    Heir,
    Request(Protection, bool),
}

impl Log {
    fn new(leader: usize) -> Log {
        let (marks, gate) = (Marks::default(), Gate::default());
        Log { leader, items: Vec::new(), marks, gate, held: 0, known: 0, link: Link::Up }
    }

    pub(super) fn end(&self) -> u64 {
        self.items.len() as u64 * ITEM
    }

    pub(super) fn last(&self) -> Option<Mark> {
        self.marks.last().map(|marked| marked.mark)
    }

    /// The items below a position.
    pub(super) fn below(&self, end: u64) -> &[Item] {
        &self.items[..(end / ITEM) as usize]
    }

    /// The last mark that the standby has.
    fn mark_there(&self) -> Option<Mark> {
        let mark = |item: &Item| match item {
            Item::Mark(mark) => Some(*mark),
            _ => None,
        };
        self.below(self.held).iter().rev().find_map(mark)
    }
}

impl World {
    pub(super) fn new(shape: Shape) -> World {
        World::with(shape, Transfer::Sync)
    }

    /// A world whose standby is set to this.
    pub(super) fn with(shape: Shape, transfer: Transfer) -> World {
        let mut registry = Registry::default();
        let times = (TIME_MS_MIN, TIME_MS_MIN);
        let (net_timeout_ms, health_check_ms) = times;
        let standby =
            Cluster { net_timeout_ms, health_check_ms, ..Cluster::new(STANDBY, transfer) };
        assert!(registry.apply(&Change { by: 1, on: 0, what: What::Put(standby) }));
        let places = usize::from(shape.shards) * shape.nodes as usize;
        let mut world = World {
            shape,
            now: Nanos(TICK_NS),
            registry: Arc::new(registry),
            levels: vec![None; shape.nodes as usize],
            leads: 0,
            promised: vec![Ballot::NONE; shape.nodes as usize],
            proposed: None,
            leases: vec![LevelLease::default(); places],
            talks: vec![Some(0); places],
            late: vec![None; places],
            logs: shape.leaders.map(Log::new),
            broken: None,
            budget: Budget::default(),
            eager: false,
        };
        world.lead(0);
        world
    }

    pub(super) fn place(&self, index: usize) -> Place {
        let shards = usize::from(self.shape.shards);
        Place { node: (index / shards) as u32 + 1, shard: (index % shards) as u16 }
    }

    pub(super) fn mode(&self) -> Mode {
        self.registry.mode()
    }

    pub(super) fn level(&self) -> &Level {
        self.levels[self.leads].as_ref().expect("it leads")
    }

    /// The catalogue's leader is this node, and knows all that is committed.
    fn lead(&mut self, node: usize) {
        let round = self.promised.iter().map(|b| b.round).max().unwrap_or(0) + 1;
        let ballot = Ballot { round, node: node as u32 + 1, incarnation: 1 };
        // The first node follows nobody else: it may not have heard.
        let alone = self.promised.len() == 1 || round == 1;
        self.promised.iter_mut().skip(usize::from(!alone)).for_each(|b| *b = ballot);
        let members: Vec<u32> = (1..=self.shape.nodes).collect();
        let catalogue = self.shape.shards - 1;
        let leading = Leading {
            ballot,
            me: Place { node: node as u32 + 1, shard: catalogue },
            members: &members,
            shards: self.shape.shards,
            streams: &STREAMS,
            end: Lsn(self.logs[0].end()),
        };
        let mut out = Vec::new();
        let level = Level::new(&leading, &self.registry, self.now, &mut out);
        self.levels[node] = Some(level);
        self.leads = node;
        self.proposed = None;
        let shards = usize::from(self.shape.shards);
        self.logs[0].leader = node * shards + usize::from(catalogue);
        self.take(node, out);
    }

    /// What a machine wants done: only the leader that a majority follows gets a step committed.
    fn take(&mut self, node: usize, out: Vec<LevelEffect>) -> Option<LevelTold> {
        let mut answer = None;
        for effect in out {
            match effect {
                LevelEffect::Propose { on, step } if node == self.leads => {
                    self.proposed = Some((on, step));
                    if self.eager {
                        self.apply(Action::Commit);
                    }
                }
                LevelEffect::Propose { .. } => {}
                LevelEffect::Turn { .. } => unreachable!("nobody asked for a switchover"),
                // Only answers arrive: what is told unasked, a shard may learn as well.
                LevelEffect::Tell { told, .. } if told.asked_at > 0 => answer = Some(told),
                LevelEffect::Tell { .. } => {}
            }
        }
        answer
    }

    fn with_level(&mut self, node: usize, call: impl FnOnce(&mut Level, &mut Vec<LevelEffect>)) {
        let mut out = Vec::new();
        if let Some(level) = &mut self.levels[node] {
            call(level, &mut out);
        }
        self.take(node, out);
    }

    fn ask(&mut self, at: usize, node: usize) -> Option<LevelTold> {
        let (now, place) = (self.now, self.place(at));
        let led: Vec<usize> = (0..2).filter(|stream| self.logs[*stream].leader == at).collect();
        let mark = self.leases[at].mode().mark;
        let has = |log: &Log| {
            let there = log
                .marks
                .last()
                .is_some_and(|last| last.mark == mark && log.gate.held(STANDBY) >= last.end);
            there && mark.cluster().is_some()
        };
        let done: Vec<u64> =
            led.iter().filter(|i| has(&self.logs[**i])).map(|i| STREAMS[*i]).collect();
        let waits = led.iter().filter_map(|i| self.still(*i));
        let still_ns = waits.max().unwrap_or(0);
        let catalogue = place.shard == self.shape.shards - 1;
        let promised =
            if catalogue { self.promised[place.node as usize - 1] } else { Ballot::NONE };
        let behind = led.iter().map(|i| self.behind(*i)).max().unwrap_or(0);
        let standing = Standing { promised, leads: led.len() as u32, still_ns, behind, scn: 0 };
        let ask = self.leases[at].ask(place.shard, &standing, done.into_iter(), now);
        let mut out = Vec::new();
        self.levels[node].as_mut()?.on_ask(place, &ask, now, &mut out);
        self.take(node, out)
    }

    /// How long acks of a stream have waited for the standby.
    fn still(&self, stream: usize) -> Option<u64> {
        self.logs[stream].gate.waits().map(|since| self.now.since(since))
    }

    /// What the standby lacks of a stream, for all that the primary knows. Here every byte is much.
    fn behind(&self, stream: usize) -> u64 {
        let log = &self.logs[stream];
        if log.known < log.end() { RISE_BEHIND_MAX + 1 } else { 0 }
    }

    fn push(&mut self, stream: usize, item: Item) {
        let log = &mut self.logs[stream];
        let start = Lsn(log.end());
        log.items.push(item);
        if let Item::Mark(mark) = item {
            log.marks.on_logged(Marked { mark, start, end: Lsn(log.end()) });
        }
        log.marks.on_committed(Lsn(log.end()));
        self.release(stream);
    }

    fn release(&mut self, stream: usize) {
        let now = self.now;
        let log = &mut self.logs[stream];
        let before = log.gate.released().0;
        let after = log.gate.release(&log.marks, Lsn(log.end()), now).0;
        let waited = log.marks.standing().is_some_and(|standing| standing.mark.cluster().is_some());
        let data = log.items[(before / ITEM) as usize..(after / ITEM) as usize]
            .iter()
            .any(|item| matches!(item, Item::Data { .. }));
        let worth = self.leases[log.leader].worth(waited);
        if data && Mode::is_sync(worth) && log.held < after {
            self.broken = Some("an ack of a SYNC level is not at the standby");
        }
    }

    /// The leader of a stream does what is next: whether that was anything.
    fn act(&mut self, stream: usize) -> bool {
        let log = &self.logs[stream];
        let last = log.last();
        let appends = self.budget.appends[stream] > 0;
        match self.leases[log.leader].next(last, self.now) {
            Next::Write if appends => {
                self.budget.appends[stream] -= 1;
                let gated = last.filter(|last| last.cluster().is_some());
                if gated.is_some_and(|mark| self.is_over(mark)) {
                    self.broken = Some("a stream writes under a mark that has ended elsewhere");
                }
                let cause = self.logs[1 - stream].gate.released().0;
                self.push(stream, Item::Data { cause });
            }
            Next::Mark(mark) if mark.cluster().is_some() => self.push(stream, Item::Mark(mark)),
            Next::Mark(mark) if appends || log.gate.waits().is_some() => {
                self.push(stream, Item::Mark(mark));
            }
            Next::Write | Next::Mark(_) | Next::Hold => return false,
        }
        true
    }

    /// Whether some stream had this mark and has an ASYNC mark after it.
    fn is_over(&self, mark: Mark) -> bool {
        let over = |log: &Log| {
            let mut items = log.items.iter().skip_while(|item| **item != Item::Mark(mark));
            items.any(|item| matches!(item, Item::Mark(Mark::Async { .. })))
        };
        self.logs.iter().any(over)
    }

    fn commit(&mut self, change: &Change) {
        let mut registry = (*self.registry).clone();
        if !registry.apply(change) {
            return;
        }
        self.registry = Arc::new(registry);
        let mode = self.registry.mode();
        if Mode::is_sync(mode.level) && self.logs.iter().any(|l| l.mark_there() != Some(mode.mark))
        {
            self.broken = Some("the level is up and the standby lacks a mark");
        }
        self.push(0, Item::Entry(mode));
        self.proposed = None;
        let (registry, end, now) = (self.registry.clone(), Lsn(self.logs[0].end()), self.now);
        let leads = self.leads;
        self.with_level(leads, |level, out| level.on_registry(&registry, end, now, out));
    }

    /// Asks for a mode; whether anything changed.
    pub(super) fn request(&mut self, mode: Protection, force: bool) -> Result<bool, Refusal> {
        let health = self.level().health();
        let (name, region, endpoints) = (String::new(), String::new(), Vec::new());
        let own = Own { cluster: 1, name, region, endpoints, health };
        let decided = decide(&self.registry, &own, &Request::SetMode { mode, force })?;
        Ok(decided.map(|change| self.commit(&change)).is_some())
    }

    /// Does it; whether anything changed.
    pub(super) fn apply(&mut self, action: Action) -> bool {
        let now = self.now;
        match action {
            Action::Tick => {
                self.now = now.after(TICK_NS);
                for node in 0..self.levels.len() {
                    let now = self.now;
                    self.with_level(node, |level, out| level.on_time(now, out));
                }
            }
            Action::Act(stream) => return self.act(stream),
            Action::Link(stream, link) => self.logs[stream].link = link,
            Action::Talk(at, node) => self.talks[at] = node,
            Action::AskLate(at, node) => {
                self.late[at] = self.ask(at, node);
                return self.late[at].is_some();
            }
            Action::Late(at) => match self.late[at].take() {
                Some(told) => self.leases[at].on_told(&told, now),
                None => return false,
            },
            Action::Commit => {
                let Some((on, step)) = self.proposed else { return false };
                self.commit(&Change { by: 1, on, what: What::Mode(step) });
                self.proposed = None;
            }
            Action::Elect => self.lead(if self.shape.nodes == 1 { 0 } else { 1 }),
            Action::Heir => self.logs[1].leader = self.shape.heir,
            Action::Request(mode, force) => return self.request(mode, force) == Ok(true),
        }
        true
    }

    fn reply(&mut self, stream: usize) -> bool {
        let now = self.now;
        let log = &mut self.logs[stream];
        let news = log.known < log.held;
        log.known = log.held;
        if !log.gate.on_held(&log.marks, STANDBY, Lsn(log.held), now) {
            return news;
        }
        self.release(stream);
        let log = &self.logs[stream];
        let has = |last: Marked| last.mark.cluster().is_some() && last.end.0 <= log.held;
        if log.marks.last().is_some_and(has) {
            self.leases[log.leader].on_marked(STREAMS[stream]);
        }
        if stream == 0 {
            let (held, leads) = (Lsn(self.logs[0].held), self.leads);
            self.with_level(leads, |level, out| level.on_held(STANDBY, held, now, out));
        }
        true
    }

    /// What the standby would know of the mode if it were failed over now.
    pub(super) fn mode_there(&self) -> Mode {
        let entry = |item: &Item| match item {
            Item::Entry(mode) => Some(*mode),
            _ => None,
        };
        let log = &self.logs[0];
        log.below(log.held).iter().rev().find_map(entry).unwrap_or_default()
    }

    /// What it could prove.
    pub(super) fn proof(&self) -> Option<Proof> {
        let mode = self.mode_there();
        let step = RoleStep { epoch: mode.epoch, act: Act::Seize };
        let seized = mode.turn(STANDBY, &step)?;
        let held = Mark::Fence { held_by: STANDBY, epoch: seized.epoch };
        let all = self.logs.iter().all(|log| seized.fence(log.mark_there()) == held);
        seized.office.proof.filter(|_| all)
    }

    /// Of all that the standby would keep, everything that may have caused it is there too.
    pub(super) fn keeps_causes(&self) -> bool {
        let caused = |stream: usize| {
            let log = &self.logs[stream];
            log.below(log.held).iter().all(|item| match item {
                Item::Data { cause } => self.is_there(1 - stream, *cause),
                _ => true,
            })
        };
        self.proof().is_none() || (caused(0) && caused(1))
    }

    /// Whether all data below a position is at the standby.
    fn is_there(&self, stream: usize, end: u64) -> bool {
        let log = &self.logs[stream];
        let missing = log.below(end).iter().skip((log.held / ITEM) as usize);
        missing.into_iter().all(|item| !matches!(item, Item::Data { .. }))
    }

    /// What the standby proves is so.
    pub(super) fn proves_what_is_so(&self) -> bool {
        let acked = |stream: usize| self.is_there(stream, self.logs[stream].gate.released().0);
        let proven = self.proof() == Some(Proof::ProvenUnlessForced) && self.mode().forced == 0;
        !proven || (acked(0) && acked(1))
    }

    /// All that no fault prevents goes on without time passing: what is logged is shipped, what is
    /// held is heard of, and who has a question is answered.
    pub(super) fn flow(&mut self) {
        for _ in 0..FLOW_MAX {
            let mut news = false;
            for stream in 0..2 {
                let log = &mut self.logs[stream];
                if log.link != Link::Down && log.held < log.end() {
                    (log.held, news) = (log.end(), true);
                }
                news |= self.logs[stream].link == Link::Up && self.reply(stream);
            }
            // Ticks are long: those who back the leader's leases ask before it asks itself.
            for at in (0..self.leases.len()).rev() {
                let Some(node) = self.talks[at] else { continue };
                let mode = self.levels[node].as_ref().map(Level::mode).unwrap_or_default();
                self.leases[at].on_mode(mode);
                if self.leases[at].is_due(self.is_marked(at), self.now) {
                    let told = self.ask(at, node).expect("it talks to a leader");
                    self.leases[at].on_told(&told, self.now);
                    news = true;
                }
            }
            if !news {
                return;
            }
        }
        panic!("it never rests: {self:?}");
    }

    /// So many ticks, each settled.
    pub(super) fn pass(&mut self, ticks: usize) {
        for _ in 0..ticks {
            self.apply(Action::Tick);
            self.settle();
        }
    }

    /// Whether everything that was appended is acked.
    pub(super) fn is_acked(&self) -> bool {
        self.logs.iter().all(|log| log.gate.released().0 == log.end())
    }

    /// What goes to the standby and back, for both streams.
    pub(super) fn link(&mut self, link: Link) {
        self.logs.iter_mut().for_each(|log| log.link = link);
    }

    /// As `flow`, and every stream does what is next, and every step is committed.
    pub(super) fn settle(&mut self) {
        let mut news = true;
        while news {
            self.flow();
            news = self.act(0) | self.act(1) | self.apply(Action::Commit);
        }
    }

    /// Whether a place leads a stream with a SYNC mark.
    pub(super) fn is_marked(&self, at: usize) -> bool {
        let gated = |log: &&Log| log.last().is_some_and(|mark| mark.cluster().is_some());
        self.logs.iter().filter(|log| log.leader == at).any(|log| gated(&log))
    }
}

impl PartialEq for World {
    fn eq(&self, other: &World) -> bool {
        self.key() == other.key()
    }
}

impl Eq for World {}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

type LogKey<'a> = (usize, Link, &'a [Item], [u64; 2], Lsn, Lsn, Option<Nanos>);

impl World {
    /// All that differs between two worlds of one shape.
    #[expect(clippy::type_complexity, reason = "a key of everything")]
    fn key(
        &self,
    ) -> (
        (Nanos, u64, usize, &[Ballot], Option<(u64, Step)>, Option<&'static str>, Budget),
        (&[Option<Level>], &[LevelLease], &[Option<LevelTold>], &[Option<usize>]),
        [LogKey<'_>; 2],
    ) {
        let log = |stream: usize| -> LogKey<'_> {
            let log = &self.logs[stream];
            let (released, waits) = (log.gate.released(), log.gate.waits());
            (
                log.leader,
                log.link,
                &log.items,
                [log.held, log.known],
                log.gate.held(STANDBY),
                released,
                waits,
            )
        };
        let (version, promised) = (self.registry.version(), self.promised.as_slice());
        (
            (self.now, version, self.leads, promised, self.proposed, self.broken, self.budget),
            (&self.levels, &self.leases, &self.late, &self.talks),
            [log(0), log(1)],
        )
    }
}
