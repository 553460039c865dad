//! Brings the parts of the agent up in order and winds them down again.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Service;
use kube::runtime::{reflector, watcher};
use kube::{Api, Client};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::checkpoint::Checkpoint;
use crate::csi::{self, Drivers};
use crate::devices::{self, Devices};
use crate::follow::follow;
use crate::node::{self, Keeper, lease, machine};
use crate::peers::{Offer, Peers};
use crate::pods::config::{NodeSettings, parse_resolv_conf};
use crate::pods::context::Context;
use crate::pods::events::Recorder;
use crate::pods::volumes::claims::InUse;
use crate::pods::{Images, Manager, Objects, PodDirectory, Tokens, files, rotation};
use crate::pressure::{self, Pressure};
use crate::runtime::instance::Instance;
use crate::runtime::{Runtime, images};
use crate::server::{self, ServerContext};
use crate::shutdown;
use crate::stats::Collector;
use crate::{Error, Metrics, Options, Paths, RuntimeChoice};

/// How long pods wait for the first list of services; without it their environment would lack them.
const SERVICES_WAIT: Duration = Duration::from_secs(5);

/// Runs the agent until `shutdown`. `ready` is called once the Node is registered and what runs has been adopted.
pub async fn run(
    client: Client,
    options: Options,
    metrics: Metrics,
    ready: impl FnOnce() + Send + 'static,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (services, keep_services) = watch_services(client.clone());
    tokio::select! {
        result = run_node(client, options, metrics, services, ready, shutdown) => result,
        () = keep_services => Err(Error::Ended("the service watch")),
    }
}

