//! What a node does for its pods beside running them: it keeps their logs small, tells what they use, and sends those away
//! that take more than they may.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_integration_tests::{Cluster, Options, cluster, command, docs, eventually};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);
/// Evictions wait for the next look at what is left, and for the runtime's own count of what was written.
const PATIENCE: Duration = Duration::from_secs(150);

fn start(flags: &[&str]) -> Option<Cluster> {
    Cluster::start(Options { flags: flags.iter().map(|flag| (*flag).to_owned()).collect(), ..Options::default() })
}

fn pod(namespace: &str, name: &str, more: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  {more}\n  containers:\n  - name: c\n    \
         image: gantry.local/busybox:1.35\n    command: [sh, -c, '{script}']\n"
    )
}

fn apply(cluster: &Cluster, yaml: &str) {
    cluster.kubectl_with(&["apply", "-f", "-"], yaml.as_bytes()).ok();
}

fn wait_running(cluster: &Cluster, namespace: &str, name: &str) {
    cluster.kubectl(&["wait", "-n", namespace, &format!("pod/{name}"), "--for=condition=Ready", "--timeout=90s"]).ok();
}

fn raw(cluster: &Cluster, path: &str) -> Result<String, String> {
    let outcome = cluster.kubectl(&["get", "--raw", &format!("/api/v1/nodes/node-1/proxy/{path}")]);
    if outcome.code == 0 { Ok(outcome.stdout) } else { Err(outcome.stderr) }
}

/// The files of a container's log, the oldest first.
fn log_files(cluster: &Cluster, pod: &str) -> Vec<PathBuf> {
    let below = |folder: &Path, wanted: &str| {
        let found =
            std::fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("an entry").path());
        found.filter(|path| path.to_string_lossy().contains(wanted)).collect::<Vec<_>>()
    };
    let folders = below(&cluster.data_dir().join("logs/pods"), &format!("_{pod}_"));
    let mut files = below(&folders[0].join("c"), "0.log");
    // `0.log` itself is the newest.
    files.sort_by_key(|path| (path.ends_with("0.log"), path.clone()));
    files
}

fn content(file: &Path) -> String {
    let bytes = std::fs::read(file).expect("the file can be read");
    let mut text = String::new();
    match file.extension().is_some_and(|extension| extension == "gz") {
        true => {
            flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).expect("it is compressed text")
        }
        false => bytes.as_slice().read_to_string(&mut text).expect("it is text"),
    };
    text
}

fn numbers(text: &str) -> Vec<u32> {
    text.lines().filter_map(|line| line.split_once("line ")?.1.split(' ').next()?.parse().ok()).collect()
}

