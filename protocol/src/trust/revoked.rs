//! What has ended: the grow-only set of revocations and voids, and what follows from it.
//!
//! Never: depends on the order in which statements were heard.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    certificate::{Roots, VerifiedChain, VerifiedIssuer},
    crypto::PublicKey,
    revocation::{RevocationError, Statement, Subject, VerifiedStatement, work_of_root},
};
use crate::{
    limits,
    name::{Hash, NodeKey},
};

/// Why a chain that verifies is refused all the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, thiserror::Error)]
pub enum Revoked {
    /// The node's key was revoked.
    #[error("the node's key was revoked")]
    Node,
    /// The issuer's key was revoked, and this leaf is not among what stays valid.
    #[error("the issuer's key was revoked")]
    Issuer,
    /// The root was revoked, and this issuer is not among what stays valid.
    #[error("the root was revoked")]
    Root,
    /// The host of the issuer was revoked, and this key was not known before: until the root
    /// decides about the issuer, it admits nobody new.
    #[error("the issuer is suspended, since its host was revoked: a root must decide about it")]
    Suspended,
}

/// All that was said about keys that ended: a grow-only set, and what follows from it.
#[derive(Clone, Debug, Default)]
pub struct Revocations {
    statements: BTreeMap<Hash, VerifiedStatement>,
    effect: BTreeMap<(Subject, PublicKey), Works>,
    /// Told with every probe. None where nothing was ever put in.
    root: Option<Hash>,
}

/// What stays valid of a revoked key's works. Of two revocations of one key both must list it.
type Works = BTreeSet<Hash>;

impl PartialEq for Revocations {
    fn eq(&self, other: &Self) -> bool {
        self.statements == other.statements
    }
}

impl Eq for Revocations {}

impl Revocations {
    /// Adds a statement; `roots` gives the order of the roots. Says whether anything is new.
    ///
    /// Of two forms of one statement that differ in the signature only, the lower stays, so that
    /// the set does not depend on the order of hearing.
    pub fn insert(
        &mut self,
        statement: VerifiedStatement,
        roots: &Roots,
    ) -> Result<bool, RevocationError> {
        let new = self.add(statement)?;
        if new {
            self.effect = self.compute(roots);
            self.root = Some(self.hash());
        }
        Ok(new)
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self, roots: &Roots) -> Result<bool, RevocationError> {
        let mut new = false;
        for statement in other.statements.values() {
            new |= self.add(statement.clone())?;
        }
        if new {
            self.effect = self.compute(roots);
            self.root = Some(self.hash());
        }
        Ok(new)
    }

    fn add(&mut self, statement: VerifiedStatement) -> Result<bool, RevocationError> {
        let id = statement.statement.id();
        if let Some(held) = self.statements.get_mut(&id) {
            if statement.statement < held.statement {
                *held = statement;
            }
            return Ok(false);
        }
        if self.statements.len() >= limits::REVOCATIONS_MAX {
            return Err(RevocationError::Full);
        }
        self.statements.insert(id, statement);
        Ok(true)
    }

    /// Whether the key of a node was revoked.
    pub fn is_revoked(&self, key: &NodeKey) -> bool {
        self.ended(Subject::Node, &key.0)
    }

    /// Whether a key of that kind was revoked.
    pub fn ended(&self, subject: Subject, key: &PublicKey) -> bool {
        self.effect.contains_key(&(subject, *key))
    }

    /// Whether `work` of a key of that kind stays valid: it does when the key was not revoked,
    /// or when every revocation of it lists the work.
    pub fn stands(&self, subject: Subject, key: &PublicKey, work: &Hash) -> bool {
        self.effect.get(&(subject, *key)).is_none_or(|works| works.contains(work))
    }

    /// Judges a verified chain. `known` is whether a record or chain of this node's key was
    /// accepted before: what was known keeps working while its issuer is suspended.
    pub fn judge(&self, chain: &VerifiedChain, known: bool) -> Result<(), Revoked> {
        if self.is_empty() {
            return Ok(());
        }
        if self.is_revoked(&chain.key) {
            return Err(Revoked::Node);
        }
        if !self.stands(Subject::Root, &chain.root, &work_of_root(&chain.issuer)) {
            return Err(Revoked::Root);
        }
        if !self.stands(Subject::Issuer, &chain.issuer, &chain.leaf_hash) {
            return Err(Revoked::Issuer);
        }
        let decided = self.ended(Subject::Issuer, &chain.issuer);
        if !known && !decided && self.is_revoked(&chain.issuer_host) {
            return Err(Revoked::Suspended);
        }
        Ok(())
    }

