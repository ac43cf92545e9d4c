//! Files and flags as tables: what they give, or a part of the message that refuses them.

use super::*;
use clap::Parser;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    up: UpFlags,
}

fn load(file: Option<&str>, flags: &[&str]) -> Result<Config> {
    let command = Command::try_parse_from(std::iter::once(&"up").chain(flags))?;
    let mut config = Config::defaults();
    if let Some(text) = file {
        file::File::parse(text)?.apply(&mut config)?;
    }
    command.up.apply(&mut config)?;
    config.check()?;
    Ok(config)
}

fn refused(file: Option<&str>, flags: &[&str], part: &str) {
    let message = match load(file, flags) {
        Ok(config) => panic!("{file:?} {flags:?} was accepted: {config:?}"),
        Err(error) => format!("{error:#}"),
    };
    assert!(message.contains(part), "{file:?} {flags:?}: {message:?} does not say {part:?}");
}

#[test]
fn defaults_stand_their_own_check() {
    let config = load(None, &[]).expect("the defaults are valid");
    assert_eq!(config, Config::defaults());
    assert_eq!(config.api.listen.to_string(), API_DEFAULT);
    assert_eq!(config.nbd.listen.map(|listen| listen.to_string()).as_deref(), Some(NBD_DEFAULT));
    assert_eq!(config.data, PathBuf::from(DATA_DEFAULT));
}

const FULL: &str = r#"
data = "/srv/drystone"
workers = 3
memory = "512MiB"
demo = true
[api]
listen = "127.0.0.1:8000"
allow_plaintext = true
connections_max = 12
request_timeout_seconds = 5
[nbd]
listen = "off"
socket = "/run/nbd.sock"
allow_plaintext = true
connections_max = 7
tls = { cert = "c.pem", key = "k.pem", client_ca = "ca.pem", require = true }
[iscsi]
listen = ["127.0.0.1:3261", "127.0.0.2:3260"]
allow_open = true
connections_max = 5
keepalive_seconds = 9
[engine]
group_size = "16MiB"
checkpoint_interval = "256MiB"
checkpoint_interval_total = "2GiB"
cache = 1048576
unsynced_max = "8MiB"
unsynced_ms_max = 20
poll_us_max = 0
[log]
level = "debug"
format = "json"
"#;

#[test]
fn a_file_sets_everything() {
    let config = load(Some(FULL), &[]).expect("a valid file");
    let expect = Config {
        data: "/srv/drystone".into(),
        workers: 3,
        memory_bytes: 512 * MIB,
        demo: true,
        api: ApiConfig {
            listen: "127.0.0.1:8000".parse().expect("an address"),
            allow_plaintext: true,
            connections_max: 12,
            request_timeout: Duration::from_secs(5),
        },
        nbd: NbdConfig {
            listen: None,
            socket: Some("/run/nbd.sock".into()),
            allow_plaintext: true,
            tls: Some(NbdTls {
                cert: "c.pem".into(),
                key: "k.pem".into(),
                client_ca: Some("ca.pem".into()),
                require: true,
            }),
            connections_max: 7,
        },
        iscsi: IscsiConfig {
            listen: ["127.0.0.1:3261", "127.0.0.2:3260"].map(|text| text.parse().expect("an address")).to_vec(),
            allow_open: true,
            connections_max: 5,
            keepalive: Duration::from_secs(9),
        },
        engine: EngineConfig {
            group_bytes: 16 * MIB,
            checkpoint_interval_bytes: 256 * MIB,
            checkpoint_interval_total_bytes: 2 * GIB,
            cache_bytes: Some(MIB),
            unsynced_bytes_max: 8 * MIB,
            unsynced_age_max: Duration::from_millis(20),
            poll_max: Duration::ZERO,
        },
        log: LogConfig { filter: Some("debug".into()), format: Some(LogFormat::Json) },
    };
    assert_eq!(config, expect);
}

#[test]
fn flags_win() {
    let flags = ["--workers", "1", "--memory", "1GiB", "--nbd", "127.0.0.1:1", "--nbd-tls-cert", "x.pem"];
    let config = load(Some(FULL), &[&flags[..], &["--nbd-tls-key", "y.pem"]].concat()).expect("valid");
    assert_eq!((config.workers, config.memory_bytes), (1, GIB));
    assert_eq!(config.nbd.listen.map(|listen| listen.port()), Some(1));
    let tls = config.nbd.tls.expect("TLS stays on");
    assert_eq!((tls.cert, tls.key, tls.require), ("x.pem".into(), "y.pem".into(), true));
}

