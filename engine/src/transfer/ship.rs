//! Which SYNC standby takes which stream from this shard, how far it was sent and how far its
//! majority has it. No I/O, no clock, no randomness.
//!
//! A standby's leader says FETCH to every node of the primary. Who does not lead the stream, or
//! whose marks name somebody else, remembers it, and asks for a new one when that changes. Nothing
//! that a standby says counts before its log is proven to be a prefix of this one: by the chain at
//! its end where that is known, else by the first group that goes out.

use std::collections::BTreeMap;

use palisade_netio::Nanos;
use palisade_wal::{Ballot, Boundary, GroupHeader, Lsn};

use super::limits::{SYNC_SUBS_MAX, SYNC_WINDOW_BYTES};
use super::sync::{SyncEnd, SyncFetch, SyncOpen, ToStandby};
use crate::seeded::is_seeded;

/// A stream as its leader here knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Led {
    /// The cluster that its acks wait for.
    pub named: Option<u32>,
    /// Epoch of the mark that says so.
    pub epoch: u64,
    /// The ballot under which it is led.
    pub ballot: Ballot,
    /// Role epoch of this cluster.
    pub role_epoch: u64,
    /// Where the log begins.
    pub base: Lsn,
    /// Where the log ends.
    pub end: Lsn,
    /// Committed here.
    pub committed: Lsn,
}

/// Something to say on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Say {
    /// The connection.
    pub conn: u32,
    /// What.
    pub what: ToStandby,
}

/// A standby's leader that wants a stream.
#[derive(Clone, Copy, Debug)]
struct Sub {
    conn: u32,
    cluster: u32,
    /// Of its last FETCH.
    number: u64,
}

/// A stream on its way to its SYNC standby.
#[derive(Clone, Copy, Debug)]
struct Ship {
    conn: u32,
    cluster: u32,
    number: u64,
    /// Of the standby's leader.
    ballot: Ballot,
    sent: Lsn,
    /// The chain that the first group has to follow, while the standby's log is not proven.
    proof: Option<u64>,
    held: Lsn,
    /// What comes next is being read.
    reading: bool,
    /// Nothing before this time: what comes next could not be read.
    retry: Nanos,
}

/// What is to be sent next of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// To whom.
    pub conn: u32,
    /// Of the FETCH that it answers.
    pub number: u64,
    /// From here on.
    pub from: Lsn,
}

/// A standby's majority has this much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The standby.
    pub cluster: u32,
    /// Up to here.
    pub held: Lsn,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Ships {
    subs: BTreeMap<u64, Vec<Sub>>,
    ships: BTreeMap<u64, Ship>,
}

impl Ships {
    /// A standby's leader wants a stream. `led` is how it is led here, if it is, with the chain at
    /// the end of the standby's log, if that is known.
    pub fn on_fetch(
        &mut self,
        (conn, cluster): (u32, u32),
        fetch: &SyncFetch,
        led: Option<(Led, Option<u64>)>,
        out: &mut Vec<Say>,
    ) -> Option<Held> {
        let stream = fetch.stream;
        let subs = self.subs.entry(stream).or_default();
        if subs.iter().any(|sub| sub.conn == conn && sub.number >= fetch.number) {
            // It comes late, or again.
            return None;
        }
        subs.retain(|sub| sub.conn != conn);
        if subs.len() == SYNC_SUBS_MAX {
            subs.remove(0);
        }
        subs.push(Sub { conn, cluster, number: fetch.number });
        let (led, chain) = led.filter(|(led, _)| led.named == Some(cluster))?;
        let mut end = |conn, reason| {
            out.push(Say { conn, what: ToStandby::End { stream, reason } });
        };
        if fetch.role_epoch > led.role_epoch {
            end(conn, SyncEnd::OldRole);
            return None;
        }
        if fetch.from.lsn > led.end || chain.is_some_and(|chain| chain != fetch.from.chain) {
            self.ships.remove(&stream);
            end(conn, SyncEnd::NotMatch);
            return None;
        }
        if let Some(old) = self.ships.get(&stream).filter(|old| old.conn != conn) {
            if old.ballot > fetch.ballot {
                end(conn, SyncEnd::Superseded);
                return None;
            }
            end(old.conn, SyncEnd::Superseded);
        }
        if fetch.from.lsn < led.base {
            self.ships.remove(&stream);
            end(conn, SyncEnd::Recycled { base: led.base });
            return None;
        }
        let proven = chain.is_some();
        let ship = Ship {
            conn,
            cluster,
            number: fetch.number,
            ballot: fetch.ballot,
            sent: fetch.from.lsn,
            proof: (!proven).then_some(fetch.from.chain),
            held: fetch.committed,
            reading: false,
            retry: Nanos(0),
        };
        self.ships.insert(stream, ship);
        out.push(Say { conn, what: open(stream, fetch.number, led) });
        proven.then_some(Held { cluster, held: fetch.committed })
    }

