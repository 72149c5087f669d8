//! One turn of a shard: the only place where its parts meet.
//!
//! ```text
//! completions -> wal, links, reads        commands and mesh -> pending appends, reads
//! frames -> replicas                      timers -> replicas, links, liveness
//! durable blocks -> replicas              effects -> records, messages, answers
//! seal a batch if the device takes one    records -> block
//! operations of wal and links -> ring     ring.enter: the only call that may block
//! ```

use palisade_netio::{Completion, ListenEvent, Nanos, Ring, Wait};

use crate::forward::ForwardPort;
use crate::handle::Command;
use crate::limits::COMMANDS_MAX;
use crate::shard::boot::Phase;
use crate::shard::control;
use crate::shard::create::Asker;
use crate::shard::jobs::{Destination, Job};
use crate::shard::ledger::Durable;
use crate::shard::net::conn_of;
use crate::shard::stream::{Reply, StreamState};
use crate::shard::token::{
    OWNER_CONN, OWNER_IDENTITY, OWNER_LISTENER, OWNER_ONCE, OWNER_READ, OWNER_WAL, local_of,
    local_token, owner_of,
};
use crate::shard::{Halt, Shard, ShardConfig};

/// How soon a shard looks again for what rings no bell.
const LOOK_AGAIN_NS: u64 = 1_000_000;
/// A wake-up this late means that the process was stopped or starved meanwhile.
const STOOD_STILL_NS: u64 = 500_000_000;

/// When a shard works, and when it sleeps.
#[derive(Default)]
pub(super) struct Pace {
    /// In the last turn a write was older than `disk_stall_hard_ns`.
    overdue: bool,
    /// The last turn that had something to do.
    busy_at: Nanos,
    /// When the sleep before this turn was to end.
    planned: Option<Nanos>,
}

impl<R: Ring> Shard<R> {
    /// Runs one turn; with `may_wait` it sleeps when there is nothing to do. False when the shard
    /// has stopped; [`halted`](Shard::halted) says why.
    pub fn turn(&mut self, may_wait: bool) -> bool {
        if self.port.is_stopping() {
            self.halt.get_or_insert(Halt::Done);
            if self.phase != Phase::Stopped {
                self.phase = Phase::Stopped;
                self.give_up();
                self.disconnect();
            }
            return false;
        }
        self.io.now = self.io.ring.now();
        self.io.pool.collect();
        if !self.done.is_empty() {
            self.pace.busy_at = self.io.now;
        }
        self.take_completions();
        match self.phase {
            Phase::Running => self.work(),
            Phase::Stopped => return false,
            _ => self.boot(),
        }
        if self.phase == Phase::Running && !self.booted {
            self.booted = true;
            self.work();
        }
        if self.halt.is_some() {
            self.phase = Phase::Stopped;
            self.give_up();
            return false;
        }
        self.submit();
        let wait = self.wait(may_wait);
        self.io.ring.enter(&mut self.io.pool, wait, &mut self.done);
        true
    }

    fn work(&mut self) {
        // The completions of this turn may have said it: then nobody is served any more.
        if self.is_poisoned() {
            return;
        }
        self.take_commands();
        self.take_mesh();
        self.take_connections();
        // What the identity file says now lets records go on in this turn.
        self.poll_identity();
        self.tell_durable();
        self.run_timers();
        self.end_surveys();
        self.check_stall();
        self.give_away();
        self.run_contacts();
        self.run_imports();
        self.run_joins();
        self.run_shipping();
        self.end_turn();
        self.run_levels();
        self.run_floors();
        self.run_replayable();
        self.seal();
        self.flush_own();
        self.end_turn();
        self.run_checkpoint();
        self.tell_handed_over();
        self.tell_catalogue_leader();
        self.serve_forwarder();
        self.run_jobs();
        self.check_identity();
        self.check_drained();
        self.is_poisoned();
    }

    /// Whether the log stopped for good; then the shard halts.
    fn is_poisoned(&mut self) -> bool {
        let error = self.ledger.wal.poisoned();
        if let Some(error) = error {
            self.halt = Some(Halt::Poisoned(error.to_string()));
        }
        error.is_some()
    }

    fn take_completions(&mut self) {
        let mut done = std::mem::take(&mut self.done);
        for completion in done.drain(..) {
            self.dispatch(completion);
        }
        self.done = done;
    }