#[test]
fn logs_are_rotated_and_followed_across_it() {
    let flags = ["--container-log-max-size=64Ki", "--container-log-max-files=3", "--container-log-monitor-interval=1s"];
    let Some(cluster) = start(&flags) else { return };
    let namespace = cluster.namespace("logs");
    let filler = "x".repeat(120);
    let script = format!(
        "while [ ! -e /tmp/go ]; do sleep 0.1; done; i=0; while [ $i -lt 6000 ]; do echo line $i {filler}; \
         i=$((i+1)); [ $((i % 100)) = 0 ] && sleep 0.1; done; echo that was all; \
         while [ ! -e /tmp/end ]; do sleep 0.1; done; echo the end; sleep 3600"
    );
    apply(&cluster, &pod(&namespace, "writer", "", &script));
    wait_running(&cluster, &namespace, "writer");
    let mut follow = cluster.kubectl_command(&["logs", "-n", &namespace, "-f", "writer"]);
    let out = cluster.scratch().join("followed");
    let file = std::fs::File::create(&out).expect("a file can be made");
    let mut follow = follow.stdout(file).spawn().expect("kubectl starts");
    cluster.kubectl(&["exec", "-n", &namespace, "writer", "--", "touch", "/tmp/go"]).ok();

    let followed = eventually("the last line to be followed", PATIENCE, || {
        let text = std::fs::read_to_string(&out).expect("it can be read");
        if text.contains("that was all") { Ok(text) } else { Err(format!("{} lines", text.lines().count())) }
    });
    let _ = follow.kill();
    let _ = follow.wait();
    assert_eq!(numbers(&followed), (0..6000).collect::<Vec<_>>(), "every line, once, in order");

    // A last rotation may be under way; after it the log is too small for another.
    let files = eventually("logs to have been rotated for the last time", PATIENCE, || {
        let files = log_files(&cluster, "writer");
        let current = files.iter().find(|file| file.ends_with("0.log")).ok_or("no log is being written")?;
        match std::fs::metadata(current).map_err(|error| error.to_string())?.len() {
            size if size < 64 << 10 => Ok(files),
            size => Err(format!("{size} bytes")),
        }
    });
    assert!((2..=3).contains(&files.len()), "{files:?}");
    assert!(files.iter().any(|file| file.extension().is_some_and(|extension| extension == "gz")), "{files:?}");
    let kept = numbers(&files.iter().map(|file| content(file)).collect::<String>());
    assert_eq!(kept, (kept[0]..6000).collect::<Vec<_>>(), "what is kept has no gap");
    // What kubectl shows without -f is the file that is written.
    cluster.kubectl(&["exec", "-n", &namespace, "writer", "--", "touch", "/tmp/end"]).ok();
    eventually("the last line to be shown", PATIENCE, || {
        let shown = cluster.kubectl(&["logs", "-n", &namespace, "--tail=1", "writer"]).ok();
        if shown == "the end\n" { Ok(()) } else { Err(shown) }
    });
}

fn entry<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
    list.as_array()?.iter().find(|entry| entry["name"] == name || entry["podRef"]["name"] == name)
}

#[test]
fn the_node_tells_what_its_pods_use() {
    let Some(cluster) = start(&[]) else { return };
    let namespace = cluster.namespace("stats");
    let volumes = "volumes: [{name: v, emptyDir: {}}]";
    let script = "dd if=/dev/zero of=/v/file bs=1M count=8 2>/dev/null; i=0; while :; do i=$((i+1)); done";
    let mut text = pod(&namespace, "user", volumes, script);
    text += "    volumeMounts: [{name: v, mountPath: /v}]\n    resources: {limits: {memory: 64Mi, cpu: 100m}}\n";
    apply(&cluster, &text);
    wait_running(&cluster, &namespace, "user");

    // Disks are looked at once a minute, and the first look may have come while the file was being written.
    eventually("the summary to tell of the pod", 3 * MINUTE, || {
        let summary: Value =
            serde_json::from_str(&raw(&cluster, "stats/summary")?).map_err(|error| error.to_string())?;
        let text = || summary.to_string();
        let pod = entry(&summary["pods"], "user").ok_or_else(text)?;
        let container = entry(&pod["containers"], "c").ok_or_else(text)?;
        let volume = entry(&pod["volume"], "v").ok_or_else(text)?;
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let told = number(&container["cpu"]["usageCoreNanoSeconds"]) > 0
            && number(&container["cpu"]["usageNanoCores"]) > 0
            && (1..=64 << 20).contains(&number(&container["memory"]["workingSetBytes"]))
            && number(&container["memory"]["availableBytes"]) < 64 << 20
            && number(&volume["usedBytes"]) >= 8 << 20
            && number(&pod["ephemeral-storage"]["usedBytes"]) >= 8 << 20
            && pod["network"]["name"] == "eth0"
            && number(&summary["node"]["memory"]["workingSetBytes"]) > 0
            && number(&summary["node"]["fs"]["capacityBytes"]) > 0
            && number(&summary["node"]["runtime"]["imageFs"]["usedBytes"]) > 0
            && summary["node"]["nodeName"] == "node-1";
        if told { Ok(()) } else { Err(text()) }
    });
    let page = docs::Page::read("nodes.md");
    for title in page.sections() {
        for commands in page.section(title) {
            let told = command::run(cluster.shell(&[], &[]).args(["-euo", "pipefail", "-c", commands]), b"").ok();
            assert!(title == "When something runs out" || !told.is_empty(), "{title}: {commands}");
        }
    }
    let short: Value =
        serde_json::from_str(&raw(&cluster, "stats/summary?only_cpu_and_memory=true").expect("it is told"))
            .expect("it is JSON");
    assert!(short["pods"][0]["volume"].is_null() && short["node"]["fs"].is_null(), "{short}");

    let resource = raw(&cluster, "metrics/resource").expect("it is told");
    let labels = format!("{{container=\"c\",namespace=\"{namespace}\",pod=\"user\"}}");
    for name in
        ["container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_start_time_seconds"]
    {
        let line = resource.lines().find(|line| line.starts_with(&format!("{name}{labels} ")));
        let value: f64 = line.and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0.0);
        assert!(value > 0.0, "{name}: {resource}");
    }
    for name in [
        "node_cpu_usage_seconds_total ",
        "node_memory_working_set_bytes ",
        "pod_cpu_usage_seconds_total{",
        "resource_scrape_error 0",
    ] {
        assert!(resource.contains(name), "{name}: {resource}");
    }
    let cadvisor = raw(&cluster, "metrics/cadvisor").expect("it is told");
    for name in [
        "container_cpu_usage_seconds_total{",
        "container_network_receive_bytes_total{",
        "container_fs_usage_bytes{",
        "machine_memory_bytes ",
    ] {
        assert!(cadvisor.contains(name), "{name}: {cadvisor}");
    }
}

