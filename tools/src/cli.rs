//! The command line: what can be asked, with help and examples.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use palisade::config::ZeroCopy;
use palisade_wal::RECORD_BYTES_MAX;

use crate::control_cli::{Failover, ModeCommand, PrimaryCommand, StandbyCommand, Switchover};
use crate::exit::{Exit, Failure};
use crate::{
    append, bench, config_file, demo, failover, inspect, leader, mode, node, read, standby, status,
    stream, switchover,
};

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failed, 2 usage, 65 corrupt data, 69 unreachable, \
70 broken invariant, 73 data directory in use, 74 I/O, 78 configuration.";

/// Records of a demo that is not told otherwise.
pub(crate) const RECORDS_DEFAULT: u64 = 100_000;

/// Replicated redo log: keeps appends on several machines, ships them to standby clusters.
#[derive(Debug, Parser)]
#[command(name = "palisade", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run clusters on this machine, kill processes, move the role, and prove the promise
    Demo(Demo),
    /// Make the data directory of a node
    Format(Format),
    /// Run a node until SIGTERM or SIGINT
    Node(Node),
    /// Show the state of a node
    Status(Status),
    /// Append records from a file or stdin
    Append(Append),
    /// Read records of a stream
    Read(Read),
    /// Create and list streams
    #[command(subcommand)]
    Stream(StreamCommand),
    /// Move the leadership of a stream
    #[command(subcommand)]
    Leader(LeaderCommand),
    /// Say which standby clusters there are and how each is served
    #[command(subcommand)]
    Standby(StandbyCommand),
    /// Say how the primary is served when it becomes a standby
    #[command(subcommand)]
    Primary(PrimaryCommand),
    /// Show or set the protection mode
    #[command(subcommand)]
    Mode(ModeCommand),
    /// Hand the role of the primary to a standby
    Switchover(Switchover),
    /// Take the role of a primary that is lost
    Failover(Failover),
    /// Look into segment files of a stopped or running node
    #[command(subcommand)]
    Inspect(InspectCommand),
    /// Measure
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Check a configuration
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// Where to find the cluster.
#[derive(Clone, Debug, Args)]
pub(crate) struct At {
    /// Nodes to ask
    #[arg(
        long,
        value_name = "HOST:PORT,..",
        value_delimiter = ',',
        env = "PALISADE_AT",
        default_value = "127.0.0.1:7001"
    )]
    pub(crate) at: Vec<String>,
    /// Refuse nodes of another cluster than this (0: any)
    #[arg(long, value_name = "ID", default_value_t = 0)]
    pub(crate) cluster: u32,
}

/// Scripts give it to every command that changes something.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Yes {
    /// Ask nothing (this command has no question)
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  palisade demo
  palisade demo --input /var/log --json
  palisade demo --keep /tmp/palisade-demo

A primary of three nodes in two regions, a SYNC and an ASYNC standby. Records are appended while
the leader and the ASYNC standby are killed; the mode is raised; the SYNC standby is stopped until
acks go on without it, and comes back; the role is handed to it and back. Then, with other clusters,
both standbys are across the border. Of both, who takes the log from whom and what crosses the
border is looked at.

Exit code 0 only when all of that went as it should, and every acknowledged record came back from
every node, else 1. It takes less than 90 seconds. More records than usual, or files, have more: a
second for each 20,000 records or 4 MiB.")]
pub(crate) struct Demo {
    /// Replicate these bytes instead of generated records (of a directory: files in name order)
    #[arg(long, value_name = "FILE|DIR")]
    pub(crate) input: Option<PathBuf>,
    /// Print the verdict as JSON, as the last line
    #[arg(long)]
    pub(crate) json: bool,
    /// Keep data directories and logs here; it must not exist or be empty
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// Records to append
    #[arg(long, value_name = "N", default_value_t = RECORDS_DEFAULT,
          value_parser = clap::value_parser!(u64).range(100..=5_000_000))]
    pub(crate) records: u64,
    /// Seed of the generated records
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Zero-copy sends of the nodes, as network.zero_copy
    #[arg(long, value_name = "WHEN", default_value = ZeroCopy::Auto.as_str(),
          value_parser = PossibleValuesParser::new(ZeroCopy::WORDS)
              .map(|word| ZeroCopy::from_word(&word).expect("one of the words")))]
    pub(crate) zero_copy: ZeroCopy,
    /// Without the standby cluster
    #[arg(long, hide = true)]
    pub(crate) no_standby: bool,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  palisade format --config node.toml

