//! The tree: YAML text as nodes that know where they stand. The one file that names serde-saphyr.
//!
//! Serde's derived structs stop at the first fault; a person wants all of them. So the text
//! becomes a tree first, and [`super::reader`] takes it apart and notes every fault on the way.
//!
//! Never: expands more aliases, or nests deeper, than its budget allows.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, SeqAccess, Visitor},
    ser::{SerializeMap, SerializeSeq},
};
use serde_saphyr::Spanned;

use super::fault::{Fault, Faults, Position, Source};
use crate::{limits, name::Hash};

/// What a secret is shown as.
const REDACTED: &str = "***";

/// A node and where it stands. Equality is of content, not of place.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) at: Position,
}

/// A YAML value. Numbers keep their spelling, so that `1.10` is not `1.1`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    Secret(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) at: Position,
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Eq for Node {}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Key {}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            Self::Number(text) => f.write_str(text),
            Self::Text(text) => text.fmt(f),
            Self::Secret(_) => f.write_str(REDACTED),
            Self::List(items) => f.debug_list().entries(items).finish(),
            Self::Map(entries) => {
                f.debug_map().entries(entries.iter().map(|(key, node)| (&key.text, node))).finish()
            }
        }
    }
}

impl Value {
    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) | Self::Secret(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

impl Node {
    /// Whether there is something.
    pub(crate) fn is_some(&self) -> bool {
        self.value != Value::Null
    }

    /// The node of that key, if this is a map that has it.
    pub(crate) fn field(&self, key: &str) -> Option<&Self> {
        let Value::Map(entries) = &self.value else {
            return None;
        };
        entries.iter().find_map(|(found, node)| (found.text == key).then_some(node))
    }

    /// Turns plain values of `keys` into secrets, wherever they stand.
    pub(crate) fn hide(&mut self, keys: &[&str]) {
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.hide(keys)),
            Value::Map(entries) => {
                for (key, node) in entries {
                    let secret = keys.contains(&key.text.as_str());
                    match &node.value {
                        Value::Text(text) | Value::Number(text) if secret => {
                            node.value = Value::Secret(text.clone());
                        }
                        _ => node.hide(keys),
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Secret(_) => {
            }
        }
    }

    /// The same with secrets as plain text: for the agent's own disk only.
    pub(crate) fn revealed(&self) -> Self {
        let value = match &self.value {
            Value::Secret(text) => Value::Text(text.clone()),
            Value::List(items) => Value::List(items.iter().map(Self::revealed).collect()),
            Value::Map(entries) => Value::Map(
                entries.iter().map(|(key, node)| (key.clone(), node.revealed())).collect(),
            ),
            other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_)) => {
                other.clone()
            }
        };
        Self { value, at: self.at }
    }

    /// A hash of the content: of no order of keys, of no place, of no secret.
    pub(crate) fn hash(&self) -> Hash {
        match &self.value {
            Value::Null => Hash::of(&[b"null"]),
            Value::Bool(value) => Hash::of(&[b"bool", &[u8::from(*value)]]),
            Value::Number(text) => Hash::of(&[b"number", text.as_bytes()]),
            Value::Text(text) => Hash::of(&[b"text", text.as_bytes()]),
            Value::Secret(_) => Hash::of(&[b"secret"]),
            Value::List(items) => {
                let parts: Vec<[u8; 32]> = items.iter().map(|item| item.hash().0).collect();
                Hash::of(&[b"list", parts.concat().as_slice()])
            }
            Value::Map(entries) => {
                let mut parts: Vec<[u8; 64]> = entries
                    .iter()
                    .filter(|(_, node)| node.is_some())
                    .map(|(key, node)| {
                        let mut part = [0; 64];
                        let halves =
                            Hash::of(&[key.text.as_bytes()]).0.into_iter().chain(node.hash().0);
                        part.iter_mut().zip(halves).for_each(|(to, from)| *to = from);
                        part
                    })
                    .collect();
                parts.sort_unstable();
                Hash::of(&[b"map", parts.concat().as_slice()])
            }
        }
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.value {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Number(text) => match (text.parse::<i64>(), text.parse::<f64>()) {
                (Ok(whole), _) => serializer.serialize_i64(whole),
                (Err(_), Ok(number)) if number.is_finite() => serializer.serialize_f64(number),
                _ => serializer.serialize_str(text),
            },
            Value::Text(text) => serializer.serialize_str(text),
            Value::Secret(_) => serializer.serialize_str(REDACTED),
            Value::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| list.serialize_element(item))?;
                list.end()
            }
            Value::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                entries.iter().try_for_each(|(key, node)| map.serialize_entry(&key.text, node))?;
                map.end()
            }
        }
    }
}