    /// A stream is led here from now on, or its marks name another cluster.
    pub fn on_led(&mut self, stream: u64, led: Led, out: &mut Vec<Say>) {
        let named = |cluster| led.named == Some(cluster);
        if let Some(old) = self.ships.get(&stream) {
            if named(old.cluster) {
                return;
            }
            self.end(stream, SyncEnd::NotNamed, out);
        }
        let subs = self.subs.get(&stream).into_iter().flatten();
        let wanted = subs.filter(|sub| named(sub.cluster));
        out.extend(wanted.map(|sub| Say { conn: sub.conn, what: open(stream, 0, led) }));
    }

    /// Something waits, and nothing came for long: who is shipped to says anew where it stands, or
    /// who would be.
    pub fn ask_again(&self, stream: u64, led: Led, out: &mut Vec<Say>) {
        let ship = self.ships.get(&stream).map(|ship| ship.conn);
        let subs = self.subs.get(&stream).into_iter().flatten();
        let wanted = subs.filter(|sub| led.named == Some(sub.cluster)).map(|sub| sub.conn);
        let whom = wanted.filter(|conn| ship.is_none_or(|ship| ship == *conn));
        out.extend(whom.map(|conn| Say { conn, what: open(stream, 0, led) }));
    }

    /// A stream is not led here any more.
    pub fn on_not_led(&mut self, stream: u64, out: &mut Vec<Say>) {
        self.end(stream, SyncEnd::NotLeader, out);
    }

    fn end(&mut self, stream: u64, reason: SyncEnd, out: &mut Vec<Say>) {
        if let Some(ship) = self.ships.remove(&stream) {
            out.push(Say { conn: ship.conn, what: ToStandby::End { stream, reason } });
        }
    }

    /// A standby's leader wants a stream no more, whatever it said up to `number`.
    pub fn on_stop(&mut self, conn: u32, stream: u64, number: u64) {
        let Some(subs) = self.subs.get_mut(&stream) else { return };
        let meant = |sub: &Sub| sub.conn == conn && sub.number <= number;
        if !subs.iter().any(meant) {
            return;
        }
        subs.retain(|sub| !meant(sub));
        if subs.is_empty() {
            self.subs.remove(&stream);
        }
        if self.ships.get(&stream).is_some_and(|ship| ship.conn == conn) {
            self.ships.remove(&stream);
        }
    }

    /// A connection is gone.
    pub fn on_down(&mut self, conn: u32) {
        self.subs.retain(|_, subs| {
            subs.retain(|sub| sub.conn != conn);
            !subs.is_empty()
        });
        self.ships.retain(|_, ship| ship.conn != conn);
    }

    /// Streams that somebody wants.
    pub fn wanted(&self) -> usize {
        self.subs.len()
    }

    /// Whether somebody takes a stream.
    pub fn wants(&self, stream: u64) -> bool {
        self.ships.contains_key(&stream)
    }

    /// What the cluster has that takes a stream, by what its present leader said: less than it had
    /// before when it began anew.
    pub fn held(&self, stream: u64) -> Option<Held> {
        let Ship { cluster, held, proof, .. } = self.ships.get(&stream)?;
        let held = if proof.is_none() { *held } else { Lsn::ZERO };
        Some(Held { cluster: *cluster, held })
    }

