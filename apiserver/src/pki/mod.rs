//! The cluster's certificates and keys.
//!
//! In: a directory, what the API server is called, and the time. Out: a certificate authority, the certificates of the
//! control plane's parts, the key that signs service account tokens, and kubeconfigs. What is missing is made, what
//! nears its end or no longer fits is made anew, and the authority and the token key are kept for ever.
//!
//! [`leaf`] decides and signs (pure: the time is passed in); [`files`] keeps the results in a directory that only its
//! owner can read:
//!
//! | file | what |
//! |---|---|
//! | `ca.crt`, `ca.key` | the authority: ECDSA P-256, ten years |
//! | `sa.key` | signs service account tokens |
//! | `encryption.yaml` | the keys of what is stored encrypted; see [`crate::encryption`] |
//! | `apiserver.crt`, `.key` | what the API server presents |
//! | `apiserver-kubelet-client.crt`, `.key` | what it presents to nodes |
//! | `admin`, `controller-manager`, `scheduler` `.crt`, `.key` | what clients present |
//! | `front-proxy/ca`, `front-proxy/client` `.crt`, `.key` | what it presents to aggregated servers, and that certificate's authority |
//! | `node-NAME.crt`, `.key` | a node's, as client and as server |

mod files;
mod groups;
mod kubeconfig;
mod leaf;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{Issuer, KeyPair};

pub use kubeconfig::kubeconfig;

use self::leaf::LeafSpec;

/// The text of a file that holds secrets, from which others' access is taken away; none if there is no file.
pub fn read_secret_file(path: &Path) -> Result<Option<String>, PkiError> {
    files::read_secret(path)
}

/// Writes a file that holds secrets, in one step and for its owner only.
pub fn write_secret_file(path: &Path, text: &str) -> Result<(), PkiError> {
    files::write(path, text, files::SECRET)
}

/// The user that administers the cluster.
pub const ADMIN_USER: &str = "kubernetes-admin";
/// Who the API server is to aggregated servers when it asks for somebody else.
pub const FRONT_PROXY_USER: &str = "front-proxy-client";
/// The directory of the front proxy's own authority: nobody else's certificate may pass for it.
const FRONT_PROXY_DIR: &str = "front-proxy";
/// The user that the API server is to nodes.
pub const KUBELET_CLIENT_USER: &str = "kube-apiserver-kubelet-client";
/// The user that the controllers are.
pub const CONTROLLER_MANAGER_USER: &str = "system:kube-controller-manager";
/// The user that the scheduler is.
pub const SCHEDULER_USER: &str = "system:kube-scheduler";

const MASTERS: &str = "system:masters";
const NODES: &str = "system:nodes";
const NODE_USER_PREFIX: &str = "system:node:";

/// What clients inside and outside the cluster call the API server.
const SERVER_NAMES: [&str; 5] =
    ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// A file or the directory cannot be read or written.
    #[error("{what} {}", path.display())]
    Io {
        /// What was tried, as in "cannot read".
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// One of `ca.crt` and `ca.key` is there and the other is not. A new authority would lock every client out.
    #[error("{} is missing, but the other half of the certificate authority is there", path.display())]
    HalfAuthority {
        /// The missing file.
        path: PathBuf,
    },
    /// There is no authority where one has to be.
    #[error("there is no certificate authority in {}", path.display())]
    NoAuthority {
        /// The directory.
        path: PathBuf,
    },
    /// `ca.crt` or `ca.key` cannot be used.
    #[error("the certificate authority in {} cannot be used: {why}", path.display())]
    Authority {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// `sa.key` cannot be used.
    #[error("{} is not a P-256 private key in PKCS #8", path.display())]
    ServiceAccountKey {
        /// The file.
        path: PathBuf,
    },
    /// A name cannot be in a certificate.
    #[error("{name:?} cannot be a name in a certificate")]
    Name {
        /// The name.
        name: String,
    },
    /// A certificate cannot be made.
    #[error("cannot make the certificate of {user}")]
    Sign {
        /// Whose.
        user: String,
        /// The cause.
        #[source]
        source: rcgen::Error,
    },
    /// The time is one that certificates cannot express.
    #[error("the clock shows a time that a certificate cannot hold")]
    Clock,
}

/// What the certificates are to say.
#[derive(Debug, Clone)]
pub struct PkiOptions {
    /// The addresses the API server is reached at, besides loopback. Unspecified ones (0.0.0.0, ::) are left out.
    pub listen_ips: Vec<IpAddr>,
    /// The first address of the service range, which is the `kubernetes` service's.
    pub service_ip: IpAddr,
    /// The names the API server is reached at, such as the host's, besides `localhost` and the service's.
    pub host_names: Vec<String>,
    /// How long a certificate lasts. It is renewed at a start in the last third of its life.
    pub leaf_life: Duration,
    /// How long the authority lasts.
    pub authority_life: Duration,
}

impl Default for PkiOptions {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        PkiOptions {
            listen_ips: Vec::new(),
            service_ip: IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)),
            host_names: Vec::new(),
            leaf_life: DAY * 365,
            authority_life: DAY * 3650,
        }
    }
}

