//! Subjects with several organisations, which rcgen's names, being maps, cannot hold. In: a certificate with some
//! subject, the right one, and the authority's key. Out: the same certificate with the right subject, signed anew.

use rcgen::SigningKey;
use x509_parser::prelude::{FromDer, X509Certificate};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const BIT_STRING: u8 = 0x03;
/// 2.5.4.3
const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];
/// 2.5.4.10
const ORGANIZATION: [u8; 3] = [0x55, 0x04, 0x0a];

/// The certificate `der` with this user and these groups as its subject; none if it cannot be read or signed.
pub(super) fn with_subject(der: &[u8], user: &str, groups: &[String], key: &impl SigningKey) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let body = certificate.tbs_certificate.as_ref();
    let old = certificate.subject().as_raw();
    // The subject is a part of the body: where it begins in it.
    let at = (old.as_ptr() as usize).checked_sub(body.as_ptr() as usize)?;
    let header = header_bytes(body)?;
    let (before, rest) = (body.get(header..at)?, body.get(at + old.len()..)?);
    let body = value(SEQUENCE, &[before, &subject(user, groups), rest].concat());
    // The algorithm stands in the body as it stands after it.
    let (_, algorithm) = split(der.get(header_bytes(der)?..)?)?;
    let (algorithm, _) = split(algorithm)?;
    let signature = key.sign(&body).ok()?;
    // No bits of the last byte are unused.
    let signature = value(BIT_STRING, &[&[0][..], &signature].concat());
    Some(value(SEQUENCE, &[&body[..], algorithm, &signature].concat()))
}

fn subject(user: &str, groups: &[String]) -> Vec<u8> {
    let part = |kind: &[u8], text: &str| {
        let pair = [value(OBJECT_ID, kind), value(UTF8_STRING, text.as_bytes())].concat();
        value(SET, &value(SEQUENCE, &pair))
    };
    let mut parts: Vec<Vec<u8>> = groups.iter().map(|group| part(&ORGANIZATION, group)).collect();
    parts.push(part(&COMMON_NAME, user));
    value(SEQUENCE, &parts.concat())
}

/// A DER value: tag, length, contents.
fn value(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match u8::try_from(contents.len()) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = contents.len().to_be_bytes();
            let digits = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            // At most eight.
            out.push(0x80 | digits.len() as u8);
            out.extend_from_slice(digits);
        }
    }
    out.extend_from_slice(contents);
    out
}

/// How many bytes tag and length of the value at the start take.
fn header_bytes(der: &[u8]) -> Option<usize> {
    match *der.get(1)? {
        length @ 0x80.. => Some(2 + usize::from(length & 0x7f)),
        _ => Some(2),
    }
}

/// The value at the start, and what follows it.
fn split(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let header = header_bytes(der)?;
    let length = match header {
        2 => usize::from(*der.get(1)?),
        _ => {
            der.get(2..header)?.iter().try_fold(0usize, |sum, byte| Some(sum.checked_mul(256)? + usize::from(*byte)))?
        }
    };
    der.split_at_checked(header.checked_add(length)?)
}
