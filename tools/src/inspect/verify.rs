//! `palisade inspect verify`: every checksum of every block, and how fast that went.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use palisade_wal::{Kept, Kind};
use serde_json::json;

use super::files::{find, load};
use super::scan::{Found, scan};
use crate::cli::InspectFiles;
use crate::exit::{Exit, Failure};
use crate::text;

/// Damaged places that are named one by one.
const NAMED_MAX: usize = 100;

/// What is known of one log (one shard of one node) over all its segments.
#[derive(Default)]
struct Log {
    blocks: u64,
    groups: u64,
    records: u64,
    bytes: u64,
    /// Highest block that some block says is durable.
    durable_upto: u64,
    /// Sound blocks by number, with the checksum of their heads.
    last_block: u64,
    /// The segment that is looked at.
    segment: u64,
    damaged: Vec<Damage>,
    /// Segments that a recovery started, and what it kept: what stands after that is void.
    recovered: Vec<(u64, Kept)>,
}

struct Damage {
    path: PathBuf,
    segment: u64,
    offset: u64,
    /// Number of the block, where its head is readable; else of the sound one before it.
    block: u64,
    why: String,
}

/// `palisade inspect verify`
pub(crate) fn run(options: &InspectFiles) -> Result<Exit, Failure> {
    let started = Instant::now();
    let mut logs: BTreeMap<PathBuf, Log> = BTreeMap::new();
    let (mut files, mut bytes) = (0u64, 0u64);
    for path in find(&options.paths)? {
        let file = load(&path)?;
        files += 1;
        bytes += file.bytes.len() as u64;
        let dir = path.parent().unwrap_or(&path).to_owned();
        let log = logs.entry(dir).or_default();
        if file.header.is_none() && file.bytes.iter().any(|&byte| byte != 0) {
            let why = "no readable segment header".to_owned();
            log.damaged.push(Damage { path: path.clone(), segment: 0, offset: 0, block: 0, why });
        }
        if let Some(header) = &file.header {
            log.segment = header.seq.get();
            log.recovered.extend(header.kept().map(|kept| (log.segment, kept)));
        }
        for found in scan(&file) {
            log.take(options, &path, &found);
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    // What was never promised is torn, not corrupt.
    let corrupt: Vec<&Damage> = logs
        .values()
        .flat_map(|log| log.damaged.iter().filter(|damage| log.was_promised(damage)))
        .collect();
    let torn = logs.values().map(|log| log.damaged.len()).sum::<usize>() - corrupt.len();
    let sum = |of: fn(&Log) -> u64| logs.values().map(of).sum::<u64>();
    let (blocks, groups, records) =
        (sum(|log| log.blocks), sum(|log| log.groups), sum(|log| log.records));
    if options.json {
        let list: Vec<_> = corrupt
            .iter()
            .take(NAMED_MAX)
            .map(|damage| {
                json!({"path": damage.path, "offset": damage.offset, "block": damage.block,
                       "why": damage.why})
            })
            .collect();
        let line = json!({"ok": corrupt.is_empty(), "files": files, "bytes": bytes,
            "blocks": blocks, "groups": groups, "records": records,
            "body_bytes": sum(|log| log.bytes), "torn": torn, "corrupt": corrupt.len(),
            "seconds": seconds, "mb_per_s": bytes as f64 / 1e6 / seconds.max(1e-9),
            "damage": list});
        println!("{line}");
    } else {
        for damage in corrupt.iter().take(NAMED_MAX) {
            let (path, offset) = (damage.path.display(), damage.offset);
            println!("{path} at {offset}: block {}: {}", damage.block, damage.why);
        }
        println!(
            "{files} files, {}, {blocks} blocks, {groups} groups, {records} records: {} corrupt, \
             {torn} torn, {:.0} MB/s",
            text::size(bytes),
            corrupt.len(),
            bytes as f64 / 1e6 / seconds.max(1e-9)
        );
    }
    Ok(if corrupt.is_empty() { Exit::Ok } else { Exit::Corrupt })
}

impl Log {
    /// Whether the bytes of a damaged place were promised durable and are still part of the log.
    fn was_promised(&self, damage: &Damage) -> bool {
        let voided = self.recovered.iter().any(|(by, kept)| {
            let after = (damage.segment, damage.block) > (kept.segment_seq, kept.block_seq);
            damage.segment < *by && after
        });
        damage.block <= self.durable_upto && !voided
    }

    fn take(&mut self, options: &InspectFiles, path: &std::path::Path, found: &Found<'_>) {
        let (path, segment) = (path.to_owned(), self.segment);
        match found {
            Found::Gap { offset, why, .. } => {
                use palisade_wal::BadBlock::{Stale, Zero};
                // Zeros and an earlier life of the file are the normal end of a segment.
                if !matches!(why, Zero | Stale) {
                    let block = self.last_block + 1;
                    self.damaged.push(Damage {
                        segment,
                        path,
                        offset: *offset,
                        block,
                        why: why.to_string(),
                    });
                }
            }
            Found::Block { offset, head, body, records } => {
                self.blocks += 1;
                self.bytes += body.len() as u64;
                self.last_block = self.last_block.max(head.seq());
                self.durable_upto = self.durable_upto.max(head.durable_upto.get());
                match records {
                    Ok(records) => {
                        let wanted = |stream| options.stream.is_none_or(|want| want == stream);
                        let groups = records
                            .iter()
                            .filter(|meta| meta.kind == Kind::Group && wanted(meta.stream));
                        for meta in groups {
                            self.groups += 1;
                            self.records += u64::from(meta.records);
                        }
                    }
                    Err(why) => {
                        let (offset, block) = (*offset, head.seq());
                        let why = why.to_string();
                        self.damaged.push(Damage { path, segment, offset, block, why });
                    }
                }
            }
        }
    }
}
