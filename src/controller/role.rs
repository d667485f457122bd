//! VolumeRoles: the sums of a role, and the ledger of its quota (Q1, Q2).

use std::sync::Arc;

use jiff::Timestamp;
use kube::Api;
use kube::api::ListParams;

use crate::api::{DiskReservation, VolumeRole};
use crate::cluster;
use crate::plan::quota::is_current;
use crate::plan::summary::{keeps_ledger, role_status};

use super::Error;
use super::context::Context;
use super::ledger_entries::sweep;
use crate::plan::refs;

/// 1. Gather: VolumeRoles and reservations, from the caches. The reservations are read live for a ledger that is new, or
///    whose limit is, so that one made a moment ago is taken in too. Entries that do not fit are settled first.
/// 2. Decide: [`role_status`].
/// 3. Apply: the status.
pub(super) async fn reconcile(role: Arc<VolumeRole>, ctx: &Context) -> Result<(), Error> {
    let roles = ctx.stores.roles.all();
    let keeps_ledger = keeps_ledger(&role, &refs(&roles));
    if keeps_ledger {
        sweep(&*role, ctx).await?;
    }
    let reservations = match keeps_ledger && !is_current(&role) {
        true => {
            let api: Api<DiskReservation> = Api::all(ctx.client.clone());
            cluster::list(&api, &ListParams::default()).await?.into_iter().map(Arc::new).collect()
        }
        false => ctx.stores.reservations.all(),
    };

    let status = role_status(&role, &refs(&roles), &refs(&reservations), Timestamp::now());

    ctx.commit(&Api::all(ctx.client.clone()), &*role, &status).await
}
