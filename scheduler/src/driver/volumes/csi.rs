//! What drivers say of their storage: how many volumes a node can have attached, and where there is room for new ones. And
//! what pods hold through their claims: attached volumes, and claims that are for one pod at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity};

use super::{ClaimUse, Claimant, Storage};
use crate::convert;
use crate::convert::volumes::{Capacity, Claim};
use crate::core::{Attachment, NodeSpec, Term};
use crate::driver::facts::ObjectKey;
use crate::driver::relist::Known;

/// What drivers say.
#[derive(Clone, Debug, Default)]
pub(super) struct Csi {
    pub(super) known_drivers: Known<String>,
    pub(super) known_capacities: Known<ObjectKey>,
    /// How many volumes can be attached, by node and driver.
    limits: HashMap<String, BTreeMap<String, i64>>,
    /// On how many nodes a driver has a limit: what others attach need not be counted.
    limited: HashMap<String, usize>,
    /// The drivers that say where they have how much storage.
    telling: BTreeSet<String>,
    capacities: HashMap<ObjectKey, Capacity>,
    capacities_of: HashMap<String, BTreeSet<ObjectKey>>,
}

/// What a pod holds on its node through its claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Volumes that are attached.
    pub attachments: Vec<Attachment>,
    /// Claims that are for one pod at a time.
    pub exclusive: Vec<String>,
}

/// Claims whose holdings may have changed.
#[derive(Clone, Debug, Default)]
pub struct Touched {
    all: bool,
    claims: BTreeSet<ObjectKey>,
}

impl Touched {
    /// More than so many are taken for all: it is no dearer.
    const CLAIMS_MAX: usize = 10_000;

    pub(super) fn claim(&mut self, key: ObjectKey) {
        if !self.all {
            self.claims.insert(key);
            if self.claims.len() > Self::CLAIMS_MAX {
                self.all();
            }
        }
    }

    pub(super) fn all(&mut self) {
        self.all = true;
        self.claims.clear();
    }

    /// Is it none?
    pub fn is_none(&self) -> bool {
        !self.all && self.claims.is_empty()
    }

    /// The claims; `None` is all.
    pub fn claims(&self) -> Option<&BTreeSet<ObjectKey>> {
        (!self.all).then_some(&self.claims)
    }
}

impl Storage {
    /// How many volumes a node can have attached is new or has changed.
    pub fn csi_node_seen(&mut self, node: &CSINode) -> String {
        let (name, limits) = convert::volumes::csi_node(node);
        self.set_limits(&name, limits);
        name
    }

    /// Nothing is known any more of how many volumes a node can have attached.
    pub fn csi_node_gone(&mut self, name: &str) {
        self.set_limits(name, BTreeMap::new());
    }

    fn set_limits(&mut self, node: &str, limits: BTreeMap<String, i64>) {
        let before = self.csi.limits.remove(node).unwrap_or_default();
        for driver in before.keys().filter(|driver| !limits.contains_key(*driver)) {
            if let Some(nodes) = self.csi.limited.get_mut(driver) {
                *nodes -= 1;
                if *nodes == 0 {
                    self.csi.limited.remove(driver);
                    self.touched.all();
                }
            }
        }
        for driver in limits.keys().filter(|driver| !before.contains_key(*driver)) {
            let nodes = self.csi.limited.entry(driver.clone()).or_default();
            *nodes += 1;
            if *nodes == 1 {
                self.touched.all();
            }
        }
        if before != limits {
            self.generation += 1;
        }
        if !limits.is_empty() {
            self.csi.limits.insert(node.to_owned(), limits);
        }
    }

    /// How many volumes a node can have attached, by driver.
    pub fn limits(&self, node: &str) -> BTreeMap<String, i64> {
        self.csi.limits.get(node).cloned().unwrap_or_default()
    }

    /// A driver is new or has changed.
    pub fn driver_seen(&mut self, driver: &CSIDriver) {
        let (name, tells) = convert::volumes::csi_driver(driver);
        self.csi.known_drivers.saw(&name);
        let changed = if tells { self.csi.telling.insert(name) } else { self.csi.telling.remove(&name) };
        self.generation += u64::from(changed);
    }

