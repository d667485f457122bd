//! VolumeRoles: the sums of a role, the ledger of its quota (Q1, Q2), and the reservations of its templates (R7).

use std::sync::Arc;

use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::api::{DiskReservation, VolumeRole};
use crate::cluster;
use crate::plan::quota::is_current;
use crate::plan::refs;
use crate::plan::summary::{RoleSeen, Step, keeps_ledger, next_for_role};
use crate::plan::template;

use super::Error;
use super::context::Context;
use super::ledger_entries::settle;

/// Reconciles a VolumeRole.
///
/// 1. Gather: VolumeRoles and reservations, for a guarantee disks, and for templates disks and Nodes, from the caches. For a
///    new ledger or a new limit the reservations are read live, so that the ledger includes a reservation made a moment ago.
/// 2. Decide: [`template::missing`], and [`next_for_role`].
/// 3. Apply: make the missing reservations. Then the status; or settle entries, and decide again.
pub(super) async fn reconcile(role: Arc<VolumeRole>, ctx: &Context) -> Result<(), Error> {
    let roles = ctx.stores.roles.all();
    let reservations = match keeps_ledger(&role, &refs(&roles)) && !is_current(&role) {
        true => {
            let api: Api<DiskReservation> = Api::all(ctx.client.clone());
            cluster::list(&api, &ListParams::default()).await?.into_iter().map(Arc::new).collect()
        }
        false => ctx.stores.reservations.all(),
    };
    let has_templates = !role.spec.reservation_templates.is_empty();
    let nodes = if has_templates { ctx.stores.nodes.all() } else { vec![] };
    let with_disks = has_templates || role.spec.quota.guarantee.is_some();
    let disks = if with_disks { ctx.stores.disks.all() } else { vec![] };
    let (refused, settled, now) = (None, false, (ctx.now)());
    let mut seen = RoleSeen { role, roles, reservations, disks, nodes, refused, settled, now };
    let made = make_missing(&seen, ctx).await;
    seen.refused = made.as_ref().err().and_then(Error::refusal);
    loop {
        match next_for_role(&seen) {
            Step::Report(status) => {
                ctx.commit(&Api::all(ctx.client.clone()), &*seen.role, &status).await?;
                return made;
            }
            Step::Settle(entries) => {
                let Some(now) = settle(&seen.role.name_any(), &entries, ctx).await? else { return made };
                (seen.role, seen.settled) = (Arc::new(now), true);
            }
        }
    }
}

async fn make_missing(seen: &RoleSeen, ctx: &Context) -> Result<(), Error> {
    let (roles, disks, reservations) = (refs(&seen.roles), refs(&seen.disks), refs(&seen.reservations));
    let missing =
        template::missing(&seen.role, &roles, &disks, &template::labels(&seen.nodes), &reservations);
    let api: Api<DiskReservation> = Api::all(ctx.client.clone());
    // A refusal for one node does not keep the others from theirs.
    let mut outcome = Ok(());
    for mut reservation in missing {
        reservation.spec.principal = Some(ctx.principal().await?);
        outcome = cluster::create(&api, &reservation).await.map(drop).and(outcome);
    }
    outcome
}
