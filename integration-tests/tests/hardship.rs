//! What becomes of a node's pods when what the node leans on is away: the API server for long, and room on its disk.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gantry_integration_tests::{Cluster, Options, cluster, command, eventually, left};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(180);
const IMAGE: &str = "gantry.local/busybox:1.35";

/// A pod of one container that runs a script and has a folder of the machine at `/out`.
fn pod(name: &str, out: &Path, script: &str, more: &Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 1, "volumes": [{"name": "out", "hostPath": {"path": out}}],
        "containers": [{"name": "c", "image": IMAGE, "command": ["sh", "-c", script],
            "volumeMounts": [{"name": "out", "mountPath": "/out"}]}]}});
    for (name, value) in more.as_object().into_iter().flatten() {
        pod["spec"][name] = value.clone();
    }
    pod
}

fn create(cluster: &Cluster, objects: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    cluster.kubectl_with(&["create", "-f", "-"], list.to_string().as_bytes()).ok();
}

/// Waits until a pod is as it should be; the pod.
fn until(cluster: &Cluster, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("{name} to be {what}"), PATIENCE, || {
        let pod = cluster.object(&["pod", name])?;
        if is(&pod) { Ok(pod) } else { Err(pod["status"].to_string()) }
    })
}

fn is_ready(pod: &Value) -> bool {
    cluster::condition(pod, "Ready").is_some_and(|condition| condition["status"] == "True")
}

fn instance(pod: &Value) -> (String, u64) {
    let status = &pod["status"]["containerStatuses"][0];
    (status["containerID"].to_string(), status["restartCount"].as_u64().unwrap_or_default())
}

fn wait_lines(file: &Path, count: usize) {
    eventually(&format!("{count} lines in {}", file.display()), PATIENCE, || {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if text.lines().count() >= count { Ok(()) } else { Err(text) }
    });
}

fn wait_ready(cluster: &Cluster) {
    eventually("the node to be ready", PATIENCE, || {
        let node = cluster.object(&["node", "node-1"])?;
        let ready = cluster::condition(&node, "Ready").is_some_and(|ready| ready["status"] == "True");
        if ready { Ok(()) } else { Err(node["status"]["conditions"].to_string()) }
    });
}

fn end(cluster: &Cluster) {
    cluster.kubectl(&["delete", "pods", "--all", "--now"]).ok();
    left::wait_for_nothing(cluster);
}

