//! What is wrong with a pod: paths, reasons and texts as Kubernetes gives them; and beside each mistake, what is right.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::cases::{causes, minimal, refused, with};
use common::update;
use gantry_api::kinds::Catalog;
use serde_json::{Value, json};

/// A pod with a volume of each kind that matters here, and what is changed in it.
fn pod(changes: &[(&str, Value)]) -> Value {
    let volumes = json!([
        {"name": "folder", "emptyDir": {}},
        {"name": "claim", "persistentVolumeClaim": {"claimName": "c"}},
        {"name": "other", "persistentVolumeClaim": {"claimName": "d"}},
    ]);
    let pod = with(minimal("v1", "Pod"), "/spec/volumes", volumes);
    changes.iter().fold(pod, |pod, (pointer, value)| with(pod, pointer, value.clone()))
}

/// What is changed, and the one thing that is said against it; nothing, if it is good.
type Case = (&'static [(&'static str, fn() -> Value)], &'static str);

fn check(cases: &[Case]) {
    for (changes, wanted) in cases {
        let changes: Vec<_> = changes.iter().map(|(pointer, value)| (*pointer, value())).collect();
        let found = refused(&pod(&changes));
        match wanted.is_empty() {
            true => assert!(found.is_empty(), "{changes:?}\n{found:#?}"),
            false => {
                assert!(found.iter().any(|error| error == wanted), "{changes:?}\nwanted {wanted}\nfound {found:#?}")
            }
        }
    }
}

const MOUNTS: &str = "/spec/containers/0/volumeMounts";
const DEVICES: &str = "/spec/containers/0/volumeDevices";
const CONTEXT: &str = "/spec/containers/0/securityContext";

#[test]
fn volumes_in_containers() {
    check(&[
        (
            &[(
                MOUNTS,
                || json!([{"name": "folder", "mountPath": "/a", "readOnly": true, "recursiveReadOnly": "Enabled"}]),
            )],
            "",
        ),
        (
            &[(MOUNTS, || json!([{"name": "folder", "mountPath": "/a", "recursiveReadOnly": "IfPossible"}]))],
            "spec.containers[0].volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
        ),
        (
            &[(MOUNTS, || {
                json!([{"name": "folder", "mountPath": "/a", "readOnly": true, "recursiveReadOnly": "Enabled",
                    "mountPropagation": "HostToContainer"}])
            })],
            "spec.containers[0].volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when \
             mountPropagation is None or not specified",
        ),
        (
            &[(MOUNTS, || json!([{"name": "folder", "mountPath": "/a", "recursiveReadOnly": "No"}]))],
            "spec.containers[0].volumeMounts[0].recursiveReadOnly: Unsupported value: \"No\": supported values: \
             \"Disabled\", \"Enabled\", \"IfPossible\"",
        ),
        (
            &[(MOUNTS, || json!([{"name": "folder", "mountPath": "/a", "mountPropagation": "Bidirectional"}]))],
            "spec.containers[0].volumeMounts[0].mountPropagation: Forbidden: Bidirectional mount propagation is \
             available only to privileged containers",
        ),
        (
            &[
                (MOUNTS, || json!([{"name": "folder", "mountPath": "/a", "mountPropagation": "Bidirectional"}])),
                (CONTEXT, || json!({"privileged": true})),
            ],
            "",
        ),
        (
            &[
                (MOUNTS, || json!([{"name": "claim", "mountPath": "/a"}])),
                (DEVICES, || json!([{"name": "claim", "devicePath": "/dev/a"}])),
            ],
            "spec.containers[0].volumeMounts[0].name: Invalid value: \"claim\": must not already exist in volumeDevices",
        ),
        (
            &[
                (MOUNTS, || json!([{"name": "claim", "mountPath": "/a"}])),
                (DEVICES, || json!([{"name": "other", "devicePath": "/a"}])),
            ],
            "spec.containers[0].volumeDevices[0].devicePath: Invalid value: \"/a\": must not already exist as a path in volumeMounts",
        ),
        (
            &[
                (MOUNTS, || json!([{"name": "claim", "mountPath": "/a"}])),
                (DEVICES, || json!([{"name": "other", "devicePath": "/dev/a"}])),
            ],
            "",
        ),
        (
            &[(DEVICES, || json!([{"name": "folder", "devicePath": "/dev/a"}]))],
            "spec.containers[0].volumeDevices[0].name: Invalid value: \"folder\": can only use volume source type of \
             PersistentVolumeClaim or Ephemeral for block mode",
        ),
        (&[(DEVICES, || json!([{"name": "claim"}]))], "spec.containers[0].volumeDevices[0].devicePath: Required value"),
        (
            &[(DEVICES, || json!([{"name": "claim", "devicePath": "/dev/../a"}]))],
            "spec.containers[0].volumeDevices[0].devicePath: Invalid value: \"/dev/../a\": can not contain backsteps ('..')",
        ),
        (
            &[("/spec/volumes", || json!([{"name": "n", "nfs": {"server": "s", "path": "exports"}}]))],
            "spec.volumes[0].nfs.path: Invalid value: \"exports\": must be an absolute path",
        ),
    ]);
}

