//! What ranges select, table by table and against a byte-by-byte model.

use proptest::prelude::*;

use super::*;

fn span(start: u64, end: u64) -> Span {
    Span { start, end }
}

fn many(spans: &[(u64, u64)]) -> Result<Selected, Problem> {
    Ok(Selected::Many(spans.iter().map(|(start, end)| span(*start, *end)).collect()))
}

fn check(header: &str, size_bytes: u64, expect: Result<Selected, Problem>) {
    assert_eq!(
        RangeHeader::parse(header.as_bytes()).within(size_bytes),
        expect,
        "{header:?} of {size_bytes}"
    );
}

fn one(start: u64, end: u64) -> Result<Selected, Problem> {
    Ok(Selected::One(span(start, end)))
}

const WHOLE: Result<Selected, Problem> = Ok(Selected::Whole);

fn unsatisfiable(size_bytes: u64) -> Result<Selected, Problem> {
    Err(Problem::RangeUnsatisfiable { size_bytes })
}

#[test]
fn one_range() {
    check("bytes=500-1499", 2048, one(500, 1500));
    check("bytes=500-", 2048, one(500, 2048));
    check("bytes=-500", 2048, one(1548, 2048));
    check("bytes=2000-5000", 2048, one(2000, 2048));
    check("bytes=0-0", 2048, one(0, 1));
    check("bytes=0-", 2048, one(0, 2048));
    check("bytes=2047-2047", 2048, one(2047, 2048));
    check("bytes=-5000", 2048, one(0, 2048));
    check("BYTES=0-9", 2048, one(0, 10));
    check(" bytes=0-9 ", 2048, one(0, 10));
    check("bytes= 0-9 ,", 2048, one(0, 10));
    check("bytes=007-0009", 2048, one(7, 10));
    check("bytes=0-99999999999999999999999999", 2048, one(0, 2048));
    check("bytes=-99999999999999999999999999", 2048, one(0, 2048));
    check("bytes=0-18446744073709551615", u64::MAX, one(0, u64::MAX));
}

#[test]
fn what_selects_nothing_is_416() {
    check("bytes=500-0", 2048, unsatisfiable(2048));
    check("bytes=5000-10000", 2048, unsatisfiable(2048));
    check("bytes=2048-", 2048, unsatisfiable(2048));
    check("bytes=-0", 2048, unsatisfiable(2048));
    check("bytes=99999999999999999999999999-", 2048, unsatisfiable(2048));
    check("bytes=5000-,-0,9-8", 2048, unsatisfiable(2048));
}

#[test]
fn what_is_no_byte_range_means_the_whole() {
    for header in [
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes= , ",
        "bytes=-",
        "bytes=a-b",
        "bytes=1",
        "bytes=1-2-3",
        "bytes=+1-2",
        "bytes=--1",
        "bytes=0x0-1",
        "bytes =0-1",
        "bytes=0 - 1",
        "bytes=0-1;2-3",
        "bytes=0-1,x",
        "items=0-1",
        "=0-1",
        "bytes:0-1",
        "bytes=1.0-2",
        "none",
    ] {
        check(header, 2048, WHOLE);
    }
    assert_eq!(RangeHeader::parse(b"bytes=\xff-1"), RangeHeader::Whole);
}

#[test]
fn an_empty_blob_is_whole() {
    for header in ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0", "bytes=5-1", "bytes=0-0,1-1", "x=1"] {
        check(header, 0, WHOLE);
    }
}

#[test]
fn several_ranges_are_coalesced_in_the_order_they_were_asked() {
    check("bytes=0-9,20-29", 100, many(&[(0, 10), (20, 30)]));
    check("bytes=20-29,0-9", 100, many(&[(20, 30), (0, 10)]));
    check("bytes=0-9,10-19", 100, one(0, 20));
    check("bytes=0-9,5-19", 100, one(0, 20));
    check("bytes=0-9,0-9", 100, one(0, 10));
    check("bytes=0-99,5-6", 100, one(0, 100));
    check("bytes=50-,0-1,-10", 100, many(&[(50, 100), (0, 2)]));
    check("bytes=90-,0-1,40-60,-20", 100, many(&[(80, 100), (0, 2), (40, 61)]));
    check("bytes=200-,0-1", 100, one(0, 2));
    check("bytes=9-1, 0-1, -0, 5-5", 100, many(&[(0, 2), (5, 6)]));
}

