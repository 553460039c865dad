//! The agent's sandbox and container configurations as CRI messages.

use std::path::Path;

use k8s_cri::v1;

use crate::runtime::{
    AppArmor, ContainerConfig, ContainerSecurity, Mount, MountPropagation, NamespaceMode, Namespaces, PortMapping,
    RegistryAuth, Resources, SandboxConfig, Seccomp,
};

/// Annotation on each container that keeps the image as the pod's spec has it: containerd
/// itself reports another name of the same image.
pub(super) const ANNOTATION_IMAGE: &str = "gantry.io/image";

/// Paths that are hidden from containers unless they ask for an unmasked /proc.
const MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths that containers may only read unless they ask for an unmasked /proc.
const READ_ONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A sandbox as CRI has it.
pub(super) fn sandbox(config: &SandboxConfig) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: config.pod.name.clone(),
            uid: config.pod.uid.clone(),
            namespace: config.pod.namespace.clone(),
            attempt: config.attempt,
        }),
        hostname: config.hostname.clone(),
        log_directory: path(&config.log_directory),
        dns_config: config.dns.as_ref().map(|dns| v1::DnsConfig {
            servers: dns.servers.clone(),
            searches: dns.searches.clone(),
            options: dns.options.clone(),
        }),
        port_mappings: config.port_mappings.iter().map(port_mapping).collect(),
        labels: config.labels.clone().into_iter().collect(),
        annotations: config.annotations.clone().into_iter().collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: config.cgroup_parent.clone(),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(config.namespaces)),
                run_as_user: config.run_as_user.map(number),
                run_as_group: config.run_as_user.and(config.run_as_group).map(number),
                supplemental_groups: config.supplemental_groups.clone(),
                supplemental_groups_policy: groups_policy(config.strict_groups),
                privileged: config.privileged,
                seccomp: Some(seccomp(&Seccomp::RuntimeDefault, config.privileged)),
                ..Default::default()
            }),
            sysctls: config.sysctls.clone().into_iter().collect(),
            overhead: Some(resources(&config.overhead)),
            resources: Some(resources(&config.resources)),
        }),
        ..Default::default()
    }
}

/// A container as CRI has it.
pub(super) fn container(config: &ContainerConfig) -> v1::ContainerConfig {
    let mut annotations: std::collections::HashMap<_, _> = config.annotations.clone().into_iter().collect();
    annotations.insert(ANNOTATION_IMAGE.to_owned(), config.image.clone());
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: config.name.clone(), attempt: config.attempt }),
        image: Some(v1::ImageSpec {
            image: config.image_ref.clone(),
            user_specified_image: config.image.clone(),
            ..Default::default()
        }),
        command: config.command.clone(),
        args: config.args.clone(),
        working_dir: config.working_dir.clone(),
        envs: config.env.iter().map(|(key, value)| v1::KeyValue { key: key.clone(), value: value.clone() }).collect(),
        mounts: config.mounts.iter().map(mount).collect(),
        devices: config
            .devices
            .iter()
            .map(|(host, container, permissions)| v1::Device {
                container_path: path(container),
                host_path: path(host),
                permissions: permissions.clone(),
            })
            .collect(),
        cdi_devices: config.cdi_devices.iter().map(|name| v1::CdiDevice { name: name.clone() }).collect(),
        labels: config.labels.clone().into_iter().collect(),
        annotations,
        log_path: path(&config.log_path),
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources(&config.resources)),
            security_context: Some(container_security(config)),
        }),
        ..Default::default()
    }
}

/// Registry credentials as CRI has them.
pub(super) fn auth(auth: &RegistryAuth) -> v1::AuthConfig {
    v1::AuthConfig {
        username: auth.username.clone(),
        password: auth.password.clone(),
        auth: auth.auth.clone(),
        server_address: auth.server.clone(),
        identity_token: auth.identity_token.clone(),
        registry_token: auth.registry_token.clone(),
    }
}

