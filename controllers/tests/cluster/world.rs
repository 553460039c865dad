//! A cluster for one test: a real API server on a temporary store, the real controllers, and machines that only
//! pretend to run what is bound to them.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long anything may take. Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the pretended machines look.
const TICK: Duration = Duration::from_millis(30);
/// How often the pretended machines say that they live.
const HEARTBEAT: Duration = Duration::from_millis(200);

type Machines = Arc<Mutex<BTreeSet<String>>>;

pub struct World {
    pub client: Client,
    server: gantry_apiserver::Handle,
    controllers: Option<(CancellationToken, JoinHandle<()>)>,
    machines: Machines,
    grace: Duration,
    shutdown: CancellationToken,
    _data: tempfile::TempDir,
}

impl World {
    pub async fn start() -> Self {
        // So long that a busy machine loses no node.
        Self::with_grace(Duration::from_secs(600)).await
    }

    /// A world in which a node counts as lost after this silence.
    pub async fn with_grace(grace: Duration) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut options = gantry_apiserver::Options::new(data.path());
        options.listen = "127.0.0.1:0".parse().unwrap();
        let shutdown = CancellationToken::new();
        let server = gantry_apiserver::start(options, Default::default(), shutdown.clone()).await.unwrap();
        let client = Client::new(server.in_process_client("test", &["system:masters"]), "default");
        let machines = Machines::default();
        tokio::spawn(pretend(client.clone(), Arc::clone(&machines), shutdown.clone()));
        tokio::spawn(live(client.clone(), Arc::clone(&machines), shutdown.clone()));
        let mut world = World { client, server, controllers: None, machines, grace, shutdown, _data: data };
        world.start_controllers();
        world
    }

    pub fn start_controllers(&mut self) {
        let client = Client::new(self.server.in_process_client("system:kube-controller-manager", &[]), "default");
        let options = gantry_controllers::Options {
            ca_pem: Some("the CA".into()),
            node_monitor_grace: self.grace,
            node_monitor_period: Duration::from_millis(200),
            node_eviction_rate: 100.0,
            missing_node_quarantine: Duration::ZERO,
            ..Default::default()
        };
        let metrics = gantry_controllers::Metrics::new(&mut Default::default());
        let stop = self.shutdown.child_token();
        let run = gantry_controllers::run(client, options, metrics, || (), stop.clone());
        let task = tokio::spawn(async move { run.await.unwrap() });
        self.controllers = Some((stop, task));
    }

    pub async fn stop_controllers(&mut self) {
        let (stop, task) = self.controllers.take().unwrap();
        stop.cancel();
        task.await.unwrap();
    }

    pub async fn end(mut self) {
        self.stop_controllers().await;
        self.shutdown.cancel();
        self.server.stopped().await;
    }

    /// A machine that joins the cluster, or comes back.
    pub async fn machine(&self, name: &str) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        let _ = nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await;
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": {"holderIdentity": name}});
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        let _ = leases.create(&PostParams::default(), &serde_json::from_value(lease).unwrap()).await;
        say_ready(&nodes, name).await.unwrap();
        self.machines.lock().unwrap().insert(name.to_owned());
    }

    /// The machine falls silent.
    pub fn silence(&self, name: &str) {
        self.machines.lock().unwrap().remove(name);
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "shop")
    }

    /// The namespace that the tests work in.
    pub async fn namespace(&self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let shop = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
        namespaces.create(&PostParams::default(), &serde_json::from_value(shop).unwrap()).await.unwrap();
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = self.api();
        eventually("the default service account", async || accounts.get_opt("default").await.unwrap()).await;
    }

    pub async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api().create(&PostParams::default(), &object).await.unwrap()
    }

    /// Waits for `look` to find something, and shows what is in the namespace if it does not.
    pub async fn eventually<T>(&self, what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
        if let Some(found) = within_patience(look).await {
            return found;
        }
        let mut seen = String::new();
        for deployment in self.all::<Deployment>().await {
            seen += &format!("{}\n", serde_json::to_string(&deployment).unwrap());
        }
        for set in self.all::<ReplicaSet>().await {
            seen += &format!("{}\n", serde_json::to_string(&set).unwrap());
        }
        for pod in self.all::<Pod>().await {
            seen += &format!("{} {}\n", pod.name_any(), serde_json::to_string(&pod.status).unwrap());
        }
        panic!("waited in vain for {what}:\n{seen}");
    }

    pub async fn all<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.api().list(&ListParams::default()).await.unwrap().items
    }
}

/// Waits for `look` to find something.
pub async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    match within_patience(look).await {
        Some(found) => found,
        None => panic!("waited in vain for {what}"),
    }
}

async fn within_patience<T>(mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return Some(found);
        }
        if tokio::time::Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(TICK).await;
    }
}

async fn say_ready(nodes: &Api<Node>, name: &str) -> Result<(), kube::Error> {
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "lastHeartbeatTime": now, "lastTransitionTime": now});
    let status = json!({"status": {"conditions": [condition("Ready", "True"), condition("DiskPressure", "False"),
        condition("MemoryPressure", "False"), condition("PIDPressure", "False")]}});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(&status)).await.map(|_| ())
}

/// The machines' signs of life.
async fn live(client: Client, machines: Machines, shutdown: CancellationToken) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let nodes: Api<Node> = Api::all(client);
    while !shutdown.is_cancelled() {
        let alive: Vec<String> = machines.lock().unwrap().iter().cloned().collect();
        for name in alive {
            let patch = json!({"spec": {"renewTime": Timestamp::now()}});
            let _ = leases.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
            let Ok(node) = nodes.get(&name).await else { continue };
            let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
            if !conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True") {
                let _ = say_ready(&nodes, &name).await;
            }
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}

/// What machines and a scheduler would do, without doing it.
async fn pretend(client: Client, machines: Machines, shutdown: CancellationToken) {
    let all: Api<Pod> = Api::all(client.clone());
    let mut turn = 0;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        let alive: Vec<String> = machines.lock().unwrap().iter().cloned().collect();
        let Ok(pods) = all.list(&ListParams::default()).await else { continue };
        for pod in pods.items {
            turn += 1;
            let _ = move_on(&client, &pod, &alive, turn).await;
        }
    }
}

async fn move_on(client: &Client, pod: &Pod, alive: &[String], turn: usize) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap());
    let name = pod.name_any();
    let spec = pod.spec.as_ref().unwrap();
    let Some(node) = &spec.node_name else {
        if !alive.is_empty() {
            let node = &alive[turn % alive.len()];
            let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
                "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
            let _: Value = api.create_subresource("binding", &name, &PostParams::default(), &binding).await?;
        }
        return Ok(());
    };
    if !alive.contains(node) {
        return Ok(());
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return api.delete(&name, &DeleteParams::default().grace_period(0)).await.map(|_| ());
    }
    let broken = spec.containers[0].image.as_deref() == Some("broken");
    let running = pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
    if !broken && !running {
        let ip = format!("10.244.{}.{}", turn / 200 % 200, turn % 200 + 1);
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": Timestamp::now()}]}});
        api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(&status)).await?;
    }
    Ok(())
}
