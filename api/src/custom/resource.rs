//! The resources of a CustomResourceDefinition.

use std::borrow::Cow;
use std::cmp::{Ordering, Reverse};
use std::sync::Arc;

use serde_json::Value;

use super::conversion::{Converter, Relabel, WebhookConversion};
use super::strategy::CustomStrategy;
use super::{CustomKind, Expressions, naming};
use crate::error::ApiError;
use crate::kinds::{
    Conversion, FieldPath, Resource, ScalePaths, SchemaSource, SelectableField, StrategyRef, Subresources, Verb,
};
use crate::meta;
use crate::schema::Structural;
use crate::schema::rules::Rules;
use crate::table::CustomColumns;

const ALL_VERBS: [Verb; 8] =
    [Verb::Create, Verb::Delete, Verb::DeleteCollection, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];

/// A definition that is established: its resources.
#[derive(Debug, Clone)]
pub struct Definition {
    /// The version that is stored; served or not.
    pub storage: Arc<Resource>,
    /// One resource for each served version.
    pub served: Vec<Arc<Resource>>,
}

fn texts(value: Option<&Value>) -> Vec<String> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A `.spec.replicas` as segments.
fn segments(json_path: &str) -> Vec<String> {
    json_path.trim_start_matches('.').split('.').map(str::to_owned).collect()
}

impl Definition {
    /// Reads a definition as it is stored; none while it is not established.
    pub fn read(crd: &Value) -> Result<Option<Definition>, ApiError> {
        if !naming::is_true(crd, "Established") {
            return Ok(None);
        }
        let versions = crd.pointer("/spec/versions").and_then(Value::as_array).cloned().unwrap_or_default();
        let name = |version: &Value| meta::str_at(version, &["name"]).to_owned();
        let flag = |version: &Value, key: &str| version.get(key).and_then(Value::as_bool).unwrap_or_default();
        let Some(stored) = versions.iter().find(|version| flag(version, "storage")) else {
            return Err(ApiError::internal(format!("{} has no stored version", meta::name(crd))));
        };
        let mut known: Vec<String> = versions.iter().map(name).collect();
        known.extend(texts(crd.pointer("/status/storedVersions")));
        known.sort();
        known.dedup();
        let several = known.len() > 1;
        let storage_version = name(stored);
        let stored_kind = Arc::new(custom_kind(crd, stored)?);
        let make = |version: &Value| -> Result<Arc<Resource>, ApiError> {
            let kind = if name(version) == storage_version {
                Arc::clone(&stored_kind)
            } else {
                Arc::new(custom_kind(crd, version)?)
            };
            Ok(Arc::new(resource(crd, version, kind, &stored_kind, &storage_version, several)))
        };
        let served = versions.iter().filter(|version| flag(version, "served")).map(make).collect::<Result<_, _>>()?;
        // What is in the cache is in the stored version already.
        let mut storage = Resource::clone(&make(stored)?.as_ref().clone());
        storage.conversion = None;
        Ok(Some(Definition { storage: Arc::new(storage), served }))
    }
}

fn custom_kind(crd: &Value, version: &Value) -> Result<CustomKind, ApiError> {
    let empty = Value::Object(Default::default());
    let schema = version.pointer("/schema/openAPIV3Schema").unwrap_or(&empty);
    let preserve = crd.pointer("/spec/preserveUnknownFields").and_then(Value::as_bool).unwrap_or_default();
    let text = |path: &[&str]| meta::str_at(crd, path).to_owned();
    let converter = match meta::str_at(crd, &["spec", "conversion", "strategy"]) {
        "Webhook" => Converter::Webhook(Arc::new(WebhookConversion {
            client_config: crd.pointer("/spec/conversion/webhook/clientConfig").cloned().unwrap_or_default(),
            review_versions: texts(crd.pointer("/spec/conversion/webhook/conversionReviewVersions")),
            kind: text(&["spec", "names", "kind"]),
        })),
        _ => Converter::None,
    };
    Ok(CustomKind {
        definition: meta::name(crd).to_owned(),
        uid: meta::uid(crd).to_owned(),
        revision: meta::resource_version(crd).parse().unwrap_or_default(),
        terminating: meta::is_deleting(crd),
        converter,
        columns: CustomColumns::new(version.get("additionalPrinterColumns").unwrap_or(&Value::Null))?,
        structural: Structural::new(schema, preserve),
        rules: Arc::new(Rules::new(schema)),
        expressions: Arc::new(Expressions::new(schema, true)),
        published: schema.clone(),
    })
}

/// What users of a version are told if it is deprecated: what the definition says, or what to use instead.
fn deprecation(crd: &Value, version: &Value) -> Option<String> {
    let flag = |version: &Value, key: &str| version.get(key).and_then(Value::as_bool).unwrap_or_default();
    if !flag(version, "deprecated") {
        return None;
    }
    if let Some(own) = version.get("deprecationWarning").and_then(Value::as_str) {
        return Some(own.to_owned());
    }
    let group = meta::str_at(crd, &["spec", "group"]);
    let kind = meta::str_at(crd, &["spec", "names", "kind"]);
    let name = meta::str_at(version, &["name"]);
    let versions = crd.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten();
    let better = versions
        .filter(|other| flag(other, "served") && !flag(other, "deprecated"))
        .map(|other| meta::str_at(other, &["name"]))
        .filter(|other| compare_versions(other, name) == Ordering::Less)
        .min_by(|a, b| compare_versions(a, b));
    let instead = better.map(|better| format!("; use {group}/{better} {kind}")).unwrap_or_default();
    Some(format!("{group}/{name} {kind} is deprecated{instead}"))
}

