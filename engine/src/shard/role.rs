//! The role of this cluster, as the registry says it: each shard takes its streams up when the
//! cluster becomes the primary, and lays them down when it hands that over.
//!
//! What is said of the role may be old. So it decides on what a leader imports, ships and answers,
//! and never alone on what it writes: that the last mark of the stream's own log does
//! (`control/role.rs`, [`Mode::serves`](crate::control::Mode::serves)).

use bytes::Bytes;
use palisade_netio::Ring;
use palisade_wal::{GroupKind, Lsn};

use crate::config::Role;
use crate::control::{Act, Change, Cluster, Next, Registry, RoleStep, What};
use crate::error::{Error, ErrorKind};
use crate::handle::NewRecord;
use crate::shard::Shard;
use crate::shard::stream::{Reply, StreamState};
use crate::status::ClusterRole;
use crate::stream::catalogue::{CATALOGUE_STREAM, SYSTEM_STREAM};

impl<R: Ring> Shard<R> {
    /// The role of this cluster, as it is shown.
    pub(crate) fn cluster_role(&self) -> ClusterRole {
        match self.role() {
            Role::Primary if self.fenced().is_some() => ClusterRole::Fenced,
            Role::Primary => ClusterRole::Primary,
            Role::Standby => ClusterRole::Standby,
        }
    }

    pub(super) fn role(&self) -> Role {
        let formatted = || self.streams.values().next().map_or(Role::Primary, |state| state.role);
        match self.registry.mode().is_primary(self.me.cluster) {
            Some(true) => Role::Primary,
            Some(false) => Role::Standby,
            None => formatted(),
        }
    }

    /// What this cluster is to those that take logs from it. Who hands the role over is their
    /// primary until the next one serves.
    pub(crate) fn source_role(&self) -> Role {
        match self.is_handing_over() {
            true => Role::Primary,
            false => self.role(),
        }
    }

    /// The primary as the registry knows it, where that is another cluster.
    pub(crate) fn other_primary(&self) -> Option<&Cluster> {
        self.registry.primary().filter(|primary| primary.id != self.me.cluster)
    }

    pub(crate) fn is_handing_over(&self) -> bool {
        self.registry.mode().is_handing_over(self.me.cluster)
    }

    /// No SCN that is given here may be as low as this: earlier primaries gave them.
    fn role_scn(&self) -> u64 {
        self.levels.lease_mode().office.scn
    }

    /// The registry may say another role than the streams have.
    pub(crate) fn review_roles(&mut self, registry: &Registry) {
        let mode = registry.mode();
        let Some(is_primary) = mode.is_primary(self.me.cluster) else { return };
        self.role_epoch = mode.office.role_epoch;
        if let Some(port) = &mut self.forward {
            port.set_role_epoch(self.role_epoch);
        }
        let streams: Vec<u64> = self.streams.range(CATALOGUE_STREAM..).map(|(id, _)| *id).collect();
        for stream in streams {
            self.review_role(stream, is_primary);
        }
    }

    fn review_role(&mut self, stream: u64, is_primary: bool) {
        match self.streams[&stream].role {
            // Who leads it has its END: the target had the END of every stream committed.
            Role::Standby if is_primary => self.take_up(stream),
            Role::Primary if !is_primary => self.lay_down(stream),
            Role::Primary | Role::Standby => {}
        }
    }

    /// A stream was opened just now, when its cluster may have had another role than it has.
    pub(crate) fn review_opened(&mut self, stream: u64) {
        if !self.levels.is_told() {
            return;
        }
        if let Some(is_primary) = self.registry.mode().is_primary(self.me.cluster) {
            self.review_role(stream, is_primary);
        }
        self.tell_stream(stream);
    }

    /// What of the role the shard of the catalogue knows is known to every stream.
    pub(crate) fn tell_streams(&mut self) {
        let streams: Vec<u64> = self.streams.range(CATALOGUE_STREAM..).map(|(id, _)| *id).collect();
        streams.into_iter().for_each(|stream| self.tell_stream(stream));
    }

