//! Import: a stream of frames becomes a disk, or nothing.
//!
//! The disk is filled under a name of its own and gets the wanted one in the last commit. A marker file
//! in the store's folder goes before it, so that whoever opens the store after a crash removes what was left
//! half full ([`sweep`]).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body as HttpBody, BodyDataStream};
use axum::extract::State;
use axum::http::StatusCode;
use bough_blockstore::to_u64;
use bough_radix::{
    Access, DeleteOptions, Disk, DiskError, DiskInfo, DiskName, Engine, ErrorKind, SnapshotName,
    VersionInfo, VersionName,
};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::context::Control;
use super::error::ApiError;
use super::extract::Params;
use super::frames::{Frame, FrameDecoder, FrameError};
use super::wire::{ImportQuery, Imported};
use crate::store::OpenStore;

/// Writes under way at once.
const WRITERS: usize = 4;
/// How long a refused sender is listened to.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// Frames waiting for a writer.
const QUEUE_FRAMES: usize = 4;

/// Runs to its end even where the client has gone: the half-full disk is removed by then.
pub async fn import(
    State(control): State<Arc<Control>>,
    Params(query): Params<ImportQuery>,
    body: HttpBody,
) -> Result<(StatusCode, Json<Imported>), ApiError> {
    let imported = tokio::spawn(async move { carry_out(&control, query, body).await });
    let imported = imported.await.map_err(|_| ApiError::Stopping)??;
    Ok((StatusCode::CREATED, Json(imported)))
}

async fn carry_out(
    control: &Control,
    query: ImportQuery,
    body: HttpBody,
) -> Result<Imported, ApiError> {
    let label = query.template.as_deref();
    let template = label.map(|label| SnapshotName::new(query.name.clone(), label)).transpose()?;
    refuse_taken(control, &query.name).await?;
    let staged = Staged::begin(control, query.size_bytes).await?;
    let filled = match fill(control, &staged, query.size_bytes, body).await {
        Ok(data_bytes) => {
            let named = staged.name_it(control, &query.name, template.as_ref()).await;
            named.map(|(disk, template)| Imported { disk, template, data_bytes })
        }
        Err(error) => Err(error),
    };
    if filled.is_err() {
        staged.remove(control.store()).await;
    }
    filled
}

