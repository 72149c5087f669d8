//! What a replica wants done.

use palisade_wal::{Ballot, Kind, Lsn};

use super::message::{Message, Want};

/// Outputs of one turn, in order. The shard drains them before it gives the next input.
#[derive(Debug, Default)]
pub struct Effects(pub Vec<Effect>);

impl Effects {
    pub(super) fn push(&mut self, effect: Effect) {
        let last = self.0.last();
        assert!(!matches!(last, Some(Effect::Halt { .. })), "a stream that halted wants nothing");
        let again = matches!(effect, Effect::Committed { .. } | Effect::Leading { .. });
        assert!(!again || last != Some(&effect), "says the same twice");
        if let Effect::Serve { from, upto, .. }
        | Effect::Mended { from, upto }
        | Effect::Unmended { from, upto } = &effect
        {
            assert!(from < upto, "a range without bytes");
        }
        self.0.push(effect);
    }
}

/// A record for the ordered WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Named by `on_durable`; grows by one with each record of a replica since it was made.
    pub id: u64,
    /// Promise, Takeover, Config or CommitHint.
    pub kind: Kind,
    /// A position; its meaning depends on the kind.
    pub lsn: Lsn,
    /// The ballot of the record header.
    pub ballot: Ballot,
    /// The record.
    pub body: Vec<u8>,
}

/// One output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Append this to the WAL, in this turn and in this order among groups and records of the
    /// stream; call `on_durable` with its id when its block is durable.
    Log(LogRecord),
    /// Send this. May be lost, doubled and overtaken.
    Send {
        /// The node.
        to: u32,
        /// The message.
        message: Message,
    },
    /// Send the groups of `[from, upto)`, beginning with the one that holds `from`, to the
    /// `on_fetched` of the peer, as long as `may_serve` says so.
    Serve {
        /// The node that asked.
        to: u32,
        /// The ballot to send along.
        ballot: Ballot,
        /// First byte.
        from: Lsn,
        /// Where it may stop; never above the end of the log.
        upto: Lsn,
        /// To send along.
        want: Want,
    },
    /// This node leads and serves from now on.
    Leading {
        /// Its ballot.
        ballot: Ballot,
    },
    /// This node leads no more (or gave up becoming the leader). What it appended and is not
    /// committed is *unknown* until `Committed`, or `Voided` and what follows it.
    SteppedDown {
        /// The ballot that it led.
        ballot: Ballot,
        /// Why.
        reason: StepDownReason,
    },
    /// The leader of the stream is known, or is not known any more.
    Leader {
        /// Its ballot, [`Ballot::NONE`] when it is not known.
        ballot: Ballot,
    },
    /// Everything below is committed.
    Committed {
        /// Cumulative.
        upto: Lsn,
    },
    /// A Takeover logged here voided the log from here on: appends there are not in the log any
    /// more. They may still be committed elsewhere until `SettledVoid`.
    Voided {
        /// First voided byte.
        from: Lsn,
    },
    /// What `Voided` named last can never be committed: its Takeover is on a majority. Those
    /// appends may be told *failed*.
    SettledVoid {
        /// As in `Voided`.
        from: Lsn,
    },
    /// Another Takeover came before `SettledVoid`: those appends stay *unknown* for ever.
    UnsettledVoid {
        /// As in `Voided`.
        from: Lsn,
    },
    /// A range that was lost is there again.
    Mended {
        /// First byte.
        from: Lsn,
        /// First byte after it.
        upto: Lsn,
    },
    /// Every member that is heard was asked for a lost range, and none gave it. They are asked
    /// again.
    Unmended {
        /// First byte.
        from: Lsn,
        /// First byte after it.
        upto: Lsn,
    },
    /// The protocol was broken in this stream. The replica does nothing any more.
    Halt {
        /// What was found.
        reason: HaltReason,
    },
}

/// Why a leader or candidate stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepDownReason {
    /// A higher ballot was promised or taken over.
    HigherBallot,
    /// No majority was heard for the election timeout.
    NoQuorum,
    /// The disk stalls.
    DiskStalled,
    /// A part of the log was lost before it could lead.
    Damaged,
    /// Leadership was handed over.
    Transfer,
    /// A candidacy went nowhere.
    TimedOut,
    /// The stream halted.
    Halted,
}

/// What a broken protocol looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HaltReason {
    /// A takeover would void committed bytes.
    #[error("the takeover under {ballot} ends at {end}, below the committed {committed}")]
    TakeoverBelowCommitted {
        /// Its ballot.
        ballot: Ballot,
        /// Its end.
        end: Lsn,
        /// Known committed here.
        committed: Lsn,
    },
    /// The best tail of a majority ends below a position that one of them knows is committed.
    #[error("the best tail ends at {end}, below the committed {committed}")]
    TailBelowCommitted {
        /// End of the best tail.
        end: Lsn,
        /// Known committed by a member.
        committed: Lsn,
    },
    /// A takeover names other bytes than those that are committed here.
    #[error("the takeover under {ballot} does not match the committed bytes at {committed}")]
    CommittedMismatch {
        /// Its ballot.
        ballot: Ballot,
        /// Known committed here.
        committed: Lsn,
    },
}
