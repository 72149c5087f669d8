//! What stands on a disk: the identity file, segments, and what is in their blocks.

use palisade::config::Role;
use palisade::paxos::Config;
use palisade::stream::catalogue::CATALOGUE_STREAM;
use palisade::stream::image::StreamImage;
use palisade::stream::mark::Mark;
use palisade_wal::{
    Ballot, BlockFacts, Body, BodyBuilder, Boundary, CHAIN_START, CheckpointRecord, Expect, Extent,
    FLAG_STAGED, GROUP_HEADER_BYTES, GroupKind, IDENTITY_BYTES, Identity, IndexHeader, IndexPoint,
    IndexStream, Kept, Kind, LogImage, LogStart, Lsn, Origin, Place, RECORD_HEADER_BYTES,
    RecordMeta, SEGMENT_COPIES, SEGMENT_COPY_BYTES, SegmentHeader, Started, StreamLog,
    decode_identity, encode_identity, entries, parse_block, parse_body, parse_group,
    parse_segment_index, seal,
};
use zerocopy::IntoBytes;

use super::messages::{BALLOT, members};
use super::{Format, Sample, leave};

pub(super) const ALL: &[Format] = &[
    Format {
        name: "identity",
        samples: identities,
        again: identity_again,
        mend: mend_identity,
        is_exact: true,
    },
    Format { name: "group", samples: groups, again: group_again, mend: mend_group, is_exact: true },
    Format {
        name: "block",
        samples: || blocks(&body_of_all_kinds()),
        again: block_again,
        mend: mend_block,
        is_exact: true,
    },
    Format {
        name: "segment",
        samples: segments,
        again: segment_again,
        mend: mend_segment,
        is_exact: true,
    },
    Format {
        name: "checkpoint",
        samples: checkpoints,
        again: |bytes| Some(CheckpointRecord::decode(bytes).ok()?.encode()),
        mend: leave,
        is_exact: true,
    },
    Format {
        name: "log-image",
        samples: || vec![Sample::new("a log", encoded(&log_image()))],
        again: log_image_again,
        mend: leave,
        is_exact: true,
    },
    Format {
        name: "stream-image",
        samples: || vec![Sample::new("the catalogue", stream_image())],
        again: stream_image_again,
        mend: leave,
        // What expired is not told again.
        is_exact: false,
    },
];

const HEAD: usize = 512;
const PAGE: usize = 4096;
const SEGMENT: usize = 64 << 10;
const STREAM: u64 = 7;

/// Of whom the samples are.
pub const OWNER: Expect =
    Expect { cluster: 1, node: 2, incarnation: 77, shard: 0, segment_seq: 5, offset: 0 };

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")) as usize
}

// The identity file.

fn identities() -> Vec<Sample> {
    let start = LogStart { segment: 3, block: 40 };
    let identity = Identity {
        cluster: 1,
        node: 2,
        incarnation: 77,
        shard: 0,
        shards: 4,
        role: 1,
        boots: 3,
        round_ceiling: 64,
        started: Started { newest: 5, before: 4, start },
        term_epoch: 6,
        term_cluster: 7,
    };
    let mut bytes = vec![0; IDENTITY_BYTES];
    encode_identity(&identity, 9, &mut bytes);
    vec![Sample::new("a copy", bytes)]
}

fn identity_again(bytes: &[u8]) -> Option<Vec<u8>> {
    let (identity, generation) = decode_identity(bytes)?;
    let mut again = vec![0; IDENTITY_BYTES];
    encode_identity(&identity, generation, &mut again);
    again.extend_from_slice(&bytes[IDENTITY_BYTES..]);
    Some(again)
}

/// Sets the checksum at the end of a copy of 512 bytes.
fn mend_identity(bytes: &mut [u8]) {
    if let Some(copy) = bytes.get_mut(..IDENTITY_BYTES) {
        put(copy, IDENTITY_BYTES - 4, &[0; 4]);
        let crc = crc32c::crc32c(copy);
        put(copy, IDENTITY_BYTES - 4, &crc.to_le_bytes());
    }
}

// Groups.

