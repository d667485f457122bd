//! Static reservations: brings the reservations of a disk in line with the agent's configuration (R2).

use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use tokio::sync::OnceCell;

use crate::api::{AGENT_MANAGER, DiskReservation};
use crate::cluster;
use crate::plan::static_reservations::{Changes, in_the_way};

/// The reservations on a NodeDisk.
pub(super) async fn on_disk(client: &Client, disk: &str) -> Result<Vec<DiskReservation>, cluster::Error> {
    let on_it = ListParams::default().fields(&format!("spec.nodeDisk={disk}"));
    cluster::list(&Api::all(client.clone()), &on_it).await
}

/// The words for a reservation that could not be made or resized.
async fn refusal(api: &Api<DiskReservation>, name: &str, error: &cluster::Error) -> String {
    let of_name = ListParams::default().fields(&format!("metadata.name={name}"));
    let there = cluster::list(api, &of_name).await.unwrap_or_default();
    there.first().and_then(in_the_way).unwrap_or_else(|| error.report())
}

/// Makes, resizes and deletes reservations; `found` are the present ones. Returns the failures by reservation: the disk is
/// served all the same, and the next report tries again.
pub(super) async fn apply(
    client: &Client,
    found: &[DiskReservation],
    changes: &Changes,
) -> Vec<(String, String)> {
    let mut failures = Vec::new();
    let api: Api<DiskReservation> = Api::all(client.clone());
    let user = OnceCell::new();
    for wanted in &changes.apply {
        let (reservation, size) = (wanted.name_any(), wanted.spec.size.as_str());
        let made = async {
            let mut wanted = wanted.clone();
            wanted.spec.principal = match found.iter().find(|there| there.name_any() == reservation) {
                Some(there) => there.spec.principal.clone(),
                None => Some(user.get_or_try_init(|| cluster::username(client)).await?.clone()),
            };
            cluster::apply(&api, &wanted, AGENT_MANAGER).await
        };
        match made.await {
            Ok(_) => tracing::info!(reservation, size, "made a static reservation as configured"),
            Err(error) => {
                let error = refusal(&api, &reservation, &error).await;
                tracing::error!(reservation, size, error, "failed to make a static reservation");
                failures.push((reservation, error));
            }
        }
    }
    for old in &changes.delete {
        let reservation = old.name_any();
        match cluster::delete(&api, &reservation, old.uid()).await {
            Ok(()) => tracing::info!(reservation, "deleted a static reservation without configuration"),
            Err(error) => {
                let error = error.report();
                tracing::error!(reservation, error, "failed to delete a static reservation");
                failures.push((reservation, error));
            }
        }
    }
    failures
}
