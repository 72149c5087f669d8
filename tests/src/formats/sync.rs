//! What a primary and its SYNC standby say to each other, and its shards about the level.

use palisade::Protection;
use palisade::control::{LevelAsk, LevelTold, Mode, Office, Phase, Proof, Term};
use palisade::forward::wire::FROM_READER;
use palisade::stream::mark::Mark;
use palisade::transfer::sync::{
    FromStandby, HeldNews, SyncEnd, SyncFetch, SyncOpen, SyncReply, ToStandby,
};
use palisade_wal::{Ballot, Boundary, Lsn};

use super::messages::BALLOT;
use super::network::{mend, split};
use super::{Format, Sample, leave};

pub(super) const ALL: &[Format] = &[
    Format {
        name: "from-standby",
        samples: standby_said,
        again: standby_again,
        mend,
        is_exact: false,
    },
    Format { name: "to-standby", samples: leader_said, again: leader_again, mend, is_exact: false },
    Format {
        name: "held-news",
        samples: || vec![Sample::new("two streams", HeldNews::encode(&held()))],
        again: |bytes| Some(HeldNews::encode(&HeldNews::decode(bytes).ok()?)),
        mend: leave,
        is_exact: true,
    },
    Format {
        name: "level-ask",
        samples: asks,
        again: |bytes| Some(LevelAsk::parse(bytes).ok()?.encode()),
        mend: leave,
        is_exact: true,
    },
    Format {
        name: "level-told",
        samples: told,
        again: |bytes| Some(LevelTold::parse(bytes).ok()?.encode()),
        mend: leave,
        is_exact: true,
    },
    Format {
        name: "term",
        samples: terms,
        again: |bytes| Some(Term::decode(bytes).ok()?.encode()),
        mend: leave,
        is_exact: true,
    },
    Format {
        name: "mark",
        samples: marks,
        again: |bytes| Some(Mark::decode(bytes)?.encode().to_vec()),
        mend: leave,
        is_exact: true,
    },
];

const END: Boundary = Boundary { lsn: Lsn(256), chain: 0x1122_3344_5566_7788 };

fn standby_said() -> Vec<Sample> {
    let (stream, number, role_epoch) = (7, 5, 2);
    let fetch =
        SyncFetch { stream, number, from: END, committed: Lsn(128), role_epoch, ballot: BALLOT };
    let held = vec![
        SyncReply { stream, committed: END },
        SyncReply { stream: 9, committed: Boundary { lsn: Lsn(64), chain: 3 } },
    ];
    [
        ("SYNC_FETCH", FromStandby::Fetch(fetch)),
        ("SYNC_STOP", FromStandby::Stop { stream, number }),
        ("SYNC_REPLY", FromStandby::Reply { role_epoch, held }),
        ("SYNC_REPLY, a sign of life", FromStandby::Reply { role_epoch, held: Vec::new() }),
    ]
    .map(|(name, said)| Sample::new(name, said.encode()))
    .to_vec()
}

fn standby_again(bytes: &[u8]) -> Option<Vec<u8>> {
    let (head, _, body) = split(bytes, &FROM_READER)?;
    Some(FromStandby::parse(&head, body).ok()?.encode())
}

fn leader_said() -> Vec<Sample> {
    let (stream, number, ballot) = (7, 5, BALLOT);
    let open = SyncOpen { stream, number, committed: Lsn(256), role_epoch: 2, epoch: 3, ballot };
    let mut all = vec![
        ("SYNC_OPEN", ToStandby::Open(open)),
        ("SYNC_OPEN, which asks", ToStandby::Open(SyncOpen { number: 0, ..open })),
    ];
    let reasons = [
        ("SYNC_END, not leader", SyncEnd::NotLeader),
        ("SYNC_END, not named", SyncEnd::NotNamed),
        ("SYNC_END, not match", SyncEnd::NotMatch),
        ("SYNC_END, superseded", SyncEnd::Superseded),
        ("SYNC_END, old role", SyncEnd::OldRole),
        ("SYNC_END, recycled", SyncEnd::Recycled { base: Lsn(64) }),
    ];
    all.extend(reasons.map(|(name, reason)| (name, ToStandby::End { stream, reason })));
    all.into_iter().map(|(name, said)| Sample::new(name, said.encode())).collect()
}