#[test]
fn more_ranges_than_the_bound_are_400() {
    let most = RangeHeader::RANGES_MAX;
    let ranges = |count: usize| {
        let list: Vec<String> = (0..count).map(|at| format!("{}-{}", at * 2, at * 2)).collect();
        RangeHeader::parse(format!("bytes={}", list.join(",")).as_bytes())
    };
    let Ok(Selected::Many(spans)) = ranges(most).within(1 << 20) else { panic!() };
    assert_eq!(spans.len(), most);
    assert_eq!(ranges(most + 1), RangeHeader::TooMany);
    assert_eq!(ranges(most + 1).within(1 << 20), Err(Problem::TooManyRanges));
}

#[test]
fn chunks_are_inclusive() {
    let chunk = ChunkRange::parse(b"0-99").unwrap();
    assert_eq!((chunk, chunk.len_bytes()), (ChunkRange { first: 0, last: 99 }, 100));
    assert_eq!(ChunkRange::parse(b"7-7").unwrap().len_bytes(), 1);
    let invalid = |text: &str| {
        assert!(
            matches!(ChunkRange::parse(text.as_bytes()), Err(Problem::BlobUploadInvalid { .. })),
            "{text}"
        )
    };
    for text in [
        "",
        "-",
        "0-",
        "-9",
        "9-0",
        "bytes 0-99/100",
        "bytes=0-99",
        "0-9,10-19",
        "a-b",
        "0-18446744073709551615",
    ] {
        invalid(text);
    }
}

#[test]
fn content_range_is_inclusive() {
    assert_eq!(ContentRange { span: span(500, 1500), size_bytes: 2048 }.to_string(), "bytes 500-1499/2048");
}

fn element() -> impl Strategy<Value = String> {
    prop_oneof![
        (0u64..70, 0u64..70).prop_map(|(first, last)| format!("{first}-{last}")),
        (0u64..70).prop_map(|first| format!("{first}-")),
        (0u64..70).prop_map(|length| format!("-{length}")),
    ]
}

/// The bytes that one element selects, by its definition.
fn selects(element: &str, byte: u64, size: u64) -> bool {
    let (first, last) = element.split_once('-').unwrap();
    match (first, last) {
        ("", length) => byte < size && byte + length.parse::<u64>().unwrap() >= size,
        (first, "") => byte < size && byte >= first.parse().unwrap(),
        (first, last) => byte < size && byte >= first.parse().unwrap() && byte <= last.parse().unwrap(),
    }
}

proptest! {
    #[test]
    fn the_selected_bytes_are_those_that_were_asked(
        elements in proptest::collection::vec(element(), 1..8),
        size in 1u64..64,
    ) {
        let header = format!("bytes={}", elements.join(", "));
        let spans: Vec<Span> = match RangeHeader::parse(header.as_bytes()).within(size) {
            Ok(Selected::Whole) => panic!("{header}"),
            Ok(Selected::One(span)) => vec![span],
            Ok(Selected::Many(spans)) => {
                prop_assert!(spans.len() >= 2);
                spans.into_vec()
            }
            Err(problem) => {
                prop_assert_eq!(problem, Problem::RangeUnsatisfiable { size_bytes: size });
                vec![]
            }
        };
        for byte in 0..size + 8 {
            let holding = spans.iter().filter(|span| (span.start..span.end).contains(&byte)).count();
            let asked = elements.iter().any(|element| selects(element, byte, size));
            prop_assert_eq!(holding, usize::from(asked), "byte {} of {}", byte, &header);
        }
        for span in &spans {
            prop_assert!(!span.is_empty() && span.end <= size);
            prop_assert_eq!(span.len(), span.end - span.start);
            prop_assert!(spans.iter().all(|other| other.start != span.end), "touching spans in {:?}", spans);
        }
    }

    #[test]
    fn no_header_panics(header in "(bytes=)?[0-9a-z,=\\- ]{0,40}", size in any::<u64>()) {
        let _selected = RangeHeader::parse(header.as_bytes()).within(size);
        let _chunk = ChunkRange::parse(header.as_bytes());
    }
}
