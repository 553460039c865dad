//! PersistentVolume and PersistentVolumeClaim.

use serde_json::{Map, Value};

use super::field::{at, child, deep, set, text, unset};
use super::rules::{Declared, Field, Rule};
use super::{names, pod};
use crate::error::FieldError;
use crate::quantity::Quantity;

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// What a volume may be, in the order in which Kubernetes looks, and what must be said of each.
const SOURCES: [(&str, &[&str]); 22] = [
    ("hostPath", &["path"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("glusterfs", &["endpoints", "path"]),
    ("flocker", &[]),
    ("nfs", &["server", "path"]),
    ("rbd", &["monitors", "image"]),
    ("quobyte", &["registry", "volume"]),
    ("cephfs", &["monitors"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("cinder", &["volumeID"]),
    ("fc", &[]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("local", &["path"]),
    ("storageos", &[]),
    ("csi", &["driver", "volumeHandle"]),
];
const SECRETS: [&str; 4] =
    ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"];

/// PersistentVolume.
pub static PERSISTENT_VOLUME: Declared = Declared {
    prepare_create: |volume| {
        let created = deep(volume, &["metadata", "creationTimestamp"]).cloned();
        let status = child(volume, "status");
        set(status, "phase", "Pending");
        if let Some(created) = created {
            set(status, "lastPhaseTransitionTime", created);
        }
    },
    prepare_update: |subresource, old, new| {
        // A phase that stays keeps its time, which the client may leave out.
        let phase = |volume| deep(volume, &["status", "phase"]).cloned();
        let since = ["status", "lastPhaseTransitionTime"];
        if subresource == Some("status")
            && phase(old) == phase(new)
            && deep(new, &since).is_none()
            && let Some(time) = deep(old, &since)
        {
            set(child(new, "status"), "lastPhaseTransitionTime", time.clone());
        }
    },
    rules: &[("spec", &[Rule::Always(|spec| volume_spec(spec, false))])],
    update: |subresource, old, new| {
        if subresource.is_empty() {
            volume_update(old, new);
        }
    },
    warnings: volume_warnings,
    ..Declared::PLAIN
};

/// PersistentVolumeClaim.
pub static PERSISTENT_VOLUME_CLAIM: Declared = Declared {
    prepare_create: |claim| {
        if at(claim, "spec").is_some() {
            normalize_sources(child(claim, "spec"));
        }
    },
    prepare_update: |subresource, _, new| {
        if subresource.is_none() && at(new, "spec").is_some() {
            normalize_sources(child(new, "spec"));
        }
    },
    rules: &[("", &[Rule::Check(|claim| claim_spec(&claim.get("spec")))])],
    update: |subresource, old, new| match subresource {
        "" => claim_update(old, new),
        "status" => claim_status(new),
        _ => {}
    },
    warnings: |claim| claim_warnings(claim, "spec"),
    ..Declared::PLAIN
};

/// Validates the spec of a volume; `inline`: as a part of an attachment.
pub(super) fn volume_spec(spec: &Field<'_>, inline: bool) {
    if inline {
        for (field, detail) in [
            ("claimRef", "may not be specified in the context of inline volumes"),
            ("nodeAffinity", "may not be specified in the context of inline volumes"),
            ("storageClassName", "may not be specified in the context of inline volumes"),
            ("capacity", "may not be specified in the context of inline volumes"),
        ] {
            if !spec.get(field).is_empty() {
                spec.get(field).forbidden(detail);
            }
        }
        spec.get("csi").must(&Rule::Required("has to be specified in the context of inline volumes"));
    }
    access_modes(&spec.get("accessModes"), "");
    if !inline {
        capacity(&spec.get("capacity"));
        spec.get("persistentVolumeReclaimPolicy").must(&Rule::OneOf(&["Delete", "Recycle", "Retain"]));
        spec.get("storageClassName").must(&Rule::Text(names::dns1123_subdomain));
        spec.get("volumeMode").must(&Rule::OneOf(&VOLUME_MODES));
        let affinity = spec.get("nodeAffinity");
        if affinity.is_set() {
            let required = affinity.get("required");
            if required.is_set() {
                pod::node_selector(required.value(), required.path(), &mut required.errors());
            } else {
                required.required("must specify required node constraints");
            }
        }
    }
    sources(spec);
    let class = spec.get("volumeAttributesClassName");
    if class.is_set() {
        class.must(&Rule::Required("an empty string is disallowed"));
        class.must(&Rule::Text(names::dns1123_subdomain));
        if !spec.get("csi").is_set() {
            spec.get("csi").required("has to be specified when using volumeAttributesClassName");
        }
    }
}

fn sources(spec: &Field<'_>) {
    let mut found = 0;
    for (name, needed) in SOURCES {
        let source = spec.get(name);
        if !source.is_set() {
            continue;
        }
        found += 1;
        if found > 1 {
            source.forbidden("may not specify more than 1 volume type");
            continue;
        }
        if name == "csi" {
            csi(&source);
            continue;
        }
        needed.iter().for_each(|field| source.get(field).must(&Rule::Required("")));
        if matches!(name, "hostPath" | "local") && source.text_of("path").split('/').any(|part| part == "..") {
            source.get("path").invalid("must not contain '..'");
        }
        if name == "nfs" && !source.get("path").is_empty() && !source.text_of("path").starts_with('/') {
            source.get("path").invalid("must be an absolute path");
        }
        if name == "local" && !spec.get("nodeAffinity").is_set() {
            spec.get("nodeAffinity").required("Local volume requires node affinity");
        }
    }
    if found == 0 {
        spec.required("must specify a volume type");
    }
    let root = spec.at("hostPath.path").text();
    if !root.is_empty()
        && root.trim_matches('/').is_empty()
        && spec.text_of("persistentVolumeReclaimPolicy") == "Recycle"
    {
        spec.get("persistentVolumeReclaimPolicy").forbidden("may not be 'recycle' for a hostPath mount of '/'");
    }
}

fn csi(source: &Field<'_>) {
    driver_name(&source.get("driver"));
    source.get("volumeHandle").must(&Rule::Required(""));
    for secret in SECRETS {
        let secret = source.get(secret);
        if secret.is_set() {
            secret.get("name").must(&Rule::Required(""));
            secret.get("namespace").must(&Rule::Required(""));
        }
    }
}

/// Demands the name of a CSI driver.
pub(super) fn driver_name(driver: &Field<'_>) {
    if driver.is_empty() {
        driver.required("");
        return;
    }
    driver.must(&Rule::Max(63));
    names::dns1123_subdomain(&driver.text().to_lowercase()).into_iter().for_each(|detail| driver.invalid(detail));
}

fn access_modes(modes: &Field<'_>, missing: &str) {
    if modes.is_empty() {
        modes.required(missing);
    }
    let all: Vec<&str> = modes.items().map(|mode| mode.text()).collect();
    for mode in all.iter().filter(|mode| !ACCESS_MODES.contains(mode)) {
        modes.report(FieldError::not_supported(modes.path(), *mode, &ACCESS_MODES));
    }
    let other = |mode: &&str| *mode != "ReadWriteOncePod" && ACCESS_MODES.contains(mode);
    if all.contains(&"ReadWriteOncePod") && all.iter().any(other) {
        modes.forbidden("may not use ReadWriteOncePod with other access modes");
    }
}

fn capacity(capacity: &Field<'_>) {
    if capacity.is_empty() {
        capacity.required("");
    }
    if !capacity.get("storage").is_set() || capacity.len() > 1 {
        capacity.unsupported(&["storage"]);
    }
    for (_, amount) in capacity.entries() {
        if amount.quantity().is_some_and(|quantity| quantity.signum() <= 0) {
            amount.invalid("must be greater than zero");
        }
    }
}

fn volume_update(old: &Field<'_>, new: &Field<'_>) {
    let source = |volume: &Field<'_>| {
        let kept = SOURCES
            .iter()
            .filter_map(|(name, _)| Some(((*name).to_owned(), at(volume.get("spec").value(), name)?.clone())));
        kept.collect::<Map<String, Value>>()
    };
    let (was, mut is) = (source(old), source(new));
    // The one secret that may come later.
    if old.at("spec.csi").is_set()
        && !old.at("spec.csi.controllerExpandSecretRef").is_set()
        && let Some(csi) = is.get_mut("csi")
    {
        unset(csi, "controllerExpandSecretRef");
    }
    if was != is {
        new.told_at("spec.persistentvolumesource").forbidden("spec.persistentvolumesource is immutable after creation");
    }
    new.at("spec.volumeMode").told_at("volumeMode").unchanged(&old.at("spec.volumeMode"));
    if old.at("spec.nodeAffinity").is_set() {
        new.at("spec.nodeAffinity").told_at("nodeAffinity").unchanged(&old.at("spec.nodeAffinity"));
    }
    let class = "spec.volumeAttributesClassName";
    if old.at(class).is_set() && !new.at(class).is_set() {
        new.at(class).forbidden("update from non-nil value to nil is forbidden");
    }
}

fn volume_warnings(volume: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let annotation = |name: &str| deep(volume, &["metadata", "annotations", name]).is_some();
    if annotation(BETA_CLASS) {
        warnings.push(format!(
            "metadata.annotations[{BETA_CLASS}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
        ));
    }
    if annotation("volume.beta.kubernetes.io/mount-options") {
        warnings.push(
            "metadata.annotations[volume.beta.kubernetes.io/mount-options]: deprecated since v1.31; use \
             \"mountOptions\" attribute instead"
                .to_owned(),
        );
    }
    let spec = at(volume, "spec").unwrap_or(&Value::Null);
    if text(spec, "persistentVolumeReclaimPolicy") == "Recycle" {
        warnings.push(
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended \
             approach is to use dynamic provisioning."
                .to_owned(),
        );
    }
    let gone = [
        ("scaleIO", "spec.scaleIO: deprecated in v1.16, non-functional in v1.22+"),
        ("storageos", "spec.storageOS: deprecated in v1.22, non-functional in v1.25+"),
        ("glusterfs", "spec.glusterfs: deprecated in v1.25, non-functional in v1.26+"),
        ("photonPersistentDisk", "spec.photonPersistentDisk: deprecated in v1.11, non-functional in v1.16+"),
        ("cephfs", "spec.cephfs: deprecated in v1.28, non-functional in v1.31+"),
        ("rbd", "spec.rbd: deprecated in v1.28, non-functional in v1.31+"),
    ];
    warnings.extend(gone.iter().filter(|(field, _)| at(spec, field).is_some()).map(|(_, text)| (*text).to_owned()));
    warnings
}

/// Validates the spec of a claim, wherever it stands.
pub(super) fn claim_spec(spec: &Field<'_>) {
    access_modes(&spec.get("accessModes"), "at least 1 access mode is required");
    if spec.get("selector").is_set() {
        spec.get("selector").must(&Rule::Selector);
    }
    let storage = spec.at("resources.requests.storage").told_at(format!("{}.resources[storage]", spec.path()));
    match storage.quantity() {
        None => storage.required(""),
        Some(quantity) if quantity.signum() <= 0 => storage.invalid("must be greater than zero"),
        Some(quantity) if quantity.milli_value() % 1000 != 0 => storage.invalid("must be an integer"),
        Some(_) => {}
    }
    spec.get("storageClassName").must(&Rule::Text(names::dns1123_subdomain));
    spec.get("volumeMode").must(&Rule::OneOf(&VOLUME_MODES));
    for name in ["dataSource", "dataSourceRef"] {
        if spec.get(name).is_set() {
            data_source(&spec.get(name));
        }
    }
    let (source, reference) = (spec.get("dataSource"), spec.get("dataSourceRef"));
    let shown = format!("{}.dataSource", spec.path());
    if !reference.get("namespace").is_empty() {
        for detail in names::dns1123_label(reference.text_of("namespace")) {
            reference.get("namespace").invalid(detail);
        }
        if source.is_set() {
            let detail = "may not be specified when dataSourceRef.namespace is specified";
            spec.report(FieldError::invalid(spec.path(), shown, detail));
        }
    } else if source.is_set() && reference.is_set() {
        let same = |key: &str| source.get(key).value() == reference.get(key).value();
        if !(same("apiGroup") && same("kind") && same("name")) {
            spec.report(FieldError::invalid(spec.path(), shown, "must match dataSourceRef"));
        }
    }
    spec.get("volumeAttributesClassName").must(&Rule::Text(names::dns1123_subdomain));
}

fn data_source(source: &Field<'_>) {
    source.get("name").must(&Rule::Required(""));
    source.get("kind").must(&Rule::Required(""));
    let group = source.get("apiGroup");
    if group.is_empty() && source.text_of("kind") != "PersistentVolumeClaim" {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        source.report(FieldError::invalid(source.path(), source.text_of("kind"), detail));
    }
    group.must(&Rule::Text(names::dns1123_subdomain));
}

/// The older and the newer field for what a claim is filled with say the same.
fn normalize_sources(spec: &mut Value) {
    const VOLUME_SNAPSHOT: (&str, &str) = ("VolumeSnapshot", "snapshot.storage.k8s.io");
    // The older one drops what it never could name.
    if at(spec, "dataSourceRef").is_none()
        && let Some(source) = at(spec, "dataSource")
    {
        let (kind, group) = (text(source, "kind"), text(source, "apiGroup"));
        if (kind, group) != ("PersistentVolumeClaim", "") && (kind, group) != VOLUME_SNAPSHOT {
            unset(spec, "dataSource");
        }
    }
    match (at(spec, "dataSource").cloned(), at(spec, "dataSourceRef").cloned()) {
        (Some(source), None) => set(spec, "dataSourceRef", source),
        (None, Some(reference)) if text(&reference, "namespace").is_empty() => {
            let mut source = reference;
            unset(&mut source, "namespace");
            set(spec, "dataSource", source);
        }
        _ => {}
    }
}

fn claim_update(old: &Field<'_>, new: &Field<'_>) {
    let spec = |claim: &Field<'_>| at(claim.value(), "spec").cloned().unwrap_or_default();
    let (mut was, mut is) = (spec(old), spec(new));
    let bound = new.at("status.phase").text() == "Bound";
    if text(&was, "volumeName").is_empty() {
        copy(&is, &mut was, "volumeName");
    }
    let annotation = |claim: &Field<'_>| claim.at("metadata.annotations").get(BETA_CLASS).text().to_owned();
    let (old_class, new_class) = (annotation(old), annotation(new));
    let class_of = |spec: &Value| at(spec, "storageClassName").and_then(Value::as_str).map(str::to_owned);
    let from_nothing = class_of(&was).is_none() && class_of(&is).is_some();
    if from_nothing && (old_class.is_empty() || class_of(&is).is_some_and(|class| class == old_class)) {
        copy(&was, &mut is, "storageClassName");
    } else if old_class != new_class {
        let annotations = new.told_at("metadata.annotations");
        annotations.report(FieldError::invalid(
            format!("metadata.annotations[{BETA_CLASS}]"),
            new_class,
            "field is immutable",
        ));
    }
    if bound && deep(&is, &["resources", "requests"]).is_some() {
        let storage = deep(&was, &["resources", "requests", "storage"]).cloned().unwrap_or_default();
        set(child(child(&mut is, "resources"), "requests"), "storage", storage);
    }
    if bound {
        copy(&was, &mut is, "volumeAttributesClassName");
    }
    if was != is {
        new.get("spec").forbidden(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
    }
    let storage = "spec.resources.requests.storage";
    let size = |claim: &Field<'_>, path: &str| claim.at(path).quantity().unwrap_or(Quantity::ZERO);
    if size(new, storage) < size(old, storage) && size(new, storage) <= size(old, "status.capacity.storage") {
        new.at(storage).forbidden("field can not be less than status.capacity");
    }
    new.at("spec.volumeMode").told_at("volumeMode").unchanged(&old.at("spec.volumeMode"));
    let class = new.at("spec.volumeAttributesClassName");
    if old.at("status.currentVolumeAttributesClassName").is_set()
        && class.value() != old.at("spec.volumeAttributesClassName").value()
    {
        if !class.is_set() {
            class.forbidden("update to nil is forbidden when status.currentVolumeAttributesClassName is not nil");
        } else if class.is_empty() {
            class.forbidden(
                "update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil",
            );
        }
    }
}

fn copy(from: &Value, to: &mut Value, key: &str) {
    match at(from, key) {
        Some(value) => set(to, key, value.clone()),
        None => unset(to, key),
    }
}

fn claim_status(new: &Field<'_>) {
    for (_, amount) in new.at("status.capacity").entries() {
        if amount.quantity().is_some_and(|quantity| quantity.signum() < 0) {
            amount.invalid("must be a valid resource quantity");
        }
    }
    const STATUSES: [&str; 5] = [
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
        "NodeResizePending",
    ];
    let statuses = new.at("status.allocatedResourceStatuses");
    for (key, status) in statuses.entries() {
        resource_key(&statuses, key);
        if !STATUSES.contains(&status.text()) {
            statuses.report(FieldError::not_supported(statuses.path(), key, &STATUSES));
        }
    }
    let allocated = new.at("status.allocatedResources");
    for (key, amount) in allocated.entries() {
        resource_key(&allocated, key);
        match amount.quantity() {
            Some(quantity) if quantity.signum() < 0 => amount.invalid("must be a valid resource quantity"),
            Some(quantity) if quantity.milli_value() % 1000 != 0 => amount.invalid("must be an integer"),
            _ => {}
        }
    }
}

fn resource_key(map: &Field<'_>, key: &str) {
    for detail in names::qualified(key) {
        map.report(FieldError::invalid(map.path(), key, detail));
    }
    let native = !key.contains('/') || key.contains("kubernetes.io/");
    if native && key != "storage" {
        map.report(FieldError::not_supported(map.path(), key, &["storage"]));
    }
}

fn claim_warnings(claim: &Value, path: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    if deep(claim, &["metadata", "annotations", BETA_CLASS]).is_some() {
        warnings.push(format!(
            "metadata.annotations[{BETA_CLASS}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
        ));
    }
    let spec = at(claim, "spec").unwrap_or(&Value::Null);
    for list in ["requests", "limits"] {
        let storage = deep(spec, &["resources", list, "storage"]);
        if let Some(quantity) = storage.and_then(|s| Quantity::from_value(s).ok())
            && quantity.milli_value() % 1000 != 0
        {
            warnings.push(format!(
                "{path}.resources.{list}[storage]: fractional byte value {} is invalid, must be an integer",
                crate::error::quote(storage.and_then(Value::as_str).unwrap_or_default())
            ));
        }
    }
    warnings
}
