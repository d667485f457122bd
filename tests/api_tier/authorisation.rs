//! Who may do what, by the API server's own word for the caller: verbs on roles, principals, static reservations, and
//! the guards of what holds data.

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use kube::core::DynamicObject;
use kube::{Client, ResourceExt};
use reservoir::api::DiskReservation;
use serde_json::{Value, json};

use crate::support::{AGENT_USER, Cluster, until};

const SERVER_SIDE: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";

/// What a caller asks of the API server.
#[derive(Clone)]
struct Ask {
    method: &'static str,
    content: &'static str,
    path: String,
    body: Value,
}

impl Ask {
    fn new(method: &'static str, content: &'static str, path: impl Into<String>, body: Value) -> Self {
        Self { method, content, path: path.into(), body }
    }

    fn create(object: &Value) -> Self {
        Self::new("POST", "application/json", collection(object), object.clone())
    }

    fn apply(object: &Value) -> Self {
        Self::new("PATCH", SERVER_SIDE, path(object), object.clone())
    }

    fn delete(object: &Value) -> Self {
        Self::new("DELETE", "application/json", path(object), Value::Null)
    }

    fn patch(object: &Value, body: Value) -> Self {
        Self::new("PATCH", MERGE, path(object), body)
    }

    /// The API server's answer: the object, or what it says.
    async fn of(&self, client: &Client) -> Result<Value, String> {
        self.send(client, "").await
    }

    /// The same, and nothing is done.
    async fn dry(&self, client: &Client) -> Result<Value, String> {
        self.send(client, "&dryRun=All").await
    }

    async fn send(&self, client: &Client, query: &str) -> Result<Value, String> {
        let manager = if self.method == "DELETE" { "" } else { "&fieldManager=test" };
        let force = if self.content == SERVER_SIDE { "&force=true" } else { "" };
        let request = http::Request::builder()
            .method(self.method)
            .uri(format!("/apis/reservoir.dev/v1alpha1/{}?{manager}{force}{query}", self.path))
            .header("Content-Type", self.content)
            // Options in the body of a DELETE would hide those of the query.
            .body(if self.method == "DELETE" { vec![] } else { self.body.to_string().into_bytes() })
            .unwrap();
        client.request::<Value>(request).await.map_err(|e| match e {
            kube::Error::Api(status) => status.message,
            other => other.to_string(),
        })
    }
}

fn collection(object: &Value) -> String {
    let kind = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("namespaces/{namespace}/{kind}"),
        None => kind,
    }
}

fn path(object: &Value) -> String {
    format!("{}/{}", collection(object), object["metadata"]["name"].as_str().unwrap())
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    let namespace = ["VolumeClaim", "RoleSubscription"].contains(&kind).then_some("team");
    json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": kind,
        "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

fn reservation(name: &str, role: &str) -> Value {
    object("DiskReservation", name, json!({"role": role, "size": "1Gi"}))
}

fn volume(name: &str, role: &str) -> Value {
    object("SharedPersistentVolume", name, json!({"role": role, "size": "64Mi"}))
}

fn claim(role: &str, mode: &str) -> Value {
    object("VolumeClaim", "claim", json!({"role": role, "volume": "any", "mode": mode}))
}

fn subscription(name: &str, roles: &[&str]) -> Value {
    object("RoleSubscription", name, json!({"roles": roles}))
}

fn retiring(mut volume: Value) -> Value {
    volume["spec"]["retire"] = json!(true);
    volume
}

/// A cluster with namespace `team`, the chart's ClusterRoles, and group `people`, who may write every kind of ours as far
/// as RBAC on the kinds goes. No controller.
async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.kill_controller().await;
    let roles =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/reservoir/files/clusterroles.yaml");
    cluster.apply_text(&std::fs::read_to_string(roles).unwrap()).await;
    cluster.apply_text("{apiVersion: v1, kind: Namespace, metadata: {name: team}}").await;
    for role in ["reservoir-role-user", "reservoir-role-operator"] {
        bind(&cluster, role, "Group", "people").await;
    }
    cluster
}

async fn bind(cluster: &Cluster, role: &str, kind: &str, subject: &str) {
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": format!("{role}-{subject}")},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": subject}]});
    cluster.apply_text(&binding.to_string()).await;
}

