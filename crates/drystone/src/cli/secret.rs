//! Secrets from a file, a terminal or a pipe; never from the command line, which every user of the machine can read.

use anyhow::{Context, Result, bail};
use rustix::termios::{LocalModes, OptionalActions, isatty, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{BufRead, Read, Write};
use std::path::Path;

/// Longer ones are refused anyway; a wrong file is not read to its end.
const BYTES_MAX: u64 = 4096;

/// The first line of the file (`-`: of standard input), or what is typed at the terminal after `prompt`.
pub fn read(file: Option<&Path>, prompt: &str) -> Result<String> {
    let secret = match file {
        Some(path) if path != Path::new("-") => {
            let opened = File::open(path).with_context(|| format!("cannot read the secret from {}", path.display()))?;
            first_line(opened).with_context(|| format!("cannot read the secret from {}", path.display()))?
        }
        None if isatty(std::io::stdin()) => ask(prompt)?,
        _ => line_of_stdin()?,
    };
    if secret.is_empty() {
        bail!("the secret is empty; a CHAP secret has 12 to 255 characters");
    }
    Ok(secret)
}

fn first_line(from: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    std::io::BufReader::new(from.take(BYTES_MAX)).read_line(&mut text)?;
    Ok(text.trim_end_matches(['\n', '\r']).to_string())
}

/// One line, so that the next secret can be in the next one.
fn line_of_stdin() -> Result<String> {
    let mut text = String::new();
    let mut stdin = std::io::stdin().lock().take(BYTES_MAX);
    stdin.read_line(&mut text).context("cannot read the secret from standard input")?;
    Ok(text.trim_end_matches(['\n', '\r']).to_string())
}

/// Without showing what is typed.
fn ask(prompt: &str) -> Result<String> {
    let stdin = std::io::stdin();
    let before = tcgetattr(&stdin).context("the terminal does not say how it is set")?;
    let mut hidden = before.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    hidden.local_modes.insert(LocalModes::ECHONL);
    // Not on standard output, which may go to a program.
    let _ = write!(std::io::stderr(), "{prompt}: ");
    tcsetattr(&stdin, OptionalActions::Flush, &hidden).context("the terminal cannot hide what is typed")?;
    let typed = line_of_stdin();
    tcsetattr(&stdin, OptionalActions::Flush, &before).context("the terminal cannot be set back")?;
    typed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_file_counts() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        for (text, expect) in
            [("one-and-two\n", Some("one-and-two")), ("a\r\nb\n", Some("a")), ("plain", Some("plain")), ("\nx", None)]
        {
            std::fs::write(&path, text).expect("written");
            assert_eq!(read(Some(&path), "").ok().as_deref(), expect, "{text:?}");
        }
        let missing = read(Some(&directory.path().join("none")), "").expect_err("it is not there");
        assert!(format!("{missing:#}").contains("none"), "{missing:#}");
    }
}
