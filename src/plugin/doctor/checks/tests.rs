//! Tests of the checks.

use serde_json::json;

use super::*;
use crate::plan::testing::*;
use crate::plugin::doctor::facts::POLICY_KINDS;

fn healthy() -> Facts {
    let meta = |name: &str| json!({"name": name, "namespace": "sys", "labels": {"app.kubernetes.io/version": "1.0.0"}});
    let from = |value| serde_json::from_value(value).unwrap();
    let all = [POLICIES, MUTATING, UNMUTATED].concat();
    let bound: BTreeSet<String> = all.into_iter().map(|(_, name)| name.to_owned()).collect();
    Facts {
        server: ("1".into(), "36+".into()),
        crds: Some(api::crds().to_vec()),
        controllers: Some(vec![
            serde_json::from_value(
                json!({"metadata": meta("controller"), "status": {"replicas": 2, "readyReplicas": 2, "updatedReplicas": 2}}),
            )
            .unwrap(),
        ]),
        agents: Some(vec![
            serde_json::from_value(
                json!({"metadata": meta("agent"), "status": {"desiredNumberScheduled": 1, "numberReady": 1,
                    "currentNumberScheduled": 1, "numberMisscheduled": 0, "updatedNumberScheduled": 1}}),
            )
            .unwrap(),
        ]),
        agent_pods: Some(vec![from(
            json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1", "containers": []}}),
        )]),
        controller_pods: Some(vec![]),
        warnings: vec![],
        nodes: Some(vec![serde_json::from_value(json!({"metadata": {"name": "n1"}})).unwrap()]),
        policies: POLICY_KINDS.into_iter().map(|kind| (kind, Some(bound.clone()))).collect(),
        drivers: Some(vec![
            serde_json::from_value(json!({"metadata": {"name": DRIVER}, "spec": {}})).unwrap(),
        ]),
        bindings: Some(["reservoir-controller", "reservoir-agent"].map(str::to_owned).into()),
        user: "jane".into(),
        grants: vec![("eng".into(), VERBS.to_vec())],
        snapshot: Snapshot { disks: vec![disk("n1.a", "n1", 10, &[])], ..Snapshot::default() },
    }
}

fn faults(facts: &Facts) -> Vec<(Level, String)> {
    let faults = findings(facts, "1.0.0").into_iter().filter(|f| f.level != Level::Good);
    faults.map(|f| (f.level, f.message)).collect()
}

/// T4, V10, E4: the doctor reports volumes whose data is lost, fails or differs.
#[test]
fn t4_v10_the_doctor_looks_at_the_data_of_volumes() {
    use crate::api::condition::Verdict;
    let mut facts = healthy();
    let with = |name: &str, type_, verdict| {
        let mut volume = ready_volume(name, "eng", true);
        let conditions = &mut volume.status.as_mut().unwrap().conditions;
        api::condition::set(conditions, type_, verdict, None, jiff::Timestamp::UNIX_EPOCH);
        volume
    };
    facts.snapshot.volumes = vec![with("fine", READY, Verdict::yes("Ready", "1Gi on node n1"))];
    assert_eq!(faults(&facts), []);
    facts.snapshot.volumes.extend([
        with("waits", READY, Verdict::no("ReservationFull", "1Gi asked for")),
        with("a", READY, Verdict::no(BACKING_LOST, "the data of volume a is lost")),
        with("b", READY, Verdict::no(BACKING_LOST, "the data of volume b is lost")),
        with("c", READY, Verdict::no(COPY_DIFFERS, "its files are not what was sealed")),
        with("d", INTACT, Verdict::no(VERIFY_FAILED, "f: input/output error")),
    ]);
    let problem = |said: &str| (Level::Problem, format!("SharedPersistentVolume {said}"));
    assert_eq!(
        faults(&facts),
        [
            problem("a is BackingLost: the data of volume a is lost; the same of b"),
            problem("c is CopyDiffers: its files are not what was sealed"),
            problem("d is VerifyFailed: f: input/output error"),
        ]
    );
    let steps = findings(&facts, "1.0.0").into_iter().filter_map(|found| found.next);
    assert!(steps.into_iter().any(|step| step == "kubectl reservoir why spv/a"));
}

