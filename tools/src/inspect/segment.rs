//! `palisade inspect segment`: once, or on and on.

use std::collections::BTreeMap;
use std::io::{BufWriter, ErrorKind, Stdout, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use palisade_wal::{RecordMeta, entries};
use serde_json::json;

use super::decoder::decode;
use super::files::{Met, SegmentFile, find, look_around};
use super::scan::{Checked, Found, Gap, scan};
use crate::cli::{InspectFiles, InspectSegment};
use crate::exit::{Exit, Failure};
use crate::signals::Interrupt;

/// A file whose last change is older has changed no more since it was read: its time is coarse.
const SETTLED: Duration = Duration::from_secs(1);

/// `palisade inspect segment`
pub(crate) fn run(options: &InspectSegment) -> Result<Exit, Failure> {
    let interrupt = options.follow.then(Interrupt::catch).transpose()?;
    let mut printer = Printer::new(options);
    loop {
        for path in find(&options.files.paths)? {
            match printer.segment(&path).and_then(|()| Ok(printer.out.flush()?)) {
                Ok(()) => {}
                Err(Stop::NobodyReads) => return Ok(Exit::Ok),
                Err(Stop::Failed(failure)) => return Err(failure),
            }
        }
        if !printer.strangers.is_empty() {
            return Err(Failure::new(Exit::Corrupt, printer.strangers.join("\n")));
        }
        let Some(interrupt) = &interrupt else { return Ok(Exit::Ok) };
        for _ in 0..10 {
            if interrupt.is_set() {
                return Ok(Exit::Ok);
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}

/// Why the printing ends before its end.
enum Stop {
    /// The reader of the output has enough.
    NobodyReads,
    Failed(Failure),
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Stop {
        match error.kind() {
            ErrorKind::BrokenPipe => Stop::NobodyReads,
            _ => Stop::Failed(Failure::io("stdout", &error)),
        }
    }
}

/// What was printed of a segment.
#[derive(Clone, Copy, Default)]
struct Printed {
    /// Highest block.
    block: u64,
    /// When it last changed, if it has not since it was read.
    changed: Option<SystemTime>,
}

struct Printer<'a> {
    options: &'a InspectFiles,
    decoder: Option<&'a str>,
    out: BufWriter<Stdout>,
    printed: BTreeMap<PathBuf, Printed>,
    /// Files that are no segments, and why.
    strangers: Vec<String>,
}

impl Printer<'_> {
    fn new(options: &InspectSegment) -> Printer<'_> {
        Printer {
            options: &options.files,
            decoder: options.decoder.as_deref(),
            out: BufWriter::new(std::io::stdout()),
            printed: BTreeMap::new(),
            strangers: Vec::new(),
        }
    }

    /// Prints a segment, or the blocks that it got since it was printed.
    fn segment(&mut self, path: &Path) -> Result<(), Stop> {
        let known = self.printed.get(path).copied();
        let facts = std::fs::metadata(path).and_then(|facts| facts.modified());
        let changed = facts.map_err(|error| Stop::Failed(Failure::io(path.display(), &error)))?;
        if known.is_some_and(|known| known.changed == Some(changed)) {
            return Ok(());
        }
        let is_settled = changed.elapsed().is_ok_and(|age| age > SETTLED);
        let file = look_around(path).map_err(Stop::Failed)?;
        let bytes = file.bytes().map_err(Stop::Failed)?;
        if known.is_none() {
            self.header(&file)?;
        }
        let mut met = Met::Nothing;
        let mut now = known.unwrap_or_default();
        now.changed = is_settled.then_some(changed);
        scan(&file, &bytes, |found| {
            met = met.and(&found);
            match &found {
                // What no block is now may become one.
                Found::Gap { .. } if known.is_some() => return Ok(()),
                Found::Gap { .. } => {}
                Found::Block { head, .. } if known.is_some_and(|k| head.seq() <= k.block) => {
                    return Ok(());
                }
                Found::Block { head, .. } => now.block = now.block.max(head.seq()),
            }
            self.found(&found)
        })?;
        let why = file.stranger(&bytes, met);
        self.strangers.extend(why.map(|why| format!("{}: {why}", path.display())));
        self.printed.insert(path.to_owned(), now);
        Ok(())
    }

    fn header(&mut self, file: &SegmentFile) -> Result<(), Stop> {
        let (path, out) = (file.path.display(), &mut self.out);
        match &file.header {
            None if self.options.json => {
                writeln!(out, "{}", json!({"segment": path.to_string(), "header": null}))?;
            }
            None => writeln!(out, "{path}: no readable segment header")?,
            Some(header) if self.options.json => {
                let line = json!({"segment": path.to_string(), "seq": header.seq.get(),
                    "cluster": header.cluster.get(), "node": header.node.get(),
                    "shard": header.shard.get(), "incarnation": header.incarnation.get(),
                    "bytes": header.bytes.get()});
                writeln!(out, "{line}")?;
            }
            Some(header) => writeln!(
                out,
                "{path}: segment {} of cluster {} node {} shard {} incarnation {:#x}, {} bytes",
                header.seq,
                header.cluster,
                header.node,
                header.shard,
                header.incarnation,
                header.bytes
            )?,
        }
        Ok(())
    }

    fn found(&mut self, found: &Found<'_>) -> Result<(), Stop> {
        let (offset, head, body, records) = match found {
            Found::Gap { offset, end, gap } if self.options.json => {
                let line = json!({"offset": offset, "end": end, "gap": gap_text(gap)});
                return Ok(writeln!(self.out, "{line}")?);
            }
            Found::Gap { offset, end, gap } => {
                return Ok(writeln!(self.out, "{offset:>12}  ..{end}  {}", gap_text(gap))?);
            }
            Found::Block { offset, head, body, records } => (offset, head, body, records),
        };
        let options = self.options;
        let records = records.as_ref();
        let known = records.map(|all| all.iter().filter(|(meta, _)| is_wanted(options, meta)));
        let wanted: Vec<Checked> = known.map(|known| known.copied().collect()).unwrap_or_default();
        let bad = records.err().map(ToString::to_string);
        let narrowed = options.stream.is_some() || options.from > 0 || options.to.is_some();
        if narrowed && wanted.is_empty() && bad.is_none() {
            return Ok(());
        }
        if options.json {
            let mut list = Vec::with_capacity(wanted.len());
            for record in &wanted {
                list.push(self.describe(record, body)?);
            }
            let line = json!({"offset": offset, "block": head.seq(), "bytes": head.bytes(),
                "body_bytes": body.len(), "durable_upto": head.durable_upto.get(),
                "hard_state_block": head.hard_state_block.get(), "bad": bad, "records": list});
            return Ok(writeln!(self.out, "{line}")?);
        }
        writeln!(
            self.out,
            "{offset:>12}  block {}  {} bytes  durable up to {}  hard state in {}",
            head.seq(),
            head.bytes(),
            head.durable_upto,
            head.hard_state_block
        )?;
        for record in &wanted {
            self.record(record, body)?;
        }
        if let Some(why) = bad {
            writeln!(self.out, "{:>14}BAD: {why}", "")?;
        }
        Ok(())
    }

    fn record(&mut self, (meta, bad): &Checked, body: &[u8]) -> Result<(), Stop> {
        write!(
            self.out,
            "{:>14}{:?} stream {} lsn {}..{} ballot {} records {} scn {} chain {:016x}",
            "",
            meta.kind,
            meta.stream,
            meta.lsn,
            meta.end,
            meta.ballot,
            meta.records,
            meta.scn,
            meta.chain
        )?;
        match bad {
            Some(why) => return Ok(writeln!(self.out, "  BAD: {why}")?),
            None => writeln!(self.out)?,
        }
        for decoded in self.decoded(meta, body)? {
            writeln!(self.out, "{:>16}{} {}", "", decoded.lsn, decoded.text.trim_end())?;
        }
        Ok(())
    }

    /// What the decoder makes of the entries of a sound group that are wanted.
    fn decoded(&self, meta: &RecordMeta, body: &[u8]) -> Result<Vec<Decoded>, Stop> {
        let Some(command) = self.decoder.filter(|_| meta.kind.is_group()) else {
            return Ok(Vec::new());
        };
        let (from, to) = (self.options.from, self.options.to.unwrap_or(u64::MAX));
        let wanted = entries(&body[meta.range()]);
        let wanted = wanted.filter(|entry| entry.end.0 > from && entry.lsn.0 < to);
        let decode = |entry| {
            let text = decode(command, meta.stream, &entry).map_err(Stop::Failed)?;
            Ok(Decoded { lsn: entry.lsn.0, end_lsn: entry.end.0, text })
        };
        wanted.map(decode).collect()
    }

    fn describe(&self, (meta, bad): &Checked, body: &[u8]) -> Result<serde_json::Value, Stop> {
        let mut line = json!({"kind": format!("{:?}", meta.kind), "stream": meta.stream,
            "lsn": meta.lsn.0, "end": meta.end.0,
            "ballot": {"round": meta.ballot.round, "node": meta.ballot.node},
            "staged": meta.is_staged(), "records": meta.records, "scn": meta.scn,
            "bytes": meta.len, "chain": format!("{:016x}", meta.chain),
            "bad": bad.map(|why| why.to_string())});
        if self.decoder.is_some() && bad.is_none() {
            let entries: Vec<_> = self
                .decoded(meta, body)?
                .into_iter()
                .map(|one| json!({"lsn": one.lsn, "end_lsn": one.end_lsn, "decoded": one.text}))
                .collect();
            line["entries"] = entries.into();
        }
        Ok(line)
    }
}

/// An entry, made readable.
struct Decoded {
    lsn: u64,
    end_lsn: u64,
    text: String,
}

fn is_wanted(options: &InspectFiles, meta: &RecordMeta) -> bool {
    let stream = options.stream.is_none_or(|stream| stream == meta.stream);
    let from = meta.end.0 > options.from || (options.from == 0 && meta.end.0 == 0);
    let ranged = meta.kind.is_group();
    stream && (!ranged || (from && options.to.is_none_or(|to| meta.lsn.0 < to)))
}

fn gap_text(gap: &Gap) -> String {
    match gap {
        Gap::Zero => "zeros".to_owned(),
        Gap::Stale => "blocks of an earlier life of the file".to_owned(),
        Gap::Junk(why) => why.to_string(),
    }
}
