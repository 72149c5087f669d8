//! Appending many records with a bounded number in flight.
//!
//! With a producer id many requests are in flight at once, and what was lost with a connection
//! or refused is sent again under the same sequences: the leader answers a repetition with the
//! original position. Without one, requests go one after the other (so that the order holds even
//! when one is refused), and what was in flight on a broken connection is unknown.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use palisade_netio::{Class, FrameHead};

use super::session::{ANSWERS, PAUSE};
use super::wire::{
    APPEND_RECORDS_MAX, AppendBuilder, AppendRecord, AppendedRecord, KIND_APPEND, KIND_APPENDED,
    KIND_REFUSED, Outcome, PAYLOAD_BYTES_MAX, Refused, RefusedCode, parse_appended,
};
use super::{Client, ClientError, Connection};

/// Most records in flight.
pub const IN_FLIGHT_MAX: usize = 64 << 10;
/// Payload bytes in flight.
const WINDOW_BYTES_MAX: usize = 64 << 20;
/// Payload bytes of one request, unless a single record has more.
const REQUEST_BYTES_TARGET: usize = 256 << 10;
/// Requests that the window is cut into.
const REQUESTS_PER_WINDOW: usize = 8;
/// How often a source that has nothing yet is asked again.
const SOURCE_POLL: Duration = Duration::from_millis(5);

/// How records are appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendOptions {
    /// The stream.
    pub stream: u64,
    /// Who appends; 0 for nobody: then what was lost with a connection is unknown. A stream
    /// remembers 17,408 producers; one that was pushed out by others counts as new, and its
    /// sequence 1 would be appended again.
    pub producer: u64,
    /// Sequence of the first record, from 1; not used without a producer.
    pub first_sequence: u64,
    /// Records in flight, 1 to [`IN_FLIGHT_MAX`].
    pub in_flight: usize,
    /// How long a record may take.
    pub timeout: Duration,
}

/// What a source of records says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next record, at most [`PAYLOAD_BYTES_MAX`] bytes.
    Record(Vec<u8>),
    /// Nothing yet; asked again soon. Not allowed when the source was asked to wait.
    Pending,
    /// No more.
    End,
}

/// What became of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// Its number in the source, from 0.
    pub index: u64,
    /// Its sequence, 0 without a producer.
    pub sequence: u64,
    /// Outcome and place.
    pub appended: AppendedRecord,
    /// The node that said so; 0 when none did.
    pub node: u32,
    /// Time from its first request to this answer.
    pub took: Duration,
    /// Why it was not acked; empty otherwise.
    pub why: String,
}

/// Counts of outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Totals {
    /// In the log for good.
    pub acked: u64,
    /// Not in the log, and never will be.
    pub failed: u64,
    /// Nobody can say.
    pub unknown: u64,
    /// Requests sent again.
    pub retries: u64,
    /// Connections that were made; 0: no node could be reached.
    pub connections: u64,
}

impl Client {
    /// Appends every record of `source` and tells `on_fate` what became of each. `source` is
    /// told whether it may wait. With a producer, the first record that is not acked in time
    /// ends the run, since later ones would leave a gap.
    ///
    /// # Errors
    /// When no connection could be made in time, or a node breaks the protocol. What was in flight
    /// got its fate before.
    pub fn append_many(
        &mut self,
        options: &AppendOptions,
        source: &mut dyn FnMut(bool) -> Next,
        on_fate: &mut dyn FnMut(Fate),
    ) -> Result<Totals, ClientError> {
        let mut run = Run {
            client: self,
            options: AppendOptions {
                in_flight: options.in_flight.clamp(1, IN_FLIGHT_MAX),
                ..*options
            },
            connection: None,
            queue: VecDeque::new(),
            records: 0,
            bytes: 0,
            next_index: 0,
            draining: false,
            source_ended: false,
            acked_last: 0,
            last_error: String::new(),
            totals: Totals::default(),
            on_fate,
        };
        let result = run.go(source);
        if result.is_err() {
            run.settle_all("the run ended");
        }
        result.map(|()| run.totals)
    }
}

