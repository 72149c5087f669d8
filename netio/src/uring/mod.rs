//! The production ring: one io_uring of one shard.
//!
//! Made and used on one thread (`SINGLE_ISSUER`, `DEFER_TASKRUN`): the kernel finishes operations
//! only inside [`enter`](Ring::enter), so nothing runs behind the shard's back. What the kernel
//! points at lives in a slab until the *last* completion of its operation.

mod calls;
mod chain;
mod doorbell;
mod files;
mod fill;
mod flight;
mod helper;
mod registered;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

pub use calls::{adopt_tcp, release_tcp, unacknowledged_bytes};
use io_uring::types::CancelBuilder;
use io_uring::{IoUring, cqueue, opcode, squeue, types};

use crate::barrier::SyncPath;
use crate::limits::{DRAIN_NS_MAX, REGISTER_FILES_MAX, USER_TIMEOUT_MS};
use crate::link::splitmix;
use crate::op::{Completion, Errno, Handle, Op, Payload, Token};
use crate::pool::{Memory, Pool};
use crate::probe::{self, ProbeError};
use crate::ring::{Nanos, Ring, Wait, Wake};
use chain::{Ended, SYNC_HALF};
use doorbell::Bell;
use files::Files;
use flight::{Kind, Slab};
use helper::Helper;
use registered::Share;

const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 8;
const ENTER_REGISTERED_RING: u32 = 16;
const ENTER_NO_IOWAIT: u32 = 128;
/// `IORING_NOTIF_USAGE_ZC_COPIED`.
const NOTIF_COPIED: u32 = 1 << 31;

const DOORBELL: u64 = u64::MAX;
const NOBODY: u64 = u64::MAX - 1;
/// Completion entries for each submission entry; the kernel keeps more when they run out.
const COMPLETIONS_PER_ENTRY: u32 = 4;
const DRAIN_STEP_NS: u64 = 20_000_000;

/// How a ring is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UringConfig {
    /// Operations handed over with one call; more take several. 2 to 32768.
    pub entries: u32,
    /// Bytes of the pool to register with the kernel at most.
    pub register_bytes_max: usize,
    /// Files to register with the kernel at most.
    pub register_files_max: usize,
    /// How a write with a barrier is made durable, and where a sync of data runs.
    pub sync_path: SyncPath,
    /// Time that sent bytes may stay unacknowledged before the kernel ends a connection
    /// (`TCP_USER_TIMEOUT`), in milliseconds; after as long without a byte it asks whether the peer
    /// is there.
    pub user_timeout_ms: u32,
}

impl Default for UringConfig {
    /// 256 entries, and as many registered bytes as do no harm to other processes of this user:
    /// 64 MiB when locked memory is not limited, else what is left of 1 MiB that all rings of the
    /// process share.
    fn default() -> UringConfig {
        UringConfig {
            entries: 256,
            register_bytes_max: registered::register_bytes_default(),
            register_files_max: REGISTER_FILES_MAX,
            sync_path: SyncPath::Dsync,
            user_timeout_ms: USER_TIMEOUT_MS,
        }
    }
}

impl UringConfig {
    /// For each of `rings` rings of one process: what they share is divided.
    pub fn shared_by(rings: usize) -> UringConfig {
        let register_bytes_max = registered::register_bytes_of(rings);
        UringConfig { register_bytes_max, ..UringConfig::default() }
    }
}

/// A [`Ring`] of the kernel. Files and sockets belong to who got their handle: the ring closes
/// only what nobody was told of. Dropping it cancels what is in flight and waits for its end.
pub struct Uring {
    ring: IoUring,
    /// Number of the ring's descriptor with this thread, if it is registered.
    index: Option<i32>,
    no_iowait: bool,
    slab: Slab,
    tokens: HashMap<Token, u64, BuildHasherDefault<TokenHasher>>,
    /// Completions of operations that were done at once.
    ready: VecDeque<Completion>,
    /// Reused by every reaping.
    cqes: Vec<cqueue::Entry>,
    unsubmitted: u32,
    /// Entries handed to the kernel so far.
    handed: u64,
    /// Chains that were not handed over: the place of the second half among all entries, and the
    /// number of the operation.
    chains: VecDeque<(u64, u64)>,
    config: UringConfig,
    helper: Option<Helper>,
    registered: u16,
    files: Files,
    /// What is registered of the process's part of locked memory.
    _share: Share,
    bell: Arc<Bell>,
    /// Written by the doorbell's read, which may end after the ring: never freed. Shared and
    /// atomic, so that no move of the ring claims the bytes for itself.
    bell_count: &'static AtomicU64,
    bell_rang: bool,
    draining: bool,
    random: u64,
    memory: Arc<Memory>,
}

