//! A node's disk: a model of what `host` keeps on it, and of the mounts that only the kernel has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use kube::ResourceExt;
use reservoir::api::{
    AccessMode, KeptOnDisk, PodRef, Process, Recover, Reserved, SharedPersistentVolume,
    SharedPersistentVolumeSpec, Size,
};
use reservoir::plan::fullness::{Measured, Units};
use reservoir::plan::node_task::{OnDisk, Recorded};

use tokio::time::Instant;

use crate::disks::Disk;
use crate::random::Random;
use crate::seals::{Files, Seal};
pub use crate::server::lock;

/// Bytes of every disk.
pub const CAPACITY: u64 = 100 << 30;

/// The disks of all nodes, by the node.
pub type Hosts = Arc<Mutex<BTreeMap<String, Host>>>;

/// A volume record.
#[derive(Clone, Debug)]
pub struct Record {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub spec: SharedPersistentVolumeSpec,
    pub reserved: Vec<Reserved>,
    /// The reservation, by UID.
    pub reservation: String,
    /// `None` until the volume is made.
    pub size: Option<u64>,
    pub fenced: bool,
    pub erasing: bool,
    pub resizing: bool,
    pub kept: Option<KeptOnDisk>,
    pub files: Files,
    pub seal: Seal,
    /// True if the disk has changed a byte of the files.
    pub is_rotten: bool,
    /// The parts of the files that a copy has received.
    pub received: u8,
}

/// A mount in a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Mount {
    /// The volume whose files the pod sees.
    pub volume: String,
    /// The volume that the claim is bound to: another one if the pod reads a copy (E3).
    pub of: String,
    pub pod: PodRef,
    pub claim: String,
    pub mode: AccessMode,
    /// False if the PersistentVolume is for one pod alone.
    pub several_pods: bool,
}

/// A node.
#[derive(Default)]
pub struct Host {
    pub records: BTreeMap<String, Record>,
    /// Receipts of erasures, by the UID of the volume.
    pub receipts: BTreeSet<String>,
    /// The mounts, by their target.
    pub mounts: BTreeMap<String, Mount>,
    /// Number of the file systems that were made of each volume (S13).
    pub made: BTreeMap<String, u32>,
    /// The claims with a publish under way (C6).
    pub publishing: Vec<String>,
    /// True while the agent runs.
    pub has_agent: bool,
    /// The number of agents that ran so far.
    pub agents: u64,
    /// Records and receipts that survive a power cut.
    synced: (BTreeMap<String, Record>, BTreeSet<String>),
    /// True while the disk has no free block.
    pub is_full: bool,
    /// How often the disk answers with an error, in a thousand calls.
    pub failing: u64,
    /// How often the agent sends other bytes than the files have, in a thousand parts (E2).
    pub sends_other: u64,
    /// The disk in this node.
    pub disk: Option<Disk>,
    /// UID of the Node, once the agent has asked for it.
    pub node_uid: Option<String>,
    /// The pods that were refused as readers, by the name of the volume, and when (F2).
    pub refused: BTreeMap<String, Vec<(PodRef, Instant)>>,
    /// The processes that hold volumes without a mount that the agent made, by the UID of the volume (F3).
    pub held: BTreeMap<String, Process>,
    /// True once nobody wants anything new: pods write nothing any more.
    pub is_calm: bool,
    /// The volumes with newly refused readers, by name.
    pub news: BTreeSet<String>,
    /// The NodeDisk of that disk, once the agent has found it.
    pub serves: Option<String>,
}

impl Host {
    pub fn look(&self, uid: &str) -> OnDisk {
        match self.records.get(uid) {
            Some(record) => OnDisk::Record(Recorded {
                fenced: record.fenced,
                erasing: record.erasing,
                size: record.size,
                resizing: record.resizing,
                published: !self.mounts_of(uid).is_empty(),
                seal: self.seal_of(uid, record),
                verify: false,
            }),
            None if self.receipts.contains(uid) => OnDisk::Receipt,
            None => OnDisk::Nothing,
        }
    }

