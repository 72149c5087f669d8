//! The identity of a shard's disk, in two copies. Mirrors FORMAT.md, "Identity file".
//!
//! Each change writes both copies, one after the other, each with its barrier, before it counts:
//! whichever copy survives, no promise that was used is forgotten.

use std::mem::offset_of;
use std::path::{Path, PathBuf};

use palisade_netio::seeded::is_seeded;
use palisade_netio::{Completion, Handle, Op, OpenHow, Payload, Pool, Purpose, Run, SlotId};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::config::WalError;
use crate::limits::{BLOCK_ALIGN, RETRIES_MAX};
use crate::recycle::LogStart;
use crate::segment::Started;

/// File name in the shard's directory.
pub const IDENTITY_NAME: &str = "identity";
/// First bytes of each copy.
pub const IDENTITY_MAGIC: u64 = u64::from_le_bytes(*b"PLSDIDN1");
/// Version of the identity format.
pub const IDENTITY_FORMAT: u32 = 1;
/// Bytes of one copy without its pad.
pub const IDENTITY_BYTES: usize = 512;
/// Offsets of the two copies; each is padded to 4096.
pub const IDENTITY_COPIES: [u64; 2] = [0, BLOCK_ALIGN as u64];

/// The seeded bug that leaves out the second copy.
const ONE_COPY: &str = "identity_in_one_copy";
/// A copy has no higher generation.
const GENERATION_MAX: u64 = 1 << 62;
/// Above this a file is refused: it keeps numbers to go on.
pub(crate) const GENERATION_FOUND_MAX: u64 = GENERATION_MAX / 2;

/// One copy, little-endian, without padding.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentityRecord {
    /// [`IDENTITY_MAGIC`].
    pub magic: U64,
    /// [`IDENTITY_FORMAT`].
    pub format: U32,
    /// The cluster.
    pub cluster: U32,
    /// The node.
    pub node: U32,
    /// The shard.
    pub shard: U32,
    /// Shards of every node of the cluster.
    pub shards: U32,
    /// Role of the cluster when the disk was formatted; the number is the engine's.
    pub role: U32,
    /// Which disk of the node.
    pub incarnation: U64,
    /// Starts of the node on this disk.
    pub boots: U64,
    /// Every ballot promised or accepted on this disk is of a round at or below this.
    pub round_ceiling: U64,
    /// Grows with each change; the copy with the higher one counts.
    pub generation: U64,
    /// See [`Started`].
    pub newest_segment: U64,
    /// See [`Started`].
    pub segment_before: U64,
    /// See [`LogStart`].
    pub first_segment: U64,
    /// See [`LogStart`].
    pub first_block: U64,
    /// See [`Identity`].
    pub term_epoch: U64,
    /// See [`Identity`].
    pub term_cluster: U32,
    /// Zero.
    pub reserved: [u8; 400],
    /// CRC-32C of the copy with this field zero.
    pub crc: U32,
}

const _: () = assert!(size_of::<IdentityRecord>() == IDENTITY_BYTES);
const _: () = assert!(
    offset_of!(IdentityRecord, crc) + size_of::<U32>() == IDENTITY_BYTES,
    "the checksum stands last"
);
const _: () = assert!(IDENTITY_BYTES <= BLOCK_ALIGN, "a copy is one page");
const _: () = assert!(
    IDENTITY_COPIES[0] + BLOCK_ALIGN as u64 <= IDENTITY_COPIES[1],
    "a torn write of one copy leaves the other alone"
);
const _: () = assert!(IDENTITY_MAGIC != 0, "zeros are no identity");
const _: () = assert!(IDENTITY_MAGIC != crate::segment::SEGMENT_MAGIC, "a segment is none");

/// Whose disk this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: u32,
    /// The node.
    pub node: u32,
    /// Which disk of the node.
    pub incarnation: u64,
    /// The shard.
    pub shard: u32,
    /// Shards of every node of the cluster.
    pub shards: u32,
    /// Role of the cluster when the disk was formatted; the number is the engine's.
    pub role: u32,
    /// Starts of the node on this disk.
    pub boots: u64,
    /// Every ballot promised or accepted on this disk is of a round at or below this.
    pub round_ceiling: u64,
    /// No later segment holds a block.
    pub started: Started,
    /// Epoch of the highest term of the primary's role that was heard of here; 0 for none.
    pub term_epoch: u64,
    /// The cluster that holds the role in that term.
    pub term_cluster: u32,
}

