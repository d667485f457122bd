//! `kubectl reservoir grant`, `revoke`, `who-can` and `unclaim` (A1, A2, C6).

use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use reservoir::api::VolumeClaim;
use serde_json::{Value, json};

use crate::ask::{Ask, claim, cluster as with_people, lacks, person};
use crate::plugin::{does, fails, parsed, run};
use crate::support::{until, until_gone};

/// A1: a grant covers the sub-roles, adds up, and ends with its revocation.
#[tokio::test(flavor = "multi_thread")]
async fn a1_a_grant_works_until_it_is_revoked() {
    let cluster = with_people().await;
    let jane = person(&cluster, "jane").await;
    let write = Ask::create(&claim("eng/ml", "ReadWrite"));
    let read = Ask::create(&claim("eng/ml", "ReadOnly"));
    assert!(write.dry(&jane).await.unwrap_err().contains(&lacks("jane", "use", "eng/ml")));

    // The output of a dry run can be applied as it is. The command then finds these objects.
    let manifests = does(&cluster, "grant eng --verbs use-readonly --to user jane --dry-run");
    assert_eq!(manifests.matches("name: reservoir:eng::user:jane").count(), 3, "{manifests}");
    cluster.apply_text(&manifests).await;
    until("the grant is in force", || async { read.dry(&jane).await.ok() }).await;
    let same = does(&cluster, "grant eng --verbs use-readonly --to user jane");
    assert_eq!(same.matches(" unchanged\n").count(), 2, "{same}");

    let more = does(&cluster, "grant eng --verbs use,subscribe --to user jane");
    assert!(
        more.contains("user jane has subscribe, use, use-readonly on role eng and its sub-roles"),
        "{more}"
    );
    until("the larger grant is in force", || async { write.dry(&jane).await.ok() }).await;

    let holders = parsed(&cluster, "who-can use eng/ml");
    let of = |kind: &str, name: &str| {
        let is = |holder: &&Value| holder["subject"] == json!({"kind": kind, "name": name});
        holders.as_array().unwrap().iter().find(is).cloned().unwrap_or_default()
    };
    assert_eq!((&of("User", "jane")["role"], &of("User", "jane")["verb"]), (&json!("eng"), &json!("use")));
    assert_eq!(of("Group", "system:masters")["role"], "*", "{holders}");

    let less = does(&cluster, "revoke eng --verbs use,subscribe --from user jane");
    assert!(
        less.contains("clusterrole.rbac.authorization.k8s.io/reservoir:eng::user:jane configured"),
        "{less}"
    );
    until("only reading is left", || async { write.dry(&jane).await.err() }).await;
    read.dry(&jane).await.unwrap();
    does(&cluster, "grant eng/ml --verbs use --to group people");
    let gone = does(&cluster, "revoke eng --from user jane");
    assert_eq!(gone.matches(" deleted\n").count(), 2, "{gone}");
    until("by her group she has it", || async { write.dry(&jane).await.ok() }).await;
    let never = does(&cluster, "revoke eng/ml --verbs resize --from group people");
    assert!(never.contains("gave group people no such verb on role eng/ml"), "{never}");
    let included = does(&cluster, "revoke eng/ml --verbs use-readonly --from group people");
    assert!(
        included.ends_with(
            "; use includes it: kubectl reservoir revoke eng/ml --verbs use --from group people\n"
        ) && !included.contains("no such verb"),
        "{included}"
    );
    // Somebody deleted the role of the grant: its binding goes, and that is a change.
    let role = "reservoir:eng:ml::group:people";
    let roles: Api<ClusterRole> = Api::all(cluster.client.clone());
    roles.delete(role, &DeleteParams::default()).await.unwrap();
    let rest = does(&cluster, "revoke eng/ml --from group people");
    assert!(rest.contains(" deleted\n") && !rest.contains("unchanged"), "{rest}");
    until("nothing is left", || async { read.dry(&jane).await.err() }).await;
    assert!(
        does(&cluster, "revoke eng --from user jane").contains("gave user jane no such verb on role eng")
    );

    for (line, message) in [
        ("grant eng --verbs usee --to user jane", "did you mean use?"),
        ("grant eng --verbs use --to usr jane", "did you mean user?"),
        ("grant /eng --verbs use --to user jane", "is not a role name"),
        ("who-can use eng --as jane", "have an administrator run this"),
        ("revoke eng --from user jane --end-claims", "name the namespace whose claims are to end, with -n"),
    ] {
        let error = fails(&cluster, line);
        assert!(error.contains(message), "{line}: {error}");
    }
}

