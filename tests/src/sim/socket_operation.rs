//! Operations on sockets.

use std::net::SocketAddr;

use palisade_netio::{Errno, Op, Payload};

use super::BACKLOG_MAX;
use super::connection::{Connection, End};
use super::event::{Event, Step};
use super::fault::FaultKind;
use super::network::{Listener, TIMEDOUT};
use super::operation::Operation;
use super::state::{Departure, HostId, ObjectKind, State, address_of};

const NOTSOCK: Errno = Errno(88);
const ADDRINUSE: Errno = Errno(98);
const ADDRNOTAVAIL: Errno = Errno(99);
const NOTCONN: Errno = Errno(107);
const HOSTUNREACH: Errno = Errno(113);
const MS: u64 = 1_000_000;
/// Ports that are given out, from this one up.
const FIRST_PORT: u16 = 32_768;

impl State {
    pub(crate) fn start_socket(&mut self, id: u64, op: &Op) {
        let delay = self.draw(self.latencies.call);
        match op {
            Op::Listen { addr } => self.listen(id, *addr),
            Op::Accept { .. } => self.accept(id),
            Op::Connect { addr } => {
                let from = self.host_of(id);
                let way = match self.host_at(from, *addr) {
                    Some(to) => self.link_delay(from, to),
                    None => delay,
                };
                self.after(delay + way, Event::Connect { operation: id });
            }
            Op::Send { .. } => self.after(delay, Event::Send { operation: id }),
            Op::Receive { .. } => self.after(delay, Event::Receive { operation: id }),
            Op::Shutdown { .. } => self.shutdown(id),
            _ => unreachable!("not an operation on sockets"),
        }
    }

    /// Ends an operation that waits.
    pub(crate) fn cancel_socket(&mut self, id: u64) {
        if let Op::Send { .. } = *self.operations[&id].op {
            return self.finish_send(id, Err(Errno::CANCELED));
        }
        self.finish_soon(id, Err(Errno::CANCELED));
    }

    pub(crate) fn socket_of(&self, operation: &Operation) -> Option<(u64, usize)> {
        match self.objects[&operation.object?].kind {
            ObjectKind::Socket { connection, end } => Some((connection, end)),
            _ => None,
        }
    }

    fn listener_of(&self, id: u64) -> Option<u64> {
        match self.objects[&self.operations[&id].object?].kind {
            ObjectKind::Listener { listener } => Some(listener),
            _ => None,
        }
    }

    /// The host that an address leads to, seen from `from`.
    fn host_at(&self, from: HostId, address: SocketAddr) -> Option<HostId> {
        if address.ip().is_loopback() || address.ip().is_unspecified() {
            return Some(from);
        }
        let hosts = (0..self.hosts.len()).map(|host| HostId(host as u32));
        hosts.into_iter().find(|&host| address_of(host) == address.ip())
    }

    fn free_port(&mut self, host: HostId) -> u16 {
        loop {
            let port = FIRST_PORT + self.network.ports % (u16::MAX - FIRST_PORT);
            self.network.ports = self.network.ports.wrapping_add(1);
            let mut listeners = self.network.listeners.values();
            if !listeners.any(|open| open.host == host && open.address.port() == port) {
                return port;
            }
        }
    }

    fn listen(&mut self, id: u64, mut address: SocketAddr) {
        let (host, process) = (self.host_of(id), self.process_of(id));
        let ip = address.ip();
        if !ip.is_loopback() && !ip.is_unspecified() && ip != address_of(host) {
            return self.finish_soon(id, Err(ADDRNOTAVAIL));
        }
        if address.port() == 0 {
            address.set_port(self.free_port(host));
        }
        let clashes = |open: &Listener| {
            let other = open.address.ip();
            let same_ip = other == ip || other.is_unspecified() || ip.is_unspecified();
            open.host == host && same_ip && open.address.port() == address.port()
        };
        if self.network.listeners.values().any(clashes) {
            return self.finish_soon(id, Err(ADDRINUSE));
        }
        let listener = self.number();
        self.network.listeners.insert(
            listener,
            Listener {
                host,
                address,
                backlog: Default::default(),
                accepts: Vec::new(),
                shut: false,
            },
        );
        let handle = self.open_handle(process, ObjectKind::Listener { listener });
        let delay = self.draw(self.latencies.call);
        self.finish_with(delay, id, Payload::Listening(handle, address));
    }

