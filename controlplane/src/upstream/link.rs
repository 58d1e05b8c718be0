//! Where a list goes on.
//!
//! Spec: RFC 8288 §3.

use http::{HeaderMap, header};

/// The query of `Link: <…?query>; rel="next"`, whatever host it names: it is asked of the same list.
pub(super) fn next_query(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(header::LINK).iter().filter_map(|value| value.to_str().ok());
    let target = values.find_map(|mut rest| {
        while let Some((target, parameters, others)) = first_link(rest) {
            if is_next(parameters) {
                return Some(target);
            }
            rest = others;
        }
        None
    })?;
    let (_, query) = target.split_once('?')?;
    Some(query.split('#').next().unwrap_or_default().to_owned())
}

/// The first link of a value: its target, its parameters, and what follows it.
fn first_link(value: &str) -> Option<(&str, &str, &str)> {
    let (target, rest) = value.trim_start_matches([' ', '\t', ',']).strip_prefix('<')?.split_once('>')?;
    let (parameters, others) = until(rest, ',');
    Some((target, parameters, others))
}

fn is_next(mut parameters: &str) -> bool {
    while !parameters.is_empty() {
        let (parameter, others) = until(parameters, ';');
        parameters = others;
        let Some((name, value)) = parameter.split_once('=') else { continue };
        if name.trim().eq_ignore_ascii_case("rel") {
            // Of several, only the first counts.
            let mut relations = value.trim().trim_matches('"').split_whitespace();
            return relations.any(|relation| relation.eq_ignore_ascii_case("next"));
        }
    }
    false
}

/// Up to the first `end` that is in no quotes, and what follows it.
fn until(text: &str, end: char) -> (&str, &str) {
    let (mut quoted, mut escaped) = (false, false);
    for (place, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if letter == end && !quoted => return (&text[..place], &text[place + end.len_utf8()..]),
            _ => {}
        }
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_next_page_is_the_query_of_the_link() {
        let next = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::LINK, HeaderValue::from_str(value).unwrap());
            }
            next_query(&headers)
        };
        for (values, expect) in [
            (&[r#"</v2/a/tags/list?last=b&n=2>; rel="next""#][..], Some("last=b&n=2")),
            (&[r#"<https://other/v2/a/tags/list?last=b>; rel=next"#], Some("last=b")),
            (&[r#"</a?x>; rel="prev", </a?y>; rel="next""#], Some("y")),
            (&[r#"</a?x>; rel="prev""#, r#"</a?y#z>; title="t"; rel="next""#], Some("y")),
            (&[r#"</a>; rel="next""#], None),
            (&[r#"</a?x>; rel="prev""#], None),
            (&[r#"</v2/a/tags/list?last=a,b&n=2>; rel="next""#], Some("last=a,b&n=2")),
            (&[r#"</a?x,y>; rel=prev, </a?v,w>; rel=next"#], Some("v,w")),
            (&[r#"</a?x>; title="a, <b?c>; rel=next", </a?y>; rel="next""#], Some("y")),
            (&[r#"</a?x>; title="a\", b"; rel="next""#], Some("x")),
            (&[r#"</a?x>;REL="last Next""#], Some("x")),
            (&[r#"</a?x>; rel=prev; rel=next"#], None),
            (&["nonsense"], None),
            (&["</a?x"], None),
            (&["</a?x>; rel=\"next"], Some("x")),
            (&[], None),
        ] {
            assert_eq!(next(values).as_deref(), expect, "{values:?}");
        }
    }
}