fn origin() -> Origin {
    Origin { role_epoch: 2, cluster: 1, ballot: Ballot { round: 4, node: 1, incarnation: 71 } }
}

fn group(kind: GroupKind, payloads: &[&[u8]]) -> (Vec<u8>, RecordMeta) {
    let mut slot = vec![0; PAGE];
    let mut builder = BodyBuilder::new(&mut slot);
    builder.begin_group(STREAM, Lsn(128), BALLOT, kind, origin(), 0).expect("there is room");
    for (payload, sequence) in payloads.iter().zip(1..) {
        builder.push_entry(payload, 9, sequence).expect("there is room");
    }
    let meta = builder.end_group(1_000, CHAIN_START);
    builder.finish();
    (slot[meta.range()].to_vec(), meta)
}

fn groups() -> Vec<Sample> {
    let of = |name, kind, payloads: &[&[u8]]| Sample::new(name, group(kind, payloads).0);
    vec![
        of("data", GroupKind::Data, &[b"debit 5", b"credit 5", b""]),
        of("role", GroupKind::Role, &[b"start"]),
        of("mark", GroupKind::Mark, &[b"sync"]),
        of("catalogue", GroupKind::Catalogue, &[&[1; 16]]),
        of("mark", GroupKind::Mark, &[&[1; 16]]),
        of("registry", GroupKind::Registry, &[&[2; 24]]),
        Sample::new("base", base()),
    ]
}

/// From 128 to 640, in more bytes than that or fewer.
fn base() -> Vec<u8> {
    let mut slot = vec![0; PAGE];
    let mut builder = BodyBuilder::new(&mut slot);
    let opened = builder.begin_group(STREAM, Lsn(128), BALLOT, GroupKind::Base, origin(), 0);
    opened.expect("there is room");
    builder.push_entry(&[3; 40], 0, 0).expect("there is room");
    let meta = builder.end_base(
        1_000,
        Boundary { lsn: Lsn(640), chain: 0x1122_3344_5566_7788 },
        CHAIN_START,
    );
    builder.finish();
    slot[meta.range()].to_vec()
}

fn group_again(bytes: &[u8]) -> Option<Vec<u8>> {
    let header = parse_group(bytes).ok()?;
    if !header.follows(CHAIN_START) {
        return None;
    }
    let mut slot = vec![0; RECORD_HEADER_BYTES + bytes.len() + PAGE];
    let mut builder = BodyBuilder::new(&mut slot);
    let kind = GroupKind::from_code(header.kind)?;
    let origin = Origin {
        role_epoch: header.role_epoch.get(),
        cluster: header.cluster.get(),
        ballot: Ballot {
            round: header.round.get(),
            node: header.node.get(),
            incarnation: header.incarnation.get(),
        },
    };
    let (stream, lsn) = (header.stream.get(), header.lsn());
    builder.begin_group(stream, lsn, BALLOT, kind, origin, 0).expect("there is room");
    let mut at = Lsn(lsn.0 + GROUP_HEADER_BYTES as u64);
    for entry in entries(bytes) {
        assert_eq!(entry.lsn, at, "entries follow each other");
        at = entry.end;
        builder.push_entry(entry.payload, entry.producer, entry.sequence).expect("there is room");
    }
    let scn = header.scn.get();
    let meta = if header.is_base() {
        let end = Boundary { lsn: header.end(), chain: header.chain.get() };
        builder.end_base(scn, end, CHAIN_START)
    } else {
        assert_eq!(at, header.end(), "entries fill the group");
        builder.end_group(scn, CHAIN_START)
    };
    builder.finish();
    Some(slot[meta.range()].to_vec())
}

fn mend_group(bytes: &mut [u8]) {
    if bytes.len() < GROUP_HEADER_BYTES {
        return;
    }
    let crc = crc32c::crc32c(&bytes[GROUP_HEADER_BYTES..]);
    put(bytes, 68, &crc.to_le_bytes());
    let Ok(header) = parse_group(bytes) else { return };
    if header.is_base() {
        put(bytes, 80, &palisade_wal::proof(CHAIN_START, &header).to_le_bytes());
    } else {
        let chain = palisade_wal::chain(CHAIN_START, &header);
        put(bytes, 88, &chain.to_le_bytes());
    }
}

