//! The forwarding shard of a node: the production [`Exchange`] over the sockets and the disk of a
//! universe. It moves bytes and decides nothing.
//!
//! A map of a segment is a copy of what a reader of the file sees when it is mapped; nobody writes
//! a sealed segment, and its lease keeps it in place.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use palisade::forward::exchange::{Arrival, Exchange, ForwarderConfig, Load, Need, Work};
use palisade::forward::flow::{Inflow, Outflow};
use palisade::forward::windows::Warming;
use palisade::forward::{ForwarderSide, ReaderId, Socket, Stats};
use palisade_netio::{
    Completion, Errno, Handle, Nanos, Op, OpenHow, Payload, Pool, Purpose, Quotas, Ring, Run,
    SlotId, Token, Wait,
};

use crate::sim::{HostId, ProcessId, RingId, SOCKET_BYTES_MAX, Universe, VirtualRing};

/// Bytes of a page: what one receive asks for, and what stands for a read of a segment.
const PAGE: usize = 4096;
/// Memory for receives and for reads.
const POOL_BYTES: usize = 4 << 20;
/// Turns of the exchange in one turn of the ring.
const ROUNDS_MAX: usize = 8;
const KIND_BITS: u32 = 4;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Send,
    Receive,
    Shutdown,
    Close,
    Open,
    Read,
    CloseFile,
}

const KINDS: [Kind; 7] = [
    Kind::Send,
    Kind::Receive,
    Kind::Shutdown,
    Kind::Close,
    Kind::Open,
    Kind::Read,
    Kind::CloseFile,
];

/// A mapped segment.
#[derive(Debug)]
pub(crate) struct Segment {
    path: Arc<Path>,
    bytes: Vec<u8>,
}

