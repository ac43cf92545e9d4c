//! Vital product data (SPC-4 7.8, SBC-3 6.5).

use crate::call::Call;
use crate::report::PORT_GROUP;
use crate::{copy, limits};
use base::Writer;

pub(super) struct Page {
    code: u8,
    encode: fn(&Call, &mut Writer),
}

/// In ascending order, as page 00h lists them.
static PAGES: [Page; 10] = [
    Page { code: 0x00, encode: supported },
    Page { code: 0x80, encode: serial },
    Page { code: 0x83, encode: identification },
    Page { code: 0x86, encode: extended },
    Page { code: 0x87, encode: policies },
    Page { code: 0x88, encode: ports },
    Page { code: 0x8f, encode: third_party_copy },
    Page { code: 0xb0, encode: block_limits },
    Page { code: 0xb1, encode: characteristics },
    Page { code: 0xb2, encode: provisioning },
];

pub(super) fn find(code: u8) -> Option<&'static Page> {
    PAGES.iter().find(|page| page.code == code)
}

impl Page {
    pub(super) fn encode(&self, call: &Call) -> Vec<u8> {
        let mut data = Writer::default();
        data.u8(0).u8(self.code).u16_be(0);
        (self.encode)(call, &mut data);
        let len = (data.bytes.len() - 4) as u16;
        data.bytes[2..4].copy_from_slice(&len.to_be_bytes());
        data.bytes
    }
}

fn supported(_: &Call, data: &mut Writer) {
    for page in &PAGES {
        data.u8(page.code);
    }
}

fn serial(call: &Call, data: &mut Writer) {
    data.put(call.unit.identity.serial().as_bytes());
}

/// Designation descriptors (SPC-4 7.8.6.1). `kind` has the association in bits 5 and 4.
fn designator(data: &mut Writer, code_set: u8, kind: u8, value: &[u8]) {
    data.u8(code_set).u8(kind).u8(0).u8(value.len() as u8).put(value);
}

/// What travels with the target's name or a port's.
const ISCSI: u8 = 0x50;
const PIV: u8 = 0x80;
const OF_PORT: u8 = 0x10;
const OF_TARGET: u8 = 0x20;
const NAA: u8 = 0x3;
const T10: u8 = 0x1;
const RELATIVE_PORT: u8 = 0x4;
const GROUP: u8 = 0x5;
const NAME: u8 = 0x8;
const BINARY: u8 = 0x1;
const ASCII: u8 = 0x2;
const UTF8: u8 = 0x3;

fn identification(call: &Call, data: &mut Writer) {
    let identity = &call.unit.identity;
    let port = call.path.ports.relative_target_port;
    designator(data, BINARY, NAA, &identity.naa());
    designator(data, ASCII, T10, identity.t10().as_bytes());
    let [high, low] = port.to_be_bytes();
    designator(data, BINARY, PIV | OF_PORT | RELATIVE_PORT, &[0, 0, high, low]);
    let [high, low] = PORT_GROUP.to_be_bytes();
    designator(data, BINARY, PIV | OF_PORT | GROUP, &[0, 0, high, low]);
    if let Some(name) = string(&call.unit.target_port_name(&call.path)) {
        designator(data, ISCSI | UTF8, PIV | OF_PORT | NAME, &name);
    }
    if let Some(name) = string(call.unit.target_name(&call.path)) {
        designator(data, ISCSI | UTF8, PIV | OF_TARGET | NAME, &name);
    }
}

/// SCSI name string: ends with a zero, padded to a multiple of four (SPC-4 7.8.6.10). One that does not fit is left out.
fn string(name: &str) -> Option<Vec<u8>> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    (!name.is_empty() && bytes.len() <= 252).then_some(bytes)
}

/// Extended INQUIRY data (SPC-4 7.8.7).
fn extended(_: &Call, data: &mut Writer) {
    // GROUP_SUP no, PRIOR_SUP no, HEADSUP, ORDSUP, SIMPSUP.
    data.u8(0).u8(0x07);
    // V_SUP: the cache is volatile. LUICLR: a unit attention is cleared for the nexus that was told, for no other.
    data.u8(0x01).u8(0x01).zeros(5);
    // MAXIMUM SUPPORTED SENSE DATA LENGTH at byte 13.
    data.u8(252).zeros(50);
}

/// All mode pages are shared (SPC-4 7.8.12).
fn policies(_: &Call, data: &mut Writer) {
    data.u8(0x3f).u8(0xff).u8(0).u8(0);
}

