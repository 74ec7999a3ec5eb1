//! The rules on where an image may come from: schemes, hosts and addresses. Schemes and hosts are checked at every redirect.
//! Addresses are checked where they are literal, and else all that a name resolves to are checked, and one of these is
//! connected to. So neither a redirect nor a name that changes its mind reaches the host's own network.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};
use wildmatch::WildMatch;

use qhost_sys::addresses;

use super::{NetworkSettings, Scheme};
use crate::limits;

/// The operator's rules on sources of images.
#[derive(Debug, Clone)]
pub struct NetworkRules {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
    hosts: Vec<WildMatch>,
    deny_hosts: Vec<WildMatch>,
    schemes: Vec<Scheme>,
    /// This host's own addresses, also public ones: a service that listens there need not be meant for tenants.
    own: Vec<IpAddr>,
    /// The proxy's host, whose address is the operator's choice and not checked.
    proxy: Option<String>,
}

impl NetworkRules {
    /// Makes the rules of a configuration.
    pub fn new(config: &NetworkSettings) -> Self {
        let patterns =
            |hosts: &[String]| hosts.iter().map(|host| WildMatch::new(&name(host))).collect();
        Self {
            allow: config.allow.clone(),
            deny: config.deny.clone(),
            hosts: patterns(&config.hosts),
            deny_hosts: patterns(&config.deny_hosts),
            schemes: config.schemes.clone(),
            // If the host's own addresses cannot be listed, only the networks that are not public are refused.
            own: addresses::own().unwrap_or_default(),
            proxy: config.proxy.as_ref().and_then(Url::host_str).map(name),
        }
    }

    /// Whether an image may come from this address.
    pub fn permits(&self, address: IpAddr) -> bool {
        let address = addresses::unwrapped(address);
        let in_one_of = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&address));
        let public = || !self.own.contains(&address) && addresses::is_public(address);
        !in_one_of(&self.deny) && (in_one_of(&self.allow) || public())
    }

    /// Checks what can be known of a URL before its host's name is resolved.
    pub(super) fn check(&self, url: &Url) -> Result<(), Forbidden> {
        if !self.schemes.iter().any(|scheme| scheme.name() == url.scheme()) {
            return Err(Forbidden::Scheme(url.scheme().to_owned()));
        }
        let host = name(url.host_str().unwrap_or_default());
        let in_one_of = |hosts: &[WildMatch]| hosts.iter().any(|pattern| pattern.matches(&host));
        if in_one_of(&self.deny_hosts) || !(self.hosts.is_empty() || in_one_of(&self.hosts)) {
            return Err(Forbidden::Host(host));
        }
        // A literal address never reaches the resolver, and a proxy must not be asked for a service on its own loopback.
        let address = match url.host() {
            Some(Host::Ipv4(address)) => address.into(),
            Some(Host::Ipv6(address)) => address.into(),
            Some(Host::Domain(_)) if is_loopback(&host) => Ipv4Addr::LOCALHOST.into(),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        if self.permits(address) {
            Ok(())
        } else {
            Err(Forbidden::Address { host, addresses: address.to_string() })
        }
    }

    /// Checks the address that was connected to.
    pub(super) fn check_peer(&self, url: &Url, peer: Option<SocketAddr>) -> Result<(), Forbidden> {
        match peer.filter(|peer| self.proxy.is_none() && !self.permits(peer.ip())) {
            None => Ok(()),
            Some(peer) => {
                let host = name(url.host_str().unwrap_or_default());
                Err(Forbidden::Address { host, addresses: peer.ip().to_string() })
            }
        }
    }
}

/// A host's name for comparison, without the root's dot at its end, which changes nothing.
fn name(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// Whether a name stands for loopback wherever it is resolved (RFC 6761, 6.3).
fn is_loopback(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// The reason why an image may not come from a place.
#[derive(Debug, thiserror::Error)]
pub(super) enum Forbidden {
    #[error("images may not come by {0}: (image.network.schemes)")]
    Scheme(String),
    #[error("images may not come from {0} (image.network.hosts, deny_hosts)")]
    Host(String),
    #[error(
        "{host} is at {addresses}, from where images may not come; the operator can allow it: image.network.allow"
    )]
    Address { host: String, addresses: String },
}

