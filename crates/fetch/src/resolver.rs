//! Names become addresses only here, and only addresses that are allowed leave: what was checked is what is connected to, so a name
//! cannot point elsewhere between the two.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::policy::{Policy, PolicyError};

/// The system's resolver behind the policy.
pub(crate) struct GuardedResolver {
    policy: Arc<Policy>,
    /// Proxies, which the user named himself and which are nearby as a rule.
    exempt: BTreeSet<String>,
}

impl GuardedResolver {
    pub(crate) fn new(policy: Arc<Policy>, exempt: BTreeSet<String>) -> GuardedResolver {
        GuardedResolver { policy, exempt }
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = Arc::clone(&self.policy);
        let exempt = self.exempt.contains(&name.as_str().to_ascii_lowercase());
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed = if exempt { found.collect() } else { judge(&policy, name.as_str(), found)? };
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// The addresses that are allowed; an error when there are only others. One forbidden address among allowed ones is left out.
fn judge(
    policy: &Policy,
    host: &str,
    found: impl Iterator<Item = SocketAddr>,
) -> Result<Vec<SocketAddr>, PolicyError> {
    let (mut allowed, mut refused) = (Vec::new(), None);
    for address in found {
        match policy.check_address(host, address.ip()) {
            Ok(()) => allowed.push(address),
            Err(error) => refused = Some(error),
        }
    }
    match refused {
        Some(error) if allowed.is_empty() => Err(error),
        _ => Ok(allowed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 0)).collect()
    }

    #[test]
    fn forbidden_addresses_are_never_connected_to() {
        let judge = |found: &[&str]| judge(&Policy::default(), "e.com", addresses(found).into_iter());
        assert_eq!(judge(&["1.1.1.1", "10.0.0.1"]).unwrap(), addresses(&["1.1.1.1"]));
        let error = judge(&["10.0.0.1", "::1"]).unwrap_err();
        assert!(matches!(&error, PolicyError::Private { host, .. } if host == "e.com"), "{error}");
        assert!(error.to_string().contains("--allow-private"));
    }

    #[tokio::test]
    async fn a_name_of_this_machine_resolves_only_where_it_is_allowed() {
        let resolve = |policy: Policy, exempt: &[&str]| {
            let exempt = exempt.iter().map(|name| (*name).to_owned()).collect();
            GuardedResolver::new(Arc::new(policy), exempt).resolve("localhost".parse().unwrap())
        };
        assert!(resolve(Policy::default(), &[]).await.is_err());
        assert!(resolve(Policy::default(), &["localhost"]).await.is_ok());
        let open = Policy { allow_private: true, ..Policy::default() };
        assert!(resolve(open, &[]).await.is_ok());
    }
}