async fn refuse_taken(control: &Control, name: &DiskName) -> Result<(), ApiError> {
    let wanted = VersionName::Head(name.clone());
    match control.run(move |engine| async move { engine.show(&wanted).await }).await {
        Ok(_) => Err(ApiError::Exists(name.to_string())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// A disk being filled, and the file that says so.
struct Staged {
    name: DiskName,
    marker: PathBuf,
}

impl Staged {
    async fn begin(control: &Control, size_bytes: u64) -> Result<Self, ApiError> {
        let text = format!("importing-{}", uuid::Uuid::new_v4().simple());
        let name: DiskName = text.parse()?;
        let marker = control.store().folder().mark_import(&name)?;
        let staged = Self { name: name.clone(), marker };
        let made =
            control.run(move |engine| async move { engine.create_disk(&name, size_bytes).await });
        match made.await {
            Ok(_) => Ok(staged),
            Err(error) => {
                staged.remove(control.store()).await;
                Err(error)
            }
        }
    }

    /// The snapshot goes first: the rename, one commit, is what makes both appear.
    async fn name_it(
        &self,
        control: &Control,
        name: &DiskName,
        template: Option<&SnapshotName>,
    ) -> Result<(DiskInfo, Option<VersionInfo>), ApiError> {
        let (staged, wanted) = (self.name.clone(), name.clone());
        let label = template.map(|template| template.label().to_owned());
        let done = control.run(move |engine| async move {
            if let Some(label) = label {
                let snapshot = SnapshotName::new(staged.clone(), &label)?;
                engine.snapshot(std::slice::from_ref(&snapshot)).await?;
                engine.set_sealed(&snapshot, true).await?;
            }
            let (from, to) = (VersionName::Head(staged), VersionName::Head(wanted));
            engine.rename(&from, &to).await?;
            Ok::<_, ApiError>(engine.show(&to).await?)
        });
        let detail = done.await?;
        let _ = std::fs::remove_file(&self.marker);
        Ok((detail.disk, detail.snapshots.into_iter().next()))
    }

    /// What cannot be removed now is removed by the next opening: the marker stays.
    async fn remove(self, store: &OpenStore) {
        let name = self.name.clone();
        match remove_disk(store, name).await {
            Ok(()) => drop(std::fs::remove_file(&self.marker)),
            Err(error) => tracing::warn!(%error, disk = self.name.as_str(), "left for later"),
        }
    }
}

async fn remove_disk(store: &OpenStore, name: DiskName) -> Result<(), ApiError> {
    let engine = store.engine().clone();
    let removed = store.reactor().call(move || async move {
        let disk = VersionName::Head(name);
        for snapshot in engine.show(&disk).await?.snapshots {
            if let Ok(VersionName::Snapshot(snapshot)) = snapshot.name.parse() {
                engine.set_sealed(&snapshot, false).await?;
            }
        }
        engine.delete(&[disk], DeleteOptions { recursive: true, dry_run: false }).await
    });
    match removed.await.map_err(|_| ApiError::Stopping)? {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Removes what imports left behind that ended with their process.
pub async fn sweep(store: &OpenStore) {
    for (name, marker) in store.folder().marked_imports() {
        tracing::info!(disk = name.as_str(), "removing what an interrupted import left");
        Staged { name, marker }.remove(store).await;
    }
}

/// Reads the stream to its end and writes it; durable when this returns how much data there was.
async fn fill(
    control: &Control,
    staged: &Staged,
    size_bytes: u64,
    body: HttpBody,
) -> Result<u64, ApiError> {
    let (frames, queue) = mpsc::channel(QUEUE_FRAMES);
    let name = staged.name.clone();
    let (tell, written) = oneshot::channel();
    let engine = control.store().engine().clone();
    control.store().reactor().spawn(move || {
        Box::pin(async move {
            let _ = tell.send(write_all(engine, name, queue).await);
        })
    });
    let mut body = body.into_data_stream();
    let read = read_frames(&mut body, size_bytes, frames).await;
    let written = written.await.map_err(|_| ApiError::Stopping)?;
    // A failed write closes the queue, which ends the reading: the write's error is the cause.
    let filled = written.and(read);
    if filled.is_err() {
        tokio::spawn(drain(body));
    }
    filled
}

/// Takes what the sender still sends, for a while: one that cannot send does not read either, and
/// would never see why it was refused.
async fn drain(mut body: BodyDataStream) {
    let rest = async { while let Some(Ok(_)) = body.next().await {} };
    let _ = tokio::time::timeout(DRAIN_TIME, rest).await;
}

async fn read_frames(
    body: &mut BodyDataStream,
    size_bytes: u64,
    queue: mpsc::Sender<(u64, Bytes)>,
) -> Result<u64, ApiError> {
    let mut decoder = FrameDecoder::default();
    let mut data_bytes = 0;
    loop {
        while let Some(frame) = decoder.next_frame()? {
            match frame {
                Frame::Data { offset_bytes, data } => {
                    data_bytes += to_u64(data.len());
                    if queue.send((offset_bytes, data)).await.is_err() {
                        return Ok(data_bytes);
                    }
                }
                Frame::Zero { .. } => {}
                Frame::End { size_bytes: found_bytes } if found_bytes == size_bytes => {
                    return Ok(data_bytes);
                }
                Frame::End { size_bytes: found_bytes } => {
                    return Err(ApiError::WrongEnd { wanted_bytes: size_bytes, found_bytes });
                }
                Frame::Failed { message } => return Err(ApiError::SenderFailed(message)),
            }
        }
        let bytes = body.next().await.ok_or(FrameError::CutOff)?.map_err(ApiError::Body)?;
        decoder.feed(&bytes);
    }
}

type Queue = Mutex<mpsc::Receiver<(u64, Bytes)>>;

/// On the reactor: some writers share the queue; the disk is flushed once all have ended.
async fn write_all(
    engine: Engine,
    name: DiskName,
    queue: mpsc::Receiver<(u64, Bytes)>,
) -> Result<(), ApiError> {
    let disk = engine.disk(&name).await?;
    let _connection = disk.connect("an import", Access::ReadWrite)?;
    let queue = Mutex::new(queue);
    let writers = (0..WRITERS).map(|_| write_some(&disk, &queue));
    let results: Vec<_> = futures_util::future::join_all(writers).await;
    results.into_iter().collect::<Result<(), DiskError>>()?;
    disk.flush().await?;
    Ok(())
}

async fn write_some(disk: &Arc<Disk>, queue: &Queue) -> Result<(), DiskError> {
    loop {
        let Some((offset_bytes, data)) = queue.lock().await.recv().await else { return Ok(()) };
        let copy = |at: usize, out: &mut [u8]| out.copy_from_slice(&data[at..at + out.len()]);
        let written = disk.write(offset_bytes, data.len(), &mut { copy }).await;
        if written.is_err() {
            queue.lock().await.close();
            return written;
        }
    }
}
