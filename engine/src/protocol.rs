//! Compares the tables of PROTOCOL.md with the code.

use std::collections::BTreeSet;

use palisade_netio::limits::FRAME_HEAD_BYTES;
use palisade_netio::{Class, FrameHead, Hello, Identity, RefusalCode, Target, limits as netio};
use palisade_wal::{Ballot, Boundary, Lsn};

use crate::client::wire::{self as client, Outcome, RefusedCode};
use crate::control::limits as control;
use crate::control::{
    Act, Change, LevelAsk, LevelTold, Mode, Office, Phase, Proof, RoleStep, Step, What,
};
use crate::forward::limits as forward;
use crate::forward::wire::EndReason;
use crate::kinds;
use crate::limits;
use crate::paxos::{self, Body, Config, FetchRequest, Member, Message, Promise, Want};
use crate::status::Protection;
use crate::stream::mark::Mark;
use crate::transfer::limits as transfer;
use crate::transfer::sync::SyncEnd;

const TEXT: &str = include_str!("../PROTOCOL.md");

/// The rows of every table between a line that starts with `from` and the next heading.
fn section(from: &str) -> Vec<Vec<&'static str>> {
    assert!(TEXT.lines().any(|line| line.starts_with(from)), "no line starts with {from:?}");
    let after = TEXT.lines().skip_while(|line| !line.starts_with(from)).skip(1);
    rows(after.take_while(|line| !line.starts_with('#')))
}

/// The rows of the first table after a line that starts with `from`.
fn table(from: &str) -> Vec<Vec<&'static str>> {
    assert!(TEXT.lines().any(|line| line.starts_with(from)), "no line starts with {from:?}");
    let after = TEXT.lines().skip_while(|line| !line.starts_with(from)).skip(1);
    let lines = after.skip_while(|line| !line.starts_with('|'));
    rows(lines.take_while(|line| line.starts_with('|')))
}

/// Cells of lines that are no heading and no rule.
fn rows(lines: impl Iterator<Item = &'static str>) -> Vec<Vec<&'static str>> {
    let cells = |line: &'static str| -> Vec<&'static str> {
        let line = line.trim().trim_start_matches('|').trim_end_matches('|');
        line.split('|').map(str::trim).collect()
    };
    let lines: Vec<&str> = lines.collect();
    let body = lines.iter().enumerate().filter(|(at, line)| {
        let above_rule = lines.get(at + 1).is_some_and(|next| next.starts_with("|--"));
        line.starts_with('|') && !line.starts_with("|--") && !above_rule
    });
    body.map(|(_, line)| cells(line)).collect()
}

fn number(cell: &str) -> u64 {
    let cell = cell.replace(',', "");
    let (digits, base) = match cell.strip_prefix("0x") {
        Some(hex) => (hex, 16),
        None => (cell.as_str(), 10),
    };
    u64::from_str_radix(digits, base).unwrap_or_else(|_| panic!("{cell:?} is no number"))
}

/// `ShardCount` as `shard-count`.
fn kebab(name: &str) -> String {
    let mut word = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !word.is_empty() {
            word.push('-');
        }
        word.extend(letter.to_lowercase());
    }
    word
}

#[test]
fn every_frame_kind_is_listed_once_with_its_number() {
    let listed: Vec<(&str, u64)> =
        section("## Frame kinds").iter().map(|row| (row[0], number(row[1]))).collect();
    let known: Vec<(&str, u64)> =
        kinds::ALL.iter().map(|(name, kind)| (*name, u64::from(*kind))).collect();
    assert_eq!(listed, known);
    let names: BTreeSet<&str> = listed.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.len(), listed.len(), "two kinds have one name");
}

/// Compares the fields of a table with bytes in which every field has the value that
/// `expected` says, and its length with `bytes`.
fn compare_fields(rows: &[Vec<&str>], bytes: &[u8], expected: &[u64]) {
    assert_eq!(rows.len(), expected.len());
    let mut end = 0;
    for (row, value) in rows.iter().zip(expected) {
        let (offset, len) = (number(row[0]) as usize, number(row[1]) as usize);
        assert_eq!(offset, end, "{row:?} follows the field before");
        end = offset + len;
        let mut wide = [0; 8];
        let shown = len.min(8);
        wide[..shown].copy_from_slice(&bytes[offset..offset + shown]);
        assert_eq!(u64::from_le_bytes(wide), *value, "{row:?}");
    }
    assert_eq!(end, bytes.len());
}

