//! The built-in kinds: one row of facts each.

use std::sync::Arc;

use super::events::EventsGroup;
use super::{Gvk, Resource, ScalePaths, SchemaSource, SelectableField, Subresource, Subresources, Verb};
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

/// Every built-in kind. Within a group the preferred version comes first.
pub(super) fn resources() -> Vec<Resource> {
    let mut all = core();
    all.extend(apps());
    all.push(
        row("events.k8s.io", "v1", "Event", "events", "io.k8s.api.events.v1.Event", &strategy::event::EventStrategy)
            .short(&["ev"])
            .stored_as("core", EVENT_FIELDS)
            .converted(),
    );
    all.extend(reviews());
    all.push(row(
        "coordination.k8s.io",
        "v1",
        "Lease",
        "leases",
        "io.k8s.api.coordination.v1.Lease",
        &strategy::lease::LeaseStrategy,
    ));
    all.push(row(
        "discovery.k8s.io",
        "v1",
        "EndpointSlice",
        "endpointslices",
        "io.k8s.api.discovery.v1.EndpointSlice",
        &strategy::endpointslice::EndpointSliceStrategy,
    ));
    // There are no custom kinds; kubectl reads their list before it says that a kind is unknown.
    all.push(
        row(
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
            &strategy::Plain,
        )
        .short(&["crd", "crds"])
        .categories(&["api-extensions"])
        .cluster_wide()
        .only_read(),
    );
    all.into_iter().map(|row| row.0).collect()
}

fn core() -> Vec<Row> {
    let core = |kind, plural, definition, strategy| row("", "v1", kind, plural, definition, strategy);
    vec![
        core("Binding", "bindings", "io.k8s.api.core.v1.Binding", &strategy::Plain).only_created(),
        core("ConfigMap", "configmaps", "io.k8s.api.core.v1.ConfigMap", &strategy::config::ConfigMapStrategy)
            .short(&["cm"]),
        core("Endpoints", "endpoints", "io.k8s.api.core.v1.Endpoints", &strategy::service::EndpointsStrategy)
            .short(&["ep"])
            .singular("endpoints"),
        core("Event", "events", "io.k8s.api.core.v1.Event", &strategy::event::EventStrategy)
            .short(&["ev"])
            .selectable(EVENT_FIELDS),
        core("Namespace", "namespaces", "io.k8s.api.core.v1.Namespace", &strategy::namespace::NamespaceStrategy)
            .short(&["ns"])
            .cluster_wide()
            .status()
            .sub("finalize", ("", "v1", "Namespace"), &[Verb::Update])
            .without(Verb::DeleteCollection)
            .selectable(NAMESPACE_FIELDS),
        core("Node", "nodes", "io.k8s.api.core.v1.Node", &strategy::node::NodeStrategy)
            .short(&["no"])
            .cluster_wide()
            .status()
            .sub("proxy", ("", "v1", "NodeProxyOptions"), CONNECT)
            .selectable(NODE_FIELDS),
        pods(),
        core("Secret", "secrets", "io.k8s.api.core.v1.Secret", &strategy::config::SecretStrategy)
            .selectable(SECRET_FIELDS),
        core(
            "ServiceAccount",
            "serviceaccounts",
            "io.k8s.api.core.v1.ServiceAccount",
            &strategy::serviceaccount::ServiceAccountStrategy,
        )
        .short(&["sa"])
        .sub("token", ("authentication.k8s.io", "v1", "TokenRequest"), &[Verb::Create]),
        core("Service", "services", "io.k8s.api.core.v1.Service", &strategy::service::ServiceStrategy)
            .short(&["svc"])
            .categories(&["all"])
            .status()
            .sub("proxy", ("", "v1", "ServiceProxyOptions"), CONNECT)
            .selectable(SERVICE_FIELDS),
    ]
}

/// The verbs of a subresource that only passes a connection on.
const CONNECT: &[Verb] = &[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update];
const UPGRADE: &[Verb] = &[Verb::Create, Verb::Get];
const MODIFY: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];

fn pods() -> Row {
    row("", "v1", "Pod", "pods", "io.k8s.api.core.v1.Pod", &strategy::pod::PodStrategy)
        .short(&["po"])
        .categories(&["all"])
        .status()
        .sub("attach", ("", "v1", "PodAttachOptions"), UPGRADE)
        .sub("binding", ("", "v1", "Binding"), &[Verb::Create])
        .sub("ephemeralcontainers", ("", "v1", "Pod"), MODIFY)
        .sub("eviction", ("policy", "v1", "Eviction"), &[Verb::Create])
        .sub("exec", ("", "v1", "PodExecOptions"), UPGRADE)
        .sub("log", ("", "v1", "Pod"), &[Verb::Get])
        .sub("portforward", ("", "v1", "PodPortForwardOptions"), UPGRADE)
        .sub("proxy", ("", "v1", "PodProxyOptions"), CONNECT)
        .sub("resize", ("", "v1", "Pod"), MODIFY)
        .selectable(POD_FIELDS)
}

fn apps() -> Vec<Row> {
    let scale = || ScalePaths {
        spec: "spec.replicas".to_owned(),
        status: "status.replicas".to_owned(),
        selector: "spec.selector".to_owned(),
    };
    vec![
        row(
            "apps",
            "v1",
            "Deployment",
            "deployments",
            "io.k8s.api.apps.v1.Deployment",
            &strategy::apps::DeploymentStrategy,
        )
        .short(&["deploy"])
        .categories(&["all"])
        .status()
        .scale(scale()),
        row(
            "apps",
            "v1",
            "ReplicaSet",
            "replicasets",
            "io.k8s.api.apps.v1.ReplicaSet",
            &strategy::apps::ReplicaSetStrategy,
        )
        .short(&["rs"])
        .categories(&["all"])
        .status()
        .scale(scale())
        .selectable(REPLICASET_FIELDS),
    ]
}

