//! Connections of a shard: peers, clients, and the upstream of a standby.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use palisade_netio::limits::ZERO_COPY_THRESHOLD_BYTES;
use palisade_netio::{
    Class, Completion, Expect, FrameHead, Greeted, Hello, Identity, Link, LinkEvent, LinkTiming,
    ListenEvent, Listener, Nanos, Outgoing, Pool, Purpose, Refusal, RefusalCode, Ring, Run, Target,
    Token, TokenBase, Welcome, ZeroCopy,
};

use crate::forward::wire::FEATURE_LZ4;
use crate::kinds::{KIND_HEARTBEAT, KIND_MESSAGES};
use crate::limits::{
    MESSAGES_BYTES_MAX, OUTBOX_BYTES_MAX, PEER_BACKLOG_BYTES, PEERS_WRITE_PART, READ_CHUNK_BYTES,
    SESSIONS_MAX,
};
use crate::paxos::{Body, Heartbeat, Message, NodeKey};
use crate::shard::session::Session;
use crate::shard::token::{OWNER_CONN, owner_base};
use crate::shard::{Io, ShardConfig};
use crate::transfer::limits::{SYNC_CLUSTERS_MAX, SYNC_LINKS_MAX};

/// What a connection is for.
pub(crate) enum Duty {
    /// Messages and heartbeats with the same shard of a node.
    Control(u32),
    /// Groups with the same shard of a node.
    Bulk(u32),
    /// A client.
    Client(Session),
    /// An upstream of this standby.
    Upstream,
    /// A node that this standby asks whether it may be one.
    Candidate(SocketAddr),
    /// A node of another cluster that is to hear who the primary is.
    Contact(SocketAddr),
    /// A shard of this SYNC standby, which is sent what is committed.
    Standby(u32),
    /// A shard of the primary that may lead streams which this SYNC standby takes.
    Leader,
}

/// One connection.
pub(crate) struct Conn {
    pub(crate) link: Link,
    pub(crate) duty: Duty,
    /// The node and disk at the other end of a link between peers, once it is up.
    pub(crate) peer: Option<NodeKey>,
    /// Counted by the listener of this shard.
    listened: bool,
}

/// The same shard of another node of the cluster.
#[derive(Debug)]
pub(crate) struct Peer {
    control: Option<u32>,
    bulk: Option<u32>,
    /// Whom the last control link was with.
    pub(crate) key: Option<NodeKey>,
    /// What it said there of its settings.
    pub(crate) fingerprint: Option<u64>,
    /// Its log has little space left, it says.
    pub(crate) short: bool,
    /// A part of its log is damaged or unknown, it says.
    pub(crate) impaired: bool,
    /// What it counts as a leader's pulse, as last heard.
    pub(crate) pulse: u64,
    /// That was another disk than before, since the peer was up last.
    replaced: bool,
    control_up: bool,
    bulk_up: bool,
    /// Messages of this turn.
    outbox: Outbox,
    /// Those that say how far the log goes: they stay behind the groups that are on their way, or
    /// the peer would fetch what is about to come.
    behind: Outbox,
}

/// Frames of messages; the last one is still open.
#[derive(Debug, Default)]
struct Outbox {
    frames: Vec<Vec<u8>>,
    bytes: usize,
}

impl Outbox {
    /// Queues a message; dropped when too many wait, as a network may.
    fn push(&mut self, message: &Message) {
        if self.bytes >= OUTBOX_BYTES_MAX {
            return;
        }
        if self.frames.last().is_none_or(|frame| frame.len() >= MESSAGES_BYTES_MAX) {
            self.frames.push(Vec::new());
        }
        let frame = self.frames.last_mut().expect("pushed above");
        let before = frame.len();
        message.encode_into(frame);
        self.bytes += frame.len() - before;
    }

    /// What is queued on a link now; without one it is lost.
    fn send(&mut self, link: Option<&mut Link>, ring: &mut impl Ring, pool: &mut Pool) {
        let frames = std::mem::take(&mut self.frames);
        self.bytes = 0;
        let Some(link) = link else { return };
        for body in frames {
            let frame = FrameHead::encode(KIND_MESSAGES, 0, 0, &body);
            let _ = link.send(ring, pool, Outgoing::inline(frame));
        }
    }
}