/// T4: ready pods of before an upgrade are no sign that it is in force.
#[test]
fn t4_the_doctor_waits_for_a_rollout() {
    let mut facts = healthy();
    let pod = |name: &str, conditions: Value| -> Pod {
        let meta = json!({"name": name, "namespace": "sys"});
        serde_json::from_value(json!({"metadata": meta, "status": {"conditions": conditions}})).unwrap()
    };
    let ready = json!([{"type": "Ready", "status": "True"}]);
    let unplaced = json!([{"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available"}]);
    facts.controller_pods =
        Some(vec![pod("c-1", ready.clone()), pod("c-2", ready.clone()), pod("c-3", unplaced)]);
    let status = json!({"replicas": 3, "readyReplicas": 2, "updatedReplicas": 1, "observedGeneration": 2});
    let controllers = facts.controllers.as_mut().unwrap();
    controllers[0].spec =
        Some(serde_json::from_value(json!({"replicas": 2, "selector": {}, "template": {}})).unwrap());
    controllers[0].status = Some(serde_json::from_value(status).unwrap());
    let said = "2 of 2 controllers (sys/controller) are ready, but the last rollout has made 1 of 2 pods: pod c-3: 0/2 nodes are available";
    assert_eq!(faults(&facts), [(Level::Problem, said.to_owned())]);
    let status = facts.controllers.as_mut().unwrap()[0].status.as_mut().unwrap();
    (status.replicas, status.updated_replicas) = (Some(2), Some(2));
    facts.controller_pods.as_mut().unwrap().pop();
    assert_eq!(faults(&facts), []);
    let agents = facts.agents.as_mut().unwrap()[0].status.as_mut().unwrap();
    agents.updated_number_scheduled = Some(0);
    facts.agent_pods = Some(vec![pod("a", ready)]);
    let found = faults(&facts);
    assert!(
        found[0]
            .1
            .starts_with("1 of 1 agents (sys/agent) are ready, but the last rollout has made 0 of 1 pods"),
        "{found:?}"
    );
}

/// T4, F7: Reservoir's own taint stays where the chart does not have it taken off.
#[test]
fn t4_f7_the_doctor_names_a_startup_taint_that_stays() {
    let mut facts = healthy();
    let labels = json!({"topology.reservoir.dev/node": "n1"});
    let taint = json!({"metadata": {"name": "n1", "labels": labels}, "spec": {"taints": [
        {"key": "reservoir.dev/agent-not-ready", "effect": "NoSchedule"}]}});
    facts.nodes = Some(vec![serde_json::from_value(taint).unwrap()]);
    assert_eq!(faults(&facts), [], "its agent is not ready");
    facts.agent_pods.as_mut().unwrap()[0].status =
        serde_json::from_value(json!({"conditions": [{"type": "Ready", "status": "True"}]})).unwrap();
    let said = "node n1 has the taint reservoir.dev/agent-not-ready, although its agent is ready: no pod without a toleration is placed there";
    assert_eq!(faults(&facts), [(Level::Problem, said.to_owned())]);
    let node = &mut facts.nodes.as_mut().unwrap()[0];
    (node.spec, node.metadata.labels) = (None, None);
    let said =
        "node n1 lacks the label topology.reservoir.dev/node=n1: no new pod of its volumes is placed there";
    assert_eq!(faults(&facts), [(Level::Problem, said.to_owned())]);
}

/// T4: what the release of before left is taken over by the same command, and without any release there is none to reuse.
#[test]
fn t4_the_doctor_installs_what_helm_accepts() {
    let mut facts = healthy();
    facts.controllers = Some(vec![]);
    facts.agents = Some(vec![]);
    let next = |facts: &Facts| facts.install_chart();
    assert!(
        next(&facts).starts_with(
            "helm upgrade --install reservoir charts/reservoir --namespace reservoir-system --create-namespace \
             --reset-then-reuse-values --take-ownership   #"
        ),
        "kinds that no release has: {}",
        next(&facts)
    );
    for crd in facts.crds.as_mut().unwrap() {
        crd.metadata.labels = Some([("app.kubernetes.io/managed-by".to_owned(), "Helm".to_owned())].into());
        crd.metadata.annotations = Some(
            [("release-name", "storage"), ("release-namespace", "infra")]
                .map(|(name, value)| (format!("meta.helm.sh/{name}"), value.to_owned()))
                .into(),
        );
    }
    let of_release = "helm upgrade --install storage charts/reservoir --namespace infra --create-namespace --reset-then-reuse-values   \
                      # keeps the values of a release that is there, which this shows: helm list -n infra; a new one gets those of";
    assert!(next(&facts).starts_with(of_release), "{}", next(&facts));
    // Without kinds, the chart brings them.
    facts.crds = Some(vec![]);
    let missing = findings(&facts, "1.0.0");
    let missing = missing.iter().find(|found| found.message.contains("is not installed")).unwrap();
    let chart = "helm upgrade --install reservoir charts/reservoir --namespace reservoir-system --create-namespace --reset";
    assert!(missing.next.as_deref().unwrap_or_default().starts_with(chart), "{:?}", missing.next);
}

