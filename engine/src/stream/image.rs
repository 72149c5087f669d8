//! A stream as a checkpoint tells it: its log, and everything that was derived from bytes that may
//! be gone.

use palisade_wal::{LogImage, Lsn};

use super::catalogue::{CATALOGUE_STREAM, Catalogue, Change, FIRST_STREAM};
use super::derived::{Derived, GAPS_MAX};
use super::producers::{Mark, Producer, Producers};
use crate::config::Role;
use crate::control::{self, Registry};
use crate::limits::{PRODUCERS_LAST_MAX, PRODUCERS_MAX, STREAMS_MAX};
use crate::paxos::Config;

/// Places of producers' records in an image; of the others the last sequence alone is told.
const MARKS_MAX: usize = 4096;
/// Places of one producer's records in an image.
const MARKS_OF_ONE_MAX: usize = 256;
/// Records above the committed position in an image.
const OVERLAY_MAX: usize = 64 << 10;
/// Changes of the registry above it.
const REGISTRY_MAX: usize = 4096;

const _: () = assert!(MARKS_OF_ONE_MAX <= MARKS_MAX);
const _: () = assert!(MARKS_MAX >= PRODUCERS_MAX, "each of them keeps its last place");

/// See the [module](self).
#[derive(Clone, Debug)]
pub(crate) struct StreamImage {
    pub(crate) log: LogImage,
    pub(crate) config: Config,
    pub(crate) role: Role,
    pub(crate) floor: Lsn,
    pub(crate) derived: Derived,
    /// Of the catalogue stream: the streams that exist, and the clusters with the mode.
    pub(crate) catalogue: Option<(Catalogue, Registry)>,
}

impl StreamImage {
    /// The bytes. None while the stream cannot be told: it has too much that is not committed.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let (derived, producers) = (&self.derived, &self.derived.producers);
        let long = producers.overlay.len() > OVERLAY_MAX || derived.registry.len() > REGISTRY_MAX;
        if derived.is_staging() || long {
            return None;
        }
        let mut out = Vec::new();
        self.log.encode_into(&mut out);
        let mut config = Vec::new();
        self.config.encode_into(&mut config);
        put(&mut out, &[role_code(self.role), self.floor.0, config.len() as u64]);
        out.extend_from_slice(&config);
        put(&mut out, &[derived.committed.0, derived.changes.len() as u64]);
        for (end, Change::Create { stream }) in &derived.changes {
            put(&mut out, &[end.0, *stream]);
        }
        put_entries(&mut out, derived);
        put(&mut out, &[derived.gaps.len() as u64]);
        derived.gaps.iter().for_each(|(start, end)| put(&mut out, &[start.0, end.0]));
        put_producers(&mut out, producers);
        if let Some((catalogue, registry)) = &self.catalogue {
            let streams: Vec<u64> = catalogue.streams().collect();
            put(&mut out, &[catalogue.given(), streams.len() as u64]);
            put(&mut out, &streams);
            registry.encode_into(&mut out);
        }
        Some(out)
    }

    /// Reads the bytes of `stream`; none when they are no image.
    pub(crate) fn decode(stream: u64, bytes: &[u8]) -> Option<StreamImage> {
        let (log, mut rest) = LogImage::decode(bytes).ok()?;
        let role = match take(&mut rest)? {
            1 => Role::Primary,
            2 => Role::Standby,
            _ => return None,
        };
        let floor = lsn(take(&mut rest)?)?;
        let config_len = usize::try_from(take(&mut rest)?).ok()?;
        let (config, after) = rest.split_at_checked(config_len)?;
        let config = Config::decode(config).ok()?;
        rest = after;
        let committed = lsn(take(&mut rest)?)?;
        let mut derived = Derived::default();
        derived.committed = committed;
        for _ in 0..count(&mut rest, STREAMS_MAX)? {
            let end = lsn(take(&mut rest)?)?;
            let stream = take(&mut rest).filter(|id| (FIRST_STREAM..u64::MAX).contains(id))?;
            derived.changes.push_back((end, Change::Create { stream }));
        }
        take_entries(&mut rest, &mut derived)?;
        for _ in 0..count(&mut rest, GAPS_MAX)? {
            let gap = (lsn(take(&mut rest)?)?, lsn(take(&mut rest)?)?);
            derived.gaps.push(Some(gap).filter(|(start, end)| start < end)?);
        }
        derived.producers = take_producers(&mut rest)?;
        let mut catalogue = None;
        if stream == CATALOGUE_STREAM {
            let given = take(&mut rest)?;
            let streams = (0..count(&mut rest, STREAMS_MAX)?).map(|_| take(&mut rest));
            let streams = streams.collect::<Option<_>>()?;
            let (registry, after) = Registry::decode(rest)?;
            rest = after;
            catalogue = Some((Catalogue::restore(given, streams), registry));
        }
        rest.is_empty().then_some(StreamImage { log, config, role, floor, derived, catalogue })
    }
}