impl Peer {
    fn is_up(&self) -> bool {
        self.control_up && self.bulk_up
    }
}

/// Connections of a shard.
pub(crate) struct Net {
    pub(crate) me: Identity,
    pub(crate) conns: BTreeMap<u32, Conn>,
    pub(crate) peers: BTreeMap<u32, Peer>,
    /// How many of them have little space left.
    pub(crate) short_peers: usize,
    pub(crate) listener: Option<Listener>,
    next: u32,
    zero_copy: ZeroCopy,
    timing: LinkTiming,
    sessions: usize,
    /// Connections of SYNC standbys, by cluster.
    standbys: BTreeMap<u32, usize>,
}

/// A change of a peer's links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerChange {
    /// Whether it is another disk than that of the last time.
    Up {
        node: u32,
        replaced: bool,
    },
    Down(u32),
}

impl Net {
    pub(crate) fn new(me: Identity, config: &ShardConfig) -> Net {
        Net {
            me,
            conns: BTreeMap::new(),
            peers: BTreeMap::new(),
            short_peers: 0,
            listener: None,
            next: 0,
            zero_copy: ZeroCopy {
                threshold_bytes: ZERO_COPY_THRESHOLD_BYTES as u32,
                mode: config.zero_copy,
            },
            timing: config.link_timing,
            sessions: 0,
            standbys: BTreeMap::new(),
        }
    }

    /// Makes a node known. The node with the lower id dials.
    pub(crate) fn add_peer(
        &mut self,
        ring: &mut impl Ring,
        pool: &mut Pool,
        now: Nanos,
        node: u32,
        addr: SocketAddr,
    ) {
        assert!(node != self.me.node && !self.peers.contains_key(&node));
        let mut peer = Peer {
            control: None,
            bulk: None,
            key: None,
            fingerprint: None,
            short: false,
            impaired: false,
            pulse: 0,
            replaced: false,
            control_up: false,
            bulk_up: false,
            outbox: Outbox::default(),
            behind: Outbox::default(),
        };
        if self.me.node < node {
            let target = Target { cluster: self.me.cluster, node, shard: self.me.shard };
            peer.control =
                Some(self.dial(ring, pool, now, addr, target, Class::Control, Duty::Control(node)));
            peer.bulk =
                Some(self.dial(ring, pool, now, addr, target, Class::Bulk, Duty::Bulk(node)));
        }
        self.peers.insert(node, peer);
    }

    #[allow(clippy::too_many_arguments)]
    pub(crate) fn dial(
        &mut self,
        ring: &mut impl Ring,
        pool: &mut Pool,
        now: Nanos,
        addr: SocketAddr,
        target: Target,
        class: Class,
        duty: Duty,
    ) -> u32 {
        let id = self.next_id();
        let features = if class == Class::Reader { FEATURE_LZ4 } else { 0 };
        let hello = Hello { features, ..Hello::new(class, self.me, target) };
        let mut link = Link::dial(conn_base(id), addr, hello, class, ring.random());
        self.tune(&mut link, class);
        link.start(ring, pool, now);
        self.conns.insert(id, Conn { link, duty, peer: None, listened: false });
        id
    }

    fn tune(&self, link: &mut Link, class: Class) {
        link.set_timing(self.timing);
        if matches!(class, Class::Bulk | Class::Sync) {
            link.set_zero_copy(self.zero_copy);
            link.set_backlog_bytes_max(PEER_BACKLOG_BYTES);
        }
    }

