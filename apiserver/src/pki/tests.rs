//! The certificates, as TLS sees them, and the directory over its life.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, Error as TlsError, RootCertStore};
use rustls_pki_types::pem::PemObject;
use tempfile::TempDir;

use super::*;

const DAY: i64 = 24 * 3600;

fn start() -> Timestamp {
    "2026-03-01T00:00:00Z".parse().unwrap()
}

fn days(n: i64) -> Timestamp {
    Timestamp::from_second(start().as_second() + n * DAY).unwrap()
}

fn load(dir: &TempDir, options: &PkiOptions, now: Timestamp) -> Result<Pki, PkiError> {
    Pki::load_or_create(&dir.path().join("pki"), options, now)
}

fn new_pki() -> (TempDir, Pki) {
    let dir = TempDir::new().unwrap();
    let options = PkiOptions {
        listen_ips: vec!["192.0.2.7".parse().unwrap(), "0.0.0.0".parse().unwrap()],
        host_names: vec!["Box.example".to_owned()],
        ..PkiOptions::default()
    };
    let pki = load(&dir, &options, start()).unwrap();
    (dir, pki)
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn roots(pki: &Pki) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(der(pki.ca_pem())).unwrap();
    Arc::new(roots)
}

fn unix(at: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(at.as_second().unsigned_abs()))
}

fn as_server(pki: &Pki, identity: &ClientIdentity, name: &str, at: Timestamp) -> Result<(), TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(pki), provider).build().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    verifier.verify_server_cert(&der(&identity.chain_pem), &[], &name, &[], unix(at)).map(drop)
}

fn as_client(pki: &Pki, identity: &ClientIdentity, at: Timestamp) -> Result<(), TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(pki), provider).build().unwrap();
    verifier.verify_client_cert(&der(&identity.chain_pem), &[], unix(at)).map(drop)
}

/// Whether key and certificate work together in TLS.
fn has_its_key(identity: &ClientIdentity) -> bool {
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
    let provider = rustls::crypto::ring::default_provider();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der(&identity.chain_pem)], key);
    config.is_ok()
}

fn subject(identity: &ClientIdentity) -> (String, Vec<String>) {
    let der = der(&identity.chain_pem);
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    let name = certificate.subject();
    let user = name.iter_common_name().next().unwrap().as_str().unwrap().to_owned();
    (user, name.iter_organization().map(|group| group.as_str().unwrap().to_owned()).collect())
}

