//! Which node has which part of the cluster's pod range. Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

/// The cluster's range, cut into equal parts of which each node gets one.
#[derive(Debug)]
pub struct Pool {
    base: u32,
    prefix: u8,
    node_prefix: u8,
    node_of: BTreeMap<u32, String>,
    part_of: HashMap<String, u32>,
    /// Where the search for a free part begins, so that one just freed is not given out at once.
    next: u32,
}

fn mask(prefix: u8) -> u32 {
    match prefix {
        0 => 0,
        bits => u32::MAX << (32 - u32::from(bits.min(32))),
    }
}

fn parse(cidr: &str) -> Option<(u32, u8)> {
    let (address, prefix) = cidr.split_once('/')?;
    let address: Ipv4Addr = address.parse().ok()?;
    let prefix: u8 = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
    Some((address.to_bits(), prefix))
}

impl Pool {
    /// The parts of `/node_prefix` of the range `cluster`.
    pub fn new(cluster: &str, node_prefix: u8) -> Result<Self, String> {
        let (address, prefix) = parse(cluster).ok_or_else(|| format!("{cluster:?} is not an IPv4 range"))?;
        if node_prefix < prefix || node_prefix > 30 {
            return Err(format!("parts of /{node_prefix} can't be cut from {cluster}"));
        }
        Ok(Pool {
            base: address & mask(prefix),
            prefix,
            node_prefix,
            node_of: BTreeMap::new(),
            part_of: HashMap::new(),
            next: 0,
        })
    }

    fn parts(&self) -> u64 {
        1 << (self.node_prefix - self.prefix)
    }

    fn text(&self, part: u32) -> String {
        let size = 32 - u32::from(self.node_prefix);
        let address = Ipv4Addr::from_bits(self.base | (part << size));
        format!("{address}/{}", self.node_prefix)
    }

    /// Notes that `node` has the range `cidr`, whoever gave it. Ranges outside the cluster's are nobody's concern.
    pub fn occupy(&mut self, node: &str, cidr: &str) {
        let Some((address, _)) = parse(cidr) else {
            return;
        };
        if address & mask(self.prefix) != self.base {
            return;
        }
        let part = (address - self.base) >> (32 - u32::from(self.node_prefix));
        if self.part_of.get(node) == Some(&part) {
            return;
        }
        self.release(node);
        self.part_of.insert(node.to_owned(), part);
        self.node_of.entry(part).or_insert_with(|| node.to_owned());
    }

    /// Gives back what `node` had.
    pub fn release(&mut self, node: &str) {
        if let Some(part) = self.part_of.remove(node)
            && self.node_of.get(&part).is_some_and(|owner| owner == node)
        {
            self.node_of.remove(&part);
        }
    }

    /// The range of `node`: the one that it has, or else a free one; none if all are given out.
    pub fn allocate(&mut self, node: &str) -> Option<String> {
        if let Some(part) = self.part_of.get(node) {
            return Some(self.text(*part));
        }
        let parts = self.parts();
        let part = (0..parts)
            .map(|step| (u64::from(self.next) + step) % parts)
            .filter_map(|part| u32::try_from(part).ok())
            .find(|part| !self.node_of.contains_key(part))?;
        self.next = u32::try_from((u64::from(part) + 1) % parts).unwrap_or(0);
        self.node_of.insert(part, node.to_owned());
        self.part_of.insert(node.to_owned(), part);
        Some(self.text(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_gets_its_own_range_and_keeps_it() {
        let mut pool = Pool::new("10.244.0.0/16", 24).unwrap();
        assert_eq!(pool.allocate("a").unwrap(), "10.244.0.0/24");
        assert_eq!(pool.allocate("b").unwrap(), "10.244.1.0/24");
        assert_eq!(pool.allocate("a").unwrap(), "10.244.0.0/24");
        pool.release("a");
        assert_eq!(pool.allocate("c").unwrap(), "10.244.2.0/24");
    }

    #[test]
    fn ranges_given_out_before_a_restart_are_not_given_again() {
        let mut pool = Pool::new("10.244.0.0/22", 24).unwrap();
        pool.occupy("a", "10.244.0.0/24");
        pool.occupy("b", "10.244.2.0/24");
        pool.occupy("elsewhere", "192.168.0.0/24");
        assert_eq!(pool.allocate("c").unwrap(), "10.244.1.0/24");
        assert_eq!(pool.allocate("d").unwrap(), "10.244.3.0/24");
        assert_eq!(pool.allocate("e"), None);
        pool.release("b");
        assert_eq!(pool.allocate("e").unwrap(), "10.244.2.0/24");
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Pool::new("10.244.0.0", 24).is_err());
        assert!(Pool::new("10.244.0.0/26", 24).is_err());
        assert!(Pool::new("fd00::/48", 64).is_err());
        let mut whole = Pool::new("0.0.0.0/0", 1).unwrap();
        assert_eq!(whole.allocate("a").unwrap(), "0.0.0.0/1");
        assert_eq!(whole.allocate("b").unwrap(), "128.0.0.0/1");
    }
}
