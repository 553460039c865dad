//! Leases: what keeps the parts of an image from being collected as garbage while there is no image yet.
//!
//! A lease names the process that took it. One whose process is no more holds what nobody goes on with, and so does one of
//! this process that no import holds: containerd was away when it was to be given back.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{CreateRequest, DeleteRequest, ListRequest};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request};

use super::{ImportError, containerd};
use crate::runtime::cri::namespaced;

const PREFIX: &str = "gantry-import-";
/// The label that says who took a lease.
const LABEL_PROCESS: &str = "io.gantry.importer";

/// How often a lease is given back that containerd was not there for, and how soon again: it is back within a second.
const GIVE_BACK_TRIES: usize = 5;
const GIVE_BACK_RETRY: Duration = Duration::from_secs(1);

/// The leases that imports of this process hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held(Arc<Mutex<HashSet<String>>>);

impl Held {
    fn with<T>(&self, work: impl FnOnce(&mut HashSet<String>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An id that keeps what is being imported.
pub(super) struct Lease {
    id: String,
    held: Held,
}

/// Whatever way an import ends: what it held then is nobody's.
impl Drop for Lease {
    fn drop(&mut self) {
        self.held.with(|held| held.remove(&self.id));
    }
}

impl Lease {
    /// Takes a lease.
    pub(super) async fn take(channel: &Channel, held: &Held) -> Result<Self, ImportError> {
        let lease = Self { id: format!("{PREFIX}{}", uuid::Uuid::new_v4()), held: held.clone() };
        held.with(|held| held.insert(lease.id.clone()));
        // Should nobody look for what this process left, the lease expires by itself.
        let expiry = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
        let mut labels = HashMap::from([("containerd.io/gc.expire".to_owned(), expiry.to_string())]);
        labels.extend(process(std::process::id()).map(|name| (LABEL_PROCESS.to_owned(), name)));
        LeasesClient::new(channel.clone())
            .create(namespaced(CreateRequest { id: lease.id.clone(), labels }))
            .await
            .map_err(|status| containerd("lease what is imported", status))?;
        Ok(lease)
    }

    /// Gives it back: what no image refers to is collected.
    pub(super) async fn give_back(self, channel: &Channel) {
        for _ in 1..GIVE_BACK_TRIES {
            if delete(channel, &self.id).await {
                return;
            }
            tokio::time::sleep(GIVE_BACK_RETRY).await;
        }
        delete(channel, &self.id).await;
    }

    /// A request whose effects the lease keeps.
    pub(super) fn apply<T>(&self, message: T) -> Request<T> {
        let mut request = namespaced(message);
        // A lease id is made of letters, digits and dashes.
        if let Ok(value) = MetadataValue::try_from(self.id.as_str()) {
            request.metadata_mut().insert("containerd-lease", value);
        }
        request
    }
}

/// Gives back the leases of processes that are no more, and this one's that no import holds.
pub(super) async fn give_back_orphaned(channel: &Channel, held: &Held) {
    let request = ListRequest { filters: vec![format!("id~=^{PREFIX}")] };
    let leases = match LeasesClient::new(channel.clone()).list(namespaced(request)).await {
        Ok(answer) => answer.into_inner().leases,
        Err(status) => {
            tracing::debug!(error = %status, "what interrupted imports left is left to expire");
            return;
        }
    };
    for lease in leases.into_iter().filter(|lease| is_orphaned(&lease.id, lease.labels.get(LABEL_PROCESS), held)) {
        tracing::info!(lease = lease.id, "what an interrupted import left is given up");
        delete(channel, &lease.id).await;
    }
}

/// Whether the lease is no more.
async fn delete(channel: &Channel, id: &str) -> bool {
    let request = DeleteRequest { id: id.to_owned(), sync: false };
    match LeasesClient::new(channel.clone()).delete(namespaced(request)).await {
        Ok(_) => true,
        Err(status) => {
            tracing::debug!(lease = id, error = %status, "a lease is not given back yet");
            status.code() == Code::NotFound
        }
    }
}

/// Whether nobody goes on with what a lease keeps: the process that it names is no more, or is this one and does not hold it. A
/// lease that names none is left to expire.
fn is_orphaned(id: &str, name: Option<&String>, held: &Held) -> bool {
    let Some(pid) = name.and_then(|name| name.split('-').next()?.parse().ok()) else { return false };
    if process(pid).as_ref() != name {
        return true;
    }
    pid == std::process::id() && !held.with(|held| held.contains(id))
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
        let held = Held::default();
        let is_orphaned = |name: Option<&str>| is_orphaned("lease", name.map(str::to_owned).as_ref(), &held);
        let parent = process(std::os::unix::process::parent_id()).unwrap();
        assert!(!is_orphaned(Some(&parent)));
        assert!(is_orphaned(Some(&format!("{parent}0"))), "an earlier process of the same number");
        assert!(is_orphaned(Some(&format!("{}-1", u32::MAX))), "there is none");
        assert!(!is_orphaned(None) && !is_orphaned(Some("nobody")));
    }

    #[test]
    fn a_lease_of_this_process_is_orphaned_when_its_import_is_over() {
        let own = process(std::process::id()).unwrap();
        let held = Held::default();
        let lease = Lease { id: "lease".to_owned(), held: held.clone() };
        held.with(|held| held.insert(lease.id.clone()));
        assert!(!is_orphaned("lease", Some(&own), &held));
        assert!(is_orphaned("another", Some(&own), &held));
        drop(lease);
        assert!(is_orphaned("lease", Some(&own), &held), "containerd was away when it was given back");
    }
}
