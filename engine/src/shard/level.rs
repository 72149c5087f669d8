//! The level of protection on a shard. Where the catalogue is led, a [`Level`] decides; every shard
//! of a primary asks it, by way of the catalogue's shard of its node, and writes what its
//! [`LevelLease`] lets it write: marks first, and nothing under a SYNC mark that may have ended.

use std::collections::BTreeMap;

use bytes::Bytes;
use palisade_netio::{Frame, Nanos, Ring};
use palisade_wal::{Ballot, GroupKind, Lsn};

use crate::config::Role;
use crate::control::{
    Change, Health, Leading, Level, LevelAsk, LevelEffect, LevelLease, LevelTold, Mode, Next,
    Phase, Place, Registry, Standing, Step, What,
};
use crate::error::Error;
use crate::handle::NewRecord;
use crate::kinds::{KIND_LEVEL_ASK, KIND_LEVEL_TOLD};
use crate::paxos::NodeKey;
use crate::shard::Shard;
use crate::shard::mesh::{Mail, shard_of};
use crate::shard::stream::{Reply, StreamState};
use crate::stream::catalogue::{CATALOGUE_STREAM, SYSTEM_STREAM};
use crate::stream::mark::Mark;
use crate::transfer::limits::SYNC_STALL_NS;

/// How far the SYNC standby follows a stream whose acks do not wait for it.
#[derive(Clone, Copy)]
struct Lag {
    held: Lsn,
    /// When it last kept up, or moved.
    since: Nanos,
    /// When it was last asked where it stands.
    asked: Nanos,
}

/// What a shard knows of the level.
#[derive(Default)]
pub(crate) struct Levels {
    /// Who drives the shard writes the marks: nothing here acts.
    pub(super) by_hand: bool,
    /// The registry is known, as far as the shard of the catalogue knows it.
    told: bool,
    /// While this shard leads the catalogue, and the ballot under which it does.
    level: Option<Level>,
    ballot: Option<Ballot>,
    wake_at: Option<Nanos>,
    pub(super) lease: LevelLease,
    /// The SYNC standby that the mode wants: streams are shipped to it before they are marked.
    wanted: Option<u32>,
    lags: BTreeMap<u64, Lag>,
    /// Epoch and lease under which the streams that are led here were last looked at.
    seen: (u64, bool),
    /// They are to be looked at whatever that says.
    look: bool,
    /// One of them has a SYNC mark that may be current.
    marked: bool,
    /// When the last step of mode or level came to be known here.
    since_wall_ns: u64,
}

impl Levels {
    /// The level, where the catalogue is led.
    pub(crate) fn level(&self) -> Option<&Level> {
        self.level.as_ref()
    }

    /// When the last step came to be known here; 0 when there was none.
    pub(crate) fn since_wall_ns(&self) -> u64 {
        self.since_wall_ns
    }

    /// The SYNC standby that the mode wants.
    pub(crate) fn wanted(&self) -> Option<u32> {
        self.wanted.filter(|_| !self.by_hand)
    }

    /// The lease, where it has a say.
    pub(crate) fn lease(&self) -> Option<&LevelLease> {
        (!self.by_hand).then_some(&self.lease)
    }

    /// Whether the registry is known, as far as the shard of the catalogue knows it.
    pub(crate) fn is_told(&self) -> bool {
        self.told
    }

    /// Mode and level as this shard was told of them.
    pub(crate) fn lease_mode(&self) -> Mode {
        self.lease.mode()
    }

    /// Streams may stand otherwise than they did.
    pub(crate) fn look(&mut self) {
        self.look = true;
    }

    /// Whether the time decides on what may be written.
    pub(crate) fn is_leased(&self) -> bool {
        !self.by_hand && self.lease.mode().mark.cluster().is_some()
    }