/// The same with the cluster's services as somebody else keeps them.
pub(crate) async fn run_node(
    client: Client,
    mut options: Options,
    metrics: Metrics,
    services: reflector::Store<Service>,
    ready: impl FnOnce() + Send + 'static,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let paths = Paths::new(&options.data_dir);
    let instance = prepare(&paths).await?;
    options.cgroup_root = instance.cgroup(&options.cgroup_root);
    // The port is taken first: a second agent on the machine must fail before it touches anything.
    let server = match &options.serving {
        Some(identity) => Some(server::bind(options.listen, identity).await.map_err(Error::Server)?),
        None => None,
    };
    let port = server.as_ref().map_or(0, server::BoundServer::port);
    // Everything ends on this, be it asked to or because a part failed.
    let stop = shutdown.child_token();
    let (runtime, supervisor) = start_runtime(&options, stop.child_token()).await?;
    let mut parts: JoinSet<(&'static str, Result<(), Error>)> = JoinSet::new();
    let peers = start_peers(&mut parts, &client, &options, &instance, &metrics, stop.child_token()).await?;

    let (events, recorder) = Recorder::new(client.clone(), options.node_name.clone(), stop.clone());
    spawn(&mut parts, "the event writer", recorder);
    let (shared, node) = watch::channel(None);
    let watched = Watched { services, node: node.clone() };
    let checkpoint = open_checkpoint(&options, &paths).await?;
    spawn(&mut parts, "the writer of the checkpoint", checkpoint.clone().write(stop.clone()));
    let told = (watched, checkpoint.clone(), peers);
    let context = context(&client, &options, &metrics, runtime.clone(), events.clone(), told);
    let stats = Arc::new(Collector::new(
        runtime.clone(),
        context.directory.clone(),
        paths.clone(),
        options.cgroup_root.clone(),
        options.node_name.clone(),
        context.drivers.clone(),
    ));
    if let Some(server) = server {
        let pods = context.directory.clone();
        let serving = ServerContext {
            runtime: runtime.clone(),
            pods,
            paths: paths.clone(),
            stats: stats.clone(),
            metrics: metrics.clone(),
            offer: options
                .images_from_peers
                .then(|| Offer::new(runtime.clone(), context.images.pulled(), options.node_name.clone())),
        };
        let cancelled = stop.clone();
        parts.spawn(async move { ("the node's API", server.serve(serving, cancelled).await.map_err(Error::Server)) });
    }

    let (pressure, under_pressure) = watch::channel(Pressure::new());
    let (pod_cidrs, cidrs) = watch::channel(Vec::new());
    let settings = node_settings(&options, port, &context);
    let (down, going_down) = watch::channel(false);
    let told = node::Told { node: shared, pod_cidrs };
    let keeper = Keeper::new(
        client.clone(),
        runtime.clone(),
        events,
        settings,
        told,
        node::State { pressure: under_pressure.clone(), going_down: going_down.clone() },
        checkpoint,
    );
    let (registered, is_registered) = tokio::sync::oneshot::channel();
    spawn(&mut parts, "the node's status", keeper.run(move || _ = registered.send(()), stop.clone()));
    spawn(
        &mut parts,
        "the node's lease",
        lease::run(client.clone(), options.node_name.clone(), node.clone(), stop.clone()),
    );
    if options.service_proxy {
        start_proxy(&mut parts, &client, &instance, cidrs, stop.clone());
    }

    // Many simulated nodes share a machine; what it is short of is no matter of theirs, and they write no logs.
    let simulated = matches!(options.runtime, RuntimeChoice::Given(_));
    if !simulated {
        spawn(&mut parts, "the rotation of logs", rotation::run(context.clone(), options.logs, stop.clone()));
    }

    if !simulated {
        let (folder, drivers) = (paths.plugins_registry(), context.drivers.clone());
        let found = csi::registration::run(folder, client.clone(), node.clone(), drivers, stop.clone());
        spawn(&mut parts, "the registration of storage drivers", found);
        let found = devices::registration::run(context.devices.clone(), stop.clone());
        spawn(&mut parts, "the registration of device plugins", found);
    }
    let files = follow_files(&mut parts, &options, stop.clone()).await;
    let state = node::State { pressure: under_pressure, going_down };
    let manager = Manager::new(context.clone(), node, state, files, stop.clone());
    let policy = options.pressure.clone();
    if !simulated {
        let keeper = pressure::Keeper::new(context.clone(), stats, policy, manager.orders(), pressure);
        spawn(&mut parts, "the watch over the node's resources", keeper.run(stop.clone()));
    }
    if !simulated {
        let keeper = shutdown::Keeper::new(context.clone(), options.shutdown.clone(), manager.orders(), down);
        spawn(&mut parts, "the watch over the machine's shutdown", keeper.run(instance.run_dir(), stop.clone()));
    }
    let folder = paths.images();
    let cancelled = stop.clone();
    spawn(&mut parts, "the pods' manager", async move {
        let prepare = async {
            images::import_archives(runtime.as_ref(), &folder).await;
            let waited = tokio::time::timeout(SERVICES_WAIT, context.services.wait_until_ready()).await;
            if waited.is_err() {
                warn!("the services are not known yet; pods start without their variables");
            }
        };
        if cancelled.run_until_cancelled(prepare).await.is_some() {
            // If registering was given up, so is everything.
            manager.run(is_registered.map(drop), ready).await;
        }
    });
    let result = wait(&mut parts, &shutdown).await;
    stop.cancel();
    drain(&mut parts).await;
    if let Some(supervisor) = supervisor {
        let _ = supervisor.await;
    }
    info!("node agent stopped");
    result
}

/// Makes the folders that must be there.
async fn prepare(paths: &Paths) -> Result<Instance, Error> {
    for dir in [paths.pods(), paths.pod_logs(), paths.images(), paths.plugins_registry()] {
        tokio::fs::create_dir_all(&dir).await.map_err(|source| Error::DataDir { path: dir, source })?;
    }
    let instance = Instance::of(paths.data_dir());
    instance.map_err(|source| Error::DataDir { path: paths.data_dir().to_owned(), source })
}

/// The other nodes as a source of images, for a containerd whose configuration is the agent's.
async fn start_peers(
    parts: &mut JoinSet<(&'static str, Result<(), Error>)>,
    client: &Client,
    options: &Options,
    instance: &Instance,
    metrics: &Metrics,
    stop: CancellationToken,
) -> Result<Peers, Error> {
    if !matches!(options.runtime, RuntimeChoice::Own) {
        return Ok(Peers::default());
    }
    let (Some(identity), true) = (&options.serving, options.images_from_peers) else {
        return Peers::none(instance).map_err(Error::Peers);
    };
    let name = options.node_name.clone();
    let opened = Peers::open(client.clone(), name, identity, instance, metrics.clone(), stop).await;
    let (peers, serving) = opened.map_err(Error::Peers)?;
    spawn(parts, "the mirror of other nodes' images", serving);
    Ok(peers)
}

/// What the node starts its pods from when the API server is away. Simulated nodes end with their API server.
async fn open_checkpoint(options: &Options, paths: &Paths) -> Result<Checkpoint, Error> {
    if matches!(options.runtime, RuntimeChoice::Given(_)) {
        return Ok(Checkpoint::none());
    }
    let (root, name) = (paths.checkpoint(), options.node_name.clone());
    let opened = tokio::task::spawn_blocking(move || Checkpoint::open(root, &name)).await;
    let opened = opened.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    opened.map_err(|source| Error::DataDir { path: paths.checkpoint(), source })
}

/// Waits until all parts have ended.
async fn drain(parts: &mut JoinSet<(&'static str, Result<(), Error>)>) {
    while let Some(ended) = parts.join_next().await {
        match ended {
            Ok((_, Ok(()))) => {}
            Ok((part, Err(error))) => warn!(part, ?error, "ended with an error"),
            Err(error) => warn!(%error, "a part of the agent failed"),
        }
    }
}

fn spawn(
    parts: &mut JoinSet<(&'static str, Result<(), Error>)>,
    name: &'static str,
    work: impl Future<Output = ()> + Send + 'static,
) {
    parts.spawn(async move {
        work.await;
        (name, Ok(()))
    });
}

/// Waits for shutdown; a part that ends before it is an error.
async fn wait(
    parts: &mut JoinSet<(&'static str, Result<(), Error>)>,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    tokio::select! {
        biased;
        () = shutdown.cancelled() => Ok(()),
        ended = parts.join_next() => match ended {
            Some(Ok((_, Err(error)))) => Err(error),
            Some(Ok((part, Ok(())))) => Err(Error::Ended(part)),
            Some(Err(_)) | None => Err(Error::Ended("a part of the agent")),
        },
    }
}

/// What the agent follows in the API for its pods.
struct Watched {
    services: reflector::Store<Service>,
    node: watch::Receiver<node::SharedNode>,
}

fn context(
    client: &Client,
    options: &Options,
    metrics: &Metrics,
    runtime: Arc<dyn Runtime>,
    events: Recorder,
    (watched, checkpoint, peers): (Watched, Checkpoint, Peers),
) -> Arc<Context> {
    let machine = machine::read(&options.data_dir);
    let host_ips: Vec<IpAddr> = vec![options.node_ip.unwrap_or_else(machine::default_ip)];
    // A stub resolver on the loopback is of no use to a pod; the kubelet's default is this file all the same.
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let cpus = usize::try_from(machine.cpus).unwrap_or(1);
    // A simulated container is confined as well as any.
    let simulated = matches!(options.runtime, RuntimeChoice::Given(_));
    let paths = Paths::new(&options.data_dir);
    let (devices, images) = match options.runtime {
        RuntimeChoice::Given(_) => (Devices::default(), Images::default()),
        RuntimeChoice::Attach(_) | RuntimeChoice::Own => {
            let images = Images::open(paths.image_manager(), options.image_verification.clone());
            (Devices::open(paths.device_plugins()), images)
        }
    };
    let in_use = Arc::new(InUse::read(&paths));
    Arc::new(Context {
        client: client.clone(),
        runtime,
        paths,
        node_name: options.node_name.clone(),
        host_ips,
        settings: NodeSettings {
            cgroup_root: options.cgroup_root.clone(),
            cluster_dns: options.cluster_dns.clone(),
            cluster_domain: options.cluster_domain.clone(),
            resolvers: parse_resolv_conf(&resolv_conf),
            machine_memory: machine.memory_bytes,
            app_armor: simulated || machine.app_armor,
        },
        allocatable: machine.allocatable(options.max_pods),
        ledger: Default::default(),
        objects: Objects::new(client.clone(), checkpoint.clone()),
        checkpoint,
        services: watched.services,
        node: watched.node,
        events,
        directory: PodDirectory::default(),
        images,
        peers,
        tokens: Tokens::default(),
        volume_locks: Default::default(),
        drivers: Drivers::default(),
        in_use,
        devices,
        boot_id: machine.boot_id.clone(),
        metrics: metrics.clone(),
        // Starting is half waiting for the runtime's own children.
        start_slots: Semaphore::new((cpus * 4).max(8)),
    })
}

fn node_settings(options: &Options, port: u16, context: &Context) -> node::Settings {
    node::Settings {
        name: options.node_name.clone(),
        labels: options.labels.clone(),
        ips: context.host_ips.clone(),
        port,
        max_pods: options.max_pods,
        machine: machine::read(&options.data_dir),
        devices: context.devices.clone(),
        in_use: context.in_use.clone(),
    }
}

/// The pods of the folder of pods, if there is one: as they are now, and as they will be.
async fn follow_files(
    parts: &mut JoinSet<(&'static str, Result<(), Error>)>,
    options: &Options,
    stop: CancellationToken,
) -> watch::Receiver<files::Pods> {
    let (sender, receiver) = watch::channel(files::Pods::new());
    if let Some(path) = &options.pod_manifests {
        let mut folder = files::Folder::new(path.clone(), options.node_name.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let pods = folder.look();
            (folder, pods)
        });
        if let Ok((folder, pods)) = looked.await {
            sender.send_replace(pods);
            spawn(parts, "the folder of pods", files::follow(folder, sender, stop));
            return receiver;
        }
    }
    receiver
}

/// A store of all services, and the future that keeps it.
pub(crate) fn watch_services(client: Client) -> (reflector::Store<Service>, impl Future<Output = ()> + Send + 'static) {
    let (store, writer) = reflector::store();
    let api: Api<Service> = Api::all(client);
    let events = follow(api, watcher::Config::default()).inspect_err(|error| warn!(%error, "watching services"));
    (store, reflector::reflector(writer, events).for_each(|_| async {}))
}

#[cfg(target_os = "linux")]
fn start_proxy(
    parts: &mut JoinSet<(&'static str, Result<(), Error>)>,
    client: &Client,
    instance: &Instance,
    pod_cidrs: watch::Receiver<Vec<String>>,
    stop: CancellationToken,
) {
    use crate::linux::services;
    let proxy = services::Options { table: instance.table(), pod_cidrs, cluster_cidrs: Vec::new() };
    spawn(parts, "the service proxy", services::run(client.clone(), proxy, stop));
}

#[cfg(not(target_os = "linux"))]
fn start_proxy(
    _parts: &mut JoinSet<(&'static str, Result<(), Error>)>,
    _client: &Client,
    _instance: &Instance,
    _pod_cidrs: watch::Receiver<Vec<String>>,
    _stop: CancellationToken,
) {
    warn!("service addresses are not served on this system");
}

#[cfg(target_os = "linux")]
async fn start_runtime(
    options: &Options,
    shutdown: CancellationToken,
) -> Result<(Arc<dyn Runtime>, Option<tokio::task::JoinHandle<()>>), Error> {
    let address = match &options.runtime {
        RuntimeChoice::Given(runtime) => return Ok((runtime.clone(), None)),
        RuntimeChoice::Attach(address) => Some(address.clone()),
        RuntimeChoice::Own => None,
    };
    let containerd = crate::runtime::containerd::ContainerdOptions {
        address,
        data_dir: options.data_dir.clone(),
        node_name: options.node_name.clone(),
        cgroup_root: options.cgroup_root.clone(),
        stop_patience: crate::runtime::cri::STOP_PATIENCE,
    };
    let started = crate::runtime::containerd::start(containerd, shutdown).await.map_err(Error::Runtime)?;
    Ok((started.runtime, Some(started.supervisor)))
}

#[cfg(not(target_os = "linux"))]
async fn start_runtime(
    options: &Options,
    _shutdown: CancellationToken,
) -> Result<(Arc<dyn Runtime>, Option<tokio::task::JoinHandle<()>>), Error> {
    match &options.runtime {
        RuntimeChoice::Given(runtime) => Ok((runtime.clone(), None)),
        RuntimeChoice::Attach(_) | RuntimeChoice::Own => {
            let message = "containerd is so far driven on Linux only".to_owned();
            Err(Error::Runtime(crate::runtime::RuntimeError::Unsupported(message)))
        }
    }
}
