//! Clients of a shard: requests in, one answer each.

use std::collections::BTreeMap;

use bytes::Bytes;
use palisade_netio::{Frame, FrameHead, Outgoing, Ring};
use palisade_wal::GroupKind;

use crate::append::Outcome;
use crate::client::wire::{self, AppendedRecord, Refused, RefusedCode};
use crate::error::{Error, ErrorKind};
use crate::handle::NewRecord;
use crate::limits::SESSION_APPENDS_MAX;
use crate::shard::Shard;
use crate::shard::net::Duty;
use crate::shard::stream::Reply;
use crate::shard::survey::Wanted;
use crate::stream::catalogue::CATALOGUE_STREAM;

/// One client connection.
#[derive(Default)]
pub(crate) struct Session {
    requests: BTreeMap<u64, Request>,
    next: u64,
    /// Records that wait for their outcome.
    records: usize,
}

struct Request {
    tag: u64,
    stream: u64,
    results: Vec<Option<Outcome>>,
    left: usize,
}

impl<R: Ring> Shard<R> {
    /// A client's frame came in.
    pub(crate) fn on_client_frame(&mut self, conn: u32, frame: &Frame) {
        let start = frame.body.at as usize;
        let range = start..start + frame.body.len as usize;
        let body = Bytes::copy_from_slice(&self.io.pool.bytes(frame.slot)[range]);
        let FrameHead { kind, tag, tag2: stream, .. } = frame.head;
        match kind {
            wire::KIND_APPEND => self.on_append_request(conn, tag, stream, &body),
            wire::KIND_CREATE_STREAMS => self.on_create_request(conn, tag, &body),
            wire::KIND_LIST_STREAMS => self.survey(conn, tag, Wanted::Streams(stream)),
            wire::KIND_TRANSFER_LEADER => self.on_transfer_request(conn, tag, stream, &body),
            wire::KIND_TRUNCATE => self.on_truncate_request(conn, tag, stream, &body),
            wire::KIND_REBUILD => self.on_rebuild_request(conn, tag, stream, &body),
            wire::KIND_STATUS => self.survey(conn, tag, Wanted::Status),
            wire::KIND_CONTROL => self.on_control_request(conn, tag, &body),
            wire::KIND_REGISTRY => self.answer_registry(conn, tag),
            kind => {
                let text = format!("frames of kind {kind:#x} mean nothing to this node");
                self.refuse(conn, tag, &Error::new(ErrorKind::Config, text));
            }
        }
    }

    fn on_append_request(&mut self, conn: u32, tag: u64, stream: u64, body: &Bytes) {
        let append = match wire::Append::parse(body) {
            Ok(append) => append,
            Err(error) => {
                let refused = Refused::new(RefusedCode::Malformed, error.to_string());
                return self.answer(conn, wire::KIND_REFUSED, tag, &refused.encode());
            }
        };
        let count = append.count();
        if count == 0 {
            let refused = Refused::new(RefusedCode::Malformed, "a request without records");
            return self.answer(conn, wire::KIND_REFUSED, tag, &refused.encode());
        }
        let Some(request) = self.open_request(conn, tag, stream, count) else {
            let text = format!("{SESSION_APPENDS_MAX} records of this client wait; wait for some");
            return self.refuse(conn, tag, &Error::new(ErrorKind::Busy, text));
        };
        let base = body.as_ptr() as usize;
        for (index, record) in append.records().enumerate() {
            let at = record.payload.as_ptr() as usize - base;
            let record = NewRecord {
                payload: body.slice(at..at + record.payload.len()),
                producer: record.producer,
                sequence: record.sequence,
                scn_floor: record.scn_floor,
            };
            let reply = Reply::Session { conn, request, index: index as u32 };
            self.take_append(stream, record, GroupKind::Data, reply);
        }
    }

    fn on_create_request(&mut self, conn: u32, tag: u64, body: &[u8]) {
        let count = match wire::parse_create_streams(body) {
            Ok(count) => count as usize,
            Err(error) => {
                let refused = Refused::new(RefusedCode::Malformed, error.to_string());
                return self.answer(conn, wire::KIND_REFUSED, tag, &refused.encode());
            }
        };
        self.create_streams(count, crate::shard::create::Asker::Client { conn, tag });
    }

    fn on_transfer_request(&mut self, conn: u32, tag: u64, stream: u64, body: &[u8]) {
        match wire::parse_transfer(body) {
            Ok(to) => {
                let asker = crate::shard::hand_over::Asker::Client { conn, tag };
                self.transfer_leader(stream, to, asker);
            }
            Err(error) => {
                let refused = Refused::new(RefusedCode::Malformed, error.to_string());
                self.answer(conn, wire::KIND_REFUSED, tag, &refused.encode());
            }
        }
    }

    fn on_truncate_request(&mut self, conn: u32, tag: u64, stream: u64, body: &[u8]) {
        match wire::parse_position(body) {
            Ok(to) => match self.truncate(stream, to) {
                Ok(()) => {
                    let body = wire::encode_position(self.floor_of(stream));
                    self.answer(conn, wire::KIND_TRUNCATED, tag, &body);
                }
                Err(error) if error.kind() == ErrorKind::Config => {
                    let forbidden = Error::new(ErrorKind::Forbidden, error.to_string());
                    self.refuse(conn, tag, &forbidden);
                }
                Err(error) => self.refuse(conn, tag, &error),
            },
            Err(error) => {
                let refused = Refused::new(RefusedCode::Malformed, error.to_string());
                self.answer(conn, wire::KIND_REFUSED, tag, &refused.encode());
            }
        }
    }

