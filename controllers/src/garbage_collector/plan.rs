//! Decides what becomes of an object because of its owners or dependents. Pure.

use std::collections::HashMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::graph::{Graph, Node};

/// What an object needs.
#[derive(Clone, Debug, PartialEq)]
pub enum Need {
    /// Nothing.
    Nothing,
    /// Its dependents have to be let go, then its finalizer removed.
    Orphan {
        /// The UIDs of the dependents.
        dependents: Vec<String>,
    },
    /// Its dependents have to be gone before its finalizer is removed.
    Foreground {
        /// The UIDs of those that still block it and may not be going yet.
        blocking: Vec<String>,
    },
    /// Its owners have to be examined.
    Examine,
}

/// Tells what the object with this UID needs.
pub fn need(graph: &Graph, uid: &str) -> Need {
    let Some(node) = graph.get(uid) else {
        return Need::Nothing;
    };
    if node.waits_for_orphaning() {
        return Need::Orphan { dependents: graph.dependents_of(uid) };
    }
    if node.waits_for_dependents() {
        let blocks = |dependent: &String| graph.get(dependent).is_some_and(|d| d.blocks(uid));
        let dependents = graph.dependents_of(uid);
        return Need::Foreground { blocking: dependents.into_iter().filter(blocks).collect() };
    }
    if node.deleting || node.owners.is_empty() {
        return Need::Nothing;
    }
    Need::Examine
}

/// What is known of one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It exists and stays.
    Solid,
    /// It exists and waits for its dependents to be deleted.
    Waiting,
    /// It does not exist.
    Absent,
    /// Only the API can tell.
    Unknown,
}

/// What the graph alone tells of the owner behind a reference carried by `node`.
pub fn presence(graph: &Graph, node: &Node, reference: &OwnerReference) -> Presence {
    match graph.get(&reference.uid) {
        Some(owner) if owner.is_meant_by(reference, &node.namespace) => {
            if owner.waits_for_dependents() {
                Presence::Waiting
            } else {
                Presence::Solid
            }
        }
        // The UID is taken by something else than the reference says.
        Some(_) => Presence::Unknown,
        None if graph.is_absent(&reference.uid) => Presence::Absent,
        None => Presence::Unknown,
    }
}

/// How a dependent is to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Its own dependents follow it.
    Background,
    /// Its own dependents go before it.
    Foreground,
    /// Its own dependents stay.
    Orphan,
}

/// What is to be done with an object after its owners were examined.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It stays as it is.
    Keep,
    /// It stays, but loses the references to these owners.
    Unlink(Vec<String>),
    /// It goes.
    Delete {
        /// How.
        policy: Policy,
        /// Its own references to owners must stop blocking those of its dependents that wait for it, or a circle
        /// would never come apart.
        unblock: bool,
    },
}

