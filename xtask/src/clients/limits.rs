//! Bad input on the command line: each has a message that says what to do.

use super::{Bench, Check};
use crate::server::{Server, binary, free_port};
use anyhow::{Result, ensure};

pub const CHECKS: &[(&str, Check)] = &[
    ("malformed sizes", sizes),
    ("forbidden names", names),
    ("a second start in the same directory", second_instance),
    ("plaintext beyond this machine", plaintext),
    ("addresses in use", address_in_use),
    ("no server", no_server),
];

fn sizes(bench: &mut Bench) -> Result<()> {
    for (size, expect) in [
        ("12XB", "20GiB"),
        ("", "--size"),
        ("-5", ""),
        ("1.5GiB", "20GiB"),
        ("0", "size"),
        ("65TiB", "64 TiB"),
        ("1000", "4096"),
        ("99999999999999999999", "20GiB"),
    ] {
        bench.server.refuses(&["vdisk", "create", "sized", &format!("--size={size}")], &[expect])?;
    }
    bench.server.refuses(&["vdisk", "create", "sized", "--size", "1GiB", "--sector", "1024"], &["512"])?;
    bench.server.refuses(&["vdisk", "create", "sized"], &["--size"])?;
    ensure!(bench.server.list()?.is_empty(), "a refused vDisk exists");
    Ok(())
}

fn names(bench: &mut Bench) -> Result<()> {
    let long = "x".repeat(64);
    for name in ["a/b", "../x", "a b", "ü", ".hidden", "a\nb", "", &long, "a%00b"] {
        bench.server.refuses(&["vdisk", "create", name, "--size", "1GiB"], &["name"])?;
    }
    for name in ["a", "A-1", "web.disk_0", &long[..63]] {
        bench.server.create(name, "1MiB")?;
        bench.server.refuses(&["vdisk", "create", name, "--size", "1MiB"], &["exists"])?;
        bench.server.connect(name)?.disconnect()?;
        bench.server.run(&["vdisk", "delete", name])?;
    }
    Ok(())
}

fn second_instance(bench: &mut Bench) -> Result<()> {
    let mut second = Server::new(&bench.dir)?;
    second.data = bench.server.data.clone();
    crate::process::refused(second.up(), &[&bench.server.data.to_string_lossy()])?;
    ensure!(bench.server.list().is_ok(), "the first one was disturbed");
    Ok(())
}

fn plaintext(bench: &mut Bench) -> Result<()> {
    for (open, closed) in [("--nbd", "--api"), ("--api", "--nbd")] {
        let mut up = crate::process::command(&binary().to_string_lossy(), &["up", "--data"]);
        up.arg(bench.file("plaintext")).arg("--no-iscsi");
        up.args([open, &format!("0.0.0.0:{}", free_port()?), closed, &format!("127.0.0.1:{}", free_port()?)]);
        crate::process::refused(up, &["plaintext"])?;
    }
    Ok(())
}

fn address_in_use(bench: &mut Bench) -> Result<()> {
    let mut second = Server::new(&bench.dir)?;
    second.data = bench.file("in-use");
    second.api = bench.server.api.clone();
    crate::process::refused(second.up(), &[&bench.server.api])
}

fn no_server(bench: &mut Bench) -> Result<()> {
    let mut cli = bench.server.cli(&["vdisk", "list"]);
    let nobody = format!("127.0.0.1:{}", free_port()?);
    cli.env("DRYSTONE_SERVER", format!("http://{nobody}"));
    crate::process::refused(cli, &[&nobody, "drystone up"])
}
