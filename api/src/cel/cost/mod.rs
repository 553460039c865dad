//! What an expression costs at most, told from its schema before there is any object.
//!
//! In: a program and how large what it looks at may become ([`Extent`], which follows from `maxLength`, `maxItems`,
//! `maxProperties` and from what fits into one request). Out: the highest cost of one evaluation, in the units in which
//! Kubernetes counts, so that a rule is refused here exactly if it is refused there.

mod bound;
mod calls;
mod extent;

use super::lower::{Constant, Fold, Node};
use super::{Program, Type, parse};
pub use bound::Bound;
pub use extent::Extent;

/// Looking up a name or a field.
const LOOKUP: u64 = 1;
const NEW_LIST: u64 = 10;
const NEW_MAP: u64 = 30;
const NEW_STRUCT: u64 = 40;
/// Going over a text costs so much a byte.
const TRAVERSAL: f64 = 0.1;

/// What sort of value it is, as far as costs differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Kind {
    /// Of a fixed size.
    Scalar,
    /// A text, or bytes.
    Text,
    List,
    Map,
    Struct,
    /// A value of a library.
    Opaque,
    /// Known at run time only.
    #[default]
    Unknown,
}

impl Kind {
    fn of(ty: &Type) -> Kind {
        match ty {
            Type::Bool | Type::Int | Type::Uint | Type::Double | Type::Duration | Type::Timestamp => Kind::Scalar,
            Type::String | Type::Bytes => Kind::Text,
            Type::List(_) => Kind::List,
            Type::Map(..) => Kind::Map,
            Type::Object(_) | Type::Made(_) => Kind::Struct,
            Type::Optional(of) if Kind::of(of) == Kind::Scalar => Kind::Scalar,
            Type::Opaque(_) | Type::Optional(_) | Type::Type | Type::Null => Kind::Opaque,
            Type::Dyn => Kind::Unknown,
        }
    }
}

/// What is known of a value.
#[derive(Debug, Clone, Copy, Default)]
struct Seen<'x> {
    kind: Kind,
    /// Where in the schema it stands.
    extent: Option<&'x Extent>,
    /// How large it was found to be.
    size: Option<Bound>,
    /// How large the keys and values of a list or map that is made here are.
    entries: Option<(Bound, Bound)>,
}

impl Seen<'_> {
    fn kind(kind: Kind) -> Self {
        Self { kind, ..Self::default() }
    }

    fn known_size(&self) -> Option<Bound> {
        let declared = self.extent.map(|extent| Bound { low: 0, high: extent.most });
        self.size.or(declared).or((self.kind == Kind::Scalar).then_some(Bound::fixed(1)))
    }

    fn size(&self) -> Bound {
        self.known_size().unwrap_or(Bound::UNKNOWN)
    }
}

type Found<'x> = (Bound, Seen<'x>);

/// The highest cost of one evaluation, where `self` and `oldSelf` are of this extent.
pub fn estimate(program: &Program, extent: &Extent) -> u64 {
    let work = || Estimator { root: extent, names: &program.variables, slots: Vec::new() }.visit(&program.root).0.high;
    parse::with_stack(super::eval::STACK_BYTES, work).unwrap_or(u64::MAX)
}

struct Estimator<'x, 'p> {
    root: &'x Extent,
    names: &'p [String],
    slots: Vec<Seen<'x>>,
}

