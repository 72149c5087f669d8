//! The receiving side of transfer on a standby: what the receivers hand out is imported through
//! this cluster's own replicas, at the same LSN and SCN. There is one receiver, with a connection,
//! for each upstream that a stream is taken from.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use palisade_netio::{
    ANY_CLUSTER, ANY_NODE, ANY_SHARD, Class, DownReason, Frame, HEAD_BYTES, Identity, Nanos,
    Outgoing, Purpose, Ring, Run, SlotId, Target,
};
use palisade_wal::{Body, Boundary, GroupHeader, Kind, Lsn, RecordMeta};
use zerocopy::FromBytes;

use crate::config::Role;
use crate::control::Hold;
use crate::forward::compress::decompress;
use crate::forward::wire::{ChunkHead, EndReason, FromForwarder, FromReader, KIND_CHUNK};
use crate::kinds::KIND_CLOSED;
use crate::paxos::{ClosedNews, GroupMark, Published};
use crate::shard::Shard;
use crate::shard::batch::has_room_for_groups;
use crate::shard::ledger::{Claim, group_items};
use crate::shard::net::Duty;
use crate::shard::stream::StreamState;
use crate::status::UpstreamStatus;
use crate::stream::catalogue::SYSTEM_STREAM;
use crate::transfer::limits::{FEED_BYTES_MAX, FEEDS_MAX};
use crate::transfer::{
    Advice, Arbiter, Chooser, Ending, Output, Receiver, ReceiverLimits, Report, State,
};

/// The new part of a chunk that waits for its place in the log.
struct Incoming {
    stream: u64,
    slot: SlotId,
    body: Body,
}

/// A connection to an upstream, and the streams that come by it.
struct Feed {
    receiver: Receiver,
    conn: Option<u32>,
    peer: Option<Identity>,
    outputs: Vec<Output>,
    /// What is closed there, and the role epoch under which it said so.
    closed: Published,
    closed_epoch: u64,
}

/// Imports of a shard. On a primary it only knows who asks.
#[derive(Default)]
pub(crate) struct Imports {
    pub(crate) chooser: Option<Chooser>,
    pub(crate) advice: Vec<Advice>,
    /// Connections for questions.
    pub(crate) candidates: BTreeMap<SocketAddr, u32>,
    pub(crate) arbiter: Arbiter,
    /// At most [`FEEDS_MAX`].
    feeds: BTreeMap<SocketAddr, Feed>,
    /// The feed of each stream that has one.
    pub(crate) fed: BTreeMap<u64, SocketAddr>,
    /// Streams that are to begin anew, as an operator says to their leader here: where their logs
    /// ended then. The word is for the next group that is imported there, and for no later one.
    pub(crate) anew: BTreeMap<u64, Lsn>,
    /// Bounded by the credit that the receivers give.
    waiting: VecDeque<Incoming>,
    /// The shard of the catalogue has said whether this standby is held back.
    may_start: bool,
}

impl<R: Ring> Shard<R> {
    /// This node leads a stream of a standby: it is fetched once an upstream is chosen.
    pub(crate) fn start_import(&mut self, stream: u64) {
        let known = self.other_primary().is_some() || !self.config.upstream.is_empty();
        let goes = stream != SYSTEM_STREAM && !self.is_seizing(stream);
        if !goes || !known || !self.imports.may_start {
            return;
        }
        let now = self.io.now;
        self.chooser().on_leading(stream, now);
        if self.is_named(stream) {
            self.want_join(stream);
        }
    }

    /// Whether the acks of a stream wait for this cluster, or will: by its log, or by the registry.
    /// A new primary ships its START to nobody who has not asked, and the log of the old one ends
    /// before that.
    pub(crate) fn is_named(&self, stream: u64) -> bool {
        self.is_awaited(stream) || self.registry.mode().mark.cluster() == Some(self.me.cluster)
    }

