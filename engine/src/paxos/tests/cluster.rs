//! The model of a cluster: nodes, a network that does what it likes, and time.

use palisade_netio::Nanos;
use palisade_wal::{Anchor, Ballot, GroupHeader, Lsn};

use super::super::*;
use super::brief;
use super::node::{Node, Record, STREAM, group, members, place, rebuild, takeover_of};
use super::oracle::Oracle;

/// What travels.
#[derive(Clone, Debug)]
pub(super) enum Load {
    Message(Vec<u8>),
    Group { ballot: Ballot, header: GroupHeader, commit: Lsn },
    Fetched { ballot: Ballot, header: GroupHeader, want: Want },
    Ask(FloorAsk),
    Held(FloorHeld),
}

#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) from: NodeKey,
    pub(super) to: u32,
    pub(super) load: Load,
}

pub(super) struct Cluster {
    pub(super) nodes: Vec<Node>,
    pub(super) network: Vec<Packet>,
    pub(super) oracle: Oracle,
    pub(super) now: Nanos,
    pub(super) next_value: u32,
    /// Highest SCN ever given, by anybody.
    pub(super) last_scn: u64,
    /// Floors are asked for while nothing else happens.
    pub(super) closes: bool,
    pub(super) trace: Vec<String>,
    pub(super) tracing: bool,
    /// Nodes that nothing comes from or goes to.
    pub(super) isolated: Vec<u32>,
    /// Pairs, the lower node first, that nothing passes between.
    pub(super) cuts: std::collections::BTreeSet<(u32, u32)>,
    /// Holes that were filled.
    pub(super) mended: u64,
}

/// Packets under way; more are lost.
const NETWORK_MAX: usize = 400;

