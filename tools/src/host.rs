//! The only place that names the engine's node: everything else goes through these few calls.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use palisade::{AppendFuture, Buffers, Config, Error, ErrorKind, Node, ShardDriver, Stream};

use crate::bench::{Measured, own_cpu_us, temporary_dir};
use crate::cli::{BenchLoad, BenchOptions};
use crate::exit::{Exit, Failure};
use crate::signals::Interrupt;
use crate::text;

/// Time before a measurement, for files, caches and buffers.
const WARM_UP: Duration = Duration::from_millis(500);
/// Space of a node that is measured.
const LOG_BYTES_MAX: u64 = 4 << 30;
/// How long a new node may take to lead.
const LEADER_MAX: Duration = Duration::from_secs(10);

/// By these words a notice about memory is known.
pub(crate) const UNREGISTERED: &str = "the node goes on with the rest unregistered";

/// A node that runs in this process.
pub(crate) struct Host {
    node: Node,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let exit = match error.kind() {
            ErrorKind::Config => Exit::Configuration,
            ErrorKind::InUse => Exit::InUse,
            ErrorKind::Corrupt => Exit::Corrupt,
            ErrorKind::Io | ErrorKind::Poisoned => Exit::Io,
            ErrorKind::Broken => Exit::Invariant,
            ErrorKind::Unreachable => Exit::Unreachable,
            _ => Exit::Failed,
        };
        Failure::new(exit, error.to_string())
    }
}

/// Makes the data directory of a node.
pub(crate) fn format(config: &Config) -> Result<(), Failure> {
    Ok(palisade::format(config)?)
}

impl Host {
    /// Recovers and listens.
    pub(crate) fn open(config: Config) -> Result<Host, Failure> {
        Ok(Host { node: Node::open(config)? })
    }

    /// What a person should know about a node that runs all the same.
    pub(crate) fn notice(&self) -> Option<String> {
        let Buffers { registered_bytes, wanted_bytes } = self.node.buffers();
        (registered_bytes < wanted_bytes).then(|| {
            format!(
                "{} of {} of buffers are registered with the kernel, {UNREGISTERED}; raise \
                 memlock (`ulimit -l unlimited`, LimitMEMLOCK=infinity)",
                text::size(registered_bytes),
                text::size(wanted_bytes)
            )
        })
    }

    /// Whether it stopped by itself, and why.
    pub(crate) fn failed(&self) -> Option<Failure> {
        self.node.failed().map(Failure::from)
    }

    /// Stops gracefully.
    pub(crate) fn stop(self) -> Result<(), Failure> {
        Ok(self.node.stop()?)
    }
}

/// `bench append --nodes 1`: appends through a node of this process.
pub(crate) fn bench_append(options: &BenchOptions) -> Result<Measured, Failure> {
    let interrupt = Interrupt::catch()?;
    let load = &options.load;
    let dir = temporary_dir(&load.run.dir)?;
    let mut config = Config::embedded(dir.path().join("n1"));
    config.log.log_bytes_max = LOG_BYTES_MAX;
    palisade::format(&config)?;
    let (node, mut driver) = match options.drive {
        true => Node::open_driven(config).map(|(node, driver)| (node, Some(driver)))?,
        false => (Node::open(config)?, None),
    };
    let ids = create_streams(&node, load.streams as usize, &mut driver)?;
    let streams: Vec<Stream> = ids.iter().map(|id| node.stream(*id)).collect();
    let mut measured = Measured::new("append", options.nodes, load)?;
    let mut flight = Flight::new(load, streams);
    let warm = Instant::now() + WARM_UP;
    while Instant::now() < warm {
        interrupt.check()?;
        flight.turn(&mut driver, None)?;
    }
    let (since, cpu) = (Instant::now(), own_cpu_us());
    let length = Duration::from_secs(load.run.seconds);
    while since.elapsed() < length {
        interrupt.check()?;
        flight.turn(&mut driver, Some(&mut measured))?;
    }
    measured.took = since.elapsed();
    measured.cpu_us = own_cpu_us() - cpu;
    drop(flight);
    // The shard goes before the node that stands behind it.
    drop(driver);
    node.stop()?;
    Ok(measured)
}

fn create_streams(
    node: &Node,
    count: usize,
    driver: &mut Option<ShardDriver>,
) -> Result<Vec<u64>, Failure> {
    let deadline = Instant::now() + LEADER_MAX;
    loop {
        let created = match driver {
            None => node.create_streams(count),
            Some(driver) => driver.create_streams(count),
        };
        match created {
            Ok(ids) => return Ok(ids),
            Err(error) if error.is_retryable() && Instant::now() < deadline => {
                if let Some(driver) = driver {
                    driver.turn(false)?;
                }
                std::thread::yield_now();
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A window of appends, oldest first.
struct Flight {
    streams: Vec<Stream>,
    payload: bytes::Bytes,
    in_flight: usize,
    next: usize,
    open: VecDeque<(Instant, AppendFuture)>,
}

impl Flight {
    fn new(load: &BenchLoad, streams: Vec<Stream>) -> Flight {
        let payload = bytes::Bytes::from(vec![0x5a; load.record_bytes as usize]);
        let in_flight = load.in_flight as usize;
        Flight { streams, payload, in_flight, next: 0, open: VecDeque::with_capacity(in_flight) }
    }

    /// Fills the window, then takes the oldest outcome.
    fn turn(
        &mut self,
        driver: &mut Option<ShardDriver>,
        measured: Option<&mut Measured>,
    ) -> Result<(), Failure> {
        while self.open.len() < self.in_flight {
            let stream = &self.streams[self.next % self.streams.len()];
            self.next += 1;
            let started = Instant::now();
            self.open.push_back((started, stream.append(self.payload.clone())));
        }
        let Some((started, mut future)) = self.open.pop_front() else { return Ok(()) };
        let outcome = match driver {
            None => future.wait(),
            Some(driver) => loop {
                match future.try_take() {
                    Some(outcome) => break outcome,
                    None => driver.turn(true)?,
                }
            },
        };
        match outcome {
            Ok(_) => {
                if let Some(measured) = measured {
                    measured.record(started.elapsed(), 1);
                }
                Ok(())
            }
            // Back-pressure: sent again, and not counted.
            Err(error) if error.kind() == ErrorKind::Busy => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
