//! What the clusters of a figure go through, with records appended all the time: a change of mode,
//! a SYNC standby that stands still and comes back, the role handed over and back; and the figure
//! itself, with what crosses the border.

use std::time::{Duration, Instant};

use palisade::client::{Client, ClientOptions, Next};
use palisade::status::Protection;

use super::cluster::Cluster;
use super::figure::{Figure, crossed, leader};
use super::ledger::Ledger;
use super::load;
use super::pulse::Pulse;
use super::report::{Crossing, Gap};
use super::stage::{LEADER_MAX, Stage};
use super::verify::Acked;
use crate::exit::{Exit, Failure};
use crate::switchover::{hand_over, verify};

/// The catalogue is a stream too.
const CATALOGUE: u64 = 1;
/// Records of the burst whose way over the border is measured.
const BURST_RECORDS: u64 = 1000;
/// Bytes of each.
const BURST_BYTES: usize = 2048;
/// So many in flight.
const BURST_IN_FLIGHT: usize = 128;
/// Until everybody takes from whom the figure says.
const FOUND_MAX: Duration = Duration::from_secs(30);
/// A switchover may take so long, whatever comes of it.
const SWITCHOVER_MAX: Duration = Duration::from_secs(30);
/// What is looked at of a switchover ends so long after it.
const AFTER: Duration = Duration::from_millis(500);

/// What came of a figure, and what was appended for it.
pub(super) struct Measured {
    pub(super) crossing: Crossing,
    pub(super) acked: Vec<Acked>,
    pub(super) refused: Vec<String>,
}

/// MAXIMUM PERFORMANCE to MAXIMUM AVAILABILITY: milliseconds until acks say so.
pub(super) fn change_mode(stage: &Stage, pulse: &Pulse) -> Result<u64, Failure> {
    let is = |level: Protection| move |said: Protection| said == level;
    let performance = is(Protection::Performance);
    pulse.first_after(Instant::now(), "acks at level performance", performance)?;
    let asked = Instant::now();
    stage.set_mode(Protection::Availability)?;
    let availability = is(Protection::Availability);
    let risen = pulse.first_after(asked, "acks at level availability", availability)?;
    Ok(millis(risen - asked))
}

/// The SYNC standby stands still until acks go on without it, and comes back: how long it took
/// until acks went on, and until they waited for it again, in milliseconds.
pub(super) fn degrade_and_return(stage: &Stage, pulse: &Pulse) -> Result<(u64, u64), Failure> {
    let Some([sync, _]) = &stage.standbys else { return Err(no_standbys()) };
    let with_it = |level: Protection| level == Protection::Availability;
    pulse.first_after(Instant::now(), "acks at level availability", with_it)?;
    let node = &sync.nodes[0];
    stage.course.say(&format!("SIGSTOP to the SYNC standby, {}", node.place.name));
    let stopped = Instant::now();
    node.pause()?;
    let alone = pulse.first_after(stopped, "acks without it", |level| !with_it(level))?;
    let degrade_ms = millis(alone - stopped);
    stage.course.say(&format!("acks go on without it after {degrade_ms} ms; SIGCONT"));
    let resumed = Instant::now();
    node.resume()?;
    let back = pulse.first_after(resumed, "acks with it again", with_it)?;
    let return_ms = millis(back - resumed);
    stage.course.say(&format!("acks wait for it again after {return_ms} ms"));
    stage.wait_level(Protection::Availability)?;
    Ok((degrade_ms, return_ms))
}

/// The role goes to the SYNC standby and back.
pub(super) fn switch_over(stage: &Stage, pulse: &Pulse) -> Result<[Gap; 2], Failure> {
    let Some([sync, _]) = &stage.standbys else { return Err(no_standbys()) };
    let there = switch(stage, pulse, &stage.primary, sync)?;
    let back = switch(stage, pulse, sync, &stage.primary)?;
    stage.wait_level(Protection::Availability)?;
    Ok([there, back])
}

