//! The verbs on iSCSI in memory.

use super::Model;
use crate::rules::iscsi as rules;
use crate::{
    ControlFuture, Error, InitiatorGroup, InitiatorGroupInfo, IscsiControl, IscsiPortal, IscsiRules, IscsiSession,
    IscsiTarget, Kind, Result, SetIscsiAccess, TARGET_PREFIX,
};
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct Iscsi {
    /// By the name of the vDisk.
    rules: BTreeMap<String, IscsiRules>,
    groups: BTreeMap<String, Vec<String>>,
    sessions: Vec<IscsiSession>,
}

impl Model {
    /// As if an initiator had logged in.
    pub fn add_session(&self, session: IscsiSession) {
        self.lock().iscsi.sessions.push(session);
    }

    /// One for this machine, one for all.
    fn two_portals() -> Vec<IscsiPortal> {
        let portal =
            |address: &str, group_tag, serves_open| IscsiPortal { address: address.into(), group_tag, serves_open };
        vec![portal("127.0.0.1:3260", 1, true), portal("10.0.0.1:3260", 2, false)]
    }
}

impl Iscsi {
    fn target(&self, vdisk: &str) -> IscsiTarget {
        let rules = self.rules.get(vdisk).cloned().unwrap_or_default();
        IscsiTarget {
            vdisk: vdisk.to_string(),
            target_name: format!("{TARGET_PREFIX}{vdisk}"),
            portals: Model::two_portals().iter().map(|portal| portal.reach(&rules)).collect(),
            chap_user: rules.chap.map(|chap| chap.user),
            mutual_user: rules.mutual.map(|chap| chap.user),
            initiators: rules.initiators,
            groups: rules.groups,
            sessions: self.sessions.iter().filter(|session| session.vdisk == vdisk).count() as u32,
        }
    }

    fn group(&self, name: &str) -> InitiatorGroupInfo {
        let refers = |(_, rules): &(&String, &IscsiRules)| rules.groups.iter().any(|group| group == name);
        InitiatorGroupInfo {
            name: name.to_string(),
            initiators: self.groups.get(name).cloned().unwrap_or_default(),
            vdisks: self.rules.iter().filter(refers).map(|(vdisk, _)| vdisk.clone()).collect(),
        }
    }

    fn put_group(&mut self, group: InitiatorGroup, is_new: bool) -> Result<InitiatorGroupInfo> {
        let group = rules::group(group)?;
        match (self.groups.contains_key(&group.name), is_new) {
            (true, true) => {
                return Err(Error::new(Kind::Exists, format!("an initiator group {:?} exists already", group.name)));
            }
            (false, false) => return Err(Error::no_group(&group.name)),
            _ => {}
        }
        self.groups.insert(group.name.clone(), group.initiators);
        Ok(self.group(&group.name))
    }
}

fn ready<'a, T: Send + 'a>(result: Result<T>) -> ControlFuture<'a, T> {
    Box::pin(std::future::ready(result))
}

impl IscsiControl for Model {
    fn targets(&self) -> ControlFuture<'_, Vec<IscsiTarget>> {
        let state = self.lock();
        ready(Ok(state.vdisks.keys().map(|name| state.iscsi.target(name)).collect()))
    }

    fn target<'a>(&'a self, name: &'a str) -> ControlFuture<'a, IscsiTarget> {
        let mut state = self.lock();
        let found = state.vdisk(name).map(drop);
        ready(found.map(|()| state.iscsi.target(name)))
    }

    fn set_access<'a>(&'a self, name: &'a str, set: SetIscsiAccess) -> ControlFuture<'a, IscsiTarget> {
        let mut state = self.lock();
        let changed = state.vdisk(name).map(drop).and_then(|()| {
            let iscsi = &mut state.iscsi;
            let rules = iscsi.rules.get(name).cloned().unwrap_or_default().changed(set)?;
            if let Some(missing) = rules.groups.iter().find(|group| !iscsi.groups.contains_key(*group)) {
                return Err(Error::invalid(Error::no_group(missing).message));
            }
            iscsi.rules.insert(name.to_string(), rules);
            Ok(iscsi.target(name))
        });
        ready(changed)
    }

    fn groups(&self) -> ControlFuture<'_, Vec<InitiatorGroupInfo>> {
        let state = self.lock();
        ready(Ok(state.iscsi.groups.keys().map(|name| state.iscsi.group(name)).collect()))
    }

    fn create_group(&self, group: InitiatorGroup) -> ControlFuture<'_, InitiatorGroupInfo> {
        ready(self.lock().iscsi.put_group(group, true))
    }

    fn set_group(&self, group: InitiatorGroup) -> ControlFuture<'_, InitiatorGroupInfo> {
        ready(self.lock().iscsi.put_group(group, false))
    }

    fn delete_group<'a>(&'a self, name: &'a str) -> ControlFuture<'a, ()> {
        let mut state = self.lock();
        let users = state.iscsi.group(name).vdisks;
        ready(match state.iscsi.groups.contains_key(name) {
            false => Err(Error::no_group(name)),
            true if !users.is_empty() => Err(Error::group_in_use(name, &users)),
            true => {
                state.iscsi.groups.remove(name);
                Ok(())
            }
        })
    }

    fn sessions(&self) -> ControlFuture<'_, Vec<IscsiSession>> {
        ready(Ok(self.lock().iscsi.sessions.clone()))
    }

    fn drop_session(&self, id: u64) -> ControlFuture<'_, ()> {
        let sessions = &mut self.lock().iscsi.sessions;
        let before = sessions.len();
        sessions.retain(|session| session.id != id);
        ready(if sessions.len() < before { Ok(()) } else { Err(Error::no_session(id)) })
    }

    fn portals(&self) -> ControlFuture<'_, Vec<IscsiPortal>> {
        ready(Ok(Model::two_portals()))
    }
}
