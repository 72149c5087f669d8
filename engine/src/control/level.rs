//! The level, at the leader of the primary's catalogue: when it rises and falls, and who has to
//! know before.
//!
//! It asks nobody. Each shard of each node that may lead a stream asks it (a [`LevelAsk`] each
//! [`LEVEL_RENEW_NS`] while a mode wants a SYNC standby), says how its streams stand to the SYNC
//! standby, and is answered with the mode and, where there is a SYNC mark, a lease: until it ends
//! the shard may write under that mark. Every step is an entry of the catalogue. So a new leader
//! resumes from the entries, and must only wait out the leases that the one before may have given:
//! those end a lease after a majority of the catalogue's members last followed it, which is before
//! the new leader led.
//!
//! - **Rising**: the entry names a new SYNC mark. Each stream's mark is committed by the SYNC
//!   standby, which is a fact for good whoever leads the stream; then the level rises.
//! - **Falling**: the entry ends the mark. Each shard says that it writes nothing more under it,
//!   or its lease ends; then an entry says ASYNC, and streams are marked so, each before its next
//!   group. No stream acks alone before that entry, but one that the rise had not reached. A rise
//!   that is given up falls the same way: the SYNC standby may have all of its marks.
//! - **Leaving** MAXIMUM PROTECTION: the SYNC standby commits the entry that says so; then it
//!   falls, or is MAXIMUM AVAILABILITY.
//! - **Preparing**, **ending** and **starting** hand the role over (`role.rs`), in the same way:
//!   each names a new mark for every stream, and goes on when shards have said that all have it.

use std::collections::{BTreeMap, BTreeSet};

use palisade_netio::Nanos;
use palisade_wal::{Ballot, Lsn};

use super::limits::{
    END_NS, LEVEL_AGAIN_NS, LEVEL_LEASE_NS, LEVEL_RENEW_NS, LEVEL_WAIT_NS, PREPARE_NS,
    RISE_BEHIND_MAX, SWITCH_BEHIND_MAX,
};
use super::mode::{Mode, Phase, Step};
use super::registry::{Cluster, Registry};
use super::role::{Act, RoleStep};
use super::wire::{LevelAsk, LevelTold};
use crate::seeded::is_seeded;
use crate::status::Protection;
use crate::stream::mark::Mark;

/// A shard of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The node.
    pub node: u32,
    /// Its shard.
    pub shard: u16,
}

/// How the SYNC standby is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// Nobody looks: there is no SYNC path.
    #[default]
    Unseen,
    /// It keeps up with every stream.
    Well,
    /// It does not, or not all streams are heard of.
    Ill,
}

/// What the level wants done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LevelEffect {
    /// Append this to the catalogue, decided on version `on` of the registry; when that fails, say
    /// [`Level::on_failed`].
    Propose {
        /// The version.
        on: u64,
        /// The step.
        step: Step,
    },
    /// The same with a step of the role.
    Turn {
        /// The version.
        on: u64,
        /// The step.
        step: RoleStep,
    },
    /// Send this.
    Tell {
        /// To the shard.
        to: Place,
        /// What it is told.
        told: LevelTold,
    },
}

/// What leading the catalogue begins with.
#[derive(Clone, Debug)]
pub struct Leading<'a> {
    /// The ballot of the catalogue's leader.
    pub ballot: Ballot,
    /// Its shard.
    pub me: Place,
    /// The members of the catalogue.
    pub members: &'a [u32],
    /// Shards of each node.
    pub shards: u16,
    /// The catalogue's streams but the system stream, itself among them.
    pub streams: &'a [u64],
    /// The end of what is committed of the catalogue: everything that leaders before committed.
    pub end: Lsn,
}

/// The level, while its node leads the catalogue. Made anew with each leadership.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Level {
    ballot: Ballot,
    me: Place,
    members: Vec<u32>,
    mode: Mode,
    version: u64,
    sync: Option<Standby>,
    streams: BTreeSet<u64>,
    shards: BTreeMap<Place, Shard>,
    /// When the newest words were said here that each other member, still following, has heard.
    backed: BTreeMap<u32, Nanos>,
    /// Streams whose mark the SYNC standby has not committed, as far as is known: while rising; and
    /// while ending or starting those that have no END that the target committed, or no START.
    unmarked: BTreeSet<u64>,
    /// When the last of them was heard of, or the phase began.
    moved: Nanos,
    /// When the phase began, as far as this leader knows.
    began: Nanos,
    /// The highest SCN that was heard of in any stream.
    scn: u64,
    /// The catalogue's end when the newest step was seen to be committed.
    step_end: Lsn,
    /// The catalogue as the SYNC standby has committed it.
    held: Lsn,
    /// Since when the SYNC standby is well.
    well: Option<Nanos>,
    /// A step that may be on its way: the version it was decided on, and when.
    proposed: Option<(u64, Nanos)>,
}