The directory must be empty or absent. Run it once per node, with the same members everywhere.")]
pub(crate) struct Format {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Check everything, change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) yes: Yes,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  palisade node --config node.toml

Prints `ready` once it recovered and listens; a leader may not exist yet.")]
pub(crate) struct Node {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Print events as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// End when the parent process ends
    #[arg(long, hide = true)]
    pub(crate) die_with_parent: bool,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  palisade status --at 127.0.0.1:7001
  palisade status --watch
  palisade status --json | jq '.streams[] | {id, role, committed_lsn}'

With registered standbys every cluster is asked, and the tree of clusters is drawn: who takes from
whom, how far behind, what is wrong, and what came over each border.
--watch goes on while no node answers and says since when: with --json in a line
{\"unreachable\":{\"at\",\"since\",\"why\"}}.")]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) at: At,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print again every second until interrupted
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  palisade append --stream 2 --file redo.bin --record-bytes 4096
  tail -f app.log | palisade append --stream 2 --lines --json
  palisade append --stream 2 --file redo.bin --producer 7

With --producer, sequences count from --first-sequence. Running the same command again appends
nothing twice: a sequence that is in the log is answered with its original position.

Exit code 1 if a record is not acked, 69 if no node could be reached: then none was sent.")]
pub(crate) struct Append {
    #[command(flatten)]
    pub(crate) at: At,
    /// The stream
    #[arg(long, value_name = "N")]
    pub(crate) stream: u64,
    /// Read records from here instead of stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Cut the input into records of so many bytes (the last may be shorter)
    #[arg(long, value_name = "B", default_value_t = 4096, conflicts_with = "lines",
          value_parser = clap::value_parser!(u32).range(1..=RECORD_BYTES_MAX as i64))]
    pub(crate) record_bytes: u32,
    /// One record per line, without the line break
    #[arg(long)]
    pub(crate) lines: bool,
    /// Name the producer, so that repetitions are recognised
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) producer: Option<u64>,
    /// Sequence of the first record
    #[arg(long, value_name = "N", default_value_t = 1, requires = "producer",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) first_sequence: u64,
    /// How long a record may take, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 30_000,
          value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub(crate) timeout: u64,
    /// Records in flight
    #[arg(long, value_name = "N", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) in_flight: u32,
    #[command(flatten)]
    pub(crate) yes: Yes,
    /// A line of JSON per record
    #[arg(long)]
    pub(crate) json: bool,
}

/// How records are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Payloads end to end
    Raw,
    /// A line of JSON per record
    Jsonl,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  palisade read --stream 2 --output raw > redo.bin
  palisade read --stream 2 --from 4096 --follow --at 127.0.0.1:7002

--to is exclusive; without it and without --follow the read ends at the end committed when asked.")]
pub(crate) struct Read {
    #[command(flatten)]
    pub(crate) at: At,
    /// The stream
    #[arg(long, value_name = "N")]
    pub(crate) stream: u64,
    /// First position
    #[arg(long, value_name = "LSN", default_value_t = 0)]
    pub(crate) from: u64,
    /// First position that is left out
    #[arg(long, value_name = "LSN")]
    pub(crate) to: Option<u64>,
    /// Go on with what is committed later
    #[arg(long)]
    pub(crate) follow: bool,
    /// How records are printed
    #[arg(long, value_enum, default_value_t = Output::Jsonl)]
    pub(crate) output: Output,
    /// Silence of all nodes after which the read fails, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub(crate) timeout: u64,
    /// The same as --output jsonl
    #[arg(long, conflicts_with = "output")]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum StreamCommand {
    /// Create streams
    #[command(after_help = "Example:\n  palisade stream create --count 16")]
    Create {
        #[command(flatten)]
        at: At,
        /// How many
        #[arg(long, value_name = "N", default_value_t = 1,
              value_parser = clap::value_parser!(u32).range(1..=16_384))]
        count: u32,
        /// Look whether the streams could be created, create none
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        yes: Yes,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let go of the log of a stream below a position, at each node of --at
    #[command(after_help = "Example:
  palisade stream truncate --stream 2 --to 1048576 --at 127.0.0.1:7001,127.0.0.1:7002

