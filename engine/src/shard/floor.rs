//! Drives the shard's [`Floors`]: its records, its frames, and what is closed.

use std::collections::BTreeSet;

use palisade_netio::{Frame, Ring};
use palisade_wal::{Ballot, Kind, Lsn};

use crate::config::Role;
use crate::kinds::{KIND_FLOOR_ASK, KIND_FLOOR_HELD};
use crate::paxos::{Closed, FloorAsk, FloorEffect, FloorHeld, NodeKey};
use crate::shard::Shard;
use crate::shard::ledger::OwnRecord;
use crate::shard::mesh::Mail;
use crate::stream::catalogue::SYSTEM_STREAM;

/// What this shard closes.
#[derive(Default)]
pub(crate) struct Closing {
    /// Streams that give SCNs here: led, of a primary, and read by others.
    pub(crate) streams: BTreeSet<u64>,
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
        let mut least = u64::MAX;
        for id in &self.closing.streams {
            let state = self.streams.get_mut(id).expect("it is led here");
            assert!(state.role == Role::Primary, "a standby gives no SCNs");
            state.replica.set_floor(bound);
            let floor_of = |key, ballot| self.floors.floor_of(key, *id, ballot);
            let Some(Closed { scn, .. }) = state.replica.closed(durable, floor_of) else {
                return; // It stepped down in this turn.
            };
            least = least.min(scn);
        }
        if least < u64::MAX {
            self.floors.on_closed(least);
        }
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
