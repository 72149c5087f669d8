//! Drives the [`Floors`](crate::paxos::Floors) of a shard: records, frames, and what is closed.

use std::collections::{BTreeMap, BTreeSet};

use palisade_netio::{Frame, FrameHead, Outgoing, Ring};
use palisade_wal::{Ballot, Kind, Lsn};

use crate::config::Role;
use crate::kinds::{KIND_CLOSED, KIND_FLOOR_ASK, KIND_FLOOR_HELD};
use crate::paxos::{
    Closed, ClosedNews, FloorAsk, FloorEffect, FloorHeld, NodeKey, Published, Publisher,
};
use crate::shard::Shard;
use crate::shard::ledger::OwnRecord;
use crate::shard::mesh::Mail;
use crate::stream::catalogue::SYSTEM_STREAM;

/// What this shard closes.
#[derive(Default)]
pub(crate) struct Closing {
    /// Streams that give SCNs here: led, of a primary, and read by others.
    pub(crate) streams: BTreeSet<u64>,
    pub(crate) publisher: Publisher,
    /// The same, by connection, for SYNC standbys.
    pub(crate) lines: Publisher,
    /// What other nodes closed, and this one before others led.
    pub(crate) published: Published,
}

impl<R: Ring> Shard<R> {
    /// Moves floors and closed SCNs along, once a turn.
    pub(crate) fn run_floors(&mut self) {
        let (now, wall, leads) = (self.io.now, self.io.ring.wall_ns(), self.gives_scns());
        let mut effects = Vec::new();
        self.floors.on_time(now, wall, leads, &mut effects);
        for effect in effects {
            match effect {
                FloorEffect::Log { floor } => self.log_floor(floor),
                FloorEffect::Ask { to, ask } => {
                    let mut body = Vec::new();
                    ask.encode_into(&mut body);
                    // Who does not get it is asked again when the round is looked at.
                    self.net.send_control(&mut self.io, to, KIND_FLOOR_ASK, &body);
                }
                FloorEffect::Held { to, held } => {
                    let mut body = Vec::new();
                    held.encode_into(&mut body);
                    if !self.net.send_control(&mut self.io, to, KIND_FLOOR_HELD, &body) {
                        self.floors.on_lost(to);
                    }
                }
                FloorEffect::Spread { scn } => self.spread_scn(scn),
                FloorEffect::Close => self.close_scns(),
            }
        }
    }

    pub(crate) fn next_floor(&self) -> Option<palisade_netio::Nanos> {
        self.floors.next_deadline(self.gives_scns())
    }

    fn gives_scns(&self) -> bool {
        !self.closing.streams.is_empty()
    }

    fn log_floor(&mut self, floor: u64) {
        self.ledger.push(OwnRecord {
            stream: SYSTEM_STREAM,
            kind: Kind::ScnFloor,
            lsn: Lsn::ZERO,
            ballot: Ballot::NONE,
            body: floor.to_le_bytes().to_vec(),
            id: None,
        });
    }

    fn spread_scn(&mut self, scn: u64) {
        for shard in (0..self.me.shards).filter(|shard| *shard != self.me.shard) {
            self.unsent.push_back((shard, Mail::Scn { scn }));
        }
        self.retry_mail();
    }

    /// What is closed now in every stream that gives SCNs here.
    fn close_scns(&mut self) {
        let (bound, durable) = (self.floors.bound(), self.floors.durable());
        let (mut least, mut all) = (u64::MAX, BTreeMap::new());
        for id in &self.closing.streams {
            let state = self.streams.get_mut(id).expect("it is led here");
            assert!(state.role == Role::Primary, "a standby gives no SCNs");
            state.replica.set_floor(bound);
            let floor_of = |key, ballot| self.floors.floor_of(key, *id, ballot);
            let Some(closed) = state.replica.closed(durable, floor_of) else {
                return; // It stepped down in this turn.
            };
            least = least.min(closed.scn);
            all.insert(*id, closed);
        }
        if all.is_empty() {
            return;
        }
        self.floors.on_closed(least);
        self.closing.publisher.on_closed(&all);
        self.closing.lines.on_closed(&all);
        self.tell_closed();
        self.tell_lines();
        self.note_closed();
    }

