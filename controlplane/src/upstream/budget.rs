//! What an upstream still gives, and when it may be asked again.
//!
//! Invariants: after a refusal nobody asks before the time that the upstream named, whatever it still answers to those who
//! had asked before. A question waits for that only if it
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

impl State {
    /// What headers say of how much is left. Those that say nothing change nothing.
    fn read(&mut self, headers: &HeaderMap) {
        let (limit, window_s) = number(headers, "ratelimit-limit");
        let (remaining, _) = number(headers, "ratelimit-remaining");
        if limit.is_some() || remaining.is_some() {
            self.told = Budget { limit, remaining, window_s, paused_s: 0 };
        }
    }

    fn pause(&mut self, cost: Cost) -> &mut Pause {
        match cost {
            Cost::Pull => &mut self.pulls,
            Cost::Nothing => &mut self.all,
        }
    }
}

impl Pause {
    fn is_over_at(&self, asked: Instant) -> bool {
        self.until.is_none_or(|until| until <= asked)
    }
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

    /// Why it may not be asked now, if so.
    pub(super) fn spent(&self, cost: Cost) -> Option<Failure> {
        let now = Instant::now();
        let until = self.paused_until(cost, now)?;
        Some(Failure::BudgetSpent { retry_after_s: whole_seconds(until - now) })
    }

    /// What was asked at `asked` was answered, and these are the answer's headers.
    pub(super) fn answered(&self, cost: Cost, asked: Instant, headers: &HeaderMap) {
        let mut state = self.state();
        state.read(headers);
        let pause = state.pause(cost);
        if pause.is_over_at(asked) {
            *pause = Pause::default();
        }
    }

    /// It was refused (429), and these are the refusal's headers. What to tell who can't wait.
    pub(super) fn refused(&self, cost: Cost, asked: Instant, headers: &HeaderMap) -> Failure {
        let mut state = self.state();
        state.read(headers);
        let is_spent = number(headers, "ratelimit-remaining").0 == Some(0);
        let pause = state.pause(cost);
        // Those that were on their way together are refused once.
        if pause.is_over_at(asked) {
            pause.refusals = pause.refusals.saturating_add(1);
        }
        // Without a word of the upstream's: twice as long each time; and a spent budget does not come back in seconds.
        let doubled = 1 << pause.refusals.saturating_sub(1).min(limits::BUDGET_DOUBLINGS);
        let guess = self.pause * if is_spent { limits::BUDGET_SPENT_PAUSES } else { doubled };
        let told = retry_after(headers).map(|told| told.max(self.pause).min(limits::RETRY_AFTER));
        let now = Instant::now();
        let until = (now + told.unwrap_or(guess)).max(pause.until.unwrap_or(now));
        pause.until = Some(until);
        Failure::BudgetSpent { retry_after_s: whole_seconds(until - now) }
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

/// What a refusal says that binds nobody but who was refused.
pub(super) fn refusal(headers: &HeaderMap) -> Failure {
    let told = retry_after(headers).unwrap_or_default().min(limits::RETRY_AFTER);
    Failure::BudgetSpent { retry_after_s: whole_seconds(told) }
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

    use tokio::time::advance;

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
        budgets.answered(Cost::Pull, Instant::now(), &told);
        let expect = Budget { limit: Some(100), remaining: Some(99), window_s: Some(21600), paused_s: 0 };
        assert_eq!(budgets.read(), expect);
        budgets.answered(Cost::Nothing, Instant::now(), &headers(&[]));
        assert_eq!(budgets.read(), expect);
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_waits_when_that_helps() {
        let budgets = Budgets::new(PAUSE);
        let begun = Instant::now();
        budgets.refused(Cost::Pull, Instant::now(), &headers(&[("retry-after", "9")]));
        budgets.wait(Cost::Nothing, begun + WAIT).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO, "a HEAD costs no pull");
        budgets.wait(Cost::Pull, begun + WAIT).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(9));
        let asked = Instant::now();
        budgets.refused(Cost::Pull, Instant::now(), &headers(&[("retry-after", "16")]));
        let told = budgets.wait(Cost::Pull, asked + WAIT).await;
        assert_eq!(told, Err(Failure::BudgetSpent { retry_after_s: 16 }));
        assert_eq!(asked.elapsed(), Duration::ZERO, "what does not help is not waited for");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_word_the_pause_doubles_and_ends_with_an_answer() {
        let budgets = Budgets::new(PAUSE);
        let word = headers(&[]);
        for doublings in (0..=limits::BUDGET_DOUBLINGS).chain([limits::BUDGET_DOUBLINGS]) {
            let asked = Instant::now();
            for _ in 0..3 {
                budgets.refused(Cost::Pull, asked, &word);
            }
            assert_eq!(budgets.read().paused_s, 1 << doublings, "three together are one refusal");
            advance(PAUSE * (1 << doublings)).await;
        }
        budgets.answered(Cost::Pull, Instant::now(), &word);
        budgets.refused(Cost::Pull, Instant::now(), &word);
        assert_eq!(budgets.read().paused_s, 1);
        budgets.refused(Cost::Pull, Instant::now(), &headers(&[("ratelimit-remaining", "0;w=21600")]));
        assert_eq!(budgets.read().paused_s, u64::from(limits::BUDGET_SPENT_PAUSES));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_does_not_end_a_pause() {
        let budgets = Budgets::new(PAUSE);
        let asked = Instant::now();
        advance(PAUSE).await;
        budgets.refused(Cost::Pull, asked, &headers(&[("retry-after", "3600")]));
        budgets.answered(Cost::Pull, asked, &headers(&[]));
        assert_eq!(budgets.read().paused_s, 3600);
        // Nor does a refusal that names less.
        budgets.refused(Cost::Pull, asked, &headers(&[("retry-after", "1")]));
        assert_eq!(budgets.read().paused_s, 3600);
        advance(Duration::from_secs(3600)).await;
        assert_eq!(budgets.read().paused_s, 0);
        budgets.answered(Cost::Pull, asked, &headers(&[]));
        budgets.refused(Cost::Pull, Instant::now(), &headers(&[]));
        assert_eq!(budgets.read().paused_s, 2, "what was asked before it says nothing of now");
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_upstream_may_ask_for_has_a_bound() {
        let budgets = Budgets::new(PAUSE);
        budgets.refused(Cost::Pull, Instant::now(), &headers(&[("retry-after", "999999999")]));
        assert_eq!(budgets.read().paused_s, limits::RETRY_AFTER.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_wait() {
        let budgets = std::sync::Arc::new(Budgets::new(PAUSE));
        budgets.refused(Cost::Nothing, Instant::now(), &headers(&[("retry-after", "9")]));
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
