//! One node under random trouble: pods come, change and go while containerd, the agent and the API server are killed. In the end
//! the node is as one that never had a pod.
//!
//! `cargo xtask soak node --minutes 30` runs it. What happens follows from the seed that is printed, when it happens does not.
#![allow(clippy::print_stdout, reason = "whoever runs it long wants to see how far it is")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use containerd_client::services::v1::snapshots::ListSnapshotsRequest;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use futures::TryStreamExt;
use gantry_integration_tests::{Cluster, Options, command, eventually};
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{ListContainersRequest, ListPodSandboxRequest};
use serde_json::Value;

/// How long pods and what is left of them may take to go, on a machine that does other things.
const PATIENCE: Duration = Duration::from_secs(180);

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Numbers that follow from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end.max(1) as u64) as usize
    }

    fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}

/// What is troubled.
struct Node {
    cluster: Cluster,
    agent: u32,
    agents: usize,
}

impl Node {
    fn start() -> Option<Self> {
        let mut cluster = Cluster::start(Options { without_agent: true, ..Options::default() })?;
        let mut kubeconfig = cluster.command(&cluster.tools().gantry);
        kubeconfig.arg("kubeconfig").arg("--data-dir").arg(cluster.data_dir());
        kubeconfig.args(["node", "node-1", "--ip", "127.0.0.1"]);
        let text = command::run(&mut kubeconfig, b"").ok();
        std::fs::write(cluster.scratch().join("agent.kubeconfig"), text).expect("a file can be written");
        let mut node = Self {
            agent: 0,
            agents: 0,
            cluster: {
                cluster.wait_ready();
                cluster
            },
        };
        node.start_agent();
        eventually("the node to be ready", PATIENCE, || {
            let node = node.cluster.object(&["node", "node-1"])?;
            let ready = gantry_integration_tests::cluster::condition(&node, "Ready");
            if ready.is_some_and(|ready| ready["status"] == "True") { Ok(()) } else { Err(format!("{ready:?}")) }
        });
        Some(node)
    }

    fn start_agent(&mut self) {
        let mut agent = self.cluster.command(&self.cluster.tools().gantry);
        agent.arg("agent").arg("--kubeconfig").arg(self.cluster.scratch().join("agent.kubeconfig"));
        agent.args(["--node-name", "node-1", "--cgroup-root", &self.cluster.cgroup_root(), "--data-dir"]);
        agent.arg(self.cluster.data_dir());
        self.agent = self.cluster.spawn(&format!("agent-{}", self.agents), agent);
        self.agents += 1;
    }

    /// What the agent noted down of its containerd.
    fn note(&self, name: &str) -> String {
        let note = std::fs::read(self.cluster.data_dir().join("containerd/instance.json")).expect("the agent's note");
        let note: Value = serde_json::from_slice(&note).expect("the note is JSON");
        note[name].as_str().unwrap_or_else(|| panic!("it has its {name}: {note}")).to_owned()
    }

    /// The folder of the instance's sockets and state.
    fn run_dir(&self) -> PathBuf {
        Path::new(&self.note("address")).parent().expect("a socket is in a folder").to_owned()
    }

    /// kubectl, which may fail while the API server is away.
    fn tries(&self, arguments: &[&str], input: &str) {
        let mut kubectl = self.cluster.kubectl_command(&["--request-timeout=10s"]);
        command::run(kubectl.args(arguments), input.as_bytes());
    }

    fn kill(&self, pid: &str) {
        command::run(Command::new("kill").args(["-KILL", pid]), b"");
    }
}

/// A pod of one of several shapes.
fn pod(name: &str, dice: &mut Dice) -> String {
    let stays = "trap exit TERM; while :; do sleep 0.2; done";
    let ends = format!("sleep {}; exit {}", dice.below(3), dice.below(2));
    let deaf = "trap : TERM; while :; do sleep 0.2; done";
    let script = *dice.of(&[stays, stays, stays, ends.as_str(), deaf]);
    let policy = *dice.of(&["Always", "Always", "OnFailure", "Never"]);
    let more = *dice.of(&[
        "",
        "hostNetwork: true",
        "shareProcessNamespace: true",
        "initContainers: [{name: i, image: 'gantry.local/busybox:1.35', command: [sleep, '1']}, {name: side, image: \
         'gantry.local/busybox:1.35', restartPolicy: Always, command: [sleep, '3600']}]",
    ]);
    let probe = *dice.of(&["", "livenessProbe: {exec: {command: ['false']}, periodSeconds: 1, failureThreshold: 3}"]);
    let mount = *dice.of(&["", ", subPath: some/where"]);
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: node-1\n  restartPolicy: {policy}\n  \
         terminationGracePeriodSeconds: {}\n  {more}\n  volumes:\n  - {{name: disk, emptyDir: {{}}}}\n  - {{name: memory, \
         emptyDir: {{medium: Memory}}}}\n  - {{name: folder, hostPath: {{path: /tmp}}}}\n  containers:\n  - name: c\n    image: \
         gantry.local/busybox:1.35\n    command: [sh, -c, '{script}']\n    {probe}\n    volumeMounts: [{{name: disk, \
         mountPath: /disk{mount}}}, {{name: memory, mountPath: /memory}}]\n---\n",
        dice.below(3)
    )
}

