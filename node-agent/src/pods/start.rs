//! Makes and starts one container.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::time::Instant;

use super::act::{Change, Task};
use super::config::{self, ContainerInputs};
use super::context::Context;
use super::env;
use super::events;
use super::fields::Surroundings;
use super::memory::Waiting;
use super::plan::{latest, live_sandbox, restarts_of_next};
use super::{images, spec, volumes};
use crate::Paths;
use crate::checkpoint::{Key, Kind};
use crate::clock::{self, Moment};
use crate::runtime::{
    ContainerConfig, ContainerState, ImageRecord, Mount, MountPropagation, NamespaceMode, PodRecord, RuntimeError,
    SandboxRecord,
};

/// How long a postStart hook may take; Kubernetes has no limit, a lost runtime call must have one.
const POST_START_MAX: Duration = Duration::from_secs(3600);
/// A container must see objects no older than this, or than its pod.
const FRESH: Duration = Duration::from_secs(1);

/// Makes and starts the container `name` as instance `attempt`.
pub async fn container(task: &Task, name: &str, attempt: u32, after_failure: Option<Moment>) -> Vec<Change> {
    let Some(found) = Found::new(task, name) else { return Vec::new() };
    let Some(sandbox) = live_sandbox(&task.pod, &task.record) else { return Vec::new() };
    let failed = |waiting: Waiting, retry_at, counts_after| {
        vec![Change::StartFailed { name: name.to_owned(), waiting, retry_at, counts_after }]
    };
    if after_failure.is_some() {
        let who = spec::identity(&task.pod);
        tracing::debug!(container = name, pod = %spec::full_name(&who), attempt, "restarting");
    }
    let ensured = tokio::select! {
        () = task.cancel.cancelled() => return Vec::new(),
        ensured = ensure_images(task, &found.spec) => ensured,
    };
    let (image, image_ref) = match ensured {
        Ok(image) => image,
        Err(missing) => return failed(missing.waiting, Some(missing.retry_at), None),
    };
    let tell = |kind, reason, message: String| task.context.events.container(&task.pod, name, kind, reason, message);
    let made = match prepare(task, &found, sandbox, attempt, &image, image_ref).await {
        Ok(made) => made,
        Err(message) => {
            tell(events::Kind::Warning, "Failed", format!("Error: {message}"));
            return failed(Waiting { reason: "CreateContainerConfigError".into(), message }, None, None);
        }
    };
    let sandbox_config = config::sandbox(&task.pod, sandbox.attempt, &task.context.settings, &task.context.paths);
    let runtime = &task.context.runtime;
    let Ok(slot) = task.context.start_slots.acquire().await else { return Vec::new() };
    let began = Instant::now();
    let created = runtime.create_container(&sandbox.id, &made, &sandbox_config).await;
    task.context.metrics.observe("create_container", began.elapsed(), created.is_ok());
    let id = match created {
        Ok(id) => id,
        Err(error) => {
            tell(events::Kind::Warning, "Failed", format!("Error: {error}"));
            let waiting = Waiting { reason: "CreateContainerError".into(), message: error.to_string() };
            return failed(waiting, None, None);
        }
    };
    tell(events::Kind::Normal, "Created", "Container created".into());
    let note = Note::open(&task.context.paths.starting(&spec::identity(&task.pod).uid), &id).await;
    let began = Instant::now();
    let started = runtime.start_container(&id).await;
    note.strike().await;
    task.context.metrics.observe("start_container", began.elapsed(), started.is_ok());
    drop(slot);
    if let Err(error) = started {
        tell(events::Kind::Warning, "Failed", format!("Error: {error}"));
        let waiting = Waiting { reason: "RunContainerError".into(), message: error.to_string() };
        // It exists, and has ended: the usual restart back-off delays the next instance.
        let retry_at = matches!(error, RuntimeError::RunContainer(_)).then(clock::steady);
        return failed(waiting, retry_at, after_failure);
    }
    tell(events::Kind::Normal, "Started", "Container started".into());
    let mut changes = vec![Change::Started { name: name.to_owned(), after_failure }];
    changes.extend(post_start(task, &found.spec, &id).await);
    changes
}

/// The image of a container, and those that it mounts.
async fn ensure_images(task: &Task, container: &Container) -> Result<(ImageRecord, String), images::Missing> {
    volumes::image::make(&task.context, &task.pod, container).await?;
    images::ensure(&task.context, &task.pod, &images::Wanted::of(container)).await
}

