//! The rules of names, labels and ports, with Kubernetes' texts.

use std::net::IpAddr;

use serde_json::Value;

use super::rules::Field;
use crate::error::{FieldError, quote};
use crate::selector::{label_key_errors, label_value_errors};

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;

/// Which names a kind's objects may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// A DNS-1123 subdomain: `web.example-1`.
    Subdomain,
    /// A DNS-1123 label: `web-1`.
    Label,
    /// A DNS-1035 label: like a label, but it begins with a letter.
    Label1035,
    /// Anything that can be one segment of a path.
    PathSegment,
    /// An IP address in canonical form.
    IpAddress,
    /// Anything at all.
    Any,
}

impl NameRule {
    /// What is wrong with a name. A prefix may end with a dash.
    pub fn errors(self, name: &str, prefix: bool) -> Vec<String> {
        let masked = match name.strip_suffix('-') {
            Some(rest) if prefix && name.len() > 1 => format!("{rest}a"),
            _ => name.to_owned(),
        };
        match self {
            NameRule::Subdomain => dns1123_subdomain(&masked),
            NameRule::Label => dns1123_label(&masked),
            NameRule::Label1035 => dns1035_label(&masked),
            NameRule::PathSegment => path_segment(name),
            NameRule::IpAddress => canonical_ip(name),
            NameRule::Any => Vec::new(),
        }
    }
}

fn is_lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(|b| is_lower_alnum(*b));
    edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|b| is_lower_alnum(*b) || *b == b'-')
}

fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// What is wrong with a DNS-1123 label.
pub fn dns1123_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_MAX {
        errors.push(too_long(LABEL_MAX));
    }
    if !is_label(text) {
        if dns1123_subdomain(text).is_empty() {
            // It would do as a subdomain, so the dot is what is wrong.
            errors.push("must not contain dots".to_owned());
        } else {
            errors.push(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                 and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                 '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
                    .to_owned(),
            );
        }
    }
    errors
}

/// What is wrong with a DNS-1123 subdomain.
pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        errors.push(too_long(SUBDOMAIN_MAX));
    }
    if !text.split('.').all(is_label) {
        errors.push(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                .to_owned(),
        );
    }
    errors
}

/// What is wrong with a DNS-1035 label.
pub fn dns1035_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_MAX {
        errors.push(too_long(LABEL_MAX));
    }
    if !is_label(text) || !text.as_bytes().first().is_some_and(u8::is_ascii_lowercase) {
        errors.push(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
             validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
                .to_owned(),
        );
    }
    errors
}

fn path_segment(name: &str) -> Vec<String> {
    if name == "." || name == ".." {
        return vec![format!("may not be '{name}'")];
    }
    ["/", "%"].into_iter().filter(|part| name.contains(part)).map(|part| format!("may not contain '{part}'")).collect()
}

/// What is wrong with a port number.
pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec!["must be between 1 and 65535, inclusive".to_owned()] }
}

/// What is wrong with a port's name.
pub fn port_name(name: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if name.len() > 15 {
        errors.push("must be no more than 15 characters".to_owned());
    }
    if name.is_empty() || !name.bytes().all(|b| is_lower_alnum(b) || b == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// What is wrong with the name of an environment variable.
pub fn env_name(name: &str) -> Vec<String> {
    let allowed = |c: char| (' '..='~').contains(&c) && c != '=';
    if name.chars().all(allowed) && !name.is_empty() {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

/// What is wrong with a key of a ConfigMap or Secret.
pub fn config_key(key: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if key.len() > SUBDOMAIN_MAX {
        errors.push(too_long(SUBDOMAIN_MAX));
    }
    if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        errors.push(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
             'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
                .to_owned(),
        );
    }
    match key {
        "." => errors.push("must not be '.'".to_owned()),
        ".." => errors.push("must not be '..'".to_owned()),
        _ if key.starts_with("..") => errors.push("must not start with '..'".to_owned()),
        _ => {}
    }
    errors
}

/// What is wrong with a UID or GID.
pub fn user_or_group_id(id: i64) -> Vec<String> {
    if (0..=i64::from(i32::MAX)).contains(&id) {
        Vec::new()
    } else {
        vec!["must be between 0 and 2147483647, inclusive".to_owned()]
    }
}

/// What is wrong with a wildcard subdomain: `*.example.com`.
pub fn wildcard_subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        errors.push(too_long(SUBDOMAIN_MAX));
    }
    if !text.strip_prefix("*.").is_some_and(|rest| rest.split('.').all(is_label)) {
        errors.push(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist \
             of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. \
             '*.example.com', regex used for validation is \
             '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                .to_owned(),
        );
    }
    errors
}

/// What is wrong with a name of at least three parts: `mixer.example.com`.
pub fn fully_qualified(text: &str) -> Vec<String> {
    let errors = dns1123_subdomain(text);
    if !errors.is_empty() {
        return vec![errors.join(",")];
    }
    if text.split('.').count() < 3 {
        return vec!["should be a domain with at least three segments separated by dots".to_owned()];
    }
    Vec::new()
}

/// What is wrong with a qualified name: `example.com/thing`.
pub fn qualified(text: &str) -> Vec<String> {
    label_key_errors(text)
}

/// What is wrong with a segment of a path.
pub fn segment(text: &str) -> Vec<String> {
    path_segment(text)
}

const HTTP_PATH_EXTRA: &str = "/-._~%!$&'()*+,;=:";

/// Demands a domain and a path: `acme.io/foo`.
pub fn domain_prefixed_path(field: &Field<'_>) {
    let text = field.text();
    if text.is_empty() {
        field.required("");
        return;
    }
    let Some((host, path)) = text.split_once('/').filter(|(host, path)| !host.is_empty() && !path.is_empty()) else {
        field.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")");
        return;
    };
    for detail in dns1123_subdomain(host) {
        field.report(FieldError::invalid(field.path(), host, detail));
    }
    if !path.chars().all(|c| c.is_ascii_alphanumeric() || HTTP_PATH_EXTRA.contains(c)) {
        let detail = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        field.report(FieldError::invalid(field.path(), path, detail));
    }
}

