//! Digests: right ones go through, wrong ones are noticed wherever they are.

use super::*;

const BOTH: [&str; 3] = ["HeaderDigest=CRC32C", "DataDigest=CRC32C", "InitialR2T=No"];

#[test]
fn right_digests_go_through() {
    let mut host = Host::new(&BOTH);
    let data = pattern(777);
    let tag = host.command(&write(100, 777, true, &data));
    let execute = host.session.gather(tag, 777, 0, &mut host.out).expect("at once");
    assert!(execute.data == data);
    host.session.respond(execute.tag, good(&[]), &mut host.out);
    let tag = host.run(&read(101, 777));
    host.session.respond(tag, good(&[&data]), &mut host.out);
    // Checked while they are parsed.
    assert!(host.replies()[1].data == data);
}

#[test]
fn a_wrong_header_digest_ends_the_connection() {
    for at in 0..52 {
        let mut host = Host::new(&BOTH);
        let mut bytes = host.encode(&read(100, 512));
        bytes[at] ^= 0x10;
        // A length that says more than there is waits for the rest of it.
        bytes.extend([0; 200]);
        let mut input = bytes.as_slice();
        let next = host.session.next(&mut input, &mut host.out);
        assert!(
            at == 4 && matches!(next, Next::Starved | Next::Broken(_)) || matches!(next, Next::Broken(_)),
            "{at}: {next:?}"
        );
        assert!(host.out.is_empty());
    }
}

#[test]
fn a_command_with_damaged_data_is_rejected_and_ends() {
    for at in [0, 300, 511, 512, 515] {
        let mut host = Host::new(&BOTH);
        let mut bytes = host.encode(&write(100, 512, true, &pattern(512)));
        bytes[52 + at] ^= 1;
        assert!(host.bytes(&bytes).is_empty());
        let replies = host.replies();
        assert_eq!(replies[0].basic[..3], [0x3f, 0x80, 0x02]);
        assert_eq!(replies[0].data[16..20], 100u32.to_be_bytes());
        assert_eq!((replies[1].basic[0], replies[1].basic[3], replies[1].get(16)), (0x21, 2, 100));
        assert_eq!([replies[1].data[4], replies[1].data[14], replies[1].data[15]], [0x0b, 0x47, 0x05]);
        // Its number was used up, so that what follows is not held up.
        let _ = host.run(&read(101, 0));
    }
}

#[test]
fn damaged_data_of_a_write_ends_it_when_all_of_it_has_come() {
    let mut host = Host::new(&[&BOTH[..2], &["MaxBurstLength=512", "MaxOutstandingR2T=2"]].concat());
    let data = pattern(1536);
    let tag = host.command(&write(100, 1536, true, &[]));
    assert!(host.session.gather(tag, 1536, 0, &mut host.out).is_none());
    let transfers: Vec<u32> = host.replies().iter().map(|pdu| pdu.get(20)).collect();
    let mut bytes = host.encode(&data_out(100, transfers[0], 0, 0, true, &data[..512]));
    bytes[60] ^= 1;
    assert!(host.bytes(&bytes).is_empty());
    let reply = host.reply();
    assert_eq!(reply.basic[..3], [0x3f, 0x80, 0x02], "rejected, and no third R2T");
    assert!(host.send(&data_out(100, transfers[1], 0, 512, true, &data[512..1024])).is_empty());
    let reply = host.reply();
    assert_eq!((reply.basic[0], reply.basic[3], reply.data[14]), (0x21, 2, 0x47));
    assert_eq!(host.session.commands_under_way(), 0);
}

#[test]
fn other_requests_with_damaged_data_are_rejected_and_count() {
    let mut host = Host::new(&BOTH);
    let mut bytes = host.encode(&Pdu::new(0x00, 0x80).word(16, 8).word(20, u32::MAX).word(24, 100).data(&[1; 8]));
    bytes[55] ^= 1;
    assert!(host.bytes(&bytes).is_empty());
    let reply = host.reply();
    assert_eq!((reply.basic[2], reply.get(28)), (0x02, 101));
}
