//! Every format that is kept on a disk or goes over a wire: valid bytes made by the code from
//! fixed inputs, and how to read them and write them again.
//!
//! The golden files say that these bytes stay what they are; the fuzz targets begin with them.

mod base;
mod client;
mod disk;
mod forward;
mod messages;
mod network;
mod registry;
mod sync;
pub mod text;

pub use disk::{OWNER, mend_body, mend_segment};

/// A format.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Its name; of its golden file too.
    pub name: &'static str,
    /// What it is, with the names of the samples.
    pub samples: fn() -> Vec<Sample>,
    /// Reads bytes and writes what was read. None if they are refused.
    pub again: fn(&[u8]) -> Option<Vec<u8>>,
    /// Sets the checksums of bytes that were changed, so that what lies behind them is read.
    pub mend: fn(&mut [u8]),
    /// What is read is written as the same bytes. If not, only from the second time on: the
    /// reader is lenient where it says so.
    pub is_exact: bool,
}

/// Valid bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What they say.
    pub name: &'static str,
    /// They.
    pub bytes: Vec<u8>,
}

impl Sample {
    fn new(name: &'static str, bytes: Vec<u8>) -> Sample {
        Sample { name, bytes }
    }
}

/// No checksum.
fn leave(_: &mut [u8]) {}

/// All of them.
pub fn all() -> Vec<Format> {
    [
        network::ALL,
        disk::ALL,
        messages::ALL,
        client::ALL,
        forward::ALL,
        registry::ALL,
        sync::ALL,
        base::ALL,
    ]
    .concat()
}

/// The one of this name.
///
/// # Panics
/// When there is none.
pub fn named(name: &str) -> Format {
    let found = all().into_iter().find(|format| format.name == name);
    found.unwrap_or_else(|| panic!("no format {name}"))
}
