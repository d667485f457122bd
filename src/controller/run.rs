//! Runs the controller: which change of which object concerns which reconcile.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, join_all, select_all};
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::runtime::Controller;
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::api::{
    DiskReservation, LABEL_MANAGED_BY, MANAGED_BY, NodeDisk, Role, RoleSubscription, SharedPersistentVolume,
    VolumeClaim, VolumeOffer, VolumeRole,
};
use crate::cluster::{self, Cached, Error as ClusterError, Events, Kind, PodIndex, PvcIndex, cache};
use crate::plan::offer::covers;
use crate::plan::resize;
use crate::telemetry::{self, Metrics};

use super::context::{
    ADOPTING, CLAIM, Context, DISK, HOME, HOME_WANTED, HOMELESS, LEAVING, NAMESPACE, Stores, VOLUME, WAITING,
    claim_keys, named, reservation_keys, subscription_keys, trim_claim, trim_node, trim_volume, volume_keys,
};
use super::{Again, Error, claim, disk, lines, reservation, role, subscription, volume};

/// How the controller runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of this instance, for events: the pod's.
    pub identity: String,
    /// How many objects of one kind are reconciled at once.
    pub concurrency: u16,
}

struct Inbox<K: Resource<DynamicType = ()>>(UnboundedSender<ObjectRef<K>>);

