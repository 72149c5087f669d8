//! `bench wal`: durable blocks of one log, by one thread that fills and writes them.
//!
//! The files are written with zeros first and taken again by the log, as in a node that has run
//! for a while. When they are full the clock stops, a new log takes the same files once more, and
//! the clock goes on: the space stays bounded, whatever the length of the run.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use palisade_netio::Purpose;
use palisade_wal::limits::{
    BLOCK_ALIGN, BLOCK_BYTES_TARGET, BLOCK_HEAD_BYTES, SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES,
    WRITES_IN_FLIGHT_MAX, block_bytes,
};
use palisade_wal::{
    Ballot, BodyBuilder, CHAIN_START, GROUP_HEADER_BYTES, GroupKind, Lsn, NewBlock, NoRoom, Origin,
    RECORD_HEADER_BYTES, SyncPath, entry_bytes, segment_name,
};

use super::lane::{Lane, Machinery, log_config};
use super::machine::own_cpu_us;
use super::report::Measured;
use crate::cli::BenchLoad;
use crate::demo::measured;
use crate::exit::{Exit, Failure};
use crate::signals::Interrupt;

/// Size of a segment: the default of a node.
const SEGMENT_BYTES: u64 = 128 << 20;
/// Segments at most; with them the log is full within its last one, with none being prepared.
const SEGMENTS_MAX: u64 = 16;
/// Segments at least: one is written, one is next, one is being sealed.
const SEGMENTS_MIN: u64 = 4;
/// Writes that a device may do in a second; for the space of short runs.
const WRITES_PER_S_MAX: u64 = 50_000;
/// Time before the measurement.
const WARM_UP: Duration = Duration::from_millis(500);

/// Runs the benchmark.
pub(super) fn run(load: &BenchLoad) -> Result<Measured, Failure> {
    let interrupt = Interrupt::catch()?;
    measure(load, SEGMENT_BYTES, segments(load), &interrupt)
}

fn measure(
    load: &BenchLoad,
    segment_bytes: u64,
    segments: u64,
    interrupt: &Interrupt,
) -> Result<Measured, Failure> {
    let dir = super::temporary_dir(&load.run.dir)?;
    let sync_path = measured(dir.path());
    check_place(dir.path(), sync_path)?;
    prepare(dir.path(), segment_bytes, segments, interrupt)?;
    let mut measured = Measured::new("wal", 1, load)?;
    let mut clock = Clock::new(load);
    let mut machinery = Machinery::new(sync_path)?;
    eprintln!("written by {}, as a node on this machine would", sync_path.as_str());
    let mut life = 1;
    loop {
        let config = log_config(dir.path(), segment_bytes, segments, life, sync_path);
        let mut lap = Lap::open(machinery, config, load)?;
        clock.start();
        let over = lap.run(&mut clock, &mut measured, interrupt);
        clock.stop(&mut measured);
        if over? {
            return Ok(measured);
        }
        if lap.taken == 0 {
            let text = format!("{}: the log took no block", dir.path().display());
            return Err(Failure::new(Exit::Failed, text));
        }
        machinery = lap.lane.close()?;
        recycle(dir.path())?;
        life += 1;
    }
}

/// Segments that the run may need, within the limit.
fn segments(load: &BenchLoad) -> u64 {
    let record = entry_bytes(load.record_bytes as usize);
    let batch = record * load.in_flight as usize + GROUP_HEADER_BYTES + RECORD_HEADER_BYTES;
    let write = block_bytes(batch.min(WRITES_IN_FLIGHT_MAX * BLOCK_BYTES_TARGET)) as u64;
    let bytes = write * WRITES_PER_S_MAX * (load.run.seconds + 1);
    (bytes / SEGMENT_BYTES + SEGMENTS_MIN).min(SEGMENTS_MAX)
}

/// Opens a small log there, as a place that takes none is to be refused before it is filled.
fn check_place(dir: &Path, sync_path: SyncPath) -> Result<(), Failure> {
    let place = dir.join("check");
    let failed = |error| Failure::io(place.display(), &error);
    std::fs::create_dir(&place).map_err(failed)?;
    let config = log_config(&place, SEGMENT_BYTES_MIN, SEGMENTS_MIN, 1, sync_path);
    Lane::open(Machinery::new(sync_path)?, config)?.close()?;
    std::fs::remove_dir_all(&place).map_err(failed)
}

