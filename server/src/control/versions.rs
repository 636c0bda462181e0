//! Versions: tree, show, snapshot, seal, rollback, delete, diff.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use bough_radix::{
    DeleteOptions, DeleteReport, DiskDetail, RollbackReport, TreeNode, VersionInfo, VersionName,
};

use super::attach;
use super::context::Control;
use super::error::ApiError;
use super::extract::{Body, Params, Place};
use super::stream::{EventSender, events};
use super::wire::{Delete, DiffEvent, DiffQuery, RollBack, SetSealed, TakeSnapshots};

/// Extents that travel in one line.
const DIFF_BATCH: usize = 4096;

pub async fn tree(State(control): State<Arc<Control>>) -> Result<Json<Vec<TreeNode>>, ApiError> {
    control.run(move |engine| async move { engine.tree().await }).await.map(Json)
}

pub async fn show(
    State(control): State<Arc<Control>>,
    Place(version): Place<VersionName>,
) -> Result<Json<DiskDetail>, ApiError> {
    control.run(move |engine| async move { engine.show(&version).await }).await.map(Json)
}

pub async fn snapshot(
    State(control): State<Arc<Control>>,
    Body(request): Body<TakeSnapshots>,
) -> Result<(StatusCode, Json<Vec<VersionInfo>>), ApiError> {
    let taken =
        control.run(move |engine| async move { engine.snapshot(&request.names).await }).await?;
    Ok((StatusCode::CREATED, Json(taken)))
}

pub async fn seal(
    State(control): State<Arc<Control>>,
    Body(request): Body<SetSealed>,
) -> Result<Json<VersionInfo>, ApiError> {
    let sealed = control.run(move |engine| async move {
        engine.set_sealed(&request.snapshot, request.sealed).await
    });
    sealed.await.map(Json)
}

pub async fn rollback(
    State(control): State<Arc<Control>>,
    Body(request): Body<RollBack>,
) -> Result<Json<RollbackReport>, ApiError> {
    let done = control.run(move |engine| async move {
        engine.rollback(&request.snapshot, request.dry_run).await
    });
    done.await.map(Json)
}

pub async fn delete(
    State(control): State<Arc<Control>>,
    Body(request): Body<Delete>,
) -> Result<Json<DeleteReport>, ApiError> {
    let Delete { names, recursive, dry_run } = request;
    let deletion = control.run(move |engine| async move {
        engine.delete(&names, DeleteOptions { recursive, dry_run }).await
    });
    if dry_run {
        return deletion.await.map(Json);
    }
    attach::deleted(&control, deletion).await.map(Json)
}

/// The answer is a line of JSON every [`DIFF_BATCH`] extents, so that neither side holds it whole.
pub async fn diff(
    State(control): State<Arc<Control>>,
    Params(query): Params<DiffQuery>,
) -> Result<Response, ApiError> {
    Ok(events(&control, move |engine, mut sender: EventSender<DiffEvent>| async move {
        let (mut batch, mut extent_count) = (Vec::new(), 0);
        let mut visit = |extent| {
            batch.push(extent);
            extent_count += 1;
            if batch.len() == DIFF_BATCH {
                sender.push(DiffEvent::Extents(std::mem::take(&mut batch)));
            }
        };
        let walked = engine.diff(&query.from, &query.to, &mut visit).await;
        if !batch.is_empty() {
            sender.push(DiffEvent::Extents(batch));
        }
        sender.push(match walked {
            Ok(()) => DiffEvent::Done { extent_count },
            Err(error) => DiffEvent::Error(ApiError::from(error).detail()),
        });
    }))
}
