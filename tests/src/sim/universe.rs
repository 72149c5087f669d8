//! The handle to the world: moves time, and makes, breaks and heals what is in it.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use palisade_netio::{Errno, Nanos};

use super::event::Event;
use super::fault::{FaultKind, FaultPlan};
use super::latency::{Latencies, Latency};
use super::state::{HostId, ProcessId, RingId, State, address_of};

/// Time, hosts, disks, network and chance. Clones are the same universe.
///
/// Hosts start up, with an empty root directory; processes, files and connections come about by
/// the operations of rings. All calls here are the world's: they happen at once, at the present
/// virtual time.
#[derive(Clone)]
pub struct Universe {
    state: Rc<RefCell<State>>,
    seed: u64,
}

/// Time.
impl Universe {
    /// An empty universe, whose whole course follows from `seed` and the calls.
    pub fn new(seed: u64) -> Universe {
        Universe { state: Rc::new(RefCell::new(State::new(seed))), seed }
    }

    /// What it was made from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Virtual time.
    pub fn now(&self) -> Nanos {
        self.state().now
    }

    /// When something next happens: an event, or a ring that wants to wake. None when everything
    /// waits for something from outside.
    pub fn next_event(&self) -> Option<Nanos> {
        self.state().next_event()
    }

    /// Moves the clock on and lets happen what happens until then.
    ///
    /// # Panics
    /// When `to` is in the past.
    pub fn advance_to(&self, to: Nanos) {
        self.state().advance_to(to);
    }

    /// Rings whose shard wants a turn now, in random order. Never one of a dead process.
    pub fn due(&self) -> Vec<RingId> {
        let mut state = self.state();
        let now = state.now;
        let ids = state.live.iter().copied();
        let is_due = |&ring: &RingId| state.due_at(ring).is_some_and(|at| at <= now);
        let mut due: Vec<_> = ids.filter(is_due).collect();
        state.random.shuffle(&mut due);
        due
    }

    /// Moves the clock to the next event and gives the rings that are due then, possibly none.
    pub fn step(&self) -> Vec<RingId> {
        if let Some(next) = self.next_event() {
            self.advance_to(next);
        }
        self.due()
    }

    /// Whether the shard of `ring` wants a turn now.
    pub fn is_due(&self, ring: RingId) -> bool {
        let state = self.state();
        state.due_at(ring).is_some_and(|at| at <= state.now)
    }

    /// When the shard of `ring` wants its next turn, as far as is known now.
    pub fn wake_time(&self, ring: RingId) -> Option<Nanos> {
        self.state().due_at(ring)
    }

    /// Sets a host's wall clock to virtual time plus `offset_ns`.
    pub fn set_wall_offset(&self, host: HostId, offset_ns: i64) {
        let mut state = self.state();
        let now = state.now;
        state.host_mut(host).clock.set_offset(now, offset_ns);
    }

    /// Moves a host's wall clock by `by_ns`.
    pub fn jump_wall(&self, host: HostId, by_ns: i64) {
        let mut state = self.state();
        let now = state.now;
        state.faults.count(FaultKind::ClockJump);
        state.host_mut(host).clock.jump(now, by_ns);
    }

    /// Lets a host's wall clock run fast or, below 0, slow by `ppm` in a million.
    pub fn set_wall_drift(&self, host: HostId, ppm: i32) {
        let mut state = self.state();
        let now = state.now;
        state.host_mut(host).clock.set_rate(now, ppm);
    }
}

/// Chance and record.
impl Universe {
    /// 64 random bits of the one source.
    pub fn random(&self) -> u64 {
        self.state().random.bits()
    }

    /// A random number in `0..bound`; 0 when `bound` is 0.
    pub fn random_below(&self, bound: u64) -> u64 {
        self.state().random.below(bound)
    }

    /// Sets how likely faults are from now on.
    pub fn set_faults(&self, plan: FaultPlan) {
        self.state().faults.plan = plan;
    }

