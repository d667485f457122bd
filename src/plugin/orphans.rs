//! Data without an object: its list, and the manifests that recover it (X6).

use kube::{Client, ResourceExt};
use serde::Serialize;
use serde_json::json;

use super::cli::Output;
use super::doctor::served_kinds;
use super::kind::{DISK, RESERVATION, VOLUME};
use super::output::{self, print};
use super::paint::{human, table};
use super::snapshot::Snapshot;
use crate::api::condition::{self, READY, reason::SPACE_TAKEN};
use crate::api::{NodeDisk, Orphan, UnlistedOrphans};
use crate::cluster;
use crate::plan::recover::{self, Document};
use crate::plan::{advice, orphans};

/// Data without an object, with the name of its NodeDisk.
#[derive(Serialize)]
pub(super) struct DataOnDisk<'a> {
    disk: String,
    #[serde(flatten)]
    data: Data<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Data<'a> {
    /// An orphan.
    Listed(&'a Orphan),
    /// The orphans of the disk that its status does not list.
    #[serde(rename_all = "camelCase")]
    Unlisted { unlisted_orphans: &'a UnlistedOrphans },
}

pub(super) fn list(snapshot: &Snapshot) -> Vec<DataOnDisk<'_>> {
    let mut all = Vec::new();
    for disk in &snapshot.disks {
        let listed = snapshot.lost(disk).map(Data::Listed);
        let unlisted =
            orphans::unlisted(disk).into_iter().map(|unlisted_orphans| Data::Unlisted { unlisted_orphans });
        all.extend(listed.chain(unlisted).map(|data| DataOnDisk { disk: disk.name_any(), data }));
    }
    all
}

/// A sentence for each disk whose data cannot be looked at now. Its list is an old one.
pub(super) fn unseen(snapshot: &Snapshot) -> Vec<String> {
    let unseen = |disk: &NodeDisk| {
        let ready = disk.status.as_ref().and_then(|status| condition::get(&status.conditions, READY));
        // Others' files keep nobody from looking, and nobody looks for what was given up (D4).
        if disk.spec.gone || ready.is_some_and(|ready| ready.status == "True" || ready.reason == SPACE_TAKEN)
        {
            return None;
        }
        let (name, reason) = (disk.name_any(), ready.map_or("not reported yet", |ready| &ready.reason));
        let why = advice::ask_why(DISK.argument(&name, None));
        Some(format!("NodeDisk {name} is {reason}, so its data cannot be looked at now: {why}"))
    };
    snapshot.disks.iter().filter_map(unseen).collect()
}

pub(super) fn text(all: &[DataOnDisk], unseen: &[String]) -> String {
    let unseen: String = unseen.iter().map(|sentence| format!("{sentence}\n")).collect();
    if all.is_empty() {
        let on = if unseen.is_empty() { "" } else { " on the disks that can be looked at" };
        return format!("there is no data without an object{on}\n{unseen}");
    }
    let mut rows =
        vec![["UID", "NAME", "MADE FOR", "SIZE", "ROLE", "DISK", "PROBLEM"].map(str::to_owned).to_vec()];
    let mut others = String::new();
    for DataOnDisk { disk, data } in all {
        let orphan = match data {
            Data::Listed(orphan) => orphan,
            Data::Unlisted { unlisted_orphans: UnlistedOrphans { count, size } } => {
                let size = human(size.bytes_or_zero());
                others.push_str(&format!(
                    "NodeDisk {disk} has the data of {count} more volumes, which status.orphans cannot list; {size} beside \
                     the ledger are kept for them\n"
                ));
                continue;
            }
        };
        // The data is the volume's, whose role may be below that of the reservation.
        let role = orphan.spec["role"].as_str().unwrap_or_default().to_owned();
        let problem = orphan.problem.clone().unwrap_or_default();
        let size = human(orphan.size.bytes_or_zero());
        let made_for = orphan.made_for.clone().unwrap_or_else(|| "-".to_owned());
        rows.push(vec![orphan.uid.clone(), orphan.name.clone(), made_for, size, role, disk.clone(), problem]);
    }
    let next = "kubectl reservoir recover prints the manifests that recover this data";
    format!("{}{others}{unseen}\n{next}\n", table(&rows))
}

