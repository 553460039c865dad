//! Which fields differ between two states of an object.

use std::collections::BTreeMap;

use serde_json::Value;

use super::fieldset::FieldSet;
use super::path::{PathElement, equal};
use super::typed::{Shape, Type};

/// The fields that differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    /// Only the old state has them.
    pub removed: FieldSet,
    /// Both have them, with different values.
    pub modified: FieldSet,
    /// Only the new state has them.
    pub added: FieldSet,
}

impl Comparison {
    /// The fields that the new state sets.
    pub fn set(&self) -> FieldSet {
        self.modified.clone().union(self.added.clone())
    }

    /// Whether nothing but these fields differs.
    pub fn is_only_of(&self, fields: &FieldSet) -> bool {
        [&self.removed, &self.modified, &self.added].iter().all(|set| set.difference(fields).is_empty())
    }

    /// The same without these fields and what lies below them.
    pub fn without(self, fields: &FieldSet) -> Comparison {
        if fields.is_empty() {
            return self;
        }
        Comparison {
            removed: self.removed.recursive_difference(fields),
            modified: self.modified.recursive_difference(fields),
            added: self.added.recursive_difference(fields),
        }
    }
}

/// Compares two states.
pub(super) fn compare(ty: Type<'_>, old: &Value, new: &Value) -> Comparison {
    let mut walker = Walker { path: Vec::new(), found: Comparison::default() };
    walker.walk(ty, Some(old), Some(new));
    walker.found
}

struct Walker {
    path: Vec<PathElement>,
    found: Comparison,
}

impl Walker {
    fn descend(&mut self, element: PathElement, ty: Type<'_>, old: Option<&Value>, new: Option<&Value>) {
        self.path.push(element);
        self.walk(ty, old, new);
        self.path.pop();
    }

    fn walk(&mut self, ty: Type<'_>, old: Option<&Value>, new: Option<&Value>) {
        let is_leaf = match (old, new) {
            (None, None) => return,
            (Some(old_value), Some(new_value)) => {
                if equal(old_value, new_value) {
                    return;
                }
                self.both(ty, old_value, new_value)
            }
            (Some(only), None) => self.below(ty, only, |walker, element, ty, value| {
                walker.descend(element, ty, Some(value), None);
            }),
            (None, Some(only)) => self.below(ty, only, |walker, element, ty, value| {
                walker.descend(element, ty, None, Some(value));
            }),
        };
        match (old, new) {
            (None, _) => self.found.added.insert(&self.path),
            (_, None) => self.found.removed.insert(&self.path),
            _ if is_leaf => self.found.modified.insert(&self.path),
            _ => {}
        }
    }

    /// Compares two different values; true if they differ as a whole.
    fn both(&mut self, ty: Type<'_>, old: &Value, new: &Value) -> bool {
        match (ty.shape(old), ty.shape(new)) {
            (Shape::Map(old), Shape::Map(new)) => {
                let empty = |map: Option<&serde_json::Map<String, Value>>| map.is_none_or(|m| m.is_empty());
                // Empty and null differ as a whole.
                if empty(old) && empty(new) {
                    return true;
                }
                for (key, value) in old.into_iter().flatten() {
                    let other = new.and_then(|map| map.get(key));
                    if other.is_none_or(|other| other != value) {
                        self.descend(PathElement::Field(key.clone()), ty.field(key), Some(value), other);
                    }
                }
                for (key, value) in new.into_iter().flatten() {
                    if old.is_none_or(|map| !map.contains_key(key)) {
                        self.descend(PathElement::Field(key.clone()), ty.field(key), None, Some(value));
                    }
                }
                false
            }
            (Shape::List(old, list), Shape::List(new, _)) => {
                let old = old.map(Vec::as_slice).unwrap_or_default();
                let new = new.map(Vec::as_slice).unwrap_or_default();
                if old.is_empty() && new.is_empty() {
                    return true;
                }
                let (Some(old_elements), Some(new_elements)) = (list.elements(old), list.elements(new)) else {
                    return true;
                };
                let mut items: BTreeMap<PathElement, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
                for (element, item) in old_elements.into_iter().zip(old) {
                    items.entry(element).or_default().0.push(item);
                }
                for (element, item) in new_elements.into_iter().zip(new) {
                    items.entry(element).or_default().1.push(item);
                }
                for (element, (old, new)) in items {
                    self.items(element, list.item(), &old, &new);
                }
                false
            }
            // Free-form content that changes its shape: what was below goes, what is below comes, and the whole changes.
            _ => {
                self.below(ty, old, |walker, element, ty, value| walker.descend(element, ty, Some(value), None));
                self.below(ty, new, |walker, element, ty, value| walker.descend(element, ty, None, Some(value)));
                true
            }
        }
    }

    /// Compares the items of one identity, of which there may be several on either side.
    fn items(&mut self, element: PathElement, ty: Type<'_>, old: &[&Value], new: &[&Value]) {
        match (old.len(), new.len()) {
            (0 | 1, 0 | 1) => self.descend(element, ty, old.first().copied(), new.first().copied()),
            (2.., 2..) => {
                if old != new {
                    self.path.push(element);
                    self.found.modified.insert(&self.path);
                    self.path.pop();
                }
            }
            (2.., _) => {
                if let Some(one) = new.first() {
                    self.descend(element.clone(), ty, None, Some(one));
                }
                self.path.push(element);
                self.found.removed.insert(&self.path);
                self.path.pop();
            }
            (_, _) => {
                if let Some(one) = old.first() {
                    self.descend(element.clone(), ty, Some(one), None);
                }
                self.path.push(element);
                self.found.added.insert(&self.path);
                self.path.pop();
            }
        }
    }

    /// Visits what lies directly below a value; true if it is a leaf.
    fn below<'v>(
        &mut self,
        ty: Type<'_>,
        value: &'v Value,
        mut visit: impl FnMut(&mut Self, PathElement, Type<'_>, &'v Value),
    ) -> bool {
        match ty.shape(value) {
            Shape::Leaf => return true,
            Shape::Map(map) => {
                for (key, value) in map.into_iter().flatten() {
                    visit(self, PathElement::Field(key.clone()), ty.field(key), value);
                }
            }
            Shape::List(items, list) => {
                let items = items.map(Vec::as_slice).unwrap_or_default();
                let Some(elements) = list.elements(items) else { return true };
                let mut counts: BTreeMap<&PathElement, usize> = BTreeMap::new();
                for element in &elements {
                    *counts.entry(element).or_default() += 1;
                }
                for (element, item) in elements.iter().zip(items) {
                    // Of items that share one identity only the identity counts.
                    let item = if counts[element] > 1 { &Value::Null } else { item };
                    visit(self, element.clone(), list.item(), item);
                }
            }
        }
        false
    }
}
