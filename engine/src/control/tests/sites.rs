//! Two sites, each with a cluster, and the primary role that goes from one to the other: the
//! machine, the leases, the marks, the gates and the registry of production, over logs that are
//! lists. What is logged is committed at once, but where a test lets it slip.

use std::hash::{Hash, Hasher};

use palisade_netio::Nanos;
use palisade_wal::{Ballot, Lsn};

use crate::control::limits::{END_NS, RISE_BEHIND_MAX};
use crate::control::{
    Act, Change, Cluster, Leading, Level, LevelEffect, LevelLease, LevelTold, Mode, Next, Phase,
    Place, Registry, RoleStep, Standing, Step, What,
};
use crate::status::Protection::{Availability, Performance};
use crate::status::Transfer;
use crate::stream::mark::{Gate, Mark, Marked, Marks};

/// One is as long as the streams may take to end; two are as long as a target may take to come.
pub(super) const TICK_NS: u64 = END_NS;
/// The streams: the catalogue, and another one.
pub(super) const STREAMS: [u64; 2] = [1, 2];
pub(super) const ITEM: u64 = 8;
/// More rounds than any exchange without time passing takes.
const FLOW_MAX: usize = 64;

/// What stands in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Item {
    /// A record.
    Data {
        by: usize,
        role_epoch: u64,
        scn: u64,
    },
    Mark(Mark),
    /// A change of the registry, decided on this version.
    Entry {
        by: usize,
        on: u64,
        said: Said,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Said {
    Role(RoleStep),
    Mode(Step),
}

impl Said {
    fn hands_over(self) -> bool {
        matches!(self, Said::Role(RoleStep { act: Act::HandOver { .. }, .. }))
    }

    fn what(self) -> What {
        match self {
            Said::Role(step) => What::Role(step),
            Said::Mode(step) => What::Mode(step),
        }
    }
}

/// One stream at one site.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub(super) items: Vec<Item>,
    /// How many of them are committed.
    pub(super) committed: usize,
    /// What is logged is not committed before it lands.
    pub(super) slips: bool,
    pub(super) marks: Marks,
    pub(super) gate: Gate,
    /// What the other site has, as far as this one heard since it ships the stream.
    known: u64,
    scn: u64,
}

impl Log {
    fn new() -> Log {
        let (marks, gate) = (Marks::default(), Gate::default());
        Log { items: Vec::new(), committed: 0, slips: false, marks, gate, known: 0, scn: 0 }
    }

    pub(super) fn end(&self) -> Lsn {
        Lsn(self.items.len() as u64 * ITEM)
    }

    fn committed_end(&self) -> Lsn {
        Lsn(self.committed as u64 * ITEM)
    }

    pub(super) fn last(&self) -> Option<Mark> {
        self.marks.last().map(|marked| marked.mark)
    }
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

/// One cluster: a node with two shards, of which the first has the catalogue.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) registry: Registry,
    pub(super) level: Option<Level>,
    round: u64,
    pub(super) proposed: Option<(u64, Said)>,
    pub(super) leases: [LevelLease; 2],
    /// The registry's mode as each shard knows it: what it takes for its role.
    pub(super) told: [Mode; 2],
    /// Whether the second shard hears the first one.
    pub(super) talks: bool,
    /// An answer to the second shard that is still on its way.
    pub(super) late: Option<LevelTold>,
    pub(super) logs: [Log; 2],
}

/// What may still happen, where that is bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    pub(super) ticks: u8,
    /// Changes of what goes between the sites, and of who hears whom.
    pub(super) turns: u8,
    pub(super) appends: [u8; 2],
    pub(super) switches: u8,
    /// Leaders that are another one's, or the same anew.
    pub(super) crashes: u8,
    pub(super) slips: u8,
    pub(super) late: u8,
}

