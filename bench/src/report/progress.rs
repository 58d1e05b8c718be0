//! What a person sees while a round runs: time, rate, errors and p99 on one line of stderr.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::units;

/// One line that lives as long as a round. Silent if stderr is no terminal.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    begun: Instant,
}

/// Redraws a second: often enough to look alive, too seldom to cost the client anything.
const REDRAWS_PER_S: u8 = 8;

impl Progress {
    /// `label` says which peer and case; a round without an end in time has a `total` of zero.
    pub fn new(label: impl Into<String>, total: Duration) -> Progress {
        Progress::on(ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_S), label.into(), total)
    }

    fn on(target: ProgressDrawTarget, label: String, total: Duration) -> Progress {
        let template = match total.is_zero() {
            true => "{prefix}  {elapsed:>4}  {msg}",
            false => "{prefix}  [{bar:24}] {elapsed:>4}  {msg}",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let millis = u64::try_from(total.as_millis()).unwrap_or(u64::MAX);
        let bar = ProgressBar::with_draw_target(Some(millis), target);
        bar.set_style(style.progress_chars("=> "));
        bar.set_prefix(label);
        Progress { bar, begun: Instant::now() }
    }

    /// Totals since the round began, and the p99 so far.
    pub fn tick(&self, requests: u64, errors: u64, p99_us: f64) {
        let passed = self.begun.elapsed();
        self.bar.set_position(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX));
        self.bar.set_message(message(requests, errors, p99_us, passed));
    }

    /// Takes the line away: the table comes in its place.
    pub fn done(self) {
        self.bar.finish_and_clear();
    }
}

fn message(requests: u64, errors: u64, p99_us: f64, passed: Duration) -> String {
    let rate = units::count(requests as f64 / passed.as_secs_f64().max(1e-3));
    let wrong = if errors == 0 { String::new() } else { format!("  {errors} ERRORS") };
    format!("{rate} req/s  p99 {}{wrong}", units::micros(p99_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_rate_and_p99_and_names_errors() {
        assert_eq!(message(20_000, 0, 1500.0, Duration::from_secs(2)), "10k req/s  p99 1.5 ms");
        assert_eq!(message(0, 3, 0.0, Duration::ZERO), "0 req/s  p99 0 µs  3 ERRORS");
    }

    #[test]
    fn a_line_that_nobody_sees_can_be_ticked() {
        for total in [Duration::ZERO, Duration::from_secs(5)] {
            let progress = Progress::on(ProgressDrawTarget::hidden(), "gantry".to_owned(), total);
            progress.tick(1, 0, 9.0);
            assert_eq!(progress.bar.message().split(' ').next_back(), Some("µs"));
            progress.done();
        }
    }
}
