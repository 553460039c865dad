//! Which fields differ between two states of an object.

use std::collections::BTreeMap;

use serde_json::Value;

use super::fieldset::FieldSet;
use super::path::{PathElement, equal};
use super::typed::{Shape, Type, everything_below};

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
    pub fn without(mut self, fields: &FieldSet) -> Comparison {
        for set in [&mut self.removed, &mut self.modified, &mut self.added] {
            set.subtract_below(fields);
        }
        self
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
        match (old, new) {
            (None, None) => {}
            (Some(old), Some(new)) => {
                if !equal(old, new) && self.both(ty, old, new) {
                    self.found.modified.put_at(&self.path, true, FieldSet::new());
                }
            }
            (Some(only), None) => self.found.removed.put_at(&self.path, true, below(ty, only)),
            (None, Some(only)) => self.found.added.put_at(&self.path, true, below(ty, only)),
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
                        let (step, field) = ty.step(key);
                        self.descend(step, field, Some(value), other);
                    }
                }
                for (key, value) in new.into_iter().flatten() {
                    if old.is_none_or(|map| !map.contains_key(key)) {
                        let (step, field) = ty.step(key);
                        self.descend(step, field, None, Some(value));
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
                self.found.removed.put_at(&self.path, false, below(ty, old));
                self.found.added.put_at(&self.path, false, below(ty, new));
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
                    self.found.modified.put_at(&self.path, true, FieldSet::new());
                    self.path.pop();
                }
            }
            (2.., _) => {
                if let Some(one) = new.first() {
                    self.descend(element.clone(), ty, None, Some(one));
                }
                self.path.push(element);
                self.found.removed.put_at(&self.path, true, FieldSet::new());
                self.path.pop();
            }
            (_, _) => {
                if let Some(one) = old.first() {
                    self.descend(element.clone(), ty, Some(one), None);
                }
                self.path.push(element);
                self.found.added.put_at(&self.path, true, FieldSet::new());
                self.path.pop();
            }
        }
    }
}

fn below(ty: Type<'_>, value: &Value) -> FieldSet {
    everything_below(ty, value).unwrap_or_default()
}
