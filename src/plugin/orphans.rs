//! Data without an object: its list, and the manifests that recover it (X6).

use anyhow::bail;
use kube::{Client, ResourceExt};
use serde::Serialize;
use serde_json::json;

use super::cli::Output;
use super::kind::{DISK, RESERVATION, VOLUME};
use super::output::print;
use super::paint::{human, table};
use super::snapshot::Snapshot;
use crate::api::Orphan;
use crate::plan::recover::{self, Document};

/// An orphan with the name of its NodeDisk.
#[derive(Serialize)]
pub(super) struct OrphanOnDisk<'a> {
    disk: String,
    #[serde(flatten)]
    orphan: &'a Orphan,
}

pub(super) fn list(snapshot: &Snapshot) -> Vec<OrphanOnDisk<'_>> {
    let mut all = Vec::new();
    for disk in &snapshot.disks {
        let orphans = disk.status.iter().flat_map(|status| &status.orphans);
        all.extend(orphans.map(|orphan| OrphanOnDisk { disk: disk.name_any(), orphan }));
    }
    all
}

pub(super) fn text(orphans: &[OrphanOnDisk]) -> String {
    if orphans.is_empty() {
        return "there is no data without an object\n".into();
    }
    let mut rows = vec![["UID", "NAME", "SIZE", "ROLE", "DISK", "PROBLEM"].map(str::to_owned).to_vec()];
    for OrphanOnDisk { disk, orphan } in orphans {
        let role = orphan.reservations.first().map(|r| r.role.clone()).unwrap_or_default();
        let problem = orphan.problem.clone().unwrap_or_default();
        let size = human(orphan.size.bytes_or_zero());
        rows.push(vec![orphan.uid.clone(), orphan.name.clone(), size, role, disk.clone(), problem]);
    }
    let next = "kubectl reservoir recover prints the manifests that recover this data";
    format!("{}\n{next}\n", table(&rows))
}

/// Prints the manifests for all orphans, or for the orphans with the given UIDs, names and NodeDisks.
pub(super) async fn print_manifests(client: &Client, data: &[String], output: &Output) -> anyhow::Result<()> {
    let snapshot = Snapshot::read(client, None, "default").await?;
    if let Some(kind) = [&DISK, &RESERVATION, &VOLUME].into_iter().find(|kind| !snapshot.sees(kind)) {
        bail!("you may not list {}: ask for ClusterRole reservoir-viewer", kind.plural);
    }
    let Snapshot { disks, reservations, volumes, .. } = &snapshot;
    let documents = recover::documents(disks, reservations, volumes, data).map_err(anyhow::Error::msg)?;
    let mut items = Vec::new();
    for document in &documents {
        let note = match document {
            Document::Reservation(manifest, note) => {
                items.push(serde_json::to_value(manifest)?);
                Some(note)
            }
            Document::Volume(manifest, note) => {
                items.push(serde_json::to_value(manifest)?);
                note.as_ref()
            }
            Document::Refused(why) => Some(why),
        };
        if let Some(note) = note.filter(|_| output.output.is_some()) {
            eprintln!("note: {note}");
        }
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    let text = recover::text(&documents)?;
    print(output, &list, || text.clone())
}
