//! What lies between hosts: routes, partitions, and bytes on their way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use palisade_netio::{Errno, Nanos};

use super::connection::{Connection, Segment};
use super::event::{Event, Step};
use super::fault::FaultKind;
use super::latency::Latency;
use super::state::{Departure, HostId, State};

pub(crate) const TIMEDOUT: Errno = Errno(110);
const MS: u64 = 1_000_000;

pub(crate) struct Listener {
    pub(crate) host: HostId,
    pub(crate) address: SocketAddr,
    /// Connections nobody has accepted yet.
    pub(crate) backlog: VecDeque<u64>,
    pub(crate) accepts: Vec<u64>,
    pub(crate) shut: bool,
}

#[derive(Default)]
pub(crate) struct Network {
    pub(crate) connections: BTreeMap<u64, Connection>,
    pub(crate) listeners: BTreeMap<u64, Listener>,
    /// Pairs (from, to) between which nothing passes.
    pub(crate) blocked: BTreeSet<(HostId, HostId)>,
    pub(crate) links: BTreeMap<(HostId, HostId), Latency>,
    /// Bytes per second, where a link is narrow, and until when it is taken.
    pub(crate) bandwidths: BTreeMap<(HostId, HostId), (u64, Nanos)>,
    pub(crate) ports: u16,
}

impl State {
    /// Whether bytes pass from one host to another now.
    pub(crate) fn passes(&self, from: HostId, to: HostId) -> bool {
        let up = self.host(from).up && self.host(to).up;
        up && (from == to || !self.network.blocked.contains(&(from, to)))
    }

    pub(crate) fn link_delay(&mut self, from: HostId, to: HostId) -> u64 {
        let default = if from == to { self.latencies.local } else { self.latencies.link };
        let latency = self.network.links.get(&(from, to)).copied().unwrap_or(default);
        self.draw(latency)
    }

    fn hosts_from(&self, connection: u64, end: usize) -> Option<(HostId, HostId)> {
        let ends = &self.network.connections.get(&connection)?.ends;
        Some((ends[end].host, ends[1 - end].host))
    }

    /// Puts bytes that `end` sends on the wire.
    pub(crate) fn put_on_wire(&mut self, connection: u64, end: usize, mut bytes: Vec<u8>) {
        if self.faults.follows_frames {
            bytes = self.pass_frames(connection, end, bytes);
        }
        if self.strikes(FaultKind::WireFlip) && !bytes.is_empty() {
            let at = self.random.index(bytes.len());
            bytes[at] ^= 1 << self.random.below(8);
        }
        let mut pieces = 1;
        if bytes.len() > 1 && self.strikes(FaultKind::Segmented) {
            pieces = self.random.between(2, 4);
        }
        while !bytes.is_empty() {
            let rest = if pieces > 1 && bytes.len() > 1 {
                bytes.split_off(self.random.between(1, bytes.len() as u64 - 1) as usize)
            } else {
                Vec::new()
            };
            self.put_segment(connection, end, bytes, false);
            bytes = rest;
            pieces -= 1;
        }
    }

    pub(crate) fn put_segment(&mut self, connection: u64, end: usize, bytes: Vec<u8>, fin: bool) {
        let Some((from, to)) = self.hosts_from(connection, end) else { return };
        let mut delay = self.link_delay(from, to);
        if self.strikes(FaultKind::LinkSpike) {
            delay += self.random.between(MS, 500 * MS);
        }
        let mut start = self.now;
        if let Some((rate, busy_until)) = self.network.bandwidths.get_mut(&(from, to)) {
            let took = bytes.len() as u64 * 1_000_000_000 / (*rate).max(1);
            start = start.max(*busy_until).after(took);
            *busy_until = start;
        }
        let Some(open) = self.network.connections.get_mut(&connection) else { return };
        let pipe = &mut open.pipes[end];
        let at = start.after(delay).max(pipe.last_arrival);
        pipe.last_arrival = at;
        pipe.held += bytes.len();
        pipe.fin_sent |= fin;
        pipe.wire.push_back(Segment { at, bytes, fin });
        self.schedule(at, Event::Arrive { connection, end });
        if !self.is_acknowledged(connection, end) {
            let delay = self.user_timeout;
            self.after(delay, Event::TimeOut { connection, end, surely: false });
        }
    }

    /// Whether nothing that `end` sent waits behind a partition.
    pub(crate) fn is_acknowledged(&self, connection: u64, end: usize) -> bool {
        let Some((from, to)) = self.hosts_from(connection, end) else { return true };
        let open = &self.network.connections[&connection];
        let passes = self.passes(from, to) && self.passes(to, from);
        passes || open.pipes[end].held == 0 || open.ends[end].error.is_some()
    }

