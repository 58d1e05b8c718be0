//! The index through its bytes: what is written is read, what is cut or changed yields what is whole before it, and a
//! rebuilding takes in what is not home.

use std::collections::BTreeMap;

use oci::Algorithm;
use proptest::prelude::*;

use super::*;
use crate::cache::frames::tests::old_file;

const MAX_BYTES: u64 = 1 << 40;

fn digest(number: u32) -> Digest {
    Digest::of(Algorithm::ALL[number as usize % 3], &number.to_le_bytes())
}

/// What a disk would have.
#[derive(Clone, Default)]
struct Files {
    snapshot: Option<Vec<u8>>,
    journal: Option<Vec<u8>>,
}

impl Files {
    fn write(&mut self, index: &mut Index) {
        if index.wants_snapshot() {
            let Unwritten::Snapshot { generation, bytes } = index.snapshot() else { panic!("it is one") };
            self.snapshot = Some(bytes);
            let header = Header { kind: Kind::Journal, generation, records: 0 };
            push_header(self.journal.insert(Vec::new()), &header);
        } else {
            let journal = self.journal.as_mut().expect("there is one with the first snapshot");
            journal.append(&mut index.buffer);
        }
    }

    fn read(&self) -> (Index, Loaded) {
        Index::read(self.snapshot.as_deref(), self.journal.as_deref(), MAX_BYTES)
    }
}

/// One of some upstreams, or none.
fn upstream(number: u32) -> Option<Mark> {
    number
        .checked_rem(4)
        .filter(|upstream| *upstream > 0)
        .map(|upstream| Mark::of(&format!("{upstream}.test")))
}

/// All that a restart should know.
fn told(index: &Index) -> BTreeMap<Digest, (u64, u32, Option<Mark>, bool)> {
    let places = [Place::Small, Place::Main, Place::Kept, Place::Evicting];
    let items = places.into_iter().flat_map(|place| index.policy.items(place));
    let of = |item: Item| (item.size_bytes, item.came_unix, item.upstream, item.place == Place::Kept);
    items.map(|item| (item.digest, of(item))).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Fill(u32),
    Insert(u32, u64),
    Remove(u32),
    Keep(u32, bool),
    Touch(u32),
    Victim,
    Write,
    Snapshot,
}

fn any_step() -> impl Strategy<Value = Step> {
    let number = 0_u32..20;
    prop_oneof![
        1 => number.clone().prop_map(Step::Fill),
        6 => (number.clone(), 0_u64..1 << 50).prop_map(|(number, size)| Step::Insert(number, size)),
        3 => number.clone().prop_map(Step::Remove),
        1 => (number.clone(), any::<bool>()).prop_map(|(number, keep)| Step::Keep(number, keep)),
        1 => number.prop_map(Step::Touch),
        1 => Just(Step::Victim),
        3 => Just(Step::Write),
        1 => Just(Step::Snapshot),
    ]
}

fn run(index: &mut Index, step: &Step, turn: u32) {
    // What a step can't do in this state it leaves undone.
    match step {
        Step::Fill(number) => _ = index.fill(&digest(*number), 5),
        Step::Insert(number, size) => _ = index.insert(&digest(*number), *size, turn, upstream(turn)),
        Step::Remove(number) => _ = index.remove(&digest(*number)),
        Step::Keep(number, keep) => _ = index.keep(&digest(*number), *keep),
        Step::Touch(number) => _ = index.touch(&digest(*number)),
        Step::Victim => _ = index.victim(&mut |_| false),
        Step::Snapshot => index.want_snapshot(),
        Step::Write => {}
    }
}

