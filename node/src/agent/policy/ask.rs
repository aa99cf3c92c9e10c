//! Asking peers, over their data links: bounded in number, in time and in bytes.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::{StreamExt, stream};
use skein_protocol::{
    limits,
    name::NodeKey,
    trust::join::{Refusal, RefusalCode},
    view::{Liveness, NodeView},
    wire::{
        ask::{Answer, Ask},
        frame::Stand,
        kind,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::super::show::Agent;
use crate::{link::mux::StreamPair, proxy::Dialer};

/// Answers a peer's question, from behind its kind byte on.
pub(crate) async fn serve(agent: &Arc<Agent>, by: NodeKey, (mut send, mut receive): StreamPair) {
    let answered = timeout(limits::ASK_TIMEOUT, async {
        let mut length = [0; 2];
        receive.read_exact(&mut length).await.ok()?;
        let length = usize::from(u16::from_le_bytes(length));
        let mut question = vec![0; Some(length).filter(|length| *length <= limits::ASK_BYTES)?];
        receive.read_exact(&mut question).await.ok()?;
        let answer = answer(agent, by, Ask::decode(&question).ok()?).await.encode().ok()?;
        send.write_all(&answer).await.ok()?;
        send.shutdown().await.ok()
    });
    // A question of a newer agent, or one cut short: it asks for nothing that must be.
    if !matches!(answered.await, Ok(Some(()))) {
        send.reset(kind::UNKNOWN_KIND);
        receive.stop(kind::UNKNOWN_KIND);
    }
}

async fn answer(agent: &Arc<Agent>, by: NodeKey, question: Ask) -> Answer {
    match question {
        Ask::Stand => {
            let view = agent.view();
            Answer::Stand(Stand {
                probation: *agent.probation.borrow(),
                records: view.records_root,
                revocations: view.revocation_root,
                policy: view.policy_root,
            })
        }
        Ask::Edges => Answer::Edges(agent.edges.all()),
        Ask::CallsKnown => {
            let seconds = |of: std::time::Duration| u32::try_from(of.as_secs()).unwrap_or(u32::MAX);
            Answer::CallsKnown(agent.edges.known_for().map(seconds))
        }
        Ask::Record(node) => {
            Answer::Record(agent.view().nodes.get(&node).map_or(0, |node| node.sequence))
        }
        Ask::TokenUse(asked) => {
            // An issuer may ask; it could admit whom it likes anyway.
            let taken = match agent.issues(&by) {
                true => agent.take_token_use(asked).await,
                false => Err(Refusal::new(RefusalCode::Trouble, "only issuing hosts may ask")),
            };
            Answer::TokenUse(taken.map_err(|refusal| refusal.code.number()))
        }
    }
}

impl Agent {
    /// Asks one peer.
    pub(in crate::agent) async fn ask(
        &self,
        node: NodeKey,
        question: Ask,
    ) -> Result<Answer, String> {
        let asked = async {
            let mux = self.data.data(node).await.map_err(|error| error.to_string())?;
            let (mut send, mut receive) = mux.open().await.map_err(|error| error.to_string())?;
            let broken = |error: std::io::Error| format!("it hung up: {error}");
            let question = question.encode().map_err(|error| error.to_string())?;
            send.write_all(&question).await.map_err(broken)?;
            send.shutdown().await.map_err(broken)?;
            let length = receive.read_u32_le().await.map_err(broken)?;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if length > limits::ANSWER_BYTES {
                return Err(format!("an answer of {length} bytes is not read"));
            }
            let mut answer = Vec::new();
            let bound = u64::try_from(length).unwrap_or(u64::MAX);
            (&mut *receive).take(bound).read_to_end(&mut answer).await.map_err(broken)?;
            Answer::decode(&answer).map_err(|error| format!("its answer: {error}"))
        };
        let late = || format!("no answer within {} s", limits::ASK_TIMEOUT.as_secs());
        timeout(limits::ASK_TIMEOUT, asked).await.unwrap_or_else(|_| Err(late()))
    }

    /// Asks every live peer.
    pub(super) async fn ask_all(&self, question: Ask) -> BTreeMap<NodeKey, Result<Answer, String>> {
        let live = |node: &NodeView| matches!(node.liveness, Liveness::Alive | Liveness::Suspect);
        let answers = stream::iter(self.peers(live))
            .map(|node| async move { (node, self.ask(node, question).await) })
            .buffer_unordered(limits::ASK_AT_ONCE);
        answers.collect().await
    }

    /// The other nodes of the view that are so, without those that were revoked.
    pub(in crate::agent) fn peers(&self, so: impl Fn(&NodeView) -> bool) -> Vec<NodeKey> {
        let view = self.view();
        let peers = view
            .nodes
            .values()
            .filter(|node| node.key != self.me && !self.is_revoked(&node.key) && so(node));
        peers.map(|node| node.key).collect()
    }

    /// The policy root of every live peer, as it says now.
    pub(super) async fn policy_roots(&self) -> BTreeMap<NodeKey, Result<Stand, String>> {
        let answers = self.ask_all(Ask::Stand).await;
        let now = self.clock.now().tick;
        let mut held = self.stands.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let nodes = Arc::clone(&self.view.borrow());
        held.retain(|node, _| nodes.nodes.contains_key(node));
        let stand = |(node, answer)| {
            let stand = match answer {
                Ok(Answer::Stand(stand)) => {
                    held.insert(node, (stand.policy, now));
                    Ok(stand)
                }
                Ok(_) => Err("it answered another question".to_owned()),
                Err(why) => Err(why),
            };
            (node, stand)
        };
        answers.into_iter().map(stand).collect()
    }
}
