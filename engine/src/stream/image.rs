//! A stream as a checkpoint tells it: its log, and everything that was derived from bytes that may
//! be gone.

use std::collections::BTreeMap;

use palisade_wal::{Boundary, LogImage, Lsn};
use zerocopy::little_endian::U64;

use super::base::Rebased;
use super::catalogue::{CATALOGUE_STREAM, Catalogue, Change, FIRST_STREAM};
use super::derived::{Derived, GAPS_MAX};
use super::mark::{MARK_BYTES, Mark as SyncMark, Marked, Marks, WORDS_MAX};
use super::pin::{Need, Pin, Pins};
use super::producers::{Mark, Producer, Producers};
use super::scns::{Scns, TOLD_MAX};
use crate::config::Role;
use crate::control::limits::CLUSTERS_MAX;
use crate::control::{self, Registry};
use crate::limits::{PRODUCERS_LAST_MAX, PRODUCERS_MAX, STREAMS_MAX};
use crate::paxos::Config;
use crate::paxos::codec::{Fixed, Reader, fixed, put};
use crate::seeded::is_seeded;

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

fixed! {
    /// A config of so many bytes follows the log and this.
    ImageHead: 24 { role: U64, floor: U64, config: U64 }
    /// Where the log goes on behind its last base, zeros if there is none; and so many changes of
    /// the catalogue follow, each where its group ends.
    DerivedHead: 40 { committed: U64, rebased: U64, chain: U64, scn: U64, changes: U64 }
    RawChange: 32 { end: U64, stream: U64, mark: [u8; MARK_BYTES] }
    /// A change of the registry of so many bytes follows.
    EntryHead: 24 { group: U64, entry: U64, change: U64 }
    /// The standing mark, if there is one, and so many that are logged follow.
    MarksHead: 24 { floor: U64, stands: U64, logged: U64 }
    RawMarked: 32 { start: U64, end: U64, mark: [u8; MARK_BYTES] }
    RawHeld: 16 { by: U64, held: U64 }
    RawPin: 24 { cluster: U64, need: U64, from: U64 }
    RawGap: 16 { start: U64, end: U64 }
    RawScn: 16 { scn: U64, end: U64 }
    ProducersHead: 16 { expired: U64, settled: U64 }
    /// So many records follow.
    ProducerHead: 32 { id: U64, last: U64, scn: U64, recent: U64 }
    RawRecord: 32 { sequence: U64, lsn: U64, end_lsn: U64, scn: U64 }
    RawLast: 24 { id: U64, last: U64, scn: U64 }
    RawLogged: 40 { producer: U64, record: RawRecord }
    CatalogueHead: 16 { given: U64, streams: U64 }
    RawStream: 24 { stream: U64, mark: [u8; MARK_BYTES] }
}

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
    /// What is kept for registered standbys.
    pub(crate) pins: Pins,
    /// Of the catalogue stream: the streams that exist, and the clusters with the mode.
    pub(crate) catalogue: Option<(Catalogue, Registry)>,
}

