//! Where pods go, with the real API server, controllers and scheduler. Nodes are objects that nobody runs.

use std::sync::Arc;
use std::time::Duration;

use gantry_integration_tests::shared::Shared;
use gantry_integration_tests::{Cluster, Options, command, docs, eventually};
use serde_json::{Value, json};

static CLUSTER: Shared = Shared::with(|| Options { without_agent: true, ..Options::default() });

const MINUTE: Duration = Duration::from_secs(60);

fn cluster() -> Option<Arc<Cluster>> {
    CLUSTER.get()
}

/// A node with a group of its own, so that tests don't share any.
fn node(cluster: &Cluster, name: &str, group: &str, cpu: &str) {
    let labels = json!({"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "group": group});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
    cluster.kubectl_with(&["create", "-f", "-"], node.to_string().as_bytes()).ok();
    let status = json!({"status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "20"},
        "capacity": {"cpu": cpu, "memory": "8Gi", "pods": "20"}}});
    cluster.kubectl(&["patch", "node", name, "--subresource=status", "--type=merge", "-p", &status.to_string()]).ok();
}

fn pod_spec(group: &str, cpu: &str) -> Value {
    // Nobody says that the node is well.
    json!({"nodeSelector": {"group": group}, "tolerations": [{"operator": "Exists"}], "containers": [
        {"name": "main", "image": "gantry.local/busybox:1.35", "resources": {"requests": {"cpu": cpu}}}]})
}

fn pod(name: &str, group: &str, cpu: &str, class: &str) -> String {
    let mut spec = pod_spec(group, cpu);
    if !class.is_empty() {
        spec["priorityClassName"] = json!(class);
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string()
}

fn priority_class(cluster: &Cluster, name: &str, value: i32, policy: &str) {
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
        "value": value, "preemptionPolicy": policy});
    cluster.kubectl_with(&["create", "-f", "-"], class.to_string().as_bytes()).ok();
}

/// Waits until a pod is as wanted.
fn pod_becomes(cluster: &Cluster, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("{name}: {what}"), MINUTE, || {
        let pod = cluster.object(&["pod", name])?;
        if wanted(&pod) { Ok(pod) } else { Err(pod["status"].to_string()) }
    })
}

fn is_on(node: &str) -> impl Fn(&Value) -> bool + '_ {
    move |pod| pod["spec"]["nodeName"] == node
}

fn says(pod: &Value, text: &str) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|one| one["message"].as_str().is_some_and(|message| message.contains(text)))
}

#[test]
fn pods_that_matter_more_take_the_room_of_others() {
    let Some(cluster) = cluster() else { return };
    node(&cluster, "full-1", "full", "2");
    node(&cluster, "full-2", "full", "2");
    priority_class(&cluster, "high", 1_000, "PreemptLowerPriority");
    priority_class(&cluster, "polite", 900, "Never");
    priority_class(&cluster, "middle", 100, "PreemptLowerPriority");
    let create = |text: String| cluster.kubectl_with(&["create", "-f", "-"], text.as_bytes()).ok();
    create(pod("a", "full", "1500m", ""));
    pod_becomes(&cluster, "a", "is on the first node", is_on("full-1"));
    create(pod("b", "full", "1500m", "middle"));
    pod_becomes(&cluster, "b", "is on the second node", is_on("full-2"));

    create(pod("polite", "full", "1", "polite"));
    pod_becomes(&cluster, "polite", "waits", |pod| {
        says(pod, "preemption: not eligible due to preemptionPolicy=Never.")
    });
    create(pod("big", "full", "3", "high"));
    pod_becomes(&cluster, "big", "cannot be helped", |pod| {
        // Tests of other groups of nodes run beside this one.
        says(pod, "2 Insufficient cpu") && says(pod, " Preemption is not helpful for scheduling.")
    });

    create(pod("urgent", "full", "1", "high"));
    let waiting = pod_becomes(&cluster, "urgent", "waits for the first node", |pod| {
        pod["status"]["nominatedNodeName"] == "full-1"
    });
    assert!(waiting["spec"]["nodeName"].is_null(), "the other is still there: {waiting}");
    pod_becomes(&cluster, "a", "has to go", |pod| {
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let marked =
            conditions.iter().any(|one| one["type"] == "DisruptionTarget" && one["reason"] == "PreemptionByScheduler");
        marked && pod["metadata"]["deletionTimestamp"].is_string()
    });
    // There is no agent to end it.
    cluster.kubectl(&["delete", "pod", "a", "--force", "--grace-period=0"]).ok();
    let bound = pod_becomes(&cluster, "urgent", "has the room", is_on("full-1"));
    assert!(bound["status"]["nominatedNodeName"].is_null(), "it waits no more: {bound}");
    let spared = cluster.object(&["pod", "b"]).unwrap();
    assert!(spared["metadata"]["deletionTimestamp"].is_null(), "one was enough: {spared}");
    let uid = bound["metadata"]["uid"].as_str().unwrap_or_default();
    eventually("the event that the page shows", MINUTE, || {
        let page = docs::Page::read("scheduling.md");
        let told: String = page
            .section("Pods that matter more")
            .into_iter()
            .map(|text| command::run(cluster.shell(&[], &[]).args(["-euc", text]), b"").ok())
            .collect();
        let wanted = format!("Preempted by pod {uid} on node full-1");
        if told.contains(&wanted) { Ok(()) } else { Err(told) }
    });
}

