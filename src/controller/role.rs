//! VolumeRoles: the sums of a role, and the ledger of its quota (Q1, Q2).

use std::sync::Arc;

use jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::api::{DiskReservation, VolumeRole};
use crate::cluster;
use crate::plan::quota::is_current;
use crate::plan::refs;
use crate::plan::summary::{RoleSeen, Step, keeps_ledger, next_for_role};

use super::Error;
use super::context::Context;
use super::ledger_entries::settle;

/// Reconciles a VolumeRole.
///
/// 1. Gather: VolumeRoles and reservations, from the caches. For a new ledger or a new limit the reservations are read
///    live, so that the ledger includes a reservation made a moment ago.
/// 2. Decide: [`next_for_role`].
/// 3. Apply: the status; or settle entries, and decide again.
pub(super) async fn reconcile(role: Arc<VolumeRole>, ctx: &Context) -> Result<(), Error> {
    let roles = ctx.stores.roles.all();
    let reservations = match keeps_ledger(&role, &refs(&roles)) && !is_current(&role) {
        true => {
            let api: Api<DiskReservation> = Api::all(ctx.client.clone());
            cluster::list(&api, &ListParams::default()).await?.into_iter().map(Arc::new).collect()
        }
        false => ctx.stores.reservations.all(),
    };
    let mut seen = RoleSeen { role, roles, reservations, settled: false, now: Timestamp::now() };
    loop {
        match next_for_role(&seen) {
            Step::Report(status) => {
                return ctx.commit(&Api::all(ctx.client.clone()), &*seen.role, &status).await;
            }
            Step::Settle(entries) => {
                let Some(now) = settle(&seen.role.name_any(), &entries, ctx).await? else { return Ok(()) };
                (seen.role, seen.settled) = (Arc::new(now), true);
            }
        }
    }
}