    /// This node does not lead the stream any more.
    pub(crate) fn stop_import(&mut self, stream: u64) {
        self.stop_join(stream);
        self.stop_feed(stream);
        self.imports.anew.remove(&stream);
        if let Some(chooser) = &mut self.imports.chooser {
            chooser.on_not_leading(stream);
        }
    }

    pub(crate) fn stop_feed(&mut self, stream: u64) {
        self.forget_waiting(stream);
        if let Some(addr) = self.imports.fed.remove(&stream) {
            self.with_feed(addr, |receiver, out| receiver.on_not_leading(stream, out));
        }
    }

    /// Takes the stream from there from now on, from the end of its log.
    pub(crate) fn feed_from(&mut self, stream: u64, to: Option<SocketAddr>) {
        if self.is_joined(stream) {
            // The primary's leader ships it.
            return;
        }
        self.stop_feed(stream);
        let Some(addr) = to.filter(|_| self.streams.contains_key(&stream)) else { return };
        if !self.open_feed(addr) {
            return self.end_choice(stream, addr, Ending::Refused);
        }
        self.imports.fed.insert(stream, addr);
        let position = self.streams[&stream].replica.log().end();
        let now = self.io.now;
        let anew = self.imports.anew.get(&stream) == Some(&position.lsn);
        self.with_feed(addr, |receiver, out| {
            receiver.on_leading(stream, position, now, out);
            if anew {
                receiver.on_rebuild(stream, out);
            }
        });
    }

    /// False when there are too many.
    fn open_feed(&mut self, addr: SocketAddr) -> bool {
        if self.imports.feeds.contains_key(&addr) {
            return true;
        }
        if self.imports.feeds.len() >= FEEDS_MAX {
            self.drop_idle_feeds();
        }
        if self.imports.feeds.len() >= FEEDS_MAX {
            return false;
        }
        let limits = ReceiverLimits { total: FEED_BYTES_MAX, ..ReceiverLimits::default() };
        let receiver = Receiver::new(limits, 1, self.io.ring.random());
        let (closed, closed_epoch) = (Published::default(), 0);
        let (conn, peer, outputs) = (None, None, Vec::new());
        let feed = Feed { receiver, conn, peer, outputs, closed, closed_epoch };
        self.imports.feeds.insert(addr, feed);
        let (hold, now) = (self.hold(), self.io.now);
        self.with_feed(addr, |receiver, out| receiver.on_hold(hold, now, out));
        true
    }

    fn drop_idle_feeds(&mut self) {
        if self.imports.fed.is_empty() && self.imports.feeds.is_empty() {
            return;
        }
        let used: Vec<SocketAddr> = self.imports.fed.values().copied().collect();
        let idle = self.imports.feeds.keys().filter(|addr| !used.contains(addr));
        for addr in idle.copied().collect::<Vec<_>>() {
            self.hang_up(addr);
            self.imports.feeds.remove(&addr);
        }
    }

    fn forget_waiting(&mut self, stream: u64) {
        let waiting = std::mem::take(&mut self.imports.waiting);
        for incoming in waiting {
            if incoming.stream == stream {
                self.io.pool.release(incoming.slot);
            } else {
                self.imports.waiting.push_back(incoming);
            }
        }
    }

    /// Something was dropped: fetch again from the end of the log.
    fn restart_import(&mut self, stream: u64) {
        if self.is_joined(stream) {
            self.forget_waiting(stream);
            return self.rejoin(stream);
        }
        let from = self.imports.fed.get(&stream).copied();
        let leads = self.streams.get(&stream).is_some_and(|state| state.leading);
        self.feed_from(stream, from.filter(|_| leads));
    }

    pub(crate) fn on_import_committed(&mut self, stream: u64, upto: Lsn) {
        self.on_joined_committed(stream);
        if let Some(&addr) = self.imports.fed.get(&stream) {
            self.with_feed(addr, |receiver, out| receiver.on_imported(stream, upto, out));
        }
    }

