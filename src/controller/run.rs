//! Runs the controller: connects the caches to the routes, and the work queues to the reconciles.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all, select_all};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};

use crate::api::condition::reason;
use crate::api::{LABEL_MANAGED_BY, MANAGED_BY};
use crate::cluster::{
    CONTROLLER, Cache, CacheConfig, Change, Enqueued, Events, Kind, Name, PodUse, Pvc, WorkQueue, cache,
    named, run_workers,
};
use crate::plan::debounce::DEBOUNCE;
use crate::plan::tenant;
use crate::plan::transition::LASTING;
use crate::telemetry::Metrics;

use super::context::Context;
use super::routes::{GATHERING, Router, WorkQueues};
use super::stores::{
    AgentPod, Stores, claim_keys, disk_keys, offer_keys, reservation_keys, trim_claim, trim_disk, trim_node,
    trim_volume, volume_keys,
};
use super::{
    Again, Error, claim, disk, left_pvs, node_labels, pvc_provisioner, reservation, role, storage_capacity,
    subscription, volume,
};

/// The controller's options.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of this instance in events: the name of the pod.
    pub identity: String,
    /// The namespace of the controller.
    pub namespace: String,
    /// Deletes pods that are older than their ReadOnly claim where a node refuses them, and whose controllers make them
    /// again (F2).
    pub replaces_pods: bool,
    /// Takes the startup taint off nodes whose agent serves (F7).
    pub untaints_nodes: bool,
    /// Labels the nodes with a complete copy of a volume (E3).
    pub labels_nodes: bool,
    /// The most objects of one kind that are reconciled at once.
    pub concurrency: u16,
    /// Selects the agents' pods in that namespace by labels; `None` if agents run without pods.
    pub agents: Option<String>,
    /// The period in which each object is reconciled once more, in case the event that should have caused it was lost.
    pub look_again: Duration,
    /// False: changes enqueue nothing, as if each of their events were lost. For tests.
    pub wake: bool,
    /// The clock. Clocks order and delay, and decide no safety rule, so the simulation sets each one as it likes.
    pub now: fn() -> Timestamp,
}

/// The period in which a lost event is made up for. A pass reads caches, and writes nothing of what is at rest.
pub const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// The number of parts in which a pass over all objects is made, so that a pass is no burst.
const PARTS: u32 = 60;

