//! Signing certificates, and judging those signed before. In: what a certificate is to say and the time. Out: the
//! certificate, or what is wrong with one. Pure but for the random numbers of new keys.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, date_time_ymd,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::parse_x509_pem;

use super::{ClientIdentity, PkiError, groups};

/// The authority's common name.
const AUTHORITY_NAME: &str = "kubernetes";
/// Certificates begin this long before they are made, for clocks that are behind.
const BACKDATE: Duration = Duration::from_secs(300);

/// What a certificate is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeafSpec {
    /// The common name: the user.
    pub(super) user: String,
    /// The organisations: the user's groups.
    pub(super) groups: Vec<String>,
    /// The DNS names.
    pub(super) names: BTreeSet<String>,
    /// The addresses.
    pub(super) ips: BTreeSet<IpAddr>,
    pub(super) is_client: bool,
    pub(super) is_server: bool,
}

impl LeafSpec {
    /// A client's.
    pub(super) fn client(user: &str, group: Option<&str>) -> Self {
        LeafSpec {
            user: user.to_owned(),
            groups: group.map(str::to_owned).into_iter().collect(),
            names: BTreeSet::new(),
            ips: BTreeSet::new(),
            is_client: true,
            is_server: false,
        }
    }
}

/// A new private key in PKCS #8, as PEM.
pub(super) fn new_key() -> Result<String, PkiError> {
    let key = KeyPair::generate().map_err(|source| PkiError::Sign { user: AUTHORITY_NAME.to_owned(), source })?;
    Ok(key.serialize_pem())
}

/// Whether this is a key that can sign tokens.
pub(super) fn is_signing_key(pem: &str) -> bool {
    KeyPair::from_pem(pem).is_ok_and(|key| key.algorithm() == &rcgen::PKCS_ECDSA_P256_SHA256)
}

/// The certificate of a new authority that has this key.
pub(super) fn new_authority(key_pem: &str, life: Duration, now: Timestamp) -> Result<String, PkiError> {
    let failed = |source| PkiError::Sign { user: AUTHORITY_NAME.to_owned(), source };
    let key = KeyPair::from_pem(key_pem).map_err(failed)?;
    let mut params = CertificateParams::default();
    set_validity(&mut params, life, now)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, AUTHORITY_NAME);
    // Certificates it signs cannot sign others.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    Ok(params.self_signed(&key).map_err(failed)?.pem())
}

/// An authority read from its files, or what is wrong with it.
pub(super) fn open_authority(
    ca_pem: &str,
    key_pem: &str,
    now: Timestamp,
) -> Result<Issuer<'static, KeyPair>, &'static str> {
    let key = KeyPair::from_pem(key_pem).map_err(|_| "ca.key is not a private key")?;
    let (_, pem) = parse_x509_pem(ca_pem.as_bytes()).map_err(|_| "ca.crt is not PEM")?;
    let certificate = pem.parse_x509().map_err(|_| "ca.crt is not a certificate")?;
    if certificate.public_key().raw != key.subject_public_key_info() {
        return Err("ca.crt and ca.key do not belong together");
    }
    if !certificate.is_ca() {
        return Err("ca.crt is not an authority's certificate");
    }
    if certificate.validity().not_after.timestamp() <= now.as_second() {
        return Err("ca.crt has expired");
    }
    Issuer::from_ca_cert_pem(ca_pem, key).map_err(|_| "ca.crt cannot be read")
}

