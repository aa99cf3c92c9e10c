//! The one table, and the same as JSON with every sample.

use std::fmt::Write;

use serde_json::{Value, json};

/// One line: what was measured on both sides.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    name: &'static str,
    unit: &'static str,
    skein: Vec<f64>,
    serf: Vec<f64>,
}

/// All lines, in the order of their first samples.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

/// Which side a sample is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Of {
    Skein,
    Serf,
}

impl Report {
    /// Adds one sample.
    pub(crate) fn add(&mut self, name: &'static str, unit: &'static str, of: Of, sample: f64) {
        let new = Row { name, unit, skein: Vec::new(), serf: Vec::new() };
        let row = match self.rows.iter().position(|row| row.name == name && row.unit == unit) {
            Some(place) => self.rows.get_mut(place),
            None => {
                self.rows.push(new);
                self.rows.last_mut()
            }
        };
        if let Some(row) = row {
            match of {
                Of::Skein => row.skein.push(sample),
                Of::Serf => row.serf.push(sample),
            }
        }
    }

    /// For people.
    pub(crate) fn table(&self, title: &str) -> String {
        let mut text = format!("{title}\n\n{:50}{:>20}{:>20}\n", "", "skein", "Serf");
        let (median, worst) = ("median", "worst");
        let _ = writeln!(text, "{:50}{median:>10}{worst:>10}{median:>10}{worst:>10}", "");
        for row in &self.rows {
            let name = match row.unit {
                "" => row.name.to_owned(),
                unit => format!("{}, {unit}", row.name),
            };
            let _ = write!(text, "{name:50}");
            for samples in [&row.skein, &row.serf] {
                match summary(samples) {
                    Some((median, worst)) => {
                        let _ = write!(text, "{:>10}{:>10}", short(median), short(worst));
                    }
                    None => {
                        let _ = write!(text, "{:>10}{:>10}", "-", "-");
                    }
                }
            }
            text.push('\n');
        }
        text
    }

    /// For scripts.
    pub(crate) fn json(&self) -> Value {
        let side = |samples: &[f64]| match summary(samples) {
            Some((median, worst)) => json!({"median": median, "worst": worst, "samples": samples}),
            None => Value::Null,
        };
        let row = |row: &Row| {
            json!({
                "name": row.name,
                "unit": row.unit,
                "skein": side(&row.skein),
                "serf": side(&row.serf),
            })
        };
        self.rows.iter().map(row).collect()
    }
}

/// The median (of an even number the lower one) and the worst, which is the highest.
fn summary(samples: &[f64]) -> Option<(f64, f64)> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = sorted.get(sorted.len().checked_sub(1)? / 2)?;
    Some((*median, *sorted.last()?))
}

fn short(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_tells_median_and_worst_of_each_side_and_says_where_there_is_none() {
        let mut report = Report::default();
        for sample in [30.0, 10.0, 200.0] {
            report.add("join", "ms", Of::Skein, sample);
        }
        report.add("join", "ms", Of::Serf, 5.0);
        report.add("links", "", Of::Skein, 8.0);
        let table = report.table("title");
        let line = |name: &str| {
            let line = table.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().rev().take(4).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(line("join"), "5.0 5.0 200 30.0");
        assert_eq!(line("links"), "- - 8.0 8.0");
        assert_eq!(report.json()[0]["skein"]["samples"], json!([30.0, 10.0, 200.0]));
    }
}
