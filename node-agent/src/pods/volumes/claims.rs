//! What is behind a claim of a pod: the PersistentVolume that it is bound to, and the reasons why it cannot be had.
//!
//! Each volume of a pod that comes from elsewhere leaves a [`Record`] in the pod's folder before anything is done with it. By
//! the records of all pods it is known who else uses a volume, and a volume can be given back when neither the API nor the
//! memory of this agent knows of it any more.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gantry_api::storage;
use k8s_openapi::api::core::v1::{Container, PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::Paths;
use crate::pods::admission;
use crate::pods::spec;

/// Protects a claim from going while a pod uses it: a claim that has it can still be mounted.
const PROTECTION: &str = "kubernetes.io/pvc-protection";

/// The claim that a pod's volume refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRef {
    /// Its name, in the pod's namespace.
    pub name: String,
    /// Whether the pod may only read it.
    pub read_only: bool,
    /// Whether it was made for this pod alone.
    pub ephemeral: bool,
}

/// The claim of a volume, if it is of that kind.
pub fn claim_of(pod: &Pod, volume: &Volume) -> Option<ClaimRef> {
    if let Some(source) = &volume.persistent_volume_claim {
        let read_only = source.read_only.unwrap_or(false);
        return Some(ClaimRef { name: source.claim_name.clone(), read_only, ephemeral: false });
    }
    volume.ephemeral.as_ref()?;
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    Some(ClaimRef { name: format!("{pod_name}-{}", volume.name), read_only: false, ephemeral: true })
}

/// Whether the pod asked for a volume that it may only read.
pub fn is_read_only(volume: &Volume) -> bool {
    let of_claim = volume.persistent_volume_claim.as_ref().and_then(|source| source.read_only);
    of_claim.or_else(|| volume.csi.as_ref()?.read_only).unwrap_or(false)
}

/// Whether a volume is something other than files that the agent writes or makes: it must never be emptied.
pub fn is_foreign(volume: &Volume) -> bool {
    volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() || volume.csi.is_some()
}

/// Checks the claim that was found; returns the name of its PersistentVolume.
pub fn check_claim(pod: &Pod, claim: &ClaimRef, found: Option<&PersistentVolumeClaim>) -> Result<String, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let wrong = |why: &str| format!("error processing PVC {namespace}/{}: {why}", claim.name);
    let Some(found) = found else {
        let why = format!("failed to fetch PVC from API server: persistentvolumeclaims \"{}\" not found", claim.name);
        return Err(wrong(&why));
    };
    let protected = found.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == PROTECTION);
    if found.metadata.deletion_timestamp.is_some() && !protected {
        return Err(wrong("PVC is being deleted"));
    }
    if found.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Bound") {
        return Err(wrong("PVC is not bound"));
    }
    let name = found.spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| wrong("PVC has empty pvc.Spec.VolumeName"))?;
    let uid = pod.metadata.uid.as_deref();
    let mut owners = found.metadata.owner_references.iter().flatten();
    if claim.ephemeral && !owners.any(|owner| owner.controller == Some(true) && Some(owner.uid.as_str()) == uid) {
        let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
        return Err(format!(
            "PVC {namespace}/{} was not created for pod {namespace}/{pod_name} (pod is not owner)",
            claim.name
        ));
    }
    Ok(name)
}

