//! A ring with a pool and somebody who waits for it.

use std::net::SocketAddr;
use std::path::Path;

use palisade_netio::{
    Completion, Errno, Handle, Nanos, Op, OpenHow, Payload, Pool, Purpose, Quotas, Ring, Run,
    SlotId, Token, Wait,
};
use palisade_tests::sim::{HostId, ProcessId, Universe, VirtualRing};

pub const PAGE: usize = 4096;
const STEPS_MAX: usize = 1_000_000;

pub struct Rig {
    pub universe: Universe,
    pub host: HostId,
    pub process: ProcessId,
    pub ring: VirtualRing,
    pub pool: Pool,
    pub done: Vec<Completion>,
    tokens: u64,
}

impl Rig {
    /// A host of a new universe with a process that has one ring; `/data` is there.
    pub fn new(seed: u64) -> Rig {
        let universe = Universe::new(seed);
        let host = universe.add_host();
        universe.make_dir(host, "/data");
        Rig::on(&universe, host)
    }

    /// A new process on `host`.
    pub fn on(universe: &Universe, host: HostId) -> Rig {
        let process = universe.spawn(host);
        let ring = VirtualRing::new(universe, process);
        let each = 4 << 20;
        let quotas = Quotas { write: each, receive: each, tail: each, read: each };
        let pool = VirtualRing::pool(quotas);
        let universe = universe.clone();
        Rig { universe, host, process, ring, pool, done: Vec::new(), tokens: 0 }
    }

    /// The same host after its power was cut and came back.
    pub fn power_cycle(self) -> Rig {
        self.universe.power_cut(self.host);
        Rig::on(&self.universe, self.host)
    }

    /// The same host after the process was killed and started again.
    pub fn restart(self) -> Rig {
        self.universe.kill(self.process);
        Rig::on(&self.universe, self.host)
    }

    pub fn slot(&mut self, byte: u8, len: usize) -> SlotId {
        let slot = self.pool.take(Purpose::Write, len).expect("a slot");
        self.pool.bytes_mut(slot)[..len].fill(byte);
        slot
    }

    pub fn submit(&mut self, op: Op) -> Token {
        self.tokens += 1;
        let token = Token(self.tokens);
        self.ring.submit(&mut self.pool, token, op);
        token
    }

    /// Hands over what was submitted and takes what is due.
    pub fn poll(&mut self) {
        self.ring.enter(&mut self.pool, Wait::Until(None), &mut self.done);
    }

    pub fn take(&mut self, token: Token) -> Option<Completion> {
        let at = self.done.iter().position(|end| end.token == token)?;
        Some(self.done.remove(at))
    }

    pub fn wait(&mut self, token: Token) -> Completion {
        for _ in 0..STEPS_MAX {
            self.poll();
            if let Some(end) = self.take(token) {
                return end;
            }
            move_on(&self.universe, Nanos(u64::MAX));
        }
        panic!("{token:?} does not complete");
    }

    pub fn run(&mut self, op: Op) -> Completion {
        let token = self.submit(op);
        self.wait(token)
    }

    pub fn open(&mut self, path: &str, how: OpenHow) -> Handle {
        let end = self.run(Op::Open { path: path.into(), how });
        let Payload::Handle(handle) = end.payload else { panic!("open {path}: {end:?}") };
        handle
    }

    /// A new file whose name and size are durable, full of zeroes.
    pub fn file(&mut self, path: &str, pages: usize) -> Handle {
        let handle = self.open(path, OpenHow::CreateNew);
        self.write(handle, 0, 0, pages * PAGE, false).unwrap();
        self.sync(handle).unwrap();
        self.sync_parent(path);
        handle
    }

    pub fn sync_parent(&mut self, path: &str) {
        let parent = Path::new(path).parent().unwrap().to_str().unwrap();
        let directory = self.open(parent, OpenHow::Directory);
        self.run(Op::Sync { handle: directory, metadata: true }).result.unwrap();
        self.run(Op::Close { handle: directory }).result.unwrap();
    }

    pub fn start_write(
        &mut self,
        handle: Handle,
        offset: u64,
        byte: u8,
        len: usize,
        barrier: bool,
    ) -> Token {
        let slot = self.slot(byte, len);
        let runs = vec![Run { slot, at: 0, len: len as u32 }];
        let token = self.submit(Op::Write { handle, offset, runs, barrier });
        self.pool.release(slot);
        token
    }

