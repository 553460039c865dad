//! A runtime in memory: sandboxes and containers that are nothing but their records. For tests of what drives a runtime, and
//! for agents by the thousand on one machine.
//!
//! A container runs until someone ends it, or as its pod's [`Script`] says. Faults can be put in: a call that fails before it
//! has done anything, or one that does its work and then loses the answer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::broadcast;

use super::script::Script;
use super::{
    ContainerConfig, ContainerRecord, ContainerState, EVENT_QUEUE_LEN, ExecOutput, ExecRequest, ImageRecord,
    ImageStore, PodIdentity, PodRecord, PodUsage, Readiness, RegistryAuth, Resources, Result, Runtime, RuntimeError,
    RuntimeEvent, RuntimeStatus, RuntimeVersion, SandboxConfig, SandboxRecord, StreamEndpoint, StreamOptions, Usage,
    ViewMount,
};
use crate::clock;
use crate::stats::disk::Taken;

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It fails and has done nothing.
    Refused,
    /// It is done, and its answer is lost.
    LostReply,
}

/// Decides what goes wrong, by the name of the call.
pub type Faults = Box<dyn FnMut(&'static str) -> Fault + Send>;

/// Something that happened in the runtime, for judging afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// A sandbox was started.
    SandboxStarted {
        /// Its pod.
        uid: String,
        /// Its id.
        sandbox: String,
    },
    /// A container was started.
    Started {
        /// Its pod.
        uid: String,
        /// Its sandbox.
        sandbox: String,
        /// Its name.
        name: String,
        /// Its number.
        attempt: u32,
    },
    /// A container ended.
    Ended {
        /// Its pod.
        uid: String,
        /// Its sandbox.
        sandbox: String,
        /// Its name.
        name: String,
        /// Its exit code.
        exit_code: i32,
        /// Whether the agent asked for it.
        asked: bool,
    },
}

#[derive(Default)]
struct State {
    next_id: u64,
    sandboxes: BTreeMap<String, (PodIdentity, SandboxRecord)>,
    containers: BTreeMap<String, (PodIdentity, ContainerRecord)>,
    images: HashMap<String, ImageRecord>,
    cgroups: HashMap<String, Resources>,
    /// What containers were given after they were made.
    updated: HashMap<String, Resources>,
    pod_cidrs: Vec<String>,
    /// What pods use, by their cgroup.
    usages: HashMap<String, Usage>,
    /// What containers have written, by id.
    layers: HashMap<String, Taken>,
    happenings: Vec<Happening>,
}

impl State {
    /// What the pod of a container is to do.
    fn script_of(&self, container_id: &str) -> Script {
        let sandbox = self.containers.get(container_id).and_then(|(_, record)| self.sandboxes.get(&record.sandbox_id));
        sandbox.map(|(_, sandbox)| Script::of(&sandbox.annotations)).unwrap_or_default()
    }

    /// An address that no sandbox has: the first one of the node's range, as far as there is one.
    fn free_address(&self) -> IpAddr {
        let network = self.pod_cidrs.iter().find_map(|cidr| cidr.split_once('/')?.0.parse::<Ipv4Addr>().ok());
        let first = u32::from(network.unwrap_or(Ipv4Addr::new(10, 0, 0, 0)));
        let taken: HashSet<IpAddr> = self.sandboxes.values().flat_map(|(_, sandbox)| sandbox.ips.clone()).collect();
        // The network's own address and that of its bridge are nobody's.
        let mut addresses = (2..).map(|number| IpAddr::V4(Ipv4Addr::from(first.wrapping_add(number))));
        addresses.find(|address| !taken.contains(address)).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }
}

/// The runtime.
pub struct Simulated {
    /// Itself, for what it does later.
    me: Weak<Self>,
    state: Mutex<State>,
    faults: Mutex<Option<Faults>>,
    events: broadcast::Sender<RuntimeEvent>,
    /// How long each call that starts something takes.
    latency: Duration,
    /// Whether it stands in for a whole node: it has every image, and keeps no record of what happened.
    is_node: bool,
}

impl Default for Simulated {
    fn default() -> Self {
        Self::new(Duration::ZERO, false, Weak::new())
    }
}

impl Simulated {
    /// That of a simulated node, whose containers take `start_delay` to start unless their script says otherwise.
    pub fn of_node(start_delay: Duration) -> Arc<Self> {
        Arc::new_cyclic(|me| Self::new(start_delay, true, me.clone()))
    }

