//! Times the ways to make a block durable: what a node's start-up probe wants to know.
//!
//! Needs a directory and a ring of this thread, nothing of the program around it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use palisade_netio::{
    Completion, Errno, Handle, Op, OpenHow, Payload, Pool, Purpose, Quotas, Ring, Run, SlotId,
    Token, Uring, UringConfig, Wait, Wake,
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Writes in flight at most.
pub(crate) const IN_FLIGHT_MAX: usize = 4;
/// Bytes of one write.
pub(crate) const BLOCK_BYTES: u32 = 4096;
/// Bytes of the file, written with zeros before.
pub(crate) const FILE_BYTES: u64 = 32 << 20;
/// CPUs beside which it is measured at most.
const CPUS_MAX: usize = 64;
/// Longest latency that is told apart.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Longest silence of the device.
const SILENCE: Duration = Duration::from_secs(30);

/// How a write is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Barrier {
    /// One operation of the ring (`RWF_DSYNC`).
    Dsync,
    /// A write, and after it a sync on the ring.
    RingSync,
    /// A write on the ring, and after it `fdatasync(2)` on a helper thread.
    ThreadSync,
}

impl Barrier {
    /// All of them.
    pub(crate) const ALL: [Barrier; 3] = [Barrier::Dsync, Barrier::RingSync, Barrier::ThreadSync];

    /// Name in tables and JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Barrier::Dsync => "dsync",
            Barrier::RingSync => "write-then-ring-fdatasync",
            Barrier::ThreadSync => "write-then-thread-fdatasync",
        }
    }
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) barrier: Barrier,
    /// Writes in flight, 1 to 4.
    pub(crate) in_flight: usize,
    /// A thread spins on this CPU meanwhile.
    pub(crate) busy_cpu: Option<usize>,
}

/// What one case took: a latency per durable block, in nanoseconds.
#[derive(Debug)]
pub(crate) struct Timing {
    pub(crate) case: Case,
    pub(crate) latency: Histogram<u64>,
    pub(crate) took: Duration,
}

/// Every case on this machine: each barrier, 1 to 4 in flight, idle and beside each allowed CPU.
pub(crate) fn cases() -> Vec<Case> {
    let loads = std::iter::once(None).chain(allowed_cpus().into_iter().map(Some));
    let mut cases = Vec::new();
    for busy_cpu in loads {
        for barrier in Barrier::ALL {
            for in_flight in 1..=IN_FLIGHT_MAX {
                cases.push(Case { barrier, in_flight, busy_cpu });
            }
        }
    }
    cases
}

/// CPUs that this thread may run on.
pub(crate) fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).take(CPUS_MAX).collect()
}

/// The barrier with the lowest p50 of one write in flight, each in its worst load.
pub(crate) fn best(timings: &[Timing]) -> Option<Barrier> {
    let worst = |barrier: Barrier| {
        let own = timings.iter().filter(|t| t.case.barrier == barrier && t.case.in_flight == 1);
        own.map(|t| t.latency.value_at_quantile(0.5)).max()
    };
    Barrier::ALL
        .into_iter()
        .filter_map(|b| Some((worst(b)?, b)))
        .min_by_key(|(p50, _)| *p50)
        .map(|(_, b)| b)
}

/// A prepared file and the ring that writes it.
pub(crate) struct Rig {
    ring: Uring,
    pool: Pool,
    handle: Handle,
    file: Arc<File>,
    slots: Vec<SlotId>,
    done: Vec<Completion>,
    next_offset: u64,
}

fn io(errno: Errno) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno.0)
}

