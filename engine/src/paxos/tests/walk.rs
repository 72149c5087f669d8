//! Random walks: everything that may happen, in every order, with the oracle watching.
//!
//! `PAXOS_SEED=n` runs one seed, `PAXOS_SEEDS=n` the first n; `PAXOS_TRACE=1` prints it.

use palisade_netio::Nanos;
use palisade_wal::{Kind, StreamLog};

use super::super::*;
use super::cluster::Cluster;
use super::node::{GROUP_BYTES, Node, Record};

pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

fn log_of(node: &Node) -> Option<&StreamLog> {
    node.replica.as_ref().map(Replica::log)
}

/// Whether any node but this one lost its tail.
fn is_unknown(cluster: &Cluster, but: usize) -> bool {
    let unknown =
        |n: &Node| log_of(n).is_some_and(StreamLog::is_unknown) || n.after_crash().is_unknown();
    cluster.nodes.iter().enumerate().any(|(at, node)| at != but && unknown(node))
}

/// Whether every node but this one has all of its log.
fn is_whole(cluster: &Cluster, but: usize) -> bool {
    let whole = |n: &Node| log_of(n).is_none_or(StreamLog::is_whole) && n.after_crash().is_whole();
    cluster.nodes.iter().enumerate().all(|(at, node)| at == but || whole(node))
}

/// Whether the rest of the cluster can make good what a node lost: somebody has each of these
/// groups, whether or not it crashes next, and no two have lost their tails.
fn may_lose(cluster: &Cluster, at: usize, rotten: Option<u64>, spoilt: &Node) -> bool {
    let kept = spoilt.keeps();
    let others = cluster.nodes.iter().enumerate().filter(|(other, _)| *other != at);
    let elsewhere: Vec<u64> = others.flat_map(|(_, node)| node.keeps()).collect();
    let before = cluster.nodes[at].keeps();
    // An older copy, voided or superseded, is found by a restart only: nothing to the one that
    // runs, which is asked.
    let mut lost = before.iter().filter(|chain| !kept.contains(chain)).chain(&rotten);
    if !lost.all(|chain| elsewhere.contains(chain)) {
        return false;
    }
    let unknown = spoilt.after_crash().is_unknown();
    !unknown || (!is_unknown(cluster, at) && is_whole(cluster, at) && is_bound(cluster))
}

/// What a disk would hold with these records lost.
fn spoilt(node: &Node, records: std::ops::Range<usize>) -> Node {
    let mut spoilt = Node::new(node.key, node.first.clone(), 0);
    let (log, _) = super::node::rebuild(&node.first, &node.wal);
    (spoilt.replica, spoilt.durable) = (None, node.durable);
    spoilt.wal = node.wal[..node.durable].to_vec();
    for record in records {
        spoilt.wal[record] = spoilt.wal[record].lost(log.promised());
    }
    spoilt
}

/// A node that is down loses some of its records, at the end or anywhere.
fn lose(cluster: &mut Cluster, at: usize, dice: &mut Dice) {
    let node = &cluster.nodes[at];
    let count = (1 + dice.below(3)).min(node.durable);
    let from = node.durable - count;
    let start = if dice.below(3) == 0 { from } else { dice.below(from + 1) };
    let records = start..start + count;
    let after = spoilt(node, records.clone());
    if may_lose(cluster, at, None, &after) {
        cluster.lose(at, records.clone());
        cluster.note(|| format!("{}: lost its records {records:?}", at + 1));
    }
}

/// A node that runs cannot read a group any more.
fn rot(cluster: &mut Cluster, at: usize, dice: &mut Dice) {
    let node = &cluster.nodes[at];
    let Some(log) = log_of(node) else { return };
    let extents: Vec<_> = log.extents().copied().collect();
    if extents.is_empty() {
        return;
    }
    let extent = extents[dice.below(extents.len())];
    let record = (extent.place.offset / 4096) as usize;
    if record < node.durable {
        // What it knows and what is durable are both lost.
        let rotten = node.read(extent.start).map(|group| group.chain.get());
        let after = spoilt(node, record..record + 1);
        if may_lose(cluster, at, rotten, &after) {
            cluster.lose_while_it_runs(at, extent.start);
        }
    }
}

