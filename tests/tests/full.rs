//! A cluster whose logs are full: it takes no appends, and still elects.

use bytes::Bytes;
use palisade::config::Role;
use palisade::{AppendFuture, ErrorKind, Stream};
use palisade_tests::sim::{Random, Universe};
use palisade_tests::world::{Fleet, SECOND, Settings};

const STREAM: u64 = 2;
const RECORD: Bytes = Bytes::from_static(&[0x5a; 16 << 10]);

struct Full {
    universe: Universe,
    fleet: Fleet,
}

impl Full {
    fn new(seed: u64) -> Full {
        let universe = Universe::new(seed);
        let mut settings = Settings::draw(&mut Random::new(seed));
        (settings.segment_bytes, settings.log_bytes_max) = (1 << 20, 48 << 20);
        let mut fleet = Fleet::new(&universe, &settings);
        fleet.add_cluster(Role::Primary, 3, 1, &[]).expect("formatted");
        (0..3).for_each(|node| fleet.start(node));
        let mut full = Full { universe, fleet };
        let node = full.leader(1);
        let port = full.fleet.port(node, 1).expect("it runs");
        let created = port.create_streams(1).expect("it takes commands");
        full.run("the stream", |_| created.try_take().is_some());
        full
    }

    /// Runs until it is so, a minute at most.
    fn run(&mut self, what: &str, mut done: impl FnMut(&Fleet) -> bool) {
        let end = self.universe.now().after(60 * SECOND);
        while !done(&self.fleet) {
            assert!(self.universe.now() < end, "{what}: {}", self.state());
            for ring in self.universe.step() {
                // A node that stops shows in what does not come about.
                let _ = self.fleet.turn(ring);
            }
        }
    }

    fn state(&self) -> String {
        let of = |node| {
            let replica = self.fleet.replica(node, STREAM)?;
            Some(format!("#{node}: {:?}\n", replica.status()))
        };
        (0..3).filter_map(of).collect()
    }

    fn leader(&mut self, stream: u64) -> usize {
        self.run("a leader", |fleet| fleet.leader(0, stream).is_some());
        self.fleet.leader(0, stream).expect("it leads")
    }

    /// Appends until the leader has no space; gives how many records were acknowledged.
    fn fill(&mut self, most: usize) -> usize {
        let node = self.leader(STREAM);
        let stream = Stream::new(STREAM, self.fleet.port(node, STREAM).expect("it runs"));
        let mut acked = 0;
        while acked < most {
            let mut asked: Vec<AppendFuture> = (0..16).map(|_| stream.append(RECORD)).collect();
            for future in &mut asked {
                let mut outcome = None;
                self.run("an outcome", |_| {
                    outcome = future.try_take();
                    outcome.is_some()
                });
                match outcome.expect("it came") {
                    Ok(_) => acked += 1,
                    Err(error) if error.kind() == ErrorKind::NoSpace => return acked,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error}"),
                }
            }
        }
        acked
    }
}

/// A follower that is full before the others lacks what they have committed. A takeover needs it
/// to have that, and takes the space from the reserve.
#[test]
fn a_follower_that_was_full_first_takes_part_in_an_election() {
    let mut full = Full::new(5);
    let leader = full.leader(STREAM);
    let short = (leader + 1) % 3;
    // A start begins a segment: this one has less and less space than the others.
    for _ in 0..3 {
        full.fill(16);
        full.fleet.kill(short);
        full.fleet.start(short);
        full.run("all the same", |fleet| {
            let end = |node| fleet.replica(node, STREAM).map(|r| r.log().committed().lsn);
            end(short).is_some() && end(short) == end(leader)
        });
    }
    assert!(full.fill(usize::MAX) > 0);
    let end = |fleet: &Fleet, node| fleet.replica(node, STREAM).expect("it runs").log().end().lsn;
    assert!(end(&full.fleet, short) < end(&full.fleet, leader), "it was full first");
    full.fleet.kill(leader);
    full.run("another leader", |fleet| fleet.leader(0, STREAM).is_some_and(|at| at != leader));
    let heir = full.fleet.leader(0, STREAM).expect("it leads");
    full.run("both have everything", |fleet| end(fleet, short) == end(fleet, heir));
}
