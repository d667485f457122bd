//! Objects of an agent (R2, A4), objects that hold others (R6, X7), and bounds of all objects (A8).

use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::events::v1::Event;
use kube::Client;
use kube::api::Patch;
use reservoir::api::{DiskReservation, FINALIZER, TOPOLOGY_NODE};
use serde_json::{Value, json};

use crate::ask::{Ask, MERGE, bind, claim, cluster, grant, lacks, object, path, person, reservation, volume};
use crate::support::{AGENT_USER, CONTROLLER_USER, Cluster, admission_writes, until};

/// A client with a token that the API server has made for the agent of `node`.
async fn agent_of(cluster: &Cluster, node: &str) -> Client {
    cluster.node(node, true).await;
    let accounts = kube::Api::<k8s_openapi::api::core::v1::ServiceAccount>::namespaced(
        cluster.client.clone(),
        "reservoir-system",
    );
    let bound = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Node".into()),
        name: Some(node.into()),
        uid: None,
    };
    let request = TokenRequest {
        spec: Some(TokenRequestSpec { bound_object_ref: Some(bound), ..Default::default() }),
        ..Default::default()
    };
    let answer =
        accounts.create_token_request("reservoir-agent", &Default::default(), &request).await.unwrap();
    let mut kubeconfig = cluster.server.kubeconfig().unwrap();
    for auth_info in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        auth_info.token = answer.status.clone().unwrap().token.map(Into::into);
    }
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

