//! Keeps one worker for each pod of this node. In: the API's watch of the node's pods, the runtime's events, and now and
//! then a list of everything. Out: workers, each told of what concerns it.
//!
//! What the runtime has and the API does not is ended, but only once the API's list has been seen whole.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::ObjectMeta;
use kube::runtime::watcher::{self, Event};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Order;
use super::admission;
use super::config::{ANNOTATION_GRACE, cgroup_parent};
use super::context::Context;
use super::events::Kind;
use super::files::{ANNOTATION_SOURCE, Pods};
use super::memory::Waiting;
use super::resources::pod_requests;
use super::worker::{Inbox, Wanted, Worker};
use super::{mirror, resize, spec};
use crate::checkpoint;
use crate::follow::follow;
use crate::node::State;
use crate::pressure::plan;
use crate::runtime::{PodIdentity, PodRecord, RuntimeEvent};

/// How often everything is listed, in case an event was lost.
const RELIST_EVERY: Duration = Duration::from_secs(45);
/// How soon a failed watch or list is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Orders that may wait: the node sends one at a time, or one to each pod when it goes down.
const ORDERS_LEN: usize = 256;

/// An order, and the UID of the pod that it is for.
pub type Addressed = (String, Order);

struct Handle {
    wanted: watch::Sender<Wanted>,
    changed: Arc<Notify>,
    order: watch::Sender<Option<Order>>,
}

/// Keeps the workers.
pub struct Manager {
    context: Arc<Context>,
    node: watch::Receiver<Option<Arc<Node>>>,
    workers: HashMap<String, Handle>,
    tasks: JoinSet<String>,
    /// What each pod looked like in the last list.
    seen: HashMap<String, u64>,
    listed: bool,
    initial: Vec<Pod>,
    /// A sender to hand out, and where what is sent arrives.
    orders: (mpsc::Sender<Addressed>, mpsc::Receiver<Addressed>),
    /// Because of which pods may not be taken.
    state: State,
    /// The pods of files.
    files: watch::Receiver<Pods>,
    shutdown: CancellationToken,
}

