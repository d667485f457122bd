//! The storage capacity of a StorageClass on each node, for schedulers (P2), and on nodes that an autoscaler could add (F7).

use std::collections::BTreeMap;

use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::{Resource, ResourceExt};

use crate::api::{
    DiskReservation, LABEL_MANAGED_BY, MANAGED_BY, NodeDisk, Role, SharedPersistentVolume, Size,
    TOPOLOGY_NODE, VolumeRole, stable_hash,
};

use super::create::could_hold;
use super::postponed::is_small;
use super::pvc_provisioner::class as classes;
use super::{kept, quota};

/// Bytes that volumes of a class may still take on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct StorageCapacity {
    /// Sum of the free bytes of all reservations; bytes of kept data are free for a new volume (X8).
    total: u64,
    /// The same of the reservation that has most.
    largest: u64,
}

impl StorageCapacity {
    fn is_close_to(self, now: Self) -> bool {
        is_small(self.total, now.total) && is_small(self.largest, now.largest)
    }
}

/// The writes for one StorageClass.
pub struct Changes<'a> {
    /// Objects to be deleted.
    pub delete: Vec<&'a CSIStorageCapacity>,
    /// Objects to be applied.
    pub apply: Vec<CSIStorageCapacity>,
    /// True if small changes alone are left, which are not in `apply` ([`super::postponed`]).
    pub postponed: bool,
    /// The mistake in a class of ours, which gives no PersistentVolumeClaim a volume (P6).
    pub mistake: Option<String>,
}

/// The objects that decide on the storage capacity of a class.
pub struct Seen<'a, 'b> {
    /// The present objects of the class in all namespaces.
    pub there: &'b [&'a CSIStorageCapacity],
    /// All reservations.
    pub reservations: &'b [&'b DiskReservation],
    /// All disks.
    pub disks: &'b [&'b NodeDisk],
    /// All VolumeRoles.
    pub roles: &'b [&'b VolumeRole],
    /// True if small changes are to be told, too.
    pub exactly: bool,
    /// The size that no volume may reach on a node.
    pub crowded: &'b BTreeMap<String, u64>,
    /// The namespace of the correct objects. Others are those of an earlier installation, and would mislead the scheduler
    /// for ever (F5).
    pub namespace: &'b str,
}

/// The label of the Nodes that cluster-autoscaler imagines, to see whether a pod would fit on a node that it could add.
const TEMPLATE_NODE: &str = "cluster-autoscaler.kubernetes.io/template-node";

/// Labels of nodes.
type Topology = BTreeMap<String, String>;

/// The writes that turn the present objects into the correct ones. A class of another driver has no objects, and a class
/// without delayed binding has none either.
pub fn changes<'a>(
    class: &StorageClass,
    seen: &Seen<'a, '_>,
    disk_ready: impl Fn(&str) -> bool,
) -> Changes<'a> {
    let Seen { there, reservations, disks, roles, exactly, crowded, namespace } = *seen;
    let spec = classes::is_ours(class).then(|| classes::of_class(class)).transpose();
    let (spec, mistake) = match spec {
        Ok(spec) => (spec.filter(|_| classes::is_delayed(class)), None),
        Err(mistake) => (None, Some(mistake)),
    };
    let volume = spec.map(|spec| SharedPersistentVolume::new("any", spec));
    let mut on_nodes =
        volume.as_ref().map(|it| capacities(it, reservations, disks, disk_ready)).unwrap_or_default();
    for (node, bytes) in crowded {
        if let Some(capacity) = on_nodes.get_mut(node) {
            capacity.largest = capacity.largest.min(bytes.saturating_sub(1));
        }
    }
    let of_node = |(node, capacity)| (Topology::from([(TOPOLOGY_NODE.to_owned(), node)]), capacity);
    let mut wanted: BTreeMap<Topology, StorageCapacity> = on_nodes.into_iter().map(of_node).collect();
    wanted.extend(volume.map(|volume| on_new_nodes(&volume, roles)).unwrap_or_default());
    let stays = |old: &CSIStorageCapacity| {
        old.metadata.namespace.as_deref() == Some(namespace)
            && topology_of(old).is_some_and(|topology| wanted.contains_key(topology))
    };
    let (kept, delete): (Vec<&CSIStorageCapacity>, Vec<&CSIStorageCapacity>) =
        there.iter().partition(|old| stays(old));
    let told = |topology: &Topology| kept.iter().find(|old| topology_of(old) == Some(topology));
    let mut changed: Vec<(&Topology, StorageCapacity, bool)> = Vec::new();
    for (topology, capacity) in &wanted {
        let told = told(topology).map(|old| capacity_of(old));
        if told != Some(*capacity) {
            changed.push((topology, *capacity, told.is_some_and(|told| told.is_close_to(*capacity))));
        }
    }
    // One write of a class has its small changes, too.
    let postponed = !exactly && !changed.is_empty() && changed.iter().all(|(.., is_small)| *is_small);
    let apply = changed
        .iter()
        .filter(|_| !postponed)
        .map(|(topology, capacity, _)| object(class, topology, *capacity));
    let apply = apply.collect();
    Changes { delete, apply, postponed, mistake }
}