    fn dispatch(&mut self, done: Completion) {
        let now = self.io.now;
        let io = &mut self.io;
        match owner_of(done.token) {
            OWNER_WAL => {
                self.ledger.wal.on_completion(&mut io.pool, local_of(done.token), done);
            }
            OWNER_IDENTITY => self.on_identity_completion(&done),
            OWNER_LISTENER => {
                if let Some(listener) = &mut self.net.listener {
                    listener.on_completion(&mut io.ring, &mut io.pool, done, now);
                }
            }
            OWNER_CONN => {
                let conn = conn_of(done.token);
                self.net.on_completion(&mut io.ring, &mut io.pool, conn, done, now);
                self.pump(conn);
            }
            OWNER_READ => self.on_read_completion(done),
            OWNER_ONCE => {}
            owner => unreachable!("operation of owner {owner}"),
        }
    }

    fn take_commands(&mut self) {
        for _ in 0..COMMANDS_MAX {
            let Some(command) = self.port.pop() else { return };
            match command {
                Command::Append { stream, record, promise } => self.take_append(
                    stream,
                    record,
                    palisade_wal::GroupKind::Data,
                    Reply::Promise(promise),
                ),
                Command::Truncate { stream, to, reply } => {
                    let _ = reply.send(self.truncate(stream, to));
                }
                Command::Mark { stream, mark, reply } => {
                    let _ = reply.send(self.write_mark(stream, mark));
                }
                Command::Report { reply } => {
                    self.publish_status();
                    let _ = reply.send(Ok(()));
                }
                Command::Transfer { stream, to, reply } => {
                    let asker = crate::shard::hand_over::Asker::Embedder(reply);
                    self.transfer_leader(stream, to, asker);
                }
                Command::Create { count, reply } => {
                    self.create_streams(count, Asker::Embedder(reply));
                }
                Command::Read { stream, from, after, follow, reply } => {
                    let destination = Destination::Embedder { follow, after, reply };
                    self.push_job(Job::new(stream, from, from, destination));
                }
                Command::Control { request, dry_run, reply } => {
                    self.control(&request, dry_run, control::Asker::Embedder(reply));
                }
                Command::Registry { reply } => {
                    let _ = reply.send(Ok(self.registry_view()));
                }
            }
        }
    }

    fn take_connections(&mut self) {
        loop {
            let io = &mut self.io;
            let Some(event) = self.net.poll_listener(&mut io.ring, &mut io.pool) else { return };
            match event {
                ListenEvent::Greeted(greeted) => self.on_greeted(greeted),
                ListenEvent::Listening { addr } => {
                    self.listening = Some(addr);
                    if !addr.ip().is_loopback() {
                        let text = format!(
                            "this node listens at {addr} without encryption or passwords \
                             (insecure_network); whoever reaches it can read and append"
                        );
                        self.alarm("insecure-network", text);
                    }
                }
                ListenEvent::Failed { errno } => {
                    let text = format!("cannot listen at {:?}: {errno}", self.config.listen);
                    self.halt = Some(Halt::Listen(text));
                }
            }
        }
    }

    fn tell_durable(&mut self) {
        while let Some(durable) = self.ledger.poll_durable() {
            match durable {
                Durable::Record { stream, id } => {
                    self.step(stream, |replica, now, fx| replica.on_durable(id, now, fx));
                }
                Durable::Floor { floor } => self.floors.on_durable(floor),
                Durable::Complete { scn } => self.showing.replayable.on_durable(scn),
                Durable::Groups { stream, ballot, upto } => {
                    self.step(stream, |replica, now, fx| {
                        replica.on_group_durable(ballot, upto, now, fx);
                    });
                }
            }
        }
        self.ledger.note_writes(self.io.now);
        let writes = (self.ledger.wal.durable(), self.ledger.oldest_write());
        if !self.creations.undurable.is_empty() {
            self.tell_created();
        }
        if let Some(liveness) = &mut self.liveness
            && liveness.next_deadline() <= self.io.now
        {
            liveness.on_writes(writes.0, writes.1);
            let mut effects = Vec::new();
            liveness.on_time(self.io.now, &mut effects);
            self.drain_liveness(effects);
        }
    }

    /// A write that takes too long makes this node fall silent: it must not lead.
    fn check_stall(&mut self) {
        let limit = self.config.disk_stall_ns;
        // Woken much later than planned, it was this process that stood still, not the disk.
        if self.pace.planned.take().is_some_and(|at| self.io.now.since(at) > STOOD_STILL_NS) {
            self.ledger.restart_ages(self.io.now);
        }
        let age = self.ledger.oldest_write_age(self.io.now);
        // Seen in two turns: between them the ring was asked, so it was not this process that
        // stood still.
        let overdue = age > self.config.disk_stall_hard_ns;
        if std::mem::replace(&mut self.pace.overdue, overdue) && overdue {
            // Like a failed write: whether it will ever be on the disk, nobody knows.
            let text = format!("a write takes more than {} ms", age / 1_000_000);
            self.halt = Some(Halt::Poisoned(text));
        }
        let stalled = age > limit;
        if stalled == self.stalled {
            return;
        }
        self.stalled = stalled;
        if stalled {
            self.alarm("disk-stalled", format!("a write takes more than {} ms", limit / 1_000_000));
        } else {
            self.alarms.remove("disk-stalled");
        }
        if let Some(liveness) = &mut self.liveness {
            liveness.on_disk_stalled(stalled);
        }
        let streams: Vec<u64> = self.streams.keys().copied().collect();
        for stream in streams {
            self.step(stream, |replica, now, fx| replica.on_disk_stalled(stalled, now, fx));
        }
    }