Every node of --at is asked by itself: a truncation is each replica's own. From then on a read below
the position exits 1 there and names where the log begins; a power cut before the next ack may undo
that, and gives back more log, never less. The space is used again when the other members hold what
is committed too, and not before log.retain has passed. The first node that refuses ends it.")]
    Truncate {
        #[command(flatten)]
        at: At,
        /// The stream
        #[arg(long, value_name = "N")]
        stream: u64,
        /// First position that is still needed
        #[arg(long, value_name = "LSN")]
        to: u64,
        /// Say what would be let go, let go of nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        yes: Yes,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List streams
    #[command(after_help = "Example:\n  palisade stream list --json")]
    List {
        #[command(flatten)]
        at: At,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum LeaderCommand {
    /// Let another node lead a stream, without a loss
    #[command(after_help = "Example:
  palisade leader transfer --stream 2 --to 3

Ends when node 3 leads, or says why it does not: it is no member (not-member), not heard (not-up),
the leader already (leads-already), still catching up (behind), or was not elected in time
(timed-out). It keeps the stream until it ends or is asked again: timing.hand_over does not act.")]
    Transfer {
        #[command(flatten)]
        at: At,
        /// The stream
        #[arg(long, value_name = "N")]
        stream: u64,
        /// The node that should lead
        #[arg(long, value_name = "NODE", value_parser = clap::value_parser!(u32).range(1..))]
        to: u32,
        /// How long it may take, in milliseconds
        #[arg(long, value_name = "MS", default_value_t = 10_000,
              value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
        timeout: u64,
        #[command(flatten)]
        yes: Yes,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum InspectCommand {
    /// Print the blocks and records of segment files
    #[command(after_help = "Examples:
  palisade inspect segment /var/lib/palisade/n1/shard-0/0000000000000001.seg
  palisade inspect segment FILE --stream 2 --from 0 --to 65536 --json
  palisade inspect segment /var/lib/palisade/n1 --stream 2 --follow --decoder 'xxd | head -3'

--follow goes on with the blocks that are written later, and with new segments of a directory.
--decoder runs a command per record in a shell: the payload on its stdin, its stdout is printed,
PALISADE_STREAM and PALISADE_LSN say which record it is.")]
    Segment(InspectSegment),
    /// Check every block and record of segment files or data directories
    #[command(after_help = "Example:
  palisade inspect verify /var/lib/palisade/n1

Exit code 65 when a block that was promised durable is damaged, or a named file is no segment.")]
    Verify(InspectFiles),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct InspectSegment {
    #[command(flatten)]
    pub(crate) files: InspectFiles,
    /// Go on with blocks that are written later, until interrupted
    #[arg(long)]
    pub(crate) follow: bool,
    /// Print what this command makes of each record's payload
    #[arg(long, value_name = "CMD")]
    pub(crate) decoder: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct InspectFiles {
    /// Segment files or directories
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Only records of this stream
    #[arg(long, value_name = "N")]
    pub(crate) stream: Option<u64>,
    /// Only records that end after this position
    #[arg(long, value_name = "LSN", default_value_t = 0)]
    pub(crate) from: u64,
    /// Only records that start before this position
    #[arg(long, value_name = "LSN")]
    pub(crate) to: Option<u64>,
    /// Print JSON, a line per block
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Ways to make 4 KiB durable, idle and beside a busy thread
    #[command(after_help = "Example:\n  palisade bench fsync --seconds 5")]
    Fsync(BenchRun),
    /// Durable writes of the log alone, into files that are taken again
    #[command(after_help = "Example:
  palisade bench wal --record-bytes 4096 --in-flight 1024 --seconds 5

Written by the path that a node on this machine would choose (see `palisade bench fsync`), which
is said on stderr.")]
    Wal(BenchWal),
    /// Appends: one node in this process, or three processes
    #[command(after_help = "Examples:
  palisade bench append --nodes 1 --record-bytes 512 --in-flight 1 --seconds 5
  palisade bench append --nodes 3 --record-bytes 512 --in-flight 1024 --seconds 5 --json")]
    Append(BenchOptions),
    /// What a node sends to many readers, beside a bare loop of sendfile
    #[command(after_help = "Examples:
  palisade bench forward --readers 1 --followers 0 --seconds 5
  palisade bench forward --readers 192 --followers 64 --seconds 10 --json

Readers read what is there before, 256 MiB, again and again; followers wait at the end of the
stream, where a record is appended each millisecond: the latencies are theirs.")]
    Forward(BenchForward),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchForward {
    /// Readers that catch up
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=512))]
    pub(crate) readers: u32,
    /// Readers at the end of the stream
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(0..=512))]
    pub(crate) followers: u32,
    /// Bytes of a record
    #[arg(long, value_name = "B", default_value_t = 4096,
          value_parser = clap::value_parser!(u32).range(1..=RECORD_BYTES_MAX as i64))]
    pub(crate) record_bytes: u32,
    /// MiB of records that are there before anybody reads
    #[arg(long, value_name = "MIB", default_value_t = 256,
          value_parser = clap::value_parser!(u64).range(16..=2_048))]
    pub(crate) fill_mib: u64,
    /// Compare what a standby in another region is sent with LZ4 and without, of records that
    /// compress and of such that do not; nobody follows the end
    #[arg(long)]
    pub(crate) compression: bool,
    #[command(flatten)]
    pub(crate) run: BenchRun,
}

