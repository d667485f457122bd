//! The doctor's checks: from facts to findings.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Resource, ResourceExt};
use serde_json::Value;

use super::facts::Facts;
use super::finding::{Finding, Level};
use super::pods::{Cause, Workload, is_ready, keeps_away, last_warning};
use crate::api::condition::reason::{
    BACKING_FAILED, BACKING_LOST, COPY_DIFFERS, NO_ORPHAN, VERIFY_FAILED, VOLUME_GONE,
};
use crate::api::condition::{INTACT, READY};
use crate::api::{self, DRIVER, TOPOLOGY_NODE, condition};
use crate::plan::startup_taint::TAINT;
use crate::plan::{advice, candidate, kept_on_disk, names, node_disk, orphans};
use crate::plugin::kind;
use crate::plugin::paint::human;
use crate::plugin::rights::{VERBS, receiver};
use crate::plugin::snapshot::Snapshot;
use crate::plugin::taints;

/// The chart's admission policies. Each has a binding of the same name.
const POLICIES: &[(&str, &str)] = &[
    ("Validating", "reservoir-volume-in-use"),
    ("Validating", "reservoir-holds-data"),
    ("Validating", "reservoir-shrink"),
    ("Validating", "reservoir-kinds"),
    ("Validating", "reservoir-agent-own-node"),
    ("Validating", "reservoir-node-label"),
    ("Validating", "reservoir-agent-events"),
    ("Validating", "reservoir-agent-deletes"),
    ("Validating", "reservoir-agent-takes-over"),
    ("Validating", "reservoir-disk-node"),
    ("Validating", "reservoir-disk-gone"),
    ("Validating", "reservoir-static"),
    ("Validating", "reservoir-agent-disks"),
    ("Validating", "reservoir-static-configured"),
    ("Validating", "reservoir-static-names"),
    ("Validating", "reservoir-template"),
    ("Validating", "reservoir-role-verbs"),
    ("Validating", "reservoir-principal"),
    ("Validating", "reservoir-made-for-pvc"),
    ("Validating", "reservoir-copies"),
    ("Validating", "reservoir-offers"),
    ("Validating", "reservoir-bounds"),
    ("Validating", "reservoir-storage-class"),
];

/// The chart's policies that write into objects, where the API server serves their kind. Each has a binding of the same
/// name.
const MUTATING: &[(&str, &str)] = &[
    ("Mutating", "reservoir-principal"),
    ("Mutating", "reservoir-guard"),
    ("Mutating", "reservoir-read-only-claims"),
];

/// The chart's policies that stand in for these where no policy may write.
const UNMUTATED: &[(&str, &str)] = &[("Validating", "reservoir-read-only-claims")];

/// True if the chart makes a policy or a binding of this kind and name, on some API server.
pub(in crate::plugin) fn is_policy_of_the_chart(kind: &str, name: &str) -> bool {
    let all = [POLICIES, MUTATING, UNMUTATED];
    all.into_iter().flatten().any(|(prefix, policy)| kind.starts_with(prefix) && *policy == name)
}

/// Checks the facts, subject by subject. `version` is the version of the plug-in.
pub(in crate::plugin) fn findings(facts: &Facts, version: &str) -> Vec<Finding> {
    let mut checks = Checks(vec![]);
    checks.check_server(&facts.server);
    checks.check_kinds(facts);
    checks.check_workloads(facts, version);
    checks.check_nodes(facts);
    checks.check_policies(facts);
    checks.check_disks(facts);
    checks.check_volumes(&facts.snapshot);
    checks.check_rights(facts);
    checks.0
}

/// Reasons of a volume that is not Ready for its data.
const DATA_TROUBLE: &[&str] = &[BACKING_LOST, BACKING_FAILED, COPY_DIFFERS, VOLUME_GONE, NO_ORPHAN];

struct Checks(Vec<Finding>);

/// Numbers of the pods of a workload.
struct Counts {
    ready: i32,
    /// Those of the last rollout.
    updated: i32,
    of: i32,
}

/// The number of pods of the last rollout; of a spec that Kubernetes has not looked at yet there are none.
fn of_last_rollout(workload: &impl Resource, observed: Option<i64>, updated: Option<i32>) -> i32 {
    let is_seen = observed.is_none_or(|seen| Some(seen) >= workload.meta().generation);
    updated.filter(|_| is_seen).unwrap_or(0)
}

