//! Who may use a vDisk over iSCSI. Secrets are never shown: neither by `Debug` nor in a listing.

use std::fmt;

/// Who may log in to a vDisk's target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IscsiAccess {
    /// Names of initiators; empty: any.
    pub initiators: Vec<String>,
    /// What an initiator must prove to know.
    pub chap: Option<ChapSecret>,
    /// What the target proves to an initiator that asks for it. Only with `chap`.
    pub mutual: Option<ChapSecret>,
}

impl IscsiAccess {
    /// Whether anybody may log in.
    pub fn is_open(&self) -> bool {
        self.initiators.is_empty() && self.chap.is_none()
    }
}

#[derive(Clone, PartialEq, Eq)]
pub struct ChapSecret {
    pub user: String,
    pub secret: String,
}

impl fmt::Debug for ChapSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChapSecret").field("user", &self.user).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let chap = ChapSecret { user: "guest".to_string(), secret: "correct horse".to_string() };
        let access = IscsiAccess { chap: Some(chap), ..IscsiAccess::default() };
        let shown = format!("{access:?}");
        assert!(shown.contains("guest") && !shown.contains("horse"), "{shown}");
    }
}
