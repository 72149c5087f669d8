//! Durable SCN floors: one per shard and disk, whatever the number of its streams.
//!
//! A node with a floor of t gives no SCN at or below t, in no stream of the shard, and every
//! promise that it makes from then on says so. A shard that leads streams asks its peers for a
//! floor when an SCN was given that is not closed yet, here or at anybody who said so, and at
//! most once per [`FLOOR_NS`]. It binds itself before it asks.
//!
//! The answer of a peer must not count for a stream that it has promised away from the asker:
//! that promise may have left before the floor was there. So it tells, with its floor, which
//! streams it holds promised to the asker and under which round. Of these views only changes
//! travel, numbered; where a number is missing, they start anew.
//!
//! A lost floor: it is hard state, and its loss makes the tail of every stream of the shard
//! unknown. Such a disk is counted nowhere until a Takeover above all that it promised, whose
//! promises came from a majority without it. That majority knows every SCN that was closed below
//! that ballot with this disk's help, since two majorities meet outside of it; and the Takeover
//! carries it ([`TakeoverBody::scn`](super::TakeoverBody)).

use std::collections::{BTreeMap, BTreeSet};

use palisade_netio::Nanos;
use palisade_netio::limits::FRAME_BODY_MAX;
use palisade_wal::Ballot;
use zerocopy::little_endian::U64;

use super::codec::{DecodeError, ROUND_MAX, Reader, SCN_MAX, exact, fixed, flag, put};
use super::liveness::PEERS_MAX;
use super::member::NodeKey;
use crate::seeded::is_seeded;

/// Between two floors that a shard asks for.
pub const FLOOR_NS: u64 = 50_000_000;
/// Until it is asked again what stays open, at first and at last.
const AGAIN_NS: u64 = 4 * FLOOR_NS;
const AGAIN_MAX_NS: u64 = 100 * FLOOR_NS;
/// Most views of one frame.
pub const VIEWS_MAX: usize = 2048;
/// Most views of one peer.
const PEER_VIEWS_MAX: usize = 1 << 20;

fixed! {
    RawAsk: 17 { floor: U64, wants: U64, anew: u8 }
    /// So many views follow.
    HeldHead: 32 { floor: U64, session: U64, number: U64, views: U64 }
    RawView: 16 { stream: U64, round: U64 }
}

const _: () = assert!(
    size_of::<HeldHead>() + VIEWS_MAX * size_of::<RawView>() <= FRAME_BODY_MAX,
    "the longest answer fits a frame"
);
const _: () = assert!(FLOOR_NS < AGAIN_NS && AGAIN_NS < AGAIN_MAX_NS);
const _: () = assert!(VIEWS_MAX <= PEER_VIEWS_MAX);

/// Hold this floor, please.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloorAsk {
    /// No SCN up to here is to be given again.
    pub floor: u64,
    /// Highest SCN of a group that the sender knows of.
    pub wants: u64,
    /// Begin your views anew.
    pub anew: bool,
}

/// Under which round of the receiver's ballots a stream is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The stream.
    pub stream: u64,
    /// The round; 0 when it is promised to somebody else, or to nobody.
    pub round: u64,
}

/// The floor is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FloorHeld {
    /// Durable at the sender.
    pub floor: u64,
    /// Grows when the views start anew, and with each start of the sender.
    pub session: u64,
    /// Counts the frames of the session from 1, where the views start anew.
    pub number: u64,
    /// What changed since the frame before.
    pub views: Vec<View>,
}

/// What the floors want done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FloorEffect {
    /// Append a ScnFloor record, then say [`Floors::on_durable`] when it is.
    Log {
        /// The floor.
        floor: u64,
    },
    /// Send this to the same shard of that node.
    Ask {
        /// The node.
        to: u32,
        /// The question.
        ask: FloorAsk,
    },
    /// Send this to the same shard of that node, or say [`Floors::on_lost`].
    Held {
        /// The node.
        to: u32,
        /// The answer.
        held: FloorHeld,
    },
    /// Tell the other shards of this node that this SCN was given.
    Spread {
        /// The SCN.
        scn: u64,
    },
    /// Look what is closed now, then say [`Floors::on_closed`].
    Close,
}