/// What may happen next; sites and streams by their index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    Tick,
    /// The leader of a stream does what is next.
    Act(usize, usize),
    /// What a leader logs from now on is committed later, or never.
    Slip(usize, usize),
    /// It is committed.
    Land(usize, usize),
    /// The step that the leader of a catalogue proposed is logged.
    Commit(usize),
    /// The role is asked for, for the other site.
    Switch(usize),
    /// From now on this goes between the sites for a stream.
    Link(usize, Link),
    /// From now on the shards of a site hear each other, or do not.
    Talk(usize),
    /// Shards that do not hear each other: one asks, and the answer is late.
    AskLate(usize),
    Late(usize),
    /// Another leader of a stream, that knows what is committed and nothing else.
    Crash(usize, usize),
}

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) now: Nanos,
    pub(super) sites: [Site; 2],
    pub(super) links: [Link; 2],
    /// What must not happen, if it did.
    pub(super) broken: Option<&'static str>,
    pub(super) budget: Budget,
}

pub(super) fn id(site: usize) -> u32 {
    site as u32 + 1
}

/// How it begins, and what it is.
impl World {
    /// The first site is the primary, at a SYNC level or not.
    pub(super) fn new(sync: bool) -> World {
        let mut registry = Registry::default();
        let transfer = if sync { Transfer::Sync } else { Transfer::Async };
        let mut whats = vec![
            What::Put(Cluster { net_timeout_ms: 500, ..Cluster::new(2, transfer) }),
            What::Primary(Cluster { net_timeout_ms: 500, ..Cluster::new(1, transfer) }),
        ];
        if sync {
            let step = |epoch, level, phase, sync| {
                let (mode, forced) = (Availability, false);
                What::Mode(Step { epoch, mode, level, phase, sync, forced })
            };
            whats.push(step(0, Performance, Phase::Steady, 0));
            whats.push(step(1, Performance, Phase::Rising, 2));
            whats.push(step(2, Availability, Phase::Steady, 2));
        }
        for (on, what) in (0..).zip(whats) {
            assert!(registry.apply(&Change { by: 1, on, what }));
        }
        let site = Site {
            registry,
            level: None,
            round: 0,
            proposed: None,
            leases: [LevelLease::default(), LevelLease::default()],
            told: [Mode::default(); 2],
            talks: true,
            late: None,
            logs: [Log::new(), Log::new()],
        };
        let (sites, links) = ([site.clone(), site], [Link::Up; 2]);
        let now = Nanos(TICK_NS);
        let mut world = World { now, sites, links, broken: None, budget: Budget::default() };
        let mark = world.sites[0].registry.mode().mark;
        for (site, stream) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            world.note(site, stream);
            if sync {
                world.push(site, stream, Item::Mark(mark));
            }
        }
        world.lead(0);
        world.settle();
        world
    }

    pub(super) fn mode(&self, site: usize) -> Mode {
        self.sites[site].registry.mode()
    }

    /// Whether a shard takes its site for the primary.
    pub(super) fn is_primary(&self, site: usize, stream: usize) -> bool {
        self.sites[site].told[stream].is_primary(id(site)).unwrap_or(site == 0)
    }

    fn is_handing_over(&self, site: usize) -> bool {
        self.mode(site).is_handing_over(id(site))
    }

    /// What a leader logged and nobody committed.
    fn open(&self, site: usize, stream: usize) -> &[Item] {
        let log = &self.sites[site].logs[stream];
        &log.items[log.committed..]
    }

    /// Whether the role may be gone with what stands in the catalogue.
    fn hands_over(&self, site: usize) -> bool {
        let is_it = |item: &Item| matches!(item, Item::Entry { said, .. } if said.hands_over());
        self.is_handing_over(site) || self.open(site, 0).iter().any(is_it)
    }

    /// What a leader does next.
    fn next(&self, site: usize, stream: usize) -> Next {
        if !self.is_primary(site, stream) || stream == 0 && self.hands_over(site) {
            return Next::Hold;
        }
        let site = &self.sites[site];
        site.leases[stream].next(site.logs[stream].last(), self.now)
    }

    /// Whether a site takes records of some stream.
    pub(super) fn may_write(&self, site: usize) -> bool {
        (0..2).any(|stream| self.next(site, stream) == Next::Write)
    }

    /// Whether it takes records of all, where an idle stream may need another mark first.
    pub(super) fn serves(&self, site: usize) -> bool {
        (0..2).all(|stream| match self.next(site, stream) {
            Next::Write => true,
            Next::Mark(_) => self.sites[site].leases[stream].mode().phase == Phase::Steady,
            Next::Hold => false,
        })
    }
}

