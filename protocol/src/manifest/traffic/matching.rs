//! Matches: which requests a policy is about, and which of two matches fits better.

use std::{cmp::Ordering, collections::BTreeMap};

use super::super::{
    reader::{Item, Sink},
    value::invalid,
};
use crate::limits;

/// What a match looks at: a request's head, its path already in canonical form.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a str,
    /// The path, canonical, without the query.
    pub path: &'a str,
    /// The query behind `?`; empty when there is none.
    pub query: &'a str,
    /// Headers: names in lower case.
    pub headers: &'a [(&'a str, &'a str)],
}

/// Which requests: all that is said must hold. Nothing said: every request, and every connection
/// of bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Match {
    /// The path.
    pub path: Option<PathMatch>,
    /// One of these methods; empty: any.
    pub methods: Vec<String>,
    /// Headers by name in lower case.
    pub headers: BTreeMap<String, HeaderMatch>,
    /// Query keys and the value that each must have.
    pub query: BTreeMap<String, String>,
}

/// How a path is matched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PathMatch {
    /// It is this.
    Exact(String),
    /// The whole of it fits; linear in its length.
    Regex(PathRegex),
    /// It is this or lies below it: `/v1` is `/v1` and `/v1/x`, not `/v10`.
    Prefix(String),
}

/// A regular expression that a whole path must fit.
#[derive(Clone, Debug)]
pub struct PathRegex {
    text: String,
    whole: regex_lite::Regex,
}

impl PartialEq for PathRegex {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for PathRegex {}

impl PathMatch {
    /// The field it is written in, and its text.
    pub fn words(&self) -> (&'static str, &str) {
        match self {
            Self::Exact(text) => ("path", text),
            Self::Regex(regex) => ("regex", &regex.text),
            Self::Prefix(text) => ("prefix", text),
        }
    }

    fn covers(&self, path: &str) -> bool {
        match self {
            Self::Exact(text) => path == text,
            Self::Regex(regex) => regex.whole.is_match(path),
            Self::Prefix(text) => path.strip_prefix(text.as_str()).is_some_and(|rest| {
                rest.is_empty() || text.ends_with('/') || rest.starts_with('/')
            }),
        }
    }
}

/// How a header is matched.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum HeaderMatch {
    /// One of its values is this.
    Is(String),
    /// It is there.
    Present,
    /// It is not there.
    Absent,
}

/// How well a match fits, for the order between policies of one type: the greater wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Specificity {
    /// Exact path, regular expression, prefix, none.
    path: u8,
    /// Of prefixes, the longer.
    length: usize,
    method: bool,
    headers: usize,
    query: usize,
}

impl Match {
    /// Whether every request is meant.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// Whether this request is meant.
    pub fn covers(&self, request: &Request<'_>) -> bool {
        self.path.as_ref().is_none_or(|path| path.covers(request.path))
            && (self.methods.is_empty()
                || self.methods.iter().any(|method| method == request.method))
            && self.headers.iter().all(|(name, wanted)| wanted.covers(name, request.headers))
            && self.query.iter().all(|(key, value)| has(request.query, key, value))
    }

    /// How well it fits: exact path, then regular expression, then the longest prefix; then a
    /// method, more headers, more query keys.
    pub fn specificity(&self) -> Specificity {
        let (path, length) = match &self.path {
            Some(PathMatch::Exact(_)) => (3, 0),
            Some(PathMatch::Regex(_)) => (2, 0),
            Some(PathMatch::Prefix(text)) => (1, text.len()),
            None => (0, 0),
        };
        Specificity {
            path,
            length,
            method: !self.methods.is_empty(),
            headers: self.headers.len(),
            query: self.query.len(),
        }
    }

    /// Best fit first.
    pub fn best_first(&self, other: &Self) -> Ordering {
        other.specificity().cmp(&self.specificity())
    }
}

