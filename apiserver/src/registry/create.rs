//! Creating objects.

use gantry_api::engine::{self, BodyFormat};
use gantry_api::kinds::Resource;
use gantry_api::{ApiError, Reason, codec, meta};
use gantry_store::{Error, Op, Precondition};
use jiff::Timestamp;
use serde_json::Value;

use super::prepared::{Asked, Prepared};
use super::service_address::ATTEMPTS_MAX;
use super::{AsOf, Caller, Fresh, Registry, Target, Written, errors};
use crate::admission::{Attributes, Operation, Surroundings};

/// How many names are tried for a `generateName`.
const NAME_ATTEMPTS_MAX: usize = 8;

impl Registry {
    /// Creates an object from a request body.
    pub async fn create(
        &self,
        resource: &Resource,
        namespace: &str,
        body: &[u8],
        format: BodyFormat,
        caller: &Caller,
    ) -> Result<Written, ApiError> {
        let as_of = AsOf::now();
        let asked = Asked::new(resource, namespace, body, format, caller);
        let surroundings = match asked {
            Some(_) => self.surroundings(resource, namespace, caller, &as_of).await?,
            None => None,
        };
        let asked = asked.zip(surroundings);
        if let Some((asked, surroundings)) = &asked
            && let Some(prepared) = self.bodies.find(asked, surroundings)
            && let Some(written) = self.create_copy(resource, namespace, &prepared).await?
        {
            return Ok(written);
        }
        let read_body = || {
            let fresh = Fresh::new();
            let mut context = fresh.context(caller);
            let object = engine::read(resource, body, format, &mut context)?;
            Ok::<_, ApiError>((object, context.warnings))
        };
        let (object, warnings) = read_body()?;
        let again = || Ok(read_body()?.0);
        let generated = meta::name(&object).is_empty();
        let mut written = self.create_generated(resource, namespace, object, again, caller, &as_of).await?;
        written.warnings.splice(0..0, warnings);
        if let Some((asked, surroundings)) = asked.filter(|_| generated && caller.notes.is_empty()) {
            self.bodies.keep(resource, &asked, surroundings, &written);
        }
        Ok(written)
    }

    /// What admission of a new object goes by, as recent as `as_of`; none if that cannot be told.
    async fn surroundings(
        &self,
        resource: &Resource,
        namespace: &str,
        caller: &Caller,
        as_of: &AsOf,
    ) -> Result<Option<Surroundings>, ApiError> {
        if !self.is_cached(as_of).await? {
            return Ok(None);
        }
        let target = Target { resource, subresource: "", namespace, name: "" };
        Ok(self.admission.surroundings(&Attributes::new(Operation::Create, target, caller).as_of(as_of), self))
    }

    /// Creates another object of a body that was prepared before; none if its names are taken too often.
    async fn create_copy(
        &self,
        resource: &Resource,
        namespace: &str,
        prepared: &Prepared,
    ) -> Result<Option<Written>, ApiError> {
        for _ in 0..NAME_ATTEMPTS_MAX {
            let Some((facts, bytes)) = prepared.copy(&Fresh::new(), Timestamp::now()) else { return Ok(None) };
            debug_assert_eq!(codec::facts(resource, &bytes).ok().as_ref(), Some(&facts), "a copy's facts");
            let key = resource.key(namespace, &facts.name);
            let telling = self.cacher.told().tell(&key, &bytes, facts);
            let op = Op::Put { key, value: bytes.clone(), precondition: Some(Precondition::Absent) };
            match self.store.txn(vec![op]).await {
                Ok(revision) => {
                    telling.stored();
                    let object = codec::with_resource_version(&bytes, revision);
                    return Ok(Some(Written { object, created: true, warnings: prepared.warnings() }));
                }
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(errors::from_store(error)),
            }
        }
        Ok(None)
    }

    /// Creates a decoded object.
    pub async fn create_value(
        &self,
        resource: &Resource,
        namespace: &str,
        object: Value,
        caller: &Caller,
    ) -> Result<Written, ApiError> {
        let kept = object.clone();
        self.create_generated(resource, namespace, object, || Ok(kept.clone()), caller, &AsOf::now()).await
    }

    /// Creates an object, as it was given `again` under other names while a generated one is taken.
    async fn create_generated(
        &self,
        resource: &Resource,
        namespace: &str,
        mut object: Value,
        mut again: impl FnMut() -> Result<Value, ApiError>,
        caller: &Caller,
        as_of: &AsOf,
    ) -> Result<Written, ApiError> {
        let attempts = if meta::name(&object).is_empty() { NAME_ATTEMPTS_MAX } else { 1 };
        for _ in 1..attempts {
            match self.create_once(resource, namespace, object, caller, as_of, false).await {
                Err(error) if error.reason == Reason::AlreadyExists => object = again()?,
                other => return other,
            }
        }
        self.create_once(resource, namespace, object, caller, as_of, false).await
    }

