//! What a pod's author is warned of: what is allowed, and probably not meant.
//!
//! In: a pod, or the template of one. Out: texts for the client, as Kubernetes words them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};

use serde_json::Value;

use super::super::field::{at, deep, entries, int, list, text};
use super::app_armor;
use super::defaults::CONTAINER_LISTS;
use crate::error::quote;
use crate::quantity::Quantity;

/// Labels of nodes that have got other names, or none.
const OLD_NODE_LABELS: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use Taints and Tolerations instead"),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

/// Annotations that fields have replaced.
const OLD_ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const SECCOMP_WHY: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";

/// Kinds of volumes that no longer work, or will not.
const OLD_VOLUMES: [(&str, &str); 9] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// What replaces a node's label, if it is an old one.
pub(in crate::strategy) fn old_node_label(label: &str) -> Option<&'static str> {
    OLD_NODE_LABELS.iter().find(|(old, _)| *old == label).map(|(_, why)| *why)
}

/// Warnings about a pod, or about a template at `path`.
pub(in crate::strategy) fn of(pod: &Value, path: &str) -> Vec<String> {
    let null = Value::Null;
    let look = Look {
        spec: at(pod, "spec").unwrap_or(&null),
        annotations: deep(pod, &["metadata", "annotations"]).unwrap_or(&null),
        path: if path.is_empty() { "spec".to_owned() } else { format!("{path}.spec") },
        noted: if path.is_empty() { "metadata.annotations".to_owned() } else { format!("{path}.metadata.annotations") },
        is_template: !path.is_empty(),
    };
    let mut warnings = Vec::new();
    look.placement(&mut warnings);
    look.annotations(&mut warnings);
    look.volumes(&mut warnings);
    look.repeats(&mut warnings);
    look.containers(&mut warnings);
    look.ports(&mut warnings);
    look.affinities(&mut warnings);
    look.addresses(&mut warnings);
    warnings
}

struct Look<'p> {
    spec: &'p Value,
    annotations: &'p Value,
    /// Where the spec stands.
    path: String,
    /// Where the annotations stand.
    noted: String,
    is_template: bool,
}

impl<'p> Look<'p> {
    /// Every container with its path.
    fn all_containers(&self) -> impl Iterator<Item = (&'p Value, String)> {
        let (spec, path) = (self.spec, self.path.clone());
        CONTAINER_LISTS.into_iter().flat_map(move |kind| {
            let path = path.clone();
            list(spec, kind).iter().enumerate().map(move |(at, each)| (each, format!("{path}.{kind}[{at}]")))
        })
    }

    fn placement(&self, warnings: &mut Vec<String>) {
        let path = &self.path;
        for (label, _) in entries(self.spec, "nodeSelector") {
            if let Some(why) = old_node_label(label) {
                warnings.push(format!("{path}.nodeSelector[{label}]: {why}"));
            }
        }
        let node = deep(self.spec, &["affinity", "nodeAffinity"]).unwrap_or(&Value::Null);
        let mut term = |term: &Value, path: String| {
            for (at, expression) in list(term, "matchExpressions").iter().enumerate() {
                let key = text(expression, "key");
                if let Some(why) = old_node_label(key) {
                    warnings.push(format!("{path}.matchExpressions[{at}].key: {key} is {why}"));
                }
            }
        };
        let required = at(node, "requiredDuringSchedulingIgnoredDuringExecution").unwrap_or(&Value::Null);
        let base = format!("{path}.affinity.nodeAffinity");
        for (at, each) in list(required, "nodeSelectorTerms").iter().enumerate() {
            term(each, format!("{base}.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[{at}]"));
        }
        for (index, each) in list(node, "preferredDuringSchedulingIgnoredDuringExecution").iter().enumerate() {
            let preference = at(each, "preference").unwrap_or(&Value::Null);
            term(preference, format!("{base}.preferredDuringSchedulingIgnoredDuringExecution[{index}].preference"));
        }
        for (index, constraint) in list(self.spec, "topologySpreadConstraints").iter().enumerate() {
            let (here, key) = (format!("{path}.topologySpreadConstraints[{index}]"), text(constraint, "topologyKey"));
            if let Some(why) = old_node_label(key) {
                warnings.push(format!("{here}.topologyKey: {key} is {why}"));
            }
            if at(constraint, "labelSelector").is_none() {
                warnings.push(format!("{here}.labelSelector: a null labelSelector results in matching no pod"));
            }
        }
    }