/// Gives `user` verbs on roles, as an operator does; returns once the API server knows.
async fn grant(cluster: &Cluster, user: &str, verbs: &[&str], roles: &[&str]) {
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": format!("grant-{user}")},
        "rules": [{"apiGroups": ["reservoir.dev"], "resources": ["volumeroles"], "resourceNames": roles, "verbs": verbs}]});
    cluster.apply_text(&role.to_string()).await;
    bind(cluster, &format!("grant-{user}"), "User", user).await;
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {},
        "spec": {"user": user, "resourceAttributes": {"group": "reservoir.dev", "resource": "volumeroles",
            "name": roles[0], "verb": verbs[0]}}});
    until(&format!("the grant of {user} is in force"), || async {
        let request = http::Request::post("/apis/authorization.k8s.io/v1/subjectaccessreviews")
            .header("Content-Type", "application/json")
            .body(review.to_string().into_bytes())
            .unwrap();
        let answer: Value = cluster.client.request(request).await.unwrap();
        (answer["status"]["allowed"] == true).then_some(())
    })
    .await;
}

async fn person(cluster: &Cluster, user: &str) -> Client {
    cluster.server.client_as(user, &["people"]).await.unwrap()
}

fn lacks(user: &str, verb: &str, role: &str) -> String {
    format!(
        "user {user} lacks the verb {verb} on volumeroles.reservoir.dev/{role} (or an ancestor); ask for a ClusterRole \
         with it, see examples/11-grants.yaml"
    )
}

const VERBS: [&str; 8] =
    ["reserve", "unreserve", "create", "destroy", "resize", "subscribe", "use", "use-readonly"];

