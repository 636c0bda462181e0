//! Attachments: which disks front ends can reach, and what renaming and deleting does to that.
//!
//! Invariant: with a server, a disk has a socket exactly if the catalogue has its attachment; both change
//! under the lock of the table of exports.

use std::future::Future;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use bough_radix::{Attachment, DeleteReport, DiskName, EngineError, VersionName};
use serde::Deserialize;

use super::context::{Control, Serving};
use super::error::ApiError;
use super::extract::{Body, Params, Place};
use super::wire::Attached;
use crate::exports::Exports;

/// Query of `DELETE /v1/disks/{disk}/attachment`.
#[derive(Deserialize)]
pub struct DetachQuery {
    /// Cut connected front ends off.
    #[serde(default)]
    force: bool,
}

pub async fn attach(
    State(control): State<Arc<Control>>,
    Place(disk): Place<DiskName>,
    Body(attachment): Body<Attachment>,
) -> Result<Json<Attached>, ApiError> {
    match control.server() {
        None => remember(&control, &disk, attachment).await?,
        Some(serving) => attach_live(&control, serving, &disk, attachment).await?,
    }
    Ok(Json(Attached { socket: control.socket_of(&disk), disk, attachment }))
}

/// The catalogue first: a socket that a crash makes the server forget would strand a guest.
async fn attach_live(
    control: &Control,
    serving: &Serving,
    disk: &DiskName,
    attachment: Attachment,
) -> Result<(), ApiError> {
    control.see_off(disk).await;
    let mut exports = serving.exports.lock().await;
    if exports.attachment_of(disk) == Some(attachment) {
        return Ok(());
    }
    if exports.attachment_of(disk).is_some() {
        refuse_while_connected(control, disk, "shut the guest down, then attach again").await?;
        exports.stop(disk).await;
    }
    remember(control, disk, attachment).await?;
    let started = export(control, &mut exports, disk, attachment).await;
    if started.is_err() {
        forget(control, disk).await?;
    }
    started
}

pub async fn detach(
    State(control): State<Arc<Control>>,
    Place(disk): Place<DiskName>,
    Params(query): Params<DetachQuery>,
) -> Result<StatusCode, ApiError> {
    control.see_off(&disk).await;
    if let Some(serving) = control.server() {
        let mut exports = serving.exports.lock().await;
        if !query.force {
            let remedy = "shut the guest down first, or run `bough detach --force`";
            refuse_while_connected(&control, &disk, remedy).await?;
        }
        forget(&control, &disk).await?;
        exports.stop(&disk).await;
    } else {
        forget(&control, &disk).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Starts what the catalogue remembers: a server started again listens on the same sockets.
pub async fn restore(control: &Control, serving: &Serving) -> Result<(), ApiError> {
    let mut exports = serving.exports.lock().await;
    let remembered = control.run(move |engine| async move { engine.attachments().await }).await?;
    for (disk, attachment) in remembered {
        if let Err(error) = export(control, &mut exports, &disk, attachment).await {
            tracing::error!(disk = disk.as_str(), %error, "this disk cannot be reached by guests");
        }
    }
    Ok(())
}

/// Carries a disk's socket over to its new name.
pub async fn moved(
    control: &Control,
    from: &DiskName,
    to: &DiskName,
    rename: impl Future<Output = Result<(), ApiError>>,
) -> Result<(), ApiError> {
    let Some(serving) = control.server() else { return rename.await };
    control.see_off(from).await;
    let mut exports = serving.exports.lock().await;
    let Some(attachment) = exports.attachment_of(from) else { return rename.await };
    let remedy = "its socket bears its name; shut the guest down, then rename";
    refuse_while_connected(control, from, remedy).await?;
    rename.await?;
    exports.stop(from).await;
    export(control, &mut exports, to, attachment).await
}

/// Removes the sockets of disks that a deletion took.
pub async fn deleted(
    control: &Control,
    deletion: impl Future<Output = Result<DeleteReport, ApiError>>,
) -> Result<DeleteReport, ApiError> {
    let Some(serving) = control.server() else { return deletion.await };
    let mut exports = serving.exports.lock().await;
    let report = deletion.await?;
    for name in &report.deleted {
        if let Ok(VersionName::Head(disk)) = name.parse() {
            exports.stop(&disk).await;
        }
    }
    Ok(report)
}

async fn remember(
    control: &Control,
    disk: &DiskName,
    attachment: Attachment,
) -> Result<(), ApiError> {
    let disk = disk.clone();
    control.run(move |engine| async move { engine.attach(&disk, attachment).await }).await
}

async fn forget(control: &Control, disk: &DiskName) -> Result<(), ApiError> {
    let disk = disk.clone();
    control.run(move |engine| async move { engine.detach(&disk).await }).await
}

async fn export(
    control: &Control,
    exports: &mut Exports,
    name: &DiskName,
    attachment: Attachment,
) -> Result<(), ApiError> {
    let wanted = name.clone();
    let found = control.run(move |engine| async move {
        Ok::<_, EngineError>((engine.disk(&wanted).await?, engine.limits(&wanted).await?))
    });
    let (disk, limits) = found.await?;
    Ok(exports.start(name, disk, attachment, limits).await?)
}

async fn refuse_while_connected(
    control: &Control,
    disk: &DiskName,
    remedy: &'static str,
) -> Result<(), ApiError> {
    let wanted = VersionName::Head(disk.clone());
    let detail = control.run(move |engine| async move { engine.show(&wanted).await }).await?;
    let clients = detail.disk.clients;
    if clients.is_empty() {
        return Ok(());
    }
    Err(ApiError::Connected { disk: disk.to_string(), clients: clients.join(", "), remedy })
}
