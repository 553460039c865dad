//! The kinds whose types go into the tables.

use k8s_openapi::{
    api, apiextensions_apiserver::pkg::apis::apiextensions, apimachinery::pkg::apis::meta,
    kube_aggregator::pkg::apis::apiregistration,
};
use serde_json::{Map, Value, json};

/// Names root types by module; each becomes a subschema of one generator, which collects what they reach.
macro_rules! roots {
    ($generator:ident: $($module:path { $($kind:ident),* $(,)? })*) => {
        $({
            use $module as module;
            $(let _ = $generator.subschema_for::<module::$kind>();)*
        })*
    };
}

/// The definitions of all types that the roots reach, by name.
pub fn definitions() -> Map<String, Value> {
    let mut generator = schemars::generate::SchemaSettings::draft07().into_generator();
    roots! { generator:
        api::core::v1 {
            Namespace, Node, Pod, PodTemplate, ConfigMap, Secret, Service, Endpoints, ServiceAccount, Event,
            Binding, PersistentVolume, PersistentVolumeClaim, ReplicationController, ResourceQuota, LimitRange,
            ComponentStatus,
        }
        api::apps::v1 { Deployment, ReplicaSet, StatefulSet, DaemonSet, ControllerRevision }
        api::batch::v1 { Job, CronJob }
        api::autoscaling::v1 { Scale, HorizontalPodAutoscaler }
        api::autoscaling::v2 { HorizontalPodAutoscaler }
        api::policy::v1 { Eviction, PodDisruptionBudget }
        api::coordination::v1 { Lease }
        api::discovery::v1 { EndpointSlice }
        api::events::v1 { Event }
        api::networking::v1 { Ingress, IngressClass, NetworkPolicy, IPAddress, ServiceCIDR }
        api::node::v1 { RuntimeClass }
        api::rbac::v1 { Role, RoleBinding, ClusterRole, ClusterRoleBinding }
        api::scheduling::v1 { PriorityClass }
        api::storage::v1 {
            StorageClass, CSIDriver, CSINode, CSIStorageCapacity, VolumeAttachment, VolumeAttributesClass,
        }
        api::certificates::v1 { CertificateSigningRequest }
        api::authentication::v1 { TokenRequest, TokenReview, SelfSubjectReview }
        api::authorization::v1 {
            SubjectAccessReview, SelfSubjectAccessReview, LocalSubjectAccessReview, SelfSubjectRulesReview,
        }
        api::admissionregistration::v1 {
            MutatingWebhookConfiguration, ValidatingWebhookConfiguration, ValidatingAdmissionPolicy,
            ValidatingAdmissionPolicyBinding,
        }
        api::admissionregistration::v1beta1 { MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding }
        api::flowcontrol::v1 { FlowSchema, PriorityLevelConfiguration }
        api::resource::v1 { DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice }
        apiextensions::v1 { CustomResourceDefinition }
        apiregistration::v1 { APIService }
        meta::v1 {
            DeleteOptions, Status, ListMeta, ObjectMeta, LabelSelector, APIVersions, APIGroup, APIGroupList, APIResourceList,
        }
    }
    let mut definitions = generator.take_definitions(true);
    // Not in Kubernetes' own description of its API, since it is a form that any object may be asked for in.
    definitions.insert(
        "io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata".to_owned(),
        json!({
            "description": "An object of any kind with nothing but its metadata.",
            "properties": {
                "apiVersion": {"type": "string", "description": "The version that this form is written in."},
                "kind": {"type": "string", "description": "The name of this form."},
                "metadata": {
                    "description": "The object's metadata.",
                    "allOf": [{"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}],
                },
            },
        }),
    );
    definitions.sort_keys();
    definitions
}
