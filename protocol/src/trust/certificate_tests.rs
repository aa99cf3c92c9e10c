//! What a chain must not be, and what it proves when it is none of that.

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose as Use, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, PublicKeyData,
    SanType, SignatureAlgorithm, SigningKey,
};
use time::OffsetDateTime;

use super::{
    certificate::*,
    grant::{GRANT_OID, Grant, GrantError},
    issue::{self, Authority, IssueError, Validity},
    operator::verify_operator,
    testing::{Key, Keyed, Mesh, NOW},
    *,
};
use crate::{clock::Wall, limits, name::NodeKey};

const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

fn verify(mesh: &Mesh, chain: &Chain, now: Wall) -> Result<VerifiedChain, ChainError> {
    verify_chain(chain, &mesh.roots, now, &Keyed)
}

/// A leaf by hand, to get wrong what `issue` gets right.
struct Forge<'a> {
    mesh: &'a Mesh,
    params: CertificateParams,
    key: Key,
    signer: Key,
    issuer_name: &'a str,
}

struct Raw([u8; 32], Key);

impl PublicKeyData for Raw {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl SigningKey for Raw {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.1.sign(message).0.to_vec())
    }
}

fn raw(key: Key) -> Raw {
    Raw(key.public_key(), key)
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn at(wall: Wall) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(i64::try_from(wall.seconds()).unwrap()).unwrap()
}

impl<'a> Forge<'a> {
    fn new(mesh: &'a Mesh, issuer_name: &'a str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = named("node-5");
        params.serial_number = Some(vec![7; 16].into());
        params.not_before = at(NOW.before(limits::BACK_DATE));
        params.not_after = at(NOW.after(limits::LEAF_LIFE));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![Use::ServerAuth, Use::ClientAuth];
        let uri = mesh.mesh.node_uri(&mesh.node_key(5));
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        let grant = Mesh::grant(5).encode().unwrap();
        params.custom_extensions = vec![CustomExtension::from_oid_content(&GRANT_OID, grant)];
        let (key, signer) = (mesh.node_signer(5), mesh.issuer_key());
        Self { mesh, params, key, signer, issuer_name }
    }

    fn result(&self) -> Result<VerifiedChain, ChainError> {
        let mut by = CertificateParams::default();
        by.distinguished_name = named(self.issuer_name);
        by.key_identifier_method = KeyIdMethod::PreSpecified(vec![1; 20]);
        let issuer = Issuer::new(by, raw(self.signer));
        let leaf = self.params.signed_by(&raw(self.key), &issuer).unwrap();
        let chain = Chain { leaf: leaf.der().to_vec(), issuer: self.mesh.issuer.clone() };
        verify(self.mesh, &chain, NOW)
    }
}

fn issuer_name(mesh: &Mesh) -> String {
    format!("issuer at {}", mesh.node_key(0).short())
}

