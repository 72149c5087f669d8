//! Who should lead, and who can.

use super::super::*;
use super::cluster::Cluster;
use super::node::GROUP_BYTES;

fn transfer(c: &mut Cluster, at: usize, to: u32, appointed: bool) -> Result<(), NoTransfer> {
    c.run(at, |r, now, fx| r.on_transfer(to, appointed, now, fx))
}

#[test]
fn members_of_the_first_ones_region_come_first_then_the_order_of_the_list() {
    // Regions r1, r0, r1, r0, r1.
    let mut c = Cluster::new(5, 30);
    let mut order = |at: usize| c.nodes[at].replica().successors().collect::<Vec<_>>();
    assert_eq!(order(0), [(3, false), (5, false), (2, false), (4, false)]);
    assert_eq!(order(1), [(1, true), (3, true), (5, true), (4, false)]);
    assert_eq!(order(4), [(1, true), (3, true), (2, false), (4, false)]);
}

#[test]
fn who_cannot_lead_is_named_with_the_reason_and_nothing_changes() {
    let mut c = Cluster::new(3, 31);
    c.elect(1);
    c.rest(50);
    assert_eq!(transfer(&mut c, 1, 3, false), Err(NoTransfer::NotLeading));
    assert_eq!(transfer(&mut c, 0, 1, false), Err(NoTransfer::Leads));
    assert_eq!(transfer(&mut c, 0, 9, false), Err(NoTransfer::NotMember));
    c.isolate(&[3]);
    assert_eq!(transfer(&mut c, 0, 3, false), Err(NoTransfer::NotUp));
    assert!(c.nodes[0].replica().leader_slot().is_ok(), "it leads on");
    assert_eq!(transfer(&mut c, 0, 2, false), Ok(()));
    c.settle("the successor", |c| c.leader() == Some(1));
}

#[test]
fn a_transfer_to_who_does_not_get_the_log_is_given_up() {
    let mut c = Cluster::new(3, 32);
    c.elect(1);
    c.rest(50);
    c.propose(0).unwrap();
    // Node 2 is heard, and nothing that is sent to it arrives.
    assert_eq!(c.nodes[0].replica().lag_of(2), Some(GROUP_BYTES));
    assert_eq!(transfer(&mut c, 0, 2, false), Ok(()));
    assert_eq!(transfer(&mut c, 0, 3, false), Err(NoTransfer::Transferring));
    let until = c.nodes[0].replica().next_deadline();
    while c.nodes[0].replica().is_transferring() {
        c.network.clear();
        c.now = c.now.after(1_000_000);
        c.tick(0);
        assert!(c.now <= until.unwrap().after(100_000_000), "a pause without an end");
    }
    assert!(c.nodes[0].replica().leader_slot().is_ok(), "it leads on");
}

#[test]
fn who_was_appointed_knows_it_until_it_ends() {
    let mut c = Cluster::new(3, 33);
    c.elect(1);
    c.rest(50);
    for (from, to, appointed) in [(0, 1, true), (1, 2, false), (2, 1, true)] {
        assert_eq!(transfer(&mut c, from, to as u32 + 1, appointed), Ok(()));
        c.settle("the successor", |c| c.leader() == Some(to));
        c.rest(20);
        let known = (0..3).map(|at| c.nodes[at].replica().is_appointed());
        assert!(known.eq((0..3).map(|at| appointed && at == to)), "node {} was chosen", to + 1);
        let served = (0..3).map(|at| c.nodes[at].replica().served_by().map(|b| b.node));
        assert!(served.eq([Some(to as u32 + 1); 3]), "everybody knows who serves");
    }
    c.run(1, |r, now, fx| r.on_disk_stalled(true, now, fx));
    c.settle("another leader", |c| c.leader().is_some_and(|at| at != 1));
    c.run(1, |r, now, fx| r.on_disk_stalled(false, now, fx));
    let leader = c.leader().unwrap();
    assert_eq!(transfer(&mut c, leader, 2, false), Ok(()));
    c.settle("by itself", |c| c.leader() == Some(1));
    assert!(!c.nodes[1].replica().is_appointed(), "that was another leadership");
}
