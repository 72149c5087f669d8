//! What the replicas want done: every output of a replica is executed here, in order, before its
//! next input.

use palisade_netio::{HEAD_BYTES, Ring};
use palisade_wal::{Ballot, Kind, Lsn, RECORD_HEADER_BYTES};

use crate::config::Role;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::paxos::{Effect, Effects, HaltReason, LivenessEffect, LogRecord, NodeKey, Replica};
use crate::shard::Shard;
use crate::shard::jobs::{Destination, Job};
use crate::shard::mesh::shard_of;
use crate::shard::net::PeerChange;
use crate::shard::stream::{StreamState, TailRun, Waiting};
use crate::stream::catalogue::{CATALOGUE_STREAM, Change, SYSTEM_STREAM};

impl<R: Ring> Shard<R> {
    /// Gives an input to a replica and does what it wants. Nothing happens for an unknown stream.
    pub(crate) fn step<T>(
        &mut self,
        stream: u64,
        input: impl FnOnce(&mut Replica, palisade_netio::Nanos, &mut Effects) -> T,
    ) -> Option<T> {
        let now = self.io.now;
        let state = self.streams.get_mut(&stream)?;
        state.replica.set_floor(self.floors.bound());
        let output = input(&mut state.replica, now, &mut self.effects);
        let promised = state.replica.log().promised();
        if std::mem::replace(&mut state.promised, promised) != promised {
            self.floors.on_promised(stream, promised);
        }
        self.drain(stream);
        self.touch(stream);
        Some(output)
    }

    /// Marks a stream for the end of the turn.
    pub(crate) fn touch(&mut self, stream: u64) {
        let state = self.streams.get_mut(&stream).expect("a stream of this shard");
        if !state.touched {
            state.touched = true;
            self.touched.push(stream);
        }
    }

    /// Ends the turn for every replica that had an input, and keeps their timers.
    pub(crate) fn end_turn(&mut self) {
        let mut at = 0;
        while let Some(&stream) = self.touched.get(at) {
            at += 1;
            self.step(stream, |replica, now, fx| replica.on_turn_end(now, fx));
            let state = self.streams.get_mut(&stream).expect("touched");
            state.touched = false;
            if state.blocked && state.replica.leader_slot().is_ok() {
                state.blocked = false;
                self.dirty.push_back(stream);
            }
            let due = state.replica.next_deadline();
            if state.timer != due {
                if let Some(old) = state.timer {
                    self.timers.remove(&(old, stream));
                }
                state.timer = due;
                self.timers.extend(due.map(|due| (due, stream)));
            }
        }
        self.touched.clear();
    }

    /// Calls replicas whose deadline has passed.
    pub(crate) fn run_timers(&mut self) {
        while let Some(&(due, stream)) = self.timers.first().filter(|(due, _)| *due <= self.io.now)
        {
            self.timers.remove(&(due, stream));
            if let Some(state) = self.streams.get_mut(&stream) {
                state.timer = None;
            }
            self.step(stream, |replica, now, fx| replica.on_time(now, fx));
        }
    }

    fn drain(&mut self, stream: u64) {
        let mut effects = std::mem::take(&mut self.effects.0);
        for effect in effects.drain(..) {
            self.execute(stream, effect);
        }
        self.effects.0 = effects;
    }

    fn execute(&mut self, stream: u64, effect: Effect) {
        match effect {
            Effect::Log(record) => self.on_log(stream, record),
            Effect::Send { to, message } => self.net.push_message(to, &message),
            Effect::Serve { to, ballot, from, upto, want } => {
                let destination = Destination::Peer { to, ballot, want };
                self.push_job(Job::new(stream, from, upto, destination));
            }
            Effect::Leading { ballot } => self.on_leading(stream, ballot),
            Effect::SteppedDown { .. } => self.on_stepped_down(stream),
            Effect::Leader { .. } => {
                let wall = self.io.ring.wall_ns();
                self.state(stream).since_wall_ns = wall;
                self.on_led(stream);
            }
            Effect::Committed { upto } => self.on_committed(stream, upto),
            Effect::Voided { from } => self.on_voided(stream, from),
            Effect::SettledVoid { .. } => {
                let error = Error::new(ErrorKind::Failed, "a new leader's log does not hold it");
                self.settle_voided(stream, &error);
            }
            Effect::UnsettledVoid { .. } => {
                let error = Error::new(ErrorKind::Unknown, "leaders changed before it was known");
                self.settle_voided(stream, &error);
            }
            Effect::Mended { from, upto } => self.on_mended(stream, from, upto),
            Effect::Unmended { from, upto } => self.on_unmended(stream, from, upto),
            Effect::Halt { reason } => self.on_halt(stream, reason),
        }
    }

