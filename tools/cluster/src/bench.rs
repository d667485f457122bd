//! Pods with volumes against pods without, by turns in one run: how long they take to start and to go, who writes how often to
//! the API server meanwhile, and its CPU time.

mod local_path;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use jiff::Timestamp;

use crate::node::Cluster;
use crate::progress::say;
use crate::tour::{self, Tour};

const NAMESPACE: &str = "reservoir-bench";

/// How often each sort of pods has its turn.
const TURNS: usize = 2;

/// The longest wait for all pods of a turn.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the pods of a turn have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sort {
    Bare,
    /// A PersistentVolumeClaim each, of Reservoir's StorageClass.
    Class,
    /// A PersistentVolumeClaim each, of local-path-provisioner's StorageClass.
    LocalPath,
    /// A VolumeClaim and a volume each.
    Claim,
    /// One volume for all.
    Shared,
}

/// By turns, so that a machine that becomes slower makes all sorts slower.
const SORTS: [Sort; 5] = [Sort::Bare, Sort::Class, Sort::LocalPath, Sort::Claim, Sort::Shared];

impl Sort {
    fn name(self) -> &'static str {
        match self {
            Self::Bare => "without volumes",
            Self::Class => "a PersistentVolumeClaim each, of a class of Reservoir",
            Self::LocalPath => "a PersistentVolumeClaim each, of local-path-provisioner's class",
            Self::Claim => "a VolumeClaim and a volume each",
            Self::Shared => "one shared volume",
        }
    }

    /// The manifests of the pods and of their claims.
    fn manifests(self, pods: usize) -> String {
        let mut all = String::new();
        if self == Self::Shared {
            all += &claim("shared");
        }
        for i in 0..pods {
            let (name, shared) = (format!("pod-{i}"), "shared".to_owned());
            let (before, claim) = match self {
                Self::Bare => (String::new(), None),
                Self::Class => (pvc(&name, NAMESPACE), Some(&name)),
                Self::LocalPath => (pvc(&name, "local-path"), Some(&name)),
                Self::Claim => (volume(&name, "") + &claim(&name), Some(&name)),
                Self::Shared => (String::new(), Some(&shared)),
            };
            all += &before;
            all += &pod(&name, claim.map(String::as_str));
        }
        all
    }
}

/// The measurements of one turn.
struct Turn {
    ready: Duration,
    /// Seconds until half of the pods were Ready; the API server rounds them.
    median: f64,
    gone: Duration,
    /// Writes to the API server in the turn, by writer.
    writes: BTreeMap<&'static str, usize>,
    /// Writes and reads of Reservoir, by program, verb, kind, and the code of a refusal.
    own: BTreeMap<String, usize>,
    /// Seconds of CPU of the API server in the turn.
    cpu: f64,
}

/// Installs Reservoir and local-path-provisioner on the cluster, measures `pods` pods of each sort, prints a table, and
/// removes its objects.
pub fn pods(cluster: &Cluster, pods: usize) -> anyhow::Result<()> {
    Tour::new(cluster.clone(), false).install()?;
    let bench = Bench { cluster, pods };
    cluster.apply(&setup(pods))?;
    bench.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "--timeout=120s",
        "dr/reservoir-bench",
        "spv/shared",
    ])?;
    local_path::install(cluster)?;
    // The first pods of a cluster wait for much that later ones find.
    for sort in SORTS {
        Bench { cluster, pods: 1 }.turn(sort)?;
    }
    let mut turns: BTreeMap<Sort, Vec<Turn>> = BTreeMap::new();
    for _ in 0..TURNS {
        for sort in SORTS {
            turns.entry(sort).or_default().push(bench.turn(sort)?);
        }
    }
    local_path::uninstall(cluster)?;
    bench.kubectl(&["delete", "namespace/reservoir-bench", "--timeout=300s"])?;
    bench.kubectl(&["delete", "spv/shared", "--timeout=120s"])?;
    bench.kubectl(&["delete", "dr/reservoir-bench", "storageclass/reservoir-bench", "--timeout=120s"])?;
    bench.kubectl(&["delete", "clusterrole/reservoir-bench", "clusterrolebinding/reservoir-bench"])?;
    print(&turns, pods);
    Ok(())
}

