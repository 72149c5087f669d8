//! Who owns an operation: the upper bits of its token.

use palisade_netio::{Token, TokenBase};

pub(crate) const OWNER_WAL: u8 = 1;
pub(crate) const OWNER_IDENTITY: u8 = 2;
pub(crate) const OWNER_LISTENER: u8 = 3;
pub(crate) const OWNER_CONN: u8 = 4;
pub(crate) const OWNER_READ: u8 = 5;
pub(crate) const OWNER_ONCE: u8 = 6;

const OWNER_SHIFT: u32 = 56;

/// A base for a part that numbers its operations with 16 bits.
pub(crate) fn owner_base(owner: u8, index: u64) -> TokenBase {
    assert!(index < 1 << (OWNER_SHIFT - TokenBase::OWN_BITS));
    TokenBase::new((u64::from(owner) << OWNER_SHIFT) | (index << TokenBase::OWN_BITS))
}

/// A token of a part that numbers its operations with 32 bits.
pub(crate) fn local_token(owner: u8, local: u32) -> Token {
    Token((u64::from(owner) << OWNER_SHIFT) | u64::from(local))
}

/// Who owns the operation.
pub(crate) fn owner_of(token: Token) -> u8 {
    (token.0 >> OWNER_SHIFT) as u8
}

/// The number that [`local_token`] was made of.
pub(crate) fn local_of(token: Token) -> u32 {
    token.0 as u32
}
