//! The controllers against the real API server: what users see from outside.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod policies;
mod world;

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Event, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::world::{World, eventually};

fn web(replicas: i32, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
                "tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists",
                    "effect": "NoExecute", "tolerationSeconds": 0}],
                "containers": [{"name": "web", "image": image,
                    "ports": [{"name": "http", "containerPort": 8080}]}]}}}})
}

async fn set_image(world: &World, image: &str) {
    let containers = json!([{"name": "web", "image": image}]);
    let patch = json!({"spec": {"template": {"spec": {"containers": containers}}}});
    let deployments: Api<Deployment> = world.api();
    deployments.patch("web", &PatchParams::default(), &Patch::Strategic(&patch)).await.unwrap();
}

/// Waits for the roll-out to be complete, looking at every step whether its promises hold.
async fn rolled_out(world: &World, replicas: i32) -> Deployment {
    let deployments: Api<Deployment> = world.api();
    world
        .eventually("the roll-out", async || {
            let wanted: i32 =
                world.all::<ReplicaSet>().await.iter().map(|set| set.spec.as_ref().unwrap().replicas.unwrap()).sum();
            assert!(wanted <= replicas + 1, "{wanted} pods are asked for");
            let deployment = deployments.get("web").await.unwrap();
            let status = deployment.status.clone().unwrap_or_default();
            let done = status.observed_generation == deployment.metadata.generation
                && status.updated_replicas == Some(replicas)
                && status.replicas == Some(replicas)
                && status.available_replicas == Some(replicas);
            done.then_some(deployment)
        })
        .await
}

