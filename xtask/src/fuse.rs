//! An export as a file, by nbdfuse: what a loop device wants.

use crate::process::{Background, bound, command, output, unmount_below, wait_until};
use anyhow::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An export as a file `nbd` in a folder.
pub struct FuseFile {
    daemon: Background,
    folder: PathBuf,
    pub path: PathBuf,
}

impl FuseFile {
    pub fn show(uri: &str, folder: &Path) -> Result<FuseFile> {
        fs::create_dir_all(folder)?;
        let path = folder.join("nbd");
        let daemon = bound(&command("nbdfuse", &[&path.to_string_lossy(), uri]));
        let log = folder.with_extension("log");
        let mut file = FuseFile { daemon: Background::start(daemon, &log)?, folder: folder.to_path_buf(), path };
        wait_until("nbdfuse", Duration::from_secs(20), || {
            if let Some(status) = file.daemon.ended() {
                bail!("nbdfuse {uri} ended with {status}: {}", file.daemon.log());
            }
            Ok(file.path.exists())
        })?;
        Ok(file)
    }

    /// nbdfuse ends when its folder is unmounted.
    pub fn hide(mut self) -> Result<()> {
        output("umount", &[&self.folder.to_string_lossy()])?;
        self.daemon.wait(Duration::from_secs(20)).map(drop)
    }
}

impl Drop for FuseFile {
    fn drop(&mut self) {
        if self.daemon.ended().is_none() {
            self.daemon.kill9();
            unmount_below(&self.folder);
        }
    }
}