    /// Says, before any connection is made, that everything sent is frames: then whole ones can be
    /// lost, doubled or late.
    pub fn follow_frames(&self) {
        self.state().faults.follows_frames = true;
    }

    /// Ends every disturbance: no faults by chance, no partition, no stall, no slow disk (what it
    /// has in flight ends soon), no full one, no narrow or slow link. What is broken stays broken.
    /// For the end of a run, when everything must come good.
    pub fn calm(&self) {
        self.set_faults(FaultPlan::none());
        self.heal_all();
        let mut state = self.state();
        state.network.bandwidths.clear();
        state.network.links.clear();
        for host in &mut state.hosts {
            host.disk.stalled_until = Nanos(0);
            host.disk.slowness = 1;
            host.disk.full = false;
            host.disk.disarm();
        }
        for process in &mut state.processes {
            process.paused_until = Nanos(0);
        }
        state.hurry_disks();
    }

    /// How often each kind of fault has struck.
    pub fn fault_counts(&self) -> BTreeMap<FaultKind, u64> {
        self.state().faults.counts()
    }

    /// Sets how long things take from now on.
    pub fn set_latencies(&self, latencies: Latencies) {
        self.state().latencies = latencies;
    }

    /// Sets the direct-I/O alignment of memory, offsets and lengths (4096 at first).
    ///
    /// # Panics
    /// When it is no power of two or below a sector.
    pub fn set_alignment(&self, bytes: u32) {
        assert!(bytes.is_power_of_two() && bytes as usize >= super::SECTOR_BYTES);
        self.state().alignment = bytes;
    }

    /// A hash of everything that happened. Equal for equal seeds and calls.
    pub fn trace_hash(&self) -> u64 {
        self.state().trace.hash()
    }

    /// How many entries the hash is over.
    pub fn trace_len(&self) -> u64 {
        self.state().trace.events()
    }

    /// The last entries, oldest first, for a failure report.
    pub fn recent_trace(&self) -> Vec<String> {
        self.state().trace.recent()
    }

    /// Puts an entry of the world's own into the trace.
    pub fn note(&self, what: &'static str, numbers: [u64; 3]) {
        self.state().note(what, numbers);
    }
}

/// Hosts and processes.
impl Universe {
    /// Adds a host.
    pub fn add_host(&self) -> HostId {
        self.state().add_host()
    }

    /// A host's address.
    pub fn address(&self, host: HostId) -> IpAddr {
        address_of(host)
    }

    /// Starts a process, and the host if its power was cut.
    pub fn spawn(&self, host: HostId) -> ProcessId {
        self.state().spawn(host)
    }

    /// Kills a process at once. What it had completed on files stays; each operation in flight
    /// happens or does not. Its connections end or are reset. Its rings do nothing any more and
    /// can be dropped with their shards.
    pub fn kill(&self, process: ProcessId) {
        self.state().kill(process);
    }

    /// Cuts a host's power: its processes are gone, bytes and names that no barrier covered
    /// survive by chance, writes in flight in any subset of their sectors. Peers hear nothing
    /// for a while. [`spawn`](Universe::spawn) starts the host again.
    pub fn power_cut(&self, host: HostId) {
        self.state().power_cut(host);
    }

    /// Whether a process runs.
    pub fn is_alive(&self, process: ProcessId) -> bool {
        self.state().process(process).alive
    }

    /// The host of a process.
    pub fn host_of(&self, process: ProcessId) -> HostId {
        self.state().process(process).host
    }

    /// The process of a ring.
    pub fn process_of(&self, ring: RingId) -> ProcessId {
        self.state().ring(ring).process
    }

    /// Keeps the shards of a process from running until then (`SIGSTOP`); its operations go on.
    pub fn pause(&self, process: ProcessId, until: Nanos) {
        let mut state = self.state();
        state.faults.count(FaultKind::Pause);
        state.process_mut(process).paused_until = until;
    }

