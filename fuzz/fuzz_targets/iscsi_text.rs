//! Any text in an iSCSI login, with and without CHAP: no panic, nobody gets past CHAP, answers that are text.
#![no_main]

use base::Output;
use drystone_fuzz::bounded;
use iscsi::{Access, Directory, Entropy, Limits, Login, Secret, Session, Step, text};
use libfuzzer_sys::fuzz_target;
use std::io::IoSlice;

struct Targets {
    chap: bool,
}

impl Directory for Targets {
    fn access(&self, target: &str, _initiator: &str) -> Access {
        let secret = |user: &str| Secret { user: user.to_string(), secret: vec![0x13; 16] };
        match target {
            "t" => Access::Granted {
                target: 1,
                chap: self.chap.then(|| secret("u")),
                mutual: self.chap.then(|| secret("m")),
            },
            "f" => Access::Forbidden,
            _ => Access::NotFound,
        }
    }
    fn discovery_secrets(&self, _initiator: &str) -> Vec<Secret> {
        Vec::new()
    }
    fn has_session(&self, tsih: u16) -> bool {
        tsih == 1
    }
}

/// What the target sent: login responses with text in them.
fn take(out: &mut Output) {
    let mut sent = Vec::new();
    while !out.is_empty() {
        let mut slices = [IoSlice::new(&[]); 4];
        let filled = out.slices(&mut slices);
        let count = slices[..filled].iter().map(|slice| slice.len()).sum();
        slices[..filled].iter().for_each(|slice| sent.extend_from_slice(slice));
        out.advance(count);
    }
    let mut rest = sent.as_slice();
    while let Some((header, tail)) = rest.split_first_chunk::<48>() {
        assert_eq!(header[0], 0x23, "no login response");
        let len = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        let (data, tail) = tail.split_at(len.next_multiple_of(4));
        text::parse(&data[..len]).expect("the answer is text");
        rest = tail;
    }
    assert!(rest.is_empty());
}

fuzz_target!(|input: &[u8]| bounded(input, one));

fn one(input: &[u8]) {
    let Some(([chap, step], input)) = input.split_first_chunk::<2>() else { return };
    // The text itself, and the values in it.
    if let Ok(pairs) = text::parse(input) {
        for (_, value) in pairs {
            let (_, _) = (text::number(value), text::binary(value));
        }
    }
    // Requests: a byte of flags, a byte of length, and so much text.
    let targets = Targets { chap: chap % 2 == 1 };
    let mut bytes = Vec::new();
    let mut rest = input;
    while let Some(([flags, len], tail)) = rest.split_first_chunk::<2>() {
        let (text, tail) = tail.split_at(usize::from(*len).min(tail.len()));
        rest = tail;
        let mut header = [0; 48];
        (header[0], header[1], header[7]) = (0x43, *flags, text.len() as u8);
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(text);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    let mut login = Login::new(1, Entropy { identifier: 1, challenge: [7; 32] });
    let mut out = Output::new();
    for piece in bytes.chunks(usize::from(*step) + 1) {
        let mut input = piece;
        loop {
            match login.step(&mut input, &targets, &mut out) {
                Step::Starved => break,
                Step::Answered => take(&mut out),
                Step::Enter(_) => {
                    let proven = login.initiator().user.is_some();
                    let session: Session<()> = login.accept(2, Limits::default(), &mut out);
                    assert!(proven || !targets.chap || session.is_discovery(), "in without a proof");
                    return take(&mut out);
                }
                Step::Unproven(_) | Step::Close(_) => return take(&mut out),
            }
        }
    }
}
