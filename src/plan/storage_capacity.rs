//! The storage capacity of a StorageClass on each node, for schedulers (P2).

use std::collections::BTreeMap;

use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::{Resource, ResourceExt};

use crate::api::{
    DiskReservation, LABEL_MANAGED_BY, MANAGED_BY, NodeDisk, SharedPersistentVolume, Size, TOPOLOGY_NODE,
    stable_hash,
};

use super::create::could_hold;
use super::kept;
use super::pvc_provisioner::class as classes;

/// Bytes that volumes of a class may still take on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct StorageCapacity {
    /// Sum of the free bytes of all reservations; bytes of kept data are free for a new volume (X8).
    total: u64,
    /// The same of the reservation that has most.
    largest: u64,
}

/// The writes for one StorageClass.
pub struct Changes<'a> {
    /// Objects to be deleted.
    pub delete: Vec<&'a CSIStorageCapacity>,
    /// Objects to be applied.
    pub apply: Vec<CSIStorageCapacity>,
    /// The mistake in a class of ours, which gives no PersistentVolumeClaim a volume (P6).
    pub mistake: Option<String>,
}

/// The writes that turn `there`, the present objects of the class in all namespaces, into the correct objects in
/// `namespace`. A class of another driver has no objects, and a class without delayed binding has none either. `crowded`
/// has the size that no volume may reach on a node. Objects in other namespaces are those of an earlier installation, and
/// would mislead the scheduler for ever (F5).
pub fn changes<'a>(
    class: &StorageClass,
    there: &[&'a CSIStorageCapacity],
    reservations: &[&DiskReservation],
    disks: &[&NodeDisk],
    disk_ready: impl Fn(&str) -> bool,
    crowded: &BTreeMap<String, u64>,
    namespace: &str,
) -> Changes<'a> {
    let spec = classes::is_ours(class).then(|| classes::of_class(class)).transpose();
    let (spec, mistake) = match spec {
        Ok(spec) => (spec.filter(|_| classes::is_delayed(class)), None),
        Err(mistake) => (None, Some(mistake)),
    };
    let volume = spec.map(|spec| SharedPersistentVolume::new("any", spec));
    let mut wanted =
        volume.map(|volume| capacities(&volume, reservations, disks, disk_ready)).unwrap_or_default();
    for (node, bytes) in crowded {
        if let Some(capacity) = wanted.get_mut(node) {
            capacity.largest = capacity.largest.min(bytes.saturating_sub(1));
        }
    }
    let stays = |old: &CSIStorageCapacity| {
        old.metadata.namespace.as_deref() == Some(namespace)
            && node_of(old).is_some_and(|node| wanted.contains_key(node))
    };
    let (kept, delete): (Vec<&CSIStorageCapacity>, Vec<&CSIStorageCapacity>) =
        there.iter().partition(|old| stays(old));
    let same = |node: &String, capacity: StorageCapacity| {
        kept.iter().any(|old| node_of(old) == Some(node) && capacity_of(old) == capacity)
    };
    let changed = wanted.iter().filter(|(node, capacity)| !same(node, **capacity));
    let apply = changed.map(|(node, capacity)| object(class, node, *capacity)).collect();
    Changes { delete, apply, mistake }
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

fn node_of(object: &CSIStorageCapacity) -> Option<&String> {
    object.node_topology.as_ref()?.match_labels.as_ref()?.get(TOPOLOGY_NODE)
}

/// The capacity of the object in bytes, since the API server rewrites quantities.
fn capacity_of(object: &CSIStorageCapacity) -> StorageCapacity {
    let bytes = |quantity: &Option<Quantity>| {
        quantity.as_ref().map_or(0, |quantity| Size::written(&quantity.0).bytes_or_zero())
    };
    StorageCapacity { total: bytes(&object.capacity), largest: bytes(&object.maximum_volume_size) }
}

fn object(class: &StorageClass, node: &str, capacity: StorageCapacity) -> CSIStorageCapacity {
    let hash = stable_hash(&format!("{}/{node}", class.uid().unwrap_or_default()));
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
        node_topology: Some(LabelSelector {
            match_labels: Some([(TOPOLOGY_NODE.to_owned(), node.to_owned())].into()),
            ..Default::default()
        }),
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
            let Changes { delete, mut apply, .. } =
                changes(class, there, all, &[], |_| true, &BTreeMap::new(), "ours");
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
        let told =
            changes(&class, &there, &all.iter().collect::<Vec<_>>(), &[], |_| true, &crowded, "ours").apply;
        let told: Vec<_> = told.iter().map(capacity_of).collect();
        assert_eq!(told, [StorageCapacity { total: 13 << 30, largest: (4 << 30) - 1 }]);
        class.volume_binding_mode = None;
        assert_eq!(names(&class, &there, &less), (2, vec![]), "schedulers do not ask");
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
            let told = changes(&class, &[], &[], &[], |_| true, &BTreeMap::new(), "ours").mistake;
            assert_eq!(told.as_deref(), said, "{provisioner} {role}");
        }
    }
}
