//! How far a copy is: a bar with rate and time left on a terminal, a plain line now and then otherwise. To stderr.

use base::units::format_size;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Between two plain lines: a log that is read later, not a film.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

pub struct Progress {
    total: u64,
    done: AtomicU64,
    begun: Instant,
    how: How,
}

enum How {
    Bar(ProgressBar),
    Lines {
        verb: &'static str,
        last: Mutex<Instant>,
    },
    #[cfg(test)]
    Silent,
}

impl Progress {
    /// `verb` as in "imported"; `total` bytes are to be copied.
    pub fn start(verb: &'static str, total: u64) -> Progress {
        let begun = Instant::now();
        let how = if std::io::stderr().is_terminal() {
            let template = "{bar:32} {percent:>3} %  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left";
            let style = ProgressStyle::with_template(template).expect("the template is fixed");
            How::Bar(ProgressBar::new(total).with_style(style.progress_chars("=> ")))
        } else {
            How::Lines { verb, last: Mutex::new(begun) }
        };
        Progress { total, done: AtomicU64::new(0), begun, how }
    }

    #[cfg(test)]
    pub fn silent() -> Progress {
        Progress { total: 0, done: AtomicU64::new(0), begun: Instant::now(), how: How::Silent }
    }

    pub fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        match &self.how {
            How::Bar(bar) => bar.set_position(done),
            How::Lines { verb, last } => {
                let mut last = last.lock().expect("nobody panics with it");
                if last.elapsed() >= LINE_INTERVAL {
                    *last = Instant::now();
                    eprintln!("{}", line(verb, done, self.total, self.begun.elapsed()));
                }
            }
            #[cfg(test)]
            How::Silent => {}
        }
    }

    /// Takes the bar away and returns the seconds that it took.
    pub fn end(&self) -> f64 {
        if let How::Bar(bar) = &self.how {
            bar.finish_and_clear();
        }
        self.begun.elapsed().as_secs_f64()
    }
}

fn line(verb: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let percent = (done * 100).checked_div(total).unwrap_or(100);
    let rate = done as f64 / elapsed.as_secs_f64().max(1e-3);
    let left = (total.saturating_sub(done)) as f64 / rate.max(1.0);
    format!(
        "{verb} {} of {} ({percent} %), {}/s, {} left",
        format_size(done),
        format_size(total),
        format_size(rate as u64),
        super::output::duration(left as u64)
    )
}

#[cfg(test)]
mod tests;
