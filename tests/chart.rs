//! What the chart makes of its values, and what it must not do: mistakes that others have published.

use std::fs;
use std::path::{Path, PathBuf};

use reservoir_cluster::command::Cmd;
use reservoir_cluster::{chart, prometheus};
use serde::Deserialize;
use serde_json::Value;

/// Every file of the chart, with its text.
fn files() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/reservoir")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => directories.push(path),
                false => files.push((path.clone(), fs::read_to_string(path).unwrap())),
            }
        }
    }
    files
}

/// A4. CVE-2026-44543: a template of a helper pod into which users could write. Nobody here can make a pod at all.
#[test]
fn cve_2026_44543_there_are_no_helper_pods() {
    let mut rules = 0;
    for (path, text) in files() {
        let mut resources = "";
        for line in text.lines().map(str::trim) {
            if let Some(list) = line.strip_prefix("resources: ") {
                resources = list;
            } else if let Some(verbs) = line.strip_prefix("verbs: ") {
                rules += 1;
                let runs_something = ["pods", "jobs", "daemonsets", "deployments", "statefulsets", "\"*\""]
                    .iter()
                    .any(|kind| resources.contains(kind));
                let writes = ["create", "update", "patch", "\"*\""].iter().any(|verb| verbs.contains(verb));
                assert!(!(runs_something && writes), "{}: {resources} {verbs}", path.display());
            }
        }
    }
    assert!(rules > 10, "{rules} rules were found");
}

/// X7. zfs-localpv 517, topolvm 1206: uninstalling or upgrading a chart deleted the kinds, and with them all data.
#[test]
fn zfs_localpv_517_topolvm_1206_helm_keeps_the_kinds() {
    let mut kinds = 0;
    for (path, text) in files() {
        // What helm test makes is taken away again; nothing else is a hook.
        let is_test = path.parent().is_some_and(|parent| parent.ends_with("templates/tests"));
        assert!(is_test || !text.contains("helm.sh/hook"), "{}", path.display());
        assert!(!is_test || !text.contains("CustomResourceDefinition"), "{}", path.display());
        if text.contains("kind: CustomResourceDefinition") && path.extension().is_some_and(|e| e == "yaml") {
            kinds += 1;
            assert!(text.contains("helm.sh/resource-policy: keep"), "{}", path.display());
        }
    }
    assert_eq!(kinds, reservoir::api::crds().len());
}

/// The objects that the chart makes with these values.
fn rendered(values: &[&str]) -> Vec<Value> {
    let text = chart::render(values).unwrap();
    let documents =
        serde_yaml::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap());
    documents.filter(|document| !document.is_null()).collect()
}

fn only<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let found: Vec<&Value> = objects.iter().filter(|object| object["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{kind}");
    found[0]
}