/// Writes one copy over the first 512 bytes of `bytes` and zeroes the rest.
///
/// # Panics
/// When `bytes` is shorter than a copy.
pub fn encode_identity(identity: &Identity, generation: u64, bytes: &mut [u8]) {
    assert!(bytes.len() >= IDENTITY_BYTES, "a copy is {IDENTITY_BYTES} bytes");
    assert!(generation > 0, "generations are numbered from 1");
    let mut record = IdentityRecord {
        magic: IDENTITY_MAGIC.into(),
        format: IDENTITY_FORMAT.into(),
        cluster: identity.cluster.into(),
        node: identity.node.into(),
        shard: identity.shard.into(),
        shards: identity.shards.into(),
        role: identity.role.into(),
        incarnation: identity.incarnation.into(),
        boots: identity.boots.into(),
        round_ceiling: identity.round_ceiling.into(),
        generation: generation.into(),
        newest_segment: identity.started.newest.into(),
        segment_before: identity.started.before.into(),
        first_segment: identity.started.start.segment.into(),
        first_block: identity.started.start.block.into(),
        term_epoch: identity.term_epoch.into(),
        term_cluster: identity.term_cluster.into(),
        reserved: [0; 400],
        crc: 0.into(),
    };
    record.crc = crc32c::crc32c(record.as_bytes()).into();
    bytes.fill(0);
    bytes[..IDENTITY_BYTES].copy_from_slice(record.as_bytes());
    let back = decode_identity(bytes);
    assert!(back == Some((*identity, generation)), "what is about to be written is readable");
}

/// Reads one copy and its generation; none when it is damaged or of an unknown format.
pub fn decode_identity(bytes: &[u8]) -> Option<(Identity, u64)> {
    let record = IdentityRecord::read_from_bytes(bytes.get(..IDENTITY_BYTES)?).ok()?;
    let mut plain = record;
    plain.crc = 0.into();
    let valid = record.magic.get() == IDENTITY_MAGIC
        && record.format.get() == IDENTITY_FORMAT
        && record.crc.get() == crc32c::crc32c(plain.as_bytes())
        && (record.first_segment.get() == 0) == (record.first_block.get() == 0)
        && (record.term_epoch.get() == 0) == (record.term_cluster.get() == 0)
        && record.reserved == [0; 400]
        && (1..=GENERATION_MAX).contains(&record.generation.get());
    let identity = Identity {
        cluster: record.cluster.get(),
        node: record.node.get(),
        incarnation: record.incarnation.get(),
        shard: record.shard.get(),
        shards: record.shards.get(),
        role: record.role.get(),
        boots: record.boots.get(),
        round_ceiling: record.round_ceiling.get(),
        started: Started {
            newest: record.newest_segment.get(),
            before: record.segment_before.get(),
            start: LogStart {
                segment: record.first_segment.get(),
                block: record.first_block.get(),
            },
        },
        term_epoch: record.term_epoch.get(),
        term_cluster: record.term_cluster.get(),
    };
    valid.then_some((identity, record.generation.get()))
}

/// What the owner should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityEvent {
    /// There is no identity file: the disk is not formatted.
    Missing,
    /// The file is there and no copy is readable: the disk is lost.
    Lost,
    /// The identity as it was found.
    Found(Identity),
    /// The identity that was asked for is in both copies, durable.
    Updated(Identity),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Open,
    Read(usize),
    /// Making a new file.
    Create,
    Write(usize),
    SyncFile,
    OpenDir,
    SyncDir,
    CloseDir,
    Idle,
}

