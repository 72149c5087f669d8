//! Positions in a stream, and ballots: the two orders that every record carries.

/// A byte position in a stream. The same bytes stand at the same position on every replica of
/// every cluster. Always a multiple of [`Lsn::ALIGN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Groups and records start at multiples of this.
    pub const ALIGN: u64 = 8;
    /// The start of every stream.
    pub const ZERO: Lsn = Lsn(0);
    /// Positions at or above this are never given out, far before the number wraps.
    pub const MAX: Lsn = Lsn(1 << 62);

    /// The position `bytes` further on.
    ///
    /// # Panics
    /// Beyond [`Lsn::MAX`].
    #[must_use]
    pub fn advance(self, bytes: u64) -> Lsn {
        let next = self.0.checked_add(bytes).expect("an LSN does not wrap");
        assert!(next <= Lsn::MAX.0, "LSN {next} is beyond the limit");
        Lsn(next)
    }

    /// Bytes from `earlier` to here.
    ///
    /// # Panics
    /// When `earlier` is later.
    pub fn since(self, earlier: Lsn) -> u64 {
        assert!(earlier <= self, "{earlier} is after {self}");
        self.0 - earlier.0
    }
}

const _: () = assert!(Lsn::ALIGN.is_power_of_two());
const _: () = assert!(Lsn::MAX.0.is_multiple_of(Lsn::ALIGN));
const _: () = assert!(
    Lsn::MAX.0.checked_add(u32::MAX as u64).is_some(),
    "the end of a group at the limit does not wrap, whatever its length"
);

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Leadership inside a cluster (Lamport's ballot): ordered by round, then node, then incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ballot {
    /// Grows with every election.
    pub round: u64,
    /// Who asked.
    pub node: u32,
    /// Which disk of that node.
    pub incarnation: u64,
}

impl Ballot {
    /// Below every ballot that a node can ask for.
    pub const NONE: Ballot = Ballot { round: 0, node: 0, incarnation: 0 };

    /// Whether any node ever asked for it.
    pub fn is_some(self) -> bool {
        self != Ballot::NONE
    }
}

impl std::fmt::Display for Ballot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.round, self.node)
    }
}