fn port_mapping(mapping: &PortMapping) -> v1::PortMapping {
    let protocol = match mapping.protocol.as_str() {
        "UDP" => v1::Protocol::Udp,
        "SCTP" => v1::Protocol::Sctp,
        _ => v1::Protocol::Tcp,
    };
    v1::PortMapping {
        protocol: protocol.into(),
        container_port: mapping.container_port.into(),
        host_port: mapping.host_port.into(),
        host_ip: mapping.host_ip.clone(),
    }
}

fn container_security(config: &ContainerConfig) -> v1::LinuxContainerSecurityContext {
    let mut context = security(&config.security, config.namespaces);
    if let (Some(id), Some(options)) = (&config.processes_of, &mut context.namespace_options) {
        options.pid = v1::NamespaceMode::Target.into();
        options.target_id.clone_from(id);
    }
    context
}

fn namespaces(namespaces: Namespaces) -> v1::NamespaceOption {
    let mode = |mode| match mode {
        NamespaceMode::Pod => v1::NamespaceMode::Pod.into(),
        NamespaceMode::Container => v1::NamespaceMode::Container.into(),
        NamespaceMode::Node => v1::NamespaceMode::Node.into(),
    };
    v1::NamespaceOption {
        network: mode(namespaces.network),
        pid: mode(namespaces.pid),
        ipc: mode(namespaces.ipc),
        ..Default::default()
    }
}

fn mount(mount: &Mount) -> v1::Mount {
    let propagation = match mount.propagation {
        MountPropagation::None => v1::MountPropagation::PropagationPrivate,
        MountPropagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
        MountPropagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
    };
    v1::Mount {
        container_path: path(&mount.container_path),
        host_path: path(&mount.host_path),
        readonly: mount.read_only,
        propagation: propagation.into(),
        ..Default::default()
    }
}

fn resources(resources: &Resources) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: resources.cpu_period_us.unwrap_or(0),
        cpu_quota: resources.cpu_quota_us.unwrap_or(0),
        cpu_shares: resources.cpu_shares.map_or(0, |shares| i64::try_from(shares).unwrap_or(i64::MAX)),
        // containerd sets the limit of swap to the same, where the kernel counts swap.
        memory_limit_in_bytes: resources.memory_limit_bytes.unwrap_or(0),
        oom_score_adj: resources.oom_score_adj.unwrap_or(0),
        hugepage_limits: resources
            .hugepage_limits
            .iter()
            .map(|(page_size, limit)| v1::HugepageLimit { page_size: page_size.clone(), limit: *limit })
            .collect(),
        ..Default::default()
    }
}

/// The same for a container that runs: here the limit of swap has to be told, or the kernel refuses a limit above the old
/// one of both together.
pub(super) fn updated_resources(to: &Resources) -> v1::LinuxContainerResources {
    let resources = resources(to);
    v1::LinuxContainerResources { memory_swap_limit_in_bytes: resources.memory_limit_in_bytes, ..resources }
}

fn security(security: &ContainerSecurity, ns: Namespaces) -> v1::LinuxContainerSecurityContext {
    let bare = security.privileged || security.unmasked_proc;
    let paths = |list: &[&str]| {
        if bare { Vec::new() } else { list.iter().map(|&path| path.to_owned()).collect() }
    };
    v1::LinuxContainerSecurityContext {
        capabilities: Some(v1::Capability {
            add_capabilities: security.capabilities_add.clone(),
            drop_capabilities: security.capabilities_drop.clone(),
            ..Default::default()
        }),
        privileged: security.privileged,
        namespace_options: Some(namespaces(ns)),
        run_as_user: security.run_as_user.map(number),
        run_as_group: security.run_as_group.map(number),
        run_as_username: security.run_as_username.clone(),
        readonly_rootfs: security.read_only_rootfs,
        supplemental_groups: security.supplemental_groups.clone(),
        supplemental_groups_policy: groups_policy(security.strict_groups),
        no_new_privs: security.no_new_privs,
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READ_ONLY_PATHS),
        seccomp: Some(seccomp(&security.seccomp, security.privileged)),
        apparmor: security.app_armor.as_ref().map(app_armor),
        ..Default::default()
    }
}

