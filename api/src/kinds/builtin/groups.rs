//! The kinds of the named groups, in the order of discovery.

use super::super::events::EventsGroup;
use super::fields::{EVENT_FIELDS, JOB_FIELDS, REPLICAS_FIELDS, REQUEST_FIELDS, SLICE_FIELDS};
use super::{Row, Verb, row};
use crate::strategy;

const MODIFY: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];

pub(super) fn rows() -> Vec<Row> {
    let mut all = vec![
        row("apiregistration.k8s.io", "v1", "APIService", "apiservices")
            .categories(&["api-extensions"])
            .cluster_wide()
            .status(),
    ];
    all.extend(apps());
    all.push(
        row("events.k8s.io", "v1", "Event", "events")
            .by(&strategy::event::EventStrategy)
            .short(&["ev"])
            .selectable(EVENT_FIELDS)
            .converted("core", EventsGroup),
    );
    all.extend(reviews());
    all.extend(workload_policies());
    all.extend(networking());
    all.push(row("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets").short(&["pdb"]).status());
    all.extend(rbac());
    all.extend(storage());
    all.extend(extensions());
    all.extend(cluster());
    all.extend(resource());
    all.push(row("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas").cluster_wide().status());
    all.push(
        row("flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations")
            .cluster_wide()
            .status(),
    );
    all
}

fn apps() -> Vec<Row> {
    let apps = |kind, plural| row("apps", "v1", kind, plural);
    vec![
        apps("ControllerRevision", "controllerrevisions"),
        apps("DaemonSet", "daemonsets").short(&["ds"]).categories(&["all"]).status(),
        apps("Deployment", "deployments")
            .by(&strategy::apps::DeploymentStrategy)
            .short(&["deploy"])
            .categories(&["all"])
            .status()
            .scale(),
        apps("ReplicaSet", "replicasets")
            .by(&strategy::apps::ReplicaSetStrategy)
            .short(&["rs"])
            .categories(&["all"])
            .status()
            .scale()
            .selectable(REPLICAS_FIELDS),
        apps("StatefulSet", "statefulsets").short(&["sts"]).categories(&["all"]).status().scale(),
    ]
}

/// Kinds that are answered and never stored.
fn reviews() -> Vec<Row> {
    let authentication = |kind, plural| row("authentication.k8s.io", "v1", kind, plural).only_created();
    let authorization = |kind, plural| row("authorization.k8s.io", "v1", kind, plural).only_created();
    vec![
        authentication("SelfSubjectReview", "selfsubjectreviews").cluster_wide(),
        authentication("TokenReview", "tokenreviews").cluster_wide(),
        authorization("LocalSubjectAccessReview", "localsubjectaccessreviews"),
        authorization("SelfSubjectAccessReview", "selfsubjectaccessreviews").cluster_wide(),
        authorization("SelfSubjectRulesReview", "selfsubjectrulesreviews").cluster_wide(),
        authorization("SubjectAccessReview", "subjectaccessreviews").cluster_wide(),
    ]
}

fn workload_policies() -> Vec<Row> {
    let batch = |kind, plural| row("batch", "v1", kind, plural).categories(&["all"]).status();
    let autoscaler = |version| {
        row("autoscaling", version, "HorizontalPodAutoscaler", "horizontalpodautoscalers")
            .short(&["hpa"])
            .categories(&["all"])
            .status()
    };
    vec![
        autoscaler("v2"),
        batch("CronJob", "cronjobs").short(&["cj"]),
        batch("Job", "jobs").selectable(JOB_FIELDS),
        row("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests")
            .short(&["csr"])
            .cluster_wide()
            .status()
            .sub("approval", ("certificates.k8s.io", "v1", "CertificateSigningRequest"), MODIFY)
            .selectable(REQUEST_FIELDS),
    ]
}

fn networking() -> Vec<Row> {
    let networking = |kind, plural| row("networking.k8s.io", "v1", kind, plural);
    vec![
        networking("IngressClass", "ingressclasses").cluster_wide(),
        networking("Ingress", "ingresses").short(&["ing"]).status(),
        networking("IPAddress", "ipaddresses").short(&["ip"]).cluster_wide(),
        networking("NetworkPolicy", "networkpolicies").short(&["netpol"]),
        networking("ServiceCIDR", "servicecidrs").cluster_wide().status(),
    ]
}

fn rbac() -> Vec<Row> {
    let rbac = |kind, plural| row("rbac.authorization.k8s.io", "v1", kind, plural);
    vec![
        rbac("ClusterRoleBinding", "clusterrolebindings").cluster_wide(),
        rbac("ClusterRole", "clusterroles").cluster_wide(),
        rbac("RoleBinding", "rolebindings"),
        rbac("Role", "roles"),
    ]
}

fn storage() -> Vec<Row> {
    let storage = |kind, plural| row("storage.k8s.io", "v1", kind, plural);
    vec![
        storage("CSIDriver", "csidrivers").cluster_wide(),
        storage("CSINode", "csinodes").cluster_wide(),
        storage("CSIStorageCapacity", "csistoragecapacities"),
        storage("StorageClass", "storageclasses").short(&["sc"]).cluster_wide(),
        storage("VolumeAttachment", "volumeattachments").cluster_wide().status(),
        storage("VolumeAttributesClass", "volumeattributesclasses").short(&["vac"]).cluster_wide(),
    ]
}

fn extensions() -> Vec<Row> {
    let admission = |kind, plural| {
        row("admissionregistration.k8s.io", "v1", kind, plural).categories(&["api-extensions"]).cluster_wide()
    };
    vec![
        admission("MutatingWebhookConfiguration", "mutatingwebhookconfigurations"),
        admission("ValidatingAdmissionPolicy", "validatingadmissionpolicies").status(),
        admission("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings"),
        admission("ValidatingWebhookConfiguration", "validatingwebhookconfigurations"),
        // There are no custom kinds; kubectl reads their list before it says that a kind is unknown.
        row("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions")
            .short(&["crd", "crds"])
            .categories(&["api-extensions"])
            .cluster_wide()
            .only(&[Verb::Get, Verb::List, Verb::Watch]),
    ]
}

fn cluster() -> Vec<Row> {
    vec![
        row("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses").short(&["pc"]).cluster_wide(),
        row("coordination.k8s.io", "v1", "Lease", "leases").by(&strategy::lease::LeaseStrategy),
        row("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses").cluster_wide(),
        row("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
            .by(&strategy::endpointslice::EndpointSliceStrategy),
    ]
}

fn resource() -> Vec<Row> {
    let resource = |kind, plural| row("resource.k8s.io", "v1", kind, plural);
    vec![
        resource("DeviceClass", "deviceclasses").cluster_wide(),
        resource("ResourceClaim", "resourceclaims").status(),
        resource("ResourceClaimTemplate", "resourceclaimtemplates"),
        resource("ResourceSlice", "resourceslices").cluster_wide().selectable(SLICE_FIELDS),
    ]
}