    /// Puts the mark first that is due, takes one back that is not. Whether a group may be written
    /// then.
    pub(crate) fn lets(&self, stream: u64, state: &mut StreamState, now: Nanos) -> bool {
        if self.by_hand || stream == SYSTEM_STREAM || state.role == Role::Standby {
            return true;
        }
        if stream == CATALOGUE_STREAM && state.derived.hands_over() {
            // What follows is the new primary's.
            return false;
        }
        let last = state.derived.marks.last().map(|last| last.mark);
        match self.lease.next(last, now) {
            Next::Mark(mark) => state.put_mark(mark),
            Next::Write => state.drop_mark(),
            Next::Hold => {
                state.drop_mark();
                // What is said of mode and level waits for nobody but the local majority: without
                // it no fall would ever end.
                return state.bring_forward(GroupKind::Registry);
            }
        }
        true
    }
}

impl<R: Ring> Shard<R> {
    /// From now on who drives the shard writes the marks, and no mode does. For tests.
    pub fn mark_by_hand(&mut self) {
        self.levels.by_hand = true;
    }

    /// Moves the level along, once a turn, before groups are made.
    pub(crate) fn run_levels(&mut self) {
        if self.levels.by_hand {
            return;
        }
        self.lead_level();
        if self.fenced().is_some() {
            return;
        }
        if self.levels.wake_at.is_some_and(|at| at <= self.io.now) {
            self.with_level(|level, now, out| level.on_time(now, out));
        }
        if self.levels.lease.is_due(self.levels.marked, self.io.now) && self.is_primary() {
            self.ask_level();
        }
        self.look_at_marks();
    }

    /// When [`run_levels`](Shard::run_levels) is due.
    pub(crate) fn next_level(&self) -> Option<Nanos> {
        let levels = &self.levels;
        if levels.by_hand || self.fenced().is_some() {
            return None;
        }
        let asks = levels.lease.due_at(levels.marked).filter(|_| self.is_primary());
        let look = levels.look.then_some(self.io.now);
        [levels.wake_at, asks, look].into_iter().flatten().min()
    }

    fn is_primary(&self) -> bool {
        self.role() == Role::Primary
    }

    /// Decides on the level as long as this node leads the catalogue.
    fn lead_level(&mut self) {
        let Some(catalogue) = self.streams.get(&CATALOGUE_STREAM) else { return };
        let leads = catalogue.leading && catalogue.role == Role::Primary;
        // A primary that is fenced takes no step.
        let leads = leads && self.fenced().is_none();
        let ballot = catalogue.replica.serving().filter(|_| leads);
        if ballot == self.levels.ballot {
            return;
        }
        (self.levels.ballot, self.levels.level, self.levels.wake_at) = (ballot, None, None);
        let Some(ballot) = ballot else { return };
        let config = catalogue.replica.config();
        let members: Vec<u32> = config.members.iter().map(|member| member.node).collect();
        let streams = std::iter::once(CATALOGUE_STREAM).chain(self.catalogue.streams());
        let leading = Leading {
            ballot,
            me: Place { node: self.me.node, shard: self.me.shard },
            members: &members,
            shards: self.me.shards,
            streams: &streams.collect::<Vec<u64>>(),
            end: catalogue.replica.log().committed().lsn,
        };
        let mut out = Vec::new();
        self.levels.level = Some(Level::new(&leading, &self.registry, self.io.now, &mut out));
        out.into_iter().for_each(|effect| self.do_level(effect));
        self.tell_level_held(CATALOGUE_STREAM);
        self.with_level(|level, now, out| level.on_time(now, out));
    }

    /// Gives an input to the level, if it is decided here, and does what it wants.
    pub(crate) fn with_level(
        &mut self,
        call: impl FnOnce(&mut Level, Nanos, &mut Vec<LevelEffect>),
    ) {
        // The turn may have begun before another shard asked: its lease runs from then on.
        let (now, mut out) = (self.io.ring.now(), Vec::new());
        let Some(level) = &mut self.levels.level else { return };
        call(level, now, &mut out);
        self.levels.wake_at = level.wake_at(now);
        out.into_iter().for_each(|effect| self.do_level(effect));
    }

    fn do_level(&mut self, effect: LevelEffect) {
        match effect {
            LevelEffect::Propose { on, step } => self.propose_level(on, step),
            LevelEffect::Turn { on, step } => self.propose_turn(on, step),
            LevelEffect::Tell { to, told } if to.node == self.me.node => self.hand_told(told),
            LevelEffect::Tell { to, told } => {
                // One that is lost is asked for again.
                self.net.send_control(&mut self.io, to.node, KIND_LEVEL_TOLD, &told.encode());
            }
        }
    }

