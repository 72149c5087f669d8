//! What may be asked of the registry: every rule is here, and is asked on the committed registry
//! of the one who decides. What it decided is safe against others by the version it names.

use std::net::SocketAddr;

use super::change::{Change, What};
use super::level::Health;
use super::limits::{
    CLUSTERS_MAX, ENDPOINT_BYTES_MAX, ENDPOINTS_MAX, NAME_BYTES_MAX, TIME_MS_MAX, TIME_MS_MIN,
};
use super::mode::{Mode, Phase, Proof};
use super::refusal::Refusal;
use super::registry::{Cluster, Hold, Registry};
use super::request::{Request, Settings};
use super::role::{Act, RoleStep};
use crate::paxos::REGION_BYTES_MAX;
use crate::status::{Protection, Transfer};

/// The cluster that decides: the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// Its id.
    pub cluster: u32,
    /// Its name.
    pub name: String,
    /// The region of its leader.
    pub region: String,
    /// Where its nodes listen.
    pub endpoints: Vec<String>,
    /// How its SYNC standby is, as the level sees it.
    pub health: Health,
}

/// Gives the change that does what is asked, or none when it is so already.
///
/// # Errors
/// The rule that forbids it.
pub fn decide(
    registry: &Registry,
    own: &Own,
    request: &Request,
) -> Result<Option<Change>, Refusal> {
    if registry.mode().phase.is_role() {
        return Err(Refusal::RoleMoving);
    }
    let what = match request {
        Request::Add { cluster, settings } => Some(add(registry, own, *cluster, settings)?),
        Request::Set { cluster, settings } => set(registry, own, *cluster, settings)?,
        Request::Remove { cluster } => Some(remove(registry, *cluster)?),
        Request::Suspend { cluster, until_scn } => suspend(registry, *cluster, *until_scn)?,
        Request::Resume { cluster } => resume(registry, *cluster)?,
        Request::SetPrimary { transfer } => set_primary(registry, own, *transfer),
        Request::SetMode { mode, force } => set_mode(registry, own.health, *mode, *force)?,
        Request::Switchover { cluster } => Some(switchover(registry, own, *cluster)?),
        Request::Failover { .. } => return Err(Refusal::IsPrimary),
    };
    Ok(what.map(|what| Change { by: own.cluster, on: registry.version(), what }))
}

/// Gives the change by which a standby takes the role without the primary. `own` is the standby.
///
/// # Errors
/// The rule that forbids it.
pub fn decide_failover(
    registry: &Registry,
    own: &Own,
    allow_loss: bool,
) -> Result<Change, Refusal> {
    let (cluster, mode) = (own.cluster, registry.mode());
    if mode.is_primary(cluster) == Some(true) {
        return Err(Refusal::IsPrimary);
    }
    if mode.phase.is_role() && mode.phase != Phase::Preparing {
        return Err(Refusal::RoleMoving);
    }
    match mode.seizable(cluster) {
        None => return Err(Refusal::WouldLose { mode: mode.mode, level: mode.level }),
        Some(Proof::ProvenUnlessForced) => {}
        Some(_) if allow_loss => {}
        Some(_) => return Err(Refusal::MayLose { mode: mode.mode }),
    }
    // Afterwards others find this cluster where the registry says.
    check_endpoints(&known(registry, cluster)?.endpoints)?;
    let what = What::Role(RoleStep { epoch: mode.epoch, act: Act::Seize });
    Ok(Change { by: cluster, on: registry.version(), what })
}

/// Whether the primary may hand its role to `target`.
///
/// # Errors
/// The rule that forbids it.
pub fn check_switchover(registry: &Registry, target: u32) -> Result<(), Refusal> {
    let cluster = known(registry, target)?;
    if cluster.hold.is_some() {
        return Err(Refusal::TargetSuspended { cluster: target });
    }
    // Afterwards this cluster takes its logs from there, and names it to clients.
    check_endpoints(&cluster.endpoints)?;
    let mode = registry.mode().mode;
    if !Mode::wants_sync(mode) {
        return Ok(());
    }
    if registry.primary().is_none_or(|primary| primary.transfer != Transfer::Sync) {
        return Err(Refusal::PrimaryNotSync { mode });
    }
    match cluster.transfer {
        Transfer::Sync => Ok(()),
        Transfer::Async => Err(Refusal::TargetNotSync { mode, cluster: target }),
    }
}

