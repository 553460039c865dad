//! Deleting objects: preconditions, propagation, finalizers, grace.
//!
//! [`plan`] decides, purely, what a DELETE does to an object as it is; the registry carries that out.

use bytes::Bytes;
use futures::StreamExt;
use gantry_api::kinds::Resource;
use gantry_api::{ApiError, Reason, codec, meta};
use gantry_store::{Error, Op, Precondition};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Caller, Current, Deleted, ListRequest, Registry, Target, errors};
use crate::admission::{Attributes, Operation};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// How many deletions of a `deletecollection` are under way at once: enough to share group commits.
const COLLECTION_PARALLEL: usize = 32;
/// How often a deletion that lost a race is decided again.
const ATTEMPTS_MAX: usize = 32;

/// What happens to dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// The garbage collector deletes them afterwards.
    Background,
    /// The object stays until they are gone.
    Foreground,
    /// They lose their owner and stay.
    Orphan,
}

/// `metav1.DeleteOptions`.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds to wait for a graceful end; none: the kind's default.
    pub grace_period_seconds: Option<i64>,
    /// What happens to dependents.
    pub propagation: Option<Propagation>,
    /// Only if the object has this UID.
    pub uid: Option<String>,
    /// Only if the object has this resourceVersion.
    pub resource_version: Option<String>,
    /// Do everything but store it.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Reads the options of a request body.
    pub fn from_value(value: &Value) -> Result<Self, ApiError> {
        let invalid = |error| ApiError::invalid("meta.k8s.io", "DeleteOptions", "", vec![error]);
        let mut options = Self {
            grace_period_seconds: value.get("gracePeriodSeconds").and_then(Value::as_i64),
            uid: value.pointer("/preconditions/uid").and_then(Value::as_str).map(str::to_owned),
            resource_version: value
                .pointer("/preconditions/resourceVersion")
                .and_then(Value::as_str)
                .map(str::to_owned),
            ..Self::default()
        };
        let orphan = value.get("orphanDependents").and_then(Value::as_bool);
        options.propagation = match value.get("propagationPolicy").and_then(Value::as_str) {
            Some(_) if orphan.is_some() => {
                return Err(invalid(gantry_api::FieldError::invalid(
                    "propagationPolicy",
                    value["propagationPolicy"].clone(),
                    "orphanDependents and deletionPropagation cannot be both set",
                )));
            }
            Some(text) => Some(Propagation::parse(text).map_err(invalid)?),
            None => orphan.map(|orphan| if orphan { Propagation::Orphan } else { Propagation::Background }),
        };
        for dry_run in value.get("dryRun").and_then(Value::as_array).into_iter().flatten() {
            if dry_run != "All" {
                return Err(invalid(gantry_api::FieldError::not_supported("dryRun", dry_run.clone(), &["All"])));
            }
            options.dry_run = true;
        }
        Ok(options)
    }
}

impl DeleteOptions {
    /// Adds what is set to the JSON form.
    pub(crate) fn show(&self, options: &mut Value) {
        if let Some(seconds) = self.grace_period_seconds {
            options["gracePeriodSeconds"] = json!(seconds);
        }
        if let Some(propagation) = self.propagation {
            options["propagationPolicy"] = json!(match propagation {
                Propagation::Background => "Background",
                Propagation::Foreground => "Foreground",
                Propagation::Orphan => "Orphan",
            });
        }
        for (key, value) in [("uid", &self.uid), ("resourceVersion", &self.resource_version)] {
            if let Some(value) = value {
                options["preconditions"][key] = json!(value);
            }
        }
    }
}

impl Propagation {
    /// Reads a `propagationPolicy`.
    pub fn parse(text: &str) -> Result<Self, gantry_api::FieldError> {
        match text {
            "Background" => Ok(Self::Background),
            "Foreground" => Ok(Self::Foreground),
            "Orphan" => Ok(Self::Orphan),
            _ => Err(gantry_api::FieldError::not_supported(
                "propagationPolicy",
                text,
                &["Foreground", "Background", "Orphan"],
            )),
        }
    }
}

/// What a DELETE does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// The object goes.
    Remove,
    /// The object is written like this: it is being deleted, and something holds it.
    Mark(Value),
    /// It is being deleted already and nothing new was asked.
    Nothing,
}

