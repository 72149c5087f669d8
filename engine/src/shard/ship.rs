//! Ships streams of a primary to SYNC standbys: what is committed goes out from the slot that went
//! to disk, or from disk where that slot is gone, and what their majorities have opens the gates.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use palisade_netio::{Frame, HEAD_BYTES, Identity, Nanos, Outgoing, Purpose, Ring, Run, SlotId};
use palisade_wal::{GroupHeader, Lsn, RECORD_HEADER_BYTES};
use zerocopy::FromBytes;

use crate::config::Role;
use crate::forward::wire::{Beat, ChunkHead, FromForwarder};
use crate::kinds::{KIND_SYNC_CHUNK, KIND_SYNC_HELD};
use crate::limits::READ_CHUNK_BYTES;
use crate::paxos::NodeKey;
use crate::shard::Shard;
use crate::shard::deliver::Found;
use crate::shard::jobs::{Destination, Job};
use crate::shard::stream::StreamState;
use crate::stream::catalogue::{CATALOGUE_STREAM, SYSTEM_STREAM};
use crate::transfer::limits::{
    SYNC_BEAT_NS, SYNC_CHUNK_BYTES, SYNC_REPLIES_MAX, SYNC_RETRY_NS, SYNC_SILENCE_NS, SYNC_STALL_NS,
};
use crate::transfer::ship::{Due, Held, Led, Say, Ships};
use crate::transfer::sync::{FromStandby, HeldNews, SyncFetch, SyncReply};

/// A connection of a shard of a standby.
struct Line {
    cluster: u32,
    node: u32,
    heard: Nanos,
    beat: Nanos,
}

/// What a shard ships.
#[derive(Default)]
pub(crate) struct Shipping {
    pub(super) ships: Ships,
    lines: BTreeMap<u32, Line>,
    /// Streams that the connection had no room for.
    stalled: BTreeSet<u64>,
    /// What peers have to be told of what is held.
    untold: BTreeMap<u32, BTreeSet<u64>>,
    /// Streams of which something waits for a SYNC standby, and when somebody was asked why.
    waiting: BTreeMap<u64, Nanos>,
    look_at: Nanos,
}

impl<R: Ring> Shard<R> {
    /// The connection of a standby's shard is up, or down.
    pub(crate) fn on_standby_link(&mut self, conn: u32, peer: Option<Identity>) {
        let now = self.io.now;
        match peer {
            Some(Identity { cluster, node, .. }) => {
                let line = Line { cluster, node, heard: now, beat: now };
                self.shipping.lines.insert(conn, line);
                self.closing.lines.on_link_up(conn);
                self.tell_lines();
            }
            None => {
                self.shipping.lines.remove(&conn);
                self.closing.lines.on_link_down(conn);
                self.shipping.ships.on_down(conn);
            }
        }
    }

    /// Cluster and node at the other end of a connection of a standby's shard.
    pub(crate) fn standby_at(&self, conn: u32) -> Option<(u32, u32)> {
        self.shipping.lines.get(&conn).map(|line| (line.cluster, line.node))
    }

    /// A standby's shard said something. False when it makes no sense.
    pub(crate) fn on_standby_frame(&mut self, conn: u32, frame: &Frame) -> bool {
        let body = self.bytes_of(frame.slot, frame.body.at, frame.body.len);
        let Ok(said) = FromStandby::parse(&frame.head, body) else { return false };
        let now = self.io.now;
        let Some(line) = self.shipping.lines.get_mut(&conn) else { return false };
        line.heard = now;
        let cluster = line.cluster;
        let mut out = Vec::new();
        match said {
            FromStandby::Fetch(fetch) => self.on_sync_fetch((conn, cluster), &fetch),
            FromStandby::Stop { stream, number } => {
                self.shipping.ships.on_stop(conn, stream, number);
            }
            FromStandby::Reply { role_epoch, held } => {
                // Of a newer role it says nothing to an older one.
                let held = held.into_iter().filter(|_| role_epoch <= self.role_epoch);
                for SyncReply { stream, committed } in held.collect::<Vec<_>>() {
                    let chain = self.chain_at(stream, committed.lsn);
                    let ships = &mut self.shipping.ships;
                    let held = ships.on_reply(conn, stream, committed, chain, &mut out);
                    self.on_held(stream, held);
                }
                self.say_all(out);
            }
        }
        true
    }

