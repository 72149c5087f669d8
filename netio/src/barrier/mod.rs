//! The ways to make a write durable, and which of them to take: measured by the [`Rig`], decided
//! by [`decide`], which knows numbers only.

mod rig;

pub use rig::{BLOCK_BYTES, Rig, Timing, probe_sync};

/// Writes in flight at most.
pub const IN_FLIGHT_MAX: usize = 4;
/// A path must beat an earlier one of [`SyncPath::ALL`] by this much, in percent: what is as good
/// as another must not change from one start to the next.
const CLEARLY_PERCENT: u64 = 10;
/// A path needs a CPU when a busy thread there makes it so many times slower.
const NEEDS_FACTOR: u64 = 4;

/// How a write is made durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SyncPath {
    /// One operation of the kernel writes and promises durability (`RWF_DSYNC`).
    #[default]
    Dsync,
    /// A write, and linked to it a `FDATASYNC` of the ring: one operation for who submits it.
    LinkedSync,
    /// A write, and after its completion a sync: `fdatasync(2)` on a helper thread of the ring.
    WriteThenSync,
}

impl SyncPath {
    /// All of them, the preferred one first.
    pub const ALL: [SyncPath; 3] = [SyncPath::Dsync, SyncPath::LinkedSync, SyncPath::WriteThenSync];
    /// Their names, in the same order.
    pub const WORDS: [&str; 3] = ["rwf-dsync", "linked-fdatasync", "fdatasync"];

    /// Its name in configuration, status and tables.
    pub const fn as_str(self) -> &'static str {
        SyncPath::WORDS[self as usize]
    }

    /// The path of a name.
    pub fn from_word(word: &str) -> Option<SyncPath> {
        SyncPath::ALL.into_iter().find(|path| path.as_str() == word)
    }

    /// Whether one operation writes and promises durability; else a sync follows the write.
    pub const fn is_one_operation(self) -> bool {
        !matches!(self, SyncPath::WriteThenSync)
    }
}

/// What is measured: a path under a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// The path.
    pub path: SyncPath,
    /// Writes in flight, 1 to 4.
    pub in_flight: usize,
    /// A thread spins on this CPU meanwhile.
    pub busy_cpu: Option<u16>,
}

/// What a case came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The case.
    pub case: Case,
    /// Half of its writes were durable after this long.
    pub p50_ns: u64,
}

/// Which path to take on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The path.
    pub path: SyncPath,
    /// CPUs that it needs: a thread that spins there makes it many times slower.
    pub needs: Vec<u16>,
}

/// Every case: each path, with so many writes in flight, idle and beside a busy thread on each
/// CPU. All paths of one load stand together, so that the first ones of the list compare.
pub fn cases(in_flight: &[usize], cpus: &[u16]) -> Vec<Case> {
    let mut cases = Vec::new();
    for &in_flight in in_flight {
        for busy_cpu in std::iter::once(None).chain(cpus.iter().copied().map(Some)) {
            cases.extend(SyncPath::ALL.map(|path| Case { path, in_flight, busy_cpu }));
        }
    }
    cases
}

/// The path with the lowest p50 in its worst load, over the writes in flight that were measured.
/// None when no load was measured for every path.
pub fn decide(samples: &[Sample]) -> Option<Verdict> {
    let of = |path, in_flight, busy_cpu| {
        let case = Case { path, in_flight, busy_cpu };
        samples.iter().find(|sample| sample.case == case).map(|sample| sample.p50_ns)
    };
    // A load that one path was spared must not count against the others.
    let compares = |sample: &&Sample| {
        let Case { in_flight, busy_cpu, .. } = sample.case;
        SyncPath::ALL.into_iter().all(|path| of(path, in_flight, busy_cpu).is_some())
    };
    let compared: Vec<Sample> = samples.iter().filter(compares).copied().collect();
    let worst = |path: SyncPath| loads(&compared, path).into_iter().map(|(_, ns)| ns).max();
    let mut best = (SyncPath::Dsync, worst(SyncPath::Dsync)?);
    for path in SyncPath::ALL {
        let ns = worst(path)?;
        if ns < best.1 - best.1 * CLEARLY_PERCENT / 100 {
            best = (path, ns);
        }
    }
    let loads = loads(&compared, best.0);
    let idle = loads.iter().find(|(cpu, _)| cpu.is_none()).map(|(_, ns)| *ns);
    let slow = |ns: u64| idle.is_some_and(|idle| ns > idle.saturating_mul(NEEDS_FACTOR));
    let needs = loads.iter().filter(|(_, ns)| slow(*ns)).filter_map(|(cpu, _)| *cpu).collect();
    Some(Verdict { path: best.0, needs })
}

