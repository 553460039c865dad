//! What `kubectl get` prints.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::kinds::Catalog;

fn now() -> Timestamp {
    "2024-05-01T12:00:00Z".parse().unwrap()
}

fn bytes(object: &Value) -> Bytes {
    Bytes::from(object.to_string())
}

/// The table of objects of a built-in kind.
fn print(group: &str, version: &str, kind: &str, objects: &[Value]) -> Value {
    let catalog = Catalog::builtin();
    let resource = catalog.by_gvk(group, version, kind).unwrap();
    let objects: Vec<Bytes> = objects.iter().map(bytes).collect();
    let list = ListMeta { resource_version: "7", ..ListMeta::default() };
    let table = table(resource, list, &objects, IncludeObject::Metadata, now()).unwrap();
    serde_json::from_slice(&table).unwrap()
}

fn cells(group: &str, version: &str, kind: &str, object: Value) -> Value {
    let mut table = print(group, version, kind, &[with_meta(object)]);
    let columns = table["columnDefinitions"].as_array().unwrap().len();
    let cells = table["rows"][0]["cells"].take();
    assert_eq!(cells.as_array().unwrap().len(), columns, "a cell for each column");
    cells
}

fn with_meta(mut object: Value) -> Value {
    object["metadata"]["name"] = json!("x");
    object["metadata"]["creationTimestamp"] = json!("2024-05-01T11:55:00Z");
    object
}

/// READY, STATUS and RESTARTS of a pod.
fn pod(spec: Value, status: Value) -> (String, String, String) {
    pod_with(json!({"spec": spec, "status": status}))
}

fn pod_with(pod: Value) -> (String, String, String) {
    let cells = cells("", "v1", "Pod", pod);
    let text = |i: usize| cells[i].as_str().unwrap().to_owned();
    (text(1), text(2), text(3))
}

fn is(ready: &str, status: &str, restarts: &str) -> (String, String, String) {
    (ready.to_owned(), status.to_owned(), restarts.to_owned())
}

#[test]
fn pods_show_their_phase_or_why_a_container_does_not_run() {
    let one = || json!({"containers": [{"name": "a"}]});
    let state = |state: Value| json!({"phase": "Running", "containerStatuses": [{"name": "a", "restartCount": 0, "state": state}]});
    assert_eq!(pod(one(), json!({"phase": "Pending"})), is("0/1", "Pending", "0"));
    assert_eq!(pod(one(), json!({"phase": "Failed", "reason": "Evicted"})), is("0/1", "Evicted", "0"));
    assert_eq!(
        pod(one(), state(json!({"waiting": {"reason": "ContainerCreating"}}))),
        is("0/1", "ContainerCreating", "0")
    );
    assert_eq!(
        pod(one(), state(json!({"waiting": {"reason": "CrashLoopBackOff"}}))),
        is("0/1", "CrashLoopBackOff", "0")
    );
    assert_eq!(pod(one(), state(json!({"terminated": {"exitCode": 1, "reason": "Error"}}))), is("0/1", "Error", "0"));
    assert_eq!(pod(one(), state(json!({"terminated": {"exitCode": 3}}))), is("0/1", "ExitCode:3", "0"));
    assert_eq!(pod(one(), state(json!({"terminated": {"exitCode": 137, "signal": 9}}))), is("0/1", "Signal:9", "0"));
    assert_eq!(
        pod(one(), state(json!({"terminated": {"exitCode": 0, "reason": "Completed"}}))),
        is("0/1", "Completed", "0")
    );
    let gated = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]});
    assert_eq!(pod(one(), gated), is("0/1", "SchedulingGated", "0"));
}