// Blocks.

/// A body with a record of every kind that a block may hold.
fn body_of_all_kinds() -> (Vec<u8>, Body) {
    let (data, _) = group(GroupKind::Data, &[b"debit 5", b"credit 5"]);
    let mut slot = vec![0; 2 * PAGE];
    let mut builder = BodyBuilder::new(&mut slot);
    builder.push_raw_group(&data, BALLOT, 0).expect("there is room");
    builder.push_raw_group(&data, BALLOT, FLAG_STAGED).expect("there is room");
    builder.push_moved_group(&data, BALLOT, FLAG_STAGED).expect("there is room");
    for kind in Kind::ALL.into_iter().filter(|kind| !kind.is_group()) {
        let bytes: &[u8] = if kind == Kind::Closing { b"" } else { b"twelve bytes" };
        builder.push_record(kind, STREAM, Lsn(256), BALLOT, bytes).expect("there is room");
    }
    let body = builder.finish();
    slot.truncate(body.len as usize);
    (slot, body)
}

fn facts(place: Expect, block_seq: u64, body: &Body) -> BlockFacts {
    BlockFacts {
        place,
        block_seq,
        body_len: body.len,
        headers_crc: body.headers_crc,
        durable_upto: block_seq - 1,
        hard_state_block: block_seq,
        previous_header_crc: 0,
    }
}

fn blocks((bytes, body): &(Vec<u8>, Body)) -> Vec<Sample> {
    let mut block = vec![0; body.block_bytes()];
    seal(&mut block[..HEAD], &facts(OWNER.at(PAGE as u64), 41, body));
    put(&mut block, HEAD, bytes);
    vec![Sample::new("every kind of record", block)]
}

fn block_again(bytes: &[u8]) -> Option<Vec<u8>> {
    one_block(bytes, &OWNER.at(PAGE as u64))
}

/// The block at the start of `bytes`, made again from what was read of it.
fn one_block(bytes: &[u8], place: &Expect) -> Option<Vec<u8>> {
    let head = parse_block(bytes, place).ok()?;
    assert!(head.bytes().is_multiple_of(PAGE) && head.bytes() >= HEAD);
    let body = head.body(bytes)?;
    let metas = parse_body(body, head.headers_crc.get()).ok()?;
    let mut again = vec![0; head.bytes()];
    let mut builder = BodyBuilder::new(&mut again[HEAD..]);
    for meta in &metas {
        let bytes = &body[meta.range()];
        match meta.kind {
            Kind::Group => builder.push_raw_group(bytes, meta.ballot, meta.flags).ok()?,
            Kind::Moved => builder.push_moved_group(bytes, meta.ballot, meta.flags).ok()?,
            kind => builder.push_record(kind, meta.stream, meta.lsn, meta.ballot, bytes).ok()?,
        };
    }
    let made = builder.finish();
    // Pads have no checksum: they are what they were.
    for meta in &metas {
        let pad = meta.range().end..meta.range().end.next_multiple_of(8);
        again[HEAD..][pad.clone()].copy_from_slice(&body[pad]);
    }
    assert_eq!(made.metas, metas, "records are read as they are made");
    let facts = BlockFacts {
        place: *place,
        block_seq: head.seq(),
        body_len: made.len,
        headers_crc: made.headers_crc,
        durable_upto: head.durable_upto.get(),
        hard_state_block: head.hard_state_block.get(),
        previous_header_crc: head.previous_header_crc.get(),
    };
    seal(&mut again[..HEAD], &facts);
    let end = HEAD + body.len();
    let pad = bytes.get(end..again.len())?;
    again.truncate(end);
    again.extend_from_slice(pad);
    again.extend_from_slice(&bytes[again.len()..]);
    Some(again)
}

fn mend_block(bytes: &mut [u8]) {
    mend_block_after(bytes, None);
}

