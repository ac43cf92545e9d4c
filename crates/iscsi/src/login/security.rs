//! The security stage: which proof is asked for, and whether it was given (RFC 7143 sections 10.2 and 12).

use super::{Entropy, Failure};
use crate::chap::{Algorithm, CHALLENGE_BYTES_MAX, Challenge, Secret};
use crate::text::{REJECT, Text, binary, hexadecimal, number};
use crate::wire::LoginStatus;

/// What the initiator has to prove.
pub(super) enum Proof {
    Nothing,
    /// Nothing, but if it insists on CHAP, that it knows one of these.
    Discovery(Vec<Secret>),
    Chap {
        chap: Secret,
        mutual: Option<Secret>,
    },
}

enum State {
    /// No method was chosen.
    Begin,
    /// CHAP: the list of algorithms is to come.
    Algorithms,
    /// CHAP: the response is to come.
    Challenged(Box<Challenge>),
    /// It is who it says, or need not be.
    Proven(Option<String>),
}

pub(super) struct Security {
    entropy: Entropy,
    proof: Proof,
    state: State,
}

type Find<'a> = dyn Fn(&str) -> Option<&'a str> + 'a;

fn unproven(why: &'static str) -> Failure {
    Failure::new(LoginStatus::AuthenticationFailure, why)
}

impl Security {
    pub fn new(entropy: Entropy) -> Security {
        Security { entropy, proof: Proof::Nothing, state: State::Begin }
    }

    pub fn prove(&mut self, proof: Proof) {
        self.proof = proof;
    }

    pub fn user(&self) -> Option<String> {
        match &self.state {
            State::Proven(user) => user.clone(),
            _ => None,
        }
    }

    /// Answers AuthMethod.
    pub fn choose_method(&mut self, value: &str, answers: &mut Text) -> Result<(), Failure> {
        let offers = |wanted: &str| value.split(',').any(|method| method.trim() == wanted);
        let may_skip = matches!(self.proof, Proof::Nothing | Proof::Discovery(_));
        let may_prove = matches!(self.proof, Proof::Chap { .. } | Proof::Discovery(_));
        if may_skip && offers("None") {
            answers.put("AuthMethod", "None");
            self.state = State::Proven(None);
        } else if may_prove && offers("CHAP") {
            answers.put("AuthMethod", "CHAP");
            self.state = State::Algorithms;
        } else {
            answers.put("AuthMethod", REJECT);
            return Err(unproven("the initiator offers no method that the target accepts"));
        }
        Ok(())
    }

    /// Whether the initiator may leave the stage; false: something is still to come.
    pub fn is_satisfied(&mut self, in_security_stage: bool) -> Result<bool, Failure> {
        match (&self.state, &self.proof) {
            (State::Proven(_), _) => Ok(true),
            (State::Begin, Proof::Nothing | Proof::Discovery(_)) => Ok(true),
            (State::Algorithms | State::Challenged(_), _) if in_security_stage => Ok(false),
            _ => Err(unproven("the target asks for CHAP, and the initiator skipped it")),
        }
    }

    /// The steps of CHAP, as far as this request brings them.
    pub fn chap<'a>(&mut self, find: &Find<'a>, in_security_stage: bool, answers: &mut Text) -> Result<(), Failure> {
        let brings = |key: &str| find(key).is_some();
        if !["CHAP_A", "CHAP_N", "CHAP_R", "CHAP_I", "CHAP_C"].into_iter().any(brings) {
            return Ok(());
        }
        match &self.state {
            _ if !in_security_stage => Err(Failure::new(LoginStatus::InitiatorError, "CHAP outside its stage")),
            State::Algorithms if brings("CHAP_A") => self.challenge(find, answers),
            State::Challenged(challenge) if brings("CHAP_N") && brings("CHAP_R") => {
                let challenge = challenge.clone();
                self.respond(&challenge, find, answers)
            }
            _ => Err(Failure::new(LoginStatus::InitiatorError, "CHAP keys come out of order")),
        }
    }

    fn challenge(&mut self, find: &Find<'_>, answers: &mut Text) -> Result<(), Failure> {
        let algorithm = find("CHAP_A").and_then(Algorithm::choose);
        let algorithm =
            algorithm.ok_or_else(|| unproven("the initiator knows no CHAP algorithm that the target does"))?;
        let Entropy { identifier, challenge } = self.entropy;
        answers.put("CHAP_A", algorithm as u8);
        answers.put("CHAP_I", identifier);
        answers.put("CHAP_C", hexadecimal(&challenge));
        self.state = State::Challenged(Box::new(Challenge { algorithm, identifier, bytes: challenge }));
        Ok(())
    }

    fn respond(&mut self, challenge: &Challenge, find: &Find<'_>, answers: &mut Text) -> Result<(), Failure> {
        let user = find("CHAP_N").unwrap_or_default();
        let response = find("CHAP_R").and_then(binary).unwrap_or_default();
        let (known, mutual): (&[Secret], _) = match &self.proof {
            Proof::Nothing => (&[], None),
            Proof::Discovery(secrets) => (secrets, None),
            Proof::Chap { chap, mutual } => (std::slice::from_ref(chap), mutual.as_ref()),
        };
        // All are tried whichever fits, so that the time tells nothing.
        let met = known.iter().fold(false, |met, secret| met | challenge.is_met_by(secret, user, &response));
        if !met {
            return Err(unproven("wrong CHAP user or secret"));
        }
        if let Some(answer) = prove_ourselves(challenge, mutual, find)? {
            let mutual = mutual.expect("it was used for the answer");
            answers.put("CHAP_N", &mutual.user);
            answers.put("CHAP_R", hexadecimal(&answer));
        }
        self.state = State::Proven(Some(user.to_string()));
        Ok(())
    }
}

/// Our response to the initiator's challenge, if it sent one.
fn prove_ourselves(ours: &Challenge, mutual: Option<&Secret>, find: &Find<'_>) -> Result<Option<Vec<u8>>, Failure> {
    let (identifier, challenge) = match (find("CHAP_I"), find("CHAP_C")) {
        (None, None) => return Ok(None),
        (Some(identifier), Some(challenge)) => (identifier, challenge),
        _ => return Err(Failure::new(LoginStatus::InitiatorError, "CHAP_I and CHAP_C belong together")),
    };
    let identifier = number(identifier).and_then(|identifier| u8::try_from(identifier).ok());
    let challenge = binary(challenge).filter(|bytes| bytes.len() <= CHALLENGE_BYTES_MAX);
    let (Some(identifier), Some(challenge)) = (identifier, challenge) else {
        return Err(Failure::new(LoginStatus::InitiatorError, "CHAP_I or CHAP_C is malformed"));
    };
    // Else we would answer our own challenge, for whoever asks on another connection (12.1.4).
    if challenge == ours.bytes {
        return Err(unproven("the initiator sent our own challenge back"));
    }
    let mutual = mutual.ok_or_else(|| unproven("the initiator wants a proof, and the target has no secret for it"))?;
    Ok(Some(ours.algorithm.respond(identifier, &mutual.secret, &challenge)))
}