fn evicted(cluster: &Cluster, namespace: &str, name: &str) -> String {
    eventually(&format!("{name} to be evicted"), PATIENCE, || {
        let pod = cluster.object(&["pod", name, "-n", namespace])?;
        let status = &pod["status"];
        let running = status["containerStatuses"][0]["state"]["running"].is_object();
        if status["phase"] == "Failed" && status["reason"] == "Evicted" && !running {
            return Ok(status["message"].as_str().unwrap_or_default().to_owned());
        }
        Err(status.to_string())
    })
}

#[test]
fn who_writes_more_than_it_may_is_sent_away() {
    let Some(cluster) = start(&[]) else { return };
    let namespace = cluster.namespace("writers");
    let volumes = "volumes: [{name: v, emptyDir: {sizeLimit: 2Mi}}]";
    let mounts = "    volumeMounts: [{name: v, mountPath: /v}]\n";
    let fill = |count: u32, path: &str| format!("dd if=/dev/zero of={path} bs=1M count={count}; sleep 3600");
    apply(&cluster, &(pod(&namespace, "volume", volumes, &fill(8, "/v/file")) + mounts));
    apply(&cluster, &(pod(&namespace, "modest", volumes, &fill(1, "/v/file")) + mounts));
    let limits = "    resources: {limits: {ephemeral-storage: 2Mi}}\n";
    apply(&cluster, &(pod(&namespace, "layer", "", &fill(8, "/file")) + limits));
    let message = evicted(&cluster, &namespace, "volume");
    assert_eq!(message, "Usage of EmptyDir volume \"v\" exceeds the limit \"2Mi\". ");
    let message = evicted(&cluster, &namespace, "layer");
    assert!(message.contains("exceed"), "{message}");
    let modest = cluster.object(&["pod", "modest", "-n", &namespace]).expect("it is there");
    assert_eq!(modest["status"]["phase"], "Running", "{modest:#}");
    let events = cluster.kubectl(&["get", "events", "-n", &namespace]).ok();
    assert!(events.contains("Evicted"), "{events}");
}