    /// Whether an issuer may certify: neither revoked, nor its host revoked, nor its root.
    pub fn may_issue(&self, issuer: &VerifiedIssuer) -> Result<(), Revoked> {
        if self.ended(Subject::Issuer, &issuer.key) {
            Err(Revoked::Issuer)
        } else if !self.stands(Subject::Root, &issuer.root, &work_of_root(&issuer.key)) {
            Err(Revoked::Root)
        } else if self.is_revoked(&issuer.host) {
            Err(Revoked::Suspended)
        } else {
            Ok(())
        }
    }

    /// Every statement, sorted by id.
    pub fn iter(&self) -> impl Iterator<Item = (&Hash, &Statement)> {
        self.statements.iter().map(|(id, verified)| (id, &verified.statement))
    }

    /// Whether a statement is held.
    pub fn contains(&self, id: &Hash) -> bool {
        self.statements.contains_key(id)
    }

    /// The statement of that id.
    pub fn find(&self, id: &Hash) -> Option<&Statement> {
        self.statements.get(id).map(|verified| &verified.statement)
    }

    /// How many statements are held.
    pub fn len(&self) -> usize {
        self.statements.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.statements.is_empty()
    }

    /// The hash over all ids: equal where the sets are.
    pub fn root(&self) -> Hash {
        self.root.unwrap_or_else(|| self.hash())
    }

    fn hash(&self) -> Hash {
        let ids: Vec<&[u8]> = self.statements.keys().map(|id| id.0.as_slice()).collect();
        let ids = ids.concat();
        Hash::of(&[b"skein/revocations/v1\0", &ids])
    }

    /// What is in effect. One pass from the newest root to the oldest, since only a later root
    /// ends an earlier one: a root's voids count for itself and for earlier roots, so the thief
    /// of an old root cannot undo its end. Then operators, whom only roots end.
    fn compute(&self, roots: &Roots) -> BTreeMap<(Subject, PublicKey), Works> {
        let mut effect = BTreeMap::new();
        let mut voided = BTreeSet::new();
        for root in roots.order.iter().rev() {
            self.voids_by(root, &effect, &mut voided);
            self.revoke_by(root, true, &voided, &mut effect);
        }
        let operators: BTreeSet<PublicKey> = self
            .statements
            .values()
            .filter(|verified| verified.by_operator())
            .map(|verified| verified.signer)
            .collect();
        for operator in &operators {
            self.revoke_by(operator, false, &voided, &mut effect);
        }
        effect
    }

    fn voids_by(
        &self,
        root: &PublicKey,
        effect: &BTreeMap<(Subject, PublicKey), Works>,
        voided: &mut BTreeSet<Hash>,
    ) {
        for (id, verified) in &self.statements {
            if let Statement::Void(void, _) = &verified.statement
                && void.by == *root
                && listed(effect, Subject::Root, root, id)
            {
                voided.insert(void.revocation);
            }
        }
    }

    fn revoke_by(
        &self,
        signer: &PublicKey,
        root: bool,
        voided: &BTreeSet<Hash>,
        effect: &mut BTreeMap<(Subject, PublicKey), Works>,
    ) {
        let kind = if root { Subject::Root } else { Subject::Operator };
        for (id, verified) in &self.statements {
            let Statement::Revocation(revocation, _) = &verified.statement else {
                continue;
            };
            let counts = verified.signer == *signer
                && verified.by_operator() != root
                && !voided.contains(id)
                && listed(effect, kind, signer, id);
            if counts {
                let works: Works = revocation.works.iter().copied().collect();
                effect
                    .entry((revocation.subject, revocation.key))
                    .and_modify(|both| both.retain(|work| works.contains(work)))
                    .or_insert(works);
            }
        }
    }
}

fn listed(
    effect: &BTreeMap<(Subject, PublicKey), Works>,
    kind: Subject,
    signer: &PublicKey,
    id: &Hash,
) -> bool {
    effect.get(&(kind, *signer)).is_none_or(|works| works.contains(id))
}
