//! `kill -9` of everything in the middle of a roll-out: nothing acknowledged is lost and nothing that runs is restarted.

use std::collections::BTreeMap;
use std::time::Duration;

use gantry_integration_tests::{Cluster, Options, eventually};
use serde_json::Value;

const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: gantry.local/busybox:1.35
        command: ["sh", "-c", "trap exit TERM; while :; do sleep 0.2; done"]
---
apiVersion: v1
kind: Pod
metadata: {name: bystander}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: gantry.local/busybox:1.35
    command: ["sh", "-c", "trap exit TERM; while :; do sleep 0.2; done"]
"#;

/// Container id and restart count of every running container, by pod and container name.
fn running(cluster: &Cluster) -> BTreeMap<String, (String, u64)> {
    let pods = cluster.object(&["pods"]).expect("pods can be listed");
    let mut all = BTreeMap::new();
    for pod in pods["items"].as_array().into_iter().flatten() {
        for status in pod["status"]["containerStatuses"].as_array().into_iter().flatten() {
            if status["state"]["running"].is_object() {
                let name = format!("{}/{}", text(&pod["metadata"]["name"]), text(&status["name"]));
                all.insert(name, (text(&status["containerID"]), status["restartCount"].as_u64().unwrap_or_default()));
            }
        }
    }
    all
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_rollout_survives_kill_9_and_no_running_container_restarts() {
    let Some(mut cluster) = Cluster::start(Options::default()) else { return };
    cluster.kubectl_with(&["apply", "-f", "-"], MANIFEST.as_bytes()).ok();
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]).ok();
    cluster.kubectl(&["wait", "pod/bystander", "--for=condition=Ready", "--timeout=60s"]).ok();

    for round in 1..=3u32 {
        // Writes acknowledged right before the end must be there afterwards.
        cluster.kubectl(&["set", "env", "deployment/web", &format!("ROUND={round}")]).ok();
        cluster.kubectl(&["create", "configmap", &format!("acknowledged-{round}")]).ok();
        std::thread::sleep(Duration::from_millis(150 * u64::from(round)));
        let before = running(&cluster);
        cluster.server().kill();
        cluster.up();
        cluster.wait_ready();
        cluster.kubectl(&["get", "configmap", &format!("acknowledged-{round}")]).ok();
        let env = cluster.kubectl(&[
            "get",
            "deployment",
            "web",
            "-o",
            "jsonpath={.spec.template.spec.containers[0].env[0].value}",
        ]);
        assert_eq!(env.ok(), round.to_string());
        cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]).ok();

        let after = eventually("four running pods and the bystander", Duration::from_secs(60), || {
            let now = running(&cluster);
            let pods = cluster.object(&["pods"])?["items"].as_array().map_or(0, Vec::len);
            if now.len() == 5 && pods == 5 { Ok(now) } else { Err(format!("{pods} pods, running: {now:?}")) }
        });
        for (name, (id, restarts)) in &after {
            assert_eq!(*restarts, 0, "{name} was restarted in round {round}");
            if let Some((id_before, _)) = before.get(name) {
                assert_eq!(id, id_before, "{name} is another container than before round {round}");
            }
        }
        assert_eq!(before.get("bystander/main"), after.get("bystander/main"));
    }
}

#[test]
fn sigterm_ends_the_server_cleanly_and_leaves_containers_running() {
    let Some(mut cluster) = Cluster::start(Options::default()) else { return };
    cluster.kubectl_with(&["apply", "-f", "-"], MANIFEST.as_bytes()).ok();
    cluster.kubectl(&["wait", "pod/bystander", "--for=condition=Ready", "--timeout=60s"]).ok();
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]).ok();
    let before = running(&cluster);
    let status = cluster.server().terminate();
    assert!(status.success(), "{status}\n{}", cluster.server().tail(40));
    cluster.up();
    cluster.wait_ready();
    assert_eq!(running(&cluster), before);
}
