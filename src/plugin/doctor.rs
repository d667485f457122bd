//! What is wrong with the installation, and what the caller may not do.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::storage::v1::CSIDriver;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::paint::Paint;
use super::world::{World, explain};
use crate::api::{self, DRIVER, GROUP};
use crate::plan::{names, quota};

/// The admission policies of the chart, each with a binding of its name.
const POLICIES: &[(&str, &str)] = &[
    ("Validating", "reservoir-volume-in-use"),
    ("Validating", "reservoir-holds-data"),
    ("Validating", "reservoir-shrink"),
    ("Validating", "reservoir-kinds"),
    ("Validating", "reservoir-agent-own-node"),
    ("Validating", "reservoir-agent-takes-over"),
    ("Validating", "reservoir-static"),
    ("Validating", "reservoir-role-verbs"),
    ("Validating", "reservoir-principal"),
    ("Validating", "reservoir-made-for-pvc"),
    ("Validating", "reservoir-storage-class"),
    ("Mutating", "reservoir-principal"),
    ("Mutating", "reservoir-guard"),
    ("Mutating", "reservoir-read-only-claims"),
];

/// The verbs on a role (A1).
const VERBS: &[&str] =
    &["reserve", "unreserve", "create", "destroy", "resize", "recover", "subscribe", "use", "use-readonly"];

/// Of how many roles the caller's verbs are asked for.
const ROLES: usize = 16;

/// What was seen; `None`: the caller may not look.
#[derive(Default)]
pub(super) struct Facts {
    pub server: (String, String),
    pub crds: Option<Vec<CustomResourceDefinition>>,
    pub controllers: Option<Vec<Deployment>>,
    pub agents: Option<Vec<DaemonSet>>,
    pub agent_pods: Option<Vec<Pod>>,
    pub nodes: Option<Vec<Node>>,
    /// `ValidatingAdmissionPolicy` and so on, with the names that there are.
    pub policies: BTreeMap<&'static str, Option<BTreeSet<String>>>,
    pub drivers: Option<Vec<CSIDriver>>,
    /// Verbs that the caller has on roles.
    pub grants: Vec<(String, Vec<&'static str>)>,
    pub world: World,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) enum Level {
    Good,
    Note,
    Problem,
}

/// Something that was looked at.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Finding {
    pub level: Level,
    pub what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

const KINDS_OF_POLICIES: [&str; 4] = [
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
];

/// What the caller may not list is left out.
async fn listed<K>(api: Api<K>, labels: &str) -> anyhow::Result<Option<Vec<K>>>
where
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    match api.list(&ListParams::default().labels(labels)).await {
        Ok(list) => Ok(Some(list.items)),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
        Err(error) => Err(explain(&error)),
    }
}

impl Facts {
    /// Looks at everything.
    pub async fn gather(client: &Client, home: &str) -> anyhow::Result<Self> {
        let version = client.apiserver_version().await.map_err(|error| explain(&error))?;
        let mut facts = Self { server: (version.major, version.minor), ..Self::default() };
        let labels = |component: &str| {
            format!("app.kubernetes.io/name=reservoir,app.kubernetes.io/component={component}")
        };
        facts.crds = listed(Api::all(client.clone()), "").await?;
        facts.controllers = listed(Api::all(client.clone()), &labels("controller")).await?;
        facts.agents = listed(Api::all(client.clone()), &labels("agent")).await?;
        facts.agent_pods = listed(Api::all(client.clone()), &labels("agent")).await?;
        facts.nodes = listed(Api::all(client.clone()), "").await?;
        facts.drivers = listed(Api::all(client.clone()), "").await?;
        for kind in KINDS_OF_POLICIES {
            let plural = if kind.ends_with('y') {
                kind.to_lowercase().replace("policy", "policies")
            } else {
                format!("{}s", kind.to_lowercase())
            };
            let gvk = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind);
            let api: Api<DynamicObject> =
                Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&gvk, &plural));
            let found = listed(api, "").await?;
            facts.policies.insert(kind, found.map(|all| all.iter().map(ResourceExt::name_any).collect()));
        }
        // Without the kinds there is nothing else to look at, and the findings say so.
        let ours = facts.crds.as_ref().is_none_or(|crds| crds.iter().any(|crd| crd.spec.group == GROUP));
        if ours {
            facts.world = World::read(client, None, home).await?;
        }
        let roles: BTreeSet<&str> = facts.world.items().into_iter().filter_map(|item| item.role).collect();
        for role in roles.into_iter().map(str::to_owned).take(ROLES).collect::<Vec<_>>() {
            let mut has = Vec::new();
            for verb in VERBS {
                if may(client, &role, verb).await? {
                    has.push(*verb);
                }
            }
            facts.grants.push((role, has));
        }
        Ok(facts)
    }
}

