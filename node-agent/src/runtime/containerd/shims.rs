//! The processes that stand between containerd and its containers, by the socket on their command line. They outlive containerd.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// A shim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shim {
    pid: i32,
    /// The sandbox that it serves, with its containers.
    pub sandbox: String,
}

/// The shims of the containerd at `socket`.
pub fn of(socket: &Path) -> Vec<Shim> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| at(entry.file_name().to_str()?.parse().ok()?, socket)).collect()
}

/// Kills the shims of the containerd at `socket`: all of them, or the one that serves a sandbox.
pub fn kill(socket: &Path, sandbox: Option<&str>) {
    for shim in of(socket).iter().filter(|shim| sandbox.is_none_or(|id| shim.sandbox == id)) {
        kill_one(shim, socket);
    }
}

/// Kills a shim, if it is still there.
pub fn kill_one(shim: &Shim, socket: &Path) {
    // Its number may be another process's by now.
    if at(shim.pid, socket).as_ref() == Some(shim)
        && let Some(pid) = Pid::from_raw(shim.pid)
    {
        tracing::info!(pid = shim.pid, sandbox = shim.sandbox, "a shim is killed");
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// The shim that is this process, if it is one.
fn at(pid: i32, socket: &Path) -> Option<Shim> {
    let command = fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).ok()?;
    Some(Shim { pid, sandbox: sandbox_of(&command, socket)? })
}

/// The sandbox that a command line names, if it is that of a shim of this containerd.
fn sandbox_of(command: &[u8], socket: &Path) -> Option<String> {
    let mut arguments = command.split(|byte| *byte == 0);
    let program = arguments.next()?.rsplit(|byte| *byte == b'/').next()?;
    let arguments: Vec<_> = arguments.collect();
    let after = |flag: &[u8]| arguments.windows(2).find(|pair| pair[0] == flag).map(|pair| pair[1]);
    let is_one =
        program.starts_with(b"containerd-shim") && after(b"-address") == Some(socket.as_os_str().as_encoded_bytes());
    is_one.then(|| String::from_utf8_lossy(after(b"-id").unwrap_or_default()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_is_known_by_its_socket_and_names_its_sandbox() {
        let of = |program: &str, socket: &str| {
            let words = [program, "-namespace", "k8s.io", "-id", "abc", "-address", socket, ""];
            sandbox_of(words.join("\0").as_bytes(), Path::new("/run/one.sock"))
        };
        assert_eq!(of("/usr/bin/containerd-shim-runc-v2", "/run/one.sock").as_deref(), Some("abc"));
        assert_eq!(of("/usr/bin/containerd-shim-runc-v2", "/run/two.sock"), None);
        assert_eq!(of("/usr/bin/containerd", "/run/one.sock"), None);
        assert_eq!(sandbox_of(b"", Path::new("/run/one.sock")), None);
    }
}
