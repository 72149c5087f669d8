//! A turn after turn driver of one ring with its links and listener.

use std::net::SocketAddr;

use palisade_netio::{
    Class, Completion, DownReason, Expect, FrameHead, Greeted, Hello, Identity, Link, LinkEvent,
    ListenEvent, ListenLimits, Listener, Nanos, Op, Pool, Quotas, Ring, SlotId, Target, Token,
    TokenBase, Uring, UringConfig, Wait, Welcome,
};

const TURN_NS: u64 = 20_000_000;
const PATIENCE_NS: u64 = 20_000_000_000;
const LISTENER: TokenBase = TokenBase::new(1 << 40);

/// What a link said, with the bytes copied.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    Up(Identity),
    Down(DownReason),
    Frame { head: FrameHead, at: u32, prefix: Vec<u8>, body: Vec<u8> },
}

/// One shard's loop, for tests.
pub struct Pump {
    pub ring: Uring,
    pub pool: Pool,
    pub links: Vec<Link>,
    pub seen: Vec<Vec<Seen>>,
    /// Slots of received frames that were kept.
    pub kept: Vec<SlotId>,
    pub keep: bool,
    pub listener: Option<Listener>,
    pub greeted: Vec<Greeted>,
    /// Completions of nobody here.
    pub others: Vec<Completion>,
}

pub fn quotas() -> Quotas {
    Quotas { write: 16 << 20, receive: 16 << 20, tail: 4 << 20, read: 4 << 20 }
}

impl Pump {
    pub fn new() -> Pump {
        Pump::with(quotas())
    }

    pub fn with(quotas: Quotas) -> Pump {
        let mut pool = Pool::new(quotas).unwrap();
        pool.poison_freed();
        let ring = Uring::new(UringConfig::default(), &pool).unwrap();
        Pump {
            ring,
            pool,
            links: Vec::new(),
            seen: Vec::new(),
            kept: Vec::new(),
            keep: false,
            listener: None,
            greeted: Vec::new(),
            others: Vec::new(),
        }
    }

    /// Listens on a free port.
    pub fn listen(&mut self, addr: &str, limits: ListenLimits) -> SocketAddr {
        let mut listener = Listener::new(LISTENER, addr.parse().unwrap(), limits);
        listener.start(&mut self.ring, &mut self.pool, Nanos(0));
        self.listener = Some(listener);
        self.until(|pump| pump.listener.as_ref().unwrap().addr().port() != 0);
        self.listener.as_ref().unwrap().addr()
    }

    pub fn add(&mut self, make: impl FnOnce(TokenBase) -> Link) -> usize {
        let base = TokenBase::new((self.links.len() as u64 + 1) << 16);
        let mut link = make(base);
        let now = self.ring.now();
        link.start(&mut self.ring, &mut self.pool, now);
        self.links.push(link);
        self.seen.push(Vec::new());
        self.links.len() - 1
    }

    pub fn dial(&mut self, addr: SocketAddr, hello: Hello) -> usize {
        self.add(|base| Link::dial(base, addr, hello, hello.class, 1))
    }

    /// A listener and two ends of one connection: the dialler first.
    pub fn pair(&mut self, class: Class) -> (usize, usize) {
        let addr = self.listen("127.0.0.1:0", ListenLimits::default());
        let dialled = self.dial(addr, hello(class));
        (dialled, self.accept())
    }

    /// Waits for a greeting, finds it good and welcomes it.
    pub fn accept(&mut self) -> usize {
        self.until(|pump| !pump.greeted.is_empty());
        let Greeted { socket, hello, .. } = self.greeted.remove(0);
        assert_eq!(hello.check(&EXPECT), Ok(()));
        let welcome = Welcome::new(SERVER);
        let at = self.add(|base| Link::accepted(base, socket, hello, hello.class, welcome));
        self.until(|pump| pump.links[at].is_up());
        at
    }

    pub fn until(&mut self, mut reached: impl FnMut(&mut Pump) -> bool) {
        let deadline = self.ring.now().after(PATIENCE_NS);
        while !reached(self) {
            assert!(self.ring.now() < deadline, "waited in vain; seen {:?}", self.summary());
            self.turn();
        }
    }