/// Whether the caller has the verb on the role or on one above it (A1).
async fn may(client: &Client, role: &str, verb: &str) -> anyhow::Result<bool> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    for of in quota::lineage(role) {
        let attributes = ResourceAttributes {
            group: Some(GROUP.into()),
            resource: Some("volumeroles".into()),
            name: Some(of.into()),
            verb: Some(verb.into()),
            ..Default::default()
        };
        let spec =
            SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..Default::default() };
        let answer =
            reviews.create(&PostParams::default(), &review).await.map_err(|error| explain(&error))?;
        if answer.status.is_some_and(|status| status.allowed) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is to be said of it, by what it is about.
pub(super) fn findings(facts: &Facts, version: &str) -> Vec<Finding> {
    let mut found = Findings(vec![]);
    found.server(&facts.server);
    found.crds(facts.crds.as_deref());
    found.workloads(facts, version);
    found.nodes(facts);
    found.policies(facts);
    found.disks(&facts.world);
    found.rights(facts);
    found.0
}

struct Findings(Vec<Finding>);

impl Findings {
    fn good(&mut self, what: impl Into<String>) {
        self.0.push(Finding { level: Level::Good, what: what.into(), next: None });
    }

    fn note(&mut self, what: impl Into<String>, next: impl Into<String>) {
        self.0.push(Finding { level: Level::Note, what: what.into(), next: Some(next.into()) });
    }

    fn problem(&mut self, what: impl Into<String>, next: impl Into<String>) {
        self.0.push(Finding { level: Level::Problem, what: what.into(), next: Some(next.into()) });
    }

    fn unseen(&mut self, what: &str) {
        self.note(format!("you may not list {what}"), "ask an administrator to run this");
    }

    fn server(&mut self, (major, minor): &(String, String)) {
        let number = |text: &str| text.trim_end_matches('+').parse::<u32>().unwrap_or(0);
        match (number(major), number(minor)) >= (1, 36) {
            true => self.good(format!("Kubernetes is {major}.{minor}")),
            false => self.problem(
                format!("Kubernetes is {major}.{minor}, and admission needs 1.36"),
                "upgrade the cluster: without it nobody's rights on roles are asked for",
            ),
        }
    }

    fn crds(&mut self, there: Option<&[CustomResourceDefinition]>) {
        let Some(there) = there else { return self.unseen("customresourcedefinitions") };
        let before = self.0.len();
        for ours in api::crds() {
            let plural = &ours.spec.names.plural;
            let apply = "kubectl apply --server-side -f crds/   # of the release that is installed";
            let Some(theirs) = there.iter().find(|crd| crd.name_any() == ours.name_any()) else {
                self.problem(format!("the kind {} is not there", ours.spec.names.kind), apply);
                continue;
            };
            let (ours, theirs) = (fields(&ours), fields(theirs));
            let missing: Vec<_> = ours.difference(&theirs).collect();
            let more: Vec<_> = theirs.difference(&ours).collect();
            if !missing.is_empty() {
                let said = format!(
                    "{plural} have no {}: they are older than this plug-in",
                    names(&missing, missing.len())
                );
                self.problem(said, apply);
            }
            if !more.is_empty() {
                let said =
                    format!("{plural} have {}, which this plug-in does not know", names(&more, more.len()));
                self.note(said, "install the plug-in of the release that is installed");
            }
        }
        if self.0.len() == before {
            self.good("all kinds are there, with the fields that this plug-in knows");
        }
    }