fn leader_again(bytes: &[u8]) -> Option<Vec<u8>> {
    let (head, _, body) = split(bytes, &FROM_READER)?;
    Some(ToStandby::parse(&head, body).ok()?.encode())
}

fn held() -> [HeldNews; 2] {
    let first = HeldNews { stream: 7, cluster: 2, held: Lsn(256), asks: false };
    [first, HeldNews { stream: 9, asks: true, ..first }]
}

fn terms() -> Vec<Sample> {
    let term = Term { epoch: 2, cluster: 3 };
    vec![Sample::new("a term", term.encode()), Sample::new("none", Term::NONE.encode())]
}

fn asks() -> Vec<Sample> {
    let ask = LevelAsk {
        shard: 1,
        asked_at: 1_000,
        heard: BALLOT,
        token: 900,
        promised: Ballot { round: 6, ..BALLOT },
        closed: 3,
        leads: 4,
        still_ns: 5_000,
        behind: 6_000,
        mark: 4,
        scn: 7_000,
        done: vec![7, 9],
    };
    vec![
        Sample::new("LEVEL_ASK", ask.encode()),
        Sample::new("LEVEL_ASK, the first", LevelAsk::default().encode()),
    ]
}

fn told() -> Vec<Sample> {
    let told = |mode| LevelTold {
        shard: 1,
        asked_at: 1_000,
        lease_ns: 900_000_000,
        ballot: BALLOT,
        token: 2_000,
        mode,
    };
    let (protection, epoch) = (Protection::Protection, 4);
    let steady = Mode {
        mode: protection,
        level: protection,
        phase: Phase::Steady,
        mark: Mark::Sync { cluster: 2, epoch: 3 },
        epoch,
        forced: 2,
        office: Office {
            role_epoch: 3,
            holder: 1,
            before: 2,
            since: 2,
            scn: 8_000,
            ..Office::default()
        },
    };
    let ending = Mode {
        phase: Phase::Ending,
        mark: Mark::End { cluster: 2, epoch: 2 },
        epoch: 2,
        office: Office { holder: 1, target: 2, ..Office::default() },
        ..Mode::default()
    };
    let seizing = Mode {
        phase: Phase::Seizing,
        mark: Mark::Fence { held_by: 2, epoch: 1 << 32 },
        epoch: 1 << 32,
        office: Office {
            role_epoch: 2,
            holder: 2,
            proof: Some(Proof::NothingCut),
            sealed: 3,
            ..Office::default()
        },
        ..Mode::default()
    };
    let alone = LevelTold { lease_ns: 0, ..told(Mode::default()) };
    vec![
        Sample::new("LEVEL_TOLD", told(steady).encode()),
        Sample::new("LEVEL_TOLD, without a lease", alone.encode()),
        Sample::new("LEVEL_TOLD, ending", LevelTold { mode: ending, ..alone }.encode()),
        Sample::new("LEVEL_TOLD, seizing", LevelTold { mode: seizing, ..alone }.encode()),
    ]
}

fn marks() -> Vec<Sample> {
    vec![
        Sample::new("SYNC", Mark::Sync { cluster: 2, epoch: 5 }.encode().to_vec()),
        Sample::new("ASYNC", Mark::Async { epoch: 6 }.encode().to_vec()),
        Sample::new("END", Mark::End { cluster: 2, epoch: 7 }.encode().to_vec()),
        Sample::new("FENCE", Mark::Fence { held_by: 2, epoch: 8 }.encode().to_vec()),
    ]
}
