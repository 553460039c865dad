//! The parts of images as containerd keeps them, which CRI does not show.

use bytes::Bytes;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::{InfoRequest, ReadContentRequest};
use futures::stream::{BoxStream, StreamExt as _};
use tonic::Code;
use tonic::transport::Channel;

use super::errors::{Call, translate};
use super::namespaced;
use crate::runtime::Result;

/// How large a part is, if it is here.
pub(super) async fn size(channel: &Channel, digest: &str) -> Result<Option<u64>> {
    let request = namespaced(InfoRequest { digest: digest.to_owned() });
    match ContentClient::new(channel.clone()).info(request).await {
        Ok(answer) => Ok(u64::try_from(answer.into_inner().info.unwrap_or_default().size).ok()),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(translate(Call::Image, &status)),
    }
}

/// A part's bytes.
pub(super) async fn read(channel: &Channel, digest: &str, offset: u64) -> Result<BoxStream<'static, Result<Bytes>>> {
    let request = ReadContentRequest {
        digest: digest.to_owned(),
        offset: i64::try_from(offset).unwrap_or(i64::MAX),
        ..Default::default()
    };
    let answer = ContentClient::new(channel.clone()).read(namespaced(request)).await;
    let pieces = answer.map_err(|status| translate(Call::Image, &status))?.into_inner();
    let piece = |piece: std::result::Result<_, _>| match piece {
        Ok(containerd_client::services::v1::ReadContentResponse { data, .. }) => Ok(data.into()),
        Err(status) => Err(translate(Call::Image, &status)),
    };
    Ok(pieces.map(piece).boxed())
}
