//! The service proxy's rules, loaded into a kernel and used.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use gantry_node_agent::linux::services::plan::{ServiceFacts, Settings, SliceFacts, ruleset};
use gantry_node_agent::linux::services::remove_table;
use serde_json::json;

use crate::harness::{Node, POD_CIDR, isolated};

fn load(text: &str) {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "{text}");
}

fn rules(endpoints: &[&str]) -> String {
    let service = json!({
        "metadata": { "name": "web", "namespace": "test" },
        "spec": {
            "clusterIP": "10.97.0.9",
            "ports": [{ "port": 80, "nodePort": 30080, "targetPort": 8080, "protocol": "TCP" }],
        },
    });
    let endpoints: Vec<_> = endpoints.iter().map(|ip| json!({ "addresses": [ip] })).collect();
    let slice = json!({
        "metadata": {
            "name": "web-1", "namespace": "test", "labels": { "kubernetes.io/service-name": "web" },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "", "port": 8080, "protocol": "TCP" }],
        "endpoints": endpoints,
    });
    let key = ("test".to_owned(), "web".to_owned());
    let service = ServiceFacts::of(&serde_json::from_value(service).unwrap()).unwrap();
    let slice = SliceFacts::of(&serde_json::from_value(slice).unwrap()).unwrap();
    let settings =
        Settings { table: "gantry-test".to_owned(), pod_cidrs: vec![POD_CIDR.to_owned()], cluster_cidrs: vec![] };
    ruleset(&settings, &BTreeMap::from([(key.clone(), service)]), &BTreeMap::from([(key, slice)]))
}

#[test]
fn a_service_is_reached_from_pods_from_itself_and_from_the_node() {
    isolated("services::a_service_is_reached_from_pods_from_itself_and_from_the_node", || async {
        let node = Node::start().await;
        let serve = "echo found > /tmp/index.html; exec httpd -f -p 8080 -h /tmp";
        let (_, server) = node.run_pod("server", serve).await;
        let (_, client) = node.run_pod("client", "sleep 1000").await;
        let pod = node.runtime.pod("uid-server").await.unwrap();
        let ip = pod.sandboxes[0].ips[0].to_string();
        load(&rules(&[&ip]));
        load(&rules(&[&ip]));
        let run = |script: String| Command::new("/bin/busybox").args(["sh", "-c", &script]).output().unwrap();
        assert!(
            Command::new("ip")
                .args(["route", "add", "10.97.0.0/16", "dev", &node.instance().bridge()])
                .status()
                .unwrap()
                .success()
        );

        let fetch = |url: &str| ["sh".to_owned(), "-c".to_owned(), format!("timeout -s KILL 3 wget -q -O - {url}")];
        let gateway = "10.245.7.1";
        for (who, id) in [("another pod", &client), ("the endpoint itself", &server)] {
            for url in ["http://10.97.0.9/", &format!("http://{gateway}:30080/")] {
                let output = node.runtime.exec_sync(id, &fetch(url), Duration::from_secs(10)).await.unwrap();
                assert_eq!(output.stdout, b"found\n", "{who} at {url}: {output:?}");
            }
        }
        let output = run("timeout 3 /bin/busybox wget -q -O - http://10.97.0.9/".to_owned());
        assert_eq!(output.stdout, b"found\n", "the node: {output:?}");

        load(&rules(&[]));
        let started = std::time::Instant::now();
        let output =
            node.runtime.exec_sync(&client, &fetch("http://10.97.0.9/"), Duration::from_secs(10)).await.unwrap();
        assert_ne!(output.exit_code, 0);
        assert!(started.elapsed() < Duration::from_secs(2), "not refused at once: {output:?}");
        remove_table("gantry-test").await.unwrap();
        remove_table("gantry-test").await.unwrap();
        node.stop().await;
    });
}
