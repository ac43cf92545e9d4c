//! Any bytes during the NBD handshake: no panic, bounded replies, and the same outcome however they are cut.
#![no_main]

use block::Geometry;
use drystone_fuzz::bounded;
use libfuzzer_sys::fuzz_target;
use nbd::{Directory, Export, Limits, Negotiation, Output, Refusal, Step, TlsPolicy};
use std::io::IoSlice;

/// Two exports list in less; the longest option reply is an error text of 4 KiB.
const REPLY_BYTES_MAX: u64 = 8192;

struct Two;

impl Directory for Two {
    fn list(&self) -> Vec<(String, String)> {
        vec![("alpha".into(), "first".into()), ("beta".into(), String::new())]
    }
    fn find(&self, name: &str) -> Option<Export> {
        let geometry = Geometry {
            size_bytes: 1 << 30,
            sector_bytes: 512,
            preferred_bytes: 4096,
            transfer_bytes_max: 32 << 20,
            atomic_bytes_max: 128 << 10,
            read_only: false,
        };
        self.list().into_iter().find(|export| export.0 == name).map(|(name, description)| Export {
            name,
            description,
            geometry,
        })
    }
    fn bitmaps(&self, name: &str) -> Vec<String> {
        ["monday", "tuesday"].iter().filter(|_| name == "alpha").map(|name| name.to_string()).collect()
    }
}

fn take(out: &mut Output) -> Vec<u8> {
    assert!(out.pending_bytes() <= REPLY_BYTES_MAX, "{} bytes in one step", out.pending_bytes());
    let mut all = Vec::new();
    while !out.is_empty() {
        let mut slices = [IoSlice::new(&[]); 4];
        let filled = out.slices(&mut slices);
        let part: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
        out.advance(part.len());
        all.extend(part);
    }
    all
}

/// Everything that was sent, and how it ended; `step` bytes at a time. Every third choice is refused.
fn talk(tls: TlsPolicy, input: &[u8], step: usize) -> (Vec<u8>, String) {
    let mut out = Output::new();
    let mut negotiation = Negotiation::start(tls, &mut out);
    let mut sent = take(&mut out);
    let mut choices = 0;
    for piece in input.chunks(step) {
        let mut rest = piece;
        loop {
            let step = negotiation.step(&mut rest, &Two, &mut out);
            sent.extend(take(&mut out));
            match step {
                Step::Starved => break,
                Step::Answered => {}
                Step::StartTls => negotiation.tls_started(),
                Step::Close(why) => return (sent, why.to_string()),
                Step::Select(name) => {
                    choices += 1;
                    if choices % 3 == 0 || name.is_empty() {
                        let export = Two.find(&name).expect("only what was found is selected");
                        let session = negotiation.accept(&export, Limits::default(), &mut out);
                        sent.extend(take(&mut out));
                        return (sent, format!("{session:?}"));
                    }
                    if let Step::Close(why) = negotiation.refuse(&Refusal::Unavailable("why".into()), &mut out) {
                        return (sent, why.to_string());
                    }
                    sent.extend(take(&mut out));
                }
            }
        }
        assert!(rest.is_empty(), "starved with input left");
    }
    (sent, "starved".into())
}

fuzz_target!(|input: &[u8]| bounded(input, one));

fn one(input: &[u8]) {
    let Some(([kind, step], input)) = input.split_first_chunk::<2>() else { return };
    let tls = match kind % 3 {
        0 => TlsPolicy::Off,
        1 => TlsPolicy::Offered,
        _ => TlsPolicy::Required,
    };
    let whole = talk(tls, input, input.len().max(1));
    let cut = talk(tls, input, usize::from(*step) + 1);
    // STARTTLS alone looks at what has arrived behind it.
    if !whole.1.contains("STARTTLS") && !cut.1.contains("STARTTLS") {
        assert_eq!(whole, cut);
    }
}
