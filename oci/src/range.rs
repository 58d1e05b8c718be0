//! Byte ranges: what a `Range` header asks, what it selects of a blob, and the chunks of an upload.
//!
//! Invariants: a [`Span`] is half open and lies within the blob; one range needs no heap.
//!
//! Spec: RFC 9110 §14; distribution-spec end-5. Three answers go beyond the RFC: `last < first` is unsatisfiable
//! (416), not ignored; any range of an empty blob is the whole of it (200); too many ranges are 400.

use std::fmt;

use crate::problem::Problem;

/// A `Range` header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RangeHeader {
    /// Absent, of another unit than bytes, or not to be parsed: the whole body is meant.
    Whole,
    /// Ranges.
    Some(RangeSpecs),
    /// More than [`RangeHeader::RANGES_MAX`].
    TooMany,
}

/// One range, inline, or several.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RangeSpecs {
    /// The usual case.
    One(RangeSpec),
    /// Two or more, in the order they were asked.
    Many(Box<[RangeSpec]>),
}

/// One range as it was asked. Numbers that do not fit are `u64::MAX`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeSpec {
    /// `first-last`, both inclusive; `last < first` is possible.
    Between {
        /// First byte.
        first: u64,
        /// Last byte.
        last: u64,
    },
    /// `first-`
    From {
        /// First byte.
        first: u64,
    },
    /// `-length`
    Suffix {
        /// How many bytes from the end.
        length: u64,
    },
}

impl RangeHeader {
    /// The most ranges in one header.
    pub const RANGES_MAX: usize = 1024;

    /// Parses the value of the header. Never fails: see the variants.
    pub fn parse(value: &[u8]) -> RangeHeader {
        let Some(set) = strip_unit(value) else { return RangeHeader::Whole };
        let mut one = None;
        let mut many = Vec::new();
        let mut count = 0;
        for element in set.split(|byte| *byte == b',').map(trim).filter(|element| !element.is_empty()) {
            let Some(spec) = RangeSpec::parse(element) else { return RangeHeader::Whole };
            count += 1;
            match one {
                None => one = Some(spec),
                Some(first) if count == 2 => many = vec![first, spec],
                Some(_) if count <= RangeHeader::RANGES_MAX => many.push(spec),
                Some(_) => {}
            }
        }
        match (one, count) {
            (None, _) => RangeHeader::Whole,
            (Some(spec), 1) => RangeHeader::Some(RangeSpecs::One(spec)),
            (Some(_), 2..=RangeHeader::RANGES_MAX) => RangeHeader::Some(RangeSpecs::Many(many.into())),
            (Some(_), _) => RangeHeader::TooMany,
        }
    }

    /// What is selected of a blob of this size.
    ///
    /// Errors: `RangeUnsatisfiable` (416) when no range selects a byte, `TooManyRanges` (400).
    pub fn within(&self, size_bytes: u64) -> Result<Selected, Problem> {
        let specs = match self {
            RangeHeader::Whole => return Ok(Selected::Whole),
            RangeHeader::TooMany => return Err(Problem::TooManyRanges),
            RangeHeader::Some(_) if size_bytes == 0 => return Ok(Selected::Whole),
            RangeHeader::Some(specs) => specs,
        };
        match specs {
            RangeSpecs::One(spec) => spec.within(size_bytes).map(Selected::One),
            RangeSpecs::Many(specs) => coalesce(specs.iter().filter_map(|spec| spec.within(size_bytes))),
        }
        .ok_or(Problem::RangeUnsatisfiable { size_bytes })
    }
}

impl RangeSpec {
    fn parse(element: &[u8]) -> Option<RangeSpec> {
        let dash = element.iter().position(|byte| *byte == b'-')?;
        Some(match (&element[..dash], &element[dash + 1..]) {
            ([], length) => RangeSpec::Suffix { length: saturating(length)? },
            (first, []) => RangeSpec::From { first: saturating(first)? },
            (first, last) => RangeSpec::Between { first: saturating(first)?, last: saturating(last)? },
        })
    }

    /// `None`: selects no byte.
    fn within(self, size_bytes: u64) -> Option<Span> {
        let span = match self {
            RangeSpec::Between { first, last } => {
                Span { start: first, end: last.saturating_add(1).min(size_bytes) }
            }
            RangeSpec::From { first } => Span { start: first, end: size_bytes },
            RangeSpec::Suffix { length } => {
                Span { start: size_bytes.saturating_sub(length), end: size_bytes }
            }
        };
        (span.start < span.end).then_some(span)
    }
}

