//! The time that a pod waits for its volume.

use std::time::{Duration, Instant};

use futures::future::join_all;
use kube::Api;
use reservoir::api::SharedPersistentVolume;
use reservoir::host::FsType;

use crate::agent::{Node, Volume};
use crate::{host, ms, publish, row, volume};

/// Concurrent calls of the kubelet, where there are several.
const AT_ONCE: usize = 8;

pub async fn measure(count: usize) {
    let node = Node::start().await;
    let volumes = node.volumes(0..AT_ONCE).await;
    let (one, keeper) = (&volumes[..1], usize::MAX);
    // The first round does not count: it makes devices and directories.
    times(&node, &volumes, AT_ONCE, AT_ONCE).await;

    let api: Api<SharedPersistentVolume> = node.cluster.all();
    tell("a GET of a volume, which is a part of each publish", gets(&api, &one[0].name, 1, count).await, "");
    let at_once = gets(&api, &one[0].name, AT_ONCE, count).await;
    tell("a GET of a volume, 8 at once, and no agent at work", at_once, "");

    node.publish(&one[0], keeper).await;
    let (publish, unpublish) = times(&node, one, 1, count).await;
    tell("publish, the volume is mounted already", publish, "< 5 ms");
    tell("unpublish, it stays mounted", unpublish, "< 5 ms");
    let (publish, unpublish) = times(&node, one, AT_ONCE, count).await;
    tell("publish, 8 at once on a volume that is mounted already", publish, "< 15 ms");
    tell("unpublish, 8 at once, it stays mounted", unpublish, "");
    node.unpublish(&one[0], keeper).await;

    let (publish, unpublish) = times(&node, one, 1, count).await;
    tell("publish, the volume is not mounted", publish, "");
    tell("unpublish, the last one of a volume", unpublish, "");
    let (publish, unpublish) = times(&node, one, AT_ONCE, count).await;
    tell("publish, 8 at once on one volume", publish, "");
    tell("unpublish, 8 at once on one volume", unpublish, "");
    let (publish, unpublish) = times(&node, &volumes, AT_ONCE, count).await;
    tell("publish, 8 at once on 8 volumes", publish, "");
    tell("unpublish, 8 at once on 8 volumes", unpublish, "");
}

async fn gets(api: &Api<SharedPersistentVolume>, name: &str, at_once: usize, count: usize) -> Vec<Duration> {
    let readers = (0..at_once).map(|_| async move {
        let mut took = Vec::new();
        for _ in 0..count.div_ceil(at_once) {
            let started = Instant::now();
            api.get(name).await.unwrap();
            took.push(started.elapsed());
        }
        took
    });
    join_all(readers).await.into_iter().flatten().collect()
}

/// The node's own part: the record, synchronized, and the mount. Without a socket and without the API server.
pub fn on_the_node(count: usize) {
    let temp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let host = host(temp.path());
    let spec = volume(1, FsType::Ext4, 16 << 20);
    host.create("d", &spec).unwrap();
    let (keeper, pod) = (publish(temp.path(), &spec, "keeper"), publish(temp.path(), &spec, "pod"));
    host.publish(&keeper).unwrap();
    let timed = |work: &dyn Fn()| {
        let started = Instant::now();
        work();
        started.elapsed()
    };
    let times = (0..count)
        .map(|_| (timed(&|| host.publish(&pod).unwrap()), timed(&|| host.unpublish(&pod.target).unwrap())));
    let (published, unpublished): (Vec<_>, Vec<_>) = times.unzip();
    host.unpublish(&keeper.target).unwrap();
    tell("publish, what of it is the node's, the volume is mounted already", published, "");
    tell("unpublish, what of it is the node's, it stays mounted", unpublished, "");
}

/// Publishes and unpublishes over and over, each of `at_once` pods its own volume of these; returns the times.
pub async fn times(
    node: &Node,
    volumes: &[Volume],
    at_once: usize,
    count: usize,
) -> (Vec<Duration>, Vec<Duration>) {
    let pods = (0..at_once).map(|pod| async move {
        let volume = &volumes[pod % volumes.len()];
        let mut took = Vec::new();
        for _ in 0..count.div_ceil(at_once) {
            took.push((node.publish(volume, pod).await, node.unpublish(volume, pod).await));
        }
        took
    });
    join_all(pods).await.into_iter().flatten().unzip()
}

pub fn tell(what: &str, mut times: Vec<Duration>, wanted: &str) {
    times.sort();
    let at = |percent: usize| ms(times[(times.len() - 1) * percent / 100]);
    row(&format!("{what}, p50"), at(50), "");
    row(&format!("{what}, p99"), at(99), wanted);
}