#[test]
fn pods_of_one_owner_are_spread_and_systems_are_told_apart() {
    let Some(cluster) = cluster() else { return };
    for name in ["wide-1", "wide-2", "wide-3"] {
        node(&cluster, name, "wide", "8");
    }
    let labels = json!({"app": "wide"});
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "wide"}, "spec": {
        "replicas": 6, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod_spec("wide", "100m")}}});
    cluster.kubectl_with(&["create", "-f", "-"], set.to_string().as_bytes()).ok();
    let nodes = eventually("six pods with nodes", MINUTE, || {
        let pods = cluster.object(&["pods", "-l", "app=wide"])?;
        let all = pods["items"].as_array().cloned().unwrap_or_default();
        let mut nodes: Vec<_> =
            all.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).map(String::from).collect();
        nodes.sort();
        if nodes.len() == 6 { Ok(nodes) } else { Err(format!("{nodes:?}")) }
    });
    assert_eq!(nodes, ["wide-1", "wide-1", "wide-2", "wide-2", "wide-3", "wide-3"]);

    let mut other: Value = serde_json::from_str(&pod("other", "wide", "100m", "")).unwrap();
    other["spec"]["os"] = json!({"name": "windows"});
    cluster.kubectl_with(&["create", "-f", "-"], other.to_string().as_bytes()).ok();
    pod_becomes(&cluster, "other", "has no node", |pod| says(pod, " node(s) didn't match the pod's operating system"));
}

fn create(cluster: &Cluster, object: Value) {
    cluster.kubectl_with(&["create", "-f", "-"], object.to_string().as_bytes()).ok();
}

fn volume(name: &str, class: &str, node: &str) -> Value {
    let expression = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [node]});
    json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {
        "storageClassName": class, "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain", "local": {"path": "/data"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}})
}

fn claim(name: &str, class: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": {
        "storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
}

/// Waits until a claim or a volume is in a phase.
fn comes_to(cluster: &Cluster, kind: &str, name: &str, phase: &str) -> Value {
    eventually(&format!("{kind} {name}: {phase}"), MINUTE, || {
        let object = cluster.object(&[kind, name])?;
        if object["status"]["phase"] == phase { Ok(object) } else { Err(object["status"].to_string()) }
    })
}

