//! One connection, as a state machine over a [`Ring`].

mod backoff;
mod event;
mod inbox;
mod outbox;

use std::collections::VecDeque;
use std::net::SocketAddr;

pub(crate) use backoff::splitmix;
pub use event::{
    DownReason, Frame, Framing, Full, LinkEvent, LinkTiming, Outgoing, ZeroCopy, ZeroCopyMode,
};
pub(crate) use inbox::{Inbox, Room};

use crate::frame::{FrameHead, FrameLimits, KIND_USER_MIN};
use crate::hello::{Class, Hello, Identity, KIND_REFUSAL, KIND_WELCOME, Refusal, Welcome};
use crate::limits::{FAREWELL_NS, ZERO_COPY_PENDING_MAX, ZERO_COPY_THRESHOLD_BYTES};
use crate::op::{Completion, Errno, Handle, Op, Payload};
use crate::pool::Pool;
use crate::ring::{Nanos, Ring};
use crate::token::TokenBase;
use backoff::Backoff;
use outbox::{Outbox, slot_bytes_of};

const CONNECT: u16 = 1 << 12;
const RECEIVE: u16 = 2 << 12;
const SEND: u16 = 3 << 12;
const SHUTDOWN: u16 = 4 << 12;
const CLOSE: u16 = 5 << 12;
const CANCEL: u16 = 6 << 12;
const NUMBER: u16 = (1 << 12) - 1;
/// `ENOMEM`, `EOPNOTSUPP`, `ENOBUFS`: what a zero-copy send fails with where a plain one does not.
const NO_ZERO_COPY: [i32; 3] = [12, 95, 105];

enum Side {
    Dial { addr: SocketAddr, hello: Hello, backoff: Backoff },
    Accepted { peer: Hello, welcome: Welcome },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not started.
    New,
    /// Until then, no connection.
    Pausing(Nanos),
    /// Connecting, or waiting for the welcome, until then at most.
    Connecting(Nanos),
    Greeting(Nanos),
    Up,
    /// No event comes of it any more; waiting for what is in flight.
    Closing,
    Closed,
}

/// Operations in flight on the connection, apart from zero-copy notifications.
#[derive(Default)]
struct InFlight {
    connect: bool,
    receive: bool,
    /// Number of the send, and whether it is zero-copy.
    send: Option<(u16, bool)>,
    /// Bytes of the slots that it sends from.
    send_slots: usize,
    shutdown: bool,
    close: bool,
    cancel: bool,
}

/// A zero-copy send whose slots the kernel still holds.
struct Pinned {
    number: u16,
    generation: u16,
    since: Nanos,
    slot_bytes: usize,
}

/// One connection. A link that was dialled greets, and dials again for ever; one that was accepted
/// ends with its connection.
///
/// Each turn of the owner: [`Link::on_completion`] for every completion that the link
/// [owns](Link::owns), [`Link::on_time`] when [`Link::next_timer`] is past, then
/// [`Link::poll_event`] until it gives nothing, then [`Link::flush`]. While it is up a receive is
/// always in flight between turns, so the end of the peer's process is seen at once.
pub struct Link {
    base: TokenBase,
    side: Side,
    framing: Framing,
    state: State,
    /// Counts connections, so that none answers for another.
    generation: u16,
    socket: Option<Handle>,
    /// The socket was shut down.
    shut: bool,
    flying: InFlight,
    send_number: u16,
    pinned: VecDeque<Pinned>,
    zero_copy: ZeroCopy,
    timing: LinkTiming,
    /// The kernel copied on this connection.
    copies: bool,
    /// Zero-copy sends fail on this connection.
    cannot_zero_copy: bool,
    inbox: Inbox,
    outbox: Outbox,
    starved: bool,
    events: VecDeque<LinkEvent>,
    last_reason: Option<DownReason>,
    /// When an ending link stops trying to send the rest.
    ending: Option<Nanos>,
    now: Nanos,
}

