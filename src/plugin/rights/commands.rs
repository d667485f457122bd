//! The commands: read, decide, write.

use std::collections::BTreeSet;

use anyhow::bail;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, Preconditions};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::grant::{self, Grant};
use super::holders;
use super::holders::{Holder, Local, Rbac};
use super::subject::Subject;
use super::verbs::VERBS;
use crate::api::{GROUP, Role, VolumeClaim};
use crate::cluster::{self, Kind};
use crate::plan::{advice, names};
use crate::plugin::cli::{self, DryRun, Output};
use crate::plugin::errors::{explain_api_error, explain_cluster_error};
use crate::plugin::kind::nearest;
use crate::plugin::output::{confirm, print};
use crate::plugin::snapshot::Snapshot;
use crate::plugin::{unclaim, write};

pub(in crate::plugin) async fn grant(
    client: &Client,
    args: &cli::Grant,
    namespace: &str,
) -> anyhow::Result<()> {
    let to = subject(&args.to, namespace)?;
    let rbac = read_rbac(client).await?;
    Snapshot::read(client, Some(namespace), namespace).await?.note_unknown_role(args.role.as_str());
    if let Some(missing) = missing_receiver(client, &to).await {
        eprintln!("note: {missing}");
    }
    let seen = rbac.grant(&args.role, &to);
    let verbs = [seen.verbs(), args.verbs.clone()].concat();
    let wanted = seen.with_verbs(&args.role, &to, &verbs).map_err(anyhow::Error::msg)?;
    let done = settle(client, &seen, &wanted, args.dry_run).await?;
    let items = [json!(wanted.role), json!(wanted.binding)];
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    let manifests =
        || items.iter().map(|item| serde_yaml::to_string(item).map(|text| format!("---\n{text}")));
    let manifests: Result<String, _> = manifests().collect();
    let manifests = manifests?;
    print(&args.output, &list, || match args.dry_run {
        Some(_) => manifests.clone(),
        None => {
            format!("{done}{to} has {} on role {} and its sub-roles\n", wanted.verbs().join(", "), args.role)
        }
    })
}

pub(in crate::plugin) async fn revoke(
    client: &Client,
    args: &cli::Revoke,
    (only, namespace): (Option<&str>, &str),
) -> anyhow::Result<()> {
    let from = subject(&args.from, namespace)?;
    let within = from.namespace().or(only);
    if args.end_claims && within.is_none() {
        bail!("a claim does not record who made it: name the namespace whose claims are to end, with -n");
    }
    let mut rbac = read_rbac(client).await?;
    let snapshot = Snapshot::read(client, within, namespace).await?;
    snapshot.note_unknown_role(args.role.as_str());
    let seen = rbac.grant(&args.role, &from);
    let revoked = if args.verbs.is_empty() { VERBS.to_vec() } else { args.verbs.clone() };
    let kept: Vec<&str> = seen.verbs().into_iter().filter(|verb| !revoked.contains(verb)).collect();
    let wanted = seen.with_verbs(&args.role, &from, &kept).map_err(anyhow::Error::msg)?;
    rbac.replace(&grant::name(&args.role, &from), &wanted);
    let mut left = rbac.claims_without_right(&snapshot.claims, &args.role, &from);
    let unchanged = seen.verbs() == kept;
    if unchanged && !args.end_claims {
        // A mistyped name must not lead to the end of other people's claims.
        left.clear();
    }
    if !args.end_claims {
        // A receiver that may make claims nowhere may have the right in another way, such as by a group of a user.
        let (may, no) = may_claim(client, &from, &left).await;
        let no = if may.is_empty() { BTreeSet::new() } else { no };
        left.retain(|claim| claim.namespace().is_some_and(|namespace| !no.contains(&namespace)));
        if !no.is_empty() && !unchanged {
            let no: Vec<_> = no.into_iter().collect();
            eprintln!(
                "note: {from} may make no claims in namespace {}, unless by a group: claims there are not listed",
                names(&no, no.len())
            );
        }
    }
    if !left.is_empty() {
        let until = if args.end_claims { "end as soon as their pods have ended" } else { "go on" };
        eprintln!(
            "Rights are asked for when a claim is made, and no claim records who made it. These claims {until}, whoever made them:"
        );
        for claim in &left {
            eprintln!("  {}", unclaim::describe(&snapshot, claim));
        }
    }
    if args.end_claims && !left.is_empty() && args.dry_run.is_none() {
        confirm("End these claims?", args.yes)?;
    }
    let done = settle(client, &seen, &wanted, args.dry_run).await?;
    print!("{done}");
    let is_included = kept.contains(&"use") && revoked.contains(&"use-readonly");
    // The binding of a deleted ClusterRole goes, though no verb does.
    if unchanged && !is_included && !done.contains(" deleted") {
        let nearest = similar(&from, &rbac.receivers(&args.role));
        println!(
            "unchanged: kubectl reservoir grant gave {from} no such verb on role {}{nearest}",
            args.role
        );
    }
    for verb in revoked {
        if let Some(holder) = rbac.right_of(&from, verb, args.role.as_str()) {
            println!("{}", still_has(&from, verb, &args.role, &holder));
        }
    }
    if args.end_claims {
        for claim in &left {
            unclaim::end(client, claim, args.dry_run).await?;
        }
    } else {
        let namespaces: BTreeSet<String> = left.iter().filter_map(|claim| claim.namespace()).collect();
        // The rest of the grant is not to go with the claims.
        let verbs =
            if args.verbs.is_empty() { String::new() } else { format!(" --verbs {}", args.verbs.join(",")) };
        for namespace in namespaces {
            println!("next: {}", advice::end_claims_of_receiver(&args.role, &from, &verbs, namespace));
        }
    }
    Ok(())
}

