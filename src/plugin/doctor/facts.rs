//! Facts about the installation that the doctor checks, and the rights of the caller.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use k8s_openapi::api::storage::v1::CSIDriver;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt};
use serde::de::DeserializeOwned;

use crate::api::{self, GROUP};
use crate::cluster;
use crate::plan::{advice, quota};
use crate::plugin::errors::{explain_api_error, explain_cluster_error};
use crate::plugin::rights::VERBS;
use crate::plugin::snapshot::Snapshot;

/// Number of roles whose verbs are checked: each verb takes a request to the API server.
const CHECKED_ROLES: usize = 16;

/// Objects of the installation. `None`: the caller may not list the kind.
#[derive(Default)]
pub(in crate::plugin) struct Facts {
    pub server: (String, String),
    pub crds: Option<Vec<CustomResourceDefinition>>,
    pub controllers: Option<Vec<Deployment>>,
    pub agents: Option<Vec<DaemonSet>>,
    pub agent_pods: Option<Vec<Pod>>,
    pub controller_pods: Option<Vec<Pod>>,
    /// The warnings in the namespaces of controllers and agents.
    pub warnings: Vec<Event>,
    pub nodes: Option<Vec<Node>>,
    /// Names of the objects of each kind in [`POLICY_KINDS`] that the API server serves.
    pub policies: BTreeMap<&'static str, Option<BTreeSet<String>>>,
    pub drivers: Option<Vec<CSIDriver>>,
    /// Names of the ClusterRoleBindings.
    pub bindings: Option<BTreeSet<String>>,
    /// The caller's name.
    pub user: String,
    /// The caller's verbs on each role.
    pub grants: Vec<(String, Vec<&'static str>)>,
    pub snapshot: Snapshot,
}

pub(super) const POLICY_KINDS: [&str; 4] = [
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
];

/// Lists a kind; `None` if the caller may not do so.
async fn list_if_allowed<K>(api: Api<K>, labels: &str) -> anyhow::Result<Option<Vec<K>>>
where
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    match api.list(&ListParams::default().labels(labels)).await {
        Ok(list) => Ok(Some(list.items)),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
        Err(error) => Err(explain_api_error(&error)),
    }
}

