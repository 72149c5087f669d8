//! What goes wrong, and when: chance from the universe's plan, a schedule of the world's own, and
//! blows that wait for a certain moment in the life of a replica.
//!
//! All of it stays inside the promise: whoever dies comes back, and disks keep what they said
//! they keep.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use palisade_netio::Nanos;

use super::check::Raised;
use super::fleet::Fleet;
use super::rot::Vouched;
use super::settings::{MS, SECOND, pick};
use crate::sim::{FaultKind, FaultPlan, HostId, Latency, ProcessId, Random, Universe};

/// Something that the world does to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// Kills a process.
    Kill(usize),
    /// Cuts a host's power.
    PowerCut(usize),
    /// Cuts the power of all hosts of a node's cluster.
    Blackout(usize),
    /// Cuts a node off from another, one way or both.
    Partition(usize, usize, bool),
    /// Cuts a node off from all others of its cluster; if so said, of all clusters.
    Isolate(usize, bool),
    /// Ends the partitions of a node.
    Heal(usize),
    /// Cuts two clusters off from each other.
    Sever(usize, usize),
    /// Ends that.
    Join(usize, usize),
    /// Breaks the connections between two nodes.
    Break(usize, usize),
    /// Lets a disk stand still.
    Stall(usize, u64),
    /// Slows a disk down by this factor; 1 ends it.
    Slow(usize, u64),
    /// Stops a process, as `SIGSTOP` does.
    Pause(usize, u64),
    /// Moves a wall clock.
    ClockJump(usize, i64),
    /// Makes the way from a node to another slow; 0 ends it.
    Lag(usize, usize, u64),
    /// Lets the disk of a node fail once: a write, a barrier or a read.
    Error(usize, FaultKind),
    /// Kills a process; what its disk holds is damaged when it comes back.
    Rot(usize),
    /// Fills the disk of a node, or gives the space back.
    Fill(usize, bool),
    /// Draws which faults strike by chance.
    Redraw,
}

/// A step of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Do it.
    Strike(Blow),
    /// Draw the next blow of the schedule.
    Draw,
    /// Start a node again, if it is down.
    Revive(usize),
}

/// Kinds of blow that a seed may draw, with the kind of fault that each counts as.
const KINDS: &[FaultKind] = &[
    FaultKind::Kill,
    FaultKind::PowerCut,
    FaultKind::Partition,
    FaultKind::Reset,
    FaultKind::DiskStall,
    FaultKind::DiskSpike,
    FaultKind::Pause,
    FaultKind::ClockJump,
    FaultKind::LinkSpike,
    FaultKind::BarrierError,
    FaultKind::BitFlip,
    FaultKind::NoSpace,
];

/// Bits that flip at once, at most.
const FLIPS_MAX: u64 = 3;
/// The segment that a log begins with until it is recycled.
const FIRST_SEGMENT: &str = "0000000000000001.seg";
/// First bytes of a segment, which no bit flips in: its header, and where the shard's first
/// records are. Without them a node does not start; a repair is not there yet.
const SPARED_BYTES: u64 = 64 << 10;

/// Faults that are no more than the usual ways of a kernel; they do not count.
const USUAL: &[FaultKind] = &[
    FaultKind::ShortRead,
    FaultKind::SendCut,
    FaultKind::ReceiveCut,
    FaultKind::Segmented,
    FaultKind::AcceptEnd,
    FaultKind::LateNotify,
    FaultKind::ZeroCopyCopied,
];

/// What happens to whole frames between shards.
const FRAMES: [FaultKind; 3] = [FaultKind::FrameLost, FaultKind::FrameAgain, FaultKind::FrameLate];

/// Half of the seeds leave frames alone, by chances of their own.
fn frames(random: &mut Random) -> [u32; 3] {
    let on = random.coin();
    FRAMES.map(|_| if on && random.coin() { random.between(1, 20_000) as u32 } else { 0 })
}

/// Whether a seed's world is a contest: leaders come and go all the time, who promises loses its
/// power at once, and messages of elections are lost. It finds what needs a narrow moment.
pub fn is_contest(seed: u64) -> bool {
    Random::new(seed ^ 0x636F_6E74_6573_7473).below(4) == 0
}