/// What a node has of pods, by where it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Left(BTreeMap<&'static str, Vec<String>>);

impl Left {
    fn of(node: &Node) -> Result<Self, String> {
        let (data, run) = (node.cluster.data_dir(), node.run_dir());
        let mut left = BTreeMap::new();
        left.insert("pods' folders", names(&data.join("pods")));
        left.insert("pods' logs", names(&data.join("logs/pods")));
        let addresses =
            names(&run.join("addresses")).into_iter().flat_map(|network| names(&run.join("addresses").join(network)));
        left.insert("addresses", addresses.filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect());
        left.insert("mounts", mounts(&[&data, &run]));
        left.insert("shims", shims(&run.join("containerd.sock")));
        left.insert("cgroups", cgroups(&node.cluster.cgroup_root()));
        let mut links = node.cluster.command("ip");
        let links = command::run(links.args(["-o", "link", "show", "type", "veth"]), b"").ok();
        left.insert("links", links.lines().map(str::to_owned).collect());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        left.extend(runtime.block_on(of_runtime(run.join("containerd.sock"), node.note("snapshotter")))?);
        Ok(Self(left))
    }
}

async fn of_runtime(socket: PathBuf, snapshotter: String) -> Result<BTreeMap<&'static str, Vec<String>>, String> {
    let channel = containerd_client::connect(socket).await.map_err(|error| error.to_string())?;
    let mut cri = RuntimeServiceClient::new(channel.clone());
    let failed = |status: tonic::Status| status.to_string();
    let sandboxes = cri.list_pod_sandbox(ListPodSandboxRequest::default()).await.map_err(failed)?.into_inner().items;
    let containers =
        cri.list_containers(ListContainersRequest::default()).await.map_err(failed)?.into_inner().containers;
    let mut request = tonic::Request::new(ListSnapshotsRequest { snapshotter, ..Default::default() });
    let namespace = "k8s.io".parse().map_err(|_| "no namespace")?;
    request.metadata_mut().insert("containerd-namespace", namespace);
    let snapshots = SnapshotsClient::new(channel).list(request).await.map_err(failed)?.into_inner();
    let snapshots: Vec<_> = snapshots.try_collect().await.map_err(failed)?;
    let snapshots = snapshots.into_iter().flat_map(|answer| answer.info);
    // Those that are committed belong to images.
    let active = snapshots.filter(|snapshot| snapshot.kind != 3).map(|snapshot| snapshot.name).collect();
    Ok(BTreeMap::from([
        ("sandboxes", sandboxes.into_iter().map(|sandbox| sandbox.id).collect()),
        ("containers", containers.into_iter().map(|container| container.id).collect()),
        ("snapshots", active),
    ]))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn mounts(folders: &[&Path]) -> Vec<String> {
    let all = std::fs::read_to_string("/proc/self/mountinfo").expect("the kernel tells what is mounted");
    let points = all.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .filter(|point| folders.iter().any(|folder| Path::new(point).starts_with(folder)))
        .map(str::to_owned)
        .collect()
}

