//! Volumes: what the claims of a pod ask of its node, and what has to be done before it may go there.
//!
//! A claim that has its volume wants a node from which that can be reached. A claim whose class waits for its pod gets a
//! volume with the node: one that is there, or one that is to be made for it. What was decided but is not in the API
//! yet is *assumed*, so that no two pods get one volume.

mod csi;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use super::facts::ObjectKey;
use super::relist::Known;
use crate::convert;
use crate::convert::volumes::{Claim, Class, Volume};
use crate::core::spec::Operator;
use crate::core::{NodeSpec, Requirement, Term, VolumeNeed, VolumeNeedKind};
use csi::Csi;
pub use csi::{Held, Touched};

/// The provisioner of classes whose volumes people make.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// The labels by which a node says where it is, for volumes in zones.
const PLACE_LABELS: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// A claim that a pod names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimUse {
    /// The claim's name.
    pub name: String,
    /// It is made for the pod, and must be the pod's own.
    pub ephemeral: bool,
}

/// Who uses claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claimant {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
    /// The claims.
    pub claims: Vec<ClaimUse>,
}

/// What is to be done for the claims of a pod that goes to a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// These volumes are for these claims.
    pub bind: Vec<Binding>,
    /// For these claims volumes are to be made.
    pub provision: Vec<ClaimRef>,
}

/// A claim, as it was when decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRef {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
}

/// A volume for a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The volume's name.
    pub volume: String,
    /// The version of it that was decided on.
    pub resource_version: String,
    /// The claim.
    pub claim: ClaimRef,
    /// The user reserved it.
    pub reserved: bool,
}

/// How far the claims of a pod are that goes to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All have their volumes.
    Ready,
    /// Not yet.
    Waiting,
    /// It will not come to that on this node, for this reason.
    Failed(String),
}

/// The claims of a pod.
struct Sorted<'a> {
    /// Those that have their volume.
    bound: Vec<&'a Claim>,
    /// Those that get one with the node.
    delayed: Vec<(ObjectKey, &'a Claim)>,
}

/// All claims, volumes and classes.
#[derive(Clone, Debug, Default)]
pub struct Storage {
    known_claims: Known<ObjectKey>,
    known_volumes: Known<String>,
    known_classes: Known<String>,
    claims: HashMap<ObjectKey, Claim>,
    volumes: HashMap<String, Volume>,
    volumes_of: HashMap<String, BTreeSet<String>>,
    classes: HashMap<String, Class>,
    /// Volumes that were decided on, with their claims.
    assumed: HashMap<String, ObjectKey>,
    csi: Csi,
    /// Claims of which what they hold on a node may have changed.
    touched: Touched,
    generation: u64,
}

impl Storage {
    /// Rises with every change.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// A claim is new or has changed.
    pub fn claim_seen(&mut self, claim: &PersistentVolumeClaim) {
        let (key, claim) = convert::volumes::claim(claim);
        self.known_claims.saw(&key);
        self.set_claim(key, Some(claim));
    }

    /// A claim is gone.
    pub fn claim_gone(&mut self, key: &ObjectKey) {
        self.known_claims.gone(key);
        self.set_claim(key.clone(), None);
    }

    fn set_claim(&mut self, key: ObjectKey, claim: Option<Claim>) {
        self.generation += 1;
        let matters = |claim: &Claim| (claim.exclusive, claim.volume.clone(), claim.class.clone());
        if self.claims.get(&key).map(matters) != claim.as_ref().map(matters) {
            self.touched.claim(key.clone());
        }
        match claim {
            Some(claim) => self.claims.insert(key, claim),
            None => self.claims.remove(&key),
        };
    }

    /// A volume is new or has changed.
    pub fn volume_seen(&mut self, volume: &PersistentVolume) {
        let (name, volume) = convert::volumes::volume(volume);
        self.known_volumes.saw(&name);
        self.set_volume(name, Some(volume));
    }

    /// A volume is gone.
    pub fn volume_gone(&mut self, name: &String) {
        self.known_volumes.gone(name);
        self.set_volume(name.clone(), None);
    }

