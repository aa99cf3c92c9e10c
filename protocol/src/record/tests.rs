//! Records: their bytes, which never change, and what is not believed.

use std::sync::Arc;

use proptest::prelude::*;

use super::{
    header::{HEADER_BYTES, Header, RecordKind, SIGNATURE_DOMAIN},
    node::{
        Address, Addresses, Health, HeldIssuer, Host, Instance, InstanceId, Instances, NodeRecord,
        NodeState, Protocol, ServicePort, TokenUse, TokenUses,
    },
    signed::{Bundle, OwnChain, RecordError, Signed, Verified},
};
use crate::{
    clock::Wall,
    limits,
    name::{Hash, MeshId, NodeKey},
    trust::{
        Crypto, Signer,
        testing::{Keyed, Mesh, NOW},
        verify_chain,
    },
    wire::section::Sections,
};

fn content() -> NodeRecord {
    let port = ServicePort {
        name: "http".parse().unwrap(),
        port: 80,
        protocol: Protocol::Http,
        exposed: true,
        hosts: vec!["shop.example".to_owned()],
    };
    let instance = Instance {
        id: InstanceId { document: "web".parse().unwrap(), endpoint: "a".parse().unwrap() },
        service: "shop/web".parse().unwrap(),
        ports: vec![port],
        health: Health::Passing,
        weight: 10,
        version: Some("2.3.1".parse().unwrap()),
        image: Some("web:2.3.1".to_owned()),
        tags: vec!["blue".parse().unwrap()],
        meta: vec![("team".to_owned(), "shop".to_owned())],
        target: "127.0.0.1:8080".to_owned(),
        set_aside: None,
    };
    let address =
        Address { network: "default".parse().unwrap(), ip: [10, 0, 0, 1].into(), port: 7400 };
    NodeRecord {
        host: Host {
            boot: 7,
            gossip_generation: 8,
            name: "node-1".parse().unwrap(),
            locality: "eu/eu-1".parse().unwrap(),
            state: NodeState::Up,
            version: "0.1.0".parse().unwrap(),
            unwritten: false,
        },
        addresses: Addresses(vec![address]),
        instances: Instances(vec![instance]),
        tokens: TokenUses {
            used: vec![TokenUse { id: [1; 16], uses: 2, until: Wall(5) }],
            revoked: vec![([3; 16], Wall(7))],
        },
        issuer: HeldIssuer(Some(vec![1, 2, 3])),
    }
}

fn own(mesh: &Mesh) -> OwnChain {
    let chain = mesh.chain(1, NOW);
    let verified = verify_chain(&chain, &mesh.roots, NOW, &Keyed).unwrap();
    OwnChain { chain, verified }
}

fn sign(mesh: &Mesh, content: NodeRecord) -> Result<Verified, RecordError> {
    let not_after = NOW.after(limits::RECORD_LIFE);
    Verified::sign(content, mesh.mesh, 5, not_after, &own(mesh), &mesh.node_signer(1))
}

fn check(mesh: &Mesh, bundle: Bundle, crypto: &dyn Crypto) -> Result<Verified, RecordError> {
    Signed::parse(Arc::new(bundle), mesh.mesh)?.verify(&mesh.roots, NOW, crypto)
}

/// The same record with one section more, signed as its origin would.
pub(crate) fn with_section(signer: &dyn Signer, record: Verified, tag: u16) -> Bundle {
    let parts = Header::split(&record.bundle().record).unwrap();
    let mut sections = Sections::decode(parts.payload).unwrap();
    sections.put(tag, vec![1, 2, 3]);
    let mut bytes = parts.header.with_payload(&sections.encode());
    let signature = signer.sign(&[SIGNATURE_DOMAIN, &bytes].concat());
    bytes.extend_from_slice(&signature.0);
    Bundle { chain: record.bundle().chain.clone(), record: bytes }
}

