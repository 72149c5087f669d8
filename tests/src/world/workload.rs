//! Clients that append, create and read, and what they were told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use palisade::shard::{Answer, ReadPart};
use palisade::{Appended, Error, ErrorKind, NewRecord, Outcome, Stream};
use palisade_netio::Nanos;
use palisade_wal::{Ballot, Lsn};

use super::check::{Checks, Seat, Violation};
use super::client::{Client, Open, Sent};
use super::fleet::Fleet;
use super::history::{History, Stretch, Told};
use super::payload::{PAYLOAD_BYTES_MIN, payload};
use super::registrar::Registrar;
use super::settings::{MS, SECOND, Settings};
use crate::sim::Random;

/// Until a client asks again somewhere else.
const PATIENCE_NS: u64 = 3 * SECOND;
/// Until a client asks again, at most, once nothing new is asked for.
const AGAIN_NS: u64 = 200 * MS;
/// Attempts without an outcome of all clients together; more are not made.
const OPEN_MAX: usize = 4096;
/// Until a reader asks another node.
const READ_PATIENCE_NS: u64 = 2 * SECOND;
/// The stream with the entries of all others.
const CATALOGUE: u64 = 1;

type Outcomes = Arc<Mutex<VecDeque<(usize, Outcome)>>>;

/// Which client something is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// An appending one.
    Client(usize),
    /// A reading one.
    Reader(usize),
    /// The one that creates streams.
    Creator,
    /// The one that changes the registry of clusters.
    Registrar,
}

struct Reader {
    stream: u64,
    node: usize,
    next: Lsn,
    waiting: Option<(Answer<ReadPart>, Seat, Nanos)>,
}

#[derive(Default)]
struct Creator {
    wanted: usize,
    node: usize,
    waiting: Option<Answer<Vec<u64>>>,
}

/// See the [module](self).
pub struct Workload {
    settings: Settings,
    random: Random,
    /// What was asked and told.
    pub history: History,
    /// Streams that a creation has named.
    pub streams: Vec<u64>,
    clients: Vec<Client>,
    readers: Vec<Reader>,
    creator: Creator,
    /// Who changes the registry of clusters.
    pub registrar: Registrar,
    outcomes: Outcomes,
    /// Which client made an attempt.
    makers: Vec<usize>,
    /// The newest ballot of a cluster under which a stream has acknowledged something.
    acked_under: BTreeMap<(usize, u64), Ballot>,
    /// Clients ask for nothing new.
    draining: bool,
}

impl Workload {
    /// Nobody has asked for anything.
    pub fn new(settings: &Settings, seed: u64, registrar: Registrar) -> Workload {
        Workload {
            settings: settings.clone(),
            random: Random::new(seed),
            history: History::default(),
            streams: Vec::new(),
            clients: Vec::new(),
            readers: Vec::new(),
            creator: Creator { wanted: settings.streams, ..Creator::default() },
            registrar,
            outcomes: Outcomes::default(),
            makers: Vec::new(),
            acked_under: BTreeMap::new(),
            draining: false,
        }
    }

    /// Brings the clients to life, when streams are there: whom to wake first.
    pub fn start(&mut self) -> Vec<Wake> {
        assert!(!self.streams.is_empty());
        let (plain, producers) = (self.settings.plain_clients, self.settings.producers);
        for client in 0..plain + producers {
            let producer = if client < plain { 0 } else { client as u64 };
            let stream = self.any_stream();
            self.clients.push(Client::new(producer, stream));
        }
        for _ in 0..self.settings.readers {
            let stream = self.any_stream();
            self.readers.push(Reader { stream, node: 0, next: Lsn::ZERO, waiting: None });
        }
        self.creator.wanted += self.settings.late_streams;
        let clients = (0..self.clients.len()).map(Wake::Client);
        let readers = (0..self.readers.len()).map(Wake::Reader);
        let registrar = self.registrar.active.then_some(Wake::Registrar);
        clients.chain(readers).chain(registrar).collect()
    }

    /// Where the reader of a stream is that has read least.
    pub fn read_upto(&self, stream: u64) -> Option<Lsn> {
        self.readers.iter().filter(|r| r.stream == stream).map(|r| r.next).min()
    }

