//! The part of the command line about clusters and protection: with help and examples.

use clap::{Args, Subcommand, ValueEnum};
use palisade::Protection;
use palisade::control::limits::{TIME_MS_DEFAULT, TIME_MS_MAX, TIME_MS_MIN};
use palisade::status::Transfer;

use crate::cli::{At, Yes};

/// Where to find the primary.
#[derive(Clone, Debug, Args)]
pub(crate) struct Nodes {
    /// Nodes to ask
    #[arg(
        long,
        value_name = "HOST:PORT,..",
        value_delimiter = ',',
        env = "PALISADE_AT",
        default_value = "127.0.0.1:7001"
    )]
    pub(crate) at: Vec<String>,
}

/// How a change is made and shown.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Manner {
    /// Check every rule, change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) yes: Yes,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// How a standby is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TransferWord {
    /// At MAXIMUM PROTECTION and AVAILABILITY acks wait for it
    Sync,
    /// It follows
    Async,
}

impl From<TransferWord> for Transfer {
    fn from(word: TransferWord) -> Transfer {
        match word {
            TransferWord::Sync => Transfer::Sync,
            TransferWord::Async => Transfer::Async,
        }
    }
}

/// A protection mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeWord {
    /// No ack without the SYNC standby
    Protection,
    /// Acks wait for the SYNC standby while it answers
    Availability,
    /// Acks do not wait for a standby
    Performance,
}

impl From<ModeWord> for Protection {
    fn from(word: ModeWord) -> Protection {
        match word {
            ModeWord::Protection => Protection::Protection,
            ModeWord::Availability => Protection::Availability,
            ModeWord::Performance => Protection::Performance,
        }
    }
}

/// The id of a standby.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Which {
    /// The standby
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) cluster: u32,
}

/// What may be said of a standby beside its name, region and endpoints.
#[derive(Clone, Debug, Args)]
pub(crate) struct About {
    /// How it is served; a new standby needs a choice
    #[arg(long, value_enum)]
    pub(crate) transfer: Option<TransferWord>,
    /// How long an ack waits for it at MAXIMUM AVAILABILITY, in milliseconds [default: 5000]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32)
          .range(TIME_MS_MIN as i64..=TIME_MS_MAX as i64))]
    pub(crate) net_timeout: Option<u32>,
    /// How long it must be well before acks wait for it again, in milliseconds [default: 5000]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32)
          .range(TIME_MS_MIN as i64..=TIME_MS_MAX as i64))]
    pub(crate) health_check: Option<u32>,
    /// The standby whose nodes it asks for the log first; 0: it chooses by itself
    #[arg(long, value_name = "ID")]
    pub(crate) upstream: Option<u32>,
}