/// The sentence about a verb that the receiver has in another way. `use` includes `use-readonly` (A2), so a grant of `use` is
/// what has to go.
fn still_has(from: &Subject, verb: &str, role: &Role, holder: &Holder) -> String {
    let grant = Role::parse(&holder.role).ok().map(|of| grant::name(&of, from));
    let step = match holder.verb == "use" && verb != "use" && grant.as_ref() == Some(&holder.cluster_role) {
        true => format!("; use includes it: {}", advice::revoke(&holder.role, "use", from)),
        false => String::new(),
    };
    format!("{from} still has {verb} on role {role}: {}{step}", source(holder))
}

/// `; did you mean user jane?`: a receiver of the same kind with a similar name.
fn similar(from: &Subject, others: &BTreeSet<String>) -> String {
    let (kind, name) = from.kind_and_name();
    let kind = format!("{kind} ");
    let names = others.iter().filter_map(|other| other.strip_prefix(&kind));
    // All groups of Kubernetes begin alike.
    match nearest(&name, names.filter(|other| !other.starts_with("system:"))) {
        Some(near) => format!("; did you mean {kind}{near}?"),
        None => String::new(),
    }
}

/// The namespaces of the claims in which the receiver may make claims, and the others. Who may not ask learns of no difference.
async fn may_claim(
    client: &Client,
    of: &Subject,
    claims: &[&VolumeClaim],
) -> (BTreeSet<String>, BTreeSet<String>) {
    let namespaces: BTreeSet<String> = claims.iter().filter_map(|claim| claim.namespace()).collect();
    let (mut may, mut no) = (BTreeSet::new(), BTreeSet::new());
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    for namespace in namespaces {
        let attributes = ResourceAttributes {
            group: Some(GROUP.into()),
            resource: Some("volumeclaims".into()),
            verb: Some("create".into()),
            namespace: Some(namespace.clone()),
            ..Default::default()
        };
        let (user, groups) = of.as_user();
        let spec = SubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            user,
            groups: Some(groups),
            ..Default::default()
        };
        let review = SubjectAccessReview { spec, ..Default::default() };
        let answer = reviews.create(&Default::default(), &review).await.ok().and_then(|review| review.status);
        match answer.is_none_or(|status| status.allowed) {
            true => may.insert(namespace),
            false => no.insert(namespace),
        };
    }
    (may, no)
}

