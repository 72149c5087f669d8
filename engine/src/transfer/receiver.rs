//! The receiving side of asynchronous transfer, at the shard of a standby that leads streams.
//!
//! One connection at a time to one of a list of upstreams, many streams on it. Each stream says
//! where its log ends, grants credit, checks that every chunk continues its log and hands it out
//! to be imported at the same LSN. No I/O, no clock, no randomness but the seed.

mod base;
mod hold;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use palisade_netio::Nanos;
use palisade_wal::{Boundary, Lsn, RecordMeta};

use super::check::{BadChunk, continues};
use super::limits::{
    ANEW_NS, BACKOFF_FIRST_NS, BACKOFF_LAST_NS, BEHIND_NS, DIAL_NS, ENDPOINTS_MAX, RETRY_NS,
    SILENCE_NS, TOTAL_BYTES_MAX, WINDOW_BYTES_FIRST, WINDOW_BYTES_MAX,
};
use crate::forward::wire::{ChunkHead, End, EndReason, Fetch, Status};
use crate::seeded::is_seeded;

/// How a stream's transfer is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It follows its upstream.
    Sync,
    /// It waits for an answer.
    Wait,
    /// No upstream answers.
    CheckNetwork,
    /// The upstream no longer has the bytes that come next.
    SourceHasAGap,
    /// The upstream holds another log than ours.
    LogNotMatch,
    /// The upstream does not have the stream.
    SourceUnknown,
    /// The upstream cannot read the bytes, or sends damaged ones.
    SourceDamaged,
    /// The upstream is behind us.
    SourceBehind,
    /// The upstream does not serve us.
    SourceRefuses,
    /// An operator holds the standby back.
    Suspended,
}

impl State {
    /// The name in status output.
    pub fn name(self) -> &'static str {
        match self {
            State::Sync => "sync",
            State::Wait => "wait",
            State::CheckNetwork => "check-network",
            State::SourceHasAGap => "source-has-a-gap",
            State::LogNotMatch => "log-not-match",
            State::SourceUnknown => "source-unknown-stream",
            State::SourceDamaged => "source-damaged",
            State::SourceBehind => "source-behind",
            State::SourceRefuses => "source-refuses",
            State::Suspended => "suspended",
        }
    }

    /// What is being done about it, or what a person should do.
    pub fn action(self) -> &'static str {
        match self {
            State::Sync => "",
            State::Wait => "waits for the upstream",
            State::CheckNetwork => "dials the upstreams in turn; check the network",
            State::SourceHasAGap => {
                "tries the other upstreams; else `palisade standby rebuild` at the standby"
            }
            State::LogNotMatch => "tries the other upstreams; else export and flash back",
            State::SourceUnknown => "tries again and tries the other upstreams",
            State::SourceDamaged => "tries again and tries the other upstreams; scrub the source",
            State::SourceBehind => "tries the other upstreams",
            State::SourceRefuses => "dials the upstreams in turn; see the reason",
            State::Suspended => "`palisade standby resume` at the primary",
        }
    }

    /// Whether another upstream may do better.
    fn is_stuck(self) -> bool {
        !matches!(
            self,
            State::Sync
                | State::Wait
                | State::CheckNetwork
                | State::SourceRefuses
                | State::Suspended
        )
    }
}

