//! Attaches volumes to the nodes whose pods use them, for drivers that ask for it: makes and deletes VolumeAttachments, which
//! attachers carry out that run beside the drivers, and tells nodes what they have.
//!
//! A volume is taken from a node when nobody there wants it and the node no longer says that it uses it; from one that is switched
//! off at once, from one that is silent after a while.

pub mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{AttachedVolume, Node, PersistentVolume, Pod};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::api::Patch;
use kube::{Api, ResourceExt};
use serde_json::json;

use self::plan::{Plan, Seen, Volume, attached, is_named_as_ours, multi_attach_message, plan, plan_orphans, wanted};
use crate::machinery::cache::Key;
use crate::machinery::context::{Context, of_claim, of_volume, on_node};
use crate::machinery::events::{Kind, Recorder};
use crate::machinery::patch::{delete_params, patch_params, post_params};
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Outcome};
use crate::machinery::{Error, is_already_exists, is_not_found};
use crate::volume_protection::plan::{claims_of, uses};

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A PersistentVolume, by its name: where it is to be.
    Volume(String),
    /// A node, by its name: what its status says that it has.
    Node(String),
    /// An attachment, by its name: whether pods are to be told of it.
    Attachment(String),
}

/// What is remembered between two looks. All of it can be lost: waits begin anew, and pods are told once more.
#[derive(Debug, Default)]
struct Memory {
    /// Since when nodes use what nobody there wants, by volume and node.
    since: BTreeMap<(String, String), Timestamp>,
    /// Who was told to wait, by volume and node.
    refused: BTreeSet<(String, String)>,
    /// Attachments of which pods were told, and what.
    told: BTreeMap<String, Result<(), String>>,
}

/// See the module's description.
#[derive(Debug)]
pub struct AttachmentsController {
    context: Arc<Context>,
    events: Recorder,
    queue: Arc<Queue<Subject>>,
    memory: Mutex<Memory>,
}

/// What of a node decides where volumes are.
fn look(node: &Node) -> (Option<&Vec<String>>, bool, Vec<&str>) {
    let status = node.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let taints = taints.iter().map(|taint| taint.key.as_str()).collect();
    (status.and_then(|status| status.volumes_in_use.as_ref()), ready, taints)
}

fn volume_of(attachment: &VolumeAttachment) -> Option<String> {
    attachment.spec.source.persistent_volume_name.clone()
}

