//! Metrics (T3): a real Prometheus scrapes a real controller, a real agent and the API server. The test evaluates
//! every expression of the chart's alerts and dashboard.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kube::api::DeleteParams;
use reservoir::api::{DiskReservation, NodeDisk, SharedPersistentVolume, VolumeClaim, VolumeRole};
use reservoir_cluster::command::Cmd;
use reservoir_cluster::prometheus::{self, Prometheus};
use serde_json::{Value, json};

use crate::support::*;

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A controller in a process of its own, which ends with the test.
struct Controller {
    child: Child,
    log: PathBuf,
    _dir: tempfile::TempDir,
}

impl Controller {
    fn start(cluster: &Cluster) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("controller.log");
        let output = std::fs::File::create(&log).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_reservoir"), "controller"])
            .args(["--namespace", "default", "--metrics-bind-address", "127.0.0.1:0", "--log-json"])
            .env("KUBECONFIG", cluster.server.kubeconfig_path())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Self { child, log, _dir: dir }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the controller's log:\n{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// The address of the process' metrics, from its log.
async fn serves_at(log: &Path) -> String {
    until("the address of the metrics", || async {
        let text = std::fs::read_to_string(log).ok()?;
        let line = text.lines().find(|line| line.contains("serving metrics"))?;
        let at = line.find("127.0.0.1:")?;
        let address: String =
            line[at..].chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
        Some(address)
    })
    .await
}

fn scrape(address: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200") || head.starts_with("HTTP/1.1 200"), "{head}");
    text.to_owned()
}

/// A metric: its type and its labels.
type Described = BTreeMap<String, (String, BTreeSet<String>)>;

/// The metrics in the text that a process serves.
fn served(text: &str) -> Described {
    let mut found = Described::new();
    let mut names = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let full = match kind {
                "counter" => format!("{name}_total"),
                "info" => format!("{name}_info"),
                _ => name.to_owned(),
            };
            names.insert(name.to_owned(), (full, kind.to_owned()));
        } else if !line.starts_with('#') {
            let series = line.rsplit_once(' ').unwrap().0;
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let family = names
                .iter()
                .filter(|(family, _)| name.starts_with(family.as_str()))
                .max_by_key(|(f, _)| f.len());
            let (_, (full, kind)) = family.unwrap_or_else(|| panic!("{name} has no type"));
            let (_, known) = found.entry(full.clone()).or_insert((kind.clone(), BTreeSet::new()));
            for label in labels.trim_end_matches('}').split("\",").filter_map(|label| label.split_once("=\""))
            {
                if label.0 != "le" {
                    known.insert(label.0.to_owned());
                }
            }
        }
    }
    found
}

/// The metrics of the controller or the agent, from docs/metrics.md.
fn documented(of: &str) -> Described {
    let text = std::fs::read_to_string(in_repository("docs/metrics.md")).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with(of)).unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `reservoir_"));
    let named = |cell: &str| cell.trim().trim_matches('`').to_owned();
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').collect();
        let labels = cells[3].split(',').map(named).filter(|label| !label.is_empty()).collect();
        (named(cells[1]), (named(cells[2]), labels))
    })
    .collect()
}

/// Every expression of the dashboard, with values for Grafana's variables.
fn of_dashboard() -> Vec<String> {
    fn gather(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| gather(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| gather(value, found)),
            _ => {}
        }
    }
    let text = std::fs::read(in_repository("charts/reservoir/files/dashboard.json")).unwrap();
    let mut found = Vec::new();
    gather(&serde_json::from_slice(&text).unwrap(), &mut found);
    let filled = |expression: &String| {
        expression.replace("$__rate_interval", "1m").replace("$disk", ".*").replace("$role", ".*")
    };
    let found: Vec<String> = found.iter().map(filled).collect();
    assert!(found.iter().all(|expression| !expression.contains('$')), "{found:#?}");
    found
}

/// Every expression of the alerts, and the link to its documentation.
fn of_alerts(file: &Path) -> Vec<(String, String)> {
    let rules: Value = serde_yaml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let rules =
        rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    rules.map(|rule| (text(&rule["expr"]), text(&rule["annotations"]["runbook_url"]))).collect()
}

/// The names of metrics in an expression.
fn metrics_in(expression: &str) -> BTreeSet<&str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("reservoir_") || word.starts_with("apiserver_")).collect()
}

/// The headings of a page, in the form of link anchors.
fn anchors(page: &str) -> BTreeSet<String> {
    let anchor = |heading: &str| {
        let kept = heading.to_lowercase().replace(' ', "-");
        kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
    };
    page.lines().filter_map(|line| line.strip_prefix("## ")).map(anchor).collect()
}