    /// Ends a change of the volume: it is on stable storage.
    pub fn sync(&mut self, uid: &str) {
        let (records, receipts) = &mut self.synced;
        records.retain(|uid, _| self.records.contains_key(uid));
        records.extend(self.records.get(uid).map(|record| (uid.to_owned(), record.clone())));
        receipts.clone_from(&self.receipts);
    }

    /// A power cut: mounts are lost, and with `and_cache` all changes that are on no stable storage.
    pub fn cut_power(&mut self, and_cache: bool) {
        if and_cache {
            (self.records, self.receipts) = self.synced.clone();
            // A file system that was on no stable storage is made again.
            let is_made = |uid: &String| self.records.get(uid).is_some_and(|record| record.size.is_some());
            self.made.retain(|uid, _| is_made(uid));
        }
        self.mounts.clear();
        self.held.clear();
    }

    /// A process begins to hold a volume of this node, or all of them end.
    pub fn hold(&mut self, random: &mut Random) {
        let uids: Vec<String> = self.mounts.values().map(|mount| mount.volume.clone()).collect();
        match random.pick(&uids).filter(|_| random.clone().in_a_thousand(600)) {
            Some(uid) => {
                let pid = 1000 + random.below(9000) as u32;
                let process = Process { pid, command: "shell".into(), pod_uid: None, mount: None };
                self.held.insert(uid.clone(), process);
            }
            None => self.held.clear(),
        }
    }

    /// Puts the disk into another node. Both are off.
    pub fn move_disk(&mut self, to: &mut Self) {
        self.mounts.clear();
        self.held.clear();
        (to.disk, to.is_full, to.failing) = (self.disk.take(), self.is_full, self.failing);
        (to.records, to.receipts) = (std::mem::take(&mut self.records), std::mem::take(&mut self.receipts));
        (to.made, to.synced) = (std::mem::take(&mut self.made), std::mem::take(&mut self.synced));
    }

    pub fn mounts_of(&self, uid: &str) -> Vec<&Mount> {
        self.mounts.values().filter(|mount| mount.volume == uid).collect()
    }

    pub fn free(&self) -> u64 {
        if self.is_full {
            return 0;
        }
        CAPACITY.saturating_sub(self.records.values().filter_map(|record| record.size).sum())
    }

    /// Notes a volume that is about to be made, or about to take over the data that it recovers. A record that is there has
    /// the place that the volume has now: a restored etcd may have chosen another one (X9).
    pub fn begin(&mut self, volume: &SharedPersistentVolume) -> Result<(), String> {
        let uid = volume.uid().unwrap_or_default();
        let status = volume.status.clone().unwrap_or_default();
        let reservation = status.reservation.map(|of| of.uid).unwrap_or_default();
        if let Some(record) = self.records.get_mut(&uid) {
            (record.labels, record.spec) = (volume.labels().clone(), volume.spec.clone());
            (record.reserved, record.reservation) = (status.reserved, reservation);
            return Ok(());
        }
        let path = |spec: &SharedPersistentVolumeSpec| spec.adopt.as_ref().map(|adopt| adopt.path.clone());
        let inherited = volume.spec.recover.as_ref().map(|recover| &recover.uid);
        let mut others = self.records.iter().filter(|(of, _)| Some(*of) != inherited);
        if let Some(adopted) = path(&volume.spec)
            && others.any(|(_, record)| path(&record.spec).as_ref() == Some(&adopted))
        {
            return Err(format!("another volume has adopted {adopted}"));
        }
        let (mut size, mut files, mut seal, mut is_rotten) = Default::default();
        if let Some(Recover { uid: from }) = &volume.spec.recover {
            let Some(data) = self.records.get(from) else { return Err(format!("no data of {from}")) };
            if data.erasing || data.spec.role != volume.spec.role {
                return Err(format!("the data of {from} is not to be had"));
            }
            if !self.mounts_of(from).is_empty() {
                return Err(format!("the data of {from} has users"));
            }
            if let Some(data) = self.records.remove(from) {
                // A restored etcd may have the volume again without its data: it is new then.
                self.made.remove(from);
                (size, files, seal, is_rotten) = (data.size, data.files, data.seal, data.is_rotten);
            }
        }
        let record = Record {
            name: volume.name_any(),
            labels: volume.labels().clone(),
            spec: volume.spec.clone(),
            reserved: status.reserved,
            reservation,
            size,
            fenced: false,
            erasing: false,
            resizing: false,
            kept: None,
            files,
            seal,
            is_rotten,
            received: 0,
        };
        self.records.insert(uid, record);
        Ok(())
    }