#[test]
fn a_node_short_of_memory_sends_pods_away_and_takes_no_more() {
    let Some(mut cluster) = start(&[]) else { return };
    let namespace = cluster.namespace("short");
    let asks = "    resources: {requests: {memory: 1Gi}}\n";
    apply(&cluster, &pod(&namespace, "greedy", "", "sleep 3600"));
    apply(&cluster, &(pod(&namespace, "modest", "", "sleep 3600") + asks));
    apply(&cluster, &pod("kube-system", "needed", "priorityClassName: system-node-critical", "sleep 3600"));
    for (namespace, name) in [(namespace.as_str(), "greedy"), (&namespace, "modest"), ("kube-system", "needed")] {
        wait_running(&cluster, namespace, name);
    }
    // No machine has so much: the node is short of memory from now on.
    cluster.server().terminate();
    cluster.up_with(&["--eviction-hard=memory.available<1000Ti"]);
    cluster.wait_ready();
    let message = evicted(&cluster, &namespace, "greedy");
    assert!(
        message.starts_with("The node was low on resource: memory. Threshold quantity: 1000Ti, available: "),
        "{message}"
    );
    assert!(message.contains("Container c was using "), "{message}");
    let greedy = cluster.object(&["pod", "greedy", "-n", &namespace]).expect("it is there");
    let disrupted = cluster::condition(&greedy, "DisruptionTarget").expect("the condition is there");
    assert_eq!((&disrupted["status"], &disrupted["reason"]), (&"True".into(), &"TerminationByKubelet".into()));
    eventually("the node to say so", MINUTE, || {
        let node = cluster.object(&["node", "node-1"])?;
        let short = cluster::condition(&node, "MemoryPressure").is_some_and(|condition| condition["status"] == "True");
        let tainted = node["spec"]["taints"].to_string().contains("node.kubernetes.io/memory-pressure");
        if short && tainted { Ok(()) } else { Err(node["status"]["conditions"].to_string()) }
    });
    // One that is bound in spite of it is turned away.
    apply(&cluster, &pod(&namespace, "late", "nodeName: node-1", "sleep 3600"));
    let message = evicted(&cluster, &namespace, "late");
    assert_eq!(message, "Pod was rejected: The node had condition: [MemoryPressure]. ");
    evicted(&cluster, &namespace, "modest");
    let needed = cluster.object(&["pod", "needed", "-n", "kube-system"]).expect("it is there");
    assert_eq!(needed["status"]["phase"], "Running", "what the cluster cannot do without stays");
}

#[test]
fn a_shortage_that_can_be_borne_ends_pods_later_and_gives_them_time() {
    let Some(mut cluster) = start(&[]) else { return };
    let namespace = cluster.namespace("soft");
    let script = "trap \"echo bye; sleep 2; echo gone; exit 0\" TERM; while :; do sleep 0.1; done";
    apply(&cluster, &pod(&namespace, "slow", "terminationGracePeriodSeconds: 90", script));
    wait_running(&cluster, &namespace, "slow");
    cluster.server().terminate();
    let soft = "--eviction-soft=memory.available<1000Ti";
    let refused = {
        let mut command = cluster.command(&cluster.tools().gantry);
        command.args(["up", soft, "--data-dir"]).arg(cluster.scratch().join("other"));
        gantry_integration_tests::command::run(&mut command, b"")
    };
    let missing = "grace period must be specified for the soft eviction threshold memory.available";
    assert!(refused.code != 0 && refused.stderr.contains(missing), "{refused}");
    let grace = "--eviction-soft-grace-period=memory.available=5s";
    cluster.up_with(&[soft, grace, "--eviction-max-pod-grace-period=60"]);
    cluster.wait_ready();
    // The node says so at once, and bears it.
    eventually("the node to say so", MINUTE, || {
        let node = cluster.object(&["node", "node-1"])?;
        let short = cluster::condition(&node, "MemoryPressure").is_some_and(|condition| condition["status"] == "True");
        if short { Ok(()) } else { Err(node["status"]["conditions"].to_string()) }
    });
    let message = evicted(&cluster, &namespace, "slow");
    let began = |object: &[&str], kind: &str| {
        let object = cluster.object(object).expect("it is there");
        let condition = cluster::condition(&object, kind).unwrap_or_else(|| panic!("no {kind}: {object}"));
        let time = serde_json::from_value::<Time>(condition["lastTransitionTime"].clone());
        time.expect("a time").0.as_second()
    };
    let short = began(&["node", "node-1"], "MemoryPressure");
    assert!(began(&["pod", "slow", "-n", &namespace], "DisruptionTarget") - short >= 4, "it was borne for a while");
    assert!(message.starts_with("The node was low on resource: memory. Threshold quantity: 1000Ti"), "{message}");
    eventually("it to have had its time", MINUTE, || {
        let log = cluster.kubectl(&["logs", "-n", &namespace, "slow"]).stdout;
        if log.lines().eq(["bye", "gone"]) { Ok(()) } else { Err(log) }
    });
    cluster.kubectl(&["delete", "pod", "-n", &namespace, "slow"]).ok();
    gantry_integration_tests::left::wait_for_nothing(&cluster);
}

