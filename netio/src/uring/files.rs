//! Registered files: a table of the kernel from which an operation takes its file without
//! looking up and counting a descriptor.
//!
//! A place in the table keeps its file open: while it is held, the space of an unlinked file would
//! not come free. So the files that this ring opens have one, which are closed by this ring alone.
//! Sockets have none, for two reasons. They may go to another ring or thread. And the table of a
//! process that is killed goes tens of milliseconds after its descriptors: that much later its
//! peers would see that it is gone.
//!
//! What it spares: 5 % of the CPU time of an append with 1024 in flight, and as much throughput
//! (medians of five alternating pairs of `bench append --nodes 1` with and without, Linux 6.18).
//!
//! Places are taken and given back by entries of the queue, which need no call of their own. The
//! kernel executes the entries of a queue in order, and these at once, so:
//!
//! - a place is used from the *completion* of its taking on, until then the descriptor;
//! - it is given back by the entry before the close, and what was queued before that has its file;
//! - it is taken anew after the completion of its giving back, when no operation that used it is
//!   in flight.
//!
//! Only operations whose file the kernel resolves while it takes the entry use a place: reads and
//! writes. It resolves that of a sync or an allocation later, on a thread of its own, and that of
//! the second half of a chain when the first has ended.

use io_uring::squeue::Entry;
use io_uring::{IoUring, opcode, types};

use crate::limits::{REGISTER_FD_MAX, REGISTER_FILES_MAX};
use crate::op::Handle;

/// From this release on a file is let go when its own operations have ended. Before, one that was
/// given back stayed open until every older operation on a registered file or buffer had ended.
const KERNEL_MIN: (u32, u32) = (6, 13);
/// The upper half of the numbers of entries that change the table; no operation has it.
const CHANGES: u64 = (u32::MAX - 1) as u64;
/// Marks the giving back in the lower half, beside the place.
const GIVES_BACK: u32 = 1 << 16;
/// What the kernel reads where a place is given back.
static NO_FILE: i32 = -1;

/// How an entry names its file.
#[derive(Clone, Copy, Debug)]
pub(super) enum File {
    Place(types::Fixed),
    Descriptor(types::Fd),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    /// The entry that takes it has not completed.
    Taking,
    Held,
    /// The entry that gives it back has not completed.
    Leaving,
    /// Given back; operations that used it are in flight.
    Left,
}

struct Place {
    state: State,
    /// Operations in flight that use it.
    flying: u32,
}

/// The table of one ring. Without places where the kernel gives none.
pub(super) struct Files {
    places: Vec<Place>,
    /// What the kernel reads where a place is taken: one descriptor for each, at an address that
    /// stays.
    given: Box<[i32]>,
    free: Vec<u16>,
    /// By descriptor, one more than its place; 0 without one.
    by_fd: Vec<u16>,
    /// Changes that were queued and whose completion was not seen.
    changing: u32,
}

impl Files {
    /// Registers a table of at most `places_max` places, all free.
    pub(super) fn new(ring: &IoUring, release: (u32, u32), places_max: usize) -> Files {
        let places = places_max.min(REGISTER_FILES_MAX);
        // Refused above the limit of open files, by a policy, or for want of memory.
        let taken = release >= KERNEL_MIN
            && places > 0
            && ring.submitter().register_files_sparse(places as u32).is_ok();
        Files::of(if taken { places } else { 0 })
    }

    fn of(places: usize) -> Files {
        Files {
            places: (0..places).map(|_| Place { state: State::Free, flying: 0 }).collect(),
            given: vec![NO_FILE; places].into(),
            free: (0..places as u16).rev().collect(),
            by_fd: Vec::new(),
            changing: 0,
        }
    }

    /// Handles that have a place.
    pub(super) fn held(&self) -> usize {
        self.places.iter().filter(|place| place.state == State::Held).count()
    }

    /// Completions of changes that are to come, at the latest with the next handing-over.
    pub(super) fn changing(&self) -> u32 {
        self.changing
    }

