//! Conversations during the handshake, whole, cut anywhere, and garbled.

use super::*;
use crate::testing::{Fixed, export, go_data, meta_data, option, option_replies, take};
use crate::wire::{export_flag, info, option as opt};
use proptest::prelude::*;

const FIXED: u32 = 3;

/// What the server did with some input.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// Without the greeting.
    sent: Vec<u8>,
    last: Step,
    /// Input that was not taken.
    left: usize,
    /// How the export was given, if it was.
    accepted: Option<(Vec<u8>, String)>,
}

fn directory() -> Fixed {
    Fixed(vec![export("alpha"), export("beta")])
}

/// Offers `input` in pieces that end at `cuts`; STARTTLS succeeds at once.
fn talk(tls: TlsPolicy, input: &[u8], cuts: &[usize]) -> Outcome {
    let mut out = Output::new();
    let mut negotiation = Negotiation::start(tls, &mut out);
    assert_eq!(take(&mut out).len(), 18);
    let mut sent = Vec::new();
    let mut start = 0;
    for cut in cuts.iter().copied().chain([input.len()]) {
        let mut piece = &input[start..cut];
        start = cut;
        loop {
            let step = negotiation.step(&mut piece, &directory(), &mut out);
            sent.extend(take(&mut out));
            match step {
                Step::Starved => break,
                Step::Answered => {}
                Step::StartTls => negotiation.tls_started(),
                Step::Select(name) => {
                    let session = negotiation.accept(&export(&name), Limits::default(), &mut out);
                    let accepted = Some((take(&mut out), format!("{session:?}")));
                    let left = piece.len() + input.len() - cut;
                    return Outcome { sent, last: Step::Select(name), left, accepted };
                }
                Step::Close(why) => {
                    let left = piece.len() + input.len() - cut;
                    return Outcome { sent, last: Step::Close(why), left, accepted: None };
                }
            }
        }
        assert!(piece.is_empty(), "starved with input left");
    }
    Outcome { sent, last: Step::Starved, left: 0, accepted: None }
}

fn hello(flags: u32, options: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = flags.to_be_bytes().to_vec();
    options.iter().for_each(|option| bytes.extend(option));
    bytes
}

fn replies(tls: TlsPolicy, options: &[Vec<u8>]) -> Vec<(u32, u32)> {
    let outcome = talk(tls, &hello(FIXED, options), &[]);
    option_replies(&outcome.sent).into_iter().map(|reply| (reply.option, reply.kind)).collect()
}

#[test]
fn options_and_their_replies() {
    use option_reply::*;
    let off = TlsPolicy::Off;
    let structured = option(opt::STRUCTURED_REPLY, &[]);
    for (tls, options, expect) in [
        (off, vec![option(opt::LIST, &[])], vec![(opt::LIST, SERVER), (opt::LIST, SERVER), (opt::LIST, ACK)]),
        (off, vec![option(opt::LIST, &[1])], vec![(opt::LIST, ERR_INVALID)]),
        (off, vec![option(99, b"what")], vec![(99, ERR_UNSUP)]),
        (off, vec![option(opt::EXTENDED_HEADERS, &[])], vec![(opt::EXTENDED_HEADERS, ERR_UNSUP)]),
        (off, vec![structured.clone()], vec![(opt::STRUCTURED_REPLY, ACK)]),
        (off, vec![option(opt::STRUCTURED_REPLY, &[0])], vec![(opt::STRUCTURED_REPLY, ERR_INVALID)]),
        (off, vec![option(opt::STARTTLS, &[])], vec![(opt::STARTTLS, ERR_POLICY)]),
        (off, vec![option(opt::INFO, &go_data("none", &[]))], vec![(opt::INFO, ERR_UNKNOWN)]),
        (off, vec![option(opt::GO, &go_data("none", &[]))], vec![(opt::GO, ERR_UNKNOWN)]),
        (off, vec![option(opt::GO, &go_data("", &[]))], vec![(opt::GO, ERR_UNKNOWN)]),
        (off, vec![option(opt::GO, &[0, 0, 0, 9, b'a'])], vec![(opt::GO, ERR_INVALID)]),
        (off, vec![option(opt::INFO, b"\0\0\0\x02\xff\xfe\0\0")], vec![(opt::INFO, ERR_INVALID)]),
        (
            off,
            vec![option(opt::INFO, &go_data("alpha", &[info::NAME, info::DESCRIPTION, 77]))],
            vec![(opt::INFO, INFO), (opt::INFO, INFO), (opt::INFO, INFO), (opt::INFO, INFO), (opt::INFO, ACK)],
        ),
        (
            off,
            vec![option(5000, &vec![0; OPTION_BYTES_MAX + 1]), option(99, &[])],
            vec![(5000, ERR_TOO_BIG), (99, ERR_UNSUP)],
        ),
        (
            off,
            vec![option(opt::LIST_META_CONTEXT, &meta_data("alpha", &[]))],
            vec![(opt::LIST_META_CONTEXT, ERR_INVALID)],
        ),
        (TlsPolicy::Required, vec![option(opt::LIST, &[])], vec![(opt::LIST, ERR_TLS_REQD)]),
        (TlsPolicy::Required, vec![option(99, &[])], vec![(99, ERR_TLS_REQD)]),
        (TlsPolicy::Required, vec![option(opt::GO, &go_data("alpha", &[]))], vec![(opt::GO, ERR_TLS_REQD)]),
        (TlsPolicy::Required, vec![option(opt::ABORT, &[])], vec![(opt::ABORT, ACK)]),
        (TlsPolicy::Offered, vec![option(opt::STARTTLS, &[1])], vec![(opt::STARTTLS, ERR_INVALID)]),
        (TlsPolicy::Offered, vec![option(opt::STARTTLS, &[])], vec![(opt::STARTTLS, ACK)]),
        (TlsPolicy::Offered, vec![option(opt::LIST, &[1])], vec![(opt::LIST, ERR_INVALID)]),
    ] {
        assert_eq!(replies(tls, &options), expect, "{tls:?} {options:02x?}");
    }
}