    fn with_feed(&mut self, addr: SocketAddr, input: impl FnOnce(&mut Receiver, &mut Vec<Output>)) {
        if let Some(feed) = self.imports.feeds.get_mut(&addr) {
            input(&mut feed.receiver, &mut feed.outputs);
        }
    }

    pub(crate) fn feed_of(&self, conn: u32) -> Option<SocketAddr> {
        let is_it = |(_, feed): &(&SocketAddr, &Feed)| feed.conn == Some(conn);
        self.imports.feeds.iter().find(is_it).map(|(addr, _)| *addr)
    }

    /// The link to an upstream is up (with whom), or down.
    pub(crate) fn on_upstream_link(&mut self, conn: u32, peer: Option<Identity>) {
        let Some(addr) = self.feed_of(conn) else { return };
        let now = self.io.now;
        if let Some(feed) = self.imports.feeds.get_mut(&addr) {
            (feed.peer, feed.closed, feed.closed_epoch) = (peer, Published::default(), 0);
        }
        if peer.is_some() {
            return self.with_feed(addr, |receiver, out| receiver.on_link_up(now, out));
        }
        self.lose(addr);
    }

    /// The other side did not want the connection.
    pub(crate) fn on_upstream_refused(&mut self, conn: u32, reason: &DownReason) {
        let DownReason::Refused(refusal) = reason else { return };
        let Some(addr) = self.feed_of(conn) else { return };
        let now = self.io.now;
        self.hang_up(addr);
        self.with_feed(addr, |receiver, out| receiver.on_refused(refusal.text(), now, out));
        self.end_choices(addr, Ending::Refused);
    }

    /// Whether this standby is held back is known, or known anew.
    pub(crate) fn hold_imports(&mut self) {
        let (hold, now) = (self.hold(), self.io.now);
        for addr in self.imports.feeds.keys().copied().collect::<Vec<_>>() {
            self.with_feed(addr, |receiver, out| receiver.on_hold(hold, now, out));
        }
    }

    pub(crate) fn hold(&self) -> Option<u64> {
        let own = self.registry.standby(self.me.cluster);
        own.and_then(|cluster| cluster.hold).map(Hold::limit)
    }

    /// What may be imported is known, or since the primary `moved` from where: streams that are led
    /// already are fetched.
    pub(crate) fn imports_may_start(&mut self, moved: bool) {
        if std::mem::replace(&mut self.imports.may_start, true) && !moved {
            return;
        }
        let led = |state: &StreamState| state.leading && state.role == Role::Standby;
        let led = self.streams.iter().filter(|(_, state)| led(state)).map(|(stream, _)| *stream);
        for stream in led.collect::<Vec<_>>() {
            self.start_import(stream);
        }
    }

    /// The connection to an upstream is over.
    fn lose(&mut self, addr: SocketAddr) {
        let now = self.io.now;
        self.hang_up(addr);
        self.with_feed(addr, |receiver, out| receiver.on_link_down(now, out));
        self.end_choices(addr, Ending::Lost);
    }

    /// Every stream that comes from there needs another upstream.
    fn end_choices(&mut self, addr: SocketAddr, why: Ending) {
        let fed = self.imports.fed.iter().filter(|(_, from)| **from == addr);
        for stream in fed.map(|(stream, _)| *stream).collect::<Vec<_>>() {
            self.end_choice(stream, addr, why);
        }
    }

    fn end_choice(&mut self, stream: u64, addr: SocketAddr, why: Ending) {
        let now = self.io.now;
        if let Some(chooser) = &mut self.imports.chooser {
            chooser.on_ended(stream, addr, why, now);
        }
    }

    /// What the receiver says of a stream, for the choice of its upstream.
    fn on_transfer_state(&mut self, stream: u64, addr: SocketAddr, state: State) {
        let why = match state {
            State::Wait | State::CheckNetwork => return,
            State::Suspended => return self.claim_held(stream, addr),
            State::Sync => {
                if let Some(chooser) = &mut self.imports.chooser {
                    chooser.on_served(stream, addr);
                }
                return self.claim_fed(addr, Some(stream));
            }
            State::SourceHasAGap => Ending::Gap,
            State::LogNotMatch => Ending::Diverged,
            State::SourceUnknown | State::SourceRefuses => Ending::Refused,
            State::SourceDamaged => Ending::Damaged,
            // What this SYNC standby has is not shown to others before it says so.
            State::SourceBehind if self.is_awaited(stream) => return,
            State::SourceBehind => Ending::Behind,
        };
        self.end_choice(stream, addr, why);
    }

