//! Defaults that Kubernetes sets in its code and not by markers, where they depend on nothing else.
//!
//! Those that depend on other fields (image pull policy by tag, requests from limits, target ports …) are in the
//! strategies of `gantry-api`.

/// Definition (without `io.k8s.api.`), field, default as JSON.
pub const DEFAULTS: &[(&str, &str, &str)] = &[
    ("core.v1.PodSpec", "dnsPolicy", r#""ClusterFirst""#),
    ("core.v1.PodSpec", "restartPolicy", r#""Always""#),
    ("core.v1.PodSpec", "schedulerName", r#""default-scheduler""#),
    ("core.v1.PodSpec", "securityContext", "{}"),
    ("core.v1.PodSpec", "terminationGracePeriodSeconds", "30"),
    ("core.v1.Container", "resources", "{}"),
    ("core.v1.Container", "terminationMessagePath", r#""/dev/termination-log""#),
    ("core.v1.Container", "terminationMessagePolicy", r#""File""#),
    ("core.v1.EphemeralContainer", "resources", "{}"),
    ("core.v1.EphemeralContainer", "terminationMessagePath", r#""/dev/termination-log""#),
    ("core.v1.EphemeralContainer", "terminationMessagePolicy", r#""File""#),
    ("core.v1.Probe", "failureThreshold", "3"),
    ("core.v1.Probe", "periodSeconds", "10"),
    ("core.v1.Probe", "successThreshold", "1"),
    ("core.v1.Probe", "timeoutSeconds", "1"),
    ("core.v1.HTTPGetAction", "path", r#""/""#),
    ("core.v1.HTTPGetAction", "scheme", r#""HTTP""#),
    ("core.v1.ObjectFieldSelector", "apiVersion", r#""v1""#),
    ("core.v1.ResourceFieldSelector", "divisor", r#""0""#),
    ("core.v1.ConfigMapVolumeSource", "defaultMode", "420"),
    ("core.v1.DownwardAPIVolumeSource", "defaultMode", "420"),
    ("core.v1.HostPathVolumeSource", "type", r#""""#),
    ("core.v1.ISCSIVolumeSource", "iscsiInterface", r#""default""#),
    ("core.v1.ProjectedVolumeSource", "defaultMode", "420"),
    ("core.v1.SecretVolumeSource", "defaultMode", "420"),
    ("core.v1.ServiceAccountTokenProjection", "expirationSeconds", "3600"),
    ("core.v1.NamespaceStatus", "phase", r#""Active""#),
    ("core.v1.PersistentVolumeClaimSpec", "volumeMode", r#""Filesystem""#),
    ("core.v1.PersistentVolumeSpec", "persistentVolumeReclaimPolicy", r#""Retain""#),
    ("core.v1.PersistentVolumeSpec", "volumeMode", r#""Filesystem""#),
    ("core.v1.EndpointPort", "protocol", r#""TCP""#),
    ("core.v1.Secret", "type", r#""Opaque""#),
    ("core.v1.ServicePort", "protocol", r#""TCP""#),
    ("core.v1.ServiceSpec", "sessionAffinity", r#""None""#),
    ("core.v1.ServiceSpec", "type", r#""ClusterIP""#),
    ("discovery.v1.EndpointPort", "name", r#""""#),
    ("discovery.v1.EndpointPort", "protocol", r#""TCP""#),
    ("apps.v1.DeploymentSpec", "progressDeadlineSeconds", "600"),
    ("apps.v1.DeploymentSpec", "replicas", "1"),
    ("apps.v1.DeploymentSpec", "revisionHistoryLimit", "10"),
    ("apps.v1.DeploymentSpec", "strategy", "{}"),
    ("apps.v1.DeploymentStrategy", "type", r#""RollingUpdate""#),
    ("apps.v1.ReplicaSetSpec", "replicas", "1"),
];

/// Defaults that markers name by a Go constant: `ref(…)`.
pub const CONSTANTS: &[(&str, &str)] =
    &[("AzureDataDiskCachingReadWrite", r#""ReadWrite""#), ("AzureSharedBlobDisk", r#""Shared""#)];

/// Numbers without a pointer in Go: zero is absence, so the default replaces it.
pub const ZERO_IS_ABSENT: &[(&str, &str)] = &[
    ("core.v1.Probe", "failureThreshold"),
    ("core.v1.Probe", "periodSeconds"),
    ("core.v1.Probe", "successThreshold"),
    ("core.v1.Probe", "timeoutSeconds"),
];
