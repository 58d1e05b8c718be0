//! Where an upstream says that its list goes on.

use controlplane::upstream::testing::next_query;

/// Each line of the input is the value of a `Link`; and what of it may be a query is one.
pub fn link(bytes: &[u8]) {
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let found = next_query(&lines);
    if let Some(query) = &found {
        assert!(!query.contains(['#', '>', '\n']), "{query}");
        assert!(lines.iter().any(|line| String::from_utf8_lossy(line).contains(query.as_str())), "{query}");
        assert_eq!(next_query(&[format!("<?{query}>;rel=next").as_bytes()]).as_ref(), Some(query));
    }

    let may_be = |byte: &&u8| (b'!'..=b'~').contains(*byte) && !b"#<>\"".contains(*byte);
    let query: String = bytes.iter().filter(may_be).map(|byte| char::from(*byte)).collect();
    let line = format!(
        "</v2/?{query}#x>; rel=\"prev\", <https://other.example/v2/a/tags/list?{query}#y>; a=b ;rel=\"next\""
    );
    assert_eq!(next_query(&[line.as_bytes()]), Some(query), "{line}");
}
