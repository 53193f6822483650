//! Decides whom we talk to: schemes, hosts and addresses. Pure; whoever opens a connection or follows a redirect asks first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use reqwest::Url;
use wharf_api::source::{SCHEMES, Scheme};

/// What is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Sources may begin with one of these.
    pub schemes: Vec<Scheme>,
    /// Only these hosts; every one if there is none.
    pub hosts: Vec<HostPattern>,
    /// Whether private, loopback and link-local addresses are allowed too. Those of metadata services never are.
    pub allow_private: bool,
}

impl Default for Policy {
    fn default() -> Self {
        let schemes = SCHEMES.into_iter().filter(|scheme| *scheme != Scheme::Http).collect();
        Policy { schemes, hosts: Vec::new(), allow_private: false }
    }
}

/// A host (`hub.example.com`), or all below a domain (`*.example.com`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    /// Without the star; in lower case.
    name: String,
    below: bool,
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
        match !name.is_empty() && name.chars().all(plain) {
            true => Ok(HostPattern { name: name.to_ascii_lowercase(), below }),
            false => Err(format!("`{text}` is no host; write one as hub.example.com or *.example.com")),
        }
    }
}

impl HostPattern {
    fn matches(&self, host: &str) -> bool {
        match self.below {
            true => host.strip_suffix(self.name.as_str()).is_some_and(|rest| rest.ends_with('.')),
            false => host == self.name,
        }
    }
}

/// Why something is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The source's scheme is not among those allowed.
    #[error("{scheme}:// is not allowed here; allowed: {allowed} (--allow-scheme)")]
    Scheme {
        /// The one refused.
        scheme: String,
        /// Those that are not.
        allowed: String,
    },
    /// The host is not among those allowed.
    #[error("the host {0} is not allowed; --allow-host {0} would allow it")]
    Host(String),
    /// The address is one that only machines nearby can reach.
    #[error("{host} is at {address}, which is not a public address; --allow-private allows such addresses")]
    Private {
        /// As written.
        host: String,
        /// What it stands for.
        address: IpAddr,
    },
    /// The address is that of a service that hands out credentials of this machine.
    #[error("{host} is at {address}, which hands out this machine's credentials and is never a source")]
    Metadata {
        /// As written.
        host: String,
        /// What it stands for.
        address: IpAddr,
    },
    /// A proxy is no source: its address was not checked.
    #[error("the host {0} is the proxy itself; --allow-private would allow it")]
    Proxy(String),
    /// Not a URL of the web.
    #[error("{0} is no web address")]
    NotWeb(String),
}

impl Policy {
    /// Whether a source may begin so.
    pub fn check_scheme(&self, scheme: Scheme) -> Result<(), PolicyError> {
        if self.schemes.contains(&scheme) {
            return Ok(());
        }
        let allowed: Vec<&str> = self.schemes.iter().map(|scheme| scheme.name()).collect();
        Err(PolicyError::Scheme { scheme: scheme.name().to_owned(), allowed: allowed.join(", ") })
    }

    /// Whether a request may go there: encryption, host, and the address if it is written in the URL. Names are checked again when
    /// they are resolved. `plain` are the origins that the user named with `http://` himself.
    pub(crate) fn check_url(&self, url: &Url, plain: &[String]) -> Result<(), PolicyError> {
        let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
        match url.scheme() {
            "https" => {}
            "http" if self.schemes.contains(&Scheme::Http) || plain.contains(&origin(url)) => {}
            "http" => {
                let allowed = "https".to_owned();
                return Err(PolicyError::Scheme { scheme: format!("{host} over http"), allowed });
            }
            _ => return Err(PolicyError::NotWeb(url.scheme().to_owned())),
        }
        if host.is_empty() {
            return Err(PolicyError::NotWeb(url.scheme().to_owned()));
        }
        if !self.hosts.is_empty() && !self.hosts.iter().any(|pattern| pattern.matches(&host)) {
            return Err(PolicyError::Host(host));
        }
        match host.trim_start_matches('[').trim_end_matches(']').parse() {
            Ok(address) => self.check_address(&host, address),
            Err(_) => Ok(()),
        }
    }

    /// Whether a connection may go to this address of that host.
    pub(crate) fn check_address(&self, host: &str, address: IpAddr) -> Result<(), PolicyError> {
        let host = host.to_owned();
        if embedded(address).is_some_and(is_metadata) || is_metadata(address) {
            return Err(PolicyError::Metadata { host, address });
        }
        match self.allow_private || is_public(address) {
            true => Ok(()),
            false => Err(PolicyError::Private { host, address }),
        }
    }
}

