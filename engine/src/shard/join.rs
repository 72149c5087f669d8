//! A SYNC standby's side of shipping: whoever leads a stream here keeps connections to the shard of
//! that stream on every node of the primary, takes what its leader there commits, and replies what
//! a majority here has of it. While nobody ships, the stream is fetched as by any other standby.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use palisade_netio::{Class, Frame, Identity, Nanos, Outgoing, Ring, Target};
use palisade_wal::{Ballot, Boundary, Lsn};

use crate::config::Role;
use crate::forward::wire::{ChunkHead, FromForwarder};
use crate::kinds::{KIND_BEAT, KIND_CHUNK, KIND_CLOSED, KIND_SYNC_CHUNK};
use crate::paxos::{ClosedNews, Published};
use crate::shard::Shard;
use crate::shard::mesh::shard_of;
use crate::shard::net::Duty;
use crate::stream::catalogue::CATALOGUE_STREAM;
use crate::transfer::facts::Pulse;
use crate::transfer::limits::{
    SYNC_BEAT_NS, SYNC_LINKS_MAX, SYNC_LOOK_NS, SYNC_REPLIES_MAX, SYNC_RETRY_NS, SYNC_SILENCE_NS,
};
use crate::transfer::sync::{FromStandby, SyncEnd, SyncFetch, SyncOpen, SyncReply, ToStandby};
use crate::transfer::{Chooser, continues};

/// A connection to a shard of a node of the primary.
struct Line {
    conn: u32,
    peer: Option<Identity>,
    heard: Nanos,
    beat: Nanos,
    /// Of its leaders.
    pulse: u64,
    /// What its leaders closed, and the role epoch under which they said so.
    closed: Published,
    closed_epoch: u64,
}

impl Line {
    fn new(conn: u32, now: Nanos) -> Line {
        let (peer, closed, closed_epoch) = (None, Published::default(), 0);
        Line { conn, peer, heard: now, beat: now, pulse: 0, closed, closed_epoch }
    }
}

/// A stream that is shipped here.
pub(super) struct Join {
    pub(super) conn: u32,
    /// Role epoch and ballot of who ships it; the highest is believed.
    pub(super) offer: (u64, Ballot),
    /// Where what has come ends.
    pub(super) position: Boundary,
    pub(super) since: Nanos,
}

/// What a shard of a SYNC standby takes.
#[derive(Default)]
pub(crate) struct Joins {
    /// Streams led here of which somebody said that their acks wait for this cluster.
    wanted: BTreeSet<u64>,
    /// At most [`SYNC_LINKS_MAX`], by address and shard.
    lines: BTreeMap<(SocketAddr, u16), Line>,
    pub(super) joined: BTreeMap<u64, Join>,
    /// Numbers of the last FETCH on each connection.
    asked: BTreeMap<(u64, u32), u64>,
    /// When a stream that nobody ships was asked for last.
    asked_at: BTreeMap<u64, Nanos>,
    /// Wanted streams of which the leader's log begins later than the one here ends: where, and
    /// since when that is known.
    gaps: BTreeMap<u64, (Lsn, Nanos)>,
    /// Streams of which more is committed than was said.
    unsaid: BTreeSet<u64>,
    number: u64,
    look_at: Nanos,
}

#[cfg(test)]
impl Joins {
    pub(super) fn wants(&self, stream: u64) -> bool {
        self.wanted.contains(&stream)
    }
}

impl<R: Ring> Shard<R> {
    /// Somebody says that the acks of a stream wait for this cluster.
    pub(crate) fn want_join(&mut self, stream: u64) {
        if self.joins.wanted.insert(stream) {
            self.joins.look_at = self.io.now;
        }
    }

    /// A node answered a question: the connections to it that are wanted need not wait.
    pub(crate) fn note_answer(&mut self, addr: SocketAddr) {
        let joins = &mut self.joins;
        let is_new = joins.lines.range((addr, 0)..=(addr, u16::MAX)).next().is_none();
        if is_new && joins.wanted.len() > joins.joined.len() {
            joins.look_at = self.io.now;
        }
    }

    /// Whether a stream is shipped here now.
    pub(crate) fn is_joined(&self, stream: u64) -> bool {
        self.joins.joined.contains_key(&stream)
    }

