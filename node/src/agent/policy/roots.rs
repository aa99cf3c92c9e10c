//! One root after another: what peers or an operator tell is verified, written, trusted, in that
//! order.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use skein_protocol::{engine::Input, trust::RootChain};
use tokio::sync::watch;

use super::super::{api::invalid, show::Agent};
use crate::{
    api::{
        ApiError,
        dto::{RootsReport, RootsRequest},
    },
    keys::{Ed25519, Trust, file},
};

/// Takes roots that peers tell.
pub(crate) async fn told(agent: Arc<Agent>, mut told: watch::Receiver<Option<Arc<RootChain>>>) {
    while told.changed().await.is_ok() {
        let Some(chain) = told.borrow_and_update().clone() else { continue };
        let taken = agent.take_roots(&chain).await;
        agent.problems.set("roots", taken.err().map(|error| format!("{error:#}")));
    }
}

impl Agent {
    /// Trusts the roots of a chain that goes on where the one of this host ends.
    async fn take_roots(&self, chain: &RootChain) -> Result<()> {
        let path = &self.settings.files.roots;
        if !chain.extends(&file::read_roots(path)?) {
            return Ok(());
        }
        let roots = Arc::new(chain.verify(&Ed25519).context("further roots do not verify")?);
        if roots.mesh != self.roots().mesh {
            bail!("further roots are of another mesh");
        }
        let write = |path: &Path| {
            file::write_roots(path, chain)
                .context("a further root of the mesh cannot be written, so it is not trusted yet")
        };
        write(path)?;
        let usual = self.files.roots();
        if usual != *path && usual.exists() {
            write(&usual)?;
        }
        if let Some(held) = self.credentials.trust() {
            self.credentials.set_trust(Trust { roots: (*roots).clone(), ..Trust::clone(&held) });
        }
        self.roots.send_replace(Arc::clone(&roots));
        if self.issuer().is_some() {
            self.open_issuer()?;
        }
        self.driver.input(Input::Roots(Box::new(chain.clone()), roots)).await;
        tracing::warn!(roots = chain.next.len() + 1, "a further root of the mesh is trusted");
        Ok(())
    }

    /// Trusts a further root and follows how far it gets.
    pub(crate) async fn follow_roots(
        &self,
        request: &RootsRequest,
    ) -> Result<RootsReport, ApiError> {
        let before = self.view().revocation_root;
        if !request.roots.is_empty() {
            let chain = file::roots_of(&request.roots).ok_or_else(|| invalid("no roots"))?;
            let known = self.roots().order.len();
            self.take_roots(&chain).await.map_err(|error| invalid(format!("{error:#}")))?;
            if self.roots().order.len() > known {
                self.view_beyond(before).await;
            }
        }
        let wait = Duration::from_millis(request.wait_ms).max(Duration::from_secs(1));
        let (visible, unheard) = self.heard(wait).await;
        Ok(RootsReport { roots: self.roots().order.len(), visible, unheard })
    }
}
