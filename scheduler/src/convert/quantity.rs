//! Kubernetes quantities as whole numbers, rounded up: milli-CPUs for `cpu`, units for the rest.

use gantry_api::quantity::Quantity;

use crate::core::resources::AMOUNT_MAX;

/// Numbers with more digits before the point than this are more than there is of anything.
const DIGITS_MAX: usize = 30;

/// The amount of the resource `name` that `text` says; zero if it says none or less.
pub fn amount(name: &str, text: &str) -> i64 {
    let text = text.trim();
    let amount = match Quantity::parse(text) {
        Ok(quantity) if name == "cpu" => quantity.milli_value(),
        Ok(quantity) => quantity.value(),
        Err(_) if digits(text) > DIGITS_MAX => AMOUNT_MAX,
        Err(_) => 0,
    };
    amount.clamp(0, AMOUNT_MAX)
}

fn digits(text: &str) -> usize {
    let significant = text.trim_start_matches(['+', '0']);
    significant.find(|c: char| !c.is_ascii_digit()).unwrap_or(significant.len())
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
