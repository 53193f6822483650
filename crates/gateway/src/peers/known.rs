//! Which gateways should be there, from what a list, name servers and the gateways themselves say. Pure.
//!
//! Limits are divided among gateways by their names, and a name is only learned from a gateway's report. Until then its address stands for it,
//! so that its part of every limit is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use wharf_access::shares::LEASE;

/// What is known of the gateways behind a list.
#[derive(Debug)]
pub(super) struct Known {
    me: String,
    /// The addresses that each entry stands for; none until they are known.
    entries: BTreeMap<String, Option<Vec<SocketAddr>>>,
    at: BTreeMap<SocketAddr, At>,
}

/// Who is at an address.
#[derive(Clone, Debug, PartialEq)]
enum At {
    /// Somebody may be.
    Unknown,
    /// Nobody listens there, and nobody was heard from there lately.
    Nobody,
    Me,
    Gateway {
        name: String,
        heard: Instant,
    },
}

impl Known {
    /// Addresses in the list are known at once, names when somebody has looked them up.
    pub(super) fn new(me: &str, list: &[String]) -> Known {
        let mut known = Known { me: me.to_owned(), entries: BTreeMap::new(), at: BTreeMap::new() };
        for entry in list {
            known.entries.insert(entry.clone(), None);
            if let Ok(address) = entry.parse() {
                known.resolved(entry, vec![address]);
            }
        }
        known
    }

    /// Entries whose addresses may change.
    pub(super) fn to_look_up(&self) -> Vec<String> {
        self.entries.keys().filter(|entry| entry.parse::<SocketAddr>().is_err()).cloned().collect()
    }

    /// These are all addresses of an entry now.
    pub(super) fn resolved(&mut self, entry: &str, addresses: Vec<SocketAddr>) {
        self.entries.insert(entry.to_owned(), Some(addresses));
        let all: BTreeSet<SocketAddr> = self.entries.values().flatten().flatten().copied().collect();
        self.at.retain(|address, _| all.contains(address));
        for address in all {
            self.at.entry(address).or_insert(At::Unknown);
        }
    }

    /// A report came from there. Says whether it is another gateway's.
    pub(super) fn heard(&mut self, address: SocketAddr, gateway: &str, now: Instant) -> bool {
        let is_me = gateway == self.me;
        if let Some(at) = self.at.get_mut(&address) {
            *at = if is_me { At::Me } else { At::Gateway { name: gateway.to_owned(), heard: now } };
        }
        !is_me
    }

    /// Nobody listens there: whoever did has ended. One who was heard lately keeps its part for as long as one who falls silent.
    pub(super) fn refused(&mut self, address: SocketAddr, now: Instant) {
        if let Some(at) = self.at.get_mut(&address)
            && !matches!(at, At::Gateway { heard, .. } if now.saturating_duration_since(*heard) <= LEASE)
        {
            *at = At::Nobody;
        }
    }

    /// No report came from there, and nobody can say whether a gateway is there.
    pub(super) fn silent(&mut self, address: SocketAddr) {
        if let Some(at) = self.at.get_mut(&address)
            && *at == At::Nobody
        {
            *at = At::Unknown;
        }
    }

    /// Where to ask; not at home.
    pub(super) fn to_ask(&self) -> impl Iterator<Item = SocketAddr> {
        self.at.iter().filter(|(_, at)| **at != At::Me).map(|(address, _)| *address)
    }

    /// Names of all other gateways that should be there.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let unresolved = self.entries.iter().filter(|(_, addresses)| addresses.is_none());
        let unresolved = unresolved.map(|(entry, _)| entry.clone());
        let others = self.at.iter().filter_map(|(address, at)| match at {
            At::Unknown => Some(address.to_string()),
            At::Gateway { name, .. } => Some(name.clone()),
            At::Nobody | At::Me => None,
        });
        unresolved.chain(others).collect()
    }

    /// How many of them were heard lately.
    pub(super) fn heard_lately(&self, now: Instant) -> usize {
        let lately = |at: &&At| matches!(at, At::Gateway { heard, .. } if now.saturating_duration_since(*heard) <= LEASE);
        let name = |at: &At| match at {
            At::Gateway { name, .. } => Some(name.clone()),
            At::Unknown | At::Nobody | At::Me => None,
        };
        self.at.values().filter(lately).filter_map(name).collect::<BTreeSet<_>>().len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn known(list: &[&str]) -> Known {
        Known::new("me", &list.iter().map(|&entry| entry.to_owned()).collect::<Vec<_>>())
    }

    fn names(known: &Known) -> Vec<String> {
        known.names().into_iter().collect()
    }

    #[test]
    fn an_address_stands_for_its_gateway_until_that_says_its_name() {
        let now = Instant::now();
        let mut known = known(&["10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3"]);
        assert_eq!(names(&known), ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3"]);
        assert!(!known.heard(address(1), "me", now) && known.heard(address(2), "b", now));
        assert_eq!(names(&known), ["10.0.0.1:3", "b"]);
        assert_eq!(known.to_ask().collect::<Vec<_>>(), [address(2), address(3)]);
        assert_eq!(known.heard_lately(now), 1);
        assert_eq!(known.heard_lately(now + LEASE * 2), 0);
    }

    #[test]
    fn a_name_stands_for_all_its_addresses_and_for_one_gateway_until_they_are_known() {
        let mut known = known(&["gateways:8002"]);
        assert_eq!(
            (names(&known), known.to_look_up()),
            (vec!["gateways:8002".into()], vec!["gateways:8002".into()])
        );
        known.resolved("gateways:8002", vec![address(1), address(2)]);
        known.heard(address(2), "b", Instant::now());
        // A pod that is gone is gone at once, a new one is expected at once; who stays stays known.
        known.resolved("gateways:8002", vec![address(2), address(3)]);
        assert_eq!(names(&known), ["10.0.0.1:3", "b"]);
    }

    #[test]
    fn where_nobody_listens_there_is_no_gateway_but_one_that_was_heard_keeps_its_part_for_its_lease() {
        let now = Instant::now();
        let mut known = known(&["10.0.0.1:1", "10.0.0.1:2"]);
        known.heard(address(1), "a", now);
        known.refused(address(1), now + LEASE);
        known.refused(address(2), now);
        assert_eq!(names(&known), ["a"]);
        known.refused(address(1), now + LEASE + Duration::from_millis(1));
        assert_eq!(names(&known), Vec::<String>::new());
        // Silence is no proof that nobody is there.
        known.silent(address(2));
        known.heard(address(1), "a2", now);
        known.silent(address(1));
        assert_eq!(names(&known), ["10.0.0.1:2", "a2"]);
    }

    #[test]
    fn a_gateway_with_two_addresses_is_one() {
        let now = Instant::now();
        let mut known = known(&["10.0.0.1:1", "10.0.0.1:2"]);
        known.heard(address(1), "a", now);
        known.heard(address(2), "a", now);
        assert_eq!((names(&known), known.heard_lately(now)), (vec!["a".to_owned()], 1));
    }
}
