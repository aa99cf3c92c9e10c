//! What has ended: the grow-only set of revocations and voids, and what follows from it.
//!
//! Never: depends on the order in which statements were heard.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    certificate::{Roots, VerifiedChain, VerifiedIssuer},
    crypto::PublicKey,
    grant::Grant,
    operator::Scope,
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
    statements: BTreeMap<Hash, Arc<VerifiedStatement>>,
    /// How many each signer has, and whether as an operator.
    signers: BTreeMap<(PublicKey, bool), usize>,
    effect: Arc<Effect>,
    /// Told with every probe. None where nothing was ever put in.
    root: Option<Hash>,
}

/// What follows from the whole set.
#[derive(Clone, Debug, Default)]
struct Effect {
    ended: BTreeMap<(Subject, PublicKey), Works>,
    /// Node keys that operators for some namespaces ended: of each only the certificates whose
    /// whole grant lies within one of these scopes.
    within: BTreeMap<PublicKey, Vec<Scope>>,
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
    /// It has no effect, and takes no room, where its signer has as many as one may have.
    ///
    /// Of two forms of one statement that differ in the signature only, the lower stays, so that
    /// the set does not depend on the order of hearing.
    pub fn insert(
        &mut self,
        statement: VerifiedStatement,
        roots: &Roots,
    ) -> Result<bool, RevocationError> {
        let new = self.add(Arc::new(statement))?;
        if new {
            self.effect = Arc::new(self.compute(roots));
            self.root = Some(self.hash());
        }
        Ok(new)
    }

    /// Adds many at once, which costs little more than adding one: a root's first, so that no
    /// operator's take their room. Gives what was refused.
    pub fn restore(
        &mut self,
        mut statements: Vec<VerifiedStatement>,
        roots: &Roots,
    ) -> Vec<RevocationError> {
        statements.sort_by_key(VerifiedStatement::by_operator);
        let refused = statements.into_iter().filter_map(|one| self.add(Arc::new(one)).err());
        let refused = refused.collect();
        self.effect = Arc::new(self.compute(roots));
        self.root = Some(self.hash());
        refused
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self, roots: &Roots) -> Result<bool, RevocationError> {
        let mut new = false;
        for statement in other.statements.values() {
            new |= self.add(Arc::clone(statement))?;
        }
        if new {
            self.effect = Arc::new(self.compute(roots));
            self.root = Some(self.hash());
        }
        Ok(new)
    }

    fn add(&mut self, statement: Arc<VerifiedStatement>) -> Result<bool, RevocationError> {
        let id = statement.statement.id();
        if let Some(held) = self.statements.get_mut(&id) {
            if statement.statement < held.statement {
                *held = statement;
            }
            return Ok(false);
        }
        let operator = statement.by_operator();
        self.room(&statement.signer, operator, 0)?;
        let count = self.signers.entry((statement.signer, operator)).or_default();
        *count = count.saturating_add(1);
        self.statements.insert(id, statement);
        Ok(true)
    }

    /// Whether a further statement of that signer may be held, `waiting` of its own being on their
    /// way to the disk. Each operator has a share, and the
    /// roots have room that no operator takes. What an operator signed that has ended counts for
    /// no other.
    pub fn room(
        &self,
        signer: &PublicKey,
        operator: bool,
        waiting: usize,
    ) -> Result<(), RevocationError> {
        let held = self.signers.get(&(*signer, operator)).copied().unwrap_or_default();
        let held = held.saturating_add(waiting);
        if operator && held >= limits::REVOCATIONS_PER_OPERATOR {
            return Err(RevocationError::SignerFull { limit: limits::REVOCATIONS_PER_OPERATOR });
        }
        let counts = |(key, by_operator): &(PublicKey, bool)| {
            *by_operator == operator && !(operator && self.ended(Subject::Operator, key))
        };
        let all = self.signers.iter().filter(|(of, _)| counts(of)).map(|(_, count)| *count);
        let limit = match operator {
            true => limits::REVOCATIONS_BY_OPERATORS,
            false => limits::REVOCATIONS_BY_ROOTS,
        };
        if all.sum::<usize>().saturating_add(waiting) >= limit {
            Err(RevocationError::Full { limit })
        } else {
            Ok(())
        }
    }

