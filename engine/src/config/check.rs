//! From the file form to a [`Config`]: every unknown key, bad value and contradiction at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use palisade_netio::SyncPath;

use super::keys::{KEYS, Key, Preset, SECTIONS, Shape};
use super::{
    ClusterConfig, Compression, Config, ConfigError, HEARTBEATS_PER_ELECTION, LogConfig,
    MEMBERS_MAX, Member, NetworkConfig, NodeConfig, Role, SEGMENTS_MIN, TimingConfig,
    UpstreamConfig, Value, ZeroCopy, format_size, format_time, parse_size, parse_time,
};

/// Most characters of a name.
const NAME_CHARS_MAX: usize = 64;
/// Most bytes of a path.
const PATH_BYTES_MAX: usize = 4000;
/// Least bytes per second of a cap on what is forwarded.
const FORWARD_MIN: u64 = 256 << 10;

pub(super) fn check(file: &Value) -> Result<Config, Vec<ConfigError>> {
    let mut reader = Reader::default();
    let Value::Table(sections) = file else {
        return Err(vec![error(
            "node.toml",
            file,
            "allowed a table",
            "write sections like [node]",
        )]);
    };
    for (name, section) in sections {
        reader.take_section(name, section);
    }
    let config = reader.build();
    if reader.errors.is_empty() {
        reader.contradictions(&config);
    } else {
        reader.contradictions_of_sound_parts(&config);
    }
    if reader.errors.is_empty() { Ok(config) } else { Err(reader.errors) }
}

/// All defaults; what is required is empty and meaningless.
pub(super) fn defaults() -> Config {
    let mut reader = Reader::default();
    reader.build()
}

fn error(key: &str, value: &Value, allowed: &str, fix: &str) -> ConfigError {
    ConfigError {
        key: key.to_owned(),
        value: value.to_string(),
        allowed: allowed.to_owned(),
        fix: fix.to_owned(),
    }
}

/// Values by full path, and what is wrong so far.
#[derive(Default)]
struct Reader {
    values: BTreeMap<String, Value>,
    members: usize,
    errors: Vec<ConfigError>,
}

impl Reader {
    fn take_section(&mut self, name: &str, section: &Value) {
        match (name, section) {
            ("member", Value::List(list)) => {
                self.members = list.len();
                for (at, member) in list.iter().enumerate().take(MEMBERS_MAX) {
                    self.take_keys("member", &format!("member[{}]", at + 1), member);
                }
                if list.len() > MEMBERS_MAX {
                    let allowed = format!("allowed 1 to {MEMBERS_MAX} members");
                    let count = Value::Number(list.len() as i64);
                    self.errors.push(error("member", &count, &allowed, "name fewer nodes"));
                }
            }
            ("member", _) => {
                let fix = "write one [[member]] per node, with double brackets";
                self.errors.push(error("member", section, "allowed a list of tables", fix));
            }
            _ if SECTIONS.contains(&name) => self.take_keys(name, name, section),
            _ => {
                let fix = suggest(name, SECTIONS.iter().copied());
                let allowed = format!("unknown section; allowed {}", SECTIONS.join(" | "));
                self.errors.push(error(name, section, &allowed, &fix));
            }
        }
    }

    fn take_keys(&mut self, section: &str, path: &str, table: &Value) {
        let Value::Table(entries) = table else {
            let fix = format!("write a section [{section}]");
            return self.errors.push(error(path, table, "allowed a table", &fix));
        };
        for (name, value) in entries {
            let full = format!("{path}.{name}");
            let Some(key) = Key::find(&format!("{section}.{name}")) else {
                let names = KEYS.iter().filter_map(|key| key.path.split_once('.'));
                let names = names.filter(|(of, _)| *of == section).map(|(_, name)| name);
                let fix = suggest(name, names);
                self.errors.push(error(&full, value, "unknown key", &fix));
                continue;
            };
            if fits(value, &key.shape) {
                self.values.insert(full, value.clone());
            } else {
                let right = shape_name(&key.shape) == value.shape();
                let found = if right { "" } else { &format!(" (found {})", value.shape()) };
                let allowed = format!("{}{found}", key.shape.allowed());
                self.errors.push(error(&full, value, &allowed, key.shape.advice()));
                // Known to be there, so that it is not reported as missing too.
                self.values.insert(full, stand_in(&key.shape));
            }
        }
    }