/// The identity file of one shard: read once, then changed in place.
#[derive(Debug)]
pub struct IdentityFile {
    dir: PathBuf,
    handle: Option<Handle>,
    dir_handle: Option<Handle>,
    step: Step,
    formatting: bool,
    in_flight: Option<u32>,
    next_local: u32,
    slot: Option<SlotId>,
    copies: [Option<(Identity, u64)>; 2],
    current: Option<(Identity, u64)>,
    target: Option<Identity>,
    event: Option<IdentityEvent>,
    retries: u32,
    error: Option<WalError>,
}

impl IdentityFile {
    /// Reads the identity in the shard's directory.
    pub fn open(dir: &Path) -> IdentityFile {
        IdentityFile {
            dir: dir.to_path_buf(),
            handle: None,
            dir_handle: None,
            step: Step::Open,
            formatting: false,
            in_flight: None,
            next_local: 0,
            slot: None,
            copies: [None; 2],
            current: None,
            target: None,
            event: None,
            retries: 0,
            error: None,
        }
    }

    /// Makes the file anew; it must not exist. [`IdentityEvent::Updated`] follows when file and
    /// directory are durable.
    pub fn format(dir: &Path, identity: Identity) -> IdentityFile {
        let mut file = IdentityFile::open(dir);
        file.step = Step::Create;
        file.formatting = true;
        file.target = Some(identity);
        file.assert_invariants();
        file
    }

    fn assert_invariants(&self) {
        let changing = !matches!(self.step, Step::Open | Step::Read(_) | Step::Idle);
        assert!(changing == self.target.is_some(), "a change is under way: {:?}", self.step);
        assert!(changing || !self.formatting, "a new file is made by a change");
        let opening = matches!(self.step, Step::Open | Step::Create);
        assert!(!opening || self.handle.is_none(), "the file is opened once");
        assert!(opening || self.step == Step::Idle || self.handle.is_some(), "the file is open");
        let known = self.current.is_some();
        assert!(!known || self.handle.is_some(), "an identity was read or written");
        assert!(known || !changing || self.formatting, "a change needs what was before");
        assert!(self.step != Step::Idle || self.in_flight.is_none(), "a file at rest asks nothing");
        let dir = matches!(self.step, Step::SyncDir | Step::CloseDir);
        assert!(!dir || self.dir_handle.is_some(), "the directory is open");
        assert!(self.retries <= RETRIES_MAX, "retries are bounded");
    }

    /// Changes the identity. It counts when [`IdentityEvent::Updated`] says so, not before.
    ///
    /// # Panics
    /// Before the identity was found, while a change is under way, or when the round ceiling, the
    /// boot count, the newest segment or the term would go back.
    pub fn update(&mut self, identity: Identity) {
        let (current, generation) = self.current.expect("the identity is known");
        assert!(self.is_idle(), "one change at a time");
        assert!(identity.round_ceiling >= current.round_ceiling, "the ceiling only grows");
        assert!(identity.boots >= current.boots, "the boot count only grows");
        assert!(identity.started.newest >= current.started.newest, "segments are numbered upwards");
        assert!(identity.started.start >= current.started.start, "what was let go comes back");
        let term = |of: &Identity| (of.term_epoch, of.term_cluster);
        assert!(term(&identity) >= term(&current), "what was heard of is not forgotten");
        let disk = |of: &Identity| (of.cluster, of.node, of.incarnation, of.shard, of.shards);
        assert!(disk(&identity) == disk(&current), "a disk stays whose it is");
        assert!(generation < u64::MAX, "there is a next generation");
        self.target = Some(identity);
        self.step = Step::Write(self.first_copy());
        self.assert_invariants();
    }

    /// The copy that is written first: the damaged or older one. Until it is durable the good one
    /// is left alone.
    fn first_copy(&self) -> usize {
        let [zero, one] = self.copies.map(|copy| copy.map_or(0, |(_, generation)| generation));
        assert!(zero.max(one) <= self.generation(), "a copy is newer than the one that counts");
        usize::from(one < zero)
    }

    /// Whether no change is under way and none failed.
    pub fn is_idle(&self) -> bool {
        self.step == Step::Idle && self.target.is_none() && self.error.is_none()
    }

