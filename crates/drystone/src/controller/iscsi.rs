//! The verbs on iSCSI: access rules as notes of the vDisks, groups in the metadata store, sessions of the transport.

use super::access::AccessNote;
use super::directory::Listed;
use super::errors::from_node;
use super::groups::{self, Group};
use super::verbs::Verbs;
use crate::iscsi::SessionInfo;
use base::VdiskId;
use control::rules::iscsi as rules;
use control::{
    ControlFuture, Error, InitiatorGroup, InitiatorGroupInfo, IscsiControl, IscsiPortal, IscsiSession, IscsiTarget,
    Kind, Result, SetIscsiAccess, target_name,
};
use std::sync::Arc;
use std::time::UNIX_EPOCH;
use vdisk::NoteKind;

/// Groups are stored by the first shard's worker.
const GROUPS_SHARD: u16 = 0;

impl Verbs {
    fn iscsi_target_of(&self, vdisk: &str, listed: &Listed) -> Result<IscsiTarget> {
        let access = listed.access.clone().map_err(unreadable)?;
        let rules = access.rules.clone();
        Ok(IscsiTarget {
            vdisk: vdisk.to_string(),
            target_name: target_name(vdisk),
            portals: self.portals.iter().map(|portal| portal.reach(&rules)).collect(),
            initiators: rules.initiators,
            groups: rules.groups,
            chap_user: rules.chap.map(|chap| chap.user),
            mutual_user: rules.mutual.map(|chap| chap.user),
            sessions: self.sessions_of(listed.id),
        })
    }

    /// Sessions that see a vDisk at this moment, through its own target or its VM's.
    pub(super) fn sessions_of(&self, id: VdiskId) -> u32 {
        self.sessions.list().iter().filter(|session| session.units.contains(&id.raw())).count() as u32
    }

    async fn change_access(&self, name: &str, set: SetIscsiAccess) -> Result<IscsiTarget> {
        let _one = self.changing.lock().await;
        let listed = self.find(name)?;
        // Rules that cannot be read can be replaced: what is not named is as if nothing had been set.
        let before = listed.access.clone().unwrap_or_default();
        let rules = before.rules.changed(set)?;
        if let Some(missing) = rules.groups.iter().find(|group| self.groups.find(group).is_none()) {
            return Err(Error::invalid(Error::no_group(missing).message));
        }
        let note = AccessNote { rules, groups: before.groups.clone() }.with_groups_of(&self.groups);
        self.store_access(&listed, note).await?;
        self.iscsi_target_of(name, &self.find(name)?)
    }

    async fn store_access(&self, listed: &Listed, note: AccessNote) -> Result<()> {
        let (id, bytes) = (listed.id, note.encode());
        let stored = self.shards.on(listed.shard, move |shard| {
            Box::pin(async move { shard.set_note(id, NoteKind::IscsiAccess, bytes.into()).await.map_err(from_node) })
        });
        stored.await?;
        self.directory.set_access(id, Ok(Arc::new(note)));
        Ok(())
    }

    fn iscsi_group_info(&self, name: &str) -> Result<InitiatorGroupInfo> {
        let group = self.groups.find(name).ok_or_else(|| Error::no_group(name))?;
        let users = self.users_of(name).into_iter().map(|(vdisk, _)| vdisk).collect();
        Ok(InitiatorGroupInfo { name: name.to_string(), initiators: group.initiators, vdisks: users })
    }

    fn users_of(&self, group: &str) -> Vec<(String, Listed)> {
        let refers = |(_, listed): &(String, Listed)| {
            listed.access.as_ref().is_ok_and(|access| access.rules.groups.iter().any(|name| name == group))
        };
        self.directory.all().into_iter().filter(refers).collect()
    }

    async fn store_group(&self, name: &str, group: Option<Group>) -> Result<()> {
        let (named, stored) = (name.to_string(), group.clone());
        self.shards
            .on(GROUPS_SHARD, move |shard| {
                Box::pin(async move {
                    let store = shard.store();
                    let done = groups::store(&*store, &named, stored.as_ref()).await;
                    done.map_err(|error| from_node(error.into()))
                })
            })
            .await?;
        match group {
            Some(group) => self.groups.put(name, group),
            None => self.groups.remove(name),
        }
        Ok(())
    }

    async fn new_group(&self, group: InitiatorGroup) -> Result<InitiatorGroupInfo> {
        let InitiatorGroup { name, initiators } = rules::group(group)?;
        let _one = self.changing.lock().await;
        if self.groups.find(&name).is_some() {
            return Err(Error::new(Kind::Exists, format!("an initiator group {name:?} exists already")));
        }
        if self.groups.all().len() >= rules::GROUPS_TOTAL_MAX {
            return Err(Error::invalid(format!("there are {} initiator groups already", rules::GROUPS_TOTAL_MAX)));
        }
        self.store_group(&name, Some(Group { serial: 1, initiators })).await?;
        self.iscsi_group_info(&name)
    }

