//! `gantry kubeconfig`: identities signed by the authority in an API server's data directory.

use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail};
use gantry_apiserver::pki::{Authority, CONTROLLER_MANAGER_USER, SCHEDULER_USER};
use jiff::Timestamp;

use crate::args::{Identity, Kubeconfig};

/// Where the authority and the certificates are.
pub fn pki_dir(data_dir: &Path) -> std::path::PathBuf {
    data_dir.join("pki")
}

/// Prints a kubeconfig; it holds a private key, so it is the caller's to keep.
pub fn print_kubeconfig(options: &Kubeconfig) -> Result<()> {
    let dir = pki_dir(&options.data.data_dir);
    if !dir.join("ca.crt").exists() {
        bail!(
            "there is no authority in {}; `gantry up` or `gantry apiserver` makes it at its first start, --data-dir names its folder",
            dir.display()
        );
    }
    let now = Timestamp::now();
    let authority = Authority::open(&dir, now)?;
    let identity = match &options.identity {
        Identity::User { name, groups } => {
            let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
            authority.issue_client(name, &groups, now)?
        }
        Identity::Controllers => authority.issue_client(CONTROLLER_MANAGER_USER, &[], now)?,
        Identity::Scheduler => authority.issue_client(SCHEDULER_USER, &[], now)?,
        Identity::Node { name, ips } => authority.issue_node(name, ips, now)?,
    };
    std::io::stdout().write_all(authority.kubeconfig(&options.url, &identity).as_bytes())?;
    Ok(())
}
