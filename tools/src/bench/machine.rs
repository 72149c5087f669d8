//! What the processes of a run spent.

/// CPU time of this process and of its ended children, in microseconds.
pub(crate) fn own_cpu_us() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    ticks(&stat).map_or(0, ticks_to_us)
}

/// CPU time of another process, in microseconds; 0 when it is gone.
pub(crate) fn cpu_us_of(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    ticks(&stat).map_or(0, ticks_to_us)
}

/// Memory of another process that is resident now, in bytes, its maps of files included; 0 when it
/// is gone.
pub(crate) fn resident_bytes_of(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    resident(&status).unwrap_or(0)
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kib * 1024)
}

/// User and system time: fields 14 and 15, counted after the name, which may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn ticks_to_us(ticks: u64) -> u64 {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    ticks * 1_000_000 / per_second
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_name_with_brackets_does_no_harm() {
        let stat = "1 (a ) b) S 1 1 1 0 -1 0 0 0 0 0 7 5 0 0 20";
        assert_eq!(super::ticks(stat), Some(12));
    }

    #[test]
    fn resident_memory_is_read_in_bytes() {
        assert_eq!(super::resident("Name:\tx\nVmRSS:\t    12 kB\nX: 1 kB"), Some(12 << 10));
        assert_eq!(super::resident(""), None);
    }
}
