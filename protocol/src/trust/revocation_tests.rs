//! The rules of revocation, as claims.

use proptest::prelude::*;

use super::{
    grant::{Grant, Role},
    issue::{self, Authority, Validity},
    operator::Scope,
    revocation::*,
    revoked::*,
    testing::{Key, Keyed, Mesh, NOW},
    *,
};
use crate::{limits, name::Hash, name::NodeKey};

fn revocation(mesh: &Mesh, subject: Subject, key: PublicKey, by: By) -> Revocation {
    let reason = "stolen".to_owned();
    Revocation { mesh: mesh.mesh, subject, key, by, reason, works: vec![] }
}

fn by_operator(mesh: &Mesh, subject: Subject, key: PublicKey) -> Statement {
    let by = By::Operator(mesh.operator.clone());
    revocation(mesh, subject, key, by).sign(&mesh.operator_key()).unwrap()
}

fn by_root(mesh: &Mesh, subject: Subject, key: PublicKey, works: Vec<Hash>) -> Statement {
    let by = By::Root(mesh.root_key().public_key());
    let revocation = Revocation { works, ..revocation(mesh, subject, key, by) };
    revocation.sign(&mesh.root_key()).unwrap()
}

fn void(mesh: &Mesh, of: &Statement) -> Statement {
    let (by, reason) = (mesh.root_key().public_key(), String::new());
    Void { mesh: mesh.mesh, revocation: of.id(), by, reason }.sign(&mesh.root_key()).unwrap()
}

fn set(mesh: &Mesh, statements: &[Statement]) -> Revocations {
    let mut set = Revocations::default();
    for statement in statements {
        let verified = statement.clone().verify(&mesh.roots, &Keyed).unwrap();
        set.insert(verified, &mesh.roots).unwrap();
    }
    set
}

fn judge(mesh: &Mesh, set: &Revocations, n: u64, known: bool) -> Result<(), Revoked> {
    let chain = verify_chain(&mesh.chain(n, NOW), &mesh.roots, NOW, &Keyed).unwrap();
    set.judge(&chain, known)
}

#[test]
fn an_operator_revokes_a_node_and_nothing_else() {
    let mesh = Mesh::new(1);
    let set = set(&mesh, &[by_operator(&mesh, Subject::Node, mesh.node_key(5).0)]);
    assert!(set.is_revoked(&mesh.node_key(5)) && !set.is_revoked(&mesh.node_key(6)));
    assert_eq!(judge(&mesh, &set, 5, true), Err(Revoked::Node));
    assert_eq!(judge(&mesh, &set, 6, false), Ok(()));
    for subject in [Subject::Issuer, Subject::Operator, Subject::Root] {
        let statement = by_operator(&mesh, subject, mesh.issuer_key().public_key());
        let error = statement.verify(&mesh.roots, &Keyed).unwrap_err();
        assert_eq!(error, RevocationError::NotAllowed);
    }
}

/// An operator for namespace `shop`, with its certificate.
fn shop(mesh: &Mesh, key: Key, namespace: &str) -> By {
    let root = mesh.root_key();
    let by = Authority::new(&mesh.mesh, &mesh.root, &root).unwrap();
    let scope = Scope::Namespaces(vec![namespace.parse().unwrap()]);
    By::Operator(issue::operator(&by, &key.public_key(), "ci", &scope, NOW, [9; 16]).unwrap())
}