/// The standby set to SYNC, where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Standby {
    cluster: u32,
    net_ns: u64,
    health_ns: u64,
    suspended: bool,
}

impl Standby {
    fn of(cluster: &Cluster) -> Standby {
        Standby {
            cluster: cluster.id,
            net_ns: u64::from(cluster.net_timeout_ms) * 1_000_000,
            health_ns: u64::from(cluster.health_check_ms) * 1_000_000,
            suspended: cluster.hold.is_some(),
        }
    }
}

/// What is known of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shard {
    /// Its lease may run so long.
    until: Nanos,
    /// It writes nothing more under marks up to this epoch.
    closed: u64,
    /// When it asked last.
    heard: Option<Nanos>,
    leads: u32,
    still_ns: u64,
    behind: u64,
}

impl Level {
    /// This node leads the catalogue.
    pub fn new(
        leading: &Leading<'_>,
        registry: &Registry,
        now: Nanos,
        out: &mut Vec<LevelEffect>,
    ) -> Level {
        let wait = if is_seeded("leader_waits_for_no_lease") { 0 } else { LEVEL_WAIT_NS };
        // Whoever led before may have given a lease until now.
        let unheard = Shard {
            until: now.after(wait),
            closed: 0,
            heard: None,
            leads: 0,
            still_ns: 0,
            behind: 0,
        };
        let of_node = |node: u32| (0..leading.shards).map(move |shard| Place { node, shard });
        let places = leading.members.iter().copied().flat_map(of_node);
        let mut level = Level {
            ballot: leading.ballot,
            me: leading.me,
            members: leading.members.to_vec(),
            mode: Mode::default(),
            version: 0,
            sync: None,
            streams: leading.streams.iter().copied().collect(),
            shards: places.map(|place| (place, unheard)).collect(),
            backed: BTreeMap::new(),
            unmarked: BTreeSet::new(),
            moved: now,
            began: now,
            scn: 0,
            step_end: leading.end,
            held: Lsn::ZERO,
            well: None,
            proposed: None,
        };
        assert!(level.shards.contains_key(&leading.me), "its own shard is one of them");
        assert!(level.streams.contains(&1), "the catalogue is a stream like the others");
        level.on_registry(registry, leading.end, now, out);
        level
    }

    /// More of the registry is committed, up to `end` of the catalogue.
    pub fn on_registry(
        &mut self,
        registry: &Registry,
        end: Lsn,
        now: Nanos,
        out: &mut Vec<LevelEffect>,
    ) {
        assert!(registry.version() >= self.version, "a committed registry never goes back");
        assert!(registry.mode().epoch >= self.mode.epoch);
        self.version = registry.version();
        let mode = registry.mode();
        let mut sync = registry.sync_standbys().map(Standby::of);
        let target = registry.standby(mode.office.target).map(Standby::of);
        self.sync = target.or(sync.next().filter(|_| sync.next().is_none()));
        if mode.epoch > self.mode.epoch {
            self.begin(mode, end, now);
            self.tell_all(now, out);
        }
        self.on_time(now, out);
    }

    /// A stream was created, and begins with this mark.
    pub fn on_created(&mut self, stream: u64, birth: Option<Mark>) {
        self.streams.insert(stream);
        let marks = matches!(self.mode.phase, Phase::Rising | Phase::Ending)
            || matches!(self.mode.phase, Phase::Starting | Phase::Seizing);
        // With the current mark there is nothing in it that the SYNC standby could lack.
        if marks && birth != Some(self.mode.mark) {
            self.unmarked.insert(stream);
        }
    }

    /// A stream was dropped.
    pub fn on_dropped(&mut self, stream: u64) {
        self.streams.remove(&stream);
        self.unmarked.remove(&stream);
        assert!(self.streams.contains(&1), "the catalogue is never dropped");
    }