fn ready_pods(pods: &[Pod]) -> usize {
    let is_ready = |pod: &&Pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        pod.metadata.deletion_timestamp.is_none()
            && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    pods.iter().filter(is_ready).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_is_rolled_back() {
    let world = World::start().await;
    world.machine("n1").await;
    world.namespace().await;
    world.create::<Deployment>(web(3, "v1")).await;
    rolled_out(&world, 3).await;
    set_image(&world, "v2").await;
    let second = rolled_out(&world, 3).await;
    assert_eq!(second.annotations()["deployment.kubernetes.io/revision"], "2");
    set_image(&world, "broken").await;
    eventually("the broken pod", async || {
        let pods = world.all::<Pod>().await;
        assert!(ready_pods(&pods) >= 3);
        (pods.len() == 4).then_some(())
    })
    .await;
    set_image(&world, "v1").await;
    rolled_out(&world, 3).await;
    let deployment = eventually("the revision", async || {
        let deployment = world.api::<Deployment>().get("web").await.unwrap();
        let revision = deployment.annotations()["deployment.kubernetes.io/revision"].clone();
        (revision == "4").then_some(deployment)
    })
    .await;
    let conditions = deployment.status.unwrap().conditions.unwrap();
    assert!(conditions.iter().any(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable")));
    let sets = world.all::<ReplicaSet>().await;
    assert_eq!(sets.len(), 3);
    let first = sets.iter().find(|set| set.spec.as_ref().unwrap().replicas == Some(3)).unwrap();
    assert_eq!(first.annotations()["deployment.kubernetes.io/revision-history"], "1");
    let events = world.all::<Event>().await;
    let scaled = format!("Scaled up replica set {} from 0 to 3", first.name_any());
    assert!(events.iter().any(|e| e.message.as_deref() == Some(&scaled)
        && e.source.as_ref().unwrap().component.as_deref() == Some("deployment-controller")));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_of_a_rollout_makes_nothing_twice() {
    let mut world = World::start().await;
    world.machine("n1").await;
    world.namespace().await;
    world.create::<Deployment>(web(5, "v1")).await;
    for image in ["v2", "v3"] {
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.stop_controllers().await;
        set_image(&world, image).await;
        world.start_controllers();
    }
    rolled_out(&world, 5).await;
    eventually("the old pods to go", async || (world.all::<Pod>().await.len() == 5).then_some(())).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dependents_follow_their_owner_as_asked() {
    let world = World::start().await;
    world.machine("n1").await;
    world.namespace().await;
    let deployments: Api<Deployment> = world.api();
    world.create::<Deployment>(web(2, "v1")).await;
    rolled_out(&world, 2).await;
    let names = |pods: Vec<Pod>| pods.iter().map(|pod| pod.name_any()).collect::<Vec<_>>();
    let before = names(world.all().await);

    deployments.delete("web", &DeleteParams::orphan()).await.unwrap();
    eventually("the owner to go", async || deployments.get_opt("web").await.unwrap().is_none().then_some(())).await;
    let sets = world.all::<ReplicaSet>().await;
    assert_eq!(sets.len(), 1);
    assert!(sets[0].owner_references().is_empty());

    // One of the same selector and template takes them over, pods and all.
    world.create::<Deployment>(web(2, "v1")).await;
    rolled_out(&world, 2).await;
    assert_eq!(names(world.all().await), before);

    deployments.delete("web", &DeleteParams::foreground()).await.unwrap();
    eventually("the owner to go last", async || {
        let gone = deployments.get_opt("web").await.unwrap().is_none();
        if gone {
            assert_eq!(world.all::<ReplicaSet>().await.len(), 0);
        }
        gone.then_some(())
    })
    .await;

    world.create::<Deployment>(web(2, "v1")).await;
    rolled_out(&world, 2).await;
    deployments.delete("web", &DeleteParams::background()).await.unwrap();
    eventually("the pods to follow", async || world.all::<Pod>().await.is_empty().then_some(())).await;

    let stray = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "stray", "ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "never-was"}]}});
    world.create::<ConfigMap>(stray).await;
    let maps: Api<ConfigMap> = world.api();
    eventually("the stray to go", async || maps.get_opt("stray").await.unwrap().is_none().then_some(())).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_goes_with_all_that_is_in_it() {
    let world = World::start().await;
    world.machine("n1").await;
    world.namespace().await;
    let maps: Api<ConfigMap> = world.api();
    let ca = eventually("the CA", async || maps.get_opt("kube-root-ca.crt").await.unwrap()).await;
    assert_eq!(ca.data.unwrap()["ca.crt"], "the CA");
    maps.delete("kube-root-ca.crt", &DeleteParams::default()).await.unwrap();
    eventually("the CA again", async || maps.get_opt("kube-root-ca.crt").await.unwrap()).await;

    world.create::<Deployment>(web(2, "v1")).await;
    rolled_out(&world, 2).await;
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    eventually("the namespace to go", async || namespaces.get_opt("shop").await.unwrap().is_none().then_some(())).await;
    assert!(world.all::<Pod>().await.is_empty());
    assert!(world.all::<ConfigMap>().await.is_empty());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_leave_a_lost_node_and_it_may_come_back() {
    let world = World::with_grace(Duration::from_secs(4)).await;
    world.namespace().await;
    world.machine("n1").await;
    let nodes: Api<Node> = Api::all(world.client.clone());
    let range = async |name: &str| nodes.get(name).await.unwrap().spec.and_then(|spec| spec.pod_cidr);
    let first = eventually("a pod range", async || range("n1").await).await;
    world.create::<Deployment>(web(2, "v1")).await;
    rolled_out(&world, 2).await;
    world.machine("n2").await;
    let second = eventually("another pod range", async || range("n2").await).await;
    assert_ne!(first, second);

    world.silence("n1");
    let taints = async || {
        let spec = nodes.get("n1").await.unwrap().spec.unwrap_or_default();
        let taints = spec.taints.unwrap_or_default();
        taints.into_iter().map(|t| format!("{}:{}", t.key, t.effect)).collect::<Vec<_>>()
    };
    eventually("the taints", async || {
        let taints = taints().await;
        ["NoSchedule", "NoExecute"]
            .iter()
            .all(|effect| taints.contains(&format!("node.kubernetes.io/unreachable:{effect}")))
            .then_some(())
    })
    .await;
    eventually("new pods elsewhere", async || {
        let pods = world.all::<Pod>().await;
        let elsewhere = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some("n2");
        (pods.iter().filter(|pod| elsewhere(pod)).count() == 2).then_some(())
    })
    .await;
    let ready = async || {
        let status = nodes.get("n1").await.unwrap().status.unwrap();
        let conditions = status.conditions.unwrap();
        conditions.into_iter().find(|c| c.type_ == "Ready").unwrap()
    };
    let condition = ready().await;
    assert_eq!(condition.reason.as_deref(), Some("NodeStatusUnknown"));

    world.machine("n1").await;
    eventually("the taints to go", async || taints().await.is_empty().then_some(())).await;
    eventually("the old pods to end", async || (world.all::<Pod>().await.len() == 2).then_some(())).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_follow_the_pods() {
    let world = World::start().await;
    world.machine("n1").await;
    world.namespace().await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}});
    world.create::<Service>(service).await;
    let manual = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "manual"},
        "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}]});
    world.create::<Endpoints>(manual).await;
    world.create::<Deployment>(web(3, "v1")).await;
    rolled_out(&world, 3).await;
    let slice = eventually("the slice", async || {
        let slices = world.all::<EndpointSlice>().await;
        let ours =
            |slice: &EndpointSlice| slice.labels().get("kubernetes.io/service-name").is_some_and(|name| name == "web");
        slices.into_iter().find(|slice| ours(slice) && slice.endpoints.len() == 3)
    })
    .await;
    assert_eq!(slice.ports.unwrap()[0].port, Some(8080));
    let endpoints: Api<Endpoints> = world.api();
    eventually("the endpoints", async || {
        let subsets = endpoints.get_opt("web").await.unwrap()?.subsets?;
        (subsets[0].addresses.as_ref()?.len() == 3).then_some(())
    })
    .await;
    world.api::<Service>().delete("web", &DeleteParams::default()).await.unwrap();
    eventually("them to go", async || {
        let slices = world.all::<EndpointSlice>().await;
        (slices.is_empty() && endpoints.get_opt("web").await.unwrap().is_none()).then_some(())
    })
    .await;
    assert!(endpoints.get_opt("manual").await.unwrap().is_some());
    world.end().await;
}