    /// Who ships a stream here, and since when.
    pub(crate) fn shipper(&self, stream: u64) -> Option<(Identity, Nanos)> {
        let join = self.joins.joined.get(&stream)?;
        let line = self.joins.lines.values().find(|line| line.conn == join.conn)?;
        Some((line.peer?, join.since))
    }

    /// Where a stream's log begins at the primary's leader, while that is above the end here, and
    /// since when that is known.
    pub(crate) fn gap(&self, stream: u64) -> Option<(Lsn, Nanos)> {
        let (base, since) = self.joins.gaps.get(&stream).copied()?;
        self.lacks(stream, base).then_some((base, since))
    }

    fn lacks(&self, stream: u64, base: Lsn) -> bool {
        self.streams.get(&stream).is_some_and(|state| state.replica.log().end().lsn < base)
    }

    /// Where the shard of the primary listens that is at the other end of a connection.
    pub(crate) fn leader_addr(&self, conn: u32) -> Option<SocketAddr> {
        let mut lines = self.joins.lines.iter();
        lines.find(|(_, line)| line.conn == conn).map(|((addr, _), _)| *addr)
    }

    /// Whether the last word is that acks of a stream wait for this cluster.
    pub(super) fn is_wanted(&self, stream: u64) -> bool {
        let Some(state) = self.streams.get(&stream) else { return false };
        if !state.leading || state.role != Role::Standby || self.is_seizing(stream) {
            return false;
        }
        let chooser = self.imports.chooser.as_ref();
        let named = self.is_named(stream);
        let held_back = stream != CATALOGUE_STREAM && self.hold().is_some();
        !held_back && (named || chooser.is_some_and(|chooser| chooser.is_sync(stream)))
    }

    /// Moves joins along, once a turn.
    pub(crate) fn run_joins(&mut self) {
        if self.joins.wanted.is_empty() && self.joins.lines.is_empty() {
            return;
        }
        if self.io.now >= self.joins.look_at {
            self.joins.look_at = self.io.now.after(SYNC_LOOK_NS);
            self.plan_joins();
        }
        self.reply_held();
        self.beat_leaders();
    }

    pub(crate) fn next_join(&self) -> Option<Nanos> {
        let joins = &self.joins;
        let idle = joins.wanted.is_empty() && joins.lines.is_empty();
        let beats = joins.lines.values().filter(|line| line.peer.is_some()).map(|line| line.beat);
        beats.chain((!idle).then_some(joins.look_at)).min()
    }

    fn plan_joins(&mut self) {
        let wanted = std::mem::take(&mut self.joins.wanted);
        let (wanted, others): (BTreeSet<u64>, BTreeSet<u64>) =
            wanted.into_iter().partition(|stream| self.is_wanted(*stream));
        others.into_iter().for_each(|stream| self.leave(stream));
        self.joins.gaps.retain(|stream, _| wanted.contains(stream));
        self.joins.wanted = wanted;
        self.plan_lines();
        let (now, again) = (self.io.now, SYNC_RETRY_NS);
        let due = |stream: &u64| {
            let asked = self.joins.asked_at.get(stream);
            !self.is_joined(*stream) && asked.is_none_or(|at| now.since(*at) >= again)
        };
        let due: Vec<u64> = self.joins.wanted.iter().copied().filter(due).collect();
        for stream in due {
            self.ask_leaders(stream, None);
            if self.joins.asked_at.insert(stream, now).is_some() {
                // It was asked for before, in vain.
                self.pull_meanwhile(stream);
            }
        }
    }

    /// Nobody ships the stream: it is fetched, if it is not yet.
    fn pull_meanwhile(&mut self, stream: u64) {
        self.tell_chooser(stream);
        let taken = self.imports.chooser.as_ref().and_then(|chooser| chooser.taken(stream));
        if !self.imports.fed.contains_key(&stream)
            && let Some(taken) = taken
        {
            self.feed_from(stream, Some(taken.addr));
        }
    }

