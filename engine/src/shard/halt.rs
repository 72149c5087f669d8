//! The end of a shard: whoever waits for it is answered.

use palisade_netio::{ListenEvent, Op, Ring, Wait};

use crate::error::{Error, ErrorKind};
use crate::limits::HANG_UP_NS;
use crate::shard::jobs::Destination;
use crate::shard::net::conn_of;
use crate::shard::stream::{Reply, Waiting};
use crate::shard::token::{OWNER_CONN, OWNER_LISTENER, owner_of};
use crate::shard::{Halt, Shard};

impl<R: Ring> Shard<R> {
    /// Ends every connection of a shard that was asked to stop, and its listener: the address is
    /// free again although the process goes on.
    pub(crate) fn disconnect(&mut self) {
        for handle in self.jobs.take_files() {
            self.forget(Op::Close { handle });
        }
        let io = &mut self.io;
        for conn in self.net.conns.values_mut() {
            conn.link.close(&mut io.ring, &mut io.pool);
        }
        if let Some(listener) = &mut self.net.listener {
            listener.close(&mut io.ring, &mut io.pool);
        }
        let until = io.ring.now().after(HANG_UP_NS);
        loop {
            let io = &mut self.io;
            io.now = io.ring.now();
            self.net.on_time(&mut io.ring, &mut io.pool, io.now);
            self.net.flush(&mut io.ring, &mut io.pool);
            let listens = self.net.listener.as_ref().is_some_and(|l| !l.is_closed());
            if io.now >= until || (self.net.conns.is_empty() && !listens) {
                return;
            }
            io.ring.enter(&mut io.pool, Wait::Until(Some(until)), &mut self.done);
            self.take_last_completions();
        }
    }

    /// What still ends on connections; nothing else is looked at any more.
    fn take_last_completions(&mut self) {
        let now = self.io.now;
        for done in std::mem::take(&mut self.done) {
            let io = &mut self.io;
            match owner_of(done.token) {
                OWNER_CONN => {
                    let conn = conn_of(done.token);
                    self.net.on_completion(&mut io.ring, &mut io.pool, conn, done, now);
                    while self.net.poll_event(&mut io.ring, &mut io.pool, conn).is_some() {}
                }
                OWNER_LISTENER => {
                    if let Some(listener) = &mut self.net.listener {
                        listener.on_completion(&mut io.ring, &mut io.pool, done, now);
                    }
                }
                _ => {}
            }
        }
        loop {
            let io = &mut self.io;
            match self.net.poll_listener(&mut io.ring, &mut io.pool) {
                Some(ListenEvent::Greeted(greeted)) => {
                    self.forget(Op::Close { handle: greeted.socket });
                }
                Some(_) => {}
                None => return,
            }
        }
    }

    /// Answers everyone in this process who waits, and refuses who comes later. Clients see their
    /// connection end.
    pub(crate) fn give_up(&mut self) {
        let why = self.halt.as_ref().map_or_else(stopped, halt_error);
        self.port.close(why.clone());
        self.creations = Default::default();
        self.hand_overs = Default::default();
        for job in self.jobs.take_all() {
            if let Destination::Embedder { reply, .. } = job.destination {
                // Who no longer listens needs no answer.
                let _ = reply.send(Err(why.clone()));
            }
        }
        self.dirty.clear();
        (self.pending_count, self.pending_bytes) = (0, 0);
        let unknown = Error::new(ErrorKind::Unknown, format!("{why}; it may be in the log"));
        for state in self.streams.values_mut() {
            while let Some(record) = state.pop() {
                // It is in no log.
                tell(record.reply, &why);
            }
            for Waiting { reply, .. } in state.waiting.drain(..).chain(state.voided.drain(..)) {
                tell(reply, &unknown);
            }
        }
        self.controls.give_up(&unknown);
    }
}

fn tell(reply: Reply, error: &Error) {
    match reply {
        Reply::Promise(promise) => promise.settle(Err(error.clone())),
        // Nothing is sent any more, and the creations are gone.
        Reply::Session { .. } | Reply::Create(_) | Reply::Control(_) => {}
        Reply::Level | Reply::Nobody => {}
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Shutdown, "the shard has stopped")
}

/// Why a shard stopped, as an error.
pub(crate) fn halt_error(halt: &Halt) -> Error {
    let (kind, text) = match halt {
        Halt::Done => return stopped(),
        Halt::Identity(text) | Halt::Listen(text) => (ErrorKind::Config, text),
        Halt::Corrupt(text) => (ErrorKind::Corrupt, text),
        Halt::Io(text) => (ErrorKind::Io, text),
        Halt::Poisoned(text) => (ErrorKind::Poisoned, text),
    };
    Error::new(kind, text.clone())
}