/// Signs a new certificate with a new key.
pub(super) fn issue(
    issuer: &Issuer<'static, KeyPair>,
    spec: &LeafSpec,
    life: Duration,
    now: Timestamp,
) -> Result<ClientIdentity, PkiError> {
    let failed = |source| PkiError::Sign { user: spec.user.clone(), source };
    if spec.user.is_empty() {
        return Err(PkiError::Name { name: String::new() });
    }
    let mut params = CertificateParams::default();
    set_validity(&mut params, life, now)?;
    params.distinguished_name = DistinguishedName::new();
    if let [group] = &spec.groups[..] {
        params.distinguished_name.push(DnType::OrganizationName, group.as_str());
    }
    params.distinguished_name.push(DnType::CommonName, spec.user.as_str());
    for name in &spec.names {
        let name = name.as_str().try_into().map_err(|_| PkiError::Name { name: name.clone() })?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params.subject_alt_names.extend(spec.ips.iter().copied().map(SanType::IpAddress));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if spec.is_client {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    if spec.is_server {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.signed_by(&key, issuer).map_err(failed)?;
    let chain_pem = if spec.groups.len() > 1 {
        let der = groups::with_subject(certificate.der(), &spec.user, &spec.groups, issuer.key());
        pem(&der.ok_or_else(|| PkiError::Name { name: spec.groups.join(",") })?)
    } else {
        certificate.pem()
    };
    Ok(ClientIdentity { user: spec.user.clone(), chain_pem, key_pem: key.serialize_pem() })
}

/// A certificate as PEM.
fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    // Base64 is ASCII: it can be split anywhere.
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// From a little before now until `life` from now.
fn set_validity(params: &mut CertificateParams, life: Duration, now: Timestamp) -> Result<(), PkiError> {
    let since_1970 = u64::try_from(now.as_second()).map_err(|_| PkiError::Clock)?;
    let epoch = date_time_ymd(1970, 1, 1);
    let start = Duration::from_secs(since_1970).saturating_sub(BACKDATE);
    let end = Duration::from_secs(since_1970).saturating_add(life);
    // RFC 5280's last moment.
    let last = Duration::from_secs(253_402_300_799);
    if start >= last {
        return Err(PkiError::Clock);
    }
    params.not_before = epoch + start;
    params.not_after = epoch + end.min(last);
    Ok(())
}

/// Why a certificate has to be made anew; none if it is good.
pub(super) fn fault(kept: &ClientIdentity, spec: &LeafSpec, ca_pem: &str, now: Timestamp) -> Option<&'static str> {
    judge(kept, spec, ca_pem, now).err()
}

fn judge(kept: &ClientIdentity, spec: &LeafSpec, ca_pem: &str, now: Timestamp) -> Result<(), &'static str> {
    let (_, pem) = parse_x509_pem(kept.chain_pem.as_bytes()).map_err(|_| "it is not PEM")?;
    let certificate = pem.parse_x509().map_err(|_| "it is not a certificate")?;
    let (_, ca_pem) = parse_x509_pem(ca_pem.as_bytes()).map_err(|_| "its authority cannot be read")?;
    let ca = ca_pem.parse_x509().map_err(|_| "its authority cannot be read")?;
    let key = KeyPair::from_pem(&kept.key_pem).map_err(|_| "its key cannot be read")?;
    if certificate.public_key().raw != key.subject_public_key_info() {
        return Err("its key belongs to another");
    }
    if certificate.issuer().as_raw() != ca.subject().as_raw() || authority_key(&certificate) != subject_key(&ca) {
        return Err("another authority signed it");
    }
    let (start, end) = (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
    if start > now.as_second() {
        return Err("it is not valid yet");
    }
    if end.saturating_sub(now.as_second()) < end.saturating_sub(start) / 3 {
        return Err("it expires soon");
    }
    if said(&certificate).as_ref() != Some(spec) {
        return Err("it says something else");
    }
    Ok(())
}

/// What a certificate says; none if it says something that no certificate of ours does.
fn said(certificate: &X509Certificate<'_>) -> Option<LeafSpec> {
    let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().ok().map(str::to_owned);
    let mut spec = LeafSpec {
        user: certificate.subject().iter_common_name().next().and_then(text)?,
        groups: certificate.subject().iter_organization().map(text).collect::<Option<_>>()?,
        names: BTreeSet::new(),
        ips: BTreeSet::new(),
        is_client: false,
        is_server: false,
    };
    if let Some(names) = certificate.subject_alternative_name().ok()? {
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(name) => drop(spec.names.insert((*name).to_owned())),
                GeneralName::IPAddress(bytes) => drop(spec.ips.insert(address(bytes)?)),
                _ => return None,
            }
        }
    }
    if let Some(usage) = certificate.extended_key_usage().ok()? {
        (spec.is_client, spec.is_server) = (usage.value.client_auth, usage.value.server_auth);
    }
    Some(spec)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// The identifier of the key that signed a certificate.
fn authority_key<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    })
}

/// The identifier of a certificate's own key.
fn subject_key<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}