impl<'x> Estimator<'x, '_> {
    fn visit(&mut self, node: &Node) -> Found<'x> {
        match node {
            Node::Constant(constant) => (Bound::ZERO, of_constant(constant)),
            Node::Slot(at) => (Bound::fixed(LOOKUP), self.slots.get(*at).copied().unwrap_or_default()),
            Node::Global(at) => {
                let root = matches!(self.names[*at].as_str(), "self" | "oldSelf").then_some(self.root);
                let kind = root.map(Extent::kind).unwrap_or_default();
                (Bound::fixed(LOOKUP), Seen { extent: root, ..Seen::kind(kind) })
            }
            Node::Field { of, name, optional } => {
                let (cost, of) = self.visit(of);
                if *optional {
                    return (cost.plus(Bound::fixed(1)), Seen::default());
                }
                let step = if matches!(of.kind, Kind::Map | Kind::Struct) { Bound::fixed(LOOKUP) } else { Bound::ZERO };
                (cost.plus(step), declared(of.extent.and_then(|extent| extent.field(name))))
            }
            // Asking whether a field is there is free; the way to it is not.
            Node::Has { of, .. } => (self.visit(of).0, Seen::kind(Kind::Scalar)),
            Node::And(a, b) | Node::Or(a, b) => {
                let (a, b) = (self.visit(a).0, self.visit(b).0);
                (Bound { low: a.low, high: a.plus(b).high }, Seen::kind(Kind::Scalar))
            }
            Node::If(condition, yes, no) => {
                let condition = self.visit(condition).0;
                let ((yes_cost, yes), (no_cost, no)) = (self.visit(yes), self.visit(no));
                let entries = yes.entries.zip(no.entries).map(|((a, b), (c, d))| (a.union(c), b.union(d)));
                let kind = if yes.kind == no.kind { yes.kind } else { Kind::Unknown };
                let seen = Seen { kind, extent: None, size: Some(yes.size().union(no.size())), entries };
                (condition.plus(yes_cost.union(no_cost)), seen)
            }
            Node::List(items) => {
                let of = items.iter().map(|(item, _)| self.visit(item)).collect::<Vec<_>>();
                let cost = of.iter().fold(Bound::fixed(NEW_LIST), |sum, (cost, _)| sum.plus(*cost));
                let entry = of.iter().map(|(_, seen)| seen.size()).reduce(Bound::union).unwrap_or(Bound::ZERO);
                let size = Some(Bound::fixed(items.len() as u64));
                (cost, Seen { size, entries: Some((Bound::fixed(1), entry)), ..Seen::kind(Kind::List) })
            }
            Node::Map(entries) => {
                let mut cost = Bound::fixed(NEW_MAP);
                let (mut keys, mut values): (Option<Bound>, Option<Bound>) = (None, None);
                for (key, value, _) in entries {
                    let ((key_cost, key), (value_cost, value)) = (self.visit(key), self.visit(value));
                    cost = cost.plus(key_cost).plus(value_cost);
                    keys = Some(keys.map_or(key.size(), |known| known.union(key.size())));
                    values = Some(values.map_or(value.size(), |known| known.union(value.size())));
                }
                let size = Some(Bound::fixed(entries.len() as u64));
                let entries = Some((keys.unwrap_or(Bound::ZERO), values.unwrap_or(Bound::ZERO)));
                (cost, Seen { size, entries, ..Seen::kind(Kind::Map) })
            }
            Node::Struct(_, fields) => {
                let cost = fields.iter().fold(Bound::fixed(NEW_STRUCT), |sum, field| sum.plus(self.visit(&field.1).0));
                (cost, Seen::kind(Kind::Struct))
            }
            Node::Call { name, args, gives, .. } => {
                let args: Vec<Found<'x>> = args.iter().map(|arg| self.visit(arg)).collect();
                calls::estimate(name, &args, Kind::of(gives))
            }
            Node::Fold { kind, range, first, two, filter, body } => {
                self.fold(*kind, range, (*first, *two), filter.as_deref(), body)
            }
            Node::Bind { value, slot, body } => {
                let (value_cost, value) = self.visit(value);
                let (cost, seen) = self.within(*slot, &[value], body);
                // A name is given by going over an empty list.
                (
                    Bound::fixed(NEW_LIST).plus(value_cost).plus(cost),
                    Seen { extent: None, size: seen.known_size(), ..seen },
                )
            }
            Node::OptMap { target, slot, body, .. } => {
                let target = self.visit(target).0;
                let cost = self.within(*slot, &[Seen::default()], body).0;
                // hasValue(), and either value(), a name, the body and optional.of(), or optional.none().
                let some = Bound::fixed(NEW_LIST + 2).plus(target).plus(cost);
                (target.plus(Bound::fixed(1)).plus(some.union(Bound::fixed(1))), Seen::kind(Kind::Opaque))
            }
        }
    }

    fn within(&mut self, slot: usize, values: &[Seen<'x>], body: &Node) -> Found<'x> {
        self.slots.truncate(slot);
        self.slots.extend_from_slice(values);
        let found = self.visit(body);
        self.slots.truncate(slot);
        found
    }

    /// A fold is a loop with a condition, a step and a result, which cost as they do where it is written out.
    fn fold(
        &mut self,
        kind: Fold,
        range: &Node,
        (first, two): (usize, bool),
        filter: Option<&Node>,
        body: &Node,
    ) -> Found<'x> {
        let (range_cost, range) = self.visit(range);
        let count = range.size();
        let values = if two { vec![key_of(&range), value_of(&range)] } else { vec![single_of(&range)] };
        let (body, made) = self.within(first, &values, body);
        let name = Bound::fixed(LOOKUP);
        let (start, condition, step, result) = match kind {
            Fold::All => (0, 2, Bound { low: 1, high: body.plus(name).high }, 1),
            Fold::Exists => (0, 3, Bound { low: 1, high: body.plus(name).high }, 1),
            Fold::ExistsOne => (0, 0, body.plus(Bound { low: 1, high: 2 }), 2),
            Fold::Filter => (NEW_LIST, 0, body.plus(Bound { low: 1, high: NEW_LIST + 3 }), 1),
            Fold::Map => (NEW_LIST, 0, body.plus(Bound::fixed(NEW_LIST + 2)), 1),
            // A list of keys, by which the items are sorted.
            Fold::SortBy => (2 * NEW_LIST + 2, 0, body.plus(Bound::fixed(NEW_LIST + 2)).plus(count), 1),
            Fold::TransformMap => (NEW_MAP, 0, body.plus(Bound::fixed(3)), 1),
            Fold::TransformEntry => (NEW_MAP, 0, body.plus(Bound::fixed(2)), 1),
        };
        let step = match filter {
            Some(filter) => {
                let filter = self.within(first, &values, filter).0;
                filter.plus(step.union(name))
            }
            None => step,
        };
        let each = step.plus(Bound::fixed(condition));
        let cost = range_cost.plus(Bound::fixed(start + result)).plus(count.times(each));
        let seen = match kind {
            Fold::All | Fold::Exists | Fold::ExistsOne => {
                Seen { size: Some(Bound::fixed(1)), ..Seen::kind(Kind::Scalar) }
            }
            Fold::Filter | Fold::SortBy => {
                let single = single_of(&range).size();
                Seen { size: Some(count), entries: Some((Bound::fixed(1), single)), ..Seen::kind(Kind::List) }
            }
            Fold::Map => {
                let entries = Some((Bound::fixed(1), made.size()));
                Seen { size: Some(count), entries, ..Seen::kind(Kind::List) }
            }
            Fold::TransformMap | Fold::TransformEntry => Seen { size: Some(count), ..Seen::kind(Kind::Map) },
        };
        (cost, seen)
    }
}