/// See the [module](self).
pub struct Faults {
    random: Random,
    kinds: Vec<FaultKind>,
    /// Mean time between two blows of the schedule.
    pause_ns: u64,
    /// Longest time until who died comes back.
    down_ns: u64,
    /// Chances, in a million, of a blow when a replica promises, accepts a takeover, begins to
    /// lead, begins to fetch, or commits.
    on_promise: u32,
    on_takeover: u32,
    on_lead: u32,
    on_fetch: u32,
    on_commit: u32,
    errors: bool,
    rots: bool,
    fills: bool,
    /// Chances, in a million, of each of [`FRAMES`].
    frames: [u32; 3],
    /// See [`is_contest`].
    contest: bool,
    /// Whose disk is full.
    full: BTreeSet<usize>,
    /// Segments with flipped bits.
    rotten: BTreeSet<(HostId, PathBuf)>,
    own: BTreeMap<FaultKind, u64>,
    /// Not yet, or not any more.
    pub over: bool,
}

impl Faults {
    /// Draws what a seed suffers.
    pub fn draw(seed: u64) -> Faults {
        let mut random = Random::new(seed);
        let mut kinds = KINDS.to_vec();
        random.shuffle(&mut kinds);
        kinds.truncate(random.between(3, KINDS.len() as u64) as usize);
        let mut chance = |most: u64| match random.below(3) {
            0 => 0,
            _ => random.between(1, most) as u32,
        };
        let (on_promise, on_takeover) = (chance(300_000), chance(300_000));
        let (on_lead, on_fetch, on_commit) = (chance(500_000), chance(300_000), chance(300));
        Faults {
            errors: kinds.contains(&FaultKind::BarrierError),
            rots: kinds.contains(&FaultKind::BitFlip),
            fills: kinds.contains(&FaultKind::NoSpace),
            full: BTreeSet::new(),
            kinds,
            frames: frames(&mut Random::new(seed ^ 0x6672_616D_6573)),
            pause_ns: pick(&mut random, &[200 * MS, 700 * MS, 2 * SECOND]),
            down_ns: pick(&mut random, &[10 * MS, 300 * MS, 2 * SECOND, 6 * SECOND]),
            on_promise,
            on_takeover,
            on_lead,
            on_fetch,
            on_commit,
            rotten: BTreeSet::new(),
            own: BTreeMap::new(),
            over: true,
            contest: false,
            random,
        }
    }

    /// Draws what a contest suffers instead.
    pub fn draw_contest(seed: u64) -> Faults {
        let mut faults = Faults::draw(seed);
        let mut random = Random::new(seed ^ 0x636F_6E74_6573_7421);
        let deadly = [FaultKind::Kill, FaultKind::PowerCut, FaultKind::Partition, FaultKind::Pause];
        faults.kinds.retain(|kind| !deadly.contains(kind));
        faults.kinds.extend(deadly);
        let mut chance = |most: u64| random.between(most / 4, most) as u32;
        (faults.on_promise, faults.on_takeover) = (chance(800_000), chance(300_000));
        (faults.on_lead, faults.on_fetch) = (chance(500_000), chance(500_000));
        faults.frames = [chance(100_000), chance(20_000), chance(20_000)];
        faults.pause_ns = pick(&mut random, &[100 * MS, 300 * MS]);
        faults.down_ns = pick(&mut random, &[MS, 30 * MS, 300 * MS]);
        faults.contest = true;
        faults
    }

    /// A plan with what this seed does to whole frames.
    pub fn plan(&self, plan: FaultPlan) -> FaultPlan {
        FRAMES.iter().zip(self.frames).fold(plan, |plan, (&kind, ppm)| plan.with(kind, ppm))
    }

    /// Whether disks may fail, so that a node may stop by itself.
    pub fn may_stop_nodes(&self) -> bool {
        self.errors || self.fills
    }

    /// Whether bytes that a disk called durable may be lost.
    pub fn may_lose_bytes(&self) -> bool {
        self.errors || self.rots
    }

    /// Whether disks may be full.
    pub fn may_fill_disks(&self) -> bool {
        self.fills
    }

    /// Whether the disk of a node may fail to give back what it holds.
    pub fn may_spoil_reads(&self, node: usize, fleet: &Fleet) -> bool {
        (self.errors || self.rots) && is_first(node, fleet)
    }

    /// The next step of the schedule after a [`Step::Draw`].
    pub fn next_draw(&mut self, now: Nanos) -> Nanos {
        now.after(self.random.between(MS, 2 * self.pause_ns))
    }

    /// When a node that died comes back.
    pub fn revival(&mut self, now: Nanos) -> Nanos {
        now.after(self.random.between(MS / 10, self.down_ns))
    }

