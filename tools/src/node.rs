//! `palisade format` and `palisade node`.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::cli::{Format, Node};
use crate::config_file;
use crate::exit::{Exit, Failure};
use crate::host::{self, Host};
use crate::signals::Interrupt;
use crate::text;

/// How often the main thread looks for a signal or a failure.
const POLL: Duration = Duration::from_millis(20);

/// `palisade format`
pub(crate) fn format(options: &Format) -> Result<Exit, Failure> {
    let config = config_file::load(&options.config)?;
    let data = config.node.data.display().to_string();
    refuse_used_directory(&config.node.data)?;
    if !options.dry_run {
        host::format(&config)?;
    }
    let done = if options.dry_run { "can be formatted" } else { "formatted" };
    if options.json {
        let line = json!({"ok": true, "data": data, "dry_run": options.dry_run});
        text::say(format!("{line}\n"))?;
    } else {
        text::say(format!("{data}: {done}\n"))?;
    }
    Ok(Exit::Ok)
}

fn refuse_used_directory(data: &Path) -> Result<(), Failure> {
    let Ok(mut entries) = std::fs::read_dir(data) else { return Ok(()) };
    if entries.next().is_none() {
        return Ok(());
    }
    let text = format!("{}: not empty; name another node.data, or empty it", data.display());
    Err(Failure::new(Exit::Failed, text))
}

/// `palisade node`
pub(crate) fn run(options: &Node) -> Result<Exit, Failure> {
    if options.die_with_parent {
        die_with_parent()?;
    }
    let config = config_file::load(&options.config)?;
    let interrupt = Interrupt::catch()?;
    if config.node.insecure_network {
        eprintln!("palisade: listening beyond loopback without encryption (insecure_network)");
    }
    let data = config.node.data.clone();
    let host = Host::open(config)?;
    if let Some(notice) = host.notice() {
        eprintln!("palisade: {notice}");
    }
    // Who started it may not care to hear.
    text::say(if options.json { "{\"event\":\"ready\"}\n" } else { "ready\n" })?;
    while !interrupt.is_set() {
        if let Some(failure) = host.failed() {
            return Err(with_advice(failure, &data));
        }
        std::thread::park_timeout(POLL);
    }
    host.stop()?;
    Ok(Exit::Ok)
}

/// Why a node stopped by itself, and what to do about it.
fn with_advice(failure: Failure, data: &Path) -> Failure {
    let (data, text) = (data.display(), failure.text);
    let text = match failure.exit {
        Exit::Io => format!(
            "{text}; check the device below {data} and its free space, then start the node again: \
             it recovers what is durable and fetches the rest"
        ),
        Exit::Invariant => format!(
            "{text}; keep {data} and this output and report them; starting the node again is safe"
        ),
        _ => text,
    };
    Failure::new(failure.exit, text)
}

fn die_with_parent() -> Result<(), Failure> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    let before = getppid();
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Failure::io("parent death signal", &error.into()))?;
    // A parent that ended before the call is not noticed by it.
    if getppid() != before {
        return Err(Failure::new(Exit::Failed, "the parent process ended"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stopped_by_itself_says_what_to_do() {
        let data = Path::new("/srv/palisade");
        let failed = with_advice(Failure::new(Exit::Io, "writing a block failed"), data);
        assert_eq!(failed.exit, Exit::Io);
        assert!(failed.text.contains("/srv/palisade") && failed.text.contains("device"));
        let broken = with_advice(Failure::new(Exit::Invariant, "a shard ended"), data);
        assert_eq!(broken.exit, Exit::Invariant);
        assert!(broken.text.contains("/srv/palisade") && broken.text.contains("report"));
    }
}
