//! The rules of the Pod Security Standards, one row each: level, since which version, what it replaces, and the rule.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Violation;

/// A pod, or what a workload would make.
pub(super) struct Pod<'a> {
    pub metadata: &'a Value,
    pub spec: &'a Value,
}

type Rule = fn(&Pod<'_>) -> Option<Violation>;

/// A rule in the versions from `since` up to (not including) `until`.
struct Row {
    id: &'static str,
    restricted: bool,
    since: u32,
    until: u32,
    /// The baseline rule that it makes superfluous.
    replaces: &'static str,
    rule: Rule,
}

const fn baseline(id: &'static str, since: u32, until: u32, rule: Rule) -> Row {
    Row { id, restricted: false, since, until, replaces: "", rule }
}

const fn restricted(id: &'static str, since: u32, until: u32, replaces: &'static str, rule: Rule) -> Row {
    Row { id, restricted: true, since, until, replaces, rule }
}

const EVER: u32 = u32::MAX;

/// Every rule, the baseline's first, each level's in the order of their names, which is that of Kubernetes' messages.
const ROWS: &[Row] = &[
    baseline("appArmorProfile", 0, EVER, app_armor),
    baseline("capabilities_baseline", 0, EVER, capabilities_baseline),
    baseline("hostNamespaces", 0, EVER, host_namespaces),
    baseline("hostPathVolumes", 0, EVER, host_paths),
    baseline("hostPorts", 0, EVER, host_ports),
    baseline("hostProbesAndHostLifecycle", 34, EVER, probe_hosts),
    baseline("privileged", 0, EVER, privileged),
    baseline("procMount", 0, 35, proc_mount),
    baseline("procMount", 35, EVER, |pod| unless_user_namespace(pod, proc_mount)),
    baseline("seLinuxOptions", 0, 31, |pod| se_linux(pod, &["", "container_t", "container_init_t", "container_kvm_t"])),
    baseline("seLinuxOptions", 31, EVER, |pod| {
        se_linux(pod, &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"])
    }),
    baseline("seccompProfile_baseline", 0, 19, seccomp_annotations),
    baseline("seccompProfile_baseline", 19, EVER, |pod| seccomp(pod, false)),
    baseline("sysctls", 0, 27, |pod| sysctls(pod, 5)),
    baseline("sysctls", 27, 29, |pod| sysctls(pod, 6)),
    baseline("sysctls", 29, 32, |pod| sysctls(pod, 10)),
    baseline("sysctls", 32, EVER, |pod| sysctls(pod, 12)),
    baseline("windowsHostProcess", 0, EVER, host_process),
    restricted("allowPrivilegeEscalation", 8, 25, "", privilege_escalation),
    restricted("allowPrivilegeEscalation", 25, EVER, "", |pod| unless_windows(pod, privilege_escalation)),
    restricted("capabilities_restricted", 22, 25, "capabilities_baseline", capabilities_restricted),
    restricted("capabilities_restricted", 25, EVER, "capabilities_baseline", |pod| {
        unless_windows(pod, capabilities_restricted)
    }),
    restricted("procMount_restricted", 35, EVER, "procMount", proc_mount),
    restricted("restrictedVolumes", 0, EVER, "hostPathVolumes", volumes),
    restricted("runAsNonRoot", 0, 35, "", run_as_non_root),
    restricted("runAsNonRoot", 35, EVER, "", |pod| unless_user_namespace(pod, run_as_non_root)),
    restricted("runAsUser", 23, 35, "", run_as_user),
    restricted("runAsUser", 35, EVER, "", |pod| unless_user_namespace(pod, run_as_user)),
    restricted("seccompProfile_restricted", 19, 25, "seccompProfile_baseline", |pod| seccomp(pod, true)),
    restricted("seccompProfile_restricted", 25, EVER, "seccompProfile_baseline", |pod| {
        unless_windows(pod, |pod| seccomp(pod, true))
    }),
];

/// The rules of a level in a version.
pub(super) fn applying(strict: bool, minor: u32) -> impl Iterator<Item = Rule> {
    let counts = move |row: &Row| row.since <= minor && (minor < row.until || row.until == EVER);
    let replaced: Vec<&str> =
        ROWS.iter().filter(|row| strict && row.restricted && counts(row)).map(|row| row.replaces).collect();
    ROWS.iter()
        .filter(move |row| counts(row) && if row.restricted { strict } else { !replaced.contains(&row.id) })
        .map(|row| row.rule)
}

impl<'a> Pod<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec;
        ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|list| items(&spec[list]))
    }

    /// The names of the containers for which `bad` holds.
    fn bad(&self, mut bad: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|container| bad(container)).map(name).collect()
    }

    /// The annotations that start with `prefix` and have a value that `bad` says is one, as `key="value"`.
    fn bad_annotations(&self, prefix: &str, bad: impl Fn(&str) -> bool) -> Vec<String> {
        let all = self.metadata["annotations"].as_object().into_iter().flatten();
        all.filter(|(key, _)| key.starts_with(prefix))
            .filter_map(|(key, value)| {
                value.as_str().filter(|value| bad(value)).map(|value| format!("{key}={value:?}"))
            })
            .collect()
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn name(item: &Value) -> &str {
    item["name"].as_str().unwrap_or_default()
}

fn security(container: &Value) -> &Value {
    &container["securityContext"]
}

fn quoted<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().map(|name| format!("\"{}\"", name.as_ref())).collect::<Vec<_>>().join(", ")
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `container "a"` or `containers "a", "b"`.
fn containers_named(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// `pod and container "a"`, whoever of them it is.
fn setters(pod: bool, containers: &[&str]) -> Vec<String> {
    let mut setters = Vec::new();
    if pod {
        setters.push("pod".to_owned());
    }
    if !containers.is_empty() {
        setters.push(containers_named(containers));
    }
    setters
}

fn violation(reason: &'static str, detail: String) -> Option<Violation> {
    Some(Violation { reason, detail })
}

fn unless_windows(pod: &Pod<'_>, rule: Rule) -> Option<Violation> {
    if pod.spec["os"]["name"] == "windows" { None } else { rule(pod) }
}

fn unless_user_namespace(pod: &Pod<'_>, rule: Rule) -> Option<Violation> {
    if pod.spec["hostUsers"] == false { None } else { rule(pod) }
}

fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let mut bad = |context: &Value| {
        let Some(kind) = context["appArmorProfile"]["type"].as_str() else { return false };
        let bad = !matches!(kind, "RuntimeDefault" | "Localhost");
        if bad {
            values.insert(kind.to_owned());
        }
        bad
    };
    let pod_is_bad = bad(&pod.spec["securityContext"]);
    let containers = pod.bad(|container| bad(security(container)));
    let mut setters = setters(pod_is_bad, &containers);
    let mut values: Vec<String> = values.into_iter().collect();
    let annotations = pod.bad_annotations("container.apparmor.security.beta.kubernetes.io/", |value| {
        !(value.is_empty() || value == "runtime/default" || value.starts_with("localhost/"))
    });
    if !annotations.is_empty() {
        setters.push(plural("annotation", "annotations", annotations.len()).to_owned());
        values.extend(annotations);
    }
    if setters.is_empty() {
        return None;
    }
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    violation(reason, format!("{} must not set AppArmor profile type to {}", setters.join(" and "), quoted(&values)))
}

const DEFAULT_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The containers that add capabilities other than `allowed`, and which those are.
fn adding<'a>(pod: &Pod<'a>, allowed: &[&str]) -> (Vec<&'a str>, BTreeSet<&'a str>) {
    let mut added = BTreeSet::new();
    let containers = pod.bad(|container| {
        let add = items(&security(container)["capabilities"]["add"]).filter_map(Value::as_str);
        let beyond: Vec<&str> = add.filter(|capability| !allowed.contains(capability)).collect();
        added.extend(beyond.iter().copied());
        !beyond.is_empty()
    });
    (containers, added)
}

