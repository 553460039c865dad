//! Resource quantities: `100m`, `1.5Gi`, `12e6`.
//!
//! In: the text (or JSON number) of a quantity. Out: an exact decimal number that compares, adds and prints as
//! Kubernetes prints it. No floating point is involved: a quantity is an integer times a power of ten, and is never
//! finer than a billionth; a finer one is rounded up, away from zero.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use serde_json::Value;

/// How many significant digits a quantity may have, so that aligning two of them stays inside an `i128`.
const MAX_DIGITS: usize = 36;
/// The largest quantity that a binary suffix can express; a larger one is cut down to it, as in Kubernetes.
const MAX_BINARY: i128 = i64::MAX as i128;
/// The finest power of ten a quantity keeps.
const NANO: i32 = -9;
/// Exponents beyond this are refused: nothing countable is that large and printing must stay bounded.
const MAX_EXPONENT: u64 = 1_000_000;

const DECIMAL_SUFFIXES: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY_SUFFIXES: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// Why a text is no quantity. The texts are Kubernetes'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It does not look like a quantity.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// Its number is malformed or has too many digits.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// Its suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// The family of suffixes a quantity was written with; printing keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// `12e6`
    DecimalExponent,
    /// `12Mi`
    BinarySi,
    /// `12M`
    DecimalSi,
}

/// An exact quantity. Equality and order are by value; the format does not count.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    /// The value is `unscaled × 10^exponent`, without trailing zeros in `unscaled`; zero has exponent 0.
    unscaled: i128,
    exponent: i32,
    format: Format,
}

/// The pieces of a quantity's text.
struct Parts<'a> {
    negative: bool,
    /// Digits before the point, without leading zeros; `"0"` if there are none.
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity { unscaled: 0, exponent: 0, format: Format::DecimalSi };

    /// An integral quantity.
    pub const fn new(value: i64, format: Format) -> Self {
        Quantity { unscaled: value as i128, exponent: 0, format }
    }

    /// So many thousandths, printed with decimal suffixes.
    pub const fn from_milli(value: i64) -> Self {
        Quantity { unscaled: value as i128, exponent: -3, format: Format::DecimalSi }
    }

    /// Reads a quantity.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.is_empty() {
            return Err(ParseError::Format);
        }
        let parts = split(text)?;
        let (base, exponent, format) = interpret(parts.suffix)?;
        if base == 2 { binary(&parts, exponent) } else { decimal(&parts, exponent, format) }
    }

    /// Reads a quantity from JSON, where it may be a string or a number.
    pub fn from_value(value: &Value) -> Result<Self, ParseError> {
        match value {
            Value::String(text) => Quantity::parse(text.trim()),
            Value::Number(number) => Quantity::parse(&number.to_string()),
            Value::Null => Ok(Quantity::ZERO),
            _ => Err(ParseError::Format),
        }
    }

    /// The family of suffixes it prints with.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether it is nothing.
    pub fn is_zero(&self) -> bool {
        self.unscaled == 0
    }

    /// −1, 0 or 1.
    pub fn signum(&self) -> i32 {
        self.unscaled.signum() as i32
    }

    /// The value in whole units, rounded away from zero, held to the range of an `i64`.
    pub fn value(&self) -> i64 {
        self.scaled(0)
    }

    /// The value in thousandths, rounded away from zero, held to the range of an `i64`.
    pub fn milli_value(&self) -> i64 {
        self.scaled(-3)
    }

    /// The value in units of `10^exponent`, rounded away from zero, held to the range of an `i64`.
    pub fn scaled(&self, exponent: i32) -> i64 {
        let shift = i64::from(self.exponent) - i64::from(exponent);
        let scaled = if shift >= 0 {
            power_of_ten(shift).and_then(|p| self.unscaled.checked_mul(p))
        } else {
            Some(match power_of_ten(-shift) {
                Some(p) => divide_away_from_zero(self.unscaled, p),
                None => self.unscaled.signum(),
            })
        };
        match scaled {
            Some(v) => i64::try_from(v).unwrap_or(if v < 0 { i64::MIN } else { i64::MAX }),
            None if self.unscaled < 0 => i64::MIN,
            None => i64::MAX,
        }
    }

    /// The sum. It keeps this quantity's format unless this one is zero. Where 38 digits cannot hold both, the
    /// smaller one is lost.
    #[must_use]
    pub fn add(&self, other: &Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        let exponent = if self.is_zero() {
            other.exponent
        } else if other.is_zero() {
            self.exponent
        } else {
            self.exponent.min(other.exponent)
        };
        let sum = match (self.aligned(exponent), other.aligned(exponent)) {
            (Some(a), Some(b)) => a.checked_add(b),
            _ => None,
        };
        match sum {
            Some(sum) => normalised(sum, exponent, format),
            None => {
                let larger = if self.abs_cmp(other) == Ordering::Less { other } else { self };
                Quantity { format, ..*larger }
            }
        }
    }

    /// The difference, under the same rules as [`Quantity::add`].
    #[must_use]
    pub fn sub(&self, other: &Quantity) -> Quantity {
        self.add(&other.neg())
    }

    /// The same amount with the other sign.
    #[must_use]
    pub fn neg(&self) -> Quantity {
        Quantity { unscaled: -self.unscaled, ..*self }
    }

    /// `unscaled` as it would be at a smaller exponent.
    fn aligned(&self, exponent: i32) -> Option<i128> {
        let shift = i64::from(self.exponent) - i64::from(exponent);
        if self.unscaled == 0 {
            return Some(0);
        }
        power_of_ten(shift).and_then(|p| self.unscaled.checked_mul(p))
    }

    fn abs_cmp(&self, other: &Quantity) -> Ordering {
        let (a, b) = (self.unscaled.unsigned_abs(), other.unscaled.unsigned_abs());
        if a == 0 || b == 0 {
            return a.cmp(&b);
        }
        // The magnitudes first: equal ones differ in exponent by no more than their digits do.
        let (a_digits, b_digits) = (digits(a), digits(b));
        let a_size = i64::from(self.exponent) + i64::from(a_digits);
        let b_size = i64::from(other.exponent) + i64::from(b_digits);
        a_size.cmp(&b_size).then_with(|| {
            let width = a_digits.max(b_digits);
            (a * 10u128.pow(width - a_digits)).cmp(&(b * 10u128.pow(width - b_digits)))
        })
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.unscaled.signum(), other.unscaled.signum()) {
            (a, b) if a != b => a.cmp(&b),
            (-1, _) => other.abs_cmp(self),
            _ => self.abs_cmp(other),
        }
    }
}

