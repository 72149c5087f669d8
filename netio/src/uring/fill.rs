//! From an operation to a submission entry.

use io_uring::squeue::Entry;
use io_uring::{opcode, types};

use super::UringConfig;
use super::calls;
use super::chain::Chain;
use super::files::{File, Files};
use super::flight::{Flight, Kind, Pin};
use crate::barrier::SyncPath;
use crate::op::{Errno, Handle, Op, OpenHow, Run};
use crate::pool::Pool;

/// `IORING_SEND_ZC_REPORT_USAGE`: the notification says whether the kernel copied.
const REPORT_USAGE: u16 = 8;

/// Builds an entry for a file, by its place in the table or by its descriptor.
macro_rules! on {
    ($file:expr, |$name:ident| $entry:expr) => {
        match $file {
            File::Place($name) => $entry,
            File::Descriptor($name) => $entry,
        }
    };
}

/// Builds the entry of an operation that goes through the ring. What the kernel reads is kept in
/// `flight`, and the runs are pinned.
pub(super) fn entry(
    flight: &mut Flight,
    pool: &mut Pool,
    registered: u16,
    files: &mut Files,
    config: &UringConfig,
    op: Op,
) -> Result<Entry, Errno> {
    let entry = match op {
        Op::Open { path, how } => {
            let is_directory = how == OpenHow::Directory;
            flight.kind = if is_directory { Kind::OpenDirectory } else { Kind::Open };
            flight.path = calls::c_path(&path)?;
            opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), flight.path.as_ptr())
                .flags(calls::open_flags(how))
                .mode(0o640)
                .build()
        }
        Op::Close { handle } => opcode::Close::new(fd(handle)).build(),
        Op::Write { handle, offset, runs, barrier } => {
            pin_read(flight, pool, runs);
            let linked = barrier && config.sync_path == SyncPath::LinkedSync;
            if linked {
                flight.kind = Kind::Chain;
                flight.chain = Chain::new(flight.runs.iter().map(|run| run.len).sum());
            }
            let file = name(flight, files, handle);
            write(flight, pool, registered, file, offset, barrier && !linked)
        }
        Op::Read { handle, offset, run } => {
            pool.pin_fill(run);
            flight.pin = Pin::Fill;
            flight.runs.push(run);
            read(pool, registered, name(flight, files, handle), offset, run)
        }
        Op::Sync { handle, metadata } => {
            if metadata {
                opcode::Fsync::new(fd(handle)).build()
            } else {
                data_sync(handle)
            }
        }
        Op::Allocate { handle, len } => opcode::Fallocate::new(fd(handle), len).build(),
        Op::Accept { listener } => {
            flight.kind = Kind::Accept;
            opcode::AcceptMulti::new(fd(listener)).flags(libc::SOCK_CLOEXEC).build()
        }
        Op::Connect { addr } => {
            let socket = calls::connectable(addr, config.user_timeout_ms)?;
            flight.kind = Kind::Connect(socket);
            let len = calls::write_address(addr, &mut flight.address);
            opcode::Connect::new(fd(socket), (&raw const flight.address).cast(), len).build()
        }
        Op::Send { socket, prefix, runs, zero_copy } => {
            flight.kind = Kind::Send;
            flight.prefix = prefix;
            pin_read(flight, pool, runs);
            send(flight, pool, socket, zero_copy)
        }
        Op::Receive { socket, run } => {
            pool.pin_fill(run);
            flight.pin = Pin::Fill;
            flight.runs.push(run);
            opcode::Recv::new(fd(socket), pool.address(run), run.len).build()
        }
        other => unreachable!("{other:?} does not go through the ring"),
    };
    Ok(entry)
}

/// The sync of a file's data.
pub(super) fn data_sync(handle: Handle) -> Entry {
    opcode::Fsync::new(fd(handle)).flags(types::FsyncFlags::DATASYNC).build()
}

