//! What others decide for a standby: an operator who holds it back, an upstream that does not want
//! it.

use palisade_netio::Nanos;
use palisade_wal::RecordMeta;

use super::{Link, Output, Phase, Receiver, State};
use crate::paxos::Closed;
use crate::stream::catalogue::FIRST_STREAM;

impl Receiver {
    /// An operator holds the standby back: nothing of the embedder's streams with an SCN above
    /// `hold` is imported. The catalogue goes on, or nobody here would hear of the end of it.
    pub fn on_hold(&mut self, hold: Option<u64>, now: Nanos, out: &mut Vec<Output>) {
        if hold == self.hold {
            return;
        }
        self.hold = hold;
        let streams: Vec<u64> = self.streams.keys().copied().collect();
        for stream in streams.into_iter().filter(|stream| *stream >= FIRST_STREAM) {
            let phase = self.streams[&stream].phase;
            if hold == Some(0) {
                self.suspend(stream, now, out);
            } else if phase == Phase::Held {
                self.streams.get_mut(&stream).expect("it was just there").phase = Phase::Idle;
                self.set_state(stream, State::Wait, "goes on", now, out);
                self.start(stream, out);
            }
        }
        self.feed(out);
    }

    /// Whether nothing at all of a stream may be imported.
    pub(super) fn is_held(&self, stream: u64) -> bool {
        self.hold == Some(0) && stream >= FIRST_STREAM
    }

    pub(super) fn suspend(&mut self, stream: u64, now: Nanos, out: &mut Vec<Output>) {
        let fetching = self.streams[&stream].phase == Phase::Fetching;
        self.release(stream, Phase::Held);
        if fetching {
            self.stop(stream, out);
        }
        self.show_held(stream, now, out);
    }

    pub(super) fn show_held(&mut self, stream: u64, now: Nanos, out: &mut Vec<Output>) {
        if self.streams.get(&stream).is_some_and(|inbound| inbound.phase == Phase::Held) {
            let reason = match self.hold {
                None | Some(0) => "held back by an operator".to_owned(),
                Some(scn) => format!("held back by an operator at SCN {scn}"),
            };
            self.set_state(stream, State::Suspended, &reason, now, out);
        }
    }

    /// Where a stream is held back at an SCN: the upstream goes on there with a higher one.
    pub fn held_at(&self, stream: u64) -> Option<Closed> {
        let inbound = self.streams.get(&stream).filter(|inbound| inbound.phase == Phase::Held)?;
        if inbound.held_by_base {
            // It stands for groups with any SCN up to its own, those up to the hold too.
            return None;
        }
        let scn = self.hold.filter(|scn| *scn > 0)?;
        Some(Closed { scn, end: inbound.position.lsn })
    }

    /// How many of these groups may be imported.
    pub(super) fn allowed(&self, stream: u64, metas: &[RecordMeta]) -> usize {
        let limit = self.hold.filter(|_| stream >= FIRST_STREAM).unwrap_or(u64::MAX);
        // SCNs never decrease in a stream.
        metas.partition_point(|meta| meta.scn <= limit)
    }

    /// The upstream did not want the connection.
    pub fn on_refused(&mut self, why: &str, now: Nanos, out: &mut Vec<Output>) {
        if matches!(self.link, Link::Down { .. }) {
            return;
        }
        self.drop_link(why, now, out);
        let streams: Vec<u64> = self.streams.keys().copied().collect();
        for stream in streams {
            if self.streams[&stream].phase != Phase::Held {
                self.set_state(stream, State::SourceRefuses, why, now, out);
            }
        }
    }
}
