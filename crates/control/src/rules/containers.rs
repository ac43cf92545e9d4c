//! What containers may be, and what the capacity of one refuses.

use super::check_name;
use super::rewind::check_rewind;
use crate::{CreateContainer, Error, Result, SetContainer};
use base::units::format_size;

/// The container that vDisks are in of which nothing is said. It is always there.
pub const DEFAULT: &str = "default";
/// Containers of a controller: all of them are in memory, and looked at for each vDisk that is listed.
pub const CONTAINERS_MAX: usize = 1_000;
/// A copy of it is in the log of each vDisk.
pub const COMMENT_BYTES_MAX: usize = 256;

pub fn check_container_name(name: &str) -> Result<()> {
    check_name(name)
        .map_err(|error| Error::invalid(error.message.replace("the name of a vDisk", "the name of a container")))
}

pub fn check_comment(comment: &str) -> Result<()> {
    if comment.len() > COMMENT_BYTES_MAX {
        let text = format!("a comment of {} bytes; {COMMENT_BYTES_MAX} are allowed", comment.len());
        return Err(Error::invalid(text));
    }
    match comment.chars().find(|letter| letter.is_control()) {
        Some(bad) => Err(Error::invalid(format!("a comment is one line of text; this one contains {bad:?}"))),
        None => Ok(()),
    }
}

pub fn check_create(create: &CreateContainer) -> Result<()> {
    check_container_name(&create.name)?;
    create.rewind.as_ref().map_or(Ok(()), check_rewind)?;
    check_comment(&create.comment)
}

/// `name`: of the container now.
pub fn check_set(name: &str, set: &SetContainer) -> Result<()> {
    if let Some(new_name) = &set.name {
        check_container_name(new_name)?;
        if name == DEFAULT && new_name != DEFAULT {
            return Err(Error::invalid("the container \"default\" is always there, and keeps its name"));
        }
    }
    set.rewind.flatten().as_ref().map_or(Ok(()), check_rewind)?;
    check_comment(set.comment.as_deref().unwrap_or_default())
}

pub fn check_container_count(count: usize) -> Result<()> {
    if count < CONTAINERS_MAX {
        return Ok(());
    }
    Err(Error::invalid(format!("there are {count} containers, the most that there may be; delete some")))
}

/// Whether something may be made in a container, grow, or come to it with `added` bytes of data.
pub fn check_capacity(container: &str, capacity_bytes: u64, used_bytes: u64, added_bytes: u64) -> Result<()> {
    if capacity_bytes == 0 || (used_bytes < capacity_bytes && added_bytes <= capacity_bytes - used_bytes) {
        return Ok(());
    }
    Err(Error::container_full(container, &format_size(capacity_bytes), &format_size(used_bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SetRewind;

    #[test]
    fn what_a_container_may_be() {
        let create = |name: &str, window_seconds, comment: &str| {
            let rewind = Some(SetRewind { window_seconds, limit_bytes: 0 });
            check_create(&CreateContainer { name: name.into(), rewind, capacity_bytes: 0, comment: comment.into() })
        };
        create("gold", 86_400, "for the shop, é").expect("good");
        for (name, window, comment, part) in [
            ("a b", 3600, "", "the name of a container"),
            ("gold", 5, "", "60 s"),
            ("gold", 3600, "two\nlines", "one line"),
            ("gold", 3600, &*"c".repeat(257), "257 bytes"),
        ] {
            let message = create(name, window, comment).expect_err(part).message;
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn the_default_container_keeps_its_name() {
        let to = |name: &str| SetContainer { name: Some(name.into()), ..SetContainer::default() };
        assert!(check_set(DEFAULT, &to("other")).is_err());
        check_set(DEFAULT, &to(DEFAULT)).expect("the same");
        check_set("other", &to("another")).expect("another");
        let off = SetContainer { rewind: Some(None), ..SetContainer::default() };
        check_set(DEFAULT, &off).expect("off");
    }

    #[test]
    fn capacity() {
        for (capacity, used, added, good) in [
            (0, u64::MAX, u64::MAX, true),
            (10, 9, 0, true),
            (10, 9, 1, true),
            (10, 9, 2, false),
            (10, 10, 0, false),
            (10, 11, 0, false),
            (10, 5, u64::MAX, false),
        ] {
            assert_eq!(check_capacity("gold", capacity, used, added).is_ok(), good, "{capacity} {used} {added}");
        }
    }
}