/// The workload of controllers or agents with its pods, by the owners of these.
fn workload<'a>(
    facts: &'a Facts,
    object: &impl Resource<DynamicType = ()>,
    name: &str,
    wanted: i32,
    refusal: Option<String>,
) -> Workload<'a> {
    let own = object.name_any();
    let pods = if name.starts_with("daemonset") { &facts.agent_pods } else { &facts.controller_pods };
    // A Deployment's ReplicaSets have its name, and a hash.
    let is_own = |pod: &&Pod| {
        pod.namespace() == object.namespace()
            && pod.owner_references().iter().all(|owner| {
                owner.name == own || owner.name.rsplit_once('-').is_some_and(|(name, _)| name == own)
            })
    };
    Workload {
        object: name.to_owned(),
        namespace: object.namespace().unwrap_or_default(),
        release: object
            .labels()
            .get("app.kubernetes.io/instance")
            .cloned()
            .unwrap_or_else(|| "reservoir".into()),
        wanted,
        pods: pods.iter().flatten().filter(is_own).collect(),
        refusal,
        events: &facts.warnings,
    }
}

/// The cause with its own step, or else the step alone.
fn told(cause: Option<Cause>, step: String) -> (Option<String>, String) {
    cause.map_or((None, step), |(why, next)| (Some(why), next))
}

impl Checks {
    fn good(&mut self, message: impl Into<String>) {
        self.0.push(Finding { level: Level::Good, message: message.into(), next: None });
    }

    fn note(&mut self, message: impl Into<String>, next: impl Into<String>) {
        self.0.push(Finding { level: Level::Note, message: message.into(), next: Some(next.into()) });
    }

    fn problem(&mut self, message: impl Into<String>, next: impl Into<String>) {
        self.0.push(Finding { level: Level::Problem, message: message.into(), next: Some(next.into()) });
    }

    fn denied(&mut self, kinds: &str) {
        self.note(format!("you may not list {kinds}"), advice::have_administrator_look());
    }

    fn check_server(&mut self, (major, minor): &(String, String)) {
        let number = |text: &str| text.trim_end_matches('+').parse::<u32>().unwrap_or(0);
        match (number(major), number(minor)) >= (1, 34) {
            true => self.good(format!("Kubernetes is {major}.{minor}")),
            false => self.problem(
                format!("Kubernetes is {major}.{minor}, and admission needs 1.34"),
                advice::upgrade_kubernetes(),
            ),
        }
    }

    fn check_kinds(&mut self, facts: &Facts) {
        let Some(installed) = facts.crds.as_deref() else { return self.denied("customresourcedefinitions") };
        let before = self.0.len();
        for ours in api::crds() {
            let plural = &ours.spec.names.plural;
            let Some(theirs) = installed.iter().find(|crd| crd.name_any() == ours.name_any()) else {
                self.problem(
                    format!("the kind {} is not installed", ours.spec.names.kind),
                    facts.install_chart(),
                );
                continue;
            };
            if theirs.metadata.deletion_timestamp.is_some() {
                self.problem(
                    format!(
                        "the kind {} is being deleted, and nothing of it can be made",
                        ours.spec.names.kind
                    ),
                    advice::see_kind_out(),
                );
            }
            let (ours, theirs) = (fields(ours), fields(theirs));
            let missing: Vec<_> = ours.difference(&theirs).collect();
            let more: Vec<_> = theirs.difference(&ours).collect();
            if !missing.is_empty() {
                let message = format!(
                    "{plural} have no {}: they are older than this plug-in",
                    names(&missing, missing.len())
                );
                self.problem(message, facts.install_chart());
            }
            if !more.is_empty() {
                let message =
                    format!("{plural} have {}: they are newer than this plug-in", names(&more, more.len()));
                self.note(message, advice::install_plugin());
            }
        }
        if self.0.len() == before {
            self.good("all kinds are installed, with the fields of this plug-in's version");
        }
    }

