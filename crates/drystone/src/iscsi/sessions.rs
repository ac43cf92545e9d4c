//! The sessions that are logged in: listed and dropped from any thread.

use super::router::Router;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;
use tokio::sync::watch;

/// A normal session as people are shown it. Discovery sessions last for milliseconds and are not listed.
#[derive(Debug, Clone)]
pub struct SessionInfo {
    /// Given by this controller, never used twice in a run.
    pub id: u64,
    /// The vDisk's [`crate::frontend::Found::key`] and name.
    pub key: u64,
    pub vdisk: String,
    pub initiator: String,
    pub alias: Option<String>,
    pub isid: [u8; 6],
    pub tsih: u16,
    /// What it sees at this moment, by [`super::FoundUnit::unit_key`].
    pub units: Vec<u64>,
    /// The CHAP user that logged in.
    pub user: Option<String>,
    /// Of the initiator.
    pub address: SocketAddr,
    /// Where it came in.
    pub portal: SocketAddr,
    pub portal_group: u16,
    pub header_digest: bool,
    pub data_digest: bool,
    pub since: SystemTime,
    pub commands_in_flight: u32,
    pub read_bytes: u64,
    pub written_bytes: u64,
}

/// Counted by the connection, read by whoever lists.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub commands_in_flight: AtomicU32,
    pub read_bytes: AtomicU64,
    pub written_bytes: AtomicU64,
    /// See [`SessionInfo::units`].
    units: Mutex<Vec<u64>>,
    /// The same initiator port has logged in again.
    replaced: AtomicBool,
}

struct Entry {
    info: SessionInfo,
    counters: Arc<Counters>,
    /// Becomes true when the session is to end.
    end: watch::Sender<bool>,
}

#[derive(Default)]
struct Open {
    last_id: u64,
    last_tsih: u16,
    sessions: BTreeMap<u64, Entry>,
}

/// All sessions of a controller.
#[derive(Default)]
pub struct Sessions(Mutex<Open>);

/// A session's entry; it is listed until this is dropped.
pub(super) struct Listed {
    sessions: Arc<Sessions>,
    pub id: u64,
    pub tsih: u16,
    pub counters: Arc<Counters>,
    /// Becomes true when the session is to end.
    pub end: watch::Receiver<bool>,
}

pub(super) enum Entered {
    Listed(Listed),
    /// These have to end first: they say so by going away.
    After(Vec<watch::Receiver<bool>>),
    /// 65,535 are there.
    Full,
}

impl Sessions {
    pub fn new() -> Arc<Sessions> {
        Arc::default()
    }

    /// In order of login.
    pub fn list(&self) -> Vec<SessionInfo> {
        self.lock().sessions.values().map(Entry::now).collect()
    }

    /// How many there were since the start.
    pub fn begun(&self) -> u64 {
        self.lock().last_id
    }

    /// Asks the session to end; false: there is none of this id (any more).
    pub fn drop_session(&self, id: u64) -> bool {
        self.lock().sessions.get(&id).map(|entry| entry.end.send_replace(true)).is_some()
    }

    /// Asks all sessions of a vDisk to end.
    pub(super) fn end_all_of(&self, key: u64) {
        for entry in self.lock().sessions.values().filter(|entry| entry.info.key == key) {
            entry.end.send_replace(true);
        }
    }

    pub(super) fn has_tsih(&self, tsih: u16) -> bool {
        self.lock().sessions.values().any(|entry| entry.info.tsih == tsih)
    }

    /// Enters a session that is about to begin; `id` and `tsih` of `info` are chosen here. Sessions that it takes the
    /// place of (RFC 7143 section 6.3.5: the same initiator port, the same target port) are asked to end first.
    pub(super) fn enter(self: &Arc<Self>, info: SessionInfo) -> Entered {
        let mut open = self.lock();
        let same = |old: &SessionInfo| {
            (old.key, &old.initiator, old.isid, old.portal_group)
                == (info.key, &info.initiator, info.isid, info.portal_group)
        };
        let replaced = open.sessions.values().filter(|entry| same(&entry.info));
        let ends: Vec<_> = replaced.map(Entry::replace).collect();
        if !ends.is_empty() {
            return Entered::After(ends);
        }
        let Some(tsih) = open.free_tsih() else { return Entered::Full };
        open.last_tsih = tsih;
        open.last_id += 1;
        let id = open.last_id;
        let counters = Arc::new(Counters { units: Mutex::new(info.units.clone()), ..Counters::default() });
        let (sender, end) = watch::channel(false);
        let info = SessionInfo { id, tsih, ..info };
        open.sessions.insert(id, Entry { info, counters: counters.clone(), end: sender });
        Entered::Listed(Listed { sessions: self.clone(), id, tsih, counters, end })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().expect("a panic under the lock ends the process")
    }
}

impl Open {
    /// The next one that nobody has; zero names no session.
    fn free_tsih(&self) -> Option<u16> {
        let taken = |tsih: u16| self.sessions.values().any(|entry| entry.info.tsih == tsih);
        let after = (1..=u16::MAX).map(|step| self.last_tsih.wrapping_add(step));
        if self.sessions.len() >= usize::from(u16::MAX) {
            return None;
        }
        after.into_iter().find(|tsih| *tsih != 0 && !taken(*tsih))
    }
}

impl Entry {
    fn replace(&self) -> watch::Receiver<bool> {
        self.counters.replaced.store(true, Ordering::Relaxed);
        self.end.send_replace(true);
        self.end.subscribe()
    }

    fn now(&self) -> SessionInfo {
        SessionInfo {
            commands_in_flight: self.counters.commands_in_flight.load(Ordering::Relaxed),
            read_bytes: self.counters.read_bytes.load(Ordering::Relaxed),
            written_bytes: self.counters.written_bytes.load(Ordering::Relaxed),
            units: self.counters.units().clone(),
            ..self.info.clone()
        }
    }
}

impl Counters {
    /// The logical units of the session are these now.
    pub fn sees(&self, router: &Router) {
        *self.units() = router.luns().into_values().collect();
    }

    fn units(&self) -> MutexGuard<'_, Vec<u64>> {
        self.units.lock().expect("a panic under the lock ends the process")
    }
}

impl Listed {
    /// Whether the end was asked for by a login that takes its place.
    pub fn is_replaced(&self) -> bool {
        self.counters.replaced.load(Ordering::Relaxed)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        // Dropping the sender tells those that wait for the end.
        let gone = self.sessions.lock().sessions.remove(&self.id);
        drop(gone);
    }
}