const _: () = assert!(TIME_MS_DEFAULT == 5000);

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum StandbyCommand {
    /// Register a standby
    #[command(after_help = "Examples:
  palisade standby add --cluster 2 --name hangzhou --region hz \\
      --endpoint 10.0.0.4:7001,10.0.0.5:7001 --transfer async
  palisade standby add --cluster 3 --name near --region sh --endpoint 10.0.0.9:7001 \\
      --transfer sync --net-timeout 2000 --dry-run

Asked of the primary; every standby learns it from the log. As long as no standby was ever
registered any cluster is served; from then on those that are registered.")]
    Add {
        #[command(flatten)]
        nodes: Nodes,
        #[command(flatten)]
        which: Which,
        /// Its name, for people
        #[arg(long, value_name = "S")]
        name: String,
        /// Where it stands
        #[arg(long, value_name = "R")]
        region: String,
        /// Where its nodes listen; a name is resolved now, and its addresses are registered
        #[arg(long, value_name = "HOST:PORT,..", value_delimiter = ',', required = true)]
        endpoint: Vec<String>,
        #[command(flatten)]
        about: About,
        #[command(flatten)]
        manner: Manner,
    },
    /// Change what is said of a standby
    #[command(after_help = "Examples:
  palisade standby set --cluster 2 --transfer sync
  palisade standby set --cluster 2 --endpoint 10.0.0.4:7001 --net-timeout 10000
  palisade standby set --cluster 4 --upstream 2")]
    Set {
        #[command(flatten)]
        nodes: Nodes,
        #[command(flatten)]
        which: Which,
        /// Its name, for people
        #[arg(long, value_name = "S")]
        name: Option<String>,
        /// Where it stands
        #[arg(long, value_name = "R")]
        region: Option<String>,
        /// Where its nodes listen; a name is resolved now, and its addresses are registered
        #[arg(long, value_name = "HOST:PORT,..", value_delimiter = ',')]
        endpoint: Option<Vec<String>>,
        #[command(flatten)]
        about: About,
        #[command(flatten)]
        manner: Manner,
    },
    /// Serve a standby no more
    #[command(after_help = "Example:\n  palisade standby remove --cluster 2

Its connections end. It keeps what it has, and may be registered again.")]
    Remove {
        #[command(flatten)]
        nodes: Nodes,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        manner: Manner,
    },
    /// List the standbys
    #[command(after_help = "Examples:
  palisade standby list
  palisade standby list --json | jq '.standbys[] | {cluster, transfer, suspended}'

Any node of any cluster answers; `current` is false when its cluster's leader was not reached.")]
    List {
        #[command(flatten)]
        nodes: Nodes,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Hold a standby back
    #[command(after_help = "Examples:
  palisade standby suspend --cluster 2
  palisade standby suspend --cluster 2 --until-scn 1760000000000000000

The standby imports what has this SCN or a lower one, or nothing more once it hears of it; its
catalogue goes on. What it has already stays.")]
    Suspend {
        #[command(flatten)]
        nodes: Nodes,
        #[command(flatten)]
        which: Which,
        /// The last SCN that it still imports; without it, it stops at once
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        until_scn: Option<u64>,
        #[command(flatten)]
        manner: Manner,
    },
    /// Let a standby go on
    #[command(after_help = "Example:\n  palisade standby resume --cluster 2")]
    Resume {
        #[command(flatten)]
        nodes: Nodes,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        manner: Manner,
    },
    /// Let a stream of a standby begin anew, where its upstream's log begins
    #[command(after_help = "Example:\n  palisade standby rebuild --stream 2 --at 127.0.0.1:7101

At the standby, for a stream in state source-has-a-gap: nobody has what comes next any more. What
the standby has of it stays until a majority of its nodes has the new begin, and is let go then.")]
    Rebuild {
        #[command(flatten)]
        nodes: Nodes,
        /// The stream
        #[arg(long, value_name = "N")]
        stream: u64,
        #[command(flatten)]
        yes: Yes,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum PrimaryCommand {
    /// Choose for the time after a switchover
    #[command(after_help = "Example:
  palisade primary set --transfer sync

Takes effect when this cluster becomes a standby. A switchover at MAXIMUM PROTECTION or
AVAILABILITY needs it to be sync.")]
    Set {
        #[command(flatten)]
        at: At,
        /// How it is served then
        #[arg(long, value_enum)]
        transfer: TransferWord,
        #[command(flatten)]
        manner: Manner,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ModeCommand {
    /// Show the mode that was asked for and the level that holds
    #[command(after_help = "Example:\n  palisade mode get --json")]
    Get {
        #[command(flatten)]
        at: At,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask for a mode
    #[command(after_help = "Examples:
  palisade mode set availability
  palisade mode set protection --dry-run

Protection and availability need exactly one SYNC standby. The mode is what was asked for; the
level is what holds, and each ack says it: `palisade mode get` shows both, and why they differ.")]
    Set {
        #[command(flatten)]
        at: At,
        /// The mode
        #[arg(value_enum)]
        mode: ModeWord,
        /// Leave protection although the SYNC standby may not know of it; recorded
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        manner: Manner,
    },
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  palisade failover --verify --at 10.0.1.1:7001
  palisade failover --at 10.0.1.1:7001,10.0.1.2:7001
  palisade failover --allow-loss --at 10.0.1.1:7001

Run it at a standby when the primary is lost: without asking that one, this cluster takes the role.
It is for a SYNC standby that acks waited for, and keeps all that it has. From MAXIMUM PROTECTION
nothing that was acked is lost; from MAXIMUM AVAILABILITY that cannot be known, and --allow-loss is
needed. Make sure that nobody reaches the old primary: it takes appends until it hears of this.")]
pub(crate) struct Failover {
    #[command(flatten)]
    pub(crate) at: At,
    /// Although the primary may have acked alone since it lost this standby
    #[arg(long)]
    pub(crate) allow_loss: bool,
    /// Only say whether it can be done, and what may be lost
    #[arg(long)]
    pub(crate) verify: bool,
    /// How long to wait for its end, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    pub(crate) timeout: u64,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Ask nothing (this command has no question)
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  palisade switchover --to 2 --verify
  palisade switchover --to 2

Run it at the primary. Appends pause for less than a second, and then go to the new primary; nothing
that was acknowledged is lost, and never do two clusters write. The old primary becomes a standby,
as `palisade primary set` said. When the target does not keep up, nothing happens.")]
pub(crate) struct Switchover {
    #[command(flatten)]
    pub(crate) at: At,
    /// The standby that becomes the primary
    #[arg(long, value_name = "CLUSTER")]
    pub(crate) to: u32,
    /// Only say whether it can be done
    #[arg(long)]
    pub(crate) verify: bool,
    /// How long to wait for its end, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    pub(crate) timeout: u64,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Ask nothing (this command has no question)
    #[arg(long)]
    pub(crate) yes: bool,
}