    fn on_log(&mut self, stream: u64, record: LogRecord) {
        if record.kind == Kind::Takeover {
            let (ballot, end) = (record.ballot, record.lsn);
            let derived = &mut self.state(stream).derived;
            let (known, named) = (derived.known(), derived.marks.named());
            let changes = derived.on_takeover(ballot, end);
            let (filled, seen) = (derived.known() > known, derived.take_seen());
            let based = derived.take_based();
            seen.into_iter().for_each(|change| self.catalogue.on_logged(change));
            self.create_committed(changes);
            if filled {
                let _stale = self.on_registry_committed(stream);
                self.on_marks_committed(stream, named);
                self.release(stream);
            }
            based.into_iter().for_each(|end| self.on_based(stream, end));
            if stream == CATALOGUE_STREAM && self.creations.fresh_from.is_none() {
                // Whatever was committed before is below it.
                self.creations.fresh_from = Some(end);
            }
        }
        self.ledger.push_record(stream, record);
    }

    fn on_leading(&mut self, stream: u64, ballot: Ballot) {
        assert!(ballot.node == self.me.node);
        let (wall, now) = (self.io.ring.wall_ns(), self.io.now);
        self.board.listeners.tell(Event::Leading { stream, round: ballot.round });
        self.note_leading(stream);
        let state = self.state(stream);
        assert!(state.derived.is_whole(), "leads without what a part of its log implies");
        state.leading = true;
        state.since_wall_ns = wall;
        state.led_since = now;
        state.gate.restart(now);
        if state.role == Role::Standby {
            self.start_import(stream);
            self.note_closed();
            // While it hands the role over.
            self.ship_anew(stream);
        } else if stream != SYSTEM_STREAM {
            self.lead_as_primary(stream);
        }
        self.on_led(stream);
    }

    fn on_stepped_down(&mut self, stream: u64) {
        let wall = self.io.ring.wall_ns();
        let state = self.state(stream);
        let led = std::mem::replace(&mut state.leading, false);
        state.blocked = false;
        state.since_wall_ns = wall;
        // It is in no log, so the next leader may be asked at once.
        let gone = || Error::new(ErrorKind::NotLeader, "this node leads no more; try again");
        let error = self.check_leads(stream).err().unwrap_or_else(gone);
        self.refuse_pending(stream, &error);
        self.stop_import(stream);
        self.stop_shipping(stream);
        self.stop_closing(stream);
        if led {
            self.board.listeners.tell(Event::SteppedDown { stream });
        }
    }

    fn on_committed(&mut self, stream: u64, upto: Lsn) {
        let state = self.state(stream);
        let (local, named) = (state.settle_local(upto), state.derived.marks.named());
        let changes = state.derived.on_committed(upto);
        let based = state.derived.take_based();
        self.create_committed(changes);
        let stale = self.on_registry_committed(stream);
        for Waiting { appended, reply } in local {
            let outcome = match stale.contains(&appended.end_lsn) {
                true => Err(Error::new(ErrorKind::Conflict, "the registry changed meanwhile")),
                false => Ok(appended),
            };
            self.settle(reply, outcome);
        }
        // Who is not named any more gets nothing above the mark that says so.
        self.on_marks_committed(stream, named);
        self.note_started(stream);
        self.ship(stream);
        self.release(stream);
        based.into_iter().for_each(|end| self.on_based(stream, end));
        self.on_import_committed(stream, upto);
        self.note_counts(stream);
    }

    /// A lost range was filled: what it implies is known now.
    fn on_mended(&mut self, stream: u64, from: Lsn, upto: Lsn) {
        let state = self.state(stream);
        let named = state.derived.marks.named();
        let changes = match upto <= state.replica.log().base().lsn {
            true => state.derived.on_truncated(upto),
            false => state.derived.on_mended(from, upto),
        };
        let (seen, based) = (state.derived.take_seen(), state.derived.take_based());
        seen.into_iter().for_each(|change| self.catalogue.on_logged(change));
        self.create_committed(changes);
        // Nobody waits for these: who asked was told when the range was there.
        let _stale = self.on_registry_committed(stream);
        // A mark may be among it.
        self.on_marks_committed(stream, named);
        self.release(stream);
        based.into_iter().for_each(|end| self.on_based(stream, end));
        let vain = |state: &StreamState| state.replica.lost_range().is_some_and(|(.., vain)| vain);
        if !self.streams.values().any(vain) {
            self.alarms.remove("range-lost");
        }
    }

    /// Nobody who is heard has a lost range.
    fn on_unmended(&mut self, stream: u64, from: Lsn, upto: Lsn) {
        let text = format!(
            "stream {stream}: LSN {from} to {upto} is lost on this disk, and no member that is \
             up has it; bring up the others"
        );
        self.alarm("range-lost", text);
    }

