//! The `Range` of a GET: byte for byte what was asked for, and nothing beyond the blob.

use oci::{Problem, RangeHeader, Selected, Span};

use super::{first_line, latin1};

/// Up to this size each byte is looked at.
const COUNTED_BYTES_MAX: u64 = 64;

/// The input is the size of the blob, LF, and the value of the header.
pub fn range(bytes: &[u8]) {
    let (size, value) = first_line(bytes);
    let Ok(size) = latin1(size).parse::<u64>() else { return };
    let header = RangeHeader::parse(value);
    let selected = header.within(size);
    match &selected {
        Ok(Selected::Whole) => {}
        Ok(Selected::One(span)) => check_spans(&[*span], size),
        Ok(Selected::Many(spans)) => {
            assert!((2..=RangeHeader::RANGES_MAX).contains(&spans.len()));
            check_spans(spans, size);
        }
        Err(Problem::RangeUnsatisfiable { size_bytes }) => assert_eq!(*size_bytes, size),
        Err(problem) => assert_eq!(problem, &Problem::TooManyRanges),
    }
    if size <= COUNTED_BYTES_MAX {
        assert_eq!(selected, count(&latin1(value), size), "of {header:?}");
    }
}

fn check_spans(spans: &[Span], size: u64) {
    let mut sorted = spans.to_vec();
    sorted.sort_by_key(|span| span.start);
    for span in &sorted {
        assert!(span.start < span.end && span.end <= size, "{span:?} of {size}");
        assert!(!span.is_empty() && span.len() <= size);
    }
    for pair in sorted.windows(2) {
        assert!(pair[0].end < pair[1].start, "{pair:?} are one");
    }
}

/// The second reader asks of each byte which ranges hold it. RFC 9110 §14.1.2, with our three exceptions.
fn count(value: &str, size: u64) -> Result<Selected, Problem> {
    let blank = [' ', '\t'];
    let Some((unit, set)) = value.trim_matches(blank).split_once('=') else { return Ok(Selected::Whole) };
    let asked: Vec<&str> =
        set.split(',').map(|range| range.trim_matches(blank)).filter(|range| !range.is_empty()).collect();
    let ranges: Option<Vec<(u128, u128)>> = asked.iter().map(|range| bounds(range, size)).collect();
    let Some(ranges) = ranges.filter(|ranges| unit.eq_ignore_ascii_case("bytes") && !ranges.is_empty())
    else {
        return Ok(Selected::Whole);
    };
    if ranges.len() > RangeHeader::RANGES_MAX {
        return Err(Problem::TooManyRanges);
    }
    if size == 0 {
        return Ok(Selected::Whole);
    }
    let wanted = |byte: u64| ranges.iter().position(|(start, end)| (*start..*end).contains(&byte.into()));
    // Runs of wanted bytes, each with the first range that has one of them.
    let mut runs: Vec<(usize, Span)> = Vec::new();
    for byte in 0..size {
        let Some(asked) = wanted(byte) else { continue };
        match runs.last_mut() {
            Some((first, run)) if run.end == byte => {
                run.end += 1;
                *first = asked.min(*first);
            }
            _ => runs.push((asked, Span { start: byte, end: byte + 1 })),
        }
    }
    runs.sort_by_key(|(first, _)| *first);
    match runs.as_slice() {
        [] => Err(Problem::RangeUnsatisfiable { size_bytes: size }),
        [(_, one)] => Ok(Selected::One(*one)),
        several => Ok(Selected::Many(several.iter().map(|(_, span)| *span).collect())),
    }
}

/// Half open. `None`: not a range.
fn bounds(range: &str, size: u64) -> Option<(u128, u128)> {
    let number = |digits: &str| -> Option<u128> {
        let all = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
        // More digits than fit are a number beyond every blob.
        all.then(|| digits.parse().unwrap_or(u128::from(u64::MAX)))
    };
    let size = u128::from(size);
    match range.split_once('-')? {
        ("", length) => Some((size.saturating_sub(number(length)?), size)),
        (first, "") => Some((number(first)?, size)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            Some((first, if first <= last { (last + 1).min(size) } else { first }))
        }
    }
}
