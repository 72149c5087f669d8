//! Who is alive: heartbeats per pair of shards, for all their streams together.

use palisade_netio::Nanos;

use super::codec::{DecodeError, Reader, put_u64};
use super::event::PeerState;
use super::tuning::Tuning;

/// Most peers of one shard.
pub const PEERS_MAX: usize = 64;
/// Bytes of a heartbeat.
pub const HEARTBEAT_BYTES: usize = 32;

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
}

impl Heartbeat {
    /// Appends the encoding.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        for value in [self.boot, self.counter, self.echo_boot, self.echo_counter] {
            put_u64(out, value);
        }
    }

    /// Reads exactly one encoding.
    ///
    /// # Errors
    /// Bytes that are none.
    pub fn decode(bytes: &[u8]) -> Result<Heartbeat, DecodeError> {
        let mut reader = Reader::new(bytes);
        let heartbeat = Heartbeat {
            boot: reader.u64()?,
            counter: reader.u64()?,
            echo_boot: reader.u64()?,
            echo_counter: reader.u64()?,
        };
        reader.finish()?;
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
#[derive(Debug)]
pub struct Liveness {
    boot: u64,
    heartbeat_ns: u64,
    election_ns: u64,
    disk_stalled: bool,
    next_send: Nanos,
    peers: Vec<Peer>,
}

#[derive(Debug)]
struct Peer {
    node: u32,
    linked: bool,
    up: bool,
    /// Boot and counter heard last, and when.
    heard: Option<(u64, u64, Nanos)>,
    counter: u64,
    /// Send time of the last heartbeat that came back as an echo.
    echoed: Option<Nanos>,
    /// Counters and send times whose echo may still come.
    sent: std::collections::VecDeque<(u64, Nanos)>,
}

impl Liveness {
    /// Nobody was heard yet.
    ///
    /// # Panics
    /// With more than [`PEERS_MAX`] peers.
    pub fn new(boot: u64, peers: &[u32], tuning: &Tuning) -> Liveness {
        assert!(peers.len() <= PEERS_MAX);
        let peer = |&node| Peer {
            node,
            linked: false,
            up: false,
            heard: None,
            counter: 0,
            echoed: None,
            sent: std::collections::VecDeque::new(),
        };
        Liveness {
            boot,
            heartbeat_ns: tuning.heartbeat_ns,
            election_ns: tuning.election_ns,
            disk_stalled: false,
            next_send: Nanos(0),
            peers: peers.iter().map(peer).collect(),
        }
    }

    /// A link to `node` works: a heartbeat goes at once.
    pub fn on_link_up(&mut self, node: u32, now: Nanos, fx: &mut Vec<LivenessEffect>) {
        let _ = (node, now, fx, self.boot);
    }

    /// The last link to `node` closed.
    pub fn on_link_down(&mut self, node: u32, now: Nanos, fx: &mut Vec<LivenessEffect>) {
        let _ = (node, now, fx, self.heartbeat_ns);
    }

    /// A heartbeat came.
    pub fn on_heartbeat(
        &mut self,
        from: u32,
        heartbeat: Heartbeat,
        now: Nanos,
        fx: &mut Vec<LivenessEffect>,
    ) {
        let _ = (from, heartbeat, now, fx, self.election_ns);
    }

    /// The oldest write in flight is too old: this node falls silent until it is not.
    pub fn on_disk_stalled(&mut self, stalled: bool) {
        self.disk_stalled = stalled;
    }

    /// A deadline may have passed.
    pub fn on_time(&mut self, now: Nanos, fx: &mut Vec<LivenessEffect>) {
        let _ = (now, fx);
    }

    /// When [`on_time`](Liveness::on_time) wants to be called.
    pub fn next_deadline(&self) -> Nanos {
        self.next_send
    }

    /// Whether `node` is up.
    pub fn is_up(&self, node: u32) -> bool {
        self.peers.iter().any(|p| p.node == node && p.linked && p.up && p.heard.is_some())
    }
}
