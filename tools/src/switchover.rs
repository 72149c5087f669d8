//! `palisade switchover`

use std::time::{Duration, Instant};

use palisade::client::{Client, ClientOptions};
use palisade::control::{ModeView, RegistryView, Request};
use serde_json::json;

use crate::control_cli::Switchover;
use crate::exit::{Exit, Failure};
use crate::standby::{TIMEOUT, ask};
use crate::status::client;
use crate::text;

/// Between two questions to nodes of which none tells a client what changed.
const PAUSE: Duration = Duration::from_millis(20);

/// `palisade switchover --to CLUSTER`
pub(crate) fn run(command: &Switchover) -> Result<Exit, Failure> {
    let mut primary = client(&command.at, TIMEOUT)?;
    let before = primary.registry()?;
    if before.mode.primary == command.to && before.cluster != command.to {
        let text = format!("cluster {} is the primary already", command.to);
        return Err(Failure::new(Exit::Failed, text));
    }
    if command.verify {
        return verified(&mut primary, &before, command);
    }
    let began = Instant::now();
    let limit = Duration::from_millis(command.timeout);
    let ended = hand_over(&mut primary, &before, command.to, limit)?;
    let ms = began.elapsed().as_millis() as u64;
    let Some(mode) = ended else {
        let text = format!(
            "cluster {} stays the primary and takes appends: cluster {} did not keep up, or not \
             all of its streams have a leader; see `palisade status` there",
            before.cluster, command.to
        );
        return Err(Failure::new(Exit::Failed, text));
    };
    let line = json!({
        "primary": command.to, "standby": before.cluster, "role_epoch": mode.role_epoch, "ms": ms
    });
    let said = format!(
        "cluster {} is the primary, under role epoch {}, after {ms} ms; cluster {} is a standby\n",
        command.to, mode.role_epoch, before.cluster
    );
    text::say(if command.json { format!("{line}\n") } else { said })?;
    Ok(Exit::Ok)
}

/// Hands the role to a standby, which serves then: its mode. None when the primary took its role
/// back.
pub(crate) fn hand_over(
    primary: &mut Client,
    before: &RegistryView,
    to: u32,
    limit: Duration,
) -> Result<Option<ModeView>, Failure> {
    ask(primary, &Request::Switchover { cluster: to }, false)?;
    wait(primary, &mut target(before, to)?, before, to, limit)
}

/// What can be known without doing anything: that no rule forbids it, and what the target says.
pub(crate) fn verify(
    primary: &mut Client,
    before: &RegistryView,
    to: u32,
) -> Result<RegistryView, Failure> {
    ask(primary, &Request::Switchover { cluster: to }, true)?;
    Ok(target(before, to)?.registry()?)
}

fn target(registry: &RegistryView, to: u32) -> Result<Client, Failure> {
    let known = registry.standbys.iter().find(|standby| standby.cluster == to);
    let Some(known) = known else {
        let text = format!("cluster {to} is no standby any more; see `palisade standby list`");
        return Err(Failure::new(Exit::Failed, text));
    };
    let options = ClientOptions { cluster: to, timeout: TIMEOUT };
    Ok(Client::new(&known.endpoints, options)?)
}

fn verified(
    primary: &mut Client,
    before: &RegistryView,
    command: &Switchover,
) -> Result<Exit, Failure> {
    let status = verify(primary, before, command.to)?;
    let line = json!({"primary": command.to, "verified": true, "version": status.version});
    let said = format!("cluster {} answers, and no rule forbids it; nothing changed\n", command.to);
    text::say(if command.json { format!("{line}\n") } else { said })?;
    Ok(Exit::Ok)
}

/// Until the target serves: its mode. None when the primary took its role back.
fn wait(
    primary: &mut Client,
    target: &mut Client,
    before: &RegistryView,
    to: u32,
    limit: Duration,
) -> Result<Option<ModeView>, Failure> {
    let began = Instant::now();
    loop {
        // One of them may be without a leader for a while, or out of reach.
        let there = target.registry().ok().filter(|view| view.current);
        let here = primary.registry().ok().filter(|view| view.current);
        let serves = |mode: &ModeView| mode.phase == "steady" && mode.primary == to;
        if let Some(view) = there.filter(|view| serves(&view.mode)) {
            return Ok(Some(view.mode));
        }
        let back = |mode: &ModeView| {
            mode.phase == "steady"
                && mode.primary == before.cluster
                && mode.epoch > before.mode.epoch
        };
        if here.is_some_and(|view| back(&view.mode)) {
            return Ok(None);
        }
        if began.elapsed() >= limit {
            let text = format!(
                "unknown: the switchover did not end in {} ms; it goes on by itself, and `palisade \
                 mode get` shows where it is",
                limit.as_millis()
            );
            return Err(Failure::new(Exit::Unreachable, text));
        }
        std::thread::sleep(PAUSE);
    }
}
