//! AppArmor profiles: the fields, and the annotations about containers that came before them. A new pod's annotations are written
//! out in its fields, and where it has both they must agree: whoever reads only one of them is not misled.

use serde_json::{Value, json};

use super::defaults::CONTAINER_LISTS;
use super::is_windows;
use crate::error::FieldError;
use crate::strategy::field::{at, child, deep, entries, list, list_mut, one_of, set, text};

/// Annotations with this before a container's name say which profile it has.
pub(super) const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
const LOCALHOST: &str = "localhost/";
/// The longest name of a profile on a node, as long as a path may be.
const NAME_BYTES_MAX: usize = 4095;

/// The field that says what an annotation says; none if that is nothing.
fn of_annotation(annotation: &str) -> Option<Value> {
    match annotation {
        "unconfined" => Some(json!({"type": "Unconfined"})),
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        _ => {
            let name = annotation.strip_prefix(LOCALHOST).filter(|name| !name.is_empty())?;
            Some(json!({"type": "Localhost", "localhostProfile": name}))
        }
    }
}

/// Whether a field says what an annotation says.
pub(super) fn says(profile: &Value, annotation: &str) -> bool {
    let is_same = |other: Value| ["type", "localhostProfile"].iter().all(|key| text(profile, key) == text(&other, key));
    of_annotation(annotation).is_some_and(is_same)
}

/// Gives the containers of a new pod that have an annotation and no field the field, unless the whole pod has that profile.
pub(super) fn merge(pod: &mut Value) {
    let Some(annotations) = deep(pod, &["metadata", "annotations"]).filter(|map| has_any(map)).cloned() else { return };
    let Some(spec) = pod.get_mut("spec").filter(|spec| !is_windows(spec)) else { return };
    let of_pod = deep(spec, &["securityContext", "appArmorProfile"]).cloned();
    for kind in CONTAINER_LISTS {
        for container in list_mut(spec, kind) {
            let annotation = text(&annotations, &format!("{ANNOTATION}{}", text(container, "name")));
            let is_said = deep(container, &["securityContext", "appArmorProfile"]).is_some()
                || of_pod.as_ref().is_some_and(|profile| says(profile, annotation));
            let Some(profile) = of_annotation(annotation).filter(|_| !is_said) else { continue };
            let mut errors = Vec::new();
            validate_profile(&profile, "", &mut errors);
            // What is wrong with it is told where it was written.
            if errors.is_empty() {
                set(child(container, "securityContext"), "appArmorProfile", profile);
            }
        }
    }
}

fn has_any(annotations: &Value) -> bool {
    annotations.as_object().is_some_and(|map| map.keys().any(|key| key.starts_with(ANNOTATION)))
}

/// Validates the field of a security context.
pub(super) fn validate_field(context: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(profile) = at(context, "appArmorProfile") {
        validate_profile(profile, &format!("{path}.appArmorProfile"), errors);
    }
}

fn validate_profile(profile: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let named = at(profile, "localhostProfile").and_then(Value::as_str);
    let name_path = format!("{path}.localhostProfile");
    match (text(profile, "type"), named) {
        ("Localhost", Some(name)) if name.trim() != name => {
            errors.push(FieldError::invalid(name_path, name, "must not be padded with whitespace"));
        }
        ("Localhost", None | Some("")) => {
            errors.push(FieldError::required(name_path, "must be set when AppArmor type is Localhost"));
        }
        ("Localhost", Some(name)) if name.len() > NAME_BYTES_MAX => {
            errors.push(FieldError::too_long(name_path, NAME_BYTES_MAX));
        }
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            errors.push(FieldError::invalid(name_path, name, "can only be set when AppArmor type is Localhost"));
        }
        ("Localhost" | "RuntimeDefault" | "Unconfined", _) => {}
        ("", _) => {
            errors.push(FieldError::required(format!("{path}.type"), "type is required when appArmorProfile is set"));
        }
        _ => one_of(profile, "type", path, &["Localhost", "RuntimeDefault", "Unconfined"], errors),
    }
}

/// Validates the annotations of a pod or a template: each is about one of its containers and names a profile.
pub(super) fn validate_annotations(metadata: &Value, spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (key, value) in entries(metadata, "annotations") {
        let Some(name) = key.strip_prefix(ANNOTATION) else { continue };
        if !CONTAINER_LISTS.iter().any(|kind| list(spec, kind).iter().any(|container| text(container, "name") == name))
        {
            errors.push(FieldError::invalid(format!("{path}[{key}]"), name, "container not found"));
        }
        let value = value.as_str().unwrap_or_default();
        if !(matches!(value, "" | "runtime/default" | "unconfined") || value.starts_with(LOCALHOST)) {
            let detail = format!("invalid AppArmor profile name: {value:?}");
            errors.push(FieldError::invalid(format!("{path}[{key}]"), value, detail));
        }
    }
}

