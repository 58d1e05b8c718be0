//! A request head: where it ends, and what of it decides where the next one starts.

use dataplane::testing::{BodyLength, Head, Parsed, parse_head};

use super::{cuts, is_field_value, is_token, latin1};

/// Up to this length no bound plays a part.
const SHORT_BYTES_MAX: usize = 4096;

/// The input is what a connection received.
pub fn head(bytes: &[u8]) {
    if bytes.len() <= SHORT_BYTES_MAX && !bytes.starts_with(b"\r") {
        ignores_an_empty_line(bytes);
    }
    match parse_head(bytes) {
        Parsed::Head(head) => {
            let whole = &bytes[..head.len];
            for cut in cuts(head.len).chain([head.len - 1]) {
                assert!(matches!(parse_head(&whole[..cut]), Parsed::Incomplete), "cut at {cut}");
            }
            match parse_head(whole) {
                Parsed::Head(alone) => assert_eq!(alone, head, "what follows a head is none of its business"),
                Parsed::Incomplete | Parsed::Bad(_) => panic!("a head needs what follows it"),
            }
            read_by_lines(whole, &head);
        }
        Parsed::Incomplete => {
            for cut in cuts(bytes.len()) {
                assert!(matches!(parse_head(&bytes[..cut]), Parsed::Incomplete), "cut at {cut}");
            }
        }
        Parsed::Bad(_) => {
            for cut in cuts(bytes.len()) {
                assert!(!matches!(parse_head(&bytes[..cut]), Parsed::Head(_)), "cut at {cut}");
            }
        }
    }
}

/// RFC 9112 §2.2: one empty line before a request is as if it was not there.
fn ignores_an_empty_line(bytes: &[u8]) {
    let behind = [b"\r\n", bytes].concat();
    match (parse_head(bytes), parse_head(&behind)) {
        (Parsed::Head(mut head), Parsed::Head(same)) => {
            head.len += 2;
            assert_eq!(head, same);
        }
        (Parsed::Incomplete, Parsed::Incomplete) | (Parsed::Bad(_), Parsed::Bad(_)) => {}
        _ => panic!("an empty line before it makes a difference"),
    }
}

/// The second reader splits lines and compares names, and knows nothing else.
fn read_by_lines(whole: &[u8], head: &Head<'_>) {
    let text = latin1(whole);
    let text = text.strip_prefix("\r\n").unwrap_or(&text);
    let mut lines = text.strip_suffix("\r\n\r\n").expect("a head ends with an empty line").split("\r\n");
    let words: Vec<&str> = lines.next().expect("split yields one").split(' ').collect();
    let &[method, target, version] = words.as_slice() else { panic!("a request line of {words:?}") };
    assert!(is_token(method), "{method:?}");
    let modern = match version {
        "HTTP/1.1" => true,
        "HTTP/1.0" => false,
        other => panic!("version {other:?}"),
    };
    assert!(target.chars().all(|letter| letter > ' ' && letter != '\u{7f}'), "{target:?}");
    let path = latin1(head.target);
    assert!(target == path || (!target.starts_with('/') && (path == "/" || target.ends_with(&path))));

    let fields: Vec<(String, &str)> = lines
        .map(|line| {
            let (name, value) = line.split_once(':').expect("a field has a colon");
            assert!(is_token(name) && is_field_value(value), "{line:?}");
            (name.to_ascii_lowercase(), value.trim_matches([' ', '\t']))
        })
        .collect();
    let told = head.fields();
    assert_eq!(told.len(), fields.len());
    for ((told_name, told_value), (name, value)) in told.iter().zip(&fields) {
        assert_eq!(told_name.to_ascii_lowercase(), *name);
        assert!(told_value == value || !value.is_ascii(), "{name}: {told_value:?}");
    }
    let values = |name: &str| -> Vec<&str> {
        fields.iter().filter(|(known, _)| known == name).map(|(_, value)| *value).collect()
    };
    let hosts = values("host").len();
    assert!(hosts == 1 || (hosts == 0 && !modern), "{hosts} hosts");
    let body = match (values("content-length").as_slice(), values("transfer-encoding").as_slice()) {
        ([], []) => BodyLength::None,
        ([length], []) => {
            assert!(length.bytes().all(|byte| byte.is_ascii_digit()), "{length:?}");
            BodyLength::Known(length.parse().expect("a number of bytes"))
        }
        ([], [coding]) if modern && coding.eq_ignore_ascii_case("chunked") => BodyLength::Chunked,
        ambiguous => panic!("{ambiguous:?}"),
    };
    assert_eq!(head.body, body);
    let closes = values("connection")
        .into_iter()
        .flat_map(|value| value.split(','))
        .any(|token| token.trim_matches([' ', '\t']).eq_ignore_ascii_case("close"));
    assert_eq!(head.keep_alive, modern && !closes);
    assert_eq!(head.expects_continue, modern && !values("expect").is_empty());
    for (name, taken) in [
        ("range", head.range),
        ("if-range", head.if_range),
        ("content-type", head.content_type),
        ("content-range", head.content_range),
    ] {
        let sent = values(name);
        assert!(sent.len() <= 1, "{name} twice");
        assert_eq!(sent.first().copied(), taken.map(latin1).as_deref(), "{name}");
    }
    for (name, taken) in [("if-match", &head.if_match), ("if-none-match", &head.if_none_match)] {
        let sent = values(name);
        assert_eq!((!sent.is_empty()).then(|| sent.join(", ")), taken.as_deref().map(latin1), "{name}");
    }
    assert_eq!(values("user-agent").last().copied(), head.user_agent.map(latin1).as_deref());
}
