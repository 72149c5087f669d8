//! A failover, where the catalogue of a standby is led: its entry is put behind everything that
//! came from the primary. Committed, it makes this cluster the primary as a hand-over would
//! (`control/role.rs`); every stream is fenced then, and begins anew.

use bytes::Bytes;
use palisade_netio::Ring;
use palisade_wal::GroupKind;

use crate::config::Role;
use crate::control::{Act, Change, Controlled, What, decide_failover};
use crate::error::{Error, ErrorKind};
use crate::shard::Shard;
use crate::shard::control::Asker;
use crate::shard::stream::{Pending, Reply, StreamState};
use crate::stream::catalogue::CATALOGUE_STREAM;
use crate::stream::mark::Mark;

impl<R: Ring> Shard<R> {
    /// An operator wants this cluster to take the role of the primary.
    pub(crate) fn fail_over(&mut self, allow_loss: bool, dry_run: bool, asker: Asker) {
        let change = match self.check_failover(allow_loss) {
            Err(error) => return self.tell_controlled(asker, Err(error)),
            Ok(_) if dry_run => {
                let would = Controlled { version: self.registry.version(), changed: true };
                return self.tell_controlled(asker, Ok(would));
            }
            Ok(change) => change,
        };
        self.stop_import(CATALOGUE_STREAM);
        if let Err(error) = self.check_settled() {
            self.start_import(CATALOGUE_STREAM);
            return self.tell_controlled(asker, Err(error));
        }
        let ticket = self.new_ticket(asker);
        let (producer, sequence, scn_floor) = (0, 0, 0);
        let (payload, kind) = (Bytes::from(change.encode()), GroupKind::Registry);
        let reply = Reply::Control(ticket);
        self.pending_bytes += payload.len();
        self.pending_count += 1;
        let state = self.state(CATALOGUE_STREAM);
        assert!(state.role == Role::Standby && state.pending.is_empty(), "nobody else appends");
        state.push(Pending { payload, producer, sequence, scn_floor, kind, reply });
        self.dirty.push_back(CATALOGUE_STREAM);
    }

    fn check_failover(&self, allow_loss: bool) -> Result<Change, Error> {
        let state = self.check_stream(CATALOGUE_STREAM)?;
        self.check_leader(CATALOGUE_STREAM, state)?;
        let heard = self.heard_term();
        if heard.outranks(self.own_term()) && heard.cluster != self.me.cluster {
            let text = format!(
                "another-primary: cluster {} is the primary of role epoch {}, which this cluster \
                 has heard of and not from its log: take its logs from there, or format it anew",
                heard.cluster, heard.epoch
            );
            return Err(Error::new(ErrorKind::Forbidden, text));
        }
        let decided = decide_failover(&self.registry, &self.own(), allow_loss);
        let change =
            decided.map_err(|refusal| Error::new(ErrorKind::Forbidden, refusal.to_string()))?;
        if state.seizes(self.me.cluster) {
            let text = "a failover is under way: wait for its end, which `palisade mode get` shows";
            return Err(Error::new(ErrorKind::Busy, text));
        }
        self.check_settled().map(|()| change)
    }

    /// Whether the catalogue is known to its end: a change is decided on all that came before it.
    fn check_settled(&self) -> Result<(), Error> {
        let state = &self.streams[&CATALOGUE_STREAM];
        let log = state.replica.log();
        let settled = log.end() == log.committed() && state.derived.is_registry_settled();
        match settled && state.derived.is_whole() {
            true => Ok(()),
            false => {
                let text = "the end of the catalogue is on its way to a majority; try again";
                Err(Error::new(ErrorKind::Busy, text))
            }
        }
    }

    /// Whether this cluster is about to take the role: nothing more comes from the primary.
    pub(crate) fn is_seizing(&self, stream: u64) -> bool {
        let state = self.streams.get(&stream).filter(|_| stream == CATALOGUE_STREAM);
        state.is_some_and(|state| state.seizes(self.me.cluster))
    }

    /// It did not come to a failover: the catalogue goes on with what the primary says.
    pub(crate) fn end_failover(&mut self) {
        let state = &self.streams[&CATALOGUE_STREAM];
        if state.leading && state.role == Role::Standby {
            self.start_import(CATALOGUE_STREAM);
        }
    }

    /// A FENCE is in the log of a stream that is led here: an operator hears when it says that
    /// something that was acked may be missing.
    pub(crate) fn note_fence(&mut self, stream: u64) {
        let state = &self.streams[&stream];
        let last = state.derived.marks.last().map(|last| last.mark);
        if state.leading && matches!(last, Some(Mark::Fence { held_by: 0, .. })) {
            let text = format!(
                "stream {stream} did not end under the SYNC mark of the level: what was acked may \
                 be missing here, and the failover stops"
            );
            self.alarm("failover-stopped", text);
        }
    }
}

impl StreamState {
    /// Whether the entry of a failover to cluster `me` waits for a group, or stands in the log and
    /// was not taken.
    fn seizes(&self, me: u32) -> bool {
        let waits = self.role == Role::Standby && !self.pending.is_empty();
        waits || self.derived.seizes_at(me).is_some()
    }
}

impl Change {
    /// Whether a standby takes the role by it.
    pub(crate) fn seizes(&self) -> bool {
        matches!(&self.what, What::Role(step) if step.act == Act::Seize)
    }
}
