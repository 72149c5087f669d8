//! How many files and sockets this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit as far as the process may by itself. What it is then; none: there is no limit.
pub fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    let raised = Rlimit { current: limit.maximum, ..limit };
    // It may be refused, as in a sandbox: what there is has to do.
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_may_have_it_gets() {
        let before = getrlimit(Resource::Nofile);
        let less = before.maximum.map_or(4096, |most| most - 1);
        setrlimit(Resource::Nofile, Rlimit { current: Some(less), ..before }).unwrap();
        assert_eq!(raise_open_files(), before.maximum);
        assert_eq!(getrlimit(Resource::Nofile), Rlimit { current: before.maximum, ..before });
    }
}
