//! Groups that came from another cluster, taken over in place: an importing leader puts its
//! ballot into the record headers, and nothing else changes.

use std::mem::offset_of;

use crate::body::{Body, RecordMeta, pad};
use crate::lsn::Ballot;
use crate::parse::restamp;
use crate::record::{Kind, RECORD_ALIGN, RecordHeader};

impl Body {
    /// Makes a body under `ballot` of records that stand in `bytes`, a slot without its head.
    /// `metas` are those records, whole and checked, one after the other. Records that do not
    /// start at the first byte are moved there; the rest of the last page is zeroed.
    ///
    /// # Panics
    /// When there is no record, one is no group, or `metas` are not of `bytes`.
    pub fn adopt(bytes: &mut [u8], mut metas: Vec<RecordMeta>, ballot: Ballot) -> Body {
        let first = metas.first().expect("a body has records").at as usize;
        let last = metas[metas.len() - 1].range().end.next_multiple_of(RECORD_ALIGN);
        assert!(first < last && last <= bytes.len(), "{first}..{last} of {}", bytes.len());
        if first > 0 {
            bytes.copy_within(first..last, 0);
        }
        let mut at = 0;
        for meta in &mut metas {
            assert!(meta.kind == Kind::Group && meta.at as usize == first + at);
            meta.at = at as u32;
            (meta.ballot, meta.flags) = (ballot, 0);
            // What was staged over there is a group like any other here.
            bytes[at + offset_of!(RecordHeader, flags)] = 0;
            at = meta.range().end.next_multiple_of(RECORD_ALIGN);
        }
        assert!(at == last - first, "records without gaps");
        let headers_crc = restamp(&mut bytes[..at], ballot).expect("records that were checked");
        pad(bytes, at);
        Body { len: at as u32, headers_crc, metas }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::BodyBuilder;
    use crate::group::{CHAIN_START, GroupKind, Origin};
    use crate::limits::BLOCK_HEAD_BYTES;
    use crate::lsn::Lsn;
    use crate::parse::parse_body;
    use crate::record::FLAG_STAGED;

    const MINE: Ballot = Ballot { round: 9, node: 3, incarnation: 7 };

    fn three_groups(bytes: &mut [u8]) -> Body {
        let ballot = Ballot { round: 1, node: 1, incarnation: 1 };
        let origin = Origin { role_epoch: 1, cluster: 1, ballot };
        let mut builder = BodyBuilder::new(bytes);
        let (mut lsn, mut chain) = (Lsn::ZERO, CHAIN_START);
        for len in [3, 500, 77] {
            let flags = if len == 500 { FLAG_STAGED } else { 0 };
            builder.begin_group(5, lsn, ballot, GroupKind::Data, origin, flags).unwrap();
            builder.push_entry(&vec![len as u8; len], 0, 0).unwrap();
            let meta = builder.end_group(u64::from(len as u32), chain);
            (lsn, chain) = (meta.end, meta.chain);
        }
        builder.finish()
    }

    #[test]
    fn an_adopted_body_differs_by_its_ballots_alone() {
        let mut bytes = vec![0; 8192 - BLOCK_HEAD_BYTES];
        let body = three_groups(&mut bytes);
        for skip in 0..3 {
            let mut slot = bytes.clone();
            let kept = body.metas[skip..].to_vec();
            slot[body.len as usize..].fill(0xee);
            let adopted = Body::adopt(&mut slot, kept.clone(), MINE);
            let len = adopted.len as usize;
            let again = parse_body(&slot[..len], adopted.headers_crc).unwrap();
            assert_eq!(again, adopted.metas);
            assert!(slot[len..adopted.block_bytes() - BLOCK_HEAD_BYTES].iter().all(|b| *b == 0));
            for (old, new) in kept.iter().zip(&adopted.metas) {
                assert_eq!(slot[new.range()], bytes[old.range()], "the group is untouched");
                assert_eq!((new.ballot, new.chain, new.lsn), (MINE, old.chain, old.lsn));
            }
        }
    }
}
