//! Server-side apply and the bookkeeping of `metadata.managedFields`.
//!
//! In: the live object and either a configuration that a manager applies ([`apply`]) or the object that an update
//! makes of it ([`track_update`]). Out: the new object with the fields each manager owns.
//!
//! ```text
//! apply:  live + configuration ─ merge ─▶ merged ─ prune what only this manager had and dropped ─▶ new
//!         live ↔ new ─ compare ─▶ changed fields others own ─▶ conflict, or (force) taken from them
//! update: old ↔ new ─ compare ─▶ changed fields: now the updater's, no longer the others'
//! ```
//!
//! Managed fields of other versions of a kind are kept under their own names: versions share field names unless a
//! conversion says otherwise.

mod compare;
mod fieldset;
mod last_applied;
mod managed;
mod merge;
mod path;
#[cfg(test)]
mod tests;
mod typed;

use std::sync::LazyLock;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use self::compare::Comparison;
pub use self::fieldset::FieldSet;
use self::managed::{Managed, ManagerId, Operation, Owned};
pub use self::path::{NotAPathElement, PathElement};
use self::typed::Type;
use crate::error::{ApiError, Cause, Details, Reason};
use crate::meta;
use crate::schema::{SchemaRef, TypeKind};

/// The manager of fields that an object had before anyone applied to it.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// The applier that takes over from client-side apply.
const KUBECTL: &str = "kubectl";