pub(in crate::plugin) async fn who_can(
    client: &Client,
    verb: &str,
    role: &Role,
    output: &Output,
) -> anyhow::Result<()> {
    let rbac = read_rbac(client).await?;
    let holders = rbac.holders(verb, role.as_str());
    for sentence in rbac.without_effect(&read_local(client).await, verb, role.as_str()) {
        eprintln!("note: {sentence}");
    }
    // Administrators have every verb, also on a mistyped role.
    let namespace = client.default_namespace();
    Snapshot::read(client, Some(namespace), namespace).await?.note_unknown_role(role.as_str());
    print(output, &holders, || holders::text(&holders, verb, role))
}

/// `ClusterRole a, ClusterRoleBinding b`: the objects of a grant.
fn source(holder: &Holder) -> String {
    format!("ClusterRole {}, ClusterRoleBinding {}", holder.cluster_role, holder.cluster_role_binding)
}

fn subject(kind_and_name: &[String], namespace: &str) -> anyhow::Result<Subject> {
    let [kind, name] = kind_and_name else { bail!("name one user, group or serviceaccount") };
    Subject::parse(kind, name, namespace).map_err(anyhow::Error::msg)
}

async fn read_rbac(client: &Client) -> anyhow::Result<Rbac> {
    let roles = cluster::list(&Api::<ClusterRole>::all(client.clone()), &Default::default()).await;
    let bindings = cluster::list(&Api::<ClusterRoleBinding>::all(client.clone()), &Default::default()).await;
    let explain = |error: &cluster::Error| match error.is_forbidden() {
        true => anyhow::anyhow!(
            "you may not list ClusterRoles and ClusterRoleBindings: have an administrator run this"
        ),
        false => explain_cluster_error(error),
    };
    Ok(Rbac { roles: roles.map_err(|e| explain(&e))?, bindings: bindings.map_err(|e| explain(&e))? })
}

/// Roles and RoleBindings. Without the right to list them nothing is said of them.
async fn read_local(client: &Client) -> Local {
    let roles = cluster::list(&Api::all(client.clone()), &Default::default()).await;
    let bindings = cluster::list(&Api::all(client.clone()), &Default::default()).await;
    Local { roles: roles.unwrap_or_default(), bindings: bindings.unwrap_or_default() }
}

/// A sentence for a receiver that does not exist. Kubernetes knows service accounts and namespaces, and neither users nor other
/// groups. Without the right to look nothing is known.
async fn missing_receiver(client: &Client, to: &Subject) -> Option<String> {
    let namespace = to.namespace()?;
    let namespaces: Vec<Namespace> =
        cluster::list(&Api::all(client.clone()), &Default::default()).await.unwrap_or_default();
    let namespaces: Vec<String> = namespaces.iter().map(ResourceExt::name_any).collect();
    let accounts = match to {
        Subject::ServiceAccount { .. } => {
            let api = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
            let listed = cluster::list(&api, &Default::default()).await.ok();
            listed.map(|all| all.iter().map(ResourceExt::name_any).collect::<Vec<_>>())
        }
        _ => None,
    };
    to.missing(&namespaces, accounts.as_deref())
}

/// Writes the difference, each object as a compare-and-swap. A binding is deleted before its ClusterRole.
async fn settle(
    client: &Client,
    seen: &Grant,
    wanted: &Grant,
    dry_run: Option<DryRun>,
) -> anyhow::Result<String> {
    let roles = Api::<ClusterRole>::all(client.clone());
    let bindings = Api::<ClusterRoleBinding>::all(client.clone());
    let role = settle_one(&roles, seen.role.as_ref(), wanted.role.as_ref(), dry_run);
    // In a dry run no ClusterRole is stored, and the API server refuses a binding to a missing ClusterRole. The check
    // of the ClusterRole covers the same rights.
    let binding_dry_run = dry_run.map(|asked| if seen.role.is_none() { DryRun::Client } else { asked });
    let binding = settle_one(&bindings, seen.binding.as_ref(), wanted.binding.as_ref(), binding_dry_run);
    Ok(match wanted.role {
        Some(_) => role.await? + &binding.await?,
        None => binding.await? + &role.await?,
    })
}