#[test]
fn pods_go_where_their_volumes_are_and_claims_get_their_volumes_with_the_node() {
    let Some(cluster) = cluster() else { return };
    for name in ["disk-1", "disk-2"] {
        node(&cluster, name, "disk", "2");
    }
    // A claim whose class does not wait has its volume before there is a pod.
    create(&cluster, volume("plain", "plain", "disk-2"));
    create(&cluster, claim("plain", "plain"));
    comes_to(&cluster, "pvc", "plain", "Bound");
    comes_to(&cluster, "pv", "plain", "Bound");

    create(
        &cluster,
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "late"},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}),
    );
    create(&cluster, claim("late", "late"));
    let user = |name: &str, claim: &str| {
        let mut pod: Value = serde_json::from_str(&pod(name, "disk", "100m", "")).unwrap();
        pod["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]);
        pod
    };
    create(&cluster, user("of-late", "late"));
    pod_becomes(&cluster, "of-late", "has no volume", |pod| {
        says(pod, "2 node(s) didn't find available persistent volumes to bind")
    });
    create(&cluster, volume("late", "late", "disk-2"));
    pod_becomes(&cluster, "of-late", "is where the volume is", is_on("disk-2"));
    assert_eq!(comes_to(&cluster, "pvc", "late", "Bound")["spec"]["volumeName"], "late");
    create(&cluster, user("of-plain", "plain"));
    pod_becomes(&cluster, "of-plain", "is where the volume is", is_on("disk-2"));
    create(&cluster, user("of-none", "none"));
    pod_becomes(&cluster, "of-none", "waits for its claim", |pod| {
        says(pod, "persistentvolumeclaim \"none\" not found")
    });

    // A claim outlives its deletion while a pod uses it, and its volume is kept.
    cluster.kubectl(&["delete", "pvc", "late", "--wait=false"]).ok();
    let held = cluster.object(&["pvc", "late"]).unwrap();
    assert!(held["metadata"]["deletionTimestamp"].is_string(), "{held}");
    cluster.kubectl(&["delete", "pod", "of-late", "--force", "--grace-period=0"]).ok();
    eventually("the claim to go", MINUTE, || match cluster.object(&["pvc", "late"]) {
        Err(error) if error.contains("NotFound") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    comes_to(&cluster, "pv", "late", "Released");
}

#[test]
fn a_group_gets_nodes_for_all_of_its_pods_or_for_none() {
    let Some(cluster) = cluster() else { return };
    node(&cluster, "gang-1", "gang", "6");
    let text = std::fs::read_to_string(docs::root().join("docs/scheduling.md")).expect("the page is there");
    let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0));
    let example = blocks.into_iter().find(|block| block.contains("kind: PodGroup")).expect("the page shows a group");
    // Nobody says that the node is well, and the nodes of other tests are not for these pods.
    let places = "      nodeSelector: {group: gang}\n      tolerations: [{operator: Exists}]\n      containers:\n";
    let example = example.replace("      containers:\n", places);

    let pods = |wanted: &dyn Fn(&Value) -> bool| {
        let list = cluster.object(&["pods", "-l", "app=training"])?;
        let all = list["items"].as_array().cloned().unwrap_or_default();
        if all.len() == 4 && all.iter().all(wanted) { Ok(()) } else { Err(list.to_string()) }
    };
    let why = "PodGroup \"training\": 3 of 4 needed pods fit: ";
    eventually("the plan says so", MINUTE, || {
        let told = cluster.gantry_with(&["plan", "-f", "-"], example.as_bytes());
        if told.stdout.matches(why).count() == 4 { Ok(()) } else { Err(format!("{told}")) }
    });
    cluster.kubectl_with(&["create", "-f", "-"], example.as_bytes()).ok();
    eventually("four pods that wait", MINUTE, || pods(&|pod| says(pod, why) && pod["spec"]["nodeName"].is_null()));
    eventually("the events that the page shows", MINUTE, || {
        let page = docs::Page::read("scheduling.md");
        let section = page.section("Pods that are of use only together").concat();
        let told = command::run(cluster.shell(&[], &[]).args(["-euc", &section]), b"").ok();
        if told.contains(why) { Ok(()) } else { Err(told) }
    });
    let none = json!({"apiVersion": "scheduling.x-k8s.io/v1alpha1", "kind": "PodGroup", "metadata": {"name": "none"},
        "spec": {"minMember": 0}});
    let refused = cluster.kubectl_with(&["create", "-f", "-"], none.to_string().as_bytes());
    assert!(refused.stderr.contains("spec.minMember: Invalid value: 0"), "{refused}");

    node(&cluster, "gang-2", "gang", "2");
    eventually("nodes for all", MINUTE, || pods(&|pod| pod["spec"]["nodeName"].is_string()));
    eventually("the group's phase", MINUTE, || {
        let told = cluster.kubectl(&["get", "podgroups", "training"]).stdout;
        let words: Vec<&str> = told.lines().nth(1).unwrap_or_default().split_whitespace().collect();
        if words.starts_with(&["training", "Scheduled", "4", "4", "0", "0", "0"]) { Ok(()) } else { Err(told) }
    });
}

