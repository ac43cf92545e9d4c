//! MODE SELECT: a list is taken over wholly or not at all.

use super::PAGES;
use super::pages::Parameters;
use crate::attention::Attention;
use crate::call::{Call, Good, Ran, UnderWay, failed, ready};
use crate::fault::{self, Fault};
use crate::range::capacity_blocks;
use crate::saved;
use crate::sense::{Code, Condition};
use base::Reader;
use bytes::Bytes;
use world::Completion;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Six,
    Ten,
}

pub(crate) fn check_select_6(call: &Call) -> Result<u32, Fault> {
    check(call, call.cdb.u8::<4>().into())
}
pub(crate) fn check_select_10(call: &Call) -> Result<u32, Fault> {
    check(call, call.cdb.u16::<7>().into())
}

/// PF zero would mean a vendor's own layout.
fn check(call: &Call, list_bytes: u32) -> Result<u32, Fault> {
    if list_bytes > 0 && !call.cdb.has::<1>(0x10) {
        return Err(Condition::cdb_bit(1, 4).into());
    }
    Ok(list_bytes)
}

pub(crate) fn select_6(call: &Call, data: Bytes) -> Completion<Ran> {
    select(call, &data, Form::Six, call.cdb.u8::<4>().into())
}
pub(crate) fn select_10(call: &Call, data: Bytes) -> Completion<Ran> {
    select(call, &data, Form::Ten, call.cdb.u16::<7>().into())
}

fn select(call: &Call, data: &[u8], form: Form, list_bytes: usize) -> Completion<Ran> {
    if list_bytes == 0 {
        return ready(Good::NOTHING);
    }
    if data.len() < list_bytes {
        return failed(Condition::list_length());
    }
    match parse(call, data, form, call.unit.mode.get()) {
        Ok(after) if call.cdb.has::<1>(0x01) => save(call, after),
        Ok(after) => {
            take_effect(call, after);
            ready(Good::NOTHING)
        }
        Err(condition) => failed(condition),
    }
}

fn take_effect(call: &Call, after: Parameters) {
    if call.unit.mode.replace(after) != after {
        call.unit.establish(Some(call.path.id), Attention::ModeParametersChanged);
    }
}

/// SP. Once begun it goes on whatever becomes of the nexus.
fn save(call: &Call, after: Parameters) -> Completion<Ran> {
    let task = call.clone();
    let saving = Completion::pending(async move { keep(&task, after).await });
    let under_way = UnderWay::new(&call.unit, call.key, saving);
    Completion::pending(async move {
        under_way.await?;
        Ok(Good::NOTHING)
    })
}

/// It is kept first, and takes effect then.
async fn keep(call: &Call, after: Parameters) -> Result<(), Fault> {
    let unit = &call.unit;
    let _turn = unit.saving.acquire(1).await;
    call.proceed()?;
    let (reservations, sanitize) = (unit.reservations.borrow().clone(), unit.sanitize.borrow().clone());
    let stored = saved::store_all(unit, &reservations, &sanitize, after).await;
    stored.map_err(|error| fault::condition(&error, 0, call.sector_bytes()))?;
    unit.saved_mode.set(after);
    take_effect(call, after);
    Ok(())
}

fn parse(call: &Call, data: &[u8], form: Form, mut parameters: Parameters) -> Result<Parameters, Condition> {
    let truncated = |_| Condition::list_length();
    let mut list = Reader::new(data);
    // MODE DATA LENGTH is reserved here, as are the medium type and the device-specific parameter (SPC-4 6.11, 7.5.5).
    let (long, blocks_bytes, length_bytes) = match form {
        Form::Six => {
            list.skip(3).map_err(truncated)?;
            (false, usize::from(list.u8().map_err(truncated)?), 1)
        }
        Form::Ten => {
            list.skip(4).map_err(truncated)?;
            let long = list.u8().map_err(truncated)? & 1 != 0;
            list.skip(1).map_err(truncated)?;
            (long, usize::from(list.u16_be().map_err(truncated)?), 2)
        }
    };
    if data.get(length_bytes).is_some_and(|medium_type| *medium_type != 0) {
        return Err(Condition::list(length_bytes as u16));
    }
    block_descriptor(call, &mut list, blocks_bytes, long, data.len())?;
    while !list.is_empty() {
        let at = data.len() - list.rest().len();
        parameters = page(&mut list, at, parameters)?;
    }
    Ok(parameters)
}

/// One at most; it may say what is so already, or zero for "as it is".
fn block_descriptor(
    call: &Call,
    list: &mut Reader<'_>,
    len: usize,
    long: bool,
    list_bytes: usize,
) -> Result<(), Condition> {
    let at = (list_bytes - list.rest().len()) as u16;
    let mut descriptor = Reader::new(list.take(len).map_err(|_| Condition::list_length())?);
    let truncated = |_| Condition::list(at - 1);
    let (blocks, most, block_bytes) = match (len, long) {
        (0, _) => return Ok(()),
        (8, false) => {
            let blocks = descriptor.u32_be().map_err(truncated)?;
            (u64::from(blocks), u64::from(u32::MAX), descriptor.u32_be().map_err(truncated)? & 0xff_ffff)
        }
        (16, true) => {
            let blocks = descriptor.u64_be().map_err(truncated)?;
            descriptor.skip(4).map_err(truncated)?;
            (blocks, u64::MAX, descriptor.u32_be().map_err(truncated)?)
        }
        _ => return Err(Condition::list(at - 1)),
    };
    if block_bytes != call.sector_bytes() {
        return Err(Condition::list(at + len as u16 - 4));
    }
    if blocks != 0 && blocks != most && blocks != capacity_blocks(call) {
        return Err(Condition::list(at));
    }
    Ok(())
}

fn page(list: &mut Reader<'_>, at: usize, parameters: Parameters) -> Result<Parameters, Condition> {
    let whole = list.rest();
    let truncated = |_| Condition::list_length();
    let first = list.u8().map_err(truncated)?;
    let (code, has_subpage) = (first & 0x3f, first & 0x40 != 0);
    let (subpage, len) = if has_subpage {
        (list.u8().map_err(truncated)?, usize::from(list.u16_be().map_err(truncated)?))
    } else {
        (0, usize::from(list.u8().map_err(truncated)?))
    };
    let field = |byte: usize, bit: u8| Condition::list_bit((at + byte) as u16, bit);
    // PS is reserved in MODE SELECT, and not looked at: some send back what MODE SENSE told them.
    let known = PAGES
        .iter()
        .find(|known| (known.page, known.subpage) == (code, subpage) && (known.subpage != 0) == has_subpage);
    let Some(known) = known else { return Err(field(0, 5)) };
    let header_bytes = whole.len() - list.rest().len();
    if header_bytes + len != known.len_bytes() {
        return Err(field(header_bytes - if has_subpage { 2 } else { 1 }, 7));
    }
    list.skip(len).map_err(truncated)?;
    let sent = whole.get(..known.len_bytes()).ok_or(Condition::illegal(Code::PARAMETER_LIST_LENGTH))?;
    known.select(sent, parameters).map_err(|(byte, bit)| field(byte, bit))
}
