//! What is wrong with an object of each kind: paths, reasons and texts as Kubernetes gives them. Each case changes a small
//! valid object in one place.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::cases::{causes, check, minimal, refused, with};
use common::{resource_of, update};
use gantry_api::kinds::Catalog;
use serde_json::{Value, json};

#[test]
fn workloads() {
    let (apps, batch) = ("apps/v1", "batch/v1");
    check(&[
        (
            apps,
            "StatefulSet",
            "/spec/podManagementPolicy",
            json!("Some"),
            "spec.podManagementPolicy: Invalid value: \"Some\": must be 'OrderedReady' or 'Parallel'",
        ),
        (
            apps,
            "StatefulSet",
            "/spec/replicas",
            json!(-1),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            apps,
            "StatefulSet",
            "/spec/selector",
            json!({}),
            "spec.selector: Invalid value: {}: empty selector is invalid for statefulset",
        ),
        (
            apps,
            "StatefulSet",
            "/spec/selector",
            json!({"matchLabels": {"app": "other"}}),
            "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
        ),
        (
            apps,
            "StatefulSet",
            "/spec/persistentVolumeClaimRetentionPolicy/whenScaled",
            json!("Maybe"),
            "spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: \"Maybe\": supported values: \"Retain\", \"Delete\"",
        ),
        (
            apps,
            "StatefulSet",
            "/spec/volumeClaimTemplates/0/spec/accessModes",
            json!([]),
            "spec.volumeClaimTemplates[0].spec.accessModes: Required value: at least 1 access mode is required",
        ),
        (
            apps,
            "StatefulSet",
            "/spec/template/spec/restartPolicy",
            json!("Never"),
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ),
        (
            apps,
            "DaemonSet",
            "/spec/updateStrategy/rollingUpdate/maxSurge",
            json!(1),
            "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
        ),
        (
            apps,
            "DaemonSet",
            "/spec/updateStrategy/rollingUpdate",
            json!({"maxUnavailable": 0, "maxSurge": 0}),
            "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
        ),
        (
            apps,
            "DaemonSet",
            "/spec/template/spec/activeDeadlineSeconds",
            json!(5),
            "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in DaemonSet is not Supported",
        ),
        (apps, "ControllerRevision", "/data", Value::Null, "data: Required value: data is mandatory"),
        (
            apps,
            "ControllerRevision",
            "/revision",
            json!(-1),
            "revision: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "v1",
            "ReplicationController",
            "/spec/selector",
            json!({"a": "b"}),
            "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
        ),
        ("v1", "ReplicationController", "/spec/template", Value::Null, "spec.template: Required value"),
        ("v1", "PodTemplate", "/template/spec/containers", json!([]), "template.spec.containers: Required value"),
        (
            batch,
            "Job",
            "/spec/template/spec/restartPolicy",
            json!("Always"),
            "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
        ),
        (
            batch,
            "Job",
            "/spec/parallelism",
            json!(-1),
            "spec.parallelism: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            batch,
            "Job",
            "/spec/completionMode",
            json!("Odd"),
            "spec.completionMode: Unsupported value: \"Odd\": supported values: \"NonIndexed\", \"Indexed\"",
        ),
        (
            batch,
            "Job",
            "/spec/backoffLimitPerIndex",
            json!(1),
            "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
        ),
        (
            batch,
            "Job",
            "/spec/managedBy",
            json!("me"),
            "spec.managedBy: Invalid value: \"me\": must be a domain-prefixed path (such as \"acme.io/foo\")",
        ),
        (
            batch,
            "Job",
            "/spec/podFailurePolicy",
            json!({"rules": [{"action": "FailJob"}]}),
            "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
        ),
        (
            batch,
            "Job",
            "/spec/podFailurePolicy",
            json!({"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2, 0]}}]}),
            "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator",
        ),
        (
            batch,
            "CronJob",
            "/spec/schedule",
            json!("60 * * * *"),
            "spec.schedule: Invalid value: \"60 * * * *\": end of range (60) above maximum (59): 60",
        ),
        (
            batch,
            "CronJob",
            "/spec/schedule",
            json!("TZ=UTC 0 * * * *"),
            "spec.schedule: Invalid value: \"TZ=UTC 0 * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        ),
        (
            batch,
            "CronJob",
            "/spec/timeZone",
            json!("Mars/Olympus"),
            "spec.timeZone: Invalid value: \"Mars/Olympus\": unknown time zone Mars/Olympus",
        ),
        (
            batch,
            "CronJob",
            "/spec/concurrencyPolicy",
            json!("Some"),
            "spec.concurrencyPolicy: Unsupported value: \"Some\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
        ),
        (
            batch,
            "CronJob",
            "/spec/jobTemplate/spec/selector",
            json!({"matchLabels": {"a": "b"}}),
            "spec.jobTemplate.spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: `selector` will be auto-generated",
        ),
        (
            batch,
            "CronJob",
            "/metadata/name",
            json!("a23456789012345678901234567890123456789012345678901xx"),
            "metadata.name: Invalid value: \"a23456789012345678901234567890123456789012345678901xx\": must be no more than 52 characters",
        ),
    ]);
}

#[test]
fn autoscaling_and_policy() {
    let (v1, v2, hpa) = ("autoscaling/v1", "autoscaling/v2", "HorizontalPodAutoscaler");
    check(&[
        (v2, hpa, "/spec/maxReplicas", json!(0), "spec.maxReplicas: Invalid value: 0: must be greater than 0"),
        (
            v2,
            hpa,
            "/spec/minReplicas",
            json!(5),
            "spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`",
        ),
        (
            v1,
            hpa,
            "/spec/minReplicas",
            json!(0),
            "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
        ),
        (v2, hpa, "/spec/scaleTargetRef/kind", json!(""), "spec.scaleTargetRef.kind: Required value"),
        (
            v2,
            hpa,
            "/spec/metrics",
            json!([{"type": "Pods"}]),
            "spec.metrics[0].pods: Required value: must populate information for the given metric source",
        ),
        (
            v2,
            hpa,
            "/spec/metrics/0/resource/target/averageUtilization",
            json!(0),
            "spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0",
        ),
        (
            v2,
            hpa,
            "/spec/behavior",
            json!({"scaleUp": {"stabilizationWindowSeconds": 4000}}),
            "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 4000: must be less than or equal to 3600",
        ),
        (
            "policy/v1",
            "PodDisruptionBudget",
            "/spec/maxUnavailable",
            json!(1),
            "spec: Invalid value: {\"maxUnavailable\":1,\"minAvailable\":\"50%\",\"selector\":{\"matchLabels\":{\"app\":\"web\"}}}: minAvailable and maxUnavailable cannot be both set",
        ),
        (
            "policy/v1",
            "PodDisruptionBudget",
            "/spec/minAvailable",
            json!("101%"),
            "spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%",
        ),
        (
            "scheduling.k8s.io/v1",
            "PriorityClass",
            "/value",
            json!(1_000_000_001),
            "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
        ),
        (
            "scheduling.k8s.io/v1",
            "PriorityClass",
            "/metadata/name",
            json!("system-mine"),
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine is not a known system priority class",
        ),
        (
            "node.k8s.io/v1",
            "RuntimeClass",
            "/handler",
            json!("Run_C"),
            "handler: Invalid value: \"Run_C\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ),
        (
            "v1",
            "ResourceQuota",
            "/spec/hard",
            json!({"widgets": "1"}),
            "spec.hard[widgets]: Invalid value: \"widgets\": must be a standard resource type or fully qualified",
        ),
        (
            "v1",
            "ResourceQuota",
            "/spec/hard",
            json!({"pods": "1.5"}),
            "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
        ),
        (
            "v1",
            "ResourceQuota",
            "/spec/scopes",
            json!(["BestEffort", "NotBestEffort"]),
            "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
        ),
        (
            "v1",
            "LimitRange",
            "/spec/limits/0/min",
            json!({"cpu": "3"}),
            "spec.limits[0].min[cpu]: Invalid value: \"3\": min value 3 is greater than max value 2",
        ),
        (
            "v1",
            "LimitRange",
            "/spec/limits/0/type",
            json!("Thing"),
            "spec.limits[0].type: Invalid value: \"Thing\": must be a standard limit type or fully qualified",
        ),
    ]);
}

#[test]
fn networking() {
    let group = "networking.k8s.io/v1";
    check(&[
        (
            group,
            "Ingress",
            "/spec/rules",
            Value::Null,
            "spec: Invalid value: \"null\": either `defaultBackend` or `rules` must be specified",
        ),
        (
            group,
            "Ingress",
            "/spec/rules/0/host",
            json!("10.0.0.1"),
            "spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
        ),
        (
            group,
            "Ingress",
            "/spec/rules/0/http/paths/0/pathType",
            Value::Null,
            "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified",
        ),
        (
            group,
            "Ingress",
            "/spec/rules/0/http/paths/0/path",
            json!("x//y"),
            "spec.rules[0].http.paths[0].path: Invalid value: \"x//y\": must be an absolute path",
        ),
        (
            group,
            "Ingress",
            "/spec/rules/0/http/paths/0/backend",
            json!({}),
            "spec.rules[0].http.paths[0].backend: Invalid value: \"\": resource or service backend is required",
        ),
        (
            group,
            "Ingress",
            "/spec/rules/0/http/paths/0/backend/service/port/name",
            json!("http"),
            "spec.rules[0].http.paths[0].backend: Invalid value: \"\": cannot set both port name & port number",
        ),
        (
            group,
            "IngressClass",
            "/spec/controller",
            json!("nginx"),
            "spec.controller: Invalid value: \"nginx\": must be a domain-prefixed path (such as \"acme.io/foo\")",
        ),
        (
            group,
            "IngressClass",
            "/spec/parameters",
            json!({"kind": "Settings", "name": "x", "scope": "Namespace"}),
            "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'",
        ),
        (
            group,
            "NetworkPolicy",
            "/spec/ingress",
            json!([{"from": [{}]}]),
            "spec.ingress[0].from[0]: Required value: must specify a peer",
        ),
        (
            group,
            "NetworkPolicy",
            "/spec/ingress",
            json!([{"ports": [{"port": 80, "endPort": 70}]}]),
            "spec.ingress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`",
        ),
        (
            group,
            "NetworkPolicy",
            "/spec/egress",
            json!([{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["192.168.0.0/24"]}}]}]),
            "spec.egress[0].to[0].ipBlock.except[0]: Invalid value: \"192.168.0.0/24\": must be a strict subset of `cidr`",
        ),
        (
            group,
            "IPAddress",
            "/metadata/name",
            json!("web"),
            "metadata.name: Invalid value: \"web\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (group, "IPAddress", "/spec/parentRef", Value::Null, "spec.parentRef: Required value"),
        (
            group,
            "ServiceCIDR",
            "/spec/cidrs",
            json!(["10.0.0.1/24"]),
            "spec.cidrs[0]: Invalid value: \"10.0.0.1/24\": must not have bits set beyond the prefix length",
        ),
        (
            group,
            "ServiceCIDR",
            "/spec/cidrs",
            json!(["10.0.0.0/24", "10.1.0.0/24"]),
            "spec.cidrs: Invalid value: [\"10.0.0.0/24\",\"10.1.0.0/24\"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        ),
    ]);
}

#[test]
fn storage() {
    let group = "storage.k8s.io/v1";
    check(&[
        (
            "v1",
            "PersistentVolume",
            "/spec/accessModes",
            json!(["Sometimes"]),
            "spec.accessModes: Unsupported value: \"Sometimes\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
        ),
        ("v1", "PersistentVolume", "/spec/hostPath", Value::Null, "spec: Required value: must specify a volume type"),
        (
            "v1",
            "PersistentVolume",
            "/spec/nfs",
            json!({"server": "a", "path": "/"}),
            "spec.nfs: Forbidden: may not specify more than 1 volume type",
        ),
        (
            "v1",
            "PersistentVolume",
            "/spec/capacity",
            json!({"storage": "0"}),
            "spec.capacity[storage]: Invalid value: \"0\": must be greater than zero",
        ),
        ("v1", "PersistentVolumeClaim", "/spec/resources", json!({}), "spec.resources[storage]: Required value"),
        (
            "v1",
            "PersistentVolumeClaim",
            "/spec/accessModes",
            json!(["ReadWriteOnce", "ReadWriteOncePod"]),
            "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
        ),
        (
            "v1",
            "PersistentVolumeClaim",
            "/spec/dataSourceRef",
            json!({"kind": "PersistentVolumeClaim", "name": ""}),
            "spec.dataSourceRef.name: Required value",
        ),
        (group, "StorageClass", "/provisioner", json!(""), "provisioner: Required value"),
        (
            group,
            "StorageClass",
            "/reclaimPolicy",
            json!("Recycle"),
            "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
        ),
        (
            group,
            "CSIDriver",
            "/spec/fsGroupPolicy",
            json!("Odd"),
            "spec.fsGroupPolicy: Unsupported value: \"Odd\": supported values: \"File\", \"None\", \"ReadWriteOnceWithFSType\"",
        ),
        (
            group,
            "CSIDriver",
            "/spec/tokenRequests",
            json!([{"audience": "a", "expirationSeconds": 5}]),
            "spec.tokenRequests[0].expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes",
        ),
        (group, "CSINode", "/spec/drivers/0/nodeID", json!(""), "spec.drivers[0].nodeID: Required value"),
        (
            group,
            "CSIStorageCapacity",
            "/capacity",
            json!("-1Gi"),
            "capacity: Invalid value: \"-1Gi\": must be greater than or equal to 0",
        ),
        (
            group,
            "VolumeAttachment",
            "/spec/source",
            json!({}),
            "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
        ),
        (
            group,
            "VolumeAttributesClass",
            "/parameters",
            json!({}),
            "parameters: Required value: must contain at least one key/value pair",
        ),
    ]);
}

#[test]
fn access() {
    let group = "rbac.authorization.k8s.io/v1";
    check(&[
        (
            group,
            "Role",
            "/rules/0/verbs",
            json!([]),
            "rules[0].verbs: Required value: verbs must contain at least one value",
        ),
        (
            group,
            "Role",
            "/rules/0",
            json!({"verbs": ["get"], "nonResourceURLs": ["/x"]}),
            "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
        ),
        (
            group,
            "ClusterRole",
            "/rules/0/resources",
            json!([]),
            "rules[0].resources: Required value: resource rules must supply at least one resource",
        ),
        (
            group,
            "ClusterRole",
            "/aggregationRule",
            json!({}),
            "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil",
        ),
        (
            group,
            "RoleBinding",
            "/roleRef/kind",
            json!("Pod"),
            "roleRef.kind: Unsupported value: \"Pod\": supported values: \"Role\", \"ClusterRole\"",
        ),
        (
            group,
            "RoleBinding",
            "/subjects/0/apiGroup",
            json!("apps"),
            "subjects[0].apiGroup: Unsupported value: \"apps\": supported values: \"\"",
        ),
        (
            group,
            "ClusterRoleBinding",
            "/subjects/0",
            json!({"kind": "ServiceAccount", "name": "x"}),
            "subjects[0].namespace: Required value",
        ),
        (
            group,
            "ClusterRoleBinding",
            "/subjects/0/kind",
            json!("Robot"),
            "subjects[0].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
        ),
        (
            "certificates.k8s.io/v1",
            "CertificateSigningRequest",
            "/spec/signerName",
            json!("visitors"),
            "spec.signerName: Invalid value: \"visitors\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
        ),
        (
            "certificates.k8s.io/v1",
            "CertificateSigningRequest",
            "/spec/usages",
            json!([]),
            "spec.usages: Required value",
        ),
        (
            "certificates.k8s.io/v1",
            "CertificateSigningRequest",
            "/spec/request",
            json!("eA=="),
            "spec.request: Invalid value: \"eA==\": PEM block type must be CERTIFICATE REQUEST",
        ),
        (
            "certificates.k8s.io/v1",
            "CertificateSigningRequest",
            "/spec/expirationSeconds",
            json!(60),
            "spec.expirationSeconds: Invalid value: 60: may not specify a duration less than 600 seconds (10 minutes)",
        ),
    ]);
}

#[test]
fn extensions() {
    let (group, flow) = ("admissionregistration.k8s.io/v1", "flowcontrol.apiserver.k8s.io/v1");
    let (mutating, validating) = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration");
    let beta = "admissionregistration.k8s.io/v1beta1";
    let condition = json!([{"name": "c", "expression": "object.metadata.name =="}]);
    let object = with(minimal(group, validating), "/webhooks/0/matchConditions", condition);
    let told = refused(&object).join("\n");
    assert!(told.contains("webhooks[0].matchConditions[0].expression: Invalid value"), "{told}");
    assert!(told.contains("compilation failed"), "{told}");
    check(&[
        (
            group,
            mutating,
            "/webhooks/0/name",
            json!("hook"),
            "webhooks[0].name: Invalid value: \"hook\": should be a domain with at least three segments separated by dots",
        ),
        (
            group,
            mutating,
            "/webhooks/0/clientConfig/url",
            json!("http://x/y"),
            "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
        ),
        (
            group,
            mutating,
            "/webhooks/0/timeoutSeconds",
            json!(31),
            "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
        ),
        (
            group,
            mutating,
            "/webhooks/0/sideEffects",
            json!("Some"),
            "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
        ),
        (
            group,
            validating,
            "/webhooks/0/admissionReviewVersions",
            json!(["v0"]),
            "webhooks[0].admissionReviewVersions: Invalid value: [\"v0\"]: must include at least one of v1, v1beta1",
        ),
        (
            group,
            validating,
            "/webhooks/0/rules/0/resources",
            json!(["*", "pods"]),
            "webhooks[0].rules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without subresources",
        ),
        (
            group,
            validating,
            "/webhooks/0/rules/0/operations",
            json!(["READ"]),
            "webhooks[0].rules[0].operations[0]: Unsupported value: \"READ\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\"",
        ),
        (
            group,
            validating,
            "/webhooks/0/clientConfig",
            json!({}),
            "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
        ),
        (
            group,
            "ValidatingAdmissionPolicy",
            "/spec/validations",
            json!([]),
            "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
        ),
        (
            group,
            "ValidatingAdmissionPolicy",
            "/spec/matchConstraints",
            Value::Null,
            "spec.matchConstraints: Required value",
        ),
        (
            group,
            "ValidatingAdmissionPolicy",
            "/spec/validations/0/message",
            json!("a\nb"),
            "spec.validations[0].message: Invalid value: \"a\\nb\": must not contain line breaks",
        ),
        (
            group,
            "ValidatingAdmissionPolicy",
            "/spec/validations/0/expression",
            json!("object.name"),
            "spec.validations[0].expression: Invalid value: \"object.name\": must evaluate to bool but got dyn",
        ),
        (
            group,
            "ValidatingAdmissionPolicy",
            "/spec/validations/0/expression",
            json!("params.all"),
            "spec.validations[0].expression: Invalid value: \"params.all\": compilation failed: ERROR: <input>: undeclared reference to 'params' (in container '')",
        ),
        (
            group,
            "ValidatingAdmissionPolicy",
            "/spec/validations/0/messageExpression",
            json!("authorizer.path('/x').check('get').reason()"),
            "spec.validations[0].messageExpression: Invalid value: \"authorizer.path('/x').check('get').reason()\": compilation failed: ERROR: <input>: undeclared reference to 'authorizer' (in container '')",
        ),
        (
            group,
            "ValidatingAdmissionPolicy",
            "/spec/variables",
            json!([{"name": "while", "expression": "1"}, {"name": "a", "expression": "variables.b"}]),
            "spec.variables[1].expression: Invalid value: \"variables.b\": compilation failed: ERROR: <input>: undefined field 'b'",
        ),
        (
            group,
            "ValidatingAdmissionPolicy",
            "/spec/matchConditions",
            json!([{"name": "a", "expression": "request.nothing == 1"}]),
            "spec.matchConditions[0].expression: Invalid value: \"request.nothing == 1\": compilation failed: ERROR: <input>: undefined field 'nothing'",
        ),
        (
            beta,
            "MutatingAdmissionPolicy",
            "/spec/mutations",
            json!([]),
            "spec.mutations: Required value: mutations must contain at least one item",
        ),
        (
            beta,
            "MutatingAdmissionPolicy",
            "/spec/reinvocationPolicy",
            json!("Always"),
            "spec.reinvocationPolicy: Unsupported value: \"Always\": supported values: \"IfNeeded\", \"Never\"",
        ),
        (
            beta,
            "MutatingAdmissionPolicy",
            "/spec/matchConstraints/resourceRules/0/operations",
            json!(["DELETE"]),
            "spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"CREATE\", \"UPDATE\"",
        ),
        (
            beta,
            "MutatingAdmissionPolicy",
            "/spec/mutations/0/patchType",
            json!("JSONPatch"),
            "spec.mutations[0].applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified when patchType is JSONPatch",
        ),
        (
            beta,
            "MutatingAdmissionPolicy",
            "/spec/mutations/0/applyConfiguration/expression",
            json!("Object.spec{}"),
            "spec.mutations[0].applyConfiguration.expression: Invalid value: \"Object.spec{}\": must evaluate to Object but got Object.spec",
        ),
        (
            beta,
            "MutatingAdmissionPolicy",
            "/spec/mutations/0",
            json!({"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 1}]"}}),
            "spec.mutations[0].jsonPatch.expression: Invalid value: \"[JSONPatch{op: 1}]\": compilation failed: ERROR: <input>: expected type of field 'op' is 'string' but provided type is 'int'",
        ),
        (beta, "MutatingAdmissionPolicyBinding", "/spec/policyName", json!(""), "spec.policyName: Required value"),
        (group, "ValidatingAdmissionPolicyBinding", "/spec/policyName", json!(""), "spec.policyName: Required value"),
        (
            group,
            "ValidatingAdmissionPolicyBinding",
            "/spec/validationActions",
            json!(["Warn", "Stop"]),
            "spec.validationActions[1]: Unsupported value: \"Stop\": supported values: \"Audit\", \"Deny\", \"Warn\"",
        ),
        (
            "apiregistration.k8s.io/v1",
            "APIService",
            "/spec/group",
            json!("other.example.com"),
            "metadata.name: Invalid value: \"v1.minimal.example.com\": must be `spec.version+\".\"+spec.group`: \"v1.other.example.com\"",
        ),
        (
            "apiregistration.k8s.io/v1",
            "APIService",
            "/spec/groupPriorityMinimum",
            json!(0),
            "spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000",
        ),
        (
            flow,
            "FlowSchema",
            "/spec/matchingPrecedence",
            json!(1),
            "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
        ),
        (
            flow,
            "FlowSchema",
            "/spec/rules/0/resourceRules/0/verbs",
            json!(["*", "get"]),
            "spec.rules[0].resourceRules[0].verbs: Invalid value: [\"*\",\"get\"]: if '*' is present, must not specify other verbs",
        ),
        (
            flow,
            "PriorityLevelConfiguration",
            "/spec/type",
            json!("Exempt"),
            "spec.type: Invalid value: \"Exempt\": must be 'Exempt' if and only if `name` is 'exempt'",
        ),
        (
            flow,
            "PriorityLevelConfiguration",
            "/spec/limited/limitResponse/queuing/handSize",
            json!(100),
            "spec.limited.limitResponse.queuing.handSize: Invalid value: 100: should not be greater than queues (64)",
        ),
    ]);
}

#[test]
fn devices() {
    let group = "resource.k8s.io/v1";
    check(&[
        (
            group,
            "ResourceClaim",
            "/spec/devices/requests/0",
            json!({"name": "gpu"}),
            "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
        ),
        (
            group,
            "ResourceClaim",
            "/spec/devices/requests/0/exactly/deviceClassName",
            json!(""),
            "spec.devices.requests[0].exactly.deviceClassName: Required value",
        ),
        (
            group,
            "ResourceClaim",
            "/spec/devices/constraints",
            json!([{"requests": ["none"], "matchAttribute": "a.com/b"}]),
            "spec.devices.constraints[0].requests[0]: Invalid value: \"none\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
        ),
        (
            group,
            "ResourceClaimTemplate",
            "/spec/spec/devices/requests/0/exactly/allocationMode",
            json!("Odd"),
            "spec.spec.devices.requests[0].exactly.allocationMode: Unsupported value: \"Odd\": supported values: \"All\", \"ExactCount\"",
        ),
        (group, "DeviceClass", "/spec/selectors", json!([{}]), "spec.selectors[0].cel: Required value"),
        (
            group,
            "ResourceSlice",
            "/spec/allNodes",
            json!(true),
            "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set",
        ),
        (
            group,
            "ResourceSlice",
            "/spec/pool/resourceSliceCount",
            json!(0),
            "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
        ),
        (group, "ResourceSlice", "/spec/driver", json!(""), "spec.driver: Required value"),
    ]);
}

/// Kind, subresource, what is changed, and one of the errors.
type Change = (&'static str, &'static str, &'static str, &'static str, Value, &'static str);

#[test]
fn what_was_made_can_change_only_so_far() {
    let cases: &[Change] = &[
        (
            "apps/v1",
            "StatefulSet",
            "",
            "/spec/serviceName",
            json!("x"),
            "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        ),
        (
            "apps/v1",
            "StatefulSet",
            "status",
            "/status/readyReplicas",
            json!(2),
            "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
        ),
        (
            "apps/v1",
            "DaemonSet",
            "status",
            "/status/numberReady",
            json!(-1),
            "status.numberReady: Invalid value: -1: must be greater than or equal to 0",
        ),
        ("apps/v1", "ControllerRevision", "", "/data", json!({}), "data: Invalid value: {}: field is immutable"),
        (
            "batch/v1",
            "Job",
            "",
            "/spec/completionMode",
            json!("Indexed"),
            "spec.completionMode: Invalid value: \"Indexed\": field is immutable",
        ),
        (
            "batch/v1",
            "Job",
            "",
            "/spec/completions",
            json!(4),
            "spec.completions: Invalid value: 4: field is immutable",
        ),
        (
            "batch/v1",
            "Job",
            "status",
            "/status/completionTime",
            json!("2026-01-01T00:00:00Z"),
            "status.completionTime: Invalid value: \"2026-01-01T00:00:00Z\": cannot set completionTime when there is no Complete=True condition",
        ),
        (
            "batch/v1",
            "Job",
            "status",
            "/status/conditions",
            json!([{"type": "Failed", "status": "True"}]),
            "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition",
        ),
        (
            "batch/v1",
            "Job",
            "status",
            "/status/completedIndexes",
            json!("0"),
            "status.completedIndexes: Invalid value: \"0\": cannot set non-empty completedIndexes when non-indexed completion mode",
        ),
        (
            "scheduling.k8s.io/v1",
            "PriorityClass",
            "",
            "/value",
            json!(2),
            "value: Forbidden: may not be changed in an update.",
        ),
        (
            "node.k8s.io/v1",
            "RuntimeClass",
            "",
            "/handler",
            json!("kata"),
            "handler: Invalid value: \"kata\": field is immutable",
        ),
        (
            "storage.k8s.io/v1",
            "StorageClass",
            "",
            "/provisioner",
            json!("other.example.com"),
            "provisioner: Forbidden: updates to provisioner are forbidden.",
        ),
        (
            "storage.k8s.io/v1",
            "CSIDriver",
            "",
            "/spec/attachRequired",
            json!(false),
            "spec.attachedRequired: Invalid value: false: field is immutable",
        ),
        (
            "storage.k8s.io/v1",
            "CSIStorageCapacity",
            "",
            "/storageClassName",
            json!("other"),
            "storageClassName: Invalid value: \"other\": field is immutable",
        ),
        (
            "networking.k8s.io/v1",
            "IngressClass",
            "",
            "/spec/controller",
            json!("a.com/b"),
            "spec.controller: Invalid value: \"a.com/b\": field is immutable",
        ),
        (
            "networking.k8s.io/v1",
            "ServiceCIDR",
            "",
            "/spec/cidrs",
            json!(["10.78.0.0/24"]),
            "spec.cidrs[0]: Invalid value: \"10.78.0.0/24\": field is immutable",
        ),
        (
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            "",
            "/roleRef/name",
            json!("other"),
            "roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"Role\",\"name\":\"other\"}: cannot change roleRef",
        ),
        (
            "v1",
            "PersistentVolume",
            "",
            "/spec/hostPath/path",
            json!("/other"),
            "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation",
        ),
        (
            "v1",
            "PersistentVolumeClaim",
            "",
            "/spec/accessModes",
            json!(["ReadWriteMany"]),
            "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        ),
        (
            "v1",
            "ResourceQuota",
            "",
            "/spec/scopes",
            json!(["Terminating"]),
            "spec.scopes: Invalid value: [\"Terminating\"]: field is immutable",
        ),
        (
            "resource.k8s.io/v1",
            "ResourceSlice",
            "",
            "/spec/driver",
            json!("other.example.com"),
            "spec.driver: Invalid value: \"other.example.com\": field is immutable",
        ),
        (
            "resource.k8s.io/v1",
            "ResourceClaim",
            "status",
            "/status/reservedFor",
            json!([{"resource": "pods", "name": "x", "uid": "1"}]),
            "status.reservedFor: Forbidden: may not be specified when `allocated` is not set",
        ),
        (
            "policy/v1",
            "PodDisruptionBudget",
            "status",
            "/status/currentHealthy",
            json!(-1),
            "status.currentHealthy: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "apiregistration.k8s.io/v1",
            "APIService",
            "status",
            "/status/conditions",
            json!([{"type": "Available", "status": "Odd"}]),
            "status.conditions[0].status: Unsupported value: \"Odd\": supported values: \"True\", \"False\", \"Unknown\"",
        ),
    ];
    for (group_version, kind, subresource, pointer, value, wanted) in cases {
        let old = minimal(group_version, kind);
        let manifest = format!("apiVersion: {group_version}\nkind: {kind}\n");
        let resource = resource_of(&Catalog::builtin(), &manifest);
        let new = with(old.clone(), pointer, value.clone());
        let subresource = (!subresource.is_empty()).then_some(*subresource);
        let found = update(&resource, subresource, &old, new).map(|_| ()).map_err(causes).err().unwrap_or_default();
        assert!(
            found.iter().any(|error| error == wanted),
            "{kind} {pointer} = {value}\nwanted {wanted}\nfound {found:#?}"
        );
    }
}

#[test]
fn defaults_are_those_of_kubernetes() {
    let cases: &[(&str, &str, &str, Value)] = &[
        (
            "apps/v1",
            "StatefulSet",
            "/spec/updateStrategy",
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}),
        ),
        (
            "apps/v1",
            "StatefulSet",
            "/spec/persistentVolumeClaimRetentionPolicy",
            json!({"whenDeleted": "Retain", "whenScaled": "Retain"}),
        ),
        ("apps/v1", "StatefulSet", "/spec/volumeClaimTemplates/0/status", json!({"phase": "Pending"})),
        (
            "apps/v1",
            "DaemonSet",
            "/spec/updateStrategy",
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}),
        ),
        ("apps/v1", "DaemonSet", "/metadata/annotations", json!({"deprecated.daemonset.template.generation": "1"})),
        ("v1", "ReplicationController", "/spec/selector", json!({"app": "web"})),
        ("batch/v1", "Job", "/spec/backoffLimit", json!(6)),
        ("batch/v1", "Job", "/spec/podReplacementPolicy", json!("TerminatingOrFailed")),
        (
            "batch/v1",
            "Job",
            "/spec/selector/matchLabels",
            json!({"batch.kubernetes.io/controller-uid": "5f0c8a2e-0000-4000-8000-000000000001"}),
        ),
        ("batch/v1", "Job", "/spec/template/metadata/labels/job-name", json!("minimal")),
        ("batch/v1", "CronJob", "/spec/successfulJobsHistoryLimit", json!(3)),
        (
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            "/spec/metrics",
            json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]),
        ),
        ("v1", "LimitRange", "/spec/limits/0/default", json!({"cpu": "2"})),
        ("v1", "LimitRange", "/spec/limits/0/defaultRequest", json!({"cpu": "2"})),
        ("v1", "PersistentVolume", "/status/phase", json!("Pending")),
        ("v1", "PersistentVolumeClaim", "/spec/volumeMode", json!("Filesystem")),
        ("networking.k8s.io/v1", "NetworkPolicy", "/spec/policyTypes", json!(["Ingress"])),
        (
            "rbac.authorization.k8s.io/v1",
            "ClusterRoleBinding",
            "/subjects/0/apiGroup",
            json!("rbac.authorization.k8s.io"),
        ),
        ("storage.k8s.io/v1", "StorageClass", "/volumeBindingMode", json!("Immediate")),
        (
            "storage.k8s.io/v1",
            "CSIDriver",
            "/spec",
            json!({"attachRequired": true, "fsGroupPolicy": "ReadWriteOnceWithFSType", "podInfoOnMount": false, "requiresRepublish": false, "seLinuxMount": false, "storageCapacity": false, "volumeLifecycleModes": ["Persistent"]}),
        ),
        (
            "admissionregistration.k8s.io/v1",
            "ValidatingWebhookConfiguration",
            "/webhooks/0/clientConfig/service/port",
            json!(443),
        ),
        (
            "admissionregistration.k8s.io/v1",
            "MutatingWebhookConfiguration",
            "/webhooks/0/reinvocationPolicy",
            json!("Never"),
        ),
        ("flowcontrol.apiserver.k8s.io/v1", "FlowSchema", "/spec/matchingPrecedence", json!(1000)),
        (
            "flowcontrol.apiserver.k8s.io/v1",
            "PriorityLevelConfiguration",
            "/spec/limited/limitResponse/queuing",
            json!({"handSize": 8, "queueLengthLimit": 50, "queues": 64}),
        ),
        (
            "resource.k8s.io/v1",
            "ResourceClaim",
            "/spec/devices/requests/0/exactly",
            json!({"deviceClassName": "minimal", "allocationMode": "ExactCount", "count": 1}),
        ),
        ("scheduling.k8s.io/v1", "PriorityClass", "/preemptionPolicy", json!("PreemptLowerPriority")),
    ];
    for (group_version, kind, pointer, wanted) in cases {
        let object = minimal(group_version, kind);
        assert_eq!(object.pointer(pointer), Some(wanted), "{kind} {pointer}\n{object}");
    }
}
