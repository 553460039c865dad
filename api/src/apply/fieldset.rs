//! Sets of fields: what a manager owns.
//!
//! In: `fieldsV1` as it stands in `metadata.managedFields`, or paths found by walking an object. Out: the same, after
//! the set operations that server-side apply is made of. A set is a tree; a node may itself be a member, and it is
//! in the tree only if it or something below it is.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;

use serde_json::{Map, Value};

use super::path::{NotAPathElement, PathElement};
use super::typed::Type;

/// A set of paths.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSet {
    /// Sorted by element.
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    element: PathElement,
    member: bool,
    children: FieldSet,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

impl FieldSet {
    /// The set without paths.
    pub fn new() -> Self {
        FieldSet::default()
    }

    /// Whether there is no path in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds a path; the empty path, which is the whole object, is not tracked.
    pub fn insert(&mut self, path: &[PathElement]) {
        self.put_at(path, true, FieldSet::new());
    }

    /// Adds all that lies below a path and, if it is a member, the path itself.
    pub(super) fn put_at(&mut self, path: &[PathElement], member: bool, children: FieldSet) {
        match path {
            [] => *self = std::mem::take(self).union(children),
            _ if !member && children.is_empty() => {}
            [first, rest @ ..] => {
                let node = self.node_mut(first, |element: &PathElement| element.clone());
                node.member |= member && rest.is_empty();
                node.children.put_at(rest, member && !rest.is_empty(), children);
            }
        }
    }

    /// Whether the path is in it.
    pub fn contains(&self, path: &[PathElement]) -> bool {
        match path {
            [] => false,
            [last] => self.has(last),
            [first, rest @ ..] => self.child(first).is_some_and(|child| child.contains(rest)),
        }
    }

    /// Whether the one-step path is in it.
    pub(super) fn has(&self, element: &PathElement) -> bool {
        self.find(element).is_some_and(|node| node.member)
    }

    /// What lies below a step; `None` if nothing does.
    pub(super) fn child(&self, element: &PathElement) -> Option<&FieldSet> {
        self.find(element).map(|node| &node.children).filter(|children| !children.is_empty())
    }

    /// Adds a step with all that lies below it. Steps added in order cost no search.
    pub(super) fn put(&mut self, element: PathElement, member: bool, children: FieldSet) {
        if member || !children.is_empty() {
            let node = self.node_mut(element, |element| element);
            node.member |= member;
            node.children = std::mem::take(&mut node.children).union(children);
        }
    }

    fn find(&self, element: &PathElement) -> Option<&Node> {
        self.nodes.binary_search_by(|node| node.element.cmp(element)).ok().map(|at| &self.nodes[at])
    }

    /// The node of an element, made if it is not there; only then is the element needed as a value.
    fn node_mut<E: Borrow<PathElement>>(&mut self, element: E, owned: impl FnOnce(E) -> PathElement) -> &mut Node {
        let wanted = element.borrow();
        let at = match self.nodes.last().map(|last| last.element.cmp(wanted)) {
            None | Some(Ordering::Less) => Err(self.nodes.len()),
            Some(Ordering::Equal) => Ok(self.nodes.len() - 1),
            Some(Ordering::Greater) => self.nodes.binary_search_by(|node| node.element.cmp(wanted)),
        };
        let at = at.unwrap_or_else(|at| {
            let node = Node { element: owned(element), member: false, children: FieldSet::new() };
            self.nodes.insert(at, node);
            at
        });
        &mut self.nodes[at]
    }

    /// Every path of either.
    #[must_use]
    pub fn union(self, other: FieldSet) -> FieldSet {
        if self.is_empty() {
            return other;
        }
        if other.is_empty() {
            return self;
        }
        let mut nodes = Vec::with_capacity(self.nodes.len().max(other.nodes.len()));
        let mut right = other.nodes.into_iter().peekable();
        for mut left in self.nodes {
            while let Some(next) = right.next_if(|r| r.element < left.element) {
                nodes.push(next);
            }
            if let Some(same) = right.next_if(|r| r.element == left.element) {
                left.member |= same.member;
                left.children = left.children.union(same.children);
            }
            nodes.push(left);
        }
        nodes.extend(right);
        FieldSet { nodes }
    }

