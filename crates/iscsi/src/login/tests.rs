//! The stages of the login, who gets in, and what the others are told.

use super::*;
use crate::testing::{ENTROPY, Pdu, TARGET, Targets, drain, login, open_targets, pairs, parse, step};
use md5::{Digest, Md5};
use proptest::prelude::*;

const NAME: &str = "InitiatorName=iqn.2000-01.test:guest";
const TO_TARGET: &str = "TargetName=iqn.2026-11.io.drystone:disk";

fn machine() -> Login {
    Login::new(1, ENTROPY)
}

fn status(answer: &Option<Pdu>) -> u16 {
    let basic = &answer.as_ref().expect("an answer").basic;
    u16::from_be_bytes([basic[36], basic[37]])
}

fn keys(answer: &Option<Pdu>) -> Vec<String> {
    pairs(&answer.as_ref().expect("an answer").data)
}

/// What CHAP asks for, worked out here.
fn md5(identifier: u8, secret: &str, challenge: &[u8]) -> String {
    let digest = Md5::digest([&[identifier], secret.as_bytes(), challenge].concat());
    digest.iter().fold("0x".to_string(), |text, byte| format!("{text}{byte:02x}"))
}

fn secret(user: &str, secret: &str) -> Option<Secret> {
    Some(Secret { user: user.to_string(), secret: secret.as_bytes().to_vec() })
}

fn with_chap() -> Targets {
    Targets { chap: secret("guest", "correct horse"), mutual: secret("disk", "battery staple"), ..open_targets() }
}

#[test]
fn an_initiator_gets_in_through_both_stages() {
    let mut machine = machine();
    let first = login(0x81, &[NAME, TO_TARGET, "SessionType=Normal", "AuthMethod=CHAP,None", "InitiatorAlias=me"]);
    let (answered, answer) = step(&mut machine, &first, &open_targets());
    assert_eq!(answered, Step::Answered);
    assert_eq!(keys(&answer), ["TargetPortalGroupTag=1", "AuthMethod=None"]);
    let answer = answer.expect("an answer");
    // Opcode, transit from 0 to 1, versions; ISID, TSIH; task tag; numbers; status.
    assert_eq!(answer.basic[..4], [0x23, 0x81, 0, 0]);
    assert_eq!(answer.basic[8..16], [0x80, 1, 2, 3, 4, 5, 0, 0]);
    assert_eq!([answer.get(16), answer.get(24), answer.get(28), answer.get(36)], [9, 1, 100, 0]);
    let second = login(0x87, &["HeaderDigest=None,CRC32C", "ErrorRecoveryLevel=0", "MaxRecvDataSegmentLength=65536"]);
    let (entered, answer) = step(&mut machine, &second, &open_targets());
    assert_eq!(entered, Step::Enter(Chosen::Target(TARGET.to_string())));
    assert!(answer.is_none(), "the answer waits for the session");
    assert_eq!(machine.initiator().alias.as_deref(), Some("me"));
    let mut out = Output::new();
    let session: Session<()> = machine.accept(0x1234, Limits::default(), &mut out);
    let answers = parse(&drain(&mut out), false, false);
    assert_eq!(answers[0].basic[..2], [0x23, 0x87]);
    assert_eq!(answers[0].basic[14..16], [0x12, 0x34]);
    assert_eq!([answers[0].get(24), answers[0].get(28), answers[0].get(32)], [2, 100, 100 + 127]);
    assert_eq!(
        pairs(&answers[0].data),
        ["HeaderDigest=None", "ErrorRecoveryLevel=0", "MaxRecvDataSegmentLength=262144"]
    );
    assert_eq!(session.parameters().send_bytes_max, 65_536);
}

