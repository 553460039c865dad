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

/// What the kernel has for a container: its CPU quota in microseconds of 100 ms, and the bytes of memory it may use.
fn kernel_limits(cluster: &Cluster, uid: &str, id: &str) -> (String, String) {
    // With cgroups v1 each controller has a tree of its own; below the root the agent has one folder a data directory.
    let read = |controller: &str, file: &str| {
        let trees = ["/sys/fs/cgroup".to_owned(), format!("/sys/fs/cgroup/{controller}")];
        let folders = trees.iter().flat_map(|tree| fs::read_dir(format!("{tree}{}", cluster.cgroup_root())));
        let found = folders
            .flatten()
            .flatten()
            .find_map(|folder| fs::read_to_string(folder.path().join(format!("pod{uid}")).join(id).join(file)).ok());
        found.and_then(|text| text.split_whitespace().next().map(str::to_owned))
    };
    let cpu = read("cpu", "cpu.max").or_else(|| read("cpu", "cpu.cfs_quota_us"));
    let memory = read("memory", "memory.max").or_else(|| read("memory", "memory.limit_in_bytes"));
    (cpu.unwrap_or_default(), memory.unwrap_or_default())
}

#[test]
fn a_running_pod_is_resized_in_place_or_with_a_restart_as_it_asks() {
    let Some(cluster) = cluster() else { return };
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sized"},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
            "name": "main", "image": "gantry.local/busybox:1.35", "command": ["sh", "-c", "exec sleep 3600"],
            "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"cpu": "100m", "memory": "32Mi"}},
            "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}],
        }]},
    });
    cluster.kubectl_with(&["apply", "-f", "-"], pod.to_string().as_bytes()).ok();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/sized", "--timeout=60s"]).ok();
    let pod = || cluster.object(&["pod", "sized"]).unwrap();
    let uid = pod()["metadata"]["uid"].as_str().unwrap().to_owned();
    let id = || {
        let pod = pod();
        let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default().to_owned();
        id.rsplit_once("://").map(|(_, id)| id.to_owned()).unwrap_or_default()
    };
    let before = id();
    assert_eq!(kernel_limits(&cluster, &uid, &before), ("10000".to_owned(), (32 << 20).to_string()));
    let resize = |resources: serde_json::Value| {
        let patch = json!({"spec": {"containers": [{"name": "main", "resources": resources}]}}).to_string();
        cluster.kubectl(&["patch", "pod", "sized", "--subresource=resize", "-p", &patch])
    };
    resize(json!({"requests": {"cpu": "30m"}, "limits": {"cpu": "300m"}})).ok();
    eventually("the kernel's new quota", MINUTE, || {
        let limits = kernel_limits(&cluster, &uid, &before);
        if limits.0 == "30000" { Ok(()) } else { Err(format!("{limits:?} {}", pod()["status"])) }
    });
    eventually("the status of the resize", MINUTE, || {
        let status = &pod()["status"]["containerStatuses"][0];
        let shown = (&status["resources"]["limits"]["cpu"], &status["allocatedResources"]["cpu"]);
        if shown == (&json!("300m"), &json!("30m")) { Ok(()) } else { Err(status.to_string()) }
    });
    assert_eq!((id(), &pod()["status"]["containerStatuses"][0]["restartCount"]), (before.clone(), &json!(0)));

    resize(json!({"requests": {"memory": "48Mi"}, "limits": {"memory": "48Mi"}})).ok();
    eventually("the restarted container's memory", MINUTE, || {
        let (now, pod) = (id(), pod());
        let limits = kernel_limits(&cluster, &uid, &now);
        let restarted = pod["status"]["containerStatuses"][0]["restartCount"] == 1;
        let as_wanted = limits == ("30000".to_owned(), (48 << 20).to_string());
        if restarted && now != before && as_wanted { Ok(()) } else { Err(format!("{limits:?} {}", pod["status"])) }
    });

    // No node has so much: the pod goes on with what it has, and says why.
    resize(json!({"requests": {"cpu": "900"}, "limits": {"cpu": "1000"}})).ok();
    eventually("the refusal", MINUTE, || {
        let status = pod()["status"].clone();
        let found = status["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "PodResizePending");
        let told = found.is_some_and(|c| {
            c["reason"] == "Infeasible" && c["message"].as_str().unwrap_or_default().contains("enough capacity: cpu")
        });
        if told { Ok(()) } else { Err(status.to_string()) }
    });
    assert_eq!(kernel_limits(&cluster, &uid, &id()).0, "30000");
    let refused = resize(json!({"limits": {"memory": null}})).fails_with(1);
    assert!(refused.contains("resource limits cannot be removed"), "{refused}");
    let other = r#"{"spec":{"containers":[{"name":"main","resources":{"limits":{"ephemeral-storage":"1Gi"}}}]}}"#;
    let refused = cluster.kubectl(&["patch", "pod", "sized", "--subresource=resize", "-p", other]).fails_with(1);
    assert!(refused.contains("only cpu and memory resources are mutable"), "{refused}");
    cluster.kubectl(&["delete", "pod", "sized", "--wait=false"]).ok();
}

