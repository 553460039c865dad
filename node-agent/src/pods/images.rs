//! Sees that a container's image is on the node before the container is made: pull policies, credentials, back-off.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Pod};

use super::backoff::{BackOff, RESTART_BASE, RESTART_MAX, go_duration};
use super::context::Context;
use super::events::Kind;
use super::keyring::{Credentials, Keyring, keyring, repository};
use super::memory::Waiting;
use super::pulled::{Known, Pulled, With};
use super::verification::Verification;
use crate::clock::Moment;
use crate::runtime::{ImageRecord, RuntimeError};

/// Why an image cannot be used now.
#[derive(Clone, Debug)]
pub struct Missing {
    /// What the container's status says.
    pub waiting: Waiting,
    /// When to try again.
    pub retry_at: Moment,
}

/// Pulls that failed, by pod and image.
struct Failures {
    back_off: BackOff,
    last: HashMap<String, (Moment, String)>,
}

/// Pull back-off, and who may use what was pulled.
pub struct Images {
    failures: Mutex<Failures>,
    pulled: Arc<Pulled>,
}

impl Default for Images {
    fn default() -> Self {
        let back_off = BackOff::new(RESTART_BASE, RESTART_MAX);
        Self { failures: Mutex::new(Failures { back_off, last: HashMap::new() }), pulled: Arc::default() }
    }
}

impl Images {
    /// With notes in a folder of who may use what, and for which images that matters. Without them everybody may use everything.
    pub fn open(folder: PathBuf, verification: Verification) -> Self {
        Self { pulled: Arc::new(Pulled::open(folder, verification)), ..Self::default() }
    }

    /// The notes of who may use what was pulled.
    pub fn pulled(&self) -> Arc<Pulled> {
        self.pulled.clone()
    }

    /// Forgets the images that were not there when the runtime was asked for all of them.
    pub async fn keep_only(&self, images: &[ImageRecord], asked_at: Moment) {
        let ids: Vec<String> = images.iter().map(|image| image.id.clone()).collect();
        self.with_notes(move |notes| notes.keep_only(&ids.iter().map(String::as_str).collect(), asked_at)).await;
    }

    async fn with_notes<T: Send + 'static>(&self, work: impl FnOnce(&Arc<Pulled>) -> T + Send + 'static) -> Option<T> {
        let notes = self.pulled.clone();
        tokio::task::spawn_blocking(move || work(&notes)).await.ok()
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until when pulling is pointless, and how the last attempt failed.
    fn back_off(&self, key: &str, now: Moment) -> Option<(Moment, String)> {
        let failures = self.failures();
        let (at, error) = failures.last.get(key)?;
        failures.back_off.until(key, *at, now).map(|until| (until, error.clone()))
    }

    fn note_failure(&self, key: &str, now: Moment, error: String) {
        let mut failures = self.failures();
        failures.back_off.bump(key, now, now);
        failures.last.insert(key.to_owned(), (now, error));
    }

    fn note_success(&self, key: &str) {
        let mut failures = self.failures();
        failures.back_off.reset(key);
        failures.last.remove(key);
    }

    /// Forgets what was noted for a pod.
    pub fn forget(&self, uid: &str) {
        let mut failures = self.failures();
        let of_pod = |key: &String| key.split('_').next() == Some(uid);
        let keys: Vec<String> = failures.last.keys().filter(|key| of_pod(key)).cloned().collect();
        for key in keys {
            failures.back_off.reset(&key);
            failures.last.remove(&key);
        }
    }
}

/// An image that somebody wants to be on the node.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Its reference.
    pub image: &'a str,
    /// The pull policy, if one is named.
    pub policy: Option<&'a str>,
    /// The container that is to run it; none if it is a volume.
    pub container: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    /// The image of a container.
    pub fn of(container: &'a Container) -> Self {
        Self {
            image: container.image.as_deref().unwrap_or_default(),
            policy: container.image_pull_policy.as_deref(),
            container: Some(&container.name),
        }
    }

    fn tell(&self, context: &Context, pod: &Pod, kind: Kind, reason: &'static str, message: String) {
        match self.container {
            Some(name) => context.events.container(pod, name, kind, reason, message),
            None => context.events.pod(pod, kind, reason, message),
        }
    }
}

/// The pull policy, defaulted by the tag as Kubernetes does.
fn policy<'a>(wanted: &Wanted<'a>) -> &'a str {
    match wanted.policy {
        Some(policy) if !policy.is_empty() => policy,
        _ if tag(wanted.image).is_none_or(|tag| tag == "latest") => "Always",
        _ => "IfNotPresent",
    }
}

