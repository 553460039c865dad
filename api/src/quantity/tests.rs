//! Scenarios and properties of quantities, held against a naive rational number.

use proptest::prelude::*;

use super::*;

fn printed(text: &str) -> String {
    Quantity::parse(text).unwrap().to_string()
}

#[test]
fn canonical_texts_are_kubernetes_ones() {
    for (text, expected) in [
        ("0", "0"),
        ("0n", "0"),
        ("-0", "0"),
        ("000Ki", "0"),
        (".", "0"),
        ("1000m", "1"),
        ("1024Mi", "1Gi"),
        ("1000M", "1G"),
        ("0.5", "500m"),
        ("1.5", "1500m"),
        ("1.5Gi", "1536Mi"),
        ("1500Mi", "1500Mi"),
        ("512Ki", "512Ki"),
        ("1023Ki", "1023Ki"),
        ("0.5Ki", "512"),
        ("1Ki", "1Ki"),
        (".001Ki", "1024m"),
        (".000001Ki", "1024u"),
        (".000000001Ki", "1024n"),
        (".000000000001Ki", "2n"),
        ("1e3", "1e3"),
        ("12e4", "120e3"),
        ("1E", "1E"),
        ("1E5", "100e3"),
        ("1e-100", "1e-9"),
        ("1.1e-9", "2e-9"),
        ("0.0000000001", "1n"),
        ("-1.5Gi", "-1536Mi"),
        ("+5", "5"),
        ("9Ei", "9223372036854775807"),
        ("100k", "100k"),
        ("1000k", "1M"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
    ] {
        assert_eq!(printed(text), expected, "{text}");
    }
}

#[test]
fn a_text_with_a_whole_mantissa_in_its_unit_stays() {
    for (text, expected) in [
        ("1500Mi", "1500Mi"),
        ("1024Mi", "1Gi"),
        ("0.5", "500m"),
        ("1.5", "1500m"),
        ("1.250", "1.250"),
        ("+5", "+5"),
        ("1000", "1k"),
        ("2000m", "2"),
        ("100m", "100m"),
        ("1.5Gi", "1536Mi"),
        ("8Gi", "8Gi"),
        ("16384", "16384"),
    ] {
        assert_eq!(canonical(text).unwrap(), expected, "{text}");
    }
}

#[test]
fn malformed_texts_are_refused_with_kubernetes_words() {
    for (text, error) in [
        ("", ParseError::Format),
        ("1 ", ParseError::Format),
        ("1.2.3", ParseError::Format),
        ("abc", ParseError::Format),
        ("1e", ParseError::Suffix),
        ("1ki", ParseError::Suffix),
        ("1-5", ParseError::Suffix),
        ("1mm", ParseError::Suffix),
        ("1KiB", ParseError::Format),
        ("1e99999999999999999999", ParseError::Suffix),
        ("1E-9223372036854775808", ParseError::Suffix),
        ("1e1000001", ParseError::Suffix),
        ("10e1000000", ParseError::Numeric),
        ("1e9223372036854775807", ParseError::Suffix),
        ("½", ParseError::Format),
    ] {
        assert_eq!(Quantity::parse(text), Err(error), "{text}");
    }
    assert_eq!(
        ParseError::Format.to_string(),
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    );
}

#[test]
fn values_round_away_from_zero_and_saturate() {
    let q = |text: &str| Quantity::parse(text).unwrap();
    assert_eq!(q("100m").value(), 1);
    assert_eq!(q("-100m").value(), -1);
    assert_eq!(q("1500m").milli_value(), 1500);
    assert_eq!(q("1.0001m").milli_value(), 2);
    assert_eq!(q("1e300").value(), i64::MAX);
    assert_eq!(q("-1e300").milli_value(), i64::MIN);
    assert_eq!(q("1Gi").value(), 1 << 30);
    assert!(q("1e300") > q("1e299"));
    assert!(q("-1e300") < q("-1e299"));
    assert_eq!(q("1e300").add(&q("1")), q("1e300"));
}

#[test]
fn numbers_in_json_are_quantities() {
    assert_eq!(Quantity::from_value(&serde_json::json!(2)), Quantity::parse("2"));
    assert_eq!(Quantity::from_value(&serde_json::json!(0.5)), Quantity::parse("500m"));
    assert_eq!(Quantity::from_value(&serde_json::json!(" 1Gi ")), Quantity::parse("1Gi"));
    assert!(Quantity::from_value(&serde_json::json!([])).is_err());
}

/// A quantity with few digits, and its value in billionths.
fn simple() -> impl Strategy<Value = (String, i128)> {
    let suffix = prop::sample::select(vec![
        ("n", 1),
        ("u", 1_000),
        ("m", 1_000_000),
        ("", 1_000_000_000i128),
        ("k", 1_000_000_000_000),
        ("M", 1_000_000_000_000_000),
        ("Ki", 1024 * 1_000_000_000),
        ("Mi", (1 << 20) * 1_000_000_000),
        ("e3", 1_000_000_000_000),
        ("E-2", 10_000_000),
    ]);
    (any::<bool>(), 0u32..100_000, 0u32..1_000, suffix).prop_map(|(negative, whole, fraction, (suffix, factor))| {
        let thousandths = i128::from(whole) * 1000 + i128::from(fraction);
        let exact = thousandths * factor;
        let nano = exact / 1000 + i128::from(exact % 1000 != 0);
        let sign = if negative { "-" } else { "" };
        (format!("{sign}{whole}.{fraction:03}{suffix}"), if negative { -nano } else { nano })
    })
}

proptest! {
    #[test]
    fn order_and_sum_agree_with_billionths((a, a_nano) in simple(), (b, b_nano) in simple()) {
        let (a, b) = (Quantity::parse(&a).unwrap(), Quantity::parse(&b).unwrap());
        prop_assert_eq!(a.cmp(&b), a_nano.cmp(&b_nano));
        let sum = a.add(&b);
        prop_assert_eq!(sum.aligned(NANO), Some(a_nano + b_nano));
        prop_assert_eq!(a.add(&b).sub(&b), a);
    }

    #[test]
    fn printing_keeps_the_value_and_is_stable((text, nano) in simple()) {
        let quantity = Quantity::parse(&text).unwrap();
        let printed = quantity.to_string();
        let again = Quantity::parse(&printed).unwrap();
        prop_assert_eq!(again, quantity);
        prop_assert_eq!(again.aligned(NANO), Some(nano));
        prop_assert_eq!(again.to_string(), printed.clone());
        prop_assert!(!printed.contains('.'));
        let kept = canonical(&text).unwrap().into_owned();
        prop_assert_eq!(Quantity::parse(&kept).unwrap(), quantity);
        prop_assert_eq!(canonical(&kept).unwrap(), kept.as_str());
    }

    #[test]
    fn nothing_panics(text in "[-+]?[0-9.]{0,45}[eEinumkKMGTP]{0,3}[-+]?[0-9]{0,8}", other in ".{0,12}") {
        for text in [&text, &other] {
            if let Ok(q) = Quantity::parse(text) {
                let _ = (q.to_string(), q.value(), q.milli_value(), q.neg().cmp(&q), q.add(&q).sub(&q.neg()));
                prop_assert_eq!(Quantity::parse(&q.to_string()).unwrap(), q);
            }
        }
    }
}
