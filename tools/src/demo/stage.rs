//! The clusters of one figure: brought up, registered, and asked.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use palisade::client::{Client, ClientOptions};
use palisade::config::{Compression, Role, TimingConfig, ZeroCopy};
use palisade::control::{Request, Settings};
use palisade::status::{Protection, Status, Transfer};

use super::cluster::{Cluster, Layout, NodeProcess, Place};
use super::course::Course;
use super::figure::{Figure, Scene, leader};
use super::load::Target;
use crate::exit::Failure;
use crate::standby::ask;
use crate::status::{kebab, parse};

/// How long the SYNC standby is waited for; shorter than usual, so that nobody has to wait here.
pub(super) const NET_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it must be well before acks wait for it; shorter than usual too.
pub(super) const HEALTH_CHECK: Duration = Duration::from_millis(500);
/// How often bringing up a cluster is tried: somebody may take a port in between.
const STARTS_MAX: usize = 3;
/// How long one request to one node may take.
pub(super) const ASK_MAX: Duration = Duration::from_secs(2);
/// How long a leader may take to be there and to do what it is asked.
pub(super) const LEADER_MAX: Duration = Duration::from_secs(20);

/// What a stage is made of.
pub(super) struct Plan<'a> {
    pub(super) figure: Figure,
    /// Whether there are standbys at all.
    pub(super) has_standbys: bool,
    pub(super) dir: &'a Path,
    pub(super) zero_copy: ZeroCopy,
    pub(super) log_bytes_max: u64,
    /// Streams to make.
    pub(super) streams: u32,
}

/// The clusters of a figure.
pub(super) struct Stage {
    pub(super) figure: Figure,
    pub(super) primary: Cluster,
    /// The SYNC one, then the ASYNC one.
    pub(super) standbys: Option<[Cluster; 2]>,
    pub(super) streams: Vec<u64>,
    pub(super) course: Course,
}

/// What the nodes of each cluster say at about the same time.
pub(super) struct Looks {
    pub(super) primary: Vec<Status>,
    pub(super) standbys: [Vec<Status>; 2],
}

impl Looks {
    pub(super) fn scene(&self) -> Scene<'_> {
        let [sync, follower] = &self.standbys;
        Scene { primary: &self.primary, sync, follower }
    }

    pub(super) fn nodes(&self) -> Vec<Status> {
        self.primary.iter().chain(self.standbys.iter().flatten()).cloned().collect()
    }
}

impl Stage {
    /// Starts every node, makes the streams, and registers the standbys.
    pub(super) fn start(plan: &Plan<'_>, course: &Course) -> Result<Stage, Failure> {
        let places = match plan.figure {
            Figure::A => [("sh1", "SH"), ("sh2", "SH"), ("hz1", "HZ")],
            Figure::B => [("sh1", "SH"), ("sh2", "SH"), ("sh3", "SH")],
        };
        let across = if plan.figure == Figure::A { "SH" } else { "HZ" };
        course.say("starting the primary cluster: three nodes");
        let layout = layout(plan, 1, "demo", &places, &[]);
        let primary = bring_up(&layout, plan.dir, course)?;
        let mut stage = Stage {
            figure: plan.figure,
            primary,
            standbys: None,
            streams: Vec::new(),
            course: course.clone(),
        };
        if plan.has_standbys {
            course.say("starting two standby clusters: one node each");
            let nodes: Vec<_> = stage.primary.nodes.iter().map(NodeProcess::addr).collect();
            let sync = layout_of_standby(plan, 2, ("s1", across), &nodes);
            let sync = bring_up(&sync, plan.dir, course)?;
            let follower = layout_of_standby(plan, 3, ("s2", "HZ"), &nodes);
            let follower = bring_up(&follower, plan.dir, course)?;
            stage.standbys = Some([sync, follower]);
        }
        stage.streams = stage.client(LEADER_MAX)?.create_streams(plan.streams)?;
        stage.wait_votes()?;
        stage.register()?;
        Ok(stage)
    }

