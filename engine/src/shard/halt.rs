//! The end of a shard: whoever waits for it is answered.

use palisade_netio::Ring;

use crate::error::{Error, ErrorKind};
use crate::shard::jobs::Destination;
use crate::shard::stream::{Reply, Waiting};
use crate::shard::{Halt, Shard};

impl<R: Ring> Shard<R> {
    /// Answers everyone in this process who waits, and refuses who comes later. Clients see their
    /// connection end.
    pub(crate) fn give_up(&mut self) {
        let why = self.halt.as_ref().map_or_else(stopped, halt_error);
        self.port.close(why.clone());
        self.creations = Default::default();
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
    }
}

fn tell(reply: Reply, error: &Error) {
    match reply {
        Reply::Promise(promise) => promise.settle(Err(error.clone())),
        // Nothing is sent any more, and the creations are gone.
        Reply::Session { .. } | Reply::Create(_) => {}
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
