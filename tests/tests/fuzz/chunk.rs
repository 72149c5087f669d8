//! How it works: the body of a chunk, three groups that continue a log, changed, with its checksums
//! set right or not. What a standby takes of it is whole groups that follow its log by position and
//! chain; without a change it takes all of them. The same body compressed, changed and cut gives
//! as many bytes as it should, or is refused.

use palisade::forward::compress::{compress, decompress};
use palisade::forward::wire::ChunkHead;
use palisade::transfer::continues;
use palisade_tests::formats::mend_body;
use palisade_wal::{
    Ballot, BodyBuilder, Boundary, CHAIN_START, GroupKind, Lsn, Origin, parse_group,
};
use proptest::prelude::*;

use crate::change::changes;
use crate::run::fuzz;

const STREAM: u64 = 7;

/// Three groups from 0 on, and where each ends.
fn groups() -> (Vec<u8>, Vec<Boundary>) {
    let ballot = Ballot { round: 3, node: 1, incarnation: 9 };
    let origin = Origin { role_epoch: 1, cluster: 1, ballot };
    let mut slot = vec![0; 4096];
    let mut builder = BodyBuilder::new(&mut slot);
    let mut ends = vec![Boundary { lsn: Lsn::ZERO, chain: CHAIN_START }];
    for scn in 1..4 {
        let before = ends[ends.len() - 1];
        let kind = GroupKind::Data;
        builder.begin_group(STREAM, before.lsn, ballot, kind, origin, 0).expect("room");
        builder.push_entry(b"debit 5", 0, 0).expect("room");
        let meta = builder.end_group(scn, before.chain);
        ends.push(Boundary { lsn: meta.end, chain: meta.chain });
    }
    let len = builder.finish().len as usize;
    slot.truncate(len);
    (slot, ends)
}

#[test]
fn continuation() {
    let (body, ends) = groups();
    let input = (0..4usize, changes(), any::<bool>());
    fuzz("chunk::continuation", input, |(after, changes, mended)| {
        let mut bytes = body.clone();
        let headers_crc = mend_body(&mut bytes);
        assert!(bytes == body);
        changes.iter().for_each(|change| change.apply(&mut bytes, false));
        let headers_crc = if mended { mend_body(&mut bytes) } else { headers_crc };
        let head = ChunkHead {
            base: false,
            stream: STREAM,
            start: Lsn::ZERO,
            end: ends[3].lsn,
            committed: ends[3].lsn,
            headers_crc,
            role_epoch: 1,
            body_len: bytes.len() as u32,
            compressed: None,
        };
        let Ok(taken) = continues(&head, &bytes, ends[after]) else {
            assert!(!changes.is_empty(), "valid groups are refused");
            return;
        };
        let mut at = ends[after];
        for meta in &taken.metas {
            let group = parse_group(&bytes[meta.range()]).expect("a whole group");
            assert!(group.lsn() == at.lsn && group.follows(at.chain), "it follows");
            at = Boundary { lsn: group.end(), chain: group.chain.get() };
        }
        assert_eq!(at, taken.end);
        assert_eq!(at.lsn, ends[3].lsn, "all of the chunk is taken or nothing");
    });
}

#[test]
fn decompression() {
    let (body, _) = groups();
    let good = compress(&body).expect("headers repeat");
    let input = (changes(), 0..2 * body.len(), 0..2 * good.len());
    fuzz("chunk::decompression", input, |(changes, len, cut)| {
        let mut bytes = good.clone();
        changes.iter().for_each(|change| change.apply(&mut bytes, false));
        bytes.truncate(cut.max(1));
        let mut records = vec![0; len];
        let fits = decompress(&bytes, &mut records);
        if bytes == good {
            assert_eq!(fits, len == body.len(), "as many bytes as it was made of");
        }
        let mut whole = vec![0; body.len()];
        if decompress(&bytes, &mut whole) && bytes == good {
            assert!(whole == body);
        }
    });
}