#[test]
fn pods_count_ready_containers_and_restarts() {
    let running = |name: &str, restarts: i64| {
        json!({"name": name, "ready": true, "restartCount": restarts, "state": {"running": {}},
            "lastState": {"terminated": {"finishedAt": "2024-05-01T11:54:30Z"}}})
    };
    let spec = || json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let status = json!({"phase": "Running", "containerStatuses": [running("a", 2), running("b", 1)]});
    assert_eq!(pod(spec(), status), is("2/2", "Running", "3 (5m30s ago)"));
    let done = json!({"name": "b", "restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
    let ready = json!([{"type": "Ready", "status": "True"}]);
    let status = json!({"phase": "Running", "containerStatuses": [done, running("a", 0)]});
    assert_eq!(pod(spec(), status), is("1/2", "NotReady", "0"));
    let status = json!({"phase": "Running", "conditions": ready, "containerStatuses": [done, running("a", 0)]});
    assert_eq!(pod(spec(), status), is("1/2", "Running", "0"));
}

#[test]
fn pods_show_how_far_their_init_containers_are() {
    let spec = || json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
    let init = |statuses: Value| json!({"phase": "Pending", "initContainerStatuses": statuses, "containerStatuses": [{"name": "a", "restartCount": 0, "state": {"waiting": {"reason": "PodInitializing"}}}]});
    let done = json!({"name": "i", "restartCount": 1, "state": {"terminated": {"exitCode": 0}}});
    let waiting = json!({"name": "j", "restartCount": 0, "state": {"waiting": {"reason": "PodInitializing"}}});
    assert_eq!(
        pod(spec(), init(json!([{"name": "i", "restartCount": 0, "state": {"running": {}}}, waiting]))),
        is("0/1", "Init:0/2", "0")
    );
    assert_eq!(pod(spec(), init(json!([done, waiting]))), is("0/1", "Init:1/2", "1"));
    let crashing = json!({"name": "j", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}});
    assert_eq!(pod(spec(), init(json!([done, crashing]))), is("0/1", "Init:CrashLoopBackOff", "3"));
    let failed = json!({"name": "j", "restartCount": 0, "state": {"terminated": {"exitCode": 2}}});
    assert_eq!(pod(spec(), init(json!([done, failed]))), is("0/1", "Init:ExitCode:2", "1"));
    let done_too = json!({"name": "j", "restartCount": 0, "state": {"terminated": {"exitCode": 0}}});
    assert_eq!(pod(spec(), init(json!([done, done_too]))), is("0/1", "PodInitializing", "0"));
}

#[test]
fn sidecars_count_as_containers() {
    let spec = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]});
    let status = json!({"phase": "Running",
        "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "restartCount": 4, "state": {"running": {}}}],
        "containerStatuses": [{"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}}]});
    assert_eq!(pod(spec, status), is("2/2", "Running", "4"));
}

#[test]
fn pods_that_are_being_deleted_say_so() {
    let deleting = |status: Value| {
        pod_with(
            json!({"metadata": {"deletionTimestamp": "2024-05-01T12:00:00Z"}, "spec": {"containers": [{"name": "a"}]}, "status": status}),
        )
    };
    assert_eq!(deleting(json!({"phase": "Running"})).1, "Terminating");
    assert_eq!(deleting(json!({"phase": "Succeeded"})).1, "Succeeded");
    assert_eq!(deleting(json!({"phase": "Running", "reason": "NodeLost"})).1, "Unknown");
}

#[test]
fn wide_pods_show_address_node_and_gates() {
    let pod = json!({
        "spec": {"containers": [{"name": "a"}], "nodeName": "n1", "readinessGates": [{"conditionType": "g"}, {"conditionType": "h"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "g", "status": "True"}]},
    });
    assert_eq!(
        cells("", "v1", "Pod", pod),
        json!(["x", "0/1", "Running", "0", "5m", "10.0.0.1", "n1", "<none>", "1/2"])
    );
    assert_eq!(
        cells("", "v1", "Pod", json!({"status": {"phase": "Pending"}})),
        json!(["x", "0/0", "Pending", "0", "5m", "<none>", "<none>", "<none>", "<none>"])
    );
    let table = print("", "v1", "Pod", &[with_meta(json!({"status": {"phase": "Succeeded"}}))]);
    assert_eq!(table["rows"][0]["conditions"][0]["reason"], "Succeeded");
    let columns: Vec<(&str, i64)> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["name"].as_str().unwrap(), c["priority"].as_i64().unwrap()))
        .collect();
    assert_eq!(
        columns,
        [
            ("Name", 0),
            ("Ready", 0),
            ("Status", 0),
            ("Restarts", 0),
            ("Age", 0),
            ("IP", 1),
            ("Node", 1),
            ("Nominated Node", 1),
            ("Readiness Gates", 1)
        ]
    );
    assert_eq!(table["columnDefinitions"][0]["format"], "name");
}

#[test]
fn every_column_is_described() {
    for resource in Catalog::builtin().iter() {
        let columns: Vec<Value> = serde_json::from_str(Printer::of(resource).header()).unwrap();
        for column in columns {
            assert_ne!(column["description"], "", "{} {column}", resource.kind);
        }
    }
}

#[test]
fn nodes_show_status_roles_and_addresses() {
    let node = json!({
        "metadata": {"labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "gpu"}},
        "spec": {"unschedulable": true},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "10.1.1.1"}],
            "nodeInfo": {"kubeletVersion": "v1.35.0", "osImage": "Debian", "kernelVersion": "6.1", "containerRuntimeVersion": "containerd://2"},
        },
    });
    assert_eq!(
        cells("", "v1", "Node", node),
        json!([
            "x",
            "Ready,SchedulingDisabled",
            "control-plane,gpu,worker",
            "5m",
            "v1.35.0",
            "10.1.1.1",
            "<none>",
            "Debian",
            "6.1",
            "containerd://2"
        ])
    );
    let unknown = cells("", "v1", "Node", json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}));
    assert_eq!(unknown[1], "NotReady");
    assert_eq!(cells("", "v1", "Node", json!({}))[1], "Unknown");
}

