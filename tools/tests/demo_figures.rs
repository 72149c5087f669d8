//! Both figures on made-up answers of nodes: who takes from whom is seen, and what crossed is added
//! up.

use palisade::status::{
    BorderStatus, ClusterStatus, NodeStatus, ReplicaRole, Status, StreamStatus, UpstreamStatus,
};
use palisade_tools::demo::figure::{Figure, Scene, crossed, upstream};

const STREAM: u64 = 2;

/// A node of a cluster, in a region; the first of a cluster leads.
fn node(cluster: u32, id: u32, region: &str, from: Option<(u32, u32)>) -> Status {
    let upstream = from.map(|(cluster, node)| UpstreamStatus { cluster, node });
    let role = if id == 1 { ReplicaRole::Leader } else { ReplicaRole::Follower };
    let state = "sync".to_owned();
    let stream = StreamStatus { id: STREAM, role, upstream, state, ..StreamStatus::default() };
    Status {
        cluster: ClusterStatus { id: cluster, ..ClusterStatus::default() },
        node: NodeStatus { id, region: region.to_owned(), ..NodeStatus::default() },
        streams: vec![stream],
        ..Status::default()
    }
}

/// A primary with nodes in these regions, and who the standbys take from.
struct World {
    primary: Vec<Status>,
    sync: Vec<Status>,
    follower: Vec<Status>,
}

impl World {
    fn new(regions: &[&str], sync: (&str, u32, u32), follower: (u32, u32)) -> World {
        let ids = 1..;
        World {
            primary: regions
                .iter()
                .zip(ids)
                .map(|(region, id)| node(1, id, region, None))
                .collect(),
            sync: vec![node(2, 1, sync.0, Some((sync.1, sync.2)))],
            follower: vec![node(3, 1, "hz", Some(follower))],
        }
    }

    fn objection(&self, figure: Figure) -> Option<String> {
        let World { primary, sync, follower } = self;
        figure.objection(Scene { primary, sync, follower }, STREAM)
    }
}

#[test]
fn in_figure_a_a_replica_of_the_primary_feeds_the_standby_beside_it() {
    let regions = ["sh", "sh", "hz"];
    let sync = ("sh", 1, 1);
    assert_eq!(World::new(&regions, sync, (1, 3)).objection(Figure::A), None);
    let wrong = [(1, 1), (1, 2), (2, 1)];
    for from in wrong {
        let why = World::new(&regions, sync, from).objection(Figure::A).expect("another tree");
        assert!(why.contains("not from node 3 of cluster 1"), "{why}");
    }
    let follows = World::new(&regions, ("sh", 1, 2), (1, 3)).objection(Figure::A);
    assert!(follows.expect("not the leader").contains("SYNC"));
    assert!(World::new(&regions, sync, (1, 3)).objection(Figure::B).is_some(), "a replica there");
}

#[test]
fn in_figure_b_the_standby_that_crosses_the_border_feeds_the_other_one() {
    let regions = ["sh", "sh", "sh"];
    let sync = ("hz", 1, 1);
    assert_eq!(World::new(&regions, sync, (2, 1)).objection(Figure::B), None);
    assert!(World::new(&regions, sync, (1, 1)).objection(Figure::B).is_some(), "two copies cross");
    let home = ("sh", 1, 1);
    assert!(
        World::new(&regions, home, (2, 1)).objection(Figure::B).is_some(),
        "it crosses nothing"
    );
    assert!(World::new(&regions, sync, (2, 1)).objection(Figure::A).is_some(), "no replica there");
}

#[test]
fn what_is_not_well_is_no_upstream() {
    let regions = ["sh", "sh", "hz"];
    let mut world = World::new(&regions, ("sh", 1, 1), (1, 3));
    assert_eq!(upstream(&world.follower, STREAM), Some((1, 3)));
    world.follower[0].streams[0].state = "wait".to_owned();
    assert_eq!(upstream(&world.follower, STREAM), None);
    assert!(world.objection(Figure::A).is_some());
    world.primary.iter_mut().for_each(|node| node.streams.clear());
    assert!(world.objection(Figure::A).expect("nobody leads").contains("nobody leads"));
}

#[test]
fn only_the_one_way_over_the_border_counts() {
    let border = |from: &str, to: &str, bytes| BorderStatus {
        from: from.to_owned(),
        to: to.to_owned(),
        bytes,
    };
    let mut nodes = World::new(&["sh", "hz"], ("sh", 1, 1), (1, 2)).primary;
    nodes[0].borders = vec![border("hz", "sh", 1000)];
    nodes[1].borders = vec![border("sh", "hz", 10), border("gz", "hz", 100)];
    let twin = nodes[1].clone();
    nodes.push(twin);
    assert_eq!(crossed(&nodes, "sh", "hz"), 20);
}
