//! What a registry wants before it answers: the `WWW-Authenticate` of its 401.
//!
//! Spec: RFC 9110 §11.6.1; Docker's token authentication.

use http::{HeaderMap, header};

use super::url::Url;

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token from a realm.
    Bearer(Bearer),
    /// Name and password.
    Basic,
}

/// Where a token comes from, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bearer {
    pub(super) realm: Url,
    pub(super) service: Option<String>,
    pub(super) scope: Option<String>,
}

impl Challenge {
    /// The first of an answer's challenges that can be met; a token before a password. `None`: there is none.
    pub(super) fn of(headers: &HeaderMap) -> Option<Challenge> {
        let mut found = None;
        for value in headers.get_all(header::WWW_AUTHENTICATE) {
            let Ok(text) = value.to_str() else { continue };
            for (scheme, parameters) in challenges(text) {
                if scheme.eq_ignore_ascii_case("basic") {
                    found = found.or(Some(Challenge::Basic));
                } else if scheme.eq_ignore_ascii_case("bearer") {
                    let of = |name: &str| {
                        let named = |(key, _): &&(String, String)| key.eq_ignore_ascii_case(name);
                        parameters.iter().find(named).map(|(_, value)| value.clone())
                    };
                    let Some(realm) = of("realm").as_deref().and_then(Url::parse) else { continue };
                    return Some(Challenge::Bearer(Bearer {
                        realm,
                        service: of("service"),
                        scope: of("scope"),
                    }));
                }
            }
        }
        found
    }
}

type Parameters = Vec<(String, String)>;

/// `Scheme key=value, key="quoted", Other …`
fn challenges(text: &str) -> Vec<(String, Parameters)> {
    let mut all: Vec<(String, Parameters)> = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            return all;
        }
        let value = after.trim_start().strip_prefix('=').map(str::trim_start);
        rest = match (value, all.last_mut()) {
            (Some(value), Some((_, parameters))) => {
                let Some((value, after)) = parameter(value) else { return all };
                parameters.push((word.to_owned(), value));
                after
            }
            // A parameter of no scheme.
            (Some(_), None) => return all,
            (None, _) => {
                all.push((word.to_owned(), Parameters::new()));
                after
            }
        };
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    all
}

/// A value, quoted or not, and what follows it. `None`: a quote that does not end.
fn parameter(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| !is_token(c) && !"/:?&".contains(c)).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(letters.next()?.1),
            letter => value.push(letter),
        }
    }
    None
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn challenge(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_str(value).unwrap());
        }
        Challenge::of(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let realm = Url::parse(realm).unwrap();
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Some(Challenge::Bearer(Bearer { realm, service: owned(service), scope: owned(scope) }))
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/busybox:pull""#;
        let of_hub = bearer(
            "https://auth.docker.io/token",
            Some("registry.docker.io"),
            Some("repository:library/busybox:pull"),
        );
        assert_eq!(challenge(&[hub]), of_hub);
        assert_eq!(challenge(&["Basic realm=\"x\"", hub]), of_hub, "a token before a password");
        assert_eq!(challenge(&[&format!("Basic realm=\"x, y\", {hub}")]), of_hub);
        assert_eq!(
            challenge(&[r#"bearer REALM="https://a/t" , error="invalid_token" ,scope="a:b:pull,push""#]),
            bearer("https://a/t", None, Some("a:b:pull,push"))
        );
        assert_eq!(
            challenge(&["Bearer realm=https://a/t?x,service=s"]),
            bearer("https://a/t?x", Some("s"), None)
        );
        assert_eq!(challenge(&[r#"Bearer realm="https://a/\t""#]), bearer("https://a/t", None, None));
        assert_eq!(challenge(&["Basic"]), Some(Challenge::Basic));
        assert_eq!(challenge(&["Negotiate", "BASIC realm=\"a\""]), Some(Challenge::Basic));
        for none in [
            "",
            "Negotiate",
            "Bearer",
            r#"Bearer realm="ftp://a""#,
            r#"Bearer realm="https://user:word@a""#,
            r#"Bearer realm="https://a"#,
            "realm=x",
            "=",
        ] {
            assert_eq!(challenge(&[none]), None, "{none}");
        }
        assert_eq!(challenge(&[]), None);
    }
}
