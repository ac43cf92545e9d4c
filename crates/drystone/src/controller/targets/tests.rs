//! Which vDisks a third-party copy may reach.

use super::lets_in_too;
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
