//! A web server for tests: routes are data, faults are used up in order, every request is written down.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Response, header};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What a path answers.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Whether ranges are served.
    pub(super) ranges: bool,
    /// The only `Authorization` that is let in.
    pub(super) auth: Option<String>,
    /// What one who is not let in is told.
    pub(super) challenge: Option<String>,
}

impl Route {
    pub(super) fn file(body: Vec<u8>) -> Route {
        Route { status: 200, headers: Vec::new(), body, ranges: true, auth: None, challenge: None }
    }

    pub(super) fn json(body: &str) -> Route {
        Route { ranges: false, ..Route::file(body.as_bytes().to_vec()) }
    }

    pub(super) fn status(status: u16) -> Route {
        Route { status, ..Route::json("") }
    }

    pub(super) fn redirect(to: &str) -> Route {
        Route::status(302).with("location", to)
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Route {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn without_ranges(self) -> Route {
        Route { ranges: false, ..self }
    }

    pub(super) fn guarded(self, auth: &str) -> Route {
        Route { auth: Some(auth.to_owned()), ..self }
    }
}

/// What goes wrong once.
pub(super) enum Fault {
    /// The connection breaks after so many bytes of the body.
    Cut(usize),
    /// Nothing more comes after so many bytes of the body.
    Hang(usize),
    /// Another answer.
    Answer(Route),
}

/// What was asked.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) path: String,
    pub(super) range: Option<String>,
    pub(super) auth: Option<String>,
}

#[derive(Default)]
struct State {
    routes: BTreeMap<String, Route>,
    faults: BTreeMap<String, VecDeque<Fault>>,
    seen: Vec<Seen>,
}

/// A server on a port of its own.
#[derive(Clone)]
pub(super) struct Server {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    hangs: watch::Receiver<usize>,
}

impl Server {
    pub(super) async fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let (hanging, hangs) = watch::channel(0);
        let shared = Arc::clone(&state);
        let app = axum::Router::new().fallback(move |request: Request| {
            let response = answer(&shared, &request, &hanging);
            async move { response }
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        Server { state, address, hangs }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    /// The part after the question mark belongs to the path.
    pub(super) fn route(&self, path: &str, route: Route) {
        self.state.lock().unwrap().routes.insert(path.to_owned(), route);
    }

    pub(super) fn fault(&self, path: &str, fault: Fault) {
        self.state.lock().unwrap().faults.entry(path.to_owned()).or_default().push_back(fault);
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    /// Ranges that were asked of a path since the last look.
    pub(super) fn ranges(&self, path: &str) -> Vec<String> {
        let seen = std::mem::take(&mut self.state.lock().unwrap().seen);
        seen.into_iter().filter(|seen| seen.path == path).filter_map(|seen| seen.range).collect()
    }

    /// Waits until so many answers hang.
    pub(super) async fn hung(&self, answers: usize) {
        self.hangs.clone().wait_for(|hangs| *hangs >= answers).await.unwrap();
    }
}

fn answer(state: &Mutex<State>, request: &Request, hanging: &watch::Sender<usize>) -> Response<Body> {
    let path = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
    let text = |name: header::HeaderName| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
    let (range, auth) = (text(header::RANGE), text(header::AUTHORIZATION));
    let mut state = state.lock().unwrap();
    state.seen.push(Seen { path: path.clone(), range: range.clone(), auth: auth.clone() });
    let fault = state.faults.get_mut(&path).and_then(VecDeque::pop_front);
    let mut route = state.routes.get(&path).cloned().unwrap_or_else(|| Route::status(404));
    let (mut limit, mut hangs) = (usize::MAX, false);
    match fault {
        Some(Fault::Answer(other)) => route = other,
        Some(Fault::Cut(after)) => limit = after,
        Some(Fault::Hang(after)) => (limit, hangs) = (after, true),
        None => {}
    }
    if route.auth.is_some() && route.auth != auth {
        let challenge =
            route.challenge.iter().map(|text| ("www-authenticate".to_owned(), text.clone())).collect();
        route = Route { headers: challenge, ..Route::status(401) };
    }
    let if_range = text(header::IF_RANGE);
    let tag = route.headers.iter().find(|(name, _)| name == "etag").map(|(_, value)| value.clone());
    let current = if_range.is_none() || if_range == tag;
    let mut response = Response::builder().status(route.status);
    for (name, value) in &route.headers {
        response = response.header(name, value);
    }
    let mut body = Bytes::from(route.body);
    if let Some(range) = range.filter(|_| route.ranges && route.status == 200 && current) {
        let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let (start, end) = (start.parse::<usize>().unwrap(), end.parse().unwrap_or(usize::MAX));
        if start >= body.len() {
            return response.status(416).body(Body::empty()).unwrap();
        }
        let end = body.len().min(end.saturating_add(1));
        response =
            response.status(206).header("content-range", format!("bytes {start}-{}/{}", end - 1, body.len()));
        body = body.slice(start..end);
    }
    response = response.header(header::CONTENT_LENGTH, body.len());
    if limit >= body.len() {
        return response.body(Body::from(body)).unwrap();
    }
    let begun = stream::iter([Ok::<_, std::io::Error>(body.slice(..limit))]);
    if hangs {
        hanging.send_modify(|hangs| *hangs += 1);
        return response.body(Body::from_stream(begun.chain(stream::pending()))).unwrap();
    }
    // What has begun is sent before the connection breaks, because there is nothing more to send for a moment.
    let cut = stream::once(async {
        tokio::task::yield_now().await;
        Err(std::io::ErrorKind::ConnectionReset.into())
    });
    response.body(Body::from_stream(begun.chain(cut))).unwrap()
}

impl Server {
    /// What a path answers now.
    pub(super) fn current(&self, path: &str) -> Route {
        self.state.lock().unwrap().routes[path].clone()
    }
}
