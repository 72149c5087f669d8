//! Regions: a network namespace each, a border of limited bandwidth between any two, and a way
//! from the tests into each that crosses no border.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU8, Ordering};

/// What a border lets through each way.
const RATE: &str = "50mbit";
/// How long a packet may wait at a border before it is dropped.
const WAIT: &str = "100ms";

/// Every set of regions has addresses of its own.
static NEXT: AtomicU8 = AtomicU8::new(1);

/// Regions of one test; they are removed with it.
pub struct Regions {
    number: u8,
    names: Vec<String>,
}

impl Regions {
    pub fn new(names: &[&str]) -> Regions {
        static ALONE: Once = Once::new();
        ALONE.call_once(assert_own_network);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut regions = Regions { number, names: Vec::new() };
        ip("link set lo up");
        ip(&format!("addr add {}/32 dev lo", regions.client()));
        for name in names {
            regions.add(name);
        }
        regions
    }

    /// A region: reached from the tests, and over a border from every earlier one.
    fn add(&mut self, name: &str) {
        let place = self.names.len();
        self.names.push(name.to_owned());
        let (space, here, addr) = (self.space(name), self.door(name), self.addr_at(place));
        ip(&format!("netns add {space}"));
        ip(&format!("-n {space} link set lo up"));
        ip(&format!("-n {space} addr add {addr}/32 dev lo"));
        ip(&format!("link add name {here} type veth peer name client netns {space}"));
        ip(&format!("link set {here} up"));
        ip(&format!("-n {space} link set client up"));
        ip(&format!("route add {addr}/32 dev {here} src {}", self.client()));
        ip(&format!("-n {space} route add {}/32 dev client src {addr}", self.client()));
        for other in 0..place {
            self.add_border(place, other);
        }
    }

    fn add_border(&self, one: usize, other: usize) {
        let ends = [(one, other), (other, one)];
        let names = ends.map(|(at, to)| (self.space(&self.names[at]), gate(&self.names[to])));
        let [(space, gate), (other_space, other_gate)] = &names;
        let peer = format!("peer name {other_gate} netns {other_space}");
        ip(&format!("-n {space} link add name {gate} type veth {peer}"));
        for ((space, gate), (at, to)) in names.iter().zip(ends) {
            // Whole packets as on a wire: a counter sees every header.
            ip(&format!("-n {space} link set dev {gate} gso_max_segs 1 up"));
            let (addr, far) = (self.addr_at(at), self.addr_at(to));
            ip(&format!("-n {space} route add {far}/32 dev {gate} src {addr}"));
            let limit = format!("rate {RATE} burst 64kb latency {WAIT}");
            did("tc", &format!("-n {space} qdisc add dev {gate} root tbf {limit}"));
        }
    }

    /// Words that start a program in a region.
    pub fn launcher(&self, name: &str) -> Vec<String> {
        ["ip", "netns", "exec", &self.space(name)].map(str::to_owned).to_vec()
    }

    /// Where the nodes of a region listen.
    pub fn addr(&self, name: &str) -> Ipv4Addr {
        let place = self.names.iter().position(|known| known == name);
        self.addr_at(place.unwrap_or_else(|| panic!("there is no region {name}")))
    }

    /// Bytes of all packets that came over a border, one way: from Ethernet's header on.
    pub fn crossed(&self, from: &str, to: &str) -> u64 {
        let (space, gate) = (self.space(to), gate(from));
        let told = ip(&format!("-n {space} -s -j link show dev {gate}"));
        let links: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        links[0]["stats64"]["rx"]["bytes"].as_u64().expect("a counter")
    }

    /// Packets from one region to the other are lost from now on; those the other way are not.
    pub fn drop_packets(&self, from: &str, to: &str) {
        let (launcher, gate) = (format!("netns exec {}", self.space(to)), gate(from));
        let chain = "add chain inet border in { type filter hook input priority 0 ; }";
        for words in ["add table inet border", chain] {
            ip(&format!("{launcher} nft {words}"));
        }
        ip(&format!("{launcher} nft add rule inet border in iifname {gate} drop"));
    }

    /// They arrive again.
    pub fn pass_packets(&self, to: &str) {
        ip(&format!("netns exec {} nft delete table inet border", self.space(to)));
    }

    fn space(&self, name: &str) -> String {
        format!("palisade-{}-{}-{name}", std::process::id(), self.number)
    }

    fn door(&self, name: &str) -> String {
        format!("{name}-{}", self.number)
    }

    fn client(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.number, 0, 1)
    }

    fn addr_at(&self, place: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, self.number, place as u8 + 1, 1)
    }
}

impl Drop for Regions {
    fn drop(&mut self) {
        for name in &self.names {
            // What was not made before a failure is not there to be removed.
            let link = format!("link del {}", self.door(name));
            for words in [link, format!("netns del {}", self.space(name))] {
                let _ = Command::new("ip").args(words.split(' ')).output();
            }
        }
    }
}

/// Nothing of the machine's own network is touched: here is none.
fn assert_own_network() {
    let links: serde_json::Value = serde_json::from_str(&ip("-j link show up")).expect("JSON");
    let names = links.as_array().expect("a list").iter().filter_map(|link| link["ifname"].as_str());
    let others: Vec<&str> = names.filter(|name| *name != "lo").collect();
    assert!(others.is_empty(), "run `cargo xtask machine namespaces`: here is {others:?}");
}

/// The interface of a border, by the region on its other side.
fn gate(to: &str) -> String {
    format!("to-{to}")
}

fn ip(words: &str) -> String {
    did("ip", words)
}

/// Runs a program that must succeed; gives its output.
fn did(program: &str, words: &str) -> String {
    let done = Command::new(program).args(words.split(' ')).output();
    let done = done.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {words}: {said}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}
