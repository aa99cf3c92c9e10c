//! Faults: what is wrong with a file, said so that its writer can mend it at once.
//!
//! Never: shows the value of a secret.

use std::fmt;

use crate::{limits, words};

/// A spot in a file, with the line it stands on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The file as its reader named it.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// In characters, at least 1.
    pub length: usize,
    /// The text of the line, secrets masked.
    pub text: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One fault: where, which key, why, and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Where it is.
    pub place: Place,
    /// The key's path, `spec.ports[0].port`; empty where the text is not YAML.
    pub key: String,
    /// What is wrong.
    pub why: String,
    /// What to do next.
    pub fix: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { line, column, length, text, .. } = &self.place;
        let gutter = " ".repeat(line.to_string().len());
        let at = if self.key.is_empty() { String::new() } else { format!("{}: ", self.key) };
        writeln!(f, "{at}{}", self.why)?;
        writeln!(f, "{gutter}--> {}", self.place)?;
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{line} | {text}")?;
        let shift = " ".repeat(column.saturating_sub(1));
        let carets = "^".repeat(*length);
        writeln!(f, "{gutter} | {shift}{carets}")?;
        write!(f, "{gutter} = {}", self.fix)
    }
}

impl Fault {
    /// The fault on one line, for logs and `status`.
    pub fn line(&self) -> String {
        let Self { place, key, why, fix } = self;
        if key.is_empty() {
            format!("{place}: {why}; {fix}")
        } else {
            format!("{place}: {key}: {why}; {fix}")
        }
    }
}

/// All faults of what was read together, in the order of the text. Never empty as an error.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().take(limits::MANIFEST_FAULTS).enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            fault.fmt(f)?;
        }
        let more = self.0.len().saturating_sub(limits::MANIFEST_FAULTS);
        if more > 0 {
            write!(f, "\n\n... and {}", words::count(more, "more fault", "more faults"))?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// The lines of a file, masked, from which places are cut.
#[derive(Debug)]
pub(crate) struct Source<'t> {
    pub(crate) file: &'t str,
    lines: Vec<&'t str>,
}

impl<'t> Source<'t> {
    pub(crate) fn new(file: &'t str, text: &'t str) -> Self {
        Self { file, lines: text.lines().collect() }
    }

    pub(crate) fn place(&self, at: Position) -> Place {
        let raw = self.lines.get(at.line.saturating_sub(1)).copied();
        let text: String = mask(raw.unwrap_or_default());
        let room = text.chars().count().saturating_sub(at.column - 1).max(1);
        Place {
            file: self.file.to_owned(),
            line: at.line,
            column: at.column,
            length: at.length.clamp(1, room),
            text,
        }
    }
}

/// Where something stands: line and column from 1, length in characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) length: usize,
}

/// Keys whose plain value is a secret.
pub(crate) const SECRET_KEYS: [&str; 1] = ["meshPassword"];

/// Hides what follows a secret's key, unless it only says where the secret is.
fn mask(line: &str) -> String {
    let clean = line.replace('\t', " ");
    for key in SECRET_KEYS {
        let Some((before, after)) = clean.split_once(key) else {
            continue;
        };
        let Some((colon, value)) = after.split_once(':') else {
            continue;
        };
        if !value.trim_start().starts_with('{') && !value.trim().is_empty() {
            return format!("{before}{key}{colon}: ***");
        }
    }
    clean
}

/// The known word nearest to `word`, if one is near enough to be what was meant.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let plain = |text: &str| text.to_lowercase().replace(['_', '-'], "");
    let word = plain(word);
    known
        .iter()
        .map(|candidate| (distance(&word, &plain(candidate)), *candidate))
        .min()
        .filter(|(steps, _)| *steps <= (word.chars().count() / 3).clamp(1, 3))
        .map(|(_, candidate)| candidate)
}

/// Letters to add, drop or change (Levenshtein); letters in another order are one change, since
/// `prots` is what fingers make of `ports`.
fn distance(from: &str, to: &str) -> usize {
    let sorted = |text: &str| {
        let mut letters: Vec<char> = text.chars().collect();
        letters.sort_unstable();
        letters
    };
    if from != to && sorted(from) == sorted(to) {
        return 1;
    }
    let to: Vec<char> = to.chars().take(limits::LABEL_BYTES).collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, letter) in from.chars().take(limits::LABEL_BYTES).enumerate() {
        let mut next = vec![index + 1];
        let pairs = row.iter().zip(row.iter().skip(1)).zip(&to);
        for ((diagonal, above), other) in pairs {
            let left = next.last().copied().unwrap_or_default();
            let change = diagonal + usize::from(letter != *other);
            next.push(change.min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_points_at_its_spot() {
        let source = Source::new("a.yaml", "spec:\n  prot: 80\n");
        let place = source.place(Position { line: 2, column: 3, length: 4 });
        let fault = Fault {
            place,
            key: "spec.prot".into(),
            why: "unknown field".into(),
            fix: "did you mean `port`?".into(),
        };
        assert_eq!(
            fault.to_string(),
            "spec.prot: unknown field\n --> a.yaml:2:3\n  |\n2 |   prot: 80\n  |   ^^^^\n  = did you mean `port`?"
        );
    }

    #[test]
    fn a_line_never_shows_a_secret() {
        assert_eq!(mask("  meshPassword: hunter2"), "  meshPassword: ***");
        assert_eq!(mask("{\"meshPassword\": x, a: 1}"), "{\"meshPassword\": ***");
        assert_eq!(mask("meshPassword: {env: X}"), "meshPassword: {env: X}");
    }

    #[test]
    fn what_was_meant_is_found_and_what_is_far_is_not() {
        let known = ["port", "targetPort", "type"];
        assert_eq!(nearest("prot", &known), Some("port"));
        assert_eq!(nearest("target_port", &known), Some("targetPort"));
        assert_eq!(nearest("banana", &known), None);
    }
}
