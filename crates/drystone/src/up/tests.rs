//! What is printed at the start.

use super::*;

fn listener(protocol: Protocol, address: &str, tls: bool) -> Listener {
    Listener { protocol, address: address.to_string(), tls }
}

#[test]
fn the_announcement_can_be_copied() {
    let mut config = Config::defaults();
    let tcp = listener(Protocol::Nbd, "127.0.0.1:10809", false);
    let iscsi = listener(Protocol::Iscsi, "127.0.0.1:3260", false);
    let text = announcement(&config, &[tcp, iscsi], "drystone");
    for part in [
        "http://127.0.0.1:7480  (token in ./drystone-data/token)",
        "  NBD  nbd://127.0.0.1:10809/\n",
        "  iSCSI  127.0.0.1:3260  (targets iqn.2026-11.io.drystone:NAME)\n",
        "  drystone vdisk create disk1 --size 20GiB\n",
        "  nbdinfo 'nbd://127.0.0.1:10809/disk1'\n",
    ] {
        assert!(text.contains(part), "{text} does not contain {part:?}");
    }
    config.demo = true;
    config.data = "/srv/d".into();
    config.api.listen.set_port(9);
    let socket = listener(Protocol::NbdUnix, "/run/nbd.sock", true);
    let text = announcement(&config, &[socket], "target/release/drystone");
    for part in [
        "  target/release/drystone --server http://127.0.0.1:9 --data /srv/d vdisk list\n",
        "qemu-img convert -O raw image.qcow2 'nbds+unix:///demo?socket=/run/nbd.sock'",
    ] {
        assert!(text.contains(part), "{text} does not contain {part:?}");
    }
    assert!(!text.contains("vdisk create"), "{text}");
}

#[tokio::test]
async fn the_demo_is_made_once() {
    let model = control::model::Model::default();
    for _ in 0..2 {
        make_demo(&model).await.expect("made or found");
    }
    let info = model.show_vdisk("demo").await.expect("made");
    assert_eq!((info.size_bytes, info.sector_bytes), (20 * GIB, 512));
    model.fail_next(control::model::Verb::Create, control::Error::full("demo"));
    assert!(make_demo(&model).await.is_err());
}
