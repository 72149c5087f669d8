//! How it works: a valid node.toml, with lines left out, doubled and moved, and values replaced by
//! those of other keys, numbers and words at the edge. What is accepted is shown as a file that
//! reads as the same configuration; what is refused names a key.

use palisade::Config;
use palisade::config::{KEYS, Value};
use proptest::prelude::*;

use crate::run::fuzz;

const VALUES: [&str; 18] = [
    "0",
    "1",
    "-1",
    "65535",
    "65536",
    "9223372036854775807",
    "-9223372036854775808",
    "1e308",
    "nan",
    "true",
    "\"\"",
    "\"128MiB\"",
    "\"18446744073709551615TiB\"",
    "\"99999999999h\"",
    "\"50ms\"",
    "[]",
    "[1, 1]",
    "{}",
];

const FILE: &str = r#"[cluster]
id = 1
name = "shanghai-1"
role = "standby"

[node]
id = 1
region = "shanghai"
data = "/var/lib/palisade"
listen = "127.0.0.1:7001"
advertise = "127.0.0.1:7001"
shards = 2
cpus = [0, 1]
insecure_network = false

[[member]]
id = 1
addr = "127.0.0.1:7001"
region = "shanghai"

[[member]]
id = 2
addr = "127.0.0.1:7002"
region = "shanghai"

[upstream]
endpoints = ["127.0.0.1:7101"]
preferred_region = "beijing"

[log]
segment_bytes = "128MiB"
log_bytes_max = "10GiB"
retain = "1h"
sync_path = "auto"

[network]
zero_copy = "auto"

[timing]
heartbeat = "50ms"
election = "200ms"
hand_over = "30s"
disk_stall_soft = "1s"
disk_stall_hard = "20s"
"#;

fn parse(text: &str) -> Option<Result<Config, Vec<palisade::config::ConfigError>>> {
    let value: Value = toml::from_str(text).ok()?;
    Some(Config::from_value(&value))
}

#[derive(Clone, Debug)]
enum Edit {
    Drop(usize),
    Double(usize),
    Swap(usize, usize),
    Value(usize, usize),
    Key(usize, usize, usize),
    Text(usize, String),
}

fn edit() -> impl Strategy<Value = Edit> {
    let line = || 0usize..1000;
    prop_oneof![
        line().prop_map(Edit::Drop),
        line().prop_map(Edit::Double),
        (line(), line()).prop_map(|(one, other)| Edit::Swap(one, other)),
        (line(), 0..VALUES.len()).prop_map(|(line, value)| Edit::Value(line, value)),
        (line(), 0..KEYS.len(), 0..VALUES.len())
            .prop_map(|(line, key, value)| Edit::Key(line, key, value)),
        (line(), prop::collection::vec(any::<char>(), 0..20))
            .prop_map(|(line, text)| Edit::Text(line, text.into_iter().collect())),
    ]
}

fn apply(edit: &Edit, lines: &mut Vec<String>) {
    if lines.is_empty() {
        return;
    }
    let len = lines.len();
    match edit {
        Edit::Drop(at) => drop(lines.remove(at % len)),
        Edit::Double(at) => lines.push(lines[at % len].clone()),
        Edit::Swap(one, other) => lines.swap(one % len, other % len),
        Edit::Value(at, value) => {
            if let Some((key, _)) = lines[at % len].split_once('=') {
                lines[at % len] = format!("{key}= {}", VALUES[*value]);
            }
        }
        Edit::Key(at, key, value) => {
            let name = KEYS[*key].path.split_once('.').map_or(KEYS[*key].path, |(_, name)| name);
            lines.insert(at % len, format!("{name} = {}", VALUES[*value]));
        }
        Edit::Text(at, text) => {
            if let Some((key, _)) = lines[at % len].split_once('=') {
                lines[at % len] = format!("{key}= {text:?}");
            }
        }
    }
}

#[test]
fn node_toml() {
    let file = FILE;
    let read = parse(file);
    assert!(matches!(read, Some(Ok(_))), "{read:?}");
    let edits = prop::collection::vec(edit(), 0..5);
    fuzz("configuration::node_toml", edits, |edits| {
        let mut lines: Vec<String> = file.lines().map(str::to_owned).collect();
        edits.iter().for_each(|edit| apply(edit, &mut lines));
        match parse(&lines.join("\n")) {
            None => {}
            Some(Ok(config)) => {
                let shown = config.to_toml();
                let again = parse(&shown);
                assert!(matches!(&again, Some(Ok(same)) if *same == config), "{shown}\n{again:?}");
            }
            Some(Err(errors)) => {
                assert!(errors.iter().all(|error| !error.key.is_empty()), "{errors:?}");
                assert!(!errors.is_empty(), "refused, and nothing said");
            }
        }
    });
}
