//! Kubernetes' libraries: quantities, addresses, URLs, versions, formats.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Answer, Call, Function, overflow};
use crate::cel::EvalError;
use crate::cel::libraries::{self, Cidr, Opaque, Semver, Url};
use crate::cel::value::{Key, Map, Val};
use crate::quantity::Quantity;

fn opaque<'a>(value: Opaque) -> Val<'a> {
    Val::Opaque(Arc::new(value))
}

fn quantity(call: &Call<'_, '_>, at: usize) -> Result<Quantity, EvalError> {
    match call.arg(at)? {
        Val::Opaque(value) => match &**value {
            Opaque::Quantity(quantity) => Ok(*quantity),
            _ => Err(EvalError::NoOverload),
        },
        Val::Int(i) if at == 1 => parsed_quantity(&i.to_string()),
        _ => Err(EvalError::NoOverload),
    }
}

fn parsed_quantity(text: &str) -> Result<Quantity, EvalError> {
    Quantity::parse(text).map_err(|error| EvalError::other(error.to_string()))
}

fn address(call: &Call<'_, '_>, at: usize) -> Result<IpAddr, EvalError> {
    match call.arg(at)? {
        Val::Opaque(value) => match &**value {
            Opaque::Ip(ip) => Ok(*ip),
            _ => Err(EvalError::NoOverload),
        },
        Val::Str(text) => parsed_ip(text),
        _ => Err(EvalError::NoOverload),
    }
}

fn parsed_ip(text: &str) -> Result<IpAddr, EvalError> {
    libraries::ip(text)
        .ok_or_else(|| EvalError::other(format!("IP Address {text:?} parse error during conversion from string")))
}

fn range(call: &Call<'_, '_>, at: usize) -> Result<Cidr, EvalError> {
    match call.arg(at)? {
        Val::Opaque(value) => match &**value {
            Opaque::Cidr(cidr) => Ok(*cidr),
            _ => Err(EvalError::NoOverload),
        },
        Val::Str(text) => parsed_cidr(text),
        _ => Err(EvalError::NoOverload),
    }
}

fn parsed_cidr(text: &str) -> Result<Cidr, EvalError> {
    Cidr::parse(text).ok_or_else(|| EvalError::other("network address parse error during conversion from string"))
}

fn of_url<'a>(call: &Call<'a, '_>, read: fn(&Url) -> &str) -> Answer<'a> {
    match call.arg(0)? {
        Val::Opaque(value) => match &**value {
            Opaque::Url(url) => Ok(Val::text(read(url))),
            _ => Err(EvalError::NoOverload),
        },
        _ => Err(EvalError::NoOverload),
    }
}

fn lenient(call: &Call<'_, '_>) -> bool {
    call.args.get(1).and_then(Val::as_bool).unwrap_or_default()
}

fn number_of<'a>(call: &Call<'a, '_>, at: usize) -> Answer<'a> {
    match call.arg(0)? {
        Val::Opaque(value) => match &**value {
            Opaque::Semver(version) => {
                Ok(Val::Int(i64::try_from(version.numbers[at]).map_err(|_| overflow("integer"))?))
            }
            _ => Err(EvalError::NoOverload),
        },
        _ => Err(EvalError::NoOverload),
    }
}

fn compared(call: &Call<'_, '_>) -> Result<Ordering, EvalError> {
    call.arg(0)?.compare(call.arg(1)?).ok_or(EvalError::NoOverload)
}

