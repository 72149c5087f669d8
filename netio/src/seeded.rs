//! Rules that a test can leave out: a build with `--cfg seeded_bugs` takes the name of one from
//! the environment. Every other build knows of none, and keeps every rule.

/// The environment variable that names the rule to leave out.
#[cfg(seeded_bugs)]
const CHOICE: &str = "PALISADE_SEEDED_BUG";

/// Whether the rule of this name is left out.
#[cfg(not(seeded_bugs))]
pub const fn is_seeded(_bug: &str) -> bool {
    false
}

/// Whether the rule of this name is left out.
#[cfg(seeded_bugs)]
pub fn is_seeded(bug: &str) -> bool {
    chosen().is_some_and(|name| name == bug)
}

/// Whether any rule is left out.
#[cfg(not(seeded_bugs))]
pub const fn is_any_seeded() -> bool {
    false
}

/// Whether any rule is left out.
#[cfg(seeded_bugs)]
pub fn is_any_seeded() -> bool {
    chosen().is_some()
}

#[cfg(seeded_bugs)]
fn chosen() -> Option<&'static str> {
    use std::sync::OnceLock;

    static NAME: OnceLock<Option<String>> = OnceLock::new();
    NAME.get_or_init(|| std::env::var(CHOICE).ok()).as_deref()
}
