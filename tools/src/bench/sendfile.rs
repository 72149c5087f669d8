//! The bare loop that forwarding is compared with: `sendfile` of one segment to a socket, again and
//! again, and a reader that only counts.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::exit::{Exit, Failure};

/// Bytes of one call.
const CALL_BYTES: usize = 256 << 10;
/// Bytes that the reader asks for.
const READ_BYTES: usize = 256 << 10;

/// What the loop did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bare {
    /// Bytes per second.
    pub(crate) bytes_per_s: f64,
    /// CPU seconds of the sender for a GiB.
    pub(crate) cpu_s_per_gib: f64,
}

/// Sends the largest segment below `dir` for so long.
pub(crate) fn run(dir: &Path, time: Duration) -> Result<Bare, Failure> {
    let mut found = Vec::new();
    segments(dir, &mut found).map_err(|error| Failure::io(dir.display(), &error))?;
    let Some((_, path)) = found.into_iter().max() else {
        return Err(Failure::new(Exit::Failed, format!("{}: no segment", dir.display())));
    };
    sends(&path, time).map_err(|error| Failure::io(path.display(), &error))
}

fn segments(dir: &Path, found: &mut Vec<(u64, PathBuf)>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        if kind.is_dir() {
            segments(&path, found)?;
        } else if path.extension().is_some_and(|end| end == "seg") {
            found.push((std::fs::metadata(&path)?.len(), path));
        }
    }
    Ok(())
}

fn sends(path: &Path, time: Duration) -> std::io::Result<Bare> {
    let (file, listener) =
        (std::fs::File::open(path)?, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
    let len = file.metadata()?.len();
    let socket = TcpStream::connect(listener.local_addr()?)?;
    let mut other = listener.accept()?.0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; READ_BYTES];
            while other.read(&mut buffer).is_ok_and(|bytes| bytes > 0) {}
        });
        let (mut sent, mut at) = (0u64, 0);
        let (began, cpu) = (Instant::now(), thread_cpu());
        let done = loop {
            if began.elapsed() >= time {
                break Ok(());
            }
            match rustix::fs::sendfile(&socket, &file, Some(&mut at), CALL_BYTES) {
                Ok(bytes) => sent += bytes as u64,
                Err(error) => break Err(error.into()),
            }
            if at >= len {
                at = 0;
            }
        };
        let (took, cpu) = (began.elapsed().as_secs_f64(), thread_cpu() - cpu);
        // The reader sees the end.
        drop(socket);
        let gib = sent as f64 / f64::from(1 << 30);
        done.map(|()| Bare { bytes_per_s: sent as f64 / took, cpu_s_per_gib: cpu / gib })
    })
}

fn thread_cpu() -> f64 {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
}
