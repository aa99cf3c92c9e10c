//! A disk that is full or does not answer: what restricts holds all the same, everybody is
//! told, and when it is well again the agent writes by itself.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;
use skein_tests::{
    figure::figure,
    host::Said,
    manifest::registry,
    mesh::Mesh,
    server::{Conduct, Server},
    wait::until,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(15);
/// What was promised: it writes again within this.
const BACK: Duration = Duration::from_secs(5);

/// A file system of its own at a folder. Dropped, it is gone.
struct Mount {
    at: PathBuf,
}

fn system(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success().then_some(()).ok_or_else(said)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of plain characters")
}

impl Mount {
    fn require() {
        let allowed = std::env::var("SKEIN_TEST_ROOT").is_ok_and(|value| value == "1");
        assert!(allowed, "this test mounts file systems: run it as root with SKEIN_TEST_ROOT=1");
    }

    fn tmpfs(at: &Path, size: &str) -> Self {
        Self::require();
        let size = format!("size={size},mode=0750");
        system("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", text(at)]).expect("a tmpfs");
        Self { at: at.to_owned() }
    }

    /// ext4 in a file beside it.
    fn ext4(at: &Path) -> Self {
        Self::require();
        let image = at.with_extension("img");
        std::fs::File::create(&image).and_then(|file| file.set_len(24 << 20)).expect("an image");
        system("mkfs.ext4", &["-q", "-F", "-m", "0", text(&image)]).expect("ext4");
        system("mount", &["-o", "loop", text(&image), text(at)]).expect("a loop mount");
        Self { at: at.to_owned() }
    }

    fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.at.join("fill")).expect("a file to fill it with");
        for block in [&[0x5a_u8; 65536][..], &[0x5a; 4096], &[0x5a; 512]] {
            while file.write_all(block).and_then(|()| file.sync_data()).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.at.join("fill")).expect("what filled it");
    }

    fn freeze(&self) {
        system("fsfreeze", &["-f", text(&self.at)]).expect("a frozen file system");
    }

    fn thaw(&self) -> Result<(), String> {
        system("fsfreeze", &["-u", text(&self.at)])
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = self.thaw();
        let _ = system("umount", &["-l", text(&self.at)]);
    }
}

/// Four hosts: c serves checkout from a folder on a file system of its own, b calls it as web, d as
/// batch.
struct Stand {
    mesh: Mesh,
    disk: Mount,
    _server: Server,
}

const C: usize = 2;
const D: usize = 3;

fn way(source: &str) -> String {
    format!(
        "apiVersion: skein/v1
kind: ServiceDiscovery
metadata: {{name: checkout-as-{source}, namespace: shop}}
spec:
  service: shop/checkout
  source: shop/{source}
  ports: [{{name: tcp, port: 9080, targetPort: {PORT}}}]
"
    )
}

impl Stand {
    async fn new(mount: impl Fn(&Path) -> Mount) -> Self {
        let mut mesh = Mesh::of_hosts(4);
        let disk = mount(&mesh[C].dir);
        mesh.form().await;
        let server = Server::start(mesh[C].ip, Conduct::Echo).await;
        mesh[C].manifest("checkout.yaml", &registry("checkout", PORT, server.address));
        mesh[1].manifest("web.yaml", &way("web"));
        mesh[D].manifest("batch.yaml", &way("batch"));
        let stand = Self { mesh, disk, _server: server };
        stand.carried(1).await;
        stand.carried(D).await;
        stand
    }

    async fn call(&self, from: usize) -> Result<(), String> {
        let at = SocketAddr::new(self.mesh[from].ip, 9080);
        let called = async {
            let mut stream = TcpStream::connect(at).await?;
            let mut answer = [0; 4];
            stream.write_all(b"ping").await?;
            stream.read_exact(&mut answer).await.map(drop)
        };
        let called = timeout(Duration::from_secs(3), called).await;
        called.map_err(|_| "no echo within 3 s".to_owned())?.map_err(|error| error.to_string())
    }

    async fn carried(&self, from: usize) {
        let what = format!("a call of {} is carried", self.mesh[from].name);
        until(SOON, &what, async || self.call(from).await).await;
    }

    async fn refused(&self, from: usize, limit: Duration) {
        let what = format!("a call of {} is refused", self.mesh[from].name);
        until(limit, &what, async || match self.call(from).await {
            Ok(()) => Err("it was carried".to_owned()),
            Err(_) => Ok(()),
        })
        .await;
    }

    /// What c's status says of its disk.
    async fn trouble(&self) -> Result<Option<String>, String> {
        let status = self.mesh[C].try_json(&["status"]).await?;
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        let disk = problems.iter().find(|one| one["kind"] == "disk");
        Ok(disk.map(|one| one["text"].as_str().unwrap_or_default().to_owned()))
    }

