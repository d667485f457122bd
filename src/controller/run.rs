//! Runs the controller: which change of which object concerns which reconcile.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::{BoxFuture, join_all, select_all};
use futures::{FutureExt, TryFutureExt};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::api::{
    DiskReservation, LABEL_MANAGED_BY, MANAGED_BY, NodeDisk, PVC_PREFIX, Role, RoleSubscription,
    SharedPersistentVolume, VolumeClaim, VolumeOffer, VolumeRole,
};
use crate::cluster::{
    self, Cache, CacheConfig, Change, Events, Kind, Name, PodUse, Pvc, WorkQueue, cache, name_of, run_workers,
};
use crate::plan::offer::covers;
use crate::plan::plain::pvc_of;
use crate::plan::resize;
use crate::telemetry::Metrics;

use super::context::{
    CLAIM, Context, DISK, HOME, HOME_WANTED, HOMELESS, LEAVING, NAMESPACE, Stores, VOLUME, WAITING,
    claim_keys, offer_keys, reservation_keys, subscription_keys, trim_claim, trim_node, trim_volume,
    volume_keys,
};
use super::{Again, Error, claim, disk, lines, plain, reservation, role, room, subscription, volume};

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

/// The work queues.
struct Queues {
    disks: WorkQueue<NodeDisk>,
    reservations: WorkQueue<DiskReservation>,
    volumes: WorkQueue<SharedPersistentVolume>,
    claims: WorkQueue<VolumeClaim>,
    subscriptions: WorkQueue<RoleSubscription>,
    roles: WorkQueue<VolumeRole>,
    classes: WorkQueue<StorageClass>,
    /// Those that get their volume from us.
    pvcs: WorkQueue<PersistentVolumeClaim>,
}

/// Tells the reconciles that a change concerns. The caches exist only after the routes that fill them.
#[derive(Clone)]
struct Router {
    queues: Arc<Queues>,
    /// Something changed that the sharing out looks at.
    sharing: Arc<Notify>,
    ctx: Arc<OnceLock<Arc<Context>>>,
}

impl Router {
    /// Runs `tell` once the caches are there; before that the first reconcile of each object covers it.
    fn with(&self, tell: impl FnOnce(&Queues, &Stores)) {
        if let Some(ctx) = self.ctx.get() {
            tell(&self.queues, &ctx.stores);
        }
    }

    /// Has everything looked at: after a gap in a watch nobody knows what went meanwhile.
    fn everything(&self) {
        self.sharing.notify_one();
        self.with(|to, stores| {
            to.disks.enqueue_names(stores.disks.names());
            to.reservations.enqueue_names(stores.reservations.names());
            to.volumes.enqueue_names(stores.volumes.names());
            to.claims.enqueue_names(stores.claims.names());
            to.subscriptions.enqueue_names(stores.subscriptions.names());
            to.roles.enqueue_names(stores.roles.names());
            to.classes.enqueue_names(stores.classes.names());
            to.pvcs.enqueue_names(stores.pvcs.names_provisioned());
        });
    }

    fn node(&self, node: &Node) {
        let name = node.name_any();
        self.sharing.notify_one();
        self.with(|to, stores| to.disks.enqueue_if(&stores.disks, |d| d.spec.node_name == name));
    }

    fn disk(&self, disk: &NodeDisk) {
        let name = disk.name_any();
        self.queues.disks.enqueue(disk);
        self.sharing.notify_one();
        self.with(|to, stores| {
            let there = |held: Option<&String>| held.is_some_and(|held| *held == name);
            to.reservations.enqueue_if(&stores.reservations, |r| {
                there(r.status.as_ref().and_then(|s| s.node_disk.as_ref()))
                    || lines::holds(disk, &r.uid().unwrap_or_default())
            });
            to.volumes.enqueue_names(stores.volumes.names_by(DISK, &name));
            // What it can do and its agent allows may be what they waited for (V8, D2).
            to.volumes.enqueue_names(stores.volumes.names_by(HOMELESS, ""));
            to.subscriptions.enqueue_names(stores.subscriptions.names());
            to.classes.enqueue_names(stores.classes.names());
        });
    }

    fn reservation(&self, reservation: &DiskReservation) {
        self.queues.reservations.enqueue(reservation);
        let (name, uid) = (reservation.name_any(), reservation.uid().unwrap_or_default());
        self.sharing.notify_one();
        self.with(|to, stores| {
            // Those that are carved out of it, and the one that it was carved out of (R4).
            to.reservations.enqueue_if(&stores.reservations, |r| r.spec.parent.as_ref() == Some(&name));
            reservation.spec.parent.iter().for_each(|parent| to.reservations.enqueue_name(parent.as_str()));
            if reservation.metadata.deletion_timestamp.is_some() {
                to.disks.enqueue_if(&stores.disks, |disk| lines::holds(disk, &uid));
            }
            to.volumes.enqueue_names(stores.volumes.names_by(HOMELESS, &reservation.spec.role));
            to.volumes.enqueue_names(stores.volumes.names_by(HOME_WANTED, &name));
            // Those that have a line here and live elsewhere.
            for line in reservation.status.iter().flat_map(|s| &s.volumes) {
                let there =
                    stores.volumes.get(&line.name).and_then(|v| v.status.as_ref()?.reservation.clone());
                if there.is_some_and(|home| home.uid != uid) {
                    to.volumes.enqueue_name(line.name.as_str());
                }
            }
            for v in stores.volumes.by(HOME, &uid) {
                let line = volume::line(reservation, &v.uid().unwrap_or_default());
                if v.metadata.deletion_timestamp.is_some() || resize::waits_for_ledger(&v, line) {
                    to.volumes.enqueue(&v);
                }
            }
            to.subscriptions.enqueue_if(&stores.subscriptions, |s| covers(s, &reservation.spec.role));
            to.roles.enqueue_if(&stores.roles, |r| Role::name_covers(&r.spec.role, &reservation.spec.role));
            to.classes.enqueue_names(stores.classes.names());
        });
    }