    /// The paths in both.
    #[must_use]
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        self.pick(other, |left, right| {
            let right = right?;
            Some(Node {
                element: left.element.clone(),
                member: left.member && right.member,
                children: left.children.intersection(&right.children),
            })
        })
    }

    /// The paths that are not in the other. A path stays when only its parent or its children are in the other.
    #[must_use]
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        let mut rest = self.clone();
        rest.subtract(other);
        rest
    }

    /// Takes the paths of the other out of this set.
    pub fn subtract(&mut self, other: &FieldSet) {
        let mut emptied = false;
        for right in &other.nodes {
            if let Ok(at) = self.nodes.binary_search_by(|node| node.element.cmp(&right.element)) {
                let left = &mut self.nodes[at];
                left.member &= !right.member;
                left.children.subtract(&right.children);
                emptied |= left.is_empty();
            }
        }
        if emptied {
            self.nodes.retain(|node| !node.is_empty());
        }
    }

    /// Takes the paths of the other out of this set, and all that lies below them.
    pub fn subtract_below(&mut self, other: &FieldSet) {
        let mut emptied = false;
        for right in &other.nodes {
            if let Ok(at) = self.nodes.binary_search_by(|node| node.element.cmp(&right.element)) {
                let left = &mut self.nodes[at];
                if right.member {
                    left.member = false;
                    left.children = FieldSet::new();
                } else {
                    left.children.subtract_below(&right.children);
                }
                emptied |= left.is_empty();
            }
        }
        if emptied {
            self.nodes.retain(|node| !node.is_empty());
        }
    }

    fn pick(&self, other: &FieldSet, keep: impl Fn(&Node, Option<&Node>) -> Option<Node>) -> FieldSet {
        let mut nodes = Vec::new();
        let mut right = other.nodes.iter().peekable();
        for left in &self.nodes {
            while right.next_if(|r| r.element < left.element).is_some() {}
            let same = right.next_if(|r| r.element == left.element);
            nodes.extend(keep(left, same).filter(|node| !node.is_empty()));
        }
        FieldSet { nodes }
    }

    /// The same set with every struct field on the way to a member made a member too, so that a struct of which
    /// nothing is left can be removed with its contents. Map keys and list items are members only on their own.
    pub(super) fn with_named_fields(&self, ty: Type<'_>) -> FieldSet {
        let nodes = self.nodes.iter().map(|node| {
            let (named, below) = match &node.element {
                PathElement::Field(name) => (ty.declares(name), ty.field(name)),
                _ => (false, ty.item()),
            };
            Node {
                element: node.element.clone(),
                member: node.member || (named && !node.children.is_empty()),
                children: node.children.with_named_fields(below),
            }
        });
        FieldSet { nodes: nodes.collect() }
    }

    /// Every path, in order.
    pub fn paths(&self) -> Vec<Vec<PathElement>> {
        fn walk(set: &FieldSet, at: &mut Vec<PathElement>, out: &mut Vec<Vec<PathElement>>) {
            for node in &set.nodes {
                at.push(node.element.clone());
                if node.member {
                    out.push(at.clone());
                }
                walk(&node.children, at, out);
                at.pop();
            }
        }
        let mut out = Vec::new();
        walk(self, &mut Vec::new(), &mut out);
        out
    }

    /// Reads `fieldsV1`.
    pub fn from_value(value: &Value) -> Result<FieldSet, NotAPathElement> {
        Ok(read(value)?.0)
    }

    /// Writes `fieldsV1`.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        for node in &self.nodes {
            let mut below = node.children.to_value();
            if let (true, false, Value::Object(below)) = (node.member, node.children.is_empty(), &mut below) {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            map.insert(node.element.written(), below);
        }
        Value::Object(map)
    }
}

/// The set below a step, and whether the step itself is a member.
fn read(value: &Value) -> Result<(FieldSet, bool), NotAPathElement> {
    let map = match value {
        Value::Object(map) => map,
        Value::Null => return Ok((FieldSet::new(), true)),
        other => return Err(NotAPathElement(other.to_string())),
    };
    let mut set = FieldSet::new();
    let mut member = false;
    for (key, below) in map {
        if key == "." {
            member = true;
            continue;
        }
        let Some(element) = PathElement::parse(key)? else { continue };
        let (children, is_member) = read(below)?;
        set.put(element, is_member, children);
    }
    let member = member || set.is_empty();
    Ok((set, member))
}

impl FromIterator<Vec<PathElement>> for FieldSet {
    fn from_iter<I: IntoIterator<Item = Vec<PathElement>>>(paths: I) -> Self {
        let mut set = FieldSet::new();
        for path in paths {
            set.insert(&path);
        }
        set
    }
}

impl fmt::Display for FieldSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, path) in self.paths().iter().enumerate() {
            let newline = if i > 0 { "\n" } else { "" };
            write!(f, "{newline}{}", display_path(path))?;
        }
        Ok(())
    }
}

/// A path as people read it: `.spec.containers[name="web"].image`.
pub(super) fn display_path(path: &[PathElement]) -> String {
    path.iter().map(PathElement::to_string).collect()
}