    /// Has others say new things, which c writes down, until it finds that it cannot.
    async fn in_trouble(&self, word: &str) {
        let mut weight = 0;
        until(SOON, "c says that its disk cannot be written", async || {
            weight += 1;
            let way = format!("{}# {weight}\n", way("web"));
            self.mesh[1].manifest("web.yaml", &way);
            let said = registry("other", PORT + weight, SocketAddr::new(self.mesh[1].ip, 1));
            self.mesh[1].manifest("other.yaml", &said);
            match self.trouble().await? {
                Some(text) if text.contains(word) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    async fn apply(&self, text: &str) -> Said {
        let file = self.mesh[0].manifests.with_extension("policy.yaml");
        std::fs::write(&file, text).expect("a document");
        let key = self.mesh[0].dir.join("person/skein/operator.key").display().to_string();
        let file = file.display().to_string();
        self.mesh[0].run(&["apply", "--cut", "--wait", "2s", "--as", &key, "-f", &file]).await
    }

    async fn deny_web(&self) {
        let said = self.apply(DENY).await;
        assert!([0, 3].contains(&said.code()), "{said:?}");
    }

    async fn revoke_d(&self) {
        let key = self.mesh[0].dir.join("person/skein/operator.key").display().to_string();
        let said = self.mesh[0].run(&["revoke", "d", "--reason", "stolen", "--as", &key]).await;
        assert!([0, 3].contains(&said.code()), "{said:?}");
    }

    /// Everybody is told of c's disk.
    async fn is_told(&self) {
        for host in [0, 1] {
            until(SOON, "members and policy status name c's disk", async || {
                let members = self.mesh[host].try_json(&["members"]).await?;
                let policy = self.mesh[host].try_json(&["policy", "status"]).await?;
                let named = |list: &Value, name: &str, key: &str| {
                    list.as_array().into_iter().flatten().any(|one| {
                        one[name] == "c" && one[key].to_string().contains("disk cannot be written")
                    })
                };
                let told =
                    named(&members, "name", "note") && named(&policy["nodes"], "node", "reason");
                told.then_some(()).ok_or_else(|| format!("{members} {policy}"))
            })
            .await;
        }
    }

    /// All is well, without a restart: how long that took.
    async fn is_back(&self) -> Duration {
        let begun = Instant::now();
        until(SOON, "c writes again", async || match self.trouble().await? {
            None => Ok(()),
            Some(text) => Err(text),
        })
        .await;
        until(SOON, "all hold the policy", async || {
            let policy = self.mesh[0].try_json(&["policy", "status"]).await?;
            let all = policy["agreeing"] == policy["of"];
            all.then_some(()).ok_or_else(|| policy.to_string())
        })
        .await;
        let took = begun.elapsed();
        assert!(took < BACK, "{took:?}");
        took
    }

    /// What was owed is on disk: a restart, by kill, knows it.
    async fn is_kept(&mut self) {
        self.mesh[C].kill().await;
        self.mesh[C].start(&[]).await;
        // The revoked one sees nobody any more.
        self.mesh.all_alive_of(&[0, 1, C], 3, SOON).await;
        self.refused(1, SOON).await;
        self.refused(D, SOON).await;
        let members = self.mesh[C].json(&["members"]).await;
        let mut others = members.as_array().expect("members").iter();
        assert!(others.all(|one| one["name"] != "d" || one["state"] == "revoked"), "{members}");
    }
}

const DENY: &str = "apiVersion: skein/v1
kind: AccessPolicy
metadata: {name: no-web, namespace: shop}
spec: {destination: checkout, action: deny, from: [{service: shop/web}]}
";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts file systems: needs root"]
async fn root_a_host_with_a_full_disk_keeps_to_what_restricts_and_writes_again_by_itself() {
    let mut stand = Stand::new(|at| Mount::tmpfs(at, "4m")).await;
    stand.disk.fill();
    stand.in_trouble("No space left").await;
    stand.is_told().await;
    stand.revoke_d().await;
    stand.refused(D, BACK).await;
    stand.carried(1).await;
    stand.deny_web().await;
    stand.refused(1, BACK).await;
    let said = stand.mesh[C].run(&["token", "create"]).await;
    assert_eq!(said.code(), 1, "{said:?}");
    assert!(said.err.contains("so it issues nothing") || said.err.contains("no issuer key"));
    stand.disk.free();
    let took = stand.is_back().await;
    figure("full disk: writes again after", took);
    stand.is_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts file systems: needs root"]
async fn root_calls_and_liveness_go_on_while_the_disk_does_not_answer() {
    let mut stand = Stand::new(Mount::ext4).await;
    stand.disk.freeze();
    stand.in_trouble("does not answer").await;
    stand.is_told().await;
    // Calls, probes and the API for longer than anybody is patient with a dead host.
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    while begun.elapsed() < Duration::from_secs(8) {
        let asked = Instant::now();
        stand.call(1).await.expect("calls go on");
        stand.mesh[C].json(&["members"]).await;
        slowest = slowest.max(asked.elapsed());
        let alive = stand.mesh[0].json(&["status"]).await["members"]["alive"].clone();
        assert_eq!(alive, 4, "c is not held for dead");
    }
    figure("frozen disk: slowest call and answer of the API", slowest);
    stand.revoke_d().await;
    stand.refused(D, BACK).await;
    stand.deny_web().await;
    stand.refused(1, BACK).await;
    stand.disk.thaw().expect("a disk that answers");
    let took = stand.is_back().await;
    figure("frozen disk: all is written after", took);
    stand.is_kept().await;
}
