//! VolumeRoles: what a role has in all, and the ledger of its quota (Q1, Q2).

use std::sync::Arc;

use kube::Api;
use kube::api::ListParams;

use crate::api::{DiskReservation, VolumeRole};
use crate::cluster;
use crate::plan::{ledger, quota, reserve, summary};

use super::Error;
use super::context::{Context, ready, refs};
use super::lines::{Holder, sweep};

pub(super) async fn reconcile(role: Arc<VolumeRole>, ctx: &Context) -> Result<(), Error> {
    let (roles, mut reservations) = (ctx.stores.roles.all(), ctx.stores.reservations.all());
    let before = role.status.clone().unwrap_or_default();
    let standing = summary::role_standing(&role, &refs(&roles));
    let keeps_ledger = standing.ok && quota::has_quota(&role);
    if keeps_ledger && !quota::is_current(&role) {
        // It is new, or its limit is: by quorum, so that what was reserved a moment ago is taken in too.
        let api: Api<DiskReservation> = Api::all(ctx.client.clone());
        let all = cluster::list(&api, &ListParams::default()).await?;
        reservations = all.into_iter().map(Arc::new).collect();
    }
    let mut status = summary::role_totals(&role, &refs(&reservations));
    if keeps_ledger {
        sweep(&*role, ctx).await?;
        // What exists is taken in, also above the limit: then only new ones are refused.
        let mut lines = before.reservations;
        let all = refs(&reservations);
        for reservation in &all {
            let parent = summary::parent_role(reservation, all.iter().copied());
            if role.belongs(reservation, parent) {
                let (low, _) = reserve::bounds(reservation);
                lines = ledger::settle(&lines, reserve::line(reservation, low), low, u64::MAX);
            }
        }
        let held = role.with(lines);
        (status.reservations, status.reserved) = (held.reservations, held.reserved);
    }
    let verdict = summary::quota_standing(&role, ledger::total(&status.reservations), standing);
    status.conditions = ready(&before.conditions, verdict, role.metadata.generation);
    Ok(ctx.commit(&Api::all(ctx.client.clone()), &*role, &status).await?)
}
