//! Changes of the registry of clusters: decided by the leader of the catalogue, an entry each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use bytes::Bytes;
use palisade_netio::Ring;
use palisade_wal::{GroupKind, Lsn};

use crate::append::Outcome;
use crate::client::wire::{self, Refused, RefusedCode};
use crate::config::Role;
use crate::control::{Controlled, Health, Level, Own, Registry, RegistryView, Request, decide};
use crate::error::{Error, ErrorKind};
use crate::handle::NewRecord;
use crate::limits::CONTROLS_MAX;
use crate::shard::Shard;
use crate::shard::mesh::{Mail, shard_of};
use crate::shard::stream::Reply;
use crate::stream::catalogue::CATALOGUE_STREAM;

/// Who asked.
pub(crate) enum Asker {
    Embedder(SyncSender<Result<Controlled, Error>>),
    Client { conn: u32, tag: u64 },
}

/// Changes under way.
#[derive(Default)]
pub(crate) struct Controls {
    tickets: BTreeMap<u64, Asker>,
    next: u64,
}

impl Controls {
    /// The end of the shard: nobody will know any more. Clients see their connection end.
    pub(crate) fn give_up(&mut self, error: &Error) {
        for asker in std::mem::take(&mut self.tickets).into_values() {
            if let Asker::Embedder(reply) = asker {
                // Who no longer listens needs no answer.
                let _ = reply.send(Err(error.clone()));
            }
        }
    }
}

impl<R: Ring> Shard<R> {
    /// A client asks for a change.
    pub(crate) fn on_control_request(&mut self, conn: u32, tag: u64, body: &[u8]) {
        match Request::parse(body) {
            Ok((request, dry_run)) => {
                self.control(&request, dry_run, Asker::Client { conn, tag });
            }
            Err(error) => {
                let refused = Refused::new(RefusedCode::Malformed, error.to_string());
                self.answer(conn, wire::KIND_REFUSED, tag, &refused.encode());
            }
        }
    }

    /// Decides, and appends the change to the catalogue. A dry run only decides.
    pub(crate) fn control(&mut self, request: &Request, dry_run: bool, asker: Asker) {
        if let Request::Failover { allow_loss } = *request
            && self.is_standby()
        {
            return self.fail_over(allow_loss, dry_run, asker);
        }
        let version = self.registry.version();
        let change = match self.decide(request) {
            Err(error) => return self.tell_controlled(asker, Err(error)),
            Ok(None) => {
                let same = Controlled { version, changed: false };
                return self.tell_controlled(asker, Ok(same));
            }
            Ok(Some(_)) if dry_run => {
                let would = Controlled { version, changed: true };
                return self.tell_controlled(asker, Ok(would));
            }
            Ok(Some(change)) => change,
        };
        let ticket = self.new_ticket(asker);
        let payload = Bytes::from(change.encode());
        let record = NewRecord { payload, ..NewRecord::default() };
        self.take_append(CATALOGUE_STREAM, record, GroupKind::Registry, Reply::Control(ticket));
    }

    pub(super) fn new_ticket(&mut self, asker: Asker) -> u64 {
        self.controls.next += 1;
        self.controls.tickets.insert(self.controls.next, asker);
        self.controls.next
    }

    fn decide(&self, request: &Request) -> Result<Option<crate::control::Change>, Error> {
        if self.is_standby() {
            return Err(Error::new(ErrorKind::Standby, self.where_the_primary_is()));
        }
        self.check_leads(CATALOGUE_STREAM)?;
        if self.controls.tickets.len() >= CONTROLS_MAX {
            let text = format!("{CONTROLS_MAX} changes of the registry are under way; try again");
            return Err(Error::new(ErrorKind::Busy, text));
        }
        let decided = decide(&self.registry, &self.own(), request);
        decided.map_err(|refusal| Error::new(ErrorKind::Forbidden, refusal.to_string()))
    }

    fn is_standby(&self) -> bool {
        let catalogue = self.streams.get(&CATALOGUE_STREAM);
        catalogue.is_some_and(|state| state.role == Role::Standby)
    }

    pub(super) fn own(&self) -> Own {
        let members = &self.streams[&CATALOGUE_STREAM].replica.config().members;
        Own {
            cluster: self.me.cluster,
            name: self.config.cluster_name.clone(),
            region: self.config.region.clone(),
            endpoints: members.iter().map(|member| member.addr.clone()).collect(),
            health: self.levels.level().map_or(Health::Unseen, Level::health),
        }
    }

    /// What a standby tells who asks it for a change.
    fn where_the_primary_is(&self) -> String {
        let (id, at) = match self.other_primary() {
            Some(cluster) => (cluster.id, cluster.endpoints.join(",")),
            None => {
                let upstream = self.config.upstream.iter().map(ToString::to_string);
                (self.registry.author(), upstream.collect::<Vec<_>>().join(","))
            }
        };
        let which = if id == 0 { String::new() } else { format!(", cluster {id}") };
        format!(
            "cluster {} is a standby: all standbys and the mode are set at the primary{which}; \
             try --at {at}",
            self.me.cluster
        )
    }

