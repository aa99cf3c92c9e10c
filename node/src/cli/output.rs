//! What commands print: one value, as a table for people, or as JSON, YAML or names for scripts.

use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;

use super::exit::CliError;

/// How a result is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For people with wide screens.
    Wide,
    /// A contract: keys are only ever added.
    Json,
    /// The same as YAML.
    Yaml,
    /// One name per line.
    Name,
}

impl Format {
    /// Whether people read it.
    pub fn is_for_people(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

/// Where a command prints to.
pub struct Console<'a> {
    /// Results.
    pub out: &'a mut dyn Write,
    /// What went wrong, and progress.
    pub err: &'a mut dyn Write,
    /// How results are printed.
    pub format: Format,
    /// Whether `out` is a terminal that shows colour: `NO_COLOR` is not set.
    pub colour: bool,
}

impl std::fmt::Debug for Console<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Console({:?})", self.format)
    }
}

/// A result that can be printed in every format.
pub trait Show: Serialize {
    /// For people.
    fn text(&self, wide: bool) -> String;
    /// One per thing.
    fn names(&self) -> Vec<String>;
}

impl Console<'_> {
    /// Prints a result.
    pub fn show(&mut self, value: &impl Show) -> Result<(), CliError> {
        let text = match self.format {
            Format::Table => value.text(false),
            Format::Wide => value.text(true),
            Format::Name => value.names().join("\n"),
            Format::Json => serde_json::to_string_pretty(value)
                .map_err(|e| CliError::failed(format!("cannot print as JSON: {e}")))?,
            Format::Yaml => serde_saphyr::to_string(value)
                .map_err(|e| CliError::failed(format!("cannot print as YAML: {e}")))?,
        };
        self.print(&text)
    }

    /// Prints text and ends its line. A reader that has gone away (`| head`) is no failure.
    pub fn print(&mut self, text: &str) -> Result<(), CliError> {
        let text = text.trim_end_matches('\n');
        if text.is_empty() {
            return Ok(());
        }
        let written = writeln!(self.out, "{text}").and_then(|()| self.out.flush());
        match written {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                Err(CliError::failed(format!("cannot print: {e}")))
            }
            _ => Ok(()),
        }
    }

    /// Says something that is not the result.
    pub fn say(&mut self, text: &str) {
        let _ = writeln!(self.err, "{}", text.trim_end_matches('\n'));
    }
}

/// Rows under a heading, columns aligned.
#[derive(Debug)]
pub struct Rows {
    table: Table,
    empty: &'static str,
    rows: usize,
}

impl Rows {
    /// A table. `empty` is printed when there is no row.
    pub fn new(heading: &[&str], empty: &'static str) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(heading.to_vec());
        Self { table, empty, rows: 0 }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows += 1;
        self.table.add_row(cells.map(|cell| clean(&cell)));
    }

    /// The text.
    pub fn text(&self) -> String {
        if self.rows == 0 {
            return format!("{}\n", self.empty);
        }
        let lines = self.table.lines();
        lines.fold(String::new(), |text, line| text + line.trim() + "\n")
    }
}

/// Text of others without what would steer a terminal; `-` for none.
pub fn clean(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Milliseconds as people say them.
pub fn millis(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", std::time::Duration::from_millis(ms).as_secs_f64()),
        _ => seconds(ms / 1000),
    }
}

/// Seconds as people say them.
pub fn seconds(s: u64) -> String {
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min", s / 60),
        3600..172_800 => format!("{} h", s / 3600),
        _ => format!("{} d", s / 86_400),
    }
}

/// Bytes as people say them.
pub fn bytes(n: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (size, unit) in UNITS {
        if n >= size {
            return format!("{}.{} {unit}", n / size, n % size * 10 / size);
        }
    }
    format!("{n} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_said_as_people_say_them() {
        assert_eq!(millis(999), "999 ms");
        assert_eq!(millis(1_500), "1.5 s");
        assert_eq!(millis(61_000), "1 min");
        assert_eq!(seconds(200_000), "2 d");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5), "5 B");
    }

    #[test]
    fn text_of_others_cannot_steer_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\n"), "a?[2Jb?");
    }

    #[test]
    fn columns_align_and_lines_have_no_trailing_space() {
        let mut rows = Rows::new(&["NAME", "STATE"], "nothing");
        assert_eq!(rows.text(), "nothing\n");
        rows.row(["a".into(), String::new()]);
        rows.row(["longer".into(), "up".into()]);
        assert_eq!(rows.text(), "NAME    STATE\na       -\nlonger  up\n");
    }
}
