//! Installs the system packages that are missing, saying which and why, and nothing twice.

use std::path::Path;

use anyhow::{Result, bail};

use crate::host;

/// What the machine is prepared for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum For {
    /// Building and running Gantry.
    Demo,
    /// Running the tests as well.
    Tests,
    /// Measuring as well.
    Bench,
}

struct Tool {
    /// A program looked for in `PATH`, or an absolute path.
    probe: &'static str,
    package: &'static str,
    why: &'static str,
    needed_for: For,
}

const TOOLS: &[Tool] = &[
    Tool {
        probe: "protoc",
        package: "protobuf-compiler",
        why: "compiles the gRPC interfaces of containerd and etcd",
        needed_for: For::Demo,
    },
    // Debian's protoc only recommends the package of the types that those interfaces import.
    Tool {
        probe: "/usr/include/google/protobuf/descriptor.proto",
        package: "libprotobuf-dev",
        why: "has the common types that those interfaces are made of",
        needed_for: For::Demo,
    },
    Tool { probe: "containerd", package: "containerd", why: "runs the containers of a node", needed_for: For::Demo },
    Tool { probe: "runc", package: "runc", why: "starts one container for containerd", needed_for: For::Demo },
    Tool {
        probe: "/usr/lib/cni/bridge",
        package: "containernetworking-plugins",
        why: "connects pods to the node's network",
        needed_for: For::Demo,
    },
    Tool { probe: "nft", package: "nftables", why: "routes Service addresses to pods", needed_for: For::Demo },
    Tool { probe: "nsenter", package: "util-linux", why: "enters network namespaces", needed_for: For::Demo },
    Tool { probe: "ip", package: "iproute2", why: "makes network namespaces for tests", needed_for: For::Tests },
    Tool {
        probe: "/bin/busybox",
        package: "busybox-static",
        why: "is in the containers of the node agent's tests",
        needed_for: For::Tests,
    },
    Tool {
        probe: "crun",
        package: "crun",
        why: "runs the pods of the tests that name another runtime",
        needed_for: For::Tests,
    },
    Tool { probe: "curl", package: "curl", why: "is the tests' client without credentials", needed_for: For::Tests },
    Tool { probe: "script", package: "bsdutils", why: "gives the tests' kubectl a terminal", needed_for: For::Tests },
    Tool {
        probe: "etcd",
        package: "etcd-server",
        why: "is the store of the tests with several machines",
        needed_for: For::Tests,
    },
    Tool { probe: "etcdctl", package: "etcd-client", why: "makes the users of that store", needed_for: For::Tests },
    Tool {
        probe: "h2load",
        package: "nghttp2-client",
        why: "sends the requests that benches count",
        needed_for: For::Bench,
    },
];

/// Installs what is missing for `purpose`.
///
/// # Errors
/// When a package cannot be installed, with the command to type instead.
pub fn ensure(purpose: For) -> Result<()> {
    let missing: Vec<&Tool> = TOOLS.iter().filter(|tool| tool.needed_for <= purpose && !present(tool.probe)).collect();
    if !missing.is_empty() {
        println!("Missing on this machine:");
        for tool in &missing {
            println!("  {:<28} {}", tool.package, tool.why);
        }
        install(&missing.iter().map(|tool| tool.package).collect::<Vec<_>>())?;
    }
    Ok(())
}

fn present(probe: &str) -> bool {
    if probe.starts_with('/') { Path::new(probe).exists() } else { host::find_program(probe).is_some() }
}

/// Installs Debian packages.
///
/// # Errors
/// When that fails, or there is no apt, with what to do instead.
pub fn install(packages: &[&str]) -> Result<()> {
    if host::find_program("apt-get").is_none() {
        bail!(
            "this machine has no apt-get; install these by its own means, then run this again: {}",
            packages.join(" ")
        );
    }
    if !host::is_root() {
        println!("Installing needs root; sudo may ask for your password.");
    }
    let apt = |args: &[&str]| {
        let mut command = host::privileged("env");
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"]).args(args);
        host::run(&mut command)
    };
    apt(&["update"])?;
    apt(&[&["install", "--no-install-recommends"], packages].concat())
}
