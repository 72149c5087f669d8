//! The load: one producer that appends the input and writes down every ack.

use std::time::{Duration, Instant};

use palisade::client::wire::Outcome;
use palisade::client::{AppendOptions, Client, ClientOptions, Fate, Next};

use super::input::Input;
use super::ledger::Ledger;
use super::verify::{Acked, digest};
use crate::exit::Failure;

/// Who appends.
pub(crate) const PRODUCER: u64 = 0xde30;
/// Records in flight.
pub(crate) const IN_FLIGHT: usize = 1024;
/// How long a record may take; far above a failover.
const TIMEOUT: Duration = Duration::from_secs(25);
/// Reasons that are kept.
const REASONS_MAX: usize = 8;

/// Appends the whole input to `stream` through whichever node leads.
pub(crate) fn run(
    nodes: &[String],
    cluster: u32,
    stream: u64,
    input: &mut Input,
    ledger: &Ledger,
) -> Result<(), Failure> {
    let result = append(nodes, cluster, stream, input, ledger);
    let mut state = ledger.lock();
    state.ended = true;
    if let Err(failure) = &result {
        state.refused.push(failure.to_string());
    }
    drop(state);
    ledger.notify();
    result
}

fn append(
    nodes: &[String],
    cluster: u32,
    stream: u64,
    input: &mut Input,
    ledger: &Ledger,
) -> Result<(), Failure> {
    let mut client = Client::new(nodes, ClientOptions { cluster, timeout: TIMEOUT })?;
    let options = AppendOptions {
        stream,
        producer: PRODUCER,
        first_sequence: 1,
        in_flight: IN_FLIGHT,
        timeout: TIMEOUT,
    };
    // Digests of records on their way, oldest first; acks come in this order or nearly so.
    let digests = std::cell::RefCell::new(std::collections::BTreeMap::new());
    let mut next = 0;
    let mut failure = None;
    let mut source = |wait: bool| {
        while !ledger.may_pass(next, wait) {
            if !wait {
                return Next::Pending;
            }
        }
        match input.record(next) {
            Ok(Some(record)) => {
                digests.borrow_mut().insert(next, digest(&record));
                next += 1;
                Next::Record(record)
            }
            Ok(None) => Next::End,
            Err(error) => {
                failure = Some(error);
                Next::End
            }
        }
    };
    let mut on_fate = |fate: Fate| {
        let digest = digests.borrow_mut().remove(&fate.index).unwrap_or_default();
        note(ledger, &fate, digest);
    };
    client.append_many(&options, &mut source, &mut on_fate)?;
    failure.map_or(Ok(()), Err)
}

fn note(ledger: &Ledger, fate: &Fate, digest: u64) {
    let mut state = ledger.lock();
    let appended = &fate.appended;
    if appended.outcome == Outcome::Acked {
        let now = Instant::now();
        state.last_ack = Some(now);
        if state.acker.is_none_or(|(node, _)| node != fate.node) {
            state.acker = Some((fate.node, now));
        }
        let took = u64::try_from(fate.took.as_micros()).unwrap_or(u64::MAX);
        state.latency.saturating_record(took.max(1));
        let (lsn, end_lsn) = (appended.lsn, appended.end_lsn);
        state.acked.push(Acked { sequence: fate.sequence, lsn, end_lsn, digest });
    } else if state.refused.len() < REASONS_MAX {
        let outcome = appended.outcome.as_str();
        state.refused.push(format!("record {} {outcome}: {}", fate.sequence, fate.why));
    }
    drop(state);
    ledger.notify();
}
