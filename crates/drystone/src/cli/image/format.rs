//! Which format an image has: as the user says, or by the ending of its name, and never by what is in it.

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Raw,
    Qcow2,
    Vmdk,
    Vhdx,
}

/// What images of these formats begin with.
const BEGINNINGS: [(&[u8], Format); 5] = [
    (b"QFI\xfb", Format::Qcow2),
    (b"KDMV", Format::Vmdk),
    (b"COWD", Format::Vmdk),
    (b"# Disk DescriptorFile", Format::Vmdk),
    (b"vhdxfile", Format::Vhdx),
];

impl Format {
    /// As QEMU calls it.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vmdk => "vmdk",
            Format::Vhdx => "vhdx",
        }
    }

    /// By the ending of the name; raw if it says nothing.
    pub fn of_name(path: &Path) -> Format {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
        match ending.as_deref() {
            Some("qcow2" | "qcow") => Format::Qcow2,
            Some("vmdk") => Format::Vmdk,
            Some("vhdx") => Format::Vhdx,
            _ => Format::Raw,
        }
    }

    /// Of a file that is to be read. What is taken for raw because nobody said anything, and looks like something else, is
    /// refused: as raw bytes it would be of no use to anybody.
    pub fn of_file(path: &Path, file: &File, said: Option<Format>) -> Result<Format> {
        if let Some(format) = said {
            return Ok(format);
        }
        let format = Format::of_name(path);
        if format != Format::Raw {
            return Ok(format);
        }
        let mut start = [0; 32];
        let got = file.read_at(&mut start, 0).with_context(|| format!("cannot read {}", path.display()))?;
        let looks_like = BEGINNINGS.iter().find(|(beginning, _)| start[..got].starts_with(beginning));
        if let Some((_, other)) = looks_like {
            let other = other.name();
            bail!(
                "{} looks like a {other} image: say --format {other}, or --format raw if these bytes are the disk itself",
                path.display()
            );
        }
        Ok(format)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_the_format_and_content_only_refuses() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("disk.img");
        std::fs::write(&path, b"QFI\xfb and more").expect("written");
        let file = File::open(&path).expect("open");
        let error = Format::of_file(&path, &file, None).expect_err("nobody said that it is raw");
        assert!(error.to_string().contains("--format qcow2"), "{error}");
        assert_eq!(Format::of_file(&path, &file, Some(Format::Raw)).expect("said"), Format::Raw);
        std::fs::write(&path, b"QF").expect("written");
        assert_eq!(Format::of_file(&path, &file, None).expect("short"), Format::Raw);
        for (name, format) in
            [("a.QCOW2", Format::Qcow2), ("a.vmdk", Format::Vmdk), ("a.vhdx", Format::Vhdx), ("a", Format::Raw)]
        {
            assert_eq!(Format::of_name(Path::new(name)), format, "{name}");
        }
    }
}