#[test]
fn pods_of_files_run_and_are_shown() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let flag = format!("--pod-manifest-path={}", folder.path().display());
    let file = |script: &str| {
        let text = pod("kube-system", "web", "", script);
        // As an editor does: the new file takes the place of the old one at once.
        std::fs::write(folder.path().join(".web.yaml"), text).expect("a file can be written");
        std::fs::rename(folder.path().join(".web.yaml"), folder.path().join("web.yaml")).expect("it can be renamed");
    };
    file("echo first; sleep 3600");
    let Some(mut cluster) = start(&[&flag]) else { return };
    let running = |cluster: &Cluster, script: &str, not: &str| {
        eventually("the pod of the file to be shown running", PATIENCE, || {
            let pod = cluster.object(&["pod", "web-node-1", "-n", "kube-system"])?;
            let command = pod["spec"]["containers"][0]["command"][2] == script;
            let ready = cluster::condition(&pod, "Ready").is_some_and(|condition| condition["status"] == "True");
            let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            if command && ready && uid != not { Ok(uid) } else { Err(pod["status"].to_string()) }
        })
    };
    let id = |cluster: &Cluster| {
        let pod = cluster.object(&["pod", "web-node-1", "-n", "kube-system"]).expect("it is there");
        pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default().to_owned()
    };
    let first = running(&cluster, "echo first; sleep 3600", "");
    let container = id(&cluster);
    assert_eq!(cluster.kubectl(&["logs", "-n", "kube-system", "web-node-1"]).ok(), "first\n");

    // What is deleted is what shows it: it comes again, and the containers never went.
    cluster.kubectl(&["delete", "pod", "-n", "kube-system", "web-node-1", "--now"]).ok();
    let second = running(&cluster, "echo first; sleep 3600", &first);
    assert_eq!(id(&cluster), container);

    // Nor do they go when the agent is started again.
    cluster.server().kill();
    cluster.up();
    cluster.wait_ready();
    running(&cluster, "echo first; sleep 3600", "");
    assert_eq!(id(&cluster), container);

    file("echo second; sleep 3600");
    running(&cluster, "echo second; sleep 3600", &second);
    assert_ne!(id(&cluster), container);
    assert_eq!(cluster.kubectl(&["logs", "-n", "kube-system", "web-node-1"]).ok(), "second\n");

    std::fs::remove_file(folder.path().join("web.yaml")).expect("it can be removed");
    eventually("the pod to be gone", PATIENCE, || match cluster.object(&["pod", "web-node-1", "-n", "kube-system"]) {
        Err(_) => Ok(()),
        Ok(pod) => Err(pod["status"].to_string()),
    });
}