    /// A driver is gone.
    pub fn driver_gone(&mut self, name: &String) {
        self.csi.known_drivers.gone(name);
        self.generation += u64::from(self.csi.telling.remove(name));
    }

    /// What storage there is somewhere is new or has changed.
    pub fn capacity_seen(&mut self, capacity: &CSIStorageCapacity) {
        let (key, capacity) = convert::volumes::capacity(capacity);
        self.csi.known_capacities.saw(&key);
        self.forget_capacity(&key);
        self.csi.capacities_of.entry(capacity.class.clone()).or_default().insert(key.clone());
        self.csi.capacities.insert(key, capacity);
        self.generation += 1;
    }

    /// Nothing is said any more of the storage somewhere.
    pub fn capacity_gone(&mut self, key: &ObjectKey) {
        self.csi.known_capacities.gone(key);
        self.forget_capacity(key);
        self.generation += 1;
    }

    fn forget_capacity(&mut self, key: &ObjectKey) {
        let Some(before) = self.csi.capacities.remove(key) else { return };
        if let Some(keys) = self.csi.capacities_of.get_mut(&before.class) {
            keys.remove(key);
            if keys.is_empty() {
                self.csi.capacities_of.remove(&before.class);
            }
        }
    }

    /// Where there is room to make the claim's volume, or a volume to be had; `None` is anywhere, as far as is told.
    pub(super) fn room(&self, key: &ObjectKey, claim: &Claim) -> Option<Vec<Term>> {
        let mut terms = self.roomy(claim)?;
        if claim.selected_node.is_none() {
            for (_, volume) in self.suitable(key, claim) {
                terms.extend(volume.terms.clone()?);
            }
        }
        terms.dedup();
        Some(terms)
    }

    /// Is there room on the node to make the claim's volume?
    pub(super) fn has_room(&self, claim: &Claim, node: &NodeSpec) -> bool {
        self.roomy(claim).is_none_or(|terms| terms.iter().any(|term| term.matches(node)))
    }

    /// The places with room for the claim's volume; `None` where nobody says how much there is.
    fn roomy(&self, claim: &Claim) -> Option<Vec<Term>> {
        self.classes.get(&claim.class).filter(|class| self.csi.telling.contains(&class.provisioner))?;
        let keys = self.csi.capacities_of.get(&claim.class).into_iter().flatten();
        let capacities = keys.filter_map(|key| self.csi.capacities.get(key));
        let large_enough = capacities.filter(|capacity| capacity.largest >= claim.request);
        Some(large_enough.filter_map(|capacity| capacity.place.clone()).collect())
    }

    /// What a pod holds on its node through its claims.
    pub fn held(&self, pod: &Claimant) -> Held {
        let mut held = Held::default();
        for ClaimUse { name, .. } in &pod.claims {
            let key = (pod.namespace.clone(), name.clone());
            let Some(claim) = self.claims.get(&key) else { continue };
            if claim.exclusive {
                held.exclusive.push(format!("{}/{name}", pod.namespace));
            }
            held.attachments.extend(self.attachment(&key, claim));
        }
        held.attachments.sort_unstable();
        held.attachments.dedup();
        held.exclusive.sort_unstable();
        held.exclusive.dedup();
        held
    }

    /// The claim's volume, if it has to be counted. One that has yet to be made counts as one of its driver's.
    fn attachment(&self, key: &ObjectKey, claim: &Claim) -> Option<Attachment> {
        if self.csi.limited.is_empty() {
            return None;
        }
        let attachment = match claim.volume.as_ref().map(|name| self.volumes.get(name)) {
            Some(volume) => volume?.attachment.clone()?,
            None => Attachment {
                driver: self.classes.get(&claim.class)?.provisioner.clone(),
                volume: format!("{}/{}", key.0, key.1),
            },
        };
        self.csi.limited.contains_key(&attachment.driver).then_some(attachment)
    }

    /// The claims whose holdings may have changed since this was last asked.
    pub fn take_touched(&mut self) -> Touched {
        std::mem::take(&mut self.touched)
    }
}