    /// Takes over a greeted connection meant for this shard, or refuses it.
    pub(crate) fn admit(
        &mut self,
        ring: &mut impl Ring,
        pool: &mut Pool,
        now: Nanos,
        greeted: Greeted,
    ) -> Result<(), Refusal> {
        let hello = &greeted.hello;
        let duty = match hello.class {
            Class::Control | Class::Bulk => {
                if !self.peers.contains_key(&hello.from.node) {
                    let text = format!("node {} is no member here", hello.from.node);
                    return Err(Refusal::new(RefusalCode::Node, text));
                }
                match hello.class {
                    Class::Control => Duty::Control(hello.from.node),
                    _ => Duty::Bulk(hello.from.node),
                }
            }
            Class::Client if self.sessions < SESSIONS_MAX => {
                self.sessions += 1;
                Duty::Client(Session::default())
            }
            Class::Sync => {
                self.admit_standby(hello.from.cluster)?;
                Duty::Standby(hello.from.cluster)
            }
            _ => {
                let text = format!("{SESSIONS_MAX} clients are connected; try again later");
                return Err(Refusal::new(RefusalCode::Busy, text));
            }
        };
        let (class, hello) = (hello.class, *hello);
        let id = self.next_id();
        let welcome = Welcome::new(self.me);
        let mut link = Link::accepted(conn_base(id), greeted.socket, hello, class, welcome);
        self.tune(&mut link, class);
        link.start(ring, pool, now);
        let listened = self.listener.is_some();
        self.conns.insert(id, Conn { link, duty, peer: None, listened });
        Ok(())
    }

    /// One more connection of a SYNC standby; what one has takes no room from another.
    pub(super) fn admit_standby(&mut self, cluster: u32) -> Result<(), Refusal> {
        if cluster == self.me.cluster {
            let text = "a node of this cluster is no standby of it";
            return Err(Refusal::new(RefusalCode::Cluster, text));
        }
        let links = self.standbys.get(&cluster).copied().unwrap_or(0);
        if links >= SYNC_LINKS_MAX || links == 0 && self.standbys.len() >= SYNC_CLUSTERS_MAX {
            let text = "too many connections of SYNC standbys; try again later";
            return Err(Refusal::new(RefusalCode::Busy, text));
        }
        self.standbys.insert(cluster, links + 1);
        Ok(())
    }

    /// One of them is gone.
    pub(super) fn standby_gone(&mut self, cluster: u32) {
        let links = self.standbys.get_mut(&cluster).expect("it was admitted");
        *links -= 1;
        if *links == 0 {
            self.standbys.remove(&cluster);
        }
    }

    /// What a hello to this node must say.
    pub(crate) fn expect(&self) -> Expect {
        let Identity { cluster, node, shard, shards, .. } = self.me;
        Expect { cluster, node, shard, shards }
    }

    /// A link of a peer is up: remember it, and say whether the peer as a whole is.
    pub(crate) fn on_up(
        &mut self,
        ring: &mut impl Ring,
        pool: &mut Pool,
        id: u32,
        identity: Identity,
    ) -> Option<PeerChange> {
        let key = NodeKey { node: identity.node, incarnation: identity.incarnation };
        let conn = self.conns.get_mut(&id)?;
        let bulk = match conn.duty {
            Duty::Control(_) => false,
            Duty::Bulk(_) => true,
            _ => return None,
        };
        conn.peer = Some(key);
        let peer = self.peers.get_mut(&identity.node)?;
        let was_up = peer.is_up();
        let (slot, up) = match bulk {
            false => (&mut peer.control, &mut peer.control_up),
            true => (&mut peer.bulk, &mut peer.bulk_up),
        };
        let old = slot.replace(id).filter(|old| *old != id);
        *up = true;
        if !bulk {
            peer.fingerprint = Some(identity.fingerprint);
            peer.replaced |= peer.key.replace(key).is_some_and(|old| old != key);
        }
        let up = peer.is_up() && (!was_up || old.is_some());
        let replaced = up && std::mem::take(&mut peer.replaced);
        if let Some(old) = old.and_then(|old| self.conns.get_mut(&old)) {
            old.link.close(ring, pool);
        }
        up.then_some(PeerChange::Up { node: identity.node, replaced })
    }

