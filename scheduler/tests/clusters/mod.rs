//! Random clusters as objects of the API, with a question about each.
#![allow(dead_code)] // Each test uses a part of it.

pub mod api;
pub mod scheduler;

use serde_json::{Value, json};

use super::random::Random;

const ZONES: [&str; 3] = ["a", "b", "c"];
const APPS: [&str; 3] = ["web", "db", "job"];

/// A cluster and what is asked about it.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// All objects; pods in the order in which they were made.
    pub objects: Vec<Value>,
    /// What is asked about, as it stands in a review.
    pub workloads: Vec<Value>,
    pub drained: Vec<String>,
    /// The nodes of the zone that is lost.
    pub gone: Vec<String>,
    pub added: Vec<Value>,
    what_if: Value,
}

impl Cluster {
    pub fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        let objects = self.objects.iter();
        let kind = kind.to_owned();
        objects.filter(move |object| object["kind"] == *kind)
    }

    pub fn pods(&self) -> impl Iterator<Item = &Value> {
        self.of_kind("Pod")
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Value> {
        self.of_kind("Node")
    }

    pub fn question(&self) -> Value {
        json!({"workloads": self.workloads, "whatIf": self.what_if})
    }
}

/// An object's name.
pub fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

/// A UID made from a text, in the usual form.
pub fn uid(text: &str) -> String {
    let hash = |seed: u64| text.bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let digits = format!("{:016x}{:016x}", hash(0xcbf2_9ce4_8422_2325), hash(0x9e37_79b9_7f4a_7c15));
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

pub fn owner(kind: &str, name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid(name), "controller": true})
}

/// A pod of a template as the API would complete it.
pub fn complete(template: &Value) -> Value {
    let mut pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {}, "status": {"phase": "Pending"}});
    if let Some(labels) = template["metadata"].get("labels") {
        pod["metadata"]["labels"] = labels.clone();
    }
    pod["metadata"]["namespace"] = json!("default");
    pod["spec"] = template["spec"].clone();
    if pod["spec"]["schedulerName"].is_null() {
        pod["spec"]["schedulerName"] = json!("default-scheduler");
    }
    pod
}