fn print(turns: &BTreeMap<Sort, Vec<Turn>>, pods: usize) {
    let mean = |sort: Sort, of: fn(&Turn) -> f64| {
        let values: Vec<f64> = turns[&sort].iter().map(of).collect();
        values.iter().sum::<f64>() / values.len() as f64
    };
    println!(
        "| {pods} pods, {TURNS} turns each | from apply to half Ready | to all Ready | from delete to all gone |\n\
         |---|---|---|---|"
    );
    for sort in SORTS {
        let row = |of: fn(&Turn) -> f64| {
            let times: Vec<String> = turns[&sort].iter().map(|turn| format!("{:.1}", of(turn))).collect();
            format!("{:.2} ({} s)", mean(sort, of) / mean(Sort::Bare, of), times.join(", "))
        };
        println!(
            "| {} | {} | {} | {} |",
            sort.name(),
            row(|turn| turn.median),
            row(|turn| turn.ready.as_secs_f64()),
            row(|turn| turn.gone.as_secs_f64())
        );
    }
    println!("\n| writes to the API server for each pod | {} | all |", WRITERS.join(" | "));
    println!("|---|{}", "---|".repeat(WRITERS.len() + 1));
    for sort in SORTS {
        let per_pod = |by: &dyn Fn(&Turn) -> usize| {
            let writes: usize = turns[&sort].iter().map(by).sum();
            writes as f64 / (TURNS * pods) as f64
        };
        let mut row = format!("| {} |", sort.name());
        for writer in WRITERS {
            let _ = write!(row, " {:.1} |", per_pod(&|turn| turn.writes.get(writer).copied().unwrap_or(0)));
        }
        println!("{row} {:.1} |", per_pod(&|turn| turn.writes.values().sum()));
    }
    println!("\n| CPU of the API server for each pod | |\n|---|---|");
    for sort in SORTS {
        println!("| {} | {:.0} ms |", sort.name(), mean(sort, |turn| turn.cpu) * 1e3 / pods as f64);
    }
    println!("\n| writes and reads of Reservoir for each pod with {} | |\n|---|---|", Sort::Class.name());
    let whole = turns[&Sort::Class].iter().flat_map(|turn| &turn.own);
    let sums = whole.fold(BTreeMap::<&str, usize>::new(), |mut sums, (what, requests)| {
        *sums.entry(what).or_default() += requests;
        sums
    });
    for (what, requests) in sums {
        println!("| {what} | {:.2} |", requests as f64 / (TURNS * pods) as f64);
    }
}

/// The columns of the second table.
const WRITERS: [&str; 5] = [CONTROLLER, AGENT, LOCAL_PATH, KUBELET, "others"];
const CONTROLLER: &str = "Reservoir's controller";
const AGENT: &str = "its agents";
const LOCAL_PATH: &str = "local-path-provisioner";
const KUBELET: &str = "kubelets";

fn writer(user: &str) -> &'static str {
    let account = |namespace: &str| user.strip_prefix(&format!("system:serviceaccount:{namespace}:"));
    match (account(tour::NAMESPACE), account(local_path::NAMESPACE)) {
        (Some("reservoir-controller"), _) => CONTROLLER,
        (Some("reservoir-agent"), _) => AGENT,
        (_, Some(_)) => LOCAL_PATH,
        _ if user.starts_with("system:node:") => KUBELET,
        _ => "others",
    }
}

struct Bench<'a> {
    cluster: &'a Cluster,
    pods: usize,
}