impl Uring {
    /// Makes a ring for this thread, whose slots come from `pool`.
    ///
    /// # Errors
    /// What the kernel lacks or forbids.
    pub fn new(config: UringConfig, pool: &Pool) -> Result<Uring, ProbeError> {
        let facts = probe::probe()?;
        let entries = config.entries.clamp(2, 32 << 10);
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize((entries * COMPLETIONS_PER_ENTRY).next_power_of_two())
            .build(entries)
            .map_err(ProbeError::from_setup)?;
        let memory = pool.memory().clone();
        let mut share = registered::share(config.register_bytes_max.min(memory.len()));
        let (registered, _) = registered::arena(&ring, &memory, share.bytes());
        share.keep(usize::from(registered) * crate::pool::REGISTERED_STEP);
        let files = Files::new(&ring, facts.version, config.register_files_max);
        let bell = Bell::new().map_err(ProbeError::from_setup)?;
        let helped = config.sync_path == SyncPath::WriteThenSync;
        let helper = helped.then(|| Helper::new(bell.clone())).transpose();
        let mut uring = Uring {
            index: registered::ring_fd(ring.as_raw_fd()),
            ring,
            no_iowait: facts.no_iowait,
            slab: Slab::new(entries as usize),
            files,
            tokens: HashMap::default(),
            ready: VecDeque::new(),
            cqes: Vec::new(),
            unsubmitted: 0,
            handed: 0,
            chains: VecDeque::new(),
            config,
            helper: helper.map_err(ProbeError::from_setup)?,
            registered,
            _share: share,
            bell,
            bell_count: Box::leak(Box::new(AtomicU64::new(0))),
            bell_rang: false,
            draining: false,
            random: RandomState::new().build_hasher().finish(),
            memory,
        };
        uring.arm_bell();
        Ok(uring)
    }

    /// Bytes of the pool that are registered with the kernel; operations beyond them cost more.
    pub fn registered_bytes(&self) -> usize {
        usize::from(self.registered) * crate::pool::REGISTERED_STEP
    }

    /// Files that are registered with the kernel; operations on others cost more.
    pub fn registered_files(&self) -> usize {
        self.files.held()
    }

    /// Ends the ring: cancels what is in flight, waits for its end, and gives its slots back to
    /// `pool`. Dropping does the same but leaves the slots pinned.
    pub fn close(mut self, pool: &mut Pool) {
        self.drain(Some(pool));
    }