    /// The SYNC standby that the mark names has committed the catalogue so far.
    pub fn on_held(&mut self, cluster: u32, held: Lsn, now: Nanos, out: &mut Vec<LevelEffect>) {
        if self.mode.mark.cluster() == Some(cluster) {
            self.held = self.held.max(held);
            self.on_time(now, out);
        }
    }

    /// A step was not appended, or is void.
    pub fn on_failed(&mut self) {
        self.proposed = None;
    }

    /// A shard asks.
    pub fn on_ask(&mut self, from: Place, ask: &LevelAsk, now: Nanos, out: &mut Vec<LevelEffect>) {
        let Some(shard) = self.shards.get_mut(&from) else { return };
        shard.closed = shard.closed.max(ask.closed);
        // Who has not heard of the target says nothing of it.
        let knows = ask.heard == self.ballot && Nanos(ask.token) >= self.began;
        if self.mode.phase != Phase::Preparing || knows {
            shard.heard = Some(now);
            (shard.leads, shard.still_ns, shard.behind) = (ask.leads, ask.still_ns, ask.behind);
        }
        let follows = ask.promised == self.ballot && ask.heard == self.ballot;
        if from.shard == self.me.shard && from.node != self.me.node && follows {
            let token = Nanos(ask.token).min(now);
            let backed = self.backed.entry(from.node).or_insert(token);
            *backed = token.max(*backed);
        }
        self.scn = self.scn.max(ask.scn);
        if ask.mark == self.mode.mark.epoch() {
            let before = self.unmarked.len();
            ask.done.iter().for_each(|stream| {
                self.unmarked.remove(stream);
            });
            if self.unmarked.len() < before {
                self.moved = now;
            }
        }
        let lease_ns = self.lease(from, now);
        let told = self.told(from, ask.asked_at, lease_ns, now);
        out.push(LevelEffect::Tell { to: from, told });
        self.on_time(now, out);
    }

    /// Time passed. Called after every other input too.
    pub fn on_time(&mut self, now: Nanos, out: &mut Vec<LevelEffect>) {
        self.well = match self.is_well(now) {
            true => Some(self.well.unwrap_or(now)),
            false => None,
        };
        let waits = |(on, at): (u64, Nanos)| on == self.version && now.since(at) < LEVEL_AGAIN_NS;
        if self.proposed.is_some_and(waits) {
            return;
        }
        if let Some(act) = self.next_act(now) {
            let (on, step) = (self.version, RoleStep { epoch: self.mode.epoch, act });
            self.proposed = Some((self.version, now));
            return out.push(LevelEffect::Turn { on, step });
        }
        let Some(step) = self.next(now) else { return };
        assert!(self.mode.step(&step).is_some(), "{step:?} does not follow {:?}", self.mode);
        self.proposed = Some((self.version, now));
        out.push(LevelEffect::Propose { on: self.version, step });
    }

    /// When [`on_time`](Level::on_time) is due, if nothing else happens.
    pub fn wake_at(&self, now: Nanos) -> Option<Nanos> {
        let renew = now.after(LEVEL_RENEW_NS);
        let ends = self.open().map(|shard| shard.until.after(1)).filter(|end| *end > now);
        match self.mode.phase {
            Phase::Falling => Some(ends.fold(renew, Nanos::min)),
            _ => self.is_told().then_some(renew),
        }
    }

    /// How the SYNC standby is. While no mode wants one, no shard tells.
    pub fn health(&self) -> Health {
        match self.well {
            _ if !self.is_told() => Health::Unseen,
            Some(_) => Health::Well,
            None => Health::Ill,
        }
    }

    fn is_told(&self) -> bool {
        let level = Mode::wants_sync(self.mode.mode) || self.mode.mark.cluster().is_some();
        level || self.mode.phase.is_role()
    }

    /// Mode and level as far as they are committed.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Streams whose marks the rise still waits for.
    pub fn unmarked(&self) -> usize {
        self.unmarked.len()
    }

    /// Shards that a fall still waits for.
    pub fn unconfirmed(&self) -> usize {
        self.open().count()
    }
}