    /// A standby's leader wants a stream.
    pub(super) fn on_sync_fetch(&mut self, by: (u32, u32), fetch: &SyncFetch) {
        let stream = fetch.stream;
        // One that is not here yet is asked for again; and there is no end to those that never are.
        if !self.streams.contains_key(&stream) {
            return;
        }
        let mut out = Vec::new();
        let chain = |led| (led, self.chain_at(stream, fetch.from.lsn));
        let led = self.led(stream).map(chain);
        let held = self.shipping.ships.on_fetch(by, fetch, led, &mut out);
        self.say_all(out);
        self.on_held(stream, held);
    }

    /// The cluster that a stream is shipped to: the one that its acks wait for, or will when the
    /// level rises.
    pub(crate) fn sync_target(&self, state: &StreamState) -> Option<u32> {
        let named = state.derived.marks.named().or(self.levels.wanted());
        // The END of the one before names this one, until the START is committed.
        named.filter(|named| *named != self.me.cluster)
    }

    /// The standby is to say anew where it stands in a stream.
    pub(crate) fn ask_standby(&mut self, stream: u64) {
        let mut out = Vec::new();
        if let Some(led) = self.led(stream) {
            self.shipping.ships.ask_again(stream, led, &mut out);
        }
        self.say_all(out);
    }

    /// How a stream is led here; none when it is not, or stays home.
    pub(crate) fn led(&self, stream: u64) -> Option<Led> {
        let state = self.streams.get(&stream)?;
        let ballot = state.replica.serving().filter(|_| state.leading)?;
        let hands_over = stream == CATALOGUE_STREAM && self.is_handing_over();
        if state.role == Role::Standby && !hands_over || stream == SYSTEM_STREAM {
            return None;
        }
        let (log, marks) = (state.replica.log(), &state.derived.marks);
        let named = self.sync_target(state);
        let last = marks.standing().filter(|it| it.mark.cluster() == named).or(marks.last());
        Some(Led {
            named,
            epoch: last.map_or(0, |last| last.mark.epoch()),
            ballot,
            role_epoch: self.role_epoch,
            base: self.kept_from(stream),
            end: log.end().lsn,
            committed: log.committed().lsn,
        })
    }

    fn chain_at(&self, stream: u64, lsn: Lsn) -> Option<u64> {
        self.streams.get(&stream)?.replica.log().chain_at(lsn)
    }

    /// A stream is led here from now on, or has another mark.
    pub(crate) fn ship_anew(&mut self, stream: u64) {
        let mut out = Vec::new();
        if let Some(led) = self.led(stream) {
            self.shipping.ships.on_led(stream, led, &mut out);
            if led.named.is_some() {
                self.tell_peers(stream);
            }
        }
        self.say_all(out);
    }

    /// A stream is not led here any more.
    pub(crate) fn stop_shipping(&mut self, stream: u64) {
        let mut out = Vec::new();
        self.shipping.ships.on_not_led(stream, &mut out);
        self.say_all(out);
    }

    /// Whether the bytes of a stream's groups are to be kept for its SYNC standby.
    pub(crate) fn is_shipped(&self, stream: u64) -> bool {
        self.shipping.ships.wants(stream)
    }

    /// The cluster that a stream is shipped to.
    pub(crate) fn shipped_to(&self, stream: u64) -> Option<u32> {
        self.shipping.ships.taker(stream)
    }

    /// The cluster that takes a stream, and what it has of it now.
    pub(crate) fn shipped_held(&self, stream: u64) -> Option<Held> {
        self.shipping.ships.held(stream)
    }

    fn say_all(&mut self, out: Vec<Say>) {
        for Say { conn, what } in out {
            self.send_line(conn, Outgoing::inline(what.encode()));
        }
    }

    /// False when the connection takes nothing now.
    pub(super) fn send_line(&mut self, conn: u32, frame: Outgoing) -> bool {
        let Some(conn) = self.net.conns.get_mut(&conn) else { return false };
        let io = &mut self.io;
        conn.link.send(&mut io.ring, &mut io.pool, frame).is_ok()
    }

