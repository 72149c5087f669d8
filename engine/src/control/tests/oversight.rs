//! What must not be of two sites between which the primary role goes.

use super::sites::{ITEM, Item, Log, World, id};

impl World {
    /// Notes what must not be, if it is.
    pub(super) fn check(&mut self) {
        let broken = match () {
            () if self.may_write(0) && self.may_write(1) => Some("two sites write"),
            () if !self.is_one_log() => Some("the logs of the sites are two"),
            () if !(0..2).all(|site| self.ends_hold(site)) => Some("a record above an END"),
            () if !(0..2).all(|site| self.has_begun(site)) => Some("a record before a START"),
            () if !self.epochs_differ() => Some("two sites wrote in one role epoch"),
            () if !self.scns_grow() => Some("an SCN of a role epoch before is not below"),
            () if !(0..2).all(|site| self.has_what_is_acked(site)) => {
                Some("who writes lacks what was acked")
            }
            () => None,
        };
        self.broken = self.broken.or(broken);
    }

    /// One has all that the other one has committed, in each stream.
    fn is_one_log(&self) -> bool {
        (0..2).all(|stream| {
            let [one, two] = [0, 1].map(|site| {
                let log = &self.sites[site].logs[stream];
                &log.items[..log.committed]
            });
            let both = one.len().min(two.len());
            one[..both] == two[..both]
        })
    }

    /// Behind an END stands no record before a START.
    fn ends_hold(&self, site: usize) -> bool {
        self.sites[site].logs.iter().all(|log| {
            let mut ended = false;
            log.items.iter().all(|item| match item {
                Item::Mark(mark) => {
                    ended = mark.is_end();
                    true
                }
                Item::Data { .. } => !ended,
                Item::Entry { .. } => true,
            })
        })
    }

    /// Who was handed the role takes no record before every stream has its START.
    fn has_begun(&self, site: usize) -> bool {
        let office = self.mode(site).office;
        let handed = office.holder == id(site) && office.before != 0;
        let mut logs = self.sites[site].logs.iter();
        let begun = |log: &Log| log.last().is_some_and(|last| last.epoch() >= office.since);
        !handed || !self.may_write(site) || logs.all(begun)
    }

    fn data(&self) -> impl Iterator<Item = (usize, u64, u64)> {
        let logs = self.sites.iter().flat_map(|site| site.logs.iter());
        logs.flat_map(|log| log.items.iter()).filter_map(|item| match item {
            Item::Data { by, role_epoch, scn } => Some((*by, *role_epoch, *scn)),
            _ => None,
        })
    }

    fn epochs_differ(&self) -> bool {
        let other =
            |one: (usize, u64, u64)| self.data().any(|two| one.0 != two.0 && one.1 == two.1);
        !self.data().any(other)
    }

    fn scns_grow(&self) -> bool {
        let late = |one: (usize, u64, u64)| {
            self.data().any(|two| one.0 != two.0 && one.1 < two.1 && one.2 >= two.2)
        };
        !self.data().any(late)
    }

    /// Who may write has everything that the other one has acked.
    fn has_what_is_acked(&self, site: usize) -> bool {
        let lacks = |stream: usize| {
            let (here, there) =
                (&self.sites[site].logs[stream], &self.sites[1 - site].logs[stream]);
            let acked = (there.gate.released().0 / ITEM) as usize;
            let missing = there.items[..acked].iter().skip(here.items.len());
            missing.into_iter().any(|item| matches!(item, Item::Data { .. }))
        };
        !self.may_write(site) || !(0..2).any(lacks)
    }

    /// When the faults are over one site serves, and the other one has all that it has.
    pub(super) fn is_well(&self) -> bool {
        let primary = usize::from(self.serves(1));
        let other = 1 - primary;
        let follows = |stream: usize| {
            let [here, there] = [primary, other].map(|site| &self.sites[site].logs[stream]);
            here.items == there.items && here.gate.released() == here.end()
        };
        self.serves(primary)
            && !self.may_write(other)
            && self.mode(primary) == self.mode(other)
            && (0..2).all(follows)
    }
}
