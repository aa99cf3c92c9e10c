//! Policy in the world: an operator edits documents at hosts, and what a host once replaced must
//! never be in force on it again.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Result;
use skein_protocol::{
    engine::Input,
    manifest::{self, Document, Inputs},
    name::Hash,
    policy::{Draft, Lineage, Policy, PolicyBundle, PolicyKey},
};

use crate::world::World;

/// How many documents the operator edits: few, so that edits meet.
pub const DOCUMENTS: u8 = 4;

fn document(number: u8, variant: u32) -> Result<Document> {
    let text = format!(
        "apiVersion: skein/v1\nkind: AccessPolicy\nmetadata: {{name: p{number}, namespace: shop}}\n\
         spec: {{destination: svc-{number}, action: allow, from: [{{service: svc-{}}}]}}\n",
        variant % 10
    );
    let documents = manifest::parse("world", &text, &Inputs::default());
    let first = documents.map_err(|faults| anyhow::anyhow!("{faults}"))?.into_iter().next();
    first.ok_or_else(|| anyhow::anyhow!("no document"))
}

/// The operator edits a document at a host, in the knowledge of what that host holds of it.
/// Every eighth edit deletes.
pub fn edit(world: &mut World, at: usize, number: u8, variant: u32) -> Result<()> {
    let document = document(number, variant)?;
    let Some(key) = PolicyKey::new(&document.id) else { return Ok(()) };
    let engine = world.nodes.get(at).and_then(|node| node.engine.as_ref());
    let Some(engine) = engine else { return Ok(()) };
    let heads = engine.policy().documents.of(&key);
    let lineage = match heads {
        [] => Lineage::first(),
        heads => Lineage::after(heads)?,
    };
    let draft = match variant % 8 {
        0 => Draft::deletion(key, lineage),
        _ => Draft::of(&document, lineage)?,
    };
    let bundle: PolicyBundle = world.mesh.ruling(&draft)?;
    world.hand(at, Input::Policy(Box::new(bundle)));
    Ok(())
}

/// What each host held last.
#[derive(Debug, Default)]
pub struct Rulings(BTreeMap<usize, Arc<Policy>>);

impl Rulings {
    /// Looks at what a host holds now. A version that it held and holds no longer must have been
    /// superseded by one that it holds, else what was replaced could return.
    pub fn look(&mut self, host: usize, now: &Arc<Policy>) -> Result<(), Hash> {
        let before = self.0.insert(host, Arc::clone(now));
        let Some(before) = before.filter(|before| !Arc::ptr_eq(before, now)) else { return Ok(()) };
        for (key, heads) in before.documents.iter() {
            let held = now.documents.of(key);
            for head in heads {
                let stays = held.iter().any(|one| one.version() == head.version());
                if !stays && !held.iter().any(|one| one.supersedes(head)) {
                    return Err(head.version());
                }
            }
        }
        Ok(())
    }

    /// The host lost what it had written: it starts anew.
    pub fn forget(&mut self, host: usize) {
        self.0.remove(&host);
    }
}
