//! `/metrics`, `/healthz` and `/readyz`.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;

use super::metrics::Metrics;

/// Serves until `stop` resolves. `is_ready` decides the answer of `/readyz`.
pub async fn serve(
    address: SocketAddr,
    metrics: Arc<Metrics>,
    is_ready: impl Fn() -> bool + Clone + Send + Sync + 'static,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let text = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let ready = move || {
        let status = if is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        async move { status }
    };
    let scrape = move || async move {
        // A scrape reads all caches and would block this thread.
        let gathered = tokio::task::spawn_blocking(move || metrics.text()).await;
        gathered
            .map(|gathered| ([(header::CONTENT_TYPE, text)], gathered))
            .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
    };
    let app = Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(|| async { StatusCode::OK }))
        .route("/readyz", get(ready));
    let listener = tokio::net::TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "serving metrics");
    axum::serve(listener, app).with_graceful_shutdown(stop).await
}
