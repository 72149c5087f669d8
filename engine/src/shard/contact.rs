//! Contact with other clusters that hold the role of the primary, or know who does: what is heard
//! of it is kept, told on, and fences this cluster where it is a primary of a lower term
//! (`control/term.rs`).
//!
//! Each question to another cluster and each answer carries a term. Who hears of a higher one than
//! it knew tells the other shards of its node and its peers, and writes it into its identity file.
//! The fence counts from when it is heard of; that it was heard of is said when every shard of the
//! node has written it. A new primary makes the contact: the leader of its catalogue asks the nodes
//! of every registered cluster until each has said that it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use palisade_netio::{Frame, Nanos, Outgoing, Ring};

use crate::control::{Cluster, Term, fence};
use crate::error::{Error, ErrorKind};
use crate::kinds::{KIND_FACTS, KIND_TERM};
use crate::shard::Shard;
use crate::shard::mesh::Mail;
use crate::shard::net::Duty;
use crate::stream::catalogue::{CATALOGUE_STREAM, SYSTEM_STREAM};
use crate::transfer::facts::Place;
use crate::transfer::limits::{CONTACT_NS, CONTACT_NS_MAX, CONTACTS_OPEN_MAX, FENCED_NS};
use crate::transfer::{Facts, Question};

/// The role code of a disk that was formatted for a primary.
const FORMATTED_PRIMARY: u32 = 1;

/// A node that is to hear who the primary is.
struct Contact {
    conn: Option<u32>,
    due: Nanos,
    pause_ns: u64,
    /// It said that it knows.
    knows: bool,
}

/// What is known of terms, and who is to hear of it.
#[derive(Default)]
pub(crate) struct Contacts {
    /// The highest term that was heard of, the own one among them once the role was handed over.
    heard: Term,
    /// The term that this cluster is fenced by, as of the last look; and since when.
    fenced: Option<Term>,
    since: Nanos,
    since_wall_ns: u64,
    /// Peers that are to hear of it.
    untold: BTreeSet<u32>,
    /// Nodes of other clusters, while this node leads the catalogue of a new primary.
    others: BTreeMap<SocketAddr, Contact>,
    /// The term that they are told of, and the version of the registry that names them.
    told: (Term, u64),
}

/// What is known, and what follows.
impl<R: Ring> Shard<R> {
    /// The term that the committed registry says; before the role was ever handed over the format.
    pub(crate) fn own_term(&self) -> Term {
        let formatted = self.booting.identity.identity();
        let first = formatted.filter(|identity| identity.role == FORMATTED_PRIMARY);
        Term::of(&self.registry.mode(), first.map(|_| self.me.cluster))
    }

    /// The highest term that this node knows of.
    pub(crate) fn known_term(&self) -> Term {
        self.contacts.heard.max(self.own_term())
    }

    /// The same as every shard of the node has it on its disk: what was said of it stays true.
    fn kept_term(&self) -> Term {
        let kept = match &self.mesh {
            Some(mesh) => mesh.kept_term(),
            None => self.written_term(),
        };
        kept.max(self.own_term())
    }

    fn written_term(&self) -> Term {
        let identity = self.booting.identity.identity();
        identity.map_or(Term::NONE, |it| Term { epoch: it.term_epoch, cluster: it.term_cluster })
    }

    /// What the identity file says is what was heard of, at the start; and kept, from then on.
    pub(crate) fn on_term_written(&mut self) {
        let written = self.written_term();
        if let Some(mesh) = &self.mesh {
            mesh.keep_term(self.me.shard, written);
        }
        self.note_term(written);
    }

    /// The term that is to be in the identity file.
    pub(crate) fn heard_term(&self) -> Term {
        self.contacts.heard
    }

