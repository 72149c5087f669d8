//! Ports for nodes that are started more than once.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range that the kernel gives to outgoing connections: one of those could take the
/// port of a node that is down, or even connect to itself there.
const RANGE: std::ops::Range<u16> = 12_000..20_000;

/// An address that no other test takes while this lives.
pub struct Port {
    pub addr: SocketAddr,
    _claim: UdpSocket,
}

/// Finds a port where nobody listens, and claims it.
pub fn port() -> Port {
    static STEP: AtomicU16 = AtomicU16::new(0);
    let count = u32::from(RANGE.end - RANGE.start);
    let start = std::process::id().wrapping_mul(37);
    for _ in 0..count {
        let step = u32::from(STEP.fetch_add(1, Ordering::Relaxed));
        let port = RANGE.start + (start.wrapping_add(step) % count) as u16;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let Ok(claim) = UdpSocket::bind(addr) else { continue };
        if TcpListener::bind(addr).is_ok() {
            return Port { addr, _claim: claim };
        }
    }
    panic!("no free loopback port in {RANGE:?}");
}
