//! Leader election: one controller works at a time.
//!
//! Leader election avoids conflicts between controllers. Safety depends on compare-and-swap instead, also with two
//! leaders.

use std::future::Future;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
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

/// Why no controller works, by its Lease of that name in any namespace; `None`: one works, or the caller may not see that.
pub async fn leaderless(client: &Client, name: &str) -> Option<String> {
    let named = ListParams::default().fields(&format!("metadata.name={name}"));
    let leases = Api::<Lease>::all(client.clone()).list(&named).await.ok()?;
    without_leader(&leases.items, Timestamp::now())
}

/// Time after which a Lease that nobody renews counts as given up. A leader renews it within seconds, and the caller's clock may
/// differ.
const GIVEN_UP: SignedDuration = SignedDuration::from_mins(5);

fn without_leader(leases: &[Lease], now: Timestamp) -> Option<String> {
    let renewed = |lease: &Lease| {
        let spec = lease.spec.as_ref().filter(|spec| spec.holder_identity.is_some())?;
        spec.renew_time.as_ref().map(|time| time.0)
    };
    let is_held = |lease: &Lease| renewed(lease).is_some_and(|last| now.duration_since(last) < GIVEN_UP);
    let first = leases.first().filter(|_| !leases.iter().any(is_held))?;
    let lease = format!("Lease {}/{}", first.namespace().unwrap_or_default(), first.name_any());
    Some(match renewed(first) {
        Some(last) => format!("no controller works: {lease} was renewed last at {last}"),
        None => format!("no controller works: none holds {lease}"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// T4: a controller that ended gives its Lease back, and one that was killed renews it no more.
    #[test]
    fn t4_a_lease_without_a_holder_has_no_leader() {
        let lease = |spec: Value| -> Lease {
            let metadata = json!({"namespace": "sys", "name": "reservoir-controller"});
            serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
        };
        let at = |time: &str| lease(json!({"holderIdentity": "c-1", "renewTime": time}));
        let told = |leases: &[Lease]| without_leader(leases, "2026-01-01T00:10:00Z".parse().unwrap());
        assert_eq!(told(&[]), None, "it may not be seen");
        let given_back = lease(json!({}));
        let none = "no controller works: none holds Lease sys/reservoir-controller";
        assert_eq!(told(std::slice::from_ref(&given_back)).as_deref(), Some(none));
        assert_eq!(told(&[given_back, at("2026-01-01T00:09:50.000000Z")]), None);
        assert_eq!(told(&[at("2026-01-01T00:20:00.000000Z")]), None, "another clock");
        let killed = told(&[at("2026-01-01T00:00:00.000000Z")]).unwrap();
        assert!(killed.ends_with("was renewed last at 2026-01-01T00:00:00Z"), "{killed}");
    }
}