    /// Somebody knows of this term.
    pub(crate) fn note_term(&mut self, term: Term) {
        if !term.outranks(self.contacts.heard) {
            return;
        }
        self.contacts.heard = term;
        // Only the newest counts: what waits for room is replaced.
        self.unsent.retain(|(_, mail)| !matches!(mail, Mail::Term(_)));
        for shard in (0..self.me.shards).filter(|shard| *shard != self.me.shard) {
            self.unsent.push_back((shard, Mail::Term(term)));
        }
        self.retry_mail();
        self.contacts.untold.extend(self.net.peers.keys());
        let (known, now) = (self.known_term(), self.io.now);
        if let Some(chooser) = &mut self.imports.chooser {
            chooser.on_term(known, now);
        }
        self.choose_upstreams();
        self.review_fence();
    }

    /// The registry changed, and with it maybe the own term.
    pub(crate) fn review_term(&mut self) {
        self.note_term(self.own_term());
        self.review_fence();
    }

    /// The term by which this cluster, a primary as far as its registry says, is fenced.
    pub(crate) fn fenced(&self) -> Option<Term> {
        let heard = self.contacts.heard;
        // On the road of every append.
        if heard == Term::NONE || heard.cluster == self.me.cluster {
            return None;
        }
        fence(self.own_term(), self.me.cluster, heard)
    }

    /// Whether a stream takes something new as far as the fence is concerned.
    pub(crate) fn check_fence(&self, stream: u64) -> Result<(), Error> {
        match self.fenced() {
            Some(term) if stream != SYSTEM_STREAM => Err(self.fence_error(term)),
            _ => Ok(()),
        }
    }

    fn fence_error(&self, term: Term) -> Error {
        let Term { epoch, cluster } = term;
        let known = self.registered(cluster).map(|it| it.endpoints.clone()).unwrap_or_default();
        let at = match known.is_empty() {
            true => String::new(),
            false => format!(", at {}", known.join(",")),
        };
        let text = format!(
            "this cluster is fenced: cluster {cluster} is the primary, of role epoch {epoch}; \
             append there{at}"
        );
        let some = self.io.now.0 as usize % known.len().max(1);
        Error::new(ErrorKind::Standby, text).with_leader(known.get(some).cloned())
    }

    /// Reason and action of the fence, and since when, for status.
    pub(crate) fn fence_state(&self) -> Option<(String, String, u64)> {
        let Term { epoch, cluster } = self.fenced()?;
        let reason = format!(
            "cluster {cluster} is the primary of role epoch {epoch}, and this one was of {}: it \
             takes nothing more",
            self.own_term().epoch
        );
        let action = format!(
            "append at cluster {cluster}; what this one has and cluster {cluster} has not can \
             still be read here; then format its nodes anew and add it there as a standby"
        );
        Some((reason, action, self.contacts.since_wall_ns))
    }

    /// Begins or ends what a fence means, when that changed.
    fn review_fence(&mut self) {
        let fenced = self.fenced();
        let before = std::mem::replace(&mut self.contacts.fenced, fenced);
        if before == fenced {
            return;
        }
        self.alarms.remove("fenced");
        let streams: Vec<u64> = self.streams.range(CATALOGUE_STREAM..).map(|(id, _)| *id).collect();
        let Some(term) = fenced else {
            // As a primary again, of a later term; as a standby it gives no SCN.
            streams.into_iter().for_each(|stream| self.close_from_here(stream));
            return self.levels.look();
        };
        if before.is_none() {
            self.contacts.since_wall_ns = self.io.ring.wall_ns();
            self.contacts.since = self.io.now;
        }
        let refused = self.fence_error(term);
        for stream in streams {
            self.refuse_pending(stream, &refused);
            self.stop_closing(stream);
            let waiting = std::mem::take(&mut self.state(stream).waiting);
            let text = format!("{}; whether this record is kept is not known", refused);
            for waits in waiting {
                self.settle(waits.reply, Err(Error::new(ErrorKind::Unknown, text.clone())));
            }
        }
    }

    /// When the fence is no longer what every switchover looks like to who hears of it late: who
    /// leads the catalogue knows what is committed.
    fn alarm_at(&self) -> Option<Nanos> {
        let catalogue = self.streams.get(&CATALOGUE_STREAM).filter(|state| state.leading);
        let led_since = catalogue.filter(|_| self.contacts.fenced.is_some())?.led_since;
        // One that leads no more finds that out within its election time.
        let lasts = FENCED_NS.max(2 * self.config.tuning.election_ns);
        Some(led_since.max(self.contacts.since).after(lasts))
    }

