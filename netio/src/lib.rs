//! Bytes in and out of the kernel.
#![doc = "netio knows nothing of logs, ballots or streams."]

mod op;
mod pool;
mod ring;

pub use op::{Completion, Errno, FileFacts, Handle, Op, OpenHow, Payload, Run, Token};
pub use pool::{
    HEAD_BYTES, PAGE_BYTES, Pool, Purpose, Quotas, REGISTERED_STEP, SLOT_BYTES_MAX, SlotId,
    SlotView,
};
pub use ring::{Nanos, Ring, Wait, Wake};
