//! `palisade stream create | list`

use std::time::Duration;

use serde_json::json;

use crate::cli::StreamCommand;
use crate::exit::{Exit, Failure};
use crate::status::client;
use crate::text;

/// How long the cluster may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// `palisade stream ...`
pub(crate) fn run(command: &StreamCommand) -> Result<Exit, Failure> {
    match command {
        StreamCommand::Create { at, count, json } => {
            let ids = client(at, TIMEOUT)?.create_streams(*count)?;
            if *json {
                println!("{}", json!({ "streams": ids }));
            } else {
                ids.iter().for_each(|id| println!("{id}"));
            }
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
                println!("{}", json!({ "streams": list }));
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
                print!("{}", text::table(&rows));
            }
        }
    }
    Ok(Exit::Ok)
}
