//! A second opinion: hyper on a loopback socket, and httparse on the bytes.

use std::{convert::Infallible, net::SocketAddr};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::{table::Expect, vectors};
use crate::harness::sha256;

/// hyper's HTTP/1.1 server with a service that answers as a registry would, on a thread of its own.
pub struct Hyper {
    addr: SocketAddr,
}

/// What hyper made of a vector.
pub struct Opinion {
    /// In order; the service's own 4xx are among them.
    pub statuses: Vec<u16>,
    /// The parser refused the first request.
    pub refused: bool,
}

/// By these statuses the parser's refusals are told from the service's; 408 stands for a body it refused.
const PARSER_REFUSALS: [u16; 3] = [400, 408, 431];

impl Hyper {
    /// Starts it; the thread ends with the process.
    pub fn start() -> Hyper {
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
                tell.send(listener.local_addr().expect("bound")).expect("somebody waits");
                loop {
                    let (stream, _) = listener.accept().await.expect("connections come");
                    let connection =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
                    tokio::spawn(async move {
                        let _refusals_are_what_we_look_for = connection.await;
                    });
                }
            });
        });
        Hyper { addr: told.recv().expect("the thread binds") }
    }

    /// Sends the bytes and reads what comes.
    pub fn exchange(&self, bytes: &[u8]) -> Opinion {
        let outcome = vectors::exchange(self.addr, bytes, usize::MAX, &Expect::Safe(Vec::new()));
        let refused = outcome.statuses.first().is_none_or(|status| PARSER_REFUSALS.contains(status));
        Opinion { statuses: outcome.statuses, refused }
    }
}

/// 201 for a push whose body has the digest of its query, 409 for any other push, 200 and 405 as at home.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes());
    let status = match (&head.method, body) {
        (_, Err(_)) => 408,
        (&Method::GET | &Method::HEAD, Ok(_)) => 200,
        (&Method::POST, Ok(body)) => {
            let wanted = format!("digest={}", sha256(&body));
            if head.uri.query() == Some(wanted.as_str()) { 201 } else { 409 }
        }
        (_, Ok(_)) => 405,
    };
    let answer = Response::builder().status(status).body(Full::new(Bytes::new()));
    Ok(answer.expect("a status and no fields"))
}

/// Whether httparse takes the first head, with as many fields as we allow.
pub fn httparse_reads(bytes: &[u8]) -> Result<(), String> {
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => Ok(()),
        Ok(httparse::Status::Partial) => Err("there is more to come".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