/// The floors of a shard: its own, and what its peers hold.
#[derive(Debug)]
pub struct Floors {
    me: NodeKey,
    boot: u64,
    /// This node gives none at or below it.
    bound: u64,
    /// Highest one in the log, and highest one there that is durable.
    logged: u64,
    durable: u64,
    /// Highest SCN of a group that was heard of, and that the other shards heard of.
    wanted: u64,
    spread: u64,
    /// What was asked for last, and what is closed in every stream that is led.
    asked: u64,
    settled: u64,
    /// A stream is led that was not when it was asked last.
    led_anew: bool,
    /// What was asked for is looked at.
    looked: bool,
    next_at: Nanos,
    again_ns: u64,
    /// What is promised here, by stream.
    promised: BTreeMap<u64, Ballot>,
    peers: BTreeMap<u32, Peer>,
    sessions: u64,
}

#[derive(Debug, Default)]
struct Peer {
    /// Its disk, once it was linked.
    key: Option<NodeKey>,
    linked: bool,
    /// What it was asked for last.
    asked: u64,
    held: Held,
    /// The floor that it asked for and has no answer to.
    owed: Option<u64>,
    told: Option<Told>,
}

/// What a peer said.
#[derive(Debug, Default)]
struct Held {
    floor: u64,
    session: u64,
    number: u64,
    /// Its views do not follow each other.
    broken: bool,
    views: BTreeMap<u64, u64>,
}

/// What a peer was told.
#[derive(Debug)]
struct Told {
    session: u64,
    number: u64,
    floor: u64,
    changed: BTreeSet<u64>,
}

impl Floors {
    /// The floors of a shard with nothing in its log. `boot` is how often it was started.
    pub fn new(me: NodeKey, boot: u64) -> Floors {
        Floors {
            me,
            boot,
            bound: 0,
            logged: 0,
            durable: 0,
            wanted: 0,
            spread: 0,
            asked: 0,
            settled: 0,
            led_anew: false,
            looked: true,
            next_at: Nanos(0),
            again_ns: AGAIN_NS,
            promised: BTreeMap::new(),
            peers: BTreeMap::new(),
            sessions: 0,
        }
    }

    /// A record of the log said so.
    pub fn on_replayed(&mut self, floor: u64) {
        assert!(self.asked == 0 && self.peers.is_empty(), "replayed after the start");
        self.bound = self.bound.max(floor.min(SCN_MAX));
        (self.logged, self.durable) = (self.bound, self.bound);
        self.assert_invariants();
    }

    /// No SCN at or below it is given.
    pub fn bound(&self) -> u64 {
        assert!(self.bound >= self.durable, "gives what it vouched not to");
        self.bound
    }

    /// The highest floor in the log.
    pub fn logged(&self) -> u64 {
        assert!(self.durable <= self.logged, "durable before it was logged");
        self.logged
    }

    /// The floor that is durable here.
    pub fn durable(&self) -> u64 {
        assert!(self.durable <= self.logged, "durable before it is logged");
        self.durable
    }

    /// The floor that `key` held when it had promised `stream` to nobody above `ballot`, which is
    /// this node's.
    pub fn floor_of(&self, key: NodeKey, stream: u64, ballot: Ballot) -> u64 {
        assert!(ballot.node == self.me.node && ballot.incarnation == self.me.incarnation);
        assert!(key != self.me, "the own floor needs no message");
        let peer = self.peers.get(&key.node).filter(|peer| peer.key == Some(key));
        let Some(held) = peer.map(|peer| &peer.held) else { return 0 };
        assert!(held.floor <= SCN_MAX && held.views.values().all(|&round| round > 0));
        if is_seeded("floor_of_another_promise") {
            return held.floor;
        }
        if held.views.get(&stream) == Some(&ballot.round) { held.floor } else { 0 }
    }

    /// A group got this SCN here.
    pub fn on_scn(&mut self, scn: u64) {
        assert!(scn <= SCN_MAX, "an SCN above them all");
        self.wanted = self.wanted.max(scn);
        assert!(self.wanted >= scn && self.wanted <= SCN_MAX);
    }

    /// Another shard of this node, or a standby, wants this SCN closed.
    pub fn on_spread(&mut self, scn: u64) {
        self.wanted = self.wanted.max(scn.min(SCN_MAX));
        self.spread = self.spread.max(scn.min(SCN_MAX));
        assert!(self.spread <= self.wanted, "told of more than is wanted here");
        assert!(self.wanted <= SCN_MAX, "an SCN above them all");
    }

    /// A stream is led here from now on; its last group has this SCN.
    pub fn on_leading(&mut self, scn: u64) {
        assert!(scn <= SCN_MAX, "an SCN above them all");
        self.wanted = self.wanted.max(scn);
        self.led_anew = true;
        assert!(self.next_deadline(true).is_some(), "nobody would be asked");
    }