#[test]
fn the_bytes_of_a_header_never_change() {
    let header = Header {
        kind: RecordKind::NODE,
        mesh: MeshId(Hash([0xaa; 32])),
        origin: NodeKey([0xbb; 32]),
        sequence: 0x0102_0304_0506_0708,
        not_after: Wall(0x1112_1314_1516_1718),
    };
    let bytes = header.with_payload(&[9, 9]);
    let golden = [
        vec![1, 1, 0],
        vec![0xaa; 32],
        vec![0xbb; 32],
        vec![8, 7, 6, 5, 4, 3, 2, 1],
        vec![0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11],
        vec![2, 0, 0, 0, 9, 9],
    ];
    assert_eq!(bytes, golden.concat());
    assert_eq!(bytes.len(), HEADER_BYTES + 2);
}

#[test]
fn the_bytes_of_a_node_record_never_change() {
    // A change of this hash is a change of the wire: agents of two versions would no longer
    // read each other. New things are new sections.
    let mesh = Mesh::new(1);
    let record = sign(&mesh, content()).unwrap();
    let parts = Header::split(&record.bundle().record).unwrap();
    let golden = include_str!("../../../tests/golden/node-record.hex");
    assert_eq!(data_encoding::HEXLOWER.encode(parts.payload), golden.trim());
}

#[test]
fn what_was_signed_verifies_and_reads_back() {
    let mesh = Mesh::new(1);
    let record = sign(&mesh, content()).unwrap();
    let again = check(&mesh, Bundle::clone(record.bundle()), &Keyed).unwrap();
    assert_eq!(**again.content().unwrap(), content());
    assert_eq!(again.hash(), record.hash());
}

#[test]
fn a_record_with_a_section_that_must_be_understood_verifies_and_is_not_read() {
    let mesh = Mesh::new(1);
    let newer = with_section(&mesh.node_signer(1), sign(&mesh, content()).unwrap(), 6);
    let carried = check(&mesh, newer.clone(), &Keyed).unwrap();
    assert_eq!(carried.content(), None);
    assert_eq!(**carried.bundle(), newer);
    let mut forged = newer;
    *forged.record.last_mut().unwrap() ^= 1;
    assert_eq!(check(&mesh, forged, &Keyed).unwrap_err(), RecordError::BadSignature);
    let skipped = with_section(&mesh.node_signer(1), sign(&mesh, content()).unwrap(), 0x8001);
    assert_eq!(**check(&mesh, skipped, &Keyed).unwrap().content().unwrap(), content());
}

#[test]
fn any_bit_that_flips_is_noticed() {
    let mesh = Mesh::new(1);
    let record = sign(&mesh, content()).unwrap();
    for place in 0..record.bundle().record.len() {
        let mut bundle = Bundle::clone(record.bundle());
        bundle.record[place] ^= 1 << (place % 8);
        assert!(check(&mesh, bundle, &Keyed).is_err(), "byte {place}");
    }
}

#[test]
fn a_record_of_another_mesh_or_of_no_known_kind_is_refused_before_any_signature() {
    let mesh = Mesh::new(1);
    let record = sign(&mesh, content()).unwrap();
    let other = MeshId(Hash([9; 32]));
    let bundle = Arc::clone(record.bundle());
    assert_eq!(Signed::parse(bundle, other).unwrap_err(), RecordError::WrongMesh);
    let mut bundle = Bundle::clone(record.bundle());
    bundle.record[1] = 9;
    assert_eq!(Signed::parse(Arc::new(bundle), mesh.mesh).unwrap_err(), RecordError::Kind(9));
}

#[test]
fn more_than_the_bounds_is_not_signed() {
    let mesh = Mesh::new(1);
    let mut many = content();
    let one = many.instances.0[0].clone();
    many.instances.0 = (0..=limits::INSTANCES_MAX)
        .map(|number| {
            let endpoint = format!("a{number:04}").parse().unwrap();
            let id = InstanceId { document: one.id.document.clone(), endpoint };
            Instance { id, ..one.clone() }
        })
        .collect();
    assert!(matches!(sign(&mesh, many), Err(RecordError::Unfit(_))));
    let mut twice = content();
    twice.instances.0.push(one);
    assert!(matches!(sign(&mesh, twice), Err(RecordError::Unfit(_))));
}

proptest! {
    #[test]
    fn bytes_that_are_no_record_are_refused_without_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..400)
    ) {
        let mesh = Mesh::new(1);
        let chain = mesh.chain(1, NOW);
        let bundle = Bundle { chain, record: bytes };
        prop_assert!(check(&mesh, bundle, &Keyed).is_err());
    }
}
