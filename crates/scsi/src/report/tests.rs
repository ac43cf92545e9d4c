//! What a target tells of itself.

use crate::table::TABLE;
use crate::testing::Bench;

fn commands(options: u8, opcode: u8, action: u8) -> [u8; 12] {
    [0xa3, 0x0c, options, opcode, 0, action, 0, 0, 0xff, 0xff, 0, 0]
}

#[test]
fn all_commands_are_told_and_each_by_itself() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    for (options, len) in [(0, 8), (0x80, 20)] {
        let all = initiator.good(&commands(options, 0, 0), &[]);
        assert_eq!(u32::from_be_bytes(all[..4].try_into().expect("four bytes")) as usize, all.len() - 4);
        assert_eq!((all.len() - 4) / len, TABLE.len());
        for (told, entry) in all[4..].chunks(len).zip(TABLE) {
            let action = entry.action.unwrap_or(0);
            let flags = options >> 6 | u8::from(entry.action.is_some());
            assert_eq!(told[..8], [entry.opcode, 0, 0, action, 0, flags, 0, entry.cdb_bytes() as u8]);
            assert!(options == 0 || told[8..] == [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
    }
    for entry in TABLE {
        let action = entry.action.unwrap_or(0);
        let (right, wrong) = if entry.action.is_some() { (2, 1) } else { (1, 2) };
        assert_eq!(initiator.codes(&commands(wrong, entry.opcode, action), &[]), (5, 0x24, 0));
        for options in [right, 3] {
            let one = initiator.good(&commands(options, entry.opcode, action), &[]);
            assert_eq!(one[..4], [0, 3, 0, entry.cdb_bytes() as u8]);
            assert_eq!((one[4], one[5]), (entry.opcode, entry.usage[0] | action));
            assert_eq!(one[6..], entry.usage[1..]);
        }
    }
    assert_eq!(initiator.good(&commands(1, 0xff, 0), &[]), [0, 1, 0, 0]);
    assert_eq!(initiator.good(&commands(3, 0x48, 9), &[]), [0, 1, 0, 0]);
    assert_eq!(initiator.codes(&commands(4, 0, 0), &[]), (5, 0x24, 0));
}

#[test]
fn functions_and_port_groups() {
    let bench = Bench::new();
    let initiator = bench.initiator("iqn.a,i,0x1");
    let _second_port = bench.target.nexus("iqn.a,i,0x2", 2);
    assert_eq!(initiator.good(&[0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0], &[]), [0xde, 7, 0, 0]);
    assert_eq!(initiator.good(&[0xa3, 0x0d, 0x80, 0, 0, 0, 0, 0, 0, 255, 0, 0], &[]).len(), 16);
    assert_eq!(initiator.codes(&[0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0], &[]), (5, 0x24, 0));
    let group = [0, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2];
    let groups = initiator.good(&[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0], &[]);
    assert_eq!((&groups[..4], &groups[4..]), (&[0, 0, 0, 16][..], &group[..]));
    let extended = initiator.good(&[0xa3, 0x2a, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0], &[]);
    assert_eq!((&extended[..8], &extended[8..]), (&[0, 0, 0, 20, 0x10, 0, 0, 0][..], &group[..]));
    assert_eq!(initiator.codes(&[0xa3, 0x4a, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0], &[]), (5, 0x24, 0));
}
