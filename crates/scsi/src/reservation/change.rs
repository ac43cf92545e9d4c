//! The service actions of PERSISTENT RESERVE OUT as changes of the state (SPC-4 5.13.7 to 5.13.11): pure, so that a change can be kept
//! before it takes effect.

use super::state::{Kind, Registrant, Reservation, Reservations};
use crate::Status;
use crate::attention::Attention;
use crate::fault::Fault;
use crate::path::Ports;
use crate::sense::{Code, Condition};

/// Nexuses that can be registered with one logical unit: 32 hosts with eight paths each, 64 KiB when they are kept.
pub(crate) const REGISTRANTS_MAX: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Register {
        /// `None`: REGISTER AND IGNORE EXISTING KEY.
        key: Option<u64>,
        new_key: u64,
        aptpl: bool,
        /// SPEC_I_PT: other initiator ports to be registered through the same target port.
        others: Vec<Ports>,
        /// ALL_TG_PT: the other target ports, through each of which the same is asked for.
        through: Vec<u16>,
    },
    Reserve {
        key: u64,
        kind: Kind,
    },
    Release {
        key: u64,
        kind: Kind,
    },
    Clear {
        key: u64,
    },
    Preempt {
        key: u64,
        victim: u64,
        kind: Kind,
        abort: bool,
    },
    Move {
        key: u64,
        new_key: u64,
        aptpl: bool,
        unregister: bool,
        to: Ports,
    },
}

/// What others hear of a change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Effects {
    pub attentions: Vec<(Ports, Attention)>,
    /// Nexuses whose tasks are aborted.
    pub aborted: Vec<Ports>,
}

const CONFLICT: Fault = Fault::Status(Status::ReservationConflict);

impl Reservations {
    pub(crate) fn apply(&mut self, who: &Ports, action: &Action) -> Result<Effects, Fault> {
        match action {
            Action::Register { key, new_key, aptpl, others, through } => {
                let before = self.generation;
                let mut effects = self.register(who, *key, *new_key, *aptpl, others)?;
                for port in through {
                    let at = |ports: &Ports| Ports { relative_target_port: *port, ..ports.clone() };
                    let others: Vec<Ports> = others.iter().map(at).collect();
                    let more = self.register(&at(who), *key, *new_key, *aptpl, &others)?;
                    effects.attentions.extend(more.attentions);
                }
                // It is one command, however many registrations it makes.
                self.generation = if self.generation == before { before } else { before.wrapping_add(1) };
                Ok(effects)
            }
            Action::Reserve { key, kind } => self.reserve(who, *key, *kind),
            Action::Release { key, kind } => self.release(who, *key, *kind),
            Action::Clear { key } => self.clear(who, *key),
            Action::Preempt { key, victim, kind, abort } => self.preempt(who, *key, *victim, *kind, *abort),
            Action::Move { key, new_key, aptpl, unregister, to } => {
                self.transfer(who, *key, *new_key, *aptpl, *unregister, to)
            }
        }
    }

    /// Everything but REGISTER is for registered nexuses that know their key.
    fn authorize(&self, who: &Ports, key: u64) -> Result<(), Fault> {
        if self.key_of(who) == Some(key) { Ok(()) } else { Err(CONFLICT) }
    }

    fn set_key(&mut self, ports: &Ports, key: u64) -> Result<(), Fault> {
        if let Some(registrant) = self.registrants.iter_mut().find(|registrant| registrant.ports == *ports) {
            registrant.key = key;
            return Ok(());
        }
        if self.registrants.len() >= REGISTRANTS_MAX {
            return Err(Condition::illegal(Code::INSUFFICIENT_REGISTRATIONS).into());
        }
        self.registrants.push(Registrant { ports: ports.clone(), key });
        Ok(())
    }

    /// SPC-4 table 51 and 52.
    fn register(
        &mut self,
        who: &Ports,
        key: Option<u64>,
        new_key: u64,
        aptpl: bool,
        others: &[Ports],
    ) -> Result<Effects, Fault> {
        let own = self.key_of(who);
        if key.is_some_and(|key| key != own.unwrap_or(0)) {
            return Err(CONFLICT);
        }
        // Only a nexus that registers for the first time may bring others along.
        if !others.is_empty() && (own.is_some() || new_key == 0) {
            return Err(Condition::list_bit(20, 3).into());
        }
        if own.is_none() && new_key == 0 {
            return Ok(Effects::default());
        }
        let mut effects = Effects::default();
        if new_key == 0 {
            effects = self.unregister(who);
        } else {
            self.set_key(who, new_key)?;
        }
        for other in others {
            if self.key_of(other).is_some() {
                return Err(CONFLICT);
            }
            self.set_key(other, new_key)?;
        }
        self.aptpl = aptpl;
        self.count_generation();
        Ok(effects)
    }

    fn count_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// SPC-4 5.13.11.2.3. A reservation that registrants share ends with its holder, and the others are told.
    fn unregister(&mut self, who: &Ports) -> Effects {
        let held = self.holds(who);
        self.registrants.retain(|registrant| registrant.ports != *who);
        let mut effects = Effects::default();
        let Some(reservation) = self.reservation.clone().filter(|_| held) else { return effects };
        if reservation.kind.all_registrants() {
            match self.registrants.first() {
                // Any of those that are left holds it.
                Some(next) if reservation.holder == *who => {
                    self.reservation = Some(Reservation { kind: reservation.kind, holder: next.ports.clone() });
                }
                Some(_) => {}
                None => self.reservation = None,
            }
            return effects;
        }
        self.reservation = None;
        if reservation.kind.for_registrants() {
            effects.attentions = self.others_hear(who, Attention::ReservationsReleased);
        }
        effects
    }

