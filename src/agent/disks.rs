//! Tells what disks the node has (D1).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};

use crate::api::condition::{self, DISK_HEALTHY, Verdict, reason};
use crate::api::{
    AGENT_MANAGER, Enforcement, EnforcementState, NodeDisk, NodeDiskSpec, NodeDiskStatus, Orphan,
    SharedPersistentVolume, Size,
};
use crate::cluster::{self, Events};
use crate::host::{self, DiskReport, Host, VolumeReport, VolumeUid};
use crate::plan::{ledger, names, room, whole};

use super::config::DiskEntry;
use super::orphans::orphan;
use super::reservations;

mod identity;

pub(super) use identity::Places;

/// The disks of this node, and what was said of them already.
pub(super) struct Disks {
    client: Client,
    node: String,
    entries: Vec<DiskEntry>,
    host: Arc<Host>,
    events: Events,
    places: Places,
    /// Those that were taken over from the agent before.
    recovered: BTreeSet<String>,
    /// The orphans that the log has.
    orphans: BTreeSet<VolumeUid>,
    /// Why disks are not served that have no NodeDisk of this node, as it was told last.
    refused: BTreeMap<String, String>,
}

/// So many orphans of a disk are told of; the others take room as other files do.
const MOST_ORPHANS: usize = 128;

/// What is on the disks.
struct Measured {
    volumes: Vec<VolumeReport>,
    erased: Vec<VolumeUid>,
    disks: Vec<DiskReport>,
}

/// What the volumes on one disk take.
#[derive(Default)]
struct Held {
    /// Bytes of those that Kubernetes knows.
    ours: u64,
    /// Those that it does not know (S14).
    orphans: Vec<Orphan>,
    /// Static reservations that are not configured any more, and that something lives in (R2).
    unconfigured: Vec<String>,
}

impl Disks {
    pub(super) fn new(client: Client, node: String, entries: Vec<DiskEntry>, host: Arc<Host>) -> Self {
        let events = Events::new(client.clone(), "reservoir-agent", &node);
        let (places, recovered, orphans, refused) = Default::default();
        Self { client, node, entries, host, events, places, recovered, orphans, refused }
    }

    pub(super) fn places(&self) -> Places {
        self.places.clone()
    }

    /// Brings the NodeDisks of this node up to date; writes nothing when nothing changed.
    pub(super) async fn report(&mut self) -> Result<(), cluster::Error> {
        let api: Api<NodeDisk> = Api::all(self.client.clone());
        let mine = ListParams::default().fields(&format!("spec.nodeName={}", self.node));
        let mine = cluster::list(&api, &mine).await?;
        // Before anything on it is looked at: whose volumes these are is decided by the disk, not by its place (D3).
        let objects = self.identify(&api, &mine).await?;
        self.places.set(&objects);
        let measured = self.measure().await;
        let mut held = self.take_stock(&measured, &objects).await?;
        let mut failed = Ok(());
        for disk in measured.disks {
            let (Some(object), held) = (objects.get(&disk.name), held.remove(&disk.name)) else { continue };
            // One that cannot be told of keeps no other from being told of.
            failed = failed.and(self.tell_of(&api, object, disk, held.unwrap_or_default()).await);
        }
        for object in &mine {
            if !objects.values().any(|ours| ours.uid() == object.uid()) {
                let kept = reservations::keep(&self.client, &object.name_any(), &[]).await?;
                let said = "it is not in the agent's configuration any more; its data stays";
                let verdict = Verdict::no(reason::DISK_REFUSED, format!("{said}{}", unconfigured(&kept)));
                tell(&api, object, object.status.clone().unwrap_or_default(), verdict).await?;
            }
        }
        failed
    }

    async fn tell_of(
        &self,
        api: &Api<NodeDisk>,
        object: &NodeDisk,
        mut disk: DiskReport,
        mut held: Held,
    ) -> Result<(), cluster::Error> {
        let Some(entry) = self.entries.iter().find(|entry| entry.name == disk.name) else { return Ok(()) };
        let object = match disk.id.clone() {
            Some(id) if id != object.spec.disk_id => {
                disk.error = Some(other_disk(object, entry, &id));
                object.clone()
            }
            Some(id) if !same(&object.spec, spec(&self.node, entry, &id)) => {
                let object = NodeDisk::new(&object.name_any(), spec(&self.node, entry, &id));
                cluster::apply(api, &object, AGENT_MANAGER).await?
            }
            // Or it cannot even be read whose it is: only what is known already is marked.
            Some(_) | None => object.clone(),
        };
        if disk.error.is_none() {
            let name = object.name_any();
            held.unconfigured = reservations::keep(&self.client, &name, &entry.reservations).await?;
        }
        write(api, &object, &disk, &held).await
    }

