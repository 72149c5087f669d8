//! Frames and greetings.

use palisade::forward::wire::FEATURE_LZ4;
use palisade_netio::limits::FRAME_HEAD_BYTES;
use palisade_netio::{
    BODY_UNCHECKED, Class, FrameHead, FrameLimits, Hello, Identity, KIND_HELLO, KIND_REFUSAL,
    KIND_WELCOME, Refusal, RefusalCode, Target, Welcome,
};

use super::{Format, Sample};

pub(super) const ALL: &[Format] = &[
    Format { name: "frame", samples: frames, again: frame_again, mend, is_exact: true },
    // The text of a refusal is made fit for a terminal.
    Format { name: "handshake", samples: greetings, again: greet_again, mend, is_exact: false },
];

/// Sets both checksums of a frame: as far as its lengths are right.
pub(super) fn mend(frame: &mut [u8]) {
    if frame.len() < FRAME_HEAD_BYTES {
        return;
    }
    let field =
        |frame: &[u8], at: usize| usize::from(u16::from_le_bytes([frame[at], frame[at + 1]]));
    let head_len = field(frame, 8);
    if head_len < FRAME_HEAD_BYTES || head_len > frame.len() {
        return;
    }
    let unchecked = field(frame, 10) & usize::from(BODY_UNCHECKED) != 0;
    let body_crc = if unchecked { 0 } else { crc32c::crc32c(&frame[head_len..]) };
    frame[16..20].copy_from_slice(&body_crc.to_le_bytes());
    frame[20..24].fill(0);
    let crc = crc32c::crc32c(&frame[..head_len]);
    frame[20..24].copy_from_slice(&crc.to_le_bytes());
}

/// Head, prefix of a bulk frame, and body of whole bytes that are a frame within these limits.
pub(super) fn split<'a>(
    bytes: &'a [u8],
    limits: &FrameLimits,
) -> Option<(FrameHead, &'a [u8], &'a [u8])> {
    let head = FrameHead::parse(bytes, limits).ok()?;
    assert!(head.body_len <= limits.body_bytes_max, "the limit is kept");
    if bytes.len() != head.frame_len() {
        return None;
    }
    let (top, body) = bytes.split_at(usize::from(head.head_len));
    head.check_body(body).ok()?;
    Some((head, &top[FRAME_HEAD_BYTES..], body))
}

fn frames() -> Vec<Sample> {
    let bulk = |prefix: &[u8], body: &[u8]| {
        let mut frame = FrameHead::encode_bulk(67, 7, 8, prefix, body.len());
        frame.extend_from_slice(body);
        frame
    };
    let mut unchecked = FrameHead::encode_head(18, 3, 4, 5, None);
    unchecked.extend_from_slice(b"hello");
    vec![
        Sample::new("plain", FrameHead::encode(17, 1, 2, b"body")),
        Sample::new("plain without a body", FrameHead::encode(66, 5, 0, b"")),
        Sample::new("plain, its body unchecked", unchecked),
        Sample::new("bulk", bulk(&[9; 40], b"records")),
    ]
}

fn frame_again(bytes: &[u8]) -> Option<Vec<u8>> {
    let (head, prefix, body) = split(bytes, &FrameLimits::ANY)?;
    let (kind, tag, tag2) = (head.kind, head.tag, head.tag2);
    let mut again = match (prefix.is_empty(), head.flags & BODY_UNCHECKED != 0) {
        (false, true) => FrameHead::encode_bulk(kind, tag, tag2, prefix, body.len()),
        // The writer checksums no body behind a long head, but a reader takes one.
        (false, false) => return Some(bytes.to_vec()),
        (true, false) => return Some(FrameHead::encode(kind, tag, tag2, body)),
        (true, true) => FrameHead::encode_head(kind, tag, tag2, body.len(), None),
    };
    again.extend_from_slice(body);
    Some(again)
}

fn greetings() -> Vec<Sample> {
    let from = Identity {
        cluster: 3,
        node: 4,
        incarnation: 5,
        boot: 6,
        shard: 1,
        shards: 2,
        fingerprint: 7,
    };
    let target = Target { cluster: 8, node: 9, shard: 10 };
    let hello = |class| Hello { stream: 11, ..Hello::new(class, from, target) }.encode();
    let refusal = Refusal::new(RefusalCode::ShardCount, "shard count 2, expected 4").encode();
    vec![
        Sample::new("hello for control", hello(Class::Control)),
        Sample::new("hello for bulk", hello(Class::Bulk)),
        Sample::new("hello of a client", hello(Class::Client)),
        Sample::new("hello of a reader", hello(Class::Reader)),
        Sample::new("hello of a reader of LZ4", {
            let reader = Hello::new(Class::Reader, from, target);
            Hello { features: FEATURE_LZ4, ..reader }.encode()
        }),
        Sample::new("welcome", Welcome::new(from).encode()),
        Sample::new("refusal", refusal),
        Sample::new("refusal of the user's", Refusal::new(RefusalCode::Other(256), "é").encode()),
    ]
}

fn greet_again(bytes: &[u8]) -> Option<Vec<u8>> {
    let (head, _, body) = split(bytes, &FrameLimits::GREETING)?;
    match head.kind {
        KIND_HELLO => Some(Hello::parse(body).ok()?.encode()),
        KIND_WELCOME => Some(Welcome::parse(body).ok()?.encode()),
        KIND_REFUSAL => Some(Refusal::parse(body)?.encode()),
        _ => None,
    }
}
