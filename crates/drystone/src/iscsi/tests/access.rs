//! Who sees what, and who gets in.

use super::initiator::{Initiator, Pdu};
use super::rig::{PREFIX, Running, Setup, secret};
use control::IscsiAccess;
use std::time::{Duration, Instant};

fn status(answer: &Pdu) -> u16 {
    u16::from_be_bytes([answer.basic[36], answer.basic[37]])
}

const NAME: &str = "InitiatorName=iqn.2000-01.test:guest";
const TO_DISK: &str = "TargetName=iqn.2026-11.io.drystone:disk";

fn with_chap() -> IscsiAccess {
    IscsiAccess {
        initiators: Vec::new(),
        chap: secret("guest", "correct horse battery"),
        mutual: secret("disk", "staple staple staple"),
    }
}

/// Targets and addresses that discovery tells this initiator.
fn discover(portal: std::net::SocketAddr, name: &str, asked: &str) -> Vec<String> {
    let mut initiator = Initiator::connect(portal);
    let name = format!("InitiatorName={name}");
    let pdu = Pdu::new(0x43, 0x87).at(8, &[0x80]).word(16, 9).word(24, 1);
    initiator.send(pdu.data(&super::initiator::text(&[&name, "SessionType=Discovery"])));
    assert_eq!(status(&initiator.receive()), 0);
    let pdu = Pdu::new(0x04, 0x80).word(16, 6).word(20, u32::MAX).word(24, 1);
    initiator.send(pdu.data(&super::initiator::text(&[&format!("SendTargets={asked}")])));
    let found = initiator.receive().pairs();
    initiator.number = 2;
    initiator.log_out();
    assert!(initiator.until_closed().is_empty());
    found
}

#[test]
fn discovery_tells_what_the_initiator_may_see() {
    let access = IscsiAccess { initiators: vec!["iqn.2000-01.test:Guest".to_string()], ..IscsiAccess::default() };
    let server = Running::start(Setup { access, ..Setup::default() });
    let of = |name: &str| {
        let target = format!("TargetName={PREFIX}{name}");
        let address = |at: usize| format!("TargetAddress={},{}", server.portals[at], at + 1);
        vec![target, address(0), address(1)]
    };
    let all = [of("disk"), of("other")].concat();
    assert_eq!(discover(server.portals[0], "iqn.2000-01.test:guest", "All"), all);
    assert_eq!(discover(server.portals[1], "iqn.2000-01.test:stranger", "All"), of("other"));
    assert_eq!(discover(server.portals[0], "iqn.2000-01.test:guest", &format!("{PREFIX}disk")), of("disk"));
    assert!(discover(server.portals[0], "iqn.2000-01.test:stranger", &format!("{PREFIX}disk")).is_empty());
    // The same goes for the login.
    let mut stranger = Initiator::connect(server.portals[0]);
    stranger.name = "iqn.2000-01.test:stranger".to_string();
    assert_eq!(status(&stranger.log_in("disk", &[])), 0x0202);
    assert!(stranger.until_closed().is_empty());
    let mut nobody = Initiator::connect(server.portals[0]);
    assert_eq!(status(&nobody.log_in("nobody", &[])), 0x0203);
    let _guest = Initiator::disk(server.portals[0]).ready();
}

#[test]
fn a_portal_on_all_addresses_is_told_by_the_one_that_was_reached() {
    let server = Running::start(Setup { listen: Some(["0.0.0.0:0"; 2]), access: with_chap(), ..Setup::default() });
    let ports: Vec<u16> = server.portals.iter().map(|portal| portal.port()).collect();
    let reached = std::net::SocketAddr::from(([127, 0, 0, 1], ports[0]));
    // "other" asks nobody for anything, which such a portal does not allow.
    let expect = [
        format!("TargetName={PREFIX}disk"),
        format!("TargetAddress=127.0.0.1:{},1", ports[0]),
        format!("TargetAddress=127.0.0.1:{},2", ports[1]),
    ];
    assert_eq!(discover(reached, "iqn.2000-01.test:guest", "All"), expect);
    assert_eq!(status(&Initiator::connect(reached).log_in("other", &[])), 0x0202);
}

#[test]
fn discovery_tells_of_portals_that_serve() {
    let listen = Some(["127.0.0.1:0", "0.0.0.0:0"]);
    let server = Running::start(Setup { listen, access: with_chap(), ..Setup::default() });
    let address = |at: usize| format!("TargetAddress=127.0.0.1:{},{}", server.portals[at].port(), at + 1);
    let disk = [format!("TargetName={PREFIX}disk"), address(0), address(1)];
    // It asks nobody for anything, so that the second portal does not serve it.
    let other = [format!("TargetName={PREFIX}other"), address(0)];
    assert_eq!(discover(server.portals[0], "iqn.2000-01.test:guest", "All"), [&disk[..], &other].concat());
    assert_eq!(discover(server.portals[1], "iqn.2000-01.test:guest", "All"), disk);
    let mut own = Initiator::connect(server.portals[0]).logged_in("other", &[]).ready();
    let pdu = Pdu::new(0x44, 0x80).word(16, 6).word(20, u32::MAX).word(24, own.number);
    own.send(pdu.data(&super::initiator::text(&["SendTargets="])));
    assert_eq!(own.receive().pairs(), other);
}

