//! Bodies: made, read back, damaged, restamped.

use palisade_wal::{
    BadBody, BadPush, BadRecord, Ballot, BodyBuilder, CHAIN_START, FLAG_STAGED, Full, GroupKind,
    Kind, Lsn, Origin, RECORD_BYTES_MAX, check_headers_only, entries, parse_body, restamp,
};

use crate::disk::Dice;
use crate::node::BALLOT;

const ORIGIN: Origin = Origin { role_epoch: 4, cluster: 1, ballot: BALLOT };

/// Two groups of two streams and records between them.
fn sample(bytes: &mut [u8]) -> palisade_wal::Body {
    let mut body = BodyBuilder::new(bytes);
    body.push_record(Kind::Promise, 2, Lsn::ZERO, BALLOT, b"abc").unwrap();
    body.begin_group(2, Lsn(64), BALLOT, GroupKind::Data, ORIGIN, 0).unwrap();
    for len in [0usize, 1, 8, 300] {
        body.push_entry(&vec![7; len], 1, len as u64).unwrap();
    }
    body.end_group(99, CHAIN_START);
    // What is done between two turns.
    let state = body.suspend();
    let mut body = BodyBuilder::resume(bytes, state);
    body.push_record(Kind::Takeover, 3, Lsn(8), BALLOT, &5u64.to_le_bytes()).unwrap();
    body.begin_group(3, Lsn(8), BALLOT, GroupKind::Role, ORIGIN, FLAG_STAGED).unwrap();
    body.push_entry(b"start", 0, 0).unwrap();
    body.end_group(100, 5);
    body.finish()
}

#[test]
fn what_was_pushed_is_read_back() {
    let mut bytes = vec![0xAA; 4096 - 512];
    let body = sample(&mut bytes);
    assert!(body.holds_hard_state());
    let read = &bytes[..body.len as usize];
    assert_eq!(parse_body(read, body.headers_crc).unwrap(), body.metas);
    assert!(bytes[body.len as usize..].iter().all(|&byte| byte == 0), "the pad is zero");
    let group = body.metas[1];
    assert_eq!((group.stream, group.lsn, group.records, group.scn), (2, Lsn(64), 4, 99));
    let found: Vec<_> = entries(&read[group.range()]).collect();
    let lens: Vec<usize> = found.iter().map(|entry| entry.payload.len()).collect();
    assert_eq!(lens, [0, 1, 8, 300]);
    assert_eq!((found[0].lsn, found[3].end), (Lsn(64 + 96), group.end));
    assert!(found.windows(2).all(|pair| pair[0].end == pair[1].lsn));
    assert_eq!((body.metas[2].chain, body.metas[3].is_staged()), (5, true));
    let plain = check_headers_only(read, body.headers_crc).unwrap();
    assert_eq!((plain[1].chain, plain[1].end), (0, group.end));
}

#[test]
fn every_flipped_bit_outside_the_pads_is_seen() {
    let mut bytes = vec![0; 4096 - 512];
    let body = sample(&mut bytes);
    let mut read = bytes[..body.len as usize].to_vec();
    let covered: Vec<_> =
        body.metas.iter().flat_map(|meta| meta.at as usize..meta.range().end).collect();
    for at in covered {
        for bit in 0..8 {
            read[at] ^= 1 << bit;
            assert!(parse_body(&read, body.headers_crc).is_err(), "byte {at} bit {bit}");
            read[at] ^= 1 << bit;
        }
    }
    for len in 0..read.len() {
        assert!(parse_body(&read[..len], body.headers_crc).is_err());
    }
}

#[test]
fn any_bytes_are_read_without_a_panic() {
    let mut dice = Dice::new(5);
    let mut bytes = vec![0; 4096 - 512];
    let body = sample(&mut bytes);
    for _ in 0..20_000 {
        let mut read = bytes[..body.len as usize].to_vec();
        for _ in 0..1 + dice.below(3) {
            let at = dice.below(read.len() as u64) as usize;
            read[at] = dice.roll() as u8;
        }
        read.truncate(dice.below(read.len() as u64 + 1) as usize);
        // Restamping gives the checksum that an attacker would, so that all lengths are used.
        if let Ok(crc) = restamp(&mut read, BALLOT) {
            let _ = parse_body(&read, crc);
            if let Ok(metas) = check_headers_only(&read, crc) {
                for meta in metas {
                    entries(&read[meta.range()]).for_each(drop);
                }
            }
        }
        let _ = entries(&read).count();
    }
}

