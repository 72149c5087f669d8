//! What replicas and shards of one cluster say to each other, and what of it is logged.

use palisade::paxos::{
    Body, ClosedNews, Complete, Config, FetchRequest, FloorAsk, FloorHeld, Heartbeat, Member,
    Message, Promise, TakeoverBody, View, Want,
};
use palisade_wal::{Ballot, Boundary, Lsn};

use super::{Format, Sample, leave};

pub(super) const ALL: &[Format] = &[
    Format {
        name: "message",
        samples: messages,
        again: message_again,
        mend: leave,
        is_exact: false, // A StepDown without a successor may name any node.
    },
    Format {
        name: "heartbeat",
        samples: heartbeats,
        again: |bytes| encoded(Heartbeat::decode(bytes).ok()?, Heartbeat::encode_into),
        mend: leave,
        is_exact: true,
    },
    Format {
        name: "floor-ask",
        samples: asks,
        again: |bytes| encoded(FloorAsk::decode(bytes).ok()?, FloorAsk::encode_into),
        mend: leave,
        is_exact: true,
    },
    Format {
        name: "floor-held",
        samples: helds,
        again: |bytes| encoded(FloorHeld::decode(bytes).ok()?, FloorHeld::encode_into),
        mend: leave,
        is_exact: true,
    },
    Format {
        name: "closed",
        samples: news,
        again: |bytes| encoded(ClosedNews::decode(bytes).ok()?, ClosedNews::encode_into),
        mend: leave,
        is_exact: true,
    },
    Format {
        name: "complete",
        samples: completes,
        again: |bytes| encoded(Complete::decode(bytes).ok()?, Complete::encode_into),
        mend: leave,
        is_exact: true,
    },
    Format {
        name: "takeover",
        samples: takeovers,
        again: takeover_again,
        mend: leave,
        is_exact: false, // A member that is not bound may have any incarnation.
    },
];

fn encoded<T>(value: T, encode: fn(&T, &mut Vec<u8>)) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    encode(&value, &mut out);
    Some(out)
}

pub(super) const BALLOT: Ballot = Ballot { round: 5, node: 2, incarnation: 77 };

/// Members as a leader stamps them: two bound, one not.
pub(super) fn members(ballot: Ballot) -> Config {
    let member = |node: u32| Member {
        node,
        incarnation: (node < 3).then_some(70 + u64::from(node)),
        addr: format!("10.0.0.{node}:7000"),
        region: "shanghai".to_owned(),
    };
    let first = Config::first((1..=3).map(member).collect()).expect("three members");
    Config { ballot, seq: 4, at: Lsn(64), ..first }
}

fn message_again(bytes: &[u8]) -> Option<Vec<u8>> {
    let (message, taken) = Message::decode(bytes).ok()?;
    assert!(taken <= bytes.len(), "no more is taken than there is");
    if let Body::Commit { upto, end, .. } = message.body
        && upto > end
    {
        return None;
    }
    let mut again = encoded(message, Message::encode_into)?;
    assert_eq!(again.len(), taken, "it takes as much as was taken");
    again.extend_from_slice(&bytes[taken..]);
    Some(again)
}

fn messages() -> Vec<Sample> {
    let lower = Ballot { round: 4, node: 1, incarnation: 71 };
    let (upto, end) = (Lsn(128), Boundary { lsn: Lsn(256), chain: 0x1122_3344_5566_7788 });
    let promise = Promise {
        ballot: BALLOT,
        accepting: lower,
        end,
        committed: upto,
        base: Lsn(64),
        unknown: false,
        holes: vec![(Lsn(128), Lsn(192)), (Lsn(192), Lsn(256))],
        scn: 9,
        config: members(lower),
    };
    let fetch = |want| Body::Fetch(FetchRequest { ballot: BALLOT, from: Lsn(64), upto, want });
    let down = |successor, appointed| Body::StepDown { ballot: BALLOT, successor, appointed };
    let ballot = BALLOT;
    let all = vec![
        ("PreVote", Body::PreVote { ballot }),
        (
            "PreVoteReply",
            Body::PreVoteReply { ballot, granted: true, promised: lower, leader: Ballot::NONE },
        ),
        ("Prepare", Body::Prepare { ballot }),
        ("Promise", Body::Promise(promise.clone())),
        ("Promise of an unknown tail", Body::Promise(Promise { unknown: true, ..promise })),
        ("Refuse", Body::Refuse { ballot: lower, promised: ballot, no_takeover: true }),
        ("Takeover", Body::Takeover { ballot, end, scn: 9, config: members(ballot) }),
        ("Accepted", Body::Accepted { ballot, upto, seq: 4, low: Lsn(64), committed: upto }),
        ("Commit", Body::Commit { ballot, upto, end: end.lsn, held: Lsn(64) }),
        ("Fetch to go on", fetch(Want::Next)),
        ("Fetch to stage", fetch(Want::Staged)),
        ("Fetch of what is lost", fetch(Want::Lost)),
        ("StepDown", down(None, false)),
        ("StepDown with a successor", down(Some(3), false)),
        ("StepDown with an appointed one", down(Some(3), true)),
    ];
    let sample = |(name, body)| {
        let bytes = encoded(Message { stream: 6, body }, Message::encode_into);
        Sample::new(name, bytes.expect("it is encoded"))
    };
    all.into_iter().map(sample).collect()
}

fn heartbeats() -> Vec<Sample> {
    let heartbeat = Heartbeat {
        boot: 3,
        counter: 40,
        echo_boot: 2,
        echo_counter: 39,
        progress: 1000,
        waiting_us: 55,
    };
    let bytes = encoded(heartbeat, Heartbeat::encode_into);
    vec![Sample::new("heartbeat", bytes.expect("it is encoded"))]
}

fn asks() -> Vec<Sample> {
    let ask = FloorAsk { floor: 1_000, wants: 2_000, anew: true };
    vec![Sample::new("ask", encoded(ask, FloorAsk::encode_into).expect("it is encoded"))]
}

fn helds() -> Vec<Sample> {
    let views = vec![View { stream: 7, round: 5 }, View { stream: 9, round: 1 }];
    let held = FloorHeld { floor: 1_000, session: 3, number: 4, views };
    vec![Sample::new("held", encoded(held, FloorHeld::encode_into).expect("it is encoded"))]
}

fn news() -> Vec<Sample> {
    let ends = vec![(7, Some(Lsn(128))), (9, None)];
    let news = ClosedNews { session: 3, number: 4, scn: 1_000, ends };
    vec![Sample::new("closed", encoded(news, ClosedNews::encode_into).expect("it is encoded"))]
}

fn completes() -> Vec<Sample> {
    let complete = Complete { scn: 1_000 };
    vec![Sample::new("complete", encoded(complete, Complete::encode_into).expect("it is encoded"))]
}

fn takeovers() -> Vec<Sample> {
    let body = TakeoverBody { chain: 0x1122_3344_5566_7788, scn: 9, config: members(BALLOT) };
    vec![Sample::new("bytes of a Takeover record", body.encode())]
}

fn takeover_again(bytes: &[u8]) -> Option<Vec<u8>> {
    let body = TakeoverBody::decode(bytes).ok()?;
    body.config.ballot.is_some().then(|| body.encode())
}
