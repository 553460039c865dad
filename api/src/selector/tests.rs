//! Scenarios and properties of selectors.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn texts_match_as_kubectl_users_expect() {
    let web = labels(&[("app", "web"), ("tier", "front"), ("weight", "7"), ("empty", "")]);
    for (selector, matches) in [
        ("", true),
        ("app=web", true),
        ("app==web", true),
        ("app!=web", false),
        ("app = web , tier = front", true),
        ("app in (web, api)", true),
        ("app notin (web,api)", false),
        ("other notin (web)", true),
        ("other!=x", true),
        ("app", true),
        ("!app", false),
        ("!other", true),
        ("weight>6", true),
        ("weight>7", false),
        ("weight<8", true),
        ("app>1", false),
        ("empty=", true),
        ("empty in ()", true),
        ("empty in (,x)", true),
        ("app=,tier", false),
        ("in in (in)", false),
        ("notin=notin", false),
        ("tier in (front),!gone,app", true),
    ] {
        assert_eq!(LabelSelector::parse(selector).unwrap().matches(&web), matches, "{selector}");
    }
}

#[test]
fn malformed_texts_are_refused_with_kubernetes_words() {
    for (selector, message) in [
        ("app=web,", "found '', expected: identifier after ','"),
        (",app", "found ',', expected: !, identifier, or 'end of string'"),
        ("app web", "unable to parse requirement: found 'web', expected: in, notin, =, ==, !=, gt, lt"),
        ("app in web", "unable to parse requirement: found 'web' expected: '('"),
        ("app in (web", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("app=a=b", "found '=', expected: ',' or 'end of string'"),
        (
            "a>x",
            "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
        ),
    ] {
        assert_eq!(LabelSelector::parse(selector).unwrap_err().message, message, "{selector}");
    }
    let error = LabelSelector::parse("-bad=x").unwrap_err().message;
    assert!(
        error.starts_with("unable to parse requirement: <nil>: Invalid value: \"-bad\": name part must consist of"),
        "{error}"
    );
    let error = LabelSelector::parse("app=-bad").unwrap_err().message;
    assert!(
        error
            .starts_with("unable to parse requirement: values[0][app]: Invalid value: \"-bad\": a valid label must be"),
        "{error}"
    );
}

#[test]
fn selector_objects_become_the_same_form() {
    let selector = LabelSelector::from_object(&json!({
        "matchLabels": {"app": "web"},
        "matchExpressions": [{"key": "tier", "operator": "In", "values": ["back", "front"]}, {"key": "old", "operator": "DoesNotExist"}],
    }))
    .unwrap();
    assert_eq!(selector.to_string(), "app=web,!old,tier in (back,front)");
    assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
    assert!(!LabelSelector::from_object(&Value::Null).unwrap().matches(&json!({})));
    assert!(LabelSelector::from_object(&json!({})).unwrap().matches(&json!({})));
    let bad = json!({"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]});
    assert_eq!(LabelSelector::from_object(&bad).unwrap_err().message, "\"Gt\" is not a valid label selector operator");
    let empty = json!({"matchExpressions": [{"key": "a", "operator": "In", "values": []}]});
    assert_eq!(
        LabelSelector::from_object(&empty).unwrap_err().message,
        "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"
    );
    assert!(
        node_requirement(&json!({"key": "a", "operator": "Gt", "values": ["1"]})).unwrap().matches(&json!({"a": "2"}))
    );
}

#[test]
fn label_rules_are_kubernetes_ones() {
    for good in ["a", "A.b_c-d", "example.com/name", "1.2/3", &"a".repeat(63)] {
        assert!(label_key_errors(good).is_empty(), "{good}");
    }
    for bad in ["", "/a", "a/", "a/b/c", "-a", "a-", "Example.com/a", "a b", &"a".repeat(64)] {
        assert!(!label_key_errors(bad).is_empty(), "{bad}");
    }
    assert!(label_value_errors("").is_empty());
    assert!(!label_value_errors("_a").is_empty());
    assert_eq!(label_value_errors(&"a".repeat(64)), ["must be no more than 63 bytes"]);
}

#[test]
fn field_selectors_escape_and_compare() {
    let selector = FieldSelector::parse(r"status.phase!=Running,metadata.name==a\,b,spec.nodeName=n\=\\").unwrap();
    assert_eq!(selector.exact("metadata.name"), Some("a,b"));
    assert_eq!(selector.exact("spec.nodeName"), Some(r"n=\"));
    assert_eq!(selector.exact("status.phase"), None);
    let get = |f: &str| match f {
        "metadata.name" => Some("a,b"),
        "spec.nodeName" => Some(r"n=\"),
        _ => None,
    };
    assert!(selector.matches(get));
    assert!(FieldSelector::parse("spec.nodeName=").unwrap().matches(|_| None));
    assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap(), selector);
    for (text, message) in [
        ("abc", "invalid selector: 'abc'; can't understand 'abc'"),
        ("a=b=c", "invalid field selector: unescaped character in value: 61"),
        (r"a=b\c", r"invalid field selector: invalid escape sequence: \c"),
        (r"a=b\", r"invalid field selector: invalid escape sequence: \"),
    ] {
        assert_eq!(FieldSelector::parse(text).unwrap_err().message, message);
    }
}

#[derive(Debug, Clone)]
struct Wanted(String, Operator, Vec<String>);

fn wanted() -> impl Strategy<Value = Wanted> {
    use Operator::*;
    let operator = prop::sample::select(vec![
        Equals,
        DoubleEquals,
        NotEquals,
        In,
        NotIn,
        Exists,
        DoesNotExist,
        GreaterThan,
        LessThan,
    ]);
    ("[ab]", operator, prop::collection::btree_set("[0-3]", 1..3)).prop_map(|(key, operator, values)| {
        let values: Vec<String> = match operator.wants() {
            Arity::None => Vec::new(),
            Arity::Some => values.into_iter().collect(),
            _ => values.into_iter().take(1).collect(),
        };
        Wanted(key, operator, values)
    })
}

fn naive(Wanted(key, operator, values): &Wanted, labels: &BTreeMap<String, String>) -> bool {
    use Operator::*;
    match (labels.get(key), operator) {
        (Some(v), Equals | DoubleEquals | In) => values.contains(v),
        (Some(v), NotEquals | NotIn) => !values.contains(v),
        (Some(_), Exists) | (None, DoesNotExist | NotEquals | NotIn) => true,
        (Some(v), GreaterThan) => v.parse::<i64>().is_ok_and(|v| v > values[0].parse().unwrap()),
        (Some(v), LessThan) => v.parse::<i64>().is_ok_and(|v| v < values[0].parse().unwrap()),
        _ => false,
    }
}

proptest! {
    #[test]
    fn matching_agrees_with_the_naive_matcher(
        wanted in prop::collection::vec(wanted(), 0..4),
        labels in prop::collection::btree_map("[ab]", "[0-3x]", 0..3),
    ) {
        let requirements = wanted.iter().map(|Wanted(k, o, v)| Requirement::new(k, *o, v.clone()).unwrap());
        let selector = LabelSelector::new(requirements);
        let expected = wanted.iter().all(|w| naive(w, &labels));
        prop_assert_eq!(selector.matches(&labels), expected);
        let again = LabelSelector::parse(&selector.to_string()).unwrap();
        prop_assert_eq!(again.matches(&labels), expected);
        prop_assert_eq!(again.to_string(), selector.to_string());
    }

    #[test]
    fn nothing_panics(text in "[a-z!=<>(),\\\\ \u{0}é]{0,20}", any in ".{0,20}") {
        for text in [&text, &any] {
            if let Ok(selector) = LabelSelector::parse(text) {
                selector.matches(&json!({"a": "b"}));
                prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
            }
            if let Ok(selector) = FieldSelector::parse(text) {
                prop_assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap().requirements().len(), selector.requirements().len());
            }
        }
    }
}