#[test]
fn restamping_changes_the_ballots_only() {
    let mut bytes = vec![0; 4096 - 512];
    let body = sample(&mut bytes);
    let before = bytes[..body.len as usize].to_vec();
    let mut read = before.clone();
    let ballot = Ballot { round: 8, node: 9, incarnation: 10 };
    let crc = restamp(&mut read, ballot).unwrap();
    assert_ne!(crc, body.headers_crc);
    let metas = parse_body(&read, crc).unwrap();
    for (new, old) in metas.iter().zip(&body.metas) {
        assert_eq!(new.ballot, ballot);
        assert_eq!(palisade_wal::RecordMeta { ballot: old.ballot, ..*new }, *old);
        assert_eq!(read[new.range()], before[old.range()]);
    }
}

#[test]
fn a_group_is_copied_as_it_is() {
    let mut bytes = vec![0; 4096 - 512];
    let body = sample(&mut bytes);
    let meta = body.metas[1];
    let group = bytes[meta.range()].to_vec();
    let mut copy = vec![0; 4096 - 512];
    let mut builder = BodyBuilder::new(&mut copy);
    let ballot = Ballot { round: 8, ..BALLOT };
    let copied = builder.push_raw_group(&group, ballot, FLAG_STAGED).unwrap();
    assert_eq!((copied.chain, copied.lsn, copied.end), (meta.chain, meta.lsn, meta.end));
    assert_eq!((copied.ballot, copied.is_staged()), (ballot, true));
    let mut hurt = group.clone();
    hurt[200] ^= 1;
    let error = builder.push_raw_group(&hurt, ballot, 0).unwrap_err();
    assert_eq!(error, BadPush::Group(BadRecord::EntriesChecksum));
    while builder.push_raw_group(&group, ballot, 0).is_ok() {}
    assert_eq!(builder.push_raw_group(&group, ballot, 0).unwrap_err(), BadPush::Full(Full));
    let done = builder.finish();
    assert_eq!(copy[done.metas[0].range()], group);
    assert!(parse_body(&copy[..done.len as usize], done.headers_crc).is_ok());
}

#[test]
fn a_full_body_says_so_and_stays_whole() {
    let mut bytes = vec![0; 4096 - 512];
    let mut body = BodyBuilder::new(&mut bytes);
    body.begin_group(2, Lsn::ZERO, BALLOT, GroupKind::Data, ORIGIN, 0).unwrap();
    let room = body.room();
    assert!(body.fits_entry(room - 24) && !body.fits_entry(room - 23));
    assert_eq!(body.push_entry(&vec![1; room], 0, 0), Err(Full));
    assert_eq!(body.push_entry(&vec![1; room - 24], 0, 0), Ok(Lsn(96)));
    assert_eq!((body.room(), body.push_entry(&[], 0, 0)), (0, Err(Full)));
    body.end_group(1, CHAIN_START);
    assert_eq!(body.push_record(Kind::Base, 2, Lsn::ZERO, BALLOT, &[]), Err(Full));
    assert_eq!(body.begin_group(2, Lsn(8), BALLOT, GroupKind::Data, ORIGIN, 0), Err(Full));
    let body = body.finish();
    assert_eq!(body.block_bytes(), 4096);
    assert!(parse_body(&bytes, body.headers_crc).is_ok());
    assert_eq!(parse_body(&bytes, body.headers_crc ^ 1), Err(BadBody::Headers));
}

#[test]
fn the_largest_record_and_group_fit_a_block() {
    let mut bytes = vec![0; (2 << 20) - 512];
    let mut body = BodyBuilder::new(&mut bytes);
    body.begin_group(2, Lsn::ZERO, BALLOT, GroupKind::Data, ORIGIN, 0).unwrap();
    body.push_entry(&vec![1; RECORD_BYTES_MAX], 0, 0).unwrap();
    let rest = body.room() - 24;
    body.push_entry(&vec![2; rest], 0, 0).unwrap();
    let meta = body.end_group(1, CHAIN_START);
    assert_eq!(meta.len as usize, palisade_wal::GROUP_BYTES_MAX);
    let body = body.finish();
    let len = body.len as usize;
    assert_eq!(parse_body(&bytes[..len], body.headers_crc).unwrap(), [meta]);
}
