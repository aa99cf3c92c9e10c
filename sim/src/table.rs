//! The table of cases: those of the design that a simulator can show, and what shows each.

use std::{collections::BTreeSet, fmt::Write as _};

use anyhow::Result;

use crate::{
    campaign::each_seed,
    plan::{Family, Plan},
    run,
};

/// A case.
#[derive(Debug)]
pub struct Case {
    /// Its number in the list.
    pub number: u8,
    /// What is done.
    pub what: &'static str,
    /// Tests in `sim/src/cases`, which `cargo nextest run -p skein-sim` runs.
    pub tests: &'static [&'static str],
    /// Families of the campaign that do it: seeds with any of them on count.
    pub families: &'static [Family],
}

macro_rules! case {
    ($number:literal, $what:literal, [$($test:ident),*], [$($family:ident),*]) => {
        Case {
            number: $number,
            what: $what,
            tests: &[$(stringify!($test)),*],
            families: &[$(Family::$family),*],
        }
    };
}

/// All but those about what the simulator does not model.
pub const CASES: [Case; 38] = [
    case!(
        1,
        "0 to 40 % loss",
        [case_1_loss_up_to_two_fifths_converges_and_a_little_kills_nobody],
        [Loss]
    ),
    case!(
        2,
        "every frame twice, out of turn",
        [case_2_every_frame_twice_changes_nothing],
        [Disorder]
    ),
    case!(
        3,
        "halves, then healed",
        [halves_go_on_alone_and_are_one_again_soon_after_the_cut_is_mended],
        [Partitions]
    ),
    case!(4, "a path that carries one way", [], [OneWay]),
    case!(5, "ring, star, bridge", [], [Partitions]),
    case!(6, "paths clogged and freed in another order", [], [Clogs]),
    case!(
        7,
        "half a second of delay, zones",
        [case_7_half_a_second_of_delay_kills_nobody_and_calls_stay_in_their_zone],
        [Wan]
    ),
    case!(8, "a line of some kilobytes a second", [], [Capacity]),
    case!(9, "a clock ten minutes off", [], [Clocks]),
    case!(10, "a clock a year ahead, and back", [], [Clocks]),
    case!(11, "a machine frozen for 30 s", [], [Pauses]),
    case!(
        12,
        "30 days of drift",
        [case_12_clocks_that_drift_for_thirty_days_end_nothing_before_its_time],
        []
    ),
    case!(
        14,
        "a crash at every moment",
        [case_14_a_crash_at_any_moment_never_reuses_a_sequence],
        [Crashes]
    ),
    case!(
        15,
        "a disk that is empty",
        [case_15_an_empty_disk_is_told_and_records_are_learned_again],
        [Disks]
    ),
    case!(
        16,
        "writes that were lost",
        [case_16_a_disk_that_went_back_leaps_over_what_peers_have_seen],
        [Disks]
    ),
    case!(17, "a snapshot restored", [], [Disks]),
    case!(18, "a host cloned", [case_18_two_hosts_with_one_key_fence_both_and_say_so], [Clones]),
    case!(19, "a disk that is full", [a_full_disk_refuses_what_is_new_and_keeps_what_is], [Disks]),
    case!(
        20,
        "a restart every 5 s for an hour",
        [case_20_a_host_that_restarts_for_an_hour_is_last_choice_and_costs_little],
        [Crashes]
    ),
    case!(
        21,
        "a cold start, seeds last",
        [case_21_a_cold_start_with_the_seeds_last_spares_the_seeds],
        []
    ),
    case!(22, "frames and records of a newer agent", [], [Upgrade]),
    case!(
        23,
        "a record that breaks one version",
        [case_23_a_record_that_breaks_one_version_is_set_aside_and_its_last_good_one_serves],
        []
    ),
    case!(
        27,
        "a record signed by another key",
        [case_27_a_record_signed_by_another_key_is_dropped_and_blamed],
        [Adversaries]
    ),
    case!(
        28,
        "a service outside of the grant",
        [case_28_a_service_that_the_grant_does_not_name_is_not_believed],
        [Adversaries]
    ),
    case!(
        29,
        "an old record replayed",
        [case_29_an_old_record_replayed_changes_nothing_and_blames_nobody],
        [Adversaries]
    ),
    case!(
        30,
        "two contents at one sequence",
        [case_30_two_contents_at_one_sequence_converge_on_one_and_eject_the_origin],
        [Adversaries]
    ),
    case!(
        31,
        "a sequence at the end of the range",
        [case_31_a_sequence_beyond_the_limit_is_refused],
        [Adversaries]
    ),
    case!(
        32,
        "a peer's word about my own record",
        [case_32_a_peer_cannot_overwrite_what_a_node_says_of_itself],
        [Adversaries]
    ),
    case!(33, "false witness of one liar", [one_liar_alone_kills_nobody], [Adversaries]),
    case!(34, "hosts that nobody admitted", [], [Adversaries]),
    case!(35, "a quarter of the mesh keeps all from a host", [], [Silence]),
    case!(36, "relays that keep everything back", [], [Silence]),
    case!(
        37,
        "a revoked host stays connected",
        [a_revoked_node_is_out_everywhere_and_stays_out],
        [Revocations]
    ),
    case!(
        38,
        "a revocation in a minority",
        [case_38_a_revocation_in_a_minority_counts_there_at_once_and_everywhere_after],
        [Revocations]
    ),
    case!(
        39,
        "documents forged, cut short, old",
        [case_39_documents_that_are_forged_cut_short_or_old_change_nothing],
        []
    ),
    case!(
        40,
        "an old policy for a fresh host",
        [case_40_a_fresh_host_serves_nobody_by_an_old_policy_that_one_peer_offers],
        []
    ),
    case!(
        43,
        "an operator's key that ends during a cut",
        [case_43_what_an_operator_signs_after_its_end_is_nowhere_when_the_cut_is_mended],
        []
    ),
    case!(
        44,
        "an address of somebody else",
        [case_44_an_address_of_somebody_else_costs_him_few_dials_and_its_host_is_not_lost],
        []
    ),
];