/// How it decides.
impl Level {
    fn begin(&mut self, mode: Mode, end: Lsn, now: Nanos) {
        let marks_anew = mode.mark != self.mode.mark;
        if marks_anew {
            self.held = Lsn::ZERO;
        }
        match mode.phase {
            // A rise to another mode goes on: what was told of its marks is not told again.
            Phase::Rising if !marks_anew => {}
            Phase::Rising | Phase::Ending | Phase::Starting | Phase::Seizing => {
                self.unmarked = self.streams.clone();
            }
            _ => self.unmarked.clear(),
        }
        if matches!(mode.phase, Phase::Preparing | Phase::Seizing) {
            self.shards.values_mut().for_each(|shard| shard.heard = None);
        }
        self.mode = mode;
        self.began = now;
        self.step_end = self.step_end.max(end);
        (self.well, self.proposed, self.moved) = (None, None, now);
    }

    /// The step that is due.
    fn next(&self, now: Nanos) -> Option<Step> {
        let (mode, same) = (self.mode, self.mode.same());
        match mode.phase {
            Phase::Preparing | Phase::Ending | Phase::Starting | Phase::Seizing => None,
            Phase::Steady if mode.mark.cluster().is_some() => {
                let level = Protection::Resync;
                let degrades = mode.mode == Protection::Availability && self.is_still(now);
                degrades.then_some(Step { level, phase: Phase::Falling, ..same })
            }
            Phase::Steady => {
                let sync = self.sync.filter(|_| self.rises(now))?.cluster;
                Some(Step { phase: Phase::Rising, sync, ..same })
            }
            Phase::Rising if self.unmarked.is_empty() => {
                Some(Step { level: mode.mode, phase: Phase::Steady, ..same })
            }
            Phase::Rising if is_seeded("level_rises_before_marks") => {
                Some(Step { level: mode.mode, phase: Phase::Steady, ..same })
            }
            // MAXIMUM PROTECTION was asked for: acks wait until the operator asks for less.
            Phase::Rising if mode.mode == Protection::Protection => None,
            Phase::Rising => {
                let given_up = self.is_still(now) || now.since(self.moved) >= self.net_ns();
                given_up.then_some(Step { phase: Phase::Falling, ..same })
            }
            Phase::Leaving => {
                let told = self.held >= self.step_end;
                let left = Mode { level: Protection::Protection, ..mode };
                (told || is_seeded("left_without_proof"))
                    .then(|| Step { forced: false, ..left.asked(mode.mode, true) })
            }
            Phase::Falling => {
                let gone = self.open().all(|shard| shard.until < now);
                let fell = gone || is_seeded("fall_waits_for_nobody");
                fell.then_some(Step { phase: Phase::Steady, sync: 0, ..same })
            }
        }
    }

    /// The step of the role that is due.
    fn next_act(&self, now: Nanos) -> Option<Act> {
        let (waited, scn) = (now.since(self.began), self.scn);
        let marked = self.unmarked.is_empty();
        match self.mode.phase {
            Phase::Preparing => {
                let sync = Mode::is_sync(self.mode.level);
                let gone = waited >= PREPARE_NS || sync && self.is_still(now);
                match self.is_close(now) {
                    true => Some(Act::End),
                    false => gone.then_some(Act::GiveUp),
                }
            }
            Phase::Ending if marked || is_seeded("handed_over_without_ends") => {
                Some(Act::HandOver { scn })
            }
            Phase::Ending => (waited >= END_NS).then_some(Act::Resume { scn }),
            Phase::Starting => marked.then_some(Act::Serve),
            Phase::Seizing => {
                let fenced = marked && self.is_heard() || is_seeded("begins_before_every_fence");
                fenced.then_some(Act::Begin { scn })
            }
            Phase::Steady | Phase::Rising | Phase::Falling | Phase::Leaving => None,
        }
    }

    /// Whether a majority of each shard was heard of in this phase: one of them knows each SCN that
    /// this cluster showed as a standby.
    fn is_heard(&self) -> bool {
        let heard = |at: u16| {
            let of_shard =
                |(place, shard): &(&Place, &Shard)| place.shard == at && shard.heard.is_some();
            self.shards.iter().filter(of_shard).count() > self.members.len() / 2
        };
        self.shards.keys().all(|place| heard(place.shard))
    }

    /// Whether the target has nearly all of every stream.
    fn is_close(&self, now: Nanos) -> bool {
        let close = |shard: &Shard| shard.leads == 0 || shard.behind <= SWITCH_BEHIND_MAX;
        self.is_well(now) && self.fresh(now).all(close)
    }

