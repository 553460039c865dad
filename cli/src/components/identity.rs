//! `gantry kubeconfig`: identities signed by the authority in an API server's data directory.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use gantry_apiserver::pki::{Pki, PkiOptions};
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
    let pki = Pki::load_or_create(&dir, &PkiOptions::default(), now).context("cannot read the authority")?;
    let identity = match &options.identity {
        Identity::User { name, groups } => {
            let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
            pki.issue_client(name, &groups, now)?
        }
        Identity::Controllers => pki.controller_manager().clone(),
        Identity::Scheduler => pki.scheduler().clone(),
        Identity::Node { name, ips } => pki.issue_node(name, ips, now)?,
    };
    std::io::stdout().write_all(pki.kubeconfig(&options.url, &identity).as_bytes())?;
    Ok(())
}