/// What goes on at one site.
impl World {
    /// A shard hears what the registry says.
    fn note(&mut self, site: usize, stream: usize) {
        let now = self.now;
        let was = self.is_primary(site, stream);
        let mode = self.mode(site);
        let at = &mut self.sites[site];
        at.told[stream] = mode;
        at.leases[stream].on_mode(mode);
        let is = self.is_primary(site, stream);
        if is && !was {
            self.sites[site].logs[stream].known = 0;
            self.sites[site].logs[stream].gate.restart(now);
        }
        match (stream, was, is) {
            (0, false, true) => self.lead(site),
            (0, true, false) => (self.sites[site].level, self.sites[site].proposed) = (None, None),
            _ => {}
        }
        self.release(site, stream);
    }

    /// The catalogue of a primary has a leader.
    fn lead(&mut self, site: usize) {
        let now = self.now;
        let at = &mut self.sites[site];
        at.round += 1;
        let ballot = Ballot { round: at.round, node: 1, incarnation: 1 };
        let end = at.logs[0].committed_end();
        let (me, members, streams) = (Place { node: 1, shard: 0 }, &[1], &STREAMS);
        let leading = Leading { ballot, me, members, shards: 2, streams, end };
        let mut out = Vec::new();
        at.level = Some(Level::new(&leading, &at.registry, now, &mut out));
        at.proposed = None;
        self.take(site, out);
    }

    fn take(&mut self, site: usize, out: Vec<LevelEffect>) -> Option<LevelTold> {
        let mut answer = None;
        for effect in out {
            match effect {
                LevelEffect::Propose { on, step } => {
                    self.sites[site].proposed = Some((on, Said::Mode(step)));
                }
                LevelEffect::Turn { on, step } => {
                    self.sites[site].proposed = Some((on, Said::Role(step)));
                }
                // Only answers arrive: what is told unasked, a shard may learn as well.
                LevelEffect::Tell { told, .. } if told.asked_at > 0 => answer = Some(told),
                LevelEffect::Tell { .. } => {}
            }
        }
        answer
    }

    fn with_level(&mut self, site: usize, call: impl FnOnce(&mut Level, &mut Vec<LevelEffect>)) {
        let mut out = Vec::new();
        if let Some(level) = &mut self.sites[site].level {
            call(level, &mut out);
        }
        self.take(site, out);
    }

    /// Logs an item, and commits it where that does not slip.
    fn push(&mut self, site: usize, stream: usize, item: Item) {
        let log = &mut self.sites[site].logs[stream];
        let start = log.end();
        log.items.push(item);
        let end = log.end();
        match item {
            Item::Mark(mark) => log.marks.on_logged(Marked { mark, start, end }),
            Item::Data { scn, .. } => log.scn = scn,
            Item::Entry { .. } => {}
        }
        if !log.slips {
            self.commit(site, stream);
        }
    }

    /// All that is logged is committed, one after the other.
    fn commit(&mut self, site: usize, stream: usize) {
        while let [item, ..] = *self.open(site, stream) {
            let log = &mut self.sites[site].logs[stream];
            log.committed += 1;
            let end = log.committed_end();
            log.marks.on_committed(end);
            if let Item::Entry { by, on, said } = item {
                let change = Change { by: id(by), on, what: said.what() };
                self.sites[site].registry.apply(&change);
                self.note(site, 0);
                let (registry, now) = (self.sites[site].registry.clone(), self.now);
                self.with_level(site, |level, out| level.on_registry(&registry, end, now, out));
            }
            self.release(site, stream);
        }
    }

