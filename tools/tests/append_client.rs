//! The client's appends against a made-up node: redirection, lost connections, refusals.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use palisade::client::wire::{
    Append, AppendedRecord, KIND_APPEND, KIND_APPENDED, KIND_REFUSED, Outcome, Refused,
    RefusedCode, encode_appended,
};
use palisade::client::{AppendOptions, Client, ClientOptions, Fate, Next, Totals};
use palisade::status::Protection;
use palisade_netio::{FrameHead, FrameLimits, Identity, Welcome};

/// What the node does with its n-th append, counted over all connections.
#[derive(Clone, Copy, PartialEq)]
enum Act {
    /// Takes it and answers.
    Answer,
    /// Takes it and hangs up without an answer.
    TakeAndHangUp,
    /// Hangs up and forgets it.
    HangUp,
    /// Refuses it.
    Refuse(RefusedCode),
    /// Refuses it like a leader that was replaced and knows no record of this client.
    Forget,
    /// Answers that every outcome is unknown.
    Unknown,
    /// Says nothing and goes on.
    Silence,
}

/// A node with a log of one producer's records; ends when the test does.
fn node(script: Vec<Act>, leader: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let (mut log, mut step) = (BTreeMap::new(), 0);
        for socket in listener.incoming().map_while(Result::ok) {
            serve(socket, &script, &leader, &mut log, &mut step);
        }
    });
    addr
}

fn frame(socket: &mut TcpStream) -> Option<(FrameHead, Vec<u8>)> {
    let mut head = [0; 64];
    socket.read_exact(&mut head).ok()?;
    let head = FrameHead::parse(&head, &FrameLimits::ANY).expect("a frame");
    let mut body = vec![0; head.body_len as usize];
    socket.read_exact(&mut body).ok()?;
    Some((head, body))
}

/// Sequence (or a made-up one) to position.
type Log = BTreeMap<u64, u64>;

fn serve(mut socket: TcpStream, script: &[Act], leader: &str, log: &mut Log, step: &mut usize) {
    frame(&mut socket).expect("a greeting");
    let identity = Identity { cluster: 1, node: 9, shards: 1, ..Identity::default() };
    socket.write_all(&Welcome::new(identity).encode()).expect("room");
    while let Some((head, body)) = frame(&mut socket) {
        assert_eq!(head.kind, KIND_APPEND);
        let act = script.get(*step).copied().unwrap_or(Act::Answer);
        *step += 1;
        let refuse = |code, expected| Refused {
            expected,
            leader: leader.to_owned(),
            ..Refused::new(code, "made up")
        };
        let append = Append::parse(&body).expect("a sound append");
        let taken = match act {
            Act::Refuse(code) => Err(refuse(code, 0)),
            Act::Forget if append.records().any(|record| record.sequence == 1) => {
                Err(refuse(RefusedCode::NotLeader, 0))
            }
            Act::Forget => Err(refuse(RefusedCode::SequenceGap, 1)),
            Act::Unknown => Ok(vec![AppendedRecord::placeless(Outcome::Unknown); append.count()]),
            Act::HangUp => return,
            Act::Silence => continue,
            Act::Answer | Act::TakeAndHangUp => {
                take(&append, log).map_err(|expected| refuse(RefusedCode::SequenceGap, expected))
            }
        };
        if act == Act::TakeAndHangUp {
            return;
        }
        let answer = match taken {
            Ok(records) => (KIND_APPENDED, encode_appended(&records)),
            Err(refused) => (KIND_REFUSED, refused.encode()),
        };
        let frame = FrameHead::encode(answer.0, head.tag, head.tag2, &answer.1);
        if socket.write_all(&frame).is_err() {
            return;
        }
    }
}

/// Takes the records, or says which sequence is missing.
fn take(append: &Append<'_>, log: &mut Log) -> Result<Vec<AppendedRecord>, u64> {
    let next = log.len() as u64 + 1;
    let first = append.records().next().expect("a record").sequence;
    if first > next {
        return Err(next);
    }
    let fate = |(sequence, lsn): (u64, u64)| AppendedRecord {
        outcome: Outcome::Acked,
        level: Protection::Performance,
        lsn,
        end_lsn: lsn + 32,
        scn: sequence,
    };
    let place = |record: palisade::client::wire::AppendRecord<'_>| {
        let new = log.len() as u64 + 1;
        let sequence = if record.sequence == 0 { new } else { record.sequence };
        (sequence, *log.entry(sequence).or_insert(new * 32))
    };
    Ok(append.records().map(place).map(fate).collect())
}

fn run(nodes: &[SocketAddr], producer: u64, records: u64, timeout_ms: u64) -> (Totals, Vec<Fate>) {
    let names: Vec<_> = nodes.iter().map(SocketAddr::to_string).collect();
    let timeout = Duration::from_millis(timeout_ms);
    let mut client = Client::new(&names, ClientOptions { cluster: 1, timeout }).expect("names");
    let options = AppendOptions { stream: 2, producer, first_sequence: 1, in_flight: 16, timeout };
    let (mut given, mut fates) = (0, Vec::new());
    let mut source = |_| {
        given += 1;
        if given > records { Next::End } else { Next::Record(vec![given as u8; 10]) }
    };
    let totals = client.append_many(&options, &mut source, &mut |fate| fates.push(fate));
    (totals.expect("a node answered"), fates)
}

