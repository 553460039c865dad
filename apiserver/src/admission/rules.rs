//! Which requests a webhook or policy is about: `rules`, `matchPolicy`, `namespaceSelector`, `objectSelector`.
//!
//! In: those fields of a configuration. Out: a [`Constraint`], which decides in two steps: [`Constraint::resolve`] looks at what
//! is asked of which resource, and its answer can be remembered; [`Constraint::selects`] looks at the objects.

use std::borrow::Cow;
use std::sync::Arc;

use gantry_api::kinds::{Catalog, Resource};
use gantry_api::selector::LabelSelector;
use gantry_api::{ApiError, codec};
use serde_json::Value;

use super::attributes::{Attributes, Operation, labels};
use crate::registry::Registry;

/// The scope of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    All,
    Cluster,
    Namespaced,
}

/// What a rule compares.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// What the request does.
    pub operation: Operation,
    /// To which resource.
    pub resource: &'a Resource,
    /// Through which subresource.
    pub subresource: &'a str,
}

/// One rule.
#[derive(Debug, Clone)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource.
    resources: Vec<(String, String)>,
    scope: Scope,
    /// Only these objects; none for all.
    names: Vec<String>,
}

/// All of what limits a webhook or policy to some requests.
#[derive(Debug, Clone)]
pub struct Constraint {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// Without rules every request matches (policies), or none (webhooks).
    all_without_rules: bool,
    equivalent: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
}

/// As what a request matches.
#[derive(Debug, Clone)]
pub enum Matched {
    /// As it is.
    Same,
    /// As a request to this version of the resource.
    As(Arc<Resource>),
}

fn texts(value: &Value, key: &str) -> Vec<String> {
    let values = value.get(key).and_then(Value::as_array).into_iter().flatten();
    values.filter_map(|value| value.as_str().map(str::to_owned)).collect()
}

fn has(patterns: &[String], value: &str) -> bool {
    patterns.iter().any(|pattern| pattern == "*" || pattern == value)
}

impl Rule {
    fn from_value(rule: &Value) -> Self {
        let resources = texts(rule, "resources").into_iter().map(|resource| match resource.split_once('/') {
            Some((resource, subresource)) => (resource.to_owned(), subresource.to_owned()),
            None => (resource, String::new()),
        });
        Self {
            operations: texts(rule, "operations"),
            groups: texts(rule, "apiGroups"),
            versions: texts(rule, "apiVersions"),
            resources: resources.collect(),
            scope: match rule.get("scope").and_then(Value::as_str) {
                Some("Cluster") => Scope::Cluster,
                Some("Namespaced") => Scope::Namespaced,
                _ => Scope::All,
            },
            names: texts(rule, "resourceNames"),
        }
    }

    fn matches(&self, asked: &Asked<'_>, name: Option<&str>) -> bool {
        let resource = asked.resource;
        let in_scope = match self.scope {
            Scope::All => true,
            Scope::Cluster => !resource.namespaced,
            Scope::Namespaced => resource.namespaced,
        };
        let part = |pattern: &str, value: &str| pattern == "*" || pattern == value;
        in_scope
            && has(&self.operations, asked.operation.as_str())
            && has(&self.groups, &resource.group)
            && has(&self.versions, &resource.version)
            && self.resources.iter().any(|(plural, sub)| part(plural, &resource.plural) && part(sub, asked.subresource))
            && (self.names.is_empty() || name.is_none_or(|name| self.names.iter().any(|known| known == name)))
    }
}

fn rules(value: &Value, key: &str) -> Vec<Rule> {
    value.get(key).and_then(Value::as_array).into_iter().flatten().map(Rule::from_value).collect()
}

/// A selector that is left out selects everything. One that cannot be read was refused when it was written.
fn selector(value: &Value, key: &str) -> LabelSelector {
    match value.get(key).filter(|selector| selector.is_object()) {
        Some(selector) => LabelSelector::from_object(selector).unwrap_or_else(|_| LabelSelector::nothing()),
        None => LabelSelector::everything(),
    }
}

impl Constraint {
    /// Of a webhook.
    pub fn of_webhook(webhook: &Value) -> Self {
        Self::read(webhook, "rules", false)
    }

    /// Of a policy's `matchConstraints` or a binding's `matchResources`.
    pub fn of_policy(constraints: &Value) -> Self {
        Self::read(constraints, "resourceRules", true)
    }

    fn read(value: &Value, key: &str, all_without_rules: bool) -> Self {
        Self {
            rules: rules(value, key),
            excluded: rules(value, "excludeResourceRules"),
            all_without_rules,
            equivalent: value.get("matchPolicy").and_then(Value::as_str) != Some("Exact"),
            namespaces: selector(value, "namespaceSelector"),
            objects: selector(value, "objectSelector"),
        }
    }

