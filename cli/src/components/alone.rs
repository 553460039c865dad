//! Each component in a process of its own, against an API server reached over the network.

use std::sync::Arc;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::Kubeconfig;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::health::{self, Readiness};
use super::leading::{Component, Health, Leading};
use super::{agent_options, node_name, placement, scheduler_options, shutdown_on_signal, simulation, up};
use crate::args;
use crate::client::ClientFlags;
use crate::election::{CONTROLLERS_LEASE, SCHEDULER_LEASE};

/// `gantry apiserver`: the API server with its store; writes the kubeconfigs of the other components.
pub async fn apiserver(options: args::ApiServer) -> Result<()> {
    let shutdown = shutdown_on_signal()?;
    let scheduler = scheduler_options(&options.scheduler)?;
    let server = up::start_api_server(&options.data, &options.api, Registry::default(), shutdown.clone()).await?;
    placement::answer(&server, scheduler.configuration, shutdown.clone());
    shutdown.cancelled().await;
    server.stopped().await;
    Ok(())
}

/// `gantry controllers`
pub async fn controllers(options: args::Controllers, flags: &ClientFlags) -> Result<()> {
    let shutdown = shutdown_on_signal()?;
    let client = flags.client().await?;
    let ca = authority(&flags.kubeconfig()?)?;
    let mut registry = Registry::default();
    let metrics = gantry_controllers::Metrics::new(&mut registry);
    let leading = Leading::new(&options.election, None, &mut registry)?;
    let health = serve_health(options.health, registry, &shutdown).await?;
    let options = up::controller_options(&options.controllers, ca);
    let work =
        move |client, ready, stop| gantry_controllers::run(client, options.clone(), metrics.clone(), ready, stop);
    leading.run(Component { name: "controllers", lease: CONTROLLERS_LEASE, health }, client, shutdown, work).await
}

/// `gantry scheduler`
pub async fn scheduler(options: args::Scheduler, flags: &ClientFlags) -> Result<()> {
    let shutdown = shutdown_on_signal()?;
    let scheduler = scheduler_options(&options.scheduler)?;
    let client = flags.client().await?;
    let mut registry = Registry::default();
    let metrics = gantry_scheduler::Metrics::new(&mut registry);
    let leading = Leading::new(&options.election, None, &mut registry)?;
    let health = serve_health(options.health, registry, &shutdown).await?;
    let work =
        move |client, ready, stop| gantry_scheduler::run(client, scheduler.clone(), metrics.clone(), ready, stop);
    leading.run(Component { name: "scheduler", lease: SCHEDULER_LEASE, health }, client, shutdown, work).await
}

/// `gantry agent`: its kubeconfig's certificate is also the one that it serves with.
pub async fn agent(options: args::Agent, flags: &ClientFlags) -> Result<()> {
    let shutdown = shutdown_on_signal()?;
    let client = flags.client().await?;
    let simulation = simulation(&options.agent);
    // Simulated nodes serve nothing, and one user may be all of them: who may write any Node.
    let serving = match simulation {
        Some(_) => None,
        None => Some(serving_identity(&flags.kubeconfig()?)?),
    };
    let mut registry = Registry::default();
    let metrics = gantry_node_agent::Metrics::new(&mut registry);
    let health = serve_health(options.health, registry, &shutdown).await?;
    let ready = move || health.ready("agent");
    let name = node_name(&options.agent)?;
    let agent = agent_options(&options.agent, name, options.data.data_dir, serving)?;
    match simulation {
        Some(simulation) => {
            let nodes = simulation.node_names(&agent.node_name).map(|name| (name, client.clone())).collect();
            gantry_node_agent::simulate(nodes, agent, simulation.start_delay, metrics, ready, shutdown).await?;
        }
        None => gantry_node_agent::run(client, agent, metrics, ready, shutdown).await?,
    }
    Ok(())
}

/// Serves health and metrics of this process.
async fn serve_health(flags: args::HealthFlags, registry: Registry, shutdown: &CancellationToken) -> Result<Health> {
    let readiness = Readiness::default();
    let address = health::serve(flags.health_listen, registry, readiness.clone(), shutdown.clone()).await?;
    Ok(Health { readiness, detail: Arc::new(move || format!("health at http://{address}")) })
}

/// The PEM of the authority that signs the server's certificate.
fn authority(kubeconfig: &Kubeconfig) -> Result<String> {
    let cluster = kubeconfig
        .clusters
        .first()
        .and_then(|named| named.cluster.as_ref())
        .context("the kubeconfig names no cluster")?;
    pem(
        cluster.certificate_authority_data.as_deref(),
        cluster.certificate_authority.as_deref(),
        "certificate-authority",
    )
}

fn serving_identity(kubeconfig: &Kubeconfig) -> Result<gantry_node_agent::ServingIdentity> {
    use secrecy::ExposeSecret;
    let user = kubeconfig
        .auth_infos
        .first()
        .and_then(|named| named.auth_info.as_ref())
        .context("the kubeconfig names no user")?;
    let key = user.client_key_data.as_ref().map(|key| key.expose_secret().to_owned());
    Ok(gantry_node_agent::ServingIdentity {
        cert_chain_pem: pem(
            user.client_certificate_data.as_deref(),
            user.client_certificate.as_deref(),
            "client-certificate",
        )?,
        key_pem: pem(key.as_deref(), user.client_key.as_deref(), "client-key")?,
        client_ca_pem: authority(kubeconfig)?,
    })
}

/// A kubeconfig's PEM, from the data in it or from the file it names.
fn pem(data: Option<&str>, file: Option<&str>, what: &str) -> Result<String> {
    if let Some(data) = data {
        let bytes = STANDARD.decode(data.trim()).with_context(|| format!("{what}-data is not base64"))?;
        return String::from_utf8(bytes).with_context(|| format!("{what}-data is not PEM"));
    }
    let file = file.with_context(|| format!("the kubeconfig has no {what}"))?;
    std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))
}
