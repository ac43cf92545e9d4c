//! What an image is, before it is opened: everything that would make an import fail late, or read what it must not.

use super::format::Format;
use super::qemu;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// As `qemu-img info` says it; it opens neither backing files nor data files.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    virtual_size: u64,
    #[serde(default)]
    encrypted: bool,
    full_backing_filename: Option<String>,
    backing_filename: Option<String>,
    #[serde(rename = "format-specific")]
    specific: Option<Specific>,
}

impl Info {
    fn backing(&self) -> Option<&String> {
        self.full_backing_filename.as_ref().or(self.backing_filename.as_ref())
    }
}

#[derive(Deserialize)]
struct Specific {
    data: Option<SpecificData>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct SpecificData {
    data_file: Option<String>,
    #[serde(default)]
    extents: Vec<Extent>,
}

/// A part of a VMDK image.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Extent {
    filename: Option<String>,
    virtual_size: Option<u64>,
    format: Option<String>,
}

/// A run of the disk, as `qemu-img map` says it.
#[derive(Deserialize)]
struct Mapped {
    start: u64,
    length: u64,
    data: bool,
    zero: bool,
    /// 0: of the image itself, not of one that it continues.
    depth: u32,
    /// Where it lies in its file, if it lies there as it is.
    offset: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Checked {
    corruptions: u64,
    check_errors: u64,
    image_end_offset: Option<u64>,
}

pub struct Found {
    pub size_bytes: u64,
    /// Where it holds data, in order and apart.
    pub runs: Vec<Range<u64>>,
    /// The file, and all others that its content lies in.
    pub files: Vec<PathBuf>,
}

/// `path`: absolute, so that QEMU takes it for a file whatever its name is. `Err` says why it cannot be imported.
pub fn inspect(path: &Path, format: Format, allow_backing: bool) -> Result<Found> {
    let with_format = ["-f", format.name()];
    let info = qemu::img_says(&[&["info"][..], &with_format, &["--output=json"]].concat(), path)?;
    let info: Info = serde_json::from_str(&info).context("`qemu-img info` says something else than expected")?;
    ensure!(!info.encrypted, "it is encrypted; decrypt it first with qemu-img convert");
    ensure!(info.virtual_size > 0, "it is empty; there is nothing to import");
    let mut files = vec![path.to_path_buf()];
    files.extend(others(path, &info, allow_backing)?);
    check(path, format)?;
    let map = qemu::img_says(&[&["map"][..], &with_format, &["--output=json"]].concat(), path)?;
    let map: Vec<Mapped> = serde_json::from_str(&map).context("`qemu-img map` says something else than expected")?;
    let backed = info.backing().is_some();
    // A backing file apart, there is none but the image.
    let own = files.len() == if backed { 2 } else { 1 };
    Ok(Found { size_bytes: info.virtual_size, runs: runs(path, &map, own)?, files })
}

/// Files that the image refers to. An image that came from somebody else could name any file of this machine.
fn others(path: &Path, info: &Info, allow_backing: bool) -> Result<Vec<PathBuf>> {
    let folder = path.parent().context("an absolute path has a folder")?;
    let specific = info.specific.as_ref().and_then(|specific| specific.data.as_ref());
    let mut others = Vec::new();
    if let Some(backing) = info.backing() {
        if !allow_backing {
            bail!("it continues the image {backing:?}, which would be read too; if you trust it, say --allow-backing");
        }
        others.push(folder.join(backing));
    }
    if let Some(data_file) = specific.and_then(|data| data.data_file.as_ref()) {
        if !allow_backing {
            bail!(
                "its data is in the file {data_file:?}, which would be read too; if you trust it, say --allow-backing"
            );
        }
        others.push(folder.join(data_file));
    }
    for extent in specific.into_iter().flat_map(|data| &data.extents) {
        let Some(file) = extent.filename.as_ref().map(|name| folder.join(name)) else { continue };
        if file == path {
            continue;
        }
        let shown = file.display();
        let is_link = std::fs::symlink_metadata(&file).is_ok_and(|metadata| metadata.file_type().is_symlink());
        if !allow_backing && (file.parent() != Some(folder) || is_link) {
            bail!(
                "a part of it is the file {shown}, in another folder or behind a link; if you trust it, say --allow-backing"
            );
        }
        // Of the other kinds QEMU looks at the tables.
        if extent.format.as_deref() == Some("FLAT") {
            let len = std::fs::metadata(&file).with_context(|| format!("its part {shown}"))?.len();
            let needs = extent.virtual_size.unwrap_or(0);
            ensure!(needs <= len, "it is cut off: its part {shown} has {len} bytes, and at least {needs} are needed");
        }
        others.push(file);
    }
    Ok(others)
}

/// The image's own tables. A format that `qemu-img` cannot check has none that could be wrong.
fn check(path: &Path, format: Format) -> Result<()> {
    let output = qemu::img(&["check", "-f", format.name(), "--output=json"], path)?;
    match output.status.code() {
        // Sound; clusters that nobody needs are no damage; cannot be checked.
        Some(0 | 3 | 63) => {}
        _ => {
            let checked: Checked = serde_json::from_slice(&output.stdout).unwrap_or_default();
            bail!(
                "it is damaged: {} corruptions, {} errors of the check; {}",
                checked.corruptions,
                checked.check_errors,
                qemu::complaint(&output.stderr)
            );
        }
    }
    let checked: Checked = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let len = std::fs::metadata(path)?.len();
    // The last cluster need not be whole.
    if let Some(end) = checked.image_end_offset
        && len + CLUSTER_BYTES_MAX <= end
    {
        bail!("it is cut off: it needs {end} bytes and has {len}");
    }
    Ok(())
}

/// Of qcow2.
const CLUSTER_BYTES_MAX: u64 = 2 << 20;

/// `own`: what the image itself has lies in its own file, and in no other.
fn runs(path: &Path, map: &[Mapped], own: bool) -> Result<Vec<Range<u64>>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    let len = std::fs::metadata(path)?.len();
    for mapped in map.iter().filter(|mapped| mapped.data && !mapped.zero) {
        let end = mapped.start.checked_add(mapped.length).context("a run without end")?;
        match runs.last_mut() {
            Some(last) if last.end == mapped.start => last.end = end,
            _ => runs.push(mapped.start..end),
        }
        // QEMU reads zeros behind the end of a file, and says nothing.
        if let Some(offset) = mapped.offset.filter(|_| own && mapped.depth == 0) {
            let needs = offset.saturating_add(mapped.length);
            ensure!(needs <= len, "it is cut off: it has {len} bytes, and at least {needs} are needed");
        }
    }
    Ok(runs)
}