    /// Takes a place for a file that this ring has opened, and that it alone closes. Gives the
    /// entry to queue; none where no place is free.
    pub(super) fn take(&mut self, handle: Handle) -> Option<Entry> {
        let fd = handle.raw();
        if !(0..REGISTER_FD_MAX as i32).contains(&fd) {
            return None;
        }
        let at = self.free.pop()?;
        let place = &mut self.places[usize::from(at)];
        assert!(place.state == State::Free && place.flying == 0, "a free place is in use");
        place.state = State::Taking;
        if self.by_fd.len() <= fd as usize {
            self.by_fd.resize(fd as usize + 1, 0);
        }
        let before = std::mem::replace(&mut self.by_fd[fd as usize], at + 1);
        assert!(before == 0, "{handle:?} was closed where its place was not known");
        self.given[usize::from(at)] = fd;
        self.changing += 1;
        Some(change(&raw const self.given[usize::from(at)], at, 0))
    }

    /// Gives back the place of a handle that is about to be closed. Gives the entry to queue
    /// before the close; none where it has no place.
    pub(super) fn give_back(&mut self, handle: Handle) -> Option<Entry> {
        let at = self.place_of(handle)?;
        self.unmap(at);
        self.places[usize::from(at)].state = State::Leaving;
        self.changing += 1;
        Some(change(&raw const NO_FILE, at, GIVES_BACK))
    }

    /// How the next entry names its file. One that uses a place [ends](Files::ended) later.
    pub(super) fn name(&mut self, handle: Handle) -> File {
        if let Some(at) = self.place_of(handle) {
            let place = &mut self.places[usize::from(at)];
            if place.state == State::Held {
                place.flying += 1;
                return File::Place(types::Fixed(u32::from(at)));
            }
        }
        File::Descriptor(types::Fd(handle.raw()))
    }

    /// An operation that used this place has completed for the last time.
    pub(super) fn ended(&mut self, at: u16) {
        let place = &mut self.places[usize::from(at)];
        place.flying -= 1;
        if place.state == State::Left && place.flying == 0 {
            self.set_free(at);
        }
    }

    /// Whether a completion is that of a change of the table.
    pub(super) fn owns(number: u64) -> bool {
        number >> 32 == CHANGES
    }

    /// Takes the completion of a change that the table [owns](Files::owns).
    pub(super) fn changed(&mut self, number: u64, result: i32) {
        self.changing -= 1;
        let (at, gave_back) = (number as u16, number as u32 & GIVES_BACK != 0);
        let place = &mut self.places[usize::from(at)];
        match (place.state, gave_back) {
            (State::Taking, false) if result == 1 => place.state = State::Held,
            // The file goes on without.
            (State::Taking, false) => {
                self.unmap(at);
                self.set_free(at);
            }
            (State::Leaving, true) if result == 1 && place.flying == 0 => self.set_free(at),
            (State::Leaving, true) if result == 1 => place.state = State::Left,
            // Closed before it was taken: the giving back comes next. One that the kernel refused
            // leaves the place as it is, for nobody.
            _ => {}
        }
    }

    /// Lets go of all files at once, when nothing is queued any more.
    pub(super) fn clear(&mut self, ring: &IoUring) {
        if self.places.is_empty() {
            return;
        }
        // The end of the ring would do the same, at some later time.
        let _ = ring.submitter().unregister_files();
        *self = Files::of(0);
    }

    fn place_of(&self, handle: Handle) -> Option<u16> {
        let one_more = *self.by_fd.get(usize::try_from(handle.raw()).ok()?)?;
        one_more.checked_sub(1)
    }

    /// From now on the handle has no place.
    fn unmap(&mut self, at: u16) {
        let fd = self.given[usize::from(at)];
        self.by_fd[fd as usize] = 0;
    }

    fn set_free(&mut self, at: u16) {
        self.places[usize::from(at)].state = State::Free;
        self.free.push(at);
    }
}

