//! Deployments, ReplicaSets and Services.

use serde_json::Value;

use super::text::{Text, items, show, time};
use super::{pods, selector_text};
use crate::verbs::output::name;

/// A Deployment; `sets` are its ReplicaSets.
pub fn deployment(text: &mut Text, object: &Value, sets: &[Value]) {
    let (meta, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    text.pair(0, "CreationTimestamp", time(&meta["creationTimestamp"]));
    text.labels(meta);
    text.pair(0, "Selector", selector_text(&spec["selector"]));
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    text.pair(
        0,
        "Replicas",
        format!(
            "{} desired | {} updated | {} total | {} available | {} unavailable",
            spec["replicas"].as_i64().unwrap_or(1),
            count("updatedReplicas"),
            count("replicas"),
            count("availableReplicas"),
            count("unavailableReplicas")
        ),
    );
    text.pair(0, "StrategyType", show(&spec["strategy"]["type"]));
    text.pair(0, "MinReadySeconds", spec["minReadySeconds"].as_i64().unwrap_or(0).to_string());
    let rolling = &spec["strategy"]["rollingUpdate"];
    if rolling.is_object() {
        text.pair(
            0,
            "RollingUpdateStrategy",
            format!("{} max unavailable, {} max surge", show(&rolling["maxUnavailable"]), show(&rolling["maxSurge"])),
        );
    }
    pods::template(text, &spec["template"]);
    conditions(text, status);
    let template = without_hash(&spec["template"]);
    let (new, old): (Vec<&Value>, Vec<&Value>) =
        sets.iter().partition(|set| without_hash(&set["spec"]["template"]) == template);
    let old = old.into_iter().filter(|set| {
        set["spec"]["replicas"].as_i64().unwrap_or(0) > 0 || set["status"]["replicas"].as_i64().unwrap_or(0) > 0
    });
    text.pair(0, "OldReplicaSets", created(old));
    text.pair(0, "NewReplicaSet", created(new.into_iter()));
}

fn created<'a>(sets: impl Iterator<Item = &'a Value>) -> String {
    let all: Vec<String> = sets
        .map(|set| {
            let (has, wants) =
                (set["status"]["replicas"].as_i64().unwrap_or(0), set["spec"]["replicas"].as_i64().unwrap_or(0));
            format!("{} ({has}/{wants} replicas created)", name(set))
        })
        .collect();
    if all.is_empty() { "<none>".to_owned() } else { all.join(", ") }
}

fn without_hash(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove("pod-template-hash");
    }
    template
}

