//! CHAP (RFC 1994) as RFC 7143 section 12.1 carries it, both ways. Secrets are compared in constant time and never shown.

use std::fmt;
use subtle::ConstantTimeEq;

/// A name and what only its bearer knows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    pub user: String,
    pub secret: Vec<u8>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("user", &self.user).finish_non_exhaustive()
    }
}

/// CHAP_A values, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Sha256 = 7,
    Md5 = 5,
}

impl Algorithm {
    /// The strongest of a list of numbers that we know.
    pub fn choose(list: &str) -> Option<Algorithm> {
        let offered = |wanted: Algorithm| list.split(',').any(|item| item.trim() == (wanted as u8).to_string());
        [Algorithm::Sha256, Algorithm::Md5].into_iter().find(|algorithm| offered(*algorithm))
    }

    /// The response to a challenge.
    pub fn respond(self, identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        fn digest<D: sha2::Digest>(parts: [&[u8]; 3]) -> Vec<u8> {
            let mut digest = D::new();
            parts.iter().for_each(|part| digest.update(part));
            digest.finalize().to_vec()
        }
        let parts = [&[identifier], secret, challenge];
        match self {
            Algorithm::Sha256 => digest::<sha2::Sha256>(parts),
            Algorithm::Md5 => digest::<md5::Md5>(parts),
        }
    }
}

/// What we sent and wait for the response to.
#[derive(Clone)]
pub(crate) struct Challenge {
    pub algorithm: Algorithm,
    pub identifier: u8,
    pub bytes: [u8; CHALLENGE_BYTES],
}

/// Both digests take more than enough; RFC 7143 allows 1024.
pub(crate) const CHALLENGE_BYTES: usize = 32;
/// 12.1.3: longest CHAP_C, bytes.
pub(crate) const CHALLENGE_BYTES_MAX: usize = 1024;

impl Challenge {
    /// Whether `response` is what a bearer of `secret` answers.
    pub fn is_met_by(&self, secret: &Secret, user: &str, response: &[u8]) -> bool {
        let expect = self.algorithm.respond(self.identifier, &secret.secret, &self.bytes);
        // Both are compared whatever the first says, so that the time tells nothing of which one was wrong.
        let same_user = secret.user.as_bytes().ct_eq(user.as_bytes());
        (expect.as_slice().ct_eq(response) & same_user).into()
    }
}
