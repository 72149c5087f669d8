//! Operations on files and names.

use std::path::Path;

use palisade_netio::{Errno, FileFacts, Op, OpenHow, Payload, Run};

use super::fault::FaultKind;
use super::file::{Data, PAGE, Survival};
use super::operation::{BADF, runs_read};
use super::state::{HostId, ObjectKind, State};
use super::tree::Inode;

/// However slow a disk is, one operation takes no longer: a node gives up on a disk that answers
/// much later, and is right to.
const DELAY_NS_MAX: u64 = 4_000_000_000;
const NOTDIR: Errno = Errno(20);
const ISDIR: Errno = Errno(21);

/// What a file operation came to; `fill` are the bytes for the slot of a read.
pub(crate) struct Outcome {
    pub(crate) result: Result<u32, Errno>,
    pub(crate) payload: Payload,
    pub(crate) fill: Option<Vec<u8>>,
}

impl From<Result<u32, Errno>> for Outcome {
    fn from(result: Result<u32, Errno>) -> Outcome {
        Outcome { result, payload: Payload::None, fill: None }
    }
}

impl From<Payload> for Outcome {
    fn from(payload: Payload) -> Outcome {
        Outcome { result: Ok(0), payload, fill: None }
    }
}

impl State {
    pub(crate) fn start_file(&mut self, id: u64, op: &Op) {
        let host = self.host_of(id);
        let latency = match op {
            Op::Write { barrier: true, .. } | Op::Sync { .. } => self.latencies.barrier,
            Op::Write { .. } | Op::Read { .. } => self.latencies.transfer,
            _ => self.latencies.names,
        };
        let mut delay = self.draw(latency) * self.host(host).disk.slowness;
        if self.disk_strikes(host, FaultKind::DiskSpike) {
            delay *= self.random.between(10, 200);
        }
        let delay = delay.min(DELAY_NS_MAX);
        if self.disk_strikes(host, FaultKind::DiskStall) {
            let until = self.now.after(self.random.between(50_000_000, 2_000_000_000));
            let disk = &mut self.host_mut(host).disk;
            disk.stalled_until = disk.stalled_until.max(until);
        }
        if let Op::Sync { .. } = op {
            let mark = match self.target(id) {
                Some(ObjectKind::File { inode, .. }) => self.host(host).disk.files[&inode].mark(),
                _ => self.host(host).disk.tree.mark(),
            };
            self.operations.get_mut(&id).expect("just submitted").mark = mark;
        }
        self.mark_work(id, delay);
    }

    /// Carries the operation out.
    pub(crate) fn finish_file(&mut self, id: u64) -> Outcome {
        let op = self.operations[&id].op.clone();
        let host = self.host_of(id);
        match &*op {
            Op::Open { path, how } => self.open(id, host, path, *how),
            Op::Facts { .. } => self.facts(id, host),
            Op::Write { offset, barrier, .. } => self.write(id, host, *offset, *barrier).into(),
            Op::Read { offset, run, .. } => self.read(id, host, *offset, *run),
            Op::Sync { metadata, .. } => self.sync(id, host, *metadata).into(),
            Op::Allocate { len, .. } => self.allocate(id, host, *len).into(),
            Op::Rename { from, to } => {
                self.host_mut(host).disk.tree.rename(from, to).map(|()| 0).into()
            }
            Op::Unlink { path } => {
                let result = self.host_mut(host).disk.tree.unlink(path);
                result.map(|()| 0).into()
            }
            Op::MakeDir { path } => {
                self.host_mut(host).disk.tree.create(path, true).map(|_| 0).into()
            }
            Op::List { path } => match self.host(host).disk.tree.list(path) {
                Ok(names) => Payload::Names(names).into(),
                Err(errno) => Err(errno).into(),
            },
            _ => unreachable!("not an operation on files"),
        }
    }

    fn target(&self, id: u64) -> Option<ObjectKind> {
        let object = self.operations[&id].object?;
        Some(self.objects[&object].kind.clone())
    }

