//! Gantry's API server: the request path from HTTP to the store, and back out through the watch cache.
//!
//! ```text
//! http ─▶ auth ─▶ admission ─▶ registry ─▶ store
//!   ▲                                        │ one watch
//!   └──────────── cacher ◀───────────────────┘
//! ```
//!
//! * [`http`] parses requests, negotiates content, serves discovery, watches and proxies. The only place with status codes.
//! * [`auth`] says who asks and what they may.
//! * [`admission`] completes or refuses writes.
//! * [`registry`] is the one implementation of every verb for every kind.
//! * [`encryption`] stands before the store: values of chosen kinds are stored encrypted.
//! * [`operations`] is what an administrator does with the store: snapshots, backups, keys.
//! * [`cacher`] keeps everything in memory as bytes and hands out changes.
//! * [`webhook`] asks others: conversion and admission webhooks.
//!
//! [`start`] brings it up and returns a [`Handle`] once it serves.

pub mod admission;
pub mod aggregation;
pub mod auth;
mod bootstrap;
pub mod cacher;
pub mod cidr;
mod custom;
pub mod encryption;
pub mod http;
pub mod operations;
pub mod pki;
pub mod placement;
pub mod registry;
mod server;
mod servers;
pub mod webhook;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use gantry_api::kinds::Catalog;
use gantry_store::{Store, Target};
use prometheus_client::registry::Registry as MetricsRegistry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::static_tokens::StaticTokens;
use crate::auth::tokens::Tokens;
use crate::auth::{Authenticator, Identity, NodeAuthorizer, RuleAuthorizer, SelfService};
use crate::cacher::Cacher;
use crate::cidr::Cidr;
use crate::encryption::Encryption;
use crate::encryption::sealed::Sealed;
use crate::http::{App, Documents, InProcess, Metrics, NodeProxy};
use crate::operations::Operations;
use crate::pki::Pki;
use crate::registry::{LiveCatalog, Registry, ServiceAddresses};

/// How the API server is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The address others reach it at; by default the listening one.
    pub advertise: Option<IpAddr>,
    /// Further names and addresses for its certificate.
    pub extra_names: Vec<String>,
    /// Where the CA, certificates and the token key are kept; made if missing.
    pub pki_dir: PathBuf,
    /// The store.
    pub store: Target,
    /// How the store is opened.
    pub store_options: gantry_store::Options,
    /// The encryption configuration; by default [`encryption::FILE_NAME`] beside the certificates, made if missing.
    pub encryption_config: Option<PathBuf>,
    /// A file of bearer tokens and whose they are.
    pub token_file: Option<PathBuf>,
    /// Backups that are made automatically.
    pub backup: Option<operations::BackupOptions>,
    /// The range of Service addresses.
    pub service_cidr: Cidr,
    /// The range of node ports.
    pub node_ports: std::ops::RangeInclusive<u16>,
    /// How long a request that is not long-running may take.
    pub request_timeout: Duration,
}

impl Options {
    /// The defaults, with all data below `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 6443)),
            advertise: None,
            extra_names: Vec::new(),
            pki_dir: data_dir.join("pki"),
            store: Target::Embedded(data_dir.join("store")),
            store_options: gantry_store::Options::default(),
            encryption_config: None,
            token_file: None,
            backup: None,
            service_cidr: DEFAULT_SERVICE_CIDR.parse().expect("the default range is well-formed"),
            node_ports: 30_000..=32_767,
            request_timeout: Duration::from_secs(60),
        }
    }
}

/// The range of Service addresses, unless another is asked for.
pub const DEFAULT_SERVICE_CIDR: &str = "10.96.0.0/16";