/// Runs so many seeds of the campaign, and says of each case what shows it.
pub fn table(seeds: u64, threads: usize) -> Result<(String, bool)> {
    let runs = std::sync::Mutex::new(Vec::new());
    each_seed(1, seeds, threads, None, |seed| {
        let plan = Plan::of(seed);
        let broke = run::run(&plan)?.violation.is_some();
        if let Ok(mut runs) = runs.lock() {
            runs.push((plan.families, broke));
        }
        Ok(())
    })?;
    let runs: Vec<(BTreeSet<Family>, bool)> = runs.into_inner().unwrap_or_default();
    let mut text = format!(
        "{:>4}  {:<42} {:<20} {:>6} {:>7}  test in sim/src/cases\n",
        "case", "what is done", "family", "seeds", "broken"
    );
    for case in &CASES {
        let meant = |(on, _): &&(BTreeSet<Family>, bool)| {
            case.families.iter().any(|family| on.contains(family))
        };
        let count = runs.iter().filter(meant).count();
        let broken = runs.iter().filter(meant).filter(|(_, broke)| *broke).count();
        let families: Vec<String> = case.families.iter().map(|f| format!("{f:?}")).collect();
        let tests = if case.tests.is_empty() { "-".to_owned() } else { case.tests.join(", ") };
        let _ = writeln!(
            text,
            "{:>4}  {:<42} {:<20} {count:>6} {broken:>7}  {tests}",
            case.number,
            case.what,
            families.join(", ")
        );
    }
    Ok((text, runs.iter().all(|(_, broke)| !broke)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_shown_by_something_that_there_is() {
        let cases = concat!(
            include_str!("cases/mod.rs"),
            include_str!("cases/long.rs"),
            include_str!("cases/policy.rs")
        );
        for case in &CASES {
            assert!(!case.tests.is_empty() || !case.families.is_empty(), "{}", case.number);
            for test in case.tests {
                assert!(cases.contains(&format!("fn {test}()")), "{test}");
            }
        }
    }
}