#[test]
fn an_operator_for_a_namespace_ends_only_certificates_that_lie_within_it() {
    let mesh = Mesh::new(1);
    let node = mesh.node_key(5);
    let grant = |services: &[&str], roles: Vec<Role>| {
        let services = services.iter().map(|one| one.parse().unwrap()).collect();
        Grant::new("node-5".parse().unwrap(), services, roles, None).unwrap()
    };
    let within = grant(&["shop/web", "shop/api"], vec![]);
    let wider = [
        grant(&["*/*"], vec![]),
        grant(&["shop/*", "bank/vault"], vec![]),
        grant(&["bank/*"], vec![]),
        grant(&[], vec![]),
        grant(&["shop/*"], vec![Role::Gateway]),
    ];
    let said = |namespace: &str| {
        let by = shop(&mesh, Key(77), namespace);
        let said = revocation(&mesh, Subject::Node, node.0, by).sign(&Key(77)).unwrap();
        set(&mesh, &[said])
    };
    let set_of = said("shop");
    assert!(set_of.ends(&node, &within) && set_of.ends(&node, &grant(&["shop/*"], vec![])));
    for grant in &wider {
        assert!(!set_of.ends(&node, grant), "{grant:?}");
    }
    assert!(set_of.names(&node) && !set_of.is_revoked(&node));
    assert_eq!(judge(&mesh, &set_of, 5, true), Err(Revoked::Node), "the mesh's nodes have shop/*");
    assert_eq!(judge(&mesh, &said("bank"), 5, true), Ok(()));
    // The host of an issuer is of the whole mesh, whatever its grant says.
    let by = shop(&mesh, Key(77), "shop");
    let host = revocation(&mesh, Subject::Node, mesh.node_key(0).0, by).sign(&Key(77)).unwrap();
    assert_eq!(judge(&mesh, &set(&mesh, &[host]), 6, false), Ok(()), "its issuer goes on");
}

#[test]
fn one_operator_fills_neither_the_roots_room_nor_anothers() {
    let mesh = Mesh::new(1);
    let stranger = |n: u64| mesh.node_key(10_000 + n).0;
    let verified = |one: Statement| one.verify(&mesh.roots, &Keyed).unwrap();
    let many = u64::try_from(limits::REVOCATIONS_PER_OPERATOR).unwrap();
    let many = (0..many).map(|n| verified(by_operator(&mesh, Subject::Node, stranger(n))));
    let mut set = Revocations::default();
    assert_eq!(set.restore(many.collect(), &mesh.roots), vec![]);
    let (held, root) = (set.len(), set.root());
    let more = by_operator(&mesh, Subject::Node, mesh.node_key(5).0);
    let refused = set.insert(verified(more), &mesh.roots).unwrap_err();
    let limit = limits::REVOCATIONS_PER_OPERATOR;
    assert_eq!(refused, RevocationError::SignerFull { limit });
    assert_eq!((set.len(), set.root()), (held, root), "what is refused leaves nothing");

    let other = By::Operator(other_operator(&mesh));
    let other = revocation(&mesh, Subject::Node, mesh.node_key(6).0, other).sign(&Key(78)).unwrap();
    assert_eq!(set.insert(verified(other), &mesh.roots), Ok(true));
    let operator = mesh.operator_key().public_key();
    let end = by_root(&mesh, Subject::Operator, operator, vec![]);
    assert_eq!(set.insert(verified(end), &mesh.roots), Ok(true), "the root has room of its own");
    assert!(set.is_revoked(&mesh.node_key(6)) && !set.is_revoked(&NodeKey(stranger(0))));
}

fn other_operator(mesh: &Mesh) -> Vec<u8> {
    let root = mesh.root_key();
    let by = Authority::new(&mesh.mesh, &mesh.root, &root).unwrap();
    issue::operator(&by, &Key(78).public_key(), "bob", &Scope::All, NOW, [8; 16]).unwrap()
}

#[test]
fn what_the_roots_say_is_restored_before_what_operators_say() {
    let mesh = Mesh::new(1);
    let operator = mesh.operator_key().public_key();
    let verified = |one: Statement| one.verify(&mesh.roots, &Keyed).unwrap();
    let stranger = |n: u64| mesh.node_key(10_000 + n).0;
    let count = u64::try_from(limits::REVOCATIONS_PER_OPERATOR).unwrap() + 5;
    let mut disk: Vec<_> =
        (0..count).map(|n| verified(by_operator(&mesh, Subject::Node, stranger(n)))).collect();
    disk.push(verified(by_root(&mesh, Subject::Operator, operator, vec![])));
    disk.push(verified(by_root(&mesh, Subject::Node, mesh.node_key(5).0, vec![])));
    let mut set = Revocations::default();
    assert_eq!(set.restore(disk, &mesh.roots).len(), 5);
    assert!(set.is_revoked(&mesh.node_key(5)) && set.ended(Subject::Operator, &operator));
    assert_eq!(set.len(), limits::REVOCATIONS_PER_OPERATOR + 2);
}

