//! Pods with volumes against pods without, by turns in one run: how long they take to start and to go, who writes how often to
//! the API server meanwhile, and its CPU time.

mod local_path;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, TypeMeta};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use tokio::runtime::Runtime;

use crate::node::Cluster;
use crate::progress::say;
use crate::tour::{self, Tour};

const NAMESPACE: &str = "reservoir-bench";

/// Of Reservoir's kinds.
const VERSION: &str = "reservoir.dev/v1alpha1";

/// The longest wait for all pods of a turn.
const PATIENCE: Duration = Duration::from_secs(300);

/// Between two looks at the pods and volumes of a turn.
const LOOK: Duration = Duration::from_millis(200);

/// What the pods of a turn have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Sort {
    /// No volume.
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
    half_ready: Duration,
    ready: Duration,
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
///
/// By turns, so that a machine that becomes slower makes all sorts slower. Pods without volumes always have theirs.
pub fn pods(cluster: &Cluster, pods: usize, turns: usize, sorts: &[Sort]) -> anyhow::Result<()> {
    let sorts: BTreeSet<Sort> = sorts.iter().copied().chain([Sort::Bare]).collect();
    Tour::new(cluster.clone(), false).install()?;
    let mut bench = Bench::new(cluster)?;
    cluster.apply(&setup(pods))?;
    bench.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "--timeout=120s",
        "dr/reservoir-bench",
        "spv/shared",
    ])?;
    if sorts.contains(&Sort::LocalPath) {
        local_path::install(cluster)?;
    }
    // The first pods of a cluster wait for much that later ones find.
    for sort in &sorts {
        bench.turn(*sort)?;
    }
    bench.pods = pods;
    let mut measured: BTreeMap<Sort, Vec<Turn>> = BTreeMap::new();
    for _ in 0..turns {
        for sort in &sorts {
            measured.entry(*sort).or_default().push(bench.turn(*sort)?);
        }
    }
    if sorts.contains(&Sort::LocalPath) {
        local_path::uninstall(cluster)?;
    }
    bench.kubectl(&["delete", "namespace/reservoir-bench", "--timeout=300s"])?;
    bench.kubectl(&["delete", "spv/shared", "--timeout=120s"])?;
    bench.kubectl(&["delete", "dr/reservoir-bench", "storageclass/reservoir-bench", "--timeout=120s"])?;
    bench.kubectl(&["delete", "clusterrole/reservoir-bench", "clusterrolebinding/reservoir-bench"])?;
    print(&measured, pods);
    Ok(())
}