    /// Looks what is there; a disk that is served for the first time is taken over.
    async fn measure(&mut self) -> Measured {
        let (host, before) = (self.host.clone(), self.recovered.clone());
        let measured = tokio::task::spawn_blocking(move || {
            // Those that could not be served are tried again by this.
            let disks = host.disks();
            let served = disks.iter().filter(|disk| disk.error.is_none());
            let served: BTreeSet<_> = served.map(|disk| disk.name.clone()).collect();
            if !served.is_subset(&before) {
                recover(&host);
            }
            // The free bytes are looked at last, beside what the volumes take of them.
            let (erased, mut volumes) = (host.erased(), host.volumes());
            // What is said of orphans has to stay the same.
            volumes.sort_by(|a, b| a.uid.cmp(&b.uid));
            (served, Measured { volumes, erased, disks: host.disks() })
        });
        match measured.await {
            Ok((served, measured)) => {
                self.recovered = served;
                measured
            }
            Err(error) => {
                tracing::error!(%error, "failed in the middle of measuring the disks");
                Measured { volumes: vec![], erased: vec![], disks: vec![] }
            }
        }
    }

    /// Compares what was found with the volumes that Kubernetes has, which are read afterwards: so what it does not
    /// have is gone for good.
    async fn take_stock(
        &mut self,
        measured: &Measured,
        objects: &BTreeMap<String, NodeDisk>,
    ) -> Result<BTreeMap<String, Held>, cluster::Error> {
        let api: Api<SharedPersistentVolume> = Api::all(self.client.clone());
        let mut known: BTreeSet<String> = BTreeSet::new();
        for object in objects.values() {
            // By disk, not by node: of a disk that came back they follow in a moment (D3).
            let on_it = ListParams::default().fields(&format!("status.nodeDisk={}", object.name_any()));
            known
                .extend(cluster::list_metadata(&api, &on_it).await?.iter().filter_map(|volume| volume.uid()));
        }
        let mut held: BTreeMap<String, Held> = BTreeMap::new();
        let mut orphans = BTreeSet::new();
        for volume in &measured.volumes {
            let disk = held.entry(volume.disk.clone()).or_default();
            if known.contains(volume.uid.as_str()) {
                disk.ours += volume.allocated;
            } else if self.host.look(&volume.disk, &volume.uid) != Ok(None) {
                // Otherwise it was erased, and then its object let go, just now.
                let orphan = orphan(volume);
                if disk.orphans.len() < MOST_ORPHANS && !orphan.reservations.is_empty() {
                    // Its room is kept, by the ledger or beside it (plan::orphans).
                    disk.ours += volume.allocated;
                }
                disk.orphans.push(orphan);
                if !self.orphans.contains(&volume.uid) {
                    tracing::warn!(
                        disk = volume.disk,
                        volume = volume.uid.as_str(),
                        bytes = volume.allocated,
                        "no SharedPersistentVolume has this UID; its data is kept, and takes room"
                    );
                }
                orphans.insert(volume.uid.clone());
            }
        }
        self.orphans = orphans;
        for uid in measured.erased.iter().filter(|uid| !known.contains(uid.as_str())) {
            if let Err(error) = self.host.forget(uid) {
                tracing::warn!(volume = uid.as_str(), %error, "failed to remove the receipt of an erased volume");
            }
        }
        Ok(held)
    }
}

fn recover(host: &Host) {
    for (uid, found) in host.recover() {
        match found {
            Ok(found) => {
                tracing::info!(volume = uid.as_str(), in_use = found.in_use, dropped = ?found.dropped, "found")
            }
            Err(error) => tracing::error!(volume = uid.as_str(), %error, "cannot be taken over"),
        }
    }
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
        backing: entry.backing(),
        path: entry.path.display().to_string(),
        adopt_roots: entry.adopt_roots.iter().map(|root| root.display().to_string()).collect(),
        allow_unenforced: entry.allow_unenforced,
        gone: false,
    }
}