const OBJECTS: &str = "apiVersion: reservoir.dev/v1alpha1\nkind: VolumeRole\nmetadata: {name: eng}\n\
     spec: {role: eng, weight: 2, quota: {limit: 512Mi, guarantee: 128Mi}}\n---\n\
     apiVersion: reservoir.dev/v1alpha1\nkind: DiskReservation\nmetadata: {name: eng}\nspec: {role: eng, size: 256Mi}\n---\n\
     apiVersion: reservoir.dev/v1alpha1\nkind: RoleSubscription\nmetadata: {name: eng, namespace: default}\n\
     spec: {roles: [eng], capabilities: [SHARED_RESOURCES]}\n---\n\
     apiVersion: reservoir.dev/v1alpha1\nkind: SharedPersistentVolume\nmetadata: {name: data}\n\
     spec: {role: eng, size: 64Mi, shared: {}}\n---\n\
     apiVersion: reservoir.dev/v1alpha1\nkind: SharedPersistentVolume\nmetadata: {name: brief}\n\
     spec: {role: eng, size: 32Mi}\n";
const CLAIM: &str = "apiVersion: reservoir.dev/v1alpha1\nkind: VolumeClaim\nmetadata: {name: data, namespace: default}\n\
     spec: {role: eng, volume: data}\n";

/// The sockets on which a process listens: addresses of TCP and UDP, and paths.
fn listening(pid: u32) -> BTreeSet<String> {
    let own: BTreeSet<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()))
        .collect();
    let mut found = BTreeSet::new();
    for (table, inode, state, listens, name) in [
        ("tcp", 9, 3, "0A", 1),
        ("tcp6", 9, 3, "0A", 1),
        // A socket of UDP without a peer hears everybody.
        ("udp", 9, 3, "07", 1),
        ("udp6", 9, 3, "07", 1),
        // The flag __SO_ACCEPTCON.
        ("unix", 6, 3, "00010000", 7),
    ] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if own.contains(words[inode]) && words[state] == listens {
                found.insert(format!("{table} {}", words.get(name).unwrap_or(&"")));
            }
        }
    }
    found
}

/// A cluster in which controller and agent are processes of their own.
async fn programs() -> (Cluster, Controller, Agent) {
    let cluster = Cluster::bare(Default::default()).await;
    let controller = Controller::start(&cluster);
    cluster.node("n1", true).await;
    let agent = Agent::start_process(&cluster, "n1", "1Gi");
    until_reason(&cluster.all::<NodeDisk>(), "n1.default", "Ready").await;
    (cluster, controller, agent)
}

/// A4: docs/security.md, "The agent listens".
#[tokio::test(flavor = "multi_thread")]
async fn a4_the_programs_listen_where_the_page_says() {
    let (_cluster, controller, agent) = programs().await;
    let metrics = async |log: &Path| {
        let address: std::net::SocketAddrV4 = serves_at(log).await.parse().unwrap();
        let ip = u32::from_le_bytes(address.ip().octets());
        format!("tcp {ip:08X}:{:04X}", address.port())
    };
    assert_eq!(listening(controller.child.id()), BTreeSet::from([metrics(&controller.log).await]));
    let socket = |path: &str| format!("unix {}", agent.dir.join("kubelet").join(path).display());
    let expected = BTreeSet::from([
        metrics(&agent.dir.join("agent.log")).await,
        socket("plugins/csi.reservoir.dev/csi.sock"),
        socket("plugins_registry/csi.reservoir.dev@reg.sock"),
    ]);
    assert_eq!(listening(agent.pid()), expected);
}