    /// Dials the shards that may ship what is wanted, and ends connections to others.
    fn plan_lines(&mut self) {
        let nodes: Vec<_> = self.imports.chooser.iter().flat_map(Chooser::primaries).collect();
        let mut needed = BTreeMap::new();
        for stream in &self.joins.wanted {
            for (addr, id, shards) in &nodes {
                needed.insert((*addr, shard_of(*stream, *shards)), *id);
            }
        }
        let used: BTreeSet<u32> = self.joins.joined.values().map(|join| join.conn).collect();
        let is_over = |(key, line): (&(SocketAddr, u16), &Line)| {
            let other = line.peer.is_some_and(|peer| {
                needed.get(key).is_some_and(|id| *id != (peer.cluster, peer.node))
            });
            let idle = !needed.contains_key(key) && !used.contains(&line.conn);
            (other || idle).then_some(*key)
        };
        let over: Vec<_> = self.joins.lines.iter().filter_map(is_over).collect();
        over.into_iter().for_each(|key| self.drop_line(key));
        for ((addr, shard), (cluster, node)) in needed {
            let full = self.joins.lines.len() >= SYNC_LINKS_MAX;
            if full || self.joins.lines.contains_key(&(addr, shard)) {
                continue;
            }
            let target = Target { cluster, node, shard };
            let now = self.io.now;
            let (ring, pool) = (&mut self.io.ring, &mut self.io.pool);
            let conn = self.net.dial(ring, pool, now, addr, target, Class::Sync, Duty::Leader);
            let line = Line::new(conn, now);
            self.joins.lines.insert((addr, shard), line);
        }
    }

    fn drop_line(&mut self, key: (SocketAddr, u16)) {
        let Some(line) = self.joins.lines.remove(&key) else { return };
        let io = &mut self.io;
        self.net.close(&mut io.ring, &mut io.pool, line.conn);
        self.lose_line(line.conn);
    }

    fn lose_line(&mut self, conn: u32) {
        self.joins.asked.retain(|(_, on), _| *on != conn);
        let lost = self.joins.joined.iter().filter(|(_, join)| join.conn == conn);
        for stream in lost.map(|(stream, _)| *stream).collect::<Vec<_>>() {
            self.leave(stream);
            self.joins.asked_at.remove(&stream);
        }
        self.joins.look_at = self.io.now;
    }

    fn line_of(&mut self, conn: u32) -> Option<&mut Line> {
        self.joins.lines.values_mut().find(|line| line.conn == conn)
    }

    /// The connection to a shard of the primary is up (with whom), or down.
    pub(crate) fn on_leader_link(&mut self, conn: u32, peer: Option<Identity>) {
        let now = self.io.now;
        let Some(line) = self.line_of(conn) else { return };
        *line = Line { peer, ..Line::new(conn, now) };
        let Some(peer) = peer else { return self.lose_line(conn) };
        let here = |stream: &u64| shard_of(*stream, peer.shards) == peer.shard;
        let streams: Vec<u64> = self.joins.wanted.iter().copied().filter(here).collect();
        for stream in streams {
            self.ask_leaders(stream, Some(conn));
        }
    }

    /// Says FETCH on one connection, or on all that lead to the stream's shard.
    fn ask_leaders(&mut self, stream: u64, only: Option<u32>) {
        let up = |line: &Line| {
            let peer = line.peer.filter(|_| only.is_none_or(|conn| conn == line.conn))?;
            (shard_of(stream, peer.shards) == peer.shard).then_some(line.conn)
        };
        let conns: Vec<u32> = self.joins.lines.values().filter_map(up).collect();
        let role_epoch = self.role_epoch;
        for conn in conns {
            let Some(state) = self.streams.get(&stream) else { return };
            let Some(ballot) = state.replica.serving() else { return };
            let log = state.replica.log();
            let (from, committed) = (log.end(), log.committed().lsn);
            self.joins.number += 1;
            let number = self.joins.number;
            self.joins.asked.insert((stream, conn), number);
            let fetch = SyncFetch { stream, number, from, committed, role_epoch, ballot };
            self.say_leader(conn, &FromStandby::Fetch(fetch));
        }
    }

    /// False when it found no room.
    fn say_leader(&mut self, conn: u32, said: &FromStandby) -> bool {
        let Some(conn) = self.net.conns.get_mut(&conn) else { return false };
        let io = &mut self.io;
        conn.link.send(&mut io.ring, &mut io.pool, Outgoing::inline(said.encode())).is_ok()
    }