    /// Lets arrive what `end` sent and what is due.
    pub(crate) fn pump(&mut self, connection: u64, end: usize) {
        let Some((from, to)) = self.hosts_from(connection, end) else { return };
        if !self.passes(from, to) {
            return;
        }
        let now = self.now;
        let open = self.network.connections.get_mut(&connection).expect("looked up");
        let peer = &open.ends[1 - end];
        let peer_reads = peer.open && !peer.shut && peer.error.is_none();
        let pipe = &mut open.pipes[end];
        let mut discarded = false;
        let (mut bytes_in, mut fin_in) = (0, false);
        while pipe.wire.front().is_some_and(|segment| segment.at <= now) {
            let segment = pipe.wire.pop_front().expect("there is a front");
            bytes_in += segment.bytes.len();
            fin_in |= segment.fin;
            if peer_reads {
                pipe.arrived.extend_from_slice(&segment.bytes);
                pipe.fin_arrived |= segment.fin;
            } else {
                pipe.held -= segment.bytes.len();
                discarded |= !segment.bytes.is_empty();
            }
        }
        self.note("arrive", [connection * 2 + end as u64, bytes_in as u64, u64::from(fin_in)]);
        if discarded {
            // Nobody reads there any more: the sender hears a reset.
            let delay = self.link_delay(to, from);
            self.after(delay, Event::Reset { connection, end });
        }
        self.serve_receivers(connection, 1 - end);
        self.serve_senders(connection, end);
        self.forget_connection_if_done(connection);
    }

    /// Gives arrived bytes, the end or an error to receives that wait at `end`.
    pub(crate) fn serve_receivers(&mut self, connection: u64, end: usize) {
        loop {
            let Some(open) = self.network.connections.get_mut(&connection) else { return };
            let Some(&id) = open.ends[end].receivers.front() else { return };
            if self.operations.get(&id).is_none_or(|operation| operation.ended) {
                open.ends[end].receivers.pop_front();
                continue;
            }
            let here = &mut open.ends[end];
            let pipe = &open.pipes[1 - end];
            let result = if here.shut {
                let errors = [Ok(0), Err(Errno::CONNRESET), Err(Errno::CANCELED)];
                errors[self.random.index(errors.len())]
            } else if !pipe.arrived.is_empty() {
                open.ends[end].receivers.pop_front();
                self.deliver_bytes(connection, end, id);
                continue;
            } else if let Some(errno) = here.take_error() {
                Err(errno)
            } else if pipe.fin_arrived || here.error.is_some() {
                Ok(0)
            } else {
                return;
            };
            open.ends[end].receivers.pop_front();
            self.finish_soon(id, result);
        }
    }

    fn deliver_bytes(&mut self, connection: u64, end: usize, id: u64) {
        let op = self.operations[&id].op.clone();
        let run = super::operation::run_filled(&op).expect("a receive");
        let cut = self.strikes(FaultKind::ReceiveCut);
        let (to, from) = self.hosts_from(connection, end).expect("looked up");
        let acknowledged = self.passes(to, from);
        let open = self.network.connections.get_mut(&connection).expect("looked up");
        let pipe = &mut open.pipes[1 - end];
        let mut len = pipe.arrived.len().min(run.len as usize);
        if cut && len > 1 {
            len = self.random.between(1, len as u64 - 1) as usize;
        }
        let rest = pipe.arrived.split_off(len);
        let bytes = std::mem::replace(&mut pipe.arrived, rest);
        if acknowledged {
            pipe.held -= len;
        } else {
            pipe.unacked += len;
        }
        let step = Step::Done {
            result: Ok(len as u32),
            more: false,
            payload: palisade_netio::Payload::None,
            copied: false,
            fill: Some(bytes),
        };
        let delay = self.draw(self.latencies.call);
        self.post_after(delay, id, step);
        self.serve_senders(connection, 1 - end);
    }

    /// Lets sends that waited for space go on.
    pub(crate) fn serve_senders(&mut self, connection: u64, end: usize) {
        let Some(open) = self.network.connections.get_mut(&connection) else { return };
        let here = &open.ends[end];
        if open.pipes[end].space() == 0 && here.error.is_none() && !here.shut {
            return;
        }
        for operation in std::mem::take(&mut open.ends[end].senders) {
            let delay = self.draw(self.latencies.call);
            self.after(delay, Event::Send { operation });
        }
    }

    /// Breaks one end. What had arrived may still be read, or not.
    pub(crate) fn fail_end(&mut self, connection: u64, end: usize, errno: Errno) {
        let keep = self.random.coin();
        let Some(open) = self.network.connections.get_mut(&connection) else { return };
        if !open.ends[end].open || open.ends[end].error.is_some() {
            return;
        }
        open.ends[end].error = Some(errno);
        if !keep {
            let pipe = &mut open.pipes[1 - end];
            pipe.held -= pipe.arrived.len();
            pipe.arrived.clear();
        }
        let pipe = &mut open.pipes[end];
        pipe.held -= pipe.wire.drain(..).map(|segment| segment.bytes.len()).sum::<usize>();
        self.note("connection fails", [connection * 2 + end as u64, errno.0 as u64, 0]);
        self.serve_receivers(connection, end);
        self.serve_senders(connection, end);
    }