#[test]
fn the_server_is_known_by_all_its_names() {
    let (_dir, pki) = new_pki();
    let names = [
        "localhost",
        "127.0.0.1",
        "::1",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "10.96.0.1",
        "192.0.2.7",
        "box.example",
    ];
    for name in names {
        as_server(&pki, pki.serving(), name, days(1)).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for name in ["other.example", "0.0.0.0", "192.0.2.8"] {
        assert!(as_server(&pki, pki.serving(), name, days(1)).is_err(), "{name}");
    }
    assert!(as_client(&pki, pki.serving(), days(1)).is_err(), "it is no client");
    assert!(has_its_key(pki.serving()));
}

#[test]
fn clients_are_who_they_say() {
    let (_dir, pki) = new_pki();
    let issued = pki.authority().issue_client("jane", &["dev", "ops"], start()).unwrap();
    let long: Vec<String> = (0..40).map(|i| format!("a-group-with-a-long-name-{i}")).collect();
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    let in_many = pki.authority().issue_client("joe", &long, start()).unwrap();
    let cases: [(&ClientIdentity, &str, &[&str]); 6] = [
        (&in_many, "joe", &long),
        (pki.admin(), "kubernetes-admin", &["system:masters"]),
        (pki.kubelet_client(), "kube-apiserver-kubelet-client", &["system:masters"]),
        (pki.controller_manager(), "system:kube-controller-manager", &[]),
        (pki.scheduler(), "system:kube-scheduler", &[]),
        (&issued, "jane", &["dev", "ops"]),
    ];
    for (identity, user, groups) in cases {
        as_client(&pki, identity, days(1)).unwrap();
        let (got_user, got_groups) = subject(identity);
        assert_eq!((got_user.as_str(), identity.user.as_str()), (user, user));
        let got: BTreeSet<&str> = got_groups.iter().map(String::as_str).collect();
        assert_eq!(got, groups.iter().copied().collect());
        assert!(as_server(&pki, identity, "localhost", days(1)).is_err(), "{user} is no server");
        assert!(has_its_key(identity));
    }
    let (_other_dir, other) = new_pki();
    assert!(as_client(&other, pki.admin(), days(1)).is_err(), "another cluster's authority");
    assert!(matches!(pki.authority().issue_client("", &[], start()), Err(PkiError::Name { .. })));
}

#[test]
fn a_node_is_client_and_server() {
    let (_dir, pki) = new_pki();
    let ips: Vec<IpAddr> = vec!["192.0.2.9".parse().unwrap(), "2001:db8::9".parse().unwrap()];
    let node = pki.authority().issue_node("node-a.example", &ips, start()).unwrap();
    assert_eq!(subject(&node), ("system:node:node-a.example".to_owned(), vec!["system:nodes".to_owned()]));
    as_client(&pki, &node, days(1)).unwrap();
    for name in ["node-a.example", "192.0.2.9", "2001:db8::9"] {
        as_server(&pki, &node, name, days(1)).unwrap();
    }
    assert!(as_server(&pki, &node, "node-b.example", days(1)).is_err());
    for name in ["", "Node", "a/b", "..", "a..b", "a b", "é", &"x".repeat(254)] {
        assert!(matches!(pki.authority().issue_node(name, &[], start()), Err(PkiError::Name { .. })), "{name}");
        assert!(matches!(pki.authority().keep_node(name, &[], start()), Err(PkiError::Name { .. })), "{name}");
    }
    let kept = pki.authority().keep_node("node-a", &ips, start()).unwrap();
    assert_eq!(pki.authority().keep_node("node-a", &ips, days(10)).unwrap(), kept);
    assert_ne!(pki.authority().keep_node("node-a", &ips[..1], days(10)).unwrap(), kept, "an address is gone");
}

#[test]
fn certificates_have_their_time() {
    let (_dir, pki) = new_pki();
    let expired = Err(TlsError::InvalidCertificate(CertificateError::Expired));
    as_client(&pki, pki.admin(), start()).unwrap();
    as_client(&pki, pki.admin(), days(364)).unwrap();
    let late = as_client(&pki, pki.admin(), days(366)).map_err(|error| match error {
        TlsError::InvalidCertificate(CertificateError::ExpiredContext { .. }) => {
            TlsError::InvalidCertificate(CertificateError::Expired)
        }
        other => other,
    });
    assert_eq!(late, expired);
    let before_1970 = Timestamp::from_second(-1).unwrap();
    assert!(matches!(pki.authority().issue_client("a", &[], before_1970), Err(PkiError::Clock)));
}

#[test]
fn a_second_start_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let options = PkiOptions::default();
    let first = load(&dir, &options, start()).unwrap();
    let second = load(&dir, &options, days(100)).unwrap();
    assert_eq!(first.ca_pem(), second.ca_pem());
    assert_eq!(first.service_account_key(), second.service_account_key());
    for (a, b) in [
        (first.serving(), second.serving()),
        (first.kubelet_client(), second.kubelet_client()),
        (first.admin(), second.admin()),
        (first.controller_manager(), second.controller_manager()),
        (first.scheduler(), second.scheduler()),
    ] {
        assert_eq!(a, b);
    }
}

#[test]
fn certificates_are_renewed_in_the_last_third_of_their_life() {
    let dir = TempDir::new().unwrap();
    let options = PkiOptions::default();
    let first = load(&dir, &options, start()).unwrap();
    let early = load(&dir, &options, days(243)).unwrap();
    assert_eq!(early.admin(), first.admin());
    let late = load(&dir, &options, days(244)).unwrap();
    assert_ne!(late.admin(), first.admin());
    assert_ne!(late.serving(), first.serving());
    assert_eq!(late.ca_pem(), first.ca_pem());
    assert_eq!(late.service_account_key(), first.service_account_key());
    as_client(&late, late.admin(), days(600)).unwrap();
    as_client(&first, late.admin(), days(600)).unwrap();
}

#[test]
fn a_new_name_or_a_spoilt_file_renews_that_certificate_only() {
    let dir = TempDir::new().unwrap();
    let options = PkiOptions::default();
    let first = load(&dir, &options, start()).unwrap();
    let renamed = PkiOptions { host_names: vec!["new.example".to_owned()], ..options.clone() };
    let second = load(&dir, &renamed, days(1)).unwrap();
    as_server(&second, second.serving(), "new.example", days(1)).unwrap();
    assert_eq!(second.admin(), first.admin());

    let file = |name: &str| dir.path().join("pki").join(name);
    std::fs::write(file("admin.crt"), "rubbish").unwrap();
    std::fs::copy(file("admin.key"), file("scheduler.key")).unwrap();
    std::fs::copy(file("apiserver-kubelet-client.crt"), file("controller-manager.crt")).unwrap();
    std::fs::copy(file("apiserver-kubelet-client.key"), file("controller-manager.key")).unwrap();
    let third = load(&dir, &renamed, days(1)).unwrap();
    for identity in [third.admin(), third.scheduler(), third.controller_manager()] {
        as_client(&third, identity, days(1)).unwrap();
        assert!(has_its_key(identity));
        assert_eq!(subject(identity).0, identity.user);
    }
    assert_eq!(third.serving(), second.serving());
}