impl Link {
    /// A link that dials `addr` for ever. `seed` spreads the pauses.
    pub fn dial(base: TokenBase, addr: SocketAddr, hello: Hello, class: Class, seed: u64) -> Link {
        let LinkTiming { reconnect_min_ns, reconnect_max_ns, .. } = LinkTiming::default();
        let backoff = Backoff::new(seed, reconnect_min_ns, reconnect_max_ns);
        Link::new(base, Side::Dial { addr, hello, backoff }, class, None)
    }

    /// A link over a connection whose hello was read and found good. It answers `welcome`, and
    /// ends when the connection does.
    pub fn accepted(
        base: TokenBase,
        socket: Handle,
        peer: Hello,
        class: Class,
        welcome: Welcome,
    ) -> Link {
        Link::new(base, Side::Accepted { peer, welcome }, class, Some(socket))
    }

    fn new(base: TokenBase, side: Side, class: Class, socket: Option<Handle>) -> Link {
        Link {
            base,
            side,
            framing: framing_of(class),
            state: State::New,
            generation: 0,
            socket,
            shut: false,
            flying: InFlight::default(),
            send_number: 0,
            pinned: VecDeque::new(),
            zero_copy: ZeroCopy {
                threshold_bytes: ZERO_COPY_THRESHOLD_BYTES as u32,
                mode: ZeroCopyMode::Never,
            },
            timing: LinkTiming::default(),
            copies: false,
            cannot_zero_copy: false,
            inbox: Inbox::new(Framing::Exact),
            outbox: Outbox::new(),
            starved: false,
            events: VecDeque::new(),
            last_reason: None,
            ending: None,
            now: Nanos::default(),
        }
    }

    /// Whether a completion is this link's.
    pub fn owns(&self, token: crate::Token) -> bool {
        self.base.owns(token)
    }

    /// When slots are sent without copying; at first never.
    pub fn set_zero_copy(&mut self, zero_copy: ZeroCopy) {
        self.zero_copy = zero_copy;
    }

    /// How long to wait for what; set before the link is started.
    pub fn set_timing(&mut self, timing: LinkTiming) {
        self.timing = timing;
        if let Side::Dial { backoff, .. } = &mut self.side {
            backoff.set_bounds(timing.reconnect_min_ns, timing.reconnect_max_ns);
        }
    }

    /// How what arrives is laid out; by the class at first. Takes effect with the next
    /// connection.
    ///
    /// # Panics
    /// With [`Framing::Exact`].
    pub fn set_framing(&mut self, framing: Framing) {
        assert!(framing != Framing::Exact, "exact framing is for greetings");
        self.framing = framing;
    }

    /// Bytes that may be queued for sending.
    pub fn set_backlog_bytes_max(&mut self, bytes: usize) {
        self.outbox.bytes_max = bytes;
    }

    /// Starts to dial, or to serve the accepted connection. Called once.
    pub fn start(&mut self, ring: &mut impl Ring, pool: &mut Pool, now: Nanos) {
        assert!(self.state == State::New, "a link starts once");
        self.now = now;
        match &self.side {
            Side::Dial { .. } => self.connect(ring, pool),
            Side::Accepted { peer, welcome } => {
                let (peer, frame) = (peer.from, welcome.encode());
                let taken = self.outbox.push(pool, Outgoing::inline(frame));
                assert!(taken.is_ok(), "the queue of a new link is empty");
                self.go_up(ring, pool, peer);
                self.flush(ring, pool);
            }
        }
    }

    /// Takes a completion that the link [owns](Link::owns).
    pub fn on_completion(
        &mut self,
        ring: &mut impl Ring,
        pool: &mut Pool,
        c: Completion,
        now: Nanos,
    ) {
        if !self.owns(c.token) {
            return;
        }
        self.now = now;
        let own = TokenBase::own(c.token);
        let (kind, number) = (own & !NUMBER, own & NUMBER);
        match kind {
            SEND => return self.on_sent(ring, pool, &c, number),
            _ if number != self.generation & NUMBER => return,
            CONNECT if self.flying.connect => self.on_connected(ring, pool, &c),
            RECEIVE if self.flying.receive => self.on_received(ring, pool, &c),
            SHUTDOWN => self.flying.shutdown = false,
            CLOSE => {
                self.flying.close = false;
                self.socket = None;
            }
            CANCEL => self.flying.cancel = false,
            _ => {}
        }
        self.go_on_closing(ring, pool);
    }

