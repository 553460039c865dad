//! The same system with each component in a process of its own and etcd as the store.

use std::path::Path;
use std::time::Duration;

use gantry_integration_tests::{Cluster, Options, eventually};

#[test]
fn the_shop_runs_with_five_processes_and_etcd() {
    let Some(mut cluster) = Cluster::start(Options { idle: true, ..Options::default() }) else { return };
    if !cluster.start_etcd() {
        return;
    }
    let scratch = cluster.scratch().to_path_buf();

    let gantry = cluster.tools().gantry.clone();
    let mut command = cluster.command(&gantry);
    command.args(["apiserver", "--store", "etcd://127.0.0.1:2379", "--data-dir"]).arg(cluster.data_dir());
    cluster.spawn("apiserver", command);
    eventually("the API server", Duration::from_secs(30), || cluster.object(&["namespace", "default"]).map(|_| ()));

    for (name, identity) in [
        ("controllers", &["controllers"][..]),
        ("scheduler", &["scheduler"]),
        ("agent", &["node", "node-1", "--ip", "127.0.0.1"]),
    ] {
        let kubeconfig = scratch.join(format!("{name}.kubeconfig"));
        let mut command = cluster.command(&gantry);
        command.arg("kubeconfig").arg("--data-dir").arg(cluster.data_dir()).args(identity);
        let text = gantry_integration_tests::command::run(&mut command, b"").ok();
        std::fs::write(&kubeconfig, text).expect("the scratch folder can be written");
        let mut command = cluster.command(&gantry);
        command.arg(name).arg("--kubeconfig").arg(kubeconfig);
        if name == "agent" {
            command
                .args(["--node-name", "node-1", "--cgroup-root", &cluster.cgroup_root(), "--data-dir"])
                .arg(cluster.data_dir());
        }
        cluster.spawn(name, command);
    }
    cluster.wait_ready();

    let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop");
    cluster.kubectl(&["apply", "-f", shop.to_str().expect("UTF-8")]).ok();
    cluster.kubectl(&["rollout", "status", "-n", "shop", "deployment/front", "--timeout=120s"]).ok();
    let ips = cluster
        .kubectl(&["get", "pods", "-n", "shop", "-l", "app=front", "-o", "jsonpath={.items[*].status.podIP}"])
        .ok();
    assert_eq!(ips.split_whitespace().count(), 3, "{ips}");
    for ip in ips.split_whitespace() {
        let url = format!("http://{ip}:8080/");
        let page =
            cluster.kubectl(&["exec", "-n", "shop", "deployment/redis", "--", "wget", "-q", "-O", "-", &url]).ok();
        assert!(page.contains("Kettle"), "{page}");
    }
    let logs = cluster.kubectl(&["logs", "-n", "shop", "deployment/front", "-c", "nginx", "--tail=1"]).ok();
    assert!(logs.contains("GET / HTTP/1.1"), "{logs}");
}
