//! The policy against a naive one of vectors, its bounds, and the rules that storage has for it.

use std::collections::HashSet;

use oci::Algorithm;
use proptest::prelude::*;

use super::*;

fn digest(number: u32) -> Digest {
    Digest::of(Algorithm::ALL[number as usize % 3], &number.to_le_bytes())
}

fn nobody(_: &Digest) -> bool {
    false
}

/// The whole of what a policy does, an entry a row and a list a vector.
#[derive(Default)]
struct Naive {
    small: Vec<Row>,
    main: Vec<Row>,
    filling: Vec<Row>,
    evicting: Vec<Row>,
    /// Who was taken leaves a gap.
    ghost: Vec<Option<u32>>,
    max_bytes: u64,
}

#[derive(Clone, Copy)]
struct Row {
    number: u32,
    size: u64,
    uses: u8,
}

fn take(list: &mut Vec<Row>, number: u32) -> Option<Row> {
    let at = list.iter().position(|row| row.number == number)?;
    Some(list.remove(at))
}

fn bytes(list: &[Row]) -> u64 {
    list.iter().map(|row| row.size).sum()
}

impl Naive {
    fn lists(&mut self) -> [&mut Vec<Row>; 4] {
        [&mut self.small, &mut self.main, &mut self.filling, &mut self.evicting]
    }

    fn has(&mut self, number: u32) -> bool {
        self.lists().into_iter().any(|list| list.iter().any(|row| row.number == number))
    }

    fn insert(&mut self, number: u32, size: u64) {
        let uses = take(&mut self.filling, number).map_or(0, |row| row.uses);
        let row = Row { number, size, uses };
        if self.take_ghost(number) { self.main.push(row) } else { self.small.push(row) }
    }

    fn victim(&mut self, busy: &[u32]) -> Option<u32> {
        let goes_first = |row: &Row| {
            let is_read = busy.contains(&row.number);
            row.size > self.max_bytes / 10 && row.uses < CACHE_PROMOTION_USES && !is_read
        };
        if let Some(number) = self.small.iter().find(|row| goes_first(row)).map(|row| row.number) {
            let row = take(&mut self.small, number).unwrap();
            self.remember(number);
            self.evicting.push(row);
            return Some(number);
        }
        let (mut small_left, mut main_left) = (self.small.len(), (self.small.len() + self.main.len()) * 4);
        let mut fallback = None;
        loop {
            let small = small_left > 0 && !self.small.is_empty();
            let main = main_left > 0 && !self.main.is_empty();
            let over = bytes(&self.small) + bytes(&self.filling) > self.max_bytes / 10;
            if small && (over || !main) {
                small_left -= 1;
                let mut row = self.small.remove(0);
                if row.uses >= CACHE_PROMOTION_USES {
                    row.uses = 0;
                    self.main.push(row);
                } else if busy.contains(&row.number) {
                    fallback = fallback.or(Some(row.number));
                    self.small.push(row);
                } else {
                    self.remember(row.number);
                    self.evicting.push(Row { uses: 0, ..row });
                    return Some(row.number);
                }
            } else if main {
                main_left -= 1;
                let mut row = self.main.remove(0);
                if row.uses > 0 {
                    row.uses -= 1;
                    self.main.push(row);
                } else if busy.contains(&row.number) {
                    fallback = fallback.or(Some(row.number));
                    self.main.push(row);
                } else {
                    self.evicting.push(row);
                    return Some(row.number);
                }
            } else {
                break;
            }
        }
        let number = fallback?;
        let row = match take(&mut self.small, number) {
            Some(row) => {
                self.remember(number);
                row
            }
            None => take(&mut self.main, number).unwrap(),
        };
        self.evicting.push(Row { uses: 0, ..row });
        Some(number)
    }

    fn remember(&mut self, number: u32) {
        self.take_ghost(number);
        self.ghost.push(Some(number));
        let most = self.main.len().max(CACHE_GHOST_MIN);
        self.ghost.drain(..self.ghost.len().saturating_sub(most));
    }

    fn take_ghost(&mut self, number: u32) -> bool {
        let place = self.ghost.iter_mut().find(|other| **other == Some(number));
        place.is_some_and(|place| place.take().is_some())
    }
}

#[derive(Clone, Debug)]
enum Step {
    Fill(u32, u64),
    Insert(u32, u64),
    Touch(u32),
    Remove(u32),
    Spare(u32),
    Victim(Vec<u32>),
}

