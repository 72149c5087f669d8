//! The tree of clusters: who takes from whom, how far behind, and what keeps it from more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use palisade::client::{Client, ClientOptions};
use palisade::control::{ClusterView, RegistryView};
use palisade::status::{BorderStatus, ClusterRole, ReplicaRole, Status, StreamStatus};

use crate::status::{borders, condition, kebab, parse};
use crate::text;

/// How long a node of another cluster may take to answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Streams of a cluster whose trouble is told one by one.
const TROUBLES_MAX: usize = 4;

/// One cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Site {
    id: u32,
    name: String,
    region: String,
    /// What it is to the others.
    role: String,
    /// Where its nodes were asked.
    endpoints: Vec<String>,
    /// What they answered.
    nodes: Vec<Status>,
}

/// Asks every cluster of the registry. `asked` is a node of the own one, which listens at `at`.
pub(crate) fn gather(at: &[String], asked: &Status, view: &RegistryView) -> Vec<Site> {
    let mut sites = sites(at, asked, view);
    std::thread::scope(|scope| {
        for site in &mut sites {
            scope.spawn(|| site.ask());
        }
    });
    // The registry of another cluster says what it will be.
    let is_fenced = |node: &Status| node.cluster.role == ClusterRole::Fenced;
    for site in sites.iter_mut().filter(|site| site.nodes.iter().any(is_fenced)) {
        site.role = kebab(ClusterRole::Fenced);
    }
    sites
}

/// The clusters of the registry, the primary first.
fn sites(at: &[String], asked: &Status, view: &RegistryView) -> Vec<Site> {
    let own = asked.cluster.id;
    let is_primary = asked.cluster.role == ClusterRole::Primary;
    let mut sites = Vec::new();
    if is_primary || view.standbys.iter().all(|standby| standby.cluster != own) {
        let role = kebab(asked.cluster.role);
        let (name, region) = (asked.cluster.name.clone(), asked.node.region.clone());
        sites.push(Site { id: own, name, region, role, ..Site::default() });
    }
    let primary = view.primary.iter().filter(|primary| primary.cluster != own);
    sites.extend(primary.map(|primary| Site::new(primary, "primary".to_owned())));
    for standby in view.standbys.iter().filter(|standby| !is_primary || standby.cluster != own) {
        let held = if standby.suspended { ", suspended" } else { "" };
        sites.push(Site::new(standby, format!("{}{held}", kebab(standby.transfer))));
    }
    for site in sites.iter_mut().filter(|site| site.id == own) {
        site.endpoints = at.to_vec();
    }
    sites
}

impl Site {
    fn new(view: &ClusterView, role: String) -> Site {
        let ClusterView { cluster: id, name, region, endpoints, .. } = view.clone();
        Site { id, name, region, role, endpoints, nodes: Vec::new() }
    }

    /// Asks its nodes, one after the other.
    fn ask(&mut self) {
        let options = ClientOptions { cluster: self.id, timeout: TIMEOUT };
        for endpoint in &self.endpoints {
            let client = Client::new(std::slice::from_ref(endpoint), options);
            let answer = client.and_then(|mut client| client.status_json());
            self.nodes.extend(answer.ok().and_then(|json| parse(&json).ok()));
        }
    }

    fn title(&self) -> String {
        format!("{} ({})", self.name, self.id)
    }

    /// The streams that leave a cluster, each where it is led.
    fn led(&self) -> impl Iterator<Item = &StreamStatus> {
        let streams = self.nodes.iter().flat_map(|node| &node.streams);
        streams.filter(|stream| stream.id > 0 && stream.role == ReplicaRole::Leader)
    }

    /// How many streams are taken from each cluster.
    fn sources(&self) -> BTreeMap<u32, usize> {
        let mut sources = BTreeMap::new();
        for upstream in self.led().filter_map(|stream| stream.upstream) {
            *sources.entry(upstream.cluster).or_default() += 1;
        }
        sources
    }

    /// The cluster that most streams are taken from.
    fn parent(&self) -> Option<u32> {
        let sources = self.sources().into_iter();
        sources.max_by_key(|(cluster, count)| (*count, std::cmp::Reverse(*cluster))).map(|it| it.0)
    }

    /// Committed end and SCN of each stream.
    fn ends(&self) -> BTreeMap<u64, (u64, u64)> {
        let mut ends: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for stream in self.nodes.iter().flat_map(|node| &node.streams).filter(|it| it.id > 0) {
            let end = ends.entry(stream.id).or_default();
            *end = (*end).max((stream.committed_lsn, stream.scn));
        }
        ends
    }

