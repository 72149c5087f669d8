//! `palisade failover`

use std::time::{Duration, Instant};

use palisade::client::Client;
use palisade::control::{ModeView, Request};
use serde_json::json;

use crate::control_cli::Failover;
use crate::exit::{Exit, Failure};
use crate::standby::{TIMEOUT, ask};
use crate::status::{client, kebab};
use crate::text;

/// Between two questions: nobody tells a client what changed.
const PAUSE: Duration = Duration::from_millis(20);

/// `palisade failover`
pub(crate) fn run(command: &Failover) -> Result<Exit, Failure> {
    let mut standby = client(&command.at, TIMEOUT)?;
    let before = standby.registry()?;
    let began = Instant::now();
    let request = Request::Failover { allow_loss: command.allow_loss };
    let takes = ["seizing", "starting"].contains(&before.mode.phase.as_str());
    let seizes = takes && before.mode.primary == before.cluster;
    if !seizes || command.verify {
        ask(&mut standby, &request, command.verify)?;
    }
    if command.verify {
        let line = json!({"cluster": before.cluster, "verified": true, "version": before.version});
        let said = format!(
            "cluster {} may take the role: {}; nothing changed\n",
            before.cluster,
            worth(&before.mode)
        );
        text::say(if command.json { format!("{line}\n") } else { said })?;
        return Ok(Exit::Ok);
    }
    let limit = Duration::from_millis(command.timeout);
    let mode = wait(&mut standby, before.cluster, began, limit)?;
    let ms = began.elapsed().as_millis() as u64;
    let line = json!({
        "primary": before.cluster, "role_epoch": mode.role_epoch, "lossless": mode.proof, "ms": ms
    });
    let said = format!(
        "cluster {} is the primary, under role epoch {}, after {ms} ms, in MAXIMUM PERFORMANCE; \
         {}\n",
        before.cluster,
        mode.role_epoch,
        lost(&mode)
    );
    text::say(if command.json { format!("{line}\n") } else { said })?;
    Ok(Exit::Ok)
}

/// What is known before.
fn worth(mode: &ModeView) -> String {
    // While MAXIMUM PROTECTION is left, this cluster may have let the primary go on alone.
    let level = kebab(mode.level);
    match level.as_str() {
        "protection" if mode.phase == "steady" => {
            "nothing that was acked is lost, unless the mode was forced lower at the \
                         primary"
                .to_owned()
        }
        _ => "nothing is cut; what the primary acked alone since it lost this standby is lost"
            .to_owned(),
    }
}

/// What is known after.
fn lost(mode: &ModeView) -> &'static str {
    match mode.proof.as_str() {
        "proven-unless-forced" => {
            "nothing that was acked is lost, unless the mode was forced lower at the old primary"
        }
        _ => "nothing was cut; what the old primary acked alone meanwhile is lost",
    }
}

/// Until this cluster serves as the primary.
fn wait(
    standby: &mut Client,
    cluster: u32,
    began: Instant,
    limit: Duration,
) -> Result<ModeView, Failure> {
    loop {
        // It may be without a leader for a while.
        let view = standby.registry().ok().filter(|view| view.current);
        let serves = |mode: &ModeView| mode.phase == "steady" && mode.primary == cluster;
        if let Some(view) = view.filter(|view| serves(&view.mode)) {
            return Ok(view.mode);
        }
        if began.elapsed() >= limit {
            let text = format!(
                "unknown: the failover did not end in {} ms; it goes on by itself as soon as every \
                 stream has a leader here, `palisade status` shows which has none, and the alarm \
                 failover-stopped what cannot go on",
                limit.as_millis()
            );
            return Err(Failure::new(Exit::Unreachable, text));
        }
        std::thread::sleep(PAUSE);
    }
}
