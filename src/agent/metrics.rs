//! Gauges of the node's disks and of their volumes (T3). The measurement is periodic, so that no scrape waits for a
//! disk.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use crate::cluster::Name;
use crate::host::{self, Host, State, Usage};
use crate::plan::fullness::{self, Level};
use crate::telemetry::{Sink, View};

use super::context::Context;
use super::disk_names::DiskNames;
use super::volumes::measured;

/// The last measurement.
#[derive(Default)]
pub(super) struct NodeGauges(RwLock<Measured>);

#[derive(Default)]
struct Measured {
    keeps_read_only: bool,
    /// The free bytes of each NodeDisk's file system.
    disks: Vec<(String, u64)>,
    volumes: Vec<Volume>,
}

struct Volume {
    name: String,
    role: String,
    disk: String,
    size: u64,
    allocated: u64,
    /// Usage of a mounted volume; `None` for others.
    usage: Option<Usage>,
    /// The limit that the usage has crossed last, if it has a file system.
    level: Option<Level>,
    /// True if pods have the volume mounted, and its bytes are missing on the disk.
    is_lost: bool,
}

impl Volume {
    fn labels(&self) -> [(&'static str, &str); 3] {
        [("volume", &self.name), ("role", &self.role), ("disk", &self.disk)]
    }
}

impl NodeGauges {
    /// Measures at once, and then at the given interval.
    pub(super) async fn measure(&self, ctx: &Context, every: Duration) {
        loop {
            let names = ctx.disk_names.clone();
            match ctx.on_host(move |host| measure(host, &names)).await {
                Ok(measured) => {
                    let measured = Measured { keeps_read_only: ctx.keeps_read_only(), ..measured };
                    let crossed = self.replace(measured);
                    ctx.volumes.get().inspect(|queue| queue.enqueue_names(crossed));
                }
                Err(error) => tracing::warn!(%error, "failed to measure disks and volumes"),
            }
            tokio::time::sleep(every).await;
        }
    }

    /// Replaces the measurement. Returns the volumes that have crossed a limit, or are not on their disk any more, so that their
    /// objects say so. The first measurement has no earlier one, and returns all volumes on one side of the limits.
    fn replace(&self, mut measured: Measured) -> Vec<Name> {
        let mut last = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut before: HashMap<&str, &Volume> =
            last.volumes.iter().map(|volume| (volume.name.as_str(), volume)).collect();
        let mut crossed = Vec::new();
        for volume in &mut measured.volumes {
            let before = before.remove(volume.name.as_str());
            let level = before.and_then(|before| before.level);
            volume.level = volume.level.or(level);
            if volume.level != level || volume.is_lost && before.is_none_or(|before| !before.is_lost) {
                crossed.push(volume.name.as_str().into());
            }
        }
        // A disk that is away has its volumes.
        let is_there = |volume: &&Volume| measured.disks.iter().any(|(disk, _)| *disk == volume.disk);
        crossed.extend(before.into_values().filter(is_there).map(|volume| volume.name.as_str().into()));
        *last = measured;
        crossed
    }
}

fn measure(host: &Host, names: &DiskNames) -> Measured {
    let node_disk = |disk: &str| names.node_disk_of(disk).unwrap_or_else(|| disk.to_owned());
    let disks = host.free().into_iter().map(|(disk, free)| (node_disk(&disk), free)).collect();
    let mut volumes = Vec::new();
    for report in host.volumes() {
        let Ok(record) = report.record else { continue };
        if record.state != State::Ready {
            continue;
        }
        // The agent mounts no unused volume for a measurement.
        let usage = (!record.publishes.is_empty()).then(|| host.usage(&report.uid));
        let is_lost = matches!(usage, Some(Err(host::Error::BackingLost { .. })));
        let usage = usage.and_then(Result::ok);
        let fills = usage.as_ref().filter(|_| !record.spec.raw);
        volumes.push(Volume {
            level: fills.and_then(|usage| fullness::level(measured(usage))),
            name: record.spec.name,
            role: record.spec.role,
            disk: node_disk(&report.disk),
            size: record.spec.size_bytes,
            allocated: report.allocated,
            usage,
            is_lost,
        });
    }
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    Measured { disks, volumes, ..Measured::default() }
}

impl View for NodeGauges {
    fn report(&self, to: &mut Sink<'_>) {
        let measured = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let keeps = f64::from(measured.keeps_read_only);
        to.gauge(
            "read_only_kept",
            "1: the node keeps the mounts of ReadOnly claims read-only in every container (NRI)",
            [([], keeps)],
        );
        let free = measured.disks.iter().map(|(disk, free)| ([("disk", disk.as_str())], *free as f64));
        to.gauge("disk_free_bytes", "Free bytes of the disk's file system, whoever took the rest", free);
        let mut each = |name: &str, help: &str, of: &dyn Fn(&Volume) -> Option<u64>| {
            to.gauge(name, help, measured.volumes.iter().filter_map(|v| Some((v.labels(), of(v)? as f64))));
        };
        each("volume_size_bytes", "Size of the volume", &|v| Some(v.size));
        each("volume_allocated_bytes", "Bytes of the disk that the volume takes", &|v| Some(v.allocated));
        let used = |of: fn(&Usage) -> u64| move |v: &Volume| v.usage.as_ref().map(of);
        each("volume_used_bytes", "Bytes taken in a volume that is in use", &used(|u| u.used_bytes));
        each("volume_available_bytes", "Bytes that pods can still write", &used(|u| u.available_bytes));
        // There is no gauge for a file system without a count of inodes.
        let inodes =
            |of: fn(&Usage) -> u64| move |v: &Volume| v.usage.as_ref().filter(|u| u.total_inodes > 0).map(of);
        each("volume_inodes_used", "Inodes taken in a volume that is in use", &inodes(|u| u.used_inodes));
        each("volume_inodes_available", "Inodes that pods can still make", &inodes(|u| u.available_inodes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(disks: &[&str], volumes: &[(&str, bool)]) -> Measured {
        let volume = |(name, is_lost): &(&str, bool)| Volume {
            name: (*name).to_owned(),
            role: "eng".to_owned(),
            disk: "n1.a".to_owned(),
            size: 1,
            allocated: 1,
            usage: None,
            level: None,
            is_lost: *is_lost,
        };
        Measured {
            keeps_read_only: false,
            disks: disks.iter().map(|disk| ((*disk).to_owned(), 1)).collect(),
            volumes: volumes.iter().map(volume).collect(),
        }
    }

    /// V10: a volume whose bytes somebody has removed is looked at while its pods can still read them. Nobody touches its object.
    #[test]
    fn v10_a_volume_that_left_its_disk_is_looked_at() {
        let gauges = NodeGauges::default();
        let looked_at = |disks: &[&str], volumes: &[(&str, bool)]| {
            let names = gauges.replace(measured(disks, volumes));
            names.iter().map(|name| name.to_string()).collect::<Vec<_>>()
        };
        assert!(looked_at(&["n1.a"], &[("a", false), ("b", false)]).is_empty());
        assert_eq!(looked_at(&["n1.a"], &[("a", true), ("b", false)]), ["a"]);
        assert!(looked_at(&["n1.a"], &[("a", true), ("b", false)]).is_empty(), "once");
        assert_eq!(looked_at(&["n1.a"], &[("a", true)]), ["b"]);
        assert!(looked_at(&[], &[]).is_empty(), "the whole disk is away");
    }
}