fn any_step() -> impl Strategy<Value = Step> {
    let (number, size) = (0_u32..30, 0_u64..60);
    prop_oneof![
        2 => (number.clone(), size.clone()).prop_map(|(number, size)| Step::Fill(number, size)),
        8 => (number.clone(), size).prop_map(|(number, size)| Step::Insert(number, size)),
        5 => number.clone().prop_map(Step::Touch),
        2 => number.clone().prop_map(Step::Remove),
        1 => number.clone().prop_map(Step::Spare),
        6 => proptest::collection::vec(number, 0..12).prop_map(Step::Victim),
    ]
}

proptest! {
    #[test]
    fn it_does_what_the_naive_one_does(steps in proptest::collection::vec(any_step(), 1..300)) {
        const MAX_BYTES: u64 = 300;
        let mut policy = Policy::new(MAX_BYTES);
        let mut naive = Naive { max_bytes: MAX_BYTES, ..Naive::default() };
        for step in steps {
            match step {
                Step::Fill(number, size) => {
                    let result = policy.fill(&digest(number), size);
                    if let Some(row) = naive.filling.iter_mut().find(|row| row.number == number) {
                        row.size = size;
                        prop_assert_eq!(result, Ok(()));
                    } else if naive.has(number) {
                        prop_assert_eq!(result, Err(Refused::Known));
                    } else {
                        naive.filling.push(Row { number, size, uses: 0 });
                        prop_assert_eq!(result, Ok(()));
                    }
                }
                Step::Insert(number, size) => {
                    let filling = naive.filling.iter().any(|row| row.number == number);
                    let result = policy.insert(&digest(number), size, 9, None);
                    if filling || !naive.has(number) {
                        naive.insert(number, size);
                        let small = naive.small.iter().any(|row| row.number == number);
                        prop_assert_eq!(result, Ok(if small { Place::Small } else { Place::Main }));
                    } else {
                        prop_assert_eq!(result, Err(Refused::Known));
                    }
                }
                Step::Touch(number) => {
                    prop_assert_eq!(policy.touch(&digest(number)), naive.has(number));
                    let rows = naive.lists().into_iter().flatten().filter(|row| row.number == number);
                    rows.for_each(|row| row.uses = (row.uses + 1).min(CACHE_USES_MAX));
                }
                Step::Remove(number) => {
                    let had = naive.lists().into_iter().find_map(|list| take(list, number));
                    let gone = policy.remove(&digest(number)).map(|item| item.size_bytes);
                    prop_assert_eq!(gone, had.map(|row| row.size));
                }
                Step::Spare(number) => {
                    policy.spare(&digest(number));
                    let spared = take(&mut naive.evicting, number);
                    naive.small.extend(spared);
                }
                Step::Victim(busy) => {
                    let digests: HashSet<Digest> = busy.iter().map(|number| digest(*number)).collect();
                    let victim = policy.victim(&mut |digest| digests.contains(digest));
                    let expect = naive.victim(&busy).map(digest);
                    prop_assert_eq!(victim.map(|victim| victim.digest), expect);
                }
            }
            let [small, main, filling, evicting] = naive.lists().map(|list| list.clone());
            let lists = [(Place::Small, small), (Place::Main, main), (Place::Filling, filling), (Place::Evicting, evicting)];
            let mut whole = 0;
            for (place, rows) in lists {
                let told: Vec<(Digest, u64, u8)> =
                    policy.items(place).map(|item| (item.digest, item.size_bytes, item.uses)).collect();
                let expect: Vec<(Digest, u64, u8)> =
                    rows.iter().map(|row| (digest(row.number), row.size, row.uses)).collect();
                // A fill that gets another length keeps its turn, and nobody asks for the order of fills.
                prop_assert_eq!(told, expect);
                whole += if place == Place::Filling { 0 } else { bytes(&rows) };
            }
            prop_assert_eq!(policy.cached_bytes(), whole);
        }
    }
}

