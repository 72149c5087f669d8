//! Who is alive: heartbeats per pair of shards, for all their streams together.

use std::collections::VecDeque;

use palisade_netio::Nanos;
use zerocopy::little_endian::U64;

use super::codec::{DecodeError, exact, fixed, put};
use super::event::PeerState;
use super::member::MEMBERS_MAX;
use super::tuning::Tuning;

/// Most peers of one shard.
pub const PEERS_MAX: usize = 64;
/// Bytes of a heartbeat.
pub const HEARTBEAT_BYTES: usize = size_of::<RawHeartbeat>();

/// Heartbeats whose echo may still come.
const SENT_MAX: usize = 32;

fixed! {
    RawHeartbeat: 48 {
        boot: U64, counter: U64, echo_boot: U64, echo_counter: U64, progress: U64, waiting_us: U64,
    }
}

const _: () = assert!(PEERS_MAX >= MEMBERS_MAX - 1, "every other member is a peer");

/// One heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// How often the sender was started.
    pub boot: u64,
    /// Grows by one with each heartbeat to this receiver.
    pub counter: u64,
    /// `boot` of the last heartbeat heard from the receiver.
    pub echo_boot: u64,
    /// `counter` of it.
    pub echo_counter: u64,
    /// The sender's newest block that is durable with all before it: grows with each write.
    pub progress: u64,
    /// Age of the sender's oldest write in flight in microseconds; 0 without one.
    pub waiting_us: u64,
}

impl Heartbeat {
    /// Appends the encoding.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        assert!(self.counter > 0, "counters begin at one");
        let heartbeat = RawHeartbeat {
            boot: self.boot.into(),
            counter: self.counter.into(),
            echo_boot: self.echo_boot.into(),
            echo_counter: self.echo_counter.into(),
            progress: self.progress.into(),
            waiting_us: self.waiting_us.into(),
        };
        put(out, &heartbeat);
    }

    /// Reads exactly one encoding.
    ///
    /// # Errors
    /// Bytes that are none.
    pub fn decode(bytes: &[u8]) -> Result<Heartbeat, DecodeError> {
        let head: &RawHeartbeat = exact(bytes)?;
        let heartbeat = Heartbeat {
            boot: head.boot.get(),
            counter: head.counter.get(),
            echo_boot: head.echo_boot.get(),
            echo_counter: head.echo_counter.get(),
            progress: head.progress.get(),
            waiting_us: head.waiting_us.get(),
        };
        if heartbeat.counter == 0 {
            return Err(DecodeError::Inconsistent);
        }
        assert!(bytes.len() == HEARTBEAT_BYTES, "a heartbeat of another length");
        Ok(heartbeat)
    }
}

/// An output of [`Liveness`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LivenessEffect {
    /// Send this to the same shard of that node.
    Send {
        /// The node.
        to: u32,
        /// The heartbeat.
        heartbeat: Heartbeat,
    },
    /// Give this to `on_peer` of every replica that has the node as a member.
    Peer {
        /// The node.
        node: u32,
        /// Its new state.
        state: PeerState,
    },
}

/// The liveness of the peers of one shard.
///
/// A peer is up while heartbeats come from it *and* those of this node come back to it as echoes
/// within the election timeout: one that hears nothing cannot follow, and one that is not heard
/// cannot vote. So losing a majority of peers is what check-quorum asks for.
///
/// Heartbeats are made by the loop that writes, so that one that stands still is not heard. One
/// that goes round while its disk does not says so: its heartbeats name the same progress and a
/// write in flight. It should have fallen silent by itself; after twice the time in which it
/// should, its heartbeats count for nothing until its log moves again.
#[derive(Debug)]
pub struct Liveness {
    boot: u64,
    heartbeat_ns: u64,
    election_ns: u64,
    disk_stalled: bool,
    /// After this long without progress, with a write in flight, a peer is not heard.
    stands_ns: u64,
    /// Own newest durable block, and since when the oldest write is in flight.
    writes: (u64, Option<Nanos>),
    next_send: Nanos,
    peers: Vec<Peer>,
}

