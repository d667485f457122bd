//! What is counted. Labels have few values: kinds, methods, outcomes; never names of objects.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

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

/// The metrics of a process.
pub struct Metrics {
    registry: Registry,
    reconciles: Family<KindOutcome, Counter>,
    reconcile_seconds: Family<Kind, Histogram>,
    calls: Family<MethodCode, Counter>,
    call_seconds: Family<Method, Histogram>,
}

fn histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 4.0, 8))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("reservoir");
        let reconciles = Family::default();
        let reconcile_seconds = Family::new_with_constructor(histogram as fn() -> Histogram);
        let calls = Family::default();
        let call_seconds = Family::new_with_constructor(histogram as fn() -> Histogram);
        registry.register("reconciles", "Reconciles by kind and outcome", reconciles.clone());
        registry.register_with_unit(
            "reconcile",
            "Duration of reconciles",
            Unit::Seconds,
            reconcile_seconds.clone(),
        );
        registry.register("csi_calls", "CSI calls by method and gRPC code", calls.clone());
        registry.register_with_unit("csi_call", "Duration of CSI calls", Unit::Seconds, call_seconds.clone());
        Self { registry, reconciles, reconcile_seconds, calls, call_seconds }
    }
}

impl Metrics {
    /// Counts a reconcile; `error` names what went wrong.
    pub fn reconciled(&self, kind: &str, error: Option<&str>, took: Duration) {
        let outcome = error.unwrap_or("Ok").to_owned();
        self.reconciles.get_or_create(&KindOutcome { kind: kind.to_owned(), outcome }).inc();
        self.reconcile_seconds.get_or_create(&Kind { kind: kind.to_owned() }).observe(took.as_secs_f64());
    }

    /// The text that Prometheus scrapes.
    pub fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# {error}\n"),
        }
    }
}

impl crate::csi::Observer for Metrics {
    fn finished(&self, method: &'static str, code: tonic::Code, took: Duration) {
        let labels = MethodCode { method: method.to_owned(), code: format!("{code:?}") };
        self.calls.get_or_create(&labels).inc();
        self.call_seconds.get_or_create(&Method { method: method.to_owned() }).observe(took.as_secs_f64());
    }
}
