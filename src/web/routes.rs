//! The routes:
//! ```text
//! GET /            the landing page, for people; with ?all every service
//! GET /metrics     the metrics (or the path of --web.telemetry-path)
//! GET /-/healthy   200 while the process lives
//! GET /-/ready     200 once scrapes are answered
//! ```

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use tower_http::{CompressionLevel, compression::CompressionLayer, timeout::TimeoutLayer};
use tracing::error;

use super::{accept::Format, landing};
use crate::{exporter::Exporter, metrics};

/// Prometheus gives up after as long by default.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// The routes, with a time-out and compression around each.
pub fn router(exporter: Arc<Exporter>, telemetry_path: &str) -> Router {
    let path: Arc<str> = telemetry_path.into();
    Router::new()
        .route("/", get(|State(exporter), RawQuery(query)| show_landing(exporter, path, query)))
        .route(telemetry_path, get(show_metrics))
        .route("/-/healthy", get(|| async { "Healthy.\n" }))
        .route("/-/ready", get(|| async { "Ready.\n" }))
        .fallback(|| async { (StatusCode::NOT_FOUND, "There is nothing here; the landing page is at /.\n") })
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, REQUEST_TIME))
        // The page shrinks to a tenth even so, and a scrape is to cost little.
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest))
        .with_state(exporter)
}

async fn show_metrics(State(exporter): State<Arc<Exporter>>, headers: HeaderMap) -> Response {
    let page = exporter.read().await.page();
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (content_type, text) = match Format::choose(accept) {
        Format::OpenMetrics => (metrics::OPENMETRICS, page.openmetrics()),
        Format::Classic => (metrics::CLASSIC, page.classic()),
    };
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))], text).into_response(),
        Err(error) => {
            error!(%error, "the page of metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn show_landing(
    exporter: Arc<Exporter>,
    telemetry_path: Arc<str>,
    query: Option<String>,
) -> Html<String> {
    Html(landing::page(&*exporter.read().await, &telemetry_path, query.as_deref() == Some("all")))
}
