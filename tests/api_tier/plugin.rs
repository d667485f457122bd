//! `kubectl reservoir` as people run it: the real program and kubectl, with the real API server (T4).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use reservoir::api::{DiskReservation, NodeDisk, RoleSubscription, SharedPersistentVolume, VolumeClaim};
use reservoir_cluster::api::ApiOptions;
use serde_json::{Value, json};

use crate::ask::{cluster as with_people, grant};
use crate::support::{Cluster, one_node, until, until_gone, until_reason};

pub const PLUGIN: &str = env!("CARGO_BIN_EXE_kubectl-reservoir");

/// Standard output and standard error of a run.
pub struct Ran {
    pub out: String,
    pub err: String,
    pub ok: bool,
}

/// The command, with the cluster's administrator.
pub fn program(cluster: &Cluster, line: &str) -> Command {
    let mut command = Command::new(PLUGIN);
    command.args(line.split_whitespace()).env("KUBECONFIG", cluster.server.kubeconfig_path());
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

pub fn run(cluster: &Cluster, line: &str) -> Ran {
    let done = program(cluster, line).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { out: text(done.stdout), err: text(done.stderr), ok: done.status.success() }
}

/// Runs the command, which must succeed; returns its output.
pub fn does(cluster: &Cluster, line: &str) -> String {
    let ran = run(cluster, line);
    println!("$ kubectl reservoir {line}\n{}{}", ran.err, ran.out);
    assert!(ran.ok, "{line}: {}{}", ran.out, ran.err);
    ran.out
}

/// Runs the command, which must fail; returns the error.
pub fn fails(cluster: &Cluster, line: &str) -> String {
    let ran = run(cluster, line);
    println!("$ kubectl reservoir {line}\n{}{}", ran.err, ran.out);
    assert!(!ran.ok, "{line}: {}", ran.out);
    ran.err
}

pub fn parsed(cluster: &Cluster, line: &str) -> Value {
    serde_json::from_str(&does(cluster, &format!("{line} -o json"))).unwrap()
}

/// A shell with kubectl and the plug-in in its path.
pub struct Shell {
    bin: tempfile::TempDir,
    kubeconfig: PathBuf,
}

impl Shell {
    pub async fn new(cluster: &Cluster) -> Self {
        let bin = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(PLUGIN, bin.path().join("kubectl-reservoir")).unwrap();
        let kubectl = tokio::task::spawn_blocking(reservoir_cluster::tools::kubectl).await.unwrap().unwrap();
        std::os::unix::fs::symlink(kubectl, bin.path().join("kubectl")).unwrap();
        Self { bin, kubeconfig: cluster.server.kubeconfig_path() }
    }

    /// Runs the command, which must succeed; returns its output.
    pub fn run(&self, command: &str) -> String {
        self.try_run(command).unwrap_or_else(|failed| panic!("{failed}"))
    }

    /// Runs the command for a minute at most. `Err`: its output, after a failure.
    pub fn try_run(&self, command: &str) -> Result<String, String> {
        let path = format!("{}:{}", self.bin.path().display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("timeout");
        shell.args(["60", "sh", "-c", command]).env("PATH", path).env("KUBECONFIG", &self.kubeconfig);
        let done = shell.stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (out, err) = (text(done.stdout), text(done.stderr));
        println!("$ {command}\n{err}{out}");
        if done.status.success() { Ok(out) } else { Err(format!("{command}: {err}{out}")) }
    }
}

/// T4: from nothing to a pod that uses a volume in six lines, and back.
#[tokio::test(flavor = "multi_thread")]
async fn t4_one_line_each_from_an_empty_disk_to_a_pod() {
    let (cluster, _agent) = one_node("512Mi").await;
    cluster.apply_text("{apiVersion: v1, kind: Namespace, metadata: {name: team}}").await;

    // A dry run writes nothing, wherever it is checked.
    for place in ["client", "server"] {
        let said = does(&cluster, &format!("reserve eng --role eng --size 256Mi --dry-run={place} --wait"));
        assert!(said.starts_with("diskreservation.reservoir.dev/eng created ("), "{said}");
    }
    let said = parsed(&cluster, "reserve eng --role eng --size 256Mi --dry-run=server");
    assert_eq!(
        (&said["kind"], &said["spec"]["principal"]),
        (&json!("DiskReservation"), &json!("admin")),
        "{said}"
    );
    assert!(cluster.all::<DiskReservation>().get_opt("eng").await.unwrap().is_none());

    does(&cluster, "reserve eng --role eng --size 256Mi --wait");
    does(&cluster, "create data --role eng --size 64Mi --label kind=set --wait --timeout 60s");
    assert_eq!(
        does(&cluster, "subscribe eng -n team --wait"),
        "rolesubscription.reservoir.dev/eng created\n"
    );
    let made = run(&cluster, "claim data --role eng --volume data -n team --wait");
    assert!(made.ok && made.err.contains(" s  Bound: "), "it tells of what it waits for: {}", made.err);
    let pod = cluster.pod("team", "web", &["data"]).await;
    let volumes = cluster.all::<SharedPersistentVolume>();
    until("the pod is counted", || async {
        let status = volumes.get("data").await.unwrap().status.unwrap();
        (status.user_count == 1).then_some(())
    })
    .await;

    let tree = does(&cluster, "tree");
    let lines: Vec<&str> = tree.lines().collect();
    assert_eq!(lines.len(), 5, "{tree}");
    assert!(lines[0].starts_with("NodeDisk n1.default  256Mi of 512Mi free on node n1"), "{tree}");
    assert!(lines[4].ends_with("   └─ Pod team/web  Pending"), "{tree}");
    assert_eq!(does(&cluster, "tree --role ops -n team"), "there is nothing to show\n");
    let nested = parsed(&cluster, "tree -n team --role eng");
    assert_eq!(
        nested[0]["children"][0]["children"][0]["children"][0]["children"][0]["name"], "web",
        "{nested}"
    );

    let status = does(&cluster, "status");
    assert!(
        status.contains("██████████░░░░░░░░░░  50%") && status.contains("1 of 1 claims bound"),
        "{status}"
    );
    let summed = parsed(&cluster, "status");
    assert_eq!(summed["roles"][0]["used"], 64 << 20, "{summed}");
    let yaml: Value = serde_yaml::from_str(&does(&cluster, "status -o yaml")).unwrap();
    assert_eq!(yaml, summed);

    // The reason why the volume stays, and the step that ends this.
    let why = does(&cluster, "why spv data");
    assert!(
        why.contains("claimed by team/data (ReadWrite)") && why.contains("used by pod team/web"),
        "{why}"
    );
    assert!(why.contains("next: ") && why.contains("kubectl reservoir retire data"), "{why}");

    does(&cluster, "resize data 96Mi --wait --timeout 60s");
    assert!(does(&cluster, "resize data 96Mi --wait").contains("data unchanged"));
    does(&cluster, "resize dr/eng 200Mi --wait --timeout 60s");
    let said = does(&cluster, "resize data 1Gi");
    assert!(said.contains("is being resized"));
    let full = fails(&cluster, "resize data 2Gi --wait --timeout 5s");
    assert!(
        full.contains("not done after 5 s (ReservationFull: ")
            && full.contains("kubectl reservoir why spv/data"),
        "{full}"
    );
    let why = parsed(&cluster, "why spv/data");
    assert_eq!(why["because"][0]["reason"], "ReservationFull", "{why}");
    does(&cluster, "resize data 96Mi --wait --timeout 60s");

    does(&cluster, "retire data");
    until("it is said that it is to be retired", || async {
        does(&cluster, "why spv/data").contains("kubectl reservoir unretire data").then_some(())
    })
    .await;
    does(&cluster, "unretire data");
    assert!(does(&cluster, "unretire data").ends_with("/data unchanged\n"));
    assert!(does(&cluster, "subscribe eng -n team --wait").ends_with("/eng unchanged\n"));
    assert!(
        run(&cluster, "tree --role egn").err.contains("note: no object is of role egn; did you mean eng?")
    );
    assert!(
        run(&cluster, "status -n tema").err.contains("note: there is no namespace tema; did you mean team?")
    );
    cluster.end_pod("team", &pod.metadata.name.unwrap()).await;
    let refused = fails(&cluster, "delete spv/data");
    assert!(refused.contains("\n  claimed by team/data (ReadWrite)"), "{refused}");
    let unsubscribed = run(&cluster, "unsubscribe eng -n team");
    assert_eq!(unsubscribed.out.lines().next(), Some("rolesubscription.reservoir.dev/eng deleted"));
    assert!(
        unsubscribed.err.contains("These claims go on:\n  VolumeClaim team/data: "),
        "{}",
        unsubscribed.err
    );
    let claims = cluster.within::<VolumeClaim>("team");
    until("the claim's condition says that it goes on", || async {
        let conditions = claims.get("data").await.unwrap().status.unwrap().conditions;
        let said = &conditions.iter().find(|c| c.type_ == "Ready").unwrap().message;
        said.ends_with("; the namespace is not subscribed to role eng any more, and the claim goes on until it is deleted")
            .then_some(())
    })
    .await;
    does(&cluster, "delete vclaim/data -n team --wait --timeout 60s");
    until_gone(&claims, "data").await;
    // No subscription exists while the claim waits.
    let stuck = fails(&cluster, "claim data --role eng --volume data -n team --wait --timeout 60s");
    assert!(stuck.contains("is stuck (NoSubscription: "), "{stuck}");
    does(&cluster, "unclaim data -n team");
    until_gone(&claims, "data").await;
    let gone = run(&cluster, "retire data --wait --timeout 60s");
    assert!(gone.ok && gone.err.ends_with(" s  gone\n"), "{}", gone.err);
    assert!(volumes.get_opt("data").await.unwrap().is_none());
}

/// T4: `why` explains a wait from its root. The errors for wrong names and kinds have the nearest name.
#[tokio::test(flavor = "multi_thread")]
async fn t4_why_finds_the_root_cause_and_the_nearest_name() {
    let cluster = Cluster::start().await;
    cluster.apply_text("{apiVersion: v1, kind: Namespace, metadata: {name: team}}").await;
    does(&cluster, "reserve big --role eng --size 5Gi");
    does(&cluster, "create data --role eng --size 64Mi");
    does(&cluster, "subscribe eng -n team");
    until_reason(&cluster.within::<RoleSubscription>("team"), "eng", "Subscribed").await;
    does(&cluster, "claim data --role eng --volume data -n team");
    until_reason(&cluster.all::<DiskReservation>(), "big", "NoSuchDisk").await;
    until_reason(&cluster.within::<VolumeClaim>("team"), "data", "VolumeNotReady").await;
    cluster.pod("team", "web", &["data"]).await;
    let why = does(&cluster, "why pod/web -n team");
    let lines: Vec<&str> = why.lines().collect();
    assert!(lines[0].starts_with("Pod team/web: Pending"), "{why}");
    for (line, said) in [
        (1, "because DiskReservation big is NoSuchDisk: "),
        (2, "so SharedPersistentVolume data is NoReservation: "),
        (3, "so VolumeClaim team/data is VolumeNotReady: "),
        (4, "so Pod team/web is Pending"),
        (5, "next: kubectl reservoir doctor   # there is no disk"),
    ] {
        assert!(lines[line].trim_start().starts_with(said), "{why}");
    }
    for object in ["pvc/data", "vclaim data", "rsub/eng"] {
        does(&cluster, &format!("why {object} -n team"));
    }
    assert!(does(&cluster, "status").contains("kubectl reservoir why vclaim/data -n team"));

    for (line, said) in [
        ("why spv/dta", "there is no SharedPersistentVolume dta; did you mean data?"),
        ("why vclaim/data", "there is one in namespace team: add -n team"),
        ("why vclam/data", "did you mean vclaim?"),
        ("why data", "write KIND/NAME"),
        ("retire dta", "there is no SharedPersistentVolume dta; did you mean data?"),
        ("resize nd/x 1Gi", "a NodeDisk has no size: resize spv/NAME or dr/NAME"),
        ("resize big 1Gi", "there is no SharedPersistentVolume big; there is DiskReservation big: dr/big"),
        ("resize data +1Gi", "1Gi more? Write the size that it is to have in all"),
        ("why ns/team", "kubectl reservoir tree -n shows a namespace"),
        ("why spv/data spv/big", "one object at a time: spv/data"),
        ("delete spv/dta dr/bg", "there is no SharedPersistentVolume dta; did you mean data?"),
        ("delete spv/dta dr/bg", "there is no DiskReservation bg; did you mean big?"),
        ("create data --role eng --size 64Mi", "already exists"),
        ("create other --role eng --size lots", "write a number with a unit"),
        ("create other --role eng --size 300", "300 bytes? Write the unit, such as 300Gi"),
        ("why sts/web -n team", "there is no StatefulSet team/web"),
        ("delete dr/bg", "there is no DiskReservation bg; did you mean big?"),
        ("delete pod/web -n team", "kubectl delete pod/web"),
        ("unsubscribe egn -n team", "namespace team is not subscribed to role egn; did you mean eng?"),
        ("recover nothing", "kubectl reservoir orphans lists all of it"),
        ("status --context none", "none"),
        ("status --kubeconfig /none", "/none"),
    ] {
        let error = fails(&cluster, line);
        assert!(error.contains(said), "{line}: {error}");
    }
}

/// T4, A5: the message names the missing right, and the output has everything that the caller may see.
#[tokio::test(flavor = "multi_thread")]
async fn t4_the_plug_in_has_the_rights_of_its_caller() {
    let cluster = with_people().await;
    grant(&cluster, "jane", &["reserve"], &["eng"]).await;
    let jane = "--as jane --as-group people";
    does(&cluster, &format!("reserve eng --role eng --size 1Gi {jane}"));
    let error = fails(&cluster, &format!("reserve ops --role ops --size 1Gi {jane}"));
    assert!(error.contains("user jane lacks the verb reserve on volumeroles.reservoir.dev/ops"), "{error}");
    // The caller may see no pods, but all other kinds.
    let seen = run(&cluster, &format!("tree {jane}"));
    assert!(seen.ok && seen.out.contains("DiskReservation eng"), "{}", seen.err);
    assert!(
        seen.err.contains("you may not list pods and persistentvolumeclaims of namespace default"),
        "{}",
        seen.err
    );
    let unseen = fails(&cluster, "why spv/data --as nobody");
    assert!(unseen.contains("SharedPersistentVolume data may not be seen with your rights"), "{unseen}");
    let status = does(&cluster, "status --as nobody");
    assert!(
        status.starts_with("disks and roles may not be seen with your rights\n\nvolumes may not be seen"),
        "{status}"
    );
    assert!(!run(&cluster, "doctor --as nobody").out.contains("there are no disks"));
    let blind = run(&cluster, "status --as nobody");
    assert!(blind.ok && blind.err.contains("ask for ClusterRole reservoir-viewer"), "{}", blind.err);
    let looked: Vec<Value> =
        serde_json::from_str(&run(&cluster, &format!("doctor -o json {jane}")).out).unwrap();
    let lacks =
        looked.iter().find(|finding| finding["what"].as_str().unwrap().starts_with("for role eng you lack"));
    let next = lacks.unwrap()["next"].as_str().unwrap();
    assert!(
        next.contains("kubectl reservoir grant eng --verbs unreserve,create,destroy")
            && next.ends_with("--to user jane"),
        "{next}"
    );
    let lacks = lacks.unwrap()["what"].as_str().unwrap();
    assert!(lacks.contains("use-readonly") && !lacks.contains("lack reserve"), "{lacks}");
    // A controller that ended has given its Lease back.
    let lease = "{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: reservoir-controller, namespace: default}, spec: {}}";
    let binding =
        "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: vera},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reservoir-viewer},
 subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: vera}]}";
    cluster.apply_text(&format!("{lease}\n---\n{binding}")).await;
    let told = "no controller works: none holds Lease default/reservoir-controller";
    let status = until("the viewer is told", || async {
        let status = run(&cluster, "status --as vera");
        status.out.contains(told).then_some(status.out)
    })
    .await;
    assert!(status.contains("kubectl reservoir doctor"), "{status}");
    let why = does(&cluster, "why dr/eng --as vera");
    assert!(why.contains(told), "{why}");
}