    fn annotations(&self, warnings: &mut Vec<String>) {
        for (key, why) in OLD_ANNOTATIONS {
            if at(self.annotations, key).is_some() {
                warnings.push(format!("{}[{key}]: {why}", self.noted));
            }
        }
        let profiled = deep(self.spec, &["securityContext", "seccompProfile"]).is_some();
        if !profiled && at(self.annotations, SECCOMP_POD).is_some() {
            warnings.push(format!("{}[{SECCOMP_POD}]: {SECCOMP_WHY}", self.noted));
        }
    }

    fn volumes(&self, warnings: &mut Vec<String>) {
        for (index, volume) in list(self.spec, "volumes").iter().enumerate() {
            let here = || format!("{}.volumes[{index}]", self.path);
            for (kind, why) in OLD_VOLUMES {
                // Kubernetes' type writes this one in lower case.
                let present = at(volume, kind).or_else(|| at(volume, "storageos").filter(|_| kind == "storageOS"));
                if present.is_some() {
                    warnings.push(format!("{}.{kind}: {why}", here()));
                }
            }
            if let Some(claim) = deep(volume, &["ephemeral", "volumeClaimTemplate", "spec"]) {
                for kind in ["requests", "limits"] {
                    let storage = deep(claim, &["resources", kind, "storage"]);
                    let place = || format!("{}.ephemeral.volumeClaimTemplate.spec.resources.{kind}[storage]", here());
                    fractional(storage, place, warnings);
                }
            }
        }
        for volume in list(self.spec, "volumes") {
            overlaps(volume, warnings);
        }
    }

    fn repeats(&self, warnings: &mut Vec<String>) {
        let path = &self.path;
        let mut addresses = HashSet::new();
        for (at, alias) in list(self.spec, "hostAliases").iter().enumerate() {
            let ip = text(alias, "ip");
            if !addresses.insert(ip) {
                warnings.push(format!("{path}.hostAliases[{at}].ip: duplicate ip {}", quote(ip)));
            }
        }
        let mut names = HashSet::new();
        let secrets = list(self.spec, "imagePullSecrets");
        for (at, secret) in secrets.iter().enumerate() {
            let name = text(secret, "name");
            if !names.insert(name) {
                warnings.push(format!("{path}.imagePullSecrets[{at}].name: duplicate name {}", quote(name)));
            }
        }
        for (at, _) in secrets.iter().enumerate().filter(|(_, secret)| text(secret, "name").is_empty()) {
            warnings.push(format!("{path}.imagePullSecrets[{at}].name: invalid empty name \"\""));
        }
        for kind in ["memory", "ephemeral-storage"] {
            fractional(deep(self.spec, &["overhead", kind]), || format!("{path}.overhead[{kind}]"), warnings);
        }
    }

    fn containers(&self, warnings: &mut Vec<String>) {
        for (container, path) in self.all_containers() {
            let name = text(container, "name");
            let own = |field: &str| deep(container, &["securityContext", field]).is_some();
            let noted = |prefix: &str| {
                // Few pods have annotations about their containers, and then the key is worth making.
                self.annotations.as_object().filter(|map| !map.is_empty())?;
                let key = format!("{prefix}{name}");
                at(self.annotations, &key).and_then(Value::as_str).map(|value| (key, value))
            };
            if let (false, Some((key, _))) = (own("seccompProfile"), noted(SECCOMP_CONTAINER)) {
                warnings.push(format!("{}[{key}]: {SECCOMP_WHY}", self.noted));
            }
            if let (true, false, Some((key, value))) =
                (self.is_template, own("appArmorProfile"), noted(app_armor::ANNOTATION))
                && !self.pod_profile_is(value)
            {
                let why = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
                warnings.push(format!("{}[{key}]: {why}", self.noted));
            }
            for resource in ["memory", "ephemeral-storage"] {
                for kind in ["limits", "requests"] {
                    let amount = deep(container, &["resources", kind, resource]);
                    fractional(amount, || format!("{path}.resources.{kind}[{resource}]"), warnings);
                }
            }
            hidden_variables(container, &path, warnings);
        }
        if int(self.spec, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
            let why = "must be >= 0; negative values are invalid and will be treated as 1";
            warnings.push(format!("{}.terminationGracePeriodSeconds: {why}", self.path));
        }
    }

    /// Whether the whole pod has the AppArmor profile that an annotation names.
    fn pod_profile_is(&self, annotation: &str) -> bool {
        let profile = deep(self.spec, &["securityContext", "appArmorProfile"]);
        profile.is_some_and(|profile| app_armor::says(profile, annotation))
    }

