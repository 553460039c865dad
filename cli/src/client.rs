//! Which cluster a command talks to, and as whom: kubectl's rules for finding a kubeconfig, and the data directory's own.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::components;

/// Flags that choose a cluster.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct ClientFlags {
    /// The kubeconfig file; by default $KUBECONFIG, then the data directory's admin.kubeconfig, then ~/.kube/config
    #[arg(long, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig to use
    #[arg(long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub context: Option<String>,
    /// The API server's URL, instead of the kubeconfig's
    #[arg(long, short = 's', global = true, value_name = "URL", help_heading = "Cluster")]
    pub server: Option<String>,
}

impl ClientFlags {
    /// The kubeconfig that the rules lead to.
    ///
    /// # Errors
    /// When there is none, with the places that were looked at.
    pub fn kubeconfig(&self) -> Result<Kubeconfig> {
        if let Some(file) = &self.kubeconfig {
            return read(file);
        }
        if std::env::var_os("KUBECONFIG").is_some_and(|value| !value.is_empty()) {
            return Kubeconfig::from_env()
                .context("cannot read the files of $KUBECONFIG")?
                .context("$KUBECONFIG names no file");
        }
        let admin = components::default_data_dir().join("admin.kubeconfig");
        let home = std::env::var_os(if cfg!(windows) { "USERPROFILE" } else { "HOME" }).map(PathBuf::from);
        let candidates = [Some(admin), home.map(|home| home.join(".kube").join("config"))];
        let candidates: Vec<PathBuf> = candidates.into_iter().flatten().collect();
        // A file that this user may not read is not theirs: root's data directory does not hide one's own ~/.kube/config.
        match candidates.iter().find(|file| std::fs::File::open(file).is_ok()) {
            Some(file) => read(file),
            None => {
                let places: Vec<String> = candidates.iter().map(|file| file.display().to_string()).collect();
                bail!(
                    "no kubeconfig: looked at --kubeconfig, $KUBECONFIG, {}\nstart a cluster with `gantry up`, or name its file with --kubeconfig",
                    places.join(", ")
                )
            }
        }
    }

    /// The client configuration: the kubeconfig's context with these flags over it.
    ///
    /// # Errors
    /// When there is no kubeconfig or it does not hold together.
    pub async fn config(&self) -> Result<kube::Config> {
        let options = KubeConfigOptions { context: self.context.clone(), ..Default::default() };
        let mut config = kube::Config::from_custom_kubeconfig(self.kubeconfig()?, &options)
            .await
            .context("the kubeconfig is not usable")?;
        if let Some(server) = &self.server {
            config.cluster_url = server.parse().with_context(|| format!("--server {server} is not a URL"))?;
        }
        Ok(config)
    }

    /// A client for it.
    ///
    /// # Errors
    /// As [`ClientFlags::config`], or when its certificates cannot be read.
    pub async fn client(&self) -> Result<kube::Client> {
        kube::Client::try_from(self.config().await?).context("cannot make a client from the kubeconfig")
    }
}

fn read(file: &Path) -> Result<Kubeconfig> {
    Kubeconfig::read_from(file).with_context(|| format!("cannot read the kubeconfig {}", file.display()))
}
