//! The story of a run: start, append, kill, restart, catch up, go through the chapters, judge.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use palisade::status::{Protection, ReplicaRole};

use super::chapters::{self, Measured};
use super::cluster::NodeProcess;
use super::course::Course;
use super::figure::Figure;
use super::input::Input;
use super::judge::judge;
use super::ledger::{Ledger, State};
use super::load;
use super::pulse::Pulse;
use super::report::{FigureReport, NodeLine, Report};
use super::stage::{Plan, Stage, ask_status};
use super::verify::Acked;
use crate::cli::{Demo, RECORDS_DEFAULT};
use crate::exit::{Exit, Failure};
use crate::signals::Interrupt;

/// A run of as many generated records as usual ends by itself within this time.
const RUN_MAX: Duration = Duration::from_secs(88);
/// Bytes per second that a run of files may count on beyond that.
const INPUT_BYTES_PER_S: u64 = 4 << 20;
/// Records per second that a run of more generated records may count on beyond that.
const RECORDS_PER_S: u64 = 20_000;
/// Space of a node beside the input.
const LOG_BYTES_MIN: u64 = 1 << 30;
/// Records of the input in flight.
const IN_FLIGHT: usize = 1024;
/// Records of the pulse in flight: it goes on while some wait.
const PULSE_IN_FLIGHT: usize = 16;

/// Runs everything and reports; children are gone when it returns. What kept it from a judgement
/// is in the report.
pub(super) fn tell(options: &Demo, dir: &Path, interrupt: &Interrupt) -> Report {
    let started = Instant::now();
    let mut report = Report { has_standbys: !options.no_standby, ..Report::default() };
    if let Err(failure) = perform(options, dir, interrupt, started, &mut report) {
        report.error = Some(failure.text);
    }
    report.seconds = started.elapsed().as_secs_f64();
    report
}

fn perform(
    options: &Demo,
    dir: &Path,
    interrupt: &Interrupt,
    started: Instant,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut input = match &options.input {
        Some(path) => Input::files(path)?,
        None => Input::Generated { seed: options.seed, records: options.records },
    };
    report.expected = input.records();
    let course = Course::new(interrupt, started + time_for(&input), input.records());
    let plan = Plan {
        figure: Figure::A,
        has_standbys: report.has_standbys,
        dir,
        zero_copy: options.zero_copy,
        log_bytes_max: LOG_BYTES_MIN.max(input.bytes().saturating_mul(4)),
        streams: 3,
    };
    let result = first_figure(&plan, &course, &mut input, report).and_then(|()| {
        let plan = Plan { figure: Figure::B, dir: &dir.join("figure-b"), streams: 1, ..plan };
        if plan.has_standbys { second_figure(&plan, &course, report) } else { Ok(()) }
    });
    course.bar.finish_and_clear();
    result
}

/// How long a run of this input may take.
fn time_for(input: &Input) -> Duration {
    let extra = match input {
        Input::Generated { records, .. } => records.saturating_sub(RECORDS_DEFAULT) / RECORDS_PER_S,
        Input::Files(_) => input.bytes() / INPUT_BYTES_PER_S,
    };
    RUN_MAX + Duration::from_secs(extra)
}

fn first_figure(
    plan: &Plan<'_>,
    course: &Course,
    input: &mut Input,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut run = Run::start(plan, input, course)?;
    report.stream = run.stage.streams.first().copied();
    let result = run.play(input, report);
    run.note(report);
    result
}

/// The other figure, with clusters of its own, of which only the way of the log is looked at.
fn second_figure(plan: &Plan<'_>, course: &Course, report: &mut Report) -> Result<(), Failure> {
    let stage = Stage::start(plan, course)?;
    stage.set_mode(Protection::Availability)?;
    let stream = stage.streams[0];
    let mut book = Book { stream, ..Book::default() };
    report.figure_b = Some(figure(&stage, &mut book, report)?);
    report.nodes_b = book.judge(&stage, report)?;
    Ok(())
}

/// Measures the figure on a stage; what it lacks is no reason to end.
fn figure(stage: &Stage, book: &mut Book, report: &mut Report) -> Result<FigureReport, Failure> {
    match chapters::measure(stage, book.stream) {
        Ok(Measured { crossing, acked, refused }) => {
            book.acked = acked;
            report.refused.extend(refused);
            Ok(FigureReport::Found(crossing))
        }
        Err(failure) => {
            stage.course.interrupt.check()?;
            Ok(FigureReport::Missed(failure.text))
        }
    }
}

