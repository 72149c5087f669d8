//! Frames from peers: messages, heartbeats, and bodies of groups that are logged as they came.

use palisade_netio::{Frame, HEAD_BYTES, Identity, LinkEvent, Ring, SlotId};
use palisade_wal::{
    Ballot, Body, BodyBuilder, FLAG_STAGED, GroupHeader, Kind, Lsn, Place, RecordMeta, parse_body,
};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::kinds::{
    HEARTBEAT_IMPAIRED, HEARTBEAT_SHORT, KIND_CLOSED, KIND_COMPLETE, KIND_FETCHED, KIND_FLOOR_ASK,
    KIND_FLOOR_HELD, KIND_GROUPS, KIND_HEARTBEAT, KIND_LEVEL_ASK, KIND_LEVEL_TOLD, KIND_MESSAGES,
    KIND_SYNC_HELD, KIND_TERM,
};
use crate::paxos::codec::fixed;
use crate::paxos::{
    AcceptHead, AcceptVerdict, GroupMark, Heartbeat, Message, NodeKey, ROUND_MAX, Want,
};
use crate::shard::Shard;
use crate::shard::batch::take_for_groups;
use crate::shard::ledger::Claim;
use crate::shard::net::Duty;

fixed! {
    FetchedPrefix: 24 { round: U64, incarnation: U64, node: U32, want: U32 }
}

/// Where groups came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The leader's batch.
    Leader,
    /// A fetch, with the ballot that it named.
    Fetch { ballot: Ballot, want: Want },
}

impl Source {
    /// A takeover must get through on a full disk, and so must a repair; other groups wait for
    /// space.
    fn claim(self) -> Claim {
        match self {
            Source::Fetch { want: Want::Staged | Want::Lost, .. } => Claim::Reserve,
            Source::Fetch { want: Want::Next, .. } | Source::Leader => Claim::Groups,
        }
    }
}

/// Groups of one frame that were taken and wait to be logged as a block.
#[derive(Default)]
struct Taken {
    metas: Vec<(RecordMeta, Ballot, Want)>,
}

impl<R: Ring> Shard<R> {
    /// Handles everything that happened on a connection.
    pub(crate) fn pump(&mut self, conn: u32) {
        loop {
            let io = &mut self.io;
            let Some(event) = self.net.poll_event(&mut io.ring, &mut io.pool, conn) else { return };
            match event {
                LinkEvent::Up { peer } => {
                    let io = &mut self.io;
                    let change = self.net.on_up(&mut io.ring, &mut io.pool, conn, peer);
                    if let Some(change) = change {
                        self.on_peer_change(change);
                    }
                    self.on_upstream_link(conn, Some(peer));
                    self.on_candidate_link(conn, true);
                    self.on_contact_link(conn, true);
                    self.on_sync_link(conn, Some(peer));
                }
                LinkEvent::Down { reason } => {
                    self.on_upstream_refused(conn, &reason);
                    let io = &mut self.io;
                    let change = self.net.on_down(&mut io.ring, &mut io.pool, conn);
                    if let Some(change) = change {
                        self.on_peer_change(change);
                    }
                    self.on_upstream_link(conn, None);
                    self.on_candidate_link(conn, false);
                    self.on_contact_link(conn, false);
                    self.on_sync_link(conn, None);
                }
                LinkEvent::Frame(frame) => {
                    self.note_crossing(conn, &frame);
                    self.on_frame(conn, &frame);
                }
            }
        }
    }

