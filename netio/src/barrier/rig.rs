//! Times the paths on a real file, through real rings, as a log would use them.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Case, IN_FLIGHT_MAX, Sample, SyncPath, cases};
use crate::cpu::{allowed_cpus, pin_thread};
use crate::op::{Completion, Errno, Handle, Op, Run, Token};
use crate::pool::{Pool, Purpose, Quotas, REGISTERED_STEP, SlotId};
use crate::ring::{Ring, Wait};
use crate::uring::{Uring, UringConfig};

/// Bytes of one write.
pub const BLOCK_BYTES: u32 = 4096;
/// Samples of one case; it ends when it has so many.
const SAMPLES_MAX: usize = 1 << 20;
/// Longest silence of the device.
const SILENCE: Duration = Duration::from_secs(30);
/// Marks the token of a sync.
const SYNC: u64 = 1 << 8;

/// Time of the start-up probe, its file not counted. A write that is under way is waited for.
const PROBE_MAX: Duration = Duration::from_millis(250);
/// Shortest and longest measurement of one case of the start-up probe.
const PROBE_CASE: (Duration, Duration) = (Duration::from_millis(3), Duration::from_millis(15));
/// Bytes of the start-up probe's file.
const PROBE_FILE_BYTES: u64 = 2 << 20;
/// Writes in flight that the start-up probe looks at.
const PROBE_IN_FLIGHT: [usize; 2] = [1, IN_FLIGHT_MAX];
/// CPUs beside which the start-up probe measures, spread over the allowed ones.
const PROBE_CPUS_MAX: usize = 8;

/// What one case took, a latency per durable block.
#[derive(Debug)]
pub struct Timing {
    /// The case.
    pub case: Case,
    /// Latencies in nanoseconds, ascending; never empty.
    pub latencies_ns: Vec<u64>,
    /// From the first write to the last completion.
    pub took: Duration,
}

impl Timing {
    /// The latency that a part of the blocks, 0 to 1, did not exceed.
    pub fn quantile_ns(&self, part: f64) -> u64 {
        let count = self.latencies_ns.len();
        let at = (part * count as f64).ceil() as usize;
        self.latencies_ns[at.clamp(1, count) - 1]
    }

    /// What a decision needs of it.
    pub fn sample(&self) -> Sample {
        Sample { case: self.case, p50_ns: self.quantile_ns(0.5) }
    }
}

/// Measures in a directory, for about a quarter of a second, what [`decide`](super::decide) needs
/// at a start.
///
/// # Errors
/// What the kernel or the disk refuses.
pub fn probe_sync(dir: &Path) -> std::io::Result<Vec<Timing>> {
    let cpus = spread(&allowed_cpus(), PROBE_CPUS_MAX);
    let cases = cases(&PROBE_IN_FLIGHT, &cpus);
    let each = (PROBE_MAX / cases.len() as u32).clamp(PROBE_CASE.0, PROBE_CASE.1);
    let mut rig = Rig::new(dir, PROBE_FILE_BYTES)?;
    let until = Instant::now() + PROBE_MAX;
    let mut timings = Vec::with_capacity(cases.len());
    for (at, case) in cases.into_iter().enumerate() {
        // On a slow device at least the paths are compared once.
        if at >= SyncPath::ALL.len() && Instant::now() >= until {
            break;
        }
        timings.push(rig.measure(case, each)?);
    }
    Ok(timings)
}

/// At most `max` of the CPUs, the first and the last among them.
fn spread(cpus: &[u16], max: usize) -> Vec<u16> {
    if cpus.len() <= max {
        return cpus.to_vec();
    }
    (0..max).map(|at| cpus[at * (cpus.len() - 1) / (max - 1)]).collect()
}

/// A prepared file, and a ring for each path.
pub struct Rig {
    rings: Vec<Uring>,
    pool: Pool,
    file: File,
    path: PathBuf,
    file_bytes: u64,
    slots: Vec<SlotId>,
    done: Vec<Completion>,
    next_offset: u64,
}

