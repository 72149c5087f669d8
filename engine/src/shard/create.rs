//! Creating streams: an entry of the catalogue each; a stream exists once its entry is committed.

use std::collections::BTreeMap;
use std::sync::mpsc::SyncSender;

use bytes::Bytes;
use palisade_netio::Ring;
use palisade_wal::GroupKind;

use crate::append::Outcome;
use crate::client::wire;
use crate::error::{Error, ErrorKind};
use crate::handle::NewRecord;
use crate::limits::{CREATE_MAX, STREAMS_MAX};
use crate::shard::Shard;
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
    error: Option<Error>,
}

/// Creations under way.
#[derive(Default)]
pub(crate) struct Creations {
    tickets: BTreeMap<u64, Ticket>,
    /// Created; the answer waits until each has a leader, so that it can be used at once.
    unled: Vec<Ticket>,
    next: u64,
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
        let waiting = Ticket { asker, ids: ids.clone(), left: count, error: None };
        self.creations.tickets.insert(ticket, waiting);
        for stream in ids {
            let payload = Bytes::copy_from_slice(&Change::Create { stream }.encode());
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
        if let Err(error) = outcome {
            ticket.error = Some(error);
        }
        if ticket.left == 0 {
            let ticket = self.creations.tickets.remove(&id).expect("found above");
            self.creations.unled.push(ticket);
            self.answer_led();
        }
    }

    /// Answers creations whose streams all have a leader.
    pub(crate) fn answer_led(&mut self) {
        let streams = &self.streams;
        // What belongs to another shard of this node is not seen from here.
        let me = self.me.node;
        let led = |id: &u64| {
            streams.get(id).is_none_or(|state| {
                let leader = state.replica.leader();
                state.leading || (leader.is_some() && leader.node != me)
            })
        };
        let is_done = |t: &mut Ticket| t.error.is_some() || t.ids.iter().all(led);
        let done: Vec<Ticket> = self.creations.unled.extract_if(.., is_done).collect();
        for ticket in done {
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