    /// The promise of a stream is another one.
    pub fn on_promised(&mut self, stream: u64, ballot: Ballot) {
        let before = self.promised.insert(stream, ballot);
        assert!(before.is_none_or(|before| before <= ballot), "promises go up");
        for told in self.peers.values_mut().filter_map(|peer| peer.told.as_mut()) {
            told.changed.insert(stream);
        }
        assert!(self.promised.contains_key(&stream));
    }

    /// The links to a node are up: what was said over earlier ones may be lost.
    pub fn on_link_up(&mut self, key: NodeKey) {
        assert!(key.node != self.me.node, "its own peer");
        self.peers.insert(key.node, Peer { key: Some(key), linked: true, ..Peer::default() });
        assert!(self.peers.len() <= PEERS_MAX, "more peers than there may be");
        assert!(self.peers[&key.node].owed.is_none(), "owes what nobody asked for");
    }

    /// The links to a node are down.
    pub fn on_link_down(&mut self, node: u32) {
        // What it said stays true; but what it will say may not follow.
        if let Some(peer) = self.peers.get_mut(&node) {
            *peer = Peer { key: peer.key, held: std::mem::take(&mut peer.held), ..Peer::default() };
            peer.held.broken = true;
            assert!(!peer.linked && peer.told.is_none() && peer.owed.is_none());
        }
        assert!(node != self.me.node, "its own peer");
    }

    /// An answer could not be sent: views start anew with the next.
    pub fn on_lost(&mut self, node: u32) {
        if let Some(peer) = self.peers.get_mut(&node) {
            (peer.told, peer.owed) = (None, None);
            assert!(peer.asked <= self.bound, "asks for what binds itself not");
        }
        assert!(node != self.me.node, "its own peer");
    }

    /// A peer asks for a floor.
    pub fn on_ask(&mut self, from: NodeKey, ask: &FloorAsk) {
        let Some(peer) = self.peers.get_mut(&from.node).filter(|p| p.key == Some(from)) else {
            return;
        };
        assert!(from.node != self.me.node, "asks itself");
        if ask.anew {
            peer.told = None;
        }
        peer.owed = Some(peer.owed.unwrap_or(0).max(ask.floor));
        self.wanted = self.wanted.max(ask.wants);
        assert!(ask.floor <= SCN_MAX && ask.wants <= SCN_MAX, "checked when it was read");
    }

    /// A peer says what it holds. False when it says what makes no sense.
    pub fn on_held(&mut self, from: NodeKey, held: &FloorHeld) -> bool {
        let Some(peer) = self.peers.get_mut(&from.node).filter(|p| p.key == Some(from)) else {
            return true;
        };
        let known = &mut peer.held;
        assert!(held.number > 0 && held.floor <= SCN_MAX, "checked when it was read");
        let follows = held.session == known.session && held.number == known.number + 1;
        if held.number == 1 && held.session > known.session {
            *known = Held { session: held.session, ..Held::default() };
        } else if !follows || known.broken {
            if !std::mem::replace(&mut known.broken, true) {
                peer.asked = 0;
            }
            return true;
        }
        known.number = held.number;
        for view in &held.views {
            match view.round {
                0 => known.views.remove(&view.stream),
                round => known.views.insert(view.stream, round),
            };
        }
        known.floor = known.floor.max(held.floor);
        assert!(!known.broken, "views that do not follow count for nothing");
        assert!(known.session == held.session && known.number >= 1);
        known.views.len() <= PEER_VIEWS_MAX
    }

    /// The record with this floor is durable, and all before it.
    pub fn on_durable(&mut self, floor: u64) {
        assert!(floor <= self.logged, "durable before it is logged");
        self.durable = self.durable.max(floor);
        self.assert_invariants();
    }

    /// Everything up to `scn` is closed in each stream that is led.
    pub fn on_closed(&mut self, scn: u64) {
        assert!(scn <= self.bound, "closes what it may still give");
        self.settled = self.settled.max(scn);
        assert!(self.settled <= SCN_MAX, "an SCN above them all");
    }

    /// Does what is due. `wall_ns` is this node's clock, `leads` whether it leads any stream that
    /// gives SCNs.
    pub fn on_time(&mut self, now: Nanos, wall_ns: u64, leads: bool, fx: &mut Vec<FloorEffect>) {
        if self.next_deadline(leads).is_some_and(|at| at <= now) {
            self.ask(now, wall_ns, leads, fx);
        }
        if leads {
            self.ask_late_ones(fx);
        }
        self.log(fx);
        self.answer(fx);
        let complete = |peer: &Peer| !peer.linked || peer.held.floor >= self.asked;
        if leads && !self.looked && self.durable >= self.asked && self.peers.values().all(complete)
        {
            self.looked = true;
            assert!(self.asked <= self.bound, "closes what it may still give");
            fx.push(FloorEffect::Close);
        }
        self.assert_invariants();
    }

