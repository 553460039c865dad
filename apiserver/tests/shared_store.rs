//! Two API servers over one etcd: each sees what the other acknowledged, and they never hand out the same address.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{Server, config_map};
use serde_json::{Value, json};

/// An etcd of its own, ended with the test.
struct Etcd {
    child: Child,
    endpoint: String,
    _dir: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Etcd {
    /// None if etcd is not installed, which on CI is a failure.
    fn start() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (client, peer) = (free(), free());
        let endpoint = format!("http://127.0.0.1:{client}");
        let peer = format!("http://127.0.0.1:{peer}");
        let started = Command::new("etcd")
            .args(["--data-dir", dir.path().to_str().unwrap(), "--log-level", "error"])
            .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match started {
            Ok(child) => Some(Self { child, endpoint, _dir: dir }),
            Err(_) => {
                assert!(std::env::var_os("CI").is_none(), "etcd is not installed, and CI must not skip its tests");
                eprintln!("skipped: etcd is not installed (Debian: etcd-server)");
                None
            }
        }
    }

    async fn server(&self) -> Server {
        let target = gantry_store::Target::Etcd(vec![self.endpoint.clone()]);
        for _ in 0..100 {
            // etcd takes a moment to listen, so the first attempts may find nobody.
            let address = self.endpoint.trim_start_matches("http://");
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Server::start_with(dir, |options| options.store = target).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sees_what_the_other_acknowledged() {
    let Some(etcd) = Etcd::start() else { return };
    let (one, two) = (etcd.server().await, etcd.server().await);
    let admin = one.namespace("t").await;
    let other = two.admin();
    let path = "/api/v1/namespaces/t/configmaps";
    let mut watch = other.watch(&format!("{path}?watch=true")).await;
    for index in 0..30 {
        let name = format!("c{index}");
        admin.post(path, &config_map(&name)).await.expect(201);
        other.get(&format!("{path}/{name}")).await.expect(200);
        let list = other.get(path).await.expect(200);
        assert_eq!(list["items"].as_array().unwrap().len(), index + 1);
        assert_eq!(watch.step().await, ("ADDED".into(), name.clone()));
        let patched =
            other.patch(&format!("{path}/{name}"), "merge-patch", &json!({"data": {"by": "two"}})).await.expect(200);
        assert_eq!(watch.step().await, ("MODIFIED".into(), name.clone()));
        assert_eq!(admin.get(&format!("{path}/{name}")).await.expect(200), patched);
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn they_never_hand_out_the_same_address() {
    let Some(etcd) = Etcd::start() else { return };
    let dir = || Arc::new(tempfile::tempdir().unwrap());
    let first = etcd.server().await;
    first.stop().await;
    // A range so small that both servers choose the same addresses all the time.
    let small = |options: &mut gantry_apiserver::Options| {
        options.store = gantry_store::Target::Etcd(vec![etcd.endpoint.clone()]);
        options.service_cidr = "10.96.0.0/26".parse().unwrap();
    };
    let (one, two) = (Server::start_with(dir(), small).await, Server::start_with(dir(), small).await);
    one.namespace("t").await;
    let creating = (0..24).map(|index| {
        let client = if index % 2 == 0 { one.admin() } else { two.admin() };
        tokio::spawn(async move {
            let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{index}")}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
            client.post("/api/v1/namespaces/t/services", &service).await.expect(201)
        })
    });
    let mut addresses = BTreeSet::new();
    let mut ports = BTreeSet::new();
    for created in creating.collect::<Vec<_>>() {
        let service: Value = created.await.unwrap();
        assert!(addresses.insert(service["spec"]["clusterIP"].as_str().unwrap().to_owned()));
        assert!(ports.insert(service["spec"]["ports"][0]["nodePort"].as_u64().unwrap()));
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn together_they_let_in_exactly_what_a_quota_allows() {
    let Some(etcd) = Etcd::start() else { return };
    let (one, two) = (etcd.server().await, etcd.server().await);
    let admin = one.namespace("t").await;
    let quotas = "/api/v1/namespaces/t/resourcequotas";
    let hard = json!({"count/configmaps": "7"});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": hard}});
    admin.post(quotas, &quota).await.expect(201);
    let counted = json!({"status": {"hard": hard, "used": {"count/configmaps": "0"}}});
    admin.patch(&format!("{quotas}/q/status"), "merge-patch", &counted).await.expect(200);
    let creating = (0..24).map(|index| {
        let client = if index % 2 == 0 { one.admin() } else { two.admin() };
        tokio::spawn(async move {
            client.post("/api/v1/namespaces/t/configmaps", &config_map(&format!("c{index}"))).await.code
        })
    });
    let mut codes = Vec::new();
    for created in creating.collect::<Vec<_>>() {
        codes.push(created.await.unwrap());
    }
    codes.sort_unstable();
    assert_eq!(codes, [vec![201; 7], vec![403; 17]].concat());
    let quota = two.admin().get(&format!("{quotas}/q")).await.expect(200);
    assert_eq!(quota["status"]["used"]["count/configmaps"], "7");
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn together_they_bind_to_a_node_exactly_what_fits() {
    let Some(etcd) = Etcd::start() else { return };
    let (one, two) = (etcd.server().await, etcd.server().await);
    let admin = one.namespace("t").await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    admin.post("/api/v1/nodes", &node).await.expect(201);
    let status = json!({"status": {"allocatable": {"cpu": "1", "pods": "100"}}});
    admin.patch("/api/v1/nodes/n/status", "merge-patch", &status).await.expect(200);
    for index in 0..24 {
        let mut pod = common::pod(&format!("p{index}"));
        pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "140m"}});
        admin.post("/api/v1/namespaces/t/pods", &pod).await.expect(201);
    }
    let binding = (0..24).map(|index| {
        let client = if index % 2 == 0 { one.admin() } else { two.admin() };
        tokio::spawn(async move {
            let annotations = json!({"gantry.io/if-fits": "true"});
            let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": format!("p{index}"), "annotations": annotations}, "target": {"kind": "Node", "name": "n"}});
            client.post(&format!("/api/v1/namespaces/t/pods/p{index}/binding"), &binding).await.code
        })
    });
    let mut codes = Vec::new();
    for bound in binding.collect::<Vec<_>>() {
        codes.push(bound.await.unwrap());
    }
    codes.sort_unstable();
    assert_eq!(codes, [vec![201; 7], vec![409; 17]].concat());
    one.stop().await;
    two.stop().await;
}
