//! Secrets stay hidden, and changes of rules follow the rules.

use super::*;

fn chap(user: &str, secret: &str) -> SetChap {
    SetChap { user: user.to_string(), secret: secret.to_string() }
}

const ONE: &str = "correct horse battery";
const GOOD: &str = "correct-horse-battery";
const OTHER: &str = "staple-and-another";

#[test]
fn a_secret_is_not_shown() {
    let set = SetIscsiAccess { chap: Some(Some(chap("guest", GOOD))), ..SetIscsiAccess::default() };
    let rules = IscsiRules::default().changed(set.clone()).expect("a good secret");
    let access = IscsiAccess { chap: rules.chap.clone(), ..IscsiAccess::default() };
    for shown in [format!("{set:?}"), format!("{rules:?}"), format!("{access:?}")] {
        assert!(shown.contains("guest") && !shown.contains("horse"), "{shown}");
    }
}

#[test]
fn what_is_absent_stays_and_null_takes_away() {
    let parse = |text: &str| serde_json::from_str::<SetIscsiAccess>(text).expect("it fits");
    let first =
        parse(&format!(r#"{{"initiators":["IQN.2026-11.com.example:A"],"chap":{{"user":"u","secret":"{GOOD}"}}}}"#));
    let rules = IscsiRules::default().changed(first).expect("good");
    assert_eq!(rules.initiators, ["iqn.2026-11.com.example:a"]);
    assert_eq!(rules.changed(parse("{}")).expect("nothing changes"), rules);
    let open = rules.changed(parse(r#"{"initiators":[],"chap":null}"#)).expect("good");
    assert_eq!(open, IscsiRules::default());
    assert!(open.is_open() && !rules.is_open());
    let sent = SetIscsiAccess { chap: Some(None), ..SetIscsiAccess::default() };
    assert_eq!(serde_json::to_string(&sent).expect("JSON"), r#"{"chap":null}"#);
    assert_eq!(parse(r#"{"chap":null}"#), sent);
    assert!(serde_json::from_str::<SetIscsiAccess>(r#"{"colour":1}"#).is_err());
}

#[test]
fn secrets_that_protect_nothing_are_refused() {
    let set = |one: Option<SetChap>, mutual: Option<SetChap>| {
        let set = SetIscsiAccess { chap: Some(one), mutual: Some(mutual), ..SetIscsiAccess::default() };
        IscsiRules::default().changed(set).map(drop).map_err(|error| error.message)
    };
    set(Some(chap("u", GOOD)), Some(chap("t", OTHER))).expect("both");
    for (one, mutual, why) in [
        (None, Some(chap("t", OTHER)), "must ask the initiator first"),
        (Some(chap("u", GOOD)), Some(chap("t", GOOD)), "must differ"),
        (Some(chap("u", "elevenchars")), None, "12"),
        (Some(chap("u", ONE)), None, "space"),
        (Some(chap("u", &"x".repeat(256))), None, "255"),
        (Some(chap("", GOOD)), None, "user"),
    ] {
        let refused = set(one, mutual).expect_err("refused");
        assert!(refused.contains(why) && !refused.contains("horse"), "{refused:?} does not say {why:?}");
    }
}

#[test]
fn an_open_target_is_served_where_only_this_machine_reaches() {
    let portal = |serves_open| IscsiPortal { address: "10.0.0.1:3260".into(), group_tag: 1, serves_open };
    let open = IscsiRules::default();
    let listed = IscsiRules { groups: vec!["esx".into()], ..IscsiRules::default() };
    assert!(portal(true).reach(&open).served && portal(false).reach(&listed).served);
    let reach = portal(false).reach(&open);
    assert!(!reach.served && reach.reason.is_some_and(|reason| reason.contains("--iscsi-allow-open")));
}
