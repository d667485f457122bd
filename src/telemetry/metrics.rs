//! Counters and histograms. Label values are few: kinds, methods and outcomes, but never names of objects. A [`View`]
//! adds gauges at each scrape. `docs/metrics.md` lists all metrics.

use std::sync::{Arc, Weak};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::view::{Shown, View};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindOutcome {
    kind: String,
    outcome: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodCode {
    method: String,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationOutcome {
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// A family without labels. A scrape shows the family only after its first value.
type NoLabels = [(&'static str, &'static str); 0];

/// The metrics of a process.
pub struct Metrics {
    registry: Registry,
    shown: Shown,
    leading: Family<NoLabels, Gauge>,
    destroys: Family<Outcome, Counter>,
    operations: Family<OperationOutcome, Counter>,
    operation_seconds: Family<Operation, Histogram>,
    reconciles: Family<KindOutcome, Counter>,
    reconcile_seconds: Family<Kind, Histogram>,
    calls: Family<MethodCode, Counter>,
    call_seconds: Family<Method, Histogram>,
}

/// Buckets from a millisecond to four minutes.
fn histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 4.0, 10))
}

fn histograms<L: Clone + std::hash::Hash + Eq>() -> Family<L, Histogram> {
    Family::new_with_constructor(histogram as fn() -> Histogram)
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("reservoir");
        registry.register(
            "build",
            "The version that runs",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        let leading = Family::default();
        registry.register(
            "leader",
            "1 in the controller that works, 0 in those that stand by",
            leading.clone(),
        );
        let (reconciles, reconcile_seconds) = (Family::default(), histograms());
        registry.register("reconciles", "Reconciles by kind and outcome", reconciles.clone());
        registry.register_with_unit(
            "reconcile",
            "Duration of reconciles",
            Unit::Seconds,
            reconcile_seconds.clone(),
        );
        let destroys = Family::default();
        registry.register("destroys", "Accepted destructions, by outcome", destroys.clone());
        let (operations, operation_seconds) = (Family::default(), histograms());
        registry.register(
            "node_operations",
            "Operations on the node's disks, by outcome",
            operations.clone(),
        );
        registry.register_with_unit(
            "node_operation",
            "Duration of operations on the node's disks",
            Unit::Seconds,
            operation_seconds.clone(),
        );
        let (calls, call_seconds) = (Family::default(), histograms());
        registry.register("csi_calls", "CSI calls by method and gRPC code", calls.clone());
        registry.register_with_unit("csi_call", "Duration of CSI calls", Unit::Seconds, call_seconds.clone());
        let shown = Shown::default();
        registry.register_collector(Box::new(shown.clone()));
        Self {
            registry,
            shown,
            leading,
            destroys,
            operations,
            operation_seconds,
            reconciles,
            reconcile_seconds,
            calls,
            call_seconds,
        }
    }
}

impl Metrics {
    /// Counts a reconcile; `error` is the label of its failure.
    pub fn reconciled(&self, kind: &str, error: Option<&str>, took: Duration) {
        let outcome = error.unwrap_or("Ok").to_owned();
        self.reconciles.get_or_create(&KindOutcome { kind: kind.to_owned(), outcome }).inc();
        self.reconcile_seconds.get_or_create(&Kind { kind: kind.to_owned() }).observe(took.as_secs_f64());
    }

    /// Counts an operation on the node's disks; `error` is the label of its failure.
    pub fn operated(&self, operation: &'static str, error: Option<&'static str>, took: Duration) {
        let outcome = error.unwrap_or("Ok");
        self.operations.get_or_create(&OperationOutcome { operation, outcome }).inc();
        self.operation_seconds.get_or_create(&Operation { operation }).observe(took.as_secs_f64());
    }

    /// Counts a call of the kubelet, by its method and gRPC code.
    pub fn csi_called(&self, method: &'static str, code: &str, took: Duration) {
        let labels = MethodCode { method: method.to_owned(), code: code.to_owned() };
        self.calls.get_or_create(&labels).inc();
        self.call_seconds.get_or_create(&Method { method: method.to_owned() }).observe(took.as_secs_f64());
    }

    /// Counts an accepted destruction by its outcome.
    pub fn destroyed(&self, outcome: &'static str) {
        self.destroys.get_or_create(&Outcome { outcome }).inc();
    }

    /// Sets the leader gauge to 1 until the guard is dropped.
    pub fn lead(self: &Arc<Self>) -> Leading {
        self.leading.get_or_create(&[]).set(1);
        Leading(self.clone())
    }

    /// Sets the leader gauge to 0: this process takes part in the election and does not lead.
    pub fn stand_by(&self) {
        self.leading.get_or_create(&[]).set(0);
    }

    /// Replaces the view whose gauges are part of each scrape. Dropping the view removes its gauges.
    pub fn show<V: View>(&self, view: &Arc<V>) {
        let view: Weak<V> = Arc::downgrade(view);
        self.shown.set(view);
    }

    /// The text that Prometheus scrapes. Gathering the text may block, so call this on a thread that may block.
    pub fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# {error}\n"),
        }
    }
}

/// Guard of [`Metrics::lead`].
pub struct Leading(Arc<Metrics>);

impl Drop for Leading {
    fn drop(&mut self) {
        self.0.stand_by();
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::Sink;
    use super::*;

    #[test]
    fn t3_reconciles_and_calls_are_counted_by_outcome_and_timed() {
        let metrics = Metrics::default();
        for error in [None, None, Some("Conflict")] {
            metrics.reconciled("VolumeClaim", error, Duration::from_millis(5));
        }
        metrics.csi_called("NodePublishVolume", "Ok", Duration::from_secs(1));
        let text = metrics.text();
        for line in [
            "reservoir_reconciles_total{kind=\"VolumeClaim\",outcome=\"Ok\"} 2",
            "reservoir_reconciles_total{kind=\"VolumeClaim\",outcome=\"Conflict\"} 1",
            "reservoir_reconcile_seconds_count{kind=\"VolumeClaim\"} 3",
            "reservoir_csi_calls_total{method=\"NodePublishVolume\",code=\"Ok\"} 1",
            "reservoir_csi_call_seconds_count{method=\"NodePublishVolume\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }

    struct OneDisk(f64);

    impl View for OneDisk {
        fn report(&self, to: &mut Sink<'_>) {
            to.gauge("disk_capacity_bytes", "Size", [([("disk", "n1.a\"b")], self.0)]);
        }
    }

    #[test]
    fn t3_a_view_is_scraped_until_it_is_dropped() {
        let metrics = Arc::new(Metrics::default());
        let scraped = |line: &str| metrics.text().lines().any(|found| found == line);
        assert!(!metrics.text().contains("reservoir_leader{"), "an agent is in no election");
        metrics.stand_by();
        assert!(scraped("reservoir_leader{} 0"));
        let (leading, view) = (metrics.lead(), Arc::new(OneDisk(1024.0)));
        metrics.show(&view);
        assert!(scraped("reservoir_leader{} 1"));
        assert!(scraped("reservoir_disk_capacity_bytes{disk=\"n1.a\\\"b\"} 1024.0"), "{}", metrics.text());
        drop((leading, view));
        assert!(scraped("reservoir_leader{} 0"));
        assert!(!metrics.text().contains("disk_capacity"));
    }
}