fn capabilities_baseline(pod: &Pod<'_>) -> Option<Violation> {
    let (containers, added) = adding(pod, DEFAULT_CAPABILITIES);
    if containers.is_empty() {
        return None;
    }
    let who = containers_named(&containers);
    let detail = format!("{who} must not include {} in securityContext.capabilities.add", quoted(&added));
    violation("non-default capabilities", detail)
}

fn capabilities_restricted(pod: &Pod<'_>) -> Option<Violation> {
    let keeping =
        pod.bad(|container| !items(&security(container)["capabilities"]["drop"]).any(|dropped| dropped == "ALL"));
    let (containers, added) = adding(pod, &["NET_BIND_SERVICE"]);
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers_named(&keeping)));
    }
    if !containers.is_empty() {
        let who = containers_named(&containers);
        details.push(format!("{who} must not include {} in securityContext.capabilities.add", quoted(&added)));
    }
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let shared: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|field| pod.spec[**field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    if shared.is_empty() { None } else { violation("host namespaces", shared.join(", ")) }
}

fn host_paths(pod: &Pod<'_>) -> Option<Violation> {
    let paths: Vec<&str> =
        items(&pod.spec["volumes"]).filter(|volume| !volume["hostPath"].is_null()).map(name).collect();
    if paths.is_empty() {
        return None;
    }
    violation("hostPath volumes", format!("{} {}", plural("volume", "volumes", paths.len()), quoted(&paths)))
}

fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let containers = pod.bad(|container| {
        let taken: Vec<i64> =
            items(&container["ports"]).filter_map(|port| port["hostPort"].as_i64()).filter(|port| *port != 0).collect();
        ports.extend(taken.iter().map(i64::to_string));
        !taken.is_empty()
    });
    if containers.is_empty() {
        return None;
    }
    let uses = plural("uses", "use", containers.len());
    let what = plural("hostPort", "hostPorts", ports.len());
    let list = ports.into_iter().collect::<Vec<_>>().join(", ");
    violation("hostPort", format!("{} {uses} {what} {list}", containers_named(&containers)))
}

fn probe_hosts(pod: &Pod<'_>) -> Option<Violation> {
    let (mut hosts, mut containers) = (BTreeSet::new(), BTreeSet::new());
    for container in pod.containers() {
        let lifecycle = &container["lifecycle"];
        let handlers = [
            &container["livenessProbe"],
            &container["readinessProbe"],
            &container["startupProbe"],
            &lifecycle["postStart"],
            &lifecycle["preStop"],
        ];
        for action in handlers.iter().flat_map(|handler| [&handler["httpGet"], &handler["tcpSocket"]]) {
            if let Some(host) = action["host"].as_str().filter(|host| !host.is_empty()) {
                hosts.insert(host);
                containers.insert(name(container));
            }
        }
    }
    if containers.is_empty() {
        return None;
    }
    let containers: Vec<&str> = containers.into_iter().collect();
    let uses = plural("uses", "use", containers.len());
    let what = plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len());
    violation("probe or lifecycle host", format!("{} {uses} {what} {}", containers_named(&containers), quoted(&hosts)))
}

fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let containers = pod.bad(|container| security(container)["privileged"] == true);
    if containers.is_empty() {
        return None;
    }
    violation("privileged", format!("{} must not set securityContext.privileged=true", containers_named(&containers)))
}

fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let containers = pod.bad(|container| {
        let kind = security(container)["procMount"].as_str().filter(|kind| *kind != "Default");
        kinds.extend(kind);
        kind.is_some()
    });
    if containers.is_empty() {
        return None;
    }
    let who = containers_named(&containers);
    violation("procMount", format!("{who} must not set securityContext.procMount to {}", quoted(&kinds)))
}

fn se_linux(pod: &Pod<'_>, allowed: &[&str]) -> Option<Violation> {
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut bad = |context: &Value| {
        let options = &context["seLinuxOptions"];
        let text = |field: &str| options[field].as_str().unwrap_or_default();
        let kind = text("type");
        let bad_type = !allowed.contains(&kind);
        if bad_type {
            types.insert(kind.to_owned());
        }
        let (bad_user, bad_role) = (!text("user").is_empty(), !text("role").is_empty());
        user |= bad_user;
        role |= bad_role;
        bad_type || bad_user || bad_role
    };
    let pod_is_bad = bad(&pod.spec["securityContext"]);
    let containers = pod.bad(|container| bad(security(container)));
    let setters = setters(pod_is_bad, &containers);
    if setters.is_empty() {
        return None;
    }
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", "types", types.len()), quoted(&types)));
    }
    if user {
        data.push("user may not be set".to_owned());
    }
    if role {
        data.push("role may not be set".to_owned());
    }
    let detail = format!("{} set forbidden securityContext.seLinuxOptions: {}", setters.join(" and "), data.join("; "));
    violation("seLinuxOptions", detail)
}