#[test]
fn what_came_once_goes_and_what_comes_back_stays() {
    let mut policy = Policy::new(100);
    assert_eq!(policy.insert(&digest(1), 10, 0, None), Ok(Place::Small));
    assert_eq!(policy.insert(&digest(2), 10, 0, None), Ok(Place::Small));
    assert!(policy.touch(&digest(2)));
    let victim = policy.victim(&mut nobody).unwrap();
    assert_eq!(victim, Victim { digest: digest(1), size_bytes: 10 });
    assert_eq!(policy.get(&digest(1)).unwrap().place, Place::Evicting);
    assert_eq!(policy.insert(&digest(1), 10, 0, None), Err(Refused::Known), "its name may still be there");
    policy.remove(&digest(1)).unwrap();
    assert_eq!(policy.insert(&digest(1), 10, 0, None), Ok(Place::Main), "the ghost knew it");
    assert_eq!(policy.insert(&digest(3), 10, 0, None), Ok(Place::Small));
}

#[test]
fn the_ghost_has_as_many_as_main() {
    let mut policy = Policy::new(10_000);
    for number in 0..50 {
        policy.insert(&digest(number), 100, 0, None).unwrap();
        policy.touch(&digest(number));
    }
    for number in 50..500 {
        policy.insert(&digest(number), 100, 0, None).unwrap();
        if policy.cached_bytes() > 10_000 {
            let victim = policy.victim(&mut nobody).unwrap();
            policy.remove(&victim.digest).unwrap();
            assert!(policy.ghost.len() <= policy.list_len(Place::Main).max(CACHE_GHOST_MIN));
        }
    }
    assert_eq!(policy.list_len(Place::Main), 50);
    assert_eq!(policy.ghost.len(), 50);
}

#[test]
fn a_running_fill_takes_from_the_small_queue_first_and_then_from_main() {
    let mut policy = Policy::new(1000);
    for number in 0..17 {
        let (digest, place) = (digest(number), Place::Main);
        let item = Item { digest, size_bytes: 50, came_unix: 0, upstream: None, place, uses: 1 };
        policy.restore(&item).unwrap();
    }
    policy.insert(&digest(20), 50, 0, None).unwrap();
    policy.insert(&digest(21), 50, 0, None).unwrap();
    policy.fill(&digest(22), 300).unwrap();
    let next = |policy: &mut Policy| {
        let digest = policy.victim(&mut nobody).unwrap().digest;
        policy.remove(&digest).unwrap().digest
    };
    assert_eq!([next(&mut policy), next(&mut policy)], [digest(20), digest(21)]);
    assert_eq!(next(&mut policy), digest(0), "main's turn");
    while let Some(victim) = policy.victim(&mut nobody) {
        policy.remove(&victim.digest).unwrap();
    }
    assert_eq!(policy.len(), 1, "the fill itself never goes");
    assert_eq!(policy.get(&digest(22)).unwrap().place, Place::Filling);
}

#[test]
fn a_large_file_that_nobody_reads_and_that_was_of_no_other_use_goes_first() {
    for (uses, is_read, first) in [(0, false, 9), (1, false, 0), (0, true, 0)] {
        let mut policy = Policy::new(1000);
        (0..5).for_each(|number| assert!(policy.insert(&digest(number), 50, 0, None).is_ok()));
        policy.insert(&digest(9), 101, 0, None).unwrap();
        policy.insert(&digest(8), 100, 0, None).unwrap();
        (0..uses).for_each(|_| assert!(policy.touch(&digest(9))));
        let mut is_busy = |other: &Digest| is_read && *other == digest(9);
        assert_eq!(policy.victim(&mut is_busy).unwrap().digest, digest(first));
    }
}

#[test]
fn what_is_large_is_bounded_and_keeps_up_with_the_budget() {
    let many = 3 * CACHE_LARGE_MAX as u32;
    let mut policy = Policy::new(1000);
    (0..many).for_each(|number| assert!(policy.insert(&digest(number), 101, 0, None).is_ok()));
    assert_eq!(policy.large.len(), CACHE_LARGE_MAX);
    policy.set_max_bytes(1010);
    policy.insert(&digest(many), 102, 0, None).unwrap();
    assert_eq!(policy.large.len(), 1, "the others are no longer");
    assert_eq!(policy.victim(&mut nobody).unwrap().digest, digest(many));
}

/// As an index is read: what the budget is is told when all is there.
#[test]
fn what_is_large_is_found_when_the_budget_is_told() {
    let mut policy = Policy::new(0);
    for number in 0..2 * CACHE_LARGE_MAX as u32 {
        let (size_bytes, place) = (if number == 99 { 101 } else { 1 }, Place::Small);
        let item = Item { digest: digest(number), size_bytes, came_unix: 0, upstream: None, place, uses: 0 };
        policy.restore(&item).unwrap();
    }
    assert!(policy.large.is_empty());
    policy.set_max_bytes(1000);
    assert_eq!(policy.victim(&mut nobody).unwrap().digest, digest(99));
}

