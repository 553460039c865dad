//! Where a store is reached. In: flags. Out: the store itself, or the server that has it open.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::{AsyncReadExt, Stream};
use gantry_apiserver::operations::StoreStatus;
use gantry_store::{Error, Options, Retention, Store, Target};
use kube::Client;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Where;
use crate::args::EtcdFlags;
use crate::client::ClientFlags;

/// A store, or who has it.
pub enum Place {
    /// An API server with the store.
    Server(Server),
    /// The store itself.
    Store {
        /// Which.
        target: Target,
        /// Open.
        store: Arc<dyn Store>,
    },
}

/// An API server, as its administrator.
pub struct Server(Client);

impl Server {
    /// What the server says.
    pub async fn get<T: DeserializeOwned>(&self, verb: &str) -> Result<T> {
        let request = http::Request::get(path(verb)).body(Vec::new())?;
        Ok(self.0.request(request).await?)
    }

    /// What the server did.
    pub async fn post<T: DeserializeOwned>(&self, verb: &str, body: &impl Serialize) -> Result<T> {
        let body = serde_json::to_vec(body)?;
        let body = if body == b"null" { Vec::new() } else { body };
        let request = http::Request::post(path(verb)).header("content-type", "application/json").body(body)?;
        Ok(self.0.request(request).await?)
    }

    /// A backup as it comes.
    pub async fn snapshot(&self) -> Result<impl Stream<Item = Result<Bytes, std::io::Error>> + Send + use<>> {
        let request = http::Request::get(path("snapshot")).body(Vec::new())?;
        let body = Box::pin(self.0.request_stream(request).await?);
        Ok(futures::stream::try_unfold(body, |mut body| async move {
            let mut buffer = vec![0; 64 << 10];
            let count = body.read(&mut buffer).await?;
            buffer.truncate(count);
            Ok((count > 0).then(|| (Bytes::from(buffer), body)))
        }))
    }
}

fn path(verb: &str) -> String {
    format!("/gantry/store/{verb}")
}

/// The store that the flags name.
pub fn target(place: &Where) -> Result<Target> {
    Ok(Target::parse(&place.store, &place.data.data_dir.join("store"))?)
}

/// How a store is opened that is not served: history is not dropped behind somebody's back.
pub fn options(etcd: &EtcdFlags) -> Options {
    let retention = Retention { age: std::time::Duration::MAX / 4, revisions: u64::MAX };
    Options { retention, etcd: etcd.options(), ..Options::default() }
}

/// The store, directly if nobody has it open.
pub async fn find(place: &Where, flags: &ClientFlags) -> Result<Place> {
    if flags.kubeconfig.is_some() || flags.server.is_some() {
        return Ok(Place::Server(Server(flags.client().await?)));
    }
    let target = target(place)?;
    must_exist(&target)?;
    match gantry_store::open(&target, options(&place.etcd)).await {
        Ok(store) => Ok(Place::Store { target, store }),
        Err(Error::Locked { .. }) => {
            let server = own_server(place).await?;
            server.get::<StoreStatus>("status").await.with_context(|| {
                format!("{target} is open in another process, and its API server does not answer as {} says; name its kubeconfig with --kubeconfig", admin(place).display())
            })?;
            Ok(Place::Server(server))
        }
        Err(error) => Err(error).with_context(|| format!("cannot open {target}")),
    }
}

/// The same, but through a server also where the store could be opened beside it: servers must know of what is done.
pub async fn find_served(place: &Where, flags: &ClientFlags) -> Result<Place> {
    if matches!(target(place)?, Target::Etcd(_))
        && flags.kubeconfig.is_none()
        && flags.server.is_none()
        && let Ok(server) = own_server(place).await
        && server.get::<StoreStatus>("status").await.is_ok()
    {
        return Ok(Place::Server(server));
    }
    find(place, flags).await
}

/// The store, which must not be in use.
pub async fn open_unused(target: &Target, etcd: &EtcdFlags) -> Result<Arc<dyn Store>> {
    must_exist(target)?;
    gantry_store::open(target, options(etcd)).await.map_err(|error| in_use(error, target))
}

/// What to say when a store cannot be opened for a work that needs it alone.
pub fn in_use(error: Error, target: &Target) -> anyhow::Error {
    let locked = matches!(error, Error::Locked { .. });
    let error = anyhow::Error::from(error);
    if locked {
        error.context(format!("{target} is in use; stop the server that has it open and try again"))
    } else {
        error.context(format!("cannot open {target}"))
    }
}

fn must_exist(target: &Target) -> Result<()> {
    if !gantry_store::exists(target) {
        bail!("there is no store in {target}; --data-dir or --store names another");
    }
    Ok(())
}

fn admin(place: &Where) -> std::path::PathBuf {
    place.data.data_dir.join("admin.kubeconfig")
}

/// The API server whose data directory it is.
async fn own_server(place: &Where) -> Result<Server> {
    let flags = ClientFlags { kubeconfig: Some(admin(place)), ..ClientFlags::default() };
    let client = flags
        .client()
        .await
        .context("the store is open in another process; name its API server's kubeconfig with --kubeconfig")?;
    Ok(Server(client))
}