    /// A link is down. The link for groups ends with the one for messages: a peer that lost its
    /// power and came back knows nothing of a connection on which nothing is sent to it, and that
    /// would look sound here for ever.
    pub(crate) fn on_down(
        &mut self,
        ring: &mut impl Ring,
        pool: &mut Pool,
        id: u32,
    ) -> Option<PeerChange> {
        let node = match self.conns.get(&id)?.duty {
            Duty::Control(node) | Duty::Bulk(node) => node,
            _ => return None,
        };
        let peer = self.peers.get_mut(&node)?;
        let was_up = peer.is_up();
        if peer.bulk == Some(id) {
            peer.bulk_up = false;
        } else if peer.control == Some(id) {
            peer.control_up = false;
            let bulk = peer.bulk.and_then(|bulk| self.conns.get_mut(&bulk));
            // Where it was accepted, who dialled it sees to it.
            if let Some(bulk) = bulk.filter(|_| self.me.node < node) {
                peer.bulk_up = false;
                bulk.link.redial(ring, pool);
            }
        }
        (was_up && !peer.is_up()).then_some(PeerChange::Down(node))
    }

    /// Queues a message; dropped when too many wait, as a network may.
    pub(crate) fn push_message(&mut self, to: u32, message: &Message) {
        let Some(peer) = self.peers.get_mut(&to).filter(|peer| peer.control_up) else { return };
        match message.body {
            Body::Commit { .. } if peer.bulk_up => peer.behind.push(message),
            _ => peer.outbox.push(message),
        }
    }