    /// Takes back every FETCH of a stream on one connection.
    fn say_stop(&mut self, conn: u32, stream: u64) {
        let number = self.joins.number;
        // One that is lost leaves a stream that is shipped to nobody, until its window is full.
        self.say_leader(conn, &FromStandby::Stop { stream, number });
    }

    /// A shard of the primary said something. False when it makes no sense.
    pub(crate) fn on_leader_frame(&mut self, conn: u32, frame: &Frame) -> bool {
        let now = self.io.now;
        let Some(line) = self.line_of(conn) else { return true };
        line.heard = now;
        let mut head = frame.head;
        let run = if head.kind == KIND_SYNC_CHUNK { frame.prefix } else { frame.body };
        let bytes = self.bytes_of(frame.slot, run.at, run.len);
        if head.kind == KIND_CLOSED {
            let Ok(news) = ClosedNews::decode(bytes) else { return false };
            let Some(line) = self.line_of(conn) else { return true };
            line.closed_epoch = head.tag2;
            let good = line.closed.on_news(0, &news);
            self.claim_joined(conn, None);
            return good;
        }
        if matches!(head.kind, KIND_SYNC_CHUNK | KIND_BEAT) {
            if head.kind == KIND_SYNC_CHUNK {
                head.kind = KIND_CHUNK;
            }
            return match FromForwarder::parse(&head, bytes) {
                // Who ships compresses nothing, and has all that it ships.
                Ok(FromForwarder::Chunk(head)) if head.compressed.is_none() && !head.base => {
                    self.on_shipped(conn, &head, frame);
                    true
                }
                Ok(FromForwarder::Beat(beat)) => {
                    if let Some(line) = self.line_of(conn) {
                        line.pulse = line.pulse.max(beat.number);
                        if beat.role_epoch > line.closed_epoch {
                            // What it said before goes for the newer role as well.
                            line.closed_epoch = beat.role_epoch;
                            self.claim_joined(conn, None);
                        }
                    }
                    true
                }
                _ => false,
            };
        }
        match ToStandby::parse(&head, bytes) {
            Ok(ToStandby::Open(open)) => self.on_open(conn, &open),
            Ok(ToStandby::End { stream, reason }) => self.on_ship_end(conn, stream, reason),
            Err(_) => return false,
        }
        true
    }

    /// What is closed in streams that are shipped by a connection, or in one of them. Who knows of
    /// an older role is not believed.
    fn claim_joined(&mut self, conn: u32, only: Option<u64>) {
        let streams = self.joins.joined.iter().filter(|(_, join)| join.conn == conn);
        let streams: Vec<u64> =
            streams.map(|(id, _)| *id).filter(|id| only.is_none_or(|only| only == *id)).collect();
        let known = self.role_epoch;
        let line = self.line_of(conn).filter(|line| line.closed_epoch >= known);
        let Some(said) = line.map(|line| std::mem::take(&mut line.closed)) else { return };
        streams.into_iter().for_each(|stream| self.claim(stream, &said));
        if let Some(line) = self.line_of(conn) {
            line.closed = said;
        }
    }

    /// A shard of the primary ships a stream no more, or cannot.
    pub(crate) fn on_ship_end(&mut self, conn: u32, stream: u64, reason: SyncEnd) {
        let now = self.io.now;
        if self.joins.joined.get(&stream).is_some_and(|join| join.conn == conn) {
            self.leave(stream);
            self.joins.asked_at.insert(stream, now);
        }
        let SyncEnd::Recycled { base } = reason else { return };
        let wanted = self.joins.wanted.contains(&stream) && !self.is_joined(stream);
        if wanted && self.lacks(stream, base) {
            self.joins.gaps.entry(stream).or_insert((base, now)).0 = base;
            // Another node may have what the leader let go; then the leader is asked again.
            self.pull_meanwhile(stream);
        }
    }

