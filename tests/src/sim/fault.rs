//! Which faults strike, and how often: a plan, drawn from a seed or set by a test.

use std::collections::BTreeMap;

use super::random::Random;

macro_rules! fault_kinds {
    ($($(#[$doc:meta])* $name:ident = $swarm:expr,)*) => {
        /// Every way in which the world can misbehave.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FaultKind {
            $($(#[$doc])* $name,)*
        }

        impl FaultKind {
            /// All of them.
            pub const ALL: &'static [FaultKind] = &[$(FaultKind::$name,)*];

            /// Highest probability, in a million, that a swarm draws for this kind. 0: never by
            /// chance, only by a call (or only beyond what the system promises to survive).
            fn swarm_ppm(self) -> u32 {
                match self {
                    $(FaultKind::$name => $swarm,)*
                }
            }
        }
    };
}

fault_kinds! {
    /// A write ends early, at a multiple of the alignment.
    ShortWrite = 20_000,
    /// A read ends early, at a multiple of the alignment.
    ShortRead = 20_000,
    /// `EINTR` or `EAGAIN`, without effect.
    Transient = 10_000,
    /// `EIO` on a write without barrier; any of its sectors may have changed.
    WriteError = 0,
    /// `EIO` on a sync or a write with barrier; what it covered may never become durable.
    BarrierError = 0,
    /// A read fails as reads of a bad medium do: one of [`Errno::MEDIA`](palisade_netio::Errno).
    ReadError = 0,
    /// The disk is full although it has space.
    NoSpace = 0,
    /// One disk operation takes 10 to 200 times as long.
    DiskSpike = 10_000,
    /// A whole disk stands still for 50 ms to 2 s.
    DiskStall = 200,
    /// A write in flight at a power cut persists in part.
    TornWrite = 1_000_000,
    /// Completed writes without barrier are lost by a power cut.
    LostSectors = 1_000_000,
    /// Changes of names are lost by a power cut.
    LostNames = 1_000_000,
    /// A durable bit changes.
    BitFlip = 0,
    /// A write is reported done and never reaches the medium.
    LostWrite = 0,
    /// A write lands one to eight pages beside its place.
    MisdirectedWrite = 0,
    /// A read returns the bytes of another place.
    MisdirectedRead = 0,
    /// A barrier is reported done and did nothing.
    LyingBarrier = 0,
    /// A send takes fewer bytes than it was given.
    SendCut = 100_000,
    /// A receive returns fewer bytes than are there.
    ReceiveCut = 150_000,
    /// Sent bytes arrive in several pieces at different times.
    Segmented = 200_000,
    /// Sent bytes are delayed by 1 to 500 ms.
    LinkSpike = 5_000,
    /// A connection is reset.
    Reset = 500,
    /// A bit of the bytes on the wire changes and no checksum below notices.
    WireFlip = 0,
    /// A whole frame between shards does not arrive.
    FrameLost = 0,
    /// A whole frame between shards comes a second time, after others.
    FrameAgain = 0,
    /// A whole frame between shards comes after later ones.
    FrameLate = 0,
    /// A connection attempt is refused although somebody listens.
    ConnectRefused = 20_000,
    /// A connection attempt times out.
    ConnectTimeout = 10_000,
    /// A multishot accept ends by itself.
    AcceptEnd = 100_000,
    /// The last completion of a zero-copy send comes up to 2 s late.
    LateNotify = 50_000,
    /// The kernel copied a zero-copy send after all.
    ZeroCopyCopied = 300_000,
    /// A connection breaks during or after a partition.
    PartitionBreak = 250_000,
    /// A reset is lost in a partition: the other side stays half open until it sends.
    HalfOpen = 300_000,
    /// Bytes of one host do not reach another.
    Partition = 0,
    /// A process is killed.
    Kill = 0,
    /// A process stands still.
    Pause = 0,
    /// A host loses power.
    PowerCut = 0,
    /// A wall clock jumps.
    ClockJump = 0,
}

const KINDS: usize = FaultKind::ALL.len();
const CERTAIN: u32 = 1_000_000;

/// How likely each kind of fault is, in a million, at each occasion for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultPlan {
    ppm: [u32; KINDS],
}

impl FaultPlan {
    /// A world that behaves well. A power cut still loses what was not synced.
    pub fn none() -> FaultPlan {
        let mut plan = FaultPlan { ppm: [0; KINDS] };
        for kind in [FaultKind::TornWrite, FaultKind::LostSectors, FaultKind::LostNames] {
            plan.ppm[kind as usize] = CERTAIN;
        }
        plan
    }

    /// Draws which kinds are on, and how strongly. Kinds from which no single copy recovers
    /// (errors, bit rot, lying disks) stay off; add them with [`with`](FaultPlan::with).
    pub fn swarm(random: &mut Random) -> FaultPlan {
        let mut plan = FaultPlan::none();
        for &kind in FaultKind::ALL {
            let most = kind.swarm_ppm();
            if most > 0 && most < CERTAIN && random.coin() {
                plan.ppm[kind as usize] = random.between(1, u64::from(most)) as u32;
            }
        }
        plan
    }

    /// This plan with `kind` at `ppm` in a million.
    #[must_use]
    pub fn with(mut self, kind: FaultKind, ppm: u32) -> FaultPlan {
        self.ppm[kind as usize] = ppm.min(CERTAIN);
        self
    }

    /// The probability of `kind`, in a million.
    pub fn ppm(&self, kind: FaultKind) -> u32 {
        self.ppm[kind as usize]
    }
}

/// The plan in force and what it has done.
pub(crate) struct Faults {
    pub(crate) plan: FaultPlan,
    counts: [u64; KINDS],
    /// Whether what is sent is frames, so that whole ones can be lost, doubled or late.
    pub(crate) follows_frames: bool,
}

impl Faults {
    pub(crate) fn new() -> Faults {
        Faults { plan: FaultPlan::none(), counts: [0; KINDS], follows_frames: false }
    }

    /// Whether `kind` strikes now.
    pub(crate) fn strikes(&mut self, random: &mut Random, kind: FaultKind) -> bool {
        let strikes = random.chance(self.plan.ppm(kind));
        self.counts[kind as usize] += u64::from(strikes);
        strikes
    }

    pub(crate) fn count(&mut self, kind: FaultKind) {
        self.counts[kind as usize] += 1;
    }

    pub(crate) fn counts(&self) -> BTreeMap<FaultKind, u64> {
        FaultKind::ALL.iter().map(|&kind| (kind, self.counts[kind as usize])).collect()
    }
}