/// Prints the manifests for all orphans, or for the orphans with the given UIDs, names and NodeDisks.
pub(super) async fn print_manifests(client: &Client, data: &[String], output: &Output) -> anyhow::Result<()> {
    let snapshot = Snapshot::read(client, None, "default").await?;
    snapshot.require(&[&DISK, &RESERVATION, &VOLUME])?;
    let Snapshot { disks, reservations, volumes, .. } = &snapshot;
    let mut documents = recover::documents(disks, reservations, volumes, data).map_err(anyhow::Error::msg)?;
    // Where admission writes the principal, anybody may apply the manifests.
    if !served_kinds(client).await?.contains("MutatingAdmissionPolicy")
        && let Ok(user) = cluster::username(client).await
    {
        recover::sign(&mut documents, &user);
    }
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
            output::note(format!("note: {note}"));
        }
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    let text = recover::text(&documents)?;
    print(output, &list, || text.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;

    #[test]
    fn x6_orphans_that_are_not_listed_are_shown() {
        let mut disk = disk("n1.a", "n1", 100, &[]);
        let status = disk.status.as_mut().unwrap();
        status.orphans = vec![Orphan {
            uid: "dark".into(),
            size: gi(1),
            spec: json!({"role": "eng/x"}),
            ..Default::default()
        }];
        status.unlisted_orphans = Some(UnlistedOrphans { count: 72, size: gi(71) });
        let snapshot = Snapshot { disks: vec![disk], ..Snapshot::default() };
        let all = list(&snapshot);
        assert_eq!(
            text(&all, &[]),
            "UID    NAME   MADE FOR   SIZE   ROLE    DISK   PROBLEM\n\
             dark          -          1Gi    eng/x   n1.a\n\
             NodeDisk n1.a has the data of 72 more volumes, which status.orphans cannot list; 71Gi beside the ledger are \
             kept for them\n\
             \n\
             kubectl reservoir recover prints the manifests that recover this data\n"
        );
        assert_eq!(
            json!(all),
            json!([
                {"disk": "n1.a", "uid": "dark", "size": gi(1), "spec": {"role": "eng/x"}},
                {"disk": "n1.a", "unlistedOrphans": {"count": 72, "size": gi(71)}},
            ])
        );
        assert_eq!(text(&[], &[]), "there is no data without an object\n");
        // X9: a restored etcd has the volume without its place.
        let mut own = volume("v", "eng", 1);
        own.metadata.uid = Some("dark".into());
        let snapshot = Snapshot { volumes: vec![own], ..snapshot };
        assert_eq!(list(&snapshot).len(), 1, "the volume has its data");
    }

    /// T4, X6: data on a disk that is away may be lost, too.
    #[test]
    fn t4_x6_orphans_of_a_disk_that_is_away_are_not_denied() {
        let mut disk = disk("n1.a", "n1", 100, &[]);
        let set = |disk: &mut NodeDisk, ok, reason| {
            let verdict = condition::Verdict { ok, reason, message: String::new() };
            let conditions = &mut disk.status.as_mut().unwrap().conditions;
            condition::set(conditions, READY, verdict, None, jiff::Timestamp::UNIX_EPOCH);
        };
        let of = |disk: &NodeDisk| {
            let snapshot = Snapshot { disks: vec![disk.clone()], ..Snapshot::default() };
            text(&list(&snapshot), &unseen(&snapshot))
        };
        for reason in ["Ready", SPACE_TAKEN] {
            set(&mut disk, reason == "Ready", reason);
            assert_eq!(of(&disk), "there is no data without an object\n", "{reason}");
        }
        set(&mut disk, false, "NodeUnreachable");
        assert_eq!(
            of(&disk),
            "there is no data without an object on the disks that can be looked at\n\
             NodeDisk n1.a is NodeUnreachable, so its data cannot be looked at now: kubectl reservoir why nd/n1.a\n"
        );
    }
}
