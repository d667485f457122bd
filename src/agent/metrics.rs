//! Gauges of the node's disks and of their volumes (T3). The measurement is periodic, so that no scrape waits for a
//! disk.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use crate::cluster::Name;
use crate::host::{Host, State, Usage};
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

    /// Replaces the measurement. Returns the volumes that have crossed a limit, so that their objects say so. The first
    /// measurement has no earlier one, and returns all volumes on one side of the limits.
    fn replace(&self, mut measured: Measured) -> Vec<Name> {
        let mut last = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let before: HashMap<&str, Option<Level>> =
            last.volumes.iter().map(|volume| (volume.name.as_str(), volume.level)).collect();
        let mut crossed = Vec::new();
        for volume in &mut measured.volumes {
            let before = before.get(volume.name.as_str()).copied().flatten();
            volume.level = volume.level.or(before);
            if volume.level != before {
                crossed.push(volume.name.as_str().into());
            }
        }
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
        let usage = (!record.publishes.is_empty()).then(|| host.usage(&report.uid).ok()).flatten();
        let fills = usage.as_ref().filter(|_| !record.spec.raw);
        volumes.push(Volume {
            level: fills.and_then(|usage| fullness::level(measured(usage))),
            name: record.spec.name,
            role: record.spec.role,
            disk: node_disk(&report.disk),
            size: record.spec.size_bytes,
            allocated: report.allocated,
            usage,
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
