//! Data in both directions: how it is cut, asked for, put together, and what is wrong with it.

use super::*;

#[test]
fn a_read_is_answered_in_one_pdu_with_its_status() {
    let mut host = Host::new(&[]);
    let pdu = read(100, 512);
    let mut next = host.send(&pdu);
    let Next::Command { tag, lun, cdb, attribute, offered: 0 } = next.remove(0) else { panic!() };
    assert_eq!((lun, cdb.as_slice()[0], cdb.as_slice().len()), (LUN, 0x28, 16));
    assert_eq!(attribute, Attribute::Simple);
    let execute = host.session.gather(tag, 0, 5, &mut host.out).expect("at once");
    assert_eq!((execute.task, execute.data.len()), (5, 0));
    host.session.respond(execute.tag, good(&[&pattern(512)]), &mut host.out);
    let reply = host.reply();
    assert_eq!(reply.data, pattern(512));
    // Data-In, final with status; good; task; no transfer tag; numbers; number, offset, residual.
    assert_eq!(reply.basic[..4], [0x25, 0x81, 0, 0]);
    let words: Vec<u32> = (16..48).step_by(4).map(|at| reply.get(at)).collect();
    assert_eq!(words, [100, u32::MAX, 2, 101, 228, 0, 0, 0]);
    assert_eq!((host.session.commands_under_way(), host.session.running()), (0, 0));
}

#[test]
fn a_long_read_is_cut_by_segment_and_burst() {
    let mut host = Host::new(&["MaxRecvDataSegmentLength=1024", "MaxBurstLength=2560"]);
    let tag = host.run(&read(100, 6000));
    let data = pattern(6000);
    host.session.respond(tag, good(&[&data[..100], &data[100..3000], &[], &data[3000..]]), &mut host.out);
    let replies = host.replies();
    let shape: Vec<(usize, u8, u32, u32)> =
        replies.iter().map(|pdu| (pdu.data.len(), pdu.basic[1], pdu.get(36), pdu.get(40))).collect();
    let expect = [
        (1024, 0, 0, 0),
        (1024, 0, 1, 1024),
        (512, 0x80, 2, 2048),
        (1024, 0, 3, 2560),
        (1024, 0, 4, 3584),
        (512, 0x80, 5, 4608),
        (880, 0x81, 6, 5120),
    ];
    assert_eq!(shape, expect);
    assert!(replies.iter().flat_map(|pdu| pdu.data.clone()).eq(data));
}

#[test]
fn zeros_and_bytes_mix() {
    let mut host = Host::new(&["MaxRecvDataSegmentLength=1000"]);
    let tag = host.run(&read(100, 4096));
    let segments = vec![Segment::Zeros(1500), Segment::Bytes(vec![7; 1096].into()), Segment::Zeros(1500)];
    host.session.respond(tag, Response { data: segments, ..good(&[]) }, &mut host.out);
    let all: Vec<u8> = host.replies().into_iter().flat_map(|pdu| pdu.data).collect();
    assert_eq!(all, [vec![0; 1500], vec![7; 1096], vec![0; 1500]].concat());
}