impl Rig {
    /// Makes and prepares a file in `dir`.
    ///
    /// # Errors
    /// What the kernel or the disk refuses.
    pub(crate) fn new(dir: &Path) -> std::io::Result<Rig> {
        let path = dir.join("barrier");
        let mut file = File::create_new(&path)?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..FILE_BYTES / zeros.len() as u64 {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        let quota = 1 << 20;
        let mut pool =
            Pool::new(Quotas { write: quota, receive: quota, tail: quota, read: quota })?;
        let mut ring = Uring::new(UringConfig::default(), &pool).map_err(std::io::Error::other)?;
        ring.submit(&mut pool, Token(0), Op::Open { path, how: OpenHow::ReadWrite });
        let mut done = Vec::new();
        while done.is_empty() {
            ring.enter(&mut pool, Wait::Until(None), &mut done);
        }
        let opened = done.remove(0);
        opened.result.map_err(io)?;
        let Payload::Handle(handle) = opened.payload else {
            return Err(std::io::Error::other("no handle of an open file"));
        };
        let take = |_| pool.take(Purpose::Write, BLOCK_BYTES as usize);
        let slots: Vec<SlotId> = (0..IN_FLIGHT_MAX).filter_map(take).collect();
        let file = Arc::new(file);
        Ok(Rig { ring, pool, handle, file, slots, done, next_offset: 0 })
    }

    /// Measures one case.
    ///
    /// # Errors
    /// A write or a barrier failed.
    pub(crate) fn measure(&mut self, case: Case, length: Duration) -> std::io::Result<Timing> {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            if let Some(cpu) = case.busy_cpu {
                let over = &over;
                scope.spawn(move || spin(cpu, over));
            }
            let (ask, asked) = channel();
            let (answer, answers) = channel();
            if case.barrier == Barrier::ThreadSync {
                let (file, waker) = (Arc::clone(&self.file), self.ring.waker());
                scope.spawn(move || sync_each(&file, &asked, &answer, &*waker));
            }
            let timing = self.run(case, length, &ask, &answers);
            over.store(true, Ordering::Relaxed);
            drop(ask);
            timing
        })
    }

    fn run(
        &mut self,
        case: Case,
        length: Duration,
        ask: &Sender<usize>,
        answers: &Receiver<(usize, std::io::Result<()>)>,
    ) -> std::io::Result<Timing> {
        let latency = Histogram::new_with_max(LATENCY_NS_MAX, 3).map_err(std::io::Error::other)?;
        let began = Instant::now();
        let mut timing = Timing { case, latency, took: Duration::ZERO };
        let mut started = [began; IN_FLIGHT_MAX];
        let mut busy = 0;
        for (lane, started) in started.iter_mut().enumerate().take(case.in_flight) {
            *started = self.write(lane, case.barrier);
            busy += 1;
        }
        let mut durable = Vec::new();
        while busy > 0 {
            self.wait(case.barrier, ask, answers, &mut durable)?;
            for lane in durable.drain(..) {
                let now = Instant::now();
                timing.latency.saturating_record((now - started[lane]).as_nanos() as u64);
                if now - began < length {
                    started[lane] = self.write(lane, case.barrier);
                } else {
                    busy -= 1;
                }
            }
        }
        timing.took = began.elapsed();
        Ok(timing)
    }

    fn write(&mut self, lane: usize, barrier: Barrier) -> Instant {
        let runs = vec![Run { slot: self.slots[lane], at: 0, len: BLOCK_BYTES }];
        let offset = self.next_offset;
        self.next_offset = (offset + u64::from(BLOCK_BYTES)) % FILE_BYTES;
        let barrier = barrier == Barrier::Dsync;
        let now = Instant::now();
        let op = Op::Write { handle: self.handle, offset, runs, barrier };
        self.ring.submit(&mut self.pool, Token(lane as u64), op);
        now
    }

    /// Waits, drives the second halves, and names the lanes whose block is durable.
    fn wait(
        &mut self,
        barrier: Barrier,
        ask: &Sender<usize>,
        answers: &Receiver<(usize, std::io::Result<()>)>,
        durable: &mut Vec<usize>,
    ) -> std::io::Result<()> {
        const SYNC: u64 = 1 << 8;
        if barrier == Barrier::ThreadSync {
            self.ring.arm();
        }
        let until = self.ring.now().after(SILENCE.as_nanos() as u64);
        if !take_answers(answers, durable)? {
            self.ring.enter(&mut self.pool, Wait::Until(Some(until)), &mut self.done);
        }
        let mut next = Vec::new();
        for done in self.done.drain(..) {
            let count = done.result.map_err(io)?;
            let lane = (done.token.0 & 0xff) as usize;
            let is_sync = done.token.0 & SYNC != 0;
            if !is_sync && count != BLOCK_BYTES {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
            match barrier {
                Barrier::ThreadSync => ask.send(lane).map_err(std::io::Error::other)?,
                Barrier::RingSync if !is_sync => next.push(lane),
                _ => durable.push(lane),
            }
        }
        for lane in next {
            let op = Op::Sync { handle: self.handle, metadata: false };
            self.ring.submit(&mut self.pool, Token(lane as u64 | SYNC), op);
        }
        take_answers(answers, durable)?;
        if self.ring.now() >= until {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

/// Whether a helper thread made anything durable.
fn take_answers(
    answers: &Receiver<(usize, std::io::Result<()>)>,
    durable: &mut Vec<usize>,
) -> std::io::Result<bool> {
    let before = durable.len();
    while let Ok((lane, synced)) = answers.try_recv() {
        synced?;
        durable.push(lane);
    }
    Ok(durable.len() > before)
}

fn sync_each(
    file: &File,
    asked: &Receiver<usize>,
    answer: &Sender<(usize, std::io::Result<()>)>,
    waker: &dyn Wake,
) {
    while let Ok(first) = asked.recv() {
        // One call covers every block that was written before it.
        let lanes: Vec<usize> = std::iter::once(first).chain(asked.try_iter()).collect();
        let synced = file.sync_data();
        for lane in lanes {
            let result = match &synced {
                Ok(()) => Ok(()),
                Err(error) => Err(std::io::Error::from(error.kind())),
            };
            if answer.send((lane, result)).is_err() {
                return;
            }
        }
        waker.wake();
    }
}

fn spin(cpu: usize, over: &AtomicBool) {
    let mut set = CpuSet::new();
    set.set(cpu);
    // Unpinned it still is a load, only a lighter one.
    let _ = sched_setaffinity(None, &set);
    while !over.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_barrier_ends_idle_and_beside_a_busy_thread() {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let mut rig = Rig::new(dir.path()).expect("a file");
        let cases = cases();
        assert!(cases.len() >= Barrier::ALL.len() * IN_FLIGHT_MAX * 2, "{}", cases.len());
        let mut timings = Vec::new();
        for case in cases {
            let timing = rig.measure(case, Duration::from_millis(2)).expect("measured");
            assert!(timing.latency.len() >= case.in_flight as u64, "{case:?}");
            timings.push(timing);
        }
        assert!(best(&timings).is_some() && best(&[]).is_none());
    }
}
