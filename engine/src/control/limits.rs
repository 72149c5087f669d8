//! Every bound of the registry, named.

/// Standby clusters of one primary.
pub const CLUSTERS_MAX: usize = 64;
/// Bytes of a cluster's name.
pub const NAME_BYTES_MAX: usize = 64;
/// Addresses of one cluster.
pub const ENDPOINTS_MAX: usize = 16;
/// Bytes of one address, `HOST:PORT`.
pub const ENDPOINT_BYTES_MAX: usize = 128;
/// Shortest net_timeout and health_check_time, in milliseconds.
pub const TIME_MS_MIN: u32 = 500;
/// Longest of both, in milliseconds: 20 minutes.
pub const TIME_MS_MAX: u32 = 20 * 60 * 1000;
/// Both, unless somebody says otherwise, in milliseconds.
pub const TIME_MS_DEFAULT: u32 = 5000;
/// Bytes of a change in the log.
pub const CHANGE_BYTES_MAX: usize = 4096;

const _: () =
    assert!(64 + 2 * NAME_BYTES_MAX + ENDPOINTS_MAX * (2 + ENDPOINT_BYTES_MAX) <= CHANGE_BYTES_MAX);
const _: () = assert!(TIME_MS_MIN < TIME_MS_DEFAULT && TIME_MS_DEFAULT < TIME_MS_MAX);

/// How long a shard may write under a SYNC mark on one word of the catalogue's leader. A fall
/// waits so long for a shard that is silent.
pub const LEVEL_LEASE_NS: u64 = 1_000_000_000;
/// How often a shard asks for that, and tells how its streams are.
pub const LEVEL_RENEW_NS: u64 = LEVEL_LEASE_NS / 5;
/// What is waited for a lease of another node: clocks differ by less than this part of it.
pub const LEVEL_WAIT_NS: u64 = LEVEL_LEASE_NS + LEVEL_LEASE_NS / 64;
/// After this long a step of mode or level that was not seen to be committed is tried again.
pub const LEVEL_AGAIN_NS: u64 = 1_000_000_000;
/// Bytes that the SYNC standby may lack of a stream when the level begins to rise.
pub const RISE_BEHIND_MAX: u64 = 8 << 20;
/// Bytes that the target of a switchover may lack of a stream when the primary's streams end: they
/// are what nobody can write meanwhile. As much may be on the way to who keeps up.
pub const SWITCH_BEHIND_MAX: u64 = 4 << 20;
/// A target that does not keep up for so long is no target any more: nothing happened.
pub const PREPARE_NS: u64 = 10_000_000_000;
/// A target that does not have all after so long leaves the role with the primary.
pub const END_NS: u64 = 5_000_000_000;
/// Streams of one question about the level.
pub const LEVEL_DONE_MAX: usize = 1024;

const _: () = assert!(LEVEL_RENEW_NS * 4 < LEVEL_LEASE_NS && LEVEL_LEASE_NS < LEVEL_WAIT_NS);
const _: () = assert!(LEVEL_RENEW_NS < TIME_MS_MIN as u64 * 1_000_000);
// A lease that began as the SYNC standby was lost is over half a second after any net_timeout.
const _: () = assert!(LEVEL_LEASE_NS <= (TIME_MS_MIN as u64 + 500) * 1_000_000);
// With the default timing another leader of the catalogue is there before a lease ends.
const _: () = assert!(LEVEL_LEASE_NS > 4 * crate::paxos::ELECTION_NS);
