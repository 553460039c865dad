//! Mounts that are read-only with all that is mounted in them (`recursiveReadOnly`). Runtimes make only the mount itself read-only, and
//! older ones cannot be told otherwise: so the volume is bound to a place of the container's own first, where each mount is made
//! read-only, and the runtime is given that place.

use k8s_openapi::api::core::v1::{Container, VolumeMount, VolumeMountStatus};

/// Whether this system can.
pub const SUPPORTED: bool = cfg!(target_os = "linux");

/// Whether a mount is to be so; the error says why it cannot.
pub fn is_recursive(mount: &VolumeMount) -> Result<bool, String> {
    let refused = |why: &str| Err(format!("volume \"{}\" requested recursive read-only mode, but {why}", mount.name));
    let mode = mount.recursive_read_only.as_deref().unwrap_or("Disabled");
    if mode == "Disabled" {
        return Ok(false);
    }
    // The API server refuses these two; pods of files have not met it.
    if mount.read_only != Some(true) {
        return refused("it is not read-only");
    }
    if mount.mount_propagation.as_deref().is_some_and(|propagation| propagation != "None") {
        return refused("its mounts are propagated");
    }
    match mode {
        "IfPossible" => Ok(SUPPORTED),
        "Enabled" if SUPPORTED => Ok(true),
        "Enabled" => refused("it is not supported by the runtime"),
        other => refused(&format!("its mode {other} is not known")),
    }
}

/// What a container's status says of its mounts.
pub fn statuses(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let status = |mount: &VolumeMount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only,
        recursive_read_only: (mount.read_only == Some(true)).then(|| {
            let is_recursive = is_recursive(mount).unwrap_or(false);
            if is_recursive { "Enabled".to_owned() } else { "Disabled".to_owned() }
        }),
    };
    container.volume_mounts.as_ref().map(|mounts| mounts.iter().map(status).collect())
}

#[cfg(target_os = "linux")]
pub use linux::bind;

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::path::{Path, PathBuf};

    use rustix::mount::{MountFlags, MountPropagationFlags, mount_bind_recursive, mount_change, mount_remount};

    use super::super::sys;

    /// Binds `source`, with all that is mounted in it, to `place`, where nobody can write to any of it.
    pub fn bind(source: &Path, place: &Path) -> io::Result<PathBuf> {
        // What an earlier start of the container was given may be there still.
        sys::unmount_below(place)?;
        sys::make_point(source, place)?;
        mount_bind_recursive(source, place)?;
        match make_read_only(place) {
            Ok(()) => Ok(place.to_owned()),
            Err(error) => {
                sys::unmount_below(place)?;
                Err(error)
            }
        }
    }

    fn make_read_only(place: &Path) -> io::Result<()> {
        // What is mounted in the volume from now on would be writable.
        mount_change(place, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let place = place.canonicalize()?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        for (point, options) in mounts.lines().filter_map(parse).filter(|(point, _)| point.starts_with(&place)) {
            mount_remount(&point, MountFlags::BIND | MountFlags::RDONLY | kept(options), "")?;
        }
        Ok(())
    }

    /// Where something is mounted and its options, in a line of `/proc/self/mountinfo`.
    fn parse(line: &str) -> Option<(PathBuf, &str)> {
        let mut fields = line.split(' ').skip(4);
        Some((sys::unescape(fields.next()?).into(), fields.next()?))
    }

    /// The options that a mount has and would lose by not being given them again. The kernel keeps those about access times.
    fn kept(options: &str) -> MountFlags {
        let flag = |option| match option {
            "nosuid" => MountFlags::NOSUID,
            "nodev" => MountFlags::NODEV,
            "noexec" => MountFlags::NOEXEC,
            _ => MountFlags::empty(),
        };
        options.split(',').map(flag).collect()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn mounts_keep_their_options() {
            let line = "36 35 98:0 / /data/a\\040b rw,nosuid,noexec,relatime master:1 - ext4 /dev/vda rw";
            let (point, options) = parse(line).unwrap();
            assert_eq!(point, Path::new("/data/a b"));
            assert_eq!(kept(options), MountFlags::NOSUID | MountFlags::NOEXEC);
            assert!(parse("36 35 98:0 /").is_none());
        }
    }
}

/// Cannot be asked for: [`is_recursive`] is never true here.
#[cfg(not(target_os = "linux"))]
pub fn bind(_source: &std::path::Path, _place: &std::path::Path) -> std::io::Result<std::path::PathBuf> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(mode: Option<&str>, read_only: bool, propagation: Option<&str>) -> VolumeMount {
        VolumeMount {
            name: "v".into(),
            mount_path: "/v".into(),
            read_only: Some(read_only),
            recursive_read_only: mode.map(Into::into),
            mount_propagation: propagation.map(Into::into),
            ..VolumeMount::default()
        }
    }

    #[test]
    fn who_asks_for_it_gets_it_or_is_told_why_not() {
        for mode in [None, Some("Disabled")] {
            assert_eq!(is_recursive(&mount(mode, false, Some("Bidirectional"))), Ok(false));
        }
        assert_eq!(is_recursive(&mount(Some("IfPossible"), true, None)), Ok(SUPPORTED));
        assert_eq!(is_recursive(&mount(Some("Enabled"), true, Some("None"))).is_ok(), SUPPORTED);
        for wrong in [
            mount(Some("Enabled"), false, None),
            mount(Some("IfPossible"), true, Some("HostToContainer")),
            mount(Some("Sometimes"), true, None),
        ] {
            let error = is_recursive(&wrong).unwrap_err();
            assert!(error.starts_with("volume \"v\" requested recursive read-only mode, but "), "{error}");
        }
    }

    #[test]
    fn statuses_say_what_became_of_it() {
        let container = Container {
            volume_mounts: Some(vec![
                mount(None, false, None),
                mount(None, true, None),
                mount(Some("IfPossible"), true, None),
            ]),
            ..Container::default()
        };
        let statuses = statuses(&container).unwrap();
        let modes: Vec<_> = statuses.iter().map(|status| status.recursive_read_only.as_deref()).collect();
        assert_eq!(modes, [None, Some("Disabled"), Some(if SUPPORTED { "Enabled" } else { "Disabled" })]);
        assert_eq!(super::statuses(&Container::default()), None);
    }
}
