//! The contents of images, to be looked at: CRI has them only for containers to run from.

use std::collections::HashMap;

use containerd_client::services::v1::InfoRequest;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{MountsRequest, RemoveSnapshotRequest, ViewSnapshotRequest};
use tonic::Code;
use tonic::transport::Channel;

use super::errors::{Call, translate};
use super::namespaced;
use crate::runtime::{Result, RuntimeError, ViewMount};

/// What keeps a snapshot, and the layers below it, from being collected as garbage.
const LABEL_ROOT: &str = "containerd.io/gc.root";

/// The mounts that show the contents of the image with this id; kept under `key` until they are removed.
pub(super) async fn view(channel: &Channel, snapshotter: &str, id: &str, key: &str) -> Result<Vec<ViewMount>> {
    let mut snapshots = SnapshotsClient::new(channel.clone());
    let request = MountsRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
    let mounts = match snapshots.mounts(namespaced(request)).await {
        Ok(answer) => answer.into_inner().mounts,
        Err(status) if status.code() == Code::NotFound => {
            let request = ViewSnapshotRequest {
                snapshotter: snapshotter.to_owned(),
                key: key.to_owned(),
                parent: top(channel, snapshotter, id).await?,
                labels: HashMap::from([(LABEL_ROOT.to_owned(), jiff::Timestamp::now().to_string())]),
            };
            let answer = snapshots.view(namespaced(request)).await;
            answer.map_err(|status| translate(Call::Image, &status))?.into_inner().mounts
        }
        Err(status) => return Err(translate(Call::Image, &status)),
    };
    let mount = |mount: containerd_client::types::Mount| ViewMount {
        kind: mount.r#type,
        source: mount.source.into(),
        options: mount.options,
    };
    Ok(mounts.into_iter().map(mount).collect())
}

/// The snapshot of an image's topmost layer: its configuration, which CRI calls the image by, is what keeps it.
async fn top(channel: &Channel, snapshotter: &str, id: &str) -> Result<String> {
    let request = namespaced(InfoRequest { digest: id.to_owned() });
    let answer = ContentClient::new(channel.clone()).info(request).await;
    let info = answer.map_err(|status| translate(Call::Image, &status))?.into_inner().info.unwrap_or_default();
    let label = format!("containerd.io/gc.ref.snapshot.{snapshotter}");
    info.labels.get(&label).cloned().ok_or_else(|| RuntimeError::Failed(format!("the image {id} is not unpacked")))
}

/// Removes what is kept under `key`. Idempotent.
pub(super) async fn remove(channel: &Channel, snapshotter: &str, key: &str) -> Result<()> {
    let request = RemoveSnapshotRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
    super::missing_is_fine(SnapshotsClient::new(channel.clone()).remove(namespaced(request)).await)
}
