//! Serves the API on a fixed port with the data in a directory, and writes an administrator's kubeconfig:
//! `cargo run -p gantry-apiserver --example serve -- DIR [ADDRESS:PORT] [STORE]`.

use std::path::PathBuf;

use gantry_apiserver::Options;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("which directory?")?);
    let mut options = Options::new(&dir);
    if let Some(listen) = arguments.next() {
        options.listen = listen.parse()?;
    }
    if let Some(store) = arguments.next() {
        options.store = gantry_store::Target::parse(&store, &dir.join("store"))?;
    }
    let shutdown = CancellationToken::new();
    let server =
        gantry_apiserver::start(options, prometheus_client::registry::Registry::default(), shutdown.clone()).await?;
    let url = format!("https://{}", server.local_addr());
    server.pki().authority().write_kubeconfig(&dir.join("admin.kubeconfig"), &url, server.pki().admin())?;
    tracing::info!(url, "serving");
    tokio::signal::ctrl_c().await?;
    shutdown.cancel();
    server.stopped().await;
    Ok(())
}
