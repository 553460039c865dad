//! Which pods nobody will ever clean up. Pure.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::machinery::pods;

/// Why a pod is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There are too many ended pods.
    TooManyEnded,
    /// Its node is gone.
    NodeGone,
    /// It was deleted before it was bound to a node.
    NeverBound,
    /// Its node was declared out of service.
    OutOfService,
}

/// What is known.
#[derive(Debug)]
pub struct Observed<'a> {
    /// All pods.
    pub pods: &'a [Arc<Pod>],
    /// Nodes proven to be gone.
    pub gone_nodes: &'a HashSet<String>,
    /// Nodes that are not ready and carry the taint `node.kubernetes.io/out-of-service`.
    pub out_of_service: &'a HashSet<String>,
    /// How many ended pods may stay.
    pub ended_max: usize,
}

/// Tells which pods to remove.
pub fn plan(observed: &Observed<'_>) -> Vec<(Arc<Pod>, Why)> {
    let mut remove = Vec::new();
    let mut ended = Vec::new();
    for pod in observed.pods {
        let node = pods::node_name(pod);
        let leaving = pod.metadata.deletion_timestamp.is_some();
        if node.is_empty() && leaving {
            remove.push((pod.clone(), Why::NeverBound));
        } else if observed.gone_nodes.contains(node) {
            remove.push((pod.clone(), Why::NodeGone));
        } else if leaving && observed.out_of_service.contains(node) {
            remove.push((pod.clone(), Why::OutOfService));
        } else if pods::is_terminal(pod) {
            ended.push(pod.clone());
        }
    }
    let excess = ended.len().saturating_sub(observed.ended_max);
    if excess > 0 {
        ended.sort_by_key(|pod| (pod.creation_timestamp(), pod.name_any()));
        remove.extend(ended.into_iter().take(excess).map(|pod| (pod, Why::TooManyEnded)));
    }
    remove
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: &str, phase: &str, leaving: bool, created: &str) -> Arc<Pod> {
        let mut value = json!({
            "metadata": {"name": name, "creationTimestamp": created},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase},
        });
        if leaving {
            value["metadata"]["deletionTimestamp"] = json!(created);
        }
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn only_pods_that_nobody_else_removes_go() {
        let t = "2026-01-01T00:00:00Z";
        let pods = [
            pod("running", "n1", "Running", false, t),
            pod("lost", "gone", "Running", false, t),
            pod("never-bound", "", "Pending", true, t),
            pod("waiting", "", "Pending", false, t),
            pod("leaving", "n1", "Running", true, t),
            pod("stuck", "dead", "Running", true, t),
            pod("young", "n1", "Succeeded", false, "2026-01-02T00:00:00Z"),
            pod("old", "n1", "Failed", false, t),
        ];
        let plan = plan(&Observed {
            pods: &pods,
            gone_nodes: &["gone".to_owned()].into(),
            out_of_service: &["dead".to_owned()].into(),
            ended_max: 1,
        });
        let plan: Vec<(String, Why)> = plan.into_iter().map(|(pod, why)| (pod.name_any(), why)).collect();
        assert_eq!(
            plan,
            [
                ("lost".to_owned(), Why::NodeGone),
                ("never-bound".to_owned(), Why::NeverBound),
                ("stuck".to_owned(), Why::OutOfService),
                ("old".to_owned(), Why::TooManyEnded),
            ]
        );
    }
}