impl StreamImage {
    /// The bytes. None while the stream cannot be told: it has too much that is not committed, or a
    /// base is not.
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
        let (role, floor) = (role_code(self.role).into(), self.floor.0.into());
        put(&mut out, &ImageHead { role, floor, config: number(config.len()) });
        out.extend_from_slice(&config);
        let (committed, changes) = (derived.committed.0.into(), number(derived.changes.len()));
        let (rebased, chain, scn) =
            derived.rebased.map_or((0, 0, 0), |it| (it.end.lsn.0, it.end.chain, it.scn));
        let (rebased, chain, scn) = (rebased.into(), chain.into(), scn.into());
        put(&mut out, &DerivedHead { committed, rebased, chain, scn, changes });
        for (end, Change::Create { stream, mark }) in &derived.changes {
            let (end, stream) = (end.0.into(), (*stream).into());
            put(&mut out, &RawChange { end, stream, mark: SyncMark::encode_or_none(*mark) });
        }
        put_entries(&mut out, derived);
        put_sync_marks(&mut out, &derived.marks);
        put(&mut out, &number(self.held.len()));
        for (by, held) in &self.held {
            put(&mut out, &RawHeld { by: u64::from(*by).into(), held: held.0.into() });
        }
        put(&mut out, &number(self.pins.iter().count()));
        for (cluster, Pin { from, need }) in self.pins.iter() {
            let (cluster, need) = (u64::from(cluster).into(), (need as u64).into());
            put(&mut out, &RawPin { cluster, need, from: from.0.into() });
        }
        put(&mut out, &number(derived.gaps.len()));
        for (start, end) in &derived.gaps {
            put(&mut out, &RawGap { start: start.0.into(), end: end.0.into() });
        }
        put(&mut out, &number(derived.scns.told().count()));
        for (scn, end) in derived.scns.told() {
            put(&mut out, &RawScn { scn: scn.into(), end: end.0.into() });
        }
        put_producers(&mut out, producers);
        if let Some((catalogue, registry)) = &self.catalogue {
            let streams: Vec<u64> = catalogue.streams().collect();
            let (given, count) = (catalogue.given().into(), number(streams.len()));
            put(&mut out, &CatalogueHead { given, streams: count });
            for stream in streams {
                let mark = SyncMark::encode_or_none(catalogue.mark(stream));
                put(&mut out, &RawStream { stream: stream.into(), mark });
            }
            registry.encode_into(&mut out);
        }
        Some(out)
    }

    /// Reads the bytes of `stream`; none when they are no image.
    pub fn decode(stream: u64, bytes: &[u8]) -> Option<StreamImage> {
        let (log, rest) = LogImage::decode(bytes).ok()?;
        let mut rest = Reader::new(rest);
        let ImageHead { role, floor, config } = rest.head().ok()?;
        let role = match role.get() {
            1 => Role::Primary,
            2 => Role::Standby,
            _ => return None,
        };
        let floor = lsn(*floor)?;
        let config = rest.bytes(usize::try_from(config.get()).ok()?).ok()?;
        let config = Config::decode(config).ok()?;
        let head: &DerivedHead = rest.head().ok()?;
        let mut derived = Derived::default();
        derived.committed = lsn(head.committed)?;
        derived.rebased = rebased(head)?;
        for RawChange { end, stream, mark } in list(&mut rest, head.changes, STREAMS_MAX)? {
            let stream = stream.get();
            let known = (FIRST_STREAM..u64::MAX).contains(&stream);
            let mark = SyncMark::decode_or_none(mark).filter(|_| known)?;
            derived.changes.push_back((lsn(*end)?, Change::Create { stream, mark }));
        }
        take_entries(&mut rest, &mut derived)?;
        derived.marks = take_sync_marks(&mut rest)?;
        let (held, pins) = (take_held(&mut rest)?, take_pins(&mut rest)?);
        for RawGap { start, end } in counted(&mut rest, GAPS_MAX)? {
            let gap = (lsn(*start)?, lsn(*end)?);
            derived.gaps.push(Some(gap).filter(|(start, end)| start < end)?);
        }
        let told = counted(&mut rest, TOLD_MAX)?.iter();
        let told = told.map(|RawScn { scn, end }| Some((scn.get(), lsn(*end)?)));
        derived.scns = Scns::restore(&told.collect::<Option<Vec<_>>>()?)?;
        let producers = take_producers(&mut rest)?;
        if !is_seeded("producers_not_restored") {
            derived.producers = producers;
        }
        let mut catalogue = None;
        if stream == CATALOGUE_STREAM {
            let CatalogueHead { given, streams } = rest.head().ok()?;
            let stream = |RawStream { stream, mark }: &RawStream| {
                Some((stream.get(), SyncMark::decode_or_none(mark)?))
            };
            let streams = list(&mut rest, *streams, STREAMS_MAX)?;
            let streams = streams.iter().map(stream).collect::<Option<_>>()?;
            let (registry, after) = Registry::decode(rest.rest())?;
            rest = Reader::new(after);
            catalogue = Some((Catalogue::restore(given.get(), streams), registry));
        }
        let sound = rest.finish().is_ok() && marks_fit(&derived, log.end().lsn);
        sound.then_some(StreamImage { log, config, role, floor, derived, held, pins, catalogue })
    }
}

fn role_code(role: Role) -> u64 {
    match role {
        Role::Primary => 1,
        Role::Standby => 2,
    }
}

fn number(count: usize) -> U64 {
    (count as u64).into()
}

/// So many entries, of which there are at most `max`.
fn list<'a, T: Fixed>(rest: &mut Reader<'a>, count: U64, max: usize) -> Option<&'a [T]> {
    rest.list(bounded(count, max)?).ok()
}

/// The same after their count.
fn counted<'a, T: Fixed>(rest: &mut Reader<'a>, max: usize) -> Option<&'a [T]> {
    let count = *rest.head().ok()?;
    list(rest, count, max)
}