#[test]
fn what_is_wrong_with_a_request_is_told() {
    let wrong_type = format!("{NAME},{TO_TARGET},SessionType=Strange");
    let nobody = format!("{NAME},TargetName=iqn.2026-11.io.drystone:nobody");
    let later = format!("{NAME},TargetName=iqn.2026-11.io.drystone:later");
    let forbidden = format!("InitiatorName=iqn.2000-01.bad:guest,{TO_TARGET}");
    let good = format!("{NAME},{TO_TARGET}");
    let twice = format!("{good},ImmediateData=Yes,ImmediateData=Yes");
    let no_method = format!("{good},AuthMethod=KRB5");
    let strange = format!("InitiatorName=a b,{TO_TARGET}");
    let cases: [(u8, &str, LoginStatus); 15] = [
        (0x87, TO_TARGET, LoginStatus::MissingParameter),
        (0x87, NAME, LoginStatus::MissingParameter),
        (0x87, &strange, LoginStatus::InitiatorError),
        (0x87, &wrong_type, LoginStatus::SessionTypeNotSupported),
        (0x87, &nobody, LoginStatus::NotFound),
        (0x87, &later, LoginStatus::ServiceUnavailable),
        (0x87, &forbidden, LoginStatus::AuthorizationFailure),
        (0x87, &twice, LoginStatus::InitiatorError),
        (0x81, &no_method, LoginStatus::AuthenticationFailure),
        // Transit and continue at once; no such stages.
        (0xc7, &good, LoginStatus::InitiatorError),
        (0x88, &good, LoginStatus::InitiatorError),
        (0x8c, &good, LoginStatus::InitiatorError),
        (0x82, &good, LoginStatus::InitiatorError),
        (0x80, &good, LoginStatus::InitiatorError),
        (0x85, &good, LoginStatus::InitiatorError),
    ];
    for (flags, text, expect) in cases {
        let all: Vec<&str> = text.split(',').collect();
        let (end, answer) = step(&mut machine(), &login(flags, &all), &open_targets());
        assert_eq!(status(&answer), expect as u16, "{flags:#x} {text}");
        assert_eq!(matches!(end, Step::Unproven(_)), expect == LoginStatus::AuthenticationFailure, "{text}");
        assert!(matches!(end, Step::Unproven(_) | Step::Close(_)), "{end:?}");
    }
}

#[test]
fn requests_that_differ_or_do_not_fit_end_the_login() {
    let good = login(0x04, &[NAME, TO_TARGET]);
    let cases = [
        (login(0x04, &[]).at(8, &[9]), LoginStatus::InitiatorError),
        (login(0x04, &[]).word(16, 10), LoginStatus::InitiatorError),
        (login(0x04, &[]).at(20, &[7]), LoginStatus::InitiatorError),
        (login(0x00, &[]), LoginStatus::InitiatorError),
        (login(0x04, &[]).at(3, &[1]), LoginStatus::UnsupportedVersion),
        (Pdu::new(0x40, 0x80), LoginStatus::InvalidDuringLogin),
        (login(0x04, &[]).data(&[b'a'; 8193]), LoginStatus::InitiatorError),
        (login(0x04, &[]).data(b"no end"), LoginStatus::InitiatorError),
    ];
    for (second, expect) in cases {
        let mut machine = machine();
        assert_eq!(step(&mut machine, &good, &open_targets()).0, Step::Answered);
        let mut out = Output::new();
        let bytes = second.plain();
        let end = machine.step(&mut bytes.as_slice(), &open_targets(), &mut out);
        assert!(matches!(end, Step::Close(_)), "{second:?}: {end:?}");
        let answers = parse(&drain(&mut out), false, false);
        assert_eq!(u16::from_be_bytes([answers[0].basic[36], answers[0].basic[37]]), expect as u16, "{second:?}");
    }
    let (end, answer) = step(&mut machine(), &Pdu::new(0x01, 0x80), &open_targets());
    assert!(matches!(end, Step::Close(_)) && answer.is_none(), "who does not log in is told nothing");
}

