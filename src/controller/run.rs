//! Runs the controller: which change of which object concerns which reconcile.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, join_all, select_all};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::Instrument;

use crate::api::{
    DiskReservation, LABEL_MANAGED_BY, MANAGED_BY, NodeDisk, PVC_PREFIX, Role, RoleSubscription,
    SharedPersistentVolume, VolumeClaim, VolumeOffer, VolumeRole,
};
use crate::cluster::{
    self, Cache, Cached, Error as ClusterError, Events, How, Kind, Name, PodIndex, PvcIndex, cache, name_of,
    work_off,
};
use crate::plan::offer::covers;
use crate::plan::pvc_provisioner::pvc_of;
use crate::plan::resize;
use crate::telemetry::{self, Metrics};

use super::context::{
    CLAIM, Context, DISK, HOME, HOME_WANTED, HOMELESS, LEAVING, NAMESPACE, Stores, VOLUME, WAITING,
    claim_keys, offer_keys, reservation_keys, subscription_keys, trim_claim, trim_node, trim_volume,
    volume_keys,
};
use super::{
    Again, Error, claim, disk, lines, pvc_provisioner, reservation, role, room, subscription, volume,
    volume_entry,
};

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

struct Inbox<K>(UnboundedSender<Name>, PhantomData<fn(K)>);

impl<K: Kind> Inbox<K> {
    fn new() -> (Self, UnboundedReceiver<Name>) {
        let (sender, receiver) = unbounded_channel();
        (Self(sender, PhantomData), receiver)
    }

    /// Has the object reconciled; once, however often it is asked for meanwhile.
    fn poke(&self, object: &K) {
        self.poke_name(cluster::named(object));
    }

    fn poke_name(&self, name: impl Into<Name>) {
        let _ = self.0.send(name.into());
    }

    fn poke_those(&self, cache: &Cache<K>, concerned: impl Fn(&K) -> bool) {
        cache.all().iter().filter(|object| concerned(object)).for_each(|object| self.poke(object));
    }

    fn poke_each(&self, names: Vec<Name>) {
        names.into_iter().for_each(|name| self.poke_name(name));
    }
}

/// Where a change is told to.
struct Inboxes {
    disks: Inbox<NodeDisk>,
    reservations: Inbox<DiskReservation>,
    volumes: Inbox<SharedPersistentVolume>,
    claims: Inbox<VolumeClaim>,
    subscriptions: Inbox<RoleSubscription>,
    roles: Inbox<VolumeRole>,
    classes: Inbox<StorageClass>,
    /// Those that get their volume from us.
    pvcs: Inbox<PersistentVolumeClaim>,
}

type Late<T> = Arc<std::sync::OnceLock<T>>;

/// Tells the reconciles that a change concerns. The caches exist only after the routes that fill them.
#[derive(Clone)]
struct Router {
    inboxes: Arc<Inboxes>,
    /// Something changed that the sharing out looks at.
    sharing: Arc<Notify>,
    ctx: Late<Arc<Context>>,
}

impl Router {
    /// Runs `tell` once the caches are there; before that the first reconcile of each object covers it.
    fn with(&self, tell: impl FnOnce(&Inboxes, &Stores)) {
        if let Some(ctx) = self.ctx.get() {
            tell(&self.inboxes, &ctx.stores);
        }
    }

    /// Has everything looked at: after a gap in a watch nobody knows what went meanwhile.
    fn everything(&self) {
        self.sharing.notify_one();
        self.with(|to, stores| {
            to.disks.poke_each(stores.disks.names());
            to.reservations.poke_each(stores.reservations.names());
            to.volumes.poke_each(stores.volumes.names());
            to.claims.poke_each(stores.claims.names());
            to.subscriptions.poke_each(stores.subscriptions.names());
            to.roles.poke_each(stores.roles.names());
            to.classes.poke_each(stores.classes.names());
            to.pvcs.poke_each(stores.pvcs.names_of_plain());
        });
    }

    fn node(&self, node: &Node) {
        let name = node.name_any();
        self.sharing.notify_one();
        self.with(|to, stores| to.disks.poke_those(&stores.disks, |d| d.spec.node_name == name));
    }