    fn check_workloads(&mut self, facts: &Facts, version: &str) {
        match facts.controllers.as_deref() {
            None => self.denied("deployments"),
            Some([]) => self.problem("there is no controller", facts.install_chart()),
            Some(all) => {
                for controller in all {
                    let status = controller.status.clone().unwrap_or_default();
                    let ready = status.ready_replicas.unwrap_or(0);
                    let replicas = controller.spec.as_ref().and_then(|spec| spec.replicas);
                    let of = replicas.or(status.replicas).unwrap_or(0);
                    let namespace = controller.namespace().unwrap_or_default();
                    let name = format!("deployment/{}", controller.name_any());
                    let conditions = status.conditions.iter().flatten();
                    let refused =
                        conditions.into_iter().find(|c| c.type_ == "ReplicaFailure" && c.status == "True");
                    let refusal = refused.and_then(|c| c.message.clone());
                    let workload = workload(facts, controller, &name, of, refusal);
                    let updated =
                        of_last_rollout(controller, status.observed_generation, status.updated_replicas);
                    self.check_replicas(
                        &format!("controllers ({namespace}/{})", controller.name_any()),
                        Counts { ready, updated, of },
                        || match replicas {
                            Some(0) => (None, advice::scale_up(&name, &namespace)),
                            _ => told(workload.cause(), advice::read_program_log(&name, &namespace)),
                        },
                    );
                    self.check_version(controller, version);
                }
            }
        }
        // A controller without the lead is ready, too.
        let has_ready =
            |of: &&Deployment| of.status.as_ref().is_some_and(|s| s.ready_replicas.unwrap_or(0) > 0);
        let ready = facts.controllers.iter().flatten().find(has_ready);
        if let Some((controller, why)) = ready.zip(facts.snapshot.leaderless.as_ref()) {
            let name = format!("deployment/{}", controller.name_any());
            self.note(why, advice::read_program_log(name, controller.namespace().unwrap_or_default()));
        }
        match facts.agents.as_deref() {
            None => self.denied("daemonsets"),
            Some([]) => self.problem("there is no agent", facts.install_chart()),
            Some(all) => {
                for agents in all {
                    let status = agents.status.clone().unwrap_or_default();
                    let namespace = agents.namespace().unwrap_or_default();
                    let name = format!("daemonset/{}", agents.name_any());
                    let (ready, of) = (status.number_ready, status.desired_number_scheduled);
                    let updated =
                        of_last_rollout(agents, status.observed_generation, status.updated_number_scheduled);
                    let refusal = last_warning(&facts.warnings, "DaemonSet", &agents.name_any());
                    let workload = workload(facts, agents, &name, of, refusal);
                    self.check_replicas(
                        &format!("agents ({namespace}/{})", agents.name_any()),
                        Counts { ready, updated, of },
                        || match of {
                            0 => (Some("no node is to have one".to_owned()), advice::run_on_node()),
                            _ => told(workload.cause(), advice::read_program_log(&name, &namespace)),
                        },
                    );
                    self.check_version(agents, version);
                }
            }
        }
        // Without their rights the programs run, are Ready, and do nothing.
        let there = [
            (facts.controllers.as_deref().is_some_and(|all| !all.is_empty()), "reservoir-controller"),
            (facts.agents.as_deref().is_some_and(|all| !all.is_empty()), "reservoir-agent"),
        ];
        for (_, name) in there.iter().filter(|(is_there, _)| *is_there) {
            if facts.bindings.as_ref().is_some_and(|bindings| !bindings.contains(*name)) {
                let message = format!("there is no ClusterRoleBinding {name}, so {name} may do nothing");
                self.problem(message, facts.install_chart());
            }
        }
        match facts.drivers.as_deref() {
            None => self.denied("csidrivers"),
            Some(all) if all.iter().any(|driver| driver.name_any() == DRIVER) => {}
            Some(_) => self
                .problem(format!("there is no CSIDriver {DRIVER}: pods cannot mount"), facts.install_chart()),
        }
    }

    fn check_replicas(
        &mut self,
        pods: &str,
        Counts { ready, updated, of }: Counts,
        cause: impl Fn() -> (Option<String>, String),
    ) {
        if ready == of && updated >= of && of > 0 {
            return self.good(format!("{ready} of {of} {pods} are ready"));
        }
        let (why, next) = cause();
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        // An upgrade is not in force while the ready pods are those of before.
        let rollout = match ready == of && of > 0 {
            true => format!(", but the last rollout has made {updated} of {of} pods"),
            false => String::new(),
        };
        self.problem(format!("{ready} of {of} {pods} are ready{rollout}{why}"), next);
    }

    fn check_version(&mut self, object: &impl Resource, version: &str) {
        let theirs = object.labels().get("app.kubernetes.io/version").map_or("unknown", String::as_str);
        if theirs != version {
            let name = object.name_any();
            self.note(
                format!("{name} is version {theirs}, this plug-in {version}"),
                advice::align_versions(),
            );
        }
    }

