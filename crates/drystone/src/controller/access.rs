//! The note in a vDisk's log that says who may log in over iSCSI, and what its rules resolve to.
//!
//! | field | type |
//! |---|---|
//! | version | u8, 1 |
//! | initiators | u16 number of texts, texts |
//! | groups | u8 number of them; each: name text, serial u64, u16 number of texts, texts |
//! | chap | u8 0, or 1 and: user text, secret text |
//! | mutual | the same |
//!
//! A text is u16 length and UTF-8; integers are little-endian. No note: anybody may log in.
//! Groups live in the metadata store; the copies are for who has lost it, and for nobody else.

use super::groups::{Group, Groups};
use base::{Reader, Truncated, Writer};
use control::{ChapSecret, IscsiAccess, IscsiRules};
use std::collections::BTreeMap;

const VERSION: u8 = 1;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessNote {
    pub rules: IscsiRules,
    /// The groups that the rules refer to, as they were when this was written.
    pub groups: BTreeMap<String, Group>,
}

/// Bytes that this build cannot read: nobody is let in then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the note of who may log in cannot be read by this build")]
pub struct Unreadable;

impl From<Truncated> for Unreadable {
    fn from(_: Truncated) -> Unreadable {
        Unreadable
    }
}

impl AccessNote {
    /// Empty for rules that let anybody in.
    pub fn encode(&self) -> Vec<u8> {
        if self.rules == IscsiRules::default() {
            return Vec::new();
        }
        let mut w = Writer::with_capacity(256);
        w.u8(VERSION);
        put_texts(&mut w, &self.rules.initiators);
        w.u8(self.rules.groups.len() as u8);
        for name in &self.rules.groups {
            let group = self.groups.get(name).cloned().unwrap_or_default();
            put_text(&mut w, name);
            w.u64_le(group.serial);
            put_texts(&mut w, &group.initiators);
        }
        put_chap(&mut w, self.rules.chap.as_ref());
        put_chap(&mut w, self.rules.mutual.as_ref());
        w.bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<AccessNote, Unreadable> {
        let mut note = AccessNote::default();
        if bytes.is_empty() {
            return Ok(note);
        }
        let mut r = Reader::new(bytes);
        if r.u8()? != VERSION {
            return Err(Unreadable);
        }
        note.rules.initiators = texts(&mut r)?;
        for _ in 0..r.u8()? {
            let (name, serial, initiators) = (text(&mut r)?, r.u64_le()?, texts(&mut r)?);
            note.rules.groups.push(name.clone());
            note.groups.insert(name, Group { serial, initiators });
        }
        note.rules.chap = chap(&mut r)?;
        note.rules.mutual = chap(&mut r)?;
        // Rules that would let anybody in have no note.
        if r.is_empty() && note.rules != IscsiRules::default() { Ok(note) } else { Err(Unreadable) }
    }

    /// What the transport goes by. A group that is not there any more counts as it was when the rules were set.
    pub fn resolve(&self, groups: &Groups) -> IscsiAccess {
        let mut initiators = self.rules.initiators.clone();
        for name in &self.rules.groups {
            let group = groups.find(name).or_else(|| self.groups.get(name).cloned()).unwrap_or_default();
            initiators.extend(group.initiators);
        }
        initiators.sort_unstable();
        initiators.dedup();
        if initiators.is_empty() && !self.rules.groups.is_empty() {
            // Groups of which nothing is known name nobody; an empty list would mean everybody.
            initiators.push(String::new());
        }
        IscsiAccess { initiators, chap: self.rules.chap.clone(), mutual: self.rules.mutual.clone() }
    }

    /// The same rules with the groups as they are now.
    pub fn with_groups_of(mut self, groups: &Groups) -> AccessNote {
        let named = self.rules.groups.iter().filter_map(|name| Some((name.clone(), groups.find(name)?)));
        let now: BTreeMap<_, _> = named.collect();
        self.groups.retain(|name, _| self.rules.groups.contains(name));
        self.groups.extend(now);
        self
    }
}

fn put_text(w: &mut Writer, text: &str) {
    let len = u16::try_from(text.len()).expect("names and secrets are limited where they come in");
    w.u16_le(len).put(text.as_bytes());
}

fn put_texts(w: &mut Writer, texts: &[String]) {
    w.u16_le(u16::try_from(texts.len()).expect("lists are limited where they come in"));
    texts.iter().for_each(|text| put_text(w, text));
}

fn put_chap(w: &mut Writer, chap: Option<&ChapSecret>) {
    w.u8(chap.is_some().into());
    if let Some(ChapSecret { user, secret }) = chap {
        put_text(w, user);
        put_text(w, secret);
    }
}

fn text(r: &mut Reader) -> Result<String, Unreadable> {
    let len = r.u16_le()?;
    String::from_utf8(r.take(len.into())?.to_vec()).map_err(|_| Unreadable)
}

fn texts(r: &mut Reader) -> Result<Vec<String>, Unreadable> {
    (0..r.u16_le()?).map(|_| text(r)).collect()
}

fn chap(r: &mut Reader) -> Result<Option<ChapSecret>, Unreadable> {
    match r.u8()? {
        0 => Ok(None),
        1 => Ok(Some(ChapSecret { user: text(r)?, secret: text(r)? })),
        _ => Err(Unreadable),
    }
}

#[cfg(test)]
mod tests;
