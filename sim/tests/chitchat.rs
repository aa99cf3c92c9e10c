//! The chitchat mode of `skein-sim`: one process a seed, since what answers for the C library's
//! entropy belongs to the process.

#![cfg(feature = "chitchat")]

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// What the binary prints of a quiet day, once it has ended well.
fn run(arguments: &[&str]) -> Result<String> {
    said(&[&["--mode", "chitchat"], arguments].concat())
}

/// What the binary prints, once it has ended well.
fn said(arguments: &[&str]) -> Result<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_skein-sim")).args(arguments).output()?;
    let (out, err) = (&output.stdout, &output.stderr);
    let (out, err) = (String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    ensure!(output.status.success(), "{arguments:?} ends with {}: {out}{err}", output.status);
    ensure!(!err.contains("panicked"), "{err}");
    Ok(out.into_owned())
}

/// What stands after `before` on a line of `output`, up to the next space.
fn after<'a>(output: &'a str, before: &str) -> Result<&'a str> {
    let (_, rest) = output.split_once(before).with_context(|| format!("{before} in {output}"))?;
    rest.split_whitespace().next().context("something after it")
}

#[test]
fn one_seed_is_one_trace_of_the_real_chitchat_and_another_seed_another() -> Result<()> {
    let run = |seed| run(&["--nodes", "8", "--seed", seed]);
    let (first, again, other) = (run("7")?, run("7")?, run("8")?);
    assert_eq!(first, again, "every line of it, the hash of every frame too");
    assert_ne!(after(&first, "\ntrace ")?, after(&other, "\ntrace ")?);
    let drawn: u64 = after(&first, "from the seed ")?.parse()?;
    assert!(drawn > 0, "nobody drew from the seed: the library's own entropy was used");
    Ok(())
}

#[test]
fn gossip_that_no_agent_sends_ends_no_task_and_leaves_every_view_right() -> Result<()> {
    for seed in ["3", "4"] {
        let output = run(&["--nodes", "8", "--seed", seed, "--attack", "--loss", "0"])?;
        for way in ["attack: ", "links' own form, ", "in chitchat's, "] {
            let sent: u64 = after(&output, way)?.parse()?;
            assert!(sent >= 7, "{way}: {output}");
        }
        let blamed: u64 = after(&output, "blamed on node 6 ")?.parse()?;
        // Past the links each of seven is told five things, of which C5 alone costs no blame.
        assert!(blamed >= 7 * 4, "{output}");
        assert!(output.contains("gossip ended nowhere"), "{output}");
    }
    Ok(())
}

#[test]
fn idle_gossip_stays_within_its_figures() -> Result<()> {
    let output = run(&["--nodes", "20", "--seed", "5"])?;
    let bytes: f64 = after(&output, "gossip ")?.parse()?;
    assert!(bytes < 60.0, "{output}");
    Ok(())
}

/// That those seeds hold with chitchat and without, and end in the same.
fn agree(seeds: &[&str]) -> Result<()> {
    for seed in seeds {
        let output = said(&["agree", seed])?;
        let beliefs: u64 = after(&output, "\n0 of ")?.parse()?;
        let gossiped: u64 = after(&output, "chitchat: holds, ")?.parse()?;
        assert!(beliefs > 8 && gossiped > 10_000, "{output}");
    }
    Ok(())
}

#[test]
fn plans_of_crashes_partitions_and_disks_end_alike_with_chitchat_and_without() -> Result<()> {
    agree(&["2", "13", "19", "51", "52", "73", "120"])
}

#[test]
fn plans_of_adversaries_clones_and_revocations_end_alike_with_chitchat_and_without() -> Result<()> {
    agree(&["20", "40", "60", "80", "100"])?;
    let (first, again) = (said(&["agree", "40"])?, said(&["agree", "40"])?);
    assert_eq!(first, again, "the hash of every frame too");
    Ok(())
}

#[test]
fn runs_that_end_otherwise_are_told_apart() {
    let told = said(&["agree", "12", "--unlike"]).expect_err("they end otherwise").to_string();
    for differs in ["chitchat 'revoked'", "chitchat 'gone'", "svc-7 "] {
        assert!(told.contains(differs), "{differs}: {told}");
    }
    assert!(told.contains("chitchat: holds") && told.contains("world: holds"), "{told}");
}

#[test]
fn the_campaign_runs_every_twentieth_seed_with_chitchat() -> Result<()> {
    let output = said(&["campaign", "--first", "19", "--seeds", "2"])?;
    assert!(output.contains("\n1 seeds run with chitchat beside the engines too"), "{output}");
    Ok(())
}
