//! Two of each loop on one API server with etcd: one leads, the other takes over, and never do two act at once.

use std::collections::BTreeMap;
use std::time::Duration;

use gantry_integration_tests::process::Process;
use gantry_integration_tests::{Cluster, Options, eventually};

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      # Nobody speaks for the node, so it will be tainted.
      tolerations: [{operator: Exists}]
      containers: [{name: main, image: gantry.local/busybox:1.35}]
"#;

/// A node that only the API has: pods are placed on it and never start.
const NODE: &str = "{apiVersion: v1, kind: Node, metadata: {name: paper}}";
const STATUS: &str = r#"{"status": {
  "allocatable": {"cpu": "8", "memory": "8Gi", "pods": "110"},
  "capacity": {"cpu": "8", "memory": "8Gi", "pods": "110"},
  "conditions": [{"type": "Ready", "status": "True"}]
}}"#;

/// Who holds a lease, and how often it has changed hands.
fn holder(cluster: &Cluster, lease: &str) -> Result<(String, i64), String> {
    let lease = cluster.object(&["lease", lease, "-n", "kube-system"])?;
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
    Ok((holder, lease["spec"]["leaseTransitions"].as_i64().unwrap_or_default()))
}

/// The process of `pair` that has said on its health endpoint's metrics that it leads.
fn is_leader(cluster: &Cluster, port: u16, lease: &str) -> Result<bool, String> {
    let url = format!("http://127.0.0.1:{port}/metrics");
    let mut curl = cluster.command("curl");
    let outcome = gantry_integration_tests::command::run(curl.args(["-s", "--max-time", "5", &url]), b"");
    let line =
        outcome.stdout.lines().find(|line| line.starts_with("leader_election_master_status") && line.contains(lease));
    line.map(|line| line.ends_with(" 1")).ok_or_else(|| format!("{outcome}"))
}

fn scaled_and_placed(cluster: &Cluster, replicas: usize) {
    cluster.kubectl(&["scale", "deployment/web", &format!("--replicas={replicas}")]).ok();
    // The lease, the retry period, and what a busy machine takes.
    eventually("the pods to be made and placed", Duration::from_secs(90), || {
        let pods = cluster.object(&["pods", "-l", "app=web"])?;
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let placed = pods.iter().filter(|pod| pod["spec"]["nodeName"].is_string()).count();
        if (pods.len(), placed) == (replicas, replicas) {
            Ok(())
        } else {
            Err(format!("{} pods, {placed} placed", pods.len()))
        }
    });
}

