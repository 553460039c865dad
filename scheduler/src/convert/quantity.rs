//! Kubernetes quantities as whole numbers, rounded up: milli-CPUs for `cpu`, units for the rest.

use crate::core::resources::AMOUNT_MAX;

/// The amount of the resource `name` that `text` says; zero if it says none or less.
pub fn amount(name: &str, text: &str) -> i64 {
    let scale = if name == "cpu" { 1_000 } else { 1 };
    scaled(text, scale).unwrap_or(0)
}

/// `text` times `scale`, rounded up and kept within what the core counts with.
fn scaled(text: &str, scale: i128) -> Option<i64> {
    let text = text.trim();
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // Twelve digits after the point are finer than any unit here; more can only round up.
    let kept: String = fraction.chars().take(12).collect();
    let rest_is_zero = fraction.chars().skip(12).all(|digit| digit == '0');
    let digits: String = whole.trim_start_matches('0').chars().chain(kept.chars()).collect();
    if digits.len() > 30 {
        return Some(AMOUNT_MAX);
    }
    let mantissa: i128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    let (multiplier, exponent) = suffix_scale(suffix)?;
    let exponent = exponent - kept.len() as i32;
    let mut value = mantissa.checked_mul(multiplier)?.checked_mul(scale).unwrap_or(i128::from(AMOUNT_MAX));
    let mut inexact = !rest_is_zero;
    if mantissa == 0 && !inexact {
        return Some(0);
    }
    for _ in 0..exponent.unsigned_abs().min(60) {
        if exponent > 0 {
            value = value.saturating_mul(10);
        } else {
            inexact |= value % 10 != 0;
            value /= 10;
        }
    }
    let rounded = value.saturating_add(i128::from(inexact));
    Some(i64::try_from(rounded).unwrap_or(AMOUNT_MAX).min(AMOUNT_MAX))
}

/// The factor and the power of ten that a suffix stands for.
fn suffix_scale(suffix: &str) -> Option<(i128, i32)> {
    let binary = |power: u32| Some((1i128 << (10 * power), 0));
    match suffix {
        "" => Some((1, 0)),
        "n" => Some((1, -9)),
        "u" => Some((1, -6)),
        "m" => Some((1, -3)),
        "k" => Some((1, 3)),
        "M" => Some((1, 6)),
        "G" => Some((1, 9)),
        "T" => Some((1, 12)),
        "P" => Some((1, 15)),
        "E" => Some((1, 18)),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            Some((1, exponent.parse::<i32>().ok()?.clamp(-100, 100)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_kubernetes_reads_them() {
        let cases = [
            ("cpu", "1", 1_000),
            ("cpu", "100m", 100),
            ("cpu", "0.1", 100),
            ("cpu", ".5", 500),
            ("cpu", "2.", 2_000),
            ("cpu", "1.0005", 1_001),
            ("cpu", "1n", 1),
            ("cpu", "0", 0),
            ("memory", "500Mi", 500 << 20),
            ("memory", "1.5Gi", 3 << 29),
            ("memory", "128974848", 128_974_848),
            ("memory", "129e6", 129_000_000),
            ("memory", "129M", 129_000_000),
            ("memory", "1E3", 1_000),
            ("memory", "123m", 1),
            ("memory", "1Ei", AMOUNT_MAX),
            ("memory", "1e99", AMOUNT_MAX),
            ("memory", "99999999999999999999999999999999999999999", AMOUNT_MAX),
            ("memory", "1e-99", 1),
            ("memory", "0.00000000000001", 1),
            ("pods", "110", 110),
            ("pods", "-3", 0),
            ("pods", "", 0),
            ("pods", "abc", 0),
            ("pods", "1Qi", 0),
            ("pods", "1e", 0),
        ];
        for (name, text, expected) in cases {
            assert_eq!(amount(name, text), expected, "{name} {text}");
        }
    }
}
