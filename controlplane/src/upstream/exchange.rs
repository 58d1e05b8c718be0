//! A question on its way: admission, breaker, budget, authorization, redirects, and back.
//!
//! Invariants: an `Authorization` is sent to the upstream's own scheme, host and port, and never to another. Each attempt
//! begins at the registry's URL: where it redirected before is not remembered. At most one token is fetched for a 401,
//! and one new attempt made for a target that refuses.
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
    time::{Instant, timeout},
};

use super::{
    USER_AGENT,
    accounts::{Account, Accounts},
    body,
    breaker::Breaker,
    budget::Cost,
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
    pub(super) headers: HeaderMap,
    /// A redirect to another host is not followed, but told as [`Answer::LeftHost`].
    pub(super) stays: bool,
}

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

/// How one attempt ended.
struct Walked {
    answer: Answer,
    /// At the upstream itself, not at where it redirected us.
    at_home: bool,
}

impl Exchange {
    /// A place among those that ask at the same time, to be kept until the body has been read.
    pub(super) async fn admit(&self, among: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Failure> {
        let admitted = timeout(self.timeouts.budget_wait, Arc::clone(among).acquire_owned()).await;
        let full = || {
            let failure = Failure::BudgetSpent { retry_after_s: 1 };
            self.metrics.failed(&failure);
            failure
        };
        admitted.ok().and_then(Result::ok).ok_or_else(full)
    }

    /// The answer's head; the body is still to come.
    pub(super) async fn ask(&self, question: &Question<'_>) -> Result<Answer, Failure> {
        let passage = self.breaker.pass().inspect_err(|failure| self.metrics.failed(failure))?;
        let answer = self.as_somebody(question).await;
        passage.tell(&answer, &self.metrics);
        answer.inspect_err(|failure| {
            self.metrics.failed(failure);
            tracing::debug!(upstream = %self.own, path = question.url.path_and_query, %failure, "no answer");
        })
    }

    async fn as_somebody(&self, question: &Question<'_>) -> Result<Answer, Failure> {
        for _ in 0..self.accounts.tries() {
            let (number, account) = self.accounts.pick(question.cost)?;
            match self.within_budget(question, number, account).await {
                Err(Failure::CredentialRejected) => {
                    self.metrics.credential_rejected();
                    tracing::warn!(upstream = %self.own, credentials = number + 1, "the realm rejected credentials");
                    self.accounts.reject(account).await;
                }
                other => return other,
            }
        }
        Err(Failure::CredentialRejected)
    }

    async fn within_budget(
        &self,
        question: &Question<'_>,
        mut number: usize,
        mut account: &Account,
    ) -> Result<Answer, Failure> {
        let deadline = Instant::now() + self.timeouts.budget_wait;
        loop {
            account.budgets.wait(question.cost, deadline).await?;
            let answer = self.authorized(question, number, account).await?;
            let Answer::Response(response) = answer else { return Ok(answer) };
            let status = response.status();
            let refused = status == StatusCode::TOO_MANY_REQUESTS;
            account.budgets.note(question.cost, response.headers(), refused);
            if refused {
                self.metrics.refused();
                body::discard(response.into_body()).await;
                (number, account) = self.accounts.pick(question.cost)?;
                continue;
            }
            return match status.as_u16() {
                500..=599 => Err(Failure::Server { status: status.as_u16() }),
                200 | 206 | 304 | 404 | 416 => Ok(Answer::Response(response)),
                403 | 405 if question.method == Method::HEAD => Ok(Answer::Response(response)),
                _ => Err(Failure::Misbehaved {
                    why: "the upstream answered with a status that means nothing here",
                }),
            };
        }
    }

    async fn authorized(
        &self,
        question: &Question<'_>,
        number: usize,
        account: &Account,
    ) -> Result<Answer, Failure> {
        let key = (number, question.repository.copied());
        let mut authorization = self.tokens.current(&key, account).await?;
        let mut renewed = false;
        let mut resolved_again = false;
        loop {
            let Walked { answer, at_home } = self.walk(question, authorization.as_ref()).await?;
            let Answer::Response(response) = answer else { return Ok(answer) };
            match response.status() {
                StatusCode::FORBIDDEN if question.method == Method::HEAD => {}
                StatusCode::UNAUTHORIZED if at_home => {
                    let challenge = Challenge::of(response.headers()).ok_or(Failure::Denied)?;
                    body::discard(response.into_body()).await;
                    if renewed {
                        let is_basic = challenge == Challenge::Basic;
                        return Err(if is_basic { Failure::CredentialRejected } else { Failure::Denied });
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
            return Ok(Answer::Response(response));
        }
    }

    async fn walk(
        &self,
        question: &Question<'_>,
        authorization: Option<&Authorization>,
    ) -> Result<Walked, Failure> {
        let mut url = question.url.clone();
        let mut redirects = 0;
        loop {
            let at_home = url.authority == self.own;
            let request = self.request(question, &url, authorization.filter(|_| at_home))?;
            self.metrics.requested();
            let response = self.transport.send(request).await?;
            let location = match response.status().as_u16() {
                301 | 302 | 303 | 307 | 308 => response.headers().get(header::LOCATION),
                _ => return Ok(Walked { answer: Answer::Response(response), at_home }),
            };
            let target = location.and_then(|location| url.join(location.to_str().ok()?));
            let refused = |why| Failure::RedirectRefused { why };
            let target = target.ok_or(refused("the upstream redirects to nowhere"))?;
            if url.authority.https && !target.authority.https {
                return Err(refused("the upstream redirects from https to http"));
            }
            if question.stays && target.authority != self.own {
                return Ok(Walked { answer: Answer::LeftHost, at_home });
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