fn of_constant(constant: &Constant) -> Seen<'static> {
    let (kind, size) = match constant {
        Constant::Str(text) => (Kind::Text, text.chars().count()),
        Constant::Bytes(bytes) => (Kind::Text, bytes.len()),
        Constant::Type(_) => return Seen::kind(Kind::Opaque),
        _ => (Kind::Scalar, 1),
    };
    Seen { size: Some(Bound::fixed(size as u64)), ..Seen::kind(kind) }
}

fn declared(extent: Option<&Extent>) -> Seen<'_> {
    Seen { extent, ..Seen::kind(extent.map(Extent::kind).unwrap_or_default()) }
}

fn key_of<'x>(range: &Seen<'x>) -> Seen<'x> {
    let size = range.entries.map(|(key, _)| key);
    match range.kind {
        Kind::List => Seen { size, ..Seen::kind(Kind::Scalar) },
        _ => Seen { size, ..declared(range.extent.map(|_| &extent::KEY)) },
    }
}

fn value_of<'x>(range: &Seen<'x>) -> Seen<'x> {
    let size = range.entries.map(|(_, value)| value);
    Seen { size, ..declared(range.extent.and_then(Extent::each)) }
}

/// What a fold with one name goes over: items of a list, keys of a map.
fn single_of<'x>(range: &Seen<'x>) -> Seen<'x> {
    if range.kind == Kind::List { value_of(range) } else { key_of(range) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cel::{Environment, compile};

    fn cost(schema: &Value, rule: &str) -> u64 {
        let ty = Type::of_structural(schema, false).unwrap();
        let environment = Environment::new().with("self", ty.clone()).with("oldSelf", ty);
        let program = compile(rule, &environment).unwrap_or_else(|error| panic!("{rule}: {error}"));
        estimate(&program, &Extent::of_structural(schema, false).unwrap())
    }

    fn list(items: Value, most: Option<u64>) -> Value {
        let mut schema = json!({"type": "array", "items": items});
        if let Some(most) = most {
            schema["maxItems"] = json!(most);
        }
        schema
    }

    fn map(values: Value, most: Option<u64>) -> Value {
        let mut schema = json!({"type": "object", "additionalProperties": values});
        if let Some(most) = most {
            schema["maxProperties"] = json!(most);
        }
        schema
    }

    #[test]
    fn costs_are_those_that_kubernetes_estimates() {
        let (number, text) = (json!({"type": "number"}), json!({"type": "string"}));
        let short = json!({"type": "string", "maxLength": 10});
        let object = json!({"type": "object", "required": ["required"],
            "properties": {"required": {"type": "string"}, "optional": {"type": "string"}}});
        let nested = |most| list(map(object.clone(), most), most);
        let either = json!({"x-kubernetes-int-or-string": true});
        let table = [
            (list(number.clone(), None), "self.all(x, true)", 4_718_591),
            (list(number.clone(), Some(10)), "self.all(x, true)", 32),
            (list(text.clone(), None), "self.all(x, true)", 3_145_727),
            (list(json!({"type": "boolean"}), None), "self.all(x, true)", 1_887_437),
            (list(list(number.clone(), None), None), "self.all(x, true)", 3_145_727),
            (list(object.clone(), None), "self.all(x, true)", 555_128),
            (map(number.clone(), None), "self.all(x, true)", 1_348_169),
            (map(text.clone(), None), "self.all(x, true)", 1_179_647),
            (text.clone(), "self.contains('test')", 314_574),
            (short.clone(), "self.contains('test')", 5),
            (text.clone(), "self.startsWith('test')", 2),
            (text.clone(), "size(self + \"hello\") > size(\"hello\")", 314_578),
            (list(number.clone(), None), "self[1] == 0.0", 2),
            (list(text.clone(), Some(8)), "self[1] == self[1]", 314_577),
            (list(number.clone(), Some(10)), "self.all(x, self.all(y, true))", 352),
            (list(number.clone(), Some(10)), "self.all(x, self.all(y, self.all(z, true)))", 3_552),
            (text.clone(), "self.matches(\"x\")", 314_574),
            (text.clone(), "\"\".matches(\"(((((((((())))))))))[0-9]\")", 7),
            (text.clone(), "self.matches(\"\")", 1),
            (map(text.clone(), None), "self.all(x, x.contains(self[x]))", 2_752_507),
            (text.clone(), "self == \"x\"", 2),
            (list(number.clone(), None), "self.all(x, x == 0.0)", 6_291_454),
            (nested(None), "self.all(x, x[\"y\"].required == \"z\")", 7_340_027),
            (nested(Some(10)), "self.all(x, x[\"y\"].required == \"z\")", 72),
            (list(either.clone(), None), "self[0] == 5", 3),
            (list(object, None), "self[0] == null", 2),
            (list(map(number.clone(), None), None), "self.all(x, x.y == 25.2)", 6_291_452),
            (list(map(number, None), None), "self[0].x > 2.0", 4),
            (list(json!({"type": "string", "format": "date"}), None), "self.all(x, true)", 725_936),
            (list(json!({"type": "string", "format": "date"}), None), "self[2].getDayOfMonth() == 13", 4),
            (text, "self.lowerAscii() == 'lower!'", 314_575),
            (short, "self.lowerAscii() == 'lower!'", 6),
            (map(json!({"type": "integer"}), None), "oldSelf.size() == self.size()", 5),
            (map(json!({"type": "string", "format": "date-time"}), None), "self[\"a\"] == self[\"b\"]", 8),
            (json!({"type": "string", "enum": ["A", "LongValue"]}), "self.contains('A')", 2),
            (either, "isQuantity(self)", 314_574),
        ];
        let wrong: Vec<String> = table
            .iter()
            .filter_map(|(schema, rule, wanted)| {
                let found = cost(schema, rule);
                (found != *wanted).then(|| format!("{rule} on {schema}: {found}, not {wanted}"))
            })
            .collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
