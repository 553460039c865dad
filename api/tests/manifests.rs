//! Bad manifests, and where and how each is refused.

mod common;

use common::{assert_invalid, context, create, create_in};

/// A pod with this spec, written as YAML flow.
fn pod(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {spec}\n")
}

/// A pod with one container that has these fields besides name and image.
fn container(fields: &str) -> String {
    pod(&format!("{{containers: [{{name: c, image: i, {fields}}}]}}"))
}

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
    and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
    and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

#[test]
fn metadata() {
    assert_invalid(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {}\n",
        &["metadata.name: Required value: name or generateName is required"],
    );
    assert_invalid(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Bad_Name}\n",
        &[&format!("metadata.name: Invalid value: \"Bad_Name\": {SUBDOMAIN}")],
    );
    assert_invalid(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, finalizers: [simple]}\n",
        &[
            "metadata.finalizers: Invalid value: \"simple\": name is neither a standard finalizer name nor is it fully qualified",
        ],
    );
    assert_invalid(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, ownerReferences: [{apiVersion: v1, kind: Pod, name: p, uid: ''}]}\n",
        &["metadata.ownerReferences[0].uid: Invalid value: \"\": uid must not be empty"],
    );
    let error = create("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, labels: {'a b': c}}\n").unwrap_err();
    assert!(error.message.contains("metadata.labels: Invalid value: \"a b\": name part must consist of"), "{error}");
    let error = create("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: other}\n").unwrap_err();
    assert_eq!(error.message, "the namespace of the provided object does not match the namespace sent on the request");
}

#[test]
fn pods() {
    assert_invalid(&pod("{}"), &["spec.containers: Required value"]);
    assert_invalid("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n", &["spec.containers: Required value"]);
    assert_invalid(
        &pod("{restartPolicy: Sometimes, dnsPolicy: Odd, containers: [{name: c, image: i}]}"),
        &[
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            "spec.dnsPolicy: Unsupported value: \"Odd\": supported values: \"ClusterFirstWithHostNet\", \"ClusterFirst\", \
             \"Default\", \"None\"",
        ],
    );
    assert_invalid(
        &pod("{containers: [{name: a, image: i}, {name: a, image: i}], initContainers: [{name: A, image: ''}]}"),
        &[
            "spec.containers[1].name: Duplicate value: \"a\"",
            &format!("spec.initContainers[0].name: Invalid value: \"A\": {LABEL}"),
            "spec.initContainers[0].image: Required value",
        ],
    );
    assert_invalid(
        &pod("{hostname: A.b, activeDeadlineSeconds: 0, containers: [{name: c, image: i}]}"),
        &[
            &format!("spec.hostname: Invalid value: \"A.b\": {LABEL}"),
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
        ],
    );
    assert_invalid(
        &pod("{securityContext: {runAsUser: -1}, imagePullSecrets: [{name: ''}], containers: [{name: c, image: i}]}"),
        &[
            "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            "spec.imagePullSecrets[0].name: Required value",
        ],
    );
}

