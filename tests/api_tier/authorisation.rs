//! Verbs on roles (A1, A2, A5), and the chart's ClusterRoles.

use reservoir::api::FINALIZER;
use serde_json::{Value, json};

use crate::ask::{
    Ask, MERGE, bind, claim, cluster, collection, grant, lacks, object, path, person, reservation, retiring,
    subscription, volume,
};
use crate::support::{CONTROLLER_USER, admission_writes, until};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

const VERBS: [&str; 8] =
    ["reserve", "unreserve", "create", "destroy", "resize", "subscribe", "use", "use-readonly"];

/// A2.
#[tokio::test(flavor = "multi_thread")]
async fn a1_a5_verbs_on_a_role_or_its_ancestor_decide() {
    let cluster = cluster().await;
    let ml = "eng/ml";
    let (kept, solo, going) = (reservation("kept", ml), volume("solo", ml), retiring(volume("going", ml)));
    let subscribed = subscription("subscribed", &["ops"]);
    for object in [&kept, &solo, &going, &subscribed] {
        Ask::create(object).of(&cluster.client).await.unwrap();
    }
    // The objects are deleted, but their finalizers keep them, because no controller runs here.
    let ending = [reservation("ending", ml), volume("ending", ml)];
    for object in &ending {
        Ask::create(object).of(&cluster.client).await.unwrap();
        Ask::delete(object).of(&cluster.client).await.unwrap();
    }
    let meta = |field: &str, value: Value| json!({"metadata": {field: value}});
    let owner = json!([{"apiVersion": "v1", "kind": "Namespace", "name": "team", "uid": "u"}]);
    let held = json!([FINALIZER, "test/kept"]);
    let mut refined = reservation("new", ml);
    refined["spec"]["parent"] = json!("kept");
    let rows = [
        ("reserve", Ask::create(&reservation("new", ml))),
        ("reserve", Ask::apply(&reservation("new", ml))),
        ("reserve", Ask::create(&refined)),
        ("unreserve", Ask::delete(&kept)),
        ("create", Ask::create(&volume("new", ml))),
        ("create", Ask::apply(&volume("new", ml))),
        ("destroy", Ask::delete(&solo)),
        ("destroy", Ask::new("DELETE", "application/json", collection(&solo), Value::Null)),
        ("destroy", Ask::patch(&solo, json!({"spec": {"retire": true}}))),
        ("destroy", Ask::patch(&going, json!({"spec": {"retire": false}}))),
        ("destroy", Ask::patch(&going, json!({"spec": {"retire": null}}))),
        ("destroy", Ask::patch(&solo, json!({"spec": {"erasePolicy": "Zero"}}))),
        ("destroy", Ask::patch(&solo, json!({"spec": {"deletionPolicy": "Wait"}}))),
        ("unreserve", Ask::patch(&kept, json!({"spec": {"deletionPolicy": "Wait"}}))),
        // C1: claims select volumes by labels.
        ("create", Ask::patch(&solo, json!({"metadata": {"labels": {"set": "best"}}}))),
        // A6.
        ("reserve", Ask::patch(&kept, meta("labels", json!({"set": "best"})))),
        ("reserve", Ask::patch(&kept, meta("annotations", json!({"a": "b"})))),
        ("reserve", Ask::patch(&kept, meta("finalizers", held.clone()))),
        ("reserve", Ask::patch(&kept, meta("ownerReferences", owner.clone()))),
        ("reserve", Ask::patch(&kept, json!({"spec": {"size": "1024Mi"}}))),
        ("reserve", Ask::apply(&kept)),
        ("create", Ask::patch(&solo, meta("annotations", json!({"a": "b"})))),
        ("create", Ask::patch(&solo, meta("annotations", json!({LAST_APPLIED: "{}"})))),
        ("create", Ask::patch(&solo, meta("finalizers", held))),
        ("create", Ask::patch(&solo, meta("ownerReferences", owner))),
        ("unreserve", Ask::patch(&ending[0], meta("finalizers", json!([])))),
        ("destroy", Ask::patch(&ending[1], meta("finalizers", json!([])))),
        ("resize", Ask::patch(&kept, json!({"spec": {"size": "2Gi"}}))),
        ("resize", Ask::patch(&kept, json!({"spec": {"size": 104857600}}))),
        ("resize", Ask::patch(&solo, json!({"spec": {"size": "128Mi"}}))),
        ("subscribe", Ask::create(&subscription("new", &[ml]))),
        ("subscribe", Ask::patch(&subscribed, json!({"spec": {"roles": ["ops", ml]}}))),
        ("use", Ask::create(&claim(ml, "ReadWrite"))),
        ("use-readonly", Ask::create(&claim(ml, "ReadOnly"))),
    ];

    // For each verb: users, the roles of their grants, and true if a grant suffices for eng/ml.
    let grants: [(&str, &[&str], bool); 5] = [
        ("exact", &["eng/ml"], true),
        ("ancestor", &["eng"], true),
        ("sub-role", &["eng/ml/vision"], false),
        ("look-alike", &["engine", "en", "eng/m", "eng/mlops", "ml", "eng/"], false),
        ("other-role", &["ops"], false),
    ];
    for verb in VERBS {
        for (who, roles, _) in grants {
            grant(&cluster, &format!("{verb}-{who}"), &[verb], roles).await;
        }
        let others: Vec<&str> =
            VERBS.into_iter().filter(|other| !other.starts_with(verb) && !verb.starts_with(other)).collect();
        grant(&cluster, &format!("{verb}-other-verbs"), &others, &[ml]).await;
    }
    let mut wrong = Vec::new();
    for (verb, ask) in &rows {
        let also = [("other-verbs", false), ("nothing", false)];
        for (who, enough) in grants.iter().map(|(who, _, enough)| (*who, *enough)).chain(also) {
            let user = format!("{verb}-{who}");
            let answer = ask.dry(&person(&cluster, &user).await).await;
            let right = match &answer {
                Ok(_) => enough,
                Err(said) => !enough && said.contains(&lacks(&user, verb, ml)),
            };
            if !right {
                wrong.push(format!("{user}: {} {} {}: {answer:?}", ask.method, ask.path, ask.body));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // A2: read-only alone allows ReadOnly claims only; `use` allows both modes.
    for role in ["exact", "ancestor"] {
        let reader = person(&cluster, &format!("use-readonly-{role}")).await;
        let said = Ask::create(&claim(ml, "ReadWrite")).dry(&reader).await.unwrap_err();
        let only = "lacks the verb use on volumeroles.reservoir.dev/eng/ml (use-readonly is there): make the claim ReadOnly";
        assert!(said.contains(only), "{said}");
        let writer = person(&cluster, &format!("use-{role}")).await;
        Ask::create(&claim(ml, "ReadOnly")).dry(&writer).await.unwrap();
    }

    // A field of another kind is no way around a missing verb.
    let nobody = person(&cluster, "nobody").await;
    for (verb, mut object) in [("create", volume("new", ml)), ("use", claim(ml, "ReadWrite"))] {
        object["spec"]["static"] = json!(true);
        let said = Ask::create(&object).dry(&nobody).await.unwrap_err();
        assert!(said.contains(&lacks("nobody", verb, ml)), "{said}");
    }

    // `kubectl apply` writes the manifest into an annotation, together with the change that the user has the verb
    // for.
    let noted = json!({"spec": {"size": "2Gi"}, "metadata": {"annotations": {LAST_APPLIED: "{}"}}});
    Ask::patch(&kept, noted).dry(&person(&cluster, "resize-exact").await).await.unwrap();

    // A6: each change needs its verb, also beside one that the user has the verb for.
    let resizer = person(&cluster, "resize-exact").await;
    for part in [
        json!({"labels": {"a": "b"}}),
        json!({"annotations": {"a": "b"}}),
        json!({"finalizers": [FINALIZER, "test/kept"]}),
        json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}]}),
    ] {
        let beside = Ask::patch(&kept, json!({"spec": {"size": "2Gi"}, "metadata": part}));
        let said = beside.dry(&resizer).await.unwrap_err();
        assert!(said.contains(&lacks("resize-exact", "reserve", ml)), "{part}: {said}");
    }

    // Some requests need no verb: a change of nothing, a shorter list, the deletion of a claim, and a namespace's own
    // marks on its claim.
    Ask::create(&claim(ml, "ReadWrite")).of(&cluster.client).await.unwrap();
    let marks =
        json!({"labels": {"a": "b"}, "annotations": {"a": "b"}, "finalizers": [FINALIZER, "test/kept"]});
    for ask in [
        Ask::patch(&kept, json!({"spec": {"size": "1Gi"}})),
        Ask::patch(&claim(ml, "ReadWrite"), json!({"metadata": marks})),
        Ask::patch(&subscribed, json!({"spec": {"roles": ["ops"], "capabilities": ["SHARED_RESOURCES"]}})),
        Ask::delete(&subscribed),
        Ask::delete(&claim(ml, "ReadWrite")),
    ] {
        ask.dry(&nobody).await.unwrap();
    }
}

