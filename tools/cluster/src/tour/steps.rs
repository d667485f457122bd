//! The steps, in order.

use anyhow::{Context, ensure};

use super::Tour;

/// A ClusterRoleBinding that lets jane write reservations and volumes; verbs on roles are asked for besides.
const JANE_OPERATES: &str = "jane-operates";

impl Tour {
    /// Runs all steps; Reservoir must be installed. The steps leave nothing in the cluster.
    pub fn walk(&self) -> anyhow::Result<()> {
        self.clean()?;
        let free = self.disks()?;
        self.authorise()?;
        self.reserve()?;
        self.quota()?;
        self.create()?;
        self.subscribe()?;
        self.claim()?;
        let files = self.share()?;
        self.fill()?;
        self.wait_in_line()?;
        let picture = self.plug_in()?;
        self.refuse_destroy()?;
        self.kill_agent()?;
        self.release()?;
        self.refine()?;
        self.group()?;
        self.grow()?;
        self.find_again(files)?;
        self.stateful()?;
        self.fan_out()?;
        self.destroy()?;
        self.every_node()?;
        self.unreserve(&free)?;
        println!("\n=== What was built, before it was taken away\n{}", picture.trim_end());
        Ok(())
    }

    /// Waits for a state in which nothing happens any more: all claims are bound.
    pub fn settle(&self) -> anyhow::Result<()> {
        for example in ["01-reservation.yaml", "03-volumes.yaml", "04-subscriptions.yaml", "05-claims.yaml"] {
            self.apply(example)?;
        }
        self.ready(&["vclaim", "--all", "-A"])
    }

    /// Removes what an earlier tour may have left.
    pub fn clean(&self) -> anyhow::Result<()> {
        for namespace in ["team-a", "team-b"] {
            for pods in ["deployments,jobs,statefulsets,pods", "pvc", "vclaim"] {
                self.quietly(&["-n", namespace, "delete", pods, "--all", "--timeout=120s"])?;
            }
        }
        let volumes = self.quietly(&["get", "spv", "-o", "name"])?;
        for kept in volumes.lines().filter(|name| name.contains("/pvc-")) {
            self.quietly(&["delete", kept, "--timeout=120s", "--ignore-not-found"])?;
        }
        let quota = ["diskreservation", "reporting", "reporting-archive"];
        self.quietly(&[&["delete", "--ignore-not-found", "--timeout=120s"], &quota[..]].concat())?;
        for example in [
            "21-statefulset.yaml",
            "19-storage-class.yaml",
            "13-quota.yaml",
            "18-group.yaml",
            "03-volumes.yaml",
            "02-reservation-too-large.yaml",
            "01-reservation.yaml",
            "04-subscriptions.yaml",
            "11-grants.yaml",
        ] {
            let path = self.repository.join("examples").join(example);
            let delete =
                self.cluster.kubectl()?.args(["delete", "--ignore-not-found", "--timeout=120s", "-f"]);
            delete.arg(path).run()?;
        }
        self.quietly(&["delete", "clusterrolebinding", JANE_OPERATES, "--ignore-not-found"]).map(drop)
    }

    /// D1.
    fn disks(&self) -> anyhow::Result<String> {
        self.title("What each node has")?;
        let nodes = self.cluster.node_names()?.len();
        self.until("a NodeDisk of each node", || {
            let disks = self.quietly(&["get", "nodedisks", "-o", "name"])?;
            Ok(if disks.lines().count() >= nodes { Ok(()) } else { Err(disks) })
        })?;
        self.ready(&["nodedisks", "--all"])?;
        self.show(&["get", "nodedisks"])?;
        self.free()
    }

    fn free(&self) -> anyhow::Result<String> {
        self.field(&["nodedisks"], "{range .items[*]}{.metadata.name}={.status.free} {end}")
    }