#[derive(Debug)]
struct Peer {
    node: u32,
    linked: bool,
    up: bool,
    heard: Option<Heard>,
    /// Counter of the last heartbeat sent.
    counter: u64,
    /// What it says of its writes, and since when of this same progress.
    stands: Option<Stands>,
    /// Send time of the newest heartbeat that came back.
    echoed: Option<Nanos>,
    /// Counters and send times whose echo may still come.
    sent: VecDeque<(u64, Nanos)>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    boot: u64,
    counter: u64,
    at: Nanos,
}

/// A write in flight beyond the progress of a peer.
#[derive(Clone, Copy, Debug)]
struct Stands {
    progress: u64,
    waiting_us: u64,
    since: Nanos,
    /// When it said so last.
    last: Nanos,
}

impl Liveness {
    /// Nobody was heard yet. `boot` is how often this node was started.
    ///
    /// # Panics
    /// With more than [`PEERS_MAX`] peers.
    pub fn new(boot: u64, peers: &[u32], tuning: &Tuning) -> Liveness {
        assert!(peers.len() <= PEERS_MAX, "{} peers", peers.len());
        assert!(tuning.check().is_ok(), "a timer out of its bounds");
        let twice = |(at, node): (usize, &u32)| peers[..at].contains(node);
        assert!(!peers.iter().enumerate().any(twice), "a peer twice");
        Liveness {
            boot,
            heartbeat_ns: tuning.heartbeat_ns,
            election_ns: tuning.election_ns,
            disk_stalled: false,
            stands_ns: u64::MAX,
            writes: (0, None),
            next_send: Nanos(0),
            peers: peers.iter().map(|&node| Peer::new(node)).collect(),
        }
    }

    /// Peers fall silent by themselves when a write is older than `stall_ns`; one that does not is
    /// not heard after twice as long.
    #[must_use]
    pub fn with_stall(mut self, stall_ns: u64) -> Liveness {
        assert!(stall_ns > 0, "every write would be too old");
        self.stands_ns = stall_ns.saturating_mul(2);
        assert!(self.stands_ns > stall_ns, "not heard before it should fall silent");
        self
    }

    /// The newest block that is durable here, and since when the oldest write is in flight: the
    /// next heartbeats say so.
    pub fn on_writes(&mut self, progress: u64, oldest: Option<Nanos>) {
        assert!(progress >= self.writes.0, "what is durable stays so");
        self.writes = (progress, oldest);
    }

    /// Age in microseconds of the oldest write in flight at a peer that is up, as it said last.
    pub fn waiting_us(&self, node: u32) -> Option<u64> {
        let peer = self.peers.iter().find(|peer| peer.node == node && peer.up)?;
        assert!(peer.linked && peer.heard.is_some(), "up in one way");
        Some(peer.stands.map_or(0, |stands| stands.waiting_us))
    }

    /// One more peer; what is known of the others stays.
    ///
    /// # Panics
    /// When it is known, or one too many.
    pub fn add(&mut self, node: u32) {
        assert!(self.peers.len() < PEERS_MAX, "more peers than {PEERS_MAX}");
        assert!(self.peer(node).is_none(), "a peer twice");
        self.peers.push(Peer::new(node));
        assert!(!self.is_up(node), "up before it is linked");
    }

    /// `node` came back on another disk, which counts its boots anew. It is linked after this.
    pub fn on_replaced(&mut self, node: u32, fx: &mut Vec<LivenessEffect>) {
        self.on_link_down(node, fx);
        if let Some(peer) = self.peer(node) {
            assert!(!peer.up && !peer.linked, "the links to its other disk are gone");
            assert!(peer.sent.is_empty(), "waits for an echo of its other disk");
            peer.heard = None;
        }
    }

    /// A link to `node` works: a heartbeat goes at once.
    pub fn on_link_up(&mut self, node: u32, now: Nanos, fx: &mut Vec<LivenessEffect>) {
        let (boot, stalled, writes) = (self.boot, self.disk_stalled, self.writes);
        let Some(peer) = self.peer(node) else { return };
        peer.linked = true;
        if !stalled {
            peer.beat(boot, writes, now, fx);
        }
        assert!(stalled || peer.counter > 0, "a link begins with a heartbeat");
        peer.assert_sound(now);
    }

    /// The last link to `node` closed: it is down at once, its lease runs on.
    pub fn on_link_down(&mut self, node: u32, fx: &mut Vec<LivenessEffect>) {
        let election_ns = self.election_ns;
        let Some(peer) = self.peer(node) else { return };
        peer.linked = false;
        peer.sent.clear();
        peer.down(election_ns, fx);
        peer.echoed = None;
        assert!(!peer.up && peer.stale_at(election_ns).is_none(), "up without a link");
    }