    /// The SYNC standby has this much of a stream.
    fn on_held(&mut self, stream: u64, held: Option<Held>) {
        let now = self.io.now;
        let wanted = self.levels.wanted();
        // Nothing is acked by a primary that is none any more.
        let held = held.filter(|_| self.fenced().is_none());
        let Some(state) = self.streams.get_mut(&stream) else { return };
        let named = state.derived.marks.named();
        if let Some(Held { cluster, held }) = held
            && named.or(wanted) == Some(cluster)
            && state.gate.on_told(cluster, held, now)
        {
            self.release(stream);
            self.touch(stream);
            if named.is_some() {
                self.tell_peers(stream);
            }
            self.tell_level_held(stream);
        }
        self.ship(stream);
    }

    /// Followers are to hear what is held of a stream.
    fn tell_peers(&mut self, stream: u64) {
        for node in self.net.peers.keys() {
            self.shipping.untold.entry(*node).or_default().insert(stream);
        }
    }

    /// Sends what is committed and was not sent, as far as the window is open.
    pub(crate) fn ship(&mut self, stream: u64) {
        while let Some(state) = self.streams.get(&stream) {
            let committed = state.replica.log().committed().lsn;
            let now = self.io.now;
            let Some(due) = self.shipping.ships.due(stream, committed, now) else { return };
            if !self.line_has_room(due.conn) {
                self.shipping.stalled.insert(stream);
                return;
            }
            let Some((first, head, runs)) = self.hot_chunk(stream, due.from, committed) else {
                self.shipping.ships.set_reading(stream, due, true, Nanos(0));
                let destination = Destination::Standby { due };
                return self.push_job(Job::new(stream, due.from, committed, destination));
            };
            if !self.ship_chunk(stream, &first, due, &head, runs) {
                return;
            }
        }
    }

    /// Sends a chunk that starts with `first`. False when it was not taken.
    fn ship_chunk(
        &mut self,
        stream: u64,
        first: &GroupHeader,
        due: Due,
        head: &ChunkHead,
        runs: Vec<Run>,
    ) -> bool {
        let mut out = Vec::new();
        let proof = self.shipping.ships.prove(stream, first, &mut out);
        self.say_all(out);
        let Ok(held) = proof else { return false };
        if !self.send_line(due.conn, Outgoing { head: head.encode_as(KIND_SYNC_CHUNK), runs }) {
            self.shipping.stalled.insert(stream);
            return false;
        }
        self.shipping.ships.on_sent(stream, head.end);
        if held.is_some() {
            self.on_held(stream, held);
        }
        true
    }

    fn line_has_room(&self, conn: u32) -> bool {
        let Some(conn) = self.net.conns.get(&conn) else { return false };
        let (link, pool) = (&conn.link, &self.io.pool);
        let waits = link.backlog_bytes().max(link.backlog_slot_bytes());
        let pinned = link.pinned_bytes();
        // A standby that does not read pins little of what other streams need.
        let room = pinned == 0 || pinned <= pool.quota(Purpose::Write) / 8;
        waits <= READ_CHUNK_BYTES && room
    }

    /// The groups from `from` on that are still in memory, as a chunk.
    fn hot_chunk(
        &self,
        stream: u64,
        from: Lsn,
        committed: Lsn,
    ) -> Option<(GroupHeader, ChunkHead, Vec<Run>)> {
        let state = &self.streams[&stream];
        let at = state.runs.partition_point(|run| run.start < from);
        let (mut end, mut len, mut crc) = (from, 0, 0);
        let mut runs = Vec::new();
        for run in state.runs.range(at..) {
            let total = len + run.len as usize;
            if run.start != end || run.end > committed {
                break;
            }
            if !runs.is_empty() && (total > SYNC_CHUNK_BYTES || runs.len() == RUNS_MAX) {
                break;
            }
            let header = &self.io.pool.bytes(run.slot)[run.at as usize..][..RECORD_HEADER_BYTES];
            crc = crc32c::crc32c_append(crc, header);
            runs.push(Run { slot: run.slot, at: run.at, len: run.len.next_multiple_of(8) });
            (end, len) = (run.end, len + run.len.next_multiple_of(8) as usize);
        }
        let first = runs.first()?;
        let group = first.at as usize + RECORD_HEADER_BYTES;
        let group = &self.io.pool.bytes(first.slot)[group..];
        let (group, _) = GroupHeader::read_from_prefix(group).ok()?;
        Some((group, self.chunk_head(stream, (from, end), crc, len as u32), runs))
    }

