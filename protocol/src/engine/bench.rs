//! The bench: two engines on a table. Time, delay and loss are set by hand.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{Anchor, Engine, Event, Input, LinkId, Local, Output, PersistId, Start, Write};
use crate::{
    clock::{Now, Tick, Wall},
    name::NodeKey,
    policy::Documents,
    record::{
        Bundle, OwnChain,
        node::{
            Address, Addresses, Health, HeldIssuer, Host, Instance, InstanceId, Instances,
            NodeState, Protocol, ServicePort, TokenUses,
        },
    },
    trust::{
        Revocations, RootChain, VerifiedChain,
        revocation::Statement,
        testing::{Keyed, Mesh, NOW},
        verify_chain,
    },
    view::View,
};

/// One engine and what the table keeps for it.
pub(super) struct Side {
    pub(super) engine: Engine,
    pub(super) view: Option<Arc<View>>,
    pub(super) events: Vec<Event>,
    /// Writes that were asked for, in order.
    pub(super) writes: Vec<Write>,
    /// Writes that are on disk, in order.
    pub(super) written: Vec<Write>,
    /// Frames that it sent, lost ones too.
    pub(super) sent: Vec<Vec<u8>>,
    /// Whom it dialled, in order.
    pub(super) dials: Vec<NodeKey>,
    /// Writes that are not answered while the disk hangs.
    waiting: Vec<(PersistId, Vec<Write>)>,
    chain: Arc<VerifiedChain>,
}

/// Two engines on a table.
pub(super) struct Bench {
    pub(super) sides: [Side; 2],
    /// What time it is, in milliseconds since the start.
    pub(super) now: u64,
    /// How long a frame takes.
    pub(super) delay: u64,
    /// Whether frames are lost.
    pub(super) lost: bool,
    /// Whether writes are answered.
    pub(super) disk_hangs: bool,
    /// Of which side the disk is full.
    pub(super) full: [bool; 2],
    flying: VecDeque<(u64, usize, Vec<u8>)>,
}

pub(super) const LINK: LinkId = LinkId(1);

pub(super) fn instance(service: &str) -> Instance {
    let port = ServicePort {
        name: "http".parse().unwrap(),
        port: 80,
        protocol: Protocol::Http,
        exposed: false,
        hosts: Vec::new(),
    };
    Instance {
        id: InstanceId { document: "web".parse().unwrap(), endpoint: "a".parse().unwrap() },
        service: service.parse().unwrap(),
        ports: vec![port],
        health: Health::Passing,
        weight: 10,
        version: None,
        image: None,
        tags: Vec::new(),
        meta: Vec::new(),
        target: "127.0.0.1:8080".to_owned(),
        set_aside: None,
    }
}

pub(super) fn local(number: u64, service: &str) -> Local {
    let address =
        Address { network: "default".parse().unwrap(), ip: [127, 0, 0, 1].into(), port: 7400 };
    Local {
        host: Host {
            boot: 0,
            gossip_generation: 1,
            name: format!("node-{number}").parse().unwrap(),
            locality: "zone".parse().unwrap(),
            state: NodeState::Up,
            version: "0.1.0".parse().unwrap(),
            unwritten: false,
        },
        addresses: Addresses(vec![address]),
        instances: Instances(vec![instance(service)]),
        tokens: TokenUses::default(),
        issuer: HeldIssuer::default(),
    }
}

fn at(now: u64) -> Now {
    Now { tick: Tick(now), wall: Wall(NOW.0.saturating_add(now)) }
}

impl Bench {
    /// Two engines that have not met.
    pub(super) fn new() -> Self {
        let mesh = Mesh::new(7);
        let sides = [1, 2].map(|number| Side::new(&mesh, number, 0, Default::default()));
        let mut bench = Self {
            sides,
            now: 0,
            delay: 5,
            lost: false,
            disk_hangs: false,
            full: [false; 2],
            flying: VecDeque::new(),
        };
        bench.drain(0);
        bench.drain(1);
        bench
    }

    /// The key of a side.
    pub(super) fn key(&self, side: usize) -> NodeKey {
        self.sides[side].engine.key()
    }

    /// Joins the two by a link that side 0 dialled.
    pub(super) fn connect(&mut self) {
        for side in [0, 1] {
            let chain = Arc::clone(&self.sides[1 - side].chain);
            self.put(side, Input::Connected { link: LINK, chain, dialled: side == 0 });
        }
    }