    fn is_awaited(&self, stream: u64) -> bool {
        let named = self.streams.get(&stream).and_then(|state| state.derived.marks.named());
        named == Some(self.me.cluster)
    }

    fn hang_up(&mut self, addr: SocketAddr) {
        let Some(feed) = self.imports.feeds.get_mut(&addr) else { return };
        feed.peer = None;
        if let Some(conn) = feed.conn.take() {
            let io = &mut self.io;
            self.net.close(&mut io.ring, &mut io.pool, conn);
        }
    }

    /// An upstream says what is closed in its streams. False when that makes no sense.
    fn on_upstream_closed(&mut self, addr: SocketAddr, frame: &Frame) -> bool {
        let run = frame.body;
        let news = ClosedNews::decode(self.bytes_of(frame.slot, run.at, run.len));
        let (Ok(news), Ok(shard)) = (news, u16::try_from(frame.head.tag)) else { return false };
        let Some(feed) = self.imports.feeds.get_mut(&addr) else { return true };
        feed.closed_epoch = feed.closed_epoch.max(frame.head.tag2);
        let good = feed.closed.on_news(shard.into(), &news);
        self.claim_fed(addr, None);
        good
    }

    /// What is closed in the streams that come from there, or in one of them, where both logs are
    /// known to be one. Who knows of an older role is not believed: its log may be another from
    /// some position on.
    fn claim_fed(&mut self, addr: SocketAddr, only: Option<u64>) {
        let known = self.role_epoch;
        let feed = self.imports.feeds.get_mut(&addr);
        let Some(feed) = feed.filter(|feed| feed.closed_epoch >= known) else { return };
        let is_one = |stream: &u64| {
            let report = feed.receiver.report(*stream);
            report.is_some_and(|report| report.state == State::Sync)
        };
        let is_held = |stream: &u64| feed.receiver.held_at(*stream).is_some();
        let wanted = match only {
            Some(stream) => self.imports.fed.range(stream..=stream),
            None => self.imports.fed.range(..),
        };
        let wanted = wanted.filter(|(_, from)| **from == addr).map(|(stream, _)| *stream);
        let wanted: Vec<u64> = wanted.collect();
        let held: Vec<u64> = wanted.iter().copied().filter(is_held).collect();
        let streams: Vec<u64> = wanted.into_iter().filter(is_one).collect();
        let said = std::mem::take(&mut feed.closed);
        streams.into_iter().for_each(|stream| self.claim(stream, &said));
        if let Some(feed) = self.imports.feeds.get_mut(&addr) {
            feed.closed = said;
        }
        held.into_iter().for_each(|stream| self.claim_held(stream, addr));
    }

    /// A stream is held back at an SCN: all that is not above it is here.
    fn claim_held(&mut self, stream: u64, addr: SocketAddr) {
        let known = self.role_epoch;
        let feed = self.imports.feeds.get(&addr).filter(|feed| feed.closed_epoch >= known);
        let held = feed.and_then(|feed| feed.receiver.held_at(stream));
        let state = self.streams.get_mut(&stream).filter(|state| state.leading);
        if let (Some(closed), Some(state)) = (held, state) {
            state.claims.offer(closed);
            self.note_closed();
        }
    }