#[test]
fn a_node_key_that_is_also_anothers_is_ended_as_a_node_only() {
    let mesh = Mesh::new(1);
    let key = mesh.issuer_key().public_key();
    let set = set(&mesh, &[by_operator(&mesh, Subject::Node, key)]);
    assert!(set.ended(Subject::Node, &key) && !set.ended(Subject::Issuer, &key));
}

#[test]
fn a_stranger_an_issuer_or_another_mesh_revokes_nothing() {
    let (mesh, other) = (Mesh::new(1), Mesh::new(2));
    let key = mesh.node_key(5).0;
    let foreign = by_operator(&other, Subject::Node, key);
    let refused = |statement: Statement| statement.verify(&mesh.roots, &Keyed).unwrap_err();
    assert_eq!(refused(foreign), RevocationError::OtherMesh);
    let by = By::Operator(mesh.operator.clone());
    let forged = revocation(&mesh, Subject::Node, key, by).sign(&Key(77)).unwrap();
    assert_eq!(refused(forged), RevocationError::BadSignature);
    let by = By::Operator(mesh.issuer.clone());
    let issuer = revocation(&mesh, Subject::Node, key, by).sign(&mesh.issuer_key()).unwrap();
    assert!(matches!(refused(issuer), RevocationError::Operator(_)));
    let by = By::Root(Key(77).public_key());
    let root = revocation(&mesh, Subject::Node, key, by).sign(&Key(77)).unwrap();
    assert_eq!(refused(root), RevocationError::UnknownRoot);
}

#[test]
fn a_void_by_the_root_brings_a_node_back_whatever_comes_first() {
    let mesh = Mesh::new(1);
    let revoked = by_operator(&mesh, Subject::Node, mesh.node_key(5).0);
    let void = void(&mesh, &revoked);
    for order in [[revoked.clone(), void.clone()], [void, revoked]] {
        assert!(!set(&mesh, &order).is_revoked(&mesh.node_key(5)));
    }
    let forged = Void {
        mesh: mesh.mesh,
        revocation: Hash([1; 32]),
        by: mesh.root_key().public_key(),
        reason: String::new(),
    };
    let forged = forged.sign(&mesh.operator_key()).unwrap();
    let error = forged.verify(&mesh.roots, &Keyed).unwrap_err();
    assert_eq!(error, RevocationError::BadSignature);
}

#[test]
fn revoking_the_host_of_an_issuer_suspends_it_for_keys_not_yet_known() {
    let mesh = Mesh::new(1);
    let host = by_operator(&mesh, Subject::Node, mesh.node_key(0).0);
    let suspended = set(&mesh, std::slice::from_ref(&host));
    assert_eq!(judge(&mesh, &suspended, 5, false), Err(Revoked::Suspended));
    assert_eq!(judge(&mesh, &suspended, 5, true), Ok(()));
    let issuer = verify_issuer(&mesh.issuer, &mesh.roots, &Keyed).unwrap();
    assert_eq!(suspended.may_issue(&issuer), Err(Revoked::Suspended));
    let leaf = Hash::of(&[&mesh.chain(5, NOW).leaf]);
    let key = mesh.issuer_key().public_key();
    let decided = set(&mesh, &[host, by_root(&mesh, Subject::Issuer, key, vec![leaf])]);
    assert_eq!(judge(&mesh, &decided, 5, false), Ok(()), "the root listed it");
    assert_eq!(judge(&mesh, &decided, 6, true), Err(Revoked::Issuer));
}

