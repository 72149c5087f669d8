//! Licence expressions: `MIT OR (Apache-2.0 AND Zlib)`, and the old `MIT/Apache-2.0`.

/// Whether `allowed` holds enough of the licences that an expression names.
///
/// # Errors
/// The expression makes no sense.
pub(crate) fn is_allowed(expression: &str, allowed: &[String]) -> Result<bool, String> {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut words = &words[..];
    match any(&mut words, allowed) {
        Some(verdict) if words.is_empty() => Ok(verdict),
        _ => Err(format!("{expression:?} is no licence expression")),
    }
}

/// Takes the next word if it is this one.
fn take(words: &mut &[&str], word: &str) -> bool {
    let found = words.first() == Some(&word);
    if found {
        *words = &words[1..];
    }
    found
}

/// `A OR B`: both are read to their end, so that nonsense behind an allowed one is seen.
fn any(words: &mut &[&str], allowed: &[String]) -> Option<bool> {
    let mut verdict = all(words, allowed)?;
    while take(words, "OR") {
        verdict |= all(words, allowed)?;
    }
    Some(verdict)
}

/// `A AND B`, which binds closer.
fn all(words: &mut &[&str], allowed: &[String]) -> Option<bool> {
    let mut verdict = one(words, allowed)?;
    while take(words, "AND") {
        verdict &= one(words, allowed)?;
    }
    Some(verdict)
}

/// One licence, with its exception if it has one, or an expression in brackets.
fn one(words: &mut &[&str], allowed: &[String]) -> Option<bool> {
    if take(words, "(") {
        let verdict = any(words, allowed)?;
        return take(words, ")").then_some(verdict);
    }
    let (name, rest) = words.split_first()?;
    if ["OR", "AND", "WITH", ")"].contains(name) {
        return None;
    }
    *words = rest;
    // "This version or later" is met by this version.
    let name = name.strip_suffix('+').unwrap_or(name).to_owned();
    if !take(words, "WITH") {
        return Some(allowed.contains(&name));
    }
    let (exception, rest) = words.split_first()?;
    *words = rest;
    Some(allowed.contains(&format!("{name} WITH {exception}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(expression: &str) -> Result<bool, String> {
        is_allowed(expression, &["MIT".to_owned(), "Zlib".to_owned(), "MPL-2.0".to_owned()])
    }

    #[test]
    fn one_choice_that_is_allowed_is_enough_and_all_parts_of_it_must_be() {
        for good in
            ["MIT", "GPL-3.0 OR MIT", "GPL-3.0/MIT", "MPL-2.0+", "(GPL-3.0 OR MIT) AND Zlib"]
        {
            assert_eq!(verdict(good), Ok(true), "{good}");
        }
        let bad = ["GPL-3.0", "MIT AND GPL-3.0", "GPL-3.0 OR MIT AND GPL-3.0", "MIT WITH a-clause"];
        for bad in bad {
            assert_eq!(verdict(bad), Ok(false), "{bad}");
        }
    }

    #[test]
    fn nonsense_is_allowed_by_nothing() {
        for nonsense in ["", "MIT OR", "MIT MIT", "(MIT", "MIT)", "AND MIT", "MIT WITH"] {
            assert!(verdict(nonsense).is_err(), "{nonsense}");
        }
    }
}
