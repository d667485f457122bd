//! The command `unsubscribe`.

use anyhow::bail;
use kube::api::{Api, Patch, PatchParams, Preconditions};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::cli::{DryRun, Unsubscribe};
use super::errors::explain_api_error;
use super::kind::{SUBSCRIPTION, did_you_mean};
use super::output::{note, say};
use super::snapshot::Snapshot;
use super::unclaim;
use super::write::{MANAGER, delete_params, dry_run_suffix};
use crate::api::{Role, RoleSubscription, VolumeClaim};
use crate::plan::advice;

/// A subscription with the roles that it keeps.
#[derive(Debug, PartialEq)]
struct Change<'a> {
    subscription: &'a RoleSubscription,
    keeps: Vec<&'a str>,
}

/// The subscriptions that have one of the roles. The error for an unknown role has the most similar one.
fn changes<'a>(snapshot: &'a Snapshot, roles: &[Role], namespace: &str) -> anyhow::Result<Vec<Change<'a>>> {
    snapshot.require(&[&SUBSCRIPTION])?;
    let all = &snapshot.subscriptions;
    let subscribed = || all.iter().flat_map(|s| s.spec.roles.iter().map(String::as_str));
    if let Some(unknown) = roles.iter().find(|role| !subscribed().any(|there| there == role.as_str())) {
        let near = did_you_mean(unknown.as_str(), subscribed());
        bail!("namespace {namespace} is not subscribed to role {unknown}{near}");
    }
    let goes = |role: &str| roles.iter().any(|named| named.as_str() == role);
    let of = |subscription: &'a RoleSubscription| {
        let (gone, keeps): (Vec<&str>, Vec<&str>) =
            subscription.spec.roles.iter().map(String::as_str).partition(|role| goes(role));
        (!gone.is_empty()).then_some(Change { subscription, keeps })
    };
    Ok(all.iter().filter_map(of).collect())
}

/// The roles whose volumes the namespace is offered all the same, each with a sub-role that it stays subscribed to (R3).
fn still_offered<'a>(snapshot: &'a Snapshot, roles: &'a [Role]) -> Vec<(&'a Role, &'a str)> {
    let all: Vec<&str> =
        snapshot.subscriptions.iter().flat_map(|s| s.spec.roles.iter().map(String::as_str)).collect();
    let stays = |of: &&str| !roles.iter().any(|role| role.as_str() == *of);
    let by = |role: &'a Role| {
        let mut below = all.iter().filter(|of| Role::name_covers(role.as_str(), of));
        below.find(|of| stays(of)).map(|of| (role, *of))
    };
    roles.iter().filter_map(by).collect()
}

pub(super) async fn unsubscribe(client: &Client, args: &Unsubscribe, namespace: &str) -> anyhow::Result<()> {
    let snapshot = Snapshot::read(client, Some(namespace), namespace).await?;
    let changes = changes(&snapshot, &args.roles, namespace)?;
    let api = Api::<RoleSubscription>::namespaced(client.clone(), namespace);
    for Change { subscription, keeps } in changes {
        let name = subscription.name_any();
        let version = subscription.resource_version();
        let client_side = args.dry_run == Some(DryRun::Client);
        let (result, answer) = match keeps.is_empty() {
            _ if client_side => (if keeps.is_empty() { "deleted" } else { "configured" }, Ok(())),
            true => {
                let params =
                    delete_params(args.dry_run, Preconditions { resource_version: version, uid: None });
                ("deleted", api.delete(&name, &params).await.map(drop))
            }
            false => {
                let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"roles": keeps}});
                let params = PatchParams { dry_run: args.dry_run.is_some(), ..PatchParams::apply(MANAGER) };
                ("configured", api.patch(&name, &params, &Patch::Merge(&patch)).await.map(drop))
            }
        };
        answer.map_err(|error| explain_api_error(&error))?;
        say(format!("rolesubscription.reservoir.dev/{name} {result}{}\n", dry_run_suffix(args.dry_run)))?;
    }
    for (role, by) in still_offered(&snapshot, &args.roles) {
        note(format!(
            "note: namespace {namespace} is still offered the volumes of role {role}, by its subscription to {by}"
        ));
    }
    for role in &args.roles {
        let is_bound = |claim: &&VolumeClaim| {
            claim.metadata.deletion_timestamp.is_none()
                && claim.status.as_ref().is_some_and(|status| status.volume.is_some())
        };
        let left: Vec<_> = unclaim::of_role(&snapshot, role).filter(is_bound).collect();
        if !left.is_empty() {
            note("Bound claims need no subscription. These claims go on:");
            left.iter().for_each(|claim| note(format!("  {}", unclaim::describe(&snapshot, claim))));
            say(format!("next: {}\n", advice::end_claims_of_role(role, namespace)))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::subscription;
    use crate::plugin::snapshot::Denied;

    #[test]
    fn o1_unsubscribe_takes_a_role_from_each_subscription() {
        let all = [subscription("team", &["eng", "ops"], true), subscription("team", &["eng"], true)];
        let role = |name| Role::parse(name).unwrap();
        let mut snapshot = Snapshot { subscriptions: all.to_vec(), ..Default::default() };
        let changes = |name| changes(&snapshot, &[role(name)], "team");
        let kept: Vec<Vec<&str>> = changes("eng").unwrap().into_iter().map(|change| change.keeps).collect();
        assert_eq!(kept, [vec!["ops"], vec![]]);
        assert_eq!(changes("ops").unwrap().len(), 1);
        assert_eq!(
            changes("egn").unwrap_err().to_string(),
            "namespace team is not subscribed to role egn; did you mean eng?"
        );
        let below = Snapshot {
            subscriptions: vec![subscription("team", &["eng", "eng/ml"], true)],
            ..Default::default()
        };
        assert_eq!(still_offered(&below, &[role("eng")]), [(&role("eng"), "eng/ml")], "R3");
        assert_eq!(still_offered(&below, &[role("eng"), role("eng/ml")]), []);
        snapshot.denied = vec![Denied::unseen(&SUBSCRIPTION)];
        let blind = super::changes(&snapshot, &[role("eng")], "team").unwrap_err().to_string();
        assert!(blind.contains("you may not list rolesubscriptions"), "T4: {blind}");
    }
}
