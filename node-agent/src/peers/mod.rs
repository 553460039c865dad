//! Images from other nodes: what a pull needs comes from nodes that have it, as far as they do, and the rest from the registry.
//!
//! ```text
//!   pull ──▶ find: which nodes have the repository ──▶ hosts: the registry's mirrors, this node's own one first
//!   containerd ─┬─ names, credentials ────────────────────────────────────────────────▶ the registry
//!               └─ a digest ──▶ mirror, on the loopback ──▶ fetch ──▶ another node: offer ──▶ its containerd
//! ```
//!
//! In: a pull that begins. Out: bytes for the digests that containerd asks for. The registry still says what a name means and who may
//! have it, because the mirror answers no questions but for contents; and containerd checks digests, as with any registry. A node that
//! is slow, silent or wrong is left out for a while, and what no node gives comes from the registry.

mod fetch;
mod find;
mod hosts;
mod mirror;
mod offer;
#[cfg(test)]
mod tests;
mod wanted;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::Client;
use tokio_util::sync::CancellationToken;

pub use self::mirror::{offset, partial};
pub use self::offer::{Offer, Refused};
pub use self::wanted::{CREDENTIALS, Wanted};

use self::fetch::{Fetcher, Opened};
use self::find::Peer;
use self::hosts::{Hosts, Mirror};
use crate::pods::repository;
use crate::runtime::instance::Instance;
use crate::{Metrics, ServingIdentity};

/// How long a pull waits to learn who has the image.
const FIND_TIME_MAX: Duration = Duration::from_secs(2);
/// For how long it is known who has a repository: pulls of one image often come in numbers.
const FOUND_FOR: Duration = Duration::from_secs(20);
/// How many nodes are asked for one part before it is left to the registry.
const ASKED_MAX: usize = 3;
/// How long a node is left out that was silent or slow.
const BROKEN_FOR: Duration = Duration::from_secs(60);
/// The same of one that gave something else than was asked for.
const WRONG_FOR: Duration = Duration::from_secs(600);

/// The other nodes, as a source of images. By default there are none.
#[derive(Clone, Default)]
pub struct Peers {
    /// Where the agent's own containerd looks; none if it is not the agent's.
    hosts: Option<Arc<Hosts>>,
    shared: Option<Arc<Shared>>,
}

struct Shared {
    client: Client,
    node_name: String,
    fetcher: Fetcher,
    metrics: Metrics,
    state: Mutex<State>,
    next: AtomicU64,
}

#[derive(Default)]
struct State {
    /// By repository: the mirror answers for no others.
    pulls: HashMap<String, HashMap<u64, Pull>>,
    /// Who had a repository, and when.
    found: HashMap<String, (Instant, Vec<Peer>)>,
    /// Nodes that are left out, and until when.
    avoided: HashMap<String, Instant>,
}

/// A pull that is under way.
struct Pull {
    peers: Vec<Peer>,
    /// By which others know that they have the same credentials; none for a pull without.
    credential_hash: Option<String>,
}

/// While it lives, the mirror answers for a repository.
pub struct Pulling {
    shared: Arc<Shared>,
    repository: String,
    id: u64,
}

impl Drop for Pulling {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if let Some(pulls) = state.pulls.get_mut(&self.repository) {
            pulls.remove(&self.id);
            if pulls.is_empty() {
                state.pulls.remove(&self.repository);
            }
        }
    }
}

impl Peers {
    /// No other nodes, for the agent's own containerd.
    ///
    /// # Errors
    ///
    /// If the folder for its registries cannot be made.
    pub fn none(instance: &Instance) -> io::Result<Self> {
        let hosts = Hosts::open(instance.registries_dir(), instance.routes_dir(), None)?;
        Ok(Self { hosts: Some(Arc::new(hosts)), shared: None })
    }

