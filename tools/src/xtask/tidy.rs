//! Rules that no other tool checks.

use super::lane::{Outcome, root};
use super::{
    budget, docs, golden, names, operations, pages, programs, promises, purity, shape, source,
    unsafety,
};

/// `tidy`
pub(crate) fn run() -> Outcome {
    let root = root();
    let sources = match source::all(&root) {
        Ok(sources) => sources,
        Err(error) => return Outcome::Failed(vec![format!("{}: {error}", root.display())]),
    };
    let mut findings = Vec::new();
    for source in &sources {
        shape::check(source, &mut findings);
        unsafety::check(source, &mut findings);
        purity::check(source, &mut findings);
        programs::check(source, &mut findings);
    }
    docs::check(&root, &sources, &mut findings);
    budget::check(&root, &mut findings);
    names::check(&root, &sources, &mut findings);
    golden::check(&root, &mut findings);
    pages::check(&root, &mut findings);
    promises::check(&root, &mut findings);
    operations::check(&root, &sources, &mut findings);
    if findings.is_empty() { Outcome::Passed } else { Outcome::Failed(findings) }
}
