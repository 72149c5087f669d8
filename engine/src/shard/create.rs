//! Creating streams: an entry of the catalogue each; a stream exists once its entry is committed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::mpsc::SyncSender;

use bytes::Bytes;
use palisade_netio::Ring;
use palisade_wal::{GroupKind, Lsn};

use crate::append::Outcome;
use crate::client::wire;
use crate::error::{Error, ErrorKind};
use crate::handle::NewRecord;
use crate::limits::{CREATE_MAX, STREAMS_MAX};
use crate::shard::Shard;
use crate::shard::mesh::{Mail, shard_of};
use crate::shard::stream::Reply;
use crate::stream::catalogue::{CATALOGUE_STREAM, Change};

/// Who asked.
pub(crate) enum Asker {
    Embedder(SyncSender<Result<Vec<u64>, Error>>),
    Client { conn: u32, tag: u64 },
}

struct Ticket {
    asker: Asker,
    ids: Vec<u64>,
    left: usize,
    /// Entries that are committed, or may be.
    done: usize,
    error: Option<Error>,
}

/// Creations under way.
#[derive(Default)]
pub(crate) struct Creations {
    tickets: BTreeMap<u64, Ticket>,
    /// Created; the answer waits until each has a leader, so that it can be used at once.
    unled: Vec<Ticket>,
    /// Streams of those that have a leader, on other shards of this node.
    led_elsewhere: BTreeSet<u64>,
    /// Streams of this shard that the catalogue named: its shard waits to hear of their leaders.
    unheard: BTreeSet<u64>,
    /// Streams whose entries in the catalogue stand above this were never open on this disk: it
    /// had no such entry when it started, or no such entry was committed then.
    pub(crate) fresh_from: Option<Lsn>,
    /// Such entries that are committed and not durable here yet, of streams of other shards.
    pub(crate) undurable: VecDeque<(Lsn, u64)>,
    next: u64,
}

impl Creations {
    /// The catalogue's shard named a stream of this one.
    pub(crate) fn opened(&mut self, stream: u64) {
        self.unheard.insert(stream);
    }

    /// A stream of another shard has a leader.
    pub(crate) fn led(&mut self, stream: u64) {
        let mut open = self.tickets.values().chain(&self.unled);
        if open.any(|ticket| ticket.ids.contains(&stream)) {
            self.led_elsewhere.insert(stream);
        }
    }
}

impl<R: Ring> Shard<R> {
    /// Appends the creation of `count` streams to the catalogue.
    pub(crate) fn create_streams(&mut self, count: usize, asker: Asker) {
        if let Err(error) = self.check_create(count) {
            return self.tell(asker, Err(error));
        }
        let ids: Vec<u64> = self.catalogue.reserve(count).collect();
        self.creations.next += 1;
        let ticket = self.creations.next;
        let waiting = Ticket { asker, ids: ids.clone(), left: count, done: 0, error: None };
        self.creations.tickets.insert(ticket, waiting);
        // A mark that is written before they are logged takes this one's place in them.
        let mark = self.state(CATALOGUE_STREAM).mark_to_come();
        for stream in ids {
            let payload = Bytes::copy_from_slice(&Change::Create { stream, mark }.encode());
            let record = NewRecord { payload, ..NewRecord::default() };
            self.take_append(CATALOGUE_STREAM, record, GroupKind::Catalogue, Reply::Create(ticket));
        }
    }

    fn check_create(&self, count: usize) -> Result<(), Error> {
        if count == 0 || count > CREATE_MAX {
            let text = format!("{count} streams at once; 1 to {CREATE_MAX} can be created");
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        if self.catalogue.streams().count() + count > STREAMS_MAX {
            let text = format!("a cluster has at most {STREAMS_MAX} streams");
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        self.check_leads(CATALOGUE_STREAM)
    }

    /// One entry of a creation was committed, or will not be.
    pub(crate) fn settle_create(&mut self, id: u64, outcome: Outcome) {
        let Some(ticket) = self.creations.tickets.get_mut(&id) else { return };
        ticket.left -= 1;
        match outcome {
            Ok(_) => ticket.done += 1,
            Err(error) => {
                ticket.done += usize::from(is_unknown(error.kind()));
                ticket.error = Some(error);
            }
        }
        if ticket.left == 0 {
            let mut ticket = self.creations.tickets.remove(&id).expect("found above");
            if ticket.done > 0 && ticket.error.is_some() {
                // Asked for again, they would be there twice.
                let (done, count) = (ticket.done, ticket.ids.len());
                let text = format!(
                    "{done} of {count} streams may exist; see `palisade stream list` before \
                     asking again"
                );
                ticket.error = Some(Error::new(ErrorKind::Unknown, text));
            }
            self.creations.unled.push(ticket);
            self.answer_led();
        }
    }

    /// A stream may have a leader now: whoever waits for that hears of it.
    pub(crate) fn on_led(&mut self, stream: u64) {
        if self.creations.unheard.contains(&stream) && self.is_led(stream) {
            self.creations.unheard.remove(&stream);
            let to = shard_of(CATALOGUE_STREAM, self.me.shards);
            self.unsent.push_back((to, Mail::Led { stream }));
            self.retry_mail();
        }
        self.answer_led();
    }

    fn is_led(&self, stream: u64) -> bool {
        self.streams.get(&stream).is_some_and(|state| {
            let leader = state.replica.leader();
            state.leading || (leader.is_some() && leader.node != self.me.node)
        })
    }

    /// Answers creations whose streams all have a leader.
    pub(crate) fn answer_led(&mut self) {
        let mut unled = std::mem::take(&mut self.creations.unled);
        let led = |id: &u64| self.is_led(*id) || self.creations.led_elsewhere.contains(id);
        let is_done = |t: &mut Ticket| t.error.is_some() || t.ids.iter().all(led);
        let done: Vec<Ticket> = unled.extract_if(.., is_done).collect();
        self.creations.unled = unled;
        for ticket in done {
            self.creations.led_elsewhere.retain(|id| !ticket.ids.contains(id));
            let result = ticket.error.map_or(Ok(ticket.ids), Err);
            self.tell(ticket.asker, result);
        }
    }

    fn tell(&mut self, asker: Asker, result: Result<Vec<u64>, Error>) {
        match (asker, result) {
            (Asker::Embedder(reply), result) => {
                // Who no longer listens needs no answer.
                let _ = reply.send(result);
            }
            (Asker::Client { conn, tag }, Ok(ids)) => {
                self.answer(conn, wire::KIND_CREATED, tag, &wire::encode_created(&ids));
            }
            (Asker::Client { conn, tag }, Err(error)) => self.refuse(conn, tag, &error),
        }
    }
}

/// Whether something may have been done all the same.
fn is_unknown(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unknown | ErrorKind::Poisoned)
}