#[test]
fn a_session_is_neither_joined_nor_added_to() {
    for (tsih, expect) in [(7, LoginStatus::TooManyConnections), (8, LoginStatus::SessionDoesNotExist)] {
        let request = login(0x87, &[NAME, TO_TARGET]).at(14, &[0, tsih]);
        let (_, answer) = step(&mut machine(), &request, &open_targets());
        assert_eq!(status(&answer), expect as u16);
    }
}

#[test]
fn text_may_be_continued_and_does_not_grow_without_end() {
    let mut machine = machine();
    let (first, answer) = step(&mut machine, &login(0x44, &[NAME]), &open_targets());
    assert_eq!((first, answer.expect("an answer").data.len()), (Step::Answered, 0));
    let mut half = login(0x44, &[]);
    half.data = b"TargetName=iqn.2026-11.io.dry".to_vec();
    assert_eq!(step(&mut machine, &half, &open_targets()).0, Step::Answered);
    let mut rest = login(0x87, &[]);
    rest.data = b"stone:disk\0ImmediateData=No\0".to_vec();
    assert!(matches!(step(&mut machine, &rest, &open_targets()).0, Step::Enter(_)));
    assert!(!machine.parameters().immediate_data);

    let mut machine = Login::new(1, ENTROPY);
    let long = login(0x44, &[]).data(&[b'a'; 8000]);
    assert_eq!(step(&mut machine, &long, &open_targets()).0, Step::Answered);
    assert_eq!(step(&mut machine, &long, &open_targets()).0, Step::Answered);
    assert!(matches!(step(&mut machine, &long, &open_targets()).0, Step::Close(_)));

    let mut machine = Login::new(1, ENTROPY);
    let ends = (0..100).find(|_| step(&mut machine, &login(0x44, &[]), &open_targets()).0 != Step::Answered);
    assert_eq!(ends, Some(REQUESTS_MAX as usize), "a login that goes on for ever");
}

#[test]
fn discovery_needs_no_target() {
    let mut machine = machine();
    let request = login(0x87, &[NAME, "SessionType=Discovery", "InitialR2T=No", "DefaultTime2Wait=2"]);
    assert_eq!(step(&mut machine, &request, &open_targets()).0, Step::Enter(Chosen::Discovery));
    let mut out = Output::new();
    let _: Session<()> = machine.accept(1, Limits::default(), &mut out);
    let answers = parse(&drain(&mut out), false, false);
    let expect = ["InitialR2T=Irrelevant", "DefaultTime2Wait=2", "MaxRecvDataSegmentLength=262144"];
    assert_eq!(pairs(&answers[0].data), expect);
}

/// Up to the challenge.
fn challenged(machine: &mut Login, targets: &Targets, algorithms: &str) -> Vec<String> {
    let (_, answer) = step(machine, &login(0x81, &[NAME, TO_TARGET, "AuthMethod=CHAP,None"]), targets);
    assert_eq!(keys(&answer), ["TargetPortalGroupTag=1", "AuthMethod=CHAP"]);
    assert_eq!(answer.expect("an answer").basic[1], 0, "no transit yet");
    let (_, answer) = step(machine, &login(0x00, &[algorithms]), targets);
    keys(&answer)
}

#[test]
fn chap_lets_in_who_knows_the_secret() {
    let challenge = format!("CHAP_C={}", crate::text::hexadecimal(&[0x5a; 32]));
    let response = md5(42, "correct horse", &[0x5a; 32]);
    for (user, response, lets_in) in [
        ("guest", response.as_str(), true),
        ("Guest", response.as_str(), false),
        ("guest", &md5(42, "wrong horse", &[0x5a; 32]), false),
        ("guest", &md5(43, "correct horse", &[0x5a; 32]), false),
        ("guest", "0x00", false),
        ("guest", "nonsense", false),
        ("", "", false),
    ] {
        let mut machine = machine();
        let asked = challenged(&mut machine, &with_chap(), "CHAP_A=5");
        assert_eq!(asked, ["CHAP_A=5", "CHAP_I=42", challenge.as_str()]);
        let request = login(0x81, &[&format!("CHAP_N={user}"), &format!("CHAP_R={response}")]);
        let (end, answer) = step(&mut machine, &request, &with_chap());
        match lets_in {
            true => {
                assert_eq!((end, status(&answer)), (Step::Answered, 0));
                assert_eq!(machine.initiator().user.as_deref(), Some("guest"));
            }
            false => {
                assert!(matches!(end, Step::Unproven(_)), "{user} {response}");
                assert_eq!(status(&answer), LoginStatus::AuthenticationFailure as u16);
            }
        }
    }
}