/// The tag of a reference; a digest counts as one.
fn tag(image: &str) -> Option<&str> {
    if let Some((_, digest)) = image.split_once('@') {
        return Some(digest);
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    name.split_once(':').map(|(_, tag)| tag)
}

/// Whether a reference is one: `[host[:port]/]path[:tag][@digest]`.
fn parse(image: &str) -> Result<(), &'static str> {
    const INVALID: &str = "invalid reference format";
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let hex = |text: &str| text.len() >= 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digest.is_some_and(|digest| {
        !digest.split_once(':').is_some_and(|(algorithm, text)| !algorithm.is_empty() && hex(text))
    }) {
        return Err(INVALID);
    }
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    };
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let tag_ok = |tag: &str| {
        tag.len() <= 128
            && tag.bytes().next().is_some_and(word)
            && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
    };
    if tag.is_some_and(|tag| !tag_ok(tag)) {
        return Err(INVALID);
    }
    let path = match path.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => {
            let host_ok = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
            if !host.bytes().all(host_ok) {
                return Err(INVALID);
            }
            path
        }
        _ => path,
    };
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("invalid reference format: repository name must be lowercase");
    }
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let component_ok = |component: &str| {
        edge(component.bytes().next())
            && edge(component.bytes().next_back())
            && component.bytes().all(|byte| edge(Some(byte)) || b"._-".contains(&byte))
    };
    if path.split('/').all(component_ok) { Ok(()) } else { Err(INVALID) }
}

/// Returns an image that a pod wants, pulling it if its policy says so, and the reference to run.
pub async fn ensure(context: &Context, pod: &Pod, wanted: &Wanted<'_>) -> Result<(ImageRecord, String), Missing> {
    let image = wanted.image;
    let policy = policy(wanted);
    let tell = |kind, reason, message: String| wanted.tell(context, pod, kind, reason, message);
    let now = crate::clock::steady();
    let soon = now.after(RESTART_BASE);
    let missing = |reason: &str, message: String, retry_at| Missing {
        waiting: Waiting { reason: reason.into(), message },
        retry_at,
    };
    if let Err(error) = parse(image) {
        let message =
            format!("Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": {error}");
        tell(Kind::Warning, "InspectFailed", message.clone());
        return Err(missing("InvalidImageName", message, soon));
    }
    let present = match context.runtime.image(image).await {
        Ok(present) => present,
        Err(error) => {
            let message = format!("Failed to inspect image \"{image}\": {error}");
            tell(Kind::Warning, "InspectFailed", message.clone());
            return Err(missing("ImageInspectError", message, soon));
        }
    };
    match (present, policy) {
        (Some(record), "IfNotPresent" | "Never") if may_use(context, pod, image, &record.id).await => {
            let message =
                format!("Container image \"{image}\" already present on machine and can be accessed by the pod");
            tell(Kind::Normal, "Pulled", message);
            let reference = record.id.clone();
            return Ok((record, reference));
        }
        // One that the pod may not use is to it as if it were not there.
        (_, "Never") => {
            let message = format!("Container image \"{image}\" is not present with pull policy of Never");
            tell(Kind::Warning, "ErrImageNeverPull", message.clone());
            return Err(missing("ErrImageNeverPull", message, soon));
        }
        _ => {}
    }
    let key = format!("{}_{image}", pod.metadata.uid.as_deref().unwrap_or_default());
    if let Some((until, error)) = context.images.back_off(&key, now) {
        let message = format!("Back-off pulling image \"{image}\"");
        tell(Kind::Normal, "BackOff", message.clone());
        tell(Kind::Warning, "Failed", "Error: ImagePullBackOff".into());
        return Err(missing("ImagePullBackOff", format!("{message}: ErrImagePull: {error}"), until));
    }
    tell(Kind::Normal, "Pulling", format!("Pulling image \"{image}\""));
    pull(context, pod, wanted, &key).await
}

async fn pull(context: &Context, pod: &Pod, wanted: &Wanted<'_>, key: &str) -> Result<(ImageRecord, String), Missing> {
    let image = wanted.image;
    let tell = |kind, reason, message: String| wanted.tell(context, pod, kind, reason, message);
    let started = Instant::now();
    let (keys, missing) = keyring(context, pod).await;
    if !missing.is_empty() {
        let message = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            missing.join(", ")
        );
        context.events.pod(pod, Kind::Warning, "FailedToRetrieveImagePullSecret", message);
    }
    let pulled = pull_noted(context, image, &keys).await;
    match pulled {
        Ok((record, reference)) => {
            context.images.note_success(key);
            let took = go_duration(Duration::from_millis(u64::try_from(started.elapsed().as_millis()).unwrap_or(0)));
            let size = record.size_bytes;
            tell(
                Kind::Normal,
                "Pulled",
                format!(
                    "Successfully pulled image \"{image}\" in {took} ({took} including waiting). Image size: {size} bytes."
                ),
            );
            Ok((record, reference))
        }
        Err(error) => {
            tell(Kind::Warning, "Failed", format!("Failed to pull image \"{image}\": {error}"));
            tell(Kind::Warning, "Failed", "Error: ErrImagePull".into());
            let invalid = matches!(error, RuntimeError::InvalidImageName(_));
            let error = error.to_string();
            let now = crate::clock::steady();
            context.images.note_failure(key, now, error.clone());
            // Soon, but only to say ImagePullBackOff until the back-off is over.
            let retry_at = now.after(Duration::from_secs(1));
            let reason = if invalid { "InvalidImageName" } else { "ErrImagePull" };
            Err(Missing { waiting: Waiting { reason: reason.into(), message: error }, retry_at })
        }
    }
}

