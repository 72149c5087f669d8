//! Everything there is, and how it moves on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use palisade_netio::{Errno, Handle, Nanos, Op, Payload, Token};

use super::clock::{START, WallClock};
use super::disk::Disk;
use super::event::{Event, Step};
use super::fault::{FaultKind, Faults};
use super::latency::{Latencies, Latency};
use super::network::Network;
use super::operation::{Operation, handle_in};
use super::random::Random;
use super::ring::Bell;
use super::trace::Trace;
use super::tree::Inode;

/// `TCP_USER_TIMEOUT` of every socket, at first.
const USER_TIMEOUT_NS: u64 = 5_000_000_000;
/// How long an operation of a disk may still take when calm comes.
const HURRY_NS: u64 = 100_000_000;
/// How often a zero-copy send looks whether a partition still holds its bytes.
const HELD_NS: u64 = 50_000_000;

/// Names a host: a machine with one directory tree and one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub u32);

/// Names one incarnation of a process. Never used again after the process is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u32);

/// Names a ring, that is, a shard of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RingId(pub u32);

pub(crate) struct Host {
    pub(crate) disk: Disk,
    pub(crate) clock: WallClock,
    pub(crate) up: bool,
}

pub(crate) struct Process {
    pub(crate) host: HostId,
    pub(crate) alive: bool,
    pub(crate) paused_until: Nanos,
    pub(crate) handles: BTreeMap<i32, u64>,
}

pub(crate) struct RingState {
    pub(crate) process: ProcessId,
    pub(crate) alive: bool,
    /// Submitted and not yet handed over by `enter`.
    pub(crate) queued: Vec<u64>,
    pub(crate) ready: Vec<(u64, Step)>,
    pub(crate) tokens: BTreeMap<Token, u64>,
    pub(crate) bell: Arc<Bell>,
    /// The last `enter` was allowed to wait and found nothing.
    pub(crate) asleep: bool,
    /// Asleep: when to wake. Else: when the present turn is over.
    pub(crate) wake: Option<Nanos>,
}

/// What an open handle leads to. Lives while a handle or an operation uses it.
pub(crate) struct Object {
    pub(crate) kind: ObjectKind,
    pub(crate) references: u32,
}

#[derive(Clone, Debug)]
pub(crate) enum ObjectKind {
    File { host: HostId, inode: Inode, writable: bool },
    Directory { path: PathBuf },
    Listener { listener: u64 },
    Socket { connection: u64, end: usize },
}

/// How the last user of an object went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Departure {
    Close,
    Kill,
    PowerCut,
}

pub(crate) struct State {
    pub(crate) now: Nanos,
    pub(crate) random: Random,
    pub(crate) trace: Trace,
    pub(crate) faults: Faults,
    pub(crate) latencies: Latencies,
    pub(crate) alignment: u32,
    /// How long sent bytes may stay unacknowledged before their connection breaks.
    pub(crate) user_timeout: u64,
    pub(crate) hosts: Vec<Host>,
    pub(crate) processes: Vec<Process>,
    pub(crate) rings: Vec<RingState>,
    /// Rings of shards that run, in the order in which they came.
    pub(crate) live: Vec<RingId>,
    pub(crate) operations: BTreeMap<u64, Operation>,
    pub(crate) objects: BTreeMap<u64, Object>,
    pub(crate) network: Network,
    events: BTreeMap<(Nanos, u64), Event>,
    /// Numbers given to events, operations, objects, connections and listeners.
    numbers: u64,
}