    /// Open handles of a process, for leak checks.
    pub fn open_handles(&self, process: ProcessId) -> usize {
        self.state().process(process).handles.len()
    }
}

/// Disks.
impl Universe {
    /// Makes a directory and its parents, durably.
    ///
    /// # Panics
    /// When a file is in the way.
    pub fn make_dir(&self, host: HostId, path: impl AsRef<Path>) {
        let mut state = self.state();
        let tree = &mut state.host_mut(host).disk.tree;
        let ancestors: Vec<_> = path.as_ref().ancestors().collect();
        for directory in ancestors.into_iter().rev() {
            if tree.find(directory).is_none() {
                tree.create(directory, true).expect("the parent is a directory");
            }
        }
        tree.sync_all();
    }

    /// Lets the disk stand still until then.
    pub fn stall(&self, host: HostId, until: Nanos) {
        let mut state = self.state();
        state.faults.count(FaultKind::DiskStall);
        state.host_mut(host).disk.stalled_until = until;
    }

    /// Multiplies the latency of a disk, from 1 (as usual) up.
    pub fn set_slowness(&self, host: HostId, factor: u64) {
        self.state().host_mut(host).disk.slowness = factor.max(1);
    }

    /// Sets the size of a disk in bytes.
    pub fn set_capacity(&self, host: HostId, bytes: u64) {
        self.state().host_mut(host).disk.capacity = bytes;
    }

    /// Takes all that is free on a disk, or gives it back.
    pub fn set_full(&self, host: HostId, full: bool) {
        let mut state = self.state();
        if full {
            state.faults.count(FaultKind::NoSpace);
        }
        state.note("full", [u64::from(host.0), u64::from(full), 0]);
        state.host_mut(host).disk.full = full;
    }

    /// Lets a fault of the disk strike at its next `times` occasions, whatever the plan. Kinds:
    /// those from [`FaultKind::ShortWrite`] to [`FaultKind::LyingBarrier`] that concern an
    /// operation on a file.
    pub fn arm(&self, host: HostId, kind: FaultKind, times: u32) {
        self.state().host_mut(host).disk.arm(kind, times);
    }

    /// Flips a random bit of one durable byte. False when there is no such file or no byte there.
    pub fn flip(&self, host: HostId, path: impl AsRef<Path>, offset: u64) -> bool {
        let mut state = self.state();
        let bit = state.random.below(8) as u32;
        let disk = &mut state.host_mut(host).disk;
        let Some(inode) = disk.tree.find(path.as_ref()) else { return false };
        let flipped = disk.files.get_mut(&inode).is_some_and(|file| file.flip(offset, bit));
        if flipped {
            state.faults.count(FaultKind::BitFlip);
            state.note("bit flip", [u64::from(host.0), offset, u64::from(bit)]);
        }
        flipped
    }

    /// All files of a host with their sizes, sorted.
    pub fn files(&self, host: HostId) -> Vec<(PathBuf, u64)> {
        let state = self.state();
        let disk = &state.host(host).disk;
        let sized = |(path, inode): (&PathBuf, _)| (path.clone(), disk.files[&inode].size());
        disk.tree.files().map(sized).collect()
    }

    /// What a reader of a file sees now.
    pub fn read(&self, host: HostId, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let state = self.state();
        let disk = &state.host(host).disk;
        let file = disk.files.get(&disk.tree.find(path.as_ref())?)?;
        Some(file.read(0, file.size()))
    }

    /// The bytes of a file that certainly survive a power cut, up to its durable size.
    pub fn read_durable(&self, host: HostId, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let state = self.state();
        let disk = &state.host(host).disk;
        let file = disk.files.get(&disk.tree.find(path.as_ref())?)?;
        Some(file.read_medium(0, file.durable_size()))
    }

