//! Hosts and processes: how they come and how they go.

use std::collections::BTreeMap;

use palisade_netio::{Nanos, Op};

use super::clock::WallClock;
use super::disk::Disk;
use super::event::Step;
use super::fault::FaultKind;
use super::file::{Data, Survival};
use super::operation::{handle_in, runs_read};
use super::state::{
    Departure, Host, HostId, ObjectKind, Process, ProcessId, RingId, RingState, State,
};
use super::tree::Inode;

impl State {
    pub(crate) fn add_host(&mut self) -> HostId {
        let host = HostId(self.hosts.len() as u32);
        self.hosts.push(Host { disk: Disk::new(), clock: WallClock::default(), up: true });
        host
    }

    pub(crate) fn spawn(&mut self, host: HostId) -> ProcessId {
        if !self.host(host).up {
            self.host_mut(host).up = true;
            for other in 0..self.hosts.len() {
                self.resume(host, HostId(other as u32));
            }
        }
        let process = ProcessId(self.processes.len() as u32);
        let handles = BTreeMap::new();
        self.processes.push(Process { host, alive: true, paused_until: Nanos(0), handles });
        self.note("spawn", [u64::from(process.0), u64::from(host.0), 0]);
        process
    }

    pub(crate) fn add_ring(&mut self, process: ProcessId) -> RingId {
        assert!(self.process(process).alive, "the process is gone");
        let ring = RingId(self.rings.len() as u32);
        self.live.push(ring);
        self.rings.push(RingState {
            process,
            alive: true,
            queued: Vec::new(),
            ready: Vec::new(),
            tokens: BTreeMap::new(),
            bell: Default::default(),
            asleep: false,
            wake: Some(self.now),
        });
        ring
    }

    /// Ends a process. What its operations did to files is kept; each one in flight either
    /// happens or does not.
    pub(crate) fn kill(&mut self, process: ProcessId) {
        if !self.process(process).alive {
            return;
        }
        self.faults.count(FaultKind::Kill);
        self.note("kill", [u64::from(process.0), 0, 0]);
        for ring in self.rings_of(process) {
            self.close_ring(ring, Departure::Kill);
        }
        self.close_process(process, Departure::Kill);
        let host = self.process(process).host;
        self.forget_files(host);
    }

    /// Cuts the power of a host: its processes end, its disk forgets.
    pub(crate) fn power_cut(&mut self, host: HostId) {
        self.faults.count(FaultKind::PowerCut);
        self.note("power cut", [u64::from(host.0), 0, 0]);
        let mut in_flight: BTreeMap<Inode, Vec<(u64, Data)>> = BTreeMap::new();
        let processes: Vec<_> = (0..self.processes.len() as u32).map(ProcessId).collect();
        let here = |state: &State, process| {
            let process: &Process = state.process(process);
            process.host == host && process.alive
        };
        for process in processes {
            if !here(self, process) {
                continue;
            }
            for ring in self.rings_of(process) {
                self.take_writes(ring, &mut in_flight);
                self.close_ring(ring, Departure::PowerCut);
            }
            self.close_process(process, Departure::PowerCut);
        }
        self.host_mut(host).up = false;
        self.lose_power(host, in_flight);
        self.forget_files(host);
    }

    /// Ends one ring; operations in flight either happen or do not.
    pub(crate) fn close_ring(&mut self, ring: RingId, departure: Departure) {
        let process = self.ring(ring).process;
        self.live.retain(|&live| live != ring);
        let state = self.ring_mut(ring);
        state.alive = false;
        let queued = std::mem::take(&mut state.queued);
        state.ready.clear();
        let mut flying: Vec<u64> = state.tokens.values().copied().collect();
        self.random.shuffle(&mut flying);
        for id in flying {
            if !queued.contains(&id) && self.is_file_operation(id) && self.random.coin() {
                // Its outcome never reaches anybody, its effect may.
                let outcome = self.finish_file(id);
                if let Some(handle) = handle_in(&outcome.payload) {
                    self.close_handle(process, handle, departure);
                }
            }
            for handle in self.forget(id, departure).untold {
                self.close_handle(process, handle, departure);
            }
        }
    }

