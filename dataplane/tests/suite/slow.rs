//! Who takes nothing, or leaves, costs nobody anything, neither the fill nor who reads on; and how far the slowest is
//! behind is told. Nothing is timed: the origin sends its next step only when who reads on has all that came before, so
//! that anything that waited for the others would wait for ever. Storage rules: "Fills".

use std::{collections::VecDeque, sync::mpsc};

use dataplane::{limits::HELD_BACK_BYTES, testing::Driver};
use oci::Digest;

use crate::{
    fills::{Fetches, MIB, Piece, Played, content, fetched, play, sample, target},
    plane::{Client, Plane},
    rig::{legs, sha256, until},
};

/// What the two ends of a socket on the loopback hold at most for a client that takes nothing.
const SOCKET_BYTES_MAX: usize = 8 * MIB;
const STEPS: usize = 24;
const IDLE: usize = 8;

/// An origin that sends the blob in steps of a MiB, each when the one before is let go.
struct Stepwise {
    plane: Plane,
    blob: Vec<u8>,
    digest: Digest,
    fetches: Fetches,
    gates: VecDeque<mpsc::Sender<()>>,
}

impl Stepwise {
    fn start(leg: Driver, steps: usize) -> Stepwise {
        let mut plane = Plane::start(leg);
        let blob = content(steps * MIB);
        let (mut gates, mut pieces) = (VecDeque::new(), Vec::new());
        for step in blob.chunks(MIB) {
            let (open, gate) = mpsc::channel();
            gates.push_back(open);
            pieces.extend([Piece::Bytes(step.to_vec()), Piece::Gate(gate)]);
        }
        // Behind the last step it ends by itself.
        gates.pop_back();
        let (mut pieces, size_bytes) = (Some(pieces), Some(blob.len() as u64));
        let fetches = play(&mut plane, Some(blob.len()), move |_, start, _| {
            let pieces = pieces.take().expect("it is asked once");
            Ok(Some(Played { start, size_bytes, pieces }))
        });
        Stepwise { plane, digest: sha256(&blob), blob, fetches, gates }
    }

    /// Asks for all of it, and takes the head and no more than came with it.
    fn ask(&self) -> Client {
        let mut client = self.plane.client();
        client.send("GET", &target(&self.digest), b"");
        let head = client.read_head().unwrap();
        assert_eq!((head.status, head.field("gantry-cache")), (200, Some("fill")));
        client
    }

    /// Reads what is to be had of step `step`, with all before it read.
    #[track_caller]
    fn read_step(&self, client: &mut Client, step: usize) {
        let end = ((step + 1) * MIB).min(self.blob.len() - HELD_BACK_BYTES as usize);
        let got = client.read_rest(end - step * MIB).unwrap();
        assert!(got == self.blob[step * MIB..end], "step {step}");
    }

    /// Lets the origin send one step more.
    fn let_go(&mut self) {
        drop(self.gates.pop_front());
    }

    fn lag_bytes(&self) -> usize {
        sample(&self.plane, "lag_bytes") as usize
    }
}

#[test]
fn who_takes_nothing_holds_up_neither_the_fill_nor_who_reads_on() {
    for leg in legs() {
        let mut origin = Stepwise::start(leg, STEPS);
        // The fill is begun for this one.
        let mut first = origin.ask();
        let mut idle: Vec<Client> = (0..IDLE).map(|_| origin.ask()).collect();
        let mut fast: Vec<Client> = (0..2).map(|_| origin.ask()).collect();
        first.read_rest(origin.blob.len() / 100).unwrap();
        let mut first = Some(first);
        for step in 0..STEPS {
            fast.iter_mut().for_each(|client| origin.read_step(client, step));
            // At the first step, so that nearly all of it comes for others.
            drop(first.take());
            if step + 1 == STEPS - 1 {
                let behind = origin.lag_bytes();
                let least = (STEPS - 1) * MIB - SOCKET_BYTES_MAX;
                assert!(behind >= least, "the others were sent all but {behind} bytes of what was there");
                assert_eq!(sample(&origin.plane, "clients"), (IDLE + fast.len()) as u64);
            }
            origin.let_go();
        }
        let held = HELD_BACK_BYTES as usize;
        for client in &mut fast {
            assert!(client.read_rest(held).unwrap() == origin.blob[origin.blob.len() - held..]);
        }
        // They were sent nothing but what their sockets hold, and nobody has cut them for that.
        for client in &mut idle {
            assert!(client.read_rest(origin.blob.len()).unwrap() == origin.blob);
        }
        assert_eq!(fetched(&origin.fetches), [(0, None)]);
        assert_eq!(sample(&origin.plane, "stops_total"), 0);
        origin.plane.end();
    }
}

#[test]
fn how_many_wait_and_how_far_the_slowest_is_behind_is_told_of_the_upstream_that_it_is() {
    const STEPS: usize = 12;
    for leg in legs() {
        let mut origin = Stepwise::start(leg, STEPS);
        let plane = &origin.plane;
        let both = |of: &Plane| (sample(of, "clients"), sample(of, "lag_bytes"));
        assert_eq!(both(plane), (0, 0), "nobody has asked");
        let mut keeps_up = origin.ask();
        for step in 0..STEPS - 1 {
            origin.read_step(&mut keeps_up, step);
            if step + 1 < STEPS - 1 {
                origin.let_go();
            }
        }
        // The origin waits: all that it has sent is here.
        until("who has it all is not behind", || both(&origin.plane) == (1, 0));
        let lags = origin.ask();
        let here = (STEPS - 1) * MIB;
        let sent_at_most = here - SOCKET_BYTES_MAX..=here;
        until("it waits as well", || sample(&origin.plane, "clients") == 2);
        assert!(sent_at_most.contains(&origin.lag_bytes()), "{} of {here}", origin.lag_bytes());
        for name in ["clients", "lag_bytes"] {
            let other = format!("gantry_fill_{name}{{upstream=\"other.test\"}}");
            assert_eq!(origin.plane.sample(&other), 0);
        }
        drop(lags);
        until("the other one counts no more", || both(&origin.plane) == (1, 0));
        origin.let_go();
        let held = HELD_BACK_BYTES as usize;
        let rest = origin.blob.len() - here;
        assert!(
            keeps_up.read_rest(rest).unwrap() == origin.blob[here..],
            "all but {held} bytes were to be had"
        );
        until("nobody waits any more", || both(&origin.plane) == (0, 0));
        // Nor does who comes from now on: it is all here.
        let mut late = origin.plane.client();
        assert!(late.get(&target(&origin.digest)).body == origin.blob);
        until("who has nothing to wait for is not counted", || both(&origin.plane) == (0, 0));
        origin.plane.end();
    }
}