    fn release(&mut self, site: usize, stream: usize) {
        let (now, primary) = (self.now, self.is_primary(site, stream));
        let handing = stream == 0 && self.is_handing_over(site);
        let at = &mut self.sites[site];
        let (log, told) = (&mut at.logs[stream], at.told[stream].epoch);
        let committed = log.committed_end();
        let sure = !handing && log.last().map_or(0, Mark::epoch) <= told;
        match !primary && sure {
            true => log.gate.pass(committed),
            false => log.gate.release(&log.marks, committed, now),
        };
    }

    /// The leader of a stream does what is next: whether that was anything.
    fn act(&mut self, site: usize, stream: usize) -> bool {
        let next = self.next(site, stream);
        let (mode, at) = (self.sites[site].leases[stream].mode(), &self.sites[site]);
        let log = &at.logs[stream];
        let appends = self.budget.appends[site] > 0;
        match next {
            Next::Write if appends => {
                self.budget.appends[site] -= 1;
                // The clock of the first site goes ahead of the other's.
                let clock = if site == 0 { 100 * (stream as u64 + 1) } else { 0 };
                let scn = log.scn.max(mode.office.scn).max(clock) + 1;
                let role_epoch = at.told[stream].office.role_epoch;
                self.push(site, stream, Item::Data { by: site, role_epoch, scn });
            }
            Next::Mark(mark) => {
                let waits = appends || log.gate.released() < log.end();
                let named = log.last().is_some_and(|last| last.cluster().is_some());
                let moves = named && mode.office.target != 0;
                let starts = mode.phase == Phase::Starting;
                if mark.cluster().is_none() && !waits && !moves && !starts {
                    return false;
                }
                self.push(site, stream, Item::Mark(mark));
            }
            Next::Write | Next::Hold => return false,
        }
        true
    }

    /// The step that was proposed is logged, behind the mark that is due.
    fn log_step(&mut self, site: usize) -> bool {
        let Some((on, said)) = self.sites[site].proposed.take() else { return false };
        let entry = |item: &Item| matches!(item, Item::Entry { .. });
        let others = self.open(site, 0).iter().any(entry);
        if self.hands_over(site) || said.hands_over() && others {
            if let Some(level) = &mut self.sites[site].level {
                level.on_failed();
            }
            return true;
        }
        if let Next::Mark(mark) = self.next(site, 0) {
            self.push(site, 0, Item::Mark(mark));
        }
        self.push(site, 0, Item::Entry { by: site, on, said });
        true
    }

    fn switch(&mut self, site: usize) -> bool {
        let mode = self.mode(site);
        if self.sites[site].level.is_none() || mode.phase != Phase::Steady {
            return false;
        }
        let step = RoleStep { epoch: mode.epoch, act: Act::Prepare { target: id(1 - site) } };
        self.sites[site].proposed = Some((self.sites[site].registry.version(), Said::Role(step)));
        true
    }

    /// A stream has another leader.
    fn crash(&mut self, site: usize, stream: usize) {
        let log = &mut self.sites[site].logs[stream];
        log.items.truncate(log.committed);
        log.marks.on_voided(log.end());
        (log.slips, log.known) = (false, 0);
        let data = log.items.iter().rev().find_map(|item| match item {
            Item::Data { scn, .. } => Some(*scn),
            _ => None,
        });
        log.scn = data.unwrap_or(0);
        let at = &mut self.sites[site];
        at.leases[stream] = LevelLease::default();
        if stream == 1 {
            // What the shard of the catalogue knows it may not have heard.
            at.told[1] = Mode::default();
            at.late = None;
        } else {
            let mode = at.registry.mode();
            at.leases[0].on_mode(mode);
            at.level = None;
            if self.is_primary(site, 0) {
                self.lead(site);
            }
        }
    }