/// T3.
#[tokio::test(flavor = "multi_thread")]
async fn t3_docs_alerts_and_dashboard_name_served_metrics() {
    let (cluster, controller, agent) = programs().await;

    let at = [serves_at(&controller.log).await, serves_at(&agent.dir.join("agent.log")).await];
    let kubeconfig = serde_json::to_value(cluster.server.kubeconfig().unwrap()).unwrap();
    let (server, user) = (&kubeconfig["clusters"][0]["cluster"], &kubeconfig["users"][0]["user"]);
    let api = server["server"].as_str().unwrap().trim_start_matches("https://");
    let scraped = json!([
        {"job_name": "controller", "static_configs": [{"targets": [at[0]]}]},
        {"job_name": "agent", "static_configs": [{"targets": [at[1]]}]},
        {"job_name": "apiserver", "scheme": "https", "static_configs": [{"targets": [api]}],
            "authorization": {"credentials": user["token"]}, "tls_config": {"ca_file": server["certificate-authority"]}},
    ]);
    let alerts = in_repository("charts/reservoir/files/alerts.yaml");
    Cmd::new(prometheus::program("promtool").unwrap()).args(["check", "rules"]).arg(&alerts).run().unwrap();
    let prometheus = Prometheus::start(&scraped, &[&alerts]).unwrap();

    let volumes = cluster.all::<SharedPersistentVolume>();
    let refused = || async { volumes.delete("data", &DeleteParams::default()).await.unwrap_err() };
    cluster.apply_text(OBJECTS).await;
    until_reason(&cluster.all::<DiskReservation>(), "eng", "Ready").await;
    until_reason(&cluster.all::<VolumeRole>(), "eng", "Ready").await;
    until_reason(&volumes, "data", "Ready").await;
    cluster.apply_text(CLAIM).await;
    let claims = cluster.within::<VolumeClaim>("default");
    until("the claim is bound", || async { claims.get("data").await.unwrap().status?.persistent_volume })
        .await;
    let (claim, pod) = (claims.get("data").await.unwrap(), cluster.pod("default", "p", &["data"]).await);
    agent.publish(&cluster, &claim, &pod, false).await.unwrap();
    until("the controller counts the pod", || async {
        (volumes.get("data").await.unwrap().status?.user_count == 1).then_some(())
    })
    .await;
    assert!(refused().await.to_string().contains("is in use by 1 pod"));
    volumes.delete("brief", &DeleteParams::default()).await.unwrap();
    until_gone(&volumes, "brief").await;

    // Prometheus sees no growth in the first value of a counter, so each counter grows once more afterwards.
    let expressions = of_dashboard();
    assert!(expressions.len() > 30, "{}", expressions.len());
    let mut empty = expressions.clone();
    for _ in 0..20 {
        refused().await;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        empty
            .retain(|expression| prometheus.query(expression).unwrap_or_else(|e| panic!("{e:#}")).is_empty());
        if empty.is_empty() {
            break;
        }
    }
    assert!(empty.is_empty(), "Prometheus has nothing for these of the dashboard: {empty:#?}");

    let pages = anchors(&std::fs::read_to_string(in_repository("docs/operations.md")).unwrap());
    for (expression, runbook) in of_alerts(&alerts) {
        prometheus.query(&expression).unwrap_or_else(|e| panic!("{e:#}"));
        assert!(!metrics_in(&expression).is_empty(), "{expression} looks at nothing of ours");
        for metric in metrics_in(&expression) {
            // A scrape of a busy API server may come late.
            let found = || prometheus.query(&format!("count({metric})")).unwrap();
            let what = format!("{metric} of the alert {expression} is somewhere");
            until(&what, || async { (!found().is_empty()).then_some(()) }).await;
        }
        let anchor = runbook.strip_prefix("docs/operations.md#").expect("a link into docs/operations.md");
        assert!(pages.contains(anchor), "{runbook} is no heading: {pages:#?}");
    }
    // The alert for refused deletions fires after repeated refusals.
    let fires = "ALERTS{alertname=\"ReservoirDestroysRefused\",alertstate=\"firing\"}";
    until(fires, || async {
        refused().await;
        (!prometheus.query(fires).unwrap().is_empty()).then_some(())
    })
    .await;
    let deny = "sum(apiserver_validating_admission_policy_check_total{policy=\"reservoir-volume-in-use\",enforcement_action=\"deny\"})";
    until(deny, || async { (!prometheus.query(deny).unwrap().is_empty()).then_some(()) }).await;

    for (of, address) in ["Controller", "Agent"].into_iter().zip(&at) {
        let text = scrape(address);
        assert_eq!(
            served(&text),
            documented(of),
            "{of}: the served metrics, and those of docs/metrics.md\n{text}"
        );
    }
    let value =
        |expression: &str| prometheus.query(expression).unwrap()[0]["value"][1].as_str().unwrap().to_owned();
    for (expression, expected) in [
        ("reservoir_disk_reserved_bytes{disk=\"n1.default\",node=\"n1\"}", 256 << 20),
        ("reservoir_disk_used_bytes{disk=\"n1.default\"}", 64 << 20),
        ("reservoir_role_reserved_bytes{role=\"eng\"}", 256 << 20),
        ("reservoir_role_limit_bytes{role=\"eng\"}", 512 << 20),
        ("reservoir_volume_users{volume=\"data\",role=\"eng\",namespace=\"default\"}", 1),
        ("reservoir_volume_size_bytes{volume=\"data\",role=\"eng\",disk=\"n1.default\"}", 64 << 20),
        ("reservoir_destroys_total{outcome=\"Erased\"}", 1),
        ("reservoir_node_operations_total{operation=\"Erase\",outcome=\"Ok\"}", 1),
        ("reservoir_leader", 1),
    ] {
        assert_eq!(value(expression), expected.to_string(), "{expression}");
    }

    // The log has a line for each decision, and each line is a JSON object.
    let log = std::fs::read_to_string(&controller.log).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let decided = |kind: &str, object: &str, reason: &str| {
        lines
            .iter()
            .filter(|line| {
                let fields = &line["fields"];
                fields["condition"] == "Ready"
                    && fields["kind"] == kind
                    && fields["object"] == object
                    && fields["reason"] == reason
            })
            .count()
    };
    assert_eq!(decided("SharedPersistentVolume", "data", "Ready"), 1, "{log}");
    assert_eq!(decided("VolumeClaim", "data", "Binding"), 1, "{log}");

    agent.unpublish(&claim, &pod).await.unwrap();
}
