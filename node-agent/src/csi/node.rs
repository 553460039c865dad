//! CSINode: which drivers this node has, what they call it, and from where they serve it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};

use super::messages::NodeInfo;

/// How often a change is tried again that somebody else's came before.
const TRIES: usize = 5;

/// What a driver said of the node, as the API has it.
fn entry(name: &str, info: &NodeInfo) -> CSINodeDriver {
    let mut keys: Vec<String> = info.accessible_topology.iter().flat_map(|at| at.segments.keys().cloned()).collect();
    keys.sort_unstable();
    let count = (info.max_volumes_per_node > 0).then(|| i32::try_from(info.max_volumes_per_node).unwrap_or(i32::MAX));
    CSINodeDriver {
        name: name.to_owned(),
        node_id: info.node_id.clone(),
        topology_keys: Some(keys),
        allocatable: count.map(|count| VolumeNodeResources { count: Some(count) }),
    }
}

/// Makes the object have a driver, or have it no more. False if it is so already.
fn change(object: &mut CSINode, name: &str, driver: Option<CSINodeDriver>) -> bool {
    let drivers = &mut object.spec.drivers;
    let before = drivers.iter().find(|other| other.name == name);
    if before == driver.as_ref() {
        return false;
    }
    drivers.retain(|other| other.name != name);
    drivers.extend(driver);
    true
}

/// Writes a driver into the node's CSINode (and where the node is onto its Node), or takes it out.
pub async fn tell(client: &Client, node: &Node, name: &str, info: Option<&NodeInfo>) -> Result<(), kube::Error> {
    let node_name = node.metadata.name.as_deref().unwrap_or_default();
    if let Some(at) = info.and_then(|info| info.accessible_topology.as_ref()).filter(|at| !at.segments.is_empty()) {
        let labels: BTreeMap<_, _> = at.segments.iter().collect();
        let patch = serde_json::json!({"metadata": {"labels": labels}});
        let nodes: Api<Node> = Api::all(client.clone());
        nodes.patch_metadata(node_name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    }
    let api: Api<CSINode> = Api::all(client.clone());
    let mut tries = 1;
    loop {
        let told = match api.get_opt(node_name).await? {
            Some(mut object) => match change(&mut object, name, info.map(|info| entry(name, info))) {
                true => api.replace(node_name, &PostParams::default(), &object).await,
                false => return Ok(()),
            },
            None => {
                let drivers = info.map(|info| entry(name, info)).into_iter().collect();
                api.create(&PostParams::default(), &object(node, drivers)).await
            }
        };
        match told {
            Err(kube::Error::Api(status)) if status.code == 409 && tries < TRIES => tries += 1,
            other => return other.map(drop),
        }
    }
}

fn object(node: &Node, drivers: Vec<CSINodeDriver>) -> CSINode {
    let name = node.metadata.name.clone().unwrap_or_default();
    // It goes with the node.
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.clone(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    };
    let metadata = ObjectMeta { name: Some(name), owner_references: Some(vec![owner]), ..ObjectMeta::default() };
    CSINode { metadata, spec: CSINodeSpec { drivers } }
}

#[cfg(test)]
mod tests {
    use super::super::messages::Topology;
    use super::*;

    #[test]
    fn a_driver_stands_once_in_the_object_and_other_drivers_stay() {
        let at = Topology { segments: [("zone".into(), "a".into()), ("rack".into(), "1".into())].into() };
        let info = NodeInfo { node_id: "n".into(), max_volumes_per_node: 1 << 40, accessible_topology: Some(at) };
        let made = entry("d", &info);
        assert_eq!(made.topology_keys.as_deref(), Some(&["rack".to_owned(), "zone".to_owned()][..]));
        assert_eq!(made.allocatable.as_ref().and_then(|limit| limit.count), Some(i32::MAX));
        let other = entry("other", &NodeInfo { node_id: "m".into(), ..NodeInfo::default() });
        assert_eq!(other.allocatable, None, "nobody counts");
        let mut csi_node = object(&Node::default(), vec![other.clone()]);
        assert!(change(&mut csi_node, "d", Some(made.clone())));
        assert!(!change(&mut csi_node, "d", Some(made.clone())), "it is there");
        assert_eq!(csi_node.spec.drivers, [other.clone(), made]);
        assert!(change(&mut csi_node, "d", None));
        assert!(!change(&mut csi_node, "d", None));
        assert_eq!(csi_node.spec.drivers, [other]);
    }
}
