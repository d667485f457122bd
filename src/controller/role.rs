//! VolumeRoles: what a role has in all (Q1).

use std::sync::Arc;

use kube::Api;

use crate::api::VolumeRole;
use crate::plan::summary;

use super::Error;
use super::context::{Context, ready, refs};

pub(super) async fn reconcile(role: Arc<VolumeRole>, ctx: &Context) -> Result<(), Error> {
    let (roles, reservations) = (ctx.stores.roles.state(), ctx.stores.reservations.state());
    let mut status = summary::role_totals(&role, &refs(&reservations));
    let before = role.status.as_ref().map_or(&[][..], |s| &s.conditions);
    let verdict = summary::role_standing(&role, &refs(&roles));
    status.conditions = ready(before, verdict, role.metadata.generation);
    Ok(ctx.commit(&Api::all(ctx.client.clone()), &*role, &status).await?)
}