#[test]
fn the_head_of_a_frame_is_as_listed() {
    let prefix = [7; netio::FRAME_PREFIX_BYTES];
    let head = FrameHead::encode_bulk(0x1234, 21, 22, &prefix, 77);
    let crc = u64::from(u32::from_le_bytes(head[20..24].try_into().unwrap()));
    let (magic, prefix) = (u64::from(palisade_netio::FRAME_MAGIC), u64::from_le_bytes([7; 8]));
    let (version, unchecked) = (palisade_netio::FRAME_VERSION, palisade_netio::BODY_UNCHECKED);
    let (version, unchecked) = (u64::from(version), u64::from(unchecked));
    let expected = [magic, version, 0x1234, 512, unchecked, 77, 0, crc, 21, 22, 0, prefix];
    compare_fields(&section("## Frames"), &head, &expected);
    let crc_of = |mut head: Vec<u8>| {
        head[20..24].fill(0);
        u64::from(crc32c::crc32c(&head))
    };
    assert_eq!(crc_of(head), crc);
}

#[test]
fn a_greeting_is_as_listed() {
    let (incarnation, boot, fingerprint) = (5, 6, 12);
    let from =
        Identity { cluster: 3, node: 4, incarnation, boot, shard: 1, shards: 2, fingerprint };
    let target = Target { cluster: 8, node: 9, shard: 10 };
    let hello = Hello { stream: 11, ..Hello::new(Class::Bulk, from, target) }.encode();
    let version = u64::from(palisade_netio::PROTOCOL_VERSION);
    let expected = [version, 2, 0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 0, 11, 12];
    compare_fields(&section("## Handshake"), &hello[FRAME_HEAD_BYTES..], &expected);
    let row = section("## Handshake").into_iter().find(|row| row[2].starts_with("class"));
    let classes = row.expect("a class")[2];
    for number in 1.. {
        let Some(class) = Class::from_number(number) else {
            assert!(!classes.contains(&format!("{number} ")), "{number} is no class");
            break;
        };
        let named = format!("{number} {}", kebab(&format!("{class:?}")));
        assert!(classes.contains(&named), "{named:?} is not in {classes:?}");
    }
}

const LEVELS: [Protection; 4] =
    [Protection::Performance, Protection::Availability, Protection::Protection, Protection::Resync];
const PHASES: [Phase; 4] = [Phase::Steady, Phase::Rising, Phase::Falling, Phase::Leaving];

#[test]
fn every_state_of_the_level_is_listed() {
    let mut listed = BTreeSet::new();
    for row in table("The level follows the mode by itself") {
        for mode in row[3].split(", ") {
            let state = [row[0], row[1], row[2], mode].map(str::to_owned);
            assert!(listed.insert(state), "{row:?} twice");
        }
    }
    let (mut known, office) = (BTreeSet::new(), Office::default());
    for (phase, sync) in PHASES.into_iter().flat_map(|phase| [(phase, true), (phase, false)]) {
        let (cluster, epoch) = (2, 1);
        let mark = if sync { Mark::Sync { cluster, epoch } } else { Mark::Async { epoch } };
        for (mode, level) in LEVELS.into_iter().flat_map(|mode| LEVELS.map(|level| (mode, level))) {
            if (Mode { mode, level, phase, mark, epoch: 1, forced: 0, office }).stands() {
                let name = |level| kebab(&format!("{level:?}"));
                let mark = if sync { "SYNC" } else { "ASYNC" }.to_owned();
                let phase = kebab(&format!("{phase:?}"));
                known.insert([phase, mark, name(level), name(mode)]);
            }
        }
    }
    assert_eq!(listed, known);
}

