//! Tokens of one owner among many on a ring.

use crate::op::Token;

/// The part of a [`Token`] that names an owner: the upper 48 bits. The lower 16 are the owner's
/// own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenBase(u64);

impl TokenBase {
    /// Bits that the owner numbers its operations with.
    pub const OWN_BITS: u32 = 16;

    /// A base.
    ///
    /// # Panics
    /// When the low 16 bits are not zero.
    pub const fn new(base: u64) -> TokenBase {
        assert!(base & 0xffff == 0, "the low 16 bits of a token base are the owner's");
        TokenBase(base)
    }

    /// The token with these low bits.
    pub const fn token(self, own: u16) -> Token {
        Token(self.0 | own as u64)
    }

    /// Whether `token` belongs to this owner.
    pub const fn owns(self, token: Token) -> bool {
        token.0 & !0xffff == self.0
    }

    /// The low bits of a token.
    pub const fn own(token: Token) -> u16 {
        token.0 as u16
    }
}
