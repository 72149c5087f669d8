//! `palisade status`

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use palisade::client::{Client, ClientOptions};
use palisade::status::{
    BorderStatus, ClusterRole, ClusterStatus, CompressionStatus, Status as NodeStatus, StreamStatus,
};
use serde_json::json;

use crate::cli::{At, Status};
use crate::exit::{Exit, Failure};
use crate::signals::Interrupt;
use crate::{text, tree};

/// How long a node may take to answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// `palisade status`
pub(crate) fn run(options: &Status) -> Result<Exit, Failure> {
    let mut client = client(&options.at, TIMEOUT)?;
    if !options.watch {
        let json = client.status_json()?;
        text::say(shown(options, &json, &mut client)?)?;
        return Ok(Exit::Ok);
    }
    let interrupt = Interrupt::catch()?;
    let (mut last, mut silent_since) = (String::new(), None);
    loop {
        let text = match client.status_json().map_err(Failure::from) {
            Ok(json) => {
                silent_since = None;
                last = shown(options, &json, &mut client)?;
                last.clone()
            }
            // What no repetition mends.
            Err(failure) if matches!(failure.exit, Exit::Usage | Exit::Configuration) => {
                return Err(failure);
            }
            Err(failure) => {
                let since = *silent_since.get_or_insert_with(SystemTime::now);
                unanswered(options, since, &failure, &last)
            }
        };
        // Home and clear, so that the page stays in place.
        let home = if options.json { "" } else { "\x1b[H\x1b[2J" };
        if !text::say(format!("{home}{text}"))? {
            return Ok(Exit::Ok);
        }
        for _ in 0..20 {
            if interrupt.is_set() {
                return Ok(Exit::Ok);
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}

/// What a node answered, as it is printed.
fn shown(options: &Status, json: &[u8], client: &mut Client) -> Result<String, Failure> {
    if options.json {
        return Ok(format!("{}\n", String::from_utf8_lossy(json)));
    }
    let status = parse(json)?;
    let is_alone = status.cluster.role == ClusterRole::Primary && status.standbys.is_empty();
    // A picture more: without the registry the page is what it was.
    let view = (!is_alone).then(|| client.registry().ok()).flatten();
    let sites = view.map(|view| tree::gather(&options.at.at, &status, &view)).unwrap_or_default();
    let tree = if sites.len() > 1 { tree::draw(&sites) } else { String::new() };
    Ok(page(&status) + &tree)
}

/// What is printed while no node answers: since when, why, and the page as it was before.
fn unanswered(options: &Status, since: SystemTime, why: &Failure, last: &str) -> String {
    let at = options.at.at.join(",");
    let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
    if options.json {
        let since = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let line = json!({"unreachable": {"at": at, "since": since, "why": why.text}});
        return format!("{line}\n");
    }
    let time = text::time_of_day(since.as_secs());
    let before = if last.is_empty() { "" } else { "\nbefore that:\n\n" };
    format!("{at}: unreachable since {time} UTC: {why}\n{before}{last}")
}

/// A client of the nodes of a command line.
pub(crate) fn client(at: &At, timeout: Duration) -> Result<Client, Failure> {
    let options = ClientOptions { cluster: at.cluster, timeout };
    Ok(Client::new(&at.at, options)?)
}

/// Reads a node's answer.
pub(crate) fn parse(json: &[u8]) -> Result<NodeStatus, Failure> {
    serde_json::from_slice(json)
        .map_err(|error| Failure::new(Exit::Failed, format!("unreadable status: {error}")))
}

pub(crate) fn kebab(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// State and reason, and how old they are when the stream's shard is silent.
pub(crate) fn condition(stream: &StreamStatus) -> String {
    let mut shown = [stream.state.as_str(), &stream.reason].join(" ").trim_end().to_owned();
    if let Some(age_us) = stream.age_us {
        shown.push_str(&format!(" (age {} ms)", age_us / 1000));
    }
    shown
}

/// Why the level is lower than the mode, and since when.
fn level_note(cluster: &ClusterStatus) -> String {
    if cluster.level_reason.is_empty() {
        return String::new();
    }
    let time = text::time_of_day(cluster.level_since / 1_000_000_000);
    format!(" since {time} UTC: {}", cluster.level_reason)
}

/// How far readers of a standby see its streams.
fn shown_note(cluster: &ClusterStatus, now_ns: u64) -> String {
    match (cluster.role, cluster.sync_scn) {
        (ClusterRole::Standby, 0) => "readers see nothing yet: no SCN is replayable\n\n".to_owned(),
        (ClusterRole::Standby, scn) => {
            let ms = now_ns.saturating_sub(scn) / 1_000_000;
            format!("readers see up to SCN {scn}, {ms} ms ago\n\n")
        }
        (ClusterRole::Primary | ClusterRole::Fenced, _) => String::new(),
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

fn page(status: &NodeStatus) -> String {
    let (cluster, node) = (&status.cluster, &status.node);
    let mut out = format!(
        "cluster {} {}  role {}  epoch {}  mode {}  level {}{}\n",
        cluster.id,
        cluster.name,
        kebab(cluster.role),
        cluster.role_epoch,
        kebab(cluster.protection_mode),
        kebab(cluster.protection_level),
        level_note(cluster),
    );
    out.push_str(&format!(
        "node {}  region {}  version {}  disk {} of {}  sync {}\n\n",
        node.id,
        node.region,
        node.version,
        text::size(status.disk.used),
        text::size(status.disk.limit),
        status.disk.sync_path,
    ));
    out.push_str(&shown_note(cluster, now_ns()));
    let head = ["stream", "role", "ballot", "base", "durable", "committed", "end", "state"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for stream in &status.streams {
        rows.push(vec![
            stream.id.to_string(),
            kebab(stream.role),
            format!("{}.{}", stream.ballot.round, stream.ballot.node),
            stream.base_lsn.to_string(),
            stream.durable_lsn.to_string(),
            stream.committed_lsn.to_string(),
            stream.end_lsn.to_string(),
            condition(stream),
        ]);
    }
    out.push_str(&text::table(&rows));
    for stream in &status.streams {
        if let Some(upstream) = stream.upstream {
            let (cluster, node) = (upstream.cluster, upstream.node);
            out.push_str(&format!("\nstream {} from cluster {cluster} node {node}\n", stream.id));
        }
    }
    for stream in status.streams.iter().filter(|stream| !stream.action.is_empty()) {
        out.push_str(&format!("\nstream {} {}: {}\n", stream.id, stream.state, stream.action));
    }
    if !status.standbys.is_empty() {
        let head = ["standby", "region", "transfer", "state", "lag bytes", "lag us"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for standby in &status.standbys {
            rows.push(vec![
                standby.cluster.to_string(),
                standby.region.clone(),
                kebab(standby.transfer),
                standby.state.clone(),
                standby.lag_bytes.to_string(),
                standby.lag_us.to_string(),
            ]);
        }
        out.push('\n');
        out.push_str(&text::table(&rows));
    }
    out.push_str(&compression(node.compression));
    out.push_str(&borders(&status.borders));
    for alarm in &status.alarms {
        out.push_str(&format!("\nalarm {}: {}\n", alarm.code, alarm.hint));
    }
    out
}

/// What was sent compressed; nothing where nothing was.
fn compression(sent: Option<CompressionStatus>) -> String {
    let Some(sent) = sent else { return String::new() };
    format!(
        "\nlz4: {} sent for {} of records, {} chunks compressed\n",
        text::size(sent.sent_bytes),
        text::size(sent.plain_bytes),
        sent.compressions,
    )
}

/// What came over each border; nothing where there is none.
pub(crate) fn borders(borders: &[BorderStatus]) -> String {
    if borders.is_empty() {
        return String::new();
    }
    let mut rows = vec![["from region", "to region", "bytes"].map(str::to_owned).to_vec()];
    for border in borders {
        rows.push(vec![border.from.clone(), border.to.clone(), border.bytes.to_string()]);
    }
    format!("\n{}", text::table(&rows))
}