#[test]
fn what_is_said_of_the_level_is_as_listed() {
    let (mode, level, phase) = (Protection::Availability, Protection::Resync, Phase::Falling);
    let step = Step { epoch: 7, mode, level, phase, sync: 5, forced: true };
    let change = Change { by: 3, on: 6, what: What::Mode(step) }.encode();
    let rows = table("Each step is an entry of the catalogue");
    compare_fields(&rows, &change, &[4, 0, 3, 6, 7, 2, 4, 1, 3, 5]);
    for (at, codes) in [(5, &LEVELS[..3]), (6, &LEVELS[3..])] {
        assert!(codes.iter().all(|code| rows[at][2].contains(&kebab(&format!("{code:?}")))));
    }
    for (phase, code) in PHASES.into_iter().zip([1, 2, 3, 4]) {
        assert!(rows[8][2].contains(&format!("{code} {}", kebab(&format!("{phase:?}")))));
        let step = What::Mode(Step { phase, ..step });
        assert_eq!(Change { by: 3, on: 6, what: step }.encode()[27], code);
    }

    let ballot = |round| Ballot { round, node: 1, incarnation: 1 };
    let ask = LevelAsk {
        shard: 1,
        asked_at: 3,
        heard: ballot(4),
        token: 5,
        promised: ballot(6),
        closed: 7,
        leads: 2,
        still_ns: 8,
        behind: 9,
        mark: 10,
        scn: 11,
        done: vec![12],
    };
    let values = [1, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 1, 0, 12];
    compare_fields(&table("Bodies of the two frames"), &ask.encode(), &values);
    let mark = Mark::Sync { cluster: 2, epoch: 8 };
    let (proof, sealed) = (Some(Proof::NothingCut), 2);
    let office =
        Office { role_epoch: 21, since: 6, scn: 23, holder: 24, before: 25, ..Office::default() };
    let office = Office { proof, sealed, ..office };
    let mode = Mode { mode, level, phase, mark, epoch: 9, forced: 7, office };
    let told = LevelTold { shard: 1, asked_at: 3, lease_ns: 4, ballot: ballot(5), token: 6, mode };
    let values = [1, 0, 2, 3, 4, 5, 6, 9, 7, 8, 2, 4, 3, 0, 21, 6, 23, 24, 25, 0, 2, 2, 0];
    compare_fields(&table("KIND_LEVEL_TOLD:"), &told.encode(), &values);
}

#[test]
fn a_step_of_the_role_is_as_listed() {
    let rows = table("## The role");
    let phases = [Phase::Preparing, Phase::Ending, Phase::Starting, Phase::Seizing];
    assert_eq!(rows.len(), phases.len());
    for (row, phase) in rows.iter().zip(phases) {
        assert!(row[0] == phase.as_str() && phase.is_role(), "{row:?}");
    }
    let rows = table("Each of its steps is an entry");
    let acts = [
        (Act::Prepare { target: 5 }, "prepare", [5, 0]),
        (Act::GiveUp, "give-up", [0, 0]),
        (Act::End, "end", [0, 0]),
        (Act::HandOver { scn: 9 }, "hand-over", [0, 9]),
        (Act::Resume { scn: 9 }, "resume", [0, 9]),
        (Act::Serve, "serve", [0, 0]),
        (Act::Seize, "seize", [0, 0]),
        (Act::Begin { scn: 9 }, "begin", [0, 9]),
    ];
    for (code, (act, name, [target, scn])) in (1..).zip(acts) {
        let change = Change { by: 3, on: 6, what: What::Role(RoleStep { epoch: 7, act }) };
        let bytes = change.encode();
        compare_fields(&rows, &bytes, &[5, 0, 3, 6, 7, code, 0, target, scn]);
        assert!(rows[5][2].contains(&format!("{code} {name}")), "{act:?}");
        assert_eq!(Change::decode(&bytes), Some(change));
    }
}

/// Numbers and names of a table of codes, which count from 1.
fn codes(from: &str) -> Vec<(u64, &'static str)> {
    let rows: Vec<(u64, &str)> = table(from).iter().map(|row| (number(row[0]), row[1])).collect();
    assert!(rows.iter().map(|(code, _)| *code).eq(1..=rows.len() as u64), "{rows:?}");
    rows
}