/// A6. The objects belong to the role. Their finalizers keep them until the controller has handled their end, and no
/// other user may make the garbage collector take them.
#[tokio::test(flavor = "multi_thread")]
async fn a6_finalizers_go_with_the_verb_that_deletes() {
    let cluster = cluster().await;
    for verb in ["destroy", "use"] {
        grant(&cluster, verb, &[verb], &["eng"]).await;
    }
    let (owner, tenant) = (person(&cluster, "destroy").await, person(&cluster, "use").await);
    let finalizers =
        |object: &Value, left: Value| Ask::patch(object, json!({"metadata": {"finalizers": left}}));

    // A namespace's editor can take no finalizer off a claim, not even with a manifest that lacks the finalizer.
    let bound = claim("eng", "ReadWrite");
    let made = Ask::create(&bound).of(&tenant).await.unwrap();
    // Admission puts it back, or refuses where it cannot (F6).
    let stays = |answer: Result<Value, String>| match admission_writes() {
        true => assert_eq!(answer.unwrap()["metadata"]["finalizers"], json!([FINALIZER])),
        false => {
            let said = answer.unwrap_err();
            assert!(said.contains("write reservoir.dev/guard in metadata.finalizers of"), "{said}");
        }
    };
    stays(finalizers(&bound, json!([])).dry(&tenant).await);
    let mut replaced = made;
    replaced["metadata"].as_object_mut().unwrap().remove("finalizers");
    let put = Ask::new("PUT", "application/json", path(&bound), replaced);
    stays(put.dry(&tenant).await);
    Ask::delete(&bound).of(&tenant).await.unwrap();
    let said = finalizers(&bound, json!([])).dry(&tenant).await.unwrap_err();
    assert!(said.contains(&lacks("use", "destroy", "eng")), "{said}");
    finalizers(&bound, json!([])).dry(&owner).await.unwrap();

    // A grant on a role covers the roles beneath it (A1).
    let mut beneath = claim("eng/ml/vision", "ReadWrite");
    beneath["metadata"]["name"] = json!("beneath");
    Ask::create(&beneath).of(&tenant).await.unwrap();
    stays(finalizers(&beneath, json!([])).dry(&tenant).await);
    let answer = finalizers(&beneath, json!([])).dry(&owner).await.unwrap();
    assert_eq!(answer["metadata"]["finalizers"], Value::Null);

    // The garbage collector takes off its own finalizer, and no other.
    let data = volume("data", "eng");
    Ask::create(&data).of(&cluster.client).await.unwrap();
    let foreground = Ask::new(
        "DELETE",
        "application/json",
        format!("{}?propagationPolicy=Foreground&x=", path(&data)),
        Value::Null,
    );
    foreground.of(&owner).await.unwrap();
    let collector = "system:serviceaccount:kube-system:generic-garbage-collector";
    let collector = cluster.server.client_as(collector, &[]).await.unwrap();
    let answer = finalizers(&data, json!([FINALIZER])).of(&collector).await.unwrap();
    assert_eq!(answer["metadata"]["finalizers"], json!([FINALIZER]));
    let said = finalizers(&data, json!([])).dry(&collector).await.unwrap_err();
    assert!(said.contains("lacks the verb destroy"), "{said}");
    let controller = cluster.server.client_as(CONTROLLER_USER, &["people"]).await.unwrap();
    finalizers(&data, json!([])).dry(&controller).await.unwrap();
}

