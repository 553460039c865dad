//! Turns a pod into the runtime's sandbox and container configurations. Pure, but for what it is given.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile, SecurityContext};

use super::plan::ANNOTATION_HASH;
use super::resize::ANNOTATION_RESOURCES;
use super::{app_armor, env, resources, spec};
use crate::Paths;
use crate::devices::Extras;
use crate::runtime::{
    ContainerConfig, ContainerSecurity, DnsConfig, ImageRecord, ImageUser, LABEL_CONTAINER_NAME, LABEL_POD_NAME,
    LABEL_POD_NAMESPACE, LABEL_POD_UID, Mount, NamespaceMode, Namespaces, PodIdentity, PortMapping, SandboxConfig,
    Seccomp,
};

/// Annotation on containers: the restart count.
pub const ANNOTATION_RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Annotation on containers: the pod's grace period, for when nothing else is left of the pod.
pub const ANNOTATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Annotation on containers: where on the node the termination message is.
pub const ANNOTATION_TERMINATION_FILE: &str = "io.gantry.container.terminationMessageFile";
/// Annotation on containers: `File` or `FallbackToLogsOnError`.
pub const ANNOTATION_TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// The resolver takes no more servers.
const NAMESERVERS_MAX: usize = 3;

/// What the node adds to a pod's configuration.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Cgroup below which all pods live.
    pub cgroup_root: String,
    /// Cluster DNS servers.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster.
    pub cluster_domain: String,
    /// The node's own resolvers.
    pub resolvers: DnsConfig,
    /// Bytes of memory of the machine.
    pub machine_memory: i64,
    /// Whether the machine's kernel confines programs by AppArmor.
    pub app_armor: bool,
}

/// The parent cgroup of a pod.
pub fn cgroup_parent(root: &str, uid: &str) -> String {
    format!("{}/pod{uid}", root.trim_end_matches('/'))
}

fn pod_labels(pod: &PodIdentity) -> BTreeMap<String, String> {
    BTreeMap::from([
        (LABEL_POD_NAME.into(), pod.name.clone()),
        (LABEL_POD_NAMESPACE.into(), pod.namespace.clone()),
        (LABEL_POD_UID.into(), pod.uid.clone()),
    ])
}

/// Namespaces of a pod's containers.
pub fn namespaces(pod: &Pod) -> Namespaces {
    let spec = spec::spec(pod);
    let node_if = |flag: Option<bool>, other| if flag.unwrap_or(false) { NamespaceMode::Node } else { other };
    let pid = if spec.share_process_namespace.unwrap_or(false) { NamespaceMode::Pod } else { NamespaceMode::Container };
    Namespaces {
        network: node_if(spec.host_network, NamespaceMode::Pod),
        pid: node_if(spec.host_pid, pid),
        ipc: node_if(spec.host_ipc, NamespaceMode::Pod),
    }
}

/// The sandbox of a pod.
pub fn sandbox(pod: &Pod, attempt: u32, node: &NodeSettings, paths: &Paths) -> SandboxConfig {
    let identity = spec::identity(pod);
    let security = spec::spec(pod).security_context.clone().unwrap_or_default();
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.extend(pod_labels(&identity));
    let host_network = spec::host_network(pod);
    SandboxConfig {
        attempt,
        // Its RuntimeClass says that, which is asked when it is made.
        handler: String::new(),
        hostname: if host_network { String::new() } else { spec::hostname(pod) },
        log_directory: paths.pod_log_dir(&identity),
        dns: Some(dns(pod, node)),
        port_mappings: if host_network { Vec::new() } else { port_mappings(pod) },
        labels,
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        cgroup_parent: cgroup_parent(&node.cgroup_root, &identity.uid),
        overhead: resources::overhead(pod),
        resources: resources::pod_cgroup_without_overhead(pod),
        sysctls: security.sysctls.iter().flatten().map(|s| (s.name.clone(), s.value.clone())).collect(),
        namespaces: namespaces(pod),
        privileged: spec::any_privileged(pod),
        run_as_user: security.run_as_user,
        run_as_group: security.run_as_user.and(security.run_as_group),
        supplemental_groups: groups(pod),
        strict_groups: spec::wants_strict_groups(pod),
        pod: identity,
    }
}

fn groups(pod: &Pod) -> Vec<i64> {
    let Some(security) = &spec::spec(pod).security_context else { return Vec::new() };
    let mut groups = security.supplemental_groups.clone().unwrap_or_default();
    groups.extend(security.fs_group);
    groups.dedup();
    groups
}

