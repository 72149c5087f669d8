//! A stream as a checkpoint tells it: its log, and everything that was derived from bytes that may
//! be gone.

use palisade_wal::{LogImage, Lsn};

use super::catalogue::{CATALOGUE_STREAM, Catalogue, Change, FIRST_STREAM};
use super::derived::{Derived, GAPS_MAX};
use super::mark::{MARK_BYTES, Mark as SyncMark, Marked, Marks, WORDS_MAX};
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
/// Sync marks above it.
const SYNC_MARKS_MAX: usize = 1024;

const _: () = assert!(MARKS_OF_ONE_MAX <= MARKS_MAX);
const _: () = assert!(MARKS_MAX >= PRODUCERS_MAX, "each of them keeps its last place");

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct StreamImage {
    pub(crate) log: LogImage,
    pub(crate) config: Config,
    pub(crate) role: Role,
    pub(crate) floor: Lsn,
    pub(crate) derived: Derived,
    /// What SYNC standbys hold, by their word.
    pub(crate) held: Vec<(u32, Lsn)>,
    /// Of the catalogue stream: the streams that exist, and the clusters with the mode.
    pub(crate) catalogue: Option<(Catalogue, Registry)>,
}

impl StreamImage {
    /// The bytes. None while the stream cannot be told: it has too much that is not committed.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let (derived, producers) = (&self.derived, &self.derived.producers);
        let long = producers.overlay.len() > OVERLAY_MAX
            || derived.registry.len() > REGISTRY_MAX
            || derived.marks.logged.len() > SYNC_MARKS_MAX;
        if derived.is_staging() || long || !marks_fit(derived, self.log.end().lsn) {
            return None;
        }
        let mut out = Vec::new();
        self.log.encode_into(&mut out);
        let mut config = Vec::new();
        self.config.encode_into(&mut config);
        put(&mut out, &[role_code(self.role), self.floor.0, config.len() as u64]);
        out.extend_from_slice(&config);
        put(&mut out, &[derived.committed.0, derived.changes.len() as u64]);
        for (end, Change::Create { stream, mark }) in &derived.changes {
            put(&mut out, &[end.0, *stream]);
            put_sync_mark(&mut out, *mark);
        }
        put_entries(&mut out, derived);
        put_sync_marks(&mut out, &derived.marks);
        put(&mut out, &[self.held.len() as u64]);
        self.held.iter().for_each(|(by, held)| put(&mut out, &[u64::from(*by), held.0]));
        put(&mut out, &[derived.gaps.len() as u64]);
        derived.gaps.iter().for_each(|(start, end)| put(&mut out, &[start.0, end.0]));
        put_producers(&mut out, producers);
        if let Some((catalogue, registry)) = &self.catalogue {
            let streams: Vec<u64> = catalogue.streams().collect();
            put(&mut out, &[catalogue.given(), streams.len() as u64]);
            for stream in streams {
                put(&mut out, &[stream]);
                put_sync_mark(&mut out, catalogue.mark(stream));
            }
            registry.encode_into(&mut out);
        }
        Some(out)
    }

    /// Reads the bytes of `stream`; none when they are no image.
    pub fn decode(stream: u64, bytes: &[u8]) -> Option<StreamImage> {
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
            let mark = take_sync_mark(&mut rest)?;
            derived.changes.push_back((end, Change::Create { stream, mark }));
        }
        take_entries(&mut rest, &mut derived)?;
        derived.marks = take_sync_marks(&mut rest)?;
        let held = take_held(&mut rest)?;
        for _ in 0..count(&mut rest, GAPS_MAX)? {
            let gap = (lsn(take(&mut rest)?)?, lsn(take(&mut rest)?)?);
            derived.gaps.push(Some(gap).filter(|(start, end)| start < end)?);
        }
        derived.producers = take_producers(&mut rest)?;
        let mut catalogue = None;
        if stream == CATALOGUE_STREAM {
            let given = take(&mut rest)?;
            let count = count(&mut rest, STREAMS_MAX)?;
            let stream = |_| Some((take(&mut rest)?, take_sync_mark(&mut rest)?));
            let streams = (0..count).map(stream).collect::<Option<_>>()?;
            let (registry, after) = Registry::decode(rest)?;
            rest = after;
            catalogue = Some((Catalogue::restore(given, streams), registry));
        }
        let sound = rest.is_empty() && marks_fit(&derived, log.end().lsn);
        sound.then_some(StreamImage { log, config, role, floor, derived, held, catalogue })
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

/// Whether the sync marks are those of a log with this end. What a lost range held is not known.
fn marks_fit(derived: &Derived, log_end: Lsn) -> bool {
    let lost = |known: &Marked| {
        derived.gaps.iter().any(|(start, end)| known.start < *end && *start < known.end)
    };
    derived.marks.fit(log_end) && !derived.marks.logged.iter().any(lost)
}

