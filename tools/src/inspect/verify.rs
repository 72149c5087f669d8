//! `palisade inspect verify`: every checksum of every block and record, every chain, and how fast
//! that went.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Instant;

use palisade_wal::{
    IDENTITY_COPIES, IDENTITY_NAME, LogStart, SegmentHeader, Started, decode_identity, segment_name,
};
use serde_json::{Value, json};

use super::files::{Met, SegmentFile, find, neighbours};
use super::scan::{Found, scan};
use super::walk::Log;
use crate::cli::InspectFiles;
use crate::exit::{Exit, Failure};
use crate::text;

/// Damaged places that are named one by one.
const NAMED_MAX: usize = 100;

/// All that was walked.
#[derive(Default)]
struct Verified {
    logs: Vec<(PathBuf, Log)>,
    /// Files that are no segments, and why.
    strangers: Vec<(PathBuf, &'static str)>,
    files: u64,
    bytes: u64,
    seconds: f64,
}

/// `palisade inspect verify`
pub(crate) fn run(options: &InspectFiles) -> Result<Exit, Failure> {
    let started = Instant::now();
    let mut dirs: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for path in find(&options.paths)? {
        dirs.entry(path.parent().unwrap_or(Path::new("")).to_owned()).or_default().push(path);
    }
    let mut verified = Verified::default();
    for (dir, paths) in dirs {
        let log = verified.walk(options, &paths)?;
        verified.logs.push((dir, log));
    }
    verified.seconds = started.elapsed().as_secs_f64();
    if options.json {
        text::say(format!("{}\n", verified.json()))?;
    } else {
        text::say(verified.text())?;
    }
    Ok(if verified.is_ok() { Exit::Ok } else { Exit::Corrupt })
}

/// Blocks of `file` above this were discarded by a later recovery.
fn limit(file: &SegmentFile, all: &[SegmentFile]) -> u64 {
    let later = all.iter().filter(|other| other.seq() > file.seq());
    let kept = later.filter_map(|other| other.header.as_ref()?.kept());
    kept.map(|kept| kept.block_seq).min().unwrap_or(u64::MAX)
}

/// What the identity file beside the segments says of them; nothing when it is not there.
fn started(all: &[SegmentFile]) -> Option<Started> {
    let dir = all.first()?.path.parent()?;
    let bytes = std::fs::read(dir.join(IDENTITY_NAME)).ok()?;
    let copies = IDENTITY_COPIES.map(|at| bytes.get(at as usize..).and_then(decode_identity));
    let newest = copies.into_iter().flatten().max_by_key(|(_, generation)| *generation);
    newest.map(|(identity, _)| identity.started)
}

/// Where the log begins: segments below are no part of it, be they there, reused or gone.
fn log_start(all: &[SegmentFile], started: Option<Started>) -> LogStart {
    let named = started.map(|started| started.start);
    let told = all.iter().filter_map(|file| file.header.as_ref()).map(SegmentHeader::start);
    told.chain(named).max().unwrap_or_default()
}

/// The newest segment that the identity file names, when it is not there; or, when the `newest`
/// one with blocks is an older one, the one before it. A recovery that started a later one has
/// seen to it.
fn missing(
    all: &[SegmentFile],
    started: Started,
    start: LogStart,
    newest: u64,
) -> Option<(PathBuf, &'static str)> {
    let dir = all.first()?.path.parent()?;
    let seen_to = |file: &SegmentFile| {
        let recovered = file.header.as_ref().is_some_and(|header| header.kept().is_some());
        recovered && file.seq() > started.newest
    };
    if all.iter().any(seen_to) {
        return None;
    }
    let empty = newest < started.newest;
    let due = [started.newest, if empty { started.before } else { 0 }].into_iter();
    let mut due = due.filter(|seq| *seq >= start.segment.max(1));
    let seq = due.find(|seq| !all.iter().any(|file| file.seq() == *seq))?;
    Some((dir.join(segment_name(seq)), "it held the end of the log and is gone"))
}

impl Verified {
    /// Walks the named segments of one log; what the others say in their headers counts too.
    fn walk(&mut self, options: &InspectFiles, paths: &[PathBuf]) -> Result<Log, Failure> {
        let mut around = Vec::new();
        for path in neighbours(&paths[0])? {
            around.push(SegmentFile::look(&path)?);
        }
        let started = started(&around);
        let start = log_start(&around, started);
        let owner = around.iter().find_map(|file| file.expect);
        let mut files = Vec::new();
        for path in paths {
            let mut file = SegmentFile::look(path)?;
            if let Some(owner) = &owner {
                file.adopt(owner);
            }
            files.push(file);
        }
        files.sort_by_key(SegmentFile::seq);
        let mut log = Log::default();
        if files.len() == around.len() {
            // The whole log: its start has to be there.
            let first = paths[0].with_file_name(segment_name(start.segment.max(1)));
            log.begin(start.first_due(), first);
        }
        let mut newest = 0;
        let part = |file: &&SegmentFile| file.seq() == 0 || file.seq() >= start.segment;
        for file in files.iter().filter(part) {
            let blocks = log.blocks;
            self.segment(options, file, limit(file, &around), &mut log)?;
            if log.blocks > blocks {
                newest = newest.max(file.seq());
            }
        }
        if let Some(gone) = started.and_then(|started| missing(&around, started, start, newest)) {
            self.strangers.push(gone);
        }
        log.finish();
        Ok(log)
    }

