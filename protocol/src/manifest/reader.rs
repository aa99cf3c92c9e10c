//! The reader: takes a tree apart and notes every fault on the way.
//!
//! Each `read` returns `None` when it noted a fault or when nothing stands there; the caller
//! goes on, so that all faults come out together. A document with a fault is never used.
//!
//! What the fields of a map may be called is learned from what was asked for, so that no list
//! of names can differ from the code.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    net::IpAddr,
    str::FromStr,
    time::Duration,
};

use super::{
    fault::{Fault, Place, Position, Source, nearest},
    tree::{Key, Node, Value},
    value::{self, InvalidValue, Secret},
};
use crate::{limits, name::InvalidName};

/// What the host knows and the language needs. The shell reads it; nothing here does.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// This host's addresses. `None`: not known, then no address is refused for not being here.
    pub addresses: Option<BTreeSet<IpAddr>>,
    /// Whether the text may name commands to run: its file belongs to root or the agent's user
    /// and nobody else can write it. Never so for what came by the API.
    pub may_run_commands: bool,
    /// This agent's version, `0.1.0`; what another one was written for warns.
    pub agent_version: Option<String>,
}

/// Where faults and warnings go.
pub(crate) struct Sink<'s> {
    pub(crate) source: &'s Source<'s>,
    pub(crate) inputs: &'s Inputs,
    pub(crate) faults: Vec<Fault>,
    pub(crate) warnings: Vec<Fault>,
}

impl<'s> Sink<'s> {
    pub(crate) fn new(source: &'s Source<'s>, inputs: &'s Inputs) -> Self {
        Self { source, inputs, faults: Vec::new(), warnings: Vec::new() }
    }

    pub(crate) fn fault(&mut self, at: Position, key: &str, problem: InvalidValue) {
        let fault = self.build(at, key, problem);
        self.faults.push(fault);
    }

    pub(crate) fn warn(&mut self, at: Position, key: &str, problem: InvalidValue) {
        let fault = self.build(at, key, problem);
        self.warnings.push(fault);
    }

    fn build(&self, at: Position, key: &str, problem: InvalidValue) -> Fault {
        Fault {
            place: self.source.place(at),
            key: key.to_owned(),
            why: problem.why,
            fix: problem.fix,
        }
    }
}

/// Names: where a text's own rules come from types of the core, their errors say all.
impl From<InvalidName> for InvalidValue {
    fn from(error: InvalidName) -> Self {
        value::invalid(error.to_string(), "write another one")
    }
}

/// A node with the path to it.
#[derive(Clone)]
pub(crate) struct Item<'t> {
    pub(crate) node: &'t Node,
    pub(crate) path: String,
}

impl<'t> Item<'t> {
    pub(crate) fn new(node: &'t Node, path: &str) -> Self {
        Self { node, path: path.to_owned() }
    }

    pub(crate) fn fault(
        &self,
        sink: &mut Sink<'_>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) {
        sink.fault(self.node.at, &self.path, value::invalid(why, fix));
    }

    pub(crate) fn warn(&self, sink: &mut Sink<'_>, why: impl Into<String>, fix: impl Into<String>) {
        sink.warn(self.node.at, &self.path, value::invalid(why, fix));
    }

    pub(crate) fn place(&self, sink: &Sink<'_>) -> Place {
        sink.source.place(self.node.at)
    }

    fn wrong(&self, sink: &mut Sink<'_>, wanted: &str) {
        let found = self.node.value.kind();
        self.fault(
            sink,
            format!("{wanted} belongs here, this is {found}"),
            format!("write {wanted}"),
        );
    }

    pub(crate) fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    pub(crate) fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    pub(crate) fn is_text(&self) -> bool {
        matches!(self.node.value, Value::Text(_))
    }

    pub(crate) fn is_truth(&self) -> bool {
        matches!(self.node.value, Value::Bool(_))
    }

    pub(crate) fn is_number(&self) -> bool {
        matches!(self.node.value, Value::Number(_))
    }

