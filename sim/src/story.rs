//! A story: what happened in a run, a line for each event and a column for each node.

use skein_protocol::engine::Event;

use crate::{plan::Action, run::Run, world::World};

/// Columns are this wide.
const WIDTH: usize = 11;
/// More nodes than this have no columns: the line says which node it is about.
const COLUMNS_MAX: usize = 12;

/// The last `lines` lines of a run.
pub fn tell(run: &Run, lines: usize) -> String {
    let world = &run.world;
    let mut all: Vec<(u64, Option<usize>, String)> = Vec::new();
    for (at, action) in &run.done {
        all.push((*at, None, format!("== {action:?}")));
    }
    for (at, node, event) in &world.events {
        all.push((*at, Some(*node), word(world, event)));
    }
    if let Some(violation) = world.violation() {
        all.push((violation.at, None, format!("!! {violation}")));
    }
    all.sort_by_key(|(at, ..)| *at);
    let count = world.nodes.len();
    let mut text = String::new();
    if count <= COLUMNS_MAX {
        let names: String = (0..count).map(|n| format!("{:<WIDTH$}", format!("n{n}"))).collect();
        text.push_str(&format!("{:>8}  {names}\n", "ms"));
    }
    let skipped = all.len().saturating_sub(lines);
    for (at, node, what) in all.into_iter().skip(skipped) {
        let line = match node {
            Some(node) if count <= COLUMNS_MAX => {
                format!("{at:>8}  {}{what}", " ".repeat(WIDTH * node))
            }
            Some(node) => format!("{at:>8}  n{node}: {what}"),
            None => format!("{at:>8}  {what}"),
        };
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn word(world: &World, event: &Event) -> String {
    let name = |key| world.number(key).map_or_else(|| "?".to_owned(), |n| format!("n{n}"));
    match event {
        Event::Anchored { surely: true } => "takes calls: it holds the policy".to_owned(),
        Event::Anchored { surely: false } => "takes calls, nobody could say".to_owned(),
        Event::Joined(key) => format!("+{}", name(key)),
        Event::Alive(key) => format!("{} lives", name(key)),
        Event::Suspect(key) => format!("{}?", name(key)),
        Event::Dead(key) => format!("{} dead", name(key)),
        Event::Left(key) => format!("{} left", name(key)),
        Event::Blamed(key, blame) => format!("blames {}: {blame}", name(key)),
        Event::CutOff(key) => format!("cuts {}", name(key)),
        Event::RolledBack { had, seen } => format!("rolled back {had} < {seen}"),
        Event::Cloned { .. } => "cloned".to_owned(),
        Event::Revoked(key, _) => format!("{} ended", name(key)),
        Event::RevocationRefused(why) => format!("refuses a revocation: {why}"),
        Event::Policy(document, _) => format!("rules {document}"),
        Event::PolicyRefused(why) => format!("refuses a document: {why}"),
        Event::Outdated(key) => format!("older from {}", name(key)),
        Event::Forked(key) => format!("{} forked", name(key)),
        Event::NotPublished(why) => format!("not published: {why}"),
        Event::DiskFailed(why) => format!("disk: {why}"),
        Event::DiskWell => "disk: well again".to_owned(),
        Event::Late(by) => format!("late {} ms", by.as_millis()),
        Event::Unread(key, _) => format!("cannot read {}", name(key)),
        Event::SetAside(peer) => match peer {
            Some(key) => format!("set aside what came from {}", name(key)),
            None => "set aside what stood on disk".to_owned(),
        },
        Event::Published => "says".to_owned(),
        Event::ClockSkew(key, apart) => match apart {
            Some(apart) => format!("clock of {} off by {} s", name(key), apart.as_secs()),
            None => format!("met {}", name(key)),
        },
    }
}

/// The plan's actions, a line each.
pub fn schedule(schedule: &[(u64, Action)]) -> String {
    schedule.iter().map(|(at, action)| format!("{at:>8}  {action:?}\n")).collect()
}