    fn review_alarm(&mut self) {
        let due = self.alarm_at().is_some_and(|at| at <= self.io.now);
        if due == self.alarms.contains_key("fenced") {
            return;
        }
        match self.fence_state().filter(|_| due) {
            Some((reason, action, _)) => self.alarm("fenced", format!("{reason}; {action}")),
            None => drop(self.alarms.remove("fenced")),
        }
    }

    /// A cluster of the registry, in whichever role.
    fn registered(&self, cluster: u32) -> Option<&Cluster> {
        let primary = self.registry.primary().filter(|primary| primary.id == cluster);
        self.registry.standby(cluster).or(primary)
    }

    /// Where the nodes of the holder of the role listen, when another cluster has it than the
    /// registry says.
    pub(crate) fn heard_primary(&self) -> Option<&Cluster> {
        let heard = self.contacts.heard;
        let news = heard.cluster != self.me.cluster && heard > self.own_term();
        self.registered(heard.cluster).filter(|_| news)
    }
}

/// Who hears of it.
impl<R: Ring> Shard<R> {
    /// Moves contacts along, once a turn.
    pub(crate) fn run_contacts(&mut self) {
        self.review_fence();
        self.review_alarm();
        self.tell_term();
        self.look_at_others();
        let now = self.io.now;
        let is_due = |it: &Contact| !it.knows && it.due <= now;
        let due = self.contacts.others.iter().filter(|(_, it)| is_due(it));
        let due: Vec<SocketAddr> = due.map(|(addr, _)| *addr).collect();
        due.into_iter().for_each(|addr| self.contact(addr));
    }

    /// When [`run_contacts`](Shard::run_contacts) is due.
    pub(crate) fn next_contact(&self) -> Option<Nanos> {
        let others = self.contacts.others.values().filter(|it| !it.knows);
        let alarm = self.alarm_at().filter(|_| !self.alarms.contains_key("fenced"));
        others.map(|it| it.due).chain(alarm).min()
    }

    /// A peer is linked: it is told.
    pub(crate) fn tell_term_anew(&mut self, node: u32) {
        if self.contacts.heard != Term::NONE {
            self.contacts.untold.insert(node);
        }
    }

    fn tell_term(&mut self) {
        if self.contacts.untold.is_empty() {
            return;
        }
        let body = self.contacts.heard.encode();
        let mut untold = std::mem::take(&mut self.contacts.untold);
        untold.retain(|node| {
            let linked = self.net.peers.get(node).is_some_and(|peer| peer.key.is_some());
            // Who is not linked hears of it when it is.
            linked && !self.net.send_control(&mut self.io, *node, KIND_TERM, &body)
        });
        self.contacts.untold = untold;
    }

    /// A peer says what it has heard of. False when the frame makes no sense.
    pub(crate) fn on_term_said(&mut self, frame: &Frame) -> bool {
        let body = self.bytes_of(frame.slot, frame.body.at, frame.body.len);
        let Ok(term) = Term::decode(body) else { return false };
        self.note_term(term);
        true
    }

    /// The term and the clusters that others are to hear of may have changed.
    fn look_at_others(&mut self) {
        let leads = self.streams.get(&CATALOGUE_STREAM).is_some_and(|state| state.leading);
        if !leads && self.contacts.told.0 == Term::NONE {
            return;
        }
        let own = self.own_term();
        let holds = leads && own.cluster == self.me.cluster && own.outranks(Term::NONE);
        let term = if holds && self.fenced().is_none() { own } else { Term::NONE };
        let told = (term, self.registry.version());
        let before = std::mem::replace(&mut self.contacts.told, told);
        if before == told {
            return;
        }
        let wanted = match term == Term::NONE {
            true => BTreeSet::new(),
            false => self.others(),
        };
        let mut others = std::mem::take(&mut self.contacts.others);
        others.retain(|addr, it| {
            let stays = wanted.contains(addr) && before.0 == term;
            if let Some(conn) = it.conn.filter(|_| !stays) {
                self.net.close(&mut self.io.ring, &mut self.io.pool, conn);
            }
            stays
        });
        for addr in wanted {
            let new = Contact { conn: None, due: self.io.now, pause_ns: CONTACT_NS, knows: false };
            others.entry(addr).or_insert(new);
        }
        self.contacts.others = others;
    }