    fn check_nodes(&mut self, facts: &Facts) {
        let (Some(nodes), Some(pods)) = (&facts.nodes, &facts.agent_pods) else {
            return self.denied("nodes and pods of all namespaces");
        };
        let on = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let served: BTreeSet<String> = pods.iter().filter_map(on).collect();
        let Some(agents) = facts.agents.as_deref().filter(|agents| !agents.is_empty()) else { return };
        let is_served = |node: &Node| pods.iter().any(|pod| on(pod) == node.metadata.name && is_ready(pod));
        let tainted = nodes.iter().filter(|node| taints::of(node).any(|taint| taint.key == TAINT));
        for node in tainted.filter(|node| is_served(node)) {
            let name = node.name_any();
            self.problem(
                format!(
                    "node {name} has the taint {TAINT}, although its agent is ready: no pod without a toleration is placed there"
                ),
                advice::take_startup_taint(&name, TAINT),
            );
        }
        for node in nodes.iter().filter(|node| is_served(node) && taints::lacks_topology(node)) {
            let name = node.name_any();
            self.problem(
                format!("node {name} lacks the label {TOPOLOGY_NODE}={name}: no new pod of its volumes is placed there"),
                advice::label_topology(&name, TOPOLOGY_NODE),
            );
        }
        let without = nodes.iter().filter(|node| !served.contains(&node.name_any()));
        // Nodes without an agent for one cause are one finding.
        let mut causes: Vec<(Option<String>, Vec<&Node>)> = Vec::new();
        for node in without {
            let why = keeps_away(&[node], agents).map(|(why, _)| why);
            match causes.iter_mut().find(|(of, _)| *of == why) {
                Some((_, alike)) => alike.push(node),
                None => causes.push((why, vec![node])),
            }
        }
        for (_, alike) in causes {
            let without: Vec<String> = alike.iter().map(|node| node.name_any()).collect();
            let without = format!("no agent runs on node {}", names(&without, without.len()));
            match keeps_away(&alike, agents) {
                Some((why, next)) => self.note(format!("{without}: {why}"), next),
                // The finding about the agents has the cause.
                None => {
                    let (name, namespace) = (agents[0].name_any(), agents[0].namespace().unwrap_or_default());
                    let template = agents[0].spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
                    let next = match template.is_some_and(|spec| spec.affinity.is_some()) {
                        true => advice::see_affinity(name, namespace),
                        false => advice::find_refuser(format!("daemonset/{name}"), namespace),
                    };
                    self.note(without, next);
                }
            }
        }
    }

    fn check_policies(&mut self, facts: &Facts) {
        let mut missing = Vec::new();
        let is_installed = |kind: &str, name: &str| match facts.policies.get(kind) {
            Some(installed) => installed.as_ref().map(|installed| installed.contains(name)),
            None => Some(false),
        };
        let halves = |&(prefix, name): &(&str, &'static str)| {
            ["Policy", "PolicyBinding"].map(|half| (format!("{prefix}Admission{half}"), name))
        };
        let mutating: Vec<_> = MUTATING.iter().flat_map(halves).collect();
        let is_mutating = mutating.iter().any(|(kind, name)| is_installed(kind, name) == Some(true));
        let besides = if is_mutating { MUTATING } else { UNMUTATED };
        let wanted: Vec<_> = POLICIES.iter().chain(besides).flat_map(halves).collect();
        let all = wanted.len();
        for (kind, name) in wanted {
            match is_installed(&kind, name) {
                Some(true) => {}
                Some(false) => missing.push(format!("{kind} {name}")),
                None => return self.denied("admission policies"),
            }
        }
        // Without any policy the chart is missing, and no value of it.
        if !is_mutating && missing.len() < all {
            let (is_served, next) = match facts.policies.contains_key("MutatingAdmissionPolicy") {
                true => ("is not in force", advice::have_mutating_policies()),
                false => ("is not served here", advice::write_both()),
            };
            self.note(
                format!(
                    "MutatingAdmissionPolicy {is_served}: whoever makes a reservation or a volume writes spec.principal, and a \
                     pod with a ReadOnly claim says readOnly: true"
                ),
                next,
            );
        }
        match missing.is_empty() {
            true => self.good("all admission policies are installed and bound"),
            false => self.problem(
                format!(
                    "admission lacks {}: requests that these refuse are accepted",
                    names(&missing, missing.len())
                ),
                facts.install_chart(),
            ),
        }
    }

