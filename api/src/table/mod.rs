//! Tables: what `kubectl get` prints.
//!
//! In: stored bytes of objects, in the version they were asked for. Out: the bytes of a `meta.k8s.io/v1` Table. The
//! columns of a kind are data ([`Column`]) with one function that fills a row; a kind without columns of its own
//! shows its name and age, and a custom kind brings columns with JSON paths.
//!
//! As in Kubernetes every column is always sent; those with a priority above 0 are shown by `-o wide` only.

mod access;
mod apps;
mod autoscaler;
mod cluster;
mod config;
mod custom;
mod duration;
mod event;
mod ingress;
mod jsonpath;
mod lean;
mod network;
mod pod;
mod storage;
#[cfg(test)]
mod tests;
mod workloads;

use std::sync::OnceLock;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

pub use custom::CustomColumns;
pub use duration::{age, human};
pub use jsonpath::{JsonPath, PathError};

use self::lean::Keep;

use crate::codec;
use crate::error::ApiError;
use crate::kinds::Resource;
use crate::meta;
use crate::schema::Descriptions;
use crate::selector::{format_label_selector, format_labels};

/// What each row carries besides its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// The object's metadata.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

/// The list that a table shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct ListMeta<'a> {
    /// The snapshot's revision.
    pub resource_version: &'a str,
    /// Where the next page starts.
    pub continue_token: Option<&'a str>,
    /// How many objects follow.
    pub remaining: Option<u64>,
}

/// A column's description: its own text, or that of the field it shows.
#[derive(Debug, Clone, Copy)]
enum Doc {
    Text(&'static str),
    Field(&'static str, &'static str),
}

/// One column.
#[derive(Debug, Clone, Copy)]
struct Column {
    name: &'static str,
    /// `string` or `integer`.
    kind: &'static str,
    format: &'static str,
    priority: i32,
    doc: Doc,
}

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

impl Column {
    const fn text(name: &'static str, doc: Doc) -> Column {
        Column { name, kind: "string", format: "", priority: 0, doc }
    }

    const fn integer(name: &'static str, doc: Doc) -> Column {
        Column { name, kind: "integer", format: "", priority: 0, doc }
    }

    const fn flag(name: &'static str, doc: Doc) -> Column {
        Column { name, kind: "boolean", format: "", priority: 0, doc }
    }

    const fn wide(name: &'static str, doc: Doc) -> Column {
        Column { name, kind: "string", format: "", priority: 1, doc }
    }

    const NAME: Column =
        Column { name: "Name", kind: "string", format: "name", priority: 0, doc: Doc::Field(OBJECT_META, "name") };
    const AGE: Column = Column::text("Age", Doc::Field(OBJECT_META, "creationTimestamp"));
    const CONTAINERS: Column = Column::wide("Containers", Doc::Text("Names of each container in the template."));
    const IMAGES: Column = Column::wide("Images", Doc::Text("Images referenced by each container in the template."));

    fn definition(&self, descriptions: &Descriptions) -> Value {
        let description = match self.doc {
            Doc::Text(text) => text.to_owned(),
            Doc::Field(ty, field) => descriptions.of_field(ty, field).unwrap_or_default(),
        };
        json!({
            "name": self.name, "type": self.kind, "format": self.format, "description": description,
            "priority": self.priority,
        })
    }
}

/// A row: its cells, and what is to be said of the object as a whole.
#[derive(Debug, Clone, Default, PartialEq)]
struct Row {
    cells: Vec<Value>,
    conditions: Option<Value>,
}

impl From<Vec<Value>> for Row {
    fn from(cells: Vec<Value>) -> Self {
        Row { cells, conditions: None }
    }
}

/// What a cell shows of an object.
enum Show {
    /// Its name.
    Name,
    /// Its age.
    Age,
    /// The text at a path, or another if there is none.
    Text(&'static [&'static str], &'static str),
    /// The number at a path.
    Number(&'static [&'static str]),
    /// The number at a path as it stands, or a text if there is none.
    NumberOr(&'static [&'static str], &'static str),
    /// The truth at a path.
    Flag(&'static [&'static str]),
    /// How many items the list at a path has.
    Count(&'static [&'static str]),
    /// Texts of a list, joined.
    Joined(&'static [&'static str], &'static str),
    /// How long ago the time at a path was; `<none>` if there is none.
    Since(&'static [&'static str]),
    /// A label selector.
    Selector(&'static [&'static str]),
    /// A map of labels.
    Labels(&'static [&'static str]),
    /// A field of each item of a list, joined by commas.
    Each(&'static [&'static str], &'static str),
    /// Whatever else.
    With(fn(&Value, Timestamp) -> Value),
}