    /// An upstream sent something.
    pub(crate) fn on_upstream_frame(&mut self, conn: u32, frame: &Frame) {
        let Some(addr) = self.feed_of(conn) else { return };
        if frame.head.kind == KIND_CLOSED {
            if !self.on_upstream_closed(addr, frame) {
                self.lose(addr);
            }
            return;
        }
        let run = if frame.head.kind == KIND_CHUNK { frame.prefix } else { frame.body };
        let bytes = self.io.pool.bytes(frame.slot);
        let said = FromForwarder::parse(&frame.head, part(bytes, run));
        let now = self.io.now;
        let Some(feed) = self.imports.feeds.get_mut(&addr) else { return };
        let (receiver, out) = (&mut feed.receiver, &mut feed.outputs);
        match said {
            Ok(FromForwarder::Chunk(head)) if head.compressed.is_some() => {
                self.on_compressed(addr, &head, frame);
            }
            Ok(FromForwarder::Chunk(head)) => {
                receiver.on_chunk(&head, part(bytes, frame.body), now, out);
                self.take_outputs(addr, Some(frame));
            }
            Ok(FromForwarder::End(end)) => {
                receiver.on_end(&end, now, out);
                if end.reason == EndReason::Busy {
                    self.end_choice(end.stream, addr, Ending::Refused);
                }
            }
            Ok(FromForwarder::Status(status)) => receiver.on_status(&status, now, out),
            Ok(FromForwarder::Beat(beat)) => {
                receiver.on_beat(beat.role_epoch, now);
                if beat.role_epoch > feed.closed_epoch {
                    // What it said before goes for the newer role as well.
                    feed.closed_epoch = beat.role_epoch;
                    self.claim_fed(addr, None);
                }
            }
            Err(_) => self.lose(addr),
        }
    }

    /// A compressed chunk came: its records get a slot of their own, as if they had come so.
    fn on_compressed(&mut self, addr: SocketAddr, head: &ChunkHead, frame: &Frame) {
        let now = self.io.now;
        let Some(feed) = self.imports.feeds.get_mut(&addr) else { return };
        let (receiver, out) = (&mut feed.receiver, &mut feed.outputs);
        // Nothing is taken for what nobody waits for, or what is more than the credit.
        if !receiver.takes(head) {
            receiver.on_chunk(head, &[], now, out);
            return self.take_outputs(addr, Some(frame));
        }
        let pool = &mut self.io.pool;
        let Some(slot) = pool.take(Purpose::Receive, HEAD_BYTES + head.body_len as usize) else {
            return self.restart_import(head.stream);
        };
        let body = Run { slot, at: HEAD_BYTES as u32, len: head.body_len };
        let (from, to) = pool.pair(frame.slot, slot);
        let (records, rest) = to[HEAD_BYTES..].split_at_mut(head.body_len as usize);
        if decompress(part(from, frame.body), records) {
            // As on a link: the page ends with zeroes.
            rest.fill(0);
            receiver.on_chunk(head, part(pool.bytes(slot), body), now, out);
        } else {
            receiver.on_damaged(head, now, out);
        }
        self.take_outputs(addr, Some(&Frame { slot, body, ..*frame }));
        self.io.pool.release(slot);
    }

    /// Moves imports along, once a turn.
    pub(crate) fn run_imports(&mut self) {
        self.run_choices();
        let now = self.io.now;
        for addr in self.imports.feeds.keys().copied().collect::<Vec<_>>() {
            self.with_feed(addr, |receiver, out| receiver.on_time(now, out));
            self.take_outputs(addr, None);
        }
        self.drop_idle_feeds();
        self.log_waiting();
    }

    pub(crate) fn next_import(&self) -> Option<Nanos> {
        let feeds = self.imports.feeds.values().filter_map(|feed| feed.receiver.next_time());
        feeds.chain(self.imports.chooser.as_ref().and_then(Chooser::next_time)).min()
    }

