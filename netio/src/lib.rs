//! Bytes in and out of the kernel.
#![doc = "netio knows nothing of logs, ballots or streams."]

mod frame;
mod hello;
pub mod limits;
mod link;
mod listen;
mod op;
mod pool;
mod probe;
mod ring;
mod token;
mod uring;

pub use frame::{
    BODY_UNCHECKED, FRAME_MAGIC, FRAME_VERSION, FrameError, FrameHead, FrameLimits, KIND_USER_MIN,
};
pub use hello::{
    ANY_NODE, ANY_SHARD, Class, Expect, Hello, Identity, KIND_HELLO, KIND_REFUSED, KIND_WELCOME,
    PROTOCOL_VERSION, Refusal, RefusalCode, Target, Welcome,
};
pub use link::{
    DownReason, Frame, Framing, Full, Link, LinkEvent, Outgoing, ZeroCopy, ZeroCopyMode,
};
pub use listen::{Greeted, ListenEvent, ListenLimits, Listener};
pub use op::{Completion, Errno, FileFacts, Handle, Op, OpenHow, Payload, Run, Token};
pub use pool::{
    HEAD_BYTES, PAGE_BYTES, Pool, Purpose, Quotas, REGISTERED_STEP, SLOT_BYTES_MAX, SlotId,
    SlotView,
};
pub use probe::{Facts, KERNEL_MIN, ProbeError, probe};
pub use ring::{Nanos, Ring, Wait, Wake};
pub use token::TokenBase;
pub use uring::{Uring, UringConfig, adopt_tcp, release_tcp};