/// A certificate and its key: who somebody is, and the means to prove it.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The certificate's common name, which is the user's.
    pub user: String,
    /// The certificate, as PEM. The authority signs directly, so the chain has one link.
    pub chain_pem: String,
    /// The private key in PKCS #8, as PEM.
    pub key_pem: String,
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIdentity").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The certificate authority in a directory: it signs, and knows what everyone trusts.
pub struct Authority {
    dir: PathBuf,
    leaf_life: Duration,
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// The authority and what it has signed.
pub struct Pki {
    authority: Authority,
    serving: ClientIdentity,
    kubelet_client: ClientIdentity,
    admin: ClientIdentity,
    controller_manager: ClientIdentity,
    scheduler: ClientIdentity,
    front_proxy_ca_pem: String,
    front_proxy_client: ClientIdentity,
    service_account_key_pem: String,
}

impl fmt::Debug for Pki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pki").field("dir", &self.authority.dir).finish_non_exhaustive()
    }
}

impl Pki {
    /// Reads what is in `dir`, makes what is missing and renews what has to be.
    ///
    /// # Errors
    ///
    /// If the directory cannot be used, or holds an authority or token key that cannot. Those are never replaced:
    /// everyone who trusts them would be locked out.
    pub fn load_or_create(dir: &Path, options: &PkiOptions, now: Timestamp) -> Result<Self, PkiError> {
        files::make_dir(dir)?;
        let authority = authority(dir, options, now)?;
        let keeper = Keeper { authority: &authority, now };
        let front_proxy_dir = dir.join(FRONT_PROXY_DIR);
        files::make_dir(&front_proxy_dir)?;
        let front_proxy = self::authority(&front_proxy_dir, options, now)?;
        let front_keeper = Keeper { authority: &front_proxy, now };
        let client = |user: &str, group: Option<&str>| LeafSpec::client(user, group);
        Ok(Pki {
            serving: keeper.keep("apiserver", &serving_spec(options))?,
            kubelet_client: keeper.keep("apiserver-kubelet-client", &client(KUBELET_CLIENT_USER, Some(MASTERS)))?,
            admin: keeper.keep("admin", &client(ADMIN_USER, Some(MASTERS)))?,
            controller_manager: keeper.keep("controller-manager", &client(CONTROLLER_MANAGER_USER, None))?,
            scheduler: keeper.keep("scheduler", &client(SCHEDULER_USER, None))?,
            front_proxy_client: front_keeper.keep("client", &client(FRONT_PROXY_USER, None))?,
            front_proxy_ca_pem: front_proxy.ca_pem,
            service_account_key_pem: service_account_key(dir)?,
            authority,
        })
    }

