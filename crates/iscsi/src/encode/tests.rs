//! Digests, padding and lengths, against bytes that were worked out by hand.

use super::*;
use crate::testing::{drain, parse};

#[test]
fn a_pdu_is_laid_out_as_the_rfc_draws_it() {
    let mut out = Output::new();
    let answer = Answer::new(0x25, 0x81).byte(3, 2).lun(&[1, 2, 3, 4, 5, 6, 7, 8]).task(0x1122_3344);
    put_bytes(answer.word(44, 5).half(40, 6), &[0xaa, 0xbb, 0xcc], Digests::default(), &mut out);
    let mut expect = vec![0x25, 0x81, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x22, 0x33, 0x44];
    expect.resize(40, 0);
    expect.extend([0, 6, 0, 0, 0, 0, 0, 5, 0xaa, 0xbb, 0xcc, 0]);
    assert_eq!(drain(&mut out), expect);
}

#[test]
fn digests_are_those_of_the_rfc() {
    // RFC 7143 appendix A.4: 32 bytes of zeros give aa 36 91 8a.
    let mut out = Output::new();
    let digests = Digests { header: false, data: true };
    put(Answer::new(0, 0), [Segment::Zeros(32)].into_iter(), 32, digests, &mut out);
    assert_eq!(drain(&mut out)[48 + 32..], [0xaa, 0x36, 0x91, 0x8a]);
    // A SCSI Read (10) command PDU, of which the appendix gives the digest too.
    let mut basic = [0; 48];
    basic[..8].copy_from_slice(&[0x01, 0xc0, 0, 0, 0, 0, 0, 0]);
    basic[16] = 0x14;
    basic[22..24].copy_from_slice(&[0x04, 0]);
    basic[27] = 0x14;
    basic[31] = 0x18;
    basic[32] = 0x28;
    basic[39] = 0;
    basic[40] = 0x02;
    assert_eq!(crc32c(&basic).to_le_bytes(), [0x56, 0x3a, 0x96, 0xd9]);
    put_bytes(Answer(basic), &[], Digests { header: true, data: true }, &mut out);
    assert_eq!(drain(&mut out), [basic.as_slice(), &[0x56, 0x3a, 0x96, 0xd9]].concat());
}

#[test]
fn data_in_pieces_is_the_same_as_in_one() {
    let bytes: Vec<u8> = (0..5000u32).map(|i| i as u8).collect();
    let zeros = 100_001;
    let segments =
        || [Segment::Bytes(bytes.clone().into()), Segment::Zeros(zeros), Segment::Bytes(bytes[..77].to_vec().into())];
    let whole = [bytes.as_slice(), &vec![0; zeros as usize], &bytes[..77]].concat();
    for (header, data) in [(false, false), (true, false), (false, true), (true, true)] {
        let (mut out, mut other) = (Output::new(), Output::new());
        let digests = Digests { header, data };
        put(Answer::new(0x25, 0x80), segments().into_iter(), whole.len() as u32, digests, &mut out);
        put_bytes(Answer::new(0x25, 0x80), &whole, digests, &mut other);
        let sent = drain(&mut out);
        assert_eq!(sent, drain(&mut other));
        let pdus = parse(&sent, header, data);
        assert!(pdus.len() == 1 && pdus[0].data == whole);
    }
}
