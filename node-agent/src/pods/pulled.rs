//! Who may use an image that is already on the node: whoever shows credentials with which it was pulled, and everybody if it came
//! without any or was never pulled here.
//!
//! Before a pull begins it is noted that it does, and when it has ended with which credentials: an image that an agent was pulling
//! when it was killed is nobody's until it is pulled again. The notes are the kubelet's (`ImagePullIntent`, `ImagePulledRecord`) and
//! lie where it has them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::verification::Verification;
use crate::clock::{self, Moment};
use crate::durable;
use crate::runtime::Runtime;
use crate::runtime::oci::hex;

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// No more secrets are noted of one repository for their having been shown: namespaces come and go.
const NOTED_MAX: usize = 100;

/// A pod's secret from which credentials are.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Its UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// A hash of the credentials.
    pub credential_hash: String,
}

impl Source {
    fn is_same_secret(&self, other: &Self) -> bool {
        (&self.uid, &self.namespace, &self.name) == (&other.uid, &other.namespace, &other.name)
    }

    fn vouches_for(&self, other: &Self) -> bool {
        let same_credentials = !self.credential_hash.is_empty() && self.credential_hash == other.credential_hash;
        same_credentials || self.is_same_secret(other)
    }
}

/// Who may use a repository's image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Credentials {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_secrets: Vec<Source>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    node_pods_accessible: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    kind: String,
    api_version: String,
    last_updated_time: Timestamp,
    image_ref: String,
    #[serde(default)]
    credential_mapping: BTreeMap<String, Credentials>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Intent {
    kind: String,
    api_version: String,
    image: String,
}

/// Who may use an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Every pod.
    Anyone,
    /// Pods with one of these.
    Only(Vec<Source>),
}

impl Known {
    /// Whether a pod may use it that has these.
    pub fn lets_in(&self, own: &[Source]) -> bool {
        match self {
            Self::Anyone => true,
            Self::Only(sources) => sources.iter().any(|source| own.iter().any(|own| own.vouches_for(source))),
        }
    }
}

/// How an image was pulled.
#[derive(Clone, Debug)]
pub enum With {
    /// Without credentials.
    Nothing,
    /// With these.
    Credentials(Source),
    /// Nobody knows.
    Unknown,
}

#[derive(Default)]
struct State {
    /// How many pulls are under way, by image.
    under_way: HashMap<String, usize>,
    /// When records were last written, by the runtime's id of the image.
    written_at: HashMap<String, Moment>,
}

/// The notes. Without a folder everybody may use everything.
#[derive(Default)]
pub struct Pulled {
    folder: Option<PathBuf>,
    verification: Verification,
    /// Held while a note is read or written, too: they are small.
    state: Mutex<State>,
    settled: tokio::sync::OnceCell<()>,
}

/// A pull that is under way. If it is given up, what came of it is not known.
pub struct Pull {
    notes: Arc<Pulled>,
    image: String,
}

