//! PERSISTENT RESERVE OUT (SPC-4 6.16): a change is kept first, if it has to survive a restart, and takes effect then.

use super::change::Action;
use super::state::Kind;
use super::transport_id;
use crate::call::{Call, Good, Ran, UnderWay, failed};
use crate::fault::{self, Fault};
use crate::path::Ports;
use crate::saved;
use crate::sense::Condition;
use crate::task_set::Abort;
use base::Reader;
use bytes::Bytes;
use world::Completion;

const REGISTER: u8 = 0x00;
const RESERVE: u8 = 0x01;
const RELEASE: u8 = 0x02;
const CLEAR: u8 = 0x03;
const PREEMPT: u8 = 0x04;
const PREEMPT_AND_ABORT: u8 = 0x05;
const REGISTER_AND_IGNORE: u8 = 0x06;
const REGISTER_AND_MOVE: u8 = 0x07;

const LIST_BYTES: u32 = 24;
/// A list of as many TransportIDs as can be registered.
const LIST_BYTES_MAX: u32 = 64 << 10;

fn action(call: &Call) -> u8 {
    call.cdb.u8::<1>() & 0x1f
}

/// Scope and type matter where a reservation is made, taken over or given up.
fn kind(call: &Call) -> Result<Kind, Condition> {
    let byte = call.cdb.u8::<2>();
    if byte >> 4 != 0 {
        return Err(Condition::cdb_bit(2, 7));
    }
    Kind::from_code(byte & 0x0f).ok_or(Condition::cdb_bit(2, 3))
}

pub(crate) fn check(call: &Call) -> Result<u32, Fault> {
    let list_bytes = call.cdb.u32::<5>();
    if matches!(action(call), RESERVE | RELEASE | PREEMPT | PREEMPT_AND_ABORT) {
        kind(call)?;
    }
    let variable = matches!(action(call), REGISTER | REGISTER_AND_MOVE);
    if !(LIST_BYTES..=LIST_BYTES_MAX).contains(&list_bytes) || (!variable && list_bytes != LIST_BYTES) {
        return Err(Condition::list_length().into());
    }
    Ok(list_bytes)
}

pub(crate) fn execute(call: &Call, data: Bytes) -> Completion<Ran> {
    if data.len() < call.cdb.u32::<5>() as usize {
        return failed(Condition::list_length());
    }
    let change = match parse(call, &data) {
        Ok(change) => change,
        Err(condition) => return failed(condition),
    };
    // Once begun it goes on whatever becomes of the nexus: a change that was kept and does not hold, or the other way round,
    // would come to light at the next start, when a node that was fenced may write again.
    let task = call.clone();
    let change = Completion::pending(async move { carry_out(&task, &change).await });
    let under_way = UnderWay::new(&call.unit, call.key, change);
    Completion::pending(async move {
        under_way.await?;
        Ok(Good::NOTHING)
    })
}

async fn carry_out(call: &Call, change: &Action) -> Result<(), Fault> {
    let unit = &call.unit;
    let running = {
        let _turn = unit.saving.acquire(1).await;
        call.proceed()?;
        let mut after = unit.reservations.borrow().clone();
        let effects = after.apply(&call.path.ports, change)?;
        let sanitize = unit.sanitize.borrow().clone();
        let stored = saved::store(unit, &after, &sanitize).await;
        stored.map_err(|error| fault::condition(&error, 0, call.sector_bytes()))?;
        unit.reservations.replace(after);
        for path in unit.paths() {
            for (ports, attention) in &effects.attentions {
                if *ports == path.ports {
                    path.establish(*attention);
                }
            }
        }
        let mut concerned = unit.ids_of(|ports| effects.aborted.contains(ports));
        concerned.extend(unit.visits_for(&effects.aborted));
        unit.abort(|task| (task.key != call.key && concerned.contains(&task.path)).then_some(Abort::Silent)).running
    };
    // Others may change reservations meanwhile: one of those that are waited for may be about to.
    unit.ended(running).await;
    Ok(())
}

fn parse(call: &Call, data: &[u8]) -> Result<Action, Condition> {
    let truncated = |_| Condition::list_length();
    let mut list = Reader::new(data);
    let (key, new_key) = (list.u64_be().map_err(truncated)?, list.u64_be().map_err(truncated)?);
    if action(call) == REGISTER_AND_MOVE {
        return parse_move(call, key, new_key, &mut list);
    }
    list.skip(4).map_err(truncated)?;
    let flags = list.u8().map_err(truncated)?;
    list.skip(3).map_err(truncated)?;
    let (spec_i_pt, all_tg_pt, aptpl) = (flags & 0x08 != 0, flags & 0x04 != 0, flags & 0x01 != 0);
    let registers = matches!(action(call), REGISTER | REGISTER_AND_IGNORE);
    if spec_i_pt && action(call) != REGISTER {
        return Err(Condition::list_bit(20, 3));
    }
    if !spec_i_pt && !list.is_empty() {
        return Err(Condition::list_length());
    }
    let others = if spec_i_pt { transport_ids(call, &mut list)? } else { Vec::new() };
    let own = call.path.ports.relative_target_port;
    let other_ports = call.path.all_ports.iter().copied().filter(|port| all_tg_pt && *port != own);
    let through: Vec<u16> = if registers { other_ports.collect() } else { Vec::new() };
    Ok(match action(call) {
        REGISTER => Action::Register { key: Some(key), new_key, aptpl, others, through },
        REGISTER_AND_IGNORE => Action::Register { key: None, new_key, aptpl, others, through },
        RESERVE => Action::Reserve { key, kind: kind(call)? },
        RELEASE => Action::Release { key, kind: kind(call)? },
        CLEAR => Action::Clear { key },
        code => Action::Preempt { key, victim: new_key, kind: kind(call)?, abort: code == PREEMPT_AND_ABORT },
    })
}

/// SPC-4 table 183.
fn transport_ids(call: &Call, list: &mut Reader<'_>) -> Result<Vec<Ports>, Condition> {
    let len = list.u32_be().map_err(|_| Condition::list_length())? as usize;
    if len != list.rest().len() {
        return Err(Condition::list_length());
    }
    let mut others = Vec::new();
    while !list.is_empty() {
        let at = (LIST_BYTES as usize + 4 + len - list.rest().len()) as u16;
        let initiator = transport_id::decode(list, at)?.into();
        others.push(Ports { initiator, relative_target_port: call.path.ports.relative_target_port });
    }
    Ok(others)
}

/// SPC-4 table 184.
fn parse_move(call: &Call, key: u64, new_key: u64, list: &mut Reader<'_>) -> Result<Action, Condition> {
    let truncated = |_| Condition::list_length();
    list.skip(1).map_err(truncated)?;
    let flags = list.u8().map_err(truncated)?;
    let relative_target_port = list.u16_be().map_err(truncated)?;
    let len = list.u32_be().map_err(truncated)? as usize;
    if len != list.rest().len() {
        return Err(Condition::list_length());
    }
    let initiator = transport_id::decode(list, LIST_BYTES as u16)?.into();
    if !call.unit.target_ports(call.path.ports.relative_target_port).contains(&relative_target_port) {
        return Err(Condition::list(18));
    }
    let to = Ports { initiator, relative_target_port };
    Ok(Action::Move { key, new_key, aptpl: flags & 0x01 != 0, unregister: flags & 0x02 != 0, to })
}