impl Show {
    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        match self {
            Show::Name => name_of(object),
            Show::Age => age_of(object, now),
            Show::Text(path, otherwise) => json!(text_or(object, path, otherwise)),
            Show::Number(path) => json!(number(object, path)),
            Show::NumberOr(path, otherwise) => {
                meta::get(object, path).filter(|n| n.is_i64()).cloned().unwrap_or_else(|| json!(otherwise))
            }
            Show::Flag(path) => json!(meta::get(object, path) == Some(&Value::Bool(true))),
            Show::Count(path) => json!(items(object, path).len()),
            Show::Joined(path, otherwise) => {
                let texts: Vec<&str> = items(object, path).iter().filter_map(Value::as_str).collect();
                json!(if texts.is_empty() { (*otherwise).to_owned() } else { texts.join(",") })
            }
            Show::Since(path) if meta::str_at(object, path).is_empty() => json!("<none>"),
            Show::Since(path) => since(object, path, now),
            Show::Selector(path) => json!(format_label_selector(meta::get(object, path))),
            Show::Labels(path) => json!(format_labels(meta::get(object, path))),
            Show::Each(path, field) => {
                let texts: Vec<&str> = items(object, path).iter().map(|item| meta::str_at(item, &[field])).collect();
                json!(texts.join(","))
            }
            Show::With(show) => show(object, now),
        }
    }
}