#[test]
fn the_second_of_each_takes_over_when_the_first_is_killed_and_no_two_lead() {
    let Some(mut cluster) = Cluster::start(Options { idle: true, without_agent: true, ..Options::default() }) else {
        return;
    };
    if !cluster.start_etcd() {
        return;
    }
    let scratch = cluster.scratch().to_path_buf();
    let gantry = cluster.tools().gantry.clone();
    let mut command = cluster.command(&gantry);
    command.args(["apiserver", "--store", "etcd://127.0.0.1:2379", "--data-dir"]).arg(cluster.data_dir());
    cluster.spawn("apiserver", command);
    eventually("the API server", Duration::from_secs(60), || cluster.object(&["namespace", "default"]).map(|_| ()));

    // Short times, in the same proportions as the defaults, so that the test is short.
    let times =
        ["--leader-elect-lease-duration=6s", "--leader-elect-renew-deadline=4s", "--leader-elect-retry-period=1s"];
    let leases = [("controllers", "kube-controller-manager"), ("scheduler", "kube-scheduler")];
    let mut processes: BTreeMap<(&str, u16), Process> = BTreeMap::new();
    for (component, _) in leases {
        let kubeconfig = scratch.join(format!("{component}.kubeconfig"));
        let mut command = cluster.command(&gantry);
        command.args(["kubeconfig", "--data-dir"]).arg(cluster.data_dir()).arg(component);
        let text = gantry_integration_tests::command::run(&mut command, b"").ok();
        std::fs::write(&kubeconfig, text).expect("the scratch folder can be written");
        for instance in 0..2u16 {
            let port = if component == "controllers" { 9_100 } else { 9_200 } + instance;
            let mut command = cluster.command(&gantry);
            command.arg(component).arg("--kubeconfig").arg(&kubeconfig).args(times);
            command.args(["--health-listen", &format!("127.0.0.1:{port}")]);
            let log = scratch.join(format!("{component}-{instance}.log"));
            processes.insert((component, port), Process::start(command, &log));
        }
    }
    let changes = watch_leases(&mut cluster);
    cluster.kubectl_with(&["apply", "-f", "-"], NODE.as_bytes()).ok();
    cluster.kubectl(&["patch", "node", "paper", "--subresource=status", "--type=merge", "-p", STATUS]).ok();
    eventually("the default account", Duration::from_secs(60), || {
        cluster.object(&["serviceaccount", "default"]).map(|_| ())
    });
    cluster.kubectl_with(&["apply", "-f", "-"], DEPLOYMENT.as_bytes()).ok();
    scaled_and_placed(&cluster, 2);

    for (component, lease) in leases {
        let (first, transitions) = holder(&cluster, lease).expect("the lease is there");
        let ports: Vec<u16> = processes.keys().filter(|(name, _)| *name == component).map(|(_, port)| *port).collect();
        let leading = |cluster: &Cluster, ports: &[u16]| -> Result<Vec<u16>, String> {
            let mut leading = Vec::new();
            for port in ports {
                if is_leader(cluster, *port, lease)? {
                    leading.push(*port);
                }
            }
            Ok(leading)
        };
        let leaders = leading(&cluster, &ports).expect("metrics are served");
        assert_eq!(leaders.len(), 1, "{component}: {leaders:?} lead");
        processes.get_mut(&(component, leaders[0])).expect("it was started").kill();
        let others: Vec<u16> = ports.into_iter().filter(|port| *port != leaders[0]).collect();
        eventually("the other to take over", Duration::from_secs(60), || {
            let (now, times) = holder(&cluster, lease)?;
            let leads = leading(&cluster, &others)?;
            if now != first && times == transitions + 1 && leads == others {
                Ok(())
            } else {
                Err(format!("{now} {times} {leads:?}"))
            }
        });
    }
    scaled_and_placed(&cluster, 5);

    // A clean end hands the lease back at once.
    for ((component, _), mut process) in std::mem::take(&mut processes) {
        if process.ended().is_none() {
            assert!(process.terminate().success(), "{component}\n{}", process.tail(40));
        }
    }
    for (_, lease) in leases {
        assert_eq!(holder(&cluster, lease).expect("the lease is there").0, "", "{lease} was given up");
    }
    check_history(&std::fs::read_to_string(changes).expect("the watch wrote its file"));
}

/// Writes every state of the leases to a file, one JSON object a line or several; returns the file.
fn watch_leases(cluster: &mut Cluster) -> std::path::PathBuf {
    let file = cluster.scratch().join("leases.log");
    let command = cluster.kubectl_command(&[
        "get", "leases", "-n", "kube-system", "--watch",
        "-o", "jsonpath={.metadata.name} {.spec.leaseTransitions} {.spec.leaseDurationSeconds} {.metadata.resourceVersion} [{.spec.holderIdentity}]{'\\n'}",
    ]);
    cluster.spawn("leases", command);
    file
}

/// In the history of each lease every change of hands counts as one, a holder never comes back without one, and versions grow.
fn check_history(text: &str) {
    let mut last: BTreeMap<String, (i64, u64, String)> = BTreeMap::new();
    let mut renewals = 0;
    for line in text.lines().filter(|line| line.starts_with("kube-")) {
        let fields: Vec<&str> = line.split(' ').collect();
        let (name, transitions, version) = (fields[0].to_owned(), fields[1].parse::<i64>(), fields[3].parse::<u64>());
        let (transitions, version) = (transitions.expect("a number"), version.expect("a number"));
        let holder = fields[4].trim_matches(['[', ']']).to_owned();
        if let Some((before, seen, held)) = last.get(&name) {
            assert!(version > *seen, "{line}");
            let taken = holder != *held && !holder.is_empty();
            assert_eq!(transitions - before, i64::from(taken), "after {held} at {seen}: {line}");
            renewals += i64::from(holder == *held);
        }
        last.insert(name, (transitions, version, holder));
    }
    assert_eq!(last.len(), 2, "{text}");
    assert!(renewals > 4, "{text}");
}
