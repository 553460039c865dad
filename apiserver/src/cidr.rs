//! Address ranges in CIDR notation.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    first: IpAddr,
    prefix: u8,
}

/// The text is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a range of addresses such as 10.96.0.0/16")]
pub struct ParseCidrError(String);

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseCidrError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(error)?;
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let prefix: u8 = prefix.parse().map_err(|_| error())?;
        let width = width(address);
        if u32::from(prefix) > width {
            return Err(error());
        }
        let host_bits = width - u32::from(prefix);
        let mask = if host_bits == 128 { 0 } else { !((1u128 << host_bits) - 1) };
        Ok(Self { first: address_of(number(address) & mask, address), prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl Cidr {
    /// Whether `address` is in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4()
            && number(address).checked_sub(number(self.first)).is_some_and(|offset| offset < self.size())
    }

    /// How many addresses there are (at most 2^64, which is more than anyone hands out).
    pub fn size(&self) -> u128 {
        1u128 << (width(self.first) - u32::from(self.prefix)).min(64)
    }

    /// The address `offset` places after the first.
    pub fn nth(&self, offset: u128) -> Option<IpAddr> {
        (offset < self.size()).then(|| address_of(number(self.first) + offset, self.first))
    }

    /// Whether these are IPv6 addresses.
    pub fn is_ipv6(&self) -> bool {
        self.first.is_ipv6()
    }
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn address_of(number: u128, like: IpAddr) -> IpAddr {
    if like.is_ipv4() {
        IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)))
    } else {
        IpAddr::V6(Ipv6Addr::from(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let cidr: Cidr = "10.96.3.4/16".parse().unwrap();
        assert_eq!(cidr.to_string(), "10.96.0.0/16");
        assert_eq!(cidr.nth(1), Some("10.96.0.1".parse().unwrap()));
        assert_eq!(cidr.nth(65_536), None);
        assert!(cidr.contains("10.96.255.255".parse().unwrap()));
        assert!(!cidr.contains("10.97.0.0".parse().unwrap()));
        assert!(!cidr.contains("::1".parse().unwrap()));
        let cidr: Cidr = "fd00::/112".parse().unwrap();
        assert_eq!(cidr.nth(65_535), Some("fd00::ffff".parse().unwrap()));
        assert_eq!("0.0.0.0/0".parse::<Cidr>().unwrap().size(), 1 << 32);
        assert_eq!("::/0".parse::<Cidr>().unwrap().size(), 1 << 64);
        for text in ["", "10.0.0.0", "10.0.0.0/33", "x/8"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
