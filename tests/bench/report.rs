//! The one table, and the same as JSON with every sample.

use serde_json::{Value, json};

/// One line: what was measured on both sides.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    name: &'static str,
    unit: &'static str,
    skein: Vec<f64>,
    serf: Vec<f64>,
}

/// All lines, in the order of [`ORDER`].
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
        if !self.rows.iter().any(|row| row.name == name && row.unit == unit) {
            self.rows.push(Row { name, unit, skein: Vec::new(), serf: Vec::new() });
            let place = |row: &Row| ORDER.iter().position(|topic| row.name.starts_with(topic));
            self.rows.sort_by_key(|row| place(row).unwrap_or(ORDER.len()));
        }
        let row = self.rows.iter_mut().find(|row| row.name == name && row.unit == unit);
        if let Some(row) = row {
            match of {
                Of::Skein => row.skein.push(sample),
                Of::Serf => row.serf.push(sample),
            }
        }
    }

    /// For people.
    pub(crate) fn table(&self, title: &str) -> String {
        let mut text =
            format!("{title}\n\n{:46}{:>20}{:>20}{:>10}\n", "", "skein", "Serf", "skein");
        let (median, worst) = ("median", "worst");
        text +=
            &format!("{:46}{median:>10}{worst:>10}{median:>10}{worst:>10}{:>10}\n", "", "to Serf");
        for row in &self.rows {
            let (skein, serf) = (summary(&row.skein), summary(&row.serf));
            let ratio = skein.zip(serf).filter(|(_, (serf, _))| *serf > 0.0);
            let ratio = ratio.map(|((skein, _), (serf, _))| format!("{:.2}", skein / serf));
            text += &format!(
                "{:46}{}{}{:>10}\n",
                [row.name, row.unit].join(" ").trim_end(),
                cells(skein),
                cells(serf),
                ratio.as_deref().unwrap_or("-")
            );
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

fn cells(summary: Option<(f64, f64)>) -> String {
    match summary {
        Some((median, worst)) => format!("{:>10}{:>10}", short(median), short(worst)),
        None => format!("{:>10}{:>10}", "-", "-"),
    }
}

fn short(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// How names of lines begin, in the order in which they are told.
const ORDER: [&str; 7] = ["join", "change", "leave", "crash", "wrong", "idle", "memory"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_tells_median_worst_and_ratio_and_where_there_is_none() {
        let mut report = Report::default();
        report.add("links", "", Of::Skein, 8.0);
        for sample in [30.0, 10.0, 200.0] {
            report.add("join", "ms", Of::Skein, sample);
        }
        report.add("join", "ms", Of::Serf, 60.0);
        let table = report.table("title");
        let lines: Vec<String> = table
            .lines()
            .skip(4)
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(lines, ["join ms 30.0 200 60.0 60.0 0.50", "links 8.0 8.0 - - -"]);
        assert_eq!(report.json()[0]["skein"]["samples"], json!([30.0, 10.0, 200.0]));
    }
}