    fn ports(&self, warnings: &mut Vec<String>) {
        let mut taken: BTreeMap<(i64, &str), Vec<(String, &Value)>> = BTreeMap::new();
        let mut named: HashMap<&str, String> = HashMap::new();
        let mut twice = Vec::new();
        for (container, path) in self.all_containers() {
            for (index, port) in list(container, "ports").iter().enumerate() {
                let here = format!("{path}.ports[{index}]");
                let (host_ip, host_port) = (text(port, "hostIP"), int(port, "hostPort").unwrap_or(0));
                let (number, protocol) = (int(port, "containerPort").unwrap_or(0), text(port, "protocol"));
                let name = text(port, "name");
                if !host_ip.is_empty() && host_port == 0 {
                    warnings.push(format!(
                        "{here}: hostIP set without hostPort: {{Name:{name} HostPort:0 ContainerPort:{number} \
                         Protocol:{protocol} HostIP:{host_ip}}}"
                    ));
                }
                let others = taken.entry((number, protocol)).or_default();
                for (other, same) in others.iter() {
                    let (ip, bound) = (text(same, "hostIP"), int(same, "hostPort").unwrap_or(0));
                    let what = if ip == host_ip && bound == host_port {
                        "duplicate"
                    } else if bound == 0 || host_port == 0 {
                        "overlapping"
                    } else if bound == host_port && ip.is_empty() != host_ip.is_empty() {
                        "dangerously ambiguous"
                    } else {
                        continue;
                    };
                    warnings.push(format!("{here}: {what} port definition with {other}"));
                }
                others.push((here.clone(), port));
                if name.is_empty() {
                    continue;
                }
                match named.get(name) {
                    Some(first) => twice.push(format!(
                        "{here}: duplicate port name {} with {first}, services and probes that select ports by name will \
                         use {first}",
                        quote(name)
                    )),
                    None => drop(named.insert(name, here)),
                }
            }
        }
        warnings.extend(twice);
    }

    fn affinities(&self, warnings: &mut Vec<String>) {
        const WHY: &str = "a null labelSelector results in matching no pod";
        for kind in ["podAffinity", "podAntiAffinity"] {
            let affinity = deep(self.spec, &["affinity", kind]).unwrap_or(&Value::Null);
            let base = format!("{}.affinity.{kind}", self.path);
            let required = list(affinity, "requiredDuringSchedulingIgnoredDuringExecution").iter().enumerate();
            for (index, _) in required.filter(|(_, term)| at(term, "labelSelector").is_none()) {
                let place = format!("{base}.requiredDuringSchedulingIgnoredDuringExecution[{index}]");
                warnings.push(format!("{place}.labelSelector: {WHY}"));
            }
            let preferred = list(affinity, "preferredDuringSchedulingIgnoredDuringExecution").iter().enumerate();
            for (index, _) in preferred.filter(|(_, term)| deep(term, &["podAffinityTerm", "labelSelector"]).is_none())
            {
                let place = format!("{base}.preferredDuringSchedulingIgnoredDuringExecution[{index}]");
                warnings.push(format!("{place}.podAffinityTerm.labelSelector: {WHY}"));
            }
        }
    }

    fn addresses(&self, warnings: &mut Vec<String>) {
        let servers = deep(self.spec, &["dnsConfig", "nameservers"]).and_then(Value::as_array).into_iter().flatten();
        for (at, server) in servers.enumerate() {
            let path = format!("{}.dnsConfig.nameservers[{at}]", self.path);
            warnings.extend(ip_warning(&path, server.as_str().unwrap_or_default()));
        }
        for (at, alias) in list(self.spec, "hostAliases").iter().enumerate() {
            warnings.extend(ip_warning(&format!("{}.hostAliases[{at}].ip", self.path), text(alias, "ip")));
        }
    }
}

/// An address that is written in another way than everyone else writes it.
pub(in crate::strategy) fn ip_warning(path: &str, value: &str) -> Option<String> {
    let Ok(IpAddr::V6(address)) = value.parse::<IpAddr>() else { return None };
    if let Some(plain) = address.to_ipv4_mapped() {
        return Some(format!(
            "{path}: non-standard IP address {} will be considered invalid in a future Kubernetes release: use \"{plain}\"",
            quote(value)
        ));
    }
    let canonical = Ipv6Addr::to_string(&address);
    (canonical != value).then(|| {
        format!("{path}: IPv6 address {} should be in RFC 5952 canonical format (\"{canonical}\")", quote(value))
    })
}

