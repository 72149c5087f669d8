//! Both figures of cascading by region: one copy of the log crosses the border.

use std::time::Instant;

use palisade::status::Status;
use palisade_tools::demo::figure::{BORDER_RATIO_MAX, Figure, Scene, crossed};

use super::super::cluster::{Cluster, Node};
use super::super::producer::Clock;
use super::super::run::within;
use super::load::{Load, assert_sound, end_of};
use super::region::Regions;
use super::topology::{FOUND, SYNC, ask, leader, primary, set_mode, standby, wait_committed};

/// Records of one burst, which the border takes in before the next one. A replica that is not
/// needed for acks may be left behind by more than waits for it in memory; then it fetches.
const BURST: Load =
    Load { producer: 1, first: 1, records: 2000, record_bytes: 2048, in_flight: 128 };
const BURSTS: u64 = 5;

/// Bytes that came over the border from SH.
#[derive(Clone, Copy)]
struct Border {
    /// Of packets, with all their headers.
    packets: u64,
    /// Of packets, the other way.
    back: u64,
    /// Of frames, as the nodes say.
    frames: u64,
}

impl Border {
    fn now(regions: &Regions, clusters: &[&Cluster]) -> Border {
        let nodes = clusters.iter().flat_map(|cluster| &cluster.nodes);
        let nodes: Vec<Status> = nodes.map(|node| node.status().expect("it runs")).collect();
        Border {
            packets: regions.crossed("sh", "hz"),
            back: regions.crossed("hz", "sh"),
            frames: crossed(&nodes, "sh", "hz"),
        }
    }

    /// Says what crossed since `before` for `bytes` of log; it is one copy.
    fn assert_one_copy(self, before: Border, bytes: u64, began: Instant) {
        let ratio = |now: u64, then: u64| (now - then) as f64 / bytes as f64;
        let packets = ratio(self.packets, before.packets);
        let frames = ratio(self.frames, before.frames);
        println!(
            "border: {bytes} bytes of log in {:.1} s, ratio of packets {packets:.3}, of frames \
             {frames:.3}, of packets back {:.3}",
            began.elapsed().as_secs_f64(),
            ratio(self.back, before.back),
        );
        assert!(packets >= 1.0 && frames >= 1.0, "the log came by another way");
        assert!(
            packets <= BORDER_RATIO_MAX && frames <= BORDER_RATIO_MAX,
            "more than one copy crossed"
        );
    }
}

/// Waits until the catalogue and a stream go from cluster to cluster as the figure says.
fn wait_tree(figure: Figure, clusters: &[&Cluster; 3], stream: u64) {
    let mut last = None;
    let of = |cluster: &&Cluster| -> Option<Vec<Status>> {
        cluster.nodes.iter().map(Node::status).collect()
    };
    let found = within(FOUND, || {
        let [primary, sync, follower] = clusters.each_ref().map(of);
        let (primary, sync, follower) = (primary?, sync?, follower?);
        let scene = Scene { primary: &primary, sync: &sync, follower: &follower };
        last = [1, stream].into_iter().find_map(|stream| figure.objection(scene, stream));
        last.is_none().then_some(())
    });
    assert!(found.is_some(), "not as in figure {figure:?} in {FOUND:?}: {last:?}");
}

/// Appends, with every burst waited for in all three clusters.
fn measure(regions: &Regions, clusters: &[&Cluster], stream: u64) {
    let begin = leader(clusters[0], stream).expect("it has a leader").1.committed_lsn;
    let (before, began) = (Border::now(regions, clusters), Instant::now());
    let mut attempts = Vec::new();
    for burst in 0..BURSTS {
        let load = Load { first: 1 + burst * BURST.records, ..BURST };
        attempts.extend(load.append(&clusters[0].at(), stream, Clock(began)));
        let end = end_of(&attempts);
        clusters.iter().for_each(|cluster| wait_committed(cluster, stream, end, FOUND));
    }
    let bytes = end_of(&attempts) - begin;
    Border::now(regions, clusters).assert_one_copy(before, bytes, began);
    assert_sound(attempts, Vec::new(), clusters, stream);
}

#[test]
fn a_replica_of_the_primary_across_the_border_feeds_the_standby_there() {
    let regions = Regions::new(&["sh", "hz"]);
    let primary = primary(&regions, &["sh", "sh", "hz"]);
    let stream = primary.create_stream();
    let s1 = standby(&regions, 2, "sh", &primary, SYNC);
    let s2 = standby(&regions, 3, "hz", &primary, "--transfer async");
    set_mode(&primary, "availability");
    for stream in [1, stream] {
        if leader(&primary, stream).expect("it has a leader").0.config.node.region != "sh" {
            ask(&primary, &format!("leader transfer --stream {stream} --to 1"));
        }
    }
    let clusters = [&primary, &s1, &s2];
    wait_tree(Figure::A, &clusters, stream);
    measure(&regions, &clusters, stream);
    wait_tree(Figure::A, &clusters, stream);
}

#[test]
fn a_sync_standby_across_the_border_feeds_the_other_one_there() {
    let regions = Regions::new(&["sh", "hz"]);
    let primary = primary(&regions, &["sh", "sh", "sh"]);
    let stream = primary.create_stream();
    let s1 = standby(&regions, 2, "hz", &primary, SYNC);
    let s2 = standby(&regions, 3, "hz", &primary, "--transfer async");
    set_mode(&primary, "availability");
    let clusters = [&primary, &s1, &s2];
    wait_tree(Figure::B, &clusters, stream);
    measure(&regions, &clusters, stream);
    wait_tree(Figure::B, &clusters, stream);
}
