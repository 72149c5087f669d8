//! Which node to ask next.

use std::net::{SocketAddr, ToSocketAddrs};

use super::ClientError;

/// Hints followed in a row before the list is asked again: two nodes that name each other must
/// not keep a client busy.
const HINTS_IN_A_ROW_MAX: usize = 3;

/// A list of nodes and the one that is asked next.
#[derive(Clone, Debug)]
pub struct Endpoints {
    known: Vec<SocketAddr>,
    next: usize,
    hint: Option<SocketAddr>,
    hints_in_a_row: usize,
}

/// Resolves `HOST:PORT`.
///
/// # Errors
/// When the name is no address or is not known.
pub fn resolve(name: &str) -> Result<SocketAddr, ClientError> {
    let wrong = |why: String| ClientError::Address { name: name.to_owned(), why };
    let mut found = name.to_socket_addrs().map_err(|error| wrong(error.to_string()))?;
    found.next().ok_or_else(|| wrong("the name has no address".to_owned()))
}

impl Endpoints {
    /// Resolves every name.
    ///
    /// # Errors
    /// When the list is empty or a name is no address.
    pub fn new<S: AsRef<str>>(names: &[S]) -> Result<Endpoints, ClientError> {
        let known: Result<Vec<_>, _> = names.iter().map(|name| resolve(name.as_ref())).collect();
        let known = known?;
        if known.is_empty() {
            let why = "no node was named".to_owned();
            return Err(ClientError::Address { name: String::new(), why });
        }
        Ok(Endpoints { known, next: 0, hint: None, hints_in_a_row: 0 })
    }

    /// Every node of the list.
    pub fn known(&self) -> &[SocketAddr] {
        &self.known
    }

    /// The node to ask now.
    pub fn current(&self) -> SocketAddr {
        self.hint.unwrap_or(self.known[self.next])
    }

    /// The current node answered.
    pub fn on_success(&mut self) {
        self.hints_in_a_row = 0;
    }

    /// The current node does not lead; it may have said who does. Returns whether the next one
    /// may be asked at once.
    pub fn on_not_leader(&mut self, hint: Option<&str>) -> bool {
        let asked = self.current();
        let hint = hint.and_then(|hint| hint.parse().ok()).filter(|&hint| hint != asked);
        if hint.is_some() && self.hints_in_a_row < HINTS_IN_A_ROW_MAX {
            self.hints_in_a_row += 1;
            self.hint = hint;
            return true;
        }
        self.on_failure();
        false
    }

    /// The current node did not answer.
    pub fn on_failure(&mut self) {
        self.hints_in_a_row = 0;
        if self.hint.take().is_none() {
            self.next = (self.next + 1) % self.known.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_followed_but_not_for_ever() {
        let mut nodes = Endpoints::new(&["127.0.0.1:1", "127.0.0.1:2"]).unwrap();
        assert!(nodes.on_not_leader(Some("127.0.0.1:9")));
        assert_eq!(nodes.current().port(), 9);
        assert!(nodes.on_not_leader(Some("127.0.0.1:8")));
        assert!(nodes.on_not_leader(Some("127.0.0.1:9")));
        assert!(!nodes.on_not_leader(Some("127.0.0.1:8")));
        assert_eq!(nodes.current().port(), 1);
        assert!(!nodes.on_not_leader(Some("127.0.0.1:1")), "a node that names itself");
        assert_eq!(nodes.current().port(), 2);
        nodes.on_failure();
        assert_eq!(nodes.current().port(), 1);
        assert!(Endpoints::new::<&str>(&[]).is_err());
        assert!(resolve("nonsense").is_err());
    }
}