#[tokio::test(flavor = "multi_thread")]
async fn a1_a5_a_verb_on_the_role_or_an_ancestor_decides_and_a_refusal_names_both() {
    let cluster = cluster().await;
    let ml = "eng/ml";
    let (kept, solo, going) = (reservation("kept", ml), volume("solo", ml), retiring(volume("going", ml)));
    let subscribed = subscription("subscribed", &["ops"]);
    for object in [&kept, &solo, &going, &subscribed] {
        Ask::create(object).of(&cluster.client).await.unwrap();
    }
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
        ("resize", Ask::patch(&kept, json!({"spec": {"size": "2Gi"}}))),
        ("resize", Ask::patch(&kept, json!({"spec": {"size": 104857600}}))),
        ("resize", Ask::patch(&solo, json!({"spec": {"size": "128Mi"}}))),
        ("subscribe", Ask::create(&subscription("new", &[ml]))),
        ("subscribe", Ask::patch(&subscribed, json!({"spec": {"roles": ["ops", ml]}}))),
        ("use", Ask::create(&claim(ml, "ReadWrite"))),
        ("use-readonly", Ask::create(&claim(ml, "ReadOnly"))),
    ];

    // Who has what for each verb, and whether that is enough for eng/ml.
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

    // A2: read-only alone makes ReadOnly claims only; `use` makes both.
    for role in ["exact", "ancestor"] {
        let reader = person(&cluster, &format!("use-readonly-{role}")).await;
        let said = Ask::create(&claim(ml, "ReadWrite")).dry(&reader).await.unwrap_err();
        let only =
            "has only the verb use-readonly on volumeroles.reservoir.dev/eng/ml: make the claim ReadOnly";
        assert!(said.contains(only), "{said}");
        let writer = person(&cluster, &format!("use-{role}")).await;
        Ask::create(&claim(ml, "ReadOnly")).dry(&writer).await.unwrap();
    }

    // What no verb speaks for needs none: the same size written otherwise, labels, a shorter list, a claim that goes.
    let nobody = person(&cluster, "nobody").await;
    Ask::create(&claim(ml, "ReadWrite")).of(&cluster.client).await.unwrap();
    for ask in [
        Ask::patch(&kept, json!({"spec": {"size": "1024Mi"}, "metadata": {"labels": {"a": "b"}}})),
        Ask::patch(&solo, json!({"spec": {"size": 67108864}, "metadata": {"finalizers": ["test/kept"]}})),
        Ask::patch(&subscribed, json!({"spec": {"roles": ["ops"], "capabilities": ["SHARED_RESOURCES"]}})),
        Ask::delete(&subscribed),
        Ask::delete(&claim(ml, "ReadWrite")),
    ] {
        ask.dry(&nobody).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a5_each_missing_role_is_named_and_the_deepest_and_longest_requests_are_decided() {
    let cluster = cluster().await;
    grant(&cluster, "jane", &["subscribe", "resize", "destroy", "use"], &["a"]).await;
    grant(&cluster, "joe", &["resize"], &["a"]).await;
    let (jane, joe) = (person(&cluster, "jane").await, person(&cluster, "joe").await);

    let deep = "a/b/c/d/e/f/g/h";
    let old = volume("old", deep);
    Ask::create(&old).of(&cluster.client).await.unwrap();
    let both = Ask::patch(&old, json!({"spec": {"size": "128Mi", "retire": true}}));
    both.dry(&jane).await.unwrap();
    assert!(both.dry(&joe).await.unwrap_err().contains(&lacks("joe", "destroy", deep)));
    Ask::create(&claim(deep, "ReadWrite")).dry(&jane).await.unwrap();
    Ask::create(&claim(deep, "ReadOnly")).dry(&jane).await.unwrap();

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
    // What is there already is not asked for again.
    Ask::patch(&subscription("eight", &[]), json!({"spec": {"roles": nine}})).dry(&jane).await.unwrap();

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
async fn a1_the_charts_cluster_roles_and_the_example_of_grants() {
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

    // Kubernetes' own roles got what is ours, a moment after the chart was there.
    let (vera, ed, adam, boss) =
        (client("vera").await, client("ed").await, client("adam").await, client("boss").await);
    for kind in ["volumeclaims", "rolesubscriptions", "volumeoffers"] {
        until("what is aggregated is there", || async {
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
    // A3: what an administrator of a namespace may write, the role's verbs still decide, and cluster kinds he may not.
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
    assert!(said.contains("user rita has only the verb use-readonly"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_a3_the_principal_is_the_api_servers_word_and_cannot_be_forged() {
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
        // CREATE, with and without.
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
        // Every way to change it leaves it as it is, whoever tries.
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
                    // Who comes with an old version is refused, and nothing is done.
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
        // kubectl's own patch of a manifest that never had one.
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

    // Without the policy that writes it nobody gets in; what has none never gets one.
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
    let policies = std::fs::read_to_string(policies).unwrap().replace("AGENT_USER", AGENT_USER);
    cluster.apply_text(&policies).await;
    until("principals are written again", || async {
        Ask::create(&reservation("again", "eng")).dry(&jane).await.ok().and_then(principal)
    })
    .await;
    let answer = Ask::patch(&old, json!({"spec": {"principal": "jane"}})).of(&jane).await.unwrap();
    assert_eq!(principal(answer), None);
}

/// A client with a token that the API server itself made for the agent of `node`.
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

#[tokio::test(flavor = "multi_thread")]
async fn r2_a4_static_reservations_are_their_own_agents_alone_and_gone_is_an_administrators_word() {
    let cluster = cluster().await;
    cluster
        .apply_text(
            "{apiVersion: v1, kind: Namespace, metadata: {name: reservoir-system}}\n---\n\
             {apiVersion: v1, kind: ServiceAccount, metadata: {name: reservoir-agent, namespace: reservoir-system}}",
        )
        .await;
    // The chart's own RBAC, less what Helm puts in.
    let rbac = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/reservoir/templates/rbac.yaml");
    let rbac = std::fs::read_to_string(rbac).unwrap().replace("{{ .Release.Namespace }}", "reservoir-system");
    let rbac: Vec<&str> = rbac.lines().filter(|line| !line.contains("{{")).collect();
    cluster.apply_text(&rbac.join("\n")).await;
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
        (Ask::create(&reservation("new", "eng")), "may not write new, which is not static"),
    ] {
        let said = ask.dry(&one).await.unwrap_err();
        assert!(said.contains(sentence), "{said}");
    }
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

    // D4: the agent cannot say that a disk is gone, nor may just anybody; what it says afterwards leaves that alone.
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
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "DiskGone",
        "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let status = Ask::new("PATCH", MERGE, format!("{}/status", path(&kept)), status);
    status.of(&cluster.client).await.unwrap();
    Ask::delete(&kept).dry(&cluster.client).await.unwrap();
    assert!(grow.dry(&cluster.client).await.unwrap_err().contains("is static"));
    Ask::delete(&kept).of(&one).await.unwrap();
    assert!(cluster.all::<DiskReservation>().get_opt("kept").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn r6_x7_what_holds_something_is_neither_deleted_nor_shrunk_below_it() {
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
    let sentence =
        "VolumeRole eng holds 2 reservations: r1, r2; delete them first, or change its quota instead";
    assert!(refused.contains(sentence), "{refused}");
    Ask::patch(&role, json!({"spec": {"quota": {"limit": null}}})).dry(&cluster.client).await.unwrap();
    status(&role, json!({"reservations": null})).of(&cluster.client).await.unwrap();
    Ask::delete(&role).dry(&cluster.client).await.unwrap();
}
