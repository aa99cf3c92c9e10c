//! Tokens and the messages of joining, as claims.

use std::time::Duration;

use proptest::prelude::*;

use super::{
    grant::Role,
    join::*,
    testing::{Key, Keyed, Mesh, NOW},
    token::*,
    *,
};
use crate::limits;

const SEED: Key = Key(4711);

fn terms(mesh: &Mesh) -> TokenTerms {
    TokenTerms {
        mesh: mesh.mesh,
        issuer: hint(&mesh.issuer_key().public_key()),
        services: vec!["ops/db".parse().unwrap(), "shop/*".parse().unwrap()],
        names: vec!["web-*".parse().unwrap()],
        roles: vec![Role::Gateway],
        zone: Some("eu/a".parse().unwrap()),
        issuers: 2,
        not_after: NOW.after(Duration::from_secs(3600)),
        uses: 10,
    }
}

fn body(mesh: &Mesh) -> TokenBody {
    TokenBody { seed_key: SEED.public_key(), terms: terms(mesh) }
}

fn proof(mesh: &Mesh) -> TokenProof {
    body(mesh).sign(&mesh.issuer_key()).unwrap()
}

fn verify(proof: &TokenProof, mesh: &Mesh, now: crate::clock::Wall) -> Result<(), TokenError> {
    let known = [mesh.issuer.as_slice()];
    proof.verify(known, &mesh.roots, now, &Keyed).map(drop)
}

fn token(mesh: &Mesh) -> Token {
    let root = Roots::hash_of(&mesh.root_key().public_key());
    let TokenProof { body, signature } = proof(mesh);
    Token { root, seed: [9; 32], terms: body.terms, signature }
}

#[test]
fn a_token_reads_as_it_was_written() {
    let token = token(&Mesh::new(1));
    let text = token.to_text().unwrap();
    assert!(text.starts_with("skein1.") && text.len() <= 350, "{}", text.len());
    assert_eq!(text.parse::<Token>(), Ok(token.clone()));
    assert_eq!(format!(" {text}\n").parse::<Token>(), Ok(token.clone()));
    assert!(!format!("{token:?}").contains("09, 09"), "a debug line has no secret");
}

#[test]
fn a_token_gives_the_names_that_it_says_and_the_one_of_the_key() {
    let mesh = Mesh::new(1);
    let (node, terms) = (mesh.node_key(5), terms(&mesh));
    let may = |terms: &TokenTerms, name: &str| terms.may_name(&node, &name.parse().unwrap());
    assert!(may(&terms, "web-1") && may(&terms, &name_of_key(&node)));
    assert!(!may(&terms, "bastion-9") && !may(&terms, &name_of_key(&mesh.node_key(6))));
    let unnamed = TokenTerms { names: vec![], ..terms };
    assert!(!may(&unnamed, "web-1") && may(&unnamed, &name_of_key(&node)));
}

#[test]
fn a_text_that_is_no_token_says_so() {
    let text = token(&Mesh::new(1)).to_text().unwrap();
    let cut: String = text.chars().take(text.len() - 3).collect();
    let long = "x".repeat(5000);
    for bad in
        ["", "skein1.a.b.c", "skein1.", "skein2.aa", &long, &cut, &text[1..], &format!("{text}.")]
    {
        assert!(matches!(bad.parse::<Token>(), Err(TokenError::Text(_))), "{bad}");
    }
}

#[test]
fn a_token_verifies_in_its_mesh_until_its_end() {
    let (mesh, other) = (Mesh::new(1), Mesh::new(2));
    let proof = proof(&mesh);
    let known = [other.issuer.as_slice(), mesh.issuer.as_slice()];
    let issuer = proof.verify(known, &mesh.roots, NOW, &Keyed).unwrap();
    assert_eq!(issuer.host, mesh.node_key(0));
    assert_eq!(verify(&proof, &other, NOW), Err(TokenError::OtherMesh));
    let unknown = proof.verify([], &mesh.roots, NOW, &Keyed).unwrap_err();
    assert_eq!(unknown, TokenError::UnknownIssuer);
    let late = NOW.after(Duration::from_secs(3601));
    assert!(matches!(verify(&proof, &mesh, late), Err(TokenError::Expired { .. })));
}