fn resource(
    crd: &Value,
    version: &Value,
    kind: Arc<CustomKind>,
    stored: &Arc<CustomKind>,
    storage_version: &str,
    several: bool,
) -> Resource {
    let group = meta::str_at(crd, &["spec", "group"]).to_owned();
    let version_name = meta::str_at(version, &["name"]).to_owned();
    let accepted = |key: &str| meta::str_at(crd, &["status", "acceptedNames", key]).to_owned();
    let plural = accepted("plural");
    let scale = version.pointer("/subresources/scale").map(|scale| ScalePaths {
        spec: segments(meta::str_at(scale, &["specReplicasPath"])).join("."),
        status: segments(meta::str_at(scale, &["statusReplicasPath"])).join("."),
        selector: segments(meta::str_at(scale, &["labelSelectorPath"])).join("."),
    });
    let has_status = version.pointer("/subresources/status").is_some();
    let selectable: Vec<SelectableField> = version
        .get("selectableFields")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|field| {
            let path = segments(meta::str_at(field, &["jsonPath"]));
            SelectableField {
                label: Cow::Owned(path.join(".")),
                path: FieldPath::Own(path),
                absent: Cow::Borrowed(""),
                or_that_of: None,
            }
        })
        .collect();
    let api_version = crate::kinds::api_version(&group, &version_name);
    let conversion = several.then(|| {
        let is_stored = version_name == storage_version;
        Arc::new(Relabel {
            kind: Arc::clone(&kind),
            api_version: api_version.clone(),
            storage: crate::kinds::api_version(&group, storage_version),
            stored: (!is_stored).then(|| Arc::clone(stored)),
        }) as Arc<dyn Conversion>
    });
    let conversion = if kind.converter == Converter::None { conversion } else { None };
    Resource {
        version: version_name,
        kind: accepted("kind"),
        list_kind: accepted("listKind"),
        singular: accepted("singular"),
        short_names: texts(crd.pointer("/status/acceptedNames/shortNames")),
        categories: texts(crd.pointer("/status/acceptedNames/categories")),
        namespaced: meta::str_at(crd, &["spec", "scope"]) == "Namespaced",
        verbs: ALL_VERBS.to_vec(),
        storage_prefix: format!("/registry/{group}/{plural}/"),
        selectable_fields: Cow::Owned(selectable),
        strategy: StrategyRef::Own(Arc::new(CustomStrategy::new(&kind, has_status, scale.clone()))),
        conversion,
        source: SchemaSource::Own(Arc::clone(&kind.structural.set), kind.structural.root),
        subresources: Subresources { status: has_status, scale, other: Vec::new() },
        deprecation: deprecation(crd, version),
        custom: Some(kind),
        group,
        plural,
    }
}

/// Kubernetes' order of versions: stable before beta before alpha, the newer first; others by name after them.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    match (parse_version(a), parse_version(b)) {
        (Some(a), Some(b)) => Reverse(a).cmp(&Reverse(b)),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// Stability (2: stable), major, minor.
fn parse_version(text: &str) -> Option<(u8, u64, u64)> {
    let rest = text.strip_prefix('v')?;
    let digits = |text: &str| -> Option<u64> {
        let fine = !text.is_empty() && !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
        if fine { text.parse().ok() } else { None }
    };
    for (stability, word) in [(0, "alpha"), (1, "beta")] {
        if let Some((major, minor)) = rest.split_once(word) {
            let minor = if minor.is_empty() { 0 } else { digits(minor)? };
            return Some((stability, digits(major)?, minor));
        }
    }
    Some((2, digits(rest)?, 0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn users_of_a_deprecated_version_are_told_of_the_best_that_is_not() {
        let version = |name: &str, served: bool, deprecated: bool| json!({"name": name, "served": served, "deprecated": deprecated});
        let mut crd = json!({"spec": {"group": "example.com", "names": {"kind": "Thing"}, "versions": [
            version("v1alpha1", true, true), version("v1beta1", true, true), version("v1beta2", true, false),
            version("v1", true, false), version("v2", false, false)]}});
        let told = |crd: &Value, at: usize| deprecation(crd, &crd["spec"]["versions"][at]);
        assert_eq!(told(&crd, 0).unwrap(), "example.com/v1alpha1 Thing is deprecated; use example.com/v1 Thing");
        assert_eq!(told(&crd, 2), None);
        crd["spec"]["versions"][3]["deprecated"] = json!(true);
        assert_eq!(told(&crd, 3).unwrap(), "example.com/v1 Thing is deprecated");
        crd["spec"]["versions"][3]["deprecationWarning"] = json!("go away");
        assert_eq!(told(&crd, 3).unwrap(), "go away");
    }

    #[test]
    fn versions_stand_in_the_order_of_their_maturity() {
        let mut versions =
            ["foo1", "v1alpha1", "v2beta1", "v10", "v1", "v11alpha2", "v1beta2", "v3beta1", "foo10", "v2"];
        versions.sort_by(|a, b| compare_versions(a, b));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v3beta1", "v2beta1", "v1beta2", "v11alpha2", "v1alpha1", "foo1", "foo10"]
        );
    }
}
