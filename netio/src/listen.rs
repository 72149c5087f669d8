//! Accepting connections, up to the greeting.
//!
//! A listener reads exactly the hello of each connection and not a byte beyond it, so that the
//! socket can be handed to whoever serves it: a [`Link`](crate::Link), another shard's ring, or a
//! thread with blocking calls. It is driven like a link: completions, time, events.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::hello::{Hello, KIND_HELLO, Refusal, RefusalCode};
use crate::limits::{ACCEPT_PAUSE_NS, CONNECTIONS_MAX, GREETING_MAX, HANDSHAKE_NS};
use crate::link::{Framing, Inbox, Room};
use crate::op::{Completion, Errno, Handle, Op, Payload};
use crate::pool::Pool;
use crate::ring::{Nanos, Ring};
use crate::token::TokenBase;

const LISTEN: u16 = 1 << 12;
const ACCEPT: u16 = 2 << 12;
const RECEIVE: u16 = 3 << 12;
const SEND: u16 = 4 << 12;
const SHUTDOWN: u16 = 5 << 12;
const CLOSE: u16 = 6 << 12;
const CANCEL: u16 = 7 << 12;
const CLOSE_LISTENER: u16 = 8 << 12;
const INDEX: u16 = (1 << 12) - 1;

/// How many connections a listener serves at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenLimits {
    /// Connections in the greeting; more are closed at once. At most
    /// [`GREETING_MAX`].
    pub greeting_max: usize,
    /// Connections handed out and not [ended](Listener::connection_ended); more are refused.
    pub connections_max: usize,
    /// Time that a connection has for its hello.
    pub handshake_ns: u64,
}

impl Default for ListenLimits {
    fn default() -> ListenLimits {
        ListenLimits {
            greeting_max: GREETING_MAX,
            connections_max: CONNECTIONS_MAX,
            handshake_ns: HANDSHAKE_NS,
        }
    }
}

/// A connection whose hello was read. It is not answered yet, and belongs to whoever takes this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeted {
    /// The connection.
    pub socket: Handle,
    /// From where.
    pub peer: SocketAddr,
    /// What the peer said; not yet [checked](Hello::check).
    pub hello: Hello,
}

/// What happened on a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenEvent {
    /// It listens at this address.
    Listening {
        /// The address, with the port that was taken.
        addr: SocketAddr,
    },
    /// It could not bind or listen, and has ended.
    Failed {
        /// Why.
        errno: Errno,
    },
    /// A connection said hello.
    Greeted(Greeted),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Greeting,
    Refusing,
    Closing,
}

struct Entry {
    socket: Handle,
    peer: SocketAddr,
    phase: Phase,
    until: Nanos,
    inbox: Inbox,
    starved: bool,
    /// What is left to send of the refusal.
    answer: Vec<u8>,
    receiving: bool,
    sending: bool,
    shut: bool,
    shutting: bool,
    closing: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Binding,
    Listening(Handle),
    /// Closing, with the listening socket as long as it is open.
    Closing(Option<Handle>),
    Closed,
}

/// Accepts connections and reads the hello of each, exactly, so that the socket can be handed on:
/// to a [`Link`](crate::Link) here, to another ring, or with [`adopt_tcp`](crate::adopt_tcp) to a
/// thread with blocking calls.
///
/// Driven like a link: [`Listener::on_completion`] for every completion that it
/// [owns](Listener::owns), [`Listener::on_time`] when [`Listener::next_timer`] is past, then
/// [`Listener::poll_event`] until it gives nothing.
pub struct Listener {
    base: TokenBase,
    addr: SocketAddr,
    limits: ListenLimits,
    state: State,
    accepting: bool,
    cancelled: bool,
    /// No accept before this time.
    pause: Option<Nanos>,
    entries: Vec<Option<Entry>>,
    greeting: usize,
    open: usize,
    /// Sockets to close once an entry is free.
    doomed: VecDeque<Handle>,
    events: VecDeque<ListenEvent>,
    flying: usize,
    now: Nanos,
}

impl Listener {
    /// A listener for `addr`; port 0 takes a free one.
    pub fn new(base: TokenBase, addr: SocketAddr, limits: ListenLimits) -> Listener {
        Listener {
            base,
            addr,
            limits: ListenLimits {
                greeting_max: limits.greeting_max.clamp(1, GREETING_MAX),
                ..limits
            },
            state: State::New,
            accepting: false,
            cancelled: false,
            pause: None,
            entries: Vec::new(),
            greeting: 0,
            open: 0,
            doomed: VecDeque::new(),
            events: VecDeque::new(),
            flying: 0,
            now: Nanos::default(),
        }
    }

