//! PERSISTENT RESERVE IN (SPC-4 6.15).

use super::state::Reservations;
use super::transport_id;
use crate::call::{Call, Good, Ran, ready};
use base::Writer;
use bytes::Bytes;
use world::Completion;

fn answer(call: &Call, list: impl FnOnce(&Reservations, &mut Writer)) -> Completion<Ran> {
    let reservations = call.unit.reservations.borrow();
    let mut body = Writer::default();
    list(&reservations, &mut body);
    let mut data = Writer::with_capacity(8 + body.bytes.len());
    data.u32_be(reservations.generation).u32_be(body.bytes.len() as u32).put(&body.bytes);
    ready(Good::bytes(data.bytes, call.cdb.u16::<7>().into()))
}

pub(crate) fn keys(call: &Call, _: Bytes) -> Completion<Ran> {
    answer(call, |reservations, body| {
        for registrant in &reservations.registrants {
            body.u64_be(registrant.key);
        }
    })
}

/// The key of a reservation that all registrants hold is zero.
pub(crate) fn reservation(call: &Call, _: Bytes) -> Completion<Ran> {
    answer(call, |reservations, body| {
        if let Some(reservation) = &reservations.reservation {
            let shared = reservation.kind.all_registrants();
            let key = if shared { None } else { reservations.key_of(&reservation.holder) };
            body.u64_be(key.unwrap_or(0)).u32_be(0).u8(0).u8(reservation.kind as u8).u16_be(0);
        }
    })
}

/// SIP_C, ATP_C, PTPL_C; TMV with all six types; PTPL_A as the last REGISTER left it.
pub(crate) fn capabilities(call: &Call, _: Bytes) -> Completion<Ran> {
    let active = u8::from(call.unit.reservations.borrow().aptpl);
    let mut data = Writer::with_capacity(8);
    data.u16_be(8).u8(0x0d).u8(0x80 | active).u16_be(0xea01).u16_be(0);
    ready(Good::bytes(data.bytes, call.cdb.u16::<7>().into()))
}

pub(crate) fn full_status(call: &Call, _: Bytes) -> Completion<Ran> {
    answer(call, |reservations, body| {
        for registrant in &reservations.registrants {
            let kind = reservations.reservation.as_ref().map(|reservation| reservation.kind as u8);
            let (holder, kind) = match kind {
                Some(kind) if reservations.holds(&registrant.ports) => (1, kind),
                _ => (0, 0),
            };
            let id = transport_id::encode(&registrant.ports.initiator);
            body.u64_be(registrant.key).u32_be(0).u8(holder).u8(kind).u32_be(0);
            body.u16_be(registrant.ports.relative_target_port).u32_be(id.len() as u32).put(&id);
        }
    })
}