fn seccomp_annotations(pod: &Pod<'_>) -> Option<Violation> {
    let bad = |value: &str| !(matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/"));
    let mut forbidden: BTreeSet<String> =
        pod.bad_annotations("seccomp.security.alpha.kubernetes.io/pod", bad).into_iter().collect();
    for container in pod.containers() {
        let key = format!("container.seccomp.security.alpha.kubernetes.io/{}", name(container));
        if let Some(value) = pod.metadata["annotations"][&key].as_str().filter(|value| bad(value)) {
            forbidden.insert(format!("{key}={value:?}"));
        }
    }
    if forbidden.is_empty() {
        return None;
    }
    let what = plural("annotation", "annotations", forbidden.len());
    violation("seccompProfile", format!("forbidden {what} {}", forbidden.into_iter().collect::<Vec<_>>().join(", ")))
}

fn seccomp(pod: &Pod<'_>, required: bool) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let mut bad = |context: &Value| {
        let Some(kind) = context["seccompProfile"]["type"].as_str() else { return false };
        let bad = !matches!(kind, "RuntimeDefault" | "Localhost");
        if bad {
            values.insert(kind.to_owned());
        }
        bad
    };
    let own = &pod.spec["securityContext"];
    let pod_is_bad = bad(own);
    let containers = pod.bad(|container| bad(security(container)));
    let setters = setters(pod_is_bad, &containers);
    if !setters.is_empty() {
        let detail = format!(
            "{} must not set securityContext.seccompProfile.type to {}",
            setters.join(" and "),
            quoted(&values)
        );
        return violation("seccompProfile", detail);
    }
    if !required || !own["seccompProfile"].is_null() {
        return None;
    }
    let silent = pod.bad(|container| security(container)["seccompProfile"].is_null());
    if silent.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        containers_named(&silent)
    );
    violation("seccompProfile", detail)
}

/// In the order in which they came to be allowed.
const SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

fn sysctls(pod: &Pod<'_>, allowed: usize) -> Option<Violation> {
    let allowed = SYSCTLS.get(..allowed).unwrap_or(SYSCTLS);
    let set = items(&pod.spec["securityContext"]["sysctls"]).map(name);
    let forbidden: Vec<&str> = set.filter(|name| !allowed.contains(name)).collect();
    if forbidden.is_empty() { None } else { violation("forbidden sysctls", forbidden.join(", ")) }
}

fn host_process(pod: &Pod<'_>) -> Option<Violation> {
    let bad = |context: &Value| context["windowsOptions"]["hostProcess"] == true;
    let containers = pod.bad(|container| bad(security(container)));
    let setters = setters(bad(&pod.spec["securityContext"]), &containers);
    if setters.is_empty() {
        return None;
    }
    let detail = format!("{} must not set securityContext.windowsOptions.hostProcess=true", setters.join(" and "));
    violation("hostProcess", detail)
}

fn privilege_escalation(pod: &Pod<'_>) -> Option<Violation> {
    let containers = pod.bad(|container| security(container)["allowPrivilegeEscalation"] != false);
    if containers.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers_named(&containers));
    violation("allowPrivilegeEscalation != false", detail)
}

const SAFE_VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
const OTHER_VOLUMES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

fn volumes(pod: &Pod<'_>) -> Option<Violation> {
    let (mut bad, mut kinds) = (Vec::new(), BTreeSet::new());
    for volume in items(&pod.spec["volumes"]) {
        let has = |kind: &&&str| !volume[**kind].is_null();
        if SAFE_VOLUMES.iter().find(has).is_some() {
            continue;
        }
        bad.push(name(volume));
        kinds.insert(OTHER_VOLUMES.iter().find(has).copied().unwrap_or("unknown"));
    }
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", bad.len()),
        quoted(&bad),
        plural("uses", "use", bad.len()),
        plural("restricted volume type", "restricted volume types", kinds.len()),
        quoted(&kinds),
    );
    violation("restricted volume types", detail)
}

fn run_as_non_root(pod: &Pod<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    let own = &pod.spec["securityContext"]["runAsNonRoot"];
    let containers = pod.bad(|container| security(container)["runAsNonRoot"] == false);
    let setters = setters(*own == false, &containers);
    if !setters.is_empty() {
        return violation(REASON, format!("{} must not set securityContext.runAsNonRoot=false", setters.join(" and ")));
    }
    let silent = pod.bad(|container| *own != true && !security(container)["runAsNonRoot"].is_boolean());
    if silent.is_empty() {
        return None;
    }
    violation(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", containers_named(&silent)))
}

fn run_as_user(pod: &Pod<'_>) -> Option<Violation> {
    let containers = pod.bad(|container| security(container)["runAsUser"] == 0);
    let setters = setters(pod.spec["securityContext"]["runAsUser"] == 0, &containers);
    if setters.is_empty() {
        return None;
    }
    violation("runAsUser=0", format!("{} must not set runAsUser=0", setters.join(" and ")))
}