    /// Shards that may still write under the mark.
    fn open(&self) -> impl Iterator<Item = &Shard> {
        let epoch = self.mode.mark.epoch();
        let silent = |shard: &&Shard| shard.heard.is_some();
        let all = !is_seeded("silent_shards_count_as_fallen");
        let open = self.shards.values().filter(move |shard| shard.closed < epoch);
        open.filter(move |shard| all || silent(shard))
    }

    fn net_ns(&self) -> u64 {
        self.sync.map_or(u64::MAX, |sync| sync.net_ns)
    }

    /// Whether some stream has waited too long for the SYNC standby.
    fn is_still(&self, now: Nanos) -> bool {
        let (net_ns, mode) = (self.net_ns(), self.mode);
        // The old primary connects while the role goes from it: what waits for it under the mark
        // of a START waits from when the new one serves.
        let began = mode.phase == Phase::Steady && mode.mark.epoch() == mode.office.since;
        let served_ns = if began { now.since(self.began) } else { u64::MAX };
        self.fresh(now).any(|shard| shard.still_ns.min(served_ns) >= net_ns)
    }

    fn fresh(&self, now: Nanos) -> impl Iterator<Item = &Shard> {
        let is_new = move |heard: Nanos| now.since(heard) <= LEVEL_LEASE_NS;
        self.shards.values().filter(move |shard| shard.heard.is_some_and(is_new))
    }

    /// Whether every stream is heard of, and the SYNC standby keeps up with it.
    fn is_well(&self, now: Nanos) -> bool {
        let Some(sync) = self.sync else { return false };
        let keeps_up = |shard: &Shard| {
            shard.leads == 0 || shard.still_ns < sync.net_ns && shard.behind <= RISE_BEHIND_MAX
        };
        let leads: u64 = self.fresh(now).map(|shard| u64::from(shard.leads)).sum();
        leads >= self.streams.len() as u64 && self.fresh(now).all(keeps_up)
    }

    fn rises(&self, now: Nanos) -> bool {
        let (Some(sync), Some(well)) = (self.sync, self.well) else { return false };
        match self.mode.mode {
            _ if sync.suspended => false,
            // Asked for by somebody who waits, and refused where the standby was not well.
            Protection::Protection => true,
            Protection::Availability => now.since(well) >= sync.health_ns,
            Protection::Performance | Protection::Resync => false,
        }
    }

    /// When a majority of the catalogue's members last followed this leader, for certain.
    fn backed_at(&self, now: Nanos) -> Option<Nanos> {
        let time = |node: &u32| match *node == self.me.node {
            true => Some(now),
            false => self.backed.get(node).copied(),
        };
        let mut times: Vec<Nanos> = self.members.iter().filter_map(time).collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        times.get(self.members.len() / 2).copied()
    }

    /// The lease for a shard that asked, from when it asked.
    fn lease(&mut self, to: Place, now: Nanos) -> u64 {
        let backed = self.backed_at(now).map_or(Nanos(0), |at| at.after(LEVEL_LEASE_NS));
        let backed = if is_seeded("lease_without_majority") { Nanos(u64::MAX) } else { backed };
        let mark = self.mode.mark;
        let ends = matches!(self.mode.phase, Phase::Falling | Phase::Ending);
        let is_open = mark.cluster().is_some() && !ends;
        let shard = self.shards.get_mut(&to).expect("it asked");
        if !is_open || shard.closed >= mark.epoch() {
            return 0;
        }
        let lease_ns = backed.since(now).min(LEVEL_LEASE_NS);
        if lease_ns > 0 {
            let margin = LEVEL_WAIT_NS - LEVEL_LEASE_NS;
            shard.until = shard.until.max(now.after(lease_ns + margin));
        }
        lease_ns
    }

    fn told(&self, to: Place, asked_at: u64, lease_ns: u64, now: Nanos) -> LevelTold {
        let shard = to.shard;
        LevelTold { ballot: self.ballot, shard, asked_at, lease_ns, token: now.0, mode: self.mode }
    }

    fn tell_all(&self, now: Nanos, out: &mut Vec<LevelEffect>) {
        let tell = |to: &Place| LevelEffect::Tell { to: *to, told: self.told(*to, 0, 0, now) };
        out.extend(self.shards.keys().map(tell));
    }
}