#[test]
fn residuals_are_exact() {
    // Flags of the command, expected; what the device server wants, returns; flags, residual and data that come back.
    let cases = [
        (0xc0, 512, 0, 512, 0x00, 0, 512),
        (0xc0, 600, 0, 512, 0x02, 88, 512),
        (0xc0, 200, 0, 512, 0x04, 312, 200),
        (0xc0, 0, 0, 512, 0x04, 512, 0),
        (0xc0, 512, 0, 0, 0x02, 512, 0),
        (0xa0, 512, 512, 0, 0x00, 0, 0),
        (0xa0, 600, 512, 0, 0x02, 88, 0),
        (0xa0, 200, 512, 0, 0x04, 312, 0),
        (0xa0, 0, 512, 0, 0x04, 512, 0),
        (0x80, 0, 0, 0, 0x00, 0, 0),
        (0x80, 0, 0, 36, 0x04, 36, 0),
        // Flagged as what it is not.
        (0xc0, 512, 512, 0, 0x04, 512, 0),
    ];
    for (flags, expected, wanted, returned, flags_back, residual, sent) in cases {
        let mut host = Host::new(&[]);
        let data = if flags == 0xa0 { pattern(expected as usize) } else { Vec::new() };
        let pdu = Pdu::new(0x01, flags).word(16, 100).word(20, expected).word(24, 100).data(&data);
        let tag = host.command(&pdu);
        let execute = host.session.gather(tag, wanted, 0, &mut host.out).expect("all of it came with the command");
        let case = format!("{flags:#x} {expected} {wanted} {returned}");
        assert_eq!(execute.data.len() as u32, if flags == 0xa0 { wanted.min(expected) } else { 0 }, "{case}");
        host.session.respond(execute.tag, good(&[&pattern(returned)]), &mut host.out);
        let reply = host.reply();
        assert_eq!((reply.basic[1] & 6, reply.get(44), reply.data.len()), (flags_back, residual, sent), "{case}");
    }
}

#[test]
fn a_failed_command_brings_its_sense_data() {
    let mut host = Host::new(&[]);
    let tag = host.run(&read(100, 512));
    let sense = scsi::Sense { key: scsi::Key::MediumError, asc: 0x11, ascq: 0, bytes: vec![0x70, 0, 3, 9] };
    let response = Response { status: Status::CheckCondition, sense: Some(sense), data: Vec::new() };
    host.session.respond(tag, response, &mut host.out);
    let reply = host.reply();
    assert_eq!(reply.basic[..4], [0x21, 0x82, 0, 2]);
    assert_eq!(reply.data, [0, 4, 0x70, 0, 3, 9]);
    assert_eq!((reply.get(36), reply.get(44)), (0, 512));
}

#[test]
fn data_that_precedes_a_bad_status_is_sent() {
    let mut host = Host::new(&[]);
    let tag = host.run(&read(100, 512));
    let sense = scsi::Sense { key: scsi::Key::RecoveredError, asc: 0x17, ascq: 0, bytes: vec![0x70; 18] };
    let response = Response { status: Status::CheckCondition, sense: Some(sense), ..good(&[&pattern(512)]) };
    host.session.respond(tag, response, &mut host.out);
    let replies = host.replies();
    let shape: Vec<(u8, u8, usize)> = replies.iter().map(|pdu| (pdu.basic[0], pdu.basic[1], pdu.data.len())).collect();
    assert_eq!(shape, [(0x25, 0x80, 512), (0x21, 0x80, 20)]);
    assert_eq!(replies[1].get(36), 1, "one Data-In PDU went before");
}

#[test]
fn a_write_is_gathered_from_all_that_it_may_come_in() {
    let keys = ["InitialR2T=No", "FirstBurstLength=1536", "MaxBurstLength=2048", "MaxOutstandingR2T=2"];
    let mut host = Host::new(&keys);
    let data = pattern(6000);
    let tag = host.command(&write(100, 6000, false, &data[..512]));
    assert!(host.session.gather(tag, 6000, 8, &mut host.out).is_none());
    assert!(host.replies().is_empty(), "unsolicited data comes first");
    assert!(host.send(&data_out(100, u32::MAX, 0, 512, false, &data[512..1000])).is_empty());
    assert!(host.send(&data_out(100, u32::MAX, 1, 1000, true, &data[1000..1536])).is_empty());
    let asked = host.replies();
    let words = |pdu: &Pdu| [pdu.get(16), pdu.get(36), pdu.get(40), pdu.get(44)];
    assert_eq!(asked.iter().map(words).collect::<Vec<_>>(), [[100, 0, 1536, 2048], [100, 1, 3584, 2048]]);
    assert_eq!(asked[0].basic[..2], [0x31, 0x80]);
    assert_eq!([asked[0].get(24), asked[0].get(28)], [2, 101], "an R2T uses up no status number");
    let (first, second) = (asked[0].get(20), asked[1].get(20));
    assert_ne!(first, second);
    assert!(host.send(&data_out(100, first, 0, 1536, false, &data[1536..2500])).is_empty());
    assert!(host.send(&data_out(100, first, 1, 2500, true, &data[2500..3584])).is_empty());
    let third = host.reply();
    assert_eq!(words(&third), [100, 2, 5632, 368]);
    assert!(host.send(&data_out(100, second, 0, 3584, true, &data[3584..5632])).is_empty());
    assert!(host.session.waits_for_data());
    let mut next = host.send(&data_out(100, third.get(20), 0, 5632, true, &data[5632..]));
    let Next::Execute(execute) = next.remove(0) else { panic!("{next:?}") };
    assert_eq!(execute.task, 8);
    assert!(execute.data == data);
    host.session.respond(execute.tag, good(&[]), &mut host.out);
    let reply = host.reply();
    assert_eq!((reply.basic[..4].to_vec(), reply.get(36)), (vec![0x21, 0x80, 0, 0], 3), "three R2Ts");
    assert!(!host.session.waits_for_data());
}

