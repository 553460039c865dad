//! Changing objects: updates, patches and server-side apply, on the object itself or on a subresource.

use gantry_api::engine::{self, BodyFormat, Changed, Context, PatchType};
use gantry_api::kinds::Resource;
use gantry_api::{ApiError, Reason, codec, meta};
use gantry_store::{Error, Op, Precondition};
use serde_json::Value;

use super::service_address::ATTEMPTS_MAX;
use super::{AsOf, Caller, Current, Fresh, Registry, Written, delete, errors};
use crate::admission::{Attributes, Operation};

/// How often a change that lost a race is computed again on the newer object before the client gets a conflict.
pub(super) const CONFLICT_ATTEMPTS_MAX: usize = 16;

/// A patch: what kind it is and its text.
#[derive(Debug, Clone, Copy)]
pub struct PatchRequest<'a> {
    /// The kind.
    pub kind: PatchType,
    /// The body.
    pub body: &'a [u8],
}

/// Which object, and through which subresource (empty: the object itself).
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The resource.
    pub resource: &'a Resource,
    /// The subresource.
    pub subresource: &'a str,
    /// The namespace.
    pub namespace: &'a str,
    /// The name.
    pub name: &'a str,
}

impl Target<'_> {
    fn sub(&self) -> Option<&str> {
        (!self.subresource.is_empty()).then_some(self.subresource)
    }

    fn is_scale(&self) -> bool {
        self.subresource == "scale"
    }
}

/// What one attempt to write came to.
enum Attempt {
    Done(Written),
    /// Somebody else was faster, or a chosen address was taken.
    Again,
}

impl Registry {
    /// Replaces an object, or the part of it that the subresource is.
    pub async fn update(
        &self,
        target: Target<'_>,
        body: &[u8],
        format: BodyFormat,
        caller: &Caller,
    ) -> Result<Written, ApiError> {
        let fresh = Fresh::new();
        let mut context = fresh.context(caller);
        let given = match target.sub() {
            None => engine::read(target.resource, body, format, &mut context)?,
            Some(sub) => engine::decode_subresource(target.resource, sub, body, format, &mut context)?,
        };
        let warnings = context.warnings;
        check_target(&target, &given)?;
        let mut written = self
            .modify(target, caller, |old, _| {
                if !target.is_scale() {
                    return Ok(given.clone());
                }
                let mut new = old.clone();
                engine::apply_scale(target.resource, &mut new, &given)?;
                copy_preconditions(&given, &mut new);
                Ok(new)
            })
            .await?;
        written.warnings.splice(0..0, warnings);
        Ok(written)
    }

    /// Patches an object; server-side apply creates it if it is not there.
    pub async fn patch(
        &self,
        target: Target<'_>,
        patch: PatchRequest<'_>,
        caller: &Caller,
    ) -> Result<Written, ApiError> {
        let applies = matches!(patch.kind, PatchType::Apply { .. }) && target.subresource.is_empty();
        for _ in 0..CONFLICT_ATTEMPTS_MAX {
            let changed = self
                .modify(target, caller, |old, context| {
                    if !target.is_scale() {
                        let new =
                            engine::patch(target.resource, target.sub(), Some(old), patch.kind, patch.body, context)?;
                        check_target(&target, &new)?;
                        return Ok(new);
                    }
                    let view = engine::scale_view(target.resource, old)?;
                    let scale =
                        engine::patch(target.resource, target.sub(), Some(&view), patch.kind, patch.body, context)?;
                    let mut new = old.clone();
                    engine::apply_scale(target.resource, &mut new, &scale)?;
                    copy_preconditions(&scale, &mut new);
                    Ok(new)
                })
                .await;
            match changed {
                Err(error) if applies && error.reason == Reason::NotFound && is_about(&error, &target) => {}
                other => return other,
            }
            match self.apply_new(target, patch, caller).await {
                Err(error) if error.reason == Reason::AlreadyExists => {}
                other => return other,
            }
        }
        Err(ApiError::conflict(&target.resource.qualified(), target.name, "it was created and deleted again meanwhile"))
    }

