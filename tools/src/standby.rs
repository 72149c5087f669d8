//! `palisade standby add | set | remove | list | suspend | resume | rebuild`, and
//! `palisade primary set`.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use palisade::client::{Client, ClientError, ClientOptions};
use palisade::control::{ClusterView, Controlled, Refusal, RegistryView, Request, Settings};
use serde_json::json;

use crate::control_cli::{About, Manner, Nodes, PrimaryCommand, StandbyCommand};
use crate::exit::{Exit, Failure};
use crate::status::{self, kebab};
use crate::text;

/// How long the cluster may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// `palisade standby ...`
pub(crate) fn run(command: &StandbyCommand) -> Result<Exit, Failure> {
    let (nodes, request, manner) = match command {
        StandbyCommand::List { nodes, json } => return list(nodes, *json),
        StandbyCommand::Rebuild { nodes, stream, json, .. } => {
            return rebuild(nodes, *stream, *json);
        }
        StandbyCommand::Add { nodes, which, name, region, endpoint, about, manner } => {
            let endpoints = Some(resolved(endpoint)?);
            let settings = settings((Some(name.clone()), Some(region.clone()), endpoints), about);
            if settings.transfer.is_none() {
                return Err(usage(&Refusal::TransferNotChosen));
            }
            (nodes, Request::Add { cluster: which.cluster, settings }, manner)
        }
        StandbyCommand::Set { nodes, which, name, region, endpoint, about, manner } => {
            let endpoints = endpoint.as_deref().map(resolved).transpose()?;
            let settings = settings((name.clone(), region.clone(), endpoints), about);
            if settings == Settings::default() {
                return Err(usage(&Refusal::NothingGiven));
            }
            (nodes, Request::Set { cluster: which.cluster, settings }, manner)
        }
        StandbyCommand::Remove { nodes, which, manner } => {
            (nodes, Request::Remove { cluster: which.cluster }, manner)
        }
        StandbyCommand::Suspend { nodes, which, until_scn, manner } => {
            let (cluster, until_scn) = (which.cluster, *until_scn);
            (nodes, Request::Suspend { cluster, until_scn }, manner)
        }
        StandbyCommand::Resume { nodes, which, manner } => {
            (nodes, Request::Resume { cluster: which.cluster }, manner)
        }
    };
    change(&mut client(nodes)?, &request, *manner)
}

/// A stream begins anew once its leader has found an upstream: `palisade status` shows how far.
fn rebuild(nodes: &Nodes, stream: u64, json: bool) -> Result<Exit, Failure> {
    let above = client(nodes)?.rebuild(stream)?.0;
    let line = json!({"stream": stream, "above": above});
    let said = format!("stream {stream} begins anew above {above}, where its upstream begins\n");
    text::say(if json { format!("{line}\n") } else { said })?;
    Ok(Exit::Ok)
}

/// `palisade primary set`
pub(crate) fn set_primary(command: &PrimaryCommand) -> Result<Exit, Failure> {
    let PrimaryCommand::Set { at, transfer, manner } = command;
    let request = Request::SetPrimary { transfer: (*transfer).into() };
    change(&mut status::client(at, TIMEOUT)?, &request, *manner)
}

fn usage(refusal: &Refusal) -> Failure {
    Failure::new(Exit::Usage, refusal.to_string())
}

/// The addresses of hosts that were given by name, all of them: nodes dial addresses alone. What
/// is neither is for the primary to refuse.
fn resolved(endpoints: &[String]) -> Result<Vec<String>, Failure> {
    let mut addrs: Vec<String> = Vec::new();
    for endpoint in endpoints {
        let named = endpoint.rsplit_once(':').filter(|(host, port)| {
            !host.is_empty()
                && port.parse::<u16>().is_ok()
                && endpoint.parse::<SocketAddr>().is_err()
        });
        if named.is_none() {
            addrs.push(endpoint.clone());
            continue;
        }
        let unknown = |why: String| {
            let text = format!(
                "--endpoint {endpoint}: the name is not known here ({why}); nodes dial addresses: \
                 give the IP address of the host"
            );
            Failure::new(Exit::Usage, text)
        };
        let found = endpoint.to_socket_addrs().map_err(|error| unknown(error.to_string()))?;
        let before = addrs.len();
        for addr in found.map(|addr| addr.to_string()) {
            if !addrs[before..].contains(&addr) {
                addrs.push(addr);
            }
        }
        if addrs.len() == before {
            return Err(unknown("it has no address".to_owned()));
        }
    }
    Ok(addrs)
}

