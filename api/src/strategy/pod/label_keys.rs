//! `matchLabelKeys` and `mismatchLabelKeys`: selectors of other pods by what the pod's own labels are. A pod that is made gets
//! them written out in its selectors; what it is then is what counts, whatever becomes of its labels.

use serde_json::{Value, json};

use crate::error::FieldError;
use crate::selector::label_key_errors;
use crate::strategy::field::{at, child, deep, entries, list, list_mut, text};

/// Each kind of key with the operator that it stands for.
const KEYS: [(&str, &str); 2] = [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")];

/// Writes the keys of a new pod's affinity and spreading out in the selectors beside them.
pub(super) fn merge(pod: &mut Value) {
    let Some(labels) = deep(pod, &["metadata", "labels"]).cloned() else { return };
    let Some(spec) = pod.get_mut("spec") else { return };
    for constraint in list_mut(spec, "topologySpreadConstraints") {
        merge_one(constraint, &labels);
    }
    let Some(affinity) = spec.get_mut("affinity") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(terms) = affinity.get_mut(kind) else { continue };
        for preferred in list_mut(terms, "preferredDuringSchedulingIgnoredDuringExecution") {
            merge_one(child(preferred, "podAffinityTerm"), &labels);
        }
        for term in list_mut(terms, "requiredDuringSchedulingIgnoredDuringExecution") {
            merge_one(term, &labels);
        }
    }
}

fn merge_one(term: &mut Value, labels: &Value) {
    let mut added = Vec::new();
    for (field, operator) in KEYS {
        for key in list(term, field) {
            let value = key.as_str().and_then(|key| labels.get(key)).and_then(Value::as_str);
            added.extend(value.map(|value| json!({"key": key, "operator": operator, "values": [value]})));
        }
    }
    // Without a selector no pod is meant, and none of these keys changes that.
    if added.is_empty() || at(term, "labelSelector").is_none() {
        return;
    }
    let selector = child(term, "labelSelector");
    if let Some(expressions) = selector.get_mut("matchExpressions").and_then(Value::as_array_mut) {
        expressions.extend(added);
    } else {
        selector["matchExpressions"] = Value::from(added);
    }
}

/// Validates the keys of a term or a constraint.
pub(super) fn validate(term: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let selector = at(term, "labelSelector");
    for (field, _) in KEYS {
        let keys = list(term, field);
        if !keys.is_empty() && selector.is_none() {
            let detail = "must not be specified when labelSelector is not set";
            errors.push(FieldError::forbidden(format!("{path}.{field}"), detail));
            continue;
        }
        for (index, key) in keys.iter().filter_map(Value::as_str).enumerate() {
            for detail in label_key_errors(key) {
                errors.push(FieldError::invalid(format!("{path}.{field}[{index}]"), key, detail));
            }
        }
    }
    let matching = list(term, "matchLabelKeys");
    // A key that was written out is in the selector once. Twice, the user has named it there as well.
    let mut seen: Vec<&str> =
        selector.into_iter().flat_map(|s| entries(s, "matchLabels")).map(|(key, _)| key.as_str()).collect();
    for expression in selector.into_iter().flat_map(|selector| list(selector, "matchExpressions")) {
        let key = text(expression, "key");
        if let Some(index) = matching.iter().position(|matched| matched == key).filter(|_| seen.contains(&key)) {
            let detail = "exists in both matchLabelKeys and labelSelector";
            errors.push(FieldError::invalid(format!("{path}[{index}]"), key, detail));
        }
        seen.push(key);
    }
    for (index, key) in matching.iter().enumerate() {
        if list(term, "mismatchLabelKeys").contains(key) {
            let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
            errors.push(FieldError::invalid(format!("{path}.matchLabelKeys[{index}]"), key.clone(), detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_out_with_the_pod_s_own_values() {
        let term = json!({
            "labelSelector": {"matchLabels": {"app": "web"}}, "matchLabelKeys": ["hash", "none"], "mismatchLabelKeys": ["tenant"],
        });
        let mut expected = term.clone();
        expected["labelSelector"]["matchExpressions"] = json!([
            {"key": "hash", "operator": "In", "values": ["1"]}, {"key": "tenant", "operator": "NotIn", "values": ["a"]},
        ]);
        let mut pod = json!({
            "metadata": {"labels": {"app": "web", "hash": "1", "tenant": "a"}},
            "spec": {
                "topologySpreadConstraints": [{"labelSelector": {"matchExpressions": []}, "matchLabelKeys": ["hash"]}, {"matchLabelKeys": ["hash"]}],
                "affinity": {
                    "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term.clone()]},
                    "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term}]},
                },
            },
        });
        merge(&mut pod);
        let affinity = &pod["spec"]["affinity"];
        assert_eq!(affinity["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0], expected);
        let preferred = &affinity["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0];
        assert_eq!(preferred["podAffinityTerm"], expected);
        let spreading = json!([
            {"labelSelector": {"matchExpressions": [{"key": "hash", "operator": "In", "values": ["1"]}]}, "matchLabelKeys": ["hash"]},
            {"matchLabelKeys": ["hash"]},
        ]);
        assert_eq!(pod["spec"]["topologySpreadConstraints"], spreading);
    }

    #[test]
    fn keys_that_contradict_are_refused() {
        let refused = |term: Value| {
            let mut errors = Vec::new();
            validate(&term, "term", &mut errors);
            errors.into_iter().map(|error| error.to_string()).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(refused(json!({"matchLabelKeys": ["a"], "labelSelector": {"matchLabels": {"a": "1"}}})), "");
        let twice = json!({"matchLabelKeys": ["b", "a"], "labelSelector": {
            "matchLabels": {"a": "1"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}});
        assert!(
            refused(twice).contains("term[1]: Invalid value: \"a\": exists in both matchLabelKeys and labelSelector")
        );
        let nobody = refused(json!({"mismatchLabelKeys": ["a"]}));
        assert!(
            nobody.contains("term.mismatchLabelKeys: Forbidden: must not be specified when labelSelector is not set"),
            "{nobody}"
        );
        let both = refused(json!({"matchLabelKeys": ["a"], "mismatchLabelKeys": ["a"], "labelSelector": {}}));
        assert!(both.contains("term.matchLabelKeys[0]: Invalid value: \"a\": exists in both"), "{both}");
        assert!(refused(json!({"matchLabelKeys": ["-"], "labelSelector": {}})).contains("term.matchLabelKeys[0]"));
    }
}
