//! How this disk makes writes durable fastest: measured once, and kept beside the log for as long
//! as kernel, device and CPUs stay the same.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use palisade_netio::{Sample, SyncPath, Verdict, allowed_cpus, decide, probe, probe_sync};

use crate::config::Config;

/// Name of the file in the data directory.
const FILE: &str = "sync-path";
/// First line of the file.
const TITLE: &str = "palisade sync path 1";
/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// What a verdict holds for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    kernel: String,
    device: u64,
    cpus: Vec<u16>,
}

/// The path that a node writes by, and what it needs where that was measured: the configured one,
/// the kept one, or the one that is measured now. A disk that cannot be measured is written by
/// the first one; what is wrong with it shows when it is used.
pub(crate) fn verdict(config: &Config) -> Verdict {
    let unmeasured = |path| Verdict { path, needs: Vec::new() };
    match config.log.sync_path {
        Some(path) => unmeasured(path),
        None => measured(&config.node.data).unwrap_or_else(|| unmeasured(SyncPath::default())),
    }
}

fn measured(data: &Path) -> Option<Verdict> {
    let place = Place::of(data)?;
    if let Some(verdict) = read(data).and_then(|text| parse(&text, &place)) {
        return Some(verdict);
    }
    let timings = probe_sync(data).ok()?;
    let samples: Vec<Sample> = timings.iter().map(|timing| timing.sample()).collect();
    let verdict = decide(&samples)?;
    // Not kept, or torn, it is measured again at the next start.
    let _ = std::fs::write(data.join(FILE), render(&place, &verdict));
    Some(verdict)
}

/// Removes what is kept.
pub(crate) fn forget(data: &Path) {
    // Mostly there is nothing.
    let _ = std::fs::remove_file(data.join(FILE));
}

impl Place {
    fn of(data: &Path) -> Option<Place> {
        let device = std::fs::metadata(data).ok()?.dev();
        let kernel = probe().ok()?.release;
        Some(Place { kernel, device, cpus: allowed_cpus() })
    }
}

fn read(data: &Path) -> Option<String> {
    let mut text = String::new();
    let file = File::open(data.join(FILE)).ok()?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

fn numbers(list: &[u16]) -> String {
    list.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
}

fn render(place: &Place, verdict: &Verdict) -> String {
    let mut text = format!(
        "{TITLE}\npath {}\nneeds {}\nkernel {}\ndevice {}\ncpus {}\n",
        verdict.path.as_str(),
        numbers(&verdict.needs),
        place.kernel,
        place.device,
        numbers(&place.cpus),
    );
    let sum = crc32c::crc32c(text.as_bytes());
    text.push_str(&format!("crc32c {sum:08x}\n"));
    text
}

/// The verdict in a file, if it is whole and holds here.
fn parse(text: &str, place: &Place) -> Option<Verdict> {
    let line = |name: &str| {
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let path = SyncPath::from_word(line("path")?)?;
    let words = line("needs")?.split(',').filter(|word| !word.is_empty());
    let needs = words.map(|word| word.parse().ok()).collect::<Option<Vec<u16>>>()?;
    let verdict = Verdict { path, needs };
    // Byte for byte what would be written: checksum, place and form at once.
    (render(place, &verdict) == text).then_some(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { kernel: "6.1.0-28-amd64".to_owned(), device: 65_024, cpus: vec![0, 2] }
    }

    fn verdict() -> Verdict {
        Verdict { path: SyncPath::WriteThenSync, needs: vec![0, 2] }
    }

    #[test]
    fn a_verdict_reads_back_where_it_holds() {
        let text = render(&place(), &verdict());
        assert_eq!(parse(&text, &place()), Some(verdict()));
        let none = Verdict { needs: vec![], ..verdict() };
        assert_eq!(parse(&render(&place(), &none), &place()), Some(none));
        for other in [
            Place { kernel: "6.12.1".to_owned(), ..place() },
            Place { device: 1, ..place() },
            Place { cpus: vec![0], ..place() },
        ] {
            assert_eq!(parse(&text, &other), None, "{other:?}");
        }
    }

    #[test]
    fn a_damaged_verdict_is_none() {
        let text = render(&place(), &verdict());
        for at in 0..text.len() {
            assert_eq!(parse(&text[..at], &place()), None, "cut at {at}");
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let flipped = String::from_utf8(bytes).expect("still one byte each");
            assert_eq!(parse(&flipped, &place()), None, "flipped at {at}");
        }
    }

    #[test]
    fn it_is_measured_once_and_the_configuration_comes_first() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let mut config = Config::embedded(dir.path());
        config.log.sync_path = Some(SyncPath::LinkedSync);
        assert_eq!(super::verdict(&config).path, SyncPath::LinkedSync);
        assert!(read(dir.path()).is_none(), "nothing was measured");
        config.log.sync_path = None;
        let measured = super::verdict(&config).path;
        let place = Place::of(dir.path()).unwrap();
        let kept = read(dir.path()).expect("a verdict was kept");
        assert_eq!(parse(&kept, &place).map(|kept| kept.path), Some(measured));
        // What is kept decides, whatever would be measured now.
        for path in SyncPath::ALL {
            let verdict = Verdict { path, needs: vec![] };
            std::fs::write(dir.path().join(FILE), render(&place, &verdict)).unwrap();
            assert_eq!(super::verdict(&config).path, path);
        }
        let verdict = Verdict { path: SyncPath::Dsync, needs: vec![1] };
        std::fs::write(dir.path().join(FILE), render(&place, &verdict)).unwrap();
        assert_eq!(super::verdict(&config), verdict);
        forget(dir.path());
        assert!(read(dir.path()).is_none());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }

    /// It would make every write many times slower.
    #[test]
    fn no_shard_spins_on_a_cpu_that_writes_need() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let mut config = Config::embedded(dir.path());
        config.node.cpus = vec![allowed_cpus()[0]];
        config.timing.spin = std::time::Duration::from_micros(50);
        crate::format(&config).unwrap();
        let place = Place::of(dir.path()).unwrap();
        let keep = |needs: Vec<u16>| {
            let verdict = Verdict { path: SyncPath::Dsync, needs };
            std::fs::write(dir.path().join(FILE), render(&place, &verdict)).unwrap();
        };
        keep(config.node.cpus.clone());
        let error = crate::Node::open(config.clone()).err().expect("it would spin there");
        assert_eq!(error.kind(), crate::ErrorKind::Config);
        let text = error.to_string();
        assert!(text.contains("timing.spin") && text.contains("node.cpus"), "{text}");
        config.timing.spin = std::time::Duration::ZERO;
        drop(crate::Node::open(config.clone()).unwrap());
        config.timing.spin = std::time::Duration::from_micros(50);
        keep(vec![]);
        drop(crate::Node::open(config).unwrap());
    }
}
