//! Kinds that commands take as an argument, and the most similar name.

/// A kind that commands take as an argument.
#[derive(Debug, PartialEq)]
pub(super) struct Kind {
    pub name: &'static str,
    pub short: &'static str,
    pub plural: &'static str,
    pub namespaced: bool,
    /// True if objects of the kind make pods.
    pub workload: bool,
}

const fn kind(name: &'static str, short: &'static str, plural: &'static str, namespaced: bool) -> Kind {
    Kind { name, short, plural, namespaced, workload: false }
}

const fn workload(name: &'static str, short: &'static str, plural: &'static str) -> Kind {
    Kind { name, short, plural, namespaced: true, workload: true }
}

pub(super) static DISK: Kind = kind("NodeDisk", "nd", "nodedisks", false);
pub(super) static RESERVATION: Kind = kind("DiskReservation", "dr", "diskreservations", false);
pub(super) static VOLUME: Kind = kind("SharedPersistentVolume", "spv", "sharedpersistentvolumes", false);
pub(super) static ROLE: Kind = kind("VolumeRole", "vrole", "volumeroles", false);
pub(super) static CLAIM: Kind = kind("VolumeClaim", "vclaim", "volumeclaims", true);
pub(super) static SUBSCRIPTION: Kind = kind("RoleSubscription", "rsub", "rolesubscriptions", true);
pub(super) static OFFER: Kind = kind("VolumeOffer", "offer", "volumeoffers", true);
pub(super) static POD: Kind = kind("Pod", "pod", "pods", true);
pub(super) static PVC: Kind = kind("PersistentVolumeClaim", "pvc", "persistentvolumeclaims", true);

static STATEFUL_SET: Kind = workload("StatefulSet", "sts", "statefulsets");
static DEPLOYMENT: Kind = workload("Deployment", "deploy", "deployments");
static DAEMON_SET: Kind = workload("DaemonSet", "ds", "daemonsets");
static JOB: Kind = workload("Job", "job", "jobs");

/// Every kind.
pub(super) static KINDS: [&Kind; 13] = [
    &POD,
    &STATEFUL_SET,
    &DEPLOYMENT,
    &DAEMON_SET,
    &JOB,
    &PVC,
    &CLAIM,
    &VOLUME,
    &RESERVATION,
    &DISK,
    &SUBSCRIPTION,
    &ROLE,
    &OFFER,
];

impl Kind {
    /// `vclaim/data -n team`: an object of the kind as the argument of a command.
    pub fn argument(&self, name: &str, namespace: Option<&str>) -> String {
        let namespace = namespace.map(|namespace| format!(" -n {namespace}")).unwrap_or_default();
        format!("{}/{name}{namespace}", self.short)
    }

    /// Parses any name that kubectl accepts for the kind. The error has the most similar name.
    pub fn parse(text: &str) -> Result<&'static Kind, String> {
        let lower = text.to_lowercase();
        // `kubectl get -o name` prints the group, too.
        let mut groups = [".reservoir.dev", ".apps", ".batch"].into_iter();
        let plain = groups.find_map(|group| lower.strip_suffix(group)).unwrap_or(&lower);
        // The words of people, which no kind has.
        let plain = match plain {
            "po" => "pod",
            "disk" | "disks" => DISK.short,
            "reservation" | "reservations" => RESERVATION.short,
            "volume" | "volumes" => VOLUME.short,
            "claim" | "claims" => CLAIM.short,
            "subscription" | "subscriptions" => SUBSCRIPTION.short,
            "role" | "roles" => ROLE.short,
            other => other,
        };
        let called = |k: &Kind| [k.short, k.plural, &k.name.to_lowercase()].contains(&plain);
        KINDS.into_iter().find(|k| called(k)).ok_or_else(|| {
            let names = KINDS.iter().flat_map(|k| [k.short, k.plural]);
            let known: Vec<&str> = KINDS.iter().map(|k| k.short).collect();
            let nearest = match plain {
                "no" | "node" | "nodes" => "; the disks of a node are of kind nd".to_owned(),
                "ns" | "namespace" | "namespaces" => {
                    "; kubectl reservoir tree -n shows a namespace".to_owned()
                }
                "pv" | "persistentvolume" | "persistentvolumes" => {
                    "; a PersistentVolume is that of a vclaim or pvc".to_owned()
                }
                "cj" | "cronjob" | "cronjobs" => {
                    "; a CronJob makes Jobs, of kind job: kubectl get jobs".to_owned()
                }
                "rs" | "replicaset" | "replicasets" => "; a ReplicaSet is that of a deploy".to_owned(),
                "sc" | "storageclass" | "storageclasses" => {
                    "; what a StorageClass lacks is told of its PersistentVolumeClaims, pvc".to_owned()
                }
                _ => did_you_mean(plain, names),
            };
            format!("`{text}` is not a kind of this plug-in{nearest}; its kinds are {}", known.join(", "))
        })
    }
}

