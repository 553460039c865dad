//! What the status of a CustomResourceDefinition says: accepted names and conditions.
//!
//! In: a definition, the names that others in its group have, the time. Out: the status it should have. Pure; the server
//! writes it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::meta;

/// The names in use in a group by definitions other than one.
#[derive(Debug, Clone, Default)]
pub struct Taken {
    /// Plurals, singulars and short names.
    pub resources: BTreeSet<String>,
    /// Kinds and list kinds.
    pub kinds: BTreeSet<String>,
}

fn names<'a>(crd: &'a Value, part: &str) -> Option<&'a Map<String, Value>> {
    crd.pointer(part).and_then(Value::as_object)
}

fn text(map: &Map<String, Value>, key: &str) -> String {
    map.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn list(map: &Map<String, Value>, key: &str) -> Vec<String> {
    let values = map.get(key).and_then(Value::as_array).into_iter().flatten();
    values.filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Taken {
    /// Adds the names that a definition has been given.
    pub fn add(&mut self, crd: &Value) {
        let Some(accepted) = names(crd, "/status/acceptedNames") else { return };
        self.resources.extend([text(accepted, "plural"), text(accepted, "singular")]);
        self.resources.extend(list(accepted, "shortNames"));
        self.kinds.extend([text(accepted, "kind"), text(accepted, "listKind")]);
        self.resources.remove("");
        self.kinds.remove("");
    }
}

/// Whether a condition is true.
pub fn is_true(crd: &Value, kind: &str) -> bool {
    condition(crd, kind).is_some_and(|c| meta::str_at(c, &["status"]) == "True")
}

fn condition<'a>(crd: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = crd.pointer("/status/conditions").and_then(Value::as_array)?;
    conditions.iter().find(|c| meta::str_at(c, &["type"]) == kind)
}

/// Sets a condition; its time changes with its status only.
pub fn set_condition(crd: &mut Value, kind: &str, status: bool, reason: &str, message: &str, now: Timestamp) {
    let wanted = if status { "True" } else { "False" };
    let before = condition(crd, kind);
    let since = before
        .filter(|c| meta::str_at(c, &["status"]) == wanted)
        .map(|c| meta::str_at(c, &["lastTransitionTime"]).to_owned())
        .filter(|time| !time.is_empty())
        .unwrap_or_else(|| meta::time(now));
    let new = json!({
        "type": kind, "status": wanted, "reason": reason, "message": message, "lastTransitionTime": since,
    });
    let status = meta::object_mut(crd, "status");
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Value::Array(conditions) = conditions else { return };
    match conditions.iter_mut().find(|c| meta::str_at(c, &["type"]) == kind) {
        Some(found) => *found = new,
        None => conditions.push(new),
    }
}

/// The definition with the status it should have: names accepted or in conflict, established once they are.
pub fn settle(crd: &Value, taken: &Taken, now: Timestamp) -> Value {
    let mut new = crd.clone();
    let empty = Map::new();
    let requested = names(crd, "/spec/names").unwrap_or(&empty);
    let accepted = names(crd, "/status/acceptedNames").cloned().unwrap_or_default();
    let mut given = accepted.clone();
    let mut conflict: Option<(&str, String)> = None;
    let free = |wanted: &str, had: &str, used: &BTreeSet<String>| wanted == had || !used.contains(wanted);
    for (key, reason, used) in [
        ("plural", "PluralConflict", &taken.resources),
        ("singular", "SingularConflict", &taken.resources),
        ("kind", "KindConflict", &taken.kinds),
        ("listKind", "ListKindConflict", &taken.kinds),
    ] {
        let wanted = text(requested, key);
        if free(&wanted, &text(&accepted, key), used) {
            given.insert(key.to_owned(), Value::from(wanted));
        } else {
            conflict = Some((reason, format!("{wanted:?} is already in use")));
        }
    }
    let had = list(&accepted, "shortNames");
    let clashes: Vec<String> = list(requested, "shortNames")
        .into_iter()
        .filter(|short| !had.contains(short) && taken.resources.contains(short))
        .map(|short| format!("{short:?} is already in use"))
        .collect();
    match clashes.as_slice() {
        [] => copy(requested, &mut given, "shortNames"),
        [one] => conflict = Some(("ShortNamesConflict", one.clone())),
        many => conflict = Some(("ShortNamesConflict", format!("[{}]", many.join(", ")))),
    }
    copy(requested, &mut given, "categories");
    meta::object_mut(&mut new, "status").insert("acceptedNames".to_owned(), Value::Object(given));
    match &conflict {
        Some((reason, message)) => set_condition(&mut new, "NamesAccepted", false, reason, message, now),
        None => set_condition(&mut new, "NamesAccepted", true, "NoConflicts", "no conflicts found", now),
    }
    if !is_true(crd, "Established") {
        if conflict.is_some() {
            set_condition(&mut new, "Established", false, "NotAccepted", "not all names are accepted", now);
        } else {
            let message = "the initial names have been accepted";
            set_condition(&mut new, "Established", true, "InitialNamesAccepted", message, now);
        }
    }
    new
}

fn copy(from: &Map<String, Value>, to: &mut Map<String, Value>, key: &str) {
    match from.get(key) {
        Some(value) => drop(to.insert(key.to_owned(), value.clone())),
        None => drop(to.remove(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crd(plural: &str, kind: &str, short: &str) -> Value {
        json!({"spec": {"group": "g.io", "names": {
            "plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List"), "shortNames": [short],
        }}})
    }

    #[test]
    fn the_first_to_ask_gets_a_name_and_the_others_are_told() {
        let now = Timestamp::UNIX_EPOCH;
        let first = settle(&crd("foos", "Foo", "f"), &Taken::default(), now);
        assert!(is_true(&first, "NamesAccepted") && is_true(&first, "Established"));
        assert_eq!(first["status"]["acceptedNames"]["plural"], "foos");
        let mut taken = Taken::default();
        taken.add(&first);
        let second = settle(&crd("bars", "Foo", "f"), &taken, now);
        assert!(!is_true(&second, "NamesAccepted") && !is_true(&second, "Established"));
        let told = condition(&second, "NamesAccepted").unwrap();
        assert_eq!(
            (told["reason"].as_str(), told["message"].as_str()),
            (Some("ShortNamesConflict"), Some("\"f\" is already in use"))
        );
        assert_eq!(second["status"]["acceptedNames"]["plural"], "bars");
        // The first goes away: the second gets what it asked for.
        let again = settle(&second, &Taken::default(), now);
        assert!(is_true(&again, "Established"));
        assert_eq!(settle(&again, &Taken::default(), now), again);
    }
}