/// A1: a RoleBinding looks like a grant and is none, and a service account may be mistyped.
#[tokio::test(flavor = "multi_thread")]
async fn a1_what_gives_nothing_is_told() {
    let cluster = with_people().await;
    cluster
        .apply_text(
            "{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: team}}\n---\n\
             {apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: users, namespace: team}, rules: [\
             {apiGroups: [reservoir.dev], resources: [volumeroles], resourceNames: [eng], verbs: [use]}]}\n---\n\
             {apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: users, namespace: team}, \
             roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: users}, \
             subjects: [{kind: ServiceAccount, name: web, namespace: team}]}",
        )
        .await;
    let told = run(&cluster, "who-can use eng");
    let note =
        "note: RoleBinding team/users gives serviceaccount team/web nothing: roles are of the whole cluster";
    assert!(told.ok && told.err.contains(note) && !told.out.contains("team/web"), "{}{}", told.err, told.out);
    let step = told.err.trim().rsplit_once("run: kubectl reservoir ").unwrap().1;
    let granted = run(&cluster, step);
    assert!(granted.ok && !granted.err.contains("note:"), "{}", granted.err);
    assert!(run(&cluster, "who-can use eng").out.contains("serviceaccount team/web"));
    let typo = run(&cluster, "grant eng --verbs use --to serviceaccount team/wbe");
    assert!(
        typo.ok && typo.err.contains("there is no ServiceAccount team/wbe; did you mean web?"),
        "{}",
        typo.err
    );
}

/// A1: Kubernetes lets nobody grant a verb without having it.
#[tokio::test(flavor = "multi_thread")]
async fn a1_nobody_grants_more_than_they_have() {
    let cluster = with_people().await;
    cluster
        .apply_text(
            "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: rights},
              rules: [{apiGroups: [rbac.authorization.k8s.io], resources: [clusterroles, clusterrolebindings],
                verbs: [get, list, create, update, delete]}]}",
        )
        .await;
    crate::ask::bind(&cluster, "rights", "User", "joe").await;
    crate::ask::bind(&cluster, "rights", "User", "boss").await;
    crate::ask::bind(&cluster, "reservoir-admin", "User", "boss").await;
    let grant = "grant eng --verbs use --to user jane --as";
    until("boss has the rights", || async {
        run(&cluster, &format!("{grant} boss --dry-run=server")).ok.then_some(())
    })
    .await;
    let error = fails(&cluster, &format!("{grant} joe"));
    assert!(error.contains("attempting to grant RBAC permissions not currently held"), "{error}");
    does(&cluster, &format!("{grant} boss"));
}

/// A1, C6: claims outlive the right to make them, until an administrator ends them.
#[tokio::test(flavor = "multi_thread")]
async fn a1_c6_claims_end_with_the_right_when_told_so() {
    let cluster = with_people().await;
    cluster.start_controller().await;
    let claims = cluster.within::<VolumeClaim>("team");
    let make = async |name: &str, role: &str| {
        let mut made = claim(role, "ReadWrite");
        made["metadata"]["name"] = json!(name);
        Ask::create(&made).of(&cluster.client).await.unwrap();
    };
    let names = async || {
        let all = claims.list(&Default::default()).await.unwrap();
        all.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
    };
    make("data", "eng/ml").await;
    make("other", "ops").await;
    does(&cluster, "grant eng --verbs use --to serviceaccount team/web");
    does(&cluster, "grant eng --verbs use --to user jane");
    cluster.pod("team", "web", &["data"]).await;

    let told = run(&cluster, "revoke eng --from user jane");
    assert!(
        told.err.contains(
            "These claims go on, whoever made them:\n  VolumeClaim team/data: ReadWrite, no volume; used by pod team/web\n"
        ),
        "{}",
        told.err
    );
    let next = told.out.lines().find_map(|line| line.strip_prefix("next: kubectl reservoir ")).unwrap();
    let (next, comment) = next.split_once("   # ").unwrap();
    assert_eq!(next, "revoke eng --from user jane --end-claims -n team");
    assert!(comment.starts_with("ends all of these claims there, also those of others"), "{comment}");
    let unanswered = fails(&cluster, next);
    assert!(unanswered.contains("add --yes"), "{unanswered}");
    assert_eq!(names().await, ["data", "other"]);

    // A mistyped name leads to no end of claims.
    let typo = run(&cluster, "revoke eng --from user jnae");
    assert!(typo.ok && typo.out.starts_with("unchanged: "), "{}", typo.out);
    assert!(
        !typo.out.contains("--end-claims") && !typo.err.contains("These claims"),
        "{}{}",
        typo.out,
        typo.err
    );

    // The service account has the right, so claims of its namespace need no other right.
    let kept = does(&cluster, "grant eng/ml --verbs use --to group system:serviceaccounts:team");
    assert!(kept.contains(" created\n"));
    does(&cluster, "revoke eng --from serviceaccount team/web --end-claims --yes");
    assert_eq!(names().await, ["data", "other"]);

    cluster.end_pod("team", "web").await;
    let ended = does(&cluster, &format!("{next} --yes"));
    assert!(ended.contains("volumeclaim.reservoir.dev/data deleted\n"), "{ended}");
    until_gone(&claims, "data").await;
    assert_eq!(names().await, ["other"]);

    // No revocation: the claims of a deleted subscription are left.
    let error = fails(&cluster, "unclaim othr -n team");
    assert!(error.contains("there is no VolumeClaim team/othr; did you mean other?"), "{error}");
    assert!(fails(&cluster, "unclaim --role eng -n team").contains("has no claim for role eng"));
    assert!(fails(&cluster, "unclaim --role ops -n team").contains("add --yes"));
    assert!(
        does(&cluster, "unclaim --role ops -n team --dry-run=client").contains("other deleted (dry run)")
    );
    assert_eq!(names().await, ["other"]);
    does(&cluster, "unclaim --role ops -n team --yes");
    until_gone(&claims, "other").await;
}
