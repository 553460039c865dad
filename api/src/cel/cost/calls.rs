//! What calls of functions cost, and how large what they give may be.

use super::{Bound, Found, Kind, NEW_LIST, NEW_STRUCT, Seen, TRAVERSAL};

/// Each part of a pattern is thought to be four characters long.
const PATTERN: f64 = 0.25;
/// The longest pattern behind a named format.
const FORMAT_PATTERN: f64 = 128.0;
/// The longest description of a format.
const FORMAT_BYTES: u64 = 64;
/// An address or range of them as bytes.
const ADDRESS: Bound = Bound { low: 4, high: 16 };

/// A call: its cost with that of its arguments, and what is known of its value.
pub(super) fn estimate<'x>(name: &str, args: &[Found<'x>], gives: Kind) -> Found<'x> {
    let given = args.iter().fold(Bound::ZERO, |sum, (cost, _)| sum.plus(*cost));
    let seen = |at: usize| args.get(at).map(|(_, seen)| *seen).unwrap_or_default();
    let (cost, value) = call(name, args.len(), &seen, gives);
    (given.plus(cost), Seen { kind: if value.kind == Kind::Unknown { gives } else { value.kind }, ..value })
}

fn call<'x>(name: &str, count: usize, seen: &dyn Fn(usize) -> Seen<'x>, gives: Kind) -> Found<'x> {
    let size = |at: usize| seen(at).size();
    let once = Bound::fixed(1);
    let plain = |cost: Bound| (cost, Seen::default());
    let sized = |cost: Bound, size: Bound| (cost, Seen { size: Some(size), ..Seen::default() });
    match name {
        "_==_" | "_!=_" if name == "_==_" && seen(0).kind == Kind::Opaque && seen(1).kind == Kind::Opaque => {
            plain(Bound { low: 1, high: FORMAT_BYTES }.by(TRAVERSAL))
        }
        "_==_" | "_!=_" => plain(compared(size(0), size(1))),
        "_<_" | "_<=_" | "_>_" | "_>=_" => match (seen(0).kind, seen(1).kind) {
            (Kind::Text, _) | (_, Kind::Text) => plain(compared(size(0), size(1))),
            (Kind::Unknown, Kind::Unknown) => plain(compared(size(0), size(1)).union(once)),
            _ => plain(once),
        },
        "_+_" => added(&seen(0), &seen(1), gives),
        "_[_]" => (once, super::value_of(&seen(0))),
        "@in" => match seen(1).kind {
            Kind::Map => plain(once),
            _ => plain(size(1)),
        },
        "dyn" => (once, seen(0)),
        "startsWith" | "endsWith" => plain(size(1).by(TRAVERSAL)),
        "contains" => plain(size(0).by(TRAVERSAL).times(size(1).by(TRAVERSAL))),
        "matches" => plain(pattern(size(0), size(1))),
        "find" | "findAll" => sized(pattern(size(0), size(1)), Bound { low: 0, high: size(0).high }),
        "format" => plain(size(0).by(TRAVERSAL)),
        "bytes" | "string" if seen(0).kind == Kind::Text => {
            let of = size(0);
            let made = if name == "bytes" {
                Bound { low: of.low, high: of.high.saturating_mul(4) }
            } else {
                Bound { low: of.low / 4, high: of.high }
            };
            sized(of.by(TRAVERSAL), made)
        }
        "strings.quote" => {
            let of = size(0);
            let made = Bound { low: of.low + 2, high: of.high.saturating_mul(2).saturating_add(2) };
            sized(of.by(TRAVERSAL), made)
        }
        "lowerAscii" | "upperAscii" | "substring" | "trim" | "url" | "jsonpatch.escapeKey" => {
            sized(size(0).by(TRAVERSAL), size(0))
        }
        "replace" => sized(size(0).by(2.0 * TRAVERSAL), replaced(size(0), size(1), size(2))),
        "split" => {
            let most = match seen(2).size {
                Some(limit) if count > 2 => limit.high.max(size(0).high),
                _ => size(0).high,
            };
            sized(size(0).by(2.0 * TRAVERSAL), Bound { low: 0, high: most })
        }
        "join" => joined(&seen(0), (count > 1).then(|| size(1))),
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => plain(gone_over(&seen(0))),
        "sets.contains" | "sets.intersects" => sized(size(0).times(size(1)).plus(once), once),
        "sets.equivalent" => sized(size(0).times(size(1)).by(2.0).plus(once), once),
        "sort" | "distinct" | "@sortByAssociatedKeys" => sized(size(0).times(size(0)).plus(once), size(0)),
        "slice" | "reverse" | "flatten" => sized(size(0).plus(Bound::fixed(NEW_LIST)), size(0)),
        "isIP" | "isCIDR" | "cidr" | "quantity" | "isQuantity" | "semver" | "isSemver" => plain(size(0).by(TRAVERSAL)),
        "ip" if seen(0).kind == Kind::Text || seen(0).kind == Kind::Unknown => plain(size(0).by(TRAVERSAL)),
        "ip.isCanonical" => plain(size(0).by(2.0 * TRAVERSAL)),
        "containsIP" | "containsCIDR" => {
            let read = if seen(1).kind == Kind::Opaque { Bound::ZERO } else { size(1).by(TRAVERSAL) };
            let masked = if name == "containsCIDR" { ADDRESS.by(TRAVERSAL).plus(once) } else { Bound::ZERO };
            plain(ADDRESS.plus(ADDRESS).by(TRAVERSAL).plus(masked).plus(read))
        }
        "validate" => plain(size(1).by(TRAVERSAL).by(FORMAT_PATTERN * PATTERN)),
        "check" => plain(Bound::fixed(350_000)),
        "fieldSelector" | "labelSelector" => {
            let requirements = size(1).by(0.5).by((NEW_LIST + NEW_STRUCT) as f64);
            plain(Bound::fixed(NEW_LIST).plus(size(1).by(TRAVERSAL)).plus(requirements))
        }
        _ => plain(once),
    }
}