    fn new(latency: Duration, is_node: bool, me: Weak<Self>) -> Self {
        let (events, _) = broadcast::channel(EVENT_QUEUE_LEN);
        Self { me, state: Mutex::default(), faults: Mutex::default(), events, latency, is_node }
    }

    /// Puts faults in, or takes them out.
    pub fn set_faults(&self, faults: Option<Faults>) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// Makes an image be there.
    pub fn add_image(&self, name: &str) {
        let record = ImageRecord {
            id: format!("sha256:{name}"),
            tags: vec![name.to_owned()],
            digests: Vec::new(),
            size_bytes: 1,
            user: None,
            pinned: false,
        };
        self.state().images.insert(name.to_owned(), record);
    }

    /// All that happened so far.
    pub fn happenings(&self) -> Vec<Happening> {
        self.state().happenings.clone()
    }

    /// The containers of all pods.
    pub fn containers(&self) -> Vec<ContainerRecord> {
        self.state().containers.values().map(|(_, record)| record.clone()).collect()
    }

    /// What a container was given after it was made.
    pub fn given(&self, container_id: &str) -> Option<Resources> {
        self.state().updated.get(container_id).cloned()
    }

    /// Makes the pod with this cgroup use so much.
    pub fn set_usage(&self, cgroup: &str, usage: Usage) {
        self.state().usages.insert(cgroup.to_owned(), usage);
    }

    /// Makes a container have written so much.
    pub fn set_layer(&self, container_id: &str, taken: Taken) {
        self.state().layers.insert(container_id.to_owned(), taken);
    }

    /// Whether nothing is left, not even a cgroup.
    pub fn is_empty(&self) -> bool {
        let state = self.state();
        state.sandboxes.is_empty() && state.containers.is_empty() && state.cgroups.is_empty()
    }

    /// Ends a running container, as if of its own accord. False if none of that name runs in the pod.
    pub fn end(&self, uid: &str, name: &str, exit_code: i32) -> bool {
        let id = {
            let state = self.state();
            let mut all = state.containers.values();
            let found = all
                .find(|(pod, record)| pod.uid == uid && record.name == name && record.state == ContainerState::Running);
            found.map(|(_, record)| record.id.clone())
        };
        match id {
            Some(id) => {
                self.finish(&id, exit_code, false);
                true
            }
            None => false,
        }
    }

    /// Ends a pod's sandbox and all in it, as a reboot would.
    pub fn lose_sandbox(&self, uid: &str) {
        let (containers, sandboxes) = {
            let state = self.state();
            let running = state
                .containers
                .values()
                .filter(|(pod, record)| pod.uid == uid && record.state == ContainerState::Running);
            let containers: Vec<_> = running.map(|(_, record)| record.id.clone()).collect();
            let of_pod = state.sandboxes.iter().filter(|(_, (pod, _))| pod.uid == uid);
            (containers, of_pod.map(|(id, _)| id.clone()).collect::<Vec<_>>())
        };
        for id in containers {
            self.finish(&id, 255, false);
        }
        for id in sandboxes {
            if let Some((_, record)) = self.state().sandboxes.get_mut(&id) {
                record.ready = false;
            }
        }
        self.tell(uid);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, uid: &str) {
        // Nobody listening is fine.
        let _ = self.events.send(RuntimeEvent::PodChanged(uid.to_owned()));
    }

    fn finish(&self, id: &str, exit_code: i32, asked: bool) {
        let mut state = self.state();
        let Some((pod, record)) = state.containers.get_mut(id) else { return };
        if record.state != ContainerState::Running {
            return;
        }
        record.state = ContainerState::Exited;
        record.exit_code = exit_code;
        record.finished_at = Some(clock::now());
        record.reason = if exit_code == 0 { "Completed" } else { "Error" }.to_owned();
        let uid = pod.uid.clone();
        let happening = Happening::Ended {
            uid: uid.clone(),
            sandbox: record.sandbox_id.clone(),
            name: record.name.clone(),
            exit_code,
            asked,
        };
        self.record_happening(&mut state, happening);
        drop(state);
        self.tell(&uid);
    }

    fn record_happening(&self, state: &mut State, happening: Happening) {
        if !self.is_node {
            state.happenings.push(happening);
        }
    }

