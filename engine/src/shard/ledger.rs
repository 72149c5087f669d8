//! The shard's way into its WAL: hard-state records of the replicas gathered into blocks, groups
//! in blocks of their own, and who must be told when a block is durable.

use std::collections::VecDeque;

use palisade_netio::{HEAD_BYTES, Nanos, PAGE_BYTES, Pool, Purpose, SlotId};
use palisade_wal::limits::BLOCK_BYTES_TARGET;
use palisade_wal::{
    Ballot, Body, BodyBuilder, Kind, Lsn, NewBlock, NoRoom, Place, RecordMeta, Wal,
};

use crate::paxos::LogRecord;
use crate::shard::floor::read_floor;

/// A record that is not a group.
#[derive(Clone, Debug)]
pub(crate) struct OwnRecord {
    pub(crate) stream: u64,
    pub(crate) kind: Kind,
    pub(crate) lsn: Lsn,
    pub(crate) ballot: Ballot,
    pub(crate) body: Vec<u8>,
    /// What the replica called it.
    pub(crate) id: Option<u64>,
}

/// What becomes durable with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durable {
    /// A record of a replica.
    Record { stream: u64, id: u64 },
    /// The SCN floor of the shard.
    Floor { floor: u64 },
    /// What is complete in the shard.
    Complete { scn: u64 },
    /// Groups of a stream, logged under `ballot`.
    Groups { stream: u64, ballot: Ballot, upto: Lsn },
}

/// What space a block may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// What is not kept in reserve.
    Groups,
    /// The reserve too: records of replicas, and what a takeover needs. A full node still votes
    /// and elects.
    Reserve,
}

/// See the [module](self).
pub(crate) struct Ledger {
    pub(crate) wal: Wal,
    /// Since when the durable cursor stands still below the appended one.
    oldest: Option<(u64, Nanos)>,
    own: VecDeque<OwnRecord>,
    waiting: VecDeque<(u64, Durable)>,
    /// Highest round that may be promised or taken over before the identity file is rewritten.
    pub(crate) highest_round: u64,
}

impl Ledger {
    pub(crate) fn new(wal: Wal) -> Ledger {
        let (own, waiting) = (VecDeque::new(), VecDeque::new());
        Ledger { wal, oldest: None, own, waiting, highest_round: 0 }
    }

    /// Looks at what is in flight, once a turn.
    pub(crate) fn note_writes(&mut self, now: Nanos) {
        let durable = self.wal.durable();
        self.oldest = match self.oldest {
            _ if durable == self.wal.appended() => None,
            Some((stands, since)) if stands == durable => Some((stands, since)),
            _ => Some((durable, now)),
        };
    }

    /// Counts the age of what is in flight from now on.
    pub(crate) fn restart_ages(&mut self, now: Nanos) {
        if let Some((_, since)) = &mut self.oldest {
            *since = now;
        }
    }

    /// Since when the oldest write waits, as far as [`note_writes`](Ledger::note_writes) saw.
    pub(crate) fn oldest_write(&self) -> Option<Nanos> {
        self.oldest.map(|(_, since)| since)
    }

    /// Age of the oldest write, 0 if there is none.
    pub(crate) fn oldest_write_age(&self, now: Nanos) -> u64 {
        self.oldest_write().map_or(0, |since| now.since(since))
    }

    /// Takes a replica's record; it goes into the next block.
    pub(crate) fn push_record(&mut self, stream: u64, record: LogRecord) {
        let LogRecord { id, kind, lsn, ballot, body } = record;
        self.push(OwnRecord { stream, kind, lsn, ballot, body, id: Some(id) });
    }

    /// Takes a record; it goes into the next block.
    pub(crate) fn push(&mut self, record: OwnRecord) {
        if record.kind.is_hard_state() {
            self.highest_round = self.highest_round.max(record.ballot.round);
        }
        self.own.push_back(record);
    }

    /// Whether records wait that must not be overtaken by groups.
    pub(crate) fn has_own(&self) -> bool {
        self.own.iter().any(|record| record.kind.is_hard_state())
    }