/// The cluster of a seed.
pub fn generate(seed: u64) -> Cluster {
    let random = &mut Random::new(seed);
    let devices = random.chance(1, 6);
    let mut cluster = Cluster::default();
    cluster.objects.push(
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default", "labels": {"team": "x"}}}),
    );
    let names: Vec<String> = (0..random.within(1, 8)).map(|index| format!("node-{index}")).collect();
    for name in &names {
        let node = node(random, name, devices);
        cluster.objects.push(node);
    }
    services(random, &mut cluster);
    volumes(random, &mut cluster);
    groups(random, &mut cluster);
    queues(random, &mut cluster);
    for index in 0..random.within(0, 14) {
        let mut pod = complete(&json!({"metadata": metadata(random), "spec": spec(random, devices)}));
        let name = format!("pod-{index}");
        (pod["metadata"]["name"], pod["metadata"]["uid"]) = (json!(name), json!(uid(&name)));
        pod["metadata"]["resourceVersion"] = json!("1");
        if random.chance(2, 3) {
            pod["metadata"]["ownerReferences"] = json!([owner("ReplicaSet", random.pick(&["web", "db", "other"]))]);
        }
        if random.chance(5, 6) {
            pod["spec"]["nodeName"] = json!(random.pick(&names));
            pod["status"]["startTime"] = json!(format!("2026-01-02T03:04:{:02}Z", random.below(60)));
        }
        cluster.objects.push(pod);
    }
    for index in 0..random.within(0, 2) {
        let app = random.pick(&APPS);
        cluster.objects.push(json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": format!("budget-{index}"), "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": app}}}, "status": {"disruptionsAllowed": random.below(2)}}));
    }
    for index in 0..random.within(1, 3) {
        let metadata = metadata(random);
        let selector = random.chance(1, 2).then(|| json!({"matchLabels": metadata["labels"]}));
        cluster.workloads.push(json!({
            "name": format!("new-{index}"), "namespace": "default", "count": random.within(1, 5),
            "selector": selector, "template": {"metadata": metadata, "spec": spec(random, devices)}}));
    }
    what_if(random, &mut cluster, &names);
    cluster
}

fn what_if(random: &mut Random, cluster: &mut Cluster, names: &[String]) {
    match random.below(5) {
        0 => {
            let mut drained: Vec<String> = random.several(1, 2, |random| random.pick(names));
            drained.sort();
            drained.dedup();
            cluster.what_if = json!({"drain": drained});
            cluster.drained = drained;
        }
        1 => {
            let zone = random.pick(&ZONES);
            let is_there = |node: &&Value| node["metadata"]["labels"]["topology.kubernetes.io/zone"] == zone;
            cluster.gone = cluster
                .nodes()
                .filter(is_there)
                .map(|node| node["metadata"]["name"].as_str().unwrap().to_owned())
                .collect();
            if !cluster.gone.is_empty() {
                cluster.what_if = json!({"loseZones": [zone]});
            }
        }
        2 => {
            let like = random.pick(names);
            let count = random.within(1, 3);
            cluster.what_if = json!({"add": [{"like": like, "count": count}]});
            let model = cluster.nodes().find(|node| node["metadata"]["name"] == like).unwrap().clone();
            for number in 1..=count {
                let mut node = model.clone();
                let name = format!("{like}-like-{number}");
                node["metadata"]["name"] = json!(name);
                node["metadata"]["labels"]["kubernetes.io/hostname"] = json!(name);
                node["spec"].as_object_mut().unwrap().remove("unschedulable");
                cluster.added.push(node);
            }
        }
        _ => {}
    }
}

fn node(random: &mut Random, name: &str, devices: bool) -> Value {
    let mut allocatable = json!({"cpu": format!("{}", random.within(1, 4)), "memory": format!("{}Gi", random.within(2, 8)),
        "pods": format!("{}", random.within(2, 10))});
    if devices && random.chance(2, 3) {
        let count = random.within(1, 4);
        allocatable["nvidia.com/gpu"] = json!(count.to_string());
        allocatable["gantry.io/gpu-milli"] = json!((count * 1_000).to_string());
    }
    let mut spec = json!({});
    if random.chance(1, 6) {
        let effect = random.pick(&["NoSchedule", "PreferNoSchedule"]);
        spec["taints"] = json!([{"key": "dedicated", "value": "x", "effect": effect}]);
    }
    if random.chance(1, 10) {
        spec["unschedulable"] = json!(true);
    }
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "disk": random.pick(&["ssd", "hdd"]),
            "topology.kubernetes.io/zone": random.pick(&ZONES)}},
        "spec": spec, "status": {"allocatable": allocatable}})
}