/// A6. This holds for the owner of a namespace, too.
#[tokio::test(flavor = "multi_thread")]
async fn a6_offers_are_written_by_the_controller_alone() {
    let cluster = cluster().await;
    let owner = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "owner", "namespace": "team"},
        "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "owner", "namespace": "team"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "owner"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "nina"}]});
    cluster.apply_text(&format!("{owner}\n---\n{binding}")).await;
    let mut offer = object("VolumeOffer", "s.n1", json!({"subscription": "s", "nodeName": "n1"}));
    offer["metadata"]["namespace"] = json!("team");
    let controller = cluster.server.client_as(CONTROLLER_USER, &["system:masters"]).await.unwrap();
    Ask::create(&offer).of(&controller).await.unwrap();
    let nina = cluster.server.client_as("nina", &[]).await.unwrap();
    until("the owner's Role is in force", || async { Ask::delete(&offer).dry(&nina).await.ok() }).await;
    let mut other = offer.clone();
    other["metadata"]["name"] = json!("other");
    for ask in [
        Ask::patch(&offer, json!({"metadata": {"finalizers": ["test/kept"]}})),
        Ask::patch(&offer, json!({"spec": {"nodeName": "n2"}})),
        Ask::create(&other),
    ] {
        let said = ask.dry(&nina).await.unwrap_err();
        assert!(said.contains("is written by the controller alone: change the RoleSubscription"), "{said}");
    }
    // A finalizer from a time without the policy comes off with the deletion.
    let kept = Ask::patch(&offer, json!({"metadata": {"finalizers": ["test/kept"]}}));
    kept.of(&controller).await.unwrap();
    Ask::delete(&offer).of(&nina).await.unwrap();
    let other_spec =
        Ask::patch(&offer, json!({"metadata": {"finalizers": null}, "spec": {"nodeName": "n2"}}));
    assert!(other_spec.dry(&nina).await.unwrap_err().contains("is written by the controller alone"));
    Ask::patch(&offer, json!({"metadata": {"finalizers": null}})).of(&nina).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a5_a_refusal_names_each_missing_role() {
    let cluster = cluster().await;
    grant(&cluster, "jane", &["subscribe", "resize", "destroy", "use"], &["a"]).await;
    grant(&cluster, "joe", &["resize"], &["a"]).await;
    let (jane, joe) = (person(&cluster, "jane").await, person(&cluster, "joe").await);

    let deep = "a/b/c/d/e/f/g/h";
    let old = volume("old", deep);
    Ask::create(&old).of(&cluster.client).await.unwrap();
    let both = Ask::patch(&old, json!({"spec": {"size": "128Mi", "retire": true}}));
    both.dry(&jane).await.unwrap();
    // The next step names the caller in the form of the command.
    for (user, receiver) in [
        ("system:serviceaccount:team:web", "serviceaccount team/web"),
        ("oidc:Jo O'Neil", r"user 'oidc:Jo O'\''Neil'"),
    ] {
        let said = both.dry(&person(&cluster, user).await).await.unwrap_err();
        assert!(said.ends_with(&format!("--verbs resize --to {receiver}")), "{said}");
    }
    assert!(both.dry(&joe).await.unwrap_err().contains(&lacks("joe", "destroy", deep)));
    Ask::create(&claim(deep, "ReadWrite")).dry(&jane).await.unwrap();
    Ask::create(&claim(deep, "ReadOnly")).dry(&jane).await.unwrap();

    // X6: a recovery of data needs one more verb than a creation.
    grant(&cluster, "jim", &["create"], &["a"]).await;
    grant(&cluster, "jill", &["create", "recover"], &["a"]).await;
    let mut lost = volume("lost", deep);
    lost["spec"]["recover"] = json!({"uid": "00112233-4455-6677-8899-aabbccddeeff"});
    let said = Ask::create(&lost).dry(&person(&cluster, "jim").await).await.unwrap_err();
    assert!(said.contains(&lacks("jim", "recover", deep)), "{said}");
    Ask::create(&lost).dry(&person(&cluster, "jill").await).await.unwrap();

    // X8: to erase kept data, or to change for how long data is kept, needs the verb that ends a volume.
    let jill = person(&cluster, "jill").await;
    lost["spec"]["retire"] = json!(true);
    let said = Ask::create(&lost).dry(&jill).await.unwrap_err();
    assert!(said.contains(&lacks("jill", "destroy", deep)), "{said}");
    let keep = Ask::patch(&old, json!({"spec": {"keepFor": "72h"}}));
    let said = keep.dry(&jill).await.unwrap_err();
    assert!(said.contains(&lacks("jill", "destroy", deep)), "{said}");
    keep.dry(&jane).await.unwrap();
    grant(&cluster, "jill", &["destroy", "create", "recover"], &["a"]).await;
    Ask::create(&lost).dry(&person(&cluster, "jill").await).await.unwrap();

    let deeper = ["a/b/c/d/e/f/g/h", "a/b/c/d/e/f/g/i", "a/c/c/d/e/f/g/h", "a/d/c/d/e/f/g/h", "a/e/c"];
    Ask::create(&subscription("full", &deeper[..4])).dry(&jane).await.unwrap();
    let split =
        "at most 8 roles are added to a subscription at once, and with their ancestors at most 24: split it";
    let said = Ask::create(&subscription("fuller", &deeper)).dry(&jane).await.unwrap_err();
    assert!(said.contains(split), "{said}");
    let nine = ["a", "a/1", "a/2", "a/3", "a/4", "a/5", "a/6", "a/7", "a/8"];
    Ask::create(&subscription("eight", &nine[1..])).of(&jane).await.unwrap();
    let said = Ask::create(&subscription("nine", &nine)).dry(&jane).await.unwrap_err();
    assert!(said.contains(split), "{said}");
    // Roles that a subscription already has are not checked again.
    Ask::patch(&subscription("eight", &[]), json!({"spec": {"roles": nine}})).dry(&jane).await.unwrap();

    // The refusal is that of the missing one, at each place of the list.
    for missing in 0..8 {
        let mut roles = ["a/1", "a/2", "a/3", "a/4", "a/5", "a/6", "a/7", "a/8"];
        roles[missing] = "b";
        let said = Ask::create(&subscription("some", &roles)).dry(&jane).await.unwrap_err();
        assert!(said.contains(&lacks("jane", "subscribe", "b")), "{missing}: {said}");
    }
    for (roles, missing) in [
        (&["b", "a"][..], "b"),
        (&["a", "b"], "b"),
        (&["a/b", "a", "ab"], "ab"),
        (&["a/1", "a/2", "a/3", "a/4", "a/5", "a/6", "a/7", "b/c"], "b/c"),
    ] {
        let said = Ask::create(&subscription("some", roles)).dry(&jane).await.unwrap_err();
        assert!(said.contains(&lacks("jane", "subscribe", missing)), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a1_the_charts_cluster_roles_grant_what_they_say() {
    let cluster = cluster().await;
    for (role, user) in [("view", "vera"), ("edit", "ed"), ("admin", "adam")] {
        let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": user, "namespace": "team"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]});
        cluster.apply_text(&binding.to_string()).await;
    }
    bind(&cluster, "reservoir-admin", "User", "boss").await;
    bind(&cluster, "reservoir-viewer", "User", "vera").await;
    let client = async |user| cluster.server.client_as(user, &[]).await.unwrap();
    let asked = subscription("new", &["analytics"]);
    let list = |kind: &str| Ask::new("GET", "application/json", kind, json!({}));

    // Kubernetes' own roles get Reservoir's rules a moment after the chart is installed.
    let (vera, ed, adam, boss) =
        (client("vera").await, client("ed").await, client("adam").await, client("boss").await);
    for kind in ["volumeclaims", "rolesubscriptions", "volumeoffers"] {
        until("the aggregated rules are in force", || async {
            list(&format!("namespaces/team/{kind}")).of(&ed).await.ok()
        })
        .await;
        list(&format!("namespaces/team/{kind}")).of(&adam).await.unwrap();
        list(kind).of(&vera).await.unwrap();
    }
    for kind in ["nodedisks", "diskreservations", "sharedpersistentvolumes", "volumeroles"] {
        list(kind).of(&vera).await.unwrap();
        list(kind).of(&boss).await.unwrap();
        assert!(list(kind).of(&ed).await.unwrap_err().contains("cannot list"));
    }
    assert!(Ask::create(&asked).dry(&vera).await.unwrap_err().contains("cannot create"));
    // A3: an administrator of a namespace may write namespaced kinds, but the role's verbs decide. Cluster kinds are
    // forbidden.
    for (user, client) in [("ed", &ed), ("adam", &adam)] {
        let said = Ask::create(&asked).dry(client).await.unwrap_err();
        assert!(said.contains(&lacks(user, "subscribe", "analytics")), "{said}");
        let said = Ask::create(&volume("new", "analytics")).dry(client).await.unwrap_err();
        assert!(said.contains("cannot create"), "{said}");
        for status in ["volumeclaims/any/status", "rolesubscriptions/any/status"] {
            let said =
                Ask::new("PATCH", MERGE, format!("namespaces/team/{status}"), json!({})).of(client).await;
            assert!(said.unwrap_err().contains("cannot patch"), "{status}");
        }
    }
    for ask in [
        Ask::create(&reservation("new", "any/role")),
        Ask::create(&volume("new", "any/role")),
        Ask::create(&claim("any/role", "ReadWrite")),
        Ask::create(&subscription("new", &["any", "other/role"])),
        Ask::create(&object("VolumeRole", "new", json!({"role": "any/role"}))),
    ] {
        ask.dry(&boss).await.unwrap();
    }
    let status = Ask::new("PATCH", MERGE, "diskreservations/any/status", json!({}));
    assert!(status.of(&boss).await.unwrap_err().contains("cannot patch"));

    let jane = person(&cluster, "jane").await;
    let reserve = Ask::create(&reservation("new", "analytics/daily"));
    assert!(reserve.dry(&jane).await.unwrap_err().contains(&lacks("jane", "reserve", "analytics/daily")));
    cluster.example("11-grants.yaml").await;
    until("the grants are in force", || async { reserve.dry(&jane).await.ok() }).await;
    Ask::create(&volume("new", "analytics")).dry(&jane).await.unwrap();
    assert!(Ask::create(&claim("analytics", "ReadOnly")).dry(&jane).await.is_err());
    let reader = cluster.server.client_as("rita", &["people", "data-scientists"]).await.unwrap();
    Ask::create(&asked).dry(&reader).await.unwrap();
    Ask::create(&claim("analytics", "ReadOnly")).dry(&reader).await.unwrap();
    let said = Ask::create(&claim("analytics", "ReadWrite")).dry(&reader).await.unwrap_err();
    assert!(said.contains("(use-readonly is there): make the claim ReadOnly"), "{said}");
}