/// System fields, which nobody owns.
const SYSTEM_FIELDS: [&[&str]; 12] = [
    &["apiVersion"],
    &["kind"],
    &["metadata"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "clusterName"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

/// Structs that Kubernetes' types hold by value, so that they exist from the start and setting them is no change.
const STRUCTS_BY_VALUE: [&str; 14] = [
    "metadata",
    "spec",
    "status",
    "template",
    "strategy",
    "updateStrategy",
    "jobTemplate",
    "nodeInfo",
    "daemonEndpoints",
    "kubeletEndpoint",
    "loadBalancer",
    "involvedObject",
    "source",
    "regarding",
];

/// One operation of one manager on an object of one type.
struct Request<'a> {
    ty: Type<'a>,
    api_version: &'a str,
    manager: &'a str,
    subresource: Option<&'a str>,
    /// Fields that this endpoint does not write and so cannot own.
    reset: FieldSet,
    now: String,
}

/// The fields of other managers that an apply would change.
type Conflicts = Vec<(ManagerId, FieldSet)>;

/// Applies a configuration for a manager: its fields are laid over the live object, fields that it applied before and
/// no longer does are removed unless someone else owns them, and the answer says in `metadata.managedFields` who owns
/// what. With `force` the fields of others that change are taken over; otherwise they are conflicts.
#[allow(clippy::too_many_arguments, reason = "the arguments of one apply request")]
pub fn apply(
    schema: SchemaRef<'_>,
    api_version: &str,
    current: Option<&Value>,
    applied: &Value,
    manager: &str,
    force: bool,
    subresource: Option<&str>,
    now: Timestamp,
) -> Result<Value, ApiError> {
    let request = Request::new(schema, api_version, manager, subresource, now);
    request.check_applied(applied)?;
    let blank = json!({"apiVersion": api_version, "kind": applied.get("kind"), "metadata": {}});
    let live = current.unwrap_or(&blank);
    let mut managed =
        Managed::decode(live).map_err(|why| ApiError::internal(format!("failed to decode managed fields: {why}")))?;
    if managed.entries.is_empty() {
        let request =
            Request { manager: BEFORE_FIRST_APPLY, ..Request::new(schema, api_version, manager, subresource, now) };
        request.update(request.compare(&blank, live), &mut managed);
    }
    let result = request.apply(live, applied, managed.clone(), force);
    let (mut object, managed) = match result {
        Err(conflicts) if manager == KUBECTL => request.apply_over_client_side(live, applied, managed, conflicts),
        other => other,
    }
    .map_err(|conflicts| conflict_error(&conflicts))?;
    if manager == KUBECTL {
        last_applied::refresh(&mut object, applied);
    }
    managed.encode(&mut object);
    Ok(object)
}

/// What a policy makes of an object by naming the fields it wants: the configuration is laid over the object, and nobody
/// comes to own anything by it. It may not touch what can only be replaced as a whole.
pub fn overlay(schema: SchemaRef<'_>, live: &Value, configuration: &Value) -> Result<Value, String> {
    let ty = Type::Schema(schema);
    match typed::problems(ty, configuration).as_slice() {
        [] => {}
        [one] => return Err(format!("failed to convert patch object to typed object: {one}")),
        many => {
            return Err(format!("failed to convert patch object to typed object: errors:\n  {}", many.join("\n  ")));
        }
    }
    let atomic = typed::atomics(ty, configuration);
    if !atomic.is_empty() {
        let named = atomic.join(", ");
        return Err(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {named}"));
    }
    merge::merge(ty, Some(live), Some(configuration)).ok_or_else(|| "nothing is left of the object".to_owned())
}

/// Records who set which field on create (`old` is absent), update and patch. It never fails: entries that cannot be
/// read are taken from the old object or begun anew.
pub fn track_update(
    schema: SchemaRef<'_>,
    api_version: &str,
    old: Option<&Value>,
    new: &mut Value,
    manager: &str,
    subresource: Option<&str>,
    now: Timestamp,
) {
    let request = Request::new(schema, api_version, manager, subresource, now);
    let is_reset = request.subresource.is_none() && managed::is_reset(new);
    // What a client writes counts, except through a subresource.
    let written = managed::strip(new).filter(|list| !list.is_null() && request.subresource.is_none());
    let changes = request.compare(old.unwrap_or(&json!({})), new);
    let of_old = old.and_then(|old| meta::get(old, &["metadata", "managedFields"]));
    // Many updates change nothing, and then the entries need not even be read.
    if let Some(same) = of_old
        && !is_reset
        && written.as_ref().is_none_or(|written| written == same)
        && changes.is_only_of(&SYSTEM)
    {
        meta::metadata_mut(new).insert("managedFields".to_owned(), same.clone());
        return;
    }
    let readable = |list: Option<&Value>| Managed::decode_list(list).ok().filter(|managed| !managed.entries.is_empty());
    let mut managed = match is_reset {
        true => Managed::default(),
        false => readable(written.as_ref()).or_else(|| readable(of_old)).unwrap_or_default(),
    };
    // An object whose fields nobody tracks stays so until someone applies to it.
    if old.is_some() && managed.entries.is_empty() {
        return;
    }
    request.update(changes, &mut managed);
    managed.encode(new);
}

impl<'a> Request<'a> {
    fn new(
        schema: SchemaRef<'a>,
        api_version: &'a str,
        manager: &'a str,
        subresource: Option<&'a str>,
        now: Timestamp,
    ) -> Self {
        let subresource = subresource.filter(|s| !s.is_empty());
        Request {
            ty: Type::Schema(schema),
            api_version,
            manager,
            subresource,
            reset: reset_fields(schema, subresource),
            now: meta::time(now),
        }
    }

    fn id(&self, operation: Operation) -> ManagerId {
        ManagerId::new(self.manager, operation, self.api_version, self.subresource)
    }

    fn compare(&self, old: &Value, new: &Value) -> Comparison {
        let filled = with_structs(self.ty, old, new);
        compare::compare(self.ty, filled.as_ref().unwrap_or(old), new).without(&self.reset)
    }

    /// Refuses what can be no configuration of this kind.
    fn check_applied(&self, applied: &Value) -> Result<(), ApiError> {
        let version = meta::str_at(applied, &["apiVersion"]);
        if version != self.api_version {
            return Err(ApiError::bad_request(format!(
                "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {}",
                self.api_version
            )));
        }
        if meta::get(applied, &["metadata", "managedFields"]).is_some() {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        let problems = typed::problems(self.ty, applied);
        if problems.is_empty() {
            return Ok(());
        }
        let listed = match problems.as_slice() {
            [one] => one.clone(),
            many => format!("errors:\n  {}", many.join("\n  ")),
        };
        Err(ApiError::bad_request(format!(
            "failed to create typed patch object ({}/{}; {version}, Kind={}): {listed}",
            meta::namespace(applied),
            meta::name(applied),
            meta::str_at(applied, &["kind"]),
        )))
    }

    /// The fields that changed become this manager's, and no longer anyone else's.
    fn update(&self, changes: Comparison, managed: &mut Managed) {
        let mut set = changes.modified.union(changes.added);
        managed.take_from_others(None, &set);
        managed.take_from_others(None, &changes.removed);
        set.subtract(&SYSTEM);
        if !set.is_empty() {
            let owned = managed.entries.entry(self.id(Operation::Update)).or_insert_with(|| Owned {
                fields: FieldSet::new(),
                api_version: self.api_version.to_owned(),
                time: None,
            });
            owned.fields = std::mem::take(&mut owned.fields).union(set);
            owned.time = Some(self.now.clone());
        }
        managed.cap();
    }

    fn apply(
        &self,
        live: &Value,
        applied: &Value,
        mut managed: Managed,
        force: bool,
    ) -> Result<(Value, Managed), Conflicts> {
        let id = self.id(Operation::Apply);
        let merged = merge::merge(self.ty, Some(live), Some(applied)).unwrap_or_else(|| live.clone());
        let last = managed.entries.remove(&id);
        let mut fields = typed::fields_of(self.ty, applied);
        fields.subtract_below(&self.reset);
        let time = last.as_ref().and_then(|last| last.time.clone());
        // Nothing is pruned unless the manager dropped a field.
        let dropped = last.as_ref().filter(|last| !last.fields.difference(&fields).is_empty());
        let owned = Owned { fields, api_version: self.api_version.to_owned(), time };
        managed.entries.insert(id.clone(), owned);
        let new = match dropped {
            Some(last) => self.prune(merged, &last.fields, &managed),
            None => merged,
        };
        self.settle(live, &new, &id, &mut managed, force)?;
        let changed = !path::equal(live, &new);
        if let Some(owned) = managed.entries.get_mut(&id) {
            owned.fields.subtract(&SYSTEM);
            let same_fields = last.is_some_and(|last| last.fields == owned.fields);
            if changed || !same_fields {
                owned.time = Some(self.now.clone());
            }
        }
        managed.entries.retain(|_, owned| !owned.fields.is_empty());
        Ok((new, managed))
    }

    /// Finds the fields of others that an apply changes: conflicts, or, by force, taken over.
    fn settle(
        &self,
        live: &Value,
        new: &Value,
        id: &ManagerId,
        managed: &mut Managed,
        force: bool,
    ) -> Result<(), Conflicts> {
        let changes = self.compare(live, new);
        let set = changes.set();
        if !force {
            let conflicts: Conflicts = managed
                .entries
                .iter()
                .filter(|(other, _)| *other != id)
                .map(|(other, owned)| (other.clone(), owned.fields.intersection(&set)))
                .filter(|(_, fields)| !fields.is_empty())
                .collect();
            if !conflicts.is_empty() {
                return Err(conflicts);
            }
        }
        managed.take_from_others(Some(id), &set);
        managed.take_from_others(Some(id), &changes.removed);
        Ok(())
    }

    /// Removes what the manager applied last time and now does not, unless someone owns it.
    fn prune(&self, merged: Value, last: &FieldSet, managed: &Managed) -> Value {
        let ty = self.ty;
        let named = |value: &Value| typed::fields_of(ty, value).with_named_fields(ty);
        let without = |fields: &FieldSet| {
            if fields.is_empty() { Some(merged.clone()) } else { merge::remove(ty, &merged, fields) }
        };
        let last = last.with_named_fields(ty);
        let pruned = without(&last).unwrap_or(Value::Null);
        let all = named(&merged);
        // What others own, or this manager's new configuration does, comes back.
        let owned = managed.entries.values().fold(FieldSet::new(), |all, owned| all.union(owned.fields.clone()));
        let keep = named(&pruned).union(owned.with_named_fields(ty));
        let pruned = without(&all.difference(&keep)).unwrap_or(Value::Null);
        // What went along with a removed parent but was never this manager's comes back too.
        let gone = all.difference(&named(&pruned)).intersection(&last);
        without(&gone).unwrap_or(merged)
    }

    /// An apply by kubectl that conflicts: what conflicts only with what kubectl's client-side apply set is its own.
    fn apply_over_client_side(
        &self,
        live: &Value,
        applied: &Value,
        managed: Managed,
        conflicts: Conflicts,
    ) -> Result<(Value, Managed), Conflicts> {
        let Some(own) = last_applied::owned(self.ty, self.api_version, live) else {
            return Err(conflicts);
        };
        let rest: Conflicts = conflicts
            .into_iter()
            .map(|(id, fields)| (id, fields.difference(&own)))
            .filter(|(_, fields)| !fields.is_empty())
            .collect();
        if rest.is_empty() { self.apply(live, applied, managed, true) } else { Err(rest) }
    }
}

/// [`SYSTEM_FIELDS`] as a set.
static SYSTEM: LazyLock<FieldSet> = LazyLock::new(|| SYSTEM_FIELDS.iter().map(|path| field_path(path)).collect());

fn field_path(names: &[&'static str]) -> Vec<PathElement> {
    names.iter().map(|name| PathElement::Field((*name).into())).collect()
}

/// The main endpoint does not write `status`, and the status endpoint does not write `spec`.
fn reset_fields(schema: SchemaRef<'_>, subresource: Option<&str>) -> FieldSet {
    let has = |name: &str| schema.field(name).is_some();
    match subresource {
        None if has("status") => FieldSet::from_iter([field_path(&["status"])]),
        Some("status") if has("spec") => FieldSet::from_iter([field_path(&["spec"])]),
        _ => FieldSet::new(),
    }
}

/// The old state with the structs that Kubernetes' types hold by value, empty where the new state is the first to have
/// them. `None` if it has them all.
fn with_structs(ty: Type<'_>, old: &Value, new: &Value) -> Option<Value> {
    let mut out: Option<Map<String, Value>> = None;
    for (key, value) in new.as_object()?.iter().filter(|(_, value)| value.is_object()) {
        let Type::Schema(field) = ty.field(key) else { continue };
        let by_value = field.kind() == TypeKind::Object
            && (STRUCTS_BY_VALUE.contains(&key.as_str()) || field.default().is_some_and(|d| *d == json!({})));
        if !by_value {
            continue;
        }
        let empty = Value::Object(Map::new());
        let below = match old.get(key) {
            Some(old) => with_structs(ty.field(key), old, value),
            None => Some(with_structs(ty.field(key), &empty, value).unwrap_or(empty)),
        };
        if let Some(below) = below {
            out.get_or_insert_with(|| old.as_object().cloned().unwrap_or_default()).insert(key.clone(), below);
        }
    }
    out.map(Value::Object)
}

fn conflict_error(conflicts: &[(ManagerId, FieldSet)]) -> ApiError {
    let mut causes = Vec::new();
    let mut groups = Vec::new();
    for (id, fields) in conflicts {
        let shown = id.shown();
        groups.push(format!("conflicts with {shown}:"));
        for path in fields.paths() {
            let field = fieldset::display_path(&path);
            groups.push(format!("- {field}"));
            causes.push(Cause {
                reason: "FieldManagerConflict".to_owned(),
                message: format!("conflict with {shown}"),
                field,
            });
        }
    }
    let message = match causes.as_slice() {
        [one] => format!("Apply failed with 1 conflict: {}: {}", one.message, one.field),
        many => format!("Apply failed with {} conflicts: {}", many.len(), groups.join("\n")),
    };
    ApiError::new(Reason::Conflict, message).with_details(Details { causes, ..Details::default() })
}