    /// The cluster that takes a stream.
    pub fn taker(&self, stream: u64) -> Option<u32> {
        self.ships.get(&stream).map(|ship| ship.cluster)
    }

    /// What is to be sent next, if anything may be.
    pub fn due(&self, stream: u64, committed: Lsn, now: Nanos) -> Option<Due> {
        let ship = self.ships.get(&stream)?;
        let open = ship.sent.0.saturating_sub(ship.held.0);
        let waits = ship.reading || now < ship.retry || open >= SYNC_WINDOW_BYTES;
        let due = Due { conn: ship.conn, number: ship.number, from: ship.sent };
        (!waits && ship.sent < committed).then_some(due)
    }

    /// Whether this is still what is to be sent next.
    pub fn is_due(&self, stream: u64, due: Due) -> bool {
        let is_it = |s: &Ship| (s.conn, s.number, s.sent) == (due.conn, due.number, due.from);
        self.ships.get(&stream).is_some_and(is_it)
    }

    /// What comes next is being read; or that ended, and nothing is read before `retry`.
    pub fn set_reading(&mut self, stream: u64, due: Due, reading: bool, retry: Nanos) {
        if self.is_due(stream, due)
            && let Some(ship) = self.ships.get_mut(&stream)
        {
            (ship.reading, ship.retry) = (reading, retry);
        }
    }

    /// What is to be sent next is gone: the log begins at `base`.
    pub fn on_recycled(&mut self, stream: u64, due: Due, base: Lsn, out: &mut Vec<Say>) {
        if self.is_due(stream, due) {
            assert!(due.from < base, "it is in the log");
            self.end(stream, SyncEnd::Recycled { base }, out);
        }
    }

    /// Whether a group may go out as the next one: it stands where the standby's log ends, and
    /// follows it. Proves that log; ends the stream when it is another.
    pub fn prove(
        &mut self,
        stream: u64,
        first: &GroupHeader,
        out: &mut Vec<Say>,
    ) -> Result<Option<Held>, SyncEnd> {
        let Some(ship) = self.ships.get_mut(&stream) else { return Err(SyncEnd::NotNamed) };
        let Some(chain) = ship.proof else {
            assert!(first.lsn() == ship.sent, "a proven log ends where a group starts");
            return Ok(None);
        };
        let is_prefix = first.lsn() == ship.sent && first.follows(chain);
        if !is_prefix && !is_seeded("standby_log_unproven") {
            self.end(stream, SyncEnd::NotMatch, out);
            return Err(SyncEnd::NotMatch);
        }
        ship.proof = None;
        Ok(Some(Held { cluster: ship.cluster, held: ship.held }))
    }

    /// Everything up to `end` was given to the connection.
    pub fn on_sent(&mut self, stream: u64, end: Lsn) {
        let ship = self.ships.get_mut(&stream).expect("it is being sent");
        assert!(end > ship.sent && ship.proof.is_none(), "sent before it is proven");
        (ship.sent, ship.reading) = (end, false);
    }

    /// A standby's majority has this much, it says. `chain` is the one here at that position, if
    /// it is known.
    pub fn on_reply(
        &mut self,
        conn: u32,
        stream: u64,
        said: Boundary,
        chain: Option<u64>,
        out: &mut Vec<Say>,
    ) -> Option<Held> {
        let ship = self.ships.get_mut(&stream).filter(|ship| ship.conn == conn)?;
        if said.lsn > ship.sent || chain.is_some_and(|chain| chain != said.chain) {
            self.end(stream, SyncEnd::NotMatch, out);
            return None;
        }
        ship.held = ship.held.max(said.lsn);
        let held = Held { cluster: ship.cluster, held: ship.held };
        ship.proof.is_none().then_some(held)
    }
}