#[test]
fn services_show_addresses_and_ports() {
    let service = |spec: Value, status: Value| cells("", "v1", "Service", json!({"spec": spec, "status": status}));
    assert_eq!(
        service(
            json!({"type": "ClusterIP", "clusterIPs": ["10.96.0.1"], "ports": [{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}], "selector": {"a": "b", "c": "d"}}),
            Value::Null
        ),
        json!(["x", "ClusterIP", "10.96.0.1", "<none>", "80/TCP,53/UDP", "5m", "a=b,c=d"])
    );
    assert_eq!(
        service(
            json!({"type": "NodePort", "clusterIPs": ["None"], "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}], "externalIPs": ["1.1.1.1"]}),
            Value::Null
        ),
        json!(["x", "NodePort", "None", "1.1.1.1", "80:30080/TCP", "5m", "<none>"])
    );
    assert_eq!(service(json!({"type": "LoadBalancer"}), Value::Null)[3], "<pending>");
    let ingress = json!({"loadBalancer": {"ingress": [{"ip": "9.9.9.9"}, {"hostname": "a.example"}]}});
    assert_eq!(
        service(json!({"type": "LoadBalancer", "externalIPs": ["1.1.1.1"]}), ingress)[3],
        "9.9.9.9,a.example,1.1.1.1"
    );
    let external = service(json!({"type": "ExternalName", "externalName": "db.example"}), Value::Null);
    assert_eq!((&external[2], &external[3], &external[4]), (&json!("<none>"), &json!("db.example"), &json!("<none>")));
}

#[test]
fn endpoints_show_three_and_count_the_rest() {
    let addresses = |n: i64| (1..=n).map(|i| json!({"ip": format!("10.0.0.{i}")})).collect::<Value>();
    assert_eq!(cells("", "v1", "Endpoints", json!({}))[1], "<none>");
    let one = json!({"subsets": [{"addresses": addresses(2), "ports": [{"port": 80}]}]});
    assert_eq!(cells("", "v1", "Endpoints", one)[1], "10.0.0.1:80,10.0.0.2:80");
    let many = json!({"subsets": [{"addresses": addresses(3), "ports": [{"port": 80}, {"port": 81}]}]});
    assert_eq!(cells("", "v1", "Endpoints", many)[1], "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 3 more...");
    let slice = json!({"addressType": "IPv4", "ports": [{"port": 80}, {"name": "http"}, {}], "endpoints": [{"addresses": ["a", "b"]}, {"addresses": ["c", "d"]}]});
    assert_eq!(
        cells("discovery.k8s.io", "v1", "EndpointSlice", slice),
        json!(["x", "IPv4", "80,http,*", "a,b,c + 1 more...", "5m"])
    );
    assert_eq!(
        cells("discovery.k8s.io", "v1", "EndpointSlice", json!({"addressType": "IPv4"})),
        json!(["x", "IPv4", "<unset>", "<unset>", "5m"])
    );
}

#[test]
fn workloads_show_their_counts_and_template() {
    let template = json!({"spec": {"containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "j:1"}]}});
    let deployment = json!({"spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template},
        "status": {"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1}});
    assert_eq!(
        cells("apps", "v1", "Deployment", deployment),
        json!(["x", "1/3", 2, 1, "5m", "a,b", "i:1,j:1", "app=web"])
    );
    let set = json!({"spec": {"replicas": 3, "selector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}, "template": template}, "status": {"replicas": 2}});
    assert_eq!(cells("apps", "v1", "ReplicaSet", set), json!(["x", 3, 2, 0, "5m", "a,b", "i:1,j:1", "a"]));
}

#[test]
fn configuration_shows_how_much_there_is() {
    assert_eq!(
        cells("", "v1", "ConfigMap", json!({"data": {"a": "1"}, "binaryData": {"b": ""}})),
        json!(["x", 2, "5m"])
    );
    assert_eq!(
        cells("", "v1", "Secret", json!({"type": "Opaque", "data": {"a": "", "b": ""}})),
        json!(["x", "Opaque", 2, "5m"])
    );
    assert_eq!(cells("", "v1", "ServiceAccount", json!({})), json!(["x", "5m"]));
    assert_eq!(cells("", "v1", "Namespace", json!({"status": {"phase": "Active"}})), json!(["x", "Active", "5m"]));
    assert_eq!(
        cells("coordination.k8s.io", "v1", "Lease", json!({"spec": {"holderIdentity": "h"}})),
        json!(["x", "h", "5m"])
    );
}

#[test]
fn events_read_the_same_in_both_versions() {
    let old = json!({
        "type": "Warning", "reason": "Failed", "message": " no \n", "count": 4, "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "f"},
        "source": {"component": "kubelet", "host": "n1"}, "firstTimestamp": "2024-05-01T11:00:00Z", "lastTimestamp": "2024-05-01T11:59:00Z",
    });
    let new = json!({
        "type": "Warning", "reason": "Failed", "note": " no \n", "deprecatedCount": 4, "regarding": {"kind": "Pod", "name": "p", "fieldPath": "f"},
        "deprecatedSource": {"component": "kubelet", "host": "n1"}, "deprecatedFirstTimestamp": "2024-05-01T11:00:00Z",
        "deprecatedLastTimestamp": "2024-05-01T11:59:00Z",
    });
    let expected = json!(["60s", "Warning", "Failed", "pod/p", "f", "kubelet, n1", "no", "60m", 4, "x"]);
    assert_eq!(cells("", "v1", "Event", old), expected);
    assert_eq!(cells("events.k8s.io", "v1", "Event", new), expected);
    let single = json!({"eventTime": "2024-05-01T11:58:00.123456Z", "reportingComponent": "c", "reportingInstance": "i", "involvedObject": {"kind": "Node"}});
    assert_eq!(cells("", "v1", "Event", single), json!(["119s", "", "", "node", "", "c, i", "", "119s", 1, "x"]));
    let series = json!({"eventTime": "2024-05-01T11:00:00Z", "series": {"count": 9, "lastObservedTime": "2024-05-01T11:59:30Z"}});
    let series = cells("", "v1", "Event", series);
    assert_eq!((&series[0], &series[8]), (&json!("30s"), &json!(9)));
}

#[test]
fn lists_carry_their_metadata_and_rows_what_was_asked_for() {
    let catalog = Catalog::builtin();
    let resource = catalog.by_gvk("", "v1", "ConfigMap").unwrap();
    let object = with_meta(
        json!({"data": {"a": "b"}, "metadata": {"resourceVersion": "5", "managedFields": [{"manager": "m"}]}}),
    );
    let list = ListMeta { resource_version: "7", continue_token: Some("next"), remaining: Some(3) };
    let of = |include| -> Value {
        serde_json::from_slice(&table(resource, list, [&bytes(&object)], include, now()).unwrap()).unwrap()
    };
    let table = of(IncludeObject::Metadata);
    assert_eq!(table["metadata"], json!({"resourceVersion": "7", "continue": "next", "remainingItemCount": 3}));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(table["rows"][0]["object"]["metadata"]["name"], "x");
    assert_eq!(of(IncludeObject::Object)["rows"][0]["object"], object);
    assert_eq!(of(IncludeObject::None)["rows"][0]["object"], Value::Null);
    let one = |headers| -> Value {
        serde_json::from_slice(&single(resource, &bytes(&object), IncludeObject::None, headers, now()).unwrap())
            .unwrap()
    };
    assert_eq!(one(true)["columnDefinitions"].as_array().unwrap().len(), 3);
    assert_eq!(one(false)["columnDefinitions"], Value::Null);
    assert_eq!(one(false)["metadata"]["resourceVersion"], "5");
}

#[test]
fn custom_columns_follow_their_paths() {
    let columns = CustomColumns::new(&json!([
        {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
        {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status", "priority": 1},
        {"name": "All", "type": "string", "jsonPath": ".spec.names[*]"},
        {"name": "Load", "type": "number", "jsonPath": ".status.load"},
        {"name": "On", "type": "boolean", "jsonPath": ".spec.on"},
        {"name": "Since", "type": "date", "jsonPath": ".status.since"},
        {"name": "Dotted", "type": "string", "jsonPath": ".metadata.annotations.example\\.com/a"},
        {"name": "Map", "type": "string", "jsonPath": ".spec.map"},
        {"name": "Missing", "type": "string", "jsonPath": ".a.b.c"},
    ]))
    .unwrap();
    let object = with_meta(json!({
        "metadata": {"annotations": {"example.com/a": "dotted"}},
        "spec": {"replicas": 3, "names": ["a", "b"], "on": true, "map": {"k": 1}},
        "status": {"conditions": [{"type": "Other", "status": "No"}, {"type": "Ready", "status": "True"}], "load": 0.5, "since": "2024-05-01T11:00:00Z"},
    }));
    let table = write_single(Columns::Custom(&columns), &bytes(&object), IncludeObject::None, true, now()).unwrap();
    let table: Value = serde_json::from_slice(&table).unwrap();
    assert_eq!(
        table["rows"][0]["cells"],
        json!(["x", 3, "True", "a b", 0.5, true, "60m", "dotted", "{\"k\":1}", null])
    );
    assert_eq!(table["columnDefinitions"][2]["priority"], 1);
    let plain = CustomColumns::new(&Value::Null).unwrap();
    let list = ListMeta::default();
    let table: Value = serde_json::from_slice(
        &write_list(Columns::Custom(&plain), list, [&bytes(&object)], IncludeObject::None, now()).unwrap(),
    )
    .unwrap();
    assert_eq!(table["rows"][0]["cells"], json!(["x", "5m"]));
    assert!(CustomColumns::new(&json!([{"name": "Bad", "type": "string", "jsonPath": ".a["}])).is_err());
}

#[test]
fn json_paths_find_what_they_say() {
    let value =
        json!({"a": {"b": [1, 2, 3, {"c": "x"}], "d.e": "dot"}, "list": [{"n": 1, "s": "one"}, {"n": 2, "s": "two"}]});
    for (path, expected) in [
        (".a.b[0]", json!([1])),
        ("{.a.b[-1].c}", json!(["x"])),
        ("$.a.b[0,2]", json!([1, 3])),
        (".a.b[1:3]", json!([2, 3])),
        (".a.b[:1]", json!([1])),
        (".a['d.e']", json!(["dot"])),
        (".a.d\\.e", json!(["dot"])),
        ("..c", json!(["x"])),
        (".list[?(@.n>1)].s", json!(["two"])),
        (".list[?(@.s=='one')].n", json!([1])),
        (".list[?(@.s != 'one')].n", json!([2])),
        (".list[?(@.x)].n", json!([])),
        (".list[*].n", json!([1, 2])),
        (".none[0].x", json!([])),
        (".a.b[99]", json!([])),
        (".list.[1].n", json!([2])),
    ] {
        let found = JsonPath::parse(path).unwrap();
        assert_eq!(json!(found.find(&value)), expected, "{path}");
    }
    for bad in [".a[", "a", ".a[x]", ".a]", ".a[?(b)]", ".a['x]", ".a[?(@.x=)]", &".a".repeat(3000)] {
        assert!(JsonPath::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn large_contents_are_not_built() {
    let object = json!({"metadata": {"managedFields": [1], "annotations": {"a": "b"}, "name": "\u{e9}\"x"}, "data": {"k": "long"}, "binaryData": null});
    let printed = lean::parse(object.to_string().as_bytes(), Keep::Printed).unwrap();
    assert_eq!(printed, json!({"metadata": {"name": "\u{e9}\"x"}, "data": {"k": null}, "binaryData": {}}));
    let everything = lean::parse(object.to_string().as_bytes(), Keep::Everything).unwrap();
    assert_eq!(everything["data"], json!({"k": "long"}));
    assert_eq!(everything["metadata"].get("managedFields"), None);
    assert!(lean::parse(b"{}x", Keep::Printed).is_err());
    assert!(lean::parse(b"", Keep::Printed).is_err());
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![Just(Value::Null), any::<i64>().prop_map(Value::from), ".{0,5}".prop_map(Value::from)];
    leaf.prop_recursive(5, 50, 5, |inner| {
        let key = prop::sample::select(vec![
            "metadata",
            "spec",
            "status",
            "name",
            "labels",
            "containers",
            "containerStatuses",
            "initContainerStatuses",
            "state",
            "terminated",
            "conditions",
            "type",
            "reason",
            "ports",
            "subsets",
            "addresses",
            "endpoints",
            "creationTimestamp",
            "series",
            "data",
            "selector",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..5)
                .prop_map(|m| Value::Object(m.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_panics(object in any_json(), path in "[.\\[\\]{}?(@)=*a-b0-9:'\"\\\\ -]{0,20}") {
        for resource in Catalog::builtin().iter() {
            let printer = Printer::of(resource);
            let row = printer.row(&object, now());
            let columns: Vec<Value> = serde_json::from_str(printer.header()).unwrap();
            prop_assert_eq!(row.cells.len(), columns.len());
        }
        if let Ok(path) = JsonPath::parse(&path) {
            path.find(&object);
        }
    }
}
