//! Operations in flight: what the kernel points at until the last completion.

use std::ffi::CString;

use super::chain::Chain;
use crate::op::{Handle, Run, Token};

/// How the completions of an operation are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    /// The result is a new descriptor.
    Open,
    /// The same of a directory, which is only synced.
    OpenDirectory,
    /// The socket exists already; it is the payload on success and closed on error.
    Connect(Handle),
    Accept,
    Send,
    /// A write with a sync linked to it.
    Chain,
    /// A chain that has failed; its write may be under way for ever.
    Lost,
}

/// How the runs of an operation are pinned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pin {
    Read,
    Fill,
}

/// One operation. Boxed, so that the addresses given to the kernel stay.
pub(super) struct Flight {
    pub(super) token: Token,
    pub(super) kind: Kind,
    pub(super) pin: Pin,
    /// Its place in the table of files, if it uses one.
    pub(super) place: Option<u16>,
    pub(super) runs: Vec<Run>,
    pub(super) iovecs: Vec<libc::iovec>,
    pub(super) message: libc::msghdr,
    pub(super) address: libc::sockaddr_storage,
    pub(super) prefix: Vec<u8>,
    pub(super) path: CString,
    /// Of [`Kind::Chain`].
    pub(super) chain: Chain,
    generation: u32,
    live: bool,
}

impl Flight {
    fn new() -> Flight {
        Flight {
            token: Token(0),
            kind: Kind::Plain,
            pin: Pin::Read,
            place: None,
            runs: Vec::new(),
            iovecs: Vec::new(),
            // SAFETY: numbers and pointers, for which zeroes and null are valid. Not written out,
            // as its padding fields differ between C libraries.
            message: unsafe { std::mem::zeroed() },
            // SAFETY: a socket address is plain numbers, for which zeroes are valid.
            address: unsafe { std::mem::zeroed() },
            prefix: Vec::new(),
            path: CString::default(),
            chain: Chain::default(),
            generation: 0,
            live: false,
        }
    }
}

/// The operations in flight, by slot and generation. Boxes and their vectors are used again.
pub(super) struct Slab {
    // Boxed although in a vector: the kernel keeps addresses of the contents.
    #[allow(clippy::vec_box)]
    flights: Vec<Box<Flight>>,
    free: Vec<u32>,
}

impl Slab {
    pub(super) fn new(entries: usize) -> Slab {
        Slab { flights: Vec::with_capacity(entries), free: Vec::with_capacity(entries) }
    }

    /// Takes a place; gives the number that the kernel is to return.
    pub(super) fn take(&mut self, token: Token) -> (u64, &mut Flight) {
        let at = self.free.pop().unwrap_or_else(|| {
            self.flights.push(Box::new(Flight::new()));
            self.flights.len() as u32 - 1
        });
        let flight = &mut self.flights[at as usize];
        assert!(!flight.live && flight.place.is_none(), "a free place is in use");
        (flight.token, flight.live, flight.kind) = (token, true, Kind::Plain);
        (u64::from(flight.generation) << 32 | u64::from(at), flight)
    }

    /// The operation that the kernel means, unless it has ended.
    pub(super) fn get(&mut self, number: u64) -> Option<&mut Flight> {
        let flight = self.flights.get_mut(number as u32 as usize)?;
        (flight.live && u64::from(flight.generation) == number >> 32).then_some(&mut **flight)
    }

    /// Ends an operation.
    pub(super) fn free(&mut self, number: u64) {
        let flight = &mut self.flights[number as u32 as usize];
        assert!(flight.live, "an operation ends once");
        flight.live = false;
        // Two values stay unused: they would make the reserved numbers possible.
        flight.generation = (flight.generation + 1) % (u32::MAX - 1);
        flight.runs.clear();
        flight.iovecs.clear();
        flight.prefix = Vec::new();
        self.free.push(number as u32);
    }

    /// Operations in flight.
    pub(super) fn live(&self) -> usize {
        self.flights.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_names_one_operation_only() {
        let mut slab = Slab::new(4);
        let (first, _) = slab.take(Token(1));
        slab.free(first);
        let (second, _) = slab.take(Token(2));
        assert!(slab.get(first).is_none());
        assert_eq!(slab.get(second).map(|flight| flight.token), Some(Token(2)));
        assert_eq!(slab.live(), 1);
    }
}
