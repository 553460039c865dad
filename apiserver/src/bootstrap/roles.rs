//! The roles and bindings that every cluster has.
//!
//! In: the table `roles.txt`. Out: Role, ClusterRole, RoleBinding and ClusterRoleBinding objects. A role that sums others up
//! comes with the sum of those in the table.

use serde_json::{Map, Value, json};

use super::Wanted;

const TABLE: &str = include_str!("roles.txt");
const GROUP: &str = "rbac.authorization.k8s.io";
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// A role as the table has it.
#[derive(Debug, Default)]
struct Role {
    name: &'static str,
    /// Whose sums it is part of.
    part_of: Vec<&'static str>,
    /// What it sums up.
    sums: Vec<&'static str>,
    rules: Vec<Value>,
}

/// All objects.
pub(super) fn objects() -> Vec<Wanted> {
    let mut roles: Vec<Role> = Vec::new();
    let mut bindings: Vec<&'static str> = Vec::new();
    for line in TABLE.lines() {
        if let Some(rest) = line.strip_prefix("role ") {
            roles.push(head(rest));
        } else if let Some(rest) = line.strip_prefix("bind ") {
            bindings.push(rest);
        } else if let (Some(rest), Some(role)) = (line.strip_prefix(' '), roles.last_mut()) {
            role.rules.push(rule(rest));
        }
    }
    let sum = |role: &Role| -> Vec<Value> {
        let mut rules = role.rules.clone();
        let mut reached: Vec<&str> = role.sums.clone();
        // A sum may be part of a sum: edit is part of admin, and view of edit.
        let mut at = 0;
        while let Some(sum) = reached.get(at).copied() {
            for part in roles.iter().filter(|part| part.part_of.contains(&sum)) {
                for rule in part.rules.iter().filter(|_| part.name != role.name) {
                    if !rules.contains(rule) {
                        rules.push(rule.clone());
                    }
                }
                for deeper in &part.sums {
                    if !reached.contains(deeper) {
                        reached.push(deeper);
                    }
                }
            }
            at += 1;
        }
        rules
    };
    let mut wanted: Vec<Wanted> = roles.iter().map(|role| object_of(role, sum(role))).collect();
    wanted.extend(bindings.into_iter().map(binding));
    wanted
}

/// `edit part-of admin sums edit`
fn head(text: &'static str) -> Role {
    let mut words = text.split(' ');
    let mut role = Role { name: words.next().unwrap_or_default(), ..Role::default() };
    while let (Some(what), Some(names)) = (words.next(), words.next()) {
        let names: Vec<&str> = names.split(',').collect();
        match what {
            "sums" => role.sums = names,
            _ => role.part_of = names,
        }
    }
    role
}

/// `get,list core pods named a,b`
fn rule(text: &'static str) -> Value {
    let words: Vec<&str> = text.split(' ').collect();
    let list = |at: usize| -> Vec<&str> {
        let items = words.get(at).copied().unwrap_or_default().split(',');
        items.map(|item| if item == "core" && at == 1 { "" } else { item }).collect()
    };
    if words.get(1) == Some(&"url") {
        return json!({"verbs": list(0), "nonResourceURLs": list(2)});
    }
    let mut rule = json!({"verbs": list(0), "apiGroups": list(1), "resources": list(2)});
    if words.get(3) == Some(&"named") {
        rule["resourceNames"] = json!(list(4));
    }
    rule
}

/// The namespace, which may be none, and the name.
fn place(text: &'static str) -> (&'static str, &'static str) {
    text.split_once('/').unwrap_or(("", text))
}

fn metadata(name: &str, mut labels: Map<String, Value>) -> Value {
    labels.insert("kubernetes.io/bootstrapping".to_owned(), json!("rbac-defaults"));
    json!({"name": name, "labels": labels, "annotations": {AUTO_UPDATE: "true"}})
}

