//! What names of initiators, groups and secrets of iSCSI may be.

use crate::{Error, InitiatorGroup, Result};

/// RFC 7143 4.2.7.1.
pub const NAME_BYTES_MAX: usize = 223;
/// Names in one list. With [`GROUPS_MAX`] lists of groups and one of its own, all that a vDisk's rules resolve to fits into
/// the 60 KiB that a vDisk's log keeps for them.
pub const INITIATORS_MAX: usize = 32;
/// Groups that one vDisk refers to.
pub const GROUPS_MAX: usize = 7;
/// Groups of one controller; each of them is in memory on every login.
pub const GROUPS_TOTAL_MAX: usize = 1024;
/// RFC 7143 9.2.1: secrets of less than 96 bits are refused.
pub const SECRET_BYTES_MIN: usize = 12;
pub const SECRET_BYTES_MAX: usize = 255;

/// The name in lower case, in which names are compared (RFC 3722), if it is one.
pub fn initiator_name(name: &str) -> Result<String> {
    let lower = name.to_ascii_lowercase();
    let refuse = |why: &str| {
        Err(Error::invalid(format!(
            "{name:?} is no iSCSI name: {why}; write iqn.YYYY-MM.DOMAIN[:MORE], eui. and 16 hexadecimal digits, or naa. and 16 or 32; \
             a Linux host has its own in /etc/iscsi/initiatorname.iscsi"
        )))
    };
    if name.len() > NAME_BYTES_MAX {
        return refuse("it has more than 223 characters");
    }
    let is_hex = |text: &str| text.chars().all(|c| c.is_ascii_hexdigit());
    match lower.split_once('.') {
        Some(("iqn", rest)) => {
            let (authority, more) = rest.split_once(':').map_or((rest, None), |(a, more)| (a, Some(more)));
            let Some((date, domain)) = authority.split_once('.') else {
                return refuse("a date and a domain are missing");
            };
            let is_date = date.len() == 7
                && date.chars().enumerate().all(|(at, c)| if at == 4 { c == '-' } else { c.is_ascii_digit() })
                && date.get(5..).is_some_and(|month| matches!(month.parse::<u8>(), Ok(1..=12)));
            if !is_date {
                return refuse("behind \"iqn.\" comes a date such as 2026-11");
            }
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
            let is_domain = domain.split('.').all(|label| !label.is_empty()) && domain.chars().all(plain);
            if !is_domain {
                return refuse("its domain is none");
            }
            match more {
                Some("") => refuse("nothing follows its colon"),
                Some(more) if !more.chars().all(|c| plain(c) || c == ':' || c == '_') => {
                    refuse("it has characters besides letters, digits, '.', '-', '_' and ':'")
                }
                _ => Ok(lower),
            }
        }
        Some(("eui", digits)) if digits.len() == 16 && is_hex(digits) => Ok(lower),
        Some(("naa", digits)) if matches!(digits.len(), 16 | 32) && is_hex(digits) => Ok(lower),
        _ => refuse("it does not begin as one"),
    }
}

/// Checked, in lower case, in order, without repetition.
pub fn initiators(names: &[String]) -> Result<Vec<String>> {
    let mut names = names.iter().map(|name| initiator_name(name)).collect::<Result<Vec<_>>>()?;
    names.sort_unstable();
    names.dedup();
    if names.len() > INITIATORS_MAX {
        return Err(Error::invalid(format!(
            "{} initiators are more than a list may have ({INITIATORS_MAX}); use several groups (`drystone iscsi group`)",
            names.len()
        )));
    }
    Ok(names)
}

/// Names of groups that a vDisk refers to.
pub fn group_names(mut groups: Vec<String>) -> Result<Vec<String>> {
    groups.sort_unstable();
    groups.dedup();
    if groups.len() > GROUPS_MAX {
        return Err(Error::invalid(format!("a vDisk can refer to at most {GROUPS_MAX} initiator groups")));
    }
    groups.iter().try_for_each(|name| check_group_name(name))?;
    Ok(groups)
}

