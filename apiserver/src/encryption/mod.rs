//! Encryption at rest: values of chosen kinds, secrets unless somebody says otherwise, are stored encrypted.
//!
//! ```text
//! registry, cacher ──plain──▶ Sealed ──sealed──▶ store          Sealed asks ──▶ Encryption (the file's keys, which can change)
//! ```
//!
//! [`config`] reads the file, [`keyring`] seals and opens, [`sealed`] is the transformer between registry and store. Here are the
//! file of a server and the change of keys.

pub mod config;
pub mod keyring;
pub mod sealed;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::StreamExt;
use gantry_store::{Op, Precondition, Store};

use crate::cacher::ROOT;
use crate::pki::{PkiError, read_secret_file, write_secret_file};
use config::{Config, ConfigError, Key};
use keyring::{Keyring, sealed_with};
use sealed::Sealed;

/// The file in the folder of certificates and keys, unless another is named. It belongs there: servers that share a store must
/// share it, as they share the authority and the token key.
pub const FILE_NAME: &str = "encryption.yaml";
/// How many values are rewritten at once: enough to share commits, few enough to leave the store to others.
const REWRITES: usize = 16;
/// How often one value is tried that somebody keeps changing; whoever changes it encrypts it anew as well.
const REWRITE_ATTEMPTS: usize = 8;

/// How often everything is gone through at most in one change of keys.
const REWRITE_PASSES: usize = 4;
/// As long as a request may take, and so a write.
const WRITE_TIME: Duration = Duration::from_secs(60);
/// How often to look whether writes have ended; they take milliseconds.
const WRITE_POLL: Duration = Duration::from_millis(5);

/// Why encryption cannot be set up, or keys not be changed.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] PkiError),
    /// The file that was asked for is not there.
    #[error("there is no encryption configuration {}", .0.display())]
    Missing(PathBuf),
    /// The file is wrong.
    #[error("the encryption configuration {} cannot be used", path.display())]
    Config {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ConfigError,
    },
    /// The store failed.
    #[error("cannot read or rewrite the store")]
    Store(#[source] gantry_store::Error),
    /// Nothing is encrypted, so there are no keys to change.
    #[error("the encryption configuration {} encrypts nothing", .0.display())]
    NothingEncrypted(PathBuf),
}

/// The keys of a server and where they are from.
#[derive(Debug)]
pub struct Encryption {
    path: PathBuf,
    ring: RwLock<Arc<Keyring>>,
}

/// What a change of keys did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// The key that encrypts from now on.
    pub key: String,
    /// How many values were written anew.
    pub rewritten: u64,
    /// How many values cannot be read, and were left as they are.
    pub unreadable: u64,
    /// The keys that were dropped from the file.
    pub dropped: Vec<String>,
}

/// What is to be done in a change of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotateOptions {
    /// Add a new key, rather than to use the first of the file.
    pub new_key: bool,
    /// Drop the keys that nothing is encrypted with any more.
    pub drop_old: bool,
}

impl Encryption {
    /// Reads `file`, or the default one in `pki_dir`, which is made if there is none, unless `store` holds encrypted
    /// values already: then their keys are lost or elsewhere, and a new one would only add to the trouble.
    ///
    /// # Errors
    /// When a file cannot be read, made or used, or the store cannot be read.
    pub async fn load(file: Option<&Path>, pki_dir: &Path, store: &dyn Store) -> Result<Self, EncryptionError> {
        let path = file.map_or_else(|| pki_dir.join(FILE_NAME), Path::to_path_buf);
        let ring = match read(&path)? {
            Some(config) => config,
            None if file.is_some() => return Err(EncryptionError::Missing(path)),
            None if holds_sealed(store).await.map_err(EncryptionError::Store)? => {
                tracing::error!(
                    file = %path.display(),
                    "the store holds encrypted values but there is no encryption configuration: bring back the file, or copy it \
                     from another server of this store; until then secrets cannot be read or written"
                );
                Keyring::locked()
            }
            None => {
                let config = Config::new(new_key(&[]));
                write(&path, &config)?;
                tracing::info!(file = %path.display(), "made a key with which secrets are encrypted; keep a copy of the file");
                Keyring::new(config).map_err(|source| EncryptionError::Config { path: path.clone(), source })?
            }
        };
        Ok(Self { path, ring: RwLock::new(Arc::new(ring)) })
    }