    /// The value of `name` in `section`, which stands at `path`.
    fn get(&mut self, section: &str, path: &str, name: &str) -> Value {
        let full = format!("{path}.{name}");
        if let Some(value) = self.values.get(&full) {
            return value.clone();
        }
        let key = Key::find(&format!("{section}.{name}")).expect("the table has every key");
        match key.default {
            Preset::Empty => Value::List(Vec::new()),
            Preset::Same(other) => {
                let (section, name) = other.split_once('.').expect("paths have a section");
                self.get(section, section, name)
            }
            Preset::Nanos(ns) => Value::Text(format_time(Duration::from_nanos(ns))),
            Preset::Is(text) => match key.shape {
                Shape::Flag => Value::Flag(text == "true"),
                Shape::Number(..) => Value::Number(text.parse().expect("a default that parses")),
                _ => Value::Text(text.to_owned()),
            },
            Preset::Required => {
                if !self.errors.iter().any(|error| error.key == full) {
                    self.errors.push(ConfigError {
                        key: full,
                        value: "nothing".to_owned(),
                        allowed: format!("required; {}", key.shape.allowed()),
                        fix: format!("set it: {}", key.purpose),
                    });
                }
                stand_in(&key.shape)
            }
        }
    }

    fn number(&mut self, path: &str) -> u64 {
        let (section, name) = path.split_once('.').expect("paths have a section");
        self.number_in(section, section, name)
    }

    fn number_in(&mut self, section: &str, path: &str, name: &str) -> u64 {
        match self.get(section, path, name) {
            Value::Number(number) => number.unsigned_abs(),
            Value::Text(text) => parse_size(&text).unwrap_or(0),
            _ => 0,
        }
    }

    fn text(&mut self, path: &str) -> String {
        let (section, name) = path.split_once('.').expect("paths have a section");
        self.text_in(section, section, name)
    }

    fn text_in(&mut self, section: &str, path: &str, name: &str) -> String {
        match self.get(section, path, name) {
            Value::Text(text) => text,
            _ => String::new(),
        }
    }

    fn time(&mut self, path: &str) -> Duration {
        parse_time(&self.text(path)).unwrap_or_default()
    }