#[test]
fn every_code_is_listed_with_its_name() {
    for (code, name) in codes("Why a handshake is refused") {
        let known = RefusalCode::from_number(code as u16);
        assert_eq!((kebab(&format!("{known:?}")), known.number()), (name.into(), code as u16));
    }
    let next = codes("Why a handshake is refused").len() as u16 + 1;
    assert_eq!(RefusalCode::from_number(next), RefusalCode::Other(next), "not in the table");

    let refused = table("Why a client's request is refused");
    assert_eq!(refused.len(), RefusedCode::ALL.len());
    for (row, (at, code)) in refused.iter().zip((1..).zip(RefusedCode::ALL)) {
        assert_eq!((number(row[0]), row[1]), (at, code.as_str()));
        assert_eq!(row[2].starts_with("no"), !code.is_retryable(), "{code:?}");
    }

    for (code, name) in codes("The fate of one record") {
        assert_eq!(Outcome::from_code(code as u8).map(Outcome::as_str), Ok(name));
    }
    assert!(Outcome::from_code(codes("The fate of one record").len() as u8 + 1).is_err());

    for (code, name) in codes("What an ack was worth") {
        let level = client::level_from_code(code as u8).expect("a level");
        assert_eq!(kebab(&format!("{level:?}")), name);
    }
    let next = codes("What an ack was worth").len() as u8 + 1;
    assert!(client::level_from_code(next).is_err());

    for (code, name) in codes("Why a stream ended") {
        let reason = EndReason::from_code(code as u32, Lsn(8)).expect("a reason");
        let said = reason.to_string();
        assert_eq!((said.split(' ').next(), reason.code()), (Some(name), code as u32));
    }
    let next = codes("Why a stream ended").len() as u32 + 1;
    assert_eq!(EndReason::from_code(next, Lsn(8)), None);

    for (code, name) in codes("Why a stream is not shipped") {
        let reason = SyncEnd::from_code(code, Lsn(8)).expect("a reason");
        assert_eq!((reason.name(), reason.code()), (name, code));
    }
    let next = codes("Why a stream is not shipped").len() as u64 + 1;
    assert_eq!(SyncEnd::from_code(next, Lsn(8)), None);
}

/// One message of each kind. A new one does not compile here until it has a place.
fn messages() -> Vec<Body> {
    let ballot = Ballot { round: 2, node: 1, incarnation: 3 };
    let (upto, end) = (Lsn(64), Boundary { lsn: Lsn(128), chain: 4 });
    let member =
        Member { node: 1, incarnation: None, addr: "a:1".to_owned(), region: "r".to_owned() };
    let config = Config::first(vec![member]).expect("one member");
    let promise = Promise {
        ballot,
        accepting: ballot,
        end,
        committed: upto,
        base: Lsn(0),
        unknown: false,
        holes: vec![(Lsn(0), Lsn(64))],
        scn: 5,
        config: config.clone(),
    };
    let all = vec![
        Body::PreVote { ballot },
        Body::PreVoteReply { ballot, granted: true, promised: ballot, leader: ballot },
        Body::Prepare { ballot },
        Body::Promise(promise),
        Body::Refuse { ballot, promised: ballot, no_takeover: false },
        Body::Takeover { ballot, end, scn: 0, config },
        Body::Accepted { ballot, upto, seq: 0, low: upto, committed: upto },
        Body::Commit { ballot, upto, end: end.lsn, held: upto },
        Body::Fetch(FetchRequest { ballot, from: Lsn(0), upto, want: Want::Next }),
        Body::StepDown { ballot, successor: None, appointed: false },
    ];
    let place = |body: &Body| match body {
        Body::PreVote { .. } => 0,
        Body::PreVoteReply { .. } => 1,
        Body::Prepare { .. } => 2,
        Body::Promise(_) => 3,
        Body::Refuse { .. } => 4,
        Body::Takeover { .. } => 5,
        Body::Accepted { .. } => 6,
        Body::Commit { .. } => 7,
        Body::Fetch(_) => 8,
        Body::StepDown { .. } => 9,
    };
    assert!(all.iter().map(place).eq(0..all.len()));
    all
}