async fn settle_one<K: Kind + PartialEq>(
    api: &Api<K>,
    seen: Option<&K>,
    wanted: Option<&K>,
    dry_run: Option<DryRun>,
) -> anyhow::Result<String> {
    let (result, name) = match (seen, wanted) {
        (None, None) => return Ok(String::new()),
        (Some(seen), Some(wanted)) if seen == wanted => ("unchanged", seen.name_any()),
        (None, Some(wanted)) => ("created", wanted.name_any()),
        (Some(seen), Some(_)) => ("configured", seen.name_any()),
        (Some(seen), None) => ("deleted", seen.name_any()),
    };
    if dry_run != Some(DryRun::Client) && result != "unchanged" {
        let params = write::post_params(dry_run);
        let answer = match (seen, wanted) {
            (None, Some(wanted)) => api.create(&params, wanted).await.map(drop),
            (_, Some(wanted)) => api.replace(&name, &params, wanted).await.map(drop),
            (_, None) => {
                let version = seen.and_then(ResourceExt::resource_version);
                let params =
                    write::delete_params(dry_run, Preconditions { resource_version: version, uid: None });
                api.delete(&name, &params).await.map(drop)
            }
        };
        answer.map_err(|error| explain_api_error(&error))?;
    }
    let kind = K::kind(&()).to_lowercase();
    Ok(format!("{kind}.rbac.authorization.k8s.io/{name} {result}{}\n", write::dry_run_suffix(dry_run)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A2, T4: a grant of `use` gives `use-readonly`, too.
    #[test]
    fn a2_a_verb_that_another_one_includes_names_that_one() {
        let (role, sub_role) = (Role::parse("eng").unwrap(), Role::parse("eng/ml").unwrap());
        let jane = Subject::User { name: "jane".into() };
        let rbac = |verbs: &[&str]| {
            let given = Grant::default().with_verbs(&role, &jane, verbs).unwrap();
            Rbac { roles: given.role.into_iter().collect(), bindings: given.binding.into_iter().collect() }
        };
        let told = |rbac: &Rbac, verb, role: &Role| {
            let holder = rbac.right_of(&jane, verb, role.as_str()).unwrap();
            still_has(&jane, verb, role, &holder)
        };
        let uses = rbac(&["use"]);
        let step = "; use includes it: kubectl reservoir revoke eng --verbs use --from user jane";
        for role in [&role, &sub_role] {
            assert!(
                told(&uses, "use-readonly", role).ends_with(step),
                "{}",
                told(&uses, "use-readonly", role)
            );
        }
        assert!(told(&uses, "use", &sub_role).ends_with("ClusterRoleBinding reservoir:eng::user:jane"));
        assert!(!told(&rbac(&["use-readonly"]), "use-readonly", &sub_role).contains("includes"));
        let mut by_hand = uses;
        by_hand.roles[0].metadata.name = Some("users".into());
        by_hand.bindings[0].role_ref.name = "users".into();
        assert!(!told(&by_hand, "use-readonly", &role).contains("includes"), "no command of ours ends it");
    }

    /// T4: a similar name is of the same kind, and none of Kubernetes' own groups.
    #[test]
    fn t4_a_mistyped_receiver_is_like_no_group_of_kubernetes() {
        let others = ["user jane", "group system:masters", "group devs", "serviceaccount team/web"];
        let others: BTreeSet<String> = others.map(str::to_owned).into();
        let near = |kind: &str, name: &str| similar(&Subject::parse(kind, name, "team").unwrap(), &others);
        assert_eq!(near("user", "jame"), "; did you mean user jane?");
        assert_eq!(near("group", "dev"), "; did you mean group devs?");
        assert_eq!(near("group", "system:authenticated"), "");
        assert_eq!(near("user", "bob"), "");
    }
}
