//! `gantry store backup`, `restore` and `copy`.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use futures::Stream;
use gantry_store::backup::{BackupError, Header, Reader, write_file};
use gantry_store::transfer::{TransferError, Transferred, fill};
use gantry_store::{KeyValue, Revision, Store, Target};

use super::place::{self, Place};
use super::{Where, progress, size};
use crate::args::EtcdFlags;
use crate::client::ClientFlags;
use crate::verbs::output::Out;

/// How far the revisions of a restored store are ahead of the backup's: what its clients saw since the backup was made must not
/// come again. It costs nothing to be generous.
const AHEAD: Revision = 1_000_000_000;
/// How many objects are read at once.
const PAGE_ITEMS: usize = 1_000;
/// Chunks of a backup that wait to be written: one is read while one is written.
const CHUNKS_WAITING: usize = 2;

/// `gantry store backup`
#[derive(clap::Args, Debug)]
pub struct BackupArgs {
    #[command(flatten)]
    place: Where,
    /// The file; by default gantry-TIME.backup in this folder
    file: Option<PathBuf>,
    /// Replace the file if there is one
    #[arg(long)]
    force: bool,
}

/// `gantry store restore`
#[derive(clap::Args, Debug)]
pub struct RestoreArgs {
    #[command(flatten)]
    place: Where,
    /// The backup
    file: PathBuf,
    /// Replace what is in the store
    #[arg(long)]
    force: bool,
    /// How many revisions clients may have seen since the backup was made; no revision up to there is used again
    #[arg(long, default_value_t = AHEAD, value_name = "N")]
    bump_revision: Revision,
}

/// `gantry store copy`
#[derive(clap::Args, Debug)]
pub struct CopyArgs {
    /// The store to copy: `embedded:DIR` or `etcd://HOST:PORT[,HOST:PORT…]`; nobody may be writing to it
    #[arg(long, value_name = "STORE")]
    from: String,
    /// The store to fill, which must be empty
    #[arg(long, value_name = "STORE")]
    to: String,
    /// Replace what is in it
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    etcd: EtcdFlags,
}

/// Carries out `gantry store backup`.
pub async fn backup(args: &BackupArgs, flags: &ClientFlags) -> Result<()> {
    let file = args
        .file
        .clone()
        .unwrap_or_else(|| PathBuf::from(jiff::Timestamp::now().strftime("gantry-%Y%m%dT%H%M%SZ.backup").to_string()));
    if file.exists() && !args.force {
        bail!("{} is there already; name another file, or replace it with --force", file.display());
    }
    let bar = progress("bytes");
    let advance = |bytes| bar.set_position(bytes);
    let written = match place::find(&args.place, flags).await? {
        Place::Server(server) => write_file(server.snapshot().await?, &file, advance).await,
        Place::Store { store, .. } => {
            let written = write_file(gantry_store::backup::snapshot(store.clone()), &file, advance).await;
            store.close().await?;
            written
        }
    };
    bar.finish_and_clear();
    let (header, objects) = written?;
    let bytes = std::fs::metadata(&file)?.len();
    Out::default().line(format!(
        "{objects} keys at revision {} written to {} ({})",
        header.revision,
        file.display(),
        size(bytes)
    ))?;
    tell!(
        "encrypted values stay encrypted: keep a copy of the encryption configuration (pki/encryption.yaml) elsewhere"
    );
    Ok(())
}

/// Carries out `gantry store restore`.
pub async fn restore(args: &RestoreArgs) -> Result<()> {
    let target = place::target(&args.place)?;
    let shown = args.file.display();
    // All of it, before anything is touched.
    let file = args.file.clone();
    let (header, count) = tokio::task::spawn_blocking(move || read_through(&file))
        .await?
        .with_context(|| format!("{shown} cannot be restored; nothing was changed"))?;
    let records = stream_file(args.file.clone());
    let seen = header.revision.saturating_add(args.bump_revision);
    let done = transfer(&target, &args.place.etcd, records, seen, args.force).await?;
    if done.records != count {
        bail!("{} of {count} keys were written: {shown} changed meanwhile; run it again with --force", done.records);
    }
    Out::default().line(format!("{count} keys restored to {target}, which is at revision {}", done.revision))
}