#[test]
fn metadata_contexts() {
    const BASE: &str = "base:allocation";
    const MONDAY: &str = "qemu:dirty-bitmap:monday";
    const TUESDAY: &str = "qemu:dirty-bitmap:tuesday";
    for (kind, name, queries, expect) in [
        (opt::LIST_META_CONTEXT, "alpha", vec![], vec![BASE, MONDAY, TUESDAY]),
        (opt::LIST_META_CONTEXT, "beta", vec![], vec![BASE]),
        (opt::LIST_META_CONTEXT, "alpha", vec!["base:"], vec![BASE]),
        (opt::LIST_META_CONTEXT, "alpha", vec!["qemu:", "x-y:z"], vec![MONDAY, TUESDAY]),
        (opt::LIST_META_CONTEXT, "alpha", vec!["qemu:dirty-bitmap:"], vec![MONDAY, TUESDAY]),
        (opt::LIST_META_CONTEXT, "beta", vec!["qemu:", MONDAY], vec![]),
        (opt::LIST_META_CONTEXT, "alpha", vec![TUESDAY], vec![TUESDAY]),
        (opt::SET_META_CONTEXT, "alpha", vec![BASE, BASE], vec![BASE]),
        (opt::SET_META_CONTEXT, "alpha", vec!["base:"], vec![]),
        (opt::SET_META_CONTEXT, "alpha", vec!["qemu:", "qemu:dirty-bitmap:"], vec![]),
        (opt::SET_META_CONTEXT, "alpha", vec![], vec![]),
        (opt::SET_META_CONTEXT, "alpha", vec!["base:other", BASE], vec![BASE]),
        (opt::SET_META_CONTEXT, "alpha", vec![TUESDAY, MONDAY, TUESDAY, BASE], vec![BASE, TUESDAY, MONDAY]),
        (opt::SET_META_CONTEXT, "alpha", vec!["qemu:dirty-bitmap:friday", "qemu:allocation-depth"], vec![]),
        // Selected for another export than the one that is used then.
        (opt::SET_META_CONTEXT, "beta", vec![BASE], vec![BASE]),
    ] {
        let options = [
            option(opt::STRUCTURED_REPLY, &[]),
            option(kind, &meta_data(name, &queries)),
            option(opt::GO, &go_data("alpha", &[])),
        ];
        let outcome = talk(TlsPolicy::Off, &hello(FIXED, &options), &[]);
        let contexts: Vec<(u32, String)> = option_replies(&outcome.sent)
            .into_iter()
            .filter(|reply| reply.kind == option_reply::META_CONTEXT)
            .map(|reply| {
                let (id, name) = reply.data.split_first_chunk::<4>().expect("an id");
                (u32::from_be_bytes(*id), String::from_utf8(name.to_vec()).expect("UTF-8"))
            })
            .collect();
        let names: Vec<&str> = contexts.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, expect, "{kind} {queries:?}");
        let set = kind == opt::SET_META_CONTEXT;
        let mut next = crate::wire::BITMAP_CONTEXT_ID;
        for (id, name) in &contexts {
            let own = if name == BASE { crate::wire::ALLOCATION_CONTEXT_ID } else { next };
            next += u32::from(name != BASE);
            assert_eq!(*id, if set { own } else { 0 }, "{name}");
        }
        let session = outcome.accepted.expect("alpha exists").1;
        let is_selected = set && name == "alpha";
        let allocation = is_selected && expect.contains(&BASE);
        let bitmaps = if is_selected { expect.iter().filter(|name| **name != BASE).count() } else { 0 };
        let selected = format!("Selected {{ allocation: {allocation}, bitmaps: {bitmaps} }}");
        assert!(session.contains(&selected), "{queries:?}: {session}");
    }
}