    /// Draws a blow of the schedule.
    pub fn draw_blow(&mut self, fleet: &Fleet) -> Blow {
        if self.random.below(12) == 0 {
            return Blow::Redraw;
        }
        let kind = pick(&mut self.random, &self.kinds);
        let node = self.victim(fleet);
        self.blow(kind, node, fleet)
    }

    /// Somebody; leaders more often than others.
    fn victim(&mut self, fleet: &Fleet) -> usize {
        let cluster = self.random.index(fleet.clusters.len());
        // Nothing more happens to the dead.
        let cluster = if fleet.is_lost(cluster) { fleet.primary() } else { cluster };
        let cluster = if fleet.is_lost(cluster) { cluster + 1 } else { cluster };
        if self.random.coin() {
            let streams = fleet.streams(cluster);
            if !streams.is_empty() {
                let stream = pick(&mut self.random, &streams);
                if let Some(leader) = fleet.leader(cluster, stream) {
                    return leader;
                }
            }
        }
        pick(&mut self.random, &fleet.clusters[cluster].nodes)
    }

    /// Another node: mostly of the same cluster.
    fn other(&mut self, node: usize, fleet: &Fleet) -> usize {
        let mut others = self.peers(node, fleet);
        if others.is_empty() || self.random.below(3) == 0 {
            others = (0..fleet.nodes.len()).filter(|&other| other != node).collect();
        }
        pick(&mut self.random, &others)
    }

    fn blow(&mut self, kind: FaultKind, node: usize, fleet: &Fleet) -> Blow {
        let other = self.other(node, fleet);
        let (here, there) = (fleet.nodes[node].cluster, fleet.nodes[other].cluster);
        let first = is_first(node, fleet);
        let cluster = &fleet.clusters[here].nodes;
        let another_is_full = cluster.iter().any(|node| self.full.contains(node));
        let random = &mut self.random;
        match kind {
            FaultKind::Kill => Blow::Kill(node),
            FaultKind::PowerCut if random.below(8) == 0 => Blow::Blackout(node),
            FaultKind::PowerCut => Blow::PowerCut(node),
            FaultKind::Partition if here != there && random.coin() => Blow::Sever(here, there),
            FaultKind::Partition if random.coin() => Blow::Isolate(node, random.coin()),
            FaultKind::Partition => Blow::Partition(node, other, random.coin()),
            FaultKind::Reset => Blow::Break(node, other),
            FaultKind::DiskStall => Blow::Stall(node, random.between(10 * MS, 3 * SECOND)),
            FaultKind::DiskSpike => Blow::Slow(node, random.between(2, 400)),
            FaultKind::Pause => Blow::Pause(node, random.between(10 * MS, 3 * SECOND)),
            FaultKind::ClockJump => {
                let by = random.between(1, 60 * SECOND) as i64;
                Blow::ClockJump(node, if random.coin() { by } else { -by })
            }
            FaultKind::LinkSpike => Blow::Lag(node, other, random.between(MS, 300 * MS)),
            FaultKind::NoSpace if !another_is_full => Blow::Fill(node, true),
            // What a failed barrier covered may be gone for good, and what is damaged or cannot
            // be read at a start counts as lost: only one disk of several may be so bad.
            FaultKind::BitFlip if first => Blow::Rot(node),
            FaultKind::BitFlip | FaultKind::NoSpace => Blow::Kill(node),
            _ if first => {
                let kinds = [FaultKind::BarrierError, FaultKind::WriteError, FaultKind::ReadError];
                Blow::Error(node, pick(random, &kinds))
            }
            _ => Blow::Error(node, FaultKind::WriteError),
        }
    }

    /// A replica did something: maybe a blow, and when.
    pub fn on_raised(
        &mut self,
        node: usize,
        raised: Raised,
        now: Nanos,
        fleet: &Fleet,
    ) -> Option<(Nanos, Blow)> {
        let chance = [
            (raised.promised, self.on_promise),
            (raised.accepting, self.on_takeover),
            (raised.leads, self.on_lead),
            (raised.fetches, self.on_fetch),
            (raised.committed, self.on_commit),
        ];
        let strikes = |&(raised, ppm): &(bool, u32)| raised && self.random.chance(ppm);
        if self.over || !chance.iter().any(strikes) {
            return None;
        }
        let deadly = [FaultKind::Kill, FaultKind::PowerCut, FaultKind::Partition];
        let mut kinds: Vec<FaultKind> =
            deadly.into_iter().filter(|kind| self.kinds.contains(kind)).collect();
        if kinds.is_empty() {
            kinds.extend(&self.kinds);
        }
        let kind = pick(&mut self.random, &kinds);
        let delay = match self.random.below(3) {
            0 => 0,
            1 => self.random.below(300_000),
            _ => self.random.below(10 * MS),
        };
        if self.contest && raised.promised && self.random.coin() {
            return Some((now.after(self.random.below(300_000)), Blow::PowerCut(node)));
        }
        let victim = if self.random.below(3) == 0 { self.other(node, fleet) } else { node };
        let blow = self.blow(kind, victim, fleet);
        Some((now.after(delay), blow))
    }

