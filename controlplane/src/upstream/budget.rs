//! What an upstream still gives, and when it may be asked again.
//!
//! Invariants: after a refusal nobody asks before the time that the upstream named. A question waits for that only if it
//! comes within its deadline, and only [`limits::BUDGET_WAITERS`] wait; all others are told when to come again.
//!
//! Spec: RFC 9110 §10.2.3; Docker Hub's `ratelimit-limit: 100;w=21600`.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{HeaderMap, header};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};

use super::{answers::Budget, failure::Failure, whole_seconds};
use crate::limits;

/// What a question costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    /// A GET of a manifest: what Docker Hub counts.
    Pull,
    /// Everything else.
    Nothing,
}

/// The budget of one account.
pub(super) struct Budgets {
    state: Mutex<State>,
    waiters: Semaphore,
    /// The first pause after a refusal without a word.
    pause: Duration,
}

#[derive(Default)]
struct State {
    told: Budget,
    pulls: Pause,
    all: Pause,
}

#[derive(Clone, Copy, Default)]
struct Pause {
    until: Option<Instant>,
    refusals: u32,
}

impl Budgets {
    /// After a refusal nobody asks for `pause` at least.
    pub(super) fn new(pause: Duration) -> Budgets {
        Budgets { state: Mutex::default(), waiters: Semaphore::new(limits::BUDGET_WAITERS), pause }
    }

    /// Until it may be asked. With a `deadline` that comes before that: when it may.
    pub(super) async fn wait(&self, cost: Cost, deadline: Instant) -> Result<(), Failure> {
        let mut place = None;
        loop {
            let now = Instant::now();
            let Some(until) = self.paused_until(cost, now) else { return Ok(()) };
            let spent = Failure::BudgetSpent { retry_after_s: whole_seconds(until - now) };
            if until > deadline {
                return Err(spent);
            }
            if place.is_none() {
                place = Some(self.waiters.try_acquire().map_err(|_full| spent)?);
            }
            sleep_until(until).await;
        }
    }

    /// `None`: it may be asked now.
    pub(super) fn paused_until(&self, cost: Cost, now: Instant) -> Option<Instant> {
        let state = self.state();
        let pulls = state.pulls.until.filter(|_| cost == Cost::Pull);
        pulls.max(state.all.until).filter(|until| *until > now)
    }

    /// What the head of an answer says. `refused`: it is a 429.
    pub(super) fn note(&self, cost: Cost, headers: &HeaderMap, refused: bool) {
        let mut state = self.state();
        let (limit, window_s) = number(headers, "ratelimit-limit");
        let (remaining, _) = number(headers, "ratelimit-remaining");
        if limit.is_some() || remaining.is_some() {
            state.told = Budget { limit, remaining, window_s, paused_s: 0 };
        }
        let spent = remaining == Some(0);
        let pause = match cost {
            Cost::Pull => &mut state.pulls,
            Cost::Nothing => &mut state.all,
        };
        if !refused {
            *pause = Pause::default();
            return;
        }
        // Without a word of the upstream's: twice as long each time; and a spent budget does not come back in seconds.
        let doubled = 1 << pause.refusals.min(limits::BUDGET_DOUBLINGS);
        let guess = self.pause * if spent { limits::BUDGET_SPENT_PAUSES } else { doubled };
        let told = retry_after(headers).map(|told| told.max(self.pause).min(limits::RETRY_AFTER));
        pause.refusals = pause.refusals.saturating_add(1);
        pause.until = Some(Instant::now() + told.unwrap_or(guess));
    }

