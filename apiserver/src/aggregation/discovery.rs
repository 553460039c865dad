//! Discovery documents that show the groups of other servers beside this server's.
//!
//! In: this server's document and what the others were seen to have. Out: the document with both. Pure.

use serde_json::{Value, json};

use super::{Discovered, Route};

fn plain_version(route: &Route) -> Value {
    json!({"groupVersion": format!("{}/{}", route.group, route.version), "version": route.version})
}

/// Adds a version to a plain group, behind those it has.
fn add_plain(group: &mut Value, route: &Route) {
    let version = plain_version(route);
    if group["preferredVersion"].is_null() {
        group["preferredVersion"] = version.clone();
    }
    match group["versions"].as_array_mut() {
        Some(versions) if !versions.contains(&version) => versions.push(version),
        Some(_) => {}
        None => group["versions"] = json!([version]),
    }
}

/// `/apis`: the groups of other servers behind this one's.
pub fn merge_groups<'a>(mut document: Value, routes: impl Iterator<Item = &'a Route>) -> Value {
    let Some(groups) = document["groups"].as_array_mut() else { return document };
    for route in routes.filter(|route| !route.group.is_empty()) {
        match groups.iter_mut().find(|group| group["name"] == *route.group) {
            Some(group) => add_plain(group, route),
            None => {
                let mut group = json!({"name": route.group});
                add_plain(&mut group, route);
                groups.push(group);
            }
        }
    }
    document
}

/// `/apis/GROUP`; none if nobody has the group.
pub fn merge_group<'a>(document: Option<Value>, name: &str, routes: impl Iterator<Item = &'a Route>) -> Option<Value> {
    let mut routes = routes.filter(|route| route.group == name).peekable();
    if document.is_none() && routes.peek().is_none() {
        return None;
    }
    let mut document = document.unwrap_or_else(|| json!({"kind": "APIGroup", "apiVersion": "v1", "name": name}));
    for route in routes {
        add_plain(&mut document, route);
    }
    Some(document)
}

/// `/apis` as `APIGroupDiscoveryList`. What cannot be reached is shown as it was last seen, and marked.
pub fn merge_aggregated<'a>(
    mut document: Value,
    routes: impl Iterator<Item = (&'a Route, Option<&'a Discovered>)>,
) -> Value {
    let Some(items) = document["items"].as_array_mut() else { return document };
    for (route, found) in routes.filter(|(route, _)| !route.group.is_empty()) {
        let current = route.available && found.is_some();
        let version = json!({
            "version": route.version,
            "resources": found.map(|found| aggregated(route, &found.resources)).unwrap_or_default(),
            "freshness": if current { "Current" } else { "Stale" },
        });
        let group = items.iter_mut().find(|item| item["metadata"]["name"] == *route.group);
        match group.and_then(|group| group["versions"].as_array_mut()) {
            Some(versions) => {
                versions.retain(|known| known["version"] != *route.version);
                versions.push(version);
            }
            None => items.push(json!({"metadata": {"name": route.group}, "versions": [version]})),
        }
    }
    document
}

/// The resources of a plain `APIResourceList` in the aggregated form.
fn aggregated(route: &Route, list: &Value) -> Vec<Value> {
    let rows: Vec<&Value> = list["resources"].as_array().into_iter().flatten().collect();
    let kind = |row: &Value| {
        let own = |key: &str, or: &str| row[key].as_str().filter(|text| !text.is_empty()).unwrap_or(or).to_owned();
        json!({
            "group": own("group", &route.group), "version": own("version", &route.version), "kind": own("kind", ""),
        })
    };
    let name = |row: &Value| row["name"].as_str().unwrap_or_default().to_owned();
    let own = rows.iter().filter(|row| !name(row).contains('/'));
    own.map(|row| {
        let mut resource = json!({
            "resource": name(row),
            "responseKind": kind(row),
            "scope": if row["namespaced"] == true { "Namespaced" } else { "Cluster" },
            "singularResource": row["singularName"].as_str().unwrap_or_default(),
            "verbs": row["verbs"],
        });
        for key in ["shortNames", "categories"] {
            if row[key].is_array() {
                resource[key] = row[key].clone();
            }
        }
        let prefix = format!("{}/", name(row));
        let parts: Vec<Value> = rows
            .iter()
            .filter_map(|part| {
                let part_name = name(part);
                let part_name = part_name.strip_prefix(&prefix)?;
                Some(json!({"subresource": part_name, "responseKind": kind(part), "verbs": part["verbs"]}))
            })
            .collect();
        if !parts.is_empty() {
            resource["subresources"] = json!(parts);
        }
        resource
    })
    .collect()
}