#[test]
fn no_more_is_gathered_than_the_device_server_wants() {
    let mut host = Host::new(&["InitialR2T=No"]);
    let data = pattern(4096);
    // It wants nothing, and the initiator has announced data: that is waited for and dropped.
    let tag = host.command(&write(100, 4096, false, &data[..1024]));
    assert!(host.session.gather(tag, 0, 1, &mut host.out).is_none());
    let mut next = host.send(&data_out(100, u32::MAX, 0, 1024, true, &data[1024..]));
    let Next::Execute(execute) = next.remove(0) else { panic!() };
    assert!(execute.data.is_empty());
    host.session.forget(execute.tag);
    // It wants less than that.
    let tag = host.command(&write(101, 4096, false, &data[..1024]));
    assert!(host.session.gather(tag, 1500, 1, &mut host.out).is_none());
    let mut next = host.send(&data_out(101, u32::MAX, 0, 1024, true, &data[1024..]));
    let Next::Execute(execute) = next.remove(0) else { panic!() };
    assert!(execute.data == data[..1500]);
    assert!(host.replies().is_empty());
}

#[test]
fn data_may_be_read_straight_into_its_place() {
    let data = pattern(100_000);
    let mut host = Host::new(&["DataDigest=CRC32C", "MaxBurstLength=100000"]);
    let tag = host.command(&write(100, 100_000, true, &data[..20_000]));
    assert!(host.session.gather(tag, 100_000, 1, &mut host.out).is_none());
    let transfer = host.reply().get(20);
    let bytes = host.encode(&data_out(100, transfer, 0, 20_000, true, &data[20_000..]));
    assert!(host.bytes(&bytes[..60]).is_empty());
    for (from, to) in [(60, 1000), (1000, 50_000), (50_000, 80_048)] {
        let (buffer, missing) = host.session.payload().expect("data is under way");
        assert_eq!(missing, 80_048 - from);
        buffer.extend_from_slice(&bytes[from..to]);
        if to < 80_048 {
            assert!(host.bytes(&[]).is_empty());
        }
    }
    assert!(host.session.payload().is_none(), "all of it is there");
    let mut next = host.bytes(&bytes[80_048..]);
    let Next::Execute(execute) = next.remove(0) else { panic!("{next:?}") };
    assert!(execute.data == data);
}

