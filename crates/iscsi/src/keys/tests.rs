//! Each operational key, what is answered and what then holds.

use super::*;

fn answer(key: &str, value: &str, phase: Phase) -> (String, Parameters) {
    let mut agreed = Parameters::default();
    let mut answers = Text::default();
    negotiate(key, value, phase, &mut agreed, &mut answers);
    let text = String::from_utf8(answers.bytes).expect("text");
    let answer = text.strip_suffix('\0').unwrap_or("").strip_prefix(&format!("{key}=")).unwrap_or(&text);
    (answer.to_string(), agreed)
}

#[test]
fn every_key_is_answered_as_the_rfc_says() {
    let cases = [
        ("HeaderDigest", "CRC32C,None", "CRC32C"),
        ("HeaderDigest", "None,CRC32C", "None"),
        ("HeaderDigest", "SHA1,CRC32C", "CRC32C"),
        ("HeaderDigest", "SHA1", "Reject"),
        ("DataDigest", "None", "None"),
        ("MaxConnections", "8", "1"),
        ("MaxConnections", "0", "Reject"),
        ("MaxConnections", "65536", "Reject"),
        ("InitialR2T", "No", "No"),
        ("InitialR2T", "Yes", "Yes"),
        ("InitialR2T", "yes", "Reject"),
        ("ImmediateData", "Yes", "Yes"),
        ("ImmediateData", "No", "No"),
        ("MaxRecvDataSegmentLength", "262144", ""),
        ("MaxRecvDataSegmentLength", "511", "Reject"),
        ("MaxRecvDataSegmentLength", "16777216", "Reject"),
        ("MaxBurstLength", "16776192", "16776192"),
        ("MaxBurstLength", "16777215", "16777215"),
        ("MaxBurstLength", "512", "512"),
        ("MaxBurstLength", "511", "Reject"),
        ("FirstBurstLength", "262144", "65536"),
        ("FirstBurstLength", "0x200", "512"),
        ("MaxOutstandingR2T", "1", "1"),
        ("MaxOutstandingR2T", "64", "8"),
        ("MaxOutstandingR2T", "0", "Reject"),
        ("DefaultTime2Wait", "0", "2"),
        ("DefaultTime2Wait", "5", "5"),
        ("DefaultTime2Wait", "3601", "Reject"),
        ("DefaultTime2Retain", "20", "0"),
        ("DataPDUInOrder", "No", "Yes"),
        ("DataSequenceInOrder", "Yes", "Yes"),
        ("ErrorRecoveryLevel", "2", "0"),
        ("ErrorRecoveryLevel", "3", "Reject"),
        ("TaskReporting", "FastAbort,ResponseFence,RFC3720", "ResponseFence"),
        ("TaskReporting", "FastAbort", "Reject"),
        ("iSCSIProtocolLevel", "1", "1"),
        ("iSCSIProtocolLevel", "31", "2"),
        ("iSCSIProtocolLevel", "32", "Reject"),
        ("OFMarker", "Yes", "No"),
        ("IFMarker", "No", "No"),
        ("OFMarkInt", "2048~8192", "Reject"),
        ("IFMarkInt", "2048", "Reject"),
        ("SendTargets", "All", "Reject"),
        ("TargetAddress", "1.2.3.4", "Reject"),
        ("X-com.example.fast", "Yes", "NotUnderstood"),
        ("Nonsense", "1", "NotUnderstood"),
        // Answers to what we declared.
        ("MaxRecvDataSegmentLength", "NotUnderstood", ""),
        ("HeaderDigest", "Reject", ""),
    ];
    for (key, value, expect) in cases {
        assert_eq!(answer(key, value, Phase::Normal).0, expect, "{key}={value}");
    }
}

#[test]
fn what_was_agreed_holds() {
    let default = Parameters::default();
    let cases = [
        ("HeaderDigest", "CRC32C", Parameters { digests: Digests { header: true, data: false }, ..default }),
        ("DataDigest", "CRC32C,None", Parameters { digests: Digests { header: false, data: true }, ..default }),
        ("DataDigest", "SHA1", default),
        ("InitialR2T", "No", Parameters { initial_r2t: false, ..default }),
        ("ImmediateData", "No", Parameters { immediate_data: false, ..default }),
        ("MaxRecvDataSegmentLength", "0x40000", Parameters { send_bytes_max: 262_144, ..default }),
        ("MaxRecvDataSegmentLength", "1", default),
        ("MaxBurstLength", "1048576", Parameters { burst_bytes_max: 1_048_576, ..default }),
        ("FirstBurstLength", "4096", Parameters { first_burst_bytes_max: 4096, ..default }),
        ("MaxOutstandingR2T", "16", Parameters { outstanding_r2t_max: 8, ..default }),
        ("DefaultTime2Wait", "7", Parameters { time2wait: 7, ..default }),
        ("iSCSIProtocolLevel", "2", Parameters { protocol_level: 2, ..default }),
    ];
    for (key, value, expect) in cases {
        assert_eq!(answer(key, value, Phase::Normal).1, expect, "{key}={value}");
    }
}

#[test]
fn what_is_for_commands_is_irrelevant_in_discovery() {
    for key in ["InitialR2T", "ImmediateData", "MaxBurstLength", "FirstBurstLength", "MaxConnections", "TaskReporting"]
    {
        assert_eq!(answer(key, "1", Phase::Discovery).0, "Irrelevant", "{key}");
    }
    assert_eq!(answer("HeaderDigest", "CRC32C,None", Phase::Discovery).0, "CRC32C");
    assert_eq!(answer("DefaultTime2Wait", "2", Phase::Discovery).0, "2");
}

#[test]
fn a_first_burst_is_no_longer_than_a_burst() {
    let mut agreed = Parameters { burst_bytes_max: 4096, ..Parameters::default() };
    agreed.settle();
    assert_eq!(agreed.first_burst_bytes_max, 4096);
}

#[test]
fn keys_of_the_login_are_told_from_unknown_ones() {
    for key in ["HeaderDigest", "ErrorRecoveryLevel", "TargetName", "CHAP_A", "OFMarkInt"] {
        assert!(is_of_login(key), "{key}");
    }
    assert!(!is_of_login("X-com.example.fast"));
}
