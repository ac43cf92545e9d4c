//! tgt, the iSCSI target of Debian's package of that name: a daemon of its own on ports of its own.

use crate::process::{Background, bound, command, finish, output, tail, wait_until};
use crate::server::free_port;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::time::Duration;

const TARGET: &str = "iqn.2026-11.io.drystone.peer:bench";

pub struct Tgt {
    pub process: Background,
    portal: String,
    /// tgtd names its control socket by a number.
    control: String,
}

/// A logical unit of a target.
#[derive(Clone)]
pub struct Unit {
    /// Host and port.
    pub portal: String,
    pub target: String,
    pub lun: u8,
}

impl Unit {
    pub fn url(&self) -> String {
        format!("iscsi://{}/{}/{}", self.portal, self.target, self.lun)
    }
}

impl Tgt {
    /// With a target for each file, logical unit 1 of it. `kind`: tgtd's name of a backing store.
    pub fn start(kind: &str, files: &[PathBuf], log: &Path) -> Result<Tgt> {
        let port = free_port()?;
        // The number of a control socket has 15 bits.
        let (portal, control) = (format!("127.0.0.1:{port}"), (port / 2).to_string());
        let daemon = command("tgtd", &["-f", "-C", &control, "--iscsi", &format!("portal={portal}")]);
        let mut tgt = Tgt { process: Background::start(bound(&daemon), log)?, portal, control };
        wait_until("tgtd", Duration::from_secs(20), || {
            if let Some(status) = tgt.process.ended() {
                bail!("ended with {status}: {}", tail(&tgt.process.log()));
            }
            let show = ["-C", &tgt.control, "--lld", "iscsi", "--op", "show", "--mode", "target"];
            Ok(finish(command("tgtadm", &show), Duration::from_secs(20))?.status.success())
        })?;
        for (index, file) in files.iter().enumerate() {
            let tid = (index + 1).to_string();
            let file = file.to_string_lossy();
            tgt.admin(&["--op", "new", "--mode", "target", "--tid", &tid, "-T", &format!("{TARGET}{index}")])?;
            let unit = ["--op", "new", "--mode", "logicalunit", "--tid", &tid, "--lun", "1"];
            tgt.admin(&[&unit[..], &["-b", &file, "--bstype", kind]].concat())?;
            for digest in ["HeaderDigest", "DataDigest"] {
                let update = ["--op", "update", "--mode", "target", "--tid", &tid];
                // It takes none unless told to.
                tgt.admin(&[&update[..], &["-n", digest, "-v", "CRC32C,None"]].concat())?;
            }
            tgt.admin(&["--op", "bind", "--mode", "target", "--tid", &tid, "-I", "ALL"])?;
        }
        Ok(tgt)
    }

    fn admin(&self, arguments: &[&str]) -> Result<()> {
        output("tgtadm", &[&["-C", &self.control, "--lld", "iscsi"], arguments].concat()).map(|_| ())
    }

    pub fn unit(&self, index: usize) -> Unit {
        Unit { portal: self.portal.clone(), target: format!("{TARGET}{index}"), lun: 1 }
    }
}

impl Drop for Tgt {
    fn drop(&mut self) {
        self.process.kill9();
        let socket = PathBuf::from(format!("/var/run/tgtd/socket.{}", self.control));
        let _ = std::fs::remove_file(socket.with_extension(format!("{}.lock", self.control)));
        let _ = std::fs::remove_file(socket);
    }
}
