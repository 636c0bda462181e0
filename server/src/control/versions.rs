//! Versions: tree, show, snapshot, seal, rollback, delete, diff.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use bough_blockstore::to_u64;
use bough_radix::{
    DeleteOptions, DeleteReport, DiskDetail, Engine, EngineError, RollbackReport, TreeNode,
    VersionInfo, VersionName,
};

use super::attach;
use super::context::Control;
use super::error::ApiError;
use super::extract::{Body, Params, Place};
use super::stream::{EventSender, Gone, events};
use super::wire::{Delete, DiffEvent, DiffQuery, RollBack, SetSealed, TakeSnapshots};

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
    control.see_off(&request.snapshot.disk).await;
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
    for name in &names {
        if let VersionName::Head(disk) = name {
            control.see_off(disk).await;
        }
    }
    let deletion = control.run(move |engine| async move {
        engine.delete(&names, DeleteOptions { recursive, dry_run }).await
    });
    if dry_run {
        return deletion.await.map(Json);
    }
    attach::deleted(&control, deletion).await.map(Json)
}

/// The answer is a line of JSON for every batch, so that neither side holds it whole.
pub async fn diff(
    State(control): State<Arc<Control>>,
    Params(query): Params<DiffQuery>,
) -> Result<Response, ApiError> {
    Ok(events(&control, move |engine, sender: EventSender<DiffEvent>| async move {
        let end = match tell_differences(&engine, &query, &sender).await {
            Ok(Ok(extent_count)) => DiffEvent::Done { extent_count },
            Ok(Err(Gone)) => return,
            Err(error) => DiffEvent::Error(ApiError::from(error).detail()),
        };
        let _ = sender.send(end).await;
    }))
}

/// Returns how many extents there were.
async fn tell_differences(
    engine: &Engine,
    query: &DiffQuery,
    sender: &EventSender<DiffEvent>,
) -> Result<Result<u64, Gone>, EngineError> {
    let mut differences = engine.diff(&query.from, &query.to).await?;
    let mut extent_count = 0;
    while let Some(batch) = differences.next().await? {
        extent_count += to_u64(batch.len());
        // An empty one too: a walk that finds little to tell of learns so that its client has gone.
        if sender.send(DiffEvent::Extents(batch)).await.is_err() {
            return Ok(Err(Gone));
        }
    }
    Ok(Ok(extent_count))
}