    fn open(&mut self, id: u64, host: HostId, path: &Path, how: OpenHow) -> Outcome {
        let process = self.process_of(id);
        let disk = &mut self.host_mut(host).disk;
        let inode = match how {
            OpenHow::CreateNew => disk.tree.create(path, false),
            _ => disk.tree.find(path).ok_or(Errno::NOENT),
        };
        let inode = match inode {
            Ok(inode) => inode,
            Err(errno) => return Err(errno).into(),
        };
        let kind = match (disk.tree.is_directory(inode), how) {
            (true, OpenHow::Directory) => ObjectKind::Directory { path: path.to_owned() },
            (true, _) => return Err(ISDIR).into(),
            (false, OpenHow::Directory) => return Err(NOTDIR).into(),
            (false, _) => {
                disk.files.entry(inode).or_default();
                ObjectKind::File { host, inode, writable: how != OpenHow::Read }
            }
        };
        Payload::Handle(self.open_handle(process, kind)).into()
    }

    fn facts(&mut self, id: u64, host: HostId) -> Outcome {
        let disk = &self.host(host).disk;
        let size = match self.target(id) {
            Some(ObjectKind::File { inode, .. }) => disk.files[&inode].size(),
            Some(ObjectKind::Directory { .. }) => 0,
            _ => return Err(Errno::INVAL).into(),
        };
        Payload::Facts(FileFacts {
            size,
            offset_align: self.alignment,
            memory_align: self.alignment,
            block: PAGE as u32,
            sector: PAGE as u32,
            free: disk.free(),
        })
        .into()
    }

    /// The file behind the operation, to write to or only to read.
    fn file(&self, id: u64, to_write: bool) -> Result<Inode, Errno> {
        match self.target(id) {
            Some(ObjectKind::File { inode, writable, .. }) if writable || !to_write => Ok(inode),
            Some(ObjectKind::Directory { .. }) => Err(ISDIR),
            Some(ObjectKind::File { .. }) => Err(BADF),
            _ => Err(Errno::INVAL),
        }
    }

    pub(crate) fn is_aligned(&self, offset: u64, runs: &[Run]) -> bool {
        let align = u64::from(self.alignment);
        let run_is = |run: &Run| {
            u64::from(run.at).is_multiple_of(align) && u64::from(run.len).is_multiple_of(align)
        };
        offset.is_multiple_of(align) && runs.iter().all(run_is)
    }

    fn write(
        &mut self,
        id: u64,
        host: HostId,
        mut offset: u64,
        barrier: bool,
    ) -> Result<u32, Errno> {
        let inode = self.file(id, true)?;
        let op = self.operations[&id].op.clone();
        if !self.is_aligned(offset, runs_read(&op)) {
            return Err(Errno::INVAL);
        }
        let bytes = std::mem::take(&mut self.operations.get_mut(&id).expect("known").snapshot);
        let mut data = Data::new(bytes.clone());
        self.operations.get_mut(&id).expect("known").snapshot = bytes;
        if data.len() == 0 {
            return Ok(0);
        }
        data = self.fit(host, inode, offset, data)?;
        let failure = if barrier { FaultKind::BarrierError } else { FaultKind::WriteError };
        if self.disk_strikes(host, failure) {
            let (file, random) = self.file_and_random(host, inode);
            file.tear(offset, &data, Survival::Some(500_000), random);
            return Err(Errno::IO);
        }
        let align = u64::from(self.alignment);
        if data.len() > align && self.disk_strikes(host, FaultKind::ShortWrite) {
            data = data.part(0, align * self.random.between(1, data.len() / align - 1));
        }
        let done = data.len() as u32;
        if self.disk_strikes(host, FaultKind::LostWrite) {
            let end = offset + data.len();
            self.file_and_random(host, inode).0.extend(end);
            return Ok(done);
        }
        if self.disk_strikes(host, FaultKind::MisdirectedWrite) {
            offset = self.beside(offset);
        }
        let lies = barrier && self.disk_strikes(host, FaultKind::LyingBarrier);
        let (file, _) = self.file_and_random(host, inode);
        if barrier && !lies {
            file.write_durable(offset, &data);
        } else {
            file.write_volatile(offset, data);
        }
        Ok(done)
    }

