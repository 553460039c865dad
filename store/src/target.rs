//! Which store to open, and how. In: text such as `embedded` or `etcd://host:2379`. Out: [`Target`] and [`Options`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A directory, made if need be, that the embedded engine keeps its file in.
    Embedded(PathBuf),
    /// The endpoints of one etcd cluster, each `http://host:port`. With [`EtcdOptions::tls`] they are spoken to in TLS.
    Etcd(Vec<String>),
}

impl Target {
    /// Reads `embedded` (in `default_dir`), `embedded:DIR`, or `etcd://host:port[,host:port…]`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if it is none of these.
    pub fn parse(text: &str, default_dir: &Path) -> Result<Self, Error> {
        if text == "embedded" {
            return Ok(Target::Embedded(default_dir.to_path_buf()));
        }
        if let Some(dir) = text.strip_prefix("embedded:").filter(|dir| !dir.is_empty()) {
            return Ok(Target::Embedded(PathBuf::from(dir)));
        }
        let Some(hosts) = text.strip_prefix("etcd://") else {
            return Err(Error::invalid(format!(
                "{text:?} names no store; use \"embedded\", \"embedded:DIR\" or \"etcd://HOST:PORT[,HOST:PORT…]\""
            )));
        };
        let endpoint = |host: &str| match host.rsplit_once(':') {
            Some((name, port)) if !name.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => {
                Ok(format!("http://{host}"))
            }
            _ => Err(Error::invalid(format!("etcd endpoint {host:?} is not HOST:PORT"))),
        };
        Ok(Target::Etcd(hosts.trim_end_matches('/').split(',').map(endpoint).collect::<Result<_, _>>()?))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Embedded(dir) => write!(f, "embedded:{}", dir.display()),
            Target::Etcd(endpoints) => {
                let hosts: Vec<&str> = endpoints.iter().map(|e| e.trim_start_matches("http://")).collect();
                write!(f, "etcd://{}", hosts.join(","))
            }
        }
    }
}

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much history the embedded engine keeps by itself. etcd has its own setting (`--auto-compaction-*`).
    pub retention: Retention,
    /// How often an idle watch yields a progress notification.
    pub progress_interval: Duration,
    /// The embedded engine's page cache, in bytes.
    pub cache_bytes: usize,
    /// What only etcd needs.
    pub etcd: EtcdOptions,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            retention: Retention::default(),
            progress_interval: Duration::from_secs(5),
            cache_bytes: 24 << 20,
            etcd: EtcdOptions::default(),
        }
    }
}

/// How much history to keep: what is older than `age`, or more than `revisions` revisions ago, is compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Kept at least this long (unless `revisions` says otherwise).
    pub age: Duration,
    /// At most this many revisions are kept.
    pub revisions: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Retention { age: Duration::from_secs(300), revisions: 1_000_000 }
    }
}

/// How etcd is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdOptions {
    /// Put before every key, and removed from every key read, so that several users can share a cluster.
    pub key_prefix: String,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// How to talk TLS, if that is wanted.
    pub tls: Option<EtcdTls>,
    /// As whom to log in, if etcd asks for that.
    pub login: Option<EtcdLogin>,
}

/// TLS towards etcd. All files are PEM and are read when the store is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdTls {
    /// The authorities that etcd's certificates must come from.
    pub ca_file: PathBuf,
    /// The certificate (with its chain) and key to show etcd, if it asks for one.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// A user of etcd's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdLogin {
    /// The user's name.
    pub user: String,
    /// The file that holds the password, which a line end may follow.
    pub password_file: PathBuf,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        EtcdOptions {
            key_prefix: "/gantry".to_owned(),
            request_timeout: Duration::from_secs(10),
            tls: None,
            login: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_shown() {
        let dir = Path::new("/var/lib/gantry/store");
        let cases = [
            ("embedded", Target::Embedded(dir.into()), "embedded:/var/lib/gantry/store"),
            ("embedded:/data", Target::Embedded("/data".into()), "embedded:/data"),
            ("etcd://a:2379", Target::Etcd(vec!["http://a:2379".into()]), "etcd://a:2379"),
            (
                "etcd://a:1,[::1]:2/",
                Target::Etcd(vec!["http://a:1".into(), "http://[::1]:2".into()]),
                "etcd://a:1,[::1]:2",
            ),
        ];
        for (text, target, shown) in cases {
            assert_eq!(Target::parse(text, dir).unwrap(), target, "{text}");
            assert_eq!(target.to_string(), shown);
        }
        for text in [
            "",
            "etcd",
            "etcd://",
            "etcd://a",
            "etcd://a:",
            "etcd://:1",
            "etcd://a:99999",
            "etcd://a:1,,b:2",
            "embedded:",
        ] {
            assert!(matches!(Target::parse(text, dir), Err(Error::Invalid { .. })), "{text}");
        }
    }
}