    /// Does what is due.
    pub fn on_time(&mut self, ring: &mut impl Ring, pool: &mut Pool, now: Nanos) {
        self.now = now;
        match self.state {
            State::Pausing(until) if now >= until => self.connect(ring, pool),
            State::Connecting(until) | State::Greeting(until) if now >= until => {
                self.fail(ring, pool, DownReason::HandshakeTimeout);
            }
            State::Up if self.pin_ends().is_some_and(|until| now >= until) => {
                self.fail(ring, pool, DownReason::Unacknowledged);
            }
            State::Up if self.ending.is_some_and(|until| now >= until) => {
                self.fail(ring, pool, DownReason::Closed);
            }
            _ => {}
        }
    }

    /// When [`Link::on_time`] has something to do.
    pub fn next_timer(&self) -> Option<Nanos> {
        match self.state {
            State::Pausing(until) | State::Connecting(until) | State::Greeting(until) => {
                Some(until)
            }
            State::Up => [self.pin_ends(), self.ending].into_iter().flatten().min(),
            State::New | State::Closing | State::Closed => None,
        }
    }

    /// Queues a frame; [`Link::flush`] sends it. The slots of its runs are retained until they
    /// are sent.
    ///
    /// # Errors
    /// When the link is not up, or what is queued would pass the bound.
    pub fn send(
        &mut self,
        _ring: &mut impl Ring,
        pool: &mut Pool,
        frame: Outgoing,
    ) -> Result<(), Full> {
        let whole = |head: FrameHead| head.frame_len() == frame.len();
        debug_assert!(
            FrameHead::parse(&frame.head, &FrameLimits::ANY).is_ok_and(whole),
            "the lengths of a frame are those in its head"
        );
        if self.state != State::Up || self.ending.is_some() {
            return Err(Full);
        }
        self.outbox.push(pool, frame)
    }

    /// Bytes queued that the kernel has not taken.
    pub fn backlog_bytes(&self) -> usize {
        self.outbox.backlog_bytes()
    }

    /// Bytes of the slots that are queued: a small body holds a whole page.
    pub fn backlog_slot_bytes(&self) -> usize {
        self.outbox.slot_bytes()
    }

    /// Bytes of the slots that a slow peer keeps from others: those queued, and those that the
    /// kernel has not let go.
    pub fn pinned_bytes(&self) -> usize {
        self.outbox.slot_bytes() + self.pinned.iter().map(|pin| pin.slot_bytes).sum::<usize>()
    }

    /// Drops queued frames of which no byte is sent or on its way.
    pub fn drop_waiting(&mut self, pool: &mut Pool) {
        if self.state == State::Up {
            self.outbox.drop_waiting(pool, self.flying.send.is_some());
        }
    }

    /// Submits what is queued, unless a send is in flight, and receives again if slots had run
    /// out. Called once a turn, after the events.
    pub fn flush(&mut self, ring: &mut impl Ring, pool: &mut Pool) {
        if self.state != State::Up {
            return;
        }
        if self.starved {
            self.receive(ring, pool);
        }
        if self.flying.send.is_some() || self.state != State::Up {
            return;
        }
        if self.outbox.is_empty() {
            if self.ending.is_some() {
                self.fail(ring, pool, DownReason::Closed);
            }
            return;
        }
        let Some(socket) = self.socket else {
            return;
        };
        let (prefix, runs) = self.outbox.next_send();
        let total: usize = runs.iter().map(|run| run.len as usize).sum();
        let zero_copy = self.sends_zero_copy(total);
        self.submit_send(ring, pool, Op::Send { socket, prefix, runs, zero_copy }, zero_copy);
    }

    /// The next event, or none; then a receive is in flight again.
    pub fn poll_event(&mut self, ring: &mut impl Ring, pool: &mut Pool) -> Option<LinkEvent> {
        self.inbox.release_handed(pool);
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        if self.state != State::Up || self.flying.receive {
            return None;
        }
        match self.inbox.next_frame(pool) {
            Ok(Some(frame)) if frame.head.kind < KIND_USER_MIN => {
                self.fail(ring, pool, DownReason::Greeting(frame.head.kind));
                self.events.pop_front()
            }
            Ok(Some(frame)) => Some(LinkEvent::Frame(frame)),
            Ok(None) => {
                self.receive(ring, pool);
                self.events.pop_front()
            }
            Err(error) => {
                self.fail(ring, pool, DownReason::BadFrame(error));
                self.events.pop_front()
            }
        }
    }

