//! The blocking client: finds the leader, asks, follows redirections, keeps deadlines.

use std::time::{Duration, Instant};

use palisade_netio::{Class, FrameHead, FrameLimits};
use palisade_wal::Lsn;

use super::wire::{
    KIND_CONTROL, KIND_CONTROLLED, KIND_CREATE_STREAMS, KIND_CREATED, KIND_LIST_STREAMS,
    KIND_REBUILD, KIND_REBUILDING, KIND_REFUSED, KIND_REGISTRY, KIND_REGISTRY_JSON, KIND_STATUS,
    KIND_STATUS_JSON, KIND_STREAMS, KIND_TRANSFER_LEADER, KIND_TRANSFERRED, KIND_TRUNCATE,
    KIND_TRUNCATED, Refused, RefusedCode, STREAMS_MAX, StreamEntry, encode_create_streams,
    encode_position, encode_transfer, parse_created, parse_position, parse_streams,
    parse_transferred,
};
use super::{ClientError, Connection, Endpoints};
use crate::control::{Controlled, RegistryView, Request};

/// Stream whose leader creates and lists streams.
const CATALOGUE: u64 = 1;
/// Longest time for one connection and its greeting.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Pause before the nodes are asked again: none of them tells a client when one leads.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// What a client accepts of a node.
pub(super) const ANSWERS: FrameLimits =
    FrameLimits { body_bytes_max: FrameLimits::ANY.body_bytes_max, plain: true, bulk: false };

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientOptions {
    /// The cluster it wants; 0 for whichever answers.
    pub cluster: u32,
    /// How long a request may take, all attempts together.
    pub timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions { cluster: 0, timeout: Duration::from_secs(10) }
    }
}

/// A blocking client of one cluster.
#[derive(Debug)]
pub struct Client {
    pub(super) endpoints: Endpoints,
    pub(super) options: ClientOptions,
    pub(super) next_id: u64,
}

impl Client {
    /// A client of the nodes `HOST:PORT`. Connects when first needed.
    ///
    /// # Errors
    /// When a name is no address.
    pub fn new<S: AsRef<str>>(nodes: &[S], options: ClientOptions) -> Result<Client, ClientError> {
        Ok(Client { endpoints: Endpoints::new(nodes)?, options, next_id: 1 })
    }

    /// The nodes of the list.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// The state of one node as JSON: the first of the list that answers.
    ///
    /// # Errors
    /// When no node answers in time.
    pub fn status_json(&mut self) -> Result<Vec<u8>, ClientError> {
        self.ask(KIND_STATUS, 0, &[], KIND_STATUS_JSON)
    }

    /// Creates streams and returns their ids.
    ///
    /// # Errors
    /// When the leader refuses or cannot be reached; [`ClientError::Unknown`] when it went away.
    pub fn create_streams(&mut self, count: u32) -> Result<Vec<u64>, ClientError> {
        let body = encode_create_streams(count);
        let answer = self.ask(KIND_CREATE_STREAMS, CATALOGUE, &body, KIND_CREATED)?;
        parse_created(&answer).map_err(|error| ClientError::wire(self.endpoints.current(), error))
    }

    /// Asks the leader of a stream to hand over to the node `to`, and waits until that leads: the
    /// round of its ballot.
    ///
    /// # Errors
    /// The refusal says why not; [`ClientError::Unknown`] when the leader went away meanwhile.
    pub fn transfer_leader(&mut self, stream: u64, to: u32) -> Result<u64, ClientError> {
        let answer =
            self.ask(KIND_TRANSFER_LEADER, stream, &encode_transfer(to), KIND_TRANSFERRED)?;
        let (leader, round) = parse_transferred(&answer)
            .map_err(|error| ClientError::wire(self.endpoints.current(), error))?;
        if leader == to {
            return Ok(round);
        }
        let what = format!("node {leader} leads, asked for {to}");
        Err(ClientError::Protocol { addr: self.endpoints.current(), what })
    }

    /// Says to the first node of the list that answers that nobody needs a stream below `to` there
    /// any more, as [`Stream::truncate_to`](crate::Stream::truncate_to) does: from where it can
    /// be read there now.
    ///
    /// # Errors
    /// The refusal says why not; or no node answers in time.
    pub fn truncate(&mut self, stream: u64, to: Lsn) -> Result<Lsn, ClientError> {
        let answer = self.ask(KIND_TRUNCATE, stream, &encode_position(to), KIND_TRUNCATED)?;
        parse_position(&answer).map_err(|error| ClientError::wire(self.endpoints.current(), error))
    }

    /// Wants a stream of a standby to begin anew where its upstream's log begins, because nobody
    /// has what comes next: above which position. What the standby has of it stays until then.
    ///
    /// # Errors
    /// The refusal says why not; or no node answers in time.
    pub fn rebuild(&mut self, stream: u64) -> Result<Lsn, ClientError> {
        let answer = self.ask(KIND_REBUILD, stream, &[], KIND_REBUILDING)?;
        parse_position(&answer).map_err(|error| ClientError::wire(self.endpoints.current(), error))
    }

    /// The streams that a node knows, by id; asked for in as many parts as it takes.
    ///
    /// # Errors
    /// When no node answers in time.
    pub fn list_streams(&mut self) -> Result<Vec<StreamEntry>, ClientError> {
        let (mut all, mut first) = (Vec::new(), 0);
        loop {
            let answer = self.ask(KIND_LIST_STREAMS, first, &[], KIND_STREAMS)?;
            let part = parse_streams(&answer);
            let part = part.map_err(|e| ClientError::wire(self.endpoints.current(), e))?;
            let next = part.last().map(|last| last.id + 1);
            let is_full = part.len() == STREAMS_MAX;
            all.extend(part);
            match next {
                // A node that gives the same part again must not keep this busy for ever.
                Some(next) if is_full && next > first => first = next,
                _ => return Ok(all),
            }
        }
    }