/// What was acked on a stream.
#[derive(Default)]
struct Book {
    stream: u64,
    acked: Vec<Acked>,
}

impl Book {
    fn judge(&self, stage: &Stage, report: &mut Report) -> Result<Vec<NodeLine>, Failure> {
        wait_everywhere(stage, self.stream, end_of(&self.acked))?;
        let (findings, nodes) = judge(stage, self.stream, &self.acked, false)?;
        report.acked_beside += self.acked.len() as u64;
        report.add(findings);
        Ok(nodes)
    }
}

/// Where the last acked record ends.
fn end_of(acked: &[Acked]) -> u64 {
    acked.iter().map(|ack| ack.end_lsn).max().unwrap_or(0)
}

fn wait_everywhere(stage: &Stage, stream: u64, end: u64) -> Result<(), Failure> {
    stage.clusters().try_for_each(|cluster| stage.wait_held(cluster, stream, end))
}

/// The clusters of figure (a), and the input that goes through them.
struct Run {
    stage: Stage,
    records: u64,
    ledger: Arc<Ledger>,
    load_started: Instant,
    failover_ms: Option<u64>,
    appends_per_s: Option<u64>,
    /// It was said that a node runs with unregistered buffers.
    said_unregistered: bool,
}

impl Run {
    fn start(plan: &Plan<'_>, input: &Input, course: &Course) -> Result<Run, Failure> {
        let stage = Stage::start(plan, course)?;
        let records = input.records();
        Ok(Run {
            stage,
            records,
            ledger: Arc::new(Ledger::new(part(records, 2, 5))),
            load_started: Instant::now(),
            failover_ms: None,
            appends_per_s: None,
            said_unregistered: false,
        })
    }

    fn play(&mut self, input: &mut Input, report: &mut Report) -> Result<(), Failure> {
        self.say_unregistered();
        let load = self.start_load(input)?;
        self.kill_and_restart()?;
        // The kernel may have allowed a node more or less than in its first life.
        self.say_unregistered();
        self.finish_load(load, input)?;
        report.standby_caught_up_ms = self.catch_up()?;
        let books = match report.has_standbys {
            true => self.go_through(report)?,
            false => Vec::new(),
        };
        self.judge(input, &books, report)
    }

    /// The chapters that need standbys; what was appended in them.
    fn go_through(&self, report: &mut Report) -> Result<Vec<Book>, Failure> {
        let (stage, course) = (&self.stage, &self.stage.course);
        let [_, pulsed, burst] = stage.streams[..] else {
            return Err(Failure::new(Exit::Invariant, "three streams are needed"));
        };
        let mut burst = Book { stream: burst, ..Book::default() };
        let pulse = Pulse::start(stage.target_of_role(pulsed, PULSE_IN_FLIGHT), course)?;
        report.mode_ms = Some(chapters::change_mode(stage, &pulse)?);
        // The ratio is that of one stream.
        pulse.set_paused(true);
        report.figure_a = Some(figure(stage, &mut burst, report)?);
        pulse.set_paused(false);
        let (degrade_ms, return_ms) = chapters::degrade_and_return(stage, &pulse)?;
        (report.degrade_ms, report.return_ms) = (Some(degrade_ms), Some(return_ms));
        report.switchovers = Some(chapters::switch_over(stage, &pulse)?);
        if let Err(failure) = chapters::settle(stage) {
            course.interrupt.check()?;
            report.figure_a = Some(FigureReport::Missed(failure.text));
        }
        let (acked, refused) = pulse.end()?;
        report.refused.extend(refused);
        Ok(vec![Book { stream: pulsed, acked }, burst])
    }

    /// Says once for all nodes that the kernel lets them register too little memory.
    fn say_unregistered(&mut self) {
        let nodes = self.stage.clusters().flat_map(|cluster| &cluster.nodes);
        let mut notices = nodes.filter_map(|node| Some((node.place.name, node.notice()?)));
        let Some((name, notice)) = notices.next().filter(|_| !self.said_unregistered) else {
            return;
        };
        // Above the bar, where it stays.
        let text = format!("node {name}, and maybe others: {notice}");
        self.stage.course.bar.suspend(|| eprintln!("{text}"));
        self.said_unregistered = true;
    }