#[test]
fn to_other_machines_loopback_is_not_told() {
    use crate::iscsi::access::{Portal, View};
    let portal = |listen: &str, group| Portal { listen: listen.parse().expect("an address"), group };
    let portals = [portal("127.0.0.1:3260", 1), portal("10.0.0.1:3260", 2)];
    let (names, sessions) = (super::rig::Names::default(), crate::iscsi::Sessions::new());
    for (reached, told) in [(0, vec![1, 2]), (1, vec![2])] {
        let (portal, local) = (portals[reached], portals[reached].listen);
        let view = View { targets: &names, sessions: &sessions, portals: &portals, portal, local, allow_open: true };
        for target in view.visible("iqn.2000-01.test:guest") {
            assert_eq!(target.portals.iter().map(|(_, group)| *group).collect::<Vec<_>>(), told);
        }
    }
}

#[test]
fn chap_lets_in_those_who_know_the_secret() {
    let server = Running::start(Setup { access: with_chap(), ..Setup::default() });
    let mut initiator = Initiator::connect(server.portals[0]);
    let answer = initiator.log_in_with_chap("guest", "correct horse battery", None);
    assert_eq!(status(&answer), 0);
    assert_eq!(server.sessions.list()[0].user.as_deref(), Some("guest"));
    let mut initiator = initiator.ready();
    assert_eq!(initiator.read(0, 512), [0; 512]);
    let mut both = Initiator::connect(server.portals[1]);
    assert_eq!(status(&both.log_in_with_chap("guest", "correct horse battery", Some("staple staple staple"))), 0);

    for (user, word) in [("guest", "wrong"), ("nobody", "correct horse battery")] {
        let since = Instant::now();
        let mut wrong = Initiator::connect(server.portals[0]);
        assert_eq!(status(&wrong.log_in_with_chap(user, word, None)), 0x0201);
        assert!(since.elapsed() >= Duration::from_millis(200), "guessing is slow");
        assert!(wrong.until_closed().is_empty());
    }
    let mut none = Initiator::connect(server.portals[0]);
    assert_eq!(status(&none.log_in("disk", &[])), 0x0201, "who skips it does not get in");
    assert_eq!(server.sessions.list().len(), 2);
}

#[test]
fn rules_that_change_during_the_login_count() {
    let server = Running::start(Setup::default());
    let set = |access: IscsiAccess| *server.names.access.lock().expect("no panics") = access;
    let others = || IscsiAccess { initiators: vec!["iqn.2000-01.test:other".to_string()], ..IscsiAccess::default() };
    let begun = || {
        let mut slow = Initiator::connect(server.portals[0]);
        assert_eq!(status(&slow.login(0x81, &[NAME, TO_DISK, "AuthMethod=None"])), 0);
        slow
    };
    for (rules, refused) in [(others(), 0x0202), (with_chap(), 0x0301)] {
        set(IscsiAccess::default());
        let mut slow = begun();
        set(rules);
        assert_eq!(status(&slow.login(0x87, &[])), refused);
        assert!(slow.until_closed().is_empty());
    }
    // The recovery of the vDisk takes its time.
    set(IscsiAccess::default());
    *server.controls.attach_delay.lock().expect("no panics") = Duration::from_millis(500);
    let mut slow = begun();
    let pdu = slow.login_pdu(0x87, &[]);
    slow.send(pdu);
    std::thread::sleep(Duration::from_millis(200));
    set(others());
    assert_eq!(status(&slow.receive()), 0x0202);
    assert!(slow.until_closed().is_empty());
    assert!(server.sessions.list().is_empty());
}

#[test]
fn a_vdisk_that_cannot_be_attached_is_not_available() {
    let server = Running::start(Setup::default());
    *server.controls.attach_error.lock().expect("no panics") = Some("the log is damaged".to_string());
    let mut initiator = Initiator::connect(server.portals[0]);
    assert_eq!(status(&initiator.log_in("disk", &[])), 0x0301);
    assert!(initiator.until_closed().is_empty());
    let _again = Initiator::disk(server.portals[0]).ready();
}

#[test]
fn registrations_outlive_their_sessions() {
    let server = Running::start(Setup::default());
    let mut initiator = Initiator::disk(server.portals[0]).ready();
    // PERSISTENT RESERVE OUT, REGISTER with service action key 1234.
    let mut list = [0; 24];
    list[14..16].copy_from_slice(&[0x12, 0x34]);
    let pdu = initiator.command(0xa1, 24, &[0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0]).data(&list);
    initiator.send(pdu);
    assert_eq!(initiator.end_of(initiator.task).0, 0);
    initiator.log_out();
    assert!(initiator.until_closed().is_empty());
    server.wait_until("nobody is left", |server| server.sessions.list().is_empty());
    let mut again = Initiator::disk(server.portals[0]).ready();
    let (status, _, keys) = again.ask(0xc1, 64, &[0x5e, 0, 0, 0, 0, 0, 0, 0, 64, 0]);
    assert_eq!((status, &keys[4..16]), (0, [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0x12, 0x34].as_slice()));
}
