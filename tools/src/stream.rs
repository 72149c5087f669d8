//! `palisade stream create | list | truncate`

use std::time::Duration;

use palisade::STREAMS_MAX;
use palisade::client::Client;
use palisade_wal::Lsn;
use serde_json::json;

use crate::cli::{At, StreamCommand};
use crate::exit::{Exit, Failure};
use crate::status::client;
use crate::text;

/// How long the cluster may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Stream that says which streams there are.
const CATALOGUE: u64 = 1;

/// `palisade stream ...`
pub(crate) fn run(command: &StreamCommand) -> Result<Exit, Failure> {
    match command {
        StreamCommand::Create { at, count, dry_run: true, json, .. } => {
            let count = could_create(at, *count)?;
            let done = format!("{count} streams can be created\n");
            let line = json!({"streams": [], "count": count, "dry_run": true});
            text::say(if *json { format!("{line}\n") } else { done })?;
        }
        StreamCommand::Create { at, count, json, .. } => {
            let ids = client(at, TIMEOUT)?.create_streams(*count)?;
            let lines: Vec<String> = ids.iter().map(|id| format!("{id}\n")).collect();
            let line = json!({ "streams": ids });
            text::say(if *json { format!("{line}\n") } else { lines.concat() })?;
        }
        StreamCommand::Truncate { at, stream, to, dry_run, json, .. } => {
            truncate(at, *stream, *to, *dry_run, *json)?;
        }
        StreamCommand::List { at, json } => {
            let streams = client(at, TIMEOUT)?.list_streams()?;
            if *json {
                let list: Vec<_> = streams
                    .iter()
                    .map(|stream| {
                        json!({"id": stream.id, "leader": stream.leader,
                               "base_lsn": stream.base_lsn,
                               "committed_lsn": stream.committed_lsn})
                    })
                    .collect();
                text::say(format!("{}\n", json!({ "streams": list })))?;
            } else {
                let head = ["stream", "leader", "base", "committed"];
                let mut rows = vec![head.map(str::to_owned).to_vec()];
                rows.extend(streams.iter().map(|stream| {
                    vec![
                        stream.id.to_string(),
                        stream.leader.to_string(),
                        stream.base_lsn.to_string(),
                        stream.committed_lsn.to_string(),
                    ]
                }));
                text::say(text::table(&rows))?;
            }
        }
    }
    Ok(Exit::Ok)
}

/// Asks each node by itself: a truncation is each replica's own. The first refusal ends it, after
/// it was said what was done before.
fn truncate(at: &At, stream: u64, to: u64, dry_run: bool, json: bool) -> Result<(), Failure> {
    for addr in &at.at {
        let one = At { at: vec![addr.clone()], cluster: at.cluster };
        let mut client = client(&one, TIMEOUT)?;
        let begins = match dry_run {
            true => begins_after(&mut client, stream, to)?,
            false => client.truncate(stream, Lsn(to))?.0,
        };
        let line = json!({"at": addr, "stream": stream, "base_lsn": begins, "dry_run": dry_run});
        let would = if dry_run { "would begin" } else { "begins" };
        let said = format!("{addr}: stream {stream} {would} at {begins}\n");
        text::say(if json { format!("{line}\n") } else { said })?;
    }
    Ok(())
}

/// Where a stream would begin at a node, by what that node says of itself.
fn begins_after(client: &mut Client, stream: u64, to: u64) -> Result<u64, Failure> {
    let streams = client.list_streams()?;
    let Some(known) = streams.iter().find(|known| known.id == stream) else {
        return Err(Failure::new(Exit::Failed, format!("no stream {stream} there")));
    };
    let committed = known.committed_lsn;
    if !to.is_multiple_of(Lsn::ALIGN) {
        let text = format!("no record starts at {to}: they start at multiples of {}", Lsn::ALIGN);
        return Err(Failure::new(Exit::Failed, text));
    }
    if to > committed {
        let text = format!("{to} is above {committed}, up to where stream {stream} is committed");
        return Err(Failure::new(Exit::Failed, text));
    }
    Ok(to.max(known.base_lsn))
}

/// Whether so many more streams may be created beside those that are there.
fn check_room(there: usize, count: u32) -> Result<(), Failure> {
    if there + count as usize <= STREAMS_MAX {
        return Ok(());
    }
    let text = format!(
        "a cluster has at most {STREAMS_MAX} streams, {there} are there; create at most {}",
        STREAMS_MAX.saturating_sub(there)
    );
    Err(Failure::new(Exit::Failed, text))
}

/// Looks whether the catalogue has a leader and room for so many streams, as a node knows it.
fn could_create(at: &At, count: u32) -> Result<u32, Failure> {
    let streams = client(at, TIMEOUT)?.list_streams()?;
    check_room(streams.iter().filter(|stream| stream.id > CATALOGUE).count(), count)?;
    let led = streams.iter().any(|stream| stream.id == CATALOGUE && stream.leader != 0);
    if !led {
        let text = "the catalogue has no leader now; a majority of the nodes must be up";
        return Err(Failure::new(Exit::Failed, text));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_run_counts_the_streams_that_are_there() {
        assert_eq!(check_room(0, 16), Ok(()));
        assert_eq!(check_room(STREAMS_MAX - 16, 16), Ok(()));
        let refused = check_room(STREAMS_MAX - 3, 4).expect_err("one too many");
        assert_eq!(refused.exit, Exit::Failed);
        assert!(refused.text.ends_with("create at most 3"), "{refused}");
    }
}
