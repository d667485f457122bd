//! Hearing of changes: what is shown is read anew then, at most once a second.

use std::time::Duration;

use futures::future::ready;
use futures::stream::{BoxStream, select_all};
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};

use crate::api::{DiskReservation, NodeDisk, SharedPersistentVolume, VolumeClaim, VolumeRole};

/// An item whenever something changed.
pub(super) struct Changes(futures::stream::SelectAll<BoxStream<'static, ()>>);

impl Changes {
    /// Of all that is shown; of pods and claims only those of `only`, if it is given.
    pub fn follow(client: &Client, only: Option<&str>) -> Self {
        let all = || client.clone();
        let (claims, pods) = match only {
            Some(namespace) => (Api::namespaced(all(), namespace), Api::namespaced(all(), namespace)),
            None => (Api::all(all()), Api::all(all())),
        };
        Self(select_all([
            of::<NodeDisk>(Api::all(all())),
            of::<VolumeRole>(Api::all(all())),
            of::<DiskReservation>(Api::all(all())),
            of::<SharedPersistentVolume>(Api::all(all())),
            of::<VolumeClaim>(claims),
            of::<Pod>(pods),
        ]))
    }

    /// Returns after the next change, and a second in which more may come.
    pub async fn next(&mut self) {
        self.0.next().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        while self.0.next().now_or_never().flatten().is_some() {}
    }
}

fn of<K>(api: Api<PartialObjectMeta<K>>) -> BoxStream<'static, ()>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    // One that may not be watched stays still.
    let events = watcher(api, Default::default()).default_backoff();
    events.filter_map(|event| ready(event.ok().map(drop))).boxed()
}
