//! The kinds of storage.k8s.io.

use serde_json::Value;

use super::field::{child, list, set, text, unset};
use super::names;
use super::pod::old_node_label;
use super::rules::{Declared, Field, Rule};
use super::volumes::{driver_name, volume_spec};
use crate::error::FieldError;

const PARAMETERS_BYTES_MAX: usize = 256 * 1024;
const PARAMETERS_MAX: usize = 512;
const ERROR_BYTES_MAX: usize = 1024;
const NODE_ID_MAX: usize = 256;
const TOKEN_SECONDS_MIN: i64 = 600;

/// StorageClass.
pub static STORAGE_CLASS: Declared = Declared {
    rules: &[
        ("provisioner", &[Rule::Required(""), Rule::Text(provisioner)]),
        ("parameters", &[Rule::Check(parameters)]),
        ("reclaimPolicy", &[Rule::OneOf(&["Delete", "Retain"])]),
        ("volumeBindingMode", &[Rule::OneOf(&["Immediate", "WaitForFirstConsumer"])]),
        ("allowedTopologies", &[Rule::Check(topologies)]),
    ],
    immutable: &["volumeBindingMode"],
    update: |subresource, old, new| {
        if subresource.is_empty() {
            forbid_changes(old, new, &["parameters", "provisioner", "reclaimPolicy"]);
        }
    },
    warnings: |class| {
        let mut warnings = Vec::new();
        for (i, topology) in list(class, "allowedTopologies").iter().enumerate() {
            for (j, expression) in list(topology, "matchLabelExpressions").iter().enumerate() {
                if let Some(why) = old_node_label(text(expression, "key")) {
                    warnings.push(format!("allowedTopologies[{i}].matchLabelExpressions[{j}].key: {why}"));
                }
            }
        }
        warnings
    },
    ..Declared::PLAIN
};

/// VolumeAttributesClass.
pub static VOLUME_ATTRIBUTES_CLASS: Declared = Declared {
    rules: &[
        ("driverName", &[Rule::Required(""), Rule::Text(provisioner)]),
        ("parameters", &[Rule::Required("must contain at least one key/value pair"), Rule::Check(parameters)]),
    ],
    update: |subresource, old, new| {
        if subresource.is_empty() {
            forbid_changes(old, new, &["driverName", "parameters"]);
        }
    },
    ..Declared::PLAIN
};

/// CSIDriver.
pub static CSI_DRIVER: Declared = Declared {
    unconditional_update: false,
    generation: true,
    rules: &[
        ("spec.fsGroupPolicy", &[Rule::OneOf(&["File", "None", "ReadWriteOnceWithFSType"])]),
        ("spec.tokenRequests", &[Rule::Distinct("audience")]),
        ("spec.tokenRequests[].expirationSeconds", &[Rule::Check(token_lifetime)]),
        (
            "spec.volumeLifecycleModes",
            &[Rule::Check(|modes| {
                for mode in modes.items() {
                    if !matches!(mode.text(), "Persistent" | "Ephemeral") {
                        mode.told_at(modes.path()).unsupported(&["Persistent", "Ephemeral"]);
                    }
                }
            })],
        ),
        (
            "spec.nodeAllocatableUpdatePeriodSeconds",
            &[Rule::Check(|period| {
                if period.count() < 10 {
                    period.invalid("must be greater than or equal to 10 seconds");
                }
            })],
        ),
        (
            "spec",
            &[Rule::Check(|spec| {
                let secrets = spec.get("serviceAccountTokenInSecrets");
                if secrets.is_set() && spec.get("tokenRequests").is_empty() {
                    secrets.invalid("serviceAccountTokenInSecrets is set but no tokenRequests are specified");
                }
            })],
        ),
    ],
    immutable: &["spec.volumeLifecycleModes"],
    update: |subresource, old, new| {
        if subresource.is_empty() {
            new.at("spec.attachRequired").told_at("spec.attachedRequired").unchanged(&old.at("spec.attachRequired"));
        }
    },
    ..Declared::PLAIN
};

/// CSINode.
pub static CSI_NODE: Declared = Declared {
    unconditional_update: false,
    rules: &[
        ("spec.drivers", &[Rule::Distinct("name")]),
        ("spec.drivers[].name", &[Rule::Always(driver_name)]),
        (
            "spec.drivers[].nodeID",
            &[
                Rule::Required(""),
                Rule::Check(|id| {
                    if id.len() > NODE_ID_MAX {
                        id.invalid(format!("must be {NODE_ID_MAX} characters or less"));
                    }
                }),
            ],
        ),
        ("spec.drivers[].allocatable.count", &[Rule::NonNegative]),
        ("spec.drivers[]", &[Rule::Check(topology_keys)]),
    ],
    update: |subresource, old, new| {
        if !subresource.is_empty() {
            return;
        }
        let drivers = new.at("spec.drivers");
        for before in old.at("spec.drivers").items() {
            let name = before.text_of("name");
            for after in drivers.items().filter(|driver| driver.text_of("name") == name) {
                let fixed = |driver: &Field<'_>| {
                    let mut driver = driver.value().clone();
                    unset(&mut driver, "allocatable");
                    driver
                };
                if fixed(&before) != fixed(&after) {
                    after.told_at(drivers.path()).invalid("field is immutable");
                }
            }
        }
    },
    ..Declared::PLAIN
};