/// The part after `bytes=`. `None`: another unit, or none.
fn strip_unit(value: &[u8]) -> Option<&[u8]> {
    let value = trim(value);
    let equals = value.iter().position(|byte| *byte == b'=')?;
    value[..equals].eq_ignore_ascii_case(b"bytes").then(|| &value[equals + 1..])
}

fn trim(text: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = text.iter().position(|byte| !blank(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !blank(byte)).map_or(start, |at| at + 1);
    &text[start..end]
}

/// `None`: empty, or not digits alone.
fn saturating(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(
        digits
            .iter()
            .fold(0u64, |number, digit| number.saturating_mul(10).saturating_add(u64::from(digit - b'0'))),
    )
}

/// Spans that overlap or touch become one, which stands where the first of them was asked (RFC 9110 §15.3.7.2).
fn coalesce(spans: impl Iterator<Item = Span>) -> Option<Selected> {
    let mut asked: Vec<(usize, Span)> = spans.enumerate().collect();
    asked.sort_unstable_by_key(|(_, span)| (span.start, span.end));
    let mut merged: Vec<(usize, Span)> = Vec::with_capacity(asked.len());
    for (order, span) in asked {
        match merged.last_mut() {
            Some((first, grown)) if span.start <= grown.end => {
                grown.end = grown.end.max(span.end);
                *first = order.min(*first);
            }
            _ => merged.push((order, span)),
        }
    }
    merged.sort_unstable_by_key(|(order, _)| *order);
    match merged.as_slice() {
        [] => None,
        [(_, span)] => Some(Selected::One(*span)),
        several => Some(Selected::Many(several.iter().map(|(_, span)| *span).collect())),
    }
}

/// Bytes of a blob, half open: `start <= byte < end`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Span {
    /// First byte.
    pub start: u64,
    /// One past the last byte; `start < end` in what [`RangeHeader::within`] gives.
    pub end: u64,
}

impl Span {
    /// How many bytes.
    pub fn len(self) -> u64 {
        self.end - self.start
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// What a [`RangeHeader`] selects of one blob.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Selected {
    /// 200.
    Whole,
    /// 206 with `Content-Range`.
    One(Span),
    /// 206 with `multipart/byteranges`: two or more, disjoint and not touching, in the order they were asked.
    Many(Box<[Span]>),
}

impl Selected {
    /// The same in the order of the blob. A server should keep to the order that was asked, and no client may count on it
    /// (RFC 9110 §15.3.7.2): for where a part can't go out before what lies in front of it.
    pub fn in_order(mut self) -> Selected {
        if let Selected::Many(parts) = &mut self {
            parts.sort_unstable_by_key(|part| part.start);
        }
        self
    }

    /// The one part that it is, of a blob of this length. `None`: it is several.
    pub fn span(&self, size_bytes: u64) -> Option<Span> {
        match self {
            Selected::Whole => Some(Span { start: 0, end: size_bytes }),
            Selected::One(span) => Some(*span),
            Selected::Many(_) => None,
        }
    }
}

/// The value of a `Content-Range` in a reply: `bytes 0-99/2048`. The span must not be empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContentRange {
    /// What is sent.
    pub span: Span,
    /// Size of the whole blob.
    pub size_bytes: u64,
}

impl fmt::Display for ContentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}-{}/{}", self.span.start, self.span.end - 1, self.size_bytes)
    }
}

/// The `Content-Range` of an upload chunk (end-5): `0-99`, inclusive at both ends, `first <= last < u64::MAX`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ChunkRange {
    /// Offset of the first byte.
    pub first: u64,
    /// Offset of the last byte.
    pub last: u64,
}

impl ChunkRange {
    /// Errors: `BlobUploadInvalid` (400) when it is not `^[0-9]+-[0-9]+$`, is backwards, or cannot be an offset.
    pub fn parse(value: &[u8]) -> Result<ChunkRange, Problem> {
        match RangeSpec::parse(trim(value)) {
            Some(RangeSpec::Between { first, last }) if first <= last && last < u64::MAX => {
                Ok(ChunkRange { first, last })
            }
            Some(RangeSpec::Between { .. } | RangeSpec::From { .. } | RangeSpec::Suffix { .. }) | None => {
                Err(Problem::BlobUploadInvalid { why: "Content-Range of a chunk is first-last" })
            }
        }
    }

    /// How many bytes: `last - first + 1`.
    pub fn len_bytes(self) -> u64 {
        self.last - self.first + 1
    }
}

#[cfg(test)]
mod tests;
