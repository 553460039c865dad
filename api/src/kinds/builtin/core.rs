//! The kinds of the core group.

use super::fields::{
    EVENT_FIELDS, NAMESPACE_FIELDS, NODE_FIELDS, POD_FIELDS, REPLICAS_FIELDS, SECRET_FIELDS, SERVICE_FIELDS,
};
use super::{Row, Verb, row};
use crate::strategy;

/// The verbs of a subresource that only passes a connection on.
const CONNECT: &[Verb] = &[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update];
const UPGRADE: &[Verb] = &[Verb::Create, Verb::Get];
const MODIFY: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];

pub(super) fn rows() -> Vec<Row> {
    let core = |kind, plural| row("", "v1", kind, plural);
    vec![
        core("Binding", "bindings").only_created(),
        core("ComponentStatus", "componentstatuses").short(&["cs"]).cluster_wide().computed(),
        core("ConfigMap", "configmaps").by(&strategy::config::ConfigMapStrategy).short(&["cm"]),
        core("Endpoints", "endpoints")
            .by(&strategy::service::EndpointsStrategy)
            .short(&["ep"])
            .singular("endpoints")
            .deprecated("v1.33", Some("discovery.k8s.io/v1 EndpointSlice")),
        core("Event", "events").by(&strategy::event::EventStrategy).short(&["ev"]).selectable(EVENT_FIELDS),
        core("LimitRange", "limitranges").by(&strategy::limits::LIMIT_RANGE).short(&["limits"]),
        core("Namespace", "namespaces")
            .by(&strategy::namespace::NamespaceStrategy)
            .short(&["ns"])
            .cluster_wide()
            .status()
            .sub("finalize", ("", "v1", "Namespace"), &[Verb::Update])
            .without(Verb::DeleteCollection)
            .selectable(NAMESPACE_FIELDS),
        core("Node", "nodes")
            .by(&strategy::node::NodeStrategy)
            .short(&["no"])
            .cluster_wide()
            .status()
            .sub("proxy", ("", "v1", "NodeProxyOptions"), CONNECT)
            .selectable(NODE_FIELDS),
        core("PersistentVolumeClaim", "persistentvolumeclaims")
            .by(&strategy::volumes::PERSISTENT_VOLUME_CLAIM)
            .short(&["pvc"])
            .status(),
        core("PersistentVolume", "persistentvolumes")
            .by(&strategy::volumes::PERSISTENT_VOLUME)
            .short(&["pv"])
            .cluster_wide()
            .status(),
        pods(),
        core("PodTemplate", "podtemplates").by(&strategy::workloads::POD_TEMPLATE),
        core("ReplicationController", "replicationcontrollers")
            .by(&strategy::workloads::REPLICATION_CONTROLLER)
            .short(&["rc"])
            .categories(&["all"])
            .status()
            .scale()
            .selectable(REPLICAS_FIELDS),
        core("ResourceQuota", "resourcequotas").by(&strategy::limits::RESOURCE_QUOTA).short(&["quota"]).status(),
        core("Secret", "secrets").by(&strategy::config::SecretStrategy).selectable(SECRET_FIELDS),
        core("ServiceAccount", "serviceaccounts")
            .by(&strategy::serviceaccount::ServiceAccountStrategy)
            .short(&["sa"])
            .sub("token", ("authentication.k8s.io", "v1", "TokenRequest"), &[Verb::Create]),
        core("Service", "services")
            .by(&strategy::service::ServiceStrategy)
            .short(&["svc"])
            .categories(&["all"])
            .status()
            .sub("proxy", ("", "v1", "ServiceProxyOptions"), CONNECT)
            .selectable(SERVICE_FIELDS),
    ]
}

fn pods() -> Row {
    row("", "v1", "Pod", "pods")
        .by(&strategy::pod::PodStrategy)
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