fn role_code(role: Role) -> u64 {
    match role {
        Role::Primary => 1,
        Role::Standby => 2,
    }
}

fn put(out: &mut Vec<u8>, numbers: &[u64]) {
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn take(rest: &mut &[u8]) -> Option<u64> {
    let (first, after) = rest.split_first_chunk::<8>()?;
    *rest = after;
    Some(u64::from_le_bytes(*first))
}

/// A count, of at most `max` and of no more things than bytes are left for.
fn count(rest: &mut &[u8], max: usize) -> Option<usize> {
    let count = usize::try_from(take(rest)?).ok()?;
    (count <= max && count <= rest.len()).then_some(count)
}

fn lsn(number: u64) -> Option<Lsn> {
    (number <= Lsn::MAX.0).then_some(Lsn(number))
}

/// Changes of the registry that are not committed.
fn put_entries(out: &mut Vec<u8>, derived: &Derived) {
    put(out, &[derived.registry.len() as u64]);
    for (group, (entry, change)) in &derived.registry {
        let change = change.encode();
        put(out, &[group.0, entry.0, change.len() as u64]);
        out.extend_from_slice(&change);
    }
}

fn take_entries(rest: &mut &[u8], derived: &mut Derived) -> Option<()> {
    for _ in 0..count(rest, REGISTRY_MAX)? {
        let (group, entry) = (lsn(take(rest)?)?, lsn(take(rest)?)?);
        let len = usize::try_from(take(rest)?).ok()?;
        let (change, after) = rest.split_at_checked(len)?;
        *rest = after;
        let change = control::Change::decode(change)?;
        derived.registry.push_back((group, (entry, change)));
    }
    Some(())
}

fn put_producers(out: &mut Vec<u8>, producers: &Producers) {
    let each = (MARKS_MAX / producers.settled.len().max(1)).clamp(1, MARKS_OF_ONE_MAX);
    put(out, &[producers.expired, producers.settled.len() as u64]);
    for (id, Producer { last, scn, recent }) in &producers.settled {
        let told = recent.len().min(each);
        put(out, &[*id, *last, *scn, told as u64]);
        recent.iter().skip(recent.len() - told).for_each(|mark| put_mark(out, mark));
    }
    let lasts: Vec<_> = producers.lasts().collect();
    put(out, &[lasts.len() as u64]);
    for (id, last, scn) in lasts {
        put(out, &[id, last, scn]);
    }
    put(out, &[producers.overlay.len() as u64]);
    for mark in &producers.overlay {
        put(out, &[mark.producer]);
        put_mark(out, mark);
    }
}

fn take_producers(rest: &mut &[u8]) -> Option<Producers> {
    let mut producers = Producers::default();
    let expired = take(rest)?;
    for _ in 0..count(rest, PRODUCERS_MAX)? {
        let (id, last, scn) = (take(rest)?, take(rest)?, take(rest)?);
        let marks = (0..count(rest, MARKS_OF_ONE_MAX)?).map(|_| take_mark(rest, id));
        let recent = marks.collect::<Option<_>>()?;
        producers.settled.insert(id, Producer { last, scn, recent });
    }
    for _ in 0..count(rest, PRODUCERS_LAST_MAX)? {
        let (id, last, scn) = (take(rest)?, take(rest)?, take(rest)?);
        producers.restore_last(id, last, scn);
    }
    for _ in 0..count(rest, OVERLAY_MAX)? {
        let id = take(rest)?;
        producers.overlay.push_back(take_mark(rest, id)?);
    }
    Some(producers.restored(expired))
}

fn put_mark(out: &mut Vec<u8>, mark: &Mark) {
    put(out, &[mark.sequence, mark.lsn.0, mark.end_lsn.0, mark.scn]);
}

fn take_mark(rest: &mut &[u8], producer: u64) -> Option<Mark> {
    let sequence = take(rest)?;
    let (start, end) = (lsn(take(rest)?)?, lsn(take(rest)?)?);
    let mark = Mark { producer, sequence, lsn: start, end_lsn: end, scn: take(rest)? };
    (mark.end_lsn > mark.lsn && producer != 0).then_some(mark)
}

#[cfg(test)]
mod tests {
    use palisade_wal::{Ballot, Boundary, CHAIN_START};

    use super::super::producers::Verdict;
    use super::*;
    use crate::limits::PRODUCER_EXPIRY_NS;
    use crate::paxos::Member;
    use crate::status::Transfer;

    fn change(on: u64) -> control::Change {
        let what = control::What::Put(control::Cluster::new(5 + on as u32, Transfer::Sync));
        control::Change { by: 1, on, what }
    }

    fn image(stream: u64) -> StreamImage {
        let addr = "127.0.0.1:7001".to_string();
        let member = Member { node: 1, incarnation: Some(9), addr, region: "sh".to_string() };
        let start = Boundary { lsn: Lsn::ZERO, chain: CHAIN_START };
        let end = Boundary { lsn: Lsn(80_000), chain: 5 };
        let mut derived = Derived::default();
        for sequence in 1..=700 {
            let (lsn, end_lsn) = (Lsn(sequence * 100), Lsn(sequence * 100 + 100));
            let scn = 3 + PRODUCER_EXPIRY_NS;
            derived.producers.on_logged(Mark { producer: 7, sequence, lsn, end_lsn, scn });
        }
        derived.gaps.push((Lsn(800), Lsn(1600)));
        derived.registry.push_back((Lsn(70_000), (Lsn(69_992), change(1))));
        derived.on_committed(Lsn(60_000));
        let mut catalogue = Catalogue::default();
        catalogue.on_committed(Change::Create { stream: 4 });
        let mut registry = Registry::default();
        assert!(registry.apply(&change(0)));
        StreamImage {
            log: LogImage {
                base: start,
                committed: Boundary { lsn: Lsn(60_000), chain: 4 },
                boundaries: vec![end],
                extents: Vec::new(),
                promised: Ballot { round: 3, node: 1, incarnation: 9 },
                accepting: Ballot { round: 3, node: 1, incarnation: 9 },
                last_scn: 77,
            },
            config: Config::first(vec![member]).unwrap(),
            role: Role::Primary,
            floor: Lsn(800),
            derived,
            catalogue: (stream == CATALOGUE_STREAM).then_some((catalogue, registry)),
        }
    }

    #[test]
    fn an_image_reads_back_and_a_shorter_one_does_not() {
        for stream in [CATALOGUE_STREAM, 5] {
            let bytes = image(stream).encode().unwrap();
            let back = StreamImage::decode(stream, &bytes).unwrap();
            assert_eq!((back.log, back.floor), (image(stream).log, Lsn(800)));
            assert_eq!(back.catalogue, image(stream).catalogue);
            let (told, before) = (&back.derived, image(stream).derived);
            assert_eq!((&told.registry, &told.gaps), (&before.registry, &before.gaps));
            assert_eq!(told.producers.expired, 3);
            let producers = &back.derived.producers;
            assert!(matches!(producers.check(7, 700, None), Verdict::Duplicate(_)));
            assert!(matches!(producers.check(7, 500, None), Verdict::Duplicate(_)));
            assert_eq!(producers.check(7, 1, None), Verdict::Forgotten);
            assert_eq!(producers.check(7, 701, None), Verdict::Fresh);
            for len in 0..bytes.len() {
                assert!(StreamImage::decode(stream, &bytes[..len]).is_none(), "{len}");
            }
            assert!(StreamImage::decode(6 - stream, &bytes).is_none(), "of another stream");
        }
    }

    #[test]
    fn a_hostile_image_does_no_harm() {
        let bytes = image(CATALOGUE_STREAM).encode().unwrap();
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7F, 0xFF] {
                let mut bad = bytes.clone();
                bad[at] = value;
                if let Some(image) = StreamImage::decode(CATALOGUE_STREAM, &bad) {
                    palisade_wal::StreamLog::restore(image.log);
                }
            }
        }
    }
}