/// Processes that serve containers of this containerd: its socket is on their command line.
fn shims(socket: &Path) -> Vec<String> {
    let socket = socket.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for pid in names(Path::new("/proc")).into_iter().filter(|name| name.parse::<u32>().is_ok()) {
        let line = std::fs::read(Path::new("/proc").join(&pid).join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains("containerd-shim") && line.contains(&socket) {
            found.push(format!("{pid} {line}"));
        }
    }
    found
}

/// The folders of pods below a cgroup, in every hierarchy.
fn cgroups(root: &str) -> Vec<String> {
    let base = Path::new("/sys/fs/cgroup");
    let hierarchies = names(base).into_iter().map(|name| base.join(name)).chain([base.to_owned()]);
    let below = |folder: PathBuf| names(&folder).into_iter().map(move |name| folder.join(name)).collect::<Vec<_>>();
    let root = root.trim_start_matches('/').to_owned();
    let instances = hierarchies.flat_map(|hierarchy| below(hierarchy.join(&root)));
    let pods = instances.filter(|path| path.is_dir()).flat_map(below);
    let pods = pods.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pod")));
    pods.map(|path| path.display().to_string()).collect()
}

/// One thing that happens. Pods are known by number; `count` of them were made.
fn happens(node: &mut Node, dice: &mut Dice, count: &mut usize, most: usize) -> &'static str {
    let some = |dice: &mut Dice, count: usize| format!("soak-{}", count - 1 - dice.below(count.clamp(1, most)));
    match dice.below(20) {
        0..8 => {
            let batch: String = (0..1 + dice.below(most / 8 + 1))
                .map(|_| {
                    *count += 1;
                    pod(&format!("soak-{}", *count - 1), dice)
                })
                .collect();
            node.tries(&["create", "-f", "-"], &batch);
            "create"
        }
        8..13 if *count > 0 => {
            let gone: Vec<String> = (0..1 + dice.below(most / 6 + 1)).map(|_| some(dice, *count)).collect();
            let mut arguments = vec!["delete", "pod", "--wait=false", "--ignore-not-found"];
            let now = dice.below(3) == 0;
            arguments.extend(now.then_some("--grace-period=0").into_iter().chain(now.then_some("--force")));
            arguments.extend(gone.iter().map(String::as_str));
            node.tries(&arguments, "");
            "delete"
        }
        13..15 if *count > 0 => {
            let name = some(dice, *count);
            let image = *dice.of(&["gantry.local/busybox:1.35", "gantry.local/missing:1"]);
            node.tries(&["set", "image", &format!("pod/{name}"), &format!("c={image}")], "");
            "edit"
        }
        15 | 16 => {
            let pid = std::fs::read_to_string(node.run_dir().join("containerd.pid")).unwrap_or_default();
            let pid = pid.split_whitespace().next().unwrap_or_default().to_owned();
            if pid.parse::<u32>().is_ok() {
                node.kill(&pid);
            }
            "kill containerd"
        }
        17 | 18 => {
            node.kill(&node.agent.to_string());
            std::thread::sleep(Duration::from_millis(dice.below(2000) as u64));
            node.start_agent();
            "kill the agent"
        }
        19 => {
            node.cluster.server().kill();
            std::thread::sleep(Duration::from_millis(dice.below(2000) as u64));
            node.cluster.up();
            "kill the API server"
        }
        _ => "nothing",
    }
}

#[test]
#[ignore = "it runs on demand: the logs of a pod can be left when the agent is killed at the very end of its removal"]
fn a_troubled_node_is_in_the_end_as_a_fresh_one() {
    let (seconds, most) = (number("GANTRY_SOAK_SECONDS", 30), number("GANTRY_SOAK_PODS", 16) as usize);
    let chosen = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |since| since.as_secs());
    let seed = number("GANTRY_SOAK_SEED", chosen);
    println!("GANTRY_SOAK_SEED={seed} GANTRY_SOAK_SECONDS={seconds} GANTRY_SOAK_PODS={most}");
    let Some(mut node) = Node::start() else { return };
    let fresh = eventually("a node without pods", PATIENCE, || Left::of(&node));

    let (mut dice, mut count, end) = (Dice(seed), 0, Instant::now() + Duration::from_secs(seconds));
    let mut happened: BTreeMap<&str, usize> = BTreeMap::new();
    let mut told_at = Instant::now();
    while Instant::now() < end {
        *happened.entry(happens(&mut node, &mut dice, &mut count, most)).or_default() += 1;
        std::thread::sleep(Duration::from_millis(dice.below(700) as u64));
        if told_at.elapsed() > Duration::from_secs(60) {
            told_at = Instant::now();
            println!("{count} pods so far, {happened:?}");
        }
        if count > most * 2 {
            // No more than that many at a time: the oldest go.
            let oldest: Vec<String> =
                (count.saturating_sub(most * 4)..count - most).map(|n| format!("soak-{n}")).collect();
            let mut arguments = vec!["delete", "pod", "--wait=false", "--ignore-not-found"];
            arguments.extend(oldest.iter().map(String::as_str));
            node.tries(&arguments, "");
        }
    }
    println!("{count} pods in all, {happened:?}");
    assert!(count > 0, "something happened");

    node.cluster.wait_ready();
    eventually("all pods to go", PATIENCE, || {
        node.tries(&["delete", "pods", "--all", "--wait=false"], "");
        let pods = node.cluster.object(&["pods"])?;
        let names: Vec<_> =
            pods["items"].as_array().into_iter().flatten().map(|pod| pod["metadata"]["name"].clone()).collect();
        if names.is_empty() { Ok(()) } else { Err(format!("{names:?}")) }
    });
    eventually("the node to be as a fresh one", PATIENCE, || {
        let now = Left::of(&node)?;
        if now == fresh { Ok(()) } else { Err(format!("seed {seed}: {now:#?}\ninstead of {fresh:#?}")) }
    });
}
