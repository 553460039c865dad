//! Bindings: a pod is bound once, and where its binder asks for it, only to a node that has room.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{Client, Server, eventually};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/t/pods";

async fn make_node(admin: &Client, name: &str, allocatable: &Value) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    admin.post("/api/v1/nodes", &node).await.expect(201);
    let status = json!({"status": {"capacity": allocatable, "allocatable": allocatable}});
    admin.patch(&format!("/api/v1/nodes/{name}/status"), "merge-patch", &status).await.expect(200);
}

async fn make_pod(admin: &Client, name: &str, requests: &Value) {
    let mut pod = common::pod(name);
    pod["spec"]["containers"][0]["resources"] = json!({"requests": requests, "limits": requests});
    admin.post(PODS, &pod).await.expect(201);
}

async fn bind(client: &Client, pod: &str, node: &str, annotations: &Value) -> common::Answer {
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod, "annotations": annotations},
        "target": {"kind": "Node", "name": node},
    });
    client.post(&format!("{PODS}/{pod}/binding"), &binding).await
}

fn if_fits() -> Value {
    json!({"gantry.io/if-fits": "true"})
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    make_pod(&admin, "p", &json!({"cpu": "1"})).await;
    // Whether the node is there, and what it has, is asked only on request.
    bind(&admin, "p", "n1", &json!({"a": "b"})).await.expect(201);
    make_node(&admin, "n2", &json!({"cpu": "9", "pods": "9"})).await;
    let text = "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\"";
    for annotations in [json!({}), if_fits()] {
        let again = bind(&admin, "p", "n2", &annotations).await.refused(409, "Conflict", "");
        assert_eq!(again["message"], text);
    }
    let pod = admin.get(&format!("{PODS}/p")).await.expect(200);
    assert_eq!((&pod["spec"]["nodeName"], &pod["metadata"]["annotations"]), (&json!("n1"), &json!({"a": "b"})));
    server.stop().await;
}

#[tokio::test]
async fn on_request_a_pod_is_bound_only_where_it_fits() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    make_node(&admin, "n", &json!({"cpu": "2", "memory": "1Gi", "pods": "3", "example.com/x": "1"})).await;
    for (name, cpu) in [("a", "1200m"), ("b", "900m"), ("c", "800m"), ("d", "900m")] {
        make_pod(&admin, name, &json!({"cpu": cpu})).await;
    }
    bind(&admin, "a", "n", &if_fits()).await.expect(201);
    let refused = bind(&admin, "b", "n", &if_fits()).await.refused(409, "Conflict", "");
    let text = "Node didn't have enough resource: cpu, requested: 900, used: 1200, capacity: 2000";
    assert_eq!(refused["message"], format!("Operation cannot be fulfilled on pods/binding \"b\": {text}"));
    assert_eq!(refused["details"]["causes"], json!([{"reason": "OutOfcpu", "message": text}]));
    assert_eq!(refused["details"]["kind"], "pods/binding");
    let waiting = admin.get(&format!("{PODS}/b")).await.expect(200);
    assert!(waiting["spec"]["nodeName"].is_null(), "nothing was written: {waiting}");
    bind(&admin, "b", "gone", &if_fits()).await.refused(409, "Conflict", "node \"gone\" not found");
    let odd = json!({"gantry.io/if-fits": "maybe"});
    bind(&admin, "b", "n", &odd).await.refused(422, "Invalid", "metadata.annotations[gantry.io/if-fits]: Unsupported");

    bind(&admin, "c", "n", &if_fits()).await.expect(201);
    let bound = admin.get(&format!("{PODS}/c")).await.expect(200);
    assert!(bound["metadata"]["annotations"].is_null(), "what was asked of the binding is not kept: {bound}");
    // Those that nobody checked count as well, and those that have ended do not.
    bind(&admin, "b", "n", &json!({"gantry.io/if-fits": "false"})).await.expect(201);
    let causes = |refused: Value| {
        let causes = refused["details"]["causes"].as_array().unwrap().clone();
        causes.iter().map(|cause| cause["reason"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let refused = bind(&admin, "d", "n", &if_fits()).await.refused(409, "Conflict", "used: 2900");
    assert_eq!(causes(refused), ["OutOfcpu", "OutOfpods"]);
    let ended = json!({"status": {"phase": "Succeeded"}});
    admin.patch(&format!("{PODS}/a/status"), "merge-patch", &ended).await.expect(200);
    bind(&admin, "d", "n", &if_fits()).await.refused(409, "Conflict", "used: 1700");
    admin.delete(&format!("{PODS}/b?gracePeriodSeconds=0"), &Value::Null).await.expect(200);
    bind(&admin, "d", "n", &if_fits()).await.expect(201);
    server.stop().await;
}

#[tokio::test]
async fn a_node_that_went_and_came_starts_afresh() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    for round in 0..2 {
        make_node(&admin, "n", &json!({"cpu": "1", "pods": "3"})).await;
        let name = format!("p{round}");
        make_pod(&admin, &name, &json!({"cpu": "1"})).await;
        bind(&admin, &name, "n", &if_fits()).await.expect(201);
        admin.delete(&format!("{PODS}/{name}?gracePeriodSeconds=0"), &Value::Null).await.expect(200);
        admin.delete("/api/v1/nodes/n", &Value::Null).await.expect(200);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_only_those_that_fit_are_bound() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    for node in ["n0", "n1"] {
        make_node(&admin, node, &json!({"cpu": "1", "pods": "100"})).await;
    }
    for index in 0..30 {
        make_pod(&admin, &format!("p{index}"), &json!({"cpu": "200m"})).await;
    }
    let binding = (0..30).map(|index| {
        let admin = admin.clone();
        tokio::spawn(
            async move { bind(&admin, &format!("p{index}"), &format!("n{}", index % 2), &if_fits()).await.code },
        )
    });
    let mut codes = Vec::new();
    for code in binding.collect::<Vec<_>>() {
        codes.push(code.await.unwrap());
    }
    codes.sort_unstable();
    assert_eq!(codes, [vec![201; 10], vec![409; 20]].concat(), "five on each node");
    eventually(|| async {
        let on = admin.get("/api/v1/pods?fieldSelector=spec.nodeName=n0").await.expect(200);
        on["items"].as_array().unwrap().len() == 5
    })
    .await;
    server.stop().await;
}
