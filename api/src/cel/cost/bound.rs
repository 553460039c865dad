//! Sizes and costs between a lowest and a highest one. What is too much to count stays too much.

/// From `low` to `high`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// The lowest.
    pub low: u64,
    /// The highest.
    pub high: u64,
}

impl Bound {
    /// Nothing.
    pub const ZERO: Bound = Bound::fixed(0);
    /// Anything.
    pub const UNKNOWN: Bound = Bound { low: 0, high: u64::MAX };

    /// Exactly this.
    pub const fn fixed(value: u64) -> Bound {
        Bound { low: value, high: value }
    }

    /// Both.
    #[must_use]
    pub fn plus(self, other: Bound) -> Bound {
        Bound { low: self.low.saturating_add(other.low), high: self.high.saturating_add(other.high) }
    }

    /// One as often as the other says.
    #[must_use]
    pub fn times(self, other: Bound) -> Bound {
        Bound { low: self.low.saturating_mul(other.low), high: self.high.saturating_mul(other.high) }
    }

    /// So much of it, rounded up.
    #[must_use]
    pub fn by(self, factor: f64) -> Bound {
        // Casts of floats saturate.
        let scaled = |value: u64| (value as f64 * factor).ceil() as u64;
        Bound { low: scaled(self.low), high: scaled(self.high) }
    }

    /// Either.
    #[must_use]
    pub fn union(self, other: Bound) -> Bound {
        Bound { low: self.low.min(other.low), high: self.high.max(other.high) }
    }
}
