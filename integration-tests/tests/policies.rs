//! Policies of namespaces and what looks into running pods, with real kubectl and real containers.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use gantry_integration_tests::shared::Shared;
use gantry_integration_tests::{Cluster, command, eventually};
use serde_json::json;

static CLUSTER: Shared = Shared::new();

const MINUTE: Duration = Duration::from_secs(60);
const PAGE: &str = include_str!("../../docs/quotas-and-limits.md");

fn cluster() -> Option<Arc<Cluster>> {
    CLUSTER.get()
}

/// The fenced blocks of a page: their kind and text.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    let mut blocks = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once("\n```") {
        let Some((kind, after)) = after.split_once('\n') else { break };
        let Some((text, after)) = after.split_once("\n```") else { break };
        blocks.push((kind, text));
        rest = after;
    }
    blocks
}

#[test]
fn the_page_on_sharing_a_cluster_is_true() {
    let Some(cluster) = cluster() else { return };
    let bin = cluster.scratch().join("bin");
    fs::create_dir_all(&bin).unwrap();
    std::os::unix::fs::symlink(&cluster.tools().kubectl, bin.join("kubectl")).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let blocks = blocks(PAGE);
    assert!(blocks.iter().any(|(kind, _)| *kind == "text"), "the page shows what is answered");
    for (at, (kind, text)) in blocks.iter().enumerate() {
        if *kind != "sh" {
            continue;
        }
        let mut shell: Command = cluster.command("sh");
        shell.args(["-euc", text]).env("PATH", &path).env("KUBECONFIG", cluster.kubeconfig());
        let outcome = command::run(&mut shell, b"");
        match blocks.get(at + 1) {
            Some(("text", expected)) => {
                let said = format!("{}{}", outcome.stdout, outcome.stderr);
                for line in expected.lines() {
                    assert!(said.contains(line), "expected {line:?}: {outcome}");
                }
            }
            _ => drop(outcome.ok()),
        }
    }
}

fn server_pod(name: &str) -> String {
    let script = "mkdir /tmp/www; echo hello > /tmp/www/index.html; exec busybox httpd -f -p 8080 -h /tmp/www";
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
            "name": "main", "image": "gantry.local/busybox:1.35", "command": ["sh", "-c", script],
            "ports": [{"name": "web", "containerPort": 8080}],
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        }]},
    })
    .to_string()
}

#[test]
fn pods_and_services_are_reached_through_the_api() {
    let Some(cluster) = cluster() else { return };
    cluster.kubectl_with(&["apply", "-f", "-"], server_pod("site").as_bytes()).ok();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "site"},
        "spec": {"selector": {"app": "site"}, "ports": [{"name": "http", "port": 80, "targetPort": "web"}]}});
    cluster.kubectl_with(&["apply", "-f", "-"], service.to_string().as_bytes()).ok();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/site", "--timeout=60s"]).ok();
    let base = "/api/v1/namespaces/default";
    for below in [
        "pods/site/proxy/",
        "pods/http:site:8080/proxy/index.html",
        "services/site:80/proxy/",
        "services/site:http/proxy/index.html",
    ] {
        let path = format!("{base}/{below}");
        eventually(&path, MINUTE, || {
            let outcome = cluster.kubectl(&["get", "--raw", &path]);
            if outcome.stdout == "hello\n" { Ok(()) } else { Err(outcome.to_string()) }
        });
    }
    let none = cluster.kubectl(&["get", "--raw", &format!("{base}/services/site:81/proxy/")]).fails_with(1);
    assert!(none.contains("no service port 81 found for service \"site\""), "{none}");
}

#[test]
fn an_ephemeral_container_sees_the_processes_of_its_target() {
    let Some(cluster) = cluster() else { return };
    cluster.kubectl_with(&["apply", "-f", "-"], server_pod("looked-into").as_bytes()).ok();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/looked-into", "--timeout=60s"]).ok();
    let image = "--image=gantry.local/busybox:1.35";
    let look = "tr '\\0' ' ' < /proc/1/cmdline; echo; sleep 600";
    cluster.kubectl(&["debug", "looked-into", image, "--target=main", "--container=look", "--", "sh", "-c", look]).ok();
    eventually("the log of the ephemeral container", MINUTE, || {
        let outcome = cluster.kubectl(&["logs", "looked-into", "-c", "look"]);
        if outcome.stdout.contains("httpd -f -p 8080") { Ok(()) } else { Err(outcome.to_string()) }
    });
    let pod = cluster.object(&["pod", "looked-into"]).unwrap();
    let status = &pod["status"]["ephemeralContainerStatuses"][0];
    assert!(status["state"]["running"].is_object(), "{status}");
    let running = cluster.kubectl(&["exec", "looked-into", "-c", "look", "--", "sh", "-c", "echo in"]).ok();
    assert_eq!(running, "in\n");
    let patch = r#"{"spec":{"ephemeralContainers":[{"name":"look","image":"other"}]}}"#;
    let refused = cluster
        .kubectl(&["patch", "pod", "looked-into", "--subresource=ephemeralcontainers", "-p", patch])
        .fails_with(1);
    assert!(refused.contains("may not be changed"), "{refused}");
}
