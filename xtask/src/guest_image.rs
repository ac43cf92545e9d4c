//! A small Debian guest: the cloud kernel, an initramfs made here, and a debootstrapped root file system with a script
//! in place of init. Kept in the target folder, since making it takes two minutes and needs the network.

use crate::packages;
use crate::process::{command, logged, output, target_dir, unmount_below};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(900);
const ROOT_SIZE: &str = "1G";
/// What the kernel needs to find its root; some of it is built in.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "ext4"];
/// What a guest that is an iSCSI initiator and an NBD client loads later, from its root.
const LATER: [&str; 9] =
    ["virtio_net", "iscsi_tcp", "sd_mod", "sg", "dm_multipath", "dm_service_time", "xfs", "crc32c_intel", "nbd"];
/// In the root, with what each is: the init of the `guest` step, and of the `initiator` step.
const SCRIPTS: [(&str, &str); 2] = [
    ("drystone-guest", include_str!("../../tests/guest/init.sh")),
    ("drystone-initiator", include_str!("../../tests/guest/initiator.sh")),
];

pub struct GuestImage {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    /// Raw ext4.
    pub root: PathBuf,
}

/// The files, made now unless they are there from an earlier run.
pub fn prepare() -> Result<GuestImage> {
    let dir = target_dir().join("guest");
    let complete = dir.join("complete");
    let recipe = format!("{} {} {}", packages::GUEST.join(" "), MODULES.join(" "), LATER.join(" "));
    let image =
        GuestImage { kernel: dir.join("vmlinuz"), initramfs: dir.join("initramfs.cpio"), root: dir.join("root.img") };
    let tree = dir.join("root");
    if fs::read_to_string(&complete).ok().as_ref() != Some(&recipe) {
        if dir.exists() {
            unmount_below(&dir);
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        let kernel = Kernel::fetch(&dir)?;
        fs::write(&image.initramfs, initramfs(&kernel.modules(&MODULES)?)?)?;
        fs::copy(kernel.tree.join(format!("boot/vmlinuz-{}", kernel.version)), &image.kernel)?;
        debootstrap(&dir, &tree)?;
        kernel.install(&LATER, &tree)?;
        fs::write(complete, recipe)?;
    }
    make_root(&tree, &image.root)?;
    Ok(image)
}

/// The unpacked package.
struct Kernel {
    tree: PathBuf,
    version: String,
}

impl Kernel {
    fn fetch(dir: &Path) -> Result<Kernel> {
        let depends = output("apt-cache", &["depends", packages::KERNEL])?;
        let version = depends
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
            .with_context(|| format!("{} names no kernel:\n{depends}", packages::KERNEL))?
            .to_string();
        let package = format!("linux-image-{version}");
        let mut download = packages::apt(&["download", "-oAPT::Sandbox::User=root", &package]);
        download.current_dir(dir);
        logged(download, &dir.join("kernel.log"), LIMIT)?;
        let archive = newest(dir, ".deb")?;
        let tree = dir.join("kernel");
        output("dpkg-deb", &["-x", &archive.to_string_lossy(), &tree.to_string_lossy()])?;
        output("depmod", &["-b", &tree.to_string_lossy(), &version])?;
        Ok(Kernel { tree, version })
    }

    fn folder(&self) -> PathBuf {
        self.tree.join("lib/modules").join(&self.version)
    }

    /// The files of these modules and of all that they need, in order of loading; without what is built in.
    fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let base = self.folder();
        let dependencies = fs::read_to_string(base.join("modules.dep"))?;
        let built_in = fs::read_to_string(base.join("modules.builtin"))?;
        let mut modules: Vec<PathBuf> = Vec::new();
        for name in names {
            // A file is called by either sign.
            let spellings = [format!("/{name}.ko"), format!("/{}.ko", name.replace('_', "-"))];
            let names_it = |text: &str| spellings.iter().any(|spelling| text.contains(spelling));
            if names_it(&built_in) {
                continue;
            }
            let line = dependencies
                .lines()
                .find(|line| line.split(':').next().is_some_and(names_it))
                .with_context(|| format!("the kernel has no module {name}"))?;
            let (module, needs) = line.split_once(':').expect("a line of modules.dep has a colon");
            for path in needs.split_whitespace().rev().chain([module]) {
                if !modules.iter().any(|known| known == &base.join(path)) {
                    modules.push(base.join(path));
                }
            }
        }
        Ok(modules)
    }

    /// Puts these modules into a root, for modprobe.
    fn install(&self, names: &[&str], root: &Path) -> Result<()> {
        for module in self.modules(names)? {
            let place = root.join(module.strip_prefix(&self.tree).expect("it lies in the package"));
            fs::create_dir_all(place.parent().expect("a file has a folder"))?;
            fs::copy(&module, place)?;
        }
        for list in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
            let place = root.join("lib/modules").join(&self.version).join(list);
            fs::copy(self.folder().join(list), place)?;
        }
        output("depmod", &["-b", &root.to_string_lossy(), &self.version]).map(|_| ())
    }
}