    fn propose_level(&mut self, on: u64, step: Step) {
        let change = Change { by: self.me.cluster, on, what: What::Mode(step) };
        let record = NewRecord { payload: Bytes::from(change.encode()), ..NewRecord::default() };
        self.take_append(CATALOGUE_STREAM, record, GroupKind::Registry, Reply::Level);
    }

    /// A step that was proposed stands in the log, or does not.
    pub(crate) fn settle_level(&mut self, failed: bool) {
        if let Some(level) = self.levels.level.as_mut().filter(|_| failed) {
            level.on_failed();
        }
    }

    /// A shard of this node asks how the level is.
    pub(crate) fn pass_ask(&mut self, ask: &LevelAsk) {
        assert!(shard_of(CATALOGUE_STREAM, self.me.shards) == self.me.shard);
        let from = Place { node: self.me.node, shard: ask.shard };
        if self.levels.level.is_some() {
            self.with_level(|level, now, out| level.on_ask(from, ask, now, out));
        } else if let Some(node) = self.leading_peer(CATALOGUE_STREAM) {
            self.net.send_control(&mut self.io, node, KIND_LEVEL_ASK, &ask.encode());
        }
    }

    /// A shard of another node asks. False when the frame makes no sense.
    pub(crate) fn on_level_ask(&mut self, from: NodeKey, frame: &Frame) -> bool {
        let body = self.bytes_of(frame.slot, frame.body.at, frame.body.len);
        let Ok(ask) = LevelAsk::parse(body) else { return false };
        let from = Place { node: from.node, shard: ask.shard };
        self.with_level(|level, now, out| level.on_ask(from, &ask, now, out));
        true
    }

    /// The leader of the catalogue says how the level is. False when the frame makes no sense.
    pub(crate) fn on_level_told(&mut self, frame: &Frame) -> bool {
        let body = self.bytes_of(frame.slot, frame.body.at, frame.body.len);
        let Ok(told) = LevelTold::parse(body) else { return false };
        let known = told.shard < self.me.shards;
        if known {
            self.hand_told(told);
        }
        known
    }

    fn hand_told(&mut self, told: LevelTold) {
        if told.shard == self.me.shard {
            return self.take_told(&told);
        }
        // Only the newest counts: what waits for room is replaced.
        let older = |to: u16, mail: &Mail| to == told.shard && matches!(mail, Mail::LevelTold(_));
        self.unsent.retain(|(to, mail)| !older(*to, mail));
        self.unsent.push_back((told.shard, Mail::LevelTold(Box::new(told))));
        self.retry_mail();
    }

    /// What the leader of the catalogue says to this shard.
    pub(crate) fn take_told(&mut self, told: &LevelTold) {
        if told.mode.is_primary(self.me.cluster) == Some(false) {
            // That the role went elsewhere is for the registry to say: until then the streams here
            // are still the primary's, and what their next mark is is not for them to write.
            return;
        }
        self.levels.lease.on_told(told, self.io.now);
    }

    /// The committed registry says this.
    pub(crate) fn note_mode(&mut self, registry: &Registry) {
        let mode = registry.mode();
        self.levels.told = true;
        if mode.epoch > self.levels.lease.mode().epoch || self.levels.since_wall_ns == 0 {
            let wall = self.io.ring.wall_ns();
            self.levels.since_wall_ns = if mode.epoch > 0 { wall } else { 0 };
        }
        self.levels.lease.on_mode(mode);
        let mut sync = registry.sync_standbys().filter(|_| Mode::wants_sync(mode.mode));
        let wanted = sync.next().filter(|cluster| sync.next().is_none() && cluster.hold.is_none());
        let target = Some(mode.office.target).filter(|target| *target != 0);
        let wanted = target.or(wanted.map(|cluster| cluster.id));
        if std::mem::replace(&mut self.levels.wanted, wanted) != wanted && !self.levels.by_hand {
            self.levels.lags.clear();
            self.levels.look();
            let led = |state: &StreamState| state.leading && state.role == Role::Primary;
            let led = self.streams.iter().filter(|(_, state)| led(state));
            let led: Vec<u64> = led.map(|(stream, _)| *stream).collect();
            led.into_iter().for_each(|stream| self.ship_anew(stream));
        }
    }

