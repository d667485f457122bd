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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::Observer;

    #[test]
    fn t3_what_was_done_is_counted_by_outcome_and_timed() {
        let metrics = Metrics::default();
        for error in [None, None, Some("Conflict")] {
            metrics.reconciled("VolumeClaim", error, Duration::from_millis(5));
        }
        metrics.finished("NodePublishVolume", tonic::Code::Ok, Duration::from_secs(1));
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
}