/// Two values are compared to the end of the shorter one.
fn compared(a: Bound, b: Bound) -> Bound {
    let most = a.high.min(b.high);
    Bound { low: u64::from(most > 0), high: most }.by(TRAVERSAL)
}

fn pattern(text: Bound, pattern: Bound) -> Bound {
    // An empty text may have an expensive pattern, too.
    text.plus(Bound::fixed(1)).by(TRAVERSAL).times(pattern.by(PATTERN))
}

fn added<'x>(a: &Seen<'x>, b: &Seen<'x>, gives: Kind) -> Found<'x> {
    let size = a.size().plus(b.size());
    let entries = a.entries.zip(b.entries).map(|((a, b), (c, d))| (a.union(c), b.union(d)));
    let grown = Seen { size: Some(size), entries, ..Seen::default() };
    match gives {
        Kind::Text => (size.by(TRAVERSAL), grown),
        Kind::List => (Bound::fixed(1), grown),
        Kind::Unknown => (size.by(TRAVERSAL).union(Bound::fixed(1)), grown),
        _ => (Bound::fixed(1), Seen::default()),
    }
}

/// The size of a text of which parts are replaced, the longest and the shortest way.
fn replaced(text: Bound, old: Bound, new: Bound) -> Bound {
    let (longest, kept) = match old.low {
        0 => (text.high.saturating_add(1), text.high),
        _ if new.high <= old.low => (0, text.high),
        low => (text.high.div_ceil(low), 0),
    };
    let (shortest, left) = match old.high {
        0 => (text.low.saturating_add(1), text.low),
        _ if old.high <= new.low => (0, text.low),
        high => (text.low.div_ceil(high), 0),
    };
    Bound { low: shortest, high: longest }.times(new).plus(Bound { low: left, high: kept })
}

fn joined<'x>(list: &Seen<'x>, separator: Option<Bound>) -> Found<'x> {
    let count = list.size();
    let mut size = count.times(super::value_of(list).size());
    if let Some(separator) = separator {
        let times = Bound { low: count.low.saturating_sub(1), high: count.high.saturating_sub(1) };
        size = size.plus(separator.times(times));
    }
    (size.by(TRAVERSAL), Seen { size: Some(size), ..Seen::default() })
}

/// Each item is looked at once, and all of it if it is a text.
fn gone_over(list: &Seen<'_>) -> Bound {
    if list.kind != Kind::List {
        return list.size().by(TRAVERSAL);
    }
    let item = super::value_of(list);
    let each = if item.kind == Kind::Text { item.size().by(TRAVERSAL) } else { Bound::ZERO };
    list.size().times(Bound::fixed(1).plus(each))
}
