//! Fetches the gateway's explanation of a verdict for the page.
//!
//! The page sends the query of the admin listener's `/explain` and gets its response. The method,
//! path and fields are fixed, so the page cannot reach anything else on the admin listener.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Response, full_response, json};

/// The time limit for a response. The gateway responds from memory, and a rule runs for
/// milliseconds.
const RESPONSE_TIME: Duration = Duration::from_secs(5);
/// The size limit of a response; an explanation has a few KiB.
const BODY_BYTES_MAX: usize = 256 << 10;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Responds with the admin listener's explanation, or with 502 and the error.
pub(super) async fn answer(admin: Option<SocketAddr>, query: &str) -> Response {
    let Some(admin) = admin else {
        let error = "no admin listener is configured: pass one with --admin";
        return json(StatusCode::NOT_FOUND, &json!({ "error": error }));
    };
    let failure = match timeout(RESPONSE_TIME, ask(admin, query)).await {
        Ok(Ok((status, body))) => return full_response(status, "application/json", body),
        Ok(Err(failure)) => failure.to_string(),
        Err(_) => format!("no response within {} s", RESPONSE_TIME.as_secs()),
    };
    json(StatusCode::BAD_GATEWAY, &json!({ "error": format!("admin listener {admin}: {failure}") }))
}

async fn ask(admin: SocketAddr, query: &str) -> Result<(StatusCode, Bytes), Failure> {
    let stream = TcpStream::connect(admin).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::get(format!("/explain?{query}"))
        .header(header::HOST, admin.to_string())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    // The task ends with the exchange: the sender is dropped, and the request has
    // `Connection: close`.
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await?.to_bytes();
    Ok((head.status, body))
}
