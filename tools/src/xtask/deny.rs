//! deny.toml: which licences, crates and sources may be built into palisade.
//!
//! It reads what cargo-deny reads of that file, and compares it with `cargo metadata`: so the file
//! is checked on every machine, not on those alone that have the tool.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::lane::{Outcome, root};
use super::licence;

/// The file.
const FILE: &str = "deny.toml";

#[derive(Deserialize)]
struct Rules {
    graph: Graph,
    licenses: Licences,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct Licences {
    allow: Vec<String>,
    exceptions: Vec<Exception>,
}

/// Licences that one crate may have besides.
#[derive(Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Named>,
    skip: Vec<Named>,
}

/// A crate, `NAME` or `NAME@VERSION` with as much of the version as matters.
#[derive(Deserialize)]
struct Named {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
}

/// What `cargo metadata` says, as far as it matters here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// None for the crates of this workspace.
    source: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    req: String,
    path: Option<String>,
}

/// `deny`
pub(crate) fn run() -> Outcome {
    match look() {
        Ok(findings) if findings.is_empty() => Outcome::Passed,
        Ok(findings) => Outcome::Failed(findings),
        Err(error) => Outcome::Failed(vec![error]),
    }
}

fn look() -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(root().join(FILE)).map_err(|e| format!("{FILE}: {e}"))?;
    let rules: Rules = toml::from_str(&text).map_err(|e| format!("{FILE}: {e}"))?;
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(["metadata", "--format-version", "1", "--locked"]).current_dir(root());
    for target in &rules.graph.targets {
        command.args(["--filter-platform", target]);
    }
    let output = command.stderr(Stdio::inherit()).output().map_err(|e| format!("cargo: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", output.status));
    }
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata: {e}"))?;
    Ok(compare(&rules, &metadata.packages))
}

fn compare(rules: &Rules, packages: &[Package]) -> Vec<String> {
    let mut findings = Vec::new();
    for package in packages {
        let mut wrong = |why: String| findings.push(format!("{} {why}", package.full_name()));
        if let Some(why) = licence_of(&rules.licenses, package) {
            wrong(why);
        }
        if let Some(banned) = rules.bans.deny.iter().find(|banned| package.is(&banned.name)) {
            wrong(format!("is banned: {}", banned.reason));
        }
        if let Some(source) = &package.source {
            let registry = source.strip_prefix("registry+").unwrap_or_default();
            if !rules.sources.allow_registry.iter().any(|allowed| allowed == registry) {
                wrong(format!("comes from {source}"));
            }
        }
        let any = |wanted: &&Dependency| wanted.req == "*" && wanted.path.is_none();
        for wanted in package.dependencies.iter().filter(any) {
            wrong(format!("takes any version of {}", wanted.name));
        }
    }
    twice(&rules.bans.skip, packages, &mut findings);
    for name in rules.licenses.exceptions.iter().map(|exception| &exception.name) {
        if !packages.iter().any(|package| package.is(name)) {
            findings.push(format!("{FILE}: an exception for {name}, which is gone"));
        }
    }
    findings
}

/// What is wrong with the licence of a crate.
fn licence_of(rules: &Licences, package: &Package) -> Option<String> {
    let Some(expression) = &package.license else { return Some("names no licence".to_owned()) };
    let own = rules.exceptions.iter().filter(|exception| package.is(&exception.name));
    let own = own.flat_map(|exception| &exception.allow);
    let allowed: Vec<String> = rules.allow.iter().chain(own).cloned().collect();
    match licence::is_allowed(expression, &allowed) {
        Ok(true) => None,
        Ok(false) => Some(format!("is licensed {expression}")),
        Err(error) => Some(error),
    }
}