/// A ReplicaSet; `owned` are its pods.
pub fn replica_set(text: &mut Text, object: &Value, owned: &[Value]) {
    let (meta, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    text.pair(0, "Selector", selector_text(&spec["selector"]));
    text.labels(meta);
    if let Some(owner) = items(meta, "ownerReferences").iter().find(|owner| owner["controller"] == true) {
        text.pair(0, "Controlled By", format!("{}/{}", show(&owner["kind"]), show(&owner["name"])));
    }
    text.pair(
        0,
        "Replicas",
        format!(
            "{} current / {} desired",
            status["replicas"].as_i64().unwrap_or(0),
            spec["replicas"].as_i64().unwrap_or(1)
        ),
    );
    let in_phase = |phase: &str| owned.iter().filter(|pod| pod["status"]["phase"] == phase).count();
    text.pair(
        0,
        "Pods Status",
        format!(
            "{} Running / {} Waiting / {} Succeeded / {} Failed",
            in_phase("Running"),
            in_phase("Pending"),
            in_phase("Succeeded"),
            in_phase("Failed")
        ),
    );
    pods::template(text, &spec["template"]);
    conditions(text, status);
}

fn conditions(text: &mut Text, status: &Value) {
    let rows: Vec<Vec<String>> = items(status, "conditions")
        .iter()
        .map(|condition| ["type", "status", "reason"].map(|field| show(&condition[field])).to_vec())
        .collect();
    if !rows.is_empty() {
        text.line(0, "Conditions:");
        text.table(1, &["Type", "Status", "Reason"], &rows);
    }
}

/// A Service; `slices` are its EndpointSlices.
pub fn service(text: &mut Text, object: &Value, slices: &[Value]) {
    let (meta, spec) = (&object["metadata"], &object["spec"]);
    text.labels(meta);
    let selector: Vec<String> = spec["selector"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", show(value)))
        .collect();
    text.pair(0, "Selector", if selector.is_empty() { "<none>".to_owned() } else { selector.join(",") });
    text.pair(0, "Type", show(&spec["type"]));
    text.pair(0, "IP Family Policy", show(&spec["ipFamilyPolicy"]));
    text.pair(0, "IP Families", joined(items(spec, "ipFamilies")));
    text.pair(0, "IP", show(&spec["clusterIP"]));
    text.pair(0, "IPs", joined(items(spec, "clusterIPs")));
    for port in items(spec, "ports") {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        let name = port["name"].as_str().unwrap_or("<unset>");
        text.line(0, format!("Port:\t{name}\t{}/{protocol}", show(&port["port"])));
        let target = if port["targetPort"].is_null() { &port["port"] } else { &port["targetPort"] };
        text.line(0, format!("TargetPort:\t{}/{protocol}", show(target)));
        if port["nodePort"].as_i64().is_some_and(|port| port > 0) {
            text.line(0, format!("NodePort:\t{name}\t{}/{protocol}", show(&port["nodePort"])));
        }
        text.pair(0, "Endpoints", endpoints(slices, port["name"].as_str().unwrap_or_default()));
    }
    text.pair(0, "Session Affinity", show(&spec["sessionAffinity"]));
    if let Some(policy) = spec["internalTrafficPolicy"].as_str() {
        text.pair(0, "Internal Traffic Policy", policy);
    }
}

fn joined(values: &[Value]) -> String {
    let all: Vec<String> = values.iter().map(show).collect();
    if all.is_empty() { "<none>".to_owned() } else { all.join(",") }
}

/// The ready addresses behind a port; three are shown, the others counted.
fn endpoints(slices: &[Value], port_name: &str) -> String {
    let mut all = Vec::new();
    for slice in slices {
        let port = items(slice, "ports").iter().find(|port| port["name"].as_str().unwrap_or_default() == port_name);
        let Some(port) = port.and_then(|port| port["port"].as_i64()) else { continue };
        for endpoint in items(slice, "endpoints").iter().filter(|endpoint| endpoint["conditions"]["ready"] != false) {
            all.extend(items(endpoint, "addresses").iter().map(|address| match show(address) {
                address if address.contains(':') => format!("[{address}]:{port}"),
                address => format!("{address}:{port}"),
            }));
        }
    }
    match all.len() {
        0 => "<none>".to_owned(),
        1..=3 => all.join(","),
        more => format!("{} + {} more...", all[..3].join(","), more - 3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn endpoints_are_shown_per_port() {
        let endpoint = |address: &str, ready: bool| json!({"addresses": [address], "conditions": {"ready": ready}});
        let slices = [json!({
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [endpoint("10.0.0.1", true), endpoint("10.0.0.2", false), endpoint("fd00::1", true)],
        })];
        assert_eq!(endpoints(&slices, "http"), "10.0.0.1:8080,[fd00::1]:8080");
        assert_eq!(endpoints(&slices, "other"), "<none>");
    }

    #[test]
    fn the_new_replica_set_is_the_one_with_the_template() {
        let set = |name: &str, image: &str, replicas: i64| {
            json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "template": {
                "metadata": {"labels": {"a": "b", "pod-template-hash": name}}, "spec": {"image": image}}}, "status": {"replicas": replicas}})
        };
        let deployment_object =
            json!({"spec": {"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"image": "2"}}}});
        let mut text = Text::default();
        deployment(&mut text, &deployment_object, &[set("one", "1", 1), set("two", "2", 3), set("zero", "0", 0)]);
        let text = text.aligned();
        assert!(
            text.contains(
                "OldReplicaSets:    one (1/1 replicas created)\nNewReplicaSet:     two (3/3 replicas created)"
            ),
            "{text}"
        );
    }
}
