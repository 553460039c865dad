//! Gantry's own verbs: kubectl's habits in words, output and exit codes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gantry_integration_tests::shared::Shared;
use gantry_integration_tests::{Cluster, eventually};

static CLUSTER: Shared = Shared::new();

fn cluster() -> Option<Arc<Cluster>> {
    CLUSTER.get()
}

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: gantry.local/busybox:1.35
        command: ["sh", "-c", "echo hello from $HOSTNAME; trap exit TERM; while :; do sleep 0.2; done"]
"#;

#[test]
fn the_documented_life_of_the_shop() {
    let Some(cluster) = cluster() else { return };
    let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop");
    let shop = shop.to_str().expect("UTF-8");
    let applied = cluster.gantry(&["apply", "-f", shop, "--wait", "--timeout", "2m"]);
    assert!(applied.stderr.contains("deployment.apps/front: ready"), "{applied}");
    assert!(applied.clone().ok().contains("deployment.apps/front created"), "{applied}");
    assert!(cluster.gantry(&["apply", "-f", shop]).ok().contains("deployment.apps/front unchanged"));

    let pods = cluster.gantry(&["get", "pods", "-n", "shop", "-o", "wide"]).ok();
    assert!(
        pods.starts_with("NAME ") && pods.contains("NODE") && pods.matches("2/2     Running").count() == 3,
        "{pods}"
    );
    let described = cluster.gantry(&["describe", "deployment", "front", "-n", "shop"]).ok();
    assert!(described.contains("3 desired | 3 updated | 3 total | 3 available | 0 unavailable"), "{described}");
    assert!(described.contains("ScalingReplicaSet"), "{described}");
    let logs = cluster.gantry(&["logs", "deployment/front", "-n", "shop", "-c", "first-page"]).ok();
    assert!(logs.is_empty() || logs.contains("redis") || logs.contains('1') || logs.contains("waiting"), "{logs}");
    assert_eq!(cluster.gantry(&["exec", "deployment/redis", "-n", "shop", "--", "redis-cli", "ping"]).ok(), "PONG\n");
    assert_eq!(
        cluster.gantry(&["scale", "deployment/front", "-n", "shop", "--replicas=5"]).ok(),
        "deployment.apps/front scaled\n"
    );
    cluster.gantry(&["rollout", "status", "deployment/front", "-n", "shop", "--timeout", "2m"]).ok();
    assert_eq!(
        cluster.gantry(&["rollout", "restart", "deployment/front", "-n", "shop"]).ok(),
        "deployment.apps/front restarted\n"
    );
    let status = cluster.gantry(&["rollout", "status", "deployment/front", "-n", "shop", "--timeout", "2m"]).ok();
    assert!(status.ends_with("deployment \"front\" successfully rolled out\n"), "{status}");
    assert_eq!(
        cluster.gantry(&["rollout", "undo", "deployment/front", "-n", "shop"]).ok(),
        "deployment.apps/front rolled back\n"
    );
    cluster.gantry(&["rollout", "status", "deployment/front", "-n", "shop", "--timeout", "2m"]).ok();
    let history = cluster.gantry(&["rollout", "history", "deployment/front", "-n", "shop"]).ok();
    assert!(history.contains("REVISION") && history.contains('3'), "{history}");
    let deleted = cluster.gantry(&["delete", "-f", shop]).ok();
    assert!(deleted.contains("deployment.apps \"front\" deleted"), "{deleted}");
    cluster.gantry(&["get", "namespace", "shop"]).fails_with(1);
}

