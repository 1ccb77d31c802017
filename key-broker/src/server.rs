//! TLS and HTTP around the [`Broker`]: limits, deadlines, paths.
//!
//! TLS 1.3 only, HTTP/1.1 only. A connection costs at most one body of
//! [`MAX_BODY`] and ends after [`CONNECTION_TIME`], whatever it does. Its place
//! is free when its last decision is made, which may be later.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::broker::{Broker, Reply};
use crate::log::Log;
use crate::protocol::COOKIE;
use crate::refusal::Refusal;
use crate::store::{self, Store};

/// Trustee's `payload_request_size`.
const MAX_BODY: usize = 2 * 1024 * 1024;
/// A bearer token is about 6 KiB.
const MAX_HEADERS: usize = 64 * 1024;
const MAX_CONNECTIONS: usize = 128;
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
const HEADER_TIME: Duration = Duration::from_secs(10);
const BODY_TIME: Duration = Duration::from_secs(10);
const CONNECTION_TIME: Duration = Duration::from_secs(60);
/// After running out of descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Choices for [`serve`].
#[derive(Debug)]
pub struct ServeOptions {
    /// How long a session and its token last, from the challenge.
    pub session: Duration,
    /// How many sessions are kept.
    pub sessions: usize,
    /// Where decisions are written down.
    pub log: Log,
    /// A directory of certificates, CRLs and collateral, beside the store's.
    pub endorsements: Option<PathBuf>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            session: Duration::from_secs(300),
            sessions: 4096,
            log: Log::stderr(),
            endorsements: None,
        }
    }
}

/// Why the broker does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The certificate and key in the store do not make a TLS server.
    #[error("cannot use the server certificate: {0}")]
    Tls(#[from] rustls::Error),
}

/// Serves until the future is dropped; that also ends all connections.
///
/// # Errors
/// The store's certificate or keys cannot be used. Later errors end single
/// connections only.
pub async fn serve(
    store: Store,
    listener: TcpListener,
    options: ServeOptions,
) -> Result<(), ServeError> {
    let acceptor = TlsAcceptor::from(Arc::new(tls(&store)?));
    let broker = Broker::new(store, options.session, options.sessions, options.log)?;
    let broker = Arc::new(broker.with_endorsements(options.endorsements));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // A place first: what has none waits in the kernel's backlog.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return Ok(());
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let app = router(Client {
                    broker: Arc::clone(&broker),
                    peer,
                    _place: Arc::new(place),
                });
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    // An end by deadline, by the client or by a TLS error is an
                    // end; nothing was decided that is not in the log.
                    drop(timeout(CONNECTION_TIME, connection(stream, acceptor, app)).await);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

fn tls(store: &Store) -> Result<ServerConfig, ServeError> {
    let (chain, key) = store.server_identity()?;
    // ring's defaults hold what our guests offer: TLS13_AES_128_GCM_SHA256,
    // secp256r1, ECDSA_P256_SHA256.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, app: Router) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let stream = timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await??;
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app))
        .await
        .map_err(io::Error::other)
}

#[derive(Clone)]
struct Client {
    broker: Arc<Broker>,
    peer: SocketAddr,
    /// Held while any part of the connection or a decision for it goes on.
    _place: Arc<OwnedSemaphorePermit>,
}