    /// Operations done with a call; the others go through the ring.
    fn at_once(&mut self, op: &Op) -> Option<Result<Payload, Errno>> {
        let none = |()| Payload::None;
        Some(match op {
            Op::Facts { handle } => calls::facts(*handle).map(Payload::Facts),
            Op::Rename { from, to } => calls::rename(from, to).map(none),
            Op::Unlink { path } => calls::unlink(path).map(none),
            Op::MakeDir { path } => calls::make_dir(path).map(none),
            Op::List { path } => calls::list(path).map(Payload::Names),
            Op::Listen { addr } => {
                calls::listen(*addr).map(|(handle, addr)| Payload::Listening(handle, addr))
            }
            Op::Shutdown { socket } => calls::shutdown(*socket).map(none),
            _ => return None,
        })
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: everything that the entry points at is in the slab, in the table of files,
            // in this ring or in the pinned slots of the arena, and stays until the last
            // completion.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                self.unsubmitted += 1;
                return;
            }
            // Full: hand over what is there and go on.
            self.call(0, 0, None);
        }
    }

    /// Queues a write and the sync linked to it, so that they are handed over together.
    fn push_chain(&mut self, number: u64, write: squeue::Entry, sync: squeue::Entry) {
        let linked = squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS;
        let write = write.flags(linked).user_data(number);
        let halves = [write, sync.user_data(number | SYNC_HALF)];
        // SAFETY: as in `push`.
        while unsafe { self.ring.submission().push_multiple(&halves) }.is_err() {
            self.call(0, 0, None);
        }
        self.unsubmitted += 2;
        self.chains.push_back((self.handed + u64::from(self.unsubmitted) - 1, number));
    }

    /// The kernel took entries: a chain of which it took one half only is none.
    fn note_handed(&mut self, submitted: u32) {
        self.unsubmitted -= submitted;
        self.handed += u64::from(submitted);
        while let Some(&(second, number)) = self.chains.front().filter(|c| c.0 <= self.handed) {
            self.chains.pop_front();
            if let Some(flight) = self.slab.get(number).filter(|_| second == self.handed) {
                flight.chain.split();
            }
        }
    }

    fn arm_bell(&mut self) {
        let count = self.bell_count.as_ptr();
        let entry = opcode::Read::new(types::Fd(self.bell.raw()), count.cast(), 8);
        self.push(&entry.build().user_data(DOORBELL));
    }

    /// One `io_uring_enter`.
    fn call(&mut self, wait_for: u32, flags: u32, timeout: Option<&types::Timespec>) {
        let (fd, ring_flag) = match self.index {
            Some(index) => (index, ENTER_REGISTERED_RING),
            None => (self.ring.as_raw_fd(), 0),
        };
        let mut flags = flags | ring_flag;
        if self.no_iowait && wait_for > 0 {
            flags |= ENTER_NO_IOWAIT;
        }
        let mut arg = types::SubmitArgs::new();
        let (mut at, mut size) = (std::ptr::null(), 0);
        if let Some(timeout) = timeout {
            flags |= ENTER_EXT_ARG;
            arg = arg.timespec(timeout);
            (at, size) = (&raw const arg, size_of::<types::SubmitArgs<'_, '_>>());
        }
        // SAFETY: the ring is open and made on this thread; the argument outlives the call.
        let done = unsafe {
            libc::syscall(libc::SYS_io_uring_enter, fd, self.unsubmitted, wait_for, flags, at, size)
        };
        if let Ok(submitted) = u32::try_from(done) {
            self.note_handed(submitted);
            return;
        }
        let error = std::io::Error::last_os_error();
        match error.raw_os_error() {
            // Woken, timed out, or short of memory for now: the next turn goes on.
            Some(libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => {}
            _ => panic!("io_uring_enter on a ring of this thread: {error}"),
        }
    }

    /// Takes what is in the completion queue.
    fn reap(&mut self, mut pool: Option<&mut Pool>, done: &mut Vec<Completion>) {
        let mut cqes = std::mem::take(&mut self.cqes);
        cqes.extend(self.ring.completion());
        for cqe in cqes.drain(..) {
            match cqe.user_data() {
                DOORBELL => self.bell_rang = true,
                NOBODY => {}
                number if Files::owns(number) => self.files.changed(number, cqe.result()),
                _ => done.extend(self.finish(&mut pool, &cqe)),
            }
        }
        self.cqes = cqes;
        if self.bell_rang && !self.draining {
            self.bell_rang = false;
            self.arm_bell();
        }
    }

    fn finish(&mut self, pool: &mut Option<&mut Pool>, cqe: &cqueue::Entry) -> Option<Completion> {
        let number = cqe.user_data() & !SYNC_HALF;
        let flight = self.slab.get(number)?;
        let (token, kind) = (flight.token, flight.kind);
        let result = match kind {
            Kind::Chain => match flight.chain.end(cqe.user_data() & SYNC_HALF != 0, cqe.result()) {
                Ended::No => return None,
                Ended::With(result) => result,
                Ended::Lost => return Some(self.lose(number)),
            },
            Kind::Lost => return None,
            _ => cqe.result(),
        };
        let more = cqueue::more(cqe.flags());
        if !more {
            if let Some(pool) = pool {
                fill::unpin(flight, pool);
            }
            if let Some(place) = flight.place.take() {
                self.files.ended(place);
            }
            self.slab.free(number);
            self.tokens.remove(&token);
        }
        if cqueue::notif(cqe.flags()) {
            let copied = cqe.result() as u32 & NOTIF_COPIED != 0;
            let payload = Payload::None;
            return Some(Completion { token, result: Ok(0), more, payload, copied });
        }
        let result = match result {
            result @ 0.. => Ok(result as u32),
            error => Err(Errno(-error)),
        };
        let (result, payload) = read_result(kind, result, self.config.user_timeout_ms);
        if let (Kind::Open, Payload::Handle(file), false) = (kind, &payload, self.draining)
            && let Some(entry) = self.files.take(*file)
        {
            self.push(&entry);
        }
        Some(Completion { token, result, more, payload, copied: false })
    }

    /// Fails an operation whose runs stay pinned, since the kernel may use them still.
    fn lose(&mut self, number: u64) -> Completion {
        let flight = self.slab.get(number).expect("seen by the caller");
        flight.kind = Kind::Lost;
        let token = flight.token;
        self.tokens.remove(&token);
        let (result, payload) = (Err(Errno::IO), Payload::None);
        Completion { token, result, more: false, payload, copied: false }
    }

    /// Takes what the helper thread has synced.
    fn take_synced(&mut self, done: &mut Vec<Completion>) {
        while let Some((number, result)) = self.helper.as_mut().and_then(Helper::take) {
            let Some(flight) = self.slab.get(number) else { continue };
            let token = flight.token;
            self.slab.free(number);
            self.tokens.remove(&token);
            let payload = Payload::None;
            done.push(Completion { token, result, more: false, payload, copied: false });
        }
    }

    /// Whether the kernel has finished something that only a call makes visible.
    fn work_waits(&mut self) -> bool {
        let queue = self.ring.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    fn drain(&mut self, mut pool: Option<&mut Pool>) {
        self.draining = true;
        let mut undelivered: Vec<Completion> = self.ready.drain(..).collect();
        let deadline = self.now().after(DRAIN_NS_MAX);
        while self.slab.live() > 0 && self.now() < deadline {
            let entry = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
            self.push(&entry.user_data(NOBODY));
            let step = types::Timespec::new().nsec(DRAIN_STEP_NS as u32);
            self.call(1, ENTER_GETEVENTS, Some(&step));
            self.reap(pool.as_deref_mut(), &mut undelivered);
            self.take_synced(&mut undelivered);
        }
        self.files.clear(&self.ring);
        for completion in undelivered {
            if let Payload::Handle(handle)
            | Payload::Accepted(handle, _)
            | Payload::Listening(handle, _) = completion.payload
            {
                calls::close(handle);
            }
        }
    }
}

/// The file that an operation writes.
fn written_file(op: &Op) -> Option<Handle> {
    match op {
        Op::Write { handle, .. } => Some(*handle),
        _ => None,
    }
}

/// What a completion of this kind carries.
fn read_result(
    kind: Kind,
    result: Result<u32, Errno>,
    user_timeout_ms: u32,
) -> (Result<u32, Errno>, Payload) {
    match (kind, result) {
        (Kind::Open | Kind::OpenDirectory, Ok(fd)) => {
            (Ok(0), Payload::Handle(Handle::from_raw(fd as i32)))
        }
        (Kind::Accept, Ok(fd)) => {
            let socket = Handle::from_raw(fd as i32);
            // A peer that is gone already shows with the first receive.
            let _ = calls::tune(socket, user_timeout_ms);
            (Ok(0), Payload::Accepted(socket, calls::peer(socket)))
        }
        (Kind::Connect(socket), Ok(_)) => (Ok(0), Payload::Handle(socket)),
        (Kind::Connect(socket), Err(errno)) => {
            calls::close(socket);
            (Err(errno), Payload::None)
        }
        (_, result) => (result, Payload::None),
    }
}

impl Ring for Uring {
    fn submit(&mut self, pool: &mut Pool, token: Token, op: Op) {
        assert!(Arc::ptr_eq(pool.memory(), &self.memory), "a ring works on its own pool");
        let done = |result: Result<Payload, Errno>| {
            let (result, payload) = match result {
                Ok(payload) => (Ok(0), payload),
                Err(errno) => (Err(errno), Payload::None),
            };
            Completion { token, result, more: false, payload, copied: false }
        };
        if let Some(result) = self.at_once(&op) {
            self.ready.push_back(done(result));
            return;
        }
        if let Op::Cancel { target } = op {
            let Some(&target) = self.tokens.get(&target) else {
                self.ready.push_back(done(Err(Errno::NOENT)));
                return;
            };
            let (number, _) = self.slab.take(token);
            assert!(self.tokens.insert(token, number).is_none(), "{token:?} is in flight");
            self.push(&opcode::AsyncCancel::new(target).build().user_data(number));
            return;
        }
        if let Op::Close { handle } = op
            && let Some(entry) = self.files.give_back(handle)
        {
            self.push(&entry);
        }
        let (number, flight) = self.slab.take(token);
        if let (Some(helper), Op::Sync { handle, metadata: false }) = (&mut self.helper, &op)
            && helper.ask(number, *handle)
        {
            assert!(self.tokens.insert(token, number).is_none(), "{token:?} is in flight");
            return;
        }
        let file = written_file(&op);
        match fill::entry(flight, pool, self.registered, &mut self.files, &self.config, op) {
            Ok(entry) => {
                let chained = file.filter(|_| flight.kind == Kind::Chain);
                assert!(self.tokens.insert(token, number).is_none(), "{token:?} is in flight");
                match chained {
                    Some(file) => self.push_chain(number, entry, fill::data_sync(file)),
                    None => self.push(&entry.user_data(number)),
                }
            }
            Err(errno) => {
                self.slab.free(number);
                self.ready.push_back(done(Err(errno)));
            }
        }
    }

    fn enter(&mut self, pool: &mut Pool, wait: Wait, done: &mut Vec<Completion>) {
        let before = done.len();
        if wait != Wait::No && self.helper.as_ref().is_some_and(Helper::is_asked) {
            // Before the look at its answers: then none comes unheard.
            self.bell.arm();
        }
        done.extend(self.ready.drain(..));
        self.take_synced(done);
        self.reap(Some(pool), done);
        let have = done.len() > before;
        match wait {
            Wait::Until(until) if !have => {
                let left = until.map(|until| until.since(self.now()));
                let time = left.map(|ns| {
                    types::Timespec::new().sec(ns / 1_000_000_000).nsec((ns % 1_000_000_000) as u32)
                });
                // Changes of the table end at once, and are not what is waited for.
                let wait_for = u32::from(left != Some(0)) * (1 + self.files.changing());
                self.call(wait_for, ENTER_GETEVENTS, time.as_ref());
            }
            _ if self.unsubmitted > 0 || (!have && self.work_waits()) => {
                self.call(0, ENTER_GETEVENTS, None);
            }
            _ => {
                self.bell.disarm();
                return;
            }
        }
        self.bell.disarm();
        self.reap(Some(pool), done);
        self.take_synced(done);
    }

    fn arm(&mut self) {
        self.bell.arm();
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.bell.clone()
    }

    fn now(&self) -> Nanos {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }

    fn wall_ns(&self) -> u64 {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        time.tv_sec.max(0) as u64 * 1_000_000_000 + time.tv_nsec as u64
    }

    fn random(&mut self) -> u64 {
        splitmix(&mut self.random)
    }

    fn in_flight(&self) -> usize {
        self.slab.live() + self.ready.len()
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.drain(None);
        if let Some(index) = self.index {
            registered::forget_ring_fd(self.ring.as_raw_fd(), index);
        }
        if self.slab.live() > 0 {
            // The kernel may still use this memory: better lost than written by it.
            std::mem::forget(std::mem::replace(&mut self.slab, Slab::new(0)));
            std::mem::forget(self.memory.clone());
        }
    }
}

/// Tokens are numbers that their owners spread; one multiplication suffices.
#[derive(Default)]
struct TokenHasher(u64);

impl Hasher for TokenHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 32);
    }
}
