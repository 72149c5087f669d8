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
                term_epoch term_cluster
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
                body_crc span),
        ),
        (
            "## Group header",
            fields!(GroupHeader: stream lsn len records scn role_epoch round incarnation node
                cluster kind reserved entries_crc span proof chain),
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

#[test]
fn the_table_of_limits_has_the_numbers_of_the_code() {
    use crate::limits as l;
    let bytes = |bytes: usize| match bytes {
        bytes if bytes.is_multiple_of(1 << 30) => format!("{} GiB", bytes >> 30),
        bytes if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        bytes => format!("{} KiB", bytes >> 10),
    };
    let power = |number: u64| format!("2^{}", number.ilog2());
    let group = bytes(crate::group::GROUP_BYTES_MAX + l::BLOCK_ALIGN);
    let (least, most) = (l::SEGMENT_BYTES_MIN as usize, l::SEGMENT_BYTES_MAX as usize);
    let rows = [
        ("block", bytes(l::BLOCK_BYTES_MAX)),
        ("payload of a record", bytes(crate::group::RECORD_BYTES_MAX)),
        ("group", format!("{group} - {}", l::BLOCK_ALIGN)),
        ("small body", format!("below {}", bytes(l::SMALL_BODY_BYTES))),
        (
            "one vectored write",
            format!("{} blocks, {}", l::WRITE_RUNS_MAX, bytes(l::WRITE_BYTES_MAX)),
        ),
        ("segment", format!("{} to {}", bytes(least), bytes(most))),
        ("segments of a shard", l::SEGMENTS_MAX.to_string()),
        ("sequence of a segment", power(crate::segment::SEGMENT_SEQ_FOUND_MAX)),
        ("number of a block", power(l::BLOCK_SEQ_MAX)),
        ("generation of the identity file", power(crate::identity::GENERATION_FOUND_MAX)),
    ];
    let section = TEXT.split("\n## Limits\n").nth(1).expect("a heading");
    let section = section.split("\n## ").next().expect("a section");
    let table: Vec<&str> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert_eq!(table.len(), rows.len(), "a row for each limit");
    for (line, (name, value)) in table.iter().zip(rows) {
        let mut cells = line.split('|').map(str::trim).skip(1);
        assert!(cells.next().is_some_and(|cell| cell.starts_with(name)), "{line}: {name}");
        assert!(cells.next().is_some_and(|cell| cell.starts_with(&value)), "{line}: {value}");
    }
}