/// Each load of a path, with the mean of its p50 over the writes in flight.
fn loads(samples: &[Sample], path: SyncPath) -> Vec<(Option<u16>, u64)> {
    let own = || samples.iter().filter(move |sample| sample.case.path == path);
    let mut cpus: Vec<Option<u16>> = own().map(|sample| sample.case.busy_cpu).collect();
    cpus.sort_unstable();
    cpus.dedup();
    let mean = |cpu: Option<u16>| {
        let of_cpu = own().filter(|sample| sample.case.busy_cpu == cpu).map(|s| s.p50_ns);
        let (sum, count) = of_cpu.fold((0u64, 0), |(sum, n), ns| (sum.saturating_add(ns), n + 1));
        (cpu, sum / u64::max(count, 1))
    };
    cpus.into_iter().map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u64 = 1000;

    /// p50 of each path in microseconds: idle, beside CPU 0, beside CPU 1.
    fn table(us: [[u64; 3]; 3]) -> Vec<Sample> {
        let cases = cases(&[1], &[0, 1]);
        let sample = |(at, &case): (usize, &Case)| {
            let (path, load) = (at % 3, at / 3);
            Sample { case, p50_ns: us[path][load] * US }
        };
        cases.iter().enumerate().map(sample).collect()
    }

    fn path(us: [[u64; 3]; 3]) -> SyncPath {
        decide(&table(us)).expect("all was measured").path
    }

    #[test]
    fn the_loaded_p50_decides_and_not_the_idle_one() {
        // Seen: one operation needs the CPU of the disk's interrupt, the helper thread does not.
        let seen = [[42, 42, 4000], [61, 70, 3000], [44, 60, 66]];
        let verdict = decide(&table(seen)).expect("all was measured");
        assert_eq!(verdict, Verdict { path: SyncPath::WriteThenSync, needs: vec![] });
        assert_eq!(path([[42, 45, 44], [61, 60, 66], [70, 60, 66]]), SyncPath::Dsync);
        assert_eq!(path([[90, 90, 90], [60, 60, 60], [70, 60, 66]]), SyncPath::LinkedSync);
    }

    #[test]
    fn a_path_must_be_clearly_better_to_displace_an_earlier_one() {
        assert_eq!(path([[100, 100, 100], [91, 91, 91], [95, 95, 95]]), SyncPath::Dsync);
        assert_eq!(path([[100, 100, 100], [89, 89, 89], [85, 85, 85]]), SyncPath::LinkedSync);
    }

    #[test]
    fn the_cpu_that_a_path_waits_for_is_named() {
        let verdict = decide(&table([[40, 50, 900], [990, 990, 1200], [1000, 1000, 1300]]));
        let verdict = verdict.expect("all was measured");
        assert_eq!(verdict, Verdict { path: SyncPath::Dsync, needs: vec![1] });
    }

    #[test]
    fn what_was_not_measured_for_every_path_does_not_count() {
        let mut samples = table([[42, 42, 4000], [61, 70, 61], [70, 60, 66]]);
        // Time ran out in the middle of the load on CPU 1.
        samples.truncate(7);
        assert_eq!(decide(&samples).map(|verdict| verdict.path), Some(SyncPath::Dsync));
        assert_eq!(decide(&samples[..2]), None);
        assert_eq!(decide(&[]), None);
    }

    #[test]
    fn writes_in_flight_count_together() {
        let samples: Vec<Sample> = cases(&[1, 4], &[])
            .into_iter()
            .map(|case| Sample {
                case,
                p50_ns: match (case.path, case.in_flight) {
                    (SyncPath::Dsync, 1) => 40,
                    (SyncPath::Dsync, _) => 400,
                    (SyncPath::LinkedSync, _) => 100,
                    (SyncPath::WriteThenSync, _) => 300,
                },
            })
            .collect();
        assert_eq!(decide(&samples).map(|v| v.path), Some(SyncPath::LinkedSync));
    }

    #[test]
    fn names_read_back() {
        for path in SyncPath::ALL {
            assert_eq!(SyncPath::from_word(path.as_str()), Some(path));
        }
        assert_eq!(SyncPath::from_word("auto"), None);
    }
}
