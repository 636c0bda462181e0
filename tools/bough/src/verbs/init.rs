//! `bough init`

use std::path::PathBuf;
use std::process::ExitCode;

use bough_server::{NewBlocks, create_store};
use serde::Serialize;

use crate::cli::{Global, Init};
use crate::failure::Failure;
use crate::output::Output;
use crate::session;

#[derive(Serialize)]
struct Made {
    folder: PathBuf,
    blocks: PathBuf,
    size_bytes: Option<u64>,
}

pub async fn run(args: Init, global: &Global, output: Output) -> Result<ExitCode, Failure> {
    let folder = session::folder(global);
    let size_bytes = args.device.is_none().then_some(args.size.0);
    let blocks = match args.device {
        Some(path) => NewBlocks::Device { path, force: args.force },
        None => NewBlocks::File { size_bytes: args.size.0 },
    };
    create_store(&folder, blocks).await?;
    let made = Made {
        folder: folder.path().to_owned(),
        blocks: folder.blocks().map_err(bough_server::StoreError::from)?,
        size_bytes,
    };
    output.print(&made, |made| match made.size_bytes {
        Some(bytes) => {
            format!("made a store of {} in {}", output.size(bytes), made.folder.display())
        }
        None => format!("made a store on {} in {}", made.blocks.display(), made.folder.display()),
    })?;
    Ok(ExitCode::SUCCESS)
}
