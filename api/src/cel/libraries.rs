//! Values of Kubernetes' own libraries: quantities, addresses, URLs, versions, formats.

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::authority::{self, Asking, Decision};
use crate::quantity::Quantity;
use crate::schema::format as text_format;
use crate::strategy::NameRule;

/// A value of a library.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the variants are the types of the same names")]
pub enum Opaque {
    Quantity(Quantity),
    Ip(IpAddr),
    Cidr(Cidr),
    Url(Url),
    Semver(Semver),
    Format(&'static str),
    Asking(Asking),
    Decision(Decision),
}

impl Opaque {
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Opaque::Quantity(_) => "kubernetes.Quantity",
            Opaque::Ip(_) => "net.IP",
            Opaque::Cidr(_) => "net.CIDR",
            Opaque::Url(_) => "kubernetes.URL",
            Opaque::Semver(_) => "kubernetes.Semver",
            Opaque::Format(_) => "kubernetes.NamedFormat",
            Opaque::Asking(asking) => asking.type_name(),
            Opaque::Decision(_) => authority::DECISION,
        }
    }

    pub(super) fn equals(&self, other: &Opaque) -> bool {
        match (self, other) {
            (Opaque::Ip(a), Opaque::Ip(b)) => a == b,
            (Opaque::Cidr(a), Opaque::Cidr(b)) => a == b,
            (Opaque::Url(a), Opaque::Url(b)) => a.text == b.text,
            (Opaque::Format(a), Opaque::Format(b)) => a == b,
            _ => self.compare(other) == Some(Ordering::Equal),
        }
    }

    pub(super) fn compare(&self, other: &Opaque) -> Option<Ordering> {
        match (self, other) {
            (Opaque::Quantity(a), Opaque::Quantity(b)) => Some(a.cmp(b)),
            (Opaque::Semver(a), Opaque::Semver(b)) => Some(a.compare(b)),
            _ => None,
        }
    }
}

impl fmt::Display for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Opaque::Quantity(quantity) => write!(f, "{quantity}"),
            Opaque::Ip(ip) => write!(f, "{ip}"),
            Opaque::Cidr(cidr) => write!(f, "{}/{}", cidr.address, cidr.bits),
            Opaque::Url(url) => f.write_str(&url.text),
            Opaque::Semver(version) => f.write_str(&version.text),
            Opaque::Format(name) => f.write_str(name),
            Opaque::Asking(_) | Opaque::Decision(_) => f.write_str(self.type_name()),
        }
    }
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "as their names say")]
pub struct Cidr {
    pub address: IpAddr,
    pub bits: u8,
}

/// An address as Kubernetes takes it: no zone, no IPv4 inside IPv6.
pub(super) fn ip(text: &str) -> Option<IpAddr> {
    if text.contains('%') {
        return None;
    }
    let ip = IpAddr::from_str(text).ok()?;
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => None,
        ip => Some(ip),
    }
}

fn bits_of(ip: IpAddr) -> (u128, u8) {
    match ip {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    }
}

impl Cidr {
    pub(super) fn parse(text: &str) -> Option<Cidr> {
        let (address, bits) = text.split_once('/')?;
        let address = ip(address)?;
        let most = bits_of(address).1;
        if bits.is_empty() || bits.len() > 1 && bits.starts_with('0') || !bits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let bits: u8 = bits.parse().ok().filter(|bits| *bits <= most)?;
        Some(Cidr { address, bits })
    }

    fn network(&self) -> (u128, u8) {
        let (value, most) = bits_of(self.address);
        let low = u32::from(most - self.bits);
        (if low >= 128 { 0 } else { value >> low << low }, most)
    }

    pub(super) fn masked(&self) -> Cidr {
        let (network, most) = self.network();
        let address = if most == 32 {
            IpAddr::V4(u32::try_from(network).unwrap_or_default().into())
        } else {
            IpAddr::V6(network.into())
        };
        Cidr { address, bits: self.bits }
    }

    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        let other = Cidr { address: ip, bits: self.bits };
        bits_of(ip).1 == bits_of(self.address).1 && other.network() == self.network()
    }

    pub(super) fn contains_cidr(&self, other: &Cidr) -> bool {
        other.bits >= self.bits && self.contains(other.address)
    }
}

/// An absolute URL or a path, in parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "as their names say")]
pub struct Url {
    pub text: String,
    pub scheme: String,
    pub host: String,
    pub path: String,
    pub query: Vec<(String, String)>,
}