fn is_pod(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.plural == "pods"
}

fn is_namespace(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.plural == "namespaces"
}

/// Whether an object that is being deleted has nothing left that holds it.
pub(crate) fn is_complete(resource: &Resource, object: &Value) -> bool {
    meta::is_deleting(object)
        && meta::finalizers(object).next().is_none()
        && meta::get(object, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(0) == 0
        && (!is_namespace(resource) || namespace_is_finalized(object))
}

fn namespace_is_finalized(namespace: &Value) -> bool {
    namespace.pointer("/spec/finalizers").and_then(Value::as_array).is_none_or(Vec::is_empty)
}

/// How long the object may take to end: nothing but a running pod takes any time.
fn grace(resource: &Resource, object: &Value, requested: Option<i64>) -> i64 {
    if !is_pod(resource) {
        return 0;
    }
    let phase = meta::str_at(object, &["status", "phase"]);
    if meta::str_at(object, &["spec", "nodeName"]).is_empty() || matches!(phase, "Failed" | "Succeeded") {
        return 0;
    }
    let default = meta::get(object, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(30);
    match requested.unwrap_or(default) {
        negative if negative < 0 => 1,
        seconds => seconds,
    }
}

/// The finalizers after a deletion with this propagation was asked for.
fn finalizers_after(object: &Value, propagation: Option<Propagation>) -> Vec<String> {
    let has = |name: &str| meta::finalizers(object).any(|finalizer| finalizer == name);
    let (orphan, foreground) = match propagation {
        Some(propagation) => (propagation == Propagation::Orphan, propagation == Propagation::Foreground),
        None => (has(ORPHAN), has(FOREGROUND) && !has(ORPHAN)),
    };
    let mut finalizers: Vec<String> =
        meta::finalizers(object).filter(|name| !matches!(*name, ORPHAN | FOREGROUND)).map(str::to_owned).collect();
    if orphan {
        finalizers.push(ORPHAN.to_owned());
    }
    if foreground {
        finalizers.push(FOREGROUND.to_owned());
    }
    finalizers
}

/// Decides what deleting `object` at `now` does to it.
pub(crate) fn plan(resource: &Resource, object: &Value, options: &DeleteOptions, now: Timestamp) -> Step {
    let mut finalizers = finalizers_after(object, options.propagation);
    if let Some(cleanup) = resource.strategy.cleanup_finalizer()
        && !meta::is_deleting(object)
        && !finalizers.iter().any(|known| known == cleanup)
    {
        finalizers.push(cleanup.to_owned());
    }
    let seconds = grace(resource, object, options.grace_period_seconds);
    let deleting = meta::is_deleting(object);
    let holds = !finalizers.is_empty() || (is_namespace(resource) && !namespace_is_finalized(object));
    if seconds == 0 && !holds {
        return Step::Remove;
    }
    let mut marked = object.clone();
    let pending = meta::get(object, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
    let metadata = meta::metadata_mut(&mut marked);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), json!(finalizers));
    }
    // A deletion under way can be made shorter, never longer.
    if !deleting || pending.is_some_and(|pending| seconds < pending) {
        let generation = metadata.get("generation").and_then(Value::as_i64).unwrap_or(0);
        if generation > 0 && !deleting {
            metadata.insert("generation".to_owned(), json!(generation + 1));
        }
        let at = now.checked_add(SignedDuration::from_secs(seconds.min(i64::from(u32::MAX)))).unwrap_or(now);
        metadata.insert("deletionTimestamp".to_owned(), json!(meta::time(at)));
        metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(seconds));
        if is_namespace(resource) {
            meta::object_mut(&mut marked, "status").insert("phase".to_owned(), json!("Terminating"));
        }
    }
    if marked == *object { Step::Nothing } else { Step::Mark(marked) }
}

impl Registry {
    /// Deletes one object.
    pub async fn delete(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
        caller: &Caller,
    ) -> Result<Deleted, ApiError> {
        self.delete_once(Target { resource, subresource: "", namespace, name }, options, caller, true).await
    }