/// Validates a new pod: its annotations, and that they say what its fields say.
pub(super) fn validate_new(pod: &Value, errors: &mut Vec<FieldError>) {
    let none = Value::Null;
    let (metadata, spec) = (at(pod, "metadata").unwrap_or(&none), at(pod, "spec").unwrap_or(&none));
    validate_annotations(metadata, spec, "metadata.annotations", errors);
    let annotations = at(metadata, "annotations").unwrap_or(&none);
    if is_windows(spec) || !has_any(annotations) {
        return;
    }
    let of_pod = deep(spec, &["securityContext", "appArmorProfile"]);
    for kind in CONTAINER_LISTS {
        for (index, container) in list(spec, kind).iter().enumerate() {
            let annotation = at(annotations, &format!("{ANNOTATION}{}", text(container, "name")));
            let profile = deep(container, &["securityContext", "appArmorProfile"]).or(of_pod);
            let Some((annotation, profile)) = annotation.and_then(Value::as_str).zip(profile) else { continue };
            if says(profile, annotation) {
                continue;
            }
            let path = format!("spec.{kind}[{index}].securityContext.appArmorProfile");
            errors.push(match text(profile, "type") == "Localhost" && annotation.starts_with(LOCALHOST) {
                true => FieldError::forbidden(
                    format!("{path}.localhostProfile"),
                    "apparmor profile in annotation and field must match",
                ),
                false => {
                    FieldError::forbidden(format!("{path}.type"), "apparmor type in annotation and field must match")
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod with a profile for all, and a container `c` with an annotation and a field.
    fn pod(of_pod: &Value, annotation: &str, own: &Value) -> Value {
        json!({
            "metadata": {"annotations": {(format!("{ANNOTATION}c")): annotation}},
            "spec": {"securityContext": {"appArmorProfile": of_pod}, "containers": [
                {"name": "c", "securityContext": {"appArmorProfile": own}}, {"name": "other"}]},
        })
    }

    fn told(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(|error| format!("{error:?}")).collect()
    }

    #[test]
    fn a_new_pod_has_in_fields_what_annotations_say() {
        let none = Value::Null;
        let (free, default) = (json!({"type": "Unconfined"}), json!({"type": "RuntimeDefault"}));
        let named = |name: &str| json!({"type": "Localhost", "localhostProfile": name});
        for (of_pod, annotation, own, expected, refused) in [
            (&none, "unconfined", &none, &free, None),
            (&none, "runtime/default", &none, &default, None),
            (&none, "localhost/a", &none, &named("a"), None),
            // The pod's is the container's, so it needs none of its own.
            (&default, "runtime/default", &none, &none, None),
            (&default, "unconfined", &none, &free, None),
            (&free, "unconfined", &default, &default, Some("apparmor type in annotation")),
            (&none, "localhost/a", &named("a"), &named("a"), None),
            (&none, "localhost/a", &named("b"), &named("b"), Some("apparmor profile in annotation")),
            (&none, "localhost/a", &default, &default, Some("apparmor type in annotation")),
            // What says nothing is not copied.
            (&none, "", &none, &none, None),
            (&none, "localhost/", &none, &none, None),
            (&default, "", &none, &none, Some("apparmor type in annotation")),
            (&none, "localhost/ a", &none, &none, None),
            (&none, "other", &none, &none, Some("invalid AppArmor profile name")),
        ] {
            let mut made = pod(of_pod, annotation, own);
            let given = made.clone();
            merge(&mut made);
            let case = format!("{of_pod} {annotation} {own}");
            assert_eq!(made["spec"]["containers"][0]["securityContext"]["appArmorProfile"], *expected, "{case}");
            assert_eq!(made["spec"]["containers"][1], given["spec"]["containers"][1], "{case}");
            let mut errors = Vec::new();
            validate_new(&made, &mut errors);
            let errors = told(&errors);
            assert_eq!(errors.len(), usize::from(refused.is_some()), "{case}: {errors:?}");
            assert!(refused.is_none_or(|why| errors[0].contains(why)), "{case}: {errors:?}");
        }
    }

    #[test]
    fn pods_for_windows_are_left_alone_and_annotations_are_about_containers() {
        let mut windows = pod(&Value::Null, "unconfined", &Value::Null);
        windows["spec"]["os"] = json!({"name": "windows"});
        let given = windows.clone();
        merge(&mut windows);
        assert_eq!(windows, given);
        let mut errors = Vec::new();
        windows["spec"]["containers"] = json!([{"name": "other"}]);
        validate_new(&windows, &mut errors);
        assert!(errors.len() == 1 && told(&errors)[0].contains("container not found"), "{errors:?}");
    }

    #[test]
    fn a_field_is_whole() {
        for (profile, wrong) in [
            (json!({"type": "RuntimeDefault"}), None),
            (json!({"type": "Localhost", "localhostProfile": "a"}), None),
            (json!({"type": "Localhost", "localhostProfile": "a ".repeat(3)}), Some("padded")),
            (json!({"type": "Localhost", "localhostProfile": "a".repeat(4096)}), Some("localhostProfile")),
            (json!({"type": "Localhost"}), Some("must be set")),
            (json!({"type": "Unconfined", "localhostProfile": "a"}), Some("can only be set")),
            (json!({}), Some("type is required")),
            (json!({"type": "Other"}), Some("Other")),
        ] {
            let mut errors = Vec::new();
            validate_field(&json!({"appArmorProfile": profile}), "spec.securityContext", &mut errors);
            let errors = told(&errors);
            assert_eq!(errors.len(), usize::from(wrong.is_some()), "{profile}: {errors:?}");
            assert!(wrong.is_none_or(|why| errors[0].contains(why)), "{profile}: {errors:?}");
        }
    }
}