    fn chunk_head(
        &self,
        stream: u64,
        (start, end): (Lsn, Lsn),
        headers_crc: u32,
        body_len: u32,
    ) -> ChunkHead {
        let committed = self.streams[&stream].replica.log().committed().lsn;
        let role_epoch = self.role_epoch;
        ChunkHead {
            stream,
            start,
            end,
            committed,
            headers_crc,
            role_epoch,
            body_len,
            base: false,
            compressed: None,
        }
    }

    /// Groups for a SYNC standby were read.
    pub(crate) fn hand_to_standby(&mut self, job: &Job, due: Due, slot: SlotId, found: &[Found]) {
        let stream = job.stream;
        if !self.shipping.ships.is_due(stream, due) {
            return;
        }
        let now = self.io.now;
        self.shipping.ships.set_reading(stream, due, false, now);
        let Some((copy, body)) = self.copy_groups(slot, found, Purpose::Read) else {
            self.shipping.stalled.insert(stream);
            return;
        };
        let bytes = &self.io.pool.bytes(slot)[found[0].at..];
        if let Ok((first, _)) = GroupHeader::read_from_prefix(bytes) {
            let end = found[found.len() - 1].meta.end;
            let head = self.chunk_head(stream, (due.from, end), body.headers_crc, body.len);
            let run = Run { slot: copy, at: HEAD_BYTES as u32, len: body.len };
            self.ship_chunk(stream, &first, due, &head, vec![run]);
        }
        self.io.pool.release(copy);
        self.ship(stream);
    }

    /// Groups for a SYNC standby cannot be read now; `recycled`: or ever.
    pub(crate) fn fail_standby(&mut self, stream: u64, due: Due, recycled: bool) {
        if recycled && self.streams.contains_key(&stream) {
            let (base, mut out) = (self.kept_from(stream), Vec::new());
            self.shipping.ships.on_recycled(stream, due, base, &mut out);
            return self.say_all(out);
        }
        let retry = self.io.now.after(SYNC_RETRY_NS);
        self.shipping.ships.set_reading(stream, due, false, retry);
        self.shipping.stalled.insert(stream);
    }

    /// Moves shipping along, once a turn.
    pub(crate) fn run_shipping(&mut self) {
        for stream in std::mem::take(&mut self.shipping.stalled) {
            self.ship(stream);
            let state = self.streams.get(&stream);
            let committed = state.map_or(Lsn::ZERO, |s| s.replica.log().committed().lsn);
            // What could not be read is read again later.
            if self.shipping.ships.due(stream, committed, Nanos(u64::MAX)).is_some() {
                self.shipping.stalled.insert(stream);
            }
        }
        self.beat_lines();
        if self.io.now >= self.shipping.look_at {
            self.shipping.look_at = self.io.now.after(SYNC_BEAT_NS);
            self.ask_who_waits();
        }
        self.tell_held();
    }

    /// Something of a stream waits for a SYNC standby, or nothing does any more.
    pub(crate) fn note_waiting(&mut self, stream: u64, waits: bool) {
        let (shipping, now) = (&mut self.shipping, self.io.now);
        if !waits {
            shipping.waiting.remove(&stream);
        } else if let Entry::Vacant(new) = shipping.waiting.entry(stream) {
            new.insert(now);
            shipping.look_at = shipping.look_at.min(now.after(SYNC_BEAT_NS));
        }
    }

    /// A word that was lost is said again where something waits for it: a leader asks the standby
    /// where it stands, a follower asks its leader.
    fn ask_who_waits(&mut self) {
        let now = self.io.now;
        let mut out = Vec::new();
        let mut waiting = std::mem::take(&mut self.shipping.waiting);
        waiting.retain(|stream, asked| {
            let Some(state) = self.streams.get(stream) else { return false };
            let Some(since) = state.gate.waits() else { return false };
            if now.since(since.max(*asked)) < SYNC_STALL_NS {
                return true;
            }
            *asked = now;
            if let Some(led) = self.led(*stream) {
                self.shipping.ships.ask_again(*stream, led, &mut out);
            } else if let Some(node) = self.leading_peer(*stream) {
                self.shipping.untold.entry(node).or_default().insert(*stream);
            }
            true
        });
        self.shipping.waiting = waiting;
        self.say_all(out);
    }