/// A cluster with the chart's RBAC for agents, and without a controller.
async fn cluster_with_agents() -> Cluster {
    let cluster = cluster().await;
    cluster
        .apply_text(
            "{apiVersion: v1, kind: Namespace, metadata: {name: reservoir-system}}\n---\n\
             {apiVersion: v1, kind: ServiceAccount, metadata: {name: reservoir-agent, namespace: reservoir-system}}",
        )
        .await;
    // The chart's own RBAC, without the lines that Helm fills in.
    let rbac = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/reservoir/templates/rbac.yaml");
    let rbac = std::fs::read_to_string(rbac).unwrap().replace("{{ .Release.Namespace }}", "reservoir-system");
    let rbac: Vec<&str> = rbac.lines().filter(|line| !line.contains("{{")).collect();
    cluster.apply_text(&rbac.join("\n")).await;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn r2_a1_a4_static_reservations_belong_to_their_agent() {
    let cluster = cluster_with_agents().await;
    let (one, two) = (agent_of(&cluster, "n1").await, agent_of(&cluster, "n2").await);
    let fixed = |name: &str, disk: &str| {
        let mut object = reservation(name, "eng");
        object["spec"]["static"] = json!(true);
        object["spec"]["nodeDisk"] = json!(disk);
        object
    };
    let kept = fixed("kept", "n1.default");
    until("the agent's RBAC is in force", || async { Ask::apply(&kept).of(&one).await.ok() }).await;
    let answer = Ask::apply(&kept).of(&one).await.unwrap();
    assert_eq!(answer["spec"]["principal"], AGENT_USER);
    Ask::patch(&kept, json!({"spec": {"size": "2Gi"}})).of(&one).await.unwrap();

    let mut nowhere = fixed("new", "");
    nowhere["spec"].as_object_mut().unwrap().remove("nodeDisk");
    for (ask, sentence) in [
        (
            Ask::create(&fixed("new", "n2.default")),
            "of node n1 may not write new, which is on disk n2.default",
        ),
        (
            Ask::create(&fixed("new", "n1.n2.default")),
            "of node n1 may not write new, which is on disk n1.n2.default",
        ),
        (Ask::create(&fixed("new", "n1")), "of node n1 may not write new, which is on disk n1"),
        (Ask::create(&nowhere), "of node n1 may not write new, which is on disk"),
    ] {
        let said = ask.dry(&one).await.unwrap_err();
        assert!(said.contains(sentence), "{said}");
    }
    // Two policies refuse this request, and the message may be that of either.
    let said = Ask::create(&reservation("new", "eng")).dry(&one).await.unwrap_err();
    let sentences = ["may not write new, which is not static", "lacks the verb reserve"];
    assert!(sentences.iter().any(|sentence| said.contains(sentence)), "{said}");
    let grow = Ask::patch(&kept, json!({"spec": {"size": "3Gi"}}));
    for ask in [&grow, &Ask::delete(&kept)] {
        let said = ask.dry(&two).await.unwrap_err();
        assert!(said.contains("the agent of node n2 may not write kept"), "{said}");
        let said = ask.dry(&cluster.client).await.unwrap_err();
        let sentence = "reservation kept is static, from the agent's configuration: change it there";
        assert!(said.contains(sentence), "{said}");
    }
    let said = Ask::create(&fixed("new", "n1.default")).dry(&cluster.client).await.unwrap_err();
    assert!(said.contains("reservation new is static"), "{said}");
    let label = Ask::patch(&kept, json!({"metadata": {"labels": {"a": "b"}}}));
    assert!(label.dry(&cluster.client).await.unwrap_err().contains("is static"));
    let controllers = json!({"metadata": {"annotations": {"a": "b"}, "finalizers": ["test/kept"]}});
    Ask::patch(&kept, controllers).dry(&cluster.client).await.unwrap();
    let ours = reservation("ours", "eng");
    Ask::create(&ours).of(&cluster.client).await.unwrap();
    for ask in [Ask::patch(&ours, json!({"spec": {"size": "3Gi"}})), Ask::delete(&ours)] {
        assert!(ask.dry(&one).await.unwrap_err().contains("ours"));
    }

    // D4: neither the agent nor an ordinary user can declare a disk gone. Later reports of the agent keep the
    // declaration.
    let mut disk = object(
        "NodeDisk",
        "n1.default",
        json!({"nodeName": "n1", "diskName": "default", "diskID": "00112233-4455-6677-8899-aabbccddeeff",
            "kind": "Path", "backing": "Loop", "path": "/disk"}),
    );
    Ask::apply(&disk).of(&one).await.unwrap();
    let gone = Ask::patch(&disk, json!({"spec": {"gone": true}}));
    let said = gone.of(&one).await.unwrap_err();
    assert!(
        said.contains("of node n1 may not declare n1.default gone: that is for an administrator to say"),
        "{said}"
    );
    let mut other = disk.clone();
    (other["metadata"]["name"], other["spec"]["gone"]) = (json!("n1.other"), json!(true));
    other["spec"]["diskName"] = json!("other");
    assert!(Ask::apply(&other).of(&one).await.unwrap_err().contains("gone"));
    assert!(gone.of(&person(&cluster, "jane").await).await.unwrap_err().contains("cannot patch"));
    bind(&cluster, "reservoir-admin", "User", "boss").await;
    let boss = cluster.server.client_as("boss", &[]).await.unwrap();
    until("the administrator's RBAC is in force", || async { gone.of(&boss).await.ok() }).await;
    disk["spec"]["path"] = json!("/elsewhere");
    let answer = Ask::apply(&disk).of(&one).await.unwrap();
    assert_eq!(answer["spec"]["gone"], true);
    assert_eq!(answer["spec"]["path"], "/elsewhere");

    // Nobody's agent is left to take back what was on it, so people can.
    for reason in ["DiskMoved", "DiskGone"] {
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": reason,
            "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        let status = Ask::new("PATCH", MERGE, format!("{}/status", path(&kept)), status);
        status.of(&cluster.client).await.unwrap();
        Ask::delete(&kept).dry(&cluster.client).await.unwrap();
    }
    // A1: not just anybody, though.
    let said = Ask::delete(&kept).dry(&person(&cluster, "jane").await).await.unwrap_err();
    assert!(said.contains(&lacks("jane", "unreserve", "eng")), "{said}");
    assert!(grow.dry(&cluster.client).await.unwrap_err().contains("is static"));
    Ask::delete(&kept).of(&one).await.unwrap();
    // The controller would finish the deletion, but no controller runs here.
    let kept = cluster.all::<DiskReservation>().get_opt("kept").await.unwrap();
    assert!(kept.is_none_or(|kept| kept.metadata.deletion_timestamp.is_some()));
}

/// A7, X4: a node draws no pods of another node's volumes to itself, and an agent writes no receipt of the controller.
#[tokio::test(flavor = "multi_thread")]
async fn a7_a_node_and_its_agent_speak_in_their_own_names() {
    let cluster = cluster_with_agents().await;
    let one = agent_of(&cluster, "n1").await;
    let nodes: kube::Api<Node> = kube::Api::all(cluster.client.clone());
    let label = async |node: &str, says: Value| {
        let patch = json!({"metadata": {"labels": {TOPOLOGY_NODE: says}}});
        nodes.patch(node, &Default::default(), &Patch::Merge(&patch)).await
    };
    let said = until("the policy is in force", || async { label("n1", json!("n2")).await.err() }).await;
    let sentence = "the label topology.reservoir.dev/node of node n1 says n2, another node";
    assert!(said.to_string().contains(sentence), "{said}");
    label("n1", json!("n1")).await.unwrap();
    label("n1", Value::Null).await.unwrap();

    let event = |controller: &str, instance: &str| {
        json!({"metadata": {"generateName": "e-", "namespace": "default"}, "action": "Destroy", "reason": "Destroyed",
            "type": "Normal", "eventTime": "2026-01-01T00:00:00.000000Z", "note": "1Gi was given back",
            "regarding": {"apiVersion": "reservoir.dev/v1alpha1", "kind": "SharedPersistentVolume", "name": "v"},
            "reportingController": controller, "reportingInstance": instance})
    };
    let events: kube::Api<Event> = kube::Api::namespaced(one, "default");
    let write = async |controller, instance| {
        let event = serde_json::from_value(event(controller, instance)).unwrap();
        events.create(&Default::default(), &event).await
    };
    until("the agent's RBAC is in force", || async { write("reservoir-agent", "n1").await.ok() }).await;
    for (controller, instance) in [("reservoir-controller", "n1"), ("reservoir-agent", "n2")] {
        let said = write(controller, instance).await.unwrap_err().to_string();
        assert!(said.contains("the agent of node n1 may not write an event of"), "{said}");
    }
}

/// P6, A1: a verb on one role does not keep the volume of another role's PersistentVolumeClaim from being made.
#[tokio::test(flavor = "multi_thread")]
async fn p6_the_name_of_a_pvcs_volume_is_not_for_a_role_operator() {
    let cluster = cluster().await;
    grant(&cluster, "bob", &["create", "recover"], &["eng"]).await;
    let bob = person(&cluster, "bob").await;
    let mut lost = volume("pvc-00000000-0000-4000-8000-000000000001", "eng");
    lost["spec"]["recover"] = json!({"uid": "11111111-2222-3333-4444-555555555555"});
    let said = Ask::create(&lost).dry(&bob).await.unwrap_err();
    assert!(
        said.contains("who may create PersistentVolumes may recover lost data under this name"),
        "{said}"
    );
    Ask::create(&lost).dry(&cluster.client).await.unwrap();
    lost["metadata"]["name"] = json!("found");
    Ask::create(&lost).dry(&bob).await.unwrap();
}

/// A7: a compromised node cannot spend another role's quota, and touches nothing on a disk that is now in another
/// node.
#[tokio::test(flavor = "multi_thread")]
async fn a7_an_agent_makes_the_configured_reservations_only() {
    let cluster = cluster_with_agents().await;
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "reservoir-agent", "namespace": "reservoir-system"},
        "data": {"disks": "default\nfast\n", "static-reservations": "default eng/ml 1Gi\nfast Eng 2Gi\n"}});
    cluster.apply_text(&config.to_string()).await;
    let one = agent_of(&cluster, "n1").await;
    let fixed = |disk: &str, role: &str, name: &str, size: &str| {
        let mut object = reservation(&format!("{disk}.{name}"), role);
        (object["spec"]["static"], object["spec"]["nodeDisk"]) = (json!(true), json!(disk));
        object["spec"]["size"] = json!(size);
        object
    };
    let good = fixed("n1.default", "eng/ml", "eng.ml", "1024Mi");
    until("the agent's RBAC is in force", || async { Ask::apply(&good).dry(&one).await.ok() }).await;
    until("the API server has the configuration", || async {
        Ask::create(&fixed("n1.default", "ops", "ops", "1Gi")).dry(&one).await.err()
    })
    .await;
    for (object, right) in [
        (good.clone(), true),
        (fixed("n1.default-2", "eng/ml", "eng.ml", "1Gi"), true),
        (fixed("n1.default-10", "eng/ml", "eng.ml", "1Gi"), false),
        (fixed("n1.fast", "Eng", "eng-x0011223344556677", "2Gi"), true),
        (fixed("n1.default", "ops", "ops", "1Gi"), false),
        (fixed("n1.default", "eng/ml", "eng.ml", "2Gi"), false),
        (fixed("n1.default", "eng/ml", "again", "1Gi"), false),
        (fixed("n1.default", "eng/ml", "eng-x0011223344556677", "1Gi"), false),
        (fixed("n1.fast", "eng/ml", "eng.ml", "1Gi"), false),
    ] {
        match (Ask::create(&object).dry(&one).await, right) {
            (Ok(_), true) => {}
            (Err(said), false) => {
                assert!(said.contains("is not configured: add it to agent.disks[]"), "{said}")
            }
            (answer, _) => panic!("{object}: {answer:?}"),
        }
    }
    // The name is the agent's: with it, somebody else's reservation would keep the static one from being made.
    for (name, free) in [
        ("n1.default.eng.ml", false),
        ("n1.default-9.eng.ml", false),
        ("default.eng.ml", true),
        ("n1.default.eng", true),
    ] {
        match (Ask::create(&reservation(name, "ops")).dry(&cluster.client).await, free) {
            (Ok(_), true) => {}
            (Err(said), false) => {
                assert!(
                    said.contains(&format!("the name {name} is kept for a static reservation")),
                    "{said}"
                );
            }
            (answer, _) => panic!("{name}: {answer:?}"),
        }
    }
    // NodeDisks are made for the configured disks.
    for (disk, right) in [("fast", true), ("slow", false)] {
        let node_disk = object(
            "NodeDisk",
            &format!("n1.{disk}"),
            json!({"nodeName": "n1", "diskName": disk,
            "diskID": "id", "kind": "Path", "backing": "Loop", "path": "/disk"}),
        );
        match (Ask::create(&node_disk).dry(&one).await, right) {
            (Ok(_), true) => {}
            (Err(said), false) => {
                assert!(said.contains("disk slow of NodeDisk n1.slow is not configured"), "{said}")
            }
            (answer, _) => panic!("{disk}: {answer:?}"),
        }
    }
    Ask::create(&good).of(&one).await.unwrap();
    let larger = Ask::patch(&good, json!({"spec": {"size": "5Gi"}}));
    assert!(larger.dry(&one).await.unwrap_err().contains("is not configured"));

    // The disk is now in another node, and a new machine has the old node's name.
    let moved = json!({"status": {"nodeName": "n2"}});
    Ask::new("PATCH", MERGE, format!("{}/status", path(&good)), moved).of(&cluster.client).await.unwrap();
    let said = Ask::delete(&good).dry(&one).await.unwrap_err();
    assert!(said.contains("the agent of node n1 may not write n1.default.eng.ml"), "{said}");
}