#[test]
fn a_failed_set_meta_context_clears_the_one_before() {
    let options = [
        option(opt::STRUCTURED_REPLY, &[]),
        option(opt::SET_META_CONTEXT, &meta_data("alpha", &["base:allocation"])),
        option(opt::SET_META_CONTEXT, &[0, 0]),
        option(opt::GO, &go_data("alpha", &[])),
    ];
    let outcome = talk(TlsPolicy::Off, &hello(FIXED, &options), &[]);
    assert!(outcome.accepted.expect("alpha exists").1.contains("allocation: false"));
}

#[test]
fn go_tells_what_the_export_is() {
    let options = [option(opt::STRUCTURED_REPLY, &[]), option(opt::GO, &go_data("beta", &[info::NAME]))];
    let mut input = hello(FIXED, &options);
    input.extend(b"first request");
    let outcome = talk(TlsPolicy::Off, &input, &[]);
    assert_eq!((&outcome.last, outcome.left), (&Step::Select("beta".into()), b"first request".len()));
    let replies = option_replies(&outcome.accepted.expect("beta exists").0);
    let datas: Vec<&[u8]> = replies.iter().map(|reply| reply.data.as_slice()).collect();
    let all = export_flag::HAS_FLAGS | 0b1101_1110_1100 | export_flag::SEND_DF;
    let mut first = vec![0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0];
    first.extend(all.to_be_bytes());
    let sizes: &[u8] = &[0, 3, 0, 0, 2, 0, 0, 0, 0x10, 0, 2, 0, 0, 0];
    assert_eq!(datas, [first.as_slice(), sizes, b"\0\x01beta", b""]);
}

#[test]
fn export_name_has_an_answer_of_its_own() {
    for (flags, len) in [(1, 8 + 2 + 124), (3, 8 + 2), (0, 8 + 2 + 124)] {
        let outcome = talk(TlsPolicy::Off, &hello(flags, &[option(opt::EXPORT_NAME, b"alpha")]), &[]);
        let (sent, _) = outcome.accepted.expect("alpha exists");
        assert_eq!((sent.len(), sent.get(..8)), (len, Some([0, 0, 0, 0, 0, 0x10, 0, 0].as_slice())));
    }
}

#[test]
fn what_is_closed_without_a_reply() {
    for (what, tls, input) in [
        ("unknown export", TlsPolicy::Off, hello(FIXED, &[option(opt::EXPORT_NAME, b"none")])),
        ("name that is no text", TlsPolicy::Off, hello(FIXED, &[option(opt::EXPORT_NAME, b"\xff")])),
        ("long name", TlsPolicy::Off, hello(FIXED, &[option(opt::EXPORT_NAME, &vec![b'a'; OPTION_BYTES_MAX + 1])])),
        ("no TLS", TlsPolicy::Required, hello(FIXED, &[option(opt::EXPORT_NAME, b"alpha")])),
        ("unknown flags", TlsPolicy::Off, hello(4, &[])),
        ("not fixed newstyle", TlsPolicy::Off, hello(0, &[option(opt::LIST, &[])])),
        ("wrong magic", TlsPolicy::Off, hello(FIXED, &[vec![b'x'; 16]])),
        (
            "bytes behind STARTTLS",
            TlsPolicy::Offered,
            hello(FIXED, &[option(opt::STARTTLS, &[]), option(opt::LIST, &[])]),
        ),
    ] {
        let outcome = talk(tls, &input, &[]);
        assert!(matches!(outcome.last, Step::Close(_)) && outcome.sent.is_empty(), "{what}: {outcome:?}");
    }
}