    async fn call<T>(&self, name: &'static str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let fault = match &mut *self.faults.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(faults) => faults(name),
            None => Fault::None,
        };
        if fault == Fault::Refused {
            return Err(RuntimeError::Failed(format!("{name}: refused by the simulation")));
        }
        let result = work();
        if fault == Fault::LostReply {
            return Err(RuntimeError::Unavailable(format!("{name}: the answer was lost by the simulation")));
        }
        result
    }

    fn make_sandbox(&self, config: &SandboxConfig) -> Result<String> {
        let mut state = self.state();
        let taken = |(pod, record): &(PodIdentity, SandboxRecord)| {
            pod.uid == config.pod.uid && record.attempt == config.attempt
        };
        if state.sandboxes.values().any(taken) {
            return Err(RuntimeError::AlreadyExists(format!("sandbox {} of {}", config.attempt, config.pod.uid)));
        }
        state.next_id += 1;
        let id = format!("sandbox-{}", state.next_id);
        let ip = state.free_address();
        let record = SandboxRecord {
            id: id.clone(),
            attempt: config.attempt,
            ready: true,
            created_at: clock::now(),
            ips: vec![ip],
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        };
        state.sandboxes.insert(id.clone(), (config.pod.clone(), record));
        let happening = Happening::SandboxStarted { uid: config.pod.uid.clone(), sandbox: id.clone() };
        self.record_happening(&mut state, happening);
        Ok(id)
    }

    fn make_container(&self, sandbox_id: &str, config: &ContainerConfig) -> Result<String> {
        let mut state = self.state();
        let Some((pod, sandbox)) = state.sandboxes.get(sandbox_id) else {
            return Err(RuntimeError::NotFound(format!("sandbox {sandbox_id}")));
        };
        if !sandbox.ready {
            return Err(RuntimeError::CreateContainer(format!("sandbox {sandbox_id} does not run")));
        }
        let pod = pod.clone();
        let taken = |(owner, record): &(PodIdentity, ContainerRecord)| {
            *owner == pod && record.name == config.name && record.attempt == config.attempt
        };
        if state.containers.values().any(taken) {
            return Err(RuntimeError::AlreadyExists(format!("container {} {}", config.name, config.attempt)));
        }
        state.next_id += 1;
        let id = format!("container-{}", state.next_id);
        let record = ContainerRecord {
            id: id.clone(),
            sandbox_id: sandbox_id.to_owned(),
            name: config.name.clone(),
            attempt: config.attempt,
            state: ContainerState::Created,
            created_at: clock::now(),
            started_at: None,
            finished_at: None,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            image: config.image.clone(),
            image_id: config.image_ref.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            log_path: None,
        };
        state.containers.insert(id.clone(), (pod, record));
        Ok(id)
    }

    fn launch(&self, container_id: &str) -> Result<()> {
        let mut state = self.state();
        let Some((pod, record)) = state.containers.get_mut(container_id) else {
            return Err(RuntimeError::NotFound(format!("container {container_id}")));
        };
        if record.state != ContainerState::Created {
            return Err(RuntimeError::RunContainer(format!("container {container_id} is not in created state")));
        }
        record.state = ContainerState::Running;
        record.started_at = Some(clock::now());
        let uid = pod.uid.clone();
        let happening = Happening::Started {
            uid: uid.clone(),
            sandbox: record.sandbox_id.clone(),
            name: record.name.clone(),
            attempt: record.attempt,
        };
        self.record_happening(&mut state, happening);
        let script = state.script_of(container_id);
        drop(state);
        self.tell(&uid);
        if let (Some(time), Some(me)) = (script.runs_for, self.me.upgrade()) {
            let id = container_id.to_owned();
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                me.finish(&id, script.exit_code, false);
            });
        }
        Ok(())
    }

    fn containers_in(&self, sandbox_id: &str) -> Vec<String> {
        let state = self.state();
        let inside = state.containers.values().filter(|(_, record)| record.sandbox_id == sandbox_id);
        inside.map(|(_, record)| record.id.clone()).collect()
    }

    fn record(&self, uid: &str) -> PodRecord {
        let state = self.state();
        let sandboxes: Vec<_> = state.sandboxes.values().filter(|(pod, _)| pod.uid == uid).collect();
        let containers: Vec<_> = state.containers.values().filter(|(pod, _)| pod.uid == uid).collect();
        let pod = sandboxes.first().map(|(pod, _)| pod).or(containers.first().map(|(pod, _)| pod));
        let mut record = PodRecord {
            pod: pod.cloned().unwrap_or_default(),
            sandboxes: sandboxes.iter().map(|(_, sandbox)| sandbox.clone()).collect(),
            containers: containers.iter().map(|(_, container)| container.clone()).collect(),
        };
        record.sandboxes.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.attempt));
        record.containers.sort_by_key(|container| std::cmp::Reverse(container.attempt));
        record
    }
}