    fn disk(&self, disk: &NodeDisk) {
        let name = disk.name_any();
        self.inboxes.disks.poke(disk);
        self.sharing.notify_one();
        self.with(|to, stores| {
            let there = |held: Option<&String>| held.is_some_and(|held| *held == name);
            to.reservations.poke_those(&stores.reservations, |r| {
                there(r.status.as_ref().and_then(|s| s.node_disk.as_ref()))
                    || lines::holds(disk, &r.uid().unwrap_or_default())
            });
            to.volumes.poke_each(stores.volumes.names_by(DISK, &name));
            // What it can do and its agent allows may be what they waited for (V8, D2).
            to.volumes.poke_each(stores.volumes.names_by(HOMELESS, ""));
            to.subscriptions.poke_each(stores.subscriptions.names());
            to.classes.poke_each(stores.classes.names());
        });
    }

    fn reservation(&self, reservation: &DiskReservation) {
        self.inboxes.reservations.poke(reservation);
        let (name, uid) = (reservation.name_any(), reservation.uid().unwrap_or_default());
        self.sharing.notify_one();
        self.with(|to, stores| {
            // Those that are carved out of it, and the one that it was carved out of (R4).
            to.reservations.poke_those(&stores.reservations, |r| r.spec.parent.as_ref() == Some(&name));
            reservation.spec.parent.iter().for_each(|parent| to.reservations.poke_name(parent.as_str()));
            if reservation.metadata.deletion_timestamp.is_some() {
                to.disks.poke_those(&stores.disks, |disk| lines::holds(disk, &uid));
            }
            to.volumes.poke_each(stores.volumes.names_by(HOMELESS, &reservation.spec.role));
            to.volumes.poke_each(stores.volumes.names_by(HOME_WANTED, &name));
            // Those that have a line here and live elsewhere.
            for line in reservation.status.iter().flat_map(|s| &s.volumes) {
                let there =
                    stores.volumes.get(&line.name).and_then(|v| v.status.as_ref()?.reservation.clone());
                if there.is_some_and(|home| home.uid != uid) {
                    to.volumes.poke_name(line.name.as_str());
                }
            }
            for v in stores.volumes.by(HOME, &uid) {
                let line = volume_entry::line(reservation, &v.uid().unwrap_or_default());
                if v.metadata.deletion_timestamp.is_some() || resize::waits_for_ledger(&v, line) {
                    to.volumes.poke(&v);
                }
            }
            to.subscriptions.poke_those(&stores.subscriptions, |s| covers(s, &reservation.spec.role));
            to.roles.poke_those(&stores.roles, |r| Role::name_covers(&r.spec.role, &reservation.spec.role));
            to.classes.poke_each(stores.classes.names());
        });
    }

    fn volume(&self, volume: &SharedPersistentVolume) {
        self.inboxes.volumes.poke(volume);
        let (name, role) = (volume.name_any(), &volume.spec.role);
        let home = volume.status.as_ref().and_then(|s| s.reservation.as_ref());
        self.with(|to, stores| {
            home.into_iter().for_each(|home| to.reservations.poke_name(home.name.as_str()));
            to.claims.poke_each(stores.claims.names_by(VOLUME, &name));
            to.claims.poke_each(stores.claims.names_by(WAITING, ""));
            match pvc_of(volume) {
                Some(_) => to.pvcs.poke_each(stores.claims.names_by(VOLUME, &name)),
                // It may be in the way.
                None if name.starts_with(PVC_PREFIX) => to.pvcs.poke_each(stores.pvcs.names_for(&name)),
                None => {}
            }
            to.subscriptions.poke_those(&stores.subscriptions, |s| covers(s, role));
        });
    }

