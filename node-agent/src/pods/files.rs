//! Pods from files: whatever lies in a folder of the node runs there, API server or not.
//!
//! In: the folder. Out: the pods that its files describe, completed and checked as the API server would, each with a UID
//! that follows from what the file says. A file that is there and cannot be understood leaves its pod as it was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gantry_api::engine::{self, BodyFormat, FieldValidation};
use gantry_api::kinds::Catalog;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec, Toleration};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Annotation that says where a pod comes from; only the agent writes it.
pub const ANNOTATION_SOURCE: &str = "kubernetes.io/config.source";
/// What [`ANNOTATION_SOURCE`] says of these pods.
pub const SOURCE_FILE: &str = "file";
/// Annotation with the hash of what the file says.
pub const ANNOTATION_HASH: &str = "kubernetes.io/config.hash";
/// Annotation with the time at which the agent first saw it.
const ANNOTATION_SEEN: &str = "kubernetes.io/config.seen";
/// Between looks at the folder: a look is a list of names and times.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// No pod is larger than this.
const FILE_LEN_MAX: u64 = 10 << 20;

/// The pods of all files.
pub type Pods = Vec<Arc<Pod>>;

/// When a file was changed, and how long it is.
type Stamp = (SystemTime, u64);

/// A folder and what was last found in it.
pub struct Folder {
    path: PathBuf,
    node_name: String,
    /// By file.
    known: BTreeMap<PathBuf, (Stamp, Option<Arc<Pod>>)>,
}

impl Folder {
    /// A folder that has not been looked at.
    pub fn new(path: PathBuf, node_name: String) -> Self {
        Self { path, node_name, known: BTreeMap::new() }
    }

    /// Looks; returns the pods there are now.
    pub fn look(&mut self) -> Pods {
        match self.files() {
            Ok(files) => self.take(files),
            // A folder that cannot be read says nothing, least of all that its pods are to end.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                warn!(folder = %self.path.display(), %error, "cannot read the folder of pods");
            }
            Err(_) => self.known.clear(),
        }
        let mut pods: Pods = Vec::new();
        for pod in self.known.values().filter_map(|(_, pod)| pod.clone()) {
            let same = |other: &&Arc<Pod>| name(other) == name(&pod);
            match pods.iter().find(same) {
                Some(_) => warn!(pod = ?name(&pod), "two files describe a pod of this name; the first one counts"),
                None => pods.push(pod),
            }
        }
        pods
    }

    fn files(&self) -> std::io::Result<BTreeMap<PathBuf, Stamp>> {
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(&self.path)? {
            let path = entry?.path();
            let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
            // A file may have gone since it was listed.
            let Ok(found) = std::fs::metadata(&path) else { continue };
            if !hidden && found.is_file() {
                files.insert(path, (found.modified()?, found.len()));
            }
        }
        Ok(files)
    }

    fn take(&mut self, files: BTreeMap<PathBuf, Stamp>) {
        self.known.retain(|path, _| files.contains_key(path));
        for (path, stamp) in files {
            let before = self.known.get(&path);
            if before.is_some_and(|(old, _)| *old == stamp) {
                continue;
            }
            let old = before.and_then(|(_, pod)| pod.clone());
            let pod =
                match read(&path, stamp.1).and_then(|text| parse(&text, &path, &self.node_name, crate::clock::now())) {
                    // The same words are the same pod.
                    Ok(pod) if old.as_ref().is_some_and(|old| old.metadata.uid == pod.metadata.uid) => old,
                    Ok(pod) => Some(Arc::new(pod)),
                    Err(error) => {
                        warn!(file = %path.display(), error, "cannot use a file of the folder of pods");
                        old
                    }
                };
            self.known.insert(path, (stamp, pod));
        }
    }
}

fn name(pod: &Pod) -> (Option<&str>, Option<&str>) {
    (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref())
}

fn read(path: &Path, len: u64) -> Result<Vec<u8>, String> {
    if len > FILE_LEN_MAX {
        return Err(format!("it is larger than {FILE_LEN_MAX} bytes"));
    }
    std::fs::read(path).map_err(|error| error.to_string())
}

/// Looks at the folder again and again until shutdown, and tells when its pods have changed.
pub async fn follow(mut folder: Folder, pods: watch::Sender<Pods>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
        let looked = tokio::task::spawn_blocking(move || {
            let pods = folder.look();
            (folder, pods)
        });
        let Ok((same, now)) = looked.await else { return };
        folder = same;
        pods.send_if_modified(|before| {
            let changed = !before.iter().map(|pod| &pod.metadata.uid).eq(now.iter().map(|pod| &pod.metadata.uid));
            if changed {
                *before = now;
            }
            changed
        });
    }
}

