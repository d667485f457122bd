//! The principal of reservations and volumes (R5, A3).

use kube::ResourceExt;
use kube::api::DeleteParams;
use kube::core::DynamicObject;
use reservoir::api::{DiskReservation, NodeDisk, SharedPersistentVolume};
use serde_json::{Value, json};

use crate::ask::{Ask, JSON_PATCH, MERGE, cluster, grant, path, person, reservation, volume};
use crate::support::{AGENT_USER, Agent, CONTROLLER_USER, until, until_gone, until_reason};

#[tokio::test(flavor = "multi_thread")]
async fn r5_a3_the_principal_cannot_be_forged() {
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
    let sentence = "the principal of new is jane, and the MutatingAdmissionPolicy reservoir-principal that writes it is not \
                    in force";
    assert!(said.contains(sentence), "{said}");
    cluster.client.request::<Value>(gone("ValidatingAdmissionPolicyBinding")).await.unwrap();
    let old = reservation("old", "eng");
    until("nothing checks it either", || async { Ask::create(&old).of(&jane).await.ok() }).await;
    let policies =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/reservoir/files/admission.yaml");
    let policies = std::fs::read_to_string(policies)
        .unwrap()
        .replace("AGENT_USER", AGENT_USER)
        .replace("CONTROLLER_USER", CONTROLLER_USER);
    cluster.apply_text(&policies).await;
    until("principals are written again", || async {
        Ask::create(&reservation("again", "eng")).dry(&jane).await.ok().and_then(principal)
    })
    .await;
    let answer = Ask::patch(&old, json!({"spec": {"principal": "jane"}})).of(&jane).await.unwrap();
    assert_eq!(principal(answer), None);
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
