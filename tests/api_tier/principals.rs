//! The principal of reservations and volumes (R5, A3).

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use kube::core::DynamicObject;
use kube::{Api, Client, ResourceExt};
use reservoir::api::{DiskReservation, NodeDisk, SharedPersistentVolume};
use serde_json::{Value, json};

use crate::ask::{
    Ask, JSON_PATCH, MERGE, claim, cluster, collection, grant, path, person, reservation, volume,
};
use crate::support::{Agent, admission_writes, policies, until, until_gone, until_reason};

#[tokio::test(flavor = "multi_thread")]
async fn r5_a3_the_principal_cannot_be_forged() {
    if !admission_writes() {
        return eprintln!("this release has no MutatingAdmissionPolicy: see f6_r5_a3_…");
    }
    let cluster = cluster().await;
    grant(&cluster, "jane", &["reserve", "create", "resize"], &["eng"]).await;
    grant(&cluster, "mallory", &["reserve", "create", "resize"], &["eng"]).await;
    let (jane, mallory) = (person(&cluster, "jane").await, person(&cluster, "mallory").await);
    let principal = |object: Value| object["spec"]["principal"].as_str().map(str::to_owned);
    let forged = |object: &Value, who: Value| {
        let mut object = object.clone();
        object["spec"]["principal"] = who;
        object
    };

    for make in [reservation, volume] {
        // CREATE with and without a principal.
        let (plain, claimed, applied) =
            (make("plain", "eng"), make("claimed", "eng"), make("applied", "eng"));
        let asks = [
            Ask::create(&plain),
            Ask::create(&forged(&claimed, json!("admin"))),
            Ask::apply(&forged(&applied, json!("admin"))),
        ];
        for ask in asks {
            assert_eq!(principal(ask.of(&jane).await.unwrap()).as_deref(), Some("jane"), "{}", ask.path);
        }
        // No user can change the principal, by any request.
        for (who, name) in [(&jane, "admin"), (&mallory, "mallory"), (&cluster.client, "admin")] {
            for object in [&plain, &claimed, &applied] {
                let now = Ask::new("GET", "application/json", path(object), json!({})).of(who).await.unwrap();
                let mut emptied = now.clone();
                emptied["spec"].as_object_mut().unwrap().remove("principal");
                let at = |op: &str| json!([{"op": op, "path": "/spec/principal", "value": name}]);
                for ask in [
                    Ask::apply(object),
                    Ask::apply(&forged(object, json!(name))),
                    Ask::apply(object),
                    Ask::patch(object, json!({"spec": {"principal": name}})),
                    Ask::patch(object, json!({"spec": {"principal": null}})),
                    Ask::new("PATCH", JSON_PATCH, path(object), at("replace")),
                    Ask::new("PATCH", JSON_PATCH, path(object), at("remove")),
                    Ask::new("PUT", "application/json", path(object), forged(&emptied, json!(name))),
                    Ask::new("PUT", "application/json", path(object), emptied),
                ] {
                    // A write of an old version is refused, and changes nothing.
                    let answer = ask.of(who).await;
                    let right = match &answer {
                        Ok(answer) => principal(answer.clone()).as_deref() == Some("jane"),
                        Err(said) => ask.method == "PUT" && said.contains("the object has been modified"),
                    };
                    assert!(right, "{} {} {}: {answer:?}", ask.method, ask.path, ask.body);
                }
                let status = Ask::new(
                    "PATCH",
                    MERGE,
                    format!("{}/status", path(object)),
                    json!({"spec": {"principal": name}, "status": {}}),
                );
                match status.of(who).await {
                    Ok(answer) => assert_eq!(principal(answer).as_deref(), Some("jane")),
                    Err(said) => assert!(said.contains("cannot patch"), "{said}"),
                }
            }
        }
        // kubectl's own patch, for a manifest that never had a principal.
        let last = json!({"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}},
            "spec": {"size": "128Mi"}});
        let answer = Ask::patch(&plain, last).of(&mallory).await.unwrap();
        assert_eq!(principal(answer).as_deref(), Some("jane"));
        let replaced = Ask::new("PUT", "application/json", path(&plain), {
            let mut object =
                Ask::new("GET", "application/json", path(&plain), json!({})).of(&jane).await.unwrap();
            object["spec"].as_object_mut().unwrap().remove("principal");
            object
        });
        assert_eq!(principal(replaced.of(&mallory).await.unwrap()).as_deref(), Some("jane"));
    }

    // Without the policy that writes the principal, creations are refused. An object without a principal never gets
    // one.
    let gone = |kind: &str| {
        let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "reservoir-principal"}});
        let policy: DynamicObject = serde_json::from_value(policy).unwrap();
        let bindings = format!("/apis/admissionregistration.k8s.io/v1/{}s", kind.to_lowercase());
        http::Request::delete(format!("{bindings}/{}", policy.name_any())).body(vec![]).unwrap()
    };
    cluster.client.request::<Value>(gone("MutatingAdmissionPolicyBinding")).await.unwrap();
    let said = until("nothing writes the principal", || async {
        Ask::create(&forged(&reservation("new", "eng"), json!("admin"))).dry(&jane).await.err()
    })
    .await;
    let sentence = "write principal: \"jane\" in the spec of DiskReservation new: the user who makes it is its principal";
    assert!(said.contains(sentence), "{said}");
    cluster.client.request::<Value>(gone("ValidatingAdmissionPolicyBinding")).await.unwrap();
    let old = reservation("old", "eng");
    until("nothing checks it either", || async { Ask::create(&old).of(&jane).await.ok() }).await;
    cluster.apply_text(&policies(true)).await;
    until("principals are written again", || async {
        Ask::create(&reservation("again", "eng")).dry(&jane).await.ok().and_then(principal)
    })
    .await;
    let answer = Ask::patch(&old, json!({"spec": {"principal": "jane"}})).of(&jane).await.unwrap();
    assert_eq!(principal(answer), None);
}