    /// Where the other clusters of the registry listen.
    fn others(&self) -> BTreeSet<SocketAddr> {
        let others = self.registry.standbys().chain(self.registry.primary());
        let others = others.filter(|cluster| cluster.id != self.me.cluster);
        let endpoints = others.flat_map(|cluster| &cluster.endpoints);
        endpoints.filter_map(|endpoint| endpoint.parse().ok()).collect()
    }

    fn contact(&mut self, addr: SocketAddr) {
        let open = self.contacts.others.values().filter(|it| it.conn.is_some()).count();
        let Some(it) = self.contacts.others.get_mut(&addr) else { return };
        it.due = self.io.now.after(it.pause_ns);
        if let Some(conn) = it.conn {
            it.pause_ns = (2 * it.pause_ns).min(CONTACT_NS_MAX);
            return self.tell_other(conn);
        }
        if open < CONTACTS_OPEN_MAX {
            it.pause_ns = (2 * it.pause_ns).min(CONTACT_NS_MAX);
            let conn = self.dial_reader(addr, Duty::Contact(addr));
            self.contacts.others.get_mut(&addr).expect("looked up").conn = Some(conn);
        }
    }

    /// The connection with a node of another cluster is up, or down.
    pub(crate) fn on_contact_link(&mut self, conn: u32, up: bool) {
        let Some(Duty::Contact(addr)) = self.net.conns.get(&conn).map(|conn| &conn.duty) else {
            return;
        };
        let addr = *addr;
        let it = self.contacts.others.get_mut(&addr).filter(|it| it.conn == Some(conn));
        if let (Some(_), true) = (&it, up) {
            return self.tell_other(conn);
        }
        // It is dialled when its time comes.
        it.into_iter().for_each(|it| it.conn = None);
        self.net.close(&mut self.io.ring, &mut self.io.pool, conn);
    }

    fn tell_other(&mut self, conn: u32) {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let (cluster, node) = (self.me.cluster, self.me.node);
        let from = Place { cluster, node, region: self.config.region.clone(), addr: nowhere };
        let known = self.known_term();
        let frame = Question { number: 0, from, known, streams: Vec::new() }.encode();
        let Some(conn) = self.net.conns.get_mut(&conn).filter(|conn| conn.link.is_up()) else {
            return;
        };
        // What finds no room is asked again.
        let _ = conn.link.send(&mut self.io.ring, &mut self.io.pool, Outgoing::inline(frame));
    }

    /// A node of another cluster answered.
    pub(crate) fn on_contact_frame(&mut self, conn: u32, addr: SocketAddr, frame: &Frame) {
        if frame.head.kind != KIND_FACTS {
            return;
        }
        let body = self.bytes_of(frame.slot, frame.body.at, frame.body.len);
        let Ok(facts) = Facts::parse(&frame.head, body) else { return };
        self.note_term(facts.known);
        let told = self.contacts.told.0;
        let it = self.contacts.others.get_mut(&addr).filter(|it| it.conn == Some(conn));
        if let Some(it) = it.filter(|_| facts.known >= told) {
            (it.knows, it.conn) = (true, None);
            self.net.close(&mut self.io.ring, &mut self.io.pool, conn);
        }
    }

    /// What a question told, and what the answer says of it: the own term and the one that is
    /// kept.
    pub(crate) fn on_told(&mut self, question: &Question) -> (Term, Term) {
        self.note_term(question.known);
        (self.own_term(), self.kept_term())
    }
}