fn open(stream: u64, number: u64, led: Led) -> ToStandby {
    let Led { committed, role_epoch, epoch, ballot, .. } = led;
    ToStandby::Open(SyncOpen { stream, number, committed, role_epoch, epoch, ballot })
}

#[cfg(test)]
mod tests {
    use palisade_wal::{BodyBuilder, CHAIN_START, GroupKind, Origin};
    use zerocopy::FromBytes;

    use super::*;

    const STREAM: u64 = 5;

    fn ballot(round: u64) -> Ballot {
        Ballot { round, node: 1, incarnation: 1 }
    }

    fn led(named: u32) -> Led {
        let (base, end, committed) = (Lsn(0), Lsn(1000), Lsn(800));
        let named = (named > 0).then_some(named);
        Led { named, epoch: 1, ballot: ballot(4), role_epoch: 2, base, end, committed }
    }

    fn fetch(from: u64, chain: u64, round: u64) -> SyncFetch {
        let from = Boundary { lsn: Lsn(from), chain };
        let committed = Lsn(from.lsn.0.saturating_sub(8));
        SyncFetch {
            stream: STREAM,
            number: 7,
            from,
            committed,
            role_epoch: 2,
            ballot: ballot(round),
        }
    }

    fn nth(number: u64, from: u64, chain: u64) -> SyncFetch {
        SyncFetch { number, ..fetch(from, chain, 1) }
    }

    fn said(out: &mut Vec<Say>) -> Vec<(u32, Result<u64, SyncEnd>)> {
        let short = |say: Say| match say.what {
            ToStandby::Open(open) => (say.conn, Ok(open.number)),
            ToStandby::End { reason, .. } => (say.conn, Err(reason)),
        };
        out.drain(..).map(short).collect()
    }

    fn group(start: u64, before: u64) -> GroupHeader {
        let mut bytes = vec![0; 4096];
        let mut builder = BodyBuilder::new(&mut bytes);
        let origin = Origin { role_epoch: 1, cluster: 1, ballot: ballot(4) };
        builder.begin_group(STREAM, Lsn(start), ballot(4), GroupKind::Data, origin, 0).unwrap();
        builder.push_entry(b"x", 0, 0).unwrap();
        let meta = builder.end_group(1, before);
        GroupHeader::read_from_prefix(&bytes[meta.range()]).unwrap().0
    }

    #[test]
    fn only_who_is_named_is_shipped_to_and_who_waits_is_asked_when_he_is() {
        let (mut ships, mut out) = (Ships::default(), Vec::new());
        let known = |named| Some((led(named), Some(9)));
        assert_eq!(ships.on_fetch((1, 3), &fetch(800, 9, 1), known(2), &mut out), None);
        assert_eq!(ships.on_fetch((2, 2), &fetch(800, 9, 1), None, &mut out), None);
        assert!(out.is_empty() && !ships.wants(STREAM));
        // It became the leader.
        ships.on_led(STREAM, led(2), &mut out);
        assert_eq!(said(&mut out), [(2, Ok(0))]);
        let held = ships.on_fetch((2, 2), &nth(8, 800, 9), known(2), &mut out);
        assert_eq!(held, Some(Held { cluster: 2, held: Lsn(792) }));
        assert_eq!(said(&mut out), [(2, Ok(8))]);
        // The mark names another one.
        ships.on_led(STREAM, led(3), &mut out);
        assert_eq!(said(&mut out), [(2, Err(SyncEnd::NotNamed)), (1, Ok(0))]);
        let at = Boundary { lsn: Lsn(800), chain: 9 };
        assert_eq!(ships.on_reply(2, STREAM, at, None, &mut out), None, "not counted any more");
        ships.on_fetch((1, 3), &nth(8, 800, 9), known(3), &mut out);
        ships.on_not_led(STREAM, &mut out);
        assert_eq!(said(&mut out), [(1, Ok(8)), (1, Err(SyncEnd::NotLeader))]);
    }