/// T4: the doctor finds faults of the installation. Without the kinds every command reports that.
#[tokio::test(flavor = "multi_thread")]
async fn t4_the_doctor_finds_a_missing_installation() {
    let cluster = Cluster::bare(ApiOptions { controller_manager: false, audit: false }).await;
    let found = run(&cluster, "doctor");
    println!("{}", found.out);
    assert!(!found.ok, "no controller is not fine: {}", found.out);
    for said in [
        "✓ all kinds are installed, with the fields of this plug-in's version",
        "✓ all admission policies are installed and bound",
        "✗ there is no controller",
        "✗ there is no agent",
        "✗ there are no disks",
    ] {
        assert!(found.out.contains(said), "{said}: {}", found.out);
    }
    let empty = reservoir_cluster::api::ApiServer::start(ApiOptions::default()).await.unwrap();
    let run = |line: &str| {
        let mut command = Command::new(PLUGIN);
        command.args(line.split(' ')).env("KUBECONFIG", empty.kubeconfig_path()).output().unwrap()
    };
    for line in ["status", "why spv/x", "create v --role eng --size 1Gi", "retire v", "orphans", "recover"] {
        let done = run(line);
        let error = String::from_utf8(done.stderr).unwrap();
        assert!(!done.status.success() && error.contains("install the chart"), "{line}: {error}");
    }
    let doctor = String::from_utf8(run("doctor").stdout).unwrap();
    assert!(doctor.contains("✗ the kind NodeDisk is not installed"), "{doctor}");
}

