//! Which addresses an upstream may have.
//!
//! Invariants: link-local, unspecified, multicast and reserved addresses and the well-known ones of cloud metadata are
//! never connected to, whatever is allowed. An address that carries an IPv4 address is judged by that too.
//!
//! Spec: RFC 6890, RFC 6052, RFC 3056.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Which private addresses may be connected to: private, loopback, unique local, carrier-grade NAT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowPrivate {
    /// None.
    No,
    /// All of them.
    All,
    /// Those in one of these networks.
    Networks(Vec<Network>),
}

/// A network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Public,
    Private,
    Never,
}

impl Network {
    /// `10.0.0.0/8`, `fd00::/8`, or a single address. `None`: not that.
    pub fn parse(text: &str) -> Option<Network> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match bits {
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => bits.parse().ok()?,
            Some(_) => return None,
            None => most,
        };
        (prefix_bits <= most).then_some(Network { address, prefix_bits })
    }

    /// Whether `address` is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differ = network.to_bits() ^ address.to_bits();
                self.prefix_bits == 0 || differ >> (32 - self.prefix_bits) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differ = network.to_bits() ^ address.to_bits();
                self.prefix_bits == 0 || differ >> (128 - self.prefix_bits) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl AllowPrivate {
    /// Whether any private address may be connected to.
    pub fn allows_some(&self) -> bool {
        *self != AllowPrivate::No
    }

    /// Whether this address may be connected to.
    pub fn permits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let embedded = match address {
            IpAddr::V6(v6) => embedded_v4(v6),
            IpAddr::V4(_) => None,
        };
        self.permits_plain(address) && embedded.is_none_or(|v4| self.permits_plain(IpAddr::V4(v4)))
    }

    fn permits_plain(&self, address: IpAddr) -> bool {
        match (kind(address), self) {
            (Kind::Never, _) => false,
            (Kind::Public, _) | (Kind::Private, AllowPrivate::All) => true,
            (Kind::Private, AllowPrivate::No) => false,
            (Kind::Private, AllowPrivate::Networks(networks)) => {
                networks.iter().any(|network| network.contains(address))
            }
        }
    }
}

/// By which name clouds let a machine ask for its own credentials, outside of link-local.
const METADATA: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

fn kind(address: IpAddr) -> Kind {
    if METADATA.contains(&address) {
        return Kind::Never;
    }
    match address {
        IpAddr::V4(v4) => kind_v4(v4),
        IpAddr::V6(v6) => kind_v6(v6),
    }
}

fn kind_v4(v4: Ipv4Addr) -> Kind {
    match v4.octets() {
        // This network; link-local; benchmarks; protocol assignments; multicast, reserved and broadcast.
        [0, ..] | [169, 254, ..] | [198, 18 | 19, ..] | [192, 0, 0, _] | [224..=255, ..] => Kind::Never,
        [10, ..] | [127, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Kind::Private,
        _ => Kind::Public,
    }
}

fn kind_v6(v6: Ipv6Addr) -> Kind {
    let first = v6.segments()[0];
    if v6.is_loopback() || first & 0xfe00 == 0xfc00 {
        Kind::Private
    } else if v6.is_unspecified()
        || v6.is_multicast()
        || first & 0xffc0 == 0xfe80
        || first & 0xffc0 == 0xfec0
        || v6.segments()[..6] == [0; 6]
    {
        // Link-local, the site-local of old, and IPv4-compatible addresses.
        Kind::Never
    } else {
        Kind::Public
    }
}

/// Of NAT64 and 6to4: where such an address leads to.
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let bits = match (a, b, c, d, e, f) {
        (0x64, 0xff9b, ..) => [g, h],
        (0x2002, ..) => [b, c],
        _ => return None,
    };
    Some(Ipv4Addr::from_bits(u32::from(bits[0]) << 16 | u32::from(bits[1])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(allow: &AllowPrivate, address: &str) -> bool {
        allow.permits(address.parse().unwrap())
    }

    #[test]
    fn some_addresses_are_never_connected_to() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.0.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "198.18.0.1",
            "192.0.0.192",
            "::",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "2002:a9fe:a9fe::1",
        ] {
            assert!(!permits(&AllowPrivate::All, address), "{address}");
            assert!(!permits(&AllowPrivate::No, address), "{address}");
            let everything = ["0.0.0.0/0", "::/0"].map(|text| Network::parse(text).unwrap());
            assert!(!permits(&AllowPrivate::Networks(everything.into()), address), "{address}");
        }
    }

    #[test]
    fn private_addresses_have_to_be_allowed() {
        for address in [
            "127.0.0.1",
            "127.255.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.255.255",
            "::1",
            "fc00::1",
            "fd12::1",
            "::ffff:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "2002:a00:1::",
        ] {
            assert!(!permits(&AllowPrivate::No, address), "{address}");
            assert!(permits(&AllowPrivate::All, address), "{address}");
        }
        for address in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::1.1.1.1"] {
            assert!(permits(&AllowPrivate::No, address), "{address}");
        }
    }

    #[test]
    fn networks_allow_what_is_in_them() {
        let of = |texts: &[&str]| {
            AllowPrivate::Networks(texts.iter().map(|text| Network::parse(text).unwrap()).collect())
        };
        let allow = of(&["10.1.0.0/16", "fd12::/16", "192.168.7.7"]);
        for address in ["10.1.2.3", "fd12::5", "192.168.7.7", "::ffff:10.1.2.3", "9.9.9.9"] {
            assert!(permits(&allow, address), "{address}");
        }
        for address in ["10.2.0.1", "fd13::5", "192.168.7.8", "127.0.0.1"] {
            assert!(!permits(&allow, address), "{address}");
        }
        for wrong in ["", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/+8", "host/8", "10.0.0/8"] {
            assert_eq!(Network::parse(wrong), None, "{wrong}");
        }
    }
}