/// Bytes do not come in parts.
fn fractional(amount: Option<&Value>, path: impl Fn() -> String, warnings: &mut Vec<String>) {
    if let Some(quantity) = amount.and_then(|amount| Quantity::from_value(amount).ok())
        && quantity.milli_value() % 1000 != 0
    {
        let shown = quote(amount.and_then(Value::as_str).unwrap_or_default());
        warnings.push(format!("{}: fractional byte value {shown} is invalid, must be an integer", path()));
    }
}

/// An environment variable that hides another of the same name; building on the former value is no hiding.
fn hidden_variables(container: &Value, path: &str, warnings: &mut Vec<String>) {
    let mut seen: HashSet<&str> = HashSet::new();
    for (index, variable) in list(container, "env").iter().enumerate() {
        let (name, value) = (text(variable, "name"), text(variable, "value"));
        let former = format!("$({name})");
        let builds_on_it = at(variable, "valueFrom").is_none() && value != former && value.contains(&former);
        if !seen.insert(name) && !builds_on_it {
            warnings.push(format!(
                "{path}.env[{index}]: hides previous definition of {}, which may be dropped when using apply",
                quote(name)
            ));
        }
    }
}

/// A file of a volume and where it comes from.
#[derive(Clone, PartialEq, Eq)]
struct Placed {
    path: String,
    source: String,
}

impl Placed {
    fn new(path: &str, source: &str) -> Self {
        Self { path: path.trim_end_matches('/').to_owned(), source: source.to_owned() }
    }

    fn collides(&self, other: &Self) -> bool {
        let (own, others) = (format!("{}/", self.path), format!("{}/", other.path));
        !self.path.is_empty() && !other.path.is_empty() && (own.starts_with(&others) || others.starts_with(&own))
    }

    fn shown(&self) -> String {
        let path = quote(&self.path);
        if self.source.is_empty() { path } else { format!("{path} ({})", self.source) }
    }
}

