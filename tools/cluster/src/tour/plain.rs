//! Plain PersistentVolumeClaims: a StatefulSet with a database in it, and a Job of many pods on one volume.

use anyhow::{Context, ensure};

use super::{NAMESPACE, Tour};

/// The client of the database, in its pod.
const CLIENT: &str = "valkey-cli";

/// The number of writes, one after the other, while the agent is killed.
const WRITES: &str = "2000";

impl Tour {
    /// P1, P3, P4, M5, V6.
    pub(super) fn stateful(&self) -> anyhow::Result<()> {
        self.title("A StatefulSet: its PersistentVolumeClaims become volumes by themselves")?;
        self.apply("19-storage-class.yaml")?;
        self.apply("21-statefulset.yaml")?;
        let rollout = ["-n", "team-a", "rollout", "status", "statefulset/store", "--timeout=120s"];
        self.show(&rollout)?;
        self.show(&["-n", "team-a", "get", "pvc"])?;
        self.show(&["get", "spv"])?;
        self.show(&["-n", NAMESPACE, "get", "csistoragecapacities"])?;
        let fill = "for i = 1, 5000 do redis.call('SET', 'key:' .. i, i * i) end return redis.call('DBSIZE')";
        ensure!(self.store("store-0", &["EVAL", fill, "0"])? == "5000", "not all keys were written");
        let digest = self.store("store-0", &["DEBUG", "DIGEST"])?;
        println!("store-0 has 5000 keys, digest {digest}");

        self.title("Its pod is deleted, and the next one finds the data")?;
        self.show(&["-n", "team-a", "delete", "pod", "store-0", "--timeout=60s"])?;
        self.show(&rollout)?;
        let found = self.store("store-0", &["DEBUG", "DIGEST"])?;
        ensure!(found == digest, "the digest was {digest} and is {found}");

        self.title("The agent is killed while the database writes, each write synchronized")?;
        let volume = self.volume_of("data-store-0")?;
        let home = self.field(&["spv", &volume], "{.status.nodeName}")?;
        let said = std::thread::scope(|scope| -> anyhow::Result<String> {
            let writer = scope.spawn(|| self.store("store-0", &["-r", WRITES, "-i", "0.01", "INCR", "n"]));
            self.replace_agent(&home)?;
            ensure!(!writer.is_finished(), "the writer ended before the agent was back");
            writer.join().ok().context("the writer panicked")?
        })?;
        let answers = said.lines().count().to_string();
        let counted = self.store("store-0", &["GET", "n"])?;
        println!("{answers} writes were answered, and {counted} are there");
        ensure!(answers == WRITES && counted == WRITES, "{WRITES} were made");
        let digest = self.store("store-0", &["DEBUG", "DIGEST"])?;

        self.title("The volume grows through its PersistentVolumeClaim")?;
        let more = r#"{"spec":{"resources":{"requests":{"storage":"192Mi"}}}}"#;
        self.show(&["-n", "team-a", "patch", "pvc", "data-store-0", "--type=merge", "-p", more])?;
        let kib = || -> anyhow::Result<u64> {
            let df = self.quietly(&["-n", "team-a", "exec", "store-0", "--", "df", "-k", "/data"])?;
            let size = df.lines().last().and_then(|line| line.split_whitespace().nth(1));
            size.and_then(|size| size.parse().ok()).with_context(|| format!("df says {df}"))
        };
        let grown = || -> anyhow::Result<Result<(), String>> {
            let has = self.field(&["-n", "team-a", "pvc", "data-store-0"], "{.status.capacity.storage}")?;
            Ok(if has == "192Mi" { Ok(()) } else { Err(has) })
        };
        let online = self.until("the PersistentVolumeClaim to have 192Mi, or a reason", || {
            let why =
                self.field(&["spv", &volume], "{.status.conditions[?(@.type==\"Resized\")].message}")?;
            let denied = why.contains("CAP_SYS_RESOURCE");
            Ok(grown()?.map(|()| true).or_else(|has| if denied { Ok(false) } else { Err(has) }))
        })?;
        if !online {
            println!(
                "this machine has no CAP_SYS_RESOURCE to give, so ext4 grows when nobody has it mounted"
            );
            self.show(&["-n", "team-a", "scale", "statefulset/store", "--replicas=0"])?;
            self.until("the PersistentVolumeClaim to have 192Mi", grown)?;
            self.show(&["-n", "team-a", "scale", "statefulset/store", "--replicas=2"])?;
            self.show(&rollout)?;
        }
        self.until("the pod to see more than 150 MiB", || {
            let has = kib()?;
            Ok(if has > 150 << 10 { Ok(()) } else { Err(format!("{has} KiB")) })
        })?;
        self.show(&["-n", "team-a", "exec", "store-0", "--", "df", "-h", "/data"])?;
        let found = self.store("store-0", &["DEBUG", "DIGEST"])?;
        ensure!(found == digest, "the digest was {digest} and is {found}");
        let restarts = self.field(
            &["-n", "team-a", "pods", "-l", "app=store"],
            "{.items[*].status.containerStatuses[*].restartCount}",
        )?;
        ensure!(restarts == "0 0", "the database was restarted: {restarts}");

        self.title("kubectl reservoir shows where it is")?;
        let directory = self.plugin_directory()?;
        let tree = self.plugin(&directory, &["tree", "--role", "analytics"])?;
        ensure!(tree.contains(&format!("SharedPersistentVolume {volume} ")), "its volume is not in the tree");
        ensure!(tree.contains("Pod team-a/store-0"), "its pod is not in the tree");

        self.title("The StatefulSet goes, its data stays; the PersistentVolumeClaims go, and take it along")?;
        self.unapply("21-statefulset.yaml")?;
        self.show(&["-n", "team-a", "wait", "--for=delete", "pod", "-l", "app=store", "--timeout=60s"])?;
        self.until("the volume to say that no pod uses it", || {
            let users = self.field(&["spv", &volume], "{.status.userCount}")?;
            Ok(if users == "0" { Ok(()) } else { Err(format!("{users} pods")) })
        })?;
        let said = self.refused(&["delete", "spv", &volume])?;
        ensure!(said.contains("claim"), "it does not say what holds it: {said}");
        self.show(&["-n", "team-a", "delete", "pvc", "-l", "app=store", "--timeout=60s"])?;
        self.no_plain_volume()
    }

