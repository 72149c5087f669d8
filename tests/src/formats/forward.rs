//! What readers, standbys and the forwarder say to each other.

use palisade::config::Role;
use palisade::control::Term;
use palisade::forward::wire::{
    Beat, ChunkHead, End, EndReason, FROM_FORWARDER, FROM_READER, Fetch, FromForwarder, FromReader,
    Status,
};
use palisade::kinds::KIND_FACTS;
use palisade::transfer::facts::{
    Facts, Path, Place, Pulse, Question, Standing, StreamFacts, Wanted,
};
use palisade_wal::Lsn;

use super::network::{mend, split};
use super::{Format, Sample};

pub(super) const ALL: &[Format] = &[
    Format { name: "from-reader", samples: asked, again: asked_again, mend, is_exact: false },
    Format { name: "from-forwarder", samples: sent, again: sent_again, mend, is_exact: false },
    // An address has more than one spelling.
    Format { name: "facts", samples: facts, again: facts_again, mend, is_exact: false },
];

fn place(node: u32) -> Place {
    let addr = format!("10.0.0.{node}:7000").parse().expect("an address");
    Place { cluster: 2, node, region: "beijing".to_owned(), addr }
}

fn asked() -> Vec<Sample> {
    let fetch = Fetch {
        stream: 7,
        from: Lsn(128),
        to: Lsn::MAX,
        follow: true,
        base: None,
        credit_bytes: 4 << 20,
    };
    let streams = vec![
        Wanted { stream: 7, across: true, has: Lsn(0x0102_0304_0508) },
        Wanted { stream: 8, across: false, has: Lsn::ZERO },
    ];
    let known = Term { epoch: 2, cluster: 1 };
    let question = Question { number: 5, from: place(3), known, streams };
    let telling = Question { streams: Vec::new(), ..question.clone() };
    let sample = |(name, said): (_, FromReader)| Sample::new(name, said.encode());
    [
        ("FETCH, to follow", FromReader::Fetch(fetch)),
        ("FETCH", FromReader::Fetch(Fetch { follow: false, to: Lsn(256), ..fetch })),
        ("FETCH, or a base", FromReader::Fetch(Fetch { base: Some(0x0C0F_FEE0), ..fetch })),
        ("CREDIT", FromReader::Credit { stream: 7, bytes: 65_536 }),
        ("STOP", FromReader::Stop { stream: 7 }),
        ("ASK", FromReader::Ask(Box::new(question))),
        ("ASK, of no stream", FromReader::Ask(Box::new(telling))),
    ]
    .map(sample)
    .to_vec()
}

fn asked_again(bytes: &[u8]) -> Option<Vec<u8>> {
    let (head, _, body) = split(bytes, &FROM_READER)?;
    Some(FromReader::parse(&head, body).ok()?.encode())
}

fn sent() -> Vec<Sample> {
    let chunk = ChunkHead {
        stream: 7,
        start: Lsn(128),
        end: Lsn(256),
        committed: Lsn(512),
        headers_crc: 0xAABB_CCDD,
        role_epoch: 2,
        body_len: 184,
        base: false,
        compressed: None,
    };
    let mut all = vec![Sample::new("CHUNK", chunk.encode())];
    // Its body is opaque here.
    all[0].bytes.resize(512 + 184, 0x5A);
    let smaller = ChunkHead { compressed: Some(90), ..chunk };
    all.push(Sample::new("CHUNK, compressed", smaller.encode()));
    all[1].bytes.resize(512 + 90, 0x5B);
    let base = ChunkHead { base: true, end: Lsn(144), ..chunk };
    let mut based = Sample::new("CHUNK of a base", base.encode());
    based.bytes.resize(512 + 184, 0x5A);
    all.push(based);
    let reasons = [
        ("END, reached", EndReason::ReachedTo),
        ("END, recycled", EndReason::Recycled { base: Lsn(64) }),
        ("END, unknown stream", EndReason::UnknownStream),
        ("END, busy", EndReason::Busy),
        ("END, shutting down", EndReason::ShuttingDown),
        ("END, damaged", EndReason::Damaged),
        ("END, stopped", EndReason::Stopped),
    ];
    for (name, reason) in reasons {
        let end = End { stream: 7, reason, committed: Lsn(512), base: Lsn(64) };
        all.push(Sample::new(name, FromForwarder::End(end).encode()));
    }
    let status = Status { stream: 7, committed: Lsn(512), base: Lsn(64) };
    all.push(Sample::new("STATUS", FromForwarder::Status(status).encode()));
    let beat = FromForwarder::Beat(Beat { number: 9, role_epoch: 2 });
    all.push(Sample::new("BEAT", beat.encode()));
    all
}

fn sent_again(bytes: &[u8]) -> Option<Vec<u8>> {
    let (head, prefix, body) = split(bytes, &FROM_FORWARDER)?;
    let rest = if prefix.is_empty() { body } else { prefix };
    let said = FromForwarder::parse(&head, rest).ok()?;
    let mut again = said.encode();
    if let FromForwarder::Chunk(chunk) = &said {
        assert!(chunk.end > chunk.start && chunk.end <= chunk.committed, "a chunk has groups");
        again.extend_from_slice(body);
    }
    Some(again)
}

fn facts() -> Vec<Sample> {
    let stream = |stream: u64, standing| StreamFacts {
        stream,
        committed: Lsn(512),
        standing,
        across: standing == Standing::Leader,
        pulse: Pulse { epoch: 1, round: 5, count: 99 },
        crosser: 3,
        sync: 2,
        path: Path::of(&[2, 1]).expect("a short path"),
    };
    let facts = Facts {
        number: 5,
        cluster: 2,
        node: 3,
        shards: 2,
        role: Role::Standby,
        region: "beijing".to_owned(),
        own: Term { epoch: 1, cluster: 1 },
        known: Term { epoch: 2, cluster: 3 },
        streams: vec![
            stream(7, Standing::Absent),
            stream(8, Standing::Follower),
            stream(9, Standing::Leader),
        ],
        places: vec![place(1), place(2)],
    };
    vec![Sample::new("FACTS", facts.encode())]
}

fn facts_again(bytes: &[u8]) -> Option<Vec<u8>> {
    let (head, _, body) = split(bytes, &FROM_FORWARDER)?;
    (head.kind == KIND_FACTS).then_some(())?;
    Some(Facts::parse(&head, body).ok()?.encode())
}