fn newest(dir: &Path, suffix: &str) -> Result<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.retain(|path| path.to_string_lossy().ends_with(suffix));
    found.sort();
    found.pop().with_context(|| format!("no {suffix} in {}", dir.display()))
}

/// Loads the modules, mounts the root and goes there.
fn initramfs(modules: &[PathBuf]) -> Result<Vec<u8>> {
    let mut load = String::new();
    let mut archive = Cpio::default();
    archive.folder("bin");
    archive.folder("dev");
    archive.folder("proc");
    archive.folder("root");
    archive.file("bin/busybox", &fs::read("/bin/busybox").context("busybox-static is missing")?);
    for (index, module) in modules.iter().enumerate() {
        let name = format!("module{index}.ko");
        let module = decompressed(module)?;
        archive.file(&name, &fs::read(module)?);
        load.push_str(&format!("$b insmod /{name}\n"));
    }
    let script = format!(
        "#!/bin/busybox sh\nb=/bin/busybox\n$b mount -t devtmpfs dev /dev\n$b mount -t proc proc /proc\n{load}\
         while [ ! -b /dev/vda ]; do $b usleep 50000; done\n\
         $b mount -t ext4 /dev/vda /root || $b poweroff -f\n\
         $b umount /proc\n$b mount --move /dev /root/dev\n\
         exec $b switch_root /root /drystone-guest\n"
    );
    archive.file("init", script.as_bytes());
    Ok(archive.finish())
}

/// Newer kernels come with compressed modules, which busybox cannot load.
fn decompressed(module: &Path) -> Result<PathBuf> {
    if module.extension().is_some_and(|suffix| suffix == "xz") {
        output("xz", &["--decompress", "--keep", "--force", &module.to_string_lossy()])?;
        return Ok(module.with_extension(""));
    }
    ensure!(module.extension().is_some_and(|suffix| suffix == "ko"), "{} is no module", module.display());
    Ok(module.to_path_buf())
}

fn debootstrap(dir: &Path, tree: &Path) -> Result<()> {
    if tree.exists() {
        fs::remove_dir_all(tree)?;
    }
    let suite = packages::codename()?;
    let include = format!("--include={}", packages::GUEST.join(","));
    let arguments = ["--variant=minbase", &include, &suite, &tree.to_string_lossy(), "http://deb.debian.org/debian"];
    logged(command("debootstrap", &arguments), &dir.join("debootstrap.log"), LIMIT)?;
    for folder in ["var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"] {
        let _ = fs::remove_dir_all(tree.join(folder));
    }
    Ok(())
}

/// Anew unless it is there with the same scripts, which belong to this source tree.
fn make_root(tree: &Path, image: &Path) -> Result<()> {
    let made_with = image.with_extension("scripts");
    let scripts: String = SCRIPTS.iter().map(|(_, script)| *script).collect();
    if image.exists() && fs::read_to_string(&made_with).ok().as_ref() == Some(&scripts) {
        return Ok(());
    }
    for (name, script) in SCRIPTS {
        let path = tree.join(name);
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    for old in [image, &made_with] {
        let _ = fs::remove_file(old);
    }
    output("mke2fs", &["-q", "-t", "ext4", "-d", &tree.to_string_lossy(), &image.to_string_lossy(), ROOT_SIZE])?;
    Ok(fs::write(made_with, scripts)?)
}

/// The "newc" format of cpio, as the kernel unpacks it (Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    fn folder(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, 0o100_755, content);
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let fields = [self.entries, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}