#[test]
fn what_is_read_goes_last_and_what_is_kept_never() {
    let mut policy = Policy::new(100);
    (0..4).for_each(|number| assert!(policy.insert(&digest(number), 10, 0, None).is_ok()));
    assert!(policy.keep(&digest(0), true) && policy.keep(&digest(1), true));
    let mut is_busy = |other: &Digest| *other == digest(2);
    assert_eq!(policy.victim(&mut is_busy).unwrap().digest, digest(3));
    assert_eq!(policy.victim(&mut is_busy).unwrap().digest, digest(2), "nothing else is left");
    assert_eq!(policy.victim(&mut is_busy), None);
    policy.spare(&digest(2));
    assert_eq!(policy.victim(&mut nobody).unwrap().digest, digest(2));
    assert!(
        policy.keep(&digest(0), false) && !policy.keep(&digest(2), true) && !policy.keep(&digest(7), true)
    );
    assert_eq!(policy.victim(&mut nobody).unwrap().digest, digest(0));
    assert_eq!(policy.victim(&mut nobody), None);
}

#[test]
fn a_choice_looks_at_a_bounded_number_of_entries() {
    let many = CACHE_VICTIM_LOOKS_MAX as u32 + 10;
    // The small queue is always the first to give some up.
    let mut policy = Policy::new(10);
    for number in 0..many {
        policy.insert(&digest(number), 1, 0, None).unwrap();
    }
    let mut asked = 0;
    let victim = policy.victim(&mut |_| {
        asked += 1;
        true
    });
    assert!(victim.is_some());
    assert_eq!(asked, CACHE_VICTIM_LOOKS_MAX);
    // All of use, again and again: after half of the looks that no longer helps.
    for _ in 0..CACHE_USES_MAX {
        (0..many).for_each(|number| assert!(policy.touch(&digest(number))));
    }
    let before = policy.list_len(Place::Small);
    assert!(policy.victim(&mut nobody).is_some());
    assert_eq!(before - policy.list_len(Place::Small), CACHE_VICTIM_LOOKS_MAX / 2 + 1);
}

#[test]
fn sums_never_overflow() {
    let mut policy = Policy::new(u64::MAX);
    policy.insert(&digest(1), u64::MAX - 5, 0, None).unwrap();
    assert_eq!(policy.insert(&digest(2), 6, 0, None), Err(Refused::Full));
    policy.fill(&digest(2), 5).unwrap();
    assert_eq!(policy.insert(&digest(2), 6, 0, None), Err(Refused::Full));
    assert_eq!(policy.insert(&digest(2), 4, 0, None), Ok(Place::Small));
    assert_eq!(policy.cached_bytes(), u64::MAX - 1);
}

#[test]
fn pages_are_all_entries_and_each_looks_at_few() {
    let mut policy = Policy::new(u64::MAX);
    let count = 2 * CACHE_PAGE_LOOKS_MAX as u32 + 77;
    for number in 0..count {
        policy.insert(&digest(number), 1, 1, None).unwrap();
    }
    // Most of the first numbers are free.
    for number in 0..CACHE_PAGE_LOOKS_MAX as u32 + 10 {
        policy.remove(&digest(number)).unwrap();
    }
    let (items, next) = policy.page(0, 10);
    assert_eq!((items.len(), next), (0, Some(CACHE_PAGE_LOOKS_MAX)), "it does not go on until it has some");
    let mut seen = HashSet::new();
    let mut after = Some(0);
    while let Some(at) = after {
        let (items, next) = policy.page(at, 10);
        assert!(items.len() <= 10 && next.is_none_or(|next| next > at && next - at <= CACHE_PAGE_LOOKS_MAX));
        assert!(items.iter().all(|item| seen.insert(item.digest)), "none twice");
        // What comes meanwhile may be told or not; what is here is.
        policy.insert(&digest(1_000_000 + at as u32), 1, 1, None).unwrap();
        after = next;
    }
    assert!((CACHE_PAGE_LOOKS_MAX as u32 + 10..count).all(|number| seen.contains(&digest(number))));
    assert_eq!(policy.page(u64::MAX, 10), (Vec::new(), None));
}