#[test]
fn what_a_revoked_operator_revoked_counts_only_where_listed() {
    let mesh = Mesh::new(1);
    let (a, b) = (mesh.node_key(5), mesh.node_key(6));
    let first = by_operator(&mesh, Subject::Node, a.0);
    let second = by_operator(&mesh, Subject::Node, b.0);
    let operator = mesh.operator_key().public_key();
    let end = by_root(&mesh, Subject::Operator, operator, vec![first.id()]);
    for order in [[&first, &second, &end], [&end, &second, &first]] {
        let set = set(&mesh, &order.map(Clone::clone));
        assert!(set.is_revoked(&a) && !set.is_revoked(&b));
    }
}

#[test]
fn a_later_root_ends_an_earlier_one_and_never_the_other_way() {
    let mut mesh = Mesh::new(1);
    let next = issue::root(&Key(500), "prod", NOW, [8; 16]).unwrap();
    let mut chain = RootChain::new(mesh.root.clone());
    chain.extend(mesh.mesh, next, &mesh.root_key()).unwrap();
    mesh.roots = chain.verify(&Keyed).unwrap();
    assert_eq!(mesh.roots.newest(), Some(Key(500).public_key()));

    let old = mesh.root_key().public_key();
    let by = By::Root(old);
    let upward = revocation(&mesh, Subject::Root, Key(500).public_key(), by);
    let upward = upward.sign(&mesh.root_key()).unwrap();
    let error = upward.verify(&mesh.roots, &Keyed).unwrap_err();
    assert_eq!(error, RevocationError::NotAllowed);

    let by = By::Root(Key(500).public_key());
    let end = revocation(&mesh, Subject::Root, old, by);
    let end = Revocation { works: vec![work_of_root(&mesh.issuer_key().public_key())], ..end };
    let end = end.sign(&Key(500)).unwrap();
    let node = by_root(&mesh, Subject::Node, mesh.node_key(6).0, vec![]);
    let undo = void(&mesh, &end);
    let set = set(&mesh, &[node, end, undo]);
    assert!(set.ended(Subject::Root, &old), "an old root does not undo its own end");
    assert!(!set.is_revoked(&mesh.node_key(6)), "nor does it revoke any more");
    assert_eq!(judge(&mesh, &set, 5, false), Ok(()), "its issuer is listed");
}

#[test]
fn a_chain_of_roots_with_a_step_not_signed_by_the_one_before_is_refused() {
    let mesh = Mesh::new(1);
    let next = issue::root(&Key(500), "prod", NOW, [8; 16]).unwrap();
    let mut chain = RootChain::new(mesh.root.clone());
    chain.extend(mesh.mesh, next.clone(), &mesh.root_key()).unwrap();
    let roots = chain.verify(&Keyed).unwrap();
    assert_eq!(roots.mesh, mesh.mesh, "the mesh keeps its id");
    let mut forged = chain.clone();
    forged.next[0].certificate = issue::root(&Key(501), "prod", NOW, [8; 16]).unwrap();
    assert_eq!(forged.verify(&Keyed), Err(ChainError::BadSignature));
    let mut again = chain.clone();
    again.extend(mesh.mesh, mesh.root.clone(), &Key(500)).unwrap();
    assert!(again.verify(&Keyed).is_err(), "a circle");

    // What the second root certifies is of the same mesh.
    let key = Key(500);
    let by = Authority::new(&mesh.mesh, &next, &key).unwrap();
    let validity = Validity::new(NOW, limits::ISSUER_LIFE, issue::NEVER_ENDS);
    let issuer = Key(600);
    let der =
        issue::issuer(&by, &issuer.public_key(), &NodeKey([3; 32]), validity, [9; 16]).unwrap();
    assert!(verify_issuer(&der, &roots, &Keyed).is_ok());
    assert_eq!(verify_issuer(&der, &mesh.roots, &Keyed), Err(ChainError::BadSignature));
    let left = roots.without(|key| *key == mesh.root_key().public_key());
    assert!(verify_issuer(&der, &left, &Keyed).is_ok());
    assert!(verify_issuer(&mesh.issuer, &left, &Keyed).is_err());
    let scope = Scope::Namespaces(vec!["shop".parse().unwrap()]);
    let operator = issue::operator(&by, &Key(9).public_key(), "bob", &scope, NOW, [1; 16]);
    let operator = operator::verify_operator(&operator.unwrap(), &roots, &Keyed).unwrap();
    assert!(operator.scope.covers(&"shop".parse().unwrap()));
    assert!(!operator.scope.covers(&"ops".parse().unwrap()));
}

