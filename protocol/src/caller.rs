//! Callers: which service a local process is, by what the kernel says of it.
//!
//! In:    what the kernel says of a process, what documents say of processes, the node's grant.
//! Out:   the service as which its calls count, or why they do not; whether it may connect at all.
//! Never: takes a process's own word, names a service that the grant does not cover, chooses
//!        between two services that a process would both be.

use std::fmt;

use crate::{
    manifest::{kinds::Process, plan::Plan},
    name::ServiceName,
    trust::Grant,
};

/// A local process, as the kernel knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The user that made its socket.
    pub uid: u32,
    /// The unit that it belongs to, where one was asked for and there is one; or why that is not
    /// known, which takes nothing from what its user proves.
    pub unit: Result<Option<String>, String>,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a process of uid {}", self.uid)?;
        match &self.unit {
            Ok(Some(unit)) => write!(f, " in {unit}"),
            Ok(None) => Ok(()),
            Err(why) => write!(f, " whose unit is not known ({why})"),
        }
    }
}

/// The processes that a document means, its user's name looked up.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Processes {
    /// Those of a unit.
    Unit(String),
    /// Those of a user.
    User {
        /// As the document says it.
        said: String,
        /// Its number; `None`: this host has no such user, so it is nobody.
        uid: Option<u32>,
    },
}

impl Processes {
    /// What the document says, `uid_of` being the host's users by name.
    pub fn new(said: &Process, uid_of: impl Fn(&str) -> Option<u32>) -> Self {
        match said {
            Process::Unit(unit) => Self::Unit(unit.clone()),
            Process::User(user) => {
                let uid = user.parse().ok().or_else(|| uid_of(user));
                Self::User { said: user.clone(), uid }
            }
        }
    }

    /// Whether `caller` is one of them.
    pub fn include(&self, caller: &Caller) -> bool {
        match self {
            Self::Unit(unit) => caller.unit.as_ref().is_ok_and(|own| own.as_ref() == Some(unit)),
            Self::User { uid, .. } => *uid == Some(caller.uid),
        }
    }

    /// Whether the caller's unit decides.
    pub fn ask_unit(&self) -> bool {
        matches!(self, Self::Unit(_))
    }

    /// Whether `caller` may connect to the listener of this name, which is for these processes
    /// alone. Who is not known may not.
    pub fn admit(&self, caller: Result<&Caller, &str>, listener: &str) -> Result<(), String> {
        let who = match caller {
            Ok(caller) if self.include(caller) => return Ok(()),
            Ok(caller) => caller.to_string(),
            Err(why) => format!("a caller that is not known ({why})"),
        };
        Err(format!(
            "{who} may not connect here: `allow` of {listener} is {self}; run the caller as that, \
             or change `allow`"
        ))
    }
}

impl fmt::Display for Processes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(unit) => write!(f, "{{unit: {unit}}}"),
            Self::User { said, uid: Some(_) } => write!(f, "{{user: {said}}}"),
            Self::User { said, uid: None } => {
                write!(f, "{{user: {said}}}, which this host does not have")
            }
        }
    }
}

/// The local processes that are services: every `workload` of this host's documents.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Workloads {
    /// Sorted, each pair once.
    all: Vec<(ServiceName, Processes)>,
}

impl Workloads {
    /// Those of all documents, `uid_of` being the host's users by name.
    pub fn new(plan: &Plan, uid_of: impl Fn(&str) -> Option<u32>) -> Self {
        let said = plan.registrations.iter().filter_map(|registration| {
            let process = registration.workload.as_ref()?;
            Some((registration.service.clone(), Processes::new(process, &uid_of)))
        });
        let mut all: Vec<(ServiceName, Processes)> = said.collect();
        all.sort();
        all.dedup();
        Self { all }
    }

    /// Whether no document says which processes are a service: then nobody needs to be known.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether a caller's unit decides.
    pub fn ask_unit(&self) -> bool {
        self.all.iter().any(|(_, processes)| processes.ask_unit())
    }

