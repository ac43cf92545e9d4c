//! Golden bytes, and every way in which they can be damaged.

use super::*;

fn vdisk() -> VdiskRecord {
    VdiskRecord {
        id: VdiskId::new(7, 9),
        name: "demo".into(),
        size_bytes: 20 << 30,
        sector_bytes: 512,
        read_only: true,
        created_wall_ns: 0x1122_3344_5566_7788,
        shard: 1,
        epoch: Epoch(3),
        checkpoint: Some(CheckpointHint { group: GroupId::new(7, 1), offset: 4096, len: 8192, sequence: Sequence(5) }),
        tail: Some(TailHint {
            group: GroupId::new(7, 2),
            len: 12288,
            sequence: Sequence(6),
            chain: 0xdead_beef,
            clean: true,
        }),
        deleted: false,
        clone: None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn seal(body: &[u8]) -> Vec<u8> {
    [body, &base::crc::crc32c(body).to_le_bytes()].concat()
}

#[test]
fn golden_bytes() {
    let node = NodeRecord { node: 7, shards: 2, format: 1 };
    assert_eq!(hex(&node.encode()), "01000107000200010000000e980e35");
    let disk = DiskId(0x0102_0304_0506_0708);
    let shard = ShardRecord { disk, generation: 9, clean: true, begun: 0, may_hide: false };
    assert_eq!(hex(&shard.encode()), "010002080706050403020109000000000000000141b0cf2f");
    for (begun, may_hide, fields) in [(11, false, "0b0000000000000000"), (0, true, "000000000000000001")] {
        let encoded = hex(&ShardRecord { begun, may_hide, ..shard.clone() }.encode());
        let body = format!("0200020807060504030201090000000000000001{fields}");
        assert_eq!(encoded.strip_prefix(&body).map(str::len), Some(8), "{encoded}");
    }
    assert_eq!(
        hex(&vdisk().encode()),
        concat!(
            "0100030900000007000000040064656d6f00000000050000000002000001887766554433221101000300000000000000",
            "01010000000700000000100000002000000500000000000000010200000007000000003000000600000000000000efbe",
            "adde0100da5014f6"
        )
    );
    let clone = Some(CloneOf { family: VdiskId::new(1, 2), parent: VdiskId::new(1, 3) });
    let (plain, encoded) = (hex(&vdisk().encode()), hex(&VdiskRecord { clone, ..vdisk() }.encode()));
    let fields = &plain[4..plain.len() - 8];
    assert!(encoded.starts_with(&format!("0200{fields}02000000010000000300000001000000")), "{encoded}");
    assert_eq!(encoded.len(), plain.len() + 32);
    let note = NoteRecord { vdisk: VdiskId::new(7, 9), kind: 2, bytes: Bytes::from_static(b"abc") };
    let body = "01000409000000070000000203000000616263";
    let encoded = hex(&note.encode());
    assert_eq!(encoded.strip_prefix(body).map(str::len), Some(8), "{encoded}");
    let group = InitiatorGroupRecord { name: "esx".into(), serial: 3, initiators: vec!["a".into(), "bc".into()] };
    let body = "010005030065737803000000000000000200010061020062";
    let encoded = hex(&group.encode());
    assert_eq!(encoded.strip_prefix(body).map(str::len), Some(10), "{encoded}");
    let births = BirthsRecord { shard: 1, vdisks: vec![VdiskId::new(1, 2), VdiskId::new(1, 3)] };
    let body = "01000a0100020002000000010000000300000001000000";
    let encoded = hex(&births.encode());
    assert_eq!(encoded.strip_prefix(body).map(str::len), Some(8), "{encoded}");
    let bare = VdiskRecord { checkpoint: None, tail: None, deleted: true, name: "".into(), ..vdisk() };
    assert_eq!(
        hex(&bare.encode()),
        concat!(
            "0100030900000007000000000000000000050000000002000001887766554433221101000300000000000000000001b8",
            "0e062c"
        )
    );
}

#[test]
fn records_come_back() {
    let births = BirthsRecord { shard: 1, vdisks: vec![VdiskId::new(1, 2), VdiskId::new(1, 3)] };
    assert_eq!(BirthsRecord::decode(&births.encode()).expect("good"), births);
    let node = NodeRecord { node: 65535, shards: 1, format: 9 };
    assert_eq!(NodeRecord::decode(&node.encode()).expect("good"), node);
    for (begun, may_hide) in [(0, false), (0, true), (u64::MAX, false), (7, true)] {
        let shard = ShardRecord { disk: DiskId(u64::MAX), generation: u64::MAX, clean: false, begun, may_hide };
        assert_eq!(ShardRecord::decode(&shard.encode()).expect("good"), shard);
    }
    let bare = VdiskRecord { checkpoint: None, tail: None, name: "ü".repeat(100), ..vdisk() };
    let initiators = vec!["iqn.2026-11.io.x:a".to_string(), "b".into()];
    let group = InitiatorGroupRecord { name: "esx".into(), serial: 3, initiators };
    assert_eq!(InitiatorGroupRecord::decode(&group.encode()).expect("good"), group);
    for bytes in [Bytes::new(), vec![7; 60 << 10].into()] {
        let note = NoteRecord { vdisk: VdiskId::new(7, 9), kind: 1, bytes };
        assert_eq!(NoteRecord::decode(&note.encode()).expect("good"), note);
        assert!(note.encode().len() <= crate::VALUE_BYTES_MAX);
    }
    let clone = Some(CloneOf { family: VdiskId::new(1, 2), parent: VdiskId::new(1, 3) });
    for record in [vdisk(), bare, VdiskRecord { clone, ..vdisk() }] {
        assert_eq!(VdiskRecord::decode(&record.encode()).expect("good"), record);
    }
}

#[test]
fn damage_is_noticed() {
    let good = vdisk().encode();
    for len in 0..good.len() {
        assert_eq!(VdiskRecord::decode(&good[..len]).expect_err("short").kind, Kind::Corrupt, "{len} bytes");
    }
    for bit in 0..good.len() * 8 {
        let mut bad = good.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(VdiskRecord::decode(&bad).expect_err("flipped").kind, Kind::Corrupt, "bit {bit}");
    }
}

/// With the right checksum: what another program, or a bug, might have written.
#[test]
fn impossible_fields_are_refused() {
    let good = vdisk().encode();
    let body = &good[..good.len() - 4];
    let kind = |body: &[u8]| VdiskRecord::decode(&seal(body)).expect_err("impossible").kind;
    for len in 0..body.len() {
        assert_eq!(kind(&body[..len]), Kind::Corrupt, "cut at {len}");
    }
    assert_eq!(kind(&[body, &[0]].concat()), Kind::Corrupt, "too long");
    let with = |at: usize, byte: u8| {
        let mut bad = body.to_vec();
        bad[at] = byte;
        bad
    };
    assert_eq!(kind(&with(0, 2)), Kind::Corrupt, "of a clone, without its origin");
    assert_eq!(kind(&with(0, 3)), Kind::UnsupportedFormat);
    assert_eq!(kind(&with(0, 0)), Kind::UnsupportedFormat);
    assert_eq!(kind(&with(2, 1)), Kind::Corrupt, "another kind");
    assert_eq!(kind(&with(9, 1)), Kind::Corrupt, "an id of 49 bits");
    assert_eq!(kind(&with(13, 0xff)), Kind::Corrupt, "no UTF-8");
    assert_eq!(kind(&with(29, 2)), Kind::Corrupt, "a bool of 2");
    assert_eq!(kind(&with(body.len() - 1, 2)), Kind::Corrupt, "another");
}