proptest! {
    #[test]
    fn after_any_cut_it_is_what_it_was_at_some_moment(steps in proptest::collection::vec(any_step(), 1..60)) {
        let mut index = Index::new(MAX_BYTES);
        let mut files = Files::default();
        files.write(&mut index);
        // What the index was after each step since the last snapshot.
        let mut moments = vec![told(&index)];
        for (turn, step) in steps.iter().enumerate() {
            run(&mut index, step, turn as u32);
            moments.push(told(&index));
            if let Step::Write | Step::Snapshot = step {
                if index.wants_snapshot() {
                    moments = vec![told(&index)];
                }
                files.write(&mut index);
                let (read, loaded) = files.read();
                prop_assert_eq!(loaded, Loaded::Whole);
                prop_assert_eq!(told(&read), told(&index));
                prop_assert!(!read.wants_snapshot());
            }
        }
        let journal = files.journal.clone().unwrap();
        for cut in 0..journal.len() {
            let files = Files { journal: Some(journal[..cut].to_vec()), ..files.clone() };
            let (read, loaded) = files.read();
            prop_assert_ne!(loaded, Loaded::Rebuild);
            prop_assert!(moments.contains(&told(&read)), "cut at {}", cut);
            prop_assert_eq!(read.wants_snapshot(), loaded != Loaded::Whole);
        }
    }

    #[test]
    fn a_changed_byte_yields_what_is_before_it_or_a_rebuilding(
        numbers in 1_u32..40,
        later in 0_u32..20,
        at in any::<prop::sample::Index>(),
        by in 1..=u8::MAX,
    ) {
        let (mut index, mut files) = (Index::new(MAX_BYTES), Files::default());
        (0..numbers).for_each(|number| assert!(index.insert(&digest(number), 7, number, None).is_ok()));
        files.write(&mut index);
        let mut moments = vec![told(&index)];
        for number in numbers..numbers + later {
            index.insert(&digest(number), 7, number, None).unwrap();
            moments.push(told(&index));
        }
        files.write(&mut index);
        let mut changed = files.clone();
        let snapshot = changed.snapshot.as_mut().unwrap();
        let place = at.index(snapshot.len());
        snapshot[place] ^= by;
        let (read, loaded) = changed.read();
        prop_assert_eq!((loaded, read.policy.len()), (Loaded::Rebuild, 0));
        prop_assert!(read.wants_snapshot() && read.generation >= 1, "not the journal's next time");

        let mut changed = files.clone();
        let journal = changed.journal.as_mut().unwrap();
        let place = at.index(journal.len());
        journal[place] ^= by;
        let (read, loaded) = changed.read();
        prop_assert!(matches!(loaded, Loaded::Cut { lost_bytes } if lost_bytes > 0), "{:?}", loaded);
        prop_assert!(moments.contains(&told(&read)));
    }
}

#[test]
fn order_and_uses_survive_in_a_snapshot() {
    let (mut index, mut files) = (Index::new(1000), Files::default());
    for number in 0..12 {
        index.insert(&digest(number), 60, number, None).unwrap();
        (0..number % 5).for_each(|_| assert!(index.touch(&digest(number))));
    }
    assert_eq!(index.victim(&mut |_| false).unwrap().digest, digest(0));
    assert!(index.keep(&digest(11), true));
    files.write(&mut index);
    let (mut read, loaded) = Index::read(files.snapshot.as_deref(), files.journal.as_deref(), 1000);
    assert_eq!(loaded, Loaded::Whole);
    for place in [Place::Main, Place::Kept] {
        assert!(read.policy.items(place).eq(index.policy.items(place)), "{place:?}");
    }
    assert_eq!(read.victim(&mut |_| false).unwrap().digest, digest(0), "it was about to go");
    loop {
        let victims = [read.victim(&mut |_| false), index.victim(&mut |_| false)];
        assert_eq!(victims[0], victims[1]);
        if victims[0].is_none() {
            break;
        }
    }
}

#[test]
fn an_old_journal_says_nothing_to_a_new_snapshot() {
    let (mut index, mut files) = (Index::new(MAX_BYTES), Files::default());
    files.write(&mut index);
    index.insert(&digest(1), 5, 5, None).unwrap();
    files.write(&mut index);
    let old = files.clone();
    index.remove(&digest(1)).unwrap();
    index.want_snapshot();
    files.write(&mut index);
    let between = Files { journal: old.journal.clone(), ..files.clone() };
    let (read, loaded) = between.read();
    assert_eq!((loaded, read.policy.len()), (Loaded::Whole, 0));
    assert!(read.wants_snapshot(), "the journal can't be gone on with");
    let restored = Files { journal: files.journal, snapshot: old.snapshot };
    let (read, loaded) = restored.read();
    assert_eq!((loaded, read.generation), (Loaded::Rebuild, 2), "a snapshot older than its journal");
}

