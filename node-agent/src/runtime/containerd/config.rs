//! The configuration file of the agent's own containerd, for each version's format.

use std::path::{Path, PathBuf};

use super::handlers::{self, Handler};
use crate::runtime::pause::PAUSE_IMAGE;

/// What is different from machine to machine.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Major and minor version of containerd.
    pub version: (u32, u32),
    /// Images and snapshots.
    pub root: PathBuf,
    /// What ends with a reboot.
    pub state: PathBuf,
    /// The socket.
    pub socket: PathBuf,
    /// CNI plug-ins.
    pub cni_bin_dir: PathBuf,
    /// CNI configuration.
    pub cni_conf_dir: PathBuf,
    /// Registries' `hosts.toml` files. One folder: of several, containerd 2.1 knows none.
    pub registries_dir: PathBuf,
    /// The snapshotter.
    pub snapshotter: String,
    /// Whether processes' OOM scores may be lowered (CAP_SYS_RESOURCE).
    pub may_lower_oom_score: bool,
    /// Whether the huge page controller is there.
    pub has_hugetlb: bool,
    /// By what else than runc pods can be run.
    pub handlers: Vec<Handler>,
}

/// Snapshotters for file systems that are not used here; each costs time at start. `opt`
/// would write to /opt.
const NOT_NEEDED: [&str; 5] = [
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.internal.v1.opt",
];

/// The configuration file's text.
pub(super) fn render(settings: &Settings) -> String {
    if settings.version.0 >= 2 { version_3(settings) } else { version_2(settings) }
}

fn common(settings: &Settings, version: u32) -> String {
    let disabled: Vec<_> = NOT_NEEDED.iter().map(|plugin| quote(plugin)).collect();
    format!(
        "version = {version}\nroot = {root}\nstate = {state}\ndisabled_plugins = [{disabled}]\n\n\
         [grpc]\naddress = {socket}\n\n[debug]\nlevel = \"warn\"\n\n",
        root = quote_path(&settings.root),
        state = quote_path(&settings.state),
        disabled = disabled.join(", "),
        socket = quote_path(&settings.socket),
    )
}

/// Keys that mean the same and only moved between the versions.
fn runtime_keys(settings: &Settings) -> String {
    format!(
        // Below this instance's own folder it can be told whose a network namespace is, and all go with a reset.
        "restrict_oom_score_adj = {restrict}\ndisable_apparmor = true\nnetns_mounts_under_state_dir = true\n\
         disable_hugetlb_controller = {no_hugetlb}\ntolerate_missing_hugetlb_controller = true\n\
         max_container_log_line_size = 16384\n",
        restrict = !settings.may_lower_oom_score,
        no_hugetlb = !settings.has_hugetlb,
    )
}

const STREAM_KEYS: &str = "stream_server_address = \"127.0.0.1\"\nstream_server_port = \"0\"\n";

fn version_2(settings: &Settings) -> String {
    const CRI: &str = "plugins.\"io.containerd.grpc.v1.cri\"";
    let mut text = common(settings, 2);
    text += &format!("[{CRI}]\nsandbox_image = {}\n", quote(PAUSE_IMAGE));
    text += STREAM_KEYS;
    text += &runtime_keys(settings);
    text += &format!("\n[{CRI}.cni]\nbin_dir = {}\n", quote_path(&settings.cni_bin_dir));
    text += &cni_conf(settings);
    text += &format!("\n[{CRI}.containerd]\nsnapshotter = {}\n", quote(&settings.snapshotter));
    text += &handlers::render(CRI, &settings.handlers, quote_path);
    text += &registries(CRI, settings);
    text
}

fn version_3(settings: &Settings) -> String {
    const IMAGES: &str = "plugins.\"io.containerd.cri.v1.images\"";
    const RUNTIME: &str = "plugins.\"io.containerd.cri.v1.runtime\"";
    let mut text = common(settings, 3);
    text += &format!("[{IMAGES}]\nsnapshotter = {}\n", quote(&settings.snapshotter));
    text += &format!("\n[{IMAGES}.pinned_images]\nsandbox = {}\n", quote(PAUSE_IMAGE));
    text += &registries(IMAGES, settings);
    text += &format!("\n[{RUNTIME}]\n{}", runtime_keys(settings));
    let bin_dir = quote_path(&settings.cni_bin_dir);
    let bin_dir =
        if settings.version >= (2, 1) { format!("bin_dirs = [{bin_dir}]") } else { format!("bin_dir = {bin_dir}") };
    text += &format!("\n[{RUNTIME}.cni]\n{bin_dir}\n");
    text += &cni_conf(settings);
    text += &format!("\n[{RUNTIME}.containerd]\n");
    text += &handlers::render(RUNTIME, &settings.handlers, quote_path);
    text += &format!("\n[plugins.\"io.containerd.grpc.v1.cri\"]\n{STREAM_KEYS}");
    text += "\n[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n";
    text
}

fn cni_conf(settings: &Settings) -> String {
    format!("conf_dir = {}\nmax_conf_num = 1\n", quote_path(&settings.cni_conf_dir))
}

fn registries(plugin: &str, settings: &Settings) -> String {
    format!("\n[{plugin}.registry]\nconfig_path = {}\n", quote_path(&settings.registries_dir))
}

fn quote_path(path: &Path) -> String {
    quote(&path.to_string_lossy())
}

/// A TOML basic string.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => quoted += &format!("\\u{:04X}", u32::from(control)),
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}

/// Major and minor version in what `containerd --version` prints.
pub(super) fn parse_version(text: &str) -> Option<(u32, u32)> {
    text.split_whitespace().find_map(|word| {
        let mut parts = word.trim_start_matches('v').split('.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        parts.next()?;
        Some((major, minor))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(version: (u32, u32)) -> Settings {
        Settings {
            version,
            root: "/data/\"odd\"/root".into(),
            state: "/run/state".into(),
            socket: "/run/c.sock".into(),
            cni_bin_dir: "/opt/cni/bin".into(),
            cni_conf_dir: "/data/net.d".into(),
            registries_dir: "/data/certs.d".into(),
            snapshotter: "overlayfs".into(),
            may_lower_oom_score: false,
            has_hugetlb: true,
            handlers: Vec::new(),
        }
    }

    #[test]
    fn each_version_gets_its_own_format() {
        let old = render(&settings((1, 6)));
        assert!(old.starts_with("version = 2\n"));
        assert!(old.contains("root = \"/data/\\\"odd\\\"/root\""));
        assert!(old.contains("restrict_oom_score_adj = true") && old.contains("netns_mounts_under_state_dir = true"));
        assert!(old.contains("sandbox_image = \"gantry.local/pause:1\""));
        let new = render(&settings((2, 1)));
        assert!(new.starts_with("version = 3\n"));
        assert!(new.contains("bin_dirs = [\"/opt/cni/bin\"]"));
        assert!(new.contains("sandbox = \"gantry.local/pause:1\""));
        assert!(!new.contains("sandbox_image"));
    }

    #[test]
    fn versions_are_found_in_what_distributions_print() {
        let debian = "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1";
        assert_eq!(parse_version(debian), Some((1, 6)));
        let own = "containerd github.com/containerd/containerd/v2 v2.1.9 abcdef";
        assert_eq!(parse_version(own), Some((2, 1)));
        assert_eq!(parse_version("containerd"), None);
    }
}