    /// A shard asks how the level is.
    fn ask(&mut self, site: usize, stream: usize) -> Option<LevelTold> {
        let now = self.now;
        let at = &mut self.sites[site];
        let (log, mode) = (&at.logs[stream], at.leases[stream].mode());
        let done = is_done(log, mode);
        let still_ns = log.gate.waits().map_or(0, |since| now.since(since));
        let behind = if log.known < log.committed_end().0 { RISE_BEHIND_MAX + 1 } else { 0 };
        let promised = Ballot { round: at.round, node: 1, incarnation: 1 };
        let standing = Standing { promised, leads: 1, still_ns, behind, scn: log.scn };
        let done = done.then_some(STREAMS[stream]);
        let ask = at.leases[stream].ask(stream as u16, &standing, done.into_iter(), now);
        let mut out = Vec::new();
        let place = Place { node: 1, shard: stream as u16 };
        at.level.as_mut()?.on_ask(place, &ask, now, &mut out);
        self.take(site, out)
    }

    fn hear(&mut self, site: usize, stream: usize, told: &LevelTold) {
        let now = self.now;
        if told.mode.is_primary(id(site)) != Some(false) {
            self.sites[site].leases[stream].on_told(told, now);
        }
    }
}

/// Whether a stream has the current mark, committed here and by who it names.
fn is_done(log: &Log, mode: Mode) -> bool {
    let Some(standing) = log.marks.standing().filter(|it| it.mark == mode.mark) else {
        return false;
    };
    if mode.phase == Phase::Starting {
        return true;
    }
    let cluster = mode.mark.cluster().filter(|_| log.last() == Some(mode.mark));
    cluster.is_some_and(|cluster| log.gate.held(cluster) >= standing.end)
}

/// What goes on between sites and shards.
impl World {
    /// Does it; whether anything changed.
    pub(super) fn apply(&mut self, action: Action) -> bool {
        match action {
            Action::Tick => {
                self.now = self.now.after(TICK_NS);
                let now = self.now;
                (0..2).for_each(|at| self.with_level(at, |level, out| level.on_time(now, out)));
            }
            Action::Act(site, stream) => return self.act(site, stream),
            Action::Slip(site, stream) => self.sites[site].logs[stream].slips = true,
            Action::Land(site, stream) => {
                self.sites[site].logs[stream].slips = false;
                self.commit(site, stream);
            }
            Action::Commit(site) => return self.log_step(site),
            Action::Switch(site) => return self.switch(site),
            Action::Link(stream, link) => self.links[stream] = link,
            Action::Talk(site) => self.sites[site].talks ^= true,
            Action::AskLate(site) => {
                self.sites[site].late = self.ask(site, 1);
                return self.sites[site].late.is_some();
            }
            Action::Late(site) => match self.sites[site].late.take() {
                Some(told) => self.hear(site, 1, &told),
                None => return false,
            },
            Action::Crash(site, stream) => self.crash(site, stream),
        }
        true
    }

    /// Whether a site sends a stream to the other one, that wants it.
    fn ships(&self, site: usize, stream: usize) -> bool {
        let source = self.is_primary(site, stream) || stream == 0 && self.is_handing_over(site);
        source && !self.is_primary(1 - site, stream)
    }

    fn ship(&mut self, site: usize, stream: usize) -> bool {
        let (from, to) = (&self.sites[site].logs[stream], &self.sites[1 - site].logs[stream]);
        let has = to.items.len();
        let sent = from.items[..from.committed].to_vec();
        let same = has.min(sent.len());
        if to.items[..same] != sent[..same] {
            self.broken = Some("the logs of the sites are two");
            return false;
        }
        sent.iter().skip(has).for_each(|item| self.push(1 - site, stream, *item));
        sent.len() > has
    }

    fn reply(&mut self, site: usize, stream: usize) -> bool {
        let now = self.now;
        let held = self.sites[1 - site].logs[stream].committed_end();
        let log = &mut self.sites[site].logs[stream];
        let news = log.known < held.0;
        log.known = log.known.max(held.0);
        if !log.gate.on_held(&log.marks, id(1 - site), held, now) {
            return news;
        }
        self.release(site, stream);
        let at = &mut self.sites[site];
        if is_done(&at.logs[stream], at.leases[stream].mode()) {
            at.leases[stream].on_marked(STREAMS[stream]);
        }
        if stream == 0 {
            let by = id(1 - site);
            self.with_level(site, |level, out| level.on_held(by, held, now, out));
        }
        true
    }

