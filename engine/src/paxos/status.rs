//! A replica, for display.

use palisade_wal::{Ballot, Lsn};

use super::effect::HaltReason;
use super::member::Config;
use super::replica::{Replica, Role};

/// What a replica does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleName {
    /// Follows a leader, or waits for one.
    Follower,
    /// Gets the log, but its votes do not count.
    Learner,
    /// Asks whether it would be elected.
    PreCandidate,
    /// Asks for promises.
    Candidate,
    /// Fetches what its log lacks.
    Fetching,
    /// Its Takeover is on its way to a majority.
    Reconfirming,
    /// Leads and serves.
    Leader,
    /// Stopped for good.
    Halted,
}

/// A replica, for display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The stream.
    pub stream: u64,
    /// What it does.
    pub role: RoleName,
    /// Ballot of the leader it knows, or its own.
    pub leader: Ballot,
    /// Highest ballot promised.
    pub promised: Ballot,
    /// Ballot of the last Takeover.
    pub accepting: Ballot,
    /// The members.
    pub config: Config,
    /// Members that are heard, this one included.
    pub up: usize,
    /// Where the log begins here.
    pub base: Lsn,
    /// Known committed.
    pub committed: Lsn,
    /// Durable here under the accepting ballot.
    pub durable: Lsn,
    /// End of the log.
    pub end: Lsn,
    /// What was found broken.
    pub halted: Option<HaltReason>,
    /// Why it is in this role, in words.
    pub reason: &'static str,
}

impl Replica {
    /// What was found broken, if anything was.
    pub fn halted(&self) -> Option<HaltReason> {
        self.halted
    }

    /// The first position of the log that this disk does not give back, if there is one.
    pub fn damaged(&self) -> Option<Lsn> {
        self.damaged
    }

    /// Up to where the log is durable here under its accepting ballot.
    pub fn durable(&self) -> Lsn {
        let (ballot, upto) = self.durable;
        assert!(ballot <= self.log.accepting(), "durable under a ballot that is not accepted");
        if ballot == self.log.accepting() { upto } else { Lsn::ZERO }
    }

    /// The highest promise whose record is known to be durable.
    pub fn durable_promise(&self) -> Ballot {
        self.promise_durable
    }

    /// Whether it fetches bytes that its log lacks.
    pub fn is_fetching(&self) -> bool {
        self.fetch.is_some()
    }

    /// The members on whose promises this candidate counts, itself among them once its own is
    /// durable.
    pub fn promisers(&self) -> impl Iterator<Item = (u32, Ballot)> {
        let promises = match &self.role {
            Role::Candidate(candidacy) => {
                assert!(candidacy.promises.iter().all(|(_, p)| p.ballot == candidacy.ballot));
                &candidacy.promises[..]
            }
            _ => &[],
        };
        let known = promises.iter().filter(|(_, promise)| !promise.unknown);
        known.map(|(key, promise)| (key.node, promise.ballot))
    }

    /// The ballot under which this replica leads and serves now.
    pub fn serving(&self) -> Option<Ballot> {
        match &self.role {
            Role::Leader(led) if led.serving => {
                assert!(led.ballot == self.log.accepting() && led.ballot == self.leader);
                Some(led.ballot)
            }
            _ => None,
        }
    }

    /// For display.
    pub fn status(&self) -> Status {
        let role = match &self.role {
            _ if self.halted.is_some() => RoleName::Halted,
            Role::Follower if !self.config.counts(self.me.key()) => RoleName::Learner,
            Role::Follower => RoleName::Follower,
            Role::PreCandidate(_) => RoleName::PreCandidate,
            Role::Candidate(candidacy) if candidacy.chosen => RoleName::Fetching,
            Role::Candidate(_) => RoleName::Candidate,
            Role::Leader(led) if led.serving => RoleName::Leader,
            Role::Leader(_) => RoleName::Reconfirming,
        };
        let durable = self.durable();
        assert!(durable <= self.log.end().lsn, "durable beyond the end");
        assert!(self.up.len() <= self.config.members.len(), "hears more than there are");
        assert!(self.halted.is_none() || role == RoleName::Halted);
        Status {
            stream: self.stream,
            role,
            leader: self.leader,
            promised: self.log.promised(),
            accepting: self.log.accepting(),
            config: self.config.clone(),
            up: self.up.len() + 1,
            base: self.log.base().lsn,
            committed: self.log.committed().lsn,
            durable,
            end: self.log.end().lsn,
            halted: self.halted,
            reason: self.reason,
        }
    }
}