/// The most similar other name; `None` if no name is similar. In a short name one typing error counts as similar. A name of
/// two letters is like half of all such names.
pub(super) fn nearest<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // People type names in capitals that Kubernetes has in small letters alone.
    let is_same = |name: &str| name.to_lowercase() == text.to_lowercase();
    let likeness = |name: &&str| {
        if is_same(name) {
            return 1.0;
        }
        let one_error = strsim::osa_distance(text, name) == 1;
        strsim::jaro_winkler(text, name).max(if one_error { 0.98 } else { 0.0 })
    };
    let is_long = |name: &str| name.chars().count() > 2;
    let similar = names.into_iter().filter(|name| {
        *name != text && (is_long(name) || is_long(text) || is_same(name)) && likeness(name) > 0.75
    });
    similar.max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}

/// `; did you mean x?`; empty if no name is similar.
pub(super) fn did_you_mean<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    nearest(text, names).map(|name| format!("; did you mean {name}?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T4: one typing error is nearer than a longer name with the same beginning.
    #[test]
    fn t4_the_nearest_name_has_one_typing_error() {
        assert_eq!(nearest("egn", ["eng/x", "eng", "ops"]), Some("eng"));
        assert_eq!(nearest("datasets", ["index"]), None);
        assert_eq!((nearest("wt", ["w5"]), nearest("w", ["w5"])), (None, None), "somebody else's");
        assert_eq!(nearest("po", ["pod"]), Some("pod"));
        assert_eq!(nearest("ML", ["mx", "ml"]), Some("ml"));
        assert_eq!(nearest("ENG", ["engine", "eng", "ENGINE"]), Some("eng"));
    }

    #[test]
    fn t4_kinds_parse_by_every_name_and_errors_name_the_nearest() {
        for (text, kind) in [
            ("spv", &VOLUME),
            ("SharedPersistentVolume", &VOLUME),
            ("sharedpersistentvolumes.reservoir.dev", &VOLUME),
            ("po", &POD),
            ("PVC", &PVC),
            ("vrole", &ROLE),
            ("volume", &VOLUME),
            ("claims", &CLAIM),
        ] {
            assert_eq!(Kind::parse(text), Ok(kind), "{text}");
        }
        let error = Kind::parse("vclaims").unwrap_err();
        assert!(error.contains("did you mean vclaim?") && error.contains("nd"), "{error}");
        assert_eq!(Kind::parse("job.batch").map(|kind| kind.name), Ok("Job"));
        for (foreign, said) in [("ns", "tree -n"), ("node", "kind nd"), ("pv", "vclaim"), ("sc", "pvc")] {
            let error = Kind::parse(foreign).unwrap_err();
            assert!(error.contains(said) && !error.contains("did you mean"), "{error}");
        }
        assert!(!Kind::parse("xyz").unwrap_err().contains("did you mean"));
    }
}
