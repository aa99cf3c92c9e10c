//! What the workload promises, on real files, sockets and processes.

use std::{fs, time::Duration};

use skein_protocol::record::node::{Health, InstanceId};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::*;

/// A workload over two directories of its own.
struct Bench {
    files: TempDir,
    dir: TempDir,
    stop: watch::Sender<bool>,
    handle: WorkloadHandle,
    task: JoinHandle<()>,
}

fn config(roots: Vec<PathBuf>, dir: &Path) -> WorkloadConfig {
    WorkloadConfig { files: roots, dir: dir.to_owned(), version: "0.1.0".into() }
}

fn start(
    config: WorkloadConfig,
) -> Result<(WorkloadHandle, JoinHandle<()>, watch::Sender<bool>), StartError> {
    let (stop, shutdown) = watch::channel(false);
    let (handle, task) = Workload::start(config, &Handle::current(), shutdown)?;
    Ok((handle, task, stop))
}

impl Bench {
    fn new(files: &[(&str, &str)]) -> Self {
        let (root, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (name, text) in files {
            fs::write(root.path().join(name), text).unwrap();
        }
        let (handle, task, stop) = start(config(vec![root.path().to_owned()], dir.path())).unwrap();
        Self { files: root, dir, stop, handle, task }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.files.path().join(name), text).unwrap();
    }

    fn now(&self) -> Arc<Snapshot> {
        Arc::clone(&self.handle.snapshot.borrow())
    }

    /// Waits until a snapshot is as `wanted`.
    async fn until(&self, wanted: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let mut snapshot = self.handle.snapshot.clone();
        let seen = snapshot.wait_for(|snapshot| wanted(snapshot));
        let seen = timeout(Duration::from_secs(20), seen).await;
        Arc::clone(&seen.unwrap_or_else(|_| panic!("still {:#?}", self.now())).unwrap())
    }

    /// Stops it and starts it again over the same directories.
    async fn restart(self) -> Self {
        self.stop.send(true).unwrap();
        self.task.await.unwrap();
        let roots = vec![self.files.path().to_owned()];
        let (handle, task, stop) = start(config(roots, self.dir.path())).unwrap();
        Self { handle, task, stop, ..self }
    }
}

fn registry(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: skein/v1\nkind: ServiceRegistry\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    )
}

fn services(snapshot: &Snapshot) -> Vec<String> {
    snapshot
        .plan
        .registrations
        .iter()
        .map(|registration| registration.service.to_string())
        .collect()
}

fn id(name: &str) -> DocumentId {
    DocumentId {
        kind: Kind::ServiceRegistry,
        namespace: "shop".parse().unwrap(),
        name: name.parse().unwrap(),
    }
}

const PLAIN: &str = "{ports: [{port: 80}], checks: []}";

#[tokio::test]
async fn a_dropped_file_registers_and_a_removed_one_ends_it() {
    let bench = Bench::new(&[]);
    assert!(services(&bench.now()).is_empty());
    bench.write("web.yaml", &registry("web", PLAIN));
    let seen = bench.until(|snapshot| services(snapshot) == ["shop/web"]).await;
    assert_eq!(seen.instances()[0].health, Health::Passing);
    assert_eq!(seen.instances()[0].id.to_string(), "web/default");
    fs::remove_file(bench.files.path().join("web.yaml")).unwrap();
    bench.until(|snapshot| services(snapshot).is_empty()).await;
}

#[tokio::test]
async fn a_bad_file_keeps_its_last_good_content_also_over_a_restart() {
    let bench =
        Bench::new(&[("a.yaml", &registry("web", PLAIN)), ("b.yaml", &registry("db", PLAIN))]);
    bench.write("a.yaml", "nonsense: [");
    let seen = bench.until(Snapshot::is_degraded).await;
    assert_eq!(services(&seen), ["shop/web", "shop/db"]);
    let text = seen.problems[0].to_string();
    assert!(text.contains("a.yaml: its last good content holds"), "{text}");
    let bench = bench.restart().await;
    assert_eq!(services(&bench.now()), ["shop/web", "shop/db"]);
    assert!(bench.now().is_degraded());
    bench.write("a.yaml", &registry("shop-web", PLAIN));
    let seen = bench.until(|snapshot| !snapshot.is_degraded()).await;
    assert_eq!(services(&seen), ["shop/shop-web", "shop/db"]);
}

