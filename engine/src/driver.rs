//! The shard of a node that is driven by its owner's thread.

use std::sync::Arc;

use palisade_netio::Uring;

use crate::append::{AppendFuture, Outcome};
use crate::control::{Controlled, Request};
use crate::error::{Error, ErrorKind};
use crate::handle::{Answer, ShardPort};
use crate::shard::{Shard, halt_error};

/// A shard that its owner drives, for a node with one: no thread, no hop between two.
///
/// On this thread whatever waits for the shard waits for ever, unless it drives the shard
/// meanwhile: the calls here do. [`Node`](crate::Node) and [`Stream`](crate::Stream) do not wait
/// here, they answer [`WouldBlock`](crate::ErrorKind::WouldBlock); [`AppendFuture::wait`] cannot
/// tell, so wait with [`ShardDriver::wait`]. Other threads wait as usual while this one takes its
/// turns.
pub struct ShardDriver {
    shard: Shard<Uring>,
    port: Arc<ShardPort>,
}

impl ShardDriver {
    pub(crate) fn new(mut shard: Shard<Uring>, port: Arc<ShardPort>) -> ShardDriver {
        shard.driven = true;
        port.set_driver();
        ShardDriver { shard, port }
    }

    /// One turn: takes what was asked, moves what is in flight. With `may_wait` it sleeps until
    /// something happens.
    ///
    /// # Errors
    /// Why the shard has stopped.
    pub fn turn(&mut self, may_wait: bool) -> Result<(), Error> {
        if self.shard.turn(may_wait) {
            return Ok(());
        }
        Err(halt_error(self.shard.halted().expect("it stopped")))
    }

    /// Creates a stream, and drives the shard until it exists.
    ///
    /// # Errors
    /// As [`Node::create_stream`](crate::Node::create_stream).
    pub fn create_stream(&mut self) -> Result<u64, Error> {
        Ok(self.create_streams(1)?[0])
    }

    /// Creates several streams at once, and drives the shard until they exist.
    ///
    /// # Errors
    /// As [`Node::create_stream`](crate::Node::create_stream).
    pub fn create_streams(&mut self, count: usize) -> Result<Vec<u64>, Error> {
        let answer = self.port.create_streams(count)?;
        self.drive(&answer)
    }

    /// Hands the leadership of a stream over, and drives the shard until the successor leads.
    ///
    /// # Errors
    /// As [`Stream::transfer_leader`](crate::Stream::transfer_leader).
    pub fn transfer_leader(&mut self, stream: u64, to: u32) -> Result<u64, Error> {
        let answer = self.port.transfer_leader(stream, to)?;
        self.drive(&answer)
    }

    /// Changes the registry of clusters, and drives the shard until that is committed.
    ///
    /// # Errors
    /// As [`Node::control`](crate::Node::control).
    pub fn control(&mut self, request: Request) -> Result<Controlled, Error> {
        let answer = self.port.control(request)?;
        self.drive(&answer)
    }

    /// Drives the shard until the outcome of an append is known.
    ///
    /// # Errors
    /// The append failed or its outcome is unknown, also when the shard stops.
    pub fn wait(&mut self, mut future: AppendFuture) -> Outcome {
        loop {
            if let Some(outcome) = future.try_take() {
                return outcome;
            }
            if let Err(error) = self.turn(true) {
                // What the shard knew of it when it stopped comes first.
                let text = format!("it was not settled: {error}");
                let unknown = Err(Error::new(ErrorKind::Unknown, text));
                return future.try_take().unwrap_or(unknown);
            }
        }
    }

    fn drive<T>(&mut self, answer: &Answer<T>) -> Result<T, Error> {
        loop {
            if let Some(answer) = answer.try_take() {
                return answer;
            }
            self.turn(true)?;
        }
    }
}
