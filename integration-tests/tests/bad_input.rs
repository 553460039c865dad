//! What goes wrong is told in the words a Kubernetes user knows, at the place where they look, and changes nothing.

use std::sync::Arc;
use std::time::Duration;

use gantry_integration_tests::shared::Shared;
use gantry_integration_tests::{Cluster, command, eventually, tools};
use serde_json::{Value, json};

static CLUSTER: Shared = Shared::new();

const MINUTE: Duration = Duration::from_secs(60);

fn cluster() -> Option<Arc<Cluster>> {
    CLUSTER.get()
}

fn pod(name: &str, container: Value) -> String {
    let mut container = container;
    container["name"] = json!("main");
    if container["image"].is_null() {
        container["image"] = json!("gantry.local/busybox:1.35");
    }
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
    })
    .to_string()
}

#[test]
fn manifests_that_do_not_hold_together_are_refused() {
    let Some(cluster) = cluster() else { return };
    let apply = |text: &str| cluster.kubectl_with(&["apply", "-f", "-"], text.as_bytes()).fails_with(1);
    let cases = [
        ("apiVersion: v1\nkind: [", "yaml"),
        ("apiVersion: v1\nkind: Nope\nmetadata: {name: a}\n", "no matches for kind \"Nope\" in version \"v1\""),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\nfoo: 1\n", "unknown field \"foo\""),
        ("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: many}\n", "replicas"),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Not_A_Name}\n",
            "a lowercase RFC 1123 subdomain must consist of",
        ),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}\n", "spec.containers: Required value"),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: nowhere}\n",
            "namespaces \"nowhere\" not found",
        ),
    ];
    for (manifest, message) in cases {
        let error = apply(manifest);
        assert!(error.contains(message), "expected {message:?} for:\n{manifest}\ngot: {error}");
    }
    cluster.kubectl(&["get", "cm", "a"]).fails_with(1);
    let unknown = cluster.kubectl(&["get", "nopes"]).fails_with(1);
    assert!(unknown.contains("the server doesn't have a resource type \"nopes\""), "{unknown}");
    let absent = cluster.kubectl(&["get", "pod", "absent"]).fails_with(1);
    assert_eq!(absent, "Error from server (NotFound): pods \"absent\" not found\n");
}

#[test]
fn an_oversized_body_is_refused_and_the_server_goes_on() {
    let Some(cluster) = cluster() else { return };
    let big = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"}, "data": {"k": "x".repeat(4 << 20)}});
    let error = cluster.kubectl_with(&["create", "-f", "-"], big.to_string().as_bytes()).fails_with(1);
    assert!(error.contains("too large") || error.contains("Too long"), "{error}");
    // Below the limit of a body but beyond that of a ConfigMap.
    let big = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"}, "data": {"k": "x".repeat(1_100_000)}});
    let error = cluster.kubectl_with(&["create", "-f", "-"], big.to_string().as_bytes()).fails_with(1);
    assert!(error.contains("Too long: may not be more than 1048576 bytes"), "{error}");
    cluster.kubectl(&["get", "namespaces"]).ok();
}

#[test]
fn an_image_that_is_not_there_shows_in_the_pod() {
    let Some(cluster) = cluster() else { return };
    let ns = cluster.namespace("no-image");
    let manifest = pod("p", json!({"image": "gantry.local/absent:1", "imagePullPolicy": "Never"}));
    cluster.kubectl_with(&["apply", "-n", &ns, "-f", "-"], manifest.as_bytes()).ok();
    waits_with_reason(&cluster, &ns, "p", &["ErrImageNeverPull"]);
    let status = cluster.kubectl(&["get", "pod", "p", "-n", &ns]).ok();
    assert!(status.contains("ErrImageNeverPull"), "{status}");
    let manifest = pod("q", json!({"image": "127.0.0.1:1/absent:1"}));
    cluster.kubectl_with(&["apply", "-n", &ns, "-f", "-"], manifest.as_bytes()).ok();
    waits_with_reason(&cluster, &ns, "q", &["ErrImagePull", "ImagePullBackOff"]);
    event(&cluster, &ns, "q", "Failed", "Failed to pull image");
}

#[test]
fn a_command_that_is_not_there_shows_in_the_pod() {
    let Some(cluster) = cluster() else { return };
    let ns = cluster.namespace("no-command");
    let manifest = pod("p", json!({"command": ["/no/such/command"]}));
    cluster.kubectl_with(&["apply", "-n", &ns, "-f", "-"], manifest.as_bytes()).ok();
    eventually("the container's failure", MINUTE, || {
        let pod = cluster.object(&["pod", "p", "-n", &ns])?;
        let status = pod["status"]["containerStatuses"][0].to_string();
        if status.contains("/no/such/command")
            && (status.contains("StartError") || status.contains("RunContainerError"))
        {
            Ok(())
        } else {
            Err(status)
        }
    });
    waits_with_reason(&cluster, &ns, "p", &["CrashLoopBackOff"]);
    event(&cluster, &ns, "p", "BackOff", "Back-off restarting failed container");
}