/// Runs the controller until dropped.
pub async fn run(client: Client, options: Options, metrics: Arc<Metrics>) {
    let (disks, disks_in) = WorkQueue::new();
    let (reservations, reservations_in) = WorkQueue::new();
    let (volumes, volumes_in) = WorkQueue::new();
    let (claims, claims_in) = WorkQueue::new();
    // Simultaneous changes become one write of an offer.
    let (subscriptions, subscriptions_in) = WorkQueue::gathering(GATHERING);
    let (roles, roles_in) = WorkQueue::new();
    let (classes, classes_in) = WorkQueue::gathering(GATHERING);
    let (pvcs, pvcs_in) = WorkQueue::new();
    let (nodes, nodes_in) = WorkQueue::gathering(GATHERING);
    let queues =
        WorkQueues { disks, reservations, volumes, claims, subscriptions, roles, classes, pvcs, nodes };
    let (router, wake) = (Router::new(queues), options.wake);
    let mut tasks: Vec<BoxFuture<'static, ()>> = Vec::new();
    macro_rules! cached {
        ($config:expr, $route:expr, $how:expr) => {{
            let (changes, everything) = (router.clone(), router.clone());
            let route: fn(&Router, &_, &Change<_>) = $route;
            let changed = move |change: Change<_>| {
                // Every object is enqueued once all caches are filled, and again after each list. So earlier changes,
                // and unchanged objects of a list, are ignored here.
                let started = wake && changes.ctx.get().is_some();
                let version = |object: Option<&_>| object.and_then(ResourceExt::resource_version);
                let is_known = change.now.is_some() && version(change.before) == version(change.now);
                if let (Some(ctx), Some(gone), None) = (changes.ctx.get(), change.before, change.now) {
                    ctx.events.forget(gone);
                }
                let news = change.latest().filter(|_| started && !is_known);
                news.into_iter().for_each(|object| route(&changes, object, &change));
            };
            let api = Api::all(client.clone());
            let listed = move || {
                if wake {
                    everything.everything();
                }
            };
            let (cache, task) = cache(api, $config, $how, changed, listed);
            tasks.push(task);
            cache
        }};
    }
    let all = watcher::Config::default();
    let ours = all.clone().labels(&format!("{LABEL_MANAGED_BY}={MANAGED_BY}"));
    let to = router.clone();
    let changed = move |change: Change<_>| {
        let nodes = PodUse::nodes(&change);
        PodUse::concerned(change).filter(|_| wake).for_each(|claim| to.pod(claim, &nodes));
    };
    let (pods, task) = cache(Api::all(client.clone()), all.clone(), PodUse::config(), changed, || {});
    tasks.push(task);
    let to = router.clone();
    let changed = move |change: Change<_>| {
        if wake && Pvc::matters(&change) {
            let after = if Pvc::is_being_bound(&change) { DEBOUNCE } else { Duration::ZERO };
            to.pvc(change.name, Pvc::is_gone(&change), after);
        }
    };
    let (pvcs, task) = cache(Api::all(client.clone()), all.clone(), Pvc::config(), changed, || {});
    tasks.push(task);
    let agents = options.agents.map(|selector| {
        let to = router.clone();
        let changed = move |change: Change<_>| to.agent(&change);
        let api: Api<Pod> = Api::namespaced(client.clone(), &options.namespace);
        let (agents, task) = cache(api, all.clone().labels(&selector), AgentPod::config(), changed, || {});
        tasks.push(task);
        agents
    });
    let stores = Stores {
        nodes: cached!(all.clone(), Router::node, CacheConfig { keep: trim_node, ..Default::default() }),
        disks: cached!(all.clone(), Router::disk, CacheConfig { keep: trim_disk, keys: disk_keys }),
        reservations: cached!(
            all.clone(),
            |to, reservation, change| to.reservation(reservation, change),
            CacheConfig { keys: reservation_keys, ..Default::default() }
        ),
        volumes: cached!(all.clone(), Router::volume, CacheConfig { keep: trim_volume, keys: volume_keys }),
        claims: cached!(all.clone(), Router::claim, CacheConfig { keep: trim_claim, keys: claim_keys }),
        subscriptions: cached!(all.clone(), Router::subscription, CacheConfig::default()),
        offers: cached!(
            all.clone(),
            |to, offer, _| to.offer(offer),
            CacheConfig { keys: offer_keys, ..Default::default() }
        ),
        roles: cached!(all.clone(), |to, role, change| to.role(role, change), CacheConfig::default()),
        classes: cached!(all, |to, class, _| to.class(class), CacheConfig::default()),
        capacities: cached!(
            ours,
            |to, capacity, change| to.capacity(capacity, change),
            CacheConfig::default()
        ),
        pvcs,
        pods,
        agents,
    };
    let events = Events::new(client.clone(), CONTROLLER, &options.identity);
    let (share, turn, user, batchers, replaced, crowding, postponed, recounts, silence) = Default::default();
    let counters = metrics.clone();
    let ctx = Context {
        client,
        namespace: options.namespace,
        replaces_pods: options.replaces_pods,
        untaints_nodes: options.untaints_nodes,
        labels_nodes: options.labels_nodes,
        stores,
        events,
        share,
        turn,
        user,
        batchers,
        replaced,
        crowding,
        postponed,
        recounts,
        silence,
        metrics: counters,
        now: options.now,
    };
    let ctx = Arc::new(ctx);
    metrics.show(&ctx);

    let running = Running { ctx: ctx.clone(), metrics, concurrency: options.concurrency };
    let work = async {
        ready(&ctx.stores).await;
        let _ = router.ctx.set(ctx.clone());
        router.everything();
        let stores = &ctx.stores;
        let role = |role: &str| Name::from(tenant::of_role(role));
        let all: Vec<BoxFuture<()>> = vec![
            share_out(ctx.clone(), router.clone()).boxed(),
            sweep(router.clone()).boxed(),
            async { left_pvs::remove_repeatedly(&running.ctx).await }.boxed(),
            look_again(router.clone(), options.look_again).boxed(),
            running.controller(&stores.disks, disks_in, named, |disk, c| async move {
                disk::reconcile(disk, &c).await
            }),
            running.controller(
                &stores.reservations,
                reservations_in,
                move |r| role(&r.spec.role),
                |o, c| async move { reservation::reconcile(o, &c).await },
            ),
            running.controller(
                &stores.volumes,
                volumes_in,
                |volume| tenant::of_volume(volume).into(),
                |o, c| async move { volume::reconcile(o, &c).await },
            ),
            running.controller(&stores.claims, claims_in, namespace, |o, c| async move {
                claim::reconcile(o, &c).await
            }),
            running.controller(&stores.subscriptions, subscriptions_in, namespace, |o, c| async move {
                subscription::reconcile(o, &c).await
            }),
            running.controller(
                &stores.roles,
                roles_in,
                move |r| role(&r.spec.role),
                |o, c| async move { role::reconcile(o, &c).await.map(|()| None) },
            ),
            running.controller(&stores.classes, classes_in, named, |o, c| async move {
                storage_capacity::reconcile(o, &c).await
            }),
            running.controller(&stores.nodes, nodes_in, named, |node, c| async move {
                node_labels::reconcile(node, &c).await
            }),
            running.named::<PersistentVolumeClaim, _, _>(
                pvcs_in,
                |name| name.split('/').next().unwrap_or_default().into(),
                |name, c| async move { pvc_provisioner::reconcile(name, &c).await },
            ),
        ];
        join_all(all).await;
    };
    tokio::select! {
        biased;
        () = work => {}
        _ = select_all(tasks.into_iter().map(tokio::spawn).map(AbortOnDrop)) => {}
    }
}