    /// Puts waiting records into blocks, in order. False when some still wait for memory, for
    /// space, or for a round ceiling above their ballot; then nothing may be logged after them.
    pub(crate) fn flush_own(&mut self, pool: &mut Pool, round_limit: u64) -> bool {
        while let Some(first) = self.own.front() {
            if first.ballot.round > round_limit {
                return false;
            }
            let bytes: usize = self.own.iter().map(record_bytes).sum();
            let want = (bytes + HEAD_BYTES).min(BLOCK_BYTES_TARGET).next_multiple_of(PAGE_BYTES);
            // Where all of them find no place, the first one alone may: the last pages of a log.
            let least = (record_bytes(first) + HEAD_BYTES).next_multiple_of(PAGE_BYTES);
            let mut sizes = [want, least].into_iter();
            let Some(want) = sizes.find(|&want| self.wal.peek(want, true).is_ok()) else {
                return false;
            };
            let Some(slot) = pool.take(Purpose::Write, want) else { return false };
            let mut items = Vec::new();
            let room = HEAD_BYTES..want;
            let mut builder = BodyBuilder::new(&mut pool.bytes_mut(slot)[room]);
            while let Some(record) = self.own.front().filter(|r| r.ballot.round <= round_limit) {
                let OwnRecord { stream, kind, lsn, ballot, body, id } = record;
                if builder.push_record(*kind, *stream, *lsn, *ballot, body).is_err() {
                    break;
                }
                items.extend(id.map(|id| Durable::Record { stream: *stream, id }));
                if *kind == Kind::ScnFloor {
                    items.extend(read_floor(body).map(|floor| Durable::Floor { floor }));
                } else if *kind == Kind::Closed {
                    items.extend(read_floor(body).map(|scn| Durable::Complete { scn }));
                }
                self.own.pop_front();
            }
            assert!(!builder.state().is_empty(), "a record fits an empty block");
            let body = builder.finish();
            self.append(pool, slot, body, items, Claim::Reserve);
        }
        true
    }

    /// Whether a block with a body of `body_len` bytes can be appended now.
    pub(crate) fn has_room(&mut self, body_len: usize, claim: Claim) -> bool {
        self.peek(body_len, claim).is_some()
    }

    /// Whether a block with `body_len` bytes of groups finds no place for want of space.
    pub(crate) fn is_full(&mut self, body_len: usize) -> bool {
        let len = (HEAD_BYTES + body_len).next_multiple_of(PAGE_BYTES);
        matches!(self.wal.peek(len, false), Err(NoRoom::Full))
    }

    /// Where a block with a body of at most `body_len` bytes would stand.
    pub(crate) fn peek(&mut self, body_len: usize, claim: Claim) -> Option<Place> {
        let len = (HEAD_BYTES + body_len).next_multiple_of(PAGE_BYTES);
        self.wal.peek(len, claim == Claim::Reserve).ok()
    }

    /// Where a received body of `len` bytes would stand: in the pad of the block that waits for the
    /// device, if it is small, else in the next block.
    pub(crate) fn peek_received(&mut self, len: usize, claim: Claim) -> Option<Place> {
        self.wal.open_block(len).or_else(|| self.peek(len, claim))
    }

    /// Logs a received body, or a part of it, where [`peek_received`](Ledger::peek_received) said,
    /// and remembers whom to tell. The slot is the WAL's from here on.
    pub(crate) fn log_received(
        &mut self,
        pool: &mut Pool,
        (slot, body): (SlotId, Body),
        place: Place,
        claim: Claim,
    ) {
        let items = group_items(&body.metas);
        if place.block > self.wal.appended() {
            let at = self.append(pool, slot, body, items, claim);
            assert!(at.segment == place.segment && at.offset == place.offset);
            return;
        }
        let at = self.wal.join(pool, NewBlock { slot, body, hard_state: false });
        assert!(at == place, "the block that was open is open still");
        self.waiting.extend(items.into_iter().map(|item| (at.block, item)));
    }

    /// Appends a block that has room, and remembers whom to tell. The slot is the WAL's from here
    /// on.
    pub(crate) fn append(
        &mut self,
        pool: &mut Pool,
        slot: SlotId,
        body: Body,
        items: Vec<Durable>,
        claim: Claim,
    ) -> Place {
        let block = NewBlock { slot, body, hard_state: claim == Claim::Reserve };
        let place = self.wal.append(pool, block).expect("room was checked in this turn");
        self.waiting.extend(items.into_iter().map(|item| (place.block, item)));
        place
    }

    /// What became durable since the last call, in log order.
    pub(crate) fn poll_durable(&mut self) -> Option<Durable> {
        let (block, _) = self.waiting.front()?;
        if *block > self.wal.durable() {
            return None;
        }
        self.waiting.pop_front().map(|(_, item)| item)
    }

    /// Whether anything waits to become durable.
    pub(crate) fn is_settled(&self) -> bool {
        self.waiting.is_empty() && self.own.is_empty()
    }
}

/// The durable items of a block's groups.
pub(crate) fn group_items<'a>(metas: impl IntoIterator<Item = &'a RecordMeta>) -> Vec<Durable> {
    let mut items: Vec<Durable> = Vec::new();
    for meta in metas {
        if meta.kind != Kind::Group || meta.is_staged() {
            continue;
        }
        let item = Durable::Groups { stream: meta.stream, ballot: meta.ballot, upto: meta.end };
        match items.last_mut() {
            Some(Durable::Groups { stream, ballot, upto })
                if *stream == meta.stream && *ballot == meta.ballot =>
            {
                *upto = meta.end;
            }
            _ => items.push(item),
        }
    }
    items
}

fn record_bytes(record: &OwnRecord) -> usize {
    palisade_wal::RECORD_HEADER_BYTES + record.body.len().next_multiple_of(8)
}