/// Ends the pins of an operation.
pub(super) fn unpin(flight: &Flight, pool: &mut Pool) {
    for &run in &flight.runs {
        match flight.pin {
            Pin::Read => pool.unpin_read(run),
            Pin::Fill => pool.unpin_fill(run),
        }
    }
}

fn pin_read(flight: &mut Flight, pool: &mut Pool, runs: Vec<Run>) {
    runs.iter().for_each(|&run| pool.pin_read(run));
    (flight.pin, flight.runs) = (Pin::Read, runs);
}

/// How an entry names its file, where the kernel resolves it while it takes the entry.
fn name(flight: &mut Flight, files: &mut Files, handle: Handle) -> File {
    let file = files.name(handle);
    flight.place = match file {
        File::Place(place) => Some(place.0 as u16),
        File::Descriptor(_) => None,
    };
    file
}

fn write(
    flight: &mut Flight,
    pool: &Pool,
    registered: u16,
    file: File,
    offset: u64,
    barrier: bool,
) -> Entry {
    let flags = if barrier { libc::RWF_DSYNC } else { 0 };
    if let [run] = flight.runs[..] {
        let (at, len) = (pool.address(run).cast_const(), run.len);
        return match step(pool, registered, run) {
            Some(step) => on!(file, |file| opcode::WriteFixed::new(file, at, len, step)
                .offset(offset)
                .rw_flags(flags)
                .build()),
            None => on!(file, |file| opcode::Write::new(file, at, len)
                .offset(offset)
                .rw_flags(flags)
                .build()),
        };
    }
    gather(flight, pool);
    let (at, len) = (flight.iovecs.as_ptr(), flight.iovecs.len() as u32);
    on!(file, |file| opcode::Writev::new(file, at, len).offset(offset).rw_flags(flags).build())
}

fn read(pool: &Pool, registered: u16, file: File, offset: u64, run: Run) -> Entry {
    let (at, len) = (pool.address(run), run.len);
    match step(pool, registered, run) {
        Some(step) => {
            on!(file, |file| opcode::ReadFixed::new(file, at, len, step).offset(offset).build())
        }
        None => on!(file, |file| opcode::Read::new(file, at, len).offset(offset).build()),
    }
}

fn send(flight: &mut Flight, pool: &Pool, socket: Handle, zero_copy: bool) -> Entry {
    // The kernel goes on after a short send while it can: a count below the total then means an
    // error that the next send will name.
    let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
    if flight.runs.is_empty() {
        let (at, len) = (flight.prefix.as_ptr(), flight.prefix.len() as u32);
        return opcode::Send::new(fd(socket), at, len).flags(flags).build();
    }
    gather(flight, pool);
    flight.message.msg_iov = flight.iovecs.as_mut_ptr();
    flight.message.msg_iovlen = flight.iovecs.len() as _;
    let message = &raw const flight.message;
    let flags = flags as u32;
    if zero_copy {
        opcode::SendMsgZc::new(fd(socket), message).ioprio(REPORT_USAGE).flags(flags).build()
    } else {
        opcode::SendMsg::new(fd(socket), message).flags(flags).build()
    }
}

/// Lists prefix and runs for the kernel.
fn gather(flight: &mut Flight, pool: &Pool) {
    flight.iovecs.clear();
    if !flight.prefix.is_empty() {
        flight.iovecs.push(libc::iovec {
            iov_base: flight.prefix.as_mut_ptr().cast(),
            iov_len: flight.prefix.len(),
        });
    }
    for &run in &flight.runs {
        flight
            .iovecs
            .push(libc::iovec { iov_base: pool.address(run).cast(), iov_len: run.len as usize });
    }
}

fn step(pool: &Pool, registered: u16, run: Run) -> Option<u16> {
    pool.step(run).filter(|&step| step < registered)
}

fn fd(handle: Handle) -> types::Fd {
    types::Fd(handle.raw())
}