/// Sets the checksums of the block at the start of `bytes`, as far as its lengths are right, and
/// that of the block before. Gives its own, and its length.
fn mend_block_after(bytes: &mut [u8], before: Option<u32>) -> Option<(u32, usize)> {
    let magic = palisade_wal::BLOCK_MAGIC.to_le_bytes();
    let (body_len, total) = match bytes.get(..HEAD) {
        Some(head) if head[..8] == magic => (u32_at(head, 56), u32_at(head, 60)),
        _ => return None,
    };
    let body = bytes.get_mut(HEAD..HEAD.checked_add(body_len)?)?;
    let headers_crc = mend_body(body);
    let head = &mut bytes[..HEAD];
    put(head, 64, &headers_crc.to_le_bytes());
    if let Some(before) = before {
        put(head, 68, &before.to_le_bytes());
    }
    let mut crc = crc32c::crc32c(&head[24..40]);
    crc = crc32c::crc32c_append(crc, &head[48..56]);
    put(head, HEAD - 4, &[0; 4]);
    crc = crc32c::crc32c_append(crc, head);
    put(head, HEAD - 4, &crc.to_le_bytes());
    Some((crc, total))
}

/// Sets the checksums of the records of a body; gives that of their headers.
pub fn mend_body(body: &mut [u8]) -> u32 {
    let (mut at, mut headers_crc) = (0, 0);
    while at + RECORD_HEADER_BYTES <= body.len() {
        let (header, rest) = body[at..].split_at_mut(RECORD_HEADER_BYTES);
        let len = u32_at(header, 4);
        let Some(bytes) = rest.get_mut(..len) else { break };
        let is_group = [Kind::Group, Kind::Moved].iter().any(|kind| *kind as u8 == header[0]);
        let crc = if is_group && len >= GROUP_HEADER_BYTES {
            let entries_crc = crc32c::crc32c(&bytes[GROUP_HEADER_BYTES..]);
            put(bytes, 68, &entries_crc.to_le_bytes());
            crc32c::crc32c(&bytes[..GROUP_HEADER_BYTES])
        } else {
            crc32c::crc32c(bytes)
        };
        put(header, 44, &crc.to_le_bytes());
        headers_crc = crc32c::crc32c_append(headers_crc, header);
        at += RECORD_HEADER_BYTES + len.next_multiple_of(8);
    }
    headers_crc
}

// Segments.

/// Two blocks after the header, then zeros; and the same sealed, with its index.
fn segments() -> Vec<Sample> {
    let kept = Kept { segment_seq: 4, block_seq: 40, header_crc: 0xAABB_CCDD };
    let start = LogStart { segment: 3, block: 40 };
    let header = SegmentHeader::new(&OWNER, SEGMENT as u64, Some(kept)).with_start(start);
    let mut open = vec![0; SEGMENT];
    header.encode(&mut open[..PAGE]);
    let (bytes, body) = body_of_all_kinds();
    let (mut at, mut before) = (PAGE, kept.header_crc);
    for block in 41..43 {
        let place = OWNER.at(at as u64);
        let facts = BlockFacts { previous_header_crc: before, ..facts(place, block, &body) };
        before = seal(&mut open[at..at + HEAD], &facts);
        put(&mut open, at + HEAD, &bytes);
        at += body.block_bytes();
    }
    let mut sealed = open.clone();
    let end = SEGMENT - PAGE;
    let index = index(at);
    let mut builder = BodyBuilder::new(&mut sealed[end + HEAD..]);
    let pushed = builder.push_record(Kind::SegmentIndex, 0, Lsn::ZERO, Ballot::NONE, &index);
    pushed.expect("there is room");
    let body = builder.finish();
    let place = OWNER.at(end as u64);
    let facts =
        BlockFacts { durable_upto: 42, previous_header_crc: before, ..facts(place, 42, &body) };
    seal(&mut sealed[end..end + HEAD], &facts);
    assert!(parse_segment_index(&sealed, &OWNER).is_ok(), "the index is read");
    vec![Sample::new("open", open), Sample::new("sealed", sealed)]
}