    /// Whether streams are still to be created.
    pub fn wants_streams(&self) -> bool {
        self.creator.wanted > 0 || self.creator.waiting.is_some()
    }

    /// Lets clients ask for nothing new, only again, soon: whom to wake.
    pub fn drain(&mut self) -> Vec<Wake> {
        self.draining = true;
        (0..self.clients.len()).map(Wake::Client).collect()
    }

    /// Whether nothing that was asked is without an outcome.
    pub fn is_settled(&self, fleet: &Fleet) -> bool {
        self.registrar.is_settled(fleet)
            && self.history.open == 0
            && self.clients.iter().all(|client| client.open.is_empty())
    }

    /// What is not settled, for a report.
    pub fn unsettled(&self) -> String {
        let open = self.history.attempts.iter().filter(|attempt| attempt.told.is_none());
        let open: Vec<_> = open.map(|a| (a.node, self.history.records[a.record].stream)).collect();
        let clients: Vec<_> = self
            .clients
            .iter()
            .filter(|client| !client.open.is_empty())
            .map(|c| (c.producer, c.stream, c.open.front().map(|open| open.sent)))
            .collect();
        let (some, more) = (&open[..open.len().min(8)], open.len().saturating_sub(8));
        format!("attempts (node, stream) {some:?} and {more} more; producers {clients:?}")
    }

    fn any_stream(&mut self) -> u64 {
        self.streams[self.random.index(self.streams.len())]
    }

    /// Lets one client act: when to wake it again.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn wake(
        &mut self,
        who: Wake,
        now: Nanos,
        fleet: &Fleet,
        checks: &mut Checks,
    ) -> Result<Nanos, Violation> {
        match who {
            Wake::Client(client) => {
                self.append(client, now, fleet);
                // New records may come further apart than a run waits at its end.
                Ok(match self.draining {
                    true => now.after(self.random.between(MS, AGAIN_NS)),
                    false => self.settings.next_issue(now, &mut self.random),
                })
            }
            Wake::Reader(reader) => {
                self.read(reader, now, fleet, checks)?;
                Ok(now.after(self.random.between(MS, 40 * MS)))
            }
            Wake::Registrar => {
                self.registrar.act(fleet, self.draining)?;
                Ok(now.after(self.registrar.pause(self.draining)))
            }
            Wake::Creator => {
                self.create(fleet)?;
                Ok(now.after(self.random.between(10 * MS, 300 * MS)))
            }
        }
    }
}

/// Appends.
impl Workload {
    fn append(&mut self, client: usize, now: Nanos, fleet: &Fleet) {
        if self.clients[client].retired {
            return;
        }
        self.clients[client].lose_patience(now);
        if self.clients[client].is_broken() {
            return self.ask_again(client, now, fleet);
        }
        if self.draining {
            return;
        }
        let count = self.random.between(1, self.settings.burst);
        for _ in 0..count {
            let full = self.clients[client].outstanding() >= self.settings.window;
            if full || self.history.open >= OPEN_MAX || self.clients[client].is_broken() {
                return;
            }
            let stream = match self.clients[client].producer {
                0 => self.any_stream(),
                _ => self.clients[client].stream,
            };
            self.append_new(client, stream, now, fleet);
        }
    }

    fn append_new(&mut self, client: usize, stream: u64, now: Nanos, fleet: &Fleet) {
        let len = self.random.between(PAYLOAD_BYTES_MIN, self.settings.payload_max);
        let scn_floor = match self.random.below(20) {
            0 => now.0 + self.random.below(20 * SECOND),
            _ => 0,
        };
        let Client { producer, sequence, .. } = self.clients[client];
        let sequence = if producer == 0 { 0 } else { sequence };
        let record = self.history.want(stream, producer, sequence, len, scn_floor);
        if producer == 0 {
            self.clients[client].loose += 1;
        } else {
            self.clients[client].sequence += 1;
            let open = Open { record, sent: Sent::Again, patience: Nanos(u64::MAX) };
            self.clients[client].open.push_back(open);
        }
        self.ask(client, record, now, fleet);
    }

