//! Leadership that goes to another node: because somebody asks for it, because a member that is
//! preferred is well again, or because this node can do nothing with it: its log is full, or it
//! does not know the catalogue.
//!
//! What is done without being asked is driven by what changes: a peer becomes fit, this node
//! begins to lead, its log fills up. Then one look at the streams is due; an idle stream has no
//! timer of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::SyncSender;

use palisade_netio::{Nanos, Ring};

use crate::client::wire;
use crate::error::{Error, ErrorKind};
use crate::kinds::{HEARTBEAT_IMPAIRED, HEARTBEAT_SHORT};
use crate::limits::{HAND_OVER_LAG_BYTES, HAND_OVER_PAUSE_NS, HAND_OVERS_AT_ONCE, TRANSFERS_MAX};
use crate::paxos::NoTransfer;
use crate::shard::Shard;
use crate::shard::mesh::Mail;
use crate::shard::stream::StreamState;
use crate::stream::catalogue::CATALOGUE_STREAM;

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

/// A peer that is well: heard, with space, a disk that answers, and an undamaged log.
#[derive(Clone, Copy, Debug)]
struct Fit {
    since: Nanos,
    /// How many times `hand_over_ns` it must be well: doubled when what it was given came back.
    patience: u64,
}

/// The longest patience.
const PATIENCE_MAX: u64 = 64;
/// So long a part of the catalogue may be missing, which is repaired meanwhile.
const BLIND_NS: u64 = 1_000_000_000;

/// Leadership on its way to other nodes.
pub(crate) struct HandOvers {
    open: Vec<Ticket>,
    fit: BTreeMap<u32, Fit>,
    /// Peers with a write in flight that takes long.
    slow: BTreeSet<u32>,
    /// When the streams are to be looked at.
    look_at: Option<Nanos>,
    /// To whom streams went by themselves, and when.
    gave: BTreeMap<u64, (u32, Nanos)>,
    /// The own log takes no appends.
    is_full: bool,
    /// A part of some log here is damaged or unknown, or was when this was looked at last.
    pub(crate) is_impaired: bool,
    /// Since when a part of the catalogue is not known here; on the shard of the catalogue.
    lacks: Option<Nanos>,
    /// What the catalogue says is not known on this node: who is the primary, for instance.
    pub(crate) is_blind: bool,
}

impl Default for HandOvers {
    fn default() -> HandOvers {
        HandOvers {
            open: Vec::new(),
            fit: BTreeMap::new(),
            slow: BTreeSet::new(),
            look_at: None,
            gave: BTreeMap::new(),
            is_full: false,
            // Whatever recovery found.
            is_impaired: true,
            lacks: None,
            is_blind: false,
        }
    }
}

impl HandOvers {
    /// When somebody has waited long enough.
    pub(crate) fn next_deadline(&self) -> Option<Nanos> {
        let open = self.open.iter().map(|ticket| ticket.deadline);
        let lacks = self.lacks.filter(|_| !self.is_blind).map(|since| since.after(BLIND_NS));
        open.chain(self.look_at).chain(lacks).min()
    }

    /// Nothing is to be led here.
    fn is_unfit(&self) -> bool {
        self.is_full || self.is_blind
    }

    /// Something changed that may matter `after` so long, or at once where nothing is to be led.
    fn look_soon(&mut self, now: Nanos, after: Option<u64>) {
        if self.is_unfit() {
            self.look_by(now);
        } else if let Some(after) = after {
            self.look_by(now.after(after));
        }
    }

    fn look_by(&mut self, at: Nanos) {
        self.look_at = Some(self.look_at.map_or(at, |known| known.min(at)));
    }
}

/// Without being asked.
impl<R: Ring> Shard<R> {
    /// What a heartbeat says besides that this node lives.
    pub(crate) fn heartbeat_tag(&mut self) -> u64 {
        if self.hand_overs.is_impaired {
            let impaired = |state: &StreamState| {
                let replica = &state.replica;
                state.halted.is_some() || replica.damaged().is_some() || replica.log().is_unknown()
            };
            self.hand_overs.is_impaired = self.streams.values().any(impaired);
        }
        let short = if self.ledger.wal.space().throttle { HEARTBEAT_SHORT } else { 0 };
        let impaired = self.hand_overs.is_impaired || self.hand_overs.is_blind;
        let impaired = if impaired { HEARTBEAT_IMPAIRED } else { 0 };
        short | impaired
    }

    /// A peer is heard, or not any more, or says something new of itself.
    pub(crate) fn note_fitness(&mut self, node: u32) {
        let waiting_us = self.liveness.as_ref().and_then(|liveness| liveness.waiting_us(node));
        let slow = waiting_us.is_some_and(|us| us > self.config.disk_stall_ns / 2000);
        self.note_slow(node, slow);
        let well = self.net.peers.get(&node).is_some_and(|peer| !peer.short && !peer.impaired);
        if !well || slow || waiting_us.is_none() {
            self.hand_overs.fit.remove(&node);
            return;
        }
        let after = self.config.tuning.hand_over_after();
        let (now, overs) = (self.io.now, &mut self.hand_overs);
        if overs.fit.contains_key(&node) {
            return;
        }
        overs.fit.insert(node, Fit { since: now, patience: 1 });
        overs.look_soon(now, after);
    }