#[test]
fn iscsi_is_switched_by_flags() {
    let listen = |flags: &[&str]| load(Some(FULL), flags).expect("valid").iscsi.listen;
    assert_eq!(listen(&["--iscsi", "127.0.0.1:1", "--iscsi", "127.0.0.1:2"]).len(), 2);
    assert!(listen(&["--no-iscsi"]).is_empty());
    assert_eq!(listen(&[]).len(), 2, "the file's");
    let open = load(None, &["--iscsi", "0.0.0.0:3260"]).expect("served to those whom the rules name");
    assert!(!open.iscsi.allow_open);
    refused(None, &["--no-iscsi", "--iscsi", "127.0.0.1:1"], "cannot be used with");
    refused(None, &["--no-iscsi", "--nbd", "off"], "nothing would serve vDisks");
}

#[test]
fn bad_settings_are_refused() {
    for (file, part) in [
        ("colour = 1", "line 1, column 1"),
        ("\n[nbd]\nlisten = \"off\"\nsockte = \"x\"", "line 4, column 1"),
        ("[nbd]\nsockte = \"x\"", "unknown field `sockte`"),
        ("memory = \"much\"", "is not a size"),
        ("memory = true", "a size such as"),
        ("memory = \"1MiB\"", "at least 64 MiB"),
        ("workers = 0", "1 to 256"),
        ("[api]\nlisten = \"nonsense\"", "write HOST:PORT"),
        ("[nbd]\nlisten = \"off\"\n[iscsi]\nlisten = []", "nothing would serve vDisks"),
        ("[iscsi]\nlisten = \"off\"", "expected a sequence"),
        ("[iscsi]\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:1\"]", "twice"),
        ("[iscsi]\nlisten = [\"nonsense\"]", "write HOST:PORT"),
        ("[iscsi]\nkeepalive_seconds = 0", "1 to 3600"),
        ("[nbd]\ntls = { cert = \"c.pem\" }", "missing field `key`"),
        ("[nbd]\nlisten = \"0.0.0.0:1\"\ntls = { cert = \"c\", key = \"k\" }", "NBD without TLS"),
        ("[engine]\ngroup_size = \"1GiB\"", "4 MiB to 256 MiB"),
        ("[engine]\ngroup_size = 4194305", "multiple of 1 MiB"),
        ("[engine]\ncheckpoint_interval = \"8GiB\"", "checkpoint_interval_total"),
        ("[log]\nformat = \"xml\"", "unknown variant `xml`"),
        ("[engine]\nunsynced_ms_max = 0", "1 to 60000"),
        ("[engine]\npoll_us_max = 1001", "0 to 1000"),
        ("memory = \"64MiB\"\n[engine]\ncache = \"65MiB\"", "engine.cache"),
    ] {
        refused(Some(file), &[], part);
    }
    for (flags, part) in [
        (&["--api", "0.0.0.0:7480"][..], "--api-allow-plaintext"),
        (&["--nbd", "0.0.0.0:10809"], "--nbd-allow-plaintext"),
        (&["--nbd", "[::]:10809"], "--nbd-allow-plaintext"),
        (&["--nbd-tls-require"], "--nbd-tls-cert"),
        (&["--nbd-tls-cert", "x"], "--nbd-tls-key"),
        (&["--memory", "lots"], "is not a size"),
    ] {
        refused(None, flags, part);
    }
}

#[test]
fn plaintext_beyond_this_machine_when_asked_for_by_name() {
    for flags in [
        &["--api", "0.0.0.0:7480", "--api-allow-plaintext"][..],
        &["--nbd", "0.0.0.0:10809", "--nbd-allow-plaintext"],
        &["--nbd", "0.0.0.0:1", "--nbd-tls-cert", "c", "--nbd-tls-key", "k", "--nbd-tls-require"],
    ] {
        load(None, flags).unwrap_or_else(|error| panic!("{flags:?}: {error:#}"));
    }
}

#[test]
fn paths_in_the_file_count_from_its_directory() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("drystone.toml");
    std::fs::write(&path, "data = \"state\"\n[nbd]\nsocket = \"/run/x.sock\"").expect("writable");
    let mut flags = UpFlags { config: Some(path), ..UpFlags::default() };
    let config = Config::load(&flags).expect("valid");
    assert_eq!(config.data, directory.path().join("state"));
    flags.data = Some("/d".into());
    assert_eq!(Config::load(&flags).expect("valid").data, PathBuf::from("/d"), "the flag wins");
    assert_eq!(config.nbd.socket, Some("/run/x.sock".into()));
    let missing = UpFlags { config: Some("/nowhere/x.toml".into()), ..UpFlags::default() };
    assert!(format!("{:#}", Config::load(&missing).expect_err("no file")).contains("/nowhere/x.toml"));
}