    /// Ends the making of a volume, and returns its bytes.
    pub fn make(&mut self, uid: &str, bytes: u64) -> Result<u64, String> {
        let free = self.free();
        let Some(record) = self.records.get_mut(uid) else { return Err("there is no record".into()) };
        if let Some(size) = record.size {
            return Ok(size);
        }
        if bytes > free {
            return Err(format!("no space: {bytes} of {free}"));
        }
        record.size = Some(bytes);
        if record.spec.adopt.is_none() {
            *self.made.entry(uid.to_owned()).or_default() += 1;
        }
        Ok(bytes)
    }

    pub fn resize(&mut self, uid: &str, bytes: u64) -> Result<(), String> {
        let free = self.free();
        let Some(record) = self.records.get_mut(uid) else { return Err("there is no record".into()) };
        if record.spec.adopt.is_some() {
            return Err("an adopted directory has no size".into());
        }
        let now = record.size.unwrap_or(0);
        if bytes > now && bytes - now > free {
            return Err("no space".into());
        }
        (record.size, record.resizing) = (Some(bytes), false);
        Ok(())
    }

    /// Removes the record of a volume, and returns its bytes. A restored etcd may have the volume again: it is new then.
    pub fn erased(&mut self, uid: &str) -> u64 {
        self.made.remove(uid);
        self.records.remove(uid).and_then(|record| record.size).unwrap_or(0)
    }

    /// Mounts a volume at the target, unless something forbids that. With a digest the pod gets that content or nothing.
    pub fn publish(
        &mut self,
        target: &str,
        mount: Mount,
        with_others: bool,
        digest: Option<&str>,
    ) -> Result<(), String> {
        if let Some(there) = self.mounts.get(target) {
            // A writer of before stays one while its volume waits to be sealed (E1).
            let is_closed = self.records.get(&mount.volume).is_some_and(|of| !matches!(of.seal, Seal::Open));
            let mode = if is_closed && mount.mode == AccessMode::ReadOnly { there.mode } else { mount.mode };
            let mount = Mount { mode, ..mount };
            return if *there == mount { Ok(()) } else { Err("another volume is mounted there".into()) };
        }
        let record = self.records.get(&mount.volume).ok_or("there is no record")?;
        if record.fenced || record.erasing || record.size.is_none() {
            return Err("the volume is fenced or not made".into());
        }
        if !matches!(record.seal, Seal::Open) && mount.mode == AccessMode::ReadWrite {
            return Err("the volume is sealed".into());
        }
        if digest.is_some_and(|wanted| !matches!(&record.seal, Seal::Sealed(has) if has.digest == wanted)) {
            return Err("the volume has not the content of that digest".into());
        }
        if !with_others && self.mounts_of(&mount.volume).iter().any(|other| other.pod.uid != mount.pod.uid) {
            return Err("another pod has the volume".into());
        }
        self.mounts.insert(target.to_owned(), mount);
        Ok(())
    }

    /// True if the file system of the volume is read-only itself.
    pub fn refuses_writes(&self, uid: &str) -> bool {
        self.records.get(uid).is_some_and(|record| matches!(record.seal, Seal::Sealed(_)))
    }

    /// What pods have written, as far as it fits.
    pub fn measure(&self, uid: &str) -> Option<Measured> {
        let record = self.records.get(uid)?;
        let (size, used) = (record.size?, record.files.bytes());
        let bytes = Units { used: used.min(size), available: size.saturating_sub(used) };
        Some(Measured { bytes, inodes: Units::default() })
    }

    pub fn size_of(&self, uid: &str) -> Option<Size> {
        self.records.get(uid).and_then(|record| record.size).map(Size::from_bytes)
    }
}