    fn on_open(&mut self, conn: u32, open: &SyncOpen) {
        let SyncOpen { stream, number, role_epoch, ballot, .. } = *open;
        let offer = (role_epoch, ballot);
        let asked = self.joins.asked.get(&(stream, conn)) == Some(&number);
        let known = self.role_epoch.max(self.heard_term().epoch);
        if role_epoch < known || (number > 0 && !asked) {
            return;
        }
        let Some(state) = self.streams.get(&stream).filter(|state| state.leading) else { return };
        let held_back = self.hold().is_some() && stream != CATALOGUE_STREAM;
        if state.role != Role::Standby || held_back || self.is_seizing(stream) {
            return;
        }
        let other = self.joins.joined.get(&stream).filter(|join| join.conn != conn);
        if let Some(other) = other {
            let (old, offered) = (other.conn, other.offer);
            let loser = if offered >= offer { conn } else { old };
            self.say_stop(loser, stream);
            if loser == conn {
                return;
            }
        }
        self.joins.wanted.insert(stream);
        self.joins.asked.remove(&(stream, conn));
        if number == 0 {
            self.joins.joined.remove(&stream);
            return self.ask_leaders(stream, Some(conn));
        }
        self.stop_feed(stream);
        let position = self.streams[&stream].replica.log().end();
        let join = Join { conn, offer, position, since: self.io.now };
        self.joins.joined.insert(stream, join);
        self.joins.gaps.remove(&stream);
        self.joins.unsaid.insert(stream);
        self.tell_chooser(stream);
        self.claim_joined(conn, Some(stream));
    }

    /// Who fetches here, and who chooses upstreams, hears whether a stream is shipped.
    fn tell_chooser(&mut self, stream: u64) {
        let by = self.shipper(stream).map(|(peer, _)| (peer.cluster, peer.node));
        let (pulse, now) = (self.shipped_pulse(stream), self.io.now);
        if let Some(chooser) = &mut self.imports.chooser {
            chooser.on_shipped(stream, by, pulse, now);
        }
    }

    /// How far the life of the leader was seen that ships a stream here.
    pub(crate) fn shipped_pulse(&self, stream: u64) -> Pulse {
        let Some(join) = self.joins.joined.get(&stream) else { return Pulse::default() };
        let line = self.joins.lines.values().find(|line| line.conn == join.conn);
        let count = line.map_or(0, |line| line.pulse);
        Pulse { epoch: join.offer.0, round: join.offer.1.round, count }
    }

    /// Groups came that the primary has committed.
    pub(super) fn on_shipped(&mut self, conn: u32, head: &ChunkHead, frame: &Frame) {
        let stream = head.stream;
        let Some(join) = self.joins.joined.get(&stream).filter(|join| join.conn == conn) else {
            return;
        };
        // From a primary that is none any more, or was none yet when it said OPEN.
        let known = self.role_epoch.max(self.heard_term().epoch);
        if head.role_epoch < known.max(join.offer.0) {
            return self.rejoin(stream);
        }
        let body = self.bytes_of(frame.slot, frame.body.at, frame.body.len);
        match continues(head, body, join.position) {
            Ok(found) if found.metas.is_empty() => {}
            Ok(found) => {
                let end = found.end;
                if self.adopt_chunk(stream, frame, found.metas) {
                    let join = self.joins.joined.get_mut(&stream).expect("it was just there");
                    join.position = end;
                } else {
                    self.rejoin(stream);
                }
            }
            // Something before it was dropped here, or the bytes are damaged, or of another log:
            // what comes next is asked for by the chain at the end of the log.
            Err(_) => self.rejoin(stream),
        }
    }

    /// A node of the primary says that it leads a stream, and waits for this cluster: what was
    /// joined before is over, though nobody said so.
    pub(crate) fn on_leader_seen(&mut self, stream: u64, by: (u32, u32), epoch: u64, round: u64) {
        let Some(join) = self.joins.joined.get(&stream) else { return self.want_join(stream) };
        let is_newer = (epoch, round) > (join.offer.0, join.offer.1.round);
        let other = self.shipper(stream).is_none_or(|(peer, _)| (peer.cluster, peer.node) != by);
        if is_newer && other {
            self.rejoin(stream);
        }
    }