    pub fn write(
        &mut self,
        handle: Handle,
        offset: u64,
        byte: u8,
        len: usize,
        barrier: bool,
    ) -> Result<u32, Errno> {
        let token = self.start_write(handle, offset, byte, len, barrier);
        self.wait(token).result
    }

    pub fn sync(&mut self, handle: Handle) -> Result<u32, Errno> {
        self.run(Op::Sync { handle, metadata: false }).result
    }

    pub fn read(&mut self, handle: Handle, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let slot = self.pool.take(Purpose::Read, len).expect("a slot");
        let end = self.run(Op::Read { handle, offset, run: Run { slot, at: 0, len: len as u32 } });
        let bytes = end.result.map(|n| self.pool.bytes(slot)[..n as usize].to_vec());
        self.pool.release(slot);
        bytes
    }

    /// What a wrong count of a slot's users leads to: one byte changes under an operation.
    pub fn corrupt_in_flight(&mut self, run: Run) {
        self.pool.unpin_read(run);
        self.pool.bytes_mut(run.slot)[run.at as usize] ^= 1;
        self.pool.pin_read(run);
    }

    pub fn listen(&mut self, port: u16) -> (Handle, SocketAddr) {
        let addr = SocketAddr::new(self.universe.address(self.host), port);
        let end = self.run(Op::Listen { addr });
        let Payload::Listening(handle, addr) = end.payload else { panic!("listen: {end:?}") };
        (handle, addr)
    }

    pub fn start_send(&mut self, socket: Handle, bytes: &[u8], zero_copy: bool) -> (Token, SlotId) {
        let slot = self.pool.take(Purpose::Write, bytes.len()).expect("a slot");
        self.pool.bytes_mut(slot)[..bytes.len()].copy_from_slice(bytes);
        let runs = vec![Run { slot, at: 0, len: bytes.len() as u32 }];
        (self.submit(Op::Send { socket, prefix: Vec::new(), runs, zero_copy }), slot)
    }

    pub fn start_receive(&mut self, socket: Handle, len: usize) -> (Token, SlotId) {
        let slot = self.pool.take(Purpose::Receive, len).expect("a slot");
        let run = Run { slot, at: 0, len: len as u32 };
        (self.submit(Op::Receive { socket, run }), slot)
    }

    /// The bytes of a receive that completed.
    pub fn received(&mut self, end: &Completion, slot: SlotId) -> Vec<u8> {
        let bytes = self.pool.bytes(slot)[..end.result.unwrap() as usize].to_vec();
        self.pool.release(slot);
        bytes
    }
}

/// Moves the world on until `found` finds something, or not until `limit`.
pub fn until<T>(
    universe: &Universe,
    limit: Nanos,
    rigs: &mut [&mut Rig],
    mut found: impl FnMut(&mut [&mut Rig]) -> Option<T>,
) -> Option<T> {
    loop {
        rigs.iter_mut().for_each(|rig| rig.poll());
        if let Some(found) = found(rigs) {
            return Some(found);
        }
        if !move_on(universe, limit) {
            return None;
        }
    }
}

/// Moves the clock on, also past a ring that wants a turn and gets none. False when nothing
/// happens until `limit`.
fn move_on(universe: &Universe, limit: Nanos) -> bool {
    match universe.next_event() {
        Some(next) if next <= limit => {
            universe.advance_to(next.max(universe.now().after(100)));
            true
        }
        _ => false,
    }
}

/// Two hosts with a process each, and a connection: the universe, the end that connected and the
/// end that accepted.
pub fn pair(seed: u64) -> (Universe, Rig, Handle, Rig, Handle) {
    let universe = Universe::new(seed);
    let (a, b) = (universe.add_host(), universe.add_host());
    let (mut client, mut server) = (Rig::on(&universe, a), Rig::on(&universe, b));
    let (listener, addr) = server.listen(7000);
    let accept = server.submit(Op::Accept { listener });
    server.poll();
    let connected = client.run(Op::Connect { addr });
    let Payload::Handle(near) = connected.payload else { panic!("connect: {connected:?}") };
    let accepted = server.wait(accept);
    let Payload::Accepted(far, _) = accepted.payload else { panic!("accept: {accepted:?}") };
    (universe, client, near, server, far)
}
