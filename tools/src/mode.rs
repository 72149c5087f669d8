//! `palisade mode get | set`

use palisade::client::Client;
use palisade::control::{ModeView, Request};
use serde_json::{Value, json};

use crate::cli::At;
use crate::control_cli::{Manner, ModeCommand};
use crate::exit::{Exit, Failure};
use crate::standby::{TIMEOUT, ask, said};
use crate::status::{client, kebab};
use crate::text;

/// `palisade mode ...`
pub(crate) fn run(command: &ModeCommand) -> Result<Exit, Failure> {
    match command {
        ModeCommand::Get { at, json } => get(at, *json),
        ModeCommand::Set { at, mode, force, manner } => {
            let request = Request::SetMode { mode: (*mode).into(), force: *force };
            set(&mut client(at, TIMEOUT)?, &request, *manner)
        }
    }
}

fn get(at: &At, json: bool) -> Result<Exit, Failure> {
    let mode = client(at, TIMEOUT)?.registry()?.mode;
    text::say(if json { format!("{}\n", fields(&mode)) } else { page(&mode) })?;
    Ok(Exit::Ok)
}

fn set(client: &mut Client, request: &Request, manner: Manner) -> Result<Exit, Failure> {
    let Manner { dry_run, json, .. } = manner;
    let done = ask(client, request, dry_run)?;
    if !json {
        text::say(said(done, dry_run))?;
    }
    if dry_run {
        let line = json!({"version": done.version, "changed": done.changed, "dry_run": true});
        text::say(if json { format!("{line}\n") } else { String::new() })?;
        return Ok(Exit::Ok);
    }
    // What was asked for is one thing, what holds now another.
    let mode = client.registry()?.mode;
    if !json {
        text::say(page(&mode))?;
        return Ok(Exit::Ok);
    }
    let mut line = fields(&mode);
    for (name, value) in [
        ("version", json!(done.version)),
        ("changed", json!(done.changed)),
        ("dry_run", json!(false)),
    ] {
        line[name] = value;
    }
    text::say(format!("{line}\n"))?;
    Ok(Exit::Ok)
}

fn fields(mode: &ModeView) -> Value {
    serde_json::to_value(mode).expect("plain fields")
}

fn page(mode: &ModeView) -> String {
    let mut out =
        format!("mode {}  level {}  epoch {}\n", kebab(mode.mode), kebab(mode.level), mode.epoch);
    if let Some(cluster) = mode.sync_standby {
        out.push_str(&format!("SYNC standby: cluster {cluster}\n"));
    }
    if mode.since > 0 {
        let time = text::time_of_day(mode.since / 1_000_000_000);
        out.push_str(&format!("since {time} UTC\n"));
    }
    if !mode.reason.is_empty() {
        out.push_str(&format!("the level is lower: {}\n", mode.reason));
    }
    out
}
