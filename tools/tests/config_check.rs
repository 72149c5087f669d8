//! Every bad configuration is refused, and the message names the key.

use palisade_tools::parse_config;

/// A configuration that is right; each case changes one line or adds some.
const GOOD: &str = r#"
[cluster]
id = 1
name = "shanghai"
role = "primary"
[node]
id = 1
region = "sh"
data = "/var/lib/palisade/n1"
listen = "127.0.0.1:7001"
advertise = "127.0.0.1:7001"
shards = 1
cpus = []
insecure_network = false
[[member]]
id = 1
addr = "127.0.0.1:7001"
region = "sh"
[[member]]
id = 2
addr = "127.0.0.1:7002"
region = "hz"
[upstream]
endpoints = []
[log]
segment_bytes = "128MiB"
log_bytes_max = "10GiB"
retain = "0s"
sync_path = "auto"
[network]
zero_copy = "auto"
[timing]
heartbeat = "50ms"
election = "400ms"
disk_stall_soft = "1s"
"#;

/// What is replaced, by what, the key that must be named, and a word of the message.
const BAD: [(&str, &str, &str, &str); 66] = [
    ("[cluster]\nid = 1", "[cluster]\nid = 0", "cluster.id", "1 to 4294967295"),
    ("[cluster]\nid = 1", "[cluster]\nid = -1", "cluster.id", "1 to 4294967295"),
    ("[cluster]\nid = 1", "[cluster]\nid = 4294967296", "cluster.id", "1 to 4294967295"),
    ("[cluster]\nid = 1", "[cluster]\nid = \"1\"", "cluster.id", "found a string"),
    ("[cluster]\nid = 1", "[cluster]\nid = 1.5", "cluster.id", "found a fraction"),
    ("[cluster]\nid = 1", "[cluster]", "cluster.id", "required"),
    ("name = \"shanghai\"", "", "cluster.name", "required"),
    ("name = \"shanghai\"", "name = \"\"", "cluster.name", "1 to 64"),
    ("name = \"shanghai\"", "name = \"a b\"", "cluster.name", "1 to 64"),
    ("name = \"shanghai\"", "name = 7", "cluster.name", "found a whole number"),
    ("role = \"primary\"", "role = \"leader\"", "cluster.role", "primary | standby"),
    ("role = \"primary\"", "role = \"standby\"", "upstream.endpoints", "required where"),
    ("role = \"primary\"", "rule = \"primary\"", "cluster.rule", "did you mean role"),
    ("[node]\nid = 1", "[node]\nid = 3", "node.id", "1, 2"),
    ("[node]\nid = 1", "[node]", "node.id", "required"),
    ("region = \"sh\"\ndata", "region = \"sz\"\ndata", "member[1].region", "sz"),
    ("region = \"sh\"\ndata", "data", "node.region", "required"),
    ("data = \"/var/lib/palisade/n1\"", "", "node.data", "required"),
    ("data = \"/var/lib/palisade/n1\"", "data = \"\"", "node.data", "path"),
    ("listen = \"127.0.0.1:7001\"", "", "node.listen", "required"),
    ("listen = \"127.0.0.1:7001\"", "listen = \"127.0.0.1\"", "node.listen", "IP:PORT"),
    ("listen = \"127.0.0.1:7001\"", "listen = \"127.0.0.1:0\"", "node.listen", "IP:PORT"),
    ("listen = \"127.0.0.1:7001\"", "listen = \"here:7001\"", "node.listen", "IP:PORT"),
    ("listen = \"127.0.0.1:7001\"", "listen = \"127.0.0.1:70000\"", "node.listen", "IP:PORT"),
    ("listen = \"127.0.0.1:7001\"", "listen = \"10.0.0.1:7001\"", "node.listen", "loopback"),
    ("listen = \"127.0.0.1:7001\"", "listen = \"0.0.0.0:7001\"", "node.listen", "loopback"),
    ("advertise = \"127.0.0.1:7001\"", "advertise = \"127.0.0.1:7009\"", "member[1].addr", "7009"),
    ("advertise = \"127.0.0.1:7001\"", "advertise = \"0.0.0.0:7001\"", "node.advertise", "connect"),
    ("shards = 1", "shards = 0", "node.shards", "1 to 64"),
    ("shards = 1", "shards = 65", "node.shards", "1 to 64"),
    ("shards = 1", "shards = true", "node.shards", "found a flag"),
    ("cpus = []", "cpus = [0, 0]", "node.cpus", "twice"),
    ("cpus = []", "cpus = [0, 1]", "node.cpus", "one per log shard"),
    ("cpus = []", "cpus = [5000]", "node.cpus", "0 to 1023"),
    ("cpus = []", "cpus = [-1]", "node.cpus", "0 to 1023"),
    ("cpus = []", "cpus = \"0\"", "node.cpus", "found a string"),
    (
        "insecure_network = false",
        "insecure_network = \"no\"",
        "node.insecure_network",
        "true | false",
    ),
    ("[[member]]\nid = 2", "[[member]]\nid = 1", "member[2].id", "member[1]"),
    ("[[member]]\nid = 2", "[[member]]", "member[2].id", "required"),
    ("addr = \"127.0.0.1:7002\"", "addr = \"127.0.0.1:7001\"", "member[2].addr", "member[1]"),
    ("addr = \"127.0.0.1:7002\"", "addr = \"nowhere\"", "member[2].addr", "IP:PORT"),
    ("region = \"hz\"", "", "member[2].region", "required"),
    ("region = \"hz\"", "zone = \"hz\"", "member[2].zone", "unknown key"),
    ("endpoints = []", "endpoints = \"127.0.0.1:7003\"", "upstream.endpoints", "a string"),
    ("endpoints = []", "endpoints = [\"x\"]", "upstream.endpoints", "IP:PORT"),
    ("endpoints = []", "override = [\"127.0.0.1:7002\"]", "upstream.override", "member"),
    (
        "endpoints = []",
        "override = [\"127.0.0.1:1\", \"127.0.0.1:2\"]",
        "upstream.override",
        "0 to 1",
    ),
    ("endpoints = []", "preferred_region = \"\"", "upstream.preferred_region", "1 to 64"),
    ("segment_bytes = \"128MiB\"", "segment_bytes = \"12XB\"", "log.segment_bytes", "8MiB to 1GiB"),
    ("segment_bytes = \"128MiB\"", "segment_bytes = \"4MiB\"", "log.segment_bytes", "8MiB to 1GiB"),
    ("segment_bytes = \"128MiB\"", "segment_bytes = \"2GiB\"", "log.segment_bytes", "8MiB to 1GiB"),
    ("segment_bytes = \"128MiB\"", "segment_bytes = 8388609", "log.segment_bytes", "multiple"),
    ("segment_bytes = \"128MiB\"", "segment_bytes = \"128MB\"", "log.segment_bytes", "KiB"),
    ("log_bytes_max = \"10GiB\"", "log_bytes_max = \"256MiB\"", "log.log_bytes_max", "512MiB"),
    ("log_bytes_max = \"10GiB\"", "log_bytes_max = \"lots\"", "log.log_bytes_max", "32MiB"),
    ("retain = \"0s\"", "retain = \"1 week\"", "log.retain", "us, ms, s"),
    ("retain = \"0s\"", "retain = 7", "log.retain", "found a whole number"),
    ("sync_path = \"auto\"", "sync_path = \"fsync\"", "log.sync_path", "fdatasync"),
    ("zero_copy = \"auto\"", "zero_copy = \"yes\"", "network.zero_copy", "auto | always | never"),
    (
        "zero_copy = \"auto\"",
        "forward_compression = \"zstd\"",
        "network.forward_compression",
        "off | lz4",
    ),
    ("heartbeat = \"50ms\"", "heartbeat = \"0ms\"", "timing.heartbeat", "5ms to 5s"),
    ("heartbeat = \"50ms\"", "heartbeat = \"200ms\"", "timing.election", "600ms"),
    ("election = \"400ms\"", "election = \"100ms\"", "timing.election", "150ms"),
    ("disk_stall_soft = \"1s\"", "disk_stall_soft = \"0s\"", "timing.disk_stall_soft", "50ms"),
    ("disk_stall_soft = \"1s\"", "disk_stall_hard = \"500ms\"", "timing.disk_stall_hard", "1s to"),
    ("[network]", "[netwerk]", "netwerk", "did you mean network"),
];

