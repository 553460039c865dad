//! Maps by number, with the cheapest hash that will do.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Multiplies once: slots and ids are small numbers, UIDs are random already.
#[derive(Clone, Copy, Debug, Default)]
pub struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0.rotate_left(5) ^ u64::from(*byte)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    fn write_u32(&mut self, value: u32) {
        // The table takes its bits from both ends of the product.
        self.0 = (u64::from(value) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = (value as u64 ^ (value >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A map by slot or id.
pub type NumberMap<V> = HashMap<u32, V, BuildHasherDefault<NumberHasher>>;