    /// P1, P4, M1.
    pub(super) fn fan_out(&self) -> anyhow::Result<()> {
        self.title("A Job of 20 pods on one shared volume, by a plain PersistentVolumeClaim")?;
        self.apply("22-fan-out.yaml")?;
        let job = ["-n", "team-a", "wait", "--for=condition=Complete", "job/fan-out", "--timeout=180s"];
        self.show(&job)?;
        let pods = ["-n", "team-a", "logs", "-l", "batch.kubernetes.io/job-name=fan-out"];
        let said = self.quietly(&[&pods[..], &["--max-log-requests=20"]].concat())?;
        let all = said.lines().filter(|line| *line == "20").count();
        println!("{all} pods saw the parts of all 20");
        ensure!(all == 20, "the pods say {said}");
        let volume = self.volume_of("results")?;
        self.unapply("22-fan-out.yaml")?;

        self.title("Its class retains: the volume stays, and is anybody's of the role")?;
        // A shared volume is offered while it is used, too.
        self.until("the volume to have no claim", || {
            let claims = self.field(&["spv", &volume], "{.status.claimCount}")?;
            Ok(if claims == "0" { Ok(()) } else { Err(format!("{claims} claims")) })
        })?;
        let offered = "{.items[*].spec.volumes[*].name}";
        self.until("the volume to be offered", || {
            let offered = self.field(&["-n", "team-b", "volumeoffers"], offered)?;
            Ok(if offered.contains(&volume) { Ok(()) } else { Err(offered) })
        })?;
        self.show(&["get", "spv", &volume])?;
        self.show(&["delete", "spv", &volume, "--timeout=60s"])?;
        self.no_plain_volume()?;
        self.unapply("19-storage-class.yaml")
    }

    /// The volume of a PersistentVolumeClaim.
    pub(super) fn volume_of(&self, pvc: &str) -> anyhow::Result<String> {
        Ok(format!("pvc-{}", self.field(&["-n", "team-a", "pvc", pvc], "{.metadata.uid}")?))
    }

    fn no_plain_volume(&self) -> anyhow::Result<()> {
        self.until("volumes of PersistentVolumeClaims to be gone", || {
            let left = self.quietly(&["get", "spv", "-o", "name"])?;
            Ok(if left.contains("/pvc-") { Err(left) } else { Ok(()) })
        })?;
        self.show(&["get", "spv"]).map(drop)
    }

    fn store(&self, pod: &str, ask: &[&str]) -> anyhow::Result<String> {
        let exec = ["-n", "team-a", "exec", pod, "--", CLIENT];
        Ok(self.quietly(&[&exec[..], ask].concat())?.trim().to_owned())
    }
}