/// Crates of which several versions are built, but for those that are skipped.
fn twice(skip: &[Named], packages: &[Package], findings: &mut Vec<String>) {
    let mut versions = BTreeMap::<&str, Vec<&Package>>::new();
    for package in packages {
        versions.entry(&package.name).or_default().push(package);
    }
    versions.retain(|_, all| all.len() > 1);
    for all in versions.values() {
        let counted = all.iter().filter(|package| !skip.iter().any(|one| package.is(&one.name)));
        if counted.count() > 1 {
            let names: Vec<String> = all.iter().map(|package| package.full_name()).collect();
            findings.push(format!("several versions: {}", names.join(", ")));
        }
    }
    for one in skip {
        if !versions.values().flatten().any(|package| package.is(&one.name)) {
            findings.push(format!("{FILE}: {} is not there beside another version", one.name));
        }
    }
}

impl Package {
    fn full_name(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    /// Whether `NAME` or `NAME@VERSION` means this one.
    fn is(&self, name: &str) -> bool {
        let Some((name, version)) = name.split_once('@') else { return self.name == name };
        let rest = self.version.strip_prefix(version);
        self.name == name && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"
        [graph]
        targets = []
        [licenses]
        allow = ["MIT"]
        exceptions = [{ crate = "odd", allow = ["MPL-2.0"] }]
        [bans]
        skip = [{ crate = "old@1", reason = "known" }]
        deny = [{ crate = "bad", reason = "it is" }]
        [sources]
        allow-registry = ["https://good"]
    "#;

    fn package(name: &str, version: &str, licence: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
            license: Some(licence.to_owned()),
            source: Some("registry+https://good".to_owned()),
            dependencies: Vec::new(),
        }
    }

    fn findings(more: Vec<Package>) -> Vec<String> {
        let rules: Rules = toml::from_str(RULES).expect("rules");
        let mut all = vec![
            Package { source: None, ..package("own", "0.1.0", "MIT") },
            package("odd", "2.0.0", "MPL-2.0"),
            package("old", "1.4.0", "MIT"),
            package("old", "2.0.0", "MIT"),
        ];
        all.extend(more);
        compare(&rules, &all)
    }

    #[test]
    fn what_the_rules_allow_is_no_finding() {
        assert_eq!(findings(vec![package("plain", "1.0.0", "MIT OR GPL-3.0")]), [""; 0]);
    }

    #[test]
    fn each_rule_that_is_broken_is_a_finding() {
        let foreign = |source: &str| {
            vec![Package { source: Some(source.to_owned()), ..package("new", "1.0.0", "MIT") }]
        };
        let any = Dependency { name: "x".to_owned(), req: "*".to_owned(), path: None };
        let beside = Dependency { path: Some("/x".to_owned()), req: "*".to_owned(), ..any };
        let any = Dependency { name: "x".to_owned(), req: "*".to_owned(), path: None };
        let takes =
            |wanted| vec![Package { dependencies: vec![wanted], ..package("new", "1.0.0", "MIT") }];
        let cases = [
            (vec![package("new", "1.0.0", "GPL-3.0")], "is licensed GPL-3.0"),
            (vec![package("new", "1.0.0", "MPL-2.0")], "is licensed MPL-2.0"),
            (vec![Package { license: None, ..package("new", "1.0.0", "") }], "names no licence"),
            (vec![package("bad", "3.0.0", "MIT")], "is banned: it is"),
            (vec![package("old", "3.0.0", "MIT")], "several versions"),
            (foreign("registry+https://bad"), "comes from registry+https://bad"),
            (foreign("git+https://good"), "comes from git+https://good"),
            (takes(any), "takes any version of x"),
        ];
        for (packages, words) in cases {
            let found = findings(packages);
            assert!(found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
        }
        assert_eq!(findings(takes(beside)), [""; 0]);
    }

    #[test]
    fn what_is_gone_leaves_the_file() {
        let rules: Rules = toml::from_str(RULES).expect("rules");
        let found = compare(&rules, &[package("old", "1.4.0", "MIT")]);
        assert!(found.iter().any(|line| line.contains("odd")), "{found:?}");
        assert!(found.iter().any(|line| line.contains("old@1")), "{found:?}");
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(!package("old", "12.0.0", "MIT").is("old@1"));
    }
}