    /// Ends the link: what is queued is sent first, for at most five seconds. The owner goes on
    /// driving it until it [is closed](Link::is_closed).
    pub fn close(&mut self, ring: &mut impl Ring, pool: &mut Pool) {
        if self.ending.is_some() {
            return;
        }
        self.ending = Some(self.now.after(FAREWELL_NS));
        match self.state {
            State::Up => self.flush(ring, pool),
            State::New if self.socket.is_some() => self.fail(ring, pool, DownReason::Closed),
            State::New | State::Pausing(_) => self.state = State::Closed,
            State::Connecting(_) | State::Greeting(_) => self.fail(ring, pool, DownReason::Closed),
            State::Closing | State::Closed => {}
        }
    }

    /// Ends a connection whose other end may be gone, and dials again. Nothing happens to a link
    /// that is not up.
    pub fn redial(&mut self, ring: &mut impl Ring, pool: &mut Pool) {
        if self.state == State::Up {
            self.fail(ring, pool, DownReason::Redialled);
        }
    }

    /// Whether frames may be sent.
    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// Whether the link has ended and nothing of it is in flight.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed && self.pinned.is_empty()
    }

    /// Whether receiving waits for slots. Then [`Link::poll_event`] and [`Link::flush`] are to be
    /// called when slots come free.
    pub fn is_starved(&self) -> bool {
        self.starved
    }

    /// Whether the kernel reported on this connection that it copied a zero-copy send.
    pub fn is_copied(&self) -> bool {
        self.copies
    }

    /// Why the last connection or attempt ended.
    pub fn last_reason(&self) -> Option<&DownReason> {
        self.last_reason.as_ref()
    }

    /// The address that is dialled.
    pub fn addr(&self) -> Option<SocketAddr> {
        match &self.side {
            Side::Dial { addr, .. } => Some(*addr),
            Side::Accepted { .. } => None,
        }
    }

    fn connect(&mut self, ring: &mut impl Ring, pool: &mut Pool) {
        let Side::Dial { addr, .. } = &self.side else {
            unreachable!("only a dialled link connects");
        };
        let addr = *addr;
        self.generation = self.generation.wrapping_add(1);
        (self.shut, self.starved) = (false, false);
        (self.copies, self.cannot_zero_copy) = (false, false);
        self.state = State::Connecting(self.now.after(self.timing.handshake_ns));
        self.flying.connect = true;
        ring.submit(pool, self.token(CONNECT), Op::Connect { addr });
    }

    fn on_connected(&mut self, ring: &mut impl Ring, pool: &mut Pool, c: &Completion) {
        self.flying.connect = false;
        let socket = match (&c.payload, c.result) {
            (Payload::Handle(handle), Ok(_)) => *handle,
            (_, result) => {
                let errno = result.err().unwrap_or(Errno::IO);
                if matches!(self.state, State::Connecting(_)) {
                    self.fail(ring, pool, DownReason::Connect(errno));
                }
                return;
            }
        };
        self.socket = Some(socket);
        let (State::Connecting(until), Side::Dial { hello, .. }) = (self.state, &self.side) else {
            return;
        };
        self.state = State::Greeting(until);
        let taken = self.outbox.push(pool, Outgoing::inline(hello.encode()));
        assert!(taken.is_ok(), "the queue of a new connection is empty");
        self.send_greeting(ring, pool);
        self.inbox.set_framing(Framing::Exact);
        self.receive(ring, pool);
    }

    fn on_received(&mut self, ring: &mut impl Ring, pool: &mut Pool, c: &Completion) {
        self.flying.receive = false;
        if !matches!(self.state, State::Greeting(_) | State::Up) {
            return;
        }
        match c.result {
            Ok(0) => self.fail(ring, pool, DownReason::PeerClosed),
            Ok(bytes) => {
                self.inbox.received(bytes);
                if self.state != State::Up {
                    self.on_greeting(ring, pool);
                }
            }
            Err(errno) if errno.is_transient() => self.receive(ring, pool),
            Err(errno) => self.fail(ring, pool, DownReason::Receive(errno)),
        }
    }

    fn on_greeting(&mut self, ring: &mut impl Ring, pool: &mut Pool) {
        let frame = match self.inbox.next_frame(pool) {
            Ok(Some(frame)) => frame,
            Ok(None) => return self.receive(ring, pool),
            Err(error) => return self.fail(ring, pool, DownReason::BadFrame(error)),
        };
        let Side::Dial { hello, .. } = &self.side else {
            unreachable!("only a dialled link waits for a greeting");
        };
        let body = &pool.bytes(frame.slot)[frame.body.at as usize..][..frame.body.len as usize];
        let answer = match frame.head.kind {
            KIND_WELCOME => Welcome::parse(body)
                .and_then(|welcome| welcome.check(hello).map(|()| welcome.from))
                .map_err(DownReason::WrongPeer),
            KIND_REFUSAL => Err(match Refusal::parse(body) {
                Some(refusal) => DownReason::Refused(refusal),
                None => DownReason::Greeting(KIND_REFUSAL),
            }),
            kind => Err(DownReason::Greeting(kind)),
        };
        match answer {
            Ok(peer) => self.go_up(ring, pool, peer),
            Err(reason) => self.fail(ring, pool, reason),
        }
    }

    fn go_up(&mut self, ring: &mut impl Ring, pool: &mut Pool, peer: Identity) {
        self.state = State::Up;
        self.last_reason = None;
        if let Side::Dial { backoff, .. } = &mut self.side {
            backoff.reset();
        }
        self.inbox.set_framing(self.framing);
        self.events.push_back(LinkEvent::Up { peer });
        self.receive(ring, pool);
    }

    fn on_sent(&mut self, ring: &mut impl Ring, pool: &mut Pool, c: &Completion, number: u16) {
        if let Some((_, zero_copy)) = self.flying.send.filter(|&(flying, _)| flying == number) {
            self.flying.send = None;
            if c.more {
                let (generation, since) = (self.generation, self.now);
                let slot_bytes = self.flying.send_slots;
                self.pinned.push_back(Pinned { number, generation, since, slot_bytes });
            } else {
                self.copies |= c.copied;
            }
            if matches!(self.state, State::Greeting(_) | State::Up) {
                match c.result {
                    Ok(0) => self.fail(ring, pool, DownReason::Send(Errno::PIPE)),
                    Ok(bytes) => self.outbox.taken(pool, bytes as usize),
                    Err(errno) if errno.is_transient() => {}
                    // No memory to lock, or no such send on this socket: copying still works.
                    Err(errno) if zero_copy && NO_ZERO_COPY.contains(&errno.0) => {
                        self.cannot_zero_copy = true;
                    }
                    Err(errno) => self.fail(ring, pool, DownReason::Send(errno)),
                }
                if matches!(self.state, State::Greeting(_)) && !self.outbox.is_empty() {
                    self.send_greeting(ring, pool);
                }
            }
        } else if !c.more {
            // The notification of an earlier send; of an earlier connection, perhaps.
            if let Some(at) = self.pinned.iter().position(|pin| pin.number == number) {
                let pin = self.pinned.remove(at).expect("the position was found");
                self.copies |= c.copied && pin.generation == self.generation;
            }
        }
        self.go_on_closing(ring, pool);
    }

    fn send_greeting(&mut self, ring: &mut impl Ring, pool: &mut Pool) {
        let Some(socket) = self.socket else {
            return;
        };
        let (prefix, runs) = self.outbox.next_send();
        self.submit_send(ring, pool, Op::Send { socket, prefix, runs, zero_copy: false }, false);
    }

    fn submit_send(&mut self, ring: &mut impl Ring, pool: &mut Pool, op: Op, zero_copy: bool) {
        let number = self.free_send_number();
        self.flying.send = Some((number, zero_copy));
        self.flying.send_slots = match &op {
            Op::Send { runs, .. } => slot_bytes_of(pool, runs),
            _ => unreachable!("a send sends"),
        };
        ring.submit(pool, self.base.token(SEND | number), op);
    }

    fn receive(&mut self, ring: &mut impl Ring, pool: &mut Pool) {
        let Some(socket) = self.socket.filter(|_| !self.flying.receive) else {
            return;
        };
        self.starved = false;
        match self.inbox.room(pool) {
            Room::Run(run) => {
                self.flying.receive = true;
                ring.submit(pool, self.token(RECEIVE), Op::Receive { socket, run });
            }
            Room::Starved => self.starved = true,
            Room::Never(bytes) => self.fail(ring, pool, DownReason::Quota(bytes)),
        }
    }

    /// Ends the connection or the attempt, and says so.
    fn fail(&mut self, ring: &mut impl Ring, pool: &mut Pool, reason: DownReason) {
        let was_up = self.state == State::Up;
        if let Side::Dial { backoff, .. } = &mut self.side
            && matches!(reason, DownReason::Refused(_) | DownReason::WrongPeer(_))
        {
            backoff.longest();
        }
        if was_up || self.last_reason.as_ref() != Some(&reason) {
            self.events.push_back(LinkEvent::Down { reason: reason.clone() });
        }
        self.last_reason = Some(reason);
        self.state = State::Closing;
        self.starved = false;
        self.inbox.clear(pool);
        self.outbox.clear(pool);
        if self.flying.connect && !self.flying.cancel {
            self.flying.cancel = true;
            let target = self.token(CONNECT);
            ring.submit(pool, self.token(CANCEL), Op::Cancel { target });
        }
        self.go_on_closing(ring, pool);
    }

    /// Shuts down, waits for what is in flight, closes, and only then goes on.
    fn go_on_closing(&mut self, ring: &mut impl Ring, pool: &mut Pool) {
        let flying = &self.flying;
        if self.state != State::Closing || flying.connect || flying.cancel || flying.close {
            return;
        }
        if let Some(socket) = self.socket {
            if !self.shut {
                self.shut = true;
                self.flying.shutdown = true;
                ring.submit(pool, self.token(SHUTDOWN), Op::Shutdown { socket });
            } else if !flying.shutdown && !flying.receive && flying.send.is_none() {
                self.flying.close = true;
                ring.submit(pool, self.token(CLOSE), Op::Close { handle: socket });
            }
            return;
        }
        match &mut self.side {
            Side::Dial { backoff, .. } if self.ending.is_none() => {
                self.state = State::Pausing(self.now.after(backoff.pause_ns()));
            }
            _ => self.state = State::Closed,
        }
    }

    fn token(&self, kind: u16) -> crate::Token {
        self.base.token(kind | (self.generation & NUMBER))
    }

    /// A number that no send in flight has.
    fn free_send_number(&mut self) -> u16 {
        loop {
            self.send_number = (self.send_number + 1) & NUMBER;
            if self.pinned.iter().all(|pin| pin.number != self.send_number) {
                return self.send_number;
            }
        }
    }

    fn sends_zero_copy(&self, total: usize) -> bool {
        let wanted = match self.zero_copy.mode {
            ZeroCopyMode::Auto => !self.copies,
            ZeroCopyMode::Always => true,
            ZeroCopyMode::Never => false,
        };
        wanted
            && !self.cannot_zero_copy
            && total > 0
            && total >= self.zero_copy.threshold_bytes as usize
            && self.pinned.len() < ZERO_COPY_PENDING_MAX
    }

    /// When the kernel has held slots of this connection for too long.
    fn pin_ends(&self) -> Option<Nanos> {
        let current = |pin: &&Pinned| pin.generation == self.generation;
        self.pinned.iter().find(current).map(|pin| pin.since.after(self.timing.pin_ns_max))
    }
}

/// What carries groups is logged from the slot that it came in.
fn framing_of(class: Class) -> Framing {
    match class {
        Class::Bulk | Class::Reader | Class::Sync => Framing::Slotted,
        _ => Framing::Packed,
    }
}

#[cfg(test)]
mod tests;