    /// Asks once more for all that a producer has open, in order.
    fn ask_again(&mut self, client: usize, now: Nanos, fleet: &Fleet) {
        let waits = |open: &Open| matches!(open.sent, Sent::Waiting(_));
        if self.clients[client].open.iter().any(waits) && self.random.below(4) > 0 {
            return;
        }
        let records: Vec<usize> = self.clients[client].open.iter().map(|o| o.record).collect();
        self.clients[client].open.iter_mut().for_each(|open| open.sent = Sent::Again);
        if self.history.open + records.len() > OPEN_MAX {
            return;
        }
        for record in records {
            self.ask(client, record, now, fleet);
        }
    }

    fn ask(&mut self, client: usize, record: usize, now: Nanos, fleet: &Fleet) {
        let wanted = &self.history.records[record];
        let stream = wanted.stream;
        let new = NewRecord {
            payload: payload(record as u64, wanted.len),
            producer: wanted.producer,
            sequence: wanted.sequence,
            scn_floor: wanted.scn_floor,
        };
        let node = match self.random.below(64) {
            // A mistake: whoever it is may be of a standby.
            0 => self.random.index(fleet.nodes.len()),
            _ => self.clients[client].guess(stream),
        };
        let attempt = self.history.invoke(record, node, now);
        self.makers.push(client);
        assert!(self.makers.len() == attempt + 1);
        let known = &mut self.clients[client];
        if let Some(open) = known.open.iter_mut().find(|open| open.record == record) {
            open.sent = Sent::Waiting(attempt);
            open.patience = now.after(PATIENCE_NS);
        }
        let outcomes = self.outcomes.clone();
        let tell = move |outcome: &Outcome| {
            outcomes.lock().expect("nobody panics with it").push_back((attempt, outcome.clone()));
        };
        match fleet.port(node, stream) {
            Some(port) => Stream::new(stream, port).append_record(new).on_done(tell),
            None => tell(&Err(Error::new(ErrorKind::NotLeader, "the node is down"))),
        }
    }

    /// Takes the outcomes that came since the last call.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn take_outcomes(
        &mut self,
        fleet: &Fleet,
        checks: &mut Checks,
    ) -> Result<Vec<(usize, Told)>, Violation> {
        let mut told = Vec::new();
        loop {
            let next = self.outcomes.lock().expect("nobody panics with it").pop_front();
            let Some((attempt, outcome)) = next else { return Ok(told) };
            let node = self.history.attempts[attempt].node;
            let stream = self.history.records[self.history.attempts[attempt].record].stream;
            let ballot = fleet.replica(node, stream).map_or(Ballot::NONE, |r| r.log().accepting());
            let cluster = fleet.nodes[node].cluster;
            let newest = self.acked_under.entry((cluster, stream)).or_default();
            // Who leads under an older ballot need not know what was acknowledged since.
            let leads = fleet.leader(cluster, stream) == Some(node) && ballot >= *newest;
            let by_leader = leads && cluster == fleet.primary();
            if outcome.is_ok() {
                *newest = ballot.max(*newest);
            }
            if outcome.is_ok() && !fleet.is_primary(node) {
                let text = format!("node #{node} acknowledged an append to stream {stream}");
                return Err(Violation::new("standby_refuses", text));
            }
            checks.on_outcome(&self.history, attempt, &outcome, cluster, by_leader)?;
            let what = self.history.tell(attempt, &outcome);
            let client = self.makers[attempt];
            self.clients[client].on_told(attempt, what);
            if Client::should_move(what) {
                let hint = outcome.err().and_then(|e| fleet.at(e.leader_hint()?));
                let node = hint.unwrap_or_else(|| self.any_node(fleet));
                self.clients[client].set_guess(stream, node);
            }
            told.push((attempt, what));
        }
    }

    fn any_node(&mut self, fleet: &Fleet) -> usize {
        let nodes = &fleet.clusters[fleet.primary()].nodes;
        nodes[self.random.index(nodes.len())]
    }
}