/// Checks the volume that was found behind a claim: that it is bound to it, and used in the way it was made for.
pub fn check_volume(
    pod: &Pod,
    volume: &Volume,
    claim: &PersistentVolumeClaim,
    name: &str,
    found: Option<&PersistentVolume>,
) -> Result<(), String> {
    let meta = &claim.metadata;
    let (namespace, claim_name) = (meta.namespace.as_deref(), meta.name.as_deref());
    let (namespace, claim_name) = (namespace.unwrap_or_default(), claim_name.unwrap_or_default());
    let wrong = |why: String| format!("error processing PVC {namespace}/{claim_name}: {why}");
    let Some(found) = found else {
        let why = format!("failed to fetch PV {name} from API server: persistentvolumes \"{name}\" not found");
        return Err(wrong(why));
    };
    let Some(bound_to) = found.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else {
        let why = format!(
            "found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        );
        return Err(wrong(why));
    };
    let (theirs, ours) = (bound_to.uid.as_deref().unwrap_or_default(), meta.uid.as_deref().unwrap_or_default());
    if theirs != ours {
        let why =
            format!("found PV object {name} but its pv.Spec.ClaimRef.UID {theirs} does not point to claim.UID {ours}");
        return Err(wrong(why));
    }
    let (mode, used_as) = (volume_mode(found), usage(pod, &volume.name));
    if used_as.mounted && mode != "Filesystem" {
        return Err(format!("volume {} has volumeMode {mode}, but is specified in volumeMounts", volume.name));
    }
    if used_as.device && mode != "Block" {
        return Err(format!("volume {} has volumeMode {mode}, but is specified in volumeDevices", volume.name));
    }
    Ok(())
}

/// `Filesystem` or `Block`.
pub fn volume_mode(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()).unwrap_or("Filesystem")
}

/// Whether only one pod at a time may use it.
pub fn is_for_one_pod(volume: &PersistentVolume) -> bool {
    let modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    modes == ["ReadWriteOncePod"]
}

struct Usage {
    mounted: bool,
    device: bool,
}

fn usage(pod: &Pod, name: &str) -> Usage {
    let mounts = |container: &Container| container.volume_mounts.iter().flatten().any(|mount| mount.name == name);
    let devices = |container: &Container| container.volume_devices.iter().flatten().any(|device| device.name == name);
    let containers = || spec::all_containers(pod);
    let ephemeral = spec::ephemeral_containers(pod);
    Usage {
        mounted: containers().any(|container| mounts(container.spec))
            || ephemeral.iter().any(|container| mounts(&container.container)),
        device: containers().any(|container| devices(container.spec)),
    }
}

/// Whether a volume can be had on a node with these labels.
pub fn fits_node(volume: &PersistentVolume, labels: &BTreeMap<String, String>, node_name: &str) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let Some(required) = affinity.and_then(|affinity| affinity.required.as_ref()) else { return true };
    required.node_selector_terms.iter().any(|term| admission::matches(term, labels, node_name))
}

/// What is noted of a volume of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// The PersistentVolume's name; empty for one that only this pod has.
    pub volume: String,
    /// The claim's name.
    pub claim: String,
    /// The driver that made it available, if one did.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub driver: String,
    /// The driver's name of the volume.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub handle: String,
    /// Where on this node it was staged for all pods, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staged: Option<PathBuf>,
    /// The boot of the machine in which it was made available; empty until it was.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub boot: String,
    /// Whether it is attached to the node, and has to stay so.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub attached: bool,
    /// Whether it is a device, not a folder.
    pub block: bool,
    /// Whether the file system it lies on is its own, so that what is free on it says something of the volume.
    pub measured: bool,
}

fn file(paths: &Paths, uid: &str, volume: &str) -> PathBuf {
    paths.claims(uid).join(format!("{volume}.json"))
}

/// Writes a record down.
pub fn write(paths: &Paths, uid: &str, volume: &str, record: &Record) -> io::Result<()> {
    let file = file(paths, uid, volume);
    if read_one(&file).as_ref() == Some(record) {
        return Ok(());
    }
    std::fs::create_dir_all(paths.claims(uid))?;
    // Never half of it: what is not understood would not be given back.
    crate::durable::replace(&file, &serde_json::to_vec(record).map_err(io::Error::other)?)
}

