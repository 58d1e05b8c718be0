//! A question on its way: budget, admission, breaker, authorization, redirects, and back.
//!
//! Invariants: who waits for the budget holds no place that others could use. What another host says to which the upstream
//! redirected is nothing about the upstream: neither its budget nor its breaker hears of it. An `Authorization` is sent to
//! the upstream's own scheme, host and port, and never to another. Each attempt begins at the registry's URL: where it
//! redirected before is not remembered. At most one token is fetched for a 401, and one new attempt made for a target that
//! refuses.
//!
//! Spec: RFC 9110 §15.4.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use oci::RepositoryName;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::{
    USER_AGENT,
    accounts::{Account, Accounts},
    body,
    breaker::{Breaker, Shown},
    budget::{self, Cost},
    challenge::Challenge,
    failure::Failure,
    metrics::Metrics,
    settings::Timeouts,
    tokens::{Authorization, Tokens},
    transport::Transport,
    url::{Authority, Url},
};
use crate::limits;

/// What is asked.
pub(super) struct Question<'q> {
    pub(super) method: Method,
    /// At the registry.
    pub(super) url: Url,
    /// What a token is for; `None`: the registry as a whole.
    pub(super) repository: Option<&'q RepositoryName>,
    pub(super) cost: Cost,
    pub(super) among: Among,
    pub(super) headers: HeaderMap,
    /// A redirect to another host is not followed, but told as [`Answer::LeftHost`].
    pub(super) stays: bool,
}

/// Those that ask at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Among {
    Documents,
    Blobs,
}

/// A place among them, to be kept until the body has been read.
pub(super) type Place = OwnedSemaphorePermit;

/// An answer that means something: 2xx, 304, 404, 416, and the 403 or 405 of a HEAD.
pub(super) enum Answer {
    Response(Response<Incoming>),
    LeftHost,
}

/// All that a question needs.
pub(super) struct Exchange {
    pub(super) own: Authority,
    pub(super) transport: Transport,
    pub(super) tokens: Tokens,
    pub(super) accounts: Accounts,
    pub(super) breaker: Breaker,
    pub(super) blobs: Arc<Semaphore>,
    pub(super) documents: Arc<Semaphore>,
    pub(super) timeouts: Timeouts,
    pub(super) metrics: Arc<Metrics>,
}

/// How far an attempt has come.
#[derive(Default)]
struct Progress {
    /// The upstream has answered anything at all.
    answered: bool,
    /// Where it redirected us to is asked, not the upstream itself.
    is_elsewhere: bool,
}

impl Progress {
    fn shown(&self, end: &Result<Answer, Failure>) -> Shown {
        let failed = match end {
            Err(Failure::Unreachable { .. } | Failure::TimedOut | Failure::Server { .. }) => true,
            Ok(Answer::Response(response)) => response.status().is_server_error(),
            Ok(Answer::LeftHost) | Err(_) => false,
        };
        match (failed && !self.is_elsewhere, self.answered) {
            (true, _) => Shown::Failed,
            (false, true) => Shown::There,
            (false, false) => Shown::Nothing,
        }
    }
}

impl Exchange {
    /// The answer's head; the body is still to come.
    pub(super) async fn ask(&self, question: &Question<'_>) -> Result<(Answer, Place), Failure> {
        let answer = self.as_somebody(question).await;
        answer.inspect_err(|failure| {
            self.metrics.failed(failure);
            tracing::debug!(upstream = %self.own, path = question.url.path_and_query, %failure, "no answer");
        })
    }

    async fn as_somebody(&self, question: &Question<'_>) -> Result<(Answer, Place), Failure> {
        let deadline = Instant::now() + self.timeouts.budget_wait;
        let mut tries = self.accounts.tries();
        loop {
            let (number, account) = self.accounts.pick(question.cost)?;
            self.breaker.check()?;
            account.budgets.wait(question.cost, deadline).await?;
            let place = self.admit(question.among, deadline).await?;
            let asked = Instant::now();
            if account.budgets.paused_until(question.cost, asked).is_some() {
                // Somebody was refused while we waited for the place.
                continue;
            }
            let passage = self.breaker.pass()?;
            let mut progress = Progress::default();
            let end = self.authorized(question, number, account, &mut progress).await;
            passage.tell(progress.shown(&end), &self.metrics);
            let response = match end {
                Err(Failure::CredentialRejected) if tries > 1 => {
                    tries -= 1;
                    continue;
                }
                Err(failure) => return Err(failure),
                Ok(Answer::LeftHost) => return Ok((Answer::LeftHost, place)),
                Ok(Answer::Response(response)) => response,
            };
            let nothing = HeaderMap::new();
            let told = if progress.is_elsewhere { &nothing } else { response.headers() };
            if response.status() == StatusCode::TOO_MANY_REQUESTS {
                self.metrics.refused();
                if progress.is_elsewhere {
                    return Err(budget::refusal(response.headers()));
                }
                account.budgets.refused(question.cost, asked, told);
                body::discard(response.into_body()).await;
                continue;
            }
            account.budgets.answered(question.cost, asked, told);
            return match response.status().as_u16() {
                status @ 500..=599 => Err(Failure::Server { status }),
                200 | 206 | 304 | 404 | 416 => Ok((Answer::Response(response), place)),
                403 | 405 if question.method == Method::HEAD => Ok((Answer::Response(response), place)),
                _ => Err(Failure::Misbehaved {
                    why: "the upstream answered with a status that means nothing here",
                }),
            };
        }
    }

