//! `gantry store verify`: a store in use, a store that nobody has open, etcd, or a backup.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use gantry_api::kinds::Catalog;
use gantry_apiserver::encryption::keyring::Keyring;
use gantry_apiserver::operations::verify::{Report, Verifier};
use gantry_store::{Store, Target};

use super::place::{self, Place, Server};
use super::{KeyFile, Where, backup, progress};
use crate::client::ClientFlags;
use crate::verbs::output::{Format, Out, columns};

/// How long to wait for a store to say how far its history goes.
const HISTORY_WAIT: Duration = Duration::from_secs(10);

/// `gantry store verify`
#[derive(clap::Args, Debug)]
pub struct VerifyArgs {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    keys: KeyFile,
    /// A backup to check instead of a store
    file: Option<PathBuf>,
    /// Output format: json, yaml
    #[arg(long, short = 'o', default_value = "", hide_default_value = true, value_name = "FORMAT")]
    output: String,
}

/// Carries it out; problems are exit code 1.
pub async fn run(args: &VerifyArgs, flags: &ClientFlags) -> Result<ExitCode> {
    let format: Format = args.output.parse()?;
    let keys = args.keys.read(&args.place)?;
    let ring = keys.keyring();
    let report = match &args.file {
        Some(file) => of_backup(file.clone(), Arc::clone(&ring)).await?,
        None => of_store(args, flags, &ring).await?,
    };
    let out = Out::default();
    match format {
        Format::Json => out.line(serde_json::to_string_pretty(&report)?)?,
        Format::Yaml => out.text(&serde_saphyr::to_string(&report)?)?,
        _ => {
            let mut rows = vec![vec!["RESOURCE".to_owned(), "OBJECTS".to_owned()]];
            rows.extend(report.resources.iter().map(|(name, count)| vec![name.clone(), count.to_string()]));
            out.text(&columns(&rows))?;
            out.line(format!("{} keys, {} encrypted, {} problems", report.keys, report.encrypted, report.problems))?;
        }
    }
    for (about, problem) in &report.told {
        tell!("{about} {problem}");
    }
    if report.problems > report.told.len() as u64 {
        tell!("and {} more", report.problems - report.told.len() as u64);
    }
    if report.problems == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    tell!("restore the last good backup (`gantry store restore`), or the encryption configuration if keys are missing");
    Ok(ExitCode::FAILURE)
}

async fn of_store(args: &VerifyArgs, flags: &ClientFlags, ring: &Arc<Keyring>) -> Result<Report> {
    let explicit = flags.kubeconfig.is_some() || flags.server.is_some();
    let target = place::target(&args.place)?;
    // Page by page, before anything opens it to use it.
    let whole = if explicit || !gantry_store::exists(&target) {
        None
    } else {
        match gantry_store::is_whole(&target).await {
            Err(gantry_store::Error::Locked { .. }) => None,
            other => Some(other.with_context(|| format!("cannot check {target}"))?),
        }
    };
    match place::find(&args.place, flags).await? {
        Place::Server(server) => of_server(&server, Arc::clone(ring)).await,
        Place::Store { target, store } => {
            let report = of_open_store(&target, &store, ring, whole).await;
            store.close().await?;
            report
        }
    }
}

async fn of_open_store(target: &Target, store: &Arc<dyn Store>, ring: &Keyring, whole: Option<bool>) -> Result<Report> {
    let catalog = Catalog::builtin();
    let status = store.status().await?;
    let mut verifier = Verifier::new(&catalog, ring, status.revision);
    if whole == Some(false) {
        verifier.problem(target.to_string(), "has pages that are not as they were written");
    }
    let bar = progress("keys");
    let (mut start_after, mut seen) = (None::<String>, 0);
    loop {
        let page = store.list("", start_after.as_deref(), 0, Some(status.revision)).await?;
        page.items.iter().for_each(|kv| verifier.look(kv));
        seen += page.items.len() as u64;
        bar.set_position(seen);
        if !page.more {
            break;
        }
        start_after = page.items.last().map(|kv| kv.key.clone());
    }
    if let Some(problem) = history(store.as_ref(), status.oldest_revision, status.revision).await {
        verifier.problem("the history", problem);
    }
    bar.finish_and_clear();
    Ok(verifier.finish())
}

/// Reads all changes that are kept; what is wrong with their order.
async fn history(store: &dyn Store, oldest: u64, newest: u64) -> Option<String> {
    if oldest >= newest {
        return None;
    }
    let mut watch = match store.watch("", oldest).await {
        Ok(watch) => watch,
        Err(error) => return Some(format!("cannot be read from revision {oldest} on: {error}")),
    };
    // Not every etcd answers this; then the end of its history is not waited for.
    let _ = store.request_progress().await;
    let mut last = oldest;
    while last < newest {
        match tokio::time::timeout(HISTORY_WAIT, watch.next()).await {
            Err(_) | Ok(None) => return None,
            Ok(Some(Err(error))) => return Some(format!("breaks off after revision {last}: {error}")),
            Ok(Some(Ok(batch))) => {
                let is_change = !batch.events.is_empty();
                if batch.revision < last || (is_change && batch.revision == last) {
                    return Some(format!("goes from revision {last} to {}", batch.revision));
                }
                if batch.events.iter().any(|event| event.kv.mod_revision != batch.revision) {
                    return Some(format!("has a change of another revision at {}", batch.revision));
                }
                last = batch.revision;
            }
        }
    }
    None
}

/// Of a store in use: a snapshot of it, in a file that only this user can read and that is gone afterwards.
async fn of_server(server: &Server, ring: Arc<Keyring>) -> Result<Report> {
    let file = std::env::temp_dir().join(format!("gantry-verify-{}.backup", uuid::Uuid::new_v4()));
    let bar = progress("bytes");
    let written =
        gantry_store::backup::write_file(server.snapshot().await?, &file, |bytes| bar.set_position(bytes)).await;
    bar.finish_and_clear();
    let report = match written {
        Ok(_) => of_backup(file.clone(), ring).await,
        Err(error) => Err(error.into()),
    };
    // It may not have been made.
    let _ = std::fs::remove_file(&file);
    report
}

async fn of_backup(file: PathBuf, ring: Arc<Keyring>) -> Result<Report> {
    tokio::task::spawn_blocking(move || read(&file, &ring)).await?
}

fn read(file: &Path, ring: &Keyring) -> Result<Report> {
    let damaged = || format!("{} is no good; use another backup", file.display());
    let (mut reader, header) = backup::open(file).with_context(damaged)?;
    let catalog = Catalog::builtin();
    let mut verifier = Verifier::new(&catalog, ring, header.revision);
    while let Some(records) = reader.next_chunk().with_context(damaged)? {
        records.iter().for_each(|kv| verifier.look(kv));
    }
    Ok(verifier.finish())
}