/// `Name{field, field}` of a value, from how it is shown for debugging.
fn signature(body: &Body) -> String {
    let shown = format!("{body:?}");
    let (name, rest) = shown.split_once([' ', '(']).expect("a message has fields");
    let (_, fields) = rest.split_once('{').expect("named fields");
    let (mut depth, mut names, mut word) = (0, Vec::new(), String::new());
    for letter in fields.chars() {
        match letter {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth -= 1,
            ':' if depth == 0 => names.push(std::mem::take(&mut word)),
            ',' if depth == 0 => word.clear(),
            ' ' => {}
            _ if depth == 0 => word.push(letter),
            _ => {}
        }
    }
    format!("{name}{{{}}}", names.join(", "))
}

#[test]
fn every_message_is_listed_with_its_fields() {
    let rows = section("## Messages of replicas");
    let messages = messages();
    assert_eq!(rows.len(), messages.len());
    for (row, body) in rows.iter().zip(&messages) {
        let mut bytes = Vec::new();
        Message { stream: 6, body: body.clone() }.encode_into(&mut bytes);
        assert_eq!((u64::from(bytes[0]), signature(body)), (number(row[0]), row[1].to_owned()));
        assert_eq!(bytes[1], 0);
        let body_len = bytes.len() - paxos::MESSAGE_HEAD_BYTES;
        assert_eq!(usize::from(u16::from_le_bytes([bytes[2], bytes[3]])), body_len);
        assert_eq!(bytes[4..12], 6u64.to_le_bytes());
        assert_eq!(Message::decode(&bytes).map(|(message, _)| message.body).as_ref(), Ok(body));
        bytes[0] = messages.len() as u8 + 1;
        assert!(Message::decode(&bytes).is_err(), "a message that is not in the table");
    }
}

/// Constants of modules with their names.
macro_rules! named {
    ($($home:ident: $($name:ident)*;)*) => {
        vec![$($((stringify!($name), $home::$name as u64)),*),*]
    };
}

#[test]
fn every_limit_is_listed_with_its_number() {
    let known = named! {
        netio: FRAME_HEAD_BYTES FRAME_BULK_HEAD_BYTES FRAME_BODY_MAX GREETING_BODY_MAX
            REFUSAL_TEXT_MAX;
        paxos: MESSAGE_HEAD_BYTES MESSAGE_BODY_BYTES_MAX HEARTBEAT_BYTES MEMBERS_MAX
            ADDR_BYTES_MAX REGION_BYTES_MAX;
        palisade_wal: RECORD_BYTES_MAX GROUP_BYTES_MAX;
        forward: CHUNK_BYTES_MAX CONTROL_BODY_MAX;
        transfer: ASK_STREAMS_MAX PLACES_MAX PATH_MAX SYNC_LINKS_MAX
            SYNC_CLUSTERS_MAX
            SYNC_SUBS_MAX            SYNC_REPLIES_MAX SYNC_WINDOW_BYTES;
        limits: SYNC_BACKLOG_BYTES;
        forward: CREDIT_BYTES_MAX;
        client: APPEND_RECORDS_MAX APPEND_BODY_MAX CREATE_STREAMS_MAX STREAMS_MAX LEADER_BYTES_MAX
            TEXT_BYTES_MAX;
        limits: SESSIONS_MAX SESSION_APPENDS_MAX PRODUCERS_MAX PRODUCER_SEQUENCES_MAX
            PRODUCERS_LAST_MAX PRODUCER_EXPIRY_NS;
        control: CLUSTERS_MAX NAME_BYTES_MAX ENDPOINTS_MAX ENDPOINT_BYTES_MAX TIME_MS_MIN
            TIME_MS_MAX CHANGE_BYTES_MAX LEVEL_LEASE_NS LEVEL_WAIT_NS LEVEL_RENEW_NS LEVEL_DONE_MAX
            RISE_BEHIND_MAX;
    };
    let listed: Vec<(&str, u64)> =
        table("## Limits").iter().map(|row| (row[0], number(row[1]))).collect();
    assert_eq!(listed, known);
    // What the text says in passing.
    assert!(TEXT.contains(&format!("At most {} members.", paxos::MEMBERS_MAX)));
    assert!(TEXT.contains(&format!("at most {} bytes.", paxos::MESSAGE_BODY_BYTES_MAX)));
}
