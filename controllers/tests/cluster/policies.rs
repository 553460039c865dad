//! ReplicationControllers, quotas and disruption budgets, with the API server that charges and refuses.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, ReplicationController, ResourceQuota, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, EvictParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::world::World;

fn controller(name: &str, replicas: i32) -> Value {
    json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"app": name},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {
                "containers": [{"name": "c", "image": "image", "resources": {"requests": {"cpu": "100m"}}}]}}}})
}

async fn running(world: &World, count: usize) -> Vec<Pod> {
    world
        .eventually(&format!("{count} running pods"), async || {
            let pods = world.all::<Pod>().await;
            let ready = |pod: &&Pod| {
                pod.metadata.deletion_timestamp.is_none()
                    && pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"))
            };
            (pods.iter().filter(ready).count() == count && pods.len() == count).then_some(pods)
        })
        .await
}

async fn used(world: &World, expected: Value) {
    let quotas: Api<ResourceQuota> = world.api();
    let what = format!("the usage {expected}");
    world
        .eventually(&what, async || {
            let quota = quotas.get("q").await.unwrap();
            let used = quota.status.and_then(|status| status.used);
            (serde_json::to_value(used).unwrap() == expected).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replication_controller_keeps_adopts_releases_and_orphans() {
    let world = World::start().await;
    world.namespace().await;
    world.machine("n1").await;
    let orphan = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "first", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "image"}]}});
    world.create::<Pod>(orphan).await;
    world.create::<ReplicationController>(controller("web", 3)).await;
    let pods = running(&world, 3).await;
    assert!(pods.iter().any(|pod| pod.name_any() == "first"));
    let api: Api<ReplicationController> = world.api();
    let set = world
        .eventually("the status", async || {
            let set = api.get("web").await.unwrap();
            (set.status.as_ref().unwrap().ready_replicas == Some(3)).then_some(set)
        })
        .await;
    let status = set.status.unwrap();
    assert_eq!((status.replicas, status.fully_labeled_replicas), (3, Some(3)));
    assert_eq!(status.observed_generation, set.metadata.generation);
    // A pod whose label changes is let go, and replaced.
    let pods: Api<Pod> = world.api();
    let other = json!({"metadata": {"labels": {"app": "other"}}});
    pods.patch("first", &PatchParams::default(), &Patch::Merge(&other)).await.unwrap();
    running(&world, 4).await;
    assert_eq!(pods.get("first").await.unwrap().owner_references(), []);
    // Its pods stay if it is deleted so.
    let orphaning = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..Default::default() };
    api.delete("web", &orphaning).await.unwrap();
    world
        .eventually("the end of the controller", async || api.get_opt("web").await.unwrap().is_none().then_some(()))
        .await;
    let left = running(&world, 4).await;
    assert!(left.iter().all(|pod| pod.owner_references().is_empty()));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_counted_charged_and_given_back() {
    let world = World::start().await;
    world.namespace().await;
    world.machine("n1").await;
    let hard = json!({"pods": "2", "requests.cpu": "1", "services": "1", "count/replicationcontrollers": "5", "configmaps": "3"});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": hard}});
    world.create::<ResourceQuota>(quota).await;
    let usage = |pods: u32, cpu: &str, sets: u32, configs: u32| {
        json!({"pods": pods.to_string(), "requests.cpu": cpu, "services": "0",
            "count/replicationcontrollers": sets.to_string(), "configmaps": configs.to_string()})
    };
    // The cluster's CA is in every namespace.
    used(&world, usage(0, "0", 0, 1)).await;
    world.create::<ReplicationController>(controller("web", 3)).await;
    running(&world, 2).await;
    used(&world, usage(2, "200m", 1, 1)).await;
    let sets: Api<ReplicationController> = world.api();
    let failure = world
        .eventually("the condition", async || sets.get("web").await.unwrap().status.unwrap().conditions?.pop())
        .await;
    assert_eq!((failure.type_.as_str(), failure.reason.as_deref()), ("ReplicaFailure", Some("FailedCreate")));
    assert!(failure.message.unwrap().contains("exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"));
    // Objects of other kinds are counted by the graph of all objects.
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
    world.create::<ConfigMap>(config).await;
    used(&world, usage(2, "200m", 1, 2)).await;
    let configs: Api<ConfigMap> = world.api();
    configs.delete("c", &Default::default()).await.unwrap();
    used(&world, usage(2, "200m", 1, 1)).await;
    // What goes is given back, and what waited for it may come.
    let smaller = json!({"spec": {"replicas": 0}});
    sets.patch("web", &PatchParams::default(), &Patch::Merge(&smaller)).await.unwrap();
    used(&world, usage(0, "0", 1, 1)).await;
    let larger = json!({"spec": {"hard": {"pods": "5"}}});
    let quotas: Api<ResourceQuota> = world.api();
    quotas.patch("q", &PatchParams::default(), &Patch::Merge(&larger)).await.unwrap();
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    world.create::<Service>(service).await;
    world
        .eventually("the new limit", async || {
            let status = quotas.get("q").await.unwrap().status.unwrap();
            let hard = status.hard.unwrap();
            (hard["pods"].0 == "5" && status.used.unwrap()["services"].0 == "1").then_some(())
        })
        .await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disruption_budget_refuses_one_eviction_too_many() {
    let world = World::start().await;
    world.namespace().await;
    world.machine("n1").await;
    world.create::<ReplicationController>(controller("web", 3)).await;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    world.create::<PodDisruptionBudget>(budget).await;
    let pods = running(&world, 3).await;
    let budgets: Api<PodDisruptionBudget> = world.api();
    let allowed = async |count: i32| {
        world
            .eventually(&format!("{count} disruptions allowed"), async || {
                let status = budgets.get("b").await.unwrap().status?;
                (status.disruptions_allowed == count && status.expected_pods == 3).then_some(status)
            })
            .await
    };
    let status = allowed(1).await;
    assert_eq!((status.current_healthy, status.desired_healthy), (3, 2));
    assert_eq!(status.conditions.unwrap()[0].reason, "SufficientPods");
    // Nobody replaces what is evicted now: the second eviction must be refused.
    world.silence("n1");
    let api: Api<Pod> = world.api();
    api.evict(&pods[0].name_any(), &EvictParams::default()).await.unwrap();
    let refused = api.evict(&pods[1].name_any(), &EvictParams::default()).await.unwrap_err();
    let kube::Error::Api(refused) = refused else { panic!("{refused}") };
    assert_eq!((refused.code, refused.reason.as_str()), (429, "TooManyRequests"));
    assert_eq!(refused.message, "Cannot evict pod as it would violate the pod's disruption budget.");
    let causes = refused.details.unwrap().causes;
    assert_eq!(causes[0].reason, "DisruptionBudget");
    let evicted = api.get(&pods[0].name_any()).await.unwrap();
    let conditions = evicted.status.unwrap().conditions.unwrap();
    let target = conditions.iter().find(|condition| condition.type_ == "DisruptionTarget").unwrap();
    assert_eq!(target.reason.as_deref(), Some("EvictionByEvictionAPI"));
    // The replacement makes room for the next.
    world.machine("n1").await;
    allowed(1).await;
    tokio::time::timeout(Duration::from_secs(60), async {
        while api
            .evict(&pods[1].name_any(), &EvictParams { post_options: PostParams::default(), ..Default::default() })
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .unwrap();
    world.end().await;
}