/// The bytes of the index of [`segments`], whose blocks end at `end`.
fn index(end: usize) -> Vec<u8> {
    let header = IndexHeader {
        format: 1.into(),
        complete: 1.into(),
        streams: 1.into(),
        points: 2.into(),
        first_block: 41.into(),
        last_block: 42.into(),
        end: (end as u64).into(),
        reserved: 0.into(),
    };
    let stream = IndexStream {
        stream: STREAM.into(),
        first_lsn: 128.into(),
        last_lsn: 288.into(),
        first_scn: 1_000.into(),
        last_scn: 1_000.into(),
        first_point: 0.into(),
        points: 2.into(),
    };
    let block = (end - PAGE) / 2;
    let point = |at: usize| IndexPoint { lsn: 128.into(), offset: (at as u64).into() };
    let points = [point(PAGE), point(PAGE + block)];
    [header.as_bytes(), stream.as_bytes(), points[0].as_bytes(), points[1].as_bytes()].concat()
}

fn segment_again(bytes: &[u8]) -> Option<Vec<u8>> {
    let header = SegmentHeader::parse(bytes.get(..PAGE)?, &OWNER).ok()?;
    let mut again = bytes.to_vec();
    // Of two copies the damaged one stays what it was.
    let mut made = vec![0; PAGE];
    let place = Expect { segment_seq: header.seq.get(), ..OWNER };
    let first = header.kept().is_none_or(|kept| kept.segment_seq < place.segment_seq);
    let fresh = header.kept().is_none_or(|kept| kept.header_crc == 0 || kept.block_seq > 0);
    if first && fresh {
        let new = SegmentHeader::new(&place, header.bytes.get(), header.kept());
        let new = if header.start().block == 0 { new } else { new.with_start(header.start()) };
        new.encode(&mut made);
        for at in SEGMENT_COPIES {
            let copy = at..at + SEGMENT_COPY_BYTES;
            let one = SegmentHeader::parse(&bytes[copy.clone()], &OWNER);
            if one.is_ok_and(|one| one.as_bytes() == header.as_bytes()) {
                again[copy.clone()].copy_from_slice(&made[copy]);
            }
        }
    }
    let mut at = PAGE;
    while at < bytes.len() {
        let place = Expect { segment_seq: header.seq.get(), ..OWNER.at(at as u64) };
        let Some(block) = one_block(&bytes[at..], &place) else {
            at += PAGE;
            continue;
        };
        again[at..].copy_from_slice(&block);
        at += parse_block(&bytes[at..], &place).expect("it was read").bytes();
    }
    let _ = parse_segment_index(bytes, &OWNER);
    Some(again)
}

/// Sets every checksum of a segment.
pub fn mend_segment(bytes: &mut [u8]) {
    for at in SEGMENT_COPIES {
        if let Some(copy) = bytes.get_mut(at..at + SEGMENT_COPY_BYTES)
            && copy.iter().any(|&byte| byte != 0)
        {
            mend_identity(copy);
        }
    }
    let (mut at, mut before) = (PAGE, None);
    while at + HEAD <= bytes.len() {
        let step = match mend_block_after(&mut bytes[at..], before) {
            Some((crc, total)) => {
                before = Some(crc);
                total
            }
            None => PAGE,
        };
        at += step.next_multiple_of(PAGE).max(PAGE);
    }
}

// Checkpoints.

