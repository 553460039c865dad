//! Who may do what, seen by real clients: people with certificates, a pod with its token.

use gantry_integration_tests::{Cluster, Options, command};
use serde_json::json;

#[test]
fn people_and_pods_are_who_their_credentials_say() {
    let Some(cluster) =
        Cluster::start(Options { flags: vec!["--advertise".into(), "127.0.0.1".into()], ..Options::default() })
    else {
        return;
    };
    let kubeconfig = |name: &str, group: Option<&str>| {
        let mut make = cluster.command(&cluster.tools().gantry);
        make.arg("kubeconfig").arg("--data-dir").arg(cluster.data_dir()).args(["user", name]);
        make.args(group.map(|group| ["--group", group]).into_iter().flatten());
        let file = cluster.scratch().join(format!("{name}.kubeconfig"));
        std::fs::write(&file, command::run(&mut make, b"").ok()).expect("the scratch folder can be written");
        file
    };
    let as_user = |file: &std::path::Path, args: &[&str]| {
        let mut kubectl = cluster.command(&cluster.tools().kubectl);
        command::run(kubectl.arg("--kubeconfig").arg(file).args(args), b"")
    };

    let alice = kubeconfig("alice", Some("system:masters"));
    assert_eq!(as_user(&alice, &["auth", "can-i", "delete", "nodes"]).ok().trim(), "yes");
    as_user(&alice, &["get", "pods", "-A"]).ok();
    let bob = kubeconfig("bob", None);
    let refused = as_user(&bob, &["get", "pods"]).fails_with(1);
    assert!(
        refused.contains("Forbidden")
            && refused
                .contains("User \"bob\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""),
        "{refused}"
    );
    let whoami = as_user(&bob, &["auth", "whoami"]).ok();
    assert!(whoami.contains("bob"), "{whoami}");

    // A pod in the node's network reaches the API server and is known by its service account's token.
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "caller"},
        "spec": {
            "hostNetwork": true,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "gantry.local/busybox:1.35", "command": ["sleep", "600"]}],
        },
    });
    cluster.kubectl_with(&["create", "-f", "-"], pod.to_string().as_bytes()).ok();
    cluster.kubectl(&["wait", "pod/caller", "--for=condition=Ready", "--timeout=60s"]).ok();
    let token =
        cluster.kubectl(&["exec", "caller", "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"]).ok();
    let with_token = |args: &[&str]| {
        let mut kubectl = cluster.command(&cluster.tools().kubectl);
        kubectl
            .args(["--server", "https://127.0.0.1:6443", "--insecure-skip-tls-verify", "--token", &token])
            .args(args);
        command::run(&mut kubectl, b"")
    };
    let whoami = with_token(&["auth", "whoami"]).ok();
    assert!(whoami.contains("system:serviceaccount:default:default"), "{whoami}");
    let refused = with_token(&["get", "secrets"]).fails_with(1);
    assert!(
        refused.contains("User \"system:serviceaccount:default:default\" cannot list resource \"secrets\""),
        "{refused}"
    );
    // The token ends with the pod that it was made for.
    cluster.kubectl(&["delete", "pod", "caller"]).ok();
    let gone = with_token(&["auth", "whoami"]).fails_with(1);
    assert!(gone.contains("logged in") || gone.contains("Unauthorized"), "{gone}");
}

#[test]
fn the_administrators_kubeconfig_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let Some(cluster) = Cluster::start(Options { without_agent: true, ..Options::default() }) else { return };
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&cluster.kubeconfig()), 0o600);
    let pki = cluster.data_dir().join("pki");
    assert_eq!(mode(&pki), 0o700);
    for entry in std::fs::read_dir(&pki).expect("the folder can be read").flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "key") {
            assert_eq!(mode(&entry.path()), 0o600, "{}", entry.path().display());
        }
    }
    assert_eq!(cluster.kubectl(&["get", "--raw", "/readyz"]).ok().trim_end(), "ok");
    let metrics = cluster.kubectl(&["get", "--raw", "/metrics"]).ok();
    for family in ["apiserver_request", "scheduler_pending_pods", "controller_reconciliations"] {
        assert!(metrics.contains(family), "no {family} in the metrics:\n{metrics}");
    }
}