/// Files of one volume of which one lies where another one does.
fn overlaps(volume: &Value, warnings: &mut Vec<String>) {
    let name = quote(text(volume, "name"));
    let mut look = |described: &str, placed: &mut Vec<Placed>, new: Placed| {
        for other in placed.iter().filter(|other| new.collides(other)) {
            warnings.push(format!(
                "volume {name} ({described}): overlapping paths: {} with {}",
                new.shown(),
                other.shown()
            ));
        }
        placed.push(new);
    };
    let named = |kind: &str, name: &str| format!("{kind} {}", quote(name));
    for (kind, shown, key) in
        [("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName"), ("downwardAPI", "DownwardAPI", "")]
    {
        let Some(source) = at(volume, kind) else { continue };
        let described = if key.is_empty() { shown.to_owned() } else { named(shown, text(source, key)) };
        let mut placed = Vec::new();
        for item in list(source, "items") {
            look(&described, &mut placed, Placed::new(text(item, "path"), ""));
        }
    }
    let mut placed = Vec::new();
    for source in at(volume, "projected").map(|projected| list(projected, "sources")).unwrap_or_default() {
        for (kind, shown) in [("configMap", "ConfigMap"), ("secret", "Secret"), ("downwardAPI", "DownwardAPI")] {
            let Some(source) = at(source, kind) else { continue };
            let from = if kind == "downwardAPI" { shown.to_owned() } else { named(shown, text(source, "name")) };
            for item in list(source, "items") {
                look("Projected", &mut placed, Placed::new(text(item, "path"), &from));
            }
        }
        if let Some(token) = at(source, "serviceAccountToken") {
            look("Projected", &mut placed, Placed::new(text(token, "path"), "ServiceAccountToken"));
        }
        if let Some(bundle) = at(source, "clusterTrustBundle") {
            let name = at(bundle, "name").or_else(|| at(bundle, "signerName")).and_then(Value::as_str);
            let from = named("ClusterTrustBundle", name.unwrap_or_default());
            look("Projected", &mut placed, Placed::new(text(bundle, "path"), &from));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn warned(pod: Value) -> Vec<String> {
        of(&pod, "")
    }

    #[test]
    fn a_plain_pod_is_no_cause_for_warnings() {
        let container = json!({"name": "c", "image": "i", "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}],
            "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"}]});
        assert_eq!(warned(json!({"metadata": {}, "spec": {"containers": [container]}})), [""; 0]);
    }

    #[test]
    fn what_is_deprecated_is_told_with_what_replaces_it() {
        let term = json!({"matchExpressions": [{"key": "beta.kubernetes.io/arch", "operator": "Exists"}]});
        let pod = json!({
            "metadata": {"annotations": {"scheduler.alpha.kubernetes.io/critical-pod": "", "seccomp.security.alpha.kubernetes.io/pod": "x"}},
            "spec": {
                "nodeSelector": {"beta.kubernetes.io/os": "linux"},
                "affinity": {
                    "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}},
                    "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "z"}]},
                },
                "topologySpreadConstraints": [{"topologyKey": "failure-domain.beta.kubernetes.io/zone"}],
                "volumes": [{"name": "v", "gitRepo": {}}],
                "containers": [{"name": "c"}],
            },
        });
        assert_eq!(
            warned(pod),
            [
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].key: beta.kubernetes.io/arch is deprecated since v1.14; use \"kubernetes.io/arch\" instead",
                "spec.topologySpreadConstraints[0].topologyKey: failure-domain.beta.kubernetes.io/zone is deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
                "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
                "metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the \"priorityClassName\" field instead",
                "metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the \"seccompProfile\" field instead",
                "spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
                "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector: a null labelSelector results in matching no pod",
            ]
        );
    }

    #[test]
    fn what_is_there_twice_is_told() {
        let pod = json!({"metadata": {}, "spec": {
            "hostAliases": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.1"}],
            "imagePullSecrets": [{"name": "s"}, {"name": "s"}, {}],
            "initContainers": [{"name": "i", "ports": [{"name": "web", "containerPort": 1, "protocol": "TCP"}]}],
            "containers": [{"name": "c", "env": [{"name": "A"}, {"name": "A", "value": "$(A)"}], "ports": [
                {"name": "web", "containerPort": 80, "protocol": "TCP", "hostPort": 8080},
                {"containerPort": 80, "protocol": "TCP"},
                {"containerPort": 80, "protocol": "TCP", "hostPort": 8080, "hostIP": "1.1.1.1"}]}],
        }});
        assert_eq!(
            warned(pod),
            [
                "spec.hostAliases[1].ip: duplicate ip \"10.0.0.1\"",
                "spec.imagePullSecrets[1].name: duplicate name \"s\"",
                "spec.imagePullSecrets[2].name: invalid empty name \"\"",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]",
                "spec.containers[0].ports[2]: dangerously ambiguous port definition with spec.containers[0].ports[0]",
                "spec.containers[0].ports[2]: overlapping port definition with spec.containers[0].ports[1]",
                "spec.containers[0].ports[0]: duplicate port name \"web\" with spec.initContainers[0].ports[0], services and probes that select ports by name will use spec.initContainers[0].ports[0]",
            ]
        );
    }

    #[test]
    fn files_of_a_volume_that_overlap_are_told() {
        let items = json!([{"key": "a", "path": "x"}, {"key": "b", "path": "x/y"}, {"key": "c", "path": "xy"}]);
        let pod = json!({"metadata": {}, "spec": {"containers": [], "volumes": [
            {"name": "v", "configMap": {"name": "m", "items": items}},
            {"name": "p", "projected": {"sources": [
                {"secret": {"name": "s", "items": [{"key": "a", "path": "token"}]}},
                {"serviceAccountToken": {"path": "token"}}]}},
        ]}});
        assert_eq!(
            warned(pod),
            [
                "volume \"v\" (ConfigMap \"m\"): overlapping paths: \"x/y\" with \"x\"",
                "volume \"p\" (Projected): overlapping paths: \"token\" (ServiceAccountToken) with \"token\" (Secret \"s\")",
            ]
        );
    }

    #[test]
    fn a_template_is_told_with_its_path() {
        let template = json!({
            "metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/c": "runtime/default"}},
            "spec": {"dnsConfig": {"nameservers": ["::ffff:10.0.0.1", "2001:DB8::1", "::1"]}, "containers": [
                {"name": "c", "resources": {"limits": {"memory": "100m"}}}]},
        });
        assert_eq!(
            of(&template, "spec.template"),
            [
                "spec.template.metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use the \"appArmorProfile\" field instead",
                "spec.template.spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
                "spec.template.spec.dnsConfig.nameservers[0]: non-standard IP address \"::ffff:10.0.0.1\" will be considered invalid in a future Kubernetes release: use \"10.0.0.1\"",
                "spec.template.spec.dnsConfig.nameservers[1]: IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")",
            ]
        );
    }
}
