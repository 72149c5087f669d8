//! `palisade stream create | list`

use std::time::Duration;

use palisade::STREAMS_MAX;
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