impl<K: Resource<DynamicType = ()> + Clone + 'static> Inbox<K> {
    fn new() -> (Self, UnboundedReceiver<ObjectRef<K>>) {
        let (sender, receiver) = unbounded_channel();
        (Self(sender), receiver)
    }

    /// Has the object reconciled; once, however often it is asked for meanwhile.
    fn poke(&self, object: &K) {
        let _ = self.0.send(cluster::named(object));
    }

    fn poke_name(&self, name: &str) {
        let _ = self.0.send(ObjectRef::new(name));
    }

    fn poke_all(&self, store: &Store<K>, concerned: impl Fn(&K) -> bool) {
        store.state().iter().filter(|object| concerned(object)).for_each(|object| self.poke(object));
    }

    fn poke_each(&self, objects: Vec<Arc<K>>) {
        objects.iter().for_each(|object| self.poke(object));
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
            to.disks.poke_all(&stores.disks, |_| true);
            to.reservations.poke_all(&stores.reservations, |_| true);
            to.volumes.poke_all(&stores.volumes, |_| true);
            to.claims.poke_all(&stores.claims, |_| true);
            to.subscriptions.poke_all(&stores.subscriptions, |_| true);
            to.roles.poke_all(&stores.roles, |_| true);
        });
    }

    fn node(&self, node: &Node) {
        let name = node.name_any();
        self.sharing.notify_one();
        self.with(|to, stores| to.disks.poke_all(&stores.disks, |d| d.spec.node_name == name));
    }

    fn disk(&self, disk: &NodeDisk) {
        let name = disk.name_any();
        self.inboxes.disks.poke(disk);
        self.sharing.notify_one();
        self.with(|to, stores| {
            let there = |held: Option<&String>| held.is_some_and(|held| *held == name);
            to.reservations.poke_all(&stores.reservations, |r| {
                there(r.status.as_ref().and_then(|s| s.node_disk.as_ref()))
                    || lines::holds(disk, &r.uid().unwrap_or_default())
            });
            to.volumes.poke_each(stores.volumes.by(DISK, &name));
            // What its agent allows is in the disk (V8).
            to.volumes.poke_each(stores.volumes.by(ADOPTING, ""));
            to.subscriptions.poke_all(&stores.subscriptions, |_| true);
        });
    }

    fn reservation(&self, reservation: &DiskReservation) {
        self.inboxes.reservations.poke(reservation);
        let (name, uid) = (reservation.name_any(), reservation.uid().unwrap_or_default());
        self.sharing.notify_one();
        self.with(|to, stores| {
            // Those that are carved out of it, and the one that it was carved out of (R4).
            to.reservations.poke_all(&stores.reservations, |r| r.spec.parent.as_ref() == Some(&name));
            reservation.spec.parent.iter().for_each(|parent| to.reservations.poke_name(parent));
            if reservation.metadata.deletion_timestamp.is_some() {
                to.disks.poke_all(&stores.disks, |disk| lines::holds(disk, &uid));
            }
            to.volumes.poke_each(stores.volumes.by(HOMELESS, &reservation.spec.role));
            to.volumes.poke_each(stores.volumes.by(HOME_WANTED, &name));
            // Those that have a line here and live elsewhere.
            for line in reservation.status.iter().flat_map(|s| &s.volumes) {
                let there =
                    named(&stores.volumes, &line.name).and_then(|v| v.status.as_ref()?.reservation.clone());
                if there.is_some_and(|home| home.uid != uid) {
                    to.volumes.poke_name(&line.name);
                }
            }
            for v in stores.volumes.by(HOME, &uid) {
                let line = volume::line(reservation, &v.uid().unwrap_or_default());
                if v.metadata.deletion_timestamp.is_some() || resize::waits_for_ledger(&v, line) {
                    to.volumes.poke(&v);
                }
            }
            to.subscriptions.poke_all(&stores.subscriptions, |s| covers(s, &reservation.spec.role));
            to.roles.poke_all(&stores.roles, |r| Role::name_covers(&r.spec.role, &reservation.spec.role));
        });
    }

    fn volume(&self, volume: &SharedPersistentVolume) {
        self.inboxes.volumes.poke(volume);
        let (name, role) = (volume.name_any(), &volume.spec.role);
        let home = volume.status.as_ref().and_then(|s| s.reservation.as_ref());
        self.with(|to, stores| {
            home.into_iter().for_each(|home| to.reservations.poke_name(&home.name));
            to.claims.poke_each(stores.claims.by(VOLUME, &name));
            to.claims.poke_each(stores.claims.by(WAITING, ""));
            to.subscriptions.poke_all(&stores.subscriptions, |s| covers(s, role));
        });
    }

    fn claim(&self, claim: &VolumeClaim) {
        self.inboxes.claims.poke(claim);
        let bound = claim.status.as_ref().and_then(|s| s.volume.as_ref());
        bound.into_iter().for_each(|v| self.inboxes.volumes.poke_name(&v.name));
        // Others may be waiting behind it for an exclusive volume (C3).
        self.with(|to, stores| {
            let waiting = stores.claims.by(WAITING, claim.spec.volume.as_deref().unwrap_or_default());
            to.claims.poke_each(waiting.into_iter().filter(|c| c.uid() != claim.uid()).collect());
        });
    }

    fn subscription(&self, subscription: &RoleSubscription) {
        self.inboxes.subscriptions.poke(subscription);
        let namespace = subscription.namespace().unwrap_or_default();
        self.with(|to, stores| to.claims.poke_each(stores.claims.by(NAMESPACE, &namespace)));
    }

    fn offer(&self, offer: &VolumeOffer) {
        let namespace = offer.namespace().unwrap_or_default();
        let _ =
            self.inboxes.subscriptions.0.send(ObjectRef::new(&offer.spec.subscription).within(&namespace));
        self.with(|to, stores| to.volumes.poke_each(stores.volumes.by(LEAVING, "")));
    }

    fn pvc(&self, namespace: &str, name: &str) {
        let _ = self.inboxes.claims.0.send(ObjectRef::new(name).within(namespace));
    }

    fn users(&self, namespace: &str, claim: &str) {
        let key = ObjectRef::<VolumeClaim>::new(claim).within(namespace);
        self.with(|to, stores| {
            if let Some(claim) = stores.claims.get(&key) {
                to.claims.poke(&claim);
            }
        });
        // The claim may be gone already, its finalizer taken off by hand: the volume's side knows it still.
        let (router, claim) = (self.clone(), format!("{namespace}/{claim}"));
        tokio::spawn(async move {
            // Pods that come and go together are counted together. Their claim holds the volume meanwhile (X1).
            tokio::time::sleep(GATHERING).await;
            router.with(|to, stores| to.volumes.poke_each(stores.volumes.by(CLAIM, &claim)));
        });
    }

    fn role(&self, role: &VolumeRole) {
        self.inboxes.roles.poke(role);
        self.sharing.notify_one();
        self.with(|to, stores| {
            to.roles.poke_all(&stores.roles, |r| r.spec.role == role.spec.role);
            let refinement = |r: &DiskReservation| {
                r.spec.parent.is_some() && Role::name_covers(&role.spec.role, &r.spec.role)
            };
            to.reservations.poke_all(&stores.reservations, refinement);
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
    let router = Router {
        inboxes: Arc::new(Inboxes { disks, reservations, volumes, claims, subscriptions, roles }),
        ctx: Late::default(),
        sharing: Arc::default(),
    };
    let mut tasks: Vec<BoxFuture<'static, ()>> = Vec::new();
    macro_rules! cached {
        ($kind:ty, $config:expr, $route:ident) => {
            cached!($kind, $config, $route, |_, _| {}, |_| {})
        };
        ($kind:ty, $config:expr, $route:ident, $keys:expr) => {
            cached!($kind, $config, $route, $keys, |_| {})
        };
        ($kind:ty, $config:expr, $route:ident, $keys:expr, $trim:expr) => {{
            let router = router.clone();
            let api: Api<$kind> = Api::all(client.clone());
            let everything = router.clone();
            let Cached { cache, task } = cache(
                api,
                $config,
                $keys,
                $trim,
                move |object| router.$route(object),
                move || everything.everything(),
            );
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
    tasks.push(pvcs.follow(Api::all(client.clone()), ours, move |ns, name| to.pvc(ns, name), tell));
    let stores = Stores {
        nodes: cached!(Node, all.clone(), node, |_, _| {}, trim_node),
        disks: cached!(NodeDisk, all.clone(), disk),
        reservations: cached!(DiskReservation, all.clone(), reservation, reservation_keys),
        volumes: cached!(SharedPersistentVolume, all.clone(), volume, volume_keys, trim_volume),
        claims: cached!(VolumeClaim, all.clone(), claim, claim_keys, trim_claim),
        subscriptions: cached!(RoleSubscription, all.clone(), subscription, subscription_keys),
        offers: cached!(VolumeOffer, all.clone(), offer),
        roles: cached!(VolumeRole, all, role),
        pvcs,
        pods,
    };
    let events = Events::new(client.clone(), "reservoir-controller", &options.identity);
    let (share, turn, commits, replaced) = Default::default();
    let ctx = Arc::new(Context { client, stores, events, share, turn, commits, replaced });

    let running = Running { ctx: ctx.clone(), metrics, concurrency: options.concurrency };
    // They wait more than they work, so none waits for another's place.
    let patient = Running { concurrency: 0, ..running.clone() };
    let work =
        async {
            ready(&ctx.stores, [pods_listed, pvcs_listed]).await;
            let _ = router.ctx.set(ctx.clone());
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
            router.inboxes.reservations.poke_name(&name);
        }
        router.sharing.notified().await;
    }
}

/// Waits until each cache has been filled once: nothing is decided on half a picture.
async fn ready(stores: &Stores, mut listed: [tokio::sync::watch::Receiver<bool>; 2]) {
    let listed =
        listed.iter_mut().map(|listed| async { listed.wait_for(|listed| *listed).await.map(|_| ()) });
    let _ = tokio::join!(
        stores.nodes.wait_until_ready(),
        stores.disks.wait_until_ready(),
        stores.reservations.wait_until_ready(),
        stores.volumes.wait_until_ready(),
        stores.claims.wait_until_ready(),
        stores.subscriptions.wait_until_ready(),
        stores.offers.wait_until_ready(),
        stores.roles.wait_until_ready(),
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
        store: &Store<K>,
        inbox: UnboundedReceiver<ObjectRef<K>>,
        reconcile: F,
    ) -> BoxFuture<'static, ()>
    where
        K: Kind,
        F: Fn(Arc<K>, Arc<Context>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Result<Again, Error>> + Send + 'static,
    {
        let kind = K::kind(&()).into_owned();
        let (ctx, metrics) = (self.ctx.clone(), self.metrics.clone());
        let timed = move |object: Arc<K>, ctx: Arc<Context>| {
            let (reconcile, metrics, kind) = (reconcile.clone(), metrics.clone(), kind.clone());
            async move {
                if ctx.is_old(&*object) {
                    return Ok(Action::await_change());
                }
                let started = Instant::now();
                let name = object.name_any();
                let done = reconcile(object, ctx).await;
                metrics.reconciled(&kind, done.as_ref().err().map(Error::label), started.elapsed());
                match &done {
                    Ok(_) => {}
                    Err(Error::Cluster(ClusterError::Conflict(_))) => {
                        tracing::debug!(kind, name, "lost a race, looking again")
                    }
                    Err(error) => {
                        tracing::warn!(kind, name, error = telemetry::chain(error), "reconcile failed")
                    }
                }
                done.map(|again| again.map_or_else(Action::await_change, Action::requeue))
            }
        };
        let again = |_: Arc<K>, error: &Error, _: Arc<Context>| {
            Action::requeue(match error {
                // The version that was missed comes by the watch, and with it the next look. As long as the watch is
                // down, looking again does nothing but write in vain.
                Error::Cluster(ClusterError::Conflict(_)) => Duration::from_secs(1),
                Error::Cluster(_) => Duration::from_secs(2),
            })
        };
        // Everything that is there is looked at once; the store was filled before.
        let first: Vec<_> = store.state().iter().map(|o| cluster::named(&**o)).collect();
        Controller::for_stream(futures::stream::pending(), store.clone())
            .with_config(Config::default().concurrency(self.concurrency))
            .reconcile_on(futures::stream::iter(first).chain(UnboundedReceiverStream::new(inbox)))
            .run(timed, again, ctx)
            .for_each(|_| std::future::ready(()))
            .boxed()
    }
}