#[tokio::test]
async fn a_file_cut_to_nothing_ends_no_service() {
    let bench = Bench::new(&[("a.yaml", &registry("web", PLAIN))]);
    bench.write("a.yaml", "");
    let seen = bench.until(Snapshot::is_degraded).await;
    assert_eq!(services(&seen), ["shop/web"]);
    assert!(seen.problems[0].text.contains("is empty"));
}

#[tokio::test]
async fn a_file_in_a_directory_that_was_never_good_is_told_and_left_out() {
    let bench = Bench::new(&[("a.yaml", "kind: x"), ("b.yaml", &registry("db", PLAIN))]);
    assert_eq!(services(&bench.now()), ["shop/db"]);
    assert!(bench.now().problems[0].text.starts_with("nothing of it holds"));
}

#[tokio::test]
async fn a_bad_file_that_is_named_itself_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mesh.yaml");
    let started = |roots: &[&Path]| {
        let roots = roots.iter().map(|root| root.to_path_buf()).collect();
        start(config(roots, &dir.path().join("state"))).map(drop)
    };
    let error = started(&[&file]).unwrap_err().to_string();
    assert!(error.contains("mesh.yaml cannot be read"), "{error}");
    fs::write(&file, registry("web", "{prots: []}")).unwrap();
    let error = started(&[&file]).unwrap_err().to_string();
    assert!(error.contains("did you mean `ports`?"), "{error}");
    let other = dir.path().join("other.yaml");
    fs::write(&file, registry("web", PLAIN)).unwrap();
    fs::write(&other, registry("web", PLAIN)).unwrap();
    let error = started(&[&file, &other]).unwrap_err().to_string();
    assert!(error.contains("mesh.yaml:3:"), "{error}");
    assert!(started(&[&file]).is_ok());
}

#[tokio::test]
async fn a_directory_that_is_not_writable_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("plain");
    fs::write(&file, "").unwrap();
    let error = start(config(Vec::new(), &file)).map(drop).unwrap_err().to_string();
    assert!(error.contains("cannot be used") && error.contains("--dir"), "{error}");
}

#[tokio::test]
async fn a_file_that_does_not_go_with_another_keeps_what_did() {
    let web = registry("web", "{ports: [{port: 80}], checks: []}");
    let twin = |port: u16| {
        registry(
            "web-b",
            &format!("{{service: web, ports: [{{port: {port}, targetPort: 1}}], checks: []}}"),
        )
    };
    let bench = Bench::new(&[("a.yaml", &web), ("b.yaml", &twin(80))]);
    assert_eq!(bench.now().plan.registrations.len(), 2);
    bench.write("b.yaml", &twin(81));
    let seen = bench.until(Snapshot::is_degraded).await;
    assert_eq!(seen.plan.registrations.len(), 2);
    let text = seen.problems[0].to_string();
    assert!(text.contains("with different ports"), "{text}");
}

#[tokio::test]
async fn applied_documents_hold_over_a_restart() {
    let bench = Bench::new(&[]);
    let text = registry("web", PLAIN);
    let changes = |outcomes: Vec<Outcome>| -> Vec<Change> {
        outcomes.into_iter().map(|outcome| outcome.change).collect()
    };
    let dry = bench.handle.apply("-", &text, true).await.unwrap();
    assert_eq!(changes(dry), [Change::Created]);
    assert!(services(&bench.now()).is_empty());
    let done = bench.handle.apply("-", &text, false).await.unwrap();
    assert_eq!(changes(done), [Change::Created]);
    assert_eq!(services(&bench.now()), ["shop/web"]);
    let again = bench.handle.apply("-", &text, false).await.unwrap();
    assert_eq!(changes(again), [Change::Unchanged]);
    let bench = bench.restart().await;
    assert_eq!(services(&bench.now()), ["shop/web"]);
    let other = text.replace("port: 80", "port: 81");
    let done = bench.handle.apply("-", &other, false).await.unwrap();
    assert_eq!(changes(done), [Change::Changed]);
    let gone = bench.handle.delete(id("web"), false).await.unwrap();
    assert_eq!(gone.change, Change::Deleted);
    assert!(services(&bench.now()).is_empty());
    let bench = bench.restart().await;
    assert!(services(&bench.now()).is_empty());
    let error = bench.handle.delete(id("web"), false).await.unwrap_err();
    assert!(error.to_string().contains("skein get ServiceRegistry"), "{error}");
}