#[test]
fn containers() {
    assert_invalid(
        &container("imagePullPolicy: Perhaps, terminationMessagePolicy: Lost"),
        &[
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Perhaps\": supported values: \"Always\", \
             \"IfNotPresent\", \"Never\"",
            "spec.containers[0].terminationMessagePolicy: Unsupported value: \"Lost\": supported values: \"File\", \
             \"FallbackToLogsOnError\"",
        ],
    );
    assert_invalid(
        &container(
            "ports: [{containerPort: 0}, {containerPort: 70000, hostPort: -1, protocol: ICMP, name: way-too-long-a-name}]",
        ),
        &[
            "spec.containers[0].ports[0].containerPort: Required value",
            "spec.containers[0].ports[1].name: Invalid value: \"way-too-long-a-name\": must be no more than 15 characters",
            "spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "spec.containers[0].ports[1].hostPort: Invalid value: -1: must be between 1 and 65535, inclusive",
            "spec.containers[0].ports[1].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ],
    );
    assert_invalid(
        &container(
            "ports: [{containerPort: 80, name: web, hostPort: 80}, {containerPort: 81, name: web, hostPort: 80}]",
        ),
        &[
            "spec.containers[0].ports[1].name: Duplicate value: \"web\"",
            "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//80\"",
        ],
    );
    assert_invalid(
        &pod("{hostNetwork: true, containers: [{name: c, image: i, ports: [{containerPort: 80, hostPort: 81}]}]}"),
        &[
            "spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true",
        ],
    );
    assert_invalid(
        &container("resources: {requests: {cpu: 2, memory: -1}, limits: {cpu: 1, apples: 3}}"),
        &[
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
            "spec.containers[0].resources.limits[apples]: Invalid value: \"apples\": must be a standard resource type or fully qualified",
            "spec.containers[0].resources.limits[apples]: Invalid value: \"apples\": must be a standard resource for containers",
            "spec.containers[0].resources.requests[apples]: Invalid value: \"apples\": must be a standard resource type or fully qualified",
            "spec.containers[0].resources.requests[apples]: Invalid value: \"apples\": must be a standard resource for containers",
        ],
    );
}

#[test]
fn environment() {
    assert_invalid(
        &container(
            "env: [{name: ''}, {name: 'a=b'}, {name: C, value: x, valueFrom: {fieldRef: {fieldPath: spec.x}}}, {name: D, valueFrom: {}}]",
        ),
        &[
            "spec.containers[0].env[0].name: Required value",
            "spec.containers[0].env[1].name: Invalid value: \"a=b\": a valid environment variable name must consist only of \
             printable ASCII characters other than '='",
            "spec.containers[0].env[2].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
            "spec.containers[0].env[2].valueFrom.fieldRef.fieldPath: Unsupported value: \"spec.x\": supported values: \
             \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \
             \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
            "spec.containers[0].env[3].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, \
             `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ],
    );
    assert_invalid(
        &container("env: [{name: A, valueFrom: {configMapKeyRef: {name: m, key: 'a b'}}}], envFrom: [{}]"),
        &[
            "spec.containers[0].env[0].valueFrom.configMapKeyRef.key: Invalid value: \"a b\": a valid config key must \
             consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex \
             used for validation is '[-._a-zA-Z0-9]+')",
            "spec.containers[0].envFrom[0]: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
        ],
    );
    let mut ctx = context();
    create_in(&container("env: [{name: A, value: x}, {name: A, value: z}]"), &mut ctx).unwrap();
    assert_eq!(
        ctx.warnings,
        ["spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply"]
    );
}

#[test]
fn probes() {
    assert_invalid(
        &container(
            "livenessProbe: {periodSeconds: -1, successThreshold: 2}, readinessProbe: {exec: {}, tcpSocket: {port: x_y}}",
        ),
        &[
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
            "spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            "spec.containers[0].readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
            "spec.containers[0].readinessProbe.exec.command: Required value",
        ],
    );
    assert_invalid(
        &container("startupProbe: {httpGet: {port: 0}}, lifecycle: {preStop: {}}"),
        &[
            "spec.containers[0].startupProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.containers[0].lifecycle.preStop: Required value: must specify a handler type",
        ],
    );
    assert_invalid(
        &pod(
            "{containers: [{name: c, image: i}], initContainers: [{name: d, image: i, livenessProbe: {exec: {command: [a]}}}]}",
        ),
        &[
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ],
    );
}

#[test]
fn volumes() {
    assert_invalid(
        &container("volumeMounts: [{name: gone, mountPath: /a}, {name: '', mountPath: /a, subPath: ../x}]"),
        &[
            "spec.containers[0].volumeMounts[0].name: Not found: \"gone\"",
            "spec.containers[0].volumeMounts[1].name: Required value",
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
            "spec.containers[0].volumeMounts[1].subPath: Invalid value: \"../x\": must not contain '..'",
        ],
    );
    assert_invalid(
        &pod(
            "{containers: [{name: c, image: i}], volumes: [{name: v, emptyDir: {}, hostPath: {path: /x}}, {name: v, hostPath: {path: ''}}, \
              {name: w, configMap: {name: m, defaultMode: 9999, items: [{key: '', path: /abs}]}}, {name: x, secret: {}}]}",
        ),
        &[
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
            "spec.volumes[1].name: Duplicate value: \"v\"",
            "spec.volumes[1].hostPath.path: Required value",
            "spec.volumes[2].configMap.defaultMode: Invalid value: 9999: must be a number between 0 and 0777 (octal), both inclusive",
            "spec.volumes[2].configMap.items[0].key: Required value",
            "spec.volumes[2].configMap.items[0].path: Invalid value: \"/abs\": must be a relative path",
            "spec.volumes[3].secret.secretName: Required value",
        ],
    );
}

#[test]
fn scheduling() {
    assert_invalid(
        &pod(
            "{containers: [{name: c, image: i}], tolerations: [{value: x}, {key: k, operator: Exists, tolerationSeconds: 3, effect: NoSchedule}], \
              topologySpreadConstraints: [{maxSkew: 0, whenUnsatisfiable: Maybe, topologyKey: ''}]}",
        ),
        &[
            "spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, which means \
             \"match all values and all keys\"",
            "spec.tolerations[1].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when `tolerationSeconds` is set",
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
            "spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty",
            "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"Maybe\": supported values: \
             \"DoNotSchedule\", \"ScheduleAnyway\"",
        ],
    );
    assert_invalid(
        &pod(
            "{containers: [{name: c, image: i}], affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: \
              {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: In}, {key: b, operator: Near, values: [x]}]}]}}}}",
        ),
        &[
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: \
             Required value: must be specified when `operator` is 'In' or 'NotIn'",
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[1].operator: \
             Invalid value: \"Near\": not a valid selector operator",
        ],
    );
}

/// A deployment with these lines in its spec, besides a fitting template.
fn deployment(spec: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d}}\nspec:\n  template: {{metadata: {{labels: {{a: b}}}}, \
         spec: {{containers: [{{name: c, image: i}}]}}}}\n  {spec}\n"
    )
}

