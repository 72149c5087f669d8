//! Entries of the catalogue, and what is asked of the registry.

use palisade::Protection;
use palisade::control::{self, Act, Cluster, Hold, Phase, Request, RoleStep, Settings, Step, What};
use palisade::status::Transfer;
use palisade::stream::catalogue;
use palisade::stream::mark::Mark;

use super::{Format, Sample, leave};

pub(super) const ALL: &[Format] = &[
    Format {
        name: "catalogue",
        samples: streams,
        again: |bytes| Some(catalogue::Change::decode(bytes)?.encode().to_vec()),
        mend: leave,
        is_exact: true,
    },
    Format {
        name: "registry",
        samples: changes,
        again: |bytes| Some(control::Change::decode(bytes)?.encode()),
        mend: leave,
        is_exact: true,
    },
    Format {
        name: "request",
        samples: requests,
        again: request_again,
        mend: leave,
        // Of a setting that is not given, anything may stand.
        is_exact: false,
    },
];

fn streams() -> Vec<Sample> {
    let create = |mark| catalogue::Change::Create { stream: 77, mark }.encode().to_vec();
    let mark = Mark::Sync { cluster: 2, epoch: 5 };
    vec![
        Sample::new("a stream", create(None)),
        Sample::new("a stream that begins with a mark", create(Some(mark))),
    ]
}

fn cluster() -> Cluster {
    Cluster {
        name: "beijing-1".to_owned(),
        region: "beijing".to_owned(),
        endpoints: vec!["10.0.0.1:7000".to_owned(), "10.0.0.2:7000".to_owned()],
        upstream: 3,
        hold: Some(Hold::Until(1_000)),
        ..Cluster::new(2, Transfer::Sync)
    }
}

fn changes() -> Vec<Sample> {
    let (mode, level) = (Protection::Protection, Protection::Protection);
    let steady = Step { epoch: 4, mode, level, phase: Phase::Steady, sync: 2, forced: true };
    let rising = Step { level: Protection::Resync, phase: Phase::Rising, ..steady };
    let role = |act| What::Role(RoleStep { epoch: 4, act });
    [
        ("put", What::Put(cluster())),
        ("put, the least", What::Put(Cluster::new(3, Transfer::Async))),
        ("remove", What::Remove(2)),
        ("primary", What::Primary(Cluster::new(1, Transfer::Sync))),
        ("mode", What::Mode(steady)),
        ("mode, on its way", What::Mode(Step { mode: Protection::Availability, ..rising })),
        ("role, prepare", role(Act::Prepare { target: 2 })),
        ("role, give up", role(Act::GiveUp)),
        ("role, end", role(Act::End)),
        ("role, hand over", role(Act::HandOver { scn: 1_000 })),
        ("role, resume", role(Act::Resume { scn: 1_000 })),
        ("role, serve", role(Act::Serve)),
        ("role, seize", role(Act::Seize)),
        ("role, begin", role(Act::Begin { scn: 1_000 })),
    ]
    .map(|(name, what)| Sample::new(name, control::Change { by: 1, on: 9, what }.encode()))
    .to_vec()
}

fn requests() -> Vec<Sample> {
    let settings = Settings {
        name: Some("beijing-1".to_owned()),
        region: Some("beijing".to_owned()),
        endpoints: Some(vec!["10.0.0.1:7000".to_owned()]),
        transfer: Some(Transfer::Sync),
        net_timeout_ms: Some(5_000),
        health_check_ms: Some(6_000),
        upstream: Some(3),
    };
    let few = Settings { transfer: Some(Transfer::Async), ..Settings::default() };
    let force = true;
    [
        ("add", Request::Add { cluster: 2, settings }),
        ("set", Request::Set { cluster: 2, settings: few }),
        ("remove", Request::Remove { cluster: 2 }),
        ("suspend", Request::Suspend { cluster: 2, until_scn: Some(1_000) }),
        ("suspend at once", Request::Suspend { cluster: 2, until_scn: None }),
        ("resume", Request::Resume { cluster: 2 }),
        ("primary", Request::SetPrimary { transfer: Transfer::Sync }),
        ("mode", Request::SetMode { mode: Protection::Availability, force }),
        ("switchover", Request::Switchover { cluster: 2 }),
        ("failover", Request::Failover { allow_loss: true }),
    ]
    .map(|(name, request)| Sample::new(name, request.encode(name == "add")))
    .to_vec()
}

fn request_again(bytes: &[u8]) -> Option<Vec<u8>> {
    let (request, dry_run) = Request::parse(bytes).ok()?;
    Some(request.encode(dry_run))
}