    /// Does it. What must follow, and when.
    pub fn strike(
        &mut self,
        blow: Blow,
        universe: &Universe,
        fleet: &mut Fleet,
    ) -> Vec<(Nanos, Step)> {
        let now = universe.now();
        let host = |node: usize| fleet.nodes[node].host;
        let soon = now.after(self.random.between(MS, 3 * SECOND));
        match blow {
            Blow::Kill(node) => {
                fleet.kill(node);
                vec![(self.revival(now), Step::Revive(node))]
            }
            Blow::PowerCut(node) => {
                fleet.power_cut(node);
                vec![(self.revival(now), Step::Revive(node))]
            }
            Blow::Rot(node) => {
                fleet.kill(node);
                self.rot(fleet.nodes[node].host, universe);
                vec![(self.revival(now), Step::Revive(node))]
            }
            Blow::Fill(node, full) => {
                match full {
                    true => self.full.insert(node),
                    false => self.full.remove(&node),
                };
                universe.set_full(host(node), full);
                let end = (soon, Step::Strike(Blow::Fill(node, false)));
                if full { vec![end] } else { Vec::new() }
            }
            Blow::Blackout(node) => {
                let nodes = fleet.clusters[fleet.nodes[node].cluster].nodes.clone();
                let each = nodes.into_iter().map(|node| {
                    fleet.power_cut(node);
                    (self.revival(now), Step::Revive(node))
                });
                each.collect()
            }
            Blow::Partition(..)
            | Blow::Isolate(..)
            | Blow::Heal(_)
            | Blow::Sever(..)
            | Blow::Join(..) => {
                let heal = self.strike_ways(blow, universe, fleet);
                heal.into_iter().map(|blow| (soon, Step::Strike(blow))).collect()
            }
            Blow::Slow(node, factor) => {
                self.count(FaultKind::DiskSpike, factor > 1);
                universe.set_slowness(host(node), factor);
                let end = (soon, Step::Strike(Blow::Slow(node, 1)));
                if factor > 1 { vec![end] } else { Vec::new() }
            }
            Blow::Lag(from, to, ns) => {
                self.count(FaultKind::LinkSpike, ns > 0);
                universe.set_link(host(from), host(to), Latency::new(30_000 + ns, 120_000 + ns));
                let end = (soon, Step::Strike(Blow::Lag(from, to, 0)));
                if ns > 0 { vec![end] } else { Vec::new() }
            }
            blow => {
                self.strike_once(blow, universe, fleet);
                Vec::new()
            }
        }
    }

    /// What cuts the ways between nodes, or heals them. What heals it.
    fn strike_ways(&self, blow: Blow, universe: &Universe, fleet: &Fleet) -> Option<Blow> {
        let host = |node: usize| fleet.nodes[node].host;
        match blow {
            Blow::Partition(from, to, one_way) => {
                universe.partition(host(from), host(to), one_way);
                Some(Blow::Heal(from))
            }
            Blow::Isolate(node, wide) => {
                let all = (0..fleet.nodes.len()).filter(|&other| other != node);
                let others = if wide { all.collect() } else { self.peers(node, fleet) };
                for other in others {
                    universe.partition(host(node), host(other), false);
                }
                Some(Blow::Heal(node))
            }
            Blow::Heal(node) => {
                for other in (0..fleet.nodes.len()).filter(|&other| other != node) {
                    universe.heal(host(node), host(other));
                }
                None
            }
            Blow::Sever(a, b) => {
                for (one, other) in pairs(a, b, fleet) {
                    universe.partition(host(one), host(other), false);
                }
                Some(Blow::Join(a, b))
            }
            Blow::Join(a, b) => {
                for (one, other) in pairs(a, b, fleet) {
                    universe.heal(host(one), host(other));
                }
                None
            }
            other => unreachable!("{other:?} cuts nothing"),
        }
    }

