//! Bytes in and out of the kernel: one ring per shard, its slots, files, sockets and links.
//!
//! netio knows nothing of logs, ballots or streams. It has three layers, each usable without the
//! next:
//!
//! - the **seam**: [`Op`], [`Completion`], [`Ring`]. Everything that a shard asks of the kernel is
//!   an operation, so a virtual ring can stand in for the real one. [`Uring`] is the real one.
//! - **slots**: [`Pool`], the only memory that the kernel reads and writes.
//! - **connections**: [`FrameHead`], the handshake ([`Hello`], [`Welcome`], [`Refusal`]), [`Link`]
//!   and [`Listener`]: state machines without threads, driven by completions and time.
//!
//! # The rules of slots
//!
//! - A slot is counted. Who takes it owns it once; [`Pool::retain`] and [`Pool::release`] count.
//! - An operation in flight pins the slots it names, until its *last* completion. A zero-copy send
//!   has two: the second, perhaps much later, lets go.
//! - A slot that is being filled can be neither read nor changed; one that is being read cannot be
//!   changed, except for its [head](HEAD_BYTES) when only the body is in use.
//! - Slots are freed by the shard alone. Other threads hold a [`SlotView`] and give it back by
//!   dropping it.
//! - The slot of a [`Frame`] belongs to its link until the next [`Link::poll_event`]; who wants
//!   the bytes longer retains it, and the link then goes on in another slot.
//!
//! # The rules of handles
//!
//! - Who was told of a handle closes it, with [`Op::Close`] or, a socket, by [`adopt_tcp`].
//! - Files that a ring opened are registered with the kernel as far as there is room. They are
//!   closed by that ring alone, which lets go of the registration first: the kernel would keep the
//!   file open. Sockets are not registered, and may go to another ring or thread.
//!
//! # Example
//!
//! A block is written durably, and read back:
//!
//! ```
//! use palisade_netio::{Op, OpenHow, Payload, Pool, Purpose, Quotas, Ring, Run, Token};
//! use palisade_netio::{Uring, UringConfig, Wait};
//!
//! let quota = 1 << 20;
//! let quotas = Quotas { write: quota, receive: quota, tail: quota, read: quota };
//! let mut pool = Pool::new(quotas)?;
//! let mut ring = Uring::new(UringConfig::default(), &pool)?;
//! let mut run = |ring: &mut Uring, pool: &mut Pool, op| {
//!     ring.submit(pool, Token(1), op);
//!     let mut done = Vec::new();
//!     while done.is_empty() {
//!         ring.enter(pool, Wait::Until(None), &mut done);
//!     }
//!     done.remove(0)
//! };
//!
//! let path = std::path::PathBuf::from(format!("/var/tmp/netio-example-{}", std::process::id()));
//! let open = Op::Open { path: path.clone(), how: OpenHow::CreateNew };
//! let opened = run(&mut ring, &mut pool, open);
//! let Payload::Handle(handle) = opened.payload else { panic!("{opened:?}") };
//!
//! let block = pool.take(Purpose::Write, 4096).expect("the pool is empty");
//! pool.bytes_mut(block).fill(7);
//! let whole = Run { slot: block, at: 0, len: 4096 };
//! let write = Op::Write { handle, offset: 0, runs: vec![whole], barrier: true };
//! assert_eq!(run(&mut ring, &mut pool, write).result, Ok(4096));
//!
//! pool.bytes_mut(block).fill(0);
//! let read = Op::Read { handle, offset: 0, run: whole };
//! assert_eq!(run(&mut ring, &mut pool, read).result, Ok(4096));
//! assert!(pool.bytes(block).iter().all(|&byte| byte == 7));
//!
//! run(&mut ring, &mut pool, Op::Close { handle });
//! run(&mut ring, &mut pool, Op::Unlink { path });
//! pool.release(block);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod barrier;
mod cpu;
mod descriptors;
mod frame;
mod hello;
pub mod limits;
mod link;
mod listen;
mod map;
mod op;
mod pool;
mod probe;
mod ring;
pub mod seeded;
mod token;
mod uring;

pub use barrier::{
    BLOCK_BYTES, Case, IN_FLIGHT_MAX, Rig, Sample, SyncPath, Timing, Verdict, cases, decide,
    probe_sync,
};
pub use cpu::{allowed_cpus, pin_thread};
pub use descriptors::raise_open_files;
pub use frame::{
    BODY_UNCHECKED, FRAME_MAGIC, FRAME_VERSION, FrameError, FrameHead, FrameLimits, KIND_USER_MIN,
};
pub use hello::{
    ANY_CLUSTER, ANY_NODE, ANY_SHARD, Class, Expect, Hello, Identity, KIND_HELLO, KIND_REFUSAL,
    KIND_WELCOME, PROTOCOL_VERSION, Refusal, RefusalCode, Target, Welcome,
};
pub use link::{
    DownReason, Frame, Framing, Full, Link, LinkEvent, LinkTiming, Outgoing, ZeroCopy, ZeroCopyMode,
};
pub use listen::{Greeted, ListenEvent, ListenLimits, Listener};
pub use map::FileMap;
pub use op::{Completion, Errno, FileFacts, Handle, Op, OpenHow, Payload, Run, Token};
pub use pool::{
    HEAD_BYTES, PAGE_BYTES, Pool, Purpose, Quotas, REGISTERED_STEP, SLOT_BYTES_MAX, SlotId,
    SlotView,
};
pub use probe::{Facts, KERNEL_MIN, ProbeError, probe};
pub use ring::{Nanos, Ring, Wait, Wake};
pub use token::TokenBase;
pub use uring::{Uring, UringConfig, adopt_tcp, release_tcp, unacknowledged_bytes};