#[test]
fn the_good_one_is_good_and_reads_back() {
    let config = parse_config(GOOD).expect("a right configuration");
    assert_eq!(config.members.len(), 2);
    assert_eq!(config.log.segment_bytes, 128 << 20);
    assert_eq!(parse_config(&config.to_toml()), Ok(config));
}

#[test]
fn a_primary_may_name_its_own_members_as_upstreams_and_a_standby_may_not() {
    let named = GOOD.replacen("endpoints = []", "endpoints = [\"127.0.0.1:7002\"]", 1);
    let config = parse_config(&named).expect("at a primary they do not act");
    assert_eq!(config.upstream.endpoints.len(), 1);
    let standby = named.replacen("role = \"primary\"", "role = \"standby\"", 1);
    let errors = parse_config(&standby).expect_err("it would fetch from itself");
    let named = errors
        .iter()
        .any(|error| error.key == "upstream.endpoints" && error.to_string().contains("member"));
    assert!(named, "{errors:?}");
}

/// As it stands at the head of the description of the program, but for its comments.
const EXAMPLE: &str = r#"
[cluster]
id = 1
name = "shanghai"
role = "primary"
[node]
id = 1
region = "sh"
data = "/var/lib/palisade/n1"
listen = "127.0.0.1:7001"
advertise = "127.0.0.1:7001"
shards = 1
cpus = []
insecure_network = false
[[member]]
id = 1
addr = "127.0.0.1:7001"
region = "sh"
[upstream]
endpoints = ["127.0.0.1:7001", "127.0.0.1:7002"]
[log]
segment_bytes = "128MiB"
log_bytes_max = "10GiB"
retain = "0s"
[network]
zero_copy = "auto"
[timing]
"#;