    async fn change_group(&self, group: InitiatorGroup) -> Result<InitiatorGroupInfo> {
        let InitiatorGroup { name, initiators } = rules::group(group)?;
        let _one = self.changing.lock().await;
        let before = self.groups.find(&name).ok_or_else(|| Error::no_group(&name))?;
        self.store_group(&name, Some(Group { serial: before.serial + 1, initiators })).await?;
        self.copy_groups(self.users_of(&name)).await?;
        self.iscsi_group_info(&name)
    }

    async fn remove_group(&self, name: &str) -> Result<()> {
        let _one = self.changing.lock().await;
        let info = self.iscsi_group_info(name)?;
        if !info.vdisks.is_empty() {
            return Err(Error::group_in_use(name, &info.vdisks));
        }
        self.store_group(name, None).await
    }

    /// Brings the copies of groups in the vDisks' logs up to date: `drystone recover` has nothing else.
    async fn copy_groups(&self, users: Vec<(String, Listed)>) -> Result<()> {
        for (_, listed) in users {
            let Ok(access) = &listed.access else { continue };
            let now = AccessNote::clone(access).with_groups_of(&self.groups);
            if now != **access {
                self.store_access(&listed, now).await?;
            }
        }
        Ok(())
    }

    /// A change of a group that was cut short goes on.
    pub(super) async fn finish_group_changes(&self) {
        let _one = self.changing.lock().await;
        if let Err(error) = self.copy_groups(self.directory.all()).await {
            tracing::warn!(%error, "copies of initiator groups in the logs are not up to date yet; the next start tries again");
        }
    }

    fn iscsi_session(&self, info: SessionInfo) -> IscsiSession {
        let named = VdiskId::from_raw(info.key).and_then(|id| self.directory.find_id(id));
        let since = info.since.duration_since(UNIX_EPOCH).unwrap_or_default();
        IscsiSession {
            id: info.id,
            vdisk: named.map_or(info.vdisk, |(name, _)| name),
            initiator: info.initiator,
            alias: info.alias,
            isid: info.isid.iter().map(|byte| format!("{byte:02x}")).collect(),
            tsih: info.tsih,
            user: info.user,
            address: info.address.to_string(),
            portal: info.portal.to_string(),
            group_tag: info.portal_group,
            header_digest: info.header_digest,
            data_digest: info.data_digest,
            since_unix_ms: since.as_millis() as u64,
            commands_in_flight: info.commands_in_flight,
            read_bytes: info.read_bytes,
            written_bytes: info.written_bytes,
        }
    }
}

fn unreadable(error: super::access::Unreadable) -> Error {
    Error::new(Kind::Damaged, format!("{error}; set the rules anew with `drystone iscsi access`"))
}

impl IscsiControl for Verbs {
    fn targets(&self) -> ControlFuture<'_, Vec<IscsiTarget>> {
        Box::pin(async move {
            self.directory.all().iter().map(|(name, listed)| self.iscsi_target_of(name, listed)).collect()
        })
    }

    fn target<'a>(&'a self, name: &'a str) -> ControlFuture<'a, IscsiTarget> {
        Box::pin(async move { self.iscsi_target_of(name, &self.find(name)?) })
    }

    fn set_access<'a>(&'a self, name: &'a str, set: SetIscsiAccess) -> ControlFuture<'a, IscsiTarget> {
        Box::pin(self.change_access(name, set))
    }

    fn groups(&self) -> ControlFuture<'_, Vec<InitiatorGroupInfo>> {
        Box::pin(async move { self.groups.all().iter().map(|(name, _)| self.iscsi_group_info(name)).collect() })
    }

    fn create_group(&self, group: InitiatorGroup) -> ControlFuture<'_, InitiatorGroupInfo> {
        Box::pin(self.new_group(group))
    }

    fn set_group(&self, group: InitiatorGroup) -> ControlFuture<'_, InitiatorGroupInfo> {
        Box::pin(self.change_group(group))
    }

    fn delete_group<'a>(&'a self, name: &'a str) -> ControlFuture<'a, ()> {
        Box::pin(self.remove_group(name))
    }

    fn sessions(&self) -> ControlFuture<'_, Vec<IscsiSession>> {
        Box::pin(async move { Ok(self.sessions.list().into_iter().map(|info| self.iscsi_session(info)).collect()) })
    }

    fn drop_session(&self, id: u64) -> ControlFuture<'_, ()> {
        Box::pin(async move { if self.sessions.drop_session(id) { Ok(()) } else { Err(Error::no_session(id)) } })
    }

    fn portals(&self) -> ControlFuture<'_, Vec<IscsiPortal>> {
        Box::pin(async move { Ok(self.portals.clone()) })
    }
}