fn switchover(registry: &Registry, own: &Own, target: u32) -> Result<What, Refusal> {
    if target == own.cluster {
        return Err(Refusal::OwnCluster { cluster: target });
    }
    check_switchover(registry, target)?;
    let mode = registry.mode();
    // Every stream is to have one mark, and the target to be what it names.
    let moves = mode.phase != Phase::Steady
        || Mode::wants_sync(mode.mode) && mode.mark.cluster() != Some(target);
    if moves {
        let cluster = mode.mark.cluster().unwrap_or(target);
        return Err(Refusal::LevelMoving { cluster });
    }
    let is_set = registry.primary().is_some_and(|set| {
        let listens = |endpoint| own.endpoints.contains(endpoint);
        set.id == own.cluster && set.endpoints.iter().all(listens)
    });
    match is_set {
        true => Ok(What::Role(RoleStep { epoch: mode.epoch, act: Act::Prepare { target } })),
        false => Err(Refusal::PrimaryNotSet),
    }
}

fn known(registry: &Registry, cluster: u32) -> Result<&Cluster, Refusal> {
    registry.standby(cluster).ok_or_else(|| {
        let known = registry.standbys().map(|cluster| cluster.id).collect();
        Refusal::UnknownCluster { cluster, known }
    })
}

fn add(registry: &Registry, own: &Own, id: u32, settings: &Settings) -> Result<What, Refusal> {
    if id == 0 {
        return Err(Refusal::NoId);
    }
    if id == own.cluster {
        return Err(Refusal::OwnCluster { cluster: id });
    }
    if registry.standby(id).is_some() {
        return Err(Refusal::AlreadyThere { cluster: id });
    }
    if registry.standbys().count() >= CLUSTERS_MAX {
        return Err(Refusal::TooManyClusters);
    }
    let transfer = settings.transfer.ok_or(Refusal::TransferNotChosen)?;
    let cluster = merged(Cluster::new(id, transfer), settings);
    check_endpoints(&cluster.endpoints)?;
    check_cluster(registry, own, &cluster)?;
    Ok(What::Put(cluster))
}

fn set(
    registry: &Registry,
    own: &Own,
    id: u32,
    settings: &Settings,
) -> Result<Option<What>, Refusal> {
    let before = known(registry, id)?;
    if *settings == Settings::default() {
        return Err(Refusal::NothingGiven);
    }
    let after = merged(before.clone(), settings);
    // Those that stay may be names, which an earlier version let pass.
    settings.endpoints.as_deref().map_or(Ok(()), check_endpoints)?;
    check_cluster(registry, own, &after)?;
    let mode = registry.mode().mode;
    if Mode::wants_sync(mode)
        && before.transfer == Transfer::Sync
        && after.transfer == Transfer::Async
    {
        return Err(Refusal::SyncStandbyNeeded { mode, cluster: id });
    }
    if before.transfer == Transfer::Sync && after.transfer == Transfer::Async {
        check_unmarked(registry, id)?;
    }
    Ok((after != *before).then_some(What::Put(after)))
}

fn remove(registry: &Registry, id: u32) -> Result<What, Refusal> {
    let cluster = known(registry, id)?;
    let mode = registry.mode().mode;
    if Mode::wants_sync(mode) && cluster.transfer == Transfer::Sync {
        return Err(Refusal::SyncStandbyNeeded { mode, cluster: id });
    }
    check_unmarked(registry, id)?;
    match registry.standbys().find(|other| other.upstream == id) {
        Some(other) => Err(Refusal::UpstreamOf { cluster: id, other: other.id }),
        None => Ok(What::Remove(id)),
    }
}

