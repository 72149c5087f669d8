//! A load: one producer that appends records and writes down every ack.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use palisade::client::wire::Outcome;
use palisade::client::{AppendOptions, Client, ClientOptions, Fate, Next};

use super::input::Input;
use super::ledger::{Beat, Ledger};
use super::verify::{Acked, digest};
use crate::exit::Failure;

/// Who appends.
pub(crate) const PRODUCER: u64 = 0xde30;
/// How long a record may take; far above a failover.
const TIMEOUT: Duration = Duration::from_secs(25);
/// Reasons that are kept.
const REASONS_MAX: usize = 8;

/// Where records go, and how many at once.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Any of these is asked for the leader.
    pub(crate) nodes: Vec<String>,
    /// The cluster; 0 for whichever is the primary.
    pub(crate) cluster: u32,
    /// The stream.
    pub(crate) stream: u64,
    /// Records in flight.
    pub(crate) in_flight: usize,
}

/// Gives the next record; is told whether it may wait for one.
pub(crate) type Source<'a> = &'a mut dyn FnMut(bool) -> Result<Next, Failure>;

/// Appends the whole input through whichever node leads, as the gate lets it.
pub(crate) fn run_gated(
    target: &Target,
    input: &mut Input,
    ledger: &Ledger,
) -> Result<(), Failure> {
    let mut next = 0;
    let mut source = |wait: bool| {
        while !ledger.may_pass(next, wait) {
            if !wait {
                return Ok(Next::Pending);
            }
        }
        let record = input.record(next)?;
        next += 1;
        Ok(record.map_or(Next::End, Next::Record))
    };
    run(target, ledger, &mut source)
}

/// Appends what the source gives, through whichever node leads.
pub(crate) fn run(target: &Target, ledger: &Ledger, source: Source<'_>) -> Result<(), Failure> {
    let result = append(target, ledger, source);
    let mut state = ledger.lock();
    state.ended = true;
    if let Err(failure) = &result {
        state.refused.push(failure.to_string());
    }
    drop(state);
    ledger.notify();
    result
}

fn append(target: &Target, ledger: &Ledger, source: Source<'_>) -> Result<(), Failure> {
    let settings = ClientOptions { cluster: target.cluster, timeout: TIMEOUT };
    let mut client = Client::new(&target.nodes, settings)?;
    let options = AppendOptions {
        stream: target.stream,
        producer: PRODUCER,
        first_sequence: 1,
        in_flight: target.in_flight,
        timeout: TIMEOUT,
    };
    // Digests of records on their way, oldest first; acks come in this order or nearly so.
    let digests = RefCell::new(BTreeMap::new());
    let (mut index, mut failure) = (0, None);
    let mut watched = |wait: bool| match source(wait) {
        Ok(Next::Record(record)) => {
            digests.borrow_mut().insert(index, digest(&record));
            index += 1;
            Next::Record(record)
        }
        Ok(other) => other,
        Err(error) => {
            failure = Some(error);
            Next::End
        }
    };
    let mut on_fate = |fate: Fate| {
        let digest = digests.borrow_mut().remove(&fate.index).unwrap_or_default();
        note(ledger, &fate, digest);
    };
    client.append_many(&options, &mut watched, &mut on_fate)?;
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
        if let Some(beats) = &mut state.beats {
            beats.push(Beat { at: now, level: appended.level });
        }
    } else if state.refused.len() < REASONS_MAX {
        let outcome = appended.outcome.as_str();
        state.refused.push(format!("record {} {outcome}: {}", fate.sequence, fate.why));
    }
    drop(state);
    ledger.notify();
}
