//! Shows pods from files in the API: each has a mirror pod there, which carries its status. In: such a pod and its status.
//! Out: a mirror pod that fits it. Nothing that happens to a mirror happens to the pod.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams, Preconditions};

use super::context::Context;
use super::files::ANNOTATION_HASH;
use super::{publish, spec};

/// Annotation of mirror pods: the hash of the pod that they show.
pub const ANNOTATION_MIRROR: &str = "kubernetes.io/config.mirror";

/// Until a mirror that was deleted is made anew. A client that waits for the end of what it deleted begins to look a moment
/// later, and would see one of that name that does not go.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What to do about the mirror of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Plan {
    /// Make it.
    Create,
    /// It shows another pod, or is going away: remove the one with this UID, then make it.
    Replace(String),
    /// It fits.
    Keep,
    /// The name belongs to a pod that is no mirror.
    Taken,
}

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a String> {
    pod.metadata.annotations.as_ref()?.get(name)
}

/// Whether a pod of the API is the mirror of one from a file.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, ANNOTATION_MIRROR).is_some()
}

fn plan(pod: &Pod, existing: Option<&Pod>) -> Plan {
    let Some(existing) = existing else { return Plan::Create };
    let Some(shows) = annotation(existing, ANNOTATION_MIRROR) else { return Plan::Taken };
    if existing.metadata.deletion_timestamp.is_none() && annotation(pod, ANNOTATION_HASH) == Some(shows) {
        return Plan::Keep;
    }
    Plan::Replace(existing.metadata.uid.clone().unwrap_or_default())
}

/// Whether a mirror that was just seen shows the pod, and is not going away.
pub fn fits(pod: &Pod, mirror: &Pod) -> bool {
    plan(pod, Some(mirror)) == Plan::Keep
}

fn mirror_of(pod: &Pod, node: &Node) -> Pod {
    let mut annotations = pod.metadata.annotations.clone().unwrap_or_default();
    let hash = annotations.get(ANNOTATION_HASH).cloned().unwrap_or_default();
    annotations.insert(ANNOTATION_MIRROR.to_owned(), hash);
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        ..OwnerReference::default()
    };
    Pod {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            labels: pod.metadata.labels.clone(),
            annotations: Some(annotations),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: pod.spec.clone(),
        status: None,
    }
}

/// Makes the mirror fit the pod, and gives it the pod's status. `again`: there has been one, so that somebody has deleted it if
/// there is none.
pub async fn publish(context: &Context, pod: &Pod, status: &PodStatus, again: bool) -> Result<Pod, kube::Error> {
    let who = spec::identity(pod);
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &who.namespace);
    let existing = api.get_opt(&who.name).await?;
    let plan = plan(pod, existing.as_ref());
    if plan == Plan::Taken {
        tracing::warn!(pod = %spec::full_name(&who), "a pod from a file is not shown: another pod has its name");
        return Ok(pod.clone());
    }
    if let Plan::Replace(uid) = &plan {
        delete(&api, &who.name, uid).await?;
    }
    let mirror = match existing.filter(|_| plan == Plan::Keep) {
        Some(existing) => existing,
        None => {
            if again {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            let node = Api::<Node>::all(context.client.clone()).get(&context.node_name).await?;
            api.create(&PostParams::default(), &mirror_of(pod, &node)).await?
        }
    };
    publish::publish(context, &mirror, mirror.status.as_ref(), status).await
}

/// Removes the mirror of a pod that is no more.
pub async fn remove(context: &Context, pod: &Pod) -> Result<(), kube::Error> {
    let who = spec::identity(pod);
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &who.namespace);
    let Some(existing) = api.get_opt(&who.name).await? else { return Ok(()) };
    match annotation(&existing, ANNOTATION_MIRROR) == annotation(pod, ANNOTATION_HASH) {
        true => delete(&api, &who.name, existing.metadata.uid.as_deref().unwrap_or_default()).await,
        false => Ok(()),
    }
}

/// Removes a mirror that shows nothing.
pub async fn remove_orphan(context: &Context, mirror: &Pod) -> Result<(), kube::Error> {
    let who = spec::identity(mirror);
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &who.namespace);
    delete(&api, &who.name, &who.uid).await
}

async fn delete(api: &Api<Pod>, name: &str, uid: &str) -> Result<(), kube::Error> {
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }.grace_period(0);
    match api.delete(name, &params).await {
        Err(error) if !publish::is_gone(&error) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mirror_shows_one_pod_and_no_other() {
        let pod = |value: serde_json::Value| serde_json::from_value::<Pod>(value).unwrap();
        let of_file = pod(
            json!({"metadata": {"name": "p", "uid": "u", "annotations": {ANNOTATION_HASH: "u"}}, "spec": {"containers": []}}),
        );
        let mirror =
            |hash: &str| json!({"metadata": {"name": "p", "uid": "m", "annotations": {ANNOTATION_MIRROR: hash}}});
        assert_eq!(plan(&of_file, None), Plan::Create);
        assert_eq!(plan(&of_file, Some(&pod(mirror("u")))), Plan::Keep);
        assert_eq!(plan(&of_file, Some(&pod(mirror("old")))), Plan::Replace("m".into()));
        let mut leaving = mirror("u");
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(plan(&of_file, Some(&pod(leaving))), Plan::Replace("m".into()));
        assert_eq!(plan(&of_file, Some(&pod(json!({"metadata": {"name": "p"}})))), Plan::Taken);
        let node = serde_json::from_value(json!({"metadata": {"name": "n", "uid": "nu"}})).unwrap();
        let made = mirror_of(&of_file, &node);
        assert!(is_mirror(&made) && made.metadata.uid.is_none());
        assert_eq!(plan(&of_file, Some(&made)), Plan::Keep);
        assert_eq!(made.metadata.owner_references.unwrap()[0].uid, "nu");
    }
}
