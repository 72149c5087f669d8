//! Mail between the shards of a node: bounded queues, a doorbell each.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crossbeam::queue::ArrayQueue;
use palisade_netio::{Class, Greeted, Refusal, RefusalCode, Ring, Wake};

use crate::config::Role;
use crate::control::{LevelAsk, LevelTold, Registry, Term};
use crate::forward::{ForwardEvent, Socket};
use crate::limits::MESH_MAX;
use crate::paxos::Member;
use crate::shard::Shard;
use crate::stream::catalogue::CATALOGUE_STREAM;
use crate::stream::mark::Mark;

/// One message.
pub(crate) enum Mail {
    /// A connection that wants another shard.
    Connection(Greeted),
    /// The catalogue says that the stream exists, and whether it was never open on this disk.
    Created { stream: u64, role: Role, mark: Option<Mark>, members: Vec<Member>, fresh: bool },
    /// A created stream has a leader: it can be used.
    Led { stream: u64 },
    /// An SCN was given that the streams of other shards are to close.
    Scn { scn: u64 },
    /// How far a shard lets its node show streams of a standby, and what counts in the catalogue
    /// if that is its stream.
    Complete { from: u16, scn: u64, catalogue: u64 },
    /// A client of another shard asks how this one is.
    Report { to: u16, number: u64 },
    /// The answer: the state is on the board.
    Reported { shard: u16, number: u64 },
    /// What the catalogue says is not known on this node, or is again.
    Blind(bool),
    /// The registry of clusters changed.
    Registry(Arc<Registry>),
    /// A shard asks how the level is, by way of the catalogue's.
    LevelAsk(Box<LevelAsk>),
    /// The answer, or a new level.
    LevelTold(Box<LevelTold>),
    /// A shard heard of this term of the primary's role.
    Term(Term),
}

struct Inbox {
    queue: ArrayQueue<Mail>,
    waker: OnceLock<Arc<dyn Wake>>,
}

/// Who leads the catalogue, as this node knows it: who can say that a stream does not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum CatalogueLeader {
    /// Nobody that this node knows of.
    #[default]
    Unknown,
    /// This node; every stream of the catalogue was told to its shard.
    Here,
    /// Another one.
    At {
        /// The node.
        node: u32,
        /// Where it listens.
        addr: String,
    },
}

/// What a node's shards share: their inboxes, who leads the catalogue, and the terms of the
/// primary's role that are on their disks.
pub struct Mesh {
    inboxes: Vec<Inbox>,
    terms: Mutex<Vec<Term>>,
    catalogue: Mutex<CatalogueLeader>,
}

impl Mesh {
    /// Inboxes for `shards` shards.
    pub fn new(shards: u16) -> Mesh {
        let inbox = |_| Inbox { queue: ArrayQueue::new(MESH_MAX), waker: OnceLock::new() };
        let terms = Mutex::new(vec![Term::NONE; shards.into()]);
        Mesh { inboxes: (0..shards).map(inbox).collect(), terms, catalogue: Mutex::default() }
    }

    /// A shard has heard of a term, on its disk.
    pub(crate) fn keep_term(&self, shard: u16, term: Term) {
        self.terms.lock().unwrap_or_else(PoisonError::into_inner)[usize::from(shard)] = term;
    }

    /// The term that every shard has heard of, on its disk.
    pub(crate) fn kept_term(&self) -> Term {
        let terms = self.terms.lock().unwrap_or_else(PoisonError::into_inner);
        terms.iter().min().copied().unwrap_or_default()
    }

    pub(crate) fn attach(&self, shard: u16, waker: Arc<dyn Wake>) {
        let _ = self.inboxes[usize::from(shard)].waker.set(waker);
    }

    pub(crate) fn send(&self, shard: u16, mail: Mail) -> Result<(), Mail> {
        let inbox = &self.inboxes[usize::from(shard)];
        inbox.queue.push(mail)?;
        if let Some(waker) = inbox.waker.get() {
            waker.wake();
        }
        Ok(())
    }

    pub(crate) fn has_mail(&self, shard: u16) -> bool {
        !self.inboxes[usize::from(shard)].queue.is_empty()
    }

    pub(crate) fn catalogue(&self) -> MutexGuard<'_, CatalogueLeader> {
        self.catalogue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receive(&self, shard: u16) -> Option<Mail> {
        self.inboxes[usize::from(shard)].queue.pop()
    }
}

/// The shard that owns a stream: a function of its id and the number of shards alone.
pub fn shard_of(stream: u64, shards: u16) -> u16 {
    assert!(shards > 0);
    (stream % u64::from(shards)) as u16
}

impl<R: Ring> Shard<R> {
    /// Takes what other shards sent.
    pub(crate) fn take_mesh(&mut self) {
        let Some(mesh) = self.mesh.clone() else { return self.retry_mail() };
        while let Some(mail) = mesh.receive(self.me.shard) {
            match mail {
                Mail::Connection(greeted) => self.admit_connection(greeted),
                Mail::Created { stream, role, mark, members, fresh } => {
                    self.open_stream(stream, role, mark, &members, fresh);
                    self.creations.opened(stream);
                    self.on_led(stream);
                }
                Mail::Led { stream } => {
                    self.creations.led(stream);
                    self.answer_led();
                }
                Mail::Scn { scn } => self.floors.on_spread(scn),
                Mail::Complete { from, scn, catalogue } => {
                    self.on_complete_mail(from, scn, catalogue);
                }
                Mail::Report { to, number } => self.report_to(to, number),
                Mail::Reported { shard, number } => self.on_reported(shard, number),
                Mail::Blind(is_blind) => self.note_blind(is_blind),
                Mail::Registry(registry) => self.on_registry(registry),
                Mail::LevelAsk(ask) => self.pass_ask(&ask),
                Mail::LevelTold(told) => self.take_told(&told),
                Mail::Term(term) => self.note_term(term),
            }
        }
        self.retry_mail();
    }