#[test]
fn deployments() {
    assert_invalid(&deployment(""), &["spec.selector: Required value"]);
    assert_invalid(
        &deployment("selector: {}"),
        &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
    );
    assert_invalid(
        &deployment("selector: {matchLabels: {a: c}}"),
        &["spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"],
    );
    assert_invalid(
        &deployment(
            "selector: {matchLabels: {a: b}}\n  replicas: -1\n  progressDeadlineSeconds: 3\n  minReadySeconds: 3",
        ),
        &[
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            "spec.progressDeadlineSeconds: Invalid value: 3: must be greater than minReadySeconds",
        ],
    );
    assert_invalid(
        &deployment("selector: {matchLabels: {a: b}}\n  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 0%}}"),
        &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"],
    );
    assert_invalid(
        &deployment(
            "selector: {matchLabels: {a: b}}\n  strategy: {rollingUpdate: {maxUnavailable: 101%, maxSurge: many}}",
        ),
        &[
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
            "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"many\": a valid percent string must be a numeric string \
             followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
        ],
    );
    assert_invalid(
        &deployment("selector: {matchLabels: {a: b}}\n  strategy: {type: Recreate, rollingUpdate: {}}"),
        &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
    );
    let never =
        deployment("selector: {matchLabels: {a: b}}").replace("{containers", "{restartPolicy: Never, containers");
    assert_invalid(
        &never,
        &["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
    );
}

fn service(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {spec}\n")
}

#[test]
fn services() {
    assert_invalid(&service("{}"), &["spec.ports: Required value"]);
    assert_invalid(
        &service("{type: Odd, ports: [{port: 80}]}"),
        &[
            "spec.type: Unsupported value: \"Odd\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        ],
    );
    assert_invalid(
        &service("{ports: [{port: 0}, {port: 80, name: A_b, targetPort: a_b}]}"),
        &[
            "spec.ports[0].name: Required value",
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            &format!("spec.ports[1].name: Invalid value: \"A_b\": {LABEL}"),
            "spec.ports[1].targetPort: Invalid value: \"a_b\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
        ],
    );
    assert_invalid(
        &service("{ports: [{port: 80, name: a, nodePort: 30000}, {port: 80, name: a}], clusterIP: nonsense}"),
        &[
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            "spec.ports[1].name: Duplicate value: \"a\"",
            "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
            "spec.clusterIPs[0]: Invalid value: \"nonsense\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ],
    );
    assert_invalid(&service("{type: ExternalName}"), &["spec.externalName: Required value"]);
    let digit = service("{ports: [{port: 80}]}").replace("name: s}", "name: 1s}");
    let error = create(&digit).unwrap_err();
    assert!(error.message.contains("a DNS-1035 label must consist of"), "{error}");
    create(&service("{clusterIP: None, selector: {a: b}}")).unwrap();
}

#[test]
fn the_small_kinds() {
    assert_invalid(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a/b: x}\n",
        &[
            "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' \
           (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        ],
    );
    assert_invalid(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ntype: kubernetes.io/tls\nstringData: {tls.crt: x}\n",
        &["data[tls.key]: Required value"],
    );
    assert_invalid(
        "apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {name: l}\nspec: {leaseDurationSeconds: 0}\n",
        &["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"],
    );
    assert_invalid(
        "apiVersion: v1\nkind: Event\nmetadata: {name: e}\ninvolvedObject: {namespace: other}\n",
        &["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"],
    );
    assert_invalid(
        "apiVersion: events.k8s.io/v1\nkind: Event\nmetadata: {name: e}\nregarding: {namespace: default}\ntype: Odd\n",
        &["eventTime: Required value", "type: Invalid value: \"\": has invalid value: Odd"],
    );
    assert_invalid(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: e}\naddressType: IPv4\n\
         endpoints: [{addresses: ['::1']}, {addresses: []}]\nports: [{port: 80}, {port: 0}]\n",
        &[
            "endpoints[0].addresses[0]: Invalid value: \"::1\": must be an IPv4 address",
            "endpoints[1].addresses: Required value: must contain at least 1 address",
            "ports[1].name: Duplicate value: \"\"",
            "ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ],
    );
    assert_invalid(
        "apiVersion: v1\nkind: Endpoints\nmetadata: {name: e}\nsubsets: [{addresses: [{ip: x}], ports: [{port: 80}]}, {}]\n",
        &[
            "subsets[0].addresses[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            "subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`",
        ],
    );
    assert_invalid(
        "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {podCIDR: x, taints: [{key: a, effect: Odd}, {key: a, effect: NoExecute}, {key: a, effect: NoExecute}]}\n",
        &[
            "spec.podCIDRs[0]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            "spec.taints[0].effect: Unsupported value: \"Odd\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            "spec.taints[2]: Duplicate value: {\"effect\":\"NoExecute\",\"key\":\"a\"}",
        ],
    );
    let error = create("apiVersion: v1\nkind: Namespace\nmetadata: {name: a.b}\n").unwrap_err();
    assert!(error.message.ends_with("must not contain dots"), "{error}");
}