    /// Whether the answer depends on the object's name.
    pub fn looks_at_names(&self) -> bool {
        self.rules.iter().chain(&self.excluded).any(|rule| !rule.names.is_empty())
    }

    /// As what the request matches; none if it does not. Without a name, whether any name could.
    pub fn resolve(&self, catalog: &Catalog, asked: &Asked<'_>, name: Option<&str>) -> Option<Matched> {
        // Without a name, an exclusion of names excludes nothing yet.
        let excluded: Vec<&Rule> =
            self.excluded.iter().filter(|rule| name.is_some() || rule.names.is_empty()).collect();
        if self.find(&excluded, catalog, asked, name).is_some() {
            return None;
        }
        if self.rules.is_empty() && self.all_without_rules {
            return Some(Matched::Same);
        }
        self.find(&self.rules.iter().collect::<Vec<_>>(), catalog, asked, name)
    }

    fn find(&self, rules: &[&Rule], catalog: &Catalog, asked: &Asked<'_>, name: Option<&str>) -> Option<Matched> {
        if rules.iter().any(|rule| rule.matches(asked, name)) {
            return Some(Matched::Same);
        }
        if !self.equivalent {
            return None;
        }
        let others: Vec<&Arc<Resource>> = equivalents(catalog, asked.resource).collect();
        rules.iter().find_map(|rule| {
            let same = |resource: &&&Arc<Resource>| rule.matches(&Asked { resource, ..*asked }, name);
            others.iter().find(same).map(|resource| Matched::As(Arc::clone(resource)))
        })
    }

    /// Whether the request's namespace and objects are selected.
    pub async fn selects(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        registry: &Registry,
    ) -> Result<bool, ApiError> {
        let selected = |object: Option<&Value>| object.is_some_and(|object| self.objects.matches(&labels(object)));
        if !self.objects.is_everything() && !selected(object) && !selected(attributes.old) {
            return Ok(false);
        }
        if self.namespaces.is_everything() {
            return Ok(true);
        }
        if attributes.is("", "namespaces")
            && matches!(attributes.operation, Operation::Create | Operation::Update)
            && let Some(namespace) = object
        {
            return Ok(self.namespaces.matches(&labels(namespace)));
        }
        match attributes.namespace_object(registry).await? {
            Some(namespace) => Ok(self.namespaces.matches(&namespace.facts.labels)),
            // Cluster-wide objects are in no namespace, so no selection of namespaces exempts them.
            None => Ok(true),
        }
    }
}

/// The other versions and groups under which the same objects are served.
fn equivalents<'a>(catalog: &'a Catalog, resource: &'a Resource) -> impl Iterator<Item = &'a Arc<Resource>> {
    catalog.iter().filter(move |other| {
        resource.stored()
            && other.storage_prefix == resource.storage_prefix
            && (other.group != resource.group || other.version != resource.version)
    })
}

impl Matched {
    /// The version of the resource that the configuration is told of.
    pub fn resource<'a>(&'a self, attributes: &Attributes<'a>) -> &'a Resource {
        match self {
            Matched::Same => attributes.resource,
            Matched::As(resource) => resource,
        }
    }

    /// The version that the objects are converted to. What is sent to a subresource has a kind of its own, whichever version
    /// it is sent to.
    fn conversion(&self, attributes: &Attributes<'_>) -> Option<&Arc<Resource>> {
        match self {
            Matched::As(resource) if matches!(attributes.subresource, "" | "status") => Some(resource),
            _ => None,
        }
    }

    /// An object as it was shown, in the version of the request again.
    pub fn restore(&self, attributes: &Attributes<'_>, shown: Value) -> Result<Value, ApiError> {
        match self.conversion(attributes) {
            Some(resource) => convert(resource, attributes.resource, &shown),
            None => Ok(shown),
        }
    }
}

/// The objects of a request in the version that a configuration is told of.
pub struct Shown<'a> {
    matched: &'a Matched,
    /// The object.
    pub object: Option<Cow<'a, Value>>,
    /// The object before.
    pub old: Option<Cow<'a, Value>>,
}

impl<'a> Shown<'a> {
    /// Of a request that matches so.
    pub fn new(matched: &'a Matched, attributes: &Attributes<'a>, object: Option<&'a Value>) -> Result<Self, ApiError> {
        let shown = |object: Option<&'a Value>| match (matched.conversion(attributes), object) {
            (_, None) => Ok(None),
            (Some(to), Some(object)) => convert(attributes.resource, to, object).map(|object| Some(Cow::Owned(object))),
            (None, Some(object)) => Ok(Some(Cow::Borrowed(object))),
        };
        Ok(Self { matched, object: shown(object)?, old: shown(attributes.old)? })
    }

    /// The version.
    pub fn resource(&self, attributes: &Attributes<'a>) -> &'a Resource {
        self.matched.resource(attributes)
    }
}