    /// A1, A5, R5.
    fn authorise(&self) -> anyhow::Result<()> {
        self.title("Jane may write reservations, but not for role analytics until somebody grants it")?;
        let operator = "--clusterrole=reservoir-role-operator";
        self.show(&["create", "clusterrolebinding", JANE_OPERATES, operator, "--user=jane"])?;
        let manifest = self.manifest("01-reservation.yaml", &["--as=jane"])?;
        let path = manifest.path().to_str().context("the path of the manifest is not UTF-8")?;
        let reserve = ["--as=jane", "apply", "-f", path];
        // A change of RBAC takes effect after a moment.
        let said = self.until("jane to be refused for want of a grant", || match self.quietly(&reserve) {
            Err(error) if error.to_string().contains("lacks the verb") => Ok(Ok(error.to_string())),
            Err(error) => Ok(Err(error.to_string())),
            Ok(done) => anyhow::bail!("was to be refused, and was done: {done}"),
        })?;
        println!("$ kubectl --as=jane apply -f examples/01-reservation.yaml");
        println!("{}", said.split_once('\n').map_or(said.as_str(), |(_, said)| said).trim());
        let missing = "user jane lacks the verb reserve on volumeroles.reservoir.dev/analytics";
        ensure!(said.contains(missing), "it does not name verb and role: {said}");
        self.apply("11-grants.yaml")?;
        println!("$ kubectl --as=jane apply -f examples/01-reservation.yaml");
        let done = self.until("jane's grant to be in force", || {
            Ok(self.quietly(&reserve).map_err(|error| error.to_string()))
        })?;
        print!("{done}");
        let principal = self.field(&["diskreservation", "analytics"], "{.spec.principal}")?;
        println!("diskreservation analytics: made by {principal}");
        ensure!(principal == "jane", "the reservation was made by jane, and says {principal}");
        Ok(())
    }

    /// R1.
    fn reserve(&self) -> anyhow::Result<()> {
        self.title("Disk for role analytics; one reservation asks for more than there is")?;
        self.ready(&["diskreservation/analytics"])?;
        self.apply("02-reservation-too-large.yaml")?;
        let said = self.reason(&["diskreservation", "analytics-archive"], "NotEnoughRoom")?;
        ensure!(said.contains("too little"), "it does not say how much is missing: {said}");
        self.show(&["get", "diskreservations"]).map(drop)
    }

    /// Q2.
    fn quota(&self) -> anyhow::Result<()> {
        self.title("A role with a limit: what is within it is reserved, more is refused with the numbers")?;
        self.apply("13-quota.yaml")?;
        self.ready(&["volumerole/reporting", "diskreservation/reporting"])?;
        let said = self.reason(&["diskreservation", "reporting-archive"], "OverQuota")?;
        ensure!(said.contains("of its limit of 1Gi") && said.contains("too much"), "no numbers: {said}");
        self.show(&["get", "volumeroles"])?;
        self.show(&["delete", "diskreservation", "reporting", "reporting-archive", "--timeout=120s"])?;
        self.unapply("13-quota.yaml")
    }

    /// V1.
    fn create(&self) -> anyhow::Result<()> {
        self.title("Create a shared volume and an exclusive one out of the reservation")?;
        self.apply("03-volumes.yaml")?;
        self.ready(&["spv/datasets", "spv/scratch"])?;
        self.show(&["get", "spv"])?;
        let free = self.field(&["diskreservation", "analytics"], "{.status.free}")?;
        ensure!(free == "960Mi", "2Gi less 1Gi and 64Mi is 960Mi, the reservation has {free}");
        Ok(())
    }