#[test]
fn while_the_api_server_is_away_pods_go_on_and_it_is_told_of_all_afterwards() {
    let Some(mut cluster) = Cluster::start(Options { without_agent: true, ..Options::default() }) else { return };
    cluster.start_agent("agent", &[]);
    wait_ready(&cluster);
    let out = cluster.scratch().join("out");
    std::fs::create_dir(&out).expect("a folder can be made");
    let probe = json!({"exec": {"command": ["sh", "-c", "echo asked >> /out/probes"]}, "periodSeconds": 1});
    let mut probed = pod("probed", &out, "sleep 3600", &json!({}));
    probed["spec"]["containers"][0]["livenessProbe"] = probe;
    let falls = "echo began >> /out/falls; until [ -e /out/fall ]; do sleep 0.2; done; rm /out/fall; exit 3";
    let ends = "until [ -e /out/end ]; do sleep 0.2; done; echo over >> /out/ends";
    let turns = "touch /tmp/ready; until [ -e /out/turn ]; do sleep 0.2; done; rm /tmp/ready; echo turned >> /out/turns; sleep 3600";
    let mut turning = pod("turns", &out, turns, &json!({}));
    turning["spec"]["containers"][0]["readinessProbe"] =
        json!({"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1, "failureThreshold": 1});
    let ending = pod("ends", &out, ends, &json!({"restartPolicy": "Never"}));
    create(&cluster, &[probed, pod("falls", &out, falls, &json!({})), ending, turning]);
    let before = ["probed", "falls", "ends", "turns"].map(|name| instance(&until(&cluster, name, "ready", is_ready)));

    cluster.server().kill();
    for name in ["fall", "end", "turn"] {
        std::fs::write(out.join(name), "").expect("a file can be written");
    }
    // Meanwhile containers are looked after: who falls is started again, and probes are made.
    wait_lines(&out.join("falls"), 2);
    wait_lines(&out.join("ends"), 1);
    wait_lines(&out.join("turns"), 1);
    let asked = std::fs::read_to_string(out.join("probes")).unwrap_or_default().lines().count();
    wait_lines(&out.join("probes"), asked + 3);

    cluster.up();
    wait_ready(&cluster);
    let over = until(&cluster, "ends", "over", |pod| pod["status"]["phase"] == "Succeeded");
    assert_eq!(instance(&over), before[2]);
    let fallen = until(&cluster, "falls", "up again", |pod| instance(pod).1 == 1 && is_ready(pod));
    let last = &fallen["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(last["exitCode"], 3, "{fallen}");
    let turned = until(&cluster, "turns", "not ready", |pod| !is_ready(pod));
    assert_eq!(instance(&turned), before[3], "it was not started again");
    let probed = until(&cluster, "probed", "ready", is_ready);
    assert_eq!(instance(&probed), before[0], "it was not started again");
    assert_eq!(std::fs::read_to_string(out.join("falls")).unwrap_or_default().lines().count(), 2);
    end(&cluster);
}

/// A small disk for the agent, gone with this.
struct Disk(PathBuf);

impl Disk {
    /// Puts a disk below the data directory, with what is there, but for the folder of the store.
    fn below(cluster: &Cluster, size: &str) -> Self {
        let (data, store) = (cluster.data_dir(), cluster.scratch().join("store"));
        let before = cluster.scratch().join("before");
        std::fs::rename(&data, &before).expect("a folder can be renamed");
        for folder in [&data, &store] {
            std::fs::create_dir(folder).expect("a folder can be made");
        }
        let mount = ["-t", "tmpfs", "-o", &format!("size={size}"), "gantry-test"];
        command::run(Command::new("mount").args(mount).arg(&data), b"").ok();
        let disk = Self(data);
        command::run(Command::new("cp").arg("-r").arg(before.join("images")).arg(&disk.0), b"").ok();
        std::os::unix::fs::symlink(&store, disk.0.join("store")).expect("a link can be made");
        disk
    }

    /// Leaves no room on it.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("filler")).expect("a file can be made");
        let mut block = vec![0; 1 << 20];
        // Down to the last byte: whole blocks first, then what is left by halves.
        while !block.is_empty() {
            if std::io::Write::write_all(&mut file, &block).is_err() {
                block.truncate(block.len() / 2);
            }
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("filler")).expect("the file can be removed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        command::run(Command::new("umount").arg("--lazy").arg(&self.0), b"");
        // The cluster could not remove the folder that it lay on.
        let _ = self.0.parent().map(std::fs::remove_dir_all);
    }
}

/// A cluster on a small disk, which goes after it: what runs there is taken down first.
struct Cramped {
    cluster: Cluster,
    disk: Disk,
}

#[test]
fn on_a_full_disk_what_runs_stays_and_what_comes_waits_for_room() {
    let Some(cluster) = Cluster::start(Options { idle: true, without_agent: true, ..Options::default() }) else {
        return;
    };
    let disk = Disk::below(&cluster, "400m");
    let mut cramped = Cramped { cluster, disk };
    let Cramped { cluster, disk } = &mut cramped;
    cluster.up();
    cluster.wait_ready();
    // Nobody is evicted and no image removed for it: what is seen is how the node bears it.
    cluster.start_agent("agent", &["--eviction-hard=", "--image-gc-high-threshold=100"]);
    wait_ready(cluster);
    let out = cluster.scratch().join("out");
    std::fs::create_dir(&out).expect("a folder can be made");
    let beats = "while :; do echo beat >> /out/beats; sleep 0.5; done";
    let words = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "words"},
        "data": {"long": "word ".repeat(10_000)}});
    create(cluster, &[words, pod("stays", &out, beats, &json!({})), pod("goes", &out, "sleep 3600", &json!({}))]);
    let before = instance(&until(cluster, "stays", "ready", is_ready));
    until(cluster, "goes", "ready", is_ready);

    disk.fill();
    let volumes = json!({"volumes": [{"name": "out", "configMap": {"name": "words"}}]});
    create(cluster, &[pod("comes", &out, "sleep 3600", &volumes)]);
    eventually("the one that comes to be told why it waits", PATIENCE, || {
        let events = cluster.kubectl(&["events", "--for", "pod/comes"]).ok();
        if events.contains("no space left on device") || events.contains("No space left on device") {
            Ok(())
        } else {
            Err(events)
        }
    });
    cluster.kubectl(&["delete", "pod", "goes", "--wait=false"]).ok();
    let beats = std::fs::read_to_string(out.join("beats")).unwrap_or_default().lines().count();
    wait_lines(&out.join("beats"), beats + 4);
    let waits = cluster.object(&["pod", "comes"]).expect("it is there");
    assert_eq!(waits["status"]["phase"], "Pending", "{waits}");

    disk.empty();
    until(cluster, "comes", "ready", is_ready);
    eventually("the one that goes to be gone", PATIENCE, || match cluster.object(&["pod", "goes"]) {
        Err(error) if error.contains("NotFound") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(instance(&until(cluster, "stays", "ready", is_ready)), before, "it was not started again");
    end(cluster);
}