    /// Bytes and nanoseconds that this cluster is behind another.
    fn behind(&self, of: &Site) -> (u64, u64) {
        let own = self.ends();
        let lag = |(stream, (end, scn)): (&u64, &(u64, u64))| {
            let (known, known_scn) = own.get(stream).copied().unwrap_or_default();
            let bytes = end.saturating_sub(known);
            // Without anything of it there is no time to count from.
            let ns = if bytes > 0 && known_scn > 0 { scn.saturating_sub(known_scn) } else { 0 };
            (bytes, ns)
        };
        let lags = of.ends();
        lags.iter().map(lag).fold((0, 0), |(bytes, ns), lag| (bytes + lag.0, ns.max(lag.1)))
    }

    /// What is wrong with its streams.
    fn troubles(&self) -> Vec<String> {
        let wrong = |stream: &&StreamStatus| !stream.action.is_empty();
        let mut lines: Vec<String> = self
            .led()
            .filter(wrong)
            .map(|stream| {
                let since = text::time_of_day(stream.since / 1_000_000_000);
                let (title, id) = (self.title(), stream.id);
                let (condition, action) = (condition(stream), &stream.action);
                format!("{title}: stream {id} since {since} UTC {condition}: {action}\n")
            })
            .collect();
        let more = lines.len().saturating_sub(TROUBLES_MAX);
        lines.truncate(TROUBLES_MAX);
        if more > 0 {
            lines.push(format!("{}: and {more} more streams\n", self.title()));
        }
        lines
    }
}