#[async_trait]
impl Runtime for Simulated {
    fn scheme(&self) -> &str {
        "simulated"
    }

    fn has_memory(&self) -> bool {
        !self.is_node
    }

    async fn version(&self) -> Result<RuntimeVersion> {
        Ok(RuntimeVersion { name: "simulated".into(), version: env!("CARGO_PKG_VERSION").into() })
    }

    async fn status(&self) -> Result<RuntimeStatus> {
        let good = Readiness { ready: true, reason: String::new(), message: String::new() };
        let network = if self.state().pod_cidrs.is_empty() {
            let message = "no pod addresses were assigned".to_owned();
            Readiness { ready: false, reason: "NetworkPluginNotReady".into(), message }
        } else {
            good.clone()
        };
        // There are no images whose groups a container could get.
        Ok(RuntimeStatus { runtime: good, network, strict_groups: true })
    }

    async fn list(&self) -> Result<Vec<PodRecord>> {
        self.call("list", || {
            let mut uids: Vec<String> = {
                let state = self.state();
                let sandboxes = state.sandboxes.values().map(|(pod, _)| pod.uid.clone());
                sandboxes.chain(state.containers.values().map(|(pod, _)| pod.uid.clone())).collect()
            };
            uids.sort();
            uids.dedup();
            Ok(uids.iter().map(|uid| self.record(uid)).collect())
        })
        .await
    }

    async fn pod(&self, uid: &str) -> Result<PodRecord> {
        self.call("pod", || Ok(self.record(uid))).await
    }

    async fn container(&self, container_id: &str) -> Result<ContainerRecord> {
        let found = self.state().containers.get(container_id).map(|(_, record)| record.clone());
        found.ok_or_else(|| RuntimeError::NotFound(format!("container {container_id}")))
    }

    fn subscribe(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }

    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String> {
        let made = self.call("run_sandbox", || self.make_sandbox(config)).await;
        self.tell(&config.pod.uid);
        made
    }

    async fn stop_sandbox(&self, sandbox_id: &str) -> Result<()> {
        self.call("stop_sandbox", || {
            for id in self.containers_in(sandbox_id) {
                self.finish(&id, 137, true);
            }
            let mut uid = None;
            if let Some((pod, record)) = self.state().sandboxes.get_mut(sandbox_id) {
                record.ready = false;
                uid = Some(pod.uid.clone());
            }
            if let Some(uid) = uid {
                self.tell(&uid);
            }
            Ok(())
        })
        .await
    }

    async fn remove_sandbox(&self, sandbox_id: &str) -> Result<()> {
        self.call("remove_sandbox", || {
            for id in self.containers_in(sandbox_id) {
                self.finish(&id, 137, true);
                self.state().containers.remove(&id);
            }
            self.state().sandboxes.remove(sandbox_id);
            Ok(())
        })
        .await
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        config: &ContainerConfig,
        _sandbox: &SandboxConfig,
    ) -> Result<String> {
        self.call("create_container", || self.make_container(sandbox_id, config)).await
    }

    async fn start_container(&self, container_id: &str) -> Result<()> {
        let script = self.state().script_of(container_id);
        tokio::time::sleep(script.start_delay.unwrap_or(self.latency)).await;
        if let Some(why) = script.start_error {
            return Err(RuntimeError::RunContainer(why));
        }
        self.call("start_container", || self.launch(container_id)).await
    }

    async fn stop_container(&self, container_id: &str, _grace: Duration) -> Result<()> {
        self.call("stop_container", || {
            self.finish(container_id, 0, true);
            Ok(())
        })
        .await
    }

    async fn remove_container(&self, container_id: &str) -> Result<()> {
        self.call("remove_container", || {
            self.finish(container_id, 137, true);
            self.state().containers.remove(container_id);
            Ok(())
        })
        .await
    }

    async fn update_container(&self, container_id: &str, resources: &Resources) -> Result<()> {
        self.call("update_container", || {
            let mut state = self.state();
            if !state.containers.contains_key(container_id) {
                return Err(RuntimeError::NotFound(format!("container {container_id}")));
            }
            state.updated.insert(container_id.to_owned(), resources.clone());
            Ok(())
        })
        .await
    }

