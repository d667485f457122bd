//! The writes of controller and agent in the life of a volume, by kind of object and verb.

use std::time::Duration;

use reservoir::api::NodeDisk;
use reservoir_cluster::api::ApiOptions;

use super::support::{
    Agent, Cluster, Order, Request, Tally, claim_lives, class_lives, own_writes, prepare_claims,
    prepare_class, until_reason,
};
use super::{Controller, row};

/// The two ways to a volume.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A PersistentVolumeClaim of a class, with one pod.
    Class,
    /// A volume in a reservation of its own, with a VolumeClaim and two pods.
    Claim,
}

/// Counts the writes of one life alone and of many at a time, in both ways, and the writes in so many seconds in which
/// nothing happens.
pub async fn measure(lives: usize, idle: u64) {
    count(Way::Class, 1, 0, "<= 12").await;
    count(Way::Class, lives.div_ceil(2), 0, "<= 9").await;
    count(Way::Claim, 1, idle, "<= 16").await;
    count(Way::Claim, lives, 0, "<= 10").await;
}

/// Waits until Reservoir writes nothing any more.
async fn settled(cluster: &Cluster) -> Vec<Request> {
    loop {
        let before = own_writes(cluster).len();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let now = own_writes(cluster);
        if now.len() == before {
            return now;
        }
    }
}

async fn count(way: Way, lives: usize, idle: u64, wanted: &str) {
    let cluster = Cluster::bare(ApiOptions { controller_manager: true, audit: true }).await;
    let controller = Controller::start(&cluster);
    cluster.node("n1", true).await;
    let agent = Agent::start(&cluster, "n1", "8Gi").await;
    until_reason(&cluster.all::<NodeDisk>(), "n1.default", "Ready").await;
    match way {
        Way::Class => prepare_class(&cluster).await,
        Way::Claim => prepare_claims(&cluster).await,
    }
    let before = settled(&cluster).await.len();
    let (mut steps, mut last) = (Vec::new(), before);
    let step = async |what: &'static str| {
        let all = settled(&cluster).await;
        steps.push((what, all.len() - last));
        if std::env::var_os("BENCH_WRITES").is_some() {
            println!("{what}: {:#?}", &all[last..]);
        }
        last = all.len();
    };
    match way {
        Way::Class => class_lives(&cluster, lives, step).await,
        Way::Claim => claim_lives(&cluster, lives, Order::OneByOne, step).await,
    }
    let all = settled(&cluster).await;
    let per_life = |writes: usize| match lives {
        1 => writes.to_string(),
        _ => format!("{:.1}", writes as f64 / lives as f64),
    };
    let what = match way {
        Way::Class => "a PersistentVolumeClaim of a class, with a pod",
        Way::Claim => "a volume by VolumeClaim, with two pods",
    };
    row(&format!("writes per life of {what}, {lives} at a time"), per_life(all.len() - before), wanted);
    for (what, writes) in steps {
        row(&format!("  {what}"), per_life(writes), "");
    }
    for (what, writes) in Tally::of(&all[before..]).per_life(lives) {
        row(&format!("    {what}"), format!("{writes:.2}"), "");
    }
    if idle > 0 {
        tokio::time::sleep(Duration::from_secs(idle)).await;
        let in_vain = own_writes(&cluster).len() - all.len();
        row(&format!("writes in {idle} s in which nothing happens"), in_vain.to_string(), "0");
    }
    drop((agent, controller));
}