fn object_of(role: &Role, rules: Vec<Value>) -> Wanted {
    let aggregate = |to: &str| format!("{GROUP}/aggregate-to-{to}");
    let (namespace, name) = place(role.name);
    let labels = role.part_of.iter().map(|to| (aggregate(to), json!("true"))).collect();
    let (kind, plural) = if namespace.is_empty() { ("ClusterRole", "clusterroles") } else { ("Role", "roles") };
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata(name, labels), "rules": rules,
    });
    if !role.sums.is_empty() {
        let selectors: Vec<Value> =
            role.sums.iter().map(|sum| json!({"matchLabels": {aggregate(sum): "true"}})).collect();
        object["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
    }
    Wanted { resource: (GROUP, "v1", plural), namespace, name, object }
}

/// `kube-system/x Role/y account=kube-system/z`
fn binding(text: &'static str) -> Wanted {
    let mut words = text.split(' ');
    let (namespace, name) = place(words.next().unwrap_or_default());
    let (role_kind, role) = words.next().unwrap_or_default().split_once('/').unwrap_or_default();
    let subjects: Vec<Value> = words
        .filter_map(|word| {
            let (what, who) = word.split_once('=')?;
            Some(match (what, who.split_once('/')) {
                ("account", Some((namespace, name))) => {
                    json!({"kind": "ServiceAccount", "namespace": namespace, "name": name})
                }
                ("group", _) => json!({"apiGroup": GROUP, "kind": "Group", "name": who}),
                _ => json!({"apiGroup": GROUP, "kind": "User", "name": who}),
            })
        })
        .collect();
    let (kind, plural) = if namespace.is_empty() {
        ("ClusterRoleBinding", "clusterrolebindings")
    } else {
        ("RoleBinding", "rolebindings")
    };
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata(name, Map::new()),
        "roleRef": {"apiGroup": GROUP, "kind": role_kind, "name": role},
    });
    if !subjects.is_empty() {
        object["subjects"] = json!(subjects);
    }
    Wanted { resource: (GROUP, "v1", plural), namespace, name, object }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(plural: &str, name: &str) -> Value {
        let mut found = objects().into_iter().filter(|wanted| wanted.resource.2 == plural && wanted.name == name);
        found.next().unwrap_or_else(|| panic!("no {plural} {name}")).object
    }

    fn allows(role: &Value, verb: &str, group: &str, resource: &str) -> bool {
        let has = |rule: &Value, key: &str, wanted: &str| {
            rule[key].as_array().into_iter().flatten().any(|item| item == wanted || item == "*")
        };
        let rules = role["rules"].as_array().unwrap().iter();
        rules.into_iter().any(|r| has(r, "verbs", verb) && has(r, "apiGroups", group) && has(r, "resources", resource))
    }

    #[test]
    fn the_table_holds_the_roles_that_people_know() {
        let count = |plural: &str| objects().iter().filter(|wanted| wanted.resource.2 == plural).count();
        assert_eq!(
            [count("clusterroles"), count("clusterrolebindings"), count("roles"), count("rolebindings")],
            [68, 49, 7, 7]
        );
        assert!(allows(&find("clusterroles", "cluster-admin"), "delete", "apps", "deployments"));
        let (admin, edit, view) =
            (find("clusterroles", "admin"), find("clusterroles", "edit"), find("clusterroles", "view"));
        assert!(allows(&admin, "create", GROUP, "rolebindings"));
        assert!(!allows(&edit, "create", GROUP, "rolebindings") && allows(&edit, "delete", "", "pods"));
        assert!(!allows(&view, "delete", "", "pods") && allows(&view, "list", "", "pods"));
        assert!(!allows(&view, "get", "", "secrets"), "a reader sees no secrets");
        for role in [&admin, &edit] {
            assert!(allows(role, "list", "", "pods") && allows(role, "get", "", "secrets"));
        }
        let approver = find("clusterroles", "system:certificates.k8s.io:legacy-unknown-approver");
        assert_eq!(approver["rules"][0]["resourceNames"], json!(["kubernetes.io/legacy-unknown"]));
        let binding = find("clusterrolebindings", "cluster-admin");
        assert_eq!(binding["subjects"], json!([{"apiGroup": GROUP, "kind": "Group", "name": "system:masters"}]));
    }
}
