//! The Lease object. In: records. Out: reads and conditional writes through the API, and Events that tell who leads.

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::api::PostParams;
use kube::{Api, Client};

use super::plan::{Record, Versioned};

/// Where the leases of a cluster's own components are.
const NAMESPACE: &str = "kube-system";
/// How long to wait for an Event to be written; they are told on a best-effort basis.
const EVENT_WAIT: Duration = Duration::from_secs(1);

/// Why the lease could not be read or written.
#[derive(Debug)]
pub enum Failure {
    /// Somebody else created or changed it first.
    Raced,
    /// The API refused or could not be reached.
    Api(kube::Error),
    /// There was no answer in time.
    NoAnswer,
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 409 => Failure::Raced,
            other => Failure::Api(other),
        }
    }
}

/// Waits for an answer no longer than `patience`.
pub async fn within<T>(patience: Duration, request: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(patience, request).await.unwrap_or(Err(Failure::NoAnswer))
}

/// One Lease.
pub struct Lock {
    client: Client,
    leases: Api<Lease>,
    name: &'static str,
    identity: String,
    /// As last read or written: whatever others put on it is kept.
    last: Option<Lease>,
}

impl Lock {
    /// The lease `name` as used by `identity`.
    pub fn new(client: Client, name: &'static str, identity: String) -> Self {
        Self { leases: Api::namespaced(client.clone(), NAMESPACE), client, name, identity, last: None }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The lease as it is; none if there is none.
    pub async fn read(&mut self) -> Result<Option<Versioned>, Failure> {
        self.last = self.leases.get_opt(self.name).await?;
        Ok(self.last.as_ref().map(versioned))
    }

    /// Makes the lease.
    pub async fn create(&mut self, record: &Record) -> Result<Versioned, Failure> {
        let metadata = ObjectMeta {
            name: Some(self.name.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        };
        let lease = Lease { metadata, spec: Some(spec(record, LeaseSpec::default())) };
        let created = self.leases.create(&PostParams::default(), &lease).await?;
        Ok(self.took(created))
    }

    /// Writes the lease if it still has the version of `wanted`.
    pub async fn replace(&mut self, wanted: &Versioned) -> Result<Versioned, Failure> {
        let mut lease = self.last.clone().unwrap_or_default();
        lease.metadata.name = Some(self.name.to_owned());
        lease.metadata.resource_version = Some(wanted.version.clone());
        lease.spec = Some(spec(&wanted.record, lease.spec.unwrap_or_default()));
        let replaced = self.leases.replace(self.name, &PostParams::default(), &lease).await?;
        Ok(self.took(replaced))
    }

    fn took(&mut self, lease: Lease) -> Versioned {
        let versioned = versioned(&lease);
        self.last = Some(lease);
        versioned
    }

    /// Tells in an Event on the lease what became of this candidate.
    pub async fn event(&self, what: &str) {
        let Some(lease) = &self.last else { return };
        let now = Timestamp::now();
        let event = Event {
            metadata: ObjectMeta {
                // As Kubernetes names events: the object and the time.
                name: Some(format!("{}.{:x}", self.name, now.as_nanosecond())),
                namespace: Some(NAMESPACE.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("coordination.k8s.io/v1".to_owned()),
                kind: Some("Lease".to_owned()),
                name: Some(self.name.to_owned()),
                namespace: Some(NAMESPACE.to_owned()),
                resource_version: lease.metadata.resource_version.clone(),
                uid: lease.metadata.uid.clone(),
                field_path: None,
            },
            reason: Some("LeaderElection".to_owned()),
            message: Some(format!("{} {what}", self.identity)),
            type_: Some("Normal".to_owned()),
            source: Some(EventSource { component: Some(self.name.to_owned()), host: None }),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..Event::default()
        };
        let events: Api<Event> = Api::namespaced(self.client.clone(), NAMESPACE);
        let written = tokio::time::timeout(EVENT_WAIT, events.create(&PostParams::default(), &event)).await;
        if !matches!(written, Ok(Ok(_))) {
            tracing::debug!(lease = self.name, what, "the event could not be written");
        }
    }
}

/// A record as the Lease has it; what else is in the spec stays.
fn spec(record: &Record, before: LeaseSpec) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(record.holder.clone()),
        lease_duration_seconds: Some(record.lease_seconds),
        acquire_time: Some(MicroTime(record.acquired)),
        renew_time: Some(MicroTime(record.renewed)),
        lease_transitions: Some(record.transitions),
        ..before
    }
}

/// What a Lease says; what it leaves out is as little as can be.
fn versioned(lease: &Lease) -> Versioned {
    let spec = lease.spec.clone().unwrap_or_default();
    let time = |time: Option<MicroTime>| time.map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    Versioned {
        record: Record {
            holder: spec.holder_identity.unwrap_or_default(),
            lease_seconds: spec.lease_duration_seconds.unwrap_or_default(),
            acquired: time(spec.acquire_time),
            renewed: time(spec.renew_time),
            transitions: spec.lease_transitions.unwrap_or_default(),
        },
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}
