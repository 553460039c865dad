//! What kubectl does with running pods, in every version at hand: into them, beside them, and how they are rolled out.

use std::process::Command;
use std::time::Duration;

use gantry_integration_tests::command::run;
use gantry_integration_tests::kubectl::{self, Kubectl};
use gantry_integration_tests::shared::Shared;

static CLUSTER: Shared = Shared::new();

const MINUTE: Duration = Duration::from_secs(60);
const IMAGE: &str = "--image=gantry.local/busybox:1.35";

fn each_version(name: &str, scenario: impl Fn(&Kubectl<'_>)) {
    let Some(cluster) = CLUSTER.get() else { return };
    kubectl::each_version(&cluster, name, scenario);
}

/// A pod `p` that counts on its standard output, answers what it reads, and serves a page.
fn pod() -> String {
    let script = "mkdir /www; echo page > /www/index.html; busybox httpd -p 8080 -h /www; \
        (n=0; while :; do n=$((n+1)); echo tick $n; sleep 0.3; done) & \
        while read -r line; do echo heard $line; done";
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, labels: {{app: p}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: c, image: 'gantry.local/busybox:1.35', stdin: true, command: [sh, -c, '{script}']}}\n"
    )
}

fn get(kubectl: &Kubectl<'_>, url: &str) -> String {
    let mut curl: Command = kubectl.cluster.command("curl");
    run(curl.args(["-sS", "--max-time", "20", url]), b"").ok()
}

#[test]
fn into_a_pod() {
    each_version("into", |kubectl| {
        kubectl.with(&["apply", "-f", "-"], &pod()).ok();
        kubectl.prints(&["wait", "pod/p", "--for=condition=Ready", "--timeout=60s"], "pod/p condition met");

        kubectl.prints(&["exec", "p", "--", "echo", "hi"], "hi");
        assert_eq!(kubectl.with(&["exec", "-i", "p", "--", "cat"], "through").ok(), "through");
        let failed = kubectl.run(&["exec", "p", "--", "sh", "-c", "exit 7"]);
        assert_eq!(failed.code, 7, "{failed}");
        assert!(failed.stderr.contains("command terminated with exit code 7"), "{failed}");
        kubectl.refuses(&["exec", "p", "-c", "other", "--", "true"], "container other is not valid for pod p");

        let folder = kubectl.folder();
        let tree = folder.join("tree/below");
        std::fs::create_dir_all(&tree).expect("a folder");
        std::fs::write(tree.join("file"), "copied").expect("a file");
        let from = folder.join("tree");
        kubectl.run(&["cp", from.to_str().expect("UTF-8"), "p:/tmp/tree"]).ok();
        kubectl.prints(&["exec", "p", "--", "cat", "/tmp/tree/below/file"], "copied");
        let back = folder.join("back");
        kubectl.run(&["cp", "p:/tmp/tree", back.to_str().expect("UTF-8"), "-c", "c"]).ok();
        assert_eq!(std::fs::read_to_string(back.join("below/file")).expect("the copy is there"), "copied");

        let attached = kubectl.start(&["attach", "-i", "p"]);
        attached.line("tick");
        attached.say("you");
        attached.line("heard you");
        let followed = kubectl.start(&["logs", "-f", "--tail=1", "p"]);
        followed.line("tick");
        followed.line("tick");
        kubectl.tells(&["logs", "-l", "app=p", "--prefix", "--tail=2"], &["[pod/p/c] "]);

        let forwarding = kubectl.start(&["port-forward", "pod/p", ":8080"]);
        let line = forwarding.line("Forwarding from 127.0.0.1:");
        assert!(line.ends_with(" -> 8080"), "{line}");
        let port = line.split([':', ' ']).nth(3).expect("a port");
        assert_eq!(get(kubectl, &format!("http://127.0.0.1:{port}/index.html")), "page\n");

        let proxying = kubectl.start(&["proxy", "--port=0"]);
        let line = proxying.line("Starting to serve on ");
        let address = line.rsplit(' ').next().expect("an address");
        let version = get(kubectl, &format!("http://{address}/version"));
        assert!(version.contains("\"gitVersion\": \"v1.35."), "{version}");
        let page = format!("http://{address}/api/v1/namespaces/{}/pods/p:8080/proxy/index.html", kubectl.namespace);
        assert_eq!(get(kubectl, &page), "page\n");
    });
}