impl fmt::Display for Quantity {
    /// The canonical text: no fraction, the largest suffix of its family that needs none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0");
        }
        if self.format == Format::BinarySi
            && let Some(mut number) = self.aligned(0).filter(|_| self.exponent >= 0)
            && number.unsigned_abs() >= 1024
        {
            let mut steps = 0;
            while number % 1024 == 0 && steps < BINARY_SUFFIXES.len() {
                number /= 1024;
                steps += 1;
            }
            return match steps {
                0 => write!(f, "{number}"),
                n => write!(f, "{number}{}", BINARY_SUFFIXES[n - 1]),
            };
        }
        let (mut number, mut exponent) = (self.unscaled, self.exponent);
        while exponent % 3 != 0 {
            // Never more than two digits, which the bound on digits leaves room for.
            number *= 10;
            exponent -= 1;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { write!(f, "{number}") } else { write!(f, "{number}e{exponent}") };
        }
        match DECIMAL_SUFFIXES.iter().find(|(_, e)| *e == exponent) {
            Some((suffix, _)) => write!(f, "{number}{suffix}"),
            None => write!(f, "{number}e{exponent}"),
        }
    }
}

impl std::str::FromStr for Quantity {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        Quantity::parse(text)
    }
}

/// The text under which the API keeps a quantity. It is the canonical one, except that a short text that already has
/// a whole mantissa in its unit stays as the user wrote it, just as in Kubernetes: `1500Mi`, `1.250`, `+5`.
pub fn canonical(text: &str) -> Result<Cow<'_, str>, ParseError> {
    let quantity = Quantity::parse(text)?;
    if text == "0" || keeps_its_text(text)? {
        return Ok(Cow::Borrowed(text));
    }
    Ok(Cow::Owned(quantity.to_string()))
}

fn keeps_its_text(text: &str) -> Result<bool, ParseError> {
    let parts = split(text)?;
    let (base, exponent, _) = interpret(parts.suffix)?;
    let (whole, fraction) = (parts.whole, parts.fraction);
    if base == 2 {
        let short = whole.len() + (exponent as usize * 3 / 10) < 15;
        let low_bits = whole.parse::<i64>().is_ok_and(|v| v & 7 != 0);
        return Ok(short && fraction.is_empty() && low_bits);
    }
    let scale = exponent - fraction.len() as i64;
    let ends_in_thousands = match fraction.len() {
        0..3 => format!("{whole}{fraction}").ends_with("000"),
        _ => fraction.ends_with("000"),
    };
    Ok(whole.len() + fraction.len() <= 18
        && scale >= i64::from(NANO)
        && scale % 3 == 0
        && !ends_in_thousands
        && !whole.starts_with('0'))
}

fn split(text: &str) -> Result<Parts<'_>, ParseError> {
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let rest = rest.trim_start_matches('0');
    let end = |s: &str, keep: fn(char) -> bool| s.find(|c: char| !keep(c)).unwrap_or(s.len());
    let (whole, rest) = rest.split_at(end(rest, |c| c.is_ascii_digit()));
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(end(rest, |c| c.is_ascii_digit())),
        None => ("", rest),
    };
    let letters = end(rest, |c| "eEinumkKMGTP".contains(c));
    let tail = rest[letters..].strip_prefix(['-', '+']).unwrap_or(&rest[letters..]);
    if !tail.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ParseError::Format);
    }
    Ok(Parts { negative, whole: if whole.is_empty() { "0" } else { whole }, fraction, suffix: rest })
}