fn app_armor(profile: &AppArmor) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    let (kind, name) = match profile {
        AppArmor::RuntimeDefault => (ProfileType::RuntimeDefault, String::new()),
        AppArmor::Unconfined => (ProfileType::Unconfined, String::new()),
        AppArmor::Localhost(name) => (ProfileType::Localhost, name.clone()),
    };
    v1::SecurityProfile { profile_type: kind.into(), localhost_ref: name }
}

fn groups_policy(strict: bool) -> i32 {
    let policy = if strict { v1::SupplementalGroupsPolicy::Strict } else { v1::SupplementalGroupsPolicy::Merge };
    policy.into()
}

/// An absent profile would mean unconfined, so there is always one.
fn seccomp(profile: &Seccomp, privileged: bool) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    let (kind, file) = match profile {
        _ if privileged => (ProfileType::Unconfined, String::new()),
        Seccomp::RuntimeDefault => (ProfileType::RuntimeDefault, String::new()),
        Seccomp::Unconfined => (ProfileType::Unconfined, String::new()),
        Seccomp::Localhost(file) => (ProfileType::Localhost, path(file)),
    };
    v1::SecurityProfile { profile_type: kind.into(), localhost_ref: file }
}

fn number(value: i64) -> v1::Int64Value {
    v1::Int64Value { value }
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_container_is_confined_and_a_privileged_one_is_not() {
        let plain = container(&ContainerConfig::default());
        let context = plain.linux.unwrap().security_context.unwrap();
        assert_eq!(context.masked_paths.len(), MASKED_PATHS.len());
        assert_eq!(context.seccomp.unwrap().profile_type, 0, "RuntimeDefault");

        let mut config = ContainerConfig::default();
        config.security.privileged = true;
        let context = container(&config).linux.unwrap().security_context.unwrap();
        assert!(context.masked_paths.is_empty());
        assert_eq!(context.seccomp.unwrap().profile_type, 1, "Unconfined");
    }

    #[test]
    fn a_profile_of_the_node_is_handed_on_by_its_name() {
        let mut config = ContainerConfig::default();
        let profile = |config: &ContainerConfig| container(config).linux.unwrap().security_context.unwrap().apparmor;
        assert_eq!(profile(&config), None, "the runtime's");
        config.security.app_armor = Some(AppArmor::Localhost("strict".into()));
        let given = profile(&config).unwrap();
        let localhost = i32::from(v1::security_profile::ProfileType::Localhost);
        assert_eq!((given.profile_type, given.localhost_ref.as_str()), (localhost, "strict"));
    }

    #[test]
    fn an_ephemeral_container_sees_the_processes_of_its_target() {
        let config = ContainerConfig { processes_of: Some("c1".into()), ..Default::default() };
        let options = container(&config).linux.unwrap().security_context.unwrap().namespace_options.unwrap();
        assert_eq!(options.pid, i32::from(v1::NamespaceMode::Target));
        assert_eq!(options.target_id, "c1");
    }

    #[test]
    fn sandbox_and_container_share_their_namespaces() {
        let shared = Namespaces { network: NamespaceMode::Node, pid: NamespaceMode::Pod, ipc: NamespaceMode::Node };
        let sandbox = sandbox(&SandboxConfig { namespaces: shared, ..Default::default() });
        let container = container(&ContainerConfig { namespaces: shared, ..Default::default() });
        let of_sandbox = sandbox.linux.unwrap().security_context.unwrap().namespace_options;
        let of_container = container.linux.unwrap().security_context.unwrap().namespace_options;
        assert_eq!(of_sandbox, of_container);
        assert_eq!(of_sandbox.unwrap().network, 2, "the node's");
    }

    #[test]
    fn the_image_of_the_spec_is_kept_beside_the_one_that_is_run() {
        let message = container(&ContainerConfig {
            image: "shop".to_owned(),
            image_ref: "sha256:abc".to_owned(),
            ..Default::default()
        });
        assert_eq!(message.image.unwrap().image, "sha256:abc");
        assert_eq!(message.annotations[ANNOTATION_IMAGE], "shop");
    }
}
