//! `palisade demo`: real processes, real directories, real kills, and a proof at the end.
//!
//! First the clusters of figure (a): a primary of three nodes (two in SH, one in HZ), a SYNC
//! standby in SH and an ASYNC one in HZ. While records are appended, the leader is killed and
//! restarted, then the ASYNC standby. The mode changes, the SYNC standby stands still and comes
//! back, the role is handed to it and back. Then those of figure (b): the primary in SH, both
//! standbys in HZ. Of either, what crosses the border is measured, and every acked record is
//! compared with what each node of each cluster returns.

mod chapters;
mod cluster;
mod course;
pub mod figure;
mod input;
mod judge;
mod ledger;
mod load;
mod picture;
mod pulse;
mod report;
mod stage;
mod story;
pub mod verify;

use std::path::PathBuf;

use crate::cli::Demo;
use crate::exit::{Exit, Failure};
use crate::signals::Interrupt;

pub(crate) use cluster::{Cluster, Layout, Place, measured};
use report::Report;

/// `palisade demo`: whatever happens it ends with a verdict, and with 1 unless that is ok.
pub(crate) fn run(options: &Demo) -> Result<Exit, Failure> {
    let report = match prepare(options) {
        Ok((interrupt, workspace)) => story::tell(options, &workspace.path, &interrupt),
        Err(failure) => Report { error: Some(failure.text), ..Report::default() },
    };
    report::print(&report, options.json)?;
    match &report.error {
        Some(why) => Err(Failure::new(Exit::Failed, why)),
        None if report.is_ok() => Ok(Exit::Ok),
        None => Ok(Exit::Failed),
    }
}

fn prepare(options: &Demo) -> Result<(Interrupt, Workspace), Failure> {
    Ok((Interrupt::catch()?, Workspace::new(options.keep.as_deref())?))
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
