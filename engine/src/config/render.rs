//! The file form of a [`Config`].

use std::fmt::Write;
use std::net::SocketAddr;

use super::{Config, format_size, format_time};

pub(super) fn render(config: &Config) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = write_head(&mut out, config);
    let _ = write_tail(&mut out, config);
    out
}

fn write_head(out: &mut String, config: &Config) -> std::fmt::Result {
    let (cluster, node) = (&config.cluster, &config.node);
    let address = |addr: Option<SocketAddr>| addr.map(|addr| addr.to_string()).unwrap_or_default();
    writeln!(out, "[cluster]")?;
    writeln!(out, "id = {}", cluster.id)?;
    writeln!(out, "name = {}", quoted(&cluster.name))?;
    writeln!(out, "role = {}", quoted(cluster.role.as_str()))?;
    writeln!(out, "\n[node]")?;
    writeln!(out, "id = {}", node.id)?;
    writeln!(out, "region = {}", quoted(&node.region))?;
    writeln!(out, "data = {}", quoted(&node.data.to_string_lossy()))?;
    writeln!(out, "listen = {}", quoted(&address(node.listen)))?;
    writeln!(out, "advertise = {}", quoted(&address(node.advertise)))?;
    writeln!(out, "shards = {}", node.shards)?;
    writeln!(out, "cpus = {:?}", node.cpus)?;
    writeln!(out, "insecure_network = {}", node.insecure_network)?;
    for member in &config.members {
        writeln!(out, "\n[[member]]")?;
        writeln!(out, "id = {}", member.id)?;
        writeln!(out, "addr = {}", quoted(&member.addr.to_string()))?;
        writeln!(out, "region = {}", quoted(&member.region))?;
    }
    Ok(())
}

fn write_tail(out: &mut String, config: &Config) -> std::fmt::Result {
    let endpoints = &config.upstream.endpoints;
    let endpoints: Vec<_> = endpoints.iter().map(|addr| quoted(&addr.to_string())).collect();
    writeln!(out, "\n[upstream]")?;
    writeln!(out, "endpoints = [{}]", endpoints.join(", "))?;
    if let Some(region) = &config.upstream.preferred_region {
        writeln!(out, "preferred_region = {}", quoted(region))?;
    }
    let fixed = config.upstream.fixed.map(|addr| quoted(&addr.to_string()));
    writeln!(out, "override = [{}]", fixed.unwrap_or_default())?;
    writeln!(out, "\n[log]")?;
    writeln!(out, "segment_bytes = {}", quoted(&format_size(config.log.segment_bytes)))?;
    writeln!(out, "log_bytes_max = {}", quoted(&format_size(config.log.log_bytes_max)))?;
    writeln!(out, "retain = {}", quoted(&format_time(config.log.retain)))?;
    let pinned = format_size(config.log.pin_bytes_max);
    writeln!(out, "pin_bytes_max = {}", quoted(&pinned))?;
    let sync_path = config.log.sync_path.map_or("auto", |path| path.as_str());
    writeln!(out, "sync_path = {}", quoted(sync_path))?;
    writeln!(out, "\n[network]")?;
    writeln!(out, "zero_copy = {}", quoted(config.network.zero_copy.as_str()))?;
    let forward = format_size(config.network.forward_max);
    writeln!(out, "forward_max = {}", quoted(&forward))?;
    let each = format_size(config.network.forward_max_per_standby);
    writeln!(out, "forward_max_per_standby = {}", quoted(&each))?;
    let compression = config.network.forward_compression.as_str();
    writeln!(out, "forward_compression = {}", quoted(compression))?;
    let timing = &config.timing;
    writeln!(out, "\n[timing]")?;
    for (name, time) in [
        ("heartbeat", timing.heartbeat),
        ("election", timing.election),
        ("hand_over", timing.hand_over),
        ("disk_stall_soft", timing.disk_stall_soft),
        ("disk_stall_hard", timing.disk_stall_hard),
        ("spin", timing.spin),
        ("reconnect_min", timing.reconnect_min),
        ("reconnect_max", timing.reconnect_max),
        ("handshake", timing.handshake),
        ("peer_timeout", timing.peer_timeout),
        ("shutdown", timing.shutdown),
    ] {
        writeln!(out, "{name} = {}", quoted(&format_time(time)))?;
    }
    Ok(())
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
