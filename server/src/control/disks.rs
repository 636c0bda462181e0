//! Disks: list, create, clone, rename, resize.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use bough_radix::{DiskInfo, DiskName, Limits, LimitsChange, VersionName};

use super::attach;
use super::context::Control;
use super::error::ApiError;
use super::extract::{Body, Place};
use super::wire::{CloneDisks, CreateDisk, Rename, Resize};

pub async fn list(State(control): State<Arc<Control>>) -> Result<Json<Vec<DiskInfo>>, ApiError> {
    control.run(move |engine| async move { engine.list().await }).await.map(Json)
}

pub async fn create(
    State(control): State<Arc<Control>>,
    Body(request): Body<CreateDisk>,
) -> Result<(StatusCode, Json<DiskInfo>), ApiError> {
    let made = control.run(move |engine| async move {
        engine.create_disk(&request.name, request.size_bytes).await
    });
    Ok((StatusCode::CREATED, Json(made.await?)))
}

pub async fn clone_disks(
    State(control): State<Arc<Control>>,
    Body(request): Body<CloneDisks>,
) -> Result<(StatusCode, Json<Vec<DiskInfo>>), ApiError> {
    let made = control.run(move |engine| async move {
        engine.clone_disks(&request.source, &request.names).await
    });
    Ok((StatusCode::CREATED, Json(made.await?)))
}

pub async fn resize(
    State(control): State<Arc<Control>>,
    Place(disk): Place<DiskName>,
    Body(request): Body<Resize>,
) -> Result<Json<DiskInfo>, ApiError> {
    control.see_off(&disk).await;
    let resized = control.run(move |engine| async move {
        engine.resize(&disk, request.size_bytes, request.shrink).await
    });
    resized.await.map(Json)
}

/// The catalogue first; guests keep to it from then on.
pub async fn set_limits(
    State(control): State<Arc<Control>>,
    Place(disk): Place<DiskName>,
    Body(change): Body<LimitsChange>,
) -> Result<Json<DiskInfo>, ApiError> {
    let name = disk.clone();
    let set = control.run(move |engine| async move { engine.set_limits(&name, change).await });
    let Some(serving) = control.server() else { return set.await.map(Json) };
    let exports = serving.exports.lock().await;
    let info = set.await?;
    exports.limit(&disk, info.limits.unwrap_or(Limits::NONE));
    Ok(Json(info))
}

/// An attached disk's socket bears its name, so it moves along; front ends that are connected would
/// lose it, hence the refusal.
pub async fn rename(
    State(control): State<Arc<Control>>,
    Body(request): Body<Rename>,
) -> Result<StatusCode, ApiError> {
    let names = request.clone();
    let rename =
        control.run(move |engine| async move { engine.rename(&names.from, &names.to).await });
    match (&request.from, &request.to) {
        (VersionName::Head(from), VersionName::Head(to)) => {
            attach::moved(&control, from, to, rename).await?;
        }
        _ => rename.await?,
    }
    Ok(StatusCode::NO_CONTENT)
}
