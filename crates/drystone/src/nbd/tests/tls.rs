//! STARTTLS, with and without client certificates, before and after the move to a worker.

use super::client::{Client, Stream, tcp};
use super::device::{Running, Setup};
use super::pattern;
use crate::config::NbdTls;
use nbd::wire::{command, option, option_reply};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;

/// Certificates as PEM files in a folder: `ca`, and what it signed: `server`, `client`.
struct Certificates(tempfile::TempDir);

impl Certificates {
    fn new() -> Certificates {
        let folder = tempfile::tempdir().expect("a folder");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed");
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect("written");
        write("ca.pem", ca.pem());
        for name in ["server", "client"] {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new(vec!["localhost".to_string()]).expect("a name");
            write(&format!("{name}.pem"), params.signed_by(&key, &ca).expect("signed").pem());
            write(&format!("{name}-key.pem"), key.serialize_pem());
        }
        Certificates(folder)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn settings(&self, mutual: bool, require: bool) -> NbdTls {
        NbdTls {
            cert: self.path("server.pem"),
            key: self.path("server-key.pem"),
            client_ca: mutual.then(|| self.path("ca.pem")),
            require,
        }
    }

    fn client(&self, certificate: bool) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).expect("a CA")).expect("a usable CA");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("versions").with_root_certificates(roots);
        Arc::new(match certificate {
            false => builder.with_no_client_auth(),
            true => {
                let chain = vec![CertificateDer::from_pem_file(self.path("client.pem")).expect("a certificate")];
                let key = PrivateKeyDer::from_pem_file(self.path("client-key.pem")).expect("a key");
                builder.with_client_auth_cert(chain, key).expect("they fit")
            }
        })
    }
}

/// Asks for TLS and runs the handshake. The client's options go on above it, without another greeting.
fn start_tls(server: &Running, config: Arc<ClientConfig>) -> Client {
    let socket = tcp(server.tcp);
    let mut plain = Client::greet(Box::new(socket.try_clone().expect("a second handle")));
    assert_eq!(plain.option(option::STARTTLS, &[])[0].0, option_reply::ACK);
    let name = "localhost".try_into().expect("a name");
    let connection = ClientConnection::new(config, name).expect("a connection");
    let stream: Box<dyn Stream> = Box::new(StreamOwned::new(connection, socket));
    plain.stream = stream;
    plain
}

fn server(certificates: &Certificates, mutual: bool, require: bool) -> Running {
    Running::start(Setup { tls: Some(certificates.settings(mutual, require)), ..Setup::default() })
}

#[test]
fn io_over_tls() {
    let certificates = Certificates::new();
    for (mutual, require) in [(false, false), (false, true), (true, true)] {
        let server = server(&certificates, mutual, require);
        let mut client = start_tls(&server, certificates.client(mutual)).structured().ready("disk");
        for len in [512, 65_536, 100 * 1024, 8 << 20] {
            let data = pattern(len as u64, len);
            assert_eq!(client.write(0, &data), Ok(Vec::new()), "{len} bytes");
            assert!(client.read(0, len as u32) == Ok(data), "{len} bytes");
        }
        let mut cookies: Vec<u64> = (0..200).map(|_| client.send(command::READ, 0, 4096, &[])).collect();
        for _ in 0..200 {
            let (cookie, answer) = client.receive();
            assert!(answer == Ok(pattern(8 << 20, 4096)));
            cookies.retain(|waiting| *waiting != cookie);
        }
        assert!(cookies.is_empty());
        client.send(command::DISC, 0, 0, &[]);
        assert!(client.is_closed());
    }
}

#[test]
fn without_tls_nothing_but_tls_is_answered_where_it_is_required() {
    let certificates = Certificates::new();
    let server = server(&certificates, false, true);
    let mut client = Client::tcp(server.tcp);
    assert_eq!(client.go("disk").0, option_reply::ERR_TLS_REQD);
    assert_eq!(client.option(option::LIST, &[])[0].0, option_reply::ERR_TLS_REQD);
    // The unix socket is guarded by its permissions.
    let mut local = Client::unix(&server.folder.path().join("nbd.sock")).ready("disk");
    assert_eq!(local.read(0, 512), Ok(vec![0; 512]));
}

#[test]
fn a_client_without_the_certificate_that_is_asked_for_gets_nothing() {
    let certificates = Certificates::new();
    let server = server(&certificates, true, true);
    let mut client = start_tls(&server, certificates.client(false));
    let sent = std::io::Write::write_all(&mut client.stream, &super::encode_option(option::LIST, &[]));
    assert!(sent.is_err() || client.is_closed());
    // One that a stranger signed is no better.
    let strangers = Certificates::new();
    std::fs::copy(certificates.path("ca.pem"), strangers.path("ca.pem")).expect("copied");
    let mut client = start_tls(&server, strangers.client(true));
    let sent = std::io::Write::write_all(&mut client.stream, &super::encode_option(option::LIST, &[]));
    assert!(sent.is_err() || client.is_closed());
}

#[test]
fn a_handshake_that_is_none_is_cut_off() {
    let certificates = Certificates::new();
    let server = server(&certificates, false, false);
    let mut client = Client::tcp(server.tcp);
    assert_eq!(client.option(option::STARTTLS, &[])[0].0, option_reply::ACK);
    client.stream.write_all(&[0x55; 600]).expect("sent");
    let mut all = Vec::new();
    let _ = client.stream.read_to_end(&mut all);
    assert!(all.len() < 64, "{} bytes instead of an alert", all.len());
}

#[test]
fn a_client_that_says_goodbye_and_does_not_read_is_let_go() {
    let certificates = Certificates::new();
    let server = server(&certificates, false, true);
    let mut client = start_tls(&server, certificates.client(false)).ready("disk");
    for _ in 0..64 {
        client.send(command::READ, 0, 1 << 20, &[]);
    }
    client.send(command::DISC, 0, 0, &[]);
    server
        .wait_until("the hold is dropped", |controls| controls.attached.load(std::sync::atomic::Ordering::SeqCst) == 0);
}

#[test]
fn bad_files_are_named() {
    let certificates = Certificates::new();
    let bind = |tls: NbdTls| {
        let config = crate::config::NbdConfig { tls: Some(tls), ..super::settings(Some("127.0.0.1:0"), None) };
        super::bind(config).expect_err("the files are bad")
    };
    let good = certificates.settings(false, false);
    let missing = Path::new("/nowhere/cert.pem").to_path_buf();
    let error = bind(NbdTls { cert: missing.clone(), ..good.clone() });
    assert!(error.contains("/nowhere/cert.pem"), "{error}");
    let error = bind(NbdTls { key: missing, ..good.clone() });
    assert!(error.contains("private key from /nowhere/cert.pem"), "{error}");
    let error = bind(NbdTls { cert: certificates.path("server-key.pem"), ..good.clone() });
    assert!(error.contains("holds no certificate"), "{error}");
    let error = bind(NbdTls { key: certificates.path("client-key.pem"), ..good });
    assert!(error.contains("do not fit together"), "{error}");
}
