//! The real kubectl on the example shop: every verb a user types, checked by its output and exit code.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use gantry_integration_tests::shared::Shared;
use gantry_integration_tests::{Cluster, eventually};

static CLUSTER: Shared = Shared::new();

const MINUTE: Duration = Duration::from_secs(60);

/// A Deployment of one small container.
fn sleeper(name: &str, replicas: u32) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: gantry.local/busybox:1.35
        command: ["sh", "-c", "echo started; trap exit TERM; while :; do sleep 0.2; done"]
"#
    )
}

fn cluster() -> Option<Arc<Cluster>> {
    CLUSTER.get()
}

/// Applies a Deployment and waits until it is rolled out.
fn deploy(cluster: &Cluster, namespace: &str, name: &str, replicas: u32) {
    cluster.kubectl_with(&["apply", "-n", namespace, "-f", "-"], sleeper(name, replicas).as_bytes()).ok();
    cluster.kubectl(&["rollout", "status", "-n", namespace, &format!("deployment/{name}"), "--timeout=90s"]).ok();
}

/// The name of the only pod of an app.
fn pod_of(cluster: &Cluster, namespace: &str, app: &str) -> String {
    let names = cluster.kubectl(&["get", "pods", "-n", namespace, "-l", &format!("app={app}"), "-o", "name"]).ok();
    names.lines().next().expect("a pod").trim_start_matches("pod/").to_owned()
}

#[test]
fn the_shop_serves_its_page_from_every_front_pod() {
    let Some(cluster) = cluster() else { return };
    let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop");
    let shop = shop.to_str().expect("a UTF-8 path");
    let applied = cluster.kubectl(&["apply", "-f", shop]).ok();
    assert!(applied.contains("deployment.apps/front created"), "{applied}");
    assert!(applied.contains("service/redis created"), "{applied}");
    let again = cluster.kubectl(&["apply", "-f", shop]).ok();
    assert!(again.contains("deployment.apps/front unchanged"), "{again}");
    for deployment in ["deployment/redis", "deployment/front"] {
        let status = cluster.kubectl(&["rollout", "status", "-n", "shop", deployment, "--timeout=90s"]).ok();
        assert!(status.contains("successfully rolled out"), "{status}");
    }

    let wide = cluster.kubectl(&["get", "pods", "-n", "shop", "-l", "app=front", "-o", "wide"]).ok();
    assert!(wide.starts_with("NAME "), "{wide}");
    assert_eq!(wide.matches("2/2 ").count(), 3, "{wide}");
    let ips = cluster
        .kubectl(&["get", "pods", "-n", "shop", "-l", "app=front", "-o", "jsonpath={.items[*].status.podIP}"])
        .ok();
    assert_eq!(ips.split_whitespace().count(), 3, "{ips}");
    let redis = pod_of(&cluster, "shop", "redis");
    for ip in ips.split_whitespace() {
        let page = cluster
            .kubectl(&["exec", "-n", "shop", &redis, "--", "wget", "-q", "-O", "-", &format!("http://{ip}:8080/")])
            .ok();
        assert!(page.contains("Kettle") && page.contains("Served by front-"), "{page}");
    }
    let service = cluster.kubectl(&["get", "service", "front", "-n", "shop", "-o", "jsonpath={.spec.clusterIP}"]).ok();
    let page = cluster
        .kubectl(&["exec", "-n", "shop", &redis, "--", "wget", "-q", "-O", "-", &format!("http://{service}/")])
        .ok();
    assert!(page.contains("Kettle"), "{page}");

    let described = cluster.kubectl(&["describe", "deployment", "front", "-n", "shop"]).ok();
    assert!(described.contains("3 desired | 3 updated | 3 total | 3 available | 0 unavailable"), "{described}");
    assert!(described.contains("ScalingReplicaSet"), "{described}");
    let described = cluster.kubectl(&["describe", "pods", "-n", "shop", "-l", "app=front"]).ok();
    for event in ["Scheduled", "Pulled", "Created", "Started"] {
        assert!(described.contains(event), "no {event} event in:\n{described}");
    }
    let deleted = cluster.kubectl(&["delete", "-f", shop, "--timeout=90s"]).ok();
    assert!(deleted.contains("namespace \"shop\" deleted"), "{deleted}");
    cluster.kubectl(&["get", "namespace", "shop"]).fails_with(1);
}