impl HeaderMatch {
    fn covers(&self, name: &str, headers: &[(&str, &str)]) -> bool {
        let mut values = headers.iter().filter(|(key, _)| *key == name).map(|(_, value)| *value);
        match self {
            Self::Is(wanted) => values.any(|value| value == wanted),
            Self::Present => values.next().is_some(),
            Self::Absent => values.next().is_none(),
        }
    }
}

/// Whether the query has that key with that value, as they stand on the wire.
fn has(query: &str, key: &str, value: &str) -> bool {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.into_iter().any(|pair| pair == (key, value))
}

/// Reads `match`.
pub(super) fn matches(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<Match> {
    let mut fields = item.fields(sink)?;
    let path = fields.take("path").and_then(|item| absolute(&item, sink).map(PathMatch::Exact));
    let prefix = fields.take("prefix");
    let prefix = prefix.and_then(|item| absolute(&item, sink).map(PathMatch::Prefix));
    let regex = fields.take("regex").and_then(|item| regex(&item, sink).map(PathMatch::Regex));
    let mut paths = [path, prefix, regex].into_iter().flatten();
    let path = paths.next();
    if paths.next().is_some() {
        item.fault(sink, "a path is matched one way", "keep one of path, prefix and regex");
    }
    let one = fields.take("method").and_then(|item| method(&item, sink));
    let several = fields.take("methods").map(|item| {
        let items = item.list(limits::PORTS_MAX, sink).unwrap_or_default();
        items.iter().filter_map(|item| method(item, sink)).collect::<Vec<_>>()
    });
    let mut methods = several.unwrap_or_default();
    methods.extend(one);
    methods.sort_unstable();
    methods.dedup();
    let headers = fields.take("headers").map(|item| {
        let entries = item.entries(limits::PORTS_MAX, sink);
        entries.iter().filter_map(|(name, item)| header(name, item, sink)).collect()
    });
    let query = fields.take("query").map(|item| item.texts(sink));
    fields.finish(sink);
    Some(Match {
        path,
        methods,
        headers: headers.unwrap_or_default(),
        query: query.unwrap_or_default(),
    })
}

/// A path from the root, without a query.
pub(super) fn absolute(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let text = item.shown(sink)?;
    if text.starts_with('/') && !text.contains(['?', '#', ' ']) {
        item.kept(super::super::policy::canonical(&text, &text), sink)?;
        return Some(text);
    }
    let fix = "write it from the root and without a query: `/v1/orders`";
    item.fault(sink, format!("`{text}` is not a path"), fix);
    None
}

fn regex(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<PathRegex> {
    let text = item.shown(sink)?;
    let built = regex_lite::RegexBuilder::new(&format!("^(?:{text})$"))
        .size_limit(limits::REGEX_BYTES)
        .build();
    let fix = "it must cover the whole path: `/v[0-9]+/orders(/.*)?`";
    let why = |error| invalid(format!("`{text}` is not taken: {error}"), fix);
    let whole = item.kept(built.map_err(why), sink)?;
    Some(PathRegex { text, whole })
}

fn method(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let text = item.text(sink)?;
    if (1..=limits::METHOD_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-')
    {
        return Some(text.to_owned());
    }
    item.fault(sink, format!("`{text}` is not a method"), "write it in capitals: `GET`");
    None
}

/// A header's name in lower case.
pub(super) fn header_name(text: &str) -> Option<String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let fits = (1..=limits::HEADER_NAME_BYTES).contains(&text.len()) && text.bytes().all(good);
    fits.then(|| text.to_ascii_lowercase())
}

fn header(name: &str, item: &Item<'_>, sink: &mut Sink<'_>) -> Option<(String, HeaderMatch)> {
    let Some(name) = header_name(name) else {
        item.fault(sink, format!("`{name}` is not a header's name"), "letters, digits and `-`");
        return None;
    };
    let wanted = if item.is_map() {
        let mut fields = item.fields(sink)?;
        let present = fields.take("present").and_then(|item| item.truth(sink));
        fields.finish(sink);
        if present? { HeaderMatch::Present } else { HeaderMatch::Absent }
    } else {
        HeaderMatch::Is(item.shown(sink)?)
    };
    Some((name, wanted))
}
