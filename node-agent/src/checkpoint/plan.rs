//! What is kept, and what no longer has to be. Pure: in go objects, out come the files that have to be written or removed.
//!
//! Pods and the Node are kept for their own sake, everything else because one of them leads to it.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use gantry_api::storage;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use serde_json::Value;

use crate::pods::volumes::{claims, payload};
use crate::pods::{env, spec};

/// What is kept. In this order it is written: a pod comes after what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The Node.
    Node,
    /// ConfigMaps.
    ConfigMap,
    /// Secrets.
    Secret,
    /// PersistentVolumes.
    Volume,
    /// PersistentVolumeClaims.
    Claim,
    /// CSIDrivers.
    Driver,
    /// VolumeAttachments.
    Attachment,
    /// RuntimeClasses.
    RuntimeClass,
    /// The tokens that a pod was given, by its UID.
    Tokens,
    /// A pod's variables of services, by its UID.
    Services,
    /// Pods, by UID.
    Pod,
}

impl Kind {
    /// All.
    pub const ALL: [Self; 11] = [
        Self::Node,
        Self::ConfigMap,
        Self::Secret,
        Self::Volume,
        Self::Claim,
        Self::Driver,
        Self::Attachment,
        Self::RuntimeClass,
        Self::Tokens,
        Self::Services,
        Self::Pod,
    ];

    /// The name of its folder.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Node => "nodes",
            Self::ConfigMap => "configmaps",
            Self::Secret => "secrets",
            Self::Volume => "persistentvolumes",
            Self::Claim => "persistentvolumeclaims",
            Self::Driver => "csidrivers",
            Self::Attachment => "volumeattachments",
            Self::RuntimeClass => "runtimeclasses",
            Self::Tokens => "tokens",
            Self::Services => "services",
            Self::Pod => "pods",
        }
    }
}

/// Stands where a namespace would, for what has none.
pub const NO_NAMESPACE: &str = "-";

/// One thing that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// What it is.
    pub kind: Kind,
    /// Its namespace, or [`NO_NAMESPACE`].
    pub namespace: String,
    /// Its name; of what belongs to one pod, the pod's UID.
    pub name: String,
}

impl Key {
    /// Something in a namespace.
    pub fn of(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Something in no namespace.
    pub fn cluster(kind: Kind, name: &str) -> Self {
        Self::of(kind, NO_NAMESPACE, name)
    }

    /// Whether its parts can be names of files.
    pub fn is_safe(&self) -> bool {
        [&self.namespace, &self.name].into_iter().all(|part| {
            !part.is_empty() && part.len() <= 253 && !part.starts_with('.') && !part.contains(['/', '\\', '\0'])
        })
    }
}

/// What has to be known to find what an object leads to.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The node's name.
    pub node_name: String,
}