    fn tell_stream(&mut self, stream: u64) {
        // Marks that are written by hand have epochs of their own.
        let by_hand = self.levels.by_hand;
        let epoch = if by_hand { u64::MAX } else { self.registry.mode().epoch };
        // Others hear of the hand-over when the target has it.
        let told = !(stream == CATALOGUE_STREAM && self.is_handing_over());
        let told = told.then_some(epoch);
        if std::mem::replace(&mut self.state(stream).told, told) != told {
            self.release(stream);
            self.close_from_here(stream);
        }
    }

    fn take_up(&mut self, stream: u64) {
        self.stop_import(stream);
        let now = self.io.now;
        let state = self.state(stream);
        assert!(state.role == Role::Standby && state.pending.is_empty());
        state.role = Role::Primary;
        state.gate.restart(now);
        if state.leading {
            self.lead_as_primary(stream);
        }
        // What is released is shown from now on.
        self.release(stream);
    }

    /// This node leads a stream of a primary from now on.
    pub(crate) fn lead_as_primary(&mut self, stream: u64) {
        assert!(stream != SYSTEM_STREAM, "it stays home");
        let known = self.role_scn().max(self.showing.replayable.known());
        let scn = self.streams[&stream].replica.log().last_scn().max(known);
        self.levels.look();
        self.floors.on_leading(scn);
        self.close_from_here(stream);
        self.ship_anew(stream);
    }

    /// SCNs of a stream that is led here are closed, unless it ended or another cluster may be the
    /// primary, or is: no SCN is closed that its next primary may give, or the present one.
    pub(crate) fn close_from_here(&mut self, stream: u64) {
        let state = &self.streams[&stream];
        let ended = state.derived.marks.last().is_some_and(|last| last.mark.is_end());
        let primary = state.leading && state.role == Role::Primary;
        match primary && state.is_told() && !ended && self.fenced().is_none() {
            true => drop(self.closing.streams.insert(stream)),
            false => self.stop_closing(stream),
        }
    }

    fn lay_down(&mut self, stream: u64) {
        assert!(stream != SYSTEM_STREAM, "it stays home");
        let state = self.state(stream);
        // It passes nothing before it is told how far.
        (state.role, state.told, state.blocked) = (Role::Standby, None, false);
        let leading = state.leading;
        let error = self.check_leads(stream).expect_err("a standby takes no records");
        self.refuse_pending(stream, &error);
        self.stop_closing(stream);
        if leading {
            // The target hears of the hand-over by the catalogue, from here.
            if stream != CATALOGUE_STREAM {
                self.stop_shipping(stream);
            }
            self.start_import(stream);
        }
        self.release(stream);
        self.note_closed();
    }

    /// Answers what waits for a group and will be in none.
    pub(crate) fn refuse_pending(&mut self, stream: u64, error: &Error) {
        let state = self.state(stream);
        let mut unlogged = Vec::new();
        while let Some(record) = state.pop() {
            unlogged.push(record);
        }
        self.pending_count -= unlogged.len();
        self.pending_bytes -= unlogged.iter().map(|record| record.payload.len()).sum::<usize>();
        self.dirty.retain(|id| *id != stream);
        for record in unlogged {
            self.settle(record.reply, Err(error.clone()));
        }
    }

    /// Appends a step of the role to the catalogue.
    pub(crate) fn propose_turn(&mut self, on: u64, step: RoleStep) {
        let change = Change { by: self.me.cluster, on, what: What::Role(step) };
        let state = self.state(CATALOGUE_STREAM);
        let others = state.pending.iter().any(|record| record.kind == GroupKind::Registry);
        if change.hands_over() && (others || !state.derived.is_registry_settled()) {
            // It is to be the last entry.
            return self.settle_level(true);
        }
        let scn_floor = match step.act {
            Act::HandOver { scn } | Act::Resume { scn } | Act::Begin { scn } => scn,
            _ => 0,
        };
        let payload = Bytes::from(change.encode());
        let record = NewRecord { payload, scn_floor, ..NewRecord::default() };
        self.take_append(CATALOGUE_STREAM, record, GroupKind::Registry, Reply::Level);
    }

