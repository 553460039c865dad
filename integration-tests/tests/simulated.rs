//! Nodes that are simulated: the agent and its pod workers as ever, on a runtime that only keeps records.

use std::collections::BTreeSet;
use std::time::Duration;

use gantry_integration_tests::{Cluster, Options, docs, eventually};

/// A pod of the default namespace with annotations and a readiness probe that no simulated container could answer itself.
fn pod(name: &str, annotations: &[(&str, &str)]) -> String {
    let annotations: String =
        annotations.iter().map(|(key, value)| format!("    simulation.gantry.io/{key}: \"{value}\"\n")).collect();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  annotations:\n    example.com/kept: \"yes\"\n{annotations}spec:\n  \
         containers:\n  - name: main\n    image: example.com/any\n    readinessProbe:\n      httpGet: {{path: /, port: 80}}\n      \
         periodSeconds: 1\n"
    )
}

/// A field of a pod, as kubectl prints it.
fn field(cluster: &Cluster, pod: &str, path: &str) -> String {
    cluster.kubectl(&["get", "pod", pod, "-o", &format!("jsonpath={path}")]).ok()
}

#[test]
fn the_page_about_simulated_nodes_holds() {
    let Some(mut cluster) = Cluster::start(Options { idle: true, ..Options::default() }) else { return };
    let page = docs::Page::read("simulation.md");
    let folder = cluster.tools().gantry.parent().expect("it is in a folder").to_path_buf();
    let mut server = cluster.shell(&[folder], &[]);
    server.arg("-c").arg(format!("exec {}", page.section("Start").concat()));
    cluster.spawn("server", server);
    let kubeconfig = cluster.scratch().join("many").join("admin.kubeconfig");
    eventually("the kubeconfig", Duration::from_secs(60), || {
        kubeconfig.exists().then_some(()).ok_or("not there".into())
    });
    // Before all are registered, "all nodes" are fewer.
    let count = || {
        let mut kubectl = cluster.shell(&[], &[]);
        kubectl.arg("-c").arg("kubectl --kubeconfig many/admin.kubeconfig get nodes -o name | wc -l");
        gantry_integration_tests::command::run(&mut kubectl, b"").ok().trim().parse::<usize>().unwrap_or(0)
    };
    eventually("100 nodes", Duration::from_secs(120), || match count() {
        100 => Ok(()),
        fewer => Err(format!("{fewer} nodes")),
    });
    let told = run_as_the_reader(&cluster, &page, &["Run pods", "Have pods do something"]);
    assert!(told.contains("deployment \"web\" successfully rolled out"), "{told}");
    assert!(told.trim_end().ends_with('3'), "{told}");
}

/// The sections' commands in one shell; what they print.
fn run_as_the_reader(cluster: &Cluster, page: &docs::Page, sections: &[&str]) -> String {
    let script: String = sections.iter().map(|section| page.section(section).concat()).collect();
    let mut shell = cluster.shell(&[], &[]);
    shell.args(["-e", "-c", &script]);
    gantry_integration_tests::command::run_within(Duration::from_secs(400), &mut shell, b"").ok()
}

#[test]
fn simulated_pods_do_what_their_annotations_say() {
    let Some(mut cluster) = Cluster::start(Options { idle: true, ..Options::default() }) else { return };
    cluster.up_with(&["--simulate", "3"]);
    eventually("the default account", Duration::from_secs(60), || {
        cluster.object(&["serviceaccount", "default"]).map(|_| ())
    });
    let pods = [
        pod("well", &[]),
        pod("ends", &[("runs-for", "1s"), ("exit-code", "7")]),
        pod("unready", &[("failing-probes", "readiness")]),
        pod("refused", &[("start-error", "no such command")]),
        pod("slow", &[("start-delay", "3s")]),
    ];
    cluster.kubectl_with(&["apply", "-f", "-"], pods.join("---\n").as_bytes()).ok();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/well", "pod/slow", "--timeout=60s"]).ok();

    let started = "{.status.containerStatuses[0].state.running.startedAt}";
    assert_ne!(field(&cluster, "slow", started), "", "it runs once it is ready");
    eventually("the end and the restart of a container", Duration::from_secs(60), || {
        let restarts = field(&cluster, "ends", "{.status.containerStatuses[0].restartCount}");
        let code = field(&cluster, "ends", "{.status.containerStatuses[0].lastState.terminated.exitCode}");
        match (restarts.parse::<u32>(), code.as_str()) {
            (Ok(1..), "7") => Ok(()),
            _ => Err(format!("restarted {restarts:?} times, last exit code {code:?}")),
        }
    });
    eventually("the refusal", Duration::from_secs(60), || {
        let message = field(&cluster, "refused", "{.status.containerStatuses[0]}");
        message.contains("no such command").then_some(()).ok_or(message)
    });
    eventually("a failed probe", Duration::from_secs(60), || {
        let events = cluster.kubectl(&["events", "--for", "pod/unready"]).ok();
        events.contains("Readiness probe failed").then_some(()).ok_or(events)
    });
    assert_eq!(field(&cluster, "unready", "{.status.phase} {.status.containerStatuses[0].ready}"), "Running false");

    let addresses = cluster.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].status.podIP}"]).ok();
    let distinct: BTreeSet<&str> = addresses.split_whitespace().collect();
    assert_eq!(distinct.len(), pods.len(), "{addresses}");
    // A simulated pod's token takes no mount of this machine.
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&*cluster.data_dir().to_string_lossy()), "{mounts}");

    cluster.kubectl(&["delete", "pod", "--all", "--timeout=60s"]).ok();
    assert_eq!(cluster.kubectl(&["get", "pods", "-o", "name"]).ok(), "");
}

#[test]
fn simulated_nodes_join_a_cluster_from_another_process() {
    let Some(mut cluster) = Cluster::start(Options { without_agent: true, ..Options::default() }) else { return };
    let mut agent = cluster.command(cluster.tools().gantry.clone());
    agent.args(["agent", "--simulate", "2", "--node-name", "far", "--data-dir", "far", "--kubeconfig"]);
    agent.arg(cluster.kubeconfig());
    cluster.spawn("agent", agent);
    eventually("the nodes", Duration::from_secs(60), || {
        let nodes = cluster.kubectl(&["get", "nodes", "-o", "name"]).ok();
        (nodes == "node/far-0\nnode/far-1\n").then_some(()).ok_or(nodes)
    });
    cluster.kubectl(&["wait", "--for=condition=Ready", "node", "--all", "--timeout=60s"]).ok();
    cluster.kubectl(&["create", "deployment", "web", "--image=example.com/web", "--replicas=4"]).ok();
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
}