/// R5, A3, A6, M3. Without MutatingAdmissionPolicy each refusal says the words to write, and nothing else gets in.
#[tokio::test(flavor = "multi_thread")]
async fn f6_without_mutating_policies_refusals_say_what_to_write() {
    let cluster = cluster().await;
    if admission_writes() {
        // As the chart does with admission.mutatingPolicies: false.
        for name in ["principal", "guard", "read-only-claims"] {
            for kind in ["policybindings", "policies"] {
                let at =
                    format!("/apis/admissionregistration.k8s.io/v1/mutatingadmission{kind}/reservoir-{name}");
                cluster
                    .client
                    .request::<Value>(http::Request::delete(at).body(vec![]).unwrap())
                    .await
                    .unwrap();
            }
        }
        cluster.apply_text(&policies(false)).await;
    }
    for user in ["jane", "mallory"] {
        grant(&cluster, user, &["reserve", "create", "resize", "use", "use-readonly"], &["eng"]).await;
    }
    let (jane, mallory) = (person(&cluster, "jane").await, person(&cluster, "mallory").await);
    let raw = async |who: &Client, method: &str, content: &str, path: String, body: &Value| {
        let request = http::Request::builder().method(method).header("Content-Type", content);
        let request =
            request.uri(format!("/apis/reservoir.dev/v1alpha1/{path}")).body(body.to_string().into_bytes());
        who.request::<Value>(request.unwrap()).await.map_err(|error| error.to_string())
    };
    let post =
        async |who: &Client, body: &Value| raw(who, "POST", "application/json", collection(body), body).await;
    let get = async |object: &Value| {
        Ask::new("GET", "application/json", path(object), json!({})).of(&jane).await.unwrap()
    };
    for make in [reservation, volume] {
        let mut object = make("data", "eng");
        let words = format!(
            "write principal: \"jane\" in the spec of {} data: the user",
            object["kind"].as_str().unwrap()
        );
        // A dry run, since the API server follows a moment later: until then it accepts the object.
        let dry = format!("{}?dryRun=All", collection(&object));
        until("nothing writes the principal", || async {
            let answer = raw(&jane, "POST", "application/json", dry.clone(), &object).await;
            answer.is_err_and(|said| said.contains(&words)).then_some(())
        })
        .await;
        object["spec"]["principal"] = json!("mallory");
        let said = post(&jane, &object).await.unwrap_err();
        assert!(said.contains(&words), "{said}");
        object["spec"]["principal"] = json!("jane");
        post(&jane, &object).await.unwrap();

        // Whoever writes later leaves it as it is.
        let words = "write principal: \"jane\" in the spec: who made an object never changes";
        for who in [&jane, &mallory, &cluster.client] {
            for principal in [json!("mallory"), json!(""), Value::Null] {
                let mut put = get(&object).await;
                put["spec"]["principal"] = principal.clone();
                let fields = json!({"spec": {"principal": principal}});
                for (method, content, body) in [("PATCH", MERGE, &fields), ("PUT", "application/json", &put)]
                {
                    let said = raw(who, method, content, path(&object), body).await.unwrap_err();
                    assert!(said.contains(words), "{method} {body}: {said}");
                }
            }
            let size = json!({"spec": {"size": get(&object).await["spec"]["size"]}});
            raw(who, "PATCH", MERGE, path(&object), &size).await.unwrap();
        }
        assert_eq!(get(&object).await["spec"]["principal"], "jane");
    }

    // A6. A namespace's editor replaces a claim with the finalizer that the controller put on.
    let mut reader = claim("eng", "ReadOnly");
    reader["metadata"]["name"] = json!("reader");
    for object in [&reader, &claim("eng", "ReadWrite")] {
        let mut guarded = object.clone();
        guarded["metadata"]["finalizers"] = json!(["reservoir.dev/guard"]);
        post(&jane, &guarded).await.unwrap();
    }
    let mut bare = get(&reader).await;
    bare["metadata"]["finalizers"] = json!([]);
    let said = raw(&jane, "PUT", "application/json", path(&reader), &bare).await.unwrap_err();
    let words = "write reservoir.dev/guard in metadata.finalizers of reader, or leave metadata.finalizers as it is: user \
                 jane lacks the verb destroy on volumeroles.reservoir.dev/eng";
    assert!(said.contains(words), "{said}");

    // M3.
    let pods: Api<Pod> = cluster.within("team");
    let pod = async |claim: &str, read_only: Option<bool>| {
        let pod = json!({"metadata": {"name": "pod"}, "spec": {"automountServiceAccountToken": false,
            "containers": [{"name": "c", "image": "none"}], "volumes": [{"name": "other", "emptyDir": {}},
            {"name": "data", "persistentVolumeClaim": {"claimName": claim, "readOnly": read_only}}]}});
        let dry = PostParams { dry_run: true, ..Default::default() };
        let made = pods.create(&dry, &serde_json::from_value(pod).unwrap()).await;
        made.map(drop).map_err(|error| error.to_string())
    };
    let words = "write readOnly: true beside claimName: reader in volume data of the pod: VolumeClaim reader is ReadOnly";
    until("the claim is known", || async {
        pod("reader", None).await.is_err_and(|said| said.contains(words)).then_some(())
    })
    .await;
    let said = pod("reader", Some(false)).await.unwrap_err();
    assert!(said.contains(words), "{said}");
    for (claim, read_only) in [("reader", Some(true)), ("claim", None), ("unknown", None)] {
        pod(claim, read_only).await.unwrap_or_else(|said| panic!("{claim}: {said}"));
    }
}

