//! What guests ask for: as JSON, and as text for Prometheus.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use bough_blockstore::{Runtime, UringRuntime};
use bough_radix::StoreStatus;

use super::context::{Control, Serving};
use super::error::ApiError;
use super::router::{no_such_method, no_such_path};
use crate::metrics::{
    Activity, CacheActivity, DiskActivity, EXPOSITION_MEDIA_TYPE, Facts, exposition,
};

/// All that there is on the port for metrics.
pub fn metrics_router(control: Arc<Control>) -> Router {
    let router = Router::new().route("/metrics", get(metrics)).fallback(no_such_path);
    router.method_not_allowed_fallback(no_such_method).with_state(control)
}

pub async fn activity(State(control): State<Arc<Control>>) -> Result<Json<Activity>, ApiError> {
    let serving = control.server().ok_or(ApiError::NotServing)?;
    let store = status(&control).await?;
    Ok(Json(activity_of(serving, &store)))
}

pub async fn metrics(State(control): State<Arc<Control>>) -> Result<impl IntoResponse, ApiError> {
    let serving = control.server().ok_or(ApiError::NotServing)?;
    let store = status(&control).await?;
    let activity = activity_of(serving, &store);
    let (version, started_unix) = (serving.info.version.clone(), serving.info.started_unix);
    let text = exposition(Facts { version, started_unix, store, activity });
    let text = text.map_err(|_| ApiError::Stopping)?;
    Ok(([(header::CONTENT_TYPE, EXPOSITION_MEDIA_TYPE)], text))
}

async fn status(control: &Control) -> Result<StoreStatus, ApiError> {
    control.run(|engine| async move { engine.status().await }).await
}

fn activity_of(serving: &Serving, store: &StoreStatus) -> Activity {
    let waiting = |disk: DiskActivity| {
        let waiting = serving.waiting.of(&disk.name).map_or(0, |waiting| waiting.requests);
        DiskActivity { waiting, ..disk }
    };
    Activity {
        at_ns: u64::try_from(UringRuntime.now().as_nanos()).unwrap_or(u64::MAX),
        cache: CacheActivity {
            held_bytes: store.cache_bytes,
            budget_bytes: store.cache_budget_bytes,
            hits: store.cache_hits,
            misses: store.cache_misses,
        },
        disks: serving.meters.read().into_iter().map(waiting).collect(),
    }
}
