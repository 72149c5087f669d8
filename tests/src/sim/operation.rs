//! Operations in flight: how each begins, and what holds at its end.

use std::rc::Rc;

use palisade_netio::{Errno, Handle, Nanos, Op, Payload, Pool, Run, Token};

use super::fault::FaultKind;
use super::state::{Departure, RingId, State};

pub(crate) const BADF: Errno = Errno(9);
const INTR: Errno = Errno(4);
const AGAIN: Errno = Errno(11);
const ALREADY: Errno = Errno(114);

pub(crate) struct Operation {
    pub(crate) ring: RingId,
    pub(crate) token: Token,
    pub(crate) op: Rc<Op>,
    /// The bytes of the runs at submission, which must be the same at the last completion.
    pub(crate) snapshot: Vec<u8>,
    pub(crate) object: Option<u64>,
    /// What a sync covers.
    pub(crate) mark: u64,
    /// It is carried out at its completion, and was not yet.
    pub(crate) works: bool,
    /// Its last completion is on the way.
    pub(crate) ended: bool,
    pub(crate) last_post: Nanos,
    /// Handles that were opened for it and that nobody was told of yet.
    pub(crate) untold: Vec<Handle>,
}

impl Operation {
    /// Pins the slots and remembers their bytes.
    pub(crate) fn begin(pool: &mut Pool, ring: RingId, token: Token, op: Op) -> Operation {
        let mut snapshot = Vec::new();
        for &run in runs_read(&op) {
            pool.pin_read(run);
            snapshot.extend_from_slice(pool.pinned(run));
        }
        if let Some(run) = run_filled(&op) {
            pool.pin_fill(run);
        }
        let op = Rc::new(op);
        Operation {
            ring,
            token,
            op,
            snapshot,
            object: None,
            mark: 0,
            works: false,
            ended: false,
            last_post: Nanos(0),
            untold: Vec::new(),
        }
    }

    /// Panics when bytes that the kernel may still read were changed.
    pub(crate) fn check_unchanged(&self, pool: &Pool) {
        let mut expected = &self.snapshot[..];
        for &run in runs_read(&self.op) {
            let (then, rest) = expected.split_at(run.len as usize);
            let now = pool.pinned(run);
            if then != now {
                let at = then.iter().zip(now).position(|(a, b)| a != b).unwrap_or(0);
                panic!(
                    "slot changed while in flight: byte {} of {run:?}, {:?}, {}",
                    run.at as usize + at,
                    self.token,
                    name_of(&self.op),
                );
            }
            expected = rest;
        }
    }

    /// Gives the slots back.
    pub(crate) fn unpin(&self, pool: &mut Pool) {
        for &run in runs_read(&self.op) {
            pool.unpin_read(run);
        }
        if let Some(run) = run_filled(&self.op) {
            pool.unpin_fill(run);
        }
    }
}

pub(crate) fn runs_read(op: &Op) -> &[Run] {
    match op {
        Op::Write { runs, .. } | Op::Send { runs, .. } => runs,
        _ => &[],
    }
}

pub(crate) fn run_filled(op: &Op) -> Option<Run> {
    match op {
        Op::Read { run, .. } | Op::Receive { run, .. } => Some(*run),
        _ => None,
    }
}

/// The handle that a completion brings.
pub(crate) fn handle_in(payload: &Payload) -> Option<Handle> {
    match *payload {
        Payload::Handle(handle) | Payload::Accepted(handle, _) | Payload::Listening(handle, _) => {
            Some(handle)
        }
        _ => None,
    }
}

fn handle_of(op: &Op) -> Option<Handle> {
    match *op {
        Op::Close { handle }
        | Op::Facts { handle }
        | Op::Write { handle, .. }
        | Op::Read { handle, .. }
        | Op::Sync { handle, .. }
        | Op::Allocate { handle, .. } => Some(handle),
        Op::Accept { listener } => Some(listener),
        Op::Send { socket, .. } | Op::Receive { socket, .. } | Op::Shutdown { socket } => {
            Some(socket)
        }
        _ => None,
    }
}