    /// Ends the agent of a side, without a word, and starts it again from what it wrote.
    pub(super) fn restart(&mut self, side: usize) {
        let mut reserved = 0;
        let mut peers = BTreeMap::new();
        let (mesh, mut revocations) = (Mesh::new(7), Revocations::default());
        for write in &self.sides[side].writes {
            match write {
                Write::Reserve(upto) => reserved = *upto,
                Write::Peer(key, bundle) => drop(peers.insert(*key, Arc::clone(bundle))),
                Write::Forget(key) => drop(peers.remove(key)),
                Write::Revocation(_, bytes) => {
                    let statement = Statement::decode(bytes).unwrap();
                    let statement = statement.verify(&mesh.roots, &Keyed).unwrap();
                    revocations.insert(statement, &mesh.roots).unwrap();
                }
                Write::Policy(..) | Write::ForgetPolicy(_) | Write::Anchored(_) => {}
            }
        }
        self.put(1 - side, Input::Disconnected(LINK));
        self.flying.clear();
        let (number, peers) = ([1, 2][side], peers.into_values().collect());
        self.sides[side] = Side::new(&mesh, number, reserved, (peers, revocations));
        self.drain(side);
    }

    /// Hands an input to a side.
    pub(super) fn put(&mut self, side: usize, input: Input) {
        let now = at(self.now);
        self.sides[side].engine.handle(now, input);
        self.drain(side);
    }

    /// Lets time pass, a millisecond at a time.
    pub(super) fn run(&mut self, milliseconds: u64) {
        let end = self.now + milliseconds;
        while self.now < end {
            self.now += 1;
            while self.flying.front().is_some_and(|(when, _, _)| *when <= self.now) {
                let Some((_, side, bytes)) = self.flying.pop_front() else { break };
                self.put(side, Input::Frame { link: LINK, bytes: bytes.into() });
            }
            for side in [0, 1] {
                if self.sides[side].engine.next_wakeup() <= Tick(self.now) {
                    self.put(side, Input::Tick);
                }
            }
        }
    }

    /// Answers the writes that waited.
    pub(super) fn disk_goes_on(&mut self) {
        self.disk_hangs = false;
        for side in [0, 1] {
            for (id, writes) in std::mem::take(&mut self.sides[side].waiting) {
                self.sides[side].written.extend(writes);
                self.put(side, Input::Persisted(id));
            }
        }
    }

    fn drain(&mut self, side: usize) {
        while let Some(output) = self.sides[side].engine.poll_output() {
            match output {
                Output::Send(_, bytes) => {
                    let bytes = bytes.to_vec();
                    self.sides[side].sent.push(bytes.clone());
                    if !self.lost {
                        self.flying.push_back((self.now + self.delay, 1 - side, bytes));
                    }
                }
                Output::Dial(node, _) => self.sides[side].dials.push(node),
                Output::Close(..)
                | Output::Revoked(_)
                | Output::Policy(_)
                | Output::Roots(_)
                | Output::Probation(_) => {}
                Output::Verify(id, job) => {
                    let checked = Box::new(job.run(&Keyed));
                    self.sides[side].engine.handle(at(self.now), Input::Verified(id, checked));
                }
                Output::Persist(id, writes) => {
                    self.sides[side].writes.extend(writes.iter().cloned());
                    if self.full[side] {
                        let why = "no space".to_owned();
                        self.sides[side].engine.handle(at(self.now), Input::PersistFailed(id, why));
                    } else if self.disk_hangs {
                        self.sides[side].waiting.push((id, writes));
                    } else {
                        self.sides[side].written.extend(writes);
                        self.sides[side].engine.handle(at(self.now), Input::Persisted(id));
                    }
                }
                Output::View(view) => self.sides[side].view = Some(view),
                Output::Event(event) => self.sides[side].events.push(event),
            }
        }
    }
}

impl Side {
    fn new(
        mesh: &Mesh,
        number: u64,
        reserved: u64,
        (peers, revocations): (Vec<Arc<Bundle>>, Revocations),
    ) -> Self {
        let chain = mesh.chain(number, NOW);
        let verified = verify_chain(&chain, &mesh.roots, NOW, &Keyed).unwrap();
        let shared = Arc::new(verified.clone());
        let start = Start {
            mesh: mesh.mesh,
            roots: Arc::new(mesh.roots.clone()),
            chain: RootChain::new(mesh.root.clone()),
            own: OwnChain { chain, verified },
            signer: Arc::new(mesh.node_signer(number)),
            local: local(number, &format!("shop/svc-{number}")),
            // Sequences are reserved once in a boot here.
            boot: 1000 + number + reserved,
            reserved,
            peers,
            revocations,
            policies: Documents::default(),
            anchor: Anchor::Held,
            seed: number,
        };
        Self {
            engine: Engine::new(start, at(0)),
            view: None,
            events: Vec::new(),
            writes: Vec::new(),
            written: Vec::new(),
            sent: Vec::new(),
            dials: Vec::new(),
            waiting: Vec::new(),
            chain: shared,
        }
    }
}