    /// A text. A number or a truth is not one: YAML would read `1.10` as 1.1.
    pub(crate) fn text(&self, sink: &mut Sink<'_>) -> Option<&'t str> {
        match &self.node.value {
            Value::Text(text) | Value::Secret(text) => Some(text),
            Value::Number(text) => {
                self.fault(
                    sink,
                    format!("text belongs here, and {text} without quotes is a number"),
                    format!("quote it: \"{text}\""),
                );
                None
            }
            Value::Bool(value) => {
                self.fault(
                    sink,
                    format!("text belongs here, and {value} without quotes is a truth value"),
                    format!("quote it: \"{value}\""),
                );
                None
            }
            Value::Null | Value::List(_) | Value::Map(_) => {
                self.wrong(sink, "text");
                None
            }
        }
    }

    /// A text or a number, as written.
    pub(crate) fn plain(&self, sink: &mut Sink<'_>) -> Option<&'t str> {
        match &self.node.value {
            Value::Number(text) => Some(text),
            Value::Null
            | Value::Bool(_)
            | Value::Text(_)
            | Value::Secret(_)
            | Value::List(_)
            | Value::Map(_) => self.text(sink),
        }
    }

    /// A text that is only shown or passed on: bounded, without control characters.
    pub(crate) fn shown(&self, sink: &mut Sink<'_>) -> Option<String> {
        let text = self.text(sink)?;
        self.check_shown(text, sink).then(|| text.to_owned())
    }

    fn check_shown(&self, text: &str, sink: &mut Sink<'_>) -> bool {
        let fits = !text.is_empty()
            && text.len() <= limits::MANIFEST_TEXT_BYTES
            && !text.chars().any(char::is_control);
        if !fits {
            let most = limits::MANIFEST_TEXT_BYTES;
            self.fault(
                sink,
                "the text is empty, too long or has control characters",
                format!("write 1 to {most} bytes on one line"),
            );
        }
        fits
    }

    /// A text with a grammar.
    pub(crate) fn parsed<T>(&self, sink: &mut Sink<'_>) -> Option<T>
    where
        T: FromStr,
        T::Err: Into<InvalidValue>,
    {
        let text = self.text(sink)?;
        self.kept(text.parse().map_err(Into::into), sink)
    }

    /// The value, or its fault noted.
    pub(crate) fn kept<T>(
        &self,
        result: Result<T, InvalidValue>,
        sink: &mut Sink<'_>,
    ) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(problem) => {
                sink.fault(self.node.at, &self.path, problem);
                None
            }
        }
    }

    pub(crate) fn truth(&self, sink: &mut Sink<'_>) -> Option<bool> {
        if let Value::Bool(value) = self.node.value {
            return Some(value);
        }
        self.wrong(sink, "true or false");
        None
    }

    /// A whole number of a range.
    pub(crate) fn whole<T>(&self, least: T, most: T, sink: &mut Sink<'_>) -> Option<T>
    where
        T: TryFrom<u64> + PartialOrd + Display + Copy,
    {
        let number = match &self.node.value {
            Value::Number(text) => {
                text.parse().ok().and_then(|number: u64| T::try_from(number).ok())
            }
            Value::Null
            | Value::Bool(_)
            | Value::Text(_)
            | Value::Secret(_)
            | Value::List(_)
            | Value::Map(_) => None,
        };
        let fits = number.filter(|number| (least..=most).contains(number));
        if fits.is_none() {
            let found = match &self.node.value {
                Value::Number(text) => format!("{text} is not"),
                other => format!("{} is not", other.kind()),
            };
            let range = format!("a whole number from {least} to {most}");
            self.fault(sink, format!("{found} {range}"), format!("write {range}"));
        }
        fits
    }

    /// A port's number.
    pub(crate) fn port(&self, sink: &mut Sink<'_>) -> Option<u16> {
        self.whole(1, u16::MAX, sink)
    }

    pub(crate) fn duration(&self, sink: &mut Sink<'_>) -> Option<Duration> {
        let text = self.plain(sink)?;
        self.kept(value::duration(text), sink)
    }

    /// A percentage in hundredths of a percent; what looks like a share of 1 warns.
    pub(crate) fn percent(&self, sink: &mut Sink<'_>) -> Option<u32> {
        let text = self.plain(sink)?;
        let hundredths = self.kept(value::percent(text), sink)?;
        if (1..100).contains(&hundredths) && !text.ends_with('%') {
            self.warn(
                sink,
                format!("{text} is less than one percent"),
                format!("if a share was meant write {hundredths}; else write {text}%"),
            );
        }
        Some(hundredths)
    }

    /// One of some words.
    pub(crate) fn one_of<T: Copy>(&self, words: &[(&str, T)], sink: &mut Sink<'_>) -> Option<T> {
        let text = self.text(sink)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let all = known.join(", ");
        let fix = match nearest(text, &known) {
            Some(word) => format!("did you mean `{word}`? It may be: {all}"),
            None => format!("write one of: {all}"),
        };
        self.fault(sink, format!("`{text}` is not known here"), fix);
        None
    }

    /// The items of a list of at most `limit`.
    pub(crate) fn list(&self, limit: usize, sink: &mut Sink<'_>) -> Option<Vec<Self>> {
        let Value::List(items) = &self.node.value else {
            self.wrong(sink, "a list");
            return None;
        };
        if items.len() > limit {
            self.fault(
                sink,
                format!("{} items, at most {limit} are taken", items.len()),
                "split the document into several",
            );
            return None;
        }
        let item = |(index, node)| Self { node, path: format!("{}[{index}]", self.path) };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// A list of texts with a grammar. What is faulty is left out.
    pub(crate) fn list_of<T>(&self, limit: usize, sink: &mut Sink<'_>) -> Vec<T>
    where
        T: FromStr,
        T::Err: Into<InvalidValue>,
    {
        let items = self.list(limit, sink).unwrap_or_default();
        items.iter().filter_map(|item| item.parsed(sink)).collect()
    }

    /// A map's entries, keys free.
    pub(crate) fn entries(&self, limit: usize, sink: &mut Sink<'_>) -> Vec<(&'t str, Self)> {
        let Value::Map(entries) = &self.node.value else {
            self.wrong(sink, "a map");
            return Vec::new();
        };
        if entries.len() > limit {
            self.fault(
                sink,
                format!("{} entries, at most {limit} are taken", entries.len()),
                "leave some out",
            );
        }
        let entry = |(key, node): &'t (Key, Node)| {
            let path = format!("{}.{}", self.path, key.text);
            (key.text.as_str(), Self { node, path })
        };
        entries.iter().take(limit).map(entry).collect()
    }

    /// A map of free texts.
    pub(crate) fn texts(&self, sink: &mut Sink<'_>) -> BTreeMap<String, String> {
        let entries = self.entries(limits::PORTS_MAX, sink);
        let text = |(key, item): (&str, Self)| {
            let text = item.shown(sink)?;
            item.check_shown(key, sink).then(|| (key.to_owned(), text))
        };
        entries.into_iter().filter_map(text).collect()
    }

    /// A secret: text, `{file: ...}` or `{env: ...}`.
    pub(crate) fn secret(&self, sink: &mut Sink<'_>) -> Option<Secret> {
        if let Value::Secret(text) | Value::Text(text) = &self.node.value {
            return Some(Secret::Inline(text.clone()));
        }
        let mut fields = self.fields(sink)?;
        let file = fields.take("file").and_then(|item| item.shown(sink));
        let env = fields.take("env").and_then(|item| item.shown(sink));
        fields.finish(sink);
        match (file, env) {
            (Some(path), None) => Some(Secret::File(path)),
            (None, Some(name)) => Some(Secret::Env(name)),
            _ => {
                self.fault(
                    sink,
                    "it does not say where the secret is",
                    "write `{file: path}` or `{env: NAME}`",
                );
                None
            }
        }
    }

    /// The fields of a map.
    pub(crate) fn fields(&self, sink: &mut Sink<'_>) -> Option<Fields<'t>> {
        let Value::Map(entries) = &self.node.value else {
            self.wrong(sink, "a map");
            return None;
        };
        Some(Fields { at: self.node.at, path: self.path.clone(), entries, asked: Vec::new() })
    }
}

/// The fields of a map: each is taken once, and what nobody took is unknown.
pub(crate) struct Fields<'t> {
    at: Position,
    path: String,
    entries: &'t [(Key, Node)],
    asked: Vec<&'static str>,
}

impl<'t> Fields<'t> {
    /// The field, if it is there and not null.
    pub(crate) fn take(&mut self, name: &'static str) -> Option<Item<'t>> {
        self.asked.push(name);
        let (_, node) = self.entries.iter().find(|(key, _)| key.text == name)?;
        let path = self.path_of(name);
        node.is_some().then_some(Item { node, path })
    }

    /// Whether the field is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|(key, node)| key.text == name && node.is_some())
    }

    /// The field, which must be there.
    pub(crate) fn need(
        &mut self,
        name: &'static str,
        fix: &str,
        sink: &mut Sink<'_>,
    ) -> Option<Item<'t>> {
        let item = self.take(name);
        if item.is_none() {
            let why = "it is missing".to_owned();
            sink.fault(self.at, &self.path_of(name), value::invalid(why, fix));
        }
        item
    }

    /// Notes what nobody asked for.
    pub(crate) fn finish(self, sink: &mut Sink<'_>) {
        for (key, _) in self.entries {
            if self.asked.contains(&key.text.as_str()) {
                continue;
            }
            let fix = match nearest(&key.text, &self.asked) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("known here: {}", self.asked.join(", ")),
            };
            let problem = value::invalid("unknown field", fix);
            sink.fault(key.at, &self.path_of(&key.text), problem);
        }
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}
