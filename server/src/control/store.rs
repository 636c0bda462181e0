//! The store as a whole: server, status, grow, check, scrub.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use bough_radix::{CheckReport, DiskInfo, Progress, ScrubOptions, StoreStatus};

use super::context::{Control, Serving};
use super::error::ApiError;
use super::extract::Body;
use super::stream::{EventSender, events};
use super::wire::{DiskState, Grow, Scrub, ScrubEvent, ServerInfo, StatusReport};

pub async fn server(State(control): State<Arc<Control>>) -> Result<Json<ServerInfo>, ApiError> {
    control.server().map(|serving| Json(serving.tell())).ok_or(ApiError::NotServing)
}

pub async fn status(State(control): State<Arc<Control>>) -> Result<Json<StatusReport>, ApiError> {
    let (mut store, disks) =
        control
            .run(|engine| async move {
                Ok::<_, ApiError>((engine.status().await?, engine.list().await?))
            })
            .await?;
    store.warnings.extend(control.store().misplaced_blocks());
    let folder = control.store().folder();
    Ok(Json(StatusReport {
        server: control.server().map(Serving::tell),
        folder: folder.path().to_owned(),
        blocks: control.store().blocks().to_owned(),
        host_bytes: control.store().host_bytes(),
        store,
        disks: disks.into_iter().filter_map(|disk| disk_state(&control, disk)).collect(),
    }))
}

/// A disk that nobody can reach and nothing is wrong with is not worth a line.
fn disk_state(control: &Control, disk: DiskInfo) -> Option<DiskState> {
    let attached = disk.attachment.is_some();
    if !attached && disk.clients.is_empty() && disk.fault.is_none() {
        return None;
    }
    let waiting = control.server().and_then(|serving| serving.waiting.of(&disk.name));
    let socket = disk.name.parse().ok().filter(|_| attached).map(|name| control.socket_of(&name));
    let DiskInfo { name, clients, fault, .. } = disk;
    Some(DiskState { name, socket, clients, fault, waiting })
}

pub async fn grow(
    State(control): State<Arc<Control>>,
    Body(request): Body<Grow>,
) -> Result<Json<StoreStatus>, ApiError> {
    let grown = control.run(move |engine| async move { engine.grow(request.size_bytes).await });
    grown.await.map(Json)
}

pub async fn check(State(control): State<Arc<Control>>) -> Result<Json<CheckReport>, ApiError> {
    control.run(move |engine| async move { engine.check().await }).await.map(Json)
}

/// Progress is a line at most every hundredth of the way, then the report.
pub async fn scrub(
    State(control): State<Arc<Control>>,
    Body(request): Body<Scrub>,
) -> Result<Response, ApiError> {
    let options = ScrubOptions { bytes_per_second: request.bytes_per_second };
    Ok(events(&control, move |engine, sender: EventSender<ScrubEvent>| async move {
        let mut told_bytes = 0;
        let mut tell = |progress: Progress| {
            let Progress { done_bytes, total_bytes } = progress;
            if done_bytes >= told_bytes + total_bytes / 100 {
                told_bytes = done_bytes;
                sender.offer(ScrubEvent::Progress { done_bytes, total_bytes });
            }
        };
        let report = engine.scrub(options, &mut tell).await;
        let end = match report {
            Ok(report) => ScrubEvent::Report(report),
            Err(error) => ScrubEvent::Error(ApiError::from(error).detail()),
        };
        let _ = sender.send(end).await;
    }))
}