#[test]
fn beside_a_pod() {
    each_version("beside", |kubectl| {
        kubectl.with(&["apply", "-f", "-"], &pod()).ok();
        kubectl.prints(&["wait", "pod/p", "--for=condition=Ready", "--timeout=60s"], "pod/p condition met");

        // A container more in the pod, which sees what it is aimed at.
        let debug = ["debug", "p", IMAGE, "--target=c", "-c", "look", "--", "sh", "-c", "ps; echo looked; sleep 600"];
        kubectl.tells(&debug, &["Targeting container \"c\"."]);
        gantry_integration_tests::eventually("what the new container sees", MINUTE, || {
            let logs = kubectl.run(&["logs", "p", "-c", "look"]);
            let seen = logs.stdout.contains("looked") && logs.stdout.contains("httpd -p 8080");
            if seen { Ok(()) } else { Err(logs.to_string()) }
        });
        kubectl.prints(&["get", "pod", "p", "-o", "jsonpath={.spec.ephemeralContainers[*].name}"], "look");

        // A copy of the pod with another command.
        let copy = ["debug", "p", "--copy-to=copy", "--container=c", "--", "sh", "-c", "echo copied; sleep 600"];
        kubectl.run(&copy).ok();
        kubectl.comes_to_print(&["logs", "copy"], "copied");
        kubectl.prints(&["get", "pod", "copy", "-o", "jsonpath={.metadata.labels.app}"], "");

        // A pod that sees the machine.
        let told = kubectl.run(&["debug", "node/node-1", IMAGE, "--", "sh", "-c", "ls -d /host/proc"]).ok();
        let name = told.split_whitespace().find(|word| word.starts_with("node-debugger-node-1-"));
        let name = name.unwrap_or_else(|| panic!("no pod is named: {told}"));
        assert!(told.contains("with container debugger on node node-1."), "{told}");
        kubectl.comes_to_print(&["logs", name], "/host/proc");

        // One that lives as long as it is talked to.
        let talk = ["run", "talk", IMAGE, "-i", "--rm", "--restart=Never", "--quiet", "--", "cat"];
        assert_eq!(kubectl.with(&talk, "said\n").ok(), "said\n");
        kubectl.comes_to_print(&["get", "pods", "talk", "--ignore-not-found"], "");
        let failing =
            ["run", "fail", IMAGE, "--attach", "--restart=Never", "--rm", "--quiet", "--", "sh", "-c", "exit 3"];
        assert_eq!(kubectl.run(&failing).code, 3);
        kubectl.run(&["delete", "pods", "--all", "--now", "--wait=false"]).ok();
    });
}

#[test]
fn a_deployment_is_rolled_out() {
    each_version("roll", |kubectl| {
        let made =
            ["create", "deployment", "d", IMAGE, "--", "sh", "-c", "trap exit TERM; while :; do sleep 0.1; done"];
        kubectl.prints(&made, "deployment.apps/d created");
        let status = ["rollout", "status", "deployment/d", "--timeout=90s"];
        kubectl.tells(&status, &["deployment \"d\" successfully rolled out"]);
        kubectl.run(&["annotate", "deployment/d", "kubernetes.io/change-cause=first"]).ok();
        kubectl.prints(&["rollout", "restart", "deployment/d"], "deployment.apps/d restarted");
        kubectl.run(&["annotate", "deployment/d", "kubernetes.io/change-cause=second", "--overwrite"]).ok();
        kubectl.tells(&status, &["successfully rolled out"]);
        gantry_integration_tests::eventually("the cause to arrive at the ReplicaSet", MINUTE, || {
            let history = kubectl.run(&["rollout", "history", "deployment/d"]).ok();
            let rows: Vec<_> = history.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
            let right = rows.starts_with(&[
                vec!["deployment.apps/d"],
                vec!["REVISION", "CHANGE-CAUSE"],
                vec!["1", "first"],
                vec!["2", "second"],
            ]);
            if right { Ok(()) } else { Err(history) }
        });
        let revision = kubectl.run(&["rollout", "history", "deployment/d", "--revision=2"]).ok();
        assert!(revision.starts_with("deployment.apps/d with revision #2\nPod Template:"), "{revision}");
        assert!(revision.contains("kubectl.kubernetes.io/restartedAt"), "{revision}");

        kubectl.prints(&["rollout", "pause", "deployment/d"], "deployment.apps/d paused");
        kubectl.refuses(&["rollout", "pause", "deployment/d"], "deployments.apps \"d\" is already paused");
        kubectl.refuses(
            &["rollout", "restart", "deployment/d"],
            "can't restart paused deployment (run rollout resume first)",
        );
        kubectl
            .refuses(&["rollout", "undo", "deployment/d"], "you cannot rollback a paused deployment; resume it first");
        kubectl.prints(&["set", "env", "deployment/d", "COLOUR=blue"], "deployment.apps/d env updated");
        kubectl.prints(&["set", "env", "deployment/d", "--list"], "# Deployment d, container busybox\nCOLOUR=blue");
        kubectl.prints(&["rollout", "resume", "deployment/d"], "deployment.apps/d resumed");
        kubectl.refuses(&["rollout", "resume", "deployment/d"], "deployments.apps \"d\" is not paused");
        kubectl.tells(&status, &["successfully rolled out"]);
        kubectl.prints(&["rollout", "undo", "deployment/d", "--to-revision=1"], "deployment.apps/d rolled back");
        kubectl.tells(&status, &["successfully rolled out"]);
        kubectl.prints(&["get", "deployment", "d", "-o", "jsonpath={.spec.template.spec.containers[0].env}"], "");
        kubectl.refuses(
            &["rollout", "undo", "deployment/d", "--to-revision=77"],
            "unable to find specified revision 77 in history",
        );
        kubectl.prints(&["scale", "deployment/d", "--replicas=0", "--current-replicas=1"], "deployment.apps/d scaled");
        kubectl.refuses(
            &["scale", "deployment/d", "--replicas=0", "--current-replicas=1"],
            "Expected replicas to be 1, was 0",
        );
        kubectl.comes_to_print(&["get", "pods", "-l", "app=d", "-o", "name"], "");
    });
}
