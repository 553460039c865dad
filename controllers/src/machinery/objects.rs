//! Small helpers on API objects: selectors, times, and numbers that may be percentages.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::{Selector, SelectorExt};

use super::Error;

/// A label selector ready for matching.
#[derive(Clone, Debug)]
pub struct Matcher(Selector);

impl Matcher {
    /// Reads the selector of the object called `object`.
    pub fn new(selector: &LabelSelector, object: impl Fn() -> String) -> Result<Self, Error> {
        Selector::try_from(selector.clone())
            .map(Matcher)
            .map_err(|error| Error::Selector { object: object(), reason: error.to_string() })
    }

    /// Whether the selector names nothing, which for workloads means that it selects nothing.
    pub fn is_empty(&self) -> bool {
        self.0.selects_all()
    }

    /// Whether the selector takes these labels. An empty one takes none.
    pub fn takes(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.is_empty() && self.0.matches(labels)
    }
}

/// Whether every pair of `wanted` is among `labels`.
pub fn has_all(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The present time to the second, as the API stores it.
pub fn to_second(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// The time as the API writes it.
pub fn time(now: Timestamp) -> Time {
    Time(to_second(now))
}

/// The value of a number or a percentage of `total`; percentages round up or down as asked.
///
/// Something that is neither counts as nothing; the API server does not let it in.
pub fn scaled(value: &IntOrString, total: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let Some(percent) = text.strip_suffix('%').and_then(|number| number.parse::<i32>().ok()) else {
                return 0;
            };
            let product = i64::from(percent) * i64::from(total);
            let whole = if round_up {
                product.div_euclid(100) + i64::from(product.rem_euclid(100) != 0)
            } else {
                product.div_euclid(100)
            };
            i32::try_from(whole).unwrap_or(i32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        let quarter = IntOrString::String("25%".into());
        assert_eq!(scaled(&quarter, 10, true), 3);
        assert_eq!(scaled(&quarter, 10, false), 2);
        assert_eq!(scaled(&quarter, 8, true), 2);
        assert_eq!(scaled(&IntOrString::Int(7), 10, true), 7);
        assert_eq!(scaled(&IntOrString::String("x".into()), 10, true), 0);
    }

    #[test]
    fn an_empty_selector_takes_nothing() {
        let matcher = Matcher::new(&LabelSelector::default(), String::new).unwrap();
        assert!(!matcher.takes(&BTreeMap::new()));
    }
}