/// The pod that a file describes, as it runs on this node.
fn parse(text: &[u8], file: &Path, node_name: &str, now: Timestamp) -> Result<Pod, String> {
    let mut hash = Sha256::new();
    for part in [text, file.as_os_str().as_encoded_bytes(), node_name.as_bytes()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let uid: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let catalog = Catalog::builtin();
    let resource = catalog.resource("", "v1", "pods").ok_or("pods are not known")?;
    let mut context = engine::Context {
        now,
        new_uid: &uid,
        random_suffix: "",
        manager: "kubelet",
        field_validation: FieldValidation::Ignore,
        dry_run: false,
        warnings: Vec::new(),
        applied: false,
    };
    let wrong = |error: gantry_api::ApiError| error.message;
    let mut object = engine::decode(resource, text, BodyFormat::Yaml, &mut context).map_err(wrong)?;
    let given = object["metadata"]["name"].as_str().filter(|name| !name.is_empty());
    let full = format!("{}-{}", given.ok_or("invalid pod: name is needed for the pod")?, node_name.to_lowercase());
    object["metadata"]["name"] = full.into();
    let namespace = object["metadata"]["namespace"].as_str().filter(|name| !name.is_empty()).unwrap_or("default");
    let namespace = namespace.to_owned();
    object["spec"]["nodeName"] = node_name.into();
    engine::prepare_create(resource, &mut object, Some(&namespace), &mut context).map_err(wrong)?;
    engine::finish_create(resource, &mut object, &mut context).map_err(wrong)?;
    let mut pod: Pod = serde_json::from_value(object).map_err(|error| error.to_string())?;
    pod.metadata.managed_fields = None;
    if let Some(what) = pod.spec.as_ref().and_then(reference) {
        return Err(format!("static pods may not reference {what}"));
    }
    let annotations = pod.metadata.annotations.get_or_insert_default();
    for (key, value) in [
        (ANNOTATION_SOURCE, SOURCE_FILE.to_owned()),
        (ANNOTATION_HASH, uid.clone()),
        (ANNOTATION_SEEN, now.to_string()),
    ] {
        annotations.insert(key.to_owned(), value);
    }
    let spec = pod.spec.get_or_insert_default();
    let stays =
        Toleration { operator: Some("Exists".into()), effect: Some("NoExecute".into()), ..Toleration::default() };
    let tolerations = spec.tolerations.get_or_insert_default();
    if !tolerations.contains(&stays) {
        tolerations.push(stays);
    }
    Ok(pod)
}

/// What a pod refers to that only the API server has: such a pod could not start without it.
fn reference(spec: &PodSpec) -> Option<&'static str> {
    if spec.service_account_name.as_deref().is_some_and(|name| !name.is_empty()) {
        return Some("serviceaccounts");
    }
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        return Some("resourceclaims");
    }
    if spec.image_pull_secrets.as_ref().is_some_and(|secrets| !secrets.is_empty()) {
        return Some("secrets");
    }
    let of_volumes = spec.volumes.iter().flatten().find_map(|volume| {
        let mut sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        let projected = sources.find_map(|source| match source {
            source if source.secret.is_some() => Some("secrets"),
            source if source.config_map.is_some() => Some("configmaps"),
            source if source.service_account_token.is_some() => Some("serviceaccounts"),
            source if source.cluster_trust_bundle.is_some() => Some("clustertrustbundles"),
            _ => None,
        });
        match volume {
            volume if volume.secret.is_some() => Some("secrets"),
            volume if volume.config_map.is_some() => Some("configmaps"),
            volume if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() => {
                Some("persistentvolumeclaims")
            }
            _ => projected,
        }
    });
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    of_volumes.or_else(|| containers.flat_map(container_references).next())
}

