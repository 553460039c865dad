//! Which nodes have images of a repository: Nodes name the images that are on them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use crate::pods::repository;

/// Nodes of one request.
const PAGE: u32 = 250;
/// Requests: of a cluster with more nodes than this makes, only some are asked.
const PAGES_MAX: usize = 4;
/// More are not looked for.
const ENOUGH: usize = 16;

/// A node that has images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name, which its certificate has too.
    pub node: String,
    /// Where its agent listens.
    pub address: SocketAddr,
}

/// Nodes that have images of a repository, in an order of this node's own, so that many that pull one image do not all ask the same.
pub async fn find(client: &Client, own: &str, repository: &str) -> Result<Vec<Peer>, kube::Error> {
    let api = Api::<Node>::all(client.clone());
    // What the server has at hand is new enough.
    let mut params = ListParams::default().limit(PAGE);
    let mut peers = Vec::new();
    for _ in 0..PAGES_MAX {
        let page = api.list(&params).await?;
        let others = page.items.iter().filter(|node| node.name_any() != own);
        peers.extend(others.filter_map(|node| peer(node, repository)));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) if peers.len() < ENOUGH => params = params.continue_token(&token),
            _ => break,
        }
    }
    peers.sort_by_cached_key(|peer| {
        let mut hasher = DefaultHasher::new();
        (own, &peer.node).hash(&mut hasher);
        hasher.finish()
    });
    peers.truncate(ENOUGH);
    Ok(peers)
}

/// A node as a peer, if it is there and has images of the repository.
fn peer(node: &Node, wanted: &str) -> Option<Peer> {
    let status = node.status.as_ref()?;
    let is_ready =
        status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let mut names = status.images.iter().flatten().flat_map(|image| image.names.iter().flatten());
    if !is_ready || !names.any(|name| repository(name) == wanted) {
        return None;
    }
    let mut addresses = status.addresses.iter().flatten();
    let address: IpAddr = addresses.find(|address| address.type_ == "InternalIP")?.address.parse().ok()?;
    let port = status.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref()?.port;
    Some(Peer { node: node.name_any(), address: SocketAddr::new(address, u16::try_from(port).ok()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_ready_and_has_the_repository() {
        let node = |ready: &str, image: &str| -> Node {
            serde_json::from_value(serde_json::json!({
                "metadata": {"name": "n"},
                "status": {
                    "conditions": [{"type": "Ready", "status": ready}],
                    "addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.7"}],
                    "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
                    "images": [{"names": [image], "sizeBytes": 1}],
                },
            }))
            .unwrap()
        };
        let wanted = "docker.io/library/busybox";
        let expected = Peer { node: "n".into(), address: "10.0.0.7:10250".parse().unwrap() };
        let digest = format!("docker.io/library/busybox@sha256:{}", "0".repeat(64));
        assert_eq!(peer(&node("True", &digest), wanted), Some(expected));
        assert_eq!(peer(&node("False", &digest), wanted), None);
        assert_eq!(peer(&node("True", "docker.io/library/nginx:1"), wanted), None);
        assert_eq!(peer(&Node::default(), wanted), None);
    }
}
