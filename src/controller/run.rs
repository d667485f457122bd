//! Runs the controller: wires the caches to the routes, and the work queues to the reconciles.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, join_all, select_all};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::Instrument;

use crate::api::{LABEL_MANAGED_BY, MANAGED_BY};
use crate::cluster::{
    self, Cache, Cached, Error as ClusterError, Events, How, Kind, Name, PodIndex, PvcIndex, cache, work_off,
};
use crate::telemetry::{self, Metrics};

use super::context::Context;
use super::routes::{GATHERING, Router, WorkQueue, WorkQueues};
use super::stores::{
    Stores, claim_keys, offer_keys, reservation_keys, subscription_keys, trim_claim, trim_node, trim_volume,
    volume_keys,
};
use super::{Again, Error, claim, disk, plain, reservation, role, room, subscription, volume};

/// How the controller runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of this instance, for events: the pod's.
    pub identity: String,
    /// The namespace that it is in.
    pub namespace: String,
    /// How many objects of one kind are reconciled at once.
    pub concurrency: u16,
}

/// Runs the controller until dropped.
pub async fn run(client: Client, options: Options, metrics: Arc<Metrics>) {
    let (disks, disks_in) = WorkQueue::new();
    let (reservations, reservations_in) = WorkQueue::new();
    let (volumes, volumes_in) = WorkQueue::new();
    let (claims, claims_in) = WorkQueue::new();
    let (subscriptions, subscriptions_in) = WorkQueue::new();
    let (roles, roles_in) = WorkQueue::new();
    let (classes, classes_in) = WorkQueue::new();
    let (pvcs, pvcs_in) = WorkQueue::new();
    let queues = WorkQueues { disks, reservations, volumes, claims, subscriptions, roles, classes, pvcs };
    let router = Router { queues: Arc::new(queues), ctx: Arc::default(), sharing: Arc::default() };
    let mut tasks: Vec<BoxFuture<'static, ()>> = Vec::new();
    macro_rules! cached {
        ($config:expr, $route:ident, $how:expr) => {
            cached!(Api::all(client.clone()), $config, $route, $how)
        };
        ($api:expr, $config:expr, $route:ident, $how:expr) => {{
            let (changes, everything) = (router.clone(), router.clone());
            let changed = move |object: &_| changes.$route(object);
            let listed = move || everything.everything();
            let Cached { cache, task } = cache($api, $config, $how, changed, listed);
            tasks.push(task);
            cache
        }};
    }
    // Small pages: what a page has is in memory three times, as text, as objects, and as what is kept of them.
    let all = watcher::Config::default().page_size(100);
    let ours = all.clone().labels(&format!("{LABEL_MANAGED_BY}={MANAGED_BY}"));
    let listed = || {
        let (sender, receiver) = tokio::sync::watch::channel(false);
        let tell = move || {
            sender.send_replace(true);
        };
        (tell, receiver)
    };
    let (pods, (tell, pods_listed)) = (PodIndex::default(), listed());
    let to = router.clone();
    tasks.push(pods.follow(Api::all(client.clone()), all.clone(), move |ns, name| to.users(ns, name), tell));
    let (pvcs, (tell, pvcs_listed)) = (PvcIndex::default(), listed());
    let to = router.clone();
    tasks.push(pvcs.follow(Api::all(client.clone()), all.clone(), move |ns, name| to.pvc(ns, name), tell));
    let stores = Stores {
        nodes: cached!(all.clone(), node, How { trim: trim_node, ..How::default() }),
        disks: cached!(all.clone(), disk, How::default()),
        reservations: cached!(all.clone(), reservation, How { keys: reservation_keys, ..How::default() }),
        volumes: cached!(all.clone(), volume, How { keys: volume_keys, trim: trim_volume, packed: true }),
        claims: cached!(all.clone(), claim, How { keys: claim_keys, trim: trim_claim, packed: true }),
        subscriptions: cached!(all.clone(), subscription, How { keys: subscription_keys, ..How::default() }),
        offers: cached!(all.clone(), offer, How { keys: offer_keys, packed: true, ..How::default() }),
        roles: cached!(all.clone(), role, How::default()),
        classes: cached!(all, class, How::default()),
        capacities: cached!(cluster::namespaced(&client, &options.namespace), ours, capacity, How::default()),
        pvcs,
        pods,
    };
    let events = Events::new(client.clone(), "reservoir-controller", &options.identity);
    let (share, turn, commits, replaced) = Default::default();
    let (told, namespace) = (metrics.clone(), options.namespace);
    let ctx = Context { client, namespace, stores, events, share, turn, commits, replaced, metrics: told };
    let ctx = Arc::new(ctx);
    metrics.show(&ctx);

    let running = Running { ctx: ctx.clone(), metrics, concurrency: options.concurrency };
    // They wait more than they work, so none waits for another's place.
    let patient = Running { concurrency: 0, ..running.clone() };
    let work =
        async {
            ready(&ctx.stores, [pods_listed, pvcs_listed]).await;
            let _ = router.ctx.set(ctx.clone());
            // Everything that is there is looked at once.
            router.everything();
            let stores = &ctx.stores;
            let all: Vec<BoxFuture<()>> =
                vec![
                    share_out(ctx.clone(), router.clone()).boxed(),
                    running.controller(&stores.disks, disks_in, |o, c| async move {
                        disk::reconcile(o, &c).await.map(|()| None)
                    }),
                    running.controller(&stores.reservations, reservations_in, |o, c| async move {
                        reservation::reconcile(o, &c).await.map(|()| None)
                    }),
                    running.controller(&stores.volumes, volumes_in, |o, c| async move {
                        volume::reconcile(o, &c).await
                    }),
                    running.controller(&stores.claims, claims_in, |o, c| async move {
                        claim::reconcile(o, &c).await
                    }),
                    patient.controller(&stores.subscriptions, subscriptions_in, |o, c| async move {
                        // What happens together is one offer.
                        tokio::time::sleep(GATHERING).await;
                        subscription::reconcile(o, &c).await.map(|()| None)
                    }),
                    running.controller(&stores.roles, roles_in, |o, c| async move {
                        role::reconcile(o, &c).await.map(|()| None)
                    }),
                    patient.controller(&stores.classes, classes_in, |o, c| async move {
                        tokio::time::sleep(GATHERING).await;
                        room::reconcile(o, &c).await.map(|()| None)
                    }),
                    running.named::<PersistentVolumeClaim, _, _>(pvcs_in, |name, c| async move {
                        plain::reconcile(name, &c).await
                    }),
                ];
            join_all(all).await;
        };
    tokio::select! {
        () = work => {}
        _ = select_all(tasks.into_iter().map(tokio::spawn).map(AbortOnDrop)) => {}
    }
}