#[test]
fn others_make_room_for_a_group_if_all_of_it_then_fits() {
    let Some(cluster) = cluster() else { return };
    node(&cluster, "crowd-1", "crowd", "2");
    priority_class(&cluster, "of-a-crowd", 500, "PreemptLowerPriority");
    let create = |text: String| cluster.kubectl_with(&["create", "-f", "-"], text.as_bytes()).ok();
    create(pod("crowd-filler", "crowd", "1500m", ""));
    pod_becomes(&cluster, "crowd-filler", "is on the node", is_on("crowd-1"));
    let group = |min: i32| {
        json!({"apiVersion": "scheduling.x-k8s.io/v1alpha1", "kind": "PodGroup", "metadata": {"name": "crowd"},
            "spec": {"minMember": min}})
        .to_string()
    };
    create(group(3));
    for name in ["crowd-a", "crowd-b", "crowd-c"] {
        let mut member: Value = serde_json::from_str(&pod(name, "crowd", "1", "of-a-crowd")).expect("a pod");
        member["metadata"]["labels"] = json!({"scheduling.x-k8s.io/pod-group": "crowd"});
        create(member.to_string());
    }
    pod_becomes(&cluster, "crowd-a", "waits", |pod| says(pod, "PodGroup \"crowd\": 0 of 3 needed pods fit: "));
    let spared = cluster.object(&["pod", "crowd-filler"]).expect("the pod is there");
    assert!(spared["metadata"]["deletionTimestamp"].is_null(), "two of three are not enough: {spared}");

    cluster.kubectl_with(&["apply", "-f", "-"], group(2).as_bytes()).ok();
    pod_becomes(&cluster, "crowd-filler", "has to go", |pod| pod["metadata"]["deletionTimestamp"].is_string());
    cluster.kubectl(&["delete", "pod", "crowd-filler", "--force", "--grace-period=0"]).ok();
    eventually("two of the group on the node", MINUTE, || {
        let list = cluster.object(&["pods", "-l", "scheduling.x-k8s.io/pod-group=crowd"])?;
        let bound = list["items"].as_array().into_iter().flatten().filter(|pod| is_on("crowd-1")(pod)).count();
        if bound == 2 { Ok(()) } else { Err(list.to_string()) }
    });
}