    /// Why the level is not what the mode asks for; empty when it is.
    pub(crate) fn level_reason(&self) -> &'static str {
        let (mode, level) = (self.registry.mode(), self.levels.level());
        let well = level.is_some_and(|level| level.health() == Health::Well);
        match mode.reason() {
            reason if reason.is_empty() || !mode.is_steady() || !well => reason,
            _ => "the SYNC standby keeps up, for less than its health check",
        }
    }

    /// The SYNC standby has more of a stream.
    pub(crate) fn tell_level_held(&mut self, stream: u64) {
        if self.levels.by_hand {
            return;
        }
        let want = self.levels.lease.mode().mark;
        let (Some(cluster), Some(state)) = (want.cluster(), self.streams.get(&stream)) else {
            return;
        };
        let held = state.gate.held(cluster);
        if is_done(state, self.levels.lease.mode()) {
            self.levels.lease.on_marked(stream);
        }
        if stream == CATALOGUE_STREAM {
            self.with_level(|level, now, out| level.on_held(cluster, held, now, out));
        }
    }

    fn ask_level(&mut self) {
        let (standing, done) = self.standing();
        let (shard, now) = (self.me.shard, self.io.now);
        let ask = self.levels.lease.ask(shard, &standing, done.into_iter(), now);
        let to = shard_of(CATALOGUE_STREAM, self.me.shards);
        if to == shard {
            return self.pass_ask(&ask);
        }
        // Only the newest counts: what waits for room is replaced.
        self.unsent.retain(|(_, mail)| !matches!(mail, Mail::LevelAsk(_)));
        self.unsent.push_back((to, Mail::LevelAsk(Box::new(ask))));
        self.retry_mail();
    }

    /// How the streams that are led here stand to the SYNC standby, and which of them have the
    /// current mark there.
    pub(super) fn standing(&mut self) -> (Standing, Vec<u64>) {
        let (now, mode) = (self.io.now, self.levels.lease.mode());
        // The registry may come later than the word that the role is to go there.
        let target = Some(mode.office.target).filter(|target| *target != 0);
        let (mut standing, mut done, mut silent) = (Standing::default(), Vec::new(), Vec::new());
        // What was shown as a standby's is behind whatever this cluster gives as a primary.
        standing.scn = self.showing.replayable.known();
        if let Some(catalogue) = self.streams.get(&CATALOGUE_STREAM) {
            standing.promised = catalogue.replica.log().promised();
        }
        let mut lags = std::mem::take(&mut self.levels.lags);
        lags.retain(|stream, _| self.streams.get(stream).is_some_and(|state| state.leading));
        for (&stream, state) in self.streams.range(CATALOGUE_STREAM..) {
            if !state.leading || state.role == Role::Standby {
                continue;
            }
            standing.leads += 1;
            // Nothing above it was given or closed; once the stream has ended, nothing will be.
            let scn = state.replica.scn_floor().max(self.floors.bound());
            standing.scn = standing.scn.max(scn);
            if is_done(state, mode) {
                done.push(stream);
            }
            let marked = state.derived.marks.named();
            let Some(cluster) = marked.or(target).or(self.levels.wanted) else { continue };
            // Not what it ever had: one that began anew has less.
            let taken = self.shipped_held(stream).filter(|it| it.cluster == cluster);
            let other = marked.is_some() && self.levels.wanted.is_some_and(|it| it != cluster);
            let behind = match taken {
                Some(it) if !other => {
                    state.replica.log().committed().lsn.0.saturating_sub(it.held.0)
                }
                // It is not there, or has not said so; or the mark names another one.
                _ => u64::MAX,
            };
            let held = taken.map_or(Lsn::ZERO, |it| it.held);
            standing.behind = standing.behind.max(behind);
            let lag = lags.entry(stream).or_insert(Lag { held, since: now, asked: now });
            if taken.is_some() && (behind == 0 || held != lag.held) {
                *lag = Lag { held, since: now, asked: now };
            }
            let still = match marked {
                Some(_) => state.gate.waits().map_or(0, |since| now.since(since)),
                None => now.since(lag.since),
            };
            standing.still_ns = standing.still_ns.max(still);
            if (marked.is_none() || taken.is_none()) && now.since(lag.asked) >= SYNC_STALL_NS {
                lag.asked = now;
                silent.push(stream);
            }
        }
        self.levels.lags = lags;
        silent.into_iter().for_each(|stream| self.ask_standby(stream));
        (standing, done)
    }

    /// Looks at every stream that is led here when mode or lease may say something new of it: SYNC
    /// marks are written at once, ASYNC marks where something waits, or after a mark of another
    /// cluster than the one that is wanted.
    fn look_at_marks(&mut self) {
        let (now, lease, wanted) = (self.io.now, &self.levels.lease, self.levels.wanted);
        let (want, seen) = (lease.mode().mark, (lease.mode().epoch, lease.may(now)));
        let look = std::mem::take(&mut self.levels.look);
        if seen == self.levels.seen && !look {
            return;
        }
        if self.levels.lease.mode().is_primary(self.me.cluster) == Some(false) {
            return;
        }
        let mut due: Vec<(u64, Option<Mark>)> = Vec::new();
        let phase = lease.mode().phase;
        let moves_on = matches!(phase, Phase::Starting | Phase::Seizing);
        let mut marked = false;
        for (&stream, state) in self.streams.range(CATALOGUE_STREAM..) {
            if !state.leading || state.role == Role::Standby {
                continue;
            }
            let last = state.derived.marks.last().map(|last| last.mark);
            marked |= last.is_some_and(|m| m.cluster().is_some() && m.epoch() >= want.epoch());
            let end = state.replica.log().end().lsn;
            let waits = !state.pending.is_empty() || state.gate.released() < end;
            // As long as a mark names another cluster, the stream is shipped to that one.
            let named = last.and_then(Mark::cluster);
            let moves = named.is_some() && wanted.is_some() && wanted != named;
            match self.levels.lease.next(last, now) {
                Next::Mark(mark) if mark.cluster().is_some() || waits || moves || moves_on => {
                    due.push((stream, Some(mark)));
                }
                Next::Write if state.blocked => due.push((stream, None)),
                Next::Mark(_) | Next::Write | Next::Hold => {}
            }
        }
        (self.levels.seen, self.levels.marked) = (seen, marked);
        for (stream, mark) in due {
            let written: Result<(), Error> = match mark {
                Some(mark) => self.write_mark(stream, mark),
                None => {
                    self.unblock(stream);
                    Ok(())
                }
            };
            assert!(written.is_ok(), "it is led here, and the mark is newer: {written:?}");
        }
    }

    /// Whether acks of some stream may wait for a SYNC standby, as far as is known here: then every
    /// mark counts, also one that is lost.
    pub(crate) fn may_wait(&self) -> bool {
        let (levels, mode) = (&self.levels, self.registry.mode());
        let wanted = Mode::wants_sync(mode.mode) && self.registry.sync_standbys().next().is_some();
        let catalogue = self.streams.get(&CATALOGUE_STREAM);
        let known = levels.told && catalogue.is_none_or(|it| it.derived.is_whole());
        !known || levels.by_hand || wanted || mode.mark.cluster().is_some()
    }

    fn unblock(&mut self, stream: u64) {
        if std::mem::take(&mut self.state(stream).blocked) {
            self.dirty.push_back(stream);
        }
    }
}

/// Whether the last mark of a stream is the current one, committed here and by who it names. What a
/// new primary begins with is known to nobody else yet.
fn is_done(state: &StreamState, mode: Mode) -> bool {
    let (want, marks) = (mode.mark, &state.derived.marks);
    if matches!(mode.phase, Phase::Starting | Phase::Seizing) {
        return marks.standing().is_some_and(|standing| standing.mark == want);
    }
    let Some(cluster) = want.cluster() else { return false };
    let current = marks.standing().filter(|standing| standing.mark == want);
    let last = marks.last().is_some_and(|last| last.mark == want);
    last && current.is_some_and(|standing| state.gate.held(cluster) >= standing.end)
}