/// A tail is lost for good with a member that counts when too few others do: what such a stream
/// needs is a change of its members.
fn is_bound(cluster: &Cluster) -> bool {
    cluster.nodes.iter().all(|n| {
        let (_, config) = super::node::rebuild(&n.first, &n.wal[..n.durable]);
        config.members.iter().all(|m| m.incarnation.is_some())
    })
}

fn restart(cluster: &mut Cluster, at: usize, dice: &mut Dice) {
    let now = cluster.now;
    cluster.nodes[at].restart(dice.next(), now);
    cluster.note(|| format!("{}: restarts", at + 1));
    cluster.run(at, |replica, now, fx| replica.start(now, fx));
}

/// Nodes that are down come first, or half of them would be down all the time.
fn crash_or_restart(cluster: &mut Cluster, at: usize, dice: &mut Dice) {
    let down = cluster.nodes.iter().position(|n| n.replica.is_none());
    // Then those with a promise to lose.
    let promise = |r: &Record| matches!(r, Record::State(s) if s.kind == Kind::Promise);
    let loses = |n: &Node| n.replica.is_some() && n.wal[n.durable..].iter().any(promise);
    let count = cluster.nodes.len();
    let loser = (at..at + count).map(|n| n % count).find(|&n| loses(&cluster.nodes[n]));
    let at =
        down.filter(|_| dice.below(3) > 0).or(loser.filter(|_| dice.below(2) > 0)).unwrap_or(at);
    crash_or_restart_one(cluster, at, dice);
}

fn crash_or_restart_one(cluster: &mut Cluster, at: usize, dice: &mut Dice) {
    if cluster.nodes[at].replica.is_none() {
        let none = usize::MAX;
        let sound = !is_unknown(cluster, none) && is_whole(cluster, none);
        if dice.below(8) == 0 && sound && is_bound(cluster) {
            let keep = cluster.nodes[at].durable - dice.below(4).min(cluster.nodes[at].durable);
            cluster.nodes[at].corrupt(keep);
            cluster.note(|| format!("{}: corrupted", at + 1));
        } else if dice.below(3) == 0 {
            lose(cluster, at, dice);
        }
        restart(cluster, at, dice);
        for other in (0..cluster.nodes.len()).filter(|&other| other != at) {
            if dice.below(4) > 0 {
                cluster.peer(other, at as u32 + 1, PeerState::Up);
                cluster.peer(at, other as u32 + 1, PeerState::Up);
            }
        }
        return;
    }
    cluster.nodes[at].crash();
    cluster.note(|| format!("{}: crashes", at + 1));
    for other in (0..cluster.nodes.len()).filter(|&other| other != at) {
        let lease_until = cluster.now;
        cluster.peer(other, at as u32 + 1, PeerState::Down { lease_until });
    }
    // Back at once, while what it said is still under way.
    if dice.below(2) == 0 {
        crash_or_restart_one(cluster, at, dice);
    }
}

/// How often what happens: each seed draws its own.
struct Mix {
    /// Per 1000 steps.
    crash: usize,
    link: usize,
    stall: usize,
    transfer: usize,
    rot: usize,
    time: usize,
    sync: usize,
    propose: usize,
    /// Per 100 packets.
    lost: usize,
    doubled: usize,
    shuffled: usize,
}

impl Mix {
    fn draw(dice: &mut Dice) -> Mix {
        let mut of = |choices: &[usize]| choices[dice.below(choices.len())];
        Mix {
            crash: of(&[0, 5, 10, 30]),
            link: of(&[0, 3, 10, 30]),
            stall: of(&[0, 0, 1, 3]),
            transfer: of(&[0, 0, 1, 4]),
            rot: of(&[0, 0, 2, 6]),
            time: of(&[10, 30, 80]),
            sync: of(&[20, 50, 100, 250]),
            propose: of(&[40, 120]),
            lost: of(&[0, 2, 10]),
            doubled: of(&[0, 5, 20]),
            shuffled: of(&[0, 25, 80]),
        }
    }
}