    fn set_volume(&mut self, name: String, volume: Option<Volume>) {
        self.generation += 1;
        for known in self.volumes.get(&name).into_iter().chain(&volume) {
            if let (Some((claim, _)), Some(_)) = (&known.claim, &known.attachment) {
                self.touched.claim(claim.clone());
            }
        }
        if let Some(before) = self.volumes.remove(&name)
            && let Some(names) = self.volumes_of.get_mut(&before.class)
        {
            names.remove(&name);
            if names.is_empty() {
                self.volumes_of.remove(&before.class);
            }
        }
        let Some(volume) = volume else { return };
        if volume.claim.is_some() {
            // What was decided is in the API now, or another was faster.
            self.assumed.remove(&name);
        }
        self.volumes_of.entry(volume.class.clone()).or_default().insert(name.clone());
        self.volumes.insert(name, volume);
    }

    /// A class is new or has changed.
    pub fn class_seen(&mut self, class: &StorageClass) {
        let (name, class) = convert::volumes::class(class);
        self.known_classes.saw(&name);
        let provisioner = |class: &Class| class.provisioner.clone();
        if self.classes.get(&name).map(provisioner) != Some(provisioner(&class)) {
            self.touched.all();
        }
        self.classes.insert(name, class);
        self.generation += 1;
    }

    /// A class is gone.
    pub fn class_gone(&mut self, name: &String) {
        self.known_classes.gone(name);
        self.classes.remove(name);
        self.generation += 1;
    }

    /// A list of all of a kind begins.
    pub fn relist(&mut self, kind: StorageKind) {
        match kind {
            StorageKind::Claims => self.known_claims.relist(),
            StorageKind::Volumes => self.known_volumes.relist(),
            StorageKind::Classes => self.known_classes.relist(),
            StorageKind::Drivers => self.csi.known_drivers.relist(),
            StorageKind::Capacities => self.csi.known_capacities.relist(),
        }
    }

    /// The list of all of a kind is complete.
    pub fn listed(&mut self, kind: StorageKind) {
        match kind {
            StorageKind::Claims => self.known_claims.listed().iter().for_each(|key| self.claim_gone(key)),
            StorageKind::Volumes => self.known_volumes.listed().iter().for_each(|name| self.volume_gone(name)),
            StorageKind::Classes => self.known_classes.listed().iter().for_each(|name| self.class_gone(name)),
            StorageKind::Drivers => self.csi.known_drivers.listed().iter().for_each(|name| self.driver_gone(name)),
            StorageKind::Capacities => {
                self.csi.known_capacities.listed().iter().for_each(|key| self.capacity_gone(key));
            }
        }
    }

    /// What the pod's claims ask of a node, or why the pod cannot go anywhere yet.
    pub fn needs(&self, pod: &Claimant) -> Result<Vec<VolumeNeed>, String> {
        let Sorted { bound, delayed } = self.sort_claims(pod)?;
        let mut needs = Vec::new();
        for claim in bound {
            let Some(volume) = claim.volume.as_ref().and_then(|name| self.volumes.get(name)) else {
                needs.push(VolumeNeed { kind: VolumeNeedKind::Gone, terms: Vec::new() });
                continue;
            };
            let reach = volume.terms.clone().map(|terms| VolumeNeed { kind: VolumeNeedKind::Reach, terms });
            needs.extend(reach);
            needs.extend(zones(volume));
        }
        for (key, claim) in delayed {
            // Without a restriction any node will do.
            let room = self.room(&key, claim);
            let terms = self.alternatives(key, claim);
            needs.extend(terms.map(|terms| VolumeNeed { kind: VolumeNeedKind::Find, terms }));
            needs.extend(room.map(|terms| VolumeNeed { kind: VolumeNeedKind::Room, terms }));
        }
        needs.dedup();
        Ok(needs)
    }