    fn others_hear(&self, who: &Ports, attention: Attention) -> Vec<(Ports, Attention)> {
        let others = self.registrants.iter().filter(|registrant| registrant.ports != *who);
        others.map(|registrant| (registrant.ports.clone(), attention)).collect()
    }

    /// SPC-4 5.13.9.
    fn reserve(&mut self, who: &Ports, key: u64, kind: Kind) -> Result<Effects, Fault> {
        self.authorize(who, key)?;
        match &self.reservation {
            None => self.reservation = Some(Reservation { kind, holder: who.clone() }),
            // Once more the same is no error.
            Some(reservation) if reservation.kind == kind && self.holds(who) => {}
            Some(_) => return Err(CONFLICT),
        }
        Ok(Effects::default())
    }

    /// SPC-4 5.13.11.2.2.
    fn release(&mut self, who: &Ports, key: u64, kind: Kind) -> Result<Effects, Fault> {
        self.authorize(who, key)?;
        let Some(reservation) = &self.reservation else { return Ok(Effects::default()) };
        if !self.holds(who) {
            return Ok(Effects::default());
        }
        if reservation.kind != kind {
            return Err(Condition::illegal(Code::INVALID_RELEASE).into());
        }
        let mut effects = Effects::default();
        if kind.for_registrants() {
            effects.attentions = self.others_hear(who, Attention::ReservationsReleased);
        }
        self.reservation = None;
        Ok(effects)
    }

    /// SPC-4 5.13.11.2.7.
    fn clear(&mut self, who: &Ports, key: u64) -> Result<Effects, Fault> {
        self.authorize(who, key)?;
        let attentions = self.others_hear(who, Attention::ReservationsPreempted);
        self.registrants.clear();
        self.reservation = None;
        self.count_generation();
        Ok(Effects { attentions, aborted: Vec::new() })
    }

    /// SPC-4 5.13.11.2.4 to 5.13.11.2.6.
    fn preempt(&mut self, who: &Ports, key: u64, victim: u64, kind: Kind, abort: bool) -> Result<Effects, Fault> {
        self.authorize(who, key)?;
        let reservation = self.reservation.clone();
        let shared = reservation.as_ref().is_some_and(|reservation| reservation.kind.all_registrants());
        // Zero names all the others where all of them hold the reservation, and nobody elsewhere.
        if victim == 0 && !shared {
            return Err(Condition::list(8).into());
        }
        let holder_key = reservation.as_ref().and_then(|reservation| self.key_of(&reservation.holder));
        let takes_over = if shared { victim == 0 } else { reservation.is_some() && holder_key == Some(victim) };
        if victim != 0 && !self.registrants.iter().any(|registrant| registrant.key == victim) {
            return Err(CONFLICT);
        }
        let removed = |registrant: &Registrant| registrant.ports != *who && (victim == 0 || registrant.key == victim);
        let gone: Vec<Ports> =
            self.registrants.iter().filter(|one| removed(one)).map(|one| one.ports.clone()).collect();
        self.registrants.retain(|registrant| !removed(registrant));
        let mut attentions: Vec<(Ports, Attention)> =
            gone.iter().map(|ports| (ports.clone(), Attention::RegistrationsPreempted)).collect();
        if takes_over {
            if reservation.is_some_and(|before| before.kind != kind && before.kind.for_registrants()) {
                attentions.extend(self.others_hear(who, Attention::ReservationsReleased));
            }
            self.reservation = Some(Reservation { kind, holder: who.clone() });
        } else if let Some(reservation) = reservation.filter(|reservation| gone.contains(&reservation.holder)) {
            // An all registrants type: whoever preempts is one of those who hold it.
            self.reservation = Some(Reservation { kind: reservation.kind, holder: who.clone() });
        }
        self.count_generation();
        Ok(Effects { attentions, aborted: if abort { gone } else { Vec::new() } })
    }

    /// REGISTER AND MOVE (SPC-4 5.13.8).
    fn transfer(
        &mut self,
        who: &Ports,
        key: u64,
        new_key: u64,
        aptpl: bool,
        unregister: bool,
        to: &Ports,
    ) -> Result<Effects, Fault> {
        self.authorize(who, key)?;
        let Some(reservation) = self.reservation.clone() else { return Err(Condition::cdb_bit(1, 4).into()) };
        if reservation.holder != *who || reservation.kind.all_registrants() {
            return Err(CONFLICT);
        }
        if new_key == 0 {
            return Err(Condition::list(8).into());
        }
        if to == who {
            return Err(Condition::list(24).into());
        }
        self.set_key(to, new_key)?;
        self.reservation = Some(Reservation { kind: reservation.kind, holder: to.clone() });
        if unregister {
            self.registrants.retain(|registrant| registrant.ports != *who);
        }
        self.aptpl = aptpl;
        self.count_generation();
        Ok(Effects::default())
    }
}
