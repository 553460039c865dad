//! Discovery documents: which groups, versions and resources a server has.
//!
//! In: the catalog. Out: the documents of `/api`, `/apis` and below, in the plain form (one document a group version) and in
//! the aggregated one (`APIGroupDiscoveryList`, all in two documents).

use serde_json::{Map, Value, json};

use crate::kinds::{Catalog, Gvk, Resource, Subresource, Verb, api_version};

/// The verbs of `status` and `scale`.
const PART_VERBS: [Verb; 3] = [Verb::Get, Verb::Patch, Verb::Update];

/// `/api`: the versions of the core group. `server_address` is `host:port`.
pub fn api_versions(catalog: &Catalog, server_address: &str) -> Value {
    let versions = catalog.groups().into_iter().find(|(group, _)| group.is_empty()).map(|(_, versions)| versions);
    json!({
        "kind": "APIVersions",
        "versions": versions.unwrap_or_default(),
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

/// `/apis`: all named groups.
pub fn group_list(catalog: &Catalog) -> Value {
    let groups: Vec<Value> = named_groups(catalog).map(|(group, versions)| plain_group(&group, &versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`.
pub fn group(catalog: &Catalog, group: &str) -> Option<Value> {
    let (group, versions) = named_groups(catalog).find(|(name, _)| name == group)?;
    let mut document = plain_group(&group, &versions);
    document["kind"] = "APIGroup".into();
    document["apiVersion"] = "v1".into();
    Some(document)
}

fn named_groups(catalog: &Catalog) -> impl Iterator<Item = (String, Vec<String>)> {
    catalog.groups().into_iter().filter(|(group, _)| !group.is_empty())
}

fn plain_group(group: &str, versions: &[String]) -> Value {
    let version = |version: &String| json!({"groupVersion": api_version(group, version), "version": version});
    let all: Vec<Value> = versions.iter().map(version).collect();
    json!({"name": group, "versions": all, "preferredVersion": all.first()})
}

/// `/api/v1` and `/apis/GROUP/VERSION`.
pub fn resource_list(catalog: &Catalog, group: &str, version: &str) -> Option<Value> {
    let resources: Vec<Value> = of_version(catalog, group, version).flat_map(plain_resource).collect();
    if resources.is_empty() {
        return None;
    }
    let group_version = api_version(group, version);
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}))
}

fn of_version<'a>(catalog: &'a Catalog, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Resource> {
    catalog.iter().map(AsRef::as_ref).filter(move |resource| resource.group == group && resource.version == version)
}

/// A resource and its subresources, a row each.
fn plain_resource(resource: &Resource) -> Vec<Value> {
    let mut own = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": verbs(&resource.verbs),
    });
    if !resource.short_names.is_empty() {
        own["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        own["categories"] = json!(resource.categories);
    }
    let mut rows = vec![own];
    for part in parts(resource) {
        let mut row = json!({
            "name": format!("{}/{}", resource.plural, part.name),
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": part.gvk.kind,
            "verbs": verbs(&part.verbs),
        });
        if (part.gvk.group.as_str(), part.gvk.version.as_str()) != (&resource.group, &resource.version) {
            row["group"] = part.gvk.group.into();
            row["version"] = part.gvk.version.into();
        }
        rows.push(row);
    }
    rows
}

/// Every subresource in one form, sorted by name.
fn parts(resource: &Resource) -> Vec<Subresource> {
    let part = |name: &str, gvk: Gvk| Subresource { name: name.to_owned(), gvk, verbs: PART_VERBS.to_vec() };
    let mut all = resource.subresources.other.clone();
    if resource.subresources.status {
        all.push(part("status", resource.gvk()));
    }
    if resource.subresources.scale.is_some() {
        all.push(part("scale", Gvk::new("autoscaling", "v1", "Scale")));
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn verbs(verbs: &[Verb]) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = verbs.iter().map(|verb| verb.as_str()).collect();
    names.sort_unstable();
    names
}

/// `/api` as `APIGroupDiscoveryList` v2.
pub fn aggregated_api(catalog: &Catalog) -> Value {
    aggregated(catalog, |group| group.is_empty())
}

/// `/apis` as `APIGroupDiscoveryList` v2.
pub fn aggregated_apis(catalog: &Catalog) -> Value {
    aggregated(catalog, |group| !group.is_empty())
}

fn aggregated(catalog: &Catalog, wanted: impl Fn(&str) -> bool) -> Value {
    let groups = catalog.groups().into_iter().filter(|(group, _)| wanted(group));
    let items: Vec<Value> = groups
        .map(|(group, versions)| {
            // The core group has no name in its metadata.
            let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let resources: Vec<Value> = of_version(catalog, &group, version).map(aggregated_resource).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resource(resource: &Resource) -> Value {
    let mut document = Map::new();
    document.insert("resource".into(), resource.plural.clone().into());
    document.insert("responseKind".into(), response_kind(&resource.gvk()));
    document.insert("scope".into(), if resource.namespaced { "Namespaced" } else { "Cluster" }.into());
    document.insert("singularResource".into(), resource.singular.clone().into());
    document.insert("verbs".into(), json!(verbs(&resource.verbs)));
    if !resource.short_names.is_empty() {
        document.insert("shortNames".into(), json!(resource.short_names));
    }
    if !resource.categories.is_empty() {
        document.insert("categories".into(), json!(resource.categories));
    }
    let subresources: Vec<Value> = parts(resource)
        .iter()
        .map(|part| json!({"subresource": part.name, "responseKind": response_kind(&part.gvk), "verbs": verbs(&part.verbs)}))
        .collect();
    if !subresources.is_empty() {
        document.insert("subresources".into(), subresources.into());
    }
    document.into()
}

fn response_kind(gvk: &Gvk) -> Value {
    json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_documents_tell_groups_resources_and_subresources() {
        let catalog = Catalog::builtin();
        assert_eq!(api_versions(&catalog, "127.0.0.1:6443")["versions"], json!(["v1"]));
        let apps = group(&catalog, "apps").unwrap();
        assert_eq!(apps["preferredVersion"], json!({"groupVersion": "apps/v1", "version": "v1"}));
        assert!(group(&catalog, "nope").is_none() && group(&catalog, "").is_none());
        let list = resource_list(&catalog, "apps", "v1").unwrap();
        let row = |name: &str| list["resources"].as_array().unwrap().iter().find(|row| row["name"] == name).unwrap();
        assert_eq!(row("deployments")["shortNames"], json!(["deploy"]));
        assert_eq!(row("deployments/scale")["group"], "autoscaling");
        assert_eq!(row("deployments/status")["verbs"], json!(["get", "patch", "update"]));
        assert!(resource_list(&catalog, "apps", "v9").is_none());
    }

    #[test]
    fn the_aggregated_documents_hold_the_same_resources() {
        let catalog = Catalog::builtin();
        let mut seen = 0;
        for document in [aggregated_api(&catalog), aggregated_apis(&catalog)] {
            for group in document["items"].as_array().unwrap() {
                let name = group["metadata"]["name"].as_str().unwrap_or_default();
                for version in group["versions"].as_array().unwrap() {
                    for resource in version["resources"].as_array().unwrap() {
                        let plural = resource["resource"].as_str().unwrap();
                        let known = catalog.resource(name, version["version"].as_str().unwrap(), plural).unwrap();
                        assert_eq!(resource["responseKind"]["kind"], *known.kind);
                        seen += 1;
                    }
                }
            }
        }
        assert_eq!(seen, catalog.iter().count());
    }
}