    /// The claims that have their volume, and those that get one with the node.
    fn sort_claims(&self, pod: &Claimant) -> Result<Sorted<'_>, String> {
        let (mut bound, mut delayed, mut immediate) = (Vec::new(), Vec::new(), false);
        for ClaimUse { name, ephemeral } in &pod.claims {
            let key = (pod.namespace.clone(), name.clone());
            let Some(claim) = self.claims.get(&key) else {
                return Err(match ephemeral {
                    true => {
                        format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
                    }
                    false => format!("persistentvolumeclaim {name:?} not found"),
                });
            };
            if claim.lost {
                let volume = claim.volume.as_deref().unwrap_or_default();
                return Err(format!(
                    "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
                ));
            }
            if claim.deleting {
                return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            if *ephemeral && !claim.owners.contains(&pod.uid) {
                let (namespace, pod) = (&pod.namespace, &pod.name);
                return Err(format!(
                    "PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"
                ));
            }
            let waits = self.classes.get(&claim.class).is_some_and(|class| class.waits);
            if claim.is_bound() {
                bound.push(claim);
            } else if waits && claim.volume.is_none() {
                delayed.push((key, claim));
            } else {
                immediate = true;
            }
        }
        if immediate {
            return Err("pod has unbound immediate PersistentVolumeClaims".into());
        }
        // The smallest first, so that the large volumes are left for the large claims.
        delayed.sort_by(|(a, one), (b, other)| (one.request, a).cmp(&(other.request, b)));
        Ok(Sorted { bound, delayed })
    }

    /// The nodes on which the claim may get a volume; `None` is all.
    fn alternatives(&self, key: ObjectKey, claim: &Claim) -> Option<Vec<Term>> {
        if let Some(node) = &claim.selected_node {
            let here = field_term(Operator::In, vec![node.clone()]);
            return Some(match self.provisions(claim) {
                None => Vec::new(),
                Some(places) if places.is_empty() => vec![here],
                Some(places) => {
                    let both = |place: Term| Term { fields: here.fields.clone(), ..place };
                    places.into_iter().map(both).collect()
                }
            });
        }
        let mut terms = Vec::new();
        for (_, volume) in self.suitable(&key, claim) {
            terms.extend(volume.terms.clone()?);
        }
        if let Some(places) = self.provisions(claim) {
            if places.is_empty() {
                return None;
            }
            terms.extend(places);
        }
        terms.dedup();
        Some(terms)
    }

    /// The places where volumes for the claim can be made; `None` is nowhere, an empty list anywhere.
    fn provisions(&self, claim: &Claim) -> Option<Vec<Term>> {
        let class = self.classes.get(&claim.class)?;
        let can = !class.provisioner.is_empty() && class.provisioner != NO_PROVISIONER;
        can.then(|| class.places.clone())
    }

    /// The volumes that the claim could get, best first: the one that is reserved for it alone, or those that are free
    /// and suit, the smallest first.
    fn suitable(&self, key: &ObjectKey, claim: &Claim) -> Vec<(&String, &Volume)> {
        let names = self.volumes_of.get(&claim.class).into_iter().flatten();
        let mut all: Vec<_> = names.filter_map(|name| Some((name, self.volumes.get(name)?))).collect();
        all.retain(|(name, volume)| {
            volume.could_hold(claim) && self.assumed.get(*name).is_none_or(|assumed| assumed == key)
        });
        if let Some(reserved) = all.iter().find(|(_, volume)| volume.is_for(key, claim)) {
            return vec![*reserved];
        }
        all.retain(|(_, volume)| volume.claim.is_none() && volume.available && volume.suits(claim));
        all.sort_by_key(|(name, volume)| (volume.capacity, *name));
        all
    }

    /// The volumes for the pod's claims on a node; `None` if there are not enough after all.
    pub fn choose(&self, pod: &Claimant, node: &NodeSpec) -> Option<Choice> {
        let Sorted { delayed, .. } = self.sort_claims(pod).ok()?;
        let mut choice = Choice::default();
        let mut taken = BTreeSet::new();
        for (key, claim) in delayed {
            let reference =
                ClaimRef { key: key.clone(), uid: claim.uid.clone(), resource_version: claim.resource_version.clone() };
            let mut suitable = self.suitable(&key, claim);
            suitable.retain(|(name, volume)| !taken.contains(*name) && volume.is_reached_from(node));
            match suitable.first() {
                Some((name, volume)) if claim.selected_node.is_none() => {
                    taken.insert((*name).clone());
                    choice.bind.push(Binding {
                        volume: (*name).clone(),
                        resource_version: volume.resource_version.clone(),
                        claim: reference,
                        reserved: volume.claim.is_some(),
                    });
                }
                _ => {
                    let places = self.provisions(claim)?;
                    let here = places.is_empty() || places.iter().any(|place| place.matches(node));
                    let here = here && self.has_room(claim, node);
                    choice.provision.push(Some(reference).filter(|_| here)?);
                }
            }
        }
        Some(choice)
    }

