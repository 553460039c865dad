//! `gantry up`: everything in one process. The loops reach the API through its router, without sockets, as the same users
//! that they are when they run apart.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use gantry_apiserver::Handle;
use jiff::Timestamp;
use prometheus_client::registry::Registry;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::health::Readiness;
use super::leading::{Component, Health, Leading};
use super::{agent_options, identity, node_name, outward_ip, scheduler_options, shutdown_on_signal, simulation};
use crate::args;
use crate::election::{CONTROLLERS_LEASE, SCHEDULER_LEASE};

/// Starts all components and runs until a signal, or until one of them fails.
pub async fn run(options: args::Up) -> Result<()> {
    let start = Instant::now();
    let shutdown = shutdown_on_signal()?;
    let mut registry = Registry::default();
    let controller_metrics = gantry_controllers::Metrics::new(&mut registry);
    let scheduler_metrics = gantry_scheduler::Metrics::new(&mut registry);
    let scheduler = scheduler_options(&options.scheduler)?;
    std::fs::create_dir_all(&options.data.data_dir).with_context(|| unusable(&options.data.data_dir))?;
    let leading = Leading::new(&options.election, Some(&options.data.data_dir), &mut registry)?;
    let agent_metrics = (!options.no_agent).then(|| gantry_node_agent::Metrics::new(&mut registry));
    // A token of its own: it stops after the loops that talk to it.
    let serving = CancellationToken::new();
    let server = tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(()),
        server = start_api_server(&options.data, &options.api, registry, serving.clone()) => server?,
    };
    super::placement::answer(&server, scheduler.configuration.clone(), serving.clone());
    let ready = |name: &'static str| move || say_ready(name, &format!("after {:.2} s", start.elapsed().as_secs_f64()));
    let client = |user: &str, groups: &[&str]| kube::Client::new(server.in_process_client(user, groups), "default");

    let component = |name, lease| {
        let detail = Arc::new(move || format!("after {:.2} s", start.elapsed().as_secs_f64()));
        Component { name, lease, health: Health { readiness: Readiness::default(), detail } }
    };

    let mut parts: JoinSet<(&'static str, Result<()>)> = JoinSet::new();
    let loops = shutdown.child_token();
    {
        let client = client(gantry_apiserver::pki::CONTROLLER_MANAGER_USER, &[]);
        let controllers = controller_options(&options.controllers, server.pki().ca_pem().to_owned());
        let work = move |client, ready, stop| {
            gantry_controllers::run(client, controllers.clone(), controller_metrics.clone(), ready, stop)
        };
        let (leading, part, loops) = (leading.clone(), component("controllers", CONTROLLERS_LEASE), loops.clone());
        parts.spawn(async move { ("controllers", leading.run(part, client, loops, work).await) });
    }
    {
        let client = client(gantry_apiserver::pki::SCHEDULER_USER, &[]);
        let work = move |client, ready, stop| {
            gantry_scheduler::run(client, scheduler.clone(), scheduler_metrics.clone(), ready, stop)
        };
        let (part, loops) = (component("scheduler", SCHEDULER_LEASE), loops.clone());
        parts.spawn(async move { ("scheduler", leading.run(part, client, loops, work).await) });
    }
    if let Some(metrics) = agent_metrics {
        let name = node_name(&options.agent)?;
        let client = |name: &str| client(&format!("system:node:{name}"), &["system:nodes"]);
        let data_dir = options.data.data_dir.clone();
        if let Some(simulation) = simulation(&options.agent) {
            let nodes = simulation.node_names(&name).map(|name| (name.clone(), client(&name))).collect();
            let (agents, delay) = (agent_options(&options.agent, name, data_dir, None)?, simulation.start_delay);
            let run = gantry_node_agent::simulate(nodes, agents, delay, metrics, ready("agents"), loops.clone());
            parts.spawn(async move { ("simulated agents", run.await.map_err(Into::into)) });
        } else {
            let client = client(&name);
            let certificate =
                server.pki().authority().keep_node(&name, options.agent.node_ip.as_slice(), Timestamp::now())?;
            let serving = gantry_node_agent::ServingIdentity {
                cert_chain_pem: certificate.chain_pem,
                key_pem: certificate.key_pem,
                client_ca_pem: server.pki().ca_pem().to_owned(),
            };
            let agent = agent_options(&options.agent, name, data_dir, Some(serving))?;
            let run = gantry_node_agent::run(client, agent, metrics, ready("agent"), loops.clone());
            parts.spawn(async move { ("agent", run.await.map_err(Into::into)) });
        }
    }

    // In this order: the parts that end because they were told to have not failed.
    let mut result = tokio::select! {
        biased;
        () = shutdown.cancelled() => Ok(()),
        () = serving.cancelled() => Err(anyhow::anyhow!("the API server failed")),
        Some(ended) = parts.join_next() => part_ended(ended, true),
    };
    loops.cancel();
    while let Some(ended) = parts.join_next().await {
        result = result.and(part_ended(ended, false));
    }
    serving.cancel();
    server.stopped().await;
    result
}

