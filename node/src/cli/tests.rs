//! The whole command line against an agent that answers from a table, over a real socket.

use std::{path::Path, sync::Arc, sync::atomic::Ordering};

use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::watch};

use super::*;
use crate::api::{
    dto::{
        AdmitRequest, Admitted, DocumentName, Documents, Problem, TokenCreated, TokenInfo,
        TokenRequest, ValidateReport,
    },
    fake::FakeAgent,
    server::{ApiListener, serve},
    socket,
};

struct Bench {
    dir: TempDir,
    agent: Arc<FakeAgent>,
    stop: watch::Sender<bool>,
    _runtime: Runtime,
}

impl Bench {
    fn new() -> Self {
        Self::with(FakeAgent::default())
    }

    fn with(agent: FakeAgent) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let agent = Arc::new(agent);
        let (stop, stopped) = watch::channel(false);
        let entered = runtime.enter();
        let listener = ApiListener::Socket(socket::bind(dir.path()).unwrap());
        drop(entered);
        runtime.handle().spawn(serve(listener, agent.clone(), stopped));
        Self { dir, agent, stop, _runtime: runtime }
    }

    fn run(&self, arguments: &str) -> (Exit, String, String) {
        run_in(self.dir.path(), arguments)
    }

    /// What a line prints, when it succeeds.
    fn prints(&self, arguments: &str) -> String {
        let (exit, out, err) = self.run(arguments);
        assert_eq!(exit, Exit::Done, "{arguments}: {err}");
        out
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

fn run_in(dir: &Path, arguments: &str) -> (Exit, String, String) {
    let dir = dir.to_str().unwrap();
    let words = ["skein", "--dir", dir].into_iter().chain(arguments.split(' '));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut console =
        Console { out: &mut out, err: &mut err, format: Format::default(), colour: false };
    let exit = run(words.map(OsString::from), &Pretend, &mut console);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (exit, text(out), text(err))
}

/// Stands for the parts that work on keys and files.
struct Pretend;

impl Local for Pretend {
    fn init(&self, o: hooks::InitOptions) -> anyhow::Result<hooks::InitReport> {
        Ok(hooks::InitReport {
            already: o.mesh.is_none(),
            mesh: o.mesh.unwrap_or_else(|| "prod".into()),
            node_id: "abcdefghij".into(),
            node_name: "web-1".into(),
            token: Some("skein1.t".into()),
            address: "10.0.0.1:7400".into(),
            ..Default::default()
        })
    }
    fn join(&self, o: hooks::JoinOptions) -> anyhow::Result<hooks::JoinReport> {
        match o.token.as_deref() {
            Some("skein1.good") => Ok(hooks::JoinReport {
                mesh: "prod".into(),
                node_name: o.name.unwrap_or_default(),
                ..Default::default()
            }),
            _ => Err(anyhow::anyhow!("the token is of another mesh")),
        }
    }
    fn key(&self, _: PathBuf) -> anyhow::Result<hooks::KeyReport> {
        Ok(hooks::KeyReport { key: "00".repeat(32), ..Default::default() })
    }
    fn token_create(&self, _: PathBuf, _: TokenRequest) -> anyhow::Result<TokenCreated> {
        Ok(TokenCreated { token: "skein1.local".into(), ..Default::default() })
    }
    fn token_list(&self, _: PathBuf) -> anyhow::Result<Vec<TokenInfo>> {
        Ok(vec![])
    }
    fn token_revoke(&self, _: PathBuf, _: String) -> anyhow::Result<()> {
        Ok(())
    }
    fn admit(&self, _: PathBuf, _: AdmitRequest) -> anyhow::Result<Admitted> {
        Ok(Admitted::default())
    }
    fn agent(&self, _: hooks::AgentOptions) -> anyhow::Result<()> {
        Err(anyhow::anyhow!("127.0.0.1:7400: address in use"))
    }
    fn validate(&self, documents: Documents) -> anyhow::Result<ValidateReport> {
        let name = |f: &crate::api::dto::SourceFile| DocumentName {
            name: f.name.rsplit('/').next().unwrap_or_default().to_owned(),
            ..DocumentName::default()
        };
        Ok(ValidateReport { documents: documents.files.iter().map(name).collect(), faults: vec![] })
    }
    fn schema(&self) -> anyhow::Result<String> {
        Ok("{}".into())
    }
}

#[test]
fn members_in_every_format() {
    let bench = Bench::new();
    let table = "\
NAME   ADDRESS          ZONE        STATE  RTT     HEARD
web-1  127.0.0.11:7400  eu-1/eu-1a  alive  -       -
web-2  127.0.0.12:7400  eu-1/eu-1b  dead   1.2 ms  5.2 s
";
    assert_eq!(bench.prints("members"), table);
    assert!(bench.prints("members -o wide").contains("klmnopqrst"));
    assert_eq!(bench.prints("members -o name"), "web-1\nweb-2\n");
    assert!(bench.prints("members -o yaml").contains("name: web-1"));
    let json: serde_json::Value = serde_json::from_str(&bench.prints("members -o json")).unwrap();
    assert_eq!(json[1]["last_heard_ms"], 5200);
}

#[test]
fn status_exits_3_while_degraded_and_0_on_a_warning() {
    let problem = |severity: &str| Problem {
        kind: "one-issuer".into(),
        severity: severity.into(),
        text: "one issuer lives".into(),
        fix: "join a further host".into(),
    };
    let bench =
        Bench::with(FakeAgent { problems: vec![problem("degraded")], ..FakeAgent::default() });
    let (exit, out, _) = bench.run("status");
    assert_eq!(exit, Exit::Degraded);
    assert!(out.contains("one issuer lives") && out.contains("next: join a further host"), "{out}");
    let bench =
        Bench::with(FakeAgent { problems: vec![problem("warning")], ..FakeAgent::default() });
    assert!(bench.prints("status").contains("2 alive, 0 suspect, 1 dead, 0 left"));
}

#[test]
fn a_service_is_shown_with_the_reason_why_an_endpoint_is_not_used() {
    let bench = Bench::new();
    let text = bench.prints("service shop/checkout");
    assert!(text.contains("127.139.0.7"), "{text}");
    assert!(text.contains("web-2/checkout/a  eu-1/eu-1a  critical  10      dead"), "{text}");
    let (exit, _, err) = bench.run("service shop/nope");
    assert_eq!(exit, Exit::Failed);
    assert_eq!(err, "skein: no service `shop/nope` in the view of web-1\n  next: skein services\n");
    let (exit, _, err) = bench.run("service Shop/../x");
    assert_eq!(exit, Exit::Usage, "{err}");
    let (exit, out, _) = bench.run("service shop/checkout --bind");
    assert_eq!(exit, Exit::Degraded);
    assert!(out.contains("next: ports: [{port: 9080, targetPort: 80}]"), "{out}");
}

#[test]
fn no_agent_is_told_with_the_command_that_starts_one() {
    let dir = tempfile::tempdir().unwrap();
    let (exit, out, err) = run_in(dir.path(), "status");
    assert_eq!((exit, out.as_str()), (Exit::Failed, ""));
    assert!(err.contains("no agent is running here"), "{err}");
    assert!(err.contains(&format!("skein agent --dir {}", dir.path().display())), "{err}");
}

#[test]
fn a_bad_command_line_exits_2_and_help_exits_0() {
    let dir = tempfile::tempdir().unwrap();
    for bad in ["nonsense", "status --nope", "get pods", "maintenance maybe", "drain --wait 5"] {
        let (exit, out, err) = run_in(dir.path(), bad);
        assert_eq!((exit, out.as_str()), (Exit::Usage, ""), "{bad}");
        assert!(!err.is_empty());
    }
    let (exit, out, _) = run_in(dir.path(), "help");
    assert_eq!(exit, Exit::Done);
    for verb in ["init", "join", "agent", "apply", "members", "drain", "completion"] {
        assert!(out.contains(&format!("  {verb} ")), "{verb}: {out}");
    }
    assert!(out.contains("Exit codes: 0 done, 1 failed, 2 usage"));
}

#[test]
fn every_verb_has_help_and_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        let (exit, out, _) = run_in(dir.path(), &format!("{name} --help"));
        assert_eq!(exit, Exit::Done, "{name}");
        assert!(out.contains("Usage: skein"), "{out}");
        let (exit, out, _) = run_in(dir.path(), &format!("man {name}"));
        assert_eq!(exit, Exit::Done, "{name}");
        assert!(out.contains(".TH"), "{name}");
    }
    Cli::command().debug_assert();
}