    /// Asks for a change of the registry of clusters or of the protection mode; with `dry_run`
    /// only whether it could be made. One that somebody else outran is asked for again.
    ///
    /// # Errors
    /// A rule forbids it ([`ClientError::rule`]), the leader cannot be reached, or
    /// [`ClientError::Unknown`] when it went away.
    pub fn control(&mut self, request: &Request, dry_run: bool) -> Result<Controlled, ClientError> {
        let body = request.encode(dry_run);
        let answer = self.ask(KIND_CONTROL, CATALOGUE, &body, KIND_CONTROLLED)?;
        self.read_json(&answer)
    }

    /// The registry of clusters and the protection mode, as the leader of the catalogue knows them.
    /// Without a leader before long as some node does: then `current` is false.
    ///
    /// # Errors
    /// When no node answers in time.
    pub fn registry(&mut self) -> Result<RegistryView, ClientError> {
        let until = Instant::now() + self.options.timeout.min(CONNECT_MAX);
        loop {
            let answer = self.ask(KIND_REGISTRY, CATALOGUE, &[], KIND_REGISTRY_JSON)?;
            let view: RegistryView = self.read_json(&answer)?;
            if view.current {
                return Ok(view);
            }
            let newer = view.leader.as_ref().and_then(|leader| self.registry_at(leader).ok());
            match newer.filter(|newer| newer.current) {
                Some(newer) => return Ok(newer),
                // What is there is better than nothing, and says that it may be old.
                None if Instant::now() >= until => return Ok(view),
                None => std::thread::sleep(PAUSE),
            }
        }
    }

    fn registry_at(&self, leader: &str) -> Result<RegistryView, ClientError> {
        let timeout = self.options.timeout.min(CONNECT_MAX);
        let mut client = Client::new(&[leader], ClientOptions { timeout, ..self.options })?;
        let answer = client.ask(KIND_REGISTRY, CATALOGUE, &[], KIND_REGISTRY_JSON)?;
        client.read_json(&answer)
    }

    fn read_json<T: serde::de::DeserializeOwned>(&self, json: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(json).map_err(|error| ClientError::Protocol {
            addr: self.endpoints.current(),
            what: format!("unreadable answer: {error}"),
        })
    }

    /// Opens a connection to the current endpoint.
    pub(super) fn dial(&self, class: Class, stream: u64) -> Result<Connection, ClientError> {
        let timeout = self.options.timeout.min(CONNECT_MAX);
        let addr = self.endpoints.current();
        Connection::open(addr, class, self.options.cluster, stream, timeout)
    }

    fn ask(
        &mut self,
        kind: u16,
        stream: u64,
        body: &[u8],
        wanted: u16,
    ) -> Result<Vec<u8>, ClientError> {
        let started = Instant::now();
        let deadline = started + self.options.timeout;
        loop {
            let error = match self.ask_once(kind, stream, body, wanted, deadline) {
                Ok(answer) => {
                    self.endpoints.on_success();
                    return Ok(answer);
                }
                Err(error) => error,
            };
            if !error.is_retryable() {
                return Err(error);
            }
            let at_once = self.on_error(&error);
            if Instant::now() >= deadline {
                let waited_ms = started.elapsed().as_millis() as u64;
                return Err(match error {
                    ClientError::Refused(refused) => ClientError::Refused(refused),
                    last => ClientError::Unreachable { waited_ms, last: last.to_string() },
                });
            }
            if !at_once {
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Chooses the next node after a failure; whether it may be asked at once.
    pub(super) fn on_error(&mut self, error: &ClientError) -> bool {
        match error {
            ClientError::Refused(refused) if refused.is_elsewhere() => {
                self.endpoints.on_not_leader(error.leader_hint())
            }
            // The leader says so, and nobody else can do it.
            ClientError::Refused(refused)
                if matches!(
                    refused.code,
                    RefusedCode::Busy | RefusedCode::Behind | RefusedCode::Conflict
                ) =>
            {
                false
            }
            _ => {
                self.endpoints.on_failure();
                false
            }
        }
    }

    fn ask_once(
        &mut self,
        kind: u16,
        stream: u64,
        body: &[u8],
        wanted: u16,
        deadline: Instant,
    ) -> Result<Vec<u8>, ClientError> {
        let mut connection = self.dial(Class::Client, stream)?;
        let addr = connection.addr();
        let id = self.next_id;
        self.next_id += 1;
        connection.send(&FrameHead::encode(kind, id, stream, body))?;
        // Once it left, only what changes nothing may be asked again.
        let harmless = !matches!(kind, KIND_CREATE_STREAMS | KIND_TRANSFER_LEADER | KIND_CONTROL);
        let frame = match connection.receive(&ANSWERS, deadline) {
            Ok(Some(frame)) => frame,
            Ok(None) if harmless => {
                let source = std::io::ErrorKind::TimedOut.into();
                return Err(ClientError::Io { addr, source });
            }
            Err(error) if harmless => return Err(error),
            Ok(None) | Err(_) => return Err(ClientError::Unknown { addr }),
        };
        if frame.head.tag != id {
            let what = format!("answer to request {}, asked {id}", frame.head.tag);
            return Err(ClientError::Protocol { addr, what });
        }
        match frame.head.kind {
            found if found == wanted => Ok(frame.body.to_vec()),
            KIND_REFUSED => {
                let refused = Refused::parse(frame.body);
                Err(refused.map_err(|error| ClientError::wire(addr, error))?.into())
            }
            found => {
                let what = format!("answer of kind {found:#06x}, wanted {wanted:#06x}");
                Err(ClientError::Protocol { addr, what })
            }
        }
    }
}
