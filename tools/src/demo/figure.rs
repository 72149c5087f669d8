//! Both figures of cascading by region, judged by what nodes say of themselves: who takes a stream
//! from whom, and what came over a border for it. Pure.
//!
//! In both, one copy of the log crosses each border. In figure (a) the primary has a replica on the
//! other side, which feeds the standby there. In figure (b) it has none: one standby takes the log
//! across, and feeds the other one there.

use palisade::status::{ReplicaRole, Status, StreamStatus, UpstreamStatus};

/// Bytes over the border for each byte of the log, at most.
pub const BORDER_RATIO_MAX: f64 = 1.1;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// The primary has a replica in the region of the standby that follows.
    A,
    /// It has none.
    B,
}

/// What the nodes of three clusters say at about the same time.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// Of the primary.
    pub primary: &'a [Status],
    /// Of the SYNC standby.
    pub sync: &'a [Status],
    /// Of the standby that follows, ASYNC.
    pub follower: &'a [Status],
}

/// The node that leads a stream, and what it says of it.
pub fn leader(nodes: &[Status], stream: u64) -> Option<(&Status, &StreamStatus)> {
    nodes.iter().find_map(|node| {
        let seen = node.stream(stream)?;
        (seen.role == ReplicaRole::Leader).then_some((node, seen))
    })
}

/// Who the leader of a standby takes a stream from, while nothing is wrong with that.
pub fn upstream(nodes: &[Status], stream: u64) -> Option<(u32, u32)> {
    let (_, seen) = leader(nodes, stream)?;
    let UpstreamStatus { cluster, node } = seen.upstream.filter(|_| seen.state == "sync")?;
    Some((cluster, node))
}

/// Bytes of frames that these nodes say came from one region to another.
pub fn crossed(nodes: &[Status], from: &str, to: &str) -> u64 {
    let borders = nodes.iter().flat_map(|node| &node.borders);
    borders.filter(|border| border.from == from && border.to == to).map(|it| it.bytes).sum()
}

impl Figure {
    /// What keeps a stream from flowing as in the figure; nothing when it does.
    pub fn objection(self, scene: Scene<'_>, stream: u64) -> Option<String> {
        let Some((source, _)) = leader(scene.primary, stream) else {
            return Some(format!("nobody leads stream {stream} at the primary"));
        };
        let source = (source.cluster.id, source.node.id);
        let found = upstream(scene.sync, stream);
        if found != Some(source) {
            return Some(wrong("SYNC", stream, found, &[source]));
        }
        let wanted = match self {
            Figure::A => replicas_beside(scene),
            Figure::B => match replicas_beside(scene).first() {
                Some((_, node)) => return Some(format!("node {node} is a replica there")),
                None => beside(scene.sync, stream, region(scene.follower)),
            },
        };
        let found = upstream(scene.follower, stream);
        let is_as_drawn = found.is_some_and(|found| wanted.contains(&found) && found != source);
        (!is_as_drawn).then(|| wrong("ASYNC", stream, found, &wanted))
    }
}

fn region(nodes: &[Status]) -> &str {
    nodes.first().map_or("", |node| &node.node.region)
}

/// The replicas of the primary in the region of the standby that follows.
fn replicas_beside(scene: Scene<'_>) -> Vec<(u32, u32)> {
    let there = region(scene.follower);
    let nodes = scene.primary.iter().filter(|node| node.node.region == there);
    nodes.map(|node| (node.cluster.id, node.node.id)).collect()
}

/// The node that leads a stream, if it stands in this region.
fn beside(nodes: &[Status], stream: u64, region: &str) -> Vec<(u32, u32)> {
    let lead = leader(nodes, stream).filter(|(node, _)| node.node.region == region);
    lead.map(|(node, _)| (node.cluster.id, node.node.id)).into_iter().collect()
}

fn wrong(who: &str, stream: u64, found: Option<(u32, u32)>, wanted: &[(u32, u32)]) -> String {
    let names = |nodes: &[(u32, u32)]| {
        let names = nodes.iter().map(|(cluster, node)| format!("node {node} of cluster {cluster}"));
        names.collect::<Vec<_>>().join(" or ")
    };
    let found = found.map_or("nobody".to_owned(), |found| names(&[found]));
    format!("the {who} standby takes stream {stream} from {found}, not from {}", names(wanted))
}