/// Carries out `gantry store copy`.
pub async fn copy(args: &CopyArgs) -> Result<()> {
    let parse = |text: &str, flag: &str| match text {
        "embedded" => bail!("{flag} embedded needs the folder: embedded:DIR"),
        text => Ok(Target::parse(text, Path::new(""))?),
    };
    let (from, to) = (parse(&args.from, "--from")?, parse(&args.to, "--to")?);
    if from == to {
        bail!("--from and --to name the same store");
    }
    let source = place::open_unused(&from, &args.etcd).await?;
    let copied = copy_from(&source, (&from, &to), args).await;
    source.close().await?;
    let done = copied?;
    Out::default().line(format!("{} keys copied to {to}, which is at revision {}", done.records, done.revision))?;
    tell!("{from} is as it was; start gantry with --store {}, and remove the old store once that works", args.to);
    Ok(())
}

async fn copy_from(
    source: &std::sync::Arc<dyn Store>,
    (from, to): (&Target, &Target),
    args: &CopyArgs,
) -> Result<Transferred> {
    let status = source.status().await.with_context(|| format!("cannot read {from}"))?;
    let pages = futures::stream::try_unfold(
        (std::sync::Arc::clone(source), None::<String>, true),
        move |(source, start_after, more)| async move {
            if !more {
                return Ok(None);
            }
            let page = source.list("", start_after.as_deref(), PAGE_ITEMS, Some(status.revision)).await?;
            let last = page.items.last().map(|kv| kv.key.clone());
            Ok::<_, gantry_store::Error>(Some((page.items, (source, last, page.more))))
        },
    );
    let done = transfer(to, &args.etcd, pages, status.revision, args.force).await?;
    let now = source.current_revision().await?;
    if now != status.revision {
        tell!(
            "warning: {from} was written to meanwhile (revision {} to {now}); stop its servers and copy again with --force",
            status.revision
        );
    }
    Ok(done)
}

async fn transfer<E: Into<gantry_store::Source>>(
    target: &Target,
    etcd: &EtcdFlags,
    records: impl Stream<Item = Result<Vec<KeyValue>, E>> + Send,
    seen: Revision,
    replace: bool,
) -> Result<Transferred> {
    let bar = progress("keys");
    let done = fill(target, place::options(etcd), records, seen, replace, |written| bar.set_position(written)).await;
    bar.finish_and_clear();
    match done {
        Ok(done) => Ok(done),
        Err(error @ TransferError::NotEmpty(_)) => {
            Err(error).context("nothing was changed; --force replaces what is there")
        }
        Err(TransferError::Target { source: error @ gantry_store::Error::Locked { .. }, .. }) => {
            Err(place::in_use(error, target))
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads and checks a whole backup.
pub fn read_through(file: &Path) -> Result<(Header, u64), BackupError> {
    let (mut reader, header) = open(file)?;
    while reader.next_chunk()?.is_some() {}
    Ok((header, reader.records()))
}

/// Opens a backup.
pub fn open(file: &Path) -> Result<(Reader<BufReader<File>>, Header), BackupError> {
    let opened = File::open(file);
    let opened = opened.map_err(|source| BackupError::Io { what: "cannot open", path: file.to_owned(), source })?;
    Reader::open(BufReader::new(opened))
}

/// The objects of a backup, read on a thread of its own.
fn stream_file(file: PathBuf) -> impl Stream<Item = Result<Vec<KeyValue>, BackupError>> + Send {
    let (sender, receiver) = tokio::sync::mpsc::channel(CHUNKS_WAITING);
    tokio::task::spawn_blocking(move || {
        let mut reader = match open(&file) {
            Ok((reader, _)) => reader,
            Err(error) => return drop(sender.blocking_send(Err(error))),
        };
        while let Some(chunk) = reader.next_chunk().transpose() {
            let failed = chunk.is_err();
            // Nobody listens any more when writing failed.
            if sender.blocking_send(chunk).is_err() || failed {
                return;
            }
        }
    });
    futures::stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) })
}
