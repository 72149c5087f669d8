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