    fn workloads(&mut self, facts: &Facts, version: &str) {
        let install = "helm upgrade --install reservoir charts/reservoir --namespace reservoir-system --create-namespace";
        let logs = |what: &str, namespace: &str| {
            format!("kubectl -n {namespace} describe {what}; kubectl -n {namespace} logs {what}")
        };
        match facts.controllers.as_deref() {
            None => self.unseen("deployments"),
            Some([]) => self.problem("there is no controller", install),
            Some(all) => {
                for controller in all {
                    let status = controller.status.clone().unwrap_or_default();
                    let (ready, of) = (status.ready_replicas.unwrap_or(0), status.replicas.unwrap_or(0));
                    let namespace = controller.namespace().unwrap_or_default();
                    let name = format!("deployment/{}", controller.name_any());
                    self.ready(
                        &format!("controllers ({namespace}/{})", controller.name_any()),
                        ready,
                        of,
                        || logs(&name, &namespace),
                    );
                    self.version(controller, version);
                }
            }
        }
        match facts.agents.as_deref() {
            None => self.unseen("daemonsets"),
            Some([]) => self.problem("there is no agent", install),
            Some(all) => {
                for agents in all {
                    let status = agents.status.clone().unwrap_or_default();
                    let namespace = agents.namespace().unwrap_or_default();
                    let name = format!("daemonset/{}", agents.name_any());
                    let (ready, of) = (status.number_ready, status.desired_number_scheduled);
                    self.ready(&format!("agents ({namespace}/{})", agents.name_any()), ready, of, || {
                        logs(&name, &namespace)
                    });
                    self.version(agents, version);
                }
            }
        }
        match facts.drivers.as_deref() {
            None => self.unseen("csidrivers"),
            Some(all) if all.iter().any(|driver| driver.name_any() == DRIVER) => {}
            Some(_) => self.problem(format!("there is no CSIDriver {DRIVER}: pods cannot mount"), install),
        }
    }

    fn ready(&mut self, what: &str, ready: i32, of: i32, next: impl Fn() -> String) {
        match ready == of && of > 0 {
            true => self.good(format!("{ready} of {of} {what} are ready")),
            false => self.problem(format!("{ready} of {of} {what} are ready"), next()),
        }
    }

    fn version(&mut self, object: &impl Resource, version: &str) {
        let theirs = object.labels().get("app.kubernetes.io/version").map_or("unknown", String::as_str);
        if theirs != version {
            let name = object.name_any();
            self.note(
                format!("{name} is version {theirs}, this plug-in {version}"),
                "install the plug-in of that version, or upgrade the chart",
            );
        }
    }

    fn nodes(&mut self, facts: &Facts) {
        let (Some(nodes), Some(pods)) = (&facts.nodes, &facts.agent_pods) else {
            return self.unseen("nodes and pods of all namespaces");
        };
        let on = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let with: BTreeSet<String> = pods.iter().filter_map(on).collect();
        let without: Vec<String> =
            nodes.iter().map(ResourceExt::name_any).filter(|n| !with.contains(n)).collect();
        if !without.is_empty() && facts.agents.as_ref().is_some_and(|agents| !agents.is_empty()) {
            self.note(
                format!("no agent is on node {}", names(&without, without.len())),
                "if there are to be volumes: look at agent.nodeSelector and agent.tolerations of the chart",
            );
        }
    }

    fn policies(&mut self, facts: &Facts) {
        let mut missing = Vec::new();
        for (prefix, name) in POLICIES {
            for half in ["Policy", "PolicyBinding"] {
                let kind = format!("{prefix}Admission{half}");
                match facts.policies.get(kind.as_str()) {
                    Some(Some(there)) if there.contains(*name) => {}
                    Some(Some(_)) => missing.push(format!("{kind} {name}")),
                    _ => return self.unseen("admission policies"),
                }
            }
        }
        match missing.is_empty() {
            true => self.good("all admission policies are there, and bound"),
            false => self.problem(
                format!(
                    "admission lacks {}: what they refuse is not refused",
                    names(&missing, missing.len())
                ),
                "helm upgrade with the chart's values restores them",
            ),
        }
    }

