//! NBD over TLS with certificates made on the spot.

use super::{Bench, Check};
use crate::nbd::{Address, Client};
use crate::process::{command, output, refused};
use crate::server::Server;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;

pub const CHECKS: &[(&str, Check)] = &[("TLS", tls), ("TLS with client certificates", client_certificates)];

/// A CA, and a certificate with its key that it signed; under the names that libnbd and QEMU look for.
fn authority(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    let file = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let openssl = |arguments: &[&str]| output("openssl", arguments);
    let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let mut ca = vec!["req", "-x509", "-days", "2", "-subj", "/CN=test authority"];
    ca.extend(new_key);
    let (ca_key, ca_cert) = (file("ca-key.pem"), file("ca-cert.pem"));
    ca.extend(["-keyout", &ca_key, "-out", &ca_cert]);
    openssl(&ca)?;
    for (name, extension) in [
        ("server", "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n"),
        ("client", "subjectAltName=DNS:client.test\nextendedKeyUsage=clientAuth\n"),
    ] {
        let (key, request, cert) =
            (file(&format!("{name}-key.pem")), file("request.pem"), file(&format!("{name}-cert.pem")));
        let subject = format!("/CN={name}");
        let mut ask = vec!["req", "-subj", &subject];
        ask.extend(new_key);
        ask.extend(["-keyout", &key, "-out", &request]);
        openssl(&ask)?;
        let extensions = file("extensions");
        fs::write(&extensions, format!("basicConstraints=CA:FALSE\n{extension}"))?;
        openssl(&[
            "x509",
            "-req",
            "-days",
            "2",
            "-in",
            &request,
            "-CA",
            &ca_cert,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-extfile",
            &extensions,
            "-out",
            &cert,
        ])?;
    }
    Ok(())
}

/// What a client has: the authority, and a certificate of its own if `own`.
fn client_folder(authority: &Path, dir: &Path, own: bool) -> Result<String> {
    fs::create_dir_all(dir)?;
    fs::copy(authority.join("ca-cert.pem"), dir.join("ca-cert.pem"))?;
    for name in ["client-cert.pem", "client-key.pem"] {
        if own {
            fs::copy(authority.join(name), dir.join(name))?;
        }
    }
    Ok(dir.to_string_lossy().into_owned())
}

fn start(bench: &Bench, name: &str, options: &[String]) -> Result<Server> {
    let dir = bench.file(name);
    fs::create_dir_all(&dir)?;
    let mut server = Server::new(&dir)?;
    server.options = options.to_vec();
    server.start()?;
    server.create("secret", "64MiB")?;
    Ok(server)
}

fn port(server: &Server) -> Result<String> {
    let Address::Tcp(address) = &server.nbd else { anyhow::bail!("TLS is for TCP") };
    Ok(address.rsplit(':').next().context("a port")?.to_string())
}

fn uri(server: &Server, certificates: &str) -> Result<String> {
    Ok(format!("nbds://localhost:{}/secret?tls-certificates={certificates}", port(server)?))
}

fn options(authority: &Path, more: &[&str]) -> Vec<String> {
    let file = |name: &str| authority.join(name).to_string_lossy().into_owned();
    let mut options =
        vec!["--nbd-tls-cert".into(), file("server-cert.pem"), "--nbd-tls-key".into(), file("server-key.pem")];
    options.extend(more.iter().map(|word| word.to_string()));
    options
}

fn tls(bench: &mut Bench) -> Result<()> {
    let (ours, theirs) = (bench.file("ca"), bench.file("other-ca"));
    authority(&ours)?;
    authority(&theirs)?;
    let mut server = start(bench, "tls", &options(&ours, &["--nbd-tls-require"]))?;
    let good = client_folder(&ours, &bench.file("good"), false)?;
    let info = output("nbdinfo", &["--json", &uri(&server, &good)?])?;
    let info: serde_json::Value = serde_json::from_str(&info)?;
    ensure!(info["TLS"] == true, "{info}");
    // Without TLS: refused on TCP, by name of what is missing; the unix socket stays open.
    refused(command("nbdinfo", &[&server.uri("secret")]), &["tls"])?;
    ensure!(Client::connect(&server.nbd, "secret").is_err(), "plaintext was accepted");
    Client::connect(&server.socket, "secret")?.disconnect()?;
    // A server that the client's authority does not know.
    let strange = client_folder(&theirs, &bench.file("strange"), false)?;
    refused(command("nbdinfo", &[&uri(&server, &strange)?]), &["certificate"])?;
    // Bytes go through, QEMU's TLS too.
    let raw = bench.file("tls.raw");
    super::tools::sparse_file(&raw, 64 << 20, 9)?;
    output("nbdcopy", &[&raw.to_string_lossy(), &uri(&server, &good)?])?;
    let image = format!("driver=nbd,host=localhost,port={},export=secret,tls-creds=tls", port(&server)?);
    let plain = format!("driver=raw,file.driver=file,file.filename={}", raw.display());
    let credentials = format!("tls-creds-x509,id=tls,endpoint=client,dir={good}");
    output("qemu-img", &["compare", "--object", &credentials, "--image-opts", &image, &plain])?;
    // Rubbish in place of a handshake.
    for _ in 0..20 {
        use std::io::Write;
        let mut stream = crate::nbd::Stream::connect(&server.nbd)?;
        crate::nbd::greet(&mut stream)?;
        let _ = stream.write_all(b"IHAVEOPT\0\0\0\x05\0\0\0\0");
        let _ = stream.write_all(&[0x16; 500]);
    }
    output("nbdinfo", &[&uri(&server, &good)?])?;
    server.stop()
}

fn client_certificates(bench: &mut Bench) -> Result<()> {
    let ours = bench.file("ca2");
    authority(&ours)?;
    let ca = ours.join("ca-cert.pem").to_string_lossy().into_owned();
    let mut server = start(bench, "mutual", &options(&ours, &["--nbd-tls-require", "--nbd-tls-client-ca", &ca]))?;
    let with = client_folder(&ours, &bench.file("with"), true)?;
    let without = client_folder(&ours, &bench.file("without"), false)?;
    output("nbdinfo", &[&uri(&server, &with)?])?;
    refused(command("nbdinfo", &[&uri(&server, &without)?]), &[])?;
    let (strangers, stranger) = (bench.file("ca3"), bench.file("stranger"));
    authority(&strangers)?;
    client_folder(&strangers, &stranger, true)?;
    fs::copy(ours.join("ca-cert.pem"), stranger.join("ca-cert.pem"))?;
    refused(command("nbdinfo", &[&uri(&server, &stranger.to_string_lossy())?]), &[])?;
    server.stop()
}
