//! Changes in the cluster, at most one a second: after each, a view is read again.

use std::time::Duration;

use futures::future::ready;
use futures::stream::{BoxStream, select_all};
use futures::{FutureExt, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};

use crate::api::{DiskReservation, NodeDisk, SharedPersistentVolume, VolumeClaim, VolumeRole};

/// A stream with an element for each change of an object.
pub(super) struct Changes(futures::stream::SelectAll<BoxStream<'static, ()>>);

impl Changes {
    /// Watches every kind that a view shows. Pods and claims are watched in namespace `only`, or else in all
    /// namespaces.
    pub fn watch(client: &Client, only: Option<&str>) -> Self {
        let all = || client.clone();
        fn within<K>(client: Client, only: Option<&str>) -> Api<K>
        where
            K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        {
            match only {
                Some(namespace) => Api::namespaced(client, namespace),
                None => Api::all(client),
            }
        }
        Self(select_all([
            changes_of::<NodeDisk>(Api::all(all())),
            changes_of::<VolumeRole>(Api::all(all())),
            changes_of::<DiskReservation>(Api::all(all())),
            changes_of::<SharedPersistentVolume>(Api::all(all())),
            changes_of::<VolumeClaim>(within(all(), only)),
            changes_of::<PersistentVolumeClaim>(within(all(), only)),
            changes_of::<Pod>(within(all(), only)),
        ]))
    }

    /// Returns one second after the next change, so that all changes of a second cause one update.
    pub async fn wait(&mut self) {
        self.0.next().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        while self.0.next().now_or_never().flatten().is_some() {}
    }
}

fn changes_of<K>(api: Api<PartialObjectMeta<K>>) -> BoxStream<'static, ()>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    // The stream goes on if the caller may not watch a kind; that kind yields no changes.
    let events = watcher(api, Default::default()).default_backoff();
    events.filter_map(|event| ready(event.ok().map(drop))).boxed()
}