/// The object in another version of its resource.
fn convert(from: &Resource, to: &Resource, object: &Value) -> Result<Value, ApiError> {
    codec::decode_in_version(to, &codec::to_storage(from, object)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked<'a>(
        catalog: &'a Catalog,
        operation: Operation,
        (group, version, plural): (&str, &str, &str),
        subresource: &'a str,
    ) -> Asked<'a> {
        Asked { operation, resource: catalog.resource(group, version, plural).unwrap(), subresource }
    }

    fn rule(change: Value) -> Value {
        let mut rule =
            json!({"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"], "scope": "*"});
        for (key, value) in change.as_object().unwrap() {
            rule[key] = value.clone();
        }
        rule
    }

    #[test]
    fn a_rule_matches_by_every_one_of_its_parts() {
        let catalog = Catalog::builtin();
        let (pods, nodes, deployments) = (("", "v1", "pods"), ("", "v1", "nodes"), ("apps", "v1", "deployments"));
        let table = [
            (json!({}), pods, "", true),
            (json!({}), pods, "status", true),
            (json!({"resources": ["*"]}), pods, "", true),
            (json!({"resources": ["*"]}), pods, "status", false),
            (json!({"resources": ["pods"]}), pods, "", true),
            (json!({"resources": ["pods"]}), pods, "status", false),
            (json!({"resources": ["pods/*"]}), pods, "status", true),
            (json!({"resources": ["pods/*"]}), pods, "", true),
            (json!({"resources": ["*/scale"]}), deployments, "scale", true),
            (json!({"resources": ["*/scale"]}), deployments, "", false),
            (json!({"resources": ["nodes", "pods/status"]}), pods, "status", true),
            (json!({"apiGroups": [""]}), pods, "", true),
            (json!({"apiGroups": [""]}), deployments, "", false),
            (json!({"apiGroups": ["apps"], "apiVersions": ["v1beta1"]}), deployments, "", false),
            (json!({"operations": ["UPDATE", "DELETE"]}), pods, "", false),
            (json!({"operations": ["CREATE"]}), pods, "", true),
            (json!({"scope": "Namespaced"}), pods, "", true),
            (json!({"scope": "Namespaced"}), nodes, "", false),
            (json!({"scope": "Cluster"}), nodes, "", true),
            (json!({"scope": "Cluster"}), pods, "", false),
            (json!({"scope": "Cluster"}), ("", "v1", "namespaces"), "", true),
        ];
        for (change, resource, subresource, expected) in table {
            let constraint = Constraint::of_webhook(&json!({"rules": [rule(change.clone())]}));
            let asked = asked(&catalog, Operation::Create, resource, subresource);
            let found = constraint.resolve(&catalog, &asked, Some("n")).is_some();
            assert_eq!(found, expected, "{change} {resource:?} {subresource:?}");
        }
    }

    #[test]
    fn the_same_objects_under_another_group_match_unless_exactly_this_one_is_meant() {
        let catalog = Catalog::builtin();
        let rules = json!([rule(json!({"apiGroups": [""], "apiVersions": ["v1"], "resources": ["events"]}))]);
        let asked = asked(&catalog, Operation::Create, ("events.k8s.io", "v1", "events"), "");
        let exact = Constraint::of_webhook(&json!({"matchPolicy": "Exact", "rules": rules}));
        assert!(exact.resolve(&catalog, &asked, None).is_none());
        let loose = Constraint::of_webhook(&json!({"rules": rules}));
        let Some(Matched::As(resource)) = loose.resolve(&catalog, &asked, None) else { panic!("no match") };
        assert_eq!((resource.group.as_str(), resource.kind.as_str()), ("", "Event"));
    }

    #[test]
    fn names_and_exclusions_limit_a_policy() {
        let catalog = Catalog::builtin();
        let asked = asked(&catalog, Operation::Create, ("", "v1", "pods"), "");
        let named = Constraint::of_policy(&json!({"resourceRules": [rule(json!({"resourceNames": ["a"]}))]}));
        assert!(named.looks_at_names() && named.resolve(&catalog, &asked, None).is_some());
        assert!(named.resolve(&catalog, &asked, Some("a")).is_some());
        assert!(named.resolve(&catalog, &asked, Some("b")).is_none());
        let but = Constraint::of_policy(&json!({"excludeResourceRules": [rule(json!({"resourceNames": ["a"]}))]}));
        assert!(but.resolve(&catalog, &asked, None).is_some() && but.resolve(&catalog, &asked, Some("a")).is_none());
        assert!(Constraint::of_policy(&json!({})).resolve(&catalog, &asked, None).is_some());
        assert!(Constraint::of_webhook(&json!({})).resolve(&catalog, &asked, None).is_none());
    }
}
