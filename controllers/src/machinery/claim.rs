//! Which objects belong to an owner: keeps what it controls, adopts matching orphans, lets go of what no longer
//! matches. Used by Deployments for ReplicaSets and by ReplicaSets for Pods.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use kube::api::Patch;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::cache::Cache;
use super::objects::Matcher;
use super::owners::{adopt_patch, controlled_by, controller_of, is_controlled_by, orphans_of, release_patch};
use super::patch::patch_params;
use super::{Error, is_not_found};

/// What is to be done with one candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is the owner's.
    Keep,
    /// It is nobody's and matches.
    Adopt,
    /// It is the owner's but no longer matches.
    Release,
    /// It is none of the owner's business.
    Ignore,
}

/// Decides about one candidate.
pub fn decide<O: Resource, K: Resource>(owner: &O, matcher: &Matcher, candidate: &K) -> Claim {
    let owner_leaves = owner.meta().deletion_timestamp.is_some();
    let matches = matcher.takes(candidate.labels());
    match controller_of(candidate.meta()) {
        Some(_) if !is_controlled_by(candidate.meta(), owner) => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if owner_leaves => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner_leaves || !matches => Claim::Ignore,
        None if candidate.meta().deletion_timestamp.is_some() => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// Finds what belongs to `owner` in `cache`, adopting and releasing through the API as needed.
pub async fn claim<O, K>(client: &Client, owner: &O, matcher: &Matcher, cache: &Cache<K>) -> Result<Vec<Arc<K>>, Error>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let namespace = owner.namespace().unwrap_or_default();
    let uid = owner.uid().unwrap_or_default();
    let mut candidates = cache.indexed(&controlled_by(&uid));
    candidates.extend(cache.indexed(&orphans_of(&namespace)));
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    let mut owned = Vec::new();
    let mut may_adopt = None;
    for candidate in candidates {
        let candidate_uid = candidate.uid().unwrap_or_default();
        let patch = match decide(owner, matcher, &*candidate) {
            Claim::Ignore => continue,
            Claim::Keep => {
                owned.push(candidate);
                continue;
            }
            Claim::Adopt => {
                if may_adopt.is_none() {
                    may_adopt = Some(still_there(client, owner).await?);
                }
                if may_adopt != Some(true) {
                    continue;
                }
                adopt_patch(owner, &candidate_uid)
            }
            Claim::Release => release_patch(&uid, &candidate_uid),
        };
        let adopting = decide(owner, matcher, &*candidate) == Claim::Adopt;
        let patched = api.patch(&candidate.name_any(), &patch_params(), &Patch::Strategic(&patch)).await;
        match patched {
            Ok(object) if adopting => owned.push(Arc::new(object)),
            Ok(_) => {}
            Err(error) if is_not_found(&error) => {}
            // Releasing what has meanwhile changed hands or has no such reference left.
            Err(kube::Error::Api(status)) if !adopting && status.code == 422 => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(owned)
}

/// Asks the API itself whether `owner` still exists and stays: a cache may not know yet that it was deleted, and
/// adopting for a dead owner would hand the object to the garbage collector.
async fn still_there<O>(client: &Client, owner: &O) -> Result<bool, Error>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api: Api<O> = Api::namespaced(client.clone(), &owner.namespace().unwrap_or_default());
    let fresh = api.get_opt(&owner.name_any()).await?;
    Ok(fresh.is_some_and(|fresh| fresh.uid() == owner.uid() && fresh.meta().deletion_timestamp.is_none()))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn owner(deleting: bool) -> ReplicaSet {
        let mut set: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "a", "uid": "u1"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}},
        }))
        .unwrap();
        if deleting {
            set.metadata.deletion_timestamp = Some(crate::machinery::objects::time(jiff::Timestamp::UNIX_EPOCH));
        }
        set
    }

    fn pod(controller: Option<&str>, app: &str) -> Pod {
        let owners: Vec<_> = controller
            .map(|uid| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": uid, "controller": true}))
            .into_iter()
            .collect();
        serde_json::from_value(json!({"metadata": {"name": "p", "labels": {"app": app}, "ownerReferences": owners}}))
            .unwrap()
    }

    #[test]
    fn owners_match_by_uid_and_orphans_by_label() {
        let cases = [
            (false, Some("u1"), "web", Claim::Keep),
            (false, Some("u1"), "db", Claim::Release),
            (false, Some("u2"), "web", Claim::Ignore),
            (false, None, "web", Claim::Adopt),
            (false, None, "db", Claim::Ignore),
            (true, Some("u1"), "web", Claim::Keep),
            (true, Some("u1"), "db", Claim::Ignore),
            (true, None, "web", Claim::Ignore),
        ];
        for (deleting, controller, app, expected) in cases {
            let set = owner(deleting);
            let matcher = Matcher::new(&set.spec.as_ref().unwrap().selector, String::new).unwrap();
            assert_eq!(decide(&set, &matcher, &pod(controller, app)), expected, "{deleting} {controller:?} {app}");
        }
    }
}
