//! Three nodes that hand leaderships to each other.

use super::*;
use crate::paxos::HaltReason;

/// Shards of each node: stream 1 is of the second one, stream 2 of the first.
const SHARDS: u16 = 2;

/// The nodes of one cluster, by node and shard.
struct Trio {
    seats: Vec<Vec<Seat>>,
    _homes: Vec<Home>,
}

impl Trio {
    fn new() -> Trio {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        // All at once: they are not to be the same.
        let held = [free(), free(), free()];
        let addrs = held.map(|listener| listener.local_addr().expect("it is bound"));
        let member = |(at, addr): (usize, &SocketAddr)| Member {
            node: at as u32 + 1,
            incarnation: None,
            addr: addr.to_string(),
            region: "r".to_owned(),
        };
        let members: Vec<Member> = addrs.iter().enumerate().map(member).collect();
        let (mut homes, mut seats) = (Vec::new(), Vec::new());
        for (member, addr) in members.iter().zip(addrs) {
            let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
            let home = Home { dir, shards: SHARDS, role: Role::Primary, levels: true };
            let config = |shard| ShardConfig {
                node: member.node,
                listen: (shard == 0).then_some(addr),
                ..home.config(shard)
            };
            for shard in 0..SHARDS {
                let config = config(shard);
                std::fs::create_dir(&config.dir).expect("a new directory");
                let (role, members) = (Role::Primary, members.clone());
                let format = Format { role, members, incarnation: u64::from(member.node) };
                let config = ShardConfig { listen: None, format: Some(format), ..config };
                let mut seat = home.seat(config, None, Arc::new(Board::new(SHARDS)));
                while seat.shard.turn(true) {}
                assert_eq!(seat.shard.halted(), Some(&Halt::Done));
            }
            let (mesh, board) = (Arc::new(Mesh::new(SHARDS)), Arc::new(Board::new(SHARDS)));
            let seat = |shard| home.seat(config(shard), Some(mesh.clone()), board.clone());
            seats.push((0..SHARDS).map(seat).collect());
            homes.push(home);
        }
        Trio { seats, _homes: homes }
    }

    fn until<T>(&mut self, mut probe: impl FnMut(&mut Trio) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = probe(self) {
                return found;
            }
            assert!(Instant::now() < deadline, "it takes too long");
            for seat in self.seats.iter_mut().flatten() {
                assert!(seat.shard.turn(false), "it stopped: {:?}", seat.shard.halted());
            }
        }
    }

    /// Which of the nodes serves a stream as its leader.
    fn leader(&self, stream: u64) -> Option<usize> {
        let shard = (stream % u64::from(SHARDS)) as usize;
        let serves = |node: &Vec<Seat>| {
            let state = node[shard].shard.streams.get(&stream)?;
            state.replica.serving().filter(|_| state.leading)
        };
        self.seats.iter().position(|node| serves(node).is_some())
    }

    /// A node that leads stream 2, appointed, and not the catalogue.
    fn with_leader_of_a_stream_alone(&mut self) -> usize {
        let first = self.until(|trio| trio.leader(CATALOGUE_STREAM));
        let made = self.seats[first][1].port.create_streams(1).expect("room");
        assert_eq!(self.until(|_| made.try_take()), Ok(vec![2]));
        let other = (first + 1) % self.seats.len();
        let mut asked = None;
        self.until(|trio| {
            let (led, leads) = (trio.leader(2)?, trio.leader(CATALOGUE_STREAM)?);
            assert_ne!(leads, other, "it is preferred to nobody");
            if led == other {
                return Some(other);
            }
            let answered = |asked: &crate::handle::Answer<u64>| asked.try_take().is_some();
            if asked.as_ref().is_none_or(answered) {
                let to = other as u32 + 1;
                asked = trio.seats[led][0].port.transfer_leader(2, to).ok();
            }
            None
        })
    }
}

/// The role of its cluster, say, a node hears from its own catalogue. Where that stopped, or has a
/// gap for long, a stream would wait for ever for its START.
#[test]
fn a_node_that_does_not_know_the_catalogue_gives_its_leaderships_away() {
    for halts in [true, false] {
        let mut trio = Trio::new();
        let node = trio.with_leader_of_a_stream_alone();
        let catalogue = trio.seats[node][1].shard.streams.get_mut(&CATALOGUE_STREAM);
        let catalogue = catalogue.expect("it is here");
        let end = catalogue.replica.log().end().lsn;
        if halts {
            let (ballot, committed) = (Ballot::NONE, end);
            let reason = HaltReason::TakeoverBelowCommitted { ballot, end, committed };
            catalogue.halted = Some(reason);
        } else {
            catalogue.derived.on_lost(Lsn::ZERO, end);
        }
        trio.until(|trio| trio.leader(2).filter(|leader| *leader != node));
        // And nobody gives them back.
        let told = |seat: &Seat| {
            seat.shard.net.peers.get(&(node as u32 + 1)).is_none_or(|peer| peer.impaired)
        };
        trio.until(|trio| trio.seats.iter().flatten().all(told).then_some(()));
        let catalogue = trio.seats[node][1].shard.streams.get_mut(&CATALOGUE_STREAM);
        let catalogue = catalogue.expect("it is here");
        (catalogue.halted, _) = (None, catalogue.derived.on_mended(Lsn::ZERO, end));
        let sees = |seat: &Seat| !seat.shard.hand_overs.is_blind;
        trio.until(|trio| trio.seats[node].iter().all(sees).then_some(()));
    }
}