    /// Whether the catalogue takes another entry: after a hand-over that may be committed the next
    /// one is the new primary's.
    pub(crate) fn check_handed_over(&self, stream: u64) -> Result<(), Error> {
        let ends = stream == CATALOGUE_STREAM && self.levels.lease_mode().mark.is_end();
        if ends && self.streams[&stream].is_handed_over() {
            let text = "the primary role is being handed over; ask its new holder";
            let target = self.registry.standby(self.levels.lease_mode().office.target);
            let hint = target.and_then(|target| target.endpoints.first().cloned());
            return Err(Error::new(ErrorKind::Standby, text).with_leader(hint));
        }
        Ok(())
    }

    /// Whether what a stream's log lacks was never appended. A leader that may not write does not
    /// know: another cluster may be the primary, and have it.
    pub(crate) fn check_lacks(&self, stream: u64) -> Result<(), Error> {
        let last = self.streams[&stream].derived.marks.last().map(|last| last.mark);
        let may = self.levels.by_hand || self.levels.lease.next(last, self.io.now) != Next::Hold;
        if may || stream == SYSTEM_STREAM {
            return Ok(());
        }
        let text = "another cluster may be the primary by now, and have what is missing here; try \
                    again";
        Err(Error::new(ErrorKind::Standby, text).with_leader(self.any_primary()))
    }

    /// A stream's START is committed: that is worth a word at once.
    pub(crate) fn note_started(&mut self, stream: u64) {
        let mode = self.levels.lease_mode();
        if !mode.phase.is_role() {
            return;
        }
        let Some(state) = self.streams.get(&stream).filter(|state| state.leading) else { return };
        let standing = state.derived.marks.standing();
        if standing.is_some_and(|it| it.mark == mode.mark) {
            self.levels.lease.on_marked(stream);
        }
    }

    /// From where on a standby goes on alone in a stream whose log says that it takes the role, and
    /// which did not take that yet; for who looks on.
    pub fn seizes_at(&self, stream: u64) -> Option<Lsn> {
        let state = self.streams.get(&stream)?;
        let end = state.derived.seizes_at(self.me.cluster)?;
        let ends = state.replica.log().boundaries().map(|at| at.lsn);
        ends.take_while(|at| *at < end).last()
    }

    /// Whether this shard holds itself for the primary's in a stream, for who looks on.
    pub fn acts(&self, stream: u64) -> bool {
        self.streams.get(&stream).is_some_and(|state| state.role == Role::Primary)
    }
}

impl StreamState {
    /// Whether what was told of the role is not older than the last mark: otherwise another cluster
    /// may be the primary, or this one. The last mark may stand in a range that is lost; whether
    /// the catalogue is whole says nothing of it: it may be old, and whole.
    fn is_told(&self) -> bool {
        let last = self.derived.marks.last().map_or(0, |last| last.mark.epoch());
        self.derived.is_whole() && self.told.is_some_and(|told| last <= told)
    }

    /// Whether it is certain that this is no primary's, whose acks and readers wait for a SYNC
    /// standby.
    pub(crate) fn is_passing(&self) -> bool {
        self.role == Role::Standby && self.is_told()
    }

    /// Whether a hand-over waits for a group, or stands in the log and is not committed.
    fn is_handed_over(&self) -> bool {
        let waits = self.pending.iter().filter(|record| record.kind == GroupKind::Registry);
        let mut waits = waits.filter_map(|record| Change::decode(&record.payload));
        self.derived.hands_over() || waits.any(|change| change.hands_over())
    }
}
