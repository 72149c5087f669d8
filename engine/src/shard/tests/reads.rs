//! Reads of the active segment for the forwarder.

use std::collections::BTreeMap;

use super::*;
use crate::forward::{Depth, LocateRequest, Located};

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