/// The container to be started.
struct Found {
    spec: Container,
    /// The container whose processes it sees.
    target: Option<String>,
}

impl Found {
    fn new(task: &Task, name: &str) -> Option<Self> {
        if let Some(found) = spec::container(&task.pod, name) {
            return Some(Self { spec: found.spec.clone(), target: None });
        }
        let mut ephemeral = spec::ephemeral_containers(&task.pod).into_iter();
        let found = ephemeral.find(|ephemeral| ephemeral.container.name == name)?;
        Some(Self { spec: found.container, target: found.target })
    }

    /// The runtime's id of the container whose processes it sees.
    fn target_id(&self, record: &PodRecord) -> Result<Option<String>, String> {
        let Some(target) = &self.target else { return Ok(None) };
        let running = latest(record, target).filter(|container| container.state == ContainerState::Running);
        let missing = || format!("unable to find target container \"{target}\"");
        running.map(|container| Some(container.id.clone())).ok_or_else(missing)
    }
}

/// A file that is there while a container is being started. One that an agent finds at its own start tells of a start that
/// its predecessor did not see the end of: the call was cancelled with it.
struct Note(Option<PathBuf>);

impl Note {
    async fn open(dir: &Path, id: &str) -> Self {
        let file = dir.join(id);
        let write = async {
            tokio::fs::create_dir_all(dir).await?;
            tokio::fs::write(&file, "").await
        };
        if let Err(error) = write.await {
            tracing::warn!(file = %file.display(), %error, "cannot note the start of a container");
            return Self(None);
        }
        Self(Some(file))
    }

    async fn strike(self) {
        if let Some(file) = self.0
            && let Err(error) = tokio::fs::remove_file(&file).await
        {
            tracing::warn!(file = %file.display(), %error, "cannot strike the note of a container's start");
        }
    }
}

/// Tells what the runtime cannot: a container that ended because nobody waited for its start any more never ran, though the
/// runtime calls that its end. It is as it was when it was made.
pub async fn undo_interrupted(record: &mut PodRecord, paths: &Paths) {
    let dir = paths.starting(&record.pod.uid);
    for container in &mut record.containers {
        let did_not_start = container.state == ContainerState::Exited && container.started_at.is_none();
        if did_not_start && tokio::fs::try_exists(dir.join(&container.id)).await.unwrap_or(false) {
            container.state = ContainerState::Created;
        }
    }
}

async fn post_start(task: &Task, container: &Container, id: &str) -> Option<Change> {
    let hook = container.lifecycle.as_ref()?.post_start.as_ref()?;
    let result = tokio::select! {
        () = task.cancel.cancelled() => return None,
        result = task.hook(&container.name, id, hook, POST_START_MAX) => result,
    };
    let error = result.err()?;
    let message = format!("PostStartHook failed: {error}");
    task.context.events.container(&task.pod, &container.name, events::Kind::Warning, "FailedPostStartHook", message);
    Some(Change::Condemned { id: id.to_owned(), message: "FailedPostStartHook".into() })
}