    /// Creates an object whose name is final or generated once. `applied`: its fields' owners are recorded already.
    pub(super) async fn create_once(
        &self,
        resource: &Resource,
        namespace: &str,
        mut object: Value,
        caller: &Caller,
        as_of: &AsOf,
        applied: bool,
    ) -> Result<Written, ApiError> {
        let fresh = Fresh::new();
        let mut context = fresh.context(caller);
        context.applied = applied;
        let scope = resource.namespaced.then_some(namespace);
        engine::prepare_create(resource, &mut object, scope, &mut context)?;
        let name = meta::name(&object).to_owned();
        let target = Target { resource, subresource: "", namespace, name: &name };
        let attributes = Attributes::new(Operation::Create, target, caller).as_of(as_of);
        let given = SYSTEM_FIELDS.map(|key| object["metadata"].get(key).cloned());
        self.admission.admit(&attributes, Some(&mut object), self).await?;
        keep_system_fields(resource, given, &mut object)?;
        engine::finish_create(resource, &mut object, &mut context)?;
        self.admission.validate(&attributes, Some(&object), self).await?;
        let warnings = std::mem::take(&mut context.warnings);
        if caller.dry_run {
            if self.find(resource, namespace, &name).await?.is_some() {
                return Err(ApiError::already_exists(&resource.qualified(), &name));
            }
            self.addresses.plan(resource, None, Some(&mut object))?;
            let bytes = self.encode(resource, &object).await?;
            return Ok(Written { object: self.present(resource, bytes).await?, created: true, warnings });
        }
        self.store_new(resource, namespace, &name, &object, warnings).await
    }

    async fn store_new(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        object: &Value,
        warnings: Vec<String>,
    ) -> Result<Written, ApiError> {
        let key = resource.key(namespace, name);
        let mut attempt = 1;
        loop {
            let mut candidate = std::borrow::Cow::Borrowed(object);
            let mut claims = if super::service_address::concerns(resource) {
                self.addresses.plan(resource, None, Some(candidate.to_mut()))?
            } else {
                Default::default()
            };
            let bytes = self.encode(resource, &candidate).await?;
            let mut ops =
                vec![Op::Put { key: key.clone(), value: bytes.clone(), precondition: Some(Precondition::Absent) }];
            ops.append(&mut claims.ops);
            match self.store.txn(ops).await {
                Ok(revision) => {
                    let object = self.present(resource, codec::with_resource_version(&bytes, revision)).await?;
                    return Ok(Written { object, created: true, warnings });
                }
                Err(Error::Conflict { key: taken, current }) if taken == key => {
                    return Err(existing(resource, name, current));
                }
                Err(Error::Conflict { key: taken, .. }) if claims.may_retry(&taken) && attempt < ATTEMPTS_MAX => {
                    attempt += 1
                }
                Err(Error::Conflict { key: taken, .. }) => return Err(self.addresses.taken(resource, name, &taken)),
                Err(error) => return Err(errors::from_store(error)),
            }
        }
    }
}

/// What the server sets of an object's metadata before admission: first what identifies it.
const SYSTEM_FIELDS: [&str; 5] = ["name", "namespace", "uid", "creationTimestamp", "generation"];
/// How many of them identify the object.
const IDENTITY_FIELDS: usize = 2;

/// Admission may complete an object, but not turn it into another: a name that it changed is refused, and what the server
/// has set (`given`, by [`SYSTEM_FIELDS`]) stays.
fn keep_system_fields(resource: &Resource, given: [Option<Value>; 5], object: &mut Value) -> Result<(), ApiError> {
    for (key, given_value) in SYSTEM_FIELDS.iter().zip(&given).take(IDENTITY_FIELDS) {
        if object["metadata"].get(key) != given_value.as_ref() {
            let error = gantry_api::FieldError::invalid(
                format!("metadata.{key}"),
                object["metadata"].get(key).cloned().unwrap_or_default(),
                "may not be changed by admission",
            );
            let name = given[0].as_ref().and_then(Value::as_str).unwrap_or_default();
            return Err(ApiError::invalid(&resource.group, &resource.kind, name, vec![error]));
        }
    }
    let metadata = meta::metadata_mut(object);
    for (key, value) in SYSTEM_FIELDS.into_iter().zip(given).skip(IDENTITY_FIELDS) {
        match value {
            Some(value) if metadata.get(key) != Some(&value) => drop(metadata.insert(key.to_owned(), value)),
            Some(_) => {}
            None => drop(metadata.remove(key)),
        }
    }
    Ok(())
}

fn existing(resource: &Resource, name: &str, current: Option<gantry_store::KeyValue>) -> ApiError {
    let mut error = ApiError::already_exists(&resource.qualified(), name);
    let deleting = current.and_then(|kv| codec::facts(resource, &kv.value).ok()).is_some_and(|facts| facts.deleting);
    if deleting {
        error.message = format!("object is being deleted: {}", error.message);
    }
    error
}