fn switch(stage: &Stage, pulse: &Pulse, from: &Cluster, to: &Cluster) -> Result<Gap, Failure> {
    let options = ClientOptions { cluster: from.id, timeout: LEADER_MAX };
    let mut client = Client::new(&from.endpoints(), options)?;
    stage.course.say(&format!("switchover --to {} --verify, then in earnest", to.id));
    let registry = |client: &mut Client| {
        stage.course.wait("the registry", || client.registry().ok().filter(|view| view.current))
    };
    let before = registry(&mut client)?;
    verify(&mut client, &before, to.id)?;
    // One that the target did not keep up with changed nothing, and may be asked for again.
    let (asked, done) = loop {
        stage.course.interrupt.check()?;
        let before = registry(&mut client)?;
        let left = stage.course.deadline.saturating_duration_since(Instant::now());
        let asked = Instant::now();
        if hand_over(&mut client, &before, to.id, left.min(SWITCHOVER_MAX))?.is_some() {
            break (asked, Instant::now());
        }
        stage.course.say("the target did not keep up; asking again");
    };
    let gap = pulse.longest_gap(asked, done + AFTER)?;
    let gap = Gap { gap_ms: millis(gap), command_ms: millis(done - asked) };
    stage.course.say(&format!("cluster {} is the primary; {gap}", to.id));
    Ok(gap)
}

/// Waits for the tree of the figure, appends a burst, and compares it with what crossed the border.
pub(super) fn measure(stage: &Stage, stream: u64) -> Result<Measured, Failure> {
    settle(stage)?;
    let look = || stage.look();
    let looks = stage.course.wait("every node", look)?;
    let (before, begin) = (crossed(&looks.nodes(), "SH", "HZ"), end(&looks.primary, stream));
    let ledger = Ledger::new(u64::MAX);
    let mut sent = 0;
    let mut source = |_| {
        sent += 1;
        let record = (sent <= BURST_RECORDS).then(|| payload(sent));
        Ok(record.map_or(Next::End, Next::Record))
    };
    load::run(&stage.target(stream, BURST_IN_FLIGHT), &ledger, &mut source)?;
    let mut state = ledger.lock();
    let acked = std::mem::take(&mut state.acked);
    let last = acked.iter().map(|ack| ack.end_lsn).max().unwrap_or(begin);
    for cluster in stage.clusters() {
        stage.wait_held(cluster, stream, last)?;
    }
    wait_tree(stage)?;
    let looks = stage.course.wait("every node", look)?;
    let border_bytes = crossed(&looks.nodes(), "SH", "HZ").saturating_sub(before);
    let crossing = Crossing { border_bytes, log_bytes: last - begin };
    stage.course.say(&format!("figure {}: {crossing}", name(stage.figure)));
    Ok(Measured { crossing, acked, refused: std::mem::take(&mut state.refused) })
}

/// Everybody takes from whom the figure says, from now on.
pub(super) fn settle(stage: &Stage) -> Result<(), Failure> {
    stage.gather_leaders()?;
    wait_tree(stage)
}

/// Waits until the catalogue and every stream go as the figure says.
fn wait_tree(stage: &Stage) -> Result<(), Failure> {
    let name = name(stage.figure);
    stage.course.say(&format!("figure {name}: waiting for everybody's upstream"));
    let mut last = "a node does not answer".to_owned();
    let found = stage.course.within(FOUND_MAX, &format!("figure {name}"), || {
        let looks = stage.look()?;
        let mut streams = [CATALOGUE].iter().chain(&stage.streams);
        let wrong = streams.find_map(|stream| stage.figure.objection(looks.scene(), *stream));
        let is_found = wrong.is_none();
        last = wrong.unwrap_or_default();
        is_found.then_some(())
    });
    found.map_err(|failure| Failure::new(failure.exit, format!("{failure}: {last}")))
}

fn name(figure: Figure) -> &'static str {
    if figure == Figure::A { "(a)" } else { "(b)" }
}

fn end(primary: &[palisade::status::Status], stream: u64) -> u64 {
    leader(primary, stream).map_or(0, |(_, seen)| seen.committed_lsn)
}

/// A record of the burst.
fn payload(number: u64) -> Vec<u8> {
    let mut record = format!("record {number} of the burst ").into_bytes();
    record.resize(BURST_BYTES, b'x');
    record
}

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}

fn no_standbys() -> Failure {
    Failure::new(Exit::Invariant, "this chapter needs standbys")
}
