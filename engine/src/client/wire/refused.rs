//! Refusals of whole requests.

use zerocopy::FromBytes;
use zerocopy::little_endian::{U16, U64};

use super::{LEADER_BYTES_MAX, TEXT_BYTES_MAX, WireError, bounded, length, zeros};
use crate::paxos::codec::{fixed, put};

fixed! {
    /// The leader and the text follow.
    RefusedHead: 16 { code: U16, leader: U16, text: U16, reserved: [u8; 2], expected: U64 }
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusedCode {
    /// Another node leads the stream; the hint names it if it is known.
    NotLeader,
    /// The cluster is a standby and takes no appends.
    Standby,
    /// A queue is full; try again soon.
    Busy,
    /// The disk is full; it may free up.
    NoSpace,
    /// There is no such stream here.
    UnknownStream,
    /// The producer left out sequences; `expected` is the next one.
    SequenceGap,
    /// The shard's disk failed; the node is stopping.
    Poisoned,
    /// A record or request above its limit.
    TooLarge,
    /// The node is stopping.
    Shutdown,
    /// The request makes no sense to this node.
    Malformed,
    /// The named SCN is too far ahead of the node's clock.
    ScnTooFar,
    /// This node does not do that, or not yet.
    Unsupported,
    /// Nobody knows whether it was done, or a part of it: look before asking again.
    Unknown,
    /// The node that should lead is no member of the stream.
    NotMember,
    /// The node that should lead is not heard, or its disk does not count.
    NotUp,
    /// The node that should lead is the leader.
    LeadsAlready,
    /// The node that should lead lacks too much of the log; it catches up.
    Behind,
    /// It did not happen in time; the answer's text says who leads.
    TimedOut,
    /// A rule forbids it; the text starts with the rule's name.
    Forbidden,
    /// Somebody else changed the same at the same time.
    Conflict,
}

impl RefusedCode {
    /// Every code, in the order of its numbers, from 1.
    pub const ALL: [RefusedCode; 20] = [
        RefusedCode::NotLeader,
        RefusedCode::Standby,
        RefusedCode::Busy,
        RefusedCode::NoSpace,
        RefusedCode::UnknownStream,
        RefusedCode::SequenceGap,
        RefusedCode::Poisoned,
        RefusedCode::TooLarge,
        RefusedCode::Shutdown,
        RefusedCode::Malformed,
        RefusedCode::ScnTooFar,
        RefusedCode::Unsupported,
        RefusedCode::Unknown,
        RefusedCode::NotMember,
        RefusedCode::NotUp,
        RefusedCode::LeadsAlready,
        RefusedCode::Behind,
        RefusedCode::TimedOut,
        RefusedCode::Forbidden,
        RefusedCode::Conflict,
    ];

    /// As in JSON and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            RefusedCode::NotLeader => "not-leader",
            RefusedCode::Standby => "standby",
            RefusedCode::Busy => "busy",
            RefusedCode::NoSpace => "no-space",
            RefusedCode::UnknownStream => "unknown-stream",
            RefusedCode::SequenceGap => "sequence-gap",
            RefusedCode::Poisoned => "poisoned",
            RefusedCode::TooLarge => "too-large",
            RefusedCode::Shutdown => "shutdown",
            RefusedCode::Malformed => "malformed",
            RefusedCode::ScnTooFar => "scn-too-far",
            RefusedCode::Unsupported => "unsupported",
            RefusedCode::Unknown => "unknown",
            RefusedCode::NotMember => "not-member",
            RefusedCode::NotUp => "not-up",
            RefusedCode::LeadsAlready => "leads-already",
            RefusedCode::Behind => "behind",
            RefusedCode::TimedOut => "timed-out",
            RefusedCode::Forbidden => "forbidden",
            RefusedCode::Conflict => "conflict",
        }
    }

    /// Whether the same request may succeed later or at another node.
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            RefusedCode::NotLeader
                | RefusedCode::Busy
                | RefusedCode::NoSpace
                | RefusedCode::Poisoned
                | RefusedCode::Shutdown
                | RefusedCode::Behind
                | RefusedCode::Conflict
        )
    }
}

/// The body of [`KIND_REFUSED`](super::KIND_REFUSED).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {text}", code.as_str())]
pub struct Refused {
    /// Why.
    pub code: RefusedCode,
    /// With [`RefusedCode::SequenceGap`] the next sequence, otherwise 0.
    pub expected: u64,
    /// `host:port` of the leader, or with [`RefusedCode::Standby`] of a node of the primary; empty
    /// if not known.
    pub leader: String,
    /// For people.
    pub text: String,
}

impl Refused {
    /// A refusal without hint.
    pub fn new(code: RefusedCode, text: impl Into<String>) -> Refused {
        Refused { code, expected: 0, leader: String::new(), text: text.into() }
    }

    /// Whether the same request may succeed later, or at another node.
    pub fn is_retryable(&self) -> bool {
        self.code.is_retryable() || self.is_elsewhere()
    }

    /// Whether somebody else is to be asked: who leads, or the primary, which may be named.
    pub fn is_elsewhere(&self) -> bool {
        let named = self.code == RefusedCode::Standby && !self.leader.is_empty();
        self.code == RefusedCode::NotLeader || named
    }

    /// The body. A longer hint is left out, a longer text is cut, control characters become `?`.
    pub fn encode(&self) -> Vec<u8> {
        let code = RefusedCode::ALL.iter().position(|&code| code == self.code).unwrap_or(0) + 1;
        let text = self.text.replace(char::is_control, "?");
        let end = (0..=text.len().min(TEXT_BYTES_MAX)).rev().find(|&at| text.is_char_boundary(at));
        let text = &text[..end.unwrap_or(0)];
        let sound =
            self.leader.len() <= LEADER_BYTES_MAX && !self.leader.contains(char::is_control);
        let leader = if sound { self.leader.as_str() } else { "" };
        let head = RefusedHead {
            code: (code as u16).into(),
            leader: (leader.len() as u16).into(),
            text: (text.len() as u16).into(),
            reserved: [0; 2],
            expected: self.expected.into(),
        };
        let mut body = Vec::with_capacity(size_of::<RefusedHead>() + leader.len() + text.len());
        put(&mut body, &head);
        body.extend_from_slice(leader.as_bytes());
        body.extend_from_slice(text.as_bytes());
        body
    }

    /// Reads the body.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(body: &[u8]) -> Result<Refused, WireError> {
        let short = || length("refusal", body);
        let (head, rest) = RefusedHead::ref_from_prefix(body).map_err(|_| short())?;
        let number = head.code.get();
        let known = usize::from(number).checked_sub(1).and_then(|at| RefusedCode::ALL.get(at));
        let code = *known.ok_or(WireError::Code { what: "refusal", code: number })?;
        zeros("refusal", &head.reserved)?;
        let leader = bounded("refusal", head.leader.get().into(), LEADER_BYTES_MAX)?;
        let text = bounded("refusal", head.text.get().into(), TEXT_BYTES_MAX)?;
        let (leader, rest) = rest.split_at_checked(leader).ok_or_else(short)?;
        if rest.len() != text {
            return Err(short());
        }
        let (leader, text) = (plain(leader)?, plain(rest)?);
        Ok(Refused { code, expected: head.expected.get(), leader, text })
    }
}

fn plain(bytes: &[u8]) -> Result<String, WireError> {
    let text = std::str::from_utf8(bytes).ok();
    let plain = text.filter(|text| !text.chars().any(char::is_control));
    plain.map(str::to_owned).ok_or(WireError::Text("refusal"))
}