    fn address_in(&mut self, section: &str, path: &str, name: &str) -> SocketAddr {
        let text = self.text_in(section, path, name);
        text.parse().unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    fn list(&mut self, path: &str) -> Vec<Value> {
        let (section, name) = path.split_once('.').expect("paths have a section");
        match self.get(section, section, name) {
            Value::List(list) => list,
            _ => Vec::new(),
        }
    }

    fn build(&mut self) -> Config {
        Config {
            cluster: ClusterConfig {
                id: self.number("cluster.id") as u32,
                name: self.text("cluster.name"),
                role: Role::from_word(&self.text("cluster.role")).unwrap_or(Role::Primary),
            },
            node: self.build_node(),
            members: self.build_members(),
            upstream: UpstreamConfig {
                endpoints: self.addresses("upstream.endpoints"),
                preferred_region: Some(self.text("upstream.preferred_region")),
                fixed: self.addresses("upstream.override").first().copied(),
            },
            log: LogConfig {
                segment_bytes: self.number("log.segment_bytes"),
                log_bytes_max: self.number("log.log_bytes_max"),
                retain: self.time("log.retain"),
                pin_bytes_max: self.number("log.pin_bytes_max"),
                sync_path: SyncPath::from_word(&self.text("log.sync_path")),
            },
            network: NetworkConfig {
                zero_copy: ZeroCopy::from_word(&self.text("network.zero_copy"))
                    .unwrap_or(ZeroCopy::Auto),
                forward_max: self.number("network.forward_max"),
                forward_max_per_standby: self.number("network.forward_max_per_standby"),
                forward_compression: Compression::from_word(
                    &self.text("network.forward_compression"),
                )
                .unwrap_or_default(),
            },
            timing: TimingConfig {
                heartbeat: self.time("timing.heartbeat"),
                election: self.time("timing.election"),
                hand_over: self.time("timing.hand_over"),
                disk_stall_soft: self.time("timing.disk_stall_soft"),
                disk_stall_hard: self.time("timing.disk_stall_hard"),
                spin: self.time("timing.spin"),
                reconnect_min: self.time("timing.reconnect_min"),
                reconnect_max: self.time("timing.reconnect_max"),
                handshake: self.time("timing.handshake"),
                peer_timeout: self.time("timing.peer_timeout"),
                shutdown: self.time("timing.shutdown"),
            },
        }
    }

    fn build_node(&mut self) -> NodeConfig {
        let cpus = self.list("node.cpus");
        NodeConfig {
            id: self.number("node.id") as u32,
            region: self.text("node.region"),
            data: PathBuf::from(self.text("node.data")),
            listen: Some(self.address_in("node", "node", "listen")),
            advertise: Some(self.address_in("node", "node", "advertise")),
            shards: self.number("node.shards") as u16,
            cpus: cpus
                .iter()
                .filter_map(|cpu| match cpu {
                    Value::Number(cpu) => u16::try_from(*cpu).ok(),
                    _ => None,
                })
                .collect(),
            insecure_network: { self.get("node", "node", "insecure_network") == Value::Flag(true) },
            forwarding: true,
        }
    }

    fn build_members(&mut self) -> Vec<Member> {
        let count = self.members.min(MEMBERS_MAX);
        (1..=count)
            .map(|at| {
                let path = format!("member[{at}]");
                Member {
                    id: self.number_in("member", &path, "id") as u32,
                    addr: self.address_in("member", &path, "addr"),
                    region: self.text_in("member", &path, "region"),
                }
            })
            .collect()
    }

    fn addresses(&mut self, path: &str) -> Vec<SocketAddr> {
        let list = self.list(path);
        let texts = list.iter().filter_map(|item| match item {
            Value::Text(text) => text.parse().ok(),
            _ => None,
        });
        texts.collect()
    }

    fn sound(&self, keys: &[&str]) -> bool {
        !self.errors.iter().any(|error| {
            keys.iter().any(|key| error.key == *key || error.key.starts_with(&format!("{key}[")))
        })
    }

    fn refuse(&mut self, key: impl Into<String>, value: String, allowed: String, fix: &str) {
        let key = key.into();
        self.errors.push(ConfigError { key, value, allowed, fix: fix.to_owned() });
    }

    fn contradictions(&mut self, config: &Config) {
        self.address_rules(config);
        self.member_rules(config);
        self.own_member_rules(config);
        self.log_rules(config);
        self.network_rules(config);
        self.timing_rules(config);
        self.upstream_rules(config);
        self.cpu_rules(config);
    }

    /// Rules whose own keys are sound are still checked when another key is not.
    fn contradictions_of_sound_parts(&mut self, config: &Config) {
        if self.sound(&["node", "node.listen", "node.advertise", "node.insecure_network"]) {
            self.address_rules(config);
        }
        if self.sound(&["member"]) {
            self.member_rules(config);
            if self.sound(&["node", "node.id", "node.region", "node.listen", "node.advertise"]) {
                self.own_member_rules(config);
            }
        }
        if self.sound(&["log", "log.segment_bytes", "log.log_bytes_max"]) {
            self.log_rules(config);
        }
        if self.sound(&["network", "network.forward_max", "network.forward_max_per_standby"]) {
            self.network_rules(config);
        }
        if !self.errors.iter().any(|error| error.key.starts_with("timing")) {
            self.timing_rules(config);
        }
        if self.sound(&["cluster.role", "node.advertise", "upstream", "upstream.endpoints"])
            && self.sound(&["upstream.override"])
        {
            self.upstream_rules(config);
        }
        if self.sound(&["node", "node.cpus", "node.shards"]) {
            self.cpu_rules(config);
        }
    }

    /// A chunk is sent whole: with less than that a second, a reader waits for minutes.
    fn network_rules(&mut self, config: &Config) {
        let network = &config.network;
        for (key, rate) in [
            ("network.forward_max", network.forward_max),
            ("network.forward_max_per_standby", network.forward_max_per_standby),
        ] {
            if (1..FORWARD_MIN).contains(&rate) {
                self.refuse(
                    key,
                    format!("\"{}\"", format_size(rate)),
                    format!("0B for no cap, or at least {}", format_size(FORWARD_MIN)),
                    "raise it, or leave it out",
                );
            }
        }
    }

    fn address_rules(&mut self, config: &Config) {
        let (Some(listen), Some(advertise)) = (config.node.listen, config.node.advertise) else {
            return;
        };
        if !listen.ip().is_loopback() && !config.node.insecure_network {
            self.refuse(
                "node.listen",
                format!("\"{listen}\""),
                "allowed loopback only, since nothing is encrypted".to_owned(),
                "listen on 127.0.0.1, or set node.insecure_network = true on a network you trust",
            );
        }
        if advertise.ip().is_unspecified() {
            self.refuse(
                "node.advertise",
                format!("\"{advertise}\""),
                "allowed an address that others can connect to".to_owned(),
                "name one address of this machine",
            );
        }
    }

    fn member_rules(&mut self, config: &Config) {
        if config.members.is_empty() {
            let allowed = format!("required; allowed 1 to {MEMBERS_MAX} members");
            let fix = "write one [[member]] with id, addr and region per node";
            self.refuse("member", "nothing".to_owned(), allowed, fix);
        }
        for (at, member) in config.members.iter().enumerate() {
            let path = format!("member[{}]", at + 1);
            let earlier = &config.members[..at];
            if let Some(other) = earlier.iter().position(|other| other.id == member.id) {
                let allowed = format!("already the id of member[{}]", other + 1);
                let fix = "give each node of the cluster its own id";
                self.refuse(format!("{path}.id"), member.id.to_string(), allowed, fix);
            }
            if let Some(other) = earlier.iter().position(|other| other.addr == member.addr) {
                let allowed = format!("already the address of member[{}]", other + 1);
                let value = format!("\"{}\"", member.addr);
                let fix = "give each node of the cluster its own address";
                self.refuse(format!("{path}.addr"), value, allowed, fix);
            }
        }
    }

    fn own_member_rules(&mut self, config: &Config) {
        let node = &config.node;
        if config.members.is_empty() {
            return;
        }
        let Some(at) = config.members.iter().position(|member| member.id == node.id) else {
            let ids: Vec<_> = config.members.iter().map(|member| member.id.to_string()).collect();
            let allowed = format!("allowed the id of a member: {}", ids.join(", "));
            let fix = "add a [[member]] for this node, or correct the id";
            return self.refuse("node.id", node.id.to_string(), allowed, fix);
        };
        let own = &config.members[at];
        if Some(own.addr) != node.advertise {
            let advertise = node.advertise.map(|addr| addr.to_string()).unwrap_or_default();
            let allowed = format!("node.advertise of this node is \"{advertise}\"");
            let fix = "make the two the same";
            let value = format!("\"{}\"", own.addr);
            self.refuse(format!("member[{}].addr", at + 1), value, allowed, fix);
        }
        if own.region != node.region {
            let allowed = format!("node.region of this node is {:?}", node.region);
            let value = format!("{:?}", own.region);
            let fix = "make the two the same";
            self.refuse(format!("member[{}].region", at + 1), value, allowed, fix);
        }
    }

    fn log_rules(&mut self, config: &Config) {
        let least = config.log.segment_bytes.saturating_mul(SEGMENTS_MIN);
        if config.log.log_bytes_max < least {
            let allowed = format!(
                "allowed at least {} ({SEGMENTS_MIN} x log.segment_bytes)",
                format_size(least)
            );
            let value = format!("{:?}", format_size(config.log.log_bytes_max));
            self.refuse("log.log_bytes_max", value, allowed, "raise it, or lower segment_bytes");
        }
    }

    fn timing_rules(&mut self, config: &Config) {
        let timing = &config.timing;
        let pairs = [
            (
                "timing.election",
                timing.election,
                timing.heartbeat * HEARTBEATS_PER_ELECTION,
                "3 x timing.heartbeat",
            ),
            (
                "timing.disk_stall_hard",
                timing.disk_stall_hard,
                timing.disk_stall_soft,
                "timing.disk_stall_soft",
            ),
            (
                "timing.reconnect_max",
                timing.reconnect_max,
                timing.reconnect_min,
                "timing.reconnect_min",
            ),
        ];
        for (key, value, least, why) in pairs {
            if value < least {
                let allowed = format!("allowed at least {} ({why})", format_time(least));
                let value = format!("{:?}", format_time(value));
                self.refuse(key, value, allowed, "raise it, or lower the other");
            }
        }
    }

    fn upstream_rules(&mut self, config: &Config) {
        let endpoints = &config.upstream.endpoints;
        if config.cluster.role == Role::Standby && endpoints.is_empty() {
            let allowed = "required where cluster.role = \"standby\"".to_owned();
            let fix = "name at least one node of the primary or of another standby";
            self.refuse("upstream.endpoints", "[]".to_owned(), allowed, fix);
        }
        let own: Vec<_> = config.members.iter().map(|member| member.addr).collect();
        let is_own = |endpoint: &&SocketAddr| {
            own.contains(*endpoint) || Some(**endpoint) == config.node.advertise
        };
        // At a primary they stand for the time when it is a standby: it fetches from none of its
        // own then either, and one list may serve the files of both clusters.
        let fetches = config.cluster.role == Role::Standby;
        let keys = [
            ("upstream.endpoints", endpoints.iter().find(is_own).filter(|_| fetches)),
            ("upstream.override", config.upstream.fixed.iter().find(is_own)),
        ];
        for (key, endpoint) in keys {
            let Some(endpoint) = endpoint else { continue };
            let allowed = "allowed nodes of other clusters; this one is a member".to_owned();
            let fix = "name nodes of the primary or of another standby";
            self.refuse(key, format!("\"{endpoint}\""), allowed, fix);
        }
    }

    fn cpu_rules(&mut self, config: &Config) {
        let (cpus, shards) = (&config.node.cpus, usize::from(config.node.shards));
        let twice = cpus.iter().enumerate().find(|(at, cpu)| cpus[..*at].contains(cpu));
        if let Some((_, cpu)) = twice {
            let allowed = format!("CPU {cpu} is named twice");
            self.refuse("node.cpus", format!("{cpus:?}"), allowed, "name each CPU once");
        }
        if !cpus.is_empty() && cpus.len() != shards {
            let allowed = format!("allowed none or one per log shard: {shards}");
            let fix = "name as many CPUs as node.shards says, or none";
            self.refuse("node.cpus", format!("{cpus:?}"), allowed, fix);
        }
    }
}

fn fits(value: &Value, shape: &Shape) -> bool {
    match (*shape, value) {
        (Shape::Number(min, max), Value::Number(number)) => {
            u64::try_from(*number).is_ok_and(|number| (min..=max).contains(&number))
        }
        (Shape::Size(min, max, step), _) => {
            let bytes = match value {
                Value::Text(text) => parse_size(text),
                Value::Number(number) => u64::try_from(*number).ok(),
                _ => None,
            };
            bytes.is_some_and(|bytes| (min..=max).contains(&bytes) && bytes.is_multiple_of(step))
        }
        (Shape::Time(min, max), Value::Text(text)) => parse_time(text)
            .is_some_and(|time| (u128::from(min)..=u128::from(max)).contains(&time.as_micros())),
        (Shape::Word(words), Value::Text(text)) => words.contains(&text.as_str()),
        (Shape::Name, Value::Text(text)) => {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            (1..=NAME_CHARS_MAX).contains(&text.len()) && text.chars().all(plain)
        }
        (Shape::Path, Value::Text(text)) => {
            (1..=PATH_BYTES_MAX).contains(&text.len()) && !text.contains('\0')
        }
        (Shape::Flag, Value::Flag(_)) => true,
        (Shape::Address, Value::Text(text)) => is_address(text),
        (Shape::Addresses(max), Value::List(list)) => {
            let each = |item: &Value| matches!(item, Value::Text(text) if is_address(text));
            list.len() <= max && list.iter().all(each)
        }
        (Shape::Numbers(count, max), Value::List(list)) => {
            let each = |item: &Value| fits(item, &Shape::Number(0, max));
            list.len() <= count && list.iter().all(each)
        }
        _ => false,
    }
}

fn is_address(text: &str) -> bool {
    text.parse::<SocketAddr>().is_ok_and(|addr| addr.port() != 0)
}

fn shape_name(shape: &Shape) -> &'static str {
    match shape {
        Shape::Number(..) => "a whole number",
        Shape::Flag => "a flag",
        Shape::Addresses(_) | Shape::Numbers(..) => "a list",
        _ => "a string",
    }
}

/// A value that passes where the real one was refused.
fn stand_in(shape: &Shape) -> Value {
    match *shape {
        Shape::Number(min, _) | Shape::Size(min, ..) => Value::Number(min as i64),
        Shape::Time(min, _) => Value::Text(format!("{min}us")),
        Shape::Flag => Value::Flag(false),
        Shape::Addresses(_) | Shape::Numbers(..) => Value::List(Vec::new()),
        _ => Value::Text(String::new()),
    }
}

/// Advice for a name that is not known: the nearest one, if it is near.
fn suggest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let nearest = known.map(|word| (distance(name, word), word)).min();
    match nearest {
        Some((far, word)) if far <= 3 && far < word.len() => {
            format!("did you mean {word}? Otherwise remove it")
        }
        _ => "remove it; `palisade config check --explain` lists every key".to_owned(),
    }
}

/// Edits (insert, remove, replace) from one word to the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, c) in from.chars().take(NAME_CHARS_MAX).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for j in 0..to.len() {
            let replaced = diagonal + usize::from(to[j] != c);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}
