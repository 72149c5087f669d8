//! `palisade inspect segment`

use std::io::{BufWriter, Write};

use palisade_wal::RecordMeta;
use serde_json::json;

use super::files::{SegmentFile, find};
use super::scan::{Checked, Found, Gap, scan};
use crate::cli::InspectFiles;
use crate::exit::{Exit, Failure};

/// `palisade inspect segment`
pub(crate) fn run(options: &InspectFiles) -> Result<Exit, Failure> {
    let mut out = BufWriter::new(std::io::stdout());
    for path in find(&options.paths)? {
        let file = SegmentFile::look(&path)?;
        let bytes = file.bytes()?;
        match print(options, &file, &bytes, &mut out).and_then(|()| out.flush()) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(Exit::Ok),
            Err(error) => return Err(Failure::io("stdout", &error)),
        }
    }
    Ok(Exit::Ok)
}

fn print(
    options: &InspectFiles,
    file: &SegmentFile,
    bytes: &[u8],
    out: &mut impl Write,
) -> std::io::Result<()> {
    let path = file.path.display();
    match &file.header {
        None if options.json => {
            writeln!(out, "{}", json!({"segment": path.to_string(), "header": null}))?;
        }
        None => writeln!(out, "{path}: no readable segment header")?,
        Some(header) if options.json => {
            let line = json!({"segment": path.to_string(), "seq": header.seq.get(),
                "cluster": header.cluster.get(), "node": header.node.get(),
                "shard": header.shard.get(), "incarnation": header.incarnation.get(),
                "bytes": header.bytes.get()});
            writeln!(out, "{line}")?;
        }
        Some(header) => writeln!(
            out,
            "{path}: segment {} of cluster {} node {} shard {} incarnation {:#x}, {} bytes",
            header.seq, header.cluster, header.node, header.shard, header.incarnation, header.bytes
        )?,
    }
    scan(file, bytes, |found| print_one(options, &found, out))
}

fn print_one(
    options: &InspectFiles,
    found: &Found<'_>,
    out: &mut impl Write,
) -> std::io::Result<()> {
    let (offset, head, body, records) = match found {
        Found::Gap { offset, end, gap } if options.json => {
            let line = json!({"offset": offset, "end": end, "gap": gap_text(gap)});
            return writeln!(out, "{line}");
        }
        Found::Gap { offset, end, gap } => {
            return writeln!(out, "{offset:>12}  ..{end}  {}", gap_text(gap));
        }
        Found::Block { offset, head, body, records } => (offset, head, body, records),
    };
    let wanted: Vec<Checked> = match records {
        Ok(records) => {
            records.iter().filter(|(meta, _)| is_wanted(options, meta)).copied().collect()
        }
        Err(_) => Vec::new(),
    };
    let bad = records.as_ref().err().map(ToString::to_string);
    let narrowed = options.stream.is_some() || options.from > 0 || options.to.is_some();
    if narrowed && wanted.is_empty() && bad.is_none() {
        return Ok(());
    }
    if options.json {
        let list: Vec<_> = wanted.iter().map(describe).collect();
        let line = json!({"offset": offset, "block": head.seq(), "bytes": head.bytes(),
            "body_bytes": body.len(), "durable_upto": head.durable_upto.get(),
            "hard_state_block": head.hard_state_block.get(), "bad": bad, "records": list});
        return writeln!(out, "{line}");
    }
    writeln!(
        out,
        "{offset:>12}  block {}  {} bytes  durable up to {}  hard state in {}",
        head.seq(),
        head.bytes(),
        head.durable_upto,
        head.hard_state_block
    )?;
    for (meta, bad) in &wanted {
        write!(
            out,
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
            Some(why) => writeln!(out, "  BAD: {why}")?,
            None => writeln!(out)?,
        }
    }
    match bad {
        Some(why) => writeln!(out, "{:>14}BAD: {why}", ""),
        None => Ok(()),
    }
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

fn describe((meta, bad): &Checked) -> serde_json::Value {
    json!({"kind": format!("{:?}", meta.kind), "stream": meta.stream, "lsn": meta.lsn.0,
        "end": meta.end.0, "ballot": {"round": meta.ballot.round, "node": meta.ballot.node},
        "staged": meta.is_staged(), "records": meta.records, "scn": meta.scn,
        "bytes": meta.len, "chain": format!("{:016x}", meta.chain),
        "bad": bad.map(|why| why.to_string())})
}