    async fn reopen_log(&self, _container_id: &str) -> Result<()> {
        Ok(())
    }

    async fn answers(&self, container_id: &str, kind: &str) -> Option<bool> {
        self.is_node.then(|| !self.state().script_of(container_id).fails(kind))
    }

    async fn exec_sync(&self, container_id: &str, _command: &[String], _timeout: Duration) -> Result<ExecOutput> {
        self.container(container_id).await.map(|_| ExecOutput::default())
    }

    async fn exec(&self, _container_id: &str, _request: &ExecRequest) -> Result<StreamEndpoint> {
        Err(RuntimeError::Unsupported("a simulated container has no streams".into()))
    }

    async fn attach(&self, _container_id: &str, _streams: StreamOptions) -> Result<StreamEndpoint> {
        Err(RuntimeError::Unsupported("a simulated container has no streams".into()))
    }

    async fn port_forward(&self, _sandbox_id: &str, _ports: &[u16]) -> Result<StreamEndpoint> {
        Err(RuntimeError::Unsupported("a simulated pod has no ports".into()))
    }

    async fn image(&self, reference: &str) -> Result<Option<ImageRecord>> {
        let state = self.state();
        let by_id = || state.images.values().find(|image| image.id == reference);
        Ok(state.images.get(reference).or_else(by_id).cloned())
    }

    async fn images(&self) -> Result<Vec<ImageRecord>> {
        Ok(self.state().images.values().cloned().collect())
    }

    async fn pull_image(&self, reference: &str, _auth: Option<&RegistryAuth>) -> Result<String> {
        match self.image(reference).await? {
            Some(image) => Ok(image.id),
            None if self.is_node => {
                self.add_image(reference);
                Ok(format!("sha256:{reference}"))
            }
            None => Err(RuntimeError::ImageNotFound(format!("{reference}: not found"))),
        }
    }

    async fn remove_image(&self, reference: &str) -> Result<()> {
        self.state().images.retain(|name, image| name != reference && image.id != reference);
        Ok(())
    }

    async fn view_image(&self, _id: &str, _key: &str) -> Result<Vec<ViewMount>> {
        Ok(Vec::new())
    }

    async fn remove_view(&self, _key: &str) -> Result<()> {
        Ok(())
    }

    async fn import_image(&self, archive: &Path) -> Result<Vec<String>> {
        Err(RuntimeError::Unsupported(format!("{}: a simulated runtime holds no images", archive.display())))
    }

    async fn set_pod_cidrs(&self, cidrs: &[String]) -> Result<()> {
        self.state().pod_cidrs = cidrs.to_vec();
        Ok(())
    }

    async fn apply_pod_cgroup(&self, cgroup_parent: &str, limits: &Resources) -> Result<()> {
        self.state().cgroups.insert(cgroup_parent.to_owned(), limits.clone());
        Ok(())
    }

    async fn remove_pod_cgroup(&self, cgroup_parent: &str) -> Result<()> {
        self.state().cgroups.remove(cgroup_parent);
        Ok(())
    }

    async fn pod_cgroups(&self, cgroup_root: &str) -> Result<Vec<String>> {
        let state = self.state();
        let prefix = format!("{cgroup_root}/pod");
        Ok(state.cgroups.keys().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect())
    }

    async fn usage(&self, pods: &[(String, Vec<String>)]) -> Result<Vec<PodUsage>> {
        let state = self.state();
        let of = |(cgroup, members): &(String, Vec<String>)| {
            let pod = state.usages.get(cgroup).copied().unwrap_or_default();
            // Who uses what is not simulated: all of it is the first container's.
            let member = |(index, id): (usize, &String)| (id.clone(), if index == 1 { pod } else { Usage::default() });
            PodUsage { pod, members: members.iter().enumerate().map(member).collect(), interfaces: Vec::new() }
        };
        Ok(pods.iter().map(of).collect())
    }

    async fn layers(&self) -> Result<HashMap<String, Taken>> {
        Ok(self.state().layers.clone())
    }

    async fn image_store(&self) -> Result<ImageStore> {
        let bytes = self.state().images.values().map(|image| image.size_bytes).sum();
        Ok(ImageStore { path: "/".into(), bytes, inodes: 0 })
    }
}