#[test]
fn files_of_the_version_before_are_read_whole_and_written_anew() {
    let put = |number: u32, place| {
        Record::Put(Item {
            digest: digest(number),
            size_bytes: 10,
            came_unix: number,
            upstream: None,
            place,
            uses: 1,
        })
    };
    let header = |kind, records| Header { kind, generation: 4, records };
    let all = [put(1, Place::Small), put(2, Place::Main), put(3, Place::Kept)];
    let mut files = Files {
        snapshot: Some(old_file(&header(Kind::Snapshot, 3), &all)),
        journal: Some(old_file(&header(Kind::Journal, 0), &[Record::Gone(digest(1)), put(5, Place::Small)])),
    };
    let (mut index, loaded) = files.read();
    assert_eq!(loaded, Loaded::Whole);
    let known = told(&index);
    let expect = [(2, false), (3, true), (5, false)];
    assert!(
        known
            .iter()
            .eq(&BTreeMap::from(expect.map(|(number, kept)| (digest(number), (10, number, None, kept)))))
    );
    assert!(index.wants_snapshot(), "no journal has records of two versions");
    files.write(&mut index);
    assert_eq!(index.insert(&digest(6), 10, 6, upstream(6)), Ok(Place::Small));
    files.write(&mut index);
    let (read, loaded) = files.read();
    assert_eq!((loaded, told(&read)), (Loaded::Whole, told(&index)));
    assert!(!read.wants_snapshot());
    assert_eq!(read.get(&digest(6)).unwrap().upstream, Some(Mark::of("2.test")));

    // Cut in its middle it is as good as any that is cut.
    let journal = old_file(&header(Kind::Journal, 0), &[put(5, Place::Small), put(6, Place::Small)]);
    files = Files {
        snapshot: Some(old_file(&header(Kind::Snapshot, 3), &all)),
        journal: Some(journal[..journal.len() - 3].to_vec()),
    };
    let (read, loaded) = files.read();
    assert!(matches!(loaded, Loaded::Cut { lost_bytes: 50 }), "{loaded:?}");
    assert_eq!(read.policy.len(), 4);
}

#[test]
fn what_is_missing() {
    let (mut index, mut files) = (Index::new(MAX_BYTES), Files::default());
    assert_eq!(files.read().1, Loaded::Fresh);
    index.insert(&digest(1), 5, 5, None).unwrap();
    files.write(&mut index);
    assert_eq!(Files { snapshot: None, ..files.clone() }.read().1, Loaded::Rebuild);
    let (read, loaded) = Files { journal: None, ..files.clone() }.read();
    assert_eq!((loaded, read.policy.len()), (Loaded::Cut { lost_bytes: 0 }, 1));
    let twice = Files { snapshot: files.snapshot.map(|snapshot| snapshot.repeat(2)), ..files };
    assert_eq!(twice.read().1, Loaded::Rebuild);
}

#[test]
fn a_buffer_that_is_full_makes_the_next_write_a_snapshot() {
    let (mut index, mut files) = (Index::new(MAX_BYTES), Files::default());
    files.write(&mut index);
    let mut number = 0;
    while !index.wants_snapshot() {
        index.insert(&digest(number), 1, 0, None).unwrap();
        assert!(index.buffer.len() <= CACHE_JOURNAL_BUFFER_BYTES_MAX);
        number += 1;
    }
    assert!(number > 1000, "{number}");
    let full = index.buffer.len();
    index.remove(&digest(0)).unwrap();
    assert_eq!(index.buffer.len(), full, "it takes no more");
    files.write(&mut index);
    let (read, loaded) = files.read();
    assert_eq!((loaded, told(&read)), (Loaded::Whole, told(&index)));
}

#[test]
fn what_was_taken_in_is_brought_into_the_order_of_time_and_written() {
    let mut index = Index::new(MAX_BYTES);
    index.insert(&digest(3), 1, 9000, None).unwrap();
    let found = |number: u32| Found {
        digest: digest(number),
        size_bytes: number.into(),
        came_unix: number.wrapping_mul(7919) % 5000,
    };
    for number in (0..500).chain([4, 7]) {
        let is_new = number != 3 && index.get(&digest(number)).is_none();
        assert_eq!(index.adopt(&found(number)).is_ok(), is_new);
    }
    index.wants_snapshot = false;
    index.rebuilt();
    assert!(index.wants_snapshot());
    let came: Vec<u32> = index.policy.items(Place::Main).map(|item| item.came_unix).collect();
    assert!(came.is_sorted() && came.len() == 499);
    assert!(index.policy.items(Place::Main).all(|item| item.upstream.is_none()), "no file tells it");
    assert_eq!(index.get(&digest(3)).unwrap().came_unix, 9000, "what it knew it knows better");
}