fn checkpoints() -> Vec<Sample> {
    let id = 6;
    let shard = [1u64, 1_000].map(u64::to_le_bytes).concat();
    let begin = CheckpointRecord::Begin { id, bytes: &shard };
    let part = CheckpointRecord::Part { id, part: 1, parts: 3, bytes: b"part of a state" };
    let end = CheckpointRecord::End { id, streams: 2 };
    let sample = |(name, record): (_, CheckpointRecord<'_>)| Sample::new(name, record.encode());
    [("begin", begin), ("part", part), ("end", end)].map(sample).to_vec()
}

fn log_image() -> LogImage {
    let end = |lsn, chain| Boundary { lsn: Lsn(lsn), chain };
    let run = |start, upto, block, moved| Extent {
        start: Lsn(start),
        end: Lsn(upto),
        place: Place { segment: 5, offset: block * PAGE as u64, block, len: PAGE as u32 },
        ballot: BALLOT,
        moved,
    };
    LogImage {
        base: end(64, 11),
        committed: end(256, 12),
        boundaries: vec![end(320, 13), end(384, 14)],
        extents: vec![run(64, 128, 1, true), run(128, 256, 2, false), run(320, 384, 3, false)],
        promised: BALLOT,
        accepting: origin().ballot,
        last_scn: 1_000,
    }
}

fn encoded(image: &LogImage) -> Vec<u8> {
    let mut out = Vec::new();
    image.encode_into(&mut out);
    out
}

fn log_image_again(bytes: &[u8]) -> Option<Vec<u8>> {
    let (image, rest) = LogImage::decode(bytes).ok()?;
    let mut again = encoded(&image);
    for extent in &image.extents {
        assert!(extent.place.end() > extent.place.offset, "a run stands in a block");
    }
    StreamLog::restore(image);
    again.extend_from_slice(rest);
    Some(again)
}

/// The state of the catalogue as a checkpoint tells it: one producer, one stream, no standby.
fn stream_image() -> Vec<u8> {
    let mut out = encoded(&log_image());
    let numbers = |out: &mut Vec<u8>, numbers: &[u64]| {
        numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    };
    let mut config = Vec::new();
    let members: Config = members(BALLOT);
    members.encode_into(&mut config);
    let role = match Role::Standby {
        Role::Primary => 1,
        Role::Standby => 2,
    };
    numbers(&mut out, &[role, 64, config.len() as u64]);
    out.extend_from_slice(&config);
    let mark = |out: &mut Vec<u8>, mark| out.extend_from_slice(&Mark::encode_or_none(mark));
    let (sync, alone) = (Mark::Sync { cluster: 2, epoch: 3 }, Mark::Async { epoch: 4 });
    // Committed here; where it goes on behind a base; one stream whose creation is not committed;
    // no change of the registry.
    numbers(&mut out, &[256, 64, 0x77, 800, 1, 384, 4]);
    mark(&mut out, Some(sync));
    numbers(&mut out, &[0]);
    // Sync marks: from where on acks wait; one that stands, one that is logged; what one standby
    // holds.
    numbers(&mut out, &[64, 1, 1, 96, 128]);
    mark(&mut out, Some(sync));
    numbers(&mut out, &[320, 352]);
    mark(&mut out, Some(alone));
    numbers(&mut out, &[1, 2, 256]);
    // What is kept for two standbys, one of which lacks what is gone.
    numbers(&mut out, &[2, 2, 1, 256, 3, 3, 64]);
    // One gap; where one SCN ends that was shown, and one above it.
    numbers(&mut out, &[1, 72, 80]);
    numbers(&mut out, &[2, 900, 64, 1_000, 160]);
    // Producers: none expired; one with its last place; one whose place is forgotten; one mark
    // that is not committed.
    numbers(&mut out, &[0, 1, 7, 3, 1_000, 1, 3, 128, 160, 1_000]);
    numbers(&mut out, &[1, 8, 5, 1_000]);
    numbers(&mut out, &[1, 7, 4, 320, 352, 1_001]);
    // The catalogue: ids given out, streams with the marks that they began with; then a registry
    // that nobody changed.
    numbers(&mut out, &[5, 2, 2]);
    mark(&mut out, None);
    numbers(&mut out, &[3]);
    mark(&mut out, Some(sync));
    numbers(&mut out, &[0]);
    out.extend_from_slice(&[0, 0, 0, 0, 1, 1, 0, 0, 1]);
    mark(&mut out, Some(Mark::Async { epoch: 0 }));
    numbers(&mut out, &[0, 0]);
    // The first role epoch, of nobody in particular.
    numbers(&mut out, &[1, 0, 0]);
    out.extend_from_slice(&[0; 24]);
    out.extend_from_slice(&[0; 4]);
    out
}

fn stream_image_again(bytes: &[u8]) -> Option<Vec<u8>> {
    let image = StreamImage::decode(CATALOGUE_STREAM, bytes)?;
    // Too much that is not committed cannot be told.
    Some(image.encode().unwrap_or_default())
}
