//! What a runtime that is killed or stuck leaves behind, and that it does not stay.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{PrepareSnapshotRequest, StatSnapshotRequest};
use containerd_client::services::v1::{CreateRequest, ListRequest};
use gantry_node_agent::runtime::PortMapping;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Node, eventually, isolated};

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// The processes on whose command line this stands.
fn processes_with(text: &str) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let with = all.filter(|entry| {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(text)
    });
    with.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The network namespaces that containerd has mounted.
fn namespaces(node: &Node) -> Vec<PathBuf> {
    let state = node.instance().state_dir();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let is_one = |point: &PathBuf| point.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cni-"));
    points.filter(|point| point.starts_with(&state)).filter(is_one).collect()
}

/// A plug-in has led a port of the node to a sandbox's address.
fn open_port(sandbox: &str, host_port: u16, ip: &str) {
    let config = serde_json::json!({
        "cniVersion": "0.4.0", "name": "gantry", "type": "portmap", "snat": true,
        "runtimeConfig": {"portMappings": [{"hostPort": host_port, "containerPort": 80, "protocol": "tcp"}]},
        "prevResult": {"cniVersion": "0.4.0", "interfaces": [{"name": "eth0", "sandbox": "/none"}],
            "ips": [{"version": "4", "interface": 0, "address": format!("{ip}/24")}]},
    });
    let folders = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"].map(Path::new);
    let folder = folders.into_iter().find(|folder| folder.join("portmap").exists()).unwrap();
    let mut plugin = Command::new(folder.join("portmap"))
        .envs([("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", sandbox), ("CNI_IFNAME", "eth0")])
        .envs([("CNI_NETNS", Path::new("/proc/self/ns/net")), ("CNI_PATH", folder)])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    plugin.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    assert!(plugin.wait().unwrap().success());
}

/// The ports of the node that lead to addresses of pods, as `port ADDRESS:PORT`.
fn open_ports() -> Vec<String> {
    let rules = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    let rules = String::from_utf8(rules.stdout).unwrap();
    let to = |line: &str| {
        let (port, to) = line.split_once("tcp dport ")?.1.split_once(" counter")?;
        let (_, to) = to.split_once(" dnat to ")?;
        Some(format!("{port} {}", to.trim()))
    };
    let mut ports: Vec<_> = rules.lines().filter_map(to).collect();
    ports.sort();
    ports
}

/// A request in CRI's namespace, to whose effects a lease holds on.
fn leased<T>(request: T, lease: &'static str) -> tonic::Request<T> {
    let mut request = tonic::Request::new(request);
    request.metadata_mut().insert("containerd-namespace", "k8s.io".parse().unwrap());
    request.metadata_mut().insert("containerd-lease", lease.parse().unwrap());
    request
}

/// What CRI has begun of a container before it is known: a lease for a day and a snapshot, both of this name.
async fn begin_container(socket: &Path, snapshotter: &str, name: &'static str) {
    let channel = containerd_client::connect(socket).await.unwrap();
    let expiry = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24)).to_string();
    let labels = HashMap::from([("containerd.io/gc.expire".to_owned(), expiry)]);
    let lease = CreateRequest { id: name.to_owned(), labels };
    LeasesClient::new(channel.clone()).create(leased(lease, name)).await.unwrap();
    let snapshot =
        PrepareSnapshotRequest { snapshotter: snapshotter.to_owned(), key: name.to_owned(), ..Default::default() };
    SnapshotsClient::new(channel).prepare(leased(snapshot, name)).await.unwrap();
}

/// Whether containerd answers and knows neither the lease nor the snapshot.
async fn is_forgotten(socket: &Path, snapshotter: &str, name: &'static str) -> bool {
    let Ok(channel) = containerd_client::connect(socket).await else { return false };
    let leases = LeasesClient::new(channel.clone()).list(leased(ListRequest::default(), name)).await;
    let Ok(leases) = leases else { return false };
    let stat = StatSnapshotRequest { snapshotter: snapshotter.to_owned(), key: name.to_owned() };
    let snapshot = SnapshotsClient::new(channel).stat(leased(stat, name)).await;
    leases.into_inner().leases.iter().all(|lease| lease.id != name)
        && snapshot.is_err_and(|status| status.code() == tonic::Code::NotFound)
}