    #[test]
    fn what_a_standby_says_of_an_unproven_log_counts_for_nothing() {
        let (mut ships, mut out) = (Ships::default(), Vec::new());
        ships.on_fetch((1, 2), &fetch(400, 9, 1), Some((led(2), None)), &mut out);
        let held = |ships: &Ships| ships.held(STREAM).map(|it| it.held);
        assert_eq!(held(&ships), Some(Lsn::ZERO));
        ships.prove(STREAM, &group(400, 9), &mut out).expect("it follows");
        assert_eq!(held(&ships), Some(Lsn(392)));
    }

    #[test]
    fn of_two_leaders_of_a_standby_the_newer_one_is_shipped_to() {
        let (mut ships, mut out) = (Ships::default(), Vec::new());
        let known = Some((led(2), Some(9)));
        ships.on_fetch((1, 2), &fetch(800, 9, 5), known, &mut out);
        ships.on_fetch((2, 2), &fetch(800, 9, 4), known, &mut out);
        assert_eq!(said(&mut out), [(1, Ok(7)), (2, Err(SyncEnd::Superseded))]);
        ships.on_fetch((3, 2), &fetch(800, 9, 6), known, &mut out);
        assert_eq!(said(&mut out), [(1, Err(SyncEnd::Superseded)), (3, Ok(7))]);
        let at = Boundary { lsn: Lsn(800), chain: 9 };
        assert_eq!(ships.on_reply(1, STREAM, at, None, &mut out), None, "of the older one");
        ships.on_down(1);
        assert!(ships.wants(STREAM));
        ships.on_stop(3, STREAM, 6);
        assert!(ships.wants(STREAM), "of a FETCH before");
        ships.on_stop(3, STREAM, 7);
        assert!(!ships.wants(STREAM));
    }

    #[test]
    fn what_is_late_changes_nothing_and_who_is_silent_is_asked_again() {
        let (mut ships, mut out) = (Ships::default(), Vec::new());
        let known = Some((led(2), Some(9)));
        ships.on_fetch((1, 2), &fetch(800, 9, 5), known, &mut out);
        let later = SyncFetch { number: 9, ..fetch(808, 9, 5) };
        ships.on_fetch((1, 2), &later, known, &mut out);
        assert_eq!(said(&mut out), [(1, Ok(7)), (1, Ok(9))]);
        for late in [fetch(800, 9, 5), later] {
            assert_eq!(ships.on_fetch((1, 2), &late, known, &mut out), None);
        }
        assert_eq!(ships.due(STREAM, Lsn(4096), Nanos(0)).map(|due| due.from), Some(Lsn(808)));
        ships.on_fetch((4, 3), &fetch(0, 9, 5), known, &mut out);
        ships.ask_again(STREAM, led(2), &mut out);
        assert_eq!(said(&mut out), [(1, Ok(0))], "and nobody who is not named");
        // Its connection is gone, and another node of the standby asked before.
        ships.on_fetch((5, 2), &fetch(800, 9, 4), known, &mut out);
        ships.on_down(1);
        out.clear();
        ships.ask_again(STREAM, led(2), &mut out);
        assert_eq!(said(&mut out), [(5, Ok(0))]);
    }

    #[test]
    fn another_log_is_never_counted() {
        let (mut ships, mut out) = (Ships::default(), Vec::new());
        let with = |chain| Some((led(2), chain));
        ships.on_fetch((1, 2), &fetch(800, 8, 1), with(Some(9)), &mut out);
        ships.on_fetch((1, 2), &nth(8, 1008, 8), with(None), &mut out);
        let end: Result<u64, SyncEnd> = Err(SyncEnd::NotMatch);
        assert_eq!(said(&mut out), [(1, end), (1, end)]);
        let newer = SyncFetch { role_epoch: 3, ..nth(9, 800, 9) };
        ships.on_fetch((1, 2), &newer, with(Some(9)), &mut out);
        assert_eq!(said(&mut out), [(1, Err(SyncEnd::OldRole))]);
        // Where the chain is not known, the first group proves it.
        for (number, chain, good) in [(10, CHAIN_START, true), (11, 7, false)] {
            let fetch = nth(number, 80, chain);
            assert_eq!(ships.on_fetch((1, 2), &fetch, with(None), &mut out), None);
            let at = Boundary { lsn: Lsn(80), chain };
            assert_eq!(ships.on_reply(1, STREAM, at, None, &mut out), None, "not proven");
            let proof = ships.prove(STREAM, &group(80, CHAIN_START), &mut out);
            let held = Held { cluster: 2, held: Lsn(80) };
            assert_eq!(proof, if good { Ok(Some(held)) } else { Err(SyncEnd::NotMatch) });
            assert_eq!(ships.wants(STREAM), good);
        }
        out.clear();
        ships.on_fetch((1, 2), &nth(12, 800, 9), with(Some(9)), &mut out);
        let above = Boundary { lsn: Lsn(808), chain: 9 };
        assert_eq!(ships.on_reply(1, STREAM, above, None, &mut out), None, "never sent");
        assert_eq!(said(&mut out), [(1, Ok(12)), (1, end)]);
    }

