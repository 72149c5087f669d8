//! Drives what a standby may show ([`Replayable`]): what is closed comes
//! from the upstream or from the leader here, counts where the log has the position, and is shown
//! when it is complete in every stream of the node.
//!
//! ```text
//! upstream --KIND_CLOSED--> leader: counts ----KIND_CLOSED----> its peers: count
//! counts in every stream of the shard --> Closed record --KIND_COMPLETE--> durable on a majority
//! the least of all shards of the node (mail) --> readers of its streams
//! ```

use std::collections::BTreeMap;

use palisade_netio::{Frame, Nanos, Ring};
use palisade_wal::{Ballot, Kind, Lsn};

use crate::config::Role;
use crate::kinds::KIND_COMPLETE;
use crate::paxos::{Closed, Complete, NodeKey, Published, Replayable, ReplayableEffect};
use crate::shard::Shard;
use crate::shard::ledger::OwnRecord;
use crate::shard::mesh::{Mail, shard_of};
use crate::stream::catalogue::{CATALOGUE_STREAM, SYSTEM_STREAM};

/// Between two looks at what counts.
const COUNT_NS: u64 = 20_000_000;
/// Between two words to the forwarding shard, which look at every stream that is read.
const TELL_NS: u64 = 20_000_000;

/// What a shard knows of how far its node may show streams of a standby.
pub(crate) struct Showing {
    pub(crate) replayable: Replayable,
    /// More may count than was counted last; and when it is looked at.
    moved: bool,
    count_at: Nanos,
    /// What is closed may be more than the forwarding shard was told.
    untold: bool,
    tell_at: Nanos,
    /// What counts in the catalogue, whose shard says so after it told of the streams that were
    /// created before: so that no stream is left out of what is complete.
    catalogue: u64,
    /// What each other shard holds.
    others: BTreeMap<u16, u64>,
    mailed: (u64, u64),
    /// The replayable SCN: readers of this node see nothing above it. It never goes back.
    pub(crate) scn: u64,
}

impl Showing {
    pub(crate) fn new(me: NodeKey) -> Showing {
        Showing {
            replayable: Replayable::new(me),
            moved: false,
            count_at: Nanos(0),
            untold: true,
            tell_at: Nanos(0),
            catalogue: 0,
            others: BTreeMap::new(),
            mailed: (0, 0),
            scn: 0,
        }
    }
}

impl<R: Ring> Shard<R> {
    /// What is closed, or committed, or led here may be more, or other, than before.
    pub(crate) fn note_closed(&mut self) {
        (self.showing.moved, self.showing.untold) = (true, true);
    }

    /// More of a stream of a standby is committed: what waits for that may count.
    pub(crate) fn note_counts(&mut self, stream: u64) {
        // What counts then is told then.
        self.showing.moved |= self.streams[&stream].claims.is_waiting();
    }

    /// An upstream says what is closed in a stream that is led here and taken from it.
    pub(crate) fn claim(&mut self, stream: u64, said: &Published) {
        let state = self.streams.get_mut(&stream).filter(|state| state.leading);
        let Some(state) = state.filter(|state| state.role == Role::Standby) else { return };
        if let Some(closed) = said.closed(stream) {
            state.claims.offer(closed);
            self.note_closed();
        }
    }

    /// Moves on what is counted, held and shown, once a turn.
    pub(crate) fn run_replayable(&mut self) {
        let now = self.io.now;
        if self.showing.moved && now >= self.showing.count_at {
            self.showing.moved = false;
            self.showing.count_at = now.after(COUNT_NS);
            self.count_closed();
            // What counts only now is relayed too.
            self.showing.untold = true;
            // Who had no room for it before.
            self.tell_closed();
            self.tell_lines();
        }
        self.say_complete();
        self.mail_complete();
        self.show();
        self.tell_clusters();
    }

    pub(crate) fn next_replayable(&self) -> Option<Nanos> {
        let count = self.showing.moved.then_some(self.showing.count_at);
        let told = self.forward.as_ref().is_some_and(|port| port.tells_clusters());
        let tell = (self.showing.untold && told).then_some(self.showing.tell_at);
        count.into_iter().chain(tell).chain(self.showing.replayable.next_deadline()).min()
    }

    fn is_catalogue_here(&self) -> bool {
        shard_of(CATALOGUE_STREAM, self.me.shards) == self.me.shard
    }

    /// What counts in the streams of this shard, while they are a standby's.
    fn count_closed(&mut self) {
        let mut least = if self.is_catalogue_here() { u64::MAX } else { self.showing.catalogue };
        let mut led = BTreeMap::new();
        for (id, state) in self.streams.range_mut(CATALOGUE_STREAM..) {
            if state.role == Role::Primary {
                return;
            }
            let known = self.closing.published.closed(*id);
            known.into_iter().for_each(|closed| state.claims.offer(closed));
            // A stream whose creation is lost here must not be left out of what is complete.
            let committed = match *id {
                CATALOGUE_STREAM => state.derived.known(),
                _ => state.replica.log().committed().lsn,
            };
            let counted = state.claims.count(committed);
            if state.leading {
                led.insert(*id, counted);
            }
            least = least.min(counted.scn);
        }
        if !led.is_empty() {
            self.closing.publisher.on_known(&led);
        }
        if least < u64::MAX && !self.streams.is_empty() {
            self.showing.replayable.on_complete(least);
        }
        // Streams that are still to be told of are not left out by those who hear this.
        if self.is_catalogue_here() && self.creations.undurable.is_empty() {
            let catalogue = self.streams.get(&CATALOGUE_STREAM);
            let counted = catalogue.map_or(0, |state| state.claims.counted().scn);
            self.showing.catalogue = self.showing.catalogue.max(counted);
        } else if self.is_catalogue_here() {
            self.showing.moved = true;
        }
    }

