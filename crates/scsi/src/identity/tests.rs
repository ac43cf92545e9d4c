//! Designators.

use crate::testing::identity;

#[test]
fn designators_name_one_vdisk_of_one_realm() {
    let first = identity(1);
    let other_disk = identity(2);
    let other_realm = super::Identity { realm: 99, ..identity(1) };
    assert_eq!(first.naa(), [0x31, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x89]);
    assert_eq!(first.t10(), "DRYSTONE1122334455667788000000000001");
    for other in [other_disk, other_realm] {
        assert_ne!(first.naa(), other.naa());
        assert!(!first.matches(&other.naa()) && !first.matches(other.t10().as_bytes()));
    }
    let mut padded = first.naa().to_vec();
    padded.resize(20, 0);
    assert!(first.matches(&first.naa()) && first.matches(&padded) && first.matches(first.t10().as_bytes()));
    padded[19] = 1;
    assert!(!first.matches(&padded) && !first.matches(&[]) && !first.matches(&first.naa()[..7]));
}