    fn accept(&mut self, id: u64) {
        let Some(listener) = self.listener_of(id) else {
            return self.finish_soon(id, Err(NOTSOCK));
        };
        let open = self.network.listeners.get_mut(&listener).expect("the object is open");
        if open.shut {
            return self.finish_soon(id, Err(Errno::INVAL));
        }
        open.accepts.push(id);
        if self.strikes(FaultKind::AcceptEnd) {
            let delay = self.random.between(0, 3_000 * MS);
            self.after(delay, Event::EndAccept { operation: id });
        }
        self.serve_accepts(listener);
    }

    pub(crate) fn end_accept(&mut self, id: u64) {
        if self.waiting(id).is_some() {
            self.finish_soon(id, Err(Errno::CANCELED));
        }
    }

    /// Hands waiting connections to waiting accepts.
    fn serve_accepts(&mut self, listener: u64) {
        loop {
            let operations = &self.operations;
            let Some(open) = self.network.listeners.get_mut(&listener) else { return };
            open.accepts.retain(|id| operations.get(id).is_some_and(|accept| !accept.ended));
            if open.accepts.is_empty() || open.backlog.is_empty() {
                return;
            }
            let id = open.accepts[self.random.index(open.accepts.len())];
            let connection = open.backlog.pop_front().expect("not empty");
            let open = &self.network.connections[&connection];
            // The far end of a connection that broke before it was accepted is unknown.
            let address = match open.ends[1].error {
                Some(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
                None => open.ends[0].address,
            };
            let process = self.process_of(id);
            let handle = self.open_handle(process, ObjectKind::Socket { connection, end: 1 });
            let step = Step::Done {
                result: Ok(0),
                more: !self.strikes(FaultKind::AcceptEnd),
                payload: Payload::Accepted(handle, address),
                copied: false,
                fill: None,
            };
            let delay = self.draw(self.latencies.call);
            self.post_after(delay, id, step);
        }
    }

    /// An attempt to connect reaches the other host, or would.
    pub(crate) fn connect_arrives(&mut self, id: u64) {
        let Some(operation) = self.waiting(id) else { return };
        let Op::Connect { addr } = *operation.op else { return };
        let from = self.host_of(id);
        let Some(to) = self.host_at(from, addr) else {
            return self.finish_soon(id, Err(HOSTUNREACH));
        };
        let passes = self.passes(from, to) && self.passes(to, from);
        if !passes || self.strikes(FaultKind::ConnectTimeout) {
            return self.fail_connect(id);
        }
        let back = self.link_delay(to, from);
        let found = self.listener_at(to, addr);
        let (Some(listener), false) = (found, self.strikes(FaultKind::ConnectRefused)) else {
            return self.post_after(back, id, Step::last(Err(Errno::CONNREFUSED)));
        };
        if self.network.listeners[&listener].backlog.len() >= BACKLOG_MAX {
            return self.fail_connect(id);
        }
        let connection = self.number();
        let here = SocketAddr::new(
            if from == to && addr.ip().is_loopback() { addr.ip() } else { address_of(from) },
            self.free_port(from),
        );
        let ends = [End::new(from, here), End::new(to, addr)];
        let open = Connection { ends, pipes: Default::default() };
        self.network.connections.insert(connection, open);
        let listening = self.network.listeners.get_mut(&listener).expect("found");
        listening.backlog.push_back(connection);
        let process = self.process_of(id);
        let handle = self.open_handle(process, ObjectKind::Socket { connection, end: 0 });
        self.finish_with(back, id, Payload::Handle(handle));
        self.serve_accepts(listener);
    }

    fn fail_connect(&mut self, id: u64) {
        if self.random.below(4) == 0 {
            let delay = self.random.between(MS, 1_000 * MS);
            return self.post_after(delay, id, Step::last(Err(HOSTUNREACH)));
        }
        let delay = self.random.between(1_000 * MS, 3_000 * MS);
        self.post_after(delay, id, Step::last(Err(TIMEDOUT)));
    }

    fn listener_at(&mut self, host: HostId, address: SocketAddr) -> Option<u64> {
        let hears = |open: &Listener| {
            let ip = open.address.ip();
            open.host == host
                && !open.shut
                && open.address.port() == address.port()
                && (ip.is_unspecified() || ip == address.ip())
        };
        let listeners = self.network.listeners.iter();
        let found: Vec<u64> = listeners.filter(|(_, l)| hears(l)).map(|(&id, _)| id).collect();
        (!found.is_empty()).then(|| found[self.random.index(found.len())])
    }

    /// A send takes what its socket has space for, or waits.
    pub(crate) fn try_send(&mut self, id: u64) {
        let Some(operation) = self.waiting(id) else { return };
        let Some((connection, end)) = self.socket_of(operation) else {
            return self.finish_send(id, Err(NOTSOCK));
        };
        let op = operation.op.clone();
        let Op::Send { prefix, .. } = &*op else { return };
        let total = prefix.len() + operation.snapshot.len();
        if self.strikes(FaultKind::Reset) {
            self.reset(connection);
        }
        let Some(open) = self.network.connections.get_mut(&connection) else {
            return self.finish_send(id, Err(Errno::PIPE));
        };
        let here = &mut open.ends[end];
        if let Some(errno) = here.take_error() {
            return self.finish_send(id, Err(errno));
        }
        if here.error.is_some() || here.shut {
            return self.finish_send(id, Err(Errno::PIPE));
        }
        let mut len = total.min(open.pipes[end].space());
        if len == 0 && total > 0 {
            here.senders.push_back(id);
            return;
        }
        if len > 1 && self.strikes(FaultKind::SendCut) {
            len = self.random.between(1, len as u64 - 1) as usize;
        }
        let snapshot = &self.operations[&id].snapshot;
        let mut bytes = [&prefix[..], snapshot].concat();
        bytes.truncate(len);
        self.put_on_wire(connection, end, bytes);
        self.finish_send(id, Ok(len as u32));
    }

    fn finish_send(&mut self, id: u64, result: Result<u32, Errno>) {
        let zero_copy = matches!(*self.operations[&id].op, Op::Send { zero_copy: true, .. });
        if !zero_copy || (result.is_err() && self.random.coin()) {
            return self.finish_soon(id, result);
        }
        let payload = Payload::None;
        let first = Step::Done { result, more: true, payload, copied: false, fill: None };
        let delay = self.draw(self.latencies.call);
        self.post_after(delay, id, first);
        let mut later = self.draw(self.latencies.notify);
        if self.strikes(FaultKind::LateNotify) {
            later = self.random.between(0, 2_000 * MS);
        }
        let copied = self.strikes(FaultKind::ZeroCopyCopied);
        let payload = Payload::None;
        let last = Step::Done { result: Ok(0), more: false, payload, copied, fill: None };
        self.post_after(delay + later, id, last);
    }

    pub(crate) fn receive_arrives(&mut self, id: u64) {
        let Some(operation) = self.waiting(id) else { return };
        let Some((connection, end)) = self.socket_of(operation) else {
            return self.finish_soon(id, Err(NOTSOCK));
        };
        let Some(open) = self.network.connections.get_mut(&connection) else {
            return self.finish_soon(id, Err(NOTCONN));
        };
        open.ends[end].receivers.push_back(id);
        self.serve_receivers(connection, end);
    }

    fn shutdown(&mut self, id: u64) {
        let object = self.operations[&id].object.expect("resolved");
        match self.objects[&object].kind {
            ObjectKind::Socket { connection, end } => {
                self.finish_soon(id, Ok(0));
                self.shut_end(connection, end);
            }
            ObjectKind::Listener { listener } => {
                self.finish_soon(id, Ok(0));
                self.shut_listener(listener, Departure::Close);
            }
            _ => self.finish_soon(id, Err(NOTSOCK)),
        }
    }

    fn shut_end(&mut self, connection: u64, end: usize) {
        let Some(open) = self.network.connections.get_mut(&connection) else { return };
        let here = &mut open.ends[end];
        if std::mem::replace(&mut here.shut, true) {
            return;
        }
        let broken = here.error.is_some();
        let incoming = &mut open.pipes[1 - end];
        incoming.held -= incoming.arrived.len();
        incoming.arrived.clear();
        if !broken {
            self.put_segment(connection, end, Vec::new(), true);
        }
        self.serve_receivers(connection, end);
        self.serve_senders(connection, end);
    }

    fn shut_listener(&mut self, listener: u64, departure: Departure) {
        let Some(open) = self.network.listeners.get_mut(&listener) else { return };
        open.shut = true;
        let (backlog, accepts) =
            (std::mem::take(&mut open.backlog), std::mem::take(&mut open.accepts));
        for id in accepts {
            if self.waiting(id).is_some() {
                self.finish_soon(id, Err(Errno::INVAL));
            }
        }
        let departure = if departure == Departure::Close { Departure::Kill } else { departure };
        for connection in backlog {
            self.close_end(connection, 1, departure);
        }
    }

    pub(crate) fn close_listener(&mut self, listener: u64, departure: Departure) {
        self.shut_listener(listener, departure);
        self.network.listeners.remove(&listener);
    }
}