/// One request's records.
struct Request {
    id: u64,
    first: u64,
    payloads: Vec<Vec<u8>>,
    started: Instant,
    /// On its way on the present connection.
    sent: bool,
    /// It was on its way once and nobody said what became of it.
    maybe: bool,
    /// Why the last attempt failed.
    why: String,
}

struct Run<'a> {
    client: &'a mut Client,
    options: AppendOptions,
    connection: Option<Connection>,
    queue: VecDeque<Request>,
    records: usize,
    bytes: usize,
    next_index: u64,
    /// A request was refused: the rest is answered before anything is sent again.
    draining: bool,
    source_ended: bool,
    /// Highest sequence that was acked.
    acked_last: u64,
    last_error: String,
    totals: Totals,
    on_fate: &'a mut dyn FnMut(Fate),
}

impl Run<'_> {
    fn go(&mut self, source: &mut dyn FnMut(bool) -> Next) -> Result<(), ClientError> {
        loop {
            self.expire();
            // With nothing on its way there is no rest to wait for.
            self.draining &= !self.queue.is_empty();
            if self.queue.is_empty() && self.totals.connections == 0 && self.next_index > 0 {
                // Nothing was ever sent: more input would only meet the same fate.
                let waited_ms = self.options.timeout.as_millis() as u64;
                let last = std::mem::take(&mut self.last_error);
                return Err(ClientError::Unreachable { waited_ms, last });
            }
            let pending = self.pull(source);
            if self.queue.is_empty() && self.source_ended {
                return Ok(());
            }
            if self.queue.is_empty() {
                continue;
            }
            if let Err(error) = self.turn(pending) {
                self.on_broken(error)?;
            }
        }
    }

    /// Takes records from the source while the window has room; whether it has nothing yet.
    fn pull(&mut self, source: &mut dyn FnMut(bool) -> Next) -> bool {
        while !self.source_ended && !self.draining && self.has_room() {
            let room = self.options.in_flight - self.records;
            let per_request = match self.options.producer {
                0 => room,
                _ => self.options.in_flight.div_ceil(REQUESTS_PER_WINDOW).min(room),
            };
            let (mut payloads, mut bytes, mut pending) = (Vec::new(), 0, false);
            while payloads.len() < per_request.min(APPEND_RECORDS_MAX)
                && bytes < REQUEST_BYTES_TARGET
            {
                match source(self.queue.is_empty() && payloads.is_empty()) {
                    Next::Record(payload) => {
                        assert!(payload.len() <= PAYLOAD_BYTES_MAX, "a record above its limit");
                        bytes += payload.len();
                        payloads.push(payload);
                    }
                    Next::Pending => {
                        pending = true;
                        break;
                    }
                    Next::End => {
                        self.source_ended = true;
                        break;
                    }
                }
            }
            if !payloads.is_empty() {
                self.enqueue(payloads, bytes);
            }
            if pending {
                return true;
            }
        }
        false
    }

    fn has_room(&self) -> bool {
        let in_order = self.options.producer != 0 || self.queue.is_empty();
        in_order && self.records < self.options.in_flight && self.bytes < WINDOW_BYTES_MAX
    }

    fn enqueue(&mut self, payloads: Vec<Vec<u8>>, bytes: usize) {
        self.records += payloads.len();
        self.bytes += bytes;
        let first = self.next_index;
        self.next_index += payloads.len() as u64;
        self.queue.push_back(Request {
            id: 0,
            first,
            payloads,
            started: Instant::now(),
            sent: false,
            maybe: false,
            why: String::new(),
        });
    }

    /// Sends what waits, then takes one answer.
    fn turn(&mut self, pending: bool) -> Result<(), ClientError> {
        self.connect()?;
        if self.draining && !self.queue.iter().any(|request| request.sent) {
            self.draining = false;
        }
        if !self.draining {
            self.send_waiting()?;
        }
        let oldest = self.queue.front().map_or_else(Instant::now, |front| front.started);
        let mut deadline = oldest + self.options.timeout;
        if pending {
            deadline = deadline.min(Instant::now() + SOURCE_POLL);
        }
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let addr = connection.addr();
        let Some(frame) = connection.receive(&ANSWERS, deadline)? else { return Ok(()) };
        let (kind, id) = (frame.head.kind, frame.head.tag);
        let wrong = |error| ClientError::wire(addr, error);
        match kind {
            KIND_APPENDED => {
                let records = parse_appended(frame.body).map_err(wrong)?;
                self.on_appended(id, &records)
            }
            KIND_REFUSED => {
                let refused = Refused::parse(frame.body).map_err(wrong)?;
                self.on_refused(id, refused)
            }
            kind => {
                let what = format!("answer of kind {kind:#06x} to an append");
                Err(ClientError::Protocol { addr, what })
            }
        }
    }

    fn connect(&mut self) -> Result<(), ClientError> {
        if self.connection.is_none() {
            self.connection = Some(self.client.dial(Class::Client, self.options.stream)?);
            self.draining = false;
            self.totals.connections += 1;
        }
        Ok(())
    }

    fn send_waiting(&mut self) -> Result<(), ClientError> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        for request in self.queue.iter_mut().filter(|request| !request.sent) {
            let mut builder = AppendBuilder::default();
            for (at, payload) in request.payloads.iter().enumerate() {
                let (producer, sequence) = match self.options.producer {
                    0 => (0, 0),
                    id => (id, self.options.first_sequence + request.first + at as u64),
                };
                builder.push(&AppendRecord { producer, sequence, scn_floor: 0, payload });
            }
            request.id = self.client.next_id;
            self.client.next_id += 1;
            let (id, stream) = (request.id, self.options.stream);
            request.sent = true;
            let frame = FrameHead::encode(KIND_APPEND, id, stream, &builder.finish());
            connection.send(&frame)?;
        }
        Ok(())
    }

    fn on_appended(&mut self, id: u64, records: &[AppendedRecord]) -> Result<(), ClientError> {
        let Some(at) = self.queue.iter().position(|request| request.sent && request.id == id)
        else {
            // Its deadline passed before.
            return Ok(());
        };
        if records.len() != self.queue[at].payloads.len() {
            let addr = self.client.endpoints.current();
            let what = format!("{} outcomes of {}", records.len(), self.queue[at].payloads.len());
            return Err(ClientError::Protocol { addr, what });
        }
        self.client.endpoints.on_success();
        let acked = records.iter().take_while(|record| record.outcome == Outcome::Acked).count();
        if acked < records.len() && self.options.producer != 0 {
            // The rest is tried again under the same sequences; what is in is recognised.
            self.settle_front_part(at, &records[..acked]);
            let request = &mut self.queue[at];
            (request.sent, request.maybe) = (false, true);
            request.why = "the leader lost its place".to_owned();
            self.draining = true;
            self.totals.retries += 1;
            // An outcome that stays unknown must not keep node and client busy.
            std::thread::sleep(PAUSE);
            return Ok(());
        }
        self.settle_front_part(at, records);
        self.queue.remove(at);
        Ok(())
    }

    /// Gives the first records of a request their fates and takes them out of it.
    fn settle_front_part(&mut self, at: usize, records: &[AppendedRecord]) {
        let request = &mut self.queue[at];
        let first = request.first;
        let gone: Vec<_> = request.payloads.drain(..records.len()).collect();
        request.first += gone.len() as u64;
        let (took, why) = (request.started.elapsed(), request.why.clone());
        self.records -= gone.len();
        self.bytes -= gone.iter().map(Vec::len).sum::<usize>();
        for (offset, appended) in records.iter().enumerate() {
            let why = if appended.outcome == Outcome::Acked { String::new() } else { why.clone() };
            self.tell(first + offset as u64, *appended, took, why);
        }
    }

    fn tell(&mut self, index: u64, appended: AppendedRecord, took: Duration, why: String) {
        match appended.outcome {
            Outcome::Acked => self.totals.acked += 1,
            Outcome::Failed => self.totals.failed += 1,
            Outcome::Unknown => self.totals.unknown += 1,
        }
        let sequence = match self.options.producer {
            0 => 0,
            _ => self.options.first_sequence + index,
        };
        let acked = appended.outcome == Outcome::Acked;
        if acked {
            self.acked_last = self.acked_last.max(sequence);
        }
        let node = self.connection.as_ref().filter(|_| acked).map_or(0, |c| c.peer().node);
        (self.on_fate)(Fate { index, sequence, appended, node, took, why });
    }

    fn on_refused(&mut self, id: u64, refused: Refused) -> Result<(), ClientError> {
        let refused = self.unless_stale(refused);
        let Some(at) = self.queue.iter().position(|request| request.sent && request.id == id)
        else {
            return Ok(());
        };
        let earlier_open = self.draining || at > 0;
        let follows_a_refusal = refused.code == RefusedCode::SequenceGap && earlier_open;
        self.last_error = refused.to_string();
        let request = &mut self.queue[at];
        request.sent = false;
        request.why = refused.to_string();
        if !(refused.is_retryable() || follows_a_refusal) {
            let maybe = self.queue[at].maybe;
            self.settle(at, if maybe { Outcome::Unknown } else { Outcome::Failed });
            if self.options.producer != 0 {
                self.stop("an earlier record failed");
            }
            return Ok(());
        }
        self.totals.retries += 1;
        if !self.draining {
            self.draining = true;
            if refused.code == RefusedCode::Busy || refused.code == RefusedCode::NoSpace {
                std::thread::sleep(PAUSE);
            } else if refused.code != RefusedCode::SequenceGap {
                // Another node is asked; what else is in flight here is answered or unknown.
                return Err(ClientError::Refused(refused));
            }
        }
        Ok(())
    }

    /// A node that misses a sequence that was acked lost its leadership and does not know it yet.
    fn unless_stale(&self, refused: Refused) -> Refused {
        let expected = 1..=self.acked_last;
        if refused.code != RefusedCode::SequenceGap || !expected.contains(&refused.expected) {
            return refused;
        }
        let text = format!(
            "it expects sequence {} and {} is acked: another node leads by now",
            refused.expected, self.acked_last
        );
        Refused::new(RefusedCode::NotLeader, text)
    }

    /// The connection is of no use any more.
    fn on_broken(&mut self, error: ClientError) -> Result<(), ClientError> {
        self.connection = None;
        self.draining = false;
        let fatal = !error.is_retryable();
        self.last_error = error.to_string();
        let lost = |request: &&mut Request| request.sent;
        for request in self.queue.iter_mut().filter(lost) {
            (request.sent, request.maybe) = (false, true);
            request.why = error.to_string();
            self.totals.retries += 1;
        }
        if self.options.producer == 0 {
            while let Some(at) = self.queue.iter().position(|request| request.maybe) {
                self.settle(at, Outcome::Unknown);
            }
        }
        if fatal {
            return Err(error);
        }
        if !self.client.on_error(&error) {
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Ends what took too long. Never sent, or refused each time: failed. Else unknown.
    fn expire(&mut self) {
        let timeout = self.options.timeout;
        let late = |request: &Request| request.started.elapsed() >= timeout;
        let mut any = false;
        while let Some(at) = self.queue.iter().position(late) {
            let request = &self.queue[at];
            let open = request.sent || request.maybe;
            if self.queue[at].why.is_empty() {
                self.queue[at].why = match self.last_error.as_str() {
                    "" => "no answer in time".to_owned(),
                    last => format!("no answer in time; last: {last}"),
                };
            }
            self.settle(at, if open { Outcome::Unknown } else { Outcome::Failed });
            any = true;
        }
        if any && self.options.producer != 0 {
            self.stop("an earlier record was not acked in time");
        }
    }

    fn stop(&mut self, why: &str) {
        self.source_ended = true;
        self.settle_all(why);
    }

    fn settle_all(&mut self, why: &str) {
        while let Some(front) = self.queue.front_mut() {
            if front.why.is_empty() {
                front.why = why.to_owned();
            }
            let open = front.sent || front.maybe;
            self.settle(0, if open { Outcome::Unknown } else { Outcome::Failed });
        }
    }

    /// Gives all records of a request one fate and removes it.
    fn settle(&mut self, at: usize, outcome: Outcome) {
        let count = self.queue[at].payloads.len();
        self.settle_front_part(at, &vec![AppendedRecord::placeless(outcome); count]);
        self.queue.remove(at);
    }
}