    fn on_rebuild_request(&mut self, conn: u32, tag: u64, stream: u64, body: &[u8]) {
        if !body.is_empty() {
            let refused = Refused::new(RefusedCode::Malformed, "a rebuild has no body");
            return self.answer(conn, wire::KIND_REFUSED, tag, &refused.encode());
        }
        match self.rebuild(stream) {
            Ok(above) => {
                self.answer(conn, wire::KIND_REBUILDING, tag, &wire::encode_position(above));
            }
            Err(error) => self.refuse(conn, tag, &error),
        }
    }

    fn open_request(&mut self, conn: u32, tag: u64, stream: u64, count: usize) -> Option<u64> {
        let Duty::Client(session) = &mut self.net.conns.get_mut(&conn)?.duty else { return None };
        if session.records + count > SESSION_APPENDS_MAX {
            return None;
        }
        session.records += count;
        session.next += 1;
        let results = vec![None; count];
        session.requests.insert(session.next, Request { tag, stream, results, left: count });
        Some(session.next)
    }

    /// The outcome of one record of a client's request is known.
    pub(crate) fn settle_session(&mut self, conn: u32, id: u64, index: u32, outcome: Outcome) {
        let Some(known) = self.net.conns.get_mut(&conn) else { return };
        let Duty::Client(session) = &mut known.duty else { return };
        let Some(request) = session.requests.get_mut(&id) else { return };
        let result = &mut request.results[index as usize];
        assert!(result.is_none(), "one outcome per record");
        *result = Some(outcome);
        request.left -= 1;
        if request.left > 0 {
            return;
        }
        session.records -= request.results.len();
        let request = session.requests.remove(&id).expect("found above");
        let outcomes: Vec<Outcome> = request.results.into_iter().flatten().collect();
        if let Some(Err(error)) = outcomes.first()
            && outcomes.iter().all(|o| o.as_ref().is_err_and(|e| e.kind() == error.kind()))
            && refused_code(error.kind()).is_some()
        {
            return self.refuse(conn, request.tag, error);
        }
        let records: Vec<AppendedRecord> = outcomes.iter().map(record_of).collect();
        let body = wire::encode_appended(&records);
        let frame = FrameHead::encode(wire::KIND_APPENDED, request.tag, request.stream, &body);
        self.send_client(conn, frame);
    }

    /// Answers a request with a refusal.
    pub(crate) fn refuse(&mut self, conn: u32, tag: u64, error: &Error) {
        let code = refused_code(error.kind()).unwrap_or(RefusedCode::Unknown);
        let mut refused = Refused::new(code, error.to_string());
        refused.expected = error.expected_sequence().unwrap_or(0);
        refused.leader = error.leader_hint().unwrap_or("").to_string();
        self.answer(conn, wire::KIND_REFUSED, tag, &refused.encode());
    }

    /// Answers a request.
    pub(crate) fn answer(&mut self, conn: u32, kind: u16, tag: u64, body: &[u8]) {
        let frame = FrameHead::encode(kind, tag, CATALOGUE_STREAM, body);
        self.send_client(conn, frame);
    }

    fn send_client(&mut self, conn: u32, frame: Vec<u8>) {
        let Some(known) = self.net.conns.get_mut(&conn) else { return };
        let io = &mut self.io;
        if known.link.send(&mut io.ring, &mut io.pool, Outgoing::inline(frame)).is_err() {
            // A client that does not take its answers learns the outcomes from the log.
            known.link.close(&mut io.ring, &mut io.pool);
        }
    }
}

fn record_of(outcome: &Outcome) -> AppendedRecord {
    match outcome {
        Ok(appended) => AppendedRecord {
            outcome: wire::Outcome::Acked,
            level: appended.level,
            lsn: appended.lsn.0,
            end_lsn: appended.end_lsn.0,
            scn: appended.scn,
        },
        Err(error) if matches!(error.kind(), ErrorKind::Unknown | ErrorKind::Poisoned) => {
            AppendedRecord::placeless(wire::Outcome::Unknown)
        }
        Err(_) => AppendedRecord::placeless(wire::Outcome::Failed),
    }
}

/// The refusal that says that nothing of a request was appended, if the kind says so.
fn refused_code(kind: ErrorKind) -> Option<RefusedCode> {
    Some(match kind {
        ErrorKind::NotLeader => RefusedCode::NotLeader,
        ErrorKind::Standby => RefusedCode::Standby,
        ErrorKind::Busy => RefusedCode::Busy,
        ErrorKind::NoSpace => RefusedCode::NoSpace,
        ErrorKind::UnknownStream => RefusedCode::UnknownStream,
        ErrorKind::SequenceGap => RefusedCode::SequenceGap,
        ErrorKind::TooLarge => RefusedCode::TooLarge,
        ErrorKind::ScnTooFarAhead => RefusedCode::ScnTooFar,
        ErrorKind::Shutdown => RefusedCode::Shutdown,
        ErrorKind::Config => RefusedCode::Unsupported,
        ErrorKind::NotMember => RefusedCode::NotMember,
        ErrorKind::NotUp => RefusedCode::NotUp,
        ErrorKind::LeadsAlready => RefusedCode::LeadsAlready,
        ErrorKind::Behind => RefusedCode::Behind,
        ErrorKind::TimedOut => RefusedCode::TimedOut,
        ErrorKind::Forbidden => RefusedCode::Forbidden,
        ErrorKind::Conflict => RefusedCode::Conflict,
        _ => return None,
    })
}