#[test]
fn what_a_killed_containerd_has_forgotten_is_removed() {
    isolated("leaks::what_a_killed_containerd_has_forgotten_is_removed", || async {
        let node = Node::start().await;
        let mut config = node.sandbox("steady");
        let mapping =
            PortMapping { protocol: "TCP".into(), container_port: 80, host_port: 8081, host_ip: String::new() };
        config.port_mappings = vec![mapping];
        let sandbox = node.runtime.run_sandbox(&config).await.unwrap();
        let container = node.container(&config, "main", "while true; do sleep 1; done");
        let id = node.runtime.create_container(&sandbox, &container, &config).await.unwrap();
        node.runtime.start_container(&id).await.unwrap();
        let own = namespaces(&node);
        assert_eq!(own.len(), 1, "below the instance's own folder");
        let ip = node.runtime.pod("uid-steady").await.unwrap().sandboxes[0].ips[0];
        let addresses = node.instance().addresses_dir().join("gantry");
        assert!(addresses.join(ip.to_string()).exists());

        // As they are left when it is killed in the middle of making a sandbox.
        let lost_address = addresses.join("10.245.7.250");
        std::fs::write(&lost_address, "0123456789abcdef\r\neth0").unwrap();
        open_port("0123456789abcdef", 8082, "10.245.7.250");
        let steady_port = format!("8081 {ip}:80");
        assert_eq!(open_ports(), [steady_port.clone(), "8082 10.245.7.250:80".to_owned()]);
        let lost_namespace = own[0].with_file_name("cni-lost");
        std::fs::write(&lost_namespace, "").unwrap();
        let pin = Command::new("unshare").arg(format!("--net={}", lost_namespace.display())).arg("true").status();
        assert!(pin.unwrap().success());
        assert_eq!(namespaces(&node).len(), 2);
        let socket = node.instance().socket();
        let flags = format!("-namespace k8s.io -id lost -address {}", socket.display());
        let shim = format!("exec -a containerd-shim-runc-v2 sh -c 'while true; do sleep 1; done' {flags}");
        let mut lost_shim = Command::new("bash").arg("-c").arg(shim).spawn().unwrap();

        let record = std::fs::read(node.data.join("containerd/instance.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        let snapshotter = record["snapshotter"].as_str().unwrap();
        begin_container(&socket, snapshotter, "lost").await;
        assert!(!is_forgotten(&socket, snapshotter, "lost").await);

        signal(node.containerd_pid(), Signal::KILL);
        eventually("what is lost is removed", || async {
            let forgotten = is_forgotten(&socket, snapshotter, "lost").await;
            forgotten && !lost_address.exists() && !lost_namespace.exists() && namespaces(&node) == own
        })
        .await;
        assert_eq!(open_ports(), [steady_port], "the port of a pod that lives still leads there");
        assert!(!lost_shim.wait().unwrap().success(), "it was killed");
        assert_eq!(processes_with(socket.to_str().unwrap()).len(), 1, "the shim of a pod that lives is kept");
        assert!(addresses.join(ip.to_string()).exists(), "the address of a pod that lives is kept");
        node.runtime.stop_sandbox(&sandbox).await.unwrap();
        node.runtime.remove_sandbox(&sandbox).await.unwrap();
        assert!(open_ports().is_empty() && namespaces(&node).is_empty() && !addresses.join(ip.to_string()).exists());
        node.stop().await;
    });
}

#[test]
fn a_container_whose_start_never_ends_does_not_keep_its_pod() {
    isolated("leaks::a_container_whose_start_never_ends_does_not_keep_its_pod", || async {
        let node = Node::start().await;
        let sandbox = node.sandbox("stuck");
        let sandbox_id = node.runtime.run_sandbox(&sandbox).await.unwrap();
        let config = node.container(&sandbox, "main", "while true; do sleep 1; done");
        let id = node.runtime.create_container(&sandbox_id, &config, &sandbox).await.unwrap();
        let shims = processes_with(&sandbox_id);
        assert_eq!(shims.len(), 1, "one process serves the pod");
        signal(shims[0], Signal::STOP);
        // One of the two is refused, as the other does not come to its end.
        let starts = [(); 2].map(|()| {
            let (runtime, container) = (node.runtime.clone(), id.clone());
            tokio::spawn(async move { runtime.start_container(&container).await })
        });
        let (refused, _, pending) = futures::future::select_all(starts).await;
        let refused = refused.unwrap().unwrap_err().to_string();
        assert!(refused.contains("starting"), "{refused}");
        assert!(node.runtime.remove_container(&id).await.is_err(), "nor can it be removed");
        node.runtime.stop_sandbox(&sandbox_id).await.unwrap();
        node.runtime.remove_sandbox(&sandbox_id).await.unwrap();
        for start in pending {
            assert!(start.await.unwrap().is_err());
        }
        assert!(node.runtime.list().await.unwrap().is_empty());
        // containerd still runs what clears up after a shim that died.
        eventually("nothing serves it any more", || async { processes_with(&sandbox_id).is_empty() }).await;
        node.stop().await;
    });
}