/// Whether a pod may use an image that is here. Its secrets are asked for only if that matters.
async fn may_use(context: &Context, pod: &Pod, image: &str, id: &str) -> bool {
    let images = &context.images;
    images.pulled.settle(&*context.runtime, repository).await;
    let (name, repository, id) = (image.to_owned(), repository(image), id.to_owned());
    let (of, asked) = (repository.clone(), id.clone());
    let known = images.with_notes(move |notes| notes.known(&name, &of, &asked)).await;
    let Some(known) = known else { return false };
    if matches!(&known, Known::Anyone) {
        return true;
    }
    let (keys, _) = keyring(context, pod).await;
    let own: Vec<_> = keys.of(image).into_iter().map(|credentials| credentials.source).collect();
    let lets_in = known.lets_in(&own);
    if lets_in {
        images.with_notes(move |notes| notes.note_shown(&repository, &id, &known, &own)).await;
    }
    lets_in
}

/// Pulls an image, and notes with which credentials.
async fn pull_noted(context: &Context, image: &str, keys: &Keyring) -> Result<(ImageRecord, String), RuntimeError> {
    let (name, images) = (image.to_owned(), &context.images);
    let begun = images.with_notes(move |notes| notes.begin(&name)).await;
    let not_noted = |error: String| RuntimeError::Failed(format!("failed to record image pull intent: {error}"));
    let begun = begun.ok_or_else(|| not_noted("the agent is stopping".into()))?;
    let note = begun.map_err(|error| not_noted(error.to_string()))?;
    let pulled = match pull_with(context, image, keys).await {
        Ok((reference, with)) => match context.runtime.image(&reference).await {
            Ok(Some(record)) => Ok((record, reference, with)),
            Ok(None) => Err(RuntimeError::ImageNotFound(format!("image \"{image}\" is gone after it was pulled"))),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    match pulled {
        Ok((record, reference, with)) => {
            let (of, id) = (repository(image), record.id.clone());
            images.with_notes(move |_| note.done(&of, &id, &with)).await;
            Ok((record, reference))
        }
        Err(error) => {
            images.with_notes(move |_| note.failed()).await;
            Err(error)
        }
    }
}

/// Pulls an image with each of the credentials that are for it, until one is good; with none if there are none.
async fn pull_with(context: &Context, image: &str, keys: &Keyring) -> Result<(String, With), RuntimeError> {
    let fitting = keys.of(image);
    let pull = |credentials: Option<Credentials>| async {
        let hash = credentials.as_ref().map(|credentials| credentials.source.credential_hash.as_str());
        let _from_peers = context.peers.pulling(image, hash).await;
        let pulled =
            context.runtime.pull_image(image, credentials.as_ref().map(|credentials| &credentials.auth)).await?;
        let with = credentials.map_or(With::Nothing, |credentials| With::Credentials(credentials.source));
        Ok((pulled, with))
    };
    let Some((last, others)) = fitting.split_last() else { return pull(None).await };
    for credentials in others {
        match pull(Some(credentials.clone())).await {
            // What is wrong with the name is wrong with it for everybody.
            Err(error) if !matches!(error, RuntimeError::InvalidImageName(_)) => {
                tracing::debug!(%error, image, "these credentials did not do; there are more");
            }
            other => return other,
        }
    }
    pull(Some(last.clone())).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_follow_tags() {
        for (image, expected) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:0", "IfNotPresent"),
        ] {
            let container = Container { image: Some(image.into()), ..Container::default() };
            assert_eq!(policy(&Wanted::of(&container)), expected, "{image}");
        }
    }

    #[test]
    fn references_are_checked() {
        for good in
            ["nginx", "a/b_c/d-e.f:1.2-x", "localhost:5000/a@sha256:0123456789abcdef0123456789abcdef", "r.example/A:1"]
        {
            assert_eq!(parse(good).is_ok(), !good.contains('A'), "{good}");
        }
        for bad in ["", "UPPER/x", "a::b", "a:b c", "-a", "a//b", "a@sha256:xyz"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
