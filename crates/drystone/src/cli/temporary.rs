//! vDisks that get their name when all of their content is there: under that name there is all of it, or nothing.

use super::client::Client;
use anyhow::{Context, Result};
use api::PatchVdisk;
use control::rules::{NAME_LEN_MAX, UNFINISHED};
use control::{CreateVdisk, DeleteVdisk};

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

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if self.is_final {
            return;
        }
        if let Err(error) = self.client.delete(&self.name, DeleteVdisk { force: true, snapshots: true }) {
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