#[test]
fn a_statement_reads_as_it_was_written_and_in_no_other_form() {
    let mesh = Mesh::new(1);
    let statement = by_operator(&mesh, Subject::Node, mesh.node_key(5).0);
    let bytes = statement.encode().unwrap();
    assert_eq!(Statement::decode(&bytes), Ok(statement));
    let mut longer = bytes;
    longer.push(0);
    assert!(Statement::decode(&longer).is_err());
}

#[test]
fn a_second_form_of_a_statement_changes_neither_set_nor_root() {
    let mesh = Mesh::new(1);
    let statement = by_operator(&mesh, Subject::Node, mesh.node_key(5).0);
    let mut once = set(&mesh, std::slice::from_ref(&statement));
    let root = once.root();
    let again = statement.verify(&mesh.roots, &Keyed).unwrap();
    assert_eq!(once.insert(again, &mesh.roots), Ok(false));
    assert_eq!((once.len(), once.root()), (1, root));
}

fn pool(mesh: &Mesh) -> Vec<Statement> {
    let mut pool: Vec<Statement> =
        (0..4).map(|n| by_operator(mesh, Subject::Node, mesh.node_key(n).0)).collect();
    let works = vec![pool[0].id()];
    pool.push(by_root(mesh, Subject::Operator, mesh.operator_key().public_key(), works));
    pool.push(by_root(mesh, Subject::Issuer, mesh.issuer_key().public_key(), vec![]));
    pool.push(by_root(mesh, Subject::Node, mesh.node_key(1).0, vec![]));
    let voids: Vec<_> = [0, 4, 5].map(|n: usize| void(mesh, &pool[n])).into();
    pool.extend(voids);
    pool
}

fn same(mesh: &Mesh, a: &Revocations, b: &Revocations) -> bool {
    let nodes = (0..4).all(|n| a.is_revoked(&mesh.node_key(n)) == b.is_revoked(&mesh.node_key(n)));
    let issuer = mesh.issuer_key().public_key();
    let issuer = a.ended(Subject::Issuer, &issuer) == b.ended(Subject::Issuer, &issuer);
    a == b && a.root() == b.root() && nodes && issuer
}

proptest! {
    #[test]
    fn merging_is_commutative_associative_and_idempotent(
        a in proptest::collection::vec(0usize..10, 0..8),
        b in proptest::collection::vec(0usize..10, 0..8),
        c in proptest::collection::vec(0usize..10, 0..8),
    ) {
        let mesh = Mesh::new(1);
        let pool = pool(&mesh);
        let pick = |ns: &[usize]| {
            set(&mesh, &ns.iter().map(|n| pool[*n].clone()).collect::<Vec<_>>())
        };
        let (a, b, c) = (pick(&a), pick(&b), pick(&c));
        let join = |x: &Revocations, y: &Revocations| {
            let mut both = x.clone();
            both.merge(y, &mesh.roots).unwrap();
            both
        };
        prop_assert!(same(&mesh, &join(&a, &b), &join(&b, &a)));
        prop_assert!(same(&mesh, &join(&join(&a, &b), &c), &join(&a, &join(&b, &c))));
        prop_assert!(same(&mesh, &join(&a, &a), &a));
    }
}