impl Url {
    pub(super) fn parse(text: &str) -> Option<Url> {
        if !text_format::matches("uri", text) {
            return None;
        }
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) if !text.starts_with('/') => (scheme.to_lowercase(), rest),
            _ if text.starts_with('/') => (String::new(), text),
            _ => return None,
        };
        let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, path) = if scheme.is_empty() {
            ("", before)
        } else {
            before.find('/').map_or((before, ""), |at| before.split_at(at))
        };
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        if let Some((_, port)) = host.rsplit_once(':')
            && !host.ends_with(']')
            && !port.bytes().all(|b| b.is_ascii_digit())
        {
            return None;
        }
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(key), decoded(value))
        });
        Some(Url {
            text: text.to_owned(),
            scheme,
            host: host.to_owned(),
            path: path.to_owned(),
            query: query.collect(),
        })
    }

    /// The host without its port.
    pub(super) fn hostname(&self) -> &str {
        if let Some(rest) = self.host.strip_prefix('[') {
            return rest.split(']').next().unwrap_or_default();
        }
        self.host.rsplit_once(':').map_or(&self.host, |(name, _)| name)
    }

    pub(super) fn port(&self) -> &str {
        let after = self.host.rsplit_once(']').map_or(self.host.as_str(), |(_, after)| after);
        after.rsplit_once(':').map_or("", |(_, port)| port)
    }
}

fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let hex: String = bytes.by_ref().take(2).map(char::from).collect();
                match u8::from_str_radix(&hex, 16) {
                    Ok(byte) => out.push(byte),
                    Err(_) => out.extend_from_slice(format!("%{hex}").as_bytes()),
                }
            }
            byte => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A semantic version.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "as their names say")]
pub struct Semver {
    pub text: String,
    pub numbers: [u64; 3],
    pub pre: Vec<String>,
}

impl Semver {
    /// Reads a version; `lenient` takes a leading `v`, missing numbers and leading zeros.
    pub(super) fn parse(text: &str, lenient: bool) -> Option<Semver> {
        let rest = if lenient { text.strip_prefix('v').unwrap_or(text) } else { text };
        let (rest, build) = rest.split_once('+').map_or((rest, None), |(rest, build)| (rest, Some(build)));
        let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
        let mut numbers = [0; 3];
        let parts: Vec<&str> = core.split('.').collect();
        if parts.len() > 3 || parts.len() < 3 && !lenient {
            return None;
        }
        for (at, part) in parts.iter().enumerate() {
            let zeros = part.len() > 1 && part.starts_with('0') && !lenient;
            if part.is_empty() || zeros || !part.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            numbers[at] = part.parse().ok()?;
        }
        let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let numeric = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        let pre: Vec<String> = pre.map(|pre| pre.split('.').map(str::to_owned).collect()).unwrap_or_default();
        let pre_fits = pre.iter().all(|p| word(p) && !(numeric(p) && p.len() > 1 && p.starts_with('0')));
        if !pre_fits || !build.is_none_or(|build| build.split('.').all(word)) {
            return None;
        }
        let mut canonical = format!("{}.{}.{}", numbers[0], numbers[1], numbers[2]);
        if !pre.is_empty() {
            canonical.push_str(&format!("-{}", pre.join(".")));
        }
        if let Some(build) = build {
            canonical.push_str(&format!("+{build}"));
        }
        Some(Semver { text: canonical, numbers, pre })
    }

    fn compare(&self, other: &Semver) -> Ordering {
        let pre = |a: &[String], b: &[String]| match (a.is_empty(), b.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                for (a, b) in a.iter().zip(b) {
                    let ordering = match (a.parse::<u64>(), b.parse::<u64>()) {
                        (Ok(a), Ok(b)) => a.cmp(&b),
                        (Ok(_), Err(_)) => Ordering::Less,
                        (Err(_), Ok(_)) => Ordering::Greater,
                        (Err(_), Err(_)) => a.cmp(b),
                    };
                    if ordering != Ordering::Equal {
                        return ordering;
                    }
                }
                a.len().cmp(&b.len())
            }
        };
        self.numbers.cmp(&other.numbers).then_with(|| pre(&self.pre, &other.pre))
    }
}

/// The formats by the names that expressions use.
const FORMATS: [&str; 14] = [
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
    "quantity",
];

/// A format by its name.
pub(super) fn format_named(name: &str) -> Option<Opaque> {
    FORMATS.iter().find(|known| **known == name).map(|name| Opaque::Format(name))
}

/// What is wrong with a text by a format; none if nothing is.
pub(super) fn format_errors(format: &str, text: &str) -> Option<Vec<String>> {
    let errors = match format {
        "dns1123Label" => NameRule::Label.errors(text, false),
        "dns1123Subdomain" => NameRule::Subdomain.errors(text, false),
        "dns1035Label" => NameRule::Label1035.errors(text, false),
        "dns1123LabelPrefix" => NameRule::Label.errors(text, true),
        "dns1123SubdomainPrefix" => NameRule::Subdomain.errors(text, true),
        "dns1035LabelPrefix" => NameRule::Label1035.errors(text, true),
        "qualifiedName" => crate::selector::label_key_errors(text),
        "labelValue" => crate::selector::label_value_errors(text),
        "quantity" => match text.parse::<Quantity>() {
            Ok(_) => Vec::new(),
            Err(error) => vec![error.to_string()],
        },
        other if text_format::matches(other, text) => Vec::new(),
        other => vec![format!("invalid {other}")],
    };
    (!errors.is_empty()).then_some(errors)
}
