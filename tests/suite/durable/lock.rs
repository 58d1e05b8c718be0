//! One process a data directory: the second is refused, with the first one's pid.

use crate::harness::{Launch, Server, legs, noise};

legs! {
    fn a_second_process_is_refused_with_the_pid(leg) {
        let server = Server::start(leg);
        let digest = server.client().push_blob("durable/lock", &noise(850, 1000));
        let (status, said) = Launch::on(leg).refuses_on(server.data_dir());
        assert_eq!(status.code(), Some(1));
        assert!(said.contains(&server.pid().to_string()), "it names process {}: {said}", server.pid());
        assert!(!said.contains("panicked"), "{said}");
        server.client().assert_blob("durable/lock", digest, &noise(850, 1000));
        server.stop();
    }

    fn a_killed_process_holds_no_lock(leg) {
        let mut server = Server::start(leg);
        for _ in 0..3 {
            server = server.kill_and_restart();
        }
        server.client().push_blob("durable/lock", b"x");
    }
}
