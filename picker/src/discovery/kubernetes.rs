//! Kubernetes: the InferencePools of a cluster, of some namespaces, or one; followed by watches.

mod inventory;
mod object;
mod publish;
mod routes;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{iter, mem};

use crds::inference_pool::v1alpha2;
use crds::{
    InferenceModelRewrite, InferenceObjective, InferencePool, LegacyInferenceModelRewrite,
    LegacyInferenceObjective,
};
use futures::FutureExt;
use futures::future::join;
use futures::stream::{self, BoxStream, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1;
use kube::api::{ApiResource, DynamicObject};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Api, Client, Config, Resource};
use picker_core::route::PoolKey;
use picker_core::route::head::Sight;
use picker_core::view::objective::Objective;
use picker_core::view::rewrite::Rewrite;
use thiserror::Error;
use tokio::sync::watch as cell;
use tokio::time::sleep;
use tracing::info;

use self::inventory::{Change, Edition, Inventory, Wanted};
use self::object::{ObjectKey, Pod, Pool, Service};
use self::publish::{Desired, Publisher};
use self::routes::{KnownRoutes, RouteNote};
use self::watch::Watch;
use crate::driver::{Changes, Need, Pools};

/// The wait between news and acting on it: many changes come together, and each costs little if taken with others.
const SETTLE: Duration = Duration::from_millis(5);
/// The most changes that are taken together.
const BATCH_MAX: usize = 10_000;

/// Which pools are served, and which pods are looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The namespaces; every one if there are none.
    pub namespaces: BTreeSet<String>,
    /// This pool alone, in its namespace.
    pub pool: Option<PoolKey>,
    /// The pods of that pool, where no InferencePool says which they are.
    pub selected: Option<Selected>,
    /// Pools whose picker is a Service of one of these names; if there are none, of any.
    pub picker_services: BTreeSet<String>,
    /// Only pods with these labels are watched, in the form of `kubectl --selector`.
    pub pod_selector: Option<String>,
    /// The port of the listener for all pools.
    pub shared_port: u16,
    /// Whether the Services that pools name are kept, and who they lead to.
    pub publish: Option<Replicas>,
    /// Namespaces whose routes, Gateways and grants are read beside those of the namespaces that are served.
    pub route_namespaces: BTreeSet<String>,
    /// Where in the gateway the picker is called.
    pub sight: Sight,
}

/// Pods that are served without an InferencePool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    /// Their labels, in the form of `kubectl --selector`.
    pub labels: String,
    /// The ports of each that serve.
    pub ports: Vec<u16>,
}

/// The picker's own pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replicas {
    /// Their namespace.
    pub namespace: String,
    /// Their labels, in the form of `kubectl --selector`.
    pub selector: String,
}

/// Why the API server cannot be asked.
#[derive(Debug, Error)]
pub enum KubernetesError {
    /// The kubeconfig is wrong.
    #[error("--kubeconfig {0}: {1}")]
    Kubeconfig(PathBuf, kube::config::KubeconfigError),
    /// There is none, and this is no pod.
    #[error(
        "no pools: this is no pod of a cluster ({0}); give --endpoints FILE for model servers without Kubernetes, or --kubeconfig FILE"
    )]
    NotInCluster(kube::config::InClusterError),
    /// The client cannot be set up.
    #[error("the client of the API server: {0}")]
    Client(kube::Error),
}

/// The cluster whose pools are served.
pub struct Kubernetes {
    client: Client,
    scope: Scope,
}

/// Something that a watch told.
enum Note {
    Pod(Change<Pod>),
    Pool(Edition, Change<Pool>),
    Service(Change<Service>),
    Objective(Edition, Change<Objective>),
    Rewrite(Edition, Change<Rewrite>),
    Replica(Change<Pod>),
    Route(RouteNote),
}

impl Kubernetes {
    /// Sets up the client, by a kubeconfig or as a pod; the API server is not asked yet.
    ///
    /// # Errors
    /// [`KubernetesError`].
    pub async fn new(kubeconfig: Option<&Path>, mut scope: Scope) -> Result<Self, KubernetesError> {
        let config = match kubeconfig {
            Some(file) => {
                let wrong = |error| KubernetesError::Kubeconfig(file.to_owned(), error);
                let read = Kubeconfig::read_from(file).map_err(wrong)?;
                let options = KubeConfigOptions::default();
                let config = Config::from_custom_kubeconfig(read, &options).await;
                config.map_err(wrong)?
            }
            None => Config::incluster().map_err(KubernetesError::NotInCluster)?,
        };
        let client = Client::try_from(config).map_err(KubernetesError::Client)?;
        if let Some(pool) = &scope.pool {
            scope.namespaces = BTreeSet::from([pool.namespace.to_string()]);
        }
        Ok(Self { client, scope })
    }