    /// Whether the operation is carried out at its completion, and was neither refused nor
    /// completed before.
    fn is_file_operation(&self, id: u64) -> bool {
        let operation = &self.operations[&id];
        let on_file = matches!(
            *operation.op,
            Op::Write { .. }
                | Op::Sync { .. }
                | Op::Allocate { .. }
                | Op::Rename { .. }
                | Op::Unlink { .. }
                | Op::MakeDir { .. }
                | Op::Open { .. }
        );
        operation.works && on_file
    }

    /// Takes writes in flight out of a ring, to be torn.
    fn take_writes(&mut self, ring: RingId, into: &mut BTreeMap<Inode, Vec<(u64, Data)>>) {
        let flying: Vec<u64> = self.ring(ring).tokens.values().copied().collect();
        for id in flying {
            let operation = &self.operations[&id];
            let Op::Write { offset, .. } = *operation.op else { continue };
            let Some(object) = operation.object else { continue };
            let aligned = self.is_aligned(offset, runs_read(&operation.op));
            if !operation.works || !aligned {
                continue;
            }
            if let ObjectKind::File { inode, writable: true, .. } = self.objects[&object].kind {
                let data = Data::new(operation.snapshot.clone());
                into.entry(inode).or_default().push((offset, data));
                self.operations.get_mut(&id).expect("known").works = false;
            }
        }
    }

    fn lose_power(&mut self, host: HostId, in_flight: BTreeMap<Inode, Vec<(u64, Data)>>) {
        let plan = &self.faults.plan;
        let (torn_ppm, lost_ppm, names_ppm) = (
            plan.ppm(FaultKind::TornWrite),
            plan.ppm(FaultKind::LostSectors),
            plan.ppm(FaultKind::LostNames),
        );
        let (random, disk) = (&mut self.random, &mut self.hosts[host.0 as usize].disk);
        let mut draw = |ppm| match random.chance(ppm) {
            true => Survival::draw(random),
            false => Survival::All,
        };
        let (torn, survival) = (draw(torn_ppm), draw(lost_ppm));
        let keep_names = !random.chance(names_ppm);
        let (mut any_lost, mut any_torn) = (false, false);
        for (inode, file) in &mut disk.files {
            let mut flying = in_flight.get(inode).cloned().unwrap_or_default();
            random.shuffle(&mut flying);
            let (lost, was_torn) = file.power_cut(survival, &flying, torn, random);
            any_lost |= lost;
            any_torn |= was_torn;
        }
        let names_lost = disk.tree.power_cut(keep_names, random);
        disk.stalled_until = Nanos(0);
        for (happened, kind) in [
            (any_lost, FaultKind::LostSectors),
            (any_torn, FaultKind::TornWrite),
            (names_lost, FaultKind::LostNames),
        ] {
            if happened {
                self.faults.count(kind);
            }
        }
        let bits = u64::from(any_lost) | u64::from(any_torn) << 1 | u64::from(names_lost) << 2;
        self.note("power is gone", [u64::from(host.0), bits, 0]);
    }

    fn close_process(&mut self, process: ProcessId, departure: Departure) {
        let gone = self.process_mut(process);
        gone.alive = false;
        for object in std::mem::take(&mut gone.handles).into_values() {
            self.release_object(object, departure);
        }
    }

    fn rings_of(&self, process: ProcessId) -> Vec<RingId> {
        let live = self.live.iter().copied();
        live.filter(|&ring| self.ring(ring).process == process).collect()
    }

    /// The step that carries a file operation out; see [`Step::Work`].
    pub(crate) fn mark_work(&mut self, id: u64, delay: u64) {
        self.operations.get_mut(&id).expect("just submitted").works = true;
        self.post_after(delay, id, Step::Work);
    }
}