fn suspend(registry: &Registry, id: u32, until_scn: Option<u64>) -> Result<Option<What>, Refusal> {
    let before = known(registry, id)?;
    let mode = registry.mode().mode;
    if Mode::wants_sync(mode) && before.transfer == Transfer::Sync {
        return Err(Refusal::SyncSuspended { cluster: id, mode });
    }
    check_unmarked(registry, id)?;
    let hold = Some(until_scn.map_or(Hold::AtOnce, Hold::Until));
    if let Some(Hold::Until(0)) = hold {
        let what = "--until-scn";
        return Err(Refusal::OutOfBounds { what, value: 0, min: 1, max: u64::MAX });
    }
    let after = Cluster { hold, ..before.clone() };
    Ok((after != *before).then_some(What::Put(after)))
}

fn resume(registry: &Registry, id: u32) -> Result<Option<What>, Refusal> {
    let before = known(registry, id)?;
    let after = Cluster { hold: None, ..before.clone() };
    Ok((after != *before).then_some(What::Put(after)))
}

/// Where the primary listens is taken down too: it is what standbys will need of it.
fn set_primary(registry: &Registry, own: &Own, transfer: Transfer) -> Option<What> {
    let Own { cluster, name, region, endpoints, .. } = own.clone();
    let bounded = endpoints.into_iter().filter(|endpoint| endpoint.len() <= ENDPOINT_BYTES_MAX);
    let after = Cluster {
        name: cut(&name, NAME_BYTES_MAX),
        region: cut(&region, REGION_BYTES_MAX),
        endpoints: bounded.take(ENDPOINTS_MAX).collect(),
        ..Cluster::new(cluster, transfer)
    };
    (registry.primary() != Some(&after)).then_some(What::Primary(after))
}

fn cut(text: &str, bytes_max: usize) -> String {
    let fits = |at: &usize| text.is_char_boundary(*at);
    let end = (0..=text.len().min(bytes_max)).rev().find(fits);
    text[..end.unwrap_or(0)].to_owned()
}

fn set_mode(
    registry: &Registry,
    health: Health,
    mode: Protection,
    force: bool,
) -> Result<Option<What>, Refusal> {
    if mode == Protection::Resync {
        return Err(Refusal::NotAMode);
    }
    let now = registry.mode();
    if now.mode == mode && !(force && now.phase == Phase::Leaving) {
        return Ok(None);
    }
    let cluster = match Mode::wants_sync(mode) {
        true => the_sync_standby(registry, mode)?,
        false => 0,
    };
    let other = now.mark.cluster().filter(|marked| cluster != 0 && *marked != cluster);
    let rises = mode == Protection::Protection;
    if other.is_some() || rises && now.phase == Phase::Falling {
        let cluster = now.mark.cluster().expect("it falls from a SYNC mark");
        return Err(Refusal::LevelMoving { cluster });
    }
    if rises && now.level != Protection::Protection && health == Health::Ill {
        return Err(Refusal::StandbyBehind { cluster });
    }
    let leaves = now.level == Protection::Protection && !rises;
    if leaves && !force && health != Health::Well {
        return Err(Refusal::ForceNeeded);
    }
    Ok(Some(What::Mode(now.asked(mode, force))))
}

/// The one standby set to SYNC, fit for `mode`.
fn the_sync_standby(registry: &Registry, mode: Protection) -> Result<u32, Refusal> {
    let sync: Vec<&Cluster> = registry.sync_standbys().collect();
    let standbys = sync.iter().map(|cluster| cluster.id).collect();
    let [cluster] = sync[..] else {
        return Err(match sync.is_empty() {
            true => Refusal::NoSyncStandby { mode },
            false => Refusal::TwoSyncStandbys { mode, standbys },
        });
    };
    if cluster.hold.is_some() {
        return Err(Refusal::SyncSuspended { cluster: cluster.id, mode });
    }
    assert!(cluster.upstream == 0, "a SYNC standby is no cascade");
    Ok(cluster.id)
}

/// While streams are marked with a cluster, it stays what they say it is: their acks wait for it,
/// and it may have to prove that it has them.
fn check_unmarked(registry: &Registry, cluster: u32) -> Result<(), Refusal> {
    match registry.mode().mark.cluster() {
        Some(marked) if marked == cluster => Err(Refusal::LevelMoving { cluster }),
        _ => Ok(()),
    }
}