fn port_mappings(pod: &Pod) -> Vec<PortMapping> {
    let ports = spec::all_containers(pod).flat_map(|container| container.spec.ports.iter().flatten());
    let mapping = |port: &k8s_openapi::api::core::v1::ContainerPort| {
        Some(PortMapping {
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
            container_port: u16::try_from(port.container_port).ok()?,
            host_port: u16::try_from(port.host_port?).ok().filter(|port| *port > 0)?,
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
    };
    ports.filter_map(mapping).collect()
}

/// The resolver configuration by `dnsPolicy` and `dnsConfig`.
pub fn dns(pod: &Pod, node: &NodeSettings) -> DnsConfig {
    let spec = spec::spec(pod);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirst" => !spec::host_network(pod),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut dns = if policy == "None" {
        DnsConfig::default()
    } else if cluster && !node.cluster_dns.is_empty() {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let domain = &node.cluster_domain;
        let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
        searches.extend(node.resolvers.searches.iter().cloned());
        DnsConfig {
            servers: node.cluster_dns.iter().map(ToString::to_string).collect(),
            searches,
            options: vec!["ndots:5".into()],
        }
    } else {
        node.resolvers.clone()
    };
    if let Some(own) = &spec.dns_config {
        dns.servers.extend(own.nameservers.iter().flatten().cloned());
        dns.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            let of_name = |old: &String| old.split(':').next() == Some(name.as_str());
            dns.options.retain(|old| !of_name(old));
            dns.options.push(option.value.as_ref().map_or(name.clone(), |value| format!("{name}:{value}")));
        }
    }
    for list in [&mut dns.servers, &mut dns.searches] {
        let mut seen = std::collections::HashSet::new();
        list.retain(|item| seen.insert(item.clone()));
    }
    dns.servers.truncate(NAMESERVERS_MAX);
    dns
}

/// What goes into a container's configuration besides the pod.
pub struct ContainerInputs<'a> {
    /// Which instance.
    pub attempt: u32,
    /// How often the container was restarted before.
    pub restarts: u32,
    /// The image, as the runtime has it.
    pub image: &'a ImageRecord,
    /// What to run of it.
    pub image_ref: String,
    /// Environment.
    pub env: Vec<(String, String)>,
    /// Mounts: volumes, hosts file, termination message.
    pub mounts: Vec<Mount>,
    /// Devices, and what they need; their variables and mounts are among the others.
    pub extras: Extras,
    /// Where on the node the termination message is.
    pub termination_file: &'a Path,
}

/// A container's configuration; the error is the message of a CreateContainerConfigError.
pub fn container(
    pod: &Pod,
    spec: &Container,
    node: &NodeSettings,
    inputs: ContainerInputs<'_>,
) -> Result<ContainerConfig, String> {
    let identity = spec::identity(pod);
    let values: BTreeMap<&str, &str> = inputs.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expand = |list: &Option<Vec<String>>| -> Vec<String> {
        let list = list.iter().flatten();
        list.map(|text| env::expand(text, |name| values.get(name).map(ToString::to_string))).collect()
    };
    let security = security(pod, spec, inputs.image, &identity)?;
    let mut labels = pod_labels(&identity);
    labels.insert(LABEL_CONTAINER_NAME.into(), spec.name.clone());
    let policy = spec.termination_message_policy.as_deref().unwrap_or("File");
    let mut annotations = inputs.extras.annotations;
    annotations.extend([
        (ANNOTATION_HASH.into(), spec::container_hash(spec)),
        (
            ANNOTATION_RESOURCES.into(),
            serde_json::to_string(&spec.resources.clone().unwrap_or_default()).unwrap_or_default(),
        ),
        (ANNOTATION_RESTART_COUNT.into(), inputs.restarts.to_string()),
        (ANNOTATION_GRACE.into(), spec::grace_s(pod).to_string()),
        (ANNOTATION_TERMINATION_FILE.into(), inputs.termination_file.display().to_string()),
        (ANNOTATION_TERMINATION_POLICY.into(), policy.to_owned()),
    ]);
    Ok(ContainerConfig {
        name: spec.name.clone(),
        attempt: inputs.attempt,
        image: spec.image.clone().unwrap_or_default(),
        image_ref: inputs.image_ref,
        command: expand(&spec.command),
        args: expand(&spec.args),
        working_dir: spec.working_dir.clone().unwrap_or_default(),
        mounts: inputs.mounts,
        labels,
        annotations,
        log_path: Paths::container_log(&spec.name, inputs.restarts),
        stdin: spec.stdin.unwrap_or(false),
        stdin_once: spec.stdin_once.unwrap_or(false),
        tty: spec.tty.unwrap_or(false),
        resources: resources::container_cgroup(pod, spec, node.machine_memory),
        security,
        namespaces: namespaces(pod),
        processes_of: None,
        devices: inputs.extras.devices,
        cdi_devices: inputs.extras.cdi,
        env: inputs.env,
    })
}

