//! What each crate that goes to production may depend on. Every dependency is built, audited and
//! kept by everyone; a new one takes a place here, and says why it earns it.

use std::collections::BTreeSet;
use std::path::Path;

/// What palisade is built on: rings, forwarding, queues, maps, checksums and headers.
const FOUNDATIONS: [&str; 6] =
    ["crc32c", "crossbeam", "glommio", "io-uring", "memmap2", "zerocopy"];

/// Crates, and what they use besides the foundations and each other.
const BUDGETS: [(&str, &[&str]); 3] = [
    (
        "netio",
        &[
            // Constants and structures of the kernel that rustix does not have.
            "libc",
            // Ordinary system calls, without `unsafe`.
            "rustix",
            "thiserror",
        ],
    ),
    (
        "wal",
        &[
            "thiserror",
            // The chain over group headers.
            "xxhash-rust",
        ],
    ),
    (
        "engine",
        &[
            // Payloads that callers and queues share without a copy; part of the public face.
            "bytes",
            // What glommio's sockets need of their user: the traits, and the options that glommio
            // has no call for.
            "futures-lite",
            "socket2",
            // Chunks for other regions, in the block format of LZ4, without `unsafe`.
            "lz4_flex",
            // The status of a node, as JSON for those who ask over the network.
            "serde",
            "serde_json",
            "thiserror",
        ],
    ),
];

/// Checks the manifests.
pub(crate) fn check(root: &Path, findings: &mut Vec<String>) {
    for (name, own) in BUDGETS {
        let path = format!("{name}/Cargo.toml");
        match std::fs::read_to_string(root.join(&path)) {
            Ok(manifest) => compare(&path, &manifest, own, findings),
            Err(error) => findings.push(format!("{path}: {error}")),
        }
    }
}

fn compare(path: &str, manifest: &str, own: &[&str], findings: &mut Vec<String>) {
    let manifest: toml::Table = match toml::from_str(manifest) {
        Ok(manifest) => manifest,
        Err(error) => return findings.push(format!("{path}: {error}")),
    };
    let mut there = BTreeSet::new();
    collect(&manifest, &mut there);
    there.retain(|name| !name.starts_with("palisade") && !FOUNDATIONS.contains(&name.as_str()));
    for name in there.iter().filter(|name| !own.contains(&name.as_str())) {
        findings.push(format!("{path}: {name} has no place in tools/src/xtask/budget.rs"));
    }
    for name in own.iter().filter(|name| !there.contains(**name)) {
        findings.push(format!("{path}: {name} is gone; give its place back"));
    }
}

/// The names in every table of dependencies, those of one system too, but for tests' own.
fn collect(table: &toml::Table, names: &mut BTreeSet<String>) {
    for (key, value) in table {
        let Some(inner) = value.as_table() else { continue };
        match key.as_str() {
            "dependencies" | "build-dependencies" => names.extend(inner.keys().cloned()),
            "dev-dependencies" => {}
            _ => collect(inner, names),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(manifest: &str) -> Vec<String> {
        let mut findings = Vec::new();
        compare("x/Cargo.toml", manifest, &["libc"], &mut findings);
        findings
    }

    #[test]
    fn a_crate_has_what_its_budget_names_and_nothing_else() {
        let plain = "[dependencies]\nlibc.workspace = true\ncrc32c = \"1\"\npalisade-wal = \"1\"\n\
                     [dev-dependencies]\ntempfile = \"3\"\n";
        assert_eq!(findings(plain), [""; 0]);
        assert_eq!(findings("").len(), 1, "libc is gone");
        for more in ["[build-dependencies]", "[target.'cfg(unix)'.dependencies]"] {
            let found = findings(&format!("{plain}{more}\nnew = \"1\"\n"));
            assert!(found.len() == 1 && found[0].contains("new"), "{found:?}");
        }
    }
}