    /// A heartbeat came. Old and doubled ones change nothing.
    pub fn on_heartbeat(
        &mut self,
        from: u32,
        heartbeat: Heartbeat,
        now: Nanos,
        fx: &mut Vec<LivenessEffect>,
    ) {
        let (boot, election_ns, stalled) = (self.boot, self.election_ns, self.disk_stalled);
        let (stands_ns, writes) = (self.stands_ns, self.writes);
        let Some(peer) = self.peer(from) else { return };
        let first = peer.heard.is_none();
        if let Some(heard) = peer.heard {
            if (heartbeat.boot, heartbeat.counter) <= (heard.boot, heard.counter) {
                return;
            }
            if heartbeat.boot > heard.boot {
                peer.reboot(now, fx);
            }
        }
        let stands = peer.note_writes(&heartbeat, election_ns, now) > stands_ns;
        let at = peer.heard.filter(|_| stands).map_or(now, |heard| heard.at);
        peer.heard = Some(Heard { boot: heartbeat.boot, counter: heartbeat.counter, at });
        if heartbeat.echo_boot == boot {
            peer.echo(heartbeat.echo_counter);
        }
        // The first echoes need not wait for the next beat.
        if (first || !peer.up) && !stalled && peer.linked && peer.sent.len() < SENT_MAX / 2 {
            peer.beat(boot, writes, now, fx);
        }
        if peer.linked && !peer.up && peer.is_fresh(election_ns, now) {
            peer.up = true;
            fx.push(LivenessEffect::Peer { node: from, state: PeerState::Up });
        }
        assert!(stands || peer.heard.is_some_and(|h| h.at == now), "it was heard just now");
        peer.assert_sound(now);
    }

    /// The oldest write in flight is too old: this node falls silent until it is not.
    pub fn on_disk_stalled(&mut self, stalled: bool) {
        self.disk_stalled = stalled;
    }

    /// A deadline may have passed.
    pub fn on_time(&mut self, now: Nanos, fx: &mut Vec<LivenessEffect>) {
        let (boot, election_ns, writes) = (self.boot, self.election_ns, self.writes);
        let beats = now >= self.next_send;
        if beats {
            self.next_send = now.after(self.heartbeat_ns);
        }
        for peer in &mut self.peers {
            if beats && peer.linked && !self.disk_stalled {
                peer.beat(boot, writes, now, fx);
            }
            if peer.up && !peer.is_fresh(election_ns, now) {
                peer.down(election_ns, fx);
            }
            assert!(!peer.up || peer.is_fresh(election_ns, now), "up, and silent too long");
            peer.assert_sound(now);
        }
        assert!(self.next_send > now, "beats without a pause");
    }

    /// When [`on_time`](Liveness::on_time) wants to be called.
    pub fn next_deadline(&self) -> Nanos {
        let stale = self.peers.iter().filter(|p| p.up).filter_map(|p| p.stale_at(self.election_ns));
        let at = stale.chain([self.next_send]).min().unwrap_or(self.next_send);
        assert!(at <= self.next_send, "sleeps over a beat");
        at
    }

    /// Whether `node` is up.
    pub fn is_up(&self, node: u32) -> bool {
        self.peers.iter().any(|p| p.node == node && p.up)
    }

    fn peer(&mut self, node: u32) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|p| p.node == node)
    }
}

impl Peer {
    fn new(node: u32) -> Peer {
        Peer {
            node,
            linked: false,
            up: false,
            heard: None,
            counter: 0,
            stands: None,
            echoed: None,
            sent: VecDeque::new(),
        }
    }

    /// Holds after every input.
    fn assert_sound(&self, now: Nanos) {
        assert!(self.sent.len() <= SENT_MAX, "waits for more echoes than may come");
        if let Some((first, _)) = self.sent.front() {
            assert!(first + self.sent.len() as u64 == self.counter + 1, "a beat is missing");
        }
        assert!(self.linked || self.sent.is_empty(), "waits for an echo without a link");
        assert!(self.linked || self.echoed.is_none(), "an echo of a link that is gone");
        assert!(!self.up || self.linked, "up without a link");
        assert!(!self.up || (self.heard.is_some() && self.echoed.is_some()), "up in one way");
        assert!(self.heard.is_none_or(|heard| heard.at <= now), "heard in the future");
        assert!(self.echoed.is_none_or(|at| at <= now), "an echo of the future");
        let stood = |stands: Stands| stands.since <= stands.last && stands.last <= now;
        assert!(self.stands.is_none_or(stood), "stood still in the future");
    }

