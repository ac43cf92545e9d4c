//! The two vDisks of a VM as file systems: nbdfuse shows each as a file, a loop device makes a block device of it, ext4 lies
//! on that.

use crate::fuse::FuseFile;
use crate::powerloss::Mount;
use crate::process::{output, unmount_below};
use crate::server::Server;
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};

pub const LABELS: [&str; 2] = ["data", "wal"];
const PREFIX: &str = "drystone-postgres-";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A file system is made on each.
    Nothing,
    Cluster,
}

/// Mounted as `data` and `wal` in `folder`.
pub struct Disks {
    pub folder: PathBuf,
    // In the order in which they have to go.
    mounts: Vec<Mount>,
    files: Vec<FuseFile>,
}

impl Disks {
    pub fn attach(server: &Server, vm: &str, folder: &Path, content: Content) -> Result<Disks> {
        let mut disks = Disks { folder: folder.to_path_buf(), mounts: Vec::new(), files: Vec::new() };
        for label in LABELS {
            let file =
                FuseFile::show(&server.socket.uri(&format!("{vm}-{label}")), &folder.join(format!("{label}.nbd")))?;
            if content == Content::Nothing {
                output("mkfs.ext4", &["-q", &file.path.to_string_lossy()])?;
            }
            disks.mounts.push(Mount::new(&file.path, &folder.join(label))?);
            disks.files.push(file);
        }
        Ok(disks)
    }

    pub fn detach(self) -> Result<()> {
        for mount in self.mounts {
            mount.unmount()?;
        }
        for file in self.files {
            file.hide()?;
        }
        Ok(fs::remove_dir_all(self.folder)?)
    }
}

/// Where another user finds the mounts: the target folder may lie where only root may go. What runs left that were
/// interrupted is removed.
pub fn mount_folder() -> Result<PathBuf> {
    let parent = std::env::temp_dir();
    for entry in fs::read_dir(&parent)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(PREFIX) else { continue };
        if !Path::new("/proc").join(pid).exists() {
            unmount_below(&parent.join(&name));
            fs::remove_dir_all(parent.join(&name))?;
        }
    }
    let folder = parent.join(format!("{PREFIX}{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    Ok(folder)
}
