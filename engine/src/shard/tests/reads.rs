//! Reads of the active segment for the forwarder.

use std::collections::BTreeMap;

use palisade_wal::{
    Ballot, BodyBuilder, Boundary, GroupHeader, GroupKind, Origin, RECORD_HEADER_BYTES,
};
use zerocopy::FromBytes;

use super::*;
use crate::forward::{Depth, LocateRequest, Located};
use crate::stream::base::Base;

/// Cursors at different places of one block share a read, and each gets what it asked for.
#[test]
fn cursors_in_one_extent_share_a_read() {
    let home = Home::new(1);
    let mut seat = home.open();
    let stream = seat.create(1).remove(0);
    // Of one turn: one block.
    let mut futures: Vec<AppendFuture> =
        (0..3).map(|number| stream.append(vec![number; 100])).collect();
    let mut ends = vec![Lsn::ZERO];
    for future in &mut futures {
        ends.push(seat.until(|_| future.try_take()).expect("acked").end_lsn);
    }
    let mut last = stream.append(vec![9; 100]);
    ends.push(seat.until(|_| last.try_take()).expect("acked").end_lsn);

    // Of the first block twice, and of the second one.
    let places = [ends[0], ends[1], ends[3]];
    for (id, from) in places.iter().enumerate() {
        let (id, stream) = (id as u64, stream.id());
        let request = LocateRequest {
            id,
            stream,
            from: *from,
            max_bytes: 1 << 18,
            missed: false,
            depth: Depth::Shown,
            chain: 0,
        };
        seat.forwarder.request(ForwardRequest::Locate(request)).expect("room");
    }
    let mut most = 0;
    let mut found = BTreeMap::new();
    seat.until(|seat| {
        most = most.max(seat.shard.jobs.running.len());
        while let Some(reply) = seat.forwarder.pop_reply() {
            let Located::Active(recent) = reply.located else { panic!("another answer") };
            found.insert(reply.id, (recent.start, recent.end));
        }
        (found.len() == places.len()).then_some(())
    });
    assert_eq!(most, 1, "one read brings all");
    // Groups are handed over whole.
    for (id, from) in places.iter().enumerate() {
        let (start, end) = found[&(id as u64)];
        assert!(start <= *from && *from < end, "{start}..{end} for {from}");
        assert_eq!(end, ends[4], "all that the read brings");
    }
}

/// Below a base that is committed nothing is sent as it stands: a standby that asks for a base gets
/// one that is made for its own log, any other the word that it is let go.
#[test]
fn what_stands_below_an_own_base_is_sent_to_nobody() {
    let home = Home::new(1);
    let mut seat = home.open();
    let stream = seat.create(1).remove(0);
    let mut ends = vec![Lsn::ZERO];
    for number in 0..3 {
        let mut future = stream.append(vec![number; 100]);
        ends.push(seat.until(|_| future.try_take()).expect("acked").end_lsn);
    }
    let id = stream.id();
    let end = Boundary { lsn: ends[2], chain: 77 };
    let mut bytes = vec![0; 4096];
    let mut builder = BodyBuilder::new(&mut bytes);
    let (ballot, origin) = (Ballot { round: 1, node: 1, incarnation: 1 }, Origin::default());
    builder.begin_group(id, Lsn::ZERO, ballot, GroupKind::Base, origin, 0).unwrap();
    builder.push_entry(&Base::default().encode(), 0, 0).unwrap();
    let meta = builder.end_base(5, end, 99);
    let state = seat.shard.streams.get_mut(&id).expect("a stream");
    let group = &bytes[meta.range()];
    state.derived.on_logged(group, GroupKind::Base, Lsn::ZERO, ends[2], 5);
    state.derived.on_committed(ends[3]);
    assert_eq!(seat.shard.kept_from(id), ends[2]);
    // Nor to a SYNC standby.
    assert_eq!(seat.shard.led(id).map(|led| led.base), Some(ends[2]));
    let asks = [(Lsn::ZERO, Depth::Kept), (ends[1], Depth::Based), (ends[2], Depth::Kept)];
    for (at, (from, depth)) in asks.into_iter().enumerate() {
        let (id, stream, max_bytes, missed, chain) = (at as u64, id, 1 << 18, false, 55);
        let request = LocateRequest { id, stream, from, max_bytes, missed, depth, chain };
        seat.forwarder.request(ForwardRequest::Locate(request)).expect("room");
    }
    let mut found = BTreeMap::new();
    seat.until(|seat| {
        while let Some(reply) = seat.forwarder.pop_reply() {
            found.insert(reply.id, reply.located);
        }
        (found.len() == asks.len()).then_some(())
    });
    assert!(matches!(found[&0], Located::Recycled(None)));
    assert!(matches!(&found[&2], Located::Active(recent) if recent.start == ends[2]));
    let Located::Recycled(Some(base)) = &found[&1] else { panic!("no base") };
    assert_eq!((base.start, base.end), (ends[1], ends[2]));
    let group = &base.records[RECORD_HEADER_BYTES..];
    let (group, _) = GroupHeader::read_from_prefix(group).unwrap();
    assert!(group.is_base() && group.follows(55) && group.chain.get() == 77);
}