    fn segment(
        &mut self,
        options: &InspectFiles,
        file: &SegmentFile,
        limit: u64,
        log: &mut Log,
    ) -> Result<(), Failure> {
        self.files += 1;
        let kept = file.header.as_ref().and_then(|header| header.kept());
        let kept = kept.map_or(0, |kept| kept.block_seq);
        if file.is_taken_again() {
            log.durable_upto = log.durable_upto.max(kept);
            return Ok(());
        }
        let bytes = file.bytes()?;
        self.bytes += bytes.len() as u64;
        let blocks = log.blocks;
        let mut met = Met::Nothing;
        let done: Result<(), Infallible> = scan(file, &bytes, |found: Found<'_>| {
            met = met.and(&found);
            if file.header.is_none() && log.blocks == blocks && matches!(found, Found::Block { .. })
            {
                log.on_bad_header(&file.path);
            }
            log.take(options, &file.path, limit, &found);
            Ok(())
        });
        let Ok(()) = done;
        if let Some(why) = file.stranger(&bytes, met) {
            self.strangers.push((file.path.clone(), why));
        }
        log.durable_upto = log.durable_upto.max(kept).max(file.sealed.unwrap_or(0));
        Ok(())
    }

    fn sum(&self, of: fn(&Log) -> u64) -> u64 {
        self.logs.iter().map(|(_, log)| of(log)).sum()
    }

    fn corrupt(&self) -> u64 {
        self.sum(|log| log.corrupt().count() as u64 + log.more) + self.strangers.len() as u64
    }

    fn is_ok(&self) -> bool {
        self.corrupt() == 0
    }

    fn mb_per_s(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds.max(1e-9)
    }

    fn json(&self) -> Value {
        let strangers = self
            .strangers
            .iter()
            .map(|(path, why)| json!({"path": path, "offset": 0, "block": null, "why": why}));
        let damaged = self.logs.iter().flat_map(|(_, log)| log.corrupt()).map(|damage| {
            json!({"path": damage.path, "offset": damage.offset, "block": damage.block,
                   "why": damage.why})
        });
        let damage: Vec<Value> = strangers.chain(damaged).take(NAMED_MAX).collect();
        let logs: Vec<Value> = self.logs.iter().map(|(dir, log)| describe(dir, log)).collect();
        json!({"ok": self.is_ok(), "files": self.files, "bytes": self.bytes,
            "blocks": self.sum(|log| log.blocks), "groups": self.sum(|log| log.groups),
            "records": self.sum(|log| log.records), "body_bytes": self.sum(|log| log.body_bytes),
            "torn": self.sum(Log::torn), "corrupt": self.corrupt(), "seconds": self.seconds,
            "mb_per_s": self.mb_per_s(), "logs": logs, "damage": damage})
    }

    fn text(&self) -> String {
        let named = self.strangers.iter().take(NAMED_MAX);
        let mut lines: Vec<String> =
            named.map(|(path, why)| format!("{}: {why}", path.display())).collect();
        let nothing = |log: &Log| log.blocks == 0 && !self.strangers.is_empty();
        for (dir, log) in self.logs.iter().filter(|(_, log)| !nothing(log)) {
            let (last, stop) = log.stop();
            let (block, offset, stop) = (last.block, last.offset, stop.name());
            let name = last.path.file_name().unwrap_or_default().to_string_lossy();
            let dir = dir.display();
            lines.push(format!(
                "{dir}: whole up to block {block} ({name} at {offset}), then {stop}"
            ));
            for (stream, end) in log.chains.ends() {
                lines.push(format!("  stream {stream} ends at {}", end.lsn));
            }
        }
        for damage in self.logs.iter().flat_map(|(_, log)| log.corrupt()).take(NAMED_MAX) {
            let (path, offset) = (damage.path.display(), damage.offset);
            lines.push(format!("{path} at {offset}: block {}: {}", damage.block, damage.why));
        }
        lines.push(format!(
            "{} files, {}, {} blocks, {} groups, {} records: {} corrupt, {} torn, {:.0} MB/s",
            self.files,
            text::size(self.bytes),
            self.sum(|log| log.blocks),
            self.sum(|log| log.groups),
            self.sum(|log| log.records),
            self.corrupt(),
            self.sum(Log::torn),
            self.mb_per_s()
        ));
        lines.push(String::new());
        lines.join("\n")
    }
}

fn describe(dir: &Path, log: &Log) -> Value {
    let (last, stop) = log.stop();
    let streams: Vec<Value> = log
        .chains
        .ends()
        .map(|(stream, end)| {
            let chain = end.chain.map(|chain| format!("{chain:016x}"));
            json!({"stream": stream, "end_lsn": end.lsn.0, "chain": chain})
        })
        .collect();
    json!({"dir": dir, "durable_upto": log.durable_upto, "stopped": stop.name(),
        "intact": {"path": last.path, "offset": last.offset, "block": last.block},
        "streams": streams})
}
