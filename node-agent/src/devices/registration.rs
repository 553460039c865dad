//! The socket by which device plugins tell that they are there, and what follows: their devices are listed for as long as they
//! stay.
//!
//! The socket is made anew whenever the agent begins, and those of plugins are removed: by that they know that they have to tell
//! it again.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tracing::{info, warn};

use super::Devices;
use super::client::Plugin;
use super::messages::{Device, Empty, RegisterRequest};
use crate::socket::Socket;

/// The version of the interface.
const VERSION: &str = "v1beta1";
/// The socket's name.
#[cfg(unix)]
const SOCKET: &str = "kubelet.sock";

/// Serves the socket until shutdown.
pub async fn run(devices: Devices, stop: CancellationToken) {
    let Some(folder) = devices.folder() else { return stop.cancelled().await };
    let registry = Registry(Arc::new(Inner {
        devices,
        tasks: TaskTracker::new(),
        followed: Mutex::default(),
        stop: stop.child_token(),
    }));
    if let Err(error) = serve(&folder, registry.clone(), &stop).await {
        // A node without such devices is a node all the same.
        warn!(folder = %folder.display(), %error, "device plugins cannot register");
        stop.cancelled().await;
    }
    registry.0.stop.cancel();
    registry.0.tasks.close();
    registry.0.tasks.wait().await;
}

#[cfg(unix)]
async fn serve(folder: &Path, registry: Registry, stop: &CancellationToken) -> io::Result<()> {
    clear(folder)?;
    let listener = tokio::net::UnixListener::bind(folder.join(SOCKET))?;
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(registry);
    server.serve_with_incoming_shutdown(incoming, stop.cancelled()).await.map_err(io::Error::other)
}

#[cfg(not(unix))]
async fn serve(_folder: &Path, _registry: Registry, _stop: &CancellationToken) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Makes the folder and removes the sockets in it.
#[cfg(unix)]
fn clear(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    std::fs::create_dir_all(folder)?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_socket() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

struct Inner {
    devices: Devices,
    tasks: TaskTracker,
    /// What ends the following of each kind's plugin.
    followed: Mutex<HashMap<String, (u64, CancellationToken)>>,
    stop: CancellationToken,
}

/// The service that plugins call.
#[derive(Clone)]
struct Registry(Arc<Inner>);

impl NamedService for Registry {
    const NAME: &'static str = "v1beta1.Registration";
}

impl tower::Service<http::Request<Body>> for Registry {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let registry = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/v1beta1.Registration/Register" => Grpc::new(ProstCodec::default()).unary(registry, request).await,
                path => Status::unimplemented(format!("unknown method {path}")).into_http(),
            })
        })
    }
}

impl UnaryService<RegisterRequest> for Registry {
    type Response = Empty;
    type Future = BoxFuture<'static, Result<Response<Empty>, Status>>;

    fn call(&mut self, request: Request<RegisterRequest>) -> Self::Future {
        let registry = self.clone();
        Box::pin(async move {
            let request = request.into_inner();
            let resource = request.resource_name.clone();
            registry.register(request).await.map(|()| Response::new(Empty {})).map_err(|why| {
                warn!(resource, error = why, "a device plugin cannot be registered");
                Status::unknown(why)
            })
        })
    }
}

impl Registry {
    async fn register(&self, request: RegisterRequest) -> Result<(), String> {
        check(&request)?;
        let inner = &self.0;
        let folder = inner.devices.folder().ok_or("this node has no devices")?;
        let plugin = Plugin(Socket(folder.join(&request.endpoint)));
        let options =
            plugin.options().await.map_err(|error| format!("failed to get device plugin options: {error}"))?;
        let resource = request.resource_name;
        let generation = inner.devices.connected(&resource, plugin.clone(), options).await;
        info!(resource, endpoint = request.endpoint, "a device plugin is registered");
        let stop = inner.stop.child_token();
        let mut followed = inner.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if followed.get(&resource).is_some_and(|(newer, _)| *newer > generation) {
            // One that registered after this one is followed already.
            return Ok(());
        }
        if let Some((_, before)) = followed.insert(resource.clone(), (generation, stop.clone())) {
            before.cancel();
        }
        let devices = inner.devices.clone();
        inner.tasks.spawn(async move {
            let followed = stop.run_until_cancelled(follow(&devices, &resource, generation, &plugin)).await;
            if let Some(Err(error)) = followed {
                warn!(resource, %error, "a device plugin is no more followed");
            }
            devices.disconnected(&resource, generation);
        });
        Ok(())
    }
}

/// Hands on what a plugin lists, until it is no more.
async fn follow(devices: &Devices, resource: &str, generation: u64, plugin: &Plugin) -> Result<(), Status> {
    let mut lists = plugin.devices().await.map_err(|error| Status::unknown(error.to_string()))?;
    while let Some(list) = lists.message().await? {
        let listed = list.devices.into_iter().map(|device| (device.id, device.health == Device::HEALTHY));
        devices.listed(resource, generation, listed.collect());
    }
    info!(resource, "a device plugin has ended");
    Ok(())
}

/// Whether this is a plugin that can be used.
fn check(request: &RegisterRequest) -> Result<(), String> {
    if request.version != VERSION {
        return Err(format!(
            "requested API version {:?} is not supported by kubelet. Supported version is [{VERSION:?}]",
            request.version
        ));
    }
    if !is_extended(&request.resource_name) {
        return Err(format!("the ResourceName {:?} is invalid", request.resource_name));
    }
    Ok(())
}

/// Whether this is a resource's name that is not Kubernetes' own: a domain, a slash and a name.
fn is_extended(name: &str) -> bool {
    let Some((domain, rest)) = name.split_once('/') else { return false };
    // Quotas count them as `requests.` and the name.
    let label = |text: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = text.as_bytes();
        ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|byte| inner(*byte))
    };
    let lower = !domain.bytes().any(|byte| byte.is_ascii_uppercase() || byte == b'_');
    let own = name.contains("kubernetes.io/") || domain.starts_with("requests.");
    !own && lower && domain.len() + "requests.".len() <= 253 && label(domain) && rest.len() <= 63 && label(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plugins_of_this_version_and_of_other_peoples_resources_are_taken() {
        let request = |version: &str, name: &str| RegisterRequest {
            version: version.into(),
            resource_name: name.into(),
            ..RegisterRequest::default()
        };
        assert_eq!(check(&request("v1beta1", "nvidia.com/gpu")), Ok(()));
        assert_eq!(
            check(&request("v2", "nvidia.com/gpu")).unwrap_err(),
            "requested API version \"v2\" is not supported by kubelet. Supported version is [\"v1beta1\"]"
        );
        for name in
            ["cpu", "kubernetes.io/x", "a.kubernetes.io/x", "requests.a/x", "A.b/x", "a.b/", "/x", "a.b/x/y", ""]
        {
            assert_eq!(check(&request("v1beta1", name)).unwrap_err(), format!("the ResourceName {name:?} is invalid"));
        }
    }
}