    /// Writes down what is known, however the run ended.
    fn note(&self, report: &mut Report) {
        let state = self.ledger.lock();
        report.acked = state.acked.len() as u64;
        report.refused.extend(state.refused.iter().cloned());
        report.failover_ms = self.failover_ms;
        report.appends_per_s = self.appends_per_s;
        let quantile = |q| (!state.latency.is_empty()).then(|| state.latency.value_at_quantile(q));
        (report.p50_us, report.p99_us) = (quantile(0.5), quantile(0.99));
    }

    /// Starts the thread that appends; it ends by itself when the process does.
    fn start_load(&mut self, input: &mut Input) -> Result<JoinHandle<Input>, Failure> {
        let target = self.stage.target(self.stage.streams[0], IN_FLIGHT);
        let ledger = Arc::clone(&self.ledger);
        let placeholder = Input::Generated { seed: 0, records: 0 };
        let mut input = std::mem::replace(input, placeholder);
        self.load_started = Instant::now();
        let work = move || {
            // Why it failed is in the ledger.
            let _ = load::run_gated(&target, &mut input, &ledger);
            input
        };
        let thread = std::thread::Builder::new().name("load".to_owned()).spawn(work);
        thread.map_err(|error| Failure::io("load thread", &error))
    }

    fn kill_and_restart(&mut self) -> Result<(), Failure> {
        let records = self.records;
        self.wait_acked(part(records, 1, 3), "a third of the records")?;
        let rate = part(records, 1, 3) as f64 / self.load_started.elapsed().as_secs_f64();
        self.appends_per_s = Some(rate as u64);
        let victim = self.kill_leader()?;
        self.ledger.open_gate(part(records, 1, 2));
        self.wait_acked(part(records, 9, 20), "acks under the new leader")?;
        self.stage.course.say(&format!("restarting {}", self.name_of(victim)));
        let interrupt = self.stage.course.interrupt.clone();
        if let Some(node) = self.stage.primary.node(victim) {
            node.spawn()?;
        }
        self.ledger.open_gate(part(records, 2, 3));
        if let Some(node) = self.stage.primary.node(victim) {
            node.wait_ready(&interrupt)?;
        }
        self.wait_acked(part(records, 3, 5), "acks beside the restarted node")?;
        self.kill_standby(&interrupt)?;
        self.ledger.open_gate(u64::MAX);
        Ok(())
    }

    /// The ASYNC standby is killed, and started again after some more acks.
    fn kill_standby(&mut self, interrupt: &Interrupt) -> Result<(), Failure> {
        let records = self.records;
        if let Some(standby) = self.follower() {
            let text = format!("SIGKILL to the ASYNC standby, {}", standby.place.name);
            standby.kill();
            self.stage.course.say(&text);
        }
        self.ledger.open_gate(part(records, 5, 6));
        self.wait_acked(part(records, 3, 4), "acks without the standby")?;
        let Some(standby) = self.follower() else { return Ok(()) };
        standby.spawn()?;
        self.ledger.open_gate(u64::MAX);
        self.stage.course.say("restarting the standby");
        self.follower().map_or(Ok(()), |standby| standby.wait_ready(interrupt))
    }

    fn follower(&mut self) -> Option<&mut NodeProcess> {
        let [_, follower] = self.stage.standbys.as_mut()?;
        follower.node(1)
    }

    /// Kills the node that acked last and waits for an ack by another one.
    fn kill_leader(&mut self) -> Result<u32, Failure> {
        let acker = self.ledger.lock().acker;
        let Some((leader, _)) = acker else {
            return Err(Failure::new(Exit::Failed, "nobody acked anything"));
        };
        let course = self.stage.course.clone();
        course.say(&format!("SIGKILL to the leader, {}", self.name_of(leader)));
        let Some(node) = self.stage.primary.node(leader) else {
            let text = format!("node {leader} acked but is no member");
            return Err(Failure::new(Exit::Failed, text));
        };
        let killed = Instant::now();
        node.kill();
        if part(self.records, 9, 20) <= part(self.records, 2, 5) {
            // So few records that none is left to ask a new leader with.
            self.failover_ms = Some(self.wait_other_leader(leader, killed)?);
            return Ok(leader);
        }
        self.ledger.open_gate(part(self.records, 9, 20));
        let new =
            |state: &State| state.acker.filter(|(node, since)| *node != leader && *since > killed);
        let wait = self.ledger.wait_for("a new leader", course.deadline, &course.interrupt, new);
        let (next, at) = wait?;
        let failover_ms = at.duration_since(killed).as_millis() as u64;
        self.failover_ms = Some(failover_ms);
        course.say(&format!("{} acks after {failover_ms} ms", self.name_of(next)));
        Ok(leader)
    }

