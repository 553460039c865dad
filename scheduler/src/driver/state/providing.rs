//! What a pod's class takes from the rest of the cluster, its owners and its volumes; and what happens between
//! choosing its node and binding it there, if volumes have to be provided first.

use std::sync::Arc;
use std::time::Duration;

use super::super::facts::PodFacts;
use super::super::volumes::{Choice, Claimant, Progress, Storage, but_not};
use super::holding::with_held;
use super::{Action, State};
use crate::core::{Ask, ClassSpec, NodeId, PodKey};

/// A pod whose volumes are not there after this long is tried afresh: as in Kubernetes.
const PROVIDE_MAX: Duration = Duration::from_secs(600);
/// Nodes whose volumes turn out not to be enough for all claims of a pod, before it waits for a change.
const NODES_TRIED_MAX: usize = 16;

/// The generations that a class is of; `None` where nothing outside matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sources {
    /// The owners of pods in the namespace.
    owners: Option<u64>,
    /// The volumes.
    storage: Option<u64>,
}

/// What was seen around a pod.
#[derive(Debug, Default)]
pub(super) struct Outlook {
    pub(super) sources: Sources,
    pub(super) hindrance: Option<String>,
}

/// A pod that has its node and waits for its volumes.
#[derive(Clone, Debug)]
pub(super) struct Going {
    pub(super) choice: Choice,
    pub(super) node: Arc<str>,
    pub(super) attempts: u32,
    pub(super) since: Duration,
}

impl State {
    /// The claims, volumes and classes, to be told what becomes of them.
    pub fn storage(&mut self) -> &mut Storage {
        &mut self.storage
    }

    /// Completes the class of a pod that waits: how its likes are spread, and what its volumes ask for.
    pub(super) fn look_around(&self, mut pod: PodFacts) -> (PodFacts, Outlook) {
        let mut outlook = Outlook::default();
        if pod.class.spread.is_empty()
            && let Some(profile) = self.profiles.get(&pod.scheduler_name)
        {
            pod.class.spread = self.owners.spread(&pod.class, pod.controller.as_ref(), &profile.spread);
            outlook.sources.owners = Some(self.owners.generation(&pod.class.namespace));
        }
        if let Some(claimant) = &pod.claimant {
            self.look_at_claims(claimant, &mut pod.class, &mut outlook);
        }
        (pod, outlook)
    }

    fn look_at_claims(&self, claimant: &Claimant, class: &mut ClassSpec, outlook: &mut Outlook) {
        outlook.sources.storage = Some(self.storage.generation());
        *class = with_held(class, &self.storage.held(claimant));
        match self.storage.needs(claimant) {
            Ok(needs) => class.volumes = needs,
            Err(why) => {
                class.volumes.clear();
                outlook.hindrance = Some(why);
            }
        }
    }

    /// Brings a popped pod up to date with who owns pods like it, and with its volumes.
    pub(super) fn refresh_class(&mut self, key: PodKey) {
        let Some(pending) = self.pending.get(&key) else { return };
        let now = Sources {
            owners: pending.sources.owners.map(|_| self.owners.generation(&pending.class_spec.namespace)),
            storage: pending.sources.storage.map(|_| self.storage.generation()),
        };
        if pending.sources == now {
            return;
        }
        let mut class = pending.class_spec.clone();
        if now.owners.is_some()
            && let Some(profile) = self.profiles.get(&pending.pod.scheduler_name)
        {
            class.spread = self.owners.spread(&class, pending.controller.as_ref(), &profile.spread);
        }
        let mut outlook = Outlook::default();
        if let Some(claimant) = &pending.claimant {
            self.look_at_claims(claimant, &mut class, &mut outlook);
        }
        if let Some(pending) = self.pending.get_mut(&key) {
            pending.sources = now;
            pending.hindrance = outlook.hindrance;
        }
        self.set_class(key, class);
    }

    fn set_class(&mut self, key: PodKey, spec: ClassSpec) {
        let Some(pending) = self.pending.get_mut(&key).filter(|pending| pending.class_spec != spec) else { return };
        let class = self.engine.acquire(&spec);
        self.engine.release(pending.class);
        pending.class = class;
        pending.class_spec = spec;
        self.queue.set_class(key, class);
        let ask = Ask { pod: key, class, priority: pending.priority };
        if let Some(node) = self.engine.nominated_node(key).cloned() {
            self.engine.nominate(ask, &node);
        }
    }

