//! What the policies of a namespace make of writes: quotas, limit ranges, pod security labels, and the classes that pods and
//! claims name.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{Client, Server, config_map, deployment, pod};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/t/pods";
const QUOTAS: &str = "/api/v1/namespaces/t/resourcequotas";

/// A quota that has been counted, as the controller would.
async fn quota(admin: &Client, name: &str, spec: Value, used: Value) {
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec});
    admin.post(QUOTAS, &quota).await.expect(201);
    let status = json!({"status": {"hard": spec["hard"], "used": used}});
    admin.patch(&format!("{QUOTAS}/{name}/status"), "merge-patch", &status).await.expect(200);
}

async fn used(admin: &Client, name: &str) -> Value {
    admin.get(&format!("{QUOTAS}/{name}")).await.expect(200)["status"]["used"].clone()
}

fn asking(name: &str, cpu: &str) -> Value {
    let mut pod = pod(name);
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
    pod
}

#[tokio::test]
async fn a_quota_is_charged_and_refuses_what_is_too_much() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    quota(&admin, "q", json!({"hard": {"pods": "3", "requests.cpu": "1"}}), json!({"pods": "0", "requests.cpu": "0"}))
        .await;
    admin.post(PODS, &asking("a", "600m")).await.expect(201);
    assert_eq!(used(&admin, "q").await, json!({"pods": "1", "requests.cpu": "600m"}));
    admin.post(PODS, &asking("b", "500m")).await.refused(
        403,
        "Forbidden",
        "pods \"b\" is forbidden: exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1",
    );
    admin.post(PODS, &pod("c")).await.refused(
        403,
        "Forbidden",
        "pods \"c\" is forbidden: failed quota: q: must specify requests.cpu for: main",
    );
    // A dry run is checked and not charged.
    admin.post(&format!("{PODS}?dryRun=All"), &asking("d", "400m")).await.expect(201);
    admin.post(&format!("{PODS}?dryRun=All"), &asking("d", "500m")).await.refused(403, "Forbidden", "exceeded quota");
    assert_eq!(used(&admin, "q").await, json!({"pods": "1", "requests.cpu": "600m"}));
    // Other namespaces have quotas of their own.
    server.namespace("other").await;
    admin.post("/api/v1/namespaces/other/pods", &asking("b", "500m")).await.expect(201);
    server.stop().await;
}

#[tokio::test]
async fn a_quota_that_was_not_counted_lets_nothing_in() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"configmaps": "1"}}});
    admin.post(QUOTAS, &quota).await.expect(201);
    let path = "/api/v1/namespaces/t/configmaps";
    // Nothing is in force until the controller has seen the quota.
    admin.post(path, &config_map("a")).await.expect(201);
    let status = json!({"status": {"hard": {"configmaps": "1"}}});
    admin.patch(&format!("{QUOTAS}/q/status"), "merge-patch", &status).await.expect(200);
    admin.post(path, &config_map("b")).await.refused(
        403,
        "Forbidden",
        "status unknown for quota: q, resources: configmaps",
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn creations_at_once_never_exceed_a_quota() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let hard = json!({"hard": {"configmaps": "10", "count/configmaps": "20"}});
    quota(&admin, "q", hard, json!({"configmaps": "0", "count/configmaps": "0"})).await;
    let creating: Vec<_> = (0..30)
        .map(|index| {
            let admin = admin.clone();
            tokio::spawn(async move {
                admin.post("/api/v1/namespaces/t/configmaps", &config_map(&format!("c{index}"))).await.code
            })
        })
        .collect();
    let mut created = 0;
    for one in creating {
        match one.await.unwrap() {
            201 => created += 1,
            code => assert_eq!(code, 403),
        }
    }
    assert_eq!(created, 10);
    assert_eq!(used(&admin, "q").await, json!({"configmaps": "10", "count/configmaps": "10"}));
    server.stop().await;
}

#[tokio::test]
async fn services_are_charged_for_what_they_become() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let hard = json!({"services": "2", "services.nodeports": "1", "services.loadbalancers": "0"});
    let nothing = json!({"services": "0", "services.nodeports": "0", "services.loadbalancers": "0"});
    quota(&admin, "q", json!({"hard": hard}), nothing).await;
    let path = "/api/v1/namespaces/t/services";
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    admin.post(path, &service).await.expect(201);
    let becomes = |kind: &str| json!({"spec": {"type": kind}});
    admin.patch(&format!("{path}/s"), "merge-patch", &becomes("LoadBalancer")).await.refused(
        403,
        "Forbidden",
        "exceeded quota: q, requested: services.loadbalancers=1, used: services.loadbalancers=0, limited: services.loadbalancers=0",
    );
    admin.patch(&format!("{path}/s"), "merge-patch", &becomes("NodePort")).await.expect(200);
    assert_eq!(
        used(&admin, "q").await,
        json!({"services": "1", "services.nodeports": "1", "services.loadbalancers": "0"})
    );
    server.stop().await;
}