/// SCSI ports (SPC-4 7.8.15): those through which the logical unit is seen at present, and that of the asker.
fn ports(call: &Call, data: &mut Writer) {
    for (port, name) in call.unit.target_port_names(&call.path) {
        data.u16_be(0).u16_be(port).u16_be(0).u16_be(0).u16_be(0);
        let mut descriptors = Writer::default();
        if let Some(name) = string(&name) {
            designator(&mut descriptors, ISCSI | UTF8, PIV | OF_PORT | NAME, &name);
        }
        data.u16_be(descriptors.bytes.len() as u16).put(&descriptors.bytes);
    }
}

/// Third-party copy (SPC-4 7.8.17): what it obliges to, the supported commands, and the copy sources that are understood.
fn third_party_copy(_: &Call, data: &mut Writer) {
    // Supported commands: EXTENDED COPY (LID1) and RECEIVE COPY RESULTS with their service actions.
    let mut commands = Writer::default();
    let actions = copy::RECEIVE_ACTIONS;
    commands.u8(0x83).u8(1).u8(0x00);
    commands.u8(0x84).u8(actions.len() as u8).put(&actions);
    descriptor(data, 0x0001, |body| {
        body.u8(commands.bytes.len() as u8).put(&commands.bytes);
    });
    // Parameter data: the limits that RECEIVE COPY RESULTS tells as well.
    descriptor(data, 0x0004, |body| {
        body.zeros(4);
        body.u16_be(copy::TARGETS_MAX).u16_be(copy::SEGMENTS_MAX);
        body.u32_be(copy::DESCRIPTORS_BYTES_MAX).u32_be(0).zeros(12);
    });
    // Supported descriptors.
    descriptor(data, 0x0008, |body| {
        let kinds = copy::DESCRIPTOR_KINDS;
        body.u8(kinds.len() as u8).put(&kinds);
    });
    // General copy operations.
    descriptor(data, 0x8001, |body| {
        body.u32_be(copy::COPIES_MAX).u32_be(copy::COPIES_MAX).u32_be(copy::SEGMENT_BYTES_MAX);
        body.u8(9).zeros(19);
    });
}

/// Padded to a multiple of four.
fn descriptor(data: &mut Writer, kind: u16, fill: impl FnOnce(&mut Writer)) {
    let mut body = Writer::default();
    fill(&mut body);
    let padded = (body.bytes.len() + 4).next_multiple_of(4) - 4;
    let padding = padded - body.bytes.len();
    data.u16_be(kind).u16_be(padded as u16).put(&body.bytes).zeros(padding);
}

/// Block limits (SBC-3 6.5.3; the atomic fields are SBC-4's).
fn block_limits(call: &Call, data: &mut Writer) {
    let geometry = call.unit.geometry();
    let blocks = |bytes: u32| bytes / geometry.sector_bytes;
    let granularity = blocks(limits::granularity_bytes(&geometry));
    // WSNZ: WRITE SAME of no blocks is refused.
    data.u8(0x01).u8(limits::compare_blocks_max(&geometry));
    data.u16_be(blocks(geometry.preferred_bytes) as u16).u32_be(blocks(geometry.transfer_bytes_max));
    data.u32_be(blocks(limits::optimal_transfer_bytes(&geometry))).u32_be(blocks(geometry.transfer_bytes_max));
    data.u32_be(limits::UNMAP_BLOCKS_MAX).u32_be(limits::UNMAP_DESCRIPTORS_MAX);
    // UGAVALID: aligned to block zero.
    data.u32_be(granularity).u32_be(0x8000_0000);
    // MAXIMUM WRITE SAME LENGTH: no limit.
    data.u64_be(0);
    data.u32_be(blocks(limits::atomic_bytes_max(&geometry))).u32_be(granularity).u32_be(granularity);
    // No atomic writes with boundaries.
    data.u32_be(0).u32_be(0);
}

/// Block device characteristics (SBC-3 6.5.2): not rotating; FUAB: FUA is obeyed; WABEREQ and WACEREQ 01b: after sanitize blocks can be
/// read.
fn characteristics(_: &Call, data: &mut Writer) {
    data.u16_be(1).u8(0).u8(0x50).u8(0x02).zeros(55);
}

/// Logical block provisioning (SBC-3 6.5.4): LBPU, LBPWS, LBPWS10, LBPRZ; thin.
fn provisioning(_: &Call, data: &mut Writer) {
    data.u8(0).u8(0xe4).u8(0x02).u8(0);
}