    async fn admit(&self, among: Among, deadline: Instant) -> Result<Place, Failure> {
        let places = match among {
            Among::Documents => &self.documents,
            Among::Blobs => &self.blobs,
        };
        let admitted = timeout_at(deadline, Arc::clone(places).acquire_owned()).await;
        admitted.ok().and_then(Result::ok).ok_or(Failure::BudgetSpent { retry_after_s: 1 })
    }

    async fn authorized(
        &self,
        question: &Question<'_>,
        number: usize,
        account: &Account,
        progress: &mut Progress,
    ) -> Result<Answer, Failure> {
        let key = (number, question.repository.copied());
        let mut authorization = self.tokens.current(&key, account).await?;
        let mut renewed = false;
        let mut resolved_again = false;
        loop {
            let answer = self.walk(question, authorization.as_ref(), progress).await?;
            let Answer::Response(response) = answer else { return Ok(answer) };
            // What follows is between us, the upstream and its realm, unless this answer is the end.
            let at_home = !std::mem::take(&mut progress.is_elsewhere);
            match response.status() {
                StatusCode::FORBIDDEN if question.method == Method::HEAD => {}
                StatusCode::UNAUTHORIZED if at_home => {
                    let challenge = Challenge::of(response.headers()).ok_or(Failure::Denied)?;
                    body::discard(response.into_body()).await;
                    // A password that is refused is given up by `renewed`.
                    if renewed && challenge != Challenge::Basic {
                        return Err(Failure::Denied);
                    }
                    renewed = true;
                    let refused = authorization.as_ref();
                    authorization = Some(self.tokens.renewed(&key, account, challenge, refused).await?);
                    continue;
                }
                StatusCode::FORBIDDEN if at_home => return Err(Failure::Denied),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    if resolved_again {
                        return Err(Failure::Misbehaved {
                            why: "the upstream redirects to where we are refused",
                        });
                    }
                    resolved_again = true;
                    body::discard(response.into_body()).await;
                    self.tokens.forget(&key, authorization.as_ref()).await;
                    authorization = self.tokens.current(&key, account).await?;
                    continue;
                }
                _ => {}
            }
            progress.is_elsewhere = !at_home;
            return Ok(Answer::Response(response));
        }
    }

    async fn walk(
        &self,
        question: &Question<'_>,
        authorization: Option<&Authorization>,
        progress: &mut Progress,
    ) -> Result<Answer, Failure> {
        let mut url = question.url.clone();
        let mut redirects = 0;
        loop {
            let at_home = url.authority == self.own;
            let request = self.request(question, &url, authorization.filter(|_| at_home))?;
            self.metrics.requested();
            progress.is_elsewhere = !at_home;
            let response = self.transport.send(request).await?;
            progress.answered |= at_home;
            let location = match response.status().as_u16() {
                301 | 302 | 303 | 307 | 308 => response.headers().get(header::LOCATION),
                _ => return Ok(Answer::Response(response)),
            };
            let target = location.and_then(|location| url.join(location.to_str().ok()?));
            let refused = |why| Failure::RedirectRefused { why };
            let target = target.ok_or(refused("the upstream redirects to nowhere"))?;
            if url.authority.https && !target.authority.https {
                return Err(refused("the upstream redirects from https to http"));
            }
            if question.stays && target.authority != self.own {
                return Ok(Answer::LeftHost);
            }
            if redirects == limits::REDIRECTS {
                return Err(refused("the upstream redirects without end"));
            }
            redirects += 1;
            self.metrics.redirected();
            body::discard(response.into_body()).await;
            url = target;
        }
    }

    fn request(
        &self,
        question: &Question<'_>,
        url: &Url,
        authorization: Option<&Authorization>,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let not_a_url = || Failure::RedirectRefused { why: "the upstream redirects to what is not a URL" };
        let mut request = Request::new(Full::default());
        *request.method_mut() = question.method.clone();
        *request.uri_mut() = url.uri().ok_or_else(not_a_url)?;
        let headers = request.headers_mut();
        headers.clone_from(&question.headers);
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(authorization) = authorization {
            headers.insert(header::AUTHORIZATION, authorization.value());
        }
        Ok(request)
    }
}