#[tokio::test]
async fn applying_is_all_or_nothing() {
    let bench = Bench::new(&[("a.yaml", &registry("db", PLAIN))]);
    let both = |other: String| format!("{}---\n{other}", registry("web", PLAIN));
    let other_ports = registry("db-b", "{service: db, ports: [{port: 81}]}");
    for other in [registry("mail", "{prots: []}"), other_ports] {
        let error = bench.handle.apply("-", &both(other), false).await.unwrap_err();
        assert!(matches!(error, ChangeError::Faults(_)), "{error}");
    }
    let policy = "apiVersion: skein/v1\nkind: AccessPolicy\nmetadata: {name: p}\nspec: {destination: \"*\", default: deny}\n";
    // What holds for the mesh goes another way.
    let error = bench.handle.apply("-", policy, false).await.unwrap_err();
    assert_eq!(error, ChangeError::Empty);
    assert_eq!(services(&bench.now()), ["shop/db"]);
    let error = bench.handle.apply("-", "# nothing\n", false).await.unwrap_err();
    assert_eq!(error, ChangeError::Empty);
}

#[tokio::test]
async fn what_a_file_owns_is_not_applied_or_deleted_and_the_file_is_named() {
    let bench = Bench::new(&[("a.yaml", &registry("web", PLAIN))]);
    let applied = bench.handle.apply("-", &registry("web", PLAIN), false).await;
    let deleted = bench.handle.delete(id("web"), false).await;
    for error in [applied.unwrap_err(), deleted.unwrap_err()] {
        assert!(error.to_string().contains("a.yaml; edit or remove that file"), "{error}");
    }
}

#[tokio::test]
async fn a_file_goes_before_what_was_applied() {
    let bench = Bench::new(&[]);
    bench.handle.apply("-", &registry("web", PLAIN), false).await.unwrap();
    bench.write("a.yaml", &registry("web", "{ports: [{port: 81}], checks: []}"));
    let seen = bench.until(Snapshot::is_degraded).await;
    assert_eq!(seen.plan.registrations[0].ports[0].port, 81);
    assert!(seen.problems[0].text.starts_with("left out, applied earlier"));
}

#[tokio::test]
async fn applied_settings_hold_for_files_too() {
    let mesh = "apiVersion: skein/v1\nkind: ServiceMesh\nmetadata: {name: agent}\nspec: {meshConfig: {servicePort: 80}}\n";
    let bench = Bench::new(&[]);
    bench.handle.apply("-", mesh, false).await.unwrap();
    bench.write("a.yaml", &registry("web", "{checks: []}"));
    let seen = bench.until(|snapshot| services(snapshot) == ["shop/web"]).await;
    assert_eq!(seen.plan.registrations[0].ports[0].port, 80);
    let mesh_id = DocumentId {
        kind: Kind::ServiceMesh,
        namespace: "default".parse().unwrap(),
        name: "agent".parse().unwrap(),
    };
    let error = bench.handle.delete(mesh_id, false).await.unwrap_err();
    assert!(error.to_string().contains("meshConfig has no servicePort"), "{error}");
}

#[tokio::test]
async fn commands_by_the_api_are_never_run() {
    let bench = Bench::new(&[]);
    let text =
        registry("web", "{ports: [{port: 80}], checks: [{type: exec, command: [/bin/true]}]}");
    let error = bench.handle.apply("-", &text, false).await.unwrap_err();
    assert!(error.to_string().contains("never from what came by the API"), "{error}");
    bench.write("a.yaml", &text);
    let seen = bench.until(|snapshot| !snapshot.health.is_empty()).await;
    assert_eq!(seen.problems, []);
}