/// The capacity for volumes like this one, of any size, on each node that has a reservation for them.
fn capacities(
    volume: &SharedPersistentVolume,
    reservations: &[&DiskReservation],
    disks: &[&NodeDisk],
    disk_ready: impl Fn(&str) -> bool,
) -> BTreeMap<String, StorageCapacity> {
    let mut capacities: BTreeMap<String, StorageCapacity> = BTreeMap::new();
    for reservation in reservations.iter().filter(|r| could_hold(volume, r, disks)) {
        let Some(status) = &reservation.status else { continue };
        let (Some(node), Some(disk)) = (&status.node_name, &status.node_disk) else { continue };
        let capacity = capacities.entry(node.clone()).or_default();
        let free = if disk_ready(disk) { kept::available(status) } else { 0 };
        capacity.total = capacity.total.saturating_add(free);
        capacity.largest = capacity.largest.max(free);
    }
    capacities
}

/// The capacity of a fresh node, by the labels that a template of reservations selects (R7). A reservation beyond the limit of
/// a role would not be served, so no node is to be added for it. A class that names one reservation gets nothing on a new node.
fn on_new_nodes(
    volume: &SharedPersistentVolume,
    roles: &[&VolumeRole],
) -> BTreeMap<Topology, StorageCapacity> {
    let mut capacities: BTreeMap<Topology, StorageCapacity> = BTreeMap::new();
    let limits = quota::ledgers(roles);
    for (of, role) in quota::counting(roles) {
        let may_use = Role::name_covers(of, &volume.spec.role);
        let templates = role.spec.reservation_templates.iter();
        for template in templates.filter(|_| may_use && volume.spec.reservation.is_none()) {
            let size = template.size.bytes_or_zero();
            let is_over = limits.iter().any(|(limited, reserved)| {
                quota::charges(&limited.spec.role, of, None)
                    && quota::refusal(limited, Some(of), &quota::taken(limited, of, *reserved, &limits), size)
                        .is_some()
            });
            let free = if is_over { 0 } else { size };
            let mut topology = template.node_selector.clone().unwrap_or_default();
            topology.insert(TEMPLATE_NODE.to_owned(), "true".to_owned());
            let capacity = capacities.entry(topology).or_default();
            capacity.total = capacity.total.saturating_add(free);
            capacity.largest = capacity.largest.max(free);
        }
    }
    capacities
}

fn topology_of(object: &CSIStorageCapacity) -> Option<&Topology> {
    object.node_topology.as_ref()?.match_labels.as_ref()
}

/// The capacity of the object in bytes, since the API server rewrites quantities.
fn capacity_of(object: &CSIStorageCapacity) -> StorageCapacity {
    let bytes = |quantity: &Option<Quantity>| {
        quantity.as_ref().map_or(0, |quantity| Size::written(&quantity.0).bytes_or_zero())
    };
    StorageCapacity { total: bytes(&object.capacity), largest: bytes(&object.maximum_volume_size) }
}

