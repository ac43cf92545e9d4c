//! An image that is being made: it has its name when it is complete and synced.

use super::format::Format;
use super::qemu::{self, Access, Served};
use crate::cli::unfinished::{Unfinished, sync_folder};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub enum Target {
    Raw(Unfinished),
    Served(Image),
}

/// Written through `qemu-nbd`.
pub struct Image {
    served: Option<Served>,
    /// Beside the final place. The file in it has its final name already: some formats say in the file what it is called.
    folder: PathBuf,
    file: PathBuf,
}

impl Target {
    pub fn create(path: &Path, format: Format, size_bytes: u64) -> Result<Target> {
        if format == Format::Raw {
            let unfinished = Unfinished::create(path)?;
            unfinished.file.set_len(size_bytes).with_context(|| format!("cannot make {} that long", path.display()))?;
            return Ok(Target::Raw(unfinished));
        }
        let path = std::path::absolute(path)?;
        let name = path.file_name().with_context(|| format!("{} is not the name of a file", path.display()))?;
        if std::fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
            bail!("{} is not a regular file", path.display());
        }
        let mut folder = name.to_os_string();
        folder.push(format!(".partial-{}", std::process::id()));
        let folder = path.with_file_name(folder);
        std::fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let mut image = Image { served: None, file: folder.join(name), folder };
        let failed = || format!("cannot make the {} image {}", format.name(), path.display());
        let created = qemu::create(&image.file, format, size_bytes);
        created
            .and_then(|()| Served::start(&image.file, format, Access::Write))
            .map(|served| {
                image.served = Some(served);
                Target::Served(image)
            })
            .with_context(failed)
    }

    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        match self {
            Target::Raw(unfinished) => Ok(unfinished.file.write_all_at(data, offset)?),
            Target::Served(image) => {
                let served = image.served.as_ref().context("it is open until it is finished")?;
                served.with(|client| client.write(offset, data))
            }
        }
    }

    pub fn finish(self, path: &Path) -> Result<()> {
        let mut image = match self {
            Target::Raw(unfinished) => return unfinished.finish(path),
            Target::Served(image) => image,
        };
        image.served.take().context("it is finished once")?.finish()?;
        let synced = File::open(&image.file).and_then(|file| file.sync_all());
        synced.with_context(|| format!("cannot sync {}", path.display()))?;
        std::fs::rename(&image.file, path).with_context(|| format!("cannot rename {} to its name", path.display()))?;
        sync_folder(path)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        self.served = None;
        // There is nobody left to tell, and what went wrong before matters more.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