    fn claim(&self, claim: &VolumeClaim) {
        self.inboxes.claims.poke(claim);
        let bound = claim.status.as_ref().and_then(|s| s.volume.as_ref());
        bound.into_iter().for_each(|v| self.inboxes.volumes.poke_name(v.name.as_str()));
        // It may be in the way of one of its name.
        self.inboxes.pvcs.poke_name(cluster::named(claim));
        // Others may be waiting behind it for an exclusive volume (C3).
        self.with(|to, stores| {
            // It may be gone, its finalizer taken off by hand, before it said what it has.
            to.volumes.poke_each(stores.volumes.names_by(CLAIM, &cluster::named(claim)));
            if pvc_of(claim).is_some() {
                claim.spec.volume.iter().for_each(|name| to.volumes.poke_name(name.as_str()));
            }
            let mut waiting =
                stores.claims.names_by(WAITING, claim.spec.volume.as_deref().unwrap_or_default());
            waiting.retain(|name| *name != cluster::named(claim));
            to.claims.poke_each(waiting);
        });
    }

    fn subscription(&self, subscription: &RoleSubscription) {
        self.inboxes.subscriptions.poke(subscription);
        let namespace = subscription.namespace().unwrap_or_default();
        self.with(|to, stores| to.claims.poke_each(stores.claims.names_by(NAMESPACE, &namespace)));
    }

    fn offer(&self, offer: &VolumeOffer) {
        let namespace = offer.namespace().unwrap_or_default();
        self.inboxes.subscriptions.poke_name(name_of(&namespace, &offer.spec.subscription));
        self.with(|to, stores| to.volumes.poke_each(stores.volumes.names_by(LEAVING, "")));
    }

    fn pvc(&self, namespace: &str, name: &str) {
        self.inboxes.claims.poke_name(name_of(namespace, name));
        self.inboxes.pvcs.poke_name(name_of(namespace, name));
    }

    fn class(&self, class: &StorageClass) {
        self.inboxes.classes.poke(class);
        self.with(|to, stores| to.pvcs.poke_each(stores.pvcs.names_of_plain()));
    }

    /// What schedulers were told was changed; by somebody else, maybe.
    fn capacity(&self, said: &CSIStorageCapacity) {
        self.inboxes.classes.poke_name(said.storage_class_name.as_str());
    }

    fn users(&self, namespace: &str, claim: &str) {
        self.with(|to, _| {
            let (router, claim) = (self.clone(), name_of(namespace, claim));
            to.claims.poke_name(claim.clone());
            // The claim may be gone already, its finalizer taken off by hand: the volume's side knows it still.
            tokio::spawn(async move {
                // Pods that come and go together are counted together. Their claim holds the volume meanwhile (X1).
                tokio::time::sleep(GATHERING).await;
                router.with(|to, stores| to.volumes.poke_each(stores.volumes.names_by(CLAIM, &claim)));
            });
        });
    }

    fn role(&self, role: &VolumeRole) {
        self.inboxes.roles.poke(role);
        self.sharing.notify_one();
        self.with(|to, stores| {
            to.roles.poke_those(&stores.roles, |r| r.spec.role == role.spec.role);
            let refinement = |r: &DiskReservation| {
                r.spec.parent.is_some() && Role::name_covers(&role.spec.role, &r.spec.role)
            };
            to.reservations.poke_those(&stores.reservations, refinement);
        });
    }
}

/// Runs the controller until dropped.
pub async fn run(client: Client, options: Options, metrics: Arc<Metrics>) {
    let (disks, disks_in) = Inbox::new();
    let (reservations, reservations_in) = Inbox::new();
    let (volumes, volumes_in) = Inbox::new();
    let (claims, claims_in) = Inbox::new();
    let (subscriptions, subscriptions_in) = Inbox::new();
    let (roles, roles_in) = Inbox::new();
    let (classes, classes_in) = Inbox::new();
    let (pvcs, pvcs_in) = Inbox::new();
    let router = Router {
        inboxes: Arc::new(Inboxes {
            disks,
            reservations,
            volumes,
            claims,
            subscriptions,
            roles,
            classes,
            pvcs,
        }),
        ctx: Late::default(),
        sharing: Arc::default(),
    };
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
                        pvc_provisioner::reconcile(name, &c).await
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
            router.inboxes.reservations.poke_name(name);
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