impl Bench<'_> {
    fn kubectl(&self, args: &[&str]) -> anyhow::Result<String> {
        self.cluster.kubectl()?.args(args).run()
    }

    fn turn(&self, sort: Sort) -> anyhow::Result<Turn> {
        let (before, cpu) = (self.cluster.audit_log()?.len(), self.cluster.cpu_of_api_server()?);
        let started = Instant::now();
        self.cluster.apply(&sort.manifests(self.pods))?;
        let all = ["-n", NAMESPACE, "wait", "--for=condition=Ready", "--timeout=300s", "pods", "--all"];
        self.kubectl(&all)?;
        let ready = started.elapsed();
        let median = self.median_ready()?;
        let deleted = Instant::now();
        // kubectl asks for each object that it waits for, five in a second at most. So it waits for none here.
        self.delete(&["-n", NAMESPACE, "pods,vclaim,pvc", "--all"])?;
        if sort == Sort::Claim {
            // A volume in use cannot be deleted.
            self.none_left(deleted, "vclaim")?;
            self.delete(&["spv", "--selector=bench=own"])?;
        }
        self.all_gone(deleted)?;
        let gone = deleted.elapsed();
        let (took, went) = (ready.as_secs_f64(), gone.as_secs_f64());
        say(format_args!(
            "{} pods, {}: half Ready in {median:.0} s, all in {took:.1} s, gone in {went:.1} s",
            self.pods,
            sort.name()
        ));
        // What is reported after the fact belongs to the turn, too.
        std::thread::sleep(Duration::from_secs(5));
        let log = self.cluster.audit_log()?;
        let log = log.get(before..).context("the audit log is shorter than before: was it rotated?")?;
        let cpu = (self.cluster.cpu_of_api_server()? - cpu).as_secs_f64();
        let (writes, own) = writes(log)?;
        Ok(Turn { ready, median, gone, writes, own, cpu })
    }

    fn delete(&self, what: &[&str]) -> anyhow::Result<()> {
        self.kubectl(&[&["delete", "--wait=false"], what].concat()).map(drop)
    }

    /// Seconds from the first pod's creation until half of the pods were Ready.
    fn median_ready(&self) -> anyhow::Result<f64> {
        let times = "{range .items[*]}{.metadata.creationTimestamp} \
                     {.status.conditions[?(@.type==\"Ready\")].lastTransitionTime}{\"\\n\"}{end}";
        let times = self.kubectl(&["-n", NAMESPACE, "get", "pods", &format!("--output=jsonpath={times}")])?;
        let second = |time: &str| time.parse::<Timestamp>().map(|time| time.as_second());
        let parsed = times.lines().filter_map(|line| line.split_once(' '));
        let parsed: Vec<(i64, i64)> =
            parsed.map(|(made, ready)| Ok((second(made)?, second(ready)?))).collect::<anyhow::Result<_>>()?;
        let first = parsed.iter().map(|(made, _)| *made).min().context("no pod is there")?;
        let mut ready: Vec<i64> = parsed.into_iter().map(|(_, ready)| ready - first).collect();
        ready.sort_unstable();
        Ok(ready[ready.len() / 2] as f64)
    }

    fn none_left(&self, since: Instant, kinds: &str) -> anyhow::Result<()> {
        self.until_gone(since, || self.kubectl(&["-n", NAMESPACE, "get", kinds, "--output=name"]))
    }

    /// Waits until no pod, no volume of a turn, and no helper pod is left.
    fn all_gone(&self, since: Instant) -> anyhow::Result<()> {
        self.none_left(since, "pods,pvc")?;
        self.until_gone(since, || {
            let left = self.kubectl(&["get", "pv,spv", "--output=name"])?;
            let left = left.lines().filter(|line| !line.ends_with("/shared")).map(|line| format!("{line}\n"));
            let helpers = self.kubectl(&["-n", local_path::NAMESPACE, "get", "pods", "--output=name"])?;
            let helpers = helpers.lines().filter(|line| line.contains("helper-pod"));
            Ok(left.chain(helpers.map(str::to_owned)).collect())
        })
    }

    fn until_gone(&self, since: Instant, left: impl Fn() -> anyhow::Result<String>) -> anyhow::Result<()> {
        loop {
            let left = left()?;
            if left.is_empty() {
                return Ok(());
            }
            if since.elapsed() > PATIENCE {
                bail!("after {} s these are left: {left}", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

type Writes = (BTreeMap<&'static str, usize>, BTreeMap<String, usize>);

/// The writes in a part of the audit log, and Reservoir's own with its reads, dry runs included and leases left out.
fn writes(log: &str) -> anyhow::Result<Writes> {
    let (mut writes, mut own) = (BTreeMap::new(), BTreeMap::new());
    // The API server may not have written the last line to its end.
    let complete = log.rsplit_once('\n').map_or("", |(complete, _)| complete);
    for line in complete.lines() {
        let event: serde_json::Value = serde_json::from_str(line).context("the audit log is not JSON")?;
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let (user, object) = (text(&event["user"]["username"]), &event["objectRef"]);
        if object["resource"] == "leases" {
            continue;
        }
        let writer = writer(&user);
        if !crate::is_read(&event) {
            *writes.entry(writer).or_default() += 1;
        }
        if [CONTROLLER, AGENT].contains(&writer) {
            let mut what = format!("{writer}: {} {}", text(&event["verb"]), text(&object["resource"]));
            if let Some(part) = object["subresource"].as_str() {
                let _ = write!(what, "/{part}");
            }
            if let Some(code @ 400..) = event["responseStatus"]["code"].as_u64() {
                let _ = write!(what, " ({code})");
            }
            *own.entry(what).or_default() += 1;
        }
    }
    Ok((writes, own))
}

fn setup(pods: usize) -> String {
    let mut all = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {NAMESPACE}}}}}\n");
    let subscription = "roles: [bench], capabilities: [SHARED_RESOURCES]";
    all += &object("RoleSubscription", "bench", &format!("namespace: {NAMESPACE}"), subscription);
    all += &object("DiskReservation", NAMESPACE, "", &format!("role: bench, size: {}Mi", (pods + 1) * 16));
    all += &volume("shared", "shared: {}");
    all += &format!(
        "---\n{{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {{name: {NAMESPACE}}}, \
         provisioner: csi.reservoir.dev, parameters: {{role: bench}}, volumeBindingMode: WaitForFirstConsumer}}\n"
    );
    let group = "rbac.authorization.k8s.io";
    all += &format!(
        "---\n{{apiVersion: {group}/v1, kind: ClusterRole, metadata: {{name: {NAMESPACE}}}, rules: \
         [{{apiGroups: [reservoir.dev], resources: [volumeroles], resourceNames: [bench], verbs: [create, use]}}]}}\n\
         ---\n{{apiVersion: {group}/v1, kind: ClusterRoleBinding, metadata: {{name: {NAMESPACE}}}, \
         roleRef: {{apiGroup: {group}, kind: ClusterRole, name: {NAMESPACE}}}, \
         subjects: [{{apiGroup: {group}, kind: Group, name: 'system:serviceaccounts:{NAMESPACE}'}}]}}\n"
    );
    all
}

fn object(kind: &str, name: &str, meta: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: reservoir.dev/v1alpha1, kind: {kind}, metadata: {{name: {name}, {meta}}}, spec: {{{spec}}}}}\n"
    )
}