    fn take_outputs(&mut self, addr: SocketAddr, frame: Option<&Frame>) {
        let mut again = Vec::new();
        let outputs =
            self.imports.feeds.get_mut(&addr).map(|feed| std::mem::take(&mut feed.outputs));
        for output in outputs.unwrap_or_default() {
            match output {
                Output::Dial { .. } => self.dial_upstream(addr),
                Output::Hangup => {
                    self.hang_up(addr);
                    self.end_choices(addr, Ending::Lost);
                }
                Output::Fetch(fetch) => self.say_upstream(addr, &FromReader::Fetch(fetch)),
                Output::Credit { stream, bytes } => {
                    self.say_upstream(addr, &FromReader::Credit { stream, bytes });
                }
                Output::Stop { stream } => self.say_upstream(addr, &FromReader::Stop { stream }),
                Output::Import { stream, metas, .. } => {
                    let frame = frame.expect("only a chunk is imported");
                    if !self.adopt_chunk(stream, frame, metas) {
                        again.push(stream);
                    }
                }
                Output::State { stream, state } => self.on_transfer_state(stream, addr, state),
                Output::Skip { .. } => {}
            }
        }
        again.into_iter().for_each(|stream| self.restart_import(stream));
    }

    fn dial_upstream(&mut self, addr: SocketAddr) {
        self.hang_up(addr);
        let conn = self.dial_reader(addr, Duty::Upstream);
        if let Some(feed) = self.imports.feeds.get_mut(&addr) {
            feed.conn = Some(conn);
        }
    }

    /// Dials the forwarding shard of a node of another cluster.
    pub(crate) fn dial_reader(&mut self, addr: SocketAddr, duty: Duty) -> u32 {
        let target = Target { cluster: ANY_CLUSTER, node: ANY_NODE, shard: ANY_SHARD };
        let now = self.io.now;
        let io = &mut self.io;
        let (ring, pool) = (&mut io.ring, &mut io.pool);
        self.net.dial(ring, pool, now, addr, target, Class::Reader, duty)
    }

    fn say_upstream(&mut self, addr: SocketAddr, said: &FromReader) {
        let conn = self.imports.feeds.get(&addr).and_then(|feed| feed.conn);
        let Some(conn) = conn.and_then(|id| self.net.conns.get_mut(&id)) else { return };
        let io = &mut self.io;
        if conn.link.send(&mut io.ring, &mut io.pool, Outgoing::inline(said.encode())).is_err() {
            // A lost request would never be answered: start over on a new connection.
            conn.link.close(&mut io.ring, &mut io.pool);
        }
    }

    /// Keeps the slot of a chunk with the records that are new, under this leader's ballot. False
    /// when there is no memory now.
    pub(crate) fn adopt_chunk(
        &mut self,
        stream: u64,
        frame: &Frame,
        metas: Vec<RecordMeta>,
    ) -> bool {
        let Some(state) = self.streams.get(&stream) else { return false };
        let pool = &mut self.io.pool;
        if !state.leading || !has_room_for_groups(pool, pool.capacity(frame.slot)) {
            return false;
        }
        assert!(frame.body.at as usize == HEAD_BYTES, "a chunk stands where a block's body does");
        let ballot = state.replica.leader();
        let body = Body::adopt(&mut pool.bytes_mut(frame.slot)[HEAD_BYTES..], metas, ballot);
        pool.retain(frame.slot);
        // What waits for the log must not keep messages from being received.
        pool.repurpose(frame.slot, Purpose::Write);
        self.imports.waiting.push_back(Incoming { stream, slot: frame.slot, body });
        true
    }

    fn log_waiting(&mut self) {
        // Of streams whose window is full; what is committed next opens it. Others go on.
        let (mut later, mut full) = (VecDeque::new(), BTreeSet::new());
        while let Some(incoming) = self.imports.waiting.pop_front() {
            let Incoming { stream, slot, .. } = incoming;
            if full.contains(&stream) {
                later.push_back(incoming);
                continue;
            }
            let len = incoming.body.len as usize;
            if !self.flush_own() || !self.ledger.has_room(len, Claim::Groups) {
                self.imports.waiting.push_front(incoming);
                break;
            }
            if let Err(incoming) = self.log_incoming(incoming) {
                let busy = self.streams.get(&stream).is_some_and(|state| state.leading);
                if busy && self.continues_log(&incoming) {
                    full.insert(stream);
                    later.push_back(incoming);
                    continue;
                }
                self.io.pool.release(slot);
                self.restart_import(stream);
            }
        }
        later.append(&mut self.imports.waiting);
        self.imports.waiting = later;
    }