/// Shares out anew whenever something changed that it looks at, and has those looked at for whom the outcome did.
async fn share_out(ctx: Arc<Context>, router: Router) {
    loop {
        for name in ctx.share.renew(&ctx.stores) {
            router.queues.reservations.enqueue_name(name);
        }
        router.sharing.notified().await;
    }
}

/// Waits until each cache has been filled once: nothing is decided on half a picture.
async fn ready(stores: &Stores, mut listed: [tokio::sync::watch::Receiver<bool>; 2]) {
    let listed =
        listed.iter_mut().map(|listed| async { listed.wait_for(|listed| *listed).await.map(|_| ()) });
    let _ = tokio::join!(
        stores.nodes.wait_until_filled(),
        stores.disks.wait_until_filled(),
        stores.reservations.wait_until_filled(),
        stores.volumes.wait_until_filled(),
        stores.claims.wait_until_filled(),
        stores.subscriptions.wait_until_filled(),
        stores.offers.wait_until_filled(),
        stores.roles.wait_until_filled(),
        stores.classes.wait_until_filled(),
        stores.capacities.wait_until_filled(),
        join_all(listed),
    );
    tracing::info!("caches are filled");
}

/// A task that ends with the future that waits for it.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Future for AbortOnDrop {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        self.0.poll_unpin(cx).map(|_| ())
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Clone)]
struct Running {
    ctx: Arc<Context>,
    metrics: Arc<Metrics>,
    concurrency: u16,
}

impl Running {
    fn controller<K, F, R>(
        &self,
        cache: &Arc<Cache<K>>,
        inbox: UnboundedReceiver<Name>,
        reconcile: F,
    ) -> BoxFuture<'static, ()>
    where
        K: Kind,
        F: Fn(Arc<K>, Arc<Context>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Result<Again, Error>> + Send + 'static,
    {
        let cache = cache.clone();
        self.named::<K, _, _>(inbox, move |name, ctx| {
            let object = cache.get(&name).filter(|object| !ctx.is_old(&**object));
            let reconciled = object.map(|object| reconcile(object, ctx));
            async move {
                match reconciled {
                    Some(reconciled) => reconciled.await,
                    None => Ok(None),
                }
            }
        })
    }

    /// The same with what is no object of a cache.
    fn named<K, F, R>(&self, inbox: UnboundedReceiver<Name>, reconcile: F) -> BoxFuture<'static, ()>
    where
        K: Kind,
        F: Fn(Name, Arc<Context>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Result<Again, Error>> + Send + 'static,
    {
        let kind = K::kind(&()).into_owned();
        let (ctx, metrics) = (self.ctx.clone(), self.metrics.clone());
        let work = move |name: Name| {
            let (ctx, metrics, kind) = (ctx.clone(), metrics.clone(), kind.clone());
            let reconcile = reconcile.clone();
            let span = tracing::info_span!("reconcile", kind, object = &*name);
            let looked_at = async move {
                let started = Instant::now();
                let done = reconcile(name, ctx).await;
                metrics.reconciled(&kind, done.as_ref().err().map(Error::label), started.elapsed());
                match done {
                    Ok(again) => again,
                    // The version that was missed comes by the watch, and with it the next look. As long as the watch is
                    // down, looking again does nothing but write in vain.
                    Err(Error::Cluster(ClusterError::Conflict(_))) => {
                        tracing::debug!("lost a race, looking again");
                        Some(Duration::from_secs(1))
                    }
                    Err(error) => {
                        tracing::warn!(error = telemetry::chain(&error), "reconcile failed");
                        Some(Duration::from_secs(2))
                    }
                }
            };
            looked_at.instrument(span)
        };
        let at_once = self.concurrency.into();
        async move { work_off(inbox, at_once, work).await }.boxed()
    }
}
