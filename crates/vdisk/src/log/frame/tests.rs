//! Golden bytes and properties of the frame header.

use super::*;
use proptest::prelude::*;

fn sample() -> Frame {
    Frame {
        kind: FrameKind::Data,
        vdisk: VdiskId::new(1, 7),
        group: GroupId::new(1, 9),
        offset: 0x2000,
        len: 176 + 8192,
        epoch: Epoch(3),
        sequence: Sequence(42),
        durable_through: Sequence(40),
        wall_ns: 0x0102_0304_0506_0708,
        previous_crc: 0xa1b2_c3d4,
        copy_of: None,
        crc: 0,
        runs: vec![
            Run {
                kind: RunKind::Data,
                level: 0,
                count: 2,
                block: 5,
                payload_offset: 176,
                payload_len: 8192,
                crc_first: 0,
            },
            Run {
                kind: RunKind::ClearHole,
                level: 0,
                count: 9,
                block: 100,
                payload_offset: 0,
                payload_len: 0,
                crc_first: 2,
            },
        ],
        crcs: vec![0x1111_1111, 0x2222_2222],
    }
}

#[test]
fn golden_bytes() {
    let bytes = encode(&mut sample());
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        concat!(
            "44534652",
            "01",
            "01",
            "0000",
            "CRCCRCCR",
            "a0000000",
            "b0200000",
            "02000000",
            "0700000001000000",
            "0900000001000000",
            "00200000",
            "00000000",
            "0300000000000000",
            "2a00000000000000",
            "2800000000000000",
            "0807060504030201",
            "d4c3b2a1",
            "000000000000000000000000",
            "01000000",
            "02000000",
            "0500000000000000",
            "b0000000",
            "00200000",
            "11111111",
            "22222222",
            "02000000",
            "09000000",
            "6400000000000000",
            "00000000",
            "00000000",
            "0000000000000000",
        )
        .replace("CRCCRCCR", &hex[16..24])
    );
    assert_eq!(&hex[16..24], GOLDEN_CRC, "the checksum's value is part of the format");
}
const GOLDEN_CRC: &str = "7a45698d";

#[test]
fn golden_bytes_of_a_later_copy() {
    let first = encode(&mut sample());
    let mut copy = Frame { copy_of: Some(0x1234_5678), ..sample() };
    let bytes = encode(&mut copy);
    assert_eq!((&bytes[6..8], &bytes[84..88]), (&[1, 0][..], &[0x78, 0x56, 0x34, 0x12][..]));
    let rest = |bytes: &[u8]| [&bytes[..6], &bytes[12..84], &bytes[88..]].concat();
    assert_eq!(rest(&bytes), rest(&first));
    let read = decode(&bytes).expect("it is whole");
    assert_eq!((read.copy_of, read.origin()), (Some(0x1234_5678), 0x1234_5678));
    assert_eq!(
        decode(&first).map(|frame| frame.origin()),
        Ok(u32::from_le_bytes(*first[8..].first_chunk().expect("long")))
    );
}

#[test]
fn flags_of_a_newer_writer_and_a_copy_without_its_flag_are_refused() {
    for at in [6, 7, 84] {
        let mut bytes = encode(&mut sample());
        bytes[at] = 2;
        let crc = checksum(&bytes);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode(&bytes), Err(NotAFrame::Field), "byte {at}");
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let mut frame = sample();
    let bytes = encode(&mut frame);
    assert_eq!(decode(&bytes).as_ref(), Ok(&frame));
    for bit in 0..bytes.len() * 8 {
        let mut broken = bytes.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&broken).is_err(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(matches!(decode(&bytes[..len]), Err(NotAFrame::Incomplete(_))), "{len} bytes");
    }
}

#[test]
fn a_newer_version_is_named() {
    let mut bytes = encode(&mut sample());
    bytes[4] = 9;
    let crc = checksum(&bytes);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(decode(&bytes), Err(NotAFrame::Version(9)));
}

proptest! {
    #[test]
    fn garbage_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), fix in any::<bool>()) {
        if fix && bytes.len() >= FIXED_LEN {
            bytes[..4].copy_from_slice(b"DSFR");
            let len = bytes.len() / 16 * 16;
            bytes[12..16].copy_from_slice(&(len as u32).to_le_bytes());
            let crc = checksum(&bytes[..len]);
            bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        }
        let _ = decode(&bytes);
    }

    #[test]
    fn what_was_written_is_read(runs in proptest::collection::vec((0..3u8, 1..20u32, 0..1u64 << 34), 0..20), sequence in any::<u64>(), copy_of in any::<Option<u32>>()) {
        let mut frame = Frame { runs: vec![], crcs: vec![], sequence: Sequence(sequence), copy_of, ..sample() };
        for (kind, count, block) in runs {
            let kind = [RunKind::Data, RunKind::ClearHole, RunKind::ClearZeros][kind as usize];
            let run = Run { kind, level: 0, count, block, payload_offset: 0, payload_len: 0, crc_first: frame.crcs.len() as u32 };
            frame.crcs.extend((0..run.crc_count() as u32).map(|i| i ^ 0x5555));
            frame.runs.push(run);
        }
        let mut at = header_len(&frame.runs);
        for run in frame.runs.iter_mut().filter(|run| run.kind == RunKind::Data) {
            run.payload_offset = at;
            run.payload_len = run.count * 4096;
            at += run.payload_len;
        }
        frame.len = at;
        let bytes = encode(&mut frame);
        prop_assert_eq!(decode(&bytes), Ok(frame));
    }
}
