//! Where and by what a figure was measured: without it a number says nothing.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use palisade::config::ZeroCopy;
use palisade_netio::allowed_cpus;
use rustix::fs::{major, minor};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

/// Program, machine and place of a run. What cannot be found out is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Environment {
    /// Version of the program.
    version: &'static str,
    /// The commit that it was built from, with `+changes` when there were any.
    commit: Option<&'static str>,
    /// What built it.
    rustc: Option<&'static str>,
    /// How: `release` or `debug`.
    profile: Option<&'static str>,
    /// Release of the kernel.
    kernel: Option<String>,
    /// Model of the first CPU.
    cpu: Option<String>,
    /// CPUs that this process may use.
    cores: usize,
    /// Memory of the machine, in bytes.
    memory_bytes: Option<u64>,
    /// Memory that may be locked, in bytes; none: without limit.
    memlock_bytes: Option<u64>,
    /// File system of the data directory.
    file_system: Option<String>,
    /// What it is on.
    device: Option<String>,
    /// When sends are zero-copy; none where nothing is sent.
    pub(crate) zero_copy: Option<&'static str>,
}

impl Environment {
    /// Of this process, which keeps its files in `dir`.
    pub(crate) fn of(dir: &Path) -> Environment {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let mount = std::fs::metadata(dir).ok().and_then(|facts| {
            let number = format!("{}:{}", major(facts.dev()), minor(facts.dev()));
            mount(&read("/proc/self/mountinfo"), &number)
        });
        let (file_system, device) = mount.unzip();
        Environment {
            version: env!("CARGO_PKG_VERSION"),
            commit: known(env!("PALISADE_COMMIT")),
            rustc: known(env!("PALISADE_RUSTC")),
            profile: known(env!("PALISADE_PROFILE")),
            kernel: known(read("/proc/sys/kernel/osrelease").trim()).map(str::to_owned),
            cpu: value(&read("/proc/cpuinfo"), "model name"),
            cores: allowed_cpus().len(),
            memory_bytes: value(&read("/proc/meminfo"), "MemTotal").and_then(|kib| bytes(&kib)),
            memlock_bytes: getrlimit(Resource::Memlock).current,
            file_system,
            device,
            zero_copy: None,
        }
    }

    /// Nodes of the run send each other something, and so.
    pub(crate) fn sends(&mut self, zero_copy: ZeroCopy) {
        self.zero_copy = Some(zero_copy.as_str());
    }
}

fn known(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// The value of the first line `name : value`.
fn value(text: &str, name: &str) -> Option<String> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(key, _)| key.trim() == name)?;
    Some(value.trim().to_owned())
}

/// `24684096 kB` in bytes.
fn bytes(kib: &str) -> Option<u64> {
    kib.strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// File system and source of the device with this number, by /proc/self/mountinfo: what stands
/// behind the lone dash. The last mount is the one that is seen.
fn mount(table: &str, number: &str) -> Option<(String, String)> {
    let of = |line: &str| {
        let (place, what) = line.split_once(" - ")?;
        let mut what = what.split(' ');
        let found = (what.next()?.to_owned(), what.next()?.to_owned());
        (place.split(' ').nth(2)? == number).then_some(found)
    };
    table.lines().filter_map(of).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_the_kernel_are_read() {
        let table = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
                     27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
                     31 27 254:0 /data /data rw - ext4 /dev/vda rw,discard\n";
        let disk = Some(("ext4".to_owned(), "/dev/vda".to_owned()));
        assert_eq!(mount(table, "254:0"), disk);
        assert_eq!(mount(table, "254:1"), None);
        assert_eq!(mount("nonsense", "254:0"), None);
        let cpus = "processor\t: 0\nmodel name\t: Some CPU: fast\nmodel name\t: Other\n";
        assert_eq!(value(cpus, "model name").as_deref(), Some("Some CPU: fast"));
        assert_eq!(value(cpus, "flags"), None);
        assert_eq!((bytes("4 kB"), bytes("4"), bytes("x kB")), (Some(4096), None, None));
    }

    #[test]
    fn this_machine_is_described() {
        let own = Environment::of(Path::new("/var/tmp"));
        assert!(own.cores > 0 && own.memory_bytes > Some(1 << 20), "{own:?}");
        assert!(own.kernel.is_some() && own.rustc.is_some_and(|text| text.starts_with("rustc ")));
        assert!(own.file_system.is_some() && own.device.is_some(), "{own:?}");
        assert!(matches!(own.profile, Some("debug" | "release")), "{own:?}");
        let nowhere = Environment::of(Path::new("/nowhere/at/all"));
        assert_eq!((nowhere.file_system, nowhere.device), (None, None));
    }
}
