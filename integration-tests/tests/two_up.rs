//! Two whole servers on one etcd of three members, as docs/etcd.md tells an administrator to start them: one of them leads, the
//! other takes over when it is killed, when it comes back it stands by, and neither needs all members of etcd.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use gantry_integration_tests::command::run;
use gantry_integration_tests::process::Process;
use gantry_integration_tests::{Cluster, Options, Outcome, eventually, tools};

const MEMBERS: [u16; 3] = [2_379, 12_379, 22_379];
const LEASES: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];
/// Short times, in the same proportions as the defaults, so that the test is short.
const TIMES: [&str; 3] =
    ["--leader-elect-lease-duration=6s", "--leader-elect-renew-deadline=4s", "--leader-elect-retry-period=1s"];
const DEPLOYMENT: &str = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 2,
  selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {tolerations: [{operator: Exists}],
  containers: [{name: main, image: gantry.local/busybox:1.35}]}}}}";
/// A node that only the API has: pods are placed on it and never start.
const NODE: &str = "{apiVersion: v1, kind: Node, metadata: {name: paper}}";
const STATUS: &str = r#"{"status": {"allocatable": {"cpu": "8", "memory": "8Gi", "pods": "110"},
  "capacity": {"cpu": "8", "memory": "8Gi", "pods": "110"}, "conditions": [{"type": "Ready", "status": "True"}]}}"#;

/// The machine, its etcd and the two servers.
struct Pair {
    servers: [Option<Process>; 2],
    members: Vec<Process>,
    cluster: Cluster,
}

impl Pair {
    fn start() -> Option<Self> {
        let cluster = Cluster::start(Options { idle: true, without_agent: true, ..Options::default() })?;
        let (Some(etcd), Some(etcdctl)) = (tools::program("etcd"), tools::program("etcdctl")) else {
            assert!(
                std::env::var_os("CI").is_none(),
                "this test needs etcd and etcdctl (Debian: etcd-server, etcd-client)"
            );
            eprintln!("skipped: this test needs etcd and etcdctl (Debian: etcd-server, etcd-client)");
            return None;
        };
        let mut pair = Pair { servers: [None, None], members: Vec::new(), cluster };
        let peer = |port: u16| format!("http://127.0.0.1:{}", port + 1);
        let all: Vec<String> = MEMBERS.map(|port| format!("m{port}={}", peer(port))).into();
        for port in MEMBERS {
            let clients = format!("http://127.0.0.1:{port}");
            let mut command = pair.cluster.command(&etcd);
            command.args(["--name", &format!("m{port}"), "--initial-cluster", &all.join(",")]);
            command.arg("--data-dir").arg(pair.cluster.scratch().join(format!("etcd-{port}")));
            command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
            command.args(["--listen-peer-urls", &peer(port), "--initial-advertise-peer-urls", &peer(port)]);
            let log = pair.cluster.scratch().join(format!("etcd-{port}.log"));
            pair.members.push(Process::start(command, &log));
        }
        pair.make_user(&etcdctl);
        Some(pair)
    }

    /// A user that may read and write below the prefix, and nothing else.
    fn make_user(&self, etcdctl: &PathBuf) {
        let ctl = |args: &[&str]| {
            let mut command = self.cluster.command(etcdctl);
            run(command.env("ETCDCTL_API", "3").arg("--endpoints=127.0.0.1:2379").args(args), b"")
        };
        eventually("etcd", Duration::from_secs(60), || match ctl(&["get", "nothing"]) {
            outcome if outcome.code == 0 => Ok(()),
            outcome => Err(outcome.to_string()),
        });
        for args in [
            &["user", "add", "root:root"][..],
            &["user", "grant-role", "root", "root"],
            &["user", "add", "gantry:pass word"],
            &["role", "add", "gantry"],
            &["role", "grant-permission", "--prefix=true", "gantry", "readwrite", "/clusters/one"],
            &["user", "grant-role", "gantry", "gantry"],
            &["auth", "enable"],
        ] {
            ctl(args).ok();
        }
        let file = self.cluster.scratch().join("etcd-password");
        std::fs::write(file, "pass word\n").expect("the scratch folder can be written");
    }

    fn data_dir(&self, server: usize) -> PathBuf {
        if server == 0 { self.cluster.data_dir() } else { self.cluster.scratch().join("other") }
    }

    fn start_server(&mut self, server: usize) {
        let mut command = self.cluster.command(&self.cluster.tools().gantry);
        command.args(["up", "--no-agent", "--data-dir"]).arg(self.data_dir(server));
        command.args(["--listen", &format!("127.0.0.1:{}", 6_443 + server)]);
        command.args(["--store", "etcd://127.0.0.1:2379,127.0.0.1:12379,127.0.0.1:22379"]);
        command.args(["--etcd-user", "gantry", "--etcd-prefix", "/clusters/one", "--etcd-password-file"]);
        command.arg(self.cluster.scratch().join("etcd-password")).args(TIMES);
        let log = self.cluster.scratch().join(format!("up-{server}.log"));
        self.servers[server] = Some(Process::start(command, &log));
        eventually("the server", Duration::from_secs(90), || {
            let process = self.servers[server].as_mut().expect("just started");
            if process.ended().is_some() {
                panic!("the server ended\n{}", process.tail(40));
            }
            let outcome = self.kubectl(server, &["get", "namespace", "default"]);
            if outcome.code == 0 { Ok(()) } else { Err(outcome.stderr) }
        });
    }