    /// Waits until another node says that it leads; how long after the kill.
    fn wait_other_leader(&self, old: u32, killed: Instant) -> Result<u64, Failure> {
        let (primary, stream) = (&self.stage.primary, self.stage.streams[0]);
        self.stage.course.wait("a leader", || {
            let mut others = primary.nodes.iter().filter(|node| node.id != old);
            let leads = |node: &NodeProcess| {
                let status = ask_status(node, primary.id).ok();
                let seen = status.as_ref().and_then(|status| status.stream(stream));
                seen.is_some_and(|seen| seen.role == ReplicaRole::Leader)
            };
            others.any(leads).then(|| killed.elapsed().as_millis() as u64)
        })
    }

    fn name_of(&self, id: u32) -> String {
        let node = self.stage.primary.nodes.iter().find(|node| node.id == id);
        node.map_or(format!("node {id}"), |node| node.place.name.to_owned())
    }

    fn wait_acked(&self, count: u64, what: &str) -> Result<(), Failure> {
        let Course { deadline, interrupt, bar } = &self.stage.course;
        self.ledger.wait_for(what, *deadline, interrupt, |state| {
            let acked = state.acked.len() as u64;
            bar.set_position(acked);
            (acked >= count).then_some(())
        })
    }

    fn finish_load(&mut self, load: JoinHandle<Input>, input: &mut Input) -> Result<(), Failure> {
        let bar = &self.stage.course.bar;
        let what = format!("{} acks", self.records);
        self.stage.course.wait(&what, || {
            let state = self.ledger.lock();
            bar.set_position(state.acked.len() as u64);
            state.ended.then_some(())
        })?;
        let ended = load.join();
        *input = ended.map_err(|_| Failure::new(Exit::Invariant, "the load panicked"))?;
        Ok(())
    }

    /// Waits until every node has and shows every acked byte; how long the standbys took.
    fn catch_up(&mut self) -> Result<Option<u64>, Failure> {
        let (end, last_ack) = {
            let state = self.ledger.lock();
            (end_of(&state.acked), state.last_ack.unwrap_or(self.load_started))
        };
        let (stage, mut took) = (&self.stage, None);
        if let Some(standbys) = &stage.standbys {
            stage.course.say("waiting for the standbys");
            for cluster in standbys {
                stage.wait_held(cluster, stage.streams[0], end)?;
            }
            took = Some(last_ack.elapsed().as_millis() as u64);
        }
        stage.wait_held(&stage.primary, stage.streams[0], end)?;
        Ok(took)
    }

    /// Compares what was acked with what every node returns.
    fn judge(&self, input: &Input, books: &[Book], report: &mut Report) -> Result<(), Failure> {
        let (stage, stream) = (&self.stage, self.stage.streams[0]);
        stage.course.say("reading every node");
        report.input_sha256 = input.sha256();
        // The load has ended: nobody else wants the ledger.
        let state = self.ledger.lock();
        wait_everywhere(stage, stream, end_of(&state.acked))?;
        // Only files have a digest that people compare.
        let with_digest = report.input_sha256.is_some();
        let (findings, nodes) = judge(stage, stream, &state.acked, with_digest)?;
        drop(state);
        report.nodes = nodes;
        report.add(findings);
        for book in books {
            book.judge(stage, report)?;
        }
        Ok(())
    }
}

fn part(whole: u64, numerator: u64, denominator: u64) -> u64 {
    (whole * numerator / denominator).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_records_have_more_time_and_the_usual_ones_end_within_90_seconds() {
        let time = |records| time_for(&Input::Generated { seed: 1, records });
        assert!(time(RECORDS_DEFAULT) < Duration::from_secs(90));
        assert_eq!(time(100), time(RECORDS_DEFAULT));
        // At the pace of a slow machine, 20,000 records in a second.
        assert!(time(5_000_000) > Duration::from_secs(300), "{:?}", time(5_000_000));
    }
}