#[test]
fn a_queue_gets_no_more_than_its_limit_and_says_what_it_uses() {
    let Some(cluster) = cluster() else { return };
    node(&cluster, "shared-1", "shared", "8");
    let text = std::fs::read_to_string(docs::root().join("docs/queues.md")).expect("the page is there");
    let queues = text.split("```yaml\n").nth(1).and_then(|rest| Some(rest.split_once("```")?.0)).expect("queues");
    cluster.kubectl_with(&["create", "-f", "-"], queues.as_bytes()).ok();
    cluster.kubectl(&["create", "namespace", "sharing"]).ok();
    let page = docs::Page::read("queues.md");
    // The namespace of the other tests stays as it is.
    let typed = |section: &str| {
        let commands = page.section(section).concat().replace("namespace default", "namespace sharing");
        let commands = commands.replace("get events", "get events -n sharing");
        command::run(cluster.shell(&[], &[]).args(["-euc", &commands]), b"").ok()
    };
    let told = typed("Share a cluster: queues");
    let vision = told.lines().find(|line| line.starts_with("vision")).unwrap_or_default();
    for part in ["research", "cpu: 4", "cpu: 6"] {
        assert!(vision.contains(part), "{told}");
    }

    for number in 1..=4 {
        let mut made: Value = serde_json::from_str(&pod(&format!("seer-{number}"), "shared", "2", "")).expect("a pod");
        made["metadata"]["labels"] = json!({"scheduling.gantry.io/queue": "vision"});
        cluster.kubectl_with(&["create", "-n", "sharing", "-f", "-"], made.to_string().as_bytes()).ok();
    }
    let bound = || -> Result<Vec<Value>, String> {
        let list = cluster.object(&["pods", "-n", "sharing"])?;
        let all = list["items"].as_array().cloned().unwrap_or_default();
        Ok(all.into_iter().filter(|pod| pod["spec"]["nodeName"] == "shared-1").collect())
    };
    let why = "queue \"vision\" is at its limit: cpu: requested 2, used 6, limited 6";
    eventually("three pods on the node and one that waits", MINUTE, || {
        let told = typed("Who waits");
        if bound()?.len() == 3 && told.contains(why) { Ok(()) } else { Err(told) }
    });
    eventually("what the queues use", MINUTE, || {
        let used = |name: &str| cluster.object(&["queue", name]).map(|queue| queue["status"].clone());
        let (vision, research) = (used("vision")?, used("research")?);
        let is_told = vision["used"]["cpu"] == "6" && vision["placed"] == 3 && vision["waiting"] == 1;
        let is_usable = vision["conditions"][0]["type"] == "Usable" && vision["conditions"][0]["status"] == "True";
        if is_told && is_usable && research["used"]["cpu"] == "6" {
            Ok(())
        } else {
            Err(format!("{vision} {research}"))
        }
    });

    // A pod that names no queue is in that of its namespace, which has no limit.
    let plain = pod("plain", "shared", "1", "");
    cluster.kubectl_with(&["create", "-n", "sharing", "-f", "-"], plain.as_bytes()).ok();
    eventually("the queue of the namespace", MINUTE, || {
        let status = cluster.object(&["queue", "speech"])?["status"].clone();
        if status["used"]["cpu"] == "1" { Ok(()) } else { Err(status.to_string()) }
    });
    let placed = bound().expect("pods");
    let mut names = placed.iter().filter_map(|pod| pod["metadata"]["name"].as_str());
    let gone = names.find(|name| name.starts_with("seer-")).expect("one of the queue that is at its limit");
    cluster.kubectl(&["delete", "pod", "-n", "sharing", gone, "--force", "--grace-period=0"]).ok();
    eventually("the room that was left", MINUTE, || {
        let now = bound()?;
        if now.len() == 4 { Ok(()) } else { Err(format!("{now:?}")) }
    });

    let refused = |spec: Value| {
        let queue = json!({"apiVersion": "scheduling.gantry.io/v1alpha1", "kind": "Queue", "metadata": {"name": "odd"},
            "spec": spec});
        cluster.kubectl_with(&["create", "-f", "-"], queue.to_string().as_bytes()).stderr
    };
    let more = refused(json!({"guarantee": {"cpu": "2"}, "limit": {"cpu": "1"}}));
    assert!(
        more.contains("spec.limit[cpu]: Invalid value: \"1\": must be greater than or equal to the guarantee"),
        "{more}"
    );
    let own = refused(json!({"parent": "odd"}));
    assert!(own.contains("spec.parent: Invalid value: \"odd\": must not be the queue itself"), "{own}");
    let none = refused(json!({"weight": 0}));
    assert!(none.contains("spec.weight: Invalid value: 0"), "{none}");
}
