//! How volumes and the kinds of storage.k8s.io are printed.

use serde_json::{Value, json};

use super::{Column, Doc, Printer, Show, cluster, items};
use crate::meta;

const VOLUME_SPEC: &str = "io.k8s.api.core.v1.PersistentVolumeSpec";
const VOLUME_STATUS: &str = "io.k8s.api.core.v1.PersistentVolumeStatus";
const CLAIM_SPEC: &str = "io.k8s.api.core.v1.PersistentVolumeClaimSpec";
const CLAIM_STATUS: &str = "io.k8s.api.core.v1.PersistentVolumeClaimStatus";
const CLASS: &str = "io.k8s.api.storage.v1.StorageClass";
const ATTACHMENT_SPEC: &str = "io.k8s.api.storage.v1.VolumeAttachmentSpec";
const DRIVER_SPEC: &str = "io.k8s.api.storage.v1.CSIDriverSpec";
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// The printer of a kind of storage.k8s.io.
pub(super) fn of(kind: &str) -> &'static Printer {
    match kind {
        "StorageClass" => &STORAGE_CLASS,
        "VolumeAttributesClass" => &VOLUME_ATTRIBUTES_CLASS,
        "VolumeAttachment" => &VOLUME_ATTACHMENT,
        "CSIDriver" => &CSI_DRIVER,
        "CSINode" => &CSI_NODE,
        "CSIStorageCapacity" => &CSI_STORAGE_CAPACITY,
        _ => &cluster::OTHER,
    }
}

/// `RWO,ROX`
fn access_modes(object: &Value, path: &[&str]) -> Value {
    const SHORT: [(&str, &str); 4] =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let has = |mode: &str| items(object, path).iter().any(|item| item == mode);
    json!(SHORT.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(","))
}

fn phase(object: &Value) -> Value {
    json!(if meta::is_deleting(object) { "Terminating" } else { meta::str_at(object, &["status", "phase"]) })
}

/// The class, from the older annotation first.
fn class(object: &Value) -> Value {
    match meta::str_at(object, &["metadata", "annotations", BETA_CLASS]) {
        "" => json!(meta::str_at(object, &["spec", "storageClassName"])),
        class => json!(class),
    }
}

pub(super) static PERSISTENT_VOLUME: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (Column::text("Capacity", Doc::Field(VOLUME_SPEC, "capacity")), Show::Text(&["spec", "capacity", "storage"], "0")),
    (
        Column::text("Access Modes", Doc::Field(VOLUME_SPEC, "accessModes")),
        Show::With(|volume, _| access_modes(volume, &["spec", "accessModes"])),
    ),
    (
        Column::text("Reclaim Policy", Doc::Field(VOLUME_SPEC, "persistentVolumeReclaimPolicy")),
        Show::Text(&["spec", "persistentVolumeReclaimPolicy"], ""),
    ),
    (Column::text("Status", Doc::Field(VOLUME_STATUS, "phase")), Show::With(|volume, _| phase(volume))),
    (
        Column::text("Claim", Doc::Field(VOLUME_SPEC, "claimRef")),
        Show::With(|volume, _| {
            if meta::get(volume, &["spec", "claimRef"]).is_none() {
                return json!("");
            }
            let text = |key: &str| meta::str_at(volume, &["spec", "claimRef", key]);
            json!(format!("{}/{}", text("namespace"), text("name")))
        }),
    ),
    (Column::text("StorageClass", Doc::Text("StorageClass of the pv")), Show::With(|volume, _| class(volume))),
    (
        Column::text("VolumeAttributesClass", Doc::Text("VolumeAttributesClass of the pv")),
        Show::Text(&["spec", "volumeAttributesClassName"], "<unset>"),
    ),
    (Column::text("Reason", Doc::Field(VOLUME_STATUS, "reason")), Show::Text(&["status", "reason"], "")),
    (Column::AGE, Show::Age),
    (Column::wide("VolumeMode", Doc::Field(VOLUME_SPEC, "volumeMode")), Show::Text(&["spec", "volumeMode"], "<unset>")),
])
.of_all();

pub(super) static PERSISTENT_VOLUME_CLAIM: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (Column::text("Status", Doc::Field(CLAIM_STATUS, "phase")), Show::With(|claim, _| phase(claim))),
    (Column::text("Volume", Doc::Field(CLAIM_SPEC, "volumeName")), Show::Text(&["spec", "volumeName"], "")),
    (
        Column::text("Capacity", Doc::Field(CLAIM_STATUS, "capacity")),
        Show::With(|claim, _| match (bound(claim), meta::str_at(claim, &["status", "capacity", "storage"])) {
            (false, _) => json!(""),
            (true, "") => json!("0"),
            (true, capacity) => json!(capacity),
        }),
    ),
    (
        Column::text("Access Modes", Doc::Field(CLAIM_STATUS, "accessModes")),
        Show::With(|claim, _| if bound(claim) { access_modes(claim, &["status", "accessModes"]) } else { json!("") }),
    ),
    (Column::text("StorageClass", Doc::Text("StorageClass of the pvc")), Show::With(|claim, _| class(claim))),
    (
        Column::text("VolumeAttributesClass", Doc::Text("VolumeAttributesClass of the pvc")),
        Show::Text(&["spec", "volumeAttributesClassName"], "<unset>"),
    ),
    (Column::AGE, Show::Age),
    (Column::wide("VolumeMode", Doc::Field(CLAIM_SPEC, "volumeMode")), Show::Text(&["spec", "volumeMode"], "<unset>")),
])
.of_all();