/// What a failover to the SYNC standby could take back, nobody has seen.
#[test]
fn nobody_is_shown_what_the_sync_standby_lacks() {
    let home = Home::new(1);
    let mut seat = home.open();
    let stream = seat.create(1).remove(0);
    seat.mark(stream.id());
    seat.hold(stream.id());
    let held = seat.shard.sync_status(stream.id()).expect("it is here").committed;
    let mut waits = stream.append("gated");
    let end = seat.committed(stream.id(), held);
    let read = |seat: &mut Seat| {
        let (stream, follow) = (stream.id(), false);
        let answer = seat.port.request(|reply| Command::Read {
            stream,
            from: held,
            after: None,
            follow,
            reply,
        });
        let answer = answer.expect("room");
        seat.until(|_| answer.try_take()).expect("it is sound").records.len()
    };
    assert!(held < end && waits.try_take().is_none(), "it waits for the SYNC standby");
    assert_eq!(read(&mut seat), 0);
    assert_eq!(seat.shard.streams[&stream.id()].published.0, held, "to no other cluster either");
    seat.hold(stream.id());
    assert_eq!(seat.until(|_| waits.try_take()).expect("acked").end_lsn, end);
    assert_eq!(read(&mut seat), 1);
    assert_eq!(seat.shard.streams[&stream.id()].published.0, end);
}

/// A reader of this process goes on where its last read ended: what stands there has to follow it.
#[test]
fn a_read_follows_the_one_before_it() {
    let home = Home::new(1);
    let mut seat = home.open();
    let stream = seat.create(1).remove(0);
    for number in 0..2 {
        let mut future = stream.append(vec![number; 100]);
        seat.until(|_| future.try_take()).expect("acked");
    }
    let read = |seat: &mut Seat, from, after| {
        let (stream, follow) = (stream.id(), false);
        let answer =
            seat.port.request(|reply| Command::Read { stream, from, after, follow, reply });
        let answer = answer.expect("room");
        seat.until(|_| answer.try_take())
    };
    let whole = read(&mut seat, Lsn(0), None).expect("it is sound");
    assert_eq!(whole.records.len(), 2);
    let start = Some(palisade_wal::CHAIN_START);
    assert_eq!(read(&mut seat, Lsn(0), start).expect("it is sound").records, whole.records);
    let other = read(&mut seat, Lsn(0), Some(palisade_wal::CHAIN_START ^ 1));
    assert_eq!(other.expect_err("it follows something else").kind(), ErrorKind::Corrupt);
    // At the end there is nothing to compare with: it is kept for the next read.
    let end = read(&mut seat, whole.next, whole.chain).expect("nothing is there");
    assert_eq!((end.records.len(), end.chain), (0, whole.chain));
}
