//! `palisade read --from` below the base of a log, at the command line.

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};

use palisade::config::Member;
use palisade::{Config, Node};

fn read(at: SocketAddr, stream: u64, from: u64) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_palisade"));
    let words = ["read", "--timeout", "5000", "--output", "jsonl"];
    command.args(words).arg("--at").arg(at.to_string());
    command.arg("--stream").arg(stream.to_string()).arg("--from").arg(from.to_string());
    command.output().expect("the program runs")
}

#[test]
fn a_read_below_the_base_exits_1_and_names_the_base() {
    let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
    let addr = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let mut config = Config::embedded(dir.path().join("n1"));
    config.node.forwarding = true;
    config.node.listen = Some(addr);
    config.node.advertise = Some(addr);
    config.members = vec![Member { id: 1, addr, region: config.node.region.clone() }];
    palisade::format(&config).expect("formatted");
    let node = Node::open(config).expect("a node");
    let stream = node.stream(node.create_stream().expect("a stream"));
    let first = stream.append("one").wait().expect("acked");
    let second = stream.append("two").wait().expect("acked");
    let sound = read(addr, stream.id(), first.lsn.0);
    assert_eq!(sound.status.code(), Some(0), "{sound:?}");
    assert_eq!(sound.stdout.iter().filter(|&&byte| byte == b'\n').count(), 2);

    stream.truncate_to(second.lsn).expect("committed");
    let refused = read(addr, stream.id(), first.lsn.0);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(text.contains(&format!("base_lsn {}", second.lsn.0)), "{text}");
    assert!(refused.stdout.is_empty(), "nothing of it is read: {refused:?}");
    let rest = read(addr, stream.id(), second.lsn.0);
    assert_eq!(rest.status.code(), Some(0), "{rest:?}");
    node.stop().expect("stopped");
}