/// Writes the files that the log will take: zeros under the names of segments.
fn prepare(
    dir: &Path,
    segment_bytes: u64,
    segments: u64,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let zeros = vec![0; 1 << 20];
    for seq in 1..=segments {
        let path = dir.join(segment_name(seq));
        let failed = |error| Failure::io(path.display(), &error);
        let mut file = File::create_new(&path).map_err(failed)?;
        for _ in 0..segment_bytes / zeros.len() as u64 {
            interrupt.check()?;
            file.write_all(&zeros).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| Failure::io(dir.display(), &e))
}

/// Takes the header off every segment, so that a new log finds files without an owner.
fn recycle(dir: &Path) -> Result<(), Failure> {
    let failed = |error| Failure::io(dir.display(), &error);
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let file = OpenOptions::new().write(true).open(entry.map_err(failed)?.path());
        let file = file.map_err(failed)?;
        file.write_all_at(&[0; SEGMENT_HEADER_BYTES], 0).map_err(failed)?;
        file.sync_all().map_err(failed)?;
    }
    Ok(())
}

/// The time that counts.
struct Clock {
    warm_left: Duration,
    left: Duration,
    since: Instant,
    cpu: u64,
}

impl Clock {
    fn new(load: &BenchLoad) -> Clock {
        let left = Duration::from_secs(load.run.seconds);
        Clock { warm_left: WARM_UP, left, since: Instant::now(), cpu: 0 }
    }

    fn start(&mut self) {
        (self.since, self.cpu) = (Instant::now(), own_cpu_us());
    }

    fn is_warm(&self) -> bool {
        self.warm_left.is_zero()
    }

    /// Ends the warm-up when it is time; says whether all is over.
    fn check(&mut self, now: Instant) -> bool {
        let ran = now - self.since;
        if !self.is_warm() && ran >= self.warm_left {
            self.warm_left = Duration::ZERO;
            self.start();
            return false;
        }
        self.is_warm() && ran >= self.left
    }

    fn stop(&mut self, measured: &mut Measured) {
        let ran = self.since.elapsed();
        if self.is_warm() {
            measured.took += ran;
            measured.cpu_us += own_cpu_us() - self.cpu;
            self.left = self.left.saturating_sub(ran);
        } else {
            self.warm_left = self.warm_left.saturating_sub(ran);
        }
    }
}

/// Records that started waiting together.
#[derive(Clone, Copy)]
struct Share {
    since: Instant,
    records: u64,
}

/// One life of the log: until it is full or the time is over.
struct Lap {
    lane: Lane,
    payload: Vec<u8>,
    /// End and chain of each stream.
    streams: Vec<(Lsn, u64)>,
    next_stream: usize,
    /// Records that may be appended now.
    ready: VecDeque<Share>,
    waiting: u64,
    /// Records in blocks that are not durable, by block.
    open: VecDeque<(u64, Share)>,
    /// Blocks appended.
    taken: u64,
    is_full: bool,
}

impl Lap {
    fn open(
        machinery: Machinery,
        config: palisade_wal::Config,
        load: &BenchLoad,
    ) -> Result<Lap, Failure> {
        let lane = Lane::open(machinery, config)?;
        let records = u64::from(load.in_flight);
        Ok(Lap {
            lane,
            payload: vec![0x5a; load.record_bytes as usize],
            streams: vec![(Lsn::ZERO, CHAIN_START); load.streams as usize],
            next_stream: 0,
            ready: VecDeque::from([Share { since: Instant::now(), records }]),
            waiting: records,
            open: VecDeque::new(),
            taken: 0,
            is_full: false,
        })
    }

    /// Returns true when the time is over, false when the log is full and all of it durable.
    fn run(
        &mut self,
        clock: &mut Clock,
        measured: &mut Measured,
        interrupt: &Interrupt,
    ) -> Result<bool, Failure> {
        loop {
            interrupt.check()?;
            while !self.is_full && self.append_block()? {}
            if self.is_full && self.open.is_empty() {
                return Ok(false);
            }
            self.lane.turn()?;
            let now = Instant::now();
            self.on_durable(now, clock.is_warm().then_some(&mut *measured));
            if clock.check(now) {
                return Ok(true);
            }
        }
    }

