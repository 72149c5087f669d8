//! Bindings: a member's vote belongs to one disk, and every member gets one.
//!
//! The first Takeover binds its promise majority. Who joins later is heard, gets the log and
//! counts for nothing, until the leader binds it by a Config: one member at a time, the next one
//! when a majority has the last. From its submission on, counting is in the new config: of two
//! quorums, one in the old config and one in the new, some bound disk is in both.

use palisade_netio::Nanos;
use palisade_wal::{Ballot, Kind};

use super::effect::Effects;
use super::member::Config;
use super::message::Body;
use super::replica::{Replica, Role, Then};

impl Replica {
    /// Binds a member that has shown its disk, unless a change is under way.
    pub(super) fn bind_next(&mut self, now: Nanos, fx: &mut Effects) {
        let (room, retry_ns) = (self.has_record_room(), self.tuning.retry_ns);
        let Role::Leader(led) = &mut self.role else { return };
        let may = led.serving && led.transfer.is_none() && room;
        if !may || !led.is_agreed(self.config.seq) {
            return;
        }
        let Some(disk) = led.unbound() else { return };
        let (ballot, start, end) = (led.ballot, led.start, self.log.end().lsn);
        let scn = led.scn_floor;
        assert!(self.config.ballot == ballot, "changes members of another ballot");
        self.config = self.config.binding(disk, end);
        led.bind(disk);
        assert!(self.config.counts(disk) && self.config.at == end, "its vote counts from here on");
        led.retry_at = led.retry_at.max(now.after(retry_ns));
        let config = self.config.clone();
        self.log_config(&config, fx);
        self.send_all(&Body::Takeover { ballot, end: start, scn, config }, fx);
        self.count(fx);
    }

    /// The leader of the accepting ballot changed the members since its Takeover.
    pub(super) fn adopt(&mut self, config: &Config, fx: &mut Effects) {
        assert!(!matches!(self.role, Role::Leader(_)), "a leader makes the changes");
        if config.ballot == self.log.accepting()
            && config.extends(&self.config)
            && self.has_record_room()
        {
            self.config = config.clone();
            assert!(self.config.version() > self.config_durable, "an older one is logged again");
            self.log_config(config, fx);
        }
    }

    fn log_config(&mut self, config: &Config, fx: &mut Effects) {
        let (ballot, seq) = config.version();
        assert!(ballot == self.log.accepting(), "members of another ballot than the log's");
        assert!(self.config.version() == (ballot, seq), "logs members in which nobody counts");
        let (end, then) = (self.log.end().lsn, Then::Configured(ballot, seq));
        let mut body = Vec::new();
        config.encode_into(&mut body);
        self.log_record(Kind::Config, end, ballot, body, then, fx);
    }

    pub(super) fn on_config_durable(
        &mut self,
        ballot: Ballot,
        seq: u64,
        now: Nanos,
        fx: &mut Effects,
    ) {
        self.config_durable = self.config_durable.max((ballot, seq));
        assert!(self.config_durable <= self.config.version(), "the disk is ahead of the memory");
        if ballot != self.log.accepting() {
            return;
        }
        assert!(self.durable.0 == ballot, "its Takeover is durable before it");
        self.accepted_due = true;
        self.on_own_progress(now, fx);
    }

    /// Number of the newest config of `ballot` that is durable here.
    pub(super) fn durable_seq(&self, ballot: Ballot) -> u64 {
        assert!(self.config_durable <= self.config.version(), "the disk is ahead of the memory");
        if self.config_durable.0 == ballot { self.config_durable.1 } else { 0 }
    }
}