/// D6: what an agent found on this machine, whatever that is, and what a NodeDisk without an agent has. Nothing is written
/// while the hardware stays as it is.
#[tokio::test(flavor = "multi_thread")]
async fn d6_devices_are_listed_before_a_disk_takes_any() {
    let (cluster, _agent) = one_node("128Mi").await;
    let disks = cluster.all::<NodeDisk>();
    until_reason(&disks, "n1.default", "Ready").await;
    let found = disks.get("n1.default").await.unwrap().status.unwrap().devices;
    println!("devices of this machine: {found:?}");
    assert!(found.len() <= reservoir::api::MAX_DEVICES);
    let shown = parsed(&cluster, "disks --discover");
    let paths: Vec<_> = shown.as_array().unwrap().iter().map(|device| device["path"].clone()).collect();
    assert_eq!(json!(paths), json!(found.iter().map(|device| &device.path).collect::<Vec<_>>()));
    cluster.quiet_for(Duration::from_secs(3)).await;
    cluster
        .apply_text(
            "{apiVersion: reservoir.dev/v1alpha1, kind: NodeDisk, metadata: {name: n0.a},
              spec: {nodeName: n0, diskName: a, diskID: d, kind: Path, backing: Loop, path: /d}}",
        )
        .await;
    let devices = json!({"status": {"devices": [
        {"path": "/dev/sdb", "size": "2Gi", "model": "Fast", "serial": "s2", "matchedBy": ["nvme"]},
        {"path": "/dev/sda", "size": "1Gi", "obstacle": "has partitions", "rotational": true}]}});
    disks.patch_status("n0.a", &Default::default(), &kube::api::Patch::Merge(&devices)).await.unwrap();
    let said = does(&cluster, "disks --discover");
    let row = |n| said.lines().nth(n).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(row(0), "NODE DEVICE SIZE MODEL SERIAL ROTATIONAL STATE MATCHED BY");
    assert_eq!(row(1), "n0 /dev/sda 1Gi - - yes has partitions -");
    assert_eq!(row(2), "n0 /dev/sdb 2Gi Fast s2 no blank nvme");
}