fn print(measured: &BTreeMap<Sort, Vec<Turn>>, pods: usize) {
    let turns = measured[&Sort::Bare].len();
    let mean = |sort: Sort, of: fn(&Turn) -> f64| {
        let values: Vec<f64> = measured[&sort].iter().map(of).collect();
        values.iter().sum::<f64>() / values.len() as f64
    };
    println!(
        "| {pods} pods, {turns} turns each | from apply to half Ready | to all Ready | from delete to all gone |\n\
         |---|---|---|---|"
    );
    for sort in measured.keys().copied() {
        let row = |of: fn(&Turn) -> f64| {
            let times: Vec<String> = measured[&sort].iter().map(|turn| format!("{:.1}", of(turn))).collect();
            format!("{:.2} ({} s)", mean(sort, of) / mean(Sort::Bare, of), times.join(", "))
        };
        println!(
            "| {} | {} | {} | {} |",
            sort.name(),
            row(|turn| turn.half_ready.as_secs_f64()),
            row(|turn| turn.ready.as_secs_f64()),
            row(|turn| turn.gone.as_secs_f64())
        );
    }
    println!("\n| writes to the API server for each pod | {} | all |", WRITERS.join(" | "));
    println!("|---|{}", "---|".repeat(WRITERS.len() + 1));
    for sort in measured.keys().copied() {
        let per_pod = |by: &dyn Fn(&Turn) -> usize| {
            let writes: usize = measured[&sort].iter().map(by).sum();
            writes as f64 / (turns * pods) as f64
        };
        let mut row = format!("| {} |", sort.name());
        for writer in WRITERS {
            let _ = write!(row, " {:.1} |", per_pod(&|turn| turn.writes.get(writer).copied().unwrap_or(0)));
        }
        println!("{row} {:.1} |", per_pod(&|turn| turn.writes.values().sum()));
    }
    println!("\n| CPU of the API server for each pod | |\n|---|---|");
    for sort in measured.keys().copied() {
        println!("| {} | {:.0} ms |", sort.name(), mean(sort, |turn| turn.cpu) * 1e3 / pods as f64);
    }
    let Some(class) = measured.get(&Sort::Class) else { return };
    println!("\n| writes and reads of Reservoir for each pod with {} | |\n|---|---|", Sort::Class.name());
    let whole = class.iter().flat_map(|turn| &turn.own);
    let sums = whole.fold(BTreeMap::<&str, usize>::new(), |mut sums, (what, requests)| {
        *sums.entry(what).or_default() += requests;
        sums
    });
    for (what, requests) in sums {
        println!("| {what} | {:.2} |", requests as f64 / (turns * pods) as f64);
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
    runtime: Runtime,
    client: Client,
}

impl<'a> Bench<'a> {
    /// With one pod for each turn.
    fn new(cluster: &'a Cluster) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig())?;
        let client = runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
            anyhow::Ok(Client::try_from(config)?)
        })?;
        Ok(Self { cluster, pods: 1, runtime, client })
    }

    fn kubectl(&self, args: &[&str]) -> anyhow::Result<String> {
        self.cluster.kubectl()?.args(args).run()
    }

    fn turn(&self, sort: Sort) -> anyhow::Result<Turn> {
        let (before, cpu) = (self.cluster.audit_log()?.len(), self.cluster.cpu_of_api_server()?);
        let started = Instant::now();
        let manifests = sort.manifests(self.pods);
        let (half_ready, ready) = std::thread::scope(|scope| {
            let apply = scope.spawn(|| self.cluster.apply(&manifests));
            let half_ready = self.until(started, || Ok(self.ready()? * 2 >= self.pods))?;
            let ready = self.until(started, || Ok(self.ready()? == self.pods))?;
            apply.join().expect("kubectl apply does not panic")?;
            anyhow::Ok((half_ready, ready))
        })?;
        let deleted = Instant::now();
        // kubectl asks for each object that it waits for, five in a second at most. So it waits for none here.
        self.delete(&["-n", NAMESPACE, "pods,vclaim,pvc", "--all"])?;
        if sort == Sort::Claim {
            // A volume in use cannot be deleted.
            self.until(deleted, || Ok(self.names(VERSION, "VolumeClaim", NAMESPACE)?.is_empty()))?;
            self.delete(&["spv", "--selector=bench=own"])?;
        }
        let gone = self.until(deleted, || self.are_all_gone())?;
        let seconds = [half_ready, ready, gone].map(|time| time.as_secs_f64());
        say(format_args!(
            "{} pods, {}: half Ready in {:.1} s, all in {:.1} s, gone in {:.1} s",
            self.pods,
            sort.name(),
            seconds[0],
            seconds[1],
            seconds[2]
        ));
        // What is reported after the fact belongs to the turn, too.
        std::thread::sleep(Duration::from_secs(5));
        let log = self.cluster.audit_log()?;
        let log = log.get(before..).context("the audit log is shorter than before: was it rotated?")?;
        let cpu = (self.cluster.cpu_of_api_server()? - cpu).as_secs_f64();
        let (writes, own) = writes(log)?;
        Ok(Turn { half_ready, ready, gone, writes, own, cpu })
    }

    fn delete(&self, what: &[&str]) -> anyhow::Result<()> {
        self.kubectl(&[&["delete", "--wait=false"], what].concat()).map(drop)
    }

    /// Waits until it `is`, and says how long after `since` that was.
    ///
    /// A kubectl for each look would take a quarter of two cores from the pods.
    fn until(&self, since: Instant, is: impl Fn() -> anyhow::Result<bool>) -> anyhow::Result<Duration> {
        while !is()? {
            ensure!(since.elapsed() < PATIENCE, "after {} s it is not over", PATIENCE.as_secs());
            std::thread::sleep(LOOK);
        }
        Ok(since.elapsed())
    }

    /// The number of the turn's pods that are Ready.
    fn ready(&self) -> anyhow::Result<usize> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), NAMESPACE);
        let pods = self.runtime.block_on(pods.list(&from_the_cache()))?;
        let is_ready = |pod: &Pod| {
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
            conditions
                .is_some_and(|all| all.iter().any(|each| each.type_ == "Ready" && each.status == "True"))
        };
        Ok(pods.items.iter().filter(|pod| is_ready(pod)).count())
    }

    /// Whether no pod, no claim, no volume of a turn, and no helper pod is left.
    fn are_all_gone(&self) -> anyhow::Result<bool> {
        let left = |version, kind| self.names(version, kind, NAMESPACE);
        let helpers = self.names("v1", "Pod", local_path::NAMESPACE)?;
        Ok(left("v1", "Pod")?.is_empty()
            && left("v1", "PersistentVolumeClaim")?.is_empty()
            && self.names("v1", "PersistentVolume", "")?.is_empty()
            && self.names(VERSION, "SharedPersistentVolume", "")?.iter().all(|name| name == "shared")
            && helpers.iter().all(|name| !name.contains("helper-pod")))
    }

    /// The names of all objects of a kind, in a namespace if there is one.
    fn names(&self, version: &str, kind: &str, namespace: &str) -> anyhow::Result<Vec<String>> {
        let types = TypeMeta { api_version: version.to_owned(), kind: kind.to_owned() };
        let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(types)?);
        let client = self.client.clone();
        let api: Api<DynamicObject> = match namespace {
            "" => Api::all_with(client, &resource),
            _ => Api::namespaced_with(client, namespace, &resource),
        };
        let all = self.runtime.block_on(api.list_metadata(&from_the_cache()))?;
        Ok(all.items.iter().map(ResourceExt::name_any).collect())
    }
}

/// A list that the API server answers from memory.
fn from_the_cache() -> ListParams {
    ListParams::default().match_any()
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
        "---\n{{apiVersion: {VERSION}, kind: {kind}, metadata: {{name: {name}, {meta}}}, spec: {{{spec}}}}}\n"
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