    fn check_disks(&mut self, facts: &Facts) {
        let snapshot = &facts.snapshot;
        let ready = |agents: &DaemonSet| agents.status.as_ref().map_or(0, |status| status.number_ready);
        let agents = facts.agents.as_deref().filter(|agents| !agents.is_empty());
        let has_no_agent = agents.is_some_and(|agents| agents.iter().all(|agents| ready(agents) == 0));
        for disk in snapshot.items().iter().filter(|disk| disk.kind == &kind::DISK) {
            match disk.ready() {
                Some(ready) if ready.status == "True" => {}
                Some(ready) => self.problem(
                    format!("{} is {}: {}", disk.title(), ready.reason, ready.message),
                    advice::ask_why(disk.argument()),
                ),
                None => self.problem(format!("{} has no condition", disk.title()), advice::find_controller()),
            }
        }
        let enforced = |disk: &&api::NodeDisk| {
            let state = disk.status.as_ref().and_then(|s| s.enforcement.as_ref()).map(|e| e.state);
            matches!(state, Some(api::EnforcementState::Broken | api::EnforcementState::Untried))
        };
        for disk in snapshot.disks.iter().filter(enforced) {
            let message = disk
                .status
                .as_ref()
                .and_then(|s| s.enforcement.clone())
                .map(|e| e.message)
                .unwrap_or_default();
            self.note(
                format!("NodeDisk {} enforces no size: {message}", disk.name_any()),
                advice::read_about_enforcement(),
            );
        }
        let asked = |disk: &&api::NodeDisk| {
            disk.status.as_ref().is_some_and(|status| status.keeps_read_only == Some(false))
        };
        let without: BTreeSet<&str> =
            snapshot.disks.iter().filter(asked).map(|disk| &*disk.spec.node_name).collect();
        if !without.is_empty() {
            let without: Vec<_> = without.into_iter().collect();
            self.note(
                format!(
                    "the container runtime of node {} does not ask Reservoir about containers (NRI), or the node has no \
                     user namespaces: a pod that is older than its ReadOnly claim waits there until it is made again",
                    names(&without, without.len())
                ),
                advice::read_about_older_pods(),
            );
        }
        for disk in &snapshot.disks {
            if let Some(api::UnlistedOrphans { count, size }) = orphans::unlisted(disk) {
                let (name, size) = (disk.name_any(), human(size.bytes_or_zero()));
                self.note(
                    format!(
                        "NodeDisk {name} has the data of {count} more volumes than status.orphans can list; {size} beside \
                         the ledger are kept for them"
                    ),
                    advice::recover_listed(),
                );
            }
        }
        for disk in &snapshot.disks {
            if let Some((told, names)) = node_disk::not_configured(disk) {
                let first = names.first().copied().unwrap_or_default();
                self.note(
                    format!("NodeDisk {}: {told}", disk.name_any()),
                    advice::ask_why(format!("dr/{first}")),
                );
            }
        }
        for disk in &snapshot.disks {
            let lost = snapshot.lost(disk).collect::<Vec<_>>();
            if let Some(first) = lost.first() {
                let (disk, name) = (disk.name_any(), &first.name);
                let more = match lost.len() - 1 {
                    0 => String::new(),
                    more => format!(", and {more} more"),
                };
                self.note(
                    format!("NodeDisk {disk} has the data of volume {name}{more} without an object: nothing ends it by itself"),
                    advice::see_orphans(),
                );
            }
        }
        for disk in &snapshot.disks {
            if let Some(told) = node_disk::not_as_configured(disk) {
                self.note(
                    format!("NodeDisk {}: {told}", disk.name_any()),
                    advice::ask_why(format!("nd/{}", disk.name_any())),
                );
            }
        }
        // A disk that is not ready is told above.
        let serves = |name: &Option<String>| {
            snapshot.disks.iter().any(|disk| disk.metadata.name == *name && candidate::is_ready(disk))
        };
        let failing = snapshot.reservations.iter().filter_map(|r| {
            let ready = condition::get(&r.status.as_ref()?.conditions, READY)?;
            let is_there = r.spec.is_static && r.metadata.deletion_timestamp.is_none();
            (is_there && ready.status == "False" && serves(&r.spec.node_disk)).then(|| (r.name_any(), ready))
        });
        let failing: Vec<_> = failing.collect();
        if let Some((first, ready)) = failing.first() {
            let more = match failing.len() - 1 {
                0 => String::new(),
                more => format!(", and so are {more} more"),
            };
            self.note(
                format!(
                    "DiskReservation {first} of the agents' configuration is {}{more}: {}",
                    ready.reason, ready.message
                ),
                advice::ask_why(format!("dr/{first}")),
            );
        }
        let Snapshot { disks, reservations, volumes, .. } = snapshot;
        let sees_all = snapshot.sees(&kind::RESERVATION) && snapshot.sees(&kind::VOLUME);
        for data in kept_on_disk::unlisted(disks, reservations, volumes).iter().filter(|_| sees_all) {
            let (name, disk) = (&data.entry.name, data.disk_name());
            match data.reservation() {
                Ok(_) => self.note(
                    format!("NodeDisk {disk} keeps data of volume {name} that no reservation lists, so nothing erases it by itself"),
                    advice::end_unlisted(&data.entry.uid),
                ),
                Err(why) => self.note(format!("NodeDisk {disk}: {why}"), advice::see_kept()),
            }
        }
        match snapshot.disks.len() {
            0 if !snapshot.sees(&kind::DISK) => {}
            0 if has_no_agent => {
                self.problem("there are no disks, since no agent is ready", advice::await_agents())
            }
            0 => self.problem("there are no disks", advice::configure_disks()),
            all => self.good(format!("{all} disks were checked")),
        }
    }