fn network(cluster: &mut Cluster, mix: &Mix, dice: &mut Dice) {
    if cluster.network.is_empty() {
        return;
    }
    let len = cluster.network.len();
    let at = if dice.below(100) < mix.shuffled { dice.below(len) } else { dice.below(len.min(4)) };
    let fate = dice.below(100);
    let packet =
        if fate < mix.doubled { cluster.network[at].clone() } else { cluster.network.remove(at) };
    if fate < mix.doubled || fate >= mix.doubled + mix.lost {
        let to = packet.to as usize - 1;
        cluster.deliver(packet);
        cluster.end_turn(to);
    }
}

/// A turn of the floors of any node. Its clock is behind or ahead of others.
fn close(cluster: &mut Cluster, dice: &mut Dice) {
    let at = dice.below(cluster.nodes.len());
    let wall = (cluster.last_scn + dice.below(40) as u64).saturating_sub(10);
    if dice.below(6) == 0 {
        // As another shard or a standby may want it, although this one has nothing new.
        cluster.nodes[at].floors.on_spread(wall);
    }
    cluster.floors(at, wall);
}

fn step(cluster: &mut Cluster, mix: &Mix, dice: &mut Dice) {
    let at = dice.below(cluster.nodes.len());
    let other = dice.below(cluster.nodes.len());
    let mut roll = dice.below(1000);
    let mut hit = |weight: usize| {
        let hit = roll < weight;
        roll = roll.wrapping_sub(weight);
        hit
    };
    if hit(mix.sync) {
        let count = 1 + dice.below(3);
        cluster.sync(at, count);
        cluster.end_turn(at);
    } else if hit(mix.propose) {
        cluster.propose(at);
        cluster.end_turn(at);
    } else if hit(mix.time) {
        cluster.now = cluster.now.after(1_000_000 * (1 + dice.below(10) as u64));
        for node in 0..cluster.nodes.len() {
            cluster.tick(node);
            cluster.end_turn(node);
        }
    } else if hit(mix.link) {
        if at != other {
            let lease_until = cluster.now.after(1_000_000 * dice.below(20) as u64);
            let down = PeerState::Down { lease_until };
            let state = if dice.below(3) > 0 { PeerState::Up } else { down };
            cluster.peer(at, other as u32 + 1, state);
            // Mostly, a node is taken to be down because it is not heard.
            let pair = (at.min(other) as u32 + 1, at.max(other) as u32 + 1);
            if dice.below(4) > 0 {
                let cut = dice.below(2) == 0;
                if cut {
                    cluster.cuts.insert(pair)
                } else {
                    cluster.cuts.remove(&pair)
                };
            }
        }
    } else if hit(mix.crash) {
        crash_or_restart(cluster, at, dice);
    } else if hit(mix.stall) {
        if cluster.nodes[at].replica.is_some() {
            let stalled = dice.below(2) == 0;
            cluster.run(at, |r, now, fx| r.on_disk_stalled(stalled, now, fx));
        }
    } else if hit(mix.transfer) {
        if cluster.nodes[at].replica.is_some() {
            let to = other as u32 + 1;
            let _ = cluster.run(at, |r, now, fx| r.on_transfer(to, to == 1, now, fx));
        }
    } else if hit(mix.rot) {
        rot(cluster, at, dice);
        cluster.end_turn(at);
    } else if hit(1) {
        cluster.nodes[at].check_replay();
    } else {
        network(cluster, mix, dice);
    }
}