/// T4: no policy at all is a missing chart, and no value of it.
#[test]
fn t4_the_doctor_blames_no_value_of_a_missing_chart() {
    let mut facts = healthy();
    facts.policies = POLICY_KINDS.into_iter().map(|kind| (kind, Some(BTreeSet::new()))).collect();
    let found = faults(&facts);
    assert!(found.iter().any(|(_, why)| why.starts_with("admission lacks")), "{found:?}");
    assert!(!found.iter().any(|(_, why)| why.starts_with("MutatingAdmissionPolicy")), "{found:?}");
}

/// Data of a destroyed volume that no reservation lists (X8).
fn keep_unlisted(facts: &mut Facts) {
    let kept = api::KeptOnDisk { since: some_time().unwrap(), until: some_time().unwrap(), over: false };
    facts.snapshot.disks[0].status.as_mut().unwrap().orphans = vec![api::Orphan {
        uid: "uid-v".into(),
        name: "v".into(),
        size: gi(1),
        spec: json!({"role": "eng", "size": "1Gi", "keepFor": "60s"}),
        reservations: vec![api::Reserved { name: "r".into(), role: "eng".into(), ..Default::default() }],
        kept: Some(kept),
        ..Default::default()
    }];
}

#[test]
fn t4_the_doctor_finds_each_fault_and_nothing_else() {
    assert_eq!(faults(&healthy()), []);
    type Break = fn(&mut Facts);
    let table: [(Level, &str, Break); 26] = [
        (Level::Problem, "there is no ClusterRoleBinding reservoir-agent", |f| {
            f.bindings.as_mut().unwrap().remove("reservoir-agent");
        }),
        (Level::Problem, "Kubernetes is 1.33", |f| f.server.1 = "33".into()),
        (Level::Problem, "the kind VolumeRole is not installed", |f| drop(f.crds.as_mut().unwrap().pop())),
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
        (Level::Note, "no agent runs on node n1", |f| f.agent_pods = Some(vec![])),
        (Level::Problem, "there is no CSIDriver", |f| f.drivers = Some(vec![])),
        (Level::Problem, "admission lacks ValidatingAdmissionPolicyBinding reservoir-static", |f| unbound(f)),
        (Level::Note, "MutatingAdmissionPolicy is not in force: whoever makes", |f| {
            for kind in ["MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"] {
                f.policies.insert(kind, Some(BTreeSet::new()));
            }
        }),
        (Level::Note, "MutatingAdmissionPolicy is not served here: whoever makes", |f| {
            f.policies.retain(|kind, _| kind.starts_with("Validating"));
        }),
        (Level::Problem, "NodeDisk n1.a is Test: said", |f| {
            set_ready(&mut f.snapshot.disks[0].status.as_mut().unwrap().conditions, false);
        }),
        (
            Level::Note,
            "NodeDisk n1.a has the data of 72 more volumes than status.orphans can list; 71Gi",
            |f| {
                let others = api::UnlistedOrphans { count: 72, size: gi(71) };
                f.snapshot.disks[0].status.as_mut().unwrap().unlisted_orphans = Some(others);
            },
        ),
        (
            Level::Note,
            "NodeDisk n1.a has the data of volume lost, and 1 more without an object: nothing",
            |f| {
                let orphans =
                    ["lost", "other"].map(|name| api::Orphan { name: name.into(), ..Default::default() });
                f.snapshot.disks[0].status.as_mut().unwrap().orphans = orphans.into();
            },
        ),
        (Level::Note, "the container runtime of node n1 does not ask", |f| {
            f.snapshot.disks[0].status.as_mut().unwrap().keeps_read_only = Some(false);
        }),
        (Level::Note, "NodeDisk n1.a keeps data of volume v that no reservation lists", |f| {
            keep_unlisted(f);
            f.snapshot.reservations = vec![reserved("r", "eng", 4, &[])];
        }),
        (Level::Note, "NodeDisk n1.a: ", keep_unlisted),
        (Level::Note, "NodeDisk n1.a: static reservation n1.a.eng is not as configured: no", |f| {
            let disk = f.snapshot.disks[0].clone();
            let failed = [("n1.a.eng".to_owned(), "no".to_owned())];
            let status = disk.status.clone().unwrap();
            f.snapshot.disks[0].status = Some(node_disk::with_failures(&disk, status, &failed));
        }),
        (Level::Note, "DiskReservation n1.a.eng of the agents' configuration is Test: said", |f| {
            let mut waits = reserved("n1.a.eng", "eng", 0, &[]);
            (waits.spec.is_static, waits.spec.node_disk) = (true, Some("n1.a".into()));
            set_ready(&mut waits.status.as_mut().unwrap().conditions, false);
            f.snapshot.reservations = vec![waits];
        }),
        (
            Level::Note,
            "NodeDisk n1.a: reservation n1.a.eng is not in the agent's configuration any more",
            |f| {
                let told = "fine; reservation n1.a.eng is not in the agent's configuration any more, and stays until nothing uses it";
                let told = api::condition::Verdict::yes(api::condition::reason::DISK_HEALTHY, told);
                let conditions = &mut f.snapshot.disks[0].status.as_mut().unwrap().conditions;
                api::condition::set(
                    conditions,
                    api::condition::DISK_HEALTHY,
                    told,
                    None,
                    jiff::Timestamp::UNIX_EPOCH,
                );
            },
        ),
        (Level::Problem, "there are no disks", |f| f.snapshot.disks.clear()),
        (Level::Note, "for role eng you lack use", |f| f.grants[0].1.retain(|verb| *verb != "use")),
        (Level::Note, "you may not list customresourcedefinitions", |f| f.crds = None),
    ];
    for (level, message, break_it) in table {
        let mut facts = healthy();
        break_it(&mut facts);
        let found = faults(&facts);
        assert!(
            found.len() == 1 && found[0].0 == level && found[0].1.starts_with(message),
            "{message}: {found:?}"
        );
    }
    let mut facts = healthy();
    facts.grants[0].1.retain(|verb| *verb != "use-readonly");
    assert!(faults(&facts).is_empty(), "use includes it: {:?}", faults(&facts));
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

/// T4: agents that Pod Security refuses are no matter of the node selector. Nor are controllers beyond a quota.
#[test]
fn t4_the_doctor_says_why_pods_are_missing() {
    fn from<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
        serde_json::from_value(value).unwrap()
    }
    let mut facts = healthy();
    facts.agent_pods = Some(vec![]);
    facts.agents.as_mut().unwrap()[0].status.as_mut().unwrap().number_ready = 0;
    facts.warnings = vec![from(json!({"metadata": {}, "type": "Warning", "reason": "FailedCreate",
        "involvedObject": {"kind": "DaemonSet", "name": "agent"},
        "message": "Error creating: pods \"agent-x\" is forbidden: violates PodSecurity \"baseline:latest\": privileged"}))];
    let found = findings(&facts, "1.0.0");
    let problem = found.iter().find(|f| f.level == Level::Problem).unwrap();
    assert_eq!(
        problem.message,
        "0 of 1 agents (sys/agent) are ready: namespace sys has Pod Security baseline:latest, which refuses its pods"
    );
    let next = problem.next.as_ref().unwrap();
    assert!(next.starts_with("kubectl label namespace sys --overwrite pod-security"), "{next}");
    let note = found.iter().find(|f| f.message.starts_with("no agent runs on node n1")).unwrap();
    assert!(!note.next.as_ref().unwrap().contains("nodeSelector"), "{note:?}");
    let template = json!({"spec": {"containers": [], "affinity": {"nodeAffinity": {}}}});
    facts.agents.as_mut().unwrap()[0].spec = from(json!({"selector": {}, "template": template}));
    let found = findings(&facts, "1.0.0");
    let note = found.iter().find(|f| f.message.starts_with("no agent runs on node n1")).unwrap();
    assert!(note.next.as_ref().unwrap().contains("template.spec.affinity"), "{note:?}");

    let mut facts = healthy();
    let status = json!({"replicas": 0, "conditions": [{"type": "ReplicaFailure", "status": "True",
        "message": "pods \"controller-x\" is forbidden: exceeded quota: none"}]});
    facts.controllers.as_mut().unwrap()[0].spec =
        from(json!({"replicas": 2, "selector": {}, "template": {}}));
    facts.controllers.as_mut().unwrap()[0].status = from(status);
    let found = findings(&facts, "1.0.0");
    let problem = found.iter().find(|f| f.level == Level::Problem).unwrap();
    assert!(
        problem.message.starts_with("0 of 2 controllers (sys/controller) are ready: the API server refuses"),
        "{problem:?}"
    );
    assert!(
        problem.next.as_ref().unwrap().starts_with("kubectl get resourcequotas,limitranges -n sys"),
        "{problem:?}"
    );

    // Several nodes with one taint are one finding, and another one is for itself.
    let mut facts = healthy();
    facts.agents.as_mut().unwrap()[0].spec =
        from(json!({"selector": {}, "template": {"spec": {"containers": []}}}));
    for (name, taint) in [("n2", "gpu"), ("n3", "gpu"), ("n4", "infra")] {
        let taints = json!([{"key": taint, "effect": "NoSchedule"}]);
        facts
            .nodes
            .as_mut()
            .unwrap()
            .push(from(json!({"metadata": {"name": name}, "spec": {"taints": taints}})));
    }
    let messages: Vec<String> = faults(&facts).into_iter().map(|(_, message)| message).collect();
    assert_eq!(
        messages,
        [
            "no agent runs on node n2 and n3: the taint gpu:NoSchedule is not tolerated",
            "no agent runs on node n4: the taint infra:NoSchedule is not tolerated",
        ]
    );
    let template = json!({"spec": {"containers": [], "nodeSelector": {"pool": "ssd"}}});
    facts.agents.as_mut().unwrap()[0].spec = from(json!({"selector": {}, "template": template}));
    let found = findings(&facts, "1.0.0");
    let found = found.iter().find(|f| f.message.starts_with("no agent runs on node n2")).unwrap();
    assert!(
        found.next.as_ref().unwrap().starts_with("kubectl label node n2 n3 n4 pool=ssd "),
        "all that the message names: {found:?}"
    );
}