fn router(client: Client) -> Router {
    Router::new()
        .route("/kbs/v0/auth", post(auth))
        .route("/kbs/v0/attest", post(attest))
        // Without its own HEAD, axum would decide one as a GET and throw the
        // resource away, after the boot's right to it was used.
        .route("/kbs/v0/{plugin}/{*path}", get(plugin).head(method))
        .fallback(|client: State<Client>, request: Request| outside(client, request, Refusal::Path))
        .method_not_allowed_fallback(method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(client)
}

async fn auth(State(client): State<Client>, request: Request) -> Response {
    match body(request).await {
        Ok(body) => decide(client, move |c| c.broker.auth(c.peer, &body)).await,
        Err(refusal) => decide(client, move |c| c.broker.refuse(c.peer, "auth", refusal)).await,
    }
}

async fn attest(State(client): State<Client>, request: Request) -> Response {
    let cookie = cookie(request.headers());
    match body(request).await {
        Ok(body) => {
            decide(client, move |c| {
                c.broker.attest(c.peer, cookie.as_deref(), &body)
            })
            .await
        }
        Err(refusal) => decide(client, move |c| c.broker.refuse(c.peer, "attest", refusal)).await,
    }
}

async fn plugin(State(client): State<Client>, request: Request) -> Response {
    let (cookie, bearer) = (cookie(request.headers()), bearer(request.headers()));
    let path = request.uri().path().to_owned();
    decide(client, move |c| {
        match path.strip_prefix("/kbs/v0/resource/") {
            Some(path) => c
                .broker
                .resource(c.peer, cookie.as_deref(), bearer.as_deref(), path),
            None => c.broker.refuse(c.peer, &path, Refusal::Plugin),
        }
    })
    .await
}

async fn method(client: State<Client>, request: Request) -> Response {
    outside(client, request, Refusal::Method).await
}

async fn outside(State(client): State<Client>, request: Request, refusal: Refusal) -> Response {
    let path = request.uri().path().to_owned();
    decide(client, move |c| c.broker.refuse(c.peer, &path, refusal)).await
}

async fn body(request: Request) -> Result<Bytes, Refusal> {
    match timeout(BODY_TIME, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(rejected)) if rejected.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(Refusal::Size)
        }
        Ok(Err(_)) => Err(Refusal::Request),
        Err(_) => Err(Refusal::Timeout),
    }
}

/// Decisions read files and compute signatures, so they run where they may
/// block.
async fn decide(
    client: Client,
    decision: impl FnOnce(&Client) -> Reply + Send + 'static,
) -> Response {
    let reply = tokio::task::spawn_blocking(move || decision(&client)).await;
    reply.map_or_else(|_| status(StatusCode::INTERNAL_SERVER_ERROR), response)
}

fn response(reply: Reply) -> Response {
    let code = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::new(Body::from(reply.body));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    if code == StatusCode::OK {
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
    }
    if let Some(cookie) = reply.cookie.and_then(|c| HeaderValue::try_from(c).ok()) {
        headers.insert(header::SET_COOKIE, cookie);
    }
    response
}

fn status(code: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code;
    response
}

/// The session cookie (RFC 6265 section 5.4).
fn cookie(headers: &HeaderMap) -> Option<String> {
    let lines = headers.get_all(header::COOKIE).iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, value)| value.to_owned())
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim().to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failure here is a failed test")]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::store::InitOptions;

    #[tokio::test]
    async fn a_decision_keeps_its_place_after_its_connection_ended() {
        let dir = tempfile::tempdir().unwrap();
        let options = InitOptions::new(vec!["localhost".into()], 30);
        let store = Store::init(&dir.path().join("store"), &options).unwrap();
        let lifetime = Duration::from_secs(300);
        let broker = Broker::new(store, lifetime, 1, Log::writer(io::sink())).unwrap();
        let places = Arc::new(Semaphore::new(1));
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        let client = Client {
            broker: Arc::new(broker),
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
            _place: Arc::new(place),
        };
        let (begun, is_begun) = mpsc::channel();
        let (finish, may_finish) = mpsc::channel::<()>();
        let connection = tokio::spawn(decide(client, move |client| {
            begun.send(()).unwrap();
            may_finish.recv().unwrap();
            client.broker.auth(client.peer, b"")
        }));
        tokio::task::yield_now().await;
        is_begun.recv().unwrap();
        connection.abort();
        assert!(connection.await.unwrap_err().is_cancelled());
        assert_eq!(places.available_permits(), 0);
        finish.send(()).unwrap();
        drop(timeout(BODY_TIME, places.acquire()).await.unwrap().unwrap());
    }
}
