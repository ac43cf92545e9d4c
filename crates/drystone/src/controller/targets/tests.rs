//! Which vDisks a third-party copy may reach, and what a VM's target asks for.

use super::{lets_in_too, secrets};
use control::{ChapSecret, IscsiAccess};

const PORT: &str = "iqn.2000-01.test:guest,i,0x800000000001";

fn rules(initiators: &[&str], secret: Option<&str>) -> IscsiAccess {
    let chap = secret.map(|secret| ChapSecret { user: "guest".to_string(), secret: secret.to_string() });
    IscsiAccess { initiators: initiators.iter().map(|name| name.to_string()).collect(), chap, mutual: None }
}

#[test]
fn a_copy_reaches_what_its_initiator_could_log_in_to() {
    let open = rules(&[], None);
    let named = rules(&["iqn.2000-01.test:guest"], None);
    let others = rules(&["iqn.2000-01.test:guest2", "iqn.2000-01.test:gues"], None);
    let (secret, another) = (rules(&[], Some("a secret of some")), rules(&[], Some("a secret of others")));
    for (own, other, reached) in [
        (&open, &open, true),
        (&open, &named, true),
        (&open, &others, false),
        (&open, &secret, false),
        (&named, &open, false),
        (&named, &named, true),
        (&secret, &secret, true),
        (&secret, &another, false),
        (&secret, &open, false),
        (&named, &secret, false),
    ] {
        assert_eq!(lets_in_too(own, other, PORT), reached, "{own:?} {other:?}");
    }
}

#[test]
fn a_vm_asks_for_the_one_secret_that_its_vdisks_ask_for() {
    let (open, named) = (rules(&[], None), rules(&["iqn.2000-01.test:guest"], None));
    let (secret, another) = (rules(&[], Some("a secret of some")), rules(&[], Some("a secret of others")));
    let both_ways = |own: &str| IscsiAccess { mutual: rules(&[], Some(own)).chap, ..secret.clone() };
    let asked = |all: &[&IscsiAccess]| secrets(all.iter().copied()).map(|(chap, mutual)| (chap, mutual.is_some()));
    assert_eq!(asked(&[&open, &named]), Ok((None, false)));
    // Who sees the open one has proven more than it asks for.
    assert_eq!(asked(&[&open, &secret, &secret]), Ok((secret.chap.clone(), false)));
    assert_eq!(asked(&[&secret, &both_ways("the target's own")]), Ok((secret.chap.clone(), true)));
    assert!(asked(&[&secret, &another]).is_err());
    assert!(asked(&[&both_ways("one of its own"), &both_ways("another of its own")]).is_err());
    assert!(asked(&[]).is_err());
}