    /// The entry of a change was committed, with or without an effect, or will not be.
    pub(crate) fn settle_control(&mut self, ticket: u64, outcome: Outcome) {
        let Some(asker) = self.controls.tickets.remove(&ticket) else { return };
        if outcome.is_err() {
            self.end_failover();
        }
        let version = self.registry.version();
        let result = match outcome {
            Ok(_) => Ok(Controlled { version, changed: true }),
            // It is in no log for good: asking again cannot do it twice.
            Err(error) if error.kind() == ErrorKind::Failed => {
                Err(Error::new(ErrorKind::Conflict, error.to_string()))
            }
            Err(error) => Err(error),
        };
        self.tell_controlled(asker, result);
    }

    pub(super) fn tell_controlled(&mut self, asker: Asker, result: Result<Controlled, Error>) {
        match (asker, result) {
            (Asker::Embedder(reply), result) => {
                self.answered = true;
                // Who no longer listens needs no answer.
                let _ = reply.send(result);
            }
            (Asker::Client { conn, tag }, Ok(controlled)) => {
                let json = serde_json::to_vec(&controlled).expect("plain fields");
                self.answer(conn, wire::KIND_CONTROLLED, tag, &json);
            }
            (Asker::Client { conn, tag }, Err(error)) => self.refuse(conn, tag, &error),
        }
    }

    /// What a client is shown of the registry.
    pub(crate) fn answer_registry(&mut self, conn: u32, tag: u64) {
        let json = serde_json::to_vec(&self.registry_view()).expect("plain fields");
        self.answer(conn, wire::KIND_REGISTRY_JSON, tag, &json);
    }

    /// The registry as this node knows it.
    pub(crate) fn registry_view(&self) -> RegistryView {
        let role = self.cluster_role();
        let mut view = RegistryView::new(&self.registry, self.me.cluster, role);
        view.mode.since = self.levels.since_wall_ns();
        view.mode.reason = self.level_reason().to_string();
        if let Some(catalogue) = self.streams.get(&CATALOGUE_STREAM) {
            view.current = catalogue.leading;
            let (leader, config) = (catalogue.replica.leader(), catalogue.replica.config());
            let other = leader.is_some() && leader.node != self.me.node;
            let member = config.member(leader.node).filter(|_| other);
            view.leader = member.map(|member| member.addr.clone());
        }
        view
    }
}

/// What follows from the committed catalogue.
impl<R: Ring> Shard<R> {
    /// More of a stream is committed. Gives the ends of entries that had no effect, because they
    /// were decided on another version.
    pub(crate) fn on_registry_committed(&mut self, stream: u64) -> Vec<Lsn> {
        if stream != CATALOGUE_STREAM {
            return Vec::new();
        }
        let changes = self.state(stream).derived.take_registry();
        if changes.is_empty() {
            return Vec::new();
        }
        let registry = Arc::make_mut(&mut self.registry);
        let stale = changes.iter().filter(|(_, change)| !registry.apply(change));
        let stale = stale.map(|(end, _)| *end).collect();
        self.tell_registry();
        let registry = self.registry.clone();
        let end = self.streams[&stream].replica.log().committed().lsn;
        self.with_level(|level, now, out| level.on_registry(&registry, end, now, out));
        stale
    }

    /// The registry is new to the rest of the node.
    pub(crate) fn tell_registry(&mut self) {
        if shard_of(CATALOGUE_STREAM, self.me.shards) != self.me.shard {
            return;
        }
        // Only the newest counts: what waits for room is replaced.
        self.unsent.retain(|(_, mail)| !matches!(mail, Mail::Registry(_)));
        for shard in (0..self.me.shards).filter(|shard| *shard != self.me.shard) {
            self.unsent.push_back((shard, Mail::Registry(self.registry.clone())));
        }
        self.retry_mail();
        if let Some(port) = &mut self.forward {
            port.set_registry(self.registry.clone());
        }
        self.on_registry(self.registry.clone());
    }

    /// The registry, as the shard of the catalogue knows it.
    pub(crate) fn on_registry(&mut self, registry: Arc<Registry>) {
        let changed = self.registry.version() != registry.version();
        assert!(!changed || registry.version() > self.registry.version(), "it never goes back");
        let moved = self.registry.primary().map(|it| it.id) != registry.primary().map(|it| it.id);
        self.note_mode(&registry);
        self.registry = registry.clone();
        self.review_roles(&registry);
        self.expect_primary();
        self.tell_streams();
        self.hold_imports();
        self.choose_upstreams();
        self.imports_may_start(moved);
        self.checkpoints.pinning.look_soon();
        self.review_term();
    }
}