impl Pulled {
    /// The notes in a folder, and which images they matter to.
    pub fn open(folder: PathBuf, verification: Verification) -> Self {
        Self { folder: Some(folder), verification, ..Self::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, kind: &str, name: &str) -> Option<PathBuf> {
        let hash = hex(&Sha256::digest(name.as_bytes()));
        Some(self.folder.as_ref()?.join(kind).join(format!("sha256-{hash}")))
    }

    fn intent(&self, image: &str) -> Option<PathBuf> {
        self.file("pulling", image)
    }

    fn record(&self, id: &str) -> Option<PathBuf> {
        self.file("pulled", id)
    }

    /// Who may use the image that the runtime has under this id, and which a pod calls so.
    pub fn known(&self, image: &str, repository: &str, id: &str) -> Known {
        let Some((record, intent)) = self.record(id).zip(self.intent(image)) else { return Known::Anyone };
        let state = self.state();
        let record = read::<Record>(&record).map(|record| record.filter(|record| record.image_ref == id));
        let was_pulled = !matches!(record, Ok(None)) || state.under_way.contains_key(image) || intent.exists();
        if !self.verification.asks(repository, was_pulled) {
            return Known::Anyone;
        }
        match record {
            Ok(record) => match record.and_then(|mut record| record.credential_mapping.remove(repository)) {
                Some(credentials) if credentials.node_pods_accessible => Known::Anyone,
                Some(credentials) => Known::Only(credentials.kubernetes_secrets),
                None => Known::Only(Vec::new()),
            },
            Err(error) => {
                warn!(image, %error, "who may use an image cannot be read; it is pulled again");
                Known::Only(Vec::new())
            }
        }
    }

    /// Notes that a pull begins.
    pub fn begin(self: &Arc<Self>, image: &str) -> io::Result<Pull> {
        let mut state = self.state();
        if let Some(file) = self.intent(image) {
            let image = image.to_owned();
            write(&file, &Intent { kind: "ImagePullIntent".into(), api_version: API_VERSION.into(), image })?;
        }
        *state.under_way.entry(image.to_owned()).or_default() += 1;
        drop(state);
        Ok(Pull { notes: self.clone(), image: image.to_owned() })
    }

    /// Notes with what an image was pulled, or what a pod has shown for it that was let in.
    pub fn note(&self, repository: &str, id: &str, with: &With) -> io::Result<()> {
        let Some(file) = self.record(id) else { return Ok(()) };
        let mut state = self.state();
        let before = read::<Record>(&file).ok().flatten().filter(|record| record.image_ref == id);
        let is_new = before.is_none();
        let mut record = before.unwrap_or_else(|| Record {
            kind: "ImagePulledRecord".into(),
            api_version: API_VERSION.into(),
            last_updated_time: clock::now(),
            image_ref: id.to_owned(),
            credential_mapping: BTreeMap::new(),
        });
        if !merge(&mut record.credential_mapping, repository, with) && !is_new {
            return Ok(());
        }
        record.last_updated_time = clock::now();
        state.written_at.insert(id.to_owned(), clock::steady());
        write(&file, &record)
    }

    /// [`Self::note`]s what a pod has shown, unless it is known or there is much of it.
    pub fn note_shown(&self, repository: &str, id: &str, known: &Known, own: &[Source]) {
        let Known::Only(sources) = known else { return };
        let let_in = own.iter().find(|own| sources.iter().any(|source| own.vouches_for(source)));
        let Some(own) = let_in.filter(|own| !sources.contains(own) && sources.len() < NOTED_MAX) else { return };
        if let Err(error) = self.note(repository, id, &With::Credentials(own.clone())) {
            warn!(id, %error, "cannot note who may use an image");
        }
    }

    /// Whether the image of this id was pulled from a repository, and may be used by who has credentials of the hashes that `has` confirms.
    pub fn may_give(&self, repository: &str, id: &str, has: impl Fn(&str) -> bool) -> bool {
        let Some(file) = self.record(id) else { return false };
        let _state = self.state();
        let record = read::<Record>(&file).ok().flatten().filter(|record| record.image_ref == id);
        let credentials = record.and_then(|mut record| record.credential_mapping.remove(repository));
        credentials.is_some_and(|credentials| {
            let mut secrets = credentials.kubernetes_secrets.iter();
            credentials.node_pods_accessible || secrets.any(|source| has(&source.credential_hash))
        })
    }

    /// What an agent before this one was pulling and is here now is nobody's.
    pub async fn settle(&self, runtime: &dyn Runtime, repository: impl Fn(&str) -> String) {
        let settled = self.settled.get_or_try_init(|| async {
            for (file, image) in self.left_behind() {
                let Some(found) = runtime.image(&image).await? else { continue };
                if self.note(&repository(&image), &found.id, &With::Unknown).is_ok()
                    && !self.state().under_way.contains_key(&image)
                {
                    let _ = fs::remove_file(file);
                }
            }
            Ok::<_, crate::runtime::RuntimeError>(())
        });
        if let Err(error) = settled.await {
            // The notes of the pulls are still there, and there is a next time.
            warn!(%error, "cannot see what an agent before this one was pulling");
        }
    }

    fn left_behind(&self) -> Vec<(PathBuf, String)> {
        let Some(folder) = &self.folder else { return Vec::new() };
        let files = files_in(&folder.join("pulling"));
        files.into_iter().filter_map(|file| Some((file.clone(), read::<Intent>(&file).ok()??.image))).collect()
    }

    /// Forgets the images that were not there when the runtime was asked for all of them.
    pub fn keep_only(&self, ids: &HashSet<&str>, asked_at: Moment) {
        let Some(folder) = &self.folder else { return };
        let mut state = self.state();
        for file in files_in(&folder.join("pulled")) {
            let Ok(Some(record)) = read::<Record>(&file) else { continue };
            let young = state.written_at.get(&record.image_ref).is_some_and(|at| *at >= asked_at);
            if !young && !ids.contains(record.image_ref.as_str()) {
                let _ = fs::remove_file(file);
            }
        }
        state.written_at.retain(|id, at| *at >= asked_at || ids.contains(id.as_str()));
    }
}

impl Pull {
    /// The image is there, and was pulled with this.
    pub fn done(self, repository: &str, id: &str, with: &With) {
        match self.notes.note(repository, id, with) {
            Ok(()) => self.strike(),
            // It is still noted that it was being pulled.
            Err(error) => warn!(image = self.image, %error, "cannot note who may use an image"),
        }
    }

    /// The registry did not give it.
    pub fn failed(self) {
        self.strike();
    }

