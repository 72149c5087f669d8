//! An operator who moves leaderships about.

use palisade::shard::Answer;
use palisade::{Error, ErrorKind};
use palisade_netio::Nanos;

use super::check::Violation;
use super::fleet::Fleet;
use super::settings::{MS, SECOND, Settings, pick};
use crate::sim::Random;

/// A hand-over that was asked for.
struct Asked {
    cluster: usize,
    stream: u64,
    to: u32,
    answer: Answer<u64>,
}

/// See the [module](self). Draws from a source of its own.
pub struct Operator {
    random: Random,
    busy: bool,
    asked: Option<Asked>,
    /// Leaderships that moved as asked.
    pub moved: u64,
}

impl Operator {
    /// One who has not begun; sets how soon leaders hand over by themselves.
    pub fn new(seed: u64, settings: &mut Settings) -> Operator {
        let mut random = Random::new(seed ^ 0x6f70_6572_6174_6f72);
        let hand_overs = [0, 300 * MS, 2 * SECOND, 2 * SECOND, settings.tuning.hand_over_ns];
        settings.tuning.hand_over_ns = pick(&mut random, &hand_overs);
        Operator { busy: random.coin(), random, asked: None, moved: 0 }
    }

    /// Acts: when to act again, if at all.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn wake(&mut self, now: Nanos, fleet: &Fleet) -> Result<Option<Nanos>, Violation> {
        if !self.busy {
            return Ok(None);
        }
        if let Some(asked) = self.asked.take() {
            match asked.answer.try_take() {
                None => self.asked = Some(asked),
                Some(Ok(round)) => {
                    check_leads(&asked, round, fleet)?;
                    self.moved += 1;
                }
                Some(Err(error)) => check_refusal(&error)?,
            }
        }
        if self.asked.is_none() {
            self.asked = self.ask(fleet);
        }
        Ok(Some(now.after(self.random.between(10 * MS, 3 * SECOND))))
    }

    fn ask(&mut self, fleet: &Fleet) -> Option<Asked> {
        let cluster = self.random.index(fleet.clusters.len());
        let streams = fleet.streams(cluster);
        let stream = *streams.get(self.random.index(streams.len().max(1)))?;
        let nodes = &fleet.clusters[cluster].nodes;
        // Mostly the leader is asked; any node must know what to say.
        let any = nodes[self.random.index(nodes.len())];
        let at = fleet.leader(cluster, stream).filter(|_| self.random.below(8) > 0).unwrap_or(any);
        let to = fleet.nodes[nodes[self.random.index(nodes.len())]].id;
        let to = if self.random.below(16) == 0 { 99 } else { to };
        let answer = fleet.port(at, stream)?.transfer_leader(stream, to).ok()?;
        Some(Asked { cluster, stream, to, answer })
    }
}

/// Who is said to lead has promised nobody's lower ballot since, if it still runs.
fn check_leads(asked: &Asked, round: u64, fleet: &Fleet) -> Result<(), Violation> {
    let nodes = &fleet.clusters[asked.cluster].nodes;
    let node = nodes.iter().copied().find(|node| fleet.nodes[*node].id == asked.to);
    let Some(node) = node else {
        let text = format!("stream {} went to node {}, which is none", asked.stream, asked.to);
        return Err(Violation::new("hand_over", text));
    };
    let ballot = fleet.replica(node, asked.stream).map(|replica| {
        let log = replica.log();
        // A disk that was damaged since keeps what it may have promised, and nothing else.
        if log.is_unknown() { log.promised() } else { log.accepting() }
    });
    match ballot {
        Some(ballot) if ballot.round < round => {
            let Asked { stream, to, .. } = asked;
            let text = format!("node {to} is said to lead {stream} in {round}, and is at {ballot}");
            Err(Violation::new("hand_over", text))
        }
        _ => Ok(()),
    }
}

fn check_refusal(error: &Error) -> Result<(), Violation> {
    use ErrorKind::*;
    match error.kind() {
        NotLeader | NotMember | NotUp | LeadsAlready | Behind | TimedOut | Busy | UnknownStream
        | Shutdown | Poisoned | Io | Corrupt => Ok(()),
        kind => Err(Violation::new("hand_over", format!("refused as {kind:?}: {error}"))),
    }
}