#[test]
fn a_secret_for_an_accounts_token_is_filled_and_ends_with_the_account() {
    let Some(cluster) = cluster() else { return };
    cluster.kubectl(&["create", "serviceaccount", "robot"]).ok();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "robot-token", "annotations": {"kubernetes.io/service-account.name": "robot"}},
    });
    cluster.kubectl_with(&["apply", "-f", "-"], secret.to_string().as_bytes()).ok();
    let token = eventually("the token", MINUTE, || {
        let template = "{{ with .data.token }}{{ . | base64decode }}{{ end }}";
        let outcome = cluster.kubectl(&["get", "secret", "robot-token", "-o", &format!("go-template={template}")]);
        if outcome.stdout.is_empty() { Err(outcome.to_string()) } else { Ok(outcome.stdout) }
    });
    let found = cluster.object(&["secret", "robot-token"]).unwrap();
    let account = cluster.object(&["serviceaccount", "robot"]).unwrap();
    assert_eq!(found["metadata"]["annotations"]["kubernetes.io/service-account.uid"], account["metadata"]["uid"]);
    assert!(found["data"]["ca.crt"].is_string() && found["data"]["namespace"] == "ZGVmYXVsdA==", "{found}");
    // Who it is can be asked with the token alone.
    let kubeconfig = cluster.scratch().join("robot.kubeconfig");
    let admin = fs::read_to_string(cluster.kubeconfig()).unwrap();
    fs::write(&kubeconfig, admin).unwrap();
    let config = kubeconfig.display().to_string();
    let user = cluster.kubectl(&["config", "view", "-o", "jsonpath={.contexts[0].context.user}"]).ok();
    cluster.kubectl(&["--kubeconfig", &config, "config", "unset", &format!("users.{user}")]).ok();
    cluster.kubectl(&["--kubeconfig", &config, "config", "set-credentials", &user, &format!("--token={token}")]).ok();
    let who = ["--kubeconfig", config.as_str(), "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"];
    eventually("the account to be known by its token", MINUTE, || {
        let outcome = cluster.kubectl(&who);
        if outcome.stdout == "system:serviceaccount:default:robot" { Ok(()) } else { Err(outcome.to_string()) }
    });
    cluster.kubectl(&["delete", "serviceaccount", "robot"]).ok();
    eventually("the end of the secret", MINUTE, || match cluster.object(&["secret", "robot-token"]) {
        Err(error) if error.contains("NotFound") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    cluster.kubectl(&who).fails_with(1);
}

#[test]
fn components_and_policies_tell_how_they_are() {
    let Some(cluster) = cluster() else { return };
    eventually("healthy components", MINUTE, || {
        let outcome = cluster.kubectl(&["get", "componentstatuses", "--no-headers"]);
        let healthy = outcome.stdout.lines().filter(|line| line.contains("Healthy")).count();
        if healthy == 3 { Ok(()) } else { Err(outcome.to_string()) }
    });
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "typo"},
        "spec": {
            "matchConstraints": {"resourceRules": [
                {"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]},
            ]},
            "validations": [{"expression": "object.spec.replcas < 5"}, {"expression": "object.spec.replicas < 5"}],
        },
    });
    cluster.kubectl_with(&["apply", "-f", "-"], policy.to_string().as_bytes()).ok();
    let status = eventually("the policy's status", MINUTE, || {
        let policy = cluster.object(&["validatingadmissionpolicy", "typo"]).unwrap();
        if policy["status"]["observedGeneration"] == 1 { Ok(policy["status"].clone()) } else { Err(policy.to_string()) }
    });
    let warnings = status["typeChecking"]["expressionWarnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{status}");
    assert_eq!(warnings[0]["fieldRef"], "spec.validations[0].expression");
    let told = warnings[0]["warning"].as_str().unwrap();
    assert!(told.contains("apps/v1, Kind=Deployment") && told.contains("undefined field 'replcas'"), "{told}");
    cluster.kubectl(&["delete", "validatingadmissionpolicy", "typo"]).ok();
}
