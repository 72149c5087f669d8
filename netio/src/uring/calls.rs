//! Rare operations, done at once: each is a call that does not wait for a device or a peer.

use std::ffi::CString;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, RenameFlags, StatxFlags};
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};

use crate::limits::{LIST_NAMES_MAX, LISTEN_BACKLOG};
use crate::op::{Errno, FileFacts, Handle, OpenHow};

pub(super) type Done<T> = Result<T, Errno>;

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Errno {
        Errno(errno.raw_os_error())
    }
}

/// Takes a socket out of the ring's world, for a thread with blocking calls. No operation may be
/// in flight on it.
pub fn adopt_tcp(handle: Handle) -> TcpStream {
    // SAFETY: by contract the handle is an open socket that its owner gives away here.
    unsafe { TcpStream::from_raw_fd(handle.raw()) }
}

/// Gives a socket into the ring's world. Who has the handle has to close it.
pub fn release_tcp(stream: TcpStream) -> Handle {
    Handle::from_raw(stream.into_raw_fd())
}

/// Bytes that were written to a socket and that its peer has not acknowledged yet.
///
/// # Errors
/// When it is no socket.
pub fn unacknowledged_bytes(socket: impl AsFd) -> std::io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: the request writes one `int`, which lives until the call returns.
    let done = unsafe { libc::ioctl(descriptor, libc::TIOCOUTQ, &raw mut bytes) };
    match done {
        0 => Ok(u64::try_from(bytes).unwrap_or(0)),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// A handle for the length of a call.
pub(super) fn borrow<'a>(handle: Handle) -> BorrowedFd<'a> {
    assert!(handle.raw() >= 0, "a handle of nothing");
    // SAFETY: not -1; the owner of the handle keeps it open while it submits operations on it.
    unsafe { BorrowedFd::borrow_raw(handle.raw()) }
}

pub(super) fn close(handle: Handle) {
    // SAFETY: called with descriptors that nobody else was told of, or was given away to close.
    drop(unsafe { OwnedFd::from_raw_fd(handle.raw()) });
}

pub(super) fn c_path(path: &Path) -> Done<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)
}

pub(super) fn open_flags(how: OpenHow) -> i32 {
    let access = match how {
        OpenHow::Read => libc::O_RDONLY | libc::O_DIRECT,
        OpenHow::ReadWrite => libc::O_RDWR | libc::O_DIRECT,
        OpenHow::CreateNew => libc::O_RDWR | libc::O_DIRECT | libc::O_CREAT | libc::O_EXCL,
        OpenHow::Directory => libc::O_RDONLY | libc::O_DIRECTORY,
    };
    access | libc::O_CLOEXEC
}

pub(super) fn facts(handle: Handle) -> Done<FileFacts> {
    let fd = borrow(handle);
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::DIOALIGN;
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, wanted)?;
    let space = rustix::fs::fstatvfs(fd)?;
    Ok(FileFacts {
        size: stat.stx_size,
        offset_align: stat.stx_dio_offset_align,
        memory_align: stat.stx_dio_mem_align,
        block: stat.stx_blksize.min(space.f_bsize as u32),
        sector: sector(stat.stx_dev_major, stat.stx_dev_minor),
        free: space.f_bavail.saturating_mul(space.f_frsize),
    })
}

/// Physical sector of a device; of a partition, that of its disk.
fn sector(major: u32, minor: u32) -> u32 {
    let places = ["queue", "../queue"];
    let read = |place: &str| {
        let path = format!("/sys/dev/block/{major}:{minor}/{place}/physical_block_size");
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    places.into_iter().find_map(read).unwrap_or(0)
}

pub(super) fn rename(from: &Path, to: &Path) -> Done<()> {
    Ok(rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

pub(super) fn unlink(path: &Path) -> Done<()> {
    Ok(rustix::fs::unlink(path)?)
}

pub(super) fn make_dir(path: &Path) -> Done<()> {
    Ok(rustix::fs::mkdir(path, Mode::from_raw_mode(0o750))?)
}

pub(super) fn list(path: &Path) -> Done<Vec<String>> {
    let errno = |error: std::io::Error| Errno(error.raw_os_error().unwrap_or(libc::EIO));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(errno)? {
        if names.len() >= LIST_NAMES_MAX {
            return Err(Errno(libc::E2BIG));
        }
        names.push(entry.map_err(errno)?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

pub(super) fn listen(addr: SocketAddr) -> Done<(Handle, SocketAddr)> {
    let socket = socket(addr)?;
    net::sockopt::set_socket_reuseaddr(&socket, true)?;
    net::bind(&socket, &addr)?;
    net::listen(&socket, LISTEN_BACKLOG)?;
    let bound = SocketAddr::try_from(net::getsockname(&socket)?)?;
    Ok((Handle::from_raw(socket.into_raw_fd()), bound))
}

/// A socket that can be connected to `addr`.
pub(super) fn connectable(addr: SocketAddr, user_timeout_ms: u32) -> Done<Handle> {
    let socket = socket(addr)?;
    let handle = Handle::from_raw(socket.as_raw_fd());
    tune(handle, user_timeout_ms)?;
    Ok(Handle::from_raw(socket.into_raw_fd()))
}

/// Sends at once, and gives up on a peer that does not acknowledge. An idle connection is probed:
/// a peer that lost its power says nothing, and one that waits for it would wait for ever.
pub(super) fn tune(handle: Handle, user_timeout_ms: u32) -> Done<()> {
    let fd = borrow(handle);
    net::sockopt::set_tcp_nodelay(fd, true)?;
    net::sockopt::set_tcp_user_timeout(fd, user_timeout_ms)?;
    // Whole seconds, and no more than the kernel takes.
    let idle = Duration::from_secs(u64::from(user_timeout_ms).div_ceil(1000).clamp(1, 32_767));
    net::sockopt::set_tcp_keepidle(fd, idle)?;
    net::sockopt::set_tcp_keepintvl(fd, Duration::from_secs(1))?;
    net::sockopt::set_socket_keepalive(fd, true)?;
    Ok(())
}

/// The far end of a socket; the unspecified address when it is gone already.
pub(super) fn peer(handle: Handle) -> SocketAddr {
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    match net::getpeername(borrow(handle)) {
        Ok(Some(addr)) => SocketAddr::try_from(addr).unwrap_or(unknown),
        _ => unknown,
    }
}

pub(super) fn shutdown(handle: Handle) -> Done<()> {
    match net::shutdown(borrow(handle), net::Shutdown::Both) {
        // The peer was faster.
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The address as the kernel reads it, and its length.
pub(super) fn write_address(addr: SocketAddr, out: &mut libc::sockaddr_storage) -> u32 {
    let out: *mut libc::sockaddr_storage = out;
    match addr {
        SocketAddr::V4(v4) => {
            let address = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: the storage is larger than, and aligned for, every socket address.
            unsafe { out.cast::<libc::sockaddr_in>().write(address) };
            size_of::<libc::sockaddr_in>() as u32
        }
        SocketAddr::V6(v6) => {
            let address = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as u16,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { out.cast::<libc::sockaddr_in6>().write(address) };
            size_of::<libc::sockaddr_in6>() as u32
        }
    }
}

fn socket(addr: SocketAddr) -> Done<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = SocketType::STREAM;
    Ok(net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?)
}