fn bounded(count: U64, max: usize) -> Option<usize> {
    usize::try_from(count.get()).ok().filter(|count| *count <= max)
}

/// None in it where there was no base.
fn rebased(head: &DerivedHead) -> Option<Option<Rebased>> {
    let end = Boundary { lsn: lsn(head.rebased)?, chain: head.chain.get() };
    let found = Rebased { end, scn: head.scn.get() };
    if end.lsn == Lsn::ZERO {
        return (found.end.chain == 0 && found.scn == 0).then_some(None);
    }
    (end.lsn <= lsn(head.committed)?).then_some(Some(found))
}

fn lsn(number: U64) -> Option<Lsn> {
    Some(Lsn(number.get())).filter(|lsn| *lsn <= Lsn::MAX)
}

/// Changes of the registry that are not committed.
fn put_entries(out: &mut Vec<u8>, derived: &Derived) {
    put(out, &number(derived.registry.len()));
    for (group, (entry, change)) in &derived.registry {
        let change = change.encode();
        let (group, entry) = (group.0.into(), entry.0.into());
        put(out, &EntryHead { group, entry, change: number(change.len()) });
        out.extend_from_slice(&change);
    }
}

fn take_entries(rest: &mut Reader<'_>, derived: &mut Derived) -> Option<()> {
    for _ in 0..bounded(*rest.head().ok()?, REGISTRY_MAX)? {
        let EntryHead { group, entry, change } = rest.head().ok()?;
        let (group, entry) = (lsn(*group)?, lsn(*entry)?);
        let change = rest.bytes(usize::try_from(change.get()).ok()?).ok()?;
        derived.registry.push_back((group, (entry, control::Change::decode(change)?)));
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

/// What a stream's acks wait for: the marks, as far as they still say something. The standing one
/// goes before those that are not committed.
fn put_sync_marks(out: &mut Vec<u8>, marks: &Marks) {
    let Marks { logged, standing, floor } = marks;
    let (floor, stands) = (floor.0.into(), number(standing.iter().len()));
    put(out, &MarksHead { floor, stands, logged: number(logged.len()) });
    for Marked { mark, start, end } in standing.iter().chain(logged) {
        let (start, end) = (start.0.into(), end.0.into());
        put(out, &RawMarked { start, end, mark: mark.encode() });
    }
}

fn take_sync_marks(rest: &mut Reader<'_>) -> Option<Marks> {
    let MarksHead { floor, stands, logged } = rest.head().ok()?;
    let standing = list(rest, *stands, 1)?.first().map(read_marked);
    let standing = if let Some(marked) = standing { Some(marked?) } else { None };
    let logged = list(rest, *logged, SYNC_MARKS_MAX)?;
    let logged = logged.iter().map(read_marked).collect::<Option<_>>()?;
    Some(Marks { logged, standing, floor: lsn(*floor)? })
}

fn take_held(rest: &mut Reader<'_>) -> Option<Vec<(u32, Lsn)>> {
    let mut held: Vec<(u32, Lsn)> = Vec::new();
    for RawHeld { by, held: word } in counted(rest, WORDS_MAX)? {
        let by = u32::try_from(by.get()).ok().filter(|by| *by > 0)?;
        if held.iter().any(|(known, _)| *known == by) {
            return None;
        }
        held.push((by, lsn(*word)?));
    }
    Some(held)
}

/// By cluster, each once.
fn take_pins(rest: &mut Reader<'_>) -> Option<Pins> {
    let mut pins = BTreeMap::new();
    for RawPin { cluster, need, from } in counted(rest, CLUSTERS_MAX)? {
        let cluster = u32::try_from(cluster.get()).ok().filter(|cluster| *cluster > 0)?;
        let need = *Need::ALL.get(usize::try_from(need.get()).ok()?)?;
        if pins.last_key_value().is_some_and(|(last, _)| *last >= cluster) {
            return None;
        }
        pins.insert(cluster, Pin { from: lsn(*from)?, need });
    }
    Pins::restore(pins)
}

fn read_marked(RawMarked { start, end, mark }: &RawMarked) -> Option<Marked> {
    Some(Marked { mark: SyncMark::decode(mark)?, start: lsn(*start)?, end: lsn(*end)? })
}

fn put_producers(out: &mut Vec<u8>, producers: &Producers) {
    let each = (MARKS_MAX / producers.settled.len().max(1)).clamp(1, MARKS_OF_ONE_MAX);
    let (expired, settled) = (producers.expired.into(), number(producers.settled.len()));
    put(out, &ProducersHead { expired, settled });
    for (id, Producer { last, scn, recent }) in &producers.settled {
        let told = recent.len().min(each);
        let (id, last, scn) = ((*id).into(), (*last).into(), (*scn).into());
        put(out, &ProducerHead { id, last, scn, recent: number(told) });
        recent.iter().skip(recent.len() - told).for_each(|mark| put(out, &RawRecord::from(mark)));
    }
    let lasts: Vec<_> = producers.lasts().collect();
    put(out, &number(lasts.len()));
    for (id, last, scn) in lasts {
        put(out, &RawLast { id: id.into(), last: last.into(), scn: scn.into() });
    }
    put(out, &number(producers.overlay.len()));
    for mark in &producers.overlay {
        put(out, &RawLogged { producer: mark.producer.into(), record: mark.into() });
    }
}

fn take_producers(rest: &mut Reader<'_>) -> Option<Producers> {
    let mut producers = Producers::default();
    let ProducersHead { expired, settled } = rest.head().ok()?;
    for _ in 0..bounded(*settled, PRODUCERS_MAX)? {
        let ProducerHead { id, last, scn, recent } = rest.head().ok()?;
        let (id, last, scn) = (id.get(), last.get(), scn.get());
        let recent: &[RawRecord] = list(rest, *recent, MARKS_OF_ONE_MAX)?;
        let recent = recent.iter().map(|record| record.read(id)).collect::<Option<_>>()?;
        producers.settled.insert(id, Producer { last, scn, recent });
    }
    for RawLast { id, last, scn } in counted(rest, PRODUCERS_LAST_MAX)? {
        producers.restore_last(id.get(), last.get(), scn.get());
    }
    for RawLogged { producer, record } in counted(rest, OVERLAY_MAX)? {
        producers.overlay.push_back(record.read(producer.get())?);
    }
    Some(producers.restored(expired.get()))
}

impl From<&Mark> for RawRecord {
    fn from(mark: &Mark) -> RawRecord {
        let (sequence, scn) = (mark.sequence.into(), mark.scn.into());
        RawRecord { sequence, lsn: mark.lsn.0.into(), end_lsn: mark.end_lsn.0.into(), scn }
    }
}

impl RawRecord {
    fn read(&self, producer: u64) -> Option<Mark> {
        let (sequence, scn) = (self.sequence.get(), self.scn.get());
        let mark =
            Mark { producer, sequence, lsn: lsn(self.lsn)?, end_lsn: lsn(self.end_lsn)?, scn };
        (mark.end_lsn > mark.lsn && producer != 0).then_some(mark)
    }
}

#[cfg(test)]
mod tests {
    use palisade_wal::{Ballot, CHAIN_START};

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

    fn pins(count: u32) -> Pins {
        let pin = |at: u32| Pin { from: Lsn(8 * u64::from(at)), need: Need::ALL[at as usize % 4] };
        Pins::restore((1..=count).map(|at| (at, pin(at))).collect()).unwrap()
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
        derived.gaps.push((Lsn(61_000), Lsn(64_000)));
        derived.registry.push_back((Lsn(70_000), (Lsn(69_992), change(1))));
        for (mark, start) in [(SYNC, 50_000), (ALONE, 65_000), (OTHER, 79_992)] {
            derived.marks.on_logged(marked(mark, start));
        }
        derived.on_committed(Lsn(60_000));
        let rebased = Boundary { lsn: Lsn(700), chain: 3 };
        derived.rebased = Some(Rebased { end: rebased, scn: 2 });
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
            pins: pins(4),
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
            assert_eq!((back.held, back.pins), (image(stream).held, image(stream).pins));
            let (told, before) = (&back.derived, image(stream).derived);
            assert_eq!((&told.registry, &told.gaps), (&before.registry, &before.gaps));
            assert_eq!((&told.changes, &told.marks), (&before.changes, &before.marks));
            assert_eq!((told.rebased, told.rebased_end()), (before.rebased, Lsn(700)));
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

    #[test]
    fn what_is_kept_for_a_full_registry_reads_back() {
        for count in [0, CLUSTERS_MAX as u32] {
            let bytes = StreamImage { pins: pins(count), ..image(5) }.encode().unwrap();
            let back = StreamImage::decode(5, &bytes).unwrap();
            assert_eq!(back.pins, pins(count));
        }
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