/// A volume. Those of one turn have a label, by which they are deleted.
fn volume(name: &str, shared: &str) -> String {
    let label = if shared.is_empty() { "labels: {bench: own}" } else { "" };
    object("SharedPersistentVolume", name, label, &format!("role: bench, size: 16Mi, {shared}"))
}

fn claim(volume: &str) -> String {
    let within = format!("namespace: {NAMESPACE}");
    object("VolumeClaim", volume, &within, &format!("role: bench, volume: {volume}"))
}

fn pvc(name: &str, class: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {{name: {name}, namespace: {NAMESPACE}}}, spec: \
         {{storageClassName: {class}, accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 16Mi}}}}}}}}\n"
    )
}

fn pod(name: &str, claim: Option<&str>) -> String {
    let mut spec = String::from(
        "terminationGracePeriodSeconds: 1, containers: [{name: main, image: 'localhost/reservoir-test:dev', \
         command: [sleep, '100000']",
    );
    if let Some(claim) = claim {
        let _ = write!(
            spec,
            ", volumeMounts: [{{name: v, mountPath: /v}}]}}], \
             volumes: [{{name: v, persistentVolumeClaim: {{claimName: {claim}}}}}]"
        );
    } else {
        spec += "}]";
    }
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {NAMESPACE}}}, spec: {{{spec}}}}}\n"
    )
}