/// Judges an object by what is known of its owners. Nothing is done while anything about them is unknown.
pub fn judge(graph: &Graph, uid: &str, node: &Node, owners: &HashMap<String, Presence>) -> Verdict {
    let presence = |owner: &OwnerReference| owners.get(&owner.uid).copied().unwrap_or(Presence::Unknown);
    let with = |wanted: Presence| {
        let matching = node.owners.iter().filter(move |o| presence(o) == wanted);
        matching.map(|o| o.uid.clone()).collect::<Vec<_>>()
    };
    if node.owners.is_empty() || !with(Presence::Unknown).is_empty() {
        return Verdict::Keep;
    }
    let (solid, waiting) = (with(Presence::Solid), with(Presence::Waiting));
    if !solid.is_empty() {
        let mut gone = with(Presence::Absent);
        gone.extend(waiting);
        return if gone.is_empty() { Verdict::Keep } else { Verdict::Unlink(gone) };
    }
    let dependents = graph.dependents_of(uid);
    if !waiting.is_empty() && !dependents.is_empty() {
        let circular = |dependent: &String| graph.get(dependent).is_some_and(Node::waits_for_dependents);
        return Verdict::Delete { policy: Policy::Foreground, unblock: dependents.iter().any(circular) };
    }
    let policy = if node.orphan {
        Policy::Orphan
    } else if node.foreground {
        Policy::Foreground
    } else {
        Policy::Background
    };
    Verdict::Delete { policy, unblock: false }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
    use k8s_openapi::api::core::v1::{Node as ApiNode, Pod};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use kube::discovery::ApiResource;
    use serde_json::{Value, json};

    use super::super::graph::Type;
    use super::*;

    fn kind(name: &str) -> Arc<Type> {
        let resource = match name {
            "Deployment" => ApiResource::erase::<Deployment>(&()),
            "ReplicaSet" => ApiResource::erase::<ReplicaSet>(&()),
            "Node" => ApiResource::erase::<ApiNode>(&()),
            _ => ApiResource::erase::<Pod>(&()),
        };
        Arc::new(Type { resource, namespaced: name != "Node" })
    }

    fn owner(kind_name: &str, uid: &str, blocks: bool) -> Value {
        let api_version = &kind(kind_name).resource.api_version;
        json!({"apiVersion": api_version, "kind": kind_name, "name": uid, "uid": uid,
            "controller": false, "blockOwnerDeletion": blocks})
    }

    fn node(kind_name: &str, name: &str, owners: &[Value], finalizers: &[&str]) -> Node {
        let mut meta: ObjectMeta = serde_json::from_value(json!({
            "name": name, "namespace": "a", "ownerReferences": owners, "finalizers": finalizers,
        }))
        .unwrap();
        if !finalizers.is_empty() {
            meta.deletion_timestamp = Some(crate::machinery::objects::time(jiff::Timestamp::UNIX_EPOCH));
        }
        if kind_name == "Node" {
            meta.namespace = None;
        }
        Node::new(kind(kind_name), &meta)
    }

    fn names(affected: std::collections::BTreeSet<String>) -> Vec<String> {
        affected.into_iter().collect()
    }

    /// What the graph says of each owner of `uid`.
    fn verdict(graph: &Graph, uid: &str) -> Verdict {
        let node = graph.get(uid).unwrap().clone();
        let owners = node.owners.iter().map(|o| (o.uid.clone(), presence(graph, &node, o))).collect();
        judge(graph, uid, &node, &owners)
    }

    #[test]
    fn dependents_of_a_deleted_owner_go() {
        let mut graph = Graph::default();
        assert!(graph.observe("d", node("Deployment", "d", &[], &[])).is_empty());
        let set = node("ReplicaSet", "r", &[owner("Deployment", "d", true)], &[]);
        assert!(graph.observe("r", set.clone()).is_empty());
        assert!(graph.observe("r", set).is_empty());
        assert_eq!(verdict(&graph, "r"), Verdict::Keep);
        assert_eq!(names(graph.remove("d")), ["r"]);
        assert_eq!(need(&graph, "r"), Need::Examine);
        assert_eq!(verdict(&graph, "r"), Verdict::Delete { policy: Policy::Background, unblock: false });
    }

    #[test]
    fn an_unknown_owner_is_asked_for_before_anything_happens() {
        let mut graph = Graph::default();
        let pod = node("Pod", "p", &[owner("ReplicaSet", "r", true)], &[]);
        assert_eq!(names(graph.observe("p", pod)), ["p"]);
        assert_eq!(verdict(&graph, "p"), Verdict::Keep);
        graph.note_absent("r");
        assert!(matches!(verdict(&graph, "p"), Verdict::Delete { .. }));
    }

    #[test]
    fn one_solid_owner_keeps_a_dependent_that_loses_the_other_references() {
        let mut graph = Graph::default();
        graph.observe("r1", node("ReplicaSet", "r1", &[], &[]));
        graph.note_absent("r2");
        let owners = [owner("ReplicaSet", "r1", true), owner("ReplicaSet", "r2", true)];
        graph.observe("p", node("Pod", "p", &owners, &[]));
        assert_eq!(verdict(&graph, "p"), Verdict::Unlink(vec!["r2".into()]));
    }

    #[test]
    fn an_owner_in_another_namespace_or_of_another_name_is_not_the_owner() {
        let mut graph = Graph::default();
        let mut elsewhere = node("ReplicaSet", "r", &[], &[]);
        elsewhere.namespace = "b".into();
        graph.observe("r", elsewhere);
        let pod = node("Pod", "p", &[owner("ReplicaSet", "r", true)], &[]);
        assert_eq!(names(graph.observe("p", pod)), ["p"]);
        let pod = graph.get("p").unwrap().clone();
        assert_eq!(presence(&graph, &pod, &pod.owners[0]), Presence::Unknown);
        // A cluster-scoped owner may have dependents in any namespace.
        graph.observe("n", node("Node", "n", &[], &[]));
        let on_node = node("Pod", "q", &[owner("Node", "n", false)], &[]);
        assert!(graph.observe("q", on_node).is_empty());
        assert_eq!(verdict(&graph, "q"), Verdict::Keep);
    }

    #[test]
    fn foreground_deletion_waits_for_blocking_dependents_only() {
        let mut graph = Graph::default();
        graph.observe("r", node("ReplicaSet", "r", &[], &[]));
        graph.observe("p", node("Pod", "p", &[owner("ReplicaSet", "r", true)], &[]));
        graph.observe("q", node("Pod", "q", &[owner("ReplicaSet", "r", false)], &[]));
        let affected = graph.observe("r", node("ReplicaSet", "r", &[], &["foregroundDeletion"]));
        assert_eq!(names(affected), ["p", "q", "r"]);
        assert_eq!(need(&graph, "r"), Need::Foreground { blocking: vec!["p".into()] });
        assert_eq!(verdict(&graph, "p"), Verdict::Delete { policy: Policy::Background, unblock: false });
        assert_eq!(names(graph.remove("p")), ["r"]);
        assert_eq!(need(&graph, "r"), Need::Foreground { blocking: vec![] });
    }

    #[test]
    fn foreground_deletion_goes_down_and_a_circle_comes_apart() {
        let mut graph = Graph::default();
        graph.observe("d", node("Deployment", "d", &[], &["foregroundDeletion"]));
        graph.observe("r", node("ReplicaSet", "r", &[owner("Deployment", "d", true)], &[]));
        graph.observe("p", node("Pod", "p", &[owner("ReplicaSet", "r", true)], &[]));
        assert_eq!(verdict(&graph, "r"), Verdict::Delete { policy: Policy::Foreground, unblock: false });
        let circle = node("Pod", "p", &[owner("ReplicaSet", "r", true)], &["foregroundDeletion"]);
        graph.observe("p", circle);
        assert_eq!(verdict(&graph, "r"), Verdict::Delete { policy: Policy::Foreground, unblock: true });
    }

    #[test]
    fn orphaning_lets_every_dependent_go_first() {
        let mut graph = Graph::default();
        graph.observe("r", node("ReplicaSet", "r", &[], &[]));
        graph.observe("p", node("Pod", "p", &[owner("ReplicaSet", "r", true)], &[]));
        let affected = graph.observe("r", node("ReplicaSet", "r", &[], &["orphan"]));
        assert_eq!(names(affected), ["r"]);
        assert_eq!(need(&graph, "r"), Need::Orphan { dependents: vec!["p".into()] });
        graph.observe("p", node("Pod", "p", &[], &[]));
        assert_eq!(need(&graph, "r"), Need::Orphan { dependents: vec![] });
        assert_eq!(need(&graph, "p"), Need::Nothing);
    }

    #[test]
    fn a_dependent_that_loses_its_reference_unblocks_its_owner() {
        let mut graph = Graph::default();
        graph.observe("p", node("Pod", "p", &[owner("ReplicaSet", "r", true)], &[]));
        graph.observe("r", node("ReplicaSet", "r", &[], &["foregroundDeletion"]));
        assert_eq!(names(graph.observe("p", node("Pod", "p", &[], &[]))), ["r"]);
    }

    #[test]
    fn a_type_that_is_no_longer_watched_proves_nothing() {
        let mut graph = Graph::default();
        graph.observe("r", node("ReplicaSet", "r", &[], &[]));
        graph.observe("p", node("Pod", "p", &[owner("ReplicaSet", "r", true)], &[]));
        graph.forget("r");
        assert!(!graph.is_absent("r"));
        assert_eq!(verdict(&graph, "p"), Verdict::Keep);
    }
}