#[tokio::test]
async fn an_instance_is_critical_until_its_check_passes_and_again_when_it_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let text = registry(
        "web",
        &format!(
            "{{ports: [{{port: 80, targetPort: {port}}}], checks: [{{type: tcp, interval: 100ms, timeout: 100ms}}]}}"
        ),
    );
    let bench = Bench::new(&[("a.yaml", &text)]);
    let first = bench.now();
    assert_eq!(first.instances()[0].health, Health::Critical);
    let health =
        |wanted: Health| move |snapshot: &Snapshot| snapshot.instances()[0].health == wanted;
    let passing = bench.until(health(Health::Passing)).await;
    drop(listener);
    let critical = bench.until(health(Health::Critical)).await;
    // Many runs, two transitions.
    assert_eq!(critical.number, passing.number + 1);
    let check = critical.health.values().next().unwrap().checks.values().next().unwrap();
    assert!(check.output.contains("connect to 127.0.0.1"), "{}", check.output);
}

#[tokio::test]
async fn a_ttl_check_takes_reports() {
    let text = registry("web", "{ports: [{port: 80}], checks: [{type: ttl, ttl: 1h, name: beat}]}");
    let bench = Bench::new(&[("a.yaml", &text)]);
    let report = |check: Option<&str>| TtlReport {
        instance: InstanceId {
            document: "web".parse().unwrap(),
            endpoint: "default".parse().unwrap(),
        },
        check: check.map(|check| check.parse().unwrap()),
        health: Health::Warning,
        output: "slow".into(),
    };
    let error = bench.handle.ttl_update(report(Some("other"))).await.unwrap_err();
    assert!(error.contains("no such ttl check"), "{error}");
    bench.handle.ttl_update(report(None)).await.unwrap();
    bench.until(|snapshot| snapshot.instances()[0].health == Health::Warning).await;
}

#[tokio::test]
async fn a_hold_outranks_checks_until_it_is_lifted() {
    let bench =
        Bench::new(&[("a.yaml", &registry("web", PLAIN)), ("b.yaml", &registry("db", PLAIN))]);
    let web: ServiceName = "shop/web".parse().unwrap();
    let healths = || -> Vec<Health> {
        let instances = bench.now().instances();
        instances.iter().map(|instance| instance.health).collect()
    };
    let held = |hold| Some(Held { hold, reason: String::new() });
    bench.handle.hold(Some(web.clone()), held(Hold::Maintenance)).await;
    assert_eq!(healths(), [Health::Passing, Health::Maintenance]);
    bench.handle.hold(None, held(Hold::Draining)).await;
    assert_eq!(healths(), [Health::Draining, Health::Maintenance]);
    bench.handle.hold(Some(web), None).await;
    bench.handle.hold(None, None).await;
    assert_eq!(healths(), [Health::Passing, Health::Passing]);
}

#[tokio::test]
async fn what_a_person_set_aside_and_why_lasts_over_a_restart() {
    let bench =
        Bench::new(&[("a.yaml", &registry("web", PLAIN)), ("b.yaml", &registry("db", PLAIN))]);
    let web: ServiceName = "shop/web".parse().unwrap();
    let kernel = Held { hold: Hold::Maintenance, reason: "kernel update".to_owned() };
    bench.handle.hold(Some(web.clone()), Some(kernel.clone())).await;
    let bench = bench.restart().await;
    let found: Vec<(Health, Option<String>)> =
        bench.now().instances().into_iter().map(|one| (one.health, one.set_aside)).collect();
    let aside = (Health::Maintenance, Some("kernel update".to_owned()));
    assert_eq!(found, [(Health::Passing, None), aside]);
    assert_eq!(bench.now().holds, BTreeMap::from([(Some(web.clone()), kernel)]));
    bench.handle.hold(Some(web), None).await;
    let drained = Held { hold: Hold::Draining, reason: String::new() };
    bench.handle.hold(None, Some(drained.clone())).await;
    let bench = bench.restart().await;
    assert_eq!(bench.now().holds, BTreeMap::from([(None, drained)]));
    assert!(bench.now().instances().iter().all(|one| one.health == Health::Draining));
    bench.handle.hold(None, None).await;
    let bench = bench.restart().await;
    assert!(bench.now().instances().iter().all(|one| one.health == Health::Passing));
}

#[tokio::test]
async fn what_is_set_aside_holds_though_it_cannot_be_kept_and_that_is_said_until_it_is() {
    let bench = Bench::new(&[("a.yaml", &registry("web", PLAIN))]);
    // A directory in its place: nobody can write the file, root neither.
    let file = bench.dir.path().join("set-aside.json");
    fs::create_dir_all(file.join("x")).unwrap();
    let held = Held { hold: Hold::Maintenance, reason: String::new() };
    bench.handle.hold(None, Some(held)).await;
    assert_eq!(bench.now().instances()[0].health, Health::Maintenance);
    let told = bench.now().problems[0].text.clone();
    assert!(told.contains("a restart would not know of it"), "{told}");
    fs::remove_dir_all(&file).unwrap();
    bench.until(|snapshot| !snapshot.is_degraded()).await;
    let bench = bench.restart().await;
    assert_eq!(bench.now().instances()[0].health, Health::Maintenance);
}