/// A sync mark, or zeros for none.
fn put_sync_mark(out: &mut Vec<u8>, mark: Option<SyncMark>) {
    out.extend_from_slice(&SyncMark::encode_or_none(mark));
}

fn take_sync_mark(rest: &mut &[u8]) -> Option<Option<SyncMark>> {
    let (mark, after) = rest.split_first_chunk::<MARK_BYTES>()?;
    *rest = after;
    SyncMark::decode_or_none(mark)
}

/// What a stream's acks wait for: the marks, as far as they still say something. The standing one
/// goes before those that are not committed.
fn put_sync_marks(out: &mut Vec<u8>, marks: &Marks) {
    let Marks { logged, standing, floor } = marks;
    put(out, &[floor.0, u64::from(standing.is_some()), logged.len() as u64]);
    for Marked { mark, start, end } in standing.iter().chain(logged) {
        put(out, &[start.0, end.0]);
        put_sync_mark(out, Some(*mark));
    }
}

fn take_sync_marks(rest: &mut &[u8]) -> Option<Marks> {
    let floor = lsn(take(rest)?)?;
    let stands = match take(rest)? {
        stands @ 0..=1 => stands == 1,
        _ => return None,
    };
    let logged = count(rest, SYNC_MARKS_MAX)?;
    let standing = if stands { Some(take_marked(rest)?) } else { None };
    let logged = (0..logged).map(|_| take_marked(rest)).collect::<Option<_>>()?;
    Some(Marks { logged, standing, floor })
}

fn take_held(rest: &mut &[u8]) -> Option<Vec<(u32, Lsn)>> {
    let mut held: Vec<(u32, Lsn)> = Vec::new();
    for _ in 0..count(rest, WORDS_MAX)? {
        let by = u32::try_from(take(rest)?).ok().filter(|by| *by > 0)?;
        let word = (by, lsn(take(rest)?)?);
        if held.iter().any(|(known, _)| *known == by) {
            return None;
        }
        held.push(word);
    }
    Some(held)
}