fn container_references(container: &k8s_openapi::api::core::v1::Container) -> Option<&'static str> {
    let mut froms = container.env_from.iter().flatten();
    let of_all = froms.find_map(|from| match from {
        from if from.secret_ref.is_some() => Some("secrets"),
        from if from.config_map_ref.is_some() => Some("configmaps"),
        _ => None,
    });
    let mut values = container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
    of_all.or_else(|| {
        values.find_map(|from| match from {
            from if from.secret_key_ref.is_some() => Some("secrets"),
            from if from.config_map_key_ref.is_some() => Some("configmaps"),
            _ => None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nspec:\n  containers: [{name: c, image: 'i:1'}]\n";

    fn names(pods: &Pods) -> Vec<&str> {
        pods.iter().map(|pod| pod.metadata.name.as_deref().unwrap()).collect()
    }

    #[test]
    fn a_file_becomes_a_pod_of_this_node() {
        let at = Timestamp::UNIX_EPOCH;
        let pod = parse(POD.as_bytes(), Path::new("/pods/web.yaml"), "node-1", at).unwrap();
        assert_eq!(name(&pod), (Some("default"), Some("web-node-1")));
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!((spec.node_name.as_deref(), spec.restart_policy.as_deref()), (Some("node-1"), Some("Always")));
        assert_eq!(spec.containers[0].image_pull_policy.as_deref(), Some("IfNotPresent"));
        assert_eq!(spec.tolerations.as_ref().unwrap().last().unwrap().effect.as_deref(), Some("NoExecute"));
        let annotations = pod.metadata.annotations.as_ref().unwrap();
        assert_eq!(annotations[ANNOTATION_SOURCE], "file");
        assert_eq!(Some(&annotations[ANNOTATION_HASH]), pod.metadata.uid.as_ref());
        let again = parse(POD.as_bytes(), Path::new("/pods/web.yaml"), "node-1", Timestamp::now()).unwrap();
        assert_eq!(again.metadata.uid, pod.metadata.uid);
        let other = parse(POD.as_bytes(), Path::new("/pods/other.yaml"), "node-1", at).unwrap();
        assert_ne!(other.metadata.uid, pod.metadata.uid);
    }

    #[test]
    fn what_the_api_server_would_refuse_or_would_be_needed_for_is_refused() {
        let refused = |from: &str, to: &str| {
            let text = POD.replace(from, to);
            parse(text.as_bytes(), Path::new("/f"), "n", Timestamp::UNIX_EPOCH).unwrap_err()
        };
        assert!(refused("name: web", "name: Web_").contains("metadata.name"));
        assert!(refused("name: web,", "").contains("name is needed for the pod"));
        assert!(refused("containers: [{name: c, image: 'i:1'}]", "containers: []").contains("spec.containers"));
        assert!(refused("kind: Pod", "kind: Service").contains("Service"));
        assert!(
            refused("spec:", "spec:\n  serviceAccountName: x")
                .contains("static pods may not reference serviceaccounts")
        );
        assert!(
            refused("spec:", "spec:\n  volumes: [{name: v, secret: {secretName: s}}]")
                .contains("may not reference secrets")
        );
        assert!(
            refused("'i:1'}", "'i:1', envFrom: [{configMapRef: {name: m}}]}").contains("may not reference configmaps")
        );
        assert!(refused("kind: Pod", "kind: [").contains("yaml") || !refused("kind: Pod", "kind: [").is_empty());
    }

    #[test]
    fn the_folder_is_what_runs() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = Folder::new(dir.path().join("pods"), "n".into());
        assert!(folder.look().is_empty(), "there is no folder");
        std::fs::create_dir(dir.path().join("pods")).unwrap();
        let file = |name: &str| dir.path().join("pods").join(name);
        std::fs::write(file("web.yaml"), POD).unwrap();
        std::fs::write(file(".hidden"), POD).unwrap();
        std::fs::write(file("twice.yaml"), POD).unwrap();
        let first = folder.look();
        assert_eq!(names(&first), ["web-n"]);
        std::fs::remove_file(file("twice.yaml")).unwrap();
        std::fs::write(file("db.yaml"), POD.replace("name: web", "name: db")).unwrap();
        let second = folder.look();
        assert_eq!(names(&second), ["db-n", "web-n"]);
        // Half-written, it stays what it was; changed, it is another pod; gone, it is gone.
        std::fs::write(file("web.yaml"), "apiVersion: v1\nkind: Pod\nmeta").unwrap();
        let third = folder.look();
        assert_eq!(third[1].metadata.uid, second[1].metadata.uid);
        std::fs::write(file("web.yaml"), POD.replace("i:1", "image:2")).unwrap();
        let fourth = folder.look();
        assert_ne!(fourth[1].metadata.uid, second[1].metadata.uid);
        std::fs::remove_file(file("web.yaml")).unwrap();
        assert_eq!(names(&folder.look()), ["db-n"]);
    }
}
