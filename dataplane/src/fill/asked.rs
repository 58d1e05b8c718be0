//! What an answer is to have of a blob, and which of its parts may go ahead.

use std::ops::Range;

use oci::{Selected, Span};

use crate::limits::{
    FILL_CHUNK_BYTES, FILL_EXTENT_CHUNKS_MAX, FILL_NEAR_CHUNKS, HELD_BACK_BYTES, PROBE_BYTES,
};

/// Of a blob whose length is known.
pub(super) struct Asked {
    /// Several, in the order in which they are sent; none: it is one.
    parts: Box<[Span]>,
    reach: Reach,
    /// So little that no whole fill is begun for it.
    pub(super) is_probe: bool,
}

/// How far from what is there a part has to be to go ahead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reach {
    /// However near it is.
    Any,
    /// Further than the run will soon be.
    Far,
    /// It never does: the answer begins and ends as the blob does, so it is held back until all is verified.
    None,
}

/// A request takes along no more; who asks for very many parts in no order has some of them by requests of their own.
const CHUNK_RANGES_MAX: usize = 64;

impl Asked {
    pub(super) fn of(selected: &Selected, size_bytes: u64) -> Asked {
        let whole = Span { start: 0, end: size_bytes };
        let one = selected.span(size_bytes);
        let parts = match selected {
            Selected::Many(parts) => parts.clone(),
            Selected::Whole | Selected::One(_) => Box::default(),
        };
        let all = || one.iter().chain(&parts);
        let len: u64 = all().map(|part| part.len()).sum();
        let is_probe = len < PROBE_BYTES;
        let has_both_ends = all().any(|part| part.start == 0) && all().any(|part| part.end == size_bytes);
        let reach = match one {
            Some(one) if one == whole => Reach::None,
            Some(_) if is_probe => Reach::Any,
            Some(_) => Reach::Far,
            None if has_both_ends && (!is_probe || size_bytes <= HELD_BACK_BYTES) => Reach::None,
            None => Reach::Any,
        };
        Asked { parts, reach, is_probe }
    }

    /// Whether a part that begins at `start` goes ahead of a fill that has come to `frontier`.
    pub(super) fn goes_ahead(&self, start: u64, frontier: u64) -> bool {
        match self.reach {
            Reach::Any => true,
            Reach::Far => start >= frontier + FILL_NEAR_CHUNKS * FILL_CHUNK_BYTES,
            Reach::None => false,
        }
    }

    /// Whether it begins and ends as the blob does, and is no probe: its end waits until all of the blob is verified.
    pub(super) fn is_held(&self) -> bool {
        self.reach == Reach::None
    }

    /// Whether it is one part, or the whole.
    pub(super) fn is_one(&self) -> bool {
        self.parts.is_empty()
    }