    /// The peer that leads a stream.
    pub(crate) fn leading_peer(&self, stream: u64) -> Option<u32> {
        let leader = self.streams.get(&stream)?.replica.leader();
        let is_peer = leader.is_some() && self.net.peers.contains_key(&leader.node);
        is_peer.then_some(leader.node)
    }

    fn beat_lines(&mut self) {
        let (now, role_epoch, number) = (self.io.now, self.role_epoch, self.own_pulse());
        let mut due = Vec::new();
        for (conn, line) in &mut self.shipping.lines {
            if now.since(line.heard) > SYNC_SILENCE_NS {
                due.push((*conn, None));
            } else if now >= line.beat {
                line.beat = now.after(SYNC_BEAT_NS);
                due.push((*conn, Some(Beat { number, role_epoch })));
            }
        }
        for (conn, beat) in due {
            match beat {
                Some(beat) => {
                    let frame = FromForwarder::Beat(beat).encode();
                    self.send_line(conn, Outgoing::inline(frame));
                }
                None => {
                    let io = &mut self.io;
                    self.net.close(&mut io.ring, &mut io.pool, conn);
                    self.on_standby_link(conn, None);
                }
            }
        }
    }

    pub(crate) fn next_shipping(&self) -> Option<Nanos> {
        let lines = self.shipping.lines.values();
        let beats = lines.map(|line| line.beat.min(line.heard.after(SYNC_SILENCE_NS + 1)));
        let stalled = !self.shipping.stalled.is_empty();
        let waits = !self.shipping.waiting.is_empty();
        let stalled = stalled.then(|| self.io.now.after(STALLED_NS));
        beats.chain(stalled).chain(waits.then_some(self.shipping.look_at)).min()
    }

    /// A peer is linked: it is told everything.
    pub(crate) fn tell_held_anew(&mut self, node: u32) {
        let gated = |state: &StreamState| {
            state.leading && state.role == Role::Primary && state.derived.marks.named().is_some()
        };
        let streams = self.streams.iter().filter(|(_, state)| gated(state));
        let streams: BTreeSet<u64> = streams.map(|(stream, _)| *stream).collect();
        self.shipping.untold.insert(node, streams);
    }

    /// Tells followers what is held, so that their readers go on.
    fn tell_held(&mut self) {
        let mut untold = std::mem::take(&mut self.shipping.untold);
        for (node, streams) in &mut untold {
            while !streams.is_empty() {
                let some: Vec<u64> = streams.iter().take(SYNC_REPLIES_MAX).copied().collect();
                let news = some.iter().filter_map(|stream| self.held_news(*stream));
                let body = HeldNews::encode(&news.collect::<Vec<_>>());
                let linked = self.net.peers.get(node).is_some_and(|peer| peer.key.is_some());
                if linked && !self.net.send_control(&mut self.io, *node, KIND_SYNC_HELD, &body) {
                    break;
                }
                streams.retain(|stream| !some.contains(stream));
            }
        }
        untold.retain(|_, streams| !streams.is_empty());
        self.shipping.untold = untold;
    }

    fn held_news(&self, stream: u64) -> Option<HeldNews> {
        let state = self.streams.get(&stream)?;
        let cluster = state.derived.marks.named()?;
        let (held, asks) = (state.gate.held(cluster), !state.leading);
        Some(HeldNews { stream, cluster, held, asks })
    }

    /// The leader says what is held, or a follower asks. False when the frame makes no sense.
    pub(crate) fn on_held_news(&mut self, from: NodeKey, frame: &Frame) -> bool {
        let body = self.bytes_of(frame.slot, frame.body.at, frame.body.len);
        let Ok(news) = HeldNews::decode(body) else { return false };
        let now = self.io.now;
        for HeldNews { stream, cluster, held, asks } in news {
            let Some(state) = self.streams.get_mut(&stream) else { continue };
            if asks && state.leading {
                self.shipping.untold.entry(from.node).or_default().insert(stream);
            }
            let Some(state) = self.streams.get_mut(&stream) else { continue };
            if state.role == Role::Primary && state.gate.on_told(cluster, held, now) {
                self.release(stream);
                self.touch(stream);
            }
        }
        true
    }
}

/// Runs of one chunk that is sent from where it stands.
const RUNS_MAX: usize = 64;
/// How soon a connection that was full is looked at again.
const STALLED_NS: u64 = 1_000_000;