    /// Tells a node that wants to stop when everything that was taken has its outcome.
    fn check_drained(&mut self) {
        if self.port.is_draining() && self.is_drained() {
            self.port.tell_drained();
        }
    }

    fn is_drained(&self) -> bool {
        let settled = |state: &StreamState| state.waiting.is_empty() && state.voided.is_empty();
        self.port.is_empty() && self.pending_count == 0 && self.streams.values().all(settled)
    }

    /// Puts waiting records into blocks. False when some still wait.
    pub(crate) fn flush_own(&mut self) -> bool {
        let limit = self.round_limit();
        self.ledger.flush_own(&mut self.io.pool, limit)
    }

    fn submit(&mut self) {
        let now = self.io.now;
        let io = &mut self.io;
        if !matches!(self.phase, Phase::Identity | Phase::CountingBoot) {
            self.ledger.wal.on_time(now);
            let mut ops = std::mem::take(&mut self.ops);
            self.ledger.wal.poll_ops(&mut io.pool, &mut ops);
            for (local, op) in ops.drain(..) {
                io.ring.submit(&mut io.pool, local_token(OWNER_WAL, local), op);
            }
            self.ops = ops;
            self.ledger.note_writes(now);
        }
        self.net.on_time(&mut io.ring, &mut io.pool, now);
        self.net.flush(&mut io.ring, &mut io.pool);
    }

    fn wait(&mut self, may_wait: bool) -> Wait {
        // Who drives the shard itself would learn of its outcome only after the sleep.
        let answered = std::mem::take(&mut self.answered) && self.driven;
        // So would who waits until it is ready, and a quiet shard may sleep for ever.
        let became_ready = !self.was_ready && self.is_ready();
        self.was_ready |= became_ready;
        if !may_wait || answered || became_ready || self.has_work() {
            self.pace.busy_at = self.io.now;
            return Wait::No;
        }
        if self.io.now.since(self.pace.busy_at) < self.config.spin_ns {
            // It looks again at once: no hop to a sleeping thread and back.
            return Wait::No;
        }
        self.io.ring.arm();
        // Look once more: what came before the bell was armed rang no bell.
        if self.has_work() {
            return Wait::No;
        }
        self.pace.planned = self.next_timer();
        Wait::Until(self.pace.planned)
    }

    fn has_work(&self) -> bool {
        if self.port.is_stopping() {
            return true;
        }
        if self.phase != Phase::Running {
            // What is asked waits until the shard serves.
            return false;
        }
        let mesh = self.mesh.as_ref().is_some_and(|mesh| mesh.has_mail(self.me.shard));
        let asked = |port: &ForwardPort| port.has_requests() || port.lacks_closed();
        let forward = self.forward.as_ref().is_some_and(asked);
        let sealable = !self.seal_stuck
            && !self.dirty.is_empty()
            && self.ledger.wal.wants_block(self.pending_bytes);
        let drained = self.port.is_draining() && self.is_drained();
        !self.port.is_empty() || drained || mesh || forward || sealable || !self.touched.is_empty()
    }

    fn next_timer(&self) -> Option<Nanos> {
        let replicas = self.timers.first().map(|(due, _)| *due);
        let liveness = self.liveness.as_ref().map(|l| l.next_deadline());
        let ShardConfig { disk_stall_ns, disk_stall_hard_ns, .. } = self.config;
        let limit = if self.stalled { disk_stall_hard_ns } else { disk_stall_ns };
        let stall = self.ledger.oldest_write().map(|at| at.after(limit.saturating_add(1)));
        // Slots that other threads give back, and room in other shards' inboxes, ring no bell.
        let waits = self.seal_stuck || !self.unsent.is_empty() || self.checkpoints.is_busy();
        let again = waits.then(|| self.io.now.after(LOOK_AGAIN_NS));
        [replicas, liveness, stall, self.net.next_timer(), self.ledger.wal.next_timer()]
            .into_iter()
            .chain([self.next_import(), self.next_floor(), self.surveys.next_deadline(), again])
            .chain([self.hand_overs.next_deadline(), self.next_shipping(), self.next_join()])
            .chain([self.next_level(), self.next_replayable(), self.next_contact()])
            .chain([self.checkpoints.pinning.next_deadline()])
            .flatten()
            .min()
    }
}
