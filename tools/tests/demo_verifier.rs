//! The demo's judgement on made-up histories: each kind of damage is seen, and only that.

use palisade_tools::demo::verify::{Acked, Findings, NodeLog, Seen, verify};

const RECORDS: u64 = 50;

fn acked() -> Vec<Acked> {
    let at = |n: u64| (n - 1) * 64 + 96;
    (1..=RECORDS)
        .map(|n| Acked { sequence: n, lsn: at(n), end_lsn: at(n) + 64, digest: n * 1000 })
        .collect()
}

fn nodes() -> Vec<NodeLog> {
    let seen = |ack: &Acked| Seen {
        lsn: ack.lsn,
        end_lsn: ack.end_lsn,
        producer: 7,
        sequence: ack.sequence,
        digest: ack.digest,
    };
    ["sh1", "sh2", "hz1", "standby"]
        .map(|name| NodeLog { name: name.to_owned(), records: acked().iter().map(seen).collect() })
        .to_vec()
}

fn after(change: impl Fn(&mut Vec<Acked>, &mut Vec<NodeLog>)) -> Findings {
    let (mut acked, mut nodes) = (acked(), nodes());
    change(&mut acked, &mut nodes);
    verify(&acked, &nodes)
}

#[test]
fn a_sound_history_is_clean() {
    let findings = after(|_, _| {});
    assert!(findings.is_clean(), "{findings:?}");
}

#[test]
fn a_lost_record_is_lost() {
    for node in 0..4 {
        let findings = after(|_, nodes| {
            nodes[node].records.remove(10);
        });
        assert_eq!(findings.lost, 1, "node {node}: {findings:?}");
        assert!(!findings.is_clean());
    }
    assert_eq!(after(|_, nodes| nodes.iter_mut().for_each(|n| n.records.clear())).lost, RECORDS);
    assert_eq!(after(|_, nodes| nodes.clear()).lost, RECORDS, "nobody was asked");
    let tail = after(|_, nodes| {
        nodes[3].records.pop();
    });
    assert_eq!(tail.lost, 1);
}

#[test]
fn other_bytes_diverge() {
    for node in 0..4 {
        let findings = after(|_, nodes| nodes[node].records[5].digest ^= 1);
        assert_eq!((findings.lost, findings.diverged), (0, 1), "node {node}: {findings:?}");
    }
    let shifted = after(|_, nodes| nodes[1].records[5].end_lsn += 8);
    assert!(shifted.diverged > 0);
    let foreign = after(|_, nodes| nodes[2].records[5].producer = 8);
    assert_eq!(foreign.diverged, 1, "{foreign:?}");
}

#[test]
fn unacked_records_may_be_there_but_everywhere_the_same() {
    let extra =
        Seen { lsn: 1 << 20, end_lsn: (1 << 20) + 64, producer: 7, sequence: 51, digest: 3 };
    let everywhere = after(|_, nodes| nodes.iter_mut().for_each(|n| n.records.push(extra)));
    assert!(everywhere.is_clean(), "{everywhere:?}");
    let once = after(|_, nodes| nodes[0].records.push(extra));
    assert_eq!((once.lost, once.diverged), (0, 1), "{once:?}");
}

#[test]
fn a_sequence_twice_is_a_duplicate() {
    let again = |nodes: &mut Vec<NodeLog>| {
        for node in nodes {
            let twin = Seen { lsn: 1 << 20, end_lsn: (1 << 20) + 64, ..node.records[3] };
            node.records.push(twin);
        }
    };
    let findings = after(|_, nodes| again(nodes));
    assert_eq!((findings.lost, findings.duplicated), (0, 4), "{findings:?}");
    let acked_twice = after(|acked, nodes| {
        again(nodes);
        let twin = Acked { lsn: 1 << 20, end_lsn: (1 << 20) + 64, ..acked[3] };
        acked.push(twin);
    });
    assert!(acked_twice.diverged > 0 && acked_twice.duplicated > 0, "{acked_twice:?}");
}

#[test]
fn another_order_is_seen() {
    let swapped = after(|acked, nodes| {
        // The same places, but sequences 10 and 11 changed theirs on every node and in the acks.
        for node in nodes {
            let (a, b) = (node.records[9], node.records[10]);
            node.records[9] = Seen { sequence: b.sequence, digest: b.digest, ..a };
            node.records[10] = Seen { sequence: a.sequence, digest: a.digest, ..b };
        }
        let (a, b) = (acked[9], acked[10]);
        acked[9] = Acked { sequence: b.sequence, digest: b.digest, ..a };
        acked[10] = Acked { sequence: a.sequence, digest: a.digest, ..b };
    });
    assert_eq!((swapped.lost, swapped.diverged), (0, 0), "{swapped:?}");
    assert_eq!(swapped.reordered, 4, "{swapped:?}");
    let returned_so = after(|_, nodes| nodes[0].records.swap(3, 4));
    assert!(returned_so.reordered > 0);
}