    fn volume(&self, volume: &SharedPersistentVolume) {
        self.queues.volumes.enqueue(volume);
        let (name, role) = (volume.name_any(), &volume.spec.role);
        let home = volume.status.as_ref().and_then(|s| s.reservation.as_ref());
        self.with(|to, stores| {
            home.into_iter().for_each(|home| to.reservations.enqueue_name(home.name.as_str()));
            to.claims.enqueue_names(stores.claims.names_by(VOLUME, &name));
            to.claims.enqueue_names(stores.claims.names_by(WAITING, ""));
            match pvc_of(volume) {
                Some(_) => to.pvcs.enqueue_names(stores.claims.names_by(VOLUME, &name)),
                // It may be in the way.
                None if name.starts_with(PVC_PREFIX) => to.pvcs.enqueue_names(stores.pvcs.names_for(&name)),
                None => {}
            }
            to.subscriptions.enqueue_if(&stores.subscriptions, |s| covers(s, role));
        });
    }

    fn claim(&self, claim: &VolumeClaim) {
        self.queues.claims.enqueue(claim);
        let bound = claim.status.as_ref().and_then(|s| s.volume.as_ref());
        bound.into_iter().for_each(|v| self.queues.volumes.enqueue_name(v.name.as_str()));
        // It may be in the way of one of its name.
        self.queues.pvcs.enqueue_name(cluster::named(claim));
        // Others may be waiting behind it for an exclusive volume (C3).
        self.with(|to, stores| {
            // It may be gone, its finalizer taken off by hand, before it said what it has.
            to.volumes.enqueue_names(stores.volumes.names_by(CLAIM, &cluster::named(claim)));
            if pvc_of(claim).is_some() {
                claim.spec.volume.iter().for_each(|name| to.volumes.enqueue_name(name.as_str()));
            }
            let mut waiting =
                stores.claims.names_by(WAITING, claim.spec.volume.as_deref().unwrap_or_default());
            waiting.retain(|name| *name != cluster::named(claim));
            to.claims.enqueue_names(waiting);
        });
    }

    fn subscription(&self, subscription: &RoleSubscription) {
        self.queues.subscriptions.enqueue(subscription);
        let namespace = subscription.namespace().unwrap_or_default();
        self.with(|to, stores| to.claims.enqueue_names(stores.claims.names_by(NAMESPACE, &namespace)));
    }

    fn offer(&self, offer: &VolumeOffer) {
        let namespace = offer.namespace().unwrap_or_default();
        self.queues.subscriptions.enqueue_name(name_of(&namespace, &offer.spec.subscription));
        self.with(|to, stores| to.volumes.enqueue_names(stores.volumes.names_by(LEAVING, "")));
    }

    fn pvc(&self, name: &Name) {
        self.with(|to, _| {
            to.claims.enqueue_name(name.clone());
            to.pvcs.enqueue_name(name.clone());
        });
    }

    fn class(&self, class: &StorageClass) {
        self.queues.classes.enqueue(class);
        self.with(|to, stores| to.pvcs.enqueue_names(stores.pvcs.names_provisioned()));
    }

    /// What schedulers were told was changed; by somebody else, maybe.
    fn capacity(&self, said: &CSIStorageCapacity) {
        self.queues.classes.enqueue_name(said.storage_class_name.as_str());
    }

    fn pod(&self, claim: &Name) {
        self.with(|to, _| {
            let (router, claim) = (self.clone(), claim.clone());
            to.claims.enqueue_name(claim.clone());
            // The claim may be gone already, its finalizer taken off by hand: the volume's side knows it still.
            tokio::spawn(async move {
                // Pods that come and go together are counted together. Their claim holds the volume meanwhile (X1).
                tokio::time::sleep(GATHERING).await;
                router.with(|to, stores| to.volumes.enqueue_names(stores.volumes.names_by(CLAIM, &claim)));
            });
        });
    }