    fn on_frame(&mut self, conn: u32, frame: &Frame) {
        let from = match self.net.conns.get(&conn).map(|conn| (&conn.duty, conn.peer)) {
            // Who its own handshake named: another link may be with another disk of the node.
            Some((Duty::Control(_) | Duty::Bulk(_), Some(from))) => from,
            Some((Duty::Control(_) | Duty::Bulk(_), None)) => return,
            Some((Duty::Client(_), _)) => return self.on_client_frame(conn, frame),
            Some((Duty::Upstream, _)) => return self.on_upstream_frame(conn, frame),
            Some((Duty::Candidate(addr), _)) => {
                let addr = *addr;
                return self.on_candidate_frame(conn, addr, frame);
            }
            Some((Duty::Contact(addr), _)) => {
                let addr = *addr;
                return self.on_contact_frame(conn, addr, frame);
            }
            Some((Duty::Standby(_) | Duty::Leader, _)) => return self.on_sync_frame(conn, frame),
            None => return,
        };
        let good = match frame.head.kind {
            KIND_MESSAGES => self.on_messages(from, frame),
            KIND_HEARTBEAT => self.on_heartbeat(from, frame),
            KIND_CLOSED => self.on_closed_news(from, frame),
            KIND_COMPLETE => self.on_complete_said(from, frame),
            KIND_SYNC_HELD => self.on_held_news(from, frame),
            KIND_LEVEL_ASK => self.on_level_ask(from, frame),
            KIND_LEVEL_TOLD => self.on_level_told(frame),
            KIND_TERM => self.on_term_said(frame),
            KIND_FLOOR_ASK => self.on_floor_ask(from, frame),
            KIND_FLOOR_HELD => self.on_floor_held(from, frame),
            KIND_GROUPS => self.on_groups(from, frame, Source::Leader),
            KIND_FETCHED => {
                read_fetched_prefix(self.bytes_of(frame.slot, frame.prefix.at, frame.prefix.len))
                    .is_some_and(|source| self.on_groups(from, frame, source))
            }
            _ => false,
        };
        if !good {
            // What a peer sends makes sense, or the connection starts over.
            let io = &mut self.io;
            self.net.start_over(&mut io.ring, &mut io.pool, conn);
        }
    }

    /// The connection between shards of two clusters is up (with whom), or down.
    fn on_sync_link(&mut self, conn: u32, peer: Option<Identity>) {
        match self.net.conns.get(&conn).map(|conn| &conn.duty) {
            Some(Duty::Standby(_)) => self.on_standby_link(conn, peer),
            Some(Duty::Leader) => self.on_leader_link(conn, peer),
            _ => {}
        }
    }

    fn on_sync_frame(&mut self, conn: u32, frame: &Frame) {
        let good = match self.net.conns.get(&conn).map(|conn| &conn.duty) {
            Some(Duty::Standby(_)) => self.on_standby_frame(conn, frame),
            _ => self.on_leader_frame(conn, frame),
        };
        if !good {
            let io = &mut self.io;
            self.net.close(&mut io.ring, &mut io.pool, conn);
        }
    }

    pub(crate) fn bytes_of(&self, slot: SlotId, at: u32, len: u32) -> &[u8] {
        &self.io.pool.bytes(slot)[at as usize..(at + len) as usize]
    }

    fn on_messages(&mut self, from: NodeKey, frame: &Frame) -> bool {
        let body = self.bytes_of(frame.slot, frame.body.at, frame.body.len).to_vec();
        let mut rest = &body[..];
        while !rest.is_empty() {
            let Ok((message, len)) = Message::decode(rest) else { return false };
            rest = &rest[len..];
            self.step(message.stream, |replica, now, fx| {
                replica.on_message(from, &message, now, fx);
            });
        }
        true
    }

    fn on_heartbeat(&mut self, from: NodeKey, frame: &Frame) -> bool {
        let body = self.bytes_of(frame.slot, frame.body.at, frame.body.len);
        let Ok(heartbeat) = Heartbeat::decode(body) else { return false };
        let tag = frame.head.tag;
        if tag & !(HEARTBEAT_SHORT | HEARTBEAT_IMPAIRED) != 0 {
            return false;
        }
        if let Some(peer) = self.net.peers.get_mut(&from.node) {
            peer.pulse = frame.head.tag2;
        }
        let (short, impaired) = (tag & HEARTBEAT_SHORT != 0, tag & HEARTBEAT_IMPAIRED != 0);
        self.net.note_state(from.node, short, impaired);
        let Some(liveness) = &mut self.liveness else { return true };
        let mut effects = Vec::new();
        liveness.on_heartbeat(from.node, heartbeat, self.io.now, &mut effects);
        self.drain_liveness(effects);
        self.note_fitness(from.node);
        true
    }

