//! Gauges that are computed at each scrape.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

/// A source of gauges. No value is kept between scrapes.
pub trait View: Send + Sync + 'static {
    /// Writes the present gauges. The caller is on a thread that may block.
    fn report(&self, to: &mut Sink<'_>);
}

/// Takes the gauges of a [`View`].
pub struct Sink<'a> {
    encoder: DescriptorEncoder<'a>,
    written: fmt::Result,
}

impl Sink<'_> {
    /// Writes a gauge with a value for each set of labels. The name ends with the unit.
    pub fn gauge<'s, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = ([(&'static str, &'s str); N], f64)>,
    ) {
        if self.written.is_ok() {
            self.written = self.write(name, help, series);
        }
    }

    fn write<'s, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = ([(&'static str, &'s str); N], f64)>,
    ) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in series {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }
}

/// The view of a process, held weakly: a controller that loses its lease drops the view.
#[derive(Clone, Default)]
pub(super) struct Shown(Arc<Mutex<Option<Weak<dyn View>>>>);

impl Shown {
    pub(super) fn set(&self, view: Weak<dyn View>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(view);
    }

    fn get(&self) -> Option<Arc<dyn View>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.upgrade()
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl Collector for Shown {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut sink = Sink { encoder, written: Ok(()) };
        if let Some(view) = self.get() {
            view.report(&mut sink);
        }
        sink.written
    }
}