/// Creations and reads.
impl Workload {
    fn create(&mut self, fleet: &Fleet) -> Result<(), Violation> {
        if let Some(answer) = &self.creator.waiting {
            match answer.try_take() {
                None => return Ok(()),
                Some(Ok(ids)) => {
                    if !fleet.is_primary(self.creator.node) {
                        let text = format!("node #{} created {ids:?}", self.creator.node);
                        return Err(Violation::new("standby_refuses", text));
                    }
                    self.creator.wanted = self.creator.wanted.saturating_sub(ids.len());
                    self.streams.extend(ids);
                }
                Some(Err(error)) => {
                    let hint = error.leader_hint().and_then(|hint| fleet.at(hint));
                    self.creator.node = hint.unwrap_or_else(|| self.any_node(fleet));
                }
            }
            self.creator.waiting = None;
        }
        if self.creator.wanted == 0 || self.draining {
            return Ok(());
        }
        if self.random.below(8) == 0 {
            self.creator.node = self.random.index(fleet.nodes.len());
        }
        let count = self.random.between(1, self.creator.wanted as u64) as usize;
        let port = fleet.port(self.creator.node, CATALOGUE);
        self.creator.waiting = port.and_then(|port| port.create_streams(count).ok());
        if self.creator.waiting.is_none() {
            self.creator.node = self.any_node(fleet);
        }
        Ok(())
    }

    fn read(
        &mut self,
        at: usize,
        now: Nanos,
        fleet: &Fleet,
        checks: &mut Checks,
    ) -> Result<(), Violation> {
        let moves = self.random.index(fleet.nodes.len());
        let reader = &mut self.readers[at];
        let Some((answer, seat, patience)) = &reader.waiting else {
            let node = &fleet.nodes[reader.node];
            let (cluster, boot, stream) = (node.cluster, node.boots, reader.stream);
            let seat = Seat { cluster, node: reader.node, boot, stream };
            let asked = fleet.port(reader.node, stream).map(|port| port.read(stream, reader.next));
            match asked {
                Some(Ok(answer)) => {
                    reader.waiting = Some((answer, seat, now.after(READ_PATIENCE_NS)));
                }
                _ => reader.node = moves,
            }
            return Ok(());
        };
        match answer.try_take() {
            None if now < *patience => return Ok(()),
            None => reader.node = moves,
            Some(Ok(part)) => {
                let (from, upto, records) = (reader.next, part.next, part.records.len());
                checks.on_read(*seat, from, &part.records)?;
                if upto < from {
                    let text = format!("{seat}: a read from {from} goes on at {upto}");
                    return Err(Violation::new("read-order", text));
                }
                let stream = reader.stream;
                self.history.stretches.push(Stretch { stream, from, upto, records });
                reader.next = upto;
                if self.random.below(16) == 0 {
                    reader.node = moves;
                }
            }
            Some(Err(error)) if error.kind() == ErrorKind::Corrupt => {
                let text = format!("{seat}: a read from {}: {error}", reader.next);
                return Err(Violation::new("readable", text));
            }
            Some(Err(_)) => reader.node = moves,
        }
        self.readers[at].waiting = None;
        Ok(())
    }
}

/// The end of a run.
impl Workload {
    /// A stream goes on at `fork`, without these records: their producers end, as the numbers that
    /// they go on with make no sense there; and what readers saw above is no part of it.
    pub fn forget(&mut self, stream: u64, fork: Lsn, lost: &[(usize, Appended)]) {
        let producers = lost.iter().map(|(record, _)| self.history.records[*record].producer);
        let producers: BTreeSet<u64> = producers.filter(|producer| *producer > 0).collect();
        for client in self.clients.iter_mut().filter(|it| producers.contains(&it.producer)) {
            client.retired = true;
            client.open.clear();
        }
        for reader in self.readers.iter_mut().filter(|reader| reader.stream == stream) {
            (reader.next, reader.waiting) = (reader.next.min(fork), None);
        }
        self.history.stretches.retain(|it| it.stream != stream || it.upto <= fork);
    }

    /// Asks for one record in each of `streams`, in the name of nobody.
    pub fn probe(&mut self, streams: &[u64], fleet: &Fleet, now: Nanos) {
        let plain = self.clients.iter().position(|client| client.producer == 0);
        let client = plain.expect("there is a client without a producer id");
        for &stream in streams {
            if self.history.open < OPEN_MAX {
                self.append_new(client, stream, now, fleet);
            }
        }
    }
}