#[test]
fn systems() {
    const LINUX: fn() -> Value = || json!({"name": "linux"});
    const WINDOWS: fn() -> Value = || json!({"name": "windows"});
    check(&[
        (
            &[("/spec/os", WINDOWS), (CONTEXT, || json!({"privileged": true}))],
            "spec.containers[0].securityContext.privileged: Forbidden: cannot be set for a windows pod",
        ),
        (
            &[("/spec/os", WINDOWS), ("/spec/securityContext", || json!({"fsGroup": 1}))],
            "spec.securityContext.fsGroup: Forbidden: cannot be set for a windows pod",
        ),
        (
            &[("/spec/os", WINDOWS), ("/spec/hostPID", || json!(true))],
            "spec.hostPID: Forbidden: cannot be set for a windows pod",
        ),
        (
            &[
                ("/spec/os", WINDOWS),
                (CONTEXT, || json!({"windowsOptions": {"runAsUserName": "ContainerUser"}})),
                ("/spec/securityContext", || json!({"sysctls": [], "windowsOptions": {"hostProcess": false}})),
            ],
            "",
        ),
        (
            &[("/spec/os", LINUX), (CONTEXT, || json!({"windowsOptions": {"runAsUserName": "ContainerUser"}}))],
            "spec.containers[0].securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod",
        ),
        (&[("/spec/os", LINUX), (CONTEXT, || json!({"privileged": true}))], ""),
    ]);
}

#[test]
fn resources() {
    const POLICY: &str = "/spec/containers/0/resizePolicy";
    const RESOURCES: &str = "/spec/containers/0/resources";
    const ENV: &str = "/spec/containers/0/env";
    check(&[
        (&[(POLICY, || json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]))], ""),
        (
            &[(POLICY, || json!([{"resourceName": "disk", "restartPolicy": "NotRequired"}]))],
            "spec.containers[0].resizePolicy[0]: Unsupported value: \"disk\": supported values: \"cpu\", \"memory\"",
        ),
        (
            &[(
                POLICY,
                || json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}, {"resourceName": "cpu", "restartPolicy": "NotRequired"}]),
            )],
            "spec.containers[0].resizePolicy[1]: Duplicate value: \"cpu\"",
        ),
        (
            &[
                (POLICY, || json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}])),
                ("/spec/restartPolicy", || json!("Never")),
            ],
            "spec.containers[0].resizePolicy[0]: Invalid value: \"RestartContainer\": must be 'NotRequired' when `restartPolicy` is 'Never'",
        ),
        (
            &[(RESOURCES, || json!({"limits": {"hugepages-2Mi": "2Mi"}}))],
            "spec.containers[0].resources: Forbidden: HugePages require cpu or memory",
        ),
        (&[(RESOURCES, || json!({"limits": {"hugepages-2Mi": "2Mi", "memory": "1Gi"}}))], ""),
        (
            &[(RESOURCES, || json!({"claims": [{"name": "gpu"}]}))],
            "spec.containers[0].resources.claims[0]: Not found: \"gpu\"",
        ),
        (
            &[
                (RESOURCES, || json!({"claims": [{"name": "gpu"}, {"name": "gpu", "request": "one"}]})),
                ("/spec/resourceClaims", || json!([{"name": "gpu", "resourceClaimName": "x"}])),
            ],
            "",
        ),
        (
            &[(
                ENV,
                || json!([{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}}]),
            )],
            "spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only \
             divisor's values 1m and 1 are supported with the cpu resource",
        ),
        (
            &[(ENV, || {
                json!([{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
                    {"name": "B", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                    {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}}])
            })],
            "",
        ),
    ]);
}