async fn prepare(
    task: &Task,
    found: &Found,
    sandbox: &SandboxRecord,
    attempt: u32,
    image: &ImageRecord,
    image_ref: String,
) -> Result<ContainerConfig, String> {
    let container = &found.spec;
    let target = found.target_id(&task.record)?;
    let context = &task.context;
    let who = spec::identity(&task.pod);
    let now = Instant::now();
    let fresh = now.checked_sub(FRESH).unwrap_or(now).max(task.fresh_since);
    let referred = volumes::refer(&context.objects, &who.namespace, env::references(container), fresh).await;
    let referred = referred.map_err(|error| error.to_string())?;
    let services = service_variables(context, &task.pod).await;
    let around = Surroundings {
        host_ips: &context.host_ips,
        pod_ips: &sandbox.ips,
        node_name: &context.node_name,
        allocatable: &context.allocatable,
    };
    let mut extras = context.devices.for_container(&task.pod, container).await?;
    let mut env = std::mem::take(&mut extras.env);
    env.extend(env::environment(&task.pod, container, &around, &referred, &services)?);
    let dir = context.paths.pod(&who.uid);
    let termination_file = dir.join("containers").join(&container.name).join(attempt.to_string());
    let hosts = dir.join("etc-hosts");
    let node_hosts = match spec::host_network(&task.pod) {
        true => Some(tokio::fs::read_to_string("/etc/hosts").await.unwrap_or_default()),
        false => None,
    };
    let text = config::hosts_file(&task.pod, &sandbox.ips, node_hosts.as_deref(), &context.settings.cluster_domain);
    let (paths, pod, own) = (context.paths.clone(), task.pod.clone(), container.clone());
    let (files, variables) = ((hosts.clone(), termination_file.clone()), env.clone());
    let mounts = tokio::task::spawn_blocking(move || {
        let failed = |error: std::io::Error| error.to_string();
        write_files(&files.0, &text, &files.1).map_err(failed)?;
        let mounts = volumes::mounts(&paths, &pod, &own, &variables)?;
        Ok::<_, String>((mounts, volumes::devices(&paths, &pod, &own)?))
    });
    let (of_volumes, devices) = mounts.await.map_err(|error| error.to_string())??;
    let mut mounts = std::mem::take(&mut extras.mounts);
    mounts.extend(of_volumes);
    extras.devices.extend(devices);
    add_own(&mut mounts, "/etc/hosts", hosts);
    let message_path = container.termination_message_path.as_deref().filter(|path| !path.is_empty());
    add_own(&mut mounts, message_path.unwrap_or("/dev/termination-log"), termination_file.clone());
    let restarts = restarts_of_next(&task.record, &container.name, attempt);
    let inputs = ContainerInputs {
        attempt,
        restarts,
        image,
        image_ref,
        env,
        mounts,
        extras,
        termination_file: &termination_file,
    };
    let mut made = config::container(&task.pod, container, &context.settings, inputs)?;
    if made.namespaces.pid == NamespaceMode::Container {
        made.processes_of = target;
    }
    Ok(made)
}

/// The variables of the services that the pod sees: as they are, or before they are known, as they last were.
async fn service_variables(context: &Context, pod: &Pod) -> BTreeMap<String, String> {
    let key = Key::cluster(Kind::Services, &spec::identity(pod).uid);
    let known = context.services.wait_until_ready().now_or_never().is_some();
    if !known && let Some(kept) = context.checkpoint.find(&key).await {
        return kept;
    }
    let services = context.services.state();
    let variables = env::service_variables(pod, services.iter().map(AsRef::as_ref));
    if known {
        context.checkpoint.keep(key, &variables);
    }
    variables
}

/// The agent's own mounts give way to the pod's.
fn add_own(mounts: &mut Vec<Mount>, container_path: &str, host_path: PathBuf) {
    let container_path = PathBuf::from(container_path);
    if mounts.iter().any(|mount| mount.container_path == container_path) {
        return;
    }
    mounts.push(Mount { container_path, host_path, read_only: false, propagation: MountPropagation::None });
}

fn write_files(hosts: &Path, text: &str, termination_file: &Path) -> std::io::Result<()> {
    if let Some(parent) = termination_file.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // Written in place: containers of the pod have this very file mounted.
    if std::fs::read_to_string(hosts).ok().as_deref() != Some(text) {
        std::fs::write(hosts, text)?;
        volumes::sys::set_mode(hosts, 0o644)?;
    }
    std::fs::File::create(termination_file)?;
    // Any user of the container may leave its last words.
    volumes::sys::set_mode(termination_file, 0o666)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::pods::tests::plans::container;
    use crate::runtime::PodIdentity;

    #[tokio::test]
    async fn a_start_that_its_agent_did_not_see_the_end_of_did_not_happen() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let ended = |name: &str, started_at| {
            let mut record = container(name, 0, ContainerState::Exited, 128);
            record.started_at = started_at;
            record
        };
        let mut record = PodRecord {
            pod: PodIdentity { uid: "u".to_owned(), ..PodIdentity::default() },
            containers: vec![ended("cut-off", None), ended("ran", Some(Timestamp::UNIX_EPOCH)), ended("refused", None)],
            ..PodRecord::default()
        };
        for id in ["cut-off0", "ran0", "refused0"] {
            let note = Note::open(&paths.starting("u"), id).await;
            if id == "refused0" {
                note.strike().await;
            }
        }
        undo_interrupted(&mut record, &paths).await;
        let states: Vec<_> = record.containers.iter().map(|container| container.state).collect();
        assert_eq!(states, [ContainerState::Created, ContainerState::Exited, ContainerState::Exited]);
    }
}