    pub fn run(&mut self, op: Op) -> Completion {
        self.ring.submit(&mut self.pool, Token(1), op);
        self.until(|pump| !pump.others.is_empty());
        self.others.remove(0)
    }

    pub fn turn(&mut self) {
        let mut done = Vec::new();
        let wait = Wait::Until(Some(self.ring.now().after(TURN_NS)));
        self.ring.enter(&mut self.pool, wait, &mut done);
        let now = self.ring.now();
        for completion in done {
            self.dispatch(completion, now);
        }
        self.pool.collect();
        if let Some(listener) = &mut self.listener {
            listener.on_time(&mut self.ring, &mut self.pool, now);
            while let Some(event) = listener.poll_event(&mut self.ring, &mut self.pool) {
                match event {
                    ListenEvent::Greeted(greeted) => self.greeted.push(greeted),
                    ListenEvent::Listening { .. } => {}
                    ListenEvent::Failed { errno } => panic!("cannot listen: {errno}"),
                }
            }
        }
        for at in 0..self.links.len() {
            self.serve(at, now);
        }
    }

    pub fn frames(&self, at: usize) -> usize {
        self.seen[at].iter().filter(|seen| matches!(seen, Seen::Frame { .. })).count()
    }

    pub fn downs(&self, at: usize) -> Vec<&DownReason> {
        let down = |seen: &'_ _| matches!(seen, &&Seen::Down(_));
        self.seen[at]
            .iter()
            .filter(down)
            .map(|seen| match seen {
                Seen::Down(reason) => reason,
                _ => unreachable!("filtered"),
            })
            .collect()
    }

    fn dispatch(&mut self, completion: Completion, now: Nanos) {
        let (ring, pool) = (&mut self.ring, &mut self.pool);
        if let Some(link) = self.links.iter_mut().find(|link| link.owns(completion.token)) {
            return link.on_completion(ring, pool, completion, now);
        }
        match &mut self.listener {
            Some(listener) if listener.owns(completion.token) => {
                listener.on_completion(ring, pool, completion, now);
            }
            _ => self.others.push(completion),
        }
    }

    fn serve(&mut self, at: usize, now: Nanos) {
        let (ring, pool, link) = (&mut self.ring, &mut self.pool, &mut self.links[at]);
        link.on_time(ring, pool, now);
        while let Some(event) = link.poll_event(ring, pool) {
            self.seen[at].push(match event {
                LinkEvent::Up { peer } => Seen::Up(peer),
                LinkEvent::Down { reason } => Seen::Down(reason),
                LinkEvent::Frame(frame) => {
                    if self.keep {
                        pool.retain(frame.slot);
                        self.kept.push(frame.slot);
                    }
                    let bytes = pool.bytes(frame.slot);
                    let copy = |at: u32, len: u32| bytes[at as usize..][..len as usize].to_vec();
                    Seen::Frame {
                        head: frame.head,
                        at: frame.body.at,
                        prefix: copy(frame.prefix.at, frame.prefix.len),
                        body: copy(frame.body.at, frame.body.len),
                    }
                }
            });
        }
        link.flush(ring, pool);
    }

    fn summary(&self) -> Vec<String> {
        let short = |seen: &Vec<Seen>| {
            let last = seen.iter().rev().find(|seen| !matches!(seen, Seen::Frame { .. }));
            format!("{} events, last {last:?}", seen.len())
        };
        self.seen.iter().map(short).collect()
    }
}

pub const CLIENT: Identity = Identity {
    cluster: 7,
    node: 1,
    incarnation: 11,
    boot: 21,
    shard: 0,
    shards: 2,
    fingerprint: 31,
};
pub const SERVER: Identity = Identity {
    cluster: 7,
    node: 2,
    incarnation: 12,
    boot: 22,
    shard: 1,
    shards: 2,
    fingerprint: 32,
};
pub const EXPECT: Expect = Expect { cluster: 7, node: 2, shard: 1, shards: 2 };

pub fn hello(class: Class) -> Hello {
    Hello::new(class, CLIENT, Target { cluster: 7, node: 2, shard: 1 })
}

/// Bytes that differ from place to place.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut bytes = vec![0; len];
    for chunk in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
    bytes
}