/// How the cells of a row are made.
enum Cells {
    /// All by one function.
    Row(&'static [Column], fn(&Value, Timestamp) -> Row),
    /// One by one.
    Each(&'static [(Column, Show)]),
}

/// How a built-in kind is printed.
struct Printer {
    cells: Cells,
    keep: Keep,
    /// The column definitions as JSON, made at first use.
    header: OnceLock<String>,
}

impl Printer {
    const fn new(columns: &'static [Column], row: fn(&Value, Timestamp) -> Row) -> Printer {
        Printer { cells: Cells::Row(columns, row), keep: Keep::Printed, header: OnceLock::new() }
    }

    const fn each(cells: &'static [(Column, Show)]) -> Printer {
        Printer { cells: Cells::Each(cells), keep: Keep::Printed, header: OnceLock::new() }
    }

    /// A printer that needs fields which others skip.
    const fn of_all(mut self) -> Printer {
        self.keep = Keep::Everything;
        self
    }

    fn row(&self, object: &Value, now: Timestamp) -> Row {
        match self.cells {
            Cells::Row(_, row) => row(object, now),
            Cells::Each(cells) => cells.iter().map(|(_, show)| show.cell(object, now)).collect::<Vec<_>>().into(),
        }
    }

    fn of(resource: &Resource) -> &'static Printer {
        match (resource.group.as_str(), resource.kind.as_str()) {
            ("", "Pod") => &pod::POD,
            ("", "Node") => &cluster::NODE,
            ("", "Namespace") => &cluster::NAMESPACE,
            ("", "ComponentStatus") => &cluster::COMPONENT_STATUS,
            ("", "ServiceAccount") | ("resource.k8s.io", "DeviceClass" | "ResourceClaimTemplate") => &cluster::NAME_AGE,
            ("coordination.k8s.io", "Lease") => &cluster::LEASE,
            ("", "Service") => &network::SERVICE,
            ("", "Endpoints") => &network::ENDPOINTS,
            ("discovery.k8s.io", "EndpointSlice") => &network::ENDPOINT_SLICE,
            ("networking.k8s.io", "Ingress") => &ingress::INGRESS,
            ("networking.k8s.io", "IngressClass") => &ingress::INGRESS_CLASS,
            ("networking.k8s.io", "NetworkPolicy") => &ingress::NETWORK_POLICY,
            ("networking.k8s.io", "ServiceCIDR") => &ingress::SERVICE_CIDR,
            ("networking.k8s.io", "IPAddress") => &ingress::IP_ADDRESS,
            ("", "ConfigMap") => &config::CONFIG_MAP,
            ("", "Secret") => &config::SECRET,
            ("", "ResourceQuota") => &config::RESOURCE_QUOTA,
            ("" | "events.k8s.io", "Event") => &event::EVENT,
            ("apps", "Deployment") => &apps::DEPLOYMENT,
            ("apps", "ReplicaSet") => &apps::REPLICA_SET,
            ("apps", "StatefulSet") => &workloads::STATEFUL_SET,
            ("apps", "DaemonSet") => &workloads::DAEMON_SET,
            ("apps", "ControllerRevision") => &workloads::CONTROLLER_REVISION,
            ("", "ReplicationController") => &workloads::REPLICATION_CONTROLLER,
            ("", "PodTemplate") => &workloads::POD_TEMPLATE,
            ("batch", "Job") => &workloads::JOB,
            ("batch", "CronJob") => &workloads::CRON_JOB,
            ("autoscaling", "HorizontalPodAutoscaler") => &autoscaler::AUTOSCALER,
            ("policy", "PodDisruptionBudget") => &workloads::POD_DISRUPTION_BUDGET,
            ("", "PersistentVolume") => &storage::PERSISTENT_VOLUME,
            ("", "PersistentVolumeClaim") => &storage::PERSISTENT_VOLUME_CLAIM,
            ("storage.k8s.io", kind) => storage::of(kind),
            ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => &access::ROLE_BINDING,
            ("certificates.k8s.io", "CertificateSigningRequest") => &access::CERTIFICATE_SIGNING_REQUEST,
            ("apiregistration.k8s.io", "APIService") => &access::API_SERVICE,
            ("admissionregistration.k8s.io", kind) => access::admission(kind),
            ("flowcontrol.apiserver.k8s.io", "FlowSchema") => &access::FLOW_SCHEMA,
            ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => &access::PRIORITY_LEVEL,
            ("scheduling.k8s.io", "PriorityClass") => &cluster::PRIORITY_CLASS,
            ("scheduling.gantry.io", "Queue") => &cluster::QUEUE,
            ("scheduling.x-k8s.io", "PodGroup") => &cluster::POD_GROUP,
            ("node.k8s.io", "RuntimeClass") => &cluster::RUNTIME_CLASS,
            ("resource.k8s.io", "ResourceClaim") => &cluster::RESOURCE_CLAIM,
            ("resource.k8s.io", "ResourceSlice") => &cluster::RESOURCE_SLICE,
            _ => &cluster::OTHER,
        }
    }

    fn header(&self) -> &str {
        self.header.get_or_init(|| {
            let descriptions = Descriptions::load();
            let define = |column: &Column| column.definition(&descriptions);
            let columns: Vec<Value> = match self.cells {
                Cells::Row(columns, _) => columns.iter().map(define).collect(),
                Cells::Each(cells) => cells.iter().map(|(column, _)| define(column)).collect(),
            };
            Value::Array(columns).to_string()
        })
    }
}

/// The columns of a kind.
#[derive(Clone, Copy)]
enum Columns<'a> {
    Builtin(&'static Printer),
    Custom(&'a CustomColumns),
}

impl Columns<'_> {
    fn of(resource: &Resource) -> Columns<'_> {
        match &resource.custom {
            Some(custom) => Columns::Custom(&custom.columns),
            None => Columns::Builtin(Printer::of(resource)),
        }
    }

    fn header(&self) -> &str {
        match self {
            Columns::Builtin(printer) => printer.header(),
            Columns::Custom(columns) => columns.header(),
        }
    }

    /// Parses what the columns need of an object.
    fn parse(&self, object: &[u8]) -> Result<Value, ApiError> {
        let keep = match self {
            Columns::Builtin(printer) => printer.keep,
            Columns::Custom(_) => Keep::Everything,
        };
        lean::parse(object, keep)
    }

    fn row(&self, object: &Value, now: Timestamp) -> Row {
        match self {
            Columns::Builtin(printer) => printer.row(object, now),
            Columns::Custom(columns) => columns.row(object, now),
        }
    }
}