impl Cluster {
    pub(super) fn new(count: u32, seed: u64) -> Cluster {
        let config = members(count);
        let node = |node: u32| {
            Node::new(NodeKey { node, incarnation: 100 }, config.clone(), seed ^ u64::from(node))
        };
        let mut cluster = Cluster {
            nodes: (1..=count).map(node).collect(),
            network: Vec::new(),
            oracle: Oracle::default(),
            now: Nanos(1_000_000_000),
            next_value: 1,
            last_scn: 0,
            closes: false,
            trace: Vec::new(),
            tracing: std::env::var("PAXOS_TRACE").is_ok(),
            isolated: Vec::new(),
            cuts: std::collections::BTreeSet::new(),
            mended: 0,
        };
        for at in 0..cluster.nodes.len() {
            cluster.run(at, |replica, now, fx| replica.start(now, fx));
        }
        cluster
    }

    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        if self.tracing {
            let line = line();
            eprintln!("{:>8} {line}", self.now.0 / 1_000_000);
            self.trace.push(line);
        }
    }

    /// Gives one input and does what is asked for.
    pub(super) fn run<T>(
        &mut self,
        at: usize,
        input: impl FnOnce(&mut Replica, Nanos, &mut Effects) -> T,
    ) -> T {
        let mut fx = Effects::default();
        let now = self.now;
        self.nodes[at].bind();
        let result = input(self.nodes[at].replica(), now, &mut fx);
        self.nodes[at].bind();
        self.drain(at, fx);
        result
    }

    pub(super) fn end_turn(&mut self, at: usize) {
        if self.nodes[at].replica.is_some() {
            self.run(at, |replica, now, fx| replica.on_turn_end(now, fx));
        }
    }

    fn drain(&mut self, at: usize, fx: Effects) {
        for effect in fx.0 {
            if !matches!(effect, Effect::Send { .. }) {
                let node = at + 1;
                self.note(|| format!("{node}: {}", brief::effect(&effect)));
            }
            self.act(at, effect);
        }
    }

    fn act(&mut self, at: usize, effect: Effect) {
        let node = &mut self.nodes[at];
        let from = node.key;
        match effect {
            Effect::Log(record) => {
                if let Some(end) = takeover_of(&record) {
                    self.oracle.on_takeover(record.ballot, end);
                }
                node.wal.push(Record::State(record));
            }
            Effect::Send { to, message } => {
                let mut bytes = Vec::new();
                message.encode_into(&mut bytes);
                self.post(Packet { from, to, load: Load::Message(bytes) });
            }
            Effect::Serve { to, ballot, from: first, upto, want } => {
                for header in node.readable(first, upto) {
                    let load = Load::Fetched { ballot, header, want };
                    self.post(Packet { from, to, load });
                }
            }
            Effect::Leading { ballot } => {
                let scn = node.replica().log().last_scn();
                node.floors.on_leading(scn);
                self.oracle.on_leading(ballot, node);
            }
            Effect::Committed { upto } => {
                let cursor = node.replica().commit_cursor();
                self.oracle.on_committed(node, cursor.map(|(ballot, _)| ballot), upto);
            }
            Effect::Voided { .. } | Effect::SettledVoid { .. } | Effect::UnsettledVoid { .. } => {
                node.voids.push(effect);
            }
            Effect::Halt { reason } => panic!("node {} halted: {reason}", from.node),
            Effect::SteppedDown { .. } | Effect::Leader { .. } => {}
            Effect::Mended { .. } => self.mended += 1,
            Effect::Unmended { .. } => {}
        }
    }

    pub(super) fn post(&mut self, packet: Packet) {
        if self.network.len() < NETWORK_MAX {
            self.network.push(packet);
        }
    }

    pub(super) fn deliver(&mut self, packet: Packet) {
        let at = packet.to as usize - 1;
        let (a, b) = (packet.from.node, packet.to);
        let isolated = self.isolated.contains(&a) || self.isolated.contains(&b);
        let cut = isolated || self.cuts.contains(&(a.min(b), a.max(b)));
        if self.nodes[at].replica.is_none() || cut {
            return;
        }
        let from = packet.from;
        self.note(|| brief::packet(&packet));
        match packet.load {
            Load::Message(bytes) => {
                let (message, len) = Message::decode(&bytes).unwrap();
                assert_eq!(len, bytes.len());
                self.run(at, |replica, now, fx| replica.on_message(from, &message, now, fx));
            }
            Load::Group { ballot, header, commit } => {
                let head = AcceptHead { ballot, header: &header, commit, want: Want::Next };
                let verdict = self.run(at, |r, now, fx| r.on_accept(from, &head, now, fx));
                self.store(at, verdict, header, ballot);
            }
            Load::Fetched { ballot, header, want } => {
                let head = AcceptHead { ballot, header: &header, commit: Lsn::ZERO, want };
                let verdict = self.run(at, |r, now, fx| r.on_fetched(from, &head, now, fx));
                self.note(|| format!("{} fetched {} {verdict:?}", packet.to, header.lsn()));
                self.store(at, verdict, header, ballot);
            }
            Load::Ask(ask) => {
                let mut bytes = Vec::new();
                ask.encode_into(&mut bytes);
                self.nodes[at].floors.on_ask(from, &FloorAsk::decode(&bytes).unwrap());
            }
            Load::Held(held) => {
                let mut bytes = Vec::new();
                held.encode_into(&mut bytes);
                let held = FloorHeld::decode(&bytes).unwrap();
                assert!(self.nodes[at].floors.on_held(from, &held));
            }
        }
    }

    /// A turn of a node's floors, with this as its clock.
    pub(super) fn floors(&mut self, at: usize, wall: u64) {
        let Some(replica) = &self.nodes[at].replica else { return };
        let (leads, from) = (replica.serving().is_some(), self.nodes[at].key);
        // Several times as fast as the streams.
        let (now, mut effects) = (Nanos(self.now.0 * 8), Vec::new());
        self.nodes[at].floors.on_time(now, wall, leads, &mut effects);
        self.nodes[at].bind();
        for effect in effects {
            let node = at + 1;
            self.note(|| format!("{node}: {effect:?}"));
            match effect {
                FloorEffect::Log { floor } => self.nodes[at].wal.push(Record::Floor(floor)),
                FloorEffect::Ask { to, ask } => {
                    self.post(Packet { from, to, load: Load::Ask(ask) })
                }
                FloorEffect::Held { to, held } => {
                    self.post(Packet { from, to, load: Load::Held(held) });
                }
                FloorEffect::Spread { .. } => {}
                FloorEffect::Close => self.close(at),
            }
        }
    }

    fn close(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let (floors, replica) = (&mut node.floors, node.replica.as_ref().expect("it runs"));
        let floor_of = |key, ballot| floors.floor_of(key, STREAM, ballot);
        let Some(closed) = replica.closed(floors.durable(), floor_of) else { return };
        floors.on_closed(closed.scn);
        self.oracle.on_closed(closed);
        self.note(|| format!("{}: {closed:?}", at + 1));
    }

    fn store(&mut self, at: usize, verdict: AcceptVerdict, header: GroupHeader, ballot: Ballot) {
        let staged = match verdict {
            AcceptVerdict::Store => false,
            AcceptVerdict::StoreStaged => true,
            AcceptVerdict::StoreMoved => {
                let record = Record::Moved { header, ballot };
                self.nodes[at].wal.push(record);
                let place = place(self.nodes[at].wal.len() - 1);
                return self.run(at, |r, now, fx| r.on_moved(&header, place, now, fx));
            }
            AcceptVerdict::Duplicate | AcceptVerdict::Refuse(_) => return,
        };
        let mark = self.nodes[at].append(header, ballot, staged);
        self.run(at, |replica, now, fx| replica.on_stored(mark, now, fx));
    }

    /// Appends a group if the node leads and has room.
    pub(super) fn propose(&mut self, at: usize) -> Option<GroupHeader> {
        self.nodes[at].replica.as_ref()?;
        self.nodes[at].bind();
        let position = self.nodes[at].replica().leader_slot().ok()?;
        let header = group(&position, self.next_value);
        self.next_value += 1;
        self.lead_group(at, header, &position);
        Some(header)
    }

    /// The node, which leads, appends a group of another log.
    pub(super) fn import(&mut self, at: usize, header: GroupHeader) {
        self.nodes[at].bind();
        let position = self.nodes[at].replica().leader_slot().expect("it leads");
        assert!(header.lsn() == position.lsn && header.follows(position.chain_before));
        self.lead_group(at, header, &position);
    }

    fn lead_group(&mut self, at: usize, header: GroupHeader, position: &ProposePosition) {
        self.nodes[at].floors.on_scn(header.scn.get());
        self.last_scn = self.last_scn.max(header.scn.get());
        let mark = self.nodes[at].append(header, position.ballot, false);
        let now = self.now;
        self.nodes[at].replica().on_proposed(mark, now);
        let (from, ballot) = (self.nodes[at].key, position.ballot);
        let (_, commit) = self.nodes[at].replica().commit_cursor().expect("it leads");
        let peers: Vec<u32> = self.nodes.iter().map(|n| n.key.node).collect();
        for to in peers.into_iter().filter(|&to| to != from.node) {
            self.nodes[at].replica().on_commit_carried(to);
            self.post(Packet { from, to, load: Load::Group { ballot, header, commit } });
        }
    }

    /// The next `count` records of the node become durable.
    pub(super) fn sync(&mut self, at: usize, count: usize) {
        for _ in 0..count {
            let node = &mut self.nodes[at];
            if node.replica.is_none() || node.durable == node.wal.len() {
                return;
            }
            let record = node.wal[node.durable].clone();
            node.durable += 1;
            self.oracle.on_durable(node.key.node, &record);
            match record {
                Record::Group { header, ballot, staged: false } => self.run(at, |r, now, fx| {
                    r.on_group_durable(ballot, header.end(), now, fx);
                }),
                Record::Floor(floor) => self.nodes[at].floors.on_durable(floor),
                Record::Group { .. } | Record::Unknown(_) | Record::Moved { .. } => {}
                Record::LostGroup | Record::LostStaged | Record::LostState(_) => {
                    unreachable!("only what was durable is lost")
                }
                Record::State(state) => {
                    self.run(at, |r, now, fx| r.on_durable(state.id, now, fx));
                }
            }
        }
    }

    /// The disk of a node that is down loses these records.
    pub(super) fn lose(&mut self, at: usize, records: impl IntoIterator<Item = usize>) {
        let node = &mut self.nodes[at];
        assert!(node.replica.is_none(), "it would know more than its disk");
        let (log, _) = rebuild(&node.first, &node.wal);
        let ceiling = log.promised().max(log.accepting());
        for record in records {
            assert!(record < node.durable, "what is not durable was never there");
            node.wal[record] = node.wal[record].lost(ceiling);
        }
    }

    /// The record that holds the group at `lsn` cannot be read any more.
    pub(super) fn lose_while_it_runs(&mut self, at: usize, lsn: Lsn) -> bool {
        let node = &mut self.nodes[at];
        let Some(log) = node.replica.as_ref().map(Replica::log) else { return false };
        let Some(extent) = log.find(lsn).copied() else { return false };
        let record = (extent.place.offset / 4096) as usize;
        if record >= node.durable {
            return false;
        }
        let next = log.holes().iter().find(|hole| hole.start == extent.end);
        let anchor = match (log.chain_at(extent.end), next) {
            (_, Some(hole)) => hole.anchor.clone(),
            (Some(chain), None) => Anchor::Chain(chain),
            (None, None) => Anchor::Next(Box::new(node.read(extent.end).expect("no hole"))),
        };
        node.wal[record] = node.wal[record].lost(Ballot::NONE);
        node.meddled = true;
        let (start, end) = (extent.start, extent.end);
        self.note(|| format!("{}: loses {start}", at + 1));
        self.run(at, |r, now, fx| r.on_lost(start, end, anchor, now, fx))
    }

    pub(super) fn tick(&mut self, at: usize) {
        if self.nodes[at].replica.is_some() {
            self.run(at, |replica, now, fx| replica.on_time(now, fx));
        }
    }

    pub(super) fn peer(&mut self, at: usize, node: u32, state: PeerState) {
        if self.nodes[at].replica.is_some() {
            let peer = self.nodes[node as usize - 1].key;
            match state {
                PeerState::Up => self.nodes[at].floors.on_link_up(peer),
                PeerState::Down { .. } => self.nodes[at].floors.on_link_down(node),
            }
            self.run(at, |replica, now, fx| replica.on_peer(peer, state, now, fx));
        }
    }

    /// Tells every node who is heard: those that run and are not isolated.
    pub(super) fn link(&mut self) {
        let (now, nodes) = (self.now, self.nodes.len());
        let works = |c: &Cluster, at: usize| {
            c.nodes[at].replica.is_some() && !c.isolated.contains(&(at as u32 + 1))
        };
        for at in 0..nodes {
            for other in (0..nodes).filter(|&other| other != at) {
                let up = works(self, at) && works(self, other);
                let state = if up { PeerState::Up } else { PeerState::Down { lease_until: now } };
                self.peer(at, other as u32 + 1, state);
            }
        }
    }

    /// Cuts these nodes off, and everyone notices.
    pub(super) fn isolate(&mut self, nodes: &[u32]) {
        self.isolated = nodes.to_vec();
        self.network.clear();
        self.link();
    }

    /// Lets `node` ask for votes now, and waits until it leads.
    pub(super) fn elect(&mut self, node: u32) -> Ballot {
        let at = node as usize - 1;
        self.link();
        self.run(at, |replica, now, fx| replica.campaign(now, fx));
        self.settle("this leader", |c| c.leader() == Some(at));
        self.nodes[at].replica().log().accepting()
    }

    /// Lets time pass without faults.
    pub(super) fn rest(&mut self, ms: u64) {
        let now = self.now;
        self.settle("a while", |c| c.now.since(now) >= ms * 1_000_000);
    }

    pub(super) fn log(&self, node: u32) -> &palisade_wal::StreamLog {
        self.nodes[node as usize - 1].replica.as_ref().expect("the node runs").log()
    }

    pub(super) fn leader(&self) -> Option<usize> {
        let leads = |n: &Node| n.replica.as_ref().is_some_and(|r| r.commit_cursor().is_some());
        let ballot = |at: &usize| self.nodes[*at].replica.as_ref().unwrap().log().accepting();
        (0..self.nodes.len()).filter(|&at| leads(&self.nodes[at])).max_by_key(ballot)
    }

    /// Runs without faults until `done`.
    ///
    /// # Panics
    /// When ten seconds were not enough.
    pub(super) fn settle(&mut self, what: &str, done: impl Fn(&Cluster) -> bool) {
        let deadline = self.now.after(10_000_000_000);
        while !done(self) {
            if self.now >= deadline {
                for node in &self.nodes {
                    eprintln!("{:?}", node.replica.as_ref().map(Replica::status));
                }
                panic!("not within ten seconds: {what}");
            }
            for at in 0..self.nodes.len() {
                self.tick(at);
                self.sync(at, usize::MAX);
                self.end_turn(at);
                if self.closes {
                    self.floors(at, self.last_scn);
                }
            }
            for packet in std::mem::take(&mut self.network) {
                self.deliver(packet);
            }
            for at in 0..self.nodes.len() {
                self.end_turn(at);
            }
            self.now = self.now.after(2_000_000);
        }
    }
}