fn unusable(dir: &Path) -> String {
    format!("cannot make the data directory {}; --data-dir names another", dir.display())
}

/// What the end of a part means: an error is one, and so is an end that nobody asked for.
fn part_ended(ended: Result<(&'static str, Result<()>), tokio::task::JoinError>, unasked: bool) -> Result<()> {
    let (name, result) = ended.context("a component panicked")?;
    result.with_context(|| format!("the {name} failed"))?;
    anyhow::ensure!(!unasked, "the {name} ended without being asked to");
    Ok(())
}

/// Starts the API server and writes the administrator's kubeconfig.
pub async fn start_api_server(
    data: &args::DataDir,
    flags: &args::ApiFlags,
    registry: Registry,
    shutdown: CancellationToken,
) -> Result<Handle> {
    let start = Instant::now();
    let dir = &data.data_dir;
    std::fs::create_dir_all(dir).with_context(|| unusable(dir))?;
    let mut options = gantry_apiserver::Options::new(dir);
    options.listen = flags.listen;
    // Nobody can reach "all addresses": others are told this machine's own.
    let listens_on_all = flags.listen.ip().is_unspecified();
    options.advertise = flags.advertise.or_else(|| outward_ip().filter(|_| listens_on_all));
    options.pki_dir = identity::pki_dir(dir);
    options.store = gantry_store::Target::parse(&flags.store.store, &dir.join("store"))?;
    options.store_options = flags.store.options();
    options.encryption_config = flags.encryption_config.clone();
    options.token_file = flags.token_auth_file.clone();
    options.backup = flags.backup_dir.clone().map(|dir| gantry_apiserver::operations::BackupOptions {
        dir,
        // Without a pause it would do nothing else.
        interval: flags.backup_interval.max(std::time::Duration::from_secs(1)),
        keep: usize::from(flags.backup_keep),
    });
    options.service_cidr =
        flags.service_cidr.parse().with_context(|| format!("--service-cidr {}", flags.service_cidr))?;
    let server = gantry_apiserver::start(options, registry, shutdown).await?;
    let address = server.local_addr();
    // A server that listens on all addresses is reached at the local one from here.
    let host = if address.ip().is_unspecified() { "127.0.0.1".to_owned() } else { address.ip().to_string() };
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let url = format!("https://{host}:{}", address.port());
    let kubeconfig = dir.join("admin.kubeconfig");
    server.pki().authority().write_kubeconfig(&kubeconfig, &url, server.pki().admin())?;
    say_ready(
        "api server",
        &format!("after {:.2} s at {url}, kubeconfig {}", start.elapsed().as_secs_f64(), kubeconfig.display()),
    );
    Ok(server)
}

/// The controllers' options of the command line.
pub fn controller_options(flags: &args::ControllerFlags, ca_pem: String) -> gantry_controllers::Options {
    gantry_controllers::Options {
        cluster_cidr: flags.pod_cidr.clone(),
        ca_pem: Some(ca_pem),
        node_monitor_grace: flags.node_monitor_grace_period,
        ..Default::default()
    }
}

/// One line for a component that got ready, on standard error beside the log.
pub fn say_ready(name: &str, detail: &str) {
    eprintln!("{name:<12} ready {detail}");
}
