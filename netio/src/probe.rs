//! What this machine offers, and one sentence about what it lacks.

use io_uring::{IoUring, Probe, opcode};

/// Oldest kernel with everything that is needed.
pub const KERNEL_MIN: (u32, u32) = (6, 1);

/// What this machine offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The kernel's release, as `uname -r` says it.
    pub release: String,
    /// Major and minor number of the release.
    pub version: (u32, u32),
    /// Whether waiting can be kept out of the I/O wait statistics.
    pub no_iowait: bool,
    /// Whether a descriptor of the ring can be registered.
    pub registered_ring: bool,
}

/// What this machine lacks, and how to get it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The kernel is too old.
    #[error("Linux {release} is too old: run Linux 6.1 or newer")]
    KernelTooOld {
        /// The kernel's release.
        release: String,
    },
    /// The kernel was built without io_uring.
    #[error("this kernel has no io_uring: run one built with CONFIG_IO_URING=y")]
    Missing,
    /// io_uring is switched off by a sysctl.
    #[error("kernel.io_uring_disabled is {value}: set it with `sysctl kernel.io_uring_disabled=0`")]
    Disabled {
        /// Value of the sysctl.
        value: u32,
    },
    /// A security policy forbids io_uring.
    #[error(
        "io_uring is forbidden here: allow io_uring_setup, io_uring_enter and io_uring_register in \
         the seccomp profile of the container or in the security module"
    )]
    Forbidden,
    /// The kernel lacks a feature of io_uring.
    #[error("this kernel's io_uring lacks {what}: run Linux 6.1 or newer")]
    Lacks {
        /// The feature or operation.
        what: &'static str,
    },
    /// The ring cannot be made for want of memory or descriptors.
    #[error("no ring can be made ({errno}): raise the limit of locked memory or open files")]
    NoResources {
        /// The kernel's answer.
        errno: crate::Errno,
    },
}

impl ProbeError {
    pub(crate) fn from_setup(error: std::io::Error) -> ProbeError {
        match error.raw_os_error() {
            Some(libc::ENOSYS) => ProbeError::Missing,
            Some(libc::EPERM | libc::EACCES) => forbidden(),
            Some(libc::EINVAL) => ProbeError::Lacks { what: "SINGLE_ISSUER and DEFER_TASKRUN" },
            other => ProbeError::NoResources { errno: crate::Errno(other.unwrap_or(libc::EIO)) },
        }
    }
}

/// Looks at kernel, features and operations.
///
/// # Errors
/// The first thing that is missing.
pub fn probe() -> Result<Facts, ProbeError> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let version = parse_release(&release);
    if version < KERNEL_MIN {
        return Err(ProbeError::KernelTooOld { release });
    }
    let ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(2)
        .map_err(ProbeError::from_setup)?;
    let params = ring.params();
    let features = [
        (params.is_feature_nodrop(), "NODROP"),
        (params.is_feature_ext_arg(), "EXT_ARG"),
        (params.is_feature_submit_stable(), "SUBMIT_STABLE"),
        (params.is_feature_fast_poll(), "FAST_POLL"),
        (params.is_feature_skip_cqe_on_success(), "CQE_SKIP"),
    ];
    if let Some((_, what)) = features.into_iter().find(|(present, _)| !present) {
        return Err(ProbeError::Lacks { what });
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(ProbeError::from_setup)?;
    if let Some((_, what)) = OPERATIONS.iter().find(|(code, _)| !probe.is_supported(*code)) {
        return Err(ProbeError::Lacks { what });
    }
    let no_iowait = params.is_feature_no_iowait();
    Ok(Facts { release, version, no_iowait, registered_ring: version >= (5, 18) })
}

const OPERATIONS: &[(u8, &str)] = &[
    (opcode::OpenAt::CODE, "OPENAT"),
    (opcode::Close::CODE, "CLOSE"),
    (opcode::Read::CODE, "READ"),
    (opcode::ReadFixed::CODE, "READ_FIXED"),
    (opcode::Write::CODE, "WRITE"),
    (opcode::WriteFixed::CODE, "WRITE_FIXED"),
    (opcode::Writev::CODE, "WRITEV"),
    (opcode::Fsync::CODE, "FSYNC"),
    (opcode::Fallocate::CODE, "FALLOCATE"),
    (opcode::AcceptMulti::CODE, "ACCEPT"),
    (opcode::Connect::CODE, "CONNECT"),
    (opcode::Recv::CODE, "RECV"),
    (opcode::Send::CODE, "SEND"),
    (opcode::SendMsg::CODE, "SENDMSG"),
    (opcode::SendMsgZc::CODE, "SENDMSG_ZC"),
    (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
];

/// A refusal is either a sysctl, which can be read, or a policy.
fn forbidden() -> ProbeError {
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    match setting.ok().and_then(|text| text.trim().parse().ok()) {
        Some(value) if value > 0 => ProbeError::Disabled { value },
        _ => ProbeError::Forbidden,
    }
}

fn parse_release(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
    let mut next = || numbers.next().flatten().unwrap_or(0);
    (next(), next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        assert_eq!(parse_release("6.1.0-28-amd64"), (6, 1));
        assert_eq!(parse_release("5.15.167.4-microsoft-standard-WSL2"), (5, 15));
        assert_eq!(parse_release("unknown"), (0, 0));
    }

    #[test]
    fn refusals_name_the_cause() {
        let error = |errno| ProbeError::from_setup(std::io::Error::from_raw_os_error(errno));
        assert_eq!(error(libc::ENOSYS), ProbeError::Missing);
        assert!(matches!(error(libc::ENOMEM), ProbeError::NoResources { .. }));
        assert!(error(libc::EINVAL).to_string().contains("6.1 or newer"));
    }
}