fn take_marked(rest: &mut &[u8]) -> Option<Marked> {
    let (start, end) = (lsn(take(rest)?)?, lsn(take(rest)?)?);
    Some(Marked { mark: take_sync_mark(rest)??, start, end })
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

    const SYNC: SyncMark = SyncMark::Sync { cluster: 2, epoch: 4 };
    const ALONE: SyncMark = SyncMark::Async { epoch: 5 };
    const OTHER: SyncMark = SyncMark::Sync { cluster: u32::MAX, epoch: u64::MAX };

    fn marked(mark: SyncMark, start: u64) -> Marked {
        Marked { mark, start: Lsn(start), end: Lsn(start + 8) }
    }

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
        for (mark, start) in [(SYNC, 50_000), (ALONE, 65_000), (OTHER, 79_992)] {
            derived.marks.on_logged(marked(mark, start));
        }
        derived.on_committed(Lsn(60_000));
        derived.changes.push_back((Lsn(70_000), Change::Create { stream: 9, mark: Some(SYNC) }));
        let mut catalogue = Catalogue::default();
        catalogue.on_committed(Change::Create { stream: 4, mark: Some(OTHER) });
        catalogue.on_committed(Change::Create { stream: 6, mark: None });
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
            held: vec![(9, Lsn(40)), (2, Lsn(88_000))],
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
            assert_eq!(back.held, image(stream).held);
            let (told, before) = (&back.derived, image(stream).derived);
            assert_eq!((&told.registry, &told.gaps), (&before.registry, &before.gaps));
            assert_eq!((&told.changes, &told.marks), (&before.changes, &before.marks));
            assert_eq!(told.marks.standing(), Some(marked(SYNC, 50_000)));
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
                if let Some(mut image) = StreamImage::decode(CATALOGUE_STREAM, &bad) {
                    let log = palisade_wal::StreamLog::restore(image.log);
                    let end = log.end().lsn.0.min(1 << 60);
                    image.derived.marks.on_voided(Lsn(end));
                    image.derived.marks.on_logged(marked(ALONE, end));
                    image.derived.marks.on_committed(Lsn(end + 8));
                }
            }
        }
    }

    #[test]
    fn words_of_standbys_that_no_gate_keeps_are_not_believed() {
        let told = |held: Vec<(u32, Lsn)>| {
            let bytes = StreamImage { held, ..image(5) }.encode().unwrap();
            StreamImage::decode(5, &bytes).map(|image| image.held)
        };
        let words = |count: u32| (1..=count).map(|by| (by, Lsn(8))).collect::<Vec<_>>();
        assert_eq!(told(words(WORDS_MAX as u32)), Some(words(WORDS_MAX as u32)));
        assert_eq!(told(Vec::new()), Some(Vec::new()));
        assert_eq!(told(words(WORDS_MAX as u32 + 1)), None);
        for word in [(0, Lsn(8)), (1, Lsn(Lsn::MAX.0 + 8))] {
            assert_eq!(told(vec![word]), None, "{word:?}");
        }
        assert_eq!(told(vec![(1, Lsn(8)), (1, Lsn(16))]), None, "twice");
    }

    fn mix(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *seed >> 33
    }

    /// A mark by chance.
    fn drawn(seed: &mut u64) -> SyncMark {
        let epoch = (mix(seed) << 33) | mix(seed);
        match mix(seed) as u32 % 4 {
            0 => SyncMark::Async { epoch },
            cluster => SyncMark::Sync { cluster, epoch },
        }
    }

    /// Whatever marks came, were committed and became void: whoever reads the image back gates
    /// like who wrote it, now and after everything that comes.
    #[test]
    fn a_stream_that_was_told_gates_as_before() {
        let (mut gated, mut open, blank) = (0, 0, image(5));
        for round in 0..2_000 {
            let mut seed = round;
            let mut derived = Derived::default();
            if mix(&mut seed).is_multiple_of(3) {
                derived = Derived::born(Some(drawn(&mut seed)));
            }
            let (mut end, mut committed) = (0, 0);
            for _ in 0..mix(&mut seed) % 12 {
                match mix(&mut seed) % 4 {
                    0 => {
                        committed += (mix(&mut seed) % ((end - committed) / 8 + 1)) * 8;
                        derived.on_committed(Lsn(committed));
                    }
                    1 => {
                        end = committed + (mix(&mut seed) % ((end - committed) / 8 + 1)) * 8;
                        let ballot = Ballot { round, node: 1, incarnation: 1 };
                        derived.on_takeover(ballot, Lsn(end));
                    }
                    _ => {
                        let start = end + 8 * (mix(&mut seed) % 3);
                        derived.marks.on_logged(marked(drawn(&mut seed), start));
                        end = start + 8;
                    }
                }
            }
            let mut log = blank.log.clone();
            log.boundaries = vec![Boundary { lsn: Lsn(end + 8), chain: 5 }];
            log.committed = match committed {
                0 => log.base,
                _ => Boundary { lsn: Lsn(committed), chain: 4 },
            };
            let image = StreamImage { log, derived: derived.clone(), ..blank.clone() };
            let bytes = image.encode().unwrap();
            let mut back = StreamImage::decode(5, &bytes).expect("an image").derived;
            assert_eq!((&back.marks, back.committed), (&derived.marks, Lsn(committed)));
            let held = |cluster: u32| Lsn(u64::from(cluster) * 16);
            while end < 400 {
                let mark = marked(drawn(&mut seed), end + 8);
                end += 16;
                for known in [&mut derived, &mut back] {
                    known.marks.on_logged(mark);
                    known.on_committed(Lsn(end - 16));
                }
                let released = derived.marks.released(Lsn(end - 16), held);
                assert_eq!(back.marks.released(Lsn(end - 16), held), released, "round {round}");
                let waits = released < Lsn(end - 16);
                (gated, open) = (gated + u32::from(waits), open + u32::from(!waits));
            }
        }
        assert!(gated > 1000 && open > 1000, "both happen: {gated} gated, {open} open");
    }

    #[test]
    fn marks_that_no_log_can_have_are_neither_told_nor_believed() {
        let good = image(5);
        let told = good.encode().unwrap();
        let wrong: [fn(&mut Marks); 6] = [
            |marks| marks.logged.swap(0, 1),
            |marks| marks.logged[1].end = Lsn(80_008),
            |marks| marks.logged[0].end = marks.logged[0].start,
            |marks| marks.logged[0].start = Lsn(50_000),
            |marks| marks.floor = Lsn(50_008),
            |marks| marks.standing = None,
        ];
        let bytes_of = |marks: &Marks| {
            let mut bytes = Vec::new();
            put_sync_marks(&mut bytes, marks);
            bytes
        };
        let part = bytes_of(&good.derived.marks);
        let at = told.windows(part.len()).position(|found| found == part).expect("it is told");
        for (number, change) in wrong.into_iter().enumerate() {
            let mut image = good.clone();
            change(&mut image.derived.marks);
            assert!(image.encode().is_none(), "{number}");
            let bad = bytes_of(&image.derived.marks);
            let bytes = [&told[..at], &bad, &told[at + part.len()..]].concat();
            assert!(StreamImage::decode(5, &bytes).is_none(), "{number}");
        }
        let bytes = [&told[..at], &part, &told[at + part.len()..]].concat();
        assert!(StreamImage::decode(5, &bytes).is_some());
    }
}
