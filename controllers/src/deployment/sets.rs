//! What a Deployment reads from and writes on its ReplicaSets: template equality, the template's hash, revisions
//! and the annotations that carry them. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use crate::machinery::owners::controller_reference;

/// The label by which the pods of one template are told from those of another.
pub const HASH_LABEL: &str = "pod-template-hash";
/// Which roll-out a ReplicaSet or Deployment stands for.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier revisions of a ReplicaSet that was rolled back to.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The Deployment's replicas when the ReplicaSet was last sized.
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// The most pods that the Deployment might have had then.
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
const HISTORY_LENGTH_MAX: usize = 2000;
/// The longest name of an object.
const NAME_LENGTH_MAX: usize = 253;

/// The template with what does not count for equality taken away.
fn comparable(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let mut meta = template.metadata.take().unwrap_or_default();
    if let Some(labels) = &mut meta.labels {
        labels.remove(HASH_LABEL);
    }
    meta.labels = meta.labels.filter(|labels| !labels.is_empty());
    meta.annotations = meta.annotations.filter(|map| !map.is_empty());
    template.metadata = Some(meta);
    template
}

/// Whether two templates make the same pods.
pub fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    comparable(a) == comparable(b)
}

/// A short name for the template; `collisions` makes it another one when it clashed.
pub fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash: u32 = 0x811c_9dc5;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    };
    // A template came from JSON, so it can be turned into JSON again.
    feed(&serde_json::to_vec(&comparable(template)).unwrap_or_default());
    if let Some(collisions) = collisions {
        feed(&collisions.to_le_bytes());
    }
    hash.to_string().bytes().map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()])).collect()
}

/// The ReplicaSet's template.
pub fn template_of(set: &ReplicaSet) -> PodTemplateSpec {
    set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default()
}

/// The replicas that a ReplicaSet is asked to have.
pub fn replicas_of(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// The replicas that a Deployment is asked to have.
pub fn desired_of(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// The revision that a ReplicaSet carries; 0 if none.
pub fn revision_of(set: &ReplicaSet) -> i64 {
    number(set.annotations(), REVISION).unwrap_or(0)
}

/// The number in an annotation.
pub fn number(annotations: &BTreeMap<String, String>, name: &str) -> Option<i64> {
    annotations.get(name)?.parse().ok()
}

/// Whether a Deployment's annotation is to be seen on its ReplicaSets too.
fn is_copied(name: &str) -> bool {
    ![LAST_APPLIED, ROLLBACK_TO, REVISION, REVISION_HISTORY, DESIRED_REPLICAS, MAX_REPLICAS].contains(&name)
}

/// The annotations to change on the ReplicaSet of the present template: the Deployment's own, and the revision if
/// it moves forward. `present` is empty for one that is yet to be made.
pub fn new_set_annotations(
    deployment: &Deployment,
    present: &BTreeMap<String, String>,
    revision: i64,
) -> BTreeMap<String, String> {
    let mut changes: BTreeMap<String, String> = deployment
        .annotations()
        .iter()
        .filter(|(name, value)| is_copied(name) && present.get(*name) != Some(*value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let before = present.get(REVISION);
    let before_number = match before {
        None => 0,
        Some(text) => match text.parse::<i64>() {
            Ok(number) => number,
            // Somebody wrote something else there; it is left as it is.
            Err(_) if !text.is_empty() => return changes,
            Err(_) => 0,
        },
    };
    if before_number < revision {
        changes.insert(REVISION.into(), revision.to_string());
        if let Some(before) = before.filter(|text| !text.is_empty()) {
            let history = extended_history(present.get(REVISION_HISTORY), before);
            changes.insert(REVISION_HISTORY.into(), history);
        }
    }
    changes
}

/// The history with one more revision, the oldest dropped when it gets too long.
fn extended_history(history: Option<&String>, revision: &str) -> String {
    let mut items: Vec<&str> =
        history.iter().flat_map(|text| text.split(',')).filter(|item| !item.is_empty()).collect();
    items.push(revision);
    let length = |items: &[&str]| items.iter().map(|item| item.len() + 1).sum::<usize>();
    while items.len() > 1 && length(&items) > HISTORY_LENGTH_MAX {
        items.remove(0);
    }
    items.join(",")
}

/// The annotations that tell how large the Deployment is.
pub fn size_annotations(desired: i32, max_surge: i32) -> [(String, String); 2] {
    [
        (DESIRED_REPLICAS.into(), desired.to_string()),
        (MAX_REPLICAS.into(), desired.saturating_add(max_surge).to_string()),
    ]
}

/// The ReplicaSet for the Deployment's present template, with `replicas` pods.
pub fn new_set(deployment: &Deployment, replicas: i32, revision: i64, max_surge: i32) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = template_hash(&spec.template, collisions);
    let mut template = spec.template;
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.into(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
    let mut annotations = new_set_annotations(deployment, &BTreeMap::new(), revision);
    annotations.extend(size_annotations(desired_of(deployment), max_surge));
    let mut name = deployment.name_any();
    name.truncate(NAME_LENGTH_MAX - 1 - hash.len());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: deployment.namespace(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": image}]},
        }))
        .unwrap()
    }

    #[test]
    fn the_hash_is_stable_and_ignores_its_own_label() {
        let a = template("a");
        let mut labelled = a.clone();
        labelled.metadata.as_mut().unwrap().labels.as_mut().unwrap().insert(HASH_LABEL.into(), "x".into());
        assert!(same_template(&a, &labelled));
        assert_eq!(template_hash(&a, None), template_hash(&labelled, None));
        assert_ne!(template_hash(&a, None), template_hash(&a, Some(1)));
        assert_ne!(template_hash(&a, None), template_hash(&template("b"), None));
        assert!(!same_template(&a, &template("b")));
    }

    #[test]
    fn a_set_that_is_rolled_back_to_gets_a_new_revision_and_a_history() {
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "web", "annotations": {
                "team": "shop", LAST_APPLIED: "{}", REVISION: "4"}},
        }))
        .unwrap();
        let present =
            BTreeMap::from([(REVISION.to_owned(), "2".to_owned()), (REVISION_HISTORY.to_owned(), "1".to_owned())]);
        let changes = new_set_annotations(&deployment, &present, 5);
        assert_eq!(changes.get(REVISION).unwrap(), "5");
        assert_eq!(changes.get(REVISION_HISTORY).unwrap(), "1,2");
        assert_eq!(changes.get("team").unwrap(), "shop");
        assert!(!changes.contains_key(LAST_APPLIED));
        let mut now = present;
        now.extend(changes);
        assert!(new_set_annotations(&deployment, &now, 5).is_empty());
    }

    #[test]
    fn a_long_history_drops_its_oldest() {
        let long = (0..600).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        let history = extended_history(Some(&long), "1000");
        assert!(history.len() <= HISTORY_LENGTH_MAX);
        assert!(history.ends_with(",599,1000"));
    }
}