#[tokio::test]
async fn a_file_that_is_named_and_went_bad_does_not_keep_the_agent_from_starting() {
    let bench = Bench::new(&[("a.yaml", &registry("web", PLAIN))]);
    let named = bench.files.path().join("a.yaml");
    let dir = tempfile::tempdir().unwrap();
    let begin = || start(config(vec![named.clone()], dir.path()));
    let (handle, task, stop) = begin().unwrap();
    stop.send(true).unwrap();
    task.await.unwrap();
    assert_eq!(services(&handle.snapshot.borrow()), ["shop/web"]);
    fs::write(&named, "nonsense: [").unwrap();
    let (handle, ..) = begin().unwrap();
    let snapshot = Arc::clone(&handle.snapshot.borrow());
    assert_eq!(services(&snapshot), ["shop/web"]);
    assert!(snapshot.problems[0].text.contains("also over a restart"), "{:?}", snapshot.problems);
    // One that was never good has nothing to go on with.
    let fresh = tempfile::tempdir().unwrap();
    assert!(start(config(vec![named], fresh.path())).is_err());
}

#[tokio::test]
async fn an_unchanged_reload_publishes_nothing() {
    let bench = Bench::new(&[("a.yaml", &registry("web", PLAIN))]);
    let before = bench.now().number;
    bench.handle.reload().await;
    assert_eq!(bench.now().number, before);
}

#[tokio::test]
async fn a_mesh_wide_document_in_a_file_is_said_to_need_an_operator() {
    let policy = "apiVersion: skein/v1\nkind: AccessPolicy\nmetadata: {name: p}\nspec: {destination: \"*\", default: deny}\n";
    let bench = Bench::new(&[("a.yaml", policy)]);
    let seen = bench.now();
    assert!(!seen.is_degraded());
    assert_eq!(seen.problems[0].text, "not applied: needs an operator");
}

/// Every YAML file under `dir`.
fn yaml_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(yaml_files(&path));
        } else if path.extension().is_some_and(|end| end == "yaml" || end == "yml") {
            found.push(path);
        }
    }
    found
}

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

#[test]
fn every_file_in_configs_loads() {
    let files = yaml_files(&configs());
    assert!(files.len() >= 5);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let documents = validate(&file.display().to_string(), &text, env!("CARGO_PKG_VERSION"));
        let documents = documents.unwrap_or_else(|faults| panic!("{faults}"));
        for document in documents {
            assert_eq!(document.warnings, [], "{}", file.display());
        }
    }
}

#[tokio::test]
async fn the_example_services_run_together() {
    let dir = tempfile::tempdir().unwrap();
    let roots = vec![configs().join("agent.yaml"), configs().join("services")];
    let (handle, _task, _stop) = start(config(roots, dir.path())).unwrap();
    let seen = Arc::clone(&handle.snapshot.borrow());
    assert_eq!(seen.problems, []);
    assert_eq!(services(&seen), ["shop/checkout", "shop/orders-db", "shop/worker"]);
    assert_eq!(seen.mesh_base, Some(configs()));
}

#[test]
fn the_example_of_the_agent_says_every_field_and_its_default() {
    let text = fs::read_to_string(configs().join("agent.yaml")).unwrap();
    let documents = validate("agent.yaml", &text, "0.1.0").unwrap();
    let mesh = skein_protocol::manifest::Body::Mesh(Box::default());
    assert_eq!(documents[0].body, mesh);
    let text = text.replace("meshConfig:", "meshConfig:\n    nothing: here");
    let faults = validate("agent.yaml", &text, "0.1.0").unwrap_err();
    // The fault lists what is known, so no field can be added without standing here.
    let known = faults.0[0].fix.strip_prefix("known here: ").unwrap();
    for field in known.split(", ") {
        assert!(text.contains(&format!(" {field}:")), "{field}");
    }
}