#[test]
fn wrong_data_ends_the_command_and_nothing_else() {
    let data = pattern(2048);
    // What comes in place of the second half: number, offset, length; and the codes of the sense data.
    let cases: [(u32, u32, usize, [u8; 3]); 4] = [
        (1, 1024, 1024, [0x0b, 0x47, 0x05]),
        (0, 512, 1024, [0x0b, 0x47, 0x05]),
        (u32::MAX, 1024, 1024, [0x0b, 0x47, 0x05]),
        (0, 1024, 512, [0x0b, 0x0c, 0x0d]),
    ];
    for (number, offset, len, codes) in cases {
        let mut host = Host::new(&[]);
        let tag = host.command(&write(100, 2048, true, &data[..1024]));
        assert!(host.session.gather(tag, 2048, 1, &mut host.out).is_none());
        let transfer = host.reply().get(20);
        assert!(host.send(&data_out(100, transfer, number, offset, true, &data[..len])).is_empty());
        let reply = host.reply();
        assert_eq!(reply.basic[..4], [0x21, 0x82, 0, 2], "{number} {offset}");
        assert_eq!([reply.data[4], reply.data[14], reply.data[15]], codes, "{number} {offset}");
        assert_eq!(host.session.commands_under_way(), 0);
        let _ = host.run(&read(101, 0));
    }
}

#[test]
fn data_that_nobody_asked_for() {
    let mut host = Host::new(&[]);
    // Of a command that is not there any more: dropped.
    assert!(host.send(&data_out(55, 3, 0, 0, true, &[1; 512])).is_empty());
    assert!(host.replies().is_empty());
    // Unsolicited, where R2Ts are agreed on: the command ends.
    let tag = host.command(&write(100, 2048, true, &[]));
    assert!(host.session.gather(tag, 2048, 1, &mut host.out).is_none());
    let transfer = host.reply().get(20);
    assert!(host.send(&data_out(100, u32::MAX, 0, 0, true, &[1; 512])).is_empty());
    assert!(host.send(&data_out(100, transfer, 0, 0, true, &[1; 2048])).is_empty());
    let reply = host.reply();
    assert_eq!([reply.data[4], reply.data[14], reply.data[15]], [0x0b, 0x0c, 0x0c]);
    // More than was asked for, or not in the order in which it was asked for: the connection ends.
    for (number, len) in [(1, 512), (0, 1024)] {
        let mut host = Host::new(&["MaxBurstLength=512", "MaxOutstandingR2T=2"]);
        let tag = host.command(&write(100, 2048, true, &[]));
        assert!(host.session.gather(tag, 2048, 1, &mut host.out).is_none());
        let transfer = host.replies()[number].get(20);
        let next = host.send(&data_out(100, transfer, 0, 512 * number as u32, true, &vec![1; len]));
        assert!(matches!(next[..], [Next::Broken(_)]), "{next:?}");
    }
}

#[test]
fn immediate_data_is_taken_only_where_it_was_agreed_on() {
    let mut host = Host::new(&["ImmediateData=No"]);
    let tag = host.command(&write(100, 512, true, &[1; 512]));
    assert!(host.session.gather(tag, 512, 1, &mut host.out).is_none());
    let reply = host.reply();
    assert_eq!([reply.data[4], reply.data[14], reply.data[15]], [0x0b, 0x0c, 0x0c]);
    assert_eq!(host.session.running(), 0);
}

#[test]
fn an_extended_cdb_is_put_together_and_both_directions_are_refused() {
    let mut host = Host::new(&[]);
    let mut pdu = read(100, 512);
    // Length 5, type 1, a reserved byte, four of the CDB, padding.
    pdu.additional = vec![0, 5, 1, 0, 0xa, 0xb, 0xc, 0xd];
    let mut next = host.send(&pdu);
    let Next::Command { cdb, .. } = next.remove(0) else { panic!() };
    assert_eq!((cdb.as_slice().len(), &cdb.as_slice()[16..]), (20, [0xa, 0xb, 0xc, 0xd].as_slice()));
    let mut pdu = read(101, 512);
    pdu.additional = vec![0, 5, 2, 0, 0, 0, 2, 0];
    assert!(host.send(&pdu).is_empty());
    let reply = host.reply();
    assert_eq!((reply.basic[3], reply.data[4]), (2, 5));
    let mut pdu = read(102, 512);
    pdu.additional = vec![0xff, 0xff, 1, 0];
    assert!(host.send(&pdu).is_empty());
    assert_eq!(host.reply().basic[..3], [0x3f, 0x80, 0x09]);
}