    /// Tells the shards of SYNC standbys what is closed, as far as they are not told.
    pub(crate) fn tell_lines(&mut self) {
        let mut news = Vec::new();
        self.closing.lines.poll(&mut news);
        for (conn, news) in news {
            let mut body = Vec::new();
            news.encode_into(&mut body);
            let frame = FrameHead::encode(KIND_CLOSED, 0, self.role_epoch, &body);
            if !self.send_line(conn, Outgoing::inline(frame)) {
                // Everything anew, soon.
                self.closing.lines.on_link_up(conn);
                self.note_closed();
            }
        }
    }

    /// Tells peers what is closed.
    pub(crate) fn tell_closed(&mut self) {
        let mut news = Vec::new();
        self.closing.publisher.poll(&mut news);
        let mut lost = BTreeSet::new();
        for (to, news) in news {
            let mut body = Vec::new();
            news.encode_into(&mut body);
            if !self.net.send_control(&mut self.io, to, KIND_CLOSED, &body) {
                lost.insert(to);
            }
        }
        for node in lost {
            // Everything is said anew, soon.
            self.closing.publisher.on_link_up(node);
            self.note_closed();
        }
    }

    /// A peer says what is closed. False when the frame makes no sense.
    pub(crate) fn on_closed_news(&mut self, from: NodeKey, frame: &Frame) -> bool {
        let body = self.bytes_of(frame.slot, frame.body.at, frame.body.len);
        let Ok(news) = ClosedNews::decode(body) else { return false };
        self.note_closed();
        self.closing.published.on_news(from.node, &news)
    }

    /// This node does not lead the stream any more: what it closed stays closed.
    pub(crate) fn stop_closing(&mut self, stream: u64) {
        self.closing.streams.remove(&stream);
        if let Some(closed) = self.closing.publisher.closed(stream) {
            self.closing.published.keep(stream, closed);
        }
    }

    /// What is known to be closed in a stream of this shard.
    pub fn closed(&self, stream: u64) -> Option<Closed> {
        let own = Some(stream).filter(|stream| self.closing.streams.contains(stream));
        let own = own.and_then(|stream| self.closing.publisher.closed(stream));
        let claims = self.streams.get(&stream).map(|state| state.claims.counted());
        let counted = claims.filter(|closed| closed.scn > 0);
        let known = own.into_iter().chain(counted);
        known.chain(self.closing.published.closed(stream)).max_by_key(|c| c.scn)
    }

    /// The least closed SCN of the streams here that others read; 0 when one is not known. At a
    /// standby, up to where they are shown.
    pub(crate) fn closed_scn(&self) -> u64 {
        if self.role() == Role::Standby {
            return self.showing.scn;
        }
        let streams = self.streams.keys().filter(|stream| **stream != SYSTEM_STREAM);
        streams.map(|id| self.closed(*id).map_or(0, |closed| closed.scn)).min().unwrap_or(u64::MAX)
    }

    /// A peer asks for a floor. False when the frame makes no sense.
    pub(crate) fn on_floor_ask(&mut self, from: NodeKey, frame: &Frame) -> bool {
        let body = self.bytes_of(frame.slot, frame.body.at, frame.body.len);
        let Ok(ask) = FloorAsk::decode(body) else { return false };
        self.floors.on_ask(from, &ask);
        true
    }

    /// A peer says what it holds. False when the frame makes no sense.
    pub(crate) fn on_floor_held(&mut self, from: NodeKey, frame: &Frame) -> bool {
        let body = self.bytes_of(frame.slot, frame.body.at, frame.body.len);
        let Ok(held) = FloorHeld::decode(body) else { return false };
        self.floors.on_held(from, &held)
    }
}

/// The floor of a ScnFloor record.
pub(crate) fn read_floor(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}
