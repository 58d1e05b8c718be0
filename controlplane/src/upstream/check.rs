//! What `gantry doctor` asks about an upstream, one step after the other.

use http::{HeaderMap, Method, StatusCode};
use oci::{Reference, RepositoryName};

use super::{
    Accept, Check, Step, Upstream,
    budget::Cost,
    exchange::{Among, Answer, Question},
    failure::Failure,
    known,
};

/// Asks. Costs no pull.
pub(super) async fn check(upstream: &Upstream) -> Check {
    let addresses = addresses(upstream).await;
    let answered = if addresses.is_ok() { base(upstream).await } else { addresses.clone() };
    let (registry, token) = match answered {
        Ok(found) => (Ok(found), Ok("it lets us in".to_owned())),
        // It answered, and what it answered is about who we are.
        Err(failure @ (Failure::CredentialRejected | Failure::Denied)) => {
            (Ok("it answers".to_owned()), Err(failure))
        }
        Err(failure) => (Err(failure.clone()), Err(failure)),
    };
    if token.is_ok() {
        ask_for_budget(upstream).await;
    }
    Check { addresses, registry, token, budget: upstream.budget() }
}

async fn addresses(upstream: &Upstream) -> Step {
    let shared = &upstream.shared;
    if let Some(proxy) = shared.connector.proxy() {
        return Ok(format!("the proxy {proxy} resolves them"));
    }
    let found = shared.connector.addresses(&shared.base.authority).await?;
    let texts: Vec<String> = found.iter().map(|address| address.ip().to_string()).collect();
    Ok(texts.join(", "))
}

async fn base(upstream: &Upstream) -> Step {
    let base = &upstream.shared.base;
    let question = Question {
        method: Method::GET,
        url: base.with(format!("{}/v2/", base.path_and_query)),
        repository: None,
        cost: Cost::Nothing,
        among: Among::Documents,
        headers: HeaderMap::new(),
        stays: true,
    };
    match upstream.shared.exchange.ask(&question).await?.0 {
        Answer::Response(response) if response.status() == StatusCode::OK => {
            Ok(format!("{:?}, {}", response.version(), response.status()))
        }
        Answer::Response(_) => Err(Failure::Misbehaved {
            why: "there is no registry at this URL: /v2/ behind it is not answered 200",
        }),
        Answer::LeftHost => Err(Failure::RedirectRefused { why: "the base path is at another host" }),
    }
}

/// What it says is kept by the budget itself.
async fn ask_for_budget(upstream: &Upstream) {
    let Some((repository, tag)) = known::budget_image(&upstream.shared.base.authority) else { return };
    if let (Ok(repository), Ok(reference)) = (RepositoryName::parse(repository), Reference::parse(tag))
        && let Err(failure) = upstream.describe_manifest(&repository, &reference, &Accept::default()).await
    {
        tracing::debug!(%failure, "the budget was not told");
    }
}
