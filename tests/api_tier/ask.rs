//! Requests to the API server with the rights of a given user, for tests of authorisation.

use kube::Client;
use serde_json::{Value, json};

use crate::support::{Cluster, admission_writes, guard, sign, until};

pub const SERVER_SIDE: &str = "application/apply-patch+yaml";
pub const MERGE: &str = "application/merge-patch+json";
pub const JSON_PATCH: &str = "application/json-patch+json";

/// A request of a caller to the API server.
#[derive(Clone)]
pub struct Ask {
    pub method: &'static str,
    pub content: &'static str,
    pub path: String,
    pub body: Value,
}

impl Ask {
    pub fn new(method: &'static str, content: &'static str, path: impl Into<String>, body: Value) -> Self {
        Self { method, content, path: path.into(), body }
    }

    pub fn create(object: &Value) -> Self {
        Self::new("POST", "application/json", collection(object), object.clone())
    }

    pub fn apply(object: &Value) -> Self {
        Self::new("PATCH", SERVER_SIDE, path(object), object.clone())
    }

    pub fn delete(object: &Value) -> Self {
        Self::new("DELETE", "application/json", path(object), Value::Null)
    }

    pub fn patch(object: &Value, body: Value) -> Self {
        Self::new("PATCH", MERGE, path(object), body)
    }

    /// The API server's answer: the object, or the message of the refusal.
    pub async fn of(&self, client: &Client) -> Result<Value, String> {
        self.send(client, "").await
    }

    /// The same as a dry run.
    pub async fn dry(&self, client: &Client) -> Result<Value, String> {
        self.send(client, "&dryRun=All").await
    }

    /// The body with what admission does not write on the release of the tests: the principal, and in a new object the
    /// finalizer, since no controller runs to add it.
    async fn completed_body(&self, client: &Client) -> Value {
        let mut body = self.body.clone();
        let there = match (self.method, self.content) {
            _ if admission_writes() => return body,
            ("POST", _) => {
                guard(&mut body);
                None
            }
            (_, SERVER_SIDE) => {
                let get = http::Request::get(format!("/apis/reservoir.dev/v1alpha1/{}", self.path));
                client.request::<Value>(get.body(vec![]).unwrap()).await.ok()
            }
            _ => return body,
        };
        sign(client, &mut body, there.as_ref()).await;
        body
    }

    async fn send(&self, client: &Client, query: &str) -> Result<Value, String> {
        let body = self.completed_body(client).await;
        let manager = if self.method == "DELETE" { "" } else { "&fieldManager=test" };
        let force = if self.content == SERVER_SIDE { "&force=true" } else { "" };
        let request = http::Request::builder()
            .method(self.method)
            .uri(format!("/apis/reservoir.dev/v1alpha1/{}?{manager}{force}{query}", self.path))
            .header("Content-Type", self.content)
            // A DELETE has an empty body here: options in the body would hide the options of the query.
            .body(if self.method == "DELETE" { vec![] } else { body.to_string().into_bytes() })
            .unwrap();
        client.request::<Value>(request).await.map_err(|e| match e {
            kube::Error::Api(status) => status.message,
            other => other.to_string(),
        })
    }
}

pub fn collection(object: &Value) -> String {
    let kind = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("namespaces/{namespace}/{kind}"),
        None => kind,
    }
}

pub fn path(object: &Value) -> String {
    format!("{}/{}", collection(object), object["metadata"]["name"].as_str().unwrap())
}

pub fn object(kind: &str, name: &str, spec: Value) -> Value {
    let namespace = ["VolumeClaim", "RoleSubscription"].contains(&kind).then_some("team");
    json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": kind,
        "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

pub fn reservation(name: &str, role: &str) -> Value {
    object("DiskReservation", name, json!({"role": role, "size": "1Gi"}))
}

pub fn volume(name: &str, role: &str) -> Value {
    object("SharedPersistentVolume", name, json!({"role": role, "size": "64Mi"}))
}

pub fn claim(role: &str, mode: &str) -> Value {
    object("VolumeClaim", "claim", json!({"role": role, "volume": "any", "mode": mode}))
}

pub fn subscription(name: &str, roles: &[&str]) -> Value {
    object("RoleSubscription", name, json!({"roles": roles}))
}

pub fn retiring(mut volume: Value) -> Value {
    volume["spec"]["retire"] = json!(true);
    volume
}

/// A cluster with namespace `team`, the chart's ClusterRoles, and group `people`. By RBAC the group may write every
/// kind of Reservoir. No controller runs.
pub async fn cluster() -> Cluster {
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

pub async fn bind(cluster: &Cluster, role: &str, kind: &str, subject: &str) {
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": format!("{role}-{subject}")},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": subject}]});
    cluster.apply_text(&binding.to_string()).await;
}

/// Gives `user` verbs on roles, as an operator does. Returns once the API server uses the grant.
pub async fn grant(cluster: &Cluster, user: &str, verbs: &[&str], roles: &[&str]) {
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

pub async fn person(cluster: &Cluster, user: &str) -> Client {
    cluster.server.client_as(user, &["people"]).await.unwrap()
}

pub fn lacks(user: &str, verb: &str, role: &str) -> String {
    format!(
        "user {user} lacks the verb {verb} on volumeroles.reservoir.dev/{role} (or an ancestor); have an administrator \
         run: kubectl reservoir grant {role} --verbs {verb} --to user {user}"
    )
}