    /// O1, O2.
    fn subscribe(&self) -> anyhow::Result<()> {
        self.title("Two namespaces subscribe, and see what is offered to them")?;
        self.apply("04-subscriptions.yaml")?;
        for namespace in ["team-a", "team-b"] {
            self.ready(&["-n", namespace, "rolesubscription/analytics"])?;
            self.until(&format!("both volumes to be offered to {namespace}"), || {
                let offered =
                    self.field(&["-n", namespace, "volumeoffers"], "{.items[*].spec.volumes[*].name}")?;
                Ok(if offered == "datasets scratch" { Ok(()) } else { Err(offered) })
            })?;
            self.ready(&["-n", namespace, "volumeoffers", "--all"])?;
        }
        self.show(&["get", "volumeoffers", "-A"])?;
        self.ready(&["volumerole/analytics"])?;
        self.show(&["get", "volumeroles"])?;
        self.show(&["get", "rolesubscriptions", "-A"]).map(drop)
    }

    /// C1, C2, C5, M3.
    fn claim(&self) -> anyhow::Result<()> {
        self.title(
            "Claims: ReadWrite in one namespace, ReadOnly in the other, whose pods are there already",
        )?;
        // As Helm does it. Admission knows no claim yet, so the pods do not say that they only read.
        self.apply("07-readers.yaml")?;
        let readers = ["-n", "team-b", "pods", "-l", "app=readers"];
        self.until("the readers' pods to be made", || {
            let made = self.field(&readers, "{.items[*].metadata.name}")?;
            Ok(if made.split_whitespace().count() == 2 { Ok(()) } else { Err(made) })
        })?;
        self.apply("05-claims.yaml")?;
        for (namespace, claim) in [("team-a", "datasets"), ("team-b", "datasets"), ("team-a", "scratch")] {
            self.ready(&["-n", namespace, &format!("vclaim/{claim}")])?;
        }
        self.show(&["get", "vclaim", "-A"])?;
        self.show(&["get", "pv"])?;
        self.show(&["get", "pvc", "-A"])?;
        let modes = self.field(&["-n", "team-b", "pvc", "datasets"], "{.status.accessModes[*]}")?;
        ensure!(modes == "ReadOnlyMany", "the claim in team-b is {modes}");
        Ok(())
    }

    /// Starts the writer beside the readers; returns the number of its files.
    /// M1, M3, C5.
    fn share(&self) -> anyhow::Result<usize> {
        self.title(
            "Ordinary pods: a Job writes a data set, readers in the other namespace verify it meanwhile",
        )?;
        self.apply("06-writer.yaml")?;
        let wrote = self.until("the writer to write the data set", || {
            let log = self.quietly(&["-n", "team-a", "logs", "job/writer"]).unwrap_or_default();
            Ok(log.lines().find(|l| l.starts_with("wrote ")).map(str::to_owned).ok_or(log))
        })?;
        println!("writer: {wrote}");
        let numbers: Vec<usize> = wrote.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [files, mib] = numbers[..] else { anyhow::bail!("the writer said: {wrote}") };
        ensure!(files >= 1000 && mib >= 200, "too small a data set: {wrote}");
        self.show(&["-n", "team-b", "rollout", "status", "deployment/readers", "--timeout=120s"])?;
        let said = self.verified()?;
        println!("reader: {said}");
        ensure!(
            said.starts_with(&format!("verified {files} files")),
            "the writer wrote {files} files: {said}"
        );
        ensure!(said.contains("Read-only file system"), "a reader's write was not refused by EROFS: {said}");
        let path = "{.items[*].spec.volumes[*].persistentVolumeClaim.readOnly}";
        let said = self.field(&["-n", "team-b", "pods", "-l", "app=readers"], path)?;
        ensure!(
            said.is_empty() || !self.admission_writes()?,
            "the readers are younger than their claim: readOnly is {said}"
        );
        self.show(&["get", "pods", "-A", "-l", "batch.kubernetes.io/job-name=writer", "-o", "wide"])?;
        self.show(&["-n", "team-b", "get", "pods", "-o", "wide"])?;
        let home = self.field(&["spv", "datasets"], "{.status.nodeName}")?;
        for namespace in ["team-a", "team-b"] {
            let nodes = self.field(&["-n", namespace, "pods"], "{.items[*].spec.nodeName}")?;
            ensure!(
                nodes.split(' ').all(|node| node == home),
                "the volume is on {home}, the pods on {nodes}"
            );
        }
        Ok(files)
    }