/// X3. Where a volume's users are found among the node's processes the agent sees these, and nowhere else.
#[test]
fn x3_the_agent_gets_of_the_node_what_its_disks_need() {
    let disk = |set: &[&str]| {
        let values: Vec<String> = set.iter().map(|value| format!("agent.disks[0].{value}")).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        only(&rendered(&[&["agent.disks[0].name=d"], &values[..]].concat()), "DaemonSet").clone()
    };
    let adopting = ["path=/d", "adoptRoots[0]=/srv/data", "allowUnenforced=true"];
    for (set, host_pid, mounted, propagation) in [
        (&["path=/d"][..], false, "/d", None),
        (&["path=/d", "backing=Loop"], false, "/d", None),
        (&["path=/d", "backing=Quota"], true, "/d", None),
        (&["path=/d", "backing=Btrfs"], true, "/d", Some("HostToContainer")),
        (&["path=/d", "kind=Mount"], true, "/d", Some("HostToContainer")),
        (&["path=/dev/d", "kind=Block"], true, "/dev", None),
        (&["path=/dev/d", "kind=Block"], true, "/var/lib/reservoir-agent", None),
        (&["path=/dev/vg0", "backing=Lvm"], false, "/dev", None),
        (&["path=/dev/vg0", "backing=Lvm"], false, "/run/lock/lvm", None),
        (&["path=/dev/vg0", "backing=Lvm"], false, "/etc/lvm", None),
        (&adopting, true, "/srv/data", Some("HostToContainer")),
    ] {
        let daemons = disk(set);
        let pod = &daemons["spec"]["template"]["spec"];
        assert_eq!(pod["hostPID"] == true, host_pid, "{set:?}");
        let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
        assert!(
            mounts.iter().all(|mount| mount["mountPath"] != "/dev/vg0"),
            "LVM's own names, and no directory"
        );
        let mount = mounts.iter().find(|mount| mount["mountPath"] == mounted);
        let mount = mount.unwrap_or_else(|| panic!("{set:?}: {mounted} is not mounted"));
        assert_eq!(mount["mountPropagation"].as_str(), propagation, "{set:?}");
        let volumes = pod["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
        assert_eq!(volume["hostPath"]["path"], mounted, "{set:?}");
    }
}

#[test]
fn what_is_off_by_default_is_made_when_it_is_asked_for() {
    let kinds = |values: &[&str]| -> Vec<String> {
        let objects = rendered(values);
        objects
            .iter()
            .map(|object| format!("{}/{}", object["kind"], object["metadata"]["name"]).replace('"', ""))
            .collect()
    };
    let by_default = kinds(&[]);
    for (value, brings) in [
        ("monitoring.podMonitor.enabled=true", "PodMonitor/reservoir"),
        ("monitoring.alerts.enabled=true", "PrometheusRule/reservoir"),
        ("monitoring.dashboard.enabled=true", "ConfigMap/reservoir-dashboard"),
        ("networkPolicy.enabled=true", "NetworkPolicy/reservoir"),
    ] {
        let mut with = kinds(&[value]);
        assert!(
            with.contains(&brings.to_owned()) && !by_default.contains(&brings.to_owned()),
            "{value}: {with:?}"
        );
        with.retain(|object| object != brings);
        assert_eq!(with, by_default, "{value}");
    }
    assert!(by_default.contains(&"PodDisruptionBudget/reservoir-controller".to_owned()));
    assert!(
        !kinds(&["controller.replicas=1"]).contains(&"PodDisruptionBudget/reservoir-controller".to_owned())
    );
    let with = rendered(&["monitoring.dashboard.enabled=true", "monitoring.alerts.enabled=true"]);
    let dashboard = with.iter().find(|object| object["metadata"]["name"] == "reservoir-dashboard").unwrap();
    let dashboard: Value =
        serde_json::from_str(dashboard["data"]["reservoir.json"].as_str().unwrap()).unwrap();
    assert_eq!(dashboard["uid"], "reservoir");
    let alerts = only(&with, "PrometheusRule")["spec"]["groups"][0]["rules"].as_array().unwrap();
    assert!(alerts.len() > 10 && alerts.iter().all(|alert| alert["annotations"]["runbook_url"].is_string()));
}

/// What YAML takes for a number is a name all the same.
#[test]
fn names_and_roles_that_look_like_numbers_stay_what_they_are() {
    let objects = rendered(&[
        "storageClasses[0].name=1e3",
        "storageClasses[0].role=1e3",
        "storageClasses[0].reservation=1e3",
        "storageClasses[0].namespaces={1e3}",
        "test.role=1e3",
    ]);
    let class = only(&objects, "StorageClass");
    for said in
        [&class["metadata"]["name"], &class["parameters"]["role"], &class["parameters"]["reservation"]]
    {
        assert_eq!(said, "1e3", "{class}");
    }
    for kind in ["DiskReservation", "SharedPersistentVolume", "VolumeClaim"] {
        assert_eq!(only(&objects, kind)["spec"]["role"], "1e3", "{kind}");
    }
    assert_eq!(only(&objects, "RoleSubscription")["spec"]["roles"][0], "1e3");
}

#[test]
fn labels_secrets_and_places_reach_the_pods() {
    let values = [
        "commonLabels.team=storage",
        "imagePullSecrets[0].name=registry",
        "controller.podLabels.a=b",
        "controller.topologySpreadConstraints=null",
        "agent.podAnnotations.c=d",
        "agent.maxUnavailable=10%",
        "agent.priorityClassName=high",
        "kubeletDir=/var/lib/k0s/kubelet",
    ];
    let objects = rendered(&values);
    let (controller, agent) = (only(&objects, "Deployment"), only(&objects, "DaemonSet"));
    for workload in [controller, agent] {
        let pod = &workload["spec"]["template"];
        assert_eq!(workload["metadata"]["labels"]["team"], "storage");
        assert_eq!(pod["metadata"]["labels"]["team"], "storage");
        assert_eq!(pod["spec"]["imagePullSecrets"][0]["name"], "registry");
        assert!(
            workload["spec"]["selector"]["matchLabels"].as_object().unwrap().len() == 2,
            "it cannot be upgraded"
        );
    }
    assert_eq!(controller["spec"]["template"]["metadata"]["labels"]["a"], "b");
    assert!(controller["spec"]["template"]["spec"]["topologySpreadConstraints"].is_null());
    assert_eq!(agent["spec"]["template"]["metadata"]["annotations"]["c"], "d");
    assert_eq!(agent["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], "10%");
    let pod = &agent["spec"]["template"]["spec"];
    assert_eq!(pod["priorityClassName"], "high");
    let args = pod["containers"][0]["args"].as_array().unwrap();
    assert!(args.contains(&"--kubelet-dir=/var/lib/k0s/kubelet".into()), "{args:?}");
}

#[test]
fn the_schema_describes_each_value_and_refuses_what_is_none() {
    fn walk(at: &str, schema: &Value, undescribed: &mut Vec<String>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let at = format!("{at}.{name}");
            if !property["description"].is_string() {
                undescribed.push(at.clone());
            }
            walk(&at, property, undescribed);
        }
        if schema["properties"].is_object() {
            assert_eq!(schema["additionalProperties"], false, "{at} takes anything");
        }
        if schema["items"].is_object() {
            walk(&format!("{at}[]"), &schema["items"], undescribed);
        }
    }
    let schema = fs::read(chart::path().join("values.schema.json")).unwrap();
    let mut undescribed = Vec::new();
    walk("", &serde_json::from_slice(&schema).unwrap(), &mut undescribed);
    assert_eq!(undescribed, Vec::<String>::new());
    chart::lint().unwrap();
    for wrong in [
        "agent.disk[0].name=typo",
        "agent.disks[0].name=d,agent.disks[0].path=/d,agent.disks[0].backing=Zfs",
        "agent.maxUnavailable=some",
        "controller.replicas=0",
        "kubeletDir=var/lib/kubelet",
        "monitoring.enabled=true",
        "imagePullSecrets[0].nam=registry",
        "agent.disks[0].name=d,agent.disks[0].path=/d,agent.disks[0].reservations[0].role=a//b,agent.disks[0].reservations[0].size=1Gi",
        "storageClasses[0].name=eng,storageClasses[0].role=eng/-ml",
        "test.role=a b",
    ] {
        let refused = chart::render(&[wrong]).unwrap_err().to_string();
        assert!(refused.contains("schema"), "{wrong}: {refused}");
    }
}

/// T3.
#[test]
fn t3_alerts_fire_when_they_should_and_else_do_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let promtool = prometheus::program("promtool").unwrap();
    let told =
        Cmd::new(promtool).args(["test", "rules"]).arg(root.join("tests/alerts.yaml")).stdout_in_errors();
    told.run().unwrap();

    let tested = fs::read_to_string(root.join("tests/alerts.yaml")).unwrap();
    let alerts = fs::read_to_string(root.join("charts/reservoir/files/alerts.yaml")).unwrap();
    let names: Vec<_> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(
            tested.contains(&format!("alertname=\"{name}\"")),
            "{name} is in no test of tests/alerts.yaml"
        );
    }
}