impl BenchForward {
    /// As a load: one stream; what is in flight are the readers.
    pub(crate) fn load(&self) -> BenchLoad {
        BenchLoad {
            streams: 1,
            record_bytes: self.record_bytes,
            in_flight: self.readers + self.followers,
            run: self.run.clone(),
        }
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchOptions {
    /// Nodes: 1 in this process, 3 as processes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = nodes)]
    pub(crate) nodes: u32,
    /// One node: drive its shard from the measuring thread
    #[arg(long)]
    pub(crate) drive: bool,
    #[command(flatten)]
    pub(crate) load: BenchLoad,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchWal {
    /// Nodes: the log alone is that of one
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=1))]
    pub(crate) nodes: u32,
    #[command(flatten)]
    pub(crate) load: BenchLoad,
}

/// How long a benchmark takes, where, and how it is told.
#[derive(Clone, Debug, Args)]
pub(crate) struct BenchRun {
    /// How long to measure
    #[arg(long, value_name = "S", default_value_t = 5,
          value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) seconds: u64,
    /// Where files and data directories go
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    pub(crate) dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a closed loop keeps in flight.
#[derive(Clone, Debug, Args)]
pub(crate) struct BenchLoad {
    /// Streams
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub(crate) streams: u32,
    /// Bytes of a record
    #[arg(long, value_name = "B", default_value_t = 512,
          value_parser = clap::value_parser!(u32).range(1..=RECORD_BYTES_MAX as i64))]
    pub(crate) record_bytes: u32,
    /// Records in flight
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) in_flight: u32,
    #[command(flatten)]
    pub(crate) run: BenchRun,
}

fn nodes(text: &str) -> Result<u32, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("allowed 1 | 3".to_owned()),
    }
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Find every problem of a node.toml
    #[command(after_help = "Examples:
  palisade config check --config node.toml
  palisade config check --explain")]
    Check(ConfigCheck),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ConfigCheck {
    /// The file
    #[arg(long, value_name = "FILE", required_unless_present = "explain")]
    pub(crate) config: Option<PathBuf>,
    /// Print every key with purpose, default and bounds
    #[arg(long)]
    pub(crate) explain: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Reads the command line, does what it says, and gives the exit code.
pub fn run() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("palisade: {failure}");
            failure.exit.into()
        }
    }
}

fn dispatch(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Demo(options) => demo::run(&options),
        Command::Format(options) => node::format(&options),
        Command::Node(options) => node::run(&options),
        Command::Status(options) => status::run(&options),
        Command::Append(options) => append::run(&options),
        Command::Read(options) => read::run(&options),
        Command::Stream(command) => stream::run(&command),
        Command::Leader(command) => leader::run(&command),
        Command::Standby(command) => standby::run(&command),
        Command::Primary(command) => standby::set_primary(&command),
        Command::Mode(command) => mode::run(&command),
        Command::Switchover(command) => switchover::run(&command),
        Command::Failover(command) => failover::run(&command),
        Command::Inspect(command) => inspect::run(&command),
        Command::Bench(command) => bench::run(&command),
        Command::Config(command) => config_file::run(&command),
    }
}
