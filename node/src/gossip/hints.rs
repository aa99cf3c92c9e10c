//! Hints: the four short words that each member says of itself, and their text form.
//!
//! A word that cannot be read counts as not said: hints are never believed and never worth blame.

use skein_protocol::{name::Hash, record::node::NodeState, view::View};

/// A record's place in the order of its origin's records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// Its sequence.
    pub sequence: u64,
    /// Its hash.
    pub hash: Hash,
}

/// What a member says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hints {
    /// Its newest node record.
    pub head: Option<Head>,
    /// Its policy root.
    pub policy: Option<Hash>,
    /// What it is about to do.
    pub state: Option<NodeState>,
    /// Calls that it carries at this moment.
    pub load: Option<u32>,
}

impl Hints {
    /// What an agent that shows this view, and is in that state, says of itself.
    pub fn of(view: &View, state: NodeState) -> Self {
        let own = view.nodes.get(&view.me);
        Self {
            head: own.map(|node| Head { sequence: node.sequence, hash: node.hash }),
            policy: Some(view.policy_root),
            state: Some(state),
            load: None,
        }
    }

    /// The keys and values that chitchat spreads. What is not said has no key.
    pub(super) fn to_keys(&self) -> Vec<(String, String)> {
        let head = self.head.map(|head| format!("{}.{}", head.sequence, head.hash));
        let policy = self.policy.map(|root| root.to_string());
        let state = self.state.map(|state| state_text(state).to_owned());
        let load = self.load.map(|load| load.to_string());
        [("head", head), ("policy", policy), ("state", state), ("load", load)]
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)))
            .collect()
    }

    /// Reads what can be read.
    pub(super) fn from_keys<'a>(keys: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut hints = Self::default();
        for (key, value) in keys {
            match key {
                "head" => hints.head = head(value),
                "policy" => hints.policy = value.parse().ok(),
                "state" => hints.state = state(value),
                "load" => hints.load = value.parse().ok(),
                _ => {}
            }
        }
        hints
    }
}

fn state_text(state: NodeState) -> &'static str {
    match state {
        NodeState::Up => "up",
        NodeState::Draining => "draining",
        NodeState::Left => "left",
        NodeState::Fenced => "fenced",
    }
}

fn state(text: &str) -> Option<NodeState> {
    [NodeState::Up, NodeState::Draining, NodeState::Left, NodeState::Fenced]
        .into_iter()
        .find(|state| state_text(*state) == text)
}

fn head(text: &str) -> Option<Head> {
    let (sequence, text) = text.split_once('.')?;
    Some(Head { sequence: sequence.parse().ok()?, hash: text.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use skein_protocol::limits;

    use super::*;

    #[test]
    fn the_longest_hints_fit_their_values_and_come_back() {
        let hints = Hints {
            head: Some(Head { sequence: u64::MAX, hash: Hash([0xff; 32]) }),
            policy: Some(Hash([1; 32])),
            state: Some(NodeState::Draining),
            load: Some(u32::MAX),
        };
        let keys = hints.to_keys();
        assert_eq!(keys.len(), limits::GOSSIP_KEYS);
        for (key, value) in &keys {
            assert!(super::super::filter::KEYS.contains(&key.as_str()));
            assert!(value.len() <= limits::GOSSIP_VALUE_BYTES, "{value}");
        }
        let read = Hints::from_keys(keys.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        assert_eq!(read, hints);
    }

    #[test]
    fn a_word_that_cannot_be_read_counts_as_not_said() {
        let keys =
            [("head", "1.zz"), ("policy", "x"), ("state", "happy"), ("load", "-1"), ("new", "1")];
        assert_eq!(Hints::from_keys(keys.into_iter()), Hints::default());
    }
}
