//! How it works: an input is a sample and a few changes of its bytes. Places are fractions of the
//! length, so that a change fits every sample; numbers are mostly those at which code breaks.

use proptest::prelude::*;

/// One change of bytes.
#[derive(Clone, Debug)]
pub enum Change {
    /// One bit is turned over.
    Flip { at: u16, bit: u8 },
    /// A byte.
    Byte { at: u16, value: u8 },
    /// Two, four or eight bytes, aligned as fields mostly are.
    Number { at: u16, bytes: u8, value: u64 },
    /// What follows is gone.
    Cut { at: u16 },
    /// Bytes stand in between.
    Insert { at: u16, bytes: Vec<u8> },
    /// A part is there twice, or in another place.
    Copy { from: u16, to: u16, len: u16 },
    /// Zeros.
    Zero { at: u16, len: u16 },
}

/// Numbers at which code breaks.
fn numbers() -> impl Strategy<Value = u64> {
    let edges = [0, 7, 8, 16, 31, 32, 61, 62, 63];
    prop_oneof![
        (proptest::sample::select(edges.to_vec()), -2i64..3)
            .prop_map(|(power, by)| { (1u64 << power).wrapping_add_signed(by) }),
        Just(u64::MAX),
        Just(u64::MAX - 1),
        0u64..5000,
        any::<u64>(),
    ]
}

/// One change.
pub fn change() -> impl Strategy<Value = Change> {
    let at = any::<u16>;
    prop_oneof![
        3 => (at(), 0u8..8).prop_map(|(at, bit)| Change::Flip { at, bit }),
        2 => (at(), any::<u8>()).prop_map(|(at, value)| Change::Byte { at, value }),
        5 => (at(), 1u8..4, numbers())
            .prop_map(|(at, bytes, value)| Change::Number { at, bytes: 1 << bytes, value }),
        1 => at().prop_map(|at| Change::Cut { at }),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..40))
            .prop_map(|(at, bytes)| Change::Insert { at, bytes }),
        1 => (at(), at(), 1u16..600).prop_map(|(from, to, len)| Change::Copy { from, to, len }),
        1 => (at(), 1u16..600).prop_map(|(at, len)| Change::Zero { at, len }),
    ]
}

/// Up to a few changes; none at all, too.
pub fn changes() -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec(change(), 0..5)
}

/// The place of a fraction, in a multiple of `step`.
fn place(at: u16, len: usize, step: usize) -> usize {
    let place = usize::from(at) * len / (usize::from(u16::MAX) + 1);
    place / step * step
}

impl Change {
    /// Changes bytes; `keep_len`, if their length is to stay.
    pub fn apply(&self, bytes: &mut Vec<u8>, keep_len: bool) {
        let len = bytes.len();
        if len == 0 {
            return;
        }
        match self {
            Change::Flip { at, bit } => bytes[place(*at, len, 1)] ^= 1 << bit,
            Change::Byte { at, value } => bytes[place(*at, len, 1)] = *value,
            Change::Number { at, bytes: count, value } => {
                let count = usize::from(*count);
                let at = place(*at, len, count);
                let end = (at + count).min(len);
                bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
            }
            Change::Cut { at } => {
                let at = place(*at, len, 1);
                bytes.truncate(at);
                if keep_len {
                    bytes.resize(len, 0);
                }
            }
            Change::Insert { at, bytes: new } => {
                let at = place(*at, len, 1);
                bytes.splice(at..at, new.iter().copied());
                if keep_len {
                    bytes.truncate(len);
                }
            }
            Change::Copy { from, to, len: count } => {
                let (from, to) = (place(*from, len, 8), place(*to, len, 8));
                let count = usize::from(*count).min(len - from).min(len - to);
                bytes.copy_within(from..from + count, to);
            }
            Change::Zero { at, len: count } => {
                let at = place(*at, len, 1);
                let end = (at + usize::from(*count)).min(len);
                bytes[at..end].fill(0);
            }
        }
    }
}
