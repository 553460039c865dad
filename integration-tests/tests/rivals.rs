//! Two schedulers that place pods on the same nodes at the same time, neither knowing of the other.

use std::collections::BTreeMap;
use std::time::Duration;

use gantry_integration_tests::process::Process;
use gantry_integration_tests::{Cluster, Options, command, eventually};
use serde_json::{Value, json};

const NODES: usize = 4;
/// Of pods that take 300m, of two CPUs.
const PODS_PER_NODE: usize = 6;
const MINUTE: Duration = Duration::from_secs(60);

/// Places pods of a name of its own, and of one that both place, and asks the API server to check.
fn configuration(name: &str) -> String {
    let profile = |name: &str| json!({"schedulerName": name, "pluginConfig": [{"name": "DefaultBinder", "args": {"ifFits": true}}]});
    let kind = json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "profiles": [profile(name), profile("both")]});
    kind.to_string()
}

fn pods(prefix: &str, count: usize) -> String {
    let names = ["one", "two", "both"];
    let pod = |index: usize| {
        let scheduler = names[index % names.len()];
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("{prefix}-{index}"), "labels": {"of": scheduler}},
            "spec": {"schedulerName": scheduler, "tolerations": [{"operator": "Exists"}], "containers": [
                {"name": "main", "image": "gantry.local/busybox:1.35", "resources": {"requests": {"cpu": "300m"}}}]}})
    };
    let items: Vec<Value> = (0..count).map(pod).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// How many pods each node has, and who placed any.
fn placed(cluster: &Cluster) -> Result<BTreeMap<String, usize>, String> {
    let pods = cluster.object(&["pods"])?;
    let mut placed = BTreeMap::new();
    for pod in pods["items"].as_array().into_iter().flatten() {
        if let Some(node) = pod["spec"]["nodeName"].as_str() {
            *placed.entry(node.to_owned()).or_default() += 1;
        }
    }
    let too_many = placed.iter().find(|(_, count)| **count > PODS_PER_NODE);
    assert!(too_many.is_none(), "{too_many:?} has more than fits");
    Ok(placed)
}

fn becomes_full(cluster: &Cluster) {
    eventually("all nodes to be full", 2 * MINUTE, || {
        let placed = placed(cluster)?;
        let is_full = placed.len() == NODES && placed.values().all(|count| *count == PODS_PER_NODE);
        if is_full { Ok(()) } else { Err(format!("{placed:?}")) }
    });
}

#[test]
fn two_schedulers_that_do_not_know_of_each_other_fill_all_nodes_and_none_beyond_its_capacity() {
    let Some(mut cluster) = Cluster::start(Options { idle: true, without_agent: true, ..Options::default() }) else {
        return;
    };
    let gantry = cluster.tools().gantry.clone();
    let mut apiserver = cluster.command(&gantry);
    apiserver.args(["apiserver", "--data-dir"]).arg(cluster.data_dir());
    cluster.spawn("apiserver", apiserver);
    eventually("the API server", MINUTE, || cluster.object(&["namespace", "default"]).map(|_| ()));
    cluster.kubectl(&["create", "serviceaccount", "default"]).ok();
    for index in 0..NODES {
        let name = format!("paper-{index}");
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        cluster.kubectl_with(&["create", "-f", "-"], node.to_string().as_bytes()).ok();
        let amounts = json!({"cpu": "2", "memory": "8Gi", "pods": "110"});
        let status = json!({"status": {"allocatable": amounts, "capacity": amounts}}).to_string();
        cluster.kubectl(&["patch", "node", &name, "--subresource=status", "--type=merge", "-p", &status]).ok();
    }
    // They are there before the schedulers are, who then all want the same room at once.
    cluster.kubectl_with(&["create", "-f", "-"], pods("early", 2 * NODES * PODS_PER_NODE).as_bytes()).ok();

    let scratch = cluster.scratch().to_path_buf();
    let mut command = cluster.command(&gantry);
    command.args(["kubeconfig", "--data-dir"]).arg(cluster.data_dir()).arg("scheduler");
    let kubeconfig = scratch.join("scheduler.kubeconfig");
    std::fs::write(&kubeconfig, command::run(&mut command, b"").ok()).expect("the scratch folder can be written");
    let mut schedulers = Vec::new();
    for (index, name) in ["one", "two"].into_iter().enumerate() {
        let config = scratch.join(format!("{name}.yaml"));
        std::fs::write(&config, configuration(name)).expect("the scratch folder can be written");
        let mut command = cluster.command(&gantry);
        command.arg("scheduler").arg("--kubeconfig").arg(&kubeconfig).arg("--scheduler-config").arg(config);
        command.args(["--leader-elect=false", "--health-listen", &format!("127.0.0.1:{}", 9_300 + index)]);
        schedulers.push(Process::start(command, &scratch.join(format!("scheduler-{name}.log"))));
    }
    becomes_full(&cluster);

    // Room comes on all nodes at once, and more who want it.
    let bound = cluster.object(&["pods", "--field-selector=spec.nodeName!="]).expect("pods can be listed");
    let names: Vec<String> = bound["items"].as_array().into_iter().flatten().step_by(2).map(name_of).collect();
    assert!(names.len() >= NODES, "{bound}");
    let mut delete = vec!["delete", "pod", "--grace-period=0", "--force", "--wait=false"];
    delete.extend(names.iter().map(String::as_str));
    cluster.kubectl(&delete).ok();
    cluster.kubectl_with(&["create", "-f", "-"], pods("late", 12).as_bytes()).ok();
    becomes_full(&cluster);
    for mut scheduler in schedulers {
        assert!(scheduler.ended().is_none(), "{}", scheduler.tail(40));
        assert!(scheduler.terminate().success(), "{}", scheduler.tail(40));
    }
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}