impl Deref for Segment {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

struct Conn {
    /// None when it is refused.
    reader: Option<ReaderId>,
    socket: Handle,
    out: Outflow<Segment>,
    inflow: Inflow,
    slot: SlotId,
    sending: bool,
    receiving: bool,
    ending: bool,
    shut: bool,
    closing: bool,
}

/// What a file is opened for.
enum Goal {
    Map(Arc<Path>),
    Warm(Warming<Segment>),
}

struct Loading {
    /// None for what is only read ahead.
    load: Option<Load<Segment>>,
    goal: Goal,
    handle: Option<Handle>,
    slot: SlotId,
}

/// The queues of a node whose shards do not all serve yet. Their forwarder starts after them.
#[derive(Default)]
pub(crate) struct Sides(Vec<ForwarderSide>);

/// See the [module](self).
pub(crate) struct Forwarder {
    universe: Universe,
    host: HostId,
    ring: VirtualRing,
    pool: Pool,
    exchange: Exchange<Segment>,
    conns: BTreeMap<u64, Conn>,
    of_reader: BTreeMap<ReaderId, u64>,
    loads: BTreeMap<u64, Loading>,
    next: u64,
    due: Option<Nanos>,
    done: Vec<Completion>,
}

impl Sides {
    pub(crate) fn push(&mut self, side: ForwarderSide) {
        self.0.push(side);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Drop for Sides {
    fn drop(&mut self) {
        // A side that is dropped closes the sockets in it, as files of this process.
        self.0.iter_mut().for_each(|side| while side.pop_event().is_some() {});
    }
}

impl Forwarder {
    /// The forwarder of `process`.
    pub(crate) fn new(
        universe: &Universe,
        process: ProcessId,
        mut sides: Sides,
        config: &ForwarderConfig,
    ) -> Forwarder {
        let ring = VirtualRing::new(universe, process);
        let mut sides = std::mem::take(&mut sides.0);
        sides.iter_mut().for_each(|side| side.set_bell(ring.waker()));
        let each = POOL_BYTES;
        Forwarder {
            universe: universe.clone(),
            host: universe.host_of(process),
            ring,
            pool: VirtualRing::pool(Quotas { write: each, receive: each, tail: each, read: each }),
            exchange: Exchange::new(sides, config),
            conns: BTreeMap::new(),
            of_reader: BTreeMap::new(),
            loads: BTreeMap::new(),
            next: 0,
            due: None,
            done: Vec::new(),
        }
    }

    pub(crate) fn ring(&self) -> RingId {
        self.ring.id()
    }

    pub(crate) fn stats(&self) -> Stats {
        self.exchange.stats()
    }

    /// Runs one turn.
    pub(crate) fn turn(&mut self) {
        let now = self.ring.now();
        for completion in std::mem::take(&mut self.done) {
            self.on_completion(completion, now);
        }
        if self.due.is_some_and(|due| due <= now) {
            self.exchange.on_time(now);
        }
        let mut more = true;
        for _ in 0..ROUNDS_MAX {
            more = self.round(now);
            if !more {
                break;
            }
        }
        self.move_connections();
        self.due = self.exchange.next_time(now);
        let wait = match more {
            true => Wait::No,
            false => {
                self.ring.arm();
                if self.exchange.has_events() { Wait::No } else { Wait::Until(self.due) }
            }
        };
        self.ring.enter(&mut self.pool, wait, &mut self.done);
    }

    fn round(&mut self, now: Nanos) -> bool {
        let (mut arrivals, mut work) = (Vec::new(), Vec::new());
        let mut more = self.exchange.take_events(now, &mut arrivals);
        arrivals.into_iter().for_each(|arrival| self.connect(arrival));
        more |= self.exchange.turn(now, &mut work);
        for work in work {
            match work {
                Work::Push { reader, head, body } => {
                    if let Some(conn) = self.conn_of(reader) {
                        conn.out.push(head, body);
                    }
                }
                // Each connection is moved in each turn.
                Work::Ring { .. } => {}
                // A peer has what it was sent.
                Work::Probe { reader } => self.exchange.on_probed(reader, 0, now),
                Work::Abort { reader } => {
                    if let Some(&id) = self.of_reader.get(&reader) {
                        self.end(id);
                    }
                }
                Work::Load(load) => more |= self.go_on(load, now),
                Work::Ahead(warming) => self.open(None, Goal::Warm(warming)),
            }
        }
        more
    }

    fn submit(&mut self, id: u64, kind: Kind, op: Op) {
        let at = KINDS.iter().position(|&known| known == kind).expect("all are listed");
        self.ring.submit(&mut self.pool, Token(id << KIND_BITS | at as u64), op);
    }

    fn on_completion(&mut self, done: Completion, now: Nanos) {
        let (id, at) = (done.token.0 >> KIND_BITS, done.token.0 & ((1 << KIND_BITS) - 1));
        match KINDS[at as usize] {
            Kind::Send => self.on_sent(id, done.result, now),
            Kind::Receive => self.on_received(id, done.result),
            Kind::Shutdown => self.conns.get_mut(&id).expect("it is open").shut = true,
            Kind::Close => {
                let conn = self.conns.remove(&id).expect("it was open");
                self.pool.release(conn.slot);
            }
            Kind::Open => self.on_open(id, done, now),
            Kind::Read => self.on_read(id, done.result, now),
            Kind::CloseFile => {
                let loading = self.loads.remove(&id).expect("it was open");
                self.pool.release(loading.slot);
            }
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// Connections.
impl Forwarder {
    fn conn_of(&mut self, reader: ReaderId) -> Option<&mut Conn> {
        self.conns.get_mut(self.of_reader.get(&reader)?)
    }

    fn connect(&mut self, arrival: Arrival) {
        let Arrival { socket, reader, answer } = arrival;
        let Socket::Ring(socket) = socket else { unreachable!("accepted by a ring") };
        let id = self.number();
        let slot = self.pool.take(Purpose::Receive, PAGE).expect("readers are few");
        self.of_reader.extend(reader.map(|reader| (reader, id)));
        let conn = Conn {
            reader,
            socket,
            out: Outflow::new(answer),
            inflow: Inflow::default(),
            slot,
            sending: false,
            receiving: false,
            ending: false,
            shut: false,
            closing: false,
        };
        self.conns.insert(id, conn);
    }

    fn end(&mut self, id: u64) {
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| !conn.ending) else { return };
        conn.ending = true;
        conn.out = Outflow::new(Vec::new());
        let (reader, socket) = (conn.reader, conn.socket);
        if let Some(reader) = reader {
            self.of_reader.remove(&reader);
            self.exchange.on_closed(reader);
        }
        self.submit(id, Kind::Shutdown, Op::Shutdown { socket });
    }

    /// Submits what each connection is ready for.
    fn move_connections(&mut self) {
        for id in self.conns.keys().copied().collect::<Vec<_>>() {
            let conn = self.conns.get_mut(&id).expect("listed above");
            let (socket, slot) = (conn.socket, conn.slot);
            if conn.ending {
                if conn.shut && !conn.sending && !conn.receiving && !conn.closing {
                    conn.closing = true;
                    self.submit(id, Kind::Close, Op::Close { handle: socket });
                }
                continue;
            }
            let listens = conn.reader.is_none_or(|reader| self.exchange.listens(reader));
            let receive = listens && !std::mem::replace(&mut conn.receiving, true);
            let len = conn.inflow.space().len().min(PAGE) as u32;
            let mut prefix = Vec::new();
            if conn.sending {
                let copies = |reader| self.exchange.on_blocked(reader);
                if !conn.out.is_blocked() && conn.reader.is_none_or(copies) {
                    conn.out.on_blocked();
                }
            } else {
                let next = conn.out.next_bytes();
                prefix.extend_from_slice(&next[..next.len().min(SOCKET_BYTES_MAX)]);
                conn.sending = !prefix.is_empty();
            }
            let refused = conn.reader.is_none() && !conn.sending;
            if receive {
                let run = Run { slot, at: 0, len };
                self.submit(id, Kind::Receive, Op::Receive { socket, run });
            }
            if !prefix.is_empty() {
                let (runs, zero_copy) = (Vec::new(), false);
                self.submit(id, Kind::Send, Op::Send { socket, prefix, runs, zero_copy });
            }
            if refused {
                self.end(id);
            }
        }
    }

    fn on_sent(&mut self, id: u64, result: Result<u32, Errno>, now: Nanos) {
        let conn = self.conns.get_mut(&id).expect("an operation keeps it");
        conn.sending = false;
        match result {
            _ if conn.ending => {}
            Ok(len) if len > 0 => {
                let (bytes, frames) = conn.out.on_written(len as usize);
                if let Some(reader) = conn.reader {
                    self.exchange.on_sent(reader, bytes, frames, now);
                }
            }
            Err(errno) if errno.is_transient() => {}
            _ => self.end(id),
        }
    }

    fn on_received(&mut self, id: u64, result: Result<u32, Errno>) {
        let conn = self.conns.get_mut(&id).expect("an operation keeps it");
        conn.receiving = false;
        match result {
            _ if conn.ending => {}
            Ok(len) if len > 0 => {
                let len = len as usize;
                conn.inflow.space()[..len].copy_from_slice(&self.pool.bytes(conn.slot)[..len]);
                let (reader, exchange) = (conn.reader, &mut self.exchange);
                let read = conn.inflow.on_read(len, |said| {
                    if let Some(reader) = reader {
                        exchange.on_said(reader, said);
                    }
                });
                if read.is_err() {
                    self.end(id);
                }
            }
            Err(errno) if errno.is_transient() => {}
            _ => self.end(id),
        }
    }
}

/// Segments.
impl Forwarder {
    /// Moves a read on. Returns whether the readers have news at once.
    fn go_on(&mut self, mut load: Load<Segment>, now: Nanos) -> bool {
        let goal = match self.exchange.load(&mut load, now) {
            Need::Map(path) => Goal::Map(path),
            Need::Warm(warming) => Goal::Warm(warming),
            Need::Nothing => return true,
        };
        self.open(Some(load), goal);
        false
    }

    fn open(&mut self, load: Option<Load<Segment>>, goal: Goal) {
        let path = match &goal {
            Goal::Map(path) => path.clone(),
            Goal::Warm(warming) => warming.mapped.map.path.clone(),
        };
        let id = self.number();
        let slot = self.pool.take(Purpose::Read, PAGE).expect("one read per cursor");
        self.loads.insert(id, Loading { load, goal, handle: None, slot });
        self.submit(id, Kind::Open, Op::Open { path: path.to_path_buf(), how: OpenHow::Read });
    }

    fn on_open(&mut self, id: u64, done: Completion, now: Nanos) {
        let loading = self.loads.get_mut(&id).expect("an operation keeps it");
        let (Ok(_), Payload::Handle(handle)) = (done.result, done.payload) else {
            let loading = self.loads.remove(&id).expect("it was just there");
            self.pool.release(loading.slot);
            if let Goal::Warm(warming) = &loading.goal {
                self.exchange.on_warmed(warming, false);
            }
            return self.fail(loading.load);
        };
        loading.handle = Some(handle);
        match &loading.goal {
            Goal::Map(path) => {
                let path = path.clone();
                let mut load = loading.load.take().expect("a map is for somebody");
                match self.universe.read(self.host, &path).filter(|bytes| !bytes.is_empty()) {
                    Some(bytes) => {
                        self.exchange.on_mapped(&mut load, Segment { path, bytes }, now);
                        self.go_on(load, now);
                    }
                    None => self.fail(Some(load)),
                }
                self.submit(id, Kind::CloseFile, Op::Close { handle });
            }
            Goal::Warm(..) => self.read(id),
        }
    }

    /// A page stands for the range: it takes its time, and fails where the disk fails.
    fn read(&mut self, id: u64) {
        let loading = &self.loads[&id];
        let Goal::Warm(warming) = &loading.goal else { return };
        let (offset, handle) = (warming.range.start as u64, loading.handle.expect("it is open"));
        let run = Run { slot: loading.slot, at: 0, len: PAGE as u32 };
        self.submit(id, Kind::Read, Op::Read { handle, offset, run });
    }

    fn on_read(&mut self, id: u64, result: Result<u32, Errno>, now: Nanos) {
        if result.is_err_and(Errno::is_transient) {
            return self.read(id);
        }
        let loading = self.loads.get_mut(&id).expect("an operation keeps it");
        let (load, handle) = (loading.load.take(), loading.handle.expect("it is open"));
        if let Goal::Warm(warming) = &loading.goal {
            self.exchange.on_warmed(warming, result.is_ok());
        }
        match (result, load) {
            (_, None) => {}
            (Ok(_), Some(load)) => {
                self.go_on(load, now);
            }
            (Err(_), load) => self.fail(load),
        }
        self.submit(id, Kind::CloseFile, Op::Close { handle });
    }

    fn fail(&mut self, load: Option<Load<Segment>>) {
        if let Some(load) = load {
            self.exchange.on_load_failed(&load);
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        // A side that is dropped closes the sockets in it, as files of this process.
        let mut arrivals = Vec::new();
        while self.exchange.take_events(self.universe.now(), &mut arrivals) {}
    }
}