fn services(random: &mut Random, cluster: &mut Cluster) {
    for app in APPS {
        if random.chance(1, 3) {
            cluster.objects.push(json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": app, "namespace": "default"}, "spec": {"selector": {"app": app}}}));
        }
    }
    for name in ["web", "db"] {
        cluster.objects.push(json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": name, "namespace": "default"}, "spec": {"selector": {"matchLabels": {"app": name}}}}));
    }
}

/// A claim whose volume is in one zone.
fn volumes(random: &mut Random, cluster: &mut Cluster) {
    let zone = random.pick(&ZONES);
    cluster.objects.push(json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": "disk", "resourceVersion": "1"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "claimRef": {"namespace": "default", "name": "data", "uid": uid("data")},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "topology.kubernetes.io/zone", "operator": "In", "values": [zone]}]}]}}},
        "status": {"phase": "Bound"}}));
    cluster.objects.push(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": "default", "uid": uid("data"), "resourceVersion": "1",
            "annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
        "spec": {"volumeName": "disk", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Bound"}}));
}

fn metadata(random: &mut Random) -> Value {
    let mut labels = json!({"app": random.pick(&APPS)});
    if random.chance(1, 8) {
        labels["scheduling.x-k8s.io/pod-group"] = json!(random.pick(&["pair", "trio", "missing"]));
    }
    if random.chance(1, 6) {
        labels["scheduling.gantry.io/queue"] = json!(random.pick(&["left", "right", "none"]));
    }
    json!({"labels": labels})
}

fn queues(random: &mut Random, cluster: &mut Cluster) {
    let mut amount = |low| json!({"cpu": random.within(low, 4).to_string()});
    let specs = [
        ("top", json!({"limit": amount(3)})),
        ("left", json!({"parent": "top", "guarantee": amount(1)})),
        ("right", json!({"parent": "top", "weight": 2, "limit": amount(1), "guarantee": {"pods": "1"}})),
    ];
    for (name, spec) in specs {
        cluster.objects.push(json!({"apiVersion": "scheduling.gantry.io/v1alpha1", "kind": "Queue",
            "metadata": {"name": name}, "spec": spec}));
    }
}

fn groups(random: &mut Random, cluster: &mut Cluster) {
    for (name, min_member) in [("pair", 2), ("trio", 3)] {
        let mut spec = json!({"minMember": min_member});
        if random.chance(1, 4) {
            spec["scheduleTimeoutSeconds"] = json!(20);
        }
        cluster.objects.push(json!({"apiVersion": "scheduling.x-k8s.io/v1alpha1", "kind": "PodGroup",
            "metadata": {"name": name, "namespace": "default"}, "spec": spec}));
    }
}

fn spec(random: &mut Random, devices: bool) -> Value {
    let mut requests = json!({"cpu": format!("{}m", random.within(1, 15) * 100)});
    if random.chance(1, 3) {
        requests["memory"] = json!(format!("{}Gi", random.within(1, 3)));
    }
    if devices && random.chance(1, 2) {
        let (name, amount) =
            random.pick(&[("nvidia.com/gpu", 1), ("gantry.io/gpu-milli", 400), ("gantry.io/gpu-milli", 700)]);
        requests[name] = json!(amount.to_string());
    }
    let mut container = json!({"name": "main", "image": "i", "resources": {"requests": requests}});
    if random.chance(1, 12) {
        container["ports"] = json!([{"containerPort": 80, "hostPort": 80}]);
    }
    let mut spec = json!({"containers": [container], "priority": random.pick(&[0, 0, 0, 10, 100])});
    if random.chance(1, 8) {
        spec["preemptionPolicy"] = json!("Never");
    }
    if random.chance(1, 6) {
        spec["nodeSelector"] = json!({"disk": random.pick(&["ssd", "hdd", "none"])});
    }
    if random.chance(1, 4) {
        spec["tolerations"] = json!([{"key": "dedicated", "operator": "Exists"}]);
    }
    if random.chance(1, 6) {
        spec["schedulerName"] = json!("roomy");
    }
    if random.chance(1, 12) {
        spec["volumes"] =
            json!([{"name": "v", "persistentVolumeClaim": {"claimName": random.pick(&["data", "missing"])}}]);
    }
    if random.chance(1, 15) {
        spec["schedulingGates"] = json!([{"name": "later"}]);
    }
    let selector = |random: &mut Random| json!({"matchLabels": {"app": random.pick(&APPS)}});
    let key = |random: &mut Random| random.pick(&["kubernetes.io/hostname", "topology.kubernetes.io/zone"]);
    if random.chance(1, 5) {
        spec["topologySpreadConstraints"] = json!([{"maxSkew": random.within(1, 2), "topologyKey": key(random),
            "whenUnsatisfiable": random.pick(&["DoNotSchedule", "ScheduleAnyway"]), "labelSelector": selector(random)}]);
    }
    if random.chance(1, 4) {
        let part = random.pick(&["podAffinity", "podAntiAffinity"]);
        let term = json!({"topologyKey": key(random), "labelSelector": selector(random)});
        spec["affinity"] = if random.chance(2, 3) {
            json!({part: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}})
        } else {
            json!({part: {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 50, "podAffinityTerm": term}]}})
        };
    }
    spec
}