/// The documents of a text. A text that is not YAML has one fault: where it stops being so.
pub(crate) fn documents(source: &Source<'_>, text: &str) -> Result<Vec<Node>, Faults> {
    let start = Position { line: 1, column: 1, length: 1 };
    let fault = |at, why: String, fix: &str| {
        Faults(vec![Fault {
            place: source.place(at),
            key: String::new(),
            why,
            fix: fix.to_owned(),
        }])
    };
    if text.len() > limits::MANIFEST_BYTES {
        let why = format!(
            "the file has {} bytes, at most {} are read",
            text.len(),
            limits::MANIFEST_BYTES
        );
        return Err(fault(start, why, "split it into several files"));
    }
    let parsed =
        serde_saphyr::from_multiple_with_options::<Spanned<Raw>>(text, options()).map_err(|e| {
            let at = e.location().map_or(start, |location| position(&location));
            let message = e.without_snippet().to_string();
            let why = message.lines().next().unwrap_or_default().to_owned();
            fault(
                at,
                format!("this is not YAML that can be read: {why}"),
                "mend the text here; indentation is by spaces, and texts with `: `, `#`, `{` or `*` need quotes",
            )
        })?;
    Ok(parsed.into_iter().map(|raw| place(raw, text)).collect())
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: limits::MANIFEST_DEPTH,
            max_documents: limits::MANIFEST_DOCUMENTS,
            max_nodes: limits::MANIFEST_NODES,
            max_events: 4 * limits::MANIFEST_NODES,
            max_aliases: limits::MANIFEST_ALIASES,
            max_anchors: limits::MANIFEST_ALIASES,
            max_merge_keys: limits::MANIFEST_ALIASES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: limits::MANIFEST_NODES,
            max_replay_stack_depth: 8,
            max_alias_expansions_per_anchor: limits::MANIFEST_ALIASES,
        },
        strict_booleans: true,
        with_snippet: false,
    }
}

fn position(location: &serde_saphyr::Location) -> Position {
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Position {
        line: count(location.line()).max(1),
        column: count(location.column()).max(1),
        length: count(location.span().len()).max(1),
    }
}

/// A value as the parser gives it, before its place and spelling are looked up.
enum Raw {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<String>, Spanned<Self>)>),
}

fn place(raw: Spanned<Raw>, text: &str) -> Node {
    let at = position(&raw.referenced);
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Bool(value) => Value::Bool(value),
        Raw::Number(parsed) => {
            Value::Number(spelling(&raw.defined, text).map_or(parsed, str::to_owned))
        }
        Raw::Text(value) => Value::Text(value),
        Raw::List(items) => Value::List(items.into_iter().map(|item| place(item, text)).collect()),
        Raw::Map(entries) => {
            let entry = |(key, value): (Spanned<String>, _)| {
                let at = position(&key.referenced);
                let text_of_key = key.value;
                (Key { text: text_of_key, at }, place(value, text))
            };
            Value::Map(entries.into_iter().map(entry).collect())
        }
    };
    Node { value, at }
}

fn spelling<'t>(location: &serde_saphyr::Location, text: &'t str) -> Option<&'t str> {
    let start = usize::try_from(location.span().byte_offset()?).ok()?;
    let length = usize::try_from(location.span().byte_len()?).ok()?;
    let spelled = text.get(start..start.checked_add(length)?)?.trim();
    (!spelled.is_empty()).then_some(spelled)
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Number(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Number(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Node>, Faults> {
        documents(&Source::new("t.yaml", text), text)
    }

    #[test]
    fn every_node_knows_where_it_stands() {
        let documents = read("a: 1\nb:\n- x\n- {c: 1.10, d: \"2\"}\n---\ne: no\n").unwrap();
        assert_eq!(documents.len(), 2);
        let list = documents[0].field("b").unwrap();
        let Value::List(items) = &list.value else { panic!("{list:?}") };
        let number = items[1].field("c").unwrap();
        assert_eq!(number.value, Value::Number("1.10".into()));
        assert_eq!((number.at.line, number.at.column, number.at.length), (4, 7, 4));
        assert_eq!(items[1].field("d").unwrap().value, Value::Text("2".into()));
        let second = documents[1].field("e").unwrap();
        assert_eq!(second.value, Value::Text("no".into()));
        assert_eq!(second.at.line, 6);
    }

    #[test]
    fn what_is_not_yaml_says_where() {
        let faults = read("a: 1\nb: {c: 1\nd: 2\n").unwrap_err();
        assert_eq!(faults.0.len(), 1);
        assert!(faults.0[0].place.line >= 2, "{faults}");
        let twice = read("a: 1\na: 2\n").unwrap_err();
        assert_eq!(twice.0[0].place.line, 2, "{twice}");
    }

    #[test]
    fn a_bomb_of_aliases_or_depth_is_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..10 {
            let items = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{items}]\n"));
        }
        assert!(read(&bomb).is_err());
        assert!(read(&"[".repeat(10_000)).is_err());
        assert!(read(&format!("{}x{}", "[".repeat(100), "]".repeat(100))).is_err());
    }

    #[test]
    fn a_hash_is_of_content_alone() {
        let hash = |text: &str| read(text).unwrap()[0].hash();
        assert_eq!(hash("a: 1\nb: [x, y]\n"), hash("# so\nb:\n  - x\n  - y\na: 1\n"));
        assert_ne!(hash("b: [x, y]"), hash("b: [y, x]"));
        assert_ne!(hash("a: 1"), hash("a: \"1\""));
    }
}
