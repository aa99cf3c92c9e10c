//! Stop: how every task learns that the agent ends.

use tokio::sync::watch;

/// Waits until the agent ends: the value is true, or its sender is gone.
pub async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // The guard of the value must not live on in the caller's future.
    drop(shutdown.wait_for(|stop| *stop).await);
}
