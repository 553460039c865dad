//! The pod network of one node: a CNI configuration with a bridge.
//!
//! In: the node's pod CIDRs, once the API has given them. Out: a conflist in the folder that
//! containerd watches, and the kernel parameters that routing between pods needs. Addresses
//! are given out by `host-local` from a folder of this node's own, so several nodes can
//! live on one machine.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

const FILE_NAME: &str = "10-gantry.conflist";
/// The network's name. The plug-ins tell by it and by a sandbox's id what is whose.
const NETWORK: &str = "gantry";
/// Of the plug-ins' protocol.
const CNI_VERSION: &str = "0.4.0";

/// Where CNI plug-ins are installed, by distribution.
const BIN_DIRS: [&str; 3] = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];
/// The plug-ins that the network is made of.
const PLUGINS: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];

/// What one node's network is made with.
#[derive(Clone, Debug)]
pub struct Cni {
    /// The folder that containerd reads.
    pub conf_dir: PathBuf,
    /// Where given addresses are noted down; goes away with a reboot, as the pods do.
    pub addresses_dir: PathBuf,
    /// Name of the bridge; at most 15 characters.
    pub bridge: String,
}

impl Cni {
    /// Writes the configuration for the pod CIDRs; returns whether it changed.
    pub async fn write(&self, cidrs: &[String]) -> io::Result<bool> {
        if cidrs.is_empty() {
            return Ok(false);
        }
        enable_forwarding(cidrs);
        let content = self.conflist(cidrs);
        let path = self.conf_dir.join(FILE_NAME);
        if tokio::fs::read_to_string(&path).await.is_ok_and(|old| old == content) {
            return Ok(false);
        }
        tokio::fs::create_dir_all(&self.conf_dir).await?;
        tokio::fs::create_dir_all(&self.addresses_dir).await?;
        // Under another name first: containerd must not read half a file.
        let temporary = self.conf_dir.join(format!(".{FILE_NAME}"));
        tokio::fs::write(&temporary, content).await?;
        tokio::fs::rename(&temporary, &path).await?;
        Ok(true)
    }

    fn conflist(&self, cidrs: &[String]) -> String {
        let ranges: Vec<_> = cidrs.iter().map(|cidr| json!([{ "subnet": cidr }])).collect();
        let mut routes = Vec::new();
        if cidrs.iter().any(|cidr| !cidr.contains(':')) {
            routes.push(json!({ "dst": "0.0.0.0/0" }));
        }
        if cidrs.iter().any(|cidr| cidr.contains(':')) {
            routes.push(json!({ "dst": "::/0" }));
        }
        let conflist = json!({
            "cniVersion": CNI_VERSION,
            "name": NETWORK,
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": self.bridge,
                    "isGateway": true,
                    "hairpinMode": true,
                    // Masquerading is the service proxy's: it alone knows what is inside.
                    "ipMasq": false,
                    "ipam": {
                        "type": "host-local",
                        "ranges": ranges,
                        "routes": routes,
                        "dataDir": self.addresses_dir,
                    },
                },
                { "type": "portmap", "snat": true, "capabilities": { "portMappings": true } },
            ],
        });
        format!("{conflist:#}\n")
    }
}

/// The folder with the plug-ins, or what is missing.
pub fn find_plugins() -> Result<PathBuf, String> {
    let complete = |folder: &Path| PLUGINS.iter().all(|plugin| folder.join(plugin).is_file());
    BIN_DIRS.iter().map(PathBuf::from).find(|folder| complete(folder)).ok_or_else(|| {
        format!(
            "the CNI plug-ins {} are not in any of {}; install them \
             (Debian: apt-get install containernetworking-plugins)",
            PLUGINS.join(", "),
            BIN_DIRS.join(", ")
        )
    })
}

/// Takes back the ports of the node that lead to a sandbox, also when it is not there any more. Idempotent.
pub fn close_ports(sandbox: &str) -> io::Result<()> {
    // Which ports they are, the plug-in finds by the sandbox; it only does not look if it is told of none.
    let any = json!([{ "hostPort": 1, "containerPort": 1, "protocol": "tcp" }]);
    let config = json!({
        "cniVersion": CNI_VERSION,
        "name": NETWORK,
        "type": "portmap",
        "runtimeConfig": { "portMappings": any },
    });
    let folder = find_plugins().map_err(io::Error::other)?;
    let mut plugin = Command::new(folder.join("portmap"))
        .env("CNI_COMMAND", "DEL")
        .env("CNI_CONTAINERID", sandbox)
        .env("CNI_NETNS", "")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", &folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut input) = plugin.stdin.take() {
        input.write_all(config.to_string().as_bytes())?;
    }
    let output = plugin.wait_with_output()?;
    match output.status.success() {
        true => Ok(()),
        // What is wrong it tells where its result would be.
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stdout).trim().to_owned())),
    }
}

/// Lets the kernel route between pods, and shows bridged packets to the rules that
/// translate service addresses. What cannot be written may be set already.
fn enable_forwarding(cidrs: &[String]) {
    let mut files = vec!["net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"];
    if cidrs.iter().any(|cidr| cidr.contains(':')) {
        files.extend(["net/ipv6/conf/all/forwarding", "net/bridge/bridge-nf-call-ip6tables"]);
    }
    for file in files {
        let path = Path::new("/proc/sys").join(file);
        let is_set = std::fs::read_to_string(&path).is_ok_and(|text| text.trim() == "1");
        if !is_set && let Err(error) = std::fs::write(&path, "1") {
            tracing::warn!(path = %path.display(), %error, "cannot switch on a kernel parameter");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_configuration_is_written_once_per_change() {
        let folder = tempfile::tempdir().unwrap();
        let cni = Cni {
            conf_dir: folder.path().join("net.d"),
            addresses_dir: folder.path().join("addresses"),
            bridge: "gantry-test".to_owned(),
        };
        assert!(!cni.write(&[]).await.unwrap());
        let content = cni.conflist(&["10.1.2.0/24".to_owned()]);
        let parsed: serde_json::Value = serde_json::from_str(&content).unwrap();
        assert_eq!(parsed["plugins"][0]["bridge"], "gantry-test");
        assert_eq!(parsed["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], "10.1.2.0/24");
        assert_eq!(parsed["plugins"][0]["ipam"]["routes"], json!([{ "dst": "0.0.0.0/0" }]));
    }
}