/// Every record is acked once, at the place of its sequence.
fn assert_all_in_order(fates: &[Fate], records: u64) {
    let mut places: Vec<_> = fates.iter().map(|fate| (fate.sequence, fate.appended.lsn)).collect();
    places.sort_unstable();
    let expected: Vec<_> = (1..=records).map(|n| (n, n * 32)).collect();
    assert_eq!(places, expected);
}

#[test]
fn plain_appends_are_acked_in_order() {
    let (totals, fates) = run(&[node(Vec::new(), String::new())], 0, 100, 5000);
    assert_eq!((totals.acked, totals.retries, fates.len()), (100, 0, 100));
    assert!(fates.windows(2).all(|two| two[0].appended.lsn < two[1].appended.lsn));
}

#[test]
fn a_redirection_is_followed() {
    let leader = node(Vec::new(), String::new());
    let follower = node(vec![Act::Refuse(RefusedCode::NotLeader); 50], leader.to_string());
    let (totals, fates) = run(&[follower], 7, 60, 5000);
    assert_eq!(totals.acked, 60);
    assert_all_in_order(&fates, 60);
}

#[test]
fn with_a_producer_a_lost_answer_is_asked_for_again() {
    let script = vec![Act::Answer, Act::TakeAndHangUp, Act::Answer, Act::HangUp];
    let (totals, fates) = run(&[node(script, String::new())], 7, 100, 5000);
    assert_eq!((totals.acked, totals.failed, totals.unknown), (100, 0, 0));
    assert!(totals.retries > 0);
    assert_all_in_order(&fates, 100);
}

#[test]
fn without_a_producer_a_lost_answer_is_unknown() {
    let script = vec![Act::Answer, Act::TakeAndHangUp];
    let (totals, fates) = run(&[node(script, String::new())], 0, 48, 5000);
    assert_eq!((totals.acked, totals.failed, totals.unknown), (32, 0, 16), "{fates:?}");
}

#[test]
fn a_busy_node_gets_the_rest_again_in_order() {
    let busy = Act::Refuse(RefusedCode::Busy);
    let script = vec![Act::Answer, busy, Act::Answer, Act::Answer, busy, busy];
    let (totals, fates) = run(&[node(script, String::new())], 7, 100, 5000);
    assert_eq!((totals.acked, totals.failed, totals.unknown), (100, 0, 0));
    assert_all_in_order(&fates, 100);
}

#[test]
fn a_leader_that_lacks_what_was_acked_is_left() {
    let stopping = Act::Refuse(RefusedCode::Shutdown);
    let leader = node(vec![Act::Answer, Act::Answer, stopping], String::new());
    let stale = node(vec![Act::Forget; 50], String::new());
    let (totals, fates) = run(&[leader, stale], 7, 60, 5000);
    assert_eq!((totals.acked, totals.failed, totals.unknown), (60, 0, 0), "{fates:?}");
    assert!(totals.connections > 2, "the stale one was asked: {totals:?}");
    assert_all_in_order(&fates, 60);
}

#[test]
fn a_node_that_never_knows_an_outcome_is_not_kept_busy() {
    let (totals, _) = run(&[node(vec![Act::Unknown; 10_000], String::new())], 7, 2, 500);
    assert_eq!((totals.acked, totals.unknown), (0, 2));
    assert!(totals.retries <= 60, "{} requests in half a second", totals.retries);
}

#[test]
fn at_the_deadline_what_was_sent_is_unknown_and_what_was_refused_failed() {
    let (totals, _) = run(&[node(vec![Act::Silence; 100], String::new())], 7, 8, 200);
    assert_eq!((totals.acked, totals.failed, totals.unknown), (0, 0, 8));
    let busy = vec![Act::Refuse(RefusedCode::Busy); 1000];
    let (totals, _) = run(&[node(busy, String::new())], 0, 8, 200);
    assert_eq!((totals.acked, totals.failed, totals.unknown), (0, 8, 0));
    let (totals, fates) =
        run(&[node(vec![Act::Refuse(RefusedCode::Standby)], String::new())], 7, 8, 200);
    // The first request was refused for good; the others were on their way.
    assert_eq!((totals.acked, totals.failed, totals.unknown), (0, 2, 6));
    assert!(fates[0].why.contains("standby"), "{fates:?}");
}

/// What was refused may run out of time before it was said again: later records are asked for
/// all the same, and the run ends.
#[test]
fn a_node_that_refuses_for_longer_than_the_limit_ends_nothing_else() {
    for code in [RefusedCode::NoSpace, RefusedCode::Busy] {
        let node = node(vec![Act::Refuse(code); 100_000], String::new());
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(run(&[node], 0, 40, 100)));
        let (totals, fates) = ended.recv_timeout(Duration::from_secs(60)).expect("it ends");
        assert_eq!((totals.acked, totals.failed, fates.len()), (0, 40, 40));
        assert!(fates.iter().all(|fate| fate.why.contains("made up")), "{:?}", fates[0].why);
    }
}