/// X6: the manifests recover orphans: all, or only the requested ones.
#[tokio::test(flavor = "multi_thread")]
async fn t4_orphans_are_listed_with_their_recovery() {
    let cluster = Cluster::bare(ApiOptions { controller_manager: false, audit: false }).await;
    cluster
        .apply_text(
            "{apiVersion: reservoir.dev/v1alpha1, kind: NodeDisk, metadata: {name: n1.a},
              spec: {nodeName: n1, diskName: a, diskID: d, kind: Path, backing: Loop, path: /d}}",
        )
        .await;
    let orphan = |uid: &str, name: &str| {
        json!({"uid": format!("{uid}-0000-4000-8000-000000000000"), "name": name, "size": "1Gi",
            "reservations": [{"name": "eng", "role": "eng", "size": "4Gi"}],
            "spec": {"role": "eng", "size": "1Gi", "reservation": "eng", "shared": {},
                "recover": {"uid": format!("{uid}-0000-4000-8000-000000000000")}}})
    };
    let ready = json!({"type": "Ready", "status": "True", "reason": "Ready", "message": "served",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = json!({"status": {"conditions": [ready], "orphans": [orphan("0000000a", "one"),
        orphan("0000000b", "two"), {"uid": "dark", "size": "1Gi", "problem": "it is damaged"}]}});
    let disks = cluster.all::<NodeDisk>();
    disks.patch_status("n1.a", &Default::default(), &kube::api::Patch::Merge(&status)).await.unwrap();
    let told = does(&cluster, "orphans");
    assert_eq!(told.lines().count(), 6, "{told}");
    assert!(told.contains("it is damaged") && told.contains("kubectl reservoir recover"), "{told}");
    assert_eq!(parsed(&cluster, "orphans")[0]["disk"], "n1.a");
    let all = does(&cluster, "recover");
    assert_eq!(all.matches("kind: SharedPersistentVolume").count(), 2, "{all}");
    assert!(
        all.contains("# the data of a volume without a name (dark) on NodeDisk n1.a cannot be recovered"),
        "{all}"
    );
    let one = does(&cluster, "recover one");
    assert!(one.contains("name: one") && !one.contains("name: two"), "{one}");
    // The output can be applied as it is.
    cluster.apply_text(&one).await;
    let list = parsed(&cluster, "recover two");
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "the reservation is there by now: {list}");
    let same = Command::new(env!("CARGO_BIN_EXE_reservoir"))
        .arg("recover")
        .env("KUBECONFIG", cluster.server.kubeconfig_path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(same.stdout).unwrap(), does(&cluster, "recover"));
}