/// Scheme, host and port as one text.
pub(crate) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// Services of clouds that answer every process on a machine: AWS, Azure, Google and others on 169.254.169.254, AWS's for containers, the
/// Azure host, Alibaba.
fn is_metadata(address: IpAddr) -> bool {
    const V4: [Ipv4Addr; 5] = [
        Ipv4Addr::new(169, 254, 169, 254),
        Ipv4Addr::new(169, 254, 170, 2),
        Ipv4Addr::new(169, 254, 170, 23),
        Ipv4Addr::new(168, 63, 129, 16),
        Ipv4Addr::new(100, 100, 100, 200),
    ];
    const V6: [Ipv6Addr; 2] = [
        Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
        Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    ];
    match address {
        IpAddr::V4(address) => V4.contains(&address),
        IpAddr::V6(address) => V6.contains(&address),
    }
}

/// The IPv4 address that an IPv6 address stands for, by the several ways to write one in the other.
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(address) = address else { return None };
    let s = address.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
    };
    match s {
        // ::ffff:a.b.c.d, and the deprecated ::a.b.c.d
        [0, 0, 0, 0, 0, 0xffff, high, low] => v4(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => v4(high, low),
        // NAT64 and 6to4
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => None,
    }
}

/// Whether the address is one of the internet at large (IANA's special-purpose registries).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            let special = address.is_unspecified()
                || address.is_loopback()
                || address.is_private()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_broadcast()
                || address.is_documentation()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (b == 18 || b == 19));
            !special
        }
        IpAddr::V6(v6) => {
            if let Some(v4) = embedded(address) {
                return is_public(v4);
            }
            let s = v6.segments();
            // Global unicast is 2000::/3; protocols' own blocks (2001::/23) and two for documentation are cut out of it.
            let special = matches!(s, [0x2001, 0..0x200 | 0xdb8, ..] | [0x3fff, ..]);
            s[0] & 0xe000 == 0x2000 && !special
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    fn check(policy: &Policy, text: &str) -> Result<(), PolicyError> {
        policy.check_url(&url(text), &[])
    }

    #[test]
    fn only_public_addresses_are_public() {
        for address in ["1.1.1.1", "9.9.9.9", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.1.1",
            "172.16.0.1",
            "192.168.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "192.0.2.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::7f00:1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001:0:1::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn addresses_in_urls_are_seen_through_however_they_are_written() {
        let policy = Policy::default();
        for host in
            ["127.0.0.1", "127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1", "[::1]", "[::ffff:7f00:1]"]
        {
            let refused = check(&policy, &format!("https://{host}/x"));
            assert!(matches!(refused, Err(PolicyError::Private { .. })), "{host}: {refused:?}");
        }
        let policy = Policy { allow_private: true, ..policy };
        assert_eq!(check(&policy, "https://127.0.0.1/x"), Ok(()));
    }

    #[test]
    fn metadata_services_are_refused_even_where_private_addresses_are_not() {
        let policy = Policy { allow_private: true, ..Policy::default() };
        for host in ["169.254.169.254", "[::ffff:a9fe:a9fe]", "[fd00:ec2::254]", "168.63.129.16"] {
            let refused = check(&policy, &format!("https://{host}/x"));
            assert!(matches!(refused, Err(PolicyError::Metadata { .. })), "{host}: {refused:?}");
        }
    }

    #[test]
    fn hosts_are_matched_whole_or_below_a_domain() {
        let hosts = ["hub.example.com", "*.cdn.example.com"].map(|host| host.parse().unwrap()).to_vec();
        let policy = Policy { hosts, ..Policy::default() };
        for (host, expected) in [
            ("hub.example.com", true),
            ("HUB.example.com", true),
            ("a.cdn.example.com", true),
            ("cdn.example.com", false),
            ("evilcdn.example.com", false),
            ("hub.example.com.evil.org", false),
        ] {
            assert_eq!(check(&policy, &format!("https://{host}/x")).is_ok(), expected, "{host}");
        }
        assert!("https://x".parse::<HostPattern>().is_err());
    }

    #[test]
    fn plain_http_needs_to_be_allowed_or_named() {
        let policy = Policy::default();
        assert!(matches!(check(&policy, "http://e.com/x"), Err(PolicyError::Scheme { .. })));
        assert_eq!(policy.check_url(&url("http://e.com/x"), &["http://e.com".into()]), Ok(()));
        assert!(policy.check_url(&url("http://e.com:81/x"), &["http://e.com".into()]).is_err());
        let policy = Policy { schemes: vec![Scheme::Http], ..policy };
        assert_eq!(check(&policy, "http://e.com/x"), Ok(()));
        assert!(matches!(check(&policy, "ftp://e.com/x"), Err(PolicyError::NotWeb(_))));
        assert!(policy.check_scheme(Scheme::Hf).unwrap_err().to_string().contains("allowed: http"));
    }
}