    fn consult(&mut self, site: usize, stream: usize) -> bool {
        let hears = stream == 0 || self.sites[site].talks;
        if !hears {
            return false;
        }
        if self.sites[site].told[stream] != self.mode(site) {
            self.note(site, stream);
        }
        let at = &mut self.sites[site];
        let mode = at.leases[stream].mode();
        if mode.phase.is_role() && is_done(&at.logs[stream], mode) {
            at.leases[stream].on_marked(STREAMS[stream]);
        }
        let marked = at.logs[stream].last().is_some_and(|mark| mark.cluster().is_some());
        let due = at.level.is_some() && at.leases[stream].is_due(marked, self.now);
        if !due || !self.is_primary(site, stream) {
            return false;
        }
        if let Some(told) = self.ask(site, stream) {
            self.hear(site, stream, &told);
        }
        true
    }

    /// All that no fault prevents goes on without time passing.
    pub(super) fn flow(&mut self) {
        for _ in 0..FLOW_MAX {
            let mut news = false;
            for (site, stream) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let link = self.links[stream];
                if link != Link::Down && self.ships(site, stream) {
                    news |= self.ship(site, stream);
                    news |= link == Link::Up && self.reply(site, stream);
                }
                news |= self.consult(site, stream);
            }
            if !news || self.broken.is_some() {
                return self.check();
            }
            self.check();
        }
        panic!("it never rests: {self:?}");
    }

    /// As `flow`, and every stream does what is next, and every step is logged.
    pub(super) fn settle(&mut self) {
        let mut news = true;
        while news && self.broken.is_none() {
            self.flow();
            news = false;
            for site in 0..2 {
                news |= self.act(site, 0) | self.act(site, 1) | self.log_step(site);
            }
        }
    }

    /// The faults end, and time passes.
    pub(super) fn heal(&mut self) {
        self.links = [Link::Up; 2];
        for site in 0..2 {
            self.sites[site].talks = true;
            for stream in 0..2 {
                self.apply(Action::Land(site, stream));
            }
        }
        for _ in 0..8 {
            self.settle();
            self.apply(Action::Tick);
        }
        self.settle();
    }
}

impl PartialEq for World {
    fn eq(&self, other: &World) -> bool {
        let same = |one: &Site, two: &Site| one.key() == two.key();
        self.key() == other.key() && (0..2).all(|at| same(&self.sites[at], &other.sites[at]))
    }
}

impl Eq for World {}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
        self.sites.iter().for_each(|site| site.key().hash(state));
    }
}

impl World {
    fn key(&self) -> (Nanos, [Link; 2], Option<&'static str>, Budget) {
        (self.now, self.links, self.broken, self.budget)
    }
}

type LogKey<'a> = (&'a [Item], usize, bool, [Lsn; 3], Option<Nanos>, u64);
type SiteKey<'a> = (
    (u64, u64, &'a Option<Level>, Option<(u64, Said)>, bool, Option<LevelTold>),
    (&'a [LevelLease; 2], [Mode; 2]),
    [LogKey<'a>; 2],
);

impl Site {
    /// All that differs between two sites.
    fn key(&self) -> SiteKey<'_> {
        let log = |stream: usize| -> LogKey<'_> {
            let log = &self.logs[stream];
            let gate = &log.gate;
            let told = [gate.released(), gate.held(1), gate.held(2)];
            (&log.items, log.committed, log.slips, told, gate.waits(), log.known)
        };
        let version = self.registry.version();
        (
            (version, self.round, &self.level, self.proposed, self.talks, self.late),
            (&self.leases, self.told),
            [log(0), log(1)],
        )
    }
}
