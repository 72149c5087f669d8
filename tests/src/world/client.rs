//! One client: what it has asked for, and what it does about the answers.

use std::collections::{BTreeMap, VecDeque};

use palisade::ErrorKind;
use palisade_netio::Nanos;

use super::history::Told;

/// How an unanswered record of a producer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Asked for by this attempt.
    Waiting(usize),
    /// To be asked for again.
    Again,
}

/// A producer's record whose acknowledgement is not there yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open {
    pub(crate) record: usize,
    pub(crate) sent: Sent,
    /// When the client gives up on the attempt.
    pub(crate) patience: Nanos,
}

/// A client of the primary cluster.
pub(crate) struct Client {
    /// Its producer id; 0 for none.
    pub(crate) producer: u64,
    /// The stream of a producer.
    pub(crate) stream: u64,
    /// The producer's next number.
    pub(crate) sequence: u64,
    /// Of a producer, in the order of their numbers.
    pub(crate) open: VecDeque<Open>,
    /// Attempts of a client without a producer id.
    pub(crate) loose: usize,
    /// Whom it thinks to lead, by stream.
    guess: BTreeMap<u64, usize>,
    /// Something that it was told is lost: it asks for nothing any more.
    pub(crate) retired: bool,
}

impl Client {
    pub(crate) fn new(producer: u64, stream: u64) -> Client {
        Client {
            producer,
            stream,
            sequence: 1,
            open: VecDeque::new(),
            loose: 0,
            guess: BTreeMap::new(),
            retired: false,
        }
    }

    pub(crate) fn guess(&self, stream: u64) -> usize {
        self.guess.get(&stream).copied().unwrap_or(0)
    }

    pub(crate) fn set_guess(&mut self, stream: u64, node: usize) {
        self.guess.insert(stream, node);
    }

    /// Records that wait for their outcome.
    pub(crate) fn outstanding(&self) -> usize {
        self.open.len() + self.loose
    }

    /// Whether everything that waits must be asked for again, in order, before anything new.
    pub(crate) fn is_broken(&self) -> bool {
        self.open.iter().any(|open| open.sent == Sent::Again)
    }

    /// Takes what an attempt was told.
    pub(crate) fn on_told(&mut self, attempt: usize, told: Told) {
        if self.producer == 0 {
            self.loose -= 1;
            return;
        }
        let is_it = |open: &Open| open.sent == Sent::Waiting(attempt);
        // An attempt that was given up, and whose record was asked for again.
        let Some(at) = self.open.iter().position(is_it) else { return };
        match told {
            Told::Acked => {
                self.open.remove(at);
            }
            _ => self.open[at].sent = Sent::Again,
        }
    }

    /// Gives up on attempts that wait too long.
    pub(crate) fn lose_patience(&mut self, now: Nanos) {
        for open in self.open.iter_mut().filter(|open| open.patience <= now) {
            open.sent = Sent::Again;
        }
    }

    /// Whether another node may know better.
    pub(crate) fn should_move(told: Told) -> bool {
        matches!(
            told,
            Told::Unknown
                | Told::Refused(
                    ErrorKind::NotLeader
                        | ErrorKind::Standby
                        | ErrorKind::UnknownStream
                        | ErrorKind::Failed
                )
        )
    }
}