#[test]
fn objects_are_shown_in_every_form() {
    let Some(cluster) = cluster() else { return };
    let ns = cluster.namespace("forms");
    cluster.gantry_with(&["apply", "-n", &ns, "-f", "-"], WEB.as_bytes()).ok();
    cluster.gantry(&["rollout", "status", "deployment/web", "-n", &ns, "--timeout", "1m"]).ok();
    let get = |more: &[&str]| cluster.gantry(&[&["get", "-n", &ns], more].concat()).ok();
    assert_eq!(get(&["deploy", "-o", "name"]), "deployment.apps/web\n");
    assert_eq!(get(&["deployment", "web", "-o", "jsonpath={.spec.replicas}"]), "2");
    assert!(get(&["deployments.apps", "web", "-o", "yaml"]).contains("\nkind: Deployment\n"));
    assert!(get(&["deployment/web", "-o", "json"]).contains("\"kind\": \"Deployment\""));
    let all = get(&["all"]);
    for line in ["pod/web-", "deployment.apps/web", "replicaset.apps/web-"] {
        assert!(all.contains(line), "no {line} in:\n{all}");
    }
    assert_eq!(get(&["pods", "-l", "app=web", "--no-headers"]).lines().count(), 2);
    assert_eq!(get(&["pods", "--field-selector", "status.phase=Running", "-o", "name"]).lines().count(), 2);
    let pods = get(&["pods"]);
    // kubectl prints the same columns.
    let kubectl = cluster.kubectl(&["get", "pods", "-n", &ns]).ok();
    assert_eq!(pods.lines().next(), kubectl.lines().next());

    // Several sources of logs, each line with where it is from.
    let logs = cluster.gantry(&["logs", "-n", &ns, "-l", "app=web", "--prefix"]).ok();
    assert_eq!(logs.matches("hello from web-").count(), 2, "{logs}");
    let failed = cluster.gantry(&["exec", "deployment/web", "-n", &ns, "--", "sh", "-c", "exit 3"]);
    assert_eq!(failed.code, 3, "{failed}");
    let piped = cluster.gantry_with(&["exec", "-i", "deployment/web", "-n", &ns, "--", "cat"], b"in and out").ok();
    assert_eq!(piped, "in and out");
    let deleted = cluster.gantry(&["delete", "deployment/web", "-n", &ns, "--cascade=foreground"]).ok();
    assert_eq!(deleted, "deployment.apps \"web\" deleted from forms namespace\n");
    eventually("the pods to be gone", Duration::from_secs(30), || {
        let left = get(&["pods", "-o", "name"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

#[test]
fn mistakes_are_told_in_kubectls_words() {
    let Some(cluster) = cluster() else { return };
    let error = |args: &[&str], input: &str| cluster.gantry_with(args, input.as_bytes()).fails_with(1);
    assert_eq!(error(&["get", "pod", "absent"], ""), "Error from server (NotFound): pods \"absent\" not found\n");
    assert!(error(&["get", "nopes"], "").contains("the server doesn't have a resource type \"nopes\""));
    assert!(
        error(&["apply", "-f", "-"], "apiVersion: v1\nkind: Nope\nmetadata: {name: a}\n")
            .contains("no matches for kind \"Nope\" in version \"v1\"")
    );
    assert!(error(&["apply", "-f", "-"], "apiVersion: v1\nkind: [").contains("error"));
    let strict = error(&["apply", "-f", "-"], "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\nfoo: 1\n");
    assert!(strict.contains("foo"), "{strict}");
    assert!(error(&["apply", "-f", "/no/such/file"], "").contains("does not exist"));
    let usage = cluster.gantry(&["get", "pods", "--nope"]);
    assert_eq!(usage.code, 2, "{usage}");
    cluster.gantry(&["delete", "pod", "absent", "--ignore-not-found"]).ok();
}

#[test]
fn help_and_completion_are_complete() {
    let Some(cluster) = cluster() else { return };
    let help = cluster.gantry(&["--help"]).ok();
    for command in [
        "up",
        "apiserver",
        "controllers",
        "scheduler",
        "agent",
        "apply",
        "get",
        "describe",
        "delete",
        "logs",
        "exec",
        "scale",
        "rollout",
        "plan",
        "why",
        "what-if",
        "image",
        "store",
        "completion",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "no {command} in:\n{help}");
    }
    for shell in ["bash", "zsh", "fish", "powershell"] {
        assert!(cluster.gantry(&["completion", shell]).ok().contains("rollout"), "{shell}");
    }
}

#[test]
fn an_image_is_imported_into_a_running_node() {
    let Some(cluster) = cluster() else { return };
    let images = std::fs::read_dir(&cluster.tools().images).expect("the images are there").flatten();
    let archive = images
        .map(|entry| entry.path())
        .find(|file| file.to_string_lossy().contains("busybox-"))
        .expect("the busybox image");
    let data_dir = cluster.data_dir();
    let imported = cluster
        .gantry(&["image", "import", "--data-dir", data_dir.to_str().expect("UTF-8"), archive.to_str().expect("UTF-8")])
        .ok();
    assert_eq!(imported, "image gantry.local/busybox:1.35 imported\n");
    let missing = cluster
        .gantry(&["image", "import", "--data-dir", data_dir.to_str().expect("UTF-8"), "/no/such.tar"])
        .fails_with(1);
    assert!(missing.contains("/no/such.tar"), "{missing}");
}