fn merged(mut cluster: Cluster, settings: &Settings) -> Cluster {
    let given = settings.clone();
    cluster.name = given.name.unwrap_or(cluster.name);
    cluster.region = given.region.unwrap_or(cluster.region);
    cluster.endpoints = given.endpoints.unwrap_or(cluster.endpoints);
    cluster.transfer = given.transfer.unwrap_or(cluster.transfer);
    cluster.net_timeout_ms = given.net_timeout_ms.unwrap_or(cluster.net_timeout_ms);
    cluster.health_check_ms = given.health_check_ms.unwrap_or(cluster.health_check_ms);
    cluster.upstream = given.upstream.unwrap_or(cluster.upstream);
    cluster
}

/// The rules about one standby as it would be.
fn check_cluster(registry: &Registry, own: &Own, cluster: &Cluster) -> Result<(), Refusal> {
    check_text("name", &cluster.name, NAME_BYTES_MAX)?;
    check_text("region", &cluster.region, REGION_BYTES_MAX)?;
    check_time("--net-timeout", cluster.net_timeout_ms)?;
    check_time("--health-check", cluster.health_check_ms)?;
    check_upstream(registry, own, cluster)?;
    let mode = registry.mode().mode;
    if !Mode::wants_sync(mode) || cluster.transfer == Transfer::Async {
        return Ok(());
    }
    if cluster.hold.is_some() {
        return Err(Refusal::SyncSuspended { cluster: cluster.id, mode });
    }
    let others = registry.sync_standbys().map(|other| other.id).filter(|id| *id != cluster.id);
    let mut standbys: Vec<u32> = others.chain([cluster.id]).collect();
    standbys.sort_unstable();
    match standbys.len() {
        1 => Ok(()),
        _ => Err(Refusal::TwoSyncStandbys { mode, standbys }),
    }
}

fn check_text(what: &'static str, text: &str, bytes_max: usize) -> Result<(), Refusal> {
    let fits = !text.is_empty() && text.len() <= bytes_max;
    match fits && !text.contains(char::is_control) {
        true => Ok(()),
        false => Err(Refusal::BadText { what }),
    }
}

fn check_time(what: &'static str, value: u32) -> Result<(), Refusal> {
    if (TIME_MS_MIN..=TIME_MS_MAX).contains(&value) {
        return Ok(());
    }
    let (value, min, max) = (value.into(), TIME_MS_MIN.into(), TIME_MS_MAX.into());
    Err(Refusal::OutOfBounds { what, value, min, max })
}

fn check_endpoints(endpoints: &[String]) -> Result<(), Refusal> {
    if endpoints.is_empty() || endpoints.len() > ENDPOINTS_MAX {
        return Err(Refusal::BadEndpoint { endpoint: String::new() });
    }
    for (at, endpoint) in endpoints.iter().enumerate() {
        if !is_endpoint(endpoint) {
            return Err(Refusal::BadEndpoint { endpoint: endpoint.clone() });
        }
        if endpoints[..at].contains(endpoint) {
            return Err(Refusal::BadEndpoint { endpoint: String::new() });
        }
    }
    Ok(())
}

/// Nodes dial what stands here from a thread that must not wait for names to be resolved.
fn is_endpoint(endpoint: &str) -> bool {
    let addr = endpoint.parse::<SocketAddr>();
    endpoint.len() <= ENDPOINT_BYTES_MAX && addr.is_ok_and(|addr| addr.port() > 0)
}

fn check_upstream(registry: &Registry, own: &Own, cluster: &Cluster) -> Result<(), Refusal> {
    let upstream = cluster.upstream;
    if upstream == 0 {
        return Ok(());
    }
    if upstream == own.cluster {
        return Err(Refusal::OwnCluster { cluster: upstream });
    }
    if cluster.transfer == Transfer::Sync {
        return Err(Refusal::SyncCascade { cluster: cluster.id, upstream });
    }
    let mut at = upstream;
    // Each of them has at most one upstream: longer than this is a loop.
    for _ in 0..=CLUSTERS_MAX {
        if at == cluster.id {
            return Err(Refusal::UpstreamLoop { cluster: cluster.id });
        }
        at = known(registry, at)?.upstream;
        if at == 0 {
            return Ok(());
        }
    }
    Err(Refusal::UpstreamLoop { cluster: cluster.id })
}
