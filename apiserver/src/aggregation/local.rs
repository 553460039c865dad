//! The APIServices of what this server answers itself.
//!
//! In: the groups and versions of the catalog, and which of them are custom. Out: the objects that there should be. Pure.

use gantry_api::kinds::{Catalog, SchemaSource};
use serde_json::{Value, json};

/// Marks an APIService that the server keeps.
pub const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Groups and their places in discovery, as Kubernetes orders them.
const PRIORITIES: &[(&str, i64)] = &[
    ("", 18_000),
    ("apps", 17_800),
    ("events.k8s.io", 17_750),
    ("authentication.k8s.io", 17_700),
    ("authorization.k8s.io", 17_600),
    ("autoscaling", 17_500),
    ("batch", 17_400),
    ("certificates.k8s.io", 17_300),
    ("networking.k8s.io", 17_200),
    ("policy", 17_100),
    ("rbac.authorization.k8s.io", 17_000),
    ("storage.k8s.io", 16_800),
    ("apiextensions.k8s.io", 16_700),
    ("admissionregistration.k8s.io", 16_700),
    ("scheduling.k8s.io", 16_600),
    ("coordination.k8s.io", 16_500),
    ("node.k8s.io", 16_300),
    ("discovery.k8s.io", 16_200),
    ("resource.k8s.io", 16_200),
    ("flowcontrol.apiserver.k8s.io", 16_100),
    // Gantry's own come after Kubernetes', so that a short name means theirs.
    ("scheduling.gantry.io", 16_000),
    ("scheduling.x-k8s.io", 15_900),
];
/// The places of custom groups and their versions.
const CUSTOM: (i64, i64) = (1_000, 100);

/// The place of a version in its group: stable before beta before alpha, higher numbers first.
fn version_priority(group: &str, version: &str) -> i64 {
    match (group, version) {
        ("", _) => 1,
        ("autoscaling", "v2") => 30,
        ("resource.k8s.io" | "flowcontrol.apiserver.k8s.io", "v1") => 21,
        (_, version) if version.contains("alpha") => 1,
        (_, version) if version.contains("beta") => 9,
        _ => 15,
    }
}

/// One object for each group and version of the catalog, by name.
pub fn wanted(catalog: &Catalog) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for (group, versions) in catalog.groups() {
        for version in versions {
            // The objects that say what is aggregated are no subject of aggregation.
            if group == super::OWN_GROUP {
                continue;
            }
            let custom = catalog
                .iter()
                .find(|resource| resource.group == group && resource.version == version)
                .is_some_and(|resource| matches!(resource.source, SchemaSource::Own(..)));
            let known = PRIORITIES.iter().find(|(name, _)| *name == group).map(|(_, priority)| *priority);
            let (group_priority, priority, managed) = match known {
                Some(known) if !custom => (known, version_priority(&group, &version), "onstart"),
                _ => (CUSTOM.0, CUSTOM.1, "true"),
            };
            let name = format!("{version}.{group}");
            let object = json!({
                "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
                "metadata": {"name": name, "labels": {MANAGED: managed}},
                "spec": {
                    "group": group, "version": version,
                    "groupPriorityMinimum": group_priority, "versionPriority": priority,
                },
            });
            all.push((name, object));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_and_version_has_one() {
        let all = wanted(&Catalog::builtin());
        let find = |name: &str| all.iter().find(|(known, _)| known == name).map(|(_, object)| object);
        let core = find("v1.").unwrap();
        assert_eq!(
            (&core["spec"]["groupPriorityMinimum"], &core["spec"]["versionPriority"]),
            (&json!(18_000), &json!(1))
        );
        assert_eq!(core["metadata"]["labels"][MANAGED], "onstart");
        assert_eq!(find("v1.apps").unwrap()["spec"]["versionPriority"], 15);
        assert!(find("v1.apiregistration.k8s.io").is_none());
        assert!(
            all.iter().all(|(_, object)| object["metadata"]["labels"][MANAGED] == "onstart"),
            "a group has no place"
        );
    }
}
