//! What a worker remembers between two looks at its pod. All of it can be lost: a restarted agent starts with an empty one
//! and still does nothing to a pod that runs.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use k8s_openapi::api::core::v1::ResourceRequirements;

use super::Order;
use super::backoff::{BackOff, RESTART_BASE, RESTART_MAX};
use super::ledger::Short;
use crate::clock::{Moment, Now};
use crate::runtime::{ContainerState, PodRecord};

/// Why a container waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Kubernetes' word, such as `ImagePullBackOff`.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// Where a pod's volumes stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Volumes {
    /// Not looked at since the agent started.
    #[default]
    Unknown,
    /// All there.
    Mounted,
    /// Something was missing.
    Failed {
        /// When to try again.
        retry_at: Moment,
    },
    /// Taken away for good.
    Removed,
}

/// Why a running container has to be ended by the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condemned {
    /// The message of the Killing event.
    pub message: String,
    /// Seconds it gets to end, if not the pod's.
    pub grace_s: Option<i64>,
}

/// A worker's memory.
#[derive(Clone, Debug)]
pub struct Memory {
    /// When the agent first acknowledged the pod.
    pub start_time: Option<Timestamp>,
    /// The same by the agent's own clock: since when the pod's time runs.
    pub active_since: Option<Moment>,
    /// When the pod was last looked at.
    pub looked_at: Option<Moment>,
    /// Since when containers run, by id.
    pub begun: HashMap<String, Moment>,
    /// When containers ended, by id.
    pub ended: HashMap<String, Moment>,
    /// Restart back-off by container name.
    pub restarts: BackOff,
    /// Failed preparations (sandbox, volumes, container configuration) by what failed; short delays.
    pub retries: BackOff,
    /// When the sandbox last could not be made.
    pub sandbox_failed_at: Option<Moment>,
    /// Why containers could not be started, by name; until they are.
    pub waiting: HashMap<String, Waiting>,
    /// Containers that could not be started and when they may be tried again.
    pub retry_at: HashMap<String, Moment>,
    /// The pod's volumes.
    pub volumes: Volumes,
    /// When the contents of the volumes are to be read again; `None` if they cannot change.
    pub refresh_at: Option<Moment>,
    /// Whether it has the devices that it asks for.
    pub claimed: bool,
    /// Refused by this node: reason and message.
    pub rejected: Option<Waiting>,
    /// Ran longer than it may.
    pub deadline_exceeded: bool,
    /// Containers whose readiness probe passes, by id; absent is "no".
    pub ready: HashMap<String, bool>,
    /// Containers whose startup probe passed, by id.
    pub started: HashSet<String>,
    /// Containers that were made and never ran, and that the runtime will not remove, by id.
    pub stuck: HashSet<String>,
    /// Running containers to be ended, by id.
    pub condemned: HashMap<String, Condemned>,
    /// What ended containers left in their termination message files, by id.
    pub termination_messages: HashMap<String, String>,
    /// What running containers were given since they were made, by id.
    pub given: HashMap<String, ResourceRequirements>,
    /// Why the node does not give the pod what it wants now.
    pub short: Option<Short>,
    /// When a container last could not be given what it was granted, and why.
    pub resize_failed: Option<(Moment, String)>,
    /// The node wants it to end.
    pub order: Option<Order>,
    /// Volumes unmounted, cgroup gone.
    pub cleaned: bool,
    /// The last `DELETE` failed; when to try again.
    pub delete_retry_at: Option<Moment>,
}

impl Default for Memory {
    fn default() -> Self {
        let second = std::time::Duration::from_secs(1);
        Self {
            start_time: None,
            active_since: None,
            looked_at: None,
            begun: HashMap::new(),
            ended: HashMap::new(),
            restarts: BackOff::new(RESTART_BASE, RESTART_MAX),
            retries: BackOff::new(second, RESTART_BASE),
            sandbox_failed_at: None,
            waiting: HashMap::new(),
            retry_at: HashMap::new(),
            volumes: Volumes::Unknown,
            refresh_at: None,
            claimed: false,
            rejected: None,
            deadline_exceeded: false,
            ready: HashMap::new(),
            started: HashSet::new(),
            stuck: HashSet::new(),
            condemned: HashMap::new(),
            termination_messages: HashMap::new(),
            given: HashMap::new(),
            short: None,
            resize_failed: None,
            order: None,
            cleaned: false,
            delete_retry_at: None,
        }
    }
}

impl Memory {
    /// Takes over what a look has found. The runtime tells by a clock that may be set at any time when containers began and ended:
    /// what was not so at the last look has become so since, and what an agent before this one saw is believed.
    pub fn see(&mut self, record: &PodRecord, now: Now) {
        let start_time = *self.start_time.get_or_insert(now.wall);
        self.active_since.get_or_insert_with(|| now.when(start_time, None));
        for container in &record.containers {
            let (stamp, known) = match container.state {
                ContainerState::Running => (container.started_at, &mut self.begun),
                ContainerState::Exited => (container.finished_at, &mut self.ended),
                ContainerState::Created | ContainerState::Unknown => continue,
            };
            let when = || now.when(stamp.unwrap_or(container.created_at), self.looked_at);
            known.entry(container.id.clone()).or_insert_with(when);
        }
        self.looked_at = Some(now.steady);
    }

    /// Forgets what concerns containers that are no more.
    pub fn keep_only(&mut self, ids: &HashSet<&str>) {
        self.begun.retain(|id, _| ids.contains(id.as_str()));
        self.ended.retain(|id, _| ids.contains(id.as_str()));
        self.ready.retain(|id, _| ids.contains(id.as_str()));
        self.started.retain(|id| ids.contains(id.as_str()));
        self.stuck.retain(|id| ids.contains(id.as_str()));
        self.condemned.retain(|id, _| ids.contains(id.as_str()));
        self.termination_messages.retain(|id, _| ids.contains(id.as_str()));
        self.given.retain(|id, _| ids.contains(id.as_str()));
    }
}