    /// Volumes whose data is lost, fails or is not what it was. Most other waits are of those who use the cluster.
    fn check_volumes(&mut self, snapshot: &Snapshot) {
        let is_bad = |condition: &&Condition| {
            let of_type = |type_, reasons: &[&str]| {
                condition.type_ == type_ && reasons.contains(&condition.reason.as_str())
            };
            condition.status != "True" && (of_type(READY, DATA_TROUBLE) || of_type(INTACT, &[VERIFY_FAILED]))
        };
        // A disk that fails has many volumes, and the first one of a kind of trouble is enough.
        let mut found: Vec<(&Condition, Vec<String>)> = Vec::new();
        let items = snapshot.items();
        let volumes = items.iter().filter(|item| item.kind == &kind::VOLUME && !item.deleting);
        for (volume, bad) in
            volumes.flat_map(|v| v.conditions.iter().filter(is_bad).map(|bad| (v.path(), bad)))
        {
            match found.iter_mut().find(|(first, _)| first.reason == bad.reason) {
                Some((_, names)) => names.push(volume),
                None => found.push((bad, vec![volume])),
            }
        }
        for (first, of) in found {
            let (name, others) = (&of[0], &of[1..]);
            let more = match others {
                [] => String::new(),
                others => format!("; the same of {}", names(others, others.len())),
            };
            self.problem(
                format!("SharedPersistentVolume {name} is {}: {}{more}", first.reason, first.message),
                advice::ask_why(kind::VOLUME.argument(name, None)),
            );
        }
    }

    fn check_rights(&mut self, facts: &Facts) {
        for note in facts.snapshot.notes() {
            self.note(note, advice::have_view_granted());
        }
        for (role, granted) in &facts.grants {
            // The verb use includes use-readonly.
            let is_held =
                |verb: &&str| granted.contains(verb) || *verb == "use-readonly" && granted.contains(&"use");
            let lacks: Vec<&str> = VERBS.iter().copied().filter(|verb| !is_held(verb)).collect();
            match lacks.as_slice() {
                [] => self.good(format!("you have every verb on role {role}")),
                lacks => self.note(
                    format!("for role {role} you lack {}", lacks.join(", ")),
                    advice::have_rights_granted(role, lacks.join(","), receiver(&facts.user)),
                ),
            }
        }
    }
}

/// The paths of all fields in a kind's schema.
fn fields(crd: &CustomResourceDefinition) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for version in &crd.spec.versions {
        let schema = serde_json::to_value(&version.schema).unwrap_or_default();
        collect_fields(&schema["openAPIV3Schema"], "", &mut paths);
    }
    paths
}

fn collect_fields(schema: &Value, path: &str, paths: &mut BTreeSet<String>) {
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        collect_fields(inner, &path, paths);
        paths.insert(path);
    }
    if schema["items"].is_object() {
        collect_fields(&schema["items"], &format!("{path}[]"), paths);
    }
}

#[cfg(test)]
mod tests;
