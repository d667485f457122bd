//! The end of claims: the command `unclaim`, and `revoke --end-claims`.

use anyhow::bail;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{Api, Preconditions};
use kube::{Client, ResourceExt};

use super::cli::{DryRun, Unclaim};
use super::errors::explain_api_error;
use super::kind::{CLAIM, PVC, did_you_mean};
use super::output::{confirm, note, say};
use super::snapshot::Snapshot;
use super::why;
use super::write::{delete_params, dry_run_suffix};
use crate::api::{Role, VolumeClaim, condition};
use crate::cluster;
use crate::plan::{advice, names};

pub(super) async fn unclaim(client: &Client, args: &Unclaim, namespace: &str) -> anyhow::Result<()> {
    let snapshot = Snapshot::read(client, Some(namespace), namespace).await?;
    let claims = chosen(&snapshot, args, namespace)?;
    for claim in &claims {
        note(describe(&snapshot, claim));
        // The end of the last claim may be that of the data, which a tenant learns from the claim alone.
        let status = claim.status.as_ref();
        if let Some(ready) = status.and_then(|status| condition::get(&status.conditions, condition::READY)) {
            note(format!("  {}: {}", ready.reason, ready.message));
        }
    }
    // An interactive user who gives names has seen the claims. A user who gives only a role has not.
    if args.role.is_some() && args.dry_run.is_none() {
        confirm(
            "End these claims? Data stays, except that of volumes that are being retired or destroyed.",
            args.yes,
        )?;
    }
    for claim in claims {
        end(client, claim, args.dry_run).await?;
    }
    Ok(())
}

/// The claims of a command line. The error for an unknown name has the most similar one.
fn chosen<'a>(
    snapshot: &'a Snapshot,
    args: &'a Unclaim,
    namespace: &str,
) -> anyhow::Result<Vec<&'a VolumeClaim>> {
    snapshot.require(&[&CLAIM])?;
    if let Some(role) = &args.role {
        let claims: Vec<_> = of_role(snapshot, role).collect();
        return match claims.is_empty() {
            true => bail!("namespace {namespace} has no claim for role {role} or a sub-role of it"),
            false => Ok(claims),
        };
    }
    let there: Vec<String> = snapshot.claims.iter().map(ResourceExt::name_any).collect();
    let find = |name: &String| {
        let found = snapshot.claims.iter().find(|claim| claim.name_any() == *name);
        found.ok_or_else(|| {
            if let Some(pvc) = snapshot.pvc(Some(namespace), name).filter(|pvc| snapshot.is_ours(pvc)) {
                return anyhow::anyhow!("{}", of_class(snapshot, pvc));
            }
            let nearest = did_you_mean(name, there.iter().map(String::as_str));
            anyhow::anyhow!("there is no VolumeClaim {namespace}/{name}{nearest}")
        })
    };
    args.claims.iter().map(find).collect()
}

/// Why a PersistentVolumeClaim of a StorageClass is left alone: it is a claim of its own, and its end decides about the data.
fn of_class(snapshot: &Snapshot, pvc: &PersistentVolumeClaim) -> String {
    let (namespace, name) = (pvc.namespace().unwrap_or_default(), pvc.name_any());
    match why::find_ending(snapshot, Some(&namespace), &name) {
        Some(_) => {
            let why = advice::ask_why(PVC.argument(&name, Some(&namespace)));
            format!("PersistentVolumeClaim {namespace}/{name} is being deleted already: {why}")
        }
        None => {
            let step = advice::delete_pvc(&name, &namespace);
            format!(
                "{namespace}/{name} is no VolumeClaim, but a PersistentVolumeClaim of a StorageClass; {step}"
            )
        }
    }
}

/// The claims of a role and its sub-roles.
pub(super) fn of_role<'a>(snapshot: &'a Snapshot, role: &'a Role) -> impl Iterator<Item = &'a VolumeClaim> {
    snapshot.claims.iter().filter(|claim| Role::name_covers(role.as_str(), &claim.spec.role))
}

/// The claim with its volume, and the cause of a wait after its deletion.
pub(super) fn describe(snapshot: &Snapshot, claim: &VolumeClaim) -> String {
    let (namespace, name) = (claim.namespace().unwrap_or_default(), claim.name_any());
    let volume = claim.status.as_ref().and_then(|s| s.volume.as_ref()).map(|v| v.name.as_str());
    let volume = volume.map_or("no volume".to_owned(), |volume| format!("volume {volume}"));
    let users: Vec<String> =
        snapshot.users_of(&namespace, &name).map(|pod| cluster::pod_ref(pod).to_string()).collect();
    let users = match users.as_slice() {
        [] => String::new(),
        users => format!("; used by pod {}", names(users, users.len())),
    };
    format!("VolumeClaim {namespace}/{name}: {:?}, {volume}{users}", claim.spec.mode)
}

/// Deletes a claim.
pub(super) async fn end(client: &Client, claim: &VolumeClaim, dry_run: Option<DryRun>) -> anyhow::Result<()> {
    let (namespace, name) = (claim.namespace().unwrap_or_default(), claim.name_any());
    if claim.metadata.deletion_timestamp.is_some() {
        let why = advice::ask_why(CLAIM.argument(&name, Some(&namespace)));
        say(format!("volumeclaim.reservoir.dev/{name} is being deleted already: {why}\n"))?;
        return Ok(());
    }
    if dry_run != Some(DryRun::Client) {
        let params = delete_params(dry_run, Preconditions { uid: claim.uid(), resource_version: None });
        let api = Api::<VolumeClaim>::namespaced(client.clone(), &namespace);
        api.delete(&name, &params).await.map_err(|error| explain_api_error(&error))?;
    }
    say(format!("volumeclaim.reservoir.dev/{name} deleted{}\n", dry_run_suffix(dry_run)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::cli::{Cli, Command};
    use crate::plugin::snapshot::Denied;
    use clap::Parser;

    /// F3: nothing is deleted twice. No API server is there to be asked.
    #[tokio::test]
    async fn f3_a_claim_that_is_being_deleted_is_left_alone() {
        let no_answer = tower::service_fn(async |_: http::Request<kube::client::Body>| {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("there is no API server"))
        });
        let client = Client::new(no_answer, "default");
        let mut held = crate::plan::testing::claim("fz", "shared", "shared");
        assert!(end(&client, &held, None).await.is_err());
        held.metadata.deletion_timestamp = crate::plan::testing::some_time();
        end(&client, &held, None).await.unwrap();
    }

    /// T4: claims that may not be seen may be there.
    #[test]
    fn t4_unclaim_does_not_deny_what_may_not_be_seen() {
        let blind = Snapshot { denied: vec![Denied::unseen(&CLAIM)], ..Default::default() };
        for line in ["unclaim data", "unclaim --role eng"] {
            let words = ["kubectl-reservoir"].into_iter().chain(line.split(' '));
            let Command::Unclaim(args) = Cli::try_parse_from(words).unwrap().command else { panic!() };
            let said = chosen(&blind, &args, "team").unwrap_err().to_string();
            assert!(said.starts_with("you may not list volumeclaims"), "{said}");
            assert!(
                !chosen(&Snapshot::default(), &args, "team").unwrap_err().to_string().contains("may not")
            );
        }
    }
}