/// The entry that puts what stands at `fd` into a place.
fn change(fd: *const i32, at: u16, mark: u32) -> Entry {
    let entry = opcode::FilesUpdate::new(fd, 1).offset(i32::from(at)).build();
    entry.user_data(CHANGES << 32 | u64::from(u32::from(at) | mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDLE: Handle = Handle::from_raw(REGISTER_FD_MAX as i32 - 2);

    fn number(at: u16, mark: u32) -> u64 {
        CHANGES << 32 | u64::from(u32::from(at) | mark)
    }

    fn is_place(file: File) -> bool {
        matches!(file, File::Place(_))
    }

    #[test]
    fn a_place_is_used_when_it_is_taken_and_reused_when_nothing_uses_it() {
        let (mut files, handle) = (Files::of(1), HANDLE);
        let next = Handle::from_raw(HANDLE.raw() + 1);
        assert!(files.take(handle).is_some());
        assert!(!is_place(files.name(handle)), "not taken yet");
        files.changed(number(0, 0), 1);
        assert!(matches!(files.name(handle), File::Place(types::Fixed(0))));
        assert_eq!(files.held(), 1);
        assert!(files.take(next).is_none(), "there is one place");

        assert!(files.give_back(handle).is_some());
        assert!(files.give_back(handle).is_none());
        assert!(!is_place(files.name(handle)));
        assert!(files.take(next).is_none(), "not given back yet");
        files.changed(number(0, GIVES_BACK), 1);
        assert!(files.take(next).is_none(), "an operation is in flight");
        files.ended(0);
        assert!(files.take(next).is_some());
        files.changed(number(0, 0), 1);
        assert!(is_place(files.name(next)) && !is_place(files.name(handle)));
        files.give_back(next);
    }

    #[test]
    fn a_file_that_the_kernel_does_not_take_goes_on_without() {
        let (mut files, handle) = (Files::of(2), HANDLE);
        for errno in [-12, -9, 0] {
            files.take(handle).unwrap();
            files.changed(number(0, 0), errno);
            assert!(!is_place(files.name(handle)));
            assert!(files.give_back(handle).is_none());
        }
        assert_eq!(files.free.len(), 2);
    }

    #[test]
    fn a_handle_may_be_closed_before_its_place_is_taken() {
        let (mut files, handle) = (Files::of(1), HANDLE);
        files.take(handle).unwrap();
        files.give_back(handle).unwrap();
        files.changed(number(0, 0), 1);
        assert!(files.take(handle).is_none());
        files.changed(number(0, GIVES_BACK), 1);
        assert!(files.take(handle).is_some(), "the descriptor is another file now");
        files.give_back(handle);
    }

    #[test]
    fn a_place_that_is_not_given_back_is_for_nobody() {
        let (mut files, handle) = (Files::of(1), HANDLE);
        files.take(handle).unwrap();
        files.changed(number(0, 0), 1);
        files.give_back(handle).unwrap();
        files.changed(number(0, GIVES_BACK), -12);
        assert!(files.take(handle).is_none());
    }

    #[test]
    fn handles_out_of_range_have_no_place() {
        let mut files = Files::of(1);
        for raw in [-1, REGISTER_FD_MAX as i32, i32::MAX] {
            let handle = Handle::from_raw(raw);
            assert!(files.take(handle).is_none() && files.give_back(handle).is_none());
            assert!(!is_place(files.name(handle)));
        }
        assert_eq!(files.free.len(), 1);
    }

    #[test]
    fn an_older_kernel_gets_no_table() {
        let ring = IoUring::new(2).unwrap();
        assert!(Files::new(&ring, (6, 12), 8).places.is_empty());
        assert!(Files::new(&ring, (6, 13), 0).places.is_empty());
        // Refused: there may be one table only.
        ring.submitter().register_files_sparse(1).unwrap();
        assert!(Files::new(&ring, (6, 13), 8).places.is_empty());
    }
}
