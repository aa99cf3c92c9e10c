//! Shrinking: from a plan that breaks something to the shortest one found that still does.
//!
//! The schedule is cut in halves, quarters and so on (delta debugging, Zeller and Hildebrandt
//! 2002); what is left out and changes nothing stays out.

use anyhow::Result;

use crate::{checks::Check, plan::Plan, run};

/// Runs that one shrinking may take.
const RUNS_MAX: usize = 200;

/// A shorter plan that breaks the same check, and how many runs it took to find.
pub fn shrink(plan: &Plan, check: Check) -> Result<(Plan, usize)> {
    let mut best = plan.clone();
    let mut runs = 0;
    let breaks = |candidate: &Plan, runs: &mut usize| -> Result<bool> {
        *runs += 1;
        Ok(run::run(candidate)?.violation.is_some_and(|violation| violation.check == check))
    };
    let mut calm = best.clone();
    calm.options.weather.loss = 0.0;
    calm.options.weather.duplicate = 0.0;
    calm.options.weather.reorder = 0.0;
    calm.options.weather.wan = false;
    if breaks(&calm, &mut runs)? {
        best = calm;
    }
    let mut chunk = best.schedule.len().div_ceil(2);
    while chunk > 0 && runs < RUNS_MAX {
        let mut at = 0;
        let mut shorter = false;
        while at < best.schedule.len() && runs < RUNS_MAX {
            let mut candidate = best.clone();
            let end = (at + chunk).min(candidate.schedule.len());
            candidate.schedule.drain(at..end);
            if breaks(&candidate, &mut runs)? {
                best = candidate;
                shorter = true;
            } else {
                at = end;
            }
        }
        if !shorter || chunk > best.schedule.len() {
            chunk /= 2;
        }
    }
    Ok((best, runs))
}