async fn write(
    api: &Api<NodeDisk>,
    object: &NodeDisk,
    disk: &DiskReport,
    held: &Held,
) -> Result<(), cluster::Error> {
    let mut status = object.status.clone().unwrap_or_default();
    status.enforcement = disk.enforcement.as_ref().map(|found| enforcement(found, object));
    let verdict = match &disk.error {
        Some(error) => Verdict::no(reason::DISK_REFUSED, error.clone()),
        None => {
            let measured = room::Measured {
                capacity: disk.capacity,
                system_reserved: disk.system_reserved,
                free: disk.free,
                ours: held.ours,
            };
            let published = status.allocatable.as_ref().map(Size::bytes_or_zero);
            let allocatable = match whole::is_whole(object.spec.kind) {
                // Nobody else fills it, and what its one volume takes of it is its own affair (D2).
                true => disk.allocatable,
                false => room::allocatable(measured, published),
            };
            status.orphans = held.orphans.iter().take(MOST_ORPHANS).cloned().collect();
            status.capacity = Some(Size::from_bytes(disk.capacity));
            status.system_reserved = Some(Size::from_bytes(disk.system_reserved));
            status.allocatable = Some(Size::from_bytes(allocatable));
            let reserved = ledger::total(&status.reservations);
            match reserved.checked_sub(allocatable).filter(|missing| *missing > 0) {
                None => Verdict::yes(
                    reason::DISK_HEALTHY,
                    healthy(held.orphans.len())
                        + &unenforced(status.enforcement.as_ref())
                        + &unconfigured(&held.unconfigured),
                ),
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
    tell(api, object, status, verdict).await
}

async fn tell(
    api: &Api<NodeDisk>,
    object: &NodeDisk,
    mut status: NodeDiskStatus,
    verdict: Verdict,
) -> Result<(), cluster::Error> {
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

/// How it is known whether sizes are enforced (D5).
fn enforcement(found: &host::Enforcement, disk: &NodeDisk) -> Enforcement {
    let (state, message) = match found {
        host::Enforcement::Undivided => {
            (EnforcementState::Whole, "it is handed out whole, so its own size is the limit".to_owned())
        }
        host::Enforcement::Proven(errno) => (
            EnforcementState::Proven,
            format!("the writer on a scratch volume was stopped at its size with {errno}"),
        ),
        host::Enforcement::Untried => (
            EnforcementState::Untried,
            "it is too full to try; no volume is made on it until there is room to".to_owned(),
        ),
        host::Enforcement::Broken(how) if disk.spec.allow_unenforced => {
            (EnforcementState::Broken, format!("{how}; allowUnenforced says that it may be used like that"))
        }
        host::Enforcement::Broken(how) => (EnforcementState::Broken, how.clone()),
    };
    Enforcement { state, message }
}

fn unenforced(enforcement: Option<&Enforcement>) -> String {
    match enforcement {
        Some(found) if matches!(found.state, EnforcementState::Untried | EnforcementState::Broken) => {
            format!("; the size of volumes is not known to be enforced: {}", found.message)
        }
        _ => String::new(),
    }
}

fn healthy(orphans: usize) -> String {
    let healthy = "the disk is there, and so is the room on it";
    match orphans {
        0 => healthy.to_owned(),
        1 => format!("{healthy}; one volume on it has no object: it is kept, status.orphans names it"),
        n => format!("{healthy}; {n} volumes on it have no object: they are kept, status.orphans names them"),
    }
}

fn unconfigured(kept: &[String]) -> String {
    match kept {
        [] => String::new(),
        kept => format!(
            "; reservation {} is not in the agent's configuration any more, and stays until what lives in it is gone",
            names(kept, kept.len())
        ),
    }
}

fn verdict_reason(status: &NodeDiskStatus) -> String {
    condition::get(&status.conditions, DISK_HEALTHY).map(|c| c.reason.clone()).unwrap_or_default()
}

/// Whether what the agent says of a disk is there already; that it is gone is not the agent's to say.
fn same(there: &NodeDiskSpec, ours: NodeDiskSpec) -> bool {
    *there == NodeDiskSpec { gone: there.gone, ..ours }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing;

    #[test]
    fn d5_a_disk_that_is_served_without_limits_says_so() {
        let mut disk = testing::disk("n1.a", "n1", 10, &[]);
        let broken = host::Enforcement::Broken("a writer went on".to_owned());
        let said = |found: &host::Enforcement, disk: &NodeDisk| unenforced(Some(&enforcement(found, disk)));
        assert_eq!(said(&host::Enforcement::Proven("ENOSPC"), &disk), "");
        assert_eq!(said(&host::Enforcement::Undivided, &disk), "");
        assert!(said(&host::Enforcement::Untried, &disk).contains("too full to try"));
        disk.spec.allow_unenforced = true;
        let message = said(&broken, &disk);
        assert!(message.contains("a writer went on; allowUnenforced says"), "{message}");
        assert_eq!(enforcement(&broken, &disk).state, EnforcementState::Broken);
    }
}
