//! The bodies that a client and a node exchange.

use palisade::Protection;
use palisade::client::wire::{
    Append, AppendBuilder, AppendRecord, AppendedRecord, Outcome, Refused, RefusedCode,
    StreamEntry, encode_appended, encode_create_streams, encode_created, encode_position,
    encode_streams, encode_transfer, encode_transferred, parse_appended, parse_create_streams,
    parse_created, parse_position, parse_streams, parse_transfer, parse_transferred,
};
use palisade_wal::Lsn;

use super::{Format, Sample, leave};

const fn exact(
    name: &'static str,
    samples: fn() -> Vec<Sample>,
    again: fn(&[u8]) -> Option<Vec<u8>>,
) -> Format {
    Format { name, samples, again, mend: leave, is_exact: true }
}

pub(super) const ALL: &[Format] = &[
    exact("append", appends, append_again),
    exact("appended", appendeds, |body| Some(encode_appended(&parse_appended(body).ok()?))),
    exact("refused", refusals, |body| Some(Refused::parse(body).ok()?.encode())),
    exact(
        "create-streams",
        || vec![Sample::new("three streams", encode_create_streams(3))],
        |body| Some(encode_create_streams(parse_create_streams(body).ok()?)),
    ),
    exact(
        "created",
        || vec![Sample::new("two streams", encode_created(&[2, 3]))],
        |body| Some(encode_created(&parse_created(body).ok()?)),
    ),
    exact("streams", lists, |body| Some(encode_streams(&parse_streams(body).ok()?))),
    exact(
        "transfer",
        || vec![Sample::new("to node 3", encode_transfer(3))],
        |body| Some(encode_transfer(parse_transfer(body).ok()?)),
    ),
    exact(
        "transferred",
        || vec![Sample::new("to node 3 in round 9", encode_transferred(3, 9))],
        |body| parse_transferred(body).ok().map(|(node, round)| encode_transferred(node, round)),
    ),
    exact(
        "position",
        || vec![Sample::new("a position", encode_position(Lsn(128)))],
        |body| Some(encode_position(parse_position(body).ok()?)),
    ),
];

fn appends() -> Vec<Sample> {
    let mut builder = AppendBuilder::default();
    let known =
        AppendRecord { producer: 7, sequence: 1, scn_floor: 1_000, payload: b"debit 5, account 3" };
    builder.push(&known);
    builder.push(&AppendRecord { payload: b"from nobody", ..AppendRecord::default() });
    builder.push(&AppendRecord::default());
    vec![
        Sample::new("three records", builder.finish()),
        Sample::new("no record", AppendBuilder::default().finish()),
    ]
}

fn append_again(body: &[u8]) -> Option<Vec<u8>> {
    let append = Append::parse(body).ok()?;
    let mut builder = AppendBuilder::default();
    for record in append.records() {
        assert!(builder.fits(&record), "what was read fits");
        builder.push(&record);
    }
    assert_eq!(builder.count(), append.count());
    Some(builder.finish())
}

fn appendeds() -> Vec<Sample> {
    let level = Protection::Availability;
    let acked =
        AppendedRecord { outcome: Outcome::Acked, level, lsn: 96, end_lsn: 128, scn: 1_000 };
    let resync = AppendedRecord { level: Protection::Resync, ..acked };
    let protection = AppendedRecord { level: Protection::Protection, ..acked };
    let others = [Outcome::Failed, Outcome::Unknown].map(AppendedRecord::placeless);
    let all = [acked, resync, protection, others[0], others[1]];
    vec![Sample::new("every fate and level", encode_appended(&all))]
}

fn refusals() -> Vec<Sample> {
    let refused = |code| Refused {
        code,
        expected: 12,
        leader: "127.0.0.1:7001".to_owned(),
        text: "é".to_owned(),
    };
    let sample = |code: RefusedCode| Sample::new(code.as_str(), refused(code).encode());
    RefusedCode::ALL.into_iter().map(sample).collect()
}

fn lists() -> Vec<Sample> {
    let led = StreamEntry { id: 2, leader: 1, base_lsn: 64, committed_lsn: 800 };
    let lone = StreamEntry { id: 3, leader: 0, base_lsn: 0, committed_lsn: 0 };
    vec![Sample::new("two streams", encode_streams(&[led, lone]))]
}