/// CSIStorageCapacity.
pub static CSI_STORAGE_CAPACITY: Declared = Declared {
    unconditional_update: false,
    rules: &[
        ("nodeTopology", &[Rule::Selector]),
        ("storageClassName", &[Rule::Always(|class| class.judge(names::dns1123_subdomain))]),
        ("capacity", &[Rule::Check(not_negative)]),
    ],
    immutable: &["nodeTopology", "storageClassName"],
    ..Declared::PLAIN
};

/// VolumeAttachment.
pub static VOLUME_ATTACHMENT: Declared = Declared {
    unconditional_update: false,
    rules: &[
        ("spec.attacher", &[Rule::Required("")]),
        ("spec.source", &[Rule::Always(attachment_source)]),
        ("spec.nodeName", &[Rule::Always(|node| node.judge(names::dns1123_subdomain))]),
    ],
    create: &[
        (
            "spec.attacher",
            &[Rule::Check(|attacher| {
                if !attacher.is_empty() {
                    driver_name(attacher)
                }
            })],
        ),
        ("spec.source.persistentVolumeName", &[Rule::Text(names::dns1123_subdomain)]),
    ],
    status: &[
        ("status.attachmentMetadata", &[Rule::Check(|metadata| bytes_at_most(metadata, PARAMETERS_BYTES_MAX))]),
        ("status.attachError", &[Rule::Check(volume_error)]),
        ("status.detachError", &[Rule::Check(volume_error)]),
    ],
    prepare_create: |object| set(child(object, "status"), "attached", false),
    immutable: &["spec"],
    ..Declared::PLAIN
};

fn provisioner(name: &str) -> Vec<String> {
    names::qualified(&name.to_lowercase())
}

fn parameters(parameters: &Field<'_>) {
    if parameters.len() > PARAMETERS_MAX {
        parameters.report(FieldError::too_long(parameters.path(), PARAMETERS_MAX));
        return;
    }
    if parameters.entries().any(|(key, _)| key.is_empty()) {
        parameters.report(FieldError::invalid(parameters.path(), "", "field can not be empty."));
    }
    bytes_at_most(parameters, PARAMETERS_BYTES_MAX);
}

fn bytes_at_most(map: &Field<'_>, max: usize) {
    let size: usize = map.entries().map(|(key, value)| key.len() + value.text().len()).sum();
    if size > max {
        map.report(FieldError::too_long(map.path(), max));
    }
}

fn topologies(topologies: &Field<'_>) {
    let mut seen: Vec<&Value> = Vec::new();
    for term in topologies.items() {
        let expressions = term.get("matchLabelExpressions");
        let mut keys = Vec::new();
        for expression in expressions.items() {
            let (key, values) = (expression.get("key"), expression.get("values"));
            names::qualified(key.text()).into_iter().for_each(|detail| key.invalid(detail));
            values.must(&Rule::Required(""));
            values.must(&Rule::Distinct(""));
            if keys.contains(&key.text()) {
                key.duplicate();
            }
            keys.push(key.text());
        }
        if seen.contains(&expressions.value()) {
            expressions.report(FieldError::duplicate(expressions.path(), ""));
        }
        seen.push(expressions.value());
    }
}

fn token_lifetime(seconds: &Field<'_>) {
    if seconds.count() < TOKEN_SECONDS_MIN {
        seconds.invalid("may not specify a duration less than 10 minutes");
    }
    if seconds.count() > 1 << 32 {
        seconds.invalid("may not specify a duration larger than 2^32 seconds");
    }
}

fn topology_keys(driver: &Field<'_>) {
    let keys = driver.get("topologyKeys");
    let mut seen = Vec::new();
    for key in keys.items().map(|key| key.told_at(driver.path())) {
        key.must(&Rule::Required(""));
        if seen.contains(&key.text()) {
            key.duplicate();
        }
        seen.push(key.text());
        names::qualified(key.text()).into_iter().for_each(|detail| key.invalid(detail));
    }
}

fn attachment_source(source: &Field<'_>) {
    let (inline, name) = (source.get("inlineVolumeSpec"), source.get("persistentVolumeName"));
    let exactly = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (inline.is_set(), name.is_set()) {
        (false, false) => source.required(exactly),
        (true, true) => source.forbidden(exactly),
        (false, true) => name.must(&Rule::Required("must specify non empty persistentVolumeName")),
        (true, false) => volume_spec(&inline, true),
    }
}

fn volume_error(error: &Field<'_>) {
    if error.text_of("message").len() > ERROR_BYTES_MAX {
        error.report(FieldError::too_long(error.get("message").path(), PARAMETERS_BYTES_MAX));
    }
    error.get("errorCode").must(&Rule::Range(0, i32::MAX as i64));
}

/// A quantity that may not be negative.
pub(super) fn not_negative(amount: &Field<'_>) {
    if amount.quantity().is_some_and(|quantity| quantity.signum() < 0) {
        amount.invalid("must be greater than or equal to 0");
    }
}

fn forbid_changes(old: &Field<'_>, new: &Field<'_>, fields: &[&str]) {
    for field in fields {
        if old.get(field).value() != new.get(field).value() {
            new.get(field).forbidden(format!("updates to {field} are forbidden."));
        }
    }
}