    /// Says at the primary how each cluster is served when it is a standby.
    fn register(&self) -> Result<(), Failure> {
        let Some(standbys) = &self.standbys else { return Ok(()) };
        let mut client = self.client(LEADER_MAX)?;
        for (cluster, transfer) in standbys.iter().zip([Transfer::Sync, Transfer::Async]) {
            let place = &cluster.nodes[0].place;
            let settings = Settings {
                name: Some(place.name.to_owned()),
                region: Some(place.region.to_owned()),
                endpoints: Some(cluster.endpoints()),
                transfer: Some(transfer),
                net_timeout_ms: Some(NET_TIMEOUT.as_millis() as u32),
                health_check_ms: Some(HEALTH_CHECK.as_millis() as u32),
                upstream: None,
            };
            ask(&mut client, &Request::Add { cluster: cluster.id, settings }, false)?;
        }
        ask(&mut client, &Request::SetPrimary { transfer: Transfer::Sync }, false)?;
        Ok(())
    }

    /// Waits until every node says that all members vote on the streams: a member whose disk no
    /// leader has named yet does not, and the others could not do without the first leader.
    fn wait_votes(&self) -> Result<(), Failure> {
        for node in &self.primary.nodes {
            let what = format!("{} to take part in every stream", node.place.name);
            let votes = |status: &Status| {
                let led = status.streams.iter().filter(|seen| seen.ballot.node != 0);
                self.streams.iter().all(|stream| status.stream(*stream).is_some())
                    && led.filter(|seen| seen.learners.is_empty()).count() == status.streams.len()
            };
            self.course.within(LEADER_MAX, &what, || {
                ask_status(node, self.primary.id).ok().filter(votes).map(drop)
            })?;
        }
        Ok(())
    }

    /// Every cluster, the primary first.
    pub(super) fn clusters(&self) -> impl Iterator<Item = &Cluster> {
        std::iter::once(&self.primary).chain(self.standbys.iter().flatten())
    }

    /// A client of the primary.
    pub(super) fn client(&self, timeout: Duration) -> Result<Client, Failure> {
        let options = ClientOptions { cluster: self.primary.id, timeout };
        Ok(Client::new(&self.primary.endpoints(), options)?)
    }

    /// Where the records of a stream go.
    pub(super) fn target(&self, stream: u64, in_flight: usize) -> Target {
        let (nodes, cluster) = (self.primary.endpoints(), self.primary.id);
        Target { nodes, cluster, stream, in_flight }
    }

    /// Where they go when the role may be the SYNC standby's.
    pub(super) fn target_of_role(&self, stream: u64, in_flight: usize) -> Target {
        let clusters = self.clusters().take(2);
        let nodes = clusters.flat_map(Cluster::endpoints).collect();
        Target { nodes, cluster: 0, stream, in_flight }
    }

    /// What all nodes say; nothing when one does not answer.
    pub(super) fn look(&self) -> Option<Looks> {
        let of = |cluster: &Cluster| {
            let looks = cluster.nodes.iter().map(|node| ask_status(node, cluster.id).ok());
            looks.collect::<Option<Vec<Status>>>()
        };
        let standbys = match &self.standbys {
            Some([sync, follower]) => [of(sync)?, of(follower)?],
            None => Default::default(),
        };
        Some(Looks { primary: of(&self.primary)?, standbys })
    }

    /// Sets the protection mode, and waits until that is the level, as every node of the primary
    /// knows.
    pub(super) fn set_mode(&self, mode: Protection) -> Result<(), Failure> {
        self.course.say(&format!("mode set {}", kebab(mode)));
        ask(&mut self.client(LEADER_MAX)?, &Request::SetMode { mode, force: false }, false)?;
        self.wait_level(mode)
    }

    /// Waits until every node of the primary says that this level holds.
    pub(super) fn wait_level(&self, level: Protection) -> Result<(), Failure> {
        self.course.wait(&format!("level {}", kebab(level)), || {
            let mut looks = self.look()?.primary.into_iter();
            looks.all(|status| status.cluster.protection_level == level).then_some(())
        })
    }