    /// The last line of a reader, after each reader has verified everything once more.
    fn verified(&self) -> anyhow::Result<String> {
        let pods = self.field(&["-n", "team-b", "pods", "-l", "app=readers"], "{.items[*].metadata.name}")?;
        let lines = |pod: &str| self.quietly(&["-n", "team-b", "logs", pod]);
        let count = |pod| lines(pod).unwrap_or_default().lines().count();
        let before: Vec<(&str, usize)> = pods.split_whitespace().map(|pod| (pod, count(pod))).collect();
        let mut last = String::new();
        for (pod, before) in before {
            last = self.until(&format!("{pod} to verify the data set once more"), || {
                let log = lines(pod)?;
                ensure!(!log.contains("FAILED"), "{pod} failed:\n{log}");
                let more = log.lines().count() > before;
                Ok(if more { Ok(log.lines().last().unwrap_or_default().to_owned()) } else { Err(log) })
            })?;
        }
        let restarts =
            self.field(&["-n", "team-b", "pods"], "{.items[*].status.containerStatuses[*].restartCount}")?;
        ensure!(restarts.split_whitespace().all(|n| n == "0"), "readers were restarted: {restarts}");
        Ok(last)
    }

    /// V5.
    fn fill(&self) -> anyhow::Result<()> {
        self.title("Writing past the size gives ENOSPC, and hurts nobody")?;
        self.apply("08-fill.yaml")?;
        self.show(&["-n", "team-a", "wait", "--for=condition=Complete", "job/fill", "--timeout=120s"])?;
        let said = self.show(&["-n", "team-a", "logs", "job/fill"])?;
        ensure!(said.contains("No space left on device"), "{said}");
        println!("reader: {}", self.verified()?);
        Ok(())
    }

    /// C3.
    fn wait_in_line(&self) -> anyhow::Result<()> {
        self.title("A second claim to the exclusive volume waits and names its holder")?;
        self.apply("09-second-claim.yaml")?;
        let said = self.reason(&["-n", "team-b", "vclaim", "scratch"], "VolumeHeld")?;
        ensure!(said.contains("team-a/scratch"), "it does not name the holder: {said}");
        Ok(())
    }

    /// Returns what `tree` and `status` show of everything.
    /// T4.
    fn plug_in(&self) -> anyhow::Result<String> {
        self.title("kubectl reservoir shows where everything is, and says why the claim waits")?;
        let directory = self.plugin_directory()?;
        let status = self.plugin(&directory, &["status"])?;
        let tree = self.plugin(&directory, &["tree", "--role", "analytics"])?;
        let place = |what: &str| tree.find(what).with_context(|| format!("the tree has no {what}"));
        let way = [
            place("NodeDisk ")?,
            place("DiskReservation analytics ")?,
            place("SharedPersistentVolume datasets ")?,
            place("VolumeClaim team-a/datasets ")?,
            place("Pod team-a/writer-")?,
        ];
        ensure!(way.is_sorted(), "it is not in its order");
        let why = self.plugin(&directory, &["why", "vclaim/scratch", "-n", "team-b"])?;
        ensure!(
            why.contains("VolumeHeld: ") && why.contains("its volume is held by claim team-a/scratch"),
            "it does not name the holder"
        );
        Ok(format!("$ kubectl reservoir tree --role analytics\n{tree}\n$ kubectl reservoir status\n{status}"))
    }

    /// X1, R6.
    fn refuse_destroy(&self) -> anyhow::Result<()> {
        self.title("Destroying a volume that pods use is refused")?;
        self.until("all users to be counted", || {
            let users = self.field(&["spv", "datasets"], "{.status.userCount}")?;
            Ok(if users == "3" { Ok(()) } else { Err(users) })
        })?;
        let said = self.refused(&["delete", "spv", "datasets"])?;
        ensure!(
            said.contains("in use by 3 pods: ") && said.contains("team-a/writer-"),
            "it names nobody: {said}"
        );
        let said = self.refused(&["delete", "diskreservation", "analytics"])?;
        ensure!(said.contains("holds 2 volumes: "), "it names no volume: {said}");
        let deleted = self.field(&["spv", "datasets"], "{.metadata.deletionTimestamp}")?;
        ensure!(deleted.is_empty(), "it is being deleted all the same");
        println!("reader: {}", self.verified()?);
        Ok(())
    }

