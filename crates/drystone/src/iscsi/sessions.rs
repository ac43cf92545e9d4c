//! The sessions that are logged in: listed and dropped from any thread.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
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

impl Sessions {
    pub fn new() -> Arc<Sessions> {
        Arc::default()
    }

    /// In order of login.
    pub fn list(&self) -> Vec<SessionInfo> {
        self.lock().sessions.values().map(Entry::now).collect()
    }

    /// Asks the session to end; false: there is none of this id (any more).
    pub fn drop_session(&self, id: u64) -> bool {
        self.lock().sessions.get(&id).map(|entry| entry.end.send_replace(true)).is_some()
    }

    /// Enters a session that is about to begin; `id` and `tsih` of `info` are chosen here. `None`: 65,535 are there.
    pub(super) fn enter(self: &Arc<Self>, info: SessionInfo) -> Option<Listed> {
        let mut open = self.lock();
        let tsih = open.free_tsih()?;
        open.last_tsih = tsih;
        open.last_id += 1;
        let id = open.last_id;
        let counters = Arc::new(Counters::default());
        let (sender, end) = watch::channel(false);
        let info = SessionInfo { id, tsih, ..info };
        open.sessions.insert(id, Entry { info, counters: counters.clone(), end: sender });
        Some(Listed { sessions: self.clone(), id, tsih, counters, end })
    }

    /// Asks the sessions that this one takes the place of to end (RFC 7143 section 6.3.5: same initiator port, same
    /// target port) and says how to wait for that.
    pub(super) fn reinstate(&self, new: &SessionInfo) -> Vec<watch::Receiver<bool>> {
        let same = |old: &SessionInfo| {
            (old.key, &old.initiator, old.isid, old.portal_group)
                == (new.key, &new.initiator, new.isid, new.portal_group)
        };
        let open = self.lock();
        let replaced = open.sessions.values().filter(|entry| same(&entry.info));
        replaced
            .map(|entry| {
                entry.end.send_replace(true);
                entry.end.subscribe()
            })
            .collect()
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
    fn now(&self) -> SessionInfo {
        SessionInfo {
            commands_in_flight: self.counters.commands_in_flight.load(Ordering::Relaxed),
            read_bytes: self.counters.read_bytes.load(Ordering::Relaxed),
            written_bytes: self.counters.written_bytes.load(Ordering::Relaxed),
            ..self.info.clone()
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        // Dropping the sender tells those that wait for the end.
        let gone = self.sessions.lock().sessions.remove(&self.id);
        drop(gone);
    }
}