    /// Reads `file`, or the default one in `pki_dir`, if there is one; makes none.
    ///
    /// # Errors
    /// When it cannot be read or used.
    pub fn of_file(file: Option<&Path>, pki_dir: &Path) -> Result<Self, EncryptionError> {
        let path = file.map_or_else(|| pki_dir.join(FILE_NAME), Path::to_path_buf);
        let ring = read(&path)?.unwrap_or_else(Keyring::locked);
        Ok(Self { path, ring: RwLock::new(Arc::new(ring)) })
    }

    /// The keys.
    pub fn keyring(&self) -> Arc<Keyring> {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file again.
    ///
    /// # Errors
    /// When it is gone or wrong; then the keys stay what they are.
    pub fn reload(&self) -> Result<(), EncryptionError> {
        self.exchange().map(drop)
    }

    /// Reads the file again, and returns the keys that were used until now.
    fn exchange(&self) -> Result<Arc<Keyring>, EncryptionError> {
        let ring = read(&self.path)?.ok_or_else(|| EncryptionError::Missing(self.path.clone()))?;
        let mut current = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::replace(&mut *current, Arc::new(ring)))
    }

    /// Changes the keys and writes every value anew that is not as the file wants it, while others read and write.
    /// `progress` is told how many were looked at. If it is interrupted, running it again goes on.
    ///
    /// # Errors
    /// When the file or the store fails. What was rewritten stays so, and every key that is needed is still in the file.
    pub async fn rotate(
        self: &Arc<Self>,
        store: &Arc<dyn Store>,
        options: RotateOptions,
        mut progress: impl FnMut(u64),
    ) -> Result<Rotation, EncryptionError> {
        let mut before = self.exchange()?;
        let mut config = self.keyring().config().cloned().ok_or_else(|| EncryptionError::Missing(self.path.clone()))?;
        if options.new_key {
            let names: Vec<&str> = config.keys().map(|key| key.name.as_str()).collect();
            let key = new_key(&names);
            config.add_first(&key);
            // In the file before anything is encrypted with it.
            write(&self.path, &config)?;
            let last = self.exchange()?;
            unused(before).await;
            before = last;
        }
        let first = config.resources.iter().find_map(|rule| rule.first_key()).map(|key| key.name.clone());
        let Some(key) = first else { return Err(EncryptionError::NothingEncrypted(self.path.clone())) };
        let sealed = Arc::new(Sealed::new(Arc::clone(store), Arc::clone(self)));
        let mut rotation = Rotation { key, ..Rotation::default() };
        // Writes that took the old keys are still under way, or were given up by their clients and happen nonetheless: so once
        // more, until there was nothing left to do.
        unused(before).await;
        for _ in 0..REWRITE_PASSES {
            let done = rotation.rewritten;
            rotation.unreadable = 0;
            self.rewrite(store.as_ref(), &sealed, &mut rotation, &mut progress)
                .await
                .map_err(EncryptionError::Store)?;
            if rotation.rewritten == done {
                break;
            }
        }
        if options.drop_old && rotation.unreadable == 0 {
            rotation.dropped = config.drop_unused();
            if !rotation.dropped.is_empty() {
                write(&self.path, &config)?;
                self.reload()?;
            }
        }
        Ok(rotation)
    }