fn bound(claim: &Value) -> bool {
    !meta::str_at(claim, &["spec", "volumeName"]).is_empty()
}

static STORAGE_CLASS: Printer = Printer::each(&[
    (
        Column::NAME,
        Show::With(|class, _| {
            let is = |name: &&str| meta::str_at(class, &["metadata", "annotations", name]) == "true";
            let mark = if DEFAULT_CLASS.iter().any(is) { " (default)" } else { "" };
            json!(format!("{}{mark}", meta::name(class)))
        }),
    ),
    (Column::text("Provisioner", Doc::Field(CLASS, "provisioner")), Show::Text(&["provisioner"], "")),
    (Column::text("ReclaimPolicy", Doc::Field(CLASS, "reclaimPolicy")), Show::Text(&["reclaimPolicy"], "Delete")),
    (
        Column::text("VolumeBindingMode", Doc::Field(CLASS, "volumeBindingMode")),
        Show::Text(&["volumeBindingMode"], "Immediate"),
    ),
    (
        Column::text("AllowVolumeExpansion", Doc::Field(CLASS, "allowVolumeExpansion")),
        Show::Flag(&["allowVolumeExpansion"]),
    ),
    (Column::AGE, Show::Age),
])
.of_all();

static VOLUME_ATTRIBUTES_CLASS: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::text("DriverName", Doc::Field("io.k8s.api.storage.v1.VolumeAttributesClass", "driverName")),
        Show::Text(&["driverName"], ""),
    ),
    (Column::AGE, Show::Age),
]);

static VOLUME_ATTACHMENT: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column { format: "name", ..Column::text("Attacher", Doc::Field(ATTACHMENT_SPEC, "attacher")) },
        Show::Text(&["spec", "attacher"], ""),
    ),
    (
        Column::text("PV", Doc::Field("io.k8s.api.storage.v1.VolumeAttachmentSource", "persistentVolumeName")),
        Show::Text(&["spec", "source", "persistentVolumeName"], ""),
    ),
    (Column::text("Node", Doc::Field(ATTACHMENT_SPEC, "nodeName")), Show::Text(&["spec", "nodeName"], "")),
    (
        Column::flag("Attached", Doc::Field("io.k8s.api.storage.v1.VolumeAttachmentStatus", "attached")),
        Show::Flag(&["status", "attached"]),
    ),
    (Column::AGE, Show::Age),
]);

static CSI_DRIVER: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::flag("AttachRequired", Doc::Field(DRIVER_SPEC, "attachRequired")),
        Show::Flag(&["spec", "attachRequired"]),
    ),
    (
        Column::flag("PodInfoOnMount", Doc::Field(DRIVER_SPEC, "podInfoOnMount")),
        Show::Flag(&["spec", "podInfoOnMount"]),
    ),
    (
        Column::flag("StorageCapacity", Doc::Field(DRIVER_SPEC, "storageCapacity")),
        Show::Flag(&["spec", "storageCapacity"]),
    ),
    (
        Column::text("TokenRequests", Doc::Field(DRIVER_SPEC, "tokenRequests")),
        Show::With(|driver, _| match items(driver, &["spec", "tokenRequests"]) {
            [] => json!("<unset>"),
            all => json!(all.iter().map(|t| meta::str_at(t, &["audience"])).collect::<Vec<_>>().join(",")),
        }),
    ),
    (
        Column::flag("RequiresRepublish", Doc::Field(DRIVER_SPEC, "requiresRepublish")),
        Show::Flag(&["spec", "requiresRepublish"]),
    ),
    (
        Column::text("Modes", Doc::Field(DRIVER_SPEC, "volumeLifecycleModes")),
        Show::Joined(&["spec", "volumeLifecycleModes"], "<none>"),
    ),
    (Column::AGE, Show::Age),
]);

static CSI_NODE: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::integer("Drivers", Doc::Text("Drivers indicates the number of CSI drivers registered on the node")),
        Show::Count(&["spec", "drivers"]),
    ),
    (Column::AGE, Show::Age),
]);

static CSI_STORAGE_CAPACITY: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::text("StorageClassName", Doc::Field("io.k8s.api.storage.v1.CSIStorageCapacity", "storageClassName")),
        Show::Text(&["storageClassName"], ""),
    ),
    (
        Column::text("Capacity", Doc::Field("io.k8s.api.storage.v1.CSIStorageCapacity", "capacity")),
        Show::Text(&["capacity"], "<unset>"),
    ),
]);
