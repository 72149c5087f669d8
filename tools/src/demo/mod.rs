//! `palisade demo`: real processes, real directories, real kills, and a proof at the end.
//!
//! Three nodes of a primary cluster (two in SH, one in HZ) and a standby of one node in HZ. While
//! records are appended through the leader, the leader is killed and restarted, then the standby.
//! At the end every acked record is compared with what each replica and the standby return.

mod cluster;
mod input;
mod ledger;
mod load;
mod picture;
mod report;
mod story;
pub mod verify;

use std::path::PathBuf;

use crate::cli::Demo;
use crate::exit::{Exit, Failure};
use crate::signals::Interrupt;

pub(crate) use cluster::{Cluster, Layout, Place};

/// `palisade demo`
pub(crate) fn run(options: &Demo) -> Result<Exit, Failure> {
    let interrupt = Interrupt::catch()?;
    let workspace = Workspace::new(options.keep.as_deref())?;
    let outcome = story::tell(options, &workspace.path, &interrupt);
    let report = match outcome {
        Ok(report) => report,
        Err(failure) => {
            report::print_broken(&failure, options.json);
            return Err(failure);
        }
    };
    report::print(&report, options.json);
    Ok(if report.is_ok() { Exit::Ok } else { Exit::Failed })
}

/// Where directories and logs of the demo go; removed at the end unless kept.
struct Workspace {
    path: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl Workspace {
    fn new(keep: Option<&std::path::Path>) -> Result<Workspace, Failure> {
        let Some(path) = keep else {
            let dir = temporary()?;
            return Ok(Workspace { path: dir.path().to_owned(), _temporary: Some(dir) });
        };
        let failed = |error| Failure::io(path.display(), &error);
        std::fs::create_dir_all(path).map_err(failed)?;
        if std::fs::read_dir(path).map_err(failed)?.next().is_some() {
            let text = format!("{}: not empty; name another directory", path.display());
            return Err(Failure::new(Exit::Failed, text));
        }
        let path = path.canonicalize().map_err(failed)?;
        Ok(Workspace { path, _temporary: None })
    }
}

/// A directory on a file system that takes direct I/O: memory file systems do not.
fn temporary() -> Result<tempfile::TempDir, Failure> {
    const TMPFS_MAGIC: i128 = 0x0102_1994;
    let own = std::env::temp_dir();
    let places = [own, PathBuf::from("/var/tmp"), PathBuf::from(".")];
    let on_disk = places.iter().find(|place| {
        rustix::fs::statfs(place.as_path())
            .is_ok_and(|facts| i128::from(facts.f_type) != TMPFS_MAGIC)
    });
    let place = on_disk.unwrap_or(&places[0]);
    let dir = tempfile::Builder::new().prefix("palisade-demo-").tempdir_in(place);
    dir.map_err(|error| Failure::io(place.display(), &error))
}