    /// Deletes one object; without asking admission where what led to the deletion was asked about.
    pub(super) async fn delete_once(
        &self,
        target: Target<'_>,
        options: &DeleteOptions,
        caller: &Caller,
        asks_admission: bool,
    ) -> Result<Deleted, ApiError> {
        let Target { resource, namespace, name, .. } = target;
        for _ in 0..ATTEMPTS_MAX {
            let current = self.current(resource, namespace, name).await?;
            // Deletion looks at metadata and a pod's phase only: the stored version will do.
            let object = codec::decode(&current.bytes)?;
            check_preconditions(resource, name, &object, options)?;
            if asks_admission {
                let attributes = Attributes::new(Operation::Delete, target, caller);
                let shown = match &resource.conversion {
                    Some(_) => std::borrow::Cow::Owned(self.value(resource, &current).await?),
                    None => std::borrow::Cow::Borrowed(&object),
                };
                let attributes = attributes.with_old(&shown).with_delete_options(options);
                self.admission.admit(&attributes, None, self).await?;
                self.admission.validate(&attributes, None, self).await?;
            }
            let step = plan(resource, &object, options, Timestamp::now());
            if options.dry_run {
                return self.answer(resource, &object, step == Step::Remove, current.bytes).await;
            }
            let result = match &step {
                Step::Nothing => return self.answer(resource, &object, false, current.bytes).await,
                Step::Remove => self.remove(resource, &current, &object).await.map(|()| current.bytes.clone()),
                Step::Mark(marked) => self.put(&current, codec::encode(marked)).await,
            };
            match result {
                Ok(bytes) => return self.answer(resource, &object, step == Step::Remove, bytes).await,
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(errors::from_store(error)),
            }
        }
        Err(ApiError::conflict(&resource.qualified(), name, "the object kept changing while it was to be deleted"))
    }

    /// Deletes all objects that a list selects; answers with what was deleted.
    pub async fn delete_collection(
        &self,
        resource: &Resource,
        list: &ListRequest,
        options: &DeleteOptions,
        caller: &Caller,
    ) -> Result<super::ListResult, ApiError> {
        let found = self.list(resource, list).await?;
        let mut failures = Vec::new();
        {
            let mut names = Vec::with_capacity(found.objects.len());
            for object in &found.objects {
                let facts = codec::facts(resource, object)?;
                names.push((facts.namespace, facts.name));
            }
            let deletions = names.into_iter().map(|(namespace, name)| async move {
                self.delete(resource, &namespace, &name, options, caller).await
            });
            let mut deletions = futures::stream::iter(deletions).buffer_unordered(COLLECTION_PARALLEL);
            while let Some(result) = deletions.next().await {
                match result {
                    Err(error) if error.reason != Reason::NotFound => failures.push(error),
                    _ => {}
                }
            }
        }
        match failures.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(found),
        }
    }

    /// Removes an object and releases what it claimed.
    pub(crate) async fn remove(&self, resource: &Resource, current: &Current, object: &Value) -> Result<(), Error> {
        let precondition = Some(Precondition::ModRevision(current.revision));
        let mut ops = vec![Op::Delete { key: current.key.clone(), precondition }];
        // Releasing never fails: it has nothing to choose.
        if let Ok(mut claims) = self.addresses.plan(resource, Some(object), None) {
            ops.append(&mut claims.ops);
        }
        ops.extend(super::room::release(resource, object));
        self.store.txn(ops).await.map(|_| ())
    }

    pub(super) async fn put(&self, current: &Current, bytes: Bytes) -> Result<Bytes, Error> {
        let precondition = Some(Precondition::ModRevision(current.revision));
        let op = Op::Put { key: current.key.clone(), value: bytes.clone(), precondition };
        let revision = self.store.txn(vec![op]).await?;
        Ok(codec::with_resource_version(&bytes, revision))
    }

    async fn answer(
        &self,
        resource: &Resource,
        object: &Value,
        removed: bool,
        bytes: Bytes,
    ) -> Result<Deleted, ApiError> {
        let shows_object = resource.group.is_empty()
            && matches!(resource.plural.as_str(), "pods" | "services" | "serviceaccounts" | "persistentvolumeclaims");
        if removed && !shows_object {
            return Ok(Deleted::Gone(meta::uid(object).to_owned()));
        }
        Ok(Deleted::Object(self.present(resource, bytes).await?))
    }
}