    /// The best node on which all claims of the pod get their volumes. What a claim asks of a node is told one by
    /// one; that two do not want the same volume shows only here, and then the next best node is tried.
    pub(super) fn place_with_volumes(&mut self, mut ask: Ask) -> Option<(Ask, NodeId, Choice)> {
        let mut tried = Vec::new();
        loop {
            let node = self.engine.place_for(ask)?;
            let pending = self.pending.get_mut(&ask.pod)?;
            let name = self.engine.node_name(node).to_string();
            let spec = self.engine.node(&name)?;
            if let Some(choice) = self.storage.choose(pending.claimant.as_ref()?, spec) {
                return Some((ask, node, choice));
            }
            // Looked at again with the next change of the volumes at the latest.
            pending.sources.storage = Some(u64::MAX);
            let mut class = pending.class_spec.clone();
            class.volumes.retain(|need| *need != but_not(tried.clone()));
            tried.push(name);
            class.volumes.push(but_not(tried.clone()));
            self.set_class(ask.pod, class);
            ask.class = self.pending.get(&ask.pod)?.class;
            if tried.len() >= NODES_TRIED_MAX {
                return None;
            }
        }
    }

    /// After changes of volumes: pods whose claims ask for something else now are tried again.
    pub(super) fn wake_claimants(&mut self, now: Duration) {
        if self.storage_at == self.storage.generation() {
            return;
        }
        self.storage_at = self.storage.generation();
        for key in &self.claimants {
            let Some(pending) = self.pending.get(key).filter(|pending| !pending.assumed) else { continue };
            let Some(claimant) = &pending.claimant else { continue };
            let held = self.storage.held(claimant);
            let holds_same = with_held(&pending.class_spec, &held) == pending.class_spec;
            let is_same = match (self.storage.needs(claimant), &pending.hindrance) {
                (Ok(needs), None) => holds_same && needs == pending.class_spec.volumes,
                (Err(why), Some(hindrance)) => why == *hindrance,
                _ => false,
            };
            if !is_same {
                self.queue.wake_one(*key, now);
            }
        }
    }

    /// Binds the pods whose volumes are there, and gives up on those that will not get them.
    pub(super) fn look_at_going(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let is_due = self.going_deadline().is_some_and(|deadline| now >= deadline);
        if self.going_at == self.storage.generation() && !is_due {
            return;
        }
        self.going_at = self.storage.generation();
        let going: Vec<(Duration, PodKey)> = self.going.iter().copied().collect();
        for (since, key) in going {
            let Some(pending) = self.pending.get(&key) else { continue };
            let (Some(going), Some(claimant)) = (&pending.going, &pending.claimant) else { continue };
            let progress = match self.engine.node(&going.node) {
                None => Progress::Failed(format!("nodeinfo not found for node name {:?}", going.node)),
                Some(_) if now >= since + PROVIDE_MAX => {
                    Progress::Failed("binding volumes: context deadline exceeded".into())
                }
                Some(node) => self.storage.progress(claimant, &going.choice, node),
            };
            match progress {
                Progress::Waiting => {}
                Progress::Failed(why) => self.give_up(key, why, now, actions),
                Progress::Ready => {
                    self.going.remove(&(since, key));
                    let Some(pending) = self.pending.get_mut(&key) else { continue };
                    let Some(Going { choice, node, attempts, .. }) = pending.going.take() else { continue };
                    let (pod, first_seen) = (pending.pod.clone(), pending.first_seen);
                    let devices = self.engine.given_devices(key).to_vec();
                    actions.push(Action::Bind { pod, node, devices, attempts, first_seen });
                    self.storage.forget(&choice);
                }
            }
        }
    }

    /// When the first of the pods that wait for volumes has waited too long.
    pub(super) fn going_deadline(&self) -> Option<Duration> {
        self.going.first().map(|(since, _)| *since + PROVIDE_MAX)
    }

    /// Writing the choice of volumes for a pod has ended.
    pub fn provided(&mut self, key: PodKey, outcome: Result<(), String>, now: Duration, actions: &mut Vec<Action>) {
        let is_going = self.pending.get(&key).is_some_and(|pending| pending.going.is_some());
        if let Err(why) = outcome
            && is_going
        {
            self.give_up(key, why, now, actions);
        }
    }
}