#[test]
fn documents_are_applied_compared_and_deleted() {
    let bench = Bench::new();
    let good = bench.file("good.yaml", "kind: ServiceRegistry");
    let same = bench.file("same.yaml", "same");
    let bad = bench.file("bad.yaml", "prots");
    let applied = bench.prints(&format!("apply -f {good}"));
    assert_eq!(
        applied,
        "ServiceRegistry shop/checkout created\nvisible on 2/2 nodes after 80 ms\n"
    );
    let (exit, out, err) = bench.run(&format!("apply {bad}"));
    assert_eq!((exit, out.as_str()), (Exit::Failed, ""));
    assert!(err.starts_with("bad.yaml:3:5: unknown field `prots`"), "{err}");
    assert!(err.contains("1 fault in the documents; nothing was changed"), "{err}");
    let (exit, out, _) = bench.run(&format!("diff {good}"));
    assert_eq!((exit, out.contains("-a\n+b\n")), (Exit::WouldChange, true));
    assert_eq!(bench.run(&format!("diff {same}")).0, Exit::Done);
    let before = bench.agent.writes.load(Ordering::SeqCst);
    let (exit, ..) = bench.run(&format!("apply --dry-run {good}"));
    assert_eq!(exit, Exit::WouldChange);
    assert_eq!(bench.agent.writes.load(Ordering::SeqCst), before);
    assert!(bench.prints("delete registry shop/checkout").contains("deleted"));
    assert!(bench.prints(&format!("delete -f {good}")).contains("deleted"));
    assert!(bench.prints("get registry").contains("shop/checkout"));
    assert_eq!(bench.prints("get mesh"), "no documents\n");
    assert_eq!(bench.run("get registry nope").0, Exit::Failed);
    assert!(bench.prints("describe ServiceRegistry shop/checkout").contains("shop/checkout"));
}