#[test]
fn tls_forgets_what_was_agreed_before() {
    let before = hello(
        FIXED,
        &[
            option(opt::STRUCTURED_REPLY, &[]),
            option(opt::SET_META_CONTEXT, &meta_data("alpha", &["base:allocation"])),
            option(opt::STARTTLS, &[]),
        ],
    );
    let mut input = before.clone();
    input.extend(option(opt::STARTTLS, &[]));
    input.extend(option(opt::GO, &go_data("alpha", &[])));
    let outcome = talk(TlsPolicy::Offered, &input, &[before.len()]);
    let kinds: Vec<u32> = option_replies(&outcome.sent).iter().map(|reply| reply.kind).collect();
    use option_reply::*;
    assert_eq!(kinds, [ACK, META_CONTEXT, ACK, ACK, ERR_INVALID]);
    let session = outcome.accepted.expect("alpha exists").1;
    assert!(session.contains("structured: false") && session.contains("allocation: false"), "{session}");
}

#[test]
fn a_refused_choice_can_be_followed_by_another() {
    for (refusal, kind) in [
        (Refusal::Unknown, option_reply::ERR_UNKNOWN),
        (Refusal::Unavailable("the log is damaged".into()), option_reply::ERR_POLICY),
        (Refusal::Shutdown, option_reply::ERR_SHUTDOWN),
    ] {
        let mut out = Output::new();
        let mut negotiation = Negotiation::start(TlsPolicy::Off, &mut out);
        take(&mut out);
        let go = option(opt::GO, &go_data("alpha", &[]));
        let input = hello(FIXED, &[go.clone(), go]);
        let mut rest = input.as_slice();
        for _ in 0..2 {
            assert_eq!(negotiation.step(&mut rest, &directory(), &mut out), Step::Select("alpha".into()));
            assert_eq!(negotiation.refuse(&refusal, &mut out), Step::Answered);
            assert_eq!(option_replies(&take(&mut out))[0].kind, kind);
        }
    }
    let mut out = Output::new();
    let mut negotiation = Negotiation::start(TlsPolicy::Off, &mut out);
    let input = hello(FIXED, &[option(opt::EXPORT_NAME, b"alpha")]);
    assert!(matches!(negotiation.step(&mut input.as_slice(), &directory(), &mut out), Step::Select(_)));
    assert!(matches!(negotiation.refuse(&Refusal::Unknown, &mut out), Step::Close(_)));
}

fn long_conversation() -> Vec<u8> {
    let mut input = hello(
        FIXED,
        &[
            option(opt::LIST, &[]),
            option(opt::STRUCTURED_REPLY, &[]),
            option(77, b"junk"),
            option(opt::LIST_META_CONTEXT, &meta_data("alpha", &["base:"])),
            option(opt::SET_META_CONTEXT, &meta_data("alpha", &["base:allocation"])),
            option(opt::INFO, &go_data("beta", &[info::DESCRIPTION, info::BLOCK_SIZE])),
            option(opt::GO, &go_data("none", &[])),
            option(opt::GO, &go_data("alpha", &[info::BLOCK_SIZE])),
        ],
    );
    input.extend([9; 40]);
    input
}

#[test]
fn cuts_at_any_byte_change_nothing() {
    let input = long_conversation();
    let whole = talk(TlsPolicy::Off, &input, &[]);
    assert!(whole.accepted.is_some());
    for cut in 0..input.len() {
        assert_eq!(talk(TlsPolicy::Off, &input, &[cut]), whole, "cut at {cut}");
    }
    let every: Vec<usize> = (0..input.len()).collect();
    assert_eq!(talk(TlsPolicy::Off, &input, &every), whole);
}

#[test]
fn a_truncated_conversation_waits() {
    let input = long_conversation();
    let end = input.len() - 40;
    for len in 0..end {
        let outcome = talk(TlsPolicy::Off, &input[..len], &[]);
        assert_eq!((&outcome.last, outcome.accepted), (&Step::Starved, None), "cut off at {len}");
    }
}

proptest! {
    #[test]
    fn garbled_input_never_panics_and_cuts_change_nothing(
        flips in prop::collection::vec((0usize..400, any::<u8>()), 0..6),
        cut in 0usize..400,
        tls in prop::sample::select(vec![TlsPolicy::Off, TlsPolicy::Offered, TlsPolicy::Required]),
    ) {
        let mut input = long_conversation();
        for (at, byte) in flips {
            if let Some(slot) = input.get_mut(at) {
                *slot = byte;
            }
        }
        let whole = talk(tls, &input, &[]);
        let cut = talk(tls, &input, &[cut.min(input.len())]);
        // Only STARTTLS looks at whether more bytes are there.
        if !matches!(whole.last, Step::Close(why) if why.contains("STARTTLS")) {
            prop_assert_eq!(cut, whole);
        }
    }
}
