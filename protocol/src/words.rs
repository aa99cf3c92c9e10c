//! Words: numbers as people say them, in errors and reports.

use std::time::Duration;

/// A number and its noun: `1 fault`, `2 faults`.
pub fn count(number: impl TryInto<u64>, one: &str, many: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A span of time in its largest unit: `45 s`, `12 min`, `30 h`, `5 days`.
pub fn span(span: Duration) -> String {
    match span.as_secs() {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3_600 => format!("{} min", s / 60),
        s @ 3_600..172_800 => format!("{} h", s / 3_600),
        s => format!("{} days", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_a_span_is_in_its_largest_unit() {
        assert_eq!(count(1_usize, "fault", "faults"), "1 fault");
        assert_eq!(count(0_u32, "fault", "faults"), "0 faults");
        let said = |s| span(Duration::from_secs(s));
        assert_eq!((said(59), said(60)), ("59 s".into(), "1 min".into()));
        assert_eq!((said(3_600), said(172_800)), ("1 h".into(), "2 days".into()));
    }
}
