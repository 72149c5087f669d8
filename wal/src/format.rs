//! Compares the tables of FORMAT.md with the structs.

use std::mem::{offset_of, size_of};

use crate::block::BlockHead;
use crate::group::{EntryHeader, GroupHeader};
use crate::identity::IdentityRecord;
use crate::index::{IndexHeader, IndexPoint, IndexStream};
use crate::record::{Kind, RecordHeader};
use crate::segment::SegmentHeader;

macro_rules! fields {
    ($name:ident: $($field:ident)*) => {
        (size_of::<$name>(), vec![$((stringify!($field), offset_of!($name, $field))),*])
    };
}

/// Bytes of a struct, and its fields with their offsets.
type Fields = (usize, Vec<(&'static str, usize)>);

const TEXT: &str = include_str!("../FORMAT.md");

/// The rows (offset, bytes, field) of the first table after a heading.
fn table(heading: &str) -> Vec<(usize, usize, &'static str)> {
    let after = TEXT.lines().skip_while(|line| *line != heading).skip(1);
    let section = after.take_while(|line| !line.starts_with('#'));
    let row = |line: &'static str| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let offset = cells.next()?.parse().ok()?;
        Some((offset, cells.next()?.parse().ok()?, cells.next()?))
    };
    section.filter_map(row).collect()
}

#[test]
fn the_tables_are_the_structs() {
    let structs: [(&str, Fields); 9] = [
        (
            "## Identity file",
            fields!(IdentityRecord: magic format cluster node shard shards role incarnation boots
                round_ceiling generation newest_segment segment_before first_segment first_block
                reserved crc),
        ),
        (
            "## Segment header",
            fields!(SegmentHeader: magic format cluster node shard incarnation seq bytes
                kept_segment kept_block kept_crc recovered first_segment first_block reserved crc),
        ),
        (
            "## Block head",
            fields!(BlockHead: magic format cluster node shard incarnation segment_seq block_seq
                offset body_len total_len headers_crc previous_header_crc durable_upto
                hard_state_block reserved crc),
        ),
        (
            "## Record header",
            fields!(RecordHeader: kind flags reserved len stream lsn round incarnation node
                body_crc reserved2),
        ),
        (
            "## Group header",
            fields!(GroupHeader: stream lsn len records scn role_epoch round incarnation node
                cluster kind reserved entries_crc reserved2 chain),
        ),
        ("## Entry header", fields!(EntryHeader: len reserved producer sequence)),
        (
            "### Index header",
            fields!(IndexHeader: format complete streams points first_block last_block end
                reserved),
        ),
        (
            "### Index stream",
            fields!(IndexStream: stream first_lsn last_lsn first_scn last_scn first_point points),
        ),
        ("### Index point", fields!(IndexPoint: lsn offset)),
    ];
    for (heading, (size, fields)) in structs {
        let rows = table(heading);
        let mut end = 0;
        assert_eq!(rows.len(), fields.len(), "{heading}");
        for ((offset, bytes, name), (field, at)) in rows.into_iter().zip(fields) {
            assert_eq!((name, offset), (field, at), "{heading}");
            assert_eq!(offset, end, "{heading}: {name} follows the field before");
            end = offset + bytes;
        }
        assert_eq!(end, size, "{heading}");
    }
}

#[test]
fn every_kind_is_listed_with_its_code() {
    for kind in Kind::ALL {
        assert!(TEXT.contains(&format!("{} {kind:?}", kind as u8)), "{kind:?}");
    }
    assert!(TEXT.contains(&format!("{:#x}", crate::group::CHAIN_START)));
}