pub(super) fn check_preconditions(
    resource: &Resource,
    name: &str,
    object: &Value,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    for (what, wanted, found) in [
        ("UID", &options.uid, meta::uid(object)),
        ("ResourceVersion", &options.resource_version, meta::resource_version(object)),
    ] {
        if let Some(wanted) = wanted
            && wanted != found
        {
            return Err(ApiError::conflict(
                &resource.qualified(),
                name,
                format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_api::kinds::Catalog;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn running_pod() -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 10}, "status": {"phase": "Running"}})
    }

    fn plan_pod(object: &Value, options: &DeleteOptions) -> Step {
        plan(Catalog::builtin().resource("", "v1", "pods").unwrap(), object, options, now())
    }

    #[test]
    fn a_running_pod_gets_its_grace() {
        let Step::Mark(marked) = plan_pod(&running_pod(), &DeleteOptions::default()) else { panic!("not marked") };
        assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:10Z");
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 10);
        // Again, with the same grace: nothing new. With less: sooner. With none: gone.
        assert_eq!(plan_pod(&marked, &DeleteOptions::default()), Step::Nothing);
        let shorter = DeleteOptions { grace_period_seconds: Some(3), ..Default::default() };
        assert!(
            matches!(plan_pod(&marked, &shorter), Step::Mark(sooner) if sooner["metadata"]["deletionGracePeriodSeconds"] == 3)
        );
        let now = DeleteOptions { grace_period_seconds: Some(0), ..Default::default() };
        assert_eq!(plan_pod(&marked, &now), Step::Remove);
    }

    #[test]
    fn pods_that_run_nowhere_go_at_once() {
        let mut unscheduled = running_pod();
        unscheduled["spec"]["nodeName"] = json!("");
        assert_eq!(plan_pod(&unscheduled, &DeleteOptions::default()), Step::Remove);
        let mut finished = running_pod();
        finished["status"]["phase"] = json!("Succeeded");
        assert_eq!(plan_pod(&finished, &DeleteOptions::default()), Step::Remove);
    }

    #[test]
    fn propagation_sets_finalizers() {
        let catalog = Catalog::builtin();
        let deployments = catalog.resource("apps", "v1", "deployments").unwrap();
        let object = json!({"metadata": {"name": "d", "generation": 2}});
        for (propagation, finalizer) in [(Propagation::Foreground, FOREGROUND), (Propagation::Orphan, ORPHAN)] {
            let options = DeleteOptions { propagation: Some(propagation), ..Default::default() };
            let Step::Mark(marked) = plan(deployments, &object, &options, now()) else { panic!("not marked") };
            assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
            assert_eq!(marked["metadata"]["generation"], 3);
            assert!(!is_complete(deployments, &marked));
            let background = DeleteOptions { propagation: Some(Propagation::Background), ..Default::default() };
            assert_eq!(plan(deployments, &marked, &background, now()), Step::Remove);
        }
        assert_eq!(plan(deployments, &object, &DeleteOptions::default(), now()), Step::Remove);
    }

    #[test]
    fn a_namespace_terminates_until_it_is_finalized() {
        let catalog = Catalog::builtin();
        let namespaces = catalog.resource("", "v1", "namespaces").unwrap();
        let object =
            json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let Step::Mark(mut marked) = plan(namespaces, &object, &DeleteOptions::default(), now()) else {
            panic!("not marked")
        };
        assert_eq!(marked["status"]["phase"], "Terminating");
        assert_eq!(plan(namespaces, &marked, &DeleteOptions::default(), now()), Step::Nothing);
        assert!(!is_complete(namespaces, &marked));
        marked["spec"]["finalizers"] = json!([]);
        assert!(is_complete(namespaces, &marked));
    }

    #[test]
    fn options_are_read_and_checked() {
        let options = DeleteOptions::from_value(&json!({"propagationPolicy": "Orphan", "gracePeriodSeconds": 0, "preconditions": {"uid": "u"}, "dryRun": ["All"]})).unwrap();
        assert_eq!(
            (options.propagation, options.grace_period_seconds, options.uid.as_deref(), options.dry_run),
            (Some(Propagation::Orphan), Some(0), Some("u"), true)
        );
        assert!(DeleteOptions::from_value(&json!({"propagationPolicy": "Sideways"})).is_err());
        assert!(DeleteOptions::from_value(&json!({"propagationPolicy": "Orphan", "orphanDependents": true})).is_err());
    }
}