/// Why the API server could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// The store cannot be opened or read.
    #[error("cannot use the store {0}")]
    Store(String, #[source] gantry_store::Error),
    /// What is stored cannot be encrypted or decrypted.
    #[error("cannot set up encryption at rest")]
    Encryption(#[from] encryption::EncryptionError),
    /// The CA or a certificate cannot be read or made.
    #[error("cannot prepare the certificates")]
    Pki(#[from] pki::PkiError),
    /// The key of service account tokens cannot be used.
    #[error("cannot use the key of service account tokens")]
    Tokens(#[from] auth::tokens::TokenError),
    /// The file of bearer tokens cannot be used.
    #[error("cannot use the bearer tokens")]
    StaticTokens(#[from] auth::static_tokens::StaticTokenError),
    /// TLS cannot be set up with the certificates there are.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// The objects that every cluster has cannot be made.
    #[error("cannot make the objects that every cluster has")]
    Bootstrap(#[source] gantry_api::ApiError),
}

/// A running API server.
#[derive(Clone)]
pub struct Handle {
    app: Arc<App>,
    address: SocketAddr,
    pki: Arc<Pki>,
    tasks: TaskTracker,
}

impl Handle {
    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The cluster's certificates.
    pub fn pki(&self) -> &Arc<Pki> {
        &self.pki
    }

    /// A service for clients in this process, whose requests are those of `user` in `groups` (and
    /// `system:authenticated`). It does what a connection would, without one: `kube::Client::new` takes it.
    pub fn in_process_client(&self, user: &str, groups: &[&str]) -> Router {
        let identity = InProcess(Arc::new(Identity::new(user, groups.iter().copied())));
        router(Arc::clone(&self.app)).layer(axum::Extension(identity))
    }

    /// Has placement reviews answered from now on. The first to be given stays.
    pub fn answer_placement_reviews(&self, reviewer: Arc<dyn placement::Reviewer>) {
        // A second one would be a fault of the caller's that harms nobody.
        let _ = self.app.placements.set(reviewer);
    }

    /// Returns once it has stopped after its shutdown token was cancelled: requests are answered, the store is closed.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }
}

fn router(app: Arc<App>) -> Router {
    Router::new().fallback(move |request: ::http::Request<Body>| {
        let app = Arc::clone(&app);
        async move { http::serve(app, request).await }
    })
}

/// Starts the API server and returns once it serves and its caches are ready. It stops when `shutdown` is cancelled.
///
/// `metrics` holds what the process counts so far; the API server adds its own and serves all at `/metrics`.
pub async fn start(options: Options, metrics: MetricsRegistry, shutdown: CancellationToken) -> Result<Handle, Error> {
    let listen_error = |error| Error::Listen(options.listen, error);
    let listener = TcpListener::bind(options.listen).map_err(listen_error)?;
    listener.set_nonblocking(true).map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;
    let advertise = SocketAddr::new(options.advertise.unwrap_or(address.ip()), address.port());

    let addresses = ServiceAddresses::new(options.service_cidr, options.node_ports.clone());
    let pki = Arc::new(load_pki(&options, advertise.ip(), addresses.first())?);
    let keys = Keys {
        static_tokens: options.token_file.as_deref().map(StaticTokens::read).transpose()?.unwrap_or_default().into(),
        tls: server::tls_config(&pki)?,
        node_client: server::node_client_config(&pki)?,
        front_proxy: Arc::new(server::front_proxy(&pki)?),
        tokens: Arc::new(Tokens::new(pki.service_account_key())?),
    };

    let store_error = |error| Error::Store(options.store.to_string(), error);
    let engine = open_store(&options, &shutdown).await.map_err(store_error)?;
    let encryption = match Encryption::load(options.encryption_config.as_deref(), &options.pki_dir, &*engine).await {
        Ok(encryption) => Arc::new(encryption),
        Err(error) => {
            let _ = engine.close().await;
            return Err(error.into());
        }
    };
    let sealed = Sealed::new(Arc::clone(&engine), Arc::clone(&encryption));
    // One value that does not open must not keep the caches from all others.
    let feed_store: Arc<dyn Store> = Arc::new(sealed.lenient());
    let store: Arc<dyn Store> = Arc::new(sealed);
    let catalog = Arc::new(Catalog::builtin());
    let cacher = Arc::new(Cacher::new(&catalog));
    let revision = match cacher.load(feed_store.as_ref()).await {
        Ok(revision) => revision,
        Err(error) => {
            let _ = store.close().await;
            return Err(store_error(error));
        }
    };

    let tasks = TaskTracker::new();
    // The feed outlives the listener: requests that are being finished still need it.
    let feed = CancellationToken::new();
    tasks.spawn({
        let (cacher, feed) = (Arc::clone(&cacher), feed.clone());
        async move { cacher.follow(feed_store, revision, feed).await }
    });

    let facts = bootstrap::Facts {
        advertise,
        service_ip: addresses.first(),
        service_cidr: options.service_cidr.to_string(),
        client_ca: pki.ca_pem().to_owned(),
        front_proxy_ca: pki.front_proxy_ca_pem().to_owned(),
    };
    let webhooks = Arc::new(webhook_client(&cacher, &catalog));
    let chain = admission::Chain::new(&webhooks);
    let live = Arc::new(LiveCatalog::new(Catalog::builtin()));
    let (stored, cached) = (Arc::clone(&store), Arc::clone(&cacher));
    let asked: Arc<dyn auth::Authorizer> = Arc::new(authorizer(&cacher, &catalog));
    let registry = Arc::new(Registry::new(live, stored, cached, chain, addresses, Arc::clone(&webhooks), asked));
    let mut metrics = metrics;
    let operations = Operations {
        store: options.store.to_string(),
        engine,
        encryption,
        cacher: Arc::clone(&cacher),
        metrics: operations::Metrics::new(&mut metrics),
    };
    if let Some(backup) = options.backup.clone() {
        tasks.spawn(operations::run_schedule(operations.clone(), backup, shutdown.clone()));
    }
    let app = Arc::new(app(&options, &keys, registry, advertise, metrics, operations, shutdown.clone()));
    let handle = Handle { app: Arc::clone(&app), address, pki: Arc::clone(&pki), tasks: tasks.clone() };

    tasks.spawn({
        let (app, shutdown) = (Arc::clone(&app), shutdown.clone());
        async move { run(app, listener, keys.tls, store, feed, advertise, shutdown).await }
    });

    custom::load(&app.registry);
    let servers = match join(&app.registry, &facts).await {
        Ok(servers) => servers,
        Err(error) => {
            shutdown.cancel();
            tasks.close();
            tasks.wait().await;
            return Err(Error::Bootstrap(error));
        }
    };
    app.bootstrapped.store(true, Ordering::Release);
    look_after(&tasks, &app, facts, servers, &shutdown);
    tasks.close();
    tracing::info!(%address, "the API server is ready");
    Ok(handle)
}

/// Makes what every cluster has, and takes a place among its API servers.
async fn join(registry: &Registry, facts: &bootstrap::Facts) -> Result<servers::Servers, gantry_api::ApiError> {
    bootstrap::ensure(registry, facts).await?;
    servers::Servers::join(registry, facts.advertise).await
}

/// The loops that look after the objects, until shutdown.
fn look_after(
    tasks: &TaskTracker,
    app: &Arc<App>,
    facts: bootstrap::Facts,
    servers: servers::Servers,
    shutdown: &CancellationToken,
) {
    let with = || (Arc::clone(app), shutdown.clone());
    let ((first, until), advertise) = (with(), facts.advertise);
    tasks.spawn(async move { bootstrap::keep(&first.registry, &facts, until).await });
    let (second, until) = with();
    tasks.spawn(async move { servers::keep(servers, &second.registry, advertise, until).await });
    tasks.spawn(custom::run(Arc::clone(&app.registry), shutdown.clone()));
    tasks.spawn(aggregation::keep(Arc::clone(&app.aggregator), Arc::clone(&app.registry), shutdown.clone()));
    let (third, until) = with();
    tasks.spawn(async move { registry::expire_events(&third.registry, until).await });
}

/// The client that asks webhooks. Without Services in the catalog only URLs lead anywhere.
fn webhook_client(cacher: &Arc<Cacher>, catalog: &Catalog) -> webhook::Client {
    match webhook::RegistryResolver::new(Arc::clone(cacher), catalog) {
        Some(resolver) => webhook::Client::new(Arc::new(resolver)),
        None => webhook::Client::new(Arc::new(webhook::NoServices)),
    }
}

/// What is made of the certificates and keys.
struct Keys {
    tls: Arc<rustls::ServerConfig>,
    node_client: Arc<rustls::ClientConfig>,
    front_proxy: Arc<webhook::Presented>,
    tokens: Arc<Tokens>,
    static_tokens: Arc<StaticTokens>,
}

/// Everything that requests are answered with.
fn app(
    options: &Options,
    keys: &Keys,
    registry: Arc<Registry>,
    advertise: SocketAddr,
    mut metrics: MetricsRegistry,
    operations: Operations,
    shutdown: CancellationToken,
) -> App {
    let (catalog, cacher) = (Arc::clone(registry.catalog()), Arc::clone(registry.cacher()));
    let aggregator = aggregation::Aggregator::new(
        Arc::clone(&cacher),
        &catalog,
        webhook_client(&cacher, &catalog).presenting(Arc::clone(&keys.front_proxy)),
    );
    App {
        authenticator: Authenticator::new(
            Arc::clone(&keys.tokens),
            Arc::clone(&keys.static_tokens),
            Arc::clone(&cacher),
            &catalog,
        ),
        authorizer: Arc::clone(registry.authorizer()),
        tokens: Arc::clone(&keys.tokens),
        documents: Documents::new(Arc::clone(registry.live_catalog()), advertise),
        proxy: NodeProxy::new(Arc::clone(&keys.node_client)),
        aggregator: Arc::new(aggregator),
        metrics: Metrics::new(&mut metrics),
        exposition: metrics,
        request_timeout: options.request_timeout,
        turns: Default::default(),
        placements: Default::default(),
        operations,
        shutdown,
        bootstrapped: AtomicBool::new(false),
        registry,
    }
}

/// Reads or makes the certificates, for every address this server is reached at.
fn load_pki(options: &Options, advertise: IpAddr, service_ip: Option<IpAddr>) -> Result<Pki, pki::PkiError> {
    let mut listen_ips = vec![options.listen.ip(), advertise];
    let mut host_names = Vec::new();
    for name in &options.extra_names {
        match name.parse() {
            Ok(ip) => listen_ips.push(ip),
            Err(_) => host_names.push(name.clone()),
        }
    }
    let defaults = pki::PkiOptions::default();
    let service_ip = service_ip.unwrap_or(defaults.service_ip);
    let wanted = pki::PkiOptions { listen_ips, service_ip, host_names, ..defaults };
    Pki::load_or_create(&options.pki_dir, &wanted, jiff::Timestamp::now())
}

/// How long a store that cannot be reached is waited for at the start: it may be starting as well.
const STORE_WAIT: Duration = Duration::from_secs(60);
/// How long between two tries.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// Opens the store, which answers then.
async fn open_store(options: &Options, shutdown: &CancellationToken) -> Result<Arc<dyn Store>, gantry_store::Error> {
    let deadline = tokio::time::Instant::now() + STORE_WAIT;
    let mut told = false;
    loop {
        match gantry_store::open(&options.store, options.store_options.clone()).await {
            Err(gantry_store::Error::Unavailable(_))
                if tokio::time::Instant::now() < deadline && !shutdown.is_cancelled() =>
            {
                if !told {
                    tracing::warn!(store = %options.store, "the store does not answer; waiting for it");
                    told = true;
                }
                let _ = shutdown.run_until_cancelled(tokio::time::sleep(STORE_RETRY)).await;
            }
            opened => return opened,
        }
    }
}

fn authorizer(cacher: &Arc<Cacher>, catalog: &Catalog) -> auth::Chain {
    let mut chain: Vec<Box<dyn auth::Authorizer>> = vec![Box::new(SelfService)];
    if let Some(nodes) = NodeAuthorizer::new(cacher, catalog) {
        chain.push(Box::new(nodes));
    }
    chain.push(Box::new(RuleAuthorizer));
    auth::Chain::new(chain)
}

/// Serves until shutdown, then ends in order: requests, the cache's feed, the store.
async fn run(
    app: Arc<App>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    store: Arc<dyn Store>,
    feed: CancellationToken,
    advertise: SocketAddr,
    shutdown: CancellationToken,
) {
    if let Err(error) = server::serve(listener, tls, router(Arc::clone(&app)), shutdown.clone()).await {
        tracing::error!(%error, "the listener failed");
        shutdown.cancel();
    }
    servers::leave(&app.registry, advertise).await;
    feed.cancel();
    if let Err(error) = store.close().await {
        tracing::warn!(%error, "the store did not close cleanly");
    }
    tracing::info!("the API server has stopped");
}
