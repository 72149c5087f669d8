//! How a replica comes up.

use std::collections::VecDeque;

use palisade_netio::Nanos;
use palisade_wal::{Ballot, Lsn, StreamLog};

use super::effect::Effects;
use super::member::{Config, Me};
use super::replica::{Replica, Role};
use super::tuning::Tuning;

/// What an idle stream may take in memory, without the texts of its members.
const REPLICA_BYTES_MAX: usize = 1024;

const _: () = assert!(size_of::<Replica>() <= REPLICA_BYTES_MAX);

impl Replica {
    /// A replica that was never on this node before. `seed` makes its random delays.
    pub fn new(stream: u64, me: Me, config: Config, tuning: Tuning, seed: u64) -> Replica {
        let mut new =
            Replica::recovered(stream, me, config, StreamLog::default(), tuning, seed, Nanos(0));
        assert!(!new.log.promised().is_some(), "it promised nothing that a lease would protect");
        assert!(new.log.end() == new.log.base(), "it has nothing");
        new.lease_until = Nanos(0);
        new.reason = "new";
        new
    }

    /// A replica after a restart: `log` and `config` are what [`replay`](super::replay) made of
    /// the WAL, all of it durable. Nothing is promised to others before `now` + one lease.
    pub fn recovered(
        stream: u64,
        me: Me,
        config: Config,
        log: StreamLog,
        tuning: Tuning,
        seed: u64,
        now: Nanos,
    ) -> Replica {
        assert!(config.check().is_ok(), "members that cannot be encoded or counted");
        assert!(tuning.check().is_ok(), "a timer or window out of its bounds");
        let round_seen = log.promised().round.max(config.ballot.round);
        let config_durable = config.version();
        let recovered = Replica {
            stream,
            me,
            config,
            jitter: seed,
            role: Role::Follower,
            leader: Ballot::NONE,
            lease_until: now.after(tuning.election_ns),
            election_at: None,
            round_seen,
            up: Vec::new(),
            records: VecDeque::new(),
            next_record: 1,
            promise_durable: log.promised(),
            durable: (log.accepting(), log.end().lsn),
            config_durable,
            pending: None,
            fetch: None,
            repair: None,
            mending: None,
            storing: None,
            void: None,
            accepted_due: false,
            leader_commit: Lsn::ZERO,
            leader_end: Lsn::ZERO,
            hinted: log.committed().lsn,
            low: log.committed().lsn,
            held: Lsn::ZERO,
            disk_stalled: false,
            appointed: false,
            damaged: None,
            floor: 0,
            halted: None,
            reason: "restarted",
            log,
            tuning,
        };
        recovered.assert_invariants();
        recovered
    }

    /// Begins: a single member makes itself the leader, others wait for one.
    pub fn start(&mut self, now: Nanos, fx: &mut Effects) {
        assert!(matches!(self.role, Role::Follower), "started twice");
        assert!(self.records.is_empty() && self.next_record == 1, "asked for a record before");
        assert!(!self.leader.is_some() && self.election_at.is_none());
        if self.config.is_quorum([self.me.key()]) {
            self.lease_until = now;
            self.campaign(now, fx);
        } else {
            self.schedule_election(self.lease_until.max(now), 0);
        }
        self.mend_soon(now, fx);
        self.assert_invariants();
    }
}