impl Facts {
    /// Reads all facts. `namespace` is for callers who may not list all namespaces.
    pub async fn gather(client: &Client, namespace: &str) -> anyhow::Result<Self> {
        let version = client.apiserver_version().await.map_err(|error| explain_api_error(&error))?;
        let mut facts = Self { server: (version.major, version.minor), ..Self::default() };
        let labels = |component: &str| {
            format!("app.kubernetes.io/name=reservoir,app.kubernetes.io/component={component}")
        };
        facts.crds = list_if_allowed(Api::all(client.clone()), "").await?;
        facts.controllers = list_if_allowed(Api::all(client.clone()), &labels("controller")).await?;
        facts.agents = list_if_allowed(Api::all(client.clone()), &labels("agent")).await?;
        facts.agent_pods = list_if_allowed(Api::all(client.clone()), &labels("agent")).await?;
        facts.controller_pods = list_if_allowed(Api::all(client.clone()), &labels("controller")).await?;
        for namespace in facts.namespaces() {
            let events = Api::<Event>::namespaced(client.clone(), &namespace);
            // Without the right to see events the words of others are left out.
            let warnings = events.list(&ListParams::default().fields("type=Warning")).await;
            facts.warnings.extend(warnings.map(|list| list.items).unwrap_or_default());
        }
        facts.nodes = list_if_allowed(Api::all(client.clone()), "").await?;
        facts.drivers = list_if_allowed(Api::all(client.clone()), "").await?;
        let bindings = list_if_allowed::<ClusterRoleBinding>(Api::all(client.clone()), "").await?;
        facts.bindings = bindings.map(|all| all.iter().map(ResourceExt::name_any).collect());
        let served = served_kinds(client).await?;
        for kind in POLICY_KINDS {
            if kind.starts_with("Mutating") && !served.contains(kind) {
                continue;
            }
            let plural = if kind.ends_with('y') {
                kind.to_lowercase().replace("policy", "policies")
            } else {
                format!("{}s", kind.to_lowercase())
            };
            let gvk = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind);
            let api: Api<DynamicObject> =
                Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&gvk, &plural));
            let objects = list_if_allowed(api, "").await?;
            facts.policies.insert(kind, objects.map(|all| all.iter().map(ResourceExt::name_any).collect()));
        }
        // Without the kinds every list would fail; the missing kinds are findings of their own.
        let installed = facts.crds.as_ref().is_none_or(|crds| crds.iter().any(|crd| crd.spec.group == GROUP));
        if installed {
            facts.snapshot = Snapshot::read(client, None, namespace).await?;
            facts.snapshot.leaderless = cluster::leaderless(client, cluster::CONTROLLER).await;
        }
        let roles: BTreeSet<&str> = facts.snapshot.items().into_iter().filter_map(|item| item.role).collect();
        facts.user = cluster::username(client).await.map_err(|error| explain_cluster_error(&error))?;
        for role in roles.into_iter().map(str::to_owned).take(CHECKED_ROLES).collect::<Vec<_>>() {
            let mut verbs = Vec::new();
            for verb in VERBS {
                if is_allowed(client, &role, verb).await? {
                    verbs.push(*verb);
                }
            }
            facts.grants.push((role, verbs));
        }
        Ok(facts)
    }

    /// The namespaces of controllers and agents.
    fn namespaces(&self) -> BTreeSet<String> {
        let controllers = self.controllers.iter().flatten().filter_map(ResourceExt::namespace);
        controllers.chain(self.agents.iter().flatten().filter_map(ResourceExt::namespace)).collect()
    }

    /// The command that installs what is missing, in the release that is there.
    pub fn install_chart(&self) -> String {
        let controllers = self.controllers.iter().flatten().map(|controller| &controller.metadata);
        let agents = self.agents.iter().flatten().map(|agents| &agents.metadata);
        let found = controllers.chain(agents).next();
        let ours = api::crds();
        let is_ours =
            |crd: &&CustomResourceDefinition| ours.iter().any(|ours| ours.name_any() == crd.name_any());
        // The kinds outlast the release that made them (F5).
        let owners: BTreeSet<_> = self.crds.iter().flatten().filter(is_ours).map(owner).collect();
        let last = owners.iter().flatten().next();
        let (release, namespace) = match (found, last) {
            (Some(found), _) => {
                let release =
                    found.labels.as_ref().and_then(|labels| labels.get("app.kubernetes.io/instance"));
                (release.map(String::as_str), found.namespace.as_deref())
            }
            (None, Some((release, namespace))) => (Some(*release), Some(*namespace)),
            (None, None) => (None, None),
        };
        let (release, namespace) = (release.unwrap_or("reservoir"), namespace.unwrap_or("reservoir-system"));
        // Helm refuses what is there and not its release's.
        let is_foreign = owners.iter().any(|owner| *owner != Some((release, namespace)));
        let owning = if is_foreign { " --take-ownership" } else { "" };
        match found {
            Some(_) => advice::install_chart(release, namespace, owning),
            None => advice::install_chart_anew(release, namespace, owning),
        }
    }
}

/// The Helm release, with its namespace, that a kind belongs to.
fn owner(crd: &CustomResourceDefinition) -> Option<(&str, &str)> {
    let is_helms = crd.labels().get("app.kubernetes.io/managed-by").is_some_and(|by| by == "Helm");
    let note = |name: &str| crd.annotations().get(&format!("meta.helm.sh/{name}")).map(String::as_str);
    note("release-name").zip(note("release-namespace")).filter(|_| is_helms)
}

/// The kinds of admission policies and the like that the API server serves in their stable version.
pub(in crate::plugin) async fn served_kinds(client: &Client) -> anyhow::Result<BTreeSet<String>> {
    let served = client.list_api_group_resources("admissionregistration.k8s.io/v1").await;
    let served = served.map_err(|error| explain_api_error(&error))?;
    Ok(served.resources.into_iter().map(|resource| resource.kind).collect())
}

/// Returns true if the caller has the verb on the role or on an ancestor of the role (A1).
async fn is_allowed(client: &Client, role: &str, verb: &str) -> anyhow::Result<bool> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    for name in quota::lineage(role) {
        let attributes = ResourceAttributes {
            group: Some(GROUP.into()),
            resource: Some("volumeroles".into()),
            name: Some(name.into()),
            verb: Some(verb.into()),
            ..Default::default()
        };
        let spec =
            SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..Default::default() };
        let answer = reviews
            .create(&PostParams::default(), &review)
            .await
            .map_err(|error| explain_api_error(&error))?;
        if answer.status.is_some_and(|status| status.allowed) {
            return Ok(true);
        }
    }
    Ok(false)
}