/// All faults end: a leader must emerge and commit.
fn heal(cluster: &mut Cluster, dice: &mut Dice) {
    cluster.cuts.clear();
    for at in 0..cluster.nodes.len() {
        if cluster.nodes[at].replica.is_none() {
            restart(cluster, at, dice);
        }
        cluster.run(at, |r, now, fx| r.on_disk_stalled(false, now, fx));
    }
    for at in 0..cluster.nodes.len() {
        for other in (0..cluster.nodes.len()).filter(|&other| other != at) {
            cluster.peer(at, other as u32 + 1, PeerState::Up);
        }
    }
    cluster.settle("a leader", |c| c.leader().is_some());
    let before = cluster.oracle.committed_end();
    let mut proposed = false;
    for _ in 0..100 {
        if let Some(at) = cluster.leader() {
            proposed |= cluster.propose(at).is_some();
        }
        let now = cluster.now;
        cluster.settle("a while", |c| c.now.since(now) > 50_000_000);
        if proposed && cluster.oracle.committed_end() > before {
            break;
        }
    }
    cluster.settle("everything everywhere", |c| {
        let end = c.oracle.committed_end();
        let same = |n: &Node| {
            let log = log_of(n).unwrap();
            log.committed().lsn == end && log.end().lsn == end && log.is_whole()
        };
        end > before && c.nodes.iter().all(same)
    });
    let first = cluster.nodes[0].committed();
    assert!(cluster.nodes.iter().all(|n| {
        n.check_replay();
        let chains = |groups: &[palisade_wal::GroupHeader]| -> Vec<u64> {
            groups.iter().map(|g| g.chain.get()).collect()
        };
        chains(&n.committed()) == chains(&first)
    }));
    let bound = |n: &Node| {
        let config = n.replica.as_ref().unwrap().config();
        config.members.iter().all(|m| m.incarnation == Some(100))
    };
    if !cluster.nodes.iter().all(bound) {
        cluster.settle("every member bound", |c| c.nodes.iter().all(bound));
    }
    cluster.closes = true;
    cluster.settle("every group closed", |c| c.oracle.closed() >= c.oracle.last_scn());
    let idle = cluster.nodes.iter().all(|n| n.replica.as_ref().unwrap().next_deadline().is_none());
    if !idle {
        cluster.settle("no timer of an idle stream", |c| {
            c.nodes.iter().all(|n| n.replica.as_ref().unwrap().next_deadline().is_none())
        });
    }
}

fn walk(count: u32, seed: u64, steps: usize) -> (u64, u64, u64) {
    let mut dice = Dice(seed.wrapping_mul(0x1234_5678_9abc_def1));
    let mut cluster = Cluster::new(count, seed);
    for at in 0..cluster.nodes.len() {
        for other in (0..cluster.nodes.len()).filter(|&other| other != at) {
            cluster.peer(at, other as u32 + 1, PeerState::Up);
        }
    }
    let mix = Mix::draw(&mut dice);
    let mut closes = Dice(!seed);
    for _ in 0..steps {
        step(&mut cluster, &mix, &mut dice);
        if closes.below(3) == 0 {
            close(&mut cluster, &mut closes);
        }
    }
    heal(&mut cluster, &mut dice);
    assert!(cluster.now > Nanos(0));
    (cluster.oracle.committed_end().0, cluster.oracle.elections, cluster.mended)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn walks(count: u32, seeds: u64, steps: usize) {
    let only = number("PAXOS_SEED");
    let seeds = only.map_or(0..number("PAXOS_SEEDS").unwrap_or(seeds), |seed| seed..seed + 1);
    let (mut committed, mut elections, mut mended) = (0, 0, 0);
    let total = seeds.end - seeds.start;
    for seed in seeds {
        let result = std::panic::catch_unwind(|| walk(count, seed, steps));
        let (end, takeovers, holes) =
            result.unwrap_or_else(|_| panic!("{count} nodes, seed {seed}"));
        committed += end / GROUP_BYTES;
        elections += takeovers;
        mended += holes;
    }
    println!(
        "{total} walks of {count} nodes: {committed} groups committed, {elections} takeovers, \
         {mended} lost ranges repaired"
    );
    assert!(only.is_some() || total < 100 || mended > total / 2, "too little was lost");
}

#[test]
fn three_nodes_keep_what_is_committed() {
    walks(3, 5000, 6000);
}

#[test]
fn five_nodes_keep_what_is_committed() {
    walks(5, 2000, 6000);
}