fn object(class: &StorageClass, topology: &Topology, capacity: StorageCapacity) -> CSIStorageCapacity {
    let labels = || topology.iter().map(|(label, value)| format!("{label}={value}")).collect::<Vec<_>>();
    let name = match topology.get(TOPOLOGY_NODE).filter(|_| topology.len() == 1) {
        Some(node) => node.clone(),
        None => labels().join(","),
    };
    let hash = stable_hash(&format!("{}/{name}", class.uid().unwrap_or_default()));
    let quantity = |bytes| Some(Quantity(Size::from_bytes(bytes).as_str().to_owned()));
    CSIStorageCapacity {
        metadata: ObjectMeta {
            name: Some(format!("reservoir-{hash:016x}")),
            labels: Some([(LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned())].into()),
            // With this owner reference, Kubernetes deletes the object together with its class.
            owner_references: class.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..Default::default()
        },
        storage_class_name: class.name_any(),
        node_topology: Some(LabelSelector { match_labels: Some(topology.clone()), ..Default::default() }),
        capacity: quantity(capacity.total),
        maximum_volume_size: quantity(capacity.largest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;

    fn reservations() -> [DiskReservation; 4] {
        let mut far = reserved("far", "eng", 5, &[("x", 4)]);
        far.status.as_mut().unwrap().node_name = Some("n2".into());
        [
            reserved("near", "eng/ml", 4, &[("x", 1)]),
            reserved("above", "eng", 10, &[]),
            reserved("others", "ops", 50, &[]),
            far,
        ]
    }

    fn told<'a>(
        class: &StorageClass,
        there: &[&'a CSIStorageCapacity],
        reservations: &[&DiskReservation],
        roles: &[&VolumeRole],
        crowded: &BTreeMap<String, u64>,
    ) -> Changes<'a> {
        let exactly = true;
        let seen = Seen { there, reservations, disks: &[], roles, exactly, crowded, namespace: "ours" };
        changes(class, &seen, |_| true)
    }

    #[test]
    fn f7_r7_a_node_that_could_be_added_has_its_templates() {
        let template = |name: &str, size, pool: &str| crate::api::ReservationTemplate {
            name: name.into(),
            size: gi(size),
            disk_name: "default".into(),
            node_selector: Some([("pool".to_owned(), pool.to_owned())].into()),
        };
        let (mut eng, mut ml) = (volume_role("eng", "eng"), volume_role("ml", "eng/ml"));
        eng.spec.reservation_templates = vec![template("a", 5, "gpu"), template("b", 7, "cpu")];
        ml.spec.reservation_templates = vec![template("c", 3, "gpu")];
        let mut wish = volume("pvc-u", "eng/ml", 1);
        let new = |wish: &SharedPersistentVolume, roles: &[&VolumeRole]| -> Vec<(String, u64, u64)> {
            let found = on_new_nodes(wish, roles);
            assert!(found.keys().all(|labels| labels[TEMPLATE_NODE] == "true"));
            found.iter().map(|(labels, c)| (labels["pool"].clone(), c.total >> 30, c.largest >> 30)).collect()
        };
        let all = [("cpu".to_owned(), 7, 7), ("gpu".to_owned(), 8, 5)];
        assert_eq!(new(&wish, &[&eng, &ml]), all);
        let limited = with_quota(eng.clone(), Some(16), None, &[("x", 10)]);
        assert_eq!(
            new(&wish, &[&limited, &ml]),
            [("cpu".to_owned(), 0, 0), ("gpu".to_owned(), 8, 5)],
            "Q2: a node would come in vain"
        );
        wish.spec.reservation = Some("r".into());
        assert_eq!(new(&wish, &[&eng, &ml]), []);
        assert_eq!(new(&volume("v", "eng", 1), &[&ml]), [], "never the reverse");
    }

    #[test]
    fn p2_the_sum_covers_reservations_of_role_and_ancestors() {
        let all = reservations();
        let (all, wish): (Vec<_>, _) = (all.iter().collect(), volume("pvc-u", "eng/ml", 1));
        let gib = |total: u64, largest: u64| StorageCapacity { total: total << 30, largest: largest << 30 };
        let found = capacities(&wish, &all, &[], |_| true);
        assert_eq!(found, [("n1".to_owned(), gib(13, 10)), ("n2".to_owned(), gib(1, 1))].into());
        let unready = capacities(&wish, &all, &[], |_| false);
        assert_eq!(unready["n1"], gib(0, 0), "D4: nothing on a disk that cannot be reached");
    }

    #[test]
    fn p2_an_object_is_written_only_when_its_capacity_changes() {
        let mut class = StorageClass {
            provisioner: crate::api::DRIVER.into(),
            volume_binding_mode: Some("WaitForFirstConsumer".into()),
            parameters: Some([("role".to_owned(), "eng/ml".to_owned())].into()),
            ..Default::default()
        };
        let all = reservations();
        let names = |class: &StorageClass, there: &[&CSIStorageCapacity], all: &[&DiskReservation]| {
            let Changes { delete, mut apply, .. } = told(class, there, all, &[], &BTreeMap::new());
            apply.iter_mut().for_each(|made| made.metadata.namespace = Some("ours".into()));
            (delete.len(), apply)
        };
        let (_, made) = names(&class, &[], &all.iter().collect::<Vec<_>>());
        let there: Vec<_> = made.iter().collect();
        assert_eq!(there.len(), 2, "n1 and n2");
        assert_eq!(names(&class, &there, &all.iter().collect::<Vec<_>>()), (0, vec![]));
        let without_n2: Vec<_> = all[..3].iter().collect();
        assert_eq!(names(&class, &there, &without_n2), (1, vec![]));
        let mut elsewhere = made.clone();
        elsewhere[0].metadata.namespace = Some("earlier".into());
        let both: Vec<_> = made.iter().chain(&elsewhere[..1]).collect();
        assert_eq!(names(&class, &both, &all.iter().collect::<Vec<_>>()), (1, vec![]), "F5");
        let less: Vec<_> = all[1..].iter().collect();
        assert_eq!(names(&class, &there, &less).1.len(), 1, "n1 has less");
        let crowded = [("n1".to_owned(), 4 << 30), ("n3".to_owned(), 1)].into();
        let told = told(&class, &there, &all.iter().collect::<Vec<_>>(), &[], &crowded).apply;
        let told: Vec<_> = told.iter().map(capacity_of).collect();
        assert_eq!(told, [StorageCapacity { total: 13 << 30, largest: (4 << 30) - 1 }]);
        class.volume_binding_mode = None;
        assert_eq!(names(&class, &there, &less), (2, vec![]), "schedulers do not ask");
    }

    #[test]
    fn p2_a_small_change_waits_for_others() {
        let class = StorageClass {
            provisioner: crate::api::DRIVER.into(),
            volume_binding_mode: Some("WaitForFirstConsumer".into()),
            parameters: Some([("role".to_owned(), "eng".to_owned())].into()),
            ..Default::default()
        };
        let with = |taken| reserved("r", "eng", 32, &[("x", taken)]);
        let mut there = told(&class, &[], &[&reserved("r", "eng", 32, &[])], &[], &BTreeMap::new()).apply;
        there[0].metadata.namespace = Some("ours".into());
        let crowded = BTreeMap::new();
        for (taken, exactly, postponed, written) in
            [(2, false, true, 0), (2, true, false, 1), (3, false, false, 1), (32, false, false, 1)]
        {
            let (r, there): (_, Vec<_>) = (with(taken), there.iter().collect());
            let (reservations, roles, namespace) = (&[&r][..], &[][..], "ours");
            let seen = Seen {
                there: &there,
                reservations,
                disks: &[],
                roles,
                exactly,
                crowded: &crowded,
                namespace,
            };
            let found = changes(&class, &seen, |_| true);
            let said = (found.postponed, found.apply.len());
            assert_eq!(said, (postponed, written), "{taken} {exactly}");
        }
    }

    #[test]
    fn p6_the_mistake_of_our_class_is_told() {
        for (provisioner, role, said) in [
            (crate::api::DRIVER, "eng", None),
            (
                crate::api::DRIVER,
                "",
                Some("StorageClass fast names no role in its parameters; make the class anew"),
            ),
            ("other.example", "", None),
        ] {
            let mut class = StorageClass { provisioner: provisioner.into(), ..Default::default() };
            class.metadata.name = Some("fast".into());
            class.parameters = Some([("role".to_owned(), role.to_owned())].into());
            let told = told(&class, &[], &[], &[], &BTreeMap::new()).mistake;
            assert_eq!(told.as_deref(), said, "{provisioner} {role}");
        }
    }
}