    /// M5.
    fn kill_agent(&self) -> anyhow::Result<()> {
        self.title("The agent is killed; readers and writer do not notice")?;
        self.replace_agent(&self.field(&["spv", "datasets"], "{.status.nodeName}")?)?;
        println!("reader: {}", self.verified()?);
        // The new agent serves the volumes of the old one: another reader starts.
        self.show(&["-n", "team-b", "scale", "deployment/readers", "--replicas=3"])?;
        self.show(&["-n", "team-b", "rollout", "status", "deployment/readers", "--timeout=120s"])?;
        println!("reader: {}", self.verified()?);
        let writer = self.field(
            &["-n", "team-a", "pods", "-l", "batch.kubernetes.io/job-name=writer"],
            "{.items[*].status.phase}",
        )?;
        ensure!(writer == "Running", "the writer is {writer}");
        Ok(())
    }

    /// C3, C6.
    fn release(&self) -> anyhow::Result<()> {
        self.title("Pods and claims go; the volume stays, with its data")?;
        self.show(&["-n", "team-a", "exec", "job/writer", "--", "touch", "/data/enough"])?;
        self.show(&["-n", "team-a", "wait", "--for=condition=Complete", "job/writer", "--timeout=120s"])?;
        let log = self.quietly(&["-n", "team-a", "logs", "job/writer"])?;
        println!("writer: {}", log.lines().last().unwrap_or_default());
        ensure!(log.contains("appended "), "the writer did not end well: {log}");
        for example in ["08-fill.yaml", "07-readers.yaml", "06-writer.yaml", "05-claims.yaml"] {
            self.unapply(example)?;
        }
        // Nobody holds the exclusive volume any more, so the waiting claim is bound to it.
        self.ready(&["-n", "team-b", "vclaim/scratch"])?;
        self.unapply("09-second-claim.yaml")?;
        self.show(&["get", "spv"])?;
        let claims = self.field(&["spv", "datasets"], "{.status.claimCount}")?;
        ensure!(claims == "0", "datasets has {claims} claims");
        Ok(())
    }

    /// R4.
    fn refine(&self) -> anyhow::Result<()> {
        self.title("Some of the reservation is set aside for a sub-role, and goes back to it")?;
        let free = || self.field(&["diskreservation", "analytics"], "{.status.free}");
        let before = free()?;
        self.apply("12-refinement.yaml")?;
        self.ready(&["diskreservation/analytics-ml"])?;
        self.show(&["get", "diskreservations"])?;
        let during = free()?;
        ensure!(before != during, "the reservation has {during} left, as before");
        self.unapply("12-refinement.yaml")?;
        let after = free()?;
        ensure!(after == before, "free before: {before}, after: {after}");
        Ok(())
    }

    /// V11, V12.
    fn group(&self) -> anyhow::Result<()> {
        self.title("Pods of two users share the files of a volume with a group")?;
        self.apply("18-group.yaml")?;
        for (namespace, job, user) in [("team-a", "first", "1001"), ("team-b", "second", "1002")] {
            let done = ["-n", namespace, "wait", "--for=condition=Complete", "--timeout=120s"];
            self.show(&[&done[..], &[&format!("job/{job}")]].concat())?;
            let said = self.show(&["-n", namespace, "logs", &format!("job/{job}")])?;
            let first = said.lines().next().unwrap_or_default();
            let groups = first.strip_prefix(&format!("user {user}, groups ")).unwrap_or_default();
            ensure!(
                groups.split(' ').any(|group| group == "4321"),
                "it is not in the volume's group: {said}"
            );
            if job == "second" {
                ensure!(
                    said.contains("file of user 1001, group 4321\n"),
                    "the file is not the first user's and the group's: {said}"
                );
                ensure!(said.ends_with("one\ntwo\n"), "the second user did not write to it: {said}");
            }
        }
        for (namespace, job) in [("team-a", "job/first"), ("team-b", "job/second")] {
            self.show(&["-n", namespace, "delete", job, "vclaim/together", "--timeout=120s"])?;
        }
        self.show(&["delete", "spv", "together", "--timeout=120s"]).map(drop)
    }