fn forged(change: impl Fn(&mut Forge<'_>)) -> Result<VerifiedChain, ChainError> {
    let mesh = Mesh::new(1);
    let name = issuer_name(&mesh);
    let mut forge = Forge::new(&mesh, &name);
    change(&mut forge);
    forge.result()
}

#[test]
fn a_chain_proves_key_grant_issuer_and_root() {
    let mesh = Mesh::new(1);
    let verified = verify(&mesh, &mesh.chain(5, NOW), NOW).unwrap();
    assert_eq!(verified.key, mesh.node_key(5));
    assert_eq!(verified.grant, Mesh::grant(5));
    assert_eq!(verified.issuer, mesh.issuer_key().public_key());
    assert_eq!(verified.issuer_host, mesh.node_key(0));
    assert_eq!(verified.root, mesh.root_key().public_key());
    assert_eq!(verified.class, ChainClass::Live);
    assert_eq!(verified.not_after, NOW.after(limits::LEAF_LIFE));
    assert!(forged(|_| {}).is_ok(), "what the forge makes unchanged is good");
}

#[test]
fn a_self_signed_leaf_proves_nothing() {
    let mesh = Mesh::new(1);
    let name = issuer_name(&mesh);
    let mut forge = Forge::new(&mesh, &name);
    forge.signer = forge.key;
    assert_eq!(forge.result(), Err(ChainError::BadSignature));
    let bare = issue::bare(&mesh.node_signer(5), NOW, [9; 16]).unwrap();
    let chain = Chain { leaf: bare.clone(), issuer: mesh.issuer.clone() };
    assert_eq!(verify(&mesh, &chain, NOW), Err(ChainError::UnknownRoot));
    assert_eq!(verify_bare(&bare, &Keyed), Ok(mesh.node_key(5)));
    assert_eq!(verify_bare(&mesh.chain(5, NOW).leaf, &Keyed), Err(ChainError::BadSignature));
}

#[test]
fn a_chain_of_another_mesh_proves_nothing() {
    let (mesh, other) = (Mesh::new(1), Mesh::new(2));
    assert_eq!(verify(&mesh, &other.chain(5, NOW), NOW), Err(ChainError::UnknownRoot));
    let mixed = Chain { leaf: mesh.chain(5, NOW).leaf, issuer: other.issuer };
    assert_eq!(verify(&mesh, &mixed, NOW), Err(ChainError::UnknownRoot));
}

#[test]
fn time_is_judged_by_distance() {
    let mesh = Mesh::new(1);
    let chain = mesh.chain(5, NOW);
    let (begin, end) = (NOW.before(limits::BACK_DATE), NOW.after(limits::LEAF_LIFE));
    let class = |now| verify(&mesh, &chain, now).map(|chain| chain.class);
    let second = std::time::Duration::from_secs(1);
    assert_eq!(class(begin.before(limits::CLOCK_SKEW)), Ok(ChainClass::Live));
    let early = begin.before(limits::CLOCK_SKEW + second);
    assert!(matches!(class(early), Err(ChainError::NotYetValid { .. })));
    assert_eq!(class(end.after(limits::CLOCK_SKEW)), Ok(ChainClass::Live));
    assert_eq!(class(end.after(limits::CLOCK_SKEW + second)), Ok(ChainClass::Expired));
    assert_eq!(class(end.after(limits::EXPIRED_RENEWS)), Ok(ChainClass::Expired));
    let late = end.after(limits::EXPIRED_RENEWS + second);
    assert!(matches!(class(late), Err(ChainError::Expired { .. })));
}

#[test]
fn an_issuer_past_its_end_verifies_old_leaves_as_expired_only() {
    let mesh = Mesh::new(1);
    let late = NOW.after(limits::ISSUER_LIFE).before(DAY);
    let chain = mesh.chain(5, late);
    let end = verify(&mesh, &chain, late).unwrap().not_after;
    assert_eq!(end, NOW.after(limits::ISSUER_LIFE), "cut to the issuer's end");
    let class = verify(&mesh, &chain, end.after(30 * DAY)).map(|chain| chain.class);
    assert_eq!(class, Ok(ChainClass::Expired));
}

#[test]
fn a_leaf_that_outlives_its_issuer_is_refused() {
    let end = NOW.after(limits::ISSUER_LIFE).after(DAY);
    let long = forged(|forge| forge.params.not_after = at(end));
    assert_eq!(long, Err(ChainError::OutlivesIssuer));
}

#[test]
fn a_leaf_must_be_for_both_sides_and_nothing_else() {
    let uses = |uses: Vec<Use>| forged(move |f| f.params.extended_key_usages = uses.clone());
    assert!(matches!(uses(vec![Use::ClientAuth]), Err(ChainError::OneSided(_))));
    assert!(matches!(uses(vec![Use::ServerAuth]), Err(ChainError::OneSided(_))));
    assert!(matches!(uses(vec![]), Err(ChainError::WrongUse(_))));
    let three = vec![Use::ServerAuth, Use::ClientAuth, Use::CodeSigning];
    assert!(matches!(uses(three), Err(ChainError::WrongUse(_))));
    let usage = forged(|f| f.params.key_usages = vec![KeyUsagePurpose::KeyAgreement]);
    assert!(matches!(usage, Err(ChainError::WrongUse(_))));
    let ca = forged(|f| f.params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    assert!(matches!(ca, Err(ChainError::WrongUse(_))));
}

#[test]
fn a_leaf_has_exactly_the_one_name_of_its_key() {
    let twice = forged(|f| {
        let uri = f.params.subject_alt_names[0].clone();
        f.params.subject_alt_names.push(uri);
    });
    assert_eq!(twice, Err(ChainError::Names));
    let dns = SanType::DnsName("a.example".try_into().unwrap());
    let beside = forged(|f| f.params.subject_alt_names.push(dns.clone()));
    assert_eq!(beside, Err(ChainError::Names));
    assert_eq!(forged(|f| f.params.subject_alt_names.clear()), Err(ChainError::Names));
    let other_key = forged(|f| f.key = f.mesh.node_signer(6));
    assert_eq!(other_key, Err(ChainError::Names));
}

#[test]
fn a_leaf_has_exactly_one_grant_that_is_known_and_not_critical() {
    let ours = |content: Vec<u8>| CustomExtension::from_oid_content(&GRANT_OID, content);
    let grant = Mesh::grant(5).encode().unwrap();
    let twice = forged(|f| f.params.custom_extensions.push(ours(grant.clone())));
    assert!(matches!(twice, Err(ChainError::Twice(_))));
    let none = forged(|f| f.params.custom_extensions.clear());
    assert!(matches!(none, Err(ChainError::Grant(_))));
    let mut next = grant;
    next[4] = 2;
    let version = forged(|f| f.params.custom_extensions = vec![ours(next.clone())]);
    assert_eq!(version, Err(ChainError::Grant(GrantError::Version(2))));
    let large = forged(|f| f.params.custom_extensions = vec![ours(vec![0x30; 600])]);
    assert!(matches!(large, Err(ChainError::Grant(GrantError::Oversize { .. }))));
    let critical = forged(|f| f.params.custom_extensions[0].set_criticality(true));
    assert!(matches!(critical, Err(ChainError::Malformed(_))));
    let foreign = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    let foreign = forged(|f| f.params.custom_extensions.push(foreign.clone()));
    assert!(matches!(foreign, Err(ChainError::Malformed(_))));
}

#[test]
fn the_depth_is_three() {
    let mesh = Mesh::new(1);
    let chain = mesh.chain(5, NOW);
    let (leaf, issuer, root) = (&chain.leaf[..], &chain.issuer[..], &mesh.root[..]);
    for certificates in [vec![leaf], vec![leaf, issuer, root], vec![leaf, issuer, root, root]] {
        let depth = certificates.len();
        assert_eq!(Chain::from_certificates(&certificates), Err(ChainError::Depth(depth)));
    }
    let by_root = forged(|f| {
        f.signer = f.mesh.root_key();
        f.issuer_name = "prod";
    });
    assert_eq!(by_root, Err(ChainError::Depth(1)), "a leaf that the root signed itself");
}

#[test]
fn an_issuer_certified_by_an_issuer_is_none() {
    let mesh = Mesh::new(1);
    let key = mesh.issuer_key();
    let by = Authority::new(&mesh.mesh, &mesh.issuer, &key).unwrap();
    let validity = Validity::new(NOW, 10 * DAY, issue::NEVER_ENDS);
    let sub = Key(77);
    let sub_der =
        issue::issuer(&by, &sub.public_key(), &mesh.node_key(7), validity, [5; 16]).unwrap();
    assert_eq!(verify_issuer(&sub_der, &mesh.roots, &Keyed), Err(ChainError::UnknownRoot));
    let by = Authority::new(&mesh.mesh, &sub_der, &sub).unwrap();
    let leaf = issue::node(&by, &mesh.node_key(5), &Mesh::grant(5), validity, [6; 16]).unwrap();
    let chain = Chain { leaf, issuer: sub_der };
    assert_eq!(verify(&mesh, &chain, NOW), Err(ChainError::UnknownRoot));
}

#[test]
fn a_node_or_an_operator_issues_nothing() {
    let mesh = Mesh::new(1);
    let chain = mesh.chain(5, NOW);
    let as_issuer = Chain { leaf: chain.leaf.clone(), issuer: chain.leaf.clone() };
    assert!(matches!(verify(&mesh, &as_issuer, NOW), Err(ChainError::WrongUse(_))));
    let as_issuer = Chain { leaf: chain.leaf.clone(), issuer: mesh.operator.clone() };
    assert!(matches!(verify(&mesh, &as_issuer, NOW), Err(ChainError::WrongUse(_))));
    let as_node = Chain { leaf: mesh.operator.clone(), issuer: mesh.issuer.clone() };
    assert!(verify(&mesh, &as_node, NOW).is_err());
    assert!(verify_operator(&chain.leaf, &mesh.roots, &Keyed).is_err());
    assert!(verify_operator(&mesh.issuer, &mesh.roots, &Keyed).is_err());
    let operator = verify_operator(&mesh.operator, &mesh.roots, &Keyed).unwrap();
    assert_eq!(operator.name, "ann");
}

#[test]
fn bytes_left_over_and_long_forms_are_refused() {
    let mesh = Mesh::new(1);
    let good = mesh.chain(5, NOW);
    let mut chain = good.clone();
    chain.leaf.push(0);
    assert!(matches!(verify(&mesh, &chain, NOW), Err(ChainError::Malformed(_))));
    let mut chain = good;
    // 0x82 hh ll written as 0x83 00 hh ll: BER, not DER.
    chain.leaf.splice(1..2, [0x83, 0]);
    assert!(verify(&mesh, &chain, NOW).is_err());
}

#[test]
fn the_largest_chain_fits_the_first_flight() {
    let mesh = Mesh::new(1);
    let key = mesh.issuer_key();
    let by = Authority::new(&mesh.mesh, &mesh.issuer, &key).unwrap();
    let validity = Validity::new(NOW, limits::LEAF_LIFE, issue::NEVER_ENDS);
    let service = |n: usize| format!("{}/{n}{}", "n".repeat(20), "s".repeat(11)).parse().unwrap();
    let name = "x".repeat(60).parse().unwrap();
    let grant = Grant::new(name, (0..10).map(service).collect(), vec![], None).unwrap();
    let size = grant.encode().unwrap().len();
    assert!(size > 400, "a large grant: {size}");
    let leaf = issue::node(&by, &NodeKey([1; 32]), &grant, validity, [0xff; 16]).unwrap();
    assert!(leaf.len() + mesh.issuer.len() <= limits::CHAIN_BYTES);
    let chain = mesh.chain(5, NOW);
    assert!(chain.leaf.len() + chain.issuer.len() < 1100, "a usual one is smaller");
}

#[test]
fn another_key_does_not_sign_for_an_authority() {
    let mesh = Mesh::new(1);
    let error = Authority::new(&mesh.mesh, &mesh.issuer, &Key(99)).err();
    assert_eq!(error, Some(IssueError::OtherKey));
}

proptest! {
    #[test]
    fn no_changed_byte_of_a_chain_passes(
        place in 0usize..2000, bit in 0u8..8, issuer in any::<bool>()
    ) {
        let mesh = Mesh::new(1);
        let mut chain = mesh.chain(5, NOW);
        let der = if issuer { &mut chain.issuer } else { &mut chain.leaf };
        let place = place % der.len();
        der[place] ^= 1 << bit;
        prop_assert!(verify(&mesh, &chain, NOW).is_err(), "{place} {bit}");
    }

    #[test]
    fn no_bytes_make_the_verifier_panic(
        leaf in proptest::collection::vec(any::<u8>(), 0..300),
        place in 0usize..2000, to in any::<u8>(), cut in 0usize..2000,
    ) {
        let mesh = Mesh::new(1);
        let mut chain = mesh.chain(5, NOW);
        let random = Chain { leaf, issuer: mesh.issuer.clone() };
        prop_assert!(verify(&mesh, &random, NOW).is_err());
        let place = place % chain.leaf.len();
        chain.leaf[place] = to;
        chain.leaf.truncate(cut);
        let _ = verify(&mesh, &chain, NOW);
    }
}