    /// A peer says how its log is.
    pub(crate) fn note_state(&mut self, node: u32, short: bool, impaired: bool) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        self.short_peers += usize::from(short);
        self.short_peers -= usize::from(peer.short);
        (peer.short, peer.impaired) = (short, impaired);
        assert!(self.short_peers <= self.peers.len(), "more are short of space than there are");
    }

    /// Sends a heartbeat at once.
    pub(crate) fn send_heartbeat(
        &mut self,
        ring: &mut impl Ring,
        pool: &mut Pool,
        to: u32,
        heartbeat: Heartbeat,
        (tag, pulse): (u64, u64),
    ) {
        let Some(id) = self.peers.get(&to).and_then(|p| p.control.filter(|_| p.control_up)) else {
            return;
        };
        let mut body = Vec::with_capacity(crate::paxos::HEARTBEAT_BYTES);
        heartbeat.encode_into(&mut body);
        let frame = FrameHead::encode(KIND_HEARTBEAT, tag, pulse, &body);
        if let Some(conn) = self.conns.get_mut(&id) {
            // A full queue delays no heartbeat that would still be of use.
            let _ = conn.link.send(ring, pool, Outgoing::inline(frame));
        }
    }

    /// Sends a small frame to a peer. False when it is not connected or takes none now.
    pub(crate) fn send_control<R: Ring>(
        &mut self,
        io: &mut Io<R>,
        to: u32,
        kind: u16,
        body: &[u8],
    ) -> bool {
        let id = self.peers.get(&to).and_then(|p| p.control.filter(|_| p.control_up));
        let Some(conn) = id.and_then(|id| self.conns.get_mut(&id)) else { return false };
        let frame = Outgoing::inline(FrameHead::encode(kind, 0, 0, body));
        conn.link.send(&mut io.ring, &mut io.pool, frame).is_ok()
    }

    /// Sends a body that stands in a slot. False when the peer takes none now: it will fetch.
    pub(crate) fn send_bulk(
        &mut self,
        ring: &mut impl Ring,
        pool: &mut Pool,
        to: u32,
        head: Vec<u8>,
        body: Run,
    ) -> bool {
        let id = self.peers.get(&to).and_then(|p| p.bulk.filter(|_| p.is_up()));
        let share = self.share(pool);
        let Some(conn) = id.and_then(|id| self.conns.get_mut(&id)) else { return false };
        let pinned = conn.link.pinned_bytes();
        if pinned > 0 && pinned + pool.capacity(body.slot) > share {
            return false;
        }
        conn.link.send(ring, pool, Outgoing { head, runs: vec![body] }).is_ok()
    }

    /// Bytes of slots that one peer may hold, so that those who do not read leave enough for new
    /// groups.
    fn share(&self, pool: &Pool) -> usize {
        pool.quota(Purpose::Write) / PEERS_WRITE_PART / self.peers.len().max(1)
    }

    /// Whether a peer that fetches takes more now; none when it is not connected.
    pub(crate) fn takes_fetched(&self, pool: &Pool, to: u32) -> Option<bool> {
        let id = self.peers.get(&to).and_then(|p| p.bulk.filter(|_| p.is_up()))?;
        let link = &self.conns.get(&id)?.link;
        let waits = link.backlog_bytes().max(link.backlog_slot_bytes());
        let pinned = link.pinned_bytes();
        let room = pinned == 0 || pinned + READ_CHUNK_BYTES <= self.share(pool);
        Some(waits <= READ_CHUNK_BYTES && room)
    }

    /// A peer is not heard: what waits for it would hold its slots until it is. It fetches later.
    pub(crate) fn drop_bulk(&mut self, pool: &mut Pool, node: u32) {
        let id = self.peers.get(&node).and_then(|peer| peer.bulk);
        if let Some(conn) = id.and_then(|id| self.conns.get_mut(&id)) {
            conn.link.drop_waiting(pool);
        }
    }

    /// Hands what the turn queued to the ring, and drops connections that are gone.
    pub(crate) fn flush(&mut self, ring: &mut impl Ring, pool: &mut Pool) {
        for peer in self.peers.values_mut() {
            for (outbox, id) in [(&mut peer.outbox, peer.control), (&mut peer.behind, peer.bulk)] {
                let conn = id.and_then(|id| self.conns.get_mut(&id));
                outbox.send(conn.map(|conn| &mut conn.link), ring, pool);
            }
        }
        let mut gone = Vec::new();
        for (id, conn) in &mut self.conns {
            conn.link.flush(ring, pool);
            if conn.link.is_closed() {
                gone.push(*id);
            }
        }
        for id in gone {
            let conn = self.conns.remove(&id).expect("listed above");
            self.sessions -= usize::from(matches!(conn.duty, Duty::Client(_)));
            if let Duty::Standby(cluster) = conn.duty {
                self.standby_gone(cluster);
            }
            if let Some(listener) = self.listener.as_mut().filter(|_| conn.listened) {
                listener.connection_ended();
            }
        }
    }

    pub(crate) fn on_completion(
        &mut self,
        ring: &mut impl Ring,
        pool: &mut Pool,
        id: u32,
        completion: Completion,
        now: Nanos,
    ) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.link.on_completion(ring, pool, completion, now);
        }
    }

    /// The next thing that happened on a connection.
    pub(crate) fn poll_event(
        &mut self,
        ring: &mut impl Ring,
        pool: &mut Pool,
        id: u32,
    ) -> Option<LinkEvent> {
        self.conns.get_mut(&id)?.link.poll_event(ring, pool)
    }

    pub(crate) fn on_time(&mut self, ring: &mut impl Ring, pool: &mut Pool, now: Nanos) {
        for conn in self.conns.values_mut() {
            if conn.link.next_timer().is_some_and(|at| at <= now) {
                conn.link.on_time(ring, pool, now);
            }
        }
        if let Some(listener) = &mut self.listener {
            listener.on_time(ring, pool, now);
        }
    }

    pub(crate) fn next_timer(&self) -> Option<Nanos> {
        let links = self.conns.values().filter_map(|conn| conn.link.next_timer());
        links.chain(self.listener.as_ref().and_then(Listener::next_timer)).min()
    }

    pub(crate) fn poll_listener(
        &mut self,
        ring: &mut impl Ring,
        pool: &mut Pool,
    ) -> Option<ListenEvent> {
        self.listener.as_mut()?.poll_event(ring, pool)
    }

    /// Ends a connection with a peer, which whoever dialled it dials again.
    pub(crate) fn start_over(&mut self, ring: &mut impl Ring, pool: &mut Pool, id: u32) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        match conn.link.addr().is_some() {
            true => conn.link.redial(ring, pool),
            false => conn.link.close(ring, pool),
        }
    }

    /// Ends a connection that broke the rules.
    pub(crate) fn close(&mut self, ring: &mut impl Ring, pool: &mut Pool, id: u32) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.link.close(ring, pool);
        }
    }

    fn next_id(&mut self) -> u32 {
        self.next += 1;
        self.next
    }
}

fn conn_base(id: u32) -> TokenBase {
    owner_base(OWNER_CONN, id.into())
}

/// The connection that a token belongs to.
pub(crate) fn conn_of(token: Token) -> u32 {
    (token.0 >> TokenBase::OWN_BITS) as u32
}