impl State {
    pub(crate) fn new(seed: u64) -> State {
        State {
            now: START,
            random: Random::new(seed),
            trace: Trace::new(seed),
            faults: Faults::new(),
            latencies: Latencies::default(),
            alignment: 4096,
            user_timeout: USER_TIMEOUT_NS,
            hosts: Vec::new(),
            processes: Vec::new(),
            rings: Vec::new(),
            live: Vec::new(),
            operations: BTreeMap::new(),
            objects: BTreeMap::new(),
            network: Network::default(),
            events: BTreeMap::new(),
            numbers: 0,
        }
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(crate) fn host(&self, host: HostId) -> &Host {
        &self.hosts[host.0 as usize]
    }

    pub(crate) fn host_mut(&mut self, host: HostId) -> &mut Host {
        &mut self.hosts[host.0 as usize]
    }

    pub(crate) fn process(&self, process: ProcessId) -> &Process {
        &self.processes[process.0 as usize]
    }

    pub(crate) fn process_mut(&mut self, process: ProcessId) -> &mut Process {
        &mut self.processes[process.0 as usize]
    }

    pub(crate) fn ring(&self, ring: RingId) -> &RingState {
        &self.rings[ring.0 as usize]
    }

    pub(crate) fn ring_mut(&mut self, ring: RingId) -> &mut RingState {
        &mut self.rings[ring.0 as usize]
    }

    /// The host on which an operation was submitted.
    pub(crate) fn host_of(&self, operation: u64) -> HostId {
        let process = self.ring(self.operations[&operation].ring).process;
        self.process(process).host
    }

    pub(crate) fn process_of(&self, operation: u64) -> ProcessId {
        self.ring(self.operations[&operation].ring).process
    }

    pub(crate) fn note(&mut self, what: &'static str, numbers: [u64; 3]) {
        self.trace.note(self.now, what, numbers);
    }

    pub(crate) fn draw(&mut self, latency: Latency) -> u64 {
        latency.draw(&mut self.random)
    }

    pub(crate) fn strikes(&mut self, kind: FaultKind) -> bool {
        let strikes = self.faults.strikes(&mut self.random, kind);
        if strikes {
            self.note("fault", [kind as u64, 0, 0]);
        }
        strikes
    }

    /// Whether a fault of the disk strikes: by chance, or because it was armed.
    pub(crate) fn disk_strikes(&mut self, host: HostId, kind: FaultKind) -> bool {
        if self.host_mut(host).disk.take_armed(kind) {
            self.faults.count(kind);
            self.note("armed fault", [kind as u64, u64::from(host.0), 0]);
            return true;
        }
        self.strikes(kind)
    }

    pub(crate) fn schedule(&mut self, at: Nanos, event: Event) {
        let number = self.number();
        self.events.insert((at.max(self.now), number), event);
    }

    /// Lets operations that a slow disk would end much later end soon.
    pub(crate) fn hurry_disks(&mut self) {
        let soon = self.now.after(HURRY_NS);
        let late = self.events.split_off(&(soon, 0));
        for ((at, number), event) in late {
            let on_disk = matches!(event, Event::Post { step: Step::Work, .. });
            self.events.insert((if on_disk { soon } else { at }, number), event);
        }
    }

    pub(crate) fn after(&mut self, ns: u64, event: Event) {
        self.schedule(self.now.after(ns), event);
    }

    /// Sends a completion on its way, behind earlier ones of the same operation.
    pub(crate) fn post_after(&mut self, ns: u64, id: u64, step: Step) {
        let Some(operation) = self.operations.get_mut(&id) else { return };
        let at = self.now.after(ns).max(operation.last_post);
        operation.last_post = at;
        operation.ended |= !matches!(step, Step::Done { more: true, .. });
        if let Step::Done { payload, .. } = &step {
            operation.untold.extend(handle_in(payload));
        }
        self.schedule(at, Event::Post { operation: id, step });
    }

    pub(crate) fn finish_soon(&mut self, id: u64, result: Result<u32, Errno>) {
        let delay = self.draw(self.latencies.call);
        self.post_after(delay, id, Step::last(result));
    }

    pub(crate) fn finish_with(&mut self, ns: u64, id: u64, payload: Payload) {
        let step = Step::Done { result: Ok(0), more: false, payload, copied: false, fill: None };
        self.post_after(ns, id, step);
    }

    /// When something next happens, be it only that a ring wants to wake.
    pub(crate) fn next_event(&self) -> Option<Nanos> {
        let rings = self.live.iter().filter_map(|&ring| self.due_at(ring));
        let event = self.events.keys().next().map(|&(at, _)| at);
        rings.chain(event).min().map(|at| at.max(self.now))
    }

    /// When the shard of `ring` wants its next turn.
    pub(crate) fn due_at(&self, ring: RingId) -> Option<Nanos> {
        let ring = self.ring(ring);
        if !ring.alive {
            return None;
        }
        let at = if ring.asleep && (!ring.ready.is_empty() || ring.bell.is_rung()) {
            Some(self.now)
        } else {
            ring.wake
        };
        at.map(|at| at.max(self.process(ring.process).paused_until))
    }

    /// Moves the clock to `to` and carries out what happens until then.
    pub(crate) fn advance_to(&mut self, to: Nanos) {
        assert!(to >= self.now, "time goes forward");
        while let Some(next) = self.events.first_entry() {
            let &(at, number) = next.key();
            if at > to {
                break;
            }
            let event = next.remove();
            self.now = self.now.max(at);
            self.note("event", [number, 0, 0]);
            self.happen(event);
        }
        self.now = to;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Post { operation, step } => self.post(operation, step),
            Event::Connect { operation } => self.connect_arrives(operation),
            Event::Send { operation } => self.try_send(operation),
            Event::Receive { operation } => self.receive_arrives(operation),
            Event::EndAccept { operation } => self.end_accept(operation),
            Event::Arrive { connection, end } => self.pump(connection, end),
            Event::Reset { connection, end } => self.reset_arrives(connection, end),
            Event::TimeOut { connection, end, surely } => self.time_out(connection, end, surely),
            Event::Break { connection, end } => {
                self.fail_end(connection, end, Errno::CONNRESET);
            }
        }
    }