/// R5. Three reservations of one role on one disk stay three, although two have the same principal and labels. Each
/// has its own bytes. A volume is in one of them, and each can be deleted without the others.
#[tokio::test(flavor = "multi_thread")]
async fn r5_reservations_of_two_principals_never_merge() {
    let cluster = cluster().await;
    let all = cluster.all::<DiskReservation>();
    let volumes = cluster.all::<SharedPersistentVolume>();
    for (name, user, team) in [("one", "jane", "x"), ("two", "joe", "y"), ("three", "jane", "x")] {
        grant(&cluster, user, &["reserve", "unreserve"], &["eng"]).await;
        let mut object = reservation(name, "eng");
        object["spec"]["size"] = json!("64Mi");
        object["metadata"]["labels"] = json!({"team": team});
        Ask::create(&object).of(&person(&cluster, user).await).await.unwrap();
    }
    cluster.start_controller().await;
    cluster.node("n1", true).await;
    let _agent = Agent::start(&cluster, "n1", "256Mi").await;
    let identity = async |name: &str| {
        until_reason(&all, name, "Ready").await;
        let reservation = all.get(name).await.unwrap();
        let team = reservation.labels()["team"].clone();
        (reservation.spec.principal.unwrap(), team, reservation.status.unwrap().size.unwrap().to_string())
    };
    let of = |principal: &str, team: &str| (principal.to_owned(), team.to_owned(), "64Mi".to_owned());
    assert_eq!(identity("one").await, of("jane", "x"));
    assert_eq!(identity("two").await, of("joe", "y"));
    assert_eq!(identity("three").await, of("jane", "x"));
    let entries = async || {
        let disk = cluster.all::<NodeDisk>().get("n1.default").await.unwrap().status.unwrap();
        let mut entries: Vec<_> =
            disk.reservations.iter().map(|entry| (entry.name.clone(), entry.size.to_string())).collect();
        entries.sort();
        entries
    };
    let entry = |name: &str| (name.to_owned(), "64Mi".to_owned());
    assert_eq!(entries().await, [entry("one"), entry("three"), entry("two")]);

    let mut wide = volume("wide", "eng");
    wide["spec"]["size"] = json!("96Mi");
    Ask::create(&wide).of(&cluster.client).await.unwrap();
    until_reason(&volumes, "wide", "ReservationFull").await;
    let joe = person(&cluster, "joe").await;
    Ask::delete(&reservation("two", "eng")).of(&joe).await.unwrap();
    until_gone(&all, "two").await;
    assert_eq!(entries().await, [entry("one"), entry("three")]);
    volumes.delete("wide", &DeleteParams::default()).await.unwrap();
    until_gone(&volumes, "wide").await;
}