    /// Announces every watch to the sources of `pools`, so that readiness waits for it, and follows them for ever.
    pub fn follow(self, pools: Arc<Pools>) -> impl Future<Output = ()> + Send {
        let mut inventory = Inventory::new(Wanted {
            pool: self.scope.pool.clone(),
            services: self.scope.picker_services.clone(),
            shared_port: self.scope.shared_port,
        });
        let mut notes = self.watches(&pools);
        let sight = self.scope.sight;
        let (desired, wanted) = cell::channel(Desired::default());
        let publisher = self.scope.publish.is_some().then(|| {
            let publisher = Publisher {
                client: self.client.clone(),
                namespaces: self.scope.namespaces.clone(),
                port: self.scope.shared_port,
                pools: pools.clone(),
            };
            publisher.begin();
            publisher
        });
        let discovery = async move {
            let mut replicas = BTreeMap::new();
            let mut routes = KnownRoutes::default();
            while let Some(note) = notes.next().await {
                sleep(SETTLE).await;
                let rest = (1..BATCH_MAX).map_while(|_| notes.next().now_or_never().flatten());
                for note in iter::once(note).chain(rest) {
                    match note {
                        Note::Replica(change) => note_replica(&mut replicas, change),
                        Note::Route(note) => routes.take(note),
                        other => inventory.take(other),
                    }
                }
                publish_pools(&pools, inventory.take_touched());
                if let Some(table) = routes.changed() {
                    pools.set_table(table, sight);
                }
                if desired.receiver_count() > 0 {
                    let now = Desired {
                        services: inventory.picker_services(),
                        replicas: replicas.values().copied().collect(),
                    };
                    desired.send_if_modified(|before| mem::replace(before, now) != *before);
                }
            }
        };
        async move {
            match publisher {
                Some(publisher) => drop(join(discovery, publisher.follow(wanted)).await),
                None => {
                    drop(wanted);
                    discovery.await;
                }
            }
        }
    }

    fn watches(&self, pools: &Arc<Pools>) -> BoxStream<'static, Note> {
        if let (Some(pool), Some(selected)) = (&self.scope.pool, &self.scope.selected) {
            return self.selected(pool, selected, pools);
        }
        let one_pool = watcher::Config {
            field_selector: self
                .scope
                .pool
                .as_ref()
                .map(|pool| format!("metadata.name={}", pool.name)),
            ..watcher::Config::default()
        };
        let pods = watcher::Config {
            label_selector: self.scope.pod_selector.clone(),
            ..watcher::Config::default()
        };
        let any = watcher::Config::default();
        let mut all: Vec<BoxStream<'static, Note>> = Vec::new();
        for namespace in self.places() {
            let begin = |need: Need, watch: &Watch<DynamicObject>| {
                pools.sources().begin(&watch.name, need);
            };
            let of_pools = Need::OneOf("pools");
            let watch = self.custom::<InferencePool>(namespace.as_ref(), &one_pool);
            begin(of_pools, &watch);
            let changes = watch.changes(Pool::of_v1, pools.clone());
            all.push(changes.map(|one| Note::Pool(Edition::Current, one)).boxed());
            let watch = self.custom::<v1alpha2::InferencePool>(namespace.as_ref(), &one_pool);
            begin(of_pools, &watch);
            let changes = watch.changes(Pool::of_v1alpha2, pools.clone());
            all.push(changes.map(|one| Note::Pool(Edition::Older, one)).boxed());
            all.extend(self.objectives_and_rewrites(namespace.as_ref(), pools));
            let watch = self.built_in::<v1::Pod>("Pod", namespace.as_ref(), &pods);
            pools.sources().begin(&watch.name, Need::Synced);
            all.push(watch.changes(Pod::of, pools.clone()).map(Note::Pod).boxed());
            let watch = self.built_in::<v1::Service>("Service", namespace.as_ref(), &any);
            pools.sources().begin(&watch.name, Need::Answered);
            all.push(
                watch
                    .changes(Service::of, pools.clone())
                    .map(Note::Service)
                    .boxed(),
            );
        }
        all.extend(self.replicas(pools));
        all.extend(self.route_watches(pools));
        stream::select_all(all).boxed()
    }

    /// What there is to know of pods that are served without an InferencePool: that pool, and its pods.
    fn selected(
        &self,
        pool: &PoolKey,
        selected: &Selected,
        pools: &Arc<Pools>,
    ) -> BoxStream<'static, Note> {
        let config = watcher::Config {
            label_selector: Some(selected.labels.clone()),
            ..watcher::Config::default()
        };
        let watch = self.built_in::<v1::Pod>("Pod", Some(&pool.namespace), &config);
        pools.sources().begin(&watch.name, Need::Synced);
        let pods = watch.changes(Pod::of, pools.clone());
        let pods = pods.map(|change| Note::Pod(change.map(Pod::selected)));
        let key = ObjectKey {
            namespace: pool.namespace.clone(),
            name: pool.name.clone(),
        };
        let pool = Change::Set(key, Pool::of_selected(selected.ports.clone()));
        let pool = stream::iter([Note::Pool(Edition::Current, pool)]);
        let replicas = stream::select_all(self.replicas(pools));
        stream::select(stream::select(pool, pods), replicas).boxed()
    }

    /// The watches of what decides how much requests matter, and which models they get.
    fn objectives_and_rewrites(
        &self,
        namespace: Option<&Arc<str>>,
        pools: &Arc<Pools>,
    ) -> [BoxStream<'static, Note>; 4] {
        let any = watcher::Config::default();
        let objectives = |watch: Watch<DynamicObject>, edition| {
            pools.sources().begin(&watch.name, Need::Answered);
            let changes = watch.changes(object::whole::<Objective>, pools.clone());
            changes
                .map(move |one| Note::Objective(edition, one))
                .boxed()
        };
        let rewrites = |watch: Watch<DynamicObject>, edition| {
            pools.sources().begin(&watch.name, Need::Answered);
            let changes = watch.changes(object::whole::<Rewrite>, pools.clone());
            changes.map(move |one| Note::Rewrite(edition, one)).boxed()
        };
        let (current, older) = (Edition::Current, Edition::Older);
        [
            objectives(self.custom::<InferenceObjective>(namespace, &any), current),
            objectives(
                self.custom::<LegacyInferenceObjective>(namespace, &any),
                older,
            ),
            rewrites(
                self.custom::<InferenceModelRewrite>(namespace, &any),
                current,
            ),
            rewrites(
                self.custom::<LegacyInferenceModelRewrite>(namespace, &any),
                older,
            ),
        ]
    }

    /// The watch of the picker's own pods, where Services are to lead to them.
    fn replicas(&self, pools: &Arc<Pools>) -> Option<BoxStream<'static, Note>> {
        let replicas = self.scope.publish.as_ref()?;
        let config = watcher::Config {
            label_selector: Some(replicas.selector.clone()),
            ..watcher::Config::default()
        };
        let namespace = replicas.namespace.as_str().into();
        let mut watch = self.built_in::<v1::Pod>("Pod", Some(&namespace), &config);
        watch.name = format!("replicas: {}", watch.name);
        pools.sources().begin(&watch.name, Need::Answered);
        let changes = watch.changes(Pod::of, pools.clone());
        Some(changes.map(Note::Replica).boxed())
    }

    /// The namespaces to be watched, or the one answer that every one is.
    fn places(&self) -> Vec<Option<Arc<str>>> {
        if self.scope.namespaces.is_empty() {
            return vec![None];
        }
        let names = self.scope.namespaces.iter();
        names.map(|name| Some(name.as_str().into())).collect()
    }

    /// A watch of custom resources, whose objects are read one by one.
    fn custom<K: Resource<DynamicType = ()>>(
        &self,
        namespace: Option<&Arc<str>>,
        config: &watcher::Config,
    ) -> Watch<DynamicObject> {
        let resource = ApiResource::erase::<K>(&());
        let api = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let kind = match &*resource.kind {
            "InferencePool" => "InferencePool",
            "InferenceObjective" => "InferenceObjective",
            _ => "InferenceModelRewrite",
        };
        let plural = format!("{}.{}", resource.plural, resource.group);
        watch_of(kind, &plural, api, namespace, config)
    }

    fn built_in<K>(
        &self,
        kind: &'static str,
        namespace: Option<&Arc<str>>,
        config: &watcher::Config,
    ) -> Watch<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let api = match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        watch_of(kind, &K::plural(&()), api, namespace, config)
    }
}

