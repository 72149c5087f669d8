//! The recovery table. Mirrors FORMAT.md, "Recovery".
//!
//! `D` is the highest `durable_upto` in any valid block. What stands at or before D was promised:
//! damage there is corruption, reported and never truncated. What stands after D was never
//! promised: the first damage there ends the log.

/// What a scan met, in the order of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A block whose head, record headers and records are whole. `linked` is false when it names
    /// another block before it than the one that was kept.
    Whole { seq: u64, linked: bool },
    /// A valid head and record headers, but some record's bytes are damaged.
    BadRecords { seq: u64 },
    /// A valid head, but the record headers are not readable.
    BadHeaders { seq: u64 },
    /// A valid block that an earlier recovery discarded.
    Void,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its records are replayed.
    Keep,
    /// Its good records are replayed, the others reported as damaged.
    KeepGood,
    /// It is reported as corrupt; the scan goes on after it.
    Corrupt,
    /// It and everything after it is dropped.
    Cut,
    /// It is passed over.
    Skip,
}

/// The decision on a block that was met where block `next` was due. `lost` blocks before it are
/// to be reported as corrupt first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Missing blocks, first and last, that were promised.
    pub(crate) lost: Option<(u64, u64)>,
    /// The block itself.
    pub(crate) verdict: Verdict,
}

/// What becomes of a block that was met where block `next` was due.
pub(crate) fn decide(seen: Seen, next: u64, durable_upto: u64) -> Decision {
    assert!(next > 0, "blocks are numbered from 1");
    let decision = look_up(seen, next, durable_upto);
    if let Some((first, last)) = decision.lost {
        assert!(first == next, "what is lost is what was due");
        assert!(first <= last && last <= durable_upto, "only what was promised is lost");
    }
    let seq = match seen {
        Seen::Void => {
            assert!(decision.verdict == Verdict::Skip, "what was discarded never comes back");
            return decision;
        }
        Seen::Whole { seq, .. } | Seen::BadRecords { seq } | Seen::BadHeaders { seq } => seq,
    };
    match decision.verdict {
        Verdict::Skip => assert!(seq < next, "what is due is not passed over"),
        Verdict::Keep => assert!(matches!(seen, Seen::Whole { linked: true, .. })),
        Verdict::Cut => assert!(seq > durable_upto, "what was promised is never cut"),
        Verdict::KeepGood | Verdict::Corrupt => {
            assert!(seq <= durable_upto, "damage after D was never promised");
        }
    }
    decision
}

/// One row of the table per arm.
fn look_up(seen: Seen, next: u64, durable_upto: u64) -> Decision {
    let only = |verdict| Decision { lost: None, verdict };
    let (seq, whole) = match seen {
        Seen::Void => return only(Verdict::Skip),
        Seen::Whole { seq, linked } => (seq, if linked { Verdict::Keep } else { Verdict::Corrupt }),
        Seen::BadRecords { seq } => (seq, Verdict::KeepGood),
        Seen::BadHeaders { seq } => (seq, Verdict::Corrupt),
    };
    if seq < next {
        return only(Verdict::Skip);
    }
    if seq > next {
        // Blocks are missing. Those up to D were promised; one after D ends the log.
        let last = (seq - 1).min(durable_upto);
        let lost = (next <= last).then_some((next, last));
        assert!(
            lost.is_none_or(|(_, last)| last <= durable_upto),
            "only what was promised is lost"
        );
        if seq - 1 > durable_upto {
            return Decision { lost, verdict: Verdict::Cut };
        }
        let verdict = after(seq, whole, durable_upto);
        return Decision { lost, verdict };
    }
    assert!(seq == next, "the block that is due");
    only(after(seq, whole, durable_upto))
}

fn after(seq: u64, verdict: Verdict, durable_upto: u64) -> Verdict {
    if verdict != Verdict::Keep && seq > durable_upto { Verdict::Cut } else { verdict }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table() {
        let whole = |seq| Seen::Whole { seq, linked: true };
        let unlinked = |seq| Seen::Whole { seq, linked: false };
        let records = |seq| Seen::BadRecords { seq };
        let headers = |seq| Seen::BadHeaders { seq };
        // seen, next, D, lost before it, verdict
        let rows = [
            (whole(5), 5, 9, None, Verdict::Keep),
            (whole(5), 5, 4, None, Verdict::Keep),
            (whole(5), 5, 0, None, Verdict::Keep),
            (unlinked(5), 5, 5, None, Verdict::Corrupt),
            (unlinked(5), 5, 4, None, Verdict::Cut),
            (records(5), 5, 5, None, Verdict::KeepGood),
            (records(5), 5, 4, None, Verdict::Cut),
            (headers(5), 5, 5, None, Verdict::Corrupt),
            (headers(5), 5, 4, None, Verdict::Cut),
            (Seen::Void, 5, 9, None, Verdict::Skip),
            (whole(4), 5, 9, None, Verdict::Skip),
            (whole(8), 5, 9, Some((5, 7)), Verdict::Keep),
            (whole(8), 5, 7, Some((5, 7)), Verdict::Keep),
            (whole(8), 5, 6, Some((5, 6)), Verdict::Cut),
            (whole(8), 5, 4, None, Verdict::Cut),
            (records(8), 5, 7, Some((5, 7)), Verdict::Cut),
            (records(8), 5, 8, Some((5, 7)), Verdict::KeepGood),
            (headers(8), 5, 8, Some((5, 7)), Verdict::Corrupt),
            (headers(8), 5, 7, Some((5, 7)), Verdict::Cut),
        ];
        for (seen, next, durable_upto, lost, verdict) in rows {
            let decision = decide(seen, next, durable_upto);
            assert_eq!(decision, Decision { lost, verdict }, "{seen:?} {next} {durable_upto}");
        }
    }
}