    /// Tells the other shards who leads the catalogue of this one.
    pub(crate) fn tell_catalogue_leader(&mut self) {
        let Some(mesh) = &self.mesh else { return };
        let Some(catalogue) = self.streams.get(&CATALOGUE_STREAM) else { return };
        let leader = (catalogue.leading, catalogue.replica.leader());
        if self.told_leader == Some(leader) {
            return;
        }
        // While streams are still to be told of, this node cannot say which do not exist.
        let is_told = self.unsent.is_empty() && self.creations.undurable.is_empty();
        let knows = !catalogue.leading || is_told;
        *mesh.catalogue() = if knows { self.catalogue_leader() } else { CatalogueLeader::Unknown };
        self.told_leader = knows.then_some(leader);
    }

    /// Who can say whether a stream exists.
    pub(crate) fn catalogue_leader(&self) -> CatalogueLeader {
        let Some(catalogue) = self.streams.get(&CATALOGUE_STREAM) else {
            return self.mesh.as_ref().map_or(CatalogueLeader::Unknown, |m| m.catalogue().clone());
        };
        if catalogue.leading {
            return CatalogueLeader::Here;
        }
        let node = catalogue.replica.leader().node;
        match catalogue.replica.config().member(node) {
            Some(member) if node != self.me.node => {
                CatalogueLeader::At { node, addr: member.addr.clone() }
            }
            _ => CatalogueLeader::Unknown,
        }
    }

    /// Sends mail that found no room before.
    pub(crate) fn retry_mail(&mut self) {
        let Some(mesh) = &self.mesh else { return };
        while let Some((shard, mail)) = self.unsent.pop_front() {
            if let Err(mail) = mesh.send(shard, mail) {
                self.unsent.push_front((shard, mail));
                return;
            }
        }
    }

    /// Tells other shards of streams that are new to this disk. Their entries are durable before
    /// those shards log anything: were they not, they would look new again after a power cut.
    pub(crate) fn tell_created(&mut self) {
        let Some(catalogue) = self.streams.get(&CATALOGUE_STREAM) else { return };
        let durable = catalogue.replica.durable();
        while let Some(&(end, stream)) = self.creations.undurable.front()
            && end <= durable
        {
            self.creations.undurable.pop_front();
            self.on_created(stream, true);
        }
    }

    /// A stream exists by the catalogue: its shard opens it. A `fresh` one was never open on this
    /// disk before.
    pub(crate) fn on_created(&mut self, stream: u64, fresh: bool) {
        let catalogue = &self.streams[&CATALOGUE_STREAM];
        let members = catalogue.replica.config().members.clone();
        let (role, mark) = (catalogue.role, self.catalogue.mark(stream));
        let owner = shard_of(stream, self.me.shards);
        if owner == self.me.shard {
            return self.open_stream(stream, role, mark, &members, fresh);
        }
        self.unsent.push_back((owner, Mail::Created { stream, role, mark, members, fresh }));
        self.retry_mail();
    }

    /// A connection said hello: it is for this shard, another one, or the forwarding shard.
    pub(crate) fn on_greeted(&mut self, greeted: Greeted) {
        let mut expect = self.net.expect();
        expect.shard = palisade_netio::ANY_SHARD;
        if let Err(refusal) = greeted.hello.check(&expect) {
            return self.refuse_connection(greeted, refusal);
        }
        let hello = &greeted.hello;
        if hello.class == Class::Reader {
            return self.hand_to_reader_side(greeted);
        }
        let shards = self.me.shards;
        let owner = match hello.class {
            Class::Client => shard_of(hello.stream, shards),
            _ => hello.target.shard,
        };
        if owner == self.me.shard {
            return self.admit_connection(greeted);
        }
        let full = match &self.mesh {
            Some(mesh) if owner < shards => mesh.send(owner, Mail::Connection(greeted)).is_err(),
            _ => true,
        };
        if full {
            let text = format!("shard {owner} takes no connection now");
            self.refuse_connection(greeted, Refusal::new(RefusalCode::Busy, text));
        } else if let Some(listener) = &mut self.net.listener {
            // Counted from now on by the limits of the shard that has it.
            listener.connection_ended();
        }
    }

    fn admit_connection(&mut self, greeted: Greeted) {
        let now = self.io.now;
        let io = &mut self.io;
        if let Err(refusal) = self.net.admit(&mut io.ring, &mut io.pool, now, greeted) {
            self.refuse_connection(greeted, refusal);
        }
    }

    fn hand_to_reader_side(&mut self, greeted: Greeted) {
        let Some(port) = &mut self.forward else {
            let text = "this node has no forwarding shard";
            return self.refuse_connection(greeted, Refusal::new(RefusalCode::Shard, text));
        };
        let socket = Socket::Ring(greeted.socket);
        let event = ForwardEvent::Connection { socket, hello: greeted.hello };
        if port.publish(event).is_err() {
            let text = "the forwarding shard takes no connection now";
            self.refuse_connection(greeted, Refusal::new(RefusalCode::Busy, text));
        } else if let Some(listener) = &mut self.net.listener {
            listener.connection_ended();
        }
    }

    fn refuse_connection(&mut self, greeted: Greeted, refusal: Refusal) {
        let io = &mut self.io;
        match &mut self.net.listener {
            Some(listener) => {
                listener.refuse(&mut io.ring, &mut io.pool, greeted.socket, &refusal);
            }
            None => self.forget(palisade_netio::Op::Close { handle: greeted.socket }),
        }
    }
}