    /// Groups came in. False when the frame makes no sense.
    fn on_groups(&mut self, from: NodeKey, frame: &Frame, source: Source) -> bool {
        let body = self.bytes_of(frame.slot, frame.body.at, frame.body.len);
        let headers_crc = frame.head.tag as u32;
        let Ok(metas) = parse_body(body, headers_crc) else { return false };
        // Checked before anything is taken: what is taken is logged.
        let fits = |meta: &RecordMeta| match meta.kind {
            // Staged and moved groups are a matter of each disk.
            Kind::Group => meta.flags == 0,
            Kind::CommitHint => true,
            _ => false,
        };
        if !metas.iter().all(|meta| fits(meta) && meta.ballot.round <= ROUND_MAX) {
            return false;
        }
        if frame.body.at as usize != HEAD_BYTES {
            return false;
        }
        let len = frame.body.len;
        let block_bytes = HEAD_BYTES + len as usize;
        let ready = self.flush_own() && self.keep_spare(block_bytes);
        let place = self.ledger.peek_received(len as usize, source.claim());
        let Some(place) = place.filter(|_| ready) else {
            // Whoever sent it sends it again when asked.
            self.note_full(len as usize);
            return true;
        };
        let body = Body { len, headers_crc, metas };
        self.take_groups(from, frame.slot, body, source, place);
        true
    }

    fn take_groups(
        &mut self,
        from: NodeKey,
        slot: SlotId,
        body: Body,
        source: Source,
        mut place: Place,
    ) {
        let mut taken = Taken::default();
        let mut hints: Vec<(u64, Lsn)> = Vec::new();
        let mut whole = source == Source::Leader;
        let len = body.len as usize;
        let claim = source.claim();
        for meta in &body.metas {
            match meta.kind {
                Kind::CommitHint => hints.push((meta.stream, meta.lsn)),
                Kind::Group => {
                    let hint = hints.iter().find(|(stream, _)| *stream == meta.stream);
                    let commit = hint.map_or(Lsn::ZERO, |(_, lsn)| *lsn);
                    whole &= self.take_group(from, slot, meta, source, commit, place, &mut taken);
                    if self.ledger.has_own() {
                        // A record asked for meanwhile stands after these groups, if any, and
                        // before the next ones.
                        whole = false;
                        self.log_copies(slot, &mut taken, place, claim);
                        let ready = self.flush_own() && self.keep_spare(HEAD_BYTES + len);
                        let next = self.ledger.peek_received(len, claim);
                        let Some(next) = next.filter(|_| ready) else { return };
                        place = next;
                    }
                }
                kind => unreachable!("{kind:?} was refused with the frame"),
            }
        }
        if whole && !taken.metas.is_empty() {
            self.io.pool.retain(slot);
            self.ledger.log_received(&mut self.io.pool, (slot, body), place, claim);
        } else {
            self.log_copies(slot, &mut taken, place, claim);
        }
    }

    /// Offers a group to its replica. False when it is not logged as it came.
    #[allow(clippy::too_many_arguments)]
    fn take_group(
        &mut self,
        from: NodeKey,
        slot: SlotId,
        meta: &RecordMeta,
        source: Source,
        commit: Lsn,
        place: Place,
        taken: &mut Taken,
    ) -> bool {
        let range = meta.range();
        let bytes = self.bytes_of(slot, (HEAD_BYTES + range.start) as u32, meta.len);
        let Ok((header, _)) = GroupHeader::read_from_prefix(bytes) else { return false };
        let (ballot, want) = match source {
            Source::Leader => (meta.ballot, Want::Next),
            Source::Fetch { ballot, want } => (ballot, want),
        };
        let verdict = self.step(meta.stream, |replica, now, fx| {
            let head = AcceptHead { ballot, header: &header, commit, want };
            match source {
                Source::Leader => replica.on_accept(from, &head, now, fx),
                Source::Fetch { .. } => replica.on_fetched(from, &head, now, fx),
            }
        });
        match verdict {
            Some(AcceptVerdict::Duplicate | AcceptVerdict::Refuse(_)) | None => return false,
            Some(AcceptVerdict::Store) => assert!(want == Want::Next),
            Some(AcceptVerdict::StoreStaged) => assert!(want == Want::Staged),
            Some(AcceptVerdict::StoreMoved) => assert!(want == Want::Lost),
        }
        taken.metas.push((*meta, ballot, want));
        self.note_taken(slot, meta, ballot, want);
        self.step(meta.stream, |replica, now, fx| match want {
            Want::Lost => replica.on_moved(&header, place, now, fx),
            _ => replica.on_stored(GroupMark::of(&header, place), now, fx),
        });
        want == Want::Next && ballot == meta.ballot
    }