    fn disks(&mut self, world: &World) {
        for item in world.items().iter().filter(|item| item.kind == &super::item::DISK) {
            match item.ready() {
                Some(ready) if ready.status == "True" => {}
                Some(ready) => self.problem(
                    format!("{} is {}: {}", item.title(), ready.reason, ready.message),
                    format!("kubectl reservoir why {}", item.asked()),
                ),
                None => self.problem(
                    format!("nobody has looked at {}", item.title()),
                    "see whether a controller runs",
                ),
            }
        }
        let enforced = |disk: &&api::NodeDisk| {
            let state = disk.status.as_ref().and_then(|s| s.enforcement.as_ref()).map(|e| e.state);
            matches!(state, Some(api::EnforcementState::Broken | api::EnforcementState::Untried))
        };
        for disk in world.disks.iter().filter(enforced) {
            let said = disk
                .status
                .as_ref()
                .and_then(|s| s.enforcement.clone())
                .map(|e| e.message)
                .unwrap_or_default();
            self.note(
                format!("NodeDisk {} enforces no size: {said}", disk.name_any()),
                "see D5 in docs/semantics.md",
            );
        }
        match world.disks.len() {
            0 => {
                self.problem("there are no disks", "give the agents some: agent.disks in the chart's values")
            }
            all => self.good(format!("{all} disks were looked at")),
        }
    }

    fn rights(&mut self, facts: &Facts) {
        for unseen in &facts.world.unseen {
            self.note(unseen, "without it, what is shown is not all");
        }
        for (role, has) in &facts.grants {
            let lacks: Vec<&str> = VERBS.iter().copied().filter(|verb| !has.contains(verb)).collect();
            match lacks.as_slice() {
                [] => self.good(format!("you may do everything for role {role}")),
                lacks => self.note(
                    format!("for role {role} you lack {}", lacks.join(", ")),
                    "if you need it: ask for a ClusterRole with it, see examples/11-grants.yaml",
                ),
            }
        }
    }
}

/// The paths of all fields that a kind's schema knows.
fn fields(crd: &CustomResourceDefinition) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for version in &crd.spec.versions {
        let schema = serde_json::to_value(&version.schema).unwrap_or_default();
        walk(&schema["openAPIV3Schema"], "", &mut found);
    }
    found
}

fn walk(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        walk(inner, &path, found);
        found.insert(path);
    }
    if schema["items"].is_object() {
        walk(&schema["items"], &format!("{path}[]"), found);
    }
}

