//! vDisks that get their name when all of their content is there: under that name there is all of it, or nothing.

use super::client::Client;
use anyhow::{Context, Result};
use api::PatchVdisk;
use control::rules::{NAME_LEN_MAX, UNFINISHED};
use control::{CreateVdisk, CreateVm, DeleteVdisk, ExistingVdisk, VmInfo};

const NUMBER_DIGITS: usize = 8;

/// Deleted when dropped, unless it became final. What a `kill -9` leaves has a name that says so, and is nobody's content:
/// no other call will ever use a name with that number.
pub struct Temporary<'a> {
    client: &'a Client,
    pub name: String,
    is_final: bool,
}

impl Temporary<'_> {
    pub fn create<'a>(
        client: &'a Client,
        wanted: &str,
        create: impl FnOnce(String) -> CreateVdisk,
    ) -> Result<Temporary<'a>> {
        let name = self::name(wanted, UNFINISHED, random()?);
        client.create(&create(name.clone()))?;
        Ok(Temporary { client, name, is_final: false })
    }

    /// Survives power loss when it returns. Fails, and leaves nothing, if the name was taken meanwhile.
    pub fn become_final(mut self, wanted: &str) -> Result<()> {
        self.client.flush(&self.name)?;
        self.client.patch(&self.name, &PatchVdisk { name: Some(wanted.to_string()), ..PatchVdisk::default() })?;
        self.is_final = true;
        Ok(())
    }
}

/// They become the vDisks of a new VM, by label: all of them, in one step, or none, and then nothing is left.
pub fn become_vm(client: &Client, name: &str, filled: Vec<(String, Temporary<'_>)>) -> Result<VmInfo> {
    let flushed = filled.iter().try_for_each(|(_, temporary)| client.flush(&temporary.name));
    flushed?;
    let existing = |(label, temporary): &(String, Temporary<'_>)| ExistingVdisk {
        label: label.clone(),
        vdisk: temporary.name.clone(),
    };
    let vm = client.create_vm(&vm_of(name, filled.iter().map(existing).collect()))?;
    filled.into_iter().for_each(|(_, mut temporary)| temporary.is_final = true);
    Ok(vm)
}

/// A VM of vDisks that are there.
pub fn vm_of(name: &str, existing: Vec<ExistingVdisk>) -> CreateVm {
    CreateVm { name: name.to_string(), vdisks: Vec::new(), container: None, existing }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if self.is_final {
            return;
        }
        let deleted = self.client.delete(&self.name, DeleteVdisk { force: true, snapshots: true });
        // Its new name may have been given to it all the same.
        if let (Err(error), false) = (deleted, matches!(self.client.find(&self.name), Ok(None))) {
            eprintln!("note: vDisk {:?} is unfinished and could not be deleted: {error:#}", self.name);
        }
    }
}

/// As much of `wanted` as fits, and the number behind it.
pub fn name(wanted: &str, infix: &str, number: u32) -> String {
    let room = NAME_LEN_MAX - infix.len() - NUMBER_DIGITS;
    let end = wanted.floor_char_boundary(room);
    format!("{}{infix}{number:08x}", &wanted[..end])
}

pub fn random() -> Result<u32> {
    let mut bytes = [0; 4];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    anyhow::ensure!(got.context("the kernel gives no random numbers")? == bytes.len(), "too few random bytes");
    Ok(u32::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_are_and_fit() {
        assert_eq!(name("web", UNFINISHED, 0x2a), "web.unfinished-0000002a");
        let long = name(&"x".repeat(NAME_LEN_MAX), UNFINISHED, 1);
        assert_eq!(long.len(), NAME_LEN_MAX);
        control::rules::check_name(&long).expect("a name");
    }
}