/// Removes a record.
pub fn strike(paths: &Paths, uid: &str, volume: &str) -> io::Result<()> {
    match std::fs::remove_file(file(paths, uid, volume)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn read_one(file: &Path) -> Option<Record> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

/// The records of a pod, by the volume's name in the pod.
pub fn read(paths: &Paths, uid: &str) -> BTreeMap<String, Record> {
    let entries = std::fs::read_dir(paths.claims(uid)).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| {
        let path = entry.path();
        let name = path.file_name()?.to_str()?.strip_suffix(".json")?.to_owned();
        Some((name, read_one(&path)?))
    });
    named.collect()
}

/// Which attached volumes pods use, as the records say: what is named stays attached. The records are read once; from then on
/// whoever writes or strikes one says so here.
#[derive(Debug, Default)]
pub struct InUse {
    /// By pod and the volume's name in it.
    names: Mutex<BTreeMap<(String, String), String>>,
    changed: Notify,
}

impl InUse {
    /// What the records say.
    pub fn read(paths: &Paths) -> Self {
        let found = Self::default();
        for pod in std::fs::read_dir(paths.pods()).into_iter().flatten().flatten() {
            let uid = pod.file_name().to_string_lossy().into_owned();
            for (volume, record) in read(paths, &uid) {
                found.note(&uid, &volume, &record);
            }
        }
        found
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<(String, String), String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A record was written.
    pub fn note(&self, uid: &str, volume: &str, record: &Record) {
        if record.attached {
            let name = storage::unique_name(&record.driver, &record.handle);
            self.names().insert((uid.to_owned(), volume.to_owned()), name);
            self.changed.notify_one();
        }
    }

    /// A record was struck.
    pub fn strike(&self, uid: &str, volume: &str) {
        if self.names().remove(&(uid.to_owned(), volume.to_owned())).is_some() {
            self.changed.notify_one();
        }
    }

    /// The volumes, each once, as the node's status names them.
    pub fn list(&self) -> Vec<String> {
        BTreeSet::from_iter(self.names().values().cloned()).into_iter().collect()
    }

    /// Waits until they may be others; for one who waits at a time.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Whether a pod other than `uid` has a record that `is` what is looked for.
pub fn others(paths: &Paths, uid: &str, is: impl Fn(&Record) -> bool) -> bool {
    let pods = std::fs::read_dir(paths.pods()).into_iter().flatten().flatten();
    let mut others = pods.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|other| other != uid);
    others.any(|other| read(paths, &other).values().any(&is))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn pod() -> Pod {
        object(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "pod-uid"}, "spec": {
            "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
                           {"name": "d", "volumeDevices": [{"name": "dev", "devicePath": "/dev/x"}]}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c", "readOnly": true}},
                        {"name": "own", "ephemeral": {}}, {"name": "dev", "persistentVolumeClaim": {"claimName": "c"}}]}}))
    }

    fn volume(name: &str) -> Volume {
        pod().spec.unwrap().volumes.unwrap().into_iter().find(|volume| volume.name == name).unwrap()
    }

    #[test]
    fn a_claim_is_taken_only_when_it_is_bound_and_stays() {
        let claim = claim_of(&pod(), &volume("v")).unwrap();
        assert_eq!(claim, ClaimRef { name: "c".into(), read_only: true, ephemeral: false });
        let bound = || json!({"metadata": {"name": "c"}, "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}});
        let check = |value: Option<Value>| check_claim(&pod(), &claim, value.map(object).as_ref());
        assert_eq!(check(Some(bound())), Ok("pv".into()));
        let mut leaving = bound();
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(check(Some(leaving.clone())).unwrap_err(), "error processing PVC ns/c: PVC is being deleted");
        leaving["metadata"]["finalizers"] = json!([PROTECTION]);
        assert_eq!(check(Some(leaving)), Ok("pv".into()));
        let mut pending = bound();
        pending["status"]["phase"] = json!("Pending");
        assert_eq!(check(Some(pending)).unwrap_err(), "error processing PVC ns/c: PVC is not bound");
        assert!(check(None).unwrap_err().ends_with("persistentvolumeclaims \"c\" not found"));
    }

    #[test]
    fn a_claim_of_a_pods_own_must_be_made_for_it() {
        let claim = claim_of(&pod(), &volume("own")).unwrap();
        assert_eq!(claim, ClaimRef { name: "p-own".into(), read_only: false, ephemeral: true });
        let of = |uid: &str| {
            object(json!({"metadata": {"name": "p-own", "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true}]},
                "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}}))
        };
        assert_eq!(check_claim(&pod(), &claim, Some(&of("pod-uid"))), Ok("pv".into()));
        assert_eq!(
            check_claim(&pod(), &claim, Some(&of("other"))).unwrap_err(),
            "PVC ns/p-own was not created for pod ns/p (pod is not owner)"
        );
    }

    #[test]
    fn a_volume_must_be_bound_to_the_claim_and_used_for_what_it_is() {
        let claim: PersistentVolumeClaim = object(json!({"metadata": {"namespace": "ns", "name": "c", "uid": "u"}}));
        let pv = |mode: &str, uid: &str| {
            object::<PersistentVolume>(json!({"spec": {"volumeMode": mode, "claimRef": {"uid": uid}}}))
        };
        let check = |name: &str, pv: PersistentVolume| check_volume(&pod(), &volume(name), &claim, "pv", Some(&pv));
        assert_eq!(check("v", pv("Filesystem", "u")), Ok(()));
        assert_eq!(check("dev", pv("Block", "u")), Ok(()));
        assert!(check("v", pv("Filesystem", "other")).unwrap_err().contains("does not point to claim.UID u"));
        assert!(check("v", object(json!({"spec": {}}))).unwrap_err().contains("not yet bound to the claim"));
        assert_eq!(
            check("v", pv("Block", "u")).unwrap_err(),
            "volume v has volumeMode Block, but is specified in volumeMounts"
        );
        assert_eq!(
            check("dev", pv("Filesystem", "u")).unwrap_err(),
            "volume dev has volumeMode Filesystem, but is specified in volumeDevices"
        );
    }

    #[test]
    fn a_volume_of_another_node_does_not_fit() {
        let pv = |host: &str| {
            object::<PersistentVolume>(json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}]}}}}))
        };
        let labels = BTreeMap::from([("kubernetes.io/hostname".to_owned(), "here".to_owned())]);
        assert!(fits_node(&pv("here"), &labels, "here"));
        assert!(!fits_node(&pv("there"), &labels, "here"));
        assert!(fits_node(&object(json!({"spec": {}})), &labels, "here"));
    }

    #[tokio::test]
    async fn a_volume_is_in_use_as_long_as_one_pod_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let record = |handle: &str, attached| Record {
            driver: "d".into(),
            handle: handle.into(),
            attached,
            ..Record::default()
        };
        for (uid, volume, record) in [("one", "v", record("h", true)), ("two", "w", record("other", false))] {
            write(&paths, uid, volume, &record).unwrap();
        }
        let in_use = InUse::read(&paths);
        assert_eq!(in_use.list(), ["kubernetes.io/csi/d^h"]);
        in_use.changed().await;
        in_use.note("two", "v", &record("h", true));
        in_use.note("two", "x", &record("i", true));
        in_use.strike("one", "v");
        assert_eq!(in_use.list(), ["kubernetes.io/csi/d^h", "kubernetes.io/csi/d^i"]);
        in_use.changed().await;
        in_use.strike("two", "v");
        in_use.strike("two", "w");
        in_use.strike("two", "x");
        assert_eq!(in_use.list(), [] as [&str; 0]);
        in_use.changed().await;
    }

    #[test]
    fn records_tell_who_else_uses_a_volume() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let record = Record { volume: "pv".into(), claim: "c".into(), ..Record::default() };
        write(&paths, "one", "v", &record).unwrap();
        assert_eq!(read(&paths, "one"), BTreeMap::from([("v".to_owned(), record)]));
        let uses = |uid: &str| others(&paths, uid, |record| record.volume == "pv");
        assert!(uses("two") && !uses("one"));
        strike(&paths, "one", "v").unwrap();
        assert!(!uses("two"));
    }
}