    fn note_taken(&mut self, slot: SlotId, meta: &RecordMeta, ballot: Ballot, want: Want) {
        if want == Want::Next {
            return self.note_logged(slot, meta);
        }
        let at = HEAD_BYTES + meta.range().start;
        let bytes = &self.io.pool.bytes(slot)[at..at + meta.len as usize];
        let kind = crate::shard::batch::group_kind(bytes);
        let state = self.streams.get_mut(&meta.stream).expect("stored to it");
        if want == Want::Lost {
            return state.derived.on_moved(bytes, kind, meta.lsn, meta.end, meta.scn);
        }
        state.derived.on_staged(ballot, bytes, kind, meta.lsn, meta.end, meta.scn);
    }

    /// Logs taken groups as a block of their own, for when the frame cannot be logged as it came.
    fn log_copies(&mut self, slot: SlotId, taken: &mut Taken, place: Place, claim: Claim) {
        if taken.metas.is_empty() {
            return;
        }
        let copy = self.spare.take().expect("kept before the frame was taken");
        let (from, to) = self.io.pool.pair(slot, copy);
        let mut builder = BodyBuilder::new(&mut to[HEAD_BYTES..]);
        for (meta, ballot, want) in taken.metas.drain(..) {
            let start = HEAD_BYTES + meta.range().start;
            let bytes = &from[start..start + meta.len as usize];
            let pushed = match want {
                Want::Next => builder.push_raw_group(bytes, ballot, 0),
                Want::Staged => builder.push_raw_group(bytes, ballot, FLAG_STAGED),
                Want::Lost => builder.push_moved_group(bytes, ballot, FLAG_STAGED),
            };
            assert!(pushed.is_ok(), "a group of a frame fits a block: {pushed:?}");
        }
        let body = builder.finish();
        self.ledger.log_received(&mut self.io.pool, (copy, body), place, claim);
    }

    /// Keeps a slot of this size for frames that cannot be logged as they came.
    fn keep_spare(&mut self, bytes: usize) -> bool {
        if let Some(small) = self.spare.take_if(|slot| self.io.pool.capacity(*slot) < bytes) {
            self.io.pool.release(small);
        }
        if self.spare.is_none() {
            self.spare = take_for_groups(&mut self.io.pool, bytes);
        }
        self.spare.is_some()
    }
}

/// The prefix of a [`KIND_FETCHED`] frame.
pub(crate) fn fetched_prefix(ballot: Ballot, want: Want) -> Vec<u8> {
    let Ballot { round, node, incarnation } = ballot;
    let (round, incarnation, node) = (round.into(), incarnation.into(), node.into());
    let want = u32::from(want.code()).into();
    FetchedPrefix { round, incarnation, node, want }.as_bytes().to_vec()
}

fn read_fetched_prefix(bytes: &[u8]) -> Option<Source> {
    let (prefix, _) = FetchedPrefix::ref_from_prefix(bytes).ok()?;
    let (round, incarnation) = (prefix.round.get(), prefix.incarnation.get());
    let ballot = Ballot { round, node: prefix.node.get(), incarnation };
    if ballot.round > ROUND_MAX {
        return None;
    }
    let want = Want::from_code(u8::try_from(prefix.want.get()).ok()?)?;
    Some(Source::Fetch { ballot, want })
}