fn reviews() -> Vec<Row> {
    let authentication = |kind, plural, definition| {
        row("authentication.k8s.io", "v1", kind, plural, definition, &strategy::Plain).only_created()
    };
    let authorization = |kind, plural, definition| {
        row("authorization.k8s.io", "v1", kind, plural, definition, &strategy::Plain).only_created()
    };
    vec![
        authentication("SelfSubjectReview", "selfsubjectreviews", "io.k8s.api.authentication.v1.SelfSubjectReview")
            .cluster_wide(),
        authentication("TokenReview", "tokenreviews", "io.k8s.api.authentication.v1.TokenReview").cluster_wide(),
        authorization(
            "LocalSubjectAccessReview",
            "localsubjectaccessreviews",
            "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
        ),
        authorization(
            "SelfSubjectAccessReview",
            "selfsubjectaccessreviews",
            "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
        )
        .cluster_wide(),
        authorization(
            "SelfSubjectRulesReview",
            "selfsubjectrulesreviews",
            "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
        )
        .cluster_wide(),
        authorization("SubjectAccessReview", "subjectaccessreviews", "io.k8s.api.authorization.v1.SubjectAccessReview")
            .cluster_wide(),
    ]
}

const fn field(label: &'static str, path: &'static [&'static str]) -> SelectableField {
    SelectableField { label, path, absent: "" }
}

const fn flag(label: &'static str, path: &'static [&'static str]) -> SelectableField {
    SelectableField { label, path, absent: "false" }
}

const POD_FIELDS: &[SelectableField] = &[
    field("spec.nodeName", &["spec", "nodeName"]),
    field("spec.restartPolicy", &["spec", "restartPolicy"]),
    field("spec.schedulerName", &["spec", "schedulerName"]),
    field("spec.serviceAccountName", &["spec", "serviceAccountName"]),
    flag("spec.hostNetwork", &["spec", "hostNetwork"]),
    field("status.phase", &["status", "phase"]),
    field("status.podIP", &["status", "podIP"]),
    field("status.nominatedNodeName", &["status", "nominatedNodeName"]),
];
const NODE_FIELDS: &[SelectableField] = &[flag("spec.unschedulable", &["spec", "unschedulable"])];
const NAMESPACE_FIELDS: &[SelectableField] = &[field("status.phase", &["status", "phase"])];
const SECRET_FIELDS: &[SelectableField] = &[field("type", &["type"])];
const SERVICE_FIELDS: &[SelectableField] =
    &[field("spec.clusterIP", &["spec", "clusterIP"]), field("spec.type", &["spec", "type"])];
const REPLICASET_FIELDS: &[SelectableField] =
    &[SelectableField { label: "status.replicas", path: &["status", "replicas"], absent: "0" }];
/// The paths are those of the stored form, the core version's; the labels are those of both versions.
const EVENT_FIELDS: &[SelectableField] = &[
    field("involvedObject.kind", &["involvedObject", "kind"]),
    field("involvedObject.namespace", &["involvedObject", "namespace"]),
    field("involvedObject.name", &["involvedObject", "name"]),
    field("involvedObject.uid", &["involvedObject", "uid"]),
    field("involvedObject.apiVersion", &["involvedObject", "apiVersion"]),
    field("involvedObject.resourceVersion", &["involvedObject", "resourceVersion"]),
    field("involvedObject.fieldPath", &["involvedObject", "fieldPath"]),
    field("regarding.kind", &["involvedObject", "kind"]),
    field("regarding.namespace", &["involvedObject", "namespace"]),
    field("regarding.name", &["involvedObject", "name"]),
    field("regarding.uid", &["involvedObject", "uid"]),
    field("regarding.apiVersion", &["involvedObject", "apiVersion"]),
    field("regarding.resourceVersion", &["involvedObject", "resourceVersion"]),
    field("regarding.fieldPath", &["involvedObject", "fieldPath"]),
    field("reason", &["reason"]),
    field("reportingComponent", &["reportingComponent"]),
    field("reportingController", &["reportingComponent"]),
    field("source", &["source", "component"]),
    field("type", &["type"]),
];

/// A resource under construction.
struct Row(Resource);

fn row(
    group: &str,
    version: &str,
    kind: &str,
    plural: &str,
    definition: &'static str,
    strategy: &'static dyn Strategy,
) -> Row {
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
        selectable_fields: &[],
        strategy,
        conversion: None,
        source: SchemaSource::Builtin(definition),
    })
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|t| (*t).to_owned()).collect()
}

impl Row {
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

    fn scale(mut self, paths: ScalePaths) -> Row {
        self.0.subresources.scale = Some(paths);
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

    fn only_read(mut self) -> Row {
        self.0.verbs = vec![Verb::Get, Verb::List, Verb::Watch];
        self
    }

    fn selectable(mut self, fields: &'static [SelectableField]) -> Row {
        self.0.selectable_fields = fields;
        self
    }

    /// A kind whose objects are answered, never stored.
    fn only_created(mut self) -> Row {
        self.0.verbs = vec![Verb::Create];
        self.0.storage_prefix = String::new();
        self
    }

    fn stored_as(mut self, folder: &str, fields: &'static [SelectableField]) -> Row {
        self.0.storage_prefix = format!("/registry/{folder}/{}/", self.0.plural);
        self.selectable(fields)
    }

    fn converted(mut self) -> Row {
        self.0.conversion = Some(Arc::new(EventsGroup));
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
}