impl Rig {
    /// Makes and prepares a file in `dir`, which is removed with the rig.
    ///
    /// # Errors
    /// What the kernel or the disk refuses.
    pub fn new(dir: &Path, file_bytes: u64) -> std::io::Result<Rig> {
        let path = dir.join("sync-probe");
        let mut file = File::create(&path)?;
        let zeros = vec![0; 256 << 10];
        for _ in 0..file_bytes.div_ceil(zeros.len() as u64) {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        let file = File::options().write(true).custom_flags(libc::O_DIRECT).open(&path)?;
        let quota = 1 << 20;
        let mut pool =
            Pool::new(Quotas { write: quota, receive: quota, tail: quota, read: quota })?;
        let mut rings = Vec::with_capacity(SyncPath::ALL.len());
        for sync_path in SyncPath::ALL {
            let register_bytes_max = REGISTERED_STEP;
            let config = UringConfig { register_bytes_max, sync_path, ..UringConfig::default() };
            rings.push(Uring::new(config, &pool).map_err(std::io::Error::other)?);
        }
        let take = |_| pool.take(Purpose::Write, BLOCK_BYTES as usize);
        let slots: Vec<SlotId> = (0..IN_FLIGHT_MAX).filter_map(take).collect();
        assert!(slots.len() == IN_FLIGHT_MAX, "the quota holds a block per write");
        Ok(Rig { rings, pool, file, path, file_bytes, slots, done: Vec::new(), next_offset: 0 })
    }

    /// Measures one case.
    ///
    /// # Errors
    /// A write or a barrier failed.
    ///
    /// # Panics
    /// When the case has no write in flight, or too many.
    pub fn measure(&mut self, case: Case, length: Duration) -> std::io::Result<Timing> {
        assert!((1..=IN_FLIGHT_MAX).contains(&case.in_flight));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            if let Some(cpu) = case.busy_cpu {
                let over = &over;
                scope.spawn(move || spin(cpu, over));
            }
            let timing = self.run(case, length);
            over.store(true, Ordering::Relaxed);
            timing
        })
    }

    fn run(&mut self, case: Case, length: Duration) -> std::io::Result<Timing> {
        let began = Instant::now();
        let mut latencies_ns = Vec::new();
        let mut started = [began; IN_FLIGHT_MAX];
        for (lane, started) in started.iter_mut().enumerate().take(case.in_flight) {
            *started = self.write(case.path, lane);
        }
        let mut busy = case.in_flight;
        let mut durable = Vec::new();
        while busy > 0 {
            self.wait(case.path, &mut durable)?;
            for lane in durable.drain(..) {
                let now = Instant::now();
                latencies_ns.push((now - started[lane]).as_nanos() as u64);
                if now - began < length && latencies_ns.len() < SAMPLES_MAX {
                    started[lane] = self.write(case.path, lane);
                } else {
                    busy -= 1;
                }
            }
        }
        latencies_ns.sort_unstable();
        Ok(Timing { case, latencies_ns, took: began.elapsed() })
    }

    fn write(&mut self, path: SyncPath, lane: usize) -> Instant {
        let runs = vec![Run { slot: self.slots[lane], at: 0, len: BLOCK_BYTES }];
        let offset = self.next_offset;
        self.next_offset = (offset + u64::from(BLOCK_BYTES)) % self.file_bytes;
        let barrier = path.is_one_operation();
        let op = Op::Write { handle: handle(&self.file), offset, runs, barrier };
        let now = Instant::now();
        self.rings[path as usize].submit(&mut self.pool, Token(lane as u64), op);
        now
    }

    /// Waits, submits what follows a write, and names the lanes whose block is durable.
    fn wait(&mut self, path: SyncPath, durable: &mut Vec<usize>) -> std::io::Result<()> {
        let ring = &mut self.rings[path as usize];
        let until = ring.now().after(SILENCE.as_nanos() as u64);
        ring.enter(&mut self.pool, Wait::Until(Some(until)), &mut self.done);
        for done in self.done.drain(..) {
            let lane = (done.token.0 & !SYNC) as usize;
            let is_sync = done.token.0 & SYNC != 0;
            let count = done.result.map_err(io)?;
            if !is_sync && count != BLOCK_BYTES {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
            if is_sync || path.is_one_operation() {
                durable.push(lane);
                continue;
            }
            let op = Op::Sync { handle: handle(&self.file), metadata: false };
            ring.submit(&mut self.pool, Token(lane as u64 | SYNC), op);
        }
        if ring.now() >= until {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Left behind, it is written over by the next one.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn handle(file: &File) -> Handle {
    Handle::from_raw(file.as_raw_fd())
}

fn io(errno: Errno) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno.0)
}

fn spin(cpu: u16, over: &AtomicBool) {
    // Unpinned it still is a load, only a lighter one.
    let _ = pin_thread(cpu);
    while !over.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_ends_idle_and_beside_a_busy_thread() {
        let dir = std::path::PathBuf::from(format!("/var/tmp/netio-rig-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut rig = Rig::new(&dir, 1 << 20).unwrap();
        let cases = cases(&[1, 2, 3, 4], &spread(&allowed_cpus(), 2));
        let mut samples = Vec::new();
        for case in cases {
            let timing = rig.measure(case, Duration::from_millis(2)).unwrap();
            assert!(timing.latencies_ns.len() >= case.in_flight, "{case:?}");
            assert!(timing.quantile_ns(0.0) <= timing.quantile_ns(1.0));
            samples.push(timing.sample());
        }
        assert!(super::super::decide(&samples).is_some());
        drop(rig);
        // Removed with the rig: then the directory is empty.
        std::fs::remove_dir(&dir).unwrap();
    }

    #[test]
    fn many_cpus_are_thinned_out() {
        let many: Vec<u16> = (0..64).collect();
        let few = spread(&many, 8);
        assert_eq!((few.len(), few[0], few[7]), (8, 0, 63));
        assert_eq!(spread(&[3, 5], 8), [3, 5]);
    }
}
