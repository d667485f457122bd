//! Data without an object: its list, and the manifests that recover it (X6).

use anyhow::bail;
use kube::{Client, ResourceExt};
use serde::Serialize;
use serde_json::json;

use super::cli::Output;
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

/// Prints the manifests for all orphans, or for the orphans with the given UIDs and names.
pub(super) async fn print_manifests(client: &Client, data: &[String], output: &Output) -> anyhow::Result<()> {
    let snapshot = Snapshot::read(client, None, "default").await?;
    if let Some(denied) = snapshot.denied.first() {
        bail!("{denied}");
    }
    let named =
        |orphan: &Orphan| data.is_empty() || data.contains(&orphan.uid) || data.contains(&orphan.name);
    let mut disks = snapshot.disks.clone();
    for status in disks.iter_mut().filter_map(|disk| disk.status.as_mut()) {
        status.orphans.retain(named);
    }
    let found: Vec<&Orphan> =
        disks.iter().filter_map(|d| d.status.as_ref()).flat_map(|s| &s.orphans).collect();
    let is = |name: &&String| found.iter().any(|o| o.uid == **name || o.name == **name);
    if let Some(unknown) = data.iter().find(|name| !is(name)) {
        bail!("no data without an object is called {unknown}: kubectl reservoir orphans lists all of it");
    }
    let documents = recover::documents(&disks, &snapshot.reservations, &snapshot.volumes);
    let mut items = Vec::new();
    for document in &documents {
        match document {
            Document::Reservation(manifest) => items.push(serde_json::to_value(manifest)?),
            Document::Volume(manifest) => items.push(serde_json::to_value(manifest)?),
            Document::Said(why) if output.output.is_some() => eprintln!("note: {why}"),
            Document::Said(_) => {}
        }
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    let text = recover::text(&documents)?;
    print(output, &list, || text.clone())
}