    /// Puts a file in place, durably, in the name of an operator or of an older run. Its
    /// directory must exist.
    ///
    /// # Errors
    /// As creating the file would.
    pub fn write_file(
        &self,
        host: HostId,
        path: impl AsRef<Path>,
        bytes: Vec<u8>,
    ) -> Result<(), Errno> {
        let mut state = self.state();
        let disk = &mut state.host_mut(host).disk;
        let inode = match disk.tree.find(path.as_ref()) {
            Some(inode) => inode,
            None => disk.tree.create(path.as_ref(), false)?,
        };
        disk.tree.sync_all();
        let file = disk.files.entry(inode).or_default();
        file.write_durable(0, &super::file::Data::new(bytes));
        Ok(())
    }

    /// Empties the disk of a host, as if it was replaced.
    ///
    /// # Panics
    /// While a process runs there.
    pub fn wipe(&self, host: HostId) {
        let mut state = self.state();
        let in_use = state.processes.iter().any(|process| process.alive && process.host == host);
        assert!(!in_use, "the disk is in use");
        let capacity = state.host(host).disk.capacity;
        state.host_mut(host).disk = super::disk::Disk::new();
        state.host_mut(host).disk.capacity = capacity;
    }
}

/// The network.
impl Universe {
    /// Blocks what `from` sends to `to`, and the other way too unless `one_way`. Bytes wait and
    /// flow when the partition heals, unless the connection breaks
    /// ([`FaultKind::PartitionBreak`]).
    pub fn partition(&self, from: HostId, to: HostId, one_way: bool) {
        let mut state = self.state();
        state.faults.count(FaultKind::Partition);
        state.note("partition", [u64::from(from.0), u64::from(to.0), u64::from(one_way)]);
        state.block(from, to);
        if !one_way {
            state.block(to, from);
        }
    }

    /// Ends a partition between two hosts, both ways.
    pub fn heal(&self, a: HostId, b: HostId) {
        let mut state = self.state();
        state.note("heal", [u64::from(a.0), u64::from(b.0), 0]);
        state.unblock(a, b);
        state.unblock(b, a);
    }

    /// Ends all partitions.
    pub fn heal_all(&self) {
        let mut state = self.state();
        state.note("heal all", [0; 3]);
        while let Some(&(from, to)) = state.network.blocked.first() {
            state.unblock(from, to);
        }
    }

    /// Sets after how many nanoseconds behind a partition sent bytes break their connection
    /// (`TCP_USER_TIMEOUT`; 5 s at first).
    pub fn set_user_timeout(&self, ns: u64) {
        self.state().user_timeout = ns;
    }

    /// Whether bytes pass from `from` to `to`.
    pub fn passes(&self, from: HostId, to: HostId) -> bool {
        self.state().passes(from, to)
    }

    /// Resets every connection between two hosts, even where they cannot hear each other.
    pub fn break_connections(&self, a: HostId, b: HostId) {
        let mut state = self.state();
        for connection in state.connections_between(a, b) {
            state.faults.count(FaultKind::Reset);
            for end in 0..2 {
                let delay = state.draw(Latency::new(0, 1_000_000));
                state.after(delay, Event::Break { connection, end });
            }
        }
    }

    /// Sets the latency of one direction of a link.
    pub fn set_link(&self, from: HostId, to: HostId, latency: Latency) {
        self.state().network.links.insert((from, to), latency);
    }

    /// Limits one direction of a link to so many bytes per second; `None` ends the limit.
    pub fn set_bandwidth(&self, from: HostId, to: HostId, bytes_per_second: Option<u64>) {
        let mut state = self.state();
        match bytes_per_second {
            Some(rate) => state.network.bandwidths.insert((from, to), (rate, Nanos(0))),
            None => state.network.bandwidths.remove(&(from, to)),
        };
    }

    /// Connections that at least one side holds open, for leak checks.
    pub fn connections(&self) -> usize {
        self.state().network.connections.len()
    }
}

impl Universe {
    pub(crate) fn state(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }

    pub(crate) fn try_state(&self) -> Option<RefMut<'_, State>> {
        self.state.try_borrow_mut().ok()
    }
}