#[test]
fn a_directory_is_read_as_the_agent_reads_it() {
    let bench = Bench::new();
    let folder = bench.dir.path().join("services.d");
    std::fs::create_dir(&folder).unwrap();
    for name in ["b.yml", "a.yaml", ".hidden.yaml", "readme.txt"] {
        std::fs::write(folder.join(name), "x").unwrap();
    }
    let names = bench.prints(&format!("validate {} -o json", folder.display()));
    let report: ValidateReport = serde_json::from_str(&names).unwrap();
    let names: Vec<_> = report.documents.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names, ["a.yaml", "b.yml"]);
}

#[test]
fn a_token_comes_from_a_file_and_never_from_the_arguments() {
    let bench = Bench::new();
    let (exit, _, err) = bench.run("join 10.0.0.1 --token skein1.good");
    assert_eq!(exit, Exit::Usage);
    assert!(err.contains("--token @FILE"), "{err}");
    let file = bench.file("token", "skein1.good\n");
    let joined = bench.prints(&format!("join 10.0.0.1 --name web-2 --token @{file}"));
    assert!(joined.contains("web-2"), "{joined}");
    let file = bench.file("token", "skein1.other\n");
    let (exit, _, err) = bench.run(&format!("join 10.0.0.1 --token @{file}"));
    assert_eq!((exit, err.as_str()), (Exit::Failed, "skein: the token is of another mesh\n"));
}

#[test]
fn a_token_is_made_by_the_running_agent_and_else_by_the_directory() {
    let bench = Bench::new();
    assert_eq!(bench.prints("token create --service shop/*"), "skein1.secret\n");
    let json = bench.prints("token create --service shop/* --uses 3 -o json");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["uses"], &json["services"][0]), (&3.into(), &"shop/*".into()));
    assert_eq!(bench.run("token revoke t1").0, Exit::Done);
    assert_eq!(bench.run("token revoke t/2").0, Exit::Failed);
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(run_in(dir.path(), "token create").1, "skein1.local\n");
}

#[test]
fn init_says_what_to_do_next_and_again_that_there_is_a_mesh() {
    let dir = tempfile::tempdir().unwrap();
    let (exit, out, _) = run_in(dir.path(), "init --mesh prod");
    assert_eq!(exit, Exit::Done);
    assert!(out.contains("SKEIN_TOKEN=skein1.t skein join 10.0.0.1:7400"), "{out}");
    assert!(out.contains("7400/udp"), "{out}");
    let (exit, out, _) = run_in(dir.path(), "init");
    assert_eq!((exit, out.as_str()), (Exit::Done, "already a member of prod\n"));
}

#[test]
fn the_life_of_a_host() {
    let bench = Bench::new();
    assert!(bench.prints("drain shop/checkout").contains("visible on 2/2 nodes"));
    assert!(bench.prints("maintenance on").contains("visible on 2/2 nodes"));
    assert_eq!(bench.prints("check checkout/a passing --note ok"), "");
    assert_eq!(bench.prints("log-level"), "info\n");
    assert_eq!(bench.prints("log-level debug"), "debug\n");
    assert!(bench.prints("leave").contains("left the mesh"));
    assert!(bench.prints("links").contains("web-2  control  out  quic"));
    assert!(bench.prints("certs").contains("11 d"));
}

#[test]
fn what_an_agent_cannot_start_with_is_told_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (exit, _, err) = run_in(dir.path(), "agent");
    assert_eq!((exit, err.as_str()), (Exit::Failed, "skein: 127.0.0.1:7400: address in use\n"));
}

#[test]
fn a_duration_needs_its_unit() {
    assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
    assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
    for bad in ["5", "s", "5 s", "-1s", "1.5s", "99999999999999999d"] {
        assert!(duration(bad).is_err(), "{bad}");
    }
}

#[test]
fn an_agent_that_does_not_answer_is_given_up_on() {
    let bench = Bench::with(FakeAgent { hangs: true, ..FakeAgent::default() });
    let client = Client::new(bench.dir.path()).unwrap();
    let client = client.within(Duration::from_millis(20));
    let error = client.get::<serde_json::Value>("/v1/status").unwrap_err();
    assert!(error.text.contains("did not answer within"), "{error}");
}