    /// The chunks of what is left of a part, and of the parts behind it that one request may bring with its first one.
    pub(super) fn chunks(&self, left: Span) -> Vec<Range<u64>> {
        let chunks = |span: &Span| span.start / FILL_CHUNK_BYTES..span.end.div_ceil(FILL_CHUNK_BYTES);
        let first = chunks(&left);
        let near = first.start.saturating_sub(FILL_NEAR_CHUNKS)..first.start + FILL_EXTENT_CHUNKS_MAX;
        let behind = self.parts.iter().skip_while(|part| part.end != left.end).skip(1).map(chunks);
        let mut all = vec![first];
        for next in behind.filter(|next| next.start < near.end && next.end > near.start) {
            if let Some(last) = all.last_mut().filter(|last| (last.start..=last.end).contains(&next.start)) {
                last.end = last.end.max(next.end);
            } else if all.len() < CHUNK_RANGES_MAX {
                all.push(next);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE_BYTES: u64 = 64 << 20;
    const NEAR: u64 = FILL_NEAR_CHUNKS * FILL_CHUNK_BYTES;

    fn of(parts: &[(u64, u64)], size_bytes: u64) -> Asked {
        let spans: Vec<Span> = parts.iter().map(|(start, end)| Span { start: *start, end: *end }).collect();
        let selected = match spans.as_slice() {
            [one] => Selected::One(*one),
            _ => Selected::Many(spans.into()),
        };
        Asked::of(&selected, size_bytes)
    }

    #[test]
    fn one_part_goes_ahead_if_it_is_far_or_a_probe() {
        let long = of(&[(NEAR, NEAR + PROBE_BYTES)], SIZE_BYTES);
        assert!(long.goes_ahead(NEAR, 0) && !long.goes_ahead(NEAR, 1) && !long.is_probe);
        let probe = of(&[(0, PROBE_BYTES - 1)], SIZE_BYTES);
        assert!(probe.goes_ahead(0, 0) && probe.is_probe);
    }

    #[test]
    fn several_parts_go_ahead_unless_they_begin_and_end_as_the_blob_does() {
        assert!(of(&[(0, 100_000), (NEAR, NEAR + 100_000)], SIZE_BYTES).goes_ahead(0, 0));
        let ends = [(0, 100_000), (SIZE_BYTES - 100_000, SIZE_BYTES)];
        let ends = of(&ends, SIZE_BYTES);
        assert!(!ends.goes_ahead(SIZE_BYTES - 100_000, 0) && ends.is_held());
        let probe = of(&[(0, 100), (SIZE_BYTES - 1000, SIZE_BYTES)], SIZE_BYTES);
        assert!(probe.goes_ahead(0, 0) && probe.is_probe);
        // What could be held back whole is.
        assert!(!of(&[(0, 1000), (1001, 3000)], 3000).goes_ahead(0, 0));
    }

    #[test]
    fn the_whole_never_goes_ahead_however_small_it_is() {
        for selected in [Selected::Whole, Selected::One(Span { start: 0, end: 100 })] {
            let whole = Asked::of(&selected, 100);
            assert!(whole.is_held() && !whole.goes_ahead(0, 0));
        }
    }

    #[test]
    fn the_chunks_are_those_of_what_is_left_and_of_the_parts_behind() {
        let chunk = FILL_CHUNK_BYTES;
        let asked =
            of(&[(9 * chunk, 9 * chunk + 1), (2 * chunk, 4 * chunk), (6 * chunk, 7 * chunk)], SIZE_BYTES);
        let left = Span { start: 3 * chunk + 5, end: 4 * chunk };
        assert_eq!(asked.chunks(left), [3..4, 6..7]);
        let far = FILL_EXTENT_CHUNKS_MAX;
        let many: Vec<(u64, u64)> = (0..500)
            .map(|part| (2 * part * chunk, 2 * part * chunk + 1))
            .chain([(chunk, chunk + 1)])
            .collect();
        let many = of(&many, 1 << 40).chunks(Span { start: 0, end: 1 });
        assert_eq!(many.len() as u64, far / 2 + 1, "no more than one request brings");
        let joined: Vec<(u64, u64)> = (0..500).map(|part| (part * 1000, part * 1000 + 900)).collect();
        let joined = of(&joined, 1 << 40).chunks(Span { start: 0, end: 900 });
        assert_eq!(joined.as_slice(), std::slice::from_ref(&(0..2)));
        let mixed: Vec<(u64, u64)> = (0..500)
            .map(|part| ((part * 7 % 60) * chunk + part, (part * 7 % 60) * chunk + part + 1))
            .collect();
        assert!(of(&mixed, 1 << 40).chunks(Span { start: 0, end: 1 }).len() <= CHUNK_RANGES_MAX);
        let one = of(&[(chunk, 3 * chunk + 1)], SIZE_BYTES);
        assert_eq!(
            one.chunks(Span { start: chunk, end: 3 * chunk + 1 }).as_slice(),
            std::slice::from_ref(&(1..4))
        );
    }
}