    fn role(&self, role: &VolumeRole) {
        self.queues.roles.enqueue(role);
        self.sharing.notify_one();
        self.with(|to, stores| {
            to.roles.enqueue_if(&stores.roles, |r| r.spec.role == role.spec.role);
            let refinement = |r: &DiskReservation| {
                r.spec.parent.is_some() && Role::name_covers(&role.spec.role, &r.spec.role)
            };
            to.reservations.enqueue_if(&stores.reservations, refinement);
        });
    }
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
    let router = Router {
        queues: Arc::new(Queues {
            disks,
            reservations,
            volumes,
            claims,
            subscriptions,
            roles,
            classes,
            pvcs,
        }),
        ctx: Arc::default(),
        sharing: Arc::default(),
    };
    let mut tasks: Vec<BoxFuture<'static, ()>> = Vec::new();
    macro_rules! cached {
        ($config:expr, $route:ident, $how:expr) => {
            cached!(Api::all(client.clone()), $config, $route, $how)
        };
        ($api:expr, $config:expr, $route:ident, $how:expr) => {{
            let (changes, everything) = (router.clone(), router.clone());
            let changed = move |change: Change<_>| {
                // Once the caches are there, everything is looked at.
                let started = changes.ctx.get().is_some();
                change.latest().filter(|_| started).into_iter().for_each(|object| changes.$route(object));
            };
            let (cache, task) = cache($api, $config, $how, changed, move || everything.everything());
            tasks.push(task);
            cache
        }};
    }
    // Small pages: the objects of a page are in memory three times, as text, as objects, and in the cache.
    let all = watcher::Config::default().page_size(100);
    let ours = all.clone().labels(&format!("{LABEL_MANAGED_BY}={MANAGED_BY}"));
    let to = router.clone();
    let changed = move |change: Change<_>| PodUse::concerned(change).for_each(|claim| to.pod(claim));
    let (pods, task) = cache(Api::all(client.clone()), all.clone(), PodUse::config(), changed, || {});
    tasks.push(task);
    let to = router.clone();
    let changed = move |change: Change<_>| {
        if Pvc::matters(&change) {
            to.pvc(change.name);
        }
    };
    let (pvcs, task) = cache(Api::all(client.clone()), all.clone(), Pvc::config(), changed, || {});
    tasks.push(task);
    let stores = Stores {
        nodes: cached!(all.clone(), node, CacheConfig { keep: trim_node, ..Default::default() }),
        disks: cached!(all.clone(), disk, CacheConfig::default()),
        reservations: cached!(
            all.clone(),
            reservation,
            CacheConfig { keys: reservation_keys, ..Default::default() }
        ),
        volumes: cached!(all.clone(), volume, CacheConfig { keep: trim_volume, keys: volume_keys }),
        claims: cached!(all.clone(), claim, CacheConfig { keep: trim_claim, keys: claim_keys }),
        subscriptions: cached!(
            all.clone(),
            subscription,
            CacheConfig { keys: subscription_keys, ..Default::default() }
        ),
        offers: cached!(all.clone(), offer, CacheConfig { keys: offer_keys, ..Default::default() }),
        roles: cached!(all.clone(), role, CacheConfig::default()),
        classes: cached!(all, class, CacheConfig::default()),
        capacities: cached!(
            cluster::namespaced(&client, &options.namespace),
            ours,
            capacity,
            CacheConfig::default()
        ),
        pvcs,
        pods,
    };
    let events = Events::new(client.clone(), "reservoir-controller", &options.identity);
    let (share, turn, batchers, replaced) = Default::default();
    let (told, namespace) = (metrics.clone(), options.namespace);
    let ctx = Context { client, namespace, stores, events, share, turn, batchers, replaced, metrics: told };
    let ctx = Arc::new(ctx);
    metrics.show(&ctx);

    let running = Running { ctx: ctx.clone(), metrics, concurrency: options.concurrency };
    // They wait more than they work, so none waits for another's place.
    let patient = Running { concurrency: 0, ..running.clone() };
    let work =
        async {
            ready(&ctx.stores).await;
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
async fn ready(stores: &Stores) {
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
        stores.pvcs.wait_until_filled(),
        stores.pods.wait_until_filled(),
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

/// For how long changes are gathered before they are written: those that concern a subscription, since an offer is a large
/// object, and pods, of which there are many.
const GATHERING: Duration = Duration::from_millis(500);

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
        names: UnboundedReceiver<Name>,
        reconcile: F,
    ) -> BoxFuture<'static, ()>
    where
        K: Kind,
        F: Fn(Arc<K>, Arc<Context>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Result<Again, Error>> + Send + 'static,
    {
        let cache = cache.clone();
        self.named::<K, _, _>(names, move |name, ctx| {
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
    fn named<K, F, R>(&self, names: UnboundedReceiver<Name>, reconcile: F) -> BoxFuture<'static, ()>
    where
        K: Kind,
        F: Fn(Name, Arc<Context>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Result<Again, Error>> + Send + 'static,
    {
        let (ctx, metrics, at_once) = (self.ctx.clone(), self.metrics.clone(), self.concurrency);
        let reconcile = move |name| reconcile(name, ctx.clone()).map_err(|Error::Cluster(error)| error);
        async move { run_workers::<K, _>(names, at_once, metrics, reconcile).await }.boxed()
    }
}
