//! Reading a stream from any node: checks every byte, keeps its place over reconnects.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use palisade_netio::Class;
use palisade_wal::{GroupHeader, GroupKind, Lsn, entries, parse_body};
use zerocopy::FromBytes;

use super::session::PAUSE;
use super::{Client, ClientError, Connection};
use crate::forward::wire::{
    ChunkHead, End, EndReason, FROM_FORWARDER, Fetch, FromForwarder, FromReader,
};

/// Credit that the sender starts with.
const CREDIT_BYTES: u64 = 16 << 20;
/// Credit is given back in steps of this.
const CREDIT_STEP_BYTES: u64 = 2 << 20;

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// The stream.
    pub stream: u64,
    /// First position; the first record that starts at or after it comes first.
    pub from: u64,
    /// Records that start here or later are left out; `None`: the committed end when asked.
    pub to: Option<u64>,
    /// Go on with what is committed later.
    pub follow: bool,
    /// Silence of all nodes after which the read fails.
    pub timeout: Duration,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRecord<'a> {
    /// Where its entry starts.
    pub lsn: u64,
    /// Where its entry ends.
    pub end_lsn: u64,
    /// Its SCN.
    pub scn: u64,
    /// Who appended it; 0 when it did not say.
    pub producer: u64,
    /// The producer's number for it.
    pub sequence: u64,
    /// Its bytes.
    pub payload: &'a [u8],
}

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Ending {
    /// Everything before it was read.
    pub position: u64,
    /// Committed end at the node when it ended.
    pub committed: u64,
    /// First position that the node still has.
    pub base: u64,
}

/// Takes each record; may end the read.
pub type OnRecord<'a> = dyn FnMut(&ReadRecord<'_>) -> ControlFlow<()> + 'a;

/// A read in progress; survives the loss of its connection.
#[derive(Debug)]
pub struct Reader {
    options: ReadOptions,
    position: Lsn,
    /// Chain after the last group, if it ended at `position`.
    chain: Option<(Lsn, u64)>,
    unpaid: u64,
    heard: Instant,
}

enum Step {
    Go,
    Stopped,
    Ended(End),
}

impl Client {
    /// Reads a stream from the first node that has it.
    ///
    /// # Errors
    /// [`ClientError::Recycled`] when the start is gone; [`ClientError::Unreachable`] when no node
    /// said anything for the timeout; other errors when nothing else may help.
    pub fn read(
        &mut self,
        options: &ReadOptions,
        on_record: &mut OnRecord<'_>,
    ) -> Result<Ending, ClientError> {
        let mut reader = Reader::new(*options);
        // Nodes that said no, one after the other, without a record in between.
        let mut refusals = 0;
        loop {
            let before = reader.position;
            let error = match self.read_once(&mut reader, on_record) {
                Ok(ending) => return Ok(ending),
                Err(error) if !error.is_retryable() => return Err(error),
                Err(error) => error,
            };
            self.endpoints.on_failure();
            let moved = reader.position > before;
            refusals = match &error {
                _ if moved => 0,
                ClientError::Ended { .. } => refusals + 1,
                _ => refusals,
            };
            let waited = reader.heard.elapsed();
            if refusals >= self.endpoints.known().len() {
                return Err(error);
            }
            if waited >= options.timeout {
                let waited_ms = waited.as_millis() as u64;
                return Err(ClientError::Unreachable { waited_ms, last: error.to_string() });
            }
            if !moved {
                std::thread::sleep(PAUSE);
            }
        }
    }

    fn read_once(
        &mut self,
        reader: &mut Reader,
        on_record: &mut OnRecord<'_>,
    ) -> Result<Ending, ClientError> {
        let mut connection = self.dial(Class::Reader, reader.options.stream)?;
        reader.run(&mut connection, on_record)
    }
}

impl Reader {
    fn new(options: ReadOptions) -> Reader {
        let position = Lsn(options.from);
        Reader { options, position, chain: None, unpaid: 0, heard: Instant::now() }
    }

    fn run(
        &mut self,
        connection: &mut Connection,
        on_record: &mut OnRecord<'_>,
    ) -> Result<Ending, ClientError> {
        let addr = connection.addr();
        // The node starts again at the group that holds the position.
        (self.chain, self.unpaid) = (None, 0);
        let fetch = Fetch {
            stream: self.options.stream,
            from: self.position,
            to: self.options.to.map_or(Lsn::MAX, Lsn),
            follow: self.options.follow,
            base: None,
            credit_bytes: CREDIT_BYTES,
        };
        connection.send(&FromReader::Fetch(fetch).encode())?;
        loop {
            match self.step(connection, on_record)? {
                Step::Go => {}
                Step::Stopped => {
                    return Ok(Ending { position: self.position.0, ..Ending::default() });
                }
                Step::Ended(end) => return self.on_end(addr, &end),
            }
            if self.unpaid >= CREDIT_STEP_BYTES {
                let (stream, bytes) = (self.options.stream, std::mem::take(&mut self.unpaid));
                connection.send(&FromReader::Credit { stream, bytes }.encode())?;
            }
        }
    }

