//! Which files are kept: by Landlock, as much of it as the kernel has.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError,
};

use crate::folder::StoreFolder;

/// The newest that we know what to ask of.
const NEWEST: ABI = ABI::V6;

/// Confines this thread, and whatever threads it starts; says by which version of Landlock, 0
/// where there is none.
pub fn confine(folder: &StoreFolder, sockets: &Path) -> Result<u32, RulesetError> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        // None is allowed: sockets of ours are UNIX sockets.
        .handle_access(AccessNet::from_all(NEWEST))?
        .create()?;
    let store = BitFlags::from(AccessFs::ReadDir)
        | AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir;
    let socket_folder = AccessFs::ReadDir | AccessFs::MakeSock | AccessFs::RemoveFile;
    // `blocks` may be a link, and a device is somewhere else anyway.
    let blocks = folder.blocks().ok();
    let medium = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;
    // Who is connected, and what our own descriptors are.
    let processes = BitFlags::from(AccessFs::ReadFile);
    let kept = [
        (Some(folder.path()), store),
        (Some(sockets), socket_folder),
        (blocks.as_deref(), medium),
        (Some(Path::new("/proc")), processes),
    ];
    for (path, access) in kept {
        // What is not there is not needed, or is missed by whoever opens it.
        if let Some(opened) = path.and_then(|path| PathFd::new(path).ok()) {
            rules = rules.add_rule(PathBeneath::new(opened, access))?;
        }
    }
    let status = rules.restrict_self()?;
    Ok(match status.landlock {
        LandlockStatus::Available { effective_abi, kernel_abi } => {
            kernel_abi.and_then(|abi| u32::try_from(abi).ok()).unwrap_or(effective_abi as u32)
        }
        _ => {
            tracing::warn!("the kernel has no Landlock; files are not confined");
            0
        }
    })
}