    fn post(&mut self, id: u64, step: Step) {
        let Some(operation) = self.operations.get(&id) else { return };
        let ring = operation.ring;
        if matches!(step, Step::Work) {
            let until = self.host(self.host_of(id)).disk.stalled_until;
            if until > self.now {
                return self.schedule(until, Event::Post { operation: id, step });
            }
        }
        if let Step::Done { more: false, .. } = step
            && self.holds_slots(id)
        {
            return self.after(HELD_NS, Event::Post { operation: id, step });
        }
        self.ring_mut(ring).ready.push((id, step));
    }

    /// Whether the kernel may have to send the slots of a zero-copy send once more.
    fn holds_slots(&self, id: u64) -> bool {
        let operation = &self.operations[&id];
        if !matches!(*operation.op, Op::Send { zero_copy: true, .. }) {
            return false;
        }
        let socket = self.socket_of(operation);
        socket.is_some_and(|(connection, end)| !self.is_acknowledged(connection, end))
    }

    /// Closes a handle; false when it is none.
    pub(crate) fn close_handle(
        &mut self,
        process: ProcessId,
        handle: Handle,
        departure: Departure,
    ) -> bool {
        let object = self.process_mut(process).handles.remove(&handle.raw());
        if let Some(object) = object {
            self.release_object(object, departure);
        }
        object.is_some()
    }

    /// Opens a handle of `process` to a new object.
    pub(crate) fn open_handle(&mut self, process: ProcessId, kind: ObjectKind) -> Handle {
        let object = self.number();
        self.objects.insert(object, Object { kind, references: 1 });
        // The lowest free number, as in a kernel: a handle kept too long leads elsewhere.
        let handles = &mut self.process_mut(process).handles;
        let raw = (3..).find(|raw| !handles.contains_key(raw)).expect("handles are few");
        handles.insert(raw, object);
        Handle::from_raw(raw)
    }

    pub(crate) fn resolve(&self, process: ProcessId, handle: Handle) -> Option<u64> {
        self.process(process).handles.get(&handle.raw()).copied()
    }

    pub(crate) fn retain_object(&mut self, object: u64) {
        self.objects.get_mut(&object).expect("the object is open").references += 1;
    }

    pub(crate) fn release_object(&mut self, object: u64, departure: Departure) {
        let open = self.objects.get_mut(&object).expect("the object is open");
        open.references -= 1;
        if open.references > 0 {
            return;
        }
        let kind = self.objects.remove(&object).expect("the object is open").kind;
        match kind {
            ObjectKind::File { host, inode, .. } => self.forget_file(host, inode),
            ObjectKind::Directory { .. } => {}
            ObjectKind::Listener { listener } => self.close_listener(listener, departure),
            ObjectKind::Socket { connection, end } => self.close_end(connection, end, departure),
        }
    }

    /// Frees files that no name and no handle leads to.
    pub(crate) fn forget_files(&mut self, host: HostId) {
        let open: BTreeSet<Inode> = self.open_files(host);
        self.host_mut(host).disk.forget_unnamed(|inode| open.contains(&inode));
    }

    fn forget_file(&mut self, host: HostId, inode: Inode) {
        let disk = &self.host(host).disk;
        if !disk.tree.is_named(inode) && !self.open_files(host).contains(&inode) {
            self.host_mut(host).disk.files.remove(&inode);
        }
    }

    fn open_files(&self, on: HostId) -> BTreeSet<Inode> {
        let inode = |object: &Object| match object.kind {
            ObjectKind::File { host, inode, .. } if host == on => Some(inode),
            _ => None,
        };
        self.objects.values().filter_map(inode).collect()
    }
}

/// Address of a host.
pub(crate) fn address_of(host: HostId) -> IpAddr {
    let [_, _, high, low] = (host.0 + 1).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, 0, high, low))
}