/// D4: `gone` ends all data on a disk for good, so it is no word for a disk that is there.
#[tokio::test(flavor = "multi_thread")]
async fn d4_a_disk_that_is_served_is_not_declared_gone() {
    let cluster = cluster().await;
    let disk = object(
        "NodeDisk",
        "n1.default",
        json!({"nodeName": "n1", "diskName": "default", "diskID": "00112233-4455-6677-8899-aabbccddeeff",
            "kind": "Path", "backing": "Loop", "path": "/disk"}),
    );
    Ask::create(&disk).of(&cluster.client).await.unwrap();
    let gone = Ask::patch(&disk, json!({"spec": {"gone": true}}));
    let ready = |status: &str, reason: &str| {
        let ready = json!({"type": "Ready", "status": status, "reason": reason, "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let status = json!({"status": {"conditions": [ready]}});
        Ask::new("PATCH", MERGE, format!("{}/status", path(&disk)), status)
    };
    for (status, reason) in [("True", "Ready"), ("False", "SpaceTaken")] {
        ready(status, reason).of(&cluster.client).await.unwrap();
        let said = gone.dry(&cluster.client).await.unwrap_err();
        let sentence = "NodeDisk n1.default is served by the agent of node n1, and nothing was changed: gone gives up all data";
        assert!(said.contains(sentence) && said.contains("cannot be undone; to empty this disk"), "{said}");
    }
    // An edit of another field is none of this.
    Ask::patch(&disk, json!({"spec": {"path": "/else"}})).dry(&cluster.client).await.unwrap();
    for reason in ["NodeUnreachable", "AgentSilent", "DiskRefused"] {
        ready("False", reason).of(&cluster.client).await.unwrap();
        gone.dry(&cluster.client).await.unwrap();
    }
}

/// X1, P3: the volume of a StorageClass ends with its PersistentVolumeClaim, and a user deletes nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn x1_p3_a_refusal_names_what_the_user_can_delete() {
    let cluster = cluster().await;
    let controller = cluster.server.client_as(CONTROLLER_USER, &["system:masters"]).await.unwrap();
    let binding = json!({"namespace": "team", "name": "data", "uid": "u", "mode": "ReadWrite"});
    let pod = json!({"namespace": "team", "name": "web", "uid": "p"});
    for (name, labels, end, in_use) in [
        (
            "made",
            json!({"reservoir.dev/pvc-uid": "u", "reservoir.dev/claim-namespace": "team"}),
            "delete PersistentVolumeClaim team/data, and the volume ends as the reclaim policy",
            "and PersistentVolumeClaim team/data is deleted",
        ),
        (
            "plain",
            json!({}),
            "delete the claim first, or set spec.deletionPolicy: Wait",
            "and the claim is deleted",
        ),
    ] {
        let mut made = volume(name, "eng");
        made["metadata"]["labels"] = labels;
        // For a namespace the controller has the namespace's rights (P5).
        grant(&cluster, "system:serviceaccount:team:default", &["create", "use"], &["eng"]).await;
        Ask::create(&made).of(&controller).await.unwrap();
        let status = |status: Value| {
            Ask::new("PATCH", MERGE, format!("{}/status", path(&made)), json!({"status": status}))
        };
        status(json!({"claims": [binding], "claimCount": 1})).of(&cluster.client).await.unwrap();
        let said = Ask::delete(&made).dry(&cluster.client).await.unwrap_err();
        assert!(said.contains("is bound to 1 claim: team/data; ") && said.contains(end), "{said}");
        // P4: the controller's own DELETE passes if only the PersistentVolumeClaim of the volume is listed, by its UID.
        let is_made = name == "made";
        for (uid, of_pvc, passes) in
            [("u", Some("u"), is_made), ("old", Some("u"), is_made), ("other", None, false)]
        {
            let mut listed = json!({"namespace": "team", "name": "data", "uid": uid, "mode": "ReadWrite"});
            of_pvc.into_iter().for_each(|of| listed["pvcUID"] = json!(of));
            status(json!({"claims": [listed]})).of(&cluster.client).await.unwrap();
            assert_eq!(Ask::delete(&made).dry(&controller).await.is_ok(), passes, "{name} {uid}");
        }
        status(json!({"claims": [binding]})).of(&cluster.client).await.unwrap();
        status(json!({"users": [pod], "userCount": 1})).of(&cluster.client).await.unwrap();
        let said = Ask::delete(&made).dry(&cluster.client).await.unwrap_err();
        assert!(said.contains(in_use), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r6_x7_a_holder_is_neither_deleted_nor_shrunk_below_use() {
    let cluster = cluster().await;
    let line = |name: &str| json!({"name": name, "uid": name, "role": "eng", "size": "50Mi"});
    let kept = reservation("kept", "eng");
    let role = object("VolumeRole", "eng", json!({"role": "eng", "quota": {"limit": "10Gi"}}));
    for object in [&kept, &role] {
        Ask::create(object).of(&cluster.client).await.unwrap();
    }
    let status = |object: &Value, status: Value| {
        Ask::new("PATCH", MERGE, format!("{}/status", path(object)), json!({"status": status}))
    };
    let size = |size: Value| Ask::patch(&kept, json!({"spec": {"size": size}}));

    let holds = json!({"volumes": [line("v1")], "refinements": [line("r1")], "used": "100Mi"});
    status(&kept, holds).of(&cluster.client).await.unwrap();
    for (shrunk, said) in
        [(json!("99Mi"), "99Mi"), (json!(104857599), "104857599"), (json!("0.09Gi"), "0.09Gi")]
    {
        let refused = size(shrunk).dry(&cluster.client).await.unwrap_err();
        let sentence = format!(
            "reservation kept cannot shrink to {said}: 100Mi of it are taken by v1, r1; delete what is not needed any more first"
        );
        assert!(refused.contains(&sentence), "{refused}");
    }
    let old = json!({"volumes": [line("v1"), line("old")], "used": "150Mi", "kept": "50Mi"});
    status(&kept, old).of(&cluster.client).await.unwrap();
    let refused = size(json!("99Mi")).dry(&cluster.client).await.unwrap_err();
    let sentence = "150Mi of it are taken, 50Mi of these by kept data, which gives way, and the rest by ";
    assert!(refused.contains(sentence), "{refused}");
    let holds = json!({"volumes": [line("v1")], "refinements": [line("r1")], "used": "100Mi", "kept": null});
    status(&kept, holds).of(&cluster.client).await.unwrap();
    for fits in [json!("100Mi"), json!(104857600), json!("2Gi"), json!(2147483648u64)] {
        size(fits).dry(&cluster.client).await.unwrap();
    }
    let refused = Ask::delete(&kept).dry(&cluster.client).await.unwrap_err();
    assert!(refused.contains("reservation kept holds 1 volume: v1; delete what is not needed"), "{refused}");
    status(&kept, json!({"volumes": null})).of(&cluster.client).await.unwrap();
    let refused = Ask::delete(&kept).dry(&cluster.client).await.unwrap_err();
    assert!(refused.contains("reservation kept holds 1 reservation: r1; delete them first"), "{refused}");
    status(&kept, json!({"refinements": null, "used": "0"})).of(&cluster.client).await.unwrap();
    Ask::delete(&kept).dry(&cluster.client).await.unwrap();

    status(&role, json!({"reservations": [line("r1"), line("r2")]})).of(&cluster.client).await.unwrap();
    let refused = Ask::delete(&role).dry(&cluster.client).await.unwrap_err();
    let sentence = "VolumeRole eng holds 2 reservations: r1, r2; delete them first, or end its quota, after which it can be deleted: kubectl \
         patch vrole eng --type=merge -p '{\"spec\":{\"quota\":null}}'";
    assert!(refused.contains(sentence), "{refused}");
    Ask::patch(&role, json!({"spec": {"quota": {"limit": null}}})).dry(&cluster.client).await.unwrap();
    status(&role, json!({"reservations": null})).of(&cluster.client).await.unwrap();
    Ask::delete(&role).dry(&cluster.client).await.unwrap();
}

/// The policy compares sizes before it checks rights. A number that takes minutes to write out is refused at once.
#[tokio::test(flavor = "multi_thread")]
async fn a1_an_enormous_size_is_refused_at_once() {
    let cluster = cluster().await;
    let nobody = person(&cluster, "nobody").await;
    let started = Instant::now();
    for size in ["1e30000000", "9E+30000000", "0.1e-30000000"] {
        let mut selecting = claim("eng", "ReadWrite");
        selecting["spec"] = json!({"role": "eng", "selector": {"minSize": size}});
        let sized = |mut object: Value| {
            object["spec"]["size"] = json!(size);
            object
        };
        let mut xfs = sized(volume("new", "eng"));
        xfs["spec"]["fsType"] = json!("xfs");
        for object in [selecting, sized(reservation("new", "eng")), xfs] {
            let said = Ask::create(&object).dry(&nobody).await.unwrap_err();
            assert!(said.contains("a size is a positive quantity below 8Ei"), "{said}");
        }
        let quota = json!({"role": "eng", "quota": {"limit": size, "guarantee": size}});
        let said = Ask::create(&object("VolumeRole", "eng", quota)).dry(&cluster.client).await.unwrap_err();
        assert!(said.contains("a size is a positive quantity below 8Ei"), "{said}");
        assert!(started.elapsed() < Duration::from_secs(5), "{size} took {:?}", started.elapsed());
    }
}

/// X1, R6: every object has its finalizer from its creation on, also before the controller sees it. Applying a
/// manifest without the finalizer does not remove it.
#[tokio::test(flavor = "multi_thread")]
async fn x1_r6_each_object_has_its_finalizer_from_the_start() {
    if !admission_writes() {
        return eprintln!("this release has no MutatingAdmissionPolicy: the controller adds the finalizer");
    }
    let cluster = cluster().await;
    cluster.apply_text("{apiVersion: v1, kind: Namespace, metadata: {name: team}}").await;
    let guards = |object: Value| object["metadata"]["finalizers"].clone();
    let kinds = [reservation("eng", "eng"), volume("data", "eng"), claim("eng", "ReadWrite")];
    until("the policy is in force", || async {
        let answer = Ask::create(&kinds[0]).dry(&cluster.client).await.unwrap();
        (!guards(answer).is_null()).then_some(())
    })
    .await;
    for object in kinds {
        let mut with_another = object.clone();
        with_another["metadata"]["finalizers"] = json!(["test/kept"]);
        let answer = Ask::create(&with_another).dry(&cluster.client).await.unwrap();
        assert_eq!(guards(answer), json!(["test/kept", FINALIZER]));
        with_another["metadata"]["finalizers"] = json!([FINALIZER]);
        let answer = Ask::create(&with_another).dry(&cluster.client).await.unwrap();
        assert_eq!(guards(answer), json!([FINALIZER]));
        // Server-side apply, twice, and then the request of kubectl's own apply.
        for _ in 0..2 {
            let answer = Ask::apply(&object).of(&cluster.client).await.unwrap();
            assert_eq!(guards(answer), json!([FINALIZER]));
        }
        let last =
            json!({"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}}});
        let answer = Ask::patch(&object, last).of(&cluster.client).await.unwrap();
        assert_eq!(guards(answer), json!([FINALIZER]));
    }
}

/// A8: an object has room for its status. The policy is reservoir-bounds.
#[tokio::test(flavor = "multi_thread")]
async fn a8_labels_and_annotations_are_bounded_and_may_shrink() {
    let cluster = cluster().await;
    let labels = |n: usize| {
        let labels = (0..n).map(|i| (format!("l{i}"), json!("x")));
        json!({"metadata": {"labels": Value::Object(labels.collect())}})
    };
    let annotated = |bytes: usize| json!({"metadata": {"annotations": {"a": "x".repeat(bytes - 1)}}});
    let with = |patch: &Value| {
        let mut object = volume("new", "eng");
        object["metadata"].as_object_mut().unwrap().extend(patch["metadata"].as_object().unwrap().clone());
        object
    };
    let too_many = "sharedpersistentvolumes/new has too many labels: 129, at most 128; leave some out";
    let too_large = "sharedpersistentvolumes/new has 16385 bytes of labels, annotations and ownerReferences, and \
                     16384 at most are stored";
    let last_and_first =
        [(labels(128), labels(129), too_many), (annotated(16384), annotated(16385), too_large)];
    for (last, first, sentence) in &last_and_first {
        Ask::create(&with(last)).dry(&cluster.client).await.unwrap();
        let said = Ask::create(&with(first)).dry(&cluster.client).await.unwrap_err();
        assert!(said.contains(sentence), "{said}");
    }
    let few = |field: &str, n: usize| {
        let each = |i: usize| match field {
            "finalizers" => json!(format!("test/{i}")),
            _ => json!({"apiVersion": "v1", "kind": "Node", "name": "n", "uid": format!("u{i}")}),
        };
        let values = match field {
            "annotations" => Value::Object((0..n).map(|i| (format!("a{i}"), json!("x"))).collect()),
            _ => (0..n).map(each).collect(),
        };
        json!({"metadata": { field: values }})
    };
    // Reservoir's own finalizer is one of the 16.
    for (field, most, given) in
        [("annotations", 128, 128), ("finalizers", 16, 15), ("ownerReferences", 16, 16)]
    {
        Ask::create(&with(&few(field, given))).dry(&cluster.client).await.unwrap();
        let said = Ask::create(&with(&few(field, given + 1))).dry(&cluster.client).await.unwrap_err();
        assert!(said.contains(&format!("has too many {field}: {}, at most {most}", most + 1)), "{said}");
    }
    let mut owned = few("ownerReferences", 16);
    owned["metadata"]["ownerReferences"][0]["name"] = json!("n".repeat(16 << 10));
    let said = Ask::create(&with(&owned)).dry(&cluster.client).await.unwrap_err();
    assert!(said.contains("bytes of labels, annotations and ownerReferences"), "{said}");
    let object = volume("new", "eng");
    Ask::create(&object).of(&cluster.client).await.unwrap();
    for (_, first, sentence) in &last_and_first {
        let said = Ask::patch(&object, first.clone()).dry(&cluster.client).await.unwrap_err();
        assert!(said.contains(sentence), "{said}");
    }

    // One that is too large already: the controller is not bound.
    let controller = cluster.server.client_as(CONTROLLER_USER, &["system:masters"]).await.unwrap();
    Ask::patch(&object, few("annotations", 140)).of(&controller).await.unwrap();
    let fewer = json!({"metadata": {"annotations": {"a0": null}}});
    Ask::patch(&object, fewer).dry(&cluster.client).await.unwrap();
    let said = Ask::patch(&object, few("annotations", 141)).dry(&cluster.client).await.unwrap_err();
    assert!(said.contains("has too many annotations: 141"), "{said}");
    Ask::patch(&object, json!({"metadata": {"annotations": null}})).of(&controller).await.unwrap();
    let large = annotated(20000);
    Ask::patch(&object, large).of(&controller).await.unwrap();
    Ask::patch(&object, annotated(19000)).dry(&cluster.client).await.unwrap();
    Ask::patch(&object, annotated(20000)).dry(&cluster.client).await.unwrap();
    let said = Ask::patch(&object, annotated(20001)).dry(&cluster.client).await.unwrap_err();
    assert!(said.contains("has 20001 bytes"), "{said}");
    Ask::patch(&object, labels(1)).dry(&cluster.client).await.unwrap_err();

    // Each field manager has an entry in the object.
    let mut many = volume("many", "eng");
    many["spec"]["principal"] = json!("admin");
    let applied = async |i: usize| {
        let object = json!({"apiVersion": many["apiVersion"], "kind": many["kind"], "spec": many["spec"],
            "metadata": {"name": "many", "annotations": {format!("m{i}"): "x"}}});
        let request = http::Request::patch(format!(
            "/apis/reservoir.dev/v1alpha1/{}?fieldManager=m{i}&force=true",
            path(&many)
        ));
        let request = request.header("Content-Type", "application/apply-patch+yaml");
        let request = request.body(object.to_string().into_bytes()).unwrap();
        cluster.client.request::<Value>(request).await.map(drop).map_err(|error| error.to_string())
    };
    let mut managers = 0;
    let said = loop {
        match applied(managers).await {
            Ok(()) => managers += 1,
            Err(said) => break said,
        }
        assert!(managers < 30, "any number of field managers");
    };
    assert!(said.contains("has too many managedFields: 25, at most 24"), "{said}");
}