impl Manager {
    /// A manager without workers. `node` is the Node object as the API has it, `state` what it is short of, `files` are the
    /// pods of its files.
    pub fn new(
        context: Arc<Context>,
        node: watch::Receiver<Option<Arc<Node>>>,
        state: State,
        files: watch::Receiver<Pods>,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            context,
            node,
            workers: HashMap::new(),
            tasks: JoinSet::new(),
            seen: HashMap::new(),
            listed: false,
            initial: Vec::new(),
            orders: mpsc::channel(ORDERS_LEN),
            state,
            files,
            shutdown,
        }
    }

    /// Where to send what the node wants of a pod, by its UID.
    pub fn orders(&self) -> mpsc::Sender<Addressed> {
        self.orders.0.clone()
    }

    /// Runs until shutdown: pods of files at once, the API's when the node is `registered`. `synced` is called when the API's
    /// pods and the runtime's are first known.
    pub async fn run(mut self, registered: impl Future<Output = ()> + Send, synced: impl FnOnce() + Send) {
        let mut synced = Some(synced);
        let mut is_registered = false;
        tokio::pin!(registered);
        self.take_files().await;
        let api: Api<Pod> = Api::all(self.context.client.clone());
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.context.node_name));
        let pods = follow(api, config);
        tokio::pin!(pods);
        let mut events = self.context.runtime.subscribe();
        let kept = tokio::time::sleep(checkpoint::WAIT);
        tokio::pin!(kept);
        let mut kept_taken = false;
        let mut relist = tokio::time::interval(RELIST_EVERY);
        relist.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let shutdown = self.shutdown.clone();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = &mut registered, if !is_registered => is_registered = true,
                Ok(()) = self.files.changed() => self.take_files().await,
                () = &mut kept, if !self.listed && !kept_taken => {
                    kept_taken = true;
                    self.take_kept().await;
                }
                event = pods.next(), if is_registered => match event {
                    Some(Ok(event)) => {
                        self.take(event).await;
                        if self.listed && let Some(synced) = synced.take() {
                            synced();
                        }
                    }
                    Some(Err(error)) => warn!(%error, "watching this node's pods"),
                    None => break,
                },
                event = events.recv() => match event {
                    Ok(RuntimeEvent::PodChanged(uid)) => self.changed(&uid),
                    Ok(RuntimeEvent::Relist) | Err(RecvError::Lagged(_)) => self.relist().await,
                    Err(RecvError::Closed) => tokio::time::sleep(RETRY).await,
                },
                Some((uid, order)) = self.orders.1.recv() => {
                    if let Some(worker) = self.workers.get(&uid) {
                        worker.order.send_replace(Some(order));
                    }
                }
                _ = relist.tick() => self.relist().await,
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(uid) => {
                        self.ended(&uid);
                        // One of a file may have waited for its predecessor to be gone.
                        self.take_files().await;
                    }
                    Err(error) => warn!(%error, "a pod's worker failed"),
                },
            }
        }
        while self.tasks.join_next().await.is_some() {}
    }

    async fn take(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.initial.clear(),
            Event::InitApply(pod) => self.initial.push(pod),
            Event::InitDone => self.take_list().await,
            Event::Apply(pod) if mirror::is_mirror(&pod) => self.take_mirror(pod, false).await,
            Event::Delete(pod) if mirror::is_mirror(&pod) => self.take_mirror(pod, true).await,
            Event::Apply(pod) => self.apply(pod, &[]),
            Event::Delete(pod) => self.delete(pod),
        }
    }

    /// The API's whole list: what it lacks is gone.
    async fn take_list(&mut self) {
        let (mirrors, mut pods): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.initial).into_iter().partition(mirror::is_mirror);
        for mirror in mirrors {
            self.take_mirror(mirror, false).await;
        }
        pods.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
        let records = self.list().await;
        let known: Vec<String> = records.iter().map(|record| record.pod.uid.clone()).collect();
        let of_files = self.workers.iter().filter(|(_, worker)| spec::is_from_file(&worker.wanted.borrow().pod));
        let of_files = of_files.map(|(uid, _)| uid.clone());
        let listed: std::collections::HashSet<String> =
            pods.iter().filter_map(|pod| pod.metadata.uid.clone()).chain(of_files).collect();
        for (uid, worker) in &self.workers {
            if !listed.contains(uid) {
                self.context.ledger.release(uid);
                worker.wanted.send_modify(|wanted| {
                    wanted.gone = true;
                    wanted.kept = false;
                });
            }
        }
        for pod in pods {
            self.apply(pod, &known);
        }
        self.context.checkpoint.retain_pods(|uid| listed.contains(uid));
        let first = !self.listed;
        self.listed = true;
        self.compare(&records);
        if first {
            info!(pods = listed.len(), in_runtime = known.len(), "adopted what runs");
            for uid in self.sweep(&listed, &known).await {
                let pod =
                    PodRecord { pod: PodIdentity { uid: uid.clone(), ..Default::default() }, ..Default::default() };
                self.start(uid, Wanted { pod: Arc::new(orphan(&pod)), gone: true, kept: false }, None);
            }
        }
    }

    async fn list(&self) -> Vec<PodRecord> {
        loop {
            match self.context.runtime.list().await {
                Ok(records) => return records,
                Err(error) => warn!(%error, "listing the runtime's pods"),
            }
            if self.shutdown.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
                return Vec::new();
            }
        }
    }

    /// Starts the pods of files that are new, and ends those whose files are gone.
    async fn take_files(&mut self) {
        let pods = self.files.borrow_and_update().clone();
        let wanted: HashMap<_, _> = pods.iter().filter_map(|pod| Some((pod.metadata.uid.as_deref()?, pod))).collect();
        let mut held = Vec::new();
        for (uid, worker) in &self.workers {
            let pod = worker.wanted.borrow().pod.clone();
            if !spec::is_from_file(&pod) || wanted.contains_key(uid.as_str()) {
                continue;
            }
            self.context.ledger.release(uid);
            worker.wanted.send_if_modified(|wanted| !std::mem::replace(&mut wanted.gone, true));
            held.push(name_of(&pod));
        }
        let new: Vec<_> = wanted.into_iter().filter(|(uid, _)| !self.workers.contains_key(*uid)).collect();
        if new.is_empty() {
            return;
        }
        let known: Vec<String> = self.list().await.into_iter().map(|record| record.pod.uid).collect();
        for (uid, pod) in new {
            // Two pods of one name are not there at once: their logs lie in one place, and the API shows one.
            if !held.contains(&name_of(pod)) {
                self.begin(uid.to_owned(), Wanted { pod: pod.clone(), gone: false, kept: false }, &known);
            }
        }
    }

    /// The API server has not said which pods run here: those that it last said do, until it says otherwise.
    async fn take_kept(&mut self) {
        let mut pods = self.context.checkpoint.pods().await;
        pods.retain(|pod| !is_over(pod));
        if pods.is_empty() {
            return;
        }
        warn!(pods = pods.len(), "the API server is not there; starting from what was kept");
        pods.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
        let known: Vec<String> = self.list().await.into_iter().map(|record| record.pod.uid).collect();
        for pod in pods {
            if let Some(uid) = pod.metadata.uid.clone().filter(|uid| !self.workers.contains_key(uid)) {
                self.begin(uid, Wanted { pod: Arc::new(pod), gone: false, kept: true }, &known);
            }
        }
    }

    /// Sees to it that a mirror shows a pod of a file as it is, or nothing is there. `gone` is what was just deleted.
    async fn take_mirror(&mut self, mirror: Pod, gone: bool) {
        let name = name_of(&mirror);
        let of_file = self.workers.values().find(|worker| {
            let pod = worker.wanted.borrow().pod.clone();
            spec::is_from_file(&pod) && name_of(&pod) == name
        });
        match of_file {
            // Its own changes come back too; only what another did matters.
            Some(worker) if !gone && mirror::fits(&worker.wanted.borrow().pod, &mirror) => {}
            Some(worker) => worker.wanted.send_modify(|_| {}),
            None if gone => {}
            None => {
                if let Err(error) = mirror::remove_orphan(&self.context, &mirror).await {
                    warn!(%error, pod = name.1, "cannot remove a mirror that shows nothing");
                }
            }
        }
    }

    fn apply(&mut self, mut pod: Pod, known: &[String]) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        if spec::is_from_file(&pod)
            && let Some(source) = pod.metadata.annotations.as_mut().and_then(|all| all.get_mut(ANNOTATION_SOURCE))
        {
            // Where a pod comes from is for the node to say.
            *source = "api".to_owned();
        }
        match is_over(&pod) {
            true => self.context.checkpoint.forget_pod(&uid),
            false => self.context.checkpoint.keep_pod(&pod),
        }
        let wanted = Wanted { pod: Arc::new(pod), gone: false, kept: false };
        if let Some(worker) = self.workers.get(&uid) {
            if is_over(&wanted.pod) {
                self.context.ledger.release(&uid);
            }
            worker.wanted.send_replace(wanted);
            return;
        }
        self.begin(uid, wanted, known);
    }

    fn begin(&mut self, uid: String, wanted: Wanted, known: &[String]) {
        let rejected = if known.contains(&uid) { None } else { self.admit(&wanted.pod) };
        if rejected.is_none() && !is_over(&wanted.pod) {
            let granted = resize::as_granted(&wanted.pod, &resize::granted_before(&wanted.pod));
            self.context.ledger.put(&uid, pod_requests(&granted));
        }
        self.start(uid, wanted, rejected);
    }

    /// Asks whether a pod that is new here fits.
    fn admit(&self, pod: &Pod) -> Option<Waiting> {
        let status = pod.status.as_ref();
        let begun = status.is_some_and(|status| status.start_time.is_some() || is_over(pod));
        if begun || pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let used = self.context.ledger.used();
        let node = self.node.borrow().clone();
        if *self.state.going_down.borrow() {
            let message = "Pod was rejected as the node is shutting down.";
            self.context.events.pod(pod, Kind::Warning, "NodeShutdown", message);
            return Some(Waiting { reason: "NodeShutdown".into(), message: format!("Pod was rejected: {message}") });
        }
        let short = plan::refuse(pod, &self.state.pressure.borrow());
        let short = short.map(|why| Waiting { reason: "Evicted".into(), message: format!("Pod was rejected: {why}") });
        let refused = short.or_else(|| {
            let has_app_armor = self.context.settings.app_armor;
            admission::refuse(pod, node.as_deref(), &self.context.allocatable, &used, has_app_armor)
        })?;
        let reason = match refused.reason.as_str() {
            "AppArmor" => "AppArmor",
            "Evicted" => "Evicted",
            "NodeAffinity" => "NodeAffinity",
            "OutOfcpu" => "OutOfcpu",
            "OutOfmemory" => "OutOfmemory",
            "OutOfpods" => "OutOfpods",
            "SupplementalGroupsPolicyNotSupported" => "SupplementalGroupsPolicyNotSupported",
            _ => "UnexpectedAdmissionError",
        };
        let message = refused.message.trim_start_matches("Pod was rejected: ").to_owned();
        self.context.events.pod(pod, Kind::Warning, reason, message);
        Some(refused)
    }

    fn start(&mut self, uid: String, wanted: Wanted, rejected: Option<Waiting>) {
        let (sender, receiver) = watch::channel(wanted);
        let changed = Arc::new(Notify::new());
        let (order, ordered) = watch::channel(None);
        let inbox = Inbox { wanted: receiver, changed: changed.clone(), order: ordered };
        let handle = Handle { wanted: sender, changed, order };
        let worker = Worker::new(self.context.clone(), inbox, rejected);
        let (id, shutdown) = (uid.clone(), self.shutdown.child_token());
        self.tasks.spawn(async move {
            worker.run(shutdown).await;
            id
        });
        self.workers.insert(uid, handle);
        self.context.metrics.set_pods(self.workers.len());
    }

    fn delete(&mut self, pod: Pod) {
        let Some(uid) = pod.metadata.uid.as_deref() else { return };
        self.context.ledger.release(uid);
        self.context.checkpoint.forget_pod(uid);
        let Some(worker) = self.workers.get(uid) else { return };
        worker.wanted.send_replace(Wanted { pod: Arc::new(pod), gone: true, kept: false });
    }

    fn changed(&mut self, uid: &str) {
        if let Some(worker) = self.workers.get(uid) {
            worker.changed.notify_one();
        }
    }

    async fn relist(&mut self) {
        if !self.listed && self.workers.is_empty() {
            return;
        }
        match self.context.runtime.list().await {
            Ok(records) => self.compare(&records),
            Err(error) => warn!(%error, "listing the runtime's pods"),
        }
    }

    /// Wakes the workers of those pods that look different from last time, and ends what belongs to nobody.
    fn compare(&mut self, records: &[PodRecord]) {
        let mut seen = HashMap::with_capacity(records.len());
        for record in records {
            let uid = &record.pod.uid;
            let look = fingerprint(record);
            seen.insert(uid.clone(), look);
            match self.workers.get(uid) {
                Some(worker) if self.seen.get(uid) != Some(&look) => worker.changed.notify_one(),
                Some(_) => {}
                // Whose it is says only the API server.
                None if !self.listed => {}
                None => {
                    info!(pod = %spec::full_name(&record.pod), "ending a pod that the API does not have");
                    self.start(uid.clone(), Wanted { pod: Arc::new(orphan(record)), gone: true, kept: false }, None);
                }
            }
        }
        for uid in self.seen.keys().filter(|uid| !seen.contains_key(*uid)) {
            if let Some(worker) = self.workers.get(uid) {
                worker.changed.notify_one();
            }
        }
        self.seen = seen;
    }

    /// Removes folders, logs and cgroups of pods that are neither in the API nor in the runtime. Returns those that could not be
    /// removed yet, such as one whose volume a driver has to take back.
    async fn sweep(&self, listed: &std::collections::HashSet<String>, known: &[String]) -> Vec<String> {
        let ours = |uid: &String| listed.contains(uid) || known.contains(uid);
        let mut left = Vec::new();
        if let Ok(mut entries) = tokio::fs::read_dir(self.context.paths.pods()).await {
            while let Ok(Some(entry)) = entries.next_entry().await {
                left.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        let root = &self.context.settings.cgroup_root;
        for uid in self.context.runtime.pod_cgroups(root).await.unwrap_or_default() {
            if !ours(&uid)
                && let Err(error) = self.context.runtime.remove_pod_cgroup(&cgroup_parent(root, &uid)).await
            {
                warn!(%uid, %error, "cannot remove a left-over cgroup");
            }
        }
        self.context.devices.retain(|uid| ours(&uid.to_owned())).await;
        let mut stuck = Vec::new();
        for uid in left.into_iter().filter(|uid| !ours(uid)) {
            if let Err(error) = super::volumes::remove(&self.context, &uid).await {
                warn!(%uid, %error, "cannot remove left-over volumes yet");
                stuck.push(uid);
                continue;
            }
            if let Err(error) = super::volumes::remove_folder(&self.context.paths, &uid).await {
                warn!(%uid, %error, "cannot remove a left-over folder");
            }
        }
        self.sweep_logs(|uid| ours(uid) || stuck.contains(uid)).await;
        stuck
    }

    /// Removes the logs of pods of which nothing else is left: their last step was not seen to its end.
    async fn sweep_logs(&self, ours: impl Fn(&String) -> bool) {
        let Ok(mut entries) = tokio::fs::read_dir(self.context.paths.pod_logs()).await else { return };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((_, uid)) = name.rsplit_once('_') else { continue };
            if !ours(&uid.to_owned())
                && let Err(error) = tokio::fs::remove_dir_all(entry.path()).await
            {
                warn!(name, %error, "cannot remove left-over logs");
            }
        }
    }

    fn ended(&mut self, uid: &str) {
        self.context.ledger.release(uid);
        self.workers.remove(uid);
        self.seen.remove(uid);
        self.context.metrics.set_pods(self.workers.len());
    }
}

/// Namespace and name: all that a pod of a file and its mirror have in common.
fn name_of(pod: &Pod) -> (String, String) {
    let who = spec::identity(pod);
    (who.namespace, who.name)
}

fn is_over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// As much of a Pod as the runtime's record gives: enough to end it.
fn orphan(record: &PodRecord) -> Pod {
    let grace =
        record.containers.iter().find_map(|container| container.annotations.get(ANNOTATION_GRACE)?.parse().ok());
    Pod {
        metadata: ObjectMeta {
            name: Some(record.pod.name.clone()),
            namespace: Some(record.pod.namespace.clone()),
            uid: Some(record.pod.uid.clone()),
            deletion_grace_period_seconds: grace,
            ..ObjectMeta::default()
        },
        ..Pod::default()
    }
}

/// What of a record matters to a worker, as a number.
fn fingerprint(record: &PodRecord) -> u64 {
    let mut parts: Vec<(&str, u8)> = record.sandboxes.iter().map(|s| (s.id.as_str(), u8::from(s.ready))).collect();
    parts.extend(record.containers.iter().map(|container| (container.id.as_str(), 2 + container.state as u8)));
    parts.sort_unstable();
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}
