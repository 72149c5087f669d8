//! The judgement over the nodes of a stage: what each returns of a stream, against what was acked.

use std::ops::ControlFlow;

use palisade::client::ReadOptions;
use palisade::status::ReplicaRole;
use sha2::{Digest, Sha256};

use super::cluster::NodeProcess;
use super::input::hex;
use super::report::NodeLine;
use super::stage::{ASK_MAX, Stage, ask_status, client_of};
use super::verify::{Acked, Findings, NodeLog, Seen, digest, verify};
use crate::exit::{Exit, Failure};

/// Compares what was acked with what every node returns of a stream.
pub(super) fn judge(
    stage: &Stage,
    stream: u64,
    acked: &[Acked],
    with_digest: bool,
) -> Result<(Findings, Vec<NodeLine>), Failure> {
    let (mut logs, mut lines) = (Vec::new(), Vec::new());
    for (at, cluster) in stage.clusters().enumerate() {
        for node in &cluster.nodes {
            stage.course.interrupt.check()?;
            let hasher = with_digest.then(Sha256::new);
            let (log, sha256) = read_all(node, cluster.id, stream, hasher)?;
            let mut line = node_line(node, cluster.id, stream)?;
            line.transfer = ["", "SYNC", "ASYNC"][at];
            line.records = log.records.len() as u64;
            line.sha256 = sha256;
            logs.push(log);
            lines.push(line);
        }
    }
    let end = lines.iter().map(|line| line.committed_lsn).max().unwrap_or(0);
    lines.iter_mut().for_each(|line| line.lag_bytes = end - line.committed_lsn);
    Ok((verify(acked, &logs), lines))
}

fn node_line(node: &NodeProcess, cluster: u32, stream: u64) -> Result<NodeLine, Failure> {
    let status = ask_status(node, cluster)?;
    let stream = status.stream(stream);
    let role = match stream.map(|stream| stream.role) {
        Some(ReplicaRole::Leader) => "leader",
        Some(ReplicaRole::Follower) => "follower",
        Some(ReplicaRole::Candidate) => "candidate",
        Some(ReplicaRole::Learner) => "learner",
        None => "absent",
    };
    Ok(NodeLine {
        name: node.place.name.to_owned(),
        region: node.place.region.to_owned(),
        cluster,
        id: node.id,
        transfer: "",
        upstream: stream.and_then(|stream| stream.upstream),
        role: role.to_owned(),
        records: 0,
        committed_lsn: stream.map_or(0, |stream| stream.committed_lsn),
        lag_bytes: 0,
        sha256: None,
    })
}

/// Everything that a node returns, and the digest of all its bytes end to end if it is wanted.
fn read_all(
    node: &NodeProcess,
    cluster: u32,
    stream: u64,
    mut hasher: Option<Sha256>,
) -> Result<(NodeLog, Option<String>), Failure> {
    let mut records = Vec::new();
    let settings = ReadOptions { stream, from: 0, to: None, follow: false, timeout: ASK_MAX * 2 };
    let mut client = client_of(node, cluster)?;
    let read = client.read(&settings, &mut |record| {
        if let Some(hasher) = &mut hasher {
            hasher.update(record.payload);
        }
        records.push(Seen {
            lsn: record.lsn,
            end_lsn: record.end_lsn,
            producer: record.producer,
            sequence: record.sequence,
            digest: digest(record.payload),
        });
        ControlFlow::Continue(())
    });
    read.map_err(|error| {
        let failure = Failure::from(error);
        Failure::new(Exit::Failed, format!("reading {}: {failure}", node.place.name))
    })?;
    let log = NodeLog { name: node.place.name.to_owned(), records };
    Ok((log, hasher.map(|hasher| hex(&hasher.finalize()))))
}
