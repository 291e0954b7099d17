//! Detects lists of address ranges that cover a large part of the internet.
//!
//! Ranges in a configuration stand for machines of the operator or of a provider. A wider list
//! trusts arbitrary clients, as `0.0.0.0/0` or as its two halves.

use ipnet::IpNet;

/// Networks outside of the public internet: private, carrier-grade NAT, loopback and link-local.
const INTERNAL: &[&str] = &[
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
];

/// Maximum number of public IPv4 addresses, a sixteenth of all. No provider has more.
const IPV4_ADDRESSES_MAX: u128 = 1 << 28;
/// Maximum number of public IPv6 addresses: a /12, the block of a regional internet registry.
const IPV6_ADDRESSES_MAX: u128 = 1 << 116;

/// Whether the ranges together cover more public addresses than any provider has.
pub(super) fn are_open(ranges: &[IpNet]) -> bool {
    let internal: Vec<IpNet> = INTERNAL.iter().filter_map(|range| range.parse().ok()).collect();
    let external = IpNet::aggregate(&ranges.to_vec())
        .into_iter()
        .filter(|range| !internal.iter().any(|internal| internal.contains(range)));
    let (mut v4, mut v6) = (0_u128, 0_u128);
    for range in external {
        match range {
            IpNet::V4(net) => v4 = v4.saturating_add(1_u128 << (32 - u32::from(net.prefix_len()))),
            // The number of all IPv6 addresses, 2^128, does not fit into a u128.
            IpNet::V6(net) => {
                v6 = v6.saturating_add(1_u128.checked_shl(128 - u32::from(net.prefix_len())).unwrap_or(u128::MAX));
            }
        }
    }
    v4 > IPV4_ADDRESSES_MAX || v6 > IPV6_ADDRESSES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ranges: &[&str], expected: bool) {
        let ranges: Vec<IpNet> = ranges.iter().map(|range| range.parse().unwrap()).collect();
        assert_eq!(are_open(&ranges), expected, "{ranges:?}");
    }

    #[test]
    fn a_list_over_a_sixteenth_of_the_internet_is_open() {
        for ranges in [
            &["0.0.0.0/0"][..],
            &["::/0"],
            &["0.0.0.0/1", "128.0.0.0/1"],
            &["10.0.0.0/8", "128.0.0.0/2"],
            &["2000::/3"],
            &["64.0.0.0/5", "72.0.0.0/5", "80.0.0.0/5"],
            &["2000::/4", "fd00::/8"],
        ] {
            check(ranges, true);
        }
    }

    #[test]
    fn private_networks_and_those_of_providers_are_not_open() {
        for ranges in [
            &[][..],
            &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fe80::/10", "127.0.0.0/8"],
            &["104.16.0.0/13", "104.24.0.0/14", "172.64.0.0/13", "2606:4700::/32", "2a06:98c0::/29"],
            &["6.0.0.0/8", "11.0.0.0/8", "2a00::/12"],
        ] {
            check(ranges, false);
        }
    }
}