#[test]
fn a_changed_token_does_not_verify() {
    let mesh = Mesh::new(1);
    let mut wide = proof(&mesh);
    wide.body.terms.services = vec!["*/*".parse().unwrap()];
    assert_eq!(verify(&wide, &mesh, NOW), Err(TokenError::BadSignature));
    let by_node = body(&mesh).sign(&mesh.node_signer(5)).unwrap();
    assert_eq!(verify(&by_node, &mesh, NOW), Err(TokenError::BadSignature));
    let mut endless = body(&mesh);
    endless.terms.not_after = NOW.after(2 * limits::TOKEN_LIFE_MAX);
    let endless = endless.sign(&mesh.issuer_key()).unwrap();
    assert!(matches!(verify(&endless, &mesh, NOW), Err(TokenError::Scope(_))));
}

fn request(mesh: &Mesh, exporter: &Exporter) -> JoinRequest {
    let name = "web-1".parse().unwrap();
    JoinRequest::sign(mesh.node_key(5), None, name, proof(mesh), [3; 32], exporter, &SEED).unwrap()
}

#[test]
fn a_request_holds_on_its_own_connection_only() {
    let mesh = Mesh::new(1);
    let request = request(&mesh, &[1; 32]);
    assert_eq!(JoinRequest::decode(&request.encode().unwrap()), Ok(request.clone()));
    assert!(request.holds(&[1; 32], &Keyed));
    assert!(!request.holds(&[2; 32], &Keyed), "copied to another connection");
    let renamed = JoinRequest { name: "web-2".parse().unwrap(), ..request.clone() };
    assert!(!renamed.holds(&[1; 32], &Keyed));
    let other = JoinRequest { node: mesh.node_key(6), ..request };
    assert!(!other.holds(&[1; 32], &Keyed));
}

fn admission(mesh: &Mesh) -> Admission {
    let chain = mesh.chain(5, NOW);
    Admission {
        node: mesh.node_key(5),
        nonce: [3; 32],
        leaf: chain.leaf,
        issuer: chain.issuer,
        own_issuer: None,
        roots: RootChain::new(mesh.root.clone()),
        policy: Some(vec![]),
        peers: vec![PeerAddress {
            node: mesh.node_key(0),
            address: "127.0.0.1:7946".parse().unwrap(),
        }],
    }
}

#[test]
fn an_admission_is_for_its_node_nonce_and_mesh_only() {
    let (mesh, other) = (Mesh::new(1), Mesh::new(2));
    let signed = admission(&mesh).sign(&mesh.issuer_key()).unwrap();
    let reply = Reply::Admitted(Box::new(signed.clone()));
    assert_eq!(Reply::decode(&reply.encode().unwrap()), Ok(reply));
    let (node, nonce) = (mesh.node_key(5), [3; 32]);
    let ours = |roots: &Roots| roots.mesh == mesh.mesh;
    let (roots, _) = signed.verify(&node, &nonce, ours, &Keyed).unwrap();
    assert_eq!(roots, mesh.roots);
    let theirs = |roots: &Roots| roots.mesh == other.mesh;
    let verify = |signed: &SignedAdmission, nonce| signed.verify(&node, nonce, ours, &Keyed);
    assert_eq!(signed.verify(&node, &nonce, theirs, &Keyed), Err(AdmissionError::OtherMesh));
    assert_eq!(verify(&signed, &[4; 32]), Err(AdmissionError::OtherRequest));
    let forged = admission(&mesh).sign(&mesh.node_signer(0)).unwrap();
    assert_eq!(verify(&forged, &nonce), Err(AdmissionError::BadSignature));
}

proptest! {
    #[test]
    fn what_decodes_encodes_to_the_same_bytes(place in 0usize..4000, to in any::<u8>()) {
        let mesh = Mesh::new(1);
        let mut bytes = request(&mesh, &[1; 32]).encode().unwrap();
        let at = place % bytes.len();
        bytes[at] = to;
        if let Ok(request) = JoinRequest::decode(&bytes) {
            prop_assert_eq!(request.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "(skein1)?[.A-Za-z0-9_-]{0,200}") {
        let _ = text.parse::<Token>();
    }
}