#[test]
fn an_authority_is_never_replaced() {
    let options = PkiOptions::default();
    let damage: [(&str, Option<&str>); 4] =
        [("ca.key", None), ("ca.crt", None), ("ca.key", Some("rubbish")), ("sa.key", Some("rubbish"))];
    for (name, text) in damage {
        let dir = TempDir::new().unwrap();
        load(&dir, &options, start()).unwrap();
        let path = dir.path().join("pki").join(name);
        match text {
            Some(text) => std::fs::write(&path, text).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let error = load(&dir, &options, start()).unwrap_err();
        match (name, text) {
            (_, None) => assert!(matches!(&error, PkiError::HalfAuthority { path: p } if *p == path), "{error:?}"),
            ("sa.key", _) => assert!(matches!(error, PkiError::ServiceAccountKey { .. })),
            _ => assert!(matches!(error, PkiError::Authority { .. }), "{error:?}"),
        }
    }
    let dir = TempDir::new().unwrap();
    load(&dir, &options, start()).unwrap();
    let (other, _) = new_pki();
    std::fs::copy(other.path().join("pki/ca.key"), dir.path().join("pki/ca.key")).unwrap();
    assert!(matches!(load(&dir, &options, start()), Err(PkiError::Authority { .. })));
    let dir = TempDir::new().unwrap();
    load(&dir, &options, start()).unwrap();
    assert!(matches!(load(&dir, &options, days(3660)), Err(PkiError::Authority { .. })), "expired");
}

#[test]
fn a_first_start_that_was_cut_short_is_finished() {
    let dir = TempDir::new().unwrap();
    let options = PkiOptions::default();
    load(&dir, &options, start()).unwrap();
    let pki = dir.path().join("pki");
    let key = std::fs::read_to_string(pki.join("ca.key")).unwrap();
    std::fs::remove_dir_all(&pki).unwrap();
    std::fs::create_dir(&pki).unwrap();
    std::fs::write(pki.join("ca.key"), &key).unwrap();
    std::fs::write(pki.join(".ca.crt.new"), "half a certifi").unwrap();
    let finished = load(&dir, &options, start()).unwrap();
    as_client(&finished, finished.admin(), days(1)).unwrap();
    assert_eq!(std::fs::read_to_string(pki.join("ca.key")).unwrap(), key);
}

#[cfg(unix)]
#[test]
fn secrets_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let pki_dir = dir.path().join("pki");
    std::fs::create_dir(&pki_dir).unwrap();
    std::fs::set_permissions(&pki_dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let pki = load(&dir, &PkiOptions::default(), start()).unwrap();
    let config = pki_dir.join("admin.kubeconfig");
    pki.authority().write_kubeconfig(&config, "https://127.0.0.1:6443", pki.admin()).unwrap();
    std::fs::set_permissions(pki_dir.join("sa.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    load(&dir, &PkiOptions::default(), start()).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&pki_dir), 0o700);
    let mut secrets = 0;
    let front_proxy = pki_dir.join("front-proxy");
    assert_eq!(mode(&front_proxy), 0o700);
    let entries = std::fs::read_dir(&pki_dir).unwrap().chain(std::fs::read_dir(&front_proxy).unwrap());
    for path in entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        let is_certificate = path.extension().is_some_and(|extension| extension == "crt");
        assert_eq!(mode(&path), if is_certificate { 0o644 } else { 0o600 }, "{}", path.display());
        secrets += usize::from(!is_certificate);
    }
    assert_eq!(secrets, 10);
    assert!(!format!("{pki:?} {:?}", pki.admin()).contains("PRIVATE"));
}

#[test]
fn a_kubeconfig_has_everything_in_it() {
    use base64::Engine;
    let (dir, pki) = new_pki();
    let path = dir.path().join("config");
    pki.authority().write_kubeconfig(&path, "https://old:1", pki.admin()).unwrap();
    pki.authority().write_kubeconfig(&path, "https://127.0.0.1:6443", pki.admin()).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, pki.authority().kubeconfig("https://127.0.0.1:6443", pki.admin()));
    let data = |name: &str| {
        let line = text.lines().find(|line| line.trim().starts_with(name)).unwrap();
        let value = line.split_once(": ").unwrap().1;
        String::from_utf8(base64::engine::general_purpose::STANDARD.decode(value).unwrap()).unwrap()
    };
    assert_eq!(data("certificate-authority-data"), pki.ca_pem());
    assert_eq!(data("client-certificate-data"), pki.admin().chain_pem);
    assert_eq!(data("client-key-data"), pki.admin().key_pem);
    assert!(text.contains("server: \"https://127.0.0.1:6443\"\n"));
    assert!(text.contains("current-context: gantry\n"));
}
