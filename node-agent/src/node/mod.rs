//! The Node object of this machine: registration, status, lease. In: the machine, the runtime's state, the API's Node.
//! Out: the Node and its status, and the pod addresses that the runtime is told of.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use kube::Client;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::checkpoint::{self, Checkpoint, Key};
use crate::devices::Devices;
use crate::follow::follow;
use crate::pods::events::{Kind, Recorder};
use crate::pods::volumes::claims::InUse;
use crate::pressure::Pressure;
use crate::runtime::{ImageRecord, Runtime, RuntimeVersion};
use machine::Machine;

pub mod lease;
pub mod machine;
pub mod status;

/// The Node as the API has it, if it has it.
pub type SharedNode = Option<Arc<Node>>;

/// How often the runtime and the machine are asked how they are.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// The same while the node is not ready, when every moment counts.
const CHECK_EVERY_NOT_READY: Duration = Duration::from_millis(500);
/// How often a status is sent though nothing has changed.
const REPORT_EVERY: Duration = Duration::from_secs(300);
/// How often images are listed.
const IMAGES_EVERY: Duration = Duration::from_secs(60);
/// After a failure.
const RETRY: Duration = Duration::from_millis(500);

/// What the node's keeper is told at start.
pub struct Settings {
    /// The node's name.
    pub name: String,
    /// Labels besides the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// Its addresses, primary first.
    pub ips: Vec<IpAddr>,
    /// The port of the agent's API.
    pub port: u16,
    /// How many pods it takes.
    pub max_pods: u32,
    /// The machine.
    pub machine: Machine,
    /// The devices that plugins have.
    pub devices: Devices,
    /// The attached volumes that pods use.
    pub in_use: Arc<InUse>,
}

/// What the node is short of, and whether it goes down.
#[derive(Clone)]
pub struct State {
    /// The conditions because of which pods are not taken.
    pub pressure: watch::Receiver<Pressure>,
    /// Whether the machine is about to go down.
    pub going_down: watch::Receiver<bool>,
}

/// Whom the keeper tells what it learns.
pub struct Told {
    /// Of the Node.
    pub node: watch::Sender<SharedNode>,
    /// Of its pods' addresses.
    pub pod_cidrs: watch::Sender<Vec<String>>,
}

/// Keeps the Node.
pub struct Keeper {
    client: Client,
    runtime: Arc<dyn Runtime>,
    events: Recorder,
    settings: Settings,
    shared: watch::Sender<SharedNode>,
    pod_cidrs: watch::Sender<Vec<String>>,
    state: State,
    checkpoint: Checkpoint,
    version: Option<RuntimeVersion>,
    images: Vec<ImageRecord>,
    images_at: Option<Instant>,
    /// The status last sent, and when.
    sent: Option<(NodeStatus, Instant)>,
    ready: Option<bool>,
}

impl Keeper {
    /// A keeper of a node in that `state`.
    pub fn new(
        client: Client,
        runtime: Arc<dyn Runtime>,
        events: Recorder,
        settings: Settings,
        told: Told,
        state: State,
        checkpoint: Checkpoint,
    ) -> Self {
        let Told { node: shared, pod_cidrs } = told;
        Self {
            client,
            runtime,
            events,
            settings,
            shared,
            pod_cidrs,
            state,
            checkpoint,
            version: None,
            images: Vec::new(),
            images_at: None,
            sent: None,
            ready: None,
        }
    }

    /// Registers the node, then keeps its status until shutdown; `registered` is called in between.
    pub async fn run(mut self, registered: impl FnOnce() + Send, shutdown: CancellationToken) {
        let stop = shutdown.clone();
        let work = async {
            self.register_until_done().await;
            registered();
            self.keep().await;
        };
        stop.run_until_cancelled(work).await;
    }