    async fn rewrite(
        &self,
        store: &dyn Store,
        sealed: &Arc<Sealed>,
        rotation: &mut Rotation,
        progress: &mut impl FnMut(u64),
    ) -> Result<(), gantry_store::Error> {
        let (mut start_after, mut at, mut looked_at) = (None::<String>, None, 0);
        loop {
            let page = store.list(ROOT, start_after.as_deref(), 0, at).await?;
            at = Some(page.revision);
            let ring = self.keyring();
            let outdated = page.items.iter().filter(|kv| ring.is_outdated(&kv.key, &kv.value)).map(|kv| kv.key.clone());
            let outdated: Vec<String> = outdated.collect();
            let mut writes = futures::stream::iter(outdated)
                .map(|key| {
                    let (sealed, ring) = (Arc::clone(sealed), Arc::clone(&ring));
                    async move { rewrite_one(&sealed, &ring, &key).await }
                })
                .buffer_unordered(REWRITES);
            while let Some(written) = writes.next().await {
                match written? {
                    Rewritten::Yes => rotation.rewritten += 1,
                    Rewritten::Unneeded => {}
                    Rewritten::Unreadable => rotation.unreadable += 1,
                }
            }
            looked_at += page.items.len() as u64;
            progress(looked_at);
            if !page.more {
                return Ok(());
            }
            start_after = page.items.last().map(|kv| kv.key.clone());
        }
    }
}

/// Waits until no write that is under way uses these keys.
async fn unused(ring: Arc<Keyring>) {
    let deadline = tokio::time::Instant::now() + WRITE_TIME;
    while Arc::strong_count(&ring) > 1 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(WRITE_POLL).await;
    }
}

/// What became of a value that was to be written anew.
enum Rewritten {
    Yes,
    /// It is gone, or somebody else wrote it meanwhile.
    Unneeded,
    Unreadable,
}

async fn rewrite_one(sealed: &Sealed, ring: &Keyring, key: &str) -> Result<Rewritten, gantry_store::Error> {
    for _ in 0..REWRITE_ATTEMPTS {
        let (Some(kv), _) = sealed.inner().get(key).await? else { return Ok(Rewritten::Unneeded) };
        if !ring.is_outdated(key, &kv.value) {
            return Ok(Rewritten::Unneeded);
        }
        let Ok(value) = ring.open(key, &kv.value) else {
            tracing::warn!(key, "cannot be decrypted, and stays as it is");
            return Ok(Rewritten::Unreadable);
        };
        let precondition = Some(Precondition::ModRevision(kv.mod_revision));
        match sealed.txn(vec![Op::Put { key: key.to_owned(), value, precondition }]).await {
            Ok(_) => return Ok(Rewritten::Yes),
            Err(gantry_store::Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    // Whoever keeps changing it writes it with the new key.
    Ok(Rewritten::Unneeded)
}

/// Whether a store holds values that are encrypted.
async fn holds_sealed(store: &dyn Store) -> Result<bool, gantry_store::Error> {
    let (mut start_after, mut at) = (None::<String>, None);
    loop {
        let page = store.list(ROOT, start_after.as_deref(), 0, at).await?;
        if page.items.iter().any(|kv| sealed_with(&kv.value).is_some()) {
            return Ok(true);
        }
        if !page.more {
            return Ok(false);
        }
        at = Some(page.revision);
        start_after = page.items.last().map(|kv| kv.key.clone());
    }
}

/// A key with a name that tells when it was made and is not among `taken`.
fn new_key(taken: &[&str]) -> Key {
    let day = jiff::Timestamp::now().strftime("key-%Y%m%d").to_string();
    let names = std::iter::once(day.clone()).chain((2..).map(|n| format!("{day}-{n}")));
    let name = names.into_iter().find(|name| !taken.contains(&name.as_str()));
    Key::generate(name.unwrap_or(day))
}

fn read(path: &Path) -> Result<Option<Keyring>, EncryptionError> {
    let Some(text) = read_secret_file(path)? else { return Ok(None) };
    let ring = Config::parse(&text).and_then(Keyring::new);
    ring.map(Some).map_err(|source| EncryptionError::Config { path: path.to_owned(), source })
}

fn write(path: &Path, config: &Config) -> Result<(), EncryptionError> {
    let text = config.to_text().map_err(|source| EncryptionError::Config { path: path.to_owned(), source })?;
    Ok(write_secret_file(path, &text)?)
}
