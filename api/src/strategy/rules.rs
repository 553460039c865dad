//! Validation as data: tables of rules on the fields of an object, and strategies that consist of them.
//!
//! In: an object and a table of `(path, rules)`. Out: field errors with Kubernetes' paths, reasons and texts. What a rule
//! cannot say is a small function on a [`Field`], which knows its path and reports for itself.
//!
//! A path names fields by dots; `[]` stands for every item of a list and `{}` for every entry of a map, so
//! `spec.rules[].host` is the host of each rule. A rule sees every field whose parent is there; a spec counts as there.

use std::cell::RefCell;

use serde_json::Value;

use super::names::{self, NameRule};
use super::{Strategy, field};
use crate::error::FieldError;
use crate::quantity::Quantity;

/// A field of an object that is validated: its value (null if absent), its path, and where errors go.
#[derive(Clone)]
pub struct Field<'a> {
    value: &'a Value,
    path: String,
    sink: &'a RefCell<Vec<FieldError>>,
}

/// One demand on a field. All but [`Rule::Required`] and [`Rule::Always`] are content with absence.
pub enum Rule {
    /// It must be there and not be empty; the text is the error's detail.
    Required(&'static str),
    /// It must be one of these texts.
    OneOf(&'static [&'static str]),
    /// It must not be below zero.
    NonNegative,
    /// It must be above zero.
    Positive,
    /// It must be within these limits.
    Range(i64, i64),
    /// A text without which a function finds nothing wrong.
    Text(fn(&str) -> Vec<String>),
    /// A map of labels.
    Labels,
    /// A label selector.
    Selector,
    /// A list or text with at most so many items or bytes.
    Max(usize),
    /// A list whose items differ, by one of their fields or (if empty) as a whole.
    Distinct(&'static str),
    /// A count or a percentage.
    IntOrPercent,
    /// It may not be set; the text is the error's detail.
    Forbidden(&'static str),
    /// Whatever else.
    Check(fn(&Field<'_>)),
    /// Whatever else, absence included.
    Always(fn(&Field<'_>)),
}

/// Rules by path.
pub type Rules = &'static [(&'static str, &'static [Rule])];

impl<'a> Field<'a> {
    /// The whole object.
    pub fn root(value: &'a Value, sink: &'a RefCell<Vec<FieldError>>) -> Field<'a> {
        Field { value, path: String::new(), sink }
    }

    /// A value that stands at a path.
    pub fn new(value: &'a Value, path: impl Into<String>, sink: &'a RefCell<Vec<FieldError>>) -> Field<'a> {
        Field { value, path: path.into(), sink }
    }

    /// The field of this struct.
    pub fn get(&self, key: &str) -> Field<'a> {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Field { value: self.value.get(key).unwrap_or(&Value::Null), path, sink: self.sink }
    }

    /// The field at a path of dots.
    pub fn at(&self, path: &str) -> Field<'a> {
        path.split('.').fold(self.clone(), |field, key| field.get(key))
    }

    /// Another value at the same path.
    pub fn with<'b>(&self, value: &'b Value) -> Field<'b>
    where
        'a: 'b,
    {
        Field { value, path: self.path.clone(), sink: self.sink }
    }

    /// The same value, told as being at another path.
    pub fn told_at(&self, path: impl Into<String>) -> Field<'a> {
        Field { path: path.into(), ..self.clone() }
    }

    /// The items of this list.
    pub fn items(&self) -> impl Iterator<Item = Field<'a>> + use<'a> {
        let (path, sink) = (self.path.clone(), self.sink);
        let items = self.value.as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().enumerate().map(move |(at, value)| Field { value, path: format!("{path}[{at}]"), sink })
    }