/// The table of a list of objects of a resource.
pub fn table<'a>(
    resource: &Resource,
    list: ListMeta<'_>,
    objects: impl IntoIterator<Item = &'a Bytes>,
    include: IncludeObject,
    now: Timestamp,
) -> Result<Bytes, ApiError> {
    write_list(Columns::of(resource), list, objects, include, now)
}

/// The table of one object: the answer to a get, or the object of a watch event, where only the first needs `headers`.
pub fn single(
    resource: &Resource,
    object: &[u8],
    include: IncludeObject,
    headers: bool,
    now: Timestamp,
) -> Result<Bytes, ApiError> {
    write_single(Columns::of(resource), object, include, headers, now)
}

fn write_list<'a>(
    columns: Columns<'_>,
    list: ListMeta<'_>,
    objects: impl IntoIterator<Item = &'a Bytes>,
    include: IncludeObject,
    now: Timestamp,
) -> Result<Bytes, ApiError> {
    let mut metadata = json!({"resourceVersion": list.resource_version});
    if let Some(token) = list.continue_token.filter(|token| !token.is_empty()) {
        metadata["continue"] = json!(token);
    }
    if let Some(remaining) = list.remaining {
        metadata["remainingItemCount"] = json!(remaining);
    }
    let mut out = begin(&metadata, Some(columns.header()));
    for (i, object) in objects.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        let value = columns.parse(object)?;
        write_row(&mut out, columns.row(&value, now), object, include)?;
    }
    Ok(end(out))
}

fn write_single(
    columns: Columns<'_>,
    object: &[u8],
    include: IncludeObject,
    headers: bool,
    now: Timestamp,
) -> Result<Bytes, ApiError> {
    let value = columns.parse(object)?;
    let metadata = json!({"resourceVersion": meta::resource_version(&value)});
    let mut out = begin(&metadata, headers.then(|| columns.header()));
    write_row(&mut out, columns.row(&value, now), object, include)?;
    Ok(end(out))
}

fn begin(metadata: &Value, header: Option<&str>) -> Vec<u8> {
    let header = header.unwrap_or("null");
    format!(
        r#"{{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{metadata},"columnDefinitions":{header},"rows":["#
    )
    .into_bytes()
}

fn write_row(out: &mut Vec<u8>, row: Row, object: &[u8], include: IncludeObject) -> Result<(), ApiError> {
    out.extend_from_slice(br#"{"cells":"#);
    serde_json::to_writer(&mut *out, &row.cells).map_err(ApiError::internal)?;
    if let Some(conditions) = row.conditions {
        out.extend_from_slice(br#","conditions":"#);
        serde_json::to_writer(&mut *out, &conditions).map_err(ApiError::internal)?;
    }
    out.extend_from_slice(br#","object":"#);
    match include {
        IncludeObject::None => out.extend_from_slice(b"null"),
        IncludeObject::Metadata => out.extend_from_slice(&codec::to_metadata_only(object)?),
        IncludeObject::Object => out.extend_from_slice(object),
    }
    out.push(b'}');
    Ok(())
}

fn end(mut out: Vec<u8>) -> Bytes {
    out.extend_from_slice(b"]}");
    Bytes::from(out)
}

// What the printers of the kinds share.

/// The items of the list at a path; none if there is no list.
fn items<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    meta::get(object, path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The number at a path; 0 if there is none.
fn number(object: &Value, path: &[&str]) -> i64 {
    meta::get(object, path).and_then(Value::as_i64).unwrap_or_default()
}

/// The text at a path, or another if it is empty.
fn text_or<'a>(object: &'a Value, path: &[&str], otherwise: &'a str) -> &'a str {
    match meta::str_at(object, path) {
        "" => otherwise,
        text => text,
    }
}

/// The time at a path.
fn time(object: &Value, path: &[&str]) -> Option<Timestamp> {
    meta::str_at(object, path).parse().ok()
}

/// How long ago the time at a path was.
fn since(object: &Value, path: &[&str], now: Timestamp) -> Value {
    Value::String(age(time(object, path), now))
}

/// The name cell.
fn name_of(object: &Value) -> Value {
    Value::from(meta::name(object))
}

/// The age cell.
fn age_of(object: &Value, now: Timestamp) -> Value {
    since(object, &["metadata", "creationTimestamp"], now)
}