    #[test]
    fn who_lacks_what_was_let_go_is_told_where_the_log_begins() {
        let (mut ships, mut out) = (Ships::default(), Vec::new());
        let begins = |base| Some((Led { base: Lsn(base), ..led(2) }, None));
        let recycled = |base| Err(SyncEnd::Recycled { base: Lsn(base) });
        ships.on_fetch((1, 2), &fetch(72, 9, 5), begins(80), &mut out);
        assert_eq!(said(&mut out), [(1, recycled(80))]);
        assert!(!ships.wants(STREAM), "nothing is kept, nor read in vain, for it");
        // It got so far by another way.
        ships.on_fetch((1, 2), &nth(8, 80, CHAIN_START), begins(80), &mut out);
        assert_eq!(said(&mut out), [(1, Ok(8))]);
        let due = ships.due(STREAM, Lsn(800), Nanos(1)).expect("it is shipped to");
        // An older leader of the standby has less, and changes nothing.
        ships.on_fetch((2, 2), &fetch(0, 9, 0), begins(80), &mut out);
        assert_eq!(said(&mut out), [(2, Err(SyncEnd::Superseded))]);
        assert!(ships.is_due(STREAM, due));
        ships.on_recycled(STREAM, Due { number: 7, ..due }, Lsn(88), &mut out);
        assert!(out.is_empty(), "of a FETCH before");
        ships.on_recycled(STREAM, due, Lsn(88), &mut out);
        assert_eq!(said(&mut out), [(1, recycled(88))]);
        assert!(!ships.wants(STREAM));
    }

    #[test]
    fn what_is_sent_and_not_held_is_bounded() {
        let (mut ships, mut out) = (Ships::default(), Vec::new());
        ships.on_fetch((1, 2), &fetch(800, 9, 1), Some((led(2), Some(9))), &mut out);
        let far = Lsn(1 << 40);
        let due = ships.due(STREAM, far, Nanos(1)).unwrap();
        assert_eq!(due, Due { conn: 1, number: 7, from: Lsn(800) });
        ships.set_reading(STREAM, due, true, Nanos(0));
        assert_eq!(ships.due(STREAM, far, Nanos(1)), None);
        ships.set_reading(STREAM, due, false, Nanos(5));
        assert_eq!(ships.due(STREAM, far, Nanos(4)), None);
        assert!(ships.due(STREAM, far, Nanos(5)).is_some());
        let end = Lsn(800 + SYNC_WINDOW_BYTES);
        ships.on_sent(STREAM, end);
        assert_eq!(ships.due(STREAM, far, Nanos(5)), None);
        let at = Boundary { lsn: Lsn(1600), chain: 3 };
        let held = ships.on_reply(1, STREAM, at, None, &mut out);
        assert_eq!(held, Some(Held { cluster: 2, held: Lsn(1600) }));
        assert_eq!(ships.due(STREAM, far, Nanos(5)).map(|due| due.from), Some(end));
        assert_eq!(ships.due(STREAM, end, Nanos(5)), None, "only what is committed");
    }
}