    /// The entries of this map.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Field<'a>)> + use<'a> {
        let (path, sink) = (self.path.clone(), self.sink);
        let entries = self.value.as_object().into_iter().flatten();
        entries.map(move |(key, value)| (key.as_str(), Field { value, path: format!("{path}[{key}]"), sink }))
    }

    /// The value; null if absent.
    pub fn value(&self) -> &'a Value {
        self.value
    }

    /// Where it is.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The text; empty if there is none.
    pub fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    /// The text of a field of this struct.
    pub fn text_of(&self, key: &str) -> &'a str {
        field::text(self.value, key)
    }

    /// The number.
    pub fn int(&self) -> Option<i64> {
        self.value.as_i64()
    }

    /// The number; 0 if there is none.
    pub fn count(&self) -> i64 {
        self.int().unwrap_or_default()
    }

    /// Whether it is true.
    pub fn is_true(&self) -> bool {
        self.value == &Value::Bool(true)
    }

    /// Whether it is there.
    pub fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Whether it is absent or holds nothing.
    pub fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        }
    }

    /// How many items or entries it has.
    pub fn len(&self) -> usize {
        match self.value {
            Value::Array(items) => items.len(),
            Value::Object(map) => map.len(),
            Value::String(text) => text.len(),
            _ => 0,
        }
    }

    /// The quantity.
    pub fn quantity(&self) -> Option<Quantity> {
        self.is_set().then(|| Quantity::from_value(self.value).ok())?
    }

    /// Where errors go, for validations that add to a list.
    pub fn errors(&self) -> std::cell::RefMut<'a, Vec<FieldError>> {
        self.sink.borrow_mut()
    }

    /// Reports that its value will not do, without showing it.
    pub fn refuse(&self, detail: impl Into<String>) {
        self.report(FieldError { value: None, ..FieldError::invalid(self.path.as_str(), Value::Null, detail) });
    }

    /// Reports an error.
    pub fn report(&self, error: FieldError) {
        self.sink.borrow_mut().push(error);
    }

    /// Reports that it is missing.
    pub fn required(&self, detail: impl Into<String>) {
        self.report(FieldError::required(self.path.as_str(), detail));
    }

    /// Reports that its value will not do.
    pub fn invalid(&self, detail: impl Into<String>) {
        self.report(FieldError::invalid(self.path.as_str(), self.shown(), detail));
    }

    /// Reports that it may not be set.
    pub fn forbidden(&self, detail: impl Into<String>) {
        self.report(FieldError::forbidden(self.path.as_str(), detail));
    }

    /// Reports that its value occurred before.
    pub fn duplicate(&self) {
        self.report(FieldError::duplicate(self.path.as_str(), self.shown()));
    }

    /// Reports that its value is none of those that are known. An absent text is an empty one.
    pub fn unsupported(&self, known: &[&str]) {
        let shown = if self.is_set() { self.shown() } else { Value::from("") };
        self.report(FieldError::not_supported(self.path.as_str(), shown, known));
    }

    /// Demands a text without which a function finds nothing wrong, be it absent.
    pub fn judge(&self, wrong: fn(&str) -> Vec<String>) {
        for detail in wrong(self.text()) {
            self.report(FieldError::invalid(self.path.as_str(), self.text(), detail));
        }
    }

    /// Demands one of these texts, absence not being one.
    pub fn one_of(&self, known: &[&str]) {
        if !known.contains(&self.text()) {
            self.unsupported(known);
        }
    }

    /// Demands one of these texts, absence being a fault of its own.
    pub fn required_one_of(&self, known: &[&str], detail: &str) {
        if self.is_empty() { self.required(detail) } else { self.one_of(known) }
    }

    fn shown(&self) -> Value {
        self.value.clone()
    }

    /// Applies a rule.
    pub fn must(&self, rule: &Rule) {
        match rule {
            Rule::Required(detail) if self.is_empty() => self.required(*detail),
            Rule::Always(check) => check(self),
            _ if self.value.is_null() => {}
            Rule::Required(_) => {}
            Rule::OneOf(known) => {
                if !self.is_empty() && !known.contains(&self.text()) {
                    self.unsupported(known);
                }
            }
            Rule::NonNegative => {
                if self.count() < 0 {
                    self.invalid("must be greater than or equal to 0");
                }
            }
            Rule::Positive => {
                if self.count() <= 0 {
                    self.invalid("must be greater than 0");
                }
            }
            Rule::Range(low, high) => {
                if !(*low..=*high).contains(&self.count()) {
                    self.invalid(format!("must be between {low} and {high}, inclusive"));
                }
            }
            Rule::Text(wrong) => {
                if !self.is_empty() {
                    wrong(self.text()).into_iter().for_each(|detail| self.invalid(detail));
                }
            }
            Rule::Labels => names::validate_labels(Some(self.value), &self.path, &mut self.sink.borrow_mut()),
            Rule::Selector => names::validate_label_selector(self.value, &self.path, &mut self.sink.borrow_mut()),
            Rule::Max(max) => self.at_most(*max),
            Rule::Distinct(key) => self.distinct(key),
            Rule::IntOrPercent => super::apps::int_or_percent(self.value, &self.path, &mut self.sink.borrow_mut()),
            Rule::Forbidden(detail) => self.forbidden(*detail),
            Rule::Check(check) => check(self),
        }
    }

    fn at_most(&self, max: usize) {
        match self.value {
            Value::String(text) if text.len() > max => self.report(FieldError::too_long(self.path.as_str(), max)),
            Value::Array(_) | Value::Object(_) if self.len() > max => {
                self.report(FieldError::too_many(self.path.as_str(), self.len(), max));
            }
            _ => {}
        }
    }

    fn distinct(&self, key: &str) {
        let mut seen: Vec<&Value> = Vec::with_capacity(self.len());
        for item in self.items() {
            let told = if key.is_empty() { item } else { item.get(key) };
            if told.is_empty() {
                continue;
            }
            if seen.contains(&told.value) {
                told.duplicate();
            } else {
                seen.push(told.value);
            }
        }
    }

    /// Applies a table of rules to what is below this field.
    pub fn follow(&self, rules: Rules) {
        for (path, rules) in rules {
            self.each(path, &mut |field| rules.iter().for_each(|rule| field.must(rule)));
        }
    }

    /// Visits every field that a path stands for.
    pub fn each(&self, path: &str, visit: &mut dyn FnMut(&Field<'a>)) {
        if path.is_empty() {
            visit(self);
            return;
        }
        let (segment, rest) = path.split_once('.').unwrap_or((path, ""));
        if let Some(list) = segment.strip_suffix("[]") {
            self.child(list).items().for_each(|item| item.each(rest, visit));
        } else if let Some(map) = segment.strip_suffix("{}") {
            self.child(map).entries().for_each(|(_, entry)| entry.each(rest, visit));
        } else {
            let child = self.get(segment);
            if rest.is_empty() || child.is_set() || segment == "spec" {
                child.each(rest, visit);
            }
        }
    }

    /// This field itself where the name is empty.
    fn child(&self, name: &str) -> Field<'a> {
        if name.is_empty() { self.clone() } else { self.get(name) }
    }

    /// Reports if an update changed this field; `old` is what it was.
    pub fn unchanged(&self, old: &Field<'_>) {
        if self.value != old.value {
            self.invalid("field is immutable");
        }
    }
}

