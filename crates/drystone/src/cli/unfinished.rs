//! Files that appear under their name when they are complete.

use anyhow::{Context, Result, bail};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

/// A file under a name of its own beside the final one; removed if it is not finished.
pub struct Unfinished {
    pub file: File,
    /// `None` once it has its final name.
    path: Option<PathBuf>,
}

impl Unfinished {
    pub fn create(target: &Path) -> Result<Unfinished> {
        let name = target.file_name().with_context(|| format!("{} is not the name of a file", target.display()))?;
        if std::fs::metadata(target).is_ok_and(|metadata| !metadata.is_file()) {
            bail!("{} is not a regular file; to fill a device, use nbdcopy or qemu-img convert", target.display());
        }
        let mut partial = name.to_os_string();
        partial.push(format!(".partial-{}", std::process::id()));
        let path = target.with_file_name(partial);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Unfinished { file, path: Some(path) })
    }

    /// Synced, then named, then the name synced: after a power loss there is the whole file or none.
    pub fn finish(mut self, target: &Path) -> Result<()> {
        self.file.sync_all().with_context(|| format!("cannot sync {}", target.display()))?;
        if let Some(path) = &self.path {
            std::fs::rename(path, target).with_context(|| format!("cannot rename {} to its name", path.display()))?;
        }
        self.path = None;
        sync_folder(target)
    }
}

/// The name survives power loss.
pub fn sync_folder(target: &Path) -> Result<()> {
    let directory = target.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.with_context(|| format!("cannot sync the directory {}", directory.display()))
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // There is nobody left to tell, and what went wrong before matters more.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A folder under a name of its own beside the final one; removed if it is not finished.
pub struct UnfinishedFolder {
    pub path: PathBuf,
    is_final: bool,
}

impl UnfinishedFolder {
    /// Nothing may be there yet under the final name.
    pub fn create(target: &Path) -> Result<UnfinishedFolder> {
        let name = target.file_name().with_context(|| format!("{} is not the name of a folder", target.display()))?;
        if target.exists() {
            bail!("{} is there already; name a new folder", target.display());
        }
        let mut partial = name.to_os_string();
        partial.push(format!(".partial-{}", std::process::id()));
        let path = target.with_file_name(partial);
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(UnfinishedFolder { path, is_final: false })
    }

    /// What is in it has been synced.
    pub fn finish(mut self, target: &Path) -> Result<()> {
        sync_folder(&self.path.join("any"))?;
        std::fs::rename(&self.path, target)
            .with_context(|| format!("cannot rename {} to its name", self.path.display()))?;
        self.is_final = true;
        sync_folder(target)
    }
}

impl Drop for UnfinishedFolder {
    fn drop(&mut self) {
        if !self.is_final {
            // There is nobody left to tell, and what went wrong before matters more.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