pub(super) fn find(name: &str, member: bool) -> Option<Function> {
    if let Some(format) = name.strip_prefix("format.").filter(|_| !member) {
        return format_function(format);
    }
    Some(match (name, member) {
        ("quantity", false) => |call| parsed_quantity(call.text(0)?).map(|q| opaque(Opaque::Quantity(q))),
        ("isQuantity", false) => |call| Ok(Val::Bool(Quantity::parse(call.text(0)?).is_ok())),
        ("sign", true) => |call| Ok(Val::Int(i64::from(quantity(call, 0)?.signum()))),
        ("isInteger", true) => |call| Ok(Val::Bool(whole(&quantity(call, 0)?).is_some())),
        ("asInteger", true) => |call| {
            whole(&quantity(call, 0)?).map(Val::Int).ok_or_else(|| EvalError::other("cannot convert value to integer"))
        },
        ("asApproximateFloat", true) => |call| {
            let quantity = quantity(call, 0)?;
            let milli = quantity.milli_value();
            let exact = if milli == i64::MAX { quantity.value() as f64 } else { milli as f64 / 1000.0 };
            Ok(Val::Double(exact))
        },
        ("add", true) => |call| Ok(opaque(Opaque::Quantity(quantity(call, 0)?.add(&quantity(call, 1)?)))),
        ("sub", true) => |call| Ok(opaque(Opaque::Quantity(quantity(call, 0)?.sub(&quantity(call, 1)?)))),
        ("isLessThan", true) => |call| Ok(Val::Bool(compared(call)?.is_lt())),
        ("isGreaterThan", true) => |call| Ok(Val::Bool(compared(call)?.is_gt())),
        ("compareTo", true) => |call| Ok(Val::Int(compared(call)? as i64)),
        ("ip", false) => |call| parsed_ip(call.text(0)?).map(|ip| opaque(Opaque::Ip(ip))),
        ("ip", true) => |call| Ok(opaque(Opaque::Ip(range(call, 0)?.address))),
        ("isIP", false) => |call| Ok(Val::Bool(libraries::ip(call.text(0)?).is_some())),
        ("ip.isCanonical", false) => |call| {
            let text = call.text(0)?;
            Ok(Val::Bool(parsed_ip(text)?.to_string() == text))
        },
        ("family", true) => |call| Ok(Val::Int(if address(call, 0)?.is_ipv4() { 4 } else { 6 })),
        ("isUnspecified", true) => |call| Ok(Val::Bool(address(call, 0)?.is_unspecified())),
        ("isLoopback", true) => |call| Ok(Val::Bool(address(call, 0)?.is_loopback())),
        ("isLinkLocalMulticast", true) => |call| Ok(Val::Bool(link_local_multicast(address(call, 0)?))),
        ("isLinkLocalUnicast", true) => |call| Ok(Val::Bool(link_local(address(call, 0)?))),
        ("isGlobalUnicast", true) => |call| {
            let ip = address(call, 0)?;
            let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
            Ok(Val::Bool(
                !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local(ip) || broadcast),
            ))
        },
        ("cidr", false) => |call| parsed_cidr(call.text(0)?).map(|cidr| opaque(Opaque::Cidr(cidr))),
        ("isCIDR", false) => |call| Ok(Val::Bool(Cidr::parse(call.text(0)?).is_some())),
        ("containsIP", true) => |call| Ok(Val::Bool(range(call, 0)?.contains(address(call, 1)?))),
        ("containsCIDR", true) => |call| Ok(Val::Bool(range(call, 0)?.contains_cidr(&range(call, 1)?))),
        ("masked", true) => |call| Ok(opaque(Opaque::Cidr(range(call, 0)?.masked()))),
        ("prefixLength", true) => |call| Ok(Val::Int(i64::from(range(call, 0)?.bits))),
        ("url", false) => |call| {
            let text = call.text(0)?;
            let url = Url::parse(text).ok_or_else(|| {
                EvalError::other(format!(
                    "URL parse error during conversion from string: parse {text:?}: invalid URI for request"
                ))
            })?;
            Ok(opaque(Opaque::Url(url)))
        },
        ("isURL", false) => |call| Ok(Val::Bool(Url::parse(call.text(0)?).is_some())),
        ("getScheme", true) => |call| of_url(call, |url| &url.scheme),
        ("getHost", true) => |call| of_url(call, |url| &url.host),
        ("getHostname", true) => |call| of_url(call, |url| url.hostname()),
        ("getPort", true) => |call| of_url(call, |url| url.port()),
        ("getEscapedPath", true) => |call| of_url(call, |url| &url.path),
        ("getQuery", true) => query,
        ("semver", false) => |call| {
            let version = Semver::parse(call.text(0)?, lenient(call));
            version
                .map(|version| opaque(Opaque::Semver(version)))
                .ok_or_else(|| EvalError::other("no Major.Minor.Patch elements found"))
        },
        ("isSemver", false) => |call| Ok(Val::Bool(Semver::parse(call.text(0)?, lenient(call)).is_some())),
        ("major", true) => |call| number_of(call, 0),
        ("minor", true) => |call| number_of(call, 1),
        ("patch", true) => |call| number_of(call, 2),
        ("validate", true) => validate,
        _ => return None,
    })
}

/// The number a quantity is, if it has no fraction.
fn whole(quantity: &Quantity) -> Option<i64> {
    let value = quantity.value();
    Quantity::parse(&value.to_string()).ok().filter(|back| back == quantity).map(|_| value)
}

fn link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn query<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    let Val::Opaque(value) = call.arg(0)? else { return Err(EvalError::NoOverload) };
    let Opaque::Url(url) = &**value else { return Err(EvalError::NoOverload) };
    let mut all: BTreeMap<Key, Vec<Val<'a>>> = BTreeMap::new();
    for (key, value) in &url.query {
        all.entry(Key::Str(Arc::from(key.as_str()))).or_default().push(Val::text(value.as_str()));
    }
    Ok(Val::Map(Map::Own(Arc::new(all.into_iter().map(|(key, values)| (key, Val::list(values))).collect()))))
}

fn validate<'a>(call: &Call<'a, '_>) -> Answer<'a> {
    let Val::Opaque(value) = call.arg(0)? else { return Err(EvalError::NoOverload) };
    let Opaque::Format(format) = &**value else { return Err(EvalError::NoOverload) };
    let errors = libraries::format_errors(format, call.text(1)?);
    Ok(Val::Optional(errors.map(|errors| Arc::new(Val::list(errors.into_iter().map(Val::text).collect())))))
}

/// A format by the name of the function that gives it: `format.uri`.
fn format_function(name: &str) -> Option<Function> {
    if name == "named" {
        return Some(|call| {
            let found = libraries::format_named(call.text(0)?);
            Ok(Val::Optional(found.map(|format| Arc::new(opaque(format)))))
        });
    }
    libraries::format_named(name)?;
    Some(|call| {
        let name = call.name.strip_prefix("format.").unwrap_or_default();
        libraries::format_named(name).map(opaque).ok_or(EvalError::NoOverload)
    })
}
