//! The operational keys (RFC 7143 section 13, RFC 7144): what we answer to each, and what then holds.

use crate::encode::Digests;
use crate::text::{IRRELEVANT, NOT_UNDERSTOOD, REJECT, Text, number};

/// Longest data segment that we take, bytes, declared as our MaxRecvDataSegmentLength: a 256 KiB write comes in one PDU.
pub const RECEIVE_BYTES_MAX: u32 = 256 << 10;
/// What both sides may send before they have declared anything (13.12).
pub(crate) const SEGMENT_BYTES_DEFAULT: u32 = 8192;
/// Data that an initiator may send unasked. It cannot be held back, so that commands are refused when a session has no room
/// for it: this is RFC 7143's default.
const FIRST_BURST_MAX: u32 = 64 << 10;
const BURST_MAX: u32 = 16 << 20;
/// Transfers of one write that are asked for at once: while one is answered, the next one is on its way.
const OUTSTANDING_R2T_MAX: u32 = 8;
/// Seconds after which an initiator may come back after a lost connection.
const TIME2WAIT: u32 = 2;
/// RFC 7144's level.
const PROTOCOL_LEVEL: u32 = 2;

/// What was agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    pub digests: Digests,
    pub initial_r2t: bool,
    pub immediate_data: bool,
    /// The longest data segment that the initiator takes.
    pub send_bytes_max: u32,
    pub burst_bytes_max: u32,
    pub first_burst_bytes_max: u32,
    pub outstanding_r2t_max: u32,
    pub time2wait: u16,
    pub protocol_level: u8,
}

impl Default for Parameters {
    /// The defaults of section 13.
    fn default() -> Self {
        Parameters {
            digests: Digests::default(),
            initial_r2t: true,
            immediate_data: true,
            send_bytes_max: SEGMENT_BYTES_DEFAULT,
            burst_bytes_max: 262_144,
            first_burst_bytes_max: 65_536,
            outstanding_r2t_max: 1,
            time2wait: 2,
            protocol_level: 1,
        }
    }
}

impl Parameters {
    /// Where FirstBurstLength was left above MaxBurstLength by one side's defaults, the smaller one holds (13.14).
    pub(crate) fn settle(&mut self) {
        self.first_burst_bytes_max = self.first_burst_bytes_max.min(self.burst_bytes_max);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Discovery,
    Normal,
}

/// Answers one operational key of a login. `None`: it is declared, and asks for no answer.
pub(crate) fn negotiate(key: &str, value: &str, phase: Phase, agreed: &mut Parameters, answers: &mut Text) {
    if matches!(value, REJECT | IRRELEVANT | NOT_UNDERSTOOD) {
        // An answer to what we declared: nothing of ours needs the initiator's consent.
        return;
    }
    if phase == Phase::Discovery && is_of_normal_sessions(key) {
        return answers.put(key, IRRELEVANT);
    }
    let answer = match key {
        "HeaderDigest" => digest(value, &mut agreed.digests.header),
        "DataDigest" => digest(value, &mut agreed.digests.data),
        "InitialR2T" => boolean(value).map(|offered| {
            agreed.initial_r2t = offered;
            yes_or_no(offered)
        }),
        "ImmediateData" => boolean(value).map(|offered| {
            agreed.immediate_data = offered;
            yes_or_no(offered)
        }),
        "MaxConnections" => least(value, 1..=65_535, 1, &mut 0),
        "MaxRecvDataSegmentLength" => {
            match number(value).filter(|bytes| (512..=0x00ff_ffff).contains(bytes)) {
                Some(bytes) => agreed.send_bytes_max = bytes as u32,
                None => answers.put(key, REJECT),
            }
            return;
        }
        "MaxBurstLength" => least(value, 512..=0x00ff_ffff, BURST_MAX, &mut agreed.burst_bytes_max),
        "FirstBurstLength" => least(value, 512..=0x00ff_ffff, FIRST_BURST_MAX, &mut agreed.first_burst_bytes_max),
        "MaxOutstandingR2T" => least(value, 1..=65_535, OUTSTANDING_R2T_MAX, &mut agreed.outstanding_r2t_max),
        "DefaultTime2Wait" => number(value).filter(|seconds| *seconds <= 3600).map(|seconds| {
            let seconds = (seconds as u32).max(TIME2WAIT);
            agreed.time2wait = seconds as u16;
            seconds.to_string()
        }),
        // Nothing of a session outlives its connection.
        "DefaultTime2Retain" => least(value, 0..=3600, 0, &mut 0),
        "DataPDUInOrder" | "DataSequenceInOrder" => boolean(value).map(|_| yes_or_no(true)),
        "ErrorRecoveryLevel" => least(value, 0..=2, 0, &mut 0),
        "TaskReporting" => {
            // FastAbort would bind us to end tasks in a way that we do not.
            let known = |item: &&str| matches!(*item, "RFC3720" | "ResponseFence");
            value.split(',').find(known).map(str::to_string)
        }
        "iSCSIProtocolLevel" => {
            let mut level = 0;
            let answer = least(value, 0..=31, PROTOCOL_LEVEL, &mut level);
            agreed.protocol_level = level as u8;
            answer
        }
        // Obsolete; neither may be called unknown (13.25).
        "OFMarker" | "IFMarker" => Some(yes_or_no(false)),
        "OFMarkInt" | "IFMarkInt" => None,
        // Ours to say, or of another phase.
        "SendTargets" | "TargetAddress" | "TargetAlias" | "TargetPortalGroupTag" => None,
        _ => Some(NOT_UNDERSTOOD.to_string()),
    };
    answers.put(key, answer.as_deref().unwrap_or(REJECT));
}

/// Keys that are known, and may be negotiated during the login only.
pub(crate) fn is_of_login(key: &str) -> bool {
    let mut ignored = Text::default();
    negotiate(key, "?", Phase::Normal, &mut Parameters::default(), &mut ignored);
    let known = ignored.bytes != format!("{key}={NOT_UNDERSTOOD}\0").into_bytes();
    known || matches!(key, "InitiatorName" | "TargetName" | "SessionType" | "AuthMethod") || key.starts_with("CHAP_")
}

/// Keys that mean nothing where no SCSI command goes (13, "Irrelevant when: SessionType=Discovery").
fn is_of_normal_sessions(key: &str) -> bool {
    matches!(
        key,
        "MaxConnections"
            | "InitialR2T"
            | "ImmediateData"
            | "MaxBurstLength"
            | "FirstBurstLength"
            | "MaxOutstandingR2T"
            | "DataPDUInOrder"
            | "DataSequenceInOrder"
            | "TaskReporting"
    )
}

/// The first of the list that we do.
fn digest(value: &str, on: &mut bool) -> Option<String> {
    let chosen = value.split(',').find(|item| matches!(*item, "CRC32C" | "None"))?;
    *on = chosen == "CRC32C";
    Some(chosen.to_string())
}

fn boolean(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

fn yes_or_no(value: bool) -> String {
    if value { "Yes" } else { "No" }.to_string()
}

/// Keys whose result is the smaller value.
fn least(value: &str, allowed: std::ops::RangeInclusive<u64>, ours: u32, agreed: &mut u32) -> Option<String> {
    let offered = number(value).filter(|offered| allowed.contains(offered))?;
    *agreed = (offered as u32).min(ours);
    Some(agreed.to_string())
}

#[cfg(test)]
mod tests;