    /// The authority's certificate, as PEM: what clients trust.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.authority.ca_pem
    }

    /// The authority itself.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// What the API server presents.
    #[must_use]
    pub fn serving(&self) -> &ClientIdentity {
        &self.serving
    }

    /// What the API server presents to nodes.
    #[must_use]
    pub fn kubelet_client(&self) -> &ClientIdentity {
        &self.kubelet_client
    }

    /// The administrator's.
    #[must_use]
    pub fn admin(&self) -> &ClientIdentity {
        &self.admin
    }

    /// The controllers'.
    #[must_use]
    pub fn controller_manager(&self) -> &ClientIdentity {
        &self.controller_manager
    }

    /// The scheduler's.
    #[must_use]
    pub fn scheduler(&self) -> &ClientIdentity {
        &self.scheduler
    }

    /// What the API server presents to aggregated servers.
    #[must_use]
    pub fn front_proxy_client(&self) -> &ClientIdentity {
        &self.front_proxy_client
    }

    /// The authority of that certificate, as PEM.
    #[must_use]
    pub fn front_proxy_ca_pem(&self) -> &str {
        &self.front_proxy_ca_pem
    }

    /// The P-256 private key in PKCS #8, as PEM, that signs service account tokens.
    #[must_use]
    pub fn service_account_key(&self) -> &str {
        &self.service_account_key_pem
    }
}

impl Authority {
    /// The authority that is in `dir`; nothing is made or renewed.
    ///
    /// # Errors
    ///
    /// If there is none, or it cannot be used.
    pub fn open(dir: &Path, now: Timestamp) -> Result<Self, PkiError> {
        let (crt, key) = (files::read(&dir.join("ca.crt"))?, files::read_secret(&dir.join("ca.key"))?);
        let (Some(ca_pem), Some(key_pem)) = (crt, key) else {
            return Err(PkiError::NoAuthority { path: dir.to_owned() });
        };
        Self::of(dir, PkiOptions::default().leaf_life, ca_pem, &key_pem, now)
    }

    fn of(dir: &Path, leaf_life: Duration, ca_pem: String, key_pem: &str, now: Timestamp) -> Result<Self, PkiError> {
        let unusable = |why| PkiError::Authority { path: dir.to_owned(), why };
        let issuer = leaf::open_authority(&ca_pem, key_pem, now).map_err(unusable)?;
        Ok(Self { dir: dir.to_owned(), leaf_life, ca_pem, issuer })
    }

    /// A new certificate for a user in some groups. It is not kept.
    ///
    /// # Errors
    ///
    /// If the user or a group cannot be in a certificate.
    pub fn issue_client(&self, user: &str, groups: &[&str], now: Timestamp) -> Result<ClientIdentity, PkiError> {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        leaf::issue(&self.issuer, &LeafSpec { groups, ..LeafSpec::client(user, None) }, self.leaf_life, now)
    }

    /// A new certificate for a node, as client and as server. It is not kept.
    ///
    /// # Errors
    ///
    /// If the name cannot be a node's.
    pub fn issue_node(&self, name: &str, ips: &[IpAddr], now: Timestamp) -> Result<ClientIdentity, PkiError> {
        leaf::issue(&self.issuer, &node_spec(name, ips)?, self.leaf_life, now)
    }

    /// The same, kept in the directory and renewed when it has to be.
    ///
    /// # Errors
    ///
    /// If the name cannot be a node's, or the files cannot be read or written.
    pub fn keep_node(&self, name: &str, ips: &[IpAddr], now: Timestamp) -> Result<ClientIdentity, PkiError> {
        let spec = node_spec(name, ips)?;
        Keeper { authority: self, now }.keep(&format!("node-{name}"), &spec)
    }

    /// A kubeconfig with everything in it.
    #[must_use]
    pub fn kubeconfig(&self, server_url: &str, identity: &ClientIdentity) -> String {
        kubeconfig(server_url, &self.ca_pem, identity)
    }

    /// Writes a kubeconfig that only its owner can read, replacing an older one in one step.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn write_kubeconfig(&self, path: &Path, server_url: &str, identity: &ClientIdentity) -> Result<(), PkiError> {
        files::write(path, &self.kubeconfig(server_url, identity), files::SECRET)
    }
}

/// Keeps certificates in a directory.
struct Keeper<'a> {
    authority: &'a Authority,
    now: Timestamp,
}