/// A line of status output for one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How it is doing.
    pub state: State,
    /// Since when.
    pub since: Nanos,
    /// Why, in words.
    pub reason: String,
    /// Where the received log ends.
    pub position: Lsn,
    /// Where the imported log ends.
    pub imported: Lsn,
    /// Committed end at the upstream, as last heard.
    pub upstream: Lsn,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Connect to the upstream with this index; answer by `on_link_up` or `on_link_down`.
    Dial {
        /// Index into the list of upstreams.
        endpoint: usize,
    },
    /// End the connection or the dial; no answer is needed.
    Hangup,
    /// Send a FETCH.
    Fetch(Fetch),
    /// Send a CREDIT.
    Credit {
        /// The stream.
        stream: u64,
        /// Bytes.
        bytes: u64,
    },
    /// Send a STOP.
    Stop {
        /// The stream.
        stream: u64,
    },
    /// Import this part of the chunk's body at `start`, then say `on_imported`.
    Import {
        /// The stream.
        stream: u64,
        /// Whole records in the body, one after the other.
        metas: Vec<RecordMeta>,
        /// Start of the first group.
        start: Lsn,
        /// End of the last group, and its chain.
        end: Boundary,
    },
    /// Forget the chunk.
    Skip {
        /// The stream.
        stream: u64,
    },
    /// The state of a stream changed.
    State {
        /// The stream.
        stream: u64,
        /// To this.
        state: State,
    },
}

/// Bounds of a [`Receiver`]; see [`limits`](super::limits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiverLimits {
    /// Bytes of one stream on their way or not imported.
    pub window: u64,
    /// The same when a stream starts.
    pub window_first: u64,
    /// The same for all streams together.
    pub total: u64,
}