    /// Hands every stream to the first node of the primary, which stands in SH and is preferred:
    /// from then on nobody has a reason to move it.
    pub(super) fn gather_leaders(&self) -> Result<(), Failure> {
        let first = self.primary.nodes[0].id;
        let mut client = self.client(LEADER_MAX)?;
        self.course.within(LEADER_MAX, "the first node to lead every stream", || {
            let looks = self.look()?.primary;
            let streams = looks.first()?.streams.iter().map(|stream| stream.id);
            let is_led = |stream| leader(&looks, stream).is_some_and(|(at, _)| at.node.id == first);
            let others: Vec<u64> = streams.filter(|stream| !is_led(*stream)).collect();
            for stream in &others {
                // Whether it was done is seen by the next look.
                let _ = client.transfer_leader(*stream, first);
            }
            others.is_empty().then_some(())
        })
    }

    /// Waits until every node has and shows everything of a stream below `end`.
    pub(super) fn wait_held(
        &self,
        cluster: &Cluster,
        stream: u64,
        end: u64,
    ) -> Result<(), Failure> {
        for node in &cluster.nodes {
            let mut last = String::new();
            let what = format!("{} to have stream {stream} up to {end}", node.place.name);
            let held = self.course.wait(&what, || {
                let status = match ask_status(node, cluster.id) {
                    Ok(status) => status,
                    Err(failure) => {
                        last = failure.to_string();
                        return None;
                    }
                };
                let seen = status.stream(stream)?;
                // A standby shows what is closed in all streams: a moment after it arrived.
                let shown = cluster.id == self.primary.id || seen.scn <= status.cluster.sync_scn;
                last = format!("{seen:?}");
                (seen.committed_lsn >= end && shown).then_some(())
            });
            if let Err(failure) = held {
                self.course.interrupt.check()?;
                // What it lacks is counted as lost.
                self.course.say(&format!("{failure}; last: {last}"));
            }
        }
        Ok(())
    }
}

fn layout(
    plan: &Plan<'_>,
    id: u32,
    name: &'static str,
    places: &[(&'static str, &'static str)],
    upstream: &[SocketAddr],
) -> Layout {
    let place = |(name, region): &(&'static str, &'static str)| Place { name, region };
    Layout {
        id,
        name,
        role: if upstream.is_empty() { Role::Primary } else { Role::Standby },
        places: places.iter().map(place).collect(),
        upstream: upstream.to_vec(),
        log_bytes_max: plan.log_bytes_max,
        zero_copy: plan.zero_copy,
        compression: Compression::Off,
        timing: TimingConfig::default(),
    }
}

fn layout_of_standby(
    plan: &Plan<'_>,
    id: u32,
    place: (&'static str, &'static str),
    upstream: &[SocketAddr],
) -> Layout {
    layout(plan, id, place.0, &[place], upstream)
}

fn bring_up(layout: &Layout, dir: &Path, course: &Course) -> Result<Cluster, Failure> {
    let mut tries = 0;
    loop {
        tries += 1;
        let failure = match Cluster::start(layout, dir, &course.interrupt) {
            Ok(cluster) => return Ok(cluster),
            Err(failure) => failure,
        };
        if tries == STARTS_MAX || course.interrupt.is_set() {
            return Err(failure);
        }
        for place in &layout.places {
            let home = dir.join(place.name);
            std::fs::remove_dir_all(&home).map_err(|error| Failure::io(home.display(), &error))?;
        }
    }
}

/// A client of one node.
pub(super) fn client_of(node: &NodeProcess, cluster: u32) -> Result<Client, Failure> {
    let options = ClientOptions { cluster, timeout: ASK_MAX };
    Ok(Client::new(&[node.addr().to_string()], options)?)
}

/// What a node says of itself.
pub(super) fn ask_status(node: &NodeProcess, cluster: u32) -> Result<Status, Failure> {
    parse(&client_of(node, cluster)?.status_json()?)
}