#[test]
fn the_strongest_algorithm_is_taken() {
    for (offered, taken) in [("CHAP_A=5,7", "CHAP_A=7"), ("CHAP_A=6,5", "CHAP_A=5")] {
        assert_eq!(challenged(&mut machine(), &with_chap(), offered)[0], taken);
    }
    let mut machine = machine();
    step(&mut machine, &login(0x00, &[NAME, TO_TARGET, "AuthMethod=CHAP"]), &with_chap());
    assert!(matches!(step(&mut machine, &login(0x00, &["CHAP_A=6"]), &with_chap()).0, Step::Unproven(_)));
}

#[test]
fn the_target_proves_itself_when_asked() {
    let response = format!("CHAP_R={}", md5(42, "correct horse", &[0x5a; 32]));
    let theirs = [1, 2, 3, 4, 5, 6, 7, 8];
    let answer_of = |targets: &Targets, identifier: &str, challenge: &str| {
        let mut machine = machine();
        challenged(&mut machine, targets, "CHAP_A=5");
        let mut all = vec!["CHAP_N=guest", response.as_str()];
        all.extend([identifier, challenge].into_iter().filter(|key| !key.is_empty()));
        step(&mut machine, &login(0x81, &all), targets)
    };
    let (_, answer) = answer_of(&with_chap(), "CHAP_I=9", "CHAP_C=0x0102030405060708");
    let expect = format!("CHAP_R={}", md5(9, "battery staple", &theirs));
    assert_eq!(keys(&answer), ["CHAP_N=disk", expect.as_str()]);

    let ours = format!("CHAP_C={}", crate::text::hexadecimal(&[0x5a; 32]));
    let (end, _) = answer_of(&with_chap(), "CHAP_I=9", &ours);
    assert_eq!(end, Step::Unproven("the initiator sent our own challenge back"));
    let one_way = Targets { mutual: None, ..with_chap() };
    assert!(matches!(answer_of(&one_way, "CHAP_I=9", "CHAP_C=0x01").0, Step::Unproven(_)));
    for (identifier, challenge) in
        [("CHAP_I=9", ""), ("", "CHAP_C=0x01"), ("CHAP_I=300", "CHAP_C=0x01"), ("CHAP_I=9", "CHAP_C=1")]
    {
        assert!(matches!(answer_of(&with_chap(), identifier, challenge).0, Step::Close(_)), "{identifier} {challenge}");
    }
}

#[test]
fn nobody_gets_past_chap() {
    // Every way to the full feature phase that leaves it out.
    let paths: [&[Pdu]; 7] = [
        &[login(0x87, &[NAME, TO_TARGET])],
        &[login(0x83, &[NAME, TO_TARGET])],
        &[login(0x81, &[NAME, TO_TARGET])],
        &[login(0x81, &[NAME, TO_TARGET, "AuthMethod=None"])],
        &[login(0x87, &[NAME, TO_TARGET, "AuthMethod=None"])],
        &[login(0x81, &[NAME, TO_TARGET, "AuthMethod=CHAP"]), login(0x81, &["CHAP_N=guest", "CHAP_R=0x00"])],
        &[login(0x81, &[NAME, TO_TARGET, "AuthMethod=CHAP"]), login(0x87, &["ImmediateData=Yes"])],
    ];
    for path in paths {
        let mut machine = machine();
        let ends: Vec<Step> = path.iter().map(|request| step(&mut machine, request, &with_chap()).0).collect();
        assert!(matches!(ends.last(), Some(Step::Unproven(_) | Step::Close(_))), "{path:?}: {ends:?}");
    }
    // Leaving the stage without an answer to the challenge does not get anywhere either.
    let mut machine = machine();
    challenged(&mut machine, &with_chap(), "CHAP_A=5");
    let (_, answer) = step(&mut machine, &login(0x83, &[]), &with_chap());
    assert_eq!(answer.expect("an answer").basic[1], 0);
}