/// T4: the disks may be configured, if no agent runs that could report them.
#[test]
fn t4_the_doctor_blames_no_configuration_for_agents_that_are_not_ready() {
    let mut facts = healthy();
    facts.snapshot.disks.clear();
    facts.agents.as_mut().unwrap()[0].status.as_mut().unwrap().number_ready = 0;
    let found = findings(&facts, "1.0.0");
    let disks = found.iter().find(|f| f.message.starts_with("there are no disks")).unwrap();
    assert_eq!(disks.message, "there are no disks, since no agent is ready");
    assert!(disks.next.as_ref().unwrap().starts_with("mend first what keeps the agents"), "{disks:?}");
}

#[test]
fn t4_the_doctor_checks_exactly_the_policies_of_the_chart() {
    let halves = |(prefix, name): &(&str, &str)| {
        ["Policy", "PolicyBinding"].map(|half| format!("{prefix}Admission{half} {name}"))
    };
    for (file, policies) in
        [("admission", POLICIES), ("admission-mutating", MUTATING), ("admission-unmutated", UNMUTATED)]
    {
        let path = format!("{}/charts/reservoir/files/{file}.yaml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let kinds = text.lines().filter_map(|line| line.strip_prefix("kind: "));
        let names = text.lines().filter_map(|line| line.strip_prefix("  name: "));
        let there: BTreeSet<String> = kinds.zip(names).map(|(kind, name)| format!("{kind} {name}")).collect();
        assert_eq!(there, policies.iter().flat_map(halves).collect(), "{file}");
    }
}

/// T4: a controller that cannot get its Lease is ready all the same.
#[test]
fn t4_the_doctor_tells_that_no_controller_leads() {
    let mut facts = healthy();
    let why = "no controller works: none holds Lease sys/reservoir-controller";
    facts.snapshot.leaderless = Some(why.into());
    let found = findings(&facts, "1.0.0").into_iter().find(|finding| finding.message == why).unwrap();
    assert_eq!(found.next, Some(advice::read_program_log("deployment/controller", "sys")));
    // The finding about the missing pods says it.
    facts.controllers.as_mut().unwrap()[0].status.as_mut().unwrap().ready_replicas = Some(0);
    assert!(faults(&facts).iter().all(|(_, message)| message != why));
}

/// T4, X9: the doctor tells of a kind of which nothing can be made.
#[test]
fn t4_x9_the_doctor_reports_a_kind_that_is_being_deleted() {
    let mut facts = healthy();
    let volumes =
        facts.crds.iter_mut().flatten().find(|kind| kind.spec.names.kind == "SharedPersistentVolume");
    volumes.unwrap().metadata.deletion_timestamp = some_time();
    let found = findings(&facts, "1.0.0").into_iter().find(|found| found.level == Level::Problem).unwrap();
    assert_eq!(
        found.message,
        "the kind SharedPersistentVolume is being deleted, and nothing of it can be made"
    );
    assert_eq!(found.next, Some(advice::see_kind_out()));
}