    fn strike(&self) {
        let state = self.notes.state();
        let is_last = state.under_way.get(&self.image).is_none_or(|count| *count <= 1);
        if let (true, Some(file)) = (is_last, self.notes.intent(&self.image))
            && let Err(error) = fs::remove_file(file)
        {
            warn!(image = self.image, %error, "cannot strike the note of a pull");
        }
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        let mut state = self.notes.state();
        if let Some(count) = state.under_way.get_mut(&self.image) {
            *count -= 1;
            if *count == 0 {
                state.under_way.remove(&self.image);
            }
        }
    }
}

/// Adds to who may use a repository's image; whether that changes anything.
fn merge(mapping: &mut BTreeMap<String, Credentials>, repository: &str, with: &With) -> bool {
    let before = mapping.get(repository).cloned().unwrap_or_default();
    let after = match with {
        With::Unknown => return false,
        // What is everybody's needs no list.
        With::Nothing => Credentials { node_pods_accessible: true, kubernetes_secrets: Vec::new() },
        With::Credentials(_) if before.node_pods_accessible => return false,
        With::Credentials(source) => {
            let mut sources = before.kubernetes_secrets.clone();
            sources.retain(|other| !other.is_same_secret(source));
            sources.push(source.clone());
            sources.sort();
            Credentials { kubernetes_secrets: sources, node_pods_accessible: false }
        }
    };
    let changes = after != before;
    mapping.insert(repository.to_owned(), after);
    changes
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let whole = |path: &PathBuf| path.extension().is_none();
    files.map(|file| file.path()).filter(whole).collect()
}

fn read<T: DeserializeOwned>(file: &Path) -> io::Result<Option<T>> {
    match fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(file: &Path, note: &impl Serialize) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    durable::replace(file, &serde_json::to_vec(note)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::simulated::Simulated;

    fn source(uid: &str, hash: &str) -> Source {
        Source { uid: uid.into(), namespace: "ns".into(), name: "pull".into(), credential_hash: hash.into() }
    }

    fn open(folder: &Path) -> Pulled {
        Pulled::open(folder.to_owned(), Verification::default())
    }

    fn with(source: Source) -> With {
        With::Credentials(source)
    }

    const IMAGE: (&str, &str, &str) = ("r.example/app:1", "r.example/app", "sha256:1");

    fn lets_in(notes: &Pulled, own: &[Source]) -> bool {
        notes.known(IMAGE.0, IMAGE.1, IMAGE.2).lets_in(own)
    }

    #[test]
    fn an_image_is_for_those_who_have_what_it_was_pulled_with() {
        let dir = tempfile::tempdir().unwrap();
        let notes = Arc::new(open(dir.path()));
        assert!(lets_in(&notes, &[]), "never pulled");
        let pull = notes.begin(IMAGE.0).unwrap();
        assert!(!lets_in(&notes, &[source("1", "a")]), "it may be the one that is just being pulled");
        pull.done(IMAGE.1, IMAGE.2, &with(source("1", "a")));
        for (own, expected) in [
            (vec![], false),
            (vec![source("1", "a")], true),
            // Another secret with the same password, and the same secret with another.
            (vec![source("2", "a")], true),
            (vec![source("2", "b"), source("1", "b")], true),
            (vec![source("2", "b"), source("3", "")], false),
        ] {
            // An agent that begins anew finds the same.
            for notes in [&*notes, &open(dir.path())] {
                assert_eq!(lets_in(notes, &own), expected, "{own:?}");
            }
        }
        assert_eq!(
            notes.known(IMAGE.0, "other.example/app", IMAGE.2),
            Known::Only(Vec::new()),
            "the same by another name"
        );
        notes.begin(IMAGE.0).unwrap().done(IMAGE.1, IMAGE.2, &With::Nothing);
        notes.begin(IMAGE.0).unwrap().done(IMAGE.1, IMAGE.2, &with(source("1", "a")));
        assert!(lets_in(&notes, &[]), "whoever asks gets it without");
        assert!(Pulled::default().known(IMAGE.0, IMAGE.1, IMAGE.2).lets_in(&[]));
    }

    #[test]
    fn other_nodes_are_given_what_they_may_have() {
        let dir = tempfile::tempdir().unwrap();
        let notes = Arc::new(open(dir.path()));
        let may_give = |hashes: &[&str]| notes.may_give(IMAGE.1, IMAGE.2, |hash| hashes.contains(&hash));
        assert!(!may_give(&["a"]), "never pulled");
        notes.begin(IMAGE.0).unwrap().done(IMAGE.1, IMAGE.2, &with(source("1", "a")));
        assert!(!may_give(&[]) && !may_give(&["b"]) && may_give(&["b", "a"]));
        assert!(!notes.may_give("other.example/app", IMAGE.2, |_| true), "the same by another name");
        notes.begin(IMAGE.0).unwrap().done(IMAGE.1, IMAGE.2, &With::Nothing);
        assert!(may_give(&[]));
        fs::write(notes.record(IMAGE.2).unwrap(), "{").unwrap();
        assert!(!may_give(&["a"]));
        assert!(!Pulled::default().may_give(IMAGE.1, IMAGE.2, |_| true));
    }

    #[test]
    fn the_nodes_policy_says_which_images_need_credentials() {
        let dir = tempfile::tempdir().unwrap();
        let [lax, strict] = ["NeverVerify", "AlwaysVerify"]
            .map(|name| Pulled::open(dir.path().to_owned(), Verification::of(name, &[]).unwrap()));
        assert!(lets_in(&lax, &[]) && !lets_in(&strict, &[]), "it came with the node");
        strict.note(IMAGE.1, IMAGE.2, &with(source("1", "a"))).unwrap();
        assert!(lets_in(&lax, &[]));
        assert!(!lets_in(&strict, &[]) && lets_in(&strict, &[source("1", "a")]));
        strict.note(IMAGE.1, IMAGE.2, &With::Nothing).unwrap();
        assert!(lets_in(&strict, &[]), "whoever asks gets it without");
        // What nobody can read matters to nobody who does not ask.
        fs::write(strict.record(IMAGE.2).unwrap(), "{").unwrap();
        assert!(lets_in(&lax, &[]) && !lets_in(&strict, &[]));
    }

    #[test]
    fn what_was_shown_is_shown_again() {
        let dir = tempfile::tempdir().unwrap();
        let notes = open(dir.path());
        notes.note(IMAGE.1, IMAGE.2, &with(source("1", "a"))).unwrap();
        let show = |own: Source| notes.note_shown(IMAGE.1, IMAGE.2, &notes.known(IMAGE.0, IMAGE.1, IMAGE.2), &[own]);
        show(source("2", "a"));
        // The other secret has a new password now.
        assert!(lets_in(&notes, &[source("2", "b")]) && !lets_in(&notes, &[source("3", "b")]));
        show(source("2", "b"));
        assert!(lets_in(&notes, &[source("3", "b")]));
        show(source("4", "c"));
        assert!(!lets_in(&notes, &[source("5", "c")]), "it was not let in");
    }

    #[test]
    fn a_pull_that_failed_leaves_nothing_and_one_that_was_given_up_its_note() {
        let dir = tempfile::tempdir().unwrap();
        let notes = Arc::new(open(dir.path()));
        let (one, two) = (notes.begin(IMAGE.0).unwrap(), notes.begin(IMAGE.0).unwrap());
        one.failed();
        assert!(!lets_in(&notes, &[]), "the other goes on");
        two.failed();
        assert!(lets_in(&notes, &[]));
        drop(notes.begin(IMAGE.0).unwrap());
        assert!(!lets_in(&notes, &[]));
        // Half a note lets nobody in.
        notes.note(IMAGE.1, IMAGE.2, &With::Nothing).unwrap();
        assert!(lets_in(&notes, &[]));
        fs::write(notes.record(IMAGE.2).unwrap(), "{").unwrap();
        assert!(!lets_in(&notes, &[source("1", "a")]));
    }

    #[tokio::test]
    async fn what_a_killed_agent_was_pulling_is_nobodys_by_any_name() {
        let dir = tempfile::tempdir().unwrap();
        let before = Arc::new(open(dir.path()));
        std::mem::forget(before.begin(IMAGE.0).unwrap());
        std::mem::forget(before.begin("r.example/absent:1").unwrap());
        let (runtime, notes) = (Simulated::default(), open(dir.path()));
        runtime.add_image(IMAGE.0);
        let id = runtime.image(IMAGE.0).await.unwrap().unwrap().id;
        notes.settle(&runtime, |image| image.split(':').next().unwrap_or_default().to_owned()).await;
        assert_eq!(notes.known("r.example/app@sha256:1", IMAGE.1, &id), Known::Only(Vec::new()));
        let left: Vec<_> = notes.left_behind().into_iter().map(|(_, image)| image).collect();
        assert_eq!(left, ["r.example/absent:1"]);
    }

    #[test]
    fn an_image_that_is_gone_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let notes = open(dir.path());
        let asked_at = clock::steady();
        notes.note(IMAGE.1, IMAGE.2, &with(source("1", "a"))).unwrap();
        notes.keep_only(&HashSet::new(), asked_at);
        assert!(!lets_in(&notes, &[]), "it came when the runtime had been asked");
        let later = asked_at.after(std::time::Duration::from_secs(60));
        notes.keep_only(&HashSet::from([IMAGE.2]), later);
        assert!(!lets_in(&notes, &[]));
        notes.keep_only(&HashSet::new(), later);
        assert!(lets_in(&notes, &[]));
    }
}
