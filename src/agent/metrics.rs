//! What the disks of the node and the volumes on them have, as a scrape is told it (T3). It is measured now and then, so
//! that no scrape waits for a disk.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use crate::host::{Host, State, Usage};
use crate::telemetry::{Sink, View};

use super::disks::Places;
use super::volumes::{Context, blocking};

/// What was measured last.
#[derive(Default)]
pub(super) struct Measured(RwLock<Seen>);

#[derive(Default)]
struct Seen {
    /// What each disk's file system has free.
    disks: Vec<(String, u64)>,
    volumes: Vec<Volume>,
}

struct Volume {
    name: String,
    role: String,
    disk: String,
    size: u64,
    allocated: u64,
    /// Of one that is mounted.
    usage: Option<Usage>,
}

impl Volume {
    fn labels(&self) -> [(&'static str, &str); 3] {
        [("volume", &self.name), ("role", &self.role), ("disk", &self.disk)]
    }
}

impl Measured {
    /// Measures again and again.
    pub(super) async fn keep(&self, ctx: &Context, every: Duration) {
        loop {
            let places = ctx.places.clone();
            match blocking(ctx, move |host| Ok(look(host, &places))).await {
                Ok(seen) => *self.0.write().unwrap_or_else(PoisonError::into_inner) = seen,
                Err(error) => tracing::warn!(%error, "failed to measure the volumes"),
            }
            tokio::time::sleep(every).await;
        }
    }
}

fn look(host: &Host, places: &Places) -> Seen {
    let of = |disk: &str| places.node_disk(disk).unwrap_or_else(|| disk.to_owned());
    let disks = host.free().into_iter().map(|(disk, free)| (of(&disk), free)).collect();
    let mut volumes = Vec::new();
    for report in host.volumes() {
        let Ok(record) = report.record else { continue };
        if record.state != State::Ready {
            continue;
        }
        // One that nobody uses is not mounted for this.
        let usage = (!record.publishes.is_empty()).then(|| host.usage(&report.uid).ok()).flatten();
        volumes.push(Volume {
            name: record.spec.name,
            role: record.spec.role,
            disk: of(&report.disk),
            size: record.spec.size_bytes,
            allocated: report.allocated,
            usage,
        });
    }
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    Seen { disks, volumes }
}

impl View for Measured {
    fn report(&self, to: &mut Sink<'_>) {
        let seen = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let free = seen.disks.iter().map(|(disk, free)| ([("disk", disk.as_str())], *free as f64));
        to.gauge("disk_free_bytes", "What the disk's file system has free, whoever took the rest", free);
        let mut each = |name: &str, help: &str, of: &dyn Fn(&Volume) -> Option<u64>| {
            to.gauge(name, help, seen.volumes.iter().filter_map(|v| Some((v.labels(), of(v)? as f64))));
        };
        each("volume_size_bytes", "Size of the volume", &|v| Some(v.size));
        each("volume_allocated_bytes", "What of the disk it takes", &|v| Some(v.allocated));
        let used = |of: fn(&Usage) -> u64| move |v: &Volume| v.usage.as_ref().map(of);
        each("volume_used_bytes", "Bytes taken in a volume that is in use", &used(|u| u.used_bytes));
        each("volume_available_bytes", "Bytes that can still be written to it", &used(|u| u.available_bytes));
        // A file system that counts no inodes has none to tell of.
        let inodes =
            |of: fn(&Usage) -> u64| move |v: &Volume| v.usage.as_ref().filter(|u| u.total_inodes > 0).map(of);
        each("volume_inodes_used", "Inodes taken in a volume that is in use", &inodes(|u| u.used_inodes));
        each(
            "volume_inodes_available",
            "Inodes that can still be made in it",
            &inodes(|u| u.available_inodes),
        );
    }
}