    fn step(
        &mut self,
        connection: &mut Connection,
        on_record: &mut OnRecord<'_>,
    ) -> Result<Step, ClientError> {
        let addr = connection.addr();
        let protocol = |what: String| ClientError::Protocol { addr, what };
        let deadline = Instant::now() + self.options.timeout;
        let Some(frame) = connection.receive(&FROM_FORWARDER, deadline)? else {
            let source = std::io::Error::new(std::io::ErrorKind::TimedOut, "the node is silent");
            return Err(ClientError::Io { addr, source });
        };
        let rest = if frame.prefix.is_empty() { frame.body } else { frame.prefix };
        let said = FromForwarder::parse(&frame.head, rest);
        let said = said.map_err(|error| protocol(error.to_string()))?;
        match said {
            FromForwarder::Chunk(head) if head.compressed.is_some() => {
                Err(protocol("a compressed chunk that was not asked for".to_owned()))
            }
            FromForwarder::Chunk(head) if head.stream == self.options.stream && head.base => {
                // The log goes on further up: what was between is not kept.
                Err(ClientError::Recycled { base_lsn: head.end.0 })
            }
            FromForwarder::Chunk(head) if head.stream == self.options.stream => {
                self.heard = Instant::now();
                self.unpaid += frame.body.len() as u64;
                let flow = self.on_chunk(&head, frame.body, on_record).map_err(protocol)?;
                Ok(if flow.is_break() { Step::Stopped } else { Step::Go })
            }
            FromForwarder::End(end) if end.stream == self.options.stream => Ok(Step::Ended(end)),
            FromForwarder::Chunk(_) | FromForwarder::End(_) => {
                Err(protocol("a stream that was not asked for".to_owned()))
            }
            FromForwarder::Status(_) | FromForwarder::Beat(_) => {
                self.heard = Instant::now();
                Ok(Step::Go)
            }
        }
    }

    fn on_chunk(
        &mut self,
        head: &ChunkHead,
        body: &[u8],
        on_record: &mut OnRecord<'_>,
    ) -> Result<ControlFlow<()>, String> {
        let metas = parse_body(body, head.headers_crc).map_err(|error| error.to_string())?;
        for meta in metas {
            let bytes = &body[meta.range()];
            let (group, _) = GroupHeader::read_from_prefix(bytes)
                .map_err(|_| "a record that is no group".to_owned())?;
            if meta.stream != self.options.stream {
                return Err(format!("a group of stream {}", meta.stream));
            }
            if let Some((end, chain)) = self.chain
                && (end != meta.lsn || !group.follows(chain))
            {
                return Err(format!("the group at {} does not follow the one before", meta.lsn));
            }
            if self.chain.is_none() && meta.lsn > self.position {
                return Err(format!("asked from {}, got {}", self.position, meta.lsn));
            }
            self.chain = Some((meta.end, group.chain.get()));
            let is_data = group.kind == GroupKind::Data as u8;
            if is_data && self.give(bytes, meta.scn, on_record).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            self.position = self.position.max(meta.end);
        }
        Ok(ControlFlow::Continue(()))
    }

    fn give(&mut self, group: &[u8], scn: u64, on_record: &mut OnRecord<'_>) -> ControlFlow<()> {
        for entry in entries(group) {
            if entry.lsn < self.position {
                continue;
            }
            if self.options.to.is_some_and(|to| entry.lsn.0 >= to) {
                break;
            }
            self.position = entry.end;
            let (lsn, end_lsn) = (entry.lsn.0, entry.end.0);
            let (producer, sequence, payload) = (entry.producer, entry.sequence, entry.payload);
            on_record(&ReadRecord { lsn, end_lsn, scn, producer, sequence, payload })?;
        }
        ControlFlow::Continue(())
    }

    fn on_end(&self, addr: std::net::SocketAddr, end: &End) -> Result<Ending, ClientError> {
        match end.reason {
            EndReason::ReachedTo => Ok(Ending {
                position: self.position.0,
                committed: end.committed.0,
                base: end.base.0,
            }),
            EndReason::Recycled { base } => Err(ClientError::Recycled { base_lsn: base.0 }),
            reason => {
                let why = format!("stream {}: {reason}", self.options.stream);
                let damaged = reason == EndReason::Damaged;
                Err(ClientError::Ended { addr, why, damaged })
            }
        }
    }
}