    /// V7.
    fn grow(&self) -> anyhow::Result<()> {
        self.title("The volume grows, with all that is in it")?;
        self.apply("14-resize.yaml")?;
        self.until("datasets to have 1280Mi on its node", || {
            let has = self.field(&["spv", "datasets"], "{.status.node.size}")?;
            Ok(if has == "1280Mi" { Ok(()) } else { Err(has) })
        })?;
        self.show(&["wait", "--for=condition=Resized", "spv/datasets", "--timeout=60s"])?;
        self.show(&["get", "spv"]).map(drop)
    }

    /// V6.
    fn find_again(&self, files: usize) -> anyhow::Result<()> {
        self.title("A new claim and a new pod find the data")?;
        self.apply("10-again.yaml")?;
        self.ready(&["-n", "team-b", "vclaim/datasets-again"])?;
        self.show(&["-n", "team-b", "wait", "--for=condition=Complete", "job/again", "--timeout=120s"])?;
        let verified = self.show(&["-n", "team-b", "logs", "job/again"])?;
        ensure!(verified.trim() == files.to_string(), "{files} files were written, {verified} are there");
        self.unapply("10-again.yaml")
    }

    /// X4.
    fn destroy(&self) -> anyhow::Result<()> {
        self.title(
            "Unused, the volumes are destroyed: the bytes are gone, the reservation has its room back",
        )?;
        let home = self.field(&["spv", "datasets"], "{.status.nodeName}")?;
        let uid = self.field(&["spv", "datasets"], "{.metadata.uid}")?;
        let directory = format!("/var/lib/reservoir/volumes/{uid}");
        let on_disk = |look: &[&str]| self.cluster.exec(&home, look);
        if self.cluster.docker().is_ok() {
            print!(
                "{}",
                on_disk(&["du", "-sh", &directory]).context("the data is not where it is looked for")?
            );
        }
        self.show(&["delete", "spv", "datasets", "scratch", "--timeout=120s"])?;
        if self.cluster.docker().is_ok() {
            let left = on_disk(&["sh", "-c", &format!("ls -d {directory} 2>/dev/null || echo gone")])?;
            ensure!(left.trim() == "gone", "its bytes are still there: {left}");
            println!("{directory} on {home}: gone");
        }
        let free = self.field(&["diskreservation", "analytics"], "{.status.free}")?;
        ensure!(free == "2Gi", "the reservation has {free} free");
        let receipts =
            self.show(&["get", "events.events.k8s.io", "-A", "--field-selector=reason=Destroyed"])?;
        ensure!(receipts.contains("volume datasets"), "there is no receipt");
        self.show(&["get", "diskreservation", "analytics"]).map(drop)
    }

    /// R6.
    fn unreserve(&self, before: &str) -> anyhow::Result<()> {
        self.title("Unreserved, the disk has its room back")?;
        self.unapply("02-reservation-too-large.yaml")?;
        self.unapply("01-reservation.yaml")?;
        self.unapply("04-subscriptions.yaml")?;
        self.unapply("11-grants.yaml")?;
        self.show(&["delete", "clusterrolebinding", JANE_OPERATES])?;
        self.show(&["get", "nodedisks"])?;
        let after = self.free()?;
        ensure!(after == before, "free before: {before}, after: {after}");
        Ok(())
    }
}