#[test]
fn the_example_of_every_section_is_good() {
    let config = parse_config(EXAMPLE).expect("a right configuration");
    assert_eq!((config.members.len(), config.upstream.endpoints.len()), (1, 2));
}

#[test]
fn every_bad_one_is_refused_by_the_right_key() {
    for (from, to, key, word) in BAD {
        assert!(GOOD.contains(from), "{from:?} is not in the good one");
        let text = GOOD.replacen(from, to, 1);
        let errors = parse_config(&text).expect_err(to);
        let named = errors.iter().find(|error| error.key == key);
        let named = named.unwrap_or_else(|| panic!("{to:?} names no {key}: {errors:?}"));
        let message = named.to_string();
        assert!(message.contains(word), "{message:?} does not say {word:?}");
        assert!(!named.fix.is_empty());
    }
}

#[test]
fn all_problems_are_found_at_once() {
    let mut text = GOOD.to_owned();
    for (from, to) in [
        ("[cluster]\nid = 1", "[cluster]\nid = 0"),
        ("shards = 1", "shards = 99"),
        ("segment_bytes = \"128MiB\"", "segment_bytes = \"12XB\""),
        ("heartbeat = \"50ms\"", "heartbeat = \"200ms\"\nspeed = 1"),
        ("[[member]]\nid = 2", "[[member]]\nid = 1"),
    ] {
        text = text.replacen(from, to, 1);
    }
    let errors = parse_config(&text).expect_err("many problems");
    let keys: Vec<_> = errors.iter().map(|error| error.key.as_str()).collect();
    for key in ["cluster.id", "node.shards", "log.segment_bytes", "timing.speed", "member[2].id"] {
        assert!(keys.contains(&key), "{key} is not among {keys:?}");
    }
}

#[test]
fn text_that_is_no_toml_names_the_line() {
    let errors = parse_config("[cluster]\nid = \n").expect_err("no TOML");
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].value, "line 2");
    let twice = parse_config("[cluster]\nid = 1\nid = 2\n").expect_err("a key twice");
    assert_eq!(twice[0].value, "line 3");
}