    /// The part of a write for which there is space.
    fn fit(&mut self, host: HostId, inode: Inode, offset: u64, data: Data) -> Result<Data, Errno> {
        if self.disk_strikes(host, FaultKind::NoSpace) {
            return Err(Errno::NOSPC);
        }
        let disk = &self.host(host).disk;
        let growth = disk.files[&inode].growth(offset, data.len());
        let free = if growth == 0 { 0 } else { disk.free() };
        if growth <= free {
            return Ok(data);
        }
        let missing = (growth - free).next_multiple_of(PAGE);
        if missing >= data.len() {
            return Err(Errno::NOSPC);
        }
        Ok(data.part(0, data.len() - missing))
    }

    /// A place one to eight pages beside `offset`.
    fn beside(&mut self, offset: u64) -> u64 {
        let by = self.random.between(1, 8) * PAGE;
        if self.random.coin() && offset >= by { offset - by } else { offset + by }
    }

    fn read(&mut self, id: u64, host: HostId, mut offset: u64, run: Run) -> Outcome {
        let inode = match self.file(id, false) {
            Ok(inode) => inode,
            Err(errno) => return Err(errno).into(),
        };
        if !self.is_aligned(offset, &[run]) {
            return Err(Errno::INVAL).into();
        }
        if self.disk_strikes(host, FaultKind::ReadError) {
            let kind = self.random.below(Errno::MEDIA.len() as u64);
            return Err(Errno::MEDIA[kind as usize]).into();
        }
        if self.disk_strikes(host, FaultKind::MisdirectedRead) {
            offset = self.beside(offset);
        }
        let align = u64::from(self.alignment);
        let mut len = u64::from(run.len);
        if len > align && self.disk_strikes(host, FaultKind::ShortRead) {
            len = align * self.random.between(1, len / align - 1);
        }
        let bytes = self.host(host).disk.files[&inode].read(offset, len);
        let result = Ok(bytes.len() as u32);
        Outcome { result, payload: Payload::None, fill: Some(bytes) }
    }

    fn sync(&mut self, id: u64, host: HostId, metadata: bool) -> Result<u32, Errno> {
        let mark = self.operations[&id].mark;
        let target = self.target(id);
        let fails = self.disk_strikes(host, FaultKind::BarrierError);
        let lies = self.disk_strikes(host, FaultKind::LyingBarrier);
        match target {
            Some(ObjectKind::File { inode, .. }) => {
                let (file, random) = self.file_and_random(host, inode);
                if fails {
                    file.fail_sync(mark, random);
                    return Err(Errno::IO);
                }
                if !lies {
                    file.sync(mark);
                }
            }
            Some(ObjectKind::Directory { path, .. }) => {
                if fails {
                    return Err(Errno::IO);
                }
                if metadata && !lies {
                    self.host_mut(host).disk.tree.sync(&path, mark);
                    self.forget_files(host);
                }
            }
            _ => return Err(Errno::INVAL),
        }
        Ok(0)
    }

    fn allocate(&mut self, id: u64, host: HostId, len: u64) -> Result<u32, Errno> {
        let inode = self.file(id, true)?;
        if self.disk_strikes(host, FaultKind::NoSpace) {
            return Err(Errno::NOSPC);
        }
        let disk = &mut self.host_mut(host).disk;
        let held = disk.files[&inode].allocated();
        if len.next_multiple_of(PAGE).saturating_sub(held) > disk.free() {
            return Err(Errno::NOSPC);
        }
        disk.files.get_mut(&inode).expect("the file is open").reserve(len);
        Ok(0)
    }

    pub(crate) fn file_and_random(
        &mut self,
        host: HostId,
        inode: Inode,
    ) -> (&mut super::file::FileBody, &mut super::random::Random) {
        let disk = &mut self.hosts[host.0 as usize].disk;
        (disk.files.get_mut(&inode).expect("the file is open"), &mut self.random)
    }
}