    /// When [`on_time`](Floors::on_time) is due, if nothing else happens.
    pub fn next_deadline(&self, leads: bool) -> Option<Nanos> {
        (self.is_due(leads) || self.wanted > self.spread).then_some(self.next_at)
    }

    /// Whether peers are to be asked: for what is closed here, or for what they are to close.
    fn is_due(&self, leads: bool) -> bool {
        assert!(self.settled <= self.bound, "closes what it may still give");
        let unheard = |peer: &Peer| peer.linked && peer.held.floor < self.asked;
        let due = self.wanted > self.settled || self.led_anew;
        // A majority is enough to close; but who missed the question may close too little for
        // a standby, and gives no SCNs that would let it ask.
        leads && (due || self.peers.values().any(unheard))
    }

    fn ask(&mut self, now: Nanos, wall_ns: u64, leads: bool, fx: &mut Vec<FloorEffect>) {
        if self.wanted > self.spread {
            self.spread = self.wanted;
            assert!(self.spread <= SCN_MAX, "an SCN above them all");
            fx.push(FloorEffect::Spread { scn: self.wanted });
        }
        if !self.is_due(leads) {
            return;
        }
        if !self.looked {
            // Somebody does not answer: what the others said may be enough.
            fx.push(FloorEffect::Close);
        }
        if self.wanted > self.asked || self.led_anew {
            let least = self.wanted.max(self.asked + u64::from(self.led_anew));
            self.asked = least.max(wall_ns).max(self.bound).min(SCN_MAX);
            self.again_ns = AGAIN_NS;
            self.next_at = now.after(FLOOR_NS);
            if self.led_anew {
                // What is closed in the streams led before is closed; not so in the new ones.
                (self.led_anew, self.settled) = (false, 0);
            }
        } else {
            self.next_at = now.after(self.again_ns);
            self.again_ns = (2 * self.again_ns).min(AGAIN_MAX_NS);
            assert!(self.again_ns >= AGAIN_NS, "asks again sooner than at first");
        }
        // Before anybody is asked: what is given from now on is above.
        self.bound = self.bound.max(self.asked);
        self.looked = false;
        self.peers.values_mut().for_each(|peer| peer.asked = 0);
        assert!(self.asked <= self.bound && self.next_at > now);
    }

    /// Asks those that were not asked for the newest floor.
    fn ask_late_ones(&mut self, fx: &mut Vec<FloorEffect>) {
        let (floor, wants) = (self.asked, self.wanted.min(self.asked));
        for (&to, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.linked) {
            if peer.asked < floor {
                peer.asked = floor;
                let anew = peer.held.broken;
                fx.push(FloorEffect::Ask { to, ask: FloorAsk { floor, wants, anew } });
            }
        }
        assert!(wants <= floor && floor <= self.bound, "asks for what binds itself not");
    }

    /// Logs what is asked for, one record at a time.
    fn log(&mut self, fx: &mut Vec<FloorEffect>) {
        let owed = self.peers.values().filter_map(|peer| peer.owed).max().unwrap_or(0);
        let floor = owed.max(self.asked);
        assert!(floor <= SCN_MAX, "checked when it was read");
        if floor > self.logged && self.durable == self.logged {
            self.logged = floor;
            self.bound = self.bound.max(floor);
            fx.push(FloorEffect::Log { floor });
        }
        assert!(self.durable <= self.logged && self.logged <= self.bound);
    }