    /// An operator is told of a peer whose disk is slow.
    fn note_slow(&mut self, node: u32, slow: bool) {
        let known = &mut self.hand_overs.slow;
        let changed = if slow { known.insert(node) } else { known.remove(&node) };
        if changed && slow {
            let limit = self.config.disk_stall_ns / 2_000_000;
            let hint = format!("node {node}: a write takes more than {limit} ms; check its disk");
            self.alarm("peer-disk-slow", hint);
        } else if changed && self.hand_overs.slow.is_empty() {
            self.alarms.remove("peer-disk-slow");
        }
    }

    /// This node begins to lead a stream.
    pub(crate) fn note_leading(&mut self, stream: u64) {
        let after = self.config.tuning.hand_over_after();
        let (now, overs) = (self.io.now, &mut self.hand_overs);
        if let Some((to, at)) = overs.gave.remove(&stream)
            && after.is_some_and(|after| now.since(at) < after)
            && let Some(fit) = overs.fit.get_mut(&to)
        {
            // It could not keep it.
            let patience = (2 * fit.patience).min(PATIENCE_MAX);
            *fit = Fit { since: now, patience };
        }
        if self.liveness.is_some() {
            overs.look_soon(now, after);
        }
    }

    /// The log has no room for a group.
    pub(crate) fn note_no_room(&mut self) {
        if !std::mem::replace(&mut self.hand_overs.is_full, true) && self.liveness.is_some() {
            self.hand_overs.look_by(self.io.now);
        }
    }

    /// Whether what is committed of the catalogue is known here: a leader that is not told of the
    /// role of its cluster would never begin a stream anew. A range that is lost is soon repaired.
    fn look_at_catalogue(&mut self) {
        let Some(catalogue) = self.streams.get(&CATALOGUE_STREAM) else { return };
        let (now, halted) = (self.io.now, catalogue.halted.is_some());
        let lacks = halted || !catalogue.derived.is_whole();
        let overs = &mut self.hand_overs;
        overs.lacks = lacks.then(|| overs.lacks.unwrap_or(now));
        let is_long = overs.lacks.is_some_and(|since| now.since(since) >= BLIND_NS);
        let is_blind = halted || is_long;
        if is_blind == overs.is_blind {
            return;
        }
        self.note_blind(is_blind);
        // Only the newest counts: what waits for room is replaced.
        self.unsent.retain(|(_, mail)| !matches!(mail, Mail::Blind(_)));
        for shard in (0..self.me.shards).filter(|shard| *shard != self.me.shard) {
            self.unsent.push_back((shard, Mail::Blind(is_blind)));
        }
        self.retry_mail();
    }

    /// This node does not know what the catalogue says, or does again.
    pub(crate) fn note_blind(&mut self, is_blind: bool) {
        self.hand_overs.is_blind = is_blind;
        if is_blind {
            self.hand_overs.look_by(self.io.now);
        }
    }

    /// Gives leaderships away that belong elsewhere, if it is time to look.
    pub(crate) fn give_away(&mut self) {
        if self.liveness.is_none() {
            return;
        }
        self.look_at_catalogue();
        let (now, space) = (self.io.now, self.ledger.wal.space());
        if space.refuse_appends {
            self.note_no_room();
        }
        // A log that found no room for a large group has some for small ones, but not enough.
        self.hand_overs.is_full &= space.throttle;
        if self.hand_overs.look_at.is_none_or(|at| at > now) {
            return;
        }
        self.hand_overs.look_at = None;
        let pause = now.after(HAND_OVER_PAUSE_NS.max(self.config.tuning.election_ns));
        let mut left = HAND_OVERS_AT_ONCE;
        let led: Vec<u64> =
            self.streams.iter().filter(|(_, s)| s.leading).map(|(stream, _)| *stream).collect();
        for stream in led {
            let Some((to, from)) = self.heir_of(stream) else { continue };
            if from > now || left == 0 {
                self.hand_overs.look_by(from.max(pause));
                continue;
            }
            // Another look, should it come to nothing.
            self.hand_overs.look_by(pause);
            let state = &self.streams[&stream];
            if state.replica.lag_of(to).is_some_and(|lag| lag <= HAND_OVER_LAG_BYTES)
                && self.step(stream, |r, now, fx| r.on_transfer(to, false, now, fx)) == Some(Ok(()))
            {
                left -= 1;
                self.hand_overs.gave.insert(stream, (to, now));
            }
        }
    }

    /// Who should lead a stream rather than this node, and from when on.
    fn heir_of(&self, stream: u64) -> Option<(u32, Nanos)> {
        let (state, overs) = (&self.streams[&stream], &self.hand_overs);
        if state.replica.is_transferring() {
            return None;
        }
        let mut heirs = state.replica.successors();
        if overs.is_unfit() {
            let heir = heirs.find(|(node, _)| overs.fit.contains_key(node));
            return heir.map(|(node, _)| (node, self.io.now));
        }
        let after = self.config.tuning.hand_over_after()?;
        if state.replica.is_appointed() {
            return None;
        }
        let (to, fit) = heirs
            .filter(|(_, before)| *before)
            .find_map(|(node, _)| overs.fit.get(&node).map(|fit| (node, *fit)))?;
        let well = fit.since.after(after.saturating_mul(fit.patience));
        Some((to, well.max(state.led_since.after(after))))
    }
}

/// Asked for.
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