/// The findings as text; problems last, where they are seen.
pub(super) fn text(findings: &[Finding], paint: Paint) -> String {
    let mut text = String::new();
    for level in [Level::Good, Level::Note, Level::Problem] {
        for finding in findings.iter().filter(|f| f.level == level) {
            let mark = match level {
                Level::Good => paint.good("✓"),
                Level::Note => paint.warn("!"),
                Level::Problem => paint.bad("✗"),
            };
            text.push_str(&format!("{mark} {}\n", finding.what));
            if let Some(next) = &finding.next {
                text.push_str(&format!("  {}\n", paint.dim(next)));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::testing::*;

    fn healthy() -> Facts {
        let meta = |name: &str| json!({"name": name, "namespace": "sys", "labels": {"app.kubernetes.io/version": "1.0.0"}});
        let from = |value| serde_json::from_value(value).unwrap();
        let bound: BTreeSet<String> = POLICIES.iter().map(|(_, name)| (*name).to_owned()).collect();
        Facts {
            server: ("1".into(), "36+".into()),
            crds: Some(api::crds()),
            controllers: Some(vec![
                serde_json::from_value(
                    json!({"metadata": meta("controller"), "status": {"replicas": 2, "readyReplicas": 2}}),
                )
                .unwrap(),
            ]),
            agents: Some(vec![serde_json::from_value(
                json!({"metadata": meta("agent"), "status": {"desiredNumberScheduled": 1, "numberReady": 1,
                    "currentNumberScheduled": 1, "numberMisscheduled": 0}}),
            ).unwrap()]),
            agent_pods: Some(vec![from(
                json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1", "containers": []}}),
            )]),
            nodes: Some(vec![serde_json::from_value(json!({"metadata": {"name": "n1"}})).unwrap()]),
            policies: KINDS_OF_POLICIES.into_iter().map(|kind| (kind, Some(bound.clone()))).collect(),
            drivers: Some(vec![
                serde_json::from_value(json!({"metadata": {"name": DRIVER}, "spec": {}})).unwrap(),
            ]),
            grants: vec![("eng".into(), VERBS.to_vec())],
            world: World { disks: vec![disk("n1.a", "n1", 10, &[])], ..World::default() },
        }
    }

    fn wrong(facts: &Facts) -> Vec<(Level, String)> {
        let found = findings(facts, "1.0.0").into_iter().filter(|f| f.level != Level::Good);
        found.map(|f| (f.level, f.what)).collect()
    }

    #[test]
    fn t4_the_doctor_finds_each_thing_that_is_wrong_and_nothing_else() {
        assert_eq!(wrong(&healthy()), []);
        type Break = fn(&mut Facts);
        let table: [(Level, &str, Break); 15] = [
            (Level::Problem, "Kubernetes is 1.35", |f| f.server.1 = "35".into()),
            (Level::Problem, "the kind VolumeRole is not there", |f| drop(f.crds.as_mut().unwrap().pop())),
            (Level::Problem, "volumeclaims have no .spec.mode: they are older", |f| without_mode(f)),
            (Level::Problem, "there is no controller", |f| f.controllers = Some(vec![])),
            (Level::Problem, "1 of 2 controllers (sys/controller) are ready", |f| {
                f.controllers.as_mut().unwrap()[0].status.as_mut().unwrap().ready_replicas = Some(1);
            }),
            (Level::Problem, "there is no agent", |f| f.agents = Some(vec![])),
            (Level::Problem, "0 of 1 agents (sys/agent) are ready", |f| {
                f.agents.as_mut().unwrap()[0].status.as_mut().unwrap().number_ready = 0;
            }),
            (Level::Note, "agent is version 0.9.0, this plug-in 1.0.0", |f| {
                let labels = f.agents.as_mut().unwrap()[0].metadata.labels.as_mut().unwrap();
                labels.insert("app.kubernetes.io/version".into(), "0.9.0".into());
            }),
            (Level::Note, "no agent is on node n1", |f| f.agent_pods = Some(vec![])),
            (Level::Problem, "there is no CSIDriver", |f| f.drivers = Some(vec![])),
            (Level::Problem, "admission lacks ValidatingAdmissionPolicyBinding reservoir-static", |f| {
                unbound(f)
            }),
            (Level::Problem, "NodeDisk n1.a is Test: said", |f| {
                set_ready(&mut f.world.disks[0].status.as_mut().unwrap().conditions, false);
            }),
            (Level::Problem, "there are no disks", |f| f.world.disks.clear()),
            (Level::Note, "for role eng you lack use", |f| f.grants[0].1.retain(|verb| *verb != "use")),
            (Level::Note, "you may not list customresourcedefinitions", |f| f.crds = None),
        ];
        for (level, said, break_it) in table {
            let mut facts = healthy();
            break_it(&mut facts);
            let found = wrong(&facts);
            assert!(
                found.len() == 1 && found[0].0 == level && found[0].1.starts_with(said),
                "{said}: {found:?}"
            );
        }
    }

    fn without_mode(facts: &mut Facts) {
        let crds = facts.crds.as_mut().unwrap();
        let claims = crds.iter_mut().find(|crd| crd.spec.names.plural == "volumeclaims").unwrap();
        let mut value = serde_json::to_value(&*claims).unwrap();
        let spec = &mut value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        spec["properties"].as_object_mut().unwrap().remove("mode");
        *claims = serde_json::from_value(value).unwrap();
    }

    fn unbound(facts: &mut Facts) {
        let bound = facts.policies.get_mut("ValidatingAdmissionPolicyBinding").unwrap();
        bound.as_mut().unwrap().remove("reservoir-static");
    }

    #[test]
    fn t4_the_policies_that_are_looked_for_are_those_of_the_chart() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/reservoir/files/admission.yaml");
        let text = std::fs::read_to_string(path).unwrap();
        let kinds = text.lines().filter_map(|line| line.strip_prefix("kind: "));
        let names = text.lines().filter_map(|line| line.strip_prefix("  name: "));
        let there: BTreeSet<String> = kinds.zip(names).map(|(kind, name)| format!("{kind} {name}")).collect();
        let halves = |(prefix, name): &(&str, &str)| {
            ["Policy", "PolicyBinding"].map(|half| format!("{prefix}Admission{half} {name}"))
        };
        assert_eq!(there, POLICIES.iter().flat_map(halves).collect());
    }
}
