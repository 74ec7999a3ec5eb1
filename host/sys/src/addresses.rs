//! Tells which addresses are public, and which are this host's own. An image or a guest's connection reaches only public
//! addresses that are not this host's, unless the operator allows others.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{Ipv4Net, Ipv6Net};
use nix::sys::socket::SockaddrStorage;

/// The IPv4 networks that are not public: IANA's special-purpose registry, and multicast.
pub const NOT_PUBLIC_V4: [Ipv4Net; 17] = {
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
        // Azure's metadata and agent service has this address, which is public by its number alone.
        Ipv4Net::new_assert(Ipv4Addr::new(168, 63, 129, 16), 32),
    ]
};

/// The IPv6 networks that are not public: IANA's special-purpose registry, and multicast.
const NOT_PUBLIC_V6: [Ipv6Net; 11] = {
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

/// Whether an address is public. An IPv4 address inside an IPv6 one must be taken out first ([`unwrapped`]).
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !NOT_PUBLIC_V4.iter().any(|net| net.contains(&v4)),
        // Only 2000::/3 has global unicast addresses (RFC 4291, 2.4).
        IpAddr::V6(v6) => {
            v6.segments()[0] >> 13 == 1 && !NOT_PUBLIC_V6.iter().any(|net| net.contains(&v6))
        }
    }
}

/// This host's own addresses, public ones too, and the addresses of its networks at which a datagram reaches all hosts, this
/// one among them.
pub fn own() -> io::Result<Vec<IpAddr>> {
    let mut own = vec![];
    for interface in nix::ifaddrs::getifaddrs()? {
        let v4 = |address: Option<SockaddrStorage>| Some(address?.as_sockaddr_in()?.ip());
        let v6 = interface.address.and_then(|address| Some(address.as_sockaddr_in6()?.ip()));
        own.extend(v6.map(|v6| unwrapped(v6.into())));
        let Some(address) = v4(interface.address) else { continue };
        own.push(address.into());
        own.extend(v4(interface.broadcast).map(IpAddr::V4));
        let net = v4(interface.netmask)
            .and_then(|mask| Ipv4Net::with_netmask(address, mask).ok())
            // Smaller networks have no such addresses (RFC 3021).
            .filter(|net| net.prefix_len() <= 30);
        let all_of = net.into_iter().flat_map(|net| [net.network(), net.broadcast()]);
        own.extend(all_of.map(IpAddr::V4));
    }
    Ok(own)
}

/// The IPv4 address inside an IPv6 one that stands for it: mapped (RFC 4291), translated (RFC 2765, RFC 6052), 6to4 (RFC
/// 3056).
pub fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)).into();
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}