    fn api(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    async fn register_until_done(&mut self) {
        let mut failures = 0u32;
        let began = Instant::now();
        while let Err(error) = self.register().await {
            failures += 1;
            // The API server of the same process may still be starting.
            if failures == 10 {
                warn!(%error, "cannot register the node");
            }
            if began.elapsed() > checkpoint::WAIT && self.shared.borrow().is_none() {
                self.take_kept().await;
            }
            tokio::time::sleep(if failures < 10 { Duration::from_millis(50) } else { RETRY }).await;
        }
    }

    /// The API server is not there: the Node as it last was, so that pods have their addresses.
    async fn take_kept(&mut self) {
        let key = Key::cluster(checkpoint::Kind::Node, &self.settings.name);
        if let Some(node) = self.checkpoint.find::<Node>(&key).await {
            self.take(Some(node)).await;
        }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let well_known = [
            ("kubernetes.io/hostname", self.settings.name.as_str()),
            ("kubernetes.io/os", std::env::consts::OS),
            ("kubernetes.io/arch", status::architecture()),
            ("beta.kubernetes.io/os", std::env::consts::OS),
            ("beta.kubernetes.io/arch", status::architecture()),
        ];
        let mut labels: BTreeMap<String, String> =
            well_known.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        labels.extend(self.settings.labels.clone());
        labels
    }

    async fn register(&mut self) -> Result<(), kube::Error> {
        let labels = self.labels();
        let api = self.api();
        let found = api.get_opt(&self.settings.name).await?;
        let node = match found {
            Some(node) => {
                let old = node.metadata.labels.as_ref();
                if labels.iter().any(|(key, value)| old.and_then(|old| old.get(key)) != Some(value)) {
                    let patch = serde_json::json!({ "metadata": { "labels": labels } });
                    api.patch(&self.settings.name, &PatchParams::default(), &Patch::Merge(patch)).await?
                } else {
                    node
                }
            }
            None => {
                let status = self.status(None).await;
                let node = Node {
                    metadata: ObjectMeta {
                        name: Some(self.settings.name.clone()),
                        labels: Some(labels),
                        ..ObjectMeta::default()
                    },
                    status: Some(status),
                    ..Node::default()
                };
                let created = api.create(&PostParams::default(), &node).await?;
                info!(node = %self.settings.name, "registered");
                created
            }
        };
        self.take(Some(node)).await;
        Ok(())
    }

    /// Takes over the Node as the API has it.
    async fn take(&mut self, node: Option<Node>) {
        let spec = node.as_ref().and_then(|node| node.spec.clone()).unwrap_or_default();
        let cidrs = spec.pod_cidrs.filter(|list| !list.is_empty()).or_else(|| spec.pod_cidr.map(|cidr| vec![cidr]));
        if let Some(node) = &node {
            self.checkpoint.keep_node(node);
        }
        self.shared.send_replace(node.map(Arc::new));
        let cidrs = cidrs.unwrap_or_default();
        if cidrs.is_empty() || *self.pod_cidrs.borrow() == cidrs {
            return;
        }
        match self.runtime.set_pod_cidrs(&cidrs).await {
            Ok(()) => {
                info!(?cidrs, "pod addresses assigned");
                self.pod_cidrs.send_replace(cidrs);
            }
            // The next check tries again.
            Err(error) => warn!(%error, ?cidrs, "cannot configure the pod network"),
        }
    }

    async fn keep(&mut self) {
        let config = watcher::Config::default().fields(&format!("metadata.name={}", self.settings.name));
        let nodes = follow(self.api(), config);
        tokio::pin!(nodes);
        let mut devices = self.settings.devices.changes();
        loop {
            devices.mark_unchanged();
            self.retry_network().await;
            let before = self.pod_cidrs.borrow().clone();
            let reported = self.report().await;
            if reported.is_ok() && *self.pod_cidrs.borrow() != before {
                // The answer held the pods' addresses: with them the node may be ready.
                continue;
            }
            if let Err(error) = &reported {
                warn!(%error, "cannot report the node's status");
            }
            let wait = match self.ready {
                Some(true) if reported.is_ok() => CHECK_EVERY,
                _ => CHECK_EVERY_NOT_READY,
            };
            let deadline = tokio::time::Instant::now() + wait;
            loop {
                let event = tokio::select! {
                    () = tokio::time::sleep_until(deadline) => break,
                    Ok(()) = self.state.pressure.changed() => break,
                    Ok(()) = self.state.going_down.changed() => break,
                    Ok(()) = devices.changed() => break,
                    () = self.settings.in_use.changed() => break,
                    event = nodes.next() => event,
                };
                match event {
                    Some(Ok(Event::Apply(node) | Event::InitApply(node))) => {
                        let before = self.pod_cidrs.borrow().clone();
                        self.take(Some(node)).await;
                        if *self.pod_cidrs.borrow() != before {
                            break;
                        }
                    }
                    Some(Ok(Event::Delete(_))) => {
                        warn!("the node was deleted; registering again");
                        self.sent = None;
                        self.take(None).await;
                        self.register_until_done().await;
                        break;
                    }
                    Some(Ok(Event::Init | Event::InitDone)) => {}
                    Some(Err(error)) => warn!(%error, "watching the node"),
                    None => break,
                }
            }
        }
    }

    /// A pod network that could not be configured is tried again.
    async fn retry_network(&mut self) {
        let node = self.shared.borrow().clone();
        if self.pod_cidrs.borrow().is_empty() && node.is_some() {
            self.take(node.map(|node| (*node).clone())).await;
        }
    }

    async fn status(&mut self, old: Option<&NodeStatus>) -> NodeStatus {
        if self.version.is_none() {
            self.version = self.runtime.version().await.ok();
        }
        if self.images_at.is_none_or(|at| at.elapsed() >= IMAGES_EVERY)
            && let Ok(images) = self.runtime.images().await
        {
            self.images = images;
            self.images_at = Some(Instant::now());
        }
        let runtime = self.runtime.status().await.map_err(|error| error.to_string());
        let pressure = self.state.pressure.borrow_and_update().clone();
        let going_down = *self.state.going_down.borrow_and_update();
        status::compute(&status::Sources {
            name: &self.settings.name,
            ips: &self.settings.ips,
            port: self.settings.port,
            max_pods: self.settings.max_pods,
            machine: &self.settings.machine,
            devices: self.settings.devices.amounts(),
            volumes_in_use: self.settings.in_use.list(),
            pressure: &pressure,
            going_down,
            version: self.version.as_ref(),
            runtime: &runtime,
            images: &self.images,
            old,
            now: crate::clock::now(),
        })
    }

    /// Sends the status if it has changed or if it is time.
    async fn report(&mut self) -> Result<(), kube::Error> {
        let node = self.shared.borrow().clone();
        let theirs = node.as_ref().and_then(|node| node.status.clone());
        let status = self.status(theirs.as_ref()).await;
        let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        let due = self.sent.as_ref().is_none_or(|(_, at)| at.elapsed() >= REPORT_EVERY);
        // Someone may have written "Unknown" over it while this node was out of reach.
        let agreed = theirs.as_ref().is_some_and(|theirs| said(theirs) == said(&status));
        let unchanged = self.sent.as_ref().is_some_and(|(sent, _)| status::same(sent, &status));
        if unchanged && agreed && !due {
            return Ok(());
        }
        let patch = serde_json::json!({ "status": status });
        let node =
            match self.api().patch_status(&self.settings.name, &PatchParams::default(), &Patch::Strategic(patch)).await
            {
                Err(kube::Error::Api(answer)) if answer.code == 404 => {
                    self.sent = None;
                    return self.register().await;
                }
                other => other?,
            };
        self.sent = Some((status, Instant::now()));
        self.tell(ready);
        self.take(Some(node)).await;
        Ok(())
    }

    fn tell(&mut self, ready: bool) {
        if self.ready == Some(ready) {
            return;
        }
        let name = &self.settings.name;
        let (reason, word) = if ready { ("NodeReady", "NodeReady") } else { ("NodeNotReady", "NodeNotReady") };
        self.events.node(name, Kind::Normal, reason, format!("Node {name} status is now: {word}"));
        info!(ready, "node status reported");
        self.ready = Some(ready);
    }
}

/// What the conditions that the agent sets say.
fn said(status: &NodeStatus) -> Vec<(&str, &str)> {
    const OWN: [&str; 4] = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];
    let conditions = status.conditions.iter().flatten().filter(|c| OWN.contains(&c.type_.as_str()));
    let mut said: Vec<_> = conditions.map(|c| (c.type_.as_str(), c.status.as_str())).collect();
    said.sort_unstable();
    said
}