#[tokio::test]
async fn limit_ranges_complete_containers_and_refuse_what_is_out_of_bounds() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"}},
        {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}},
    ]}});
    admin.post("/api/v1/namespaces/t/limitranges", &range).await.expect(201);
    let made = admin.post(PODS, &pod("a")).await.expect(201);
    let resources = &made["spec"]["containers"][0]["resources"];
    assert_eq!(*resources, json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}}));
    assert_eq!(made["status"]["qosClass"], "Burstable");
    let mut greedy = pod("b");
    greedy["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "2"}});
    admin.post(PODS, &greedy).await.refused(
        403,
        "Forbidden",
        "pods \"b\" is forbidden: maximum cpu usage per Container is 1, but limit is 2",
    );
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}});
    admin.post("/api/v1/namespaces/t/persistentvolumeclaims", &claim).await.refused(
        403,
        "Forbidden",
        "maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi",
    );
    server.stop().await;
}

#[tokio::test]
async fn pod_security_labels_enforce_and_warn() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let mut privileged = pod("before");
    privileged["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    admin.post(PODS, &privileged).await.expect(201);
    let wrong = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "strict"}}});
    admin.patch("/api/v1/namespaces/t", "merge-patch", &wrong).await.refused(
        422,
        "Invalid",
        "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted",
    );
    let labels = json!({"metadata": {"labels": {
        "pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted"}}});
    let labelled = admin.patch("/api/v1/namespaces/t", "merge-patch", &labels).await;
    let warnings = |answer: &common::Answer| {
        let all = answer.headers.get_all("warning").iter();
        all.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>().join("\n")
    };
    let told = warnings(&labelled);
    assert!(
        told.contains("violate the new PodSecurity enforce level") && told.contains("before: privileged"),
        "{told}"
    );
    labelled.expect(200);
    privileged["metadata"]["name"] = json!("after");
    admin.post(PODS, &privileged).await.refused(
        403,
        "Forbidden",
        "pods \"after\" is forbidden: violates PodSecurity \"baseline:latest\": privileged (container \"main\" must not set securityContext.privileged=true)",
    );
    // A workload is only warned about; its pods would be refused.
    let answer = admin.post("/apis/apps/v1/namespaces/t/deployments", &deployment("d")).await;
    let told = warnings(&answer);
    assert!(told.contains("would violate PodSecurity") && told.contains("allowPrivilegeEscalation != false"), "{told}");
    answer.expect(201);
    server.stop().await;
}

#[tokio::test]
async fn priority_classes_become_numbers() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let class = |name: &str, value: i64, default: bool| {
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "globalDefault": default, "preemptionPolicy": "Never"})
    };
    admin.get(&format!("{classes}/system-node-critical")).await.expect(200);
    admin.post(classes, &class("urgent", 1000, false)).await.expect(201);
    let mut urgent = pod("a");
    urgent["spec"]["priorityClassName"] = json!("urgent");
    let made = admin.post(PODS, &urgent).await.expect(201);
    assert_eq!((&made["spec"]["priority"], &made["spec"]["preemptionPolicy"]), (&json!(1000), &json!("Never")));
    admin.post(classes, &class("usual", 10, true)).await.expect(201);
    let made = admin.post(PODS, &pod("b")).await.expect(201);
    assert_eq!((&made["spec"]["priority"], &made["spec"]["priorityClassName"]), (&json!(10), &json!("usual")));
    admin.post(classes, &class("second", 20, true)).await.refused(
        403,
        "Forbidden",
        "PriorityClass usual is already marked as default. Only one default can exist",
    );
    server.stop().await;
}

#[tokio::test]
async fn runtime_classes_add_their_overhead_and_their_nodes() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "vm"}, "handler": "vm",
        "overhead": {"podFixed": {"cpu": "250m"}},
        "scheduling": {"nodeSelector": {"runtime": "vm"}, "tolerations": [{"key": "vm", "operator": "Exists"}]}});
    admin.post("/apis/node.k8s.io/v1/runtimeclasses", &class).await.expect(201);
    let mut with = pod("a");
    with["spec"]["runtimeClassName"] = json!("vm");
    let made = admin.post(PODS, &with).await.expect(201);
    assert_eq!(made["spec"]["overhead"], json!({"cpu": "250m"}));
    assert_eq!(made["spec"]["nodeSelector"], json!({"runtime": "vm"}));
    assert!(made["spec"]["tolerations"].as_array().unwrap().iter().any(|toleration| toleration["key"] == "vm"));
    with["metadata"]["name"] = json!("b");
    with["spec"]["nodeSelector"] = json!({"runtime": "runc"});
    admin.post(PODS, &with).await.refused(
        403,
        "Forbidden",
        "conflict: runtimeClass.scheduling.nodeSelector[runtime] = vm",
    );
    with["spec"]["runtimeClassName"] = json!("none");
    admin.post(PODS, &with).await.refused(403, "Forbidden", "pod rejected: RuntimeClass \"none\" not found");
    server.stop().await;
}

#[tokio::test]
async fn claims_get_the_default_class_and_are_protected() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "example.com/p",
        "metadata": {"name": "usual", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}});
    admin.post("/apis/storage.k8s.io/v1/storageclasses", &class).await.expect(201);
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}});
    let made = admin.post("/api/v1/namespaces/t/persistentvolumeclaims", &claim).await.expect(201);
    assert_eq!(made["spec"]["storageClassName"], "usual");
    assert_eq!(made["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    server.stop().await;
}