/// Resolves names to permitted addresses only, so that a connection is made to a permitted one.
impl Resolve for NetworkRules {
    fn resolve(&self, asked: Name) -> Resolving {
        let rules = self.clone();
        Box::pin(async move {
            let host = asked.as_str().to_owned();
            let all: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            if rules.proxy.as_ref().is_some_and(|proxy| *proxy == name(&host)) {
                return Ok(Box::new(all.into_iter()) as Addrs);
            }
            let (permitted, refused): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|address| rules.permits(address.ip()));
            // A name that has one forbidden address among others is how DNS rebinding works, so that none of them is used.
            if !refused.is_empty() {
                return Err(Forbidden::Address { host, addresses: listed(&refused) }.into());
            }
            Ok(Box::new(permitted.into_iter().take(limits::ADDRESSES)) as Addrs)
        })
    }
}

/// Lists the first of some addresses: a name can have thousands.
fn listed(addresses: &[SocketAddr]) -> String {
    let first = addresses.iter().take(limits::ADDRESSES_SHOWN).map(|one| one.ip().to_string());
    let first = first.collect::<Vec<_>>().join(", ");
    match addresses.len().saturating_sub(limits::ADDRESSES_SHOWN) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(edit: impl FnOnce(&mut NetworkSettings)) -> NetworkRules {
        let mut config = NetworkSettings::default();
        edit(&mut config);
        NetworkRules::new(&config)
    }

    fn check(address: &str, allow: &str, permitted: bool) {
        let allow = allow.split_whitespace().map(|net| net.parse().unwrap()).collect();
        let rules = rules(|config| config.allow = allow);
        assert_eq!(rules.permits(address.parse().unwrap()), permitted, "{address}");
    }

    #[test]
    fn only_public_addresses() {
        for public in ["1.1.1.1", "172.32.0.1", "2606:4700::1", "::ffff:1.1.1.1", "2002:101:101::"]
        {
            check(public, "", true);
        }
        for denied in [
            "127.0.0.1",
            "10.1.2.3",
            "169.254.169.254",
            "172.31.255.255",
            "192.168.1.1",
            "0.0.0.0",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001::1",
            "::ffff:0:127.0.0.1",
            "4000::1",
            "168.63.129.16",
        ] {
            check(denied, "", false);
        }
    }

    #[test]
    fn what_the_operator_allows() {
        check("127.0.0.1", "127.0.0.0/8", true);
        check("::ffff:127.0.0.1", "127.0.0.0/8", true);
        check("10.0.0.1", "127.0.0.0/8", false);
    }

    #[test]
    fn this_hosts_own_addresses() {
        let mut rules = rules(|_| {});
        assert!(rules.own.contains(&"127.0.0.1".parse().unwrap()), "{:?}", rules.own);
        rules.own.push("1.1.1.1".parse().unwrap());
        assert!(!rules.permits("1.1.1.1".parse().unwrap()));
        assert!(!rules.permits("::ffff:1.1.1.1".parse().unwrap()));
    }

    #[test]
    fn what_the_operator_denies() {
        let rules = rules(|config| {
            config.allow = vec!["127.0.0.0/8".parse().unwrap()];
            config.deny = vec!["127.0.0.2/32".parse().unwrap(), "1.1.1.0/24".parse().unwrap()];
        });
        for (address, permitted) in [
            ("127.0.0.1", true),
            ("127.0.0.2", false),
            ("::ffff:1.1.1.1", false),
            ("1.1.2.1", true),
        ] {
            assert_eq!(rules.permits(address.parse().unwrap()), permitted, "{address}");
        }
    }

    #[test]
    fn hosts_and_schemes() {
        let rules = rules(|config| {
            config.hosts = vec!["*.Example".into(), "mirror.test".into()];
            config.deny_hosts = vec!["bad.example".into()];
            config.schemes = vec![Scheme::Https];
        });
        for (url, permitted) in [
            ("https://images.example/x", true),
            ("https://IMAGES.EXAMPLE./x", true),
            ("https://mirror.test/x", true),
            ("https://bad.example/x", false),
            ("https://bad.example./x", false),
            ("https://example.org/x", false),
            ("https://1.1.1.1/x", false),
            ("http://images.example/x", false),
        ] {
            assert_eq!(rules.check(&url.parse().unwrap()).is_ok(), permitted, "{url}");
        }
    }
}
