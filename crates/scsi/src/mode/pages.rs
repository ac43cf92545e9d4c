//! The mode pages and what of them can be changed.

/// What initiators can change; shared by all of them (SPC-4 7.5, SBC-3 6.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parameters {
    /// WCE: writes are acknowledged before they survive power loss. Without it each write waits as FUA would.
    pub write_cache: bool,
    /// D_SENSE.
    pub descriptor_sense: bool,
    /// SWP.
    pub software_write_protect: bool,
    /// TAS: a task that another nexus aborted ends with TASK ABORTED rather than silently.
    pub task_aborted_status: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters {
            write_cache: true,
            descriptor_sense: false,
            software_write_protect: false,
            task_aborted_status: false,
        }
    }
}

/// PC of MODE SENSE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Control {
    Current,
    Changeable,
    Default,
    Saved,
}

/// A switch: one bit of a page.
struct Switch {
    byte: usize,
    bit: u8,
    get: fn(&Parameters) -> bool,
    set: fn(&mut Parameters, bool),
}

pub(super) struct Page {
    pub page: u8,
    pub subpage: u8,
    /// What stands behind the page's header while all switches are off.
    fixed: &'static [u8],
    /// Bytes count from the start of the page, header included.
    switches: &'static [Switch],
}

/// In the order in which MODE SENSE returns them: page codes and subpage codes ascending (SPC-4 6.13.3).
pub(super) static PAGES: &[Page] = &[
    // Read-write error recovery (SBC-3 6.4.7): nothing to be set; the pool corrects what can be corrected.
    Page { page: 0x01, subpage: 0, fixed: &[0; 10], switches: &[] },
    // Disconnect-reconnect (SPC-4 7.5.10): the transport's business.
    Page { page: 0x02, subpage: 0, fixed: &[0; 14], switches: &[] },
    // Caching (SBC-3 6.4.5).
    Page {
        page: 0x08,
        subpage: 0,
        fixed: &[0; 18],
        switches: &[Switch {
            byte: 2,
            bit: 0x04,
            get: |parameters| parameters.write_cache,
            set: |parameters, on| parameters.write_cache = on,
        }],
    },
    // Control (SPC-4 7.5.8): one task set for all nexuses (TST 000b), reordering as the attributes say (QUEUE ALGORITHM
    // MODIFIER 1h), BUSY TIMEOUT PERIOD unlimited.
    Page {
        page: 0x0a,
        subpage: 0,
        fixed: &[0, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0],
        switches: &[
            Switch {
                byte: 2,
                bit: 0x04,
                get: |parameters| parameters.descriptor_sense,
                set: |parameters, on| parameters.descriptor_sense = on,
            },
            Switch {
                byte: 4,
                bit: 0x08,
                get: |parameters| parameters.software_write_protect,
                set: |parameters, on| parameters.software_write_protect = on,
            },
            Switch {
                byte: 5,
                bit: 0x40,
                get: |parameters| parameters.task_aborted_status,
                set: |parameters, on| parameters.task_aborted_status = on,
            },
        ],
    },
    // Control extension (SPC-4 7.5.9): MAXIMUM SENSE DATA LENGTH 252.
    Page { page: 0x0a, subpage: 0x01, fixed: &CONTROL_EXTENSION, switches: &[] },
    // Informational exceptions control (SPC-4 7.5.11): none are reported (DEXCPT).
    Page { page: 0x1c, subpage: 0, fixed: &[0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0], switches: &[] },
];

static CONTROL_EXTENSION: [u8; 28] = {
    let mut bytes = [0; 28];
    bytes[2] = 252;
    bytes
};

impl Page {
    fn header_bytes(&self) -> usize {
        if self.subpage == 0 { 2 } else { 4 }
    }
    pub(super) fn len_bytes(&self) -> usize {
        self.header_bytes() + self.fixed.len()
    }

    /// `parameters`: those that `control` asks for, where it asks for values.
    pub(super) fn encode(&self, control: Control, parameters: Parameters) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len_bytes());
        // PS: whether there is something that can be saved.
        let first = self.page | if self.switches.is_empty() { 0 } else { 0x80 };
        if self.subpage == 0 {
            bytes.extend([first, self.fixed.len() as u8]);
        } else {
            let [high, low] = (self.fixed.len() as u16).to_be_bytes();
            bytes.extend([first | 0x40, self.subpage, high, low]);
        }
        match control {
            Control::Changeable => bytes.resize(self.len_bytes(), 0),
            Control::Current | Control::Default | Control::Saved => bytes.extend_from_slice(self.fixed),
        }
        for switch in self.switches {
            let on = match control {
                Control::Changeable => true,
                Control::Current | Control::Saved | Control::Default => (switch.get)(&parameters),
            };
            if on {
                bytes[switch.byte] |= switch.bit;
            }
        }
        bytes
    }

    /// Takes over the switches of a page that an initiator sent, `bytes` of [`Page::len_bytes`]. `Err`: byte and leftmost bit that
    /// differ although they cannot be changed (SPC-4 6.11).
    pub(super) fn select(&self, bytes: &[u8], parameters: Parameters) -> Result<Parameters, (usize, u8)> {
        let mut changed = parameters;
        for switch in self.switches {
            let on = bytes.get(switch.byte).is_some_and(|byte| byte & switch.bit != 0);
            (switch.set)(&mut changed, on);
        }
        let would_be = self.encode(Control::Current, changed);
        let pairs = would_be.iter().zip(bytes).enumerate().skip(self.header_bytes());
        for (index, (own, sent)) in pairs {
            let differ = own ^ sent;
            if differ != 0 {
                return Err((index, 7 - differ.leading_zeros() as u8));
            }
        }
        Ok(changed)
    }
}
