//! An old primary that does not know of the new one: it comes back as it was before a switchover,
//! acks nothing more once they meet, and says so.

use std::path::Path;
use std::time::Duration;

use palisade::status::{ClusterRole, Status};

use super::cluster::Cluster;
use super::registry::{append, at, end_of, standby_of, wait_shown};
use super::run::{eventually, run};
use super::switchover::switchover;

/// Until they have met, beside other tests.
const MET: Duration = Duration::from_secs(60);

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a new directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).expect("a file")),
        }
    }
}

pub(super) fn kill(cluster: &mut Cluster) {
    cluster.nodes.iter_mut().for_each(|node| node.kill());
}

pub(super) fn start(cluster: &mut Cluster) {
    cluster.nodes.iter_mut().for_each(|node| node.spawn());
    cluster.nodes.iter_mut().for_each(|node| node.wait_ready());
}

/// One append at this cluster and no other one: its exit code, and what it said.
pub(super) fn try_append(cluster: &Cluster, stream: u64) -> (Option<i32>, String) {
    let mut command = super::run::program();
    let id = cluster.nodes[0].config.cluster.id.to_string();
    command.args(["append", "--stream", &stream.to_string(), "--cluster", &id, "--lines"]);
    command.args(["--file", "/etc/hostname", "--at", &cluster.at()]);
    let done = run(command, MET);
    (done.code, done.err)
}

/// What a node of it says, the one that leads the catalogue among them.
pub(super) fn wait_fenced(cluster: &Cluster) -> Status {
    eventually("every node is fenced", MET, || {
        let status: Option<Vec<Status>> = cluster.nodes.iter().map(|node| node.status()).collect();
        let status = status?;
        let fenced = |one: &Status| one.cluster.role == ClusterRole::Fenced;
        let alarmed = |one: &&Status| one.alarms.iter().any(|alarm| alarm.code == "fenced");
        status.iter().find(alarmed).filter(|_| status.iter().all(fenced)).cloned()
    })
}

#[test]
fn an_old_primary_is_fenced_when_it_meets_the_new_one() {
    let (mut one, streams) = {
        let primary = Cluster::start("fence", 3);
        let streams = [primary.create_stream(), primary.create_stream()];
        (primary, streams)
    };
    let (mut two, three) = (standby_of(&one, 2), standby_of(&one, 3));
    for (id, standby) in [(2, &two), (3, &three)] {
        let words = format!(
            "standby add --cluster {id} --name s{id} --region hz --endpoint {} --transfer async \
             --yes",
            standby.at()
        );
        at(&one.at(), &words).ok();
    }
    at(&one.at(), "primary set --transfer async --yes").ok();
    let stream = streams[0];
    let acks = append(&one.at(), stream, "a\nb\n");
    wait_shown(&two, stream, end_of(&acks));

    // A copy of its nodes is taken, and the role goes on without it.
    kill(&mut one);
    for node in &one.nodes {
        copy(&node.config.node.data, &node.home.join("copy"));
    }
    start(&mut one);
    switchover(&one, 2);
    let acks = append(&two.at(), stream, "c\n");
    wait_shown(&three, stream, end_of(&acks));
    kill(&mut two);
    kill(&mut one);
    for node in &one.nodes {
        std::fs::remove_dir_all(&node.config.node.data).expect("it is there");
        std::fs::rename(node.home.join("copy"), &node.config.node.data).expect("a copy");
    }
    start(&mut one);
    start(&mut two);

    let status = wait_fenced(&one);
    let alarm = status.alarms.iter().find(|alarm| alarm.code == "fenced").expect("an alarm");
    assert!(alarm.hint.contains("cluster 2 is the primary of role epoch 2"), "{alarm:?}");
    let shown = status.stream(stream).expect("it is here");
    assert_eq!((shown.state.as_str(), shown.reason.contains("cluster 2")), ("fenced", true));
    let (code, err) = try_append(&one, stream);
    assert!(code != Some(0) && err.contains("fenced"), "{code:?} {err}");
    let page = at(&one.at(), "status");
    assert!(page.out.contains("fenced"), "{page:?}");
    for words in ["switchover --to 3 --json --cluster 1", "stream create --json --cluster 1"] {
        // It is sent on to the new primary, which is not the cluster that was named.
        let done = at(&one.at(), words);
        assert!(done.code != Some(0) && done.err.contains("target cluster 1"), "{done:?}");
    }

    // The new one goes on, and who followed the old one stays with it.
    let acks = append(&two.at(), stream, "d\n");
    wait_shown(&three, stream, end_of(&acks));
    // It stays so, with nobody there to say it again.
    kill(&mut two);
    kill(&mut one);
    start(&mut one);
    wait_fenced(&one);
    assert_ne!(try_append(&one, stream).0, Some(0));
    start(&mut two);
    let acks = append(&two.at(), streams[1], "e\n");
    wait_shown(&three, streams[1], end_of(&acks));
    assert_ne!(try_append(&one, stream).0, Some(0));
}