/// Repeats the sharing out after each change of its input, and when a turn ends (Q5). Enqueues the reservations whose
/// outcome has changed.
async fn share_out(ctx: Arc<Context>, router: Router) {
    loop {
        let (names, until_a_turn_ends) = ctx.share.renew(&ctx.stores, (ctx.now)());
        for name in names {
            router.queues.reservations.enqueue_name(name);
        }
        let _ = tokio::time::timeout(until_a_turn_ends, router.sharing.notified()).await;
    }
}

/// Sweeps after each change that waiting claims may depend on, with a pause after each sweep.
async fn sweep(router: Router) {
    loop {
        router.sweeping.notified().await;
        router.sweep_now();
        tokio::time::sleep(GATHERING).await;
    }
}

/// Reconciles each object once in each period. So a state that waits ends also where no event enqueued its object.
async fn look_again(router: Router, every: Duration) {
    for part in (0..PARTS).cycle() {
        tokio::time::sleep(every / PARTS).await;
        router.look_at(part, PARTS);
    }
}

/// Waits until each cache has been filled once: a decision on a partial list would be wrong.
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
        async {
            if let Some(agents) = &stores.agents {
                agents.wait_until_filled().await;
            }
        },
    );
    tracing::info!("caches are filled");
}

/// A task that is aborted when this guard is dropped.
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
    /// Reconciles the objects in the cache. Tenants take turns; `tenant` returns the namespace or role of an object.
    fn controller<K, F, R>(
        &self,
        cache: &Arc<Cache<K>>,
        names: Enqueued,
        tenant: impl Fn(&K) -> Name + Send + Sync + 'static,
        reconcile: F,
    ) -> BoxFuture<'static, ()>
    where
        K: Kind,
        F: Fn(Arc<K>, Arc<Context>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Result<Again, Error>> + Send + 'static,
    {
        let (cache, objects) = (cache.clone(), cache.clone());
        // An object that is gone uses no tenant's turn.
        let tenant =
            move |name: &Name| objects.get(name).map_or_else(|| name.clone(), |object| tenant(&object));
        self.named::<K, _, _>(names, tenant, move |name, ctx| {
            let object = cache.get(&name).filter(|object| !ctx.is_old(&**object));
            let reconcile = reconcile.clone();
            async move {
                let Some(object) = object else { return Ok(None) };
                let done = reconcile(object.clone(), ctx.clone()).await;
                match done.as_ref().map_err(Error::refusal) {
                    Ok(_) => ctx.events.settle(&*object, reason::REFUSED),
                    Err(None) => {}
                    Err(Some(why)) => {
                        let warning = ("Reconcile", reason::REFUSED, why.as_str());
                        ctx.events.warn_if_it_lasts(&*object, reason::REFUSED, warning, LASTING);
                    }
                }
                done
            }
        })
    }

    /// Same as [`Self::controller`], for names that need no object in a cache.
    fn named<K, F, R>(
        &self,
        names: Enqueued,
        tenant: impl Fn(&Name) -> Name + Send + Sync + 'static,
        reconcile: F,
    ) -> BoxFuture<'static, ()>
    where
        K: Kind,
        F: Fn(Name, Arc<Context>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Result<Again, Error>> + Send + 'static,
    {
        let (ctx, metrics, at_once) = (self.ctx.clone(), self.metrics.clone(), self.concurrency);
        let reconcile = move |name| reconcile(name, ctx.clone());
        async move { run_workers::<K, _>(names, at_once, metrics, tenant, reconcile).await }.boxed()
    }
}

/// The namespace of an object.
fn namespace<K: Kind>(object: &K) -> Name {
    object.namespace().unwrap_or_default().into()
}