/// The picture, what is wrong, and what came over each border.
pub(crate) fn draw(sites: &[Site]) -> String {
    let head = ["clusters", "region", "role", "behind", "for", "streams"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let primary = sites.iter().find(|site| site.role == "primary");
    let parents: BTreeMap<u32, u32> =
        sites.iter().filter_map(|site| Some((site.id, parent(site, sites)?))).collect();
    let mut drawn = BTreeSet::new();
    // Whoever takes from nobody here; and of those that take from each other, the first.
    let roots = sites.iter().filter(|site| !parents.contains_key(&site.id)).chain(sites);
    for root in roots {
        let mut open = vec![(root, String::new(), String::new())];
        while let Some((site, before, below)) = open.pop() {
            if !drawn.insert(site.id) {
                continue;
            }
            rows.push(row(site, primary, &before));
            let is_child = |child: &&Site| parents.get(&child.id) == Some(&site.id);
            let children: Vec<&Site> = sites.iter().filter(is_child).collect();
            // The first is drawn first: it is pushed last.
            for (at, child) in children.into_iter().rev().enumerate() {
                let (branch, line) = if at == 0 { ("`- ", "   ") } else { ("|- ", "|  ") };
                open.push((child, format!("{below}{branch}"), format!("{below}{line}")));
            }
        }
    }
    let mut out = format!("\n{}", text::table(&rows));
    sites.iter().flat_map(Site::troubles).for_each(|line| out.push_str(&line));
    let mut crossed: BTreeMap<(String, String), u64> = BTreeMap::new();
    let nodes = sites.iter().flat_map(|site| &site.nodes);
    for BorderStatus { from, to, bytes } in nodes.flat_map(|node| node.borders.clone()) {
        *crossed.entry((from, to)).or_default() += bytes;
    }
    let crossed = crossed.into_iter().map(|((from, to), bytes)| BorderStatus { from, to, bytes });
    let crossed: Vec<BorderStatus> = crossed.collect();
    if !crossed.is_empty() {
        out.push_str("\nover borders, to all nodes that answered:");
    }
    out.push_str(&borders(&crossed));
    out
}

/// The cluster of the picture that a cluster hangs from; the primary where nothing is known of it.
fn parent(site: &Site, sites: &[Site]) -> Option<u32> {
    let known = |id: &u32| *id != site.id && sites.iter().any(|site| site.id == *id);
    let primary = sites.iter().find(|site| site.role == "primary").map(|site| site.id);
    site.parent().filter(known).or(primary.filter(known))
}

fn row(site: &Site, primary: Option<&Site>, before: &str) -> Vec<String> {
    let mut row = vec![format!("{before}{}", site.title()), site.region.clone(), site.role.clone()];
    let streams = site.ends().len();
    if site.nodes.is_empty() {
        let text = format!("does not answer at {}", site.endpoints.join(","));
        row.extend([String::new(), String::new(), text]);
        return row;
    }
    match primary.filter(|primary| primary.id != site.id && !primary.nodes.is_empty()) {
        Some(primary) => {
            let (bytes, ns) = site.behind(primary);
            row.extend([text::size(bytes), format!("{} ms", ns / 1_000_000)]);
        }
        None => row.extend([String::new(), String::new()]),
    }
    let from = site.sources().into_iter().map(|(id, count)| format!("{count} from cluster {id}"));
    let from: Vec<String> = from.collect();
    row.push(if from.is_empty() { streams.to_string() } else { from.join(", ") });
    row
}

#[cfg(test)]
mod tests {
    use palisade::status::{ClusterStatus, UpstreamStatus};

    use super::*;

    /// A cluster with one node and stream 2, committed so far.
    fn site(id: u32, role: &str, from: u32, committed_lsn: u64) -> Site {
        let upstream = (from > 0).then_some(UpstreamStatus { cluster: from, node: 1 });
        let scn = committed_lsn * 1_000_000;
        let led = ReplicaRole::Leader;
        let state = "sync".to_owned();
        let stream = StreamStatus {
            id: 2,
            role: led,
            committed_lsn,
            scn,
            upstream,
            state,
            ..<_>::default()
        };
        let home = StreamStatus { role: led, committed_lsn: 1 << 40, ..StreamStatus::default() };
        let border = BorderStatus { from: "sh".to_owned(), to: "hz".to_owned(), bytes: 10 };
        let cluster = ClusterStatus { id, ..ClusterStatus::default() };
        let node = Status {
            cluster,
            streams: vec![home, stream],
            borders: vec![border],
            ..<_>::default()
        };
        let (name, region) = (format!("c{id}"), "sh".to_owned());
        Site { id, name, region, role: role.to_owned(), endpoints: Vec::new(), nodes: vec![node] }
    }

    #[test]
    fn who_takes_from_whom_hangs_below_it() {
        let mut sites = vec![
            site(1, "primary", 0, 4096),
            site(2, "sync", 1, 4096),
            site(3, "async", 2, 1024),
            site(4, "async", 1, 4095),
            Site { endpoints: vec!["h:1".to_owned()], nodes: Vec::new(), ..site(5, "async", 0, 0) },
        ];
        sites[3].nodes[0].streams[1].action = "rebuild it".to_owned();
        let expected = "
clusters      region  role      behind      for  streams
c1 (1)        sh      primary                         1
|- c2 (2)     sh      sync         0 B     0 ms  1 from cluster 1
|  `- c3 (3)  sh      async    3.0 KiB  3072 ms  1 from cluster 2
|- c4 (4)     sh      async        1 B     1 ms  1 from cluster 1
`- c5 (5)     sh      async                      does not answer at h:1
c4 (4): stream 2 since 00:00:00 UTC sync: rebuild it

over borders, to all nodes that answered:
from region  to region  bytes
sh           hz            40
";
        let squeeze = |text: &str| {
            let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
            text.lines().map(words).collect::<Vec<_>>()
        };
        assert_eq!(squeeze(&draw(&sites)), squeeze(expected), "{}", draw(&sites));
    }

    #[test]
    fn those_that_take_from_each_other_are_drawn_too_and_once() {
        let sites = [site(2, "async", 3, 0), site(3, "async", 2, 0), site(4, "async", 9, 0)];
        let text = draw(&sites);
        for name in ["c2 (2)", "c3 (3)", "c4 (4)"] {
            assert_eq!(text.matches(name).count(), 1, "{text}");
        }
    }

    #[test]
    fn a_standby_shows_the_primary_that_it_knows_of() {
        let asked = &site(2, "", 1, 0).nodes[0];
        let cluster = ClusterStatus { role: ClusterRole::Standby, ..asked.cluster.clone() };
        let asked = Status { cluster, ..asked.clone() };
        let about = |cluster: u32| ClusterView { cluster, ..ClusterView::default() };
        let standbys = vec![about(2), about(3)];
        let view = RegistryView { primary: Some(about(1)), standbys, ..RegistryView::default() };
        let at = ["h:2".to_owned()];
        let found = sites(&at, &asked, &view);
        assert_eq!(found.iter().map(|site| site.id).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((found[0].role.as_str(), &found[1].endpoints), ("primary", &at.to_vec()));
        let alone = sites(&at, &asked, &RegistryView::default());
        assert_eq!((alone.len(), alone[0].role.as_str()), (1, "standby"));
    }
}