    /// Each service whose processes are a user that this host does not have.
    pub fn nobody(&self) -> impl Iterator<Item = (&ServiceName, &Processes)> {
        let nobody = |processes: &Processes| matches!(processes, Processes::User { uid: None, .. });
        self.all.iter().filter(move |(_, all)| nobody(all)).map(|(service, all)| (service, all))
    }

    /// The service that `caller` is. Without one its calls count as its node's, and the error
    /// says why and what to do.
    pub fn service(
        &self,
        caller: Result<&Caller, &str>,
        grant: &Grant,
    ) -> Result<ServiceName, String> {
        let only = |why: String| format!("caller proved only node {}: {why}", grant.name);
        let caller = caller.map_err(|why| only(why.to_owned()))?;
        let mut proven: Vec<&ServiceName> = Vec::new();
        let matching = self.all.iter().filter(|(_, processes)| processes.include(caller));
        for (service, _) in matching {
            if !proven.contains(&service) {
                proven.push(service);
            }
        }
        match proven.as_slice() {
            [one] if grant.covers(one) => Ok((*one).clone()),
            [one] => Err(only(format!(
                "it is {one} by its `workload`, which this node's certificate does not name; on \
                 an issuer, `skein admit` it with that service"
            ))),
            [] => Err(only(format!(
                "{caller} is no service's `workload`; add `workload:` to its ServiceRegistry"
            ))),
            [one, other, ..] => Err(only(format!(
                "{caller} is the `workload` of {one} and of {other}; give each its own unit or \
                 user"
            ))),
        }
    }
}

/// The unit that a cgroup's path lies in: its first part that ends in `.service` or `.scope`.
///
/// Only that one is made by the host's own manager. What lies below it is in the hands of whoever
/// runs in it: a user's own manager (`user@1000.service`) or a container makes parts of any name
/// there, so a part further down proves nothing.
pub fn unit_of(path: &str) -> Option<&str> {
    path.split('/').find(|part| is_unit(part))
}

/// Whether a part of a cgroup's path is the name of a unit that has processes.
pub fn is_unit(part: &str) -> bool {
    [".service", ".scope"].iter().any(|end| part.strip_suffix(end).is_some_and(|s| !s.is_empty()))
}

