//! The receiving side of transfer on a standby: what the receiver hands out is imported through
//! this cluster's own replicas, at the same LSN and SCN.

use std::collections::VecDeque;
use std::net::SocketAddr;

use palisade_netio::{
    ANY_CLUSTER, ANY_NODE, ANY_SHARD, Class, DownReason, Frame, HEAD_BYTES, Identity, Nanos,
    Outgoing, Purpose, Ring, Run, SlotId, Target,
};
use palisade_wal::{Body, Boundary, GroupHeader, Kind, Lsn, RecordMeta};
use zerocopy::FromBytes;

use crate::config::Role;
use crate::control::Hold;
use crate::forward::wire::{FromForwarder, FromReader, KIND_CHUNK};
use crate::paxos::GroupMark;
use crate::shard::Shard;
use crate::shard::batch::has_room_for_groups;
use crate::shard::ledger::{Claim, group_items};
use crate::shard::net::Duty;
use crate::shard::stream::StreamState;
use crate::status::UpstreamStatus;
use crate::stream::catalogue::SYSTEM_STREAM;
use crate::transfer::limits::ENDPOINTS_MAX;
use crate::transfer::{Output, Receiver, ReceiverLimits};

/// The new part of a chunk that waits for its place in the log.
struct Incoming {
    stream: u64,
    slot: SlotId,
    body: Body,
}

/// Imports of a shard. Empty on a primary.
#[derive(Default)]
pub(crate) struct Imports {
    receiver: Option<Receiver>,
    conn: Option<u32>,
    peer: Option<Identity>,
    outputs: Vec<Output>,
    /// Bounded by the credit that the receiver gives.
    waiting: VecDeque<Incoming>,
    /// Where to ask, the first to be asked first.
    upstreams: Vec<SocketAddr>,
    /// The shard of the catalogue has said whether this standby is held back.
    may_start: bool,
}

impl<R: Ring> Shard<R> {
    /// This node leads a stream of a standby: it fetches the stream.
    pub(crate) fn start_import(&mut self, stream: u64) {
        let nowhere = stream == SYSTEM_STREAM || self.config.upstream.is_empty();
        if nowhere || !self.imports.may_start {
            return;
        }
        if self.imports.receiver.is_none() {
            self.imports.upstreams = self.upstreams();
            let (endpoints, seed) = (self.imports.upstreams.len(), self.io.ring.random());
            let receiver = Receiver::new(ReceiverLimits::default(), endpoints, seed);
            self.imports.receiver = Some(receiver);
            self.hold_imports();
        }
        let position = self.streams[&stream].replica.log().end();
        let now = self.io.now;
        self.with_receiver(|receiver, out| receiver.on_leading(stream, position, now, out));
    }

    /// This node does not lead the stream any more.
    pub(crate) fn stop_import(&mut self, stream: u64) {
        self.forget_waiting(stream);
        self.with_receiver(|receiver, out| receiver.on_not_leading(stream, out));
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
        self.stop_import(stream);
        if self.streams.get(&stream).is_some_and(|state| state.leading) {
            self.start_import(stream);
        }
    }

    pub(crate) fn on_import_committed(&mut self, stream: u64, upto: Lsn) {
        self.with_receiver(|receiver, out| receiver.on_imported(stream, upto, out));
    }

    fn with_receiver(&mut self, input: impl FnOnce(&mut Receiver, &mut Vec<Output>)) {
        if let Some(receiver) = &mut self.imports.receiver {
            input(receiver, &mut self.imports.outputs);
        }
    }

    /// The link to the upstream is up (with whom), or down.
    pub(crate) fn on_upstream_link(&mut self, conn: u32, peer: Option<Identity>) {
        if self.imports.conn != Some(conn) {
            return;
        }
        let now = self.io.now;
        self.imports.peer = peer;
        if peer.is_some() {
            return self.with_receiver(|receiver, out| receiver.on_link_up(now, out));
        }
        self.hang_up();
        self.with_receiver(|receiver, out| receiver.on_link_down(now, out));
    }

    /// The upstream did not want the connection.
    pub(crate) fn on_upstream_refused(&mut self, conn: u32, reason: &DownReason) {
        let DownReason::Refused(refusal) = reason else { return };
        if self.imports.conn == Some(conn) {
            let (text, now) = (refusal.text().to_owned(), self.io.now);
            self.hang_up();
            self.with_receiver(|receiver, out| receiver.on_refused(&text, now, out));
        }
    }

    /// Whether this standby is held back is known, or known anew.
    pub(crate) fn hold_imports(&mut self) {
        let own = self.registry.standby(self.me.cluster);
        let hold = own.and_then(|cluster| cluster.hold).map(Hold::limit);
        let now = self.io.now;
        self.with_receiver(|receiver, out| receiver.on_hold(hold, now, out));
    }

