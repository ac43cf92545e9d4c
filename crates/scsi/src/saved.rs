//! What survives a restart, as bytes.

use crate::SavedStateError;
use crate::reservation::Reservations;
use crate::sanitize::Sanitize;

#[derive(Debug, Default)]
pub(crate) struct Saved {
    pub reservations: Reservations,
    pub sanitize: Sanitize,
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Saved, SavedStateError> {
    if bytes.is_empty() { Ok(Saved::default()) } else { Err(SavedStateError("unknown version")) }
}
