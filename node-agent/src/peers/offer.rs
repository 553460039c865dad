//! What this node gives to others: parts of images that were pulled here, to nodes that may have them.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::wanted::Wanted;
use crate::pods::{Pulled, repository};
use crate::runtime::{Runtime, RuntimeError};

/// How many are given at the same time: pods of this node need its disk and network too.
const GIVEN_AT_ONCE: usize = 4;

/// Registries take no larger manifests.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// Why something is not given.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is not here, or not for who asks: which of the two is nobody's business.
    #[error("there is no such part of an image here")]
    NotFound,
    /// Others are given something.
    #[error("others are being given images")]
    Busy,
    /// The runtime has failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// What others are given.
#[derive(Clone)]
pub struct Offer {
    runtime: Arc<dyn Runtime>,
    pulled: Arc<Pulled>,
    node_name: String,
    places: Arc<Semaphore>,
}

/// Something that is given.
pub struct Given {
    /// How large all of it is, whatever the offset.
    pub total: u64,
    /// Its bytes, from the offset on.
    pub bytes: BoxStream<'static, Result<Bytes, RuntimeError>>,
}

impl Offer {
    /// What this node has.
    pub fn new(runtime: Arc<dyn Runtime>, pulled: Arc<Pulled>, node_name: String) -> Self {
        Self { runtime, pulled, node_name, places: Arc::new(Semaphore::new(GIVEN_AT_ONCE)) }
    }

    /// Gives the node `to` something from an offset on, if it belongs to an image that everybody may use who asks for it by this
    /// repository, or for which that node has shown credentials.
    pub async fn give(&self, wanted: &Wanted, offset: u64, to: &str, proofs: &str) -> Result<Given, Refused> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| Refused::Busy)?;
        let total = self.runtime.content_size(&wanted.digest).await?.ok_or(Refused::NotFound)?;
        if offset >= total.max(1) || !self.is_for(wanted, to, proofs).await? {
            return Err(Refused::NotFound);
        }
        let bytes = self.runtime.read_content(&wanted.digest, offset).await?;
        // Its place is free again when the last byte has gone, or nobody wants it any more.
        let bytes = bytes.inspect_ok(move |_| _ = &place).boxed();
        Ok(Given { total, bytes })
    }

    /// Whether one of the images of the repository that the node may have has this part.
    async fn is_for(&self, wanted: &Wanted, to: &str, proofs: &str) -> Result<bool, Refused> {
        for image in self.runtime.images().await? {
            let manifest = image.digests.iter().find(|name| repository(name) == wanted.repository);
            let Some((_, manifest)) = manifest.and_then(|name| name.split_once('@')) else { continue };
            if self.may_have(wanted, &image.id, to, proofs).await && self.has_part(manifest, &wanted.digest).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn may_have(&self, wanted: &Wanted, image: &str, to: &str, proofs: &str) -> bool {
        let (asked, shown, to) = (wanted.clone(), proofs.to_owned(), to.to_owned());
        let (own, notes, image) = (self.node_name.clone(), self.pulled.clone(), image.to_owned());
        let look = move || notes.may_give(&asked.repository, &image, |hash| asked.is_proven(&shown, hash, &to, &own));
        tokio::task::spawn_blocking(look).await.unwrap_or(false)
    }

    /// Whether a manifest, or one of those that an index names, is or names this.
    async fn has_part(&self, manifest: &str, wanted: &str) -> Result<bool, Refused> {
        let mut left = vec![manifest.to_owned()];
        while let Some(digest) = left.pop() {
            if digest == wanted {
                return Ok(true);
            }
            // Of an index only what this machine can run is here.
            let Some(text) = self.read_manifest(&digest).await? else { continue };
            let manifest: Manifest = serde_json::from_slice(&text).unwrap_or_default();
            if manifest.config.iter().chain(&manifest.layers).any(|part| part.digest == wanted) {
                return Ok(true);
            }
            left.extend(manifest.manifests.into_iter().map(|part| part.digest));
        }
        Ok(false)
    }

    async fn read_manifest(&self, digest: &str) -> Result<Option<Vec<u8>>, Refused> {
        let size = self.runtime.content_size(digest).await?;
        if size.is_none_or(|size| size > MANIFEST_BYTES_MAX) {
            return Ok(None);
        }
        let pieces = self.runtime.read_content(digest, 0).await?;
        Ok(Some(
            pieces
                .try_fold(Vec::new(), async |mut text, piece| {
                    text.extend_from_slice(&piece);
                    Ok(text)
                })
                .await?,
        ))
    }
}

/// What a manifest names, or an index of manifests.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Manifest {
    config: Option<Part>,
    layers: Vec<Part>,
    manifests: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    digest: String,
}