    /// The nodes of the standby that an operator named, if any, and then those of the
    /// configuration: so there is a way back when the named one is gone.
    fn upstreams(&self) -> Vec<SocketAddr> {
        let named = self.registry.standby(self.me.cluster).map_or(0, |own| own.upstream);
        let named = self.registry.standby(named).into_iter().flat_map(|named| &named.endpoints);
        let named = named.filter_map(|endpoint| endpoint.parse().ok());
        let mut all: Vec<SocketAddr> = named.collect();
        for addr in &self.config.upstream {
            if !all.contains(addr) {
                all.push(*addr);
            }
        }
        all.truncate(ENDPOINTS_MAX);
        all
    }

    /// The operator may have named another upstream.
    pub(crate) fn choose_upstreams(&mut self) {
        let upstreams = self.upstreams();
        if self.imports.receiver.is_none() || upstreams == self.imports.upstreams {
            return;
        }
        let (count, now) = (upstreams.len(), self.io.now);
        self.imports.upstreams = upstreams;
        self.with_receiver(|receiver, out| receiver.on_endpoints(count, now, out));
    }

    /// What may be imported is known: streams that are led already are fetched.
    pub(crate) fn imports_may_start(&mut self) {
        if std::mem::replace(&mut self.imports.may_start, true) {
            return;
        }
        let led = |state: &StreamState| state.leading && state.role == Role::Standby;
        let led = self.streams.iter().filter(|(_, state)| led(state)).map(|(stream, _)| *stream);
        for stream in led.collect::<Vec<_>>() {
            self.start_import(stream);
        }
    }

    fn hang_up(&mut self) {
        self.imports.peer = None;
        if let Some(conn) = self.imports.conn.take() {
            let io = &mut self.io;
            self.net.close(&mut io.ring, &mut io.pool, conn);
        }
    }

    /// The upstream sent something.
    pub(crate) fn on_upstream_frame(&mut self, conn: u32, frame: &Frame) {
        if self.imports.conn != Some(conn) {
            return;
        }
        let run = if frame.head.kind == KIND_CHUNK { frame.prefix } else { frame.body };
        let bytes = self.io.pool.bytes(frame.slot);
        let said = FromForwarder::parse(&frame.head, part(bytes, run));
        let now = self.io.now;
        let (receiver, out) = (self.imports.receiver.as_mut(), &mut self.imports.outputs);
        let Some(receiver) = receiver else { return };
        match said {
            Ok(FromForwarder::Chunk(head)) => {
                receiver.on_chunk(&head, part(bytes, frame.body), now, out);
                self.take_outputs(Some(frame));
            }
            Ok(FromForwarder::End(end)) => receiver.on_end(&end, now, out),
            Ok(FromForwarder::Status(status)) => receiver.on_status(&status, now, out),
            Ok(FromForwarder::Beat(beat)) => receiver.on_beat(beat.role_epoch, now),
            Err(_) => {
                self.hang_up();
                self.with_receiver(|receiver, out| receiver.on_link_down(now, out));
            }
        }
    }

    /// Moves imports along, once a turn.
    pub(crate) fn run_imports(&mut self) {
        let now = self.io.now;
        self.with_receiver(|receiver, out| receiver.on_time(now, out));
        self.take_outputs(None);
        self.log_waiting();
    }

    pub(crate) fn next_import(&self) -> Option<Nanos> {
        self.imports.receiver.as_ref().and_then(Receiver::next_time)
    }

    fn take_outputs(&mut self, frame: Option<&Frame>) {
        let mut again = Vec::new();
        for output in std::mem::take(&mut self.imports.outputs) {
            match output {
                Output::Dial { endpoint } => self.dial_upstream(endpoint),
                Output::Hangup => self.hang_up(),
                Output::Fetch(fetch) => self.say_upstream(FromReader::Fetch(fetch)),
                Output::Credit { stream, bytes } => {
                    self.say_upstream(FromReader::Credit { stream, bytes });
                }
                Output::Stop { stream } => self.say_upstream(FromReader::Stop { stream }),
                Output::Import { stream, metas, .. } => {
                    let frame = frame.expect("only a chunk is imported");
                    if !self.adopt_chunk(stream, frame, metas) {
                        again.push(stream);
                    }
                }
                Output::Skip { .. } | Output::State { .. } => {}
            }
        }
        again.into_iter().for_each(|stream| self.restart_import(stream));
    }