    /// Notes what a heartbeat says of the sender's writes: for how long it stands still.
    fn note_writes(&mut self, heartbeat: &Heartbeat, election_ns: u64, now: Nanos) -> u64 {
        let Heartbeat { progress, waiting_us, .. } = *heartbeat;
        if waiting_us == 0 {
            self.stands = None;
            return 0;
        }
        // Two that are heard with a silence between them say nothing of the time between.
        let same = |s: &Stands| s.progress == progress && now.since(s.last) <= election_ns;
        let since = self.stands.filter(same).map_or(now, |stands| stands.since);
        assert!(since <= now, "stands still from the future on");
        self.stands = Some(Stands { progress, waiting_us, since, last: now });
        now.since(since)
    }

    fn beat(
        &mut self,
        boot: u64,
        (progress, oldest): (u64, Option<Nanos>),
        now: Nanos,
        fx: &mut Vec<LivenessEffect>,
    ) {
        assert!(self.linked, "a heartbeat without a link");
        self.counter += 1;
        if self.sent.len() == SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((self.counter, now));
        let (echo_boot, echo_counter) = self.heard.map_or((0, 0), |h| (h.boot, h.counter));
        // One that has just begun is in flight too.
        let waiting_us = oldest.map_or(0, |since| (now.since(since) / 1000).max(1));
        let counter = self.counter;
        let heartbeat = Heartbeat { boot, counter, echo_boot, echo_counter, progress, waiting_us };
        assert!(self.sent.len() <= SENT_MAX, "waits for more echoes than may come");
        assert!((waiting_us == 0) == oldest.is_none(), "what is in flight is said");
        fx.push(LivenessEffect::Send { to: self.node, heartbeat });
    }

    fn echo(&mut self, counter: u64) {
        while self.sent.front().is_some_and(|(sent, _)| *sent <= counter) {
            let (sent, at) = self.sent.pop_front().expect("seen above");
            if sent == counter {
                self.echoed = self.echoed.max(Some(at));
            }
        }
        assert!(self.sent.front().is_none_or(|(sent, _)| *sent > counter), "came back already");
        assert!(self.echoed.is_none() || self.counter > 0, "an echo of nothing");
    }

    /// When the silence of either direction becomes too long.
    fn stale_at(&self, election_ns: u64) -> Option<Nanos> {
        assert!(self.linked || self.echoed.is_none(), "an echo of a link that is gone");
        let heard = self.heard?.at;
        Some(heard.min(self.echoed?).after(election_ns))
    }

    fn is_fresh(&self, election_ns: u64, now: Nanos) -> bool {
        self.stale_at(election_ns).is_some_and(|at| now < at)
    }

    fn down(&mut self, election_ns: u64, fx: &mut Vec<LivenessEffect>) {
        if !std::mem::replace(&mut self.up, false) {
            return;
        }
        assert!(self.heard.is_some() && self.echoed.is_some(), "was up in one way");
        let lease_until = self.heard.map_or(Nanos(0), |h| h.at.after(election_ns));
        assert!(lease_until >= Nanos(election_ns), "a lease that ended before it began");
        let state = PeerState::Down { lease_until };
        fx.push(LivenessEffect::Peer { node: self.node, state });
    }

    /// The node started again: what it led before is over, and so is its lease.
    fn reboot(&mut self, now: Nanos, fx: &mut Vec<LivenessEffect>) {
        assert!(self.heard.is_some(), "a first start is no restart");
        self.up = false;
        self.echoed = None;
        self.stands = None;
        self.sent.clear();
        assert!(self.heard.is_none_or(|heard| heard.at <= now), "heard in the future");
        assert!(!self.is_fresh(u64::MAX / 2, now), "up before it answers anew");
        let state = PeerState::Down { lease_until: now };
        fx.push(LivenessEffect::Peer { node: self.node, state });
    }
}
