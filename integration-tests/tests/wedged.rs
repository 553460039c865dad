//! A mount that nobody answers for: what touches it waits, and nobody else does.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use gantry_integration_tests::{Cluster, Options, command, eventually, left};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(180);

/// A file system of a server that never answers.
struct Wedge {
    server: Child,
    at: PathBuf,
}

impl Wedge {
    fn new(at: &Path) -> Self {
        std::fs::create_dir(at).expect("a folder can be made");
        let script = "exec 3<>/dev/fuse; \
            mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 wedged \"$0\" && exec sleep 3600";
        let server = Command::new("sh").args(["-c", script]).arg(at).spawn().expect("a shell can be started");
        let wedge = Self { server, at: at.to_owned() };
        eventually("the mount", PATIENCE, || {
            let mounts = std::fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
            let there = mounts.lines().any(|line| line.starts_with("wedged ") && line.contains(&*at.to_string_lossy()));
            if there { Ok(()) } else { Err("it is not mounted".into()) }
        });
        wedge
    }
}

impl Drop for Wedge {
    fn drop(&mut self) {
        // With its server's end whoever waits for an answer has one: that there is nobody.
        let _ = self.server.kill();
        let _ = self.server.wait();
        let gone = command::run(Command::new("umount").arg("-l").arg(&self.at), b"");
        if gone.code != 0 {
            eprintln!("a mount stays at {}: {gone}", self.at.display());
        }
    }
}

fn pod(name: &str, host_path: Option<Value>) -> Value {
    let volumes: Vec<Value> = host_path.into_iter().map(|source| json!({"name": "v", "hostPath": source})).collect();
    let mounts: Vec<Value> = volumes.iter().map(|_| json!({"name": "v", "mountPath": "/v"})).collect();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 1, "volumes": volumes, "containers": [{"name": "c",
            "image": "gantry.local/busybox:1.35", "command": ["sleep", "3600"], "volumeMounts": mounts}]}})
}

fn create(cluster: &Cluster, objects: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    cluster.kubectl_with(&["create", "-f", "-"], list.to_string().as_bytes()).ok();
}

fn wait_ready(cluster: &Cluster, names: &[&str]) {
    let pods: Vec<String> = names.iter().map(|name| format!("pod/{name}")).collect();
    let mut args = vec!["wait", "--for=condition=Ready", "--timeout=180s"];
    args.extend(pods.iter().map(String::as_str));
    cluster.kubectl(&args).ok();
}

#[test]
fn a_pod_whose_mount_does_not_answer_delays_no_other() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let at = cluster.scratch().join("wedge");
    let wedge = Wedge::new(&at);
    // One waits as the agent looks, the others as the runtime does.
    let sick = ["looked-at", "mounted-1", "mounted-2"];
    create(
        &cluster,
        &[
            pod(sick[0], Some(json!({"path": at, "type": "Directory"}))),
            pod(sick[1], Some(json!({"path": at}))),
            pod(sick[2], Some(json!({"path": at}))),
        ],
    );
    eventually("the sick pods to be begun", PATIENCE, || {
        for name in sick {
            let pod = cluster.object(&["pod", name])?;
            if pod["status"]["startTime"].is_null() {
                return Err(pod["status"].to_string());
            }
        }
        Ok(())
    });
    // Others come, answer, and go.
    let well = ["well-1", "well-2", "well-3", "well-4"];
    create(&cluster, &well.map(|name| pod(name, None)));
    wait_ready(&cluster, &well);
    assert_eq!(cluster.kubectl(&["exec", "well-1", "--", "echo", "here"]).ok(), "here\n");
    cluster.kubectl(&["delete", "pods", "well-1", "well-2", "--timeout=180s"]).ok();
    for name in sick {
        let pod = cluster.object(&["pod", name]).expect("it is there");
        assert_eq!(pod["status"]["phase"], "Pending", "{}", pod["status"]);
    }
    // One of those that wait is not wanted any more; the others go on when the mount is no more.
    cluster.kubectl(&["delete", "pod", sick[1], "--wait=false"]).ok();
    drop(wedge);
    wait_ready(&cluster, &[sick[0], sick[2], "well-3", "well-4"]);
    let restarts = cluster.object(&["pod", "well-3"]).expect("it is there");
    assert_eq!(restarts["status"]["containerStatuses"][0]["restartCount"], 0);
    cluster.kubectl(&["delete", "pods", "--all", "--now", "--timeout=180s"]).ok();
    left::wait_for_nothing(&cluster);
}