#[test]
fn discovery_with_chap_only_is_checked_against_what_is_known() {
    for (user, word, lets_in) in [("guest", "correct horse", true), ("guest", "wrong", false)] {
        let mut machine = machine();
        let request = login(0x00, &[NAME, "SessionType=Discovery", "AuthMethod=CHAP"]);
        assert_eq!(keys(&step(&mut machine, &request, &with_chap()).1), ["AuthMethod=CHAP"]);
        step(&mut machine, &login(0x00, &["CHAP_A=5"]), &with_chap());
        let response = format!("CHAP_R={}", md5(42, word, &[0x5a; 32]));
        let (end, _) = step(&mut machine, &login(0x83, &[&format!("CHAP_N={user}"), &response]), &with_chap());
        assert_eq!(end == Step::Enter(Chosen::Discovery), lets_in, "{end:?}");
    }
}

#[test]
fn rules_that_changed_since_the_proof_do_not_let_in() {
    let mut machine = machine();
    let (entered, _) = step(&mut machine, &login(0x87, &[NAME, TO_TARGET]), &open_targets());
    assert!(matches!(entered, Step::Enter(_)));
    assert_eq!(machine.recheck(&open_targets()), Ok(()));
    let another = Targets { number: 2, ..open_targets() };
    assert_eq!(machine.recheck(&another), Err(LoginStatus::ServiceUnavailable), "another one of the same name");
    assert_eq!(machine.recheck(&with_chap()), Err(LoginStatus::ServiceUnavailable), "which it has not proven");
    let forbids = Targets { forbids: true, ..open_targets() };
    assert_eq!(machine.recheck(&forbids), Err(LoginStatus::AuthorizationFailure));
}

#[test]
fn secrets_are_not_shown() {
    let shown = format!("{:?}", with_chap().chap);
    assert!(shown.contains("guest") && !shown.contains("correct") && !shown.contains("99, 111"), "{shown}");
}

proptest! {
    #[test]
    fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..300), flags in any::<u8>()) {
        let mut machine = machine();
        let mut out = Output::new();
        let _ = machine.step(&mut bytes.as_slice(), &with_chap(), &mut out);
        let mut machine = Login::new(1, ENTROPY);
        let mut request = login(flags, &[]);
        request.data = bytes;
        let _ = machine.step(&mut request.plain().as_slice(), &with_chap(), &mut out);
    }

    #[test]
    fn it_does_not_matter_how_bytes_are_cut(cuts in prop::collection::vec(1usize..60, 1..40)) {
        let mut bytes = login(0x81, &[NAME, TO_TARGET, "AuthMethod=None"]).plain();
        bytes.extend(login(0x87, &["DataDigest=CRC32C", "MaxBurstLength=4096"]).plain());
        bytes.extend([1, 2, 3]);
        let mut machine = machine();
        let mut out = Output::new();
        let mut cuts = cuts.into_iter().cycle();
        let mut rest = bytes.as_slice();
        let mut end = Step::Starved;
        while !matches!(end, Step::Enter(_)) {
            let (mut head, _) = rest.split_at(cuts.next().expect("a cycle").min(rest.len()));
            let len = head.len();
            end = machine.step(&mut head, &open_targets(), &mut out);
            rest = &rest[len - head.len()..];
        }
        prop_assert_eq!(rest, [1, 2, 3]);
        let _: Session<()> = machine.accept(1, Limits::default(), &mut out);
        prop_assert_eq!(parse(&drain(&mut out), false, false).len(), 2);
    }
}
