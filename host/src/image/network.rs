//! Which addresses an image may come from. Checked on every address that a name resolves to, and on literal addresses
//! at every redirect, so that neither a redirect nor a name that changes its mind reaches the host's own network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// The operator's exceptions to the list of addresses that are not public.
#[derive(Debug, Clone)]
pub struct AddressRules {
    allow: Vec<IpNet>,
}

/// Not public: IANA's special-purpose registries of IPv4 and IPv6 addresses, and multicast.
const DENIED_V4: [Ipv4Net; 16] = {
    const fn net(a: u8, b: u8, c: u8, prefix: u8) -> Ipv4Net {
        Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), prefix)
    }
    [
        net(0, 0, 0, 8),
        net(10, 0, 0, 8),
        net(100, 64, 0, 10),
        net(127, 0, 0, 8),
        net(169, 254, 0, 16),
        net(172, 16, 0, 12),
        net(192, 0, 0, 24),
        net(192, 0, 2, 24),
        net(192, 31, 196, 24),
        net(192, 88, 99, 24),
        net(192, 168, 0, 16),
        net(198, 18, 0, 15),
        net(198, 51, 100, 24),
        net(203, 0, 113, 24),
        net(224, 0, 0, 4),
        net(240, 0, 0, 4),
    ]
};

const DENIED_V6: [Ipv6Net; 11] = {
    const fn net(a: u16, b: u16, prefix: u8) -> Ipv6Net {
        Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix)
    }
    [
        net(0, 0, 96),
        net(0x100, 0, 64),
        net(0x2001, 0, 23),
        net(0x2001, 0xdb8, 32),
        net(0x3fff, 0, 20),
        net(0x5f00, 0, 16),
        net(0x64, 0xff9b, 32),
        net(0xfc00, 0, 7),
        net(0xfe80, 0, 10),
        net(0xfec0, 0, 10),
        net(0xff00, 0, 8),
    ]
};

impl AddressRules {
    /// Public addresses, and those in `allow`.
    pub fn new(allow: Vec<IpNet>) -> Self {
        Self { allow }
    }

    /// Whether an image may come from this address.
    pub fn permits(&self, address: IpAddr) -> bool {
        let address = unwrapped(address);
        self.allow.iter().any(|net| net.contains(&address))
            || match address {
                IpAddr::V4(v4) => !DENIED_V4.iter().any(|net| net.contains(&v4)),
                IpAddr::V6(v6) => !DENIED_V6.iter().any(|net| net.contains(&v6)),
            }
    }
}

/// The IPv4 address inside an IPv6 one that stands for it: mapped (RFC 4291), translated (RFC 6052), 6to4 (RFC 3056).
fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)).into();
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

/// A name resolved to nothing that images may come from.
#[derive(Debug, thiserror::Error)]
#[error(
    "{host} is at {addresses}, from where images may not come; the operator can allow it: image.network.allow"
)]
pub(super) struct Forbidden {
    pub(super) host: String,
    pub(super) addresses: String,
}

/// Resolves names to permitted addresses only; the connection is made to one of those.
impl Resolve for AddressRules {
    fn resolve(&self, name: Name) -> Resolving {
        let rules = self.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let all: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let (permitted, refused): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|address| rules.permits(address.ip()));
            // One forbidden address among others is how a name is made to rebind: none of them is used.
            if !refused.is_empty() {
                let addresses: Vec<_> =
                    refused.iter().map(|address| address.ip().to_string()).collect();
                return Err(Forbidden { host, addresses: addresses.join(", ") }.into());
            }
            Ok(Box::new(permitted.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(address: &str, allow: &str, permitted: bool) {
        let allow = allow.split_whitespace().map(|net| net.parse().unwrap()).collect();
        let rules = AddressRules::new(allow);
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
}
