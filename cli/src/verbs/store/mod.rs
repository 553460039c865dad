//! `gantry store`: backups, moves, checks and keys of the store, in use or not.
//!
//! A store that nobody has open is worked on directly, and so is etcd; one that a server has open is reached through that
//! server's API, as the administrator.

mod backup;
mod place;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use gantry_apiserver::encryption::{Encryption, RotateOptions, Rotation};
use gantry_apiserver::operations::{self, StoreStatus};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use self::place::Place;
use super::output::{Format, Out, columns};
use crate::args::{DataDir, EtcdFlags};
use crate::client::ClientFlags;
use crate::components::identity::pki_dir;

/// `gantry store`
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Show a store's engine, revisions, size, key and last scheduled backup
    Status(StatusArgs),
    /// Write everything that is stored at one moment to a file, while the store is in use or not
    Backup(backup::BackupArgs),
    /// Fill a store from a backup
    Restore(backup::RestoreArgs),
    /// Fill a store from another, to move from one machine's store to etcd or back
    Copy(backup::CopyArgs),
    /// Check a store or a backup: checksums, encryption, and that every object is what its key says
    Verify(verify::VerifyArgs),
    /// Drop history: watches and lists at older revisions begin anew
    Compact(CompactArgs),
    /// Encrypt with a new key, and write anew what an older one encrypted
    Rotate(RotateArgs),
}

/// Which store.
#[derive(clap::Args, Debug, Clone)]
pub struct Where {
    #[command(flatten)]
    pub data: DataDir,
    /// `embedded` (in the data directory), `embedded:DIR`, or `etcd://HOST:PORT[,HOST:PORT…]`
    #[arg(long, default_value = "embedded", value_name = "STORE")]
    pub store: String,
    #[command(flatten)]
    pub etcd: EtcdFlags,
}

/// The keys.
#[derive(clap::Args, Debug, Clone)]
pub struct KeyFile {
    /// The encryption configuration; by default the data directory's pki/encryption.yaml
    #[arg(long, value_name = "FILE")]
    pub encryption_config: Option<PathBuf>,
}

/// `gantry store status`
#[derive(clap::Args, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    keys: KeyFile,
    /// Output format: json, yaml
    #[arg(long, short = 'o', default_value = "", hide_default_value = true, value_name = "FORMAT")]
    output: String,
}

/// `gantry store compact`
#[derive(clap::Args, Debug)]
pub struct CompactArgs {
    #[command(flatten)]
    place: Where,
    /// Keep the history from this revision on; by default only the present is kept
    #[arg(long, value_name = "REVISION")]
    before: Option<u64>,
}

/// `gantry store rotate`
#[derive(clap::Args, Debug)]
pub struct RotateArgs {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    keys: KeyFile,
    /// Make no new key: write anew what is not encrypted with the first key of the file
    #[arg(long)]
    keep_key: bool,
    /// Drop the old keys from the file afterwards; backups made before then cannot be read without a copy of it
    #[arg(long)]
    drop_old_keys: bool,
}

/// Carries the command out.
pub async fn run(command: Command, flags: &ClientFlags) -> Result<ExitCode> {
    match command {
        Command::Status(args) => status(&args, flags).await?,
        Command::Backup(args) => backup::backup(&args, flags).await?,
        Command::Restore(args) => backup::restore(&args).await?,
        Command::Copy(args) => backup::copy(&args).await?,
        Command::Verify(args) => return verify::run(&args, flags).await,
        Command::Compact(args) => compact(&args, flags).await?,
        Command::Rotate(args) => rotate(&args, flags).await?,
    }
    Ok(ExitCode::SUCCESS)
}

impl KeyFile {
    /// The keys of the file, if there is one.
    fn read(&self, place: &Where) -> Result<Encryption> {
        Ok(Encryption::of_file(self.encryption_config.as_deref(), &pki_dir(&place.data.data_dir))?)
    }
}

async fn status(args: &StatusArgs, flags: &ClientFlags) -> Result<()> {
    let format: Format = args.output.parse()?;
    let status: StoreStatus = match place::find(&args.place, flags).await? {
        Place::Server(server) => server.get("status").await?,
        Place::Store { target, store } => {
            let keys = args.keys.read(&args.place)?;
            let status = operations::status_of(&target.to_string(), store.as_ref(), &keys).await;
            store.close().await?;
            status?
        }
    };
    let out = Out::default();
    match format {
        Format::Json => out.line(serde_json::to_string_pretty(&status)?),
        Format::Yaml => out.text(&serde_saphyr::to_string(&status)?),
        _ => {
            let last = status.last_backup.and_then(|second| jiff::Timestamp::from_second(second).ok());
            let none = || "<none>".to_owned();
            let header = ["STORE", "ENGINE", "REVISION", "OLDEST", "SIZE", "KEY", "LAST-BACKUP"].map(str::to_owned);
            let row = [
                status.store,
                status.engine,
                status.revision.to_string(),
                status.oldest_revision.to_string(),
                size(status.size_bytes),
                status.encryption_key.unwrap_or_else(none),
                last.map_or_else(none, |last| last.to_string()),
            ];
            out.text(&columns(&[header.to_vec(), row.to_vec()]))
        }
    }
}

async fn compact(args: &CompactArgs, flags: &ClientFlags) -> Result<()> {
    let before = match place::find(&args.place, flags).await? {
        Place::Server(server) => {
            let verb = args.before.map_or_else(|| "compact".to_owned(), |before| format!("compact?before={before}"));
            let answer: serde_json::Value = server.post(&verb, &json!(null)).await?;
            answer["before"].as_u64().unwrap_or_default()
        }
        Place::Store { store, .. } => {
            let before = operations::compact(store.as_ref(), args.before).await;
            store.close().await?;
            before?
        }
    };
    Out::default().line(format!("history before revision {before} dropped"))
}

async fn rotate(args: &RotateArgs, flags: &ClientFlags) -> Result<()> {
    let options = RotateOptions { new_key: !args.keep_key, drop_old: args.drop_old_keys };
    let bar = progress("objects looked at");
    let rotation: Rotation = match place::find_served(&args.place, flags).await? {
        Place::Server(server) => {
            server.post("rotate", &json!({"newKey": options.new_key, "dropOld": options.drop_old})).await?
        }
        Place::Store { store, .. } => {
            let keys = std::sync::Arc::new(args.keys.read(&args.place)?);
            let rotation = keys.rotate(&store, options, |done| bar.set_position(done)).await;
            store.close().await?;
            rotation?
        }
    };
    bar.finish_and_clear();
    let out = Out::default();
    out.line(format!("{} values written anew with key {}", rotation.rewritten, rotation.key))?;
    if !rotation.dropped.is_empty() {
        out.line(format!("dropped from the file: {}", rotation.dropped.join(", ")))?;
    }
    if rotation.unreadable > 0 {
        bail!(
            "{} values cannot be decrypted and stay as they are; bring their key back into the file and run this again (`gantry store verify` names them)",
            rotation.unreadable
        );
    }
    Ok(())
}

/// A spinner on a terminal, nothing elsewhere.
fn progress(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed_precise} {human_pos} {msg}") {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}