impl AttachmentsController {
    /// The controller, listening to the shared caches.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        let queue: Arc<Queue<Subject>> = Arc::default();
        let events = context.events.for_component("attachdetach-controller");
        let controller = Arc::new(Self { context, events, queue, memory: Mutex::default() });
        controller.listen();
        controller
    }

    fn listen(&self) {
        let caches = &self.context.caches;
        let (keys, volumes) = (self.queue.clone(), caches.volumes.clone());
        caches.pods.on_change(move |change| {
            let Some(pod) = change.sides().last() else { return };
            let namespace = pod.namespace().unwrap_or_default();
            for claim in claims_of(pod) {
                let found = volumes.indexed(&of_claim(&namespace, &claim));
                found.iter().for_each(|volume| keys.add(Subject::Volume(volume.name_any())));
            }
        });
        let keys = self.queue.clone();
        caches.claims.on_change(move |change| {
            let names = change.sides().filter_map(|claim| claim.spec.as_ref()?.volume_name.clone());
            names.filter(|name| !name.is_empty()).for_each(|name| keys.add(Subject::Volume(name)));
        });
        let keys = self.queue.clone();
        caches.volumes.on_change(move |change| {
            let is_driven = change.sides().any(|volume| volume.spec.as_ref().is_some_and(|spec| spec.csi.is_some()));
            let name = change.sides().last().filter(|_| is_driven).map(|volume| volume.name_any());
            name.into_iter().for_each(|name| keys.add(Subject::Volume(name)));
        });
        let (keys, volumes) = (self.queue.clone(), caches.volumes.clone());
        caches.csi_drivers.on_change(move |change| {
            let Some(driver) = change.sides().last().map(|driver| driver.name_any()) else { return };
            // Drivers come and go with whole systems of storage.
            for volume in volumes.all() {
                let source = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref());
                if source.is_some_and(|source| source.driver == driver) {
                    keys.add(Subject::Volume(volume.name_any()));
                }
            }
        });
        let keys = self.queue.clone();
        caches.attachments.on_change(move |change| {
            let Some(attachment) = change.sides().last() else { return };
            volume_of(attachment).into_iter().for_each(|volume| keys.add(Subject::Volume(volume)));
            keys.add(Subject::Node(attachment.spec.node_name.clone()));
            // What is there when this begins was told of before; one that is made has nothing to tell yet.
            if change.old.is_some() {
                keys.add(Subject::Attachment(attachment.name_any()));
            }
        });
        let (keys, attachments) = (self.queue.clone(), caches.attachments.clone());
        caches.nodes.on_change(move |change| {
            let Some(node) = change.sides().last() else { return };
            let same = change.old.zip(change.new).is_some_and(|(old, new)| look(old) == look(new));
            if same {
                return;
            }
            let here = attachments.indexed(&on_node(&node.name_any()));
            here.iter().filter_map(|found| volume_of(found)).for_each(|volume| keys.add(Subject::Volume(volume)));
            if !here.is_empty() || change.old.is_none() {
                keys.add(Subject::Node(node.name_any()));
            }
        });
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The volume, if it is one that is attached.
    fn volume(&self, name: &str) -> Option<Volume> {
        let caches = &self.context.caches;
        let found = caches.volumes.get(&Key::cluster(name))?;
        let driver = &found.spec.as_ref()?.csi.as_ref()?.driver;
        Volume::of(&found, caches.csi_drivers.get(&Key::cluster(driver.as_str())).as_deref())
    }

    /// The pods that use a volume, by the claim that has it.
    fn users(&self, name: &str) -> Vec<Arc<Pod>> {
        let caches = &self.context.caches;
        let claim = || {
            let volume = caches.volumes.get(&Key::cluster(name))?;
            let reference = volume.spec.as_ref()?.claim_ref.clone()?;
            let key = Key::new(reference.namespace?, reference.name?);
            let claim = caches.claims.get(&key)?;
            let bound = claim.spec.as_ref()?.volume_name.as_deref() == Some(name);
            (bound && reference.uid == claim.metadata.uid).then_some((key, claim))
        };
        let Some((key, claim)) = claim() else { return Vec::new() };
        let pods = caches.pods.indexed(&of_claim(&key.namespace, &key.name));
        pods.into_iter().filter(|pod| uses(pod, &claim)).collect()
    }

    async fn look_at_volume(&self, name: &str) -> Result<Outcome, Error> {
        let caches = &self.context.caches;
        if caches.volumes.get(&Key::cluster(name)).is_none() {
            return self.look_at_orphans(name).await;
        }
        let Some(volume) = self.volume(name) else { return Ok(Outcome::Done) };
        let users = self.users(name);
        let wanted = wanted(users.iter().map(AsRef::as_ref));
        let attachments = caches.attachments.indexed(&of_volume(name));
        let attachments: Vec<&VolumeAttachment> = attachments.iter().map(AsRef::as_ref).collect();
        let seen = |node: &str| {
            let found = caches.nodes.get(&Key::cluster(node));
            found.map_or(Seen::MISSING, |node| Seen::of(&node, &volume))
        };
        let now = Timestamp::now();
        let plan = plan(&volume, &wanted, &attachments, seen, &self.since(name), now);
        self.note_waits(name, &plan, now);
        let fresh: Vec<&String> = {
            let mut memory = self.memory();
            let key = |node: &String| (name.to_owned(), node.clone());
            memory.refused.retain(|(volume, node)| volume != name || plan.refused.contains(node));
            plan.refused.iter().filter(|node| memory.refused.insert(key(node))).collect()
        };
        for node in fresh {
            let have = wanted.iter().filter(|(other, _)| !plan.refused.contains(other));
            let elsewhere: Vec<&Pod> = have.flat_map(|(_, pods)| pods.iter().copied()).collect();
            for pod in &wanted[node] {
                let message = multi_attach_message(&volume, pod, &elsewhere);
                self.events.event(*pod, Kind::Warning, "FailedAttachVolume", message);
            }
        }
        for node in &plan.detach {
            let found = volume.attachment_name(node);
            let found = attachments.iter().find(|attachment| attachment.name_any() == found);
            if let Some(found) = found {
                self.detach(Some(&volume), found, seen(node).in_use).await?;
            }
        }
        let api: Api<VolumeAttachment> = Api::all(self.context.client.clone());
        for node in &plan.attach {
            match api.create(&post_params(), &volume.attachment(node)).await {
                Err(error) if is_already_exists(&error) => {}
                other => {
                    other?;
                    tracing::info!(volume = name, node, "a volume is to be attached");
                }
            }
        }
        Ok(plan.after.map_or(Outcome::Done, Outcome::After))
    }

    /// The attachments of a volume that is no more: nothing else would ever end them.
    async fn look_at_orphans(&self, name: &str) -> Result<Outcome, Error> {
        let caches = &self.context.caches;
        let attachments = caches.attachments.indexed(&of_volume(name));
        let attachments: Vec<&VolumeAttachment> = attachments.iter().map(AsRef::as_ref).collect();
        let now = Timestamp::now();
        let node = |node: &str| caches.nodes.get(&Key::cluster(node));
        let plan = plan_orphans(&attachments, node, &self.since(name), now);
        self.note_waits(name, &plan, now);
        // The cache may be behind; the volume's appearance brings it back here.
        let volumes: Api<PersistentVolume> = Api::all(self.context.client.clone());
        if !plan.detach.is_empty() && volumes.get_opt(name).await?.is_none() {
            let gone =
                |found: &&&VolumeAttachment| is_named_as_ours(found) && plan.detach.contains(&found.spec.node_name);
            for found in attachments.iter().filter(gone) {
                let known = node(&found.spec.node_name);
                let volume = Volume::of_orphan(found, known.as_deref());
                self.detach(volume.as_ref(), found, volume.is_some()).await?;
            }
        }
        Ok(plan.after.map_or(Outcome::Done, Outcome::After))
    }

    /// Since when nodes use a volume that nobody there wants.
    fn since(&self, name: &str) -> BTreeMap<String, Timestamp> {
        let memory = self.memory();
        let own = memory.since.iter().filter(|((volume, _), _)| volume == name);
        own.map(|((_, node), since)| (node.clone(), *since)).collect()
    }

    fn note_waits(&self, name: &str, plan: &Plan, now: Timestamp) {
        let mut memory = self.memory();
        memory.since.retain(|(volume, node), _| volume != name || plan.waits.contains(node));
        for node in &plan.waits {
            memory.since.entry((name.to_owned(), node.clone())).or_insert(now);
        }
    }

    /// Takes a volume from a node; `forced`: though it is in use there. One whose volume is not known is in nobody's use.
    async fn detach(&self, volume: Option<&Volume>, found: &VolumeAttachment, forced: bool) -> Result<(), Error> {
        let (name, node) = (found.name_any(), found.spec.node_name.as_str());
        // Before it goes the node's status no longer says that it is there: nobody begins to use it.
        self.tell_node(node, Some(&name)).await?;
        // The cache may be behind: what came into use meanwhile stays. The node's change brings this volume back here.
        let nodes: Api<Node> = Api::all(self.context.client.clone());
        if !forced && let Some(now) = nodes.get_opt(node).await? {
            let orphan = volume.is_none().then(|| Volume::of_orphan(found, Some(&now))).flatten();
            if volume.or(orphan.as_ref()).is_some_and(|volume| Seen::of(&now, volume).in_use) {
                return Ok(());
            }
        }
        let uid = found.metadata.uid.as_deref().unwrap_or_default();
        let api: Api<VolumeAttachment> = Api::all(self.context.client.clone());
        match api.delete(&name, &delete_params(uid)).await {
            Err(error) if is_not_found(&error) => {}
            other => {
                let _ = other?;
                let volume = volume_of(found).unwrap_or_default();
                tracing::info!(volume, node, "a volume is to be taken from its node");
            }
        }
        Ok(())
    }

    /// Sees to it that a node's status says what the node has, but for the attachment `without`.
    async fn tell_node(&self, name: &str, without: Option<&str>) -> Result<(), Error> {
        let caches = &self.context.caches;
        let Some(node) = caches.nodes.get(&Key::cluster(name)) else { return Ok(()) };
        let here = caches.attachments.indexed(&on_node(name));
        let here = here.iter().filter(|found| without != Some(found.name_any().as_str()));
        let named = here.filter_map(|found| Some((found.as_ref(), self.volume(&volume_of(found)?)?.unique_name())));
        let wanted = attached(named);
        let says: &[AttachedVolume] =
            node.status.as_ref().and_then(|status| status.volumes_attached.as_deref()).unwrap_or_default();
        if says == wanted {
            return Ok(());
        }
        let api: Api<Node> = Api::all(self.context.client.clone());
        let patch = json!({"metadata": {"uid": node.metadata.uid}, "status": {"volumesAttached": wanted}});
        match api.patch_status(name, &patch_params(), &Patch::Merge(&patch)).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Tells pods that their volume is attached, or why not.
    fn tell_pods(&self, name: &str) {
        let found = self.context.caches.attachments.get(&Key::cluster(name));
        let Some(found) = found.filter(|found| found.metadata.deletion_timestamp.is_none()) else {
            self.memory().told.remove(name);
            return;
        };
        let (Some(volume), Some(status)) = (volume_of(&found), &found.status) else { return };
        let error = status.attach_error.as_ref().map(|error| error.message.clone().unwrap_or_default());
        let now = match (status.attached, error) {
            (true, _) => Ok(()),
            (false, Some(error)) => Err(error),
            (false, None) => return,
        };
        if self.memory().told.insert(name.to_owned(), now.clone()).as_ref() == Some(&now) {
            return;
        }
        let users = self.users(&volume);
        for pod in wanted(users.iter().map(AsRef::as_ref)).remove(&found.spec.node_name).unwrap_or_default() {
            match &now {
                Ok(()) => {
                    let message = format!("AttachVolume.Attach succeeded for volume \"{volume}\" ");
                    self.events.event(pod, Kind::Normal, "SuccessfulAttachVolume", message);
                }
                Err(error) => {
                    let message = format!("AttachVolume.Attach failed for volume \"{volume}\" : {error}");
                    self.events.event(pod, Kind::Warning, "FailedAttachVolume", message);
                }
            }
        }
    }
}

impl Controller for AttachmentsController {
    type Key = Subject;

    fn name(&self) -> &'static str {
        "attachdetach"
    }

    fn queue(&self) -> &Queue<Subject> {
        &self.queue
    }

    async fn reconcile(&self, subject: &Subject) -> Result<Outcome, Error> {
        match subject {
            Subject::Volume(name) => return self.look_at_volume(name).await,
            Subject::Node(name) => self.tell_node(name, None).await?,
            Subject::Attachment(name) => self.tell_pods(name),
        }
        Ok(Outcome::Done)
    }
}