    fn say_complete(&mut self) {
        // All streams of a shard have the same members.
        let Some(state) = self.streams.values().next() else { return };
        let mut effects = Vec::new();
        let now = self.io.now;
        self.showing.replayable.on_time(now, state.replica.config(), &mut effects);
        for effect in effects {
            match effect {
                ReplayableEffect::Log { scn } => self.ledger.push(OwnRecord {
                    stream: SYSTEM_STREAM,
                    kind: Kind::Closed,
                    lsn: Lsn::ZERO,
                    ballot: Ballot::NONE,
                    body: scn.to_le_bytes().to_vec(),
                    id: None,
                }),
                ReplayableEffect::Say { to, complete } => {
                    let mut body = Vec::new();
                    complete.encode_into(&mut body);
                    if !self.net.send_control(&mut self.io, to, KIND_COMPLETE, &body) {
                        self.showing.replayable.on_lost(to, now);
                    }
                }
            }
        }
    }

    /// A peer says what its disk holds to be complete. False when the frame makes no sense.
    pub(crate) fn on_complete_said(&mut self, from: NodeKey, frame: &Frame) -> bool {
        let body = self.bytes_of(frame.slot, frame.body.at, frame.body.len);
        let Ok(complete) = Complete::decode(body) else { return false };
        self.showing.replayable.on_said(from, complete);
        true
    }

    /// How far this shard lets its node show streams. Without a stream it has nothing to show, and
    /// what is created above what counts in the catalogue comes later.
    fn shown_here(&self) -> u64 {
        let first = shard_of(CATALOGUE_STREAM, self.me.shards);
        match self.streams.is_empty() {
            // The shard of the catalogue says it after it told of the streams of this one, and
            // knows it again after a start.
            true => self.showing.catalogue.max(*self.showing.others.get(&first).unwrap_or(&0)),
            false => self.showing.replayable.held(),
        }
    }

    fn mail_complete(&mut self) {
        let (scn, catalogue) = (self.shown_here(), self.showing.catalogue);
        let catalogue = if self.is_catalogue_here() { catalogue } else { 0 };
        if std::mem::replace(&mut self.showing.mailed, (scn, catalogue)) == (scn, catalogue) {
            return;
        }
        let from = self.me.shard;
        // Only the newest counts: what waits for room is replaced.
        self.unsent.retain(|(_, mail)| !matches!(mail, Mail::Complete { .. }));
        for shard in (0..self.me.shards).filter(|shard| *shard != from) {
            self.unsent.push_back((shard, Mail::Complete { from, scn, catalogue }));
        }
        self.retry_mail();
    }

    /// Another shard of this node says how far it lets the node show.
    pub(crate) fn on_complete_mail(&mut self, from: u16, scn: u64, catalogue: u64) {
        let known = self.showing.others.entry(from).or_default();
        *known = scn.max(*known);
        if catalogue > self.showing.catalogue {
            self.showing.catalogue = catalogue;
            self.note_closed();
        }
    }

    /// Shows what is replayable now.
    fn show(&mut self) {
        let others = (0..self.me.shards).filter(|shard| *shard != self.me.shard);
        let held = others.map(|shard| self.showing.others.get(&shard).copied().unwrap_or(0));
        let scn = held.chain([self.shown_here()]).min().unwrap_or(0);
        if scn <= self.showing.scn {
            return;
        }
        self.showing.scn = scn;
        let hides = |(_, state): &(&u64, &crate::shard::stream::StreamState)| {
            state.limit().is_some_and(|shown| shown < state.gate.released())
        };
        let hiding = self.streams.iter().filter(hides).map(|(stream, _)| *stream);
        for stream in hiding.collect::<Vec<_>>() {
            self.release(stream);
        }
    }

    /// Other clusters that take streams here hear what is closed in them.
    fn tell_clusters(&mut self) {
        let now = self.io.now;
        let Some(port) = &self.forward else { return };
        let news = self.showing.untold && now >= self.showing.tell_at && port.tells_clusters();
        if !news && !port.lacks_closed() {
            return;
        }
        (self.showing.untold, self.showing.tell_at) = (false, now.after(TELL_NS));
        let closed = port.watched().filter_map(|stream| Some((stream, self.closed(stream)?)));
        let closed: BTreeMap<u64, _> = closed.collect();
        let role_epoch = self.role_epoch;
        if let Some(port) = &mut self.forward {
            // Who hears it believes no older role.
            port.set_role_epoch(role_epoch);
            port.set_closed(closed);
        }
    }

    /// The replayable SCN of this node: at a standby readers see nothing above it.
    pub fn replayable_scn(&self) -> u64 {
        self.showing.scn
    }

    /// What counts here as closed in a stream by the word of others.
    pub fn counted(&self, stream: u64) -> Closed {
        self.streams.get(&stream).map_or(Closed::default(), |state| state.claims.counted())
    }

    /// Whether readers of this node stop at the replayable SCN in a stream.
    pub fn is_limited(&self, stream: u64) -> bool {
        self.streams.get(&stream).is_none_or(crate::shard::stream::StreamState::is_limited)
    }

    /// How far readers of this node see a stream.
    pub fn shown(&self, stream: u64) -> Lsn {
        self.streams.get(&stream).map_or(Lsn::ZERO, |state| state.visible())
    }
}