    fn kubectl(&self, server: usize, args: &[&str]) -> Outcome {
        self.kubectl_with(server, args, b"")
    }

    fn kubectl_with(&self, server: usize, args: &[&str], input: &[u8]) -> Outcome {
        let mut command = self.cluster.command(&self.cluster.tools().kubectl);
        let kubeconfig = self.data_dir(server).join("admin.kubeconfig");
        run(command.arg("--kubeconfig").arg(kubeconfig).arg("--request-timeout=20s").args(args), input)
    }

    /// Which leases a server holds, by its own metrics.
    fn leads(&self, server: usize) -> Result<Vec<&'static str>, String> {
        let outcome = self.kubectl(server, &["get", "--raw", "/metrics"]);
        if outcome.code != 0 {
            return Err(outcome.stderr);
        }
        let held = |lease: &&str| {
            let of_lease = |line: &&str| line.starts_with("leader_election_master_status") && line.contains(*lease);
            outcome.stdout.lines().find(of_lease).is_some_and(|line| line.ends_with(" 1"))
        };
        Ok(LEASES.into_iter().filter(held).collect())
    }

    /// Waits until one server leads everything, and returns how long that took.
    fn wait_leader(&self, server: usize) -> Duration {
        let start = Instant::now();
        eventually("the server to lead", Duration::from_secs(60), || match self.leads(server) {
            Ok(leases) if leases == LEASES => Ok(()),
            other => Err(format!("{other:?}")),
        });
        start.elapsed()
    }

    fn scaled_and_placed(&self, server: usize, replicas: usize) {
        // The member of etcd that a write goes to may be the one that was killed: a client tries again, as it is told to.
        eventually("the deployment to be scaled", Duration::from_secs(60), || {
            let outcome = self.kubectl(server, &["scale", "deployment/web", &format!("--replicas={replicas}")]);
            if outcome.code == 0 { Ok(()) } else { Err(outcome.to_string()) }
        });
        eventually("the pods to be made and placed", Duration::from_secs(90), || {
            let nodes = ["get", "pods", "-l", "app=web", "-o", "jsonpath={range .items[*]}[{.spec.nodeName}]{end}"];
            let found = self.kubectl(server, &nodes).stdout;
            if found == "[paper]".repeat(replicas) { Ok(()) } else { Err(found) }
        });
    }
}

#[test]
fn of_two_servers_on_one_etcd_the_second_takes_over_when_the_first_is_killed() {
    let Some(mut pair) = Pair::start() else { return };
    pair.start_server(0);
    pair.wait_leader(0);
    let (from, to) = (pair.data_dir(0).join("pki"), pair.data_dir(1));
    std::fs::create_dir_all(&to).expect("the scratch folder can be written");
    run(Command::new("cp").arg("-r").arg(from).arg(to.join("pki")), b"").ok();
    pair.start_server(1);
    pair.kubectl_with(0, &["apply", "-f", "-"], NODE.as_bytes()).ok();
    pair.kubectl(0, &["patch", "node", "paper", "--subresource=status", "--type=merge", "-p", STATUS]).ok();
    eventually("the default account", Duration::from_secs(60), || {
        let outcome = pair.kubectl(0, &["get", "serviceaccount", "default"]);
        if outcome.code == 0 { Ok(()) } else { Err(outcome.stderr) }
    });
    pair.kubectl_with(1, &["apply", "-f", "-"], DEPLOYMENT.as_bytes()).ok();
    pair.scaled_and_placed(1, 2);
    assert_eq!(pair.leads(1).expect("metrics"), Vec::<&str>::new(), "the second stands by");

    // One member of etcd and the server that leads die.
    pair.members[0].kill();
    pair.servers[0].take().expect("running").kill();
    let taken_over = pair.wait_leader(1);
    println!("the second leads {taken_over:?} after the first was killed; the lease lasts 6s");
    pair.scaled_and_placed(1, 5);

    // The first comes back and stands by, until the second is told to stop and hands over at once.
    pair.start_server(0);
    assert_eq!(pair.leads(0).expect("metrics"), Vec::<&str>::new(), "the first stands by");
    let mut second = pair.servers[1].take().expect("running");
    let status = second.terminate();
    assert!(status.success(), "{status}\n{}", second.tail(40));
    println!("the first leads again {:?} after the second had stopped", pair.wait_leader(0));
    pair.scaled_and_placed(0, 6);
    let mut first = pair.servers[0].take().expect("running");
    assert!(first.terminate().success(), "{}", first.tail(40));
}
