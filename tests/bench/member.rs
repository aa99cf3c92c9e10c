//! What both meshes are asked and told, and the wait until every member shows it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::future::try_join_all;
use tokio::{process::Child, time::sleep};

/// How often each member is asked, on both sides. A figure is at most this, and one answer, high.
pub(crate) const EVERY: Duration = Duration::from_millis(20);
/// What is not shown within this is a failure.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// How many members are in which state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    /// Alive.
    pub(crate) alive: usize,
    /// Dead; Serf says failed.
    pub(crate) dead: usize,
    /// Gone in order.
    pub(crate) left: usize,
}

/// How the others show a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Alive,
    Dead,
    Left,
}

/// What every member is to show.
#[derive(Clone, Debug)]
pub(crate) enum Fact {
    /// A member in a state.
    Member { name: String, state: State },
    /// What a member has said of itself: Serf a tag, skein a service.
    Change { member: String, value: String },
}

/// The way to one member's knowledge.
pub(crate) trait Observer {
    /// Whether it shows this now.
    async fn shows(&mut self, fact: &Fact) -> Result<bool>;
    /// What it counts.
    async fn counts(&mut self) -> Result<Counts>;
}

/// A member that runs.
#[derive(Debug)]
pub(crate) struct Member<O> {
    pub(crate) name: String,
    pub(crate) process: Child,
    pub(crate) observer: O,
}

impl<O: Observer> Member<O> {
    async fn wait(&mut self, fact: &Fact, start: Instant) -> Result<Duration> {
        let name = &self.name;
        while start.elapsed() < LIMIT {
            let shows = self.observer.shows(fact).await;
            if shows.with_context(|| format!("asking {name}"))? {
                return Ok(start.elapsed());
            }
            sleep(EVERY).await;
        }
        let counts = self.observer.counts().await?;
        bail!("{name} does not show within {LIMIT:?}: {fact:?}; it counts {counts:?}")
    }
}

/// Waits until all of them show it. Gives how long after `start` the last one did.
pub(crate) async fn all_show<O: Observer>(
    members: &mut [Member<O>],
    fact: &Fact,
    start: Instant,
) -> Result<Duration> {
    let each = try_join_all(members.iter_mut().map(|member| member.wait(fact, start))).await?;
    Ok(each.into_iter().max().unwrap_or_default())
}

/// One of the two meshes.
pub(crate) trait Side {
    /// What asks its members.
    type Observer: Observer;

    /// The members that run and are not about to go, the first among them.
    fn members(&mut self) -> &mut Vec<Member<Self::Observer>>;
    /// Prepares the next host and gives its name: what an operator does before the first start.
    async fn prepare(&mut self) -> Result<String>;
    /// Starts the member of a prepared host, which joins by the first member.
    fn launch(&mut self, name: &str) -> Result<Member<Self::Observer>>;
    /// A member is told something; what it answers is seen in [`Side::answered`].
    fn tell(&mut self, member: usize, errand: &Errand) -> Result<()>;
    /// Whether everything that members were told was taken.
    async fn answered(&mut self) -> Result<()>;
}

/// What a member is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Errand {
    /// To say something new of itself.
    Change(String),
    /// To go in order.
    Leave,
}