/// The unit in the text of /proc/PID/cgroup: by the unified hierarchy, else by the one that
/// systemd names its own (cgroups(7)). Lines of another shape are passed over.
pub fn unit_in(text: &str) -> Option<&str> {
    let unit = |controllers: &str| {
        text.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (named, path) = rest.split_once(':')?;
            (named == controllers).then(|| unit_of(path)).flatten()
        })
    };
    unit("").or_else(|| unit("name=systemd"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(uid: u32, unit: Option<&str>) -> Caller {
        Caller { uid, unit: Ok(unit.map(str::to_owned)) }
    }

    fn grant(services: &[&str]) -> Grant {
        Grant {
            name: "web-3".parse().unwrap(),
            services: services.iter().map(|one| one.parse().unwrap()).collect(),
            roles: Vec::new(),
            zone: None,
        }
    }

    fn unit(name: &str) -> Processes {
        Processes::Unit(name.to_owned())
    }

    fn user(uid: u32) -> Processes {
        Processes::User { said: "someone".to_owned(), uid: Some(uid) }
    }

    fn workloads(all: &[(&str, Processes)]) -> Workloads {
        let pair =
            |(name, one): &(&str, Processes)| (name.parse::<ServiceName>().unwrap(), one.clone());
        Workloads { all: all.iter().map(pair).collect() }
    }

    #[test]
    fn a_process_is_the_one_service_whose_workload_it_is() {
        let all = workloads(&[
            ("shop/web", unit("web.service")),
            ("shop/batch", user(1001)),
            ("shop/batch", unit("batch.service")),
        ]);
        let grant = grant(&["shop/*"]);
        let is = |caller: Caller| all.service(Ok(&caller), &grant).unwrap().to_string();
        assert_eq!(is(caller(0, Some("web.service"))), "shop/web");
        assert_eq!(is(caller(1001, None)), "shop/batch");
        assert_eq!(is(caller(1001, Some("batch.service"))), "shop/batch", "twice the same");
    }

    #[test]
    fn what_is_not_proven_is_only_its_node_and_says_why() {
        let all = workloads(&[("shop/web", unit("web.service")), ("shop/batch", user(1001))]);
        let wide = grant(&["shop/*"]);
        let why = |caller, grant: &Grant| all.service(caller, grant).unwrap_err();
        let stranger = caller(7, Some("cron.service"));
        let said = why(Ok(&stranger), &wide);
        assert!(said.starts_with("caller proved only node web-3: "), "{said}");
        assert!(said.contains("uid 7 in cron.service") && said.contains("add `workload:`"));
        let both = caller(1001, Some("web.service"));
        assert!(why(Ok(&both), &wide).contains("shop/web and of shop/batch"));
        let web = caller(0, Some("web.service"));
        assert!(why(Ok(&web), &grant(&["ops/*"])).contains("`skein admit`"));
        let hidden = |uid| Caller { uid, unit: Err("it is hidden".to_owned()) };
        let (stranger, batch) = (hidden(7), hidden(1001));
        assert!(why(Ok(&stranger), &wide).contains("uid 7 whose unit is not known (it is hidden)"));
        let batch = all.service(Ok(&batch), &wide).unwrap();
        assert_eq!(batch.to_string(), "shop/batch", "its user proves it all the same");
        assert!(why(Err("no such socket"), &wide).ends_with("web-3: no such socket"));
    }

    #[test]
    fn a_user_that_the_host_does_not_have_is_nobody() {
        let said = Process::User("shop".to_owned());
        let known = Processes::new(&said, |name| (name == "shop").then_some(1001));
        assert!(known.include(&caller(1001, None)));
        let unknown = Processes::new(&said, |_| None);
        assert!(!unknown.include(&caller(0, None)) && !unknown.include(&caller(1001, None)));
        let number = Processes::new(&Process::User("42".to_owned()), |_| None);
        assert!(number.include(&caller(42, None)));
    }

    #[test]
    fn who_may_not_connect_is_told_who_may() {
        let allow = unit("web.service");
        assert_eq!(allow.admit(Ok(&caller(0, Some("web.service"))), "x"), Ok(()));
        let said = allow.admit(Ok(&caller(5, None)), "ServiceDiscovery shop/db").unwrap_err();
        assert!(said.contains("uid 5 may not connect") && said.contains("{unit: web.service}"));
        assert!(said.contains("ServiceDiscovery shop/db"), "{said}");
        let said = allow.admit(Err("it is gone"), "x").unwrap_err();
        assert!(said.contains("not known (it is gone)"), "who is not known may not: {said}");
    }

    #[test]
    fn a_unit_is_the_outermost_that_the_hosts_manager_made() {
        for (path, unit) in [
            ("/system.slice/checkout.service", Some("checkout.service")),
            ("/system.slice/checkout.service/worker", Some("checkout.service")),
            ("/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope")),
            // Anybody may make the last part with `systemd-run --user --unit=checkout`.
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/checkout.service",
                Some("user@1000.service"),
            ),
            ("/system.slice/docker-ab.scope/system.slice/web.service", Some("docker-ab.scope")),
            ("/", None),
            ("", None),
            ("/.service/x", None),
            ("/kubepods/pod1", None),
        ] {
            assert_eq!(unit_of(path), unit, "{path}");
        }
    }

    #[test]
    fn a_unit_is_read_from_either_hierarchy() {
        let unified = "0::/system.slice/web.service\n";
        assert_eq!(unit_in(unified), Some("web.service"));
        let hybrid = "2:cpu:/x.service\n1:name=systemd:/system.slice/a.service\n0::/b.service\n";
        assert_eq!(unit_in(hybrid), Some("b.service"));
        let legacy = "2:cpu,cpuacct:/x.service\n1:name=systemd:/system.slice/a.service\n";
        assert_eq!(unit_in(legacy), Some("a.service"));
        assert_eq!(unit_in("1:name=systemd:/a.service\n0::/\n"), Some("a.service"));
        assert_eq!(unit_in("\u{0}:\n::\nx"), None);
    }
}