/// A strategy made of tables.
pub struct Declared {
    /// Which names its objects may have.
    pub names: NameRule,
    /// Whether `metadata.generation` counts changes.
    pub generation: bool,
    /// Whether an update may come without a resourceVersion.
    pub unconditional_update: bool,
    /// Whether a new object may bring its status along.
    pub keeps_status: bool,
    /// Defaults that depend on other fields.
    pub default: fn(&mut Value),
    /// Resets on create.
    pub prepare_create: fn(&mut Value),
    /// Resets on update.
    pub prepare_update: fn(Option<&str>, &Value, &mut Value),
    /// What every object must be.
    pub rules: Rules,
    /// What a new object must be besides.
    pub create: Rules,
    /// What the status must be when it is written.
    pub status: Rules,
    /// Paths that an update leaves as they are.
    pub immutable: &'static [&'static str],
    /// What else an update may not do: subresource, old, new.
    pub update: fn(&str, &Field<'_>, &Field<'_>),
    /// Warnings.
    pub warnings: fn(&Value) -> Vec<String>,
}

impl Declared {
    /// A kind without particulars.
    pub const PLAIN: Declared = Declared {
        names: NameRule::Subdomain,
        generation: false,
        unconditional_update: true,
        keeps_status: false,
        default: |_| {},
        prepare_create: |_| {},
        prepare_update: |_, _, _| {},
        rules: &[],
        create: &[],
        status: &[],
        immutable: &[],
        update: |_, _, _| {},
        warnings: |_| Vec::new(),
    };
}

impl Strategy for Declared {
    fn name_rule(&self) -> NameRule {
        self.names
    }

    fn tracks_generation(&self) -> bool {
        self.generation
    }

    fn keeps_status_on_create(&self) -> bool {
        self.keeps_status
    }

    fn allows_unconditional_update(&self) -> bool {
        self.unconditional_update
    }

    fn default(&self, object: &mut Value) {
        (self.default)(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        (self.prepare_create)(object);
    }

    fn prepare_update(&self, subresource: Option<&str>, old: &Value, new: &mut Value) {
        (self.prepare_update)(subresource, old, new);
    }

    fn validate_create(&self, object: &Value, errors: &mut Vec<FieldError>) {
        collect(errors, |sink| {
            let root = Field::root(object, sink);
            root.follow(self.rules);
            // An object that an update makes has been stored once; what only new ones must be is behind it.
            if field::deep(object, &["metadata", "resourceVersion"]).is_none() {
                root.follow(self.create);
            }
        });
    }

    fn validate_update(&self, subresource: Option<&str>, old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
        collect(errors, |sink| {
            let (old, new) = (Field::root(old, sink), Field::root(new, sink));
            match subresource {
                Some("status") => new.follow(self.status),
                Some("scale") => new.at("spec.replicas").must(&Rule::NonNegative),
                Some(_) => {}
                None => self.immutable.iter().for_each(|path| new.at(path).unchanged(&old.at(path))),
            }
            (self.update)(subresource.unwrap_or_default(), &old, &new);
        });
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        (self.warnings)(object)
    }
}

/// Runs a validation whose errors are added to `errors`.
pub fn collect(errors: &mut Vec<FieldError>, validate: impl FnOnce(&RefCell<Vec<FieldError>>)) {
    let sink = RefCell::new(std::mem::take(errors));
    validate(&sink);
    *errors = sink.into_inner();
}