    /// Opens the streams of catalogue entries that became committed.
    fn create_committed(&mut self, changes: Vec<(Lsn, Change)>) {
        for (end, change) in changes {
            let Change::Create { stream, mark } = change;
            if !self.catalogue.on_committed(change) {
                continue;
            }
            self.with_level(|level, _, _| level.on_created(stream, mark));
            let fresh = self.creations.fresh_from.is_some_and(|from| end > from);
            if fresh && shard_of(stream, self.me.shards) != self.me.shard {
                self.creations.undurable.push_back((end, stream));
                self.tell_created();
            } else {
                self.on_created(stream, fresh);
            }
        }
    }

    fn on_voided(&mut self, stream: u64, from: Lsn) {
        let state = self.state(stream);
        state.void(from);
        let keep = state.runs.partition_point(|run| run.end <= from);
        let runs = state.runs.drain(keep..).collect();
        state.hinted = state.hinted.min(from);
        self.release_runs(runs);
    }

    fn settle_voided(&mut self, stream: u64, error: &Error) {
        let voided = std::mem::take(&mut self.state(stream).voided);
        for Waiting { reply, .. } in voided {
            self.settle(reply, Err(error.clone()));
        }
    }

    fn on_halt(&mut self, stream: u64, reason: HaltReason) {
        self.hand_overs.is_impaired = true;
        self.state(stream).halted = Some(reason);
        self.alarm("stream-halted", format!("stream {stream}: {reason}"));
        self.on_stepped_down(stream);
        let state = self.state(stream);
        let runs = state.runs.drain(..).collect();
        let lost: Vec<Waiting> = state.waiting.drain(..).chain(state.voided.drain(..)).collect();
        self.release_runs(runs);
        for Waiting { reply, .. } in lost {
            self.settle(reply, Err(Error::new(ErrorKind::Unknown, "the stream halted")));
        }
    }

    pub(crate) fn release_runs(&mut self, runs: Vec<TailRun>) {
        for run in runs {
            assert!(run.at as usize >= HEAD_BYTES);
            self.tail_bytes -= run.len as usize - RECORD_HEADER_BYTES;
            self.io.pool.release(run.slot);
        }
    }

    /// What the liveness of nodes wants done.
    pub(crate) fn drain_liveness(&mut self, effects: Vec<LivenessEffect>) {
        for effect in effects {
            match effect {
                LivenessEffect::Send { to, heartbeat } => {
                    let (tag, pulse) = (self.heartbeat_tag(), self.own_pulse());
                    let io = &mut self.io;
                    let (ring, pool) = (&mut io.ring, &mut io.pool);
                    self.net.send_heartbeat(ring, pool, to, heartbeat, (tag, pulse));
                }
                LivenessEffect::Peer { node, state } => {
                    self.note_fitness(node);
                    if !state.is_up() {
                        self.net.drop_bulk(&mut self.io.pool, node);
                    }
                    // It was linked before it was heard.
                    let Some(peer) = self.peer_key(node) else { continue };
                    let streams: Vec<u64> = self.streams.keys().copied().collect();
                    for stream in streams {
                        self.step(stream, |replica, now, fx| {
                            if replica.config().member(node).is_some() {
                                replica.on_peer(peer, state, now, fx);
                            }
                        });
                    }
                }
            }
        }
    }

    /// A peer's links came up or went down.
    pub(crate) fn on_peer_change(&mut self, change: PeerChange) {
        if let PeerChange::Up { node, .. } = change {
            self.tell_held_anew(node);
            self.tell_term_anew(node);
            self.note_agreement();
        }
        let Some(liveness) = &mut self.liveness else { return };
        let mut effects = Vec::new();
        match change {
            PeerChange::Up { node, replaced } => {
                if let Some(peer) = self.net.peers.get(&node).and_then(|peer| peer.key) {
                    self.floors.on_link_up(peer);
                    self.closing.publisher.on_link_up(node);
                    self.showing.replayable.on_link_up(peer);
                }
                if replaced {
                    liveness.on_replaced(node, &mut effects);
                }
                liveness.on_link_up(node, self.io.now, &mut effects);
                self.tell_closed();
            }
            PeerChange::Down(node) => {
                self.floors.on_link_down(node);
                self.closing.publisher.on_link_down(node);
                self.showing.replayable.on_link_down(node);
                liveness.on_link_down(node, &mut effects);
            }
        }
        self.drain_liveness(effects);
    }

    /// Who a peer is, by its handshake.
    pub(crate) fn peer_key(&self, node: u32) -> Option<NodeKey> {
        self.net.peers.get(&node).and_then(|peer| peer.key)
    }
}