    async fn apply_new(
        &self,
        target: Target<'_>,
        patch: PatchRequest<'_>,
        caller: &Caller,
    ) -> Result<Written, ApiError> {
        let fresh = Fresh::new();
        let mut context = fresh.context(caller);
        let mut object = engine::patch(target.resource, None, None, patch.kind, patch.body, &mut context)?;
        check_target(&target, &object)?;
        if !meta::uid(&object).is_empty() {
            return Err(ApiError::conflict(
                &target.resource.qualified(),
                target.name,
                format!(
                    "uid mismatch: the provided object specified uid {}, and no existing object was found",
                    meta::uid(&object)
                ),
            ));
        }
        let metadata = meta::metadata_mut(&mut object);
        metadata.entry("name").or_insert_with(|| Value::from(target.name));
        let (warnings, applied) = (context.warnings, context.applied);
        let mut written =
            self.create_once(target.resource, target.namespace, object, caller, &AsOf::now(), applied).await?;
        written.warnings.splice(0..0, warnings);
        Ok(written)
    }

    /// Computes the new object from the current one until it could be written without losing another's change.
    pub(crate) async fn modify<F>(&self, target: Target<'_>, caller: &Caller, mut make: F) -> Result<Written, ApiError>
    where
        F: FnMut(&Value, &mut Context<'_>) -> Result<Value, ApiError> + Send,
    {
        let mut attempts = CONFLICT_ATTEMPTS_MAX;
        if super::service_address::concerns(target.resource) {
            attempts += ATTEMPTS_MAX;
        }
        for _ in 0..attempts {
            let current = self.current(target.resource, target.namespace, target.name).await?;
            if let Attempt::Done(written) = self.modify_once(target, &current, caller, &mut make).await? {
                return Ok(written);
            }
        }
        Err(modified(&target))
    }

    async fn modify_once<F>(
        &self,
        target: Target<'_>,
        current: &Current,
        caller: &Caller,
        make: &mut F,
    ) -> Result<Attempt, ApiError>
    where
        F: FnMut(&Value, &mut Context<'_>) -> Result<Value, ApiError> + Send,
    {
        let resource = target.resource;
        let fresh = Fresh::new();
        let mut context = fresh.context(caller);
        let old = self.value(resource, current).await?;
        let mut new = make(&old, &mut context)?;
        check_preconditions(&target, &old, &new)?;
        engine::prepare_update(resource, target.sub(), &old, &mut new, &mut context)?;
        let changed = self.complete_update(target, &old, &mut new, caller, &mut context).await?;
        let warnings = std::mem::take(&mut context.warnings);
        let done = async |registry: &Self, object| {
            Ok(Attempt::Done(Written {
                object: registry.present_through(&target, object).await?,
                created: false,
                warnings,
            }))
        };
        if delete::is_complete(resource, &new) {
            if !caller.dry_run {
                match self.remove(resource, current, &old).await {
                    Ok(()) => {}
                    Err(Error::Conflict { .. }) => return Ok(Attempt::Again),
                    Err(error) => return Err(errors::from_store(error)),
                }
            }
            let bytes = self.encode(resource, &new).await?;
            return done(self, codec::with_resource_version(&bytes, current.revision)).await;
        }
        if changed == Changed::No {
            return done(self, current.bytes.clone()).await;
        }
        let mut claims = self.addresses.plan(resource, Some(&old), Some(&mut new))?;
        let bytes = self.encode(resource, &new).await?;
        if caller.dry_run {
            return done(self, codec::with_resource_version(&bytes, current.revision)).await;
        }
        let precondition = Some(Precondition::ModRevision(current.revision));
        let mut ops = vec![Op::Put { key: current.key.clone(), value: bytes.clone(), precondition }];
        ops.append(&mut claims.ops);
        match self.store.txn(ops).await {
            Ok(revision) => done(self, codec::with_resource_version(&bytes, revision)).await,
            Err(Error::Conflict { key, .. }) if key == current.key || claims.may_retry(&key) => Ok(Attempt::Again),
            Err(Error::Conflict { key, .. }) => Err(self.addresses.taken(resource, target.name, &key)),
            Err(error) => Err(errors::from_store(error)),
        }
    }

    /// Admission and validation of an update, in their order.
    async fn complete_update(
        &self,
        target: Target<'_>,
        old: &Value,
        new: &mut Value,
        caller: &Caller,
        context: &mut Context<'_>,
    ) -> Result<Changed, ApiError> {
        let (resource, sub) = (target.resource, target.sub());
        if !target.is_scale() {
            let as_of = AsOf::now();
            let attributes = Attributes::new(Operation::Update, target, caller).with_old(old).as_of(&as_of);
            self.admission.admit(&attributes, Some(&mut *new), self).await?;
            let changed = engine::finish_update(resource, sub, old, new, context)?;
            self.admission.validate(&attributes, Some(new), self).await?;
            return Ok(changed);
        }
        // Admission sees the Scale that was sent, not the object behind it.
        let old_scale = engine::scale_view(resource, old)?;
        let mut scale = engine::scale_view(resource, new)?;
        let attributes = Attributes::new(Operation::Update, target, caller).with_old(&old_scale);
        let before = scale.clone();
        self.admission.admit(&attributes, Some(&mut scale), self).await?;
        if scale != before {
            engine::apply_scale(resource, new, &scale)?;
        }
        let changed = engine::finish_update(resource, sub, old, new, context)?;
        self.admission.validate(&attributes, Some(&engine::scale_view(resource, new)?), self).await?;
        Ok(changed)
    }

    /// What a client that asked through a subresource sees.
    pub async fn present_through(&self, target: &Target<'_>, object: bytes::Bytes) -> Result<bytes::Bytes, ApiError> {
        let object = self.present(target.resource, object).await?;
        if !target.is_scale() {
            return Ok(object);
        }
        let value = codec::decode(&object)?;
        let scale = engine::scale_view(target.resource, &value)?;
        Ok(bytes::Bytes::from(scale.to_string()))
    }
}

fn is_about(error: &ApiError, target: &Target<'_>) -> bool {
    error.details.as_ref().is_some_and(|details| details.name == target.name && details.kind == target.resource.plural)
}

pub(super) fn modified(target: &Target<'_>) -> ApiError {
    ApiError::conflict(
        &target.resource.qualified(),
        target.name,
        "the object has been modified; please apply your changes to the latest version and try again",
    )
}

/// The body must be about the object that the path names.
fn check_target(target: &Target<'_>, given: &Value) -> Result<(), ApiError> {
    let name = meta::name(given);
    if name.is_empty() && !matches!(target.subresource, "") {
        return Ok(());
    }
    if name != target.name && !name.is_empty() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    let namespace = meta::namespace(given);
    if target.resource.namespaced && !namespace.is_empty() && namespace != target.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// `resourceVersion` and `uid`, where the client sends them, must be those of the current object.
fn check_preconditions(target: &Target<'_>, old: &Value, new: &Value) -> Result<(), ApiError> {
    let uid = meta::uid(new);
    if !uid.is_empty() && uid != meta::uid(old) {
        return Err(ApiError::conflict(
            &target.resource.qualified(),
            target.name,
            format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", meta::uid(old)),
        ));
    }
    let revision = meta::resource_version(new);
    if !matches!(revision, "" | "0") && revision != meta::resource_version(old) {
        return Err(modified(target));
    }
    Ok(())
}

fn copy_preconditions(from: &Value, to: &mut Value) {
    for key in ["resourceVersion", "uid"] {
        if let Some(value) = from.pointer(&format!("/metadata/{key}")) {
            meta::metadata_mut(to).insert(key.to_owned(), value.clone());
        }
    }
}