fn watch_of<K>(
    kind: &'static str,
    plural: &str,
    api: Api<K>,
    namespace: Option<&Arc<str>>,
    config: &watcher::Config,
) -> Watch<K> {
    let place = namespace.map_or("all namespaces".to_owned(), |one| {
        format!("namespace {one}")
    });
    Watch {
        name: format!("{plural} in {place}"),
        api,
        namespace: namespace.cloned(),
        config: config.clone(),
        kind,
        remedy: format!("grant get, list and watch on {plural} in {place}"),
    }
}

impl Inventory {
    fn take(&mut self, note: Note) {
        match note {
            Note::Pod(change) => self.on_pod(change),
            Note::Pool(edition, change) => self.on_pool(edition, change),
            Note::Service(change) => self.on_service(change),
            Note::Objective(edition, change) => self.on_objective(edition, change),
            Note::Rewrite(edition, change) => self.on_rewrite(edition, change),
            Note::Replica(_) | Note::Route(_) => {}
        }
    }
}

/// Makes the pools be as changes have left them.
fn publish_pools(pools: &Pools, touched: Changes) {
    for (pool, spec) in &touched {
        match spec {
            Some(spec) => info!(%pool, endpoints = spec.endpoints.len(), "served"),
            None => info!(%pool, "not served"),
        }
    }
    if !touched.is_empty() {
        pools.change(touched);
    }
}

/// Takes over a change of the picker's own pods: those that are ready, with their addresses.
fn note_replica(replicas: &mut BTreeMap<ObjectKey, IpAddr>, change: Change<Pod>) {
    match change {
        Change::Set(key, pod) => drop(replicas.insert(key, pod.ip)),
        Change::Gone(key) => drop(replicas.remove(&key)),
        Change::Only(_, keys) => replicas.retain(|key, _| keys.contains(key)),
    }
}
