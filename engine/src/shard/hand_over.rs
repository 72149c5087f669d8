//! Leadership that goes to another node because somebody asks for it.

use std::sync::mpsc::SyncSender;

use palisade_netio::{Nanos, Ring};

use crate::client::wire;
use crate::error::{Error, ErrorKind};
use crate::limits::TRANSFERS_MAX;
use crate::paxos::NoTransfer;
use crate::shard::Shard;

/// Who asked.
pub(crate) enum Asker {
    Embedder(SyncSender<Result<u64, Error>>),
    Client { conn: u32, tag: u64 },
}

/// Somebody who waits until a node leads a stream.
struct Ticket {
    asker: Asker,
    stream: u64,
    to: u32,
    deadline: Nanos,
}

/// Leadership on its way to other nodes.
#[derive(Default)]
pub(crate) struct HandOvers {
    open: Vec<Ticket>,
}

impl HandOvers {
    /// When somebody has waited long enough.
    pub(crate) fn next_deadline(&self) -> Option<Nanos> {
        self.open.iter().map(|ticket| ticket.deadline).min()
    }
}

impl<R: Ring> Shard<R> {
    /// Hands the leadership of a stream to the node `to`, and answers when that leads.
    pub(crate) fn transfer_leader(&mut self, stream: u64, to: u32, asker: Asker) {
        if let Err(error) = self.begin_transfer(stream, to) {
            return self.tell_asker(asker, to, Err(error));
        }
        // First the successor gets the log, then it is elected.
        let tuning = &self.config.tuning;
        let deadline = self.io.now.after(2 * tuning.election_ns + tuning.candidacy_ns);
        self.hand_overs.open.push(Ticket { asker, stream, to, deadline });
    }

    fn begin_transfer(&mut self, stream: u64, to: u32) -> Result<(), Error> {
        let state = self.check_stream(stream)?;
        self.check_leader(stream, state)?;
        if self.hand_overs.open.len() >= TRANSFERS_MAX {
            let text = format!("{TRANSFERS_MAX} hand-overs are under way; try again");
            return Err(Error::new(ErrorKind::Busy, text));
        }
        let begun = self.step(stream, |replica, now, fx| replica.on_transfer(to, true, now, fx));
        begun.expect("seen above").map_err(|why| refusal(stream, to, why))
    }

    /// Answers those whose successor leads, or will not.
    pub(crate) fn tell_handed_over(&mut self) {
        if self.hand_overs.open.is_empty() {
            return;
        }
        for ticket in std::mem::take(&mut self.hand_overs.open) {
            match self.outcome_of(&ticket) {
                Some(outcome) => self.tell_asker(ticket.asker, ticket.to, outcome),
                None => self.hand_overs.open.push(ticket),
            }
        }
    }

    fn outcome_of(&self, ticket: &Ticket) -> Option<Result<u64, Error>> {
        let Ticket { stream, to, deadline, .. } = *ticket;
        let late = |text| Some(Err(Error::new(ErrorKind::TimedOut, text)));
        let Some(state) = self.streams.get(&stream).filter(|state| state.halted.is_none()) else {
            return late(format!("stream {stream} stopped here; see `palisade status`"));
        };
        if state.leading && state.replica.is_transferring() {
            return None;
        }
        match state.replica.served_by() {
            Some(ballot) if ballot.node == to => Some(Ok(ballot.round)),
            Some(ballot) if ballot.node == self.me.node => {
                late(format!("node {to} did not get the whole log in time; this node leads on"))
            }
            Some(ballot) => late(format!("node {} was elected instead of node {to}", ballot.node)),
            None if self.io.now >= deadline => {
                late(format!("node {to} leads not yet; see `palisade status`"))
            }
            None => None,
        }
    }

    fn tell_asker(&mut self, asker: Asker, to: u32, outcome: Result<u64, Error>) {
        match (asker, outcome) {
            (Asker::Embedder(reply), outcome) => {
                self.answered = true;
                // Who no longer listens needs no answer.
                let _ = reply.send(outcome);
            }
            (Asker::Client { conn, tag }, Ok(round)) => {
                let body = wire::encode_transferred(to, round);
                self.answer(conn, wire::KIND_TRANSFERRED, tag, &body);
            }
            (Asker::Client { conn, tag }, Err(error)) => self.refuse(conn, tag, &error),
        }
    }
}

/// Why a hand-over does not begin, in words.
fn refusal(stream: u64, to: u32, why: NoTransfer) -> Error {
    let (kind, text) = match why {
        NoTransfer::NotLeading => {
            (ErrorKind::NotLeader, format!("stream {stream} has no leader now; try again"))
        }
        NoTransfer::Transferring => {
            let text = format!("stream {stream} is on its way to another leader; try again");
            (ErrorKind::Busy, text)
        }
        NoTransfer::Leads => {
            (ErrorKind::LeadsAlready, format!("node {to} leads stream {stream} already"))
        }
        NoTransfer::NotMember => {
            let text = format!("node {to} is no member of stream {stream}; see `palisade status`");
            (ErrorKind::NotMember, text)
        }
        NoTransfer::NotUp => {
            let text = format!("node {to} is not heard, or its disk does not count; start it");
            (ErrorKind::NotUp, text)
        }
        NoTransfer::Behind { bytes: u64::MAX } => {
            (ErrorKind::Behind, format!("node {to} has not joined this leader yet; try again"))
        }
        NoTransfer::Behind { bytes } => {
            let text = format!("node {to} lacks {bytes} bytes of the log; wait until it has them");
            (ErrorKind::Behind, text)
        }
    };
    Error::new(kind, text)
}
