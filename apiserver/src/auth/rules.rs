//! What each component's identity may do, as a table.
//!
//! In: an identity and a request. Out: allowed, or no opinion. A later issue replaces the table by RBAC objects; the
//! rows read like them.

use super::authorizer::{Authorizer, Decision, Request};
use super::identity::Identity;

/// One row: verbs on resources of groups.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// The verbs, or `*`.
    pub verbs: &'static [&'static str],
    /// The API groups, or `*`.
    pub groups: &'static [&'static str],
    /// The resources, `pods/status` for subresources, or `*`.
    pub resources: &'static [&'static str],
    /// Only in this namespace; empty for everywhere.
    pub namespace: &'static str,
}

const READ: &[&str] = &["get", "list", "watch"];

const fn rule(
    verbs: &'static [&'static str],
    groups: &'static [&'static str],
    resources: &'static [&'static str],
) -> Rule {
    Rule { verbs, groups, resources, namespace: "" }
}

/// What every component needs: its Events and its leader's Lease.
const COMPONENT: &[Rule] = &[
    rule(&["create", "patch", "update"], &["", "events.k8s.io"], &["events"]),
    Rule {
        verbs: &["get", "create", "update", "patch"],
        groups: &["coordination.k8s.io"],
        resources: &["leases"],
        namespace: "kube-system",
    },
];

/// Controllers reconcile every kind (garbage collection and namespaces must read and delete whatever there is), but may
/// not run commands in pods.
const CONTROLLER_MANAGER: &[Rule] = &[
    rule(READ, &["*"], &["*"]),
    rule(&["delete", "deletecollection", "update", "patch"], &["*"], &["*"]),
    rule(
        &["create"],
        &[""],
        &[
            "pods",
            "configmaps",
            "serviceaccounts",
            "endpoints",
            "namespaces",
            "secrets",
            "events",
            "persistentvolumeclaims",
        ],
    ),
    rule(&["create"], &["apps", "discovery.k8s.io", "events.k8s.io", "coordination.k8s.io"], &["*"]),
    rule(&["create"], &["storage.k8s.io"], &["volumeattachments"]),
    rule(&["create"], &[""], &["pods/eviction", "serviceaccounts/token"]),
    rule(&["update", "patch"], &["*"], &["*/status", "*/scale", "*/finalizers", "namespaces/finalize"]),
    rule(&["get"], &["*"], &["*/status", "*/scale"]),
    rule(&["create"], &["authentication.k8s.io"], &["tokenreviews"]),
    rule(&["create"], &["authorization.k8s.io"], &["subjectaccessreviews"]),
];

/// The scheduler places pods and explains why it could not.
const SCHEDULER: &[Rule] = &[
    rule(
        READ,
        &[""],
        &[
            "pods",
            "nodes",
            "namespaces",
            "services",
            "persistentvolumes",
            "persistentvolumeclaims",
            "replicationcontrollers",
            "configmaps",
        ],
    ),
    rule(
        READ,
        &[
            "apps",
            "policy",
            "storage.k8s.io",
            "scheduling.k8s.io",
            "scheduling.x-k8s.io",
            "scheduling.gantry.io",
            "resource.k8s.io",
        ],
        &["*"],
    ),
    rule(&["update", "patch"], &["scheduling.gantry.io"], &["queues/status"]),
    rule(&["create"], &[""], &["pods/binding", "bindings"]),
    rule(&["update", "patch"], &[""], &["pods/status"]),
    rule(&["delete"], &[""], &["pods"]),
    // Moves make room where that is allowed.
    rule(&["create"], &[""], &["pods/eviction"]),
    // Which volume is for which claim, and for which node one is to be made.
    rule(&["update", "patch"], &[""], &["persistentvolumes", "persistentvolumeclaims"]),
];

const TABLE: &[(&str, &[&[Rule]])] = &[
    ("system:kube-controller-manager", &[COMPONENT, CONTROLLER_MANAGER]),
    ("system:kube-scheduler", &[COMPONENT, SCHEDULER]),
];

/// The rows of a user.
pub fn rules_of(identity: &Identity) -> impl Iterator<Item = &'static Rule> {
    let rows = TABLE.iter().find(|(user, _)| *user == identity.user).map_or(&[] as &[&[Rule]], |(_, rules)| *rules);
    rows.iter().flat_map(|rules| rules.iter())
}

/// Allows what the table lists.
#[derive(Debug, Default)]
pub struct RuleAuthorizer;

impl Authorizer for RuleAuthorizer {
    fn authorize(&self, identity: &Identity, request: &Request) -> Decision {
        if request.is_resource && rules_of(identity).any(|rule| rule.allows(request)) {
            return Decision::Allow;
        }
        let metrics = !request.is_resource && request.path == "/metrics" && rules_of(identity).next().is_some();
        if metrics { Decision::Allow } else { Decision::NoOpinion(String::new()) }
    }
}

impl Rule {
    fn allows(&self, request: &Request) -> bool {
        let lists = |list: &[&str], value: &str| list.iter().any(|item| *item == "*" || *item == value);
        lists(self.verbs, &request.verb)
            && lists(self.groups, &request.group)
            && (self.namespace.is_empty() || self.namespace == request.namespace)
            && self.resources.iter().any(|resource| self.covers(resource, request))
    }

    /// `*` is every resource but no subresource: those are named, alone or as `*/status`.
    fn covers(&self, resource: &str, request: &Request) -> bool {
        let (name, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        subresource == request.subresource && (name == "*" || name == request.resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(user: &str, verb: &str, group: &str, resource: &str) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let request = Request {
            verb: verb.into(),
            is_resource: true,
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: "ns".into(),
            ..Request::default()
        };
        RuleAuthorizer.authorize(&Identity::new(user, Vec::<String>::new()), &request) == Decision::Allow
    }

    #[test]
    fn each_component_has_just_what_it_needs() {
        let table = [
            ("system:kube-scheduler", "create", "", "pods/binding", true),
            ("system:kube-scheduler", "create", "", "pods", false),
            ("system:kube-scheduler", "get", "", "secrets", false),
            ("system:kube-scheduler", "create", "events.k8s.io", "events", true),
            ("system:kube-controller-manager", "create", "", "pods", true),
            ("system:kube-controller-manager", "update", "apps", "deployments/status", true),
            ("system:kube-controller-manager", "create", "storage.k8s.io", "volumeattachments", true),
            ("system:kube-controller-manager", "create", "", "pods/exec", false),
            ("system:kube-controller-manager", "get", "", "pods/log", false),
            ("somebody", "get", "", "pods", false),
        ];
        for (user, verb, group, resource, allowed) in table {
            assert_eq!(may(user, verb, group, resource), allowed, "{user} {verb} {resource}");
        }
    }
}
