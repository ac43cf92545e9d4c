//! Who a logical unit is: the same over all ports, for as long as the vDisk lives.

#[cfg(test)]
mod tests;

/// What the vDisk's designators are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The vDisk's id: less than 2^48, never given to another vDisk of the same controller.
    pub id: u64,
    /// Random, drawn once for a controller's data directory and kept there. Two controllers both have a first vDisk; a host that
    /// took these two for paths to the same disk would destroy both.
    pub realm: u64,
    /// The vDisk's name; it may change.
    pub name: String,
    /// Name of the SCSI target device in SCSI name string format (for iSCSI the target's `iqn…`); empty: not told.
    pub target_name: String,
}

/// T10 vendor identification: 8 characters.
pub(crate) const VENDOR: &str = "DRYSTONE";
/// Product identification: up to 16 characters.
pub(crate) const PRODUCT: &str = "vDisk";

impl Identity {
    /// NAA locally assigned (SPC-4 7.8.6.6.4, NAA 3h): the project has no company id, and must not use another one's. The 60 bits
    /// differ for all ids of a realm, and are as random as the realm between two of them.
    pub(crate) fn naa(&self) -> [u8; 8] {
        (((self.realm ^ self.id) & (u64::MAX >> 4)) | 0x3 << 60).to_be_bytes()
    }
    /// The unit serial number of VPD page 80h.
    pub(crate) fn serial(&self) -> String {
        format!("{:016x}{:012x}", self.realm, self.id)
    }
    /// T10 vendor ID based (SPC-4 7.8.6.4).
    pub(crate) fn t10(&self) -> String {
        format!("{VENDOR:8}{}", self.serial())
    }
    /// Whether one of the logical unit's designators (page 83h, without its header) is this one; trailing zeros are padding of a
    /// field with a fixed size.
    pub fn matches(&self, designator: &[u8]) -> bool {
        let is = |own: &[u8]| {
            let parts = designator.split_at_checked(own.len());
            parts.is_some_and(|(head, rest)| head == own && rest.iter().all(|byte| *byte == 0))
        };
        is(&self.naa()) || is(self.t10().as_bytes())
    }
}