    fn continues_log(&self, incoming: &Incoming) -> bool {
        let end = self.streams[&incoming.stream].replica.log().end();
        first_group(self.io.pool.bytes(incoming.slot), &incoming.body)
            .is_some_and(|group| group.lsn() == end.lsn && group.follows(end.chain))
    }

    /// A base comes alone.
    fn is_base(&self, incoming: &Incoming) -> bool {
        let first = first_group(self.io.pool.bytes(incoming.slot), &incoming.body);
        let base = first.is_some_and(|group| group.is_base());
        assert!(!base || incoming.body.metas.len() == 1, "a chunk is a base, or has none");
        base
    }

    fn log_incoming(&mut self, incoming: Incoming) -> Result<(), Incoming> {
        let Some(state) = self.streams.get(&incoming.stream) else { return Err(incoming) };
        let Ok(position) = state.replica.import_position() else { return Err(incoming) };
        let ballot = incoming.body.metas[0].ballot;
        // What waits to be logged was decided on the end of the log.
        let seizes = self.is_seizing(incoming.stream);
        if ballot != position.ballot || seizes || !self.continues_log(&incoming) {
            return Err(incoming);
        }
        let base = self.is_base(&incoming);
        let Incoming { stream, slot, body } = incoming;
        if !base {
            // Something less brings it on.
            self.imports.anew.remove(&stream);
        }
        let run = Run { slot, at: HEAD_BYTES as u32, len: body.len };
        let (metas, crc): (Vec<RecordMeta>, u32) = (body.metas.clone(), body.headers_crc);
        self.io.pool.retain(slot);
        let items = group_items(&metas);
        let place = self.ledger.append(&mut self.io.pool, slot, body, items, Claim::Groups);
        for meta in &metas {
            assert!(meta.kind == Kind::Group && meta.stream == stream);
            self.note_logged(slot, meta);
            let end = Boundary { lsn: meta.end, chain: meta.chain };
            let mark = GroupMark { start: meta.lsn, end, scn: meta.scn, place, base };
            let now = self.io.now;
            self.state(stream).replica.on_proposed(mark, now);
        }
        self.touch(stream);
        self.send_batch(run, crc, &metas);
        self.io.pool.release(slot);
        Ok(())
    }

    /// How a stream's transfer is doing, by who brings it.
    pub(crate) fn feed_report(&self, stream: u64) -> Option<Report> {
        let addr = self.imports.fed.get(&stream)?;
        self.imports.feeds.get(addr)?.receiver.report(stream)
    }

    /// State and reason of a stream that is fetched, for display.
    pub fn transfer(&self, stream: u64) -> Option<String> {
        let transfer = self.import_state(stream)?;
        Some(format!("{} {}", transfer.state, transfer.reason).trim_end().to_owned())
    }

    /// Where a stream of a standby comes from; none while nobody is connected.
    pub fn upstream(&self, stream: u64) -> Option<UpstreamStatus> {
        if let Some((peer, _)) = self.shipper(stream) {
            return Some(UpstreamStatus { cluster: peer.cluster, node: peer.node });
        }
        let peer = self.imports.feeds.get(self.imports.fed.get(&stream)?)?.peer?;
        Some(UpstreamStatus { cluster: peer.cluster, node: peer.node })
    }
}

fn part(bytes: &[u8], run: Run) -> &[u8] {
    &bytes[run.at as usize..(run.at + run.len) as usize]
}

fn first_group(slot: &[u8], body: &Body) -> Option<GroupHeader> {
    let at = HEAD_BYTES + body.metas.first()?.range().start;
    GroupHeader::read_from_prefix(&slot[at..]).ok().map(|(group, _)| group)
}
