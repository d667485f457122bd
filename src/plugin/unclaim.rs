//! The end of claims: the command `unclaim`, and `revoke --end-claims`.

use kube::api::{Api, Preconditions};
use kube::{Client, ResourceExt};

use super::cli::{DryRun, Unclaim};
use super::errors::explain_api_error;
use super::kind::{CLAIM, PVC, did_you_mean};
use super::output::confirm;
use super::snapshot::Snapshot;
use super::why;
use super::write::{delete_params, dry_run_suffix};
use crate::api::{Role, VolumeClaim};
use crate::cluster;
use crate::plan::{advice, names, pvc_provisioner::pvc_of};

pub(super) async fn unclaim(client: &Client, args: &Unclaim, namespace: &str) -> anyhow::Result<()> {
    let snapshot = Snapshot::read(client, Some(namespace), namespace).await?;
    snapshot.require(&[&CLAIM])?;
    let claims = chosen(&snapshot, args, namespace).map_err(anyhow::Error::msg)?;
    for claim in &claims {
        eprintln!("{}", describe(&snapshot, claim));
    }
    // An interactive user who gives names has seen the claims. A user who gives only a role has not.
    if args.role.is_some() && args.dry_run.is_none() {
        confirm("End these claims? The data stays.", args.yes)?;
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
) -> Result<Vec<&'a VolumeClaim>, String> {
    if let Some(role) = &args.role {
        let claims: Vec<_> = of_role(snapshot, role).collect();
        return match claims.is_empty() {
            true => Err(format!("namespace {namespace} has no claim for role {role} or a sub-role of it")),
            false => Ok(claims),
        };
    }
    let there: Vec<String> = snapshot.claims.iter().map(ResourceExt::name_any).collect();
    let find = |name: &String| {
        let found = snapshot.claims.iter().find(|claim| claim.name_any() == *name);
        found.ok_or_else(|| {
            let nearest = did_you_mean(name, there.iter().map(String::as_str));
            format!("there is no VolumeClaim {namespace}/{name}{nearest}")
        })
    };
    let claims = args.claims.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    match claims.iter().find(|claim| pvc_of(**claim).is_some()) {
        Some(claim) => {
            let others = if claims.len() > 1 { "; no other claim was ended" } else { "" };
            Err(format!("{}{others}", describe(snapshot, claim)))
        }
        None => Ok(claims),
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
        snapshot.pods_of(&namespace, &name).map(|pod| cluster::pod_ref(pod).to_string()).collect();
    let users = match users.as_slice() {
        [] => String::new(),
        users => format!("; used by pod {}", names(users, users.len())),
    };
    let ending = why::find_ending(snapshot, Some(&namespace), &name);
    let class = match pvc_of(claim) {
        Some(_) if ending.is_some() => {
            let why = advice::ask_why(PVC.argument(&name, Some(&namespace)));
            format!("; its PersistentVolumeClaim is being deleted, and the claim goes with it: {why}")
        }
        Some(_) => format!("; {}", advice::delete_pvc(&name, &namespace)),
        None => String::new(),
    };
    format!("VolumeClaim {namespace}/{name}: {:?}, {volume}{users}{class}", claim.spec.mode)
}

/// Deletes a claim. The claim of a StorageClass is left alone: its PersistentVolumeClaim would lose its volume.
pub(super) async fn end(client: &Client, claim: &VolumeClaim, dry_run: Option<DryRun>) -> anyhow::Result<()> {
    let (namespace, name) = (claim.namespace().unwrap_or_default(), claim.name_any());
    if pvc_of(claim).is_some() {
        return Ok(());
    }
    if dry_run != Some(DryRun::Client) {
        let params = delete_params(dry_run, Preconditions { uid: claim.uid(), resource_version: None });
        let api = Api::<VolumeClaim>::namespaced(client.clone(), &namespace);
        api.delete(&name, &params).await.map_err(|error| explain_api_error(&error))?;
    }
    println!("volumeclaim.reservoir.dev/{name} deleted{}", dry_run_suffix(dry_run));
    Ok(())
}
