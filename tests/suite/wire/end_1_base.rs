//! end-1: the base of the API says what it is, and `/v2/` alone is it.

use crate::harness::{Server, legs};

legs! {
    fn get_says_what_it_is(leg) {
        let server = Server::start(leg);
        let answer = server.client().get("/v2/").expect(200);
        assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");
    }

    fn head_is_get_without_a_body(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let get = client.get("/v2/").expect(200);
        let head = client.head("/v2/").expect(200);
        assert_eq!(head.header("content-length"), get.header("content-length"));
        assert!(head.body.is_empty());
    }

    fn other_methods_are_refused_with_allow(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            let answer = client.request(method, "/v2/").send().refused(405, "UNSUPPORTED");
            assert!(answer.header("allow").contains("GET"), "{}", answer.text());
        }
    }

    fn one_connection_serves_many_requests(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        client.get("/v2/").expect(200);
        let local = client.stream().local_addr().unwrap();
        for _ in 0..50 {
            client.get("/v2/").expect(200);
        }
        assert_eq!(client.stream().local_addr().unwrap(), local, "the connection was kept");
    }
}