fn security(
    pod: &Pod,
    container: &Container,
    image: &ImageRecord,
    who: &PodIdentity,
) -> Result<ContainerSecurity, String> {
    let of_pod = spec::spec(pod).security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let mut run_as_user = own.run_as_user.or(of_pod.run_as_user);
    let non_root = own.run_as_non_root.or(of_pod.run_as_non_root).unwrap_or(false);
    if non_root {
        check_non_root(
            run_as_user,
            image,
            &format!("pod: \"{}\", container: {}", spec::full_name(who), container.name),
        )?;
    }
    let mut run_as_username = String::new();
    if run_as_user.is_none() {
        match &image.user {
            Some(ImageUser::Uid(uid)) => run_as_user = Some(*uid),
            Some(ImageUser::Name(name)) => run_as_username.clone_from(name),
            None => {}
        }
    }
    let has_user = run_as_user.is_some() || !run_as_username.is_empty();
    let run_as_group = own.run_as_group.or(of_pod.run_as_group);
    if run_as_group.is_some() && !has_user {
        // The runtime takes a group only with a user; an image that names none runs as root.
        run_as_user = Some(0);
    }
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let privileged = own.privileged.unwrap_or(false);
    let profile = own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref());
    Ok(ContainerSecurity {
        privileged,
        capabilities_add: capabilities.add.unwrap_or_default(),
        capabilities_drop: capabilities.drop.unwrap_or_default(),
        run_as_user,
        run_as_username,
        run_as_group,
        supplemental_groups: groups(pod),
        strict_groups: spec::wants_strict_groups(pod),
        read_only_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        no_new_privs: no_new_privs(&own),
        seccomp: seccomp(profile, privileged),
        app_armor: app_armor::profile(pod, container)?,
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
    })
}

fn no_new_privs(own: &SecurityContext) -> bool {
    own.allow_privilege_escalation == Some(false)
}

fn seccomp(profile: Option<&SeccompProfile>, privileged: bool) -> Seccomp {
    match profile.map(|profile| (profile.type_.as_str(), &profile.localhost_profile)) {
        _ if privileged => Seccomp::Unconfined,
        Some(("Unconfined", _)) => Seccomp::Unconfined,
        Some(("Localhost", Some(path))) => Seccomp::Localhost(PathBuf::from(path)),
        _ => Seccomp::RuntimeDefault,
    }
}

fn check_non_root(run_as_user: Option<i64>, image: &ImageRecord, whose: &str) -> Result<(), String> {
    match (run_as_user, &image.user) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy ({whose})")),
        (Some(_), _) => Ok(()),
        (None, Some(ImageUser::Uid(0)) | None) => {
            Err(format!("container has runAsNonRoot and image will run as root ({whose})"))
        }
        (None, Some(ImageUser::Uid(_))) => Ok(()),
        (None, Some(ImageUser::Name(name))) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root ({whose})"
        )),
    }
}

/// The pod's `/etc/hosts`.
pub fn hosts_file(pod: &Pod, pod_ips: &[IpAddr], node_hosts: Option<&str>, cluster_domain: &str) -> String {
    let mut text = match node_hosts {
        Some(hosts) => format!("# Kubernetes-managed hosts file (host network).\n{hosts}"),
        None => {
            let mut text = String::from(
                "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                 fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
            );
            let hostname = spec::hostname(pod);
            for ip in pod_ips {
                match spec::domain(pod, cluster_domain) {
                    Some(domain) => text.push_str(&format!("{ip}\t{hostname}.{domain}\t{hostname}\n")),
                    None => text.push_str(&format!("{ip}\t{hostname}\n")),
                }
            }
            text
        }
    };
    let aliases = spec::spec(pod).host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
            text.push_str(&format!("{}\t{names}\n", alias.ip));
        }
    }
    text
}

/// Reads a resolver configuration.
pub fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut dns = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
            Some("search") => dns.searches = words.map(str::to_owned).collect(),
            Some("options") => dns.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    dns.servers.truncate(NAMESERVERS_MAX);
    dns
}
