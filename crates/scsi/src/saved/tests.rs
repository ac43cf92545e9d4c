//! The bytes of the saved state.

use super::*;

fn state() -> (Reservations, Sanitize) {
    let ports = |name: &str, port| Ports { initiator: name.into(), relative_target_port: port };
    let reservations = Reservations {
        generation: 9,
        aptpl: true,
        registrants: vec![
            Registrant { ports: ports("iqn.a,i,0x1", 1), key: 0x11 },
            Registrant { ports: ports("iqn.b,i,0x2", 2), key: 0x22 },
        ],
        reservation: Some(Reservation { kind: Kind::ExclusiveAccess, holder: ports("iqn.b,i,0x2", 2) }),
    };
    let plan = Plan::Overwrite { block: vec![0xaa; 2].into(), invert: true, passes: 3 };
    (reservations, Sanitize::Running { plan: Rc::new(plan), exit: Exit::Unrestricted, progress: 0 })
}

#[test]
fn the_bytes_are_those_of_version_1() {
    let (reservations, sanitize) = state();
    let bytes = encode(&reservations, &sanitize, Parameters::default());
    let mut golden = b"DSLU\x01\0\x01\x02\0".to_vec();
    golden.extend(b"\x11\0\0\0\0\0\0\0\x01\0\x0b\0iqn.a,i,0x1");
    golden.extend(b"\x22\0\0\0\0\0\0\0\x02\0\x0b\0iqn.b,i,0x2");
    golden.extend(b"\x03\x01\0\x02\x01\x01\x03\x02\0\xaa\xaa");
    assert_eq!(bytes[..bytes.len() - 4], golden);
    assert_eq!(bytes[bytes.len() - 4..], crc::crc32c(&golden).to_le_bytes());
    let reservations = Reservations { generation: 0, ..reservations };
    let expected = Saved { reservations, sanitize, mode: Parameters::default() };
    assert_eq!(decode(&bytes), Ok(expected));
}

#[test]
fn saved_mode_parameters_make_it_version_2() {
    let mode = Parameters { write_cache: false, task_aborted_status: true, ..Parameters::default() };
    let bytes = encode(&Reservations::default(), &Sanitize::Idle, mode);
    let golden = b"DSLU\x02\0\0\0\0\0\0\0\0\0\x08".to_vec();
    assert_eq!(bytes[..bytes.len() - 4], golden);
    assert_eq!(decode(&bytes).map(|saved| saved.mode), Ok(mode));
    let mut unknown = golden;
    *unknown.last_mut().expect("it is not empty") = 0x10;
    unknown.extend(crc::crc32c(&unknown).to_le_bytes());
    assert!(decode(&unknown).is_err());
}

#[test]
fn nothing_is_kept_without_need() {
    let (reservations, _) = state();
    assert_eq!(
        encode(&Reservations { aptpl: false, ..reservations.clone() }, &Sanitize::Idle, Parameters::default()),
        b""
    );
    assert!(!encode(&reservations, &Sanitize::Idle, Parameters::default()).is_empty());
    let failed = Sanitize::Failed { exit: Exit::Restricted };
    let bytes = encode(&Reservations { aptpl: false, ..reservations }, &failed, Parameters::default());
    let saved = decode(&bytes).expect("they are good");
    assert_eq!((saved.reservations.registrants.len(), saved.sanitize), (0, failed));
}

#[test]
fn what_is_damaged_is_refused() {
    let (reservations, sanitize) = state();
    let bytes = encode(&reservations, &sanitize, Parameters::default());
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert!(decode(&damaged).is_err(), "byte {at}");
        assert!(decode(&bytes[..at]).is_err() || at == 0, "cut at {at}");
    }
}