/// Reads a duration as Go writes them, `1h30m`, in nanoseconds.
pub fn go_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 6e10,
            "h" => 3.6e12,
            _ => return None,
        };
        total += number * unit;
        rest = &rest[end..];
    }
    let fits = !text.is_empty() && text != "-" && text != "+" && total < 9.2e18;
    fits.then_some(if negative { -(total as i64) } else { total as i64 })
}

/// What is wrong with an IP address.
pub fn ip(text: &str) -> Vec<String> {
    match text.parse::<IpAddr>() {
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
        Ok(_) => Vec::new(),
    }
}

/// What is wrong with an IP address that must be written as it would be printed.
pub fn canonical_ip(text: &str) -> Vec<String> {
    match text.parse::<IpAddr>() {
        Ok(ip) if ip.to_string() != text => vec![format!("must be in canonical form ({})", quote(&ip.to_string()))],
        _ => ip(text),
    }
}

/// Reads a network: its address and how many bits of it are fixed.
pub fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let digits = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
    let bits: u8 = bits.parse().ok().filter(|_| digits)?;
    (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, bits))
}

/// What is wrong with a network.
pub fn cidr(text: &str) -> Vec<String> {
    match parse_cidr(text) {
        None => vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()],
        Some(_) => Vec::new(),
    }
}

/// What is wrong with a network that must be written as it would be printed, without bits beyond its prefix.
pub fn canonical_cidr(text: &str) -> Vec<String> {
    let Some((address, bits)) = parse_cidr(text) else { return cidr(text) };
    let masked = mask(address, bits);
    if masked != address {
        return vec!["must not have bits set beyond the prefix length".to_owned()];
    }
    let printed = format!("{address}/{bits}");
    if printed == text { Vec::new() } else { vec![format!("must be in canonical form ({})", quote(&printed))] }
}

/// An address without the bits beyond a prefix.
pub fn mask(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let kept = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::from((u32::from(v4) & kept).to_be_bytes())
        }
        IpAddr::V6(v6) => {
            let kept = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::from((u128::from(v6) & kept).to_be_bytes())
        }
    }
}

/// Validates labels.
pub fn validate_labels(labels: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
    let Some(Value::Object(map)) = labels else { return };
    for (key, value) in map {
        for detail in label_key_errors(key) {
            errors.push(FieldError::invalid(path, key.as_str(), detail));
        }
        let value = value.as_str().unwrap_or_default();
        for detail in label_value_errors(value) {
            errors.push(FieldError::invalid(path, value, detail));
        }
    }
}

/// Validates a `metav1.LabelSelector`.
pub fn validate_label_selector(selector: &Value, path: &str, errors: &mut Vec<FieldError>) {
    validate_labels(selector.get("matchLabels"), &format!("{path}.matchLabels"), errors);
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    for (at, expression) in expressions.into_iter().flatten().enumerate() {
        let path = format!("{path}.matchExpressions[{at}]");
        let values = expression.get("values").and_then(Value::as_array).map_or(0, Vec::len);
        let text = |key: &str| expression.get(key).and_then(Value::as_str).unwrap_or_default();
        match text("operator") {
            "In" | "NotIn" if values == 0 => errors.push(FieldError::required(
                format!("{path}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if values > 0 => errors.push(FieldError::forbidden(
                format!("{path}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "Exists" | "DoesNotExist" => {}
            other => {
                errors.push(FieldError::invalid(format!("{path}.operator"), other, "not a valid selector operator"))
            }
        }
        for detail in label_key_errors(text("key")) {
            errors.push(FieldError::invalid(format!("{path}.key"), text("key"), detail));
        }
        let values = expression.get("values").and_then(Value::as_array);
        for (at, value) in values.into_iter().flatten().enumerate() {
            let value = value.as_str().unwrap_or_default();
            for detail in label_value_errors(value) {
                errors.push(FieldError::invalid(format!("{path}.values[{at}]"), value, detail));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_as_kubernetes_judges_them() {
        for good in ["a", "a-b.c", "1.2"] {
            assert!(NameRule::Subdomain.errors(good, false).is_empty(), "{good}");
        }
        for bad in ["", "A", "a_b", "-a", "a-", "a..b", "ä"] {
            assert!(!NameRule::Subdomain.errors(bad, false).is_empty(), "{bad}");
        }
        assert!(NameRule::Subdomain.errors("web-", true).is_empty());
        assert_eq!(NameRule::Label.errors("a.b", false), ["must not contain dots"]);
        assert!(!NameRule::Label1035.errors("1a", false).is_empty());
        assert!(!NameRule::Label.errors(&"a".repeat(64), false).is_empty());
        assert_eq!(NameRule::PathSegment.errors("a/b", false), ["may not contain '/'"]);
        assert!(port_name("http").is_empty());
        assert_eq!(port_name("a--b"), ["must not contain consecutive hyphens"]);
        assert_eq!(port_name("80"), ["must contain at least one letter (a-z)"]);
        assert!(!env_name("a=b").is_empty());
        assert!(!config_key("a/b").is_empty());
    }
}