impl Default for ReceiverLimits {
    fn default() -> ReceiverLimits {
        let (window, window_first) = (WINDOW_BYTES_MAX, WINDOW_BYTES_FIRST);
        ReceiverLimits { window, window_first, total: TOTAL_BYTES_MAX }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Down { dial_at: Nanos },
    Dialing { since: Nanos },
    Up { heard: Nanos },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not asked for on this link.
    Idle,
    /// Asked for.
    Fetching,
    /// Not to be asked for before this time.
    Paused(Nanos),
    /// Not to be asked for until the hold changes.
    Held,
}

#[derive(Debug)]
struct Inbound {
    /// Where the received log ends.
    position: Boundary,
    imported: Lsn,
    phase: Phase,
    /// What an upstream does not keep any more a base may stand for.
    takes_base: bool,
    /// Upstreams that do not have the first byte, while nothing is here.
    gaps: BTreeSet<usize>,
    /// What would come next above the hold is a base.
    held_by_base: bool,
    /// Bytes that the upstream may still send.
    credit: u64,
    /// Received and not imported: ends and sizes.
    pending: VecDeque<(Lsn, u64)>,
    pending_bytes: u64,
    window: u64,
    upstream: Lsn,
    behind_since: Option<Nanos>,
    moved: Nanos,
    state: State,
    since: Nanos,
    reason: String,
}

impl Inbound {
    fn held(&self) -> u64 {
        self.credit + self.pending_bytes
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct Receiver {
    limits: ReceiverLimits,
    endpoints: usize,
    endpoint: usize,
    link: Link,
    /// Dials and connections in a row that brought nothing.
    failures: u32,
    streams: BTreeMap<u64, Inbound>,
    /// Answers to STOPs that have not come; until then chunks belong to the fetch before.
    stopping: BTreeMap<u64, u32>,
    /// Streams that could take more than the total allows, oldest first.
    hungry: VecDeque<u64>,
    held: u64,
    /// Upstreams were changed for stuck streams at this time.
    rotated: Nanos,
    role_epoch: u64,
    seed: u64,
    /// The highest SCN of the embedder's streams that may be imported.
    hold: Option<u64>,
}

impl Receiver {
    /// A receiver without streams. `seed` makes the pauses differ from those of other nodes.
    ///
    /// # Panics
    /// When there is no endpoint, or more than [`ENDPOINTS_MAX`].
    pub fn new(limits: ReceiverLimits, endpoints: usize, seed: u64) -> Receiver {
        assert!(endpoints > 0 && endpoints <= ENDPOINTS_MAX, "{endpoints} upstreams");
        assert!(limits.window_first <= limits.window && limits.window <= limits.total);
        Receiver {
            limits,
            endpoints,
            endpoint: 0,
            link: Link::Down { dial_at: Nanos(0) },
            failures: 0,
            streams: BTreeMap::new(),
            stopping: BTreeMap::new(),
            hungry: VecDeque::new(),
            held: 0,
            rotated: Nanos(0),
            role_epoch: 0,
            seed,
            hold: None,
        }
    }

    /// The highest role epoch heard from an upstream.
    pub fn role_epoch(&self) -> u64 {
        self.role_epoch
    }

    /// How a stream is doing.
    pub fn report(&self, stream: u64) -> Option<Report> {
        let inbound = self.streams.get(&stream)?;
        Some(Report {
            state: inbound.state,
            since: inbound.since,
            reason: inbound.reason.clone(),
            position: inbound.position.lsn,
            imported: inbound.imported,
            upstream: inbound.upstream,
        })
    }

    /// This shard leads the stream, whose log ends at `position`, all of it committed here.
    pub fn on_leading(
        &mut self,
        stream: u64,
        position: Boundary,
        now: Nanos,
        out: &mut Vec<Output>,
    ) {
        self.on_not_leading(stream, out);
        let inbound = Inbound {
            position,
            imported: position.lsn,
            phase: Phase::Idle,
            takes_base: false,
            gaps: BTreeSet::new(),
            held_by_base: false,
            credit: 0,
            pending: VecDeque::new(),
            pending_bytes: 0,
            window: self.limits.window_first,
            upstream: Lsn::ZERO,
            behind_since: None,
            moved: now,
            state: State::Wait,
            since: now,
            reason: "starts".into(),
        };
        self.streams.insert(stream, inbound);
        self.start(stream, out);
        self.show_held(stream, now, out);
        self.on_time(now, out);
    }

    /// This shard no longer leads the stream, or an import of it failed.
    pub fn on_not_leading(&mut self, stream: u64, out: &mut Vec<Output>) {
        let Some(inbound) = self.streams.get(&stream) else { return };
        self.held -= inbound.held();
        let fetching = inbound.phase == Phase::Fetching;
        self.streams.remove(&stream);
        self.hungry.retain(|&hungry| hungry != stream);
        if fetching {
            self.stop(stream, out);
        }
        self.feed(out);
    }

    /// The dial succeeded and the handshake is over.
    pub fn on_link_up(&mut self, now: Nanos, out: &mut Vec<Output>) {
        if !matches!(self.link, Link::Dialing { .. }) {
            return;
        }
        self.link = Link::Up { heard: now };
        self.stopping.clear();
        let streams: Vec<u64> = self.streams.keys().copied().collect();
        for stream in streams {
            let inbound = self.streams.get_mut(&stream).expect("it was just there");
            if inbound.phase == Phase::Held {
                continue;
            }
            inbound.phase = Phase::Idle;
            self.set_state(stream, State::Wait, "asked the upstream", now, out);
            self.start(stream, out);
        }
    }

    /// The dial failed or the connection ended.
    pub fn on_link_down(&mut self, now: Nanos, out: &mut Vec<Output>) {
        if matches!(self.link, Link::Down { .. }) {
            return;
        }
        self.drop_link("the connection ended", now, out);
    }

    fn drop_link(&mut self, why: &str, now: Nanos, out: &mut Vec<Output>) {
        self.failures = self.failures.saturating_add(1);
        self.endpoint = (self.endpoint + 1) % self.endpoints;
        self.link = Link::Down { dial_at: now.after(self.pause()) };
        self.stopping.clear();
        self.hungry.clear();
        let streams: Vec<u64> = self.streams.keys().copied().collect();
        for stream in streams {
            let inbound = self.streams.get_mut(&stream).expect("it was just there");
            self.held -= inbound.credit;
            inbound.credit = 0;
            if inbound.phase == Phase::Held {
                continue;
            }
            inbound.phase = Phase::Idle;
            inbound.behind_since = None;
            let stuck = inbound.state.is_stuck();
            if !stuck {
                self.set_state(stream, State::CheckNetwork, why, now, out);
            }
        }
    }

    /// Between half and all of a pause that doubles with each failure.
    fn pause(&mut self) -> u64 {
        self.seed ^= self.seed << 13 | 1;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        let most = BACKOFF_FIRST_NS << self.failures.saturating_sub(1).min(16);
        let most = most.min(BACKOFF_LAST_NS);
        most / 2 + self.seed % (most / 2)
    }

    /// A sign of life came.
    pub fn on_beat(&mut self, role_epoch: u64, now: Nanos) {
        self.role_epoch = self.role_epoch.max(role_epoch);
        self.heard(now);
    }

    fn heard(&mut self, now: Nanos) {
        if let Link::Up { heard } = &mut self.link {
            *heard = now.max(*heard);
        }
    }

    fn is_up(&self) -> bool {
        matches!(self.link, Link::Up { .. })
    }

    /// Whether what comes for this stream answers its last fetch.
    fn expects(&self, stream: u64) -> bool {
        let fetching = self.streams.get(&stream).is_some_and(|s| s.phase == Phase::Fetching);
        self.is_up() && fetching && !self.stopping.contains_key(&stream)
    }

    /// Whether this chunk answers the last fetch of its stream and is within its credit. The body
    /// of one that is not is not looked at.
    pub fn takes(&self, head: &ChunkHead) -> bool {
        let credit = self.streams.get(&head.stream).map_or(0, |inbound| inbound.credit);
        self.expects(head.stream) && u64::from(head.body_len) <= credit
    }

    /// A chunk that is [taken](Receiver::takes) came, and its records cannot be made of its bytes.
    pub fn on_damaged(&mut self, head: &ChunkHead, now: Nanos, out: &mut Vec<Output>) {
        assert!(self.takes(head), "others need no bytes");
        self.on_beat(head.role_epoch, now);
        let stream = head.stream;
        let inbound = self.streams.get_mut(&stream).expect("it is expected");
        inbound.credit -= u64::from(head.body_len);
        self.held -= u64::from(head.body_len);
        out.push(Output::Skip { stream });
        self.refuse(stream, BadChunk::Compressed, now, out);
    }

    /// A whole chunk came. Gives exactly one of `Import` and `Skip` for it.
    pub fn on_chunk(&mut self, head: &ChunkHead, body: &[u8], now: Nanos, out: &mut Vec<Output>) {
        let stream = head.stream;
        self.on_beat(head.role_epoch, now);
        if !self.expects(stream) {
            out.push(Output::Skip { stream });
            return;
        }
        let inbound = self.streams.get_mut(&stream).expect("it is expected");
        let len = u64::from(head.body_len);
        if len > inbound.credit {
            out.push(Output::Skip { stream });
            return self.hang_up("the upstream sent more than its credit", now, out);
        }
        inbound.credit -= len;
        self.held -= len;
        inbound.upstream = inbound.upstream.max(head.committed);
        inbound.moved = now;
        let position = inbound.position;
        if head.base && !inbound.takes_base {
            out.push(Output::Skip { stream });
            return self.refuse_base(stream, head, now, out);
        }
        match continues(head, body, position) {
            Ok(found) if found.metas.is_empty() => {
                out.push(Output::Skip { stream });
                self.grant(stream, out);
            }
            Ok(mut found) => {
                let allowed = self.allowed(stream, &found.metas);
                if allowed == 0 {
                    out.push(Output::Skip { stream });
                    let inbound = self.streams.get_mut(&stream).expect("it is expected");
                    inbound.held_by_base = head.base;
                    self.suspend(stream, now, out);
                    return self.feed(out);
                }
                let held = allowed < found.metas.len();
                if held {
                    found.metas.truncate(allowed);
                    let last = &found.metas[allowed - 1];
                    found.end = Boundary { lsn: last.end, chain: last.chain };
                }
                let inbound = self.streams.get_mut(&stream).expect("it is expected");
                inbound.position = found.end;
                inbound.takes_base = false;
                inbound.pending.push_back((found.end.lsn, len));
                inbound.pending_bytes += len;
                inbound.behind_since = None;
                self.held += len;
                self.failures = 0;
                let (start, end) = (position.lsn, found.end);
                out.push(Output::Import { stream, metas: found.metas, start, end });
                if held {
                    self.suspend(stream, now, out);
                    return self.feed(out);
                }
                self.set_state(stream, State::Sync, "follows", now, out);
                self.widen(stream);
                self.grant(stream, out);
            }
            Err(why) => {
                out.push(Output::Skip { stream });
                self.refuse(stream, why, now, out);
            }
        }
    }

    fn refuse(&mut self, stream: u64, why: BadChunk, now: Nanos, out: &mut Vec<Output>) {
        let why = match why {
            BadChunk::Gap(at) if is_seeded("gap_is_another_log") => BadChunk::NotMatch(at),
            why => why,
        };
        let reason = why.to_string();
        match why {
            BadChunk::Gap(_) => {
                self.set_state(stream, State::Wait, &reason, now, out);
                self.release(stream, Phase::Idle);
            }
            BadChunk::Damaged | BadChunk::Compressed => {
                self.set_state(stream, State::SourceDamaged, &reason, now, out);
                self.release(stream, Phase::Paused(now.after(RETRY_NS)));
            }
            BadChunk::NotMatch(_) => {
                self.set_state(stream, State::LogNotMatch, &reason, now, out);
                // The same upstream will not change its log; another one is asked anew.
                self.release(stream, Phase::Paused(Nanos(u64::MAX)));
            }
        }
        self.stop(stream, out);
        self.feed(out);
    }

    /// Takes back the credit of a stream that is not fetched any more.
    fn release(&mut self, stream: u64, phase: Phase) {
        let inbound = self.streams.get_mut(&stream).expect("a stream that is received");
        self.held -= inbound.credit;
        inbound.credit = 0;
        inbound.phase = phase;
        self.hungry.retain(|&hungry| hungry != stream);
    }

    fn stop(&mut self, stream: u64, out: &mut Vec<Output>) {
        if self.is_up() {
            *self.stopping.entry(stream).or_default() += 1;
            out.push(Output::Stop { stream });
        }
    }

    /// Everything of the stream up to `upto` is committed here.
    pub fn on_imported(&mut self, stream: u64, upto: Lsn, out: &mut Vec<Output>) {
        let Some(inbound) = self.streams.get_mut(&stream) else { return };
        inbound.imported = inbound.imported.max(upto.min(inbound.position.lsn));
        while let Some(&(end, bytes)) = inbound.pending.front() {
            if end > upto {
                break;
            }
            inbound.pending.pop_front();
            inbound.pending_bytes -= bytes;
            self.held -= bytes;
        }
        self.grant(stream, out);
    }

    /// The upstream says where it stands while it sends nothing.
    pub fn on_status(&mut self, status: &Status, now: Nanos, out: &mut Vec<Output>) {
        self.heard(now);
        let stream = status.stream;
        if !self.expects(stream) {
            return;
        }
        let inbound = self.streams.get_mut(&stream).expect("it is expected");
        inbound.upstream = inbound.upstream.max(status.committed);
        if status.committed > inbound.position.lsn {
            // It has more and does not send it: the next group is larger than the credit, and may
            // be as large as any. It is said once only, so the answer has to be enough.
            inbound.window = self.limits.window;
            self.grant(stream, out);
        } else if status.committed == inbound.position.lsn {
            inbound.behind_since = None;
            self.failures = 0;
            self.set_state(stream, State::Sync, "follows", now, out);
        } else {
            inbound.upstream = status.committed;
            let since = *inbound.behind_since.get_or_insert(now);
            if now.since(since) > BEHIND_NS || is_seeded("behind_told_at_once") {
                let reason = "the upstream's committed end is below ours";
                self.set_state(stream, State::SourceBehind, reason, now, out);
            }
        }
    }

    /// The upstream ended a stream.
    pub fn on_end(&mut self, end: &End, now: Nanos, out: &mut Vec<Output>) {
        self.heard(now);
        let stream = end.stream;
        if end.reason == EndReason::Stopped {
            if let Some(count) = self.stopping.get_mut(&stream) {
                *count -= 1;
                if *count == 0 {
                    self.stopping.remove(&stream);
                    self.start(stream, out);
                }
            }
            return;
        }
        if !self.expects(stream) {
            return;
        }
        let state = match end.reason {
            EndReason::Recycled { .. } => State::SourceHasAGap,
            EndReason::UnknownStream => State::SourceUnknown,
            EndReason::Damaged => State::SourceDamaged,
            EndReason::ShuttingDown => {
                return self.hang_up("the upstream shuts down", now, out);
            }
            EndReason::Busy | EndReason::ReachedTo | EndReason::Stopped => State::Wait,
        };
        self.set_state(stream, state, &end.reason.to_string(), now, out);
        let begins_anew = state == State::SourceHasAGap && self.may_begin_anew(stream);
        let pause = if begins_anew { ANEW_NS } else { RETRY_NS };
        self.release(stream, Phase::Paused(now.after(pause)));
        self.feed(out);
    }

    /// Time passed.
    pub fn on_time(&mut self, now: Nanos, out: &mut Vec<Output>) {
        match self.link {
            Link::Down { dial_at } if now >= dial_at && !self.streams.is_empty() => {
                self.link = Link::Dialing { since: now };
                out.push(Output::Dial { endpoint: self.endpoint });
            }
            Link::Down { .. } => {}
            Link::Dialing { since } if now.since(since) > DIAL_NS => {
                self.hang_up("the dial takes too long", now, out);
            }
            Link::Dialing { .. } => {}
            Link::Up { heard } if now.since(heard) > SILENCE_NS => {
                self.hang_up("the upstream is silent", now, out);
            }
            Link::Up { .. } => self.look_at_streams(now, out),
        }
    }

    fn look_at_streams(&mut self, now: Nanos, out: &mut Vec<Output>) {
        let mut stuck = false;
        let mut due = Vec::new();
        for (&stream, inbound) in &self.streams {
            stuck |= inbound.state.is_stuck();
            if matches!(inbound.phase, Phase::Paused(until) if until <= now) {
                due.push(stream);
            }
        }
        if stuck && self.endpoints > 1 && now.since(self.rotated) > RETRY_NS {
            self.rotated = now;
            return self.hang_up("another upstream may do better", now, out);
        }
        for stream in due {
            self.streams.get_mut(&stream).expect("it was just there").phase = Phase::Idle;
            self.start(stream, out);
        }
    }

    /// When [`on_time`](Receiver::on_time) is due.
    pub fn next_time(&self) -> Option<Nanos> {
        match self.link {
            _ if self.streams.is_empty() => None,
            Link::Down { dial_at } => Some(dial_at),
            Link::Dialing { since } => Some(since.after(DIAL_NS + 1)),
            Link::Up { heard } => {
                let paused = self.streams.values().filter_map(|inbound| match inbound.phase {
                    Phase::Paused(until) => Some(until),
                    _ => None,
                });
                let stuck = self.endpoints > 1
                    && self.streams.values().any(|inbound| inbound.state.is_stuck());
                let rotate = stuck.then(|| self.rotated.after(RETRY_NS + 1));
                paused.chain(rotate).chain([heard.after(SILENCE_NS + 1)]).min()
            }
        }
    }

    fn hang_up(&mut self, why: &str, now: Nanos, out: &mut Vec<Output>) {
        out.push(Output::Hangup);
        self.drop_link(why, now, out);
    }

    /// Asks for a stream, if it can be asked for now.
    fn start(&mut self, stream: u64, out: &mut Vec<Output>) {
        let (total, held) = (self.limits.total, self.is_held(stream));
        let ready = self.is_up() && !self.stopping.contains_key(&stream);
        let Some(inbound) = self.streams.get_mut(&stream) else { return };
        if inbound.phase != Phase::Idle {
            return;
        }
        if held {
            inbound.phase = Phase::Held;
            return;
        }
        if !ready {
            return;
        }
        assert!(inbound.credit == 0, "credit without a fetch");
        inbound.phase = Phase::Fetching;
        inbound.held_by_base = false;
        // A small part of the total only, so that every stream can be asked for at once.
        let room = inbound.window.saturating_sub(inbound.pending_bytes);
        let free = total.saturating_sub(self.held) / 2;
        inbound.credit = room.min(self.limits.window_first).min(free);
        self.held += inbound.credit;
        let (from, credit_bytes) = (inbound.position.lsn, inbound.credit);
        let (to, follow) = (Lsn::MAX, true);
        let base = inbound.takes_base.then_some(inbound.position.chain);
        out.push(Output::Fetch(Fetch { stream, from, to, follow, base, credit_bytes }));
    }

    /// A stream that used most of its window gets a larger one.
    fn widen(&mut self, stream: u64) {
        let inbound = self.streams.get_mut(&stream).expect("a stream that is received");
        if inbound.credit < inbound.window / 2 && inbound.upstream > inbound.position.lsn {
            inbound.window = (inbound.window * 2).min(self.limits.window);
        }
    }

    /// Grants what the window allows, behind the streams that wait for it already.
    fn grant(&mut self, stream: u64, out: &mut Vec<Output>) {
        if !self.hungry.contains(&stream) {
            self.hungry.push_back(stream);
        }
        self.feed(out);
    }

    /// Gives what is free to those who wait for it, in their order.
    fn feed(&mut self, out: &mut Vec<Output>) {
        while let Some(stream) = self.hungry.pop_front() {
            if !self.give(stream, out) {
                self.hungry.push_front(stream);
                break;
            }
        }
    }

    /// Fills a stream's window, once it is worth a frame. Returns whether it is full enough.
    fn give(&mut self, stream: u64, out: &mut Vec<Output>) -> bool {
        if !self.expects(stream) {
            return true;
        }
        let inbound = &self.streams[&stream];
        let room = inbound.window.saturating_sub(inbound.held());
        if room < inbound.window / 4 || room == 0 {
            return true;
        }
        while self.limits.total.saturating_sub(self.held) < room {
            if !self.reclaim(stream, out) {
                break;
            }
        }
        let bytes = room.min(self.limits.total.saturating_sub(self.held));
        if bytes > 0 {
            let inbound = self.streams.get_mut(&stream).expect("it is expected");
            inbound.credit += bytes;
            self.held += bytes;
            out.push(Output::Credit { stream, bytes });
        }
        bytes == room
    }

    /// Takes credit from a stream that has nothing to use it for, by fetching it anew with less.
    /// It counts as free at once: what its upstream sends until it hears of it is skipped.
    fn reclaim(&mut self, hungry: u64, out: &mut Vec<Output>) -> bool {
        let idle = self.streams.iter().filter(|&(&stream, inbound)| {
            stream != hungry
                && inbound.phase == Phase::Fetching
                && inbound.credit > 0
                && inbound.upstream <= inbound.position.lsn
                && !self.stopping.contains_key(&stream)
        });
        let most = idle.max_by_key(|(_, inbound)| (inbound.credit, Reverse(inbound.moved)));
        let Some((&stream, _)) = most else { return false };
        self.release(stream, Phase::Idle);
        self.stop(stream, out);
        true
    }

    fn set_state(
        &mut self,
        stream: u64,
        state: State,
        reason: &str,
        now: Nanos,
        out: &mut Vec<Output>,
    ) {
        let inbound = self.streams.get_mut(&stream).expect("a stream that is received");
        if inbound.state != state {
            inbound.state = state;
            inbound.since = now;
            inbound.reason = reason.into();
            out.push(Output::State { stream, state });
        }
    }
}
