//! A disk in memory that runs operations: what was written and not synced may be lost, sector by
//! sector, in a crash. Operations complete in any order.

use std::collections::BTreeMap;
use std::path::PathBuf;

use palisade_netio::{
    Completion, Errno, FileFacts, Handle, Op, OpenHow, Payload, Pool, Quotas, Run, Token,
};

pub const SECTOR: usize = 512;

/// A small generator (xorshift*), so that every run can be repeated.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Clone, Default, Debug)]
pub struct File {
    /// What a read sees.
    pub data: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<(u64, Vec<u8>)>,
}

impl File {
    /// What was written is durable.
    fn sync(&mut self) {
        for (offset, bytes) in std::mem::take(&mut self.pending) {
            put(&mut self.durable, offset, &bytes);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    None,
    Short(u32),
    Errno(Errno),
    /// Stays in flight for now.
    Hold,
}

/// What happened, for tests of order.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Submitted(Token, Op),
    Completed(Token),
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Open {
    File(u64),
    Directory,
}

type Hook = Box<dyn FnMut(&Op) -> Fault>;

pub struct Disk {
    pub files: BTreeMap<u64, File>,
    pub names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Names after each change that is not synced yet.
    name_steps: Vec<BTreeMap<PathBuf, u64>>,
    open: BTreeMap<i32, Open>,
    next: i32,
    in_flight: Vec<(Token, Op)>,
    pub fault: Hook,
    pub events: Vec<Event>,
    pub dice: Dice,
    pub shuffled: bool,
    pub facts: FileFacts,
    /// No file is made and none grows.
    pub full: bool,
}

pub fn pool() -> Pool {
    let each = 16 << 20;
    let mut pool =
        Pool::new(Quotas { write: each, receive: 4 << 20, tail: 4 << 20, read: each }).unwrap();
    pool.poison_freed();
    pool
}

impl Disk {
    pub fn new(seed: u64) -> Disk {
        Disk {
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_steps: Vec::new(),
            open: BTreeMap::new(),
            next: 3,
            in_flight: Vec::new(),
            fault: Box::new(|_| Fault::None),
            events: Vec::new(),
            dice: Dice::new(seed),
            shuffled: false,
            facts: FileFacts {
                offset_align: 512,
                memory_align: 512,
                block: 4096,
                sector: 4096,
                free: 1 << 40,
                size: 0,
            },
            full: false,
        }
    }

    pub fn submit(&mut self, pool: &mut Pool, token: Token, op: Op) {
        assert!(self.in_flight.iter().all(|(used, _)| *used != token), "token used twice");
        match &op {
            Op::Write { offset, runs, .. } => {
                assert!(offset.is_multiple_of(4096) && !runs.is_empty() && runs.len() <= 16);
                for run in runs {
                    assert!(run.len.is_multiple_of(4096) && run.at.is_multiple_of(4096));
                    pool.pin_read(*run);
                }
            }
            Op::Read { offset, run, .. } => {
                assert!(offset.is_multiple_of(4096) && run.len.is_multiple_of(4096));
                assert!(run.at.is_multiple_of(4096) && run.len > 0);
                pool.pin_fill(*run);
            }
            _ => {}
        }
        self.events.push(Event::Submitted(token, op.clone()));
        self.in_flight.push((token, op));
    }

    /// Runs one operation that the fault hook does not hold.
    pub fn complete(&mut self, pool: &mut Pool) -> Option<Completion> {
        let mut order: Vec<usize> = (0..self.in_flight.len()).collect();
        if self.shuffled && !order.is_empty() {
            let by = self.dice.below(order.len() as u64) as usize;
            order.rotate_left(by);
        }
        for at in order {
            let fault = (self.fault)(&self.in_flight[at].1);
            if fault == Fault::Hold {
                continue;
            }
            let (token, op) = self.in_flight.remove(at);
            let done = self.run(pool, token, &op, fault);
            unpin(pool, &op);
            self.events.push(Event::Completed(token));
            return Some(done);
        }
        None
    }

    fn run(&mut self, pool: &mut Pool, token: Token, op: &Op, fault: Fault) -> Completion {
        let mut payload = Payload::None;
        let result = match fault {
            Fault::Errno(errno) => Err(errno),
            Fault::Short(len) => self.apply(pool, op, Some(len), &mut payload),
            _ => self.apply(pool, op, None, &mut payload),
        };
        Completion { token, result, more: false, payload, copied: false }
    }

    fn file(&mut self, handle: Handle) -> &mut File {
        let Some(Open::File(id)) = self.open.get(&handle.raw()) else {
            panic!("{handle:?} is no open file")
        };
        self.files.get_mut(id).unwrap()
    }

    fn open(&mut self, path: &PathBuf, how: OpenHow) -> Result<Payload, Errno> {
        let open = match (how, self.names.get(path)) {
            (OpenHow::Directory, _) => Open::Directory,
            (OpenHow::CreateNew, Some(_)) => return Err(Errno::EXIST),
            (OpenHow::CreateNew, None) if self.full => return Err(Errno::NOSPC),
            (OpenHow::CreateNew, None) => {
                let id = self.files.keys().last().map_or(1, |id| id + 1);
                self.files.insert(id, File::default());
                self.names.insert(path.clone(), id);
                self.name_steps.push(self.names.clone());
                Open::File(id)
            }
            (_, None) => return Err(Errno::NOENT),
            (_, Some(id)) => Open::File(*id),
        };
        self.open.insert(self.next, open);
        self.next += 1;
        Ok(Payload::Handle(Handle::from_raw(self.next - 1)))
    }

    fn write(&mut self, handle: Handle, offset: u64, bytes: Vec<u8>, barrier: bool) -> u32 {
        let len = bytes.len() as u32;
        let file = self.file(handle);
        put(&mut file.data, offset, &bytes);
        if barrier {
            put(&mut file.durable, offset, &bytes);
        }
        file.pending.push((offset, bytes));
        len
    }

    fn apply(
        &mut self,
        pool: &mut Pool,
        op: &Op,
        short: Option<u32>,
        payload: &mut Payload,
    ) -> Result<u32, Errno> {
        match op {
            Op::Open { path, how } => {
                *payload = self.open(path, *how)?;
                Ok(0)
            }
            Op::Close { handle } => {
                self.open.remove(&handle.raw()).expect("an open handle is closed");
                Ok(0)
            }
            Op::Facts { handle } => {
                *payload = Payload::Facts(FileFacts {
                    size: self.file(*handle).data.len() as u64,
                    ..self.facts
                });
                Ok(0)
            }
            Op::Write { handle, offset, runs, barrier } => {
                let mut bytes: Vec<u8> = Vec::new();
                runs.iter().for_each(|run: &Run| bytes.extend_from_slice(pool.pinned(*run)));
                if let Some(len) = short {
                    bytes.truncate(len as usize);
                }
                let end = *offset as usize + bytes.len();
                if self.full && end > self.file(*handle).data.len() {
                    return Err(Errno::NOSPC);
                }
                Ok(self.write(*handle, *offset, bytes, *barrier))
            }
            Op::Read { handle, offset, run } => {
                let file = self.file(*handle);
                let from = (*offset as usize).min(file.data.len());
                let mut to = (from + run.len as usize).min(file.data.len());
                if let Some(len) = short {
                    to = to.min(from + len as usize);
                }
                let bytes = file.data[from..to].to_vec();
                pool.fill(*run, &bytes);
                Ok(bytes.len() as u32)
            }
            Op::Sync { handle, .. } => {
                if self.open.get(&handle.raw()) == Some(&Open::Directory) {
                    self.durable_names = self.names.clone();
                    self.name_steps.clear();
                    return Ok(0);
                }
                self.file(*handle).sync();
                Ok(0)
            }
            Op::Rename { from, to } => {
                assert!(!self.names.contains_key(to), "a rename replaces nothing");
                let id = self.names.remove(from).expect("the file is there");
                self.names.insert(to.clone(), id);
                self.name_steps.push(self.names.clone());
                Ok(0)
            }
            Op::List { .. } => {
                let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
                *payload = Payload::Names(self.names.keys().map(name).collect());
                Ok(0)
            }
            other => panic!("a log does not ask for {other:?}"),
        }
    }

    /// The power fails: what was not synced is lost, or written in part, as the dice fall.
    pub fn crash(&mut self, pool: &mut Pool) {
        let mut dice = self.dice.clone();
        let lossy = dice.below(4);
        for (_, op) in std::mem::take(&mut self.in_flight) {
            if let Op::Write { handle, offset, runs, .. } = &op {
                let mut bytes: Vec<u8> = Vec::new();
                runs.iter().for_each(|run: &Run| bytes.extend_from_slice(pool.pinned(*run)));
                self.file(*handle).pending.push((*offset, bytes));
            }
            unpin(pool, &op);
        }
        for file in self.files.values_mut() {
            for (offset, bytes) in std::mem::take(&mut file.pending) {
                for (at, sector) in bytes.chunks(SECTOR).enumerate() {
                    let lands = match lossy {
                        0 => false,
                        1 => true,
                        _ => dice.chance(50),
                    };
                    // A pending write never takes back bytes that a barrier made durable.
                    if lands {
                        put(&mut file.durable, offset + (at * SECTOR) as u64, sector);
                    }
                }
            }
            file.data = file.durable.clone();
        }
        let keep = dice.below(self.name_steps.len() as u64 + 1) as usize;
        if keep > 0 {
            self.durable_names = self.name_steps[keep - 1].clone();
        }
        self.names = self.durable_names.clone();
        self.name_steps.clear();
        self.open.clear();
        self.dice = dice;
    }

    /// Stops the process without losing anything that was written.
    pub fn stop(&mut self, pool: &mut Pool) {
        for (_, op) in std::mem::take(&mut self.in_flight) {
            unpin(pool, &op);
        }
        self.open.clear();
    }

    /// Files that are open, directories among them.
    pub fn open_files(&self) -> usize {
        self.open.len()
    }

    /// The segment files, oldest first.
    pub fn segments(&self) -> Vec<(u64, u64)> {
        let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        self.names
            .iter()
            .filter_map(|(path, id)| Some((palisade_wal::parse_segment_name(&name(path))?, *id)))
            .collect()
    }

    /// Deletes a segment behind the log's back.
    pub fn remove(&mut self, segment: u64) {
        let name = palisade_wal::segment_name(segment);
        for names in [&mut self.names, &mut self.durable_names] {
            names.retain(|path, _| !path.ends_with(&name));
        }
    }

    /// Changes bytes of a segment behind the log's back.
    pub fn damage(&mut self, segment: u64, change: impl FnOnce(&mut Vec<u8>)) {
        let (_, id) = self.segments().into_iter().find(|(seq, _)| *seq == segment).unwrap();
        let file = self.files.get_mut(&id).unwrap();
        change(&mut file.data);
        file.durable = file.data.clone();
        file.pending.clear();
    }
}

fn unpin(pool: &mut Pool, op: &Op) {
    match op {
        Op::Write { runs, .. } => runs.iter().for_each(|run| pool.unpin_read(*run)),
        Op::Read { run, .. } => pool.unpin_fill(*run),
        _ => {}
    }
}

fn put(data: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + bytes.len());
    if data.len() < end {
        data.resize(end, 0);
    }
    data[start..end].copy_from_slice(bytes);
}