#[test]
fn a_pod_that_fits_nowhere_says_why() {
    let Some(cluster) = cluster() else { return };
    let ns = cluster.namespace("full");
    let manifest = pod("p", json!({"resources": {"requests": {"cpu": "1000"}}}));
    cluster.kubectl_with(&["apply", "-n", &ns, "-f", "-"], manifest.as_bytes()).ok();
    event(&cluster, &ns, "p", "FailedScheduling", "0/1 nodes are available: 1 Insufficient cpu.");
    let pod = cluster.object(&["pod", "p", "-n", &ns]).expect("the pod is there");
    let scheduled = gantry_integration_tests::cluster::condition(&pod, "PodScheduled").expect("a condition");
    assert_eq!((&scheduled["status"], &scheduled["reason"]), (&json!("False"), &json!("Unschedulable")), "{scheduled}");
}

#[test]
fn a_missing_config_map_holds_the_container_until_it_comes() {
    let Some(cluster) = cluster() else { return };
    let ns = cluster.namespace("no-config");
    let manifest = pod(
        "p",
        json!({"command": ["sh", "-c", "sleep 600"], "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "a"}}}]}),
    );
    cluster.kubectl_with(&["apply", "-n", &ns, "-f", "-"], manifest.as_bytes()).ok();
    waits_with_reason(&cluster, &ns, "p", &["CreateContainerConfigError"]);
    cluster.kubectl(&["create", "configmap", "later", "-n", &ns, "--from-literal=a=here"]).ok();
    cluster.kubectl(&["wait", "pod/p", "-n", &ns, "--for=condition=Ready", "--timeout=60s"]).ok();
    assert_eq!(cluster.kubectl(&["exec", "p", "-n", &ns, "--", "sh", "-c", "echo $A"]).ok(), "here\n");
}

#[test]
fn a_port_in_use_is_named() {
    let Some(cluster) = cluster() else { return };
    let mut second = cluster.command(&cluster.tools().gantry);
    second.args(["up", "--no-agent", "--data-dir"]).arg(cluster.scratch().join("second"));
    let error = command::run(&mut second, b"").fails_with(1);
    assert!(error.contains("127.0.0.1:6443") && error.contains("in use"), "{error}");
    // The same data directory again: the first holds it.
    let mut second = cluster.command(&cluster.tools().gantry);
    second.args(["up", "--no-agent", "--listen", "127.0.0.1:0", "--data-dir"]).arg(cluster.data_dir());
    let error = command::run(&mut second, b"").fails_with(1);
    assert!(error.contains("another process"), "{error}");
    cluster.kubectl(&["get", "namespaces"]).ok();
}

#[test]
fn strangers_see_health_and_version_only() {
    let Some(cluster) = cluster() else { return };
    // (kubectl without credentials asks for a user's name.)
    let Some(curl) = tools::program("curl") else {
        assert!(std::env::var_os("CI").is_none(), "this test needs curl");
        eprintln!("skipped: this test needs curl");
        return;
    };
    let fetch = |path: &str| {
        let mut command = cluster.command(&curl);
        command.args(["--silent", "--show-error", "--insecure", "--write-out", "\n%{http_code}"]);
        let answer = command::run(command.arg(format!("https://127.0.0.1:6443{path}")), b"").ok();
        let (body, code) = answer.rsplit_once('\n').expect("written above");
        (code.to_owned(), body.to_owned())
    };
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(fetch(path), ("200".into(), "ok".into()), "{path}");
    }
    let (code, version) = fetch("/version");
    assert!(code == "200" && version.contains("\"gitVersion\""), "{code} {version}");
    for path in ["/api/v1/namespaces", "/metrics", "/apis/apps/v1"] {
        let (code, refused) = fetch(path);
        assert_eq!(code, "403", "{path}: {refused}");
        let refused: Value = serde_json::from_str(&refused).expect("a Status");
        assert_eq!((&refused["kind"], &refused["reason"]), (&json!("Status"), &json!("Forbidden")), "{refused}");
        assert!(refused["message"].to_string().contains("system:anonymous"), "{refused}");
    }
}

/// Waits until the container of a pod waits with one of `reasons`.
fn waits_with_reason(cluster: &Cluster, namespace: &str, pod: &str, reasons: &[&str]) {
    eventually(&format!("{pod} to wait with {reasons:?}"), MINUTE, || {
        let object = cluster.object(&["pod", pod, "-n", namespace])?;
        let waiting = &object["status"]["containerStatuses"][0]["state"]["waiting"];
        if reasons.iter().any(|reason| waiting["reason"] == *reason) {
            Ok(())
        } else {
            Err(object["status"].to_string())
        }
    });
}

/// Waits for an event about a pod.
fn event(cluster: &Cluster, namespace: &str, pod: &str, reason: &str, message: &str) {
    eventually(&format!("a {reason} event about {pod}"), MINUTE, || {
        let selector = format!("involvedObject.name={pod},reason={reason}");
        let events = cluster.kubectl(&["get", "events", "-n", namespace, "--field-selector", &selector]).ok();
        if events.contains(message) { Ok(()) } else { Err(events) }
    });
}