    /// A node does not say that acks of a stream wait for this cluster. What is joined is over,
    /// though nobody said so, when that is the node that ships it, or when there is a leader after
    /// that one.
    pub(crate) fn on_other_seen(&mut self, stream: u64, by: (u32, u32), epoch: u64, round: u64) {
        let Some(join) = self.joins.joined.get(&stream) else { return };
        let (seen, offered) = ((epoch, round), (join.offer.0, join.offer.1.round));
        let shipper = self.shipper(stream).map(|(peer, _)| (peer.cluster, peer.node));
        if seen > offered || (seen == offered && shipper == Some(by)) {
            self.rejoin(stream);
        }
    }

    /// What was shipped could not be taken: it is asked for again, before long.
    pub(crate) fn rejoin(&mut self, stream: u64) {
        if let Some(join) = self.joins.joined.remove(&stream) {
            self.say_stop(join.conn, stream);
            self.joins.asked_at.remove(&stream);
            self.joins.look_at = self.joins.look_at.min(self.io.now.after(REJOIN_NS));
        }
    }

    /// A stream is not shipped here any more, or was to be shipped anew: it is fetched.
    fn leave(&mut self, stream: u64) {
        if let Some(join) = self.joins.joined.remove(&stream) {
            self.say_stop(join.conn, stream);
        }
        self.joins.unsaid.remove(&stream);
        self.pull_meanwhile(stream);
    }

    /// A cluster that may ship a stream here is no primary any more, and does not know it.
    pub(crate) fn leave_outranked(&mut self, stream: u64, cluster: u32) {
        if self.shipper(stream).is_some_and(|(peer, _)| peer.cluster == cluster) {
            self.leave(stream);
        }
    }

    /// This node does not lead the stream any more.
    pub(crate) fn stop_join(&mut self, stream: u64) {
        if self.joins.wanted.remove(&stream) | self.joins.joined.contains_key(&stream) {
            for conn in self.joins.lines.values().map(|line| line.conn).collect::<Vec<_>>() {
                self.say_stop(conn, stream);
            }
        }
        self.joins.joined.remove(&stream);
        self.joins.unsaid.remove(&stream);
        self.joins.asked_at.remove(&stream);
        self.joins.gaps.remove(&stream);
        let asked = self.joins.asked.range((stream, 0)..=(stream, u32::MAX));
        for key in asked.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.joins.asked.remove(&key);
        }
    }

    /// More of a stream is committed here.
    pub(crate) fn on_joined_committed(&mut self, stream: u64) {
        if self.is_joined(stream) {
            self.joins.unsaid.insert(stream);
        }
    }

    /// Says what a majority here has.
    fn reply_held(&mut self) {
        let mut replies: BTreeMap<u32, Vec<SyncReply>> = BTreeMap::new();
        for stream in std::mem::take(&mut self.joins.unsaid) {
            let (Some(join), Some(state)) =
                (self.joins.joined.get(&stream), self.streams.get(&stream))
            else {
                continue;
            };
            let committed = state.replica.log().committed();
            replies.entry(join.conn).or_default().push(SyncReply { stream, committed });
        }
        let role_epoch = self.role_epoch;
        for (conn, all) in replies {
            for held in all.chunks(SYNC_REPLIES_MAX) {
                let said = FromStandby::Reply { role_epoch, held: held.to_vec() };
                if !self.say_leader(conn, &said) {
                    self.joins.unsaid.extend(held.iter().map(|reply| reply.stream));
                }
            }
        }
    }

    fn beat_leaders(&mut self) {
        let (now, role_epoch) = (self.io.now, self.role_epoch);
        let (mut due, mut silent) = (Vec::new(), Vec::new());
        for (key, line) in &mut self.joins.lines {
            if line.peer.is_none() {
                continue;
            }
            if now.since(line.heard) > SYNC_SILENCE_NS {
                silent.push(*key);
            } else if now >= line.beat {
                line.beat = now.after(SYNC_BEAT_NS);
                due.push(line.conn);
            }
        }
        silent.into_iter().for_each(|key| self.drop_line(key));
        for conn in due {
            self.say_leader(conn, &FromStandby::Reply { role_epoch, held: Vec::new() });
        }
    }
}

/// How soon a stream is asked for again that found no room.
const REJOIN_NS: u64 = 5_000_000;