/// What an object leads to.
pub fn leads_to(kind: Kind, value: &Value, place: &Place) -> Vec<Key> {
    match kind {
        Kind::Pod => serde_json::from_value(value.clone()).map(|pod| of_pod(&pod)).unwrap_or_default(),
        Kind::Claim => serde_json::from_value(value.clone()).map(|claim| of_claim(&claim)).unwrap_or_default(),
        Kind::Volume => {
            serde_json::from_value(value.clone()).map(|volume| of_volume(&volume, place)).unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

fn of_pod(pod: &Pod) -> Vec<Key> {
    let who = spec::identity(pod);
    let mut keys = vec![Key::cluster(Kind::Tokens, &who.uid), Key::cluster(Kind::Services, &who.uid)];
    keys.extend(spec::runtime_class(pod).map(|name| Key::cluster(Kind::RuntimeClass, name)));
    let mut add = |(config_maps, secrets): (Vec<String>, Vec<String>)| {
        keys.extend(config_maps.iter().map(|name| Key::of(Kind::ConfigMap, &who.namespace, name)));
        keys.extend(secrets.iter().map(|name| Key::of(Kind::Secret, &who.namespace, name)));
    };
    let ephemeral = spec::ephemeral_containers(pod);
    let containers = spec::all_containers(pod).chain(ephemeral.iter().map(spec::Ephemeral::as_ref));
    for container in containers {
        add(env::references(container.spec));
    }
    for volume in spec::spec(pod).volumes.iter().flatten() {
        if let Some(written) = payload::written(volume) {
            add(payload::references(&written));
        }
    }
    let pull = spec::spec(pod).image_pull_secrets.iter().flatten().map(|secret| secret.name.clone());
    add((Vec::new(), pull.collect()));
    for volume in spec::spec(pod).volumes.iter().flatten() {
        if let Some(claim) = claims::claim_of(pod, volume) {
            keys.push(Key::of(Kind::Claim, &who.namespace, &claim.name));
        }
        if let Some(source) = &volume.csi {
            keys.push(Key::cluster(Kind::Driver, &source.driver));
            let secret = source.node_publish_secret_ref.as_ref();
            keys.extend(secret.map(|secret| Key::of(Kind::Secret, &who.namespace, &secret.name)));
        }
    }
    keys
}

fn of_claim(claim: &PersistentVolumeClaim) -> Vec<Key> {
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    name.filter(|name| !name.is_empty()).map(|name| Key::cluster(Kind::Volume, name)).into_iter().collect()
}

fn of_volume(volume: &PersistentVolume, place: &Place) -> Vec<Key> {
    let Some(source) = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref()) else { return Vec::new() };
    let attachment = storage::attachment_name(&source.volume_handle, &source.driver, &place.node_name);
    let mut keys = vec![Key::cluster(Kind::Driver, &source.driver), Key::cluster(Kind::Attachment, &attachment)];
    let secrets = [&source.node_stage_secret_ref, &source.node_publish_secret_ref, &source.node_expand_secret_ref];
    for secret in secrets.into_iter().flatten() {
        if let (Some(namespace), Some(name)) = (&secret.namespace, &secret.name) {
            keys.push(Key::of(Kind::Secret, namespace, name));
        }
    }
    keys
}

/// By what it is seen that something has changed: an object's version, or else what it says.
pub fn look(value: &Value) -> String {
    let meta = &value["metadata"];
    match (meta["uid"].as_str(), meta["resourceVersion"].as_str()) {
        (uid, Some(version)) => format!("{}/{version}", uid.unwrap_or_default()),
        _ => {
            let mut hasher = DefaultHasher::new();
            value.to_string().hash(&mut hasher);
            format!("{:016x}", hasher.finish())
        }
    }
}

/// A pod as far as its start after a reboot depends on it: without what changes while it runs and is found out anew.
pub fn essence(pod: &Pod) -> Pod {
    let mut pod = pod.clone();
    pod.metadata.managed_fields = None;
    pod.metadata.resource_version = None;
    if let Some(status) = &mut pod.status {
        status.conditions = None;
        let lists = [
            &mut status.init_container_statuses,
            &mut status.container_statuses,
            &mut status.ephemeral_container_statuses,
        ];
        for container in lists.into_iter().flatten().flatten() {
            container.ready = false;
            container.started = None;
        }
    }
    pod
}

struct Entry {
    look: String,
    leads_to: Vec<Key>,
}

/// What a file is to become: its contents, or `None` if it is to go.
pub type Change = (Key, Option<Vec<u8>>);

/// What is kept, and which files do not say so yet.
#[derive(Default)]
pub struct Kept {
    place: Place,
    entries: BTreeMap<Key, Entry>,
    /// At most what the pods of the node refer to, each once; the writer empties it.
    changes: BTreeMap<Key, Option<Vec<u8>>>,
}

impl Kept {
    /// Nothing.
    pub fn new(place: Place) -> Self {
        Self { place, ..Self::default() }
    }

    /// Takes over what a file says.
    pub fn found(&mut self, key: Key, value: &Value) {
        let entry = Entry { look: look(value), leads_to: leads_to(key.kind, value, &self.place) };
        self.entries.insert(key, entry);
    }

    /// Whether this is kept, and if `look` is given, whether it looks so.
    pub fn has(&self, key: &Key, look: Option<&str>) -> bool {
        self.entries.get(key).is_some_and(|entry| look.is_none_or(|look| entry.look == look))
    }

    /// Keeps something; false if it is kept as it is already.
    pub fn keep(&mut self, key: Key, value: &Value) -> bool {
        let look = look(value);
        if !key.is_safe() || self.has(&key, Some(&look)) {
            return false;
        }
        let leads_to = leads_to(key.kind, value, &self.place);
        self.changes.insert(key.clone(), Some(value.to_string().into_bytes()));
        self.entries.insert(key, Entry { look, leads_to });
        true
    }

    /// Keeps it no more; false if it was not kept.
    pub fn forget(&mut self, key: &Key) -> bool {
        let was = self.entries.remove(key).is_some();
        if was {
            self.changes.insert(key.clone(), None);
        }
        was
    }

    /// The keys of a kind.
    pub fn all(&self, kind: Kind) -> Vec<Key> {
        self.entries.keys().filter(|key| key.kind == kind).cloned().collect()
    }

    /// What is to be written of a key and has not been.
    pub fn unwritten(&self, key: &Key) -> Option<&[u8]> {
        self.changes.get(key)?.as_deref()
    }

    /// The changes since the last call; what nothing leads to any more is forgotten before. A walk over what the pods of one
    /// node need, once for all changes of a moment.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let mut reached: BTreeSet<Key> = BTreeSet::new();
        let mut next: Vec<Key> =
            self.entries.keys().filter(|key| matches!(key.kind, Kind::Node | Kind::Pod)).cloned().collect();
        while let Some(key) = next.pop() {
            let further = self.entries.get(&key).map(|entry| entry.leads_to.clone()).unwrap_or_default();
            if reached.insert(key) {
                next.extend(further);
            }
        }
        let lost: Vec<Key> = self.entries.keys().filter(|key| !reached.contains(*key)).cloned().collect();
        for key in &lost {
            self.forget(key);
        }
        std::mem::take(&mut self.changes).into_iter().collect()
    }

    /// Takes back what could not be written, but for what has changed again since.
    pub fn put_back(&mut self, changes: Vec<Change>) {
        for (key, change) in changes {
            self.changes.entry(key).or_insert(change);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn place() -> Place {
        Place { node_name: "n".into() }
    }

    fn pod(uid: &str) -> Value {
        json!({"metadata": {"name": "p", "namespace": "ns", "uid": uid}, "spec": {
            "imagePullSecrets": [{"name": "pull"}], "runtimeClassName": "sandboxed",
            "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "of-init"}}]}],
            "containers": [{"name": "c", "env": [
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "of-env", "key": "k"}}}]}],
            "ephemeralContainers": [{"name": "e", "envFrom": [{"secretRef": {"name": "of-debug"}}]}],
            "volumes": [
                {"name": "a", "configMap": {"name": "of-volume"}},
                {"name": "b", "secret": {"secretName": "of-volume"}},
                {"name": "c", "projected": {"sources": [{"configMap": {"name": "projected"}}, {"secret": {"name": "projected"}}]}},
                {"name": "d", "persistentVolumeClaim": {"claimName": "claim"}},
                {"name": "e", "ephemeral": {}},
                {"name": "f", "csi": {"driver": "d.example", "nodePublishSecretRef": {"name": "publish"}}},
                {"name": "g", "emptyDir": {}}]}})
    }

    #[test]
    fn a_pod_leads_to_all_that_its_start_reads() {
        let mut found: Vec<String> = leads_to(Kind::Pod, &pod("u"), &place())
            .into_iter()
            .map(|key| format!("{}/{}/{}", key.kind.folder(), key.namespace, key.name))
            .collect();
        found.sort();
        let mut expected = [
            "configmaps/ns/of-init",
            "configmaps/ns/of-volume",
            "configmaps/ns/projected",
            "csidrivers/-/d.example",
            "persistentvolumeclaims/ns/claim",
            "persistentvolumeclaims/ns/p-e",
            "runtimeclasses/-/sandboxed",
            "secrets/ns/of-debug",
            "secrets/ns/of-env",
            "secrets/ns/of-volume",
            "secrets/ns/projected",
            "secrets/ns/publish",
            "secrets/ns/pull",
            "services/-/u",
            "tokens/-/u",
        ];
        expected.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_claim_leads_to_its_volume_and_that_to_its_driver_and_secrets() {
        let claim = json!({"metadata": {"name": "claim"}, "spec": {"volumeName": "pv"}});
        assert_eq!(leads_to(Kind::Claim, &claim, &place()), [Key::cluster(Kind::Volume, "pv")]);
        let unbound = json!({"metadata": {"name": "claim"}, "spec": {}});
        assert_eq!(leads_to(Kind::Claim, &unbound, &place()), []);
        let volume = json!({"metadata": {"name": "pv"}, "spec": {"csi": {"driver": "d.example", "volumeHandle": "h",
            "nodeStageSecretRef": {"namespace": "s", "name": "stage"}}}});
        let keys = leads_to(Kind::Volume, &volume, &place());
        assert!(keys.contains(&Key::cluster(Kind::Driver, "d.example")));
        assert!(keys.contains(&Key::of(Kind::Secret, "s", "stage")));
        assert!(keys.iter().any(|key| key.kind == Kind::Attachment && key.name.starts_with("csi-")), "{keys:?}");
    }

    fn written(kept: &mut Kept) -> Vec<(Kind, String, bool)> {
        let changes = kept.take_changes();
        changes.into_iter().map(|(key, change)| (key.kind, key.name, change.is_some())).collect()
    }

    #[test]
    fn what_changed_is_written_and_what_nobody_needs_is_removed() {
        let mut kept = Kept::new(place());
        let config = |version: &str| json!({"metadata": {"name": "of-volume", "uid": "m", "resourceVersion": version}});
        let map = Key::of(Kind::ConfigMap, "ns", "of-volume");
        let (one, two) = (Key::cluster(Kind::Pod, "one"), Key::cluster(Kind::Pod, "two"));
        assert!(kept.keep(one.clone(), &pod("one")));
        assert!(kept.keep(map.clone(), &config("1")));
        assert_eq!(
            written(&mut kept),
            [(Kind::ConfigMap, "of-volume".into(), true), (Kind::Pod, "one".into(), true)],
            "what a pod needs is written before it"
        );
        assert!(!kept.keep(one.clone(), &pod("one")), "nothing has changed");
        assert!(!kept.keep(map.clone(), &config("1")));
        assert!(written(&mut kept).is_empty());
        assert!(kept.keep(two.clone(), &pod("two")));
        assert!(kept.keep(map.clone(), &config("2")));
        assert_eq!(written(&mut kept).len(), 2);
        kept.forget(&one);
        assert_eq!(written(&mut kept), [(Kind::Pod, "one".into(), false)], "the other pod needs the rest");
        kept.forget(&two);
        assert_eq!(
            written(&mut kept),
            [(Kind::ConfigMap, "of-volume".into(), false), (Kind::Pod, "two".into(), false)]
        );
        assert!(!kept.has(&map, None));
    }

    #[test]
    fn an_object_that_no_pod_needs_is_not_kept() {
        let mut kept = Kept::new(place());
        kept.keep(
            Key::of(Kind::Secret, "ns", "stray"),
            &json!({"metadata": {"name": "stray", "resourceVersion": "1"}}),
        );
        assert_eq!(written(&mut kept), [(Kind::Secret, "stray".into(), false)]);
        let node = Key::cluster(Kind::Node, "n");
        kept.keep(node.clone(), &json!({"metadata": {"name": "n"}}));
        assert_eq!(written(&mut kept), [(Kind::Node, "n".into(), true)]);
    }

    #[test]
    fn what_could_not_be_written_is_tried_again_unless_it_is_old() {
        let mut kept = Kept::new(place());
        let (one, two) = (Key::cluster(Kind::Pod, "one"), Key::cluster(Kind::Pod, "two"));
        kept.keep(one.clone(), &pod("one"));
        kept.keep(two.clone(), &pod("two"));
        let changes = kept.take_changes();
        kept.forget(&one);
        kept.put_back(changes);
        assert_eq!(written(&mut kept), [(Kind::Pod, "one".into(), false), (Kind::Pod, "two".into(), true)]);
    }

    #[test]
    fn readiness_is_not_worth_a_write_and_a_restart_is() {
        let with = |ready: bool, restarts: i32| -> Value {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "p", "namespace": "ns", "uid": "u", "resourceVersion": restarts.to_string()},
                "spec": {"containers": []},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}],
                    "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": ready, "started": ready,
                        "restartCount": restarts}]}}))
            .unwrap();
            serde_json::to_value(essence(&pod)).unwrap()
        };
        assert_eq!(look(&with(true, 0)), look(&with(false, 0)));
        assert_ne!(look(&with(true, 0)), look(&with(true, 1)));
    }

    #[test]
    fn names_that_lead_out_of_the_folder_are_not_kept() {
        let mut kept = Kept::new(place());
        for name in ["..", "", "a/b", ".tmp"] {
            assert!(!kept.keep(Key::cluster(Kind::Pod, name), &json!({"metadata": {"uid": name}})), "{name}");
        }
    }
}
