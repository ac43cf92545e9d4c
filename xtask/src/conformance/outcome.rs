//! What libiscsi's test tool prints, test by test. Its own summary counts what was skipped as passed.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Passed,
    Skipped,
    Failed,
}

/// Tests in order with what became of them, named `Suite.Test`.
pub fn parse(printed: &str) -> Vec<(String, Outcome)> {
    let mut outcomes = Vec::new();
    let mut suite = "";
    let mut test: Option<Running> = None;
    for line in printed.lines() {
        if let Some(name) = line.strip_prefix("Suite: ") {
            outcomes.extend(test.take().map(Running::end));
            suite = name.trim();
        } else if let Some(rest) = line.trim_start().strip_prefix("Test: ") {
            outcomes.extend(test.take().map(Running::end));
            let (name, said) = rest.split_once(" ...").unwrap_or((rest, ""));
            let mut running = Running { name: format!("{suite}.{}", name.trim()), skipped: false, verdict: None };
            running.hear(said);
            test = Some(running);
        } else if line.starts_with("Run Summary") {
            outcomes.extend(test.take().map(Running::end));
        } else if let Some(test) = &mut test {
            test.hear(line);
        }
    }
    outcomes.extend(test.map(Running::end));
    outcomes
}

struct Running {
    name: String,
    skipped: bool,
    /// Whether it passed, once that was said.
    verdict: Option<bool>,
}

impl Running {
    fn hear(&mut self, said: &str) {
        // What comes behind the verdict is said while the suite is taken down.
        if self.verdict.is_none() {
            self.skipped |= said.contains("[SKIPPED]");
            self.verdict = match said.trim_start() {
                said if said.starts_with("passed") => Some(true),
                said if said.starts_with("FAILED") => Some(false),
                _ => None,
            };
        }
    }

    /// Without a verdict it did not come to its end.
    fn end(self) -> (String, Outcome) {
        let outcome = match (self.verdict, self.skipped) {
            (Some(true), false) => Outcome::Passed,
            (Some(true), true) => Outcome::Skipped,
            (Some(false) | None, _) => Outcome::Failed,
        };
        (self.name, outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_told_from_what_is_said_around_them() {
        let printed = "\
Suite: Reserve6
  Test: Simple ...passed
  Test: LUNReset ...    [FAILED] RESERVE6 command: failed with sense.
passed    [FAILED] PRIN command: failed with sense.
    [SKIPPED] said too late

Suite: Read10
  Test: Simple ...    [SKIPPED] LUN is too big
passed
  Test: Broken ...    [FAILED] READ10 failed
    [SKIPPED] and something else
FAILED
    1. test_read10.c:135  - CU_FAIL(\"why\")
  Test: Crashed ...    [OK] half way

Run Summary:    Type  Total
";
        let expected = [
            ("Reserve6.Simple", Outcome::Passed),
            ("Reserve6.LUNReset", Outcome::Passed),
            ("Read10.Simple", Outcome::Skipped),
            ("Read10.Broken", Outcome::Failed),
            ("Read10.Crashed", Outcome::Failed),
        ];
        let found = parse(printed);
        let found: Vec<(&str, Outcome)> = found.iter().map(|(name, outcome)| (name.as_str(), *outcome)).collect();
        assert_eq!(found, expected);
    }
}