/// Base, exponent and format of a suffix.
fn interpret(suffix: &str) -> Result<(u8, i64, Format), ParseError> {
    if let Some((_, exponent)) = DECIMAL_SUFFIXES.iter().find(|(s, _)| *s == suffix) {
        return Ok((10, i64::from(*exponent), Format::DecimalSi));
    }
    if let Some(steps) = BINARY_SUFFIXES.iter().position(|s| *s == suffix) {
        return Ok((2, (steps as i64 + 1) * 10, Format::BinarySi));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(ParseError::Suffix)?;
    let exponent: i64 = exponent.parse().map_err(|_| ParseError::Suffix)?;
    if exponent.unsigned_abs() > MAX_EXPONENT {
        return Err(ParseError::Suffix);
    }
    Ok((10, exponent, Format::DecimalExponent))
}

fn decimal(parts: &Parts<'_>, exponent: i64, format: Format) -> Result<Quantity, ParseError> {
    let joined = format!("{}{}", parts.whole, parts.fraction);
    let mut all = joined.trim_start_matches('0');
    let mut exponent = exponent - parts.fraction.len() as i64;
    if all.trim_end_matches('0').is_empty() {
        return Ok(Quantity { unscaled: 0, exponent: 0, format });
    }
    let mut round_up = false;
    let too_fine = i64::from(NANO) - exponent;
    if too_fine > 0 {
        let keep = (all.len() as i64 - too_fine).max(0) as usize;
        round_up = all[keep..].bytes().any(|b| b != b'0');
        all = &all[..keep];
        exponent = i64::from(NANO);
    }
    let kept = all.trim_end_matches('0');
    // A number that rounds up needs its last digit, so its zeros stay.
    let kept = if round_up { all } else { kept };
    exponent += (all.len() - kept.len()) as i64;
    // Zeros at the end became part of the exponent, which has to be one that can be read again.
    if kept.len() > MAX_DIGITS || exponent.unsigned_abs() > MAX_EXPONENT {
        return Err(ParseError::Numeric);
    }
    let mut unscaled: i128 = if kept.is_empty() { 0 } else { kept.parse().map_err(|_| ParseError::Numeric)? };
    unscaled += i128::from(round_up);
    let exponent = i32::try_from(exponent).map_err(|_| ParseError::Numeric)?;
    Ok(normalised(if parts.negative { -unscaled } else { unscaled }, exponent, format))
}

fn binary(parts: &Parts<'_>, exponent: i64) -> Result<Quantity, ParseError> {
    let signed = |v: i128| if parts.negative { -v } else { v };
    // 38 digits fit an i128; a longer number is beyond the largest binary quantity anyway.
    let whole: i128 =
        if parts.whole.len() > 38 { MAX_BINARY } else { parts.whole.parse().map_err(|_| ParseError::Numeric)? };
    let factor = 1i128 << exponent;
    let whole = whole.saturating_mul(factor).min(MAX_BINARY);
    // Twenty digits of fraction are exact in 127 bits; finer ones would not show in billionths of a sane quantity.
    let fraction = parts.fraction.trim_end_matches('0');
    let fraction = &fraction[..fraction.len().min(20)];
    let mut nano = 0;
    if !fraction.is_empty() {
        let numerator: i128 = fraction.parse().map_err(|_| ParseError::Numeric)?;
        let shift = fraction.len() as i64 - 9;
        let scaled = numerator.saturating_mul(factor);
        nano = match power_of_ten(shift.abs()) {
            Some(p) if shift > 0 => divide_away_from_zero(scaled, p),
            Some(p) => scaled.saturating_mul(p),
            None => 0,
        };
    }
    let total = (whole * 1_000_000_000 + nano).min(MAX_BINARY * 1_000_000_000);
    let format = if total > 0 && total < 1_000_000_000 { Format::DecimalSi } else { Format::BinarySi };
    Ok(normalised(signed(total), NANO, format))
}

fn normalised(mut unscaled: i128, mut exponent: i32, format: Format) -> Quantity {
    if unscaled == 0 {
        return Quantity { unscaled: 0, exponent: 0, format };
    }
    while unscaled % 10 == 0 {
        unscaled /= 10;
        exponent += 1;
    }
    Quantity { unscaled, exponent, format }
}

fn power_of_ten(exponent: i64) -> Option<i128> {
    u32::try_from(exponent).ok().and_then(|e| 10i128.checked_pow(e))
}

fn divide_away_from_zero(value: i128, by: i128) -> i128 {
    value / by + if value % by == 0 { 0 } else { value.signum() }
}

fn digits(value: u128) -> u32 {
    value.checked_ilog10().map_or(1, |log| log + 1)
}

#[cfg(test)]
mod tests;