#[test]
fn server_side_apply_owns_fields_and_reports_conflicts() {
    let Some(cluster) = cluster() else { return };
    let ns = cluster.namespace("ssa");
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {k: \"1\"}\n";
    let apply = |manifest: &str, manager: &str, more: &[&str]| {
        let args = [&["apply", "--server-side", "-n", &ns, "--field-manager", manager, "-f", "-"], more].concat();
        cluster.kubectl_with(&args, manifest.as_bytes())
    };
    assert_eq!(apply(manifest, "one", &[]).ok(), "configmap/c serverside-applied\n");
    let conflict = apply(&manifest.replace("\"1\"", "\"2\""), "two", &[]).fails_with(1);
    assert!(conflict.contains("Apply failed with 1 conflict: conflict with \"one\": .data.k"), "{conflict}");
    apply(&manifest.replace("\"1\"", "\"2\""), "two", &["--force-conflicts"]).ok();
    assert_eq!(cluster.kubectl(&["get", "cm", "c", "-n", &ns, "-o", "jsonpath={.data.k}"]).ok(), "2");
    let managers = cluster
        .kubectl(&[
            "get",
            "cm",
            "c",
            "-n",
            &ns,
            "--show-managed-fields",
            "-o",
            "jsonpath={.metadata.managedFields[*].manager}",
        ])
        .ok();
    assert!(managers.contains("two"), "{managers}");
}

#[test]
fn edit_label_annotate_patch_and_replace_change_an_object() {
    let Some(cluster) = cluster() else { return };
    let ns = cluster.namespace("edit");
    cluster.kubectl(&["create", "configmap", "c", "-n", &ns, "--from-literal=k=old"]).ok();
    let mut edit = cluster.kubectl_command(&["edit", "configmap", "c", "-n", &ns]);
    edit.env("KUBE_EDITOR", "sed -i s/old/new/");
    let edited = gantry_integration_tests::command::run(&mut edit, b"").ok();
    assert!(edited.contains("configmap/c edited"), "{edited}");
    assert_eq!(cluster.kubectl(&["get", "cm", "c", "-n", &ns, "-o", "jsonpath={.data.k}"]).ok(), "new");

    assert_eq!(cluster.kubectl(&["label", "cm", "c", "-n", &ns, "tier=gold"]).ok(), "configmap/c labeled\n");
    assert_eq!(cluster.kubectl(&["annotate", "cm", "c", "-n", &ns, "note=hi"]).ok(), "configmap/c annotated\n");
    let selected = cluster.kubectl(&["get", "cm", "-n", &ns, "-l", "tier=gold", "-o", "name"]).ok();
    assert_eq!(selected, "configmap/c\n");
    for (kind, patch, result) in [
        ("merge", r#"{"data":{"k":"m"}}"#, "m"),
        ("json", r#"[{"op":"replace","path":"/data/k","value":"j"}]"#, "j"),
        ("strategic", r#"{"data":{"k":"s"}}"#, "s"),
    ] {
        cluster.kubectl(&["patch", "cm", "c", "-n", &ns, "--type", kind, "-p", patch]).ok();
        assert_eq!(cluster.kubectl(&["get", "cm", "c", "-n", &ns, "-o", "jsonpath={.data.k}"]).ok(), result, "{kind}");
    }
    let yaml = cluster.kubectl(&["get", "cm", "c", "-n", &ns, "-o", "yaml"]).ok();
    cluster.kubectl_with(&["replace", "-f", "-"], yaml.replace("k: s", "k: r").as_bytes()).ok();
    assert_eq!(cluster.kubectl(&["get", "cm", "c", "-n", &ns, "-o", "jsonpath={.data.k}"]).ok(), "r");
    // The same text again carries an old resourceVersion.
    let stale = cluster.kubectl_with(&["replace", "-f", "-"], yaml.as_bytes()).fails_with(1);
    assert!(stale.contains("the object has been modified; please apply your changes to the latest version"), "{stale}");
    let dry = cluster.kubectl(&["delete", "cm", "c", "-n", &ns, "--dry-run=server"]).ok();
    assert!(dry.contains("configmap \"c\" deleted") && dry.contains("server dry run"), "{dry}");
    cluster.kubectl(&["get", "cm", "c", "-n", &ns]).ok();
}

#[test]
fn logs_are_followed_cut_and_kept() {
    let Some(cluster) = cluster() else { return };
    let ns = cluster.namespace("logs");
    let pod = r#"
apiVersion: v1
kind: Pod
metadata: {name: counter}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: gantry.local/busybox:1.35
    command: ["sh", "-c", "for i in 1 2 3 4 5; do echo line $i; sleep 0.2; done"]
"#;
    cluster.kubectl_with(&["apply", "-n", &ns, "-f", "-"], pod.as_bytes()).ok();
    cluster.kubectl(&["wait", "-n", &ns, "--for=jsonpath={.status.phase}=Running", "pod/counter", "--timeout=60s"]);
    let followed = cluster.kubectl(&["logs", "-f", "counter", "-n", &ns]).ok();
    assert_eq!(followed, "line 1\nline 2\nline 3\nline 4\nline 5\n");
    cluster
        .kubectl(&["wait", "-n", &ns, "--for=jsonpath={.status.phase}=Succeeded", "pod/counter", "--timeout=60s"])
        .ok();
    assert_eq!(cluster.kubectl(&["logs", "--tail=2", "counter", "-n", &ns]).ok(), "line 4\nline 5\n");
    let stamped = cluster.kubectl(&["logs", "--timestamps", "--tail=1", "counter", "-n", &ns]).ok();
    assert!(stamped.starts_with("20") && stamped.ends_with("Z line 5\n"), "{stamped}");
    assert_eq!(cluster.kubectl(&["logs", "--since=1h", "counter", "-n", &ns]).ok().lines().count(), 5);
    let wrong = cluster.kubectl(&["logs", "counter", "-n", &ns, "-c", "other"]).fails_with(1);
    assert!(wrong.contains("container other is not valid for pod counter"), "{wrong}");
    let previous = cluster.kubectl(&["logs", "-p", "counter", "-n", &ns]).fails_with(1);
    assert!(previous.contains("previous terminated container \"main\" in pod \"counter\" not found"), "{previous}");
}

#[test]
fn exec_cp_and_port_forward_reach_into_a_pod() {
    let Some(cluster) = cluster() else { return };
    let ns = cluster.namespace("reach");
    deploy(&cluster, &ns, "web", 1);
    let pod = pod_of(&cluster, &ns, "web");
    assert_eq!(cluster.kubectl(&["exec", &pod, "-n", &ns, "--", "echo", "hi there"]).ok(), "hi there\n");
    let failed = cluster.kubectl(&["exec", &pod, "-n", &ns, "--", "sh", "-c", "echo oops >&2; exit 7"]);
    assert_eq!((failed.code, failed.stderr.starts_with("oops\n")), (7, true), "{failed}");
    // Standard input ends when the client's does, or cat would never return.
    let piped = cluster.kubectl_with(&["exec", "-i", &pod, "-n", &ns, "--", "cat"], b"over and out").ok();
    assert_eq!(piped, "over and out");
    let big: Vec<u8> = (0..1_000_000u32).map(|i| b'a' + (i % 26) as u8).collect();
    let counted = cluster.kubectl_with(&["exec", "-i", &pod, "-n", &ns, "--", "wc", "-c"], &big).ok();
    assert_eq!(counted.trim(), "1000000");
    let missing = cluster.kubectl(&["exec", &pod, "-n", &ns, "--", "no-such-command"]);
    assert_ne!(missing.code, 0, "{missing}");
    assert!(missing.stderr.contains("no-such-command") && missing.stderr.contains("not found"), "{missing}");

    // A terminal: `script` gives kubectl one, and the container must see it as one.
    if gantry_integration_tests::tools::program("script").is_some() {
        let kubectl = cluster.tools().kubectl.display().to_string();
        let typed = format!(
            "{kubectl} --kubeconfig {} exec -it {pod} -n {ns} -- sh -c 'test -t 0 && echo is-a-terminal'",
            cluster.kubeconfig().display()
        );
        let mut script = cluster.command("script");
        script.args(["-qec", &typed, "/dev/null"]);
        let seen = gantry_integration_tests::command::run(&mut script, b"");
        assert!(seen.stdout.contains("is-a-terminal"), "{seen}");
    }

    let file = cluster.scratch().join("file.txt");
    std::fs::write(&file, &big).expect("the scratch folder can be written");
    let there = format!("{ns}/{pod}:/tmp/copied");
    cluster.kubectl(&["cp", file.to_str().expect("UTF-8"), &there]).ok();
    let back = cluster.scratch().join("back.txt");
    cluster.kubectl(&["cp", &there, back.to_str().expect("UTF-8")]).ok();
    assert!(std::fs::read(&back).expect("the copy is there") == big, "a copy there and back is not the same");

    let serve = "mkdir -p /www && echo forwarded > /www/index.html && busybox httpd -p 8080 -h /www";
    cluster.kubectl(&["exec", &pod, "-n", &ns, "--", "sh", "-c", serve]).ok();
    let mut forward = cluster.kubectl_command(&["port-forward", &pod, "-n", &ns, "18080:8080"]);
    let mut forward = forward.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("kubectl starts");
    let answer = eventually_forwarded(&cluster);
    forward.kill().expect("port-forward still runs");
    forward.wait().expect("it was started here");
    assert!(answer.contains("forwarded"), "{answer}");
}

fn eventually_forwarded(cluster: &Cluster) -> String {
    eventually("an answer over the forwarded port", MINUTE, || {
        let mut bash = cluster.command("bash");
        let get = r"exec 3<>/dev/tcp/127.0.0.1/18080 || exit 1; printf 'GET / HTTP/1.0\r\n\r\n' >&3; timeout 5 cat <&3";
        bash.args(["-c", get]);
        let outcome = gantry_integration_tests::command::run(&mut bash, b"");
        if outcome.stdout.contains("forwarded") { Ok(outcome.stdout) } else { Err(outcome.to_string()) }
    })
}

#[test]
fn a_deployment_scales_rolls_out_and_rolls_back() {
    let Some(cluster) = cluster() else { return };
    let ns = cluster.namespace("rollout");
    deploy(&cluster, &ns, "web", 1);
    assert_eq!(
        cluster.kubectl(&["scale", "deployment/web", "-n", &ns, "--replicas=3"]).ok(),
        "deployment.apps/web scaled\n"
    );
    cluster
        .kubectl(&["wait", "-n", &ns, "--for=jsonpath={.status.readyReplicas}=3", "deployment/web", "--timeout=90s"])
        .ok();
    cluster.kubectl(&["set", "env", "deployment/web", "-n", &ns, "COLOUR=green"]).ok();
    cluster.kubectl(&["rollout", "status", "-n", &ns, "deployment/web", "--timeout=90s"]).ok();
    let history = cluster.kubectl(&["rollout", "history", "-n", &ns, "deployment/web"]).ok();
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    let undone = cluster.kubectl(&["rollout", "undo", "-n", &ns, "deployment/web"]).ok();
    assert!(undone.contains("deployment.apps/web rolled back"), "{undone}");
    cluster.kubectl(&["rollout", "status", "-n", &ns, "deployment/web", "--timeout=90s"]).ok();
    let env = cluster
        .kubectl(&["get", "deployment", "web", "-n", &ns, "-o", "jsonpath={.spec.template.spec.containers[0].env}"])
        .ok();
    assert_eq!(env, "");
    eventually("only the three pods of the old revision", MINUTE, || {
        let pods = cluster.kubectl(&["get", "pods", "-n", &ns, "-l", "app=web", "-o", "name"]).ok();
        if pods.lines().count() == 3 { Ok(()) } else { Err(pods) }
    });
    cluster.kubectl(&["rollout", "pause", "-n", &ns, "deployment/web"]).ok();
    cluster.kubectl(&["set", "env", "deployment/web", "-n", &ns, "COLOUR=blue"]).ok();
    let sets = cluster.kubectl(&["get", "rs", "-n", &ns, "-o", "name"]).ok();
    assert_eq!(sets.lines().count(), 2, "a paused roll-out makes no new ReplicaSet: {sets}");
    cluster.kubectl(&["rollout", "resume", "-n", &ns, "deployment/web"]).ok();
    cluster.kubectl(&["rollout", "status", "-n", &ns, "deployment/web", "--timeout=90s"]).ok();
}

#[test]
fn deletion_takes_what_was_owned_along() {
    let Some(cluster) = cluster() else { return };
    let ns = cluster.namespace("deletion");
    for (name, cascade) in [("back", "background"), ("fore", "foreground"), ("kept", "orphan")] {
        deploy(&cluster, &ns, name, 1);
        let deleted = cluster
            .kubectl(&["delete", "deployment", name, "-n", &ns, &format!("--cascade={cascade}"), "--timeout=60s"])
            .ok();
        assert!(deleted.starts_with(&format!("deployment.apps \"{name}\" deleted")), "{deleted}");
        let selector = format!("app={name}");
        let list = || cluster.kubectl(&["get", "rs,pods", "-n", &ns, "-l", &selector, "-o", "name"]).ok();
        match cascade {
            "orphan" => {
                assert_eq!(list().lines().count(), 2, "{}", list());
                let owners = cluster
                    .kubectl(&[
                        "get",
                        "rs",
                        "-n",
                        &ns,
                        "-l",
                        &selector,
                        "-o",
                        "jsonpath={.items[0].metadata.ownerReferences}",
                    ])
                    .ok();
                assert_eq!(owners, "");
            }
            _ => eventually("the dependents to be gone", MINUTE, || {
                let left = list();
                if left.is_empty() { Ok(()) } else { Err(left) }
            }),
        }
    }
}

#[test]
fn watches_waits_and_explanations_work() {
    let Some(cluster) = cluster() else { return };
    let ns = cluster.namespace("watching");
    let mut watch = cluster.kubectl_command(&["get", "configmaps", "-n", &ns, "-w", "-o", "name"]);
    let watch = watch.stdout(Stdio::piped()).spawn().expect("kubectl starts");
    // The watch is known to stand when it has printed what was there.
    let mut watch = Following::new(watch);
    watch.expect("configmap/kube-root-ca.crt");
    cluster.kubectl(&["create", "configmap", "seen", "-n", &ns]).ok();
    watch.expect("configmap/seen");
    watch.stop();

    let mut waiting = cluster.kubectl_command(&["wait", "--for=delete", "configmap/seen", "-n", &ns, "--timeout=30s"]);
    let waiting = waiting.stdout(Stdio::piped()).spawn().expect("kubectl starts");
    cluster.kubectl(&["delete", "configmap", "seen", "-n", &ns]).ok();
    assert!(waiting.wait_with_output().expect("it ends").status.success());

    let explained = cluster.kubectl(&["explain", "deployment.spec.strategy.rollingUpdate"]).ok();
    assert!(explained.contains("maxSurge") && explained.contains("GROUP:      apps"), "{explained}");
    let wrong = cluster.kubectl(&["explain", "pod.spec.nope"]).fails_with(1);
    assert!(wrong.contains("field \"nope\" does not exist"), "{wrong}");
    let resources = cluster.kubectl(&["api-resources"]).ok();
    for line in ["deployments", "endpointslices", "leases", "pods", "events"] {
        assert!(resources.lines().any(|row| row.starts_with(&format!("{line} "))), "no {line} in:\n{resources}");
    }
    let versions = cluster.kubectl(&["api-versions"]).ok();
    assert!(versions.contains("apps/v1\n"), "{versions}");
    let version = cluster.kubectl(&["version"]).ok();
    assert!(version.contains("Server Version: v1.35"), "{version}");
}

/// A running command whose output lines are waited for.
struct Following {
    child: std::process::Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Following {
    fn new(mut child: std::process::Child) -> Self {
        let stdout = child.stdout.take().expect("piped");
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in std::io::BufRead::lines(std::io::BufReader::new(stdout)).map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    #[track_caller]
    fn expect(&mut self, wanted: &str) {
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(30)) {
            if line == wanted {
                return;
            }
            seen.push(line);
        }
        panic!("no line {wanted:?} came; seen: {seen:?}");
    }

    fn stop(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
