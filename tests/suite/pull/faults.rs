//! Whatever an upstream does: no complete wrong body, nothing wrong kept, no credential elsewhere, the right status in
//! time, and all well once the upstream is. Each fault meets a blob that is not here, one that is here in part, and one
//! that is here; several at once, from an upstream each, with every timeout a hundredth of its default. What they have
//! left is read once more by another process that can ask nobody.

use std::{collections::VecDeque, io, net::TcpListener, sync::Mutex, thread, time::Instant};

use crate::harness::{Launch, Leg, Server, TempDir, legs, say};

use super::{
    cases::{self, Case},
    rig::{NO_ANSWER, assert_store_is_right, mirror},
    times::{LEG_TIME_MAX, SLOWER, TRIED_AGAIN_PERCENT_MAX},
    trial::{Shown, State, Trial},
};

/// Faults that are tried at the same time: more of them would be slower than the timeouts on a small machine.
const AT_ONCE: usize = 6;

fn launch(leg: Leg, trials: &[Trial], authorities: &TempDir) -> Launch {
    let config: String = trials.iter().map(|trial| trial.table(authorities)).collect();
    let launch = mirror(leg, &config);
    [
        NO_ANSWER,
        "an upstream gave other bytes",
        "the rest of an upstream's blob does not come",
        "the upstream tells another length than before",
        "an upstream names a realm that is not its own",
        "credentials were rejected",
        "\"message\":\"refused\"",
        "\"message\":\"the upstream's ",
    ]
    .into_iter()
    .fold(launch, |launch, text| launch.expects_log(text))
}

/// Does it with each of them, so many at a time.
fn with_each<T: Send>(trials: &[&Trial], at_once: usize, one: impl Fn(&Trial) -> T + Sync) -> Vec<T> {
    let queue = Mutex::new(trials.iter().enumerate().collect::<VecDeque<_>>());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some((number, trial)) = { queue.lock().unwrap().pop_front() } {
                    let result = one(trial);
                    done.lock().unwrap().push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

type Tries = Vec<(Case, State)>;

fn tries(cases: Vec<Case>) -> Tries {
    let states = |case: &Case| match case.asks.is_blob() {
        true => &[State::Cold, State::Partial, State::Hot][..],
        false => &[State::Cold, State::Hot],
    };
    let each = |case: Case| states(&case).iter().map(|state| (case.clone(), *state)).collect::<Tries>();
    cases.into_iter().flat_map(each).collect()
}

/// All of these, and a restart at their end. Gives what they have shown, and those that were wrong.
fn try_all(leg: Leg, tries: Tries, at_once: usize, slower: u32) -> (Vec<Shown>, Tries) {
    let numbered = tries.into_iter().enumerate();
    let trials: Vec<Trial> =
        numbered.map(|(number, (case, state))| Trial::new(number, case, state, slower)).collect();
    let authorities = TempDir::new("authorities");
    let server = launch(leg, &trials, &authorities).start();
    let shown = with_each(&trials.iter().collect::<Vec<_>>(), at_once, |trial| trial.run(&server));
    let is_wrong = |(_, shown): &(&Trial, &Shown)| shown.wrong.is_some();
    let (wrong, right): (Vec<_>, Vec<_>) = trials.iter().zip(&shown).partition(is_wrong);
    let right: Vec<&Trial> = right.into_iter().map(|(trial, _)| trial).collect();
    // What waits for its name gets it with a push.
    server.client().push_blob("mine/nudge", b"nudge");
    with_each(&right, at_once, |trial| trial.settle(&server));
    assert_store_is_right(&server);
    trials.iter().for_each(Trial::refuse);
    let server: Server = server.restart();
    with_each(&right, at_once, |trial| trial.assert_is_kept(&server));
    let wrong = wrong.into_iter().map(|(trial, _)| (trial.case.clone(), trial.state)).collect();
    (shown, wrong)
}

fn wrongs(shown: &[Shown]) -> String {
    shown.iter().filter_map(|shown| shown.wrong.as_deref()).collect::<Vec<_>>().join("\n")
}

legs! {
    alone:

    /// The matrix.
    fn every_fault_leaves_nothing_wrong(leg) {
        // A private address that no upstream is allowed.
        let shut = TcpListener::bind("127.0.0.2:0").expect("all of 127.0.0.0/8 is ours");
        shut.set_nonblocking(true).expect("a socket");
        let begun = Instant::now();
        let groups = cases::all(shut.local_addr().expect("it is bound"));
        let (mut shown, mut again) = (Vec::new(), Vec::new());
        for cases in groups {
            let (more, wrong) = try_all(leg, tries(cases), AT_ONCE, 1);
            shown.extend(more);
            again.extend(wrong);
        }
        if !again.is_empty() {
            say(&format!("faults: tried again:\n{}", wrongs(&shown)));
            assert!(again.len() * 100 <= shown.len() * TRIED_AGAIN_PERCENT_MAX, "{} are wrong", again.len());
            shown.retain(|shown| shown.wrong.is_none());
            let (more, wrong) = try_all(leg, again, 1, SLOWER);
            assert!(wrong.is_empty(), "wrong twice:\n{}", wrongs(&more));
            shown.extend(more);
        }
        let took = begun.elapsed();
        let came = shut.accept().map(drop).map_err(|error| error.kind());
        assert_eq!(came, Err(io::ErrorKind::WouldBlock), "somebody was sent where nobody may go");
        let latest = |which: usize| {
            let latest = shown.iter().max_by_key(|shown| shown.beyond[which]).expect("there are some");
            format!("{} ms ({})", latest.beyond[which].as_millis(), latest.name)
        };
        say(&format!(
            "faults: {} trials on {} in {:.1} s; at the most {} beyond the timeouts, {} beyond the pause after it",
            shown.len(),
            leg.name(),
            took.as_secs_f64(),
            latest(0),
            latest(1),
        ));
        assert!(took < LEG_TIME_MAX, "{took:?}");
    }
}