    /// What is known of it now.
    pub(super) fn read(&self) -> Budget {
        let now = Instant::now();
        let until = self.paused_until(Cost::Pull, now);
        let paused_s = until.map_or(0, |until| u64::from(whole_seconds(until - now)));
        Budget { paused_s, ..self.state().told }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `100;w=21600`: a number and its window in seconds.
pub(super) fn number(headers: &HeaderMap, name: &str) -> (Option<u64>, Option<u64>) {
    let Some(value) = headers.get(name).and_then(|value| value.to_str().ok()) else { return (None, None) };
    let mut parts = value.split(';').map(str::trim);
    let number = parts.next().and_then(|number| number.parse().ok());
    let window = parts.find_map(|part| part.strip_prefix("w=")?.trim().parse().ok());
    (number, window)
}

/// `Retry-After` in either form. A date is compared with the answer's own, so that our clock does not matter.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let value = text(header::RETRY_AFTER)?;
    if value.bytes().all(|byte| byte.is_ascii_digit()) {
        return value.parse().ok().map(Duration::from_secs);
    }
    let at = httpdate::parse_http_date(value).ok()?;
    let sent = httpdate::parse_http_date(text(header::DATE)?).ok()?;
    Some(at.duration_since(sent).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const WAIT: Duration = Duration::from_secs(15);
    const PAUSE: Duration = Duration::from_secs(1);

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |&(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let date = ("date", "Sat, 21 Nov 2026 12:00:00 GMT");
        for (value, expect_s) in [
            ("7", Some(7)),
            (" 7 ", Some(7)),
            ("0", Some(0)),
            ("-7", None),
            ("soon", None),
            ("99999999999999999999", None),
            ("Sat, 21 Nov 2026 12:00:09 GMT", Some(9)),
            ("Sat, 21 Nov 2026 11:00:00 GMT", Some(0)),
        ] {
            let read = retry_after(&headers(&[("retry-after", value), date]));
            assert_eq!(read, expect_s.map(Duration::from_secs), "{value}");
        }
        assert_eq!(retry_after(&headers(&[("retry-after", "Sat, 21 Nov 2026 12:00:09 GMT")])), None);
        assert_eq!(retry_after(&headers(&[])), None);
    }

    #[tokio::test(start_paused = true)]
    async fn absent_is_unknown_and_not_zero() {
        let budgets = Budgets::new(PAUSE);
        assert_eq!(budgets.read(), Budget::default());
        let told = headers(&[("ratelimit-limit", "100;w=21600"), ("ratelimit-remaining", "99;w=21600")]);
        budgets.note(Cost::Pull, &told, false);
        let expect = Budget { limit: Some(100), remaining: Some(99), window_s: Some(21600), paused_s: 0 };
        assert_eq!(budgets.read(), expect);
        budgets.note(Cost::Nothing, &headers(&[]), false);
        assert_eq!(budgets.read(), expect);
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_waits_when_that_helps() {
        let budgets = Budgets::new(PAUSE);
        let begun = Instant::now();
        budgets.note(Cost::Pull, &headers(&[("retry-after", "9")]), true);
        budgets.wait(Cost::Nothing, begun + WAIT).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO, "a HEAD costs no pull");
        budgets.wait(Cost::Pull, begun + WAIT).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(9));
        let asked = Instant::now();
        budgets.note(Cost::Pull, &headers(&[("retry-after", "16")]), true);
        let told = budgets.wait(Cost::Pull, asked + WAIT).await;
        assert_eq!(told, Err(Failure::BudgetSpent { retry_after_s: 16 }));
        assert_eq!(asked.elapsed(), Duration::ZERO, "what does not help is not waited for");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_word_the_pause_doubles_and_ends_with_an_answer() {
        let budgets = Budgets::new(PAUSE);
        for seconds in [1, 2, 4, 8, 16] {
            budgets.note(Cost::Pull, &headers(&[]), true);
            assert_eq!(budgets.read().paused_s, seconds);
        }
        for _ in 0..20 {
            budgets.note(Cost::Pull, &headers(&[]), true);
        }
        assert_eq!(budgets.read().paused_s, 1 << limits::BUDGET_DOUBLINGS);
        budgets.note(Cost::Pull, &headers(&[]), false);
        assert_eq!(budgets.read().paused_s, 0);
        budgets.note(Cost::Pull, &headers(&[("ratelimit-remaining", "0;w=21600")]), true);
        assert_eq!(budgets.read().paused_s, u64::from(limits::BUDGET_SPENT_PAUSES));
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_upstream_may_ask_for_has_a_bound() {
        let budgets = Budgets::new(PAUSE);
        budgets.note(Cost::Pull, &headers(&[("retry-after", "999999999")]), true);
        assert_eq!(budgets.read().paused_s, limits::RETRY_AFTER.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_wait() {
        let budgets = std::sync::Arc::new(Budgets::new(PAUSE));
        budgets.note(Cost::Nothing, &headers(&[("retry-after", "9")]), true);
        let deadline = Instant::now() + WAIT;
        let waiters: Vec<_> = (0..limits::BUDGET_WAITERS)
            .map(|_| {
                let budgets = budgets.clone();
                tokio::spawn(async move { budgets.wait(Cost::Nothing, deadline).await })
            })
            .collect();
        while budgets.waiters.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let told = budgets.wait(Cost::Nothing, deadline).await;
        assert_eq!(told, Err(Failure::BudgetSpent { retry_after_s: 9 }));
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap(), Ok(()));
        }
    }
}
