//! The corpus of malformed HTTP: each vector is refused as the table says, or served with one clear meaning.
//! None that two parsers could read differently is served, and no request hidden in a body is ever answered.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use super::{
    oracle,
    table::{self, Expect, Vector},
};
use crate::harness::{Response, Server, legs, say};

/// What came back for a vector.
#[derive(Debug)]
pub struct Outcome {
    /// The statuses, in order.
    pub statuses: Vec<u16>,
    /// Whether the server ended the connection after that.
    pub ended: bool,
    /// What came that is no reply.
    pub garbage: Option<String>,
}

/// Sends the bytes on a connection of their own and reads until the end, or until nothing more comes.
/// They are sent in pieces of at most `cut` bytes.
pub fn exchange(addr: SocketAddr, bytes: &[u8], cut: usize, expect: &Expect) -> Outcome {
    let mut stream = TcpStream::connect(addr).expect("the server takes connections");
    stream.set_nodelay(true).expect("a TCP socket");
    let mut writer = stream.try_clone().expect("a socket can be shared");
    let owned = bytes.to_vec();
    let sending = std::thread::spawn(move || {
        let _answered_early = owned.chunks(cut).try_for_each(|piece| writer.write_all(piece));
    });
    let mut all = Vec::new();
    let mut ended = false;
    let begun = Instant::now();
    let mut chunk = vec![0; 64 * 1024];
    let methods = table::methods(bytes);
    loop {
        let enough = statuses(&all, &methods).0.len() >= expect.answers_at_least();
        let quiet = if enough && !expect.ends() { Duration::from_millis(40) } else { Duration::from_secs(3) };
        stream.set_read_timeout(Some(quiet)).expect("above zero");
        match stream.read(&mut chunk) {
            Ok(0) => ended = true,
            Ok(got) => all.extend_from_slice(&chunk[..got]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => ended = true,
            Err(_) => break,
        }
        if ended || begun.elapsed() > Duration::from_secs(10) {
            break;
        }
    }
    drop(stream);
    let _ = sending.join();
    let (statuses, garbage) = statuses(&all, &methods);
    Outcome { statuses, ended, garbage }
}

/// The final statuses of the replies in `all`; 100 is not one.
fn statuses(all: &[u8], methods: &[String]) -> (Vec<u16>, Option<String>) {
    let mut pending = all.to_vec();
    let mut found = Vec::new();
    while !pending.is_empty() {
        let head = methods.get(found.len()).is_some_and(|method| method == "HEAD");
        let before = pending.clone();
        match crate::harness::read_response(&mut pending, head, |_| Ok(0)) {
            Ok(Some(Response { status: 100, .. })) => {}
            Ok(Some(response)) => found.push(response.status),
            Ok(None) => break,
            Err(_) => return (found, Some(String::from_utf8_lossy(&before).into_owned())),
        }
    }
    (found, None)
}

/// `None`: as it should be.
pub fn judge(vector: &Vector, outcome: &Outcome) -> Option<String> {
    let fits = match &vector.expect {
        Expect::Refused(statuses) => refused(outcome, 0, statuses),
        Expect::Served(statuses) => outcome.statuses == *statuses,
        Expect::Safe(statuses) => outcome.statuses == *statuses || refused(outcome, 0, &[400, 501]),
        Expect::Told(statuses) => match outcome.statuses[..] {
            [] => statuses.contains(&0) && !outcome.ended,
            [one] => statuses.contains(&one),
            _ => false,
        },
        Expect::ThenRefused(first, statuses) => {
            outcome.statuses.starts_with(first) && refused(outcome, first.len(), statuses)
        }
    };
    if fits && outcome.garbage.is_none() {
        return None;
    }
    Some(format!("{}: expected {:?}, got {outcome:?}", vector.name, vector.expect))
}

/// Exactly one refusal after `before` answers, and then the end. 0 among `statuses` allows the end alone.
fn refused(outcome: &Outcome, before: usize, statuses: &[u16]) -> bool {
    let rest = outcome.statuses.get(before..).unwrap_or_default();
    let told = match rest {
        [] => statuses.contains(&0),
        [one] => statuses.contains(one),
        _ => false,
    };
    told && outcome.ended
}

legs! {
    fn none_ambiguous_is_served(leg) {
        let server = Server::start(leg);
        let vectors = table::vectors();
        assert!(vectors.len() >= 60);
        let mut wrong = Vec::new();
        let mut served = 0;
        for vector in &vectors {
            let outcome = exchange(server.addr(), &vector.bytes, usize::MAX, &vector.expect);
            wrong.extend(judge(vector, &outcome));
            served += usize::from(outcome.statuses.first().is_some_and(|status| *status < 400));
        }
        server.client().get("/v2/").expect(200);
        say(&format!("malformed HTTP on {}: {} vectors, {served} of them served", leg.name(), vectors.len()));
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), vectors.len(), wrong.join("\n"));
    }

    /// The same vectors a byte at a time: where the bytes are cut changes nothing.
    fn however_the_bytes_are_cut(leg) {
        let server = Server::start(leg);
        let mut wrong = Vec::new();
        for vector in table::vectors().iter().filter(|vector| vector.bytes.len() < 700) {
            let outcome = exchange(server.addr(), &vector.bytes, 1, &vector.expect);
            // A server that refuses early resets what still comes, and the reset may overtake its answer.
            let may_be_refused = matches!(vector.expect, Expect::Refused(_) | Expect::Safe(_) | Expect::Told(_));
            let overtaken = outcome.statuses.is_empty() && outcome.ended && may_be_refused;
            if !overtaken {
                wrong.extend(judge(vector, &outcome));
            }
        }
        assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    }

    /// Where httparse and hyper accept as well: the same number of requests, the same bodies, the same class.
    fn others_read_the_same(leg) {
        let server = Server::start(leg);
        let hyper = oracle::Hyper::start();
        let mut compared = 0;
        let mut wrong = Vec::new();
        for vector in table::vectors() {
            let ours = exchange(server.addr(), &vector.bytes, usize::MAX, &vector.expect);
            let accepted = ours.statuses.first().is_some_and(|status| *status < 400);
            if !accepted {
                continue;
            }
            if let Err(why) = oracle::httparse_reads(&vector.bytes) {
                wrong.push(format!("{}: served, and httparse says {why}", vector.name));
            }
            let theirs = hyper.exchange(&vector.bytes);
            if theirs.refused {
                say(&format!("served by us and refused by hyper: {}", vector.name));
                continue;
            }
            compared += 1;
            let classes = |statuses: &[u16]| statuses.iter().map(|status| status / 100).collect::<Vec<_>>();
            // Ours may refuse a later request where hyper's goes on; the common part has to agree.
            let common = ours.statuses.len().min(theirs.statuses.len());
            if common == 0 || classes(&ours.statuses[..common]) != classes(&theirs.statuses[..common]) {
                wrong.push(format!("{}: ours {:?}, hyper {:?}", vector.name, ours.statuses, theirs.statuses));
            }
        }
        assert!(compared >= 15, "only {compared} vectors were accepted by both");
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