    /// Takes a port on the loopback for the agent's own containerd. Beside the peers: what has to run for them.
    ///
    /// # Errors
    ///
    /// If there is no port, a folder cannot be made, or the identity cannot be used.
    pub async fn open(
        client: Client,
        node_name: String,
        identity: &ServingIdentity,
        instance: &Instance,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> io::Result<(Self, impl Future<Output = ()> + Send + 'static)> {
        let fetcher = Fetcher::new(identity, node_name.clone())?;
        let listener = tokio::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let token = uuid::Uuid::new_v4().to_string();
        let own = Mirror { url: format!("http://{}", listener.local_addr()?), token: token.clone() };
        let hosts = Hosts::open(instance.registries_dir(), instance.routes_dir(), Some(own))?;
        let (state, next) = (Mutex::default(), AtomicU64::new(0));
        let shared = Arc::new(Shared { client, node_name, fetcher, metrics, state, next });
        let serving = mirror::serve(listener, shared.clone(), token, stop);
        Ok((Self { hosts: Some(Arc::new(hosts)), shared: Some(shared) }, serving))
    }

    /// Says that an image is about to be pulled, with credentials of this hash. None if no other node has any of its repository.
    pub async fn pulling(&self, image: &str, credential_hash: Option<&str>) -> Option<Pulling> {
        let hosts = self.hosts.clone()?;
        let repository = repository(image);
        let registry = repository.split_once('/')?.0.to_owned();
        let peers = match &self.shared {
            Some(shared) => shared.find(&repository).await,
            None => Vec::new(),
        };
        let has_parts = !peers.is_empty();
        tracing::debug!(image, nodes = peers.len(), "other nodes have images of this repository");
        let updated = tokio::task::spawn_blocking(move || hosts.update(&registry, has_parts)).await;
        if let Err(error) = updated.unwrap_or_else(|join| Err(io::Error::other(join))) {
            tracing::warn!(repository, %error, "cannot tell containerd of what is said about a registry");
        }
        let shared = self.shared.clone().filter(|_| has_parts)?;
        let id = shared.next.fetch_add(1, Ordering::Relaxed);
        let pull = Pull { peers, credential_hash: credential_hash.map(str::to_owned) };
        shared.state().pulls.entry(repository.clone()).or_default().insert(id, pull);
        Some(Pulling { shared, repository, id })
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who has images of a repository, as their Nodes say.
    async fn find(&self, repository: &str) -> Vec<Peer> {
        let now = Instant::now();
        {
            let mut state = self.state();
            state.found.retain(|_, (at, _)| now.duration_since(*at) < FOUND_FOR);
            if let Some((_, peers)) = state.found.get(repository) {
                return peers.clone();
            }
        }
        let finding = find::find(&self.client, &self.node_name, repository);
        match tokio::time::timeout(FIND_TIME_MAX, finding).await {
            Ok(Ok(peers)) => {
                self.state().found.insert(repository.to_owned(), (now, peers.clone()));
                return peers;
            }
            Ok(Err(error)) => tracing::debug!(%error, repository, "cannot find out which nodes have an image"),
            Err(_) => tracing::debug!(repository, "finding out which nodes have an image took too long"),
        }
        Vec::new()
    }

    /// Whom to ask for something, and what to show them.
    fn candidates(&self, wanted: &Wanted) -> (Vec<Peer>, BTreeSet<String>) {
        let now = Instant::now();
        let mut state = self.state();
        state.avoided.retain(|_, until| *until > now);
        let State { pulls, avoided, .. } = &*state;
        let (mut peers, mut hashes) = (Vec::<Peer>::new(), BTreeSet::new());
        for pull in pulls.get(&wanted.repository).into_iter().flat_map(HashMap::values) {
            let good = pull.peers.iter().filter(|peer| !avoided.contains_key(&peer.node));
            for peer in good {
                if peers.iter().all(|other| other.node != peer.node) {
                    peers.push(peer.clone());
                }
            }
            hashes.extend(pull.credential_hash.clone());
        }
        (peers, hashes)
    }

    fn avoid(&self, node: &str, time: Duration, reason: &str) {
        tracing::debug!(node, reason, "a node is not asked for images for a while");
        self.state().avoided.insert(node.to_owned(), Instant::now() + time);
    }

    /// Opens something at an offset where there is somebody who gives it.
    async fn open(&self, wanted: &Wanted, offset: u64) -> Option<Opened> {
        let (peers, hashes) = self.candidates(wanted);
        for peer in peers.into_iter().take(ASKED_MAX) {
            match self.fetcher.open(&peer, wanted, offset, &hashes).await {
                Ok(opened) => {
                    tracing::debug!(node = peer.node, digest = wanted.digest, offset, "another node gives");
                    return Some(opened);
                }
                Err(fetch::Failure::NotGiven) => {
                    tracing::debug!(node = peer.node, digest = wanted.digest, "another node does not give");
                }
                Err(fetch::Failure::Broken(reason)) => self.avoid(&peer.node, BROKEN_FOR, &reason),
            }
        }
        None
    }
}
