//! TEST UNIT READY (SPC-4 6.47), START STOP UNIT (SBC-3 5.25) and PREVENT ALLOW MEDIUM REMOVAL (SBC-3 5.15).

use crate::call::{Call, Good, Ran, ready};
use bytes::Bytes;
use world::Completion;

/// A sanitize operation under way was seen before.
pub(crate) fn test_unit_ready(_: &Call, _: Bytes) -> Completion<Ran> {
    ready(Good::NOTHING)
}