    /// What nothing has to follow.
    fn strike_once(&mut self, blow: Blow, universe: &Universe, fleet: &mut Fleet) {
        let now = universe.now();
        let host = |node: usize| fleet.nodes[node].host;
        match blow {
            Blow::Break(a, b) => {
                universe.break_connections(host(a), host(b));
            }
            Blow::Stall(node, ns) => {
                universe.stall(host(node), now.after(ns));
            }
            Blow::Pause(node, ns) => {
                self.pause(fleet.nodes[node].process, now.after(ns), universe);
            }
            Blow::ClockJump(node, by) => {
                universe.jump_wall(host(node), by);
            }
            Blow::Error(node, kind) => {
                universe.arm(host(node), kind, 1);
            }
            Blow::Redraw => {
                let plan = FaultPlan::swarm(&mut self.random);
                universe.set_faults(self.plan(plan));
            }
            other => unreachable!("{other:?} is followed by something"),
        }
    }

    /// Flips bits in what is stored of segments. A log that lost its first segment begins with a
    /// checkpoint: one of the two that it keeps is always spared, as no disk that lost both may
    /// go on (wal/FORMAT.md, "State").
    fn rot(&mut self, host: HostId, universe: &Universe) {
        let is_segment = |path: &PathBuf| path.extension().is_some_and(|end| end == "seg");
        let segments: Vec<PathBuf> =
            universe.files(host).into_iter().map(|(path, _)| path).filter(is_segment).collect();
        self.rotten.retain(|(of, path)| *of != host || segments.contains(path));
        if segments.is_empty() {
            return;
        }
        for _ in 0..self.random.between(1, FLIPS_MAX) {
            let mut path = pick(&mut self.random, &segments);
            // Each shard of a node has a log of its own, in a directory of its own.
            let of_log = |it: &&(HostId, PathBuf)| it.0 == host && it.1.parent() == path.parent();
            if !segments.contains(&path.with_file_name(FIRST_SEGMENT))
                && let Some((_, rotten)) = self.rotten.iter().find(of_log)
            {
                path = rotten.clone();
            }
            let bytes = universe.read_durable(host, &path).unwrap_or_default();
            // Behind the last byte that is not zero nothing was written.
            let end = bytes.iter().rposition(|&byte| byte != 0).unwrap_or(0) as u64;
            if end <= SPARED_BYTES {
                continue;
            }
            let offset = SPARED_BYTES + self.random.below(end - SPARED_BYTES + 1);
            let mut vouched = Vouched::default();
            for segment in segments.iter().filter(|it| it.parent() == path.parent()) {
                vouched.take(segment, &universe.read_durable(host, segment).unwrap_or_default());
            }
            if vouched.is_noticed(&path, offset) {
                universe.flip(host, &path, offset);
                self.rotten.insert((host, path));
            }
        }
    }

    fn pause(&mut self, process: Option<ProcessId>, until: Nanos, universe: &Universe) {
        if let Some(process) = process {
            universe.pause(process, until);
        }
    }

    fn peers(&self, node: usize, fleet: &Fleet) -> Vec<usize> {
        let nodes = &fleet.clusters[fleet.nodes[node].cluster].nodes;
        nodes.iter().copied().filter(|&other| other != node).collect()
    }

    fn count(&mut self, kind: FaultKind, strikes: bool) {
        *self.own.entry(kind).or_default() += u64::from(strikes);
    }

    /// How often each kind has struck, those that a kernel does on a good day left out.
    pub fn counts(&self, universe: &Universe) -> BTreeMap<FaultKind, u64> {
        let mut counts = universe.fault_counts();
        for (kind, count) in &self.own {
            *counts.entry(*kind).or_default() += count;
        }
        counts.retain(|kind, count| *count > 0 && !USUAL.contains(kind));
        counts
    }
}

/// Whether a node is the first of several.
fn is_first(node: usize, fleet: &Fleet) -> bool {
    let nodes = &fleet.clusters[fleet.nodes[node].cluster].nodes;
    nodes.len() > 1 && nodes.first() == Some(&node)
}

/// Every pair of nodes of two clusters.
fn pairs(a: usize, b: usize, fleet: &Fleet) -> Vec<(usize, usize)> {
    let others = &fleet.clusters[b].nodes;
    let pair = |&one: &usize| others.iter().map(move |&other| (one, other));
    fleet.clusters[a].nodes.iter().flat_map(pair).collect()
}
