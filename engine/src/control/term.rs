//! Terms of the primary's role: who holds it, as somebody knows it. A switchover leaves one holder,
//! but a failover elsewhere may be unknown to the primary before it. On contact, of two clusters
//! that hold the role the one with the lower term is *fenced*: it takes nothing more, until its
//! own committed registry says what became of the role.

use zerocopy::little_endian::{U32, U64};

use super::mode::{Mode, Phase};
use crate::paxos::DecodeError;
use crate::paxos::codec::{exact, fixed, put};
use crate::seeded::is_seeded;

fixed! {
    /// Both zero where nobody is known.
    RawTerm: 12 { epoch: U64, cluster: U32 }
}

/// The epoch of the role goes first; of two that took one epoch while they could not reach each
/// other, the one with the higher id has the higher term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term {
    /// Generation of the role; 0 when nothing is known.
    pub epoch: u64,
    /// Who holds it; 0 when nobody is known.
    pub cluster: u32,
}

impl Term {
    /// Nobody is known.
    pub const NONE: Term = Term { epoch: 0, cluster: 0 };

    /// What a registry says; `first` is this cluster's id if it was formatted as a primary. Who
    /// takes the role is nobody yet: it may find that it lacks something, and then it is not to
    /// have ended the one who has it.
    pub fn of(mode: &Mode, first: Option<u32>) -> Term {
        if mode.phase == Phase::Seizing {
            return Term::NONE;
        }
        let office = &mode.office;
        let holder = Some(office.holder).filter(|holder| *holder != 0).or(first);
        holder.map_or(Term::NONE, |cluster| Term { epoch: office.role_epoch, cluster })
    }

    /// Whether it ends another one. What was never handed over ends nothing: two clusters that
    /// were formatted as primaries have nothing to do with each other.
    pub fn outranks(self, other: Term) -> bool {
        self.epoch > 1 && self > other
    }

    /// The encoding.
    pub fn encode_into(self, out: &mut Vec<u8>) {
        put(out, &RawTerm::from(self));
    }

    /// The encoding.
    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    /// Reads exactly one encoding.
    ///
    /// # Errors
    /// Bytes that are none.
    pub fn decode(bytes: &[u8]) -> Result<Term, DecodeError> {
        Term::read(exact(bytes)?)
    }

    pub(crate) fn read(raw: &RawTerm) -> Result<Term, DecodeError> {
        let term = Term { epoch: raw.epoch.get(), cluster: raw.cluster.get() };
        match (term.epoch == 0) == (term.cluster == 0) {
            true => Ok(term),
            false => Err(DecodeError::Inconsistent),
        }
    }
}

impl From<Term> for RawTerm {
    fn from(term: Term) -> RawTerm {
        RawTerm { epoch: term.epoch.into(), cluster: term.cluster.into() }
    }
}

/// The term that fences cluster `me`, which knows of `own` by its registry and has `heard` of
/// another one. A standby is never fenced, and nobody by a term of its own: what its registry does
/// not say yet it is about to learn.
pub fn fence(own: Term, me: u32, heard: Term) -> Option<Term> {
    let is_primary = own.cluster == me && me != 0;
    let fenced = is_primary && heard.cluster != me && heard.outranks(own);
    (fenced && !is_seeded("old_primary_not_fenced")).then_some(heard)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Office;

    fn term(epoch: u64, cluster: u32) -> Term {
        Term { epoch, cluster }
    }

    #[test]
    fn terms_go_by_epoch_and_then_by_cluster() {
        assert!(term(3, 1) > term(2, 9) && term(2, 9) > term(2, 1) && term(1, 1) > Term::NONE);
        assert!(term(2, 9).outranks(term(2, 1)) && !term(2, 1).outranks(term(2, 9)));
        assert!(!term(2, 1).outranks(term(2, 1)), "it is the same one");
        assert!(!term(1, 9).outranks(term(1, 1)), "nobody handed anything over");
        assert!(!term(1, 9).outranks(Term::NONE) && term(2, 1).outranks(Term::NONE));
    }

    #[test]
    fn a_term_is_what_the_registry_says_and_before_that_the_format() {
        let office = |role_epoch, holder| Office { role_epoch, holder, ..Office::default() };
        let of = |phase, office| Mode { phase, office, ..Mode::default() };
        let (first, handed) = (Mode::default(), of(Phase::Steady, office(4, 7)));
        assert_eq!(Term::of(&first, Some(5)), term(1, 5));
        assert_eq!(Term::of(&first, None), Term::NONE);
        for formatted in [None, Some(5)] {
            assert_eq!(Term::of(&handed, formatted), term(4, 7));
            let takes = of(Phase::Seizing, office(4, 7));
            assert_eq!(Term::of(&takes, formatted), Term::NONE, "it may stop");
        }
    }

    #[test]
    fn a_primary_that_is_outranked_is_fenced() {
        assert_eq!(fence(term(1, 1), 1, term(2, 2)), Some(term(2, 2)));
        assert_eq!(fence(term(2, 1), 1, term(2, 3)), Some(term(2, 3)), "both failed over");
        assert_eq!(fence(term(2, 3), 3, term(2, 1)), None);
        assert_eq!(fence(term(3, 1), 1, term(2, 2)), None, "it took the role back");
        assert_eq!(fence(term(1, 1), 1, Term::NONE), None);
    }

    #[test]
    fn nobody_else_is() {
        // A standby, whatever it has heard; one that knows of no primary at all.
        assert_eq!(fence(term(1, 1), 2, term(2, 2)), None);
        assert_eq!(fence(term(1, 1), 2, term(9, 3)), None);
        assert_eq!(fence(Term::NONE, 2, term(9, 3)), None);
        // Its own next term, of which other nodes of it know: a role that was taken back.
        assert_eq!(fence(term(1, 1), 1, term(3, 1)), None);
        // The target of a switchover, before and after its own registry says so.
        assert_eq!(fence(term(1, 1), 2, term(2, 2)), None);
        assert_eq!(fence(term(2, 2), 2, term(2, 2)), None);
    }

    /// Whatever is heard in whatever order, the highest stays, and with it the fence: only what
    /// the own registry says, or a later term of its own, ends it.
    #[test]
    fn who_is_outranked_stays_so() {
        let heard: Vec<Term> =
            (0..=3).flat_map(|epoch| (1..=3).map(move |cluster| term(epoch, cluster))).collect();
        for own in [term(1, 1), term(2, 1)] {
            for first in heard.iter().filter(|first| fence(own, 1, **first).is_some()) {
                for next in &heard {
                    let known = (*first).max(*next);
                    let own_term = known.cluster == 1;
                    assert_eq!(fence(own, 1, known).is_some(), !own_term, "{first:?} {next:?}");
                }
            }
        }
    }

    #[test]
    fn a_term_reads_back_and_what_is_none_is_refused() {
        for one in [Term::NONE, term(2, 7), term(u64::MAX, u32::MAX)] {
            assert_eq!(Term::decode(&one.encode()), Ok(one));
        }
        for wrong in [term(0, 7), term(2, 0)] {
            assert_eq!(Term::decode(&wrong.encode()), Err(DecodeError::Inconsistent));
        }
        assert!(Term::decode(&term(2, 7).encode()[1..]).is_err());
    }
}
