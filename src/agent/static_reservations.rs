//! Static reservations: brings those of a disk to the agent's configuration (R2).

use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use crate::api::{AGENT_MANAGER, DiskReservation};
use crate::cluster;
use crate::plan::static_reservations::changes;
use crate::telemetry;

use super::config::StaticReservation;

/// Returns the names of static reservations that are configured no more and still used.
///
/// 1. Gather: the reservations on the disk.
/// 2. Decide: `plan::static_reservations::changes`.
/// 3. Apply: reservations made, resized or deleted. A failure is logged, for the disk is served all the same, and tried
///    again with the next report.
pub(super) async fn reconcile(
    client: &Client,
    disk: &str,
    configured: &[StaticReservation],
) -> Result<Vec<String>, cluster::Error> {
    let api: Api<DiskReservation> = Api::all(client.clone());
    let found = cluster::list(&api, &ListParams::default().fields(&format!("spec.nodeDisk={disk}"))).await?;

    let configured: Vec<_> = configured.iter().map(|wanted| (wanted.role.as_str(), &wanted.size)).collect();
    let changes = changes(disk, &configured, &found);

    for wanted in &changes.apply {
        let (reservation, size) = (wanted.name_any(), wanted.spec.size.as_str());
        match cluster::apply(&api, wanted, AGENT_MANAGER).await {
            Ok(_) => tracing::info!(reservation, size, "made a static reservation as configured"),
            Err(error) => {
                let error = telemetry::chain(&error);
                tracing::error!(reservation, size, error, "failed to make a static reservation");
            }
        }
    }
    for old in &changes.delete {
        let reservation = old.name_any();
        match cluster::delete(&api, &reservation, old.uid()).await {
            Ok(()) => tracing::info!(reservation, "deleted a static reservation that is configured no more"),
            Err(error) => {
                let error = telemetry::chain(&error);
                tracing::error!(reservation, error, "failed to delete a static reservation");
            }
        }
    }
    Ok(changes.still_used)
}