    fn answer(&mut self, fx: &mut Vec<FloorEffect>) {
        let durable = self.durable;
        for (&to, peer) in &mut self.peers {
            let Some(key) = peer.key.filter(|_| peer.linked) else { continue };
            if peer.owed.take_if(|floor| *floor <= durable).is_none() {
                continue;
            }
            let promised = &self.promised;
            let told = peer.told.get_or_insert_with(|| {
                self.sessions += 1;
                let session = (self.boot << 32) + self.sessions;
                let own = promised.iter().filter(|(_, ballot)| is_of(**ballot, key));
                let changed = own.map(|(stream, _)| *stream).collect();
                Told { session, number: 0, floor: 0, changed }
            });
            let changed = std::mem::take(&mut told.changed);
            let view = |stream: &u64| {
                let round = promised.get(stream).filter(|ballot| is_of(**ballot, key));
                View { stream: *stream, round: round.map_or(0, |ballot| ballot.round) }
            };
            let views: Vec<View> = changed.iter().map(view).collect();
            assert!(told.floor <= durable, "a floor that went down");
            assert!(told.session >> 32 == self.boot, "more sessions than a start has numbers");
            let mut parts: Vec<&[View]> = views.chunks(VIEWS_MAX).collect();
            if parts.is_empty() {
                parts.push(&[]);
            }
            for (at, part) in parts.iter().enumerate() {
                // Until all views are there, what was said before is all that is known.
                let floor = if at + 1 == parts.len() { durable } else { told.floor };
                told.number += 1;
                let (session, number, views) = (told.session, told.number, part.to_vec());
                let held = FloorHeld { floor, session, number, views };
                assert!(held.views.len() <= VIEWS_MAX && held.floor <= durable);
                fx.push(FloorEffect::Held { to, held });
            }
            told.floor = durable;
            assert!(told.changed.is_empty() && told.number > 0);
        }
    }

    fn assert_invariants(&self) {
        assert!(self.durable <= self.logged, "durable before it is logged");
        assert!(self.logged <= self.bound, "gives what it vouched not to");
        assert!(self.asked <= self.bound, "asks for what it does not keep to");
        assert!(self.settled <= self.bound, "closed what it may still give");
        assert!(self.bound <= SCN_MAX, "an SCN above them all");
        assert!(self.spread <= self.wanted, "told of more than is wanted here");
        assert!(!self.peers.contains_key(&self.me.node), "its own peer");
        assert!(self.again_ns >= AGAIN_NS && self.again_ns <= AGAIN_MAX_NS);
    }
}

/// Whether a ballot is one of that disk.
fn is_of(ballot: Ballot, key: NodeKey) -> bool {
    ballot.is_some() && ballot.node == key.node && ballot.incarnation == key.incarnation
}

impl FloorAsk {
    /// Appends the encoding.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        assert!(self.floor <= SCN_MAX && self.wants <= SCN_MAX, "what the reader insists on");
        let (floor, wants) = (self.floor.into(), self.wants.into());
        put(out, &RawAsk { floor, wants, anew: u8::from(self.anew) });
    }

    /// Reads exactly one encoding.
    ///
    /// # Errors
    /// Bytes that are none.
    pub fn decode(bytes: &[u8]) -> Result<FloorAsk, DecodeError> {
        let RawAsk { floor, wants, anew } = exact(bytes)?;
        let ask = FloorAsk { floor: floor.get(), wants: wants.get(), anew: flag(*anew)? };
        if ask.floor > SCN_MAX || ask.wants > SCN_MAX {
            return Err(DecodeError::Inconsistent);
        }
        Ok(ask)
    }
}

impl FloorHeld {
    /// Appends the encoding.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        assert!(self.views.len() <= VIEWS_MAX, "more views than a frame takes");
        assert!(self.number > 0 && self.floor <= SCN_MAX, "what the reader insists on");
        let start = out.len();
        let (floor, session, number) = (self.floor.into(), self.session.into(), self.number.into());
        put(out, &HeldHead { floor, session, number, views: (self.views.len() as u64).into() });
        for View { stream, round } in &self.views {
            put(out, &RawView { stream: (*stream).into(), round: (*round).into() });
        }
        assert!(out.len() - start == 32 + 16 * self.views.len(), "an answer of another length");
    }

    /// Reads exactly one encoding.
    ///
    /// # Errors
    /// Bytes that are none.
    pub fn decode(bytes: &[u8]) -> Result<FloorHeld, DecodeError> {
        let mut reader = Reader::new(bytes);
        let head: &HeldHead = reader.head()?;
        let count = head.views.get();
        if count > VIEWS_MAX as u64 {
            return Err(DecodeError::TooLong);
        }
        let view = |view: &RawView| View { stream: view.stream.get(), round: view.round.get() };
        let views: Vec<View> = reader.list(count as usize)?.iter().map(view).collect();
        reader.finish()?;
        assert!(views.len() as u64 == count && bytes.len() == 32 + 16 * views.len());
        let (floor, session, number) = (head.floor.get(), head.session.get(), head.number.get());
        let sound = views.iter().all(|view| view.round <= ROUND_MAX);
        if floor > SCN_MAX || number == 0 || number == u64::MAX || !sound {
            return Err(DecodeError::Inconsistent);
        }
        Ok(FloorHeld { floor, session, number, views })
    }
}
