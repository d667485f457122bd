//! One namespace's flood of claims, and the time that another namespace's claims take (A9).

use std::time::Duration;

use kube::Api;
use reservoir::api::{DiskReservation, SharedPersistentVolume, VolumeClaim};
use reservoir_cluster::api::ApiOptions;
use serde_json::{Value, json};

use crate::support::{Cluster, until_reason};
use crate::time_claims;
use crate::{Controller, Options, World, a_claim, a_volume, each, group, make, namespace, reserve, row};

/// The group that floods, and the group whose claims are timed.
const GROUPS: [usize; 2] = [0, 1];
/// The most claims of one namespace that bind to one volume.
const BOUND: usize = 500;

pub async fn measure(options: &Options) {
    let cluster = Cluster::bare(ApiOptions::default()).await;
    let world = World::default();
    world.play_agents(&cluster.client);
    world.play_binder(&cluster.client);
    let controller = Controller::start(&cluster);
    for i in GROUPS {
        group(&cluster, i).await;
        reserve(&cluster, i).await;
        until_reason(&cluster.all::<DiskReservation>(), &namespace(i), "Ready").await;
    }
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let mut held = a_volume("held", 0);
    held["spec"]["shared"] = Value::Null;
    for volume in [held, a_volume("many", 0), a_volume("other", 1)] {
        make(&volumes, volume).await;
    }
    world.until(|seen| seen.ready.len() == 3).await;
    let floods: Api<VolumeClaim> = cluster.within(&namespace(0));
    make(&floods, a_claim("holder", 0, "held")).await;
    world.until(|seen| seen.bound.contains("holder")).await;

    let others = vec![(1, "other".to_owned()); options.timed];
    let time = async |what: &str, wanted: &str| time_claims(&cluster, &world, what, &others, wanted).await;
    time("a claim beside no other", "").await;
    // Half of them name a volume that another claim holds, half select and find none.
    let flood = each(options.flood, |i| {
        let mut claim = a_claim(&format!("{i:0186}"), 0, "held");
        if i % 2 == 0 {
            claim["spec"] = json!({"role": namespace(0), "selector": {"matchLabels": {"no": "such"}}});
        }
        make(&floods, claim)
    });
    let during = time("a claim while another namespace makes many", "");
    tokio::join!(flood, during);
    settle(&controller).await;
    time(&format!("a claim beside {} that wait in another namespace", options.flood), "<= 2 s").await;
    row("  memory of the controller, MiB", format!("{:.0}", controller.memory("VmRSS")), "");
    let bound = each(BOUND.min(options.flood), |i| make(&floods, a_claim(&format!("b{i:0185}"), 0, "many")));
    let what = format!("a claim while {BOUND} bind to one volume besides");
    let during = time(&what, "<= 2 s");
    tokio::join!(bound, during);
    row("  memory of the controller, at most, MiB", format!("{:.0}", controller.memory("VmHWM")), "<= 128");
    // The holder leaves: the volume goes to the oldest of those that wait, and each of the others is told.
    floods.delete("holder", &Default::default()).await.unwrap();
    time("a claim while the held volume changes hands", "<= 2 s").await;
}

/// Waits until the controller has little to do.
async fn settle(controller: &Controller) {
    let mut cpu = controller.cpu();
    loop {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let now = controller.cpu();
        if now - cpu < 0.2 {
            return;
        }
        cpu = now;
    }
}
