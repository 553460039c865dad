//! The kinds of the named groups, in the order of discovery.

use super::super::autoscaling::AutoscalerVersions;
use super::super::events::EventsGroup;
use super::fields::{EVENT_FIELDS, JOB_FIELDS, REPLICAS_FIELDS, REQUEST_FIELDS, SLICE_FIELDS};
use super::{Row, Verb, row};
use crate::strategy;

const MODIFY: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];

pub(super) fn rows() -> Vec<Row> {
    let mut all = vec![
        row("apiregistration.k8s.io", "v1", "APIService", "apiservices")
            .by(&strategy::cluster::API_SERVICE)
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
    all.push(
        row("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
            .by(&strategy::cluster::POD_DISRUPTION_BUDGET)
            .short(&["pdb"])
            .status(),
    );
    all.extend(rbac());
    all.extend(storage());
    all.extend(extensions());
    all.extend(cluster());
    all.extend(resource());
    all.push(
        row("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas")
            .by(&strategy::flowcontrol::FLOW_SCHEMA)
            .cluster_wide()
            .status(),
    );
    all.push(
        row("flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations")
            .by(&strategy::flowcontrol::PRIORITY_LEVEL)
            .cluster_wide()
            .status(),
    );
    all.extend(own());
    all
}

fn apps() -> Vec<Row> {
    let apps = |kind, plural| row("apps", "v1", kind, plural);
    vec![
        apps("ControllerRevision", "controllerrevisions").by(&strategy::workloads::CONTROLLER_REVISION),
        apps("DaemonSet", "daemonsets")
            .by(&strategy::workloads::DAEMON_SET)
            .short(&["ds"])
            .categories(&["all"])
            .status(),
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
        apps("StatefulSet", "statefulsets")
            .by(&strategy::workloads::STATEFUL_SET)
            .short(&["sts"])
            .categories(&["all"])
            .status()
            .scale(),
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

/// Gantry's own kinds, and one that its scheduler shares with others.
fn own() -> Vec<Row> {
    vec![
        row("scheduling.gantry.io", "v1alpha1", "PlacementReview", "placementreviews").only_created().cluster_wide(),
        row("scheduling.gantry.io", "v1alpha1", "Queue", "queues").by(&strategy::limits::QUEUE).cluster_wide().status(),
        row("scheduling.x-k8s.io", "v1alpha1", "PodGroup", "podgroups")
            .by(&strategy::cluster::POD_GROUP)
            .short(&["pg"])
            .status(),
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
        autoscaler("v2").by(&strategy::autoscaling::AUTOSCALER),
        autoscaler("v1").by(&strategy::autoscaling::AutoscalerV1).converted("autoscaling", AutoscalerVersions),
        batch("CronJob", "cronjobs").by(&strategy::job::cron::CRON_JOB).short(&["cj"]),
        batch("Job", "jobs").by(&strategy::job::JOB).selectable(JOB_FIELDS),
        row("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests")
            .by(&strategy::certificates::CERTIFICATE_SIGNING_REQUEST)
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
        networking("IngressClass", "ingressclasses").by(&strategy::networking::INGRESS_CLASS).cluster_wide(),
        networking("Ingress", "ingresses").by(&strategy::networking::INGRESS).short(&["ing"]).status(),
        networking("IPAddress", "ipaddresses").by(&strategy::networking::IP_ADDRESS).short(&["ip"]).cluster_wide(),
        networking("NetworkPolicy", "networkpolicies").by(&strategy::networking::NETWORK_POLICY).short(&["netpol"]),
        networking("ServiceCIDR", "servicecidrs").by(&strategy::networking::SERVICE_CIDR).cluster_wide().status(),
    ]
}

fn rbac() -> Vec<Row> {
    let rbac = |kind, plural| row("rbac.authorization.k8s.io", "v1", kind, plural);
    vec![
        rbac("ClusterRoleBinding", "clusterrolebindings").by(&strategy::rbac::CLUSTER_ROLE_BINDING).cluster_wide(),
        rbac("ClusterRole", "clusterroles").by(&strategy::rbac::CLUSTER_ROLE).cluster_wide(),
        rbac("RoleBinding", "rolebindings").by(&strategy::rbac::ROLE_BINDING),
        rbac("Role", "roles").by(&strategy::rbac::ROLE),
    ]
}

fn storage() -> Vec<Row> {
    let storage = |kind, plural| row("storage.k8s.io", "v1", kind, plural);
    vec![
        storage("CSIDriver", "csidrivers").by(&strategy::storage::CSI_DRIVER).cluster_wide(),
        storage("CSINode", "csinodes").by(&strategy::storage::CSI_NODE).cluster_wide(),
        storage("CSIStorageCapacity", "csistoragecapacities").by(&strategy::storage::CSI_STORAGE_CAPACITY),
        storage("StorageClass", "storageclasses").by(&strategy::storage::STORAGE_CLASS).short(&["sc"]).cluster_wide(),
        storage("VolumeAttachment", "volumeattachments")
            .by(&strategy::storage::VOLUME_ATTACHMENT)
            .cluster_wide()
            .status(),
        storage("VolumeAttributesClass", "volumeattributesclasses")
            .by(&strategy::storage::VOLUME_ATTRIBUTES_CLASS)
            .short(&["vac"])
            .cluster_wide(),
    ]
}

fn extensions() -> Vec<Row> {
    let admission = |kind, plural| {
        row("admissionregistration.k8s.io", "v1", kind, plural).categories(&["api-extensions"]).cluster_wide()
    };
    let beta = |kind, plural| {
        row("admissionregistration.k8s.io", "v1beta1", kind, plural).categories(&["api-extensions"]).cluster_wide()
    };
    vec![
        admission("MutatingWebhookConfiguration", "mutatingwebhookconfigurations")
            .by(&strategy::admission::MUTATING_WEBHOOKS),
        admission("ValidatingAdmissionPolicy", "validatingadmissionpolicies")
            .by(&strategy::admission::VALIDATING_POLICY)
            .status(),
        admission("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings")
            .by(&strategy::admission::VALIDATING_BINDING),
        admission("ValidatingWebhookConfiguration", "validatingwebhookconfigurations")
            .by(&strategy::admission::VALIDATING_WEBHOOKS),
        beta("MutatingAdmissionPolicy", "mutatingadmissionpolicies").by(&strategy::admission::MUTATING_POLICY),
        beta("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings")
            .by(&strategy::admission::MUTATING_BINDING),
        row("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions")
            .by(&strategy::crd::CrdStrategy)
            .short(&["crd", "crds"])
            .categories(&["api-extensions"])
            .cluster_wide()
            .status(),
    ]
}

fn cluster() -> Vec<Row> {
    vec![
        row("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses")
            .by(&strategy::cluster::PRIORITY_CLASS)
            .short(&["pc"])
            .cluster_wide(),
        row("coordination.k8s.io", "v1", "Lease", "leases").by(&strategy::lease::LeaseStrategy),
        row("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses").by(&strategy::cluster::RUNTIME_CLASS).cluster_wide(),
        row("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
            .by(&strategy::endpointslice::EndpointSliceStrategy),
    ]
}

fn resource() -> Vec<Row> {
    let resource = |kind, plural| row("resource.k8s.io", "v1", kind, plural);
    vec![
        resource("DeviceClass", "deviceclasses").by(&strategy::devices::DEVICE_CLASS).cluster_wide(),
        resource("ResourceClaim", "resourceclaims").by(&strategy::devices::RESOURCE_CLAIM).status(),
        resource("ResourceClaimTemplate", "resourceclaimtemplates").by(&strategy::devices::RESOURCE_CLAIM_TEMPLATE),
        resource("ResourceSlice", "resourceslices")
            .by(&strategy::devices::RESOURCE_SLICE)
            .cluster_wide()
            .selectable(SLICE_FIELDS),
    ]
}