pub fn check_group_name(name: &str) -> Result<()> {
    let named = super::check_name(name);
    named
        .map_err(|error| Error::invalid(error.message.replace("the name of a vDisk", "the name of an initiator group")))
}

/// A group as it is kept.
pub fn group(group: InitiatorGroup) -> Result<InitiatorGroup> {
    check_group_name(&group.name)?;
    let initiators = initiators(&group.initiators)?;
    if initiators.is_empty() {
        return Err(Error::invalid("an initiator group needs at least one name: an empty list would let nobody in"));
    }
    Ok(InitiatorGroup { name: group.name, initiators })
}

/// Never repeats the secret.
pub fn check_chap(user: &str, secret: &str) -> Result<()> {
    let printable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if user.is_empty() || user.len() > NAME_BYTES_MAX || !printable(user) {
        return Err(Error::invalid(format!(
            "a CHAP user has 1 to {NAME_BYTES_MAX} printable ASCII characters without spaces; {user:?} has not"
        )));
    }
    if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&secret.len()) {
        return Err(Error::invalid(format!(
            "a CHAP secret has {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} characters, this one {}; shorter ones can be guessed by \
             whoever sees a login (RFC 7143, 9.2.1)",
            secret.len()
        )));
    }
    if !printable(secret) {
        return Err(Error::invalid("a CHAP secret has printable ASCII characters without spaces; this one has others"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_initiators() {
        for name in [
            "iqn.1993-08.org.debian:01:8f3a2b",
            "iqn.1998-01.com.vmware:esx1-4f_2",
            "iqn.1991-05.com.microsoft:win.example.com",
            "iqn.2026-11.io.drystone",
            "eui.02004567A425678D",
            "naa.52004567ba64678d",
            "naa.62004567ba64678d0123456789abcdef",
            &format!("iqn.2026-11.io.x:{}", "y".repeat(206)),
        ] {
            assert_eq!(initiator_name(name).expect(name), name.to_ascii_lowercase());
        }
        for name in [
            "",
            "iqn",
            "iqn.",
            "iqn.2026-13.io.x",
            "iqn.2026-1.io.x",
            "iqn.20-2611.io.x",
            "iqn.2026-11",
            "iqn.2026-11.",
            "iqn.2026-11.io..x",
            "iqn.2026-11.io.x:",
            "iqn.2026-11.io.x:a b",
            "iqn.2026-11.io.x:a\n",
            "iqn.2026-é1.io.x",
            "eui.123",
            "eui.0200456za425678d",
            "naa.1",
            "wwn.52004567ba64678d",
            &format!("iqn.2026-11.io.x:{}", "y".repeat(207)),
        ] {
            assert!(initiator_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn lists_are_bounded_and_in_order() {
        let names = |count: usize| (0..count).map(|i| format!("iqn.2026-11.io.x:{i:02}")).collect::<Vec<_>>();
        assert_eq!(initiators(&names(INITIATORS_MAX)).expect("as many as may be").len(), INITIATORS_MAX);
        assert!(initiators(&names(INITIATORS_MAX + 1)).is_err());
        let twice = ["iqn.2026-11.io.x:B".to_string(), "iqn.2026-11.io.x:a".into(), "iqn.2026-11.io.x:b".into()];
        assert_eq!(initiators(&twice).expect("good"), ["iqn.2026-11.io.x:a", "iqn.2026-11.io.x:b"]);
        let groups = |count: usize| group_names((0..count).map(|i| format!("g{i}")).collect());
        assert!(groups(GROUPS_MAX).is_ok() && groups(GROUPS_MAX + 1).is_err());
        let empty = InitiatorGroup { name: "g".into(), initiators: Vec::new() };
        assert!(group(empty).is_err());
        let refused = check_group_name("a b").expect_err("a space").message;
        assert!(refused.contains("initiator group"), "{refused}");
    }
}