    /// The identity that counts: as found, or as last updated.
    pub fn identity(&self) -> Option<Identity> {
        self.current.map(|(identity, _)| identity)
    }

    /// Why the file cannot be used any more.
    pub fn poisoned(&self) -> Option<&WalError> {
        self.error.as_ref()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<IdentityEvent> {
        self.event.take()
    }

    /// Appends to `out` the operation that can start now, if any, with a token that is unique
    /// within this file.
    pub fn poll_ops(&mut self, pool: &mut Pool, out: &mut Vec<(u32, Op)>) {
        if self.in_flight.is_some() || self.error.is_some() {
            return;
        }
        let Some(op) = self.next_op(pool) else { return };
        let local = self.next_local;
        self.next_local = self.next_local.wrapping_add(1);
        self.in_flight = Some(local);
        out.push((local, op));
        self.assert_invariants();
        assert!(self.error.is_none(), "a failed file asks nothing");
    }

    fn next_op(&mut self, pool: &mut Pool) -> Option<Op> {
        let len = BLOCK_ALIGN as u32;
        let path = |dir: &Path| dir.join(IDENTITY_NAME);
        Some(match self.step {
            Step::Idle => return None,
            Step::Open => Op::Open { path: path(&self.dir), how: OpenHow::ReadWrite },
            Step::Create => Op::Open { path: path(&self.dir), how: OpenHow::CreateNew },
            Step::Read(copy) => {
                assert!(self.current.is_none(), "the file is read once");
                let slot = self.slot(pool)?;
                let run = Run { slot, at: 0, len };
                Op::Read { handle: self.handle(), offset: IDENTITY_COPIES[copy], run }
            }
            Step::Write(copy) => {
                assert!(copy < IDENTITY_COPIES.len(), "there are two copies");
                let slot = self.slot(pool)?;
                let target = self.target.expect("a change is under way");
                let generation = self.generation() + 1;
                encode_identity(&target, generation, &mut pool.bytes_mut(slot)[..BLOCK_ALIGN]);
                let runs = vec![Run { slot, at: 0, len }];
                let offset = IDENTITY_COPIES[copy];
                Op::Write { handle: self.handle(), offset, runs, barrier: true }
            }
            Step::SyncFile => Op::Sync { handle: self.handle(), metadata: true },
            Step::OpenDir => Op::Open { path: self.dir.clone(), how: OpenHow::Directory },
            Step::SyncDir => Op::Sync { handle: self.dir_handle?, metadata: true },
            Step::CloseDir => Op::Close { handle: self.dir_handle? },
        })
    }

    fn generation(&self) -> u64 {
        self.current.map_or(0, |(_, generation)| generation)
    }

    fn handle(&self) -> Handle {
        self.handle.expect("the identity file is open")
    }

    fn slot(&mut self, pool: &mut Pool) -> Option<SlotId> {
        if self.slot.is_none() {
            self.slot = pool.take(Purpose::Write, BLOCK_ALIGN);
        }
        assert!(self.slot.is_none_or(|slot| pool.capacity(slot) >= BLOCK_ALIGN), "a copy fits");
        self.slot
    }

    /// Takes the completion of the operation `local`.
    ///
    /// # Panics
    /// When `local` is not in flight.
    pub fn on_completion(&mut self, pool: &mut Pool, local: u32, done: Completion) {
        assert!(self.in_flight == Some(local), "the operation is one of this file");
        self.in_flight = None;
        if let Err(error) = self.on_done(pool, &done) {
            self.error = Some(error);
        }
        if self.error.is_none() {
            self.assert_invariants();
        }
        let rest = self.step == Step::Idle || self.error.is_some();
        if let Some(slot) = self.slot.take_if(|_| rest) {
            pool.release(slot);
        }
        assert!(!rest || self.slot.is_none(), "a file at rest holds no memory");
    }

    fn on_done(&mut self, pool: &mut Pool, done: &Completion) -> Result<(), WalError> {
        let what = "an operation on the identity file";
        let reading = matches!(self.step, Step::Read(_));
        let barrier = matches!(self.step, Step::SyncFile | Step::SyncDir);
        let count = match done.result {
            Ok(count) => count as usize,
            Err(errno) if errno.is_transient() && !barrier => return self.retry(what),
            Err(palisade_netio::Errno::NOENT) if self.step == Step::Open => {
                assert!(!self.formatting, "a new file is made, not looked for");
                self.event = Some(IdentityEvent::Missing);
                self.step = Step::Idle;
                return Ok(());
            }
            // An unreadable copy is as good as a damaged one; the other one may be whole.
            Err(_) if reading && self.retries > 0 => 0,
            Err(_) if reading => return self.retry(what),
            Err(_) if self.step == Step::CloseDir => 0,
            Err(errno) => return Err(WalError::Io { what, errno }),
        };
        assert!(reading || self.current.is_none() || self.target.is_some(), "a known file rests");
        self.step = match (self.step, &done.payload) {
            (Step::Open, Payload::Handle(handle)) => {
                self.handle = Some(*handle);
                Step::Read(0)
            }
            (Step::Create, Payload::Handle(handle)) => {
                self.handle = Some(*handle);
                Step::Write(0)
            }
            (Step::OpenDir, Payload::Handle(handle)) => {
                self.dir_handle = Some(*handle);
                Step::SyncDir
            }
            (Step::Read(copy), _) => self.on_read(pool, copy, count)?,
            (Step::Write(_), _) if count < BLOCK_ALIGN => return self.retry(what),
            (Step::Write(copy), _) if copy == self.first_copy() && !is_seeded(ONE_COPY) => {
                Step::Write(1 - copy)
            }
            (Step::Write(_), _) if self.formatting => Step::SyncFile,
            (Step::SyncFile, _) => Step::OpenDir,
            (Step::SyncDir, _) => Step::CloseDir,
            (Step::Write(_) | Step::CloseDir, _) => self.on_updated(),
            _ => return Err(WalError::BadAnswer { what }),
        };
        self.retries = 0;
        Ok(())
    }

    fn on_read(&mut self, pool: &mut Pool, copy: usize, count: usize) -> Result<Step, WalError> {
        assert!(copy < IDENTITY_COPIES.len(), "there are two copies");
        assert!(self.current.is_none(), "the file is read once");
        if let Some(slot) = self.slot.filter(|_| count >= IDENTITY_BYTES) {
            self.copies[copy] = decode_identity(&pool.bytes(slot)[..count.min(BLOCK_ALIGN)]);
        }
        if copy == 0 {
            return Ok(Step::Read(1));
        }
        let newest = self.copies.into_iter().flatten().max_by_key(|&(_, generation)| generation);
        assert!(newest.is_some() || self.copies == [None; 2], "one whole copy is enough");
        if newest.is_some_and(|(_, generation)| generation > GENERATION_FOUND_MAX) {
            return Err(WalError::Refused("the generation of the identity file is too high"));
        }
        self.current = newest;
        self.event = Some(match newest {
            Some((identity, _)) => IdentityEvent::Found(identity),
            None => IdentityEvent::Lost,
        });
        Ok(Step::Idle)
    }

    fn on_updated(&mut self) -> Step {
        let target = self.target.take().expect("a change is under way");
        // The second copy was the last write: a crash from here on finds the new one.
        let last = self.step == Step::Write(1 - self.first_copy());
        assert!(last || self.step == Step::CloseDir || is_seeded(ONE_COPY));
        assert!(self.formatting == (self.step == Step::CloseDir), "a new file has its name synced");
        let before = self.generation();
        self.current = Some((target, before + 1));
        self.copies = [self.current; 2];
        assert!(self.generation() > before, "the new copies count");
        self.formatting = false;
        self.event = Some(IdentityEvent::Updated(target));
        Step::Idle
    }

    fn retry(&mut self, what: &'static str) -> Result<(), WalError> {
        assert!(self.in_flight.is_none(), "a step is tried again after it ended");
        assert!(self.step != Step::Idle, "a file at rest asks nothing");
        self.retries += 1;
        if self.retries > RETRIES_MAX { Err(WalError::Stuck { what }) } else { Ok(()) }
    }
}
