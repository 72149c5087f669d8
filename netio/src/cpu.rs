//! Which CPUs a thread may run on.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::op::Errno;

/// CPUs that the calling thread may run on. All that have a number when the kernel does not say.
pub fn allowed_cpus() -> Vec<u16> {
    let all = 0..CpuSet::MAX_CPU;
    match sched_getaffinity(None) {
        Ok(set) => all.filter(|&cpu| set.is_set(cpu)).map(|cpu| cpu as u16).collect(),
        Err(_) => all.map(|cpu| cpu as u16).collect(),
    }
}

/// Keeps the calling thread on one CPU. Threads that it makes later inherit that.
///
/// # Errors
/// There is no such CPU, or this process may not use it.
pub fn pin_thread(cpu: u16) -> Result<(), Errno> {
    if usize::from(cpu) >= CpuSet::MAX_CPU {
        return Err(Errno::INVAL);
    }
    let mut set = CpuSet::new();
    set.set(cpu.into());
    Ok(sched_setaffinity(None, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_runs_on_its_cpu_alone() {
        let last = *allowed_cpus().last().expect("this thread runs somewhere");
        let pinned = std::thread::spawn(move || {
            pin_thread(last).unwrap();
            allowed_cpus()
        });
        assert_eq!(pinned.join().unwrap(), [last]);
        assert_eq!(pin_thread(u16::MAX), Err(Errno::INVAL));
    }
}