/// T4: kubectl finds and completes the plug-in. A watched view is printed again after a change.
#[tokio::test(flavor = "multi_thread")]
async fn t4_kubectl_runs_it_and_a_watch_shows_changes() {
    let cluster = Cluster::bare(ApiOptions { controller_manager: false, audit: false }).await;
    let bin = tempfile::tempdir().unwrap();
    for name in ["kubectl-reservoir", "kubectl_complete-reservoir"] {
        std::os::unix::fs::symlink(PLUGIN, bin.path().join(name)).unwrap();
    }
    let kubectl = tokio::task::spawn_blocking(reservoir_cluster::tools::kubectl).await.unwrap().unwrap();
    let path = format!("{}:{}", bin.path().display(), std::env::var("PATH").unwrap());
    let kubectl = |args: &[&str]| {
        let mut command = Command::new(&kubectl);
        let done = command
            .args(args)
            .env("PATH", &path)
            .env("KUBECONFIG", cluster.server.kubeconfig_path())
            .output();
        let done = done.unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    does(&cluster, "reserve eng --role eng --size 1Gi");
    assert!(kubectl(&["reservoir", "tree"]).starts_with("DiskReservation eng"), "kubectl runs it");
    assert!(kubectl(&["__complete", "reservoir", "why", "dr/"]).contains("dr/eng"), "kubectl completes it");
    for shell in ["bash", "zsh", "fish"] {
        assert!(does(&cluster, &format!("completion {shell}")).contains("unretire"));
    }
    // An unusable script would contain this word, too, so a shell runs the script.
    let script = "source <(kubectl-reservoir completion bash); COMP_WORDS=(kubectl-reservoir tree --ro); COMP_CWORD=2; \
                  _kubectl__reservoir kubectl-reservoir --ro tree; echo \"${COMPREPLY[@]}\"";
    let bash = Command::new("bash").args(["-c", script]).env("PATH", &path).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&bash.stdout), "--role\n", "{bash:?}");

    let log = bin.path().join("log");
    let out = std::fs::File::create(&log).unwrap();
    let mut watching = program(&cluster, "tree --watch").stdout(out).spawn().unwrap();
    let shows = async |what: &str| {
        let started = Instant::now();
        while !read(&log).contains(what) && started.elapsed() < Duration::from_secs(30) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        read(&log)
    };
    let first = shows("DiskReservation eng").await;
    does(&cluster, "reserve ops --role ops --size 2Gi");
    let then = shows("DiskReservation ops").await;
    watching.kill().unwrap();
    watching.wait().unwrap();
    assert_eq!(first.lines().count(), 1, "{first}");
    assert!(then.contains("---\nDiskReservation eng") && then.contains("DiskReservation ops"), "{then}");
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}
