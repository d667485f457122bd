//! Leader election: one controller works at a time.
//!
//! Leader election avoids conflicts between controllers. Safety depends on compare-and-swap instead, also with two
//! leaders.

use std::future::Future;

use kube::Client;
use kube_lease_manager::{LeaseManagerBuilder, LeaseManagerError};

/// The reason why this instance left the election.
#[derive(Debug, thiserror::Error)]
pub enum LeadError {
    /// The Lease could not be read or written.
    #[error(transparent)]
    Lease(#[from] LeaseManagerError),
    /// The work or the election ended without a request to stop; the process has to restart.
    #[error("the controller's work or its leader election ended unexpectedly, it has to start again")]
    Ended,
}

/// Runs `work` while this instance leads, and drops `work` when the lead is lost. Ends when `stop` resolves. The lease
/// is released at the end, so that another instance takes over at once.
pub async fn lead<F: Future<Output = ()>>(
    client: Client,
    namespace: &str,
    name: &str,
    identity: &str,
    work: impl Fn() -> F,
    stop: impl Future<Output = ()>,
) -> Result<(), LeadError> {
    let manager = LeaseManagerBuilder::new(client, name)
        .with_namespace(namespace)
        .with_identity(identity)
        .with_duration(15)
        .with_grace(5)
        .build()
        .await?;
    let (mut leading, task) = manager.watch().await;
    let follow = async {
        loop {
            if leading.wait_for(|leads| *leads).await.is_err() {
                return;
            }
            tracing::info!(identity, "this instance leads now");
            let lost = async {
                let _ = leading.wait_for(|leads| !*leads).await;
            };
            tokio::select! {
                () = work() => return,
                () = lost => tracing::warn!(identity, "this instance lost the lease, its work ends"),
            }
        }
    };
    let stopped = tokio::select! {
        () = follow => false,
        () = stop => true,
    };
    drop(leading);
    task.await.map_or(Ok(()), |ended| ended.map(|_| ()))?;
    if stopped { Ok(()) } else { Err(LeadError::Ended) }
}
