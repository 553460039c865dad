//! Groups of pods that are of use only together: who belongs to which, and how many it takes.
//!
//! A pod says by a label to which PodGroup of its namespace it belongs. The group says how many of its pods must have
//! nodes before any of them may go there, and for how long nodes may be held for some while the rest is waited for. Label
//! and kind are those of Kubernetes' coscheduling plugin.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::facts::{ObjectKey, meta, watched};
use super::relist::Known;
use crate::core::{PodKey, PodMap};

/// A PodGroup as the watch decodes it.
#[derive(Clone, Debug, Deserialize)]
pub struct WatchedGroup {
    #[serde(rename = "metadata", deserialize_with = "meta")]
    pub(super) meta: ObjectMeta,
    #[serde(default)]
    spec: SpecView,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpecView {
    min_member: Option<i32>,
    schedule_timeout_seconds: Option<i32>,
}

watched!(WatchedGroup, "PodGroup", "podgroups", "scheduling.x-k8s.io", "v1alpha1", NamespaceResourceScope);

/// What a group asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupSpec {
    /// So many of its pods must have nodes before any may go there.
    pub min_member: usize,
    /// For so long nodes are held for some while the rest is waited for; not at all by default.
    pub hold: Duration,
}

impl WatchedGroup {
    /// Namespace and name, and what it asks for.
    pub fn into_parts(self) -> (ObjectKey, GroupSpec) {
        let positive = |number: Option<i32>| number.and_then(|number| u32::try_from(number).ok()).unwrap_or(0);
        let spec = GroupSpec {
            min_member: usize::try_from(positive(self.spec.min_member)).unwrap_or(usize::MAX),
            hold: Duration::from_secs(positive(self.spec.schedule_timeout_seconds).into()),
        };
        ((self.meta.namespace.unwrap_or_default(), self.meta.name.unwrap_or_default()), spec)
    }
}

/// One group.
#[derive(Clone, Debug, Default)]
pub(super) struct Gang {
    /// None while there is no such object.
    pub(super) spec: Option<GroupSpec>,
    /// Its pods that have no node yet, in the order in which they came.
    pub(super) waiting: BTreeSet<(u64, PodKey)>,
    /// How many of its pods have a node, as the API says.
    pub(super) placed: usize,
    /// Since when nodes are held for some of its pods.
    pub(super) since: Option<Duration>,
}

#[derive(Clone, Debug)]
struct Member {
    group: Arc<ObjectKey>,
    /// Its number among those that came; none once it has a node.
    waiting: Option<u64>,
}

/// All groups and their pods.
#[derive(Clone, Debug, Default)]
pub struct Gangs {
    known: Known<ObjectKey>,
    gangs: HashMap<Arc<ObjectKey>, Gang>,
    members: PodMap<Member>,
    /// The groups for which nodes are held, by since when.
    pub(super) holding: BTreeSet<(Duration, Arc<ObjectKey>)>,
    /// Groups of which a pod lost the node that was held for it to one that matters more.
    pub(super) displaced: BTreeSet<Arc<ObjectKey>>,
    came: u64,
}

impl Gangs {
    /// A list of all groups begins.
    pub(super) fn relist(&mut self) {
        self.known.relist();
    }

    /// The list of all groups is complete: those that it did not show.
    pub(super) fn listed(&mut self) -> Vec<ObjectKey> {
        self.known.listed()
    }

    /// A group is new, has changed or is gone. Returns whether that is news.
    pub(super) fn set(&mut self, key: &ObjectKey, spec: Option<GroupSpec>) -> bool {
        match spec {
            Some(_) => self.known.saw(key),
            None => self.known.gone(key),
        }
        let key = Arc::new(key.clone());
        let gang = self.gangs.entry(key.clone()).or_default();
        let is_news = gang.spec != spec;
        gang.spec = spec;
        self.tidy(&key);
        is_news
    }

    /// A pod of a group waits for a node, or has one. Returns the group if that is news.
    pub(super) fn saw(&mut self, pod: PodKey, namespace: &str, group: &str, waits: bool) -> Option<Arc<ObjectKey>> {
        let key = Arc::new((namespace.to_owned(), group.to_owned()));
        let known = self.members.get(&pod);
        if known.is_some_and(|known| known.group == key && known.waiting.is_some() == waits) {
            return None;
        }
        self.gone(pod);
        let gang = self.gangs.entry(key.clone()).or_default();
        self.came += 1;
        if waits {
            gang.waiting.insert((self.came, pod));
        } else {
            gang.placed += 1;
        }
        self.members.insert(pod, Member { group: key.clone(), waiting: waits.then_some(self.came) });
        Some(key)
    }

    /// A pod is gone, or in no group any more.
    pub(super) fn gone(&mut self, pod: PodKey) {
        let Some(member) = self.members.remove(&pod) else { return };
        if let Some(gang) = self.gangs.get_mut(&member.group) {
            match member.waiting {
                Some(number) => drop(gang.waiting.remove(&(number, pod))),
                None => gang.placed -= 1,
            }
        }
        self.tidy(&member.group);
    }

    /// Forgets a group of which nothing is left.
    fn tidy(&mut self, key: &Arc<ObjectKey>) {
        let is_empty = |gang: &Gang| gang.spec.is_none() && gang.waiting.is_empty() && gang.placed == 0;
        if self.gangs.get(key).is_some_and(is_empty) {
            self.set_since(key, None);
            self.gangs.remove(key);
        }
    }

    /// The group of a pod.
    pub(super) fn of(&self, pod: PodKey) -> Option<Arc<ObjectKey>> {
        self.members.get(&pod).map(|member| member.group.clone())
    }

    /// A group.
    pub(super) fn get(&self, key: &ObjectKey) -> Option<&Gang> {
        self.gangs.get(key)
    }

    /// From when on nodes are held for the group; none is not at all.
    pub(super) fn set_since(&mut self, key: &Arc<ObjectKey>, since: Option<Duration>) {
        let Some(gang) = self.gangs.get_mut(key) else { return };
        if let Some(before) = std::mem::replace(&mut gang.since, since) {
            self.holding.remove(&(before, key.clone()));
        }
        if let Some(since) = since {
            self.holding.insert((since, key.clone()));
        }
    }

    /// The nodes that are held for a group are to be given up.
    pub(super) fn displace(&mut self, key: Arc<ObjectKey>) {
        self.displaced.insert(key);
    }

    /// When the first group has held nodes for long enough.
    pub(super) fn deadline(&self) -> Option<Duration> {
        if !self.displaced.is_empty() {
            return Some(Duration::ZERO);
        }
        self.holding.iter().map(|(since, key)| *since + self.hold_of(key)).min()
    }

    /// For how long a group may hold nodes; one whose object is gone may not.
    pub(super) fn hold_of(&self, key: &ObjectKey) -> Duration {
        self.gangs.get(key).and_then(|gang| gang.spec).map_or(Duration::ZERO, |spec| spec.hold)
    }
}
