//! Quantities (`100m`, `64Mi`, `1e3`) as whole or thousandth units. Pure.

/// A parsed quantity, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantity {
    milli: i128,
}

impl Quantity {
    /// From thousandths.
    pub const fn from_milli(milli: i64) -> Self {
        Self { milli: milli as i128 }
    }

    /// Parses; `None` if it is no quantity.
    pub fn parse(text: &str) -> Option<Self> {
        let split = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
        let (number, suffix) = text.split_at(split);
        let (factor, exponent): (i128, i32) = match suffix {
            "" => (1, 0),
            "n" => (1, -9),
            "u" => (1, -6),
            "m" => (1, -3),
            "k" => (1, 3),
            "M" => (1, 6),
            "G" => (1, 9),
            "T" => (1, 12),
            "P" => (1, 15),
            "E" => (1, 18),
            "Ki" => (1 << 10, 0),
            "Mi" => (1 << 20, 0),
            "Gi" => (1 << 30, 0),
            "Ti" => (1 << 40, 0),
            "Pi" => (1 << 50, 0),
            "Ei" => (1 << 60, 0),
            other => (1, other.strip_prefix(['e', 'E'])?.parse().ok().filter(|e: &i32| e.abs() <= 18)?),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let fraction = fraction.get(..fraction.len().min(9))?;
        let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
        let scale = 3 + exponent - i32::try_from(fraction.len()).ok()?;
        let value = digits.checked_mul(factor)?;
        let power = 10i128.checked_pow(scale.unsigned_abs())?;
        let milli = if scale >= 0 {
            value.checked_mul(power)?
        } else {
            // Rounded away from zero, as Kubernetes does.
            (value + value.signum() * (power - 1)) / power
        };
        Some(Self { milli })
    }

    /// Whole units, rounded up.
    pub fn value(self) -> i64 {
        let rounded = (self.milli + self.milli.signum() * 999) / 1000;
        i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
    }

    /// Thousandths.
    pub fn milli_value(self) -> i64 {
        i64::try_from(self.milli).unwrap_or(if self.milli < 0 { i64::MIN } else { i64::MAX })
    }

    /// Whether it is nothing.
    pub fn is_zero(self) -> bool {
        self.milli == 0
    }
}
