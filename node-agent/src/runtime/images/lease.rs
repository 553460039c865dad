//! Leases: what keeps the parts of an image from being collected as garbage while there is no image yet.
//!
//! A lease names the process that took it. One whose process is no more holds what nobody goes on with.

use std::collections::HashMap;
use std::path::Path;

use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{CreateRequest, DeleteRequest, ListRequest};
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

use super::{ImportError, containerd};
use crate::runtime::cri::namespaced;

const PREFIX: &str = "gantry-import-";
/// The label that says who took a lease.
const LABEL_PROCESS: &str = "io.gantry.importer";

/// An id that keeps what is being imported.
pub(super) struct Lease(String);

impl Lease {
    /// Takes a lease.
    pub(super) async fn take(channel: &Channel) -> Result<Self, ImportError> {
        let id = format!("{PREFIX}{}", uuid::Uuid::new_v4());
        // Should nobody look for what this process left, the lease expires by itself.
        let expiry = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
        let mut labels = HashMap::from([("containerd.io/gc.expire".to_owned(), expiry.to_string())]);
        labels.extend(process(std::process::id()).map(|name| (LABEL_PROCESS.to_owned(), name)));
        LeasesClient::new(channel.clone())
            .create(namespaced(CreateRequest { id: id.clone(), labels }))
            .await
            .map_err(|status| containerd("lease what is imported", status))?;
        Ok(Self(id))
    }

    /// Gives it back: what no image refers to is collected.
    pub(super) async fn give_back(self, channel: &Channel) {
        delete(channel, self.0).await;
    }

    /// A request whose effects the lease keeps.
    pub(super) fn apply<T>(&self, message: T) -> Request<T> {
        let mut request = namespaced(message);
        // A lease id is made of letters, digits and dashes.
        if let Ok(value) = MetadataValue::try_from(self.0.as_str()) {
            request.metadata_mut().insert("containerd-lease", value);
        }
        request
    }
}

/// Gives back the leases of processes that are no more.
pub(super) async fn give_back_orphaned(channel: &Channel) {
    let request = ListRequest { filters: vec![format!("id~=^{PREFIX}")] };
    let leases = match LeasesClient::new(channel.clone()).list(namespaced(request)).await {
        Ok(answer) => answer.into_inner().leases,
        Err(status) => {
            tracing::debug!(error = %status, "what interrupted imports left is left to expire");
            return;
        }
    };
    for lease in leases.into_iter().filter(|lease| is_orphaned(lease.labels.get(LABEL_PROCESS))) {
        tracing::info!(lease = lease.id, "what an interrupted import left is given up");
        delete(channel, lease.id).await;
    }
}

async fn delete(channel: &Channel, id: String) {
    let request = DeleteRequest { id, sync: false };
    if let Err(status) = LeasesClient::new(channel.clone()).delete(namespaced(request)).await {
        tracing::debug!(error = %status, "a lease is left to expire");
    }
}

/// Whether the process that a lease names is no more. One that names none is left to expire.
fn is_orphaned(name: Option<&String>) -> bool {
    let pid = name.and_then(|name| name.split('-').next()?.parse().ok());
    pid.is_some_and(|pid| process(pid).as_ref() != name)
}

/// A process by its number and the time of its start, so that a later one of the same number is another.
fn process(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The command's name, in brackets, may hold anything; the start time is the 22nd field of all.
    let started = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?;
    Some(format!("{pid}-{started}"))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_orphaned_when_its_process_is_no_more() {
        let own = process(std::process::id()).unwrap();
        assert!(!is_orphaned(Some(&own)));
        assert!(is_orphaned(Some(&format!("{own}0"))), "an earlier process of the same number");
        assert!(is_orphaned(Some(&format!("{}-1", u32::MAX))), "there is none");
        assert!(!is_orphaned(None) && !is_orphaned(Some(&"nobody".to_owned())));
    }
}