    /// Whether the key of a node was revoked, whatever its certificate says. An operator for some
    /// namespaces ends certificates only: see [`Self::judge`].
    pub fn is_revoked(&self, key: &NodeKey) -> bool {
        self.ended(Subject::Node, &key.0)
    }

    /// Whether somebody revoked the key of a node, for all or some of its certificates.
    pub fn names(&self, key: &NodeKey) -> bool {
        self.is_revoked(key) || self.effect.within.contains_key(&key.0)
    }

    /// Whether a certificate of that key with that grant was revoked.
    pub fn ends(&self, key: &NodeKey, grant: &Grant) -> bool {
        let scopes = self.effect.within.get(&key.0);
        self.is_revoked(key)
            || scopes.is_some_and(|all| all.iter().any(|one| one.covers_grant(grant)))
    }

    /// Whether a key of that kind was revoked.
    pub fn ended(&self, subject: Subject, key: &PublicKey) -> bool {
        self.effect.ended.contains_key(&(subject, *key))
    }

    /// Whether `work` of a key of that kind stays valid: it does when the key was not revoked,
    /// or when every revocation of it lists the work.
    pub fn stands(&self, subject: Subject, key: &PublicKey, work: &Hash) -> bool {
        self.effect.ended.get(&(subject, *key)).is_none_or(|works| works.contains(work))
    }

    /// Judges a verified chain. `known` is whether a record or chain of this node's key was
    /// accepted before: what was known keeps working while its issuer is suspended.
    pub fn judge(&self, chain: &VerifiedChain, known: bool) -> Result<(), Revoked> {
        if self.is_empty() {
            return Ok(());
        }
        if self.ends(&chain.key, &chain.grant) {
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
    fn compute(&self, roots: &Roots) -> Effect {
        let mut effect = Effect::default();
        let mut voided = BTreeSet::new();
        for root in roots.order.iter().rev() {
            self.voids_by(root, &effect, &mut voided);
            self.revoke_by_root(root, &voided, &mut effect);
        }
        self.revoke_by_operators(&voided, &mut effect);
        effect
    }

    fn voids_by(&self, root: &PublicKey, effect: &Effect, voided: &mut BTreeSet<Hash>) {
        for (id, verified) in &self.statements {
            if let Statement::Void(void, _) = &verified.statement
                && void.by == *root
                && listed(effect, Subject::Root, root, id)
            {
                voided.insert(void.revocation);
            }
        }
    }

    fn revoke_by_root(&self, root: &PublicKey, voided: &BTreeSet<Hash>, effect: &mut Effect) {
        for (id, verified) in &self.statements {
            if verified.signer == *root
                && !verified.by_operator()
                && !voided.contains(id)
                && listed(effect, Subject::Root, root, id)
            {
                effect.end(verified);
            }
        }
    }

    /// In one pass: no operator ends another.
    fn revoke_by_operators(&self, voided: &BTreeSet<Hash>, effect: &mut Effect) {
        for (id, verified) in &self.statements {
            if verified.by_operator()
                && !voided.contains(id)
                && listed(effect, Subject::Operator, &verified.signer, id)
            {
                effect.end(verified);
            }
        }
    }
}

impl Effect {
    fn end(&mut self, verified: &VerifiedStatement) {
        let Statement::Revocation(revocation, _) = &verified.statement else { return };
        if verified.scope != Scope::All {
            return self.within.entry(revocation.key).or_default().push(verified.scope.clone());
        }
        let works: Works = revocation.works.iter().copied().collect();
        self.ended
            .entry((revocation.subject, revocation.key))
            .and_modify(|both| both.retain(|work| works.contains(work)))
            .or_insert(works);
    }
}

fn listed(effect: &Effect, kind: Subject, signer: &PublicKey, id: &Hash) -> bool {
    effect.ended.get(&(kind, *signer)).is_none_or(|works| works.contains(id))
}