    /// Breaks both ends, each in its own time.
    pub(crate) fn reset(&mut self, connection: u64) {
        self.faults.count(FaultKind::Reset);
        let first = self.random.index(2);
        self.fail_end(connection, first, Errno::CONNRESET);
        self.reset_peer(connection, first);
    }

    /// Tells the peer of `end` that the connection is gone.
    pub(crate) fn reset_peer(&mut self, connection: u64, end: usize) {
        let Some((from, to)) = self.hosts_from(connection, end) else { return };
        let delay = self.link_delay(from, to);
        self.after(delay, Event::Reset { connection, end: 1 - end });
    }

    pub(crate) fn reset_arrives(&mut self, connection: u64, end: usize) {
        let Some((to, from)) = self.hosts_from(connection, end) else { return };
        if self.passes(from, to) {
            return self.fail_end(connection, end, Errno::CONNRESET);
        }
        if !self.strikes(FaultKind::HalfOpen) {
            let open = self.network.connections.get_mut(&connection).expect("looked up");
            open.ends[end].reset_held = true;
        }
    }

    pub(crate) fn time_out(&mut self, connection: u64, end: usize, surely: bool) {
        let Some((from, to)) = self.hosts_from(connection, end) else { return };
        if !surely && self.passes(from, to) && self.passes(to, from) {
            return;
        }
        self.fail_end(connection, end, TIMEDOUT);
        self.reset_peer(connection, end);
    }

    /// The last handle of an end is gone.
    pub(crate) fn close_end(&mut self, connection: u64, end: usize, departure: Departure) {
        let rude = departure == Departure::Kill && self.random.coin();
        let Some(open) = self.network.connections.get_mut(&connection) else { return };
        let here = &mut open.ends[end];
        here.open = false;
        let was_broken = here.error.is_some();
        here.receivers.clear();
        here.senders.clear();
        let incoming = &mut open.pipes[1 - end];
        let unread = !incoming.arrived.is_empty();
        incoming.held -= incoming.arrived.len();
        incoming.arrived.clear();
        let fin_sent = open.pipes[end].fin_sent;
        if departure == Departure::PowerCut {
            open.pipes[end].wire.clear();
            let delay = self.random.between(MS, 15_000 * MS);
            self.after(delay, Event::TimeOut { connection, end: 1 - end, surely: true });
        } else if unread || rude {
            open.pipes[end].wire.clear();
            self.reset_peer(connection, end);
        } else if !fin_sent && !was_broken {
            self.put_segment(connection, end, Vec::new(), true);
        }
        self.forget_connection_if_done(connection);
    }

    fn forget_connection_if_done(&mut self, connection: u64) {
        let done = |open: &Connection| open.ends.iter().all(|end| !end.open);
        if self.network.connections.get(&connection).is_some_and(done) {
            self.network.connections.remove(&connection);
        }
    }

    /// Blocks what `from` sends to `to`.
    pub(crate) fn block(&mut self, from: HostId, to: HostId) {
        if !self.network.blocked.insert((from, to)) {
            return;
        }
        for connection in self.connections_between(from, to) {
            for end in 0..2 {
                if !self.is_acknowledged(connection, end) {
                    let delay = self.user_timeout;
                    self.after(delay, Event::TimeOut { connection, end, surely: false });
                }
            }
            if self.strikes(FaultKind::PartitionBreak) {
                let delay = self.random.between(200 * MS, 15_000 * MS);
                let end = self.random.index(2);
                self.after(delay, Event::TimeOut { connection, end, surely: false });
            }
        }
    }

    /// Lets what `from` sent to `to` flow again.
    pub(crate) fn unblock(&mut self, from: HostId, to: HostId) {
        if self.network.blocked.remove(&(from, to)) {
            self.resume(from, to);
        }
    }

    /// Goes on with every connection between two hosts after a change of the way between them.
    pub(crate) fn resume(&mut self, from: HostId, to: HostId) {
        for connection in self.connections_between(from, to) {
            if self.strikes(FaultKind::PartitionBreak) {
                self.reset(connection);
            }
            for end in 0..2 {
                let Some((here, there)) = self.hosts_from(connection, end) else { continue };
                let delay = self.link_delay(here, there);
                self.after(delay, Event::Arrive { connection, end });
                let acknowledges = self.passes(there, here);
                let open = self.network.connections.get_mut(&connection).expect("looked up");
                if acknowledges {
                    open.pipes[end].held -= std::mem::take(&mut open.pipes[end].unacked);
                }
                if std::mem::take(&mut open.ends[end].reset_held) {
                    self.after(delay, Event::Reset { connection, end });
                }
            }
        }
    }

    pub(crate) fn connections_between(&self, a: HostId, b: HostId) -> Vec<u64> {
        let connections = self.network.connections.iter();
        connections.filter(|(_, open)| open.between(a, b)).map(|(&id, _)| id).collect()
    }
}