impl Keeper<'_> {
    /// The certificate in `NAME.crt` with the key in `NAME.key`, made anew unless it is good.
    fn keep(&self, name: &str, spec: &LeafSpec) -> Result<ClientIdentity, PkiError> {
        let Authority { dir, leaf_life, ca_pem, issuer } = self.authority;
        let (crt, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        if let (Some(chain_pem), Some(key_pem)) = (files::read(&crt)?, files::read_secret(&key)?) {
            let kept = ClientIdentity { user: spec.user.clone(), chain_pem, key_pem };
            match leaf::fault(&kept, spec, ca_pem, self.now) {
                None => return Ok(kept),
                Some(fault) => tracing::info!(certificate = name, fault, "renewing a certificate"),
            }
        }
        let identity = leaf::issue(issuer, spec, *leaf_life, self.now)?;
        // A crash between the two leaves a pair that does not match, which the next start finds and renews.
        files::write(&key, &identity.key_pem, files::SECRET)?;
        files::write(&crt, &identity.chain_pem, files::PUBLIC)?;
        Ok(identity)
    }
}

/// The authority in the directory; a new one if there is none.
fn authority(dir: &Path, options: &PkiOptions, now: Timestamp) -> Result<Authority, PkiError> {
    let (crt, key) = (dir.join("ca.crt"), dir.join("ca.key"));
    let (ca_pem, key_pem) = match (files::read(&crt)?, files::read_secret(&key)?) {
        (Some(ca_pem), Some(key_pem)) => (ca_pem, key_pem),
        (Some(_), None) => return Err(PkiError::HalfAuthority { path: key }),
        (None, Some(key_pem)) => {
            // The key is written first, so a crash may leave it alone; nothing was ever signed with it then, for a
            // signed certificate is only written after the authority's.
            if has_certificates(dir)? {
                return Err(PkiError::HalfAuthority { path: crt });
            }
            let ca_pem = leaf::new_authority(&key_pem, options.authority_life, now)?;
            files::write(&crt, &ca_pem, files::PUBLIC)?;
            (ca_pem, key_pem)
        }
        (None, None) => {
            let key_pem = leaf::new_key()?;
            let ca_pem = leaf::new_authority(&key_pem, options.authority_life, now)?;
            files::write(&key, &key_pem, files::SECRET)?;
            files::write(&crt, &ca_pem, files::PUBLIC)?;
            (ca_pem, key_pem)
        }
    };
    Authority::of(dir, options.leaf_life, ca_pem, &key_pem, now)
}

/// Whether anything was ever signed here.
fn has_certificates(dir: &Path) -> Result<bool, PkiError> {
    files::read(&dir.join("apiserver.crt")).map(|found| found.is_some())
}

/// The token key in the directory; a new one if there is none.
fn service_account_key(dir: &Path) -> Result<String, PkiError> {
    let path = dir.join("sa.key");
    if let Some(pem) = files::read_secret(&path)? {
        return if leaf::is_signing_key(&pem) { Ok(pem) } else { Err(PkiError::ServiceAccountKey { path }) };
    }
    let pem = leaf::new_key()?;
    files::write(&path, &pem, files::SECRET)?;
    Ok(pem)
}

/// What the API server's certificate says.
fn serving_spec(options: &PkiOptions) -> LeafSpec {
    let names = SERVER_NAMES.iter().map(|name| (*name).to_owned()).chain(options.host_names.iter().cloned());
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let ips = loopback.into_iter().chain([options.service_ip]).chain(options.listen_ips.iter().copied());
    LeafSpec {
        user: "kube-apiserver".to_owned(),
        groups: Vec::new(),
        names: names.map(|name| name.to_ascii_lowercase()).collect(),
        ips: ips.filter(|ip| !ip.is_unspecified()).collect(),
        is_client: false,
        is_server: true,
    }
}

/// What a node's certificate says.
fn node_spec(name: &str, ips: &[IpAddr]) -> Result<LeafSpec, PkiError> {
    // Also keeps the name fit for being part of a file's.
    let is_fit = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if name.is_empty() || name.len() > 253 || !name.chars().all(is_fit) || name.split('.').any(str::is_empty) {
        return Err(PkiError::Name { name: name.to_owned() });
    }
    Ok(LeafSpec {
        user: format!("{NODE_USER_PREFIX}{name}"),
        groups: vec![NODES.to_owned()],
        names: [name.to_owned()].into(),
        ips: ips.iter().copied().collect(),
        is_client: true,
        is_server: true,
    })
}

#[cfg(test)]
mod tests;