/// `/openapi/v3`: where the documents of other servers are, behind this one's.
pub fn merge_openapi<'a>(
    mut document: Value,
    routes: impl Iterator<Item = (&'a Route, Option<&'a Discovered>)>,
) -> Value {
    for (route, found) in routes {
        if let Some(found) = found.filter(|found| !found.openapi.is_empty()) {
            let path = route.path();
            document["paths"][path.trim_start_matches('/')] = json!({"serverRelativeURL": found.openapi});
        }
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(group: &str, version: &str, available: bool) -> Route {
        let object = json!({
            "metadata": {"name": format!("{version}.{group}")},
            "spec": {"group": group, "version": version, "service": {"namespace": "n", "name": "s"}},
            "status": {"conditions": [{"type": "Available", "status": if available { "True" } else { "False" }}]},
        });
        Route::from_object(&object).unwrap()
    }

    #[test]
    fn groups_of_others_come_behind() {
        let own = json!({"groups": [{"name": "apps", "versions": [{"groupVersion": "apps/v1", "version": "v1"}],
                                     "preferredVersion": {"groupVersion": "apps/v1", "version": "v1"}}]});
        let routes = [route("apps", "v2", true), route("example.com", "v1", true)];
        let merged = merge_groups(own, routes.iter());
        assert_eq!(merged["groups"][0]["versions"][1]["groupVersion"], "apps/v2");
        assert_eq!(merged["groups"][0]["preferredVersion"]["version"], "v1");
        assert_eq!(merged["groups"][1]["preferredVersion"]["groupVersion"], "example.com/v1");
        assert!(merge_group(None, "none.example.com", routes.iter()).is_none());
        assert_eq!(merge_group(None, "example.com", routes.iter()).unwrap()["kind"], "APIGroup");
    }

    #[test]
    fn a_plain_list_becomes_an_aggregated_one() {
        let found = Discovered {
            resources: json!({"resources": [
                {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"],
                 "shortNames": ["fl"]},
                {"name": "flunders/status", "namespaced": true, "kind": "Flunder", "verbs": ["update"]},
                {"name": "flunders/scale", "group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["get"]},
            ]}),
            openapi: "/openapi/v3/apis/wardle.example.com/v1?hash=1".to_owned(),
            openapi_v2: None,
        };
        let (up, down) = (route("wardle.example.com", "v1", true), route("down.example.com", "v1", false));
        let routes = [(&up, Some(&found)), (&down, None)];
        let merged = merge_aggregated(json!({"items": []}), routes.into_iter());
        let resource = &merged["items"][0]["versions"][0]["resources"][0];
        assert_eq!((&resource["scope"], &resource["shortNames"]), (&json!("Namespaced"), &json!(["fl"])));
        assert_eq!(
            resource["responseKind"],
            json!({"group": "wardle.example.com", "version": "v1", "kind": "Flunder"})
        );
        assert_eq!(resource["subresources"][1]["responseKind"]["group"], "autoscaling");
        assert_eq!(merged["items"][0]["versions"][0]["freshness"], "Current");
        assert_eq!(merged["items"][1]["versions"][0]["freshness"], "Stale");
        let index = merge_openapi(json!({"paths": {}}), routes.into_iter());
        assert_eq!(
            index["paths"]["apis/wardle.example.com/v1"]["serverRelativeURL"],
            "/openapi/v3/apis/wardle.example.com/v1?hash=1"
        );
    }
}
