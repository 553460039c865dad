//! Roles and their bindings.

use serde_json::Value;

use super::field::{list_mut, set_default, text};
use super::names::{self, NameRule};
use super::rules::{Declared, Field, Rule};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Role.
pub static ROLE: Declared = Declared {
    names: NameRule::PathSegment,
    rules: &[("rules[]", &[Rule::Check(|rule| policy_rule(rule, true))])],
    ..Declared::PLAIN
};

/// ClusterRole.
pub static CLUSTER_ROLE: Declared = Declared {
    names: NameRule::PathSegment,
    rules: &[
        ("rules[]", &[Rule::Check(|rule| policy_rule(rule, false))]),
        (
            "aggregationRule.clusterRoleSelectors",
            &[Rule::Required("at least one clusterRoleSelector required if aggregationRule is non-nil")],
        ),
        ("aggregationRule.clusterRoleSelectors[]", &[Rule::Selector]),
    ],
    ..Declared::PLAIN
};

/// RoleBinding.
pub static ROLE_BINDING: Declared = Declared {
    names: NameRule::PathSegment,
    default: default_subjects,
    rules: &[
        ("", &[Rule::Check(|binding| role_ref(&binding.get("roleRef"), &["Role", "ClusterRole"]))]),
        ("subjects[]", &[Rule::Check(|one| subject(one, true))]),
    ],
    update: same_role,
    ..Declared::PLAIN
};

/// ClusterRoleBinding.
pub static CLUSTER_ROLE_BINDING: Declared = Declared {
    names: NameRule::PathSegment,
    default: default_subjects,
    rules: &[
        ("", &[Rule::Check(|binding| role_ref(&binding.get("roleRef"), &["ClusterRole"]))]),
        ("subjects[]", &[Rule::Check(|one| subject(one, false))]),
    ],
    update: same_role,
    ..Declared::PLAIN
};

fn default_subjects(binding: &mut Value) {
    for subject in list_mut(binding, "subjects") {
        if matches!(text(subject, "kind"), "User" | "Group") {
            set_default(subject, "apiGroup", GROUP);
        }
    }
}

fn policy_rule(rule: &Field<'_>, namespaced: bool) {
    let get = |key: &str| rule.get(key);
    get("verbs").must(&Rule::Required("verbs must contain at least one value"));
    let urls = get("nonResourceURLs");
    if !urls.is_empty() {
        if namespaced {
            urls.invalid("namespaced rules cannot apply to non-resource URLs");
        }
        if ["apiGroups", "resources", "resourceNames"].iter().any(|key| !get(key).is_empty()) {
            urls.invalid("rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    get("apiGroups").must(&Rule::Required("resource rules must supply at least one api group"));
    get("resources").must(&Rule::Required("resource rules must supply at least one resource"));
}

fn role_ref(role: &Field<'_>, kinds: &[&str]) {
    role.get("apiGroup").one_of(&[GROUP]);
    role.get("kind").one_of(kinds);
    role.get("name").must(&Rule::Required(""));
    role.get("name").must(&Rule::Text(names::segment));
}

fn subject(subject: &Field<'_>, namespaced: bool) {
    let (name, group) = (subject.get("name"), subject.get("apiGroup"));
    name.must(&Rule::Required(""));
    match subject.text_of("kind") {
        "ServiceAccount" => {
            name.must(&Rule::Text(names::dns1123_subdomain));
            if !group.is_empty() {
                group.unsupported(&[""]);
            }
            if !namespaced {
                subject.get("namespace").must(&Rule::Required(""));
            }
        }
        "User" | "Group" => group.one_of(&[GROUP]),
        _ => subject.get("kind").unsupported(&["ServiceAccount", "User", "Group"]),
    }
}

fn same_role(subresource: &str, old: &Field<'_>, new: &Field<'_>) {
    let role = new.get("roleRef");
    if subresource.is_empty() && role.value() != old.get("roleRef").value() {
        role.invalid("cannot change roleRef");
    }
}
