//! One node under random trouble: pods come, change and go while containerd, the agent and the API server are killed. In the end
//! the node is as one that never had a pod.
//!
//! `cargo xtask soak node --minutes 30` runs it. What happens follows from the seed that is printed, when it happens does not.
#![allow(clippy::print_stdout, reason = "whoever runs it long wants to see how far it is")]

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use gantry_integration_tests::{Cluster, Options, command, eventually, left};

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
    let stays = "trap exit TERM; while :; do sleep 1; done";
    let ends = format!("sleep {}; exit {}", dice.below(3), dice.below(2));
    let deaf = "trap : TERM; while :; do sleep 1; done";
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
            let run = left::run_dir(&node.cluster).unwrap_or_default();
            let pid = std::fs::read_to_string(run.join("containerd.pid")).unwrap_or_default();
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
fn a_troubled_node_is_in_the_end_as_a_fresh_one() {
    let (seconds, most) = (number("GANTRY_SOAK_SECONDS", 30), number("GANTRY_SOAK_PODS", 16) as usize);
    let chosen = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |since| since.as_secs());
    let seed = number("GANTRY_SOAK_SEED", chosen);
    println!("GANTRY_SOAK_SEED={seed} GANTRY_SOAK_SECONDS={seconds} GANTRY_SOAK_PODS={most}");
    let Some(mut node) = Node::start() else { return };
    // Its images are still being unpacked when it is ready.
    left::wait_for_nothing(&node.cluster);

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
    left::wait_for_nothing(&node.cluster);
}
