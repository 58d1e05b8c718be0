//! Which addresses an upstream may have.
//!
//! Invariants: link-local, unspecified, multicast and reserved addresses and the well-known ones of cloud metadata are
//! never connected to, whatever is allowed. An address that carries an IPv4 address is judged by that too.
//!
//! Spec: RFC 6890, RFC 6052, RFC 8215, RFC 7915, RFC 3056.

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

impl Network {
    /// Whether nothing in it is ever connected to.
    pub fn is_never(&self) -> bool {
        let around = |never: &Network| never.prefix_bits <= self.prefix_bits && never.contains(self.address);
        NEVER.iter().any(around) && self.address != IpAddr::V6(Ipv6Addr::LOCALHOST)
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
        let carried = match address {
            IpAddr::V6(v6) => carried_v4(v6),
            IpAddr::V4(_) => Vec::new(),
        };
        self.permits_plain(address) && carried.into_iter().all(|v4| self.permits_plain(IpAddr::V4(v4)))
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

const fn v4(octets: [u8; 4], prefix_bits: u8) -> Network {
    let [a, b, c, d] = octets;
    Network { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix_bits }
}

const fn v6(segments: [u16; 8], prefix_bits: u8) -> Network {
    let [a, b, c, d, e, f, g, h] = segments;
    Network { address: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), prefix_bits }
}

/// What is never connected to.
const NEVER: [Network; 14] = [
    // This network; link-local; protocol assignments; benchmarks; multicast, reserved and broadcast.
    v4([0, 0, 0, 0], 8),
    v4([169, 254, 0, 0], 16),
    v4([192, 0, 0, 0], 24),
    v4([198, 18, 0, 0], 15),
    v4([224, 0, 0, 0], 3),
    // IPv4-compatible and unspecified; link-local, and the site-local of old; multicast.
    v6([0; 8], 96),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
    // Where clouds let a machine ask for its own credentials, outside of link-local; in EC2 all of its services.
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32),
    v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128),
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128),
    v4([100, 100, 100, 200], 32),
    v4([168, 63, 129, 16], 32),
];

/// What has to be allowed.
const PRIVATE: [Network; 6] = [
    v4([10, 0, 0, 0], 8),
    v4([127, 0, 0, 0], 8),
    v4([172, 16, 0, 0], 12),
    v4([192, 168, 0, 0], 16),
    v4([100, 64, 0, 0], 10),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),
];

/// Whether it is one of a private network, where http may do.
pub(super) fn is_inside(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let carried = match address {
        IpAddr::V6(v6) => carried_v4(v6),
        IpAddr::V4(_) => Vec::new(),
    };
    kind(address) == Kind::Private || carried.into_iter().any(|v4| kind(IpAddr::V4(v4)) == Kind::Private)
}

fn kind(address: IpAddr) -> Kind {
    let is_in = |networks: &[Network]| networks.iter().any(|network| network.contains(address));
    if address == IpAddr::V6(Ipv6Addr::LOCALHOST) {
        Kind::Private
    } else if is_in(&NEVER) {
        Kind::Never
    } else if is_in(&PRIVATE) {
        Kind::Private
    } else {
        Kind::Public
    }
}

/// Where an address leads to that stands for an IPv4 address: of 6to4, of a translator without state, and of NAT64. The
/// length of a NAT64 prefix that is not the well-known one can't be seen, so that each legal length is looked at; what
/// begins with 0 is where that length is not, unless all do.
fn carried_v4(v6: Ipv6Addr) -> Vec<Ipv4Addr> {
    let octets = v6.octets();
    let at = |places: [usize; 4]| Ipv4Addr::from(places.map(|place| octets[place]));
    match v6.segments() {
        [0x2002, ..] => vec![at([2, 3, 4, 5])],
        [0, 0, 0, 0, 0xffff, 0, ..] => vec![at(LAST_FOUR)],
        [0x64, 0xff9b, ..] => {
            // Octet 8 is never part of one (RFC 6052 §2.2).
            let lengths = [[6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12], LAST_FOUR].map(at);
            let carried: Vec<Ipv4Addr> = lengths.into_iter().filter(|v4| v4.octets()[0] != 0).collect();
            if carried.is_empty() { lengths.to_vec() } else { carried }
        }
        _ => Vec::new(),
    }
}

const LAST_FOUR: [usize; 4] = [12, 13, 14, 15];

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
            "fd00:ec2::23",
            "fd00:42::42",
            "fd20:ce::254",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b::",
            "64:ff9b:1::169.254.169.254",
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1:a9fe:a9:fe00:0:1",
            "64:ff9b:1:a9:fe:a9fe::",
            "64:ff9b:1:0:a9:fea9:fe00:0",
            "::ffff:0:169.254.169.254",
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
            "64:ff9b:1::10.0.0.1",
            "64:ff9b:1:a00:0:100::",
            "::ffff:0:10.0.0.1",
            "2002:a00:1::",
        ] {
            assert!(!permits(&AllowPrivate::No, address), "{address}");
            assert!(permits(&AllowPrivate::All, address), "{address}");
            assert!(is_inside(address.parse().unwrap()), "{address}");
        }
        for address in [
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "64:ff9b::1.1.1.1",
            "64:ff9b:1::1.1.1.1",
            "64:ff9b:1:101:1:100::",
        ] {
            assert!(permits(&AllowPrivate::No, address), "{address}");
            assert!(!is_inside(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_network_in_which_nothing_is_connected_to_is_known() {
        for (network, never) in [
            ("169.254.0.0/16", true),
            ("169.254.169.254", true),
            ("fe80::/10", true),
            ("fd00:ec2::/32", true),
            ("240.0.0.0/4", true),
            ("::", true),
            ("::1", false),
            ("0.0.0.0/0", false),
            ("::/0", false),
            ("10.0.0.0/8", false),
            ("169.0.0.0/8", false),
            ("fd00::/8", false),
        ] {
            assert_eq!(Network::parse(network).unwrap().is_never(), never, "{network}");
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