pub(crate) fn name_of(op: &Op) -> &'static str {
    match op {
        Op::Open { .. } => "open",
        Op::Close { .. } => "close",
        Op::Facts { .. } => "facts",
        Op::Write { barrier: false, .. } => "write",
        Op::Write { barrier: true, .. } => "write with barrier",
        Op::Read { .. } => "read",
        Op::Sync { .. } => "sync",
        Op::Allocate { .. } => "allocate",
        Op::Rename { .. } => "rename",
        Op::Unlink { .. } => "unlink",
        Op::MakeDir { .. } => "make directory",
        Op::List { .. } => "list",
        Op::Listen { .. } => "listen",
        Op::Accept { .. } => "accept",
        Op::Connect { .. } => "connect",
        Op::Send { zero_copy: false, .. } => "send",
        Op::Send { zero_copy: true, .. } => "zero-copy send",
        Op::Receive { .. } => "receive",
        Op::Shutdown { .. } => "shutdown",
        Op::Cancel { .. } => "cancel",
    }
}

/// Where the operation names a place, the place; for the trace.
fn place_of(op: &Op) -> u64 {
    match op {
        Op::Write { offset, .. } | Op::Read { offset, .. } => *offset,
        Op::Allocate { len, .. } => *len,
        _ => 0,
    }
}

impl State {
    /// Hands a submitted operation to the world.
    pub(crate) fn start(&mut self, id: u64) {
        let operation = &self.operations[&id];
        let (op, ring) = (operation.op.clone(), operation.ring);
        let content = super::trace::hash_bytes(&operation.snapshot);
        self.note(name_of(&op), [u64::from(ring.0), place_of(&op), content]);
        let process = self.ring(ring).process;
        if let Op::Close { handle } = *op {
            return self.start_close(id, handle);
        }
        if let Some(handle) = handle_of(&op) {
            let Some(object) = self.resolve(process, handle) else {
                return self.finish_soon(id, Err(BADF));
            };
            self.retain_object(object);
            self.operations.get_mut(&id).expect("just submitted").object = Some(object);
        }
        let retryable = matches!(
            *op,
            Op::Write { .. } | Op::Read { .. } | Op::Send { .. } | Op::Receive { .. }
        );
        if retryable && self.strikes(FaultKind::Transient) {
            let errno = if self.random.coin() { INTR } else { AGAIN };
            return self.finish_soon(id, Err(errno));
        }
        match *op {
            Op::Cancel { target } => self.start_cancel(id, target),
            Op::Listen { .. }
            | Op::Accept { .. }
            | Op::Connect { .. }
            | Op::Send { .. }
            | Op::Receive { .. }
            | Op::Shutdown { .. } => self.start_socket(id, &op),
            _ => self.start_file(id, &op),
        }
    }

    fn start_close(&mut self, id: u64, handle: Handle) {
        let process = self.process_of(id);
        // An operation in flight keeps what the handle led to, as in a kernel.
        let result =
            if self.close_handle(process, handle, Departure::Close) { Ok(0) } else { Err(BADF) };
        self.finish_soon(id, result);
    }

    fn start_cancel(&mut self, id: u64, target: Token) {
        let ring = self.operations[&id].ring;
        let found = self.ring(ring).tokens.get(&target).copied();
        let result = match found {
            None => Err(Errno::NOENT),
            Some(target) if target == id => Err(Errno::NOENT),
            Some(target) if self.operations[&target].ended => Err(ALREADY),
            Some(target) => {
                self.cancel_socket(target);
                Ok(0)
            }
        };
        self.finish_soon(id, result);
    }

    /// The operation, if it still waits for something.
    pub(crate) fn waiting(&self, id: u64) -> Option<&Operation> {
        self.operations.get(&id).filter(|operation| !operation.ended)
    }

    /// Forgets an operation whose last completion was taken, or whose process is gone.
    pub(crate) fn forget(&mut self, id: u64, departure: Departure) -> Operation {
        let operation = self.operations.remove(&id).expect("the operation is known");
        self.ring_mut(operation.ring).tokens.remove(&operation.token);
        if let Some(object) = operation.object {
            self.release_object(object, departure);
        }
        operation
    }
}
