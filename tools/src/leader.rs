//! `palisade leader transfer`

use std::time::Duration;

use serde_json::json;

use crate::cli::LeaderCommand;
use crate::exit::{Exit, Failure};
use crate::status::client;
use crate::text;

/// `palisade leader ...`
pub(crate) fn run(command: &LeaderCommand) -> Result<Exit, Failure> {
    let LeaderCommand::Transfer { at, stream, to, timeout, json, .. } = command;
    let mut client = client(at, Duration::from_millis(*timeout))?;
    let round = client.transfer_leader(*stream, *to)?;
    let line = json!({"stream": stream, "leader": to, "ballot": {"round": round, "node": to}});
    let said = format!("node {to} leads stream {stream} under ballot {round}.{to}\n");
    text::say(if *json { format!("{line}\n") } else { said })?;
    Ok(Exit::Ok)
}
