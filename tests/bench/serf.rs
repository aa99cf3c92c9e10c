//! Fifty Serf members: profile lan, encrypted, no snapshot, asked over their RPC.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use rmpv::Value;
use serde_json::json;
use tokio::{process::Command, task::JoinSet};

use crate::{
    member::{Counts, Errand, Fact, Member, Observer, Side, State},
    process,
    rpc::{Rpc, field, map, text},
};

/// All members of this side: 127.0.78.N.
pub(crate) const NET: [u8; 3] = [127, 0, 78];
/// The port of its gossip, UDP and TCP.
pub(crate) const PORT: u16 = 7946;

/// The members.
pub(crate) struct Serf {
    binary: PathBuf,
    folder: PathBuf,
    key: String,
    prepared: u8,
    members: Vec<Member<Client>>,
    errands: JoinSet<Result<()>>,
}

/// The way to one member.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    rpc: Option<Rpc>,
}

impl Serf {
    /// Starts the first member.
    pub(crate) async fn new(binary: PathBuf, folder: &Path) -> Result<Self> {
        let folder = folder.join("serf");
        std::fs::create_dir(&folder)?;
        let keygen = Command::new(&binary).arg("keygen").output().await;
        let keygen = keygen.with_context(|| format!("{} does not run", binary.display()))?;
        if !keygen.status.success() {
            bail!("`serf keygen` ended with {}", keygen.status);
        }
        let key = String::from_utf8(keygen.stdout)?.trim().to_owned();
        let (members, errands) = (Vec::new(), JoinSet::new());
        let mut serf = Self { binary, folder, key, prepared: 0, members, errands };
        let first = serf.prepare().await?;
        let member = serf.launch(&first)?;
        serf.members.push(member);
        process::answers(&mut serf.members, 1).await?;
        Ok(serf)
    }

    fn settings(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }
}

impl Side for Serf {
    type Observer = Client;

    fn members(&mut self) -> &mut Vec<Member<Client>> {
        &mut self.members
    }

    async fn prepare(&mut self) -> Result<String> {
        self.prepared += 1;
        let (name, ip) = (format!("{PREFIX}{}", self.prepared), ip(self.prepared));
        let mut settings = json!({
            "node_name": name,
            "bind": format!("{ip}:{PORT}"),
            "rpc_addr": format!("{ip}:{RPC_PORT}"),
            "profile": "lan",
            "encrypt_key": self.key,
        });
        if self.prepared > 1
            && let Some(settings) = settings.as_object_mut()
        {
            settings.insert("start_join".to_owned(), json!([format!("{}:{PORT}", self::ip(1))]));
        }
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options.open(self.settings(&name))?.write_all(&serde_json::to_vec(&settings)?)?;
        Ok(name)
    }

    fn launch(&mut self, name: &str) -> Result<Member<Client>> {
        let number = name.trim_start_matches(PREFIX).parse()?;
        let mut command = Command::new(&self.binary);
        command.args(["agent", "-config-file"]).arg(self.settings(name));
        let process = process::spawn(command, &self.folder.join(format!("{name}.log")))?;
        let address = SocketAddr::from((ip(number), RPC_PORT));
        Ok(Member { name: name.to_owned(), process, observer: Client { address, rpc: None } })
    }

    fn tell(&mut self, member: usize, errand: &Errand) -> Result<()> {
        let member = self.members.get(member).context("no such member")?;
        let (command, body) = match errand {
            Errand::Change(value) => ("tags", map([("Tags", map([(TAG, value.as_str().into())]))])),
            Errand::Leave => ("leave", Value::Nil),
        };
        let mut client = Client { address: member.observer.address, rpc: None };
        self.errands.spawn(async move { client.rpc().await?.tell(command, &body).await });
        Ok(())
    }

    async fn answered(&mut self) -> Result<()> {
        while let Some(answer) = self.errands.join_next().await {
            answer??;
        }
        Ok(())
    }
}

impl Client {
    async fn rpc(&mut self) -> Result<&mut Rpc> {
        if self.rpc.is_none() {
            self.rpc = Some(Rpc::connect(self.address).await?);
        }
        self.rpc.as_mut().context("no connection")
    }

    /// Asks. A connection on which that failed is not used again: its answer may come yet.
    async fn ask(&mut self, command: &str, body: &Value) -> Result<Value> {
        let answer = self.rpc().await?.ask(command, body).await;
        if answer.is_err() {
            self.rpc = None;
        }
        answer
    }

    async fn named(&mut self, name: &str) -> Result<Option<Value>> {
        let filter = map([("Name", name.into())]);
        let answer = self.ask("members-filtered", &filter).await?;
        let members = field(&answer, "Members").and_then(Value::as_array);
        Ok(members.and_then(|members| members.first()).cloned())
    }
}

impl Observer for Client {
    async fn shows(&mut self, fact: &Fact) -> Result<bool> {
        match fact {
            Fact::Member { name, state } => {
                let member = self.named(name).await?;
                let status = member.as_ref().and_then(|member| field(member, "Status"));
                Ok(status.and_then(text) == Some(word(*state)))
            }
            Fact::Change { member, value } => {
                let member = self.named(member).await?;
                let tags = member.as_ref().and_then(|member| field(member, "Tags"));
                Ok(tags.and_then(|tags| field(tags, TAG)).and_then(text) == Some(value))
            }
        }
    }

    async fn counts(&mut self) -> Result<Counts> {
        let answer = self.ask("members", &Value::Nil).await?;
        let members = field(&answer, "Members").and_then(Value::as_array);
        let members = members.with_context(|| format!("no members in {answer}"))?;
        let count = |state: State| {
            let status =
                |member: &&Value| field(member, "Status").and_then(text) == Some(word(state));
            members.iter().filter(status).count()
        };
        let (alive, dead, left) = (count(State::Alive), count(State::Dead), count(State::Left));
        Ok(Counts { alive, dead, left })
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Alive => "alive",
        State::Dead => "failed",
        State::Left => "left",
    }
}

fn ip(number: u8) -> Ipv4Addr {
    let [a, b, c] = NET;
    Ipv4Addr::new(a, b, c, number)
}

const PREFIX: &str = "serf-";
const TAG: &str = "figure";
const RPC_PORT: u16 = 7373;