    /// Nobody else gets these volumes.
    pub fn assume(&mut self, choice: &Choice) {
        for binding in &choice.bind {
            self.assumed.insert(binding.volume.clone(), binding.claim.key.clone());
        }
        self.generation += u64::from(!choice.bind.is_empty());
    }

    /// What was assumed did not come about, as far as it is not in the API.
    pub fn forget(&mut self, choice: &Choice) {
        for binding in &choice.bind {
            self.assumed.remove(&binding.volume);
        }
        self.generation += u64::from(!choice.bind.is_empty());
    }

    /// Have the claims of a pod that goes to this node got their volumes?
    pub fn progress(&self, pod: &Claimant, choice: &Choice, node: &NodeSpec) -> Progress {
        for binding in &choice.bind {
            let is_claimed = |volume: &Volume| self.assumed.contains_key(&binding.volume) || volume.claim.is_some();
            if !self.volumes.get(&binding.volume).is_some_and(is_claimed) {
                return Progress::Failed(format!("ClaimRef got reset for pv {:?}", binding.volume));
            }
        }
        for claim in &choice.provision {
            let found = self.claims.get(&claim.key);
            // The mark is taken away when no volume can be made for this node.
            let is_marked = found.is_some_and(|found| {
                found.selected_node.as_ref() == Some(&node.name) || found.resource_version == claim.resource_version
            });
            if !is_marked {
                return Progress::Failed(format!("provisioning failed for PVC {:?}", claim.key.1));
            }
        }
        let mut all_bound = true;
        for ClaimUse { name, .. } in &pod.claims {
            let key = (pod.namespace.clone(), name.clone());
            let Some(claim) = self.claims.get(&key) else {
                return Progress::Failed(format!("persistentvolumeclaim {name:?} not found"));
            };
            let volume = claim.volume.as_ref().and_then(|name| Some((name, self.volumes.get(name)?)));
            match volume {
                Some((volume_name, volume)) if !volume.is_reached_from(node) => {
                    let node = &node.name;
                    return Progress::Failed(format!("pv {volume_name:?} node affinity doesn't match node {node:?}"));
                }
                Some(_) if claim.is_bound() => {}
                _ => all_bound = false,
            }
        }
        if all_bound { Progress::Ready } else { Progress::Waiting }
    }
}

/// A need that keeps a pod off some nodes.
pub fn but_not(nodes: Vec<String>) -> VolumeNeed {
    VolumeNeed { kind: VolumeNeedKind::Find, terms: vec![field_term(Operator::NotIn, nodes)] }
}

fn field_term(operator: Operator, values: Vec<String>) -> Term {
    let field = Requirement { key: "metadata.name".into(), operator, values };
    Term { expressions: Vec::new(), fields: vec![field] }
}

/// A volume that is labelled with places wants a node there. A node that does not say where it is will do.
fn zones(volume: &Volume) -> Option<VolumeNeed> {
    if volume.places.is_empty() {
        return None;
    }
    let within = volume.places.iter().map(|(key, values)| Requirement {
        key: key.clone(),
        operator: Operator::In,
        values: values.clone(),
    });
    let nowhere = PLACE_LABELS.iter().map(|key| Requirement {
        key: (*key).to_owned(),
        operator: Operator::DoesNotExist,
        values: Vec::new(),
    });
    let term = |expressions: Vec<Requirement>| Term { expressions, fields: Vec::new() };
    Some(VolumeNeed { kind: VolumeNeedKind::Zone, terms: vec![term(within.collect()), term(nowhere.collect())] })
}

/// The kinds that matter to volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageKind {
    /// `v1 PersistentVolumeClaim`
    Claims,
    /// `v1 PersistentVolume`
    Volumes,
    /// `storage.k8s.io/v1 StorageClass`
    Classes,
    /// `storage.k8s.io/v1 CSIDriver`
    Drivers,
    /// `storage.k8s.io/v1 CSIStorageCapacity`
    Capacities,
}

/// Labels of volumes that are places.
pub fn places(labels: &BTreeMap<String, String>) -> Vec<(String, Vec<String>)> {
    let places = PLACE_LABELS.iter().filter_map(|key| Some((*key, labels.get(*key)?)));
    // A volume in several zones joins them with two underscores.
    places.map(|(key, value)| (key.to_owned(), value.split("__").map(str::to_owned).collect())).collect()
}

#[cfg(test)]
mod tests;