    /// Whether a completion is this listener's.
    pub fn owns(&self, token: crate::Token) -> bool {
        self.base.owns(token)
    }

    /// The address; the real one once it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Binds and listens. Called once.
    pub fn start(&mut self, ring: &mut impl Ring, pool: &mut Pool, now: Nanos) {
        assert!(self.state == State::New, "a listener starts once");
        self.now = now;
        self.state = State::Binding;
        self.submit(ring, pool, LISTEN, Op::Listen { addr: self.addr });
    }

    /// Takes a completion that the listener [owns](Listener::owns).
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
        if !c.more {
            self.flying -= 1;
        }
        let own = TokenBase::own(c.token);
        let at = usize::from(own & INDEX);
        match own & !INDEX {
            LISTEN => self.on_listening(ring, pool, &c),
            ACCEPT => self.on_accepted(ring, pool, &c),
            RECEIVE => self.on_received(ring, pool, at, &c),
            SEND => self.on_sent(ring, pool, at, &c),
            SHUTDOWN => {
                self.entry(at).shutting = false;
                self.go_on_closing(ring, pool, at);
            }
            CLOSE => self.on_closed(ring, pool, at),
            CLOSE_LISTENER => self.state = State::Closing(None),
            _ => {}
        }
        self.go_on(ring, pool);
    }

    /// Does what is due.
    pub fn on_time(&mut self, ring: &mut impl Ring, pool: &mut Pool, now: Nanos) {
        self.now = now;
        for at in 0..self.entries.len() {
            if self.entries[at]
                .as_ref()
                .is_some_and(|e| e.phase != Phase::Closing && now >= e.until)
            {
                self.doom(ring, pool, at);
            }
        }
        if self.pause.is_some_and(|until| now >= until) {
            self.pause = None;
        }
        self.go_on(ring, pool);
    }

    /// When [`Listener::on_time`] has something to do.
    pub fn next_timer(&self) -> Option<Nanos> {
        let entries = self.entries.iter().flatten();
        let open = entries.filter(|entry| entry.phase != Phase::Closing);
        open.map(|entry| entry.until).chain(self.pause).min()
    }

    /// The next event, or none.
    pub fn poll_event(&mut self, ring: &mut impl Ring, pool: &mut Pool) -> Option<ListenEvent> {
        for at in 0..self.entries.len() {
            if self.entries[at].as_ref().is_some_and(|entry| entry.starved) {
                self.receive(ring, pool, at);
            }
        }
        self.events.pop_front()
    }

    /// Refuses a connection that was [`Greeted`]: says why, then closes it. It counts as
    /// [ended](Listener::connection_ended).
    pub fn refuse(
        &mut self,
        ring: &mut impl Ring,
        pool: &mut Pool,
        socket: Handle,
        refusal: &Refusal,
    ) {
        self.connection_ended();
        let peer = SocketAddr::from(([0, 0, 0, 0], 0));
        match self.new_entry(socket, peer, Phase::Refusing) {
            Some(at) => {
                self.entry(at).answer = refusal.encode();
                self.send(ring, pool, at);
            }
            None => self.doomed.push_back(socket),
        }
    }

    /// A connection that this listener handed out has ended.
    pub fn connection_ended(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// Stops to listen and closes what nobody has taken.
    pub fn close(&mut self, ring: &mut impl Ring, pool: &mut Pool) {
        for event in std::mem::take(&mut self.events) {
            match event {
                ListenEvent::Greeted(greeted) => self.doomed.push_back(greeted.socket),
                other => self.events.push_back(other),
            }
        }
        self.state = match self.state {
            State::New | State::Closed => State::Closed,
            State::Binding => State::Closing(None),
            State::Listening(handle) => State::Closing(Some(handle)),
            closing @ State::Closing(_) => closing,
        };
        for at in 0..self.entries.len() {
            if self.entries[at].as_ref().is_some_and(|entry| entry.phase == Phase::Greeting) {
                self.doom(ring, pool, at);
            }
        }
        self.go_on(ring, pool);
    }

    /// Whether the listener has ended and nothing of it is in flight.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    fn on_listening(&mut self, ring: &mut impl Ring, pool: &mut Pool, c: &Completion) {
        match (&c.payload, self.state) {
            (Payload::Listening(handle, addr), State::Binding) => {
                self.addr = *addr;
                self.state = State::Listening(*handle);
                self.events.push_back(ListenEvent::Listening { addr: *addr });
            }
            (Payload::Listening(handle, _), _) => self.state = State::Closing(Some(*handle)),
            _ => {
                let errno = c.result.err().unwrap_or(Errno::IO);
                self.events.push_back(ListenEvent::Failed { errno });
                self.state = State::Closing(None);
            }
        }
        self.go_on(ring, pool);
    }

    fn on_accepted(&mut self, ring: &mut impl Ring, pool: &mut Pool, c: &Completion) {
        self.accepting = c.more;
        if let Payload::Accepted(socket, peer) = c.payload {
            self.open_entry(ring, pool, socket, peer);
        } else if c.result.is_err_and(|e| !e.is_transient() && e != Errno::CONNABORTED) {
            // Mostly out of descriptors: at once again would spin.
            self.pause = Some(self.now.after(ACCEPT_PAUSE_NS));
        }
    }

    fn open_entry(
        &mut self,
        ring: &mut impl Ring,
        pool: &mut Pool,
        socket: Handle,
        peer: SocketAddr,
    ) {
        let listening = matches!(self.state, State::Listening(_));
        if !listening || self.greeting >= self.limits.greeting_max {
            self.doomed.push_back(socket);
            return;
        }
        match self.new_entry(socket, peer, Phase::Greeting) {
            Some(at) => {
                self.greeting += 1;
                self.receive(ring, pool, at);
            }
            None => self.doomed.push_back(socket),
        }
    }

    fn on_received(&mut self, ring: &mut impl Ring, pool: &mut Pool, at: usize, c: &Completion) {
        let entry = self.entry(at);
        entry.receiving = false;
        match c.result {
            _ if entry.phase != Phase::Greeting => self.go_on_closing(ring, pool, at),
            Ok(0) => self.doom(ring, pool, at),
            Ok(bytes) => {
                entry.inbox.received(bytes);
                self.on_greeting(ring, pool, at);
            }
            Err(errno) if errno.is_transient() => self.receive(ring, pool, at),
            Err(_) => self.doom(ring, pool, at),
        }
    }

    fn on_greeting(&mut self, ring: &mut impl Ring, pool: &mut Pool, at: usize) {
        let busy = self.open >= self.limits.connections_max;
        let entry = self.entry(at);
        let frame = match entry.inbox.next_frame(pool) {
            Ok(Some(frame)) => frame,
            Ok(None) => return self.receive(ring, pool, at),
            // Whoever sends this speaks another language: there is nothing to say to it.
            Err(_) => return self.doom(ring, pool, at),
        };
        let body = &pool.bytes(frame.slot)[frame.body.at as usize..][..frame.body.len as usize];
        let hello = match frame.head.kind {
            KIND_HELLO if busy => {
                Err(Refusal::new(RefusalCode::Busy, "too many connections on this node"))
            }
            KIND_HELLO => Hello::parse(body),
            kind => {
                let text = format!("expected a hello, found a frame of kind {kind}");
                Err(Refusal::new(RefusalCode::Malformed, text))
            }
        };
        entry.inbox.clear(pool);
        match hello {
            Ok(hello) => {
                let (socket, peer) = (entry.socket, entry.peer);
                self.entries[at] = None;
                self.greeting -= 1;
                self.open += 1;
                self.events.push_back(ListenEvent::Greeted(Greeted { socket, peer, hello }));
            }
            Err(refusal) => {
                entry.phase = Phase::Refusing;
                entry.answer = refusal.encode();
                self.greeting -= 1;
                self.send(ring, pool, at);
            }
        }
    }

    fn on_sent(&mut self, ring: &mut impl Ring, pool: &mut Pool, at: usize, c: &Completion) {
        let entry = self.entry(at);
        entry.sending = false;
        match c.result {
            Ok(bytes) if bytes > 0 => {
                entry.answer.drain(..bytes as usize);
            }
            Err(errno) if errno.is_transient() => {}
            _ => entry.answer.clear(),
        }
        if entry.phase == Phase::Refusing && !entry.answer.is_empty() {
            return self.send(ring, pool, at);
        }
        self.doom(ring, pool, at);
    }

    fn on_closed(&mut self, ring: &mut impl Ring, pool: &mut Pool, at: usize) {
        self.entries[at] = None;
        if let Some(socket) = self.doomed.pop_front() {
            self.begin_close(ring, pool, socket);
        }
    }

    fn receive(&mut self, ring: &mut impl Ring, pool: &mut Pool, at: usize) {
        let entry = self.entry(at);
        let socket = entry.socket;
        match entry.inbox.room(pool) {
            Room::Run(run) => {
                (entry.receiving, entry.starved) = (true, false);
                self.submit(ring, pool, RECEIVE | at as u16, Op::Receive { socket, run });
            }
            Room::Starved => entry.starved = true,
            Room::Never(_) => self.doom(ring, pool, at),
        }
    }

    fn send(&mut self, ring: &mut impl Ring, pool: &mut Pool, at: usize) {
        let entry = self.entry(at);
        entry.sending = true;
        let (socket, prefix) = (entry.socket, entry.answer.clone());
        let op = Op::Send { socket, prefix, runs: Vec::new(), zero_copy: false };
        self.submit(ring, pool, SEND | at as u16, op);
    }

    /// Ends one entry.
    fn doom(&mut self, ring: &mut impl Ring, pool: &mut Pool, at: usize) {
        let entry = self.entry(at);
        let was = std::mem::replace(&mut entry.phase, Phase::Closing);
        entry.starved = false;
        entry.inbox.clear(pool);
        if was == Phase::Greeting {
            self.greeting -= 1;
        }
        self.go_on_closing(ring, pool, at);
    }

    fn go_on_closing(&mut self, ring: &mut impl Ring, pool: &mut Pool, at: usize) {
        let entry = self.entry(at);
        let socket = entry.socket;
        if entry.phase != Phase::Closing || entry.closing || entry.shutting {
            return;
        }
        if !entry.shut {
            (entry.shut, entry.shutting) = (true, true);
            self.submit(ring, pool, SHUTDOWN | at as u16, Op::Shutdown { socket });
        } else if !entry.receiving && !entry.sending {
            entry.closing = true;
            self.submit(ring, pool, CLOSE | at as u16, Op::Close { handle: socket });
        }
    }

    fn begin_close(&mut self, ring: &mut impl Ring, pool: &mut Pool, socket: Handle) {
        let peer = SocketAddr::from(([0, 0, 0, 0], 0));
        match self.new_entry(socket, peer, Phase::Closing) {
            Some(at) => self.go_on_closing(ring, pool, at),
            None => self.doomed.push_back(socket),
        }
    }

    /// Accepts again when that ended, or goes on with the end.
    fn go_on(&mut self, ring: &mut impl Ring, pool: &mut Pool) {
        for _ in 0..self.doomed.len() {
            if let Some(socket) = self.doomed.pop_front() {
                self.begin_close(ring, pool, socket);
            }
        }
        match self.state {
            State::Listening(listener) if !self.accepting && self.pause.is_none() => {
                self.accepting = true;
                self.submit(ring, pool, ACCEPT, Op::Accept { listener });
            }
            State::Closing(Some(handle)) => {
                if self.accepting && !self.cancelled {
                    self.cancelled = true;
                    let target = self.base.token(ACCEPT);
                    self.submit(ring, pool, CANCEL, Op::Cancel { target });
                } else if !self.accepting {
                    self.state = State::Closing(None);
                    self.submit(ring, pool, CLOSE_LISTENER, Op::Close { handle });
                }
            }
            State::Closing(None) if self.flying == 0 && self.doomed.is_empty() => {
                self.state = State::Closed;
            }
            _ => {}
        }
    }

    fn new_entry(&mut self, socket: Handle, peer: SocketAddr, phase: Phase) -> Option<usize> {
        let at = match self.entries.iter().position(Option::is_none) {
            Some(at) => at,
            None if self.entries.len() <= usize::from(INDEX) => {
                self.entries.push(None);
                self.entries.len() - 1
            }
            None => return None,
        };
        self.entries[at] = Some(Entry {
            socket,
            peer,
            phase,
            until: self.now.after(self.limits.handshake_ns),
            inbox: Inbox::new(Framing::Exact),
            starved: false,
            answer: Vec::new(),
            receiving: false,
            sending: false,
            shut: false,
            shutting: false,
            closing: false,
        });
        Some(at)
    }

    fn entry(&mut self, at: usize) -> &mut Entry {
        self.entries[at].as_mut().expect("an entry stays while its operations are in flight")
    }

    fn submit(&mut self, ring: &mut impl Ring, pool: &mut Pool, own: u16, op: Op) {
        self.flying += 1;
        ring.submit(pool, self.base.token(own), op);
    }
}