type Named = (Option<String>, Option<String>, Option<Vec<String>>);

fn settings((name, region, endpoints): Named, about: &About) -> Settings {
    Settings {
        name,
        region,
        endpoints,
        transfer: about.transfer.map(Into::into),
        net_timeout_ms: about.net_timeout,
        health_check_ms: about.health_check,
        upstream: about.upstream,
    }
}

fn client(nodes: &Nodes) -> Result<Client, Failure> {
    let options = ClientOptions { cluster: 0, timeout: TIMEOUT };
    Ok(Client::new(&nodes.at, options)?)
}

/// Asks for a change and says what came of it.
fn change(client: &mut Client, request: &Request, manner: Manner) -> Result<Exit, Failure> {
    let done = ask(client, request, manner.dry_run)?;
    let line = json!({
        "version": done.version, "changed": done.changed, "dry_run": manner.dry_run
    });
    text::say(if manner.json { format!("{line}\n") } else { said(done, manner.dry_run) })?;
    Ok(Exit::Ok)
}

pub(crate) fn ask(
    client: &mut Client,
    request: &Request,
    dry_run: bool,
) -> Result<Controlled, Failure> {
    client.control(request, dry_run).map_err(|error| match error {
        ClientError::Unknown { .. } => {
            let text = format!("{error}; see `palisade standby list` and `palisade mode get`");
            Failure::new(Exit::Failed, text)
        }
        error => error.into(),
    })
}

/// For people.
pub(crate) fn said(done: Controlled, dry_run: bool) -> String {
    let Controlled { version, changed } = done;
    match (changed, dry_run) {
        (true, true) => "it can be done; nothing was changed\n".to_owned(),
        (true, false) => format!("done; the registry is at version {version}\n"),
        (false, _) => format!("it is so already; the registry is at version {version}\n"),
    }
}

fn list(nodes: &Nodes, json: bool) -> Result<Exit, Failure> {
    let view = client(nodes)?.registry()?;
    if json {
        let line = serde_json::to_string(&view).expect("plain fields");
        text::say(format!("{line}\n"))?;
    } else {
        text::say(page(&view))?;
    }
    Ok(Exit::Ok)
}

fn page(view: &RegistryView) -> String {
    let mut out = format!(
        "cluster {}  role {}  mode {}  level {}  registry version {}{}\n",
        view.cluster,
        kebab(view.role),
        kebab(view.mode.mode),
        kebab(view.mode.level),
        view.version,
        if view.current { "" } else { "  (not from the leader, may be old)" },
    );
    if let Some(primary) = &view.primary {
        let transfer = kebab(primary.transfer);
        out.push_str(&format!("cluster {} as a standby: {transfer}\n", primary.cluster));
    }
    out.push('\n');
    let head = [
        "standby",
        "name",
        "region",
        "transfer",
        "net timeout",
        "health check",
        "upstream",
        "state",
        "endpoints",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(view.standbys.iter().map(row));
    out.push_str(&text::table(&rows));
    out
}

fn row(standby: &ClusterView) -> Vec<String> {
    let state = match (standby.suspended, standby.until_scn) {
        (false, _) => "on".to_owned(),
        (true, None) => "suspended".to_owned(),
        (true, Some(scn)) => format!("suspended at SCN {scn}"),
    };
    let upstream = match standby.upstream {
        0 => "its choice".to_owned(),
        id => format!("cluster {id}"),
    };
    vec![
        standby.cluster.to_string(),
        standby.name.clone(),
        standby.region.clone(),
        kebab(standby.transfer),
        format!("{} ms", standby.net_timeout_ms),
        format!("{} ms", standby.health_check_ms),
        upstream,
        state,
        standby.endpoints.join(","),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_resolved_before_they_are_registered() {
        let given = |endpoint: &str| resolved(&[endpoint.to_owned()]);
        for same in ["10.0.0.4:7001", "[::1]:7001", "nowhere", ":7001", "h:70000", "", "1.2.3.4"] {
            assert_eq!(given(same).ok(), Some(vec![same.to_owned()]), "the primary says why not");
        }
        let found = given("localhost:7001").expect("every host has that name");
        assert!(!found.is_empty());
        for addr in found {
            let addr: SocketAddr = addr.parse().expect("an address");
            assert!(addr.ip().is_loopback() && addr.port() == 7001, "{addr}");
        }
        assert!(given("no-such.invalid:7001").is_err());
    }
}