    fn dial_upstream(&mut self, endpoint: usize) {
        self.hang_up();
        let addr = self.imports.upstreams[endpoint];
        let target = Target { cluster: ANY_CLUSTER, node: ANY_NODE, shard: ANY_SHARD };
        let now = self.io.now;
        let io = &mut self.io;
        let (ring, pool) = (&mut io.ring, &mut io.pool);
        let conn = self.net.dial(ring, pool, now, addr, target, Class::Reader, Duty::Upstream);
        self.imports.conn = Some(conn);
    }

    fn say_upstream(&mut self, frame: FromReader) {
        let conn = self.imports.conn.and_then(|id| self.net.conns.get_mut(&id));
        let Some(conn) = conn else { return };
        let io = &mut self.io;
        if conn.link.send(&mut io.ring, &mut io.pool, Outgoing::inline(frame.encode())).is_err() {
            // A lost request would never be answered: start over on a new connection.
            conn.link.close(&mut io.ring, &mut io.pool);
        }
    }

    /// Keeps the slot of a chunk with the records that are new, under this leader's ballot. False
    /// when there is no memory now.
    fn adopt_chunk(&mut self, stream: u64, frame: &Frame, metas: Vec<RecordMeta>) -> bool {
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
        while let Some(incoming) = self.imports.waiting.front() {
            let len = incoming.body.len as usize;
            if !self.flush_own() || !self.ledger.has_room(len, Claim::Groups) {
                return;
            }
            let incoming = self.imports.waiting.pop_front().expect("it is the front");
            let stream = incoming.stream;
            let slot = incoming.slot;
            if let Err(incoming) = self.log_incoming(incoming) {
                let busy = self.streams.get(&stream).is_some_and(|state| state.leading);
                if busy && self.continues_log(&incoming) {
                    // The window is full; what is committed next opens it.
                    self.imports.waiting.push_front(incoming);
                    return;
                }
                self.io.pool.release(slot);
                self.restart_import(stream);
            }
        }
    }

    fn continues_log(&self, incoming: &Incoming) -> bool {
        let end = self.streams[&incoming.stream].replica.log().end();
        first_group(self.io.pool.bytes(incoming.slot), &incoming.body)
            .is_some_and(|group| group.lsn() == end.lsn && group.follows(end.chain))
    }

    fn log_incoming(&mut self, incoming: Incoming) -> Result<(), Incoming> {
        let Some(state) = self.streams.get(&incoming.stream) else { return Err(incoming) };
        let Ok(position) = state.replica.import_position() else { return Err(incoming) };
        let ballot = incoming.body.metas[0].ballot;
        if ballot != position.ballot || !self.continues_log(&incoming) {
            return Err(incoming);
        }
        let Incoming { stream, slot, body } = incoming;
        let run = Run { slot, at: HEAD_BYTES as u32, len: body.len };
        let (metas, crc): (Vec<RecordMeta>, u32) = (body.metas.clone(), body.headers_crc);
        self.io.pool.retain(slot);
        let items = group_items(&metas);
        let place = self.ledger.append(&mut self.io.pool, slot, body, items, Claim::Groups);
        for meta in &metas {
            assert!(meta.kind == Kind::Group && meta.stream == stream);
            self.note_logged(slot, meta);
            let end = Boundary { lsn: meta.end, chain: meta.chain };
            let mark = GroupMark { start: meta.lsn, end, scn: meta.scn, place };
            let now = self.io.now;
            self.state(stream).replica.on_proposed(mark, now);
        }
        self.touch(stream);
        self.send_batch(run, crc, &metas);
        self.io.pool.release(slot);
        Ok(())
    }

    /// State, reason and action of a stream's transfer, for status.
    pub(crate) fn import_state(&self, stream: u64) -> Option<(String, String, String)> {
        let report = self.imports.receiver.as_ref()?.report(stream)?;
        let (name, action) = (report.state.name(), report.state.action());
        Some((name.to_string(), report.reason, action.to_string()))
    }

    /// State and reason of a stream that is fetched, for display.
    pub fn transfer(&self, stream: u64) -> Option<String> {
        let (name, reason, _) = self.import_state(stream)?;
        Some(format!("{name} {reason}").trim_end().to_owned())
    }

    /// Where a stream comes from, for status.
    pub(crate) fn import_upstream(&self, stream: u64) -> Option<UpstreamStatus> {
        self.imports.receiver.as_ref()?.report(stream)?;
        self.imports.peer.map(|peer| UpstreamStatus { cluster: peer.cluster, node: peer.node })
    }
}

fn part(bytes: &[u8], run: Run) -> &[u8] {
    &bytes[run.at as usize..(run.at + run.len) as usize]
}

fn first_group(slot: &[u8], body: &Body) -> Option<GroupHeader> {
    let at = HEAD_BYTES + body.metas.first()?.range().start;
    GroupHeader::read_from_prefix(&slot[at..]).ok().map(|(group, _)| group)
}
