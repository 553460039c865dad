//! `cargo xtask bench api`: what the API server answers beside a bare axum server that sends the same bytes over the same
//! TLS and HTTP/2, taking turns in one run; how far a change's cost depends on the number of watchers; and what it keeps
//! in memory. `cargo xtask bench scheduler` has it measure how fast pods get bound.
//!
//! `bench_api DIR [ROUNDS [PODS]]` keeps its data in a directory of its own under DIR, which names the disk. `GANTRY_BINARY`
//! is the server that is measured, and `h2load` sends the requests.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its figures")]

mod bare;
mod client;
mod fanout;
mod h2load;
mod memory;
mod paced;
mod requests;
mod scheduling;
mod server;

use std::error::Error;
use std::path::Path;

/// What a bench fails with.
type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// How many pods the requests are about.
const PODS: usize = 10_000;

fn main() -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run())
}

async fn run() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let first = args.next().ok_or("usage: bench_api DIR [ROUNDS [PODS [PART…]]]")?;
    if first == bare::COMMAND {
        return bare::serve(Path::new(&args.next().ok_or("no directory")?)).await;
    }
    let rounds = args.next().map_or(Ok(3), |text| text.parse())?;
    let pods = args.next().map_or(Ok(PODS), |text| text.parse())?;
    let parts: Vec<String> = args.collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|name| name == part);
    let dir = tempfile::Builder::new().prefix("bench-api-").tempdir_in(first)?;
    if wanted("requests") {
        requests::run(&dir.path().join("requests"), rounds, pods).await?;
    }
    if wanted("fanout") {
        fanout::run(&dir.path().join("fanout")).await?;
    }
    if wanted("memory") {
        memory::run(&dir.path().join("memory"), pods).await?;
    }
    // A part of `cargo xtask bench scheduler`, so only if it is asked for.
    if parts.iter().any(|name| name == "scheduling") {
        scheduling::run(&dir.path().join("scheduling")).await?;
    }
    Ok(())
}

/// The middle of some figures; of none, nothing.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The figure that so many of a hundred are not above.
fn percentile(figures: &mut [f64], of_hundred: usize) -> f64 {
    figures.sort_by(f64::total_cmp);
    let index = (figures.len() * of_hundred / 100).min(figures.len().saturating_sub(1));
    figures.get(index).copied().unwrap_or(f64::NAN)
}
