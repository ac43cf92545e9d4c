//! Pairs, numbers and binary values, right and wrong.

use super::*;

#[test]
fn pairs_come_in_order() {
    let text = b"InitiatorName=iqn.2000-01.x:y\0SessionType=Discovery\0HeaderDigest=CRC32C,None\0Empty=\0A=b=c\0";
    let expect = [
        ("InitiatorName", "iqn.2000-01.x:y"),
        ("SessionType", "Discovery"),
        ("HeaderDigest", "CRC32C,None"),
        ("Empty", ""),
        ("A", "b=c"),
    ];
    assert_eq!(parse(text).expect("it is proper"), expect);
    assert_eq!(parse(b""), Ok(Vec::new()));
    assert_eq!(parse(b"a=b\0\0\0"), Ok(vec![("a", "b")]));
}

#[test]
fn what_is_no_text_is_refused() {
    let long = format!("k={}\0", "v".repeat(VALUE_BYTES_MAX + 1));
    let many = "k=v\0".repeat(PAIRS_MAX + 1);
    let name = format!("{}=v\0", "k".repeat(64));
    let wrong: [&[u8]; 9] = [
        b"no end=x",
        b"no value\0",
        b"=v\0",
        b"sp ace=v\0",
        b"k=\xff\0",
        b"\xc3\xa4=v\0",
        long.as_bytes(),
        many.as_bytes(),
        name.as_bytes(),
    ];
    for text in wrong {
        assert!(parse(text).is_err(), "{:?}", String::from_utf8_lossy(text));
    }
}

#[test]
fn text_over_several_pdus_is_bounded() {
    let mut text = Text::default();
    text.gather(&[b'a'; TEXT_BYTES_MAX - 1]).expect("it fits");
    assert!(text.gather(b"bc").is_err());
    text.gather(b"b").expect("it fits");
    assert_eq!(text.bytes.len(), TEXT_BYTES_MAX);
}

#[test]
fn numbers_are_decimal_or_hexadecimal() {
    let cases = [
        ("0", Some(0)),
        ("8192", Some(8192)),
        ("0x2000", Some(8192)),
        ("0X2000", Some(8192)),
        ("16777215", Some(0xff_ffff)),
        ("", None),
        ("0x", None),
        ("-1", None),
        ("+1", None),
        ("1 ", None),
        ("12a", None),
        ("0b11", None),
        ("99999999999999999999999", None),
    ];
    for (value, expect) in cases {
        assert_eq!(number(value), expect, "{value:?}");
    }
}

#[test]
fn binary_values_are_hexadecimal_or_base64() {
    let cases: [(&str, Option<&[u8]>); 14] = [
        ("0x0102ff", Some(&[1, 2, 255])),
        ("0X0102FF", Some(&[1, 2, 255])),
        ("0x102", Some(&[1, 2])),
        ("0bAQL/", Some(&[1, 2, 255])),
        ("0BAQI=", Some(&[1, 2])),
        ("0bAQ==", Some(&[1])),
        ("0bAQL", None),
        ("0b====", None),
        ("0bA===", None),
        ("0bA=QI", None),
        ("0x", None),
        ("0x0g", None),
        ("0102", None),
        ("ä", None),
    ];
    for (value, expect) in cases {
        assert_eq!(binary(value).as_deref(), expect, "{value:?}");
    }
    assert_eq!(hexadecimal(&[0, 0x5a, 255]), "0x005aff");
}
