//! The receiving side on a standby's shard.

use palisade_netio::{Frame, Identity, Nanos, Ring};
use palisade_wal::Lsn;

use crate::shard::Shard;
use crate::status::UpstreamStatus;

#[derive(Default)]
pub(crate) struct Imports {}

impl<R: Ring> Shard<R> {
    pub(crate) fn start_import(&mut self, _stream: u64) {}
    pub(crate) fn stop_import(&mut self, _stream: u64) {}
    pub(crate) fn on_import_committed(&mut self, _stream: u64, _upto: Lsn) {}
    pub(crate) fn on_upstream_link(&mut self, _conn: u32, _peer: Option<Identity>) {}
    pub(crate) fn on_upstream_frame(&mut self, _conn: u32, _frame: &Frame) {}
    pub(crate) fn run_imports(&mut self) {}
    pub(crate) fn next_import(&self) -> Option<Nanos> {
        None
    }
    pub(crate) fn import_state(&self, _stream: u64) -> Option<(String, String, String)> {
        None
    }
    pub(crate) fn import_upstream(&self, _stream: u64) -> Option<UpstreamStatus> {
        None
    }
}
