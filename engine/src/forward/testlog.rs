//! Logs made by hand, for the tests of this module and of transfer.

use palisade_netio::{Pool, Purpose, Quotas, SlotView};
use palisade_wal::limits::{BLOCK_HEAD_BYTES, SEGMENT_HEADER_BYTES, block_bytes};
use palisade_wal::{
    Ballot, BlockFacts, BodyBuilder, CHAIN_START, Expect, GroupHeader, GroupKind, Lsn, Origin,
    RECORD_HEADER_BYTES, RecordHeader, seal,
};
use zerocopy::{FromBytes, IntoBytes};

/// Place of the block at the start of a segment.
pub const EXPECT: Expect =
    Expect { cluster: 1, node: 2, incarnation: 3, shard: 0, segment_seq: 5, offset: 0 };
pub const BALLOT: Ballot = Ballot { round: 4, node: 2, incarnation: 3 };

/// The next number of a small generator.
pub fn mix(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// One stream, from its start.
#[derive(Clone)]
pub struct TestLog {
    pub stream: u64,
    bytes: Vec<u8>,
    /// Start of each group and where its record starts; the end of all last.
    groups: Vec<(Lsn, usize)>,
    chains: Vec<u64>,
}

impl TestLog {
    pub fn new(stream: u64) -> TestLog {
        let (groups, chains) = (vec![(Lsn(0), 0)], vec![CHAIN_START]);
        TestLog { stream, bytes: Vec::new(), groups, chains }
    }

    /// A long log of groups of all sizes.
    pub fn random(stream: u64, groups: usize, seed: &mut u64) -> TestLog {
        let mut log = TestLog::new(stream);
        for _ in 0..groups {
            let entries = 1 + mix(seed) % 3;
            let lens: Vec<usize> = (0..entries).map(|_| (mix(seed) % 500) as usize).collect();
            log.push(&lens);
        }
        log
    }

    pub fn end(&self) -> Lsn {
        self.groups.last().unwrap().0
    }

    /// The same log up to the end of a group, and another one from there on.
    pub fn fork(&self, end: Lsn) -> TestLog {
        let mut fork = self.clone();
        let at = fork.groups.iter().position(|&(lsn, _)| lsn == end).expect("the end of a group");
        fork.groups.truncate(at + 1);
        fork.chains.truncate(at + 1);
        fork.bytes.truncate(fork.groups[at].1);
        fork.push(&[33, 1 + at]);
        fork
    }

    /// Adds a group with payloads of these lengths and returns its record.
    pub fn push(&mut self, lens: &[usize]) -> &[u8] {
        let first = self.end().0 as u8;
        let payloads = lens.iter().enumerate().map(|(i, &len)| vec![i as u8 + first; len]);
        self.push_payloads(&payloads.collect::<Vec<_>>())
    }

    /// Adds a group with these payloads and returns its record.
    pub fn push_payloads(&mut self, payloads: &[Vec<u8>]) -> &[u8] {
        let (lsn, at) = *self.groups.last().unwrap();
        let sum: usize = payloads.iter().map(|payload| payload.len() + 64).sum();
        let mut space = vec![0; sum + 512];
        let mut body = BodyBuilder::new(&mut space);
        let origin = Origin { role_epoch: 1, cluster: 1, ballot: BALLOT };
        body.begin_group(self.stream, lsn, BALLOT, GroupKind::Data, origin, 0).unwrap();
        for payload in payloads {
            body.push_entry(payload, 0, 0).unwrap();
        }
        let meta = body.end_group(lsn.0 + 1, *self.chains.last().unwrap());
        let made = body.finish();
        self.bytes.extend_from_slice(&space[..made.len as usize]);
        self.groups.push((meta.end, self.bytes.len()));
        self.chains.push(meta.chain);
        &self.bytes[at..]
    }

    fn index(&self, lsn: Lsn) -> usize {
        self.groups.iter().position(|&(start, _)| start == lsn).expect("a group starts there")
    }

    /// Starts of all groups, and the end.
    pub fn bounds(&self) -> Vec<Lsn> {
        self.groups.iter().map(|&(start, _)| start).collect()
    }

    /// Start of the group that holds `lsn`.
    pub fn floor(&self, lsn: Lsn) -> Lsn {
        self.groups.iter().rev().find(|&&(start, _)| start <= lsn).unwrap().0
    }

    pub fn records(&self, start: Lsn, end: Lsn) -> &[u8] {
        &self.bytes[self.groups[self.index(start)].1..self.groups[self.index(end)].1]
    }

    pub fn chain(&self, at: Lsn) -> u64 {
        self.chains[self.index(at)]
    }

    pub fn headers_crc(&self, start: Lsn, end: Lsn) -> u32 {
        headers_crc(self.records(start, end))
    }

    /// The records as a view of a slot.
    pub fn view(&self, pool: &mut Pool, start: Lsn, end: Lsn) -> SlotView {
        let records = self.records(start, end);
        let slot = pool.take(Purpose::Tail, BLOCK_HEAD_BYTES + records.len()).unwrap();
        pool.bytes_mut(slot)[BLOCK_HEAD_BYTES..][..records.len()].copy_from_slice(records);
        let until = (BLOCK_HEAD_BYTES + records.len()) as u32;
        let view = pool.view(slot, BLOCK_HEAD_BYTES as u32..until).unwrap();
        pool.release(slot);
        view
    }

    /// A block with these records at the end of `segment`, which starts with room for its header;
    /// returns where it is.
    pub fn block(&self, segment: &mut Vec<u8>, start: Lsn, end: Lsn) -> Expect {
        let records = self.records(start, end);
        if segment.is_empty() {
            segment.resize(SEGMENT_HEADER_BYTES, 0);
        }
        let place = EXPECT.at(segment.len() as u64);
        let facts = BlockFacts {
            place,
            block_seq: 1,
            body_len: records.len() as u32,
            headers_crc: headers_crc(records),
            durable_upto: 0,
            hard_state_block: 0,
            previous_header_crc: 0,
        };
        let mut block = vec![0; block_bytes(records.len())];
        seal(&mut block[..BLOCK_HEAD_BYTES], &facts);
        block[BLOCK_HEAD_BYTES..][..records.len()].copy_from_slice(records);
        segment.extend_from_slice(&block);
        place
    }
}

/// The groups of a run of records.
pub fn groups(records: &[u8]) -> Vec<GroupHeader> {
    walk(records).into_iter().map(|(_, group)| group).collect()
}

fn headers_crc(records: &[u8]) -> u32 {
    walk(records).iter().fold(0, |crc, (header, _)| crc32c::crc32c_append(crc, header.as_bytes()))
}

fn walk(mut records: &[u8]) -> Vec<(RecordHeader, GroupHeader)> {
    let mut found = Vec::new();
    while let Ok((header, rest)) = RecordHeader::read_from_prefix(records) {
        let group = GroupHeader::read_from_prefix(rest).unwrap().0;
        records = &records[RECORD_HEADER_BYTES + header.len.get() as usize..];
        found.push((header, group));
    }
    found
}

/// A pool with room for many views.
pub fn pool() -> Pool {
    let quota = 16 << 20;
    Pool::new(Quotas { write: quota, receive: quota, tail: 64 << 20, read: quota }).unwrap()
}