    /// Fills one block and appends it, if the log wants one; false when it does not.
    fn append_block(&mut self) -> Result<bool, Failure> {
        let overhead = RECORD_HEADER_BYTES + GROUP_HEADER_BYTES;
        let entry = entry_bytes(self.payload.len());
        // As many as make a block that the log takes for full.
        let short = BLOCK_BYTES_TARGET - BLOCK_ALIGN - BLOCK_HEAD_BYTES - overhead;
        let records = (short as u64 / entry as u64 + 1).min(self.waiting);
        if records == 0 {
            return Ok(false);
        }
        let len = block_bytes(overhead + entry * records as usize);
        if !self.lane.wal.wants_block(len) {
            return Ok(false);
        }
        match self.lane.wal.peek(len, false) {
            Ok(_) => {}
            Err(NoRoom::Preparing | NoRoom::Busy) => return Ok(false),
            Err(NoRoom::Full) => {
                self.is_full = true;
                return Ok(false);
            }
            Err(why) => return Err(Failure::new(Exit::Failed, why.to_string())),
        }
        let Some(slot) = self.lane.pool.take(Purpose::Write, len) else { return Ok(false) };
        let stream = self.next_stream;
        self.next_stream = (stream + 1) % self.streams.len();
        let (lsn, chain) = self.streams[stream];
        let bytes = &mut self.lane.pool.bytes_mut(slot)[BLOCK_HEAD_BYTES..];
        let ballot = Ballot { round: 1, node: 1, incarnation: 1 };
        let origin = Origin { role_epoch: 1, cluster: 1, ballot };
        let mut body = BodyBuilder::new(bytes);
        let full = |_| Failure::new(Exit::Invariant, "a block has no room for its records");
        let id = stream as u64 + 1;
        body.begin_group(id, lsn, ballot, GroupKind::Data, origin, 0).map_err(full)?;
        for _ in 0..records {
            body.push_entry(&self.payload, 0, 0).map_err(full)?;
        }
        let meta = body.end_group(self.taken + 1, chain);
        self.streams[stream] = (meta.end, meta.chain);
        let block = NewBlock { slot, body: body.finish(), hard_state: false };
        let placed = self.lane.wal.append(&mut self.lane.pool, block);
        let place = placed.map_err(|why| Failure::new(Exit::Failed, why.to_string()))?;
        self.taken += 1;
        self.move_shares(place.block, records);
        Ok(true)
    }

    /// The longest waiting records are in this block now.
    fn move_shares(&mut self, block: u64, mut records: u64) {
        self.waiting -= records;
        while records > 0 {
            let Some(first) = self.ready.front_mut() else { return };
            let count = first.records.min(records);
            self.open.push_back((block, Share { since: first.since, records: count }));
            first.records -= count;
            records -= count;
            if first.records == 0 {
                self.ready.pop_front();
            }
        }
    }

    /// Counts the records that are durable, and starts as many again.
    fn on_durable(&mut self, now: Instant, mut measured: Option<&mut Measured>) {
        let durable = self.lane.wal.durable();
        let mut records = 0;
        while let Some(&(block, share)) = self.open.front() {
            if block > durable {
                break;
            }
            self.open.pop_front();
            records += share.records;
            if let Some(measured) = &mut measured {
                measured.record(now - share.since, share.records);
            }
        }
        if records > 0 {
            self.ready.push_back(Share { since: now, records });
            self.waiting += records;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::BenchRun;

    #[test]
    fn full_files_are_taken_again_until_the_time_is_over() {
        let dir = std::path::PathBuf::from("/var/tmp");
        let (record_bytes, in_flight) = (4096, 256);
        let run = BenchRun { seconds: 1, dir, json: true };
        let load = BenchLoad { streams: 3, record_bytes, in_flight, run };
        let interrupt = Interrupt::default();
        let measured = measure(&load, 8 << 20, 4, &interrupt).expect("measured");
        assert!(measured.took >= Duration::from_secs(1), "{:?}", measured.took);
        let line: serde_json::Value = serde_json::from_str(&measured.json()).expect("JSON");
        assert_eq!((&line["what"], &line["record_bytes"]), (&"wal".into(), &4096.into()));
        assert!(line["per_s"].as_u64() > Some(0), "{line}");
    }
}