#[test]
fn restarts() {
    const POLICY: &str = "/spec/containers/0/restartPolicy";
    const RULES: &str = "/spec/containers/0/restartPolicyRules";
    const RULE: fn() -> Value = || json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    check(&[
        (&[(POLICY, || json!("Never")), (RULES, RULE)], ""),
        (
            &[(RULES, RULE)],
            "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
        ),
        (
            &[
                (POLICY, || json!("Never")),
                (RULES, || json!([{"action": "Wait", "exitCodes": {"operator": "In", "values": [1]}}])),
            ],
            "spec.containers[0].restartPolicyRules[0].action: Unsupported value: \"Wait\": supported values: \"Restart\"",
        ),
        (
            &[(POLICY, || json!("Never")), (RULES, || json!([{"action": "Restart"}]))],
            "spec.containers[0].restartPolicyRules[0].exitCodes: Required value: must be specified",
        ),
        (
            &[
                (POLICY, || json!("Never")),
                (RULES, || json!([{"action": "Restart", "exitCodes": {"operator": "Is", "values": [1]}}])),
            ],
            "spec.containers[0].restartPolicyRules[0].exitCodes.operator: Unsupported value: \"Is\": supported values: \"In\", \"NotIn\"",
        ),
        (
            &[
                (POLICY, || json!("Never")),
                (RULES, || {
                    json!(vec![json!({"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}}); 21])
                }),
            ],
            "spec.containers[0].restartPolicyRules: Too many: 21: must have at most 20 items",
        ),
    ]);
}

#[test]
fn networks_and_users() {
    const PORTS: &str = "/spec/containers/0/ports";
    const DNS: &str = "/spec/dnsConfig";
    check(&[
        (
            &[("/spec/hostNetwork", || json!(true)), (PORTS, || json!([{"containerPort": 80, "hostPort": 81}]))],
            "spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true",
        ),
        (
            &[("/spec/hostNetwork", || json!(true)), ("/spec/hostUsers", || json!(false))],
            "spec.hostNetwork: Forbidden: when `pod.Spec.HostUsers` is false",
        ),
        (&[("/spec/hostNetwork", || json!(true)), ("/spec/hostUsers", || json!(true))], ""),
        (
            &[(
                DNS,
                || json!({"searches": ["a.example", "b.example.", "."], "options": [{"name": "ndots", "value": "2"}]}),
            )],
            "",
        ),
        (
            &[(DNS, || json!({"searches": ["A b"]}))],
            "spec.dnsConfig.searches[0]: Invalid value: \"A b\": a lowercase RFC 1123 subdomain must consist of lower \
             case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
             'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        ),
        (
            &[(DNS, || json!({"options": [{"value": "2"}]}))],
            "spec.dnsConfig.options[0]: Required value: must not be empty",
        ),
        (
            &[("/spec/securityContext", || json!({"supplementalGroupsPolicy": "Some"}))],
            "spec.securityContext.supplementalGroupsPolicy: Unsupported value: \"Some\": supported values: \"Merge\", \"Strict\"",
        ),
        (&[("/spec/securityContext", || json!({"supplementalGroupsPolicy": "Strict"}))], ""),
    ]);
    let many: Vec<String> = (0..33).map(|number| format!("s{number}.example")).collect();
    let found = refused(&pod(&[(DNS, json!({"searches": many}))]));
    assert!(found.iter().any(|error| error.ends_with("must not have more than 32 search paths")), "{found:#?}");
}

#[test]
fn a_pod_at_a_gate_is_only_told_more_closely_where_to_go() {
    const SELECTOR: &str = "/spec/nodeSelector";
    const AFFINITY: &str = "/spec/affinity";
    let expression = |key: &str| json!({"key": key, "operator": "Exists"});
    let affinity = |terms: Value| json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
    let one = affinity(json!([{"matchExpressions": [expression("a")]}]));
    let two = affinity(json!([{"matchExpressions": [expression("a"), expression("b")]}]));
    let other = affinity(json!([{"matchExpressions": [expression("b")]}]));
    let more = affinity(json!([{"matchExpressions": [expression("a")]}, {"matchExpressions": [expression("b")]}]));
    let pods = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        [{"topologyKey": "zone", "labelSelector": {}}]}});
    let terms = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let pods_resource = Catalog::builtin().by_gvk("", "v1", "Pod").unwrap().clone();
    for (pointer, before, after, wanted) in [
        (SELECTOR, json!({"a": "1"}), json!({"a": "1", "b": "2"}), ""),
        (SELECTOR, Value::Null, json!({"a": "1"}), ""),
        (SELECTOR, json!({"a": "1"}), json!({"a": "2"}), "spec.nodeSelector: Invalid value"),
        (SELECTOR, json!({"a": "1"}), Value::Null, "spec.nodeSelector: Invalid value"),
        (AFFINITY, Value::Null, one.clone(), ""),
        (AFFINITY, one.clone(), two.clone(), ""),
        (AFFINITY, two.clone(), one.clone(), terms),
        (AFFINITY, one.clone(), other, terms),
        (AFFINITY, one.clone(), more, terms),
        (AFFINITY, one, Value::Null, terms),
        (AFFINITY, Value::Null, pods, "spec: Forbidden: pod updates may not change fields other than"),
    ] {
        let gated = pod(&[("/spec/schedulingGates", json!([{"name": "example.com/wait"}]))]);
        let [old, new] = [&before, &after].map(|value| match value {
            Value::Null => gated.clone(),
            value => with(gated.clone(), pointer, value.clone()),
        });
        let found = update(&pods_resource, None, &old, new).map_or_else(causes, |_| Vec::new());
        let is_as_wanted = match wanted {
            "" => found.is_empty(),
            wanted => found.iter().any(|error| error.starts_with(wanted)),
        };
        assert!(is_as_wanted, "{pointer} {before} {after}\nwanted {wanted}\nfound {found:#?}");
    }
}
