//! The built-in kinds: one row of facts each.
//!
//! Names, scope, verbs, short names, categories and subresources are those of Kubernetes' discovery; what a kind does
//! beyond its schema is its [`Strategy`].

mod core;
mod fields;
mod groups;

use std::borrow::Cow;
use std::sync::Arc;

use super::{
    Conversion, Gvk, Resource, ScalePaths, SchemaSource, SelectableField, StrategyRef, Subresource, Subresources, Verb,
};
use crate::schema::SchemaSet;
use crate::strategy::{self, Strategy};

const ALL_VERBS: &[Verb] = &[
    Verb::Create,
    Verb::Delete,
    Verb::DeleteCollection,
    Verb::Get,
    Verb::List,
    Verb::Patch,
    Verb::Update,
    Verb::Watch,
];

/// Every built-in kind. Groups stand in the order of discovery, within a group the preferred version comes first.
pub(super) fn resources() -> Vec<Resource> {
    let rows = core::rows().into_iter().chain(groups::rows());
    rows.map(|row| row.0).collect()
}

/// A resource under construction.
struct Row(Resource);

/// A kind with all verbs, in namespaces, without particulars.
fn row(group: &str, version: &str, kind: &str, plural: &str) -> Row {
    let folder = if group.is_empty() { "core" } else { group };
    Row(Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        plural: plural.to_owned(),
        singular: kind.to_lowercase(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: true,
        verbs: ALL_VERBS.to_vec(),
        subresources: Subresources::default(),
        storage_prefix: format!("/registry/{folder}/{plural}/"),
        selectable_fields: Cow::Borrowed(&[]),
        strategy: StrategyRef::Fixed(&strategy::Plain),
        conversion: None,
        source: SchemaSource::Builtin(definition(group, version, kind)),
        deprecation: None,
        custom: None,
    })
}

/// The definition's name of a kind.
fn definition(group: &str, version: &str, kind: &str) -> &'static str {
    if group.ends_with(".gantry.io") || group.ends_with(".x-k8s.io") {
        let schema = SchemaSet::builtin().of_kind(&Gvk::new(group, version, kind));
        return schema.and_then(|schema| schema.type_name()).expect("every own kind's type is in the table");
    }
    let package = match group.split('.').next() {
        None | Some("") => "api.core",
        Some("apiextensions") => "apiextensions-apiserver.pkg.apis.apiextensions",
        Some("apiregistration") => "kube-aggregator.pkg.apis.apiregistration",
        Some(first) => &format!("api.{first}"),
    };
    let schema = SchemaSet::builtin().get(&format!("io.k8s.{package}.{version}.{kind}"));
    schema.and_then(|schema| schema.type_name()).expect("every built-in kind's type is in the generated table")
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|t| (*t).to_owned()).collect()
}

impl Row {
    fn by(mut self, strategy: &'static dyn Strategy) -> Row {
        self.0.strategy = StrategyRef::Fixed(strategy);
        self
    }

    fn short(mut self, names: &[&str]) -> Row {
        self.0.short_names = owned(names);
        self
    }

    fn singular(mut self, name: &str) -> Row {
        self.0.singular = name.to_owned();
        self
    }

    fn categories(mut self, names: &[&str]) -> Row {
        self.0.categories = owned(names);
        self
    }

    fn cluster_wide(mut self) -> Row {
        self.0.namespaced = false;
        self
    }

    fn status(mut self) -> Row {
        self.0.subresources.status = true;
        self
    }

    /// A `scale` that shows `spec.replicas`, `status.replicas` and `spec.selector`.
    fn scale(mut self) -> Row {
        self.0.subresources.scale = Some(ScalePaths {
            spec: "spec.replicas".to_owned(),
            status: "status.replicas".to_owned(),
            selector: "spec.selector".to_owned(),
        });
        self
    }

    fn sub(mut self, name: &str, (group, version, kind): (&str, &str, &str), verbs: &[Verb]) -> Row {
        let gvk = Gvk::new(group, version, kind);
        self.0.subresources.other.push(Subresource { name: name.to_owned(), gvk, verbs: verbs.to_vec() });
        self
    }

    fn without(mut self, verb: Verb) -> Row {
        self.0.verbs.retain(|v| *v != verb);
        self
    }

    fn only(mut self, verbs: &[Verb]) -> Row {
        self.0.verbs = verbs.to_vec();
        self
    }

    fn selectable(mut self, fields: &'static [SelectableField]) -> Row {
        self.0.selectable_fields = Cow::Borrowed(fields);
        self
    }

    /// A kind that is deprecated since a release; `instead` is what replaces it, if anything.
    fn deprecated(mut self, since: &str, instead: Option<&str>) -> Row {
        let kind = format!("{} {}", self.0.api_version(), self.0.kind);
        let instead = instead.map(|instead| format!("; use {instead}")).unwrap_or_default();
        self.0.deprecation = Some(format!("{kind} is deprecated in {since}+{instead}"));
        self
    }

    /// A kind whose objects are answered, never stored.
    fn only_created(mut self) -> Row {
        self.0.storage_prefix = String::new();
        self.only(&[Verb::Create])
    }

    /// A kind whose objects are computed when they are asked for, never stored.
    fn computed(mut self) -> Row {
        self.0.storage_prefix = String::new();
        self.only(&[Verb::Get, Verb::List])
    }

    /// A version that is stored as another one is.
    fn converted(mut self, folder: &str, conversion: impl Conversion + 'static) -> Row {
        self.0.storage_prefix = format!("/registry/{folder}/{}/", self.0.plural);
        self.0.conversion = Some(Arc::new(conversion));
        self
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::Catalog;

    #[test]
    fn every_kind_has_its_schema_and_a_storage_of_its_own() {
        let catalog = Catalog::builtin();
        let mut prefixes = Vec::new();
        for resource in catalog.iter() {
            assert!(resource.schema().field("metadata").is_some(), "{resource:?}");
            if resource.stored() && resource.conversion.is_none() {
                assert!(!prefixes.contains(&resource.storage_prefix), "{resource:?}");
                prefixes.push(resource.storage_prefix.clone());
            }
        }
        let events = catalog.resource("events.k8s.io", "v1", "events").unwrap();
        assert!(prefixes.contains(&events.storage_prefix));
        let pods = catalog.by_gvk("", "v1", "Pod").unwrap();
        assert_eq!(pods.key("default", "web"), "/registry/core/pods/default/web");
        assert_eq!(catalog.groups()[0].0, "");
    }

    #[test]
    fn the_groups_stand_in_the_order_of_discovery() {
        let groups: Vec<String> = Catalog::builtin().groups().into_iter().map(|(group, _)| group).collect();
        let wanted = [
            "",
            "apiregistration.k8s.io",
            "apps",
            "events.k8s.io",
            "authentication.k8s.io",
            "authorization.k8s.io",
            "autoscaling",
            "batch",
            "certificates.k8s.io",
            "networking.k8s.io",
            "policy",
            "rbac.authorization.k8s.io",
            "storage.k8s.io",
            "admissionregistration.k8s.io",
            "apiextensions.k8s.io",
            "scheduling.k8s.io",
            "coordination.k8s.io",
            "node.k8s.io",
            "discovery.k8s.io",
            "resource.k8s.io",
            "flowcontrol.apiserver.k8s.io",
            "scheduling.gantry.io",
            "scheduling.x-k8s.io",
        ];
        assert_eq!(groups, wanted);
    }
}
