//! Tells what disks the node has (D1).

use jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};

use crate::api::condition::{self, DISK_HEALTHY, Verdict, reason};
use crate::api::{AGENT_MANAGER, NodeDisk, NodeDiskSpec, Size};
use crate::cluster;
use crate::host::{DiskReport, Host};
use crate::plan::{ledger, room};

use super::config::DiskEntry;

/// Name of the NodeDisk of a disk.
pub(super) fn name(node: &str, disk: &str) -> String {
    format!("{node}.{disk}")
}

/// Brings the NodeDisks of this node up to date; writes nothing when nothing changed.
pub(super) async fn report(
    client: &Client,
    node: &str,
    entries: &[DiskEntry],
    host: &std::sync::Arc<Host>,
) -> Result<(), cluster::Error> {
    let api: Api<NodeDisk> = Api::all(client.clone());
    let known = cluster::list(&api, &ListParams::default().fields(&format!("spec.nodeName={node}"))).await?;
    let known = |disk: &str| known.iter().find(|object| object.name_any() == name(node, disk));
    for entry in entries {
        // Before anything on it is looked at: whose volumes these are is decided by the disk, not by its place (D3).
        let expected = known(&entry.name).map(|object| object.spec.disk_id.as_str());
        if let Err(error) = host.expect(&entry.name, expected) {
            tracing::error!(disk = entry.name, %error, "a disk is not served");
        }
    }
    let measuring = host.clone();
    let measured = tokio::task::spawn_blocking(move || {
        let held = measuring.volumes();
        let ours = |disk: &DiskReport| -> u64 {
            held.iter()
                .filter(|v| v.disk == disk.name)
                .filter_map(|v| v.record.as_ref().ok())
                .map(|r| r.spec.size_bytes)
                .sum()
        };
        measuring.disks().into_iter().map(|disk| (ours(&disk), disk)).collect::<Vec<_>>()
    });
    for (ours, mut disk) in measured.await.unwrap_or_default() {
        let Some(entry) = entries.iter().find(|entry| entry.name == disk.name) else { continue };
        let object = match (disk.id.clone(), known(&disk.name).cloned()) {
            (Some(id), Some(object)) if id != object.spec.disk_id => {
                disk.error = Some(other_disk(&object, entry, &id));
                object
            }
            (Some(id), Some(object)) if object.spec == spec(node, entry, &id) => object,
            (Some(id), _) => {
                let object = NodeDisk::new(&name(node, &disk.name), spec(node, entry, &id));
                cluster::apply(&api, &object, AGENT_MANAGER).await?
            }
            // It cannot even be read whose it is: only what is known already is marked.
            (None, Some(object)) => object,
            (None, None) => {
                tracing::error!(disk = disk.name, error = disk.error, "a disk cannot be served");
                continue;
            }
        };
        write(&api, &object, &disk, ours).await?;
    }
    Ok(())
}

fn other_disk(object: &NodeDisk, entry: &DiskEntry, id: &str) -> String {
    let (path, name) = (entry.path.display(), object.name_any());
    format!(
        "the disk at {path} is another one (ID {id}) than NodeDisk {name} (ID {}): mount the right disk, or delete \
         NodeDisk {name} when its data is given up",
        object.spec.disk_id
    )
}

fn spec(node: &str, entry: &DiskEntry, id: &str) -> NodeDiskSpec {
    NodeDiskSpec {
        node_name: node.to_owned(),
        disk_name: entry.name.clone(),
        disk_id: id.to_owned(),
        kind: entry.kind,
        backing: entry.backing,
        path: entry.path.display().to_string(),
    }
}

async fn write(
    api: &Api<NodeDisk>,
    object: &NodeDisk,
    disk: &DiskReport,
    ours: u64,
) -> Result<(), cluster::Error> {
    let mut status = object.status.clone().unwrap_or_default();
    let verdict = match &disk.error {
        Some(error) => Verdict::no(reason::DISK_REFUSED, error.clone()),
        None => {
            let measured = room::Measured {
                capacity: disk.capacity,
                system_reserved: disk.system_reserved,
                free: disk.free,
                ours,
            };
            let published = status.allocatable.as_ref().map(Size::bytes_or_zero);
            let allocatable = room::allocatable(measured, published);
            status.capacity = Some(Size::from_bytes(disk.capacity));
            status.system_reserved = Some(Size::from_bytes(disk.system_reserved));
            status.allocatable = Some(Size::from_bytes(allocatable));
            let reserved = ledger::total(&status.reservations);
            match reserved.checked_sub(allocatable).filter(|missing| *missing > 0) {
                None => Verdict::yes(reason::DISK_HEALTHY, "the disk is there, and so is the room on it"),
                Some(missing) => Verdict::no(
                    reason::SPACE_TAKEN,
                    format!(
                        "other files on {} took {} of the {} that are reserved; remove them or enlarge the file system",
                        object.spec.path,
                        Size::from_bytes(missing),
                        Size::from_bytes(reserved)
                    ),
                ),
            }
        }
    };
    // Numbers that drift are no news.
    let same = condition::get(&status.conditions, DISK_HEALTHY).is_some_and(|c| {
        c.reason == verdict.reason && (c.reason == reason::SPACE_TAKEN || c.message == verdict.message)
    });
    if !same {
        let generation = object.meta().generation;
        condition::set(&mut status.conditions, DISK_HEALTHY, verdict, generation, Timestamp::now());
        tracing::info!(disk = object.name_any(), reason = verdict_reason(&status), "disk");
    }
    cluster::write_status(api, object, &status, AGENT_MANAGER).await.map(|_| ())
}

fn verdict_reason(status: &crate::api::NodeDiskStatus) -> String {
    condition::get(&status.conditions, DISK_HEALTHY).map(|c| c.reason.clone()).unwrap_or_default()
}
