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

#[test]
fn plans_of_the_campaign_hold_with_chitchat_too_and_end_in_what_the_world_alone_does() -> Result<()>
{
    // Crashes, partitions, disks and clocks; adversaries, clones and revocations.
    for seed in ["20", "40", "60", "80", "100", "120"] {
        let output = said(&["agree", seed])?;
        assert!(output.contains("\n0 of "), "{output}");
        let gossiped: u64 = after(&output, "chitchat: holds, ")?.parse()?;
        assert!(gossiped > 10_000, "{output}");
    }
    let (first, again) = (said(&["agree", "40"])?, said(&["agree", "40"])?);
    assert_eq!(first, again, "the hash of every frame too");
    Ok(())
}

#[test]
fn the_campaign_runs_every_twentieth_seed_with_chitchat() -> Result<()> {
    let output = said(&["campaign", "--first", "19", "--seeds", "2"])?;
    assert!(output.contains(" 1 with chitchat beside them"), "{output}");
    Ok(())
}
